"""Who gets in at Genesys' socket, over real sockets; and that a session counts, and is recorded, as it should be."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.reload import Reloader
from gateway.simulator.base import CallPlan
from gateway.simulator.caller import Limits, place_call
from gateway.simulator.genesys import FakeGenesys, signature_headers
from gateway.simulator.report import CallReport
from gateway.simulator.script import HangUp, Script, at
from gateway.store import CallFilter, CallKey, Standing, StoredCall
from media.secret import Secret
from tests.endtoend import actors
from tests.endtoend.served import QUICK, Served, run, serve, until
from tests.gateway.rig import running
from webhooks.genesys import GenesysKey

SECRET = base64.b64encode(b"a client secret of thirty-two by").decode()
OTHER = base64.b64encode(b"another secret, as long as it is").decode()
CREDENTIALS = {"api_key": "key-of-main", "client_secret": SECRET}
SHORT = Script().then(at(0.4), HangUp())


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G_KEY", "key-of-main")
    monkeypatch.setenv("G_SECRET", SECRET)
    monkeypatch.setenv("G_OTHER_KEY", "key-of-other")
    monkeypatch.setenv("G_OTHER_SECRET", OTHER)


def guarded(**key: Any) -> dict[str, Any]:
    """[carriers.genesys] with two keys."""
    main = GenesysKey(**{"api_key": Secret(env="G_KEY"), "client_secret": Secret(env="G_SECRET"), **key})
    other = GenesysKey(api_key=Secret(env="G_OTHER_KEY"), client_secret=Secret(env="G_OTHER_SECRET"))
    return {"genesys": {"verify_signatures": True, "keys": {"main": main, "other": other}}}


def fake(
    connector: str = "bot", *, credentials: Mapping[str, str] = CREDENTIALS, dnis: str = "", **options: Any
) -> FakeGenesys:
    plan = CallPlan(to_number=dnis, credentials=credentials, options={"connector": connector, **options})
    return FakeGenesys(plan)


def headers_of(url: str, secret: str = SECRET, **changes: str | None) -> dict[str, str]:
    """A signed upgrade, with headers replaced or, by None, left out after signing."""
    plain = {
        "Audiohook-Organization-Id": "5b1f0a52-9c3e-4b7a-8d21-6f0c2e9a7b14",
        "Audiohook-Session-Id": str(uuid.uuid4()),
        "Audiohook-Correlation-Id": str(uuid.uuid4()),
        "X-API-KEY": "key-of-main",
    }
    nonce = base64.b64encode(uuid.uuid4().bytes + b"..").decode()
    signed = plain | signature_headers(url, plain, secret, created=int(time.time()), nonce=nonce)
    signed |= {name.replace("_", "-"): value for name, value in changes.items() if value is not None}
    return {name: value for name, value in signed.items() if changes.get(name.replace("-", "_"), "") is not None}


async def answered(url: str, headers: Mapping[str, str]) -> tuple[int, bytes, float]:
    """Status, body and seconds that an upgrade is answered with; a socket that stands is closed at once."""
    began = time.monotonic()
    try:
        async with connect(url, additional_headers=dict(headers), proxy=None):
            return 101, b"", time.monotonic() - began
    except InvalidStatus as exc:
        return exc.response.status_code, bytes(exc.response.body or b""), time.monotonic() - began


async def call(served: Served, caller: FakeGenesys, script: Script = SHORT) -> CallReport:
    return await place_call(caller, served.url, script, token="", limits=QUICK)


async def stored(served: Served) -> list[StoredCall]:
    return list((await served.gateway.store.records(CallFilter(carrier="genesys"))).calls)


# ---------------------------------------------------------------- who gets in


def test_a_signed_upgrade_gets_in_and_everybody_else_gets_401_late_and_without_a_word() -> None:
    async def main() -> None:
        async with serve({"bot": actors.echo}, carriers=guarded()) as served:
            url = f"{served.url}/genesys/media/bot?x=1"
            assert (await answered(url, headers_of(url)))[0] == 101
            wrong = {
                "unknown key": headers_of(url, X_API_KEY="key-of-nobody"),
                "another's key": headers_of(url, X_API_KEY="key-of-other"),
                "another secret": headers_of(url, OTHER),
                "unsigned": headers_of(url, Signature=None, Signature_Input=None),
                "half signed": headers_of(url, Signature=None),
                "no key": headers_of(url, X_API_KEY=None),
                "31 bytes": headers_of(url, Signature="sig1=:" + base64.b64encode(bytes(31)).decode() + ":"),
                "another path": headers_of(url.replace("/bot", "/bots")),
                "another query": headers_of(url.replace("x=1", "x=2")),
                "another session": headers_of(url, Audiohook_Session_Id=str(uuid.uuid4())),
            }
            results = await asyncio.gather(*(answered(url, headers) for headers in wrong.values()))
            for name, (status, body, seconds) in zip(wrong, results, strict=True):
                assert (status, body) == (401, b""), name
                assert seconds >= 0.5, name
            assert len(served.gateway.calls) == 0

    run(main())


def test_what_is_wrong_beside_the_signature() -> None:
    async def main() -> None:
        async with serve({"bot": actors.echo}, carriers=guarded()) as served:
            url = f"{served.url}/genesys/media/"
            no_ids = await answered(url, headers_of(url, Audiohook_Organization_Id=None))
            assert no_ids[:2] == (400, b"")
            assert (await answered(url, headers_of(url)))[0] == 404, "nobody is there for it"
            assert (await answered(url + "nobody", headers_of(url + "nobody")))[0] == 404
            assert (await answered(url + "bot", headers_of(url + "bot")))[0] == 101
            short = url.rstrip("/")
            assert (await answered(short, headers_of(short)))[0] == 404
            served.gateway.calls.draining = True
            assert (await answered(url + "bot", headers_of(url + "bot")))[0] == 503

    run(main())


def test_a_signature_is_good_once_on_whichever_worker_it_is_shown(tmp_path: Path) -> None:
    async def main() -> None:
        store = f"sqlite:///{tmp_path}/calls.db"
        url = "ws://gw.example.com/genesys/media/bot"
        headers = headers_of(url)
        for _ in range(2):  # the second time to another gateway, which has nothing but the store in common
            async with serve({"bot": actors.echo}, carriers=guarded(), store=store) as served:
                other = headers_of(url)
                assert await answer_at(served, url, other) == 101
                assert await answer_at(served, url, other) == 401
                first = await answer_at(served, url, headers)
        assert first == 401

    async def answer_at(served: Served, url: str, headers: Mapping[str, str]) -> int:
        try:
            port = served.server.port
            async with connect(url, additional_headers=headers, proxy=None, host="127.0.0.1", port=port):
                return 101
        except InvalidStatus as exc:
            return exc.response.status_code

    run(main())


def test_a_secret_is_changed_while_the_gateway_runs(tmp_path: Path) -> None:
    async def main() -> None:
        secret = tmp_path / "secret"
        secret.write_text(SECRET)
        carriers = guarded(client_secret=Secret(file=str(secret)))
        async with serve({"bot": actors.echo}, carriers=carriers) as served:
            url = f"{served.url}/genesys/media/bot"
            assert (await answered(url, headers_of(url)))[0] == 101
            secret.write_text(OTHER)
            assert (await answered(url, headers_of(url)))[0] == 401
            assert (await answered(url, headers_of(url, OTHER)))[0] == 101

    run(main())


def test_keys_come_and_go_while_the_gateway_runs_and_live_calls_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("G_NEW_KEY", "key-of-new")
    table = '[carriers.genesys.keys.{0}]\napi_key = {{ env = "G_{1}KEY" }}\nclient_secret = {{ env = "G_SECRET" }}\n'
    main, new = table.format("main", ""), table.format("new", "NEW_")

    async def scenario() -> None:
        async with running(tmp_path, carriers=(), more=main) as it:
            reloader = Reloader(it.gateway, it.config, watch=False)
            before = it.config.read_text()
            url = f"ws://127.0.0.1:{it.port}/genesys/media/echo"
            caller = fake("echo", credentials={"api_key": "key-of-main", "client_secret": SECRET})
            hangs_up = asyncio.Event()
            talking = asyncio.create_task(
                place_call(
                    caller,
                    f"ws://127.0.0.1:{it.port}",
                    Script().then(at(30.0), HangUp()),
                    token="",
                    limits=Limits(longest_s=60),
                    meanwhile=lambda now: caller.hang_up(now) if hangs_up.is_set() else (),
                )
            )
            await until(lambda: caller.ready)
            assert (await answered(url, headers_of(url, X_API_KEY="key-of-new")))[0] == 401

            it.config.write_text(before.replace(main, main + new))
            assert (await reloader.reload("api")).taken
            for key in ("key-of-main", "key-of-new"):
                assert (await answered(url, signed_as(url, key)))[0] == 101, "both are good while Genesys is changed"

            it.config.write_text(before.replace(main, new))
            assert (await reloader.reload("api")).taken
            assert (await answered(url, signed_as(url, "key-of-main")))[0] == 401
            assert (await answered(url, signed_as(url, "key-of-new")))[0] == 101
            assert not talking.done(), "who is in stays in"
            hangs_up.set()
            report = await talking
            assert (report.ended_by, report.violations) == ("caller", [])

    run(scenario())


def signed_as(url: str, key: str) -> dict[str, str]:
    caller = fake(credentials={"api_key": key, "client_secret": SECRET})
    return dict(caller.handshake_headers(url))


# ---------------------------------------------------------------- which bot, and how many


def test_the_connector_names_the_bot_else_the_number_else_the_key() -> None:
    bots = dict.fromkeys(("named", "numbered", "of-the-key", "anybody"), actors.echo)
    numbers = {"+14155550199": "numbered", "default": "anybody"}

    async def main() -> dict[str, str]:
        async with serve(bots, carriers=guarded(bot="of-the-key"), numbers=numbers) as served:
            found = {}
            other = {"api_key": "key-of-other", "client_secret": OTHER}
            for what, caller in {
                "connector": fake("named", dnis="+14155550199"),
                "connector with more": fake("named/v2?tier=gold", dnis="+14155550199"),
                "number": fake("", dnis="+14155550199"),
                "key": fake("", dnis="+14155550123"),
                "default": fake("", dnis="+14155550123", credentials=other),
            }.items():
                report = await call(served, caller)
                assert report.ok, (what, report.problems)
                found[what] = served.records[-1].bot
                if "more" in what:
                    info = served.records[-1].info
                    assert info.parameters["tier"] == "gold"
                    assert info.extra["connector"] == "named/v2"
            return found

    assert run(main()) == {
        "connector": "named",
        "connector with more": "named",
        "number": "numbered",
        "key": "of-the-key",
        "default": "anybody",
    }


def test_a_number_that_is_nobodys_ends_the_session_after_open() -> None:
    async def main() -> Any:
        async with serve({"bot": actors.echo}, carriers=guarded(), numbers={"+14155550199": "bot"}) as served:
            return await call(served, fake("", dnis="+14155550123"))

    report = run(main())
    assert (report.ended_by, report.end_reason, report.violations) == ("error", "error", [])


def test_each_key_has_its_own_limit_and_the_gateway_one_for_all() -> None:
    async def main() -> None:
        async with serve({"bot": actors.echo}, carriers=guarded(max_calls=1), max_calls=2) as served:
            url = f"{served.url}/genesys/media/bot"
            first = asyncio.create_task(call(served, fake(), Script().then(at(1.5), HangUp())))
            await asyncio.sleep(0.4)
            assert (await answered(url, headers_of(url)))[0] == 503
            other = {"api_key": "key-of-other", "client_secret": OTHER}
            second = asyncio.create_task(call(served, fake(credentials=other), Script().then(at(1.0), HangUp())))
            await asyncio.sleep(0.4)
            assert (await call(served, fake(credentials=other))).refused == 503
            assert (await first).ok
            assert (await second).ok
            assert (await call(served, fake())).ok
            usage = await served.gateway.store.usage(time.time())
            assert (usage.live, usage.reserved) == (0, 0)

    run(main())


# ---------------------------------------------------------------- what is recorded


def test_a_call_is_recorded_under_its_conversation() -> None:
    async def main() -> None:
        async with serve({"bot": actors.echo}, carriers=guarded()) as served:
            caller = fake()
            assert (await call(served, caller)).ok
            (record,) = await stored(served)
            assert record.key == CallKey("genesys", caller.call_id)
            assert (record.standing, record.bot, record.reason) == (Standing.ENDED, "bot", "caller")
            assert (record.from_number, record.to_number) == (caller.plan.from_number, caller.plan.to_number)
            assert record.extra["correlation_id"]
            assert served.gateway.metrics.started["genesys"] == 1

    run(main())


def test_two_sessions_of_one_conversation_are_two_calls() -> None:
    async def main() -> None:
        async with serve({"bot": actors.echo}, carriers=guarded()) as served:
            conversation = str(uuid.uuid4())
            plan = CallPlan(call_id=conversation, credentials=CREDENTIALS, options={"connector": "bot"})
            callers = [FakeGenesys(plan) for _ in range(3)]
            for report in await asyncio.gather(*(call(served, caller) for caller in callers[:2])):
                assert report.ok, report.problems
            assert (await call(served, callers[2])).ok
            names = sorted(record.key.call_id for record in await stored(served))
            assert names[0] == conversation
            sessions = {caller.session_id for caller in callers}
            assert all(name.removeprefix(conversation + ".") in sessions for name in names[1:])
            assert len(names) == 3
            assert all(record.standing is Standing.ENDED for record in await stored(served))

    run(main())


def test_the_probe_takes_no_slot_leaves_no_record_and_is_not_counted() -> None:
    async def main() -> None:
        built: list[Any] = []

        def build(call: Any) -> Any:
            built.append(call)
            return actors.echo(call)

        async with serve({"bot": build}, carriers=guarded()) as served:
            report = await call(served, fake(session="probe"), Script())
            assert report.ok, report.problems
            await served.empty()
            usage = await served.gateway.store.usage(time.time())
            assert (usage.live, usage.reserved) == (0, 0)
            assert await stored(served) == []
            assert (built, served.records) == ([], [])
            assert served.gateway.metrics.started["genesys"] == 0
            assert not served.gateway.metrics.ended

    run(main())


def test_a_socket_on_which_nothing_is_said_gives_its_slot_back() -> None:
    async def main() -> None:
        async with serve({"bot": actors.echo}, carriers=guarded(), start_timeout_s=0.3) as served:
            url = f"{served.url}/genesys/media/bot"
            async with connect(url, additional_headers=headers_of(url), proxy=None) as ws:
                await ws.wait_closed()
            await served.empty()
            assert (await served.gateway.store.usage(time.time())).live == 0
            (record,) = await stored(served)
            assert (record.standing, record.reason) == (Standing.ENDED, "no-start")

    run(main())
