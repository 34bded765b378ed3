"""What is told when somebody has finished speaking."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class UserTurnStoppedMessage:
    content: str  # all that was transcribed of the turn
    timestamp: str  # ISO 8601: when the turn began
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class AssistantTurnStoppedMessage:
    content: str  # what was spoken, also when it was cut off
    timestamp: str


@dataclass(frozen=True, slots=True)
class AssistantThoughtMessage:
    content: str
    timestamp: str


def iso_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
