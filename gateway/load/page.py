"""The report of a load test as one HTML page that needs nothing beside it."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterable
from html import escape
from itertools import dropwhile, pairwise

from gateway.load.report import SPREADS, Report, lines
from gateway.load.svg import Point, Series, plot
from gateway.load.tally import MS_PER_BIN, Spread

_STYLE = """
:root { color-scheme: light dark; --text: #1f2328; --soft: #59636e; --line: #d8dee4; --back: #fff; --box: #f6f8fa;
  --bad: #c9252d; --good: #1a7f37; --c0: #1f6feb; --c1: #bc4c00; --c2: #1a7f37; --c3: #8250df }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --soft: #9198a1; --line: #30363d; --back: #0d1117;
  --box: #161b22; --bad: #ff7b72; --good: #3fb950; --c0: #58a6ff; --c1: #f0883e; --c2: #3fb950; --c3: #bc8cff } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 760px; margin: 2em auto; padding: 0 1em;
  color: var(--text); background: var(--back) }
h1 { line-height: 1.2; overflow-wrap: anywhere } p { color: var(--soft) }
div { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
td, th { padding: 3px 8px; text-align: right; border-bottom: 1px solid var(--line) }
td:first-child, th:first-child, td:last-child, th:last-child { text-align: left } th { color: var(--soft) }
pre { white-space: pre-wrap; background: var(--box); padding: 1em; border-radius: 6px; font-size: 13px }
svg { width: 100%; margin: 1em 0 } polyline { fill: none; stroke-width: 1.8 }
.bad { color: var(--bad) } .good { color: var(--good) }
text { font: 12px system-ui, sans-serif; fill: var(--soft) } .t { font-size: 14px; fill: var(--text) }
.x { text-anchor: middle } .y { text-anchor: end } polyline.g { stroke: var(--line); stroke-width: 1 }
.limit { stroke: var(--bad); stroke-dasharray: 5 4 } .knee { stroke: var(--soft); stroke-dasharray: 2 3 }
.c0 { stroke: var(--c0) } .c1 { stroke: var(--c1) } .c2 { stroke: var(--c2) } .c3 { stroke: var(--c3) }
.c0.f { fill: var(--c0) } .c1.f { fill: var(--c1) } .c2.f { fill: var(--c2) } .c3.f { fill: var(--c3) }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole document."""
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    where = escape(f"Python {platform.python_version()}, {platform.machine()}, {made}")
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
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
    facts = dropwhile(bool, lines(report))  # the table before them is one of its own here
    yield "<pre>" + escape("\n".join(line for line in facts if line)) + "</pre>"
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
    heads = "".join(f"<th>{head}</th>" for head in ("", "count", "p50", "p99", "p99.9", "worst, ms", ""))
    yield f"<div><table><tr>{heads}</tr>"
    for name, label, meaning in SPREADS:
        values = getattr(tally, name).summary()
        if values["count"]:
            cells = "".join(f"<td>{values[key]}</td>" for key in ("count", "p50", "p99", "p99.9", "worst"))
            yield f"<tr><td>{escape(label)}</td>{cells}<td>{escape(meaning)}</td></tr>"
    yield "</table></div>"


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
        (b.t, 100 * (b.own_cpu_s - a.own_cpu_s) / (b.t - a.t) / report.processes)
        for a, b in pairwise(moments)
        if b.t > a.t
    ]


def _cumulative(spread: Spread) -> list[Point]:
    count, below, points = spread.count, 0, []
    for place in sorted(spread.bins):
        below += spread.bins[place]
        points.append(((place + 1) * MS_PER_BIN, 100 * below / count))
    return [(0.0, 0.0), *points] if points else []
