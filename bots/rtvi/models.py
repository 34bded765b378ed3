"""The messages of RTVI, as models: `{"label": "rtvi-ai", "type": ..., "id": ..., "data": {...}}`.

Names and fields are Pipecat's. What a field's type does not say: `id` is chosen by whoever asks, and an answer repeats
it; times (`at`, `captured_at`) are milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from media.frames import AggregationType

PROTOCOL_VERSION = "2.1.0"
MESSAGE_LABEL: Literal["rtvi-ai"] = "rtvi-ai"

Label = Literal["rtvi-ai"]


class Message(BaseModel):
    """Any message."""

    label: Label = MESSAGE_LABEL
    type: str
    id: str
    data: dict[str, Any] | None = None


# ---------------------------------------------------------------- client messages, and what answers them


class RawClientMessageData(BaseModel):
    """`data` of a client-message: the application's type and data."""

    t: str
    d: Any | None = None


class ClientMessage(BaseModel):
    """A client-message as handlers get it."""

    msg_id: str
    type: str
    data: Any | None = None


class RawServerResponseData(BaseModel):
    t: str
    d: Any | None = None


class ServerResponse(BaseModel):
    """The answer to a client-message."""

    label: Label = MESSAGE_LABEL
    type: Literal["server-response"] = "server-response"
    id: str
    data: RawServerResponseData


class ErrorResponseData(BaseModel):
    error: str


class ErrorResponse(BaseModel):
    """The answer to a message that could not be handled."""

    label: Label = MESSAGE_LABEL
    type: Literal["error-response"] = "error-response"
    id: str
    data: ErrorResponseData


class ErrorData(BaseModel):
    error: str
    fatal: bool


class Error(BaseModel):
    """Something failed that nobody asked for; a client leaves after a fatal one."""

    label: Label = MESSAGE_LABEL
    type: Literal["error"] = "error"
    data: ErrorData


class ServerMessage(BaseModel):
    """The application's own, unasked."""

    label: Label = MESSAGE_LABEL
    type: Literal["server-message"] = "server-message"
    data: Any


# ---------------------------------------------------------------- ready


class AboutClientData(BaseModel):
    library: str
    library_version: str | None = None
    platform: str | None = None
    platform_version: str | None = None
    platform_details: Any | None = None


class ClientReadyData(BaseModel):
    version: str
    about: AboutClientData


class BotReadyData(BaseModel):
    version: str
    about: Mapping[str, Any] | None = None


class BotReady(BaseModel):
    """The answer to client-ready."""

    label: Label = MESSAGE_LABEL
    type: Literal["bot-ready"] = "bot-ready"
    id: str
    data: BotReadyData


# ---------------------------------------------------------------- text and keys from the client


class SendTextOptions(BaseModel):
    run_immediately: bool = True  # interrupts the bot
    audio_response: bool = True


class SendTextData(BaseModel):
    content: str
    options: SendTextOptions | None = None


class AppendToContextData(BaseModel):
    """Old: `send-text` is the way."""

    role: Literal["user", "assistant"] | str
    content: Any
    run_immediately: bool = False


class DTMFData(BaseModel):
    """`buttons` since version 2.1; `button`, one key a message, before."""

    buttons: list[str] | None = None
    button: str | None = None


class RawAudioData(BaseModel):
    """`raw-audio` has one piece, `raw-audio-batch` several: base64 of s16le."""

    base64Audio: str | None = None
    base64AudioBatch: list[str] | None = None
    sampleRate: int = Field(ge=4000, le=192_000)
    numChannels: int = Field(ge=1, le=2)


# ---------------------------------------------------------------- function calls


class LLMFunctionCallMessageData(BaseModel):
    """Old: LLMFunctionCallInProgressMessageData is the way."""

    function_name: str
    tool_call_id: str
    args: Mapping[str, Any]


class LLMFunctionCallMessage(BaseModel):
    """Old: LLMFunctionCallInProgressMessage is the way. It asks the client to do what the function does."""

    label: Label = MESSAGE_LABEL
    type: Literal["llm-function-call"] = "llm-function-call"
    data: LLMFunctionCallMessageData


class LLMFunctionCallResultData(BaseModel):
    function_name: str
    tool_call_id: str
    arguments: dict[str, Any]
    result: dict[str, Any] | str


