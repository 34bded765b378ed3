"""How a user's serializer is spoken to: by its plain face where it has one, else by its async face, which may wait.

A carrier's serializer is called inside the core. One that has `serialize` and `deserialize` only, or a subclass that
overrides them, is awaited in the session's reader and writer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import structlog

from media.frames import Frame, StartFrame, WireFrame
from serializers.base import Ending, FrameSerializer, HangUp, Message, Messages

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.transports")

CHUNK_MS = 40  # what a serializer of unknown habits is given at once

_HABITS = (
    "carrier",
    "clears",
    "close_is_normal_end",
    "echoes_marks_on_clear",
    "end_wait_s",
    "ending",
    "has_marks",
    "lead_ms",
    "opens",
    "reports_playback",
    "sends_digits",
)


class Faces:
    """One serializer: `wire` is what the core works with; the rest is None where `wire` does it without waiting."""

    def __init__(self, serializer: Any) -> None:
        self.setup: Callable[[StartFrame], Awaitable[None]] | None = None
        self.serialize: Callable[[Frame], Awaitable[Message | None]] | None = None
        self._deserialize: Callable[[Message], Awaitable[Frame | None]] | None = None
        self._told: _Listener | None = None
        if _overrides(serializer, "setup", "begin"):
            self.setup = serializer.setup
        if _overrides(serializer, "deserialize", "decode"):
            self._deserialize = serializer.deserialize
            if _definer(serializer, "decode") is not FrameSerializer and isinstance(serializer, FrameSerializer):
                self._told = _Listener(serializer)
        if _overrides(serializer, "serialize", "encode"):
            self.serialize = serializer.serialize
        self._failures = 0
        plain = self.serialize is None and isinstance(serializer, FrameSerializer)
        self.wire: FrameSerializer = serializer if plain else _Later(serializer)
        if plain and not type(serializer).__module__.startswith("serializers."):
            self._guard(serializer)

    @property
    def waits_in(self) -> bool:
        """Messages go through `deserialize`."""
        return self._deserialize is not None

    async def deserialize(self, data: Message) -> Sequence[Frame]:
        """What is in `data`: the frame that the serializer gives, then what its base has told beside."""
        assert self._deserialize is not None
        frame = await self._deserialize(data)
        told = self._told.take() if self._told is not None else ()
        return told if frame is None else (frame, *told)

    def failed(self, frame: Frame) -> None:
        """Not raised into the pipeline; the log has the first, and then each power of two."""
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:
            kind = type(frame).__name__
            log.warning("transport.serialize_failed", frame=kind, count=self._failures, exc_info=True)

    def _guard(self, serializer: FrameSerializer) -> None:
        """Nobody knows what a user's own `encode` raises."""
        encode = serializer.encode

        def guarded(frame: Frame) -> Messages:
            try:
                return encode(frame)
            except Exception:
                self.failed(frame)
                return ()

        serializer.encode = guarded  # type: ignore[method-assign]


class Silence(FrameSerializer):
    """Where there is no serializer: what comes means nothing, and nothing goes out."""

    has_marks = False

    def decode(self, data: Message) -> Sequence[Frame]:
        return ()

    def encode(self, frame: Frame) -> Messages:
        return ()


class _Later(FrameSerializer):
    """Stands for a serializer whose `serialize` is awaited: `encode` gives the frame itself, and the writer goes on."""

    def __init__(self, inner: Any) -> None:
        super().__init__(getattr(inner, "_params", None))
        self._inner = inner
        self._knows = isinstance(inner, FrameSerializer) and _definer(inner, "encode") is not FrameSerializer
        habits: dict[str, Any] = {"lead_ms": CHUNK_MS, "has_marks": False, "ending": Ending.SOCKET, "carrier": ""}
        if self._knows:
            habits = {name: getattr(inner, name) for name in _HABITS}
        for name, value in habits.items():
            setattr(self, name, value)

    @property
    def send_rate(self) -> int:
        return self._inner.send_rate if self._knows else 0

    @property
    def packet_ms(self) -> int:
        return self._inner.packet_ms if self._knows else CHUNK_MS

    @property
    def clear_grain_ms(self) -> int:  # type: ignore[override]
        return self._inner.clear_grain_ms if self._knows else 0

    @property
    def held_samples(self) -> int:
        return self._inner.held_samples if self._knows else 0

    @property
    def padding_samples(self) -> int:
        return self._inner.padding_samples if self._knows else 0

    def begin(self, in_sample_rate: int | None) -> None:
        if isinstance(self._inner, FrameSerializer):
            self._inner.begin(in_sample_rate)

    def decode(self, data: Message) -> Sequence[Frame]:
        return cast(Sequence[Frame], self._inner.decode(data))

    def encode(self, frame: Frame) -> Messages:
        return (cast(Message, frame),)

    def flush(self) -> Messages:
        return self._inner.flush() if self._knows else ()

    def hang_up_request(self) -> HangUp | None:
        return self._inner.hang_up_request() if self._knows else None


class _Listener:
    """Hears what a carrier's `decode` says inside a subclass's `deserialize`, which shows less of it."""

    def __init__(self, serializer: FrameSerializer) -> None:
        self._decode = serializer.decode
        self._told: list[Frame] = []
        serializer.decode = self.decode  # type: ignore[method-assign]

    def decode(self, data: Message) -> Sequence[Frame]:
        frames = self._decode(data)
        self._told.extend(frame for frame in frames if isinstance(frame, WireFrame))
        return frames

    def take(self) -> Sequence[Frame]:
        told, self._told = self._told, []
        return told


def _definer(serializer: Any, name: str) -> type | None:
    """The class in which the method stands that an object has."""
    return next((cls for cls in type(serializer).__mro__ if name in vars(cls)), None)


def _overrides(serializer: Any, method: str, plain: str) -> bool:
    """Whether `method` of the async face is the user's own, rather than the one that stands on the method `plain`."""
    its, base = _definer(serializer, method), _definer(serializer, plain)
    if its is None:
        return False
    if not isinstance(serializer, FrameSerializer) or (base is FrameSerializer and its is not FrameSerializer):
        return True
    assert base is not None
    return its is not base and issubclass(its, base)
