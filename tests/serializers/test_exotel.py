"""Exotel's cells: codecs, rates, start, marks, clear, digits, packets, ends, malformed input."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.exotel import FakeExotel
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.errors import LocalProtocolError, RemoteProtocolError
from media.frames import (
    CallEndedFrame,
    CallStartedFrame,
    CancelFrame,
    EndFrame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    KeypadEntry,
    MarkFrame,
    OutputAudioRawFrame,
    OutputDTMFFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    PlayedFrame,
    StartFrame,
    TTSAudioRawFrame,
)
from serializers.base import Ending, WireOptions
from serializers.exotel import ExotelFrameSerializer
from tests.serializers.conformance import SerializerConformance, machine

MAX_BYTES = 100_000  # of linear PCM in a message
SID = "b7368f68b13ee23fa935eb08e42b1a8o"
CALL = "3aa74daf25c74c4305d096ddf5a21a8o"
# As a live call showed it, identifiers altered.
START: dict[str, Any] = {
    "event": "start",
    "sequence_number": "1",
    "stream_sid": SID,
    "start": {
        "stream_sid": SID,
        "call_sid": CALL,
        "account_sid": "acme1",
        "from": "09876543210",
        "to": "08047491899",
        "custom_parameters": {"ref": "42"},
        "media_format": {"encoding": "base64", "sample_rate": "8000", "bit_rate": "128kbps"},
    },
}


def ramp(samples: int) -> bytes:
    return struct.pack(f"<{samples}h", *((i * 97) % 2001 - 1000 for i in range(samples)))


def start(rate: Any = "8000", encoding: str = "base64", **fields: Any) -> str:
    inner = {**START["start"], "media_format": {"encoding": encoding, "sample_rate": rate}, **fields}
    return json.dumps({**START, "start": inner})


def media(pcm: bytes, **fields: Any) -> str:
    return json.dumps(
        {
            "event": "media",
            "sequence_number": "3",
            "stream_sid": SID,
            "media": {"chunk": "2", "timestamp": "200", "payload": b64encode(pcm).decode(), **fields},
        }
    )


def started(rate: Any = "8000", encoding: str = "base64", **params: Any) -> ExotelFrameSerializer:
    serializer = ExotelFrameSerializer("", params=ExotelFrameSerializer.InputParams(**params))
    (frame,) = serializer.decode(start(rate, encoding))
    assert isinstance(frame, CallStartedFrame)
    return serializer


def one(serializer: ExotelFrameSerializer, message: Any) -> Any:
    (frame,) = serializer.decode(message if isinstance(message, str) else json.dumps(message))
    return frame


def speech(pcm: bytes, rate: int = 8000) -> OutputAudioRawFrame:
    return OutputAudioRawFrame(pcm, rate, 1)


def payload(message: Any) -> bytes:
    return b64decode(json.loads(message)["media"]["payload"])


# ---------------------------------------------------------------- start


def test_start_tells_the_call() -> None:
    call = one(ExotelFrameSerializer(""), START).call
    assert (call.carrier, call.call_id, call.stream_id, call.account_id) == ("exotel", CALL, SID, "acme1")
    assert (call.from_number, call.to_number) == ("09876543210", "08047491899")
    assert call.parameters == {"ref": "42"}
    assert (call.receive.encoding, call.receive.sample_rate, call.receive.channels) == ("L16", 8000, 1)
    assert call.send == call.receive
    assert call.receives_audio
    assert call.extra == {"media_format": START["start"]["media_format"]}


def test_start_in_camel_case_is_the_same_call_and_is_answered_in_snake_case() -> None:
    serializer = ExotelFrameSerializer("")
    inner = START["start"]
    call = one(
        serializer,
        {
            "event": "start",
            "streamSid": SID,
            "start": {
                "streamSid": SID,
                "callSid": CALL,
                "accountSid": "acme1",
                "from": inner["from"],
                "to": inner["to"],
                "customParameters": {"ref": "42"},
                "mediaFormat": {"encoding": "base64", "sampleRate": "16000"},
            },
        },
    ).call
    assert (call.call_id, call.stream_id, call.account_id, call.parameters) == (CALL, SID, "acme1", {"ref": "42"})
    assert serializer.send_rate == 16000
    assert json.loads(serializer.encode(InterruptionFrame())[0]) == {"event": "clear", "stream_sid": SID}


@pytest.mark.parametrize("where", ["top", "inner"])
def test_the_stream_id_stands_in_either_place(where: str) -> None:
    message = json.loads(json.dumps(START))
    del (message if where == "inner" else message["start"])["stream_sid"]
    assert one(ExotelFrameSerializer(""), message).call.stream_id == SID


@pytest.mark.parametrize("empty", ["", None, [], 0], ids=repr)
def test_custom_parameters_may_be_nothing(empty: Any) -> None:
    assert one(ExotelFrameSerializer(""), start(custom_parameters=empty)).call.parameters == {}


def test_numbers_may_be_numbers() -> None:
    call = one(ExotelFrameSerializer(""), start(rate=16000, to=8047491899)).call
    assert (call.to_number, call.receive.sample_rate) == ("8047491899", 16000)


def test_start_alone_is_enough_and_connected_says_nothing() -> None:
    serializer = ExotelFrameSerializer("")
    assert serializer.decode('{"event":"connected","protocol":"Call","version":"1.0.0"}') == ()
    assert isinstance(one(serializer, START), CallStartedFrame)


def test_a_second_start_is_ignored() -> None:
    serializer = started()
    assert serializer.decode(start("16000", stream_sid="other")) == ()
    assert serializer.send_rate == 8000


def test_a_stream_applet_takes_nothing_back() -> None:
    serializer = ExotelFrameSerializer.for_call(WireOptions(options={"applet": "stream"}))
    assert not one(serializer, START).call.receives_audio
    for frame in (speech(bytes(3200)), InterruptionFrame(), MarkFrame("m")):
        assert serializer.encode(frame) == ()
    assert list(serializer.flush()) == []


# ---------------------------------------------------------------- codecs and rates


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
@pytest.mark.parametrize("encoding", ["base64", "raw", "audio/x-raw", "raw/slin"])
def test_pcm_goes_both_ways_unchanged(rate: int, encoding: str) -> None:
    serializer = started(str(rate), encoding)
    pcm = ramp(rate // 10)
    frame = one(serializer, media(pcm))
    assert (frame.audio, frame.sample_rate, frame.num_channels) == (pcm, rate, 1)
    assert serializer.send_rate == rate
    sent = b"".join(payload(message) for message in serializer.encode(speech(ramp(rate), rate)))
    assert sent == ramp(rate)


@pytest.mark.parametrize("encoding", ["audio/x-mulaw", "mulaw", "ULAW", "audio/PCMU;rate=8000"])
def test_mu_law_where_start_says_so(encoding: str) -> None:
    serializer = ExotelFrameSerializer("")
    call = one(serializer, start(encoding=encoding)).call
    assert (call.receive.encoding, call.send.encoding) == ("PCMU", "PCMU")
    ulaw = bytes(range(256)) * 3
    assert one(serializer, media(ulaw)).audio == ulaw_to_pcm(ulaw)
    (message,) = serializer.encode(speech(ramp(1600)))
    assert payload(message) == pcm_to_ulaw(ramp(1600))


def test_the_documented_sample_vector() -> None:
    pcm = ramp(160)
    assert hashlib.sha256(pcm).hexdigest() == "7ac646688497758ef68529869792737330fe3b07fa0f172758864d38ca745455"
    serializer = started(packet_ms=20)
    (message,) = serializer.encode(speech(pcm))
    text = json.loads(message)["media"]["payload"]
    assert (len(text), text[:24], text[-16:]) == (428, "GPx5/Nr8O/2c/f39Xv6//iD/", "/xwAfQDeAD8BoAE=")
    assert one(serializer, media(pcm)).audio == pcm


@pytest.mark.parametrize("said", ["11025", "", None, "fast", "1e999", True, [8000], "9" * 50], ids=repr)
def test_a_rate_that_exotel_does_not_have_means_the_one_asked_for(said: Any) -> None:
    serializer = ExotelFrameSerializer.for_call(WireOptions(send_sample_rate=16000))
    assert one(serializer, start(rate=said)).call.receive.sample_rate == 16000
    assert serializer.send_rate == 16000


def test_the_wire_wins_over_what_was_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    serializer = ExotelFrameSerializer.for_call(WireOptions(send_sample_rate=16000))
    one(serializer, start(rate="8000"))
    assert serializer.send_rate == 8000
    assert "start says 8000 Hz, 16000 were asked for" in caplog.text


def test_caller_audio_comes_at_the_pipelines_rate() -> None:
    serializer = started(sample_rate=16000)
    frame = one(serializer, media(ramp(800)))
    assert (frame.sample_rate, len(frame.audio)) == (16000, 3200)
    serializer = ExotelFrameSerializer.for_call(WireOptions(in_sample_rate=24000))
    one(serializer, START)
    assert one(serializer, media(ramp(800))).sample_rate == 24000


def test_setup_takes_the_pipelines_rate_unless_the_params_name_one() -> None:
    for own, expected in ((None, 16000), (24000, 24000)):
        serializer = started(sample_rate=own)
        asyncio.run(serializer.setup(StartFrame(audio_in_sample_rate=16000)))
        assert one(serializer, media(ramp(800))).sample_rate == expected


def test_bot_audio_of_another_rate_is_brought_to_the_wires() -> None:
    serializer = started()
    messages = [*serializer.encode(speech(ramp(48000), 24000)), *serializer.flush()]
    sent = b"".join(payload(message) for message in messages)
    assert len(sent) // 2 >= 16000
    assert len(sent) // 2 <= 16000 + 1600


# ---------------------------------------------------------------- media in


def test_media_carries_its_number_and_time() -> None:
    for chunk, timestamp in (("2", "200"), (2, 200), (2.0, "200")):
        frame = one(started(), media(ramp(800), chunk=chunk, timestamp=timestamp))
        assert isinstance(frame, InputAudioRawFrame)
        assert (frame.seq, frame.timestamp_ms) == (2, 200)


@pytest.mark.parametrize("odd", [None, "x", [], {}, True], ids=repr)
def test_media_with_an_odd_number_is_heard_all_the_same(odd: Any) -> None:
    frame = one(started(), media(ramp(800), chunk=odd, timestamp=odd))
    assert frame.audio == ramp(800)
    assert (frame.seq, frame.timestamp_ms) in ((None, None), (1, 1))  # msgspec reads true as 1


@pytest.mark.parametrize("size", [320, 640, 1600, 3200, 9600])
def test_media_of_any_size_is_taken(size: int) -> None:
    assert one(started(), media(ramp(size // 2))).audio == ramp(size // 2)


def test_only_the_callers_track_is_heard() -> None:
    serializer = started()
    assert serializer.decode(media(ramp(800), track="outbound")) == ()
    assert one(serializer, media(ramp(800), track="inbound")).audio == ramp(800)
    assert one(serializer, media(ramp(800), track=None)).audio == ramp(800)


def test_empty_media_is_nothing() -> None:
    assert started().decode(media(b"")) == ()


def test_media_before_start_is_decoded_at_the_rate_asked_for() -> None:
    serializer = ExotelFrameSerializer.for_call(WireOptions(send_sample_rate=16000))
    assert one(serializer, media(ramp(1600))).sample_rate == 16000


# ---------------------------------------------------------------- digits


@pytest.mark.parametrize("key", list(KeypadEntry), ids=str)
def test_digits_come_in_nested_and_flat(key: KeypadEntry) -> None:
    serializer = started()
    nested = {"event": "dtmf", "stream_sid": SID, "dtmf": {"duration": "200", "digit": key.value}}
    for message in (nested, {"event": "dtmf", "digit": key.value}):
        frame = one(serializer, message)
        assert isinstance(frame, InputDTMFFrame)
        assert frame.button is key


def test_a_digit_may_be_a_number_even_zero() -> None:
    assert one(started(), {"event": "dtmf", "dtmf": {"digit": 0, "duration": 180}}).button is KeypadEntry.ZERO


@pytest.mark.parametrize("digit", ["E", "12", "", 10, -1, "٣"], ids=repr)
def test_a_digit_that_no_telephone_has_is_counted_and_dropped(digit: Any) -> None:
    serializer = started()
    assert serializer.decode(json.dumps({"event": "dtmf", "dtmf": {"digit": digit}})) == ()
    assert serializer.dropped_digits == 1


def test_exotel_has_no_message_that_sends_a_digit() -> None:
    serializer = started()
    assert not serializer.sends_digits
    assert serializer.encode(OutputDTMFFrame(KeypadEntry.ONE)) == ()


# ---------------------------------------------------------------- marks and clear


def test_marks_go_out_and_come_back() -> None:
    serializer = started()
    (message,) = serializer.encode(MarkFrame('turn "3"'))
    assert json.loads(message) == {"event": "mark", "stream_sid": SID, "mark": {"name": 'turn "3"'}}
    frame = one(serializer, {"event": "mark", "sequence_number": "15", "stream_sid": SID, "mark": {"name": "turn-3"}})
    assert isinstance(frame, PlayedFrame)
    assert frame.name == "turn-3"
    assert serializer.has_marks
    assert serializer.echoes_marks_on_clear


def test_an_interruption_clears_and_drops_what_is_held() -> None:
    serializer = started()
    assert list(serializer.encode(speech(ramp(1500)))) == []
    (message,) = serializer.encode(InterruptionFrame())
    assert json.loads(message) == {"event": "clear", "stream_sid": SID}
    assert list(serializer.flush()) == []
    (message,) = serializer.encode(speech(ramp(1600)))
    assert payload(message) == ramp(1600)


def test_an_interruption_also_empties_the_resampler() -> None:
    loud = struct.pack("<480h", *(20000 for _ in range(480)))
    serializer = started()
    serializer.encode(speech(loud, 24000))
    serializer.encode(InterruptionFrame())
    messages = [*serializer.encode(speech(bytes(2400), 24000)), *serializer.flush()]
    assert b"".join(payload(message) for message in messages).count(0) == 3200


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_the_message_being_played_survives_a_clear(rate: int) -> None:
    serializer = started(str(rate))
    assert serializer.clear_grain_ms == serializer.packet_ms


def test_an_inbound_clear_and_silence_say_nothing() -> None:
    serializer = started()
    assert serializer.decode(json.dumps({"event": "clear", "stream_sid": SID})) == ()
    assert serializer.decode('{"event":"silence"}') == ()


# ---------------------------------------------------------------- packets


@pytest.mark.parametrize(
    ("rate", "packet_ms", "size"), [(8000, 200, 3200), (16000, 100, 3200), (24000, 100, 4800)], ids=str
)
def test_packets_meet_both_readings_of_the_page(rate: int, packet_ms: int, size: int) -> None:
    serializer = started(str(rate))
    assert serializer.packet_ms == packet_ms
    sizes = [len(payload(message)) for message in serializer.encode(speech(ramp(rate), rate))]
    assert set(sizes) == {size}
    assert size % 320 == 0


@pytest.mark.parametrize(("rate", "size"), [(8000, 3200), (16000, 3200), (24000, 4800)])
def test_the_tail_is_padded_to_a_whole_packet(rate: int, size: int) -> None:
    serializer = started(str(rate))
    pcm = ramp(100)
    assert list(serializer.encode(speech(pcm, rate))) == []
    (message,) = serializer.flush()
    assert payload(message) == pcm + bytes(size - len(pcm))
    assert list(serializer.flush()) == []


def test_mu_law_packets_are_as_long_in_time() -> None:
    serializer = started(encoding="audio/x-mulaw")
    assert serializer.packet_ms == 200
    serializer.encode(speech(ramp(100)))
    (message,) = serializer.flush()
    assert payload(message) == pcm_to_ulaw(ramp(100) + bytes(3000))


@pytest.mark.parametrize(("rate", "packet_ms", "size"), [(8000, 20, 320), (16000, 40, 1280), (24000, 20, 960)])
def test_the_packets_length_can_be_set(rate: int, packet_ms: int, size: int) -> None:
    serializer = started(str(rate), packet_ms=packet_ms)
    assert serializer.packet_ms == packet_ms
    assert {len(payload(message)) for message in serializer.encode(speech(ramp(rate), rate))} == {size}
    serializer.encode(speech(ramp(10), rate))
    assert len(payload(serializer.flush()[0])) % 320 == 0


@pytest.mark.parametrize("packet_ms", [-20, 10, 30, 1020])
def test_an_illegal_packet_length_is_refused(packet_ms: int) -> None:
    with pytest.raises(ValueError, match="packet_ms"):
        ExotelFrameSerializer("", params=ExotelFrameSerializer.InputParams(packet_ms=packet_ms))


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_even_the_longest_packet_is_within_the_limit(rate: int) -> None:
    serializer = started(str(rate), packet_ms=1000)
    messages = serializer.encode(speech(ramp(10 * rate), rate))
    assert len(messages) == 10
    assert max(len(payload(message)) for message in messages) <= MAX_BYTES


@given(cuts=st.lists(st.integers(0, 5000), min_size=1, max_size=12), rate=st.sampled_from([8000, 16000, 24000]))
def test_however_speech_is_cut_the_same_samples_leave_in_legal_packets(cuts: list[int], rate: int) -> None:
    serializer = started(str(rate))
    pcm = ramp(sum(cuts))
    messages: list[Any] = []
    at = 0
    for cut in cuts:
        messages += serializer.encode(speech(pcm[2 * at : 2 * (at + cut)], rate))
        at += cut
    messages += serializer.flush()
    sent = b"".join(payload(message) for message in messages)
    assert sent[: len(pcm)] == pcm
    assert not any(sent[len(pcm) :])
    assert all(3200 <= len(payload(message)) <= MAX_BYTES for message in messages)
    assert all(len(payload(message)) % 320 == 0 for message in messages)


def test_a_media_message_holds_what_the_page_asks_for_and_no_more() -> None:
    (message,) = started().encode(speech(ramp(1600)))
    assert json.loads(message) == {
        "event": "media",
        "stream_sid": SID,
        "media": {"payload": b64encode(ramp(1600)).decode()},
    }


def test_media_can_be_numbered_as_exotel_numbers_its_own() -> None:
    serializer = started(outbound_media_extras=True)
    messages = [json.loads(message) for message in serializer.encode(speech(ramp(4800)))]
    assert [message["sequence_number"] for message in messages] == ["1", "2", "3"]
    assert [message["media"]["chunk"] for message in messages] == ["1", "2", "3"]
    assert [message["media"]["timestamp"] for message in messages] == ["0", "200", "400"]
    assert not any("sequenceNumber" in message for message in messages)


def test_speech_of_any_class_is_speech() -> None:
    (message,) = started().encode(TTSAudioRawFrame(ramp(1600), 8000, 1))
    assert payload(message) == ramp(1600)


def test_nothing_is_said_before_the_stream_has_a_name() -> None:
    serializer = ExotelFrameSerializer("")
    for frame in (speech(ramp(1600)), InterruptionFrame(), MarkFrame("m")):
        assert serializer.encode(frame) == ()


# ---------------------------------------------------------------- the end, and errors


@pytest.mark.parametrize(
    ("reason", "ours"),
    [("callended", "caller"), ("canceled or call ended", "caller"), ("stopped", "carrier"), ("whatever", "carrier")],
)
def test_stop_ends_the_stream(reason: str, ours: str) -> None:
    stop = {"call_sid": CALL, "account_sid": "acme1", "reason": reason}
    frame = one(started(), {"event": "stop", "sequence_number": "20", "stream_sid": SID, "stop": stop})
    assert isinstance(frame, CallEndedFrame)
    assert (frame.reason, frame.detail) == (ours, reason)


@pytest.mark.parametrize("stop", [None, {}, "x", {"reason": 3.5}], ids=repr)
def test_a_stop_that_lacks_something_is_still_the_end(stop: Any) -> None:
    assert isinstance(one(started(), {"event": "stop", "stop": stop}), CallEndedFrame)


def test_the_end_of_the_bot_is_the_closed_socket() -> None:
    serializer = started()
    assert serializer.ending is Ending.SOCKET
    assert not serializer.close_is_normal_end
    assert serializer.lead_ms == 400
    assert serializer.hang_up_request() is None
    for frame in (EndFrame(), CancelFrame()):
        assert serializer.encode(frame) == ()


def test_exotel_reports_no_errors_on_the_socket_and_unknown_events_are_none() -> None:
    assert started().decode('{"event":"error","error":{"code":3009}}') == ()


BAD = {
    "empty": "",
    "not json": "{",
    "trailing": '{"event":"stop"}x',
    "array": "[]",
    "number": "1",
    "null": "null",
    "no event": "{}",
    "event is a number": '{"event":5}',
    "invalid utf-8": b'{"event":"\xff"}',
    "lone surrogate": '{"event":"\ud800"}',
    "deep": '{"a":' * 5000 + "1" + "}" * 5000,
    "huge number": '{"event":"dtmf","dtmf":{"digit":' + "9" * 5000 + "}}",
    "start without object": '{"event":"start"}',
    "start without stream": '{"event":"start","start":{"call_sid":"c"}}',
    "start with a number for a stream": '{"event":"start","stream_sid":7,"start":{}}',
    "media without object": '{"event":"media"}',
    "media is a list": '{"event":"media","media":[]}',
    "media without payload": '{"event":"media","media":{"chunk":"1"}}',
    "payload is a number": '{"event":"media","media":{"payload":1}}',
    "payload is not base64": '{"event":"media","media":{"payload":"*"}}',
    "payload is not ascii": '{"event":"media","media":{"payload":"é"}}',
    "payload is cut": '{"event":"media","media":{"payload":"AAA"}}',
    "half a sample": '{"event":"media","media":{"payload":"AAAA"}}',
    "dtmf without digit": '{"event":"dtmf","dtmf":{}}',
    "dtmf without anything": '{"event":"dtmf"}',
    "digit is a list": '{"event":"dtmf","dtmf":{"digit":[]}}',
    "digit is true": '{"event":"dtmf","digit":true}',
    "mark without name": '{"event":"mark","mark":{}}',
    "mark without object": '{"event":"mark"}',
    "mark name is a number": '{"event":"mark","mark":{"name":1}}',
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD)
def test_a_malformed_message_is_refused_and_the_call_goes_on(message: Any) -> None:
    serializer = ExotelFrameSerializer("")
    with pytest.raises(RemoteProtocolError):
        serializer.decode(message)
    assert isinstance(one(serializer, START), CallStartedFrame)
    if "start" not in str(message):
        with pytest.raises(RemoteProtocolError):
            serializer.decode(message)
    assert one(serializer, media(ramp(800))).audio == ramp(800)


def test_an_error_names_and_measures_and_quotes_nothing() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        started().decode('{"event":"dtmf","dtmf":{"digit":["4711"]}}')
    assert "4711" not in str(caught.value) + caught.value.excerpt
    assert caught.value.excerpt == "keys dtmf, event"


# ---------------------------------------------------------------- the asynchronous face


def test_the_seeds_face_gives_one_message_or_names_the_other_face() -> None:
    async def talk() -> None:
        serializer = ExotelFrameSerializer(stream_sid=SID, call_sid=CALL)
        await serializer.setup(StartFrame(audio_in_sample_rate=8000))
        assert await serializer.serialize(speech(ramp(100))) is None
        message = await serializer.serialize(speech(ramp(1500)))
        assert isinstance(message, str)
        assert json.loads(message)["stream_sid"] == SID
        assert json.loads(str(await serializer.serialize(InterruptionFrame())))["event"] == "clear"
        with pytest.raises(LocalProtocolError, match="encode"):
            await serializer.serialize(speech(ramp(16000)))
        frame = await serializer.deserialize(media(ramp(800)))
        assert isinstance(frame, InputAudioRawFrame)
        assert await serializer.deserialize("not json") is None
        assert await serializer.deserialize(json.dumps(START)) is None
        digit = await serializer.deserialize('{"event":"dtmf","dtmf":{"digit":"5"}}')
        assert isinstance(digit, InputDTMFFrame)

    asyncio.run(talk())


def test_a_call_sid_of_the_constructor_stands_in_for_a_missing_one() -> None:
    serializer = ExotelFrameSerializer(stream_sid=SID, call_sid=CALL)
    assert one(serializer, start(call_sid=None)).call.call_id == CALL


def test_application_messages_go_out_and_rtvi_stays() -> None:
    serializer = started()
    for cls in (OutputTransportMessageFrame, OutputTransportMessageUrgentFrame):
        assert serializer.encode(cls({"x": 1})) == ('{"x": 1}',)
        assert serializer.encode(cls({"label": "rtvi-ai", "type": "bot-ready"})) == ()
    serializer = started(ignore_rtvi_messages=False)
    assert len(serializer.encode(OutputTransportMessageFrame({"label": "rtvi-ai"}))) == 1


# ---------------------------------------------------------------- recorded calls

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts"


def replay(name: str) -> list[Any]:
    """The frames of a recorded call's inbound side; its outbound side must be what `encode` writes."""
    serializer = ExotelFrameSerializer.for_call(WireOptions())
    frames: list[Any] = []
    for line in (TRANSCRIPTS / name).read_text().splitlines():
        step = json.loads(line)
        message = step["msg"]
        if "_close" in message:
            continue
        if step["dir"] == "in":
            frames += serializer.decode(json.dumps(message))
        elif message["event"] == "media":
            sent = b64decode(message["media"]["payload"])
            pcm = ulaw_to_pcm(sent) if serializer.outgoing.compress is pcm_to_ulaw else sent
            (again,) = serializer.encode(speech(pcm, serializer.send_rate))
            assert json.loads(again).keys() == message.keys()
            assert len(payload(again)) == len(sent)
            assert serializer.outgoing.compress is pcm_to_ulaw or json.loads(again) == message
        else:
            frame = MarkFrame(message["mark"]["name"]) if message["event"] == "mark" else InterruptionFrame()
            assert [json.loads(again) for again in serializer.encode(frame)] == [message]
    assert list(serializer.flush()) == []
    return frames


