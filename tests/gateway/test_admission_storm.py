"""A thousand callers at once and fifty places: two processes share the store, and exactly fifty are let in."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from gateway.simulator.base import CallPlan
from tests.matrix.desk import desk, web_of

RUNS, CALLERS, LIMIT = 10, 1000, 50
STREAM = {
    "twilio": b"<Stream",
    "plivo": b"<Stream",
    "vonage": b'"websocket"',
    "exotel": b"wss://",
    "telnyx": b"<Stream",
}


async def storm(carrier: str, folder: Path) -> tuple[int, int, int]:
    """How many were let in, how many turned away, and how many places are taken."""
    web = web_of(carrier)
    async with (
        desk(folder, [web], gateway={"max_calls": LIMIT}) as one,
        desk(folder, [web], gateway={"max_calls": LIMIT}) as other,
    ):
        calls = []
        for n in range(CALLERS):
            call = web.place(CallPlan(from_number=f"+1415{n:07d}", to_number="+14155550100"), time.time())
            webhook = next(one for one in call.webhooks if one.what == "answer")
            calls.append(web.signed(webhook, time.time()))
        replies = await asyncio.gather(*((one, other)[n % 2].send(webhook) for n, webhook in enumerate(calls)))
        usage = await one.gateway.store.usage(time.time())
    let_in = sum(reply.status == 200 and STREAM[carrier] in reply.body for reply in replies)
    turned_away = sum(STREAM[carrier] not in reply.body for reply in replies)
    return let_in, turned_away, usage.live + usage.reserved


@pytest.mark.parametrize("run", range(RUNS))
def test_exactly_as_many_as_there_are_places(run: int, tmp_path: Path) -> None:
    carrier = sorted(STREAM)[run % len(STREAM)]
    assert asyncio.run(storm(carrier, tmp_path)) == (LIMIT, CALLERS - LIMIT, LIMIT)
