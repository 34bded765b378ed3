"""A carrier's media socket: let in by its token or its standing URL, given a slot, carried, and its record kept."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from gateway import registry
from gateway.core import CallCore
from gateway.hangups import CallControl
from gateway.ports import BotRoute
from gateway.records import CallRecord, masked
from gateway.session import CallSession
from gateway.snapshot import Snapshot
from gateway.store import PROVISIONAL, CallKey, HangUp, Standing, StoredCall, StoreError
from gateway.store import Refused as AdmissionRefused
from gateway.tokens import REUSE_S, Claims, TokenError, used_key
from gateway.wires import Receive, Send, wire
from media.call import CallInfo
from media.errors import GatewayError
from media.frames import AnsweredByFrame
from serializers.base import WireOptions
from webhooks.accounts import ACCOUNT
from webhooks.base import InboundCall, NotAuthentic, StandingStream

if TYPE_CHECKING:
    from gateway.app import Gateway

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.app")

# Carriers that retry a handshake by themselves may show their token again for the same call.
_RETRYING = frozenset({"plivo", "exotel"})
_LET_IN = (Standing.EXPECTED, Standing.DIALLING, Standing.LIVE)
LATE_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # between tries to write what the store did not take; the last one repeats


class Refused(GatewayError):
    """A socket that stays out."""

    def __init__(self, status: int, reason: str, *, not_before_s: float = 0.0, **facts: Any) -> None:
        super().__init__(reason)
        self.status, self.reason, self.facts = status, reason, facts  # the facts are for the log
        self.not_before_s = not_before_s  # after the upgrade came: so that the time taken tells nothing


class MediaSockets:
    """The media sockets of one gateway. It is ASGI, so that no message of a call passes through a framework."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._unnamed: dict[CallKey, Callable[[str, Mapping[str, str]], None]] = {}  # calls that we are placing

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """A carrier opens the media stream of a call."""
        carrier = scope["path_params"]["carrier"]
        arrived, snapshot = time.monotonic(), self._gateway.snapshot
        await receive()  # websocket.connect
        try:
            claims, stream = await self._let_in(snapshot, carrier, scope)
            expected = self._gateway.expected.take(CallKey(carrier, claims.call_id), keep=carrier in _RETRYING)
            if expected is not None and carrier in expected.carriers:
                snapshot = expected
            stored = await self._connected(snapshot, claims, stream)
        except Refused as exc:
            known = carrier if carrier in snapshot.carriers else "unknown"
            self._gateway.metrics.refused[known, exc.reason] += 1
            log.warning("media.refused", carrier=carrier[:20], reason=exc.reason, **exc.facts)
            if exc.not_before_s:
                await asyncio.sleep(arrived + exc.not_before_s - time.monotonic())
            await refuse_upgrade(scope, send, exc.status)
            return
        await self._carry(snapshot, claims, stream, stored, scope, receive, send)

    async def _let_in(self, snapshot: Snapshot, carrier: str, scope: Any) -> tuple[Claims, StandingStream | None]:
        """Who this socket is: by its token, or by what its standing URL says. Raises Refused."""
        http = snapshot.carriers.get(carrier)
        if http is None:
            raise Refused(404, "unknown-carrier")
        if self._gateway.calls.draining and not await self._was_let_in(carrier, scope["path_params"].get("token", "")):
            raise Refused(503, "draining")
        upgrade = self._gateway.answering.upgrade(scope)
        try:
            if http.settings.verify_signatures:
                await self._gateway.answering.authenticate_upgrade(http, upgrade)
            stream = http.standing_stream(upgrade)
            if stream is not None:
                return _claims_of(snapshot, carrier, stream), stream
            token = scope["path_params"].get("token", "")
            claims = self._gateway.mint.read(carrier, token)
            await self._use_up(token, claims)
            return claims, None
        except NotAuthentic as exc:
            raise Refused(exc.status, exc.reason, not_before_s=http.refused_upgrade_s, checked=exc.checked) from None
        except TokenError as exc:
            known: dict[str, Any] = {"call": exc.call_id} if exc.call_id else {}
            raise Refused(403, exc.reason, **known) from None
        except StoreError as exc:
            raise Refused(503, "store", problem=str(exc)) from None

    async def _was_let_in(self, carrier: str, token: str) -> bool:
        """Its webhook was answered before the drain began: no other gateway expects it."""
        if not self._gateway.calls.lets_in:
            return False
        try:
            claims = self._gateway.mint.read(carrier, token)
            stored = await self._gateway.store.call(CallKey(carrier, claims.call_id))
        except (TokenError, StoreError):
            return False
        return stored is not None and stored.standing in _LET_IN

    async def _use_up(self, token: str, claims: Claims) -> None:
        """A token is good once, in whichever worker. Raises TokenError."""
        key, now = used_key(token), time.time()
        ttl_s = max(claims.expires - now, 0.0) + 1.0
        holder, repeat_s = (key, REUSE_S) if claims.carrier in _RETRYING else ("", 0.0)
        if not await self._gateway.store.once(key, now, ttl_s=ttl_s, holder=holder, repeat_s=repeat_s):
            raise TokenError("used", claims.call_id)

    async def _connected(self, snapshot: Snapshot, claims: Claims, stream: StandingStream | None) -> StoredCall | None:
        """Take the slot that the webhook reserved, or another where there was no webhook. Raises Refused."""
        key = CallKey(claims.carrier, claims.call_id)
        if stream is None and (not key.call_id or key.provisional):
            return None  # it is known by its own id as soon as the stream starts: see `_named`
        try:
            if stream is not None:
                await self._reserve(snapshot, key, stream)
                return None
            known = claims.call()
            if known.direction == "inbound" and snapshot.route(known, claims.bot) is None:
                await self._nobody_answers(key, known)
            await self.take_slot(snapshot, key, known)
            older = self._gateway.calls.find(key)
            if older is not None:
                older.core.displaced()  # the carrier tried again: the newest socket has the call
            return await self._gateway.store.call(key)
        except StoreError as exc:
            raise Refused(503, "store", problem=str(exc)) from None

    async def _nobody_answers(self, key: CallKey, info: CallInfo) -> None:
        """Raises Refused, unless the call was let in when somebody still did."""
        if await self._gateway.store.call(key) is None:
            await self._gateway.answering.nobody_answers(_inbound(key, info), time.time())
            raise Refused(404, "no-bot", call=key.call_id, to_number=masked(info.to_number))

    async def _reserve(self, snapshot: Snapshot, key: CallKey, stream: StandingStream) -> None:
        """A slot for a call that has no name yet. Raises Refused."""
        now = time.time()
        call = InboundCall(carrier=key.carrier, call_id=key.call_id)
        admitted = await self._gateway.answering.admit_stream(snapshot, call, stream, now)
        if isinstance(admitted, AdmissionRefused):
            raise Refused(503, admitted.reason)
        await self._gateway.store.connected(key, self._gateway.worker.id, now)

    async def take_slot(self, snapshot: Snapshot, key: CallKey, info: CallInfo) -> None:
        now = time.time()
        connected = await self._gateway.store.connected(key, self._gateway.worker.id, now)
        if connected is not None:
            if connected.displaced:
                told = {"carrier": key.carrier, "call_id": key.call_id}
                await self._gateway.colleagues.tell(connected.displaced, "displaced", told, now)
            return
        admitted = await self._gateway.answering.admit(snapshot, _inbound(key, info), now)
        if isinstance(admitted, AdmissionRefused):
            raise Refused(503, admitted.reason)
        await self._gateway.store.connected(key, self._gateway.worker.id, now)

    async def _named(self, snapshot: Snapshot, session: CallSession, info: CallInfo, bot: str) -> None:
        """The stream has started: the record is completed, and a call that had no id of its own has one now."""
        assert session.key is not None
        own = CallKey(info.carrier, info.call_id)
        if own != session.key or own.provisional:
            if not own.provisional and session.key.provisional:  # we have placed it, and have no reply to the order yet
                before = session.key
                await self._surely(partial(self._gateway.store.rename, before, info.call_id), "renamed", before)
            if not own.provisional:
                session.key = own
            try:
                await self.take_slot(snapshot, session.key, info)
            except Refused as exc:
                session.core.end(exc.reason)
                return
        key, now = session.key, time.time()
        await self._surely(lambda: self._gateway.store.started(key, info, bot, now), "started", key)
        if info.direction == "outbound":
            await self._tell_answerer(session, key)

    async def _tell_answerer(self, session: CallSession, key: CallKey) -> None:
        """The carrier may have said who has answered before there was a socket."""
        try:
            stored = await self._gateway.store.call(key)
        except StoreError as exc:
            log.warning("call.answerer_unknown", call=key.call_id, carrier=key.carrier, problem=str(exc))
            return
        if stored is not None and stored.answered_by:
            session.core.answered(AnsweredByFrame(stored.answered_by, stored.answered_detail))

    async def _named_stream(self, snapshot: Snapshot, session: CallSession, info: CallInfo, bot: str) -> None:
        """The start message has told which call a standing stream is: record and slot get its name."""
        before, now = session.key, time.time()
        assert before is not None
        key = CallKey(info.carrier, info.call_id)
        if snapshot.carriers[info.carrier].streams_share_calls:
            first = await self._gateway.store.once(f"stream:{key}", now, ttl_s=60.0, holder=before.call_id)
            if not first or await self._gateway.store.call(key) is not None:
                key = CallKey(info.carrier, f"{info.call_id}.{info.stream_id}")
        elif (older := self._gateway.calls.find(key)) is not None:
            older.core.displaced()
        await self._gateway.store.rename(before, key.call_id)
        session.key = key
        if await self._gateway.store.connected(key, self._gateway.worker.id, now) is None:
            session.core.end("over")
            return
        info = dataclasses.replace(info, call_id=key.call_id)
        self._gateway.events.started(
            InboundCall(
                carrier=info.carrier,
                call_id=info.call_id,
                from_number=info.from_number,
                to_number=info.to_number,
                account_id=info.account_id,
                parameters=info.parameters,
            ),
            bot,
        )
        self._gateway.events.answered(info, bot)
        await self._gateway.store.started(key, info, bot, now)

    async def _carry(
        self,
        snapshot: Snapshot,
        claims: Claims,
        stream: StandingStream | None,
        stored: StoredCall | None,
        scope: Any,
        receive: Receive,
        send: Send,
    ) -> None:
        gateway, carrier = self._gateway, claims.carrier
        settings = snapshot.settings.carriers[carrier]
        if stored is not None:
            settings = settings.accounts.get(stored.extra.get(ACCOUNT, ""), settings)
        options = _wire_options(settings, claims, stream)
        serializer = registry.serializer_class(carrier).for_call(options)
        http = None if claims.trial else snapshot.carriers[carrier]
        control = CallControl(gateway.hang_ups, http, gateway.api, gateway.urls(scope))
        session = CallSession(wire(scope, receive, send, gateway.clock), gateway.clock)
        session.key, session.snapshot = CallKey(carrier, claims.call_id), snapshot
        known = claims.call()
        if stored is not None:
            control.extra = stored.extra
            known = dataclasses.replace(known, account_id=stored.account_id, parameters=dict(stored.parameters))
        if stream is not None:
            known = dataclasses.replace(known, parameters=stream.parameters)

        control.info = known
        naming: list[asyncio.Task[None]] = []
        answered: list[str] = []  # by which bot, while the call has no name

        def started(info: CallInfo) -> BotRoute | None:
            control.info = info
            if gateway.calls.draining:  # it was not up yet when those that were got this
                asyncio.get_running_loop().call_soon(session.core.hand_over)
            route = snapshot.route(info, claims.bot, stream.bot if stream is not None else "")
            bot = route.bot if route is not None else ""
            if stream is not None:
                gateway.metrics.started[carrier] += 1
                naming.append(gateway.later(self._named_stream(snapshot, session, info, bot), "call-named"))
            elif info.call_id:
                gateway.later(self._named(snapshot, session, info, bot), "call-named")
                if CallKey(carrier, info.call_id).provisional:
                    answered.append(bot)  # told when it has a name
                else:
                    gateway.events.answered(info, bot)
            return route

        session.core = CallCore(
            serializer,
            session,
            limits=snapshot.limits,
            claims=known,
            route=started,
            control=control,
            lead_ms=settings.lead_ms,
            now=gateway.clock.now(),
        )

        def named(call_id: str, extra: Mapping[str, str]) -> None:
            session.key = CallKey(carrier, call_id)
            session.core.renamed(call_id)
            control.info, control.extra = session.core.info, {**control.extra, **extra}
            if answered:
                gateway.events.answered(session.core.info, answered[0])

        if session.key.provisional and stream is None:
            self._unnamed[session.key] = named
        session.core.vad = gateway.vad
        session.core.recordings = gateway.recordings
        control.transferred = lambda target: gateway.events.transferred(session.core.info, target, session.core.bot)
        control.let_go = lambda: session.core.let_go()
        structlog.contextvars.clear_contextvars()
        if stream is not None:
            structlog.contextvars.bind_contextvars(**stream.log)
        else:
            gateway.metrics.started[carrier] += 1
        gateway.calls.add(session)
        try:
            await send({"type": "websocket.accept"})
            record = await session.run()
            if naming:
                await asyncio.wait(naming)
            await control.decided()  # what is told of a transfer is told before the call's end
            if stream is not None and record.info.probe:
                await gateway.store.forget(session.key)
                return
            if session.core.is_displaced:
                return  # another socket has the call: it writes the record
            gateway.finished(record)
            if session.core.never_started and carrier in _RETRYING:
                await gateway.store.release(session.key, worker=gateway.worker.id)  # the carrier's next try is the call
                return
            await self._keep(session.key, record, control.hang_up_state)
        except StoreError as exc:
            log.error("call.store_failed", call=session.key.call_id, carrier=carrier, problem=str(exc))
        finally:
            gateway.calls.discard(session)
            control.leave()
            self._unnamed.pop(CallKey(carrier, claims.call_id), None)

    def placed(self, key: CallKey, call_id: str, extra: Mapping[str, str]) -> bool:
        """The carrier's reply to an order names the call that went by `key`, whose own stream may not. False: that
        stream is not here."""
        named = self._unnamed.pop(key, None)
        if named is not None:
            named(call_id, extra)
        return named is not None

    async def _keep(self, key: CallKey, record: CallRecord, hang_up: HangUp) -> None:
        """The record goes into the store; one that is busy for a moment gets it later, and nobody waits for that."""
        now, worker = time.time(), self._gateway.worker.id
        written = self._gateway.store.ended(key, record, now, hang_up=hang_up, worker=worker)
        if not record.info.probe:
            self._gateway.events.ended(key)  # no await between the two: they are committed together
        try:
            await written
        except StoreError as exc:
            log.warning("record.late", call=key.call_id, carrier=key.carrier, problem=str(exc))
            again = self._surely(
                lambda: self._gateway.store.ended(key, record, now, hang_up=hang_up, worker=worker), "record", key
            )
            self._gateway.later(again, "record")

    async def _surely(self, write: Callable[[], Awaitable[Any]], what: str, key: CallKey) -> None:
        """Write until it is written, or this process ends."""
        for wait_s in itertools.chain(LATE_S, itertools.repeat(LATE_S[-1])):
            try:
                await write()
                return
            except StoreError as exc:
                if self._gateway.stopping.is_set():
                    log.error("store.not_written", what=what, call=key.call_id, carrier=key.carrier, problem=str(exc))
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._gateway.stopping.wait()  # then once more, at once

    async def take_unannounced(self, carrier: str, scope: Any, receive: Receive, send: Send) -> None:
        """A call of which nobody but its own socket tells; a slot is taken for it when it has said its id."""
        if self._gateway.calls.draining:
            self._gateway.metrics.refused[carrier, "draining"] += 1
            await send({"type": "websocket.close", "code": 1012})
            return
        snapshot = self._gateway.snapshot
        claims = Claims(expires=0, nonce=b"", carrier=carrier)
        await self._carry(snapshot, claims, None, None, scope, receive, send)


