"""A thread with a database connection, so that the event loop never waits for a disk or a lock.

Operations handed over in one turn of the loop form a chunk. The thread takes all chunks that wait, runs their
operations in one transaction, commits, and hands all results back in one wake-up. Whatever the number of callers,
there is one commit per batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from gateway.store import StoreBusy, StoreError, StoreTimeout

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.store")

Question = TypeVar("Question")
Result = TypeVar("Result")
Args = TypeVarTuple("Args")

_BATCH = 2000  # operations in one transaction
_STUCK_S = 1.0  # a transaction that is running gets this much longer before its waiters are told


def named(error: BaseException | None) -> str:
    """What a driver complains of, without its words: "OperationalError SQLITE_FULL", of PostgreSQL its SQLSTATE."""
    code = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None)
    return f"{type(error).__name__} {code}" if code else type(error).__name__


class _Operation:
    __slots__ = ("asked", "failed", "function", "future", "result", "together")

    def __init__(self, function: Callable[..., Any], asked: Any, together: bool, future: asyncio.Future[Any]) -> None:
        self.function, self.asked, self.together, self.future = function, asked, together, future
        self.result: Any = None
        self.failed: Exception | None = None


class _Chunk:
    """What was handed over in one turn of the loop."""

    __slots__ = ("abandoned", "deadline", "operations", "running", "timer")

    def __init__(self) -> None:
        self.operations: list[_Operation] = []
        self.deadline = 0.0  # monotonic
        self.running = self.abandoned = False
        self.timer: asyncio.TimerHandle | None = None


class Writer:
    """Runs operations in its thread. All methods are called on the loop."""

    def __init__(
        self, name: str, engine: Engine, is_busy: Callable[[DBAPIError], bool], *, max_queued: int, wait_s: float
    ) -> None:
        self.counts: Counter[str] = Counter()  # "batches", "operations", "lock_waits", "refused", "late"
        self.busy_s = 0.0  # time spent in transactions
        self._name, self._engine, self._is_busy = name, engine, is_busy
        self._max_queued, self._wait_s = max_queued, wait_s
        self._inbox: queue.SimpleQueue[_Chunk | None] = queue.SimpleQueue()
        self._chunk: _Chunk | None = None  # of this turn of the loop
        self._queued = 0
        self._states = threading.Lock()  # of chunks: abandoned by the loop, or running in the thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._closing = False
        self._connection: Connection | None = None

    @property
    def queued(self) -> int:
        """Operations that have not been answered."""
        return self._queued

    async def open(self, prepare: Callable[[Connection], None] | None = None) -> None:
        """Start the thread; `prepare` is its first transaction, and what it raises is raised here."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

        try:
            await self.ask(prepare or _nothing)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what was handed over; then the connection is closed."""
        if self._ended is None or self._loop is None:
            return
        if not self._closing:
            self._closing = True
            self._flush()
            self._inbox.put(None)
        try:
            async with asyncio.timeout(2 * self._wait_s + _STUCK_S):
                await asyncio.shield(self._ended)
        except TimeoutError:
            log.error("store.stuck", thread=self._name, unanswered=self._queued)

    def ask(self, function: Callable[[Connection, *Args], Result], *args: *Args) -> asyncio.Future[Result]:
        """`function(connection, *args)` in the thread: its result, once committed."""
        return self._submit(function, args, False)

    def ask_together(
        self, function: Callable[[Connection, Sequence[Question]], Sequence[Result]], question: Question
    ) -> asyncio.Future[Result]:
        """The same for what is cheaper for many at once: `function(connection, [..., question, ...])`."""
        return self._submit(function, question, True)

    def _submit(self, function: Callable[..., Any], asked: Any, together: bool) -> asyncio.Future[Any]:
        loop = self._loop
        if loop is None:
            raise StoreError("the store is not open")
        future: asyncio.Future[Any] = loop.create_future()
        if self._closing:
            future.set_exception(StoreError("the store is closed"))
            return future
        if self._queued >= self._max_queued:
            self.counts["refused"] += 1
            future.set_exception(StoreBusy(f"{self._queued} operations wait for the database"))
            return future
        chunk = self._chunk
        if chunk is None:
            chunk = self._chunk = _Chunk()
            loop.call_soon(self._flush)
        chunk.operations.append(_Operation(function, asked, together, future))
        self._queued += 1
        return future

    def _flush(self) -> None:
        chunk, self._chunk = self._chunk, None
        if chunk is None or self._loop is None:
            return
        chunk.deadline = time.monotonic() + self._wait_s
        chunk.timer = self._loop.call_later(self._wait_s + _STUCK_S, self._late, chunk)
        self._inbox.put(chunk)

    def _late(self, chunk: _Chunk) -> None:
        """The thread is stuck, in this chunk or before it."""
        with self._states:
            chunk.abandoned = not chunk.running
        self.counts["late"] += len(chunk.operations)
        for operation in chunk.operations:
            if not operation.future.done():
                if chunk.abandoned:
                    operation.future.set_exception(StoreBusy("the database does not answer"))
                else:
                    operation.future.set_exception(StoreTimeout("the database has not confirmed in time"))
        if chunk.abandoned:
            self._queued -= len(chunk.operations)

    def _deliver(self, batch: Sequence[_Chunk]) -> None:
        for chunk in batch:
            if chunk.timer is not None:
                chunk.timer.cancel()
            self._queued -= len(chunk.operations)
            for operation in chunk.operations:
                if operation.future.done():
                    continue  # nobody waits any more
                if operation.failed is not None:
                    operation.future.set_exception(operation.failed)
                else:
                    operation.future.set_result(operation.result)

    def _over(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    # ------------------------------------------------------------ in the thread

    def _work(self) -> None:
        going = True
        while going:
            batch: list[_Chunk] = []
            size = 0
            chunk = self._inbox.get()
            while True:
                if chunk is None:
                    going = False
                    break
                with self._states:
                    chunk.running = not chunk.abandoned
                if chunk.running:
                    batch.append(chunk)
                    size += len(chunk.operations)
                if size >= _BATCH:
                    break
                try:
                    chunk = self._inbox.get_nowait()
                except queue.Empty:
                    break
            if batch:
                began = time.monotonic()
                self._run(batch)
                self.busy_s += time.monotonic() - began
        self._disconnect()
        self._tell(self._over)

    def _tell(self, callback: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            assert self._loop is not None
            self._loop.call_soon_threadsafe(callback, *args)

    def _run(self, batch: Sequence[_Chunk]) -> None:
        """All in one transaction. If an operation fails, each in its own, so that it fails alone."""
        while batch:
            operations = [operation for chunk in batch for operation in chunk.operations]
            try:
                self._transaction(operations, min(chunk.deadline for chunk in batch))
            except StoreBusy as exc:
                now = time.monotonic()
                late = [chunk for chunk in batch if chunk.deadline <= now]
                batch = [chunk for chunk in batch if chunk.deadline > now]
                for operation in (operation for chunk in late for operation in chunk.operations):
                    operation.failed = exc
                self._tell(self._deliver, late)
                continue
            except Exception as exc:
                if len(operations) == 1:
                    operations[0].failed = self._translated(exc)
                else:
                    self.counts["split"] += 1
                    self._one_by_one(operations)
            self.counts["batches"] += 1
            self.counts["operations"] += len(operations)
            self._tell(self._deliver, batch)
            return

    def _one_by_one(self, operations: Sequence[_Operation]) -> None:
        deadline = time.monotonic() + self._wait_s
        for operation in operations:
            try:
                self._transaction([operation], deadline)
            except Exception as exc:
                operation.failed = self._translated(exc)

    def _transaction(self, operations: Sequence[_Operation], deadline: float) -> None:
        """Raises StoreBusy if the database is held by others until `deadline`, else what an operation raised."""
        pause = 0.0002
        while True:
            committing = False
            try:
                transaction = self._connected(deadline).begin()
                db = transaction.connection
                try:
                    _execute(db, operations)
                    committing = True
                    transaction.commit()
                    return
                finally:
                    transaction.close()  # rolls back what is not committed
            except DBAPIError as exc:
                if exc.connection_invalidated:
                    self._disconnect()
                    if committing:
                        raise StoreTimeout("the connection was lost while committing") from None
                elif not self._is_busy(exc):
                    raise
                if time.monotonic() >= deadline:
                    raise StoreBusy("others hold the database") from None
                # SQLite's own waiting goes in steps of up to 100 ms; a transaction of another worker takes one or two.
                self.counts["lock_waits"] += 1
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 1.5, 0.005)

    def _connected(self, deadline: float) -> Connection:
        while self._connection is None:
            try:
                self._connection = self._engine.connect()
            except DBAPIError as exc:
                if time.monotonic() >= deadline:
                    why = str(exc.orig).partition("\n")[0]
                    brief = "the database cannot be reached"
                    raise StoreBusy(f"{brief}: {why}", brief=brief) from None
                time.sleep(0.05)
        return self._connection

    def _translated(self, exc: Exception) -> Exception:
        """What the waiter gets. An error of the database does not name values: they may be numbers of callers."""
        if isinstance(exc, StoreError) or not isinstance(exc, DBAPIError):
            return exc
        problem = named(exc.orig)
        log.error("store.failed", thread=self._name, problem=problem)
        return StoreError(f"the database refused: {problem}")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(DBAPIError):
                connection.close()
        self._engine.dispose()


def _nothing(db: Connection) -> None:
    pass


def _execute(db: Connection, operations: Sequence[_Operation]) -> None:
    """In order; neighbours that are asked together are."""
    start, count = 0, len(operations)
    while start < count:
        first = operations[start]
        start += 1
        if not first.together:
            first.result = first.function(db, *first.asked)
            continue
        same = [first]
        while start < count and operations[start].function == first.function:
            same.append(operations[start])
            start += 1
        for operation, result in zip(same, first.function(db, [one.asked for one in same]), strict=True):
            operation.result = result
