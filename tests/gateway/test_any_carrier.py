"""/ws, where the first messages tell who is calling."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bots.echo import Echo
from gateway.simulator.base import fake_carrier
from gateway.simulator.caller import place_call
from gateway.simulator.script import HangUp, Press, Say, Script, after
from media.frames import EndTaskFrame, Frame, InputDTMFFrame
from media.processor import FrameDirection, FrameProcessor
from tests.endtoend.served import QUICK, TELEPHONY, run, serve
from tests.transports.serving import loud_s, words


class EndsOnKey(FrameProcessor):
    def process_frame(self, frame: Frame, direction: FrameDirection) -> Any:
        if isinstance(frame, InputDTMFFrame):
            return self.push_frame(EndTaskFrame(), FrameDirection.UPSTREAM)
        return self.push_frame(frame, direction)


def echo(call: Any) -> list[FrameProcessor]:
    return [EndsOnKey(), Echo()]


@pytest.mark.parametrize("end", ["caller", "bot"])
def test_every_carrier_is_recognised_and_answered(end: str) -> None:
    script = Script().then(after(0.3), Say(words(0.6)))
    script = script.then(after(0.6), HangUp() if end == "caller" else Press("1"))

    async def main() -> None:
        async with serve({"bot": echo}, numbers={"default": "bot"}, generic_ws=True) as served:
            calls = (place_call(fake_carrier(name)(), f"{served.url}/ws", script, limits=QUICK) for name in TELEPHONY)
            reports = dict(zip(TELEPHONY, await asyncio.gather(*calls), strict=True))
            for name, report in reports.items():
                assert report.ok, (name, report.problems)
                assert report.ended_by == end, name
                assert loud_s(report.heard, report.heard_rate) > 0.5, name
            await served.empty()
            assert sorted(record.info.carrier for record in served.records) == sorted(TELEPHONY)

    run(main())


def test_it_is_not_there_unless_it_was_asked_for() -> None:
    async def main() -> None:
        async with serve({"bot": echo}, numbers={"default": "bot"}) as served:
            with pytest.raises(InvalidStatus):
                await connect(f"{served.url}/ws")

    run(main())


@pytest.mark.parametrize("words_of", [["hello", "you"], [b"\x00" * 320] * 2, []], ids=["text", "binary", "nothing"])
def test_who_is_no_carrier_is_sent_away(words_of: list[str | bytes]) -> None:
    async def main() -> None:
        async with serve({"bot": echo}, generic_ws=True, start_timeout_s=0.3) as served:
            async with connect(f"{served.url}/ws") as client:
                for message in words_of:
                    await client.send(message)
                with pytest.raises(ConnectionClosed) as caught:
                    await asyncio.wait_for(client.recv(), 60)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1008
            assert sum(served.gateway.metrics.refused.values()) == 1
            assert served.records == []

    run(main())
