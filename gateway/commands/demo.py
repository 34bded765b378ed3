"""`gateway demo`: one call through each carrier, from the caller's ear, and a conversation with the agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.commands import demo_talk
from gateway.commands.console import Console
from gateway.commands.demo_talk import Talk
from gateway.commands.serve import write_sample
from gateway.commands.terminable import terminable
from gateway.registry import serializer_class
from gateway.settings import Settings, load_settings
from gateway.simulator.accounts import Account, make_up, with_accounts
from gateway.simulator.base import CallPlan, carrier_names
from gateway.simulator.caller import Limits, place_call
from gateway.simulator.configured import mint_for, simulated
from gateway.simulator.report import CallReport
from gateway.simulator.script import Press, Say, Script, Voice, after, after_bot, while_bot_speaks
from gateway.simulator.webcaller import CarrierServer, Way, place_call_through_webhooks
from gateway.tokens import TokenMint
from media.errors import ConfigError
from media.wav import write_wav

START_S = 120.0  # for the gateway to come up: it synthesises its prompts first, perhaps on a busy machine
RATE = 16000  # Hz of the caller's voice
WORD = "okay"
SENTENCE = "Hello, this is a telephone call. Can you hear me?"
MENU = "+15550101"

# What the caller must not have to wait for, beyond what the carrier's packets bring with them: from the key to
# silence, and from a word to its echo.
BARGE_IN_MS = {"exotel": 450.0, "genesys": 450.0}
ECHO_MS = {"exotel": 500.0, "genesys": 700.0}
OTHER_MS = 250.0

# Say a word in the greeting, which pauses and goes on; cut it short with a key; speak, and hear oneself; come back to
# the menu; let the bot hang up.
SCRIPT_TEXT = "a word and a key in the middle of the greeting, a sentence that comes back as an echo, a key, goodbye"


@dataclass(slots=True)
class Outcome:
    """One call, and what was not right about it."""

    report: CallReport
    wrong: list[str]
    talk: Talk | None = None  # with the agent

    @property
    def name(self) -> str:
        """Of its files."""
        return self.report.carrier if self.talk is None else "conversation"


def demo(*, out: Path, only: Sequence[str] | None = None, as_json: bool = False) -> int:
    """Run the demo. Gives 0 if every call was right."""
    console = Console(stderr=as_json)
    carriers = list(only or carrier_names())
    for name in carriers:
        if name not in carrier_names():
            raise ConfigError("--carrier", f"there is no {name!r}", f"one of {', '.join(carrier_names())}")
    out.mkdir(parents=True, exist_ok=True)
    with (
        terminable(),
        tempfile.TemporaryDirectory(prefix="gateway-demo-") as folder,
        _progress(console) as say,
    ):
        outcomes = asyncio.run(_demo(Path(folder), out, carriers, say))
    for outcome in outcomes:
        report = outcome.report
        if report.heard:
            write_wav(out / f"{outcome.name}.wav", report.heard, report.heard_rate)
        (out / f"{outcome.name}.txt").write_text("\n".join(report.lines()) + "\n", encoding="utf-8")
    if as_json:
        print(json.dumps({"out": str(out), "calls": [_as_json(outcome) for outcome in outcomes]}))
    _print(console, outcomes, out)
    return 0 if all(not outcome.wrong for outcome in outcomes) else 1


def _as_json(outcome: Outcome) -> dict[str, object]:
    talk = {} if outcome.talk is None else {"transcript": list(outcome.talk.transcript)}
    return {**outcome.report.to_dict(), "wrong": outcome.wrong, **talk}


def _voices() -> tuple[Voice, Voice]:
    """A word that does not want the floor, and a sentence."""
    from bots.speech import speak

    word, sentence = (speak(text, "en-us+f3", RATE) for text in (WORD, SENTENCE))
    return Voice(word, RATE, "okay"), Voice(sentence, RATE, "hello")


def script(word: Voice, voice: Voice) -> Script:
    """What every caller of the demo does."""
    return (
        Script()
        .then(after(1.0), Say(word))
        .then(while_bot_speaks(1.0), Press("1"))
        .then(after_bot(0.8), Say(voice))
        .then(after(2.0), Press("#"))
        .then(while_bot_speaks(0.6), Press("9"))
    )


# ---------------------------------------------------------------- calls


async def _demo(folder: Path, out: Path, carriers: Sequence[str], say: Callable[[str], None]) -> list[Outcome]:
    """The carriers' REST servers here, a gateway in a process of its own, and one call through each carrier."""
    accounts = [make_up(name, folder) for name in carriers]
    webs = [account.web for account in accounts if account.web is not None]
    async with CarrierServer(webs) as rest:
        for account in accounts:
            if account.web is not None:
                account.api_base = rest.base(account.carrier)
        config = folder / "gateway.toml"
        write_sample(config)
        text = with_accounts(config.read_text(encoding="utf-8"), accounts)
        # The callers are on this machine, too: that it is busy is no reason to turn one away.
        config.write_text(text.replace("[gateway]\n", "[gateway]\nmax_lateness_ms = 0\n", 1), encoding="utf-8")
        settings = load_settings(config, strict=True)
        say("starting a gateway")
        async with _gateway(config, out / "gateway.log") as url:
            say(f"calling through {len(carriers)} carriers: {SCRIPT_TEXT}")
            voices = await asyncio.to_thread(_voices)
            calls = [_menu(settings, url, account, voices, 0.1 * index) for index, account in enumerate(accounts)]
            outcomes = list(await asyncio.gather(*calls))
            say("talking with the agent: " + " ".join(demo_talk.SAYS))
            phone = next((account for account in accounts if account.carrier == "twilio"), accounts[0])
            return [*outcomes, await _talk(settings, url, phone)]


