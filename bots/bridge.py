"""The call goes to a program of yours over a WebSocket: audio, keys and events there, audio and commands back.

Two ways of writing the same: `plain` (audio as binary messages of s16le, everything else as JSON text) and `protobuf`
(Pipecat's frames, the JSON in their messages). docs/bots.md has the messages.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from annotated_types import Gt, Interval, MinLen
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, WebSocketException

from bots.base import Bot, Build, Call, PrepareContext
from bots.hearing import ears
from media.errors import GatewayError, RemoteProtocolError, ServiceError
from media.events import Handle, MaybeAwaitable
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    KeypadEntry,
    OutputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
    SpeechOutputAudioRawFrame,
    StartFrame,
)
from media.processor import FrameDirection, FrameProcessor
from media.secret import Secret
from serializers.protobuf import ProtobufFrameSerializer

log = logging.getLogger(__name__)

KEPT_S: Final = 3.0  # of the caller's audio for a program that reads too slowly, or is away; then the oldest goes
AHEAD_S: Final = 60.0  # of the program's audio that waits to be heard; what is more is dropped
STALE_S: Final = 1.0  # after an interruption of ours, how long a program may take to say `clear`
CONNECT_S: Final = 5.0  # for one try
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0  # between tries
GOODBYE_S: Final = 1.0  # for the last message and the closing handshake
MAX_MESSAGE: Final = 1 << 20  # bytes of the program's
_KEYS: Final = frozenset(key.value for key in KeypadEntry)

Event = Mapping[str, Any]
Wire = str | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeSettings:
    """[bots.<name>] with use = "bridge"."""

    url: Annotated[str, MinLen(1)]  # wss://...; ws:// only to this machine, or with `insecure`
    mode: Literal["plain", "protobuf"] = "plain"
    token: Secret | None = None  # goes along as Authorization: Bearer
    allowed_hosts: tuple[str, ...] = ()  # the hosts to which `url` may lead; empty: any
    insecure: bool = False  # ws:// to another machine: whoever is on the way can listen
    reconnect_s: Annotated[float, Interval(ge=0, le=120)] = 10.0  # for how long a lost program is looked for
    connect_s: Annotated[float, Gt(0)] = CONNECT_S  # for the first connection, tries included
    barge_in: bool = False  # the caller's voice silences the program's audio; else the program decides

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        if parts.scheme not in ("ws", "wss") or not host or parts.fragment:
            raise ValueError("url must be like wss://bot.example.com/calls")
        if parts.username is not None:
            raise ValueError("url must not hold a password: use token")
        if parts.scheme == "ws" and not self.insecure and not _is_here(host):
            raise ValueError("url must be wss://, or insecure = true: calls would go over the network in the clear")
        if self.allowed_hosts and host not in self.allowed_hosts:
            raise ValueError(f"url leads to {host}, which is none of allowed_hosts")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Connect(connect):
    """No redirects: the configuration says where calls go, and nobody else does."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


# ---------------------------------------------------------------- the two ways of writing it


class Plain:
    """Audio as binary, events as JSON text."""

    def audio(self, pcm: bytes, sample_rate: int) -> Wire:
        return pcm

    def event(self, event: Event) -> Wire:
        return json.dumps(event, separators=(",", ":"), default=str)

    def read(self, data: Wire) -> Event | bytes | None:
        """An event, audio, or nothing. Raises RemoteProtocolError."""
        return data if isinstance(data, bytes) else _object(data)


class Protobuf:
    """Pipecat's frames."""

    def __init__(self) -> None:
        self._serializer = ProtobufFrameSerializer()

    def audio(self, pcm: bytes, sample_rate: int) -> Wire:
        return self._one(OutputAudioRawFrame(pcm, sample_rate, 1))

    def event(self, event: Event) -> Wire:
        return self._one(OutputTransportMessageUrgentFrame(dict(event)))

    def _one(self, frame: Frame) -> Wire:
        return next(iter(self._serializer.encode(frame)), b"")

    def read(self, data: Wire) -> Event | InputAudioRawFrame | None:
        for frame in self._serializer.decode(data):
            if isinstance(frame, InputAudioRawFrame):
                return frame
            message = getattr(frame, "message", None)
            if isinstance(message, Mapping):
                return message
            if isinstance(message, str):
                return _object(message)
        return None


