"""A transport that listens by itself: one client at a time, for prototypes and for programs of your own."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from gateway.finisher import Finisher
from gateway.session import CLOSE_WAIT_S
from gateway.transports.base import WebsocketTransport
from gateway.transports.params import WebSocketServerParams, WebsocketServerParams
from gateway.wires import Event
from media.events import BaseObject
from media.frames import StartFrame
from serializers.base import FrameSerializer

__all__ = ["WebSocketServerParams", "WebSocketServerTransport", "WebsocketServerParams", "WebsocketServerTransport"]

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.transports")


class WebsocketServerTransport(WebsocketTransport):
    """Listens on `host` and `port` from StartFrame to the pipeline's end. A newcomer closes the client before it.

    While nobody is connected audio is dropped, and all else passes. Each client gets a serializer made like the one
    in `params`. Beside the others there is the event on_websocket_ready(): it listens, on `port`, which tells the
    real one where 0 was asked for.
    """

    def __init__(
        self,
        params: WebsocketServerParams,
        host: str = "localhost",
        port: int = 8765,
        input_name: str | None = None,
        output_name: str | None = None,
        *,
        finisher: Finisher | None = None,
    ) -> None:
        super().__init__(params, input_name, output_name, finisher=finisher)
        self._register_event_handler("on_websocket_ready")
        self.host, self.port = host, port
        self._listening = False
        self._over = asyncio.Event()
        self._serializer: Any = params.serializer
        self._clients: set[asyncio.Task[Any]] = set()

    def prepare(self, frame: StartFrame) -> None:
        super().prepare(frame)
        self._go_on(frame)

    def _begin(self, frame: StartFrame) -> None:
        if not self._listening:
            self._listening = True
            self._run(self._serve(), "server")

    def _end(self) -> None:
        self._over.set()

    async def _serve(self) -> None:
        try:
            server = await serve(
                self._take_client,
                self.host,
                self.port,
                compression=None,
                ping_interval=None,  # carriers answer pings late or not at all
                close_timeout=CLOSE_WAIT_S,
            )
        except OSError as exc:
            self._input.push_error(f"cannot listen on {self.host}:{self.port}: {exc.strerror}", exc, fatal=True)
            return
        try:
            self.port = _port(server)
            self._tell("on_websocket_ready")
            await self._over.wait()
            server.close(close_connections=False)  # whoever is connected hears the last word first
            if self._clients:
                await asyncio.wait(self._clients)
        finally:
            server.close()
        await server.wait_closed()
        await self._finisher.flush()  # such a program often ends here, and what it has asked for with it

    async def _take_client(self, connection: ServerConnection) -> None:
        if self._over.is_set() or self._start is None:
            return
        if self._call is not None:
            log.warning("transport.client_replaced", transport=str(self))
            self._call.replaced()

        async def receive() -> Event:
            try:
                data = await connection.recv()
            except ConnectionClosed as exc:
                return {"type": "websocket.disconnect", "code": exc.rcvd.code if exc.rcvd is not None else 1006}
            return {"type": "websocket.receive", "text" if isinstance(data, str) else "bytes": data}

        async def send(event: Event) -> None:
            if event["type"] == "websocket.close":
                await connection.close(event["code"])
            else:
                await connection.send(event["text"] if "text" in event else event["bytes"])

        session = self._connect(connection, receive, send, self._next_serializer())
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            self._welcome(connection)
            await session.carry(self._start)
        finally:
            self._clients.discard(task)

    def _next_serializer(self) -> Any:
        """The given one for the first client; it keeps what that client says, so the next one gets its like."""
        given, serializer = self.params.serializer, self._serializer
        if isinstance(given, FrameSerializer):
            self._serializer = None
            if serializer is None:
                serializer = given.fresh()
                if isinstance(given, BaseObject) and isinstance(serializer, BaseObject):
                    serializer._base.events = given._base.events
        return serializer


# As older programs write it.
WebSocketServerTransport = WebsocketServerTransport


def _port(server: Server) -> int:
    return next(int(listener.getsockname()[1]) for listener in server.sockets)
