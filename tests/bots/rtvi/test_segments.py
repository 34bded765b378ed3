"""What `bot-output` tells clients of version 2, and log lines."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bots.rtvi import RTVIObserver, RTVIObserverParams, RTVIProcessor
from bots.rtvi.segments import Segments
from media.frames import AggregatedTextFrame, BotStoppedSpeakingFrame, Frame, InterruptionFrame, TTSTextFrame
from media.observers import FramePushed
from media.output import OutputStage
from media.processor import FrameDirection
from tests.bots.rtvi.test_messages import Client, Wire
from tests.media.rig import Pass

LETTERS = st.text(st.characters(categories=["L"]), min_size=1, max_size=8)


def observed(*frames: Frame, version: str = "2.1.0", **params: Any) -> list[dict[str, Any]]:
    """`data` of each bot-output; spoken words come out of the output stage."""
    told: list[dict[str, Any]] = []

    class Told(RTVIObserver):
        def _tell(self, message: Any) -> Any:
            if message.type == "bot-output":
                told.append(message.data.model_dump(mode="json", exclude_none=True))
            return super()._tell(message)

    rtvi = Client().rtvi
    rtvi.client_version = version
    observer = Told(rtvi, params=RTVIObserverParams(**params))
    output = OutputStage(Wire())  # type: ignore[arg-type]
    for frame in frames:
        source = output if isinstance(frame, TTSTextFrame) else Pass()
        observer.on_push_frame(FramePushed(source, Pass(), frame, FrameDirection.DOWNSTREAM, 0))
    return told


def progress(told: list[dict[str, Any]]) -> list[tuple[int, str, str, str]]:
    return [
        (each["segment_id"], each["spoken_status"], *(each["spoken_progress"][key] for key in KEYS)) for each in told
    ]


KEYS = ("accumulated_text", "remaining_text")


def test_a_text_is_told_as_it_is_spoken() -> None:
    words = [TTSTextFrame(word, "word") for word in ("Good", "day,", "Ann.")]
    told = observed(AggregatedTextFrame("Good day, Ann.", "sentence"), *words)
    assert progress(told) == [
        (1, "new", "", "Good day, Ann."),
        (1, "in-progress", "Good", "day, Ann."),
        (1, "in-progress", "Good day,", "Ann."),
        (1, "completed", "Good day, Ann.", ""),
    ]
    assert {each["text"] for each in told} == {"Good day, Ann."}
    assert {each["aggregated_by"] for each in told} == {"sentence"}
    assert [each["spoken"] for each in told] == [False, False, False, True]  # for readers of version 1
    assert all(each["will_be_spoken"] for each in told)


def test_clients_of_version_1_are_told_as_ever() -> None:
    frames = AggregatedTextFrame("Hello.", "sentence"), TTSTextFrame("Hello.", "sentence")
    assert observed(*frames, version="1.2.0") == [
        {"text": "Hello.", "spoken": False, "aggregated_by": "sentence"},
        {"text": "Hello.", "spoken": True, "aggregated_by": "sentence"},
    ]


def test_one_segment_ends_where_the_next_begins() -> None:
    told = observed(
        AggregatedTextFrame("It costs $5.", "sentence"),
        AggregatedTextFrame("Anything else?", "sentence"),
        *(TTSTextFrame(word, "word") for word in ("It", "costs", "five", "Anything", "else?")),
    )
    assert progress(told)[2:] == [
        (1, "in-progress", "It", "costs $5."),
        (1, "in-progress", "It costs", "$5."),
        (1, "in-progress", "It costs", "$5."),  # said otherwise than it is written
        (1, "completed", "It costs $5.", ""),
        (2, "in-progress", "Anything", "else?"),
        (2, "completed", "Anything else?", ""),
    ]


def test_what_was_begun_is_done_when_the_bot_is_silent() -> None:
    told = observed(
        AggregatedTextFrame("At 5 pm", "sentence"),
        TTSTextFrame("At", "word"),
        BotStoppedSpeakingFrame(),
    )
    assert progress(told)[-1] == (1, "completed", "At 5 pm", "")


def test_what_an_interruption_cut_off_stays_unspoken() -> None:
    told = observed(
        AggregatedTextFrame("One two", "sentence"),
        AggregatedTextFrame("three", "sentence"),
        TTSTextFrame("One", "word"),
        InterruptionFrame(),
        BotStoppedSpeakingFrame(),
        AggregatedTextFrame("Yes?", "sentence"),
        TTSTextFrame("Yes?", "sentence"),
    )
    assert progress(told)[2:] == [
        (1, "in-progress", "One", "two"),
        (3, "new", "", "Yes?"),
        (3, "completed", "Yes?", ""),
    ]


def test_text_that_is_only_shown() -> None:
    shown = AggregatedTextFrame("https://example.com", "url")
    shown.skip_tts = True
    (told,) = observed(shown)
    assert (told["segment_id"], told["will_be_spoken"]) == (1, False)
    assert "spoken_status" not in told


def test_words_that_nobody_has_announced() -> None:
    assert progress(observed(TTSTextFrame("Hello.", "sentence"))) == [(1, "completed", "Hello.", "")]


def test_what_was_changed_for_the_client_is_never_told_as_it_was() -> None:
    told = observed(
        AggregatedTextFrame("my card is 4711", "sentence"),
        *(TTSTextFrame(word, "word") for word in ("my", "card", "is", "4711")),
        bot_output_transforms=[("*", lambda text, kind: "[REDACTED]")],
    )
    assert "4711" not in str(told)
    assert progress(told)[-1] == (1, "completed", "[REDACTED]", "")


@given(st.lists(st.lists(LETTERS, min_size=1, max_size=6), min_size=1, max_size=4))
def test_every_word_in_its_turn_leads_to_the_end(texts: list[list[str]]) -> None:
    segments = Segments()
    for number, words in enumerate(texts, 1):
        raw = " ".join(words)
        assert segments.begin(raw, raw, "sentence", will_be_spoken=True)["segment_id"] == number
        for position, word in enumerate(words, 1):
            (told,) = segments.say(word, word, "word")
            assert told["segment_id"] == number
            assert told["spoken_progress"]["accumulated_text"] == " ".join(words[:position])
            assert told["spoken_progress"]["remaining_text"] == " ".join(words[position:])
            assert told["spoken_status"] == ("completed" if position == len(words) else "in-progress")


# ---------------------------------------------------------------- log lines


@pytest.fixture
def _info() -> Any:
    loggers = [logging.getLogger(name) for name in ("bots", "media")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.mark.usefixtures("_info")
def test_log_lines_of_the_calls_bot_are_told_if_they_are_wanted() -> None:
    log = logging.getLogger("bots.of_a_test")
    wants = RTVIProcessor(ready_by_itself=True, observer_params=RTVIObserverParams(system_logs_enabled=True))
    with structlog.contextvars.bound_contextvars(call="this"):
        client = Client(rtvi=wants).ready()
        log.info("looked up %s", "an order")
        log.debug("not this")
        (told,) = client.told()
    assert told["type"] == "system-log"
    assert told["data"]["text"].endswith(" looked up an order")
    with structlog.contextvars.bound_contextvars(call="another"):
        log.info("of somebody else")
    assert client.told() == []
    wants.cleanup()
    with structlog.contextvars.bound_contextvars(call="this"):
        log.info("too late")
    assert client.told() == []
    assert not [each for each in logging.getLogger("bots").handlers if "_Logs" in type(each).__name__]


@pytest.mark.usefixtures("_info")
def test_log_lines_are_nobodys_business_otherwise() -> None:
    client = Client().ready()
    logging.getLogger("bots.of_a_test").warning("a problem")
    assert client.told() == []
