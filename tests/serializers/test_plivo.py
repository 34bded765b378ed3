"""Plivo: the serializer against the strict fake, and each rule of the wire by itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pybase64 import b64decode, b64encode_as_string

from gateway.simulator.plivo import FakePlivo
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.errors import LocalProtocolError, RemoteProtocolError
from media.frames import (
    CallEndedFrame,
    CallStartedFrame,
    CancelFrame,
    CarrierErrorFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    KeypadEntry,
    MarkFrame,
    OutputAudioRawFrame,
    OutputDTMFFrame,
    OutputDTMFUrgentFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    PlaybackClearedFrame,
    PlayedFrame,
    StartFrame,
    TTSAudioRawFrame,
)
from serializers.base import Ending, HangUp, WireOptions
from serializers.plivo import PlivoFrameSerializer, parse_extra_headers
from tests.serializers.conformance import Line, SerializerConformance, machine, tone

CALL_ID = "12345678-1234-1234-1234-123456789abc"
STREAM_ID = "b77e037d-4119-44b5-902d-25826b654539"


class TestConformance(SerializerConformance):
    make = staticmethod(lambda: PlivoFrameSerializer.for_call(WireOptions()))
    fake = staticmethod(FakePlivo)
    plan: ClassVar = {"parameters": {"bot": "sales", "ref": "42"}}
    digits = "0123456789*#ABCD"


class TestLinear8(SerializerConformance):
    make = staticmethod(lambda: PlivoFrameSerializer.for_call(WireOptions(send_codec="L16", send_sample_rate=8000)))
    fake = staticmethod(FakePlivo)
    plan: ClassVar = {"send_codec": "L16", "sample_rate": 8000}


class TestLinear16(SerializerConformance):
    make = staticmethod(lambda: PlivoFrameSerializer.for_call(WireOptions(send_codec="L16", send_sample_rate=16000)))
    fake = staticmethod(FakePlivo)
    plan: ClassVar = {"send_codec": "L16", "sample_rate": 16000, "options": {"strings": True, "stop": True}}


TestMachine = machine(TestConformance)
TestMachineLinear = machine(TestLinear16)


def serializer(**params: Any) -> PlivoFrameSerializer:
    """As a user of Pipecat builds it, without the hang-up."""
    return PlivoFrameSerializer(STREAM_ID, params=PlivoFrameSerializer.InputParams(auto_hang_up=False, **params))


MULAW = {"encoding": "audio/x-mulaw", "sampleRate": 8000}


def start(media_format: Any = MULAW, extra_headers: Any = "bot=sales,ref=42", **fields: Any) -> str:
    inner = {
        "callId": CALL_ID,
        "streamId": STREAM_ID,
        "accountId": "MA000000000000000001",
        "tracks": ["inbound"],
        "mediaFormat": media_format,
        **fields,
    }
    return json.dumps({"event": "start", "sequenceNumber": 1, "start": inner, "extra_headers": extra_headers})


def media(payload: bytes, track: Any = "inbound", chunk: Any = 1, timestamp: Any = "1767225600020") -> str:
    fields = {"track": track, "timestamp": timestamp, "chunk": chunk, "payload": b64encode_as_string(payload)}
    message = {"event": "media", "sequenceNumber": 2, "streamId": STREAM_ID, "media": fields, "extra_headers": "a=1"}
    return json.dumps(message)


def only(frames: Sequence[Frame], kind: type) -> Any:
    [frame] = frames
    assert type(frame) is kind
    return frame


def payload_of(message: str | bytes) -> bytes:
    return b64decode(json.loads(message)["media"]["payload"])


def started(options: WireOptions | None = None, media_format: Any = MULAW) -> PlivoFrameSerializer:
    made = PlivoFrameSerializer.for_call(options or WireOptions())
    made.decode(start(media_format))
    return made


def line(options: dict[str, Any] | None = None, **plan: Any) -> Line:
    codec = WireOptions(send_codec=plan.get("send_codec", ""), send_sample_rate=plan.get("sample_rate", 0))
    made = Line(lambda: PlivoFrameSerializer.for_call(codec), FakePlivo, options=options or {}, **plan)
    made.open()
    return made


# ---------------------------------------------------------------- codecs and rates, as negotiated


def test_mu_law_both_ways() -> None:
    wire = bytes(range(160))
    made = started()
    frame = only(made.decode(media(wire)), InputAudioRawFrame)
    assert (frame.audio, frame.sample_rate, frame.num_channels) == (ulaw_to_pcm(wire), 8000, 1)
    voice = tone(8000, 0.02)
    assert [json.loads(message) for message in made.encode(OutputAudioRawFrame(voice, 8000, 1))] == [
        {
            "event": "playAudio",
            "media": {
                "contentType": "audio/x-mulaw",
                "sampleRate": 8000,
                "payload": b64encode_as_string(pcm_to_ulaw(voice)),
            },
            "streamId": STREAM_ID,
        }
    ]


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_l16_is_little_endian_both_ways(rate: int) -> None:
    made = started(WireOptions(send_codec="L16"), {"encoding": "audio/x-l16", "sampleRate": rate})
    voice = tone(rate, 0.02)
    frame = only(made.decode(media(voice)), InputAudioRawFrame)
    assert (frame.audio, frame.sample_rate) == (voice, rate)
    assert made.send_rate == rate
    [message] = made.encode(OutputAudioRawFrame(voice, rate, 1))
    assert payload_of(message) == voice
    sent = json.loads(message)["media"]
    assert (sent["contentType"], sent["sampleRate"]) == ("audio/x-l16", rate)


@pytest.mark.parametrize(
    ("asked", "media_format", "content_type", "rate"),
    [
        (WireOptions(), {"encoding": "audio/x-l16", "sampleRate": 16000}, "audio/x-l16", 16000),
        (WireOptions(send_codec="L16"), MULAW, "audio/x-mulaw", 8000),
        (WireOptions(), {"encoding": "audio/x-l16;rate=8000", "sampleRate": "8000"}, "audio/x-l16", 8000),
        (WireOptions(), {"encoding": "Audio/X-Mulaw", "sampleRate": 8000}, "audio/x-mulaw", 8000),
        (WireOptions(send_codec="L16"), None, "audio/x-l16", 16000),
        (WireOptions(send_codec="L16", send_sample_rate=8000), {"encoding": "audio/x-l16"}, "audio/x-l16", 8000),
        (WireOptions(), None, "audio/x-mulaw", 8000),
    ],
)
def test_start_decides_and_what_was_asked_fills_its_gaps(
    asked: WireOptions, media_format: Any, content_type: str, rate: int
) -> None:
    made = started(asked, media_format)
    assert made.send_rate == rate
    [message] = made.encode(OutputAudioRawFrame(tone(rate, 0.02), rate, 1))
    sent = json.loads(message)["media"]
    assert (sent["contentType"], sent["sampleRate"]) == (content_type, rate)


@pytest.mark.parametrize(
    "media_format",
    [
        {"encoding": "audio/x-opus", "sampleRate": 16000},
        {"encoding": "s3cr3t", "sampleRate": 8000},
        {"encoding": 7, "sampleRate": 8000},
        {"encoding": "audio/x-mulaw", "sampleRate": 16000},
        {"encoding": "audio/x-l16", "sampleRate": "fast"},
        {"encoding": "audio/x-l16", "sampleRate": 0},
    ],
)
def test_a_format_that_plivo_does_not_have(media_format: Any) -> None:
    made = PlivoFrameSerializer.for_call(WireOptions())
    with pytest.raises(RemoteProtocolError, match=r"start\.mediaFormat") as caught:
        made.decode(start(media_format))
    assert "s3cr3t" not in f"{caught.value}{caught.value.excerpt}"
    assert only(made.decode(start()), CallStartedFrame).call.call_id == CALL_ID


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_caller_audio_at_the_pipelines_rate(rate: int) -> None:
    made = started(WireOptions(in_sample_rate=rate))
    for _ in range(5):
        frame = only(made.decode(media(pcm_to_ulaw(tone(8000, 0.02)))), InputAudioRawFrame)
        assert (frame.sample_rate, frame.num_frames) == (rate, rate // 50)


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_bot_audio_of_any_rate_is_brought_to_the_wires(rate: int) -> None:
    made = started()
    for _ in range(5):
        [message] = made.encode(OutputAudioRawFrame(tone(rate, 0.02), rate, 1))
        assert len(payload_of(message)) == 160


def test_half_a_sample_waits_for_its_other_half() -> None:
    made = started(None, {"encoding": "audio/x-l16", "sampleRate": 8000})
    voice = tone(8000, 0.02)
    frames = [*made.decode(media(voice[:101])), *made.decode(media(voice[101:102])), *made.decode(media(voice[102:]))]
    assert b"".join(frame.audio for frame in frames if isinstance(frame, InputAudioRawFrame)) == voice
    assert all(len(frame.audio) % 2 == 0 for frame in frames if isinstance(frame, InputAudioRawFrame))
    assert list(made.decode(media(b"x"))) == []
    # A packet of the usual length begins with a whole sample, so that byte was a stray.
    assert only(made.decode(media(voice)), InputAudioRawFrame).audio == voice


# ---------------------------------------------------------------- start data, extra headers


def test_start_is_the_first_message_and_tells_the_call() -> None:
    made = PlivoFrameSerializer.for_call(WireOptions())
    call = only(made.decode(start()), CallStartedFrame).call
    assert call.carrier == "plivo"
    assert call.call_id == CALL_ID
    assert call.stream_id == STREAM_ID
    assert call.account_id == "MA000000000000000001"
    assert (call.from_number, call.to_number) == ("", "")
    assert call.parameters == {"bot": "sales", "ref": "42"}
    assert call.receive == call.send
    assert (call.receive.encoding, call.receive.sample_rate) == ("PCMU", 8000)
    assert call.extra == {"tracks": ["inbound"]}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("bot=sales,ref=42", {"bot": "sales", "ref": "42"}),
        ("bot=sales;ref=42", {"bot": "sales", "ref": "42"}),
        (" bot = sales , ref = 42 ", {"bot": "sales", "ref": "42"}),
        ('{"bot":"sales","ref":"42"}', {"bot": "sales", "ref": "42"}),
        ('{"bot":"sales","n":7,"deep":{"a":[1]}}', {"bot": "sales", "n": 7, "deep": {"a": [1]}}),
        ("{bot=sales, ref=42}", {"bot": "sales", "ref": "42"}),
        ("{'bot': 'sales', 'ref': '42'}", {"bot": "sales", "ref": "42"}),
        ("token=abc==,b=1", {"token": "abc==", "b": "1"}),
        ("url=https://a.b/c,b=", {"url": "https://a.b/c", "b": ""}),
        ({"bot": "sales"}, {"bot": "sales"}),
        ("{}", {}),
        ("", {}),
        ("nothing of the kind", {}),
        ("=x,;,", {}),
        (None, {}),
        (["a=1"], {}),
        ("{" * 5000, {}),
    ],
)
def test_extra_headers_in_all_their_forms(written: Any, read: Any) -> None:
    assert parse_extra_headers(written) == read
    made = PlivoFrameSerializer.for_call(WireOptions())
    assert only(made.decode(start(extra_headers=written)), CallStartedFrame).call.parameters == read


@pytest.mark.parametrize("form", ["comma", "semicolon", "braces", "json", "object"])
def test_parameters_reach_the_call_whatever_their_form(form: str) -> None:
    call = line({"headers": form}, parameters={"bot": "sales", "ref": "42"}).seen(CallStartedFrame)[0].call
    assert call.parameters == {"bot": "sales", "ref": "42"}


def test_no_extra_headers_at_all() -> None:
    opened = line({"headers": "absent"}, parameters={"bot": "sales"})
    assert opened.seen(CallStartedFrame)[0].call.parameters == {}
    opened.say(tone(8000, 0.02))
    opened.press("1")
    assert len(opened.seen(InputAudioRawFrame)) == len(opened.seen(InputDTMFFrame)) == 1


@pytest.mark.parametrize("lacking", ["callId", "streamId"])
def test_start_without_its_ids(lacking: str) -> None:
    with pytest.raises(RemoteProtocolError, match=lacking):
        PlivoFrameSerializer.for_call(WireOptions()).decode(start(**{lacking: None}))


def test_the_second_start_is_ignored() -> None:
    made = started()
    assert made.decode(start({"encoding": "audio/x-l16", "sampleRate": 16000})) == ()
    assert made.send_rate == 8000


# ---------------------------------------------------------------- media: numbers, tracks


@pytest.mark.parametrize("timestamps", ["epoch", "stream"])
@pytest.mark.parametrize("strings", [False, True])
def test_the_carriers_numbers(timestamps: str, strings: bool) -> None:
    opened = line({"timestamps": timestamps, "strings": strings})
    for _ in range(3):
        opened.wait(0.02)
        opened.say(tone(8000, 0.02))
    frames = opened.seen(InputAudioRawFrame)
    first = 1_767_225_600_020 if timestamps == "epoch" else 20
    assert [(frame.seq, frame.timestamp_ms) for frame in frames] == [(1, first), (2, first + 20), (3, first + 40)]


@pytest.mark.parametrize(
    ("options", "chunks"),
    [
        ({"swap_every": 3}, [1, 2, 4, 3, 5]),
        ({"lose_every": 2}, [1, 3, 5]),
        ({"unknown": True}, [1, 2, 3, 4, 5]),
        ({"rate_in_encoding": True}, [1, 2, 3, 4, 5]),
    ],
)
def test_a_carrier_that_misbehaves(options: dict[str, Any], chunks: list[int]) -> None:
    opened = line(options)
    for _ in range(5):
        opened.wait(0.02)
        opened.say(tone(8000, 0.02))
    assert [frame.seq for frame in opened.seen(InputAudioRawFrame)] == chunks


@pytest.mark.parametrize("number", [None, [], "x", "", {}, True, 2.0])
def test_a_number_that_cannot_be_read_does_not_cost_the_audio(number: Any) -> None:
    frame = only(started().decode(media(b"\xff" * 160, chunk=number, timestamp=number)), InputAudioRawFrame)
    assert frame.num_frames == 160
    assert frame.seq in (None, 2)


@pytest.mark.parametrize("track", ["outbound", 1, []])
def test_only_the_inbound_track_is_the_caller(track: Any) -> None:
    assert list(started().decode(media(b"\xff" * 160, track=track))) == []


# ---------------------------------------------------------------- checkpoints, clear


def test_checkpoint_out_and_played_in() -> None:
    made = started()
    assert [json.loads(message) for message in made.encode(MarkFrame('cp-"é'))] == [
        {"event": "checkpoint", "streamId": STREAM_ID, "name": 'cp-"é'}
    ]
    for event in ("playedStream", "played"):
        message = {"event": event, "sequenceNumber": 12, "streamId": STREAM_ID, "name": 'cp-"é'}
        assert only(made.decode(json.dumps(message)), PlayedFrame).name == 'cp-"é'


def test_clear_out_and_cleared_in() -> None:
    made = started()
    assert [json.loads(message) for message in made.encode(InterruptionFrame())] == [
        {"event": "clearAudio", "streamId": STREAM_ID}
    ]
    assert only(
        made.decode(json.dumps({"event": "clearedAudio", "sequenceNumber": 15, "streamId": STREAM_ID})),
        PlaybackClearedFrame,
    )


@pytest.mark.parametrize("played", [False, True])
def test_checkpoints_that_a_clear_overtook_are_never_answered(played: bool) -> None:
    opened = line({"played": played})
    assert opened.serializer.has_marks
    assert not opened.serializer.echoes_marks_on_clear
    for name in "abc":
        opened.send(OutputAudioRawFrame(tone(8000, 0.2), 8000, 1))
        opened.send(MarkFrame(name))
    opened.wait(0.25)
    opened.send(InterruptionFrame())
    assert opened.seen(PlaybackClearedFrame)
    opened.wait(2.0)
    assert [frame.name for frame in opened.seen(PlayedFrame)] == ["a"]


# ---------------------------------------------------------------- digits


@pytest.mark.parametrize("digit", [*"0123456789*#ABCD", "d", 7])
def test_digit_in(digit: Any) -> None:
    message = {"event": "dtmf", "streamId": STREAM_ID, "dtmf": {"track": "inbound", "digit": digit}}
    frame = only(started().decode(json.dumps(message)), InputDTMFFrame)
    assert frame.button is KeypadEntry(str(digit).upper())


@pytest.mark.parametrize("digit", ["E", "12", "flash"])
def test_a_digit_that_no_telephone_has_is_counted_and_dropped(digit: str) -> None:
    made = started()
    assert list(made.decode(json.dumps({"event": "dtmf", "dtmf": {"digit": digit}}))) == []
    assert made.dropped_digits == 1


@pytest.mark.parametrize("frame", [OutputDTMFFrame, OutputDTMFUrgentFrame])
def test_digits_go_out_as_messages(frame: Any) -> None:
    opened = line()
    assert opened.serializer.sends_digits
    for key in KeypadEntry:
        [message] = opened.serializer.encode(frame(key))
        assert json.loads(message) == {"event": "sendDTMF", "dtmf": key.value}
        opened.to_carrier([message])
    assert opened.carrier.digits_sent == "".join(key.value for key in KeypadEntry)


# ---------------------------------------------------------------- packet size


@pytest.mark.parametrize(("codec", "rate", "width"), [("PCMU", 8000, 1), ("L16", 8000, 2), ("L16", 16000, 2)])
def test_large_audio_is_cut_to_16_kb_of_base64(codec: str, rate: int, width: int) -> None:
    opened = line(send_codec=codec, sample_rate=rate)
    voice = tone(rate, 5.003)
    messages = opened.serializer.encode(OutputAudioRawFrame(voice, rate, 1))
    assert len(messages) == -(-len(voice) // 2 * width // 12288)
    assert {len(json.loads(message)["media"]["payload"]) for message in messages[:-1]} == {16384}
    wire = b"".join(payload_of(message) for message in messages)
    assert wire == (voice if width == 2 else pcm_to_ulaw(voice))
    opened.to_carrier(messages)
    assert not opened.carrier.violations


def test_no_padding_is_needed() -> None:
    made = started()
    [message] = made.encode(OutputAudioRawFrame(tone(8000, 0.0125), 8000, 1))
    assert len(payload_of(message)) == 100
    assert list(made.flush()) == []
    assert list(made.encode(OutputAudioRawFrame(b"", 8000, 1))) == []


def test_the_resamplers_tail_leaves_at_the_end() -> None:
    made = started()
    sent = [*made.encode(OutputAudioRawFrame(tone(16000, 0.1), 16000, 1)), *made.flush()]
    assert len(b"".join(payload_of(message) for message in sent)) > 800
    assert list(made.flush()) == []


def test_speech_frames_are_audio_too() -> None:
    [message] = started().encode(TTSAudioRawFrame(tone(8000, 0.02), 8000, 1))
    assert len(payload_of(message)) == 160


# ---------------------------------------------------------------- the end, errors, the rest


def test_the_closing_of_the_socket_is_the_end() -> None:
    assert PlivoFrameSerializer.close_is_normal_end
    assert PlivoFrameSerializer.ending is Ending.REST


@pytest.mark.parametrize("message", ['{"event":"stop"}', '{"event":"stop","stop":{"callId":"x"}}'])
def test_stop_is_understood(message: str) -> None:
    assert only(started().decode(message), CallEndedFrame).reason == "caller"


def test_end_frames_are_not_for_the_socket() -> None:
    made = started()
    assert list(made.encode(EndFrame())) == list(made.encode(CancelFrame())) == []


@pytest.mark.parametrize("event", ["error", "playFailed"])
def test_errors_of_the_carrier(event: str) -> None:
    frame = only(started().decode(json.dumps({"event": event, "reason": "bad audio"})), CarrierErrorFrame)
    assert (frame.code, frame.message) == (event, "bad audio")
    assert only(started().decode(json.dumps({"event": event})), CarrierErrorFrame).message == ""


def test_an_error_does_not_end_the_stream() -> None:
    opened = line({"error": "buffer_overflow"})
    opened.say(tone(8000, 0.02))
    opened.say(tone(8000, 0.02))
    assert [frame.message for frame in opened.seen(CarrierErrorFrame)] == ["buffer_overflow"]
    assert len(opened.seen(InputAudioRawFrame)) == 2


@pytest.mark.parametrize("frame", [OutputTransportMessageFrame, OutputTransportMessageUrgentFrame])
def test_application_messages_go_out(frame: Any) -> None:
    made = started()
    assert [json.loads(message) for message in made.encode(frame({"event": "x", "a": [1]}))] == [
        {"event": "x", "a": [1]}
    ]
    assert list(made.encode(frame({"label": "rtvi-ai", "type": "bot-ready"}))) == []


@pytest.mark.parametrize(
    "message",
    [
        '{"event":"media"}',
        '{"event":"media","media":{}}',
        '{"event":"media","media":{"payload":7}}',
        '{"event":"media","media":{"payload":"abc"}}',
        '{"event":"playedStream"}',
        '{"event":"played","name":7}',
        '{"event":"dtmf","dtmf":{}}',
        '{"event":"dtmf","dtmf":[]}',
        '{"event":"start"}',
        '{"event":"start","start":[]}',
        "not JSON",
        "[]",
        b"\xff",
    ],
)
def test_a_known_message_of_the_wrong_shape(message: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        started().decode(message)
    assert caught.value.carrier == "plivo"


@pytest.mark.parametrize("event", ["muteStream", "unmuteStream", "connected", "new"])
def test_messages_without_news(event: str) -> None:
    assert list(started().decode(json.dumps({"event": event}))) == []


# ---------------------------------------------------------------- Pipecat's face


def run(coro: Any) -> Any:
    """Drive a coroutine that never waits."""
    with pytest.raises(StopIteration) as stopped:
        coro.send(None)
    return stopped.value.value


def test_constructor_and_defaults() -> None:
    params = PlivoFrameSerializer.InputParams()
    assert (params.plivo_sample_rate, params.sample_rate, params.auto_hang_up) == (8000, None, True)
    assert params.ignore_rtvi_messages
    with pytest.raises(TypeError):
        PlivoFrameSerializer()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        ({}, "call_id and auth_id and auth_token"),
        ({"call_id": CALL_ID, "auth_id": "MA"}, "auth_token"),
        ({"auth_id": "MA", "auth_token": "t"}, "call_id"),
    ],
)
def test_auto_hang_up_needs_credentials(given: dict[str, str], lacking: str) -> None:
    with pytest.raises(ValueError, match=f"needs {lacking};"):
        PlivoFrameSerializer(STREAM_ID, **given)


def test_the_hang_up_is_a_value() -> None:
    made = PlivoFrameSerializer(STREAM_ID, CALL_ID, "MA01", "s3cr3t")
    assert made.hang_up_request() == HangUp(carrier="plivo", call_id=CALL_ID, account_id="MA01", secret="s3cr3t")
    assert "s3cr3t" not in repr(made.hang_up_request())
    assert serializer().hang_up_request() is None
    assert started().hang_up_request() is None


def test_an_encoding_that_plivo_does_not_have_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="PCMU or L16"):
        serializer(encoding="PCMA")


def test_the_asynchronous_face() -> None:
    made = serializer()
    run(made.setup(StartFrame(audio_in_sample_rate=16000)))
    frame = run(made.deserialize(media(b"\xff" * 160)))  # `start` was read by somebody else
    assert isinstance(frame, InputAudioRawFrame)
    assert (frame.sample_rate, frame.num_frames) == (16000, 320)
    assert run(made.deserialize(start())) is None  # Pipecat has no frame for it
    assert run(made.deserialize('{"event":"media"}')) is None
    message = run(made.serialize(OutputAudioRawFrame(tone(16000, 0.02), 16000, 1)))
    assert len(payload_of(message)) == 160
    assert json.loads(run(made.serialize(InterruptionFrame()))) == {"event": "clearAudio", "streamId": STREAM_ID}
    assert run(made.serialize(EndFrame())) is None
    with pytest.raises(LocalProtocolError, match="encode"):
        made.serialize(OutputAudioRawFrame(bytes(2 * 8000 * 2), 8000, 1)).send(None)


# ---------------------------------------------------------------- recorded calls

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
RECORDED = {
    "plivo_call": (WireOptions(), ["g1-1", "g2-1", "g3-1"], "1"),
    "plivo_l16": (WireOptions(send_codec="L16"), ["g1-1", "g2-1", "g3-1"], "1"),
    "plivo_lenient": (WireOptions(), ["g1-1"], "#"),
    "plivo_reconnect": (WireOptions(), ["g1-1"], ""),
}


def test_every_recording_is_replayed() -> None:
    assert {path.stem for path in TRANSCRIPTS.glob("plivo_*.jsonl")} == set(RECORDED)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_call(name: str) -> None:
    """What came in is understood; what went out is what `encode` makes of the same audio, to the byte."""
    wire, checkpoints, digits = RECORDED[name]
    sockets: dict[Any, PlivoFrameSerializer] = {}
    heard: list[Frame] = []
    for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines():
        step = json.loads(line)
        made = sockets.setdefault(step.get("conn"), PlivoFrameSerializer.for_call(wire))
        message = step["msg"]
        if step["dir"] == "in":
            heard += made.decode(json.dumps(message))
            continue
        frame: Frame
        if message["event"] == "playAudio":
            audio = b64decode(message["media"]["payload"])
            frame = OutputAudioRawFrame(audio if wire.send_codec == "L16" else ulaw_to_pcm(audio), made.send_rate, 1)
        elif message["event"] == "checkpoint":
            frame = MarkFrame(message["name"])
        elif message["event"] == "clearAudio":
            frame = InterruptionFrame()
        else:
            frame = OutputDTMFFrame(KeypadEntry(message["dtmf"]))
        assert [json.loads(sent) for sent in made.encode(frame)] == [message]
    calls = [frame.call for frame in heard if isinstance(frame, CallStartedFrame)]
    assert [call.call_id for call in calls] == [CALL_ID] * len(sockets)
    assert [call.parameters for call in calls] == [{"bot": "sales", "ref": "42"}] * len(sockets)
    assert len({call.stream_id for call in calls}) == len(sockets) == (2 if name == "plivo_reconnect" else 1)
    assert [frame.name for frame in heard if isinstance(frame, PlayedFrame)] == checkpoints
    assert "".join(frame.button.value for frame in heard if isinstance(frame, InputDTMFFrame)) == digits
    assert sum(isinstance(frame, PlaybackClearedFrame) for frame in heard) == (name in ("plivo_call", "plivo_l16"))
    assert isinstance(heard[-1], CallEndedFrame) == (name in ("plivo_l16", "plivo_lenient"))
    audio = [frame for frame in heard if isinstance(frame, InputAudioRawFrame)]
    assert {frame.num_frames * 50 for frame in audio} == {calls[0].receive.sample_rate}
