"""Protobuf frames: the bytes as the clients have them, every kind in and out, and what is no frame."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.errors import RemoteProtocolError
from media.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    InterruptionFrame,
    MarkFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    StartFrame,
    TextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
)
from serializers.protobuf import ProtobufFrameSerializer

RTVI = {"label": "rtvi-ai", "type": "bot-ready", "id": "4a85eb2e", "data": {"version": "2.1.0"}}


def one(serializer: ProtobufFrameSerializer, data: str | bytes) -> Any:
    (frame,) = serializer.decode(data)
    return frame


# ---------------------------------------------------------------- bytes seen on the wire


def test_audio_as_a_client_reads_it() -> None:
    seen = bytes.fromhex("12 11 08 07 12 01 61 1a 04 01 00 ff 7f 20 c0 bb 01 28 01")
    frame = one(ProtobufFrameSerializer(), seen)
    assert isinstance(frame, InputAudioRawFrame)
    assert (frame.audio, frame.sample_rate, frame.num_channels) == (b"\x01\x00\xff\x7f", 24000, 1)
    (ours,) = ProtobufFrameSerializer().encode(OutputAudioRawFrame(b"\x01\x00\xff\x7f", 24000, 1))
    assert ours == bytes.fromhex("12 0c 1a 04 01 00 ff 7f 20 c0 bb 01 28 01")  # id and name mean nothing to it


def test_sixteen_milliseconds_of_a_microphone() -> None:
    samples = bytes(range(256)) * 2
    seen = bytes.fromhex("12 8f 04 12 05 61 75 64 69 6f 1a 80 04") + samples + bytes.fromhex("20 80 7d 28 01")
    assert len(seen) == 530
    frame = one(ProtobufFrameSerializer(), seen)
    assert (frame.audio, frame.sample_rate) == (samples, 16000)


def test_a_message() -> None:
    seen = bytes.fromhex("22 04 0a 02 7b 7d")
    frame = one(ProtobufFrameSerializer(), seen)
    assert isinstance(frame, InputTransportMessageFrame)
    assert frame.message == {}
    assert ProtobufFrameSerializer().encode(OutputTransportMessageUrgentFrame({})) == [seen]


# ---------------------------------------------------------------- kinds


def test_audio_comes_at_the_pipelines_rate() -> None:
    serializer = ProtobufFrameSerializer()
    asyncio.run(serializer.setup(StartFrame(audio_in_sample_rate=8000)))
    (data,) = ProtobufFrameSerializer().encode(OutputAudioRawFrame(bytes(640), 16000, 1))
    frame = one(serializer, data)
    assert (frame.sample_rate, len(frame.audio)) == (8000, 320)


def test_stereo_and_presentation_times() -> None:
    frame = OutputAudioRawFrame(bytes(64), 48000, 2)
    frame.pts = 0
    (data,) = ProtobufFrameSerializer().encode(frame)
    back = one(ProtobufFrameSerializer(), data)
    assert (back.num_channels, back.pts) == (2, 0)
    (data,) = ProtobufFrameSerializer().encode(OutputAudioRawFrame(bytes(64), 48000, 2))
    assert one(ProtobufFrameSerializer(), data).pts is None


def test_speech_is_audio() -> None:
    (data,) = ProtobufFrameSerializer().encode(TTSAudioRawFrame(bytes(64), 24000, 1))
    assert one(ProtobufFrameSerializer(), data).audio == bytes(64)


def test_text_and_transcriptions() -> None:
    serializer = ProtobufFrameSerializer()
    (data,) = serializer.encode(TextFrame("grüß dich"))
    text = one(serializer, data)
    assert type(text) is TextFrame
    assert text.text == "grüß dich"
    (data,) = serializer.encode(TranscriptionFrame("yes", "user", "2026-01-01T00:00:00Z"))
    said = one(serializer, data)
    assert isinstance(said, TranscriptionFrame)
    assert (said.text, said.user_id, said.timestamp) == ("yes", "user", "2026-01-01T00:00:00Z")


def test_interruptions_can_be_left_out() -> None:
    (data,) = ProtobufFrameSerializer().encode(InterruptionFrame())
    assert data[0] == 0x2A  # field 5
    assert isinstance(one(ProtobufFrameSerializer(), data), InterruptionFrame)
    quiet = ProtobufFrameSerializer(ProtobufFrameSerializer.InputParams(send_interruptions=False))
    assert quiet.encode(InterruptionFrame()) == ()


@pytest.mark.parametrize("kind", [OutputTransportMessageFrame, OutputTransportMessageUrgentFrame])
def test_rtvi_messages_reach_the_client_unless_told_otherwise(kind: Any) -> None:
    (data,) = ProtobufFrameSerializer().encode(kind(RTVI))
    assert one(ProtobufFrameSerializer(), data).message == RTVI
    deaf = ProtobufFrameSerializer(ProtobufFrameSerializer.InputParams(ignore_rtvi_messages=True))
    assert deaf.encode(kind(RTVI)) == []
    assert len(deaf.encode(kind({"label": "other"}))) == 1


@pytest.mark.parametrize("frame", [EndFrame(), MarkFrame("m"), OutputAudioRawFrame(b"", 8000, 1)], ids=str)
def test_what_says_nothing(frame: Frame) -> None:
    assert ProtobufFrameSerializer().encode(frame) == ()


def test_the_async_face() -> None:
    async def run() -> None:
        serializer = ProtobufFrameSerializer()
        data = await serializer.serialize(OutputTransportMessageFrame({"a": 1}))
        assert isinstance(data, bytes)
        frame = await serializer.deserialize(data)
        assert isinstance(frame, InputTransportMessageFrame)
        assert frame.message == {"a": 1}
        assert await serializer.deserialize(b"\xff") is None
        assert await serializer.serialize(EndFrame()) is None

    asyncio.run(run())


# ---------------------------------------------------------------- what is no frame


@pytest.mark.parametrize(
    "data",
    [
        '{"label":"rtvi-ai"}',
        b"\xff\xff",
        b"\x22\x03\x0a\x01{",
        bytes.fromhex("12 0d 1a 03 01 00 ff 20 c0 bb 01 28 01 30 00"),  # half a sample
        bytes.fromhex("12 04 1a 02 01 00"),  # no rate
        bytes.fromhex("12 0a 1a 02 01 00 20 ff ff ff ff 0f"),  # four gigahertz
    ],
    ids=["text", "garbage", "no JSON", "half a sample", "no rate", "absurd rate"],
)
def test_bad_messages(data: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        ProtobufFrameSerializer().decode(data)
    assert "rtvi" not in caught.value.excerpt  # sizes, no contents


@pytest.mark.parametrize("data", [b"", bytes.fromhex("7a 02 08 01")], ids=["empty", "a kind from the future"])
def test_what_is_not_known_is_no_error(data: bytes) -> None:
    assert ProtobufFrameSerializer().decode(data) == ()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=50))
def test_only_remote_protocol_errors_come_out(data: bytes | str) -> None:
    serializer = ProtobufFrameSerializer()
    serializer.begin(8000)
    with contextlib.suppress(RemoteProtocolError):
        serializer.decode(data)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_any_message_comes_back(message: Any) -> None:
    (data,) = ProtobufFrameSerializer().encode(OutputTransportMessageUrgentFrame({"m": message}))
    assert one(ProtobufFrameSerializer(), data).message == json.loads(json.dumps({"m": message}))
