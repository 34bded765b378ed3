"""A whole gateway on a loopback port, in this process: what the end-to-end tests and the benchmarks call.

`serve` gives one; when it ends, nothing may be left: no task, no socket or file, no call. The caller's side is the
simulator's, over real sockets.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from bots.base import Build
from gateway.app import Gateway
from gateway.records import CallRecord
from gateway.registry import carrier_names, carrier_settings_class, design_filters
from gateway.server import Server, server
from gateway.settings import BotEntry, GatewaySettings, NumberEntry, Settings
from gateway.simulator.base import CallPlan, FakeCarrier, fake_carrier
from gateway.simulator.caller import Limits, place_call
from gateway.simulator.genesys import FakeGenesys
from gateway.simulator.report import CallReport
from gateway.simulator.script import Script
from gateway.tokens import TokenMint

T = TypeVar("T")

CARRIERS = carrier_names()
TELEPHONY = tuple(name for name in CARRIERS if name != "web")  # whose streams tell by themselves whose they are
QUICK = Limits(connect_s=20, ready_s=30, longest_s=120, closing_s=10)


def socket_only(name: str, **keys: Any) -> Any:
    """A carrier's settings without credentials: what is tried here is the media socket, which its token guards."""
    return carrier_settings_class(name)(**{"verify_signatures": False, **keys})


def run(main: Coroutine[Any, Any, T], *, limit_s: float = 300.0) -> T:
    """Run `main` on the loop that the product uses."""
    if sys.platform == "win32":
        factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    else:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(asyncio.wait_for(main, limit_s))


class Kept:
    """Takes the records of finished calls; counts them only, where they would be too many."""

    def __init__(self, *, counts_only: bool = False) -> None:
        self.records: list[CallRecord] = []
        self.counts: Counter[tuple[str, str, str]] = Counter()  # by state, who ended the call, reason
        self._counts_only = counts_only

    def put(self, record: CallRecord) -> None:
        self.counts[record.state, record.ended_by, record.reason] += 1
        if not self._counts_only:
            self.records.append(record)


class Served:
    """A gateway that listens, and callers for it."""

    def __init__(self, gateway: Gateway, running: Server, kept: Kept) -> None:
        self.gateway, self.server, self.kept = gateway, running, kept

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.server.port}"

    @property
    def records(self) -> list[CallRecord]:
        return self.kept.records

    def record(self, carrier: str) -> CallRecord:
        """The one record of the one call of `carrier`."""
        found = [record for record in self.records if record.info.carrier == carrier]
        assert len(found) == 1, f"{len(found)} records of {carrier}"
        return found[0]

    def token(self, carrier: FakeCarrier, bot: str = "bot") -> str:
        return token(self.gateway.mint, carrier, bot)

    async def call(
        self, carrier: FakeCarrier | str, script: Script, *, bot: str = "bot", limits: Limits = QUICK
    ) -> CallReport:
        """One call from beginning to end."""
        fake = fake_carrier(carrier)(CallPlan()) if isinstance(carrier, str) else carrier
        return await place_call(fake, self.url, script, token=self.token(fake, bot), limits=limits)

    async def all_carriers(
        self, script: Script, *, plan: CallPlan | None = None, bot: str = "bot", limits: Limits = QUICK
    ) -> dict[str, CallReport]:
        """The same call through each carrier, all at once."""
        fakes = [fake_carrier(name)(plan or CallPlan()) for name in CARRIERS]
        reports = await asyncio.gather(*(self.call(fake, script, bot=bot, limits=limits) for fake in fakes))
        return {report.carrier: report for report in reports}

    async def empty(self, limit_s: float = 60.0) -> None:
        """Wait until no call and no connection is left."""
        await until(lambda: not len(self.gateway.calls) and not self.server.server_state.connections, limit_s)


def token(mint: TokenMint, carrier: FakeCarrier, bot: str = "bot", ttl_s: float = 60.0) -> str:
    """A token that lets `carrier`'s call in, to `bot`. Genesys shows none: its URL names the bot."""
    if isinstance(carrier, FakeGenesys):
        carrier.connector = bot
    plan = carrier.plan
    return mint.mint(
        carrier.name,
        ttl_s=ttl_s,
        call_id=carrier.call_id,
        from_number=plan.from_number,
        to_number=plan.to_number,
        bot=bot,
        codec=plan.send_codec,
        sample_rate=plan.sample_rate,
    )


