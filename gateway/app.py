"""The process: the services that all its calls share, and how they begin and end.

Its media sockets are in gateway/media_sockets.py, its URLs in gateway/routes.py.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Coroutine, Mapping
from typing import Any

import structlog

from bots.base import Build
from gateway import registry
from gateway.alive import Lives
from gateway.answering import Answering
from gateway.calls import LAST_WORDS_S, CallRegistry
from gateway.carrier_api import CarrierApi, Patience
from gateway.clock import Clock
from gateway.colleagues import Colleagues
from gateway.control import CallDesk
from gateway.doctor.desk import Desk
from gateway.hangups import HangUps, Rhythm
from gateway.health import Health
from gateway.history import History
from gateway.housekeeping import prune
from gateway.media_sockets import MediaSockets, Refused
from gateway.metrics import Metrics, joined
from gateway.notes import SharedNotes
from gateway.notify import Notifier
from gateway.recording import Recordings
from gateway.records import CallRecord, LogSink, RecordSink
from gateway.reload import Reloader
from gateway.routes import create_app
from gateway.settings import Settings
from gateway.snapshot import Expected, Snapshot, snapshot_of
from gateway.stalls import Stalls
from gateway.store import CallKey, Standing, Store, Worker
from gateway.store_sql import SqlStore
from gateway.tokens import TokenMint
from gateway.vad_engine import VoiceEngine
from gateway.watching.sockets import COLLEAGUES_PATH, FromColleagues, Watching
from media.frames import AnsweredByFrame
from webhooks.base import (
    AnsweredBy,
    CallRef,
    CallStatus,
    CarrierEvent,
    CarrierHttp,
    CarrierRequest,
    InboundCall,
    OutcomeKind,
    Purpose,
    Urls,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.app")

__all__ = ["Gateway", "create_app", "prepare"]


def _tasks() -> float:
    try:
        return float(len(asyncio.all_tasks()))
    except RuntimeError:  # no loop is running yet
        return 0.0


class Gateway:
    """One process's worth of gateway: settings, prepared bots, and everything that outlives a call.

    Args:
        store: where calls are kept; default: as the settings say, or in memory, until the process ends.
        endpoint: the Unix socket on which other workers of the same gateway ask this one; "": there are none.
    """

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
        endpoint: str = "",
    ) -> None:
        self.snapshot = snapshot_of(settings, builds)  # what new calls get; a live one keeps its own
        self.expected = Expected()
        self.reloader: Reloader | None = None  # set by whoever knows the configuration's file
        self._open = False
        self.store: Store = store or SqlStore(settings.gateway.store_url or "sqlite://")
        self.worker = Worker(f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}", endpoint)
        self.colleagues = Colleagues(self, endpoint)
        self.colleagues.answers("over", self._told_over)
        self.colleagues.answers("answered-by", self._told_answered_by)
        self.colleagues.answers("displaced", self._told_displaced)
        self.colleagues.answers("metrics", self._told_metrics)
        self.notes = SharedNotes(self)
        self.notes.keep(self.snapshot.carriers.values())
        self.api = CarrierApi(self.snapshot.carriers, patience=patience)
        locks = Lives(self.store.path if isinstance(self.store, SqlStore) else "")
        self.hang_ups = HangUps(self.store, self.api, self.worker, rhythm=rhythm, locks=locks)
        self.hang_ups.settled = self._settled
        self.hang_ups.lives = self._lives
        self.events = Notifier(settings.events, self.store)
        self.clock = Clock()
        self.stalls = Stalls(lambda: self.clock.ticks)
        self.health = Health(self._suffered_s, lambda: self.settings.gateway.max_lateness_ms / 1000)
        self.hang_ups.wrote = self.health.wrote
        model = settings.base_dir / settings.vad.model if settings.vad.model else None
        self.vad = VoiceEngine(self.clock, model, settings.vad.analyzer)
        self.recordings = Recordings(settings.recording, settings.state_dir)
        self.calls = CallRegistry(settings.gateway.max_calls)
        self.metrics = Metrics()
        secret = settings.gateway.secret
        key = token_key or (secret.reveal() if secret is not None else secrets.token_hex(32))
        self.mint = TokenMint(key)
        self.sink = sink if sink is not None else LogSink()
        self.answering = Answering(self, draining=lambda: self.calls.draining)
        self.desk = CallDesk(self)
        self.desk.listen(self.colleagues)
        self.sockets = MediaSockets(self)
        self.watching = Watching(self)
        self.colleagues.answers("timeline", self.watching.told_timeline)
        self.colleagues.takes(COLLEAGUES_PATH, FromColleagues(self.watching))
        self.doctor = Desk(key, lambda: self.snapshot, self.answering.addressing)
        self.answering.diagnose = self.doctor.answer_to
        self._background: set[asyncio.Task[Any]] = set()
        self.stopping = asyncio.Event()
        self._house: list[asyncio.Task[None]] = []
        self.history = History(self)
        self.hang_ups.on_away = self._take_calls_back
        self.metrics.gauge("gateway_calls_live", "calls that are up", lambda: float(len(self.calls)))
        self.metrics.gauge(
            "gateway_configuration",
            "number of the configuration that new calls get",
            lambda: float(self.snapshot.number),
        )
        self.metrics.gauge(
            "gateway_calls_limit", "calls that may be up, of all workers", lambda: float(self.calls.max_calls)
        )
        self.metrics.gauge("gateway_watchers", "sockets that watch calls", lambda: float(self.watching.watchers))
        self.metrics.tally("gateway_events", "event webhooks", "result", lambda: self.events.counters)
        self.metrics.tally("gateway_hang_ups", "ends of calls at carriers", "what", lambda: self.hang_ups.counters)
        self.metrics.tally(
            "gateway_carrier_requests",
            "requests to carriers' REST interfaces",
            "carrier purpose outcome",
            lambda: self.api.counters,
        )
        self.metrics.gauge(
            "gateway_tick_lateness_seconds", "99th percentile of the last five seconds", self.clock.lateness_s
        )
        self.metrics.gauge(
            "gateway_loop_stalls", "times the loop was held up for a second or longer", lambda: float(self.stalls.count)
        )
        self.metrics.gauge("gateway_loop_stalled_seconds", "for so long in all", lambda: self.stalls.seconds)
        self.metrics.gauge(
            "gateway_overloaded",
            "1: new calls are refused, because ticks are late",
            lambda: float(self.health.look(self.clock.now())),
        )
        self.metrics.gauge("gateway_tasks", "asyncio tasks of this process", _tasks)
        self.metrics.gauge("gateway_vad_calls", "calls that the voice detector listens to", self.vad.calls)
        self.metrics.gauge(
            "gateway_vad_delay_seconds", "99th percentile, from a window's end to its result", self.vad.delay_s
        )
        self.metrics.tally(
            "gateway_vad", "windows of the voice detector, its batches, and windows lost", "what", self.vad.tally
        )

    def _suffered_s(self) -> float:
        """How late live calls are served."""
        return self.clock.lateness_s() if len(self.calls) and self.clock.is_settled else 0.0

    # ------------------------------------------------------------ what new calls get

    @property
    def settings(self) -> Settings:
        return self.snapshot.settings

    @property
    def http(self) -> Mapping[str, CarrierHttp]:
        return self.snapshot.carriers

    def take(self, snapshot: Snapshot) -> None:
        """New calls get `snapshot` from now on. What the process took from its first one stays."""
        self.snapshot = snapshot
        self.notes.keep(snapshot.carriers.values())
        self.api.carriers.update(snapshot.carriers)
        self.calls.max_calls = snapshot.settings.gateway.max_calls
        self.expected.prune()

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        """The store, without which nothing else begins. StoreError: it cannot be opened."""
        if not self._open:
            await self.store.open()
            self._open = True

    async def start(self) -> None:
        await self.open()
        await self.colleagues.open()
        await self.api.open()
        await self.hang_ups.open()
        await self.events.open()
        self.clock.start()
        self.stalls.start()
        keep_s = self.settings.gateway.keep_records_days * 86_400.0
        self.recordings.open()
        if self.reloader is not None:
            self.reloader.open()
        loop = asyncio.get_running_loop()
        self._house = [
            loop.create_task(prune(self.store, keep_s), name="housekeeping"),
            loop.create_task(self.history.keep(), name="history"),
        ]

    async def drain(self) -> None:
        """Refuse new calls; live ones may end by themselves, and then say their last words."""
        limits = self.settings.gateway
        last_words_s = min(limits.last_words_s, LAST_WORDS_S)
        cut = await self.calls.drain(limits.drain_s, last_words_s, self.expected.coming)
        if cut:
            log.warning("gateway.calls_cut", calls=cut)

    async def stop(self) -> None:
        """Everything that was begun for a call is finished, or in the store for the next process."""
        if self.reloader is not None:
            await self.reloader.close()
        self.stalls.stop()
        self.clock.stop()
        self.stopping.set()
        self.notes.close()
        for task in self._house:
            task.cancel()
        if self._house:
            await asyncio.wait(self._house)
        if self._background:
            await asyncio.wait(set(self._background), timeout=5.0)
        await self.vad.close()
        await self.recordings.close()
        await self.colleagues.close()
        await self.hang_ups.close()
        await self.events.close()
        await self.api.close()
        await self.store.close()

    async def _take_calls_back(self) -> None:
        """This worker was away so long that others may have taken its calls for lost: they are still here."""
        for session in self.calls:
            if (
                session.snapshot is not None
                and session.key is not None
                and not session.key.provisional
                and not session.core.over
            ):
                try:
                    await self.sockets.take_slot(session.snapshot, session.key, session.core.info)
                except Refused as exc:
                    log.error("call.slot_lost", call=session.key.call_id, reason=exc.reason)

    def later(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
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
        self.later(self._carry_out(request), f"request {request.carrier}")

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
        if folded.new and isinstance(event, AnsweredBy):
            await self._answered_by(event)
        if not folded.new or not isinstance(event, CallStatus) or not event.phase.final:
            return
        key, by = CallKey(event.carrier, event.call_id), event.ended_by or "caller"
        if self._over(key, by):
            return
        told = {"carrier": key.carrier, "call_id": key.call_id, "by": by}
        await self.colleagues.ask_all("over", told, time.time())  # one of them may have it, or be hanging it up
        if folded.standing is not Standing.LIVE:
            self.events.ended(key)

    async def _answered_by(self, event: AnsweredBy) -> None:
        """Whoever has the call tells its bot; one whose media has yet to come finds it in the record."""
        told = {name: getattr(event, name) for name in ("carrier", "call_id", "who", "detail", "beep")}
        if not self._tell_answered_by(told):
            await self.colleagues.ask_all("answered-by", told, time.time())

    def _tell_answered_by(self, told: Mapping[str, Any]) -> bool:
        session = self.calls.find(CallKey(told["carrier"], told["call_id"]))
        if session is not None:
            session.core.answered(AnsweredByFrame(told["who"], told["detail"], beep=told["beep"]))
        return session is not None

    async def _told_answered_by(self, told: Mapping[str, Any]) -> None:
        self._tell_answered_by(told)

    def _over(self, key: CallKey, by: str) -> bool:
        """The carrier says that a call is over. Gives whether it lives here."""
        self.hang_ups.reported(key)
        session = self.calls.find(key)
        if session is not None:
            session.core.carrier_ended(by)
        return session is not None

    async def _told_over(self, told: Mapping[str, Any]) -> None:
        self._over(CallKey(told["carrier"], told["call_id"]), told["by"])

    async def _told_displaced(self, told: Mapping[str, Any]) -> None:
        """The carrier has opened another socket for a call of ours, at another worker."""
        session = self.calls.find(CallKey(told["carrier"], told["call_id"]))
        if session is not None:
            session.core.displaced()

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

    async def rendered(self) -> bytes:
        """The metrics, of all workers where there are several."""
        name, mine = await self._told_metrics({})
        if not name:
            return self.metrics.render()
        others = await self.colleagues.ask_all("metrics", {}, time.time())
        return joined({worker: text.encode() for worker, text in [(name, mine), *others]})

    async def _told_metrics(self, asked: Mapping[str, Any]) -> tuple[str, str]:
        return self.colleagues.name, self.metrics.render().decode()

    def finished(self, record: CallRecord) -> None:
        if record.info.probe:
            return
        self.metrics.count(record)
        self.sink.put(record)


async def prepare(settings: Settings) -> dict[str, Build]:
    """The bots of `settings`, prepared off the loop: files are read and prompts spoken here."""
    return await asyncio.to_thread(registry.prepare_bots, settings)
