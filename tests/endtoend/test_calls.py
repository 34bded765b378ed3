"""Whole calls over real sockets, through each of the six carriers; after each of them nothing is left."""

from __future__ import annotations

import asyncio
import socket
import statistics
from collections.abc import Mapping
from typing import Any

import pytest
from websockets.asyncio.client import connect

from bots.base import Build
from gateway.records import CallRecord
from gateway.registry import serializer_class
from gateway.simulator.base import FakeCarrier, fake_carrier
from gateway.simulator.hearing import echoes
from gateway.simulator.report import CallReport
from gateway.simulator.script import HangUp, Press, Say, Script, Vanish, after, at, while_bot_speaks
from tests.endtoend import actors
from tests.endtoend.served import CARRIERS, Served, run, serve, until

MENU = {
    "use": "menu",
    "timeout_s": 5.0,
    "menus": {
        "main": {
            "prompt": "a long prompt that nobody hears to its end",
            "choices": {"1": {"say": "one", "back": True}, "9": {"say": "bye", "end": True}},
        }
    },
}

BOTH = pytest.mark.parametrize("websocket", ["lean", "websockets"])  # our own, and the library's

Reports = Mapping[str, CallReport]
Records = Mapping[str, CallRecord]


def place(
    bot: Build, script: Script, *, fakes: Mapping[str, FakeCarrier] | None = None, **options: Any
) -> tuple[Reports, Records]:
    """One call through each carrier at once; what the callers and the gateway made of it."""

    async def main() -> tuple[Reports, Records]:
        async with serve({"bot": bot}, **options) as served:
            callers = fakes or {name: fake_carrier(name)() for name in CARRIERS}
            reports = await asyncio.gather(*(served.call(fake, script) for fake in callers.values()))
            await served.empty()
            assert len(served.records) == len(callers)
            return {r.carrier: r for r in reports}, {name: served.record(name) for name in callers}

    return run(main(), limit_s=300)


def ended(records: Records) -> dict[str, tuple[str, str, str]]:
    return {name: (r.state, r.ended_by, r.reason) for name, r in records.items()}


