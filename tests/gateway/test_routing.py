"""Numbers: which of them counts, and which of its bots."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.registry import prepare_bots
from gateway.routing import explain, resolve
from gateway.settings import Settings, parse_settings
from gateway.snapshot import snapshot_of
from media.call import CallInfo
from media.errors import ConfigErrors

BOTS = {name: {"use": "echo"} for name in ("a", "b", "c", "d", "e", "f", "g")}


def settings_of(numbers: dict[str, Any], **more: Any) -> Settings:
    return parse_settings({"bots": BOTS, "numbers": numbers, **more})


def mistakes(data: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigErrors) as caught:
        parse_settings(data)
    return {one.path: one.problem for one in caught.value.errors}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("carrier", "number", "bot", "matched_by"),
    [
        ("twilio", "+15550100", "a", "exact"),
        ("telnyx", "15550100", "b", "exact"),
        ("plivo", "+15550142", "c", "pattern"),
        ("plivo", "+15550143", "d", "prefix"),
        ("telnyx", "+15550143", "e", "prefix"),
        ("telnyx", "+49301", "f", "default"),
        ("twilio", "+49301", "g", "default"),
    ],
)
def test_the_most_telling_rule_counts(carrier: str, number: str, bot: str, matched_by: str) -> None:
    settings = settings_of(
        {
            "default": {"bot": "f"},
            "twilio:default": {"bot": "g"},
            "+1555*": {"bot": "d"},
            "telnyx:+1555*": {"bot": "e"},
            r"/\+1555\d{3}2/": {"bot": "c"},
            "+1 555 0100": {"bot": "a"},
            "telnyx:+1 555 0100": {"bot": "b"},
        }
    )
    route = resolve(settings, carrier, number)
    assert route is not None
    assert (route.bot_name, route.matched_by) == (bot, matched_by)
    considered, again = explain(settings, carrier, number)
    assert again == route
    assert len(considered) == len(settings.numbers)
    assert [one.key for one in considered if one.matched] == [route.key]
    assert considered[0].matched


OFFICE = {
    "time_zone": "Europe/Berlin",
    "open": {"mon-fri": ["09:00-12:30", "13:00-17:00"], "sat": ["10:00-12:00"]},
    "holidays": ["12-25", "2026-05-14"],
    "special": {"2026-12-24": ["09:00-12:00"]},
}


@pytest.mark.parametrize(
    ("moment", "bot"),
    [
        ("2026-07-06T06:59", "b"),  # 08:59 in summer
        ("2026-07-06T07:00", "a"),
        ("2026-01-05T07:59", "b"),  # 08:59 in winter
        ("2026-01-05T08:00", "a"),
        ("2026-01-05T11:30", "b"),  # lunch
        ("2026-01-05T12:00", "a"),
        ("2026-01-05T16:00", "b"),
        ("2026-01-03T09:30", "a"),  # Saturday
        ("2026-01-04T10:00", "b"),  # Sunday
        ("2028-12-25T10:00", "b"),  # every year's, a Monday
        ("2026-05-14T10:00", "b"),
        ("2026-12-24T10:30", "a"),
        ("2026-12-24T11:30", "b"),
    ],
)
def test_outside_of_the_hours_another_bot_answers(moment: str, bot: str) -> None:
    settings = settings_of({"+1": {"bot": "a", "hours": "office", "closed": "b"}}, schedules={"office": OFFICE})
    route = resolve(settings, "twilio", "+1", at=at(moment))
    assert route is not None
    assert route.bot_name == bot
    assert ("closed" if bot == "b" else "open") in route.explanation


def test_a_share_of_the_calls_and_the_same_bot_for_the_same_call() -> None:
    settings = settings_of({"+1": {"bot": "a", "share": {"b": 5, "c": 15.5}}})
    found: dict[str, int] = {}
    for number in range(4000):
        route = resolve(settings, "twilio", "+1", call_id=f"CA{number}")
        assert route is not None
        assert resolve(settings, "twilio", "+1", call_id=f"CA{number}") == route
        found[route.bot_name] = found.get(route.bot_name, 0) + 1
    assert 150 <= found["b"] <= 250
    assert 540 <= found["c"] <= 700


def test_bots_inherit_and_numbers_change_them() -> None:
    reception = {
        "use": "menu",
        "timeout_s": 4.0,
        "menus": {"main": {"prompt": "Press 1.", "choices": {"1": {"end": True}}}},
        "languages": {"de": {"menus": {"main": {"prompt": "Druecken Sie die 1."}}}},
    }
    settings = parse_settings(
        {
            "bots": {"reception": reception, "quick": {"extends": "reception", "timeout_s": 2.0}},
            "numbers": {
                "+1": {"bot": "quick"},
                "+49": {"bot": "quick", "language": "de", "on_error": "transfer:+1"},
                "+43": {"bot": "quick", "language": "de", "settings": {"timeout_s": 9.0}},
            },
        }
    )
    assert set(settings.bots) == {"reception", "quick", "quick@de", "quick@+43"}
    options = {name: entry.options for name, entry in settings.bots.items()}
    assert [options[name].timeout_s for name in options] == [4.0, 2.0, 2.0, 9.0]
    assert options["quick"].menus["main"].prompt == "Press 1."
    assert options["quick@de"].menus["main"].prompt == "Druecken Sie die 1."
    assert options["quick@de"].voice == options["quick@+43"].voice == "de"
    assert options["quick@+43"].menus["main"].prompt == "Druecken Sie die 1."
    builds = prepare_bots(settings, speak=lambda text, voice, rate: bytes(320))
    snapshot = snapshot_of(settings, builds)
    for number, bot in (("+1", "quick"), ("+49", "quick@de"), ("+43", "quick@+43")):
        route = snapshot.route(CallInfo(carrier="twilio", call_id="CA1", to_number=number))
        assert route is not None
        assert (route.bot, route.build) == (bot, builds[bot])
    german = snapshot.route(CallInfo(carrier="twilio", call_id="CA1", to_number="+49"), "quick@de")
    assert german is not None
    assert german.on_error == "transfer:+1"


def test_every_mistake_is_told_where_it_was_made(tmp_path: Path) -> None:
    found = mistakes(
        {
            "bots": {
                "a": {"use": "echo", "sample_rate": 7},
                "b": {"extends": "a"},
                "c": {"extends": "a", "speed": 3},
                "d": {"extends": "e"},
                "e": {"extends": "d"},
                "f": {"extends": "reception"},
                "g": {"use": "echo", "languages": {"de": {"nonsense": 1}}},
            },
            "numbers": {
                "+1": {"bot": "a", "hours": "offce", "closed": "nobody"},
                "+2": {"bot": "a", "hours": "office"},
                "+3": {"bot": "a", "share": {"b": 60, "c": 50}},
                "+4": {"bot": "a", "share": {"nobody": 5}},
                "+5": {"bot": "g", "language": "fr"},
                "+6": {"bot": "g", "language": "de"},
                "+7": {"bot": "g", "settings": {"more": 1}},
                "/[/": {"bot": "a"},
                "twilio:+1*2": {"bot": "a"},
                "+8": {"bot": "a", "pattern": "x"},
            },
            "schedules": {
                "office": {"time_zone": "Europe/Berlin", "open": {"mon-fri": ["9-17"]}},
                "shop": {"time_zone": "Europe/Nowhere", "open": {"mon": ["09:00-17:00"]}},
                "night": {"time_zone": "UTC", "open": {"mon": ["22:00-06:00"]}},
                "feast": {"time_zone": "UTC", "open": {"mon": ["09:00-17:00"]}, "holidays": ["25.12."]},
                "day": {"time_zone": "UTC", "open": {"monday": ["09:00-17:00"]}},
            },
        }
    )
    assert set(found) == {
        "bots.a.sample_rate",
        "bots.c.speed",
        "bots.d.extends",
        "bots.e.extends",
        "bots.f.extends",
        "bots.g.languages.de.nonsense",
        'numbers."+1".hours',
        'numbers."+1".closed',
        'numbers."+2"',
        'numbers."+3"',
        'numbers."+4".share.nobody',
        'numbers."+5".language',
        'numbers."+7".settings.more',
        'numbers."/[/"',
        'numbers."twilio:+1*2"',
        'numbers."+8".pattern',
        "schedules.office",
        "schedules.shop",
        "schedules.night",
        "schedules.feast",
        "schedules.day",
    }


def test_a_limit_holds_for_a_number_however_the_file_writes_it(tmp_path: Path) -> None:
    from gateway.answering import _caps

    settings = settings_of({"+1 555 0100": {"bot": "a", "max_calls": 2}}, carriers={"exotel": {}})
    route = resolve(settings, "exotel", "15550100")
    assert route is not None
    assert _caps(snapshot_of(settings, {}), "exotel", route.entry).number == 2
