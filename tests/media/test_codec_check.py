"""What the first second of a call tells about its rate, however late it comes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.codec_check import CodecCheck, Contradiction

RATES = (8000, 16000, 24000)


def judged(
    agreed: int, true: int, gaps_s: Iterable[float], *, timed: bool, lost: Sequence[int] = ()
) -> Contradiction | None:
    """Silence in packets of 20 ms at `true` Hz, that come by `gaps_s` after one another, again and again."""
    check, now, found, gaps = CodecCheck("L16", agreed), 0.0, None, list(gaps_s)
    for number in range(100_000):
        if check.is_over:
            return found
        now += gaps[number % len(gaps)]
        if number not in lost:
            found = check.hear(bytes(2 * true // 50), now, number if timed else None, number * 20 if timed else None)
    raise AssertionError("it never ended")


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize(("agreed", "true"), [(a, b) for a in RATES for b in RATES if a != b])
def test_another_rate_is_found(agreed: int, true: int, timed: bool) -> None:
    found = judged(agreed, true, [0.02], timed=timed)
    assert found is not None
    assert (found.negotiated, found.looks_like) == (f"L16 at {agreed} Hz", f"{true} Hz")


def test_another_rate_is_found_though_half_of_it_is_lost_or_comes_in_bursts() -> None:
    lost = [number for number in range(100) if number % 4 in (1, 2)]
    for agreed, true in ((16000, 8000), (24000, 8000)):
        assert judged(agreed, true, [0.02], timed=True, lost=lost) is not None
    assert judged(8000, 24000, [0.1, 0.0, 0.0, 0.0, 0.0], timed=True) is not None


@given(
    agreed=st.sampled_from(RATES),
    gaps_s=st.lists(st.floats(0.0, 0.5), min_size=1, max_size=40).filter(lambda gaps: sum(gaps) > 0.05),
    timed=st.booleans(),
)
def test_when_packets_come_never_accuses(agreed: int, gaps_s: list[float], timed: bool) -> None:
    assert judged(agreed, agreed, gaps_s, timed=timed) is None


@pytest.mark.parametrize(
    "lost", [range(1, 1000, 2), [n for n in range(1000) if n % 4 in (1, 2)]], ids=["2nd", "halves"]
)
def test_what_is_lost_never_accuses(lost: Sequence[int]) -> None:
    assert judged(16000, 16000, [0.02], timed=True, lost=lost) is None


def test_timestamps_alone_never_accuse() -> None:
    """A carrier that counts wrongly, of audio that comes as it was agreed."""
    check, found = CodecCheck("L16", 16000), None
    for number in range(200):
        if check.is_over:
            break
        found = check.hear(bytes(640), number * 0.02, number, number * 40)
    assert check.is_over
    assert found is None