def _object(text: str) -> Event:
    try:
        event = json.loads(text)
    except ValueError:
        raise RemoteProtocolError("bridge", "not JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise RemoteProtocolError("bridge", 'not an object with "event"')
    return event


# ---------------------------------------------------------------- one call


class Bridge(FrameProcessor):
    """One call's way to the program and back."""

    def __init__(self, call: Call, settings: BridgeSettings) -> None:
        super().__init__()
        self._call, self._settings = call, settings
        self._format: Plain | Protobuf = Plain() if settings.mode == "plain" else Protobuf()
        self._audio: deque[Wire] = deque()
        self._audio_s: deque[float] = deque()
        self._kept_s = 0.0
        self._events: deque[Wire] = deque(maxlen=1000)
        self._wake = asyncio.Event()
        self._task: Handle | None = None
        self._ended = ""  # why the call is over
        self._sample_rate = 0
        self._heard_by = 0.0  # when what the program has sent will be heard
        self._stale_until = 0.0
        self._bad = 0
        self._by_us = False  # the interruption on its way is the program's own
        self._acts: Mapping[type, Callable[[Any], None]] = {
            StartFrame: self._on_start,
            InputAudioRawFrame: self._on_audio,
            InputDTMFFrame: lambda frame: self._tell("digit", digit=frame.button.value),
            InterruptionFrame: self._on_interruption,
            BotStartedSpeakingFrame: lambda frame: self._tell("speaking"),
            BotStoppedSpeakingFrame: lambda frame: self._tell("silent"),
            EndFrame: self._on_end,
            CancelFrame: self._on_end,
        }
        self._commands: Mapping[str, Callable[[Event], None]] = {
            "clear": self._clear,
            "digits": self._send_digits,
            "end": lambda event: call.end(str(event.get("reason") or "completed")[:100]),
            "transfer": self._transfer,
            "variables": self._set_variables,
        }

    # ------------------------------------------------------------ frames

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        passed = self.push_frame(frame, direction)
        if (act := self._acts.get(type(frame))) is not None:
            act(frame)
        return passed

    def _on_start(self, frame: StartFrame) -> None:
        self._sample_rate = self._call.sample_rate
        self._task = self.create_task(self._run(), "bridge")

    def _on_audio(self, frame: InputAudioRawFrame) -> None:
        if frame.num_channels != 1:
            return
        seconds = len(frame.audio) / (2 * frame.sample_rate)
        self._audio.append(self._format.audio(frame.audio, frame.sample_rate))
        self._audio_s.append(seconds)
        self._kept_s += seconds
        while self._kept_s > KEPT_S:
            self._audio.popleft()
            self._kept_s -= self._audio_s.popleft()
        self._wake.set()

    def _on_interruption(self, frame: InterruptionFrame) -> None:
        self._heard_by = 0.0
        if not self._by_us:
            self._stale_until = self._call.now() + STALE_S
            self._tell("interrupted")

    def _on_end(self, frame: Frame) -> None:
        self._ended = self._ended or str(getattr(frame, "reason", None) or "completed")
        self._wake.set()

    def _tell(self, kind: str, **facts: Any) -> None:
        self._events.append(self._format.event({"event": kind, **facts}))
        self._wake.set()

    def cleanup(self) -> MaybeAwaitable:
        done = super().cleanup()
        if self._task is None:
            return done
        task, self._task = self._task, None
        return self.cancel_task(task)

    # ------------------------------------------------------------ the connection

    async def _run(self) -> None:
        """Until the call or the program ends. A program that is lost is looked for again."""
        loop, again = asyncio.get_running_loop(), False
        while not self._ended:
            limit_s = self._settings.reconnect_s if again else self._settings.connect_s
            socket = await self._connected(loop.time() + limit_s)
            if socket is None:
                if not self._ended:
                    problem = "the program is gone" if again else "the program cannot be reached"
                    self.push_error(problem, ServiceError("bridge", problem), fatal=True)
                return
            if await self._carry(socket, again):
                if not self._ended:
                    self._call.end("completed")
                return
            again = True

    async def _connected(self, until: float) -> ClientConnection | None:
        settings, loop, wait_s = self._settings, asyncio.get_running_loop(), FIRST_WAIT_S
        headers = {} if settings.token is None else {"Authorization": f"Bearer {settings.token.reveal()}"}
        while not self._ended:
            try:
                async with asyncio.timeout(max(0.01, min(CONNECT_S, until - loop.time()))):
                    return await _Connect(
                        settings.url,
                        additional_headers=headers,
                        compression=None,
                        max_size=MAX_MESSAGE,
                        close_timeout=GOODBYE_S,
                        proxy=None,
                    )
            except (OSError, TimeoutError, WebSocketException) as exc:
                log.warning("bridge.not_connected call=%s problem=%s", self._call.info.call_id, type(exc).__name__)
            if loop.time() + wait_s >= until:
                return None
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        return None

    async def _carry(self, socket: ClientConnection, again: bool) -> bool:
        """One connection. True: the call, or the program, has ended; False: it was lost."""
        reader = asyncio.get_running_loop().create_task(self._read(socket), name="bridge-reader")
        reader.add_done_callback(lambda _: self._wake.set())
        try:
            await socket.send(self._format.event(self._opening(again)))
            while not reader.done():
                self._wake.clear()
                await self._send(socket)
                if self._ended:
                    async with asyncio.timeout(GOODBYE_S):
                        await socket.send(self._format.event({"event": "stop", "reason": self._ended}))
                    return True
                if not (self._events or self._audio):
                    await self._wake.wait()
            return reader.result()
        except (ConnectionClosed, TimeoutError) as exc:
            return isinstance(exc, ConnectionClosedOK)
        finally:
            reader.cancel()
            await asyncio.wait([reader])
            await socket.close()

    async def _send(self, socket: ClientConnection) -> None:
        while self._events:
            await socket.send(self._events.popleft())
        while self._audio and not self._events:
            self._kept_s -= self._audio_s.popleft()
            await socket.send(self._audio.popleft())

    def _opening(self, again: bool) -> Event:
        info = self._call.info
        return {
            "event": "start",
            "again": again,
            "call": {
                "id": info.call_id,
                "carrier": info.carrier,
                "from": info.from_number,
                "to": info.to_number,
                "direction": info.direction,
                "language": info.language,
                "parameters": dict(info.parameters),
            },
            "audio": {"encoding": "s16le", "sample_rate": self._sample_rate, "channels": 1},
        }

    async def _read(self, socket: ClientConnection) -> bool:
        """What the program says. True: it has closed as one does who is done."""
        while True:
            try:
                self._take(await socket.recv())
            except ConnectionClosedOK:
                return True
            except ConnectionClosed:
                return False
            except GatewayError as exc:
                self._bad += 1
                if self._bad & (self._bad - 1) == 0:
                    log.warning("bridge.bad_message call=%s problem=%s", self._call.info.call_id, exc)

    # ------------------------------------------------------------ what the program says

    def _take(self, data: Wire) -> None:
        said = self._format.read(data)
        if isinstance(said, bytes):
            self._speak(said, self._sample_rate)
        elif isinstance(said, InputAudioRawFrame):
            self._speak(said.audio, said.sample_rate)
        elif said is not None:
            command = self._commands.get(str(said.get("event")))
            if command is None:
                raise RemoteProtocolError("bridge", "unknown event")
            command(said)

    def _speak(self, pcm: bytes, sample_rate: int) -> None:
        if len(pcm) % 2:
            raise RemoteProtocolError("bridge", "an odd number of bytes is not s16le")
        now = self._call.now()
        if now < self._stale_until or not pcm:
            return
        until = max(now, self._heard_by) + len(pcm) / (2 * sample_rate)
        if until > now + AHEAD_S:
            raise RemoteProtocolError("bridge", f"more than {AHEAD_S:.0f} s of audio waits to be heard: dropped")
        self._heard_by = until
        self.push_frame(SpeechOutputAudioRawFrame(pcm, sample_rate, 1))

    def _clear(self, event: Event) -> None:
        self._stale_until, self._by_us = 0.0, True
        try:
            self._call.interrupt()
        finally:
            self._by_us = False

    def _send_digits(self, event: Event) -> None:
        digits = event.get("digits")
        if not isinstance(digits, str) or not digits or len(digits) > 64 or set(digits) - _KEYS:
            raise RemoteProtocolError("bridge", "digits must be up to 64 keys of a telephone")
        self._call.send_digits(digits)

    def _transfer(self, event: Event) -> None:
        to = event.get("to")
        if not isinstance(to, str) or not to or len(to) > 300:
            raise RemoteProtocolError("bridge", "transfer needs to")
        if self._call.can_transfer(to):
            self._call.transfer(to)
        else:
            self._tell("failed", what="transfer")

    def _set_variables(self, event: Event) -> None:
        values = event.get("set")
        if not isinstance(values, dict):
            raise RemoteProtocolError("bridge", "variables needs set")
        for name, value in values.items():
            self._call.variables[name] = value


class BridgeBot:
    """use = "bridge"."""

    settings = BridgeSettings

    def prepare(self, settings: BridgeSettings, context: PrepareContext) -> Build:
        if settings.barge_in:
            context.will_hear()

        def build(call: Call) -> Sequence[FrameProcessor]:
            return (*ears(settings.barge_in), Bridge(call, settings))

        return build


BOT: Bot = BridgeBot()
