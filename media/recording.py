"""A call as both sides heard it: what the caller said left, what he was played right, on one line of time.

`CallTape` has no file and no clock. What the caller says is laid where it was said, what the bot says where the
play-out ledger has it heard; silence stays as long as it was. Every quarter of a second what can change no more is
handed on as s16le.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import numpy as np

from media.ledger import PlayoutLedger
from media.resample import Resampler, make_resampler

Tracks = Literal["both", "caller", "bot"]

PUT_S: Final = 0.25  # of sound in one piece
HORIZON_S: Final = 0.4  # what is older is handed on: a packet that comes later is laid behind it
LATE_S: Final = 0.25  # by how much the caller's packets may be late before their lateness counts as a silence
CLOSE_S: Final = 0.08  # a correction of the ledger's that is smaller leaves no hole in the bot's words


class _Track:
    """Samples from `base` on; what was laid nowhere is silence."""

    __slots__ = ("_hole", "_hole_end", "base", "pcm")

    def __init__(self) -> None:
        self.base = 0
        self.pcm = bytearray()
        self._hole = self._hole_end = 0  # the last one that was left, and where it ends

    @property
    def end(self) -> int:
        return self.base + (len(self.pcm) >> 1)

    def lay(self, at: int, pcm: bytes) -> None:
        """At `at`, or behind what is there already."""
        gap = at - self.end
        if gap > 0:
            self.pcm += bytes(2 * gap)
            self._hole, self._hole_end = gap, at
        self.pcm += pcm

    def draw(self, count: int) -> None:
        """What was laid behind the last hole up to `count` samples earlier, as far as that is still here."""
        count = min(count, self._hole, self._hole_end - self.base)
        if count > 0:
            end = 2 * (self._hole_end - self.base)
            del self.pcm[end - 2 * count : end]
            self._hole -= count
            self._hole_end -= count

    def take(self, count: int) -> bytes:
        taken = bytes(self.pcm[: 2 * count])
        del self.pcm[: 2 * count]
        self.base += count
        return taken if len(taken) == 2 * count else taken + bytes(2 * count - len(taken))


class CallTape:
    """One recording of a call, as it goes.

    Args:
        ledger: of the call's output stage: its rate is the recording's.
        put: takes s16le in order, two channels for "both", else one.
        now: seconds of the call's clock: sample 0.
    """

    def __init__(
        self, ledger: PlayoutLedger, put: Callable[[bytes], None], now: float, tracks: Tracks = "both"
    ) -> None:
        self.sample_rate = ledger.sample_rate
        self.channels = 2 if tracks == "both" else 1
        self.is_paused = False
        self._ledger, self._put, self._tracks = ledger, put, tracks
        self._began = now
        self._caller, self._bot = _Track(), _Track()
        self._resampler: Resampler | None = None
        self._laid = ledger.heard(now)  # position, in what was sent and kept, up to which the bot's words are laid
        self._dropped = ledger.dropped
        # What is on its way when this begins was not seen: it counts as silence.
        self._sent = bytearray(2 * ledger.held(now))
        self._written = 0  # samples handed on
        self._next = now + PUT_S

    @property
    def seconds(self) -> float:
        """Handed on so far."""
        return self._written / self.sample_rate

    def caller(self, pcm: bytes, sample_rate: int, channels: int, now: float) -> None:
        """The caller's sound that has just come; of several channels the first is his."""
        if self.is_paused or self._tracks == "bot":
            return
        if channels != 1:
            pcm = np.frombuffer(pcm, "<i2")[::channels].tobytes()
        if sample_rate != self.sample_rate:
            if self._resampler is None or self._resampler.in_rate != sample_rate:
                self._resampler = make_resampler(sample_rate, self.sample_rate)
            pcm = self._resampler.process(pcm)
        said = int((now - self._ledger.latency_s - self._began) * self.sample_rate) - (len(pcm) >> 1)
        # Nothing is heard before it was said: if this would lie too late, so does what was laid after a late packet.
        self._caller.draw(self._caller.end - said)
        end = self._caller.end
        late = said - end > LATE_S * self.sample_rate or (end == 0 and said > 0)
        if said + (len(pcm) >> 1) > 0:  # else it was said before
            self._caller.lay(said if late else end, pcm)

    def sent(self, pcm: bytes) -> None:
        """A packet of the bot's has left, and the ledger knows of it."""
        self._forget()
        self._sent += pcm

    def _forget(self) -> None:
        """What the carrier was cleared of since was never heard."""
        lost = self._ledger.dropped - self._dropped
        if lost:
            self._dropped += lost
            # The ledger has counted the packet that is just being added; it comes behind.
            del self._sent[max(0, len(self._sent) - 2 * lost) :]

    def tick(self, now: float) -> None:
        """Every 20 ms or so."""
        if now >= self._next:
            self._next = now + PUT_S
            self._lay_heard(now)
            self._hand_on(now - HORIZON_S)

    def finish(self, now: float, *, to_come: bool = False) -> None:
        """All of it up to `now`; with `to_come`, until what was sent will have been heard."""
        self._lay_heard(now, self._ledger.held(now) if to_come else 0)
        self._hand_on(max(now, self._ledger.heard_by()) if to_come else now)

    def _lay_heard(self, now: float, ahead: int = 0) -> None:
        self._forget()
        ledger, rate, first = self._ledger, self.sample_rate, self._laid
        self._laid = last = ledger.heard(now) + ahead
        pcm = bytes(self._sent[: 2 * (last - first)])
        del self._sent[: 2 * (last - first)]
        if not pcm or self.is_paused or self._tracks == "caller":
            return
        pieces = ledger.pieces(first, last) or [(first, now)]
        for (position, start), (after, _) in zip(pieces, [*pieces[1:], (last, 0.0)], strict=True):
            at = round((start - self._began) * rate)
            end = self._bot.end
            self._bot.lay(at if at - end > CLOSE_S * rate else end, pcm[2 * (position - first) : 2 * (after - first)])

    def _hand_on(self, until: float) -> None:
        count = int((until - self._began) * self.sample_rate) - self._written
        if count <= 0:
            return
        self._written += count
        if self._tracks == "caller":
            self._put(self._caller.take(count))
        elif self._tracks == "bot":
            self._put(self._bot.take(count))
        else:
            both = np.empty((count, 2), "<i2")
            both[:, 0] = np.frombuffer(self._caller.take(count), "<i2")
            both[:, 1] = np.frombuffer(self._bot.take(count), "<i2")
            self._put(both.tobytes())
