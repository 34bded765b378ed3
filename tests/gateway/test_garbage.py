"""The collector of a serving process: what was there at the start is left alone, what calls leave behind is freed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from gateway import garbage
from tests.endtoend.served import run


class Knot:
    """Refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_was_there_stays_and_what_comes_later_is_freed() -> None:
    early = Knot()
    garbage.settle()
    assert gc.get_freeze_count() > 1000
    late = Knot()
    gone, kept = weakref.ref(late), weakref.ref(early)
    del early, late
    assert garbage.collect() >= garbage.PERIOD_S
    assert gone() is None
    assert kept() is not None


def test_few_new_objects_are_no_reason_for_it() -> None:
    garbage.settle()
    gc.collect()
    assert not garbage.is_due()
    many = [[n] for n in range(5000)]
    assert garbage.is_due()
    assert garbage.collect() >= garbage.PERIOD_S
    assert not garbage.is_due()
    assert len(many) == 5000


def test_it_is_done_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "PERIOD_S", 0.001)
    monkeypatch.setattr(garbage, "SHARE", 1000.0)
    monkeypatch.setattr(garbage, "LATEST_S", 0.001)

    async def main() -> None:
        garbage.keep_clear()
        for _ in range(2):
            gone = weakref.ref(Knot())
            async with asyncio.timeout(60):
                while gone() is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)

    run(main())
