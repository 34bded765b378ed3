"""A strict fake of Twilio's end of a bidirectional media stream (<Connect><Stream>).

Source: Twilio docs, "Media Streams - WebSocket messages", "TwiML <Stream>", and the error dictionary (319xx).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Callable, Mapping
from typing import ClassVar

import pybase64

from gateway.simulator.base import CallPlan, FakeCarrier, JsonObject, Message, Messages, payload
from gateway.simulator.playout import PlayoutEvent
from media.codecs import pcm_to_ulaw, ulaw_to_pcm

UNREADABLE = "31950: a message must be text"
INVALID = "31951: invalid message"
_PAYLOAD = '"payload":"'


class FakeTwilio(FakeCarrier):
    """Twilio, for one call.

    Options of the plan:
        stop (bool, True): say `stop` before closing; without it the socket just closes, as on a network loss.
        numbers (bool, False): write numbers as numbers, as back ends do that imitate Twilio.
    Credentials: `account_sid`; with `auth_token` the handshake is signed.
    """

    name: ClassVar[str] = "twilio"

    def __init__(self, plan: CallPlan | None = None, *, strict: bool = True, record: bool = True) -> None:
        super().__init__(plan, strict=strict, record=record)
        self.call_id = self.plan.call_id or "CA" + uuid.uuid4().hex
        self.account_sid = self.plan.credentials.get("account_sid") or "AC" + uuid.uuid4().hex
        self.stream_sid = "MZ" + uuid.uuid4().hex
        self._stops = bool(self.plan.options.get("stop", True))
        self._as_numbers = bool(self.plan.options.get("numbers", False))
        self._on: Mapping[str, Callable[[JsonObject, float], Messages]] = {
            "media": self._on_media,
            "mark": self._on_mark,
            "clear": self._on_clear,
        }
        self._sequence = 0  # counts every message after `connected`
        self._chunk = 0
        quote = "" if self._as_numbers else '"'
        self._media_head = '{"event":"media","sequenceNumber":' + quote
        self._media_chunk = f'{quote},"media":{{"track":"inbound","chunk":{quote}'
        self._media_timestamp = f'{quote},"timestamp":{quote}'
        self._media_payload = f"{quote},{_PAYLOAD}"
        self._media_tail = f'"}},"streamSid":"{self.stream_sid}"}}'

    def handshake_headers(self, url: str) -> Mapping[str, str]:
        token = self.plan.credentials.get("auth_token")
        if not token:
            return {}
        signature = hmac.new(token.encode(), url.encode(), hashlib.sha1).digest()
        return {"x-twilio-signature": pybase64.b64encode_as_string(signature)}

    # ------------------------------------------------------------ to the gateway

    def open_messages(self, now: float) -> Messages:
        start = {
            "accountSid": self.account_sid,
            "streamSid": self.stream_sid,
            "callSid": self.call_id,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": dict(self.plan.parameters),
        }
        self.ready = True
        return (
            '{"event":"connected","protocol":"Call","version":"1.0.0"}',
            self._message("start", start=start),
        )

    def audio_messages(self, pcm: bytes, now: float) -> Messages:
        timestamp = self._chunk * self.packet_ms
        self._sequence += 1
        self._chunk += 1
        return (
            f"{self._media_head}{self._sequence}{self._media_chunk}{self._chunk}{self._media_timestamp}{timestamp}"
            f"{self._media_payload}{payload(pcm_to_ulaw, pcm)}{self._media_tail}",
        )

    def digit_messages(self, digit: str, now: float) -> Messages:
        return (self._message("dtmf", dtmf={"track": "inbound_track", "digit": digit}),)

    def end_messages(self, now: float) -> Messages:
        self.closes_socket = True
        if not self._stops:
            return ()
        return (self._message("stop", stop={"accountSid": self.account_sid, "callSid": self.call_id}),)

    def on_playout(self, event: PlayoutEvent, now: float) -> Messages:
        return (self._mark(event.name),) if event.what == "mark" else ()

    def _mark(self, name: str) -> str:
        return self._message("mark", mark={"name": name})

    def _message(self, event: str, **fields: object) -> str:
        self._sequence += 1
        number = self._sequence if self._as_numbers else str(self._sequence)
        message = {"event": event, "sequenceNumber": number, "streamSid": self.stream_sid, **fields}
        return json.dumps(message, separators=(",", ":"))

    # ------------------------------------------------------------ from the gateway

    def handle(self, data: Message, now: float) -> Messages:
        if not self.strict and isinstance(data, str) and data.startswith('{"event":"media"'):
            self._play_unchecked(data, now)
            return ()
        message = self.json_object(data, UNREADABLE if isinstance(data, bytes) else INVALID)
        event = message.get("event")
        carry_out = self._on.get(event) if isinstance(event, str) else None
        if carry_out is None:
            self.violate(INVALID, f"unknown event {str(event)[:40]!r}; a stream takes {', '.join(self._on)}")
        return carry_out(message, now)

    def _on_media(self, message: JsonObject, now: float) -> Messages:
        self._check(message, "media", dict)
        media = self.only("media", message["media"], {"payload": str}, {}, INVALID)
        ulaw = self.base64(media["payload"], INVALID)
        if ulaw.startswith(b"RIFF"):
            self.violate("media is raw mu-law", "a WAV header, which would be heard as noise")
        self.play(ulaw_to_pcm(ulaw), now)
        return ()

    def _on_mark(self, message: JsonObject, now: float) -> Messages:
        self._check(message, "mark", dict)
        mark = self.only("mark", message["mark"], {"name": str}, {}, INVALID)
        if not mark["name"]:
            self.violate(INVALID, "a mark without a name")
        self.playout.mark(mark["name"], now)
        return ()

    def _on_clear(self, message: JsonObject, now: float) -> Messages:
        self._check(message, "event", str)
        # Twilio echoes every mark that the clear has overtaken, in order.
        return tuple(self._mark(name) for name in self.clear(now))

    def _check(self, message: JsonObject, key: str, kind: type) -> None:
        self.only("message", message, {"event": str, "streamSid": str, key: kind}, {}, INVALID)
        if message["streamSid"] != self.stream_sid:
            self.violate(INVALID, "streamSid is not this stream's")

    def _play_unchecked(self, data: str, now: float) -> None:
        """A media message by position instead of by parsing it."""
        begin = data.rfind(_PAYLOAD) + len(_PAYLOAD)
        end = data.find('"', begin)
        if begin < len(_PAYLOAD) or end <= begin:
            self.violate(INVALID, "media without payload")
        if self.records:
            self.play(ulaw_to_pcm(self.base64(data[begin:end], INVALID)), now)
        else:
            self.play_unheard((end - begin) // 4 * 3 - data.count("=", end - 2, end), now)