def everywhere(*what: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(CARRIERS, what)


# ---------------------------------------------------------------- calls as they should be


def test_echo() -> None:
    script = Script().then(at(0.3), Say(actors.voice(2.2))).then(after(1.2), HangUp())
    reports, records = place(actors.echo, script)
    for name, report in reports.items():
        assert report.ok, report.problems
        assert report.ended_by == "caller"
        # A loaded machine must not fail this: gaps in a second of speech make it another, pieces of it are still found,
        # and the figures are made by benchmarks/echo.py.
        found = report.echoes or echoes(report.said, report.heard, report.heard_rate, window_s=0.2)
        assert found, name
        echo_ms = 1000 * statistics.median(echo.latency_s for echo in found)
        assert echo_ms < {"exotel": 600, "genesys": 700}.get(name, 300) + report.stalled_ms
    assert ended(records) == everywhere("closed", "caller", "caller")
    assert all(record.bot == "bot" and record.info.call_id for record in records.values())


def test_a_menu_is_cut_short_by_a_key() -> None:
    script = Script().then(while_bot_speaks(0.4), Press("1")).then(while_bot_speaks(0.8), Press("9"))
    reports, records = place(actors.from_toml(MENU), script)
    for name, report in reports.items():
        assert report.ok, report.problems
        assert report.ended_by == "bot"
        assert report.barge_ins
        assert report.heard_s < 4.0
        for barge_in in report.barge_ins if serializer_class(name).clears else ():
            assert barge_in.cleared, name
            assert barge_in.silence_ms < (700 if name in ("exotel", "genesys") else 300) + report.stalled_ms
    assert ended(records) == everywhere("closed", "bot", "completed")
    assert all(record.counters["digits"] == 2 for record in records.values())


@BOTH
def test_the_bot_hangs_up_when_its_last_word_was_heard(websocket: str) -> None:
    reports, records = place(actors.saying(0.73, then=actors.ending()), Script(), websocket=websocket)
    for name, report in reports.items():
        assert report.ok, report.problems
        assert report.ended_by == "bot"
        # To the last sample, and no more than the packet is filled up to. Where nobody tells what was played, the clock
        # says when that was: what was late on its way to the caller is cut off by as much.
        tells = serializer_class(name).has_marks or serializer_class(name).reports_playback
        least = 0.72 if tells else 0.65 - report.stalled_ms / 1000
        assert least <= report.heard_s <= 0.85, name
    assert ended(records) == everywhere("closed", "bot", "completed")


@BOTH
def test_the_caller_hangs_up_while_the_bot_speaks(websocket: str) -> None:
    script = Script().then(while_bot_speaks(0.4), HangUp())
    reports, records = place(actors.saying(20.0), script, websocket=websocket)
    assert all(report.ok and report.ended_by == "caller" for report in reports.values())
    assert ended(records) == everywhere("closed", "caller", "caller")
    assert all(record.counters["heard_ms"] < 3000 for record in records.values())


# ---------------------------------------------------------------- connections that end badly


def test_the_connection_breaks() -> None:
    _, records = place(actors.saying(20.0), Script().then(while_bot_speaks(0.3), Vanish()))
    # Plivo and Vonage end a call by closing the socket: there a break cannot be told from a hang-up.
    lost = {name: "caller" if serializer_class(name).close_is_normal_end else "socket-lost" for name in CARRIERS}
    assert ended(records) == {name: ("closed", "caller", lost[name]) for name in CARRIERS}


def test_the_carrier_closes_without_a_word() -> None:
    options: dict[str, dict[str, Any]] = {
        "twilio": {"stop": False},
        "telnyx": {"stop": False},
        "plivo": {"breaks": True},
        "exotel": {"stop": False},
        "vonage": {"close_code": 1006},
    }
    fakes = {name: actors.with_options(name, **own) for name, own in options.items()}
    _, records = place(actors.echo, Script().then(at(0.5), HangUp()), fakes=fakes)
    assert {name: (r.state, r.ended_by) for name, r in records.items()} == dict.fromkeys(options, ("closed", "caller"))


def test_the_carrier_never_says_what_call_it_is() -> None:
    fakes = {name: actors.says_nothing(name) for name in CARRIERS}
    reports, records = place(actors.echo, Script(), fakes=fakes, start_timeout_s=0.4)
    assert {report.close_code for report in reports.values()} == {1008}
    assert ended(records) == everywhere("failed", "gateway", "no-start")


def test_the_carrier_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serializer_class("genesys"), "end_wait_s", 0.5)  # for `close`, which never comes
    monkeypatch.setattr(serializer_class("web"), "silence_s", None)  # of one whose microphone is off
    fakes = {name: actors.falls_silent(name) for name in CARRIERS}
    reports, records = place(actors.echo, Script(), fakes=fakes, silence_timeout_s=0.6)
    assert ended(records) == everywhere("closed", "gateway", "carrier-silent")
    assert all(report.close_code == 1000 for report in reports.values())


