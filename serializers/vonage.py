"""Vonage: Voice API WebSockets and the Video API's Audio Connector, which share one wire.

Source: Vonage's developer guides "Voice API - WebSockets" and "Video API - Audio Connector".
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from media.call import CallInfo, MediaFormat
from media.frames import (
    CallEndedFrame,
    CallStartedFrame,
    Frame,
    InterruptionFrame,
    MarkFrame,
    OutputAudioRawFrame,
    PlaybackClearedFrame,
    PlayedFrame,
)
from serializers.base import Ending, FrameSerializer, Message, Messages, WireOptions
from serializers.fields import Json
from serializers.json_base import Handlers, JsonSerializer

log = logging.getLogger(__name__)

RATES = (8000, 16000, 24000)
FRAME_MS = 20  # Vonage stops reading, and the socket ends with 1006, after one message of another length

_RATE = re.compile(r"rate\s*=\s*(\d{4,6})", re.IGNORECASE)
_OURS = frozenset(("event", "content-type"))  # of `connected`; all other keys are the headers we asked for


class VonageFrameSerializer(JsonSerializer):
    """Vonage's messages to frames and back, for one stream: binary messages are audio, text is control."""

    carrier: ClassVar[str] = "vonage"
    codec_setting: ClassVar[str] = "sample_rate"
    ending: ClassVar[Ending] = Ending.REST
    lead_ms: ClassVar[int] = 400
    cushion_ms: ClassVar[int] = 20  # a message has this length
    echoes_marks_on_clear: ClassVar[bool] = True  # seen, and nowhere excluded
    close_is_normal_end: ClassVar[bool] = True

    @dataclass(kw_only=True)
    class InputParams(FrameSerializer.InputParams):
        """
        `vonage_sample_rate`: Hz that were asked for; what `websocket:connected` says wins.
        `sample_rate`: Hz of the audio that `decode` gives; None: the pipeline's.
        `product`: "voice" or "video". In a video session `gw_call` is a name of ours, no id of Vonage's.
        """

        vonage_sample_rate: int = 16000
        sample_rate: int | None = None
        product: str = "voice"

    def __init__(self, params: InputParams | None = None) -> None:
        self._p = params or self.InputParams()
        super().__init__(self._p)
        if self._p.product not in ("voice", "video"):
            raise ValueError(f'product must be "voice" or "video", got {self._p.product!r}')
        self._connected = False
        self._muted = False  # the participant's stream; then Vonage's frames, if any, carry no voice
        self._odd = b""  # half a sample, until its other half comes
        self._held = b""  # PCM that does not fill a frame yet
        self._set_rate(self._p.vonage_sample_rate)

    @classmethod
    def for_call(cls, options: WireOptions) -> VonageFrameSerializer:
        own = options.options or {}
        serializer = cls(
            cls.InputParams(
                vonage_sample_rate=options.send_sample_rate or 16000,
                product=own.get("product") or "voice",
            )
        )
        serializer.begin(options.in_sample_rate)
        return serializer

    @property
    def send_rate(self) -> int:
        return self._rate

    def _set_rate(self, rate: int) -> None:
        self._rate = rate
        self._size = rate * FRAME_MS // 1000 * 2
        self._held = b""
        self._out_resamplers.clear()

    # ------------------------------------------------------------ in

    def decode(self, data: Message) -> Sequence[Frame]:
        if isinstance(data, str):
            return self._decode_any(data)
        if self._odd or len(data) & 1:
            if len(data) != self._size:  # a whole packet begins with a whole sample: what was held was a stray byte
                data = self._odd + data
            even = len(data) & ~1
            self._odd, data = data[even:], data[:even]
        if self._muted:
            data = bytes(len(data))  # the call's clocks go on, nobody is heard
        audio = self.pipeline_audio(data, self._rate)
        if self._started or not data:
            return audio
        # Nothing promises that `connected` comes first. Rate and call are known from the answer all the same.
        return (*self._start({}), *audio)

    def _event(self, message: Json) -> Any:
        event = message.get("event")
        return "websocket:dtmf" if event is None and "digit" in message else event  # the older platform's form

    def _on_connected(self, message: Json) -> Sequence[Frame]:
        if self._connected:
            log.warning("vonage: a second websocket:connected was ignored")
            return ()
        self._connected = True
        found = _RATE.search(str(message.get("content-type", "")))
        rate = int(found[1]) if found else 0
        if rate in RATES and rate != self._rate:
            log.warning("vonage: websocket:connected says %d Hz, %d were asked for; it is followed", rate, self._rate)
            self._set_rate(rate)
        if self._started:
            log.warning("vonage: websocket:connected came after audio; its headers are lost")
            return ()
        return self._start({name: value for name, value in message.items() if name not in _OURS})

    def _start(self, headers: Json) -> Sequence[Frame]:
        self._started = True
        ours = headers.get("gw_call")
        if isinstance(data := headers.get("gw_data"), str):  # parameters, packed so that no name is one of the wire's
            others = {name: value for name, value in headers.items() if name != "gw_data"}
            headers = {**others, **dict(parse_qsl(data, keep_blank_values=True))}
        form = MediaFormat("L16", self._rate)
        call = CallInfo(
            carrier="vonage",
            call_id=ours if isinstance(ours, str) and self._p.product == "voice" else "",
            parameters=headers,
            receive=form,
            send=form,
        )
        return (CallStartedFrame(call),)

    def _on_dtmf(self, message: Json) -> Sequence[Frame]:
        digit = message.get("digit")
        if digit is None and isinstance(nested := message.get("dtmf"), dict):
            digit = nested.get("digit")
        return self._pressed(digit, message)

    def _on_cleared(self, message: Json) -> Sequence[Frame]:
        return (PlaybackClearedFrame(),)

    def _on_notify(self, message: Json) -> Sequence[Frame]:
        payload = message.get("payload")
        if not isinstance(payload, dict):
            raise self._bad("notify without payload", message)
        name = payload.get("id")
        return (PlayedFrame(name),) if isinstance(name, str) else ()  # else the application's own notify

    def _on_media_update(self, message: Json) -> Sequence[Frame]:
        active = message.get("active")
        if not isinstance(active, bool | int):
            raise self._bad("media:update without active", message)
        self._muted = not active
        return ()

    def _on_end(self, message: Json) -> Sequence[Frame]:
        return (CallEndedFrame("caller", str(message["event"])),)  # as for the close, which is all that a voice leg has

    _ON: ClassVar[Handlers] = {
        "websocket:connected": _on_connected,
        "websocket:dtmf": _on_dtmf,
        "websocket:cleared": _on_cleared,
        "websocket:notify": _on_notify,
        "websocket:media:update": _on_media_update,
        # A close follows. Vonage's pages have the first, for the Audio Connector; programs met the others.
        "websocket:disconnected": _on_end,
        "websocket:closed": _on_end,
        "websocket:hangup": _on_end,
    }

    # ------------------------------------------------------------ out

    def encode(self, frame: Frame) -> Messages:
        if isinstance(frame, OutputAudioRawFrame):
            return self.encode_audio(frame.audio, frame.sample_rate)
        if isinstance(frame, InterruptionFrame):
            self._held = b""
            self.reset_wire_pcm()
            return ('{"action":"clear"}',)
        if isinstance(frame, MarkFrame):
            return (f'{{"action":"notify","payload":{{"id":{json.dumps(frame.name)}}}}}',)
        return self.application_message(frame)

    def encode_audio(self, pcm: bytes, rate: int) -> Messages:
        return self._frames(pcm if rate == self._rate else self.wire_pcm(pcm, rate))

    def _frames(self, pcm: bytes) -> Messages:
        """`pcm` behind what is held, in frames of exactly 20 ms; the rest is held."""
        if self._held:
            pcm = self._held + pcm
        size = self._size
        if len(pcm) == size:
            self._held = b""
            return (pcm,)
        end = len(pcm) - len(pcm) % size
        self._held = pcm[end:]
        return [pcm[at : at + size] for at in range(0, end, size)]

    @property
    def held_samples(self) -> int:
        return len(self._held) >> 1

    @property
    def padding_samples(self) -> int:
        return (self._size - len(self._held)) >> 1 if self._held else 0

    def flush(self) -> Messages:
        frames = list(self._frames(self.flush_wire_pcm()))
        if tail := self._held:
            self._held = b""
            frames.append(tail.ljust(self._size, b"\0"))
        return frames
