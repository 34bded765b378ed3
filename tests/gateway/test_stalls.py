"""A loop that is held up: named while it lasts, counted, and charged to the call whose code it was."""

from __future__ import annotations

import asyncio
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from bots.base import PrepareContext
from bots.code import CodeSettings
from gateway import registry
from gateway.simulator.script import HangUp, Script, at
from gateway.stalls import Stalls
from tests.endtoend.served import run, serve
from tests.endtoend.test_agent import LONG


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    before = structlog.get_config()  # it is everybody's
    structlog.reset_defaults()
    with capture_logs() as logs:
        yield logs
    structlog.configure(**before)


Watched = tuple[Stalls, list[int]]


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A watch that is told the time, and the ticks of its clock; the thread that it watches is held up here."""
    ticks, over = [0], threading.Event()
    thread = threading.Thread(target=lambda: over.wait(60))
    thread.start()
    stalls = Stalls(lambda: ticks[0])
    stalls._watched = thread.ident or 0
    stalls.look(0.0, 0.0)
    yield stalls, ticks
    over.set()
    thread.join()


def test_a_stall_is_named_once_and_counted_with_its_length(watched: Watched, logged: list[Any]) -> None:
    stalls, ticks = watched
    for step in range(1, 13):
        stalls.look(0.25 * step, 0.25 * step)
    assert stalls.count == 1
    assert stalls.stall is not None
    assert stalls.stall.by.startswith("test_stalls.py:")
    ticks[0] += 1
    stalls.look(3.25, 3.25)
    assert (stalls.stall, stalls.seconds) == (None, 3.25)
    assert [entry["event"] for entry in logged] == ["loop.blocked", "loop.goes_on"]
    for step in range(14, 40):  # a clock that goes, if slowly
        ticks[0] += step % 2
        stalls.look(0.25 * step, 0.25 * step)
    assert stalls.count == 1


def test_a_process_that_stood_still_has_held_up_nobody(watched: Watched, logged: list[Any]) -> None:
    """A laptop's lid, a debugger, a machine without time: the watch itself was not run."""
    stalls, ticks = watched
    stalls.look(60.0, 0.01)
    stalls.look(60.25, 0.02)
    assert stalls.count == 0
    stalls.look(70.0, 9.0)  # neither was it here, but the process was busy all the while
    assert stalls.count == 1
    ticks[0] += 1
    stalls.look(70.25, 9.1)
    assert stalls.stall is None


BLOCKS = """
    import threading, time
    go_on = threading.Event()
    async def bot(call):
        await call.say("hello")
        while not go_on.is_set():
            time.sleep(0.01)
        await call.sleep(60 if call.options["ends"] else 0.1)
"""


@pytest.mark.parametrize("ends", [True, False], ids=["too long", "bearable"])
def test_a_program_that_does_not_await_is_named_and_its_call_alone_is_ended(
    ends: bool, tmp_path: Path, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        name = f"prog_blocks_{ends}"
        tmp_path.joinpath(f"{name}.py").write_text(textwrap.dedent(BLOCKS))
        monkeypatch.syspath_prepend(str(tmp_path))
        context = PrepareContext(tmp_path, (8000,), lambda text, voice, rate: bytes(1600))
        built: Any = registry.bot(f"{name}:bot").prepare(CodeSettings(options={"ends": ends}), context)
        bots = {"bot": await built, "echo": lambda call: ()}
        program = sys.modules[name]

        async with serve(bots) as served:
            gateway = served.gateway
            gateway.stalls.stop()
            gateway.stalls = stalls = Stalls(
                lambda: gateway.clock.ticks, look_s=0.02, blocked_s=0.5, ends_s=0.5 if ends else 1e9
            )

            def release() -> None:
                while not ((stall := stalls.stall) is not None and stall.by.startswith(f"{name}.py:")):
                    if over.wait(0.02):
                        break
                program.go_on.set()

            over = threading.Event()
            releaser = threading.Thread(target=release)
            releaser.start()
            stalls.start()
            try:
                calls = [
                    served.call("twilio", Script(), bot="bot", limits=LONG),  # until the bot ends it
                    served.call("twilio", Script().then(at(1.0), HangUp()), bot="echo", limits=LONG),
                ]
                await asyncio.gather(*calls)
            finally:
                over.set()
                releaser.join()
            records = {record.bot: record for record in served.records}
            assert records["bot"].reason == ("error" if ends else "completed")
            assert records["echo"].counters.get("errors", 0) == 0
            told = [entry for entry in logged if entry["event"] == "loop.blocked"]  # a machine may have its own, beside
            mine = [entry for entry in told if entry["by"].startswith(f"{name}.py:")]
            assert [entry["call"] for entry in mine] == [records["bot"].info.call_id]
            assert f"gateway_loop_stalls {len(told)}.0" in gateway.metrics.render().decode()

    run(main())
