"""`gateway capacity` and `gateway demo` ended from outside: what they have started ends with them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gateway.commands import demo
from gateway.commands.terminable import terminable


def test_sigterm_unwinds_what_was_begun() -> None:
    before = signal.getsignal(signal.SIGTERM)
    undone: list[str] = []

    def command() -> None:
        with terminable():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                signal.sigtimedwait([], 5.0)  # the handler runs before this is over
                undone.append("nobody was told")
            finally:
                undone.append("the gateway")

    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 128 + signal.SIGTERM
    assert undone == ["the gateway"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_demo_that_is_terminated_ends_its_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undone: list[str] = []

    async def calls(folder: Path, out: Path, carriers: Sequence[str], say: Callable[[str], None]) -> list[demo.Outcome]:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)
            undone.append("nobody was told")
        finally:
            await asyncio.sleep(0)  # as for a process that is to end
            undone.extend(("the gateway", str(folder)))
        return []

    monkeypatch.setattr(demo, "_demo", calls)
    with pytest.raises(SystemExit) as ended:
        demo.demo(out=tmp_path)
    assert ended.value.code == 128 + signal.SIGTERM
    assert undone[0] == "the gateway"
    assert not Path(undone[1]).exists()
