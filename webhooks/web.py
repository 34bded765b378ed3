"""Callers from the web: `POST /start` answers with the WebSocket to connect to, as Pipecat's clients ask for it.

Who may: holders of the key, or this machine while there is none; with `public = true` anybody, from the pages of
`origins`. A page of another site is never let in.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from media.secret import Secret
from webhooks.base import (
    CarrierHttp,
    CarrierSettings,
    Handled,
    HttpAnswer,
    InboundCall,
    NotAuthentic,
    Once,
    Refusal,
    StreamOffer,
    UnreadableRequest,
    Urls,
    WebRequest,
    is_loopback_base,
)
from webhooks.signature import url_parts

MAX_REQUEST_DATA = 16 * 1024  # bytes; it is kept with the call
_FORWARDED = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "forwarded", "via")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings(CarrierSettings):
    """[carriers.web]. Without a key only this machine gets in, unless `public` says that anybody may call."""

    key: Secret | None = None  # `POST /start` brings it as `Authorization: Bearer <key>`
    public: bool = False  # anybody may call, without a key: mind max_calls
    origins: tuple[str, ...] = ()  # "https://www.example.com": other sites whose pages may call
    numbers: tuple[str, ...] = ("web",)  # that web callers call: the first, or the one they name as `number`

    def __post_init__(self) -> None:
        for origin in self.origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or f"{parts.scheme}://{parts.netloc}" != origin:
                raise ValueError(f'origins: {origin!r} is not like "https://www.example.com"')
        if not self.numbers:
            raise ValueError("numbers: name one at least")
        if self.sample_rate is not None and self.sample_rate not in (8000, 16000, 24000, 48000):
            raise ValueError("sample_rate must be 8000, 16000, 24000 or 48000: what the page's player plays at")


class WebHttp(CarrierHttp):
    """`start` is its only route."""

    carrier: ClassVar[str] = "web"

    def may_read(self, request: WebRequest) -> bool:
        """Whether the page that asks may see our answers: one of our own, of `origins`, or of no site at all."""
        origin = request.header("origin")
        if not origin or origin in self.settings.origins:
            return True
        own = url_parts(request.url)
        if origin == f"{own.scheme}://{own.host}":
            return True
        return self._is_local(request) and is_loopback_base(_by_address(origin))

    def authenticate(self, route: str, request: WebRequest) -> Once | None:
        settings: WebSettings = self.settings
        if not self.may_read(request):
            raise NotAuthentic(self.carrier, "origin")
        if settings.public:
            return None
        scheme, _, given = request.header("authorization").partition(" ")
        if settings.key is None:
            if not self._is_local(request):
                raise NotAuthentic(self.carrier, "no-key", status=401)
        elif not given or scheme.lower() != "bearer":
            raise NotAuthentic(self.carrier, "no-key", status=401)
        elif not hmac.compare_digest(given.strip().encode("utf-8", "replace"), settings.key.reveal().encode()):
            raise NotAuthentic(self.carrier, "wrong-key", status=401)
        return None

    def _is_local(self, request: WebRequest) -> bool:
        """This machine asks, of this machine, and nobody stands between."""
        if any(request.header(name) for name in _FORWARDED):
            return False
        host = url_parts(request.url).host
        return is_loopback_base(_by_address(f"http://{host}")) and is_loopback_base(_by_address(_url_of(request.peer)))

    def handle(self, route: str, request: WebRequest, urls: Urls) -> Handled:
        if route != "start" or request.method != "POST":
            return Handled(answer=HttpAnswer(status=404))
        data = self._request_data(request)
        number = data.get("number", self.settings.numbers[0])
        if number not in self.settings.numbers:
            raise UnreadableRequest("web: a number that is none of [carriers.web] numbers")
        call = InboundCall(
            carrier=self.carrier,
            call_id=f"web-{secrets.token_hex(12)}",
            from_number="web",
            to_number=number,
            parameters=_parameters(data),
        )
        return Handled(incoming=call)

    def _request_data(self, request: WebRequest) -> Mapping[str, Any]:
        """The body, which clients call `requestData`; they may send none."""
        if not request.body.strip():
            return {}
        if len(request.body) > MAX_REQUEST_DATA:
            raise UnreadableRequest(f"web: a body of {len(request.body)} bytes; {MAX_REQUEST_DATA} are taken")
        try:
            data = request.json
        except (ValueError, RecursionError):
            raise UnreadableRequest("web: the body is not JSON") from None
        if not isinstance(data, dict):
            raise UnreadableRequest("web: the body is not a JSON object")
        return data

    def offer(self, call: InboundCall, stream: StreamOffer) -> Handled:
        """Nothing beside the URL: the client refuses an answer with any key that it does not know."""
        return Handled(answer=_json(200, {"wsUrl": stream.media_url}))

    def refuse(self, call: InboundCall, refusal: Refusal) -> Handled:
        return Handled(answer=_json(503, {"info": f"the call was turned away: {refusal.reason}"}))


def _parameters(data: Mapping[str, Any]) -> dict[str, str]:
    """What bots find in `call.info.parameters`: the plain values by their names, and all of it as `requestData`."""
    if not data:
        return {}
    plain = {name: str(value) for name, value in data.items() if isinstance(value, str | int | float)}
    return {**plain, "requestData": json.dumps(data)}


def _json(status: int, content: Mapping[str, Any]) -> HttpAnswer:
    return HttpAnswer(status=status, body=json.dumps(content).encode(), content_type="application/json")


def _url_of(address: str) -> str:
    return f"http://[{address}]" if ":" in address else f"http://{address}" if address else "http://nobody.invalid"


def _by_address(url: str) -> str:
    """`url` with the one name that means this machine replaced by its address; the scheme does not matter."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "http://nobody.invalid"
    host = parts.netloc
    if (parts.hostname or "").lower() == "localhost":
        host = "127.0.0.1"
    return f"http://{host}" if host else "http://nobody.invalid"
