"""How many calls a gateway carries: objectives, and the search for the first that breaks. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.load.report import Report
from media.errors import ConfigError

FINE = 0.05  # the knee is known to so much of itself
SHARE = 0.8  # of the knee: what is proposed as `max_calls`


@dataclass(frozen=True, slots=True)
class Objective:
    """What callers may expect. `read` gives None where nothing was measured."""

    name: str
    limit: float
    unit: str
    read: Callable[[Report], float | None]


OBJECTIVES = (
    Objective("packet lateness, p99", 40.0, "ms", lambda report: report.tally.lateness.quantile(0.99)),
    Objective("gaps", 0.0, "", lambda report: float(report.tally.gaps)),
    Objective("echo beyond its packets, median", 60.0, "ms", lambda report: report.tally.echo_added.quantile(0.5)),
    Objective("webhook, p99", 1000.0, "ms", lambda report: report.tally.webhook.quantile(0.99)),
    Objective("loop lag, p99", 40.0, "ms", lambda report: max(report.run.loop_lag_ms, default=None)),
    Objective("calls that failed or were refused", 0.0, "", lambda report: float(report.failures)),
)


@dataclass(frozen=True, slots=True)
class Probe:
    """What one number of calls came to."""

    calls: int
    figures: Mapping[str, float]
    broken: tuple[str, ...]  # objectives with their figures, in words; none: the gateway carries so many
    blocked: str = ""  # the generator was the bottleneck: nothing is known
    server_ms: float | None = None  # CPU per call-second
    server_share: float | None = None
    calibration_ms: float = 0.0
    generator_ms: float | None = None
    memory_mb: float | None = None  # per call

    @property
    def carried(self) -> bool:
        return not self.broken and not self.blocked


def judged(calls: int, report: Report) -> Probe:
    """One probe's report against the objectives."""
    figures, broken = {}, []
    for objective in OBJECTIVES:
        value = objective.read(report)
        if value is None:
            continue
        figures[objective.name] = round(value, 1)
        if value > objective.limit:
            broken.append(f"{objective.name}: {value:.0f} {objective.unit}".strip())
    return Probe(
        calls,
        figures,
        tuple(broken),
        report.bottleneck,
        report.server_ms,
        report.server_share,
        max(report.run.calibration_ms),
        report.generator_ms,
        report.memory_mb,
    )


@dataclass(slots=True)
class Found:
    """The outcome of a search."""

    knee: int = 0  # the most that was carried
    reason: str = ""  # what broke above
    broke: tuple[str, ...] = ()  # names of those objectives
    probes: list[Probe] = field(default_factory=list)
    complete: bool = False  # something broke above the knee; else the search ended before

    @property
    def proposed(self) -> int:
        """For `gateway.max_calls`."""
        return max(1, int(self.knee * SHARE))

    @property
    def limit(self) -> tuple[str, ...]:
        """The objectives that end it; none: the search ended before."""
        return self.broke if self.complete else ()

    @property
    def at_knee(self) -> Probe | None:
        return next((one for one in reversed(self.probes) if one.calls == self.knee and one.carried), None)


def search(probe: Callable[[int], Probe], found: Found, *, start: int = 50, most: int = 5000) -> Found:
    """Double until an objective breaks, then halve the difference until it is small. `found` grows as it goes.

    A number that breaks is tried once more: on a shared machine one bad moment is not the gateway's.
    """

    def carries(calls: int) -> bool | None:
        """None: not known."""
        for _ in range(2):
            one = probe(calls)
            found.probes.append(one)
            if one.carried:
                found.knee = max(found.knee, calls)
                return True
            found.reason = one.blocked or f"{'; '.join(one.broken)} with {calls} calls"
            found.broke = () if one.blocked else tuple(each.rpartition(":")[0] for each in one.broken)
            if one.blocked:
                return None
        return False

    calls, bad = min(start, most), 0
    while not bad:
        outcome = carries(calls)
        if outcome is None:
            return found
        if not outcome:
            bad = calls
        elif calls >= most:
            found.reason = "the search was not to go further"
            return found
        else:
            calls = min(2 * calls, most)
    while bad - found.knee > max(1, int(FINE * bad)):
        middle = (bad + found.knee) // 2
        outcome = carries(middle)
        if outcome is None:
            return found
        if not outcome:
            bad = middle
    found.complete = True
    return found


def with_limit(text: str, max_calls: int) -> str:
    """The text of a gateway.toml with `max_calls` in [gateway]; everything else, comments too, as it was."""
    lines = text.splitlines(keepends=True)
    table = next((n for n, line in enumerate(lines) if re.match(r"\s*\[\s*gateway\s*\]", line)), None)
    if table is None:
        raise ConfigError("gateway", "there is no [gateway] table to write max_calls to")
    for n in range(table + 1, len(lines)):
        if re.match(r"\s*\[", lines[n]):
            break
        if re.match(r"\s*max_calls\s*=", lines[n]):
            lines[n] = re.sub(r"(=\s*)[0-9_]+", rf"\g<1>{max_calls}", lines[n], count=1)
            return "".join(lines)
    if not lines[table].endswith("\n"):
        lines[table] += "\n"
    lines.insert(table + 1, f"max_calls = {max_calls}\n")
    return "".join(lines)
