"""A transport that calls: a pipeline's audio and messages over a WebSocket to a server somewhere else, and back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import structlog
from pydantic import Field
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from gateway.finisher import Finisher
from gateway.session import CLOSE_WAIT_S
from gateway.transports.base import WebsocketTransport
from gateway.transports.params import WebsocketParams
from gateway.wires import Event
from media.frames import StartFrame
from serializers.base import FrameSerializer
from serializers.protobuf import ProtobufFrameSerializer

__all__ = ["WebsocketClientParams", "WebsocketClientTransport"]

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.transports")

OPEN_S = 10.0  # for the opening handshake


class WebsocketClientParams(WebsocketParams):
    """
    `add_wav_header`: each piece of audio begins with a WAV header, unless this is False.
    `additional_headers`: go along with the opening handshake.
    `serializer`: a FrameSerializer; None: Pipecat's protobuf frames.
    `reconnect_s`: for how long a connection that broke is tried again; 0: it is over. Not Pipecat's.
    """

    add_wav_header: bool = True
    additional_headers: dict[str, str] | None = None
    reconnect_s: float = Field(default=0.0, ge=0)


class WebsocketClientTransport(WebsocketTransport):
    """Connects to `uri` at StartFrame, and closes when the pipeline has ended and its last word was sent.

    Events: on_connected(websocket), on_disconnected(websocket). A server that cannot be reached is an error of the
    input's, which does not end the pipeline. While there is no connection audio is dropped.
    """

    def __init__(
        self,
        uri: str,
        params: WebsocketClientParams | None = None,
        input_name: str | None = None,
        output_name: str | None = None,
        *,
        finisher: Finisher | None = None,
    ) -> None:
        super().__init__(params or WebsocketClientParams(), input_name, output_name, finisher=finisher)
        self.uri = uri
        self._over = asyncio.Event()
        self._connecting = self._used = False
        for event in ("on_connected", "on_disconnected"):
            self._register_event_handler(event)

    def prepare(self, frame: StartFrame) -> None:
        super().prepare(frame)
        self._go_on(frame)

    def _begin(self, frame: StartFrame) -> None:
        if not self._connecting:
            self._connecting = True
            self._run(self._live(frame), "client")

    def _end(self) -> None:
        self._over.set()

    async def _live(self, frame: StartFrame) -> None:
        params: Any = self.params
        loop, lost_at = asyncio.get_running_loop(), 0.0
        while not self._over.is_set():
            try:
                connection = await connect(
                    self.uri,
                    additional_headers=params.additional_headers,
                    compression=None,
                    open_timeout=OPEN_S,
                    close_timeout=CLOSE_WAIT_S,
                )
            except (OSError, TimeoutError, WebSocketException) as exc:
                if not lost_at or loop.time() - lost_at > params.reconnect_s:
                    self._input.push_error(f"cannot connect: {type(exc).__name__}", exc)
                    return
                await self._pause(0.2)
                continue
            lost = await self._carry(connection, frame)
            if not lost or not params.reconnect_s:
                return
            lost_at = loop.time()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    async def _carry(self, connection: ClientConnection, frame: StartFrame) -> bool:
        """One connection, to its end. Gives whether it broke."""
        codes: list[int] = []

        async def receive() -> Event:
            try:
                data = await connection.recv()
            except ConnectionClosed as exc:
                codes.append(exc.rcvd.code if exc.rcvd is not None else 1006)
                return {"type": "websocket.disconnect", "code": codes[0]}
            return {"type": "websocket.receive", "text" if isinstance(data, str) else "bytes": data}

        async def send(event: Event) -> None:
            if event["type"] == "websocket.close":
                await connection.close(event["code"])
            else:
                await connection.send(event["text"] if "text" in event else event["bytes"])

        session = self._connect(connection, receive, send, self._next_serializer())
        self._tell("on_connected", connection)
        try:
            self._welcome(connection)
            await session.carry(frame)
        finally:
            await connection.close()
        self._tell("on_disconnected", connection)
        return not self._over.is_set() and codes[:1] == [1006]

    def _next_serializer(self) -> Any:
        """The given one for the first connection; it keeps what the server says, so the next one gets its like."""
        given, used = self.params.serializer, self._used
        self._used = True
        if given is None:
            return ProtobufFrameSerializer()
        return given.fresh() if used and isinstance(given, FrameSerializer) else given
