"""What a call is given, and what it asks of the world around it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from bots.base import Build
from bots.prompts import Prompt
from media.events import Drives, Handle
from media.processor import FrameProcessor, Lanes
from media.variables import VariableRule


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """Times in seconds, sizes in messages."""

    start_s: float = 10.0  # from the socket to the carrier's start message
    bot_start_s: float = 10.0  # for StartFrame to come through the bot's pipeline
    silence_s: float = 30.0  # without any message from the carrier: the socket is half open
    longest_s: float = 4 * 3600.0
    drain_s: float = 30.0  # for the last words, beyond the time they need by the clock
    outbox: int = 1000  # messages waiting for a peer that does not read; then the oldest media is dropped
    blocked_s: float = 10.0  # a peer that reads nothing for so long is gone


@dataclass(frozen=True, slots=True)
class BotRoute:
    """Which bot answers a call, and at which rate its pipeline runs (None: the wire's)."""

    bot: str
    build: Build
    sample_rate: int | None = None
    on_error: str = "end"  # or "transfer:<target>"
    record: bool = False  # from its beginning to its end
    transcript: bool = False  # its words are kept
    apology: Prompt | None = None  # what its callers hear of it when it has failed
    output_variables: Mapping[str, VariableRule] = field(default_factory=dict)  # what its calls may bring back


class Shell(Drives, Protocol):
    """What a core needs of the world: the session, or a test. The tasks are those of the call's processors."""

    def now(self) -> float: ...
    def wake(self) -> None:
        """There is something in the outbox, or the call has changed its state."""

    def end_task(self, handle: Handle, timeout_s: float | None) -> Awaitable[None]: ...
    def attach_async(self, processor: FrameProcessor) -> Lanes: ...


class Control(Protocol):
    """What can be asked of the carrier's API for one call. Nothing waits here: wishes are handed away."""

    def can_transfer(self, target: str) -> bool: ...
    def transfer(self, target: str) -> float | None:
        """As `hang_up`, for handing the caller over."""

    def hang_up(self, reason: str) -> float | None:
        """Seconds for which the carrier may take to close the socket, if it was asked to end the call.

        None: closing the socket is the way.
        """

    def lost(self) -> None:
        """The socket broke without the carrier's word: whether the call goes on is not known."""

    def stream_over(self) -> None:
        """The carrier has said on the socket that the stream is over, before anything was asked of it."""
