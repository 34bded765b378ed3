"""What the offline recogniser makes of phrases as a telephone carries them, in several voices."""

from __future__ import annotations

import pytest

from bots.services.pocketsphinx import recognise
from bots.speech import speak
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.resample import resample_all

PHRASES = (
    "opening hours",
    "when are you open",
    "where are you",
    "what is your address",
    "goodbye",
    "thank you goodbye",
    "no thank you",
)


@pytest.mark.parametrize("voice", ["en-us+f3", "en-us", "en-gb"])
def test_a_whole_phrase_is_heard_and_never_half_of_one(voice: str) -> None:
    heard = []
    for phrase in PHRASES:
        spoken = resample_all(speak(phrase, voice, 16000), 16000, 8000)
        heard.append(recognise(PHRASES, ulaw_to_pcm(pcm_to_ulaw(spoken)), 8000))
    assert set(heard) <= {*PHRASES, ""}
    assert sum(one == phrase for one, phrase in zip(heard, PHRASES, strict=True)) >= 5


def test_the_voice_of_the_demo_is_understood() -> None:
    for phrase in ("when are you open", "where are you", "goodbye"):
        spoken = resample_all(speak(f"{phrase}.", "en-us+f3", 16000), 16000, 8000)
        assert recognise(PHRASES, ulaw_to_pcm(pcm_to_ulaw(spoken)), 8000) == phrase


def test_silence_is_no_phrase() -> None:
    assert recognise(PHRASES, bytes(16000), 8000) == ""