@BOTH
def test_a_caller_who_does_not_read(websocket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernel buffers, the server's buffer and the outbox fill up, and no further; then the call ends."""
    monkeypatch.setattr("gateway.session.CLOSE_WAIT_S", 0.3)
    monkeypatch.setattr("gateway.lean.socket.LINGER_S", 0.3)

    async def one(served: Served, name: str) -> int:
        fake = fake_carrier(name)()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", served.server.port))
        handshake = fake.handshake(served.token(fake), served.url)
        longest = 0
        async with connect(
            served.url + handshake.path,
            sock=sock,
            additional_headers=dict(handshake.headers),
            compression=None,
            ping_interval=None,
            max_queue=1,
            close_timeout=0.1,
        ) as ws:
            now = asyncio.get_running_loop().time
            for message in fake.opening(now()):
                await ws.send(message)
            if name == "genesys":  # audio flows when the session is open
                fake.receive(await ws.recv(), now())
            packet = bytes(fake.audio_rate * fake.packet_ms // 1000 * 2)
            mine = next(s for s in served.gateway.calls if s.core.info.carrier == name)
            while not mine.core.over:
                for message in fake.audio(packet, now()):
                    await ws.send(message)
                longest = max(longest, len(mine.core.outbox))
                await asyncio.sleep(fake.packet_ms / 1000)
            # The server is rid of the connection, although nobody has read what it had sent.
            await until(lambda: mine not in set(served.gateway.calls), 60)
            await until(lambda: len(served.server.server_state.connections) == 0, 60)
            ws.transport.abort()
        return longest

    async def main() -> None:
        lead = {name: {"lead_ms": 40_000} for name in CARRIERS}
        limits: dict[str, Any] = {"outbox_messages": 50, "blocked_timeout_s": 0.5, "websocket": websocket}
        async with serve({"bot": actors.saying(60.0)}, carriers=lead, **limits) as served:
            for server in served.server.servers:
                for listener in server.sockets:
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            longest = await asyncio.gather(*(one(served, name) for name in CARRIERS))
            assert all(count <= 60 for count in longest), longest
            assert all(served.record(name).reason == "peer-not-reading" for name in CARRIERS)

    run(main())


# ---------------------------------------------------------------- what nobody should send


def test_a_message_that_is_too_large_ends_its_call_and_no_other() -> None:
    fakes: dict[str, FakeCarrier] = {
        name: actors.also_says(name, ["x" * 20_000] if name != "vonage" else [bytes(20_000)]) for name in CARRIERS
    }

    async def main() -> None:
        async with serve({"bot": actors.echo}, max_message_bytes=16384) as served:
            well = asyncio.create_task(served.call("twilio", Script().then(at(2.0), HangUp())))
            reports = await asyncio.gather(*(served.call(fake, Script()) for fake in fakes.values()))
            assert [report.close_code for report in reports] == [1009] * len(fakes)
            assert (await well).ok
            await served.empty()
            assert len(served.records) == len(fakes) + 1

    run(main())


RUBBISH: tuple[str | bytes, ...] = (
    "",
    "{",
    "[]",
    "null",
    '"media"',
    '{"event":"media"}',
    '{"event":"dtmf","dtmf":{"digit":{}}}',
    '{"event":[],"type":{}}',
    '{"type":"ping"}',
    '{"event":"media","media":{"payload":"%%%"}}',
    "\ud7ff" * 100,
)


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_rubbish_does_not_end_a_call(binary: bool) -> None:
    """What can be read as caller audio is audio: on Vonage and Genesys every binary message is."""
    rubbish = [b"\xff\xfe\x00", b"{}", b""] if binary else list(RUBBISH)
    # AudioHook's server has to end a session whose client breaks the protocol; of that the next test.
    callers = CARRIERS if binary else [name for name in CARRIERS if name != "genesys"]
    fakes = {name: actors.also_says(name, rubbish) for name in callers}
    script = Script().then(at(0.8), Say(actors.voice(1.2))).then(after(0.6), HangUp())
    reports, records = place(actors.echo, script, fakes=fakes)
    for name, report in reports.items():
        assert report.ok, report.problems
        assert report.echoes, name
    assert ended(records) == dict.fromkeys(callers, ("closed", "caller", "caller"))
    if not binary:
        assert all(record.counters["bad_messages"] >= 5 for record in records.values())


def test_rubbish_ends_an_audiohook_session_by_its_own_rules() -> None:
    fakes = {"genesys": actors.also_says("genesys", RUBBISH)}
    reports, records = place(actors.echo, Script(), fakes=fakes)
    assert not reports["genesys"].violations
    assert reports["genesys"].end_reason == "error"
    assert records["genesys"].counters["protocol_errors"] == 1
    assert ended(records) == {"genesys": ("closed", "carrier", "protocol")}


# ---------------------------------------------------------------- bots that fail


@pytest.mark.parametrize(
    "bot", [actors.broken_build, actors.broken_timer, actors.acting(actors.broken_task)], ids=["build", "timer", "task"]
)
def test_a_bot_that_fails_ends_its_call_in_good_order(bot: Build) -> None:
    reports, records = place(bot, Script())
    assert ended(records) == everywhere("closed", "gateway", "error")
    for report in reports.values():
        assert not report.violations
        assert report.close_code == 1000 or report.carrier == "genesys"


def test_a_processor_that_fails_costs_frames_and_not_the_call() -> None:
    _, records = place(lambda call: (actors.Breaks(),), Script().then(at(1.0), HangUp()))
    assert ended(records) == everywhere("closed", "caller", "caller")
    assert all(record.counters["errors"] >= 3 for record in records.values())


def test_tasks_of_a_bot_end_with_its_call() -> None:
    _, records = place(actors.acting(actors.endless_task), Script().then(at(0.4), HangUp()))
    assert ended(records) == everywhere("closed", "caller", "caller")


def test_a_cancelled_call_ends_at_once() -> None:
    reports, records = place(actors.acting(actors.cancels), Script())
    assert ended(records) == everywhere("closed", "bot", "enough")
    for name, report in reports.items():
        assert not report.violations, name
        assert report.duration_s < 10.0, name
