"""What a generator counts. Plain numbers, so that several generators can be added up and sent as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

MS_PER_BIN = 0.5
_BINS_PER_MS = 1 / MS_PER_BIN
BINS = 6000  # three seconds; what is longer counts as that


@dataclass(slots=True)
class Spread:
    """How a duration is distributed, in bins of half a millisecond."""

    bins: Counter[int] = field(default_factory=Counter)
    worst_ms: float = 0.0

    def add(self, seconds: float) -> None:
        if seconds <= 0.0:
            self.bins[0] += 1
            return
        ms = 1000.0 * seconds
        if ms > self.worst_ms:
            self.worst_ms = ms
        place = int(ms * _BINS_PER_MS)
        self.bins[place if place <= BINS else BINS] += 1

    @property
    def count(self) -> int:
        return self.bins.total()

    def quantile(self, share: float) -> float | None:
        """Milliseconds that `share` of all durations do not exceed; None where there is nothing."""
        left = share * self.count
        for place in sorted(self.bins):
            left -= self.bins[place]
            if left <= 0:
                return min((place + 1) * MS_PER_BIN, max(self.worst_ms, 0.0))
        return None

    def merge(self, other: Spread) -> None:
        self.bins.update(other.bins)
        self.worst_ms = max(self.worst_ms, other.worst_ms)

    def packed(self) -> dict[str, Any]:
        return {"bins": sorted(self.bins.items()), "worst_ms": self.worst_ms}

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> Spread:
        return cls(Counter(dict(packed["bins"])), packed["worst_ms"])

    def summary(self) -> dict[str, float | int | None]:
        """For reports: count, and milliseconds."""
        rounded = {
            name: None if (ms := self.quantile(share)) is None else round(ms, 1)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
        }
        return {"count": self.count, **rounded, "worst": round(self.worst_ms, 1)}


@dataclass(slots=True)
class Tally:
    """All that one generator has seen."""

    placed: int = 0
    connected: int = 0
    done: int = 0  # calls that went as their scenario says
    live: int = 0  # now
    most_live: int = 0
    strict: int = 0  # calls of which every field of every message was checked
    call_s: float = 0.0  # seconds of all calls, from the open socket to its end
    heard_s: float = 0.0
    packets: int = 0  # of audio, from the gateway
    gaps: int = 0
    gap_s: float = 0.0
    uninterrupted: int = 0  # barge-ins that silenced nobody
    cpu_s: float = 0.0  # of the generator
    failed: Counter[str] = field(default_factory=Counter)  # by reason
    refused: Counter[str] = field(default_factory=Counter)  # by reason; those that a scenario expects are `done`
    carriers: Counter[str] = field(default_factory=Counter)  # calls placed, by carrier
    scenarios: Counter[str] = field(default_factory=Counter)
    lateness: Spread = field(default_factory=Spread)  # of a packet, after the caller's play-out needed it
    jitter: Spread = field(default_factory=Spread)  # between two packets: more or less than their length
    echo: Spread = field(default_factory=Spread)
    echo_added: Spread = field(default_factory=Spread)  # to what a packet each way takes by its length
    first_audio: Spread = field(default_factory=Spread)
    setup: Spread = field(default_factory=Spread)  # from the first byte of the handshake to 101
    webhook: Spread = field(default_factory=Spread)
    barge_in: Spread = field(default_factory=Spread)  # from the caller's act to the bot's silence
    own_lateness: Spread = field(default_factory=Spread)  # of the generator's writer

    def merge(self, other: Tally) -> None:
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Spread):
                mine.merge(theirs)
            elif isinstance(mine, Counter):
                mine.update(theirs)
            else:
                setattr(self, each.name, mine + theirs)

    def packed(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            found[each.name] = value.packed() if isinstance(value, Spread) else value
        return found

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> Tally:
        tally = cls()
        for each in fields(cls):
            value = packed[each.name]
            if isinstance(getattr(tally, each.name), Spread):
                value = Spread.unpacked(value)
            elif isinstance(getattr(tally, each.name), Counter):
                value = Counter(value)
            setattr(tally, each.name, value)
        return tally
