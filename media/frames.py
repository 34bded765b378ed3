"""What flows through a pipeline.

Every frame is a slotted dataclass that is what it carries. The seeds' `id`, `name`, `pts`, `metadata`,
`transport_source`, `transport_destination` and `broadcast_sibling_id` are attributes of every frame too, but they
are made when first read, so that a 20 ms frame costs a tenth of a microsecond.

Three families decide how a frame travels (see docs/pipeline.md): system frames overtake, data and control frames
keep their order and are dropped by an interruption, unless they are uninterruptible.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from media.call import CallInfo

_ids = itertools.count(1)
_name_counts: dict[type, itertools.count[int]] = {}


class Frame:
    """The base of all frames. `pts` is a presentation time in nanoseconds, or None."""

    __slots__ = ("_destination", "_id", "_metadata", "_name", "_pts", "_sibling", "_source", "_stamp")

    # Set by __init_subclass__: as plain class attributes they would be shadowed under multiple inheritance.
    is_system: ClassVar[bool] = False
    is_uninterruptible: ClassVar[bool] = False
    # True for the few frames that a push must look at before they travel (interruption, pause).
    needs_announcement: ClassVar[bool] = False

    _id: int
    _name: str
    _pts: int | None
    _metadata: dict[str, Any]
    _source: str | None
    _destination: str | None
    _sibling: int | None
    _stamp: Any  # for the pipeline's own use: a merge mark, an epoch, an announcement

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.is_system = issubclass(cls, SystemFrame) if cls.__name__ != "SystemFrame" else True
        cls.is_uninterruptible = any(base.__name__ == "UninterruptibleFrame" for base in cls.__mro__)

    @property
    def id(self) -> int:
        """A number that no other frame of this process has."""
        try:
            return self._id
        except AttributeError:
            self._id = next(_ids)
            return self._id

    @property
    def name(self) -> str:
        """ "Class#n", n counting the frames of the class whose name was read."""
        try:
            return self._name
        except AttributeError:
            cls = type(self)
            count = _name_counts.get(cls)
            if count is None:
                count = _name_counts[cls] = itertools.count()
            self._name = f"{cls.__name__}#{next(count)}"
            return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    @property
    def pts(self) -> int | None:
        try:
            return self._pts
        except AttributeError:
            return None

    @pts.setter
    def pts(self, value: int | None) -> None:
        self._pts = value

    @property
    def metadata(self) -> dict[str, Any]:
        try:
            return self._metadata
        except AttributeError:
            self._metadata = {}
            return self._metadata

    @metadata.setter
    def metadata(self, value: dict[str, Any]) -> None:
        self._metadata = value

    @property
    def transport_source(self) -> str | None:
        try:
            return self._source
        except AttributeError:
            return None

    @transport_source.setter
    def transport_source(self, value: str | None) -> None:
        self._source = value

    @property
    def transport_destination(self) -> str | None:
        try:
            return self._destination
        except AttributeError:
            return None

    @transport_destination.setter
    def transport_destination(self, value: str | None) -> None:
        self._destination = value

    @property
    def broadcast_sibling_id(self) -> int | None:
        try:
            return self._sibling
        except AttributeError:
            return None

    @broadcast_sibling_id.setter
    def broadcast_sibling_id(self, value: int | None) -> None:
        self._sibling = value

    def __str__(self) -> str:
        return self.name


class SystemFrame(Frame):
    """Handled as it arrives, ahead of queued data; never dropped by an interruption."""

    __slots__ = ()


class DataFrame(Frame):
    """Kept in order; dropped by an interruption."""

    __slots__ = ()


class ControlFrame(Frame):
    """Kept in order with data; dropped by an interruption."""

    __slots__ = ()


# ---------------------------------------------------------------- mixins


class UninterruptibleFrame:
    """A data or control frame that no interruption cancels or purges."""

    __slots__ = ()


class AudioRawFrame:
    """A frame with PCM: signed 16 bit little endian, `num_channels` interleaved, at `sample_rate` Hz."""

    __slots__ = ()
    audio: bytes
    sample_rate: int
    num_channels: int

    @property
    def num_frames(self) -> int:
        """Samples per channel."""
        return len(self.audio) // (self.num_channels * 2)


class ImageRawFrame:
    """A frame with a picture: raw bytes, (width, height), and the format's name."""

    __slots__ = ()
    image: bytes
    size: tuple[int, int]
    format: str | None


