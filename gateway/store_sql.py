"""The store in a database: SQLite in a file that the workers of one machine share, or PostgreSQL by its URL.

All writing is done by one thread per process, in batches, and by one transaction at a time over all processes
(BEGIN IMMEDIATE, or an advisory lock): that makes the caps exact without further locking. Reading has a thread and a
connection of its own.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool, StaticPool

from gateway.records import CallRecord
from gateway.sql import due, records, slots
from gateway.sql.tables import VERSION, metadata, schema
from gateway.sql.writer import Writer
from gateway.store import (
    CLAIM_S,
    LEASE_S,
    RESERVED_S,
    Admitted,
    CallFilter,
    CallKey,
    Caps,
    Connected,
    Folded,
    HangUp,
    OutgoingEvent,
    Page,
    PendingHangUp,
    Refused,
    Report,
    StoredCall,
    StoreError,
    Usage,
    Worker,
)
from gateway.transcript import Line
from media.call import CallInfo
from webhooks.base import CallRef, CarrierEvent, InboundCall

_LOCK = 0x6761_7465  # PostgreSQL's advisory lock: one writing transaction at a time
_RECOUNT_S = 5.0  # how old the number of waiting events may be; other workers queue some too


class SqlStore:
    """A `Store` in SQLite ("sqlite:///calls.db", "sqlite://" in memory) or PostgreSQL ("postgresql+psycopg://...").

    Args:
        max_queued: operations that may wait for the database; what comes on top gets StoreBusy.
        wait_s: how long an operation may wait for others that hold the database.
        max_events: that may wait for the user's URL.
        power_loss: SQLite syncs at each commit, so that it also survives the machine's sudden end, for some
            milliseconds a batch. Without it, what was committed survives the death of every process.
    """

    def __init__(
        self,
        url: str = "sqlite://",
        *,
        max_queued: int = 10_000,
        wait_s: float = 5.0,
        max_events: int = 100_000,
        power_loss: bool = False,
    ) -> None:
        try:
            parsed = make_url(url)
            dialect = parsed.get_backend_name()
        except ArgumentError:
            raise StoreError("not the URL of a database") from None
        if dialect not in _ENGINES:
            raise StoreError(f"the store can be {' or '.join(_ENGINES)}, not {dialect}")
        in_memory = dialect == "sqlite" and parsed.database in (None, "", ":memory:")
        self.path = "" if in_memory or dialect != "sqlite" else str(parsed.database)  # of the database's file
        self.counts: Counter[str] = Counter()  # "events_dropped", "events_given_up"
        self._max_events = max_events
        self._waiting = (-_RECOUNT_S, 0)  # when the waiting events were counted (monotonic), how many
        try:
            writing, reading = (_ENGINES[dialect](url, writes, wait_s, power_loss) for writes in (True, False))
        except ImportError as exc:
            raise StoreError(f"the driver of {dialect} is not installed: {exc.name}") from None
        except ArgumentError:
            raise StoreError(f"there is no driver {parsed.drivername}") from None
        self.writer = Writer("store-writer", writing, _is_busy, max_queued=max_queued, wait_s=wait_s)
        # A database in memory has one connection.
        self.reader = (
            self.writer
            if in_memory
            else Writer("store-reader", reading, _is_busy, max_queued=max_queued, wait_s=wait_s)
        )

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        if self.path:
            # Numbers of callers are in it: nobody else's business, nor are the files that SQLite puts beside it.
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            except OSError as exc:
                raise StoreError(f"{self.path}: {exc.strerror}") from None
        await self.writer.open(_prepare)
        if self.reader is not self.writer:
            await self.reader.open()

    async def close(self) -> None:
        if self.reader is not self.writer:
            await self.reader.close()
        await self.writer.close()

    # ------------------------------------------------------------ admission

    def admit(
        self,
        call: InboundCall,
        caps: Caps,
        now: float,
        *,
        bot: str = "",
        number: str = "",
        ttl_s: float = RESERVED_S,
    ) -> asyncio.Future[Admitted | Refused]:
        own = call.from_number if call.direction == "outbound" else call.to_number
        return self.writer.ask_together(slots.admit, (call, caps, now, bot, number or own, ttl_s))

    def refused(self, call: InboundCall, reason: str, now: float, *, bot: str = "") -> asyncio.Future[None]:
        return self.writer.ask(slots.refused, call, reason, now, bot)

    def rename(self, key: CallKey, call_id: str, extra: Mapping[str, str] | None = None) -> asyncio.Future[bool]:
        return self.writer.ask(slots.rename, key, call_id, extra or {})

    def connected(self, key: CallKey, worker: str, now: float) -> asyncio.Future[Connected | None]:
        return self.writer.ask(slots.connected, key, worker, now)

    def release(self, key: CallKey, *, worker: str = "") -> asyncio.Future[None]:
        return self.writer.ask(slots.release, key, worker)

    def forget(self, key: CallKey) -> asyncio.Future[None]:
        return self.writer.ask(slots.forget, key)

    def usage(self, now: float) -> asyncio.Future[Usage]:
        return self.reader.ask(slots.usage, now)

    # ------------------------------------------------------------ workers

    def renew(self, worker: Worker, now: float, *, lease_s: float = LEASE_S) -> asyncio.Future[bool]:
        return self.writer.ask(slots.renew, worker, now, lease_s)

    def retire(self, worker: str, now: float) -> asyncio.Future[None]:
        return self.writer.ask(slots.retire, worker, now)

    def workers(self, now: float) -> asyncio.Future[Sequence[Worker]]:
        return self.reader.ask(slots.alive, now)

    def owner(self, key: CallKey, now: float) -> asyncio.Future[Worker | None]:
        return self.reader.ask(slots.owner, key, now)

    # ------------------------------------------------------------ records

    def started(self, key: CallKey, info: CallInfo, bot: str, now: float) -> asyncio.Future[None]:
        return self.writer.ask(records.started, key, info, bot, now)

    def ended(
        self, key: CallKey, record: CallRecord, now: float, *, hang_up: HangUp = HangUp.NONE, worker: str = ""
    ) -> asyncio.Future[bool]:
        return self.writer.ask(records.ended, key, record, now, hang_up, worker)

    def fold(self, event: CarrierEvent, now: float) -> asyncio.Future[Folded]:
        return self.writer.ask(records.fold, event, now)

    def call(self, key: CallKey) -> asyncio.Future[StoredCall | None]:
        return self.reader.ask(records.read_call, key)

    def transcript(self, key: CallKey) -> asyncio.Future[tuple[Line, ...]]:
        return self.reader.ask(records.read_transcript, key)

    def reports(self, key: CallKey) -> asyncio.Future[Sequence[Report]]:
        return self.reader.ask(records.read_reports, key)

    def records(self, which: CallFilter, *, limit: int = 50, after: str = "") -> asyncio.Future[Page]:
        return self.reader.ask(records.records, which, max(1, min(limit, 1000)), records.position(after))

    def prune(self, now: float, *, keep_s: float, limit: int = 200) -> asyncio.Future[int]:
        return self.writer.ask(records.prune, now, keep_s, limit)

    # ------------------------------------------------------------ hang-ups and orphans

    def hang_up_due(
        self,
        ref: CallRef,
        reason: str,
        now: float,
        *,
        not_before: float | None = None,
        claim: bool = False,
        claim_s: float = CLAIM_S,
    ) -> asyncio.Future[bool]:
        return self.writer.ask(due.hang_up_due, ref, reason, now, not_before, claim_s if claim else 0.0)

    def hang_ups(
        self, now: float, *, limit: int = 20, claim_s: float = CLAIM_S
    ) -> asyncio.Future[Sequence[PendingHangUp]]:
        return self.writer.ask(due.hang_ups, now, limit, claim_s)

    def hang_up_result(
        self, key: CallKey, outcome: HangUp, now: float, *, detail: str = "", retry_at: float | None = None
    ) -> asyncio.Future[None]:
        return self.writer.ask(due.hang_up_result, key, outcome, now, detail, retry_at)

    def orphans(
        self, worker: str, now: float, *, limit: int = 20, claim_s: float = 60.0
    ) -> asyncio.Future[Sequence[StoredCall]]:
        return self.writer.ask(slots.orphans, worker, now, limit, claim_s)

    # ------------------------------------------------------------ wishes, keys

    def wish(self, key: CallKey, target: str) -> asyncio.Future[None]:
        return self.writer.ask(due.wish, key, target)

    def take_wish(self, key: CallKey, now: float) -> asyncio.Future[str | None]:
        return self.writer.ask(due.take_wish, key, now)

    def once(
        self, key: str, now: float, *, ttl_s: float, holder: str = "", repeat_s: float = 0.0
    ) -> asyncio.Future[bool]:
        return self.writer.ask_together(due.once, (key, now, ttl_s, holder, repeat_s))

    # ------------------------------------------------------------ events

    def enqueue(self, body: bytes, now: float, *, call: CallKey | None = None) -> asyncio.Future[bool]:
        return self.writer.ask_together(self._enqueue, (body, now, "" if call is None else str(call)))

    def events(
        self, now: float, *, limit: int = 50, claim_s: float = CLAIM_S
    ) -> asyncio.Future[Sequence[OutgoingEvent]]:
        return self.writer.ask(due.events, now, limit, claim_s)

    def delivered(self, event_id: int) -> asyncio.Future[None]:
        return self.writer.ask_together(self._settle, (event_id, False))

    def failed(self, event_id: int, next_try: float | None) -> asyncio.Future[None]:
        if next_try is None:
            return self.writer.ask_together(self._settle, (event_id, True))
        return self.writer.ask(due.postpone, event_id, next_try)

    def _enqueue(self, db: Connection, asked: Sequence[tuple[bytes, float, str]]) -> Sequence[bool]:
        counted, waiting = self._waiting
        if time.monotonic() - counted >= _RECOUNT_S:
            counted, waiting = time.monotonic(), due.events_waiting(db)
        answers = []
        for body, now, call in asked:
            answers.append(waiting < self._max_events)
            if answers[-1]:
                due.enqueue(db, body, now, call)
                waiting += 1
            else:
                self.counts["events_dropped"] += 1
        self._waiting = (counted, waiting)
        return answers

    def _settle(self, db: Connection, asked: Sequence[tuple[int, bool]]) -> Sequence[None]:
        for event_id, given_up in asked:
            if due.settle(db, event_id):
                self._waiting = (self._waiting[0], self._waiting[1] - 1)
                self.counts["events_given_up"] += given_up
        return [None] * len(asked)


def _prepare(db: Connection) -> None:
    """Make the tables that are missing. StoreError if those that are there are another version's."""
    metadata.create_all(db)
    version = db.execute(select(schema.c.version)).scalar()
    if version is None:
        db.execute(schema.insert().values(version=VERSION))
    elif version != VERSION:
        raise StoreError(f"the database has the tables of version {version}, this program those of {VERSION}")


