"""Strict fake carriers: the other end of the gateway's media socket. No I/O, no clock, no loop.

A fake carrier behaves as the carrier's documentation says, plays what the gateway sends through a true play-out
buffer, and trusts nothing: whatever the real carrier would reject raises ProtocolViolation, with the rule in words.

To write one: subclass FakeCarrier in `gateway/simulator/<carrier>.py`, set `name`, and write `open_messages`,
`audio_messages`, `digit_messages`, `end_messages` and `handle`. Around them this class keeps the timeline, the
play-out clock, the counters and the call's end. The driver (`caller.place_call`, the dev phone, the load generator,
a test with a made-up clock) calls only the public methods:

    opening(now) once the socket stands          -> messages to send
    audio(pcm, now) every `packet_ms` if `ready` -> messages
    press(digit, now), hang_up(now)              -> messages
    receive(data, now) for each message          -> messages; raises ProtocolViolation
    tick(now) no later than `next_tick_at()`     -> messages (marks that were played, pings)
    socket_closed(code, reason, now)             when the gateway closed; may raise ProtocolViolation

and closes the socket itself, after what it had to send, as soon as `closes_socket` is true.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, ClassVar, NoReturn

import pybase64

from gateway.simulator.playout import ClearRule, Playout, PlayoutEvent, PlayoutOverflow

Message = str | bytes
Messages = Sequence[Message]
JsonObject = dict[str, Any]

KEYS = "0123456789*#ABCD"
_NOTHING: Messages = ()


class ProtocolViolation(Exception):
    """The gateway sent what this carrier would reject.

    `rule` is the carrier's rule in words (with its error number, where it has one), `detail` what was sent instead,
    in names, types and sizes.
    """

    def __init__(self, carrier: str, rule: str, detail: str = "") -> None:
        super().__init__(f"{carrier}: {rule}" + (f" ({detail})" if detail else ""))
        self.carrier, self.rule, self.detail = carrier, rule, detail


@dataclass(frozen=True, slots=True)
class Handshake:
    """The HTTP request that opens the media socket."""

    path: str  # with the query, as on the request line
    headers: Mapping[str, str] = field(default_factory=dict)
    subprotocols: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPlan:
    """One simulated call: who calls whom, and what was negotiated before the socket opened.

    What is empty or zero, each carrier fills in its own way and format.
    """

    from_number: str = "+14155550101"
    to_number: str = "+14155550100"
    call_id: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)  # custom parameters, Architect input variables
    receive_codec: str = ""  # what the gateway receives: "PCMU", "PCMA", "L16"
    send_codec: str = ""  # what the gateway was told to send
    sample_rate: int = 0  # Hz of the wire, where the carrier offers several
    direction: str = "inbound"
    credentials: Mapping[str, str] = field(default_factory=dict)  # with them the handshake is signed
    options: Mapping[str, Any] = field(default_factory=dict)  # the fake's own switches, by its own names


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the timeline. `t` is seconds since the connection stood."""

    t: float
    what: str  # "opened", "ready", "audio", "digit", "mark", "clear", "ended", "closed", "violation", ...
    detail: str = ""


