"""`gateway calls`, `dial` and `drain`: the control API from the command line."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from rich.table import Table
from rich.text import Text

from gateway.commands.console import Console
from gateway.public_url import is_loopback_url
from media.errors import ConfigError, GatewayError

OK, FAILED, USAGE = 0, 1, 2
TOKEN, URL = "GATEWAY_API_TOKEN", "GATEWAY_URL"
POLL_S = 0.5
WIDE = 200
LOOK_BACK = 500  # records among which a call is looked for by the beginning of its id

Json = dict[str, Any]


class Refusal(GatewayError):
    """The gateway did not do it. `status` is HTTP's, 0 if it could not be asked."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


class Api:
    """The control API of one gateway. Raises Refusal."""

    def __init__(self, url: str, token: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("--url", f"{url!r} is no http:// or https:// URL", "the gateway's own, without /api")
        local = is_loopback_url(url)
        if token and parts.scheme == "http" and not local:
            raise ConfigError("--url", "is http://: the token would be readable on the way", "use https://")
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._http = httpx.Client(
            base_url=url.rstrip("/") + "/api",
            headers={"authorization": f"Bearer {token}"} if token else {},
            timeout=30,
            trust_env=not local,
        )

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ask(self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: Any = None) -> Json:
        given = {name: value for name, value in (query or {}).items() if value not in (None, "", ())}
        try:
            reply = self._http.request(method, path, params=given, json=body)
        except httpx.HTTPError as exc:
            raise Refusal(
                0, f"no answer from {self._origin}: {exc or type(exc).__name__}; is the gateway running there?"
            ) from None
        except KeyboardInterrupt:
            if method != "GET":
                print("it is not known whether the gateway has taken it", file=sys.stderr)
            raise
        try:
            answer = reply.json()
            detail = answer.get("detail")
        except (ValueError, AttributeError):
            raise Refusal(reply.status_code, f"{self._origin} is no gateway: HTTP {reply.status_code}") from None
        if not reply.is_success:
            raise Refusal(reply.status_code, str(detail or f"HTTP {reply.status_code}"))
        return answer  # type: ignore[no-any-return]

    def path(self, call: str) -> str:
        """Of the call that somebody named: "carrier/id", or as much of its id as tells it from others."""
        carrier, slash, call_id = call.partition("/")
        if not slash:
            carrier, call_id = self._found(call)
        return f"/calls/{quote(carrier, safe='')}/{quote(call_id, safe=':')}"

    def _found(self, start: str) -> tuple[str, str]:
        pages: Sequence[Callable[[], Json]] = (
            lambda: self.ask("GET", "/calls/live"),
            lambda: self.ask("GET", "/calls", query={"limit": LOOK_BACK}),
        )
        for page in pages:
            found = {(one["carrier"], one["call_id"]) for one in page()["calls"] if one["call_id"].startswith(start)}
            if len(found) > 1:
                raise Refusal(409, f"{len(found)} calls begin with {start!r}: write more of the id")
            if found:
                return found.pop()
        raise Refusal(404, f"no call begins with {start!r}: write carrier/id for an older one")


# ---------------------------------------------------------------- commands


def run(args: argparse.Namespace) -> int:
    """Whatever of `calls`, `dial` and `drain` was asked for. Gives the exit code."""
    console = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, soft_wrap=False)
    try:
        with Api(address(args), args.token or os.environ.get(TOKEN, "")) as api:
            return _VERBS[args.verb](api, args, console)
    except Refusal as exc:
        if args.json:
            print(json.dumps({"error": str(exc), "status": exc.status}))
        print(f"error: {exc}", file=sys.stderr)
        if exc.status == 401:
            print(f"hint: give --token, or set {TOKEN}, to a token of [api.tokens.<name>]", file=sys.stderr)
        return USAGE if exc.status in (401, 403) else FAILED


def address(args: argparse.Namespace) -> str:
    """Which gateway: --url, $GATEWAY_URL, or the one that the configuration describes, on this machine."""
    if given := args.url or os.environ.get(URL, ""):
        return str(given)
    host, port = "127.0.0.1", 8080
    try:
        table = tomllib.loads(Path(args.config).read_text(encoding="utf-8-sig")).get("gateway", {})
        port = int(table.get("port") or port)
        host = str(table.get("host") or host)
    except (OSError, ValueError, AttributeError):
        pass  # `gateway check` says what is wrong with it
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def list_calls(api: Api, args: argparse.Namespace, console: Console) -> int:
    if args.live:
        page = {"calls": api.ask("GET", "/calls/live")["calls"], "next": ""}
    else:
        query = {name: getattr(args, name) for name in ("carrier", "bot", "number", "standing", "limit", "after")}
        query |= {"since": moment(args.since, "--since"), "until": moment(args.until, "--until")}
        page = api.ask("GET", "/calls", query=query)
    if args.json:
        print(json.dumps(page))
        return OK
    # Wider than a terminal: it wraps a line as a whole, and what is copied from it is a call's whole name.
    console.width = max(console.width, WIDE)
    columns = _LIVE if args.live else _RECORDS
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", justify="right" if name in ("lasted", "up") else "left")
    for call in page["calls"]:
        table.add_row(*(Text(str(show(call))) for show in columns.values()))
    console.print(table if page["calls"] else "no calls")
    if page["next"]:
        print(f"there is more: --after {page['next']}", file=sys.stderr)
    return OK


