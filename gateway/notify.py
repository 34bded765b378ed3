"""Event webhooks: the user's own URL is told what happens to calls.

An event is in the store's queue before anything is sent, so it outlives the process; events of one call go one after
the other, in their order, until each was taken or given up. No call ever waits for this: what a call does here is to
hand a few hundred bytes to the store.

Signed as Standard Webhooks says (https://www.standardwebhooks.com): `webhook-id`, `webhook-timestamp` and
`webhook-signature: v1,<base64 of HMAC-SHA256 over "id.timestamp.body">`.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import hmac
import math
import random
import secrets
import time
import urllib.request
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import structlog

from gateway.control import view_record
from gateway.event_settings import EventKind, EventSettings, address_of, is_public, is_this_machine
from gateway.store import CallKey, HangUp, OutgoingEvent, Standing, Store, StoredCall, StoreError
from media.call import CallInfo
from media.errors import GatewayError
from webhooks.base import InboundCall

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.events")

LOOK_S = 1.0  # how often the queue is looked at for what is due again, or was left by others
PARALLEL = 8  # deliveries at once
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 900.0  # between the tries of one event
SETTLE_S = 30.0  # how long the end of a call waits to be told for the outcome of the hang-up
FAILURES = 3  # one after the other, after which only one delivery at a time is tried
BRAKE_S, LONGEST_BRAKE_S = 1.0, 60.0
LONGEST_RETRY_AFTER_S = 3600.0
MAX_REPLY = 65_536  # bytes that are read so that the connection can be used again
_REMEMBERED = 10_000  # calls whose end, or refusal, this process has told


class NotDelivered(GatewayError):
    """The receiver did not take an event. `reason` is for the log."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None, for_good: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.retry_after_s, self.for_good = reason, retry_after_s, for_good


def signature(key: bytes, event_id: str, timestamp: int, body: bytes) -> str:
    """One of the signatures in `webhook-signature`."""
    digest = hmac.digest(key, f"{event_id}.{timestamp}.".encode() + body, "sha256")
    return "v1," + base64.b64encode(digest).decode()


