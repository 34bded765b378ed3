"""STTMuteFilter."""

from __future__ import annotations

from typing import Any

import pytest

from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    FunctionCallFromLLM,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    STTMuteFrame,
    TranscriptionFrame,
)
from media.processor import FrameDirection
from media.stt_mute import STTMuteConfig, STTMuteFilter, STTMuteStrategy
from tests.media.rig import Rig, live, run, started, turns

S = STTMuteStrategy
UP = FrameDirection.UPSTREAM


def hears(rig: Rig) -> bool:
    frame = TranscriptionFrame("x", "u", "now")
    rig.push(frame)
    return frame in rig.sunk


def bot(rig: Rig, speaks: bool) -> None:
    rig.push(BotStartedSpeakingFrame() if speaks else BotStoppedSpeakingFrame(), UP)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (S.ALWAYS, [True, False, True, False, True]),
        (S.FIRST_SPEECH, [True, False, True, True, True]),
        (S.MUTE_UNTIL_FIRST_BOT_COMPLETE, [False, False, True, True, True]),
    ],
)
def test_while_the_bot_speaks(strategy: STTMuteStrategy, expected: list[bool]) -> None:
    rig = started(STTMuteFilter(config=STTMuteConfig({strategy})))
    found = [hears(rig)]
    for speaks in (True, False, True, False):
        bot(rig, speaks)
        found.append(hears(rig))
    assert found == expected


def test_each_change_is_told_both_ways() -> None:
    rig = started(STTMuteFilter(config=STTMuteConfig({S.ALWAYS})))
    bot(rig, True)
    bot(rig, False)
    for frames in (rig.sunk, rig.risen):
        assert [frame.mute for frame in frames if isinstance(frame, STTMuteFrame)] == [True, False]


def test_while_functions_run() -> None:
    rig = started(STTMuteFilter(config=STTMuteConfig({S.FUNCTION_CALL})))
    rig.push(FunctionCallsStartedFrame([FunctionCallFromLLM("f", "1", {}, None)]), UP)
    assert not hears(rig)
    rig.push(FunctionCallResultFrame("f", "1", {}, None), UP)
    assert hears(rig)


@pytest.mark.parametrize("wait", [True, False])
def test_a_program_may_decide(wait: bool) -> None:
    async def asked(processor: Any) -> bool:
        return True

    async def main() -> None:
        callback: Any = asked if wait else (lambda processor: True)
        processor = STTMuteFilter(config=STTMuteConfig({S.CUSTOM}, should_mute_callback=callback))
        async with live(processor) as rig:
            bot(rig, True)
            await turns()
            frame = TranscriptionFrame("x", "u", "now")
            rig.push(frame)
            await turns()
            assert frame not in rig.sunk

    run(main())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        STTMuteConfig({S.FIRST_SPEECH, S.MUTE_UNTIL_FIRST_BOT_COMPLETE})
    with pytest.raises(ValueError, match="should_mute_callback"):
        STTMuteConfig({S.CUSTOM})
