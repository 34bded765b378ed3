"""What became of the audio of one call: generated, sent, held at the carrier, heard. In samples at the wire's rate.

The model: the carrier plays in real time what has arrived, goes silent when it runs dry, and starts again with the
next packet. Play-out is a list of *runs*, stretches of audio without a break, each with the time its first sample is
played. What is not known is the way to the carrier and how long it waits before it starts; an echo of a mark tells.
All times are those of our clock at the carrier, the way there included.

The way there and back is measured as half of the shortest round trip, and a carrier that is slower to start than
that is taken to have a buffer against jitter. An echo moves the run that its mark stands in, and what follows it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

_LONGEST_WAY_S: Final = 0.25  # one way, at most; more than that is a slow start
_LONGEST_START_S: Final = 2.0
_JUMP_S: Final = 0.5  # an echo later than this is believed only if the next one is too
_EARLY_S: Final = 0.1  # an echo that comes this much before the audio can have been played (drift, rounding)
_IDLE_S: Final = 0.3  # a mark this long after the last audio was played comes straight back
_FORGET_S: Final = 2.0  # a run is forgotten this long after the next one began
_MAX_MARKS: Final = 256  # waiting for their echo; a carrier that never answers must not cost memory


class _Run:
    """Audio that plays without a break, beginning with sample `first` at `start`; sent at `sent_at`."""

    __slots__ = ("corrected", "first", "sent_at", "start")

    def __init__(self, first: int, start: float, sent_at: float) -> None:
        self.first = first
        self.start = start
        self.sent_at = sent_at  # the earliest at which `first` can have been played
        self.corrected = False


class PlayoutLedger:
    """Counts one call's outgoing samples and says which have been heard.

    Args:
        echoes_marks_on_clear: the carrier answers the marks of dropped audio as if it had been played.
        clear_grain_ms: after a clear the carrier still plays to the end of the message of this length that it is in
            (Exotel), and a flush pads what is begun of one with silence. 0: a clear stops at once.
        latency_s: the way to the carrier, one way, until it has been measured. The owner may set `latency_s` later,
            where the carrier tells a round trip (Genesys `ping`).
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        echoes_marks_on_clear: bool = False,
        clear_grain_ms: int = 0,
        latency_s: float = 0.02,
    ) -> None:
        self.sample_rate = sample_rate
        self.generated = 0
        self.sent = 0
        self.dropped = 0  # sent, and cleared before it was heard
        self.generation = 0  # how often the carrier was cleared
        self._echoes_marks_on_clear = echoes_marks_on_clear
        self._latency = latency_s
        self._shortest: float | None = None  # seconds of the shortest round trip seen
        self._measured = False  # the latency is known, not guessed from echoes of played audio
        self._start_delay = latency_s  # from sending a packet to an idle carrier to its first sample being played
        self._seconds_per_sample = 1 / sample_rate
        # Positions count what was sent and not dropped, so that a run goes on where the one before it was cut.
        self._kept = 0
        self._heard = 0
        self._end = 0.0  # when the last sample kept, and the padding after it, will have been played
        self._padded = False
        self._runs: deque[_Run] = deque()
        self._marks: dict[str, tuple[int, _Run | None, float]] = {}  # name -> position, run, when it was idle or 0
        self._mark_count = 0
        self._grain = clear_grain_ms * sample_rate // 1000
        self._aligned: deque[int] = deque((0,))  # positions at which a message began after a flush or a clear
        self._doubtful = False

    # ------------------------------------------------------------ what we do

    def generate(self, samples: int) -> None:
        """The bot made audio for the caller."""
        self.generated += samples

    def send(self, samples: int, now: float) -> None:
        """One packet has left for the carrier."""
        first = self._kept
        self.sent += samples
        self._kept = first + samples
        if now + self._latency > self._end:
            self._begin(first, now + self._start_delay, now, now)
        elif self._padded:
            self._begin(first, self._end, self._runs[-1].sent_at if self._runs else now, now)
        self._end += samples * self._seconds_per_sample

    def flush(self) -> None:
        """The serializer was flushed: with a `clear_grain_ms`, the last message was filled up with silence."""
        if self._grain and self._kept > self._aligned[-1]:
            self.pad(-(self._kept - self._aligned[-1]) % self._grain)
            self._aligned.append(self._kept)

    def pad(self, samples: int) -> None:
        """The carrier was sent this much silence of the gateway's own: it takes time, but is nothing to be heard."""
        if samples > 0:
            self._end += samples * self._seconds_per_sample
            self._padded = True

    def mark(self, now: float | None = None) -> str:
        """A name for a mark that is put on the wire after what was sent so far."""
        self._mark_count += 1
        name = f"g{self.generation}-{self._mark_count}"
        idle = now if now is not None and now > self._end + _IDLE_S else 0.0
        if len(self._marks) >= _MAX_MARKS:
            del self._marks[next(iter(self._marks))]
        self._marks[name] = (self._kept, self._runs[-1] if self._runs else None, idle)
        return name

    def cleared(self, now: float) -> int:
        """We cleared the carrier: what it has not played when it hears of it will never be.

        Returns:
            How much of all that was sent has been heard, or still will be. What was lost is added to `dropped`.
        """
        heard = max(self._position(now + self._latency), self._heard)
        if self._grain:
            heard = self._end_of_message(heard)
        self.dropped += self._kept - heard
        self._kept = heard
        runs = self._runs
        while runs and runs[-1].first >= heard:
            runs.pop()
        self._end = self._time_of(heard) if runs else min(self._end, now)
        self._padded = False
        self._marks.clear()
        self._aligned = deque((heard,))
        self.generation += 1
        return heard

    # ------------------------------------------------------------ what the carrier says

    def played(self, name: str, now: float) -> bool:
        """A mark came back. False if that proves nothing: not ours, of audio that was cleared, or much too early."""
        mark = self._marks.get(name)
        if mark is None:
            return False
        position, run, idle = mark
        if idle:
            self._measure((now - idle) / 2)
        elif run is not None and not self._correct(run, position, now):
            return False
        del self._marks[name]
        if position > self._heard:
            self._heard = position
        return True

    def playback_started(self, now: float) -> None:
        """The carrier began to play what it had been sent after a silence."""
        run = self._talked_of(now, ended=False)
        if run is not None:
            self._correct(run, run.first, now)

    def playback_completed(self, now: float) -> None:
        """The carrier has played what it had and is silent."""
        run = self._talked_of(now, ended=True)
        if run is None:
            return
        position = self._last_of(run)
        if self._correct(run, position, now) and position > self._heard:
            self._heard = position

    # ------------------------------------------------------------ what has become of it

    def heard(self, now: float) -> int:
        """How many of the samples sent have been played by now. Never falls, never more than were sent."""
        position = self._position(now)
        if position > self._heard:
            self._heard = position
        return self._heard

    def held(self, now: float) -> int:
        """Samples on the way to the carrier or waiting there."""
        return self._kept - self.heard(now)

    def position(self, now: float) -> int:
        """Where in all that was ever sent the first sample stands that has not been heard and was not dropped."""
        return self.dropped + self.heard(now)

    def all_heard(self, now: float) -> bool:
        """Nothing is on the way or waiting."""
        return self.heard(now) >= self._kept

    def heard_by(self) -> float:
        """When all that was sent will have been heard, if nothing more is sent."""
        return self._time_of(self._kept) if self._runs else self._end

    @property
    def latency_s(self) -> float:
        """The way to the carrier, as far as is known."""
        return self._latency

    @latency_s.setter
    def latency_s(self, seconds: float) -> None:
        self._measure(seconds)

    # ------------------------------------------------------------ inside

    def _begin(self, first: int, start: float, sent_at: float, now: float) -> None:
        runs = self._runs
        while len(runs) > 1 and runs[1].start < now - _FORGET_S:
            runs.popleft()
        runs.append(_Run(first, start, sent_at))
        while len(self._aligned) > 1 and self._aligned[1] <= runs[0].first:
            self._aligned.popleft()
        self._end = start
        self._padded = False

    def _position(self, now: float) -> int:
        after = self._kept
        for run in reversed(self._runs):
            if run.start <= now:
                # a sample's hundredth more, or rounding would leave the last one unheard
                return min(run.first + int((now - run.start) * self.sample_rate + 0.01), after)
            after = run.first
        return self._heard

    def _end_of_message(self, position: int) -> int:
        """Where the message ends that the sample before `position` is in."""
        after = self._kept
        for first in reversed(self._aligned):
            if first < position:
                return min(first + -(-(position - first) // self._grain) * self._grain, after)
            after = first
        return position

    def _time_of(self, position: int) -> float:
        for run in reversed(self._runs):
            if run.first < position or run is self._runs[0]:
                return run.start + (position - run.first) * self._seconds_per_sample
        return self._end

    def _last_of(self, run: _Run) -> int:
        after = self._kept
        for other in reversed(self._runs):
            if other is run:
                break
            after = other.first
        return after

    def _talked_of(self, now: float, *, ended: bool) -> _Run | None:
        """The last run whose first (or last) sample the carrier can know of and have played."""
        trip = self._shortest or 0.0
        after = self._kept
        for run in reversed(self._runs):
            length = (after - run.first) * self._seconds_per_sample if ended else 0.0
            if run.sent_at + length + trip <= now + _EARLY_S / 5:
                return run
            after = run.first
        return None

    def _correct(self, run: _Run, position: int, now: float) -> bool:
        """The carrier says that `position` was played, a way before now. False if that cannot be."""
        offset = (position - run.first) * self._seconds_per_sample
        trip = now - run.sent_at - offset
        if trip < -_EARLY_S and self._echoes_marks_on_clear:
            return False
        if trip >= 0 and (self._shortest is None or trip < self._shortest):
            self._shortest = trip
            if not self._measured:
                self._latency = min(trip / 2, _LONGEST_WAY_S)
        start = now - self._latency - offset
        change = start - run.start
        if change > _JUMP_S and not self._doubtful:
            self._doubtful = True
            return True
        self._doubtful = False
        if not run.corrected:
            run.corrected = True
            delay = min(max(start - run.sent_at, self._latency), _LONGEST_START_S)
            self._start_delay = delay
        runs = self._runs
        if run not in runs:
            return True
        run.start = start
        self._end += change
        previous: _Run | None = None
        for other in runs:
            if previous is not None and other.first > run.first:
                earliest = previous.start + (other.first - previous.first) * self._seconds_per_sample
                other.start = max(other.sent_at + self._start_delay, earliest)
            previous = other
        last = runs[-1]
        if last is not run:
            self._end = last.start + (self._kept - last.first) * self._seconds_per_sample
        return True

    def _measure(self, latency_s: float) -> None:
        self._latency = min(max(latency_s, 0.0), _LONGEST_WAY_S)
        self._start_delay = max(self._start_delay, self._latency)
        self._measured = True
