"""WebsocketClientTransport: a pipeline that calls a server, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from bots.runtime import PipelineTask
from gateway.transports.client import WebsocketClientParams, WebsocketClientTransport
from media.frames import (
    EndFrame,
    ErrorFrame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    OutputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from media.pipeline import Pipeline
from serializers.protobuf import ProtobufFrameSerializer
from tests.transports.programs import PHONE
from tests.transports.serving import go, nothing_left, tone, until
from tests.transports.test_fastapi import Watch

WIRE = ProtobufFrameSerializer()


class Server:
    """Notes what it gets, and sends what it is told to."""

    def __init__(self) -> None:
        self.sockets: list[ServerConnection] = []
        self.frames: list[Any] = []
        self.headers: list[str] = []

    async def __call__(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.headers.append(socket.request.headers.get("X-Program", ""))
        self.sockets.append(socket)
        async for message in socket:
            self.frames += WIRE.decode(message)

    def audio(self) -> list[bytes]:
        return [frame.audio for frame in self.frames if isinstance(frame, InputAudioRawFrame)]

    async def send(self, frame: Any) -> None:
        await self.sockets[-1].send(next(iter(WIRE.encode(frame))))


class Caller:
    """A pipeline that calls."""

    def __init__(self, uri: str, **params: Any) -> None:
        on = {"audio_in_enabled": True, "audio_out_enabled": True}
        self.transport = WebsocketClientTransport(uri, WebsocketClientParams(**{**on, **params}))
        self.events: list[str] = []
        self.watch = Watch()
        self.task = PipelineTask(Pipeline([self.transport.input(), self.watch, self.transport.output()]), params=PHONE)
        for name in ("on_connected", "on_disconnected"):
            self._note(name)

    def _note(self, name: str) -> None:
        async def note(transport: Any, websocket: Any) -> None:
            assert transport is self.transport
            self.events.append(name)

        self.transport.add_event_handler(name, note)


@contextlib.asynccontextmanager
async def calling(**params: Any) -> AsyncIterator[tuple[Caller, Server]]:
    server = Server()
    async with nothing_left(), serve(server, "127.0.0.1", 0, compression=None) as listening:
        port = listening.sockets[0].getsockname()[1]
        caller = Caller(f"ws://127.0.0.1:{port}/", **params)
        run = asyncio.create_task(caller.task.run())
        try:
            await until(lambda: bool(caller.events), 15)
            yield caller, server
        finally:
            await caller.task.cancel()
            await asyncio.wait_for(run, 20)


@pytest.mark.parametrize("wav", [None, False])
def test_audio_and_messages_both_ways(wav: bool | None) -> None:
    async def main() -> None:
        params: dict[str, Any] = {} if wav is None else {"add_wav_header": wav}
        async with calling(additional_headers={"X-Program": "yes"}, **params) as (caller, server):
            assert caller.events == ["on_connected"]
            assert server.headers == ["yes"]
            await caller.task.queue_frames([TTSStartedFrame(), TTSAudioRawFrame(tone(0.2), 8000, 1), TTSStoppedFrame()])
            await until(lambda: sum(map(len, server.audio())) >= 3200, 15)
            assert all(piece.startswith(b"RIFF") is (wav is None) for piece in server.audio())
            await caller.task.queue_frame(OutputTransportMessageUrgentFrame({"hello": "server"}))
            await until(lambda: any(isinstance(frame, InputTransportMessageFrame) for frame in server.frames), 15)
            await server.send(OutputAudioRawFrame(tone(0.1), 8000, 1))
            await server.send(OutputTransportMessageUrgentFrame({"hello": "program"}))
            await until(lambda: InputTransportMessageFrame in caller.watch, 15)
            assert sum(len(frame.audio) for frame in caller.watch.of(InputAudioRawFrame)) == len(tone(0.1))
            await caller.task.queue_frame(EndFrame())
            await until(lambda: caller.events == ["on_connected", "on_disconnected"], 20)

    go(main)


def test_a_connection_that_breaks_is_made_again() -> None:
    async def main() -> None:
        async with calling(reconnect_s=5.0) as (caller, server):
            server.sockets[0].transport.abort()
            await until(lambda: len(server.sockets) == 2, 10)
            await until(lambda: caller.events == ["on_connected", "on_disconnected", "on_connected"], 10)
            await server.send(OutputTransportMessageUrgentFrame({"hello": "again"}))
            await until(lambda: InputTransportMessageFrame in caller.watch, 15)

    go(main)


def test_without_reconnection_it_is_told_and_the_pipeline_goes_on() -> None:
    async def main() -> None:
        async with calling() as (caller, server):
            await server.sockets[0].close()
            await until(lambda: caller.events == ["on_connected", "on_disconnected"], 10)
            assert len(server.sockets) == 1
            assert not caller.task.has_finished()

    go(main)


def test_a_server_that_is_not_there_is_an_error() -> None:
    async def main() -> None:
        async with nothing_left():
            caller = Caller("ws://127.0.0.1:9/")
            errors: list[ErrorFrame] = []

            @caller.task.event_handler("on_pipeline_error")
            async def failed(task: Any, frame: ErrorFrame) -> None:
                errors.append(frame)

            run = asyncio.create_task(caller.task.run())
            await until(lambda: bool(errors), 15)
            assert errors[0].error.startswith("cannot connect")
            assert caller.events == []
            await caller.task.cancel()
            await asyncio.wait_for(run, 20)

    go(main)
