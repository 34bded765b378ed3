"""Marks in a model's text, the processor before the voice, and Markdown."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bots.text.aggregators import BaseTextAggregator
from bots.text.markdown import MarkdownTextFilter
from bots.text.patterns import MatchAction, PatternMatch, PatternPairAggregator
from bots.text.processor import LLMTextProcessor
from media.frames import (
    AggregatedTextFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
)
from tests.bots.services.rig import pipeline
from tests.endtoend.served import run


def aggregator(action: MatchAction = MatchAction.AGGREGATE) -> PatternPairAggregator:
    return PatternPairAggregator().add_pattern("code", "<code>", "</code>", action)


def pieces(of: BaseTextAggregator, *chunks: str) -> list[tuple[str, str]]:
    found = [piece for chunk in chunks for piece in of.pieces(chunk)]
    rest = of.rest()
    return [(piece.text, str(piece.type)) for piece in (*found, *((rest,) if rest else ()))]


TEXT = "Look at this: <code>x = 1. y = 2</code> and then. Go on."


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (
            MatchAction.AGGREGATE,
            [
                ("Look at this:", "sentence"),
                ("x = 1. y = 2", "code"),
                ("and then.", "sentence"),
                ("Go on.", "sentence"),
            ],
        ),
        (MatchAction.REMOVE, [("Look at this:  and then.", "sentence"), ("Go on.", "sentence")]),
        (
            MatchAction.KEEP,
            [("Look at this: x = 1.", "sentence"), ("y = 2 and then.", "sentence"), ("Go on.", "sentence")],
        ),
    ],
)
def test_what_stands_between_marks(action: MatchAction, expected: list[tuple[str, str]]) -> None:
    assert pieces(aggregator(action), TEXT) == expected
    assert pieces(aggregator(action), *TEXT) == expected


@given(some.lists(some.integers(0, len(TEXT)), max_size=6), some.sampled_from(list(MatchAction)))
def test_it_does_not_matter_how_the_text_arrives(cuts: list[int], action: MatchAction) -> None:
    edges = [0, *sorted(cuts), len(TEXT)]
    chunks = [TEXT[begin:end] for begin, end in pairwise(edges)]
    assert pieces(aggregator(action), *chunks) == pieces(aggregator(action), TEXT)


def test_handlers_are_told_of_whole_patterns() -> None:
    told: list[PatternMatch] = []

    async def later(match: PatternMatch) -> None:
        told.append(match)

    of = aggregator(MatchAction.REMOVE).add_pattern("voice", "[[", "]]", MatchAction.REMOVE)
    of.on_pattern_match("code", told.append).on_pattern_match("voice", later)
    assert pieces(of, "[[ ann ]]Hi <code>a</code>there <code>never closed") == [
        ("Hi there <code>never closed", "sentence")
    ]
    assert [(match.type, match.content, match.full_match) for match in told] == [
        ("voice", "ann", "[[ ann ]]"),
        ("code", "a", "<code>a</code>"),
    ]


def test_what_is_open_is_held_back_and_forgotten_when_interrupted() -> None:
    of = aggregator()
    assert [piece.text for piece in of.pieces("Well. Now <co")] == ["Well."]
    assert of.text.text == "Now <co"
    of.handle_interruption()
    assert of.rest() is None
    assert pieces(of, "a < bee. Yes") == [("a < bee.", "sentence"), ("Yes", "sentence")]


def test_names_that_mean_something_else() -> None:
    with pytest.raises(ValueError, match="word"):
        PatternPairAggregator().add_pattern("word", "<", ">")
    with pytest.raises(ValueError, match="mark"):
        PatternPairAggregator().add_pattern("x", "", ">")


def texts(rig: Any) -> list[tuple[str, str]]:
    return [(frame.text, str(frame.aggregated_by)) for frame in rig.after.of(AggregatedTextFrame)]


def test_the_processor_gives_pieces_in_place_of_tokens() -> None:
    async def main() -> None:
        async with pipeline(LLMTextProcessor(text_aggregator=aggregator())) as rig:
            tokens = [LLMTextFrame(TEXT[at : at + 5]) for at in range(0, len(TEXT), 5)]
            await rig.push(LLMFullResponseStartFrame(), *tokens, LLMFullResponseEndFrame())
            assert texts(rig)[1] == ("x = 1. y = 2", "code")
            assert texts(rig)[-1] == ("Go on.", "sentence")
            assert rig.after.names()[-1] == "LLMFullResponseEndFrame"
            assert rig.after.of(LLMTextFrame) == []
            await rig.push(LLMTextFrame("Half a"), InterruptionFrame(), LLMFullResponseEndFrame())
            assert len(texts(rig)) == 4

    run(main())


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("This is **important** and *new*.", "This is important and new."),
        (" with spaces ", " with spaces "),
        ("## Hours\nNine to five", "Hours\nNine to five"),
        ("Run `make` now", "Run make now"),
        ("1. First\n2. Second", "1. First\n2. Second"),
        ("- milk\n- bread", "milk\nbread"),
        ("5 * 3 * 2 is thirty", "5 * 3 * 2 is thirty"),
        ("snake_case_name", "snake_case_name"),
        ("Tom &amp; <b>Jerry</b>", "Tom & Jerry"),
        ("a < b and b > c", "a < b and b > c"),
        ("Stop!!!!!!!", "Stop!"),
        ("Wait...", "Wait..."),
        ("See [our page](https://example.org/x).", "See our page."),
        ("~~no~~ yes", "no yes"),
    ],
)
def test_markdown_is_taken_out(written: str, spoken: str) -> None:
    assert MarkdownTextFilter().filter(written) == spoken


def test_code_and_tables_go_where_that_is_wanted_also_across_pieces() -> None:
    of = MarkdownTextFilter(MarkdownTextFilter.InputParams(filter_code=True, filter_tables=True))
    assert of.filter("Here: ```python\nx = 1") == "Here: "
    assert of.filter("y = 2\n``` done") == " done"
    assert of.filter("Rates:\n|A|B|\n|--|--|\n|1|2|\nThat is all") == "Rates:\nThat is all"
    of.filter("```")
    of.handle_interruption()
    assert of.filter("spoken") == "spoken"
    of.update_settings({"enable_text_filter": False, "unknown": 1})
    assert of.filter("**as it is**") == "**as it is**"
    assert MarkdownTextFilter().filter("```\nx = 1\n```") == "x = 1\n"
