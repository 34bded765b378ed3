"""The options of the commands that talk to a running gateway. Light: what a command needs is imported as it runs."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Option = tuple[Sequence[str], dict[str, Any]]


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Of an option: a whole number in these limits."""
    wanted = f"from {least}" if most is None else f"{least} to {most}"

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"must be a whole number, {wanted}, not {text!r}")
        return number

    return read


def seconds(*, more: bool = False) -> Callable[[str], float]:
    """Of an option: seconds, 0 or more; with `more` not 0."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0 or (more and number == 0):
            raise argparse.ArgumentTypeError(f"must be seconds, {'more than 0' if more else 'from 0'}, not {text!r}")
        return number

    return read


def digits(text: str) -> str:
    """Of an option: keys of a telephone."""
    if not re.fullmatch(r"[0-9*#A-D]*", text):
        raise argparse.ArgumentTypeError("must be keys of a telephone: 0-9 * # A-D")
    return text


def target_file(text: str) -> Path:
    """Of an option: a file to be written. That it cannot be is known before a call or a test of minutes is lost."""
    if os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is a folder, not a file")
    _check_writable(text)
    return Path(text)


def target_folder(text: str) -> Path:
    """Of an option: a folder for files to be written; it is made when it is needed."""
    if os.path.exists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is a file, not a folder")
    _check_writable(text)
    return Path(text)


def _check_writable(text: str) -> None:
    place = os.path.abspath(text)
    while not os.path.exists(place):
        place = os.path.dirname(place)
        if os.path.exists(place) and not os.path.isdir(place):
            raise argparse.ArgumentTypeError(f"{place} is a file, not a folder")
    if not os.access(place, os.W_OK):
        raise argparse.ArgumentTypeError(f"{place} may not be written by this user")


CALL: Option = (("call",), {"metavar": "CALL", "help": "carrier/id, or the beginning of a recent call's id"})
ASKING: Sequence[Option] = (
    (("--url",), {"metavar": "URL", "help": "of the gateway; default: $GATEWAY_URL, else that of the configuration"}),
    (("--token",), {"default": "", "metavar": "TOKEN", "help": "of [api.tokens]; better in $GATEWAY_API_TOKEN"}),
    (
        ("--config",),
        {"type": Path, "default": Path("gateway.toml"), "metavar": "FILE", "help": "default: gateway.toml"},
    ),
    (("--json",), {"action": "store_true", "help": "one JSON object on standard output, for machines"}),
)
CALLS: dict[str, tuple[str, Sequence[Option]]] = {
    "list": (
        """Records of calls, newest first; with --live those that are up.

        Example: gateway calls list --since 2h --number +15550100
        """,
        (
            (("--live",), {"action": "store_true", "help": "calls that are up, with their state"}),
            (("--carrier",), {"metavar": "NAME"}),
            (("--bot",), {"metavar": "NAME"}),
            (("--number",), {"metavar": "NUMBER", "help": "of either side"}),
            (("--standing",), {"action": "append", "metavar": "WORD", "help": "live, ended, refused, lost ..."}),
            (("--since",), {"metavar": "TIME", "help": "2h, 3d, 2026-01-31T09:30"}),
            (("--until",), {"metavar": "TIME"}),
            (("--limit",), {"type": whole(1, 500), "default": 20, "metavar": "N", "help": "default 20, at most 500"}),
            (("--after",), {"metavar": "PAGE", "help": "go on where another list ended"}),
        ),
    ),
    "show": (
        """All that is known of one call.

        Example: gateway calls show twilio/CA0123
        """,
        (CALL,),
    ),
    "end": (
        """End a live call: what is queued for the caller is heard first.

        Example: gateway calls end twilio/CA0123
        """,
        (CALL, (("--reason",), {"default": "api", "metavar": "WORD", "help": "for the record; default: api"})),
    ),
    "transfer": (
        """Hand the caller of a live call over to somebody else.

        Example: gateway calls transfer twilio/CA0123 +15550199
        """,
        (CALL, (("target",), {"metavar": "TARGET", "help": "a number, a SIP URI, or what the carrier takes"})),
    ),
    "digits": (
        """Send DTMF digits into a live call.

        Example: gateway calls digits twilio/CA0123 42#
        """,
        (CALL, (("digits",), {"metavar": "DIGITS", "help": "0-9 * # A-D"})),
    ),
}
DIAL: Sequence[Option] = (
    (("--carrier",), {"required": True, "metavar": "NAME"}),
    (("--to",), {"required": True, "metavar": "NUMBER", "help": "who is called"}),
    (("--from",), {"dest": "from_number", "required": True, "metavar": "NUMBER", "help": "one of your numbers"}),
    (("--bot",), {"default": "", "metavar": "NAME", "help": "default: the bot of the --from number"}),
    (("--ring-s",), {"type": whole(1), "default": 45, "metavar": "S", "help": "give up after so long; default 45"}),
    (("--longest-s",), {"type": whole(1), "metavar": "S", "help": "end the call after so long"}),
    (("--detect-machine",), {"action": "store_true", "help": "let the carrier tell people from machines"}),
    (("--param",), {"action": "append", "default": [], "metavar": "NAME=VALUE", "help": "for the bot"}),
    (("--wait",), {"action": "store_true", "help": "until the call is over; exits 0 only if it was answered"}),
)
SESSIONS = ("connector", "monitor", "monitor-mono", "probe")
GENESYS: Sequence[Option] = (  # of `gateway call`
    (
        ("--session",),
        {"choices": SESSIONS, "metavar": "KIND", "help": f"genesys: {', '.join(SESSIONS)}; default: connector"},
    ),
    (("--connector",), {"metavar": "ID", "help": "genesys: the Connector ID, with its query: a bot's name"}),
    (("--key",), {"metavar": "NAME", "help": "genesys: signs with [carriers.genesys.keys.NAME]; default: the first"}),
    (("--language",), {"metavar": "TAG", "help": "genesys: of the participant; default: en-US"}),
    (("--supported-languages",), {"action": "store_true", "help": "genesys: asks which languages the gateway has"}),
    (("--custom-config",), {"metavar": "JSON", "help": "genesys: the integration's Advanced configuration"}),
    (
        ("--agent-wav",),
        {"type": Path, "metavar": "FILE", "help": "genesys: what the agent says in a monitor, over and over"},
    ),
    (
        ("--act",),
        {
            "action": "append",
            "default": [],
            "metavar": '"S WHAT [VALUE]"',
            "help": "genesys: after S seconds pause, resume, discard SECONDS, language TAG, limit MESSAGES_A_SECOND "
            "(more get error 429; 5 is usual), error CODE, reconnect or break; may be repeated",
        },
    ),
)
DRAIN: Sequence[Option] = ((("--wait",), {"action": "store_true", "help": "until no call is left"}),)


DOCTOR: Sequence[Option] = (
    ASKING[2],
    (("--url",), {"metavar": "URL", "help": "the public one; default: gateway.public_url"}),
    (("--carrier",), {"action": "append", "metavar": "NAME", "help": "only this one; may be repeated"}),
    (("--credentials",), {"action": "store_true", "help": "also ask each carrier's REST interface"}),
    (("--hold",), {"type": seconds(), "default": 0.0, "metavar": "S", "help": "keep each socket silent for so long"}),
    (
        ("--timeout",),
        {"type": seconds(more=True), "default": 10.0, "metavar": "S", "help": "for each answer; default 10"},
    ),
    ASKING[3],
)


ROUTE: Sequence[Option] = (
    (("number",), {"metavar": "NUMBER", "help": "the number called"}),
    (("--carrier",), {"required": True, "metavar": "NAME", "help": "through which it is called"}),
    (("--at",), {"default": "", "metavar": "TIME", "help": "2026-12-24T18:00; default: now"}),
    (("--call-id",), {"default": "", "metavar": "ID", "help": "of a call, where numbers share their calls out"}),
    *ASKING[2:],
)


# Options of `loadtest` that `capacity` has too.
_BOTH = ("--carrier", "--to", "--through", "--scenarios", "--processes", "--server-pid", "--html", "--json")
LOADTEST: Sequence[Option] = (
    (("url",), {"metavar": "URL", "help": "of the gateway, past any proxy: ws://127.0.0.1:8080"}),
    (
        ("--config",),
        {
            "type": Path,
            "default": Path("gateway.toml"),
            "metavar": "FILE",
            "help": "the running gateway's: its secrets let the calls in; default: gateway.toml",
        },
    ),
    (("--calls",), {"type": whole(1), "default": 10, "metavar": "N", "help": "up at the same time; default 10"}),
    (
        ("--seconds",),
        {"type": seconds(more=True), "default": 20.0, "metavar": "S", "help": "with all of them up; default 20"},
    ),
    (
        ("--ramp",),
        {"type": seconds(), "default": 0.0, "metavar": "S", "help": "until all are up; default: 20 calls a second"},
    ),
    (
        ("--call-s",),
        {
            "type": seconds(),
            "default": 0.0,
            "metavar": "S",
            "help": "length of a call, then another comes; default: no end",
        },
    ),
    (
        ("--carrier",),
        {"action": "append", "default": [], "metavar": "NAMES", "help": "twilio,plivo,...: in turn; default: twilio"},
    ),
    (("--to",), {"default": "+15550100", "metavar": "NUMBER", "help": "the number called: it selects the bot"}),
    (
        ("--through",),
        {
            "choices": ("socket", "webhook"),
            "default": "socket",
            "help": "webhook: with the carrier's webhooks; default: socket",
        },
    ),
    (("--scenarios",), {"type": Path, "metavar": "FILE", "help": "a TOML file with what the callers do; see above"}),
    (
        ("--processes",),
        {"type": whole(1), "default": 1, "metavar": "N", "help": "generators; one carries some 500 calls"},
    ),
    (
        ("--server-pid",),
        {"type": whole(1), "metavar": "PID", "help": "default: who listens on the port, on this machine"},
    ),
    (
        ("--html",),
        {"type": target_file, "metavar": "FILE", "help": "write a report with plots that needs nothing beside it"},
    ),
    ASKING[3],
)


CAPACITY: Sequence[Option] = (
    (("--url",), {"metavar": "URL", "help": "of a running gateway; default: one is started, on a core of its own"}),
    (
        ("--config",),
        {"type": Path, "metavar": "FILE", "help": "the gateway's; default: an echo on Twilio"},
    ),
    (("--sample-rate",), {"type": int, "metavar": "HZ", "help": "of the default's pipeline; default: the wire's"}),
    (("--start",), {"type": whole(1), "default": 50, "metavar": "N", "help": "calls to begin with; default 50"}),
    (("--most",), {"type": whole(1), "default": 5000, "metavar": "N", "help": "calls to end with; default 5000"}),
    (
        ("--seconds",),
        {"type": seconds(more=True), "default": 15.0, "metavar": "S", "help": "for each number of calls; default 15"},
    ),
    (("--write",), {"action": "store_true", "help": "set max_calls in the file of --config to what is proposed"}),
    *(option for option in LOADTEST if option[0][0] in _BOTH),
)


def add_to(commands: Any) -> None:
    """`calls`, `dial`, `drain`, `doctor`, `route`, `loadtest`, `capacity` and `schema`."""
    calls = commands.add_parser("calls", help="Look at calls, end them, hand them over.", description=_CALLS)
    verbs = calls.add_subparsers(metavar="WHAT", required=True)
    for name, (text, options) in CALLS.items():
        _add(verbs, name, text, (*options, *ASKING), "gateway.commands.calls", verb=name)
    _add(commands, "dial", _DIAL, (*DIAL, *ASKING), "gateway.commands.calls", verb="dial")
    _add(commands, "drain", _DRAIN, (*DRAIN, *ASKING), "gateway.commands.calls", verb="drain")
    _add(commands, "doctor", _DOCTOR, DOCTOR, "gateway.commands.doctor")
    _add(commands, "route", _ROUTE, ROUTE, "gateway.commands.route")
    _add(commands, "loadtest", _LOADTEST, LOADTEST, "gateway.commands.loadtest")
    _add(commands, "capacity", _CAPACITY, CAPACITY, "gateway.commands.capacity")
    _add(commands, "schema", _SCHEMA, (), "gateway.commands.schema")


_CALLS = "Calls of a running gateway, through its control API."
_DIAL = """Place a call through a running gateway.

