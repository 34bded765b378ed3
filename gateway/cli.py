"""The command line, `gateway COMMAND`: those that serve and place calls; the rest is in `commands/parsers.py`.

Exit codes: 0 fine, 1 the check or the call failed, 2 wrong usage or configuration, 130 Ctrl-C. Little is imported
before `main`, where Ctrl-C is no traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gateway.commands import parsers
from gateway.compiled import build
from gateway.missing import missing
from media.errors import ConfigError, ConfigErrors

Command = Callable[[argparse.Namespace], int]

OK, FAILED, USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    try:
        args = _parser().parse_args(argv)
        code = int(args.command(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # gateway calls list | head
        _stop_writing()
        return OK
    except ConfigErrors as exc:
        for error in exc.errors:
            print(f"error: {error}", file=sys.stderr)
        return USAGE
    except ConfigError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return USAGE
    except ModuleNotFoundError as exc:
        told = missing(exc, "gateway")
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return USAGE
    except OSError as exc:
        if exc.errno in _FULL and exc.filename is None:
            _stop_writing()
            print(f"error: {exc.strerror}", file=sys.stderr)
            return FAILED
        if exc.filename is None:  # else it is about a file that the user has named, or where one would be
            raise
        print(f"error: {exc.filename}: {exc.strerror}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _stop_writing() -> None:
    """What standard output has not taken is not tried again when Python ends."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ---------------------------------------------------------------- commands


def serve(args: argparse.Namespace) -> int:
    """Serve calls until Ctrl-C or SIGTERM; live calls may finish first.

    With --workers N, so many processes share the port and the calls: one for each core.

    Example: gateway serve --config gateway.toml --workers 4
    """
    from gateway.commands import serve as serving

    return serving.serve(args.config, host=args.host, port=args.port, workers=args.workers)


def run(args: argparse.Namespace) -> int:
    """Try the gateway on this machine: serve on loopback with a sample configuration, and say what to do next.

    Makes gateway.toml and a secret beside it if there are none. Carriers whose credentials are missing answer the
    simulator's calls only.

    Example: gateway run
    """
    from gateway.commands import serve as serving

    return serving.run(args.config, port=args.port)


def demo(args: argparse.Namespace) -> int:
    """Place one call through each carrier's protocol and print what the caller heard.

    Starts a gateway on a free loopback port, calls it through strict fake carriers over real WebSockets (speech,
    digits, an interruption, a hang-up), writes the heard WAVs, and exits 0 only if every call was right. With --json,
    `calls` has a report of each, whose `wrong` says what was not.

    Example: gateway demo --out heard
    """
    from gateway.commands.demo import demo as place_demo_calls

    return place_demo_calls(out=args.out, only=args.carrier, as_json=args.json)


def call(args: argparse.Namespace) -> int:
    """Place a simulated call to a running gateway and print its timeline.

    The gateway's own [gateway] secret lets the call in, so both must use the same configuration. At Ctrl-C or SIGTERM
    the caller hangs up.

    Genesys Cloud calls with --session: connector (a bot in an Architect flow), monitor (customer and agent, nothing
    is played), monitor-mono, probe (the test that Genesys makes when an administrator saves the integration). What
    the flow gets back is printed: its variables, and which way out of the action it takes.

    Example: gateway call --carrier twilio --to +15550100 --wav hello.wav --digits 1 --out heard.wav
    Example: gateway call --carrier genesys --to +15550100 --connector billing --input-var customerId=C-1 --digits 1#
    Example: gateway call --carrier genesys --to +15550100 --session monitor --wav me.wav --agent-wav you.wav
    Example: gateway call --carrier genesys --to +15550100 --act "2 pause" --act "4 resume" --act "5 limit 2"
    """
    import asyncio

    from gateway.commands.call import call as place_one

    return asyncio.run(place_one(args))


def check(args: argparse.Namespace) -> int:
    """Read a configuration and name every mistake in it, with its place and its remedy.

    Example: gateway check --config gateway.toml
    """
    from gateway.commands import serve as serving

    return serving.check(args.config, as_json=args.json)


def version(args: argparse.Namespace) -> int:
    """Print the version of the gateway, of Python and of what matters to calls, and whether the build is compiled.

    Example: gateway version --json
    """
    names = ("telephony-gateway", "starlette", "uvicorn", "websockets", "numpy", "soxr", "onnxruntime")
    found = {"python": sys.version.split()[0]}
    found |= {name: _version(name) for name in names}
    found["build"] = build()
    if args.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name} {number}" for name, number in found.items()))
    return OK


