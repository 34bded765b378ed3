"""A whole gateway on loopback with accounts at the fake carriers, configured by a file as an operator would."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bots.base import Build
from gateway.app import Gateway
from gateway.carrier_api import Patience
from gateway.hangups import Rhythm
from gateway.registry import design_filters
from gateway.server import Server, server
from gateway.settings import Settings, load_settings
from gateway.simulator.accounts import Account, make_up
from gateway.simulator.base import CallPlan
from gateway.simulator.caller import Limits
from gateway.simulator.report import CallReport
from gateway.simulator.script import Script
from gateway.simulator.web import FakeWeb
from gateway.simulator.webcaller import CarrierServer, Way, answer_placed_call, place_call_through_webhooks
from tests.endtoend.actors import echo

QUICK = Limits(connect_s=20, ready_s=20, longest_s=120, closing_s=4)


@dataclass
class Running:
    gateway: Gateway
    server: Server
    accounts: Mapping[str, Account]
    config: Path

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def web(self, carrier: str) -> FakeWeb:
        """The carrier's HTTP side, which knows our webhooks."""
        web = self.accounts[carrier].web
        assert web is not None
        web.answer_url, web.status_url = f"{self.url}/{carrier}/answer", f"{self.url}/{carrier}/status"
        return web

    async def call(self, carrier: str, script: Script, *, plan: CallPlan | None = None) -> CallReport:
        """A call comes in."""
        way = Way(gateway_url=self.url)
        return await place_call_through_webhooks(self.web(carrier), way, script, plan=plan or CallPlan(), limits=QUICK)

    async def pick_up(self, carrier: str, script: Script, *, who: str = "human") -> CallReport:
        """Somebody is called by us."""
        way = Way(gateway_url=self.url)
        return await answer_placed_call(self.web(carrier), way, script, who=who, limits=QUICK)

    def client(self, token: str = "", **headers: str) -> httpx.AsyncClient:
        if token:
            headers["authorization"] = f"Bearer {token}"
        return httpx.AsyncClient(base_url=f"{self.url}/api", headers=headers, trust_env=False, timeout=10)


@asynccontextmanager
async def running(
    folder: Path,
    *,
    carriers: Sequence[str] = ("twilio",),
    gateway: str = "",
    more: str = "",
    bots: Mapping[str, Build] | None = None,
    port: int = 0,
    account: str = "",
    number: str = "default",
    lease_s: float = 15.0,
) -> AsyncIterator[Running]:
    """A gateway that listens.

    Args:
        carriers: that have an account, and a REST server.
        gateway: lines of the [gateway] table.
        more: further tables.
        bots: by name; the first one answers `number`.
        account: further lines of each carrier's table.
        number: the one entry of [numbers]; with "default" every number is answered.
        lease_s: the worker's, which it renews every third of it.
    """
    bots = bots or {"echo": echo}
    accounts = {name: make_up(name, folder) for name in carriers}
    webs = [account.web for account in accounts.values() if account.web is not None]
    async with CarrierServer(webs) as rest:
        for each in accounts.values():
            if each.web is not None:
                each.api_base = rest.base(each.carrier)
        secret = folder / "gateway.secret"
        if not secret.exists():
            secret.write_text(os.urandom(24).hex())
        config = folder / "gateway.toml"
        own = "" if "max_lateness_ms" in gateway else "max_lateness_ms = 0\n"  # a busy machine is no fault of ours
        tables = [
            f'[gateway]\nsecret = {{ file = "gateway.secret" }}\n{own}{gateway}\n',
            *(f"{each.toml}{account}\n" for each in accounts.values()),
            *(f'[bots.{name}]\nuse = "echo"\n' for name in bots),
            f'[numbers."{number}"]\nbot = "{next(iter(bots))}"\n',
            more,
        ]
        config.write_text("\n".join(tables))
        settings = load_settings(config, strict=True)
        async with serving(settings, bots, port=port, lease_s=lease_s) as (it, up):
            yield Running(it, up, accounts, config)


@asynccontextmanager
async def serving(
    settings: Settings, bots: Mapping[str, Build], *, port: int = 0, lease_s: float = 15.0
) -> AsyncIterator[tuple[Gateway, Server]]:
    design_filters(settings)
    gateway = Gateway(
        settings,
        bots,
        patience=Patience(scale=0.2),
        rhythm=Rhythm(report_s=0.3, look_s=0.1, lease_s=lease_s, scale=1.0),
    )
    up = server(gateway, host="127.0.0.1", port=port)
    task: asyncio.Task[Any] = asyncio.create_task(up.serve(), name="server")
    starting = asyncio.create_task(up.up.wait())
    await asyncio.wait({task, starting}, return_when=asyncio.FIRST_COMPLETED)
    starting.cancel()
    assert up.started
    try:
        yield gateway, up
    finally:
        up.should_exit = True
        await asyncio.wait({task})
        task.result()
