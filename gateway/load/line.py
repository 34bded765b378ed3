"""One simulated call of a load test: a fake carrier on a wire, a schedule, and what came of it."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Protocol

from gateway.load.doorway import Entry
from gateway.load.ear import Ear, packets
from gateway.load.plan import Arrival
from gateway.load.tally import Tally
from gateway.load.wire import Wire
from gateway.simulator.base import FakeCarrier, Message, ProtocolViolation

CONNECT_S = 10.0
CLOSING_S = 15.0  # for the gateway to answer the end of a call
BOT_LATE_S = 10.0  # for a bot that should have ended the call
SILENCED_S = 3.0  # a barge-in that has not silenced the bot by then has failed
STOPPED_S = 0.1  # without audio for so long after a barge-in: the bot has stopped
KEYS_S = 0.25  # between two keys
HALF_OPEN_S = 300.0  # for the gateway to give up a half-open call; then its socket is closed here
_ABANDONED = ("drop", "half-open", "never-start")  # ends after which nothing is expected of the gateway


class Over(enum.Enum):
    """How a call came out."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


class Desk(Protocol):
    """Who keeps the lines."""

    def now(self) -> float: ...

    def over(self, line: Line, how: Over, reason: str) -> None: ...


class Line:
    """One call. `visit` comes every 20 ms, on the generator's clock."""

    def __init__(self, arrival: Arrival, carrier: FakeCarrier, tally: Tally, desk: Desk, now: float) -> None:
        self.arrival, self.scenario, self.carrier = arrival, arrival.scenario, carrier
        self._tally, self._desk = tally, desk
        self.wire: Wire | None = None
        self.entry: Entry | None = None  # kept for what is reported when it is over
        self._began = now
        self._opened_at: float | None = None
        self._due: float | None = None  # when the packet that is being spoken is complete
        self._place = 0  # packets into the marker
        self._voice: Sequence[bytes] = ()
        self._silence = b""
        self._packet_s = 0.02
        self._keys = list(self.scenario.digits)
        self._keys_at = self.scenario.digits_at_s
        self._cut_at: float | None = None  # when the caller cut in
        self._cut_done = not self.scenario.barge_in_at_s
        self._speaking = self.scenario.says == "markers"
        self._ended_at: float | None = None  # when this side ended it
        self._problem = ""
        self._gone = False
        self._still = False  # half-open, or never started
        self.ear = Ear(carrier, tally)
        carrier.on_sound = self.ear.take

    # ------------------------------------------------------------ the wire's side

    def opened(self, now: float) -> None:
        self._opened_at = now
        self._tally.connected += 1
        self._tally.live += 1
        self._tally.most_live = max(self._tally.most_live, self._tally.live)
        self._tally.setup.add(now - self._began)
        if self.scenario.end == "refused":
            self._fail("let in without a token", now)
        elif self.scenario.end == "never-start":
            self._still = True
        else:
            self._send(self.carrier.opening(now))

    def unreachable(self, why: str) -> None:
        """There is no connection."""
        self._over(Over.FAILED, f"no connection: {why}")

    def refused(self, status: int) -> None:
        if self.scenario.end == "refused" and 400 <= status < 500:
            self._over(Over.DONE, "")
        else:
            self._over(Over.REFUSED, f"HTTP {status}")

    def message(self, data: Message, now: float) -> None:
        if self._gone:
            return
        try:
            replies = self.carrier.receive(data, now)
        except ProtocolViolation as violation:
            self._fail(f"violation: {violation.rule}", now)
            return
        if replies or self.carrier.closes_socket:
            self._send(replies)

    def lost(self, code: int) -> None:
        if self._gone:
            return
        now, carrier = self._desk.now(), self.carrier
        if self._opened_at is None:
            self._over(Over.FAILED, "the connection broke before the handshake")
            return
        if self._problem:
            self._over(Over.FAILED, self._problem)
            return
        early = self._ended_at is None
        if early and self._still:
            self._over(Over.DONE, "")  # the gateway has given it up, as it should
            return
        if early:
            try:
                carrier.socket_closed(code, "", now)
            except ProtocolViolation as violation:
                self._over(Over.FAILED, f"violation: {violation.rule}")
                return
            if carrier.ended_by == "error":
                self._over(Over.FAILED, f"the socket closed with {code}")
                return
            if self.scenario.end == "caller":
                self._over(Over.FAILED, "the bot ended the call before the caller")
                return
        self._over(Over.DONE, "")

    def _send(self, messages: Sequence[Message]) -> None:
        wire = self.wire
        if wire is None:
            return
        for message in messages:
            wire.send(message)
        if self.carrier.closes_socket and self._ended_at is None:
            self._ended_at = self._desk.now()  # the bot ended it, in the carrier's way
        if self.carrier.closes_socket and not self._gone and not self._still:
            self._still = True
            if self.carrier.close_code == 1006:
                wire.abort()
            else:
                wire.close(self.carrier.close_code)

    # ------------------------------------------------------------ time

    def visit(self, now: float, due: float) -> None:
        """Say what is due. `due` is the moment on the schedule, `now` the real one."""
        if self._gone:
            return
        if self._opened_at is None:
            if now - self._began > CONNECT_S:
                self._fail("no connection", now)
            return
        at, carrier, scenario = now - self._opened_at, self.carrier, self.scenario
        if self._ended_at is None and at >= self.arrival.lasts:
            self._end(now)
        if self._ended_at is not None and now - self._ended_at > CLOSING_S and not self._problem:
            self._fail("the gateway did not answer the end of the call", now)
            return
        if self._still:
            if scenario.end == "half-open" and at > self.arrival.lasts + HALF_OPEN_S:
                self.abandon()
            return
        if carrier.ready and carrier.ended_by is None:
            if self._due is None:
                self._begin(due)
            elif due >= self._due - 0.001:
                self._speak(now)
            if self._keys and at >= self._keys_at:
                self._keys_at += KEYS_S
                self._send(carrier.press(self._keys.pop(0), now))
            if not self._cut_done:
                self._barge_in(scenario.barge_in_at_s, at, now)
        tick = carrier.next_tick_at()
        if tick is not None and tick <= now:
            self._send(carrier.tick(now))

    def _begin(self, due: float) -> None:
        carrier = self.carrier
        self._packet_s = carrier.packet_ms / 1000
        size = 2 * carrier.audio_rate * carrier.packet_ms // 1000
        self._voice, self._silence = packets(carrier.audio_rate, size), bytes(size)
        self._place = -(self.arrival.number % 50)  # so that not all say it in the same moment
        self._due = due + self._packet_s

    def _speak(self, now: float) -> None:
        assert self._due is not None
        assert self.wire is not None
        place = self._place
        self._place = place + 1
        if place < 0 or not self._speaking:
            pcm = self._silence
        else:
            place %= len(self._voice)
            if not place:
                self.ear.said_marker(self._due - self._packet_s)
            pcm = self._voice[place]
        self._due += self._packet_s
        for message in self.carrier.audio(pcm, now):
            self.wire.send(message)

    def _barge_in(self, from_s: float, at: float, now: float) -> None:
        """Cut in while the bot can be heard, and time how long it goes on."""
        self._send(self.carrier.tick(now))
        ear, playout, tally = self.ear, self.carrier.playout, self._tally
        if self._cut_at is None:
            if at >= from_s and playout.playing and now - ear.last_sound_at < STOPPED_S:
                self._cut_at = now
                if self.scenario.barge_in_by == "tone":
                    self._speaking, self._place = True, 0
                else:
                    self._send(self.carrier.press(self.scenario.barge_in_by, now))
            return
        if playout.clears and playout.clears[-1].at >= self._cut_at:
            tally.barge_in.add(max(0.0, playout.clears[-1].silent_at - self._cut_at))
        elif not playout.playing and now - ear.last_packet_at > STOPPED_S:
            tally.barge_in.add(max(0.0, min(ear.last_sound_at, now) - self._cut_at))
        elif now - self._cut_at < SILENCED_S:
            return
        else:
            tally.uninterrupted += 1
        self._cut_done = True
        self._speaking = self.scenario.says == "markers"

    def _end(self, now: float) -> None:
        """The time of this caller has come."""
        end, wire = self.scenario.end, self.wire
        if end == "bot":
            if now - (self._opened_at or now) > self.arrival.lasts + BOT_LATE_S:
                self._fail("the bot did not end the call", now)
            return
        self._ended_at = now
        if end == "caller":
            self._send(self.carrier.hang_up(now))
        elif wire is not None and end in ("drop", "never-start"):
            self._still = True
            wire.abort()
        elif wire is not None:
            self._ended_at = math.inf
            self._still = True
            wire.stop_reading()

    def stop(self, now: float) -> None:
        """The whole test ends now."""
        if self._gone or self._problem:
            return
        if self._opened_at is None or self.scenario.end in _ABANDONED or self.scenario.end == "bot":
            self.abandon()
        elif self._ended_at is None:
            self._ended_at = now
            self._send(self.carrier.hang_up(now))

    def abandon(self) -> None:
        """Forget it, without a verdict."""
        if not self._gone:
            self._over(Over.DONE, "")
            if self.wire is not None:
                self.wire.abort()

    def _fail(self, reason: str, now: float) -> None:
        self._problem = reason
        self._over(Over.FAILED, reason)
        if self.wire is not None:
            self.wire.abort()

    def _over(self, how: Over, reason: str) -> None:
        if self._gone:
            return
        self._gone = True
        now, tally, playout = self._desk.now(), self._tally, self.carrier.playout
        if self._opened_at is not None:
            tally.live -= 1
            tally.call_s += now - self._opened_at
            if self.ear.first_sound_at is not None:
                tally.first_audio.add(self.ear.first_sound_at - self._opened_at)
        for gap in playout.audible_gaps():
            tally.gaps += 1
            tally.gap_s += gap.duration_s
        tally.heard_s += playout.played_s
        self._desk.over(self, how, reason)
