"""What a load test has found: figures with their meaning, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from gateway.load.crew import Moment, Run
from gateway.load.tally import Spread, Tally

# Past these the generator itself was late or busy, and what it measured says nothing of the gateway.
GENERATOR_P99_MS = 10.0
GENERATOR_CPU = 0.90  # of a core, in each of its processes


@dataclass(slots=True)
class Report:
    """One test, for people, machines and plots."""

    run: Run
    processes: int
    server_ms: float | None = None  # CPU milliseconds per call-second
    server_share: float | None = None  # of one core
    memory_mb: float | None = None  # per call, over what the process had with none
    generator_ms: float | None = None
    generator_share: float = 0.0  # of one core, for each process
    bottleneck: str = ""  # why the figures must not be believed
    mean_live: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def tally(self) -> Tally:
        return self.run.tally

    @property
    def failures(self) -> int:
        return self.tally.failed.total() + self.tally.refused.total()


def report_of(run: Run, processes: int = 1) -> Report:
    report = Report(run, processes)
    steady = run.steady()
    tally = run.tally
    if len(steady) >= 2:
        first, last = steady[0], steady[-1]
        call_s = _call_s(steady)
        seconds = last.t - first.t
        report.mean_live = call_s / seconds if seconds else 0.0
        own = last.own_cpu_s - first.own_cpu_s
        report.generator_share = own / seconds / processes
        if call_s:
            report.generator_ms = 1000 * own / call_s
        if first.server is not None and last.server is not None and call_s:
            spent = last.server.cpu_s - first.server.cpu_s
            report.server_ms, report.server_share = 1000 * spent / call_s, spent / seconds
            if run.before is not None and report.mean_live:
                report.memory_mb = (last.server.rss - run.before.rss) / 1e6 / report.mean_live
    late = tally.own_lateness.quantile(0.99) or 0.0
    if late > GENERATOR_P99_MS:
        report.bottleneck = f"the generator itself was late: {late:.0f} ms in one of 100 of its rounds"
    elif report.generator_share > GENERATOR_CPU:
        report.bottleneck = f"each generator used {100 * report.generator_share:.0f} % of its core"
    if run.partial:
        report.notes.append("ended early: these are the figures until then")
    if (gone := _gone_at(run)) is not None:
        report.notes.append(f"the gateway's process was gone after {gone:.0f} s")
    elif report.server_ms is None:
        report.notes.append("the server's CPU and memory are unknown: too short, or it is elsewhere without /metrics")
    before, after = run.calibration_ms
    if before and after and not 0.9 < after / before < 1.11:
        report.notes.append(f"the machine's speed changed during the test: {before:.1f} ms to {after:.1f} ms")
    return report


def _gone_at(run: Run) -> float | None:
    """The first moment from which on the server was not there any more."""
    if run.scraped or not run.moments or run.moments[-1].server is not None:
        return None
    seen = [moment.t for moment in run.moments if moment.server is not None]
    return None if run.before is None else max(seen, default=0.0)


def _call_s(moments: list[Moment]) -> float:
    """Seconds of calls between the first moment and the last, by trapezoids."""
    return sum((b.live + a.live) / 2 * (b.t - a.t) for a, b in pairwise(moments))


SPREADS = (
    ("echo", "echo", "from the caller's marker to the same heard back"),
    ("first_audio", "first audio", "from the open socket to the first sound heard"),
    ("lateness", "packet lateness", "after the moment at which the caller's play-out needed it"),
    ("jitter", "jitter", "between two packets, more or less than their length"),
    ("barge_in", "barge-in", "from the caller's act to the bot's silence"),
    ("setup", "handshake", "of the media socket"),
    ("webhook", "webhook", "request to answer"),
    ("own_lateness", "generator", "its own lateness"),
)


def to_dict(report: Report) -> dict[str, Any]:
    """For `--json`: stable names, milliseconds unless the name says otherwise."""
    run, tally = report.run, report.tally
    plan = run.plan
    return {
        "valid": not report.bottleneck,
        "bottleneck": report.bottleneck,
        "partial": run.partial,
        "plan": plan.packed(),
        "calls": {
            "placed": tally.placed,
            "connected": tally.connected,
            "done": tally.done,
            "failed": dict(tally.failed.most_common()),
            "refused": dict(tally.refused.most_common()),
            "most_live": tally.most_live,
            "mean_live": round(report.mean_live, 1),
            "by_carrier": dict(tally.carriers),
            "by_scenario": dict(tally.scenarios),
            "checked_strictly": tally.strict,
        },
        "heard": {
            "seconds": round(tally.heard_s, 1),
            "packets": tally.packets,
            "gaps": tally.gaps,
            "gap_ms": round(1000 * tally.gap_s, 1),
            "not_interrupted": tally.uninterrupted,
        },
        "ms": {name: getattr(tally, name).summary() for name, _, _ in SPREADS},
        "server": {
            "cpu_ms_per_call_second": _rounded(report.server_ms, 3),
            "core_share": _rounded(report.server_share, 3),
            "mb_per_call": _rounded(report.memory_mb, 3),
            "loop_lag_p99_ms": round(max(run.loop_lag_ms), 2) if run.loop_lag_ms else None,
            "from": "/metrics" if run.scraped else "/proc",
        },
        "generator": {
            "processes": report.processes,
            "cpu_ms_per_call_second": _rounded(report.generator_ms, 3),
            "core_share": round(report.generator_share, 3),
        },
        "calibration_ms": [round(each, 2) for each in run.calibration_ms],
        "notes": report.notes,
        "seconds": [
            {"t": moment.t, "live": moment.live, "server_cpu_s": moment.server.cpu_s if moment.server else None}
            for moment in run.moments
        ],
    }


def lines(report: Report) -> Iterator[str]:
    """The table."""
    tally, run = report.tally, report.run
    yield f"{'milliseconds':<18}{'count':>9}{'p50':>9}{'p99':>9}{'p99.9':>9}{'worst':>9}"
    for name, title, _ in SPREADS:
        spread: Spread = getattr(tally, name)
        if spread.count:
            values = spread.summary()
            cells = "".join(f"{values[key]:>9}" for key in ("count", "p50", "p99", "p99.9", "worst"))
            yield f"{title:<18}{cells}"
    yield ""
    most = f"{tally.most_live} at once"
    yield f"calls      {tally.placed} placed, {tally.done} as they should be, {most}, {tally.strict} checked strictly"
    yield from wrong_calls(report)
    yield f"heard      {tally.heard_s:.0f} s in {tally.packets} packets; {tally.gaps} gaps, {tally.gap_s:.2f} s in all"
    if tally.uninterrupted:
        yield f"barge-in   {tally.uninterrupted} did not silence the bot"
    if report.server_ms is not None:
        share = f", {100 * (report.server_share or 0):.0f} % of a core"
        memory = f", {report.memory_mb:.3f} MB a call" if report.memory_mb is not None else ""
        lag = f", loop late by {max(run.loop_lag_ms):.1f} ms (p99)" if run.loop_lag_ms else ""
        yield f"server     {report.server_ms:.2f} ms CPU per call-second{share}{memory}{lag}"
    if report.generator_ms is not None:
        share = f", {100 * report.generator_share:.0f} % of a core"
        yield f"generator  {report.generator_ms:.2f} ms CPU per call-second{share}"
    for note in report.notes:
        yield f"note       {note}"


def wrong_calls(report: Report) -> Iterator[str]:
    """How often, and why."""
    for title, reasons in (("failed", report.tally.failed), ("refused", report.tally.refused)):
        for reason, count in reasons.most_common(8):
            yield f"{title:<10} {count} x {reason}"


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
