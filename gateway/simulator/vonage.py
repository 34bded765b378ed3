"""A strict fake of Vonage's end of a WebSocket: of the Voice API, or of the Video API's Audio Connector.

Source: Vonage's developer guides "Voice API - WebSockets" and "Video API - Audio Connector".
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

from gateway.simulator.base import CallPlan, FakeCarrier, Message, Messages
from gateway.simulator.playout import PlayoutEvent

RATES = (8000, 16000, 24000)
FRAME_MS = 20
MAX_MESSAGES = 3072  # waiting for play-out
MAX_HEADER_BYTES = 512

_NO_JSON = "a text message is a JSON object"
_FIELDS = "an action has its documented fields only"


class FakeVonage(FakeCarrier):
    """Vonage, for one WebSocket leg. The plan's parameters are the headers that the answer asked for.

    Options of the plan:
        product (str, "voice"): or "video".
        connected (bool, True): say `websocket:connected`.
        audio_first (int, 0): so many packets of the caller's voice come before it.
        content_type (str): what it says, where that is not the plan's rate.
        dtmf (str, "flat"): or "legacy" (without event), "nested", "int" (digits as numbers).
        cleared_after_s (float, 0.14): how long `websocket:cleared` takes; None: it never comes.
        notify (bool, True): echo what was asked to be notified.
        notify_on_clear (bool, True): also when a clear dropped what stood before it.
        lose_every (int, 0): every n-th packet of the caller's voice is lost.
        close_code (int, 1000): with which Vonage closes; 1006: the socket breaks.
    Credentials: `authorization`, sent as the header that the answer asked for.
    """

    name: ClassVar[str] = "vonage"
    max_buffered_s: ClassVar[float] = MAX_MESSAGES * FRAME_MS / 1000

    def __init__(self, plan: CallPlan | None = None, *, strict: bool = True, record: bool = True) -> None:
        super().__init__(plan, strict=strict, record=record)
        plan, options = self.plan, self.plan.options
        self.rate = plan.sample_rate or 16000
        if self.rate not in RATES:
            raise ValueError(f"Vonage has {RATES} Hz, not {self.rate}")
        self.product = options.get("product", "voice")
        self.call_id = plan.call_id or str(uuid.uuid4())
        self.headers: dict[str, Any] = {"gw_call": self.call_id, **plan.parameters}
        if len(json.dumps(self.headers).encode()) > MAX_HEADER_BYTES:
            raise ValueError(f"Vonage takes at most {MAX_HEADER_BYTES} bytes of headers")
        self.audio_rate = self.rate
        self.packet_ms = FRAME_MS
        self.set_play_rate(self.rate)
        self.close_code = options.get("close_code", 1000)
        self._frame_bytes = self.rate * FRAME_MS // 1000 * 2
        self._content_type = options.get("content_type", f"audio/l16;rate={self.rate}")
        self._connected_at = options.get("audio_first", 0) if options.get("connected", True) else -1
        self._packets = 0
        self._cleared_after_s: float | None = options.get("cleared_after_s", 0.14)
        self._lose_every = options.get("lose_every", 0)
        self._payloads: dict[str, deque[dict[str, Any]]] = {}  # of the notifies that wait, by the mark's name
        self._later: deque[tuple[float, str]] = deque()  # when, message

    def handshake_headers(self, url: str) -> Mapping[str, str]:
        authorization = self.plan.credentials.get("authorization")
        return {"Authorization": authorization} if authorization else {}

    # ------------------------------------------------------------ from Vonage

    def open_messages(self, now: float) -> Messages:
        self.ready = True
        return (self._connected_message(),) if self._connected_at == 0 else ()

    def _connected_message(self) -> str:
        return json.dumps({"event": "websocket:connected", "content-type": self._content_type, **self.headers})

    def audio_messages(self, pcm: bytes, now: float) -> Messages:
        self._packets += 1
        if self._lose_every and self._packets % self._lose_every == 0:
            return ()
        if self._packets == self._connected_at:
            return (pcm, self._connected_message())
        return (pcm,)

    def digit_messages(self, digit: str, now: float) -> Messages:
        shape = self.plan.options.get("dtmf", "flat")
        if shape == "legacy":
            return (" " + json.dumps({"digit": digit, "duration": 260}),)
        if shape == "nested":
            return (json.dumps({"event": "websocket:dtmf", "dtmf": {"digit": digit}}),)
        value = int(digit) if shape == "int" and digit.isdigit() else digit
        return (json.dumps({"event": "websocket:dtmf", "digit": value, "duration": 260}),)

    def set_active(self, active: bool, now: float) -> Messages:
        """The participant's stream is muted or unmuted (Audio Connector)."""
        fields = {"method": "update", "active": active, "content-type": self._content_type, **self.headers}
        return self._sent((json.dumps({"event": "websocket:media:update", **fields}),))

    def end_messages(self, now: float) -> Messages:
        self.closes_socket = True
        if self.product == "video":
            return (json.dumps({"event": "websocket:disconnected", **self.headers}),)
        return ()  # a voice leg has no message for it

    def on_playout(self, event: PlayoutEvent, now: float) -> Messages:
        return self._echo(event.name) if event.what == "mark" else ()

    def _echo(self, name: str) -> Messages:
        payload = self._payloads[name].popleft()
        if not self.plan.options.get("notify", True):
            return ()
        return (json.dumps({"event": "websocket:notify", "payload": payload}),)

    def tick(self, now: float) -> Messages:
        replies = super().tick(now)
        if not self._later or self._later[0][0] > now:
            return replies
        due: list[Message] = []
        while self._later and self._later[0][0] <= now:
            due.append(self._later.popleft()[1])
        return (*replies, *self._sent(due))

    def next_tick_at(self) -> float | None:
        times = [at for at in (super().next_tick_at(), self._later[0][0] if self._later else None) if at is not None]
        return min(times, default=None)

    # ------------------------------------------------------------ to Vonage

    def handle(self, data: Message, now: float) -> Messages:
        if isinstance(data, bytes):
            if len(data) != self._frame_bytes:
                self.close_code = 1006  # Vonage stops reading
                got, wanted = len(data) / 2, self._frame_bytes // 2
                self.violate(f"unexpected frame size {got:g}, when required {wanted}", "in samples")
            if self.records:
                self.play(data, now)
            else:
                self.play_unheard(len(data) >> 1, now)
            return ()
        message = self.json_object(data, _NO_JSON)
        action = message.get("action")
        if action == "clear":
            self.only("message", message, {"action": str}, {}, _FIELDS)
            return self._take_clear(now)
        if action == "notify":
            self.only("message", message, {"action": str, "payload": dict}, {}, _FIELDS)
            payload = message["payload"]
            name = payload["id"] if isinstance(payload.get("id"), str) else json.dumps(payload)
            self._payloads.setdefault(name, deque()).append(payload)
            self.playout.mark(name, now)
            return ()
        return self.violate("the actions that Vonage takes are clear and notify", f"action is {action!r:.40}")

    def _take_clear(self, now: float) -> Messages:
        replies: list[Message] = []
        for name in self.clear(now):
            if self.plan.options.get("notify_on_clear", True):
                replies += self._echo(name)
            else:
                self._payloads[name].popleft()
        if self._cleared_after_s is not None:
            self._later.append((now + self._cleared_after_s, '{"event":"websocket:cleared"}'))
        return replies