class KeypadEntry(StrEnum):
    """A key of a telephone; A to D are the fourth column of the DTMF matrix."""

    ONE = "1"
    TWO = "2"
    THREE = "3"
    FOUR = "4"
    FIVE = "5"
    SIX = "6"
    SEVEN = "7"
    EIGHT = "8"
    NINE = "9"
    ZERO = "0"
    POUND = "#"
    STAR = "*"
    A = "A"
    B = "B"
    C = "C"
    D = "D"


class DTMFFrame:
    """A frame with one key."""

    __slots__ = ()
    button: KeypadEntry


# ---------------------------------------------------------------- system frames: life of a pipeline


@dataclass(slots=True, eq=False)
class StartFrame(SystemFrame):
    """The first frame of a pipeline. Only a PipelineTask or the call core makes one, once."""

    audio_in_sample_rate: int = 16000
    audio_out_sample_rate: int = 24000
    allow_interruptions: bool = False
    enable_metrics: bool = False
    enable_tracing: bool = False
    enable_usage_metrics: bool = False
    interruption_strategies: list[Any] = field(default_factory=list)
    report_only_initial_ttfb: bool = False
    tracing_context: Any = None


@dataclass(slots=True, eq=False)
class CancelFrame(SystemFrame):
    """Stop at once, without playing out."""

    reason: Any = None


@dataclass(slots=True, eq=False)
class ErrorFrame(SystemFrame):
    """Something failed; travels upstream."""

    error: str
    fatal: bool = False
    processor: Any = None
    exception: Exception | None = None


@dataclass(slots=True, eq=False)
class FatalErrorFrame(ErrorFrame):
    """An error after which the pipeline cannot go on."""

    fatal: bool = field(default=True, init=False)


@dataclass(slots=True, eq=False)
class FrameProcessorPauseUrgentFrame(SystemFrame):
    """Pause `processor` at once."""

    processor: Any


@dataclass(slots=True, eq=False)
class FrameProcessorResumeUrgentFrame(SystemFrame):
    """Resume `processor` at once."""

    processor: Any


# ---------------------------------------------------------------- system frames: who speaks


@dataclass(frozen=True, slots=True)
class Heard:
    """How far a reply had come when it was cut off. The words are empty where no TTSTextFrame told them."""

    text: str  # what the caller heard
    unheard: str  # and what not
    heard_ms: int
    unheard_ms: int  # of audio that had been made


@dataclass(slots=True, eq=False)
class InterruptionFrame(SystemFrame):
    """The caller has taken the floor: what is queued for play-out is dropped, here and at the carrier."""

    reason: str = ""  # why, for people
    heard: Heard | None = None  # of the reply that it cut off, if one was being heard; filled in before it travels


@dataclass(slots=True, eq=False)
class FloorFrame(SystemFrame):
    """A decision about who has the floor, and what it was made of. For information: it has taken effect."""

    decision: str  # "held", "went on", "interrupted", "echo", "ignored"
    reason: str
    values: Mapping[str, float] = field(default_factory=dict)


InterruptionFrame.needs_announcement = True
# The processor that is to be paused must be told that its frame is coming.
FrameProcessorPauseUrgentFrame.needs_announcement = True


@dataclass(slots=True, eq=False)
class UserStartedSpeakingFrame(SystemFrame):
    emulated: bool = False


@dataclass(slots=True, eq=False)
class UserStoppedSpeakingFrame(SystemFrame):
    emulated: bool = False


@dataclass(slots=True, eq=False)
class UserSpeakingFrame(SystemFrame):
    """Repeated while the caller talks."""


