"""What happens in a pipeline, told to an RTVI client."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

import structlog
from pydantic import BaseModel

from bots.context.context import LLMContext, text_of
from bots.rtvi import models as RTVI
from bots.rtvi.processor import RTVIProcessor
from bots.rtvi.segments import Segments
from media.events import DONE, MaybeAwaitable
from media.frames import (
    AggregatedTextFrame,
    AggregationType,
    AudioRawFrame,
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    FunctionCallCancelFrame,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    MetricsFrame,
    OutputAudioRawFrame,
    RTVIServerMessageFrame,
    RTVIServerResponseFrame,
    TranscriptionFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    UserMuteStartedFrame,
    UserMuteStoppedFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from media.metrics import LLMUsageMetricsData, ProcessingMetricsData, TTFBMetricsData, TTSUsageMetricsData
from media.observers import BaseObserver, FramePushed
from media.output import OutputStage
from media.vad import volume_of

REMEMBERED = 512  # frames that were told; a frame passes each processor, and a broadcast one has a twin
_SENTENCE_ENDS = (".", "!", "?", "。", "！", "？")


class RTVIFunctionCallReportLevel(StrEnum):
    """How much a client may know of a function call."""

    DISABLED = "disabled"  # nothing
    NONE = "none"  # that there is one: its id
    NAME = "name"  # its name too
    FULL = "full"  # its arguments and result too


Transform = Callable[[str, Any], Any]  # (text, aggregation type) -> text, or an awaitable of it
Tells = Callable[[Any, Any, FramePushed], MaybeAwaitable]  # (observer, frame, data)


@dataclass(kw_only=True)
class RTVIObserverParams:
    """What a client is told."""

    bot_output_enabled: bool = True
    bot_llm_enabled: bool = True
    bot_tts_enabled: bool = True
    bot_speaking_enabled: bool = True
    bot_audio_level_enabled: bool = False
    user_llm_enabled: bool = True
    user_speaking_enabled: bool = True
    user_mute_enabled: bool = True
    user_transcription_enabled: bool = True
    user_audio_level_enabled: bool = False
    metrics_enabled: bool = True
    system_logs_enabled: bool = False
    errors_enabled: bool = True
    ignored_sources: Sequence[Any] = ()  # processors whose frames are not told
    skip_aggregator_types: Sequence[AggregationType | str] = ()  # turn bot_llm off too, or the model's text tells it
    bot_output_transforms: Sequence[tuple[AggregationType | str, Transform]] = ()  # "*": of every type
    audio_level_period_secs: float = 0.15
    function_call_report_level: Mapping[str, RTVIFunctionCallReportLevel] = field(
        default_factory=lambda: {"*": RTVIFunctionCallReportLevel.NONE}
    )


class RTVIObserver(BaseObserver):
    """Tells the client of `rtvi`. Frames that nobody asked to be told of are not even recorded."""

    def __init__(self, rtvi: RTVIProcessor | None = None, *, params: RTVIObserverParams | None = None) -> None:
        super().__init__()
        self._rtvi = rtvi
        self._params = p = params or RTVIObserverParams()
        self._ignored = {id(source) for source in p.ignored_sources}
        self._told: dict[int, None] = {}
        self._sentence = ""
        self._segments = Segments()
        self._next_level = {"user": 0.0, "bot": 0.0}
        self._logs: _Logs | None = None
        self._handlers: dict[type, Tells | None] = {
            cls: getattr(type(self), tells) if isinstance(tells, str) else tells
            for asked_by, cls, tells in _TOLD
            if not asked_by or any(getattr(p, name) for name in asked_by)
        }
        self.frame_types = tuple(cast(type[Frame], cls) for cls in self._handlers)
        if p.system_logs_enabled:
            self._logs = _Logs(self)

    def cleanup(self) -> MaybeAwaitable:
        if self._logs is not None:
            self._logs.close()
        return super().cleanup()

    def on_push_frame(self, data: FramePushed) -> MaybeAwaitable:
        frame = data.frame
        handler = self._handler_of(type(frame))
        if handler is None or id(data.source) in self._ignored:
            return DONE
        if isinstance(frame, TTSTextFrame) and not isinstance(data.source, OutputStage):
            return DONE  # it is told when it was spoken
        told = self._told
        if frame.id in told or frame.broadcast_sibling_id in told:
            return DONE
        told[frame.id] = None
        if len(told) > REMEMBERED:
            del told[next(iter(told))]
        return handler(self, frame, data)

    def tells(self, cls: type) -> bool:
        """Whether a frame of this class may have to be told."""
        return self._handler_of(cls) is not None

    def _handler_of(self, cls: type) -> Tells | None:
        """The handler of a class, or of the class it derives from."""
        try:
            return self._handlers[cls]
        except KeyError:
            known = next((base for base in cls.__mro__ if self._handlers.get(base) is not None), None)
            handler = self._handlers[cls] = self._handlers[known] if known is not None else None
            return handler

    def _tell(self, message: BaseModel) -> Awaitable[None]:
        """To the client; a subclass may send it another way."""
        if self._rtvi is not None:
            self._rtvi.tell(message)
        return DONE

    # ------------------------------------------------------------ who speaks

    def _on_transcription(self, frame: Any, data: FramePushed) -> MaybeAwaitable:
        said = RTVI.UserTranscriptionMessageData(
            text=frame.text,
            user_id=frame.user_id,
            timestamp=frame.timestamp,
            final=isinstance(frame, TranscriptionFrame),
        )
        return self._tell(RTVI.UserTranscriptionMessage(data=said))

    def _on_context(self, frame: LLMContextFrame, data: FramePushed) -> MaybeAwaitable:
        """What the model is asked: the last message, if it is the user's."""
        context = frame.context
        messages = context.messages if isinstance(context, LLMContext) else []
        last = messages[-1] if messages else None
        if not isinstance(last, Mapping) or last.get("role") != "user" or not (text := text_of(last)):
            return DONE
        return self._tell(RTVI.UserLLMTextMessage(data=RTVI.TextMessageData(text=text)))

    # ------------------------------------------------------------ what the bot says

    def _on_llm_text(self, frame: LLMTextFrame, data: FramePushed) -> MaybeAwaitable:
        self._sentence += frame.text
        self._tell(RTVI.BotLLMTextMessage(data=RTVI.TextMessageData(text=frame.text)))
        if self._sentence.rstrip().endswith(_SENTENCE_ENDS):
            self._tell_sentence()
        return DONE

    def _on_llm_end(self, frame: LLMFullResponseEndFrame, data: FramePushed) -> MaybeAwaitable:
        self._tell_sentence()
        return self._tell(RTVI.BotLLMStoppedMessage())

    def _tell_sentence(self) -> None:
        """The old bot-transcription: the model's text by sentences."""
        if text := self._sentence.strip():
            self._tell(RTVI.BotTranscriptionMessage(data=RTVI.TextMessageData(text=text)))
        self._sentence = ""

    def _on_text(self, frame: AggregatedTextFrame, data: FramePushed) -> MaybeAwaitable:
        if frame.aggregated_by in self._params.skip_aggregator_types:
            return DONE
        spoken = isinstance(frame, TTSTextFrame)
        text: Any = frame.text
        for kind, transform in self._params.bot_output_transforms:
            if kind in ("*", frame.aggregated_by):
                if inspect.isawaitable(text):
                    break
                text = transform(text, frame.aggregated_by)
                if inspect.isawaitable(text):
                    return self._text_later(frame, text, kind, transform, spoken)
        return self._tell_text(frame, text, spoken)

    async def _text_later(
        self, frame: AggregatedTextFrame, text: Any, kind: Any, transform: Transform, spoken: bool
    ) -> None:
        """The rest of the transforms, of which one waits."""
        text = await text
        transforms = list(self._params.bot_output_transforms)
        for other, later in transforms[transforms.index((kind, transform)) + 1 :]:
            if other in ("*", frame.aggregated_by):
                text = later(text, frame.aggregated_by)
                if inspect.isawaitable(text):
                    text = await text
        self._tell_text(frame, text, spoken)

    def _tell_text(self, frame: AggregatedTextFrame, text: str, spoken: bool) -> Awaitable[None]:
        kind = frame.aggregated_by
        if self._params.bot_output_enabled:
            if not self.tells_segments:
                self._tell_output({"text": text, "spoken": spoken, "aggregated_by": kind})
            elif spoken:
                for told in self._segments.say(frame.text, text, kind):
                    self._tell_output(told)
            else:
                self._tell_output(self._segments.begin(frame.text, text, kind, will_be_spoken=not frame.skip_tts))
        if spoken and self._params.bot_tts_enabled:
            self._tell(RTVI.BotTTSTextMessage(data=RTVI.TextMessageData(text=text)))
        return DONE

    @property
    def tells_segments(self) -> bool:
        """Whether the client is of version 2, where bot-output tells how far a piece of text has been spoken."""
        return self._rtvi is not None and self._rtvi.client_version.startswith("2.")

    def _tell_output(self, told: Mapping[str, Any]) -> None:
        self._tell(RTVI.BotOutputMessage(data=RTVI.BotOutputMessageData.model_validate(told)))

    def _on_silence(self, frame: BotStoppedSpeakingFrame, data: FramePushed) -> MaybeAwaitable:
        if self._params.bot_output_enabled and self.tells_segments:
            for told in self._segments.silent():
                self._tell_output(told)
        return self._tell(RTVI.BotStoppedSpeakingMessage()) if self._params.bot_speaking_enabled else DONE

    def _on_interruption(self, frame: InterruptionFrame, data: FramePushed) -> MaybeAwaitable:
        self._segments.interrupted()
        return DONE

    # ------------------------------------------------------------ functions

    def _report_level(self, function_name: str) -> RTVIFunctionCallReportLevel:
        levels = self._params.function_call_report_level
        return levels.get(function_name, levels.get("*", RTVIFunctionCallReportLevel.NONE))

    def _on_calls_started(self, frame: FunctionCallsStartedFrame, data: FramePushed) -> MaybeAwaitable:
        for call in frame.function_calls:
            level = self._report_level(call.function_name)
            if level is not RTVIFunctionCallReportLevel.DISABLED:
                started = RTVI.LLMFunctionCallStartMessageData(function_name=_named(level, call.function_name))
                self._tell(RTVI.LLMFunctionCallStartMessage(data=started))
        return DONE

    def _on_call_in_progress(self, frame: FunctionCallInProgressFrame, data: FramePushed) -> MaybeAwaitable:
        level = self._report_level(frame.function_name)
        if level is RTVIFunctionCallReportLevel.DISABLED:
            return DONE
        full = level is RTVIFunctionCallReportLevel.FULL and isinstance(frame.arguments, Mapping)
        progress = RTVI.LLMFunctionCallInProgressMessageData(
            tool_call_id=frame.tool_call_id,
            function_name=_named(level, frame.function_name),
            arguments=frame.arguments if full else None,
        )
        return self._tell(RTVI.LLMFunctionCallInProgressMessage(data=progress))

    def _on_call_result(self, frame: FunctionCallResultFrame, data: FramePushed) -> MaybeAwaitable:
        return self._stopped(frame.function_name, frame.tool_call_id, False, frame.result)

    def _on_call_cancelled(self, frame: FunctionCallCancelFrame, data: FramePushed) -> MaybeAwaitable:
        return self._stopped(frame.function_name, frame.tool_call_id, True, None)

    def _stopped(self, function_name: str, tool_call_id: str, cancelled: bool, result: Any) -> MaybeAwaitable:
        level = self._report_level(function_name)
        if level is RTVIFunctionCallReportLevel.DISABLED:
            return DONE
        stopped = RTVI.LLMFunctionCallStoppedMessageData(
            tool_call_id=tool_call_id,
            cancelled=cancelled,
            function_name=_named(level, function_name),
            result=result if level is RTVIFunctionCallReportLevel.FULL else None,
        )
        return self._tell(RTVI.LLMFunctionCallStoppedMessage(data=stopped))

    # ------------------------------------------------------------ the application's own

    def _on_server_message(self, frame: RTVIServerMessageFrame, data: FramePushed) -> MaybeAwaitable:
        return self._tell(RTVI.ServerMessage(data=frame.data))

    def _on_server_response(self, frame: RTVIServerResponseFrame, data: FramePushed) -> MaybeAwaitable:
        if self._rtvi is None:
            return DONE
        if frame.error is not None:
            return self._rtvi.send_error_response(frame.client_msg, frame.error)
        return self._rtvi.send_server_response(frame.client_msg, frame.data)

    # ------------------------------------------------------------ figures

    def _on_metrics(self, frame: MetricsFrame, data: FramePushed) -> MaybeAwaitable:
        metrics: dict[str, list[dict[str, Any]]] = {}
        for record in frame.data:
            name = next((name for cls, name in _METRICS.items() if isinstance(record, cls)), None)
            if name is None:
                continue
            value = record.value
            shown: dict[str, Any] = {"processor": record.processor}
            if record.model is not None:
                shown["model"] = record.model
            if name == "tokens":
                counts = {each: getattr(value, each) for each in value.__slots__}
                shown.update({each: count for each, count in counts.items() if count is not None})
            else:
                shown["value"] = value
            metrics.setdefault(name, []).append(shown)
        return self._tell(RTVI.MetricsMessage(data=metrics)) if metrics else DONE

    def _on_user_audio(self, frame: InputAudioRawFrame, data: FramePushed) -> MaybeAwaitable:
        return self._tell_level("user", RTVI.UserAudioLevelMessage, frame, data)

    def _on_bot_audio(self, frame: OutputAudioRawFrame, data: FramePushed) -> MaybeAwaitable:
        return self._tell_level("bot", RTVI.BotAudioLevelMessage, frame, data)

    def _tell_level(self, who: str, cls: type[BaseModel], frame: AudioRawFrame, data: FramePushed) -> MaybeAwaitable:
        """How loud somebody is: one frame of each period is measured."""
        if data.timestamp < self._next_level[who]:
            return DONE
        self._next_level[who] = data.timestamp + self._params.audio_level_period_secs * 1e9
        pcm = frame.audio if frame.num_channels == 1 else b""
        value = volume_of(pcm, frame.sample_rate)
        return self._tell(cls(data=RTVI.AudioLevelMessageData(value=round(value, 3))))


