"""Hang-up as a state machine that outlives calls and processes: never none, never two that take effect.

Due -> asked of the carrier -> confirmed by its report, or by asking for the call's state -> recorded. What is due is
in the store before it is asked, so that a process that dies leaves it to the next. Calls that we answered and that
nobody owns any more are looked for, and the carrier is asked about them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from gateway.carrier_api import CarrierApi
from gateway.housekeeping import keep_lease
from gateway.store import CallKey, HangUp, PendingHangUp, Store, StoredCall, StoreError, Worker
from media.call import CallInfo
from webhooks.base import CallPhase, CallRef, CallStatus, CarrierHttp, Outcome, OutcomeKind

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.hangups")

BACK_OFF_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # between rounds of attempts; the last one repeats
GIVE_UP_S = 900.0  # a carrier that will not end a call in this time needs a person


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """Seconds. Tests run them faster."""

    look_s: float = 1.0  # how often the store is asked for what is due
    lease_s: float = 15.0
    report_s: float = 3.0  # how long a carrier's report of the end is waited for, before asking
    close_s: float = 10.0  # for the carrier to close the media socket after a hang-up
    scale: float = 1.0


class HangUps:
    """Ends calls at the carriers. One for the process."""

    def __init__(self, store: Store, api: CarrierApi, worker: Worker, *, rhythm: Rhythm | None = None) -> None:
        self._store, self._api, self.worker = store, api, worker
        self.rhythm = rhythm or Rhythm()
        self.counters: Counter[str] = Counter()
        self.on_away: Callable[[], Awaitable[None]] = _nothing  # the lease had run out: take the live calls back
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wake = asyncio.Event()
        self._reported: dict[CallKey, asyncio.Event] = {}  # who waits for a carrier's report of the end
        self.settled: Callable[[CallKey], None] = lambda key: None  # told when no more will be known of a call's end
        self._closing = False

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        await self._renew()
        lease_s = self.rhythm.lease_s * self.rhythm.scale
        self._spawn(keep_lease(self._renew, self.on_away, lease_s / 3), "lease")
        self._spawn(self._look(), "hang-ups")

    async def _renew(self) -> bool:
        return await self._store.renew(self.worker, time.time(), lease_s=self.rhythm.lease_s * self.rhythm.scale)

    async def close(self, limit_s: float = 10.0) -> None:
        """Finish the attempts that are under way; what is left stays due, in the store."""
        self._closing = True
        self._wake.set()
        attempts = {task for task in self._tasks if task.get_name().startswith("hang-up ")}
        if attempts:
            await asyncio.wait(attempts, timeout=limit_s)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        await self._store.retire(self.worker.id, time.time())

    def _spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> None:
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("hangups.task_failed", task=task.get_name(), exc_info=task.exception())

    # ------------------------------------------------------------ wishes

    def hang_up(self, http: CarrierHttp, ref: CallRef, reason: str) -> bool:
        """Begin to end a call. False: this carrier has no request for it."""
        if http.hang_up(ref) is None:
            return False
        self._spawn(self._first_attempt(ref, reason), f"hang-up {ref.carrier}")
        return True

    def lost(self, http: CarrierHttp, ref: CallRef) -> None:
        """The media socket broke: find out whether the call still stands, and end it if it does."""
        if http.hang_up(ref) is not None:
            self._spawn(self._find_out(http, ref, "socket-lost"), f"hang-up {ref.carrier}")

    def reported(self, key: CallKey) -> None:
        """The carrier has said that this call is over."""
        event = self._reported.get(key)
        if event is not None:
            event.set()

    # ------------------------------------------------------------ attempts

    async def _first_attempt(self, ref: CallRef, reason: str) -> None:
        mine = await self._store.hang_up_due(ref, reason, time.time(), claim=True)
        if mine:
            await self._attempt(PendingHangUp(ref=ref, reason=reason, attempts=1, since=time.time(), claimed_until=0))

    async def _attempt(self, due: PendingHangUp) -> None:
        """Ask once, with the repeats that a request allows, and write down what came of it."""
        ref, key = due.ref, CallKey(due.ref.carrier, due.ref.call_id)
        http = self._api.carriers.get(ref.carrier)
        request = http.hang_up(ref) if http is not None else None
        if http is None or request is None:
            await self._result(key, HangUp.FAILED, "the carrier is off, or has no request for it")
            return
        outcome = await self._api.ask(request)
        if outcome.kind is OutcomeKind.DONE:
            await self._confirm(http, due, outcome)
        elif outcome.kind is OutcomeKind.ALREADY_OVER:
            await self._result(key, HangUp.ALREADY_OVER, outcome.detail)
        elif outcome.kind is OutcomeKind.RETRY:
            await self._again(due, outcome.detail)
        else:
            # Wrong credentials and the like: a later attempt may find them mended, a person is needed meanwhile.
            log.error("hangups.refused", call=key.call_id, carrier=key.carrier, detail=outcome.detail)
            await self._again(due, outcome.detail)

    async def _confirm(self, http: CarrierHttp, due: PendingHangUp, outcome: Outcome) -> None:
        """The carrier took the request; it is done when the carrier says that the call is over."""
        key = CallKey(due.ref.carrier, due.ref.call_id)
        if await self._over(key) or await self._report_comes(key):
            await self._result(key, HangUp.DONE, outcome.detail)
            return
        phase = await self._ask_phase(http, due.ref)
        if phase is not None and not phase.final:
            await self._again(due, "taken, but the call goes on")
        else:
            await self._result(key, HangUp.DONE, outcome.detail)

    async def _report_comes(self, key: CallKey) -> bool:
        event = self._reported.setdefault(key, asyncio.Event())
        try:
            async with asyncio.timeout(self.rhythm.report_s * self.rhythm.scale):
                await event.wait()
            return True
        except TimeoutError:
            return False
        finally:
            self._reported.pop(key, None)

    async def _over(self, key: CallKey) -> bool:
        call = await self._store.call(key)
        return call is not None and call.phase is not None and call.phase.final

    async def _ask_phase(self, http: CarrierHttp, ref: CallRef) -> CallPhase | None:
        request = http.fetch(ref)
        if request is None:
            return None
        outcome = await self._api.ask(request)
        if outcome.kind is OutcomeKind.ALREADY_OVER:
            return CallPhase.COMPLETED
        return outcome.phase

    async def _find_out(self, http: CarrierHttp, ref: CallRef, reason: str) -> None:
        """Nobody has the call: first the carrier's report, then its state, then the request to end it."""
        key = CallKey(ref.carrier, ref.call_id)
        if await self._over(key) or await self._report_comes(key):
            self.counters["ended_by_itself"] += 1
            self.settled(key)
            return
        if await self._store.owner(key, time.time()) is not None:
            return  # the carrier has tried again: another socket has the call
        phase = await self._ask_phase(http, ref)
        if phase is not None and phase.final:
            self.counters["ended_by_itself"] += 1
            event = CallStatus(carrier=ref.carrier, call_id=ref.call_id, phase=phase, key=f"asked-{phase.value}")
            await self._store.fold(event, time.time())
            self.settled(key)
            return
        self.counters["orphans_ended"] += 1
        await self._first_attempt(ref, reason)

    async def _again(self, due: PendingHangUp, detail: str) -> None:
        key, now = CallKey(due.ref.carrier, due.ref.call_id), time.time()
        if now - due.since > GIVE_UP_S * self.rhythm.scale:
            log.error("hangups.given_up", call=key.call_id, carrier=key.carrier, attempts=due.attempts, detail=detail)
            await self._result(key, HangUp.FAILED, detail)
            return
        wait_s = BACK_OFF_S[min(due.attempts, len(BACK_OFF_S)) - 1] * self.rhythm.scale
        self.counters["again"] += 1
        await self._store.hang_up_result(key, HangUp.PENDING, now, detail=detail, retry_at=now + wait_s)
        self._wake.set()

    async def _result(self, key: CallKey, outcome: HangUp, detail: str) -> None:
        self.counters[outcome.value] += 1
        await self._store.hang_up_result(key, outcome, time.time(), detail=detail)
        self.settled(key)

    # ------------------------------------------------------------ what others left behind

    async def _look(self) -> None:
        """Take up what is due, whoever it was of, and calls that nobody has."""
        look_s = self.rhythm.look_s * self.rhythm.scale
        while not self._closing:
            try:
                for due in await self._store.hang_ups(time.time()):
                    self._spawn(self._attempt(due), f"hang-up {due.ref.carrier}")
                for call in await self._store.orphans(self.worker.id, time.time()):
                    self._adopt(call)
            except StoreError as exc:
                log.error("hangups.store_failed", problem=str(exc))
            self._wake.clear()
            try:
                async with asyncio.timeout(look_s):
                    await self._wake.wait()
                await asyncio.sleep(look_s / 4)
            except TimeoutError:
                pass

    def _adopt(self, call: StoredCall) -> None:
        http = self._api.carriers.get(call.key.carrier)
        self.counters["orphans"] += 1
        log.warning("hangups.orphan", call=call.key.call_id, carrier=call.key.carrier, standing=call.standing.value)
        if http is not None and http.hang_up(call.ref) is not None:
            self._spawn(self._find_out(http, call.ref, f"orphan-{call.standing.value}"), f"hang-up {call.key.carrier}")
        else:
            self._spawn(self._write_off(call), f"hang-up {call.key.carrier}")

    async def _write_off(self, call: StoredCall) -> None:
        """Nothing can be asked of the carrier: where the socket is the call, it was over when the socket was."""
        key, phase = call.key, CallPhase.COMPLETED
        over = CallStatus(carrier=key.carrier, call_id=key.call_id, phase=phase, key="orphan", cause="socket-lost")
        await self._store.fold(over, time.time())


