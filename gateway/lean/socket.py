"""The protocol class for uvicorn's `ws=`: ASGI for everybody, and for who asks for it the socket itself."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final, cast
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected, get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from gateway.lean import EXTENSION, DirectSocket, Taker, frames
from gateway.lean.frames import Broken, Closed, Parser, Ping, Pong
from gateway.lean.handshake import BadRequest, Handshake, Upgrade
from gateway.lean.rounds import IS_POSSIBLE, Member, Rounds, send_now

LINGER_S = 2.0  # after the application's end: for what was sent last to be read, and for the peer's half of the close
CLOSE_S = 10.0  # for the same while the application still runs
QUEUED_LIMIT: Final = 65_536  # bytes of messages that wait for the application; then the peer waits
_EMPTY_WEIGHT: Final = 64  # bytes of an event without its data

log = logging.getLogger("gateway.lean")

Event = dict[str, Any]


class Phase(Enum):
    CONNECTING = 0  # the request is not all there, or the application has not answered it
    REFUSING = 1  # the application gives an HTTP answer
    OPEN = 2
    CLOSING = 3  # we have said that we close, and the peer has not
    CLOSED = 4  # nothing that comes counts any more


_OPEN: Final = Phase.OPEN  # an enumeration's members are found slowly


class LeanSocket(Member):
    """One connection, from the request for an upgrade to its end: an asyncio.Protocol in all but the base class, for
    which the compiled build would look up each attribute."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config, self._state, self._app_state = config, server_state, app_state
        self._connections = cast(set[Any], server_state.connections)  # uvicorn's type names its own classes only
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._phase = Phase.CONNECTING
        self._handshake: Handshake | None = Handshake()  # None: it is done
        self._upgrade: Upgrade | None = None
        self._early = bytearray()  # what a client sends that does not wait for our answer
        self._refusal: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._body = bytearray()
        self._parser = Parser(config.ws_max_size)
        self._owed: bytes | None = None  # the payload of a ping that could not be answered at once
        self._lost = False
        self._end: Event | None = None  # what the application is told, or has been
        self._closed_by_application = False
        self._is_left = False  # the application has ended
        self._timer: asyncio.TimerHandle | None = (
            None  # then a connection that is being closed ends, one way or another
        )
        self._context: contextvars.Context | None = None  # of the application's task
        self.is_writable = True
        # For an application that receives and sends.
        self._queue: deque[Event] = deque()
        self._queued = 0  # bytes
        self._reading = True
        self._waiter: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        # In rounds.
        self._rounds: Rounds | None = None
        self._number = -1  # of the socket; -1: the loop reads it
        self._is_behind = False  # the transport had to be given what the socket did not take at once
        # For one that has taken over.
        self._taker: Taker | None = None
        self._on_message: Callable[[str | bytes], None] | None = None
        # Keep-alive.
        self._asked: bytes | None = None  # the payload that has to come back
        self._ping_timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------ the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave_rounds()
        self._lost, self._phase = True, Phase.CLOSED
        self._connections.discard(self)
        self._stop_pinging()
        if self._timer is not None:
            self._timer.cancel()
        self.is_writable = True
        self._wake(self._writers)
        self._over(frames.ABNORMAL)

    def data_received(self, data: bytes) -> None:
        if self._handshake is not None:
            self._shake_hands(data)
            return
        take = self._on_message
        # What `feed`, `_call` and `_write` do, without their calls: a third of what a message costs here.
        if take is not None and self._phase is _OPEN and (message := self._parser.message(data)) is not None:
            try:
                if self._context is None:
                    take(message)
                else:
                    self._context.run(take, message)
            except Exception:
                self._taker_failed()
            return
        for event in self._parser.feed(data):
            if type(event) is str or type(event) is bytes:
                if self._phase is not _OPEN:
                    continue  # we have closed
                if self._on_message is None:
                    self._put({"type": "websocket.receive", "text" if type(event) is str else "bytes": event})
                else:
                    self._call(self._on_message, event)
            else:
                _CONTROLS[type(event)](self, event)

    def eof_received(self) -> None:
        """The peer has gone, or sends no more: without a close frame that is the end."""
        if self._phase is _OPEN:
            self._shut(frames.ABNORMAL)

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        if self._owed is not None and self._phase is _OPEN:
            self._write(frames.pong(self._owed))
            self._owed = None
        self._wake(self._writers)
        if self._taker is not None:
            self._call(self._taker.on_writable)

    def shutdown(self) -> None:
        """The server goes down."""
        if self._phase is _OPEN:
            self._write(frames.close(frames.SERVICE_RESTART))
        elif self._phase is Phase.CONNECTING and self._upgrade is not None:
            self._refuse(500)
        self._shut(frames.SERVICE_RESTART)

    # ------------------------------------------------------------ the handshake

    def _shake_hands(self, data: bytes) -> None:
        assert self._handshake is not None
        if self._upgrade is None:
            try:
                self._upgrade = self._handshake.feed(data)
            except BadRequest as exc:
                self._write(self._handshake.answer(exc))
                self._shut(frames.ABNORMAL)
                return
            if self._upgrade is not None:
                self._early += self._handshake.rest
                self._begin(self._upgrade)
        elif self._phase is Phase.CONNECTING:
            self._early += data
            if len(self._early) > QUEUED_LIMIT:
                self._transport.abort()

    def _begin(self, upgrade: Upgrade) -> None:
        path, _, query = upgrade.target.partition(b"?")
        root = self._config.root_path
        scope = {
            "type": "websocket",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(self._transport) else "ws",
            "server": get_local_addr(self._transport),
            "client": get_remote_addr(self._transport),
            "root_path": root,
            "path": root + unquote(path.decode("ascii")),
            "raw_path": root.encode("ascii") + path,
            "query_string": query,
            "headers": upgrade.headers,
            "subprotocols": upgrade.subprotocols,
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}, EXTENSION: {"take_over": self.take_over}},
        }
        self._put({"type": "websocket.connect"})
        self._context = contextvars.copy_context()
        task = self._loop.create_task(self._run(scope), context=self._context)
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    async def _run(self, scope: Event) -> None:
        code = frames.NORMAL
        try:
            await self._config.loaded_app(scope, self._receive, self._send)
            if self._phase is Phase.CONNECTING or self._phase is Phase.REFUSING:
                log.error("websocket.not_answered: the application has neither accepted nor refused it")
        except ClientDisconnected:
            pass  # it learned so by sending
        except asyncio.CancelledError:
            code = frames.SERVICE_RESTART
            raise
        except Exception:
            code = frames.INTERNAL_ERROR
            log.exception("websocket.application_failed")
        finally:
            self._taker = self._on_message = self._context = None
            if self._phase is Phase.CONNECTING:
                self._refuse(500)
            elif self._phase is Phase.REFUSING:
                self._shut(frames.ABNORMAL)
            elif self._phase is _OPEN:
                self.close(code)
            self._queue.clear()
            self._resume_reading()
            self._is_left = True
            self._end_soon()

    def _accept(self, event: Event) -> None:
        assert self._handshake is not None
        assert self._upgrade is not None
        headers = [*self._state.default_headers, *event.get("headers", ())]
        self._write(self._handshake.accepted(self._upgrade, headers, event.get("subprotocol")))
        self._phase, self._handshake = Phase.OPEN, None
        self._ping_later()
        if self._early:
            early = bytes(self._early)
            self._early.clear()
            self.data_received(early)

    def _refuse(self, status: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b"") -> None:
        assert self._handshake is not None
        self._write(self._handshake.refused(status, [*self._state.default_headers, *headers], body))
        self._shut(frames.ABNORMAL)

    # ------------------------------------------------------------ the application, in the way of ASGI

    async def _receive(self) -> Event:
        while not self._queue:
            if self._end is not None:
                return dict(self._end)
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        event = self._queue.popleft()
        self._queued -= _weight(event)
        if self._queued < QUEUED_LIMIT // 2:
            self._resume_reading()
        return event

    async def _send(self, event: Event) -> None:
        while not self.is_writable and self._phase is not Phase.CLOSED:
            waiter = self._loop.create_future()
            self._writers.append(waiter)
            await waiter
        send = _SENDS.get((self._phase, event["type"]))
        if send is not None:
            send(self, event)
        elif self._lost or (self._phase is Phase.CLOSED and not self._closed_by_application):
            raise ClientDisconnected
        else:
            raise RuntimeError(f"{event['type']} cannot be sent by a WebSocket that is {self._phase.name.lower()}")

    def _start_refusal(self, event: Event) -> None:
        self._refusal, self._phase = (event["status"], list(event.get("headers", ()))), Phase.REFUSING

    def _add_to_refusal(self, event: Event) -> None:
        assert self._refusal is not None
        self._body += event.get("body", b"")
        if not event.get("more_body", False):
            self._closed_by_application = True
            self._refuse(*self._refusal, bytes(self._body))

    def _reject(self, event: Event) -> None:
        self._closed_by_application = True
        self._refuse(403)

    def _say(self, event: Event) -> None:
        data = event.get("bytes")
        self.send(event["text"] if data is None else data)

    def _say_goodbye(self, event: Event) -> None:
        self.close(event.get("code", frames.NORMAL), event.get("reason") or "")

    def _put(self, event: Event) -> None:
        """For the application to receive."""
        self._queue.append(event)
        self._queued += _weight(event)
        if self._queued > QUEUED_LIMIT and self._reading and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()
        if self._waiter is not None:
            self._wake([self._waiter])

    def _resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            if not self._transport.is_closing():
                self._transport.resume_reading()

    @staticmethod
    def _wake(waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        waiters.clear()

    # ------------------------------------------------------------ the application that has taken over

    def take_over(self, taker: Taker) -> DirectSocket:
        """From now on the socket, once accepted, is `taker`'s; it gets at once what had come before.

        Nothing is received or sent in the way of ASGI any more. It ends with the application at the latest.
        """
        if self._phase is Phase.CONNECTING or self._phase is Phase.REFUSING or self._taker is not None:
            raise RuntimeError("only a WebSocket that was accepted can be taken over, once")
        self._taker, self._on_message = taker, taker.on_message
        while self._queue and not self._closed_by_application:
            event = self._queue.popleft()
            if event["type"] == "websocket.receive":
                taker.on_message(event["text"] if "text" in event else event["bytes"])
        self._queue.clear()
        self._queued = 0
        self._resume_reading()
        if self._end is not None and not self._closed_by_application:
            self._taker = self._on_message = None
            taker.on_close(self._end["code"])
        return self

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        """In the context of the application's task, which waits meanwhile."""
        try:
            if self._context is None:
                function(*arguments)
            else:
                self._context.run(function, *arguments)
        except Exception:
            self._taker_failed()

    def _taker_failed(self) -> None:
        log.exception("websocket.taker_failed")
        self._on_broken(Broken(frames.INTERNAL_ERROR, ""))

    def send(self, *messages: str | bytes) -> None:
        if self._phase is not _OPEN:
            return
        self._write(frames.message(messages[0]) if len(messages) == 1 else b"".join(map(frames.message, messages)))

    def read_in(self, rounds: Rounds) -> None:
        if not IS_POSSIBLE or self._phase is not _OPEN or self._transport.is_closing() or is_ssl(self._transport):
            return
        socket = self._transport.get_extra_info("socket")
        if socket is None:
            return
        number: int = socket.fileno()
        self._transport.pause_reading()
        try:
            rounds.add(number, self)
        except OSError:  # no descriptor is left
            self._transport.resume_reading()
            return
        self._rounds, self._number, self._is_behind = rounds, number, True

    def hand_back(self) -> None:
        if self._leave_rounds() and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        self._leave_rounds()
        self._transport.abort()

    def _leave_rounds(self) -> bool:
        rounds, self._rounds = self._rounds, None
        if rounds is None:
            return False
        rounds.discard(self._number)
        self._number = -1
        return True

    def close(self, code: int = frames.NORMAL, reason: str = "") -> None:
        if self._phase is not _OPEN:
            return
        self._write(frames.close(code, reason))
        self._closed_by_application, self._phase = True, Phase.CLOSING
        self._taker = self._on_message = None
        self._stop_pinging()
        self.hand_back()
        self._end_soon()
        self._resume_reading()
        self._over(code, reason)

    # ------------------------------------------------------------ control frames, and the end

    def _on_ping(self, ping: Ping) -> None:
        if self._phase is not _OPEN:
            return
        if self.is_writable:
            self._write(frames.pong(ping.payload))
        else:
            self._owed = ping.payload  # the last of several is enough

    def _on_pong(self, pong: Pong) -> None:
        if self._asked is not None and pong.payload == self._asked:
            self._asked = None
            if self._config.ws_ping_timeout is not None:
                self._ping_later()

    def _on_closed(self, closed: Closed) -> None:
        if self._phase is _OPEN:
            self._write(frames.close(closed.code))
        self._shut(closed.code, closed.reason)

    def _on_broken(self, broken: Broken) -> None:
        """Tell the peer what was wrong, where it can still hear."""
        if self._phase is not _OPEN:
            self._shut(broken.code)
            return
        self._write(frames.close(broken.code, broken.problem))
        self._shut(broken.code, broken.problem, half=self._transport.can_write_eof())

    def _shut(self, code: int, reason: str = "", *, half: bool = False) -> None:
        """What is written still goes, nothing that comes counts.

        Args:
            half: go on reading until the peer has gone: what it has sent would else reset the connection, and what we
                have said would be lost.
        """
        self._phase = Phase.CLOSED
        self._stop_pinging()
        self.hand_back()
        if half and not self._transport.is_closing():
            self._resume_reading()
            self._transport.write_eof()
        else:
            self._transport.close()
        self._end_soon()
        self._wake(self._writers)
        self._over(code, reason)

    def _write(self, data: bytes) -> None:
        if self._number >= 0 and not (self._is_behind and self._transport.get_write_buffer_size()):
            sent = send_now(self._number, data)
            self._is_behind = sent < len(data)
            if not self._is_behind:
                return
            data = data[sent:]
        if not self._transport.is_closing():  # it may be, and has not told us yet
            self._transport.write(data)

    def _end_soon(self) -> None:
        """The transport waits for a peer that does not read, or does not close, only so long."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._lost:
            self._timer = self._loop.call_later(LINGER_S if self._is_left else CLOSE_S, self._transport.abort)

    def _over(self, code: int, reason: str = "") -> None:
        """Tell the application, once."""
        if self._end is not None:
            return
        self._end = {"type": "websocket.disconnect", "code": code, "reason": reason}
        taker, self._taker, self._on_message = self._taker, None, None
        if taker is not None:
            self._call(taker.on_close, code)
        elif self._waiter is not None:
            self._wake([self._waiter])

    # ------------------------------------------------------------ keep-alive

    def _ping_later(self) -> None:
        interval = self._config.ws_ping_interval
        if interval:
            self._ping_timer = self._loop.call_later(interval, self._ping)

    def _ping(self) -> None:
        self._asked = secrets.token_bytes(4)
        self._write(frames.ping(self._asked))
        if self._config.ws_ping_timeout is None:
            self._ping_later()
        else:
            self._ping_timer = self._loop.call_later(self._config.ws_ping_timeout, self._unanswered)

    def _unanswered(self) -> None:
        """A peer that is gone without a word."""
        self._write(frames.close(frames.INTERNAL_ERROR, "keepalive ping timeout"))
        self._shut(frames.ABNORMAL)

    def _stop_pinging(self) -> None:
        self._asked = None
        if self._ping_timer is not None:
            self._ping_timer.cancel()
            self._ping_timer = None


PROTOCOL = cast("type[asyncio.Protocol]", LeanSocket)  # for uvicorn's `ws=`

_CONTROLS: dict[type, Callable[[LeanSocket, Any], None]] = {
    Ping: LeanSocket._on_ping,
    Pong: LeanSocket._on_pong,
    Closed: LeanSocket._on_closed,
    Broken: LeanSocket._on_broken,
}

# What an application may send when.
_SENDS: dict[tuple[Phase, str], Callable[[LeanSocket, Event], None]] = {
    (Phase.CONNECTING, "websocket.accept"): LeanSocket._accept,
    (Phase.CONNECTING, "websocket.close"): LeanSocket._reject,
    (Phase.CONNECTING, "websocket.http.response.start"): LeanSocket._start_refusal,
    (Phase.REFUSING, "websocket.http.response.body"): LeanSocket._add_to_refusal,
    (Phase.OPEN, "websocket.send"): LeanSocket._say,
    (Phase.OPEN, "websocket.close"): LeanSocket._say_goodbye,
}


def _weight(event: Event) -> int:
    """Bytes, about, of an event that waits."""
    return _EMPTY_WEIGHT + len(event.get("text") or event.get("bytes") or b"")
