"""What a carrier's side has noted in one worker is known in the other, over their sockets."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from gateway.app import Gateway
from gateway.settings import parse_settings
from gateway.store_sql import SqlStore
from tests.endtoend.served import run, until
from webhooks.notes import Notes

TABLE = {
    "gateway": {"secret": {"file": "secret"}},
    "carriers": {"genesys": {"keys": {"main": {"api_key": {"file": "secret"}, "unsigned": True}}}},
    "bots": {"echo": {"use": "echo"}},
}


def made(folder: Path, endpoint: str = "") -> Gateway:
    (folder / "secret").write_text("for a test, and long enough for one")
    store = SqlStore(f"sqlite:///{folder / 'gateway.db'}")
    return Gateway(parse_settings(TABLE, folder), {}, store=store, endpoint=endpoint)


def worker(folder: Path, number: int) -> tuple[Gateway, Notes]:
    """With notes of its own, as if it were alone in its process."""
    gateway = made(folder, str(folder / f"{number}.sock"))
    http, notes = gateway.http["genesys"], Notes(3)
    assert http.notes is not None
    http.notes.tell = None
    http.__dict__["notes"] = notes
    gateway.notes.keep(gateway.http.values())
    return gateway, notes


async def known(gateway: Gateway) -> None:
    """Wait until it knows the other one."""
    for _ in range(1000):
        if await gateway.colleagues.others(time.time()):
            return
        await asyncio.sleep(0.01)


def test_a_note_goes_to_the_other_worker(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            (one, here), (other, there) = (worker(tmp_path, number) for number in range(2))
            for gateway in (one, other):
                await gateway.start()
                stack.push_async_callback(gateway.stop)
            for gateway in (one, other):
                await known(gateway)
            for position in range(1, 6):
                here["a session"] = position * 8000
            here["another"] = 1
            await until(lambda: dict(there) == {"a session": 40_000, "another": 1})
            there["a third"] = 2
            await until(lambda: dict(here) == {"a session": 40_000, "another": 1, "a third": 2})
            there["a fourth"] = 3
            assert list(there) == ["another", "a third", "a fourth"], "the oldest is forgotten"
        assert here.tell is None

    run(main())


def test_a_gateway_that_is_alone_tells_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        gateway = made(tmp_path)
        await gateway.start()
        notes = gateway.http["genesys"].notes
        assert notes is not None
        assert notes.tell is None
        await gateway.stop()

    run(main())


def test_what_is_told_comes_in_by_itself() -> None:
    told: list[tuple[str, int]] = []
    notes = Notes(2)
    notes.tell = lambda key, value: told.append((key, value))
    notes.learn("a", 1)
    notes["b"] = 2
    notes["a"] = 3
    notes["c"] = 4
    assert told == [("b", 2), ("a", 3), ("c", 4)], "what others say is not told again"
    assert dict(notes) == {"a": 3, "c": 4}, "noted again is newer"
