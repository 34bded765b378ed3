"""What a simulated caller of a load test notices of the bot's audio, at the cost of a few additions a packet.

The caller speaks a marker: a burst of tone every two seconds. A bot that echoes gives it back, and the moment in which
its first loud sample is heard tells the latency; no other sample is looked at.
"""

from __future__ import annotations

import math
from array import array
from functools import cache

from gateway.load.tally import Tally
from gateway.simulator.base import FakeCarrier
from media.codecs import audioop

MARKER_S, PERIOD_S = 0.2, 2.0
_TONE_HZ, _PEAK = 1000.0, 8000
LOUD = 2000  # a sample above is sound
QUIET_S = 0.1  # without sound for so long: the next one is a new sound


@cache
def marker(rate: int) -> bytes:
    """One period of what the caller says: s16le."""
    burst = int(MARKER_S * rate)
    samples = (round(_PEAK * math.sin(2 * math.pi * _TONE_HZ * n / rate)) for n in range(burst))
    return array("h", samples).tobytes() + bytes(2 * (int(PERIOD_S * rate) - burst))


@cache
def packets(rate: int, size: int) -> tuple[bytes, ...]:
    """The same in packets of `size` bytes, the last one filled up: one object for all who say it."""
    said = marker(rate)
    return tuple(said[at : at + size].ljust(size, b"\0") for at in range(0, len(said), size))


class Ear:
    """One caller's ear.

    A packet is late by what the caller suffers: it came after the moment at which the play-out needed it. That moment
    is counted from the first packet of its reply, which is heard as it comes; so audio that was sent ahead may come
    late by what the carrier has in hand, and what a gap has put in hand excuses nobody. Where a reply begins is the
    play-out's word, as it is for gaps: after a clear, behind a mark, or after a pause.
    """

    __slots__ = (
        "_carrier",
        "_expected_at",
        "_needed_at",
        "_reply",
        "_said",
        "_tally",
        "first_sound_at",
        "last_packet_at",
        "last_sound_at",
    )

    def __init__(self, carrier: FakeCarrier, tally: Tally) -> None:
        self._carrier, self._tally = carrier, tally
        self._reply = 0  # the play-out's number of it
        self._needed_at = 0.0  # when the next packet of this reply has to be there
        self._expected_at = 0.0  # as long after the packet before as that was
        self._said: float | None = None  # when the caller began the last marker that has not come back
        self.last_packet_at = -math.inf
        self.first_sound_at: float | None = None
        self.last_sound_at = -math.inf

    def said_marker(self, at: float) -> None:
        self._said = at

    def take(self, pcm: bytes, now: float) -> None:
        """Audio has arrived, and is the last of the play-out buffer."""
        playout, tally = self._carrier.playout, self._tally
        length = (len(pcm) >> 1) / playout.rate
        tally.packets += 1
        if playout.utterances == self._reply:
            tally.lateness.add(now - self._needed_at)
            tally.jitter.add(abs(now - self._expected_at))
        else:
            self._reply, self._needed_at = playout.utterances, now + self._waiting(length)
        self._needed_at += length
        self._expected_at = now + length
        self.last_packet_at = now
        if audioop.max(pcm, 2) > LOUD:
            self._sound(pcm, now + self._waiting(length), length)

    def _waiting(self, length: float) -> float:
        """Seconds of audio before the last packet, which is `length` long."""
        return max(0.0, self._carrier.playout.buffered_s - length)

    def _sound(self, pcm: bytes, heard_at: float, length: float) -> None:
        before, self.last_sound_at = self.last_sound_at, heard_at + length
        if heard_at - before < QUIET_S:
            return
        samples = array("h", pcm)
        first = next(index for index, sample in enumerate(samples) if abs(sample) > LOUD)
        at = heard_at + first / self._carrier.playout.rate
        if self.first_sound_at is None:
            self.first_sound_at = at
        if self._said is not None and at >= self._said:
            echo_s = at - self._said
            self._tally.echo.add(echo_s)
            self._tally.echo_added.add(echo_s - self._carrier.packet_ms / 1000 - length)
            self._said = None
