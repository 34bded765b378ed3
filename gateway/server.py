"""`gateway serve`: uvicorn with our own way of stopping."""

from __future__ import annotations

import asyncio
import socket
from types import FrameType
from typing import Any

import structlog
import uvicorn

from gateway.app import Gateway, create_app

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.serve")


class Server(uvicorn.Server):
    """Drains before it stops: uvicorn itself closes every WebSocket with 1012 as soon as it is told to."""

    def __init__(self, gateway: Gateway, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.up = asyncio.Event()  # listening, or unable to

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.up.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain, then stop. Second: stop now."""
        if self._loop is None or self.should_exit:
            self.should_exit = self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self._signalled)  # we may stand anywhere in the loop's own code

    def _signalled(self) -> None:
        if self._drain is None:
            self._drain = asyncio.get_running_loop().create_task(self._drain_then_stop(), name="drain")
        else:
            self.should_exit = self.force_exit = True

    async def _drain_then_stop(self) -> None:
        live = len(self._gateway.calls)
        log.info("gateway.draining", calls=live, limit_s=self._gateway.settings.gateway.drain_s)
        try:
            await self._gateway.drain()
        finally:
            self.should_exit = True

    @property
    def port(self) -> int:
        """The port that is listened on; known once `started`."""
        for server in self.servers:
            for listener in server.sockets:
                return int(listener.getsockname()[1])
        return self.config.port


def server(gateway: Gateway, *, host: str | None = None, port: int | None = None, **more: Any) -> Server:
    """A server for `gateway`, not yet running: `await server(...).serve()`."""
    settings = gateway.settings.gateway
    config = uvicorn.Config(
        create_app(gateway),
        host=settings.host if host is None else host,
        port=settings.port if port is None else port,
        loop="uvloop",
        http="h11",
        ws="websockets-sansio",
        # Carriers answer pings late or not at all: silence of the media is the sign of death, not a missing pong.
        ws_ping_interval=None,
        ws_ping_timeout=None,
        ws_per_message_deflate=False,
        ws_max_size=settings.max_message_bytes,
        timeout_graceful_shutdown=5,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        **more,
    )
    return Server(gateway, config)
