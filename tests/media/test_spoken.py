"""Words by samples."""

from __future__ import annotations

import pytest

from media.spoken import Spoken

RATE = 8000


def test_text_that_comes_first_belongs_to_the_audio_behind_it() -> None:
    spoken = Spoken(RATE)
    spoken.begin(0)
    spoken.say("one two", 0)
    spoken.say("three", 8000)
    spoken.end(16000)
    assert spoken.heard(0, 16000) == ("", "one two three")
    assert spoken.heard(3000, 16000) == ("one", "two three")
    assert spoken.heard(8000, 16000) == ("one two", "three")
    assert spoken.heard(16000, 16000) == ("one two three", "")


def test_text_that_comes_last_belongs_to_the_audio_before_it() -> None:
    spoken = Spoken(RATE)
    spoken.begin(0)
    spoken.say("one two", 8000)
    spoken.say("three four", 16000)
    spoken.end(16000)
    assert spoken.heard(8000, 16000) == ("one two", "three four")
    assert spoken.heard(13000, 16000) == ("one two three", "four")


def test_text_that_comes_behind_the_end_is_not_of_the_next_speech() -> None:
    spoken = Spoken(RATE)
    spoken.begin(0)
    spoken.end(16000)
    spoken.say("good morning", 16000)
    spoken.begin(16000)
    spoken.say("one two", 16000)
    spoken.end(32000)
    assert spoken.heard(16000, 32000) == ("good morning", "one two")
    assert spoken.heard(22000, 32000) == ("good morning one", "two")


def test_text_that_comes_before_its_speech_is_not_of_the_last_one() -> None:
    spoken = Spoken(RATE)
    spoken.begin(0)
    spoken.say("one two", 0)
    spoken.end(16000)
    spoken.say("three four", 16000)
    spoken.begin(16000)
    spoken.end(32000)
    assert spoken.heard(16000, 32000) == ("one two", "three four")


def test_words_with_times_stand_where_they_say() -> None:
    spoken = Spoken(RATE)
    spoken.begin(4000)
    for text, at_s in (("good", 0.1), ("day", 0.5), ("Sir", 2.0)):
        spoken.say(text, 4000, at_s)
    spoken.end(4000 + 3 * RATE)
    assert [(word.first - 4000) / RATE for word in spoken.words] == pytest.approx([0.1, 0.5, 2.0])
    assert spoken.words[1].last < spoken.words[2].first  # a pause follows it
    assert spoken.heard(4000 + RATE // 4, 30000)[0] == ""
    assert spoken.heard(4000 + RATE, 30000)[0] == "good"
    assert spoken.heard(4000 + RATE * 3 // 2, 30000)[0] == "good day"


def test_half_a_word_is_heard() -> None:
    spoken = Spoken(RATE)
    spoken.begin(0)
    spoken.say("word", 0)
    spoken.end(4000)
    assert spoken.heard(1900, 4000) == ("", "word")
    assert spoken.heard(2100, 4000) == ("word", "")


def test_speech_that_is_still_being_made_is_taken_to_go_on_at_an_usual_pace() -> None:
    spoken = Spoken(RATE)
    spoken.begin(0)
    spoken.say("a sentence of thirty-five letters.", 0)
    heard, left = spoken.heard(800, 1600)  # 0.2 s have come of it: that is not all of it
    assert heard == "a"
    assert left.endswith("letters.")


def test_the_word_under_a_sample() -> None:
    spoken = Spoken(RATE)
    spoken.begin(0)
    spoken.say("abcd efgh", 0)
    spoken.end(8000)
    word = spoken.word_at(5000, 8000)
    assert word is not None
    assert (word.text.strip(), word.first) == ("efgh", 4000)
    assert spoken.word_at(4000, 8000) is None  # on the edge there is nothing to repeat
    assert spoken.word_at(9000, 8000) is None


def test_scripts_without_spaces_and_text_with_its_own_spaces() -> None:
    spoken = Spoken(RATE)
    spoken.begin(0)
    spoken.say("Gu", 0, spaced=True)
    spoken.say("ten Tag", 1000, spaced=True)
    spoken.end(4000)
    assert spoken.heard(4000, 4000)[0] == "Guten Tag"
    spoken.clear()
    spoken.begin(0)
    spoken.say("こんにちは", 0)
    spoken.end(4000)
    assert spoken.heard(3000, 4000)[0] == "こんにちは"


def test_empty_text_says_nothing() -> None:
    spoken = Spoken(RATE)
    spoken.begin(0)
    spoken.say("", 0)
    spoken.say("  ", 800)
    spoken.end(8000)
    assert spoken.heard(8000, 8000) == ("", "")
    assert spoken.words == []


def test_what_was_heard_long_ago_is_forgotten() -> None:
    spoken = Spoken(RATE)
    for sentence in range(3):
        spoken.begin(sentence * RATE)
        spoken.say(f"sentence-{sentence}", sentence * RATE)
        spoken.end((sentence + 1) * RATE)
    spoken.forget(2 * RATE)
    assert [word.text.strip() for word in spoken.words] == ["sentence-2"]
    assert spoken.heard(3 * RATE, 3 * RATE)[0] == "sentence-2"
