"""One connection of a transport: a call core and its session, for a pipeline that a task of the user's drives."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import structlog

from gateway.clock import Clock
from gateway.core import CallCore
from gateway.direct_wire import CloseSoon
from gateway.finisher import Finisher
from gateway.ports import CallLimits
from gateway.records import LogSink
from gateway.session import CallSession
from gateway.states import OVER, CallEvent, CallState
from gateway.transports.ends import TransportInput, TransportOutput
from gateway.transports.faces import Faces
from gateway.transports.params import WebsocketParams
from gateway.wires import AsgiWire, Receive, Send
from media.call import Variables
from media.frames import (
    AudioRawFrame,
    CallStartedFrame,
    CancelFrame,
    CancelTaskFrame,
    EndFrame,
    EndTaskFrame,
    Frame,
    InputAudioRawFrame,
    InputTransportMessageFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    StartFrame,
    UserAudioRawFrame,
)
from media.processor import FrameDirection
from media.wav import wav_header
from serializers.base import Message

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.transports")

# The program, not the gateway, says how long a call lasts and how quiet it may be. The last words end within the time
# that a task has for its clean-up.
LIMITS = CallLimits(silence_s=math.inf, longest_s=math.inf, drain_s=10.0)

_sink = LogSink()
_NOT_OVER = (CallState.OPENING, CallState.LIVE, CallState.PAUSED)


class Credentials:
    """The hang-up of a serializer that a user built with credentials: handed to the finisher, once."""

    def __init__(self, faces: Faces, finisher: Finisher) -> None:
        self._request = faces.wire.hang_up_request
        self._finisher = finisher
        self._asked = False

    def can_transfer(self, target: str) -> bool:
        return False

    def transfer(self, target: str) -> float | None:
        return None

    def hang_up(self, reason: str) -> float | None:
        request = None if self._asked else self._request()
        if request is None:
            return None
        self._asked = True
        return self._finisher.submit(request)

    def lost(self) -> None:
        self.hang_up("socket-lost")

    def stream_over(self) -> None:
        """It is the program's serializer that hangs up, when the program's task ends."""


class _Fill:
    """In the outbox: what is left of a packet of fixed size is filled up and goes."""


_FILL: Any = _Fill()


class TransportCall(CallCore):
    """A call core whose pipeline begins and ends with a transport's processors, and is driven by somebody else.

    It is live as soon as StartFrame has come, since a program may have read the carrier's start message itself;
    only a protocol that opens with an answer of ours (`opens`) has to be waited for.
    """

    takes: ClassVar[Mapping[type, str]] = {
        **CallCore.takes,
        InputTransportMessageFrame: "_on_message",
        UserAudioRawFrame: "_on_audio",
    }

    input: TransportInput
    output: TransportOutput

    def __init__(
        self,
        faces: Faces,
        session: TransportSession,
        ends: tuple[TransportInput, TransportOutput],
        params: WebsocketParams,
        *,
        finisher: Finisher,
        gone: Callable[[], None],
        now: float,
    ) -> None:
        super().__init__(faces.wire, session, limits=LIMITS, control=Credentials(faces, finisher), ends=ends, now=now)
        self._params = params
        self._chunk_ms = 0  # as the program wants it, where it does
        if "audio_out_10ms_chunks" in params.model_fields_set and faces.serialize is None:
            self._chunk_ms = 10 * params.audio_out_10ms_chunks
        self._gone = gone
        self._out_rate = 0
        self._told_start = False  # the carrier has said which call this is
        self._cuts = getattr(params, "fixed_audio_packet_size", None) is not None
        self._wav = params.add_wav_header and not faces.wire.carrier
        self._held = []  # until StartFrame has gone on from the input

    # ------------------------------------------------------------ the pipeline begins

    def prepare(self, frame: StartFrame, now: float) -> None:
        """StartFrame has come: the rates are known, and the call begins."""
        self.set_rates(frame)
        if self._params.add_wav_header and not self._wav:
            log.warning("transport.no_wav_header", carrier=self.serializer.carrier)
        self.opened = self._started = self._last_heard = now
        self._deadline = now + self.limits.start_s
        if not self.serializer.opens:
            self._move(CallEvent.STARTED, "", now)

    def set_rates(self, frame: StartFrame) -> None:
        params = self._params
        self._out_rate = params.audio_out_sample_rate or frame.audio_out_sample_rate
        self._in_rate = params.audio_in_sample_rate or frame.audio_in_sample_rate
        self.serializer.begin(self._in_rate)

    def replay(self, messages: Iterable[Message], now: float) -> None:
        """What was read before there was a call."""
        for data in messages:
            self.receive(data, now)

    def hear(self) -> None:
        """StartFrame has gone on from the input: what has come so far may follow it."""
        held, self._held = self._held or (), None
        for frame in held:
            self._push(frame)

    def interrupted(self, frame: InterruptionFrame) -> None:
        """An interruption was pushed somewhere in the pipeline."""
        self.interrupting(frame)
        self.output.announced(frame)

    def give_up(self, reason: str) -> None:
        """The pipeline is gone, or another client has come: the socket closes."""
        if self.state in _NOT_OVER:
            self._move(CallEvent.CANCELLED, reason, self.now())

    def replaced(self) -> None:
        """Another client has taken the place of this one."""
        self._move(CallEvent.SOCKET_CLOSED, "replaced", self.now())

    # ------------------------------------------------------------ frames off the wire

    def take_frames(self, frames: Sequence[Frame], now: float) -> None:
        """What a serializer gave that had to be awaited."""
        self._last_heard = now
        if self.state not in OVER:
            self._take_frames(frames, now)

    def _take_frames(self, frames: Sequence[Frame], now: float) -> None:
        for frame in frames:
            if isinstance(frame, AudioRawFrame) and type(frame.audio) is not bytes:
                frame.audio = bytes(frame.audio)  # a user's serializer may give any buffer, the core wants bytes
        super()._take_frames(frames, now)

    def bad_message(self, problem: str) -> None:
        self._bad_message(problem, "")

    def _on_audio(self, frame: InputAudioRawFrame, now: float) -> None:
        if self._held is not None:
            self._push(frame)
        elif self.state is CallState.LIVE and self.input.listening:
            self.input.take_audio(frame)

    def _on_message(self, frame: InputTransportMessageFrame, now: float) -> None:
        if self._held is not None:
            self._push(frame)
        elif self.input.listening:
            self.input.broadcast_frame_instance(frame)

    def _push(self, frame: Frame) -> None:
        if self._held is not None:
            super()._push(frame)
        elif isinstance(frame, InputAudioRawFrame):
            self._on_audio(frame, self.now())
        elif isinstance(frame, InputTransportMessageFrame):
            self._on_message(frame, self.now())
        elif self.input.listening:
            self.input.push_frame(frame)

    def _on_started(self, frame: CallStartedFrame, now: float) -> None:
        if self._told_start:
            self._bad_message("a second start", "")
            return
        self._told_start = True
        self.info = frame.call
        self.variables = Variables(self.info.parameters)
        self._caller_audio.begin(self.info)
        structlog.contextvars.bind_contextvars(call=self.info.call_id, carrier=self.info.carrier)
        self._move(CallEvent.STARTED, "", now)
        self.output.opened()
        receive, send = self.info.receive, self.info.send
        log.info(
            "call.started",
            receive=f"{receive.encoding}/{receive.sample_rate}/{receive.channels}",
            send=f"{send.encoding}/{send.sample_rate}",
        )

    # ------------------------------------------------------------ the wire, as the output stage sees it

    @property
    def send_rate(self) -> int:
        return self.serializer.send_rate or self._out_rate

    @property
    def packet_ms(self) -> int:
        own = self.serializer.packet_ms
        return max(own, self._chunk_ms - self._chunk_ms % own) if self.serializer.carrier else self._chunk_ms or own

    @property
    def cushion_ms(self) -> int:
        return 0  # what the user's program says goes as it is

    @property
    def is_open(self) -> bool:
        return self._told_start or not self.serializer.opens

    def send_audio(self, pcm: bytes) -> int:
        if self._wav:
            pcm = wav_header(len(pcm), self.send_rate) + pcm
        waiting = super().send_audio(pcm)
        self.shell.wake()
        return waiting

    def send(self, frame: Frame) -> None:
        if self.state not in OVER:
            super().send(frame)
            self.shell.wake()

    def flush(self) -> int:
        padding = super().flush()
        if self._cuts:
            self.outbox.add((_FILL,), media=True)
        self.shell.wake()
        return padding

    def released(self, frame: Frame) -> None:
        super().released(frame)
        if self.state in OVER and isinstance(frame, EndFrame | CancelFrame) and self.control is not None:
            self.control.hang_up(self.reason)  # the caller has left; whether the call has ended is the carrier's word

    # ------------------------------------------------------------ the end

    def _end(self, event: CallEvent, reason: str, now: float) -> None:
        """Somebody other than the user's task wants the call to end: it is asked to."""
        if self.state in _NOT_OVER and self.input.listening:
            self.input.push_frame(EndTaskFrame(reason), FrameDirection.UPSTREAM)

    def cancel(self, reason: str = "cancelled") -> None:
        if self.input.listening:
            self.input.push_frame(CancelTaskFrame(reason), FrameDirection.UPSTREAM)
        self._move(CallEvent.CANCELLED, reason, self.now())

    def _over(self, event: CallEvent, now: float) -> None:
        super()._over(event, now)
        self.output.abandon()
        self._gone()