async def _menu(settings: Settings, url: str, account: Account, voices: tuple[Voice, Voice], delay_s: float) -> Outcome:
    await asyncio.sleep(delay_s)
    report = await _call(settings, url, account, script(*voices), MENU)
    return Outcome(report, list(_wrong(report)))


async def _talk(settings: Settings, url: str, account: Account) -> Outcome:
    said = await asyncio.to_thread(demo_talk.script, RATE)
    report = await _call(settings, url, account, said, demo_talk.AGENT)
    talk = await demo_talk.talk_of(url, report)
    return Outcome(report, list(talk.wrong(report)), talk)


async def _call(settings: Settings, url: str, account: Account, script: Script, number: str) -> CallReport:
    """As the carrier does it: the signed webhook, the answer document, the socket, callbacks, the REST hang-up.

    A carrier that has no webhooks opens the socket at once.
    """
    plan = CallPlan(to_number=number, parameters={"demo": "yes"})
    limits = Limits(longest_s=45)
    web = account.web
    if web is not None:
        web.answer_url = f"{url}/{account.carrier}/answer"
        web.status_url = f"{url}/{account.carrier}/status"
        return await place_call_through_webhooks(web, Way(gateway_url=url), script, plan=plan, limits=limits)
    secret = settings.gateway.secret
    assert secret is not None
    carrier = simulated(settings, account.carrier, plan)
    token = mint_for(TokenMint(secret.reveal()), carrier)
    return await place_call(carrier, url.replace("http", "ws", 1), script, token=token, limits=limits)


def _wrong(report: CallReport) -> Iterator[str]:
    yield from report.problems
    if report.ended_by != "bot":
        yield f"ended by {report.ended_by}, not by the bot"
    if report.first_audio_s is None:
        yield "nothing was heard"
    if gaps := report.gaps_of_the_gateway():
        yield "a gap in what was heard" if len(gaps) == 1 else f"{len(gaps)} gaps in what was heard"
    first_key = next((event.t for event in report.timeline if event.what == "digit"), 0.0)
    clears = serializer_class(report.carrier).clears  # a player in a browser is not told to stop: it is sent no more
    if clears and not any(event.what == "clear" and event.t < first_key for event in report.timeline):
        yield "the bot did not pause for a word"
    if not report.barge_ins:
        yield "the greeting was not interrupted"
    # A machine that has other work to do makes this caller late, too: that is not the gateway's.
    limit = BARGE_IN_MS.get(report.carrier, OTHER_MS) + report.stalled_ms
    for barge_in in report.barge_ins if clears else ():
        if not barge_in.cleared:
            yield "the carrier was not told to clear"
        if barge_in.silence_ms > limit:
            yield f"silence came {barge_in.silence_ms:.0f} ms after the key, {limit:.0f} at most"
    limit = ECHO_MS.get(report.carrier, OTHER_MS) + report.stalled_ms
    if report.echo_ms is None:
        yield "the caller's words did not come back"
    elif report.echo_ms > limit:
        yield f"the echo came after {report.echo_ms:.0f} ms, {limit:.0f} at most"


# ---------------------------------------------------------------- the gateway


@contextlib.asynccontextmanager
async def _gateway(config: Path, log: Path) -> AsyncIterator[str]:
    """A gateway in a process of its own, as `gateway serve` starts it; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gateway.cli", "serve", "--config", str(config), "--port", str(port)]
    with log.open("wb") as lines:
        process = await asyncio.create_subprocess_exec(*command, stdout=lines, stderr=lines)
        try:
            await _wait_until_ready(process, port, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _wait_until_ready(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    async with httpx.AsyncClient(trust_env=False, timeout=1.0) as http:
        while time.monotonic() < deadline:
            if process.returncode is not None:
                lines = (await asyncio.to_thread(log.read_text, errors="replace")).splitlines()
                tail = "\n".join(lines[-5:])
                raise ConfigError("gateway", f"did not start:\n{tail}", f"see {log}")
            with contextlib.suppress(httpx.HTTPError):
                if (await http.get(f"http://127.0.0.1:{port}/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.05)
    raise ConfigError("gateway", f"was not ready after {START_S:.0f} s", f"see {log}")


# ---------------------------------------------------------------- what people see


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
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
        if outcome.talk is not None:
            continue
        report = outcome.report
        table.add_row(
            report.carrier,
            _ms(None if report.first_audio_s is None else 1000 * report.first_audio_s),
            f"{report.heard_s:.1f} s",
            str(len(report.gaps_of_the_gateway())),
            _ms(report.worst_barge_in_ms if serializer_class(report.carrier).clears else None),
            _ms(report.echo_ms),
            report.ended_by,
            "[red]wrong[/red]" if outcome.wrong else "[green]right[/green]",
        )
    console.print(table)
    for outcome in outcomes:
        if outcome.talk is not None:
            console.print(f"A conversation with the agent, through {outcome.report.carrier}:", highlight=False)
            for line in outcome.talk.lines():
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    for outcome in outcomes:
        for problem in outcome.wrong:
            console.print(f"{outcome.report.carrier}: {problem}", style="red", markup=False)
    console.print(
        f"What each caller heard is in {out}/<carrier>.wav and conversation.wav, the timelines beside them, the log in "
        "gateway.log."
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