def heard(frames: list[Any]) -> tuple[float, list[int | None]]:
    audio = [frame for frame in frames if isinstance(frame, InputAudioRawFrame)]
    return round(sum(frame.num_frames / frame.sample_rate for frame in audio), 6), [frame.seq for frame in audio]


def said(frames: list[Any]) -> list[Any]:
    """Everything but audio, in short."""
    short: dict[type, Any] = {
        CallStartedFrame: lambda frame: ("started", frame.call.receive.encoding, frame.call.receive.sample_rate),
        InputDTMFFrame: lambda frame: frame.button.value,
        PlayedFrame: lambda frame: frame.name,
        CallEndedFrame: lambda frame: ("ended", frame.reason),
    }
    return [short[type(frame)](frame) for frame in frames if not isinstance(frame, InputAudioRawFrame)]


def test_a_whole_call() -> None:
    frames = replay("exotel_call.jsonl")
    assert said(frames) == [
        ("started", "L16", 8000),
        "turn-1-end",
        "turn-2-end",
        "5",
        "#",
        "bye",
        ("ended", "carrier"),
    ]
    assert heard(frames) == (3.2, list(range(1, 33)))


def test_a_call_in_camel_case_that_just_breaks_off() -> None:
    frames = replay("exotel_lost.jsonl")
    assert said(frames) == [("started", "L16", 16000), "0"]
    assert frames[0].call.to_number == "8047491899"
    assert heard(frames) == (0.8, list(range(1, 9)))