@dataclass(slots=True, eq=False)
class UserMuteStartedFrame(SystemFrame):
    pass


@dataclass(slots=True, eq=False)
class UserMuteStoppedFrame(SystemFrame):
    pass


@dataclass(slots=True, eq=False)
class VADUserStartedSpeakingFrame(SystemFrame):
    """The detector's own edge: `start_secs` it needed, `timestamp` in wall-clock seconds."""

    start_secs: float = 0.0
    timestamp: float = 0.0


@dataclass(slots=True, eq=False)
class VADUserStoppedSpeakingFrame(SystemFrame):
    stop_secs: float = 0.0
    timestamp: float = 0.0


@dataclass(slots=True, eq=False)
class SpeechControlParamsFrame(SystemFrame):
    vad_params: Any = None
    turn_params: Any = None


@dataclass(slots=True, eq=False)
class BotStartedSpeakingFrame(SystemFrame):
    """Pushed both ways by the output stage as the first sample of speech leaves."""


@dataclass(slots=True, eq=False)
class BotStoppedSpeakingFrame(SystemFrame):
    pass


@dataclass(slots=True, eq=False)
class BotSpeakingFrame(SystemFrame):
    """Repeated while the bot's speech leaves."""


@dataclass(slots=True, eq=False)
class BotConnectedFrame(SystemFrame):
    pass


@dataclass(slots=True, eq=False)
class ClientConnectedFrame(SystemFrame):
    pass


# ---------------------------------------------------------------- system frames: media in


@dataclass(slots=True, eq=False)
class InputAudioRawFrame(SystemFrame, AudioRawFrame):
    """Caller audio, decoded. `seq` and `timestamp_ms` are the carrier's own numbers, where it sends any."""

    audio: bytes
    sample_rate: int
    num_channels: int
    seq: int | None = None
    timestamp_ms: int | None = None


@dataclass(slots=True, eq=False)
class UserAudioRawFrame(InputAudioRawFrame):
    """Audio of one of several participants."""

    user_id: str = ""


@dataclass(slots=True, eq=False)
class InputImageRawFrame(SystemFrame, ImageRawFrame):
    image: bytes
    size: tuple[int, int]
    format: str | None


@dataclass(slots=True, eq=False)
class UserImageRawFrame(InputImageRawFrame):
    user_id: str = ""
    text: str | None = None
    append_to_context: bool | None = None
    request: Any = None


@dataclass(slots=True, eq=False)
class InputTextRawFrame(SystemFrame):
    text: str


@dataclass(slots=True, eq=False)
class InputDTMFFrame(SystemFrame, DTMFFrame):
    """The caller pressed a key."""

    button: KeypadEntry


@dataclass(slots=True, eq=False)
class OutputDTMFUrgentFrame(SystemFrame, DTMFFrame):
    """Send a key now, ahead of queued audio."""

    button: KeypadEntry


@dataclass(slots=True, eq=False)
class InputTransportMessageFrame(SystemFrame):
    message: Any


@dataclass(slots=True, eq=False)
class OutputTransportMessageUrgentFrame(SystemFrame):
    """Send a message now, ahead of queued audio."""

    message: Any


# ---------------------------------------------------------------- system frames: functions, metrics, services


@dataclass(slots=True, eq=False)
class FunctionCallFromLLM:
    """One function that a model asked for."""

    function_name: str
    tool_call_id: str
    arguments: Mapping[str, Any]
    context: Any


@dataclass(slots=True, eq=False)
class FunctionCallsStartedFrame(SystemFrame):
    function_calls: Sequence[FunctionCallFromLLM]


@dataclass(slots=True, eq=False)
class FunctionCallCancelFrame(SystemFrame):
    function_name: str
    tool_call_id: str


@dataclass(slots=True, eq=False)
class UserImageRequestFrame(SystemFrame):
    user_id: str
    text: str | None = None
    append_to_context: bool | None = None
    video_source: str | None = None
    function_name: str | None = None
    tool_call_id: str | None = None
    result_callback: Any = None


