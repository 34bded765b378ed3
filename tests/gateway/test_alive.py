"""What a process that fell had is taken up by the next one, at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.alive import Lives
from gateway.store import CallFilter, CallKey, Caps, HangUp, Standing, Worker
from gateway.store_sql import SqlStore
from tests.endtoend.served import until
from tests.gateway.rig import running
from webhooks.base import InboundCall

HOLD = """
import sys
from gateway.alive import Lives
Lives(sys.argv[1]).begin("other")
print("held", flush=True)
sys.stdin.read()
"""


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("gateway.db-worker-*"))


def gone(beside: Path) -> list[str]:
    with Lives(str(beside)).gone() as found:
        return found


def test_a_worker_is_gone_when_its_process_is(tmp_path: Path) -> None:
    database = tmp_path / "gateway.db"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert gone(database) == []
        process.kill()
    assert gone(tmp_path / "another.db") == []
    assert gone(database) == ["other"]
    assert gone(database) == []
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_leaves_in_good_order_leaves_no_file(tmp_path: Path) -> None:
    database = tmp_path / "gateway.db"
    mine = Lives(str(database))
    mine.begin("me")
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600]
    assert gone(database) == []
    with mine.gone() as found:
        assert found == []
    mine.end("me")
    mine.end("me")
    assert list(tmp_path.iterdir()) == []


def test_who_cannot_be_buried_now_is_found_again(tmp_path: Path) -> None:
    database = tmp_path / "gateway.db"
    (tmp_path / "gateway.db-worker-other").touch()
    with pytest.raises(RuntimeError), Lives(str(database)).gone():
        raise RuntimeError
    assert gone(database) == ["other"]


def test_where_no_file_can_be_there_are_still_the_leases(tmp_path: Path) -> None:
    for beside in ("", str(tmp_path / "nowhere" / "gateway.db")):
        lives = Lives(beside)
        lives.begin("me")
        with lives.gone() as found:
            assert found == []
        lives.end("me")


def test_the_calls_of_a_process_that_fell_are_ended_before_its_lease_runs_out(tmp_path: Path) -> None:

    async def main() -> None:
        before = SqlStore(f"sqlite:///{tmp_path}/gateway.db")
        await before.open()
        now = time.time()
        for worker in ("fell", "stands"):
            await before.renew(Worker(worker), now, lease_s=1e6)
        for n, worker in ((1, "fell"), (2, "stands")):
            one = InboundCall(carrier="twilio", call_id=f"CA{n:032}", account_id="AC" + "0" * 32)
            await before.admit(one, Caps(), now, bot="echo")
            assert await before.connected(CallKey("twilio", one.call_id), worker, now) is not None
        await before.close()
        (tmp_path / "gateway.db-worker-fell").touch()  # unlocked, as it is when its process has died
        stands = Lives(f"{tmp_path}/gateway.db")
        stands.begin("stands")
        async with running(tmp_path, gateway=f"store = 'sqlite:///{tmp_path}/gateway.db'") as it:
            it.web("twilio")

            async def record(n: int) -> object:
                found = await it.gateway.store.records(CallFilter())
                (call,) = (one for one in found.calls if one.key.call_id == f"CA{n:032}")
                return call.standing, call.hang_up, call.ended_by, call.reason

            await until(lambda: it.gateway.hang_ups.counters["orphans"] == 1, 60)
            over = (Standing.LOST, HangUp.ALREADY_OVER, "carrier", "process-died")  # the carrier knows of no such call
            for _ in range(200):
                if (await record(1)) == over:
                    break
                await asyncio.sleep(0.05)
            assert await record(1) == over
            assert await record(2) == (Standing.LIVE, HangUp.NONE, "", "")
            assert len(files(tmp_path)) == 2
        assert files(tmp_path) == ["gateway.db-worker-stands"]
        stands.end("stands")

    asyncio.run(main())
