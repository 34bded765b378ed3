"""Several accounts of one carrier: whose a call is, and with whose credentials it is spoken of."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bots.echo import Echo
from gateway.app import Gateway
from gateway.control import ControlError, Order
from gateway.doctor.visits import by_account
from gateway.settings import BotEntry, GatewaySettings, NumberEntry, Settings, load_settings, parse_settings
from gateway.settings_schema import schema
from gateway.simulator.base import CallPlan
from gateway.simulator.configured import credentials
from gateway.simulator.web import FakeWeb, WebCall
from gateway.simulator.webcaller import CarrierServer
from gateway.store import CallKey, StoredCall
from gateway.store_sql import SqlStore
from media.errors import ConfigErrors
from tests.matrix.desk import BASE, Desk, Nowhere, carrier_settings, web_of
from webhooks.accounts import ACCOUNT
from webhooks.base import OutcomeKind, Urls, WebRequest

OURS, SALES = "+14155550100", "+14155550200"
CARRIERS = ("twilio", "telnyx", "plivo", "vonage")


class Two:
    """A gateway with two accounts of one carrier: its own, and that of sales, whose number is SALES."""

    def __init__(self, gateway: Gateway, own: FakeWeb, sales: FakeWeb) -> None:
        self.gateway, self.own, self.sales = gateway, own, sales
        self.desk = Desk(gateway, [own])

    async def rings(self, web: FakeWeb, to: str) -> tuple[int, StoredCall | None, WebCall]:
        """A call at one of the accounts: how its webhook was answered, and what is known of it."""
        call = web.place(CallPlan(to_number=to), time.time())
        webhook = next(each for each in call.webhooks if each.what == "answer")
        reply = await self.desk.send(web.signed(webhook, time.time()))
        return reply.status, await self.gateway.store.call(CallKey(web.name, call.call_id)), call


@asynccontextmanager
async def two(folder: Path, carrier: str, **numbers: str) -> AsyncIterator[Two]:
    own, sales = web_of(carrier), web_of(carrier)
    for web in (own, sales):
        web.answer_url, web.status_url = f"{BASE}/{web.name}/answer", f"{BASE}/{web.name}/status"
    async with CarrierServer([own]) as rest, CarrierServer([sales]) as their_rest:
        theirs = carrier_settings(sales, their_rest.base(sales.name))
        settings = Settings(
            gateway=GatewaySettings(public_url=BASE, max_lateness_ms=0.0),
            carriers={own.name: carrier_settings(own, rest.base(own.name), accounts={"sales": theirs})},
            bots={"echo": BotEntry(name="echo", use="echo")},
            numbers={
                "default": NumberEntry(key="default", bot="echo"),
                SALES: NumberEntry(key=SALES, bot="echo", account="sales"),
            },
        )
        store = SqlStore(f"sqlite:///{folder / 'calls.db'}")
        gateway = Gateway(settings, {"echo": lambda call: (Echo(),)}, store=store, sink=Nowhere())
        await gateway.start()
        try:
            yield Two(gateway, own, sales)
        finally:
            await gateway.stop()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_call_is_its_accounts_by_its_signature_and_ends_with_its_credentials(carrier: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path, carrier) as it:
            for web, number, account in ((it.own, OURS, None), (it.sales, SALES, "sales")):
                status, stored, call = await it.rings(web, number)
                assert status == 200
                assert stored is not None
                assert stored.extra.get(ACCOUNT) == account
                call.answered_at = time.time()
                http = it.gateway.snapshot.carriers[carrier]
                for request, wanted in ((http.fetch(stored.ref), "fetch"), (http.hang_up(stored.ref), "hang-up")):
                    assert request is not None
                    outcome = await it.gateway.api.ask(request)
                    assert outcome.kind is OutcomeKind.DONE, (wanted, outcome)
                assert [seen.status < 300 for seen in web.seen] == [True, True]
            assert it.own.violations == it.sales.violations == []

    asyncio.run(main())


@pytest.mark.parametrize("carrier", CARRIERS)
def test_an_account_cannot_call_itself_anothers_number(carrier: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path, carrier) as it:
            _, stored, _ = await it.rings(it.own, SALES)
            assert stored is not None
            assert stored.ended is not None
            assert it.gateway.metrics.refused[carrier, "other-account"] == 1
            status, stored, _ = await it.rings(it.sales, OURS)  # a number that is nobody's own
            assert status == 200
            assert stored is not None
            assert stored.ended is None

    asyncio.run(main())


@pytest.mark.parametrize("carrier", CARRIERS)
def test_who_has_no_account_here_gets_nowhere(carrier: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path, carrier) as it:
            stranger = web_of(carrier)
            stranger.answer_url = it.own.answer_url
            status, stored, _ = await it.rings(stranger, OURS)
            assert status in (401, 403)
            assert stored is None

    asyncio.run(main())


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_call_is_placed_by_the_account_whose_number_is_seen(carrier: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path, carrier) as it:
            for web, number in ((it.own, OURS), (it.sales, SALES)):
                order = Order(carrier=carrier, to_number="+14155550177", from_number=number, bot="echo")
                key = await it.gateway.desk.place(order, Urls(base=BASE))
                assert key.call_id in web.calls
                stored = await it.gateway.store.call(key)
                assert stored is not None
                assert stored.extra.get(ACCOUNT) == ("sales" if web is it.sales else None)

    asyncio.run(main())


def test_an_upgrade_may_be_signed_by_either(tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path, "twilio") as it:
            http, url = it.gateway.snapshot.carriers["twilio"], f"{BASE.replace('http', 'ws')}/twilio/media/x"
            for web in (it.own, it.sales):
                request = WebRequest(method="GET", url=url, headers=web.handshake(url, time.time()))
                assert http.authenticate_upgrade(request) == ""
            stranger = WebRequest(method="GET", url=url, headers=web_of("twilio").handshake(url, time.time()))
            with pytest.raises(Exception, match="bad-signature"):
                http.authenticate_upgrade(stranger)

    asyncio.run(main())


# ---------------------------------------------------------------- in the file


FILE = """
[carriers.twilio]
max_calls = 50

