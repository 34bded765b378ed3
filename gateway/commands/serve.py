"""The commands that serve: `gateway serve`, `run` and `check`."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import importlib.resources
import json
import os
import secrets
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from gateway.app import prepare
from gateway.settings import MAX_WORKERS, Settings, load_settings, read_toml, understood
from media.errors import ConfigError, ConfigErrors

if TYPE_CHECKING:
    from gateway.server import Server


def serve(config: Path, *, host: str | None = None, port: int | None = None, workers: int | None = None) -> int:
    """`gateway serve`: until a signal. Gives the exit code."""
    from gateway import serving
    from gateway.server import run as run_loop

    settings = load_settings(config)
    serving.log_as(settings)
    serving.warn(settings)
    count = settings.gateway.workers if workers is None else workers
    if not 1 <= count <= MAX_WORKERS:
        raise ConfigError("--workers", f"must be 1 to {MAX_WORKERS}", "one for each core is enough")
    if count > 1:
        serving.store_of(settings)  # what is wrong with it is said once, and not by each worker
        return asyncio.run(_supervise(config, settings, count, host=host, port=port))
    return run_loop(serving.serve(config, settings, host=host, port=port, up=lambda running: _tell(settings, running)))


async def _supervise(config: Path, settings: Settings, count: int, *, host: str | None, port: int | None) -> int:
    from gateway.supervisor import Supervisor

    host = settings.gateway.host if host is None else host
    port = settings.gateway.port if port is None else port
    return await Supervisor(config, settings, count, host=host, port=port).run()


def _tell(settings: Settings, running: Server) -> None:
    from gateway.serving import tell_listening

    tell_listening(settings, running.config.host, running.port)


# ---------------------------------------------------------------- trying it out

_HELLO = """
The gateway listens on http://127.0.0.1:{port} (loopback only) with {config}.

{ways}
{carriers}
Edit {config} (numbers, bots, carriers): it is read again when it changes. Ctrl-C ends it.
"""

_CONSOLE = """Talk to it in a browser:  http://127.0.0.1:{port}/console/
Choose a {choice}, and click Call.
"""

_CALLS = """Or, in another terminal, through a simulated carrier:

