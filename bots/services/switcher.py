"""Several services in one place, of which one is at work: chosen by hand, or the next when one fails.

A service that fails hands over what it had not finished: an answer of which nothing was said, sentences that were not
spoken, speech that has no transcript. So a failure costs time, and no words.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bots.services.base import FUNCTION_FAILED, AIService
from bots.services.llm import FunctionHandler, LLMService
from media.events import DONE, BaseObject, MaybeAwaitable, drive_without_loop
from media.flow import DOWNSTREAM, UPSTREAM
from media.frames import (
    CancelFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    LLMConfigureOutputFrame,
    ManuallySwitchServiceFrame,
    ServiceSwitcherRequestMetadataFrame,
    StartFrame,
    StopFrame,
    STTMuteFrame,
)
from media.pipeline import ParallelPipeline
from media.processor import FrameDirection, FrameProcessor

log = logging.getLogger(__name__)

# What every service must know, also one that is not at work.
_FOR_ALL = (StartFrame, EndFrame, CancelFrame, StopFrame, STTMuteFrame, LLMConfigureOutputFrame)

REST_S = 30.0  # how long a service that has failed is not tried again, where another one is left


class ServiceSwitcherStrategy(BaseObject):
    """Decides which of `services` is at work; the first is, to begin with.

    Override `handle_frame` or `handle_error`; each gives the service to go on with, or None. Either may be `async`, if
    it does not wait. Event: on_service_switched(service).
    """

    def __init__(self, services: Sequence[FrameProcessor]) -> None:
        super().__init__()
        if not services:
            raise ValueError("a switcher needs at least one service")
        self.services = list(services)
        self._active = self.services[0]
        self._register_event_handler("on_service_switched")

    @property
    def active_service(self) -> FrameProcessor:
        return self._active

    def handle_frame(self, frame: Frame, direction: FrameDirection) -> Any:
        """A ServiceSwitcherFrame has come."""
        return None

    def handle_error(self, error: ErrorFrame) -> Any:
        """The active service has told of an error that is not fatal."""
        return None

    def _set(self, service: FrameProcessor) -> None:
        self._active = service


class ServiceSwitcherStrategyManual(ServiceSwitcherStrategy):
    """A ManuallySwitchServiceFrame names the service."""

    def handle_frame(self, frame: Frame, direction: FrameDirection) -> Any:
        if isinstance(frame, ManuallySwitchServiceFrame) and frame.service in self.services:
            return frame.service
        return None


class ServiceSwitcherStrategyFailover(ServiceSwitcherStrategyManual):
    """The next one when one fails, and the first behind the last. Going back is up to the program."""

    def handle_error(self, error: ErrorFrame) -> Any:
        if len(self.services) < 2:
            return None
        return self.services[(self.services.index(self._active) + 1) % len(self.services)]


class RestingFailover(ServiceSwitcherStrategyManual):
    """The next one that has not failed of late. Event on_exhausted(error): there is none."""

    def __init__(self, services: Sequence[FrameProcessor]) -> None:
        super().__init__(services)
        self._failed_at: dict[FrameProcessor, float] = {}
        self._register_event_handler("on_exhausted")

    def failed(self, service: FrameProcessor) -> None:
        """Also one that is not at work may be known to be of no use."""
        self._failed_at[service] = self._now(service)

    def handle_error(self, error: ErrorFrame) -> Any:
        self.failed(self._active)
        at = self.services.index(self._active)
        for service in (*self.services[at + 1 :], *self.services[:at]):
            failed_at = self._failed_at.get(service)
            if failed_at is None or self._now(service) - failed_at > REST_S:
                return service
        self._call_event_handler("on_exhausted", error)
        return None

    def _now(self, service: FrameProcessor) -> float:
        return service.runtime.now()


class _Gate(FrameProcessor):
    """One side of a service: lets through what goes to the active one, or comes from it."""

    def __init__(self, switcher: ServiceSwitcher, service: FrameProcessor, inwards: FrameDirection) -> None:
        super().__init__()
        self._switcher, self._service, self._inwards = switcher, service, inwards

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        from_service = direction is UPSTREAM and self._inwards is DOWNSTREAM
        if self._switcher.active_service is self._service:
            if direction is DOWNSTREAM and self._inwards is UPSTREAM and self._switcher.is_ending(frame):
                return DONE
            if from_service and isinstance(frame, ErrorFrame):
                self._switcher.service_failed(self._service, frame)
            return self.push_frame(frame, direction)
        if isinstance(frame, _FOR_ALL) or getattr(frame, "service", None) is self._service:
            return self.push_frame(frame, direction)
        if from_service and isinstance(frame, ErrorFrame):
            self._switcher.service_failed(self._service, frame)
        return DONE


class ServiceSwitcher(ParallelPipeline):
    """Of `services` (recognisers, models, voices, or any processors of one kind), one gets the frames.

    All are started at once, so the others are connected when they are needed. `on_failure(service, error)` is told of
    every error, whatever the strategy makes of it. Event: on_service_switched(service), here and on `strategy`.
    """

    def __init__(
        self,
        services: Sequence[FrameProcessor],
        strategy_type: Callable[[Sequence[FrameProcessor]], ServiceSwitcherStrategy] = ServiceSwitcherStrategyManual,
    ) -> None:
        self._strategy = strategy_type(services)
        self._services = self._strategy.services
        self._bottoms = [_Gate(self, each, UPSTREAM) for each in self._services]
        super().__init__(
            *(
                [_Gate(self, each, DOWNSTREAM), each, bottom]
                for each, bottom in zip(self._services, self._bottoms, strict=True)
            )
        )
        self._owed: tuple[Frame, _Gate] | None = None  # an end that stood behind what was handed over
        self.on_failure: Callable[[FrameProcessor, ErrorFrame], None] | None = None
        self._register_event_handler("on_service_switched")

    @property
    def strategy(self) -> ServiceSwitcherStrategy:
        return self._strategy

    @property
    def services(self) -> list[FrameProcessor]:
        return list(self._services)

    @property
    def active_service(self) -> FrameProcessor:
        return self._strategy.active_service

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if isinstance(frame, ManuallySwitchServiceFrame):
            self._switch_to(_now(self._strategy.handle_frame(frame, direction)))
            if frame.service in self._services:
                return DONE
        return super().process_frame(frame, direction)

    def is_ending(self, frame: Frame) -> bool:
        """Whether a frame of the active service has left already, because an EndFrame waits for what it says.

        Branches that end together would keep what they say until all have ended; here only one says anything.
        """
        if self._owed is not None and frame is self._owed[0]:
            owed, self._owed = self._owed, None
            owed[1].push_frame(frame)  # the end that the service before had not come to
            return True
        if isinstance(self._awaited, EndFrame) and not isinstance(frame, _FOR_ALL):
            self.push_frame(frame)
            return True
        return False

    def service_failed(self, service: FrameProcessor, error: ErrorFrame) -> None:
        """An error that is not fatal: what the strategy says is done. A function that failed is no fault of a model."""
        if error.fatal or FUNCTION_FAILED in error.metadata:
            return
        if error.processor is not service and error.processor not in service.processors:
            return  # on its way up from somebody else
        if self.on_failure is not None:
            self.on_failure(service, error)
        if service is self.active_service:
            self._switch_to(_now(self._strategy.handle_error(error)))
        elif isinstance(self._strategy, RestingFailover):
            self._strategy.failed(service)

    def _switch_to(self, service: FrameProcessor | None) -> None:
        old = self.active_service
        if service is None or service is old:
            return
        undone = old.relinquish() if isinstance(old, AIService) else ()  # it still has the word
        for frame in undone:
            if isinstance(frame, EndFrame | StopFrame):
                self._owed = frame, self._bottoms[self._services.index(old)]
        self._strategy._set(service)
        log.warning("service.switched from=%s to=%s", old, service)
        if isinstance(service, AIService):
            service.queue_frame(ServiceSwitcherRequestMetadataFrame(service))
            service.take_over(undone)
        self._strategy._call_event_handler("on_service_switched", service)
        self._call_event_handler("on_service_switched", service)


def _now(result: Any) -> Any:
    """What a method gives that may be `async`, and does not wait."""
    if not inspect.iscoroutine(result):
        return result
    found: list[Any] = [None]

    async def collect() -> None:
        found[0] = await result

    drive_without_loop(collect(), "ServiceSwitcherStrategy")
    return found[0]


class LLMSwitcher(ServiceSwitcher):
    """Of several models, one answers. Functions are registered with all of them."""

    def __init__(
        self,
        llms: Sequence[LLMService],
        strategy_type: Callable[[Sequence[FrameProcessor]], ServiceSwitcherStrategy] = ServiceSwitcherStrategyManual,
    ) -> None:
        super().__init__(llms, strategy_type)

    @property
    def llms(self) -> list[LLMService]:
        return [each for each in self._services if isinstance(each, LLMService)]

    @property
    def active_llm(self) -> LLMService:
        active = self.active_service
        assert isinstance(active, LLMService)
        return active

    def run_inference(self, context: Any, **options: Any) -> Awaitable[str | None]:
        """One answer of the active model as text, outside the pipeline."""
        return self.active_llm.run_inference(context, **options)

    def register_function(
        self, function_name: str | None, handler: FunctionHandler, *args: Any, **options: Any
    ) -> None:
        for llm in self.llms:
            llm.register_function(function_name, handler, *args, **options)

    def register_direct_function(self, handler: Callable[..., Awaitable[Any]], **options: Any) -> None:
        for llm in self.llms:
            llm.register_direct_function(handler, **options)
