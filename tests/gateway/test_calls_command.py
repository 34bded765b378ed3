"""`gateway calls`, `dial` and `drain` as an operator types them, against a real gateway."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.commands.calls import Api, Refusal, _lines, address, moment
from gateway.simulator.script import HangUp, Script, at
from media.errors import ConfigError
from tests.endtoend.actors import saying
from tests.endtoend.served import run, until
from tests.gateway.rig import Running, running
from tests.ports import free_port
from webhooks.base import InboundCall

WAITS = Script().then(at(90.0), HangUp())
TOKEN = "a token of more than sixteen bytes"
TABLES = """
[api.tokens.all]
secret = { env = "TEST_API_TOKEN" }
scopes = ["read", "control", "dial", "admin"]
[api.tokens.looks]
secret = { env = "TEST_API_LOOKS" }
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_API_TOKEN", TOKEN)
    monkeypatch.setenv("TEST_API_LOOKS", "another token that only looks")
    for name in ("GATEWAY_API_TOKEN", "GATEWAY_URL"):
        monkeypatch.delenv(name, raising=False)


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def gateway(it: Running, *words: str, token: str | None = TOKEN, **environment: str) -> Said:
    """The command, in a process of its own and with a terminal of no colours."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", *words, "--url", it.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **({} if token is None else {"GATEWAY_API_TOKEN": token}), **environment},
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


async def on_a_terminal(it: Running, *words: str) -> str:
    """What the command writes to one of 80 columns."""
    terminal, side = os.openpty()
    try:
        termios.tcsetwinsize(side, (24, 80))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.cli", *words, "--url", it.url),
            stdout=side,
            env={**os.environ, "GATEWAY_API_TOKEN": TOKEN, "TERM": "xterm"},
        )
        assert await asyncio.wait_for(process.wait(), 180) == 0
        return os.read(terminal, 65_536).decode()
    finally:
        os.close(terminal)
        os.close(side)


async def live(it: Running) -> str:
    """The key of the one call that is up."""
    await until(lambda: any(session.core.state.value == "live" for session in it.gateway.calls))
    (session,) = it.gateway.calls
    return str(session.key)


def test_a_call_is_listed_shown_and_ended(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, more=TABLES) as it:
            caller = asyncio.create_task(it.call("twilio", WAITS))
            key = await live(it)
            listed = await gateway(it, "calls", "list", "--live", NO_COLOR="1")
            assert listed.code == 0
            assert all(word in listed.out for word in (key, "live", "+14155550100", "echo"))
            assert "\x1b" not in listed.out
            assert key in await on_a_terminal(it, "calls", "list", "--live")  # in one piece, to be copied
            (one,) = (await gateway(it, "calls", "list", "--live", "--json")).json["calls"]
            assert f"{one['carrier']}/{one['call_id']}" == key
            shown = await gateway(it, "calls", "show", key.partition("/")[2][:8])
            assert "standing" in shown.out
            assert "live" in shown.out
            ended = await gateway(it, "calls", "end", key, "--reason", "enough")
            assert (ended.code, ended.out) == (0, f"{key} is being ended\n")
            assert (await caller).ended_by == "bot"
            for _ in range(100):
                record = (await gateway(it, "calls", "show", key, "--json")).json
                if record["hang_up"] == "done":
                    break
            assert (record["standing"], record["reason"]) == ("ended", "enough")
            for _ in range(20):  # a store that is busy says so
                listed = await gateway(it, "calls", "list", "--since", "1h", "--standing", "ended")
                if listed.code == 0:
                    break
            assert all(word in listed.out for word in (key, "bot: enough", "done"))
            again = await gateway(it, "calls", "end", key)
            assert again.code == 1
            assert "no live call" in again.err

    run(main(), limit_s=600)


def test_a_call_is_handed_over_after_some_digits(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, more=TABLES) as it:
            caller = asyncio.create_task(it.call("twilio", WAITS))
            key = await live(it)
            pressed = await gateway(it, "calls", "digits", key, "42#", "--json")
            assert pressed.json == dict(zip(("carrier", "call_id"), key.split("/"), strict=True))
            wrong = await gateway(it, "calls", "digits", key, "4x", "--json")
            assert (wrong.code, wrong.json["status"]) == (1, 422)
            assert (await gateway(it, "calls", "transfer", key, "+15550199")).code == 0
            assert (await caller).handed_to == ["+15550199"]

    run(main(), limit_s=600)


def test_a_call_is_placed_and_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        from media.frames import EndFrame

        bots = {"hello": saying(0.3, then=lambda: EndFrame("completed"))}
        async with running(tmp_path, more=TABLES, bots=bots) as it:
            order = ("dial", "--carrier", "twilio", "--from", "+14155550100", "--to", "+14155550177")
            placing = asyncio.create_task(gateway(it, *order, "--param", "order=4711", "--wait", "--json"))
            await until(lambda: it.web("twilio").placed, 300)
            await it.pick_up("twilio", WAITS)
            said = await placing
            assert said.code == 0, said.err
            assert (said.json["direction"], said.json["standing"], said.json["bot"]) == ("outbound", "ended", "hello")
            placing = asyncio.create_task(gateway(it, *order, "--wait"))
            await until(lambda: it.web("twilio").placed, 300)
            await it.pick_up("twilio", WAITS, who="busy")
            said = await placing
            assert said.code == 1
            assert "busy" in said.out
            nobody = await gateway(it, "dial", "--carrier", "acme", "--from", "+1", "--to", "+2")
            assert (nobody.code, nobody.err) == (1, "error: the carrier acme is not on (those that are: twilio)\n")

    run(main(), limit_s=600)


def test_draining(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, gateway="drain_s = 1.0", more=TABLES) as it:
            caller = asyncio.create_task(it.call("twilio", WAITS))
            await live(it)
            said = await gateway(it, "drain", "--wait", "--json")
            assert (said.code, said.json) == (0, {"live": 0})
            await caller
            assert it.gateway.calls.draining

    run(main(), limit_s=600)


def test_who_may_not_is_told_what_to_do(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, more=TABLES) as it:
            nobody = await gateway(it, "calls", "list", token=None)
            assert nobody.code == 2
            assert "GATEWAY_API_TOKEN" in nobody.err
            looks = await gateway(it, "drain", token="another token that only looks")
            assert looks.code == 2
            assert "'admin'" in looks.err
            assert not it.gateway.calls.draining
            assert (await gateway(it, "calls", "list", token=None)).out == ""
            good = await gateway(it, "calls", "list", "--token", TOKEN, token="wrong")
            assert (good.code, good.out) == (0, "no calls\n")

    run(main(), limit_s=600)


def test_pages_and_beginnings_of_ids(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, more=TABLES) as it:
            now = time.time()
            for number in range(5):
                call = InboundCall(carrier="twilio", call_id=f"CA{number}{number}", to_number="+1")
                await it.gateway.store.refused(call, "full", now + number)
            first = await gateway(it, "calls", "list", "--limit", "3", "--json")
            assert [call["call_id"] for call in first.json["calls"]] == ["CA44", "CA33", "CA22"]
            second = await gateway(it, "calls", "list", "--limit", "3", "--after", first.json["next"])
            assert "CA11" in second.out
            assert "CA22" not in second.out
            assert "there is more: --after" in (await gateway(it, "calls", "list", "--limit", "3")).err
            assert (await gateway(it, "calls", "show", "CA3", "--json")).json["call_id"] == "CA33"
            many = await gateway(it, "calls", "show", "CA")
            assert (many.code, many.err) == (1, "error: 5 calls begin with 'CA': write more of the id\n")
            none = await gateway(it, "calls", "show", "CB")
            assert none.code == 1

    run(main(), limit_s=600)


def test_a_simulated_call_is_signed_over_the_public_url(tmp_path: Path) -> None:
    async def main() -> None:
        port = free_port()
        own = f'port = {port}\npublic_url = "https://gw.example.com/voice"'
        async with running(tmp_path, carriers=("twilio", "plivo"), gateway=own, port=port):
            for carrier in ("twilio", "plivo"):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "gateway.cli", "call", "--config", str(tmp_path / "gateway.toml")),
                    *("--carrier", carrier, "--to", "+15550100", "--hang-up-at", "1", "--json"),
                    stdout=asyncio.subprocess.PIPE,
                )
                out, _ = await asyncio.wait_for(process.communicate(), 120)
                assert process.returncode == 0, out
                assert json.loads(out)["ended_by"] == "caller"

    run(main(), limit_s=600)


def test_no_gateway_there() -> None:
    with pytest.raises(Refusal, match=r"no answer from http://127\.0\.0\.1:9"), Api("http://127.0.0.1:9") as api:
        api.ask("GET", "/calls")


@pytest.mark.parametrize("url", ["ftp://gw.example.com", "gw.example.com", "http://"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError):
        Api(url)


def test_a_token_does_not_travel_in_the_clear() -> None:
    with pytest.raises(ConfigError, match="https"):
        Api("http://gw.example.com", "token")
    Api("http://127.0.0.1:8080", "token")
    Api("https://gw.example.com", "token")


@pytest.mark.parametrize(
    ("config", "url"),
    [
        ("", "http://127.0.0.1:8080"),
        ("[gateway]\nport = 9000", "http://127.0.0.1:9000"),
        ('[gateway]\nhost = "0.0.0.0"', "http://127.0.0.1:8080"),
        ('[gateway]\nhost = "::1"', "http://[::1]:8080"),
        ('[gateway]\nhost = "::"', "http://127.0.0.1:8080"),
        ('[gateway]\nhost = "10.0.0.5"\nport = 80', "http://10.0.0.5:80"),
        ("not toml [", "http://127.0.0.1:8080"),
        ("gateway = 1", "http://127.0.0.1:8080"),
    ],
)
def test_where_the_gateway_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, url: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(config)
    assert address(Namespace(url=None, config=path)) == url
    monkeypatch.setenv("GATEWAY_URL", "https://gw.example.com")
    assert address(Namespace(url=None, config=path)) == "https://gw.example.com"
    assert address(Namespace(url="https://other.example.com", config=path)) == "https://other.example.com"


def test_times() -> None:
    now = time.time()
    assert moment("2h", "--since") == pytest.approx(now - 7200, abs=5)
    assert moment("1.5d", "--since") == pytest.approx(now - 129_600, abs=5)
    assert moment("2026-01-31T09:30+00:00", "--since") == 1769851800.0
    assert moment("1769851800", "--since") == 1769851800.0
    assert moment(None, "--since") is None
    with pytest.raises(ConfigError, match="is no time"):
        moment("yesterday", "--since")


def test_a_record_on_the_screen_has_the_transcript_line_by_line() -> None:
    said = [{"t": 0.06, "who": "bot", "text": "Welcome."}, {"t": 12.5, "who": "caller", "text": "hello"}]
    assert list(_lines({"reason": "caller", "transcript": said})) == [
        ("reason", "caller"),
        ("transcript", "    0.1 s  bot     Welcome."),
        ("", "   12.5 s  caller  hello"),
    ]
    assert list(_lines({"transcript": []})) == []


# ---------------------------------------------------------------- Ctrl-C

START = "import signal, sys; signal.signal(2, signal.default_int_handler); from gateway.cli import main; "
DIAL = ("dial", "--carrier", "twilio", "--from", "+14155550100", "--to", "+14155550177")
PLACED = {"carrier": "twilio", "call_id": "CA1"}


@pytest.mark.parametrize(
    ("words", "answers", "said"),
    [
        (
            (*DIAL, "--wait", "--json"),
            {"/api/calls": PLACED, "/api/calls/twilio/CA1": {**PLACED, "ended": None, "hang_up": "none"}},
            "twilio/CA1 goes on: `gateway calls end twilio/CA1` ends it",
        ),
        (
            ("drain", "--wait"),
            {"/api/drain": {"live": 2}, "/api/calls/live": {"calls": [PLACED]}},
            "new calls are refused; 1 call is still up",
        ),
        (DIAL, {}, "it is not known whether the gateway has taken it"),
        (("calls", "list"), {}, ""),
    ],
    ids=["a call is waited for", "calls are waited for", "an order is not answered", "a question is not answered"],
)
def test_who_stops_waiting_hears_what_is_known(words: Sequence[str], answers: Mapping[str, Any], said: str) -> None:
    asked: list[str] = []
    over = threading.Event()

    class Answers(BaseHTTPRequestHandler):
        def answer(self) -> None:
            path = self.path.partition("?")[0]
            asked.append(path)
            if path not in answers:
                over.wait(120)
                return
            body = json.dumps(answers[path]).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # A worker of a test run ignores SIGINT, and so would its children.
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                START + "sys.exit(main())",
                *words,
                "--url",
                f"http://127.0.0.1:{server.server_port}",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        limit = time.monotonic() + 180
        while len(asked) < (3 if answers else 1) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
            over.set()
            server.shutdown()
    assert (process.returncode, out, err.strip()) == (130, "", said)
