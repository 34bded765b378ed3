"""`gateway call`: one simulated call to a running gateway."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from gateway.commands import call_genesys as genesys
from gateway.commands.serve import use_made_up_secrets
from gateway.settings import Settings, load_settings
from gateway.simulator.base import CallPlan, FakeCarrier, Message
from gateway.simulator.caller import Limits, place_call
from gateway.simulator.configured import credentials, mint_for, simulated
from gateway.simulator.report import CallReport
from gateway.simulator.script import HangUp, Press, Say, Script, Voice, at
from gateway.tokens import TokenMint
from media.errors import ConfigError
from media.wav import read_wav, write_wav


async def call(args: argparse.Namespace) -> int:
    """Place the call, print its timeline, write what was heard. Gives 0 if the call was right.

    At Ctrl-C or SIGTERM the caller hangs up; a second one, or one outside the call, ends the command.
    """
    options, acts = genesys.options_of(args, voice), genesys.acts_of(args)
    use_made_up_secrets(args.config)
    settings = load_settings(args.config)
    if settings.gateway.secret is None:
        raise ConfigError("gateway.secret", "is not set", "the call needs a token that the running gateway accepts")
    carrier = simulated(
        settings,
        args.carrier,
        CallPlan(
            from_number=args.from_number,
            to_number=args.to,
            parameters=_parameters(args.param),
            send_codec=args.codec,
            receive_codec=args.codec,
            sample_rate=args.rate,
            credentials=credentials(genesys.key_settings(settings, args.key)),
            options=options,
        ),
    )
    acts.fake = carrier
    reports = [await _placed(settings, args, carrier, acts)]
    while (following := genesys.successor(carrier)) is not None:
        acts.fake = carrier = following
        reports.append(await _again(lambda: _placed(settings, args, following, acts)))
    report = reports[-1]
    if args.json:
        sessions = {"sessions": [one.to_dict() for one in reports]} if len(reports) > 1 else {}
        print(json.dumps(report.to_dict() | sessions, ensure_ascii=False))
    else:
        print("\n\n".join("\n".join(one.lines()) for one in reports))
    if report.refused is not None:
        print(_REFUSALS.get(report.refused, "hint: the gateway's log says why"), file=sys.stderr)
    elif any(problem.startswith("no connection") for problem in report.problems):
        print(_NO_GATEWAY, file=sys.stderr)
    if args.out is not None and report.heard:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_wav(args.out, report.heard, report.heard_rate)
    return 0 if all(one.ok for one in reports) else 1


async def _placed(settings: Settings, args: argparse.Namespace, carrier: FakeCarrier, acts: genesys.Acts) -> CallReport:
    """One session."""
    assert settings.gateway.secret is not None
    url = args.url or f"ws://127.0.0.1:{settings.gateway.port}"
    path = carrier.media_path(mint_for(TokenMint(settings.gateway.secret.reveal()), carrier))
    # Handshakes are signed over the public URL, also where we go straight to the gateway.
    public = settings.gateway.public_url if args.url is None else ""
    meanwhile = Meanwhile(carrier, acts)
    with _at_a_signal(meanwhile.interrupted):
        return await place_call(
            carrier,
            _ws(url) + path,
            _script(args, acts.elapsed(asyncio.get_running_loop().time())),
            addressed=_ws(public).rstrip("/") + path if public else "",
            limits=Limits(longest_s=args.max_s),
            meanwhile=meanwhile,
        )


class Meanwhile:
    """Beside the script: what was asked with --act, and Ctrl-C or SIGTERM."""

    def __init__(self, carrier: FakeCarrier, acts: Callable[[float], Sequence[Message]]) -> None:
        self._carrier, self._acts = carrier, acts
        self._hangs_up = False

    def __call__(self, now: float) -> Sequence[Message]:
        if self._hangs_up:
            return self._carrier.hang_up(now)
        return self._acts(now)

    def interrupted(self) -> None:
        if self._hangs_up or not self._carrier.events or self._carrier.ended_by is not None:
            raise KeyboardInterrupt
        self._hangs_up = True


_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _at_a_signal(do: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    loop = asyncio.get_running_loop()
    for number in _ENDING:
        loop.add_signal_handler(number, do)
    try:
        yield
    finally:
        for number in _ENDING:
            loop.remove_signal_handler(number)


async def _again(place: Callable[[], Awaitable[CallReport]]) -> CallReport:
    """Until the gateway takes it, for as long as Genesys tries."""
    for wait_s in genesys.TRIES_S:
        await asyncio.sleep(wait_s)
        report = await place()
        if report.refused is None and report.close_code is not None:
            break
    return report


def _ws(url: str) -> str:
    """Raises ConfigError: it is no URL of a gateway."""
    found = url.replace("http", "ws", 1) if url.startswith("http") else url
    parts = urlsplit(found)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ConfigError("--url", f"is no URL of a gateway: {url}", "write ws://127.0.0.1:8080, or https://...")
    return found


WAITS_S = 20.0  # after all that the caller says and presses, for the bot to end the call

_NO_GATEWAY = "hint: start it (`gateway run`, `gateway serve`), or say where it is (--url ws://127.0.0.1:<port>)"
_REFUSALS = {
    401: "hint: the gateway does not know the credentials in this configuration; its log says what was wrong",
    403: "hint: the gateway's [gateway] secret, or the carrier's, is not the one in this configuration, or the clocks "
    "differ; its log says which",
    404: "hint: no bot answers that number (`gateway route` says why), or the carrier is off in the gateway's "
    "configuration (its log at start says why)",
    503: "hint: the gateway is full or stopping",
}


def _script(args: argparse.Namespace, elapsed_s: float) -> Script:
    script, last = Script(), max((act.at_s for act in genesys.acts_of(args).acts), default=0.0)
    if elapsed_s:  # another session of the same call: all was said and pressed in the first
        ends_at = args.hang_up_at if args.hang_up_at is not None else last + WAITS_S
        return script.then(at(max(1.0, ends_at - elapsed_s)), HangUp())
    if args.wav is not None:
        said = voice(args.wav)
        script, last = script.then(at(args.say_at), Say(said)), max(last, args.say_at + said.duration_s)
    if args.digits:
        script, last = script.then(at(args.digits_at), Press(args.digits)), max(last, args.digits_at)
    if args.hang_up_at is not None:
        return script.then(at(args.hang_up_at), HangUp())
    # Perhaps nobody else ends it: an echo would go on for ever.
    return script.then(at(max(min(args.max_s - 1, last + WAITS_S), last)), HangUp())


def voice(path: Path) -> Voice:
    """A WAV file as something to say."""
    try:
        wav = read_wav(path)
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or exc
        raise ConfigError(str(path), f"cannot be read: {why}", "give a mono WAV file") from None
    if wav.channels != 1:
        raise ConfigError(str(path), f"has {wav.channels} channels", "give a mono WAV file")
    return Voice(wav.pcm, wav.sample_rate, path.name)


def _parameters(pairs: list[str]) -> dict[str, str]:
    parameters = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError("--param", f"{pair!r} is not NAME=VALUE", "write --param tier=gold")
        parameters[name] = value
    return parameters
