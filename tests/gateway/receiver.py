"""A receiver of event webhooks on loopback, which answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Delivery:
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        return json.loads(self.body)  # type: ignore[no-any-return]

    @property
    def told(self) -> tuple[str, str]:
        return self.event["kind"], self.event["call"]["call_id"]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


class Receiver:
    def __init__(self, answer: Callable[[Delivery], Answer] = lambda delivery: Answer()) -> None:
        self.answer = answer
        self.deliveries: list[Delivery] = []
        self.taken: list[Delivery] = []  # those that were answered with 2xx
        self.at_once = self.most_at_once = 0
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/calls"

    @property
    def told(self) -> list[tuple[str, str]]:
        return [delivery.told for delivery in self.taken]

    @contextlib.asynccontextmanager
    async def listening(self, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls)
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
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                    headers = {
                        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
                    }
                    body = await reader.readexactly(int(headers.get("content-length", "0")))
                    delivery = Delivery(head[0].split(" ")[1], headers, body)
                    self.deliveries.append(delivery)
                    self.at_once += 1
                    self.most_at_once = max(self.most_at_once, self.at_once)
                    answer = self.answer(delivery)
                    await asyncio.sleep(answer.delay_s)
                    self.at_once -= 1
                    if 200 <= answer.status < 300:
                        self.taken.append(delivery)
                    lines = [f"HTTP/1.1 {answer.status} X", "content-length: 0"]
                    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
                    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()
