"""What must be done every now and then: old records go, and a worker that was away takes its calls back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from gateway.store import Store, StoreError

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.housekeeping")

PRUNE_EVERY_S = 600.0


async def prune(store: Store, keep_s: float, *, every_s: float = PRUNE_EVERY_S) -> None:
    """Delete records that ended more than `keep_s` ago, a few at a time. Runs until it is cancelled."""
    while True:
        try:
            gone = total = await store.prune(time.time(), keep_s=keep_s)
            while gone:
                await asyncio.sleep(0.05)  # others want the database too
                gone = await store.prune(time.time(), keep_s=keep_s)
                total += gone
            if total:
                log.info("records.pruned", rows=total)
        except StoreError as exc:
            log.warning("records.not_pruned", problem=str(exc))
        await asyncio.sleep(every_s)


async def keep_lease(
    renew: Callable[[], Awaitable[bool]],
    away: Callable[[], Awaitable[None]],
    every_s: float,
    told: Callable[[str], None] = lambda problem: None,
) -> None:
    """Renew this worker's lease; `away` is called when it had run out, so that its calls were taken for lost.

    `told` hears what came of each: "", or why the store did not take it.
    """
    while True:
        await asyncio.sleep(every_s)
        try:
            held = await renew()
            told("")
            if not held:
                log.error("worker.lease_was_lost")
                await away()
        except StoreError as exc:
            log.error("worker.lease_not_renewed", problem=str(exc))
            told(exc.brief)
