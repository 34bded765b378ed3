"""What generators count, and how it is added up."""

from __future__ import annotations

import json

import pytest

from gateway.load.tally import Spread, Tally


def test_quantiles_are_of_all_values() -> None:
    spread = Spread()
    for ms in range(1, 101):
        spread.add(ms / 1000)
    assert spread.count == 100
    assert spread.quantile(0.5) == pytest.approx(50, abs=1)
    assert spread.quantile(0.99) == pytest.approx(99, abs=1)
    assert spread.worst_ms == pytest.approx(100)
    assert Spread().quantile(0.5) is None
    assert Spread().summary()["p99"] is None


def test_what_is_longer_than_the_bins_is_the_worst() -> None:
    spread = Spread()
    spread.add(60.0)
    spread.add(-0.1)
    assert (spread.count, spread.worst_ms) == (2, 60_000)


def test_a_tally_travels_as_json_and_adds_up() -> None:
    one, other = Tally(placed=3, live=1), Tally(placed=4, live=2)
    one.failed["no connection"] += 2
    other.failed["no connection"] += 1
    one.echo.add(0.020)
    other.echo.add(0.040)
    back = Tally.unpacked(json.loads(json.dumps(other.packed())))
    assert back == other
    one.merge(back)
    assert (one.placed, one.live, one.failed["no connection"]) == (7, 3, 3)
    assert one.echo.count == 2
    assert one.echo.worst_ms == pytest.approx(40)
