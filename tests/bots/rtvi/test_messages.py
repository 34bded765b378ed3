"""RTVI's messages, in and out of a pipeline, without a network."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from bots.context.context import LLMContext
from bots.rtvi import (
    RTVIFunctionCallReportLevel,
    RTVIObserver,
    RTVIObserverParams,
    RTVIProcessor,
    RTVIServerMessageFrame,
    RTVIServerResponseFrame,
)
from bots.rtvi import models as RTVI
from media.frames import (
    AggregatedTextFrame,
    BotStartedSpeakingFrame,
    ErrorFrame,
    Frame,
    FunctionCallCancelFrame,
    FunctionCallFromLLM,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InputTransportMessageFrame,
    InterimTranscriptionFrame,
    InterruptionFrame,
    LLMConfigureOutputFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMMessagesAppendFrame,
    LLMTextFrame,
    MetricsFrame,
    OutputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
    RTVIClientMessageFrame,
    TranscriptionFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    UserMuteStartedFrame,
    UserMuteStoppedFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from media.metrics import LLMTokenUsage, LLMUsageMetricsData, TTFBMetricsData, TTSUsageMetricsData
from media.observers import FramePushed
from media.output import OutputStage
from media.processor import FrameDirection
from serializers.twilio import TwilioFrameSerializer
from tests.media.rig import Pass, Rig

READY = {
    "version": "2.1.0",
    "about": {
        "library": "@pipecat-ai/client-js",
        "library_version": "1.13.1",
        "platform": "Linux",
        "platform_details": {"browser": "Chrome"},
    },
}


class Client:
    """One end of RTVI: says messages into a pipeline, and keeps what comes out of it."""

    def __init__(self, *processors: Any, rtvi: RTVIProcessor | None = None) -> None:
        self.rtvi = rtvi or RTVIProcessor(ready_by_itself=True, observer_params=RTVIObserverParams())
        self.passed = Pass()
        self.rig = Rig([self.rtvi, *processors, self.passed]).start()

    def say(self, kind: Any, data: Any = None, id: Any = "1") -> None:
        message = {"label": "rtvi-ai", "type": kind, "id": id}
        self.rig.push(InputTransportMessageFrame(message if data is None else {**message, "data": data}))

    def ready(self) -> Client:
        self.say("client-ready", READY)
        self.rig.sunk.clear()
        return self

    def told(self) -> list[Any]:
        """What the client was told since it was last asked."""
        frames = [frame for frame in self.rig.sunk if isinstance(frame, OutputTransportMessageUrgentFrame)]
        self.rig.sunk.clear()
        return [{key: value for key, value in frame.message.items() if key != "label"} for frame in frames]

    def got(self, cls: type[Frame]) -> list[Any]:
        return [frame for frame in self.rig.sunk if isinstance(frame, cls)]


# ---------------------------------------------------------------- the hand-shake


def test_client_ready_is_answered_with_its_id() -> None:
    client = Client()
    assert client.told() == []
    client.say("client-ready", READY, "4a85eb2e")
    (ready,) = client.told()
    assert ready["type"] == "bot-ready"
    assert ready["id"] == "4a85eb2e"
    assert ready["data"]["version"] == "2.1.0"


@pytest.mark.parametrize(
    ("data", "complains"),
    [
        (None, True),
        ({}, True),
        ({"version": "9.0.0", "about": {"library": "x"}}, True),
        ({"version": "two", "about": {"library": "x"}}, True),
        ({"version": "2.1.0"}, True),
        ("nonsense", True),
        ({"version": "2.0.7", "about": {"library": "x"}}, False),
        ({"version": "1.2.0", "about": {"library": "x"}}, False),
    ],
)
def test_a_strange_version_is_told_and_let_in(data: Any, complains: bool) -> None:
    client = Client()
    client.say("client-ready", data, "7")
    told = client.told()
    assert [message["type"] for message in told] == (["error-response"] if complains else []) + ["bot-ready"]
    assert {message["id"] for message in told} == {"7"}


def test_a_client_of_version_1_is_told_its_own() -> None:
    client = Client()
    client.say("client-ready", {"version": "1.2.0", "about": {"library": "x"}})
    assert client.told()[0]["data"]["version"] == "1.2.0"


def test_whoever_is_ready_first_waits_for_the_other() -> None:
    early = Client(rtvi=RTVIProcessor())
    early.say("client-ready", READY, "a")
    assert early.told() == []
    early.rtvi.set_bot_ready({"library": "mine"})
    assert early.told()[0]["data"]["about"] == {"library": "mine"}
    late = Client(rtvi=RTVIProcessor())
    late.rtvi.set_bot_ready()
    assert late.told() == []
    late.say("client-ready", READY, "b")
    assert [message["id"] for message in late.told()] == ["b"]


def test_the_applications_messages_wait_for_the_client() -> None:
    client = Client()
    client.rtvi.send_server_message({"n": 1})
    assert client.told() == []
    client.say("client-ready", READY)
    assert [message["type"] for message in client.told()] == ["bot-ready", "server-message"]
    client.rtvi.send_server_message("two")
    assert client.told() == [{"type": "server-message", "data": "two"}]


def test_a_second_client_ready_has_its_answer_too() -> None:
    client = Client().ready()
    client.say("client-ready", READY, "again")
    assert [message["id"] for message in client.told()] == ["again"]


# ---------------------------------------------------------------- what a client says


def test_a_message_reaches_handlers_and_processors() -> None:
    client = Client().ready()
    heard = []
    client.rtvi.add_event_handler("on_client_message", lambda rtvi, message: heard.append(message))
    client.say("client-message", {"t": "echo", "d": {"n": 7}}, "c77c6c82")
    (frame,) = client.got(RTVIClientMessageFrame)
    assert (frame.msg_id, frame.type, frame.data) == ("c77c6c82", "echo", {"n": 7})
    assert heard == [RTVI.ClientMessage(msg_id="c77c6c82", type="echo", data={"n": 7})]
    client.rig.sunk.clear()
    client.rtvi.send_server_response(heard[0], {"n": 7})
    client.rtvi.send_error_response(heard[0], "told to fail")
    assert client.told() == [
        {"type": "server-response", "id": "c77c6c82", "data": {"t": "echo", "d": {"n": 7}}},
        {"type": "error-response", "id": "c77c6c82", "data": {"error": "told to fail"}},
    ]


def test_an_answer_that_is_no_json_is_an_error_response() -> None:
    client = Client().ready()
    client.rtvi.send_server_response(RTVI.ClientMessage(msg_id="1", type="x"), object())
    assert [message["type"] for message in client.told()] == ["error-response"]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("no-such-type", {}),
        (None, {}),
        (7, {}),
        ("client-message", None),
        ("client-message", {"d": 1}),
        ("client-message", {"t": 5}),
        ("client-message", "t"),
        ("send-text", {"content": 5}),
        ("send-text", {"content": "x", "options": {"run_immediately": "perhaps"}}),
        ("dtmf", {"buttons": ["1", "X"]}),
        ("dtmf", {}),
        ("dtmf", {"buttons": "12"}),
        ("llm-function-call-result", {"function_name": "f"}),
        ("raw-audio", {"base64Audio": "!", "sampleRate": 16000, "numChannels": 1}),
        ("raw-audio", {"base64Audio": "AA==", "sampleRate": 16000, "numChannels": 1}),
        ("ui-snapshot", {"tree": {}}),
        ("ui-event", []),
        ("ui-cancel-job-group", {}),
    ],
)
def test_a_bad_message_has_an_error_response_and_the_session_goes_on(kind: Any, data: Any) -> None:
    client = Client().ready()
    client.say(kind, data, "bad")
    (answer,) = client.told()
    assert (answer["type"], answer["id"]) == ("error-response", "bad")
    assert answer["data"]["error"]
    client.say("client-message", {"t": "still-there"})
    assert len(client.got(RTVIClientMessageFrame)) == 1


def test_an_error_response_tells_no_values() -> None:
    client = Client().ready()
    client.say("send-text", {"content": {"pin": "secret-4711"}})
    assert "secret-4711" not in str(client.told())


def test_messages_of_others_pass() -> None:
    client = Client().ready()
    for message in ({"label": "rtvi", "type": "client-ready"}, {"event": "custom"}, "text", None):
        client.rig.push(InputTransportMessageFrame(message))
    assert len(client.got(InputTransportMessageFrame)) == 4
    assert client.told() == []


def test_text_goes_into_the_context_at_once() -> None:
    client = Client().ready()
    client.say("send-text", {"content": "Hello"})
    assert [type(frame) for frame in client.rig.sunk] == [InterruptionFrame, LLMMessagesAppendFrame]
    (append,) = client.got(LLMMessagesAppendFrame)
    assert append.messages == [{"role": "user", "content": "Hello"}]
    assert append.run_llm is True


def test_text_without_an_answer_in_speech_or_at_all() -> None:
    client = Client().ready()
    client.say("send-text", {"content": "Hi", "options": {"run_immediately": False, "audio_response": False}})
    assert [type(frame) for frame in client.rig.sunk] == [
        LLMConfigureOutputFrame,
        LLMMessagesAppendFrame,
        LLMConfigureOutputFrame,
    ]
    assert [frame.skip_tts for frame in client.got(LLMConfigureOutputFrame)] == [True, False]
    assert client.got(LLMMessagesAppendFrame)[0].run_llm is False


def test_keys_of_both_versions() -> None:
    client = Client().ready()
    client.say("dtmf", {"buttons": ["1", "#"]})
    client.say("dtmf", {"button": "*"})
    assert [frame.button.value for frame in client.got(InputDTMFFrame)] == ["1", "#", "*"]


def test_a_client_ends_the_bot() -> None:
    client = Client().ready()
    client.say("disconnect-bot", {})
    assert client.rig.up() == ["EndTaskFrame"]


def test_a_function_that_the_client_carries_out() -> None:
    client = Client().ready()
    client.rtvi.handle_function_call(function_name="weather", tool_call_id="c1", arguments={"city": "Bonn"})
    assert client.told() == [
        {
            "type": "llm-function-call",
            "data": {"function_name": "weather", "tool_call_id": "c1", "args": {"city": "Bonn"}},
        }
    ]
    result = {"function_name": "weather", "tool_call_id": "c1", "arguments": {"city": "Bonn"}, "result": {"c": 21}}
    client.say("llm-function-call-result", result)
    (frame,) = client.got(FunctionCallResultFrame)
    assert (frame.tool_call_id, frame.result) == ("c1", {"c": 21})


def test_audio_in_messages() -> None:
    client = Client().ready()
    pcm = bytes(640)
    piece = base64.b64encode(pcm).decode()
    client.say("raw-audio", {"base64Audio": piece, "sampleRate": 16000, "numChannels": 1})
    client.say("raw-audio-batch", {"base64AudioBatch": [piece, piece], "sampleRate": 16000, "numChannels": 1})
    assert [len(frame.audio) for frame in client.got(InputAudioRawFrame)] == [640, 1280]


def test_what_a_page_says() -> None:
    client = Client().ready()
    heard: list[Any] = []
    for event in ("on_ui_event", "on_ui_snapshot", "on_ui_cancel_job_group"):
        client.rtvi.add_event_handler(event, lambda rtvi, data: heard.append(data))
    root = {"ref": "e1", "role": "main", "hue": "red", "children": [{"ref": "e2", "role": "button", "name": "Pay"}]}
    client.say("ui-event", {"event": "opened", "payload": {"view": "cart"}})
    client.say("ui-snapshot", {"tree": {"root": root, "captured_at": 1}})
    client.say("ui-cancel-job-group", {"job_id": "j", "reason": "late"})
    event, tree, cancel = heard
    assert (event.event, event.payload) == ("opened", {"view": "cart"})
    assert tree.root.children[0].name == "Pay"
    assert tree.root.model_dump(exclude_none=True)["hue"] == "red"  # a newer client's field is kept
    assert (cancel.job_id, cancel.reason) == ("j", "late")


def test_what_a_page_is_told() -> None:
    client = Client().ready()
    client.rtvi.send_ui_command("toast", RTVI.Toast(title="Paid"))
    client.rtvi.send_ui_command("mine", {"x": 1})
    client.rtvi.send_ui_job_group(RTVI.UIJobGroupStartedData(job_id="j", workers=["a"], at=5))
    assert client.told() == [
        {"type": "ui-command", "data": {"command": "toast", "payload": {"title": "Paid"}}},
        {"type": "ui-command", "data": {"command": "mine", "payload": {"x": 1}}},
        {
            "type": "ui-job-group",
            "data": {"kind": "group_started", "job_id": "j", "workers": ["a"], "cancellable": True, "at": 5},
        },
    ]


def test_errors_of_the_pipeline_are_told() -> None:
    client = Client()
    client.rig.push(ErrorFrame("early"), FrameDirection.UPSTREAM)
    assert client.told() == []
    client.ready()
    client.rig.push(ErrorFrame("late", fatal=True), FrameDirection.UPSTREAM)
    assert client.told() == [{"type": "error", "data": {"error": "late", "fatal": True}}]
    assert client.rig.up() == ["ErrorFrame", "ErrorFrame"]


def test_a_stranger_is_not_told_what_exactly_failed() -> None:
    params = RTVIObserverParams()
    client = Client(rtvi=RTVIProcessor(ready_by_itself=True, observer_params=params, error_text="sorry")).ready()
    client.rig.push(ErrorFrame("KeyError: 'secret'"), FrameDirection.UPSTREAM)
    assert client.told() == [{"type": "error", "data": {"error": "sorry", "fatal": False}}]


def test_no_carrier_ever_hears_of_it() -> None:
    client = Client()
    client.say("client-ready", READY)
    serializer = TwilioFrameSerializer("stream", "CA1", "AC1", "token")
    assert [list(serializer.encode(frame)) for frame in client.got(OutputTransportMessageUrgentFrame)] == [[]]


# ---------------------------------------------------------------- what a client is told of the pipeline


def observed(*frames: Frame, source: Any = None, **params: Any) -> list[Any]:
    """What is told of `frames`, each seen at two hops."""
    told: list[Any] = []

    class Told(RTVIObserver):
        def _tell(self, message: Any) -> Any:
            told.append(message.model_dump(mode="json", exclude_none=True))
            return super()._tell(message)

    observer = Told(params=RTVIObserverParams(**params))
    a, b = source or Pass(), Pass()
    for at, frame in enumerate(frames):
        for hop in range(2):
            wanted = any(isinstance(frame, cls) for cls in observer.frame_types or ())
            if wanted:
                done = observer.on_push_frame(FramePushed(a, b, frame, FrameDirection.DOWNSTREAM, at * 10**8 + hop))
                assert done is not None
    return [{key: value for key, value in message.items() if key != "label"} for message in told]


PLAIN = [
    (UserStartedSpeakingFrame(), "user-started-speaking", "user_speaking_enabled"),
    (UserStoppedSpeakingFrame(), "user-stopped-speaking", "user_speaking_enabled"),
    (UserMuteStartedFrame(), "user-mute-started", "user_mute_enabled"),
    (UserMuteStoppedFrame(), "user-mute-stopped", "user_mute_enabled"),
    (BotStartedSpeakingFrame(), "bot-started-speaking", "bot_speaking_enabled"),
    (LLMFullResponseStartFrame(), "bot-llm-started", "bot_llm_enabled"),
    (LLMFullResponseEndFrame(), "bot-llm-stopped", "bot_llm_enabled"),
    (TTSStartedFrame(), "bot-tts-started", "bot_tts_enabled"),
    (TTSStoppedFrame(), "bot-tts-stopped", "bot_tts_enabled"),
]


@pytest.mark.parametrize(("frame", "kind", "switch"), PLAIN, ids=[kind for _, kind, _ in PLAIN])
def test_a_frame_is_one_message_and_can_be_turned_off(frame: Frame, kind: str, switch: str) -> None:
    assert observed(frame) == [{"type": kind}]
    assert observed(frame, **{switch: False}) == []


def test_broadcast_twins_are_one_message() -> None:
    down, up = UserStartedSpeakingFrame(), UserStartedSpeakingFrame()
    down.broadcast_sibling_id, up.broadcast_sibling_id = up.id, down.id
    assert len(observed(down, up)) == 1


def test_sources_can_be_ignored() -> None:
    source = Pass()
    assert observed(UserStartedSpeakingFrame(), source=source, ignored_sources=[source]) == []


def test_transcriptions() -> None:
    told = observed(InterimTranscriptionFrame("hel", "u", "t1"), TranscriptionFrame("hello", "u", "t2"))
    assert told == [
        {"type": "user-transcription", "data": {"text": "hel", "user_id": "u", "timestamp": "t1", "final": False}},
        {"type": "user-transcription", "data": {"text": "hello", "user_id": "u", "timestamp": "t2", "final": True}},
    ]


def test_what_the_model_is_asked_and_says() -> None:
    context = LLMContext([{"role": "system", "content": "hidden"}, {"role": "user", "content": "Hi"}])
    told = observed(LLMContextFrame(context), LLMTextFrame("Hello"), LLMTextFrame("."), LLMFullResponseEndFrame())
    assert [(message["type"], message.get("data", {}).get("text")) for message in told] == [
        ("user-llm-text", "Hi"),
        ("bot-llm-text", "Hello"),
        ("bot-llm-text", "."),
        ("bot-transcription", "Hello."),
        ("bot-llm-stopped", None),
    ]


class Wire:
    """As much of a wire as an output stage needs to be made."""


def test_text_is_told_unspoken_and_then_spoken() -> None:
    spoken = TTSTextFrame("Hello.", "sentence")
    assert observed(spoken) == []  # on its way to the output
    output: Any = OutputStage(Wire())  # type: ignore[arg-type]
    told = observed(AggregatedTextFrame("Hello.", "sentence")) + observed(spoken, source=output)
    assert told == [
        {"type": "bot-output", "data": {"text": "Hello.", "spoken": False, "aggregated_by": "sentence"}},
        {"type": "bot-output", "data": {"text": "Hello.", "spoken": True, "aggregated_by": "sentence"}},
        {"type": "bot-tts-text", "data": {"text": "Hello."}},
    ]


def test_texts_are_skipped_or_changed() -> None:
    card = AggregatedTextFrame("4711", "credit_card")
    assert observed(card, skip_aggregator_types=["credit_card"]) == []

    async def redact(text: str, kind: str) -> str:
        return "[REDACTED]"

    told = observed(card, bot_output_transforms=[("credit_card", lambda text, kind: "x" + text)])
    assert told[0]["data"]["text"] == "x4711"

    observer = RTVIObserver(RTVIProcessor(), params=RTVIObserverParams(bot_output_transforms=[("*", redact)]))
    seen: list[Any] = []
    observer._tell = seen.append  # type: ignore[method-assign, assignment]
    waits = observer.on_push_frame(FramePushed(Pass(), Pass(), card, FrameDirection.DOWNSTREAM, 0))
    with pytest.raises(StopIteration):
        waits.send(None)
    assert seen[0].data.text == "[REDACTED]"


FULL = {"*": RTVIFunctionCallReportLevel.FULL}


@pytest.mark.parametrize(
    ("level", "shown"),
    [("disabled", None), ("none", set()), ("name", {"function_name"}), ("full", {"function_name", "more"})],
)
def test_functions_are_told_as_far_as_the_client_may_know(level: str, shown: set[str] | None) -> None:
    told = observed(
        FunctionCallsStartedFrame([FunctionCallFromLLM("f", "c1", {"a": 1}, None)]),
        FunctionCallInProgressFrame("f", "c1", {"a": 1}),
        FunctionCallResultFrame("f", "c1", {"a": 1}, {"r": 2}),
        FunctionCallCancelFrame("f", "c1"),
        function_call_report_level={"*": RTVIFunctionCallReportLevel.FULL, "f": RTVIFunctionCallReportLevel(level)},
    )
    if shown is None:
        assert told == []
        return
    name = {"function_name": "f"} if "function_name" in shown else {}
    more = "more" in shown
    assert told == [
        {"type": "llm-function-call-started", "data": name},
        {
            "type": "llm-function-call-in-progress",
            "data": {"tool_call_id": "c1", **name, **({"arguments": {"a": 1}} if more else {})},
        },
        {
            "type": "llm-function-call-stopped",
            "data": {"tool_call_id": "c1", "cancelled": False, **name, **({"result": {"r": 2}} if more else {})},
        },
        {"type": "llm-function-call-stopped", "data": {"tool_call_id": "c1", "cancelled": True, **name}},
    ]


def test_metrics() -> None:
    usage = LLMTokenUsage(prompt_tokens=3, completion_tokens=4, total_tokens=7)
    told = observed(
        MetricsFrame(
            [
                TTFBMetricsData(processor="tts", model="m", value=0.25),
                LLMUsageMetricsData(processor="llm", value=usage),
                TTSUsageMetricsData(processor="tts", value=12),
            ]
        )
    )
    assert told == [
        {
            "type": "metrics",
            "data": {
                "ttfb": [{"processor": "tts", "model": "m", "value": 0.25}],
                "tokens": [{"processor": "llm", "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}],
                "characters": [{"processor": "tts", "value": 12}],
            },
        }
    ]


def test_levels_only_if_somebody_asked_and_not_for_each_frame() -> None:
    loud = (b"\x00\x40\x00\xc0" * 160)[:640]
    said = [InputAudioRawFrame(loud, 16000, 1) for _ in range(5)]  # 0.1 s apart
    assert observed(*said) == []
    told = observed(*said, user_audio_level_enabled=True)
    assert [message["type"] for message in told] == ["user-audio-level"] * 3
    assert 0.5 < told[0]["data"]["value"] <= 1
    bot = observed(OutputAudioRawFrame(bytes(640), 16000, 1), bot_audio_level_enabled=True)
    assert bot == [{"type": "bot-audio-level", "data": {"value": 0.0}}]


def test_audio_is_not_even_recorded_unless_levels_were_asked_for() -> None:
    plain = RTVIObserver(params=RTVIObserverParams())
    assert not [cls for cls in plain.frame_types or () if issubclass(InputAudioRawFrame, cls)]


# ---------------------------------------------------------------- the processor with its observer


def test_nobody_watches_until_a_client_is_ready() -> None:
    client = Client(Pass())
    client.rig.push(UserStartedSpeakingFrame())
    assert client.told() == []
    assert client.rig.pipeline.flow.tap is None
    client.ready()
    assert client.rig.pipeline.flow.tap is not None
    client.rig.push(UserStoppedSpeakingFrame())
    assert client.told() == [{"type": "user-stopped-speaking"}]


def test_processors_push_messages_and_answers() -> None:
    client = Client(Pass()).ready()
    asked = RTVIClientMessageFrame("9", "sum", None)
    client.rig.push(RTVIServerMessageFrame({"n": 1}))
    client.rig.push(RTVIServerResponseFrame(asked, {"n": 2}))
    client.rig.push(RTVIServerResponseFrame(asked, error="no"))
    assert client.told() == [
        {"type": "server-message", "data": {"n": 1}},
        {"type": "server-response", "id": "9", "data": {"t": "sum", "d": {"n": 2}}},
        {"type": "error-response", "id": "9", "data": {"error": "no"}},
    ]


# ---------------------------------------------------------------- models


def test_the_models_of_the_protocol() -> None:
    message = RTVI.BotReady(id="1", data=RTVI.BotReadyData(version=RTVI.PROTOCOL_VERSION))
    assert message.model_dump(exclude_none=True) == {
        "label": "rtvi-ai",
        "type": "bot-ready",
        "id": "1",
        "data": {"version": RTVI.PROTOCOL_VERSION},
    }
    with pytest.raises(ValidationError):
        RTVI.Message(label="other", type="x", id="1")  # type: ignore[arg-type]
    assert RTVI.SetInputValue().model_dump() == {"value": "", "ref": None, "target_id": None, "replace": True}
    group: Any = TypeAdapter(RTVI.UIJobGroupMessage).validate_python(
        {"data": {"kind": "job_completed", "job_id": "j", "worker_name": "w", "status": "ok"}}
    )
    assert isinstance(group.data, RTVI.UIJobCompletedData)
