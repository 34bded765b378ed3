"""`gateway loadtest`: many simulated calls at once to a running gateway, and what their callers heard."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import replace
from typing import Any

from gateway.commands.terminable import terminable
from gateway.load.crew import GeneratorFailed, Moment, NobodyThere, Run, Server, perform
from gateway.load.doorway import settings_of
from gateway.load.page import load_page
from gateway.load.plan import LoadPlan, Scenario, read_scenarios
from gateway.load.report import lines, report_of, to_dict, wrong_calls
from gateway.load.tally import Tally
from gateway.simulator.base import carrier_names
from media.errors import ConfigError

FAILED, USAGE, BOTTLENECK = 1, 2, 3


def run(args: argparse.Namespace) -> int:
    """Gives 0 if every call was right and without a gap, 1 if not, 3 if the generator was the bottleneck."""
    plan = plan_of(args)
    settings_of(args.config)  # for its errors
    server = Server(plan.url, args.server_pid)
    progress = Progress(plan, sys.stderr if not args.json and sys.stderr.isatty() else None)
    try:
        server.answers()
        with terminable():
            done = perform(plan, server, processes=args.processes, tell=progress)
    except (GeneratorFailed, NobodyThere) as exc:
        progress.clear()
        print(f"error: {exc}", file=sys.stderr)
        return USAGE
    finally:
        progress.clear()
    return tell(done, args)


def tell(done: Run, args: argparse.Namespace) -> int:
    """Print and write the report."""
    report = report_of(done, args.processes)
    if args.html is not None:
        args.html.parent.mkdir(parents=True, exist_ok=True)
        args.html.write_text(load_page(report), encoding="utf-8")
    if args.json:
        print(json.dumps(to_dict(report)))
    if report.bottleneck:
        print(f"no report: {report.bottleneck}.", file=sys.stderr)
        print(
            "Give it a core of its own, more --processes or another machine, or ask for fewer --calls.", file=sys.stderr
        )
        for line in wrong_calls(report):
            print(line, file=sys.stderr)
        return BOTTLENECK
    if not args.json:
        print("\n".join(lines(report)))
        if args.html is not None:
            print(f"report     {args.html}")
    return FAILED if report.failures or report.tally.gaps or not report.tally.connected else 0


def plan_of(args: argparse.Namespace) -> LoadPlan:
    """What the command line asks for. Raises ConfigError."""
    url = args.url.rstrip("/")
    if url.startswith("http"):
        url = url.replace("http", "ws", 1)
    if not url.startswith(("ws://", "wss://")):
        raise ConfigError("URL", f"{args.url!r} is no URL of a gateway", "write ws://127.0.0.1:8080")
    carriers = tuple(name for each in args.carrier for name in each.split(",")) or ("twilio",)
    unknown = sorted(set(carriers) - set(carrier_names()))
    if unknown:
        raise ConfigError("--carrier", f"there is no {unknown[0]!r}", f"one of {', '.join(carrier_names())}")
    for flag, value in (("--calls", args.calls), ("--seconds", args.seconds), ("--processes", args.processes)):
        if value <= 0:
            raise ConfigError(flag, "must be more than 0")
    scenarios: tuple[Scenario, ...] = (Scenario(),)
    if args.scenarios is not None:
        scenarios = read_scenarios(args.scenarios)
    if args.call_s:
        scenarios = tuple(replace(each, seconds=each.seconds or args.call_s) for each in scenarios)
    return LoadPlan(
        url=url,
        config=str(args.config),
        calls=args.calls,
        ramp_s=args.ramp,
        seconds=args.seconds,
        carriers=carriers,
        to=args.to,
        through=args.through,
        scenarios=scenarios,
    )


class Progress:
    """One line that is written over and over; nothing where nobody looks."""

    def __init__(self, plan: LoadPlan, out: Any) -> None:
        self._plan, self._out = plan, out
        self._plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self._wide = 0

    def __call__(self, moment: Moment, tally: Tally) -> None:
        if self._out is None:
            return
        plan = self._plan
        echo, late = tally.echo.quantile(0.5), tally.lateness.quantile(0.99)
        parts = [f"{moment.t:4.0f}/{plan.whole_s:.0f} s", f"{moment.live} live"]
        parts += [f"echo {echo:.0f} ms"] if echo is not None else []
        parts += [f"late p99 {late:.0f} ms"] if late is not None else []
        parts += [f"{tally.gaps} gaps"] if tally.gaps else []
        wrong = tally.failed.total() + tally.refused.total()
        parts += [f"{wrong} wrong"] if wrong else []
        line = "  ".join(parts)[: shutil.get_terminal_size().columns - 1]
        shown = line.ljust(self._wide)
        if wrong and not self._plain:
            shown = shown.replace(parts[-1], f"\x1b[31m{parts[-1]}\x1b[0m")
        self._out.write("\r" + shown)
        self._wide = len(line)
        self._out.flush()

    def clear(self) -> None:
        if self._out is not None and self._wide:
            self._out.write("\r" + " " * self._wide + "\r")
            self._wide = 0
            self._out.flush()
