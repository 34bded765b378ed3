"""Vonage's cells: rates, start, notify, clear, digits, frames of 20 ms, ends, malformed input; both products."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.vonage import FakeVonage
from media.errors import RemoteProtocolError
from media.frames import (
    CallEndedFrame,
    CallStartedFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    KeypadEntry,
    MarkFrame,
    OutputAudioRawFrame,
    OutputDTMFFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    PlaybackClearedFrame,
    PlayedFrame,
    SpeechOutputAudioRawFrame,
    StartFrame,
)
from serializers.base import Ending, Message, WireOptions
from serializers.vonage import VonageFrameSerializer
from tests.serializers.conformance import SerializerConformance, machine

LEG = "aaaaaaaa-bbbb-cccc-dddd-0123456789ab"
FRAME_BYTES = {8000: 320, 16000: 640, 24000: 960}


def ramp(samples: int) -> bytes:
    return struct.pack(f"<{samples}h", *((i * 97) % 2001 - 1000 for i in range(samples)))


def connected(content_type: Any = "audio/l16;rate=16000", **headers: Any) -> str:
    return json.dumps({"event": "websocket:connected", "content-type": content_type, "gw_call": LEG, **headers})


def started(rate: int = 16000, **params: Any) -> VonageFrameSerializer:
    serializer = VonageFrameSerializer(VonageFrameSerializer.InputParams(**params))
    (frame,) = serializer.decode(connected(f"audio/l16;rate={rate}"))
    assert isinstance(frame, CallStartedFrame)
    return serializer


def one(serializer: VonageFrameSerializer, message: Any) -> Any:
    (frame,) = serializer.decode(message if isinstance(message, str | bytes) else json.dumps(message))
    return frame


def speech(pcm: bytes, rate: int = 16000) -> OutputAudioRawFrame:
    return OutputAudioRawFrame(pcm, rate, 1)


# ---------------------------------------------------------------- start


def test_connected_tells_the_rate_and_brings_our_headers_back() -> None:
    call = one(VonageFrameSerializer(), connected(tenant="t1", x=5)).call
    assert (call.carrier, call.call_id, call.stream_id) == ("vonage", LEG, "")
    assert call.parameters == {"gw_call": LEG, "tenant": "t1", "x": 5}
    assert (call.receive.encoding, call.receive.sample_rate, call.receive.channels) == ("L16", 16000, 1)
    assert call.send == call.receive
    assert call.receives_audio


def test_the_call_of_a_video_session_has_no_id_on_the_socket() -> None:
    serializer = VonageFrameSerializer.for_call(WireOptions(options={"product": "video"}))
    call = one(serializer, connected()).call
    assert (call.call_id, call.parameters) == ("", {"gw_call": LEG})


def test_an_unknown_product_is_refused() -> None:
    with pytest.raises(ValueError, match="product"):
        VonageFrameSerializer(VonageFrameSerializer.InputParams(product="fax"))


@pytest.mark.parametrize(
    "said", ["audio/l16;rate=24000", "audio/L16; rate=24000", "audio/l16;Rate = 24000;channels=1"], ids=str
)
def test_the_rate_is_read_from_the_content_type(said: str) -> None:
    serializer = VonageFrameSerializer()
    assert one(serializer, connected(said)).call.receive.sample_rate == 24000
    assert serializer.send_rate == 24000


@pytest.mark.parametrize("said", ["audio/l16", "audio/l16;rate=44100", "audio/l16;rate=", "", None, 5, []], ids=repr)
def test_no_known_rate_means_the_one_asked_for(said: Any) -> None:
    serializer = VonageFrameSerializer.for_call(WireOptions(send_sample_rate=8000))
    assert one(serializer, connected(said)).call.receive.sample_rate == 8000


def test_the_message_wins_over_what_was_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    serializer = VonageFrameSerializer.for_call(WireOptions(send_sample_rate=8000))
    one(serializer, connected())
    assert serializer.send_rate == 16000
    assert "says 16000 Hz, 8000 were asked for" in caplog.text


def test_16_khz_is_what_is_assumed() -> None:
    assert VonageFrameSerializer().send_rate == 16000
    assert VonageFrameSerializer.for_call(WireOptions()).send_rate == 16000


def test_packed_parameters_are_unpacked() -> None:
    packed = "tenant=t1&event=Gr%C3%BC%C3%9Fe+%26+more&none="
    call = one(VonageFrameSerializer(), connected(gw_data=packed)).call
    assert call.parameters == {"gw_call": LEG, "tenant": "t1", "event": "Grüße & more", "none": ""}


def test_a_second_connected_is_ignored() -> None:
    serializer = started()
    assert serializer.decode(connected("audio/l16;rate=8000")) == ()
    assert serializer.send_rate == 16000


# ---------------------------------------------------------------- audio in


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_binary_is_pcm_little_endian(rate: int) -> None:
    frame = one(started(rate), ramp(rate // 50))
    assert isinstance(frame, InputAudioRawFrame)
    assert (frame.audio, frame.sample_rate, frame.num_channels) == (ramp(rate // 50), rate, 1)
    assert (frame.seq, frame.timestamp_ms) == (None, None)


def test_audio_before_connected_implies_the_start_at_the_rate_asked_for() -> None:
    serializer = VonageFrameSerializer.for_call(WireOptions(send_sample_rate=8000))
    assert serializer.decode(b"") == ()
    begin, audio = serializer.decode(ramp(160))
    assert isinstance(begin, CallStartedFrame)
    assert (begin.call.receive.sample_rate, begin.call.parameters) == (8000, {})
    assert isinstance(audio, InputAudioRawFrame)
    assert audio.sample_rate == 8000
    assert serializer.decode(connected("audio/l16;rate=8000")) == ()
    assert one(serializer, ramp(160)).audio == ramp(160)


def test_a_late_connected_still_corrects_the_rate() -> None:
    serializer = VonageFrameSerializer.for_call(WireOptions(send_sample_rate=8000))
    serializer.decode(ramp(160))
    serializer.encode(speech(ramp(100), 16000))
    serializer.decode(connected("audio/l16;rate=16000"))
    assert one(serializer, ramp(320)).sample_rate == 16000
    assert [len(frame) for frame in serializer.encode(speech(ramp(160), 8000))] == [640]


@pytest.mark.parametrize("size", [2, 160, 638, 642, 3200])
def test_any_even_length_is_taken(size: int) -> None:
    assert one(started(), ramp(size // 2)).audio == ramp(size // 2)


@given(cuts=st.lists(st.integers(0, 700).filter(lambda cut: cut != 640), min_size=1, max_size=12))
def test_half_a_sample_waits_for_its_other_half(cuts: list[int]) -> None:
    serializer = started()
    pcm = ramp(sum(cuts) // 2 + 1)[: sum(cuts)]
    heard, at = b"", 0
    for cut in cuts:
        for frame in serializer.decode(pcm[at : at + cut]):
            assert isinstance(frame, InputAudioRawFrame)
            assert len(frame.audio) % 2 == 0
            heard += frame.audio
        at += cut
    assert heard == pcm[: len(pcm) & ~1]


def test_a_stray_byte_does_not_turn_the_call_into_noise() -> None:
    serializer = started()
    serializer.decode(b"\1\2\3")
    assert one(serializer, ramp(320)).audio == ramp(320)


def test_caller_audio_comes_at_the_pipelines_rate() -> None:
    frame = one(started(sample_rate=8000), ramp(320))
    assert (frame.sample_rate, len(frame.audio)) == (8000, 320)
    serializer = VonageFrameSerializer.for_call(WireOptions(in_sample_rate=24000))
    one(serializer, connected())
    assert one(serializer, ramp(320)).sample_rate == 24000


def test_a_muted_participant_is_silent_and_the_clock_goes_on() -> None:
    serializer = started(product="video")
    update = {"event": "websocket:media:update", "method": "update", "gw_call": "v-1"}
    for active, expected in ((False, bytes(640)), (True, ramp(320)), (0, bytes(640)), (1, ramp(320))):
        assert serializer.decode(json.dumps({**update, "active": active})) == ()
        assert one(serializer, ramp(320)).audio == expected


# ---------------------------------------------------------------- digits


@pytest.mark.parametrize("key", list(KeypadEntry), ids=str)
def test_digits_come_in_three_shapes(key: KeypadEntry) -> None:
    serializer = started()
    for message in (
        {"event": "websocket:dtmf", "digit": key.value, "duration": 260},
        {"event": "websocket:dtmf", "dtmf": {"digit": key.value}},
        {"digit": key.value, "duration": 260},
    ):
        for text in (json.dumps(message), "  " + json.dumps(message)):
            frame = one(serializer, text)
            assert isinstance(frame, InputDTMFFrame)
            assert frame.button is key


@pytest.mark.parametrize("message", [{"event": "websocket:dtmf", "digit": 0}, {"digit": 0}], ids=str)
def test_the_number_zero_is_a_digit(message: Any) -> None:
    assert one(started(), message).button is KeypadEntry.ZERO


@pytest.mark.parametrize("digit", ["E", "55", "", 10, "p"], ids=repr)
def test_a_digit_that_no_telephone_has_is_counted_and_dropped(digit: Any) -> None:
    serializer = started()
    assert serializer.decode(json.dumps({"event": "websocket:dtmf", "digit": digit})) == ()
    assert serializer.dropped_digits == 1


def test_digits_go_out_as_tones_only() -> None:
    serializer = started()
    assert not serializer.sends_digits
    assert serializer.encode(OutputDTMFFrame(KeypadEntry.ONE)) == ()


# ---------------------------------------------------------------- notify and clear


def test_a_mark_is_a_notify() -> None:
    serializer = started()
    (message,) = serializer.encode(MarkFrame('turn "1"'))
    assert json.loads(message) == {"action": "notify", "payload": {"id": 'turn "1"'}}
    frame = one(serializer, {"event": "websocket:notify", "payload": {"id": "turn-1"}})
    assert isinstance(frame, PlayedFrame)
    assert frame.name == "turn-1"
    assert serializer.has_marks
    assert serializer.echoes_marks_on_clear


@pytest.mark.parametrize("payload", [{}, {"id": 5}, {"step": "menu"}], ids=str)
def test_an_applications_own_notify_is_no_mark(payload: Any) -> None:
    assert started().decode(json.dumps({"event": "websocket:notify", "payload": payload})) == ()


def test_an_interruption_clears_and_drops_what_is_held() -> None:
    serializer = started()
    assert [len(frame) for frame in serializer.encode(speech(ramp(700)))] == [640, 640]
    assert serializer.encode(InterruptionFrame()) == ('{"action":"clear"}',)
    assert list(serializer.flush()) == []
    assert list(serializer.encode(speech(ramp(320)))) == [ramp(320)]
    assert isinstance(one(serializer, '{"event":"websocket:cleared"}'), PlaybackClearedFrame)
    assert serializer.clear_grain_ms == 0


def test_an_interruption_also_empties_the_resampler() -> None:
    loud = struct.pack("<480h", *(20000 for _ in range(480)))
    serializer = started()
    serializer.encode(speech(loud, 24000))
    serializer.encode(InterruptionFrame())
    frames = [*serializer.encode(speech(bytes(1920), 24000)), *serializer.flush()]
    assert frames
    assert not any(b"".join(frame for frame in frames if isinstance(frame, bytes)))


# ---------------------------------------------------------------- frames out


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_a_frame_is_20_ms(rate: int) -> None:
    serializer = started(rate)
    assert serializer.packet_ms == 20
    pcm = ramp(rate // 50)
    (frame,) = serializer.encode(speech(pcm, rate))
    assert frame == pcm
    assert len(frame) == FRAME_BYTES[rate]


def test_the_documented_vectors() -> None:
    (frame,) = started(8000).encode(speech(ramp(160), 8000))
    assert isinstance(frame, bytes)
    assert hashlib.sha256(frame).hexdigest() == "7ac646688497758ef68529869792737330fe3b07fa0f172758864d38ca745455"
    (frame,) = started().encode(speech(ramp(320)))
    assert isinstance(frame, bytes)
    assert hashlib.sha256(frame).hexdigest() == "2b12a9abc29662b3f3ed3927c68e570550e3231f927a0391177cdba3511aa5a9"
    serializer = started()
    assert [len(frame) for frame in serializer.encode(speech(ramp(750)))] == [640, 640]
    (tail,) = serializer.flush()
    assert tail == ramp(750)[1280:] + bytes(640 - 220)


@given(cuts=st.lists(st.integers(0, 2000), min_size=1, max_size=12), rate=st.sampled_from([8000, 16000, 24000]))
def test_however_speech_is_cut_only_exact_frames_leave(cuts: list[int], rate: int) -> None:
    serializer = started(rate)
    pcm = ramp(sum(cuts))
    frames: list[Any] = []
    at = 0
    for cut in cuts:
        frames += serializer.encode(speech(pcm[2 * at : 2 * (at + cut)], rate))
        at += cut
    assert sum(map(len, frames)) == len(pcm) // FRAME_BYTES[rate] * FRAME_BYTES[rate]
    frames += serializer.flush()
    assert {len(frame) for frame in frames} <= {FRAME_BYTES[rate]}
    sent = b"".join(frames)
    assert sent[: len(pcm)] == pcm
    assert not any(sent[len(pcm) :])


@pytest.mark.parametrize("pipeline_rate", [8000, 16000, 22050, 24000, 44100])
@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_speech_of_any_rate_leaves_whole_in_exact_frames(rate: int, pipeline_rate: int) -> None:
    serializer = started(rate)
    frames: list[Any] = []
    for _ in range(50):
        frames += serializer.encode(speech(ramp(pipeline_rate // 50), pipeline_rate))
    frames += serializer.flush()
    assert {len(frame) for frame in frames} == {FRAME_BYTES[rate]}
    assert rate * 2 <= sum(map(len, frames)) <= rate * 2 * 1.2


def test_speech_of_any_class_is_speech() -> None:
    assert list(started().encode(SpeechOutputAudioRawFrame(ramp(320), 16000, 1))) == [ramp(320)]


# ---------------------------------------------------------------- the end


def test_the_close_of_the_socket_is_vonages_end_of_a_call() -> None:
    serializer = started()
    assert serializer.close_is_normal_end
    assert serializer.ending is Ending.REST
    assert (serializer.lead_ms, serializer.end_wait_s) == (400, 2.0)
    assert serializer.hang_up_request() is None
    for frame in (EndFrame(), CancelFrame()):
        assert serializer.encode(frame) == ()


@pytest.mark.parametrize("event", ["websocket:disconnected", "websocket:closed", "websocket:hangup"])
def test_what_announces_the_close_ends_the_stream(event: str) -> None:
    frame = one(started(), {"event": event, "gw_call": "v-1"})
    assert isinstance(frame, CallEndedFrame)
    assert (frame.reason, frame.detail) == ("caller", event)


@pytest.mark.parametrize("event", ["websocket:error", "websocket:new", "audio"])
def test_unknown_events_say_nothing(event: str) -> None:
    assert started().decode(json.dumps({"event": event, "code": 7})) == ()


# ---------------------------------------------------------------- malformed

BAD = {
    "empty": "",
    "not json": "{",
    "array": "[]",
    "string": '"websocket:dtmf"',
    "null": "null",
    "no event": "{}",
    "event is a number": '{"event":1}',
    "lone surrogate": '{"event":"\ud800"}',
    "deep": "[" * 5000 + "]" * 5000,
    "huge number": '{"digit":' + "9" * 5000 + "}",
    "dtmf without digit": '{"event":"websocket:dtmf"}',
    "digit is null": '{"digit":null}',
    "digit is true": '{"event":"websocket:dtmf","digit":true}',
    "digit is a list": '{"event":"websocket:dtmf","dtmf":{"digit":["1"]}}',
    "notify without payload": '{"event":"websocket:notify"}',
    "notify payload is text": '{"event":"websocket:notify","payload":"turn-1"}',
    "update without active": '{"event":"websocket:media:update"}',
    "active is text": '{"event":"websocket:media:update","active":"no"}',
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD)
def test_a_malformed_message_is_refused_and_the_call_goes_on(message: str) -> None:
    serializer = VonageFrameSerializer()
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            serializer.decode(message)
    assert isinstance(one(serializer, connected()), CallStartedFrame)
    with pytest.raises(RemoteProtocolError):
        serializer.decode(message)
    assert one(serializer, ramp(320)).audio == ramp(320)


def test_an_error_names_and_measures_and_quotes_nothing() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        started().decode('{"event":"websocket:dtmf","digit":["4711"]}')
    assert "4711" not in str(caught.value) + caught.value.excerpt
    assert caught.value.excerpt == "keys digit, event"


# ---------------------------------------------------------------- the asynchronous face


def test_the_seeds_face_joins_frames_for_who_cuts_them() -> None:
    async def talk() -> None:
        serializer = VonageFrameSerializer()
        await serializer.setup(StartFrame(audio_in_sample_rate=8000))
        assert await serializer.deserialize(connected()) is None
        assert await serializer.serialize(speech(ramp(100))) is None
        assert await serializer.serialize(speech(ramp(600))) == (ramp(100) + ramp(600))[:1280]
        assert await serializer.serialize(InterruptionFrame()) == '{"action":"clear"}'
        frame = await serializer.deserialize(ramp(320))
        assert isinstance(frame, InputAudioRawFrame)
        assert (frame.sample_rate, len(frame.audio)) == (8000, 320)
        assert await serializer.deserialize('{"event":"websocket:cleared"}') is None
        assert await serializer.deserialize("[]") is None

    asyncio.run(talk())


def test_application_messages_go_out_and_rtvi_stays() -> None:
    serializer = started()
    for cls in (OutputTransportMessageFrame, OutputTransportMessageUrgentFrame):
        assert serializer.encode(cls({"action": "notify", "payload": {"step": 1}})) == (
            '{"action": "notify", "payload": {"step": 1}}',
        )
        assert serializer.encode(cls({"label": "rtvi-ai"})) == ()


# ---------------------------------------------------------------- recorded calls

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts"


def replay(name: str, **options: Any) -> list[Any]:
    """The frames of a recorded call's inbound side; its outbound side must be what `encode` writes."""
    serializer = VonageFrameSerializer.for_call(WireOptions(**options))
    frames: list[Any] = []
    for line in (TRANSCRIPTS / name).read_text().splitlines():
        step = json.loads(line)
        message = step.get("msg", {})
        if "_close" in message:
            continue
        if step["dir"] == "in":
            frames += serializer.decode(
                bytes.fromhex(step["binary_hex"]) if "binary_hex" in step else json.dumps(message)
            )
        elif "binary_hex" in step:
            sent = bytes.fromhex(step["binary_hex"])
            assert list(serializer.encode(speech(sent, serializer.send_rate))) == [sent]
        else:
            frame = MarkFrame(message["payload"]["id"]) if message["action"] == "notify" else InterruptionFrame()
            assert [json.loads(again) for again in serializer.encode(frame)] == [message]
    return frames