@dataclass(slots=True, eq=False)
class STTMuteFrame(SystemFrame):
    mute: bool


@dataclass(slots=True, eq=False)
class UserIdleTimeoutUpdateFrame(SystemFrame):
    """A new idle time-out in seconds; 0 turns it off."""

    timeout: float


@dataclass(slots=True, eq=False)
class MetricsFrame(SystemFrame):
    data: list[Any]


@dataclass(slots=True, eq=False)
class ServiceMetadataFrame(SystemFrame):
    service_name: str


@dataclass(slots=True, eq=False)
class STTMetadataFrame(ServiceMetadataFrame):
    ttfs_p99_latency: float


@dataclass(slots=True, eq=False)
class TaskSystemFrame(SystemFrame):
    """Pushed upstream to the task, which turns it into its own frame."""


@dataclass(slots=True, eq=False)
class CancelTaskFrame(TaskSystemFrame):
    reason: Any = None


@dataclass(slots=True, eq=False)
class InterruptionTaskFrame(TaskSystemFrame):
    pass


@dataclass(slots=True, eq=False)
class RTVIServerMessageFrame(SystemFrame):
    data: Any


@dataclass(slots=True, eq=False)
class RTVIClientMessageFrame(SystemFrame):
    msg_id: str
    type: str
    data: Any = None


@dataclass(slots=True, eq=False)
class RTVIServerResponseFrame(SystemFrame):
    client_msg: RTVIClientMessageFrame
    data: Any = None
    error: str | None = None


# ---------------------------------------------------------------- control frames


@dataclass(slots=True, eq=False)
class EndFrame(ControlFrame, UninterruptibleFrame):
    """End when everything before it has been played."""

    reason: Any = None


@dataclass(slots=True, eq=False)
class StopFrame(ControlFrame, UninterruptibleFrame):
    """Finish, but leave the processors as they are."""


@dataclass(slots=True, eq=False)
class OutputTransportReadyFrame(ControlFrame):
    pass


@dataclass(slots=True, eq=False)
class HeartbeatFrame(ControlFrame):
    timestamp: int  # nanoseconds of the task's clock


@dataclass(slots=True, eq=False)
class FrameProcessorPauseFrame(ControlFrame):
    processor: Any


FrameProcessorPauseFrame.needs_announcement = True


@dataclass(slots=True, eq=False)
class FrameProcessorResumeFrame(ControlFrame):
    processor: Any


@dataclass(slots=True, eq=False)
class LLMFullResponseStartFrame(ControlFrame):
    skip_tts: bool | None = field(init=False, default=None)


@dataclass(slots=True, eq=False)
class LLMFullResponseEndFrame(ControlFrame):
    skip_tts: bool | None = field(init=False, default=None)


@dataclass(slots=True, eq=False)
class VisionFullResponseStartFrame(LLMFullResponseStartFrame):
    pass


@dataclass(slots=True, eq=False)
class VisionFullResponseEndFrame(LLMFullResponseEndFrame):
    pass


@dataclass(slots=True, eq=False)
class LLMAssistantPushAggregationFrame(ControlFrame):
    pass


@dataclass(slots=True, eq=False)
class LLMSummarizeContextFrame(ControlFrame):
    config: Any = None


@dataclass(slots=True, eq=False)
class LLMContextSummaryRequestFrame(ControlFrame):
    request_id: str
    context: Any
    min_messages_to_keep: int
    target_context_tokens: int
    summarization_prompt: str
    summarization_timeout: float | None = None


@dataclass(slots=True, eq=False)
class LLMContextSummaryResultFrame(ControlFrame, UninterruptibleFrame):
    request_id: str
    summary: str
    last_summarized_index: int
    error: str | None = None


@dataclass(slots=True, eq=False)
class LLMThoughtStartFrame(ControlFrame):
    append_to_context: bool = False
    llm: str | None = None

    def __post_init__(self) -> None:
        if self.append_to_context and self.llm is None:
            raise ValueError("append_to_context needs llm: name the model whose thought this is")


