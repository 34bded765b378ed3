"""What every store must do, against each implementation; and what several processes do to one of them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import multiprocessing
import sqlite3
import stat
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from gateway.records import CallRecord
from gateway.sql.tables import to_json
from gateway.sql.writer import named
from gateway.store import (
    CLAIM_S,
    LEASE_S,
    REPEAT_S,
    RESERVED_S,
    Admitted,
    CallFilter,
    CallKey,
    Caps,
    HangUp,
    Page,
    Refused,
    Standing,
    Store,
    StoreBusy,
    StoredCall,
    StoreError,
    StoreTimeout,
    Worker,
)
from gateway.store_sql import SqlStore
from media.call import CallInfo
from tests.gateway import postgres
from webhooks.base import AnsweredBy, CallPhase, CallRef, CallStatus, InboundCall, StreamStatus

NOW = 1_700_000_000.0
NO_CAPS = Caps()
A, B = Worker("a", "/run/a.sock"), Worker("b", "/run/b.sock")
KINDS = ("memory", "sqlite", "postgresql")
spawn = multiprocessing.get_context("spawn")

Scenario = Callable[[SqlStore], Awaitable[None]]


def inbound(n: int | str = 1, *, carrier: str = "twilio", to: str = "+15550100", **more: Any) -> InboundCall:
    return InboundCall(carrier=carrier, call_id=f"CA{n}", from_number="+15550199", to_number=to, **more)


def key_of(call: InboundCall) -> CallKey:
    return CallKey(call.carrier, call.call_id)


def record_of(call: InboundCall, *, reason: str = "completed", ended_by: str = "bot", **more: Any) -> CallRecord:
    info = CallInfo(carrier=call.carrier, call_id=call.call_id, from_number=call.from_number, to_number=call.to_number)
    values: dict[str, Any] = {"bot": "echo", "state": "closed", "duration_s": 12.5} | more
    return CallRecord(info=info, ended_by=ended_by, reason=reason, **values)


def status(call: InboundCall, phase: CallPhase, key: str = "", **more: Any) -> CallStatus:
    return CallStatus(carrier=call.carrier, call_id=call.call_id, phase=phase, key=key or phase.value, **more)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    pytest.importorskip("psycopg")
    try:
        with postgres.server() as url:
            yield url
    except FileNotFoundError as exc:
        pytest.skip(str(exc))


_numbers = itertools.count()


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "memory":
        return "sqlite://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return new_database(request.getfixturevalue("postgres_server"))


@pytest.fixture(params=("sqlite", "postgresql"))
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database that several processes can use."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return new_database(request.getfixturevalue("postgres_server"))


def new_database(server: str) -> str:
    name = f"test{next(_numbers)}"
    engine = create_engine(server.format("postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as db:
        db.execute(text(f"CREATE DATABASE {name}"))
    return server.format(name)


def run(url: str, scenario: Scenario, **options: Any) -> None:
    async def main() -> None:
        store = SqlStore(url, **options)
        await store.open()
        try:
            async with asyncio.timeout(60):
                await scenario(store)
        finally:
            await store.close()

    asyncio.run(main())


def stored(scenario: Scenario) -> Callable[[str], None]:
    """A test that is a scenario with an empty, open store."""

    @functools.wraps(scenario)
    def test(url: str) -> None:
        run(url, scenario)

    del test.__wrapped__  # pytest asks for what `test` takes
    return test


async def read(store: Store, call: InboundCall) -> StoredCall:
    found = await store.call(key_of(call))
    assert found is not None
    return found


async def admitted(store: Store, call: InboundCall, caps: Caps = NO_CAPS, now: float = NOW) -> bool:
    return isinstance(await store.admit(call, caps, now), Admitted)


async def live(store: Store, call: InboundCall, worker: Worker = A, now: float = NOW) -> None:
    """A call of `worker`, whose lease is renewed by this."""
    await store.renew(worker, now)
    assert await admitted(store, call, now=now)
    assert await store.connected(key_of(call), worker.id, now)
    info = CallInfo(carrier=call.carrier, call_id=call.call_id, from_number=call.from_number, to_number=call.to_number)
    await store.started(key_of(call), info, "echo", now)


# ---------------------------------------------------------------- the interface


def test_it_is_a_store() -> None:
    def takes(store: Store) -> None: ...

    takes(SqlStore())
    for name in vars(Store):
        if not name.startswith("_"):
            assert callable(getattr(SqlStore, name))


# ---------------------------------------------------------------- admission


@stored
async def test_a_call_is_written_down_as_it_is_admitted(store: SqlStore) -> None:
    call = inbound(account_id="AC1", parameters={"plan": "gold"}, extra={"region": "ie1"})
    assert await store.admit(call, NO_CAPS, NOW, bot="menu") == Admitted(NOW + RESERVED_S)
    assert await read(store, call) == StoredCall(
        key=CallKey("twilio", "CA1"),
        standing=Standing.EXPECTED,
        created=NOW,
        account_id="AC1",
        from_number="+15550199",
        to_number="+15550100",
        bot="menu",
        parameters={"plan": "gold"},
        extra={"region": "ie1"},
    )
    assert (await read(store, call)).ref == CallRef(
        carrier="twilio", call_id="CA1", account_id="AC1", extra={"region": "ie1"}
    )


@stored
async def test_a_repeated_webhook_gets_the_same_slot(store: SqlStore) -> None:
    caps = Caps(gateway=1)
    assert await store.admit(inbound(), caps, NOW) == Admitted(NOW + RESERVED_S)
    assert await store.admit(inbound(), caps, NOW + 3) == Admitted(NOW + RESERVED_S, repeated=True)
    assert (await store.usage(NOW + 3)).reserved == 1
    assert (await read(store, inbound())).created == NOW


@stored
async def test_repeated_at_the_same_moment(store: SqlStore) -> None:
    answers = await asyncio.gather(*(store.admit(inbound(n % 7), Caps(gateway=5), NOW) for n in range(70)))
    assert sum(answer == Admitted(NOW + RESERVED_S) for answer in answers) == 5
    assert sum(answer == Admitted(NOW + RESERVED_S, repeated=True) for answer in answers) == 45
    assert answers.count(Refused("full")) == 20
    assert (await store.usage(NOW)).reserved == 5


@pytest.mark.parametrize(
    ("caps", "reason"),
    [(Caps(gateway=2), "full"), (Caps(carrier=2), "carrier-full"), (Caps(number=2), "number-full")],
)
def test_caps(url: str, caps: Caps, reason: str) -> None:
    async def scenario(store: SqlStore) -> None:
        assert await admitted(store, inbound(1), caps)
        assert await admitted(store, inbound(2), caps)
        assert await store.admit(inbound(3), caps, NOW) == Refused(reason)
        refused = await read(store, inbound(3))
        assert (refused.standing, refused.reason, refused.ended) == (Standing.REFUSED, reason, NOW)
        elsewhere = inbound(4, to="+15550101", carrier="plivo" if caps.number is None else "twilio")
        assert await admitted(store, elsewhere, caps) == (caps.gateway is None)
        await store.release(key_of(inbound(1)))
        assert await admitted(store, inbound(3), caps)
        assert (await read(store, inbound(3))).standing is Standing.EXPECTED
        assert (await read(store, inbound(3))).ended is None

    run(url, scenario)


@stored
async def test_the_number_is_counted_as_the_gateway_spells_it(store: SqlStore) -> None:
    caps = Caps(number=1)
    assert isinstance(await store.admit(inbound(1, to="15550100"), caps, NOW, number="+15550100"), Admitted)
    assert await store.admit(inbound(2, to="+15550100"), caps, NOW) == Refused("number-full")
    outbound = InboundCall(
        carrier="twilio", call_id="~order-1", from_number="+15550100", to_number="+44", direction="outbound"
    )
    assert await store.admit(outbound, caps, NOW) == Refused("number-full")


@stored
async def test_a_thousand_webhooks_at_once_against_fifty(store: SqlStore) -> None:
    for turn in range(3):
        calls = [inbound(f"{turn}.{n}") for n in range(1000)]
        answers = await asyncio.gather(*(store.admit(call, Caps(gateway=50), NOW) for call in calls))
        assert Counter(type(answer) for answer in answers) == {Admitted: 50, Refused: 950}
        assert (await store.usage(NOW)).reserved == 50
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, Admitted):
                await store.release(key_of(call))


@stored
async def test_a_slot_expires_if_the_socket_never_comes(store: SqlStore) -> None:
    caps = Caps(gateway=1)
    assert await admitted(store, inbound(1), caps)
    assert not await admitted(store, inbound(2), caps, NOW + RESERVED_S - 0.1)
    assert await admitted(store, inbound(3), caps, NOW + RESERVED_S)
    assert await store.connected(key_of(inbound(1)), "a", NOW + RESERVED_S) is None
    assert await store.admit(inbound(1), caps, NOW + RESERVED_S) == Refused("full")


@stored
async def test_a_live_slot_stays(store: SqlStore) -> None:
    caps = Caps(gateway=1)
    await live(store, inbound(1))
    later = NOW + 3600
    assert not await admitted(store, inbound(2), caps, later)
    usage = await store.usage(later)
    assert (usage.live, usage.reserved) == (1, 0)
    assert usage.by_carrier == {"twilio": 1}
    assert usage.by_number == {"+15550100": 1}
    assert await store.ended(key_of(inbound(1)), record_of(inbound(1)), later)
    assert await admitted(store, inbound(2), caps, later)


@stored
async def test_what_comes_with_the_socket(store: SqlStore) -> None:
    call = inbound(parameters={"plan": "gold"})
    await store.admit(call, NO_CAPS, NOW, bot="menu")
    connected = await store.connected(key_of(call), "a", NOW + 1)
    assert connected is not None
    assert (connected.displaced, connected.call.bot, connected.call.parameters) == ("", "menu", {"plan": "gold"})
    assert connected.call == await read(store, call)


@stored
async def test_the_newest_socket_wins(store: SqlStore) -> None:
    call = inbound()
    await live(store, call, A)
    await store.renew(B, NOW)
    connected = await store.connected(key_of(call), "b", NOW + 2)
    assert connected is not None
    assert connected.displaced == "a"
    assert await store.owner(key_of(call), NOW + 2) == B
    # What the older one says afterwards is not the end of the call.
    await store.release(key_of(call), worker="a")
    assert not await store.ended(key_of(call), record_of(call, reason="displaced"), NOW + 3, worker="a")
    assert (await read(store, call)).standing is Standing.LIVE
    assert await store.ended(key_of(call), record_of(call), NOW + 4, worker="b")
    assert (await read(store, call)).reason == "completed"
    assert (await store.usage(NOW + 4)).live == 0


@stored
async def test_a_call_that_is_over_is_not_admitted_again(store: SqlStore) -> None:
    call = inbound()
    await live(store, call)
    await store.ended(key_of(call), record_of(call), NOW + 5)
    assert await store.admit(call, NO_CAPS, NOW + 6) == Refused("over")
    await store.fold(status(inbound(2), CallPhase.CANCELED), NOW)
    assert await store.admit(inbound(2), NO_CAPS, NOW) == Refused("over")


@stored
async def test_a_test_of_the_connection_leaves_nothing_behind(store: SqlStore) -> None:
    await live(store, inbound(1))
    await live(store, inbound(2))
    await store.forget(key_of(inbound(1)))
    await store.forget(key_of(inbound(1)))
    assert await store.call(key_of(inbound(1))) is None
    assert (await store.usage(NOW)).live == 1
    assert [call.key for call in (await store.records(CallFilter())).calls] == [key_of(inbound(2))]


@stored
async def test_turned_away_for_another_reason(store: SqlStore) -> None:
    await store.refused(inbound(1), "no-bot", NOW)
    found = await read(store, inbound(1))
    assert (found.standing, found.reason, found.ended) == (Standing.REFUSED, "no-bot", NOW)
    assert await admitted(store, inbound(2))
    await store.refused(inbound(2), "draining", NOW + 1)  # it already has its slot
    assert (await read(store, inbound(2))).standing is Standing.EXPECTED


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["admit", "connect", "end", "release", "wait", "sweep"]), st.integers(0, 7)),
        max_size=40,
    )
)
def test_slots_against_a_model(steps: list[tuple[str, int]]) -> None:
    caps = Caps(gateway=4, carrier=3, number=2)

    async def scenario(store: SqlStore) -> None:
        now, slots, over = NOW, dict[int, float](), set[int]()
        await store.renew(A, now, lease_s=1e9)
        for what, n in steps:
            call = inbound(n, carrier=("twilio", "plivo")[n % 2], to=f"+1555010{n % 3}")
            taken = {m for m, until in slots.items() if until > now}
            if what == "admit":
                answer = await store.admit(call, caps, now)
                if n in over:
                    assert answer == Refused("over")
                elif n in taken:
                    assert answer == Admitted(slots[n], repeated=True)
                elif sum(m % 3 == n % 3 for m in taken) >= 2:
                    assert answer == Refused("number-full")
                elif sum(m % 2 == n % 2 for m in taken) >= 3:
                    assert answer == Refused("carrier-full")
                elif len(taken) >= 4:
                    assert answer == Refused("full")
                else:
                    assert answer == Admitted(now + RESERVED_S)
                    slots[n] = now + RESERVED_S
            elif what == "connect":
                connected = await store.connected(key_of(call), "a", now)
                assert (connected is not None) == (n in taken)
                if connected:
                    slots[n] = 1e12
            elif what == "end":
                await store.ended(key_of(call), record_of(call), now)
                slots.pop(n, None)
                over.add(n)
            elif what == "release":
                await store.release(key_of(call))
                slots.pop(n, None)
            elif what == "wait":
                now += 7.0 * n
            else:
                await store.orphans("a", now)
            usage = await store.usage(now)
            assert usage.live + usage.reserved == sum(until > now for until in slots.values())

    run("sqlite://", scenario)


# ---------------------------------------------------------------- calls that go by a provisional id


@stored
async def test_an_order_gets_the_carriers_id(store: SqlStore) -> None:
    order = InboundCall(
        carrier="twilio",
        call_id="~order-7",
        from_number="+15550100",
        to_number="+15550199",
        direction="outbound",
        parameters={"campaign": "7"},
    )
    await store.admit(order, Caps(gateway=1), NOW, bot="survey", ttl_s=75)
    assert (await read(store, order)).standing is Standing.DIALLING
    # The carrier's first report overtakes the answer to our request.
    call = inbound("x", direction="outbound")
    await store.fold(status(call, CallPhase.RINGING), NOW + 1)
    assert await store.rename(key_of(order), call.call_id)
    found = await read(store, call)
    assert (found.standing, found.phase, found.bot) == (Standing.DIALLING, CallPhase.RINGING, "survey")
    assert (found.direction, found.created, found.parameters) == ("outbound", NOW, {"campaign": "7"})
    assert await store.call(key_of(order)) is None
    assert len(await store.reports(key_of(call))) == 1
    # One slot, under the new name.
    assert await store.admit(call, Caps(gateway=1), NOW + 2) == Admitted(NOW + 75, repeated=True)
    assert await store.connected(key_of(call), "a", NOW + 60) is not None
    assert not await store.rename(key_of(order), call.call_id)


@stored
async def test_a_name_that_comes_after_the_call(store: SqlStore) -> None:
    order = InboundCall(
        carrier="twilio", call_id="~order-7", from_number="+1", to_number="+2", direction="outbound", account_id="AC1"
    )
    call = InboundCall(carrier="twilio", call_id="CAx", direction="outbound")
    await store.admit(order, NO_CAPS, NOW, bot="survey")
    await store.admit(call, NO_CAPS, NOW + 1)
    await store.connected(key_of(call), "a", NOW + 1)
    await store.enqueue(b"{}", NOW, call=key_of(order))
    await store.enqueue(b"{}", NOW, call=key_of(call))
    assert await store.rename(key_of(order), "CAx")
    found = await read(store, call)
    assert (found.standing, found.worker) == (Standing.LIVE, "a")
    assert (found.bot, found.account_id, found.to_number, found.created) == ("survey", "AC1", "+2", NOW)
    assert (await store.usage(NOW + 2)).live == 1
    assert (await store.usage(NOW + 2)).reserved == 0
    for _ in range(2):  # still one after the other
        (event,) = await store.events(NOW)
        assert event.call == "twilio/CAx"
        await store.delivered(event.id)


@stored
async def test_an_order_that_failed_before_its_name_was_known(store: SqlStore) -> None:
    order = InboundCall(carrier="twilio", call_id="~order-7", direction="outbound")
    call = inbound("x")
    await store.admit(order, NO_CAPS, NOW, bot="survey")
    await store.fold(status(call, CallPhase.BUSY), NOW + 1)
    await store.rename(key_of(order), "CAx")
    found = await read(store, call)
    assert (found.standing, found.ended, found.bot) == (Standing.ENDED, NOW + 1, "survey")
    assert (await store.usage(NOW + 1)).reserved == 0


# ---------------------------------------------------------------- workers, leases, orphans


@stored
async def test_a_lease_is_renewed(store: SqlStore) -> None:
    assert not await store.renew(A, NOW)
    assert await store.renew(A, NOW + 10)
    assert not await store.renew(A, NOW + 10 + LEASE_S + 1)
    await store.renew(B, NOW + 26)
    assert await store.workers(NOW + 30) == [A, B]
    assert await store.workers(NOW + 42) == []
    await store.retire("a", NOW + 27)
    assert await store.workers(NOW + 30) == [B]


@stored
async def test_who_has_a_call(store: SqlStore) -> None:
    assert await store.owner(key_of(inbound()), NOW) is None
    assert await admitted(store, inbound())
    assert await store.owner(key_of(inbound()), NOW) is None
    await live(store, inbound())
    assert await store.owner(key_of(inbound()), NOW + 1) == A
    assert await store.owner(key_of(inbound()), NOW + LEASE_S + 1) is None


async def renewed(store: SqlStore, worker: Worker, start: float, seconds: float) -> float:
    """The time after `worker` has renewed its lease for so long."""
    for second in range(int(seconds) + 1):
        await store.renew(worker, start + second)
    return start + int(seconds)


@stored
async def test_the_calls_of_a_dead_worker_are_found(store: SqlStore) -> None:
    await live(store, inbound(1), A)
    await live(store, inbound(2), B)
    await store.fold(status(inbound(1), CallPhase.ANSWERED), NOW)
    now = await renewed(store, B, NOW, LEASE_S + 2)  # while A is silent
    (orphan,) = await store.orphans("b", now)
    assert (orphan.key, orphan.standing, orphan.worker) == (key_of(inbound(1)), Standing.LOST, "a")
    assert (orphan.reason, orphan.ended_by) == ("process-died", "")
    assert (await store.usage(now)).live == 1
    # Claimed: nobody else is sent after it, until the claim runs out.
    assert await store.orphans("b", now + 1) == []
    assert [call.key for call in await store.orphans("b", now + 60)] == [orphan.key]
    # A comes back: its lease was lost, and it takes its call again.
    assert not await store.renew(A, now + 61)
    assert await store.connected(key_of(inbound(1)), "a", now + 61) is None
    assert await admitted(store, inbound(1), now=now + 61)
    assert await store.connected(key_of(inbound(1)), "a", now + 61) is not None
    found = await read(store, inbound(1))
    assert (found.standing, found.reason) == (Standing.LIVE, "")


@stored
async def test_who_was_away_himself_declares_nobody_dead(store: SqlStore) -> None:
    await live(store, inbound(1), A)
    await store.renew(B, NOW)
    later = NOW + 300  # the whole machine was suspended, and B is the first to wake
    assert not await store.renew(B, later)
    assert await store.orphans("b", later) == []
    assert not await store.renew(A, later + 1)
    assert (await read(store, inbound(1))).standing is Standing.LIVE
    assert await store.connected(key_of(inbound(1)), "a", later + 1) is not None
    now = await renewed(store, B, later, 10)
    await store.renew(A, now)
    assert await store.orphans("b", await renewed(store, B, now, 8)) == []


@stored
async def test_a_worker_known_to_be_dead_is_retired_at_once(store: SqlStore) -> None:
    await live(store, inbound(1), A)
    await store.renew(B, NOW)
    await store.retire("a", NOW + 1)
    assert [call.key for call in await store.orphans("b", NOW + 1)] == [key_of(inbound(1))]


@stored
async def test_a_worker_that_nobody_knows_has_one_lease_to_say_that_it_lives(store: SqlStore) -> None:
    await live(store, inbound(1), A)
    await store.retire("a", NOW)  # a mistake: it goes on, takes a call, and dies before it says that it lives
    assert await admitted(store, inbound(2))
    assert await store.connected(key_of(inbound(2)), "a", NOW)
    await store.renew(B, NOW - LEASE_S)
    now = await renewed(store, B, NOW, 1)
    assert [call.key for call in await store.orphans("b", now)] == [key_of(inbound(1))]
    assert (await store.usage(now)).live == 1
    now = await renewed(store, B, now, LEASE_S + 1)
    assert [call.key for call in await store.orphans("b", now)] == [key_of(inbound(2))]
    # Had it come back, it would have been told that it was taken for dead.
    assert await admitted(store, inbound(3), now=now)
    assert await store.connected(key_of(inbound(3)), "a", now)
    await store.orphans("b", now)
    assert not await store.renew(A, now + 1)
    assert await store.renew(A, now + 2)


@stored
async def test_calls_whose_socket_never_came_are_orphans(store: SqlStore) -> None:
    assert await admitted(store, inbound(1))
    assert await admitted(store, inbound(2))
    assert await store.orphans("b", NOW + RESERVED_S - 1) == []
    await store.fold(status(inbound(2), CallPhase.COMPLETED), NOW + 5)
    (orphan,) = await store.orphans("b", NOW + RESERVED_S)
    assert (orphan.key, orphan.standing) == (key_of(inbound(1)), Standing.NEVER_CAME)
    # The carrier was asked, and says that it is over.
    await store.fold(status(inbound(1), CallPhase.NO_ANSWER, "asked"), NOW + 31)
    found = await read(store, inbound(1))
    assert (found.standing, found.ended, found.reason) == (Standing.NEVER_CAME, NOW + 31, "no-answer")
    assert await store.orphans("b", NOW + 1000) == []


@stored
async def test_an_orphan_is_hung_up(store: SqlStore) -> None:
    assert await admitted(store, inbound(1))
    (orphan,) = await store.orphans("b", NOW + RESERVED_S)
    assert await store.hang_up_due(orphan.ref, "orphan", NOW + 31)
    assert await store.orphans("b", NOW + 1000) == []  # it is in other hands
    (pending,) = await store.hang_ups(NOW + 31)
    await store.hang_up_result(orphan.key, HangUp.DONE, NOW + 32)
    found = await read(store, inbound(1))
    assert (found.hang_up, found.ended, found.ended_by, found.reason) == (HangUp.DONE, NOW + 32, "gateway", "orphan")
    assert pending.ref == orphan.ref
    assert await store.orphans("b", NOW + 1000) == []


@stored
async def test_a_lost_call_that_the_carrier_has_ended_is_no_orphan(store: SqlStore) -> None:
    await live(store, inbound(1), A)
    await store.fold(status(inbound(1), CallPhase.COMPLETED), NOW + 1)
    assert (await read(store, inbound(1))).ended is None  # the session has the last word
    await store.retire("a", NOW + 2)
    assert await store.orphans("b", NOW + 2) == []
    found = await read(store, inbound(1))
    assert (found.standing, found.ended, found.ended_by) == (Standing.LOST, NOW + 2, "carrier")


# ---------------------------------------------------------------- records


@stored
async def test_the_record_of_a_call(store: SqlStore) -> None:
    call = inbound(account_id="AC1", extra={"region": "ie1"})
    await store.renew(A, NOW)
    await store.admit(call, NO_CAPS, NOW, bot="menu")
    await store.connected(key_of(call), "a", NOW + 1)
    info = CallInfo(carrier="twilio", call_id="CA1", from_number="+15550123", parameters={"a": 1}, extra={"leg": "L1"})
    await store.started(key_of(call), info, "menu", NOW + 2)
    record = record_of(call, bot="menu", counters={"underruns": 2}, variables={"name": "Ann", "n": 3})
    assert await store.ended(key_of(call), record, NOW + 14, hang_up=HangUp.LEFT_TO_CARRIER, worker="a")
    assert await read(store, call) == StoredCall(
        key=key_of(call),
        standing=Standing.ENDED,
        created=NOW,
        answered=NOW + 2,
        ended=NOW + 14,
        account_id="AC1",
        from_number="+15550199",
        to_number="+15550100",
        bot="menu",
        worker="a",
        state="closed",
        ended_by="bot",
        reason="completed",
        duration_s=12.5,
        hang_up=HangUp.LEFT_TO_CARRIER,
        counters={"underruns": 2},
        variables={"name": "Ann", "n": 3},
        parameters={"a": 1},
        extra={"region": "ie1", "leg": "L1"},
    )


@stored
async def test_a_record_without_admission(store: SqlStore) -> None:
    assert await store.ended(key_of(inbound()), record_of(inbound()), NOW)
    found = await read(store, inbound())
    assert (found.standing, found.created, found.ended) == (Standing.ENDED, NOW - 12.5, NOW)
    assert await store.ended(key_of(inbound()), record_of(inbound()), NOW)
    assert len((await store.records(CallFilter())).calls) == 1


@stored
async def test_reports_are_folded_in_once_and_only_forward(store: SqlStore) -> None:
    call = inbound()
    await live(store, call)
    assert (await store.fold(status(call, CallPhase.ANSWERED, "1"), NOW + 1)).phase is CallPhase.ANSWERED
    folded = await store.fold(status(call, CallPhase.RINGING, "0"), NOW + 2)
    assert (folded.new, folded.phase, folded.owner) == (True, CallPhase.ANSWERED, A)
    final = status(call, CallPhase.COMPLETED, "2", cause="normal", duration_s=11.0, ended_by="caller")
    assert (await store.fold(final, NOW + 3)).new
    again = await store.fold(final, NOW + 4)
    assert (again.new, again.phase) == (False, CallPhase.COMPLETED)
    await store.fold(status(call, CallPhase.FAILED, "3", cause="late"), NOW + 5)
    found = await read(store, call)
    assert (found.phase, found.cause, found.carrier_duration_s) == (CallPhase.COMPLETED, "normal", 11.0)
    assert found.standing is Standing.LIVE
    said = await store.reports(key_of(call))
    assert [(report.kind, report.key) for report in said] == [("status", key) for key in "1023"]
    assert said[2].content == {"phase": "completed", "ended_by": "caller", "cause": "normal", "duration_s": 11.0}


@stored
async def test_other_reports(store: SqlStore) -> None:
    call = inbound()
    await live(store, call)
    answered = AnsweredBy(carrier="twilio", call_id="CA1", who="machine", key="amd", detail="machine_end_beep")
    stream = StreamStatus(carrier="twilio", call_id="CA1", what="failed", key="s1", problem="31920")
    assert (await store.fold(answered, NOW)).new
    assert (await store.fold(stream, NOW)).new
    assert not (await store.fold(stream, NOW)).new
    found = await read(store, call)
    assert (found.answered_by, found.answered_detail, found.stream_problem) == ("machine", "machine_end_beep", "31920")


@stored
async def test_a_final_report_frees_a_slot_whose_socket_is_still_to_come(store: SqlStore) -> None:
    call = inbound()
    assert await admitted(store, call)
    folded = await store.fold(status(call, CallPhase.CANCELED, cause="hangup"), NOW + 1)
    assert (folded.standing, folded.owner) == (Standing.ENDED, None)
    assert (await store.usage(NOW + 1)).reserved == 0
    assert await store.connected(key_of(call), "a", NOW + 2) is None
    found = await read(store, call)
    assert (found.ended, found.ended_by, found.reason) == (NOW + 1, "carrier", "hangup")


@stored
async def test_records_are_found(store: SqlStore) -> None:
    for n in range(25):
        call = inbound(n, carrier=("twilio", "plivo")[n % 2], to=f"+1555010{n % 5}")
        await store.admit(call, NO_CAPS, NOW + n // 2, bot=("menu", "echo")[n % 3 == 0])
        if n < 10:
            await store.ended(key_of(call), record_of(call, ended_by="caller"), NOW + 100)

    async def ids(which: CallFilter, **page: Any) -> set[int]:
        return {int(call.key.call_id[2:]) for call in (await store.records(which, **page)).calls}

    assert await ids(CallFilter()) == set(range(25))
    assert await ids(CallFilter(carrier="plivo")) == set(range(1, 25, 2))
    assert await ids(CallFilter(number="+15550103")) == set(range(3, 25, 5))
    assert await ids(CallFilter(number="+15550199")) == set(range(25))
    assert await ids(CallFilter(standing=(Standing.ENDED,), ended_by="caller", reason="completed")) == set(range(10))
    assert await ids(CallFilter(standing=(Standing.EXPECTED,), bot="echo")) == {12, 15, 18, 21, 24}
    assert await ids(CallFilter(since=NOW + 10, until=NOW + 12)) == {20, 21, 22, 23}
    assert await ids(CallFilter(hang_up=(HangUp.PENDING,))) == set()
    # Pages neither repeat nor leave out, also where several were created at one moment.
    seen: list[CallKey] = []
    after = ""
    while True:
        page: Page = await store.records(CallFilter(), limit=7, after=after)
        seen += [call.key for call in page.calls]
        assert [call.created for call in page.calls] == sorted((call.created for call in page.calls), reverse=True)
        after = page.next
        if not after:
            break
    assert len(seen) == len(set(seen)) == 25
    for wrong in ("x", "eA==", "####", "bmFuIHg=", "MWUzMDkgeA=="):  # the last are "nan x" and "1e309 x"
        with pytest.raises(ValueError):
            store.records(CallFilter(), after=wrong)


@stored
async def test_old_records_go(store: SqlStore) -> None:
    for n in range(10):
        call = inbound(n)
        assert await admitted(store, call)
        await store.fold(status(call, CallPhase.ANSWERED), NOW)
        if n < 6:
            await store.ended(key_of(call), record_of(call), NOW + n)
    await store.hang_up_due(inbound_ref(0), "x", NOW)
    await store.fold(status(inbound("unknown"), CallPhase.RINGING), NOW)
    await store.once("k", NOW, ttl_s=10)
    later = NOW + 86_400
    gone = [await store.prune(later + 3.5, keep_s=86_400, limit=2) for _ in range(4)]
    assert gone == [3, 2, 0, 0]
    left = {call.key.call_id for call in (await store.records(CallFilter())).calls}
    assert left == {"CA0", "CA4", "CA5", "CA6", "CA7", "CA8", "CA9"}
    assert await store.reports(key_of(inbound(1))) == []
    assert len(await store.reports(key_of(inbound(4)))) == 1


def test_what_json_cannot_say() -> None:
    class Odd:
        def __repr__(self) -> str:
            return "odd"

    assert json.loads(to_json({"a": Odd(), "b": {1, 2}, "c": float("nan"), "d": 2**70})) is not None
    assert json.loads(to_json({"a": Odd()})) == {"a": "odd"}
    large = json.loads(to_json({"a": 1, "large": "x" * 100_000, "b": "y"}))
    assert large == {"a": 1, "b": "y", "_left_out": ["large"]}
    assert to_json({}) == ""


# ---------------------------------------------------------------- hang-ups


def inbound_ref(n: int | str = 1, **more: Any) -> CallRef:
    return CallRef(carrier="twilio", call_id=f"CA{n}", **more)


@stored
async def test_a_hang_up_is_due_until_it_is_done(store: SqlStore) -> None:
    call = inbound()
    await live(store, call)
    assert await store.hang_up_due(inbound_ref(account_id="AC1", extra={"leg": "L"}), "bot", NOW, not_before=NOW + 2)
    assert not await store.hang_up_due(inbound_ref(), "again", NOW)
    assert await store.hang_ups(NOW + 1) == []
    (first,) = await store.hang_ups(NOW + 2)
    assert (first.reason, first.attempts, first.since) == ("bot", 1, NOW)
    assert (first.ref.account_id, first.ref.extra) == ("AC1", {"leg": "L"})
    assert await store.hang_ups(NOW + 3) == []
    await store.hang_up_result(key_of(call), HangUp.PENDING, NOW + 3, detail="429", retry_at=NOW + 10)
    assert await store.hang_ups(NOW + 9) == []
    (second,) = await store.hang_ups(NOW + 10)
    assert second.attempts == 2
    # This attempt is never heard of again: the next one is made when its claim has run out.
    assert await store.hang_ups(second.claimed_until - 0.1) == []
    (third,) = await store.hang_ups(second.claimed_until)
    assert third.attempts == 3
    await store.hang_up_result(key_of(call), HangUp.DONE, NOW + 50, detail="200")
    assert await store.hang_ups(NOW + 1000) == []
    await store.hang_up_result(key_of(call), HangUp.FAILED, NOW + 51)
    assert not await store.hang_up_due(inbound_ref(), "again", NOW + 60)
    found = await read(store, call)
    assert (found.hang_up, found.hang_up_attempts, found.hang_up_detail) == (HangUp.DONE, 3, "200")
    assert (found.hang_up_reason, found.standing) == ("bot", Standing.LIVE)


@stored
async def test_a_hang_up_that_its_session_executes_itself(store: SqlStore) -> None:
    await live(store, inbound())
    assert await store.hang_up_due(inbound_ref(), "bot", NOW, claim=True)
    assert await store.hang_ups(NOW + CLAIM_S - 1) == []
    (pending,) = await store.hang_ups(NOW + CLAIM_S)  # the session's process died
    assert pending.attempts == 2


@stored
async def test_the_carriers_word_settles_a_pending_hang_up(store: SqlStore) -> None:
    for n in (1, 2, 3):
        await live(store, inbound(n))
        await store.hang_up_due(inbound_ref(n), "bot", NOW, claim=n == 2)
    await store.hang_up_due(inbound_ref(3), "bot", NOW)
    await store.fold(status(inbound(1), CallPhase.COMPLETED), NOW + 1)
    await store.fold(status(inbound(2), CallPhase.COMPLETED), NOW + 1)
    assert (await read(store, inbound(1))).hang_up is HangUp.ALREADY_OVER
    # The second was being executed: that may well be why it completed.
    assert (await read(store, inbound(2))).hang_up is HangUp.PENDING
    await store.hang_up_result(key_of(inbound(2)), HangUp.DONE, NOW + 2)
    assert (await read(store, inbound(2))).hang_up is HangUp.DONE
    # A call that is over need not be tried again, nor hung up at all.
    (third,) = await store.hang_ups(NOW + 3)
    await store.fold(status(inbound(3), CallPhase.COMPLETED), NOW + 4)
    await store.hang_up_result(key_of(inbound(3)), HangUp.PENDING, NOW + 5, retry_at=NOW + 6)
    assert (await read(store, inbound(3))).hang_up is HangUp.ALREADY_OVER
    await store.fold(status(inbound(4), CallPhase.COMPLETED), NOW)
    assert not await store.hang_up_due(inbound_ref(4), "bot", NOW)
    assert (await read(store, inbound(4))).hang_up is HangUp.ALREADY_OVER
    assert await store.hang_ups(NOW + 1000) == []
    assert third.ref.call_id == "CA3"


@stored
async def test_a_claimed_hang_up_whose_claimant_died_after_the_carrier_confirmed(store: SqlStore) -> None:
    await live(store, inbound())
    await store.hang_up_due(inbound_ref(), "bot", NOW, claim=True)
    await store.fold(status(inbound(), CallPhase.COMPLETED), NOW + 1)
    assert await store.hang_ups(NOW + CLAIM_S) == []
    assert (await read(store, inbound())).hang_up is HangUp.ALREADY_OVER


@stored
async def test_a_stream_that_ended_with_its_call_leaves_no_hang_up(store: SqlStore) -> None:
    for number, claim in ((1, True), (2, False)):  # its claimant has died; nobody has begun
        call, ref = inbound(number), inbound_ref(number)
        await live(store, call)
        assert await store.hang_up_due(ref, "stream-over", NOW, claim=claim)
        await store.fold(status(call, CallPhase.COMPLETED), NOW + 1)
        assert (await read(store, call)).hang_up is (HangUp.PENDING if claim else HangUp.NONE)
        assert await store.hang_ups(NOW + CLAIM_S) == []
        assert (await read(store, call)).hang_up is HangUp.NONE
        assert not await store.hang_up_due(ref, "stream-over", NOW + CLAIM_S + 1)
        assert (await read(store, call)).hang_up is HangUp.NONE


@stored
async def test_the_end_of_a_session_makes_a_hang_up_due(store: SqlStore) -> None:
    await live(store, inbound())
    await store.ended(key_of(inbound()), record_of(inbound(), reason="error"), NOW + 5, hang_up=HangUp.PENDING)
    (pending,) = await store.hang_ups(NOW + 5)
    assert (pending.reason, pending.attempts) == ("error", 1)
    await store.hang_up_result(key_of(inbound()), HangUp.FAILED, NOW + 6, detail="500")
    found = await read(store, inbound())
    assert (found.hang_up, found.ended, found.hang_up_detail) == (HangUp.FAILED, NOW + 5, "500")
    assert await store.hang_up_due(inbound_ref(), "operator", NOW + 60)  # given up, but somebody insists


@stored
async def test_a_hang_up_that_is_done_before_the_next_stream_frees_its_place(store: SqlStore) -> None:
    """The socket broke and the carrier asked again; before it came back, its report or our request ended the call."""
    call = inbound(again=True)
    await live(store, call)
    await store.hang_up_due(inbound_ref(), "socket-lost", NOW + 1, claim=True)
    await store.release(key_of(call))
    assert isinstance(await store.admit(call, NO_CAPS, NOW + 2), Admitted)
    assert (await read(store, call)).standing is Standing.EXPECTED
    await store.hang_up_result(key_of(call), HangUp.ALREADY_OVER, NOW + 3)
    found = await read(store, call)
    assert (found.standing, found.ended) == (Standing.ENDED, NOW + 3)
    assert (await store.usage(NOW + 3)).reserved == 0
    assert await store.connected(key_of(call), "w1", NOW + 4) is None


@stored
async def test_a_call_whose_end_is_wanted_gets_no_other_stream(store: SqlStore) -> None:
    call = inbound(again=True)
    await live(store, call)
    await store.hang_up_due(inbound_ref(), "api", NOW + 1)
    await store.release(key_of(call))  # its process died before the request
    assert await store.admit(call, NO_CAPS, NOW + 2) == Refused("over")
    assert (await store.usage(NOW + 2)).reserved == 0


@stored
async def test_an_unknown_call_can_be_hung_up(store: SqlStore) -> None:
    assert await store.hang_up_due(inbound_ref(9), "operator", NOW)
    (pending,) = await store.hang_ups(NOW)
    assert pending.ref == inbound_ref(9)
    await store.hang_up_result(CallKey("twilio", "CA9"), HangUp.ALREADY_OVER, NOW + 1)
    assert (await read(store, inbound(9))).ended == NOW + 1


# ---------------------------------------------------------------- wishes, keys


@stored
async def test_a_wish_is_taken_once_but_may_be_asked_for_twice(store: SqlStore) -> None:
    assert await admitted(store, inbound())
    key = key_of(inbound())
    assert await store.take_wish(key, NOW) is None
    await store.wish(key, "+15550142")
    assert await store.take_wish(key, NOW) == "+15550142"
    assert await store.take_wish(key, NOW + REPEAT_S) == "+15550142"
    assert await store.take_wish(key, NOW + REPEAT_S + 1) is None
    await store.wish(key, "sip:a@example.com")
    assert await store.take_wish(key, NOW + 60) == "sip:a@example.com"
    assert await store.take_wish(CallKey("twilio", "other"), NOW) is None


@stored
async def test_a_key_is_used_once(store: SqlStore) -> None:
    assert await store.once("k", NOW, ttl_s=60)
    assert not await store.once("k", NOW + 59, ttl_s=60)
    assert await store.once("k", NOW + 60, ttl_s=60)
    assert await asyncio.gather(*(store.once("j", NOW, ttl_s=60) for _ in range(5))) == [True] + [False] * 4


@stored
async def test_a_token_may_be_shown_again_for_the_same_call_within_ten_seconds(store: SqlStore) -> None:
    async def take(call: str, at: float) -> bool:
        return await store.once("token/x", NOW + at, ttl_s=60, holder=call, repeat_s=REPEAT_S)

    assert await take("CA1", 0)
    assert await take("CA1", 9.9)
    assert not await take("CA2", 5)
    assert not await take("CA1", 10.1)
    assert not await store.once("token/x", NOW + 1, ttl_s=60)


# ---------------------------------------------------------------- events


@stored
async def test_the_events_of_a_call_keep_their_order(store: SqlStore) -> None:
    one, two = CallKey("twilio", "CA1"), CallKey("twilio", "CA2")
    for n in range(3):
        assert await store.enqueue(b"one %d" % n, NOW + n, call=one)
        assert await store.enqueue(b"two %d" % n, NOW + n, call=two)
    await store.enqueue(b"none 1", NOW)
    await store.enqueue(b"none 2", NOW)

    async def bodies(at: float) -> dict[bytes, int]:
        return {event.body: event.id for event in await store.events(at)}

    first = await bodies(NOW + 5)
    assert set(first) == {b"one 0", b"two 0", b"none 1", b"none 2"}
    assert await bodies(NOW + 6) == {}
    await store.delivered(first[b"one 0"])
    await store.failed(first[b"two 0"], NOW + 20)
    await store.delivered(first[b"none 1"])
    await store.delivered(first[b"none 2"])
    second = await bodies(NOW + 7)
    assert set(second) == {b"one 1"}
    (again,) = [event for event in await store.events(NOW + 20) if event.call == str(two)]
    assert (again.body, again.attempts, again.created) == (b"two 0", 2, NOW)
    await store.failed(again.id, None)
    await store.failed(again.id, None)
    assert store.counts["events_given_up"] == 1
    assert set(await bodies(NOW + 21)) == {b"two 1"}
    # Nobody has said what became of these: they come again, first things first.
    assert set(await bodies(NOW + 21 + CLAIM_S)) == {b"one 1", b"two 1"}
    for _ in range(3):
        for event in await store.events(NOW + 1000):
            await store.delivered(event.id)
    assert await bodies(NOW + 5000) == {}


def test_the_queue_of_events_has_a_limit(url: str) -> None:
    async def scenario(store: SqlStore) -> None:
        answers = [await store.enqueue(b"%d" % n, NOW) for n in range(5)]
        assert answers == [True, True, True, False, False]
        assert store.counts["events_dropped"] == 2
        for event in await store.events(NOW):
            await store.delivered(event.id)
        assert await store.enqueue(b"5", NOW)

    run(url, scenario, max_events=3)


# ---------------------------------------------------------------- limits, order, closing


@stored
async def test_what_is_asked_without_waiting_is_done_in_order_and_together(store: SqlStore) -> None:
    before = store.writer.counts["batches"]
    call = inbound()
    futures: list[asyncio.Future[Any]] = [
        store.renew(A, NOW),
        store.admit(call, NO_CAPS, NOW),
        store.connected(key_of(call), "a", NOW),
        store.hang_up_due(inbound_ref(), "bot", NOW),
        store.ended(key_of(call), record_of(call), NOW + 1, worker="a"),
        store.enqueue(b"ended", NOW, call=key_of(call)),
    ]
    results = await asyncio.gather(*futures)
    assert [bool(result) for result in results] == [False, True, True, True, True, True]
    assert store.writer.counts["batches"] == before + 1


@stored
async def test_what_cannot_be_written_fails_alone(store: SqlStore) -> None:
    bad = inbound("\ud800" if store.writer._engine.dialect.name == "sqlite" else "\0")
    answers = await asyncio.gather(
        store.admit(inbound(1), NO_CAPS, NOW),
        store.admit(bad, NO_CAPS, NOW),
        store.once("k", NOW, ttl_s=1),
        store.admit(inbound(2), NO_CAPS, NOW),
        return_exceptions=True,
    )
    assert isinstance(answers[1], Exception)
    assert [answers[0], answers[2], answers[3]] == [Admitted(NOW + 30), True, Admitted(NOW + 30)]
    assert (await store.usage(NOW)).reserved == 2


def test_a_full_disk_is_named_and_nothing_of_the_statement() -> None:
    full = sqlite3.connect(":memory:")
    full.execute("PRAGMA max_page_count = 1")
    with contextlib.closing(full), pytest.raises(sqlite3.OperationalError) as refused:
        full.execute("CREATE TABLE calls (number TEXT DEFAULT '+14155550123')")
    assert named(refused.value) == "OperationalError SQLITE_FULL"
    assert named(ValueError("+14155550123")) == "ValueError"


def test_the_queue_has_a_limit(url: str) -> None:
    async def scenario(store: SqlStore) -> None:
        answers = await asyncio.gather(*(store.once(f"{n}", NOW, ttl_s=1) for n in range(30)), return_exceptions=True)
        assert answers[:20] == [True] * 20
        assert all(isinstance(answer, StoreBusy) for answer in answers[20:])
        assert await store.once("29", NOW, ttl_s=1)
        assert store.writer.queued == 0

    run(url, scenario, max_queued=20)


def test_closing_finishes_what_was_handed_over(shared_url: str) -> None:
    async def write() -> None:
        store = SqlStore(shared_url)
        await store.open()
        futures = [store.admit(inbound(n), NO_CAPS, NOW) for n in range(500)]
        for future in futures[::3]:
            future.cancel()  # nobody waits for these, but they were asked
        await store.close()
        assert all(future.done() for future in futures)
        with pytest.raises(StoreError):
            await store.once("k", NOW, ttl_s=1)
        await store.close()

    asyncio.run(write())

    async def look(store: SqlStore) -> None:
        assert (await store.usage(NOW)).reserved == 500

    run(shared_url, look)


def test_a_stuck_database_does_not_keep_anybody_waiting(url: str) -> None:
    async def scenario(store: SqlStore) -> None:
        release = threading.Event()
        try:
            stuck = store.writer.ask(lambda db: release.wait(20))
            await asyncio.sleep(0.05)
            behind = store.once("k", NOW, ttl_s=60)
            with pytest.raises(StoreTimeout):
                await stuck
            with pytest.raises(StoreBusy):
                await behind
        finally:
            release.set()
        assert await store.once("k", NOW, ttl_s=60)  # it was not written
        assert store.writer.queued == 0

    run(url, scenario, wait_s=0.2)


def test_a_lost_connection_is_made_again(postgres_server: str) -> None:
    async def scenario(store: SqlStore) -> None:
        for lane in (store.writer, store.reader):
            pid = await lane.ask(lambda db: db.execute(text("SELECT pg_backend_pid()")).scalar_one())
            with create_engine(postgres_server.format("postgres"), poolclass=NullPool).connect() as db:
                assert db.execute(text(f"SELECT pg_terminate_backend({pid})")).scalar_one()
        assert await admitted(store, inbound())
        assert (await store.usage(NOW)).reserved == 1

    run(new_database(postgres_server), scenario)


def test_a_database_that_is_not_there() -> None:
    pytest.importorskip("psycopg")

    async def nothing(store: SqlStore) -> None: ...

    began = time.monotonic()
    with pytest.raises(StoreError, match="cannot be reached"):
        run("postgresql+psycopg://gateway@/nobody?host=/nonexistent", nothing, wait_s=0.3)
    assert time.monotonic() - began < 10


def test_a_database_of_another_version_is_refused(shared_url: str) -> None:
    async def nothing(store: SqlStore) -> None: ...

    run(shared_url, nothing)
    with create_engine(shared_url, poolclass=NullPool).begin() as db:
        db.execute(text("UPDATE gateway_schema SET version = 99"))
    with pytest.raises(StoreError, match="99"):
        run(shared_url, nothing)


@pytest.mark.parametrize("wrong", ["", "calls.db", "mysql://localhost/x", "sqlite:////nonexistent/folder/x.db"])
def test_urls_that_do_not_work(wrong: str) -> None:
    async def nothing(store: SqlStore) -> None: ...

    with pytest.raises(StoreError):
        run(wrong, nothing)


def test_the_file_is_nobody_elses_business(tmp_path: Path) -> None:
    def files() -> list[Path]:
        return sorted(tmp_path.iterdir())

    async def look(store: SqlStore) -> None:
        assert await admitted(store, inbound())
        assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in files()} == {
            "store.db": 0o600,
            "store.db-shm": 0o600,
            "store.db-wal": 0o600,
        }

    run(f"sqlite:///{tmp_path}/store.db", look)


# ---------------------------------------------------------------- several processes, one database


@contextlib.asynccontextmanager
async def held(path: str) -> AsyncIterator[None]:
    """Meanwhile another program writes."""
    ours, theirs = spawn.Pipe()
    other = spawn.Process(target=hold, args=(path, theirs), daemon=True)
    other.start()
    await asyncio.to_thread(ours.recv)
    try:
        yield
    finally:
        ours.send("enough")
        await asyncio.to_thread(other.join, 30)


def hold(path: str, told: Pipe) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO used (key, holder, at, until) VALUES ('other', '', 0, 0)")
    told.send("holding")
    told.recv()
    db.execute("COMMIT")
    db.close()


def test_who_holds_the_database_delays_answers_but_not_the_loop(tmp_path: Path) -> None:
    path = f"{tmp_path}/store.db"

    async def scenario(store: SqlStore) -> None:
        assert await admitted(store, inbound(0))
        async with held(path):
            asked = asyncio.gather(*(store.admit(inbound(n), NO_CAPS, NOW) for n in range(1, 50)))
            # A loop that waits for the database does not turn while it is held, and it is held until the loop has.
            turns = 0
            while turns < 100 or not store.writer.counts["lock_waits"]:
                await asyncio.sleep(0.002)
                turns += 1
                assert not asked.done()
        await asked
        assert (await store.usage(NOW)).reserved == 50

    run(f"sqlite:///{path}", scenario, wait_s=60.0)


def test_who_holds_the_database_too_long_is_not_waited_for(tmp_path: Path) -> None:
    path = f"{tmp_path}/store.db"

    async def scenario(store: SqlStore) -> None:
        async with held(path):
            with pytest.raises(StoreBusy):
                await store.admit(inbound(1), NO_CAPS, NOW)
        assert await store.call(key_of(inbound(1))) is None
        assert await admitted(store, inbound(1))

    run(f"sqlite:///{path}", scenario, wait_s=0.3)


def admit_many(url: str, name: str, count: int, cap: int, pipe: Pipe) -> None:
    """A worker that admits what it can, all at once, when told to; says how many that were."""

    async def main() -> int:
        store = SqlStore(url, wait_s=30.0)
        await store.open()
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)
        answers: list[Any] = []
        for start in range(0, count, 50):
            asked = [inbound(f"{name}.{n}") for n in range(start, min(start + 50, count))]
            answers += await asyncio.gather(*(store.admit(call, Caps(gateway=cap), NOW) for call in asked))
        await store.close()
        return sum(isinstance(answer, Admitted) for answer in answers)

    pipe.send(asyncio.run(main()))


def test_caps_are_exact_across_processes(shared_url: str) -> None:
    pipes, processes = [], []
    for n in range(4):
        ours, theirs = spawn.Pipe()
        processes.append(spawn.Process(target=admit_many, args=(shared_url, str(n), 250, 50, theirs)))
        pipes.append(ours)
    for process in processes:
        process.start()
    try:
        for pipe in pipes:
            assert pipe.poll(60)
            assert pipe.recv() == "ready"
        for pipe in pipes:
            pipe.send("go")
        admitted_by = []
        for pipe in pipes:
            assert pipe.poll(60)
            admitted_by.append(pipe.recv())
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    assert sum(admitted_by) == 50

    async def look(store: SqlStore) -> None:
        assert (await store.usage(NOW)).reserved == 50
        assert len((await store.records(CallFilter(standing=(Standing.REFUSED,)), limit=1000)).calls) == 950

    run(shared_url, look)


def claim_all(url: str, pipe: Pipe) -> None:
    """A worker that claims hang-ups and events until there are none; says which it had."""

    async def main() -> list[str]:
        store = SqlStore(url, wait_s=30.0)
        await store.open()
        pipe.send("ready")
        await asyncio.to_thread(pipe.recv)
        mine: list[str] = []
        while claimed := await store.hang_ups(NOW, limit=3):
            mine += [pending.ref.call_id for pending in claimed]
        while events := await store.events(NOW, limit=3):
            mine += [event.body.decode() for event in events]
        await store.close()
        return mine

    pipe.send(asyncio.run(main()))


def test_two_workers_never_have_the_same_hang_up(shared_url: str) -> None:
    async def fill(store: SqlStore) -> None:
        await asyncio.gather(*(store.hang_up_due(inbound_ref(n), "x", NOW) for n in range(200)))
        await asyncio.gather(*(store.enqueue(b"event %d" % n, NOW) for n in range(100)))

    run(shared_url, fill)
    pipes, processes = [], []
    for _ in range(2):
        ours, theirs = spawn.Pipe()
        processes.append(spawn.Process(target=claim_all, args=(shared_url, theirs)))
        pipes.append(ours)
    for process in processes:
        process.start()
    try:
        for pipe in pipes:
            assert pipe.poll(60)
            pipe.recv()
        for pipe in pipes:
            pipe.send("go")
        both: list[str] = []
        for pipe in pipes:
            assert pipe.poll(60)
            both += pipe.recv()
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    assert len(both) == len(set(both)) == 300


def write_until_killed(url: str, pipe: Pipe) -> None:
    """A worker that says of each call that it was admitted, and that its hang-up is due, once that is committed."""

    async def main() -> None:
        store = SqlStore(url)
        await store.open()
        await store.renew(A, NOW)
        for n in range(1_000_000):
            calls = [inbound(f"{n}.{m}") for m in range(5)]
            await asyncio.gather(*(store.admit(call, NO_CAPS, NOW) for call in calls))
            await asyncio.gather(*(store.connected(key_of(call), "a", NOW) for call in calls))
            await store.hang_up_due(inbound_ref(f"{n}.0"), "bot", NOW, claim=True)
            pipe.send(n)

    asyncio.run(main())


def test_what_was_committed_survives_kill_9(shared_url: str) -> None:
    for turn in range(2):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=write_until_killed, args=(shared_url, theirs))
        process.start()
        confirmed = -1
        try:
            assert ours.poll(60)
            until = time.monotonic() + 0.3 + 0.2 * turn
            while time.monotonic() < until:
                if ours.poll(0.01):
                    confirmed = ours.recv()
        finally:
            process.kill()  # SIGKILL, wherever it is
            process.join(10)
        theirs.close()
        while True:
            try:
                confirmed = ours.recv()  # said before it died
            except EOFError:
                break
        assert confirmed >= 0

        async def look(store: SqlStore, confirmed: int = confirmed) -> None:
            for n in range(confirmed + 1):
                for m in range(5):
                    found = await store.call(CallKey("twilio", f"CA{n}.{m}"))
                    assert found is not None
                    assert found.standing is Standing.LIVE
            # Whoever comes next finds what is still to be done: the hang-ups, and the calls that nobody has now.
            later = NOW + CLAIM_S
            pending = {found.ref.call_id for found in await store.hang_ups(later, limit=100_000)}
            assert pending >= {f"CA{n}.0" for n in range(confirmed + 1)}
            await store.retire("a", later)
            lost = {call.key.call_id for call in await store.orphans("b", later, limit=100_000)}
            assert lost >= {f"CA{n}.{m}" for n in range(confirmed + 1) for m in range(1, 5)}
            assert not lost & pending

        run(shared_url, look)
        if turn == 0 and shared_url.startswith("sqlite"):
            Path(shared_url.removeprefix("sqlite:///")).unlink()  # the second time at another moment
        elif turn == 0:
            break


def test_a_placed_call_learns_its_region_from_its_answer_webhook() -> None:
    async def main() -> None:
        store = SqlStore("sqlite://")
        await store.open()
        order = InboundCall(carrier="vonage", call_id="~order", direction="outbound", extra={"kept": "yes"})
        await store.admit(order, Caps(), 1000.0, bot="x")
        await store.rename(CallKey("vonage", "~order"), "leg-1")
        answered = InboundCall(
            carrier="vonage", call_id="leg-1", direction="outbound", extra={"region_url": "https://r"}
        )
        again = await store.admit(answered, Caps(), 1001.0, bot="x")
        assert isinstance(again, Admitted)
        assert again.repeated
        stored = await store.call(CallKey("vonage", "leg-1"))
        assert stored is not None
        assert stored.extra == {"kept": "yes", "region_url": "https://r"}
        await store.close()

    asyncio.run(main())
