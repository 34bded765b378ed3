"""What a call keeps of what has happened in it, on virtual time."""

from __future__ import annotations

from typing import Any

from gateway.trail import KEPT
from media.frames import (
    FloorFrame,
    Heard,
    InterruptionFrame,
    UserStartedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from tests.endtoend.actors import saying
from tests.gateway.virtual import VirtualCall


def of(call: VirtualCall, what: str) -> list[dict[str, Any]]:
    return [dict(entry) for entry in call.core.trail.entries if entry["what"] == what]


def test_speech_with_its_marks() -> None:
    call = VirtualCall("twilio", saying(1.0))
    call.run(2.0)
    begins, ends = of(call, "bot")
    assert (begins["on"], ends["on"]) == (True, False)
    assert 0.95 <= ends["t"] - begins["t"] <= 1.2
    (mark,), (played,) = of(call, "mark"), of(call, "played")
    assert mark["detail"] == played["detail"]
    assert mark["t"] < played["t"]
    assert [entry["detail"] for entry in of(call, "state")] == ["live"]


def test_the_latest_is_no_mark() -> None:
    call = VirtualCall("twilio", saying(1.0))
    assert call.core.trail.latest is None
    call.run(2.0)
    latest = call.core.trail.latest
    assert latest is not None
    assert (latest["what"], latest["on"]) == ("bot", False)
    call.core.trail.moment("mark", "m")
    assert call.core.trail.latest is latest


def test_a_key_is_told_and_not_kept() -> None:
    call = VirtualCall("twilio")
    call.run(0.1)
    told: list[Any] = []
    call.core.trail.tell = told.append
    call.press("7")
    call.run(0.1)
    (kept,) = of(call, "digit")
    assert kept["detail"] == ""
    assert [(entry["what"], entry["detail"]) for entry in told] == [("digit", "7")]


def test_words_that_were_cut_off_are_told_and_not_kept() -> None:
    call = VirtualCall("twilio")
    call.run(0.1)
    told: list[Any] = []
    call.core.trail.tell = told.append
    call.core.trail.interruption(InterruptionFrame("a voice", Heard("good", "morning", 300, 500)))
    (kept,) = of(call, "interruption")
    assert told == [{**kept, "heard": "good"}]
    assert "heard" not in kept
    assert kept["detail"] == "a voice: 300 ms of the reply were heard, 500 ms were not"


def test_a_barge_in() -> None:
    call = VirtualCall("twilio", saying(5.0))
    call.run(1.0)
    call.core.inject(VADUserStartedSpeakingFrame(0.2))
    call.core.inject(FloorFrame("held", "a voice", {"level": 0.5}))
    call.core.inject(InterruptionFrame("he goes on"))
    call.core.inject(UserStartedSpeakingFrame())
    call.core.inject(VADUserStoppedSpeakingFrame(0.3))
    (cut,), (floor,), (turn,) = of(call, "interruption"), of(call, "floor"), of(call, "turn")
    assert cut["reason"] == "he goes on"
    assert 4900 <= cut["heard_ms"] + cut["unheard_ms"] <= 5000
    assert "were heard" in cut["detail"]
    assert floor["detail"] == "held: a voice (level 0.5)"
    assert (floor["decision"], floor["values"]) == ("held", {"level": 0.5})
    voice = of(call, "voice")
    assert [each["on"] for each in voice] == [True, False]
    assert voice[0]["t"] == round(turn["t"] - 0.2, 3)
    assert len(of(call, "clear")) == 1
    assert [each["on"] for each in of(call, "bot")] == [True, False]


def test_a_long_call_keeps_the_last_of_it() -> None:
    call = VirtualCall("twilio")
    call.run(0.1)
    for _ in range(KEPT):
        call.core.trail.moment("mark", "m")
    assert len(call.core.trail.entries) == KEPT
    assert not of(call, "state")


def test_a_muted_bot_hears_silence() -> None:
    heard: list[bytes] = []
    call = VirtualCall("twilio")
    call.run(0.1)

    def seen(source: Any, peer: Any, direction: Any, entry: Any) -> Any:
        def enter(frame: Any, direction: Any) -> Any:
            if source is call.core.input:
                heard.append(getattr(frame, "audio", b""))
            return entry(frame, direction)

        return enter

    call.core.input._flow.add_tap(seen)
    call.say(b"\x10\x20" * 8000)
    call.run(0.3)
    assert any(map(any, heard))
    call.core.mute(True)
    call.core.mute(True)
    heard.clear()
    call.run(0.3)
    assert heard
    assert not any(map(any, heard))
    call.core.mute(False)
    heard.clear()
    call.run(0.3)
    assert any(map(any, heard))
    assert [entry["on"] for entry in of(call, "mute")] == [True, False]