def said(frames: list[Any]) -> list[Any]:
    """Everything but audio, in short."""
    short: dict[type, Any] = {
        CallStartedFrame: lambda frame: ("started", frame.call.call_id, frame.call.receive.sample_rate),
        InputDTMFFrame: lambda frame: frame.button.value,
        PlayedFrame: lambda frame: frame.name,
        PlaybackClearedFrame: lambda frame: "cleared",
        CallEndedFrame: lambda frame: ("ended", frame.reason),
    }
    return [short[type(frame)](frame) for frame in frames if not isinstance(frame, InputAudioRawFrame)]


def voice(frames: list[Any]) -> list[bytes]:
    return [frame.audio for frame in frames if isinstance(frame, InputAudioRawFrame)]


def test_a_whole_call_with_a_late_and_a_missing_notify() -> None:
    frames = replay("vonage_call.jsonl", send_sample_rate=8000)
    assert said(frames) == [("started", LEG, 8000), "turn-1", "turn-2", "cleared", "5", "0", "#"]
    assert frames[0].call.parameters == {"gw_call": LEG, "tenant": "t1"}
    assert [len(pcm) for pcm in voice(frames)] == [320] * 125


def test_an_audio_connector_with_a_muted_participant() -> None:
    frames = replay("vonage_audio_connector.jsonl", options={"product": "video"})
    assert said(frames) == [("started", "", 16000), "cleared", ("ended", "caller")]
    spoken = [any(pcm) for pcm in voice(frames)]
    assert len(spoken) == 60
    assert not any(spoken[32:42])
    assert all(spoken[18:32])
    assert all(spoken[42:])


