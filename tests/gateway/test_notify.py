"""Event webhooks: a real queue, a real receiver on loopback."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import itertools
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.event_settings import EventSettings
from gateway.notify import PARALLEL, Notifier, signature
from gateway.records import CallRecord
from gateway.settings import parse_settings
from gateway.store import CallKey, HangUp, Standing
from gateway.store_sql import SqlStore
from media.call import CallInfo
from media.errors import ConfigErrors
from media.secret import Secret
from tests.gateway.certificates import certificate
from tests.gateway.receiver import Answer, Delivery, Receiver
from webhooks.base import CallPhase, CallRef, CallStatus, InboundCall

SECRET = "a secret of more than sixteen bytes"
SCALE = 0.02


@pytest.fixture(autouse=True)
def secrets_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_EVENTS_SECRET", SECRET)
    monkeypatch.setenv("TEST_OTHER_SECRET", "whsec_" + base64.b64encode(bytes(range(32))).decode())
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def run(main: Coroutine[Any, Any, None], limit_s: float = 120.0) -> None:
    asyncio.run(asyncio.wait_for(main, limit_s))


def settings(url: str, **more: Any) -> EventSettings:
    return EventSettings(url=url, secret=Secret(env="TEST_EVENTS_SECRET"), **more)


def a_call(number: int = 1, carrier: str = "twilio") -> InboundCall:
    return InboundCall(
        carrier=carrier,
        call_id=f"CA{number}",
        from_number="+14155550101",
        to_number="+14155550100",
        parameters={"tier": "gold"},
    )


def key(number: int = 1) -> CallKey:
    return CallKey("twilio", f"CA{number}")


def record(number: int = 1, **more: Any) -> CallRecord:
    info = CallInfo(carrier="twilio", call_id=f"CA{number}", from_number="+14155550101", to_number="+14155550100")
    given: dict[str, Any] = {"counters": {"digits": 4}, "variables": {"intent": "sales"}, **more}
    return CallRecord(info, "reception", "closed", "bot", "completed", 12.5, **given)


@asynccontextmanager
async def notifying(
    receiver: Receiver, path: str = "sqlite://", *, scale: float = SCALE, **more: Any
) -> AsyncIterator[tuple[Notifier, SqlStore]]:
    store = SqlStore(path, max_events=more.pop("max_events", 100_000))
    await store.open()
    notifier = Notifier(settings(receiver.url, **more), store, scale=scale)
    await notifier.open()
    try:
        yield notifier, store
    finally:
        await notifier.close()
        await store.close()


async def until(true: Callable[[], Any], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.005)


# ---------------------------------------------------------------- what is told


def test_an_event_is_signed_as_standard_webhooks_says() -> None:
    async def main() -> None:
        async with Receiver().listening() as receiver:
            more = (Secret(env="TEST_OTHER_SECRET"),)
            async with notifying(receiver, more_secrets=more) as (notifier, _):
                notifier.started(a_call(), "reception")
                await until(lambda: receiver.taken)
        (delivery,) = receiver.deliveries
        for secret in (
            base64.b64encode(SECRET.encode()).decode(),
            "whsec_" + base64.b64encode(bytes(range(32))).decode(),
        ):
            event = Webhook(secret).verify(delivery.body.decode(), dict(delivery.headers))
        assert delivery.headers["content-type"] == "application/json"
        assert delivery.headers["webhook-id"] == event["id"]
        assert event == {
            "id": event["id"],
            "kind": "call.started",
            "time": pytest.approx(time.time(), abs=10),
            "call": {
                "carrier": "twilio",
                "call_id": "CA1",
                "direction": "inbound",
                "from_number": "+14155550101",
                "to_number": "+14155550100",
                "bot": "reception",
            },
            "parameters": {"tier": "gold"},
        }
        changed = delivery.body.replace(b"gold", b"lead")
        with pytest.raises(WebhookVerificationError):
            Webhook(base64.b64encode(SECRET.encode()).decode()).verify(changed.decode(), dict(delivery.headers))

    run(main())


def test_the_example_in_the_documents() -> None:
    body = b'{"id":"evt_1","kind":"call.started"}'
    assert signature(b"a secret of more than sixteen bytes", "evt_1", 1767225600, body) == (
        "v1,31vRsV2hIunaWIfnZaKlaU2XDzS0XJ8OK5bChxI6Z9A="
    )


def test_the_end_of_a_call_is_told_with_its_whole_record_once_the_hang_up_is_settled() -> None:
    async def main() -> None:
        async with Receiver().listening() as receiver, notifying(receiver) as (notifier, store):
            now = time.time()
            ref = CallRef(carrier="twilio", call_id="CA1")
            await store.ended(key(), record(), now)
            await store.hang_up_due(ref, "completed", now, claim=True)
            notifier.ended(key())
            await asyncio.sleep(0.2)
            assert not receiver.deliveries
            await store.hang_up_result(key(), HangUp.DONE, now, detail="HTTP 200")
            await until(lambda: receiver.taken)
            # what else learns of the end does not tell it again: here, and in another process
            notifier.ended(key())
            another = Notifier(settings(receiver.url), store, scale=SCALE)
            another.ended(key())
            await until(lambda: notifier.counters["repeated"] == 1)
        (delivery,) = receiver.deliveries
        told = delivery.event["call"]
        assert delivery.event["kind"] == "call.ended"
        assert (told["ended_by"], told["reason"], told["duration_s"]) == ("bot", "completed", 12.5)
        assert (told["hang_up"], told["standing"]) == ("done", "ended")
        assert told["variables"] == {"intent": "sales"}
        assert told["counters"] == {"digits": 4}

    run(main())


def test_a_hang_up_that_takes_long_does_not_keep_the_end_for_ever() -> None:
    async def main() -> None:
        async with Receiver().listening() as receiver, notifying(receiver) as (notifier, store):
            await store.ended(key(), record(), time.time(), hang_up=HangUp.PENDING)
            notifier.ended(key())
            await until(lambda: receiver.taken)
        assert receiver.taken[0].event["call"]["hang_up"] == "pending"

    run(main())


def test_calls_that_were_never_ours_have_no_end() -> None:
    async def main() -> None:
        async with Receiver().listening() as receiver, notifying(receiver) as (notifier, store):
            now = time.time()
            await store.refused(a_call(1), "full", now)
            status = CallStatus(carrier="twilio", call_id="CA2", phase=CallPhase.COMPLETED, key="k")
            assert (await store.fold(status, now)).standing is Standing.ENDED
            notifier.ended(key(1))
            notifier.ended(key(2))
            await until(lambda: notifier.counters["repeated"] == 2)
        assert not receiver.deliveries

    run(main())


def test_the_other_kinds() -> None:
    async def main() -> None:
        info = CallInfo(carrier="twilio", call_id="CA1", from_number="+1", to_number="+2", parameters={"a": 1})
        async with Receiver().listening() as receiver, notifying(receiver) as (notifier, _):
            notifier.answered(info, "reception")
            notifier.answered(CallInfo(carrier="genesys", call_id="x", probe=True), "reception")
            notifier.transferred(info, "+15550199", "reception")
            notifier.refused(a_call(2), "full", "reception")
            notifier.refused(a_call(2), "full", "reception")  # the carrier asked again
            await until(lambda: len(receiver.taken) == 3)
        told = {delivery.event["kind"]: delivery.event for delivery in receiver.taken}
        assert told["call.answered"]["parameters"] == {"a": 1}
        assert told["call.transferred"]["target"] == "+15550199"
        assert told["call.refused"]["reason"] == "full"
        assert told["call.refused"]["call"]["call_id"] == "CA2"

    run(main())


def test_only_what_was_asked_for_is_told_and_nothing_without_a_url() -> None:
    async def main() -> None:
        async with Receiver().listening() as receiver:
            async with notifying(receiver, kinds=("call.refused",)) as (notifier, _):
                notifier.started(a_call(), "reception")
                notifier.refused(a_call(2), "full")
                await until(lambda: receiver.taken)
            assert receiver.told == [("call.refused", "CA2")]
            assert notifier.counters["queued"] == 1
            store = SqlStore()
            await store.open()
            silent = Notifier(EventSettings(), store)
            await silent.open()
            silent.started(a_call(), "reception")
            assert await store.events(time.time()) == []
            await silent.close()
            await store.close()

    run(main())


# ---------------------------------------------------------------- order and patience


def test_events_of_a_call_keep_their_order_whatever_fails_and_others_do_not_wait() -> None:
    async def main() -> None:
        refusals = itertools.count()

        def answer(delivery: Delivery) -> Answer:
            stubborn = delivery.told == ("call.started", "CA1")
            return Answer(500) if stubborn and next(refusals) < 2 else Answer()

        async with Receiver(answer).listening() as receiver, notifying(receiver) as (notifier, store):
            for number in (1, 2):
                notifier.started(a_call(number), "reception")
                notifier.answered(CallInfo(carrier="twilio", call_id=f"CA{number}"), "reception")
                store.ended(key(number), record(number), time.time())
                notifier.ended(key(number))
            await until(lambda: len(receiver.taken) == 6)
        kinds = ["call.started", "call.answered", "call.ended"]
        assert [kind for kind, call in receiver.told if call == "CA1"] == kinds
        assert [kind for kind, call in receiver.told if call == "CA2"] == kinds
        assert receiver.told.index(("call.ended", "CA2")) < receiver.told.index(("call.started", "CA1"))
        first = [delivery for delivery in receiver.deliveries if delivery.told == ("call.started", "CA1")]
        assert len(first) == 3
        assert len({delivery.headers["webhook-id"] for delivery in first}) == 1
        assert len({delivery.body for delivery in first}) == 1
        assert notifier.counters["failed"] == 2

    run(main())


def test_a_redirect_is_not_followed() -> None:
    async def main() -> None:
        def answer(delivery: Delivery) -> Answer:
            return Answer(307, {"location": "/elsewhere"}) if delivery.path == "/calls" else Answer()

        async with Receiver(answer).listening() as receiver, notifying(receiver) as (notifier, _):
            notifier.started(a_call(), "reception")
            await until(lambda: len(receiver.deliveries) > 1)
            assert {delivery.path for delivery in receiver.deliveries} == {"/calls"}

    run(main())


def test_retry_after_is_kept_to() -> None:
    async def main() -> None:
        first: list[float] = []

        def answer(delivery: Delivery) -> Answer:
            first.append(time.monotonic())
            return Answer(429, {"retry-after": "1"}) if len(first) == 1 else Answer()

        async with Receiver(answer).listening() as receiver, notifying(receiver) as (notifier, _):
            notifier.started(a_call(), "reception")
            await until(lambda: receiver.taken)
        assert first[1] - first[0] >= 0.99

    run(main())


def test_what_is_not_taken_in_time_is_given_up_and_the_next_one_goes_on() -> None:
    async def main() -> None:
        def answer(delivery: Delivery) -> Answer:
            return Answer(500) if delivery.event["kind"] == "call.started" else Answer()

        async with Receiver(answer).listening() as receiver, notifying(receiver, give_up_s=1.0) as (notifier, store):
            notifier.started(a_call(), "reception")
            notifier.answered(CallInfo(carrier="twilio", call_id="CA1"), "reception")
            await until(lambda: receiver.taken)
            assert receiver.told == [("call.answered", "CA1")]
            assert notifier.counters["given_up"] == store.counts["events_given_up"] == 1
            assert len(receiver.deliveries) > 3

    run(main())


def test_gone_is_gone() -> None:
    async def main() -> None:
        async with Receiver(lambda _: Answer(410)).listening() as receiver, notifying(receiver) as (notifier, _):
            notifier.started(a_call(), "reception")
            await until(lambda: notifier.counters["given_up"])
            assert len(receiver.deliveries) == 1

    run(main())


def test_a_receiver_that_is_down_is_not_hammered() -> None:
    async def main() -> None:
        async with Receiver(lambda _: Answer(503)).listening() as receiver, notifying(receiver, scale=1.0) as (it, _):
            for number in range(200):
                it.started(a_call(number), "reception")
            await asyncio.sleep(2.5)
            assert len(receiver.deliveries) <= PARALLEL + 3

    run(main())


# ---------------------------------------------------------------- calls never wait


def test_a_slow_receiver_costs_calls_nothing_and_gets_few_at_once() -> None:
    async def main() -> None:
        slow = Receiver(lambda _: Answer(204, delay_s=0.05))
        async with slow.listening() as receiver, notifying(receiver) as (notifier, _):
            began = time.perf_counter()
            for number in range(500):
                notifier.started(a_call(number), "reception")
            took_ms = 1000 * (time.perf_counter() - began) / 500
            assert took_ms < 25.0  # half of what each would take that waited for the receiver, on any machine
            await until(lambda: len(receiver.taken) >= 60)
            assert receiver.most_at_once == PARALLEL

    run(main())


def test_a_receiver_that_never_answers_is_left() -> None:
    async def main() -> None:
        def answer(delivery: Delivery) -> Answer:
            return Answer(204, delay_s=30.0 if delivery.event["call"]["call_id"] == "CA1" else 0.0)

        async with Receiver(answer).listening() as receiver, notifying(receiver, timeout_s=0.3) as (notifier, _):
            notifier.started(a_call(1), "reception")
            notifier.started(a_call(2), "reception")
            await until(lambda: notifier.counters["failed"] and receiver.taken)
            assert receiver.told == [("call.started", "CA2")]

    run(main())


def test_a_full_queue_and_a_closed_store_drop_and_count() -> None:
    async def main() -> None:
        async with Receiver(lambda _: Answer(500)).listening() as receiver:
            async with notifying(receiver, max_events=5) as (notifier, _):
                for number in range(20):
                    notifier.started(a_call(number), "reception")
                await until(lambda: notifier.counters["dropped"] == 15)
                assert notifier.counters["queued"] == 5
            notifier.started(a_call(), "reception")
            await until(lambda: notifier.counters["dropped"] == 16)

    run(main())


# ---------------------------------------------------------------- processes come and go


def test_what_was_queued_is_delivered_by_the_next_process(tmp_path: Path) -> None:
    async def main() -> None:
        path = f"sqlite:///{tmp_path}/gateway.db"
        receiver = Receiver()
        async with receiver.listening():
            port = receiver.port
        async with notifying(receiver, path) as (notifier, store):
            notifier.started(a_call(), "reception")
            store.ended(key(), record(), time.time())
            notifier.ended(key())
            await until(lambda: notifier.counters["failed"] >= 2)
        async with receiver.listening(port), notifying(receiver, path):
            await until(lambda: len(receiver.taken) == 2)
        assert receiver.told == [("call.started", "CA1"), ("call.ended", "CA1")]

    run(main())


def test_at_shutdown_what_is_due_still_goes_out() -> None:
    async def main() -> None:
        async with Receiver(lambda _: Answer(204, delay_s=0.05)).listening() as receiver:
            async with notifying(receiver) as (notifier, _):
                for number in range(20):
                    notifier.started(a_call(number), "reception")
                await until(lambda: notifier.counters["queued"] == 20)
            assert len(receiver.taken) == 20

    run(main())


def test_a_claim_of_a_process_that_died_runs_out() -> None:
    async def main() -> None:
        store = SqlStore()
        await store.open()
        clock = [1000.0]
        async with Receiver().listening() as receiver:
            notifier = Notifier(settings(receiver.url), store, scale=SCALE, now=lambda: clock[0])
            notifier.started(a_call(), "reception")
            await until(lambda: notifier.counters["queued"])
            assert len(await store.events(clock[0], claim_s=30.0)) == 1  # somebody took it, and is gone
            await notifier.open()
            await asyncio.sleep(0.2)
            assert not receiver.deliveries
            clock[0] += 31.0
            await until(lambda: receiver.taken)
            await notifier.close()
        await store.close()

    run(main())


# ---------------------------------------------------------------- where it may go


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/calls?tenant=1",
        "https://8.8.8.8/calls",
        "http://127.0.0.1:9000/calls",
        "http://localhost:9000",
        "http://[::1]:9000/calls",
        "https://localhost/calls",
    ],
)
def test_urls_that_may_be(url: str) -> None:
    assert settings(url).url == url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://hooks.example.com/calls", "https"),
        ("http://127.0.0.1.example.com/calls", "https"),
        ("ftp://hooks.example.com", "must be like"),
        ("hooks.example.com/calls", "must be like"),
        ("https://", "must be like"),
        ("https://hooks.example.com:x/", "must be like"),
        ("https://hooks.example.com/a b", "must be like"),
        ("https://hooks.example.com/#x", "must be like"),
        ("https://user:pw@hooks.example.com/", "password"),
        ("https://10.0.0.1/calls", "allow_private"),
        ("https://192.168.1.1/calls", "allow_private"),
        ("https://169.254.169.254/latest", "allow_private"),
        ("https://100.64.0.1/", "allow_private"),
        ("https://[fd00::1]/", "allow_private"),
        ("https://[::ffff:10.0.0.1]/", "allow_private"),
        ("https://[64:ff9b::a00:1]/", "allow_private"),
        ("https://0.0.0.0/", "allow_private"),
    ],
)
def test_urls_that_may_not_be(url: str, words: str) -> None:
    with pytest.raises(ConfigErrors, match=words):
        parse_settings({"events": {"url": url, "secret": {"env": "TEST_EVENTS_SECRET"}}})
    if words == "allow_private":
        assert settings(url, allow_private=True).url == url


def test_secrets_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    table: dict[str, Any] = {"url": "https://hooks.example.com/"}
    with pytest.raises(ConfigErrors, match="url needs secret"):
        parse_settings({"events": table})
    table["secret"] = {"env": "TEST_BAD_SECRET"}
    for text, words in (("", "is not set"), ("short", "5 bytes"), ("whsec_***", "base64"), ("whsec_AAAA", "3 bytes")):
        monkeypatch.setenv("TEST_BAD_SECRET", text)
        with pytest.raises(ConfigErrors, match=words) as caught:
            parse_settings({"events": table})
        assert caught.value.errors[0].path == "events.secret"
    monkeypatch.setenv("TEST_BAD_SECRET", "0123456789abcdef")
    assert parse_settings({"events": table}).events.keys == (b"0123456789abcdef",)


def names(monkeypatch: pytest.MonkeyPatch, **addresses: str) -> None:
    """Make names lead to addresses."""
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        return real(addresses.get(str(host).partition(".")[0], host), port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_a_name_is_resolved_checked_and_then_connected_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context, trusted = certificate("hooks.test", tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    names(monkeypatch, hooks="127.0.0.1", other="127.0.0.1")

    async def main() -> None:
        store = SqlStore()
        await store.open()
        async with Receiver().listening(tls=context) as receiver:
            for name, private, problem in (("hooks", False, True), ("other", True, True), ("hooks", True, False)):
                url = f"https://{name}.test:{receiver.port}/calls"
                notifier = Notifier(settings(url, allow_private=private), store, scale=SCALE)
                await notifier.open()
                notifier.started(a_call(), "reception")
                if problem:  # a private address; a certificate for another name
                    await until(lambda it=notifier: it.counters["failed"])  # type: ignore[misc]
                    assert not receiver.deliveries
                else:
                    await until(lambda: receiver.taken)
                    assert receiver.taken[0].headers["host"] == f"hooks.test:{receiver.port}"
                await notifier.close()
        await store.close()

    run(main())


def test_addresses() -> None:
    from gateway.event_settings import is_public

    public = ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
    private = [
        "127.0.0.1",
        "10.1.1.1",
        "224.0.0.1",
        "::",
        "fe80::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:a00:1::",
    ]
    assert [text for text in public + private if is_public(ipaddress.ip_address(text))] == public
