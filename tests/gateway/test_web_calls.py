"""Callers from the web: `POST /start`, and the call that follows, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from bots.base import Call
from gateway.simulator.base import CallPlan
from gateway.simulator.caller import place_call
from gateway.simulator.script import Press, Say, Script, Voice, after, after_bot
from gateway.simulator.web_caller import FakeWebCaller
from media.frames import (
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    RTVIClientMessageFrame,
    RTVIServerResponseFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from media.processor import FrameDirection, FrameProcessor
from tests.endtoend.actors import tone
from tests.gateway.rig import QUICK, Running, running
from tests.gateway.test_notify import until
from tests.gateway.virtual import VirtualCall

OTHER = "https://www.example.com"


class Phone(FrameProcessor):
    """Echoes the caller's voice, answers requests, speaks at a key, and ends at #."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call
        self.heard = 0

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, InputAudioRawFrame):
            self.heard += frame.num_frames
        elif isinstance(frame, RTVIClientMessageFrame):
            parameters = dict(self.call.info.parameters)
            self.push_frame(RTVIServerResponseFrame(frame, {"heard": self.heard, "parameters": parameters}))
        elif isinstance(frame, InputDTMFFrame):
            if frame.button.value == "#":
                self.call.end("completed")
            else:
                self.push_frame(TTSStartedFrame())
                self.push_frame(TTSAudioRawFrame(tone(1.0, 8000), 8000, 1))
                self.push_frame(TTSStoppedFrame())
        self.push_frame(frame, direction)


def phone(call: Call) -> Sequence[FrameProcessor]:
    return (Phone(call),)


def go(tmp_path: Path, check: Callable[[Running], Awaitable[None]], table: str = "", gateway: str = "") -> None:
    async def main() -> None:
        more = f"[carriers.web]\n{table}\n"
        async with running(tmp_path, carriers=(), bots={"phone": phone}, more=more, gateway=gateway) as it:
            async with asyncio.timeout(30):
                await check(it)

    asyncio.run(main())


async def start(it: Running, data: Any = None, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=it.url, trust_env=False, timeout=10) as client:
        if data is None:
            return await client.post("/start", headers=headers)
        return await client.post("/start", json=data, headers=headers)


# ---------------------------------------------------------------- the answer


def test_a_call_from_its_start_to_its_record(tmp_path: Path) -> None:
    async def check(it: Running) -> None:
        answer = await start(it, {"language": "de", "depth": {"a": 1}})
        assert answer.status_code == 200
        assert list(answer.json()) == ["wsUrl"]  # the client refuses any key beside it
        fake = FakeWebCaller(CallPlan())
        script = (
            Script()
            .then(after(0.1), Say(Voice(tone(0.3, 16000), 16000)))
            .then(after(0.2), Press("1"))
            .then(after_bot(), Press("#"))
        )
        asked = [False]

        def meanwhile(t: float) -> Sequence[bytes]:
            if asked[0] or not any(message["type"] == "bot-started-speaking" for message in fake.messages):
                return ()
            asked[0] = True
            return [bytes(message) for message in fake.say("client-message", {"t": "state", "d": None}, "q1")]

        report = await place_call(fake, answer.json()["wsUrl"], script, limits=QUICK, meanwhile=meanwhile)
        assert not report.problems
        assert report.ended_by == "bot"
        told = {message["type"]: message for message in fake.messages}
        assert {"bot-ready", "server-response", "bot-tts-started", "bot-started-speaking"} <= set(told)
        response = told["server-response"]
        assert response["id"] == "q1"
        parameters = response["data"]["d"]["parameters"]
        assert parameters["language"] == "de"
        assert json.loads(parameters["requestData"]) == {"language": "de", "depth": {"a": 1}}
        assert response["data"]["d"]["heard"] > 0
        assert sum(report.heard) > 0
        await until(lambda: not len(it.gateway.calls))
        async with it.client() as api:
            (call,) = (await api.get("/calls")).json()["calls"]
        assert call["carrier"] == "web"

    go(tmp_path, check)


def test_an_interrupted_bot_is_heard_no_longer_than_the_lead() -> None:
    """The client drops nothing: what was sent ahead is heard, and nothing else."""
    call = VirtualCall("web")
    call.run(0.2)
    for frame in (TTSStartedFrame(), TTSAudioRawFrame(tone(3.0, 24000), 24000, 1), TTSStoppedFrame()):
        call.core.inject(frame)
    call.run(1.0)
    call.core.inject(InterruptionFrame())
    call.run(3.0)
    heard_s = len(call.fake.playout.heard.rstrip(bytes(2))) / 2 / 24000 - 0.2
    lead_s = call.core.serializer.lead_ms / 1000
    assert 1.0 <= heard_s <= 1.0 + lead_s + call.core.packet_ms / 1000 + 0.02


def test_however_often_a_bot_is_interrupted_the_client_holds_no_more_than_the_lead() -> None:
    """What it was sent before an interruption plays on: the next reply is sent just in time behind that."""
    call = VirtualCall("web")
    call.run(0.2)
    for number in range(40):
        for frame in (TTSStartedFrame(), TTSAudioRawFrame(tone(1.0, 24000), 24000, 1), TTSStoppedFrame()):
            call.core.inject(frame)
        call.run(0.03 + number % 5 * 0.03)
        call.core.inject(InterruptionFrame())
    serializer = call.core.serializer
    assert call.fake.playout.most_buffered_s <= (serializer.lead_ms + 2 * serializer.packet_ms) / 1000
    assert not call.fake.violations


