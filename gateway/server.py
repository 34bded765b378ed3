"""`gateway serve`: uvicorn with our own way of stopping."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.app import Gateway
from gateway.lean import socket as lean
from gateway.routes import create_app, tell_cannot_start
from gateway.store import StoreError

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.serve")

T = TypeVar("T")

REQUEST_S = 10.0  # for the whole head of a request, the handshake of a media socket among them


def run(main: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, on uvloop where there is one. `uvicorn.Server.serve` takes the loop it finds."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


class HttpSocket(H11Protocol):
    """A connection that has to make its request in time: uvicorn waits for the first one for ever."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting = self.loop.call_later(REQUEST_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._has_asked()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(REQUEST_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_asked()
        super().connection_lost(exc)

    def _has_asked(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class StockSocket(WebSocketsSansIOProtocol):
    """The stock protocol, with a socket that is gone soon after its call, also where the peer has stopped reading.

    uvicorn closes the transport, which first writes what is still waiting: to a peer that does not read, for ever.
    """

    _linger: asyncio.TimerHandle | None = None
    _lost = False

    async def run_asgi(self) -> None:
        await super().run_asgi()
        if not self._lost:
            self._linger = self.loop.call_later(lean.LINGER_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self.handshake_complete and self.conn.close_rcvd is None:
            # uvicorn would say 1005, as of a peer that has closed: this one has said nothing.
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
        if self._linger is not None:
            self._linger.cancel()
        super().connection_lost(exc)


WEBSOCKETS: dict[str, type[asyncio.Protocol]] = {"lean": lean.PROTOCOL, "websockets": StockSocket}


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
        try:
            await self._gateway.open()  # here, because uvicorn has a traceback for what fails in its lifespan
        except StoreError as exc:
            tell_cannot_start(exc)
            self.should_exit = True
            self.up.set()
            return
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn has logged why; in a task its exit would tear the loop down
            self.should_exit = True
            if not self.lifespan.should_exit:  # what it serves is up
                remedy = "is another gateway running? give another port (--port), and an address of this machine"
                log.error("gateway.cannot_listen", host=self.config.host, port=self.config.port, remedy=remedy)
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
            self._gateway.calls.cut()  # it is we who end them, before uvicorn closes their sockets
            self.should_exit = self.force_exit = True

    async def _drain_then_stop(self) -> None:
        live = len(self._gateway.calls)
        hint = {"hint": "a second signal ends them at once"} if live else {}
        log.info("gateway.draining", calls=live, limit_s=self._gateway.settings.gateway.drain_s, **hint)
        try:
            await self._gateway.drain()
        finally:
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:
            # uvicorn leaves the lifespan's task to be cancelled then, and reports that as an error.
            await self.lifespan.shutdown()

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
        http=HttpSocket,
        ws=WEBSOCKETS[settings.websocket],
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
        proxy_headers=False,  # who may say where a request came from is for `trusted_proxies` to decide
        **more,
    )
    return Server(gateway, config)
