"""`gateway demo`: one call through each carrier, from the caller's ear."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.commands.call import mint_for, simulated
from gateway.commands.serve import made_up_secrets, write_sample
from gateway.settings import Settings, load_settings
from gateway.simulator.base import CallPlan, carrier_names
from gateway.simulator.caller import Limits, place_call
from gateway.simulator.report import CallReport
from gateway.simulator.script import Press, Say, Script, Voice, after, after_bot, while_bot_speaks
from gateway.tokens import TokenMint
from media.errors import ConfigError
from media.wav import write_wav

START_S = 60.0  # for the gateway to come up: it synthesises its prompts first
RATE = 16000  # Hz of the caller's voice
SENTENCE = "Hello, this is a telephone call. Can you hear me?"
MENU = "+15550101"

# What the caller must not have to wait for, beyond what the carrier's packets bring with them: from the key to
# silence, and from a word to its echo.
BARGE_IN_MS = {"exotel": 450.0, "genesys": 450.0}
ECHO_MS = {"exotel": 500.0, "genesys": 700.0}
OTHER_MS = 250.0

# Cut the greeting short with a key; speak, and hear oneself; come back to the menu; let the bot hang up.
SCRIPT_TEXT = "a key in the middle of the greeting, a sentence that comes back as an echo, a key, goodbye"


@dataclass(slots=True)
class Outcome:
    """One call, and what was not right about it."""

    report: CallReport
    wrong: list[str]


def demo(*, out: Path, only: Sequence[str] | None = None, as_json: bool = False) -> int:
    """Run the demo. Gives 0 if every call was right."""
    console = Console(stderr=as_json)
    carriers = list(only or carrier_names())
    for name in carriers:
        if name not in carrier_names():
            raise ConfigError("--carrier", f"there is no {name!r}", f"one of {', '.join(carrier_names())}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gateway-demo-") as folder:
        config = Path(folder) / "gateway.toml"
        write_sample(config)
        settings = load_settings(config)
        made_up_secrets(settings)
        settings = load_settings(config)
        voice = _voice()
        with _progress(console) as say:
            say("starting a gateway")
            with _gateway(config, out / "gateway.log") as url:
                say(f"calling through {len(carriers)} carriers: {SCRIPT_TEXT}")
                outcomes = asyncio.run(_calls(settings, url, carriers, voice))
    for outcome in outcomes:
        report = outcome.report
        if report.heard:
            write_wav(out / f"{report.carrier}.wav", report.heard, report.heard_rate)
        (out / f"{report.carrier}.txt").write_text("\n".join(report.lines()) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps([{**o.report.to_dict(), "wrong": o.wrong} for o in outcomes]))
    _print(console, outcomes, out)
    return 0 if all(not outcome.wrong for outcome in outcomes) else 1


def _voice() -> Voice:
    from bots.speech import speak

    return Voice(speak(SENTENCE, "en-us+f3", RATE), RATE, "hello")


def script(voice: Voice) -> Script:
    """What every caller of the demo does."""
    return (
        Script()
        .then(while_bot_speaks(1.0), Press("1"))
        .then(after_bot(0.8), Say(voice))
        .then(after(2.0), Press("#"))
        .then(while_bot_speaks(0.6), Press("9"))
    )


# ---------------------------------------------------------------- calls


async def _calls(settings: Settings, url: str, carriers: Sequence[str], voice: Voice) -> list[Outcome]:
    secret = settings.gateway.secret
    assert secret is not None
    mint = TokenMint(secret.reveal())

    async def one(name: str, delay_s: float) -> Outcome:
        await asyncio.sleep(delay_s)
        carrier = simulated(settings, name, CallPlan(to_number=MENU, parameters={"demo": "yes"}))
        report = await place_call(
            carrier, url, script(voice), token=mint_for(mint, carrier), limits=Limits(longest_s=45)
        )
        return Outcome(report, list(_wrong(report)))

    return list(await asyncio.gather(*(one(name, 0.1 * index) for index, name in enumerate(carriers))))


def _wrong(report: CallReport) -> Iterator[str]:
    yield from report.problems
    if report.ended_by != "bot":
        yield f"ended by {report.ended_by}, not by the bot"
    if report.first_audio_s is None:
        yield "nothing was heard"
    if gaps := report.gaps_of_the_gateway():
        yield f"{len(gaps)} gaps in what was heard"
    if not report.barge_ins:
        yield "the greeting was not interrupted"
    limit = BARGE_IN_MS.get(report.carrier, OTHER_MS)
    for barge_in in report.barge_ins:
        if not barge_in.cleared:
            yield "the carrier was not told to clear"
        if barge_in.silence_ms > limit:
            yield f"silence came {barge_in.silence_ms:.0f} ms after the key, {limit:.0f} at most"
    limit = ECHO_MS.get(report.carrier, OTHER_MS)
    if report.echo_ms is None:
        yield "the caller's words did not come back"
    elif report.echo_ms > limit:
        yield f"the echo came after {report.echo_ms:.0f} ms, {limit:.0f} at most"


# ---------------------------------------------------------------- the gateway


@contextlib.contextmanager
def _gateway(config: Path, log: Path) -> Iterator[str]:
    """A gateway in a process of its own, as `gateway serve` starts it; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gateway.cli", "serve", "--config", str(config), "--port", str(port)]
    with log.open("wb") as lines:
        process = subprocess.Popen(command, stderr=lines, stdout=lines, env=os.environ)
        try:
            _wait_until_ready(process, port, log)
            yield f"ws://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[Any], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise ConfigError("gateway", f"did not start:\n{tail}", f"see {log}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/ready", timeout=1.0, trust_env=False).status_code == 200:
                return
        time.sleep(0.05)
    raise ConfigError("gateway", f"was not ready after {START_S:.0f} s", f"see {log}")


# ---------------------------------------------------------------- what people see


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Any]:
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    ) as progress:
        task = progress.add_task("")

        def say(text: str) -> None:
            progress.update(task, description=text)
            if not console.is_terminal:
                console.print(text)

        yield say


def _print(console: Console, outcomes: Sequence[Outcome], out: Path) -> None:
    table = Table(title="What the callers heard")
    columns = ("carrier", "first audio", "heard", "gaps", "key to silence", "echo after", "ended by", "")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index in (0, 6, 7) else "right")
    for outcome in outcomes:
        report = outcome.report
        table.add_row(
            report.carrier,
            _ms(None if report.first_audio_s is None else 1000 * report.first_audio_s),
            f"{report.heard_s:.1f} s",
            str(len(report.gaps_of_the_gateway())),
            _ms(report.worst_barge_in_ms),
            _ms(report.echo_ms),
            report.ended_by,
            "[red]wrong[/red]" if outcome.wrong else "[green]right[/green]",
        )
    console.print(table)
    for outcome in outcomes:
        for problem in outcome.wrong:
            console.print(f"{outcome.report.carrier}: {problem}", style="red", markup=False)
    console.print(f"What each caller heard is in {out}/<carrier>.wav, its timeline beside it, the log in gateway.log.")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