class LLMFunctionCallStartMessageData(BaseModel):
    function_name: str | None = None


class LLMFunctionCallStartMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["llm-function-call-started"] = "llm-function-call-started"
    data: LLMFunctionCallStartMessageData


class LLMFunctionCallInProgressMessageData(BaseModel):
    tool_call_id: str
    function_name: str | None = None
    arguments: Mapping[str, Any] | None = None


class LLMFunctionCallInProgressMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["llm-function-call-in-progress"] = "llm-function-call-in-progress"
    data: LLMFunctionCallInProgressMessageData


class LLMFunctionCallStoppedMessageData(BaseModel):
    tool_call_id: str
    cancelled: bool
    function_name: str | None = None
    result: Any | None = None


class LLMFunctionCallStoppedMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["llm-function-call-stopped"] = "llm-function-call-stopped"
    data: LLMFunctionCallStoppedMessageData


# ---------------------------------------------------------------- what the bot says


class BotLLMStartedMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["bot-llm-started"] = "bot-llm-started"


class BotLLMStoppedMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["bot-llm-stopped"] = "bot-llm-stopped"


class BotTTSStartedMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["bot-tts-started"] = "bot-tts-started"


class BotTTSStoppedMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["bot-tts-stopped"] = "bot-tts-stopped"


class TextMessageData(BaseModel):
    text: str


class SpokenProgress(BaseModel):
    """What of a segment's text has been spoken, and what has not."""

    accumulated_text: str
    remaining_text: str


class BotOutputMessageData(TextMessageData):
    """A piece of what the bot puts out; `spoken` once it was spoken. The rest is of version 2, for its clients."""

    spoken: bool = False
    aggregated_by: AggregationType | str
    segment_id: int | None = None  # of this text, whenever it is told
    will_be_spoken: bool | None = None
    spoken_status: Literal["new", "in-progress", "completed"] | None = None
    spoken_progress: SpokenProgress | None = None


class BotOutputMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["bot-output"] = "bot-output"
    data: BotOutputMessageData


class BotTranscriptionMessage(BaseModel):
    """Old: `bot-output` is the way."""

    label: Label = MESSAGE_LABEL
    type: Literal["bot-transcription"] = "bot-transcription"
    data: TextMessageData


class BotLLMTextMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["bot-llm-text"] = "bot-llm-text"
    data: TextMessageData


class BotTTSTextMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["bot-tts-text"] = "bot-tts-text"
    data: TextMessageData


class AudioMessageData(BaseModel):
    audio: str  # base64
    sample_rate: int
    num_channels: int


class BotTTSAudioMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["bot-tts-audio"] = "bot-tts-audio"
    data: AudioMessageData


class BotStartedSpeakingMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["bot-started-speaking"] = "bot-started-speaking"


class BotStoppedSpeakingMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["bot-stopped-speaking"] = "bot-stopped-speaking"


# ---------------------------------------------------------------- what the user says


class UserTranscriptionMessageData(BaseModel):
    text: str
    user_id: str
    timestamp: str  # ISO 8601
    final: bool


class UserTranscriptionMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["user-transcription"] = "user-transcription"
    data: UserTranscriptionMessageData


class UserLLMTextMessage(BaseModel):
    """What the model is asked."""

    label: Label = MESSAGE_LABEL
    type: Literal["user-llm-text"] = "user-llm-text"
    data: TextMessageData


class UserStartedSpeakingMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["user-started-speaking"] = "user-started-speaking"


class UserStoppedSpeakingMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["user-stopped-speaking"] = "user-stopped-speaking"


class UserMuteStartedMessage(BaseModel):
    """The bot does not listen."""

    label: Label = MESSAGE_LABEL
    type: Literal["user-mute-started"] = "user-mute-started"


class UserMuteStoppedMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["user-mute-stopped"] = "user-mute-stopped"


# ---------------------------------------------------------------- figures


class MetricsMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["metrics"] = "metrics"
    data: Mapping[str, Any]


class AudioLevelMessageData(BaseModel):
    value: float  # 0 to 1


class UserAudioLevelMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["user-audio-level"] = "user-audio-level"
    data: AudioLevelMessageData


class BotAudioLevelMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["bot-audio-level"] = "bot-audio-level"
    data: AudioLevelMessageData


class SystemLogMessage(BaseModel):
    label: Label = MESSAGE_LABEL
    type: Literal["system-log"] = "system-log"
    data: TextMessageData


