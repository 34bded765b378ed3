"""A call and a program at the other end of a real WebSocket; the call's own time is virtual."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

from bots.base import PrepareContext
from bots.bridge import BOT, KEPT_S, Bridge, BridgeSettings
from gateway.settings import parse_settings
from gateway.simulator.script import Press, Say, Script, after, at
from media.errors import ConfigErrors
from media.frames import (
    InputAudioRawFrame,
    InputTransportMessageFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
)
from serializers.protobuf import ProtobufFrameSerializer
from tests.bots.live import LiveVirtualCall
from tests.endtoend import actors
from tests.endtoend.served import run
from tests.endtoend.served import serve as serve_gateway

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "bridge_program.py"


class Program:
    """The program: what it was told, and its sockets."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.audio = b""
        self.sockets: list[ServerConnection] = []
        self.headers: list[str] = []

    async def __call__(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.sockets.append(socket)
        self.headers.append(socket.request.headers.get("Authorization", ""))
        async for message in socket:
            if isinstance(message, bytes):
                self.audio += message
            else:
                self.events.append(json.loads(message))

    def kinds(self) -> list[str]:
        return [event["event"] for event in self.events]

    async def say(self, kind: str, **facts: Any) -> None:
        await self.sockets[-1].send(json.dumps({"event": kind, **facts}))


@asynccontextmanager
async def bridged(handler: Any, **settings: Any) -> AsyncIterator[LiveVirtualCall]:
    async with serve(handler, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        build: Any = BOT.prepare(
            BridgeSettings(url=f"ws://127.0.0.1:{port}/calls", **settings), PrepareContext(Path("."), (8000,))
        )
        call = LiveVirtualCall("twilio", build)
        await until(call, lambda: True)
        try:
            yield call
        finally:
            call.core.disconnected(1006, call.t)
            await call.finish()


async def until(call: LiveVirtualCall, true: Callable[[], Any]) -> None:
    """Let the call's time pass, and the sockets have theirs, until `true()` is."""
    async with asyncio.timeout(60):
        while True:
            await call.go(0.02)
            await asyncio.sleep(0.002)
            if true():
                return


def limited(main: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(100):
            await main()

    asyncio.run(within())


def loud(pcm: bytes) -> int:
    """How many samples are."""
    return int((np.abs(np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(int)) > 500).sum())


def test_audio_keys_and_commands_both_ways() -> None:
    async def main() -> None:
        program = Program()
        async with bridged(program) as call:
            await until(call, lambda: program.events)
            (start,) = program.events
            assert start["event"] == "start"
            assert start["again"] is False
            assert start["call"]["carrier"] == "twilio"
            assert start["call"]["id"] == call.core.info.call_id
            assert start["audio"] == {"encoding": "s16le", "sample_rate": 8000, "channels": 1}
            call.say(actors.tone(0.5))
            await until(call, lambda: loud(program.audio) > 3500)
            call.press("5")
            await until(call, lambda: "digit" in program.kinds())
            assert program.events[-1] == {"event": "digit", "digit": "5"}
            await program.sockets[0].send(actors.tone(0.4))
            await until(call, lambda: program.kinds()[-2:] == ["speaking", "silent"])
            assert loud(call.heard()) > 2800
            await program.say("variables", set={"intent": "sales"})
            await program.say("transfer", to="+15550199")  # nobody to ask on virtual time
            await until(call, lambda: "failed" in program.kinds())
            assert program.events[-1] == {"event": "failed", "what": "transfer"}
            await program.say("end", reason="done")
            await until(call, lambda: call.over)
            assert (call.core.reason, call.core.ended_by) == ("done", "bot")
            assert call.core.variables.outgoing == {"intent": "sales"}
            await until(call, lambda: "stop" in program.kinds())
            assert program.events[-1] == {"event": "stop", "reason": "done"}

    limited(main)


def test_clear_drops_what_waits_to_be_heard() -> None:
    async def main() -> None:
        program = Program()
        async with bridged(program) as call:
            await until(call, lambda: program.events)
            await program.sockets[0].send(actors.tone(30.0))
            await until(call, lambda: "speaking" in program.kinds())
            await program.say("clear")
            await until(call, lambda: "silent" in program.kinds())
            assert "interrupted" not in program.kinds()  # it was the program's own wish
            before = loud(call.heard())
            assert before < 8000 * 25
            await call.go(1.0)
            assert loud(call.heard()) == before

    limited(main)


def test_after_an_interruption_old_audio_is_dropped_until_the_program_knows() -> None:
    async def main() -> None:
        program = Program()
        async with bridged(program) as call:
            await until(call, lambda: program.events)
            call.core.interrupt()
            bridge = next(one for one in processors(call) if isinstance(one, Bridge))
            bridge._take(actors.tone(0.5))  # it was on its way
            await call.go(0.3)
            assert loud(call.heard()) == 0
            await until(call, lambda: "interrupted" in program.kinds())
            await program.say("clear")
            await program.sockets[0].send(actors.tone(0.5))
            await until(call, lambda: loud(call.heard()) > 3000)

    limited(main)


def processors(call: LiveVirtualCall) -> list[Any]:
    assert call.core.pipeline is not None
    return list(call.core.pipeline.processors)


def test_a_lost_program_is_looked_for_and_found() -> None:
    async def main() -> None:
        program = Program()
        async with bridged(program) as call:
            await until(call, lambda: program.events)
            program.sockets[0].transport.abort()
            await until(call, lambda: program.kinds() == ["start", "start"])
            assert [event["again"] for event in program.events] == [False, True]
            await program.sockets[1].close()  # as one does who is done
            await until(call, lambda: call.over)
            assert (call.core.reason, call.core.ended_by) == ("completed", "bot")

    limited(main)


def test_a_program_that_cannot_be_reached_is_an_error_of_the_bot() -> None:
    async def main() -> None:
        build: Any = BOT.prepare(
            BridgeSettings(url="ws://127.0.0.1:9/", connect_s=0.2), PrepareContext(Path("."), (8000,))
        )
        call = LiveVirtualCall("twilio", build)
        await until(call, lambda: call.over)
        assert call.core.reason == "error"
        await call.finish()

    limited(main)


def test_a_program_that_does_not_read_costs_no_memory() -> None:
    async def main() -> None:
        never = asyncio.Event()

        async def handler(socket: ServerConnection) -> None:
            socket.transport.pause_reading()  # type: ignore[attr-defined]
            await never.wait()
            socket.transport.abort()

        async with bridged(handler) as call:
            await call.go(0.2)
            bridge = next(one for one in processors(call) if isinstance(one, Bridge))
            frame = InputAudioRawFrame(bytes(320), 8000, 1)
            for _ in range(20_000):  # 400 s at once: no socket's buffer takes that much unread
                bridge._on_audio(frame)
            never.set()
            assert bridge._kept_s <= KEPT_S
            assert len(bridge._audio) == len(bridge._audio_s)
            assert KEPT_S * 50 - 2 <= len(bridge._audio) <= KEPT_S * 50

    limited(main)


@pytest.mark.parametrize(
    "message",
    [
        "no JSON",
        "[]",
        '{"event": 5}',
        '{"event": "fly"}',
        '{"event": "digits", "digits": "xyz"}',
        '{"event": "transfer"}',
        '{"event": "variables"}',
        b"odd",
    ],
)
def test_nonsense_is_counted_and_ends_nothing(message: str | bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        program = Program()
        async with bridged(program) as call:
            await until(call, lambda: program.events)
            await program.sockets[0].send(message)
            await program.say("end", reason="after all")
            await until(call, lambda: call.over)
            assert call.core.reason == "after all"

    limited(main)
    assert "bridge.bad_message" in caplog.text


def test_the_token_goes_along_and_redirects_are_not_followed() -> None:
    async def main() -> None:
        os.environ["BRIDGE_TOKEN"] = "t0p-secret"
        entry = parse_settings(
            {"bots": {"it": {"use": "bridge", "url": "wss://b.example.com/", "token": {"env": "BRIDGE_TOKEN"}}}}
        ).bots["it"]
        program = Program()
        async with bridged(program, token=entry.options.token) as call:
            await until(call, lambda: program.events)
            assert program.headers == ["Bearer t0p-secret"]

        def redirect(connection: ServerConnection, request: Any) -> Any:
            response = connection.respond(302, "")
            response.headers["Location"] = "ws://127.0.0.1:9/elsewhere"
            return response

        async with serve(program, "127.0.0.1", 0, process_request=redirect) as server:
            port = server.sockets[0].getsockname()[1]
            settings = BridgeSettings(url=f"ws://127.0.0.1:{port}/", connect_s=0.2)
            build: Any = BOT.prepare(settings, PrepareContext(Path("."), (8000,)))
            call = LiveVirtualCall("twilio", build)
            await until(call, lambda: call.over)
            assert call.core.reason == "error"
            await call.finish()
        assert len(program.sockets) == 1

    limited(main)


@pytest.mark.parametrize(
    ("url", "more", "problem"),
    [
        ("http://b.example.com/", {}, "must be like wss://"),
        ("ws://b.example.com/", {}, "must be wss://, or insecure"),
        ("wss://me:pw@b.example.com/", {}, "must not hold a password"),
        ("wss://b.example.com/", {"allowed_hosts": ["c.example.com"]}, "none of allowed_hosts"),
    ],
)
def test_urls_that_are_refused(url: str, more: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigErrors, match=problem):
        parse_settings({"bots": {"it": {"use": "bridge", "url": url, **more}}})


def test_pipecats_frames() -> None:
    async def main() -> None:
        wire, heard, told = ProtobufFrameSerializer(), [0], list[Any]()

        async def handler(socket: ServerConnection) -> None:
            async for message in socket:
                for frame in wire.decode(message):
                    if isinstance(frame, InputAudioRawFrame):
                        heard[0] += loud(frame.audio)
                        await socket.send(next(iter(wire.encode(OutputAudioRawFrame(frame.audio, 8000, 1)))))
                    elif isinstance(frame, InputTransportMessageFrame):
                        told.append(frame.message)
                        if frame.message["event"] == "digit":
                            ending = OutputTransportMessageFrame({"event": "end", "reason": "pressed"})
                            await socket.send(next(iter(wire.encode(ending))))

        async with bridged(handler, mode="protobuf") as call:
            await until(call, lambda: told)
            call.say(actors.tone(0.5))
            await until(call, lambda: heard[0] > 3500 and loud(call.heard()) > 3000)
            call.press("1")
            await until(call, lambda: call.over)
            assert call.core.reason == "pressed"

    limited(main)


def test_the_example_of_the_guide_over_real_sockets() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 45

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(EXAMPLE), stdout=asyncio.subprocess.PIPE, env={**os.environ, "PORT": "0"}
        )
        assert process.stdout is not None
        try:
            line = (await process.stdout.readline()).decode()
            (port,) = re.findall(r"listening on (\d+)", line)
            settings = BridgeSettings(url=f"ws://127.0.0.1:{port}/")
            build: Any = BOT.prepare(settings, PrepareContext(Path("."), (8000,)))
            async with serve_gateway({"bot": build}) as served:
                script = Script().then(at(0.3), Say(actors.voice(1.0))).then(after(2.5), Press("#"))
                report = await served.call("twilio", script)
                await served.empty()
                assert report.ok, report.problems
                record = served.record("twilio")
                assert (record.ended_by, record.reason) == ("bot", "completed")
                assert record.variables == {"goodbye": "said"}
                assert record.counters["heard_ms"] > 900
        finally:
            process.terminate()
            await process.communicate()

    run(main(), limit_s=300)