Example: gateway dial --carrier twilio --from +15550100 --to +15550177 --wait
"""
_DRAIN = """Make a running gateway refuse new calls and let live ones end. Only a new start takes it back.

Example: gateway drain --wait
"""
_DOCTOR = """Send a running gateway what carriers would, through its public URL, and name what is wrong on the way.

Signed with the configured secrets; no call is made of it. The running gateway must have the same [gateway] secret.

Example: gateway doctor --url https://gw.example.com --carrier twilio
"""
_ROUTE = """Say which bot answers a number, and why: every rule in the order in which it counts.

Exit code 1: no bot answers.

Example: gateway route +15550100 --carrier twilio --at 2026-12-24T18:00
"""
_LOADTEST = """Call a running gateway with many simulated callers at once, and report what they heard.

Example: gateway loadtest ws://127.0.0.1:8080 --calls 100 --seconds 60 --html load.html

Calls come on a fixed schedule, whether or not the gateway keeps up with it. Each caller says a marker, a tone, every
two seconds: a bot that echoes (try --to +15550100 with `gateway run`) tells how late it is heard back. One call in 20
is checked to the last field of each message, as the carrier would. A gateway that hangs up by REST would ask the real
carrier about calls that it does not know: give a test gateway auto_hang_up = false.

What else callers do stands in a file of --scenarios, mixed by their weights:

