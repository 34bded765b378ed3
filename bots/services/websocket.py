"""A vendor's WebSocket that is there when it is needed: connected ahead, kept alive, and opened anew when it breaks.

Nothing that a caller says waits for it: `send` queues, within bounds, also while there is no connection.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from bots.services.base import AIService
from bots.services.http import tls
from bots.services.tts import TTSService
from media.errors import ServiceError
from media.frames import CancelFrame, EndFrame, StartFrame

log = logging.getLogger(__name__)

Message = str | bytes

CONNECT_S = 5.0
CLOSE_S = 1.0
WAITING_BYTES = 1_000_000  # queued for a line that is not there, or is slow: two minutes of mu-law
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0  # between attempts to connect
STABLE_S = 5.0  # a connection that lasted so long starts the pauses anew

_FATAL = frozenset({400, 401, 402, 403, 404})  # asking again gives the same answer


class Line:
    """One service's line to its vendor. Everything but `close` is plain and never waits.

    A message that cannot be understood (`take` raises) costs itself. An outage is told once, as an ErrorFrame of the
    service: when connecting fails, or when the line breaks while `busy` says that something is awaited from it.

    Args:
        service: whose line it is: runs its tasks, pushes its errors, has its events on_connected, on_disconnected and
            on_connection_error.
        address: the URL and the headers, asked for at each attempt.
        take: gets each message.
        opened: gives what is sent first on each connection, ahead of what is queued.
        lost: called when a connection has broken, before the next attempt.
        busy: whether something is awaited from the vendor.
        idle: sent when the line has been silent for `idle_s`; None sends nothing.
    """

    def __init__(
        self,
        service: AIService,
        *,
        address: Callable[[], tuple[str, Mapping[str, str]]],
        take: Callable[[Message], None],
        opened: Callable[[], Iterable[Message]] = tuple,
        lost: Callable[[], None] = lambda: None,
        busy: Callable[[], bool] = lambda: False,
        idle: Message | None = None,
        idle_s: float = 5.0,
        waiting_bytes: int = WAITING_BYTES,
    ) -> None:
        self._service, self._address, self._take = service, address, take
        self._opened, self._lost, self._busy = opened, lost, busy
        self._idle, self._idle_s, self._limit = idle, idle_s, waiting_bytes
        self._waiting: deque[Message] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._task: Any = None
        self._closing = False
        self._refused = False
        self._told = False
        self.connected = False
        self.connections = 0
        self.failures = 0  # attempts and connections that went wrong
        self.dropped = 0  # messages that found no room
        self.misunderstood = 0  # messages that could not be read

    # ------------------------------------------------------------ from the service

    def open(self) -> None:
        """Connect, in the background, and stay connected."""
        self._closing = self._refused = False
        if self._task is None:
            self._task = self._service.run_beside(self._run(), "line")

    def send(self, message: Message) -> None:
        """In order. The oldest goes if there is no room: a line that comes back is asked for what is said now."""
        if self._closing or self._refused:
            return
        waiting = self._waiting
        waiting.append(message)
        self._waiting_bytes += len(message)
        while self._waiting_bytes > self._limit:
            self._waiting_bytes -= len(waiting.popleft())
            if not self.dropped:
                log.warning("line.overflow service=%s: it takes less than it is sent", self._service)
            self.dropped += 1
        self._wake.set()

    def require(self) -> None:
        """Raises ServiceError if the vendor has refused us for good."""
        if self._refused:
            raise ServiceError(type(self._service).__name__, "the vendor has refused the connection")

    def forget(self, *, sound_only: bool = False) -> None:
        """What is queued will not be sent; with `sound_only` what is text will."""
        kept = [message for message in self._waiting if sound_only and isinstance(message, str)]
        self._waiting.clear()
        self._waiting.extend(kept)
        self._waiting_bytes = sum(map(len, kept))

    async def close(self, *farewell: Message) -> None:
        """Say what is queued, then `farewell`, and close; within CLOSE_S."""
        for message in farewell:
            self.send(message)
        self._closing = True
        self._wake.set()
        task, self._task = self._task, None
        if task is not None:
            if not self.connected:
                task.cancel()
            await self._service.runtime.settle((task,))

    def reopen(self) -> None:
        """The address has changed: connect anew; what is queued is kept."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self.connected = False
            self._lost()
            self.open()

    # ------------------------------------------------------------ the line

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while not self._closing:
            began = loop.time()
            problem, wait_s = await self._one_connection()
            was_connected, self.connected = self.connected, False
            if self._closing:
                return
            self.failures += 1
            if was_connected:
                await self._event("on_disconnected")
                if self._busy():
                    self._tell(problem)
                if loop.time() - began > STABLE_S:
                    pause_s = FIRST_PAUSE_S
                self._lost()
            else:
                self._tell(problem)
            if self._refused:
                self.forget()
                self._lost()
                return
            await asyncio.sleep(max(pause_s, wait_s))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _one_connection(self) -> tuple[ServiceError, float]:
        """From connecting to the end of it; gives why it ended, and how long the vendor wants to be left alone."""
        name = type(self._service).__name__
        wait_s = 0.0
        try:
            url, headers = self._address()
            async with connect(
                url,
                additional_headers=dict(headers),
                open_timeout=CONNECT_S,
                close_timeout=CLOSE_S,
                compression=None,
                max_size=1 << 24,
                ssl=tls() if url.startswith("wss:") else None,
            ) as socket:
                self._told = False
                self.connected = True
                self.connections += 1
                await self._event("on_connected")
                await self._carry(socket)
                problem = f"the line was closed: {socket.close_code} {(socket.close_reason or '')[:120]}".rstrip()
        except InvalidStatus as exc:
            status = exc.response.status_code
            self._refused = status in _FATAL
            retry_after = exc.response.headers.get("retry-after", "")
            wait_s = float(retry_after) if retry_after.isdigit() else 0.0
            problem = f"refused with HTTP {status}"
        except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as exc:
            problem = f"no connection: {type(exc).__name__}" if not self.connected else f"the line broke: {exc}"
        except Exception as exc:  # an address that is none, or a header that is none
            self._refused = True
            problem = f"cannot connect: {type(exc).__name__}: {exc}"
        return ServiceError(name, problem, retryable=not self._refused), wait_s

    async def _carry(self, socket: ClientConnection) -> None:
        """Send what is queued and take what comes, until one of both ends."""
        for message in self._opened():
            await socket.send(message)
        writer = asyncio.ensure_future(self._write(socket))
        try:
            async for message in socket:
                try:
                    self._take(message)
                except ServiceError as exc:
                    self._service.fail(exc)
                except Exception as exc:
                    self.misunderstood += 1
                    if self.misunderstood & (self.misunderstood - 1) == 0:  # 1, 2, 4, ...
                        self._service.fail(exc, f"message {self.misunderstood} that is not understood")
        finally:
            writer.cancel()
            await asyncio.wait((writer,))

    async def _write(self, socket: ClientConnection) -> None:
        waiting, wake = self._waiting, self._wake
        try:
            while True:
                while waiting:
                    message = waiting.popleft()
                    self._waiting_bytes -= len(message)
                    await socket.send(message)
                if self._closing:
                    await socket.close()
                    return
                wake.clear()
                try:
                    async with asyncio.timeout(self._idle_s if self._idle is not None else None):
                        await wake.wait()
                except TimeoutError:
                    await socket.send(self._idle or "")
        except ConnectionClosed:
            return  # the reader knows

    def _tell(self, problem: ServiceError) -> None:
        if not self._told:
            self._told = True
            self._service.fail(problem)
            self._service._call_event_handler("on_connection_error", str(problem))

    async def _event(self, name: str) -> None:
        self._service._call_event_handler(name)