# ---------------------------------------------------------------- the two databases


def _sqlite(url: str, writes: bool, wait_s: float, power_loss: bool) -> Engine:
    in_memory = make_url(url).database in (None, "", ":memory:")
    arguments = {"check_same_thread": False, "timeout": wait_s}
    engine = create_engine(url, poolclass=StaticPool if in_memory else NullPool, connect_args=arguments)
    # The writer has a finer patience of its own; but changing to WAL, at the very first, is between connections.
    pragmas = (
        "journal_mode = WAL",
        f"synchronous = {'FULL' if power_loss else 'NORMAL'}",
        "journal_size_limit = 67108864",
        "temp_store = MEMORY",
        f"busy_timeout = {0 if writes else round(wait_s * 1000)}",
    )

    def connect(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    def begin(db: Connection) -> None:
        db.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", begin)
    return engine


def _postgresql(url: str, writes: bool, wait_s: float, power_loss: bool) -> Engine:
    limit_ms = round(wait_s * 1000)
    options = f"-c lock_timeout={limit_ms} -c statement_timeout={2 * limit_ms}"
    arguments = {"connect_timeout": max(2, round(wait_s)), "options": options}
    engine = create_engine(url, poolclass=NullPool, connect_args=arguments, isolation_level="READ COMMITTED")
    if writes:
        lock = text(f"SELECT pg_advisory_xact_lock({_LOCK})")
        event.listen(engine, "begin", lambda db: db.execute(lock))
    return engine


_ENGINES: dict[str, Callable[[str, bool, float, bool], Engine]] = {"sqlite": _sqlite, "postgresql": _postgresql}


def _is_busy(exc: DBAPIError) -> bool:
    """Whether others were in the way, so that the same may succeed a moment later."""
    if isinstance(exc.orig, sqlite3.Error):
        return getattr(exc.orig, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    # lock_not_available, serialization_failure, deadlock_detected
    return getattr(exc.orig, "sqlstate", "") in ("55P03", "40001", "40P01")
