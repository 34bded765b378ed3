"""A strict fake of a caller in a browser: what Pipecat's JavaScript client does with a WebSocket.

Source: `@pipecat-ai/client-js` 1.13.1 with `@pipecat-ai/websocket-transport` 1.7.1, as recorded on the wire. The
protobuf is read and written by hand here, so that the serializer's is not judged by itself.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any, ClassVar

from gateway.simulator.base import CallPlan, FakeCarrier, Message, Messages
from gateway.simulator.playout import ClearRule

MICROPHONE_RATE = 16_000
PLAYER_RATE = 24_000
_AUDIO, _MESSAGE = 2, 4  # fields of Frame that the client acts on
_VARINT, _BYTES = 0, 2  # wire types

_BINARY = "each message is one binary Frame"
_LABEL = 'a message is {"label": "rtvi-ai", "type", ...}; any other is ignored'
# What may come before bot-ready: nothing that the client would miss.
_EARLY = frozenset({"bot-ready", "error-response", "error"})


class FakeWebCaller(FakeCarrier):
    """One web caller. It never drops what it was sent: there is nothing that clears its player.

    Options of the plan:
        about (dict): what client-ready says of the client.
        microphone (bool, True): off, no audio is sent at all.
    """

    name: ClassVar[str] = "web"
    clear_rule: ClassVar[ClearRule] = ClearRule.DROP_ALL
    max_buffered_s: ClassVar[float] = 2.0
    max_message_bytes: ClassVar[int] = 1 << 20

    def __init__(self, plan: CallPlan | None = None, *, strict: bool = True, record: bool = True) -> None:
        super().__init__(plan, strict=strict, record=record)
        self.call_id = self.plan.call_id or f"web-{secrets.token_hex(12)}"
        self.audio_rate = MICROPHONE_RATE
        self.packet_ms = 16
        self.set_play_rate(self.plan.sample_rate or PLAYER_RATE)
        self.messages: list[dict[str, Any]] = []  # that the client was told
        self.bot_ready = False
        self._ready_id = secrets.token_hex(4)

    # ------------------------------------------------------------ from the client

    def open_messages(self, now: float) -> Messages:
        self.ready = True  # the microphone begins at once, before bot-ready
        about = self.plan.options.get("about", {"library": "@pipecat-ai/client-js", "library_version": "1.13.1"})
        return (self._message("client-ready", {"version": "2.1.0", "about": about}, self._ready_id),)

    def audio_messages(self, pcm: bytes, now: float) -> Messages:
        if not self.plan.options.get("microphone", True):
            return ()
        samples = _field(2, b"audio") + _field(3, pcm) + b"\x20" + _varint(MICROPHONE_RATE) + b"\x28\x01"
        return (_field(_AUDIO, samples),)

    def digit_messages(self, digit: str, now: float) -> Messages:
        return (self._message("dtmf", {"buttons": [digit]}, secrets.token_hex(4)),)

    def say(self, kind: str, data: Any, id: str = "") -> Messages:
        """A message of RTVI to the gateway."""
        return self._sent((self._message(kind, data, id or secrets.token_hex(4)),))

    def end_messages(self, now: float) -> Messages:
        self.closes_socket = True  # the client says nothing before it closes
        return ()

    def _message(self, kind: str, data: Any, id: str) -> bytes:
        text = json.dumps({"label": "rtvi-ai", "type": kind, "id": id, "data": data})
        return _field(_MESSAGE, _field(1, text.encode()))

    # ------------------------------------------------------------ to the client

    def handle(self, data: Message, now: float) -> Messages:
        if isinstance(data, str):
            self.violate(_BINARY, f"a text message of {len(data)} characters is dropped")
        try:
            ((kind, value),) = _fields(data)
            inner = dict(_fields(value)) if isinstance(value, bytes) else {}
        except ValueError:
            self.violate(_BINARY, f"{len(data)} bytes are none")
        if kind == _AUDIO:
            self._take_audio(inner, now)
        elif kind == _MESSAGE:
            self._take_message(inner, now)
        else:
            self.violate("the client acts on audio and messages", f"field {kind} of Frame")
        return ()

    def _take_audio(self, audio: dict[int, Any], now: float) -> None:
        pcm = audio.get(3, b"")
        if not pcm or len(pcm) % 2:
            self.violate("audio of an odd number of bytes is dropped", f"{len(pcm)} bytes")
        if (audio.get(4), audio.get(5)) != (self.playout.rate, 1):
            told = f"{audio.get(4)} Hz, {audio.get(5)} channels"
            self.violate(f"whatever comes is played at {self.playout.rate} Hz, mono", told)
        self.play(pcm, now)

    def _take_message(self, inner: dict[int, Any], now: float) -> None:
        try:
            message = json.loads(inner[1])
        except (KeyError, ValueError):
            self.violate(_LABEL, "no JSON")
        if not isinstance(message, dict) or message.get("label") != "rtvi-ai" or "type" not in message:
            self.violate(_LABEL, f"JSON {type(message).__name__} without them")
        if not self.bot_ready and message["type"] not in _EARLY:
            self.violate("the server waits for client-ready, and answers it first", message["type"])
        if message["type"] == "bot-ready":
            if message.get("id") != self._ready_id:
                self.violate("bot-ready has the id of client-ready", f"{message.get('id')!r:.20}")
            self.bot_ready = True
            self.note(now, "ready")
        self.messages.append(message)


# ---------------------------------------------------------------- protobuf, as much as this needs


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field; ValueError where it is none."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        value, at = _read_varint(data, at)
        if tag & 7 == _BYTES:
            if at + value > len(data):
                raise ValueError("a field that is cut off")
            yield tag >> 3, data[at : at + value]
            at += value
        elif tag & 7 == _VARINT:
            yield tag >> 3, value
        else:
            raise ValueError(f"wire type {tag & 7}")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number that is cut off")
