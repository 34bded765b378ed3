"""How a call of a load test comes to its socket: by a token of our own, or by the carrier's webhook."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.commands.serve import use_made_up_secrets
from gateway.load.courier import Courier, NotDelivered
from gateway.load.plan import Arrival, LoadPlan
from gateway.load.tally import Tally
from gateway.settings import Settings, load_settings
from gateway.simulator.base import CallPlan, FakeCarrier, fake_carrier
from gateway.simulator.configured import credentials, mint_for
from gateway.simulator.web import FakeWeb, Reply, Stage, WebCall, Webhook, fake_web
from gateway.tokens import TokenMint
from media.errors import ConfigError

RING_S = 30.0  # from the caller's dialling to a document with a stream


def settings_of(config: Path) -> Settings:
    """Those of the gateway that is called. Raises ConfigError or ConfigErrors."""
    use_made_up_secrets(config)
    settings = load_settings(config)
    if settings.gateway.secret is None:
        raise ConfigError("gateway.secret", "is not set", "calls need tokens that the running gateway accepts")
    return settings


class Turned(Exception):
    """There is no socket for this call. `refused`: the gateway said no; else something went wrong."""

    def __init__(self, reason: str, *, refused: bool) -> None:
        super().__init__(reason)
        self.reason, self.refused = reason, refused


@dataclass(slots=True)
class Entry:
    """What a line needs to connect."""

    carrier: FakeCarrier
    url: str
    headers: Mapping[str, str]
    web: FakeWeb | None = None
    call: WebCall | None = None


class Doorway:
    """Lets the calls of one generator in."""

    def __init__(self, plan: LoadPlan, settings: Settings) -> None:
        assert settings.gateway.secret is not None
        self._plan, self._settings = plan, settings
        self._mint = TokenMint(settings.gateway.secret.reveal())
        self._public = settings.gateway.public_url.rstrip("/")
        self._base = plan.url.rstrip("/")
        secure = plan.through == "webhook" and plan.url.startswith("wss")
        self._courier = Courier(ssl.create_default_context() if secure else None)
        self._webs: dict[str, FakeWeb] = {}
        if plan.through == "webhook":
            for name in {name for each in plan.scenarios for name in each.carriers or plan.carriers}:
                _can_sign(name, settings.carriers.get(name))

    def close(self) -> None:
        self._courier.close()

    async def enter(self, arrival: Arrival, strict: bool, tally: Tally) -> Entry:
        """Raises Turned."""
        name, scenario = arrival.carrier, arrival.scenario
        plan = CallPlan(
            from_number=f"+1415555{arrival.number % 10_000:04d}",
            to_number=scenario.to or self._plan.to,
            credentials=credentials(self._settings.carriers.get(name)),
        )
        if self._plan.through == "webhook" and scenario.end != "refused" and name != "genesys":
            return await self._ring(name, plan, strict, tally)
        own = self._settings.carriers.get(name)
        codec = getattr(own, "send_codec", "") or ""
        rate = getattr(own, "sample_rate", None) or 0
        plan = CallPlan(
            from_number=plan.from_number,
            to_number=plan.to_number,
            credentials=plan.credentials,
            send_codec=codec,
            receive_codec=codec,
            sample_rate=rate,
        )
        fake = _cheap(fake_carrier(name)(plan, strict=strict, record=False))
        if scenario.end == "refused":
            return Entry(fake, self._base + fake.media_path("no-token"), {})  # nor a signature
        path = fake.media_path(mint_for(self._mint, fake))
        return Entry(fake, self._base + path, fake.handshake_headers((_ws(self._public) or self._base) + path))

    # ------------------------------------------------------------ by webhook

    async def _ring(self, name: str, plan: CallPlan, strict: bool, tally: Tally) -> Entry:
        web = self._web(name)
        call = web.place(plan, time.time())
        broken: list[str] = []
        try:
            async with asyncio.timeout(RING_S):
                while call.webhooks and call.stage is not Stage.CONNECTING:
                    broken += await self._deliver(web, call, call.webhooks.popleft(), tally)
        except TimeoutError:
            web.calls.pop(call.call_id, None)
            raise Turned("webhook: too many, too slowly", refused=False) from None
        if call.stage is not Stage.CONNECTING:
            web.calls.pop(call.call_id, None)
            if broken:
                raise Turned(broken[0], refused=False)
            refused = call.over and not call.end.startswith("failed")
            raise Turned(f"webhook: {call.end or call.stage.value}", refused=refused)
        tally.failed.update(broken)
        fake = _cheap(web.media(call, strict=strict, record=False))
        where = self._reach(call.media_url)
        return Entry(fake, where, fake.handshake_headers(call.media_url), web, call)

    async def leave(self, entry: Entry, refused: bool, tally: Tally) -> None:
        """The socket is closed: the carrier reports what came of the call."""
        web, call = entry.web, entry.call
        assert web is not None
        assert call is not None
        now = time.time()
        if refused:
            web.media_refused(call, 503, now)
        else:
            web.media_opened(call, entry.carrier, now)
            web.media_closed(call, now)
        while call.webhooks:
            tally.failed.update(await self._deliver(web, call, call.webhooks.popleft(), tally))
        web.calls.pop(call.call_id, None)

    async def _deliver(self, web: FakeWeb, call: WebCall, webhook: Webhook, tally: Tally) -> list[str]:
        """What the carrier holds against the answer."""
        signed = web.signed(webhook, time.time())
        began = time.monotonic()
        reply: Reply | None = None
        try:
            reply = await self._courier.deliver(
                signed.method,
                self._reach(signed.url),
                {**signed.headers, "host": urlsplit(signed.url).netloc},
                signed.body or b"",
            )
            tally.webhook.add(time.monotonic() - began)
        except NotDelivered as exc:
            tally.failed[f"webhook: {exc}"] += 1
        web.take_reply(call, webhook, reply, time.time())
        broken = [str(violation) for violation in web.violations]
        web.violations.clear()
        return [] if reply is None else broken  # that there was none is counted

    def _web(self, name: str) -> FakeWeb:
        web = self._webs.get(name)
        if web is None:
            base = self._public or _http(self._base)
            # What is not configured is not shown; a path token is the end of the URL that the operator pasted.
            own = {"basic_user": ""} | credentials(self._settings.carriers.get(name))
            end = f"/{own['path_token']}" if own.get("path_token") else ""
            web = self._webs[name] = fake_web(name)(f"{base}/{name}/answer{end}", credentials=own)
        return web

    def _reach(self, url: str) -> str:
        """`url` as it is connected to: past whatever makes the public URL of it."""
        if self._public and url.startswith((self._public, _ws(self._public))):
            base = self._public if url.startswith("http") else _ws(self._public)
            return (_http(self._base) if url.startswith("http") else self._base) + url[len(base) :]
        return url


def _can_sign(name: str, own: Any) -> None:
    """Raises ConfigError for a carrier whose webhooks are signed with a key that only the carrier has."""
    if getattr(own, "public_key", "") and getattr(own, "verify_signatures", False):
        raise ConfigError(
            f"carriers.{name}",
            "only the carrier itself can sign the webhooks that this gateway takes",
            "use --through socket, or give a test gateway verify_signatures = false",
        )


def _cheap(fake: FakeCarrier) -> FakeCarrier:
    """Sound is decoded, for the ear, but not kept; when it starts and runs dry is told to carriers that ask for it."""
    fake.records = True
    fake.playout.marks_only = not fake.tells_playback
    return fake


def _ws(url: str) -> str:
    return url.replace("http", "ws", 1) if url.startswith("http") else url


def _http(url: str) -> str:
    return url.replace("ws", "http", 1) if url.startswith("ws") else url
