"""A gateway in a process of its own, so that the caller's work is not measured with it."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import secrets
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from bots.base import Build
from gateway.simulator.base import CallPlan, FakeCarrier, fake_carrier
from gateway.simulator.caller import Limits, place_call
from gateway.simulator.report import CallReport
from gateway.simulator.script import Script
from gateway.tokens import TokenMint
from tests.endtoend.served import QUICK, Kept, Served, open_descriptors, run, serve, token

MakeBots = Callable[[], Mapping[str, Build]]


@dataclass(frozen=True, slots=True)
class Figures:
    """What that process has, after a collection of garbage."""

    rss: int  # bytes
    traced: int  # bytes that Python has allocated; 0 unless traced
    objects: int
    tasks: int
    descriptors: int
    calls: int
    counts: Mapping[tuple[str, str, str], int]  # of finished calls, as Kept counts them


class Apart:
    """The gateway, from outside. A context manager: the process runs within it, and must end well."""

    def __init__(
        self,
        make_bots: MakeBots,
        *,
        tell: Callable[[], Any] | None = None,
        trace: bool = False,
        quiet: bool = True,
        **options: Any,
    ) -> None:
        """Start nothing yet.

        Args:
            make_bots, tell: functions of a module, which the other process imports; it calls them.
            trace: count what Python allocates.
            options: those of `serve`.
        """
        self._key = secrets.token_hex(16)
        self.mint = TokenMint(self._key)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        options["token_key"] = self._key
        self._process = context.Process(
            target=_live, args=(theirs, make_bots, tell, trace, quiet, options), daemon=True
        )
        self._theirs = theirs
        self._port = 0

    def __enter__(self) -> Apart:
        self._process.start()
        self._theirs.close()
        self._port = self._ask("port", limit_s=60)
        return self

    def __exit__(self, *args: object) -> None:
        try:
            self._pipe.send(("stop", ()))
            self._process.join(20)
        finally:
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._pipe.close()
        if args[0] is None and self._process.exitcode:
            raise AssertionError(f"the gateway's process ended with {self._process.exitcode}")

    def _ask(self, what: str, *args: Any, limit_s: float = 20.0) -> Any:
        self._pipe.send((what, args))
        if not self._pipe.poll(limit_s):
            raise TimeoutError(f"the gateway's process does not answer: {what}")
        return self._pipe.recv()

    def figures(self) -> Figures:
        found: Figures = self._ask("figures")
        return found

    def told(self) -> Any:
        """What `tell` gives over there."""
        return self._ask("tell")

    def stall(self, seconds: float) -> None:
        """Hold its event loop up. Returns at once."""
        self._pipe.send(("stall", (seconds,)))

    async def empty(self, limit_s: float = 20.0) -> Figures:
        """Its figures as soon as no call is left."""
        end = time.monotonic() + limit_s
        while (found := await asyncio.to_thread(self.figures)).calls:
            assert time.monotonic() < end, f"{found.calls} calls are left"
            await asyncio.sleep(0.05)
        return found

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._port}"

    async def call(
        self,
        carrier: FakeCarrier | str,
        script: Script,
        *,
        bot: str = "bot",
        limits: Limits = QUICK,
        ttl_s: float = 60.0,
    ) -> CallReport:
        fake = fake_carrier(carrier)(CallPlan()) if isinstance(carrier, str) else carrier
        return await place_call(fake, self.url, script, token=token(self.mint, fake, bot, ttl_s), limits=limits)


# ---------------------------------------------------------------- in the other process


Tell = Callable[[], Any] | None


def _live(pipe: Connection, make_bots: MakeBots, tell: Tell, trace: bool, quiet: bool, options: dict[str, Any]) -> None:
    if quiet:
        from gateway import log

        log.configure("critical")
    if trace:
        tracemalloc.start()
    run(_serve(pipe, make_bots, tell, options), limit_s=3600)


async def _serve(pipe: Connection, make_bots: MakeBots, tell: Tell, options: dict[str, Any]) -> None:
    kept = Kept(counts_only=True)
    stop = asyncio.Event()
    folder = tempfile.TemporaryDirectory(prefix="gateway-")
    options.setdefault("store", f"sqlite:///{folder.name}/gateway.db")
    loop = asyncio.get_running_loop()

    def command() -> None:
        try:
            what, args = pipe.recv()
        except EOFError:  # whoever asked is gone
            stop.set()
            return
        if what == "port":
            pipe.send(served.server.port)
        elif what == "figures":
            pipe.send(_figures(served))
        elif what == "tell":
            pipe.send(tell() if tell is not None else None)
        elif what == "stall":
            time.sleep(*args)
        else:
            stop.set()

    async with serve(make_bots(), kept=kept, **options) as served:
        loop.add_reader(pipe.fileno(), command)
        await stop.wait()
        loop.remove_reader(pipe.fileno())
    folder.cleanup()


def _figures(served: Served) -> Figures:
    gc.collect()
    return Figures(
        rss=rss(),
        traced=tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0,
        objects=len(gc.get_objects()),
        tasks=len(asyncio.all_tasks()),
        descriptors=len(open_descriptors()),
        calls=max(len(served.gateway.calls), len(served.server.server_state.connections)),
        counts=dict(served.kept.counts),
    )


def rss() -> int:
    """Bytes of this process in memory; where the system does not tell, the most there ever were."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
