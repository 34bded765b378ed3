"""What all strategies of the user's turn have in common: a controller that asks them, and timers of its pipeline.

A strategy belongs to one controller. Its methods may be `def` or `async def`; the base's return what is finished, so
both `self.trigger_user_turn_started()` and `await self.trigger_user_turn_started()` are right.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, ClassVar, Protocol

from media.events import DONE, BaseObject, Handle, MaybeAwaitable
from media.flow import DOWNSTREAM, FrameDirection
from media.frames import Frame
from media.processor import FrameProcessor


class ProcessFrameResult(Enum):
    """What a strategy says of a frame: whether those behind it in the list see it too."""

    CONTINUE = "continue"
    STOP = "stop"


CONTINUE, STOP = ProcessFrameResult.CONTINUE, ProcessFrameResult.STOP


class ByClass(dict[type, bool]):
    """Whether frames of a class are of one of the types; each class is looked up once."""

    def __init__(self, *types: type) -> None:
        super().__init__()
        self._types = types

    def __missing__(self, cls: type) -> bool:
        self[cls] = issubclass(cls, self._types)
        return self[cls]


class Timer:
    """One time-out, which may be set anew."""

    __slots__ = ("_call_later", "_callback", "_handle")

    def __init__(self, call_later: Callable[[float, Callable[[], None]], Handle], callback: Callable[[], None]) -> None:
        self._call_later = call_later
        self._callback = callback
        self._handle: Handle | None = None

    @property
    def running(self) -> bool:
        return self._handle is not None

    def set(self, delay_s: float) -> None:
        self.cancel()
        self._handle = self._call_later(delay_s, self._fire)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        self._callback()


class Turns(Protocol):
    """What a strategy sees of its controller."""

    processor: FrameProcessor

    @property
    def in_turn(self) -> bool: ...
    def start_turn(self, strategy: Any) -> None: ...
    def stop_turn(self, strategy: Any) -> None: ...
    def drop_words(self) -> None: ...


class Strategy(BaseObject):
    """The base of start, stop and mute strategies."""

    # Only frames of these types are shown to the strategy; None: all. A caller's audio comes 50 times a second.
    frame_types: ClassVar[tuple[type[Frame], ...] | None] = None

    _turns: Turns | None = None
    _task_manager: Any = None

    # ------------------------------------------------------------ to be overridden

    def setup(self, task_manager: Any) -> MaybeAwaitable:
        """Called once, before StartFrame. `task_manager` has `create_task(coro, name)` and `cancel_task(task)`."""
        self._task_manager = task_manager
        return DONE

    def cleanup(self) -> MaybeAwaitable:
        """Called when the call is over, or another strategy has taken this one's place."""
        return super().cleanup()

    def process_frame(self, frame: Frame) -> MaybeAwaitable:
        """Look at one frame. CONTINUE (or None), or STOP: the strategies behind this one do not see it."""
        return CONTINUE

    def reset(self) -> MaybeAwaitable:
        """Start afresh: a start strategy when a turn has started, a stop strategy when one has stopped."""
        return DONE

    def user_turn_started(self) -> None:
        """A turn has started, by whichever strategy."""

    def user_turn_stopped(self) -> None:
        """A turn has stopped."""

    # ------------------------------------------------------------ for subclasses

    @property
    def task_manager(self) -> Any:
        return self._task_manager

    def push_frame(self, frame: Frame, direction: FrameDirection = DOWNSTREAM) -> Awaitable[None]:
        """Push from the processor that the strategy works for."""
        return self._bound().processor.push_frame(frame, direction)

    def broadcast_frame(self, frame_cls: type[Frame], **fields: Any) -> Awaitable[None]:
        return self._bound().processor.broadcast_frame(frame_cls, **fields)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Handle:
        """`callback` on the pipeline's clock."""
        return self._bound().processor.call_later(delay_s, callback)

    # ------------------------------------------------------------ for the controller

    def _bind(self, turns: Turns) -> None:
        if self._turns is not None and self._turns is not turns:
            raise ValueError(f"{self} serves another call already: make one for each")
        self._turns = turns

    def _release(self) -> None:
        self._turns = None

    def _bound(self) -> Turns:
        if self._turns is None:
            raise RuntimeError(f"{self} is in no call")
        return self._turns
