"""The ledger of whole calls against the fake carriers' true play-out; benchmarks/ledger.py runs thousands of them."""

from __future__ import annotations

import pytest

from gateway.registry import carrier_names, serializer_class
from tests.gateway.playout import judge

SCHEDULES = 6


@pytest.mark.parametrize("carrier", carrier_names())
def test_the_ledger_knows_what_was_heard(carrier: str) -> None:
    """Within a frame and the way. Where Genesys rations messages, some audio leaves later than the ledger thinks."""
    verdicts = [judge(carrier, seed, longest_way_s=0.02, seconds=5.0) for seed in range(SCHEDULES)]
    beyond = [verdict for verdict in verdicts if verdict.worst_ms > verdict.allowed_ms]
    assert len(beyond) <= 1
    assert all(verdict.worst_ms < verdict.allowed_ms + 100 for verdict in verdicts)
    assert sum(verdict.holds for verdict in verdicts)
    if serializer_class(carrier).clears:
        assert sum(verdict.clears for verdict in verdicts) >= SCHEDULES
    errors = sorted(abs(error) for verdict in verdicts for error in verdict.errors_ms)
    assert errors[len(errors) // 2] <= 12.0
