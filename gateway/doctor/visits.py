"""What the doctor sends: plain requests, and those of each carrier, signed with the configured secrets."""

from __future__ import annotations

import asyncio
import dataclasses
import email.utils
import json
import secrets
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from gateway import registry
from gateway.doctor.judge import Sent
from gateway.doctor.passes import FIELD, HEADER, Passes
from gateway.simulator.base import CallPlan, fake_carrier
from gateway.simulator.web import FakeWeb, Webhook, fake_web
from media.secret import Secret

# Characters that proxies like to write in another way.
NOTE = "gateway_note=a%20b%2Fc~d"
ODD_PATH = "doctor/a%20b%2Fc~d/"
CALLER, CALLEE = "+15005550006", "+15005550001"  # nobody has such numbers
# The carrier keeps the other half: the doctor signs with a pair of its own, and its pass says which.
PUBLIC_HALVES = frozenset({"public_key"})


@dataclass(slots=True)
class Exchange:
    """One request and what came of it."""

    sent: Sent
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    seen: Mapping[str, Any] | None = None  # what the gateway's desk said
    problem: str = ""  # why there is no answer


def date_in(headers: Mapping[str, str]) -> float | None:
    """The clock of whoever answered, to the second."""
    try:
        return email.utils.parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        return None


@dataclass(slots=True)
class SocketVisit(Exchange):
    text_back: bool = False
    binary_back: bool = False
    round_trip_ms: float = 0.0
    held: bool = True


class _Connect(connect):
    """As carriers connect: a redirect is a refusal."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class Visitor:
    """Sends requests to a gateway, by its public URL."""

    def __init__(self, base: str, passes: Passes, context: ssl.SSLContext | None, timeout_s: float) -> None:
        self.base, self._passes, self._ssl, self._timeout_s = base, passes, context, timeout_s
        self._http = httpx.AsyncClient(verify=context or False, trust_env=False, timeout=timeout_s)

    async def __aenter__(self) -> Visitor:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    def issue(self, overrides: Mapping[str, str] | None = None) -> str:
        return self._passes.issue(overrides)

    async def ask(
        self, where: str, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Exchange:
        """One request, byte for byte as it is given. Redirects are answers too."""
        given = {name.lower(): value for name, value in (headers or {}).items()}
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = self._http.build_request(method, url, headers={**given, "host": parts.netloc}, content=body or None)
        request.url = httpx.URL(url).copy_with(raw_path=target.encode("ascii"))
        sent = Sent(where=where, method=method, url=url, headers=given, body=body)
        began = time.time()
        try:
            reply = await self._http.send(request)
        except httpx.TimeoutException:
            return Exchange(sent, problem=f"no answer in {self._timeout_s:g} s")
        except httpx.HTTPError as exc:
            return Exchange(sent, problem=f"{type(exc).__name__}: {exc}"[:200])
        took = time.time() - began
        sent = replace(sent, at=began + took / 2, took_s=took)
        names = {name.lower(): value for name, value in reply.headers.items()}
        return Exchange(sent, reply.status_code, names, reply.content, _seen(names, reply.content))

    async def webhook(self, where: str, webhook: Webhook, visit: str) -> Exchange:
        return await self.ask(
            where, webhook.method, webhook.url, headers={**webhook.headers, HEADER: visit}, body=webhook.body
        )

    async def socket(
        self, where: str, url: str, headers: Mapping[str, str], visit: str, hold_s: float = 0.0
    ) -> SocketVisit:
        """Open a media socket; what the gateway says of it, and whether messages of both kinds go and come."""
        given = {name.lower(): value for name, value in headers.items()}
        sent = Sent(where=where, method="GET", url=url, headers=given)
        found = SocketVisit(sent)
        began = time.time()
        try:
            async with (
                asyncio.timeout(self._timeout_s + hold_s),
                _Connect(
                    url,
                    ssl=self._ssl if url.startswith("wss:") else None,
                    additional_headers={**given, HEADER: visit},
                    compression=None,
                    open_timeout=self._timeout_s,
                    close_timeout=1,
                    ping_interval=None,
                    proxy=None,
                ) as socket,
            ):
                found.status = 101
                first = await socket.recv()
                took = time.time() - began
                found.sent = replace(sent, at=began + took / 2, took_s=took)
                found.seen = _seen({HEADER: "1"}, first if isinstance(first, bytes) else first.encode())
                if hold_s:
                    await asyncio.sleep(hold_s)
                found.held = False
                asked = time.perf_counter()
                await socket.send("text")
                found.text_back = await socket.recv() == "text"
                found.round_trip_ms = 1000 * (time.perf_counter() - asked)
                await socket.send(bytes(3200))
                found.binary_back = await socket.recv() == bytes(3200)
                found.held = True
        except InvalidStatus as exc:
            reply = exc.response
            found.status, found.body = reply.status_code, bytes(reply.body or b"")
            found.headers = {name.lower(): value for name, value in reply.headers.raw_items()}
            found.seen = _seen(found.headers, found.body)
        except TimeoutError:
            found.problem = f"no answer in {self._timeout_s:g} s"
        except ConnectionClosed as exc:
            found.problem = f"the connection was closed ({exc.rcvd.code if exc.rcvd else 1006})"
        except (InvalidHandshake, OSError) as exc:
            found.problem = f"{type(exc).__name__}: {exc}"[:200]
        return found


def _seen(headers: Mapping[str, str], body: bytes) -> Mapping[str, Any] | None:
    """What the gateway's desk said, if it was the desk."""
    if HEADER not in headers:
        return None
    try:
        seen = json.loads(body)
    except ValueError:
        return None
    return seen if isinstance(seen, dict) and "authentic" in seen else None


