"""Places one simulated call over a real WebSocket: a fake carrier, a clock and a script."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import soxr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from gateway.simulator import hearing
from gateway.simulator.base import Event, FakeCarrier, Message, ProtocolViolation
from gateway.simulator.playout import Gap
from gateway.simulator.report import BargeIn, CallReport, Stall
from gateway.simulator.script import HangUp, Note, Press, Say, Script, Step, Vanish, When

LATE_S = 0.01  # a packet of ours that leaves later than this after its time
STALL_S = 0.004  # our own loop woke later than this
STEP_S = 0.01  # how often time passes for the script and the play-out, at least
TAIL_S = 0.3  # what is still heard of an interrupted reply is no answer to the interruption


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    connect_s: float = 10.0
    ready_s: float = 10.0  # until audio may flow
    longest_s: float = 120.0  # then the caller hangs up, and the report has a problem
    closing_s: float = 15.0  # for the gateway to answer the end of the call


class Live(Protocol):
    """A caller who is there, instead of a script: a person at a microphone. Called on the loop; none of it may wait."""

    def voice(self, samples: int, rate: int) -> bytes:
        """What is said in the next `samples` samples: s16le, mono, so many or fewer."""

    def hear(self, pcm: bytes, rate: int) -> None:
        """What the carrier has played to the caller since the last time."""

    def passed(self, message: Message, *, to_gateway: bool) -> None:
        """A message on the media socket."""


async def place_call(
    carrier: FakeCarrier,
    url: str,
    script: Script,
    *,
    token: str | None = None,
    ssl: tls.SSLContext | None = None,
    limits: Limits = Limits(),
    addressed: str = "",
    headers: Mapping[str, str] | None = None,
    meanwhile: Callable[[float], Sequence[Message]] | None = None,
    live: Live | None = None,
) -> CallReport:
    """Call the gateway and follow the script until the call is over. Whatever goes wrong is in the report.

    Args:
        carrier: a fresh one.
        url: with a `token`: the gateway's base ("ws://127.0.0.1:8080"), to which the carrier adds its path;
            without: the whole URL of the media socket, as the answer document had it.
        script: what the caller does.
        ssl: for wss:// with a certificate of one's own.
        addressed: the URL that the carrier was given, where proxies make `url` of it: signed, and named in Host.
        headers: of the handshake, as those proxies would add them.
        meanwhile: asked every few milliseconds, from the connection's first moment; what it gives is sent.
        live: who speaks and listens, where the script says nothing.
    """
    return await _Call(carrier, url, script, token, ssl, limits, addressed, headers or {}, meanwhile, live).run()


class _Call:
    def __init__(
        self,
        carrier: FakeCarrier,
        url: str,
        script: Script,
        token: str | None,
        ssl: tls.SSLContext | None,
        limits: Limits,
        addressed: str,
        headers: Mapping[str, str],
        meanwhile: Callable[[float], Sequence[Message]] | None,
        live: Live | None,
    ) -> None:
        self._carrier, self._limits, self._ssl, self._meanwhile, self._live = carrier, limits, ssl, meanwhile, live
        self._target: dict[str, Any] = {}  # where to connect, if not to the host in the URL
        if addressed:
            there = urlsplit(url)
            self._target = {"host": there.hostname, "port": there.port or (443 if there.scheme == "wss" else 80)}
            self._url = there._replace(netloc=urlsplit(addressed).netloc).geturl()
            self._headers = dict(carrier.handshake_headers(addressed))
        elif token is None:
            self._url, self._headers = url, dict(carrier.handshake_headers(url))
        else:
            handshake = carrier.handshake(token, url)
            self._url, self._headers = url + handshake.path, dict(handshake.headers)
        self._headers.update(headers)
        self._steps = deque(script.steps)
        self._outbox: deque[Message] = deque()
        self._awake = asyncio.Event()
        self._over = False
        self._we_closed = False
        self._problems: list[str] = []
        self._notes: list[Event] = []
        self._close_code: int | None = None
        self._ws: ClientConnection
        self._now = asyncio.get_running_loop().time

        rate = carrier.audio_rate
        self._packet = rate * carrier.packet_ms // 1000  # samples
        self._said = bytearray()  # from the connection's start, at `rate`
        self._spoken = 0  # samples since audio could flow
        self._ready_at: float | None = None
        self._voice = b""
        self._voice_from = 0  # sample, counted like `_spoken`, at which `_voice` begins

        self._playout = carrier.playout
        self._ear = hearing.Ear(carrier.playout.rate)
        self._reference = 0.0  # what the bot says after this answers the step before
        self._done_at = 0.0  # when the step before was, or will be, done
        self._digits: deque[tuple[float, str]] = deque()  # seconds since the start, key
        self._cuts: list[tuple[float, str]] = []  # barge-ins: seconds since the start, by what
        self._stalls: list[Stall] = []
        self._late = 0
        self._worst = 0.0
        self._pressed = 0

    # ------------------------------------------------------------ the call

    async def run(self) -> CallReport:
        limits = self._limits
        try:
            async with (
                asyncio.timeout(limits.longest_s + limits.connect_s + limits.closing_s + 10),
                connect(
                    self._url,
                    ssl=self._ssl if self._url.startswith("wss:") else None,
                    additional_headers=self._headers,
                    compression=None,
                    open_timeout=limits.connect_s,
                    close_timeout=2,
                    ping_interval=None,
                    max_size=4 << 20,
                    proxy=None,
                    **self._target,
                ) as self._ws,
            ):
                await self._talk()
        except InvalidStatus as exc:
            return self._refused(exc.response.status_code)
        except (InvalidHandshake, OSError, TimeoutError) as exc:
            if self._ready_at is None and not self._carrier.events:
                self._problems.append(f"no connection to {urlsplit(self._url).netloc}: {exc or type(exc).__name__}")
            else:
                self._problems.append(f"the call did not end: {exc or type(exc).__name__}")
        # Analysis takes tens of milliseconds, and other calls may run on this loop.
        return await asyncio.to_thread(self._report)

    async def _talk(self) -> None:
        self._send(self._carrier.opening(self._now()))
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(self._write()), tasks.create_task(self._pass_time())]
            await self._read()
            self._over = True
            for task in others:
                task.cancel()

    async def _read(self) -> None:
        carrier, ws = self._carrier, self._ws
        try:
            while True:
                data = await ws.recv()
                if self._live is not None:
                    self._live.passed(data, to_gateway=False)
                try:
                    self._send(carrier.receive(data, self._now()))
                except ProtocolViolation:
                    self._awake.set()  # the carrier has noted it, and closes
        except ConnectionClosed as exc:
            code, reason = (exc.rcvd.code, exc.rcvd.reason) if exc.rcvd else (1006, "")
            self._close_code = code
            if self._we_closed:
                carrier.tick(self._now())
                return
            try:
                carrier.socket_closed(code, reason, self._now())
            except ProtocolViolation as violation:
                if violation not in carrier.violations:
                    carrier.violations.append(violation)

    async def _write(self) -> None:
        ws, outbox = self._ws, self._outbox
        try:
            while True:
                while outbox:
                    if self._live is not None:
                        self._live.passed(outbox[0], to_gateway=True)
                    await ws.send(outbox.popleft())
                if self._carrier.closes_socket:
                    self._we_closed = True
                    if self._carrier.close_code == 1006:
                        ws.transport.abort()
                    else:
                        await ws.close(self._carrier.close_code)
                    return
                self._awake.clear()
                await self._awake.wait()
        except ConnectionClosed:
            pass  # the reader sees it too

    def _send(self, messages: Sequence[Message]) -> None:
        if messages:
            self._outbox.extend(messages)
            self._awake.set()
        elif self._carrier.closes_socket:
            self._awake.set()

    # ------------------------------------------------------------ time

    async def _pass_time(self) -> None:
        carrier = self._carrier
        while not self._over:
            now = self._now()
            if carrier.ready and self._ready_at is None:
                self._begin_to_speak(now)
            self._speak(now)
            self._send(carrier.tick(now))
            if self._meanwhile is not None:
                self._send(self._meanwhile(now))
            if carrier.playout is not self._playout:  # the carrier has learned the rate as the call opened
                self._playout = carrier.playout
                self._ear = hearing.Ear(carrier.playout.rate)
            heard = self._playout.take()
            self._ear.feed(heard)
            if self._live is not None and heard:
                self._live.hear(heard, self._playout.rate)
            self._follow_script(now - carrier.started_at)
            self._enforce_limits(now - carrier.started_at)
            wake_at = max(self._now(), self._next(now))
            await asyncio.sleep(max(0.0, wake_at - self._now()))
            if (late := self._now() - wake_at) > STALL_S:
                self._stalls.append(Stall(wake_at - carrier.started_at, late))

    def _next(self, now: float) -> float:
        times = [now + STEP_S]
        if self._ready_at is not None:
            times.append(self._packet_due())
        if (tick := self._carrier.next_tick_at()) is not None:
            times.append(tick)
        return min(times)

    def _begin_to_speak(self, now: float) -> None:
        carrier = self._carrier
        self._ready_at = now
        self._packet = carrier.audio_rate * carrier.packet_ms // 1000
        self._said = bytearray(2 * int((now - carrier.started_at) * carrier.audio_rate))

    def _packet_due(self) -> float:
        """When the packet that is being spoken will be complete."""
        assert self._ready_at is not None
        return self._ready_at + (self._spoken + self._packet) / self._carrier.audio_rate

    def _speak(self, now: float) -> None:
        """Send the packets of voice that are complete: on an absolute schedule, late ones as fast as possible."""
        if self._ready_at is None or self._carrier.ended_by is not None:
            return
        carrier_rate = self._carrier.audio_rate
        while (due := self._packet_due()) <= now:
            late = now - due
            self._late += late > LATE_S
            self._worst = max(self._worst, late)
            if self._live is not None:
                pcm = self._live.voice(self._packet, carrier_rate).ljust(2 * self._packet, b"\0")
            else:
                pcm = self._voice_at(self._spoken, self._packet)
            self._spoken += self._packet
            self._said += pcm
            self._send(self._carrier.audio(pcm, now))

    def _voice_at(self, start: int, samples: int) -> bytes:
        """What the caller says in `samples` samples from `start` on."""
        begin = start - self._voice_from
        if not self._voice or begin + samples <= 0 or 2 * begin >= len(self._voice):
            return bytes(2 * samples)
        lead = b""
        if begin < 0:
            lead, begin = bytes(-2 * begin), 0
        piece = lead + self._voice[2 * begin : 2 * (start - self._voice_from + samples)]
        return piece.ljust(2 * samples, b"\0")

    # ------------------------------------------------------------ the script

    def _follow_script(self, t: float) -> None:
        self._press_due(t)
        if t < self._done_at or self._ready_at is None or self._carrier.ended_by is not None or not self._steps:
            return
        step = self._steps[0]
        if self._due(step.when, t):
            self._steps.popleft()
            self._take(step, t)
        elif t - self._done_at > step.when.within_s:
            self._problems.append(f"the script waited {step.when.within_s:g} s in vain: {_waited_for(step.when)}")
            self._steps.clear()
            self._send(self._carrier.hang_up(self._carrier.started_at + t))

    def _press_due(self, t: float) -> None:
        while self._digits and self._digits[0][0] <= t:
            _, digit = self._digits.popleft()
            self._pressed += 1
            self._send(self._carrier.press(digit, self._carrier.started_at + t))

    def _due(self, when: When, t: float) -> bool:
        ear, done = self._ear, self._done_at
        if when.at_s is not None and t < when.at_s:
            return False
        if when.after_s is not None and t < done + when.after_s:
            return False
        if when.bot_quiet_s is not None:
            last = ear.last_sound
            if last is None or last <= self._reference or t < max(last, done) + when.bot_quiet_s:
                return False
        if when.bot_spoke_s is not None:
            if not ear.speaking(t) or ear.turn_began is None or ear.last_sound is None:
                return False
            if ear.last_sound - max(ear.turn_began, self._reference) < when.bot_spoke_s:
                return False
        return True

    def _take(self, step: Step, t: float) -> None:
        now = self._carrier.started_at + t
        talking = self._ear.speaking(t)
        done = t
        match step.do:
            case Say(voice):
                self._voice = voice.at(self._carrier.audio_rate)
                self._voice_from = round((now - (self._ready_at or now)) * self._carrier.audio_rate)
                duration = len(self._voice) / 2 / self._carrier.audio_rate
                self._notes.append(Event(t, "said", f"{voice.name or 'voice'}, {duration:.1f} s"))
                done = t + duration
                sound = hearing.first_sound(self._voice, self._carrier.audio_rate)
                if step.when.bot_spoke_s is not None and sound is not None:
                    self._cuts.append((t + sound, "voice"))
            case Press(digits, gap_s):
                self._digits.extend((t + index * gap_s, digit) for index, digit in enumerate(digits))
                done = t + gap_s * (len(digits) - 1)
                if step.when.bot_spoke_s is not None:
                    self._cuts.append((t, "digit"))
                self._press_due(t)  # the first key goes at once
            case Note(text):
                self._notes.append(Event(t, "note", text))
            case HangUp():
                self._send(self._carrier.hang_up(now))
            case Vanish():
                self._notes.append(Event(t, "vanished"))
                self._we_closed = True
                self._carrier.finish("caller", now, "the connection broke")
                self._ws.transport.abort()
        self._done_at = done
        self._reference = done + TAIL_S if talking else t

    def _enforce_limits(self, t: float) -> None:
        carrier, limits = self._carrier, self._limits
        if carrier.ended_by is None:
            if self._ready_at is None and t > limits.ready_s:
                self._problems.append(f"the call was not open after {limits.ready_s:g} s")
            elif t > limits.longest_s:
                self._problems.append(f"the call was still up after {limits.longest_s:g} s")
            else:
                return
            self._send(carrier.hang_up(carrier.started_at + t))
        elif not carrier.closes_socket and not self._we_closed and t > self._ended_at() + limits.closing_s:
            self._problems.append(f"the gateway did not answer the end of the call in {limits.closing_s:g} s")
            self._we_closed = True
            self._ws.transport.abort()

    def _ended_at(self) -> float:
        return next((event.t for event in reversed(self._carrier.events) if event.what == "ended"), 0.0)

    # ------------------------------------------------------------ the report

    def _refused(self, status: int) -> CallReport:
        problem = f"the handshake was refused with HTTP {status}"
        return CallReport(carrier=self._carrier.name, call_id=self._carrier.call_id, refused=status, problems=[problem])

    def _report(self) -> CallReport:
        carrier, playout = self._carrier, self._carrier.playout
        start, heard, rate = carrier.started_at, playout.heard, playout.rate
        violations = [str(violation) for violation in carrier.violations]
        problems = [*self._problems, *violations]
        if carrier.ended_by in (None, "error") and not problems:
            problems.append(f"the call broke: {carrier.end_reason or 'for no known reason'}")
        bot_turns = hearing.turns(heard, rate)
        timeline = [*carrier.events, *self._notes]
        timeline += [Event(begin, "bot speaks", f"{end - begin:.2f} s") for begin, end in bot_turns]
        gaps = [Gap(gap.at - start, gap.duration_s) for gap in playout.audible_gaps()]
        timeline += [Event(gap.at, "gap", f"{1000 * gap.duration_s:.0f} ms") for gap in gaps]
        timeline.sort(key=lambda event: event.t)
        return CallReport(
            carrier=carrier.name,
            call_id=carrier.call_id,
            ended_by=carrier.ended_by or "error",
            end_reason=carrier.end_reason,
            problems=problems,
            violations=violations,
            close_code=self._close_code,
            duration_s=self._ended_at() or len(heard) / 2 / rate,
            first_audio_s=hearing.first_sound(heard, rate),
            heard_s=playout.played_s,
            replies=playout.utterances,
            gaps=gaps,
            gap_total_s=sum(gap.duration_s for gap in playout.gaps),
            most_buffered_s=playout.most_buffered_s,
            barge_ins=[cut for at, by in self._cuts if (cut := self._barge_in(at, by, heard)) is not None],
            echoes=hearing.echoes(_resampled(bytes(self._said), carrier.audio_rate, rate), heard, rate),
            marks=sum(event.what == "mark" for event in carrier.events),
            digits=self._pressed,
            digits_received=carrier.digits_sent,
            output_variables=carrier.output_variables,
            facts=carrier.facts(),
            messages_in=carrier.messages_in,
            messages_out=carrier.messages_out,
            stalls=self._stalls,
            packets_late=self._late,
            worst_lateness_ms=1000 * self._worst,
            timeline=timeline,
            heard=heard,
            heard_rate=rate,
            said=bytes(self._said),
            said_rate=carrier.audio_rate,
        )

    def _barge_in(self, at: float, by: str, heard: bytes) -> BargeIn:
        """How long the reply that was being heard at `at` went on: to the clear, or to the first real pause."""
        carrier, rate = self._carrier, self._carrier.playout.rate
        going_on = [end for begin, end in hearing.turns(heard, rate, 0.5) if begin <= at < end + 0.5]
        until = max(at, going_on[0] + 2 * hearing.WINDOW_S) if going_on else at  # turns come in whole windows
        clear = next((c for c in carrier.playout.clears if c.at - carrier.started_at >= at), None)
        cleared = clear is not None and clear.silent_at - carrier.started_at <= until + 0.5
        if cleared and clear is not None:
            until = min(until, clear.silent_at - carrier.started_at)
        last = hearing.last_sound(heard, rate, at, until)
        return BargeIn(at, 1000 * max(0.0, (last or at) - at), by, cleared)


def _resampled(pcm: bytes, rate: int, wanted: int) -> bytes:
    if rate == wanted or not pcm:
        return pcm
    import numpy as np

    return bytes(soxr.resample(np.frombuffer(pcm, "<i2"), rate, wanted).astype("<i2").tobytes())


def _waited_for(when: When) -> str:
    if when.bot_spoke_s is not None:
        return f"the bot did not speak for {when.bot_spoke_s:g} s"
    if when.bot_quiet_s is not None:
        return f"the bot did not speak and then fall silent for {when.bot_quiet_s:g} s"
    return "the moment did not come"
