"""Its URLs. The page itself holds no secret; all that it asks goes to the API, or to a socket that asks for a token."""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import mimetypes
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from gateway.console.phone import Phone

if TYPE_CHECKING:
    from gateway.app import Gateway

FILES = (
    "index.html",
    "console.css",
    "console.js",
    "api.js",
    "call.js",
    "charts.js",
    "counters.js",
    "elements.js",
    "live.js",
    "phone.js",
    "rtvi.js",
    "sound.js",
    "timeline.js",
    "watch.js",
)
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self)",
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    packed: bytes
    tag: str
    kind: str


@cache
def _file(name: str) -> _File:
    body = importlib.resources.files("gateway.console").joinpath("static", name).read_bytes()
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return _File(body, gzip.compress(body, 9, mtime=0), tag, f"{kind}; charset=utf-8")


def weight() -> int:
    """What a browser loads, in bytes as they travel."""
    return sum(len(_file(name).packed) for name in FILES)


async def _serve(request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    if name not in FILES:
        return Response(status_code=404)
    file = _file(name)
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers={**_HEADERS, "etag": file.tag})
    headers = {**_HEADERS, "etag": file.tag, "content-type": file.kind}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, headers={**headers, "content-encoding": "gzip"})
    return Response(file.body, headers=headers)


async def _to_the_page(request: Request) -> Response:
    return RedirectResponse(request.url.path + "/")  # so that relative URLs are the page's


def console_routes(gateway: Gateway) -> list[BaseRoute]:
    """What the application routes, where the console is on."""
    return [
        Route("/console", _to_the_page),
        Route("/console/", _serve),
        Route("/console/{name}", _serve),
        WebSocketRoute("/console/phone", Phone(gateway)),
    ]
