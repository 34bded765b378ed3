"""UserIdleProcessor."""

from __future__ import annotations

from typing import Any

from media.frames import BotSpeakingFrame, EndFrame, ErrorFrame, UserStartedSpeakingFrame, UserStoppedSpeakingFrame
from media.user_idle import UserIdleProcessor
from tests.media.rig import started


def test_called_back_after_each_silence() -> None:
    calls: list[Any] = []
    rig = started(UserIdleProcessor(callback=calls.append, timeout=2.0))
    rig.runtime.advance(60)
    assert calls == []  # nobody has spoken yet
    rig.push(BotSpeakingFrame())
    rig.runtime.advance(2.1)
    rig.runtime.advance(2.1)
    assert len(calls) == 2


def test_counted_and_stopped_by_the_callback() -> None:
    counts: list[int] = []

    async def callback(processor: Any, retry_count: int) -> bool:
        counts.append(retry_count)
        return retry_count < 2

    processor = UserIdleProcessor(callback=callback, timeout=1.0)
    rig = started(processor)
    rig.push(BotSpeakingFrame())
    rig.runtime.advance(10)
    assert counts == [1, 2]


def test_who_speaks_is_not_idle_and_the_count_begins_anew() -> None:
    counts: list[int] = []

    def callback(processor: Any, retry_count: int) -> bool:
        counts.append(retry_count)
        return True

    rig = started(UserIdleProcessor(callback=callback, timeout=1.0))
    rig.push(BotSpeakingFrame())
    rig.runtime.advance(1.1)
    rig.push(UserStartedSpeakingFrame())
    rig.runtime.advance(60)
    assert counts == [1]
    rig.push(UserStoppedSpeakingFrame())
    rig.runtime.advance(1.1)
    assert counts == [1, 1]


def test_over_with_the_call_and_errors_are_told() -> None:
    def callback(processor: Any) -> None:
        raise RuntimeError("no")

    rig = started(UserIdleProcessor(callback=callback, timeout=1.0))
    rig.push(BotSpeakingFrame())
    rig.runtime.advance(1.1)
    assert len([frame for frame in rig.risen if isinstance(frame, ErrorFrame)]) == 1
    rig.push(EndFrame())
    rig.runtime.advance(60)
    assert len([frame for frame in rig.risen if isinstance(frame, ErrorFrame)]) == 1
