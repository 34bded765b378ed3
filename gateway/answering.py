"""The carriers' webhooks: read, shown to be authentic, admitted, answered.

What a webhook means and how it is answered is the carrier's module in webhooks/; here is what all have in common: the
limits on bodies, the public URL over which signatures are made, admission, the token, and that what was decided is
committed before the answer leaves.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from gateway.doctor.passes import MARK_BYTES
from gateway.public_url import Addressing
from gateway.records import masked
from gateway.routing import resolve
from gateway.settings import NumberEntry
from gateway.snapshot import Snapshot
from gateway.store import PROVISIONAL, RESERVED_S, Admitted, CallKey, Caps, Refused, StoredCall, StoreError
from media.errors import GatewayError
from webhooks.accounts import ACCOUNT
from webhooks.base import (
    CarrierEvent,
    CarrierHttp,
    CarrierRequest,
    Handled,
    HttpAnswer,
    InboundCall,
    NotAuthentic,
    Once,
    Refusal,
    StandingStream,
    StreamOffer,
    UnreadableRequest,
    Urls,
    WebRequest,
)

if TYPE_CHECKING:
    from gateway.app import Gateway

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.webhooks")

MAX_BODY = 64 * 1024
BODY_S = 5.0  # for a whole body to arrive
PLACED_TRIES, PLACED_WAIT_S = 20, 0.1  # for the reply to an order, when the call's answer webhook overtakes it
ROUTES = frozenset({"answer", "events", "status", "stream-status", "after", "passthru", "start"})


class Consequences(Protocol):
    """What webhooks set in motion elsewhere."""

    def execute(self, request: CarrierRequest) -> None:
        """Send it, after the answer has left."""

    def reported(self, event: CarrierEvent) -> Awaitable[None]:
        """A carrier's report, once committed, reaches the live call, the pending hang-up, the user's URL."""

    def let_in(self, call: InboundCall, bot: str) -> None:
        """A slot was reserved for it, for the first time."""

    def turned_away(self, call: InboundCall, reason: str, bot: str) -> None: ...


class Answering:
    """The webhooks of all carriers, each by the configuration of its moment."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        draining: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._gateway, self._store = gateway, gateway.store
        self._mint, self._metrics = gateway.mint, gateway.metrics
        self._consequences: Consequences = gateway
        self._draining, self._now = draining, now
        self.diagnose: Callable[[Mapping[str, Any], bytes], Response | None] = lambda scope, body: None
        own = gateway.settings.gateway
        self.addressing = Addressing(own.public_url, own.trusted_networks)

    async def webhook(self, request: Request) -> Response:
        """One request of a carrier."""
        carrier, route = request.path_params["carrier"], request.path_params["route"]
        snapshot = self._gateway.snapshot
        http = snapshot.carriers.get(carrier)
        if http is None or route not in ROUTES:
            return Response(status_code=404)
        try:
            body = await _body(request)
        except _Refused as exc:
            self._metrics.webhook(carrier, route, exc.reason)
            log.warning("webhook.refused", carrier=carrier, route=route, reason=exc.reason)
            return Response(status_code=exc.status)
        if MARK_BYTES in body and (told := self.diagnose(request.scope, body)) is not None:
            return told  # the doctor's own, whose other marks were lost on the way
        received = WebRequest(
            method=request.method,
            url=self.addressing.url(request.scope),
            headers=_headers(request.scope["headers"]),
            body=body,
            received=self._now(),
            peer=self.addressing.peer(request.scope),
        )
        urls = Urls(base=self.addressing.base(request.scope))
        try:
            http = http.side_of(route, received)
            if http.settings.verify_signatures:
                await self._authenticate(http, route, received)
            answer = await self._answer(snapshot, http, route, received, urls)
        except NotAuthentic as exc:
            self._metrics.webhook(carrier, route, exc.reason)
            log.warning("webhook.not_authentic", carrier=carrier, route=route, reason=exc.reason, checked=exc.checked)
            return Response(status_code=exc.status)
        except UnreadableRequest as exc:
            self._metrics.webhook(carrier, route, "unreadable")
            log.warning("webhook.unreadable", carrier=carrier, route=route, problem=str(exc), size=len(body))
            return Response(status_code=400)
        except StoreError as exc:
            # Carriers try again after a 503; a call that is not in the store could never be swept.
            self._metrics.webhook(carrier, route, "store")
            log.error("webhook.store_failed", carrier=carrier, route=route, problem=str(exc))
            return Response(status_code=503, headers={"retry-after": "1"})
        self._metrics.webhook(carrier, route, "answered")
        return Response(answer.body, answer.status, dict(answer.headers), media_type=answer.content_type)

    async def _authenticate(self, http: CarrierHttp, route: str, received: WebRequest) -> None:
        await self._first_show(http, http.authenticate(route, received), received)

    async def _first_show(self, http: CarrierHttp, once: Once | None, received: WebRequest) -> None:
        if once is None:
            return
        holder = received.url  # the same delivery again is the carrier's retry; elsewhere it is a replay
        fresh = await self._store.once(
            f"{http.carrier}:{once.key}", received.received, ttl_s=once.for_s, holder=holder, repeat_s=once.repeat_s
        )
        if not fresh:
            raise NotAuthentic(http.carrier, "replayed", status=once.status)

    async def _answer(
        self, snapshot: Snapshot, http: CarrierHttp, route: str, received: WebRequest, urls: Urls
    ) -> HttpAnswer:
        handled = http.handle(route, received, urls)
        if handled.renamed is not None:
            ordered, own = handled.renamed
            await self._store.rename(CallKey(http.carrier, ordered), own)
        await self._follow(handled)
        if handled.asks_after is not None:
            target = await self._store.take_wish(CallKey(http.carrier, handled.asks_after), self._now())
            if target is not None or handled.incoming is None:
                return http.after(handled.asks_after, target)
        if handled.incoming is not None:
            handled = await self._incoming(snapshot, http, handled.incoming, urls)
            await self._follow(handled)
        return handled.answer or HttpAnswer(status=204)

    async def _follow(self, handled: Handled) -> None:
        for event in handled.events:
            await self._consequences.reported(event)
        for request in handled.requests:
            self._consequences.execute(request)

    # ------------------------------------------------------------ a call comes

    async def _incoming(self, snapshot: Snapshot, http: CarrierHttp, call: InboundCall, urls: Urls) -> Handled:
        """Admit it or turn it away; either way it is in the store before the carrier hears of it."""
        now = self._now()
        if http.account:
            call = dataclasses.replace(call, extra={**call.extra, ACCOUNT: http.account})
        known = await self._store.call(CallKey(call.carrier, call.call_id)) if call.again else None
        if call.direction == "outbound":
            placed = await self._placed(CallKey(call.carrier, call.call_id), call.order)
            if placed is None:
                return await self._turn_away(http, call, Refusal(reason="not-ours", instead="rejected"), now)
            bot = placed.bot
            call = _completed(call, placed)
        else:
            if known is not None:
                call = _completed(call, known)
            route = resolve(snapshot.settings, call.carrier, call.to_number, call_id=call.call_id)
            bot = route.bot_name if route is not None else ""
            if route is not None and route.account not in ("", http.account):
                # Whoever has an account of his own here must not call himself somebody else's number.
                return await self._turn_away(http, call, Refusal(reason="other-account", instead="rejected"), now)
        if self._draining():
            # Who has talked to us already is not told that we are busy.
            reason = "over" if known is not None and known.ended is not None else "draining"
            return await self._turn_away(http, call, _refusal(snapshot, reason), now, bot)
        if not bot:
            return await self._turn_away(http, call, Refusal(reason="no-bot", instead="rejected"), now)
        decided = await self.admit(snapshot, call, now, bot)
        if isinstance(decided, Refused):
            return self._turned_away(http, call, _refusal(snapshot, decided.reason))
        self._gateway.expected.put(CallKey(call.carrier, call.call_id), snapshot, decided.expires - now)
        token = self._mint.mint(
            call.carrier,
            ttl_s=decided.expires - now,
            call_id=call.call_id,
            from_number=clipped(call.from_number),
            to_number=clipped(call.to_number),
            bot=bot,
            codec=getattr(http.settings, "send_codec", "") or "",
            sample_rate=getattr(http.settings, "send_rate", None) or http.settings.sample_rate or 0,
            direction=call.direction,
        )
        self._metrics.answered[call.carrier] += 1
        log.info("call.answered", call=call.call_id, carrier=call.carrier, bot=bot, repeated=decided.repeated)
        offer = StreamOffer(media_url=urls.media(call.carrier, token), urls=urls, parameters=call.parameters)
        return http.offer(call, offer)

    async def _placed(self, key: CallKey, order: str) -> StoredCall | None:
        """The call that we placed: its answer may come before the reply to our order has told us its id, or without
        that reply."""
        if order:
            await self._store.rename(CallKey(key.carrier, PROVISIONAL + order), key.call_id)
        for _ in range(PLACED_TRIES):
            stored = await self._store.call(key)
            if stored is not None and stored.bot:
                return stored
            await asyncio.sleep(PLACED_WAIT_S)
        return None

    async def admit(
        self, snapshot: Snapshot, call: InboundCall, now: float, bot: str = "", *, ttl_s: float = RESERVED_S
    ) -> Admitted | Refused:
        """Reserve a slot under the caps of the gateway, the carrier and the number."""
        ours = call.from_number if call.direction == "outbound" else call.to_number
        route = resolve(snapshot.settings, call.carrier, ours, call_id=call.call_id)
        number = route.key if route is not None else ""
        bot = bot or (route.bot_name if route is not None else "")
        caps = _caps(snapshot, call.carrier, route.entry if route is not None else None)
        if await self._overloaded(call):
            await self._store.refused(call, "overloaded", now, bot=bot)
            self._consequences.turned_away(call, "overloaded", bot)
            return Refused("overloaded")
        decided = await self._store.admit(call, caps, now, bot=bot, number=number, ttl_s=ttl_s)
        if isinstance(decided, Refused):
            if decided.reason != "over":
                self._consequences.turned_away(call, decided.reason, bot)
        elif not decided.repeated:
            self._consequences.let_in(call, bot)
        return decided

    async def _overloaded(self, call: InboundCall) -> bool:
        """Live calls would suffer from this one. A call that has been let in before is one of them."""
        gateway = self._gateway
        if call.again or not gateway.health.look(gateway.clock.now()):
            return False
        return await self._store.call(CallKey(call.carrier, call.call_id)) is None

    async def nobody_answers(self, call: InboundCall, now: float) -> None:
        """A call that no webhook has announced, to a number that has no bot."""
        await self._store.refused(call, "no-bot", now)
        self._consequences.turned_away(call, "no-bot", "")

    async def admit_stream(
        self, snapshot: Snapshot, call: InboundCall, stream: StandingStream, now: float
    ) -> Admitted | Refused:
        """The same for a stream that no webhook has announced: its number is not known yet, its group is."""
        if self._gateway.health.look(self._gateway.clock.now()):
            return Refused("overloaded")
        caps = dataclasses.replace(_caps(snapshot, call.carrier, None), number=stream.max_calls)
        return await self._store.admit(call, caps, now, bot=stream.connector, number=f"{call.carrier}:{stream.group}")

    def upgrade(self, scope: Mapping[str, Any]) -> WebRequest:
        """The upgrade of a media socket, as its carrier made it."""
        return WebRequest(
            method="GET",
            url=self.addressing.url(scope),
            headers=_headers(scope["headers"]),
            received=self._now(),
            peer=self.addressing.peer(scope),
        )

    async def authenticate_upgrade(self, http: CarrierHttp, received: WebRequest) -> None:
        """The carrier's signature on the upgrade of a media socket. Raises NotAuthentic, StoreError."""
        remark = http.authenticate_upgrade(received)
        if remark:
            log.warning("media.signature", carrier=http.carrier, remark=remark)
        await self._first_show(http, http.once_of_upgrade(received), received)

    async def _turn_away(
        self, http: CarrierHttp, call: InboundCall, refusal: Refusal, now: float, bot: str = ""
    ) -> Handled:
        await self._store.refused(call, refusal.reason, now, bot=bot)
        self._consequences.turned_away(call, refusal.reason, bot)
        return self._turned_away(http, call, refusal)

    def _turned_away(self, http: CarrierHttp, call: InboundCall, refusal: Refusal) -> Handled:
        self._metrics.refused[call.carrier, refusal.reason] += 1
        log.warning(
            "call.turned_away",
            call=call.call_id,
            carrier=call.carrier,
            reason=refusal.reason,
            to_number=masked(call.to_number),
        )
        return http.refuse(call, refusal)