class Notifier:
    """Queues events, and delivers what is in the queue. One for the process; without a URL it does nothing.

    Args:
        scale: of all times but the settings' own: tests run them faster.
    """

    def __init__(
        self,
        settings: EventSettings,
        store: Store,
        *,
        scale: float = 1.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings, self._store, self._scale, self._now = settings, store, scale, now
        self.counters: Counter[str] = Counter()  # "queued", "dropped", "delivered", "failed", "given_up", "repeated"
        self._keys = settings.keys if settings.url else ()
        self._kinds = frozenset(settings.kinds) if settings.url else frozenset()
        self._told: OrderedDict[tuple[str, CallKey], None] = OrderedDict()
        self._wake = asyncio.Event()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._client: httpx.AsyncClient | None = None
        self._by_proxy = False
        self._failures = 0  # one after the other
        self._brake_until = 0.0  # monotonic
        self._closing = False

    # ------------------------------------------------------------ what happens to calls

    def started(self, call: InboundCall, bot: str) -> None:
        """A call has come and was let in, or was placed and the carrier has taken the order."""
        self._tell("call.started", _facts(call, bot), parameters=dict(call.parameters))

    def answered(self, info: CallInfo, bot: str) -> None:
        """The bot hears the caller."""
        if not info.probe and self._first("answered", CallKey(info.carrier, info.call_id)):
            self._tell("call.answered", _facts(info, bot), parameters=dict(info.parameters))

    def refused(self, call: InboundCall, reason: str, bot: str = "") -> None:
        if self._first("refused", CallKey(call.carrier, call.call_id)):
            self._tell("call.refused", _facts(call, bot), reason=reason)

    def transferred(self, info: CallInfo, target: str, bot: str = "") -> None:
        """The carrier was told where to take the caller."""
        self._tell("call.transferred", _facts(info, bot), target=target)

    def ended(self, key: CallKey) -> None:
        """The call's record is written. What is told is the record as it stands when it is sent."""
        if key.call_id and not key.provisional and self._first("ended", key):
            self._tell("call.ended", {"carrier": key.carrier, "call_id": key.call_id})

    def _first(self, what: str, key: CallKey) -> bool:
        if not self._kinds or (what, key) in self._told:
            return False  # nobody wants to hear it, or has heard it
        self._told[what, key] = None
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        return True

    def _tell(self, kind: EventKind, call: Mapping[str, Any], **more: Any) -> None:
        if kind not in self._kinds:
            return
        now = self._now()
        event = {"id": f"evt_{secrets.token_hex(12)}", "kind": kind, "time": now, "call": call, **more}
        try:
            queued = self._store.enqueue(_encoded(event), now, call=CallKey(call["carrier"], call["call_id"]))
        except StoreError as exc:
            self._dropped(kind, str(exc))
            return
        asyncio.ensure_future(queued).add_done_callback(lambda done: self._queued(kind, done))

    def _queued(self, kind: str, done: asyncio.Future[bool]) -> None:
        if done.cancelled() or (exc := done.exception()) is not None:
            self._dropped(kind, "cancelled" if done.cancelled() else str(exc))
        elif not done.result():
            self._dropped(kind, "the queue is full")
        else:
            self.counters["queued"] += 1
            self._wake.set()

    def _dropped(self, kind: str, problem: str) -> None:
        self.counters["dropped"] += 1
        if self.counters["dropped"].bit_count() == 1:  # the 1st, 2nd, 4th, 8th ...: an outage is not a flood of lines
            log.error("events.dropped", kind=kind, problem=problem, dropped=self.counters["dropped"])

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        if not self.settings.url:
            return
        proxy = _proxy_for(self.settings.url)
        self._by_proxy = proxy is not None
        self._client = httpx.AsyncClient(
            proxy=proxy,
            trust_env=False,
            verify=httpx.create_ssl_context(),  # with the authorities of SSL_CERT_FILE, where that is set
            follow_redirects=False,  # the signature is for this receiver
            limits=httpx.Limits(max_connections=PARALLEL, max_keepalive_connections=PARALLEL),
            headers={"user-agent": "telephony-gateway", "content-type": "application/json"},
        )
        self._loop = asyncio.get_running_loop().create_task(self._work(), name="events")

    async def close(self, limit_s: float = 3.0) -> None:
        """Deliver what is due, for so long; what is left stays in the store for the next process."""
        self._closing = True
        self._wake.set()
        if self._loop is not None:
            await asyncio.wait({self._loop}, timeout=limit_s)
            tasks = {self._loop, *self._deliveries}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._loop = None
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _work(self) -> None:
        """Take what is due, as much at once as may be."""
        while True:
            failing = self._failures >= FAILURES
            free = (1 if failing else PARALLEL) - len(self._deliveries)
            braked_s = self._brake_until - time.monotonic()
            taken: Sequence[OutgoingEvent] = ()
            self._wake.clear()
            if free > 0 and braked_s <= 0:
                try:
                    claim_s = self.settings.timeout_s + 30.0
                    taken = await self._store.events(self._now(), limit=free, claim_s=claim_s)
                except StoreError as exc:
                    log.error("events.store_failed", problem=str(exc))
                for event in taken:
                    task = asyncio.get_running_loop().create_task(self._deliver(event), name="event")
                    self._deliveries.add(task)
                    task.add_done_callback(self._delivered)
            if self._closing and not taken and (not self._deliveries or braked_s > 0):
                return
            if len(taken) < free or free <= 0 or braked_s > 0:
                try:
                    async with asyncio.timeout(max(LOOK_S * self._scale, braked_s)):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._deliveries.discard(task)
        self._wake.set()
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("events.task_failed", exc_info=exc)

    # ------------------------------------------------------------ one delivery

    async def _deliver(self, event: OutgoingEvent) -> None:
        """Try once, and write down what came of it."""
        try:
            message = msgspec.json.decode(event.body)
            if message["kind"] == "call.ended":
                later_s = await self._complete(event, message)
                if later_s is not None:
                    await self._store.failed(event.id, self._now() + later_s)
                    return
                if not message:
                    await self._store.delivered(event.id)
                    return
            await self._send(message["id"], _encoded(message))
        except NotDelivered as exc:
            await self._again(event, exc)
        except StoreError as exc:
            log.error("events.store_failed", problem=str(exc))  # its claim runs out, and it is tried again
        else:
            self._failures = 0
            self.counters["delivered"] += 1
            await self._settled(self._store.delivered(event.id))

    async def _complete(self, event: OutgoingEvent, message: dict[str, Any]) -> float | None:
        """Put the record into `message`; empty it if there is nothing to tell. Seconds to wait, if it is too early."""
        key = CallKey(message["call"]["carrier"], message["call"]["call_id"])
        record = await self._store.call(key)
        if record is not None and _unsettled(record) and self._now() - event.created < SETTLE_S * self._scale:
            return LOOK_S * self._scale
        if record is not None and record.standing is Standing.LIVE:
            message.clear()  # another worker has the call, and tells its end
            return None
        # The session, a carrier's report and a hang-up finished elsewhere may each have queued the end.
        for_s = self.settings.give_up_s + 3600.0
        first = await self._store.once(f"ended {key}", self._now(), ttl_s=for_s, holder=str(event.id), repeat_s=for_s)
        if not first or (record is not None and not _ours(record)):
            self.counters["repeated"] += 1
            message.clear()
        elif record is not None:
            message["call"] = view_record(record)
        return None

    async def _send(self, event_id: str, body: bytes) -> None:
        """Raises NotDelivered."""
        assert self._client is not None
        timestamp = int(self._now())
        headers = {
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signature(key, event_id, timestamp, body) for key in self._keys),
        }
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                request = await self._request(headers, body)
                reply = await self._client.send(request, stream=True)
                try:
                    status, retry_after = reply.status_code, reply.headers.get("retry-after", "")
                    await _read(reply)
                finally:
                    await reply.aclose()
        except TimeoutError:
            raise NotDelivered(f"no answer in {self.settings.timeout_s:g} s") from None
        except (httpx.HTTPError, OSError) as exc:
            raise NotDelivered(type(exc).__name__) from None
        if not 200 <= status < 300:
            waits = _seconds(retry_after, self._now()) if status in (429, 503) else None
            raise NotDelivered(f"HTTP {status}", retry_after_s=waits, for_good=status == 410)

    async def _request(self, headers: Mapping[str, str], body: bytes) -> httpx.Request:
        """The request, addressed to where the name led just now: what was checked is what is connected to."""
        assert self._client is not None
        url = httpx.URL(self.settings.url)
        host = url.host
        if self._by_proxy or is_this_machine(host) or address_of(host) is not None:
            return self._client.build_request("POST", url, headers=headers, content=body, timeout=None)
        port = url.port or {"https": 443, "http": 80}[url.scheme]
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)  # SOCK_STREAM
        addresses = [address for *_, there in found if (address := address_of(str(there[0]))) is not None]
        allowed = [one for one in addresses if self.settings.allow_private or is_public(one)]
        if not allowed:
            raise NotDelivered("the name leads to private addresses only: events.allow_private would take them")
        request = self._client.build_request(
            "POST",
            url.copy_with(host=str(allowed[0])),
            headers={**headers, "host": url.netloc.decode("ascii")},
            content=body,
            timeout=None,
        )
        request.extensions["sni_hostname"] = host  # also what the certificate must be for
        return request

    async def _again(self, event: OutgoingEvent, problem: NotDelivered) -> None:
        """The older an event, the longer until the next try; a receiver that fails in general gets one at a time."""
        now, age_s = self._now(), self._now() - event.created
        self.counters["failed"] += 1
        self._failures += 1
        if self._failures == FAILURES:
            log.warning("events.failing", reason=problem.reason, attempts=event.attempts)
        if problem.for_good or age_s >= self.settings.give_up_s:
            self.counters["given_up"] += 1
            log.error("events.given_up", reason=problem.reason, call=event.call, attempts=event.attempts)
            await self._settled(self._store.failed(event.id, None))
            return
        if self._failures >= FAILURES:
            doubled = BRAKE_S * 2.0 ** min(self._failures - FAILURES, 10)
            self._brake_until = time.monotonic() + min(doubled, LONGEST_BRAKE_S) * self._scale
        wait_s = min(max(FIRST_WAIT_S * self._scale, age_s), LONGEST_WAIT_S) * random.uniform(0.8, 1.2)
        if problem.retry_after_s is not None:
            wait_s = max(wait_s, problem.retry_after_s)
            self._brake_until = max(self._brake_until, time.monotonic() + problem.retry_after_s)
        until = min(now + wait_s, max(event.created + self.settings.give_up_s, now + FIRST_WAIT_S * self._scale))
        await self._settled(self._store.failed(event.id, until))

    async def _settled(self, writing: Awaitable[None]) -> None:
        try:
            await writing
        except StoreError as exc:
            log.error("events.store_failed", problem=str(exc))


# ---------------------------------------------------------------- pieces


def _facts(call: InboundCall | CallInfo, bot: str) -> dict[str, Any]:
    return {
        "carrier": call.carrier,
        "call_id": call.call_id,
        "direction": call.direction,
        "from_number": call.from_number,
        "to_number": call.to_number,
        "bot": bot,
    }


def _unsettled(record: StoredCall) -> bool:
    """Whether more will be known of the end in a moment."""
    return record.ended is None or record.hang_up is HangUp.PENDING


def _ours(record: StoredCall) -> bool:
    """Whether the call was ever let in: carriers also report on those that we refused, or never heard of."""
    return record.standing is not Standing.REFUSED and bool(record.bot or record.answered is not None)


def _encoded(event: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)


async def _read(reply: httpx.Response) -> None:
    """The body is of no interest; a long one costs the connection."""
    size = 0
    async for piece in reply.aiter_raw():
        size += len(piece)
        if size > MAX_REPLY:
            return


def _seconds(retry_after: str, now: float) -> float | None:
    """What Retry-After says, in seconds or as a date."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - now
        except ValueError:
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S) if math.isfinite(seconds) else None


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for `url`: it then decides where names lead."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_this_machine(host) or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
