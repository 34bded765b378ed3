"""The generator: a process that places calls and carries them. `python -m gateway.load.generator`, by the crew.

Standard input has the plan as one line of JSON; when it ends, so do the calls. Standard output gets a line of JSON each
second ({"t": seconds since the first arrival, "tally": {...}}) and at the end one with "final": true.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl as tls
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from gateway.load.doorway import Doorway, Turned, settings_of
from gateway.load.line import CLOSING_S, CONNECT_S, Line, Over
from gateway.load.plan import Arrival, LoadPlan, arrivals
from gateway.load.sockets import Sockets, available
from gateway.load.tally import Tally
from gateway.load.wire import Wire
from media.errors import ConfigError, ConfigErrors

VISIT_S = 0.020  # between two visits to a line
PHASES = 10  # lines are spread over these, so that they do not speak all at once
LOOP_ROUNDS = 25  # in one of so many the event loop has its turn, if nothing waits for it
TELL_S = 1.0


class Generator:
    """All lines of one process, and the one loop that writes for all of them."""

    def __init__(self, plan: LoadPlan, doorway: Doorway, tell: Callable[[float, Tally], None]) -> None:
        self._plan, self._doorway, self._tell = plan, doorway, tell
        self.tally = Tally()
        self._phases: list[set[Line]] = [set() for _ in range(PHASES)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.now = time.monotonic
        there = urlsplit(plan.url)
        self._ssl = tls.create_default_context() if there.scheme == "wss" else None
        self._host = there.hostname or "127.0.0.1"
        self._port = there.port or (443 if self._ssl else 80)
        self._sockets = Sockets() if self._ssl is None and available() else None
        self._addresses: list[tuple[Any, ...]] = []

    def stop(self) -> None:
        """No more arrivals; live calls end."""
        self._stopping = True

    async def run(self) -> Tally:
        """The whole test."""
        plan, coming = self._plan, arrivals(self._plan)
        following = next(coming, None)
        step = VISIT_S / PHASES
        began = due = self.now()
        ends, tells, phase = began + plan.whole_s, began + TELL_S, 0
        rounds = 0
        cpu = time.process_time()
        ended: float | None = None
        while True:
            due += step
            rounds += 1
            delay = max(0.0, due - self.now())
            if self._sockets is None or self._tasks or not rounds % LOOP_ROUNDS:
                await asyncio.sleep(delay)
            else:
                time.sleep(delay)  # noqa: ASYNC251 - the loop has nothing to do, and is twice as dear
            now = self.now()
            late = now - due
            self.tally.own_lateness.add(late)
            if self._sockets is not None:
                self._sockets.round()
            while following is not None and began + following.at <= now and not self._stopping:
                self._place(following)
                following = next(coming, None)
            for line in tuple(self._phases[phase]):
                line.visit(now, due)
            phase = (phase + 1) % PHASES
            if now >= tells:
                tells = max(tells + TELL_S, now)
                self.tally.cpu_s = time.process_time() - cpu
                self._tell(now - began, self.tally)
            if ended is None and (now >= ends or self._stopping):
                ended = now
                for line in self._lines():
                    line.stop(now)
            if ended is not None and (self._nobody() or now > ended + CLOSING_S):
                break
        for line in list(self._lines()):
            line.abandon()
        self.tally.cpu_s = time.process_time() - cpu
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)
        if self._sockets is not None:
            self._sockets.close()
        return self.tally

    def _lines(self) -> Iterable[Line]:
        return [line for phase in self._phases for line in phase]

    def _nobody(self) -> bool:
        return not any(self._phases) and not self._tasks

    # ------------------------------------------------------------ one call

    def _place(self, arrival: Arrival) -> None:
        self.tally.placed += 1
        self.tally.carriers[arrival.carrier] += 1
        self.tally.scenarios[arrival.scenario.name] += 1
        self._later(self._call(arrival))

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, arrival: Arrival) -> None:
        strict = arrival.number % self._plan.strict_every == 0
        try:
            entry = await self._doorway.enter(arrival, strict, self.tally)
        except Turned as exc:
            self._turned(arrival, exc)
            return
        self.tally.strict += strict
        line = Line(arrival, entry.carrier, self.tally, self, self.now())
        wire = line.wire = Wire(entry.url, entry.headers, line)
        line.entry = entry
        min(self._phases, key=len).add(line)
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._connect(wire)
        except OSError as exc:
            line.unreachable(type(exc).__name__)

    async def _connect(self, wire: Wire) -> None:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        if self._sockets is None:
            await loop.create_connection(lambda: cast(asyncio.Protocol, wire), self._host, self._port, ssl=self._ssl)
            return
        if not self._addresses:
            self._addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        failed: OSError | None = None
        for family, kind, protocol, _, address in self._addresses:
            connecting = socket.socket(family, kind, protocol)
            connecting.setblocking(False)
            try:
                await loop.sock_connect(connecting, address)
            except OSError as exc:
                connecting.close()
                failed = exc
            except BaseException:
                connecting.close()
                raise
            else:
                wire.connected(self._sockets.add(connecting, wire))
                return
        raise failed or OSError("no address")

    def _turned(self, arrival: Arrival, exc: Turned) -> None:
        if arrival.scenario.end == "refused" and exc.refused:
            self.tally.done += 1
        elif exc.refused:
            self.tally.refused[exc.reason] += 1
        else:
            self.tally.failed[exc.reason] += 1

    def over(self, line: Line, how: Over, reason: str) -> None:
        self._forget(line)
        if how is Over.DONE:
            self.tally.done += 1
        elif how is Over.REFUSED:
            self.tally.refused[reason] += 1
        else:
            self.tally.failed[reason] += 1
        if line.entry is not None and line.entry.call is not None:
            self._later(self._doorway.leave(line.entry, how is Over.REFUSED, self.tally))

    def _forget(self, line: Line) -> None:
        for phase in self._phases:
            phase.discard(line)


def write_whole(pipe: int, data: bytes) -> None:
    """Also what is longer than the pipe holds: a write in which a signal came, or a stop, has written a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(pipe, rest) :]


async def _main(plan: LoadPlan) -> None:
    settings = settings_of(Path(plan.config))

    def tell(t: float, tally: Tally, *, final: bool = False) -> None:
        line = {"t": round(t, 3), "final": final, "tally": tally.packed()}
        with contextlib.suppress(BrokenPipeError):  # who started us is gone: so is our input, which ends the calls
            write_whole(1, json.dumps(line).encode() + b"\n")

    doorway = Doorway(plan, settings)
    generator = Generator(plan, doorway, tell)

    def told_to_stop() -> None:
        if not os.read(0, 4096):
            asyncio.get_running_loop().remove_reader(0)
            generator.stop()

    asyncio.get_running_loop().add_reader(0, told_to_stop)
    began = time.monotonic()
    try:
        tally = await generator.run()
    finally:
        asyncio.get_running_loop().remove_reader(0)
        doorway.close()
    tell(time.monotonic() - began, tally, final=True)


def main() -> int:
    import gc
    import signal

    from gateway.server import run

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started us, and ends our input
    first = b""
    while not first.endswith(b"\n"):
        piece = os.read(0, 65_536)
        if not piece:
            return 2
        first += piece
    gc.freeze()
    try:
        run(_main(LoadPlan.unpacked(json.loads(first))))
    except (ConfigError, ConfigErrors) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
