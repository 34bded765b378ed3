"""What became of the audio of one call: generated, sent, held at the carrier, heard. In samples at the wire's rate.

The model: the carrier plays in real time what has arrived, goes silent when it runs dry, and starts again with the
next packet. Play-out is a list of *runs*, stretches of audio without a break, each with the time its first sample is
played. What is not known is the way to the carrier and how long it waits before it starts; an echo of a mark tells.
All times are those of our clock at the carrier, the way there included.

The way there and back is measured as half of the shortest round trip, and a carrier that is slower to start than
that is taken to have a buffer against jitter. An echo moves the run that its mark stands in, and what follows it. One
that came straight back says that all was played when its mark arrived, and not when it was.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

_LONGEST_WAY_S: Final = 0.25  # one way, at most; more than that is a slow start
_LONGEST_START_S: Final = 2.0
_JUMP_S: Final = 0.5  # an echo later than this is believed only if the next one is too,
_LATE_S: Final = 0.02  # or than this, once it is known how soon the carrier starts
_EARLY_S: Final = 0.1  # an echo that comes this much before the audio can have been played (drift, rounding)
_SLACK_S: Final = 0.05  # by how much one round trip may take longer than another
_TIGHT_S: Final = 0.04  # audio that comes so shortly before the carrier runs dry may have been late
_ROUNDING_S: Final = 1e-4
_IDLE_S: Final = 0.3  # a mark this long after the last audio was played comes straight back
_AT_ONCE_S: Final = 0.015  # an echo that takes no longer than the way there and back, and this
_FORGET_S: Final = 1.0  # a run is forgotten this long after the next one began
_MAX_MARKS: Final = 256  # waiting for their echo; a carrier that never answers must not cost memory


class _Run:
    """Audio that plays without a break, beginning with sample `first` at `start`; sent at `sent_at`."""

    __slots__ = ("cold", "corrected", "first", "gap", "sent_at", "start", "tight")

    def __init__(self, first: int, start: float, sent_at: float, gap: float, cold: bool) -> None:
        self.first = first
        self.start = start
        self.sent_at = sent_at  # when the carrier could play `first` if it were here: the earliest
        self.gap = gap  # seconds of padding before it
        self.cold = cold  # the carrier had been silent for long enough to be sure of it
        self.corrected = False  # the carrier has told of it
        self.tight = False  # some of it came just in time: there may have been gaps that are not known


class _Mark(NamedTuple):
    position: int
    run: _Run | None  # that the sample before it is in
    padding: float  # seconds of it between that sample and the mark
    sent_at: float | None
    idle: bool  # the carrier had played all when it was sent


class PlayoutLedger:
    """Counts one call's outgoing samples and says which have been heard.

    Args:
        echoes_marks_on_clear: the carrier answers the marks of dropped audio as if it had been played.
        clear_grain_ms: after a clear the carrier still plays to the end of the message that it is in (Exotel); a
            message is this long or longer, and a flush pads what is shorter. 0: a clear stops at once.
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
        self.waiting = 0  # of what was sent: the last samples, which the carrier has not been given yet
        self.dropped = 0  # sent, and cleared before it was heard
        self.confirmed = 0  # heard by the carrier's own word; like heard(), without what was dropped
        self.generation = 0  # how often the carrier was cleared
        self._echoes_marks_on_clear = echoes_marks_on_clear
        self._latency = latency_s
        self._shortest = float("inf")  # seconds of the shortest round trip seen
        self._measured = False  # the latency is known, not guessed from echoes of played audio
        self._start_delay = latency_s  # from sending a packet to an idle carrier to its first sample being played
        self._start_delay_guessed = True
        self._seconds_per_sample = 1 / sample_rate
        # Positions count what was sent and not dropped, so that a run goes on where the one before it was cut.
        self._kept = 0
        self._heard = 0
        self._end = float("-inf")  # when the last sample kept, and the padding after it, will have been played
        self._padding = 0.0  # seconds of it since the last sample
        self._last_sent = 0.0
        self._runs: deque[_Run] = deque()
        self._marks: dict[str, _Mark] = {}
        self._mark_count = 0
        self._grain = clear_grain_ms * sample_rate // 1000
        self._messages: deque[int] = deque()  # where each began, with a grain
        self._doubt = 0.0  # by how much the last echo was late, if it was not believed

    # ------------------------------------------------------------ what we do

    def generate(self, samples: int) -> None:
        """The bot made audio for the caller."""
        self.generated += samples

    def send(self, samples: int, now: float, waiting: int = 0) -> None:
        """One packet has left for the carrier, but for the last `waiting` samples of all that was sent."""
        self.sent += samples
        samples += self.waiting - waiting
        self.waiting = waiting
        if samples:
            self._leave(samples, now)

    def left(self, waiting: int, now: float) -> None:
        """Of what had to wait, only `waiting` samples still do."""
        samples, self.waiting = self.waiting - waiting, waiting
        if samples > 0:
            self._leave(samples, now)
        elif samples < 0:
            self._take_back(-samples)

    def _leave(self, samples: int, now: float) -> None:
        first = self._kept
        self._kept = first + samples
        self._last_sent = now
        if self._grain:
            self._note_messages(first, now)
        if now + self._latency > self._end or not self._runs:
            self._begin(first, now + self._start_delay, now, now)
        elif self._padding:
            last = self._runs[-1]
            earliest = last.sent_at + (first - last.first) * self._seconds_per_sample + self._padding
            self._begin(first, self._end, earliest, now)
        elif now + self._latency > self._end - _TIGHT_S:
            self._runs[-1].tight = True
        self._end += samples * self._seconds_per_sample

    def flush(self, padding: int | None = None) -> None:
        """The serializer was flushed: the last message was filled up with `padding` samples of silence.

        None: with a `clear_grain_ms`, it was as much as that asks for.
        """
        if padding is None:
            padding = max(0, self._grain - (self._kept - self._messages[-1])) if self._messages else 0
        self.pad(padding)

    def pad(self, samples: int) -> None:
        """The carrier was sent this much silence of the gateway's own: it takes time, but is nothing to be heard."""
        if samples > 0:
            seconds = samples * self._seconds_per_sample
            self._end += seconds
            self._padding += seconds

    def mark(self, now: float | None = None) -> str:
        """A name for a mark that is put on the wire after what was sent so far."""
        self._mark_count += 1
        name = f"g{self.generation}-{self._mark_count}"
        idle = now is not None and now > self._end + _IDLE_S
        run = self._runs[-1] if self._runs else None
        if len(self._marks) >= _MAX_MARKS:
            del self._marks[next(iter(self._marks))]
        self._marks[name] = _Mark(self._kept, run, self._padding, now, idle)
        return name

    def cleared(self, now: float, unsent: int = 0) -> int:
        """We cleared the carrier: what it has not played when it hears of it will never be.

        Args:
            unsent: samples at the end of what was counted as sent that had not left yet, those `waiting` among them.

        Returns:
            How much of all that was sent has been heard, or still will be. What was lost is added to `dropped`.
        """
        last = self._kept - max(0, unsent - self.waiting)
        heard = max(min(self._cut(now + self._latency), last), self._heard)
        self.dropped += self._kept + self.waiting - heard
        self.waiting = 0
        runs = self._runs
        padding = 0.0
        if self._grain:  # the message that is finished may end with silence
            padding = self._padding if heard == self._kept else self._gap_before(heard)
        self._kept = heard
        while runs and runs[-1].first >= heard:
            runs.pop()
        self._end = self._time_of(heard) + padding if runs else min(self._end, now)
        self._padding = padding
        self._marks.clear()
        self._forget_messages(heard)
        self.generation += 1
        return heard

    # ------------------------------------------------------------ what the carrier says

    def played(self, name: str, now: float) -> bool:
        """A mark came back. False if that proves nothing: not ours, of audio that was cleared, or much too early."""
        mark = self._marks.get(name)
        if mark is None:
            return False
        if mark.sent_at is not None:
            self._round_trip(now - mark.sent_at, mark.idle)
        overtaken = mark.position < self.confirmed  # so late that it tells nothing of when
        if mark.run is not None and not (mark.idle or overtaken or self._came_straight_back(mark, now)):
            sure = not self._echoes_marks_on_clear
            if not self._correct(mark.run, mark.position, now - mark.padding, timed=True, sure=sure):
                return False
        del self._marks[name]
        self._confirm(mark.position)
        return True

    def playback_started(self, now: float) -> None:
        """The carrier began to play what it had been sent after a silence."""
        # No trip is much shorter than the shortest: an event that comes sooner speaks of audio cleared since.
        sent_by = now - (self._shortest - _SLACK_S if _SLACK_S < self._shortest < float("inf") else 0.0)
        started = [run for run in self._runs if run.cold and not run.corrected and run.sent_at <= sent_by]
        if started:
            run = min(started, key=lambda run: abs(run.start + self._latency - now))
            self._correct(run, run.first, now, timed=True)

    def playback_completed(self, now: float) -> None:
        """The carrier has played what it had and is silent. Nothing is learned where more may be on its way."""
        if self._runs and self._last_sent + 2 * self._latency + _SLACK_S < now:
            run = self._runs[-1]
            if abs(self._end + self._latency - now) < _JUMP_S and self._correct(run, self._kept, now - self._padding):
                self._confirm(self._kept)

    # ------------------------------------------------------------ what has become of it

    def heard(self, now: float) -> int:
        """How many of the samples sent have been played by now. Never falls, never more than were sent."""
        position = self._position(now)
        if position > self._heard:
            self._heard = position
        return self._heard

    def held(self, now: float) -> int:
        """Samples on the way to the carrier or waiting there, or to leave."""
        return self._kept + self.waiting - self.heard(now)

    def position(self, now: float) -> int:
        """Where in all that was ever sent the first sample stands that has not been heard and was not dropped."""
        return self.dropped + self.heard(now)

    def all_heard(self, now: float) -> bool:
        """Nothing is on the way or waiting."""
        return not self.waiting and self.heard(now) >= self._kept

    def pieces(self, first: int, last: int) -> list[tuple[int, float]]:
        """When the samples kept from `first` to `last` are played: (position, time) where each stretch begins."""
        found: list[tuple[int, float]] = []
        for run in reversed(self._runs):
            if run.first < last:
                at = max(first, run.first)
                found.append((at, run.start + (at - run.first) * self._seconds_per_sample))
                if run.first <= first:
                    break
        found.reverse()
        if found and found[0][0] > first:  # the run in which it begins is forgotten
            at, start = found[0]
            found[0] = first, start - (at - first) * self._seconds_per_sample
        return found

    def heard_by(self) -> float:
        """When all that was sent will have been heard, if nothing more is sent."""
        end = self._time_of(self._kept) if self._runs else self._end
        return end + self.waiting * self._seconds_per_sample

    @property
    def has_been_told(self) -> bool:
        """The carrier has said when it played something; until then its delay is a guess."""
        return not self._start_delay_guessed

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
            self._heard = max(self._heard, runs[0].first)
        runs.append(_Run(first, start, sent_at, self._padding, now > self._end + _IDLE_S))
        self._end = start
        self._padding = 0.0

    def _take_back(self, samples: int) -> None:
        """The carrier did not take what had left last: it waits again."""
        kept = max(self._kept - samples, self._heard)
        self._end -= (self._kept - kept) * self._seconds_per_sample
        self._kept = kept
        self._forget_messages(kept)
        runs = self._runs
        while len(runs) > 1 and runs[-1].first >= kept:
            runs.pop()
            self._end = self._time_of(kept)

    def _note_messages(self, first: int, now: float) -> None:
        """What leaves at once is one message, but for what two would hold."""
        messages = self._messages
        while len(messages) > 1 and messages[1] <= self._position(now):
            messages.popleft()
        messages.append(first)
        while self._kept - messages[-1] >= 2 * self._grain:
            messages.append(messages[-1] + self._grain)

    def _forget_messages(self, position: int) -> None:
        """Nothing was sent from here on."""
        while self._messages and self._messages[-1] >= position:
            self._messages.pop()

    def _position(self, now: float) -> int:
        after = self._kept
        for run in reversed(self._runs):
            if run.start <= now:
                # a sample's hundredth more, or rounding would leave the last one unheard
                return min(run.first + int((now - run.start) * self.sample_rate + 0.01), after)
            after = run.first
        return self._heard

    def _cut(self, when: float) -> int:
        """Up to where the carrier plays if it is cleared at `when`."""
        position = self._position(when)
        run = next((run for run in reversed(self._runs) if run.first <= position), None)
        if not self._grain or position == self._kept or run is None:
            return position
        if when + _ROUNDING_S < run.start + (position - run.first) * self._seconds_per_sample:
            return position  # in the padding before this sample
        after = self._kept
        for first in reversed(self._messages):
            if first <= position:
                break
            after = first
        return after

    def _gap_before(self, position: int) -> float:
        """Seconds of padding between this sample and the one before it."""
        return next((run.gap for run in self._runs if run.first == position), 0.0)

    def _time_of(self, position: int) -> float:
        for run in reversed(self._runs):
            if run.first < position or run is self._runs[0]:
                return run.start + (position - run.first) * self._seconds_per_sample
        return self._end

    def _correct(self, run: _Run, position: int, now: float, *, timed: bool = False, sure: bool = False) -> bool:
        """The carrier says that `position` was played, one way before now.

        `timed`: no doubt which event it speaks of, so that the round trip can be measured by it. `sure`: it does not
        lie. Returns False if it cannot be true.
        """
        offset = (position - run.first) * self._seconds_per_sample
        trip = now - run.sent_at - offset
        if trip < -_EARLY_S and not sure:
            return False
        if timed and -_EARLY_S < trip < self._shortest:
            self._shortest = max(trip, 0.0)
            if not self._measured:
                self._latency = min(self._shortest / 2, _LONGEST_WAY_S)
        start = now - self._latency - offset
        change = start - run.start
        doubt, self._doubt = self._doubt, 0.0
        if change > (_JUMP_S if self._start_delay_guessed else _LATE_S):
            if not doubt:
                self._doubt = change
                return True
            change = min(change, doubt)
            start = run.start + change
        if not run.corrected:
            run.corrected = True
            delay = min(max(start - run.sent_at, self._latency), _LONGEST_START_S)
            if self._start_delay_guessed or delay < self._start_delay:
                self._start_delay = delay
            elif not run.tight:
                self._start_delay = (self._start_delay + delay) / 2
            self._start_delay_guessed = False
        runs = self._runs
        if run not in runs:
            return True
        run.start = start
        self._end += change
        previous: _Run | None = None
        for other in runs:
            if previous is not None and other.first > run.first:
                length = (other.first - previous.first) * self._seconds_per_sample
                earliest = previous.start + length + other.gap
                other.start = max(other.sent_at + self._start_delay, earliest)
            previous = other
        last = runs[-1]
        if last is not run:
            self._end = last.start + (self._kept - last.first) * self._seconds_per_sample + self._padding
        return True

    def _round_trip(self, seconds: float, sure: bool) -> None:
        """The way there and back takes no longer than this; `sure`: no shorter either."""
        if sure:
            self._measure(min(seconds / 2, self._latency if self._measured else self._shortest / 2))
        elif -_EARLY_S < seconds < self._shortest:
            self._shortest = max(seconds, 0.0)
            self._latency = min(self._latency, self._shortest / 2)
            if self._start_delay_guessed:
                self._start_delay = self._latency

    def _came_straight_back(self, mark: _Mark, now: float) -> bool:
        """The carrier may have been silent when the mark arrived, and the clock says nothing else."""
        if mark.sent_at is None or mark.run is None:
            return False
        run, way = mark.run, self._latency
        played = run.start + (mark.position - run.first) * self._seconds_per_sample + mark.padding
        known = run.corrected or not self._start_delay_guessed
        slack = _SLACK_S if known and played < mark.sent_at + way else _AT_ONCE_S
        return now - mark.sent_at <= 2 * way + slack and played <= now - way

    def _confirm(self, position: int) -> None:
        self.confirmed = max(self.confirmed, position)
        self._heard = max(self._heard, position)

    def _measure(self, latency_s: float) -> None:
        self._latency = min(max(latency_s, 0.0), _LONGEST_WAY_S)
        self._start_delay = self._latency if self._start_delay_guessed else max(self._start_delay, self._latency)
        self._measured = True