class Pieces:
    """Binary messages, cut and joined to pieces of exactly `size` bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rest = b""

    def add(self, data: bytes) -> Sequence[bytes]:
        data = self._rest + data
        whole = len(data) - len(data) % self._size
        self._rest = data[whole:]
        return [data[at : at + self._size] for at in range(0, whole, self._size)]

    @property
    def missing(self) -> int:
        """Bytes that the last piece lacks; 0 if there is none."""
        return self._size - len(self._rest) if self._rest else 0

    def clear(self) -> None:
        self._rest = b""


class TransportSession(CallSession):
    """The shell of a transport's call."""

    core: TransportCall

    def __init__(
        self,
        receive: Receive,
        send: Send,
        clock: Clock,
        faces: Faces,
        *,
        fixed_size: int | None = None,
    ) -> None:
        self.wire = TransportWire(receive, send, clock, faces, fixed_size)
        super().__init__(self.wire, clock)
        self._faces = faces

    async def carry(self, frame: StartFrame) -> None:
        """The whole call, from StartFrame on."""
        async with self._clock.running():
            if self._faces.setup is not None:
                try:
                    await self._faces.setup(frame)
                except Exception:
                    log.exception("transport.setup_failed")
            record = await self.run()
        _sink.put(record)

    def _ended(self, task: Any) -> None:
        """A task of this call has ended: what it raised is logged, and the user's pipeline goes on."""
        super(CallSession, self)._ended(task)


