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
    PlaybackClearedFrame,
    PlayedFrame,
)
from serializers.audio import BinaryIncoming, Incoming, Outgoing
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
    reads: ClassVar[type[Incoming]] = BinaryIncoming
    writes: ClassVar[type[Outgoing]] = Outgoing
    incoming: BinaryIncoming

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
        self.outgoing.is_open = True
        self.outgoing.compress = bytes
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

    def _set_rate(self, rate: int) -> None:
        self.incoming.rate = self.outgoing.rate = rate
        self.outgoing.shortest = self.outgoing.longest = rate * FRAME_MS // 1000 * 2
        self.outgoing.forget()
        self._out_resamplers.clear()

    # ------------------------------------------------------------ in

    def decode(self, data: Message) -> Sequence[Frame]:
        if isinstance(data, str):
            return self._decode_any(data)
        incoming = self.incoming
        pcm = incoming.pcm(data)
        if self._muted:
            pcm = bytes(len(pcm))  # the call's clocks go on, nobody is heard
        audio = incoming.frames(pcm, incoming.rate)
        if self._started or not pcm:
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
        asked = self.send_rate
        if rate in RATES and rate != asked:
            log.warning("vonage: websocket:connected says %d Hz, %d were asked for; it is followed", rate, asked)
            self._set_rate(rate)
        if self._started:
            log.warning("vonage: websocket:connected came after audio; its headers are lost")
            return ()
        return self._start({name: value for name, value in message.items() if name not in _OURS})

    def _start(self, headers: Json) -> Sequence[Frame]:
        self._started = True
        self.incoming.is_plain = not self._muted
        ours = headers.get("gw_call")
        if isinstance(data := headers.get("gw_data"), str):  # parameters, packed so that no name is one of the wire's
            others = {name: value for name, value in headers.items() if name != "gw_data"}
            headers = {**others, **dict(parse_qsl(data, keep_blank_values=True))}
        form = MediaFormat("L16", self.send_rate)
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
        self.incoming.is_plain = self._started and not self._muted
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

    def _interruption(self, frame: InterruptionFrame) -> Messages:
        self._forget()
        return ('{"action":"clear"}',)

    def _mark(self, frame: MarkFrame) -> Messages:
        return (f'{{"action":"notify","payload":{{"id":{json.dumps(frame.name)}}}}}',)
