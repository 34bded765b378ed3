"""Plain TCP for many calls of one process, read in rounds.

An event loop is woken for every packet, and a packet of each call comes every 20 ms. Here nobody is: when the round
comes, whatever waits in the kernel is read, many connections at once, with the moment at which the kernel took it; so
a late round makes nothing late that it reads. Where there is no epoll, or where the connection is encrypted, the
loop's own transports do the same work (`gateway/load/generator.py`).
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from struct import Struct
from typing import Protocol

READ = 16_384  # bytes at a time
_IN, _OUT = getattr(select, "EPOLLIN", 1), getattr(select, "EPOLLOUT", 4)
_END = getattr(select, "EPOLLRDHUP", 0x2000)  # the other side has closed
_STAMPS = 35  # SO_TIMESTAMPNS of Linux, which Python does not name: the moment of each packet, by the clock of the day
AT_ONCE_S = 50e-6
_STAMP = Struct("@ll")  # struct timespec
_SPACE = socket.CMSG_SPACE(_STAMP.size) if hasattr(socket, "CMSG_SPACE") else 0


def available() -> bool:
    return hasattr(select, "epoll") and bool(_SPACE)


class Reader(Protocol):
    """Whose connection it is."""

    def received(self, data: bytes, now: float) -> None:
        """`now`: when it came, by time.monotonic."""

    def connection_lost(self, exc: Exception | None) -> None: ...


class Sockets:
    """All connections of a process, where they are `available`."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._pipes: dict[int, Pipe] = {}
        self._ended: list[Pipe] = []
        self.began = time.monotonic()  # of the round
        self.ahead = time.time() - self.began  # the clock of the day, of time.monotonic

    def add(self, connected: socket.socket, reader: Reader) -> Pipe:
        """A pipe over a socket that does not block."""
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # another system: the round's own moment is told
            connected.setsockopt(socket.SOL_SOCKET, _STAMPS, 1)
        pipe = Pipe(self, connected, reader)
        self._pipes[connected.fileno()] = pipe
        self._poll.register(connected.fileno(), _IN)
        return pipe

    def round(self) -> None:
        """Read all that has come, and tell of the connections that have ended."""
        self._compare()
        pipes = self._pipes
        for number, event in self._poll.poll(0, len(pipes) or 1):
            pipe = pipes.get(number)  # None: ended by what another has read
            if pipe is not None:
                pipe.ready(event)
        while self._ended:
            self._ended.pop().reader.connection_lost(None)

    def _compare(self) -> None:
        """The two clocks; where something came between, what was known before holds."""
        self.began, of_day = time.monotonic(), time.time()
        took = time.monotonic() - self.began
        if took < AT_ONCE_S:
            self.ahead = of_day - self.began - took / 2

    def close(self) -> None:
        for pipe in list(self._pipes.values()):
            pipe.abort()
        self._ended.clear()
        self._poll.close()

    # ------------------------------------------------------------ for the pipes

    def watch(self, number: int, events: int) -> None:
        self._poll.modify(number, events)

    def end(self, number: int) -> None:
        """The round's end tells."""
        self._poll.unregister(number)
        self._ended.append(self._pipes.pop(number))


class Pipe:
    """One connection, with an asyncio.Transport's methods as far as they are needed."""

    __slots__ = ("_closing", "_is_read", "_number", "_rest", "_socket", "_sockets", "reader")

    def __init__(self, sockets: Sockets, connected: socket.socket, reader: Reader) -> None:
        self._sockets, self._socket, self.reader = sockets, connected, reader
        self._number = connected.fileno()
        self._rest = bytearray()  # what the kernel has not taken
        self._closing = False
        self._is_read = True

    def write(self, data: bytes) -> None:
        if self._number < 0:
            return
        if self._rest:
            self._rest += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return
        if sent < len(data):
            self._rest += memoryview(data)[sent:]
            if self._is_read:
                self._sockets.watch(self._number, _IN | _OUT)

    def close(self) -> None:
        """As soon as all is written."""
        if self._rest and self._is_read:
            self._closing = True
        else:
            self.abort()

    def abort(self) -> None:
        """Now."""
        if self._number >= 0:
            number, self._number = self._number, -1
            self._sockets.end(number)
            self._socket.close()

    def pause_reading(self) -> None:
        """For good. The end is still told, where the kernel gets to know of it: not behind more than it takes."""
        self._is_read = False
        if self._number >= 0:
            self._sockets.watch(self._number, _END)

    def ready(self, event: int) -> None:
        if not self._is_read:
            self.abort()
            return
        if event & _OUT:
            self._flush()
        if event & ~_OUT and self._number >= 0:
            try:
                data, stamps, _, _ = self._socket.recvmsg(READ, _SPACE)
            except BlockingIOError:
                return
            except OSError:
                self.abort()
                return
            if not data:
                self.abort()
                return
            now = self._sockets.began
            if stamps:
                seconds, nanoseconds = _STAMP.unpack(stamps[0][2])
                now = seconds + nanoseconds * 1e-9 - self._sockets.ahead
            self.reader.received(data, now)

    def _flush(self) -> None:
        rest, self._rest = bytes(self._rest), bytearray()
        self._sockets.watch(self._number, _IN)
        self.write(rest)
        if self._closing and not self._rest:
            self.abort()