def _plain(cls: type[BaseModel]) -> Tells:
    """The same message each time, with no data."""

    def tell(observer: RTVIObserver, frame: Any, data: FramePushed) -> MaybeAwaitable:
        return observer._tell(cls())

    return tell


# Of which frames a client is told: the parameters of which any one asks for it (none: always), the class, and what
# tells, a function of the observer or the name of its method. An observer that held its own methods would refer to
# itself.
_TOLD: Sequence[tuple[Sequence[str], type[Frame], Tells | str]] = (
    ((), RTVIServerMessageFrame, "_on_server_message"),
    ((), RTVIServerResponseFrame, "_on_server_response"),
    (("user_speaking_enabled",), UserStartedSpeakingFrame, _plain(RTVI.UserStartedSpeakingMessage)),
    (("user_speaking_enabled",), UserStoppedSpeakingFrame, _plain(RTVI.UserStoppedSpeakingMessage)),
    (("user_mute_enabled",), UserMuteStartedFrame, _plain(RTVI.UserMuteStartedMessage)),
    (("user_mute_enabled",), UserMuteStoppedFrame, _plain(RTVI.UserMuteStoppedMessage)),
    (("bot_speaking_enabled",), BotStartedSpeakingFrame, _plain(RTVI.BotStartedSpeakingMessage)),
    (("bot_speaking_enabled", "bot_output_enabled"), BotStoppedSpeakingFrame, "_on_silence"),
    (("bot_output_enabled",), InterruptionFrame, "_on_interruption"),
    (("user_transcription_enabled",), TranscriptionFrame, "_on_transcription"),
    (("user_transcription_enabled",), InterimTranscriptionFrame, "_on_transcription"),
    (("user_llm_enabled",), LLMContextFrame, "_on_context"),
    (("bot_llm_enabled",), LLMFullResponseStartFrame, _plain(RTVI.BotLLMStartedMessage)),
    (("bot_llm_enabled",), LLMFullResponseEndFrame, "_on_llm_end"),
    (("bot_llm_enabled",), LLMTextFrame, "_on_llm_text"),
    (("bot_tts_enabled",), TTSStartedFrame, _plain(RTVI.BotTTSStartedMessage)),
    (("bot_tts_enabled",), TTSStoppedFrame, _plain(RTVI.BotTTSStoppedMessage)),
    (("bot_output_enabled", "bot_tts_enabled"), AggregatedTextFrame, "_on_text"),
    ((), FunctionCallsStartedFrame, "_on_calls_started"),
    ((), FunctionCallInProgressFrame, "_on_call_in_progress"),
    ((), FunctionCallResultFrame, "_on_call_result"),
    ((), FunctionCallCancelFrame, "_on_call_cancelled"),
    (("metrics_enabled",), MetricsFrame, "_on_metrics"),
    (("user_audio_level_enabled",), InputAudioRawFrame, "_on_user_audio"),
    (("bot_audio_level_enabled",), OutputAudioRawFrame, "_on_bot_audio"),
)
_METRICS: Mapping[type, str] = {
    TTFBMetricsData: "ttfb",
    ProcessingMetricsData: "processing",
    LLMUsageMetricsData: "tokens",
    TTSUsageMetricsData: "characters",
}


def _named(level: RTVIFunctionCallReportLevel, function_name: str) -> str | None:
    return None if level is RTVIFunctionCallReportLevel.NONE else function_name


class _Logs(logging.Handler):
    """Log lines of the bots of this call, as system-log. Those of other calls in the process are not its own."""

    NAMES = ("bots", "media")

    def __init__(self, observer: RTVIObserver) -> None:
        super().__init__(logging.INFO)
        self._observer = observer
        self._call = structlog.contextvars.get_contextvars().get("call")
        self._busy = False
        for name in self.NAMES:
            logging.getLogger(name).addHandler(self)

    def close(self) -> None:
        for name in self.NAMES:
            logging.getLogger(name).removeHandler(self)
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        if self._busy or structlog.contextvars.get_contextvars().get("call") != self._call:
            return
        self._busy = True  # what telling makes others log is not told
        try:
            text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.getMessage()}"
            self._observer._tell(RTVI.SystemLogMessage(data=RTVI.TextMessageData(text=text)))
        except Exception:
            self.handleError(record)
        finally:
            self._busy = False
