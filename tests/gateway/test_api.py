"""The control API of a real gateway on loopback, with live simulated calls."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.api import MAX_BODY, SCOPES, is_local
from gateway.settings import Settings, parse_settings
from gateway.simulator.script import HangUp, Script, at
from gateway.simulator.web import Fault
from gateway.store import CallKey
from tests.endtoend.actors import saying
from tests.endtoend.served import run, until
from tests.gateway.receiver import Receiver
from tests.gateway.rig import Running, running
from webhooks.base import InboundCall

WAITS = Script().then(at(90.0), HangUp())  # a caller who stays until somebody ends the call
TOKENS = "\n".join(
    f'[api.tokens.{scope}]\nsecret = {{ env = "TEST_API_{scope}" }}\nscopes = ["{scope}"]' for scope in SCOPES
)


@pytest.fixture(autouse=True)
def tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for scope in SCOPES:
        monkeypatch.setenv(f"TEST_API_{scope}", f"the token that may {scope}")


def key_of(report_or_call: Mapping[str, Any]) -> str:
    return f"{report_or_call['carrier']}/{report_or_call['call_id']}"


@asynccontextmanager
async def a_live_call(
    it: Running, carrier: str = "twilio"
) -> AsyncIterator[tuple[httpx.AsyncClient, str, asyncio.Task[Any]]]:
    """Somebody is talking to the bot: a client of the API, the call, and the caller's task."""
    caller = asyncio.create_task(it.call(carrier, WAITS))
    async with it.client() as api:
        for _ in range(500):
            live = (await api.get("/calls/live")).json()["calls"]
            if live and live[0]["state"] == "live" and live[0]["call_id"]:
                break
            assert not caller.done(), caller.result().problems
            await asyncio.sleep(0.01)
        yield api, key_of(live[0]), caller
    if not caller.done():
        caller.cancel()
    await asyncio.wait({caller})


# ---------------------------------------------------------------- who may

OPERATIONS = {
    ("GET", "/calls"): "read",
    ("GET", "/calls/live"): "read",
    ("GET", "/calls/twilio/CA1"): "read",
    ("POST", "/calls"): "dial",
    ("POST", "/calls/twilio/CA1/end"): "control",
    ("POST", "/calls/twilio/CA1/transfer"): "control",
    ("POST", "/calls/twilio/CA1/digits"): "control",
    ("POST", "/drain"): "admin",
}


def test_every_operation_wants_its_scope_and_nobody_comes_in_without_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, more=TOKENS) as it, it.client() as api:
            for (method, path), needed in OPERATIONS.items():
                for scope in SCOPES:
                    if scope == needed == "admin":
                        continue  # see below: it ends the gateway
                    bearer = {"authorization": f"Bearer the token that may {scope}"}
                    status = (await api.request(method, path, headers=bearer)).status_code
                    assert (status == 403) == (scope != needed), (method, path, scope, status)
                    assert status != 401
                for wrong in ("Bearer nobody's", "Bearer", "Basic dGhlOnRva2Vu", "the token that may read", None):
                    headers = {} if wrong is None else {"authorization": wrong}
                    reply = await api.request(method, path, headers=headers)
                    assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer"), (path, wrong)
            for scope in SCOPES:
                bearer = {"authorization": f"Bearer the token that may {scope}"}
                assert (await api.get("/scopes", headers=bearer)).json() == {"scopes": [scope]}
            assert (await api.get("/scopes")).status_code == 401
            assert not it.gateway.calls.draining
            bearer = {"authorization": "Bearer the token that may admin"}
            assert (await api.post("/drain", headers=bearer)).json() == {"live": 0}
            assert it.gateway.calls.draining

    run(main())


def test_without_tokens_this_machine_may_and_nobody_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, it.client() as api:
            for mine in (
                {},
                {"host": "localhost"},
                {"host": "[::1]:1"},
                {"origin": it.url},
                {"sec-fetch-site": "none"},
            ):
                assert (await api.get("/calls/live", headers=mine)).status_code == 200, mine
            for foreign in (
                {"host": "gw.example.com"},
                {"host": "127.0.0.1.example.com"},
                {"host": "localhost.example.com"},
                {"x-forwarded-for": "127.0.0.1"},
                {"x-forwarded-host": "127.0.0.1"},
                {"x-real-ip": "127.0.0.1"},
                {"forwarded": "for=127.0.0.1"},
                {"via": "1.1 proxy"},
                {"origin": "https://evil.example.com"},
                {"origin": "null"},
                {"sec-fetch-site": "cross-site"},
            ):
                reply = await api.get("/calls/live", headers=foreign)
                assert reply.status_code == 401, foreign

    run(main())


