"""Webhooks to the gateway under test, at a sixth of what a client for every purpose takes of the generator's core."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import h11

from gateway.simulator.web import Reply

ANSWER_S = 10.0
MAX_REPLY_BYTES = 1_000_000
KEPT = 50  # connections that wait for the next webhook
_PIECE = 65_536


class NotDelivered(Exception):
    """A webhook came to no answer; the text says why, in a word."""


class _Road:
    """One connection: one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._talk = h11.Connection(h11.CLIENT)
        self.used = False

    @property
    def is_open(self) -> bool:
        return not self._writer.is_closing() and not self._reader.at_eof()

    async def ask(self, request: h11.Request, body: bytes) -> Reply:
        """Raises OSError, h11.RemoteProtocolError."""
        talk = self._talk
        parts = [talk.send(request), talk.send(h11.Data(data=body)) if body else b"", talk.send(h11.EndOfMessage())]
        self._writer.write(b"".join(part for part in parts if part))
        reply, got = Reply(status=0), bytearray()
        while True:
            event = talk.next_event()
            if event is h11.NEED_DATA:
                piece = await self._reader.read(_PIECE)
                if not piece and not reply.status:
                    raise ConnectionResetError("closed before it answered")
                talk.receive_data(piece)
            elif isinstance(event, h11.Response):
                names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in event.headers}
                reply = Reply(status=event.status_code, headers=names)
            elif isinstance(event, h11.Data):
                got += event.data
                if len(got) > MAX_REPLY_BYTES:
                    raise h11.RemoteProtocolError("the answer is too long")
            elif isinstance(event, h11.EndOfMessage):
                break
        if talk.our_state is h11.DONE and talk.their_state is h11.DONE:
            talk.start_next_cycle()
        else:
            self.close()  # by the gateway's wish
        return Reply(status=reply.status, headers=reply.headers, body=bytes(got))

    def close(self) -> None:
        self._writer.close()


class Courier:
    """Keeps connections for the next webhook. TLS has the certificates of `tls`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._free: dict[tuple[str, str, int], list[_Road]] = {}

    async def deliver(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Raises NotDelivered."""
        there = urlsplit(url)
        target = (there.path or "/") + (f"?{there.query}" if there.query else "")
        fields = [(name, value) for name, value in headers.items() if name.lower() != "content-length"]
        if body:
            fields.append(("content-length", str(len(body))))
        request = h11.Request(method=method, target=target, headers=fields)
        port = there.port or (443 if there.scheme == "https" else 80)
        place = there.scheme, there.hostname or "127.0.0.1", port
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._ask(place, request, body)
        except (OSError, TimeoutError, h11.RemoteProtocolError) as exc:
            raise NotDelivered(type(exc).__name__) from exc

    async def _ask(self, place: tuple[str, str, int], request: h11.Request, body: bytes) -> Reply:
        while True:
            road = await self._road(place)
            done = False
            try:
                reply = await road.ask(request, body)
                done = True
            except ConnectionError:
                if not road.used:
                    raise
                continue  # kept for so long that the gateway has closed it
            finally:
                if not done:
                    road.close()
            free = self._free.setdefault(place, [])
            if road.is_open and len(free) < KEPT:
                road.used = True
                free.append(road)
            else:
                road.close()
            return reply

    async def _road(self, place: tuple[str, str, int]) -> _Road:
        free = self._free.get(place)
        while free:
            road = free.pop()
            if road.is_open:
                return road
            road.close()
        scheme, host, port = place
        return _Road(*await asyncio.open_connection(host, port, ssl=self._tls if scheme == "https" else None))

    def close(self) -> None:
        for roads in self._free.values():
            for road in roads:
                road.close()
        self._free.clear()