@dataclass(slots=True, eq=False)
class LLMThoughtEndFrame(ControlFrame):
    signature: Any = None


@dataclass(slots=True, eq=False)
class FunctionCallInProgressFrame(ControlFrame, UninterruptibleFrame):
    function_name: str
    tool_call_id: str
    arguments: Any
    cancel_on_interruption: bool = False


@dataclass(slots=True, eq=False)
class TTSStartedFrame(ControlFrame):
    context_id: str | None = None


@dataclass(slots=True, eq=False)
class TTSStoppedFrame(ControlFrame):
    """The end of one utterance: what is left of a packet is padded and sent."""

    context_id: str | None = None


@dataclass(slots=True, eq=False)
class ServiceUpdateSettingsFrame(ControlFrame, UninterruptibleFrame):
    """New settings for a service; `delta` wins over `settings`; without `service` the first match takes it."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    delta: Any = None
    service: Any = None


@dataclass(slots=True, eq=False)
class LLMUpdateSettingsFrame(ServiceUpdateSettingsFrame):
    pass


@dataclass(slots=True, eq=False)
class TTSUpdateSettingsFrame(ServiceUpdateSettingsFrame):
    pass


class STTUpdateSettingsFrame(ServiceUpdateSettingsFrame):
    """As the others; the old spelling `STTUpdateSettingsFrame(language=...)` is understood too."""

    __slots__ = ()

    def __init__(
        self, settings: Mapping[str, Any] | None = None, delta: Any = None, service: Any = None, **old: Any
    ) -> None:
        ServiceUpdateSettingsFrame.__init__(self, {**(settings or {}), **old}, delta, service)


@dataclass(slots=True, eq=False)
class VADParamsUpdateFrame(ControlFrame):
    params: Any


@dataclass(slots=True, eq=False)
class FilterControlFrame(ControlFrame):
    pass


@dataclass(slots=True, eq=False)
class FilterUpdateSettingsFrame(FilterControlFrame):
    settings: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class FilterEnableFrame(FilterControlFrame):
    enable: bool


@dataclass(slots=True, eq=False)
class MixerControlFrame(ControlFrame):
    pass


@dataclass(slots=True, eq=False)
class MixerUpdateSettingsFrame(MixerControlFrame):
    settings: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class MixerEnableFrame(MixerControlFrame):
    enable: bool


@dataclass(slots=True, eq=False)
class ServiceSwitcherFrame(ControlFrame):
    pass


@dataclass(slots=True, eq=False)
class ManuallySwitchServiceFrame(ServiceSwitcherFrame):
    service: Any


@dataclass(slots=True, eq=False)
class ServiceSwitcherRequestMetadataFrame(ControlFrame):
    service: Any


@dataclass(slots=True, eq=False)
class TaskFrame(ControlFrame):
    """Pushed upstream to the task, which turns it into its own frame."""


@dataclass(slots=True, eq=False)
class EndTaskFrame(TaskFrame, UninterruptibleFrame):
    reason: Any = None


@dataclass(slots=True, eq=False)
class StopTaskFrame(TaskFrame, UninterruptibleFrame):
    pass


# ---------------------------------------------------------------- data frames


@dataclass(slots=True, eq=False)
class OutputAudioRawFrame(DataFrame, AudioRawFrame):
    """Audio for the caller."""

    audio: bytes
    sample_rate: int
    num_channels: int


@dataclass(slots=True, eq=False)
class TTSAudioRawFrame(OutputAudioRawFrame):
    context_id: str | None = None


@dataclass(slots=True, eq=False)
class SpeechOutputAudioRawFrame(OutputAudioRawFrame):
    """A piece of an unbroken stream of speech that may hold silence."""


@dataclass(slots=True, eq=False)
class OutputImageRawFrame(DataFrame, ImageRawFrame):
    image: bytes
    size: tuple[int, int]
    format: str | None
    sync_with_audio: bool = field(init=False, default=False)


@dataclass(slots=True, eq=False)
class URLImageRawFrame(OutputImageRawFrame):
    url: str | None = None


@dataclass(slots=True, eq=False)
class AssistantImageRawFrame(OutputImageRawFrame):
    original_data: bytes | None = None
    original_mime_type: str | None = None


@dataclass(slots=True, eq=False)
class SpriteFrame(DataFrame):
    images: list[OutputImageRawFrame]


@dataclass(slots=True, eq=False)
class TextFrame(DataFrame):
    text: str
    skip_tts: bool | None = field(init=False, default=None)
    includes_inter_frame_spaces: bool = field(init=False, default=False)
    append_to_context: bool = field(init=False, default=True)


@dataclass(slots=True, eq=False)
class LLMTextFrame(TextFrame):
    pass


class AggregationType(StrEnum):
    """How a piece of text was put together; other names are strings of the application's own."""

    SENTENCE = "sentence"
    WORD = "word"
    TOKEN = "token"


