"""What became of one simulated call: as lines for people, as JSON for machines."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.simulator.base import Event
from gateway.simulator.hearing import Echo
from gateway.simulator.playout import Gap

ECHO_S = 0.5  # in which what was said late comes back late


@dataclass(frozen=True, slots=True)
class BargeIn:
    """The caller cut in at `at`; the bot's last sample was heard `silence_ms` later."""

    at: float
    silence_ms: float
    by: str  # "voice" or "digit"
    cleared: bool  # the carrier was told to clear; without it the bot merely stopped


@dataclass(frozen=True, slots=True)
class Stall:
    """The caller's own loop woke `late_s` after its time: what it heard and said around then came late by itself."""

    at: float
    late_s: float


@dataclass(frozen=True, slots=True)
class HttpStep:
    """One request between carrier and gateway."""

    t: float  # when it was made; negative: before the media socket stood
    who: str  # "webhook": the carrier asked or reported, "rest": the gateway did
    what: str
    status: int  # 0: no answer
    ms: float


@dataclass(slots=True, kw_only=True)
class CallReport:
    """One call as the caller knew it. Times are seconds since the connection stood."""

    carrier: str
    call_id: str = ""
    ended_by: str = "error"  # "caller", "bot" or "error"
    end_reason: str = ""
    problems: list[str] = field(default_factory=list)  # why the call was not right; empty: it was
    violations: list[str] = field(default_factory=list)  # what the carrier would have rejected; problems too
    refused: int | None = None  # the HTTP status of a handshake that was refused
    close_code: int | None = None
    duration_s: float = 0.0
    first_audio_s: float | None = None  # the first sample heard that is no silence
    heard_s: float = 0.0  # of the bot's audio
    replies: int = 0  # stretches of the bot's audio, as the carrier received them
    gaps: list[Gap] = field(default_factory=list)  # audible ones, inside a reply
    gap_total_s: float = 0.0  # with the inaudible ones
    most_buffered_s: float = 0.0  # waiting at the carrier
    barge_ins: list[BargeIn] = field(default_factory=list)
    echoes: list[Echo] = field(default_factory=list)  # per second said, where the bot echoes
    marks: int = 0
    digits: int = 0  # pressed
    digits_received: str = ""  # from the bot
    output_variables: dict[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)  # what only this carrier has
    messages_in: int = 0  # seen from the gateway
    messages_out: int = 0
    turned_away: str = ""  # what the caller got instead of a stream: "busy", "rejected", "said", "failed: ..."
    handed_to: list[str] = field(default_factory=list)  # numbers and addresses to which the call was transferred
    spoken: list[str] = field(default_factory=list)  # texts that the carrier was told to say
    http: list[HttpStep] = field(default_factory=list)  # webhooks and REST requests, in order
    stalls: list[Stall] = field(default_factory=list)  # of the caller itself
    packets_late: int = 0  # of the caller's own, sent more than 10 ms after their time
    worst_lateness_ms: float = 0.0
    timeline: list[Event] = field(default_factory=list)
    heard: bytes = field(default=b"", repr=False)  # s16le mono at `heard_rate`, from the connection's start
    heard_rate: int = 8000
    said: bytes = field(default=b"", repr=False)
    said_rate: int = 8000

    @property
    def ok(self) -> bool:
        return not self.problems

    def gaps_of_the_gateway(self) -> list[Gap]:
        """The gaps that the caller's own lateness cannot have made.

        A late caller reads late, which sounds like a late packet, and speaks late, which comes back late from a bot
        that echoes. Where caller and gateway share a loop there is no telling who stalled: look at `gaps`.
        """
        return [gap for gap in self.gaps if not any(_explains(stall, gap) for stall in self.stalls)]

    @property
    def stalled_ms(self) -> float:
        """How long the caller was kept from its work, in pieces that are worth a packet: what a busy machine adds."""
        return 1000 * sum(stall.late_s for stall in self.stalls if stall.late_s > 0.02)

    @property
    def echo_ms(self) -> float | None:
        """The median."""
        return 1000 * statistics.median(echo.latency_s for echo in self.echoes) if self.echoes else None

    @property
    def worst_barge_in_ms(self) -> float | None:
        return max((barge_in.silence_ms for barge_in in self.barge_ins), default=None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "carrier": self.carrier,
            "call_id": self.call_id,
            "ok": self.ok,
            "problems": self.problems,
            "violations": self.violations,
            "ended_by": self.ended_by,
            "end_reason": self.end_reason,
            "refused": self.refused,
            "close_code": self.close_code,
            "duration_s": round(self.duration_s, 3),
            "first_audio_s": _rounded(self.first_audio_s, 3),
            "heard_s": round(self.heard_s, 3),
            "replies": self.replies,
            "gaps": [{"t": round(gap.at, 3), "ms": round(1000 * gap.duration_s, 1)} for gap in self.gaps],
            "gaps_of_the_gateway": len(self.gaps_of_the_gateway()),
            "gap_total_ms": round(1000 * self.gap_total_s, 2),
            "most_buffered_s": round(self.most_buffered_s, 3),
            "barge_ins": [
                {"t": round(b.at, 3), "silence_ms": round(b.silence_ms, 1), "by": b.by, "cleared": b.cleared}
                for b in self.barge_ins
            ],
            "echo_ms": _rounded(self.echo_ms, 1),
            "echoes": len(self.echoes),
            "marks": self.marks,
            "digits": self.digits,
            "digits_received": self.digits_received,
            "output_variables": self.output_variables,
            "facts": self.facts,
            "messages_in": self.messages_in,
            "messages_out": self.messages_out,
            "turned_away": self.turned_away,
            "handed_to": self.handed_to,
            "spoken": self.spoken,
            "http": [
                {"t": round(s.t, 3), "who": s.who, "what": s.what, "status": s.status, "ms": round(s.ms, 2)}
                for s in self.http
            ],
            "stalls": [{"t": round(stall.at, 3), "ms": round(1000 * stall.late_s, 1)} for stall in self.stalls],
            "packets_late": self.packets_late,
            "worst_lateness_ms": round(self.worst_lateness_ms, 2),
            "timeline": [
                {"t": round(event.t, 3), "what": event.what} | ({"detail": event.detail} if event.detail else {})
                for event in self.timeline
            ],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def lines(self) -> list[str]:
        """The timeline, one line of figures, what only this carrier has, what the call brought back, what was wrong."""
        lines = [f"{event.t:8.3f} s  {event.what:<10} {event.detail}".rstrip() for event in self.timeline]
        lines.append(", ".join(self._figures()))
        lines += [f"{name}: {_short(value)}" for name, value in self.facts.items() if value not in ("", [])]
        lines += [
            f"output variable {name} = {json.dumps(v, ensure_ascii=False)}" for name, v in self.output_variables.items()
        ]
        lines += [f"problem: {problem}" for problem in self.problems]
        return lines

    def _figures(self) -> Sequence[str]:
        first = f"first audio after {self.first_audio_s:.3f} s" if self.first_audio_s is not None else "no audio"
        figures = [first, f"heard {self.heard_s:.1f} s", f"{len(self.gaps)} gaps"]
        if own := len(self.gaps) - len(self.gaps_of_the_gateway()):
            figures[-1] += f" ({own} of them by this caller's own lateness)"
        if self.barge_ins:
            figures.append("barge-in to silence " + "/".join(f"{b.silence_ms:.0f}" for b in self.barge_ins) + " ms")
        if self.echo_ms is not None:
            figures.append(f"echo after {self.echo_ms:.0f} ms")
        figures.append(f"ended by {self.ended_by}" + (f" ({self.end_reason})" if self.end_reason else ""))
        return figures


def _explains(stall: Stall, gap: Gap) -> bool:
    end = gap.at + gap.duration_s
    return gap.duration_s <= stall.late_s + 0.005 and stall.at <= end <= stall.at + stall.late_s + ECHO_S


def _short(value: Any) -> str:
    """A list as its elements in lines of their own."""
    if not isinstance(value, list):
        return str(value)
    return "".join(f"\n    {json.dumps(one, ensure_ascii=False)}" for one in value)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