def _inbound(key: CallKey, info: CallInfo) -> InboundCall:
    return InboundCall(
        carrier=key.carrier,
        call_id=key.call_id,
        from_number=info.from_number,
        to_number=info.to_number,
        direction=info.direction,
        again=True,
    )


def _claims_of(snapshot: Snapshot, carrier: str, stream: StandingStream) -> Claims:
    """What a token would have said. Raises Refused where it is clear already that nobody will answer."""
    if stream.connector and stream.connector not in snapshot.builds:
        raise Refused(404, "no-bot")
    if not stream.connector and not stream.bot and not snapshot.settings.numbers:
        raise Refused(404, "no-bot")
    call_id = PROVISIONAL + secrets.token_hex(12)
    return Claims(expires=0, nonce=b"", carrier=carrier, call_id=call_id, bot=stream.connector)


def _wire_options(settings: Any, claims: Claims, stream: StandingStream | None) -> WireOptions:
    """What the serializer must know before the carrier says anything: the token's word, then the configuration's."""
    own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    if stream is not None:
        own.update(stream.options)
    return WireOptions(
        receive_codec=own.get("receive_codec") or "",
        send_codec=claims.codec or own.get("send_codec") or "",
        send_sample_rate=claims.sample_rate or own.get("sample_rate") or 0,
        options=own,
    )


async def refuse_upgrade(scope: Any, send: Send, status: int) -> None:
    """Answer the upgrade with an HTTP status, where the server can; else 403."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await send({"type": "websocket.http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "websocket.http.response.body", "body": b""})
    else:
        await send({"type": "websocket.close", "code": 1008})
