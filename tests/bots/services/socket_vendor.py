"""A vendor's WebSocket API on loopback: keeps what it is sent, answers by a script, and fails when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.bots.services.vendor import NAME

Script = Callable[[ServerConnection, Any], Awaitable[None]]


class SocketVendor:
    """Each message goes to `script(connection, message)`: JSON is read, bytes stay bytes."""

    def __init__(self, script: Script, *, refusals: tuple[tuple[int, Mapping[str, str]], ...] = ()) -> None:
        self.script = script
        self.refusals = list(refusals)  # of the first attempts
        self.gate: asyncio.Event | None = None  # an attempt to connect waits for it
        self.requests: list[Request] = []
        self.got: list[list[Any]] = []  # messages, by connection
        self.connections: list[ServerConnection] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def messages(self) -> list[Any]:
        return [message for messages in self.got for message in messages]

    @property
    def audio(self) -> bytes:
        return b"".join(message for message in self.messages if isinstance(message, bytes))

    def types(self) -> list[str]:
        return [message.get("type") for message in self.messages if isinstance(message, dict)]

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[SocketVendor]:
        async with serve(self._talk, "127.0.0.1", 0, process_request=self._admit, ping_interval=None) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            try:
                yield self
            finally:
                for connection in self.connections:
                    connection.transport.abort()

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name(NAME)
        self.requests.append(request)
        if self.gate is not None:
            await self.gate.wait()
        if self.refusals:
            status, headers = self.refusals.pop(0)
            return Response(status, "Scripted", Headers(headers), b"no")
        return None

    async def _talk(self, connection: ServerConnection) -> None:
        messages: list[Any] = []
        self.got.append(messages)
        self.connections.append(connection)
        with contextlib.suppress(ConnectionClosed):
            async for data in connection:
                message = data if isinstance(data, bytes) else json.loads(data)
                messages.append(message)
                await self.script(connection, message)


async def say(connection: ServerConnection, *events: Any) -> None:
    for event in events:
        await connection.send(event if isinstance(event, (bytes, str)) else json.dumps(event))
