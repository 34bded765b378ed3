"""Where sentences end, and that it does not matter in which pieces a text arrives."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots.text.aggregators import Aggregation, SimpleTextAggregator, SkipTagsAggregator, TextAggregationMode
from bots.text.sentences import end_of_sentence

TEXTS = {
    "Hello there. How are you? ": ["Hello there.", "How are you?"],
    "It costs 3.50 euros. Really! ": ["It costs 3.50 euros.", "Really!"],
    "Dr. Smith meets Mr. Jones. They talk. ": ["Dr. Smith meets Mr. Jones.", "They talk."],
    "The U.S. office is closed. ": ["The U.S. office is closed."],
    "J. R. R. Tolkien wrote it. ": ["J. R. R. Tolkien wrote it."],
    'He said "Stop." Then he left. ': ['He said "Stop."', "Then he left."],
    "Wait... what? No. ": ["Wait...", "what?", "No."],
    "Mail me at a.b@example.com please. ": ["Mail me at a.b@example.com please."],
    "One choice:\n1. the first\n\n2. the second\n\n": ["One choice:\n1. the first", "2. the second"],
    "你好。今天怎么样？": ["你好。", "今天怎么样？"],
    "Das kostet ca. 5 Euro, z.B. heute. ": ["Das kostet ca. 5 Euro, z.B. heute."],
}


def sentences(text: str, size: int) -> list[str]:
    aggregator = SimpleTextAggregator()
    found = [piece.text for at in range(0, len(text), size) for piece in aggregator.pieces(text[at : at + size])]
    rest = aggregator.rest()
    return found + ([rest.text] if rest else [])


@pytest.mark.parametrize(("text", "expected"), TEXTS.items())
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_sentences(text: str, expected: list[str], size: int) -> None:
    assert sentences(text, size) == expected


def test_the_last_full_stop_needs_something_behind_it() -> None:
    assert end_of_sentence("It costs 3.") == 0
    assert end_of_sentence("It costs 3. ") == 11


@given(st.text(alphabet='ab .!?\n")1。'), st.integers(1, 9))
def test_pieces_do_not_matter_and_nothing_is_lost(text: str, size: int) -> None:
    whole, cut = sentences(text, max(1, len(text))), sentences(text, size)
    assert "".join("".join(cut).split()) == "".join("".join(whole).split()) == "".join(text.split())


def test_tokens_as_they_come() -> None:
    aggregator = SimpleTextAggregator(TextAggregationMode.TOKEN)
    assert aggregator.pieces("He") == (Aggregation("He", "token"),)
    assert aggregator.rest() is None


def test_the_async_face() -> None:
    async def main() -> None:
        aggregator = SimpleTextAggregator()
        assert [piece async for piece in aggregator.aggregate("Yes. No")] == [Aggregation("Yes.", "sentence")]
        assert await aggregator.flush() == Aggregation("No", "sentence")
        aggregator.pieces("cut off")
        aggregator.handle_interruption()
        assert aggregator.text.text == ""

    asyncio.run(main())


def test_no_sentence_ends_inside_a_tag() -> None:
    aggregator = SkipTagsAggregator([("<spell>", "</spell>")])
    assert aggregator.pieces("Your code is <spell>A. B. ") == ()
    found = aggregator.pieces("C</spell> today. Thanks")
    assert [piece.text for piece in found] == ["Your code is <spell>A. B. C</spell> today."]
