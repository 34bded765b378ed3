"""`gateway capacity`: how many calls this machine carries on one core, and what gives way first."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

import httpx

from gateway.commands.loadtest import Progress, plan_of
from gateway.commands.terminable import terminable
from gateway.load.capacity import OBJECTIVES, Found, Probe, judged, search, with_limit
from gateway.load.crew import GeneratorFailed, NobodyThere, Server, perform
from gateway.load.doorway import settings_of
from gateway.load.page import page
from gateway.load.report import report_of
from gateway.load.svg import Series, plot
from media.errors import ConfigError

FAILED, USAGE = 1, 2
START_S = 60.0

_SAMPLE = """
[gateway]
secret = {{ file = "secret" }}
[carriers.twilio]
auth_token = {{ file = "secret" }}
[numbers.default]
bot = "echo"
[bots.echo]
use = "echo"
{more}
"""


def run(args: argparse.Namespace) -> int:
    """Gives 0 if the knee was found, 1 if the search ended before."""
    if args.write and args.config is None:
        raise ConfigError("--write", "needs --config: the gateway.toml whose max_calls is to be set")
    if args.url is not None and args.config is None:
        raise ConfigError("--url", "needs --config: the secrets of the gateway that runs there let the calls in")
    if args.config is not None:
        settings_of(args.config)  # for its errors
    found = Found()
    with contextlib.ExitStack() as stack:
        stack.enter_context(terminable())
        config = args.config or stack.enter_context(_sample(args.sample_rate))
        ours, theirs = cores() if args.url is None else ((), ())
        url = args.url or stack.enter_context(_started(config, theirs))

        def probe(calls: int) -> Probe:
            words = {**vars(args), "url": url, "config": config, "calls": calls, "ramp": 0.0, "call_s": 0.0}
            plan = plan_of(argparse.Namespace(**words))
            server = Server(plan.url, args.server_pid)
            server.answers()
            progress = Progress(plan, sys.stderr if not args.json and sys.stderr.isatty() else None)
            try:
                done = perform(plan, server, processes=args.processes, cores=ours, tell=progress)
            finally:
                progress.clear()
            if done.partial:
                raise KeyboardInterrupt
            server.answers()  # who is not there any more has carried nothing
            one = judged(calls, report_of(done, args.processes))
            if not args.json:
                print(told(one), flush=True)
            return one

        try:
            search(probe, found, start=args.start, most=args.most)
        except KeyboardInterrupt:
            found.reason = "ended by hand"
        except (GeneratorFailed, NobodyThere) as exc:
            print(f"error: {exc}", file=sys.stderr)
            if not found.probes:
                return USAGE
            found.reason = "the gateway is gone" if isinstance(exc, NobodyThere) else "the generator failed"
    return _conclude(found, args)


def _conclude(found: Found, args: argparse.Namespace) -> int:
    if args.html is not None:
        args.html.parent.mkdir(parents=True, exist_ok=True)
        args.html.write_text(capacity_page(found, what_of(args)), encoding="utf-8")
    if args.json:
        probes = [asdict(one) for one in found.probes]
        result = {
            "calls": found.knee,
            "proposed": found.proposed if found.knee else None,
            "complete": found.complete,
            "reason": found.reason,
            "limit": found.limit,
        }
        print(json.dumps({**result, "probes": probes}))
    else:
        print("\n".join(conclusion(found)))
    if args.write and found.complete and found.knee:
        args.config.write_text(with_limit(args.config.read_text(encoding="utf-8"), found.proposed), encoding="utf-8")
        if not args.json:
            print(f"wrote max_calls = {found.proposed} to {args.config}")
    return 0 if found.complete and found.knee else FAILED


def what_of(args: argparse.Namespace) -> str:
    """What is measured, for the page."""
    of = str(args.config) if args.config is not None else "an echo on Twilio"
    if args.config is None and args.sample_rate:
        of += f", its pipeline at {args.sample_rate} Hz"
    callers = f"the callers of {args.scenarios}" if args.scenarios is not None else "callers that talk all the time"
    carriers = ", ".join(args.carrier) or "twilio"
    return f"Measured: {of}; {callers}, through {carriers}, by {args.through}; {args.seconds:g} s for each number."


def told(one: Probe) -> str:
    """One line about one number of calls."""
    cost = f"{one.server_ms:.2f} ms/call-s" if one.server_ms is not None else ""
    share = f"{100 * one.server_share:.0f} % of a core" if one.server_share is not None else ""
    return f"{one.calls:>6} calls  {cost:>16}  {share:>15}  {_verdict(one)}"


def _verdict(one: Probe) -> str:
    return "carried" if one.carried else one.blocked or "; ".join(one.broken)


def headline(found: Found) -> str:
    if not found.knee:
        return f"not even {found.probes[-1].calls} calls on one core" if found.complete else "not found"
    return f"{found.knee} calls on one core" if found.complete else f"at least {found.knee} calls on one core"


def conclusion(found: Found) -> Iterator[str]:
    yield ""
    yield f"{'knee':<12}{headline(found)}" + ("" if found.complete else ": the search ended there")
    yield f"{'limit' if found.limit else 'ended':<12}{found.reason}"
    knee = found.at_knee
    if knee is not None:
        if knee.server_ms is not None:
            share = f", {100 * (knee.server_share or 0):.0f} % of a core" if knee.server_share is not None else ""
            memory = f", {knee.memory_mb:.2f} MB a call" if knee.memory_mb is not None else ""
            yield f"{'cpu':<12}{knee.server_ms:.2f} ms per call-second{share}{memory}, with {knee.calls} calls"
        if knee.generator_ms is not None:
            yield f"{'generator':<12}{knee.generator_ms:.2f} ms per call-second"
    speeds = [one.calibration_ms for one in found.probes]
    if speeds:
        nearly = "compare with runs that had nearly the same"
        yield f"{'calibration':<12}{min(speeds):.1f} to {max(speeds):.1f} ms: {nearly}"
    if found.knee:
        each = "and as many times that as there are workers on cores of their own"
        yield f"{'proposed':<12}max_calls = {found.proposed}, {each}"


def capacity_page(found: Found, what: str = "") -> str:
    """The report, with plots. `what` was measured, in words."""
    body = [f"<p>{escape(what)}</p>"] if what else []
    body += ["<pre>" + escape("\n".join(line for line in conclusion(found) if line)) + "</pre>"]
    ordered = sorted(found.probes, key=lambda one: one.calls)
    knee = found.knee or None
    costs = [(float(one.calls), one.server_ms) for one in ordered if one.server_ms is not None]
    own = [(float(one.calls), one.generator_ms) for one in ordered if one.generator_ms is not None]
    series = [Series("server", costs), Series("generator", own)]
    body.append(plot("CPU per call-second", "calls", "ms", series, knee=knee))
    for objective in OBJECTIVES:
        points = [(float(one.calls), one.figures[objective.name]) for one in ordered if objective.name in one.figures]
        label = objective.unit or "count"
        title = f"{objective.name}, at most {objective.limit:g} {objective.unit}".strip()
        body.append(plot(title, "calls", label, [Series("measured", points)], limit=objective.limit, knee=knee))
    body.append("<div><table><tr><th>calls</th><th>ms/call-s</th><th>% of a core</th><th></th></tr>")
    for one in found.probes:
        cost = f"{one.server_ms:.2f}" if one.server_ms is not None else ""
        share = f"{100 * one.server_share:.0f}" if one.server_share is not None else ""
        verdict = f'<td class="{"good" if one.carried else "bad"}">{escape(_verdict(one))}</td>'
        body.append(f"<tr><td>{one.calls}</td><td>{cost}</td><td>{share}</td>{verdict}</tr>")
    body.append("</table></div>")
    return page(headline(found), body)


# ---------------------------------------------------------------- a gateway to measure


def cores() -> tuple[Sequence[int], Sequence[int]]:
    """For the generators, and for the server: apart, where there are two."""
    if not hasattr(os, "sched_getaffinity"):
        return (), ()
    ours = sorted(os.sched_getaffinity(0))
    return (ours[1:], ours[:1]) if len(ours) > 1 else ((), ())


@contextlib.contextmanager
def _sample(sample_rate: int | None) -> Iterator[Path]:
    """The configuration of an echo on Twilio."""
    with tempfile.TemporaryDirectory(prefix="gateway-capacity-") as folder:
        (Path(folder) / "secret").write_text(secrets.token_hex(16))
        config = Path(folder) / "gateway.toml"
        config.write_text(_SAMPLE.format(more=f"sample_rate = {sample_rate}" if sample_rate else ""))
        yield config


@contextlib.contextmanager
def _started(config: Path, on: Sequence[int]) -> Iterator[str]:
    """A gateway with that configuration, on those cores: its URL."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="gateway-capacity-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.load.target", str(config), str(port), folder], start_new_session=True
        )
        try:
            if on:
                os.sched_setaffinity(process.pid, set(on))
            _wait_for(f"http://127.0.0.1:{port}/health", process)
            yield f"ws://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < limit:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=2.0, trust_env=False).is_success:
                return
        time.sleep(0.1)
    raise ConfigError("--config", "the gateway did not start with it: what it says is above", "try `gateway check`")
