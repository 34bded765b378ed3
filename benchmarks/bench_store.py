"""What the store costs: per operation, per webhook under load, for the event loop, and with several processes.

python benchmarks/bench_store.py                     all of it on SQLite in a temporary folder
python benchmarks/bench_store.py --records 1000000   with so many old calls in the database
python benchmarks/bench_store.py --power-loss        each commit synced to the disk
python benchmarks/bench_store.py --url postgresql+psycopg://user@/test     (an empty database)
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sqlalchemy import Connection

from gateway.records import CallRecord
from gateway.sql.tables import calls
from gateway.store import CallFilter, CallKey, Caps, HangUp, Worker
from gateway.store_sql import SqlStore
from media.call import CallInfo
from webhooks.base import CallPhase, CallRef, CallStatus, InboundCall

CAPS = Caps(gateway=1_000_000, carrier=1_000_000, number=1_000_000)
LIVE = 200  # calls that are up meanwhile
_ids = itertools.count()


def call() -> InboundCall:
    n = next(_ids)
    return InboundCall(
        carrier="twilio",
        call_id=f"CA{n:032x}",
        from_number=f"+1555{n:07d}",
        to_number=f"+1555010{n % 10}",
        account_id="AC00000000000000000000000000000000",
    )


def key_of(of: InboundCall) -> CallKey:
    return CallKey(of.carrier, of.call_id)


def info_of(of: InboundCall) -> CallInfo:
    return CallInfo(carrier=of.carrier, call_id=of.call_id, from_number=of.from_number, to_number=of.to_number)


def record_of(of: InboundCall) -> CallRecord:
    counters = dict.fromkeys(("underruns", "digits", "interruptions", "late_dropped", "gaps"), 1)
    return CallRecord(info_of(of), "echo", "closed", "caller", "caller", 60.0, counters, {"intent": "sales"})


def spread(times: list[float]) -> str:
    cuts = statistics.quantiles(times, n=100)
    points = {"median": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(times)}
    return "   ".join(f"{name} {value * 1e3:6.2f}" for name, value in points.items()) + " ms"


async def timed(work: Awaitable[Any]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


class LoopWatch:
    """How late the event loop was, looked at every 2 ms."""

    async def __aenter__(self) -> LoopWatch:
        self.late: list[float] = []
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            due = time.perf_counter() + 0.002
            await asyncio.sleep(0.002)
            self.late.append(time.perf_counter() - due)

    def __str__(self) -> str:
        cuts = statistics.quantiles(self.late, n=100) if len(self.late) > 2 else [0.0] * 99
        return f"loop late p99 {cuts[98] * 1e3:.2f} ms, max {max(self.late, default=0) * 1e3:.2f}"


async def alone(store: SqlStore) -> None:
    """One operation after the other, nobody else there."""
    some = [call() for _ in range(300)]
    now = time.time()
    worker = Worker("w")
    operations: dict[str, Callable[[InboundCall], Awaitable[Any]]] = {
        "admit": lambda c: store.admit(c, CAPS, now),
        "connected": lambda c: store.connected(key_of(c), "w", now),
        "started": lambda c: store.started(key_of(c), info_of(c), "echo", now),
        "fold": lambda c: store.fold(
            CallStatus(carrier=c.carrier, call_id=c.call_id, phase=CallPhase.ANSWERED, key="1"), now
        ),
        "owner": lambda c: store.owner(key_of(c), now),
        "once": lambda c: store.once(f"token/{c.call_id}", now, ttl_s=60, holder=c.call_id, repeat_s=10),
        "hang_up_due": lambda c: store.hang_up_due(ref_of(c), "bot", now, claim=True),
        "hang_up_result": lambda c: store.hang_up_result(key_of(c), HangUp.DONE, now),
        "ended": lambda c: store.ended(key_of(c), record_of(c), now, worker="w"),
        "enqueue": lambda c: store.enqueue(b'{"event":"call.ended"}', now, call=key_of(c)),
        "renew": lambda c: store.renew(worker, now),
        "orphans": lambda c: store.orphans("w", now),
        "hang_ups": lambda c: store.hang_ups(now),
        "events": lambda c: store.events(now, limit=1),
        "records": lambda c: store.records(CallFilter(number=c.to_number), limit=50),
    }
    print("one at a time, each committed:")
    for name, operation in operations.items():
        print(f"  {name:15} {spread([await timed(operation(c)) for c in some])}")


def ref_of(of: InboundCall) -> CallRef:
    return CallRef(carrier=of.carrier, call_id=of.call_id, account_id=of.account_id)


async def concurrent(store: SqlStore, clients: int, seconds: float = 3.0) -> None:
    """So many callers, each calling again as soon as its call has ended; only the admission is timed."""
    times: list[float] = []
    until = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < until:
            new = call()
            times.append(await timed(store.admit(new, CAPS, time.time())))
            await store.ended(key_of(new), record_of(new), time.time())

    busy, began, cpu = store.writer.busy_s, time.perf_counter(), time.process_time()
    async with LoopWatch() as watch:
        await asyncio.gather(*(client() for _ in range(clients)))
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu
    each = 1e3 / len(times)
    print(f"{clients} at once, admitted and ended, again and again: {spread(times)}")
    print(
        f"  for each call {elapsed * each:.3f} ms elapsed, {cpu * each:.3f} ms CPU,"
        f" {(store.writer.busy_s - busy) * each:.3f} ms in transactions; {watch}"
    )


async def arriving(store: SqlStore, rate: float, seconds: float = 4.0) -> None:
    """Webhooks at a steady rate, whatever the answers take, beside live calls."""
    began, cpu, now = time.perf_counter(), time.process_time(), time.time()
    tasks: list[asyncio.Task[float]] = []
    async with LoopWatch() as watch:
        for n in range(int(rate * seconds)):
            await asyncio.sleep(began + n / rate - time.perf_counter())
            # Reserved in the past, so that the slot is free again when the next one asks.
            tasks.append(asyncio.create_task(timed(store.admit(call(), CAPS, now + n, ttl_s=0.5))))
        times = await asyncio.gather(*tasks)
    share = (time.process_time() - cpu) / (time.perf_counter() - began)
    await store.orphans("w", now + rate * seconds, limit=1)
    print(f"{rate:.0f} webhooks a second: {spread(list(times))}; {share:.0%} of a core; {watch}")


async def lives(store: SqlStore, rate: float, seconds: float = 4.0) -> None:
    """So many calls a second that begin and end, with all that is written of each."""
    began, cpu, busy = time.perf_counter(), time.process_time(), store.writer.busy_s

    async def life() -> float:
        new, now = call(), time.time()
        key = key_of(new)
        said = [
            CallStatus(carrier=key.carrier, call_id=key.call_id, phase=phase, key=phase.value)
            for phase in (CallPhase.RINGING, CallPhase.ANSWERED, CallPhase.COMPLETED)
        ]
        taken = await timed(store.admit(new, CAPS, now))
        store.enqueue(b'{"event":"call.started"}', now, call=key)
        await store.fold(said[0], now)
        await store.once(f"token/{key}", now, ttl_s=60, holder=str(key), repeat_s=10)
        await store.connected(key, "w", now)
        store.started(key, info_of(new), "echo", now)
        await store.fold(said[1], now)
        await store.hang_up_due(ref_of(new), "bot", now, claim=True)
        await store.hang_up_result(key, HangUp.DONE, now)
        await store.fold(said[2], now)
        store.ended(key, record_of(new), now, worker="w")
        await store.enqueue(b'{"event":"call.ended"}', now, call=key)
        for event in await store.events(now):
            await store.delivered(event.id)
        return taken

    async with LoopWatch() as watch:
        tasks = []
        for n in range(int(rate * seconds)):
            await asyncio.sleep(began + n / rate - time.perf_counter())
            tasks.append(asyncio.create_task(life()))
        times = await asyncio.gather(*tasks)
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(f"{rate:.0f} whole calls a second, of which the admission: {spread(list(times))}")
    print(
        f"  {cpu / len(times) * 1e3:.2f} ms CPU a call, {cpu / elapsed:.0%} of a core,"
        f" {(store.writer.busy_s - busy) / elapsed:.0%} of the time in transactions; {watch}"
    )


async def burst(store: SqlStore, count: int, cap: int) -> None:
    """So many webhooks in one moment."""
    now = time.time()
    some = [call() for _ in range(count)]
    async with LoopWatch() as watch:
        began = time.perf_counter()
        times = await asyncio.gather(
            *(timed(store.admit(c, Caps(number=cap), now, number=f"burst{some[0].call_id}")) for c in some)
        )
        elapsed = time.perf_counter() - began
    for c in some:
        store.release(key_of(c))
    print(f"{count} in one moment against {cap}: {spread(list(times))}; {elapsed / count * 1e3:.3f} ms each; {watch}")


def worker(url: str, power_loss: bool, seconds: float, results: Any) -> None:
    async def main() -> list[float]:
        store = SqlStore(url, power_loss=power_loss)
        await store.open()
        times: list[float] = []
        until = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < until:
                new = call()
                times.append(await timed(store.admit(new, CAPS, time.time())))
                await store.release(key_of(new))
                await asyncio.sleep(0.02)

        await asyncio.gather(*(client() for _ in range(10)))
        await store.close()
        return times

    global _ids
    _ids = itertools.count((multiprocessing.current_process().pid or 0) << 32)
    results.put(asyncio.run(main()))


def several(url: str, power_loss: bool, processes: int, seconds: float = 3.0) -> None:
    """So many processes on one database, ten callers each that wait 20 ms in between."""
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    workers = [spawn.Process(target=worker, args=(url, power_loss, seconds, results)) for _ in range(processes)]
    for process in workers:
        process.start()
    times = [taken for _ in workers for taken in results.get(timeout=60)]
    for process in workers:
        process.join(10)
    print(f"{processes} processes, together {len(times) / seconds:.0f} admissions a second: {spread(times)}")


def fill(db: Connection, count: int) -> None:
    """Calls of the past."""
    for start in range(0, count, 10_000):
        rows = []
        for n in range(start, min(start + 10_000, count)):
            created = 1_600_000_000.0 + n
            rows.append(
                {
                    "key": f"twilio/PAST{n}",
                    "carrier": "twilio",
                    "standing": "ended",
                    "created": created,
                    "ended": created + 60,
                    "from_number": f"+1555{n % 50_000:07d}",
                    "to_number": f"+1555010{n % 10}",
                    "bot": "echo",
                    "counters": '{"underruns":1,"digits":3}',
                }
            )
        db.execute(calls.insert(), rows)


async def measure(url: str, power_loss: bool, records: int) -> None:
    store = SqlStore(url, power_loss=power_loss, wait_s=60 + records / 5000)
    await store.open()
    await store.writer.ask(fill, records)
    now = time.time()
    await store.renew(Worker("w"), now, lease_s=3600)
    for _ in range(LIVE):
        up = call()
        store.admit(up, CAPS, now)
        await store.connected(key_of(up), "w", now)
    print(f"{records} old records, {LIVE} live calls, {store.writer._engine.dialect.name}, {power_loss=}")
    await alone(store)
    for clients in (1, 20, 200):
        await concurrent(store, clients)
    for rate in (50, 200, 1000):
        await arriving(store, rate)
    for rate in (10, 50):
        await lives(store, rate)
    await burst(store, 200, 50)
    await burst(store, 1000, 50)
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--power-loss", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = args.url or f"sqlite:///{folder}/store.db"
        asyncio.run(measure(url, args.power_loss, args.records))
        for processes in (1, 2, 4):
            several(url, args.power_loss, processes)


if __name__ == "__main__":
    main()