class FakeCarrier(ABC):
    """One call on one media socket, seen from the carrier.

    Args:
        plan: the call; ids that it leaves open are made up in the carrier's format.
        strict: check every field of every message. Without it `receive` checks what is cheap: for load.
        record: keep what the caller heard.
    """

    name: ClassVar[str]
    clear_rule: ClassVar[ClearRule] = ClearRule.DROP_ALL
    max_buffered_s: ClassVar[float] = 60.0  # waiting for play-out; more is a violation
    max_message_bytes: ClassVar[int] = 65536
    tells_playback: ClassVar[bool] = False  # `on_playout` answers when play-out starts and runs dry, too
    normal_close_codes: ClassVar[Collection[int]] = (1000,)
    close_code: int = 1000  # with which the carrier itself closes; 1006: the socket breaks

    def __init__(self, plan: CallPlan | None = None, *, strict: bool = True, record: bool = True) -> None:
        self.plan = plan if plan is not None else CallPlan()
        self.call_id = self.plan.call_id  # a subclass makes one up, in the carrier's format, where it is empty
        self.strict = strict
        self.audio_rate = 8000  # Hz of the caller's voice, as `audio` takes it
        self.packet_ms = 20  # how much of it makes one packet
        self.playout = Playout(
            8000, clear_rule=self.clear_rule, max_buffered_s=self.max_buffered_s, record=record
        )  # a subclass whose wire has another rate calls `set_play_rate`
        self.events: list[Event] = []
        self.violations: list[ProtocolViolation] = []
        self.ready = False  # audio may flow
        self.closes_socket = False  # the driver sends what is due, then closes
        self.close_code = 1000  # with which the carrier itself closes; 1006: it breaks the connection
        self.ended_by: str | None = None  # "caller", "bot" or "error"
        self.end_reason = ""  # the carrier's or the gateway's own word for it
        self.started_at = 0.0
        self.messages_in = 0  # seen from the gateway: what it received
        self.messages_out = 0
        self.audio_messages_out = 0
        self.digits_sent = ""  # digits that the gateway sent to the caller, where the carrier has a message for them
        self.output_variables: dict[str, Any] = {}  # what the call brought back, where the carrier takes it
        self.records = record
        self.on_sound: Callable[[bytes, float], None] | None = None  # gets each piece of audio, put into the buffer

    def set_play_rate(self, rate: int) -> None:
        """The gateway's audio arrives at `rate` Hz. Before the first audio."""
        playout = Playout(rate, clear_rule=self.clear_rule, max_buffered_s=self.max_buffered_s, record=self.records)
        playout.start(self.started_at)
        self.playout = playout

    # ------------------------------------------------------------ the socket

    def media_path(self, token: str) -> str:
        """Path and query of the media socket."""
        return f"/{self.name}/media/{token}"

    def handshake_headers(self, url: str) -> Mapping[str, str]:
        """Headers of the upgrade to `url` (complete, as the gateway's public side sees it)."""
        return {}

    def handshake(self, token: str, base_url: str = "") -> Handshake:
        """The upgrade request. `base_url` ("wss://host[:port][/prefix]") matters only where it is signed."""
        path = self.media_path(token)
        return Handshake(path, self.handshake_headers(base_url + path))

    # ------------------------------------------------------------ what the driver calls

    def opening(self, now: float) -> Messages:
        """The socket stands: the caller's clock begins."""
        self.started_at = now
        self.playout.start(now)
        self.note(now, "opened")
        return self._sent(self.open_messages(now))

    def audio(self, pcm: bytes, now: float) -> Messages:
        """One packet of the caller's voice: s16le at `audio_rate`, `packet_ms` long, spoken until `now`."""
        if not self.ready or self.ended_by is not None:
            return _NOTHING
        return self._sent(self.audio_messages(pcm, now))

    def press(self, digit: str, now: float) -> Messages:
        """The caller presses one key. ValueError: no such key."""
        if len(digit) != 1 or digit not in KEYS:
            raise ValueError(f"not a key: {digit!r}")
        if not self.ready or self.ended_by is not None:
            return _NOTHING
        self.note(now, "digit", digit)
        return self._sent(self.digit_messages(digit, now))

    def receive(self, data: Message, now: float) -> Messages:
        """One message from the gateway. Raises ProtocolViolation, after which the call is over ("error")."""
        self.messages_out += 1
        if self.closes_socket:
            return _NOTHING  # in flight while the carrier closes: nobody reads it
        events = self.playout.advance(now)
        before = self._after_playing(events, now) if events else _NOTHING
        try:
            if len(data) > self.max_message_bytes:
                self.violate("message too large", f"{len(data)} bytes, {self.max_message_bytes} at most")
            replies = self._sent(self.handle(data, now))
        except ProtocolViolation as violation:
            self._fail(violation, now)
            raise
        after = self.tick(now) if self.playout.has_news else _NOTHING  # a mark in an empty buffer is reached at once
        return (*before, *replies, *after) if before or after else replies

    def tick(self, now: float) -> Messages:
        """Time passes: what was waiting is played; messages that this brings about."""
        events = self.playout.advance(now)
        return self._after_playing(events, now) if events else _NOTHING

    def _after_playing(self, events: Sequence[PlayoutEvent], now: float) -> Messages:
        replies: list[Message] = []
        for event in events:
            if event.what == "mark":
                self.note(event.at, "mark", event.name)
            replies += self.on_playout(event, now)
        return self._sent(replies)

    def next_tick_at(self) -> float | None:
        """When `tick` will have something to do, if nothing arrives before."""
        return self.playout.next_event_at()

    def hang_up(self, now: float) -> Messages:
        """The caller hangs up."""
        return self._end("caller", now)

    def api_hang_up(self, now: float) -> Messages:
        """The gateway ended the call by the carrier's REST API."""
        return self._end("bot", now)

    def socket_closed(self, code: int, reason: str, now: float) -> None:
        """The gateway closed the socket, or it broke (1006). Raises ProtocolViolation where it must not."""
        self.tick(now)
        self.note(now, "closed", f"{code} {reason}".strip())
        if self.ended_by is None:
            self.finish("bot" if code in self.normal_close_codes else "error", now, f"socket closed with {code}")

    # ------------------------------------------------------------ what a carrier writes

    @abstractmethod
    def open_messages(self, now: float) -> Messages:
        """What the carrier says first. Sets `ready` if audio may follow at once."""

    @abstractmethod
    def audio_messages(self, pcm: bytes, now: float) -> Messages:
        """One packet of voice as messages."""

    @abstractmethod
    def digit_messages(self, digit: str, now: float) -> Messages:
        """One key."""

    @abstractmethod
    def handle(self, data: Message, now: float) -> Messages:
        """One message from the gateway, checked and carried out; replies. Play-out has advanced to `now`."""

    @abstractmethod
    def end_messages(self, now: float) -> Messages:
        """The call is over on the carrier's side. Sets `closes_socket`, now or when the gateway has answered."""

    def on_playout(self, event: PlayoutEvent, now: float) -> Messages:
        """Something happened in the buffer: a mark was reached, play-out started or ran dry."""
        return _NOTHING

    def facts(self) -> Mapping[str, Any]:
        """What the report should say beside what all carriers have."""
        return {}

    # ------------------------------------------------------------ for the carriers' use

    def note(self, now: float, what: str, detail: str = "") -> None:
        """Write to the timeline."""
        self.events.append(Event(now - self.started_at, what, detail))

    def violate(self, rule: str, detail: str = "") -> NoReturn:
        raise ProtocolViolation(self.name, rule, detail)

    def play(self, pcm: bytes, now: float) -> None:
        """Audio of one message goes into the buffer."""
        if not self.audio_messages_out:
            self.note(now, "audio", "first message")
        self.audio_messages_out += 1
        try:
            self.playout.append(pcm, now)
        except PlayoutOverflow as exc:
            self.violate("more audio than the carrier buffers", str(exc))
        if self.on_sound is not None:
            self.on_sound(pcm, now)

    def play_unheard(self, samples: int, now: float) -> None:
        """As `play`, for a fake that records nothing and only counts the samples."""
        if not self.audio_messages_out:
            self.note(now, "audio", "first message")
        self.audio_messages_out += 1
        try:
            self.playout.append_unheard(samples, now)
        except PlayoutOverflow as exc:
            self.violate("more audio than the carrier buffers", str(exc))

    def clear(self, now: float) -> list[str]:
        """The gateway cleared the buffer: names of the marks that went with it."""
        dropped = self.playout.clear(now)
        self.note(now, "clear", f"{self.playout.clears[-1].dropped_s:.2f} s dropped")
        return dropped

    def finish(self, by: str, now: float, reason: str = "") -> None:
        """The call is over: nothing is heard any more."""
        if self.ended_by is None:
            self.ended_by, self.end_reason = by, reason
            self.playout.close(now)
            self.note(now, "ended", f"by {by}" + (f": {reason}" if reason else ""))

    def json_object(self, data: Message, rule: str) -> JsonObject:
        """A text message as a JSON object; a violation of `rule` otherwise."""
        if isinstance(data, bytes):
            self.violate(rule, f"a binary message of {len(data)} bytes")
        try:
            message = json.loads(data, parse_constant=self._no_constant)
        except ValueError:
            self.violate(rule, f"not JSON, {len(data)} characters")
        if not isinstance(message, dict):
            self.violate(rule, f"JSON {type(message).__name__}, not an object")
        return message

    def only(self, where: str, obj: Any, required: Mapping[str, type], optional: Mapping[str, type], rule: str) -> Any:
        """`obj` if it is an object with the `required` keys, maybe the `optional` ones, and the right types."""
        if not isinstance(obj, dict):
            self.violate(rule, f"{where} is {type(obj).__name__}, not an object")
        for key, kind in required.items():
            if key not in obj:
                self.violate(rule, f"{where} lacks {key!r}")
            if type(obj[key]) is not kind:
                self.violate(rule, f"{where}.{key} is {type(obj[key]).__name__}, not {kind.__name__}")
        for key in obj.keys() - required.keys():
            if key not in optional:
                self.violate(rule, f"{where} has an unknown field {key[:40]!r}")
            if type(obj[key]) is not optional[key]:
                self.violate(rule, f"{where}.{key} is {type(obj[key]).__name__}, not {optional[key].__name__}")
        return obj

    def base64(self, payload: str, rule: str) -> bytes:
        """`payload` decoded; empty or not canonical base64 is a violation of `rule`."""
        try:
            raw = pybase64.b64decode(payload, validate=True)
        except ValueError:
            self.violate(rule, f"payload of {len(payload)} characters is not base64")
        if not raw:
            self.violate(rule, "empty payload")
        return raw

    # ------------------------------------------------------------ inside

    def _end(self, by: str, now: float) -> Messages:
        if self.ended_by is not None:
            return _NOTHING
        before = self.tick(now)
        self.finish(by, now)
        return (*before, *self._sent(self.end_messages(now)))

    def _fail(self, violation: ProtocolViolation, now: float) -> None:
        self.violations.append(violation)
        self.note(now, "violation", str(violation))
        self.finish("error", now, violation.rule)
        self.closes_socket = True

    def _sent(self, messages: Messages) -> Messages:
        self.messages_in += len(messages)
        return messages

    def _no_constant(self, name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")


@lru_cache(maxsize=1024)
def payload(encode: Callable[[bytes], bytes], pcm: bytes) -> str:
    """What `encode` makes of `pcm`, in base64; many simulated callers say the same."""
    return pybase64.b64encode_as_string(encode(pcm))


# ---------------------------------------------------------------- finding them


def carrier_names() -> list[str]:
    """The carriers that have a fake and a serializer. Nothing is imported but the two packages."""
    import gateway.simulator
    import serializers

    fakes = {module.name.removesuffix("_caller") for module in pkgutil.iter_modules(gateway.simulator.__path__)}
    return sorted(
        module.name
        for module in pkgutil.iter_modules(serializers.__path__)
        if module.name in fakes and module.name != "base"
    )


@cache
def fake_carrier(name: str) -> type[FakeCarrier]:
    """The fake carrier called `name`: the FakeCarrier of that name in `gateway/simulator/<name>.py`, or
    `<name>_caller.py` where that is something else.

    Raises KeyError if there is none.
    """
    if not name.isidentifier() or name not in carrier_names():
        raise KeyError(name)
    for place in (name, f"{name}_caller"):
        if importlib.util.find_spec(f"gateway.simulator.{place}") is None:
            continue
        module = importlib.import_module(f"gateway.simulator.{place}")
        for value in vars(module).values():
            defined_here = getattr(value, "__module__", "") == module.__name__
            if defined_here and isinstance(value, type) and issubclass(value, FakeCarrier) and value.name == name:
                return value
    raise KeyError(name)
