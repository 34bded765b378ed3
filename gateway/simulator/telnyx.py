"""A strict fake of Telnyx's end of a bidirectional media stream in `rtp` mode.

Source: Telnyx docs, "Media Streaming over WebSockets" with its error codes (1000xx), and "Bidirectional streaming".
"""

from __future__ import annotations

import base64
import json
import secrets
import uuid
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from gateway.simulator.base import CallPlan, FakeCarrier, JsonObject, Message, Messages, payload
from gateway.simulator.playout import PlayoutEvent
from media.codecs import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, swap16, ulaw_to_pcm

SHORTEST_S, LONGEST_S = 0.02, 30.0
RATES = (8000, 16000, 22050, 24000, 48000)
CONTROL = ("texml", "call_control")

MALFORMED = "100003 malformed_frame: a message must be text with one JSON object of a known shape"
INVALID = "100004 invalid_media: the payload must be base64"
LENGTH = "each media message must hold 20 ms to 30 s of audio"
RAW = "a payload is raw audio"
_PAYLOAD = '"payload":"'

Codec = Callable[[bytes], bytes]
_TO_WIRE: Mapping[str, Codec] = {"PCMU": pcm_to_ulaw, "PCMA": pcm_to_alaw}
_FROM_WIRE: Mapping[str, Codec] = {"PCMU": ulaw_to_pcm, "PCMA": alaw_to_pcm}
_ERRORS = {100002: "unknown_error", 100003: "malformed_frame", 100004: "invalid_media", 100005: "rate_limit_reached"}


