"""The ASGI application: which URL is what."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute

from gateway.any_carrier import AnyCarrier
from gateway.api import create_api
from gateway.console.pages import console_routes
from gateway.doctor.desk import Door
from gateway.public_url import StripPrefix
from gateway.start import start_route
from gateway.store import StoreError
from gateway.watching.sockets import PATH as WATCH_PATH

if TYPE_CHECKING:
    from gateway.app import Gateway

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")


class _On:
    """The carriers that are on, now."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def __contains__(self, carrier: object) -> bool:
        return carrier in self._gateway.settings.carriers


def tell_cannot_start(exc: StoreError) -> None:
    remedy = "gateway.store says where it is; GATEWAY_STATE, in which folder by default"
    log.error("gateway.cannot_start", problem=str(exc), remedy=remedy)


def create_app(gateway: Gateway) -> Starlette:
    """The application of `gateway`. Sockets live until the lifespan ends: drain first (see gateway/server.py)."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "calls": len(gateway.calls)})

    async def ready(request: Request) -> Response:
        if gateway.calls.draining:
            return JSONResponse({"status": "draining"}, status_code=503)
        if gateway.calls.full:
            return JSONResponse({"status": "full"}, status_code=503)
        if gateway.health.unwritten:
            return JSONResponse({"status": "store", "problem": gateway.health.unwritten}, status_code=503)
        if gateway.health.look(gateway.clock.now()):
            return JSONResponse({"status": "overloaded"}, status_code=503)
        return JSONResponse({"status": "ready"})

    async def metrics(request: Request) -> Response:
        return Response(await gateway.rendered(), media_type=gateway.metrics.content_type)

    async def not_found(request: Request, exc: Exception) -> Response:
        return JSONResponse({"detail": "Not Found"}, status_code=404)

    async def not_a_socket(request: Request) -> Response:
        return PlainTextResponse("this is a media WebSocket\n", status_code=426, headers={"upgrade": "websocket"})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            await gateway.start()
        except StoreError as exc:
            tell_cannot_start(exc)
            raise
        try:
            yield
        finally:
            await gateway.stop()

    def webhooks(path: str) -> list[Route]:
        """A URL that was pasted with a slash at its end is the same: a redirect would lead past the proxy."""
        return [Route(each, gateway.answering.webhook, methods=["GET", "POST"]) for each in (path, path + "/")]

    def refused(reason: str) -> None:
        gateway.metrics.refused["unknown", reason] += 1

    media = gateway.sockets
    unannounced = []
    if gateway.settings.gateway.generic_ws:
        wait_s = gateway.settings.gateway.start_timeout_s
        any_carrier = AnyCarrier(_On(gateway), media.take_unannounced, refused, wait_s=wait_s)
        unannounced.append(WebSocketRoute("/ws", any_carrier))
    prefix = gateway.answering.addressing.prefix
    return Starlette(
        middleware=[
            Middleware(Door, desk=gateway.doctor),
            *([Middleware(StripPrefix, prefix=prefix)] if prefix else []),
        ],
        routes=[
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", metrics),
            *unannounced,
            Mount("/api", create_api(gateway.desk, gateway.watching, lambda: gateway.settings, gateway.urls)),
            *(console_routes(gateway) if gateway.settings.has_console else ()),
            start_route(gateway),
            WebSocketRoute(WATCH_PATH, gateway.watching),
            *webhooks("/{carrier}/{route}"),
            WebSocketRoute("/{carrier}/media", media),
            WebSocketRoute("/{carrier}/media/{token:path}", media),
            Route("/{carrier}/media/{token:path}", not_a_socket),
            *webhooks("/{carrier}/{route}/{secret}"),
        ],
        exception_handlers={404: not_found},
        lifespan=lifespan,
    )
