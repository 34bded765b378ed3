"""Every frame that Pipecat documents for our scope: its name, family, fields in their order, and defaults."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest

from media import frames
from media.frames import (
    AudioRawFrame,
    ControlFrame,
    DataFrame,
    DTMFFrame,
    Frame,
    ImageRawFrame,
    InputAudioRawFrame,
    KeypadEntry,
    SystemFrame,
    TextFrame,
    TTSAudioRawFrame,
    UninterruptibleFrame,
)

# "*" means uninterruptible; a field without "=" must be given; those behind "|" are set after construction.
SYSTEM = """
StartFrame: audio_in_sample_rate=16000 audio_out_sample_rate=24000 allow_interruptions=False enable_metrics=False
    enable_tracing=False enable_usage_metrics=False interruption_strategies=[] report_only_initial_ttfb=False
    tracing_context=None
CancelFrame: reason=None
ErrorFrame: error fatal=False processor=None exception=None
FatalErrorFrame: error processor=None exception=None | fatal=True
FrameProcessorPauseUrgentFrame: processor
FrameProcessorResumeUrgentFrame: processor
InterruptionFrame:
UserStartedSpeakingFrame: emulated=False
UserStoppedSpeakingFrame: emulated=False
UserSpeakingFrame:
UserMuteStartedFrame:
UserMuteStoppedFrame:
VADUserStartedSpeakingFrame: start_secs=0.0 timestamp=0.0
VADUserStoppedSpeakingFrame: stop_secs=0.0 timestamp=0.0
SpeechControlParamsFrame: vad_params=None turn_params=None
BotStartedSpeakingFrame:
BotStoppedSpeakingFrame:
BotSpeakingFrame:
BotConnectedFrame:
ClientConnectedFrame:
InputAudioRawFrame: audio sample_rate num_channels
UserAudioRawFrame: audio sample_rate num_channels
InputImageRawFrame: image size format
UserImageRawFrame: image size format user_id="" text=None append_to_context=None request=None
InputTextRawFrame: text
InputDTMFFrame: button
OutputDTMFUrgentFrame: button
InputTransportMessageFrame: message
OutputTransportMessageUrgentFrame: message
FunctionCallsStartedFrame: function_calls
FunctionCallCancelFrame: function_name tool_call_id
UserImageRequestFrame: user_id text=None append_to_context=None video_source=None function_name=None tool_call_id=None
    result_callback=None
STTMuteFrame: mute
UserIdleTimeoutUpdateFrame: timeout
MetricsFrame: data
ServiceMetadataFrame: service_name
STTMetadataFrame: service_name ttfs_p99_latency
TaskSystemFrame:
CancelTaskFrame: reason=None
InterruptionTaskFrame:
RTVIServerMessageFrame: data
RTVIClientMessageFrame: msg_id type data=None
RTVIServerResponseFrame: client_msg data=None error=None
"""
CONTROL = """
EndFrame*: reason=None
StopFrame*:
OutputTransportReadyFrame:
HeartbeatFrame: timestamp
FrameProcessorPauseFrame: processor
FrameProcessorResumeFrame: processor
LLMFullResponseStartFrame: | skip_tts=None
LLMFullResponseEndFrame: | skip_tts=None
VisionFullResponseStartFrame: | skip_tts=None
VisionFullResponseEndFrame: | skip_tts=None
LLMAssistantPushAggregationFrame:
LLMSummarizeContextFrame: config=None
LLMContextSummaryRequestFrame: request_id context min_messages_to_keep target_context_tokens summarization_prompt
    summarization_timeout=None
