"""The ledger of whole calls against the fake carriers' true play-out; benchmarks/ledger.py runs thousands of them."""

from __future__ import annotations

from collections import Counter

import pytest

from gateway.registry import carrier_names, serializer_class
from tests.gateway.playout import judge

SCHEDULES = 12


@pytest.mark.parametrize("carrier", carrier_names())
def test_the_ledger_knows_what_was_heard(carrier: str) -> None:
    """Within a frame and the way, whatever happens in between."""
    verdicts = [judge(carrier, seed, longest_way_s=0.02, seconds=5.0) for seed in range(SCHEDULES)]
    for seed, verdict in enumerate(verdicts):
        assert verdict.worst_ms <= verdict.allowed_ms, f"schedule {seed}"
    assert {"holds", "items", "stalls"} <= set(sum((verdict.met for verdict in verdicts), Counter()))
    if serializer_class(carrier).clears:
        assert sum(verdict.clears for verdict in verdicts) >= SCHEDULES // 2
    errors = sorted(abs(error) for verdict in verdicts for error in verdict.errors_ms)
    assert errors[len(errors) // 2] <= 12.0