def show(api: Api, args: argparse.Namespace, console: Console) -> int:
    record = api.ask("GET", api.path(args.call))
    _print_record(record, args, console)
    return OK


def end(api: Api, args: argparse.Namespace, console: Console) -> int:
    return _taken(api.ask("POST", api.path(args.call) + "/end", body={"reason": args.reason}), args, "is being ended")


def transfer(api: Api, args: argparse.Namespace, console: Console) -> int:
    taken = api.ask("POST", api.path(args.call) + "/transfer", body={"target": args.target})
    return _taken(taken, args, f"is being handed over to {args.target}")


def digits(api: Api, args: argparse.Namespace, console: Console) -> int:
    taken = api.ask("POST", api.path(args.call) + "/digits", body={"digits": args.digits})
    return _taken(taken, args, "gets the digits")


def dial(api: Api, args: argparse.Namespace, console: Console) -> int:
    order = {
        "carrier": args.carrier,
        "to_number": args.to,
        "from_number": args.from_number,
        "bot": args.bot,
        "ring_s": args.ring_s,
        "longest_s": args.longest_s,
        "detect_machine": args.detect_machine,
        "parameters": parameters(args.param),
    }
    taken = api.ask("POST", "/calls", body=order)
    if not args.wait:
        return _taken(taken, args, "is being placed")
    path = api.path(_name(taken))
    with _leaving(lambda: f"{_name(taken)} goes on: `gateway calls end {_name(taken)}` ends it"):
        while True:
            record = api.ask("GET", path)
            if record["ended"] is not None and record["hang_up"] != "pending":
                break
            time.sleep(POLL_S)
    _print_record(record, args, console)
    return OK if record["answered"] is not None else FAILED


def drain(api: Api, args: argparse.Namespace, console: Console) -> int:
    live = api.ask("POST", "/drain")["live"]

    def standing() -> str:
        return f"new calls are refused; {live} {'call is' if live == 1 else 'calls are'} still up"

    with _leaving(standing):
        while args.wait and live:
            time.sleep(POLL_S)
            live = len(api.ask("GET", "/calls/live")["calls"])
    print(json.dumps({"live": live}) if args.json else standing())
    return OK


@contextlib.contextmanager
def _leaving(standing: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C ends the waiting, not what is waited for: that is said."""
    try:
        yield
    except KeyboardInterrupt:
        print(standing(), file=sys.stderr)
        raise


_VERBS: Mapping[str, Callable[[Api, argparse.Namespace, Console], int]] = {
    "list": list_calls,
    "show": show,
    "end": end,
    "transfer": transfer,
    "digits": digits,
    "dial": dial,
    "drain": drain,
}

# ---------------------------------------------------------------- what people write


def moment(text: str | None, option: str) -> float | None:
    """Unix seconds of "90m", "2h", "3d" ago, of a date, of a date and a time, or of Unix seconds themselves."""
    if not text:
        return None
    if ago := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        return time.time() - float(ago[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[ago[2]]
    try:
        return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ConfigError(option, f"{text!r} is no time", "write 2h, 2026-01-31, or 2026-01-31T09:30") from None


def parameters(pairs: Sequence[str]) -> dict[str, str]:
    """--param NAME=VALUE, each."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError("--param", f"{pair!r} is not NAME=VALUE", "write --param tier=gold")
        found[name] = value
    return found


# ---------------------------------------------------------------- what people see


def _taken(taken: Json, args: argparse.Namespace, what: str) -> int:
    print(json.dumps(taken) if args.json else f"{_name(taken)} {what}")
    return OK


def _name(call: Json) -> str:
    return f"{call['carrier']}/{call['call_id']}"


def _when(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def _long(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _ended(call: Json) -> str:
    who, why = call["ended_by"], call["reason"]
    return f"{who}: {why}" if who and why else who or why


_LIVE: Mapping[str, Callable[[Json], str]] = {
    "call": _name,
    "state": lambda call: call["state"],
    "up": lambda call: _long(call["duration_s"]),
    "direction": lambda call: call["direction"],
    "from": lambda call: call["from_number"],
    "to": lambda call: call["to_number"],
    "bot": lambda call: call["bot"],
}
_RECORDS: Mapping[str, Callable[[Json], str]] = {
    "began": lambda call: _when(call["created"]),
    "call": _name,
    "is": lambda call: call["standing"],
    "from": lambda call: call["from_number"],
    "to": lambda call: call["to_number"],
    "bot": lambda call: call["bot"],
    "lasted": lambda call: _long(call["duration_s"]),
    "ended by": _ended,
    "hang-up": lambda call: call["hang_up"],
}
_TIMES = frozenset({"created", "answered", "ended"})


def _print_record(record: Json, args: argparse.Namespace, console: Console) -> None:
    if args.json:
        print(json.dumps(record))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _lines(record):
        table.add_row(Text(name), Text(value))
    console.print(table)


def _lines(record: Json) -> Iterator[tuple[str, str]]:
    for name, value in record.items():
        words = name.replace("_", " ")
        if isinstance(value, dict):
            yield from ((f"{words}: {key}", json.dumps(inner)) for key, inner in sorted(value.items()))
        elif name == "transcript":
            for line in value:
                yield words, f"{line['t']:7.1f} s  {line['who']:6}  {line['text']}"
                words = ""
        elif name in _TIMES:
            yield words, _when(value) or "-"
        elif value not in (None, "", False):
            yield words, str(value)
