"""What was said in a call is kept where that is wanted, and no word of the bot's that its caller did not hear."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from gateway.ports import BotRoute
from gateway.records import CallRecord
from gateway.settings import parse_settings
from gateway.snapshot import snapshot_of
from gateway.store import CallKey
from gateway.store_sql import SqlStore
from gateway.transcript import LONGEST, Line
from media.call import CallInfo
from media.frames import (
    Frame,
    StartFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from media.processor import FrameDirection, FrameProcessor
from tests.endtoend import actors
from tests.endtoend.served import run
from tests.gateway.virtual import VirtualCall

RATE = 8000
WORD_S = 0.3


class Talks(FrameProcessor):
    """Says each text at its time, a word in 0.3 s; what is understood of the caller comes at its time, too."""

    def __init__(self, *said: tuple[float, str, str], aggregates: bool = False) -> None:
        super().__init__()
        self._said, self._aggregates = said, aggregates

    def process_frame(self, frame: Frame, direction: FrameDirection) -> object:
        if isinstance(frame, StartFrame):
            for at_s, who, text in self._said:
                self.runtime.call_later(at_s, lambda who=who, text=text: self._say(who, text))  # type: ignore[misc]
        return self.push_frame(frame, direction)

    def _say(self, who: str, text: str) -> None:
        if who == "caller":
            self.push_frame(TranscriptionFrame(text, "caller", ""))
            return
        self.push_frame(TTSStartedFrame())
        for word in text.split():
            self.push_frame(TTSTextFrame(word, "word"))
            self.push_frame(TTSAudioRawFrame(actors.tone(WORD_S), RATE, 1))
        self.push_frame(TTSStoppedFrame())


class Through(FrameProcessor):
    """Makes the way longer: a frame is seen at each link."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> object:
        return self.push_frame(frame, direction)


def conversation(*said: tuple[float, str, str], transcript: bool = True) -> VirtualCall:
    processors = [Talks(*said), Through()]
    call = VirtualCall("twilio", lambda call: processors)
    call.core._route = lambda info: BotRoute("test", lambda call: processors, transcript=transcript)
    return call


def kept(call: VirtualCall) -> list[tuple[str, str]]:
    return [(line.who, line.text) for line in call.core.record(call.t).transcript]


def test_what_was_said_in_its_order() -> None:
    call = conversation(
        (0.5, "bot", "Hello there."), (2.0, "caller", " opening hours "), (2.5, "bot", "From nine to five.")
    )
    call.run(6.0)
    assert kept(call) == [("bot", "Hello there."), ("caller", "opening hours"), ("bot", "From nine to five.")]
    times = [line.t for line in call.core.record(call.t).transcript]
    assert times == sorted(times)
    assert times == pytest.approx([0.5, 2.0, 2.5], abs=0.1), "the bot's from their beginning"
    call.hang_up()
    call.run(1.0)
    assert len(kept(call)) == 3


def test_two_sentences_in_a_row_are_two_lines() -> None:
    call = conversation((0.5, "bot", "One moment."), (0.5, "bot", "Here it is."))
    call.run(4.0)
    assert kept(call) == [("bot", "One moment."), ("bot", "Here it is.")]


@pytest.mark.parametrize("after_s", [0.35, 1.0, 1.55, 2.2, 2.95])
def test_a_reply_that_is_cut_off_ends_with_the_last_word_that_was_heard(after_s: float) -> None:
    words = "one two three four five six seven eight nine ten"
    call = conversation((0.5, "bot", words))
    call.run(5.0, until=lambda: call.core.output.ledger is not None and call.core.output.ledger.heard(call.t) > 0)
    call.run(after_s)
    call.core.interrupt()
    call.run(2.0)
    heard = call.core.output.ledger.heard(call.t) / RATE  # type: ignore[union-attr]
    ((who, text),) = kept(call)
    assert who == "bot"
    assert words.startswith(text)
    # Half a word is heard.
    assert len(text.split()) == round(heard / WORD_S) or abs(heard / WORD_S % 1 - 0.5) < 0.1


def test_a_reply_of_which_nothing_was_heard_is_not_there() -> None:
    call = conversation((0.5, "bot", "One two three."), (0.52, "caller", "stop"))
    call.run(5.0, until=lambda: bool(kept(call)))
    call.core.interrupt()
    call.run(2.0)
    assert [who for who, _ in kept(call)] in (["caller"], [])


def test_nothing_is_kept_where_nobody_asked_for_it() -> None:
    call = conversation((0.5, "bot", "Hello."), transcript=False)
    call.run(2.0)
    assert kept(call) == []
    assert call.core.input._flow.taps == ()


def test_it_has_an_end() -> None:
    text = "la " * 5000
    call = conversation(*((0.5 + n / 10, "caller", text) for n in range(6)))
    call.run(2.0)
    lines = kept(call)
    assert 0 < sum(len(text) for _, text in lines) <= LONGEST
    assert len(lines) == 4


def test_a_number_may_say_otherwise() -> None:
    table: dict[str, Any] = {
        "bots": {"kept": {"use": "echo", "transcript": True}, "quiet": {"use": "echo"}},
        "numbers": {
            "+15550100": {"bot": "kept"},
            "+15550101": {"bot": "kept", "transcript": False},
            "+15550102": {"bot": "quiet"},
            "+15550103": {"bot": "quiet", "transcript": True},
        },
    }
    settings = parse_settings(table)
    snapshot = snapshot_of(settings, dict.fromkeys(settings.bots, actors.echo))
    routes = [snapshot.route(CallInfo(carrier="twilio", to_number=number)) for number in table["numbers"]]
    assert [route is not None and route.transcript for route in routes] == [True, False, False, True]


def test_the_store_keeps_it_as_long_as_the_record(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqlStore(f"sqlite:///{tmp_path / 'gateway.db'}")
        await store.open()
        key, now = CallKey("twilio", "CA1"), time.time()
        lines = (Line(0.5, "bot", 'Hello "you" \u2028.'), Line(2.25, "caller", "grüezi"))
        info = CallInfo(carrier="twilio", call_id="CA1")
        assert await store.transcript(key) == ()
        record = CallRecord(info, "bot", "closed", "caller", "caller", 3.0, transcript=lines)
        assert await store.ended(key, record, now)
        assert await store.transcript(key) == lines
        await store.prune(now + 100.0, keep_s=50.0)
        assert await store.transcript(key) == ()
        assert await store.call(key) is None
        await store.close()

    run(main())
