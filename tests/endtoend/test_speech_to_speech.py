"""An agent whose model hears and speaks, in calls through the whole gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from bots.base import Build, PrepareContext
from bots.speech import speak
from gateway.registry import bot
from gateway.settings import parse_settings
from gateway.simulator.script import Press, Script, after_bot, while_bot_speaks
from tests.bots.services.realtime_vendor import Answer, Conversation, RealtimeVendor, results, said_items
from tests.endtoend.served import run, serve
from tests.endtoend.test_agent import LONG, said

QUIET = {"greeting": "Hello.", "idle_s": 0, "hold_s": 0}


async def agent(url: str = "", **changes: Any) -> Build:
    table = {"use": "agent", "speech": {"use": "openai_realtime", "base_url": url}, **QUIET, **changes}
    entry = parse_settings({"bots": {"it": table}}, Path(".")).bots["it"]
    built: Any = bot(entry.use).prepare(entry.options, PrepareContext(Path("."), (8000,), speak))
    return await built  # type: ignore[no-any-return]


class Desk(RealtimeVendor):
    """Answers whatever it hears alike, and 9# with goodbye."""

    async def respond(self, connection: ServerConnection, talk: Conversation) -> None:
        goodbye = ("user", "DTMF: 9#") in said_items(talk)
        last = Answer("Goodbye.", 300, calls=[("end_call", '{"reason": "said goodbye"}')])
        self.answers = [last if goodbye else Answer("We are open. " * 20, 20000, pieces=20)]
        await super().respond(connection, talk)


def test_a_conversation_that_the_caller_interrupts_and_the_model_ends() -> None:
    async def main() -> None:
        script = Script().then(after_bot(0.3), said("opening hours")).then(while_bot_speaks(1.0), Press("9#"))
        async with Desk(words=["opening hours"]).listening() as vendor:
            async with serve({"bot": await agent(vendor.url)}) as served:
                report = await served.call("twilio", script, limits=LONG)
                record = served.record("twilio")
                assert report.problems == []
                assert (record.ended_by, record.reason) == ("bot", "said goodbye")
                counters = record.counters
                assert counters["speech_answers"] >= 2
                assert counters["speech_ttfb_ms"] >= counters["speech_slowest_ms"]
                assert counters["interruptions"] >= 1
                assert not counters.keys() & {"speech_failures", "apologies", "stt_failures", "tts_failures"}
            (talk,) = vendor.talks
            assert talk.cut
            assert all(end_ms < 20000 for _, end_ms in talk.cut)
            assert said_items(talk)[0] == ("assistant", "Hello.")
            assert results(talk) == [{"done": True}]
            assert set(vendor.errors) <= {"response_cancel_not_active"}

    run(main())


def test_where_the_model_cannot_be_had_the_caller_is_told_and_at_last_let_go() -> None:
    async def main() -> None:
        script = Script().then(after_bot(0.3), Press("1#")).then(after_bot(0.3), Press("2#"))
        vendor = RealtimeVendor(refusals=((401, {}),))
        async with vendor.listening():
            built = await agent(vendor.url, sorry="Once more, please.", give_up="Call again later.", sorry_tries=1)
            async with serve({"bot": built}) as served:
                await served.call("twilio", script, limits=LONG)
                record = served.record("twilio")
                assert (record.ended_by, record.reason) == ("bot", "service-failed")
                assert record.counters["apologies"] == 2
                assert record.counters["speech_failed_openai_realtime"] == 2
                exposed = served.gateway.metrics.render().decode()
                assert 'gateway_service_failures_total{kind="speech",service="openai_realtime"} 2.0' in exposed

    run(main())


SPEECH = {"use": "openai_realtime", "base_url": "ws://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"speech": {"use": "nobody"}}, "there is no SPEECH service 'nobody'"),
        ({"speech": {"use": "openai_realtime"}}, "speech.key: is missing"),
        ({"speech": {**SPEECH, "turns": "mine"}}, "speech.turns"),
        ({"speech": [SPEECH, {**SPEECH, "turns": "server"}]}, "speech: its services differ in `turns`"),
        ({"speech": SPEECH, "llm": {"use": "openai", "base_url": "http://x"}}, "llm: has no use where `speech` is"),
    ],
)
def test_what_is_wrong_is_said_when_the_configuration_loads(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(Exception, match=problem):
        run(agent(**changes))
