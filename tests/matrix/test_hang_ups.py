"""The hang-up matrix: each carrier, who ends the call first, what goes wrong at its REST interface, and where the
process dies. Whatever happens: one end that takes effect, the last word heard, no call left standing,
a record that is true.

The gateway is a real process with all waits a fiftieth of those in service; the carriers are the simulator's, over HTTP
and WebSockets on loopback. A cell that fails is named with all that was not right. Where a process was held up for so
long that carriers may have replied too late, the machine was too busy for that: these cells again, with longer waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.matrix.floor import ENDS, FAULTS, REST, SOCKETS, Cell, crashing, judge, ordinary, site

pytestmark = pytest.mark.alone  # a fiftieth of a carrier's five seconds is not long where others compute, too
GROUPS = {"all": ("twilio", "telnyx", "plivo", "vonage", *SOCKETS), "call-control": ("telnyx-control",)}
# Where a process dies, all its calls are up at once: few, so that replies have their fiftieth of five seconds.
SMALL = {
    "twilio": ("twilio",),
    "telnyx": ("telnyx",),
    "call-control": ("telnyx-control",),
    "plivo": ("plivo",),
    "vonage": ("vonage", *SOCKETS),
}
SCALES = (1 / 50, 1 / 10, 1 / 3)
LONGEST_S = 1.0
AT_ONCE = 30
# Ends after which requests are made that a fault can befall twice, once on either side of a crash.
FAULTY = ("bot", "lost", "transfer")
SURVIVED = tuple(end for end in ENDS if end not in ("caller", "longest"))


def cells(carriers: Sequence[str], ends: Sequence[str], crash: str = "") -> Iterator[Cell]:
    for carrier in carriers:
        for end in ends:
            by_request = carrier in REST and end != "caller" and (not crash or end in FAULTY)
            for fault in FAULTS if by_request else ("none",):
                yield Cell(carrier, end, fault, crash)


def played(folder: Path, carriers: Sequence[str], plan: Sequence[Cell], *, longest_s: float = 60.0) -> None:
    crash = plan[0].crash

    async def main(cells: Sequence[Cell], scale: float) -> bool:
        """Whether the machine may be the reason of what is not right."""
        where = folder / f"{scale:.2f}"
        where.mkdir()
        async with site(where, carriers, longest_s=longest_s, scale=scale) as place:
            if crash:
                await crashing(place, cells, "" if crash == "live" else crash)
            else:
                await ordinary(place, cells, AT_ONCE)
            await judge(place, cells)
        return place.held_up

    failed = plan
    for scale in SCALES:
        failed = [Cell(cell.carrier, cell.end, cell.fault, crash) for cell in failed]
        held_up = asyncio.run(main(failed, scale))
        failed = [cell for cell in failed if cell.problems]
        if not (failed and held_up):
            break
    assert not [f"{cell}: {'; '.join(cell.problems)}" for cell in failed]


@pytest.mark.parametrize("group", GROUPS)
def test_every_call_ends_once(group: str, tmp_path: Path) -> None:
    carriers = GROUPS[group]
    played(tmp_path, carriers, list(cells(carriers, [end for end in ENDS if end != "longest"])))


@pytest.mark.parametrize("group", GROUPS)
def test_the_longest_call_ends_once(group: str, tmp_path: Path) -> None:
    carriers = GROUPS[group]
    played(tmp_path, carriers, list(cells(carriers, ["longest"])), longest_s=LONGEST_S)


@pytest.mark.parametrize("crash", ["before", "after"])
@pytest.mark.parametrize("group", SMALL)
def test_a_crash_around_the_request_leaves_no_call_standing(group: str, crash: str, tmp_path: Path) -> None:
    carriers = SMALL[group]
    played(tmp_path, carriers, list(cells(carriers, SURVIVED, crash)))


@pytest.mark.parametrize("group", GROUPS)
def test_calls_whose_process_dies_are_ended(group: str, tmp_path: Path) -> None:
    carriers = GROUPS[group]
    played(tmp_path, carriers, list(cells(carriers, ["bot"], "live")))