def test_a_mu_law_call_in_packets_of_20_ms() -> None:
    frames = replay("exotel_mulaw.jsonl")
    assert said(frames) == [("started", "PCMU", 8000), ("ended", "caller")]
    assert heard(frames) == (0.6, list(range(1, 31)))


# ---------------------------------------------------------------- against the strict fake


class TestConformance(SerializerConformance):
    make = staticmethod(lambda: ExotelFrameSerializer.for_call(WireOptions()))
    fake = staticmethod(FakeExotel)
    plan: ClassVar = {"parameters": {"ref": "42"}}


class TestAt24Kilohertz(SerializerConformance):
    make = staticmethod(lambda: ExotelFrameSerializer.for_call(WireOptions(send_sample_rate=24000)))
    fake = staticmethod(FakeExotel)
    plan: ClassVar = {"sample_rate": 24000, "options": {"camel": True, "numbers": True}}


class TestMuLaw(SerializerConformance):
    make = staticmethod(lambda: ExotelFrameSerializer.for_call(WireOptions(options={"outbound_media_extras": True})))
    fake = staticmethod(FakeExotel)
    plan: ClassVar = {"receive_codec": "PCMU", "options": {"flat_dtmf": True, "silence": True, "connected": False}}


TestMachine = machine(TestConformance)
