"""The report of a load test as one HTML page that needs nothing beside it."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterable
from html import escape
from itertools import pairwise

from gateway.load.report import SPREADS, Report, lines
from gateway.load.svg import Point, Series, plot
from gateway.load.tally import MS_PER_BIN, Spread

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 760px; margin: 2em auto; padding: 0 1em; color: #1f2328 }
table { border-collapse: collapse; width: 100% } td, th { padding: 3px 8px; text-align: right }
td:first-child, th:first-child, td:last-child, th:last-child { text-align: left }
th { border-bottom: 1px solid #999 } svg { width: 100%; margin: 1em 0 } pre { overflow-x: auto }
.bad { color: #d1242f } text { font: 12px system-ui, sans-serif; fill: #59636e } .t { font-size: 14px; fill: #1f2328 }
.x { text-anchor: middle } .y { text-anchor: end } .g { stroke: #d8dee4 }
.limit { stroke: #d1242f; stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3 } .t { fill: #e6edf3 }
  .g { stroke: #30363d } text { fill: #9198a1 } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole document."""
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    where = escape(f"Python {platform.python_version()}, {platform.machine()}, {made}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1><p>{where}</p>"
        + "\n".join(body)
        + "</html>\n"
    )


def load_page(report: Report) -> str:
    """The page of one load test."""
    return page(f"{report.run.plan.calls} calls to {report.run.plan.url}", _sections(report))


def _sections(report: Report) -> Iterable[str]:
    tally, run = report.tally, report.run
    if report.bottleneck:
        yield f'<p class="bad"><b>Not to be believed:</b> {escape(report.bottleneck)}.</p>'
    yield "<pre>" + escape("\n".join(line for line in list(lines(report)) if line)) + "</pre>"
    live = [(moment.t, float(moment.live)) for moment in run.moments]
    yield plot("Calls", "seconds", "live", [Series("live", live)])
    yield plot(
        "CPU of one core",
        "seconds",
        "%",
        [Series("server", _server_cpu(report)), Series("generator", _own_cpu(report))],
    )
    yield plot(
        "Of all packets, so many came at most so late",
        "milliseconds",
        "%",
        [Series("lateness", _cumulative(tally.lateness)), Series("jitter", _cumulative(tally.jitter))],
    )
    yield plot(
        "Of all markers, so many came back within", "milliseconds", "%", [Series("echo", _cumulative(tally.echo))]
    )
    yield "<table><tr><th></th><th>count</th><th>p50</th><th>p99</th><th>p99.9</th><th>worst, ms</th><th></th></tr>"
    for name, label, meaning in SPREADS:
        values = getattr(tally, name).summary()
        if values["count"]:
            cells = "".join(f"<td>{values[key]}</td>" for key in ("count", "p50", "p99", "p99.9", "worst"))
            yield f"<tr><td>{escape(label)}</td>{cells}<td>{escape(meaning)}</td></tr>"
    yield "</table>"


def _server_cpu(report: Report) -> list[Point]:
    moments = report.run.moments
    return [
        (b.t, 100 * (b.server.cpu_s - a.server.cpu_s) / (b.t - a.t))
        for a, b in pairwise(moments)
        if a.server is not None and b.server is not None and b.t > a.t
    ]


def _own_cpu(report: Report) -> list[Point]:
    moments = report.run.moments
    return [
        (b.t, 100 * (b.tally.cpu_s - a.tally.cpu_s) / (b.t - a.t) / report.processes)
        for a, b in pairwise(moments)
        if b.t > a.t
    ]


def _cumulative(spread: Spread) -> list[Point]:
    count, below, points = spread.count, 0, []
    for place in sorted(spread.bins):
        below += spread.bins[place]
        points.append(((place + 1) * MS_PER_BIN, 100 * below / count))
    return [(0.0, 0.0), *points] if points else []