[carriers.twilio.accounts.sales]
account_sid = "AC2"
auth_token = { env = "SALES_TOKEN" }
region = "ie1"
edge = "dublin"

[carriers.twilio.accounts.support]
account_sid = "AC3"
auth_token = { env = "SUPPORT_TOKEN" }

[bots.it]
use = "echo"

[numbers."+14155550200"]
bot = "it"
account = "sales"

[numbers.default]
bot = "it"
"""


def read(folder: Path, text: str = FILE, *, strict: bool = True) -> Settings:
    file = folder / "gateway.toml"
    file.write_text(text)
    return load_settings(file, strict=strict)


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALES_TOKEN", "s")
    monkeypatch.setenv("SUPPORT_TOKEN", "t")


@pytest.mark.usefixtures("tokens")
def test_an_account_has_what_it_says_over_what_the_carrier_says(tmp_path: Path) -> None:
    own = read(tmp_path).carriers["twilio"]
    sales = own.accounts["sales"]
    assert (sales.account_sid, sales.region, sales.max_calls, sales.accounts) == ("AC2", "ie1", 50, {})
    assert [label for label, _ in by_account("twilio", own)] == ["twilio account sales", "twilio account support"]
    assert credentials(own) == {"account_sid": "AC2", "auth_token": "s", "region": "ie1", "edge": "dublin"} | {
        "handshake_signature": "enforce"
    }


def test_a_carrier_is_off_while_a_secret_of_one_account_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALES_TOKEN", "s")
    monkeypatch.delenv("SUPPORT_TOKEN", raising=False)
    settings = read(tmp_path, strict=False)
    assert settings.carriers == {}
    assert settings.carriers_off["twilio"].startswith("carriers.twilio.accounts.support.auth_token: ")
    assert settings.carriers_lacking == {"twilio": ("SUPPORT_TOKEN",)}


@pytest.mark.parametrize(
    ("table", "number", "problem"),
    [
        ({"accounts": {"a": {"colour": "red"}}}, {}, "carriers.twilio.accounts.a.colour: is not a setting"),
        ({"accounts": {"a": {"max_calls": 1}}}, {}, "carriers.twilio.accounts.a.max_calls: is the carrier's alone"),
        ({"accounts": {"a": "AC1"}}, {}, "carriers.twilio.accounts.a: must be a table"),
        ({"accounts": {"a": {"region": "ie1"}}}, {}, "region and edge go together"),
        ({"accounts": {"sales": {}}}, {"account": "sale"}, r"there is no .*accounts.sale\].*did you mean .*sales"),
        ({}, {"account": "sale"}, "numbers.default.account"),
    ],
)
def test_mistakes_are_named_with_their_place(table: Mapping[str, Any], number: Mapping[str, str], problem: str) -> None:
    file = {
        "carriers": {"twilio": {"account_sid": "AC1", **table}},
        "bots": {"it": {"use": "echo"}},
        "numbers": {"default": {"bot": "it", **number}},
    }
    with pytest.raises(ConfigErrors, match=problem):
        parse_settings(file)


def test_a_carrier_without_accounts_says_so() -> None:
    with pytest.raises(ConfigErrors, match=r"carriers\.genesys\.accounts: genesys has no accounts"):
        parse_settings({"carriers": {"genesys": {"accounts": {"a": {}}}}}, strict=True)


def test_editors_know_them() -> None:
    carriers = schema()["properties"]["carriers"]["properties"]
    account = carriers["twilio"]["properties"]["accounts"]["additionalProperties"]
    assert account["properties"]["auth_token"] == carriers["twilio"]["properties"]["auth_token"]
    assert "max_calls" not in account["properties"]
    assert "accounts" not in carriers["genesys"]["properties"]


@pytest.mark.usefixtures("tokens")
def test_the_route_command_tells_whose_a_number_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gateway.cli import main

    read(tmp_path)
    asked = ["route", SALES, "--carrier", "twilio", "--config", str(tmp_path / "gateway.toml")]
    assert main(asked) == 0
    assert "for calls of [carriers.twilio.accounts.sales] only" in capsys.readouterr().out
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["account"] == "sales"


def test_an_order_by_an_account_that_the_carrier_has_not_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path, "twilio") as it:
            settings = it.gateway.settings
            entry = dataclasses.replace(settings.numbers[SALES], account="nobody")
            numbers = {**settings.numbers, SALES: entry}
            snapshot = dataclasses.replace(it.gateway.snapshot, settings=dataclasses.replace(settings, numbers=numbers))
            it.gateway.take(snapshot)
            order = Order(carrier="twilio", to_number="+14155550177", from_number=SALES, bot="echo")
            with pytest.raises(ControlError, match="twilio has no account 'nobody'"):
                await it.gateway.desk.place(order, Urls(base=BASE))

    asyncio.run(main())
