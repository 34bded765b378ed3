"""The other workers of this gateway: what one asks of another, over the other's Unix socket.

A webhook, a media socket and a request to the control API may each land on another worker. What belongs to a live call
is done where the call is. The socket lies in a folder that only this user can enter: who can write to it is us.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from gateway.control import ControlError
from gateway.lean import socket as lean
from gateway.store import CallKey, StoreError, Worker

if TYPE_CHECKING:
    from gateway.app import Gateway

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.colleagues")

Answer = Callable[[Mapping[str, Any]], Awaitable[Any]]
Socket = Callable[[Any, Any, Any], Awaitable[None]]  # ASGI
ASK_S = 5.0


class _Quiet(uvicorn.Server):
    """A second server in the process: signals are the first one's."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Colleagues:
    """Where this worker is asked, and how it asks the others.

    Args:
        endpoint: path of this worker's socket; "": it is the only one, and there is nobody to ask.
    """

    def __init__(self, gateway: Gateway, endpoint: str = "") -> None:
        self._gateway, self.endpoint = gateway, endpoint
        self._answers: dict[str, Answer] = {}
        self._sockets: dict[str, Socket] = {}
        self._server: _Quiet | None = None
        self._serving: asyncio.Task[None] | None = None
        self._clients: dict[str, httpx.AsyncClient] = {}  # by endpoint

    @property
    def name(self) -> str:
        """Which worker this is; "" for the only one."""
        return os.path.basename(self.endpoint).partition(".")[0]

    def answers(self, what: str, answer: Answer) -> None:
        """Asked for `what`, this worker answers with what `answer(body)` gives."""
        self._answers[what] = answer

    def takes(self, path: str, socket: Socket) -> None:
        """A WebSocket of another worker's to `path` is `socket`'s; before `open`."""
        self._sockets[path] = socket

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        if not self.endpoint:
            return
        sockets = [WebSocketRoute(path, socket) for path, socket in self._sockets.items()]
        app = Starlette(routes=[*sockets, Route("/{what}", self._asked, methods=["POST"])])
        config = uvicorn.Config(
            app,
            uds=self.endpoint,
            ws=lean.PROTOCOL,
            ws_ping_interval=None,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Quiet(config)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve(), name="colleagues")
        await self._server.up.wait()

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait({self._serving})

    # ------------------------------------------------------------ being asked

    async def _asked(self, request: Request) -> Response:
        answer = self._answers.get(request.path_params["what"])
        if answer is None:
            return Response(status_code=404)
        try:
            given = await answer(msgspec.json.decode(await request.body()))
        except ControlError as exc:
            return Response(msgspec.json.encode(str(exc)), exc.status)
        except StoreError as exc:
            return Response(msgspec.json.encode(str(exc)), 503)
        return Response(msgspec.json.encode(given))

    # ------------------------------------------------------------ asking

    async def ask(self, colleague: Worker, what: str, body: Mapping[str, Any]) -> Any:
        """What that worker answers. ControlError: it cannot be done, or the worker does not answer."""
        client = self._clients.get(colleague.endpoint)
        if client is None:
            transport = httpx.AsyncHTTPTransport(uds=colleague.endpoint, verify=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://colleague", timeout=ASK_S, trust_env=False)
            self._clients[colleague.endpoint] = client
        try:
            reply = await client.post(f"/{what}", content=msgspec.json.encode(body))
        except httpx.HTTPError as exc:
            raise ControlError(503, f"the worker that has it does not answer ({type(exc).__name__})") from None
        if reply.status_code != 200:
            if reply.status_code not in _TOLD or not reply.content:
                raise ControlError(502, "the worker that has it failed")  # what a server says then is no JSON
            raise ControlError(reply.status_code, str(msgspec.json.decode(reply.content)))
        return msgspec.json.decode(reply.content)

    async def owner(self, key: CallKey, now: float) -> Worker | None:
        """Who has that call, if it is another worker."""
        if not self.endpoint:
            return None
        owner = await self._gateway.store.owner(key, now)
        return owner if owner is not None and self._is_other(owner) else None

    async def others(self, now: float) -> Sequence[Worker]:
        if not self.endpoint:
            return ()
        return [one for one in await self._gateway.store.workers(now) if self._is_other(one)]

    def _is_other(self, worker: Worker) -> bool:
        """Whether it is another one of this machine: those of other machines may share the database."""
        same_folder = os.path.dirname(worker.endpoint) == os.path.dirname(self.endpoint)
        return same_folder and worker.id != self._gateway.worker.id

    async def tell(self, worker: str, what: str, body: Mapping[str, Any], now: float) -> None:
        """Tell that worker, if it is there; what fails is logged."""
        for colleague in await self.others(now):
            if colleague.id == worker:
                await self._ask_one(colleague, what, body)

    async def ask_all(self, what: str, body: Mapping[str, Any], now: float) -> Sequence[Any]:
        """What each of the others answers; one that does not is logged and left out."""
        others = await self.others(now)
        given = await asyncio.gather(*(self._ask_one(colleague, what, body) for colleague in others))
        return [one for one in given if one is not None]

    async def _ask_one(self, colleague: Worker, what: str, body: Mapping[str, Any]) -> Any:
        try:
            return await self.ask(colleague, what, body)
        except ControlError as exc:
            log.warning("colleague.silent", worker=colleague.id, what=what, problem=str(exc))
            return None


_TOLD = (404, 409, 422, 503)
