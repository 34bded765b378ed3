"""The words of prompts are where those of services are: in the transcript, as far as they were heard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bots.base import PrepareContext
from bots.prompts import PromptMaker, Say
from media.wav import write_wav
from tests.bots.talk import LETTER_S, Talk

MENU: dict[str, Any] = {
    "use": "menu",
    "barge_in": False,
    "menus": {"main": {"prompt": "one two six ten", "choices": {"1": {"say": "very well", "end": True}}}},
}


def talk(table: dict[str, Any], base_dir: Path = Path(".")) -> Talk:
    it = Talk(table, base_dir=base_dir)
    core: Any = it.call.core
    route = core._route
    core._route = lambda info: replace(route(info), transcript=True)
    return it


def kept(it: Talk) -> list[tuple[str, str]]:
    return [(line.who, line.text) for line in it.call.core.record(it.call.t).transcript]


def recorded(folder: Path, name: str, seconds: float) -> None:
    write_wav(folder / name, b"\x00\x08" * round(8000 * seconds), 8000)


def test_a_menu_that_is_heard_to_its_end() -> None:
    it = talk(MENU)
    it.run(3.0)
    it.press("1")
    it.run(2.0)
    assert kept(it) == [("bot", "one two six ten"), ("bot", "very well")]


def test_a_key_cuts_the_prompts_words_where_it_cuts_its_sound() -> None:
    it = talk(MENU)
    it.run(0.7)  # of 1.5 s: "one two" was heard, for the most part
    it.press("1")
    heard_s = it.heard[0][1]
    it.run(2.0)
    assert 5 * LETTER_S < heard_s < 9 * LETTER_S
    assert kept(it) == [("bot", "one two"), ("bot", "very well")]


def test_an_announcement() -> None:
    it = talk({"use": "announce", "play": ["one two", {"text": "six"}], "repeat": 2})
    it.run(6.0)
    assert kept(it) == [("bot", "one two"), ("bot", "six")] * 2


def test_what_is_recorded_has_the_words_that_are_told(tmp_path: Path) -> None:
    recorded(tmp_path, "welcome.wav", 1.0)
    recorded(tmp_path, "jingle.wav", 0.5)
    welcome = {"file": "welcome.wav", "text": "Welcome to Miller's."}
    it = talk({"use": "announce", "play": ["jingle.wav", welcome, "one"]}, tmp_path)
    it.run(4.0)
    assert kept(it) == [("bot", "Welcome to Miller's."), ("bot", "one")]
    assert it.heard[1][1] == pytest.approx(1.0, abs=0.05), "the file is played, and its text not spoken"


def test_sound_without_words_in_one_utterance_with_words_takes_none_of_them(tmp_path: Path) -> None:
    recorded(tmp_path, "wrong.wav", 2.0)
    table = {**MENU, "invalid": "wrong.wav"}
    it = talk(table, tmp_path)
    it.run(2.0)
    it.press("9")  # two seconds of wrong.wav, and then the menu again
    it.run(2.0 + 0.65)
    it.press("1")
    it.run(2.0)
    assert kept(it) == [("bot", "one two six ten"), ("bot", "one two"), ("bot", "very well")]


@pytest.mark.parametrize(
    "table",
    [
        {"use": "record", "greeting": "well then"},
        {"use": "forward", "to": "+15550199", "announce": "well then", "failed": "well then"},
    ],
    ids=lambda table: str(table["use"]),
)
def test_the_other_bots(table: dict[str, Any]) -> None:
    it = talk(table)
    it.run(0.7)
    assert kept(it) == [("bot", "well then")]


def test_the_words_of_a_prompt() -> None:
    maker = PromptMaker(PrepareContext(Path("."), (8000,), lambda text, voice, rate: bytes(rate)))
    assert maker.make("say", " hello ").text == "hello"
    assert maker.make("say", Say(text="hello", voice="de")).text == "hello"