@asynccontextmanager
async def serve(
    bots: Mapping[str, Build],
    *,
    sample_rates: Mapping[str, int] | int | None = None,
    carriers: Mapping[str, Mapping[str, Any]] | None = None,
    numbers: Mapping[str, str] | None = None,
    kept: Kept | None = None,
    token_key: str = "",
    apology: str | None = None,
    **limits: Any,
) -> AsyncIterator[Served]:
    """A gateway that answers with `bots` (by name; a token names its bot), and that leaves nothing behind.

    Args:
        sample_rates: Hz of the bots' pipelines, by bot or of all; else the wire's.
        carriers: [carriers.<name>] keys, by name.
        numbers: the bot of each number.
        kept: takes the records.
        apology: what is said where a bot has failed; None: the usual words, which take four seconds.
        limits: keys of [gateway].
    """
    kept = kept if kept is not None else Kept()
    words = {} if apology is None else {"apology": apology}
    rates = sample_rates if isinstance(sample_rates, Mapping) else dict.fromkeys(bots, sample_rates)
    settings = Settings(
        gateway=GatewaySettings(**{"max_lateness_ms": 0.0, **limits}),  # a busy machine is no fault of the gateway's
        carriers={name: socket_only(name, **(carriers or {}).get(name, {})) for name in CARRIERS},
        bots={name: BotEntry(name=name, use="echo", sample_rate=rates.get(name), **words) for name in bots},  # type: ignore[arg-type]
        numbers={key: NumberEntry(key=key, bot=bot) for key, bot in (numbers or {}).items()},
    )
    design_filters(settings)
    before = Left.now()
    gateway = Gateway(settings, bots, sink=kept, token_key=token_key)
    running = server(gateway, host="127.0.0.1", port=0)
    task = asyncio.create_task(running.serve(), name="server")
    up = asyncio.create_task(running.up.wait())
    await asyncio.wait({task, up}, return_when=asyncio.FIRST_COMPLETED)
    up.cancel()
    assert running.started
    idle = Left.now()
    served = Served(gateway, running, kept)
    try:
        yield served
        await served.empty()
        await idle.again("the calls")
    finally:
        running.should_exit = True
        await asyncio.wait({task, up})
    await before.again("the gateway")


class Left:
    """What the process has open: tasks and file descriptors."""

    def __init__(self, tasks: set[asyncio.Task[Any]], descriptors: dict[str, str]) -> None:
        self.tasks, self.descriptors = tasks, descriptors

    @classmethod
    def now(cls) -> Left:
        return cls(set(asyncio.all_tasks()), open_descriptors())

    async def again(self, who: str, limit_s: float = 30.0) -> None:
        """Wait until nothing is there that was not there when this was taken; AssertionError if it does not go."""
        end = time.monotonic() + limit_s
        while True:
            now = Left.now()
            tasks = {task for task in now.tasks - self.tasks if task is not asyncio.current_task()}
            descriptors = [what for number, what in now.descriptors.items() if self.descriptors.get(number) != what]
            if not tasks and not descriptors:
                return
            assert time.monotonic() < end, f"{who} left {tasks or ''} {descriptors or ''}"
            await asyncio.sleep(0.02)
            gc.collect()


def open_descriptors() -> dict[str, str]:
    """What is behind each open file descriptor of this process; nothing where the system does not tell."""
    found = {}
    if os.path.isdir("/proc/self/fd"):
        for number in os.listdir("/proc/self/fd"):
            try:
                found[number] = os.readlink(f"/proc/self/fd/{number}")
            except OSError:
                continue  # the descriptor of the listing itself
    # The event loop itself keeps one descriptor in reserve as soon as it listens.
    return {number: what for number, what in found.items() if not what.startswith("/proc/") and what != os.devnull}


async def until(true: Callable[[], Any] | Callable[[], Awaitable[Any]], limit_s: float = 60.0) -> None:
    """Wait until `true()` is."""
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.01)