def test_a_token_is_good_once(tmp_path: Path) -> None:
    async def check(it: Running) -> None:
        url = (await start(it)).json()["wsUrl"]
        async with websockets.connect(url, proxy=None):
            pass
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url, proxy=None)
        assert refused.value.response.status_code == 403
        forged = url[:-4] + "AAAA"
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(forged, proxy=None)

    go(tmp_path, check)


def test_garbage_ends_nothing(tmp_path: Path) -> None:
    async def check(it: Running) -> None:
        fake = FakeWebCaller()
        (ready,) = fake.opening(0.0)
        async with websockets.connect((await start(it)).json()["wsUrl"], proxy=None) as socket:
            for garbage in ("text", b"", b"\xff\xff\xff", b"\x22\x03\x0a\x01{", b"\x2a\x00"):
                await socket.send(garbage)
            await socket.send(ready)
            for kind, data in (("nonsense", {}), ("client-message", {"t": 7}), ("send-text", [])):
                for message in fake.say(kind, data, kind):
                    await socket.send(message)
            while len(fake.messages) < 4:
                fake.receive(await asyncio.wait_for(socket.recv(), 60), 1.0)
        assert fake.bot_ready
        answers = {message["id"] for message in fake.messages if message["type"] == "error-response"}
        assert answers == {"nonsense", "client-message", "send-text"}

    go(tmp_path, check)


# ---------------------------------------------------------------- who may


def test_without_a_table_there_are_no_web_callers(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, carriers=(), bots={"phone": phone}) as it:
            answer = await start(it)
            assert answer.status_code == 404
            assert "info" in answer.json()

    asyncio.run(main())


def test_only_this_machine_without_a_key(tmp_path: Path) -> None:
    async def check(it: Running) -> None:
        assert (await start(it)).status_code == 200
        assert (await start(it, origin=it.url)).status_code == 200
        assert (await start(it, origin="http://localhost:5173")).status_code == 200
        for headers in ({"x-forwarded-for": "10.0.0.1"}, {"host": "gw.example.com"}, {"via": "1.1 proxy"}):
            answer = await start(it, **headers)
            assert answer.status_code == 401
            assert "key" in answer.json()["info"]
        for origin in (OTHER, "null", "http://127.0.0.1.example.com", "https://localhost.example.com"):
            answer = await start(it, origin=origin)
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers

    go(tmp_path, check)


def test_a_key_lets_in(tmp_path: Path) -> None:
    (tmp_path / "web.key").write_text("right-key")

    async def check(it: Running) -> None:
        assert (await start(it)).status_code == 401
        assert (await start(it, authorization="Bearer wrong-key")).status_code == 401
        assert (await start(it, authorization="Basic right-key")).status_code == 401
        away = {"x-forwarded-for": "10.0.0.1"}
        assert (await start(it, authorization="Bearer right-key", **away)).status_code == 200
        answer = await start(it, authorization="Bearer right-key", origin=OTHER)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == OTHER

    go(tmp_path, check, f'key = {{ file = "web.key" }}\norigins = ["{OTHER}"]')


def test_the_public_may_where_that_was_said(tmp_path: Path) -> None:
    async def check(it: Running) -> None:
        away = {"x-forwarded-for": "10.0.0.1"}
        assert (await start(it, **away)).status_code == 200
        assert (await start(it, origin=OTHER, **away)).status_code == 200
        assert (await start(it, origin="https://evil.example.com", **away)).status_code == 403

    go(tmp_path, check, f'public = true\norigins = ["{OTHER}"]')


def test_preflights(tmp_path: Path) -> None:
    async def check(it: Running) -> None:
        async with httpx.AsyncClient(base_url=it.url, trust_env=False, timeout=10) as client:
            asks = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
            allowed = await client.options("/start", headers={"origin": OTHER, **asks})
            refused = await client.options("/start", headers={"origin": "https://evil.example.com", **asks})
        assert allowed.status_code == 204
        assert allowed.headers["access-control-allow-origin"] == OTHER
        assert "content-type" in allowed.headers["access-control-allow-headers"]
        assert "POST" in allowed.headers["access-control-allow-methods"]
        assert "access-control-allow-origin" not in refused.headers

    go(tmp_path, check, f'origins = ["{OTHER}"]')


def test_bodies_that_make_no_sense(tmp_path: Path) -> None:
    async def check(it: Running) -> None:
        bodies = (b"{", b"[]", b'"x"', b'{"number": "+1900"}', b'{"number": []}', b"{" + b" " * 20_000)
        async with httpx.AsyncClient(base_url=it.url, trust_env=False, timeout=10) as client:
            for body in bodies:
                answer = await client.post("/start", content=body)
                assert answer.status_code == 400
                assert answer.json()["info"]

    go(tmp_path, check)


def test_limits_hold_for_web_callers(tmp_path: Path) -> None:
    async def check(it: Running) -> None:
        assert (await start(it)).status_code == 200  # its slot is kept for it
        answer = await start(it, origin=it.url)
        assert answer.status_code == 503
        assert "info" in answer.json()
        assert answer.headers["access-control-allow-origin"] == it.url

    go(tmp_path, check, "max_calls = 1")
