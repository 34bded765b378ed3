"""A processor that decides the caller's turns for everybody behind it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from media.events import DONE, Each, MaybeAwaitable
from media.flow import FrameDirection
from media.frames import CancelFrame, EndFrame, Frame
from media.processor import FrameProcessor, FrameProcessorSetup
from media.turns.base import ByClass
from media.turns.controller import UserTurnController
from media.turns.mute import BaseUserMuteStrategy
from media.turns.start import BaseUserTurnStartStrategy
from media.turns.stop import BaseUserTurnStopStrategy
from media.turns.strategies import UserTurnStrategies

_ENDS = ByClass(EndFrame, CancelFrame)


class UserTurnProcessor(FrameProcessor):
    """Stands behind speech-to-text; whoever collects the words behind it uses ExternalUserTurnStrategies.

    Events: on_user_turn_started(strategy), on_user_turn_stopped(strategy), on_user_turn_stop_timeout(),
    on_user_turn_idle(), on_user_mute_started(), on_user_mute_stopped().
    """

    def __init__(
        self,
        *,
        user_turn_strategies: UserTurnStrategies | None = None,
        user_turn_stop_timeout: float = 5.0,
        user_idle_timeout: float = 0.0,
        user_mute_strategies: Iterable[BaseUserMuteStrategy] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for event in (
            "on_user_turn_started",
            "on_user_turn_stopped",
            "on_user_turn_stop_timeout",
            "on_user_turn_idle",
            "on_user_mute_started",
            "on_user_mute_stopped",
        ):
            self._register_event_handler(event)
        self._turns = UserTurnController(
            self,
            self,
            user_turn_strategies,
            stop_timeout=user_turn_stop_timeout,
            idle_timeout=user_idle_timeout,
            mute_strategies=user_mute_strategies,
        )
        if self._turns.waits:
            self._may_wait()

    def setup(self, setup: FrameProcessorSetup) -> MaybeAwaitable:
        super().setup(setup)
        return self._turns.setup()

    def cleanup(self) -> MaybeAwaitable:
        own = self._turns.cleanup()
        base = super().cleanup()
        return base if own is DONE else Each((own, base))

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        turns = self._turns
        if turns.waits:
            return self._process_waiting(frame, direction)
        if _ENDS[type(frame)]:
            turns.finish()
        if turns.admits(frame):
            self.push_frame(frame, direction)
            turns.process_frame(frame)
        return DONE

    async def _process_waiting(self, frame: Frame, direction: FrameDirection) -> None:
        super().process_frame(frame, direction)
        if _ENDS[type(frame)]:
            self._turns.finish()
        if await self._turns.admits_waiting(frame):
            self.push_frame(frame, direction)
            await self._turns.process_frame(frame)

    # ------------------------------------------------------------ what the controller tells

    def user_turn_started(self, strategy: BaseUserTurnStartStrategy) -> None:
        self._call_event_handler("on_user_turn_started", strategy)

    def user_turn_stopped(self, strategy: BaseUserTurnStopStrategy | None) -> None:
        self._call_event_handler("on_user_turn_stopped", strategy)

    def user_turn_timed_out(self) -> None:
        self._call_event_handler("on_user_turn_stop_timeout")

    def user_idle(self) -> None:
        self._call_event_handler("on_user_turn_idle")

    def user_muted(self, muted: bool) -> None:
        self._call_event_handler("on_user_mute_started" if muted else "on_user_mute_stopped")

    def words_dropped(self) -> None:
        """Nothing is collected here."""