@pytest.mark.parametrize(
    ("gateway", "api", "trusted"),
    [
        ({}, {}, True),
        ({"public_url": "http://127.0.0.1:8080"}, {}, True),
        ({"public_url": "http://localhost:8080/x"}, {}, True),
        # A proxy that hands on neither Host nor X-Forwarded-* makes everybody look local.
        ({"public_url": "https://gw.example.com"}, {}, False),
        ({"public_url": "https://gw.example.com"}, {"trust_loopback": True}, True),
        ({}, {"tokens": {"t": {"secret": {"env": "TEST_API_read"}}}}, False),
        ({}, {"tokens": {"t": {"secret": {"env": "TEST_API_read"}}}, "trust_loopback": True}, True),
        ({}, {"trust_loopback": False}, False),
    ],
)
def test_when_loopback_is_trusted(gateway: dict[str, Any], api: dict[str, Any], trusted: bool) -> None:
    settings: Settings = parse_settings({"gateway": gateway, "api": api})
    assert settings.trusts_loopback is trusted


def test_a_peer_elsewhere_is_not_local_whatever_its_host_header_says() -> None:
    for peer, local in (
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.9", False),
        ("", False),
    ):
        assert is_local({"headers": [(b"host", b"127.0.0.1:8080")], "client": (peer, 1)}) is local
    assert not is_local({"headers": [], "client": ("127.0.0.1", 1)})
    assert not is_local({"headers": [(b"host", b"127.0.0.1")], "client": None})


# ---------------------------------------------------------------- looking


def test_records_come_in_pages_newest_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, it.client() as api:
            now = time.time()
            for number in range(7):
                call = InboundCall(
                    carrier="twilio" if number % 2 else "plivo",
                    call_id=f"CA{number}",
                    from_number="+14155550101",
                    to_number=f"+1415555020{number}",
                )
                await it.gateway.store.refused(call, "full", now + number, bot="echo")
            found, after, pages = [], "", 0
            while True:
                page = (await api.get("/calls", params={"limit": 3, "after": after})).json()
                found += [call["call_id"] for call in page["calls"]]
                after, pages = page["next"], pages + 1
                if not after:
                    break
            assert (found, pages) == ([f"CA{number}" for number in reversed(range(7))], 3)

            async def ids(**query: Any) -> list[str]:
                reply = await api.get("/calls", params=query)
                assert reply.status_code == 200, reply.text
                return [call["call_id"] for call in reply.json()["calls"]]

            assert await ids(carrier="plivo") == ["CA6", "CA4", "CA2", "CA0"]
            assert await ids(number="+14155550203") == ["CA3"]
            assert await ids(since=now + 5) == ["CA6", "CA5"]
            assert await ids(until=now + 1) == ["CA0"]
            assert await ids(standing=["live", "ended"]) == []
            assert len(await ids(standing="refused", bot="echo")) == 7
            assert (await api.get("/calls/twilio/CA1")).json()["reason"] == "full"

    run(main())


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 501},
        {"since": "nan"},
        {"since": "-1"},
        {"standing": "alive"},
        {"carrier": "x" * 33},
    ],
)
def test_questions_that_cannot_be_answered(tmp_path: Path, query: dict[str, Any]) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, it.client() as api:
            reply = await api.get("/calls", params=query)
            assert (reply.status_code, list(reply.json())) == (422, ["detail"]), reply.text
            assert isinstance(reply.json()["detail"], str)

    run(main())


@pytest.mark.parametrize("page", ["nonsense", *(base64.b64encode(it).decode() for it in (b"nan x/y", b"x y/z", b"1"))])
def test_pages_that_are_none(tmp_path: Path, page: str) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, it.client() as api:
            reply = await api.get("/calls", params={"after": page})
            assert (reply.status_code, list(reply.json())) == (404, ["detail"]), reply.text

    run(main())


def test_what_does_not_exist_is_not_found(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, it.client() as api:
            for method, path, body in (
                ("GET", "/calls/twilio/CA404", None),
                ("GET", "/calls/acme/CA404", None),
                ("POST", "/calls/twilio/CA404/end", None),
                ("POST", "/calls/twilio/CA404/transfer", {"target": "+15550199"}),
                ("POST", "/calls/twilio/CA404/digits", {"digits": "1"}),
                ("POST", "/calls", {"carrier": "acme", "to_number": "+1", "from_number": "+2"}),
            ):
                reply = await api.request(method, path, json=body)
                assert (reply.status_code, list(reply.json())) == (404, ["detail"]), (path, reply.text)

    run(main())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/calls/twilio/CA1/digits", {"digits": ""}),
        ("/calls/twilio/CA1/digits", {"digits": "12x"}),
        ("/calls/twilio/CA1/digits", {"digits": 12}),
        ("/calls/twilio/CA1/digits", {"digits": "1" * 65}),
        ("/calls/twilio/CA1/transfer", {"target": ""}),
        ("/calls/twilio/CA1/transfer", {"target": "a b"}),
        ("/calls/twilio/CA1/transfer", {"target": "+1", "more": 1}),
        ("/calls/twilio/CA1/end", {"reason": "Because I say so"}),
        ("/calls/twilio/CA1/end", [1]),
        ("/calls", {"carrier": "twilio", "to_number": "+1"}),
        ("/calls", {"carrier": "twilio", "to_number": "+1", "from_number": "+2", "ring_s": 1}),
        ("/calls", {"carrier": "twilio", "to_number": "+1", "from_number": "+2", "ring_s": "45"}),
        ("/calls", {"carrier": "twilio", "to_number": "+1", "from_number": "+2", "bot": "nobody"}),
        ("/calls", {"carrier": "twilio", "to_number": "+1", "from_number": "+2", "parameters": {"a": 1}}),
    ],
)
def test_orders_that_make_no_sense(tmp_path: Path, path: str, body: Any) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, it.client() as api:
            reply = await api.post(path, json=body)
            assert (reply.status_code, list(reply.json())) == (422, ["detail"]), reply.text
            assert "Because" not in reply.text  # what was sent is not repeated

    run(main())


