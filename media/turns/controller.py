"""The caller's turn: when it begins, when it ends, and who is told of it in which order.

The controller is part of a processor, which shows it frames and hears from it through `TurnListener`:

    if turns.admits(frame):               # not muted
        self.push_frame(frame, direction)
        turns.process_frame(frame)

Start: UserStartedSpeakingFrame both ways, the interruption both ways, then the listener. Stop:
UserStoppedSpeakingFrame both ways, then the listener.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from media.events import DONE, Each, Finished, MaybeAwaitable, is_async
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InterimTranscriptionFrame,
    StartFrame,
    STTMetadataFrame,
    TranscriptionFrame,
    UserMuteStartedFrame,
    UserMuteStoppedFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameProcessor
from media.turns.base import CONTINUE, STOP, ByClass, Strategy, Timer
from media.turns.idle import UserIdle
from media.turns.mute import MUTABLE, BaseUserMuteStrategy
from media.turns.start import BaseUserTurnStartStrategy
from media.turns.stop import BaseUserTurnStopStrategy
from media.turns.strategies import UserTurnStrategies, UserTurnStrategiesUpdateFrame

log = logging.getLogger(__name__)


class TurnListener(Protocol):
    """What the processor is told. All are plain functions, called within the push or timer that brought it about."""

    def user_turn_started(self, strategy: BaseUserTurnStartStrategy) -> None: ...
    def user_turn_stopped(self, strategy: BaseUserTurnStopStrategy | None) -> None:
        """`strategy` is None when the time-out, or the end of the call, stopped the turn."""
        ...

    def user_turn_timed_out(self) -> None:
        """Before `user_turn_stopped`: no strategy has stopped the turn."""
        ...

    def user_idle(self) -> None: ...
    def user_muted(self, muted: bool) -> None: ...
    def words_dropped(self) -> None:
        """What was transcribed since the last turn was not meant for the bot."""
        ...


class _Route(NamedTuple):
    """Who looks at frames of one class."""

    note: Callable[[Any], None] | None
    idle: bool
    start: Sequence[Strategy]
    stop: Sequence[Strategy]


_NOBODY = _Route(None, False, (), ())
_AROUND = ByClass(StartFrame, EndFrame, CancelFrame)  # never muted, and looked at after they have passed
_STOP_EDGES = ByClass(VADUserStoppedSpeakingFrame, UserStoppedSpeakingFrame)


class _Routes(dict[type, _Route]):
    def __init__(self, notes: dict[type, Callable[[Any], None]], strategies: UserTurnStrategies) -> None:
        super().__init__()
        self._notes = notes
        self._strategies = strategies

    def __missing__(self, cls: type) -> _Route:
        route = _Route(
            next((note for noted, note in self._notes.items() if issubclass(cls, noted)), None),
            issubclass(cls, UserIdle.frame_types),
            tuple(_who_sees(cls, self._strategies.start or ())),
            tuple(_who_sees(cls, self._strategies.stop or ())),
        )
        self[cls] = _NOBODY if route == _NOBODY else route
        return self[cls]


def _who_sees(cls: type, strategies: Iterable[Strategy]) -> Iterable[Strategy]:
    return (s for s in strategies if s.frame_types is None or issubclass(cls, s.frame_types))


class UserTurnController:
    """Turns, muting and idle time of one caller.

    Args:
        processor: pushes the frames, and has the timers.
        listener: is told what happens; usually the processor.
        strategies: None: the defaults.
        stop_timeout: seconds of silence after which a turn ends that no strategy has ended.
        idle_timeout: seconds; 0: off.
        mute_strategies: the caller is muted while any of them says so.

    With an `async def` strategy `waits` is true: the processor says so by `_may_wait()`, and awaits `admits_waiting`
    and what `process_frame` gives.
    """

    def __init__(
        self,
        processor: FrameProcessor,
        listener: TurnListener,
        strategies: UserTurnStrategies | None = None,
        *,
        stop_timeout: float = 5.0,
        idle_timeout: float = 0.0,
        mute_strategies: Iterable[BaseUserMuteStrategy] = (),
    ) -> None:
        self.processor = processor
        self.muted = False
        self._listener = listener
        self._strategies = strategies or UserTurnStrategies()
        self._stop_timeout = stop_timeout
        self._mutes = tuple(mute_strategies)
        self._mute_words: dict[BaseUserMuteStrategy, bool] = {}  # what each has said last
        self._in_turn = False
        self._user_speaking = False
        self._heard_words = False  # in this turn
        self._over = False
        self._known: dict[type, Frame] = {}  # what a new strategy must be told
        self._telling = False  # a new strategy is being told: it starts and stops nothing
        self._timer = Timer(processor.call_later, self._time_out)
        self._idle = UserIdle(processor.call_later, listener.user_idle, idle_timeout)
        self._notes: dict[type, Callable[[Any], None]] = {
            VADUserStartedSpeakingFrame: self._speech,
            UserStartedSpeakingFrame: self._speech,
            VADUserStoppedSpeakingFrame: self._silence,
            UserStoppedSpeakingFrame: self._silence,
            TranscriptionFrame: self._words,
            InterimTranscriptionFrame: self._words,
            BotStartedSpeakingFrame: self._keep,
            BotStoppedSpeakingFrame: self._bot_stopped,
            STTMetadataFrame: self._keep,
            StartFrame: self._keep,
            UserTurnStrategiesUpdateFrame: self._update,
        }
        self._routes = _Routes(self._notes, self._strategies)
        for strategy in self._all():
            strategy._bind(self)
        self.waits = any(is_async(strategy.process_frame) for strategy in self._all())

    @property
    def in_turn(self) -> bool:
        return self._in_turn

    def _all(self) -> list[Strategy]:
        return [*(self._strategies.start or ()), *(self._strategies.stop or ()), *self._mutes]

    # ------------------------------------------------------------ life

    def setup(self) -> MaybeAwaitable:
        """With the processor's own set-up: the strategies' `setup`."""
        exchange = getattr(self.processor.runtime, "exchange", None)  # in a call
        if exchange is not None:
            exchange.tells_turns()
        waiting = [result for strategy in self._all() if _waits(result := self._set_up(strategy))]
        return Each(waiting) if waiting else DONE

    def _set_up(self, strategy: Strategy) -> Any:
        strategy._run_on(self.processor.runtime)
        return strategy.setup(self.processor)

    def finish(self) -> None:
        """The call ends: an open turn stops with strategy None, and nothing begins any more."""
        if self._over:
            return
        self._stop(None, speaking_frame=self._tells_end)
        self._over = True
        self._timer.cancel()
        self._idle.cancel()

    def cleanup(self) -> MaybeAwaitable:
        self._over = True
        self._timer.cancel()
        self._idle.cancel()
        waiting = []
        for strategy in self._all():
            result = strategy.cleanup()
            if _waits(result):
                waiting.append(result)
            strategy._release()
        return Each(waiting) if waiting else DONE

    # ------------------------------------------------------------ frames

    def admits(self, frame: Frame) -> bool:
        """Whether `frame` may pass: not if the caller is muted and it is his. To be asked before each frame passes."""
        cls = type(frame)
        if not self._mutes or _AROUND[cls]:
            return True
        muted = self.muted
        self._mute(self._ask_mutes(frame))
        return not (muted and MUTABLE[cls]) or self._held_back(frame)

    async def admits_waiting(self, frame: Frame) -> bool:
        """As `admits`, where a strategy waits."""
        cls = type(frame)
        if not self._mutes or _AROUND[cls]:
            return True
        muted = self.muted
        self._mute(await self._ask_mutes_waiting(frame))
        return not (muted and MUTABLE[cls]) or self._held_back(frame)

    def _held_back(self, frame: Frame) -> bool:
        """A muted caller who falls silent: whoever follows his speech must not take him to be speaking for ever."""
        cls = type(frame)
        if _STOP_EDGES[cls]:
            self._silence(frame)
            route = self._routes[cls]
            if route.idle:
                self._idle.process_frame(frame)
            for strategy in route.stop:
                self._settle_result(self._guarded(strategy, frame))
        return False

    def process_frame(self, frame: Frame) -> MaybeAwaitable:
        """Look at a frame that has passed. Gives something to await if `waits`."""
        route = self._routes[type(frame)]
        if self.waits:
            return self._process_waiting(route, frame)
        if route is not _NOBODY:
            self._note(route, frame)
            for strategies in (route.start, route.stop):
                for strategy in strategies:
                    if self._guarded(strategy, frame) is STOP:
                        break
        if self._mutes and isinstance(frame, StartFrame):
            self._mute(self._ask_mutes(frame, first=True))
        return DONE

    async def _process_waiting(self, route: _Route, frame: Frame) -> None:
        self._note(route, frame)
        for strategies in (route.start, route.stop):
            for strategy in strategies:
                if await self._guarded_waiting(strategy, frame) is STOP:
                    break
        if self._mutes and isinstance(frame, StartFrame):
            self._mute(await self._ask_mutes_waiting(frame, first=True))

    def _note(self, route: _Route, frame: Frame) -> None:
        if route.note is not None:
            route.note(frame)
        if route.idle:
            self._idle.process_frame(frame)

    def _guarded(self, strategy: Strategy, frame: Frame) -> Any:
        """What a strategy says. One that raises says nothing, and the others go on."""
        try:
            return strategy.process_frame(frame)
        except Exception as exc:
            self.processor.push_error(f"{strategy} failed at {type(frame).__name__}: {exc}", exc)
            return CONTINUE

    async def _guarded_waiting(self, strategy: Strategy, frame: Frame) -> Any:
        result = self._guarded(strategy, frame)
        if not inspect.isawaitable(result):
            return result
        try:
            return await result
        except Exception as exc:
            self.processor.push_error(f"{strategy} failed at {type(frame).__name__}: {exc}", exc)
            return CONTINUE

    def _settle_result(self, result: Any) -> None:
        """Run what a user's `async def` hook gave, where nobody can wait for it."""
        if _waits(result):
            self.processor._drive_by_hand(result, f"{self.processor}::turns")

    # ------------------------------------------------------------ facts

    def _keep(self, frame: Frame) -> None:
        self._known[type(frame)] = frame

    def _bot_stopped(self, frame: Frame) -> None:
        self._known.pop(BotStartedSpeakingFrame, None)

    def _speech(self, frame: Frame) -> None:
        self._user_speaking = True
        self._known[type(frame)] = frame
        self._timer.cancel()

    def _silence(self, frame: Frame) -> None:
        self._user_speaking = False
        self._known.pop(VADUserStartedSpeakingFrame, None)
        self._known.pop(UserStartedSpeakingFrame, None)
        self._await_stop()

    def _words(self, frame: Frame) -> None:
        self._heard_words = self._heard_words or bool(frame.text.strip())  # type: ignore[attr-defined]
        self._await_stop()

    def _await_stop(self) -> None:
        if self._in_turn and not self._user_speaking:
            self._timer.set(self._stop_timeout)

    # ------------------------------------------------------------ turns

    def start_turn(self, strategy: BaseUserTurnStartStrategy) -> None:
        """For the strategies."""
        if self._in_turn or self._over or self._telling:
            return
        self._in_turn = True
        log.debug("turn.started strategy=%s", strategy)
        for each in self._strategies.start or ():
            self._settle_result(each.reset())
            each.user_turn_started()
        for stopper in self._strategies.stop or ():
            stopper.user_turn_started()
        self._await_stop()
        self._idle.user_turn_started()
        if strategy.enable_user_speaking_frames:
            self.processor.broadcast_frame(UserStartedSpeakingFrame)
        if strategy.enable_interruptions:
            self.processor.broadcast_interruption()
        self._listener.user_turn_started(strategy)

    def stop_turn(self, strategy: BaseUserTurnStopStrategy) -> None:
        """For the strategies."""
        if not self._telling:
            self._stop(strategy, speaking_frame=strategy.enable_user_speaking_frames)

    def drop_words(self) -> None:
        """For the strategies: forget what was said, unless it is part of a turn."""
        if self._in_turn or self._telling:
            return
        self._heard_words = False
        for stopper in self._strategies.stop or ():
            stopper.words_dropped()
        self._listener.words_dropped()

    def _stop(self, strategy: BaseUserTurnStopStrategy | None, *, speaking_frame: bool) -> None:
        if not self._in_turn or self._over:
            return
        self._in_turn = False
        self._timer.cancel()
        log.debug("turn.stopped strategy=%s", strategy)
        heard_words, self._heard_words = self._heard_words, False
        for stopper in self._strategies.stop or ():
            self._settle_result(stopper.reset())
            stopper.user_turn_stopped()
        for starter in self._strategies.start or ():
            starter.user_turn_stopped()
        self._idle.user_turn_stopped(heard_words)
        if speaking_frame:
            self.processor.broadcast_frame(UserStoppedSpeakingFrame)
        self._listener.user_turn_stopped(strategy)

    def _time_out(self) -> None:
        if not self._in_turn or self._user_speaking:
            return
        self._listener.user_turn_timed_out()
        self._stop(None, speaking_frame=self._tells_end)

    @property
    def _tells_end(self) -> bool:
        """Whether UserStoppedSpeakingFrame is ours to send: not where all strategies leave it to others."""
        stop = self._strategies.stop
        return not stop or any(strategy.enable_user_speaking_frames for strategy in stop)

    # ------------------------------------------------------------ muting

    def _ask_mutes(self, frame: Frame, first: bool = False) -> bool:
        for strategy in self._mutes:
            if first or strategy.frame_types is None or isinstance(frame, strategy.frame_types):
                self._mute_words[strategy] = self._guarded(strategy, frame) is True
        return any(self._mute_words.values())

    async def _ask_mutes_waiting(self, frame: Frame, first: bool = False) -> bool:
        for strategy in self._mutes:
            if first or strategy.frame_types is None or isinstance(frame, strategy.frame_types):
                self._mute_words[strategy] = await self._guarded_waiting(strategy, frame) is True
        return any(self._mute_words.values())

    def _mute(self, muted: bool) -> None:
        if muted is self.muted or self._over:
            return
        self.muted = muted
        log.debug("user.muted muted=%s", muted)
        self.processor.broadcast_frame(UserMuteStartedFrame if muted else UserMuteStoppedFrame)
        self._listener.user_muted(muted)

    # ------------------------------------------------------------ other strategies in mid-call

    def _update(self, frame: UserTurnStrategiesUpdateFrame) -> None:
        if frame.user_turn_stop_timeout is not None:
            self._stop_timeout = frame.user_turn_stop_timeout
            self._await_stop()
        if frame.strategies is not None:
            self.update_strategies(frame.strategies)

    def update_strategies(self, strategies: UserTurnStrategies) -> None:
        """Let other strategies decide from here on. A turn that is open stays open, and the new ones may stop it.

        ValueError: one of them is `async def` and the processor cannot wait, or it serves another call.
        """
        new = [*(strategies.start or ()), *(strategies.stop or ())]
        if not self.waits and any(is_async(strategy.process_frame) for strategy in new):
            raise ValueError("an async def strategy can only be added where there was one from the beginning")
        if any(strategy._turns not in (None, self) for strategy in new):
            raise ValueError("a strategy serves another call already: make one for each")
        old = [strategy for strategy in self._all() if strategy not in new and strategy not in self._mutes]
        fresh = [strategy for strategy in new if strategy._turns is not self]
        for strategy in fresh:
            strategy._bind(self)
        self._strategies = strategies
        self._routes = _Routes(self._notes, strategies)
        for strategy in old:
            self._settle_result(strategy.cleanup())
            strategy._release()
        self._telling = True
        try:
            for strategy in fresh:
                self._settle_result(self._set_up(strategy))
                for known in tuple(self._known.values()):
                    if strategy.frame_types is None or isinstance(known, strategy.frame_types):
                        self._settle_result(self._guarded(strategy, known))
        finally:
            self._telling = False


def _waits(result: Any) -> bool:
    return result is not None and not isinstance(result, Finished) and inspect.isawaitable(result)
