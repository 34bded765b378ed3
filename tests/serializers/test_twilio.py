"""Twilio's cells: codecs, rates, start, marks, clear, digits, packets, ends, malformed input; and recorded calls."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gateway.simulator.twilio import FakeTwilio
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.errors import RemoteProtocolError
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
    SpeechOutputAudioRawFrame,
    StartFrame,
    TTSAudioRawFrame,
)
from serializers.base import Ending, HangUp, WireOptions
from serializers.twilio import TwilioFrameSerializer
from tests.serializers.conformance import SerializerConformance, machine, tone

SID = "MZ00000000000000000000000000000001"
CALL = "CA00000000000000000000000000000001"
ACCOUNT = "AC00000000000000000000000000000001"
ULAW = bytes(range(160))
PAYLOAD = base64.b64encode(ULAW).decode()


class TestConformance(SerializerConformance):
    make = staticmethod(lambda: TwilioFrameSerializer.for_call(WireOptions()))
    fake = staticmethod(FakeTwilio)
    plan: ClassVar = {"parameters": {"bot": "sales"}}
    digits = "0123456789*#ABCD"


TestMachine = machine(TestConformance)


def start(**fields: Any) -> str:
    message: dict[str, Any] = {
        "event": "start",
        "sequenceNumber": "1",
        "streamSid": SID,
        "start": {
            "accountSid": ACCOUNT,
            "streamSid": SID,
            "callSid": CALL,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {"bot": "sales"},
        }
        | fields,
    }
    return json.dumps(message)


def media(payload: str = PAYLOAD, **fields: Any) -> str:
    inner = {"track": "inbound", "chunk": "2", "timestamp": "25", "payload": payload} | fields
    return json.dumps({"event": "media", "sequenceNumber": "4", "streamSid": SID, "media": inner})


def live(in_sample_rate: int | None = None) -> TwilioFrameSerializer:
    serializer = TwilioFrameSerializer.for_call(WireOptions(in_sample_rate=in_sample_rate))
    serializer.decode(start())
    return serializer


def built(**options: Any) -> TwilioFrameSerializer:
    """As a program builds it that parsed the first messages itself."""
    return TwilioFrameSerializer(SID, CALL, ACCOUNT, "token", **options)


# ---------------------------------------------------------------- construction


def test_without_credentials_it_cannot_hang_up_and_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="call_sid, account_sid, auth_token"):
        TwilioFrameSerializer(SID)
    with pytest.raises(ValueError, match="auth_token") as caught:
        TwilioFrameSerializer(SID, CALL, ACCOUNT)
    assert "account_sid" not in str(caught.value)
    TwilioFrameSerializer(SID, params=TwilioFrameSerializer.InputParams(auto_hang_up=False))


@pytest.mark.parametrize("half", [{"region": "ie1"}, {"edge": "dublin"}])
def test_region_and_edge_go_together(half: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="region and edge"):
        built(**half)
    off = TwilioFrameSerializer.InputParams(auto_hang_up=False)
    TwilioFrameSerializer(SID, params=off, **half)  # nothing will be called


def test_the_parameters_defaults() -> None:
    params = TwilioFrameSerializer.InputParams()
    assert params == TwilioFrameSerializer.InputParams(
        twilio_sample_rate=8000, sample_rate=None, auto_hang_up=True, ignore_rtvi_messages=True
    )


def test_hanging_up_is_a_value() -> None:
    assert built(region="ie1", edge="dublin").hang_up_request() == HangUp(
        carrier="twilio", call_id=CALL, account_id=ACCOUNT, secret="token", region="ie1", edge="dublin"
    )
    assert "token" not in repr(built().hang_up_request())
    assert live().hang_up_request() is None
    for frame in (EndFrame(), CancelFrame()):
        assert built().encode(frame) == ()


def test_what_the_gateway_must_know_of_twilio() -> None:
    serializer = live()
    assert serializer.ending is Ending.REST
    assert serializer.echoes_marks_on_clear
    assert serializer.has_marks
    assert not serializer.sends_digits
    assert not serializer.close_is_normal_end
    assert (serializer.lead_ms, serializer.packet_ms, serializer.send_rate) == (200, 20, 8000)


# ---------------------------------------------------------------- start


def test_start_is_a_call() -> None:
    serializer = TwilioFrameSerializer.for_call(WireOptions())
    assert serializer.decode('{"event":"connected","protocol":"Call","version":"1.0.0"}') == ()
    [frame] = serializer.decode(start(newField=7))
    assert isinstance(frame, CallStartedFrame)
    call = frame.call
    assert (call.carrier, call.call_id, call.stream_id, call.account_id) == ("twilio", CALL, SID, ACCOUNT)
    assert call.parameters == {"bot": "sales"}
    assert (call.receive.encoding, call.receive.sample_rate, call.receive.channels) == ("PCMU", 8000, 1)
    assert call.send == call.receive
    assert call.extra == {"tracks": ["inbound"], "newField": 7}
    assert call.receives_audio
    assert call.from_number == call.to_number == ""  # Twilio's start has neither: the token does


@pytest.mark.parametrize("parameters", [None, {}, ""])
def test_no_custom_parameters(parameters: Any) -> None:
    [frame] = TwilioFrameSerializer.for_call(WireOptions()).decode(start(customParameters=parameters))
    assert isinstance(frame, CallStartedFrame)
    assert frame.call.parameters == {}


def test_a_stream_with_the_outbound_track_is_one_way() -> None:
    [frame] = TwilioFrameSerializer.for_call(WireOptions()).decode(start(tracks=["inbound", "outbound"]))
    assert isinstance(frame, CallStartedFrame)
    assert not frame.call.receives_audio


def test_a_second_start_is_no_second_call() -> None:
    assert live().decode(start()) == ()


def test_the_stream_may_be_named_in_either_place() -> None:
    message = json.loads(start())
    del message["start"]["streamSid"]
    [frame] = TwilioFrameSerializer.for_call(WireOptions()).decode(json.dumps(message))
    assert isinstance(frame, CallStartedFrame)
    assert frame.call.stream_id == SID


@pytest.mark.parametrize(
    "media_format",
    [
        {"encoding": "audio/x-l16", "sampleRate": 16000, "channels": 1},
        {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 2},
        {"encoding": "audio/x-mulaw", "sampleRate": 11025, "channels": 1},
        {"encoding": 5, "sampleRate": 8000, "channels": 1},
        "audio/x-mulaw",
    ],
)
def test_a_format_that_cannot_be_decoded_is_refused_in_words(media_format: Any) -> None:
    serializer = TwilioFrameSerializer.for_call(WireOptions())
    with pytest.raises(RemoteProtocolError, match=r"decoded|not an object"):
        serializer.decode(start(mediaFormat=media_format))


def test_a_wider_mulaw_is_taken_both_ways() -> None:
    serializer = TwilioFrameSerializer.for_call(WireOptions())
    [frame] = serializer.decode(start(mediaFormat={"encoding": "audio/x-mulaw", "sampleRate": "16000", "channels": 1}))
    assert isinstance(frame, CallStartedFrame)
    assert frame.call.send.sample_rate == serializer.send_rate == 16000
    [audio] = serializer.decode(media())
    assert isinstance(audio, InputAudioRawFrame)
    assert audio.sample_rate == 16000


# ---------------------------------------------------------------- media in


def test_media_is_decoded() -> None:
    [frame] = live().decode(media())
    assert isinstance(frame, InputAudioRawFrame)
    assert frame.audio == ulaw_to_pcm(ULAW)
    assert (frame.sample_rate, frame.num_channels, frame.seq, frame.timestamp_ms) == (8000, 1, 2, 25)


def test_numbers_may_be_numbers_or_missing_or_odd() -> None:
    [frame] = live().decode(media(chunk=7, timestamp=140))
    assert isinstance(frame, InputAudioRawFrame)
    assert (frame.seq, frame.timestamp_ms) == (7, 140)
    [frame] = live().decode(json.dumps({"event": "media", "sequenceNumber": 9, "media": {"payload": PAYLOAD}}))
    assert isinstance(frame, InputAudioRawFrame)
    assert (frame.seq, frame.timestamp_ms) == (9, None)
    [frame] = live().decode(media(chunk="seven", timestamp=[]))
    assert isinstance(frame, InputAudioRawFrame)
    assert (frame.audio, frame.seq, frame.timestamp_ms) == (ulaw_to_pcm(ULAW), None, None)


def test_bytes_are_read_as_text() -> None:
    assert len(live().decode(media().encode())) == 1


@pytest.mark.parametrize("size", [1, 80, 161, 1600])
def test_media_of_any_length(size: int) -> None:
    [frame] = live().decode(media(base64.b64encode(b"\x12" * size).decode()))
    assert isinstance(frame, InputAudioRawFrame)
    assert frame.num_frames == size


def test_what_is_no_caller_audio() -> None:
    assert live().decode(media(track="outbound")) == ()
    assert live().decode(media("")) == ()


@pytest.mark.parametrize("rate", [16000, 24000])
def test_the_pipelines_rate_20_ms_in_20_ms_out(rate: int) -> None:
    serializer = live(rate)
    for _ in range(5):
        [frame] = serializer.decode(media())
        assert isinstance(frame, InputAudioRawFrame)
        assert (frame.sample_rate, frame.num_frames, frame.seq) == (rate, rate // 50, 2)


def test_the_params_rate_wins_over_the_pipelines() -> None:
    params = TwilioFrameSerializer.InputParams(sample_rate=16000, auto_hang_up=False)
    serializer = TwilioFrameSerializer(SID, params=params)
    serializer.begin(8000)
    [frame] = serializer.decode(media())
    assert isinstance(frame, InputAudioRawFrame)
    assert frame.sample_rate == 16000


@pytest.mark.parametrize("payload", ["%%%%", "A", "AAA", "AA=A", "ÿÿÿÿ"])
def test_bad_base64(payload: str) -> None:
    with pytest.raises(RemoteProtocolError, match="base64"):
        live().decode(media(payload))


# ---------------------------------------------------------------- digits, marks, ends, what nobody knows


def dtmf(digit: Any) -> str:
    return json.dumps({"event": "dtmf", "streamSid": SID, "dtmf": {"track": "inbound_track", "digit": digit}})


@pytest.mark.parametrize("key", list(KeypadEntry))
def test_every_key(key: KeypadEntry) -> None:
    [frame] = live().decode(dtmf(key.value))
    assert isinstance(frame, InputDTMFFrame)
    assert frame.button is key


def test_keys_in_other_clothes_and_keys_that_are_none() -> None:
    serializer = live()
    [seven] = serializer.decode(dtmf(7))
    [letter] = serializer.decode(dtmf("a"))
    assert isinstance(seven, InputDTMFFrame)
    assert isinstance(letter, InputDTMFFrame)
    assert (seven.button, letter.button) == (KeypadEntry.SEVEN, KeypadEntry.A)
    for other in ("w", "", "11", 12, -1):
        assert serializer.decode(dtmf(other)) == ()
    assert serializer.dropped_digits == 5


def test_a_mark_comes_back() -> None:
    [frame] = live().decode(json.dumps({"event": "mark", "streamSid": SID, "mark": {"name": "m-1"}}))
    assert isinstance(frame, PlayedFrame)
    assert frame.name == "m-1"


@pytest.mark.parametrize("stop", [{"accountSid": ACCOUNT, "callSid": CALL}, None, "x", 0])
def test_stop_ends_the_call_whatever_it_lacks(stop: Any) -> None:
    [frame] = live().decode(json.dumps({"event": "stop", "streamSid": SID, "stop": stop}))
    assert isinstance(frame, CallEndedFrame)
    assert frame.reason == "caller"


def test_events_that_twilio_may_add() -> None:
    assert live().decode('{"event":"transcription","streamSid":"x","transcription":{}}') == ()


@pytest.mark.parametrize(
    "message",
    [
        "",
        "x",
        "[]",
        "17",
        "{}",
        '{"event":7}',
        '{"event":"media"}',
        '{"event":"media","media":[]}',
        '{"event":"media","media":{}}',
        '{"event":"media","media":{"payload":7}}',
        '{"event":"start"}',
        '{"event":"start","start":{}}',
        '{"event":"start","start":{"streamSid":""}}',
        '{"event":"start","start":{"streamSid":"MZ","callSid":7}}',
        '{"event":"start","start":{"streamSid":"MZ","customParameters":"a=b"}}',
        '{"event":"dtmf"}',
        '{"event":"dtmf","dtmf":{"digit":true}}',
        '{"event":"mark","mark":{"name":7}}',
        b"\xff\xfe",
        b"",
        "\ud800",
        "[" * 100_000,
    ],
)
def test_known_messages_of_the_wrong_shape(message: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        TwilioFrameSerializer.for_call(WireOptions()).decode(message)
    assert caught.value.carrier == "twilio"
    assert len(caught.value.excerpt) <= 120


# ---------------------------------------------------------------- out


def sent(messages: Any) -> dict[str, Any]:
    [message] = messages
    assert isinstance(message, str)
    parsed: dict[str, Any] = json.loads(message)
    return parsed


@pytest.mark.parametrize("kind", [OutputAudioRawFrame, TTSAudioRawFrame, SpeechOutputAudioRawFrame])
def test_audio_out(kind: Any) -> None:
    pcm = tone(8000, 0.02)
    message = sent(live().encode(kind(pcm, 8000, 1)))
    assert message == {
        "event": "media",
        "streamSid": SID,
        "media": {"payload": base64.b64encode(pcm_to_ulaw(pcm)).decode()},
    }


def test_no_empty_media() -> None:
    assert live().encode(OutputAudioRawFrame(b"", 8000, 1)) == ()


@pytest.mark.parametrize("rate", [16000, 24000, 48000])
def test_every_20_ms_of_another_rate_give_20_ms(rate: int) -> None:
    serializer = live()
    speech = tone(rate, 0.2)
    sizes = []
    for at in range(0, len(speech), rate // 50 * 2):
        message = sent(serializer.encode(OutputAudioRawFrame(speech[at : at + rate // 50 * 2], rate, 1)))
        sizes.append(len(base64.b64decode(message["media"]["payload"])))
    assert sizes == [160] * 10
    tail = sent(serializer.flush())
    assert 0 < len(base64.b64decode(tail["media"]["payload"])) <= 40  # the filter's own few milliseconds
    assert serializer.flush() == ()


def test_at_the_wires_rate_nothing_is_held_back() -> None:
    serializer = live()
    serializer.encode(OutputAudioRawFrame(tone(8000, 0.0137), 8000, 1))
    assert serializer.flush() == ()


def test_mark_and_clear_out() -> None:
    assert sent(live().encode(MarkFrame('a"b\\\u00e9'))) == {
        "event": "mark",
        "streamSid": SID,
        "mark": {"name": 'a"b\\é'},
    }
    assert sent(live().encode(InterruptionFrame())) == {"event": "clear", "streamSid": SID}


def test_transport_messages_out() -> None:
    own = {"event": "mark", "streamSid": SID, "mark": {"name": "own"}}
    assert sent(live().encode(OutputTransportMessageFrame(own))) == own
    assert sent(live().encode(OutputTransportMessageUrgentFrame(own))) == own
    rtvi = {"label": "rtvi-ai", "type": "bot-ready"}
    assert live().encode(OutputTransportMessageFrame(rtvi)) == ()
    params = TwilioFrameSerializer.InputParams(ignore_rtvi_messages=False, auto_hang_up=False)
    assert sent(TwilioFrameSerializer(SID, params=params).encode(OutputTransportMessageFrame(rtvi))) == rtvi


def test_twilio_takes_no_digits_on_the_socket() -> None:
    assert live().encode(OutputDTMFFrame(KeypadEntry.ONE)) == ()


def test_a_stream_sid_cannot_break_out_of_its_quotes() -> None:
    evil = 'x","event":"stop\\'
    serializer = TwilioFrameSerializer(evil, params=TwilioFrameSerializer.InputParams(auto_hang_up=False))
    for frame in (OutputAudioRawFrame(tone(8000, 0.02), 8000, 1), InterruptionFrame(), MarkFrame("m")):
        assert sent(serializer.encode(frame))["streamSid"] == evil


# ---------------------------------------------------------------- the async face


def test_pipecats_face() -> None:
    async def talk() -> None:
        serializer = built()
        await serializer.setup(StartFrame(audio_in_sample_rate=16000))
        assert await serializer.deserialize('{"event":"connected"}') is None
        assert await serializer.deserialize(start()) is None
        assert await serializer.deserialize("not JSON") is None
        assert await serializer.deserialize(json.dumps({"event": "mark", "mark": {"name": "m"}})) is None
        audio = await serializer.deserialize(media())
        assert isinstance(audio, InputAudioRawFrame)
        assert audio.sample_rate == 16000
        assert isinstance(await serializer.deserialize(dtmf("5")), InputDTMFFrame)
        message = await serializer.serialize(OutputAudioRawFrame(tone(8000, 0.02), 8000, 1))
        assert isinstance(message, str)
        assert json.loads(message)["streamSid"] == SID
        assert json.loads(str(await serializer.serialize(InterruptionFrame()))) == {"event": "clear", "streamSid": SID}
        assert await serializer.serialize(EndFrame()) is None

    asyncio.run(talk())


# ---------------------------------------------------------------- recorded calls

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"


def replay(name: str) -> list[Any]:
    """The frames of a recorded call's inbound side; its outbound side must be what `encode` writes."""
    serializer = TwilioFrameSerializer.for_call(WireOptions())
    frames: list[Any] = []
    for line in (TRANSCRIPTS / name).read_text().splitlines():
        step = json.loads(line)
        message = step["msg"]
        if "_close" in message:
            continue
        if step["dir"] == "in":
            frames += serializer.decode(json.dumps(message))
        elif message["event"] == "media":
            pcm = ulaw_to_pcm(base64.b64decode(message["media"]["payload"]))
            assert sent(serializer.encode(OutputAudioRawFrame(pcm, 8000, 1))) == message
        else:
            frame = MarkFrame(message["mark"]["name"]) if message["event"] == "mark" else InterruptionFrame()
            assert sent(serializer.encode(frame)) == message
    return frames


