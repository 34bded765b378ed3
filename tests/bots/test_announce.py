"""The announce bot."""

from __future__ import annotations

import struct
import wave
from pathlib import Path
from typing import Any

import pytest

from bots.announce import AnnounceBot
from bots.base import PrepareContext
from gateway.settings import parse_settings
from gateway.states import CallState
from media.errors import ConfigErrors
from tests.bots.talk import Talk, whole

HELLO, NEWS, BYE = "hello", "all the news", "bye"


def table(**changes: Any) -> dict[str, Any]:
    return {"use": "announce", "play": [HELLO, {"text": NEWS}, BYE], **changes}


def test_it_plays_in_order_and_ends_when_the_last_word_was_heard() -> None:
    it = Talk(table())
    it.run(10)
    assert it.heard == whole(HELLO, NEWS, BYE)
    assert (it.state, it.reason, it.call.core.ended_by) == (CallState.CLOSED, "completed", "bot")


def test_it_repeats() -> None:
    it = Talk(table(play=[HELLO, BYE], repeat=3))
    it.run(10)
    assert it.heard == whole(*[HELLO, BYE] * 3)
    assert it.state is CallState.CLOSED


def test_keys_are_ignored_unless_it_may_be_interrupted() -> None:
    it = Talk(table())
    it.run(0.2)
    it.press("1")
    it.run(10)
    assert it.heard == whole(HELLO, NEWS, BYE)


def test_a_key_skips_to_the_next_prompt_and_past_the_last_one() -> None:
    it = Talk(table(interruptible=True))
    it.run(1.0)
    it.press("1")  # in the news
    it.run(0.05)
    it.press("1")  # in the goodbye
    it.run(2.0)
    assert it.texts == [HELLO, NEWS, BYE]
    assert dict(it.heard)[NEWS] < 0.7
    assert dict(it.heard)[BYE] < 0.2
    assert it.state is CallState.CLOSED


def test_a_caller_who_leaves_ends_it() -> None:
    it = Talk(table())
    it.run(0.7)
    it.call.hang_up()
    it.run(2.0)
    assert it.texts[:1] == [HELLO]
    assert BYE not in it.texts
    assert it.state is CallState.CLOSED


def test_it_plays_wav_files_of_any_rate_found_beside_the_configuration(tmp_path: Path) -> None:
    level, rate = 8000, 22050
    with wave.open(str(tmp_path / "note.wav"), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(struct.pack("<h", level) * rate)
    it = Talk(table(play=["note.wav"]), base_dir=tmp_path)
    it.tongue._levels["note"] = level
    it.run(3)
    ((text, seconds),) = it.heard
    assert text == "note"
    assert seconds == pytest.approx(1.0, abs=0.03)


def test_all_that_cannot_be_played_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    with wave.open(str(tmp_path / "empty.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
    play = ["none.wav", "broken.wav", "empty.wav", ""]
    settings = parse_settings({"bots": {"it": table(play=play)}}).bots["it"].options
    with pytest.raises(ConfigErrors) as caught:
        AnnounceBot().prepare(settings, PrepareContext(tmp_path, (8000, 16000), lambda text, voice, rate: b""))
    assert [error.path for error in caught.value.errors] == ["play[0]", "play[1]", "play[2]", "play[3]"]


def test_something_must_be_played() -> None:
    with pytest.raises(ConfigErrors, match=r"bots\.it\.play"):
        parse_settings({"bots": {"it": {"use": "announce", "play": []}}})