@dataclass(slots=True, eq=False)
class AggregatedTextFrame(TextFrame):
    aggregated_by: AggregationType | str
    context_id: str | None = None


@dataclass(slots=True, eq=False)
class VisionTextFrame(LLMTextFrame):
    pass


@dataclass(slots=True, eq=False)
class TTSTextFrame(AggregatedTextFrame):
    pass


@dataclass(slots=True, eq=False)
class TranscriptionFrame(TextFrame):
    user_id: str
    timestamp: str  # ISO 8601
    language: Any = None
    result: Any = None
    finalized: bool = False


@dataclass(slots=True, eq=False)
class InterimTranscriptionFrame(TextFrame):
    user_id: str
    timestamp: str
    language: Any = None
    result: Any = None


@dataclass(slots=True, eq=False)
class TranslationFrame(TextFrame):
    user_id: str
    timestamp: str
    language: Any = None


@dataclass(slots=True, eq=False)
class LLMContextAssistantTimestampFrame(DataFrame):
    timestamp: str


@dataclass(slots=True, eq=False)
class TranscriptionMessage:
    role: str  # "user" or "assistant"
    content: str
    user_id: str | None = None
    timestamp: str | None = None


@dataclass(slots=True, eq=False)
class TranscriptionUpdateFrame(DataFrame):
    messages: list[TranscriptionMessage]


@dataclass(slots=True, eq=False)
class LLMThoughtTextFrame(DataFrame):
    text: str


@dataclass(slots=True, eq=False)
class LLMRunFrame(DataFrame):
    pass


@dataclass(slots=True, eq=False)
class LLMMessagesAppendFrame(DataFrame):
    messages: list[Any]
    run_llm: bool | None = None


@dataclass(slots=True, eq=False)
class LLMMessagesUpdateFrame(DataFrame):
    messages: list[Any]
    run_llm: bool | None = None


@dataclass(slots=True, eq=False)
class LLMSetToolsFrame(DataFrame):
    tools: Any


@dataclass(slots=True, eq=False)
class LLMSetToolChoiceFrame(DataFrame):
    tool_choice: Any


@dataclass(slots=True, eq=False)
class LLMEnablePromptCachingFrame(DataFrame):
    enable: bool


@dataclass(slots=True, eq=False)
class LLMConfigureOutputFrame(DataFrame):
    skip_tts: bool


@dataclass(slots=True, eq=False)
class FunctionCallResultProperties:
    run_llm: bool | None = None
    on_context_updated: Callable[[], Awaitable[None]] | None = None


@dataclass(slots=True, eq=False)
class FunctionCallResultFrame(DataFrame, UninterruptibleFrame):
    function_name: str
    tool_call_id: str
    arguments: Any
    result: Any
    run_llm: bool | None = None
    properties: FunctionCallResultProperties | None = None


@dataclass(slots=True, eq=False)
class TTSSpeakFrame(DataFrame):
    text: str
    append_to_context: bool | None = None


