"""Vendors that are dead, slow or out of order, in calls through the whole gateway: what the caller hears instead."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from bots.base import Build, PrepareContext
from bots.services import rendering
from bots.speech import speak
from gateway.registry import bot
from gateway.settings import parse_settings
from gateway.simulator.script import HangUp, Press, Script, after_bot
from tests.bots.services.socket_vendor import SocketVendor
from tests.bots.services.test_voices import Cartesia
from tests.bots.services.vendor import Reply, Vendor, events
from tests.endtoend.served import run, serve, until
from tests.endtoend.test_agent import LONG, RULES, said

RULED = {"use": "rules", "rules": [*RULES, {"hears": ["good night"], "keys": "3", "say": "Bye.", "end": True}]}
REFUSED = Reply([json.dumps({"error": {"message": "no"}}).encode()], 429, {"retry-after": "60"})
GARBAGE = Reply([b"data: {nothing of that kind\n\n"])
SILENT = Reply(events({"choices": [{"delta": {"content": "Late."}}]}), first_s=3)


async def agent(*, speech: Any = speak, **changes: Any) -> Build:
    table = {"use": "agent", "greeting": "Hello.", "stt": {"use": "pocketsphinx", "phrases": ["goodbye"]}}
    entry = parse_settings({"bots": {"it": {**table, **changes}}}, Path(".")).bots["it"]
    built: Any = bot(entry.use).prepare(entry.options, PrepareContext(Path("."), (8000,), speech))
    return await built  # type: ignore[no-any-return]


@pytest.mark.parametrize("reply", [REFUSED, GARBAGE, SILENT], ids=["429", "garbage", "silent"])
def test_a_model_that_fails_is_replaced_in_the_middle_of_a_turn(reply: Reply) -> None:
    async def main() -> None:
        script = Script().then(after_bot(0.3), Press("2#")).then(after_bot(0.3), Press("3#"))
        async with Vendor(reply).listening() as vendor:
            llm = [{"use": "openai", "base_url": vendor.url}, RULED]
            async with serve({"bot": await agent(llm=llm, patience_s=0.6)}) as served:
                report = await served.call("twilio", script, limits=LONG)
                record = served.records[0]
                assert report.problems == []
                assert record.variables == {"intent": "sales"}
                assert (record.ended_by, record.reason) == ("bot", "completed")
                counters = record.counters
                assert (counters["llm_failures"], counters["llm_failed_openai"], counters["llm_failovers"]) == (1, 1, 1)
                assert counters["tts_characters"] > 0
                assert "apologies" not in counters
                exposed = served.gateway.metrics.render().decode()
                assert 'gateway_service_failures_total{kind="llm",service="openai"} 1.0' in exposed
                assert 'gateway_service_failovers_total{kind="llm"} 1.0' in exposed
            assert len(vendor.asked) == 1

    run(main())


def test_what_a_recogniser_fails_to_hear_the_next_one_does() -> None:
    async def main() -> None:
        async with Vendor(REFUSED).listening() as vendor:
            ears = [{"use": "openai", "base_url": vendor.url}, {"use": "pocketsphinx"}]
            async with serve({"bot": await agent(stt=ears, llm=RULED)}) as served:
                report = await served.call("twilio", Script().then(after_bot(0.5), said("goodbye")), limits=LONG)
                record = served.records[0]
                assert report.problems == []
                assert (record.ended_by, record.reason) == ("bot", "completed")
                assert (record.counters["stt_failed_openai"], record.counters["stt_failovers"]) == (1, 1)

    run(main())


def test_when_nobody_is_left_the_caller_is_told_and_at_last_let_go() -> None:
    async def main() -> None:
        script = Script().then(after_bot(0.3), Press("1#")).then(after_bot(0.3), Press("2#"))
        async with Vendor(REFUSED, REFUSED).listening() as vendor:
            llm = {"use": "openai", "base_url": vendor.url}
            built = await agent(llm=llm, sorry="Once more, please.", give_up="Call again later.", sorry_tries=1)
            async with serve({"bot": built}) as served:
                await served.call("twilio", script, limits=LONG)
                record = served.records[0]
                assert (record.ended_by, record.reason) == ("bot", "service-failed")
                assert record.counters["apologies"] == 2
                assert record.counters["llm_failed_openai"] == 2

    run(main())


def test_a_model_that_takes_its_time_is_waited_for_and_the_caller_knows() -> None:
    async def main() -> None:
        late = Reply(events({"choices": [{"delta": {"content": "Nine."}}]}), first_s=1.0)
        script = Script().then(after_bot(0.3), Press("1#"))
        async with Vendor(late).listening() as vendor:
            llm = {"use": "openai", "base_url": vendor.url}
            built = await agent(llm=llm, hold_s=0.3, hold="Wait.", goodbye="", idle_s=0.5, idle_tries=1, idle="Hello?")
            async with serve({"bot": built}) as served:
                await served.call("twilio", script, limits=LONG)
                counters = served.records[0].counters
                assert counters["held"] == 1
                assert counters["llm_slowest_ms"] >= 900
                assert "llm_failures" not in counters

    run(main())


def test_a_vendors_voice_greets_at_once_for_it_spoke_when_the_configuration_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rendering, "_kept", {})
    monkeypatch.setenv("A_KEY", "k")

    async def main() -> None:
        async with SocketVendor(Cartesia()).listening() as vendor:
            voice = {"use": "cartesia", "key": {"env": "A_KEY"}, "voice": "ann", "base_url": vendor.url}
            texts = {"greeting": "Good morning", "hold": "", "sorry": "", "give_up": ""}
            built = await agent(speech=None, llm=RULED, tts=voice, idle_s=0, **texts)
            await agent(speech=None, llm=RULED, tts=voice, idle_s=0, **texts)  # a reload
            assert [message["transcript"] for message in vendor.messages] == ["Good morning"]
            vendor.gate = asyncio.Event()  # it does not let the call's own connection in
            async with serve({"bot": built}) as served:
                report = await served.call("twilio", Script().then(after_bot(0.3), HangUp()), limits=LONG)
                vendor.gate.set()
                assert report.problems == []
                await until(lambda: served.records)
                assert served.records[0].counters["heard_ms"] >= 190
                assert [message["transcript"] for message in vendor.messages] == ["Good morning"]

    run(main())


def test_a_voice_that_is_out_of_order_when_the_configuration_loads_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rendering, "_kept", {})
    monkeypatch.setenv("A_KEY", "k")

    async def main() -> None:
        vendor = SocketVendor(Cartesia(), refusals=((500, {}), (401, {})))
        async with vendor.listening():
            voice = {"use": "cartesia", "key": {"env": "A_KEY"}, "voice": "ann", "base_url": vendor.url}
            await agent(llm=RULED, tts=voice, hold="", sorry="", give_up="")
        assert "not made ahead" in caplog.text

    run(main())