def socket_url(base_url: str, path: str, query: Mapping[str, Any]) -> str:
    """wss://..., also where the base is written as https; None leaves a key out."""
    base = base_url.replace("http", "ws", 1) if base_url.startswith("http") else base_url
    words = {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in query.items()
        if value is not None
    }
    return f"{base.rstrip('/')}{path}?{urlencode(words, doseq=True)}"


class SocketTTSService(TTSService):
    """Speech over a vendor's WebSocket. A provider overrides `address` and `take`, and `run_tts` sends by `line`."""

    closes_contexts = True

    @property
    def line(self) -> Line:
        """Raises ServiceError where nothing can be said."""
        line = self._vendor_line
        if line is None:
            raise ServiceError(type(self).__name__, "the service is not started")
        line.require()
        return line

    _vendor_line: Line | None = None

    @abstractmethod
    def address(self) -> tuple[str, Mapping[str, str]]:
        """URL and headers."""

    @abstractmethod
    def take(self, message: Message) -> None:
        """A message has come."""

    def lost(self) -> None:
        """The connection is gone, and what was asked on it."""
        for context_id in tuple(self._open):
            if all(context_id != utterance.context_id for utterance in self._to_speak):
                self.close_context(context_id)

    def start(self, frame: StartFrame) -> None:
        self._vendor_line = Line(
            self, address=self.address, take=self.take, lost=self.lost, busy=lambda: bool(self._open)
        )
        self._vendor_line.open()

    async def stop(self, frame: EndFrame) -> None:
        return  # the EndFrame has yet to come to its turn behind what is spoken; cleaning up closes the line

    async def cancel(self, frame: CancelFrame) -> None:
        if self._vendor_line is not None:
            self._vendor_line.forget()
            await self._vendor_line.close()

    def settings_changed(self, changed: set[str]) -> None:
        if self._vendor_line is not None:
            self._vendor_line.reopen()
