"""What a transport is, and what those over a WebSocket have in common."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any

import structlog

from gateway.clock import shared_clock
from gateway.finisher import Finisher, process_finisher
from gateway.transports.call import TransportCall, TransportSession
from gateway.transports.ends import TransportInput, TransportOutput
from gateway.transports.faces import Faces, Silence
from gateway.transports.params import TransportParams, WebsocketParams
from gateway.transports.sound import Later
from gateway.wires import Receive, Send
from media.events import DONE, BaseObject, Handle
from media.flow import Runtime
from media.frames import ClientConnectedFrame, InterruptionFrame, StartFrame
from media.processor import FrameProcessor
from serializers.base import Message

__all__ = ["BaseTransport", "TransportParams", "WebsocketTransport"]

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.transports")

CLOSING_S = 35.0  # for a call to end by its own rules: its last words, the goodbye, the closing handshake


class BaseTransport(BaseObject):
    """A way in and a way out for a pipeline: `input()` stands first in it, `output()` where the bot's audio is done."""

    def __init__(
        self, *, name: str | None = None, input_name: str | None = None, output_name: str | None = None
    ) -> None:
        super().__init__(name=name)
        self._input_name, self._output_name = input_name, output_name

    @abstractmethod
    def input(self) -> FrameProcessor: ...

    @abstractmethod
    def output(self) -> FrameProcessor: ...


class WebsocketTransport(BaseTransport):
    """A transport over WebSockets, of which one at a time is connected.

    The socket's call (gateway/core.py) outlives the pipeline's last frame: cleaning the last of the two ends up waits
    until the caller has heard the last word and the socket is closed.

    Events: on_client_connected(websocket), on_client_disconnected(websocket) unless the pipeline ended first, and
    on_session_timeout(websocket). None of them ends the pipeline; the program does.
    """

    def __init__(
        self,
        params: WebsocketParams,
        input_name: str | None = None,
        output_name: str | None = None,
        *,
        finisher: Finisher | None = None,
    ) -> None:
        super().__init__(input_name=input_name, output_name=output_name)
        self.params = params
        self._finisher = finisher if finisher is not None else process_finisher()
        self._input = TransportInput(self, name=input_name)
        self._output = TransportOutput(self, name=output_name)
        self._joined: set[str] = set()  # names of the ends that are in a pipeline now
        self._runtime: Runtime | None = None
        self._interrupts: Handle | None = None  # the runtime tells us of interruptions
        self._start: StartFrame | None = None
        self._call: TransportCall | None = None  # the one that is up
        self._running: set[asyncio.Task[None]] = set()  # what has to end before the pipeline's clean-up does
        for event in ("on_client_connected", "on_client_disconnected", "on_session_timeout"):
            self._register_event_handler(event)

    def input(self) -> TransportInput:
        return self._input

    def output(self) -> TransportOutput:
        return self._output

    # ------------------------------------------------------------ what a kind of transport does

    def prepare(self, frame: StartFrame) -> None:
        """StartFrame has come to one of the ends; called for each of them, before it goes on."""
        self._start = frame

    def begin(self, frame: StartFrame, end: TransportInput | TransportOutput) -> None:
        """StartFrame has gone on from `end`; the input, where it is in the pipeline, is the one that counts."""
        if end is self._input or self._input.name not in self._joined:
            self._begin(frame)

    @abstractmethod
    def _begin(self, frame: StartFrame) -> None:
        """The pipeline has started: connect, or go on after a StopFrame."""

    def _end(self) -> None:
        """The pipeline is being cleaned up; a call that is up was told."""

    # ------------------------------------------------------------ the pipeline

    def join(self, end: TransportInput | TransportOutput, runtime: Runtime) -> None:
        if self._runtime is not runtime:
            self._leave_runtime()
            self._runtime = self._base.drives = runtime
            # A call core offers no such thing: what it interrupts is its own output.
            listen = getattr(runtime, "add_interrupter", None)
            self._interrupts = listen(self._interrupted) if listen is not None else None
        self._joined.add(end.name)

    def leave(self, end: TransportInput | TransportOutput) -> Awaitable[None]:
        self._joined.discard(end.name)
        if self._joined:
            return DONE
        if self._call is not None:
            self._call.give_up("pipeline-ended")
        self._end()
        return Later(self._finish)

    def _leave_runtime(self) -> None:
        if self._interrupts is not None:
            self._interrupts.cancel()
        self._interrupts = self._runtime = None
        self._joined.clear()

    async def _finish(self) -> None:
        """Until nothing is left: no session, no handler of an event."""
        self._leave_runtime()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=CLOSING_S)
            for task in late:
                log.error("transport.will_not_end", transport=str(self), task=task.get_name())
                task.cancel()
        await self.cleanup()

    def _interrupted(self, frame: InterruptionFrame) -> None:
        if self._call is not None:
            self._call.interrupted(frame)

    # ------------------------------------------------------------ a connection

    def _connect(
        self, websocket: Any, receive: Receive, send: Send, serializer: Any, read: Sequence[Message] = ()
    ) -> TransportSession:
        """A call over an open socket, from which `read` has been read already. Its session's `carry` runs it."""
        frame, clock = self._start, shared_clock()
        assert frame is not None
        faces = Faces(serializer if serializer is not None else Silence())
        fixed = getattr(self.params, "fixed_audio_packet_size", None)
        session = TransportSession(receive, send, clock, faces, fixed_size=fixed)
        call = session.core = TransportCall(
            faces,
            session,
            (self._input, self._output),
            self.params,
            finisher=self._finisher,
            gone=lambda: self._gone(call, websocket),
            now=clock.now(),
        )
        self._call = call
        call.prepare(frame, clock.now())
        self._output.attach(call)
        if faces.waits_in:
            session.wire.waiting = read
        else:
            call.replay(read, clock.now())
        return session

    def _go_on(self, frame: StartFrame) -> None:
        """Another pipeline has taken over, after a StopFrame."""
        if self._call is not None:
            self._call.set_rates(frame)

    def _welcome(self, websocket: Any) -> None:
        """The other side is here: tell everybody, then let it be heard."""
        call = self._call
        assert call is not None
        timeout = getattr(self.params, "session_timeout", None)
        if timeout is not None:
            call.call_later(timeout, lambda: self._tell("on_session_timeout", websocket))
        self._tell("on_client_connected", websocket)
        if self._input.listening:
            self._input.push_frame(ClientConnectedFrame())
        call.hear()

    def _gone(self, call: TransportCall, websocket: Any) -> None:
        if self._call is call:
            self._call = None
        if call.ended_by != "bot":  # the program does not know yet
            self._tell("on_client_disconnected", websocket)

    def _tell(self, event_name: str, *args: Any) -> None:
        self._call_event_handler(event_name, *args)

    def _run(self, coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task that the pipeline's clean-up waits for."""
        task = asyncio.get_running_loop().create_task(coro, name=f"{self}::{name}")
        self._running.add(task)
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("transport.task_failed", transport=str(self), task=task.get_name(), exc_info=exc)
