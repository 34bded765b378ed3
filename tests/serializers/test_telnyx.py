"""Telnyx: the serializer against the strict fake, and each rule of the wire by itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pybase64 import b64decode, b64encode_as_string

from gateway.simulator.telnyx import FakeTelnyx
from media.codecs import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, swap16, ulaw_to_pcm
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
    PlayedFrame,
    StartFrame,
    TTSAudioRawFrame,
)
from serializers.base import Ending, HangUp, WireOptions
from serializers.telnyx import TelnyxFrameSerializer
from tests.serializers.conformance import Line, SerializerConformance, machine, samples, tone

CALL_ID = "v3:KkQ2AAAAexampleAAAA-_=="
STREAM_ID = "32de0dea-53cb-4b21-89a4-9e1819c043bc"


class TestConformance(SerializerConformance):
    make = staticmethod(lambda: TelnyxFrameSerializer.for_call(WireOptions()))
    fake = staticmethod(FakeTelnyx)
    plan: ClassVar = {"parameters": {"bot": "sales"}}
    digits = "0123456789*#ABCD"


class TestALawIn(SerializerConformance):
    """A call from a country of the A-law: we receive PCMA and send PCMU."""

    make = staticmethod(lambda: TelnyxFrameSerializer.for_call(WireOptions(send_codec="PCMU")))
    fake = staticmethod(FakeTelnyx)
    plan: ClassVar = {"receive_codec": "PCMA", "send_codec": "PCMU"}


class TestALawOut(SerializerConformance):
    make = staticmethod(lambda: TelnyxFrameSerializer.for_call(WireOptions(send_codec="PCMA")))
    fake = staticmethod(FakeTelnyx)
    plan: ClassVar = {"receive_codec": "PCMU", "send_codec": "PCMA"}


class TestLinear(SerializerConformance):
    make = staticmethod(lambda: TelnyxFrameSerializer.for_call(WireOptions(send_codec="L16", send_sample_rate=16000)))
    fake = staticmethod(FakeTelnyx)
    plan: ClassVar = {"receive_codec": "L16", "send_codec": "L16", "sample_rate": 16000}


TestMachine = machine(TestConformance)
TestMachineLinear = machine(TestLinear)


def serializer(**params: Any) -> TelnyxFrameSerializer:
    """As a user of Pipecat builds it, without the hang-up."""
    params = {"auto_hang_up": False, **params}
    return TelnyxFrameSerializer("s", "PCMU", "PCMU", params=TelnyxFrameSerializer.InputParams(**params))


def start(media_format: Any = None, **fields: Any) -> str:
    inner = {
        "user_id": "3e6f995f-85f7-4705-9741-53b116d28237",
        "call_control_id": CALL_ID,
        "call_session_id": "ff55a038-6f5d-11ef-9692-02420aeffb1f",
        "from": "+13125550100",
        "to": "+13125550199",
        "tags": ["a"],
        "client_state": "aGVsbG8=",
        "custom_parameters": {"bot": "sales"},
        "media_format": {"encoding": "PCMU", "sample_rate": 8000, "channels": 1},
        **fields,
    }
    if media_format is not None:
        inner["media_format"] = media_format
    return json.dumps({"event": "start", "sequence_number": "1", "stream_id": STREAM_ID, "start": inner})


def media(payload: bytes, track: Any = "inbound", chunk: Any = "2", timestamp: Any = "25") -> str:
    fields = {"track": track, "chunk": chunk, "timestamp": timestamp, "payload": b64encode_as_string(payload)}
    return json.dumps({"event": "media", "sequence_number": "4", "stream_id": STREAM_ID, "media": fields})


def only(frames: Sequence[Frame], kind: type) -> Any:
    [frame] = frames
    assert type(frame) is kind
    return frame


def payload_of(message: str | bytes) -> bytes:
    return b64decode(json.loads(message)["media"]["payload"])


def started(options: WireOptions | None = None, media_format: Any = None) -> TelnyxFrameSerializer:
    made = TelnyxFrameSerializer.for_call(options or WireOptions())
    made.decode('{"event":"connected","version":"1.0.0"}')
    made.decode(start(media_format))
    return made


# ---------------------------------------------------------------- codecs, as negotiated


def test_a_law_call_is_a_law_both_ways() -> None:
    """Every value of the codec, in and out; decoding it as mu-law would be noise louder than the voice."""
    wire = bytes(range(256))
    made = started(WireOptions(send_codec="PCMA"), {"encoding": "PCMA", "sample_rate": 8000, "channels": 1})
    pcm = only(made.decode(media(wire)), InputAudioRawFrame).audio
    assert pcm == alaw_to_pcm(wire)
    assert pcm_to_alaw(pcm) == wire
    [message] = made.encode(OutputAudioRawFrame(pcm, 8000, 1))
    assert payload_of(message) == wire

    voice = tone(8000, 0.1)
    right = samples(only(made.decode(media(pcm_to_alaw(voice))), InputAudioRawFrame).audio)
    wrong = samples(ulaw_to_pcm(pcm_to_alaw(voice)))
    assert np.sqrt(((right - samples(voice)) ** 2).mean()) < 200
    assert np.sqrt(((wrong - samples(voice)) ** 2).mean()) > 5000


@pytest.mark.parametrize("receive", ["PCMU", "PCMA"])
@pytest.mark.parametrize("send", ["PCMU", "PCMA"])
def test_the_two_directions_have_codecs_of_their_own(receive: str, send: str) -> None:
    expand = {"PCMU": ulaw_to_pcm, "PCMA": alaw_to_pcm}[receive]
    compress = {"PCMU": pcm_to_ulaw, "PCMA": pcm_to_alaw}[send]
    made = started(WireOptions(send_codec=send), {"encoding": receive, "sample_rate": 8000, "channels": 1})
    wire = bytes(range(160))
    assert only(made.decode(media(wire)), InputAudioRawFrame).audio == expand(wire)
    voice = tone(8000, 0.02)
    [message] = made.encode(OutputAudioRawFrame(voice, 8000, 1))
    assert payload_of(message) == compress(voice)


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
@pytest.mark.parametrize("order", ["big", "little"])
def test_l16_in_both_byte_orders(order: str, rate: int) -> None:
    voice = tone(rate, 0.02)
    wire = swap16(voice) if order == "big" else voice
    made = started(
        WireOptions(send_codec="L16", send_sample_rate=rate, options={"l16_byte_order": order}),
        {"encoding": "L16", "sample_rate": rate, "channels": 1},
    )
    frame = only(made.decode(media(wire)), InputAudioRawFrame)
    assert (frame.audio, frame.sample_rate) == (voice, rate)
    assert made.send_rate == rate
    [message] = made.encode(OutputAudioRawFrame(voice, rate, 1))
    assert payload_of(message) == wire


@pytest.mark.parametrize("order", ["big", "little"])
def test_l16_against_the_fake(order: str) -> None:
    line = Line(
        lambda: TelnyxFrameSerializer.for_call(WireOptions(send_codec="L16", options={"l16_byte_order": order})),
        FakeTelnyx,
        receive_codec="L16",
        send_codec="L16",
        options={"byte_order": order},
    )
    line.open()
    voice = tone(16000, 0.02)
    line.say(voice)
    [frame] = line.seen(InputAudioRawFrame)
    assert (frame.audio, frame.sample_rate) == (voice, 16000)
    line.send(OutputAudioRawFrame(voice, 16000, 1))
    line.wait(1.0)
    assert voice in line.carrier.playout.heard


def test_l16_is_network_order_and_16_khz_unless_told() -> None:
    made = started(WireOptions(send_codec="L16"))
    assert made.send_rate == 16000
    [message] = made.encode(OutputAudioRawFrame(b"\x01\x02" * 320, 16000, 1))
    assert payload_of(message) == b"\x02\x01" * 320


def test_start_decides_what_is_received_not_the_constructor() -> None:
    made = serializer()
    made.decode(start({"encoding": "PCMA", "sample_rate": 8000, "channels": 1}))
    wire = bytes(range(160))
    assert only(made.decode(media(wire)), InputAudioRawFrame).audio == alaw_to_pcm(wire)
    [message] = made.encode(OutputAudioRawFrame(tone(8000, 0.02), 8000, 1))
    assert payload_of(message) == pcm_to_ulaw(tone(8000, 0.02))


def test_without_media_format_the_default_is_mu_law() -> None:
    made = TelnyxFrameSerializer.for_call(WireOptions())
    message = json.loads(start())
    del message["start"]["media_format"]
    assert only(made.decode(json.dumps(message)), CallStartedFrame).call.receive.encoding == "PCMU"
    assert only(made.decode(media(b"\xff" * 160)), InputAudioRawFrame).audio == bytes(320)


@pytest.mark.parametrize(
    "media_format",
    [
        {"encoding": "OPUS", "sample_rate": 16000, "channels": 1},
        {"encoding": "G722", "sample_rate": 8000, "channels": 1},
        {"encoding": "s3cr3t", "sample_rate": 8000, "channels": 1},
        {"encoding": None, "sample_rate": 8000, "channels": 1},
        {"encoding": "PCMU", "sample_rate": 8001, "channels": 1},
        {"encoding": "PCMU", "sample_rate": 8000, "channels": 2},
    ],
)
def test_a_format_that_cannot_be_decoded_never_becomes_noise(media_format: Any) -> None:
    made = TelnyxFrameSerializer.for_call(WireOptions())
    with pytest.raises(RemoteProtocolError, match=r"start\.media_format") as caught:
        made.decode(start(media_format))
    assert "s3cr3t" not in f"{caught.value}{caught.value.excerpt}"
    with pytest.raises(RemoteProtocolError, match="PCMU, PCMA, L16"):
        made.decode(media(b"\xff" * 160))


def test_encodings_are_read_in_any_case_and_rates_as_strings() -> None:
    made = started(None, {"encoding": "pcma", "sample_rate": "8000", "channels": "1"})
    assert only(made.decode(media(b"\xd5" * 160)), InputAudioRawFrame).audio == alaw_to_pcm(b"\xd5" * 160)


# ---------------------------------------------------------------- rates


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


# ---------------------------------------------------------------- start data and custom parameters


def test_start_tells_who_calls() -> None:
    made = TelnyxFrameSerializer.for_call(WireOptions(send_codec="PCMA"))
    made.decode('{"event":"connected","version":"1.0.0","connected":{"x-telnyx-streaming-auth-token":"s3cret"}}')
    call = only(made.decode(start()), CallStartedFrame).call
    assert call.carrier == "telnyx"
    assert call.call_id == CALL_ID
    assert call.stream_id == STREAM_ID
    assert call.account_id == "3e6f995f-85f7-4705-9741-53b116d28237"
    assert (call.from_number, call.to_number) == ("+13125550100", "+13125550199")
    assert call.parameters == {"bot": "sales"}
    assert (call.receive.encoding, call.receive.sample_rate) == ("PCMU", 8000)
    assert (call.send.encoding, call.send.sample_rate) == ("PCMA", 8000)
    assert call.extra == {
        "x-telnyx-streaming-auth-token": "s3cret",
        "user_id": call.account_id,
        "call_session_id": "ff55a038-6f5d-11ef-9692-02420aeffb1f",
        "client_state": "aGVsbG8=",
        "tags": ["a"],
    }


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"a": "1", "b": "2"}, {"a": "1", "b": "2"}),
        ([{"name": "a", "value": "1"}, {"name": "b"}, {"value": "lost"}, 7], {"a": "1", "b": ""}),
        (None, {}),
        ("", {}),
    ],
)
def test_custom_parameters(written: Any, read: Any) -> None:
    made = TelnyxFrameSerializer.for_call(WireOptions())
    assert only(made.decode(start(custom_parameters=written)), CallStartedFrame).call.parameters == read


def test_numbers_that_the_carrier_withholds_are_empty() -> None:
    made = TelnyxFrameSerializer.for_call(WireOptions())
    call = only(made.decode(start(**{"from": None, "to": 4930123})), CallStartedFrame).call
    assert (call.from_number, call.to_number) == ("", "4930123")


def test_start_without_call_control_id() -> None:
    made = TelnyxFrameSerializer.for_call(WireOptions())
    with pytest.raises(RemoteProtocolError, match="call_control_id"):
        made.decode(start(call_control_id=None))
    assert only(made.decode(start()), CallStartedFrame).call.call_id == CALL_ID


def test_the_second_start_is_ignored() -> None:
    made = started()
    assert made.decode(start({"encoding": "PCMA", "sample_rate": 8000, "channels": 1})) == ()
    assert only(made.decode(media(b"\x00" * 160)), InputAudioRawFrame).audio == ulaw_to_pcm(b"\x00" * 160)


# ---------------------------------------------------------------- order of media, tracks


def test_order_is_the_carriers_and_the_numbers_tell() -> None:
    made = started()
    frames = [only(made.decode(media(b"\xff" * 160, chunk=c, timestamp=t)), InputAudioRawFrame) for c, t in ORDER]
    assert [(frame.seq, frame.timestamp_ms) for frame in frames] == [(1, 5), (2, 25), (4, 65), (3, 45), (3, 45)]


ORDER = (("1", "5"), ("2", "25"), ("4", "65"), (3, 45), ("3", "45"))


@pytest.mark.parametrize("number", [None, [], "x", "", {}, True, 2.0, "99999999999999999999"])
def test_a_number_that_cannot_be_read_does_not_cost_the_audio(number: Any) -> None:
    made = started()
    frame = only(made.decode(media(b"\xff" * 160, chunk=number, timestamp=number)), InputAudioRawFrame)
    assert frame.num_frames == 160
    assert frame.seq in (None, 2, 99999999999999999999)


@pytest.mark.parametrize("track", ["outbound", "both", 1, []])
def test_only_the_inbound_track_is_the_caller(track: Any) -> None:
    assert list(started().decode(media(b"\xff" * 160, track=track))) == []


@pytest.mark.parametrize("track", ["inbound", None])
def test_a_track_that_is_not_named_is_the_caller(track: Any) -> None:
    assert only(started().decode(media(b"\xff" * 160, track=track)), InputAudioRawFrame).num_frames == 160


def test_our_own_track_is_not_heard() -> None:
    line = Line(lambda: TelnyxFrameSerializer.for_call(WireOptions()), FakeTelnyx, options={"both_tracks": True})
    line.open()
    for _ in range(3):
        line.say(tone(8000, 0.02))
    assert [frame.seq for frame in line.seen(InputAudioRawFrame)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "chunks"),
    [
        ({"swap_every": 3}, [1, 2, 4, 3, 5]),
        ({"lose_every": 2}, [1, 3, 5]),
        ({"repeat_every": 2}, [1, 2, 2, 3, 4, 4, 5]),
        ({"unknown": True}, [1, 2, 3, 4, 5]),
        ({"numbers": True}, [1, 2, 3, 4, 5]),
    ],
)
def test_a_carrier_that_misbehaves(options: dict[str, Any], chunks: list[int]) -> None:
    line = Line(lambda: TelnyxFrameSerializer.for_call(WireOptions()), FakeTelnyx, options=options)
    line.open()
    for _ in range(5):
        line.wait(0.02)
        line.say(tone(8000, 0.02))
    frames = line.seen(InputAudioRawFrame)
    assert [frame.seq for frame in frames] == chunks
    assert [frame.timestamp_ms for frame in frames] == [5 + 20 * (chunk - 1) for chunk in chunks]


# ---------------------------------------------------------------- marks, clear


def test_mark_out_and_in() -> None:
    made = started()
    assert [json.loads(message) for message in made.encode(MarkFrame('g1-"é'))] == [
        {"event": "mark", "mark": {"name": 'g1-"é'}}
    ]
    message = {"event": "mark", "sequence_number": "8", "stream_id": STREAM_ID, "mark": {"name": 'g1-"é'}}
    assert only(made.decode(json.dumps(message)), PlayedFrame).name == 'g1-"é'
    assert made.has_marks
    assert made.echoes_marks_on_clear


def test_clear_has_no_stream_id() -> None:
    assert [json.loads(message) for message in started().encode(InterruptionFrame())] == [{"event": "clear"}]


def test_marks_that_a_clear_overtook_come_back_at_once() -> None:
    line = Line(lambda: TelnyxFrameSerializer.for_call(WireOptions()), FakeTelnyx)
    line.open()
    for name in "abc":
        line.send(OutputAudioRawFrame(tone(8000, 0.2), 8000, 1))
        line.send(MarkFrame(name))
    line.wait(0.25)
    assert [frame.name for frame in line.seen(PlayedFrame)] == ["a"]
    line.send(InterruptionFrame())
    assert [frame.name for frame in line.seen(PlayedFrame)] == ["a", "b", "c"]


# ---------------------------------------------------------------- digits


@pytest.mark.parametrize("digit", [*"0123456789*#ABCD", "d", 7])
def test_digit_in(digit: Any) -> None:
    message = {"event": "dtmf", "stream_id": STREAM_ID, "sequence_number": "5", "dtmf": {"digit": digit}}
    frame = only(started().decode(json.dumps(message)), InputDTMFFrame)
    assert frame.button is KeypadEntry(str(digit).upper())


@pytest.mark.parametrize("digit", ["E", "12", "flash", "+"])
def test_a_digit_that_no_telephone_has_is_counted_and_dropped(digit: str) -> None:
    made = started()
    assert list(made.decode(json.dumps({"event": "dtmf", "dtmf": {"digit": digit}}))) == []
    assert made.dropped_digits == 1


def test_the_socket_has_no_message_for_digits() -> None:
    made = started()
    assert not made.sends_digits
    assert list(made.encode(OutputDTMFFrame(KeypadEntry.ONE))) == []
    assert list(made.encode(OutputDTMFUrgentFrame(KeypadEntry.ONE))) == []


# ---------------------------------------------------------------- packet size, padding


def test_20_ms_make_one_message_of_160_bytes() -> None:
    made = started()
    assert made.packet_ms == 20
    voice = tone(8000, 0.02)
    assert [json.loads(message) for message in made.encode(OutputAudioRawFrame(voice, 8000, 1))] == [
        {"event": "media", "media": {"payload": b64encode_as_string(pcm_to_ulaw(voice))}}
    ]


@pytest.mark.parametrize(("codec", "silence"), [("PCMU", b"\xff"), ("PCMA", b"\xd5"), ("L16", b"\0\0")])
def test_less_than_20_ms_waits_and_is_padded_at_the_end(codec: str, silence: bytes) -> None:
    made = started(WireOptions(send_codec=codec, send_sample_rate=8000))
    assert list(made.encode(OutputAudioRawFrame(tone(8000, 0.0125), 8000, 1))) == []
    assert list(made.encode(OutputAudioRawFrame(tone(8000, 0.005), 8000, 1))) == []
    [message] = made.flush()
    wire = payload_of(message)
    assert len(wire) == 160 * len(silence)
    assert wire.endswith(silence * 20)
    assert not wire[: 140 * len(silence)].endswith(silence * 2)
    assert list(made.flush()) == []


def test_what_waits_goes_with_the_next_audio() -> None:
    made = started()
    voice = tone(8000, 0.05)
    assert list(made.encode(OutputAudioRawFrame(voice[:300], 8000, 1))) == []
    [message] = made.encode(OutputAudioRawFrame(voice[300:], 8000, 1))
    assert payload_of(message) == pcm_to_ulaw(voice)


def test_more_than_30_s_are_cut() -> None:
    made = started()
    voice = tone(8000, 60.01)
    first, second = made.encode(OutputAudioRawFrame(voice, 8000, 1))
    [third] = made.flush()
    assert [len(payload_of(message)) for message in (first, second, third)] == [240_000, 240_000, 160]
    assert (payload_of(first) + payload_of(second) + payload_of(third))[: len(voice) // 2] == pcm_to_ulaw(voice)


def test_an_interruption_forgets_what_waits() -> None:
    made = started()
    made.encode(OutputAudioRawFrame(tone(8000, 0.01), 8000, 1))
    made.encode(InterruptionFrame())
    assert list(made.flush()) == []


def test_speech_frames_are_audio_too() -> None:
    [message] = started().encode(TTSAudioRawFrame(tone(8000, 0.02), 8000, 1))
    assert len(payload_of(message)) == 160


# ---------------------------------------------------------------- the end, errors, the rest


@pytest.mark.parametrize("message", ['{"event":"stop","stop":{"call_control_id":"v3:A"}}', '{"event":"stop"}'])
def test_stop_ends_the_call(message: str) -> None:
    assert only(started().decode(message), CallEndedFrame).reason == "caller"
    assert TelnyxFrameSerializer.ending is Ending.REST
    assert not TelnyxFrameSerializer.close_is_normal_end


def test_end_frames_are_not_for_the_socket() -> None:
    made = started()
    assert list(made.encode(EndFrame())) == list(made.encode(CancelFrame())) == []


@pytest.mark.parametrize(
    ("payload", "code", "title"),
    [
        ({"code": 100004, "title": "invalid_media", "detail": "s3cr3t"}, "100004", "invalid_media"),
        ({"code": "100003", "title": "malformed_frame"}, "100003", "malformed_frame"),
        (None, "unknown", ""),
    ],
)
def test_errors_of_the_carrier(payload: Any, code: str, title: str) -> None:
    frame = only(started().decode(json.dumps({"event": "error", "payload": payload})), CarrierErrorFrame)
    assert (frame.code, frame.message) == (code, title)


def test_an_error_does_not_end_the_stream() -> None:
    line = Line(lambda: TelnyxFrameSerializer.for_call(WireOptions()), FakeTelnyx, options={"error": 100005})
    line.open()
    line.say(tone(8000, 0.02))
    line.say(tone(8000, 0.02))
    [error] = line.seen(CarrierErrorFrame)
    assert (error.code, error.message) == ("100005", "rate_limit_reached")
    assert len(line.seen(InputAudioRawFrame)) == 2


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
        '{"event":"media","media":{"payload":"a b="}}',
        '{"event":"mark"}',
        '{"event":"mark","mark":{"name":7}}',
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
    assert caught.value.carrier == "telnyx"


def test_half_a_sample() -> None:
    made = started(None, {"encoding": "L16", "sample_rate": 16000, "channels": 1})
    with pytest.raises(RemoteProtocolError, match="half a sample"):
        made.decode(media(bytes(641)))


@pytest.mark.parametrize("message", ['{"event":"connected"}', '{"event":"connected","connected":7}', '{"event":"new"}'])
def test_messages_without_news(message: str) -> None:
    assert list(TelnyxFrameSerializer.for_call(WireOptions()).decode(message)) == []


# ---------------------------------------------------------------- Pipecat's face


def test_constructor_and_defaults() -> None:
    params = TelnyxFrameSerializer.InputParams()
    assert (params.telnyx_sample_rate, params.sample_rate) == (8000, None)
    assert (params.inbound_encoding, params.outbound_encoding) == ("PCMU", "PCMU")
    assert params.auto_hang_up
    assert params.ignore_rtvi_messages
    with pytest.raises(TypeError):
        TelnyxFrameSerializer("s")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        ({}, "call_control_id and api_key"),
        ({"call_control_id": CALL_ID}, "api_key"),
        ({"api_key": "K"}, "call_control_id"),
    ],
)
def test_auto_hang_up_needs_credentials(given: dict[str, str], lacking: str) -> None:
    with pytest.raises(ValueError, match=f"needs {lacking};"):
        TelnyxFrameSerializer("s", "PCMU", "PCMU", **given)


def test_the_hang_up_is_a_value() -> None:
    made = TelnyxFrameSerializer("s", "PCMU", "PCMU", CALL_ID, "KEY-s3cr3t")
    assert made.hang_up_request() == HangUp(carrier="telnyx", call_id=CALL_ID, secret="KEY-s3cr3t")
    assert "s3cr3t" not in repr(made.hang_up_request())
    assert serializer().hang_up_request() is None
    assert started().hang_up_request() is None


def test_names_are_seen_from_the_carrier() -> None:
    """`outbound` is what we receive, `inbound` what we send; the arguments win over the params."""
    params = TelnyxFrameSerializer.InputParams(auto_hang_up=False, inbound_encoding="PCMU", outbound_encoding="PCMU")
    made = TelnyxFrameSerializer("s", outbound_encoding="PCMA", inbound_encoding="PCMU", params=params)
    wire = bytes(range(160))
    assert only(made.decode(media(wire)), InputAudioRawFrame).audio == alaw_to_pcm(wire)
    [message] = made.encode(OutputAudioRawFrame(tone(8000, 0.02), 8000, 1))
    assert payload_of(message) == pcm_to_ulaw(tone(8000, 0.02))
    assert params.outbound_encoding == "PCMA"


def run(coro: Any) -> Any:
    """Drive a coroutine that never waits."""
    with pytest.raises(StopIteration) as stopped:
        coro.send(None)
    return stopped.value.value


def test_a_bad_encoding_is_a_value_error_at_the_first_audio_of_its_direction() -> None:
    params = TelnyxFrameSerializer.InputParams(auto_hang_up=False)
    made = TelnyxFrameSerializer("s", "OPUS", "G722", params=params)
    assert run(made.deserialize('{"event":"connected"}')) is None
    with pytest.raises(ValueError, match="OPUS"):
        made.deserialize(media(b"\xff" * 160)).send(None)
    with pytest.raises(ValueError, match="G722"):
        made.encode(OutputAudioRawFrame(tone(8000, 0.02), 8000, 1))
    with pytest.raises(RemoteProtocolError):
        made.decode(media(b"\xff" * 160))


def test_the_byte_order_is_big_or_little() -> None:
    with pytest.raises(ValueError, match="l16_byte_order"):
        serializer(l16_byte_order="middle")


def test_the_asynchronous_face() -> None:
    made = serializer()
    run(made.setup(StartFrame(audio_in_sample_rate=16000)))
    assert run(made.deserialize(start())) is None  # Pipecat has no frame for it
    frame = run(made.deserialize(media(b"\xff" * 160)))
    assert isinstance(frame, InputAudioRawFrame)
    assert (frame.sample_rate, frame.num_frames) == (16000, 320)
    assert run(made.deserialize('{"event":"media"}')) is None
    message = run(made.serialize(OutputAudioRawFrame(tone(16000, 0.02), 16000, 1)))
    assert len(payload_of(message)) == 160
    assert json.loads(run(made.serialize(InterruptionFrame()))) == {"event": "clear"}
    assert run(made.serialize(EndFrame())) is None
    with pytest.raises(LocalProtocolError, match="encode"):
        made.serialize(OutputAudioRawFrame(bytes(2 * 8000 * 61), 8000, 1)).send(None)


def test_the_constructors_rate_is_both_ways_until_start_tells() -> None:
    made = serializer(telnyx_sample_rate=16000, sample_rate=16000)
    assert made.send_rate == 16000
    assert only(made.decode(media(b"\xff" * 160)), InputAudioRawFrame).sample_rate == 16000


# ---------------------------------------------------------------- recorded calls

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
RECORDED = {
    "telnyx_call": (WireOptions(), ["g1-1", "g2-1", "g2-2", "g3-1"], "1"),
    "telnyx_pcma": (WireOptions(), ["g1-1", "g2-1"], "9"),
    "telnyx_l16": (WireOptions(send_codec="L16"), ["g1-1", "g2-1"], "9"),
}


def test_every_recording_is_replayed() -> None:
    assert {path.stem for path in TRANSCRIPTS.glob("telnyx_*.jsonl")} == set(RECORDED)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_call(name: str) -> None:
    """What came in is understood; what went out is what `encode` makes of the same audio, to the byte."""
    wire, marks, digits = RECORDED[name]
    made = TelnyxFrameSerializer.for_call(wire)
    heard: list[Frame] = []
    for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines():
        step = json.loads(line)
        message = step["msg"]
        if step["dir"] == "in":
            heard += made.decode(json.dumps(message))
        elif message["event"] == "media":
            audio = b64decode(message["media"]["payload"])
            pcm = swap16(audio) if wire.send_codec == "L16" else ulaw_to_pcm(audio)
            assert [json.loads(sent) for sent in made.encode(OutputAudioRawFrame(pcm, made.send_rate, 1))] == [message]
        else:
            frame = InterruptionFrame() if message["event"] == "clear" else MarkFrame(message["mark"]["name"])
            assert [json.loads(sent) for sent in made.encode(frame)] == [message]
    audio = [frame for frame in heard if isinstance(frame, InputAudioRawFrame)]
    assert isinstance(heard[0], CallStartedFrame)
    assert isinstance(heard[-1], CallEndedFrame)
    assert [frame.name for frame in heard if isinstance(frame, PlayedFrame)] == marks
    assert "".join(frame.button.value for frame in heard if isinstance(frame, InputDTMFFrame)) == digits
    assert sum(isinstance(frame, CarrierErrorFrame) for frame in heard) == (name == "telnyx_call")
    assert sorted(frame.seq or 0 for frame in audio) == list(range(1, len(audio) + 1))
    assert ([frame.seq for frame in audio] == list(range(1, len(audio) + 1))) == (name != "telnyx_call")
    assert {frame.num_frames * 50 for frame in audio} == {heard[0].call.receive.sample_rate}
