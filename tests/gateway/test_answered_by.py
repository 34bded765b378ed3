"""Who has taken up a call that we placed: whoever finds it out, the bot hears of it once and the record says it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bots.base import Call
from gateway.simulator.script import HangUp as CallerHangsUp
from gateway.simulator.script import Script, at
from gateway.store import CallKey
from media.frames import AnsweredByFrame, EndTaskFrame, Frame
from media.processor import FrameDirection, FrameProcessor
from tests.endtoend.served import until
from tests.gateway.rig import running
from tests.gateway.virtual import VirtualCall
from tests.media.rig import Pass
from webhooks.base import AnsweredBy

WAITS = Script().then(at(25.0), CallerHangsUp())


class Listener(FrameProcessor):
    """Ends the call when it is told who is there."""

    def __init__(self, call: Call, told: list[tuple[str, str]]) -> None:
        super().__init__()
        self._call, self._told = call, told

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        if isinstance(frame, AnsweredByFrame):
            self._told.append((frame.who, self._call.answered_by))
            self.push_frame(EndTaskFrame("told"), FrameDirection.UPSTREAM)


@pytest.mark.parametrize("who", ["human", "machine"])
@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "vonage"])
def test_the_carriers_word_reaches_the_bot_and_the_record(carrier: str, who: str, tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []

    def build(call: Call) -> Sequence[FrameProcessor]:
        return (Listener(call, told),)

    async def main() -> None:
        async with running(tmp_path, carriers=(carrier,), bots={"hello": build}) as it, it.client() as api:
            order = {"carrier": carrier, "to_number": "+14155550177", "from_number": "+14155550100"}
            reply = await api.post("/calls", json={**order, "detect_machine": True})
            assert reply.status_code == 201, reply.text
            report = await it.pick_up(carrier, WAITS, who=who)
            assert (report.ended_by, report.problems) == ("bot", [])
            key = CallKey(carrier, report.call_id)
            for _ in range(600):
                record = await it.gateway.store.call(key)
                if record is not None and record.ended is not None:
                    break
                await asyncio.sleep(0.05)
            assert record is not None
            assert (record.answered_by, record.reason) == (who, "told")

    asyncio.run(main())
    assert told == [(who, who)]


@pytest.mark.parametrize("way", ["before its socket", "at another worker"])
def test_a_report_that_comes_elsewhere(way: str, tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []

    async def main() -> None:
        bots = {"hello": lambda call: (Listener(call, told),)}
        async with running(tmp_path, carriers=("twilio",), bots=bots) as it, it.client() as api:
            order = {"carrier": "twilio", "to_number": "+14155550177", "from_number": "+14155550100"}
            call_id = (await api.post("/calls", json=order)).json()["call_id"]
            event = AnsweredBy(carrier="twilio", call_id=call_id, who="machine", key="amd", detail="machine_start")
            if way == "before its socket":
                await it.gateway.reported(event)
                report = await it.pick_up("twilio", WAITS)
            else:
                calling = asyncio.ensure_future(it.pick_up("twilio", WAITS))
                await until(lambda: it.gateway.calls.find(CallKey("twilio", call_id)) is not None, 30.0)
                # What a colleague would pass on, to whom the carrier has told it.
                passed_on = {name: getattr(event, name) for name in ("carrier", "call_id", "who", "detail", "beep")}
                await it.gateway._told_answered_by(passed_on)
                report = await calling
            assert (report.ended_by, report.problems) == ("bot", [])

    asyncio.run(main())
    assert told == [("machine", "machine")]


def test_what_the_bot_finds_out_is_in_the_record_too(tmp_path: Path) -> None:
    class Finder(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            self.push_frame(frame, direction)
            if type(frame).__name__ == "StartFrame":
                self.push_frame(AnsweredByFrame("machine", "greeting", "bot"), FrameDirection.UPSTREAM)
                self.push_frame(EndTaskFrame("told"), FrameDirection.UPSTREAM)

    async def main() -> None:
        bots = {"hello": lambda call: (Finder(),)}
        async with running(tmp_path, carriers=("twilio",), bots=bots) as it, it.client() as api:
            order = {"carrier": "twilio", "to_number": "+14155550177", "from_number": "+14155550100"}
            assert (await api.post("/calls", json=order)).status_code == 201
            report = await it.pick_up("twilio", WAITS)
            for _ in range(600):
                view = (await api.get(f"/calls/twilio/{report.call_id}")).json()
                if view["ended"] is not None:
                    break
                await asyncio.sleep(0.05)
            assert (view["answered_by"], view["reason"]) == ("machine", "told")

    asyncio.run(main())


# ---------------------------------------------------------------- one call, on virtual time


class Heard(VirtualCall):
    def __init__(self) -> None:
        self.bot = Pass()
        super().__init__("twilio", lambda call: (self.bot,))
        self.run(0.2)

    @property
    def told(self) -> list[tuple[str, bool]]:
        return [(frame.who, frame.beep) for frame in self.bot.seen if isinstance(frame, AnsweredByFrame)]


def test_the_first_who_knows_is_believed() -> None:
    call = Heard()
    for who in ("unknown", "unknown", "machine", "human", "unknown"):
        call.core.answered(AnsweredByFrame(who))
    assert call.told == [("unknown", False), ("machine", False)]
    assert call.core.record(call.t).answered_by == "machine"


def test_the_end_of_a_greeting_is_told_of_its_own() -> None:
    call = Heard()
    call.core.answered(AnsweredByFrame("machine", "machine"))
    call.core.answered(AnsweredByFrame("machine", "beep_detected", beep=True))
    assert call.told == [("machine", False), ("machine", True)]


def test_what_a_bot_says_comes_not_back_to_it_and_stands() -> None:
    call = Heard()
    call.core.answered(AnsweredByFrame("human", "answer", "bot"))
    call.core.answered(AnsweredByFrame("machine", "late"))
    assert call.told == []
    assert call.core.answered_by == "human"


def test_a_call_that_is_over_is_told_nothing() -> None:
    call = Heard()
    call.hang_up()
    call.run(2.0)
    call.core.answered(AnsweredByFrame("machine"))
    assert call.told == []
    assert call.core.record(call.t).answered_by == "machine"


def test_a_bot_that_is_not_ready_is_told_when_it_is() -> None:
    bot = Pass()
    call = VirtualCall("twilio", lambda _: (bot,))
    call.core.answered(AnsweredByFrame("machine"))
    call.run(0.3)
    assert [frame.who for frame in bot.seen if isinstance(frame, AnsweredByFrame)] == ["machine"]


def test_the_record_keeps_the_carriers_word_and_takes_the_bots_where_it_had_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, carriers=("twilio",), bots={"hello": lambda call: ()}) as it:
            store, record = it.gateway.store, Heard().core.record(0.0)
            for number, (carriers, bots, stands) in enumerate(
                [("", "machine", "machine"), ("unknown", "human", "human"), ("human", "machine", "human")]
            ):
                key = CallKey("twilio", f"CA{number}")
                if carriers:
                    event: Any = AnsweredBy(carrier="twilio", call_id=key.call_id, who=carriers, key=f"amd {number}")
                    await store.fold(event, time.time())
                record.answered_by = bots
                await store.ended(key, record, time.time())
                found = await store.call(key)
                assert found is not None
                assert found.answered_by == stands

    asyncio.run(main())
