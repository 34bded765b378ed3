"""A strict fake of Plivo's end of a bidirectional audio stream.

Source: Plivo docs, "Audio streaming" (XML reference, guide and best practices), and Plivo's own stream SDKs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from gateway.simulator.base import CallPlan, FakeCarrier, JsonObject, Message, Messages, payload
from gateway.simulator.playout import PlayoutEvent
from media.codecs import pcm_to_ulaw, ulaw_to_pcm

LARGEST_PAYLOAD = 16 * 1024  # characters of base64
EPOCH_MS = 1_767_225_600_000

SHAPE = "a message must be text with one JSON object of a documented shape"
CONTENT_TYPE = "playAudio must have the stream's contentType, without ;rate=, and its sampleRate"
RAW = "a payload is raw audio in base64"
SIZE = "a chunk should have at most 16 KB of base64"
DIGITS = "sendDTMF takes the digits 0-9, *, # and A-D"
KEYS = frozenset("0123456789*#ABCDwW")
_PAYLOAD = '"payload":"'

# What `extra_headers` looks like, by the form's name.
_HEADER_FORMS: Mapping[str, Callable[[Mapping[str, str]], Any]] = {
    "comma": lambda headers: ",".join(f"{name}={value}" for name, value in headers.items()),
    "semicolon": lambda headers: ";".join(f"{name}={value}" for name, value in headers.items()),
    "braces": lambda headers: "{" + ", ".join(f"{name}={value}" for name, value in headers.items()) + "}",
    "json": lambda headers: json.dumps(dict(headers)),
    "object": dict,
}


class FakePlivo(FakeCarrier):
    """Plivo, for one call: mu-law at 8 kHz, or with the plan's send_codec "L16" at 8 or 16 kHz, both ways alike.

    Options of the plan:
        headers ("comma"): form of `extra_headers`: "comma", "semicolon", "braces", "json", "object" or "absent".
        strings (bool, False): write numbers as strings.
        timestamps ("epoch"): milliseconds since 1970, or "stream": since the stream's start.
        played (bool, False): `played` in place of `playedStream`, as a support page has it.
        rate_in_encoding (bool, False): `start` says `audio/x-mulaw;rate=8000`.
        swap_every, lose_every (int, 0): each n-th packet comes after the next one, or never.
        unknown (bool, False): an event that is not documented after each packet.
        error (""): complain once, with this reason, after the first packet.
        stop (bool, False): say `stop` before closing, which Plivo does not document.
        breaks (bool, False): the socket breaks instead of closing.
        handshake_scheme ("http"): of the URL that the handshake's signature covers; or "https".
    Credentials: `auth_token`: the handshake is signed (V3); `nonce`: with this one.
    """

    name: ClassVar[str] = "plivo"
    max_buffered_s: ClassVar[float] = 40.0  # "best practices"; the guide says 60
    max_message_bytes: ClassVar[int] = 64 * 1024

    def __init__(self, plan: CallPlan | None = None, *, strict: bool = True, record: bool = True) -> None:
        super().__init__(plan, strict=strict, record=record)
        plan, options = self.plan, self.plan.options
        codec = plan.send_codec or plan.receive_codec or "PCMU"
        if codec not in ("PCMU", "L16") or (plan.receive_codec or codec) != codec:
            raise ValueError("Plivo streams PCMU or L16, the same both ways")
        self.linear = codec == "L16"
        self.rate = plan.sample_rate or (16000 if self.linear else 8000)
        if self.rate not in ((8000, 16000) if self.linear else (8000,)):
            raise ValueError(f"Plivo has no {codec} at {self.rate} Hz")
        self.content_type = "audio/x-l16" if self.linear else "audio/x-mulaw"
        self.audio_rate = self.rate
        self.set_play_rate(self.rate)
        self.call_id = plan.call_id or str(uuid.uuid4())
        self.stream_id = str(uuid.uuid4())
        headers = options.get("headers", "comma")
        if headers != "absent" and headers not in _HEADER_FORMS:
            raise ValueError(f"headers must be absent or one of {sorted(_HEADER_FORMS)}, got {headers!r}")
        self._headers: JsonObject = (
            {} if headers == "absent" else {"extra_headers": _HEADER_FORMS[headers](plan.parameters)}
        )
        self._number: Callable[[int], int | str] = str if options.get("strings") else int
        self._began = EPOCH_MS if options.get("timestamps", "epoch") == "epoch" else 0
        self._played = "played" if options.get("played") else "playedStream"
        self._swap_every = options.get("swap_every", 0)
        self._lose_every = options.get("lose_every", 0)
        self._complain = str(options.get("error", ""))
        self._plain = not any(options.get(name) for name in ("swap_every", "lose_every", "unknown", "error"))
        self._held = ""  # a packet that comes after its successor
        self._sequence = 0
        self._chunk = 0
        if options.get("breaks"):
            self.close_code = 1006
        self._on: Mapping[str, Callable[[JsonObject, float], Messages]] = {
            "playAudio": self._on_play_audio,
            "checkpoint": self._on_checkpoint,
            "clearAudio": self._on_clear_audio,
            "sendDTMF": self._on_send_dtmf,
        }
        quote = '"' if self._number is str else ""
        self._media_head = f'{{"event":"media","sequenceNumber":{quote}'
        self._media_track = f'{quote},"streamId":"{self.stream_id}","media":{{"track":"inbound","timestamp":"'
        self._media_chunk = f'","chunk":{quote}'
        self._media_payload = f"{quote},{_PAYLOAD}"
        headers_text = json.dumps(self._headers)[1:-1]
        self._media_tail = f'"}}{"," if headers_text else ""}{headers_text}}}'

    def handshake_headers(self, url: str) -> Mapping[str, str]:
        """The V3 headers, over the stream's URL with "http" in place of "wss"."""
        token = self.plan.credentials.get("auth_token")
        if not token:
            return {}
        nonce = self.plan.credentials.get("nonce") or str(secrets.randbelow(10**20)).zfill(20)
        parts = urlsplit(url)
        signed = f"{self.plan.options.get('handshake_scheme', 'http')}://{parts.netloc}{parts.path}"
        if parts.query:
            signed += "?" + "&".join(f"{k}={v}" for k, v in sorted(parse_qsl(parts.query, keep_blank_values=True)))
        digest = hmac.new(token.encode(), f"{signed}.{nonce}".encode(), hashlib.sha256).digest()
        signature = base64.b64encode(digest).decode("ascii")
        return {
            "X-Plivo-Signature-V3": signature,
            "X-Plivo-Signature-Ma-V3": signature,
            "X-Plivo-Signature-V3-Nonce": nonce,
        }

    # ------------------------------------------------------------ from Plivo

    def open_messages(self, now: float) -> Messages:
        self._sequence += 1
        rate_in_encoding = self.plan.options.get("rate_in_encoding")
        start = {
            "callId": self.call_id,
            "streamId": self.stream_id,
            "accountId": self.plan.credentials.get("auth_id", "MA000000000000000001"),
            "tracks": ["inbound"],
            "mediaFormat": {
                "encoding": f"{self.content_type};rate={self.rate}" if rate_in_encoding else self.content_type,
                "sampleRate": self._number(self.rate),
            },
        }
        self.ready = True
        message = {"event": "start", "sequenceNumber": self._number(self._sequence), "start": start, **self._headers}
        return (json.dumps(message),)

    def audio_messages(self, pcm: bytes, now: float) -> Messages:
        self._sequence += 1
        self._chunk += 1
        said = payload(bytes if self.linear else pcm_to_ulaw, pcm)
        message = (
            f"{self._media_head}{self._sequence}{self._media_track}{self._timestamp()}{self._media_chunk}{self._chunk}"
            f"{self._media_payload}{said}{self._media_tail}"
        )
        return (message,) if self._plain else self._misbehave(message)

    def _misbehave(self, message: str) -> Messages:
        """The packet `message`, with what the plan's options make of it."""
        messages: list[Message] = []
        if _is_nth(self._chunk, self._lose_every):
            pass
        elif _is_nth(self._chunk, self._swap_every) and not self._held:
            self._held = message
        else:
            messages.append(message)
            if self._held:
                messages.append(self._held)
                self._held = ""
        if self.plan.options.get("unknown"):
            messages.append(self._message("muteStream"))
        if self._complain:
            reason, self._complain = self._complain, ""
            messages.append(self._message("error", reason=reason))
        return messages

    def digit_messages(self, digit: str, now: float) -> Messages:
        dtmf = {"track": "inbound", "digit": digit, "timestamp": str(self._timestamp())}
        return (self._message("dtmf", dtmf=dtmf, **self._headers),)

    def end_messages(self, now: float) -> Messages:
        self.closes_socket = True
        return (self._message("stop"),) if self.plan.options.get("stop") else ()

    def on_playout(self, event: PlayoutEvent, now: float) -> Messages:
        return (self._message(self._played, name=event.name),) if event.what == "mark" else ()

    def _timestamp(self) -> int:
        return self._began + self._chunk * self.packet_ms

    def _message(self, event: str, **fields: Any) -> str:
        self._sequence += 1
        number = self._number(self._sequence)
        return json.dumps({"event": event, "sequenceNumber": number, "streamId": self.stream_id, **fields})

    # ------------------------------------------------------------ from the gateway

    def handle(self, data: Message, now: float) -> Messages:
        if not self.strict and isinstance(data, str) and data.startswith('{"event":"playAudio"'):
            self._play_unchecked(data, now)
            return ()
        message = self.json_object(data, SHAPE)
        event = message.get("event")
        carry_out = self._on.get(event) if isinstance(event, str) else None
        if carry_out is None:
            self.violate(SHAPE, f"unknown event {str(event)[:40]!r}; a stream takes {', '.join(self._on)}")
        return carry_out(message, now)

    def _on_play_audio(self, message: JsonObject, now: float) -> Messages:
        self.only("message", message, {"event": str, "media": dict}, {"streamId": str}, SHAPE)
        self._check_stream(message)
        fields = {"contentType": str, "sampleRate": int, "payload": str}
        media = self.only("media", message["media"], fields, {}, SHAPE)
        if media["contentType"] != self.content_type or media["sampleRate"] != self.rate:
            sent = f"{media['contentType'][:40]!r} at {media['sampleRate']} Hz"
            self.violate(CONTENT_TYPE, f"{sent} on a stream of {self.content_type!r} at {self.rate} Hz")
        if len(media["payload"]) > LARGEST_PAYLOAD:
            self.violate(SIZE, f"{len(media['payload'])} characters")
        audio = self.base64(media["payload"], RAW)
        if audio.startswith(b"RIFF"):
            self.violate(RAW, "a WAV header, which would be heard as noise")
        if self.linear and len(audio) & 1:
            self.violate(RAW, f"{len(audio)} bytes are not whole samples of L16")
        self.play(audio if self.linear else ulaw_to_pcm(audio), now)
        return ()

    def _on_checkpoint(self, message: JsonObject, now: float) -> Messages:
        self.only("message", message, {"event": str, "streamId": str, "name": str}, {}, SHAPE)
        self._check_stream(message)
        if not message["name"]:
            self.violate(SHAPE, "a checkpoint without a name")
        self.playout.mark(message["name"], now)
        return ()

    def _on_clear_audio(self, message: JsonObject, now: float) -> Messages:
        self.only("message", message, {"event": str, "streamId": str}, {}, SHAPE)
        self._check_stream(message)
        self.clear(now)  # the checkpoints that go with the audio are never answered
        return (self._message("clearedAudio"),)

    def _on_send_dtmf(self, message: JsonObject, now: float) -> Messages:
        self.only("message", message, {"event": str, "dtmf": str}, {"streamId": str}, SHAPE)
        self._check_stream(message)
        digits = message["dtmf"]
        if not digits or not KEYS.issuperset(digits):
            self.violate(DIGITS, f"{len(digits)} characters")
        self.digits_sent += digits
        self.note(now, "digits sent", str(len(digits)))
        return ()

    def _check_stream(self, message: JsonObject) -> None:
        if message.get("streamId", self.stream_id) != self.stream_id:
            self.violate(SHAPE, "streamId is not this stream's")

    def _play_unchecked(self, data: str, now: float) -> None:
        """A playAudio message by position instead of by parsing it."""
        begin = data.rfind(_PAYLOAD) + len(_PAYLOAD)
        end = data.find('"', begin)
        if begin < len(_PAYLOAD) or end <= begin:
            self.violate(SHAPE, "playAudio without payload")
        if self.records:
            audio = self.base64(data[begin:end], RAW)
            self.play(audio if self.linear else ulaw_to_pcm(audio), now)
        else:
            size = (end - begin) // 4 * 3 - data.count("=", end - 2, end)
            self.play_unheard(size // 2 if self.linear else size, now)


def _is_nth(count: int, every: int) -> bool:
    return every > 0 and count % every == 0
