"""WakeCheckFilter."""

from __future__ import annotations

import pytest

from media.frames import InterimTranscriptionFrame, TextFrame, TranscriptionFrame
from media.wake_check import WakeCheckFilter
from tests.media.rig import Rig, started


def say(rig: Rig, text: str, who: str = "u") -> list[str]:
    rig.sunk.clear()
    rig.push(TranscriptionFrame(text, who, "now"))
    return rig.down()


def test_words_pass_from_the_phrase_on() -> None:
    rig = started(WakeCheckFilter(["hey robot"], keepalive_timeout=3))
    assert say(rig, "what is this") == []
    assert say(rig, "well, Hey Robot! good day") == ["Hey Robot! good day"]
    assert say(rig, "go on") == ["go on"]
    rig.runtime.advance(2.9)
    assert say(rig, "still here") == ["still here"]
    rig.runtime.advance(3.1)
    assert say(rig, "too late") == []


def test_a_phrase_in_pieces_and_not_inside_a_word() -> None:
    rig = started(WakeCheckFilter(["hey robot"]))
    assert say(rig, "hey") == []
    assert say(rig, "robot") == ["hey robot"]
    other = started(WakeCheckFilter(["art"]))
    assert say(other, "start") == []


def test_each_speaker_wakes_it_for_himself() -> None:
    rig = started(WakeCheckFilter(["hello"]))
    say(rig, "hello", "a")
    assert say(rig, "me too", "b") == []
    assert say(rig, "yes", "a") == ["yes"]


def test_everything_else_passes_and_interim_words_only_awake() -> None:
    rig = started(WakeCheckFilter(["hello"]))
    rig.push(TextFrame("other"))
    rig.push(InterimTranscriptionFrame("interim", "u", "now"))
    assert rig.down() == ["other"]
    say(rig, "hello")
    rig.push(InterimTranscriptionFrame("interim", "u", "now"))
    assert rig.down() == ["hello", "interim"]


@pytest.mark.parametrize("phrases", [[], [" "]])
def test_a_phrase_has_words(phrases: list[str]) -> None:
    with pytest.raises(ValueError, match="at least one word"):
        WakeCheckFilter(phrases)