@dataclass(slots=True, eq=False)
class OutputTransportMessageFrame(DataFrame):
    """A message in order with the audio."""

    message: Any


@dataclass(slots=True, eq=False)
class OutputDTMFFrame(DataFrame, DTMFFrame):
    """A key in order with the audio."""

    button: KeypadEntry


@dataclass(slots=True, eq=False)
class LLMContextFrame(Frame):
    context: Any


# ---------------------------------------------------------------- what the wire says, between serializer and core


class WireFrame(SystemFrame):
    """A fact of the carrier's protocol. Made by `decode`, read by the call core; the seeds have none of these."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class CallStartedFrame(WireFrame):
    """The carrier has told what this call is; audio may follow."""

    call: CallInfo


@dataclass(slots=True, eq=False)
class AnswerLaterFrame(WireFrame):
    """An answer that an application's handlers hold up: `make` gives it, and what follows from it.

    `make` is called once, when `waiting` has been awaited or after `limit_s` seconds. With `after_bot` the carrier has
    ended the call but still listens: what the bot has to say at its end comes before the answer.
    """

    waiting: Awaitable[Any]
    make: Callable[[], Sequence[Frame]]
    limit_s: float
    after_bot: bool = False


@dataclass(slots=True, eq=False)
class CallEndedFrame(WireFrame):
    """The carrier says that the stream is over. `reason` is one of ours: "caller", "carrier", "error", ..."""

    reason: str
    detail: str = ""  # the carrier's own word


@dataclass(slots=True, eq=False)
class CallBrokenFrame(WireFrame):
    """The carrier broke its own protocol, and was told that the call is over; it closes the socket."""

    problem: str


@dataclass(slots=True, eq=False)
class RoundTripFrame(WireFrame):
    """The carrier has measured how long a message and its answer take."""

    seconds: float


@dataclass(slots=True, eq=False)
class PlayedFrame(WireFrame):
    """A mark came back: what stood before it was played, or cleared (some carriers echo marks on clear)."""

    name: str


@dataclass(slots=True, eq=False)
class PlaybackStartedFrame(WireFrame):
    """The carrier began to play what we sent."""


@dataclass(slots=True, eq=False)
class PlaybackCompletedFrame(WireFrame):
    """The carrier has played all that we sent."""


@dataclass(slots=True, eq=False)
class PlaybackClearedFrame(WireFrame):
    """The carrier has dropped what it held."""


@dataclass(slots=True, eq=False)
class CallPausedFrame(WireFrame):
    """The carrier holds the caller's audio back."""


@dataclass(slots=True, eq=False)
class CallResumedFrame(WireFrame):
    """The caller's audio flows again; `discarded_s` seconds of it never came."""

    discarded_s: float = 0.0


@dataclass(slots=True, eq=False)
class AudioDiscardedFrame(WireFrame):
    """The carrier dropped `duration_s` of caller audio, beginning at `start_s` of the stream."""

    start_s: float
    duration_s: float


@dataclass(slots=True, eq=False)
class CallUpdatedFrame(WireFrame):
    """The carrier changed a property of the call."""

    language: str = ""


@dataclass(slots=True, eq=False)
class AnsweredByFrame(SystemFrame):
    """Who has taken up a call that was placed: "human", "machine", "fax", or "unknown".

    Downstream from the carrier, or both ways from a bot that has found it out itself. May come twice: with `beep` when
    a machine that was recognised before has begun to record.
    """

    who: str
    detail: str = ""  # the carrier's own word, or by what the bot tells
    source: str = "carrier"  # or "bot"
    beep: bool = False  # the machine records from now on


@dataclass(slots=True, eq=False)
class CarrierErrorFrame(WireFrame):
    """The carrier complains; the call goes on unless it also ends it."""

    code: str
    message: str = ""
    retry_after_s: float | None = None


@dataclass(slots=True, eq=False)
class MarkFrame(ControlFrame):
    """Ask the carrier to say (PlayedFrame) when all that was sent before this has been played."""

    name: str = ""
