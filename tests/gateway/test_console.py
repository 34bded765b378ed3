"""The page at /console: what it is made of, who may see it, and the phone in it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bots.base import Call
from gateway.console import pages
from gateway.history import KEPT, History
from gateway.settings import parse_settings
from media.frames import (
    EndTaskFrame,
    FloorFrame,
    Frame,
    InputDTMFFrame,
    InterruptionFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameDirection, FrameProcessor
from tests.endtoend.actors import echo, ending, saying
from tests.endtoend.served import until
from tests.gateway.rig import Running, running

STATIC = Path(pages.__file__).parent / "static"
RATE = 48000


def test_it_is_light_and_whole() -> None:
    assert pages.weight() < 60_000  # as it travels; 200 kB are the limit
    assert {path.name for path in STATIC.iterdir()} == set(pages.FILES)
    page = (STATIC / "index.html").read_text()
    assert set(re.findall(r'(?:href|src)="([\w.]+)"', page)) <= set(pages.FILES)
    for name in pages.FILES:
        text = (STATIC / name).read_text()
        assert not re.search(r"https?://(?!www\.w3\.org)", text), f"{name} asks somebody else"
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", text), (
            f"{name} makes pages of text"
        )


def test_whatever_the_scripts_name_is_on_the_page() -> None:
    ids = set(re.findall(r'id="([\w-]+)"', (STATIC / "index.html").read_text()))
    for name in (name for name in pages.FILES if name.endswith(".js")):
        assert set(re.findall(r'\$\("([\w-]+)"\)', (STATIC / name).read_text())) <= ids


@pytest.mark.parametrize(
    ("tables", "has"),
    [
        ({}, True),
        ({"gateway": {"host": "0.0.0.0"}}, False),
        ({"gateway": {"public_url": "https://gw.example.com"}}, False),
        ({"gateway": {"console": False}}, False),
        ({"gateway": {"console": True, "public_url": "https://gw.example.com"}}, True),
    ],
)
def test_it_is_there_where_nobody_else_can_ask(tables: dict[str, Any], has: bool) -> None:
    settings = parse_settings({"bots": {"echo": {"use": "echo"}}, "numbers": {"default": {"bot": "echo"}}, **tables})
    assert settings.has_console is has


def test_it_is_served_with_a_strict_policy_and_not_twice(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, httpx.AsyncClient(base_url=it.url, trust_env=False) as http:
            assert (await http.get("/console")).headers["location"].endswith("/console/")
            first = await http.get("/console/")
            assert first.status_code == 200
            assert "default-src 'none'" in first.headers["content-security-policy"]
            assert "unsafe" not in first.headers["content-security-policy"]
            again = await http.get("/console/", headers={"if-none-match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            for name in pages.FILES:
                assert (await http.get(f"/console/{name}")).status_code == 200
            for name in ("nothing.js", "..%2fphone.py", "%2e%2e%2fpages.py"):
                assert (await http.get(f"/console/{name}")).status_code == 404

    asyncio.run(main())


def test_it_is_not_there_where_it_is_off(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            running(tmp_path, gateway="console = false") as it,
            httpx.AsyncClient(base_url=it.url, trust_env=False) as http,
        ):
            assert (await http.get("/console/")).status_code == 404

    asyncio.run(main())


# ---------------------------------------------------------------- the phone


def phone(it: Running, **headers: str) -> Any:
    return connect(f"ws://127.0.0.1:{it.port}/console/phone", proxy=None, additional_headers=headers)


def asked(carrier: str, **more: Any) -> str:
    return json.dumps({"carrier": carrier, "to": "+14155550100", "from": "+14155550101", "rate": RATE, **more})


async def talk(socket: ClientConnection) -> None:
    """A microphone: 20 ms at a time, a saw of 100 Hz."""
    piece = b"".join((n % 480 * 40 - 9600).to_bytes(2, "little", signed=True) for n in range(960))
    while True:
        await socket.send(piece)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "exotel", "vonage", "genesys"])
def test_a_microphone_calls_and_hears(carrier: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, carriers=(carrier,), bots={"echo": echo}) as it, phone(it) as socket:
            await socket.send(asked(carrier))
            talking = asyncio.create_task(talk(socket))
            heard, told, loud = 0, [], 0
            try:
                async for message in socket:
                    if isinstance(message, bytes):
                        heard += len(message)
                        loud = max(loud, *(abs(n) for n in memoryview(message).cast("h")), 0)
                        if loud > 3000 and heard > 4000:
                            await socket.send('{"hangup": true}')
                    else:
                        told.append(json.loads(message))
            except ConnectionClosed:
                pass
            talking.cancel()
            await asyncio.wait({talking})
        kinds = {next(iter(one)) for one in told}
        assert {"opened", "event", "wire", "over"} <= kinds
        assert loud > 3000  # the caller's own voice, on its way through gateway and carrier
        over = told[-1]["over"]
        assert (over["ended_by"], over["problems"]) == ("caller", [])
        assert any(one.get("event", {}).get("what") == "ended" for one in told)

    asyncio.run(main())


def test_keys_and_a_bot_that_hangs_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bots={"hello": saying(1.0, then=ending())}) as it, phone(it) as socket:
            web = it.web("twilio")
            await socket.send(asked("twilio"))
            told = []
            async for message in socket:
                if isinstance(message, str):
                    told.append(json.loads(message))
                    if "opened" in told[-1]:
                        for rubbish in ("", "[]", "{", '{"digit": "x"}', '{"digit": 5}', '{"digit": "5"}'):
                            await socket.send(rubbish)
                        await socket.send(b"odd")
        events = [one["event"]["what"] + one["event"].get("detail", "") for one in told if "event" in one]
        assert events.count("digit5") == 1
        assert told[-1]["over"]["ended_by"] == "bot"
        assert not web.seen  # the carrier knows nothing of it, and is asked nothing

    asyncio.run(main())


def interrupts(call: Call) -> Sequence[FrameProcessor]:
    """The detector's edges of somebody who speaks over the bot, as a key brings them about."""

    class Interrupts(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            self.push_frame(frame, direction)
            if isinstance(frame, InputDTMFFrame):
                self.push_frame(VADUserStartedSpeakingFrame(start_secs=0.2))
                self.push_frame(UserStartedSpeakingFrame())
                self.broadcast_frame(FloorFrame, decision="interrupted", reason="a key", values={"speech_ms": 200})
                self.broadcast_frame(InterruptionFrame, reason="a key")
                self.push_frame(TranscriptionFrame("stop", "caller", "2026-01-01T00:00:00.000Z"))
                self.push_frame(VADUserStoppedSpeakingFrame(stop_secs=0.1))
                self.push_frame(UserStoppedSpeakingFrame())
                self.push_frame(EndTaskFrame(), FrameDirection.UPSTREAM)

    return (Interrupts(), *saying(30.0)(call))


async def watch(
    it: Running, address: str, events: list[dict[str, Any]], words: list[str], socket: ClientConnection
) -> None:
    """The gateway's side, as the page has it; the phone presses a key as soon as the bot speaks."""
    async with connect(f"ws://127.0.0.1:{it.port}{address}", proxy=None) as watcher:
        ready = {"version": "2.1.0", "about": {"library": "test"}}
        await watcher.send(json.dumps({"label": "rtvi-ai", "type": "client-ready", "id": "1", "data": ready}))
        pressed = False
        async for message in watcher:
            told = json.loads(message)
            if told["type"] == "user-transcription":
                words.append(told["data"]["text"])
            if told["type"] != "server-message":
                continue
            data = told["data"]
            events += data["events"] if data["type"] == "call" else [data] if data["type"] == "event" else []
            if not pressed and any(one["what"] == "bot" for one in events):
                pressed = True
                await socket.send('{"digit": "5"}')


@pytest.mark.parametrize("carrier", ["twilio", "genesys"])
def test_the_timeline_says_who_speaks_and_why_the_bot_was_cut_off(carrier: str, tmp_path: Path) -> None:
    async def main() -> None:
        bots = {"echo": echo, "story": interrupts}
        async with running(tmp_path, carriers=(carrier,), bots=bots) as it, phone(it) as socket:
            await socket.send(json.dumps({"carrier": carrier, "bot": "story", "from": "+1", "rate": RATE}))
            events: list[dict[str, Any]] = []
            words: list[str] = []
            watching: asyncio.Task[None] | None = None
            async for message in socket:
                if isinstance(message, bytes) or "watch" not in (told := json.loads(message)):
                    continue
                assert isinstance(told["watch"]["ahead_s"], float)
                watching = asyncio.create_task(watch(it, told["watch"]["address"], events, words, socket))
            assert watching is not None
            await watching
        told = [(one["what"], one.get("on", one.get("detail"))) for one in events]
        wanted = [
            ("bot", True),
            ("voice", True),
            ("turn", True),
            ("floor", "interrupted: a key (speech_ms 200)"),
            ("voice", False),
            ("turn", False),
        ]
        assert [one for one in told if one in wanted] == wanted  # each of them once, in this order
        cut = [str(detail) for what, detail in told if what == "interruption"]
        assert len(cut) == 1
        assert cut[0].startswith("a key: ")
        assert "of the reply were heard" in cut[0]
        assert ("bot", False) in told
        assert all(one["t"] >= 0 for one in events)
        assert words == ["stop"]

    asyncio.run(main())


def test_a_browser_that_is_gone_leaves_no_call(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bots={"echo": echo}) as it:
            async with phone(it) as socket:
                await socket.send(asked("twilio"))
                while "opened" not in str(await socket.recv()):
                    pass
            await until(lambda: not len(it.gateway.calls), 60)

    asyncio.run(main())


@pytest.mark.parametrize("carrier", ["twilio", "exotel", "genesys"])
def test_a_number_that_no_bot_answers(carrier: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, carriers=(carrier,), number="+15550177") as it, phone(it) as socket:
            await socket.send(asked(carrier))
            told = [json.loads(message) async for message in socket if isinstance(message, str)]
            over = told[-1]["over"]
            assert over["reason"] == "no-bot" if carrier == "genesys" else over["refused"] == 404
            async with httpx.AsyncClient(base_url=it.url, trust_env=False) as http:
                (record,) = (await http.get("/api/calls")).json()["calls"]
            assert record["reason"] == "no-bot"
            assert record["standing"] == ("ended" if carrier == "genesys" else "refused")

    asyncio.run(main())


TOKEN = '[api.tokens.reader]\nsecret = {{ file = "{}" }}\nscopes = ["read"]\n'


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ("{", "the first message says"),
        ("{}", "the first message says"),
        (asked("acme"), "is not on"),
        (asked("twilio", rate=1), "the first message says"),
        (asked("twilio", bot="nobody"), "bots.nobody"),
    ],
)
def test_a_phone_that_does_not_say_whom_to_call(first: str, why: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, phone(it) as socket:
            await socket.send(first)
            assert why in json.loads(await socket.recv())["over"]["problem"]
            with pytest.raises(ConnectionClosed):
                await socket.recv()

    asyncio.run(main())


def test_who_may_not_call(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("only to read, and long enough for one")

    async def refused(it: Running, first: str, **headers: str) -> str:
        async with phone(it, **headers) as socket:
            await socket.send(first)
            return str(json.loads(await socket.recv())["over"]["problem"])

    async def main() -> None:
        async with running(tmp_path, gateway="console = true", more=TOKEN.format(secret)) as it:
            assert "token" in await refused(it, asked("twilio"))
            assert "token" in await refused(it, asked("twilio", token="made up"))
            assert "'dial'" in await refused(it, asked("twilio", token=secret.read_text()))
        async with running(tmp_path) as it:  # another site's page, in a browser on this machine
            assert "token" in await refused(it, asked("twilio"), origin="https://elsewhere.example")

    asyncio.run(main())


# ---------------------------------------------------------------- what it asks of the API


def test_the_route_and_the_last_hour(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, it.client() as api:
            said = (await api.get("/route", params={"number": "+1", "carrier": "twilio"})).json()
            assert (said["bot"], said["rule"]) == ("echo", "default")
            assert [one["matched"] for one in said["considered"]] == [True]
            answers = (await api.get("/configuration")).json()["answers"]
            assert answers == {"default": {"bot": "echo", "hours": "", "closed": "", "share": {}, "language": ""}}
            health = (await api.get("/health")).json()
            assert health["now"]["live_calls"] == 0
            assert len(health["points"]) >= 1
            assert health["carriers"] == [
                {"carrier": "twilio", "on": True, "begun": 0, "turned_away": 0, "not_authentic": 0}
            ]
            async with httpx.AsyncClient(base_url=it.url, trust_env=False) as http:
                assert (await http.post("/twilio/answer", data={"CallSid": "CA1"})).status_code == 403
            with pytest.raises(InvalidStatus):
                await connect(f"ws://127.0.0.1:{it.port}/twilio/media/made-up", proxy=None)
            it.gateway.metrics.refused["twilio", "full"] += 3
            health = (await api.get("/health")).json()
            (twilio,) = health["carriers"]
            assert (twilio["not_authentic"], twilio["turned_away"]) == (2, 3)
            assert (health["now"]["not_authentic"], health["now"]["turned_away"]) == (2, 3)
            assert health["reasons"] == {"full": 3}

    asyncio.run(main())


def test_an_hour_is_kept_and_counts_are_told_per_minute(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it:
            history = History(it.gateway)
            for n in range(KEPT + 5):
                it.gateway.metrics.started["twilio"] += n == KEPT
                history.sample(1000.0 + 10 * n, 0.5 * n)
            assert len(history.points) == KEPT
            assert history.points[-5]["begun"] == 6
            assert history.points[-1]["begun"] == 0
            assert history.points[-1]["cpu"] == pytest.approx(5)

    asyncio.run(main())
