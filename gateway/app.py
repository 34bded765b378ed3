"""The ASGI application: which URL is what, and the services that all calls of this process share."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute

from bots.base import Build
from gateway import registry
from gateway.calls import CallRegistry
from gateway.clock import Clock
from gateway.core import BotRoute, CallCore, CallLimits, CallRecord
from gateway.metrics import Metrics
from gateway.records import LogSink, RecordSink
from gateway.session import CallSession, Receive, Send
from gateway.settings import Settings
from gateway.tokens import Claims, TokenError, TokenMint
from media.call import CallInfo
from serializers.base import WireOptions

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.app")

# Carriers that retry a handshake by themselves may show their token again for the same call.
_RETRYING = frozenset({"plivo", "exotel"})


class Gateway:
    """One process's worth of gateway: settings, prepared bots, and everything that outlives a call."""

    def __init__(
        self, settings: Settings, builds: Mapping[str, Build], *, sink: RecordSink | None = None, token_key: str = ""
    ) -> None:
        self.settings = settings
        self.builds = builds
        self.clock = Clock()
        self.calls = CallRegistry(settings.gateway.max_calls)
        self.metrics = Metrics()
        secret = settings.gateway.secret
        self.mint = TokenMint(token_key or (secret.reveal() if secret is not None else secrets.token_hex(32)))
        self.sink = sink if sink is not None else LogSink()
        limits = settings.gateway
        self._limits = CallLimits(
            start_s=limits.start_timeout_s,
            silence_s=limits.silence_timeout_s,
            longest_s=limits.longest_call_s,
            drain_s=limits.last_words_s,
            outbox=limits.outbox_messages,
            blocked_s=limits.blocked_timeout_s,
        )
        self.metrics.gauge("gateway_calls_live", "calls that are up", lambda: float(len(self.calls)))
        self.metrics.gauge(
            "gateway_tick_lateness_seconds", "99th percentile of the last five seconds", self.clock.lateness_s
        )

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        self.clock.start()

    async def drain(self) -> None:
        """Refuse new calls; live ones say their last words."""
        cut = await self.calls.drain(self.settings.gateway.drain_s)
        if cut:
            log.warning("gateway.calls_cut", calls=cut)

    async def stop(self) -> None:
        await self.clock.stop()

    # ------------------------------------------------------------ a media socket

    async def media(self, scope: Any, receive: Receive, send: Send) -> None:
        """A carrier opens the media stream of a call."""
        carrier = scope["path_params"]["carrier"]
        await receive()  # websocket.connect
        refusal, claims = self._admit(carrier, scope)
        if refusal is not None:
            status, reason = refusal
            self.metrics.refused[carrier if carrier in self.settings.carriers else "unknown", reason] += 1
            log.warning("media.refused", carrier=carrier[:20], reason=reason)
            await _refuse(scope, send, status)
            return
        assert claims is not None
        await self._carry(carrier, claims, receive, send)

    def _admit(self, carrier: str, scope: Any) -> tuple[tuple[int, str] | None, Claims | None]:
        """Why this socket stays out, or who it is."""
        if carrier not in self.settings.carriers:
            return (404, "unknown-carrier"), None
        if self.calls.draining:
            return (503, "draining"), None
        token = scope["path_params"].get("token", "")
        try:
            claims = self.mint.take(carrier, token, may_repeat=carrier in _RETRYING)
        except TokenError as exc:
            return (403, exc.reason), None
        if self.calls.full:
            return (503, "full"), None
        return None, claims

    async def _carry(self, carrier: str, claims: Claims, receive: Receive, send: Send) -> None:
        settings = self.settings.carriers[carrier]
        serializer = registry.serializer_class(carrier).for_call(_wire_options(settings, claims))
        session = CallSession(receive, send, self.clock)
        session.core = CallCore(
            serializer,
            session,
            limits=self._limits,
            claims=claims.call(),
            route=lambda info: self.route(info, claims.bot),
            lead_ms=settings.lead_ms,
            now=self.clock.now(),
        )
        structlog.contextvars.clear_contextvars()
        self.calls.add(session)
        self.metrics.started[carrier] += 1
        try:
            await send({"type": "websocket.accept"})
            record = await session.run()
            self._finished(record)
        finally:
            self.calls.discard(session)

    def _finished(self, record: CallRecord) -> None:
        if record.info.probe:
            return
        self.metrics.count(record)
        self.sink.put(record)

    def route(self, info: CallInfo, bot: str = "") -> BotRoute | None:
        """Who answers: the bot that the token names, else the number's."""
        found = registry.resolve(self.settings, info.carrier, info.to_number)
        if not bot and found is not None:
            bot = found.bot_name
        build = self.builds.get(bot)
        entry = self.settings.bots.get(bot)
        if build is None or entry is None:
            return None
        of_number = found.on_error if found is not None and found.bot_name == bot else None
        return BotRoute(bot, build, entry.sample_rate, of_number or entry.on_error)


def _wire_options(settings: Any, claims: Claims) -> WireOptions:
    """What the serializer must know before the carrier says anything: the token's word, then the configuration's."""
    own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return WireOptions(
        receive_codec=own.get("receive_codec") or "",
        send_codec=claims.codec or own.get("send_codec") or "",
        send_sample_rate=claims.sample_rate or own.get("sample_rate") or 0,
        options=own,
    )


async def _refuse(scope: Any, send: Send, status: int) -> None:
    """Answer the upgrade with an HTTP status, where the server can; else 403."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await send({"type": "websocket.http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "websocket.http.response.body", "body": b""})
    else:
        await send({"type": "websocket.close", "code": 1008})


class _MediaEndpoint:
    """An ASGI application, so that no message of a call passes through a framework."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await self._gateway.media(scope, receive, send)


def create_app(gateway: Gateway) -> Starlette:
    """The application of `gateway`. Sockets live until the lifespan ends: drain first (see gateway/server.py)."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "calls": len(gateway.calls)})

    async def ready(request: Request) -> Response:
        if gateway.calls.draining:
            return JSONResponse({"status": "draining"}, status_code=503)
        if gateway.calls.full:
            return JSONResponse({"status": "full"}, status_code=503)
        return JSONResponse({"status": "ready"})

    async def metrics(request: Request) -> Response:
        return Response(gateway.metrics.render(), media_type=gateway.metrics.content_type)

    async def not_a_socket(request: Request) -> Response:
        return PlainTextResponse("this is a media WebSocket\n", status_code=426, headers={"upgrade": "websocket"})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await gateway.start()
        try:
            yield
        finally:
            await gateway.stop()

    media = _MediaEndpoint(gateway)
    return Starlette(
        routes=[
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", metrics),
            WebSocketRoute("/{carrier}/media/{token:path}", media),
            Route("/{carrier}/media/{token:path}", not_a_socket),
        ],
        lifespan=lifespan,
    )


async def prepare(settings: Settings) -> dict[str, Build]:
    """The bots of `settings`, prepared off the loop: files are read and prompts spoken here."""
    return await asyncio.to_thread(registry.prepare_bots, settings)
