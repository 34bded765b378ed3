"""The search for the knee, on made-up gateways; and one short search on a real one."""

from __future__ import annotations

import json

import pytest

from gateway import cli
from gateway.commands.capacity import capacity_page, conclusion
from gateway.load.capacity import Found, Probe, search, with_limit
from media.errors import ConfigError


class Box:
    """Carries up to `knee` calls; `bad` numbers fail once."""

    def __init__(self, knee: int, bad: tuple[int, ...] = (), generator: int = 10_000) -> None:
        self.knee, self.bad, self.generator = knee, list(bad), generator
        self.asked: list[int] = []

    def __call__(self, calls: int) -> Probe:
        self.asked.append(calls)
        if calls > self.generator:
            return Probe(calls, {}, (), "the generator was late")
        if calls in self.bad:
            self.bad.remove(calls)
            return Probe(calls, {}, ("gaps: 1",))
        return Probe(calls, {"gaps": 0.0}, () if calls <= self.knee else ("gaps: 3",), server_ms=1.0)


@pytest.mark.parametrize("knee", [1, 7, 50, 333, 632, 1363])
def test_the_knee_is_found_to_five_percent(knee: int) -> None:
    box = Box(knee)
    found = search(box, Found())
    assert found.complete
    assert 0.94 * knee - 1 <= found.knee <= knee
    assert found.reason.startswith("gaps: 3 with ")
    assert found.limit == ("gaps",)
    assert len(box.asked) < 25


def test_one_bad_moment_is_not_the_gateways() -> None:
    found = search(Box(400, bad=(100, 200)), Found())
    assert found.knee >= 380


def test_a_generator_that_gives_way_ends_the_search() -> None:
    found = search(Box(5000, generator=300), Found())
    assert (found.complete, found.knee, found.reason) == (False, 200, "the generator was late")


def test_the_search_goes_no_further_than_it_may() -> None:
    found = search(Box(5000), Found(), most=120)
    assert (found.complete, found.knee) == (False, 120)
    assert found.limit == ()
    assert "at least 120 calls" in "\n".join(conclusion(found))


def test_a_bad_moment_below_the_end_of_the_search_is_not_the_limit() -> None:
    found = search(Box(5000, bad=(100,)), Found(), most=120)
    assert (found.knee, found.limit) == (120, ())
    assert "limit" not in "\n".join(conclusion(found))


def test_where_nothing_could_be_measured_nothing_is_said_of_the_gateway() -> None:
    found = search(Box(5000, generator=0), Found())
    text = "\n".join(conclusion(found))
    assert "not even" not in text
    assert "the generator was late" in text
    assert "max_calls" not in text


def test_a_box_that_carries_nothing() -> None:
    found = search(Box(0), Found())
    assert found.knee == 0
    assert "not even 1" in "\n".join(conclusion(found))


def test_the_page_stands_alone() -> None:
    found = search(Box(100), Found())
    assert found.proposed == int(0.8 * found.knee)
    text = capacity_page(found)
    assert f"<h1>{found.knee} calls on one core</h1>" in text
    assert text.count("<svg") == 2  # the cost, and the one objective that has figures
    assert text.count(f"knee {found.knee}") == 2
    assert "limit       gaps: 3 with " in text
    assert "cpu         1.00 ms per call-second" in text
    assert "<b>" not in capacity_page(found, "<b>")


def test_the_limit_is_written_and_nothing_else_changed() -> None:
    text = "# mine\n[gateway]  # here\nport = 1\nmax_calls = 2_00  # why\n[carriers.twilio]\nmax_calls = 7\n"
    assert with_limit(text, 345) == text.replace("2_00", "345")
    assert with_limit("[gateway]\nport = 1\n[x]\nmax_calls = 7\n", 9) == (
        "[gateway]\nmax_calls = 9\nport = 1\n[x]\nmax_calls = 7\n"
    )
    assert with_limit("[gateway]", 9) == "[gateway]\nmax_calls = 9\n"
    with pytest.raises(ConfigError):
        with_limit("[bots.echo]\n", 9)


def test_a_short_search_on_a_real_gateway(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["capacity", "--start", "3", "--most", "3", "--seconds", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 1  # it ended before something broke, or the machine was too busy
    assert found["probes"][0]["calls"] == 3
    assert found["calls"] in (0, 1, 2, 3)


def test_write_needs_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["capacity", "--write"]) == 2
    assert "--config" in capsys.readouterr().err


def test_a_running_gateway_is_entered_by_its_own_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["capacity", "--url", "ws://127.0.0.1:1"]) == 2
    assert "needs --config" in capsys.readouterr().err