def _caps(snapshot: Snapshot, carrier: str, entry: NumberEntry | None) -> Caps:
    return Caps(
        gateway=snapshot.settings.gateway.max_calls,
        carrier=snapshot.carriers[carrier].settings.max_calls,
        number=entry.max_calls if entry is not None else None,
    )


def _refusal(snapshot: Snapshot, reason: str) -> Refusal:
    return Refusal(reason=reason, instead=snapshot.settings.gateway.when_full)


def _completed(call: InboundCall, known: StoredCall) -> InboundCall:
    """What a webhook does not say of a call that was here before."""
    return dataclasses.replace(
        call,
        from_number=call.from_number or known.from_number,
        to_number=call.to_number or known.to_number,
        account_id=call.account_id or known.account_id,
        parameters={**known.parameters, **call.parameters},
        extra={**known.extra, **call.extra},
    )


def clipped(number: str) -> str:
    """A caller may call himself anything; a token has room for so much of it."""
    return number.encode("utf-8", "replace")[:40].decode("utf-8", "ignore")


class _Refused(GatewayError):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


async def _body(request: Request) -> bytes:
    """The whole body, within limits."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_BODY:
        raise _Refused(413, "too-large")
    pieces = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                pieces += piece
                if len(pieces) > MAX_BODY:
                    raise _Refused(413, "too-large")
    except TimeoutError:
        raise _Refused(408, "too-slow") from None
    except ClientDisconnect:
        raise _Refused(400, "gone") from None
    return bytes(pieces)


def _headers(pairs: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in pairs:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