[[scenario]]
name = "impatient"
weight = 2             # beside others
to = "+15550102"       # over --to
carriers = ["plivo"]   # over --carrier
seconds = 12           # then the next caller takes the place
digits = "12#"
digits_at_s = 3
barge_in_at_s = 5      # when the bot speaks after that, cut in and time its silence
barge_in_by = "1"      # by this key; "tone": by voice
says = "silence"       # or "markers"
end = "caller"         # who ends it, and how: caller, bot, drop, half-open, refused, never-start

Exit code 1: a call went wrong, or had a gap. 3: the generator was the bottleneck, and there is no report. Ctrl-C ends
the test with a report of what there is; a second one, and SIGTERM, without.
"""
_CAPACITY = """Find out how many calls this machine carries on one core, and what gives way first.

Example: gateway capacity --config gateway.toml --html capacity.html --write

Doubles the calls until an objective is broken (packets 40 ms late in one of 100, a gap, an echo 60 ms later than the
carrier's packets make it, a webhook of 1 s, a loop 40 ms late, a call that fails), then halves the difference. 0.8 of
what was carried is proposed as max_calls. The gateway that it starts is yours with another database, without caps, and
without hanging up by REST.

Exit code 1: the search ended before something broke, or not even the first calls were carried.
"""
_SCHEMA = """Print the JSON Schema of gateway.toml, for editors.

Example: gateway schema > gateway.schema.json
"""


def _add(commands: Any, name: str, text: str, options: Sequence[Option], module: str, **defaults: Any) -> None:
    lines = [line.strip() for line in text.strip().splitlines()]
    parser = commands.add_parser(
        name, help=lines[0], description="\n".join(lines), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flags, keywords in options:
        parser.add_argument(*flags, **keywords)
    parser.set_defaults(command=_later(module), **defaults)


def _later(module: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        return int(importlib.import_module(module).run(args))

    return run