class FakeTelnyx(FakeCarrier):
    """Telnyx, for one call. The plan's two codecs may differ, as they do on a call from abroad.

    Options of the plan:
        control ("texml"): "call_control": closing the socket does not end the call, only the REST API does.
        answered (bool, True): False: say `connected` and nothing more, as for a call that rings out.
        byte_order ("big"): of L16, both ways; or "little".
        receive_rate (int): Hz of what the gateway receives as L16, where it is not the plan's `sample_rate`.
        encoding (str): what `start` calls the encoding of what the gateway receives.
        client_state (str): base64, as the answer command gave it.
        both_tracks (bool, False): what is played to the caller comes back as the track "outbound".
        numbers (bool, False): write numbers as numbers instead of strings.
        swap_every, lose_every, repeat_every (int, 0): each n-th packet comes after the next one, never, or twice.
        unknown (bool, False): an event of the future after each packet.
        error (int, 0): complain once with this code, after the first packet.
        stop (bool, True): say `stop` before closing; without it the socket breaks.
    Credentials: `stream_auth_token`, which arrives in the handshake's header and in `connected`.
    """

    name: ClassVar[str] = "telnyx"
    max_message_bytes: ClassVar[int] = 4 * 1024 * 1024  # no limit is documented; 30 s of L16 at 48 kHz fit

    def __init__(self, plan: CallPlan | None = None, *, strict: bool = True, record: bool = True) -> None:
        super().__init__(plan, strict=strict, record=record)
        plan, options = self.plan, self.plan.options
        self.receive_codec = plan.receive_codec or "PCMU"
        self.send_codec = plan.send_codec or "PCMU"
        self.control = options.get("control", "texml")
        if self.control not in CONTROL:
            raise ValueError(f"control must be one of {CONTROL}, got {self.control!r}")
        self.audio_rate = options.get("receive_rate") or self._rate_of(self.receive_codec)
        self.send_rate = self._rate_of(self.send_codec)
        self.set_play_rate(self.send_rate)
        self.call_id = plan.call_id or "v3:" + secrets.token_urlsafe(24) + "_=="
        self.stream_id = str(uuid.uuid4())
        self.left_up = False  # the socket is gone, and the caller hears silence and pays
        big = options.get("byte_order", "big") == "big"
        self._to_wire = {**_TO_WIRE, "L16": swap16 if big else bytes}[self.receive_codec]
        self._from_wire = {**_FROM_WIRE, "L16": swap16 if big else bytes}[self.send_codec]
        self._width = 2 if self.send_codec == "L16" else 1  # bytes a sample, of what the gateway sends
        self._shortest = round(self.send_rate * SHORTEST_S) * self._width
        self._longest = round(self.send_rate * LONGEST_S) * self._width
        self._number = int if options.get("numbers") else str
        self._swap_every = options.get("swap_every", 0)
        self._lose_every = options.get("lose_every", 0)
        self._repeat_every = options.get("repeat_every", 0)
        self._plain = not any(
            options.get(name)
            for name in ("swap_every", "lose_every", "repeat_every", "unknown", "error", "both_tracks")
        )
        self._held = ""  # a packet that comes after its successor
        self._sequence = 0  # counts every message but `connected` and `error`
        self._chunk = 0
        self._chunk_outbound = 0
        self._complain = int(options.get("error", 0))
        if not options.get("stop", True):
            self.close_code = 1006
        self._on: Mapping[str, Callable[[JsonObject, float], Messages]] = {
            "media": self._on_media,
            "mark": self._on_mark,
            "clear": self._on_clear,
        }
        quote = "" if self._number is int else '"'
        self._media_head = f'{{"event":"media","sequence_number":{quote}'
        self._media_chunk = f'{quote},"stream_id":"{self.stream_id}","media":{{"track":"inbound","chunk":{quote}'
        self._media_timestamp = f'{quote},"timestamp":{quote}'
        self._media_payload = f"{quote},{_PAYLOAD}"

    def _rate_of(self, codec: str) -> int:
        if codec not in ("PCMU", "PCMA", "L16"):
            raise ValueError(f"codec must be PCMU, PCMA or L16, got {codec!r}")
        rate = self.plan.sample_rate
        if codec != "L16":
            return 8000
        if rate and rate not in RATES:
            raise ValueError(f"Telnyx has {RATES} Hz, not {rate}")
        return rate or 16000

    def handshake_headers(self, url: str) -> Mapping[str, str]:
        token = self.plan.credentials.get("stream_auth_token")
        return {"x-telnyx-streaming-auth-token": token} if token else {}

    # ------------------------------------------------------------ from Telnyx

    def open_messages(self, now: float) -> Messages:
        connected: JsonObject = {"event": "connected", "version": "1.0.0"}
        if headers := self.handshake_headers(""):
            connected["connected"] = dict(headers)
        options, plan = self.plan.options, self.plan
        if not options.get("answered", True):
            return (json.dumps(connected),)
        start: JsonObject = {
            "user_id": "3e6f995f-85f7-4705-9741-53b116d28237",
            "call_control_id": self.call_id,
            "call_session_id": str(uuid.uuid4()),
            "from": plan.from_number,
            "to": plan.to_number,
            "tags": [],
            "client_state": options.get("client_state"),
            "custom_parameters": dict(plan.parameters),
            "media_format": {
                "encoding": options.get("encoding", self.receive_codec),
                "sample_rate": self.audio_rate,
                "channels": 1,
            },
        }
        self.ready = True
        return (json.dumps(connected), self._message("start", start=start))

    def audio_messages(self, pcm: bytes, now: float) -> Messages:
        self._sequence += 1
        self._chunk += 1
        timestamp = self._chunk * self.packet_ms - 15  # as seen: the first packet has 5
        message = (
            f"{self._media_head}{self._sequence}{self._media_chunk}{self._chunk}{self._media_timestamp}{timestamp}"
            f'{self._media_payload}{payload(self._to_wire, pcm)}"}}}}'
        )
        return (message,) if self._plain else self._misbehave(message)

    def _misbehave(self, message: str) -> Messages:
        """The packet `message`, with what the plan's options make of it."""
        options, chunk = self.plan.options, self._chunk
        messages: list[Message] = []
        if _is_nth(chunk, self._lose_every):
            pass
        elif _is_nth(chunk, self._swap_every) and not self._held:
            self._held = message
        else:
            messages += [message, message] if _is_nth(chunk, self._repeat_every) else [message]
            if self._held:
                messages.append(self._held)
                self._held = ""
        if options.get("both_tracks"):
            self._chunk_outbound += 1
            media = {"track": "outbound", "chunk": self._number(self._chunk_outbound), "timestamp": self._number(5)}
            messages.append(
                self._message("media", media={**media, "payload": base64.b64encode(b"\xd5" * 160).decode()})
            )
        if options.get("unknown"):
            messages.append(self._message("quality", quality={"mos": 4.2}))
        if self._complain:
            code, self._complain = self._complain, 0
            payload = {"code": code, "title": _ERRORS.get(code, "unknown_error"), "detail": "as the plan wants it"}
            messages.append(json.dumps({"event": "error", "stream_id": self.stream_id, "payload": payload}))
        return messages

    def digit_messages(self, digit: str, now: float) -> Messages:
        return (self._message("dtmf", occurred_at="2026-01-01T00:00:05.000000Z", dtmf={"digit": digit}),)

    def end_messages(self, now: float) -> Messages:
        self.closes_socket = True
        if self.close_code != 1000:
            return ()
        stop = {"user_id": "3e6f995f-85f7-4705-9741-53b116d28237", "call_control_id": self.call_id}
        return (self._message("stop", stop=stop),)

    def on_playout(self, event: PlayoutEvent, now: float) -> Messages:
        return (self._mark(event.name),) if event.what == "mark" else ()

    def socket_closed(self, code: int, reason: str, now: float) -> None:
        """Closing the socket ends a TeXML `<Connect>`; a Call Control call stays up until the REST API ends it."""
        if self.control == "call_control" and self.ended_by is None and code in self.normal_close_codes:
            self.tick(now)
            self.left_up = True
            self.note(now, "closed", f"{code} {reason}".strip())
            self.note(now, "left up", "a Call Control call ends by actions/hangup")
            return
        super().socket_closed(code, reason, now)

    def _mark(self, name: str) -> str:
        return self._message("mark", mark={"name": name})

    def _message(self, event: str, **fields: Any) -> str:
        self._sequence += 1
        number = self._number(self._sequence)
        return json.dumps({"event": event, "sequence_number": number, "stream_id": self.stream_id, **fields})

    # ------------------------------------------------------------ from the gateway

    def handle(self, data: Message, now: float) -> Messages:
        if not self.strict and isinstance(data, str) and data.startswith('{"event":"media"'):
            self._play_unchecked(data, now)
            return ()
        message = self.json_object(data, MALFORMED)
        event = message.get("event")
        carry_out = self._on.get(event) if isinstance(event, str) else None
        if carry_out is None:
            self.violate(MALFORMED, f"unknown event {str(event)[:40]!r}; a stream takes {', '.join(self._on)}")
        return carry_out(message, now)

    def _on_media(self, message: JsonObject, now: float) -> Messages:
        self.only("message", message, {"event": str, "media": dict}, {}, MALFORMED)
        media = self.only("media", message["media"], {"payload": str}, {}, MALFORMED)
        audio = self.base64(media["payload"], INVALID)
        if audio.startswith(b"RIFF"):
            self.violate(RAW, "a WAV header, which would be heard as noise")
        if len(audio) % self._width:
            self.violate(RAW, f"{len(audio)} bytes are not whole samples of L16")
        if not self._shortest <= len(audio) <= self._longest:
            self.violate(LENGTH, f"{len(audio) / self._width / self.send_rate * 1000:.1f} ms")
        self.play(self._from_wire(audio), now)
        return ()

    def _on_mark(self, message: JsonObject, now: float) -> Messages:
        self.only("message", message, {"event": str, "mark": dict}, {}, MALFORMED)
        mark = self.only("mark", message["mark"], {"name": str}, {}, MALFORMED)
        if not mark["name"]:
            self.violate(MALFORMED, "a mark without a name")
        self.playout.mark(mark["name"], now)
        return ()

    def _on_clear(self, message: JsonObject, now: float) -> Messages:
        self.only("message", message, {"event": str}, {}, MALFORMED)
        return tuple(self._mark(name) for name in self.clear(now))  # overtaken marks come back, in order

    def _play_unchecked(self, data: str, now: float) -> None:
        """A media message by position instead of by parsing it."""
        begin = data.rfind(_PAYLOAD) + len(_PAYLOAD)
        end = data.find('"', begin)
        if begin < len(_PAYLOAD) or end <= begin:
            self.violate(MALFORMED, "media without payload")
        size = (end - begin) // 4 * 3 - data.count("=", end - 2, end)
        if size < self._shortest:
            self.violate(LENGTH, f"{size} bytes")
        if self.records:
            self.play(self._from_wire(self.base64(data[begin:end], INVALID)), now)
        else:
            self.play_unheard(size // self._width, now)


def _is_nth(count: int, every: int) -> bool:
    return every > 0 and count % every == 0