{calls}
"""

_SAMPLES = (  # of the sample configuration: who answers, the call, and what it is
    ("echo", "--carrier twilio --to +15550100 --wav {hello} --out heard.wav", "echo: you hear yourself"),
    ("reception", "--carrier plivo --to +15550101 --digits 2 --out heard.wav", "a menu: opening hours"),
    ("news", "--carrier genesys --to +15550102 --out heard.wav", "announcement"),
)


def run(config: Path, *, port: int | None = None) -> int:
    """`gateway run`: serve on loopback, with whatever is missing made up for the simulator."""
    from gateway import serving
    from gateway.server import run as run_loop

    if not config.exists():
        write_sample(config)
        written = f"{config} and {config.parent / SECRET_FILE}"
        if write_hello(config.parent / HELLO_FILE):
            written = f"{config}, {config.parent / SECRET_FILE} and {config.parent / HELLO_FILE}"
        print(f"wrote {written}: yours to edit")
    lacking = make_up_secrets(config)

    def load(path: Path) -> Settings:
        return _asking_nobody(load_settings(path), lacking)

    settings = load(config)
    serving.log_as(settings)
    serving.warn(settings)
    lines = [
        f"Real calls of {name} need {', '.join(variables)}; until then only simulated ones come in."
        for name, variables in lacking.items()
    ]
    lines += [f"{name} is off: {why}" for name, why in settings.carriers_off.items()]

    def up(running: Server) -> None:
        _tell(settings, running)
        ways = _ways(config, settings, running.port)
        print(_HELLO.format(port=running.port, config=config, ways=ways, carriers="\n".join(lines)), flush=True)

    return run_loop(serving.serve(config, settings, host="127.0.0.1", port=port, watch=True, load=load, up=up))


def _ways(config: Path, settings: Settings, port: int) -> str:
    """How to talk to it."""
    bots, said = set(settings.bots), []
    is_sample = bots >= {"assistant", *(bot for bot, _, _ in _SAMPLES)}
    if settings.has_console:
        choice = (
            "bot there (assistant listens and answers, reception is a menu)" if is_sample else "number or a bot there"
        )
        said.append(_CONSOLE.format(port=port, choice=choice))
    command = "gateway" if sys.prefix == sys.base_prefix else os.path.relpath(Path(sys.prefix, "bin", "gateway"))
    more = f" --config {shlex.quote(str(config))}" if config != DEFAULT_CONFIG else ""
    more += f" --url ws://127.0.0.1:{port}" if port != settings.gateway.port else ""
    if is_sample:
        hello = shlex.quote(str(config.parent / HELLO_FILE))
        calls = [(f"{call.format(hello=hello)}{more}", what) for _, call, what in _SAMPLES]
    else:
        numbers = [key for key in settings.numbers if key.lstrip("+").isdigit()]
        carrier = next(iter(settings.carriers), "")
        number = "+15550100" if "default" in settings.numbers or not numbers else numbers[0]
        calls = [(f"--carrier {carrier} --to {number} --out heard.wav{more}", "")] if carrier else []
    if calls:
        width = max(len(call) for call, _ in calls) + 4
        lines = [f"    {command} call {call:{width}}{f'# {what}' if what else ''}".rstrip() for call, what in calls]
        said.append(_CALLS.format(calls="\n".join(lines)))
    return "\n".join(said)


DEFAULT_CONFIG = Path("gateway.toml")
SECRET_FILE = "gateway.secret"
HELLO_FILE = "hello.wav"
MADE_UP = ".gateway-made-up"  # a folder beside the configuration


def write_sample(config: Path) -> None:
    """The sample configuration at `config`, with a token secret of its own beside it."""
    sample = importlib.resources.files("gateway").joinpath("sample", "gateway.toml").read_text(encoding="utf-8")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(sample, encoding="utf-8")
    secret = config.parent / SECRET_FILE
    if not secret.exists():
        with open(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")


def write_hello(path: Path) -> bool:
    """Something for a caller to say, unless there is a file already; False if it cannot be synthesised."""
    from bots.speech import speak
    from media.wav import write_wav

    if not path.exists():
        try:
            pcm = speak("Hello, this is a telephone call. Can you hear me?", "en-us+f3", 16000)
        except ConfigError:  # the extra [speech] is not installed
            return False
        write_wav(path, pcm, 16000)
    return True


def make_up_secrets(config: Path) -> dict[str, tuple[str, ...]]:
    """Give every carrier that lacks environment variables random ones; which they are, by carrier.

    Nobody outside knows them, so nothing real gets in by them: they let the simulator's calls through. They are kept
    beside the configuration, so that `gateway call` signs with the same.
    """
    lacking = dict(load_settings(config).carriers_lacking)
    folder = config.parent / MADE_UP
    for variable in {variable for variables in lacking.values() for variable in variables}:
        path = folder / variable
        if not path.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(base64.b64encode(secrets.token_bytes(32)).decode())
    use_made_up_secrets(config)
    return lacking


def use_made_up_secrets(config: Path) -> None:
    """Set the variables that `gateway run` has made up for this configuration, unless the environment has them."""
    folder = config.parent / MADE_UP
    if folder.is_dir():
        for path in folder.iterdir():
            os.environ.setdefault(path.name, path.read_text(encoding="ascii").strip())


def _asking_nobody(settings: Settings, lacking: Iterable[str]) -> Settings:
    """Carriers with made-up credentials are not asked to hang up: the socket is closed. And as the callers are on this
    machine, too, that it is busy is no reason to turn one away, and Ctrl-C does not wait for them to hang up."""
    carriers = dict(settings.carriers)
    for name in carriers.keys() & set(lacking):
        if hasattr(carriers[name], "auto_hang_up"):
            carriers[name] = dataclasses.replace(carriers[name], auto_hang_up=False)
    gateway = dataclasses.replace(settings.gateway, max_lateness_ms=0.0, drain_s=0.0)
    return dataclasses.replace(settings, gateway=gateway, carriers=MappingProxyType(carriers))


# ---------------------------------------------------------------- checking


def check(config: Path, *, as_json: bool = False) -> int:
    """`gateway check`: all mistakes at once. Gives 0 or 1."""
    from gateway import serving

    found: list[ConfigError] = []
    warnings: tuple[str, ...] = ()
    try:
        settings, found = understood(read_toml(config), config.parent, strict=True)
        warnings = settings.warnings
        # What can be said of the rest is said, too: bots are prepared where their tables make sense.
        for step in (lambda: serving.store_of(settings), lambda: asyncio.run(prepare(settings))):
            try:
                step()
            except ConfigError as exc:
                found.append(exc)
    except ConfigErrors as exc:  # it cannot even be read
        found = [exc]
    errors = ConfigErrors(found).errors if found else ()
    if as_json:
        listed = [{"path": error.path, "problem": error.problem, "remedy": error.remedy} for error in errors]
        print(json.dumps({"config": str(config), "errors": listed, "warnings": list(warnings)}))
    else:
        for error in errors:
            print(f"error: {error}")
        for warning in warnings:
            print(f"warning: {warning}")
        if not errors:
            print(f"{config} is good")
    return 1 if errors else 0