LLMContextSummaryResultFrame*: request_id summary last_summarized_index error=None
LLMThoughtStartFrame: append_to_context=False llm=None
LLMThoughtEndFrame: signature=None
FunctionCallInProgressFrame*: function_name tool_call_id arguments cancel_on_interruption=False
TTSStartedFrame: context_id=None
TTSStoppedFrame: context_id=None
ServiceUpdateSettingsFrame*: settings={} delta=None service=None
LLMUpdateSettingsFrame*: settings={} delta=None service=None
TTSUpdateSettingsFrame*: settings={} delta=None service=None
STTUpdateSettingsFrame*: settings={} delta=None service=None
VADParamsUpdateFrame: params
FilterControlFrame:
FilterUpdateSettingsFrame: settings
FilterEnableFrame: enable
MixerControlFrame:
MixerUpdateSettingsFrame: settings
MixerEnableFrame: enable
ServiceSwitcherFrame:
ManuallySwitchServiceFrame: service
ServiceSwitcherRequestMetadataFrame: service
TaskFrame:
EndTaskFrame*: reason=None
StopTaskFrame*:
"""
DATA = """
OutputAudioRawFrame: audio sample_rate num_channels
TTSAudioRawFrame: audio sample_rate num_channels context_id=None
SpeechOutputAudioRawFrame: audio sample_rate num_channels
OutputImageRawFrame: image size format | sync_with_audio=False
URLImageRawFrame: image size format url=None | sync_with_audio=False
AssistantImageRawFrame: image size format original_data=None original_mime_type=None | sync_with_audio=False
SpriteFrame: images
TextFrame: text | skip_tts=None includes_inter_frame_spaces=False append_to_context=True
LLMTextFrame: text | skip_tts=None includes_inter_frame_spaces=False append_to_context=True
AggregatedTextFrame: text aggregated_by context_id=None | skip_tts=None append_to_context=True
VisionTextFrame: text | skip_tts=None
TTSTextFrame: text aggregated_by context_id=None | skip_tts=None append_to_context=True
TranscriptionFrame: text user_id timestamp language=None result=None finalized=False
InterimTranscriptionFrame: text user_id timestamp language=None result=None
TranslationFrame: text user_id timestamp language=None
LLMContextAssistantTimestampFrame: timestamp
TranscriptionUpdateFrame: messages
LLMThoughtTextFrame: text
LLMRunFrame:
LLMMessagesAppendFrame: messages run_llm=None
LLMMessagesUpdateFrame: messages run_llm=None
LLMSetToolsFrame: tools
LLMSetToolChoiceFrame: tool_choice
LLMEnablePromptCachingFrame: enable
LLMConfigureOutputFrame: skip_tts
FunctionCallResultFrame*: function_name tool_call_id arguments result run_llm=None properties=None
TTSSpeakFrame: text append_to_context=None
OutputTransportMessageFrame: message
OutputDTMFFrame: button
"""
MIXINS: dict[type[Any], str] = {
    AudioRawFrame: "InputAudioRawFrame UserAudioRawFrame OutputAudioRawFrame TTSAudioRawFrame "
    "SpeechOutputAudioRawFrame",
    ImageRawFrame: "InputImageRawFrame UserImageRawFrame OutputImageRawFrame URLImageRawFrame AssistantImageRawFrame",
    DTMFFrame: "InputDTMFFrame OutputDTMFUrgentFrame OutputDTMFFrame",
}
IS_A = """
FatalErrorFrame ErrorFrame
STTMetadataFrame ServiceMetadataFrame
CancelTaskFrame TaskSystemFrame
InterruptionTaskFrame TaskSystemFrame
TTSAudioRawFrame OutputAudioRawFrame
UserAudioRawFrame InputAudioRawFrame
LLMTextFrame TextFrame
TTSTextFrame AggregatedTextFrame
AggregatedTextFrame TextFrame
TranscriptionFrame TextFrame
InterimTranscriptionFrame TextFrame
ManuallySwitchServiceFrame ServiceSwitcherFrame
FilterEnableFrame FilterControlFrame
MixerEnableFrame MixerControlFrame
EndTaskFrame TaskFrame
StopTaskFrame TaskFrame
STTUpdateSettingsFrame ServiceUpdateSettingsFrame
"""


def rows(text: str) -> list[str]:
    return text.strip().replace("\n    ", " ").splitlines()


ALL = [
    (family, row)
    for family, text in ((SystemFrame, SYSTEM), (ControlFrame, CONTROL), (DataFrame, DATA))
    for row in rows(text)
]
NAMES = [row.partition(":")[0].rstrip("*") for _, row in ALL]


@pytest.mark.parametrize(("family", "row"), ALL, ids=NAMES)
def test_a_frame_is_as_documented(family: type[Frame], row: str) -> None:
    head, _, said = row.partition(":")
    given, _, later = said.partition("|")
    cls: type[Any] = getattr(frames, head.rstrip("*"))
    fields = {field.name: field for field in dataclasses.fields(cls)}
    assert issubclass(cls, family)
    assert [one for one in (SystemFrame, ControlFrame, DataFrame) if issubclass(cls, one)] == [family]
    assert cls.is_system == (family is SystemFrame)
    assert cls.is_uninterruptible == issubclass(cls, UninterruptibleFrame) == head.endswith("*")

    pairs = [pair.partition("=") for pair in given.split()]
    must = [name for name, equals, _ in pairs if not equals]
    frame = cls(*must)  # by position, each with its own name as the value
    assert {name: getattr(frame, name) for name in must} == {name: name for name in must}
    expected = {
        name: eval(value) for name, equals, value in pairs + [p.partition("=") for p in later.split()] if equals
    }
    assert {name: getattr(frame, name) for name in expected} == expected
    assert [name for name in fields if fields[name].init][: len(pairs)] == [name for name, *_ in pairs]
    assert not any(fields[name].init for name, *_ in (p.partition("=") for p in later.split()))
    if must:
        with pytest.raises(TypeError):
            cls(*must[:-1])
    for name, value in expected.items():  # made anew for each frame
        if isinstance(value, list | dict):
            assert getattr(frame, name) is not getattr(cls(*must), name)
    # By name, too.
    assert getattr(cls(**dict.fromkeys(must, 1)), must[0] if must else "name")


@pytest.mark.parametrize(("mixin", "names"), MIXINS.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_mixins(mixin: type[Any], names: str) -> None:
    assert {name for name in NAMES if issubclass(getattr(frames, name), mixin)} == set(names.split())


@pytest.mark.parametrize("row", rows(IS_A))
def test_what_is_a_kind_of_what(row: str) -> None:
    cls, base = (getattr(frames, name) for name in row.split())
    assert issubclass(cls, base)


def test_a_context_frame_is_of_no_family() -> None:
    assert frames.LLMContextFrame.__mro__[1] is Frame
    assert not frames.LLMContextFrame.is_system


def test_the_speaker_of_a_piece_of_audio() -> None:
    assert frames.UserAudioRawFrame(b"", 8000, 1, user_id="anna").user_id == "anna"
    assert frames.UserAudioRawFrame(b"", 8000, 1).user_id == ""


def test_names_and_numbers() -> None:
    class OwnFrame(DataFrame):
        pass

    made = [OwnFrame() for _ in range(3)]
    assert [frame.name for frame in made] == ["OwnFrame#0", "OwnFrame#1", "OwnFrame#2"]
    assert str(made[1]) == "OwnFrame#1"
    others: list[Frame] = [TextFrame("a"), *made, InputAudioRawFrame(b"", 8000, 1)]
    assert len({frame.id for frame in others}) == len(others)
    assert [frame.id for frame in others] == [frame.id for frame in others]


def test_what_every_frame_has_beside_its_fields() -> None:
    frame, other = TextFrame("a"), TextFrame("a")
    assert (frame.pts, frame.broadcast_sibling_id, frame.transport_source, frame.transport_destination) == (None,) * 4
    frame.pts, frame.broadcast_sibling_id = 20_000_000, other.id
    frame.transport_source, frame.transport_destination = "caller", "music"
    frame.metadata["call"] = 1
    assert (frame.pts, frame.broadcast_sibling_id) == (20_000_000, other.id)
    assert (frame.transport_source, frame.transport_destination) == ("caller", "music")
    assert (frame.metadata, other.metadata) == ({"call": 1}, {})
    assert other.pts is None
    with pytest.raises(TypeError):
        TextFrame("a", pts=1)  # type: ignore[call-arg]


def test_nothing_of_that_is_made_until_it_is_read() -> None:
    frame = InputAudioRawFrame(bytes(320), 8000, 1)
    assert not [slot for slot in Frame.__slots__ if hasattr(frame, slot)]
    assert not hasattr(frame, "__dict__")
    before = TextFrame("a").id
    for _ in range(100):
        InputAudioRawFrame(b"", 8000, 1)
    assert TextFrame("a").id == before + 1


def test_a_frame_is_itself_and_no_other() -> None:
    frame = TextFrame("a")
    assert frame != TextFrame("a")
    assert frame in [frame]
    assert len({frame, TextFrame("a")}) == 2
    assert copy.copy(frame).text == "a"


def test_the_length_of_audio() -> None:
    assert InputAudioRawFrame(bytes(320), 8000, 1).num_frames == 160
    assert TTSAudioRawFrame(bytes(320), 8000, 2).num_frames == 80


def test_keys() -> None:
    assert "".join(KeypadEntry) == "1234567890#*ABCD"
    assert (KeypadEntry.POUND, KeypadEntry.STAR, KeypadEntry("5")) == ("#", "*", KeypadEntry.FIVE)
    with pytest.raises(ValueError, match="E"):
        KeypadEntry("E")


def test_a_thought_that_is_kept_needs_its_model() -> None:
    with pytest.raises(ValueError, match="llm"):
        frames.LLMThoughtStartFrame(append_to_context=True)
    assert frames.LLMThoughtStartFrame(append_to_context=True, llm="model").llm == "model"


def test_a_fatal_error_cannot_be_made_harmless() -> None:
    with pytest.raises(TypeError):
        frames.FatalErrorFrame("gone", fatal=False)  # type: ignore[call-arg]


def test_the_old_spelling_of_a_setting() -> None:
    assert frames.STTUpdateSettingsFrame(language="de").settings == {"language": "de"}
    assert frames.STTUpdateSettingsFrame({"model": "a"}, language="de").settings == {"model": "a", "language": "de"}


def test_frames_of_a_users_own() -> None:
    """With and without @dataclass, whatever the order of the bases."""

    @dataclass
    class Order(UninterruptibleFrame, DataFrame):
        item: str
        count: int = 1

    class Note(DataFrame, UninterruptibleFrame):
        pass

    @dataclass
    class Louder(TTSAudioRawFrame):
        gain: float = 2.0

    assert Order.is_uninterruptible
    assert Note.is_uninterruptible
    assert not Louder.is_uninterruptible
    assert (Order("tea").count, Louder(b"", 8000, 1).gain) == (1, 2.0)
    assert Order("tea").id != Order("tea").id  # equal, unhashable, and yet two
    assert Order("tea").name.startswith("Order#")
    assert not Order.is_system

    class Alarm(SystemFrame):
        pass

    assert Alarm.is_system
