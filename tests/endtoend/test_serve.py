"""The process: who is let in, and how it ends. `gateway serve` runs as a process of its own here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.app import prepare
from gateway.settings import BotEntry, PipelineRate, Settings
from gateway.simulator.base import CallPlan, fake_carrier
from gateway.simulator.caller import place_call
from gateway.simulator.report import CallReport
from gateway.simulator.script import HangUp, Script, at
from gateway.states import CallState
from gateway.tokens import TokenMint
from media.frames import EndFrame
from media.resample import make_resampler, taps_for
from media.wav import write_wav
from tests.endtoend import actors
from tests.endtoend.served import CARRIERS, QUICK, run, serve, socket_only, until

SECRET = "a secret of the tests, long enough"
NUMBER = "+14155550199"
WITH_TOKENS = [name for name in CARRIERS if name != "genesys"]  # which signs its upgrade instead

# ---------------------------------------------------------------- who is let in


async def status_of(url: str) -> int:
    """What the upgrade is answered with."""
    try:
        async with connect(url, proxy=None) as ws:
            await ws.close()
            return 101
    except InvalidStatus as exc:
        return exc.response.status_code


def test_sockets_that_stay_out() -> None:
    async def main() -> dict[str, int]:
        async with serve({"bot": actors.echo}, max_calls=1) as served:
            url, fake = served.url, fake_carrier("twilio")()
            found = {
                "no token": await status_of(f"{url}/twilio/media/"),
                "forged": await status_of(f"{url}/twilio/media/{'A' * 80}"),
                "too long": await status_of(f"{url}/twilio/media/{'A' * 2000}"),
                "another carrier's": await status_of(f"{url}/telnyx/media/{served.token(fake)}"),
                "unknown carrier": await status_of(f"{url}/acme/media/{served.token(fake)}"),
                "unknown path": await status_of(f"{url}/nothing"),
            }
            token = served.token(fake)
            found["fine"] = await status_of(f"{url}/twilio/media/{token}")
            found["used"] = await status_of(f"{url}/twilio/media/{token}")
            await served.empty()
            live = asyncio.create_task(served.call("twilio", Script()))  # until it is ended
            await until(lambda: any(session.core.state.value == "live" for session in served.gateway.calls))
            found["full"] = await status_of(f"{url}/plivo/media/{served.token(fake_carrier('plivo')())}")
            async with httpx.AsyncClient(trust_env=False) as http:
                base = url.replace("ws", "http", 1)
                found["plain GET"] = (await http.get(f"{base}/twilio/media/{token}")).status_code
                found["ready"] = (await http.get(f"{base}/ready")).status_code
                found["health"] = (await http.get(f"{base}/health")).status_code
                metrics = (await http.get(f"{base}/metrics")).text
            (session,) = served.gateway.calls
            session.core.end("test")
            assert (await live).ok
            assert 'reason="full"} 1.0' in metrics
            assert "gateway_calls_live 1.0" in metrics
            served.gateway.calls.draining = True
            found["draining"] = await status_of(f"{url}/twilio/media/{served.token(fake)}")
            assert len(served.records) == 2  # no record of a socket that was refused
            return found

    assert run(main()) == {
        "no token": 403,
        "forged": 403,
        "too long": 403,
        "another carrier's": 403,
        "unknown carrier": 404,
        "unknown path": 403,
        "fine": 101,
        "used": 403,
        "full": 503,
        "plain GET": 426,
        "ready": 503,
        "health": 200,
        "draining": 503,
    }


def test_carriers_that_retry_a_handshake_may_show_their_token_again() -> None:
    async def main() -> dict[str, int]:
        async with serve({"bot": actors.echo}) as served:
            again = {}
            for name in WITH_TOKENS:
                url = f"{served.url}/{name}/media/{served.token(fake_carrier(name)())}"
                assert await status_of(url) == 101
                again[name] = await status_of(url)
            return again

    assert run(main()) == {name: 101 if name in ("plivo", "exotel") else 403 for name in WITH_TOKENS}


@pytest.mark.parametrize(
    "said", [b"", b"GET /twilio/media/x HTTP/1.1\r\nHost: a\r\n"], ids=["nothing", "half a request"]
)
def test_a_connection_that_does_not_ask_is_closed(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.server.REQUEST_S", 0.3)

    async def main() -> None:
        async with serve({"bot": actors.echo}) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
            writer.write(said)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 60) == b""
            writer.close()
            # One that has asked is not hurried: nor is a call.
            assert (await served.call("twilio", Script().then(at(0.6), HangUp()))).ok

    run(main())


def test_a_slow_second_request_on_one_connection_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.server.REQUEST_S", 0.3)

    async def main() -> None:
        async with serve({"bot": actors.echo}) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.5)  # it may rest between two requests
            writer.write(b"GET /hea")
            with contextlib.suppress(ConnectionError):
                assert b"HTTP/1.1" not in await asyncio.wait_for(reader.read(), 60)
            writer.close()

    run(main())


# ---------------------------------------------------------------- how it ends, inside one process


def test_a_server_that_drains_lets_calls_go_on() -> None:
    async def main() -> None:
        said = asyncio.Event()

        def talks(processor: actors.Act) -> None:
            async def task() -> None:
                await said.wait()
                processor.push_frame(EndFrame("completed"))

            processor.create_task(task(), "talks")

        async with serve({"bot": actors.acting(talks)}, drain_s=120.0) as served:
            calls = asyncio.create_task(served.all_carriers(Script()))
            await until(lambda: sum(s.core.bot == "bot" for s in served.gateway.calls) == len(CARRIERS))
            drained = asyncio.create_task(served.gateway.drain())
            await asyncio.sleep(0.2)
            assert served.gateway.calls.draining
            assert {session.core.state for session in served.gateway.calls} == {CallState.LIVE}
            said.set()
            await drained
            await calls
            ends = {(record.state, record.ended_by, record.reason) for record in served.records}
            assert ends == {("closed", "bot", "completed")}

    run(main())


def test_when_a_drain_is_over_the_last_words_are_heard() -> None:
    async def main() -> dict[str, CallReport]:
        async with serve({"bot": actors.saying(1.2)}, drain_s=0.1) as served:
            calls = asyncio.create_task(served.all_carriers(Script()))
            await until(lambda: sum(s.core.bot == "bot" for s in served.gateway.calls) == len(CARRIERS))
            await served.gateway.drain()
            reports = await calls
            assert all((r.state, r.ended_by, r.reason) == ("closed", "gateway", "shutdown") for r in served.records)
            assert len(served.records) == len(CARRIERS)
            return reports

    for report in run(main()).values():
        assert not report.violations
        assert report.heard_s == pytest.approx(1.2, abs=0.15)


def test_what_does_not_end_in_time_is_cut() -> None:
    async def main() -> None:
        async with serve({"bot": actors.saying(60.0)}, drain_s=0.1, last_words_s=0.2) as served:
            fakes = [name for name in CARRIERS if name != "genesys"]  # which closes its sockets by itself
            calls = asyncio.gather(*(served.call(name, Script()) for name in fakes))
            await until(lambda: sum(s.core.bot == "bot" for s in served.gateway.calls) == len(fakes))
            began = time.monotonic()
            await served.gateway.drain()
            await calls
            assert time.monotonic() - began < 20.0  # of 60 s of speech
            assert {(r.state, r.reason) for r in served.records} == {("closed", "shutdown")}

    run(main())


# ---------------------------------------------------------------- how it ends, as a process


class Process:
    """`gateway serve` with a bot that speaks for a while."""

    def __init__(
        self,
        folder: Path,
        *,
        speaks_s: float,
        drain_s: float = 20.0,
        last_words_s: float = 30.0,
        bot: str = "speaker",
        port: int = 0,
    ) -> None:
        write_wav(folder / "words.wav", actors.tone(speaks_s), 8000)
        config = folder / "gateway.toml"
        tables = "\n".join(f"[carriers.{name}]\nverify_signatures = false" for name in CARRIERS)
        config.write_text(
            f'[gateway]\nsecret = {{ env = "GATEWAY_SECRET" }}\nlog_format = "json"\n'
            f"port = {port}\ndrain_s = {drain_s}\nlast_words_s = {last_words_s}\nmax_lateness_ms = 0\n"
            f'{tables}\n[bots.speaker]\nuse = "announce"\nplay = ["words.wav"]\n'
            f'[bots.echo]\nuse = "echo"\n[numbers.default]\nbot = "{bot}"\n'
        )
        self.log_path = folder / "log"
        self._log = self.log_path.open("wb")
        environment = {**os.environ, "GATEWAY_SECRET": SECRET, "PYTHONUNBUFFERED": "1"}
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", "serve", "--config", str(config)],
            cwd=root,
            env=environment,
            stderr=self._log,
            stdout=self._log,
        )
        self.port = 0

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8")

    def lines(self, event: str) -> list[dict[str, object]]:
        found = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in found if line.get("event") == event]

    async def ready(self) -> None:
        await until(lambda: self.lines("gateway.listening") or self.process.poll() is not None, 180)
        self.port = int(str(self.lines("gateway.listening")[0]["port"]))

    async def call(self, name: str) -> CallReport:
        fake = fake_carrier(name)(CallPlan(to_number=NUMBER))
        token = TokenMint(SECRET).mint(name, to_number=NUMBER, from_number="+14155550123", call_id=fake.call_id)
        return await place_call(fake, f"ws://127.0.0.1:{self.port}", Script(), token=token, limits=QUICK)

    async def exit_code(self, limit_s: float) -> int:
        await until(lambda: self.process.poll() is not None, limit_s)
        return int(self.process.returncode)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self._log.close()


@contextlib.asynccontextmanager
async def process(folder: Path, **keys: Any) -> AsyncIterator[Process]:
    served = Process(folder, **keys)
    try:
        await served.ready()
        yield served
    finally:
        served.close()


async def up(served: Process, calls: int) -> None:
    await until(lambda: len(served.lines("call.started")) == calls)
    await asyncio.sleep(0.3)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_live_calls_finish(tmp_path: Path, sign: signal.Signals) -> None:
    async def main() -> None:
        async with process(tmp_path, speaks_s=2.0, drain_s=120.0) as served:
            calls = asyncio.gather(*(served.call(name) for name in CARRIERS))
            await up(served, len(CARRIERS))
            served.process.send_signal(sign)
            for report in await calls:
                assert not report.violations
                assert report.heard_s == pytest.approx(2.0, abs=0.15)
            assert await served.exit_code(60) == 0
            ended = served.lines("call.ended")
            assert len(ended) == len(CARRIERS)
            assert {line["reason"] for line in ended} == {"completed"}
            assert "Traceback" not in served.log
            # Neither the token, nor the secret, nor a whole number.
            assert SECRET not in served.log
            assert NUMBER[1:] not in served.log
            assert not re.search(r"/media/", served.log)

    run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with process(tmp_path, speaks_s=0.1, drain_s=300.0, bot="echo") as served:
            calls = asyncio.gather(*(served.call(name) for name in CARRIERS))
            await up(served, len(CARRIERS))
            served.process.send_signal(signal.SIGTERM)
            await until(lambda: served.lines("gateway.draining"))
            assert served.process.poll() is None
            served.process.send_signal(signal.SIGTERM)
            assert await served.exit_code(60) == 0
            await calls
            ended = served.lines("call.ended")
            assert [(line["ended_by"], line["reason"]) for line in ended] == [("gateway", "shutdown")] * len(CARRIERS)
            assert "Traceback" not in served.log

    run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_calls_that_do_not_finish_in_time_are_cut_and_the_process_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with process(tmp_path, speaks_s=60.0, drain_s=0.5, last_words_s=0.5) as served:
            calls = asyncio.gather(*(served.call(name) for name in CARRIERS))
            await up(served, len(CARRIERS))
            began = time.monotonic()
            served.process.send_signal(signal.SIGTERM)
            assert await served.exit_code(60) == 0
            assert time.monotonic() - began < 30.0  # of 60 s of speech
            await calls
            assert len(served.lines("call.ended")) == len(CARRIERS)
            assert "Traceback" not in served.log

    run(main())


def test_a_port_that_is_taken_is_said_without_a_traceback(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        served = Process(tmp_path, speaks_s=0.1, port=taken.getsockname()[1])
        try:
            assert served.process.wait(180) == 1
            assert "address already in use" in served.log
            assert "--port" in served.log
            assert "Traceback" not in served.log
        finally:
            served.close()


def test_a_database_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_STATE", str(tmp_path / "nowhere"))
    served = Process(tmp_path, speaks_s=0.1)
    try:
        assert served.process.wait(180) == 1
        (line,) = served.lines("gateway.cannot_start")
        assert line["problem"] == f"{tmp_path / 'nowhere' / 'gateway.db'}: No such file or directory"
        assert not served.lines("gateway.cannot_listen")
        assert "Traceback" not in served.log
    finally:
        served.close()


# ---------------------------------------------------------------- what is made ahead


RATES: tuple[PipelineRate, ...] = (16000, 24000, 48000)


def test_no_call_waits_for_the_design_of_a_filter() -> None:
    settings = Settings(
        carriers={name: socket_only(name) for name in ("twilio", "exotel")},
        bots={str(rate): BotEntry(name=str(rate), use="echo", sample_rate=rate) for rate in RATES},
    )
    run(prepare(settings))
    designed = taps_for.cache_info().misses
    for inside in RATES:
        for wire in {8000, 16000, 24000} - {inside}:
            make_resampler(inside, wire)
            make_resampler(wire, inside)
    assert taps_for.cache_info().misses == designed
