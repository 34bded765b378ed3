"""Frames in protobuf: what Pipecat's own clients speak over a WebSocket, one binary message per frame.

Source: `frames.proto` of Pipecat as its JavaScript client puts it on the wire (package `pipecat`, proto3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from media.errors import RemoteProtocolError
from media.frames import (
    Frame,
    InputTransportMessageFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    TextFrame,
    TranscriptionFrame,
)
from serializers.base import FrameSerializer, Message, Messages
from serializers.fields import outline
from serializers.table_base import TableSerializer

PACKET_MS = 40
RATES = range(4000, 192_001)  # Hz of what somebody may send us

_Type = FieldDescriptorProto.Type
_UINT64, _UINT32 = _Type.TYPE_UINT64, _Type.TYPE_UINT32
_STRING, _BYTES, _MESSAGE = _Type.TYPE_STRING, _Type.TYPE_BYTES, _Type.TYPE_MESSAGE

# Message -> its fields in the order of their numbers, which begin at 1.
_SCHEMA: Mapping[str, Sequence[tuple[str, Any]]] = {
    "TextFrame": (("id", _UINT64), ("name", _STRING), ("text", _STRING)),
    "AudioRawFrame": (
        ("id", _UINT64),
        ("name", _STRING),
        ("audio", _BYTES),
        ("sample_rate", _UINT32),
        ("num_channels", _UINT32),
        ("pts", _UINT64),
    ),
    "TranscriptionFrame": (
        ("id", _UINT64),
        ("name", _STRING),
        ("text", _STRING),
        ("user_id", _STRING),
        ("timestamp", _STRING),
    ),
    "MessageFrame": (("data", _STRING),),
    "InterruptionFrame": (("id", _UINT64), ("name", _STRING)),
}
# What a `Frame` is one of, in the same way.
_KINDS: Sequence[tuple[str, str]] = (
    ("text", "TextFrame"),
    ("audio", "AudioRawFrame"),
    ("transcription", "TranscriptionFrame"),
    ("message", "MessageFrame"),
    ("interruption", "InterruptionFrame"),
)


def _frame_class() -> Any:
    """The class of the message `pipecat.Frame`, in a pool of its own: a program may have Pipecat's beside it."""
    file = FileDescriptorProto(name="pipecat/frames.proto", package="pipecat", syntax="proto3")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind) in enumerate(fields, 1):
            field = message.field.add(name=field_name, number=number, type=kind, label=_OPTIONAL)
            if field_name == "pts":  # `optional`: zero is sent, and is not the same as none
                field.proto3_optional = True
                field.oneof_index = 0
                message.oneof_decl.add(name="_pts")
    frame = file.message_type.add(name="Frame")
    frame.oneof_decl.add(name="frame")
    for number, (field_name, message_name) in enumerate(_KINDS, 1):
        frame.field.add(
            name=field_name,
            number=number,
            type=_MESSAGE,
            type_name=f".pipecat.{message_name}",
            label=_OPTIONAL,
            oneof_index=0,
        )
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("pipecat.Frame"))


_OPTIONAL = FieldDescriptorProto.Label.LABEL_OPTIONAL
_Frame = _frame_class()
# The class of a part is made when one is met, and would go with the last of them: a ring that the collector frees.
_PARTS = tuple(GetMessageClass(field.message_type) for field in _Frame.DESCRIPTOR.fields)