def test_audio_before_connected_older_digits_and_a_broken_socket() -> None:
    frames = replay("vonage_lost.jsonl")
    assert said(frames) == [("started", "", 16000), "7", "0"]
    assert len(b"".join(voice(frames))) == 30 * 640
    assert {len(pcm) % 2 for pcm in voice(frames)} == {0}


# ---------------------------------------------------------------- against the strict fake


class VonageConformance(SerializerConformance):
    fake = staticmethod(FakeVonage)
    digits = "0123456789*#ABCD"

    def binary_is_audio(self) -> bool:
        return True

    def check_before_start(self, frame: Frame, messages: Sequence[Message]) -> None:
        """Vonage's messages need no id: the socket is the call."""
        assert len(messages) == isinstance(frame, OutputAudioRawFrame | InterruptionFrame | MarkFrame)


class TestConformance(VonageConformance):
    make = staticmethod(lambda: VonageFrameSerializer.for_call(WireOptions()))
    plan: ClassVar = {"parameters": {"tenant": "t1"}}


class TestAt8Kilohertz(VonageConformance):
    make = staticmethod(lambda: VonageFrameSerializer.for_call(WireOptions(send_sample_rate=8000)))
    plan: ClassVar = {"sample_rate": 8000, "options": {"dtmf": "legacy"}}


class TestVideo(VonageConformance):
    make = staticmethod(
        lambda: VonageFrameSerializer.for_call(WireOptions(send_sample_rate=24000, options={"product": "video"}))
    )
    plan: ClassVar = {"sample_rate": 24000, "options": {"product": "video", "dtmf": "nested"}}


TestMachine = machine(TestConformance)