def test_a_body_is_short_and_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.BODY_S", 0.3)

    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(3)
        yield b"}"

    async def endlessly() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    async def main() -> None:
        async with running(tmp_path, more=TOKENS) as it, it.client() as api:
            long = await api.post("/calls", content=b" " * (MAX_BODY + 1))
            assert long.status_code == 413
            with contextlib.suppress(httpx.TransportError):  # the answer may come, and the end, while we still send
                assert (await api.post("/calls", content=endlessly())).status_code == 413
            assert (await api.post("/calls", content=slowly())).status_code == 408
            assert (await api.post("/calls", content=b" " * MAX_BODY)).status_code in (401, 422)

    run(main())


# ---------------------------------------------------------------- acting


def test_a_live_call_is_seen_and_ended(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, a_live_call(it) as (api, key, caller):
            (live,) = (await api.get("/calls/live")).json()["calls"]
            assert (live["carrier"], live["bot"], live["direction"]) == ("twilio", "echo", "inbound")
            assert live["last_event"]["what"] not in ("mark", "played")
            assert live["to_number"] == "+14155550100"
            record = (await api.get(f"/calls/{key}")).json()
            assert (record["standing"], record["live"]) == ("live", True)
            reply = await api.post(f"/calls/{key}/end", json={"reason": "enough"})
            assert (reply.status_code, key_of(reply.json())) == (202, key)
            report = await caller
            assert (report.ended_by, report.problems) == ("bot", [])

            async def over() -> dict[str, Any]:
                return (await api.get(f"/calls/{key}")).json()  # type: ignore[no-any-return]

            for _ in range(300):
                record = await over()
                if record["standing"] == "ended" and record["hang_up"] not in ("none", "pending"):
                    break
                await asyncio.sleep(0.02)
            assert (record["reason"], record["ended_by"], record["hang_up"]) == ("enough", "bot", "done")
            assert (await api.get("/calls/live")).json() == {"calls": []}
            assert (await api.post(f"/calls/{key}/end")).status_code == 404

    run(main())


def test_a_live_call_is_handed_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, a_live_call(it) as (api, key, caller):
            assert (await api.post(f"/calls/{key}/transfer", json={"target": "no-number"})).status_code == 409
            assert (await api.post(f"/calls/{key}/transfer", json={"target": "+15550199"})).status_code == 202
            report = await caller
            assert report.handed_to == ["+15550199"]
            assert report.problems == []

    run(main())


def test_digits_are_heard_by_the_caller(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, a_live_call(it) as (api, key, caller):
            assert (await api.post(f"/calls/{key}/digits", json={"digits": "42#"})).status_code == 202
            await asyncio.sleep(1.5)
            await api.post(f"/calls/{key}/end")
            report = await caller
            assert report.problems == []
            assert report.first_audio_s is not None  # Twilio has no message for digits: they are tones
            assert (await api.get("/calls/live")).json() == {"calls": []}

    run(main())


def test_a_call_is_placed_picked_up_and_in_the_records(tmp_path: Path) -> None:
    async def main() -> None:
        receiver = Receiver()
        async with receiver.listening():
            events = f'[events]\nurl = "{receiver.url}"\nsecret = {{ env = "TEST_API_read" }}'
            async with running(tmp_path, bots={"hello": saying(0.4, then=_end)}, more=events) as it, it.client() as api:
                callee = asyncio.create_task(it.pick_up("twilio", WAITS))
                order = {
                    "carrier": "twilio",
                    "to_number": "+14155550177",
                    "from_number": "+14155550100",
                    "parameters": {"order": "4711"},
                }
                reply = await api.post("/calls", json=order)
                assert reply.status_code == 201, reply.text
                placed = reply.json()
                report = await callee
                assert (report.call_id, report.ended_by, report.problems) == (placed["call_id"], "bot", [])
                for _ in range(200):
                    record = (await api.get(f"/calls/{key_of(placed)}")).json()
                    if record["hang_up"] == "done":
                        break
                    await asyncio.sleep(0.02)
                assert (record["direction"], record["standing"], record["bot"]) == ("outbound", "ended", "hello")
                assert record["to_number"] == "+14155550177"
                await until(lambda: len(receiver.taken) == 3)
        assert [kind for kind, _ in receiver.told] == ["call.started", "call.answered", "call.ended"]
        assert {call for _, call in receiver.told} == {placed["call_id"]}
        assert receiver.taken[0].event["parameters"] == {"order": "4711"}
        assert receiver.taken[2].event["call"]["hang_up"] == "done"

    run(main())


def test_a_carrier_that_refuses_the_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, it.client() as api:
            order = {"carrier": "twilio", "to_number": "+14155550177", "from_number": "+14155550100"}
            it.web("twilio").faults.append(Fault(what="credentials", route="dial"))
            reply = await api.post("/calls", json=order)
            assert reply.status_code == 502
            assert "401" in reply.json()["detail"]
            usage = await it.gateway.store.usage(time.time())
            assert (usage.reserved, usage.live) == (0, 0)

    run(main())


def test_orders_over_the_limit_and_while_draining(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, gateway="max_calls = 1\ndrain_s = 0.2") as it, a_live_call(it) as (api, _, caller):
            order = {"carrier": "twilio", "to_number": "+14155550177", "from_number": "+14155550100"}
            full = await api.post("/calls", json=order)
            assert (full.status_code, full.json()) == (503, {"detail": "full"})
            assert (await api.post("/drain")).json() == {"live": 1}
            draining = await api.post("/calls", json=order)
            assert (draining.status_code, draining.json()) == (503, {"detail": "draining"})
            await caller
            assert it.web("twilio").placed == type(it.web("twilio").placed)()

    run(main())


def test_a_carrier_without_credentials_cannot_place_or_hand_over(tmp_path: Path) -> None:
    async def main() -> None:
        more = "[carriers.exotel]\nverify_signatures = false\n"
        async with running(tmp_path, more=more) as it, it.client() as api:
            order = {"carrier": "exotel", "to_number": "+14155550177", "from_number": "+14155550100"}
            reply = await api.post("/calls", json=order)
            assert reply.status_code == 409
            assert (await it.gateway.store.usage(time.time())).reserved == 0

    run(main())


def test_a_store_that_is_gone_is_a_503(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, it.client() as api:
            await it.gateway.store.close()
            reply = await api.get("/calls")
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
            assert (await api.get(f"/calls/{CallKey('twilio', 'CA1')}")).status_code == 503

    run(main())


# ---------------------------------------------------------------- the document


@pytest.mark.parametrize("live", [False, True])
def test_schemathesis_finds_nothing(tmp_path: Path, live: bool) -> None:
    """What the OpenAPI document promises is kept, also for requests that nobody would make by hand."""

    async def main() -> None:
        scopes = ", ".join(f'"{scope}"' for scope in SCOPES)
        more = f'[api.tokens.all]\nsecret = {{ env = "TEST_API_read" }}\nscopes = [{scopes}]'
        async with running(tmp_path, gateway="drain_s = 0.1", more=more) as it:
            if live:
                caller = asyncio.create_task(it.call("twilio", WAITS))
                await until(lambda: any(session.core.state.value == "live" for session in it.gateway.calls))
                (session,) = it.gateway.calls
                key = session.key
                assert key is not None
                ids = f'"path.carrier" = "{key.carrier}"\n"path.call_id" = "{key.call_id}"\n'
                (tmp_path / "schemathesis.toml").write_text(f"[parameters]\n{ids}")
            process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).with_name("schemathesis")),
                *("run", f"{it.url}/api/openapi.json", "--no-color", "--generation-deterministic"),
                *("--max-examples", "25", "--header", "Authorization: Bearer the token that may read"),
                *("--exclude-path", "/drain" if live else "/calls"),  # after a drain every order gets 503
                cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            said, _ = await asyncio.wait_for(process.communicate(), 100)
            assert process.returncode == 0, said.decode()
            async with it.client("the token that may read") as api:
                operations = {
                    path: len(methods) for path, methods in (await api.get("/openapi.json")).json()["paths"].items()
                }
            left_out = next(
                count for path, count in operations.items() if path.endswith("/drain" if live else "/calls")
            )
            whole = sum(operations.values())
            assert f"{whole - left_out}/{whole}".encode() in said
            if live:
                await caller
                assert not len(it.gateway.calls)

    run(main(), limit_s=300)


def _end() -> Any:
    from media.frames import EndFrame

    return EndFrame("completed")
