"""What carriers report of calls, in any order, as often as they like, is folded into one record, the same one."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from gateway.simulator.base import CallPlan
from gateway.simulator.web import FakeWeb, WebCall, Webhook
from gateway.store import CallFilter, CallKey, Standing, StoredCall
from tests.matrix.desk import BASE, Desk, desk, web_of
from webhooks.base import CallPhase

CARRIERS = ("twilio", "telnyx", "telnyx-control", "plivo", "vonage", "exotel")
FORM, JSON = "application/x-www-form-urlencoded", "application/json"


def form(route: str, *fields: Mapping[str, str], method: str = "POST") -> Webhook:
    said = urlencode({name: value for each in fields for name, value in each.items()})
    url = f"{BASE}/{route}"
    if method == "GET":
        return Webhook(what="status", method="GET", url=f"{url}?{said}")
    return Webhook(what="status", method="POST", url=url, headers={"content-type": FORM}, body=said.encode())


def as_json(route: str, said: Mapping[str, Any]) -> Webhook:
    body = json.dumps(said).encode()
    return Webhook(what="status", method="POST", url=f"{BASE}/{route}", headers={"content-type": JSON}, body=body)


def telnyx_event(call: WebCall, name: str, **payload: str) -> Webhook:
    own = {"call_control_id": call.call_id, "call_leg_id": "leg", **payload}
    said = {"event_type": name, "id": f"{call.call_id} {name}", "occurred_at": "2026-01-01T00:00:00Z", "payload": own}
    return as_json("telnyx/events", {"data": {**said, "record_type": "event"}, "meta": {"attempt": 1}})


def reports(name: str, call: WebCall) -> list[Webhook]:
    """That it rings, where an inbound call's carrier says so; that it was answered; that its caller hung up."""
    sid = {"CallSid": call.call_id, "From": "+14155550123", "To": "+14155550100", "Direction": "inbound"}
    if name == "twilio":
        more = {"CallDuration": "41", "SipResponseCode": "200"}
        return [
            form("twilio/status", sid, {"CallStatus": said, "SequenceNumber": str(n)}, more if n == 2 else {})
            for n, said in enumerate(("ringing", "in-progress", "completed"))
        ]
    if name == "telnyx":
        more = {"CallDuration": "41", "HangupSource": "caller", "CauseCode": "16"}
        return [
            form("telnyx/status", sid, {"CallStatus": said, "SequenceNumber": str(n)}, more if n == 2 else {})
            for n, said in enumerate(("ringing", "in-progress", "completed"))
        ]
    if name == "telnyx-control":
        over = telnyx_event(call, "call.hangup", hangup_cause="normal_clearing", hangup_source="caller")
        return [telnyx_event(call, "call.answered"), over]
    if name == "plivo":
        own = {"CallUUID": call.call_id, "From": "14155550123", "To": "14155550100", "Direction": "inbound"}
        more = {"Event": "Hangup", "Duration": "41", "HangupCauseName": "Normal Hangup", "HangupSource": "Caller"}
        return [
            form("plivo/status", own, {"CallStatus": said}, more if said == "completed" else {})
            for said in ("ringing", "in-progress", "completed")
        ]
    if name == "vonage":
        leg = {"uuid": call.call_id, "from": "14155550123", "to": "14155550100", "direction": "inbound"}
        more = {"duration": "41", "disconnected_by": "user"}
        return [
            as_json("vonage/events", {**leg, "status": said, **(more if said == "completed" else {})})
            for said in ("started", "ringing", "answered", "completed")
        ]
    over = form(
        "exotel/status",
        {"CallSid": call.call_id, "EventType": "terminal", "Status": "completed", "ConversationDuration": "41"},
        {"Legs[0][Cause]": "NORMAL_CLEARING", "Legs[0][DisconnectedBy]": "callee"},
    )
    return [form("exotel/status", {"CallSid": call.call_id, "EventType": "answered", "Status": "in-progress"}), over]