def told(frames: list[Any]) -> list[Any]:
    """Everything but audio, in short."""
    short: dict[type, Any] = {
        CallStartedFrame: lambda frame: ("started", dict(frame.call.parameters)),
        InputDTMFFrame: lambda frame: frame.button.value,
        PlayedFrame: lambda frame: frame.name,
        CallEndedFrame: lambda frame: ("ended", frame.reason),
    }
    return [short[type(frame)](frame) for frame in frames if not isinstance(frame, InputAudioRawFrame)]


def numbers(frames: list[Any]) -> list[int]:
    return [frame.seq for frame in frames if isinstance(frame, InputAudioRawFrame)]


def test_a_whole_call() -> None:
    frames = replay("twilio_call.jsonl")
    parameters = {"from_number": "+14155550100", "to_number": "+14155550199", "bot": "sales"}
    # g2-2 and g2-3 come back because of the clear: nobody heard what stood before them.
    assert told(frames) == [
        ("started", parameters),
        "g1-1",
        "1",
        "g2-1",
        "g2-2",
        "g2-3",
        "g3-1",
        ("ended", "caller"),
    ]
    assert numbers(frames) == list(range(1, 65))


def test_a_call_that_loses_packets_and_then_its_connection() -> None:
    frames = replay("twilio_lost.jsonl")
    assert told(frames) == [("started", {"bot": "sales"}), "*"]
    assert numbers(frames) == [*range(1, 8), *range(11, 21)]


def test_a_back_end_that_imitates_twilio() -> None:
    frames = replay("twilio_numbers.jsonl")
    assert told(frames) == [("started", {}), "#", "7", "g1-1", ("ended", "caller")]
    assert [frame.timestamp_ms for frame in frames if isinstance(frame, InputAudioRawFrame)][:3] == [0, 20, 40]