async def _nothing() -> None:
    pass


class CallControl:
    """The call core's port to its carrier's API (gateway.core.Control)."""

    def __init__(self, hang_ups: HangUps, http: CarrierHttp | None, store: Store, api: CarrierApi, urls: Any) -> None:
        self._hang_ups, self._http, self._store, self._api, self._urls = hang_ups, http, store, api, urls
        self.info: CallInfo | None = None  # as soon as the call has started
        self.extra: Mapping[str, str] = {}  # what the webhook brought: region, leg ids
        self.hang_up_state = HangUp.NONE  # for the record
        self.transferred: Callable[[str], None] = lambda target: None  # told when the carrier knows where to

    @property
    def ref(self) -> CallRef:
        assert self.info is not None
        info = self.info
        return CallRef(carrier=info.carrier, call_id=info.call_id, account_id=info.account_id, extra=self.extra)

    def hang_up(self, reason: str) -> float | None:
        http = self._http
        if http is None or self.info is None or not self.info.call_id:
            return None
        if not getattr(http.settings, "auto_hang_up", True):
            self.hang_up_state = HangUp.LEFT_TO_CARRIER
            return None
        if not self._hang_ups.hang_up(http, self.ref, reason):
            return None
        self.hang_up_state = HangUp.PENDING
        return self._close_s

    @property
    def _close_s(self) -> float:
        return self._hang_ups.rhythm.close_s * self._hang_ups.rhythm.scale

    def lost(self) -> None:
        http = self._http
        known = self.info is not None and self.info.call_id
        if http is not None and known and getattr(http.settings, "auto_hang_up", True):
            self._hang_ups.lost(http, self.ref)

    def can_transfer(self, target: str) -> bool:
        return self._http is not None and self.info is not None and self._plan(target) is not None

    def _plan(self, target: str) -> Any:
        assert self._http is not None
        try:
            return self._http.transfer(self.ref, target, self._urls)
        except ValueError:
            return None  # a target that this carrier cannot be told

    def transfer(self, target: str) -> float | None:
        plan = self._plan(target)
        if plan is None:
            return self.hang_up("transfer-unavailable")
        self._hang_ups._spawn(self._transfer(plan, target), f"hang-up {self.ref.carrier}")
        self.hang_up_state = HangUp.LEFT_TO_CARRIER
        return None if plan.closes_socket and plan.request is None else self._close_s

    async def _transfer(self, plan: Any, target: str) -> None:
        """The wish first: a carrier that asks afterwards may ask at once. A transfer that fails ends the call."""
        key = CallKey(self.ref.carrier, self.ref.call_id)
        await self._store.wish(key, target)
        if plan.request is None:
            self.transferred(target)
            return
        outcome = await self._api.ask(plan.request)
        if outcome.kind is not OutcomeKind.DONE:
            log.error("call.transfer_failed", call=key.call_id, carrier=key.carrier, detail=outcome.detail)
            self._hang_ups.counters["transfers_failed"] += 1
            assert self._http is not None
            self._hang_ups.hang_up(self._http, self.ref, "transfer-failed")
            return
        self.transferred(target)

    def send_digits(self, digits: str) -> bool:
        http = self._http
        if http is None or self.info is None:
            return False
        request = http.send_digits(self.ref, digits)
        if request is None:
            return False
        self._hang_ups._spawn(self._api.ask(request), f"digits {self.ref.carrier}")
        return True
