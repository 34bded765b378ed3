"""The agent as a fresh machine has it: a caller who is understood, through each carrier, over real sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bots.base import Build, PrepareContext
from bots.services.pocketsphinx import recognise
from bots.speech import speak
from gateway.registry import bot
from gateway.settings import parse_settings
from gateway.simulator.caller import Limits
from gateway.simulator.script import Press, Say, Script, Voice, after_bot, while_bot_speaks
from tests.endtoend.served import CARRIERS, run, serve

LONG = Limits(connect_s=20, ready_s=20, longest_s=90, closing_s=10)

RULES = [
    {"hears": ["opening hours"], "say": "We are open from nine to five.", "set": {"intent": "hours"}},
    {"hears": ["sales"], "keys": "2", "say": "A colleague will call you.", "set": {"intent": "sales"}},
    {"hears": ["goodbye"], "say": "Thank you. Goodbye.", "end": True},
]


async def agent(**changes: Any) -> Build:
    """[bots.it] as it stands in a file."""
    table = {"use": "agent", "greeting": "Hello.", "llm": {"use": "rules", "rules": RULES}, **changes}
    entry = parse_settings({"bots": {"it": table}}, Path(".")).bots["it"]
    built: Any = bot(entry.use).prepare(entry.options, PrepareContext(Path("."), (8000, 16000), speak))
    return await built  # type: ignore[no-any-return]


def said(text: str) -> Say:
    return Say(Voice(speak(text, "en-us+f3", 8000), 8000, text))


def understood(pcm: bytes) -> str:
    """What a listener makes of what the caller heard."""
    phrases = ["hello", "we are open from nine to five", "a colleague will call you", "thank you goodbye"]
    return recognise(phrases, pcm, 8000)


@pytest.mark.alone  # seven conversations at once, and a caller who is heard late is one who says nothing
def test_a_conversation_through_each_carrier() -> None:
    async def main() -> None:
        script = Script().then(after_bot(0.5), said("opening hours")).then(after_bot(1.0), said("goodbye"))
        async with serve({"bot": await agent()}) as served:
            reports = await served.all_carriers(script, limits=LONG)
            for carrier in CARRIERS:
                report, record = reports[carrier], served.record(carrier)
                assert report.problems == [], carrier
                assert (record.ended_by, record.reason) == ("bot", "completed"), carrier
                assert record.variables == {"intent": "hours"}, carrier
                assert record.answers, carrier
                # silence_s is waited for, whatever the recogniser calls final
                assert min(answer.parts["turn_end"] for answer in record.answers) >= 0.6, carrier
                assert len([entry for entry in report.timeline if entry.what == "bot speaks"]) >= 3, carrier

    run(main())


def test_keys_reach_the_dialogue_and_silence_the_bot() -> None:
    async def main() -> None:
        greeting = "Hello. This is a long greeting that nobody wants to hear to its end, however kind it may be."
        script = Script().then(while_bot_speaks(1.0), Press("2#")).then(after_bot(1.0), said("goodbye"))
        async with serve({"bot": await agent(greeting=greeting)}) as served:
            report = await served.call("twilio", script, limits=LONG)
            assert report.problems == []
            assert served.records[0].variables == {"intent": "sales"}
            assert served.records[0].ended_by == "bot"

    run(main())


def test_a_caller_who_says_nothing_is_asked_and_then_let_go() -> None:
    async def main() -> None:
        async with serve({"bot": await agent(idle_s=0.5, idle_tries=1, idle="Hello?", goodbye="Bye.")}) as served:
            await served.call("twilio", Script(), limits=LONG)
            assert (served.records[0].ended_by, served.records[0].reason) == ("bot", "no-input")

    run(main())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stt": {"use": "nobody"}}, "there is no STT service 'nobody'"),
        ({"tts": {"use": "espeak", "voice": "qqqq"}}, "no such voice"),
        ({"llm": {"use": "rules", "rules": []}}, "llm.rules"),
        ({"llm": {"use": "rules", "rules": [{"hears": ["xyzzyq"], "say": "x"}]}}, "not in its dictionary: xyzzyq"),
        ({"llm": {"use": "rules", "rules": RULES, "colour": "red"}}, "llm.colour"),
    ],
)
def test_what_is_wrong_is_said_when_the_configuration_loads(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(Exception, match=problem):
        run(agent(**changes))
