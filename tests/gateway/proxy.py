"""A reverse proxy on loopback that does to requests what it is told to: one connection for each, WebSockets too."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str  # path and query
    headers: tuple[tuple[str, str], ...] = field(default=())
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def is_upgrade(self) -> bool:
        return any(name.lower() == "upgrade" for name, _ in self.headers)

    def to(self, path: str, query: str | None = None) -> Request:
        """With another path, or another query too."""
        query = self.query if query is None else query
        return replace(self, target=path + (f"?{query}" if query else ""))

    def without(self, *names: str) -> Request:
        return replace(self, headers=tuple(pair for pair in self.headers if pair[0].lower() not in names))

    def having(self, **headers: str) -> Request:
        """With these headers in place of what was there; underscores stand for dashes."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return replace(self.without(*given), headers=(*self.without(*given).headers, *given.items()))

    def saying(self, body: bytes) -> Request:
        return replace(self, body=body)


Edit = Callable[[Request], Request | str]  # a text is the answer, which the gateway never hears of


def answer(status: int, body: str = "", **headers: str) -> str:
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines) + "\r\n\r\n" + body


class Proxy:
    """Stands before the server on `target` (a port of loopback)."""

    def __init__(
        self,
        target: int = 0,
        edit: Edit = lambda request: request,
        *,
        tls: ssl.SSLContext | None = None,
        idle_s: float | None = None,
    ) -> None:
        self.target, self.edit, self.tls, self.idle_s = target, edit, tls, idle_s
        self.port = 0
        self.requests: list[Request] = []  # as they came
        self._writers: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in tuple(self._writers):
                writer.transport.abort()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                request = await _read(reader)
                self.requests.append(request)
                edited = self.edit(request)
                if isinstance(edited, str):
                    writer.write(edited.encode())
                    await writer.drain()
                    return
                await self._forward(edited, reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _forward(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_gateway, to_gateway = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.write(answer(502).encode())
            await writer.drain()
            return
        self._writers.add(to_gateway)
        try:
            if not request.is_upgrade:
                request = request.having(connection="close")
            if request.body or any(name.lower() == "content-length" for name, _ in request.headers):
                request = request.having(content_length=str(len(request.body)))
            lines = [
                f"{request.method} {request.target} HTTP/1.1",
                *(f"{name}: {value}" for name, value in request.headers),
            ]
            to_gateway.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + request.body)
            back = asyncio.create_task(_pipe(from_gateway, writer, self.idle_s))
            there = asyncio.create_task(_pipe(reader, to_gateway))
            try:
                await back
            finally:
                there.cancel()
                back.cancel()
        finally:
            self._writers.discard(to_gateway)
            to_gateway.close()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = tuple((name, value.strip()) for name, colon, value in (line.partition(":") for line in head[1:]) if colon)
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    return Request(method, target, headers, await reader.readexactly(length))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle_s: float | None = None) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        while data := await asyncio.wait_for(reader.read(65536), idle_s):
            writer.write(data)
            await writer.drain()
