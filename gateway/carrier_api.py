"""Executes what the carriers' modules describe: requests to their REST interfaces.

One HTTP client for the process. Every request has a time limit, goes only to hosts that its carrier's module allows,
and is repeated, with jitter, only where repeating it is harmless.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import structlog

from bots.services.http import tls
from webhooks.base import CarrierHttp, CarrierRequest, Outcome, OutcomeKind

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.carrier_api")

MAX_REPLY = 256 * 1024  # bytes; carriers' answers are a few hundred
UNHEARD = frozenset({502, 504})  # somebody before the carrier has had no answer from it: it may have acted all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often and how long. Seconds."""

    attempts: int = 3
    first_wait_s: float = 0.3  # doubled each time, with full jitter
    longest_wait_s: float = 5.0  # also what a carrier's Retry-After is cut to
    parallel: int = 20  # requests to one carrier at once
    scale: float = 1.0  # of all times: tests run them faster


class CarrierApi:
    """The REST interfaces of all carriers."""

    def __init__(self, carriers: Mapping[str, CarrierHttp], *, patience: Patience | None = None) -> None:
        self.carriers = dict(carriers)
        self.patience = patience or Patience()
        self.counters: Counter[tuple[str, str, str]] = Counter()  # carrier, purpose, outcome
        self._client: httpx.AsyncClient | None = None
        self._slots = {name: asyncio.Semaphore(self.patience.parallel) for name in carriers}

    async def open(self) -> None:
        self._client = httpx.AsyncClient(
            follow_redirects=False,  # a redirect would carry the credentials elsewhere
            trust_env=True,
            verify=tls(),  # loaded once: each time it would hold up the loop, and all calls with it
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=20),
            headers={"user-agent": "telephony-gateway"},
        )

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def ask(
        self, request: CarrierRequest, *, http: CarrierHttp | None = None, within_s: float | None = None
    ) -> Outcome:
        """Send `request`, again where that is safe, and say what came of it. Raises nothing.

        With `within_s` the answer comes by then, however many requests are waiting and whatever the carrier asks for.
        """
        http = http or self.carriers.get(request.carrier)
        if http is None:
            return Outcome(kind=OutcomeKind.FAILED, detail="carrier is off")
        if not http.may_send_to(request.url):
            log.error("carrier_api.host_refused", carrier=request.carrier, host=_host(request.url))
            return Outcome(kind=OutcomeKind.FAILED, detail="host not allowed")
        outcome = Outcome(kind=OutcomeKind.RETRY, detail="not sent")
        patience, in_doubt, under_way = self.patience, False, False
        try:
            async with asyncio.timeout(None if within_s is None else within_s * patience.scale):
                for attempt in range(patience.attempts if request.repeatable else 1):
                    if attempt:
                        wait_s = random.uniform(0.5, 1.0) * patience.first_wait_s * 2 ** (attempt - 1)
                        if outcome.retry_after_s is not None:
                            wait_s = max(wait_s, min(outcome.retry_after_s, patience.longest_wait_s))
                        await asyncio.sleep(min(wait_s, patience.longest_wait_s) * patience.scale)
                    under_way = True
                    outcome = await self._once(http, request)
                    under_way, in_doubt = False, in_doubt or outcome.in_doubt
                    if outcome.kind is not OutcomeKind.RETRY:
                        break
        except TimeoutError:
            outcome = dataclasses.replace(outcome, detail=f"{outcome.detail}, nothing better in {within_s:g} s")
            in_doubt |= under_way
        if outcome.kind not in (OutcomeKind.DONE, OutcomeKind.ALREADY_OVER):
            outcome = dataclasses.replace(outcome, in_doubt=in_doubt)  # one that was lost may have come before
        self.counters[request.carrier, request.purpose.value, outcome.kind.value] += 1
        write = log.info if outcome.kind in (OutcomeKind.DONE, OutcomeKind.ALREADY_OVER) else log.warning
        write(
            "carrier_api.asked",
            carrier=request.carrier,
            purpose=request.purpose.value,
            call=request.call_id,
            outcome=outcome.kind.value,
            detail=outcome.detail,
        )
        return outcome

    async def _once(self, http: CarrierHttp, request: CarrierRequest) -> Outcome:
        client = self._client
        if client is None:
            return Outcome(kind=OutcomeKind.RETRY, detail="not open")
        began = time.monotonic()
        try:
            async with self._slots.setdefault(request.carrier, asyncio.Semaphore(self.patience.parallel)):
                async with asyncio.timeout(request.timeout_s * self.patience.scale):
                    reply = await client.request(
                        request.method,
                        request.url,
                        json=request.json,
                        data=_form(request),
                        headers={**request.headers, **http_headers(request)},
                        timeout=None,  # the limit above is for all of it
                    )
        except (TimeoutError, httpx.TimeoutException):
            took = time.monotonic() - began
            return Outcome(kind=OutcomeKind.RETRY, detail=f"no answer in {took:.1f} s", in_doubt=True)
        except httpx.TransportError as exc:
            sent = not isinstance(exc, (httpx.ConnectError, httpx.UnsupportedProtocol))
            return Outcome(kind=OutcomeKind.RETRY, detail=type(exc).__name__, in_doubt=sent)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            return Outcome(kind=OutcomeKind.FAILED, detail=type(exc).__name__)
        except GatewayProblem as exc:
            return Outcome(kind=OutcomeKind.FAILED, detail=str(exc))
        if len(reply.content) > MAX_REPLY:
            return Outcome(kind=OutcomeKind.FAILED, detail=f"an answer of {len(reply.content)} bytes")
        try:
            outcome = http.outcome(request, reply.status_code, dict(reply.headers), reply.content)
            return dataclasses.replace(outcome, in_doubt=outcome.in_doubt or reply.status_code in UNHEARD)
        except Exception:
            log.exception("carrier_api.unreadable", carrier=request.carrier, status=reply.status_code)
            kind = OutcomeKind.RETRY if reply.status_code >= 500 else OutcomeKind.FAILED
            unheard = reply.status_code in UNHEARD
            return Outcome(kind=kind, detail=f"HTTP {reply.status_code}, unreadable", in_doubt=unheard)


class GatewayProblem(Exception):
    """Credentials could not be had."""


def http_headers(request: CarrierRequest) -> Mapping[str, str]:
    """The headers with credentials, made as the request is sent."""
    try:
        return request.authorize(time.time())
    except Exception as exc:  # a secret that cannot be read, a key that is none
        raise GatewayProblem(f"no credentials: {type(exc).__name__}") from None


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _form(request: CarrierRequest) -> dict[str, list[str]] | None:
    if request.form is None:
        return None
    form: dict[str, list[str]] = {}
    for name, value in request.form:
        form.setdefault(name, []).append(value)
    return form
