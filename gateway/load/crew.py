"""Starts generators, listens to them, and watches the server meanwhile. Blocking; for a command."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httpx

from gateway.load.calibration import calibrate
from gateway.load.plan import LoadPlan
from gateway.load.procfs import Usage, listener, usage
from gateway.load.tally import Tally
from media.errors import GatewayError

SETTLE_S = 1.0  # after the ramp, before the server's cost counts
SCRAPE_S = 5.0  # between two looks at /metrics
END_S = 40.0  # for generators to end after their time
_LAG, _CPU = "gateway_tick_lateness_seconds", "process_cpu_seconds_total"
_RSS = "process_resident_memory_bytes"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class GeneratorFailed(GatewayError):
    """A generator could not begin, or died."""


class NobodyThere(GatewayError):
    """There is no gateway to be called."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One second of the test, over all generators."""

    t: float
    live: int
    own_cpu_s: float  # of all generators, until then
    server: Usage | None


Tell = Callable[[Moment, Tally], None]  # each second, with all that was counted until then


@dataclass(slots=True)
class Run:
    """What came of one test."""

    plan: LoadPlan
    tally: Tally = field(default_factory=Tally)
    moments: list[Moment] = field(default_factory=list)
    before: Usage | None = None  # of the server, with no call
    loop_lag_ms: list[float] = field(default_factory=list)  # of the server, from /metrics
    calibration_ms: tuple[float, float] = (0.0, 0.0)  # before and after
    partial: bool = False  # somebody ended it early
    scraped: bool = False  # the server's cost is from /metrics

    def steady(self) -> list[Moment]:
        """With all calls up."""
        begin, end = self.plan.rise_s + SETTLE_S, self.plan.whole_s
        return [moment for moment in self.moments if begin <= moment.t <= end]


class Server:
    """The gateway under test, as far as it can be looked into: by /proc, else by its metrics."""

    def __init__(self, url: str, pid: int | None = None) -> None:
        self.url, there = url, urlsplit(url)
        port = there.port or (443 if there.scheme == "wss" else 80)
        local = there.hostname in LOOPBACK
        self.pid = pid if pid is not None else listener(port) if local else None
        self._metrics = f"{'https' if there.scheme == 'wss' else 'http'}://{there.netloc}/metrics"
        self.scraped = False

    def answers(self) -> None:
        """Raises NobodyThere."""
        try:
            httpx.get(self._metrics.removesuffix("metrics") + "health", timeout=10.0, trust_env=False)
        except httpx.HTTPError as exc:
            raise NobodyThere(f"{self.url}: {str(exc) or type(exc).__name__}; is the gateway running there?") from None

    def usage(self) -> Usage | None:
        if self.pid is not None:
            return usage(self.pid)
        found = self.metrics()
        if _CPU not in found:
            return None
        self.scraped = True
        return Usage(found[_CPU], int(found.get(_RSS, 0)))

    def metrics(self) -> dict[str, float]:
        """Its metrics, summed over their labels (lateness: the worst); nothing where it does not tell."""
        try:
            text = httpx.get(self._metrics, timeout=2.0, trust_env=False).raise_for_status().text
        except httpx.HTTPError:
            return {}
        found: dict[str, float] = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name, number = name.partition("{")[0], float(value)
                found[name] = max(found.get(name, 0.0), number) if name == _LAG else found.get(name, 0.0) + number
        return found

    def lag_ms(self) -> float | None:
        seconds = self.metrics().get(_LAG)
        return None if seconds is None else 1000 * seconds


def perform(
    plan: LoadPlan,
    server: Server,
    *,
    processes: int = 1,
    cores: Sequence[int] = (),
    tell: Tell = lambda moment, tally: None,
) -> Run:
    """One whole test. Ctrl-C ends it early, with what there is; a second one ends it at once: KeyboardInterrupt.

    Raises GeneratorFailed.
    """
    run = Run(plan, before=server.usage())
    first = calibrate()
    with _started(plan, processes, cores) as workers:
        try:
            _listen(run, workers, server, tell)
        except KeyboardInterrupt:
            run.partial = True
            for worker in workers:
                worker.stop()
            _listen(run, workers, server, tell)
    run.calibration_ms = (first, calibrate())
    run.scraped = server.scraped
    for worker in workers:
        run.tally.merge(worker.tally)
    if processes > 1:  # each one's most may have been at another time
        run.tally.most_live = max((moment.live for moment in run.moments), default=run.tally.most_live)
    return run


class _Worker:
    """One generator."""

    def __init__(self, plan: LoadPlan, cores: Sequence[int]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gateway.load.generator"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours; it ends by its input
        )
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, set(cores))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self.out = self._process.stdin, self._process.stdout
        os.set_blocking(self.out.fileno(), False)
        self._in.write(json.dumps(plan.packed()).encode() + b"\n")
        self._in.flush()
        self._rest = b""
        self.t, self.tally, self.over = 0.0, Tally(), False
        self.fresh = False

    def read(self) -> None:
        piece = os.read(self.out.fileno(), 1 << 20)
        if not piece:
            code = self._process.wait()
            if not self.over:
                self.over = True
                raise GeneratorFailed(f"a generator ended with {code}: what it says is above")
            return
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            told: dict[str, Any] = json.loads(line)
            self.t, self.tally, self.fresh = told["t"], Tally.unpacked(told["tally"]), True
            self.over = self.over or told["final"]

    def stop(self) -> None:
        """No more calls; those that are up end."""
        with contextlib.suppress(OSError):
            self._in.close()

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self.stop()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.out.close()


@contextlib.contextmanager
def _started(plan: LoadPlan, processes: int, cores: Sequence[int]) -> Iterator[list[_Worker]]:
    workers: list[_Worker] = []
    try:
        for share in range(processes):
            workers.append(_Worker(replace(plan, share=share, shares=processes), cores))
        yield workers
    except (KeyboardInterrupt, SystemExit):
        for worker in workers:
            worker.kill()  # it would bring its calls to their end first
        raise
    finally:
        for worker in workers:
            worker.end()


def _listen(run: Run, workers: Sequence[_Worker], server: Server, tell: Tell) -> None:
    """Until all generators are done."""
    limit, scrape = time.monotonic() + run.plan.whole_s + END_S, time.monotonic() + SCRAPE_S
    while running := [worker for worker in workers if not worker.over]:
        ready, _, _ = select.select([worker.out for worker in running], [], [], 0.5)
        for worker in running:
            if worker.out in ready:
                worker.read()
        now = time.monotonic()
        if now > limit:
            raise GeneratorFailed("the generators did not end in time")
        if now > scrape:
            scrape = now + SCRAPE_S
            if (lag := server.lag_ms()) is not None and run.moments and run.moments[-1].t > run.plan.rise_s:
                run.loop_lag_ms.append(lag)
        if all(worker.fresh for worker in workers):
            whole = Tally()
            for worker in workers:
                worker.fresh = worker.over
                whole.merge(worker.tally)
            moment = Moment(max(worker.t for worker in workers), whole.live, whole.cpu_s, server.usage())
            run.moments.append(moment)
            tell(moment, whole)
