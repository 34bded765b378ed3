"""What all services have in common: a life in the pipeline, settings that change in mid-call, and measurements.

A service's frames are handled inside the push; whatever must wait (a socket, a request) is a task of the service's
own. StartFrame goes on at once: `start` may connect for as long as it takes, and what comes meanwhile is kept.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from bots.services.settings import ServiceSettings, is_given
from media.errors import ServiceError
from media.events import DONE, Handle, MaybeAwaitable
from media.frames import (
    CancelFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    InterruptionFrame,
    ManuallySwitchServiceFrame,
    MetricsFrame,
    ServiceSwitcherRequestMetadataFrame,
    ServiceUpdateSettingsFrame,
    StartFrame,
)
from media.metrics import (
    LLMTokenUsage,
    LLMUsageMetricsData,
    MetricsData,
    ProcessingMetricsData,
    TextAggregationMetricsData,
    TTFBMetricsData,
    TTSUsageMetricsData,
)
from media.processor import FrameDirection, FrameProcessor

log = logging.getLogger(__name__)

T = TypeVar("T")

FUNCTION_FAILED = "function_failed"  # in the metadata of an ErrorFrame: it is not the service that failed

# What an `async def` of a provider may give: frames, or None where there is nothing to push yet.
Frames = AsyncGenerator[Frame | None, None]


class AIService(FrameProcessor):
    """The base of STT, LLM and TTS services.

    A provider overrides `start`, `stop` and `cancel` (each may be `async def`), and what its kind of service asks for.
    """

    Settings: ClassVar[type[ServiceSettings]] = ServiceSettings
    update_frame: ClassVar[type[ServiceUpdateSettingsFrame]] = ServiceUpdateSettingsFrame
    patience_s: float | None = None  # without a sign of life while something is awaited, until that is an error
    observer: Callable[[str, float], None] | None = None  # told of each measurement: "ttfb_s", "tokens", "characters"

    def __init__(self, *, settings: ServiceSettings | None = None, metrics: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        own = self.Settings()
        self._settings: Any = own.joined_with(settings) if settings is not None else own
        self._tasks: set[Any] = set()
        self._ready: Any = None  # the task in which `start` runs, while it does
        self._started_at: dict[str, float] = {}  # of what is being measured
        self._told_ttfb = False

    # ------------------------------------------------------------ to be overridden

    def start(self, frame: StartFrame) -> MaybeAwaitable:
        """Connect. Runs beside the frames; `when_ready` waits for it."""
        return DONE

    def stop(self, frame: EndFrame) -> MaybeAwaitable:
        """The pipeline ends when what came before has been done."""
        return DONE

    def cancel(self, frame: CancelFrame) -> MaybeAwaitable:
        """The pipeline ends now."""
        return DONE

    def release(self) -> MaybeAwaitable:
        """Close what is open. The last that is called, however the pipeline has ended."""
        return DONE

    def settings_changed(self, changed: set[str]) -> MaybeAwaitable:
        """`self._settings` is new, `changed` are the names of the fields; a socket may have to be opened anew."""
        return DONE

    def can_generate_metrics(self) -> bool:
        return True

    # ------------------------------------------------------------ settings

    @property
    def settings(self) -> Any:
        return self._settings

    @property
    def model_name(self) -> str:
        model = self._settings.model
        return str(model) if is_given(model) and model is not None else ""

    def set_model_name(self, model: str) -> None:
        self._settings = self._settings.joined_with(self.Settings(model=model))

    def _take_settings(self, frame: ServiceUpdateSettingsFrame) -> bool:
        """Whether the frame is for this service."""
        if frame.service is not None and frame.service is not self:
            return False
        delta = frame.delta if frame.delta is not None else self.Settings.from_mapping(frame.settings)
        before, self._settings = self._settings, self._settings.joined_with(delta)
        if changed := before.changed_by(self._settings):
            log.debug("service.settings service=%s changed=%s", self, ",".join(sorted(changed)))
            self._let(self.settings_changed(changed), "settings")
        return True

    # ------------------------------------------------------------ frames

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        """What every service does with a frame. Pushes nothing: a subclass does, unless `handled` says otherwise."""
        if isinstance(frame, StartFrame):
            self._begin(frame)
        elif isinstance(frame, EndFrame):
            self._let(self.stop(frame), "stop")
        elif isinstance(frame, CancelFrame):
            self._let(self.cancel(frame), "cancel")
        elif isinstance(frame, InterruptionFrame):
            self._started_at.clear()
        return DONE

    def _begin(self, frame: StartFrame) -> None:
        started = self.start(frame)
        if started is not None and started is not DONE:
            self._ready = self._let(self._starting(started), "start")

    async def _starting(self, started: Awaitable[Any]) -> None:
        try:
            await started
        except Exception as exc:
            self.fail(exc)
        finally:
            self._ready = None

    async def when_ready(self) -> None:
        """Wait until `start` is done, well or not."""
        ready = self._ready
        if ready is not None:
            await self.runtime.settle((ready,))

    def handled(self, frame: Frame, direction: FrameDirection) -> bool:
        """Whether the frame was for this service alone, and goes no further."""
        if isinstance(frame, self.update_frame):
            return self._take_settings(frame)
        if isinstance(frame, ServiceSwitcherRequestMetadataFrame):
            return frame.service is self
        return isinstance(frame, ManuallySwitchServiceFrame) and frame.service is self

    def push_each(self, generator: Frames | Awaitable[Any]) -> Coroutine[Any, Any, None]:
        """Push what an `async def` gives: frames of a generator, or of nothing else."""
        return self._push_each(generator)

    process_generator = push_each

    async def _push_each(self, generator: Any) -> None:
        if not isinstance(generator, AsyncGenerator):
            await generator
            return
        frame: Frame | None
        async for frame in generator:
            if frame is not None:
                self._push_or_fail(frame)

    def _push_or_fail(self, frame: Frame) -> None:
        if isinstance(frame, ErrorFrame):
            self.push_error_frame(frame)
        else:
            self.push_frame(frame)

    # ------------------------------------------------------------ tasks and errors

    def _let(self, work: MaybeAwaitable, name: str) -> Handle | None:
        """Let `work` go on as a task of this service, if it waits at all."""
        if work is None or work is DONE:
            return None
        return self.run_beside(work if inspect.iscoroutine(work) else _awaited(work), name)

    def run_beside(self, coro: Coroutine[Any, Any, Any], name: str) -> Handle:
        """A task that ends with the service."""
        task = self.create_task(coro, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task  # type: ignore[no-any-return]

    def fail(self, exc: BaseException, what: str = "") -> None:
        """A request failed: an ErrorFrame, so that a switcher can take another service, and the call's policy act."""
        problem = f"{type(exc).__name__}: {exc}"
        if isinstance(exc, ServiceError):  # nothing is wrong with the code: the log needs the words, and no traceback
            problem = str(exc)
            exc.__traceback__ = exc.__cause__ = exc.__context__ = None
        self.push_error(f"{what}: {problem}" if what else problem, exc if isinstance(exc, Exception) else None)

    def cleanup(self) -> MaybeAwaitable:
        for task in tuple(self._tasks):
            task.cancel()
        done = super().cleanup()
        holds = type(self).release is not AIService.release
        return self._cleaned(done) if self._tasks or holds else done

    async def _cleaned(self, done: MaybeAwaitable) -> None:
        await self.runtime.settle(tuple(self._tasks))
        released = self.release()
        if released is not None:
            await released
        if done is not None:
            await done

    # ------------------------------------------------------------ handing over

    def relinquish(self) -> Sequence[Frame]:
        """Another service takes this one's place: let go of what is being done; gives what the other is to do."""
        return ()

    def take_over(self, frames: Iterable[Frame]) -> None:
        """Do what a service of this kind has left undone."""
        for frame in frames:
            self.queue_frame(frame)

    # ------------------------------------------------------------ measurements

    def _now(self) -> float:
        return self.get_clock().get_time() / 1e9  # type: ignore[no-any-return]

    def _measured(self, *records: MetricsData) -> None:
        self.push_frame(MetricsFrame(list(records)))

    def start_ttfb_metrics(self, *, start_time: float | None = None) -> Awaitable[None]:
        if not (self.report_only_initial_ttfb and self._told_ttfb):
            self._started_at["ttfb"] = self._now() if start_time is None else start_time
        return DONE

    def stop_ttfb_metrics(self, *, end_time: float | None = None) -> Awaitable[None]:
        began = self._started_at.pop("ttfb", None)
        if began is not None:
            value = (self._now() if end_time is None else end_time) - began
            self._told_ttfb = True
            self.observed("ttfb_s", value)
            if self.metrics_enabled:
                self._measured(TTFBMetricsData(processor=self.name, model=self.model_name, value=value))
        return DONE

    def start_processing_metrics(self, *, start_time: float | None = None) -> Awaitable[None]:
        self._started_at["processing"] = self._now() if start_time is None else start_time
        return DONE

    def stop_processing_metrics(self, *, end_time: float | None = None) -> Awaitable[None]:
        began = self._started_at.pop("processing", None)
        if began is not None and self.metrics_enabled:
            value = (self._now() if end_time is None else end_time) - began
            self._measured(ProcessingMetricsData(processor=self.name, model=self.model_name, value=value))
        return DONE

    def start_text_aggregation_metrics(self) -> Awaitable[None]:
        self._started_at.setdefault("aggregation", self._now())
        return DONE

    def stop_text_aggregation_metrics(self) -> Awaitable[None]:
        began = self._started_at.pop("aggregation", None)
        if began is not None and self.metrics_enabled:
            value = self._now() - began
            self._measured(TextAggregationMetricsData(processor=self.name, value=value))
        return DONE

    def start_llm_usage_metrics(self, tokens: LLMTokenUsage) -> Awaitable[None]:
        self.observed("tokens", tokens.total_tokens)
        if self.usage_metrics_enabled:
            self._measured(LLMUsageMetricsData(processor=self.name, model=self.model_name, value=tokens))
        return DONE

    def start_tts_usage_metrics(self, text: str) -> Awaitable[None]:
        self.observed("characters", len(text))
        if self.usage_metrics_enabled:
            self._measured(TTSUsageMetricsData(processor=self.name, model=self.model_name, value=len(text)))
        return DONE

    def stop_all_metrics(self) -> Awaitable[None]:
        self._started_at.clear()
        return DONE

    def observed(self, what: str, value: float) -> None:
        """Something was measured, whether or not anybody asked for MetricsFrames; for the call's own record."""
        if self.observer is not None:
            self.observer(what, value)


async def _awaited(work: Awaitable[T]) -> T:
    return await work
