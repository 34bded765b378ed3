"""Keys that become words."""

from __future__ import annotations

from media.dtmf_aggregator import DTMFAggregator
from media.frames import EndFrame, InputDTMFFrame, InterruptionFrame, KeypadEntry, TranscriptionFrame
from tests.media.rig import Rig, started


def press(rig: Rig, keys: str) -> None:
    for key in keys:
        rig.push(InputDTMFFrame(KeypadEntry(key)))


def texts(rig: Rig) -> list[str]:
    return [frame.text for frame in rig.sunk if isinstance(frame, TranscriptionFrame)]


def test_until_the_terminator_which_is_part_of_it() -> None:
    rig = started(DTMFAggregator())
    press(rig, "12#")
    assert texts(rig) == ["DTMF: 12#"]
    assert [type(frame) for frame in rig.sunk].count(InputDTMFFrame) == 3


def test_until_no_key_comes() -> None:
    rig = started(DTMFAggregator(timeout=1.0, prefix="keys "))
    press(rig, "1")
    rig.runtime.advance(0.9)
    press(rig, "2")
    rig.runtime.advance(0.9)
    assert texts(rig) == []
    rig.runtime.advance(0.2)
    assert texts(rig) == ["keys 12"]


def test_the_first_key_interrupts_the_bot() -> None:
    rig = started(DTMFAggregator())
    press(rig, "12")
    assert len([frame for frame in rig.sunk if isinstance(frame, InterruptionFrame)]) == 1
    assert len([frame for frame in rig.risen if isinstance(frame, InterruptionFrame)]) == 1


def test_an_interruption_and_the_end_let_go_what_there_is() -> None:
    rig = started(DTMFAggregator(termination_digit=KeypadEntry.STAR))
    press(rig, "1#")
    rig.push(InterruptionFrame())
    assert texts(rig) == ["DTMF: 1#"]
    press(rig, "2")
    rig.push(EndFrame())
    assert texts(rig) == ["DTMF: 1#", "DTMF: 2"]
    assert isinstance(rig.sunk[-1], EndFrame)
