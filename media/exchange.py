"""The exchange of words in one call: its turns, and how long the caller waited for each answer.

Edges and their time go in; nothing here knows frames, clocks or timers. Both the record of every call and the
observers of a program are made of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

KEPT = 500  # answers whose times are kept for one call; later ones are counted


def _nothing(*args: object) -> None:
    """Nobody wants to know."""


class Turns:
    """What the caller says and what the bot answers is one turn; the first begins with the call.

    A turn ends when the caller speaks again, which interrupts it if the bot has not finished; when both have been
    silent for a while (whoever keeps the time calls `timed_out`); and with the call.

    Args:
        started: called with the turn's number, from 1.
        ended: called with its number, its seconds, and whether it was cut off.
    """

    def __init__(
        self, started: Callable[[int], None] = _nothing, ended: Callable[[int, float, bool], None] = _nothing
    ) -> None:
        self.number = 0
        self.is_open = False
        self.bot_speaks = False
        self.seconds = 0.0  # of all that have ended
        self.interrupted = 0  # of these: cut off
        self._answered = False  # the bot has spoken in this turn
        self._began = 0.0
        self._started, self._ended = started, ended

    def begin(self, now: float) -> None:
        """The call has begun."""
        if not self.number:
            self._open(now)

    def user_spoke(self, now: float) -> None:
        """The caller has begun to speak, and it counts."""
        if self.is_open and self.bot_speaks:
            self.cut_off(now)
        elif self.is_open and self._answered:
            self._close(now, False)
        elif self.is_open:
            return
        self._open(now)

    def bot_started(self, now: float) -> None:
        self.bot_speaks = self._answered = True

    def bot_stopped(self, now: float) -> None:
        self.bot_speaks = False

    def timed_out(self, now: float) -> None:
        """Nobody has said anything for long enough."""
        if self.is_open and not self.bot_speaks:
            self._close(now, False)

    def cut_off(self, now: float) -> None:
        """By the caller, or by the end of the call."""
        self.bot_speaks = False
        if self.is_open:
            self._close(now, True)

    def open_s(self, now: float) -> float:
        """Of the turn that has not ended, if there is one."""
        return now - self._began if self.is_open else 0.0

    def _open(self, now: float) -> None:
        self.number += 1
        self.is_open, self._answered, self._began = True, False, now
        self._started(self.number)

    def _close(self, now: float, cut_off: bool) -> None:
        self.is_open = False
        self.seconds += now - self._began
        self.interrupted += cut_off
        self._ended(self.number, now - self._began, cut_off)


# The parts of a wait, in order; what is not known of one belongs to the next that is.
PARTS = ("turn_end", "answer", "speech")


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds from the caller's last sound to the bot's first.

    `parts`: "turn_end" until it was decided that he had finished, "answer" until speech synthesis began, "speech" until
    the first sample left; those that can be told.
    """

    wait_s: float
    parts: Mapping[str, float] = field(default_factory=dict)


class Waits:
    """How long a caller waits for each answer."""

    def __init__(self) -> None:
        self.silent_at: float | None = None  # his last sound; None: he speaks, or was answered
        self._marks: dict[str, float] = {}  # part -> when it ended

    def heard(self, now: float) -> None:
        """He has begun to speak."""
        self.silent_at = None
        self._marks.clear()

    def silent(self, since: float) -> None:
        """He has been silent since then."""
        self.silent_at = since
        self._marks.clear()

    def turn_ended(self, now: float) -> None:
        """It was decided that he had finished."""
        self._mark("turn_end", now)

    def answering(self, now: float) -> None:
        """Speech is being made."""
        self._mark("answer", now)

    def answered(self, now: float) -> Answer | None:
        """The bot begins to speak; None if the caller was not waiting for it."""
        begin, self.silent_at = self.silent_at, None
        if begin is None:
            return None
        self._marks["speech"] = now
        parts, at = {}, begin
        for part in PARTS:
            if part in self._marks:
                parts[part] = max(0.0, self._marks[part] - at)
                at = max(at, self._marks[part])
        self._marks.clear()
        return Answer(max(0.0, now - begin), parts)

    def _mark(self, part: str, now: float) -> None:
        if self.silent_at is not None:
            self._marks.setdefault(part, now)


class Exchange:
    """What a call's record says of its turns and answers.

    Where a program tells the caller's turns, only those count, and only what follows one is an answer: a bot that asks
    into the silence after a cough answers nobody. Else it is his voice while the bot is silent, and the interruption
    while it speaks: a sound that does not interrupt is no turn.

    Args:
        told: called with each answer, the number of its turn.
    """

    def __init__(self, told: Callable[[int, Answer], None] = _nothing) -> None:
        self.turns = Turns()
        self.waits = Waits()
        self.answers: list[Answer] = []
        self.first_word_s: float | None = None  # from the call's beginning to the bot's first sound
        self._answers = 0
        self._began = 0.0
        self._tells_turns = False
        self._told = told

    def begin(self, now: float) -> None:
        self._began = now
        self.turns.begin(now)

    def tells_turns(self) -> None:
        """The program will tell the caller's turns."""
        self._tells_turns = True

    def voice(self, now: float) -> None:
        """The detector hears the caller."""
        self.waits.heard(now)
        if not self._tells_turns and not self.turns.bot_speaks:
            self.turns.user_spoke(now)

    def silence(self, now: float, stop_s: float) -> None:
        """The detector has heard nothing for `stop_s`."""
        self.waits.silent(now - stop_s)

    def turn_started(self, now: float) -> None:
        self._tells_turns = True
        self.turns.user_spoke(now)

    def turn_stopped(self, now: float) -> None:
        self.waits.turn_ended(now)

    def interruption(self, now: float) -> None:
        if self.turns.bot_speaks:
            self.turns.user_spoke(now)

    def answering(self, now: float) -> None:
        self.waits.answering(now)

    def bot_started(self, now: float) -> None:
        if self.first_word_s is None:
            self.first_word_s = now - self._began
        self.turns.bot_started(now)
        answer = self.waits.answered(now)
        if answer is not None and ("turn_end" in answer.parts or not self._tells_turns):
            self._answers += 1
            if len(self.answers) < KEPT:
                self.answers.append(answer)
            self._told(self.turns.number, answer)

    def bot_stopped(self, now: float) -> None:
        self.turns.bot_stopped(now)

    def counters(self, now: float) -> dict[str, int]:
        """For the call's record: counts, and times in milliseconds (of the answers: medians)."""
        turns = self.turns
        if not turns.number:
            return {}
        found = {"turns": turns.number, "turns_interrupted": turns.interrupted}
        found["turn_ms"] = round((turns.seconds + turns.open_s(now)) * 1000 / turns.number)
        if self.first_word_s is not None:
            found["first_word_ms"] = round(self.first_word_s * 1000)
        if self.answers:
            found["answers"] = self._answers
            found["answer_ms"] = _median_ms([answer.wait_s for answer in self.answers])
            found["answer_slowest_ms"] = round(max(answer.wait_s for answer in self.answers) * 1000)
            for part in PARTS:
                times = [answer.parts[part] for answer in self.answers if part in answer.parts]
                if times:
                    found[f"answer_{part}_ms"] = _median_ms(times)
        return found


def _median_ms(times: list[float]) -> int:
    return round(sorted(times)[len(times) // 2] * 1000)