def new_call(web: FakeWeb) -> tuple[WebCall, Webhook]:
    call = web.place(CallPlan(from_number="+14155550123", to_number="+14155550100"), time.time())
    return call, next(each for each in call.webhooks if each.what in ("answer", "call.initiated"))


async def post(one: Desk, web: FakeWeb, webhook: Webhook) -> bytes:
    """Signed anew each time: a carrier's retry is."""
    reply = await one.send(web.signed(webhook, time.time()))
    assert reply.status in (200, 204), webhook
    return reply.body


async def the_record(one: Desk, web: FakeWeb, call: WebCall) -> StoredCall:
    found = await one.gateway.store.call(CallKey(web.name, call.call_id))
    assert found is not None
    return found


def verdict(record: StoredCall) -> tuple[object, ...]:
    return (record.standing, record.phase, record.ended_by, record.cause, record.carrier_duration_s, record.reason)


# By whom, why, and for how long, as far as the carrier says it of a call whose socket never came.
VERDICT = {
    "twilio": ("carrier", "SIP 200", 41.0, "SIP 200"),
    "telnyx": ("caller", "completed", 41.0, "completed"),
    "telnyx-control": ("caller", "normal_clearing", None, "normal_clearing"),
    "plivo": ("caller", "Normal Hangup", 41.0, "Normal Hangup"),
    "vonage": ("caller", "completed", 41.0, "completed"),
    "exotel": ("caller", "NORMAL_CLEARING", 41.0, "NORMAL_CLEARING"),
}


@pytest.mark.parametrize("name", CARRIERS)
def test_reports_in_any_order_and_twice_are_one_record(name: str, tmp_path: Path) -> None:
    by, cause, duration_s, reason = VERDICT[name]
    expected = (Standing.ENDED, CallPhase.COMPLETED, by, cause, duration_s, reason)

    async def main() -> None:
        web = web_of(name)
        async with desk(tmp_path, [web]) as one:
            for order in itertools.permutations(range(len(reports(name, new_call(web)[0])))):
                call, answer = new_call(web)
                said = reports(name, call)
                await post(one, web, answer)
                assert (await the_record(one, web, call)).standing is Standing.EXPECTED
                for n in order:
                    await post(one, web, said[n])
                    await post(one, web, said[order[0]])
                record = await the_record(one, web, call)
                assert verdict(record) == expected, order
                assert record.ended is not None
                assert record.answered is not None
                for again in said:
                    await post(one, web, again)
                assert await the_record(one, web, call) == record
                kept = await one.gateway.store.reports(record.key)
                assert len(kept) == len({one.key for one in kept}) == len(said)
            usage = await one.gateway.store.usage(time.time())
            assert (usage.reserved, usage.live) == (0, 0)

    asyncio.run(main())


@pytest.mark.parametrize("name", CARRIERS)
def test_the_end_may_be_reported_before_anything_is_known_of_the_call(name: str, tmp_path: Path) -> None:
    """The caller hung up at once, and the answer webhook comes late: there is nobody to be answered."""

    async def main() -> None:
        web = web_of(name)
        async with desk(tmp_path, [web]) as one:
            call, answer = new_call(web)
            over = reports(name, call)[-1]
            await post(one, web, over)
            first = await the_record(one, web, call)
            assert first.ended is not None
            assert first.phase is CallPhase.COMPLETED
            reply = await one.send(web.signed(answer, time.time()))
            assert b"Stream" not in reply.body
            assert b"wss://" not in reply.body
            await post(one, web, over)
            (record,) = (await one.gateway.store.records(CallFilter())).calls
            assert (record.phase, record.ended, record.ended_by) == (CallPhase.COMPLETED, first.ended, first.ended_by)
            usage = await one.gateway.store.usage(time.time())
            assert (usage.reserved, usage.live) == (0, 0)
            assert not one.gateway.metrics.answered

    asyncio.run(main())
