"""A strict fake of Exotel's end of a media stream (Voicebot applet).

Source: Exotel's support article "Working with the Stream and Voicebot applet", and what real calls were seen to send.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

from gateway.simulator.base import CallPlan, FakeCarrier, JsonObject, Message, Messages
from gateway.simulator.playout import ClearRule, PlayoutEvent
from media.codecs import pcm_to_ulaw, ulaw_to_pcm

RATES = (8000, 16000, 24000)
MAX_BYTES = 100_000
MAX_PARAMETERS, MAX_PARAMETER_CHARACTERS = 3, 256
KEYS = "0123456789*#"

_CAMEL = frozenset(("streamSid", "callSid", "accountSid", "sequenceNumber", "customParameters", "mediaFormat"))
_NO_JSON = "every message is a text frame with one JSON object"
_SNAKE = "keys are snake_case: stream_sid"
_MEDIA = "media has a payload, and maybe chunk and timestamp as strings"
_PAYLOAD = '"payload":"'
_EVENTS = "the events that Exotel takes are media, mark and clear"


class FakeExotel(FakeCarrier):
    """Exotel, for one call. The plan's receive_codec "PCMU" makes it a mu-law stream.

    Options of the plan:
        packet_ms (int, 100): length of one packet of the caller's voice.
        min_bytes (int, 3200, of mu-law 1600): smallest payload that is taken.
        numbers (bool, False): write numbers as numbers instead of strings.
        camel (bool, False): write camelCase keys, as seen on the Connect path.
        encoding (str): what `start` calls the encoding.
        start_rate (int): the rate that `start` names, where it is not the plan's.
        connected (bool, True): say `connected` before `start`.
        flat_dtmf (bool, False): the digit beside the event instead of in an object.
        silence (bool, False): a `silence` event before each packet.
        lose_every (int, 0): every n-th packet of the caller's voice is lost.
        echo_on_clear (bool, True): echo the marks of audio that a clear dropped.
        stop (bool, True): say `stop` before closing; without it the socket breaks.
    Credentials: `user` and `password` of the applet's URL, sent as HTTP Basic.
    """

    name: ClassVar[str] = "exotel"
    clear_rule: ClassVar[ClearRule] = ClearRule.FINISH_CHUNK
    max_message_bytes: ClassVar[int] = 140_000  # the largest payload in base64, and its envelope

    def __init__(self, plan: CallPlan | None = None, *, strict: bool = True, record: bool = True) -> None:
        super().__init__(plan, strict=strict, record=record)
        plan, options = self.plan, self.plan.options
        self.rate = plan.sample_rate or 8000
        if self.rate not in RATES:
            raise ValueError(f"Exotel has {RATES} Hz, not {self.rate}")
        parameters = plan.parameters
        characters = sum(len(name) + len(value) + 2 for name, value in parameters.items())
        if len(parameters) > MAX_PARAMETERS or characters > MAX_PARAMETER_CHARACTERS:
            raise ValueError(f"Exotel carries {MAX_PARAMETERS} parameters of {MAX_PARAMETER_CHARACTERS} characters")
        self.mulaw = plan.receive_codec == "PCMU"
        self.call_id = plan.call_id or secrets.token_hex(16)
        self.stream_sid = secrets.token_hex(16)
        self.audio_rate = self.rate
        self.packet_ms = options.get("packet_ms", 100)
        self.set_play_rate(self.rate)
        self._width = 1 if self.mulaw else 2  # bytes a sample
        self._grid = 160 * self._width
        self._min_bytes = options.get("min_bytes", 1600 * self._width)
        self._lose_every = options.get("lose_every", 0)
        self._number = int if options.get("numbers") else str
        self._sequence = 0
        self._chunk = 0
        if not options.get("stop", True):
            self.close_code = 1006

    def handshake_headers(self, url: str) -> Mapping[str, str]:
        account = self.plan.credentials
        user = account.get("basic_user")
        if not user:
            return {}
        pair = f"{user}:{account.get('basic_password', '')}"
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    # ------------------------------------------------------------ from Exotel

    def open_messages(self, now: float) -> Messages:
        options, plan = self.plan.options, self.plan
        number = self._number
        start: JsonObject = {
            "stream_sid": self.stream_sid,
            "call_sid": self.call_id,
            "account_sid": "acme1",
            "from": plan.from_number,
            "to": plan.to_number,
            "custom_parameters": dict(plan.parameters),
            "media_format": {
                "encoding": options.get("encoding", "audio/x-mulaw" if self.mulaw else "base64"),
                "sample_rate": number(options.get("start_rate", self.rate)),
                "bit_rate": f"{self.rate * 16 // 1000}kbps",
            },
        }
        self.ready = True
        messages = [self._event("start", {"start": start})]
        if options.get("connected", True):
            messages.insert(0, json.dumps({"event": "connected"}))
        return messages

    def audio_messages(self, pcm: bytes, now: float) -> Messages:
        self._chunk += 1
        if self._lose_every and self._chunk % self._lose_every == 0:
            self._sequence += 1
            return ()
        payload = base64.b64encode(pcm_to_ulaw(pcm) if self.mulaw else pcm).decode()
        number = self._number
        media = {"chunk": number(self._chunk), "timestamp": number(self._chunk * self.packet_ms), "payload": payload}
        message = self._event("media", {"media": media})
        if self.plan.options.get("silence"):
            return (json.dumps({"event": "silence"}), message)
        return (message,)

    def digit_messages(self, digit: str, now: float) -> Messages:
        if digit not in KEYS:
            return ()  # Exotel reports none of the fourth column
        if self.plan.options.get("flat_dtmf"):
            return (self._event("dtmf", {"digit": digit}),)
        return (self._event("dtmf", {"dtmf": {"duration": self._number(200), "digit": digit}}),)

    def end_messages(self, now: float) -> Messages:
        self.closes_socket = True
        if not self.plan.options.get("stop", True):
            return ()
        reason = "callended" if self.ended_by == "caller" else "stopped"
        return (self._event("stop", {"stop": {"call_sid": self.call_id, "account_sid": "acme1", "reason": reason}}),)

    def on_playout(self, event: PlayoutEvent, now: float) -> Messages:
        return (self._mark(event.name),) if event.what == "mark" else ()

    def _mark(self, name: str) -> str:
        return self._event("mark", {"mark": {"name": name}})

    def _event(self, event: str, fields: JsonObject) -> str:
        self._sequence += 1
        message = {
            "event": event,
            "sequence_number": self._number(self._sequence),
            "stream_sid": self.stream_sid,
            **fields,
        }
        return json.dumps(_camel(message) if self.plan.options.get("camel") else message)

    # ------------------------------------------------------------ to Exotel

    def handle(self, data: Message, now: float) -> Messages:
        if not self.strict and isinstance(data, str) and data.startswith('{"event":"media"'):
            begin = data.find(_PAYLOAD) + len(_PAYLOAD)
            self._take_audio(data[begin : data.find('"', begin)], now)
            return ()
        message = self.json_object(data, _NO_JSON)
        event = message.get("event")
        if event == "media":
            self._check(message, {"event": str, "stream_sid": str, "media": dict}, {"sequence_number": str})
            self.only("media", message["media"], {"payload": str}, {"chunk": str, "timestamp": str}, _MEDIA)
            self._take_audio(message["media"]["payload"], now)
            return ()
        if event not in ("mark", "clear"):
            self.violate(_EVENTS, f"event is {event!r:.40}")
        fields: dict[str, type] = {"event": str, "stream_sid": str}
        if event == "mark":
            fields["mark"] = dict
        self._check(message, fields, {})
        if event == "mark":
            name = self.only("mark", message["mark"], {"name": str}, {}, "a mark has a name")["name"]
            if not name:
                self.violate("a mark has a name", "an empty one")
            self.playout.mark(name, now)
            return ()
        dropped = self.clear(now)
        if not self.plan.options.get("echo_on_clear", True):
            return ()
        return [self._mark(name) for name in dropped]

    def _take_audio(self, payload: str, now: float) -> None:
        audio = self.base64(payload, "media.payload is base64")
        size = len(audio)
        if size % self._grid:
            self.violate(f"a payload is a multiple of {self._grid} bytes", f"{size} bytes")
        if size < self._min_bytes:
            self.violate(f"a payload has at least {self._min_bytes} bytes", f"{size} bytes")
        if size > MAX_BYTES:
            self.violate(f"a payload has at most {MAX_BYTES} bytes", f"{size} bytes")
        if self.records:
            self.play(ulaw_to_pcm(audio) if self.mulaw else audio, now)
        else:
            self.play_unheard(size // self._width, now)

    def _check(self, message: JsonObject, required: Mapping[str, type], optional: Mapping[str, type]) -> None:
        camel = _CAMEL & message.keys()
        if camel:
            self.violate(_SNAKE, f"got {', '.join(sorted(camel))}")
        self.only("message", message, required, optional, "a message has its documented fields only")
        if message["stream_sid"] != self.stream_sid:
            self.violate("stream_sid is that of start", "another one")


def _camel(value: Any) -> Any:
    """The same with camelCase keys; values, and the caller's own parameters, as they are."""
    if not isinstance(value, dict):
        return value
    return {
        name.split("_")[0] + "".join(part.title() for part in name.split("_")[1:]): (
            inner if name == "custom_parameters" else _camel(inner)
        )
        for name, inner in value.items()
    }
