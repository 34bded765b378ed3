"""The ASGI application: which URL is what, and the services that all calls of this process share."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute

from bots.base import Build
from gateway import registry
from gateway.answering import Answering
from gateway.any_carrier import AnyCarrier
from gateway.api import create_api
from gateway.calls import CallRegistry
from gateway.carrier_api import CarrierApi, Patience
from gateway.clock import Clock
from gateway.control import CallDesk
from gateway.core import CallCore
from gateway.doctor.desk import Desk, Door
from gateway.hangups import CallControl, HangUps, Rhythm
from gateway.housekeeping import prune
from gateway.metrics import Metrics
from gateway.notify import Notifier
from gateway.ports import BotRoute, CallLimits
from gateway.public_url import StripPrefix
from gateway.records import CallRecord, LogSink, RecordSink
from gateway.session import CallSession, Receive, Send
from gateway.settings import Settings
from gateway.store import PROVISIONAL, CallKey, HangUp, Standing, Store, StoredCall, StoreError, Worker
from gateway.store import Refused as AdmissionRefused
from gateway.store_sql import SqlStore
from gateway.tokens import Claims, TokenError, TokenMint
from media.call import CallInfo
from media.errors import GatewayError
from serializers.base import WireOptions
from webhooks.base import (
    CallRef,
    CallStatus,
    CarrierEvent,
    CarrierRequest,
    InboundCall,
    NotAuthentic,
    OutcomeKind,
    Purpose,
    StandingStream,
    Urls,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.app")

# Carriers that retry a handshake by themselves may show their token again for the same call.
_RETRYING = frozenset({"plivo", "exotel"})
LATE_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # between tries to write what the store did not take; the last one repeats


class Gateway:
    """One process's worth of gateway: settings, prepared bots, and everything that outlives a call."""

    def __init__(
        self,
        settings: Settings,
        builds: Mapping[str, Build],
        *,
        sink: RecordSink | None = None,
        token_key: str = "",
        store: Store | None = None,
        patience: Patience | None = None,
        rhythm: Rhythm | None = None,
    ) -> None:
        self.settings = settings
        self.builds = builds
        self.store: Store = store or SqlStore(settings.gateway.store or "sqlite://")
        self.worker = Worker(f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}")
        self.http = {name: registry.carrier_http(name)(own) for name, own in settings.carriers.items()}
        self.api = CarrierApi(self.http, patience=patience)
        self.hang_ups = HangUps(self.store, self.api, self.worker, rhythm=rhythm)
        self.hang_ups.settled = self._settled
        self.hang_ups.lives = self._lives
        self.events = Notifier(settings.events, self.store)
        self.clock = Clock()
        self.calls = CallRegistry(settings.gateway.max_calls)
        self.metrics = Metrics()
        secret = settings.gateway.secret
        key = token_key or (secret.reveal() if secret is not None else secrets.token_hex(32))
        self.mint = TokenMint(key)
        self.sink = sink if sink is not None else LogSink()
        self.answering = Answering(
            settings, self.http, self.store, self.mint, self.metrics, self, draining=lambda: self.calls.draining
        )
        self.desk = CallDesk(self)
        self.doctor = Desk(key, settings, self.http, self.answering.addressing)
        self.answering.diagnose = self.doctor.answer_to
        self._background: set[asyncio.Task[Any]] = set()
        self._stopping = asyncio.Event()
        self._house: asyncio.Task[None] | None = None
        self.hang_ups.on_away = self._take_calls_back
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
        self.metrics.tally("gateway_events", "event webhooks", "result", lambda: self.events.counters)
        self.metrics.gauge(
            "gateway_tick_lateness_seconds", "99th percentile of the last five seconds", self.clock.lateness_s
        )

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        await self.store.open()
        await self.api.open()
        await self.hang_ups.open()
        await self.events.open()
        self.clock.start()
        keep_s = self.settings.gateway.keep_records_days * 86_400.0
        self._house = asyncio.get_running_loop().create_task(prune(self.store, keep_s), name="housekeeping")

    async def drain(self) -> None:
        """Refuse new calls; live ones say their last words."""
        cut = await self.calls.drain(self.settings.gateway.drain_s)
        if cut:
            log.warning("gateway.calls_cut", calls=cut)

    async def stop(self) -> None:
        """Everything that was begun for a call is finished, or in the store for the next process."""
        await self.clock.stop()
        self._stopping.set()
        if self._house is not None:
            self._house.cancel()
            await asyncio.wait([self._house])
        if self._background:
            await asyncio.wait(set(self._background), timeout=5.0)
        await self.hang_ups.close()
        await self.events.close()
        await self.api.close()
        await self.store.close()

    async def _take_calls_back(self) -> None:
        """This worker was away so long that others may have taken its calls for lost: they are still here."""
        for session in self.calls:
            if session.key is not None and not session.key.provisional and not session.core.over:
                try:
                    await self._take_slot(session.key, session.core.info)
                except _Refused as exc:
                    log.error("call.slot_lost", call=session.key.call_id, reason=exc.reason)

    def _later(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Do `work` beside whatever waits for an answer now."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("gateway.task_failed", task=task.get_name(), exc_info=exc)

    # ------------------------------------------------------------ what webhooks set in motion

    def execute(self, request: CarrierRequest) -> None:
        """Send it, after the answer has left."""
        self._later(self._carry_out(request), f"request {request.carrier}")

    async def _carry_out(self, request: CarrierRequest) -> None:
        """A call that can be neither answered nor turned away is ended: it would ring, or wait in silence."""
        outcome = await self.api.ask(request)
        if outcome.kind is not OutcomeKind.FAILED or request.purpose not in (Purpose.ANSWER, Purpose.REJECT):
            return
        key = CallKey(request.carrier, request.call_id)
        if request.purpose is Purpose.ANSWER:
            await self.store.release(key)
        ref = CallRef(carrier=key.carrier, call_id=key.call_id)
        self.hang_ups.hang_up(self.http[key.carrier], ref, f"{request.purpose.value}-failed")

    async def reported(self, event: CarrierEvent) -> None:
        """A carrier's report: into the record, to the pending hang-up, to the live call."""
        folded = await self.store.fold(event, time.time())
        if folded.new and folded.standing is Standing.NEVER_CAME:
            self.hang_ups.look_soon()  # its stream has failed: at some carriers the call goes on without it
        if not folded.new or not isinstance(event, CallStatus) or not event.phase.final:
            return
        key = CallKey(event.carrier, event.call_id)
        self.hang_ups.reported(key)
        session = self.calls.find(key)
        if session is not None:
            session.core.carrier_ended(event.ended_by or "caller")
        elif folded.standing is not Standing.LIVE:
            self.events.ended(key)

    def let_in(self, call: InboundCall, bot: str) -> None:
        """A slot was reserved for a call; one that we are placing has no id yet and is told of when it has."""
        if not CallKey(call.carrier, call.call_id).provisional:
            self.events.started(call, bot)

    def turned_away(self, call: InboundCall, reason: str, bot: str) -> None:
        if not CallKey(call.carrier, call.call_id).provisional:
            self.events.refused(call, reason, bot)

    def _lives(self, key: CallKey) -> bool:
        session = self.calls.find(key)
        return session is not None and not session.core.over

    def _settled(self, key: CallKey) -> None:
        """A hang-up has come to its end; that of a live call is told with the call's own."""
        if self.calls.find(key) is None:
            self.events.ended(key)

    def urls(self, scope: Mapping[str, Any]) -> Urls:
        """Our own URLs, as whoever made this request must address them."""
        return Urls(base=self.answering.addressing.base(scope))

    # ------------------------------------------------------------ a media socket

    async def media(self, scope: Any, receive: Receive, send: Send) -> None:
        """A carrier opens the media stream of a call."""
        carrier = scope["path_params"]["carrier"]
        arrived = time.monotonic()
        await receive()  # websocket.connect
        try:
            claims, stream = await self._let_in(carrier, scope)
            stored = await self._connected(claims, stream)
        except _Refused as exc:
            self.metrics.refused[carrier if carrier in self.settings.carriers else "unknown", exc.reason] += 1
            log.warning("media.refused", carrier=carrier[:20], reason=exc.reason, **exc.facts)
            if exc.not_before_s:
                await asyncio.sleep(arrived + exc.not_before_s - time.monotonic())
            await _refuse(scope, send, exc.status)
            return
        await self._carry(claims, stream, stored, scope, receive, send)

    async def _let_in(self, carrier: str, scope: Any) -> tuple[Claims, StandingStream | None]:
        """Who this socket is: by its token, or by what its standing URL says. Raises _Refused."""
        http = self.http.get(carrier)
        if http is None:
            raise _Refused(404, "unknown-carrier")
        if self.calls.draining:
            raise _Refused(503, "draining")
        upgrade = self.answering.upgrade(scope)
        try:
            if http.settings.verify_signatures:
                await self.answering.authenticate_upgrade(http, upgrade)
            stream = http.standing_stream(upgrade)
            if stream is not None:
                return self._claims_of(carrier, stream), stream
            token = scope["path_params"].get("token", "")
            return self.mint.take(carrier, token, may_repeat=carrier in _RETRYING), None
        except NotAuthentic as exc:
            raise _Refused(exc.status, exc.reason, not_before_s=http.refused_upgrade_s, checked=exc.checked) from None
        except TokenError as exc:
            raise _Refused(403, exc.reason) from None
        except StoreError as exc:
            raise _Refused(503, "store", problem=str(exc)) from None

    def _claims_of(self, carrier: str, stream: StandingStream) -> Claims:
        """What a token would have said. Raises _Refused where it is clear already that nobody will answer."""
        if stream.connector and stream.connector not in self.builds:
            raise _Refused(404, "no-bot")
        if not stream.connector and not stream.bot and not self.settings.numbers:
            raise _Refused(404, "no-bot")
        call_id = PROVISIONAL + secrets.token_hex(12)
        return Claims(expires=0, nonce=b"", carrier=carrier, call_id=call_id, bot=stream.connector)

    async def _connected(self, claims: Claims, stream: StandingStream | None) -> StoredCall | None:
        """Take the slot that the webhook reserved, or another where there was no webhook. Raises _Refused."""
        key = CallKey(claims.carrier, claims.call_id)
        if stream is None and (not key.call_id or key.provisional):
            return None  # it is known by its own id as soon as the stream starts: see `_named`
        try:
            if stream is not None:
                await self._reserve(key, stream)
                return None
            await self._take_slot(key, claims.call())
            older = self.calls.find(key)
            if older is not None:
                older.core.displaced()  # the carrier tried again: the newest socket has the call
            return await self.store.call(key)
        except StoreError as exc:
            raise _Refused(503, "store", problem=str(exc)) from None

    async def _reserve(self, key: CallKey, stream: StandingStream) -> None:
        """A slot for a call that has no name yet. Raises _Refused."""
        now = time.time()
        call = InboundCall(carrier=key.carrier, call_id=key.call_id)
        admitted = await self.answering.admit_stream(call, stream, now)
        if isinstance(admitted, AdmissionRefused):
            raise _Refused(503, admitted.reason)
        await self.store.connected(key, self.worker.id, now)

    async def _take_slot(self, key: CallKey, info: CallInfo) -> None:
        now = time.time()
        if await self.store.connected(key, self.worker.id, now) is not None:
            return
        call = InboundCall(
            carrier=key.carrier,
            call_id=key.call_id,
            from_number=info.from_number,
            to_number=info.to_number,
            direction=info.direction,
            again=True,
        )
        admitted = await self.answering.admit(call, now)
        if isinstance(admitted, AdmissionRefused):
            raise _Refused(503, admitted.reason)
        await self.store.connected(key, self.worker.id, now)

    async def _named(self, session: CallSession, info: CallInfo, bot: str) -> None:
        """The stream has started: the record is completed, and a call that had no id of its own has one now."""
        assert session.key is not None
        if session.key.call_id != info.call_id:
            session.key = CallKey(info.carrier, info.call_id)
            try:
                await self._take_slot(session.key, info)
            except _Refused as exc:
                session.core.end(exc.reason)
                return
        key, now = session.key, time.time()
        await self._surely(lambda: self.store.started(key, info, bot, now), "started", key)

    async def _named_stream(self, session: CallSession, info: CallInfo, bot: str) -> None:
        """The start message has told which call a standing stream is: record and slot get its name."""
        before, now = session.key, time.time()
        assert before is not None
        key = CallKey(info.carrier, info.call_id)
        if self.http[info.carrier].streams_share_calls:
            first = await self.store.once(f"stream:{key}", now, ttl_s=60.0, holder=before.call_id)
            if not first or await self.store.call(key) is not None:
                key = CallKey(info.carrier, f"{info.call_id}.{info.stream_id}")
        elif (older := self.calls.find(key)) is not None:
            older.core.displaced()
        await self.store.rename(before, key.call_id)
        session.key = key
        if await self.store.connected(key, self.worker.id, now) is None:
            session.core.end("over")
            return
        info = dataclasses.replace(info, call_id=key.call_id)
        self.events.started(
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
        self.events.answered(info, bot)
        await self.store.started(key, info, bot, now)

    async def _carry(
        self,
        claims: Claims,
        stream: StandingStream | None,
        stored: StoredCall | None,
        scope: Any,
        receive: Receive,
        send: Send,
    ) -> None:
        carrier = claims.carrier
        settings = self.settings.carriers[carrier]
        options = _wire_options(settings, claims, stream)
        serializer = registry.serializer_class(carrier).for_call(options)
        control = CallControl(self.hang_ups, self.http[carrier], self.api, self.urls(scope))
        session = CallSession(receive, send, self.clock)
        session.key = CallKey(carrier, claims.call_id)
        known = claims.call()
        if stored is not None:
            control.extra = stored.extra
            known = dataclasses.replace(known, account_id=stored.account_id, parameters=dict(stored.parameters))
        if stream is not None:
            known = dataclasses.replace(known, parameters=stream.parameters)

        control.info = known
        naming: list[asyncio.Task[None]] = []

        def started(info: CallInfo) -> BotRoute | None:
            control.info = info
            route = self.route(info, claims.bot, stream.bot if stream is not None else "")
            bot = route.bot if route is not None else ""
            if stream is not None:
                self.metrics.started[carrier] += 1
                naming.append(self._later(self._named_stream(session, info, bot), "call-named"))
            elif info.call_id:
                self._later(self._named(session, info, bot), "call-named")
                self.events.answered(info, bot)
            return route

        session.core = CallCore(
            serializer,
            session,
            limits=self._limits,
            claims=known,
            route=started,
            control=control,
            lead_ms=settings.lead_ms,
            now=self.clock.now(),
        )
        control.transferred = lambda target: self.events.transferred(session.core.info, target, session.core.bot)
        control.let_go = lambda: session.core.let_go()
        structlog.contextvars.clear_contextvars()
        if stream is not None:
            structlog.contextvars.bind_contextvars(**stream.log)
        else:
            self.metrics.started[carrier] += 1
        self.calls.add(session)
        try:
            await send({"type": "websocket.accept"})
            record = await session.run()
            if naming:
                await asyncio.wait(naming)
            await control.decided()  # what is told of a transfer is told before the call's end
            if stream is not None and record.info.probe:
                await self.store.forget(session.key)
                return
            if session.core.is_displaced:
                return  # another socket has the call: it writes the record
            self._finished(record)
            if session.core.never_started and carrier in _RETRYING:
                await self.store.release(session.key, worker=self.worker.id)  # the carrier's next try is the call
                return
            await self._keep(session.key, record, control.hang_up_state)
        except StoreError as exc:
            log.error("call.store_failed", call=session.key.call_id, carrier=carrier, problem=str(exc))
        finally:
            self.calls.discard(session)

    async def _keep(self, key: CallKey, record: CallRecord, hang_up: HangUp) -> None:
        """The record goes into the store; one that is busy for a moment gets it later, and nobody waits for that."""
        now, worker = time.time(), self.worker.id
        written = self.store.ended(key, record, now, hang_up=hang_up, worker=worker)
        if not record.info.probe:
            self.events.ended(key)  # no await between the two: they are committed together
        try:
            await written
        except StoreError as exc:
            log.warning("record.late", call=key.call_id, carrier=key.carrier, problem=str(exc))
            again = self._surely(
                lambda: self.store.ended(key, record, now, hang_up=hang_up, worker=worker), "record", key
            )
            self._later(again, "record")

    async def _surely(self, write: Callable[[], Awaitable[Any]], what: str, key: CallKey) -> None:
        """Write until it is written, or this process ends."""
        for wait_s in itertools.chain(LATE_S, itertools.repeat(LATE_S[-1])):
            try:
                await write()
                return
            except StoreError as exc:
                if self._stopping.is_set():
                    log.error("store.not_written", what=what, call=key.call_id, carrier=key.carrier, problem=str(exc))
                    return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()  # then once more, at once

    async def take_unannounced(self, carrier: str, scope: Any, receive: Receive, send: Send) -> None:
        """A call of which nobody but its own socket tells; a slot is taken for it when it has said its id."""
        if self.calls.draining:
            self.metrics.refused[carrier, "draining"] += 1
            await send({"type": "websocket.close", "code": 1012})
            return
        claims = Claims(expires=0, nonce=b"", carrier=carrier)
        await self._carry(claims, None, None, scope, receive, send)

    def _finished(self, record: CallRecord) -> None:
        if record.info.probe:
            return
        self.metrics.count(record)
        self.sink.put(record)

    def route(self, info: CallInfo, bot: str = "", otherwise: str = "") -> BotRoute | None:
        """Who answers: the bot that the token or the URL names, else the number's, else `otherwise`."""
        found = registry.resolve(self.settings, info.carrier, info.to_number)
        if not bot and found is not None and not (otherwise and found.matched_by == "default"):
            bot = found.bot_name
        bot = bot or otherwise
        build = self.builds.get(bot)
        entry = self.settings.bots.get(bot)
        if build is None or entry is None:
            return None
        if found is None or found.bot_name != bot:
            return BotRoute(bot, build, entry.sample_rate, entry.on_error, entry.output_variables)
        outputs = {**entry.output_variables, **found.output_variables}
        return BotRoute(bot, build, entry.sample_rate, found.on_error or entry.on_error, outputs)


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


async def _refuse(scope: Any, send: Send, status: int) -> None:
    """Answer the upgrade with an HTTP status, where the server can; else 403."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await send({"type": "websocket.http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "websocket.http.response.body", "body": b""})
    else:
        await send({"type": "websocket.close", "code": 1008})


class _Refused(GatewayError):
    """A socket that stays out."""

    def __init__(self, status: int, reason: str, *, not_before_s: float = 0.0, **facts: Any) -> None:
        super().__init__(reason)
        self.status, self.reason, self.facts = status, reason, facts  # the facts are for the log
        self.not_before_s = not_before_s  # after the upgrade came: so that the time taken tells nothing


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

    async def not_found(request: Request, exc: Exception) -> Response:
        return JSONResponse({"detail": "Not Found"}, status_code=404)

    async def not_a_socket(request: Request) -> Response:
        return PlainTextResponse("this is a media WebSocket\n", status_code=426, headers={"upgrade": "websocket"})

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await gateway.start()
        try:
            yield
        finally:
            await gateway.stop()

    def refused(reason: str) -> None:
        gateway.metrics.refused["unknown", reason] += 1

    media = _MediaEndpoint(gateway)
    unannounced = []
    if gateway.settings.gateway.generic_ws:
        wait_s = gateway.settings.gateway.start_timeout_s
        any_carrier = AnyCarrier(gateway.settings.carriers, gateway.take_unannounced, refused, wait_s=wait_s)
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
            Mount("/api", create_api(gateway.desk, gateway.settings, gateway.urls)),
            Route("/{carrier}/{route}", gateway.answering.webhook, methods=["GET", "POST"]),
            WebSocketRoute("/{carrier}/media", media),
            WebSocketRoute("/{carrier}/media/{token:path}", media),
            Route("/{carrier}/media/{token:path}", not_a_socket),
            Route("/{carrier}/{route}/{secret}", gateway.answering.webhook, methods=["GET", "POST"]),
        ],
        exception_handlers={404: not_found},
        lifespan=lifespan,
    )


async def prepare(settings: Settings) -> dict[str, Build]:
    """The bots of `settings`, prepared off the loop: files are read and prompts spoken here."""
    return await asyncio.to_thread(registry.prepare_bots, settings)
