"""What the output stage speaks into, and who listens to what it says."""

from __future__ import annotations

from typing import Any, Final, Protocol

from media.frames import Frame, InterruptionFrame
from media.ledger import PlayoutLedger


class Wire(Protocol):
    """What the output stage needs of the call it speaks into."""

    @property
    def send_rate(self) -> int: ...
    @property
    def packet_ms(self) -> int: ...
    @property
    def lead_ms(self) -> float: ...
    @property
    def cushion_ms(self) -> int: ...
    @property
    def has_marks(self) -> bool: ...
    @property
    def reports_playback(self) -> bool: ...
    @property
    def echoes_marks_on_clear(self) -> bool: ...
    @property
    def sends_digits(self) -> bool: ...
    @property
    def clears(self) -> bool: ...
    @property
    def clear_grain_ms(self) -> int: ...
    def now(self) -> float: ...
    def send_audio(self, pcm: bytes) -> int:
        """One packet, mono, at `send_rate`. How many samples of all packets so far wait to leave."""
        ...

    def send(self, frame: Frame) -> None:
        """Whatever messages `frame` means to this carrier."""

    def flush(self) -> int:
        """The end of speech: samples of silence with which the carrier's last packet was filled."""
        ...

    def clear(self, frame: InterruptionFrame) -> int:
        """Queued media leaves the outbox, and the carrier drops what it holds. How many samples had not left yet."""
        ...

    def released(self, frame: Frame) -> None:
        """`frame` (End, Stop, Cancel) has come to its turn behind all audio."""


class Tap(Protocol):
    """Who hears the bot as the caller does: packets as they leave, and the ledger that knows what became of them."""

    def tuned(self, ledger: PlayoutLedger) -> None:
        """Of all that is sent from now on. Comes again when the stage speaks into another wire."""

    def sent(self, pcm: bytes) -> None:
        """A packet has left, mono s16le at the ledger's rate; the ledger has it already."""


class Stage(Protocol):
    """Whose outlet it is."""

    def release(self, now: float) -> None:
        """Send what is due by `now`: `Outlet.release`, unless something forbids it."""

    def act(self, item: Any, now: float) -> None:
        """Something that is no audio, whose turn has come."""

    def flush(self) -> None:
        """The end of a sound: what a begun packet holds may leave."""

    def still_speaks(self) -> None:
        """Once in a while as the bot speaks."""

    def nothing_more(self) -> None:
        """The bot speaks, and has had nothing to say for long."""

    def to_wire(self, frame: Any) -> bytes:
        """A frame's audio, mono, at the wire's rate."""
        ...


class NoWire:
    """Where nobody is connected."""

    send_rate = 8000
    packet_ms = 20
    lead_ms = 0.0
    cushion_ms = 0
    has_marks = False
    echoes_marks_on_clear = False
    clears = False
    sends_digits = True  # no tones have to be made
    clear_grain_ms = 0
    reports_playback = False
    is_open = True

    def now(self) -> float:
        return 0.0

    def send_audio(self, pcm: bytes) -> int:
        return 0

    def send(self, frame: Frame) -> None: ...
    def flush(self) -> int:
        return 0

    def clear(self, frame: InterruptionFrame) -> int:
        return 0

    def released(self, frame: Frame) -> None: ...


NOBODY: Final = NoWire()
