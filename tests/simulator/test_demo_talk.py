"""What the demo makes of the record of its conversation."""

from __future__ import annotations

from gateway.commands.demo_talk import SAYS, Talk, script
from gateway.simulator.report import CallReport
from gateway.simulator.script import Say

TRANSCRIPT = [
    {"t": 0.0, "who": "bot", "text": "Hello."},
    {"t": 3.2, "who": "caller", "text": "when are you open"},
    {"t": 4.0, "who": "bot", "text": "From nine to five."},
    {"t": 8.0, "who": "caller", "text": "where are you"},
    {"t": 12.0, "who": "caller", "text": "goodbye"},
]
COUNTERS = {"answers": 3, "answer_ms": 812, "answer_turn_end_ms": 803}


def report(**changes: str) -> CallReport:
    return CallReport(carrier="twilio", ended_by="bot", **changes)  # type: ignore[arg-type]


def test_a_conversation_as_it_should_be() -> None:
    talk = Talk(TRANSCRIPT, COUNTERS)
    assert list(talk.wrong(report())) == []
    lines = list(talk.lines())
    assert lines[0] == "    0.0 s  bot     Hello."
    assert lines[-1].startswith("answers came 0.81 s after the caller's last word, 0.80 s")


def test_what_is_wrong_is_said() -> None:
    talk = Talk(TRANSCRIPT[:3], {"answers": 1})
    assert list(talk.wrong(report())) == [
        "the caller was not understood: when are you open",
        "not every question was answered",
    ]
    assert "not by the agent" in next(iter(Talk(TRANSCRIPT, COUNTERS).wrong(CallReport(carrier="twilio"))))


def test_what_the_caller_says() -> None:
    steps = script(8000).steps
    assert [step.do.voice.name for step in steps if isinstance(step.do, Say)] == list(SAYS)
