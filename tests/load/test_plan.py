"""Scenarios from a file, and the schedule that is made of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gateway.load.plan import Arrival, LoadPlan, Scenario, arrivals, read_scenarios
from media.errors import ConfigError


def plan(**more: object) -> LoadPlan:
    return LoadPlan(**{"url": "ws://127.0.0.1:1", "config": "x.toml", "calls": 10, "seconds": 30.0, **more})  # type: ignore[arg-type]


def live_at(found: list[Arrival], t: float) -> int:
    return sum(each.at <= t < each.at + each.lasts for each in found)


def test_calls_without_end_come_in_the_ramp_and_stay() -> None:
    found = list(arrivals(plan(ramp_s=5.0)))
    assert [each.at for each in found] == [0.5 * n for n in range(10)]
    assert all(each.at + each.lasts == 35.0 for each in found)


def test_short_calls_are_replaced_on_schedule() -> None:
    found = list(arrivals(plan(ramp_s=2.0, scenarios=(Scenario(seconds=4.0),))))
    assert len(found) > 70
    assert {live_at(found, t) for t in (2.5, 7.9, 13.3, 31.0)} == {10}
    assert max(each.at + each.lasts for each in found) <= 32.0


def test_arrivals_are_in_order_and_made_one_by_one() -> None:
    kinds = (Scenario(seconds=0.5), Scenario(seconds=0.7), Scenario())
    found = list(arrivals(plan(scenarios=kinds)))
    assert found == sorted(found)
    assert len({each.number for each in found}) == len(found)
    before = sys.getallocatedblocks()
    coming = arrivals(plan(seconds=20_000.0, scenarios=kinds))
    assert next(coming).number == 0
    assert sys.getallocatedblocks() - before < 10_000  # more than 200,000 are to come


def test_generators_share_the_calls() -> None:
    whole = list(arrivals(plan(scenarios=(Scenario(seconds=3.0),))))
    halves = [list(arrivals(plan(scenarios=(Scenario(seconds=3.0),), share=n, shares=2))) for n in (0, 1)]
    assert sorted([*halves[0], *halves[1]]) == whole


def test_scenarios_and_carriers_are_mixed_by_weight() -> None:
    kinds = (Scenario(name="talk", weight=3), Scenario(name="drop", end="drop"))
    found = list(arrivals(plan(calls=40, scenarios=kinds, carriers=("twilio", "plivo"))))
    assert sum(each.scenario.name == "drop" for each in found) == 10
    assert sum(each.carrier == "plivo" for each in found) == 20


def test_a_plan_travels_as_json() -> None:
    one = plan(scenarios=(Scenario(name="x", carriers=("plivo",)), Scenario()), carriers=("twilio", "vonage"))
    assert LoadPlan.unpacked(json.loads(json.dumps(one.packed()))) == one


def test_a_file_of_scenarios(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('[[scenario]]\nname = "keys"\nweight = 2\ncarriers = ["plivo"]\ndigits = "12#"\nend = "bot"\n')
    assert read_scenarios(path) == (Scenario(name="keys", weight=2.0, carriers=("plivo",), digits="12#", end="bot"),)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no \\[\\[scenario"),
        ("[[scenario]]\nlength = 3", "no setting 'length'"),
        ('[[scenario]]\nend = "badly"', "end is one of"),
        ("[[scenario]]\nseconds = -1", "seconds is"),
        ('[[scenario]]\nseconds = "3"', "seconds is str"),
        ('[[scenario]]\ndigits = "x"', "digits are of"),
        ('[[scenario]]\ncarriers = ["acme"]', "carriers are of"),
        ('[[scenario]]\ncarriers = "twilio"', "carriers is a list"),
        ('[[scenario]]\nbarge_in_by = "voice"', "barge_in_by is"),
        ("[[scenario]]\nweight = 0", "weight is more"),
        ("= nonsense", "cannot be read"),
    ],
)
def test_what_is_wrong_in_it_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_scenarios(path)