class ProtobufFrameSerializer(TableSerializer):
    """Pipecat's protobuf frames, and frames.

    There is nothing that clears what the other side holds, though it is told of an interruption: send just in time.
    """

    lead_ms: ClassVar[int] = 40
    has_marks: ClassVar[bool] = False
    clears: ClassVar[bool] = False

    # What becomes of each kind of message, by the name of the method that takes it.
    hears: ClassVar[Mapping[str, str]] = {
        "audio": "_on_audio",
        "message": "_on_message",
        "text": "_on_text",
        "transcription": "_on_transcription",
        "interruption": "_on_interruption",
    }
    says: ClassVar[Mapping[type[Frame], str]] = {
        OutputAudioRawFrame: "_audio",
        OutputTransportMessageFrame: "_message",
        OutputTransportMessageUrgentFrame: "_message",
        TranscriptionFrame: "_transcription",
        TextFrame: "_text",
        InterruptionFrame: "_interruption",
    }

    @dataclass(kw_only=True)
    class InputParams(FrameSerializer.InputParams):
        """
        `ignore_rtvi_messages`: off, since the other side is a client that waits for them.
        `sample_rate`: Hz of the audio that `decode` gives; None: the pipeline's.
        `send_interruptions`: tell of interruptions; clients of Pipecat 0.x do not know how.
        """

        ignore_rtvi_messages: bool = False
        sample_rate: int | None = None
        send_interruptions: bool = True

    def __init__(self, params: InputParams | None = None) -> None:
        self._p = params or self.InputParams()
        super().__init__(self._p)

    @property
    def send_rate(self) -> int:
        return 0  # each message says its own

    @property
    def packet_ms(self) -> int:
        return PACKET_MS

    # ------------------------------------------------------------ in

    def decode(self, data: Message) -> Sequence[Frame]:
        if isinstance(data, str):
            raise self._bad("a text message", data)
        try:
            message = _Frame.FromString(data)
        except DecodeError:
            raise self._bad("not a frame", data) from None
        kind = message.WhichOneof("frame")
        if kind == "audio":
            return self._on_audio(message.audio, data)
        name = self.hears.get(kind)
        if name is None:
            return ()  # a kind that is newer than this
        frames: Sequence[Frame] = getattr(self, name)(getattr(message, kind), data)
        return frames

    def _on_audio(self, audio: Any, data: Message) -> Sequence[Frame]:
        rate, channels = audio.sample_rate, audio.num_channels or 1
        if rate not in RATES:
            raise self._bad(f"audio at {rate} Hz", data)
        if len(audio.audio) % (2 * channels):
            raise self._bad(f"{len(audio.audio)} bytes are no whole samples of {channels} channels", data)
        frames = self.pipeline_audio(audio.audio, rate, channels=channels)
        if frames and audio.HasField("pts"):
            frames[0].pts = audio.pts
        return frames

    def _on_message(self, message: Any, data: Message) -> Sequence[Frame]:
        try:
            content = json.loads(message.data)
        except (ValueError, RecursionError):
            raise self._bad("a message that is not JSON", data) from None
        return (InputTransportMessageFrame(content),)

    def _on_transcription(self, said: Any, data: Message) -> Sequence[Frame]:
        return (TranscriptionFrame(said.text, said.user_id, said.timestamp),)

    def _on_text(self, text: Any, data: Message) -> Sequence[Frame]:
        return (TextFrame(text.text),)

    def _on_interruption(self, interruption: Any, data: Message) -> Sequence[Frame]:
        return (InterruptionFrame(),)

    def _bad(self, problem: str, data: Message) -> RemoteProtocolError:
        return RemoteProtocolError("protobuf", problem, outline(data))

    # ------------------------------------------------------------ out

    def _audio(self, frame: OutputAudioRawFrame) -> Messages:
        return audio_message(frame.audio, frame.sample_rate, frame.num_channels, frame.pts)

    def _message(self, frame: OutputTransportMessageFrame | OutputTransportMessageUrgentFrame) -> Messages:
        return [_Frame(message={"data": text}).SerializeToString() for text in self.application_message(frame)]

    def _transcription(self, frame: TranscriptionFrame) -> Messages:
        said = {"text": frame.text, "user_id": frame.user_id, "timestamp": frame.timestamp}
        return (_Frame(transcription={**_named(frame), **said}).SerializeToString(),)

    def _text(self, frame: TextFrame) -> Messages:
        return (_Frame(text={**_named(frame), "text": frame.text}).SerializeToString(),)

    def _interruption(self, frame: InterruptionFrame) -> Messages:
        if not self._p.send_interruptions:
            return ()
        return (_Frame(interruption=_named(frame)).SerializeToString(),)


def _named(frame: Frame) -> dict[str, Any]:
    return {"id": frame.id, "name": frame.name}


# ---------------------------------------------------------------- for whoever has no frames


def audio_message(pcm: bytes, sample_rate: int, channels: int = 1, pts: int | None = None) -> Messages:
    """One message of audio, () without any. `pts` in nanoseconds."""
    if not pcm:
        return ()
    message = _Frame()
    audio = message.audio
    audio.audio, audio.sample_rate, audio.num_channels = pcm, sample_rate, channels
    if pts is not None:
        audio.pts = pts
    return (message.SerializeToString(),)


def packed_message(text: str) -> bytes:
    """A message, JSON already."""
    packed: bytes = _Frame(message={"data": text}).SerializeToString()
    return packed


def packed_audio(pcm: bytes, sample_rate: int, channels: int, pts: int) -> bytes:
    """`pts` in nanoseconds."""
    audio = {"audio": pcm, "sample_rate": sample_rate, "num_channels": channels, "pts": pts}
    packed: bytes = _Frame(audio=audio).SerializeToString()
    return packed


def message_in(data: bytes) -> str | None:
    """The message in what came; None: it is of another kind. Raises RemoteProtocolError."""
    try:
        frame = _Frame.FromString(data)
    except DecodeError:
        raise RemoteProtocolError("protobuf", "not a frame", outline(data)) from None
    return frame.message.data if frame.WhichOneof("frame") == "message" else None
