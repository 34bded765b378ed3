"""Voices over prompts: whole calls with the real detector and synthesised speech."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("espeakng_loader", reason="the extra [speech] is not installed")

from bots.speech import speak
from gateway.states import CallState
from tests.bots.talk import Talk

LONG = "a prompt that takes some time to be said"  # 4 s
WORD_S = 4.0 * 6 / 32  # the longest of its words
NEXT = "and the next one"
SHORT, TURN = "okay", "no wait a moment I would rather talk to somebody about this"


def say(it: Talk, text: str) -> float:
    """The caller says it now; how long that takes."""
    rate = it.call.fake.audio_rate
    pcm = speak(text, "en-us+f3", rate)
    it.call.say(pcm)
    return len(pcm) / 2 / rate


def seconds(it: Talk, text: str) -> float:
    return sum(heard for said, heard in it.heard if said == text)


def menu(**changes: Any) -> dict[str, Any]:
    choices = {"1": {"say": NEXT, "end": True}}
    return {"use": "menu", "timeout_s": 5, "menus": {"main": {"prompt": LONG, "choices": choices}}, **changes}


def announce(**changes: Any) -> dict[str, Any]:
    return {"use": "announce", "play": [LONG, NEXT], **changes}


@pytest.mark.parametrize("table", [menu(), announce(interruptible=True)], ids=["menu", "announce"])
@pytest.mark.parametrize("carrier", ["twilio", "exotel"])
def test_a_short_word_pauses_a_prompt(table: dict[str, Any], carrier: str) -> None:
    it = Talk(table, carrier)
    it.run(1.0)
    say(it, SHORT)
    it.run(6.0)
    assert it.texts[:2] == [LONG, LONG]  # with silence between
    assert 4.0 - 0.15 < seconds(it, LONG) < 4.0 + WORD_S + 0.15, "from the beginning of the word that was cut"
    counters = it.call.core.counters
    assert (counters["floor_held"], counters["floor_went_on"], counters["interruptions"]) == (1, 1, 0)


@pytest.mark.parametrize("table", [menu(), announce(interruptible=True)], ids=["menu", "announce"])
def test_who_goes_on_speaking_ends_the_prompt(table: dict[str, Any]) -> None:
    it = Talk(table)
    it.run(1.0)
    took = say(it, TURN)
    it.run(took - 0.1)
    assert it.texts == [LONG]
    assert 1.0 < seconds(it, LONG) < 1.9
    assert it.call.core.counters["floor_interrupted"] == 1
    if table["use"] == "menu":
        it.press("1")
    it.run(3.0)
    assert it.texts == [LONG, NEXT]  # in an announcement: when he has finished
    assert it.state is CallState.CLOSED


def test_a_menu_waits_for_a_key_from_the_end_of_a_prompt_that_was_cut() -> None:
    it = Talk(menu())
    it.run(1.0)
    say(it, TURN)
    it.run(1.5 + 5.0 + 0.5)
    assert it.texts == [LONG, LONG]  # nobody pressed anything: it is said again


def test_a_key_during_a_pause_does_what_it_always_does() -> None:
    it = Talk(menu())
    it.run(1.0)
    say(it, TURN)
    it.run(0.5)
    it.press("1")
    it.run(3.0)
    assert it.texts == [LONG, NEXT]


@pytest.mark.parametrize("table", [menu(barge_in=False), announce()], ids=["menu", "announce"])
def test_who_does_not_want_it_hears_nothing(table: dict[str, Any]) -> None:
    it = Talk(table)
    it.run(1.0)
    say(it, TURN)
    it.run(6.0)
    assert it.heard[0] == (LONG, 4.0)
    assert it.call.core.counters["floor_held"] == 0


def test_an_announcement_that_may_not_be_skipped_may_pause() -> None:
    it = Talk(announce(barge_in=True))
    it.run(1.0)
    say(it, SHORT)
    it.run(9.0)
    assert 4.0 - 0.15 < seconds(it, LONG) < 4.0 + WORD_S + 0.15
    assert it.texts == [LONG, LONG, NEXT]
