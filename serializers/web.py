"""A caller in a browser or an app: Pipecat's protobuf frames over a WebSocket, with RTVI's messages beside the audio.

Source: what `@pipecat-ai/websocket-transport` 1.7.1 puts on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from media.call import CallInfo, MediaFormat
from media.frames import (
    CallStartedFrame,
    Frame,
    InputDTMFFrame,
    InputTransportMessageFrame,
    InterruptionFrame,
    KeypadEntry,
    OutputAudioRawFrame,
)
from serializers.base import Message, Messages, WireOptions
from serializers.protobuf import ProtobufFrameSerializer, audio_message

IN_RATE = 16_000  # Hz of the client's microphone, unless a message says otherwise
_KEYS = frozenset(key.value for key in KeypadEntry)
OUT_RATE = 24_000  # Hz at which the client plays whatever it is sent


class WebFrameSerializer(ProtobufFrameSerializer):
    """One web caller. Its call begins with its first message, and ends as its socket closes.

    The client never drops what it was sent, so an interruption works only as well as audio is sent just in time.
    """

    carrier: ClassVar[str] = "web"
    lead_ms: ClassVar[int] = 100  # for the network's jitter; a barge-in is heard so much later
    close_is_normal_end: ClassVar[bool] = True
    silence_s: ClassVar[float | None] = 600.0  # a client whose microphone is off sends nothing at all
    speaks_rtvi: ClassVar[bool] = True

    def __init__(self, out_rate: int = OUT_RATE) -> None:
        # The client knows no InterruptionFrame: it would log an error at each.
        super().__init__(ProtobufFrameSerializer.InputParams(send_interruptions=False))
        self._out_rate = out_rate
        self._started = False

    @classmethod
    def for_call(cls, options: WireOptions) -> WebFrameSerializer:
        serializer = cls(options.send_sample_rate or OUT_RATE)
        serializer.begin(options.in_sample_rate)
        return serializer

    @property
    def send_rate(self) -> int:
        return self._out_rate

    def decode(self, data: Message) -> Sequence[Frame]:
        frames = super().decode(data)
        if self._started:
            return frames
        self._started = True
        call = CallInfo(carrier=self.carrier, receive=MediaFormat("L16", IN_RATE), send=self._sends)
        return (CallStartedFrame(call), *frames)

    def _on_message(self, message: Any, data: Message) -> Sequence[Frame]:
        """Keys are the wire's own business, as on every carrier; all else is for whoever speaks RTVI."""
        frames = super()._on_message(message, data)
        content = frames[0].message if isinstance(frames[0], InputTransportMessageFrame) else None
        if isinstance(content, Mapping) and content.get("label") == "rtvi-ai" and content.get("type") == "dtmf":
            keys = content.get("data")
            buttons = (keys.get("buttons") or [keys.get("button")]) if isinstance(keys, Mapping) else None
            if isinstance(buttons, list) and all(isinstance(one, str) and one in _KEYS for one in buttons):
                return [InputDTMFFrame(KeypadEntry(one)) for one in buttons]
        return frames

    @property
    def _sends(self) -> MediaFormat:
        return MediaFormat("L16", self._out_rate)

    def _audio(self, frame: OutputAudioRawFrame) -> Messages:
        return self.encode_audio(frame.audio, frame.sample_rate)

    def encode_audio(self, pcm: bytes, rate: int) -> Messages:
        return audio_message(self.wire_pcm(pcm, rate), self._out_rate)

    def flush(self) -> Messages:
        return audio_message(self.flush_wire_pcm(), self._out_rate)

    def _interruption(self, frame: InterruptionFrame) -> Messages:
        self.reset_wire_pcm()
        return super()._interruption(frame)