# ---------------------------------------------------------------- a page's own: events, snapshots, commands


class UIEventData(BaseModel):
    event: str
    payload: Any | None = None


class UICommandData(BaseModel):
    command: str
    payload: Any | None = None


class A11yNode(BaseModel):
    """A node of the page's accessibility tree. What a newer client adds is kept."""

    model_config = ConfigDict(extra="allow")

    ref: str
    role: str
    name: str | None = None
    value: str | None = None
    state: list[str] | None = None
    level: int | None = None
    colcount: int | None = None
    rowcount: int | None = None
    children: list[A11yNode] | None = None


class A11ySelection(BaseModel):
    model_config = ConfigDict(extra="allow")

    ref: str
    text: str
    start_offset: int | None = None
    end_offset: int | None = None


class A11ySnapshot(BaseModel):
    model_config = ConfigDict(extra="allow")

    root: A11yNode
    captured_at: int
    selection: A11ySelection | None = None


class UISnapshotData(BaseModel):
    tree: A11ySnapshot


class UICancelJobGroupData(BaseModel):
    job_id: str
    reason: str | None = None


class UIJobGroupStartedData(BaseModel):
    kind: Literal["group_started"] = "group_started"
    job_id: str
    workers: list[str] | None = None
    label: str | None = None
    cancellable: bool = True
    at: int = 0


class UIJobUpdateData(BaseModel):
    kind: Literal["job_update"] = "job_update"
    job_id: str
    worker_name: str
    data: Any | None = None
    at: int = 0


class UIJobCompletedData(BaseModel):
    kind: Literal["job_completed"] = "job_completed"
    job_id: str
    worker_name: str
    status: str
    response: Any | None = None
    at: int = 0


class UIJobGroupCompletedData(BaseModel):
    kind: Literal["group_completed"] = "group_completed"
    job_id: str
    at: int = 0


UIJobGroupData = UIJobGroupStartedData | UIJobUpdateData | UIJobCompletedData | UIJobGroupCompletedData


class UIEventMessage(BaseModel):
    """From the client."""

    label: Label = MESSAGE_LABEL
    type: Literal["ui-event"] = "ui-event"
    id: str
    data: UIEventData


class UICommandMessage(BaseModel):
    """To the client."""

    label: Label = MESSAGE_LABEL
    type: Literal["ui-command"] = "ui-command"
    data: UICommandData


class UISnapshotMessage(BaseModel):
    """From the client."""

    label: Label = MESSAGE_LABEL
    type: Literal["ui-snapshot"] = "ui-snapshot"
    id: str
    data: UISnapshotData


class UICancelJobGroupMessage(BaseModel):
    """From the client."""

    label: Label = MESSAGE_LABEL
    type: Literal["ui-cancel-job-group"] = "ui-cancel-job-group"
    id: str
    data: UICancelJobGroupData


class UIJobGroupMessage(BaseModel):
    """To the client."""

    label: Label = MESSAGE_LABEL
    type: Literal["ui-job-group"] = "ui-job-group"
    data: Annotated[UIJobGroupData, Field(discriminator="kind")]


# ---------------------------------------------------------------- payloads of commands that clients know
# `ref` is a node of the snapshot, `target_id` an element's id; a client looks for `ref` first.


class Toast(BaseModel):
    title: str
    subtitle: str | None = None
    description: str | None = None
    image_url: str | None = None
    duration_ms: int | None = None


class Navigate(BaseModel):
    view: str
    params: dict[str, Any] | None = None


class ScrollTo(BaseModel):
    ref: str | None = None
    target_id: str | None = None
    behavior: str | None = None  # "smooth", "instant"


class Highlight(BaseModel):
    ref: str | None = None
    target_id: str | None = None
    duration_ms: int | None = None


class Focus(BaseModel):
    ref: str | None = None
    target_id: str | None = None


class Click(BaseModel):
    ref: str | None = None
    target_id: str | None = None


class SetInputValue(BaseModel):
    value: str = ""
    ref: str | None = None
    target_id: str | None = None
    replace: bool = True  # else the value is appended


class SelectText(BaseModel):
    """All of the target's text where no offsets are given; `end_offset` is exclusive."""

    ref: str | None = None
    target_id: str | None = None
    start_offset: int | None = None
    end_offset: int | None = None
