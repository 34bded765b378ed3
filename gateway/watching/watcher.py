"""One watcher: what waits for its socket, and how much of what it says is read."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import structlog

from gateway.tokens import WatchClaims
from gateway.wires import Receive, Send
from serializers.base import Message

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.watching")

BACKLOG: Final = 512 * 1024  # bytes that wait for one watcher
BLOCKED_S: Final = 10.0  # without anything having left: it is gone
READY_S: Final = 30.0  # for its client-ready
PER_S: Final = 300.0  # messages, or kB, that are read of one watcher
BURST: Final = 600.0
LARGEST: Final = 256 * 1024  # bytes of one message of a watcher's


class Entry(NamedTuple):
    message: Message
    size: int
    t: float | None  # of a piece of sound: seconds of the call at which it begins
    lasts_s: float = 0.0


class Watcher:
    """The socket of one watcher.

    Args:
        gap: makes the message that tells from when on sound follows and how much was dropped: (t, dropped_s).
    """

    def __init__(
        self, claims: WatchClaims, receive: Receive, send: Send, gap: Callable[[float, float], Message]
    ) -> None:
        self.claims = claims
        self.is_ready = False  # it has said client-ready: it may be told
        self.dropped_s = 0.0  # of sound, in all
        self.close_code = 0  # why it leaves; 0: it stays
        self._receive, self._send, self._gap = receive, send, gap
        self._waiting: deque[Entry] = deque()
        self._bytes = 0
        self._awake = asyncio.Event()
        self._sending_since: float | None = None
        self._sound_until: float | None = None  # seconds of the call up to which it has sound
        self._lost_s = 0.0  # of sound dropped since it was told

    # ------------------------------------------------------------ to it

    def tell(self, message: Message) -> None:
        self._add(Entry(message, len(message), None))

    def hear(self, message: Message, t: float, lasts_s: float) -> None:
        """A piece of sound: of what waits for a slow watcher, the oldest of it goes first."""
        self._add(Entry(message, len(message), t, lasts_s))

    def _add(self, entry: Entry) -> None:
        if self.close_code:
            return
        self._waiting.append(entry)
        self._bytes += entry.size
        while self._bytes > BACKLOG:
            if not self._drop_sound():
                self.leave(1008)
                self._waiting.clear()
                return
        self._awake.set()

    def _drop_sound(self) -> bool:
        for position, entry in enumerate(self._waiting):
            if entry.t is not None:
                del self._waiting[position]
                self._bytes -= entry.size
                self.dropped_s += entry.lasts_s
                self._lost_s += entry.lasts_s
                return True
        return False

    def leave(self, code: int) -> None:
        """It is told what still waits, and its socket is closed."""
        self.close_code = self.close_code or code
        self._awake.set()

    def look(self, now: float) -> bool:
        """Whether it reads at all; `now` of time.monotonic. Else it leaves."""
        since = self._sending_since
        if since is not None and now - since > (1.0 if self.close_code else BLOCKED_S):
            self.leave(1008)
            return False
        return True

    # ------------------------------------------------------------ life

    async def run(self, take: Callable[[Message], None]) -> None:
        """Until one side has had enough. `take` is given what the watcher says; it must not raise."""
        loop = asyncio.get_running_loop()
        tasks = {
            loop.create_task(self._write(), name="watch-writer"),
            loop.create_task(self._read(take), name="watch-reader"),
            loop.create_task(self._gone(), name="watch-limits"),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._waiting.clear()

    async def _gone(self) -> None:
        """Ends when the writer is stuck, or the watcher never says that it is ready."""
        began = time.monotonic()
        while self.look(now := time.monotonic()):
            if not self.is_ready and now - began > READY_S:
                self.leave(1008)
            await asyncio.sleep(1.0)

    async def _write(self) -> None:
        send, awake = self._send, self._awake
        try:
            while True:
                while self._waiting:
                    entry = self._waiting.popleft()
                    self._bytes -= entry.size
                    if entry.t is not None:
                        await self._say_gap(entry.t)
                        self._sound_until = entry.t + entry.lasts_s
                    await self._put(entry.message)
                if self.close_code:
                    await send({"type": "websocket.close", "code": self.close_code, "reason": ""})
                    return
                awake.clear()
                await awake.wait()
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # the server's own exceptions for a socket that is gone
            log.debug("watching.send_failed", problem=repr(exc))

    async def _say_gap(self, t: float) -> None:
        """Binary messages have no room for their time: it is told where it cannot be counted on from the last one."""
        if self.claims.format != "json" or (self._sound_until is not None and abs(t - self._sound_until) < 0.001):
            return
        message, self._lost_s = self._gap(t, self._lost_s), 0.0
        await self._put(message)

    async def _put(self, message: Message) -> None:
        self._sending_since = time.monotonic()
        await self._send(outgoing(message))
        self._sending_since = None

    async def _read(self, take: Callable[[Message], None]) -> None:
        """No faster than a person or a page has something to say; what is more waits in its own machine."""
        left, at = BURST, time.monotonic()
        while True:
            event = await self._receive()
            if event["type"] != "websocket.receive":
                return
            data = event.get("text")
            data = event["bytes"] if data is None else data
            now = time.monotonic()
            left, at = min(BURST, left + (now - at) * PER_S) - 1 - len(data) / 1024, now
            take(data)
            if left < 0:
                await asyncio.sleep(-left / PER_S)


def outgoing(message: Message) -> dict[str, Any]:
    if isinstance(message, str):
        return {"type": "websocket.send", "text": message}
    return {"type": "websocket.send", "bytes": message}
