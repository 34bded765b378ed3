"""A socket is of the call for which its token was made, whatever its start message says."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from gateway.simulator.base import CallPlan, fake_carrier
from gateway.simulator.caller import place_call
from gateway.simulator.script import HangUp, Script, at
from gateway.store import CallFilter
from gateway.tokens import TokenMint
from media.call import CallInfo
from tests.endtoend.served import until
from tests.gateway.rig import QUICK, running

OURS, THEIRS = "v3:ours", "v3:theirs"


def test_a_token_announces_a_call_and_an_order_does_not_yet() -> None:
    mint = TokenMint("a made-up key")
    for call_id, announced in ((OURS, True), ("", False), ("~0123", False)):
        assert mint.read("telnyx", mint.mint("telnyx", call_id=call_id)).call().announced is announced


def test_the_webhook_says_whose_call_it_is(caplog: pytest.LogCaptureFixture) -> None:
    claims = CallInfo(carrier="telnyx", call_id=OURS, announced=True)
    with caplog.at_level(logging.WARNING):
        assert CallInfo(carrier="telnyx", call_id=OURS).completed_by(claims).call_id == OURS
        assert CallInfo(carrier="telnyx").completed_by(claims).call_id == OURS
        assert not caplog.messages
        assert CallInfo(carrier="telnyx", call_id=THEIRS).completed_by(claims).call_id == OURS
    (said,) = caplog.messages
    assert OURS in said
    assert THEIRS not in said


def test_a_call_that_no_webhook_has_announced_is_what_its_start_says() -> None:
    for claims in (CallInfo(carrier="telnyx"), CallInfo(carrier="telnyx", call_id="~0123")):
        assert CallInfo(carrier="telnyx", call_id=THEIRS).completed_by(claims).call_id == THEIRS


@pytest.mark.parametrize(
    ("started", "claimed", "number"),
    [
        ("08047491899", "+919876543210", "+919876543210"),  # Exotel's start may say our own number twice
        ("sip:somebody@a-long-name.example.com", "sip:somebody@a-long", "sip:somebody@a-long-name.example.com"),
        ("+14155550101", "", "+14155550101"),
        ("", "+14155550101", "+14155550101"),
    ],
)
def test_the_webhook_says_who_calls_whom(started: str, claimed: str, number: str) -> None:
    info = CallInfo(carrier="exotel", from_number=started, to_number=started)
    completed = info.completed_by(CallInfo(carrier="exotel", from_number=claimed, to_number=claimed))
    assert (completed.from_number, completed.to_number) == (number, number)


def test_a_token_takes_nobody_elses_call(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, carriers=("telnyx",)) as it:
            base, mint = it.url.replace("http", "ws", 1), it.gateway.mint

            async def socket(token_of: str, script: Script) -> tuple[str, str]:
                token = mint.mint("telnyx", call_id=token_of, to_number="+14155550100", bot="echo", trial=True)
                fake = fake_carrier("telnyx")(CallPlan(call_id=THEIRS, to_number="+14155550100"))
                report = await place_call(fake, base, script, token=token, limits=QUICK)
                return report.ended_by, " ".join(report.problems)

            theirs = asyncio.create_task(socket(THEIRS, Script().then(at(3.0), HangUp())))
            await until(lambda: len(it.gateway.calls) or theirs.done())
            assert await socket(OURS, Script().then(at(0.2), HangUp())) == ("caller", "")
            assert await theirs == ("caller", "")
            for _ in range(500):
                records = (await it.gateway.store.records(CallFilter())).calls
                if all(one.ended is not None for one in records):
                    break
                await asyncio.sleep(0.02)
            assert {one.key.call_id: one.state for one in records} == {OURS: "closed", THEIRS: "closed"}

    asyncio.run(main())