# ---------------------------------------------------------------- a carrier's requests


@dataclass(frozen=True, slots=True)
class Account:
    """One set of credentials of a carrier; Genesys has several."""

    label: str  # "twilio", "genesys key main"
    carrier: str
    settings: Any
    credentials: Mapping[str, str]

    def web(self, base: str) -> FakeWeb | None:
        """The carrier's HTTP side as this account has it. None: it has no webhooks."""
        if getattr(self.settings, "product", "voice") != "voice":
            return None
        try:
            cls = fake_web(self.carrier)
        except KeyError:
            return None
        own = {key: value for key, value in self.credentials.items() if key not in PUBLIC_HALVES}
        options = {"control": self.settings.control} if hasattr(self.settings, "control") else {}
        token = self.credentials.get("path_token", "")
        answer_url = f"{base}/{self.carrier}/answer" + (f"/{token}" if token else "")
        return cls(answer_url, credentials=own, **options)

    def overrides(self, web: FakeWeb | None) -> Mapping[str, str]:
        """Settings that the pass must name for this account's signatures to be good."""
        if web is None:
            return {}
        return {
            name: web.credentials[name] for name in PUBLIC_HALVES & web.credentials.keys() & self.credentials.keys()
        }


def accounts(carrier: str, settings: Any) -> Iterator[Account]:
    """The sets of credentials in a carrier's settings."""
    keys = getattr(settings, "keys", None)
    if isinstance(keys, Mapping):
        for name, key in keys.items():
            yield Account(f"{carrier} key {name}", carrier, settings, _credentials(key))
        return
    for label, own in by_account(carrier, settings):
        yield Account(label, carrier, own, _credentials(own))


def by_account(carrier: str, settings: Any) -> Iterator[tuple[str, Any]]:
    """The settings of each account of a carrier, and what it is called. Raises ConfigError."""
    if not settings.accounts or not registry.carrier_side(carrier, settings).side_named("").account:
        yield carrier, settings
    for name, own in settings.accounts.items():
        yield f"{carrier} account {name}", own


def _credentials(settings: Any) -> dict[str, str]:
    """Secrets and plain texts by the names of their fields; what is not set is empty. Raises ConfigError."""
    found = {}
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        if isinstance(value, Secret):
            # Of a secret with several lines each is good: see GenesysKey.
            text = value.reveal()
            found[each.name] = text if "BEGIN" in text else text.split("\n")[0]
        elif isinstance(value, str) or value is None:
            found[each.name] = value or ""
    return {name: value for name, value in found.items() if value or name in _EMPTY_MEANS_NONE}


# A fake account makes up what it is not given; these it must not.
_EMPTY_MEANS_NONE = frozenset({"basic_user", "basic_password"})


def signed_webhook(web: FakeWeb, visit: str) -> Webhook:
    """The first webhook of a call, with the pass in it wherever it may be, signed."""
    # No carrier has ids with a slash: should all that tells of the doctor be lost, the request makes no sense either.
    call_id = f"doctor/{secrets.token_hex(8)}"
    call = web.place(CallPlan(from_number=CALLER, to_number=CALLEE, call_id=call_id), time.time())
    webhook = call.webhooks.popleft()
    joint = "&" if "?" in webhook.url else "?"
    webhook = replace(webhook, url=f"{webhook.url}{joint}{NOTE}&{FIELD}={visit}", body=_marked(webhook, visit))
    return web.signed(webhook, time.time())


def _marked(webhook: Webhook, visit: str) -> bytes:
    if not webhook.body:
        return b""
    if "json" in webhook.headers.get("content-type", ""):
        return json.dumps({**json.loads(webhook.body), FIELD: visit}).encode()
    return webhook.body + f"&{FIELD}={visit}".encode()


def handshake(account: Account, web: FakeWeb | None, url: str) -> Mapping[str, str]:
    """Headers of the upgrade to `url`, signed as the carrier does."""
    if getattr(account.settings, "handshake_signature", "enforce") == "off":
        return {}
    if web is not None:
        return web.handshake(url, time.time())
    return fake_carrier(account.carrier)(CallPlan(credentials=account.credentials)).handshake_headers(url)
