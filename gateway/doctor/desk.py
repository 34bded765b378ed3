"""The running gateway's side of `gateway doctor`: says what has arrived, to whoever shows a pass.

Anybody else notices nothing: without a valid pass a request goes its usual way and is answered as ever.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from starlette.responses import JSONResponse, Response

from gateway import registry
from gateway.doctor.passes import HEADER, MARK_BYTES, Pass, Passes
from gateway.public_url import Addressing, has_prefix, raw_path
from gateway.snapshot import Snapshot
from media.errors import ConfigError
from webhooks.base import CarrierHttp, NotAuthentic, WebRequest

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.doctor")

VISITS = 20  # at once
VISIT_S = 90.0  # a socket may be kept open this long
BODY_S, MAX_BODY = 5.0, 64 * 1024
SHOWN_BODY = 16 * 1024
WEBHOOKS = frozenset({"answer", "events", "status", "stream-status", "after", "passthru"})
# Of these headers the doctor is told the value: what a proxy says in them is what matters.
_SHOWN = frozenset({"host", "via", "forwarded", "x-real-ip", "connection", "upgrade", "content-type", "content-length"})

Headers = Sequence[tuple[bytes, bytes]]


class Desk:
    """What is told, and by what it is known who may be told."""

    def __init__(
        self,
        secret: str,
        snapshot: Callable[[], Snapshot],
        addressing: Addressing,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._passes = Passes(secret, now=now)
        self._snapshot, self._addressing, self._now = snapshot, addressing, now
        self._visits = 0

    # ------------------------------------------------------------ who asks

    def shown(self, scope: Mapping[str, Any]) -> Pass | None:
        """The pass in the headers, the query or the path of a request."""
        for name, value in scope["headers"]:
            if name == _HEADER and (visit := self._passes.read(value)) is not None:
                return visit
        query, path = scope.get("query_string", b""), scope.get("raw_path") or b""
        return self._passes.read(query + b" " + path) if MARK_BYTES in query or MARK_BYTES in path else None

    def answer_to(self, scope: Mapping[str, Any], body: bytes) -> Response | None:
        """The diagnosis for a request whose pass is nowhere but in its body."""
        visit = self._passes.read(body)
        return self._diagnosis(scope, visit, body) if visit is not None else None

    # ------------------------------------------------------------ what is told

    async def request(self, visit: Pass, scope: Any, receive: Any, send: Any) -> None:
        """A request with a pass."""
        if self._visits >= VISITS:
            await Response(status_code=503)(scope, receive, send)
            return
        self._visits += 1
        try:
            body, more = bytearray(), True
            try:
                async with asyncio.timeout(BODY_S):
                    while more and len(body) <= MAX_BODY:
                        message = await receive()
                        if message["type"] != "http.request":
                            return
                        body += message.get("body", b"")
                        more = message.get("more_body", False)
            except TimeoutError:
                pass  # as much as there is: that the rest is missing is what the doctor wants to know
            await self._diagnosis(scope, visit, bytes(body))(scope, receive, send)
        finally:
            self._visits -= 1

    async def socket(self, visit: Pass, scope: Any, receive: Any, send: Any) -> None:
        """A WebSocket with a pass: says what arrived, then sends everything back until the doctor closes."""
        await receive()  # websocket.connect
        if self._visits >= VISITS:
            await send({"type": "websocket.close", "code": 1013})
            return
        self._visits += 1
        try:
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": json.dumps(self._seen(scope, visit, b""))})
            async with asyncio.timeout(VISIT_S):
                while (message := await receive())["type"] == "websocket.receive":
                    if message.get("text") is not None:
                        await send({"type": "websocket.send", "text": message["text"]})
                    else:
                        await send({"type": "websocket.send", "bytes": message.get("bytes") or b""})
        except TimeoutError:
            await send({"type": "websocket.close", "code": 1000})
        finally:
            self._visits -= 1

    def _diagnosis(self, scope: Mapping[str, Any], visit: Pass, body: bytes) -> Response:
        return JSONResponse(self._seen(scope, visit, body), headers={HEADER: "1", "cache-control": "no-store"})

    def _seen(self, scope: Mapping[str, Any], visit: Pass, body: bytes) -> dict[str, Any]:
        is_socket = scope["type"] == "websocket"
        received = WebRequest(
            method="GET" if is_socket else scope["method"],
            url=self._addressing.url(scope),
            headers=_headers(scope["headers"]),
            body=body,
            received=self._now(),
            peer=self._addressing.peer(scope),
        )
        path = raw_path(scope)
        carrier, route = self._route(str(scope["path"]), is_socket)
        gateway = self._snapshot().settings.gateway
        seen = {
            "gateway": {
                "version": _version(),
                "public_url": gateway.public_url,
                "trusted_proxies": list(gateway.trusted_proxies),
                "carriers": sorted(self._snapshot().carriers),
                "carriers_off": dict(self._snapshot().settings.carriers_off),
            },
            "time": received.received,
            "method": received.method,
            "addressed": received.url,
            "arrived": {
                "scheme": scope.get("scheme", ""),
                "path": path,
                "query": scope.get("query_string", b"").decode("latin-1"),
                "connection_from": (scope.get("client") or ("", 0))[0],
                "peer": received.peer,
            },
            "headers": {name: fingerprint(value) for name, value in received.headers.items()},
            "told_headers": {
                name: value
                for name, value in received.headers.items()
                if name in _SHOWN or name.startswith("x-forwarded-")
            },
            "body": {
                "size": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
                "bytes": base64.b64encode(body[:SHOWN_BODY]).decode(),
            },
            "carrier": carrier,
            "route": route,
            "authentic": self._authentic(carrier, route, received, visit),
        }
        log.info("doctor.visit", carrier=carrier, route=route, socket=is_socket, authentic=seen["authentic"])
        return seen

    def _route(self, path: str, is_socket: bool) -> tuple[str, str]:
        """Which carrier's what this path is; empty where it is nothing of ours."""
        prefix = self._addressing.prefix
        if has_prefix(path, prefix):
            path = path[len(prefix) :]
        carrier, _, rest = path.removeprefix("/").partition("/")
        route = rest.partition("/")[0]
        if carrier not in self._snapshot().carriers or not path.startswith("/") or (is_socket and rest.endswith("/")):
            return "", ""
        return (carrier, route) if (route == "media") == is_socket and (is_socket or route in WEBHOOKS) else ("", "")

    def _authentic(self, carrier: str, route: str, received: WebRequest, visit: Pass) -> dict[str, Any]:
        """What this gateway makes of the signature. Nothing is used up by it."""
        http = self._snapshot().carriers.get(carrier)
        if http is None or not route:
            return {"result": "not-asked"}
        if not http.settings.verify_signatures:
            return {"result": "off"}
        try:
            http = _with(http, visit.overrides)
            if route == "media":
                remark = http.authenticate_upgrade(received)
                return {"result": "remark", "reason": remark} if remark else {"result": "good"}
            http.authenticate(route, received)
        except NotAuthentic as exc:
            return {"result": "refused", "reason": exc.reason, "checked": exc.checked}
        except ConfigError as exc:
            return {"result": "refused", "reason": f"settings: {exc}", "checked": {}}
        return {"result": "good"}


def _version() -> str:
    try:
        return importlib.metadata.version("telephony-gateway")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class Door:
    """ASGI middleware: whoever shows a pass goes to the desk, whatever the path."""

    def __init__(self, app: Any, desk: Desk) -> None:
        self._app, self._desk = app, desk

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket") and (visit := self._desk.shown(scope)) is not None:
            await (self._desk.request if scope["type"] == "http" else self._desk.socket)(visit, scope, receive, send)
        else:
            await self._app(scope, receive, send)


_HEADER = HEADER.encode()


def fingerprint(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _with(http: CarrierHttp, overrides: Mapping[str, str]) -> CarrierHttp:
    """`http` with other settings; only those that are plain text."""
    own = {field.name for field in dataclasses.fields(http.settings) if field.type in ("str", "str | Secret", str)}
    given = {name: value for name, value in overrides.items() if name in own}
    if not given:
        return http
    accounts = {name: dataclasses.replace(own, **given) for name, own in http.settings.accounts.items()}
    return registry.carrier_side(http.carrier, dataclasses.replace(http.settings, **given, accounts=accounts))


def _headers(pairs: Headers) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in pairs:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