class _TellVersion(argparse.Action):
    """argparse's own wants the text when the parser is made."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        print(f"telephony-gateway {_version('telephony-gateway')}")
        parser.exit()


def _version(name: str) -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# ---------------------------------------------------------------- the parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gateway",
        description="Carriers' calls in, voice bots out. Start with `gateway demo`, then `gateway run`.",
        epilog="`gateway COMMAND --help` explains a command. Exit codes: 0 fine, 1 failed, 2 wrong usage.",
    )
    parser.add_argument("--version", nargs=0, action=_TellVersion, help="print the version of the gateway and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(command: Command, *options: tuple[Sequence[str], dict[str, Any]], as_json: bool = False) -> None:
        text = (command.__doc__ or "").strip()
        sub = commands.add_parser(
            command.__name__,
            help=text.splitlines()[0],
            description=_unindented(text),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for flags, keywords in options:
            sub.add_argument(*flags, **keywords)
        if as_json:
            sub.add_argument("--json", action="store_true", help="one JSON object on standard output, for machines")
        sub.set_defaults(command=command)

    config = (
        ("--config",),
        {"type": Path, "default": Path("gateway.toml"), "metavar": "FILE", "help": "default: gateway.toml"},
    )
    port = (
        ("--port",),
        {"type": parsers.whole(0, 65535), "metavar": "N", "help": "over the configuration's; 0: any free one"},
    )
    add(demo, *_demo_options(), as_json=True)
    add(run, config, port)
    add(
        serve,
        config,
        (("--host",), {"metavar": "ADDRESS", "help": "over the configuration's"}),
        port,
        (("--workers",), {"type": parsers.whole(1), "metavar": "N", "help": "processes, over the configuration's"}),
    )
    add(call, config, *_call_options(), *parsers.GENESYS, as_json=True)
    parsers.add_to(commands)
    add(check, config, as_json=True)
    add(version, as_json=True)
    return parser


def _unindented(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines())


def _demo_options() -> list[tuple[Sequence[str], dict[str, Any]]]:
    return [
        (
            ("--out",),
            {
                "type": parsers.target_folder,
                "default": "heard",
                "metavar": "DIR",
                "help": "for the WAVs; default: heard/",
            },
        ),
        (("--carrier",), {"action": "append", "metavar": "NAME", "help": "only this one; may be repeated"}),
    ]


def _call_options() -> list[tuple[Sequence[str], dict[str, Any]]]:
    return [
        (
            ("--carrier",),
            {"required": True, "metavar": "NAME", "help": "twilio, telnyx, plivo, exotel, vonage, genesys, web"},
        ),
        (("--to",), {"required": True, "metavar": "NUMBER", "help": "the number called: it selects the bot"}),
        (("--from",), {"dest": "from_number", "default": "+14155550101", "metavar": "NUMBER", "help": "the caller's"}),
        (("--url",), {"metavar": "URL", "help": "of the gateway; default: ws://127.0.0.1:<port of the configuration>"}),
        (("--wav",), {"type": Path, "metavar": "FILE", "help": "what the caller says; silence without it"}),
        (
            ("--say-at",),
            {"type": parsers.seconds(), "default": 0.5, "metavar": "S", "help": "when the caller begins; default 0.5"},
        ),
        (
            ("--digits",),
            {"type": parsers.digits, "default": "", "metavar": "DIGITS", "help": "keys pressed one after the other"},
        ),
        (
            ("--digits-at",),
            {"type": parsers.seconds(), "default": 1.5, "metavar": "S", "help": "first key; default 1.5 s"},
        ),
        (
            ("--hang-up-at",),
            {
                "type": parsers.seconds(),
                "metavar": "S",
                "help": "the caller hangs up then, if the bot has not; default: 20 s after the last act",
            },
        ),
        (
            ("--max-s",),
            {"type": parsers.seconds(more=True), "default": 60.0, "metavar": "S", "help": "longest call; default 60"},
        ),
        (
            ("--param", "--input-var"),
            {
                "dest": "param",
                "action": "append",
                "default": [],
                "metavar": "NAME=VALUE",
                "help": "a custom parameter; of Genesys a session variable of the flow",
            },
        ),
        (
            ("--codec",),
            {
                "choices": ("PCMU", "PCMA", "L16"),
                "default": "",
                "metavar": "NAME",
                "help": "PCMU, PCMA or L16, where the carrier has a choice",
            },
        ),
        (
            ("--rate",),
            {"type": parsers.whole(0), "default": 0, "metavar": "HZ", "help": "of the wire, where there is a choice"},
        ),
        (("--out",), {"type": parsers.target_file, "metavar": "FILE", "help": "write what the caller heard"}),
    ]


if __name__ == "__main__":
    sys.exit(main())
