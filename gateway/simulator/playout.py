"""A carrier's play-out buffer, and what the caller hears of it. No clock: `now` is an argument.

Everything is counted in samples on the caller's own clock, which starts with the connection: where nothing was
buffered the caller heard silence. A buffer that was empty begins to play in the moment audio arrives, so that a late
packet is always heard as a gap.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from media.codecs import audioop

# Audio that follows an underrun within this time belongs to the reply that broke off, unless a mark closed that reply,
# or it had been silent for PAUSE_S: closures inside words are shorter, and nobody hears a pause become longer.
SAME_REPLY_S = 0.3
PAUSE_S = 0.1
SILENCE_PEAK = 200  # a sample of at most this is silence, about -44 dBFS
AUDIBLE_GAP_S = 0.01  # shorter underruns are summed, not counted: any jitter buffer swallows them


class ClearRule(enum.Enum):
    """What a carrier does with the audio it holds when it is told to clear."""

    DROP_ALL = "drop all"
    FINISH_CHUNK = "finish the message being played"


class PlayoutOverflow(Exception):
    """More audio is waiting than the carrier holds."""

    def __init__(self, buffered_s: float, limit_s: float) -> None:
        super().__init__(f"{buffered_s:.1f} s are waiting, the carrier holds {limit_s:g} s")
        self.buffered_s, self.limit_s = buffered_s, limit_s


@dataclass(frozen=True, slots=True)
class PlayoutEvent:
    """Something that happened in the buffer: "started", "idle" (it ran dry), or "mark" (`name` was reached)."""

    at: float
    what: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """Silence where there was sound, in the middle of a reply, because its next packet came late."""

    at: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class Clear:
    """The buffer was cleared at `at`; the last cleared-over sample was heard at `silent_at`."""

    at: float
    silent_at: float
    dropped_s: float


@dataclass(slots=True)
class _Mark:
    name: str
    position: int  # samples appended before it
    placed_at: float


_NO_EVENTS: Sequence[PlayoutEvent] = ()


class Playout:
    """Audio that waits for its turn, marks between it, and the record of what was heard.

    Args:
        rate: Hz of the audio that comes in.
        clear_rule: what `clear` leaves.
        max_buffered_s: `append` raises PlayoutOverflow over this.
        record: keep what was heard. Without it the cost of a packet is a few additions.
    """

    def __init__(
        self,
        rate: int,
        *,
        clear_rule: ClearRule = ClearRule.DROP_ALL,
        max_buffered_s: float = math.inf,
        record: bool = True,
    ) -> None:
        self.rate = rate
        self.clear_rule = clear_rule
        self.max_buffered_s = max_buffered_s
        self.started_at = 0.0
        self.first_audio_at: float | None = None  # the first packet, silent or not
        self.gaps: list[Gap] = []
        self.clears: list[Clear] = []
        self.utterances = 0  # stretches of audio without a pause of more than SAME_REPLY_S
        self.played_s = 0.0  # seconds of audio heard, without the silence between
        self.most_buffered_s = 0.0
        self.marks_only = False  # nobody asks when play-out starts and runs dry: `advance` tells marks alone
        self._record = record
        self._heard = bytearray()
        self._taken = 0  # bytes of `heard` that `take` gave out
        self._clock = 0  # samples on the caller's clock, all played or silent
        self._queue: deque[tuple[bytes | None, int]] = deque()  # PCM (None: length only), samples
        self._head = 0  # samples of the first entry that were played
        self._queued = 0  # samples waiting
        self._consumed = 0  # samples of audio played
        self._dry_at: int | None = None  # clock at which the queue ran dry in a reply that may go on
        self._new_reply = True  # nothing was appended since the start or the last clear
        self._marks: deque[_Mark] = deque()
        self._marked = 0  # position of the latest mark
        self._events: list[PlayoutEvent] = []
        self._open = True

    def start(self, now: float) -> None:
        """The connection stands: the caller's clock begins."""
        self.started_at = now

    # ------------------------------------------------------------ what the gateway sends

    def append(self, pcm: bytes, now: float) -> None:
        """Take one message's audio (s16le). Raises PlayoutOverflow."""
        self._append(pcm if self._record else None, len(pcm) >> 1, now)

    def append_unheard(self, samples: int, now: float) -> None:
        """As `append`, for audio of which only the length matters; it is recorded as silence."""
        self._append(None, samples, now)

    def _append(self, pcm: bytes | None, samples: int, now: float) -> None:
        if not self._open or not samples:
            return
        self._advance(now)
        if not self._queued or self._new_reply:
            self._begin(now)
        self._queue.append((pcm, samples))
        self._queued += samples
        buffered = self._queued / self.rate
        if buffered > self.most_buffered_s:
            self.most_buffered_s = buffered
            if buffered > self.max_buffered_s:
                raise PlayoutOverflow(buffered, self.max_buffered_s)

    def _begin(self, now: float) -> None:
        """Audio arrives in an empty buffer, or the first after a clear: a new reply, or the end of a gap."""
        if self.first_audio_at is None:
            self.first_audio_at = now
        dry_at, self._dry_at = self._dry_at, None
        silence = 0.0 if dry_at is None else (self._clock - dry_at) / self.rate
        if self._new_reply or silence > SAME_REPLY_S:
            self.utterances += 1
            self._new_reply = False
        elif silence and dry_at is not None:
            if self._marked == self._consumed or self._paused(dry_at):
                self.utterances += 1
            else:
                self.gaps.append(Gap(self._at(dry_at), silence))
        if not self._queued and not self.marks_only:
            self._events.append(PlayoutEvent(now, "started"))

    def _paused(self, clock: int) -> bool:
        """Whether the audio before `clock` was silent long enough to be a pause, as far as it is recorded."""
        begin = clock - int(PAUSE_S * self.rate)
        if begin < 0 or not self._record:
            return False
        return int(audioop.max(self._heard[2 * begin : 2 * clock], 2)) <= SILENCE_PEAK

    def mark(self, name: str, now: float) -> None:
        """Report `name` from `advance` when all that was appended before has been played; at once when idle."""
        self._advance(now)
        self._marked = self._consumed + self._queued
        self._marks.append(_Mark(name, self._marked, now))
        if not self._queued:
            self._fire_marks(self._clock)

    def clear(self, now: float) -> list[str]:
        """Drop what is waiting, by the carrier's rule. The names of the marks that were dropped with it."""
        self._advance(now)
        kept = 0
        if self.clear_rule is ClearRule.FINISH_CHUNK and self._head:
            kept = self._queue[0][1] - self._head
            head = self._queue[0]
            self._queue.clear()
            self._queue.append(head)
        else:
            self._queue.clear()
            self._head = 0
        dropped = self._queued - kept
        was_playing = self._queued > 0
        self._queued = kept
        self._dry_at = None
        self._new_reply = True
        last = self._consumed + kept
        dropped_marks = [mark.name for mark in self._marks if mark.position > last]
        self._marks = deque(mark for mark in self._marks if mark.position <= last)
        self.clears.append(Clear(now, now + kept / self.rate, dropped / self.rate))
        if was_playing and not kept and not self.marks_only:
            self._events.append(PlayoutEvent(now, "idle"))
        return dropped_marks

    # ------------------------------------------------------------ time

    def advance(self, now: float) -> Sequence[PlayoutEvent]:
        """Play until `now`; what happened since the last call, in order."""
        self._advance(now)
        if not self._events:
            return _NO_EVENTS
        events, self._events = self._events, []
        return events

    @property
    def has_news(self) -> bool:
        """`advance` has something to tell already."""
        return bool(self._events)

    def next_event_at(self) -> float | None:
        """When `advance` will have something to tell, if nothing more arrives."""
        if self._events:
            return self._events[0].at
        if self._marks:
            return self._at(self._clock + self._marks[0].position - self._consumed)
        return self._at(self._clock + self._queued) if self._queued and not self.marks_only else None

    def _advance(self, now: float) -> None:
        due = int((now - self.started_at) * self.rate + 1e-6) - self._clock
        if due <= 0 or not self._open:
            return
        if self._queued:
            playing = min(due, self._queued)
            self._play(playing)
            self._clock += playing
            self._queued -= playing
            self._consumed += playing
            due -= playing
            if self._marks:
                self._fire_marks(self._clock)
            if not self._queued:
                self._dry_at = self._clock
                if not self.marks_only:
                    self._events.append(PlayoutEvent(self._at(self._clock), "idle"))
        if due:
            self._clock += due
            if self._record:
                self._heard.extend(bytes(2 * due))

    def _play(self, samples: int) -> None:
        queue, record = self._queue, self._record
        self.played_s += samples / self.rate
        while samples:
            pcm, length = queue[0]
            count = min(samples, length - self._head)
            if record:
                self._heard += bytes(2 * count) if pcm is None else pcm[2 * self._head : 2 * (self._head + count)]
            self._head += count
            samples -= count
            if self._head == length:
                queue.popleft()
                self._head = 0

    def _fire_marks(self, clock: int) -> None:
        """Report the marks that `_consumed` has reached; `clock` is the caller's clock at that point."""
        while self._marks and self._marks[0].position <= self._consumed:
            mark = self._marks.popleft()
            at = max(mark.placed_at, self._at(clock - (self._consumed - mark.position)))
            self._events.append(PlayoutEvent(at, "mark", mark.name))

    def _at(self, clock: int) -> float:
        return self.started_at + clock / self.rate

    # ------------------------------------------------------------ what became of it

    def close(self, now: float) -> None:
        """The call is over: the caller hears nothing any more, and what still arrives is ignored."""
        if self._open:
            self._advance(now)
            self._open = False
            self._queue.clear()
            self._queued = self._head = 0
            self._marks.clear()
            self._events.clear()

    @property
    def buffered_s(self) -> float:
        """Seconds of audio that wait, as of the last call with a time."""
        return self._queued / self.rate

    @property
    def playing(self) -> bool:
        return self._queued > 0

    @property
    def heard(self) -> bytes:
        """All that the caller heard since the connection's start, s16le at `rate`, up to the last call with a time."""
        return bytes(self._heard)

    def take(self) -> bytes:
        """What was heard since the last `take`: for an ear that listens while the call goes on."""
        piece = bytes(self._heard[self._taken :])
        self._taken = len(self._heard)
        return piece

    def audible_gaps(self) -> list[Gap]:
        return [gap for gap in self.gaps if gap.duration_s >= AUDIBLE_GAP_S]