class TransportWire(AsgiWire):
    """A transport's way to its socket. What has to be awaited of a user's serializer is awaited here."""

    def __init__(self, receive: Receive, send: Send, clock: Clock, faces: Faces, fixed_size: int | None) -> None:
        super().__init__(receive, send, clock)
        self._faces = faces
        self._call: TransportCall  # from `carry` on
        self._pieces = Pieces(fixed_size) if fixed_size else None
        self._epoch = 0  # of the audio in `_pieces`
        self.waiting: Sequence[Message] = ()  # read before there was a session, and not decoded yet

    # ------------------------------------------------------------ in

    async def carry(self, core: CallCore, close_soon: CloseSoon) -> None:
        assert isinstance(core, TransportCall)
        self._call = core
        await super().carry(core, close_soon)

    async def _read(self, core: CallCore) -> None:
        for message in self.waiting:
            await self._deserialize(message)
        await super()._read(core)

    def _take(self, core: CallCore, data: Message) -> Awaitable[None] | None:
        return self._deserialize(data) if self._faces.waits_in else super()._take(core, data)

    async def _deserialize(self, data: Message) -> None:
        try:
            frames = await self._faces.deserialize(data)
        except Exception:
            log.debug("transport.deserialize_failed", size=len(data), exc_info=True)
            self._call.bad_message("the serializer failed")
            return
        self._call.take_frames(frames, self._clock.now())

    # ------------------------------------------------------------ out

    async def _put(self, message: Any) -> None:
        if isinstance(message, str):
            await super()._put(message)
            return
        if message is _FILL:
            await self._fill()
            return
        if isinstance(message, Frame):
            epoch = self._call.output.epoch
            message = await self._serialize(message)
            if message is None or (epoch != self._call.output.epoch and isinstance(message, bytes)):
                return
        if self._pieces is None or isinstance(message, str):
            await super()._put(message)
            return
        if self._epoch != self._call.output.epoch:
            self._epoch = self._call.output.epoch
            self._pieces.clear()
        for piece in self._pieces.add(message):
            await super()._put(piece)

    async def _serialize(self, frame: Frame) -> Message | None:
        assert self._faces.serialize is not None
        try:
            return await self._faces.serialize(frame)
        except Exception:
            self._faces.failed(frame)
            return None

    async def _fill(self) -> None:
        """Silence, as the serializer writes it, until the last piece is full."""
        pieces, core = self._pieces, self._call
        if pieces is None or not pieces.missing or self._epoch != core.output.epoch:
            return
        rate = core.send_rate
        silence = OutputAudioRawFrame(bytes(2 * (rate * core.packet_ms // 1000)), rate, 1)
        while missing := pieces.missing:
            if self._faces.serialize is not None:
                message = await self._serialize(silence)
                messages: Sequence[Message] = () if message is None else (message,)
            else:
                messages = core.serializer.encode(silence)
            filler = b"".join(message for message in messages if isinstance(message, bytes))
            if not filler:
                return
            for piece in pieces.add(filler[:missing]):
                await super()._put(piece)
