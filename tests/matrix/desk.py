"""A whole gateway without sockets: accounts at the fake carriers, a store in a file, and requests handed to the
ASGI application as a server would."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bots.base import Build
from bots.echo import Echo
from gateway import registry
from gateway.app import Gateway, create_app
from gateway.records import CallRecord
from gateway.settings import BotEntry, GatewaySettings, NumberEntry, Settings
from gateway.simulator.web import FakeWeb, Reply, Webhook
from gateway.simulator.webcaller import CarrierServer
from gateway.store import Store
from gateway.store_sql import SqlStore
from media.secret import GivenSecret, Secret

BASE = "https://gw.example.com"
NUMBER = "+14155550100"


def web_of(name: str, **options: Any) -> FakeWeb:
    """An account at the carrier `name`; "telnyx-control" is Telnyx by Call Control."""
    carrier, _, plane = name.partition("-")
    module = importlib.import_module(f"gateway.simulator.{carrier}_web")
    made = getattr(module, f"Fake{carrier.capitalize()}Web")
    if plane:
        options["control"] = "call_control"
    found: FakeWeb = made(**options)
    return found


def carrier_settings(web: FakeWeb, api_base: str, **keys: Any) -> Any:
    """[carriers.<name>] for an account: what its credentials say, by the settings' own names."""
    cls = registry.carrier_settings_class(web.name)
    known = {field.name: field.type for field in dataclasses.fields(cls)}
    given: dict[str, Any] = {}
    for name, value in web.credentials.items():
        if name in known:
            given[name] = GivenSecret(value) if "Secret" in str(known[name]) else value
    if getattr(web, "control", "") == "call_control":
        given["control"] = "call_control"
    return cls(**{**given, "api_base": api_base, **keys})


def settings_for(
    webs: Sequence[FakeWeb],
    rest: CarrierServer,
    *,
    gateway: Mapping[str, Any] | None = None,
    carriers: Mapping[str, Mapping[str, Any]] | None = None,
    bots: Sequence[str] = ("echo",),
    numbers: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """Settings for the accounts `webs`; the first of `bots` answers every number that `numbers` does not name."""
    own = {web.name: carrier_settings(web, rest.base(web.name), **(carriers or {}).get(web.name, {})) for web in webs}
    entries = {key: NumberEntry(key=key, **more) for key, more in (numbers or {}).items()}
    entries.setdefault("default", NumberEntry(key="default", bot=bots[0]))
    return Settings(
        gateway=GatewaySettings(**{"public_url": BASE, "max_lateness_ms": 0.0, **(gateway or {})}),
        carriers=own,
        bots={name: BotEntry(name=name, use="echo") for name in bots},
        numbers=entries,
    )


class Desk:
    """What carriers reach of one gateway, and what they then hear."""

    def __init__(self, gateway: Gateway, webs: Sequence[FakeWeb]) -> None:
        self.gateway = gateway
        self.webs = {web.name: web for web in webs}
        self.app = create_app(gateway)

    @property
    def web(self) -> FakeWeb:
        """The only account."""
        (found,) = self.webs.values()
        return found

    async def send(self, webhook: Webhook, **more: Any) -> Reply:
        """`webhook` as a proxy at the public URL would hand it over."""
        return await self.ask(webhook.method, webhook.url, webhook.headers, webhook.body, **more)

    async def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Sequence[bytes | float] = b"",
        *,
        scheme: str = "",
        client: str = "127.0.0.1",
    ) -> Reply:
        """One request, addressed as `url` says; a `body` in pieces, with pauses in seconds between them."""
        parts = urlsplit(url)
        given = {"host": parts.netloc, **(headers or {})}
        pieces = [body] if isinstance(body, bytes) else list(body)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": scheme or parts.scheme,
            "path": unquote(parts.path),
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": (client, 40000),
            "server": ("127.0.0.1", 8080),
        }
        heard: dict[str, Any] = {"body": b""}
        never = asyncio.Event()

        async def receive() -> dict[str, Any]:
            while pieces:
                piece = pieces.pop(0)
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                else:
                    return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
            await never.wait()
            raise AssertionError

        async def send(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                heard["status"] = message["status"]
                heard["headers"] = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                heard["body"] += message.get("body", b"")

        await self.app(scope, receive, send)
        return Reply(status=heard["status"], headers=heard["headers"], body=heard["body"])


@asynccontextmanager
async def desk(
    folder: Path,
    webs: Sequence[FakeWeb],
    *,
    store: Store | None = None,
    bots: Mapping[str, Build] | None = None,
    **how: Any,
) -> AsyncIterator[Desk]:
    """A gateway that runs, with its store in `folder`. `how`: as of `settings_for`."""
    bots = bots or {"echo": lambda call: (Echo(),)}
    base = how.get("gateway", {}).get("public_url", BASE)
    for web in webs:
        web.answer_url, web.status_url = f"{base}/{web.name}/answer", f"{base}/{web.name}/status"
    async with CarrierServer(webs) as rest:
        settings = settings_for(webs, rest, bots=tuple(bots), **how)
        gateway = Gateway(settings, bots, store=store or SqlStore(f"sqlite:///{folder / 'calls.db'}"), sink=Nowhere())
        await gateway.start()
        try:
            yield Desk(gateway, webs)
        finally:
            await gateway.stop()


class Nowhere:
    """Takes records, and keeps none."""

    def put(self, record: CallRecord) -> None:
        pass


def plain(secret: Secret | None) -> str:
    return secret.reveal() if secret is not None else ""
