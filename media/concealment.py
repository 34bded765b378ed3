"""Caller audio in order and without holes, where the carrier numbers its packets.

A lost packet is noticed when the next one comes, and is made up by the last one repeated, fading out. One that comes
late has been made up for already and is dropped; but once that has happened, the call waits a little for what is
missing. Numbers that make no sense are not believed: then audio passes as it comes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from media.codecs import audioop
from media.frames import InputAudioRawFrame

WINDOW: Final = 3  # packets that wait for one before them, once packets have come out of order
SHORTEST_MS: Final = 5.0  # a shorter hole is none: the carrier counts in other steps
LONGEST_MS: Final = 300.0  # a longer hole is silence of the line (or a pause of the carrier), and is left out
FADES: Final = (0.8, 0.5, 0.2)  # of what is repeated; then silence
DISTRUST: Final = 5  # contradictions in a row, and the numbers are not believed any more

Frames = Sequence[InputAudioRawFrame]


class Concealment:
    """One call's numbered packets. Counts go to `counters`, as `caller_lost`, `caller_late` and the like."""

    __slots__ = ("_counters", "_next", "_trusted", "_waiting", "_wrong", "last", "reorders")

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._next: int | None = None  # the number that is due
        self.last: InputAudioRawFrame | None = None
        self._waiting: dict[int, InputAudioRawFrame] = {}  # ahead of the one that is due
        self._wrong = 0
        self._trusted = True
        self.reorders = False  # packets have come out of order in this call

    def take(self, frame: InputAudioRawFrame) -> Frames:
        """What is to be heard now that `frame` has come, in order."""
        number = frame.seq
        if number is None or not self._trusted:
            return (frame,)
        if number == self._next and not self._waiting:
            self._next = number + 1
            self.last, self._wrong = frame, 0
            return (frame,)
        due = self._next
        if due is None:
            self._next, self.last = number + 1, frame
            return (frame,)
        if number < due:
            return self._behind(frame, number, due)
        self._wrong = 0
        if number > due and not self._waiting:
            hole_ms = self._hole_ms(frame, number - due)
            if hole_ms > LONGEST_MS:
                self._counters["caller_pauses"] += 1
            if not SHORTEST_MS <= hole_ms <= LONGEST_MS:
                self._next, self.last = number + 1, frame
                return (frame,)
        self._waiting[number] = frame
        if number > due and self.reorders and len(self._waiting) <= WINDOW:
            return ()  # the missing one may come yet
        return self._let_go()

    # ------------------------------------------------------------ inside

    def _behind(self, frame: InputAudioRawFrame, number: int, due: int) -> Frames:
        """One that was due before: late, sent twice, or numbered anew."""
        last = self.last
        if last is not None and number == due - 1 and frame.audio == last.audio:
            self._counters["caller_twice"] += 1
            return ()
        self._wrong += 1
        if due - number <= 2 * WINDOW and self._wrong < DISTRUST:
            self._counters["caller_late"] += 1
            self.reorders = True
            return ()
        if self._wrong >= DISTRUST:
            self._trusted = False
        flushed = self._let_go()
        self._next, self.last = number + 1, frame
        return (*flushed, frame)

    def _let_go(self) -> Frames:
        """What waits, with what is missing in it made up."""
        out: list[InputAudioRawFrame] = []
        waiting, due = self._waiting, self._next
        assert due is not None
        for number in sorted(waiting):
            frame = waiting[number]
            missing = number - due
            if missing:
                out += self._made_up(frame, missing)
            self.last = frame
            out.append(frame)
            due = number + 1
        waiting.clear()
        self._next = due
        return out

    def _made_up(self, after: InputAudioRawFrame, missing: int) -> list[InputAudioRawFrame]:
        last = self.last or after
        self._counters["caller_lost"] += missing
        made = []
        for index in range(missing):
            fade = FADES[index] if index < len(FADES) else 0.0
            pcm = audioop.mul(last.audio, 2, fade)
            made.append(InputAudioRawFrame(pcm, last.sample_rate, last.num_channels))
        seconds = sum(len(frame.audio) for frame in made) / (2 * last.num_channels * last.sample_rate)
        self._counters["caller_concealed_ms"] += round(seconds * 1000)
        return made

    def _hole_ms(self, frame: InputAudioRawFrame, missing: int) -> float:
        """How long the hole before `frame` is: by the carrier's clock, where it tells one."""
        last = self.last
        if last is None:
            return 0.0
        packet_ms = last.num_frames * 1000 / last.sample_rate
        if frame.timestamp_ms is None or last.timestamp_ms is None:
            return missing * packet_ms
        return frame.timestamp_ms - last.timestamp_ms - packet_ms
