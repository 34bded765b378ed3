"""Hang-up as a state machine that outlives calls and processes: never none, never two that take effect.

Due -> asked of the carrier -> confirmed by its report, or by asking for the call's state -> recorded. What is due is
in the store before it is asked, so that a process that dies leaves it to the next. Where it is in doubt whether a call
still stands (its socket broke, or its process died), that is found out first. A store that does not answer keeps no
caller on the line: the request is made all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from gateway.alive import Lives
from gateway.carrier_api import CarrierApi
from gateway.housekeeping import keep_lease
from gateway.store import (
    CLAIM_S,
    IN_DOUBT,
    STREAM_OVER,
    CallKey,
    HangUp,
    PendingHangUp,
    Standing,
    Store,
    StoredCall,
    StoreError,
    Worker,
)
from media.call import CallInfo
from webhooks.base import CallPhase, CallRef, CallStatus, CarrierHttp, Outcome, OutcomeKind, Transfer, Urls

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.hangups")

BACK_OFF_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # between rounds of attempts; the last one repeats
GIVE_UP_S = 4 * 3600.0  # carriers end calls of this length themselves, by default
# For one round of a request, its repeats among them, and for the state of a call: a claim holds longer than all that
# one attempt may ask and wait for.
ASK_S, STATE_S = 12.0, 5.0
HAND_OVER = 3  # times `close_s`: as long is a stream kept for a carrier that does not answer a transfer
NOTE_AGAIN_S = (0.2, 1.0, 5.0)  # until an outcome is written down again that the store did not take


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """Seconds. Tests run them faster."""

    look_s: float = 1.0  # how often the store is asked for what is due
    lease_s: float = 15.0
    claim_s: float = CLAIM_S  # for one attempt: then anybody may make another
    report_s: float = 3.0  # how long a carrier's report of the end is waited for, before asking
    close_s: float = 10.0  # for the carrier to close the media socket after a hang-up
    scale: float = 1.0


class HangUps:
    """Ends calls at the carriers. One for the process."""

    def __init__(
        self,
        store: Store,
        api: CarrierApi,
        worker: Worker,
        *,
        rhythm: Rhythm | None = None,
        locks: Lives | None = None,
    ) -> None:
        self._store, self._api, self.worker = store, api, worker
        self._locks = locks or Lives("")
        self.rhythm = rhythm or Rhythm()
        self.counters: Counter[str] = Counter()
        self.on_away: Callable[[], Awaitable[None]] = _nothing  # the lease had run out: take the live calls back
        self.wrote: Callable[[str], None] = lambda problem: None  # told how each renewal of the lease went
        self.settled: Callable[[CallKey], None] = lambda key: None  # told when no more will be known of a call's end
        self.lives: Callable[[CallKey], bool] = lambda key: False  # whether a socket of this process has the call
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wake = asyncio.Event()
        self._expected: dict[CallKey, set[asyncio.Event]] = {}  # who waits for a carrier's report of the end
        self._under_way: set[CallKey] = set()
        # The carrier's side as the call had it, until its hang-up is settled: with other credentials, after a reload,
        # the carrier would know of no such call.
        self._sides: dict[CallKey, CarrierHttp] = {}
        self._again_by: dict[CallKey, float] = {}  # when a next attempt will have begun, unless it is not needed
        self._closing = False

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        self._locks.begin(self.worker.id)
        await self._renew()
        await self._bury()
        every_s = self._scaled(self.rhythm.lease_s) / 3
        self._spawn(keep_lease(self._renew, self.on_away, every_s, self.wrote), "lease")
        self._spawn(self._look(), "hang-ups")

    async def _renew(self) -> bool:
        return await self._store.renew(self.worker, time.time(), lease_s=self._scaled(self.rhythm.lease_s))

    async def _bury(self) -> None:
        """What workers had that have fallen on this machine is there to be taken up, before their leases run out."""
        try:
            with self._locks.gone() as fallen:
                for worker in fallen:
                    log.warning("hangups.worker_fell", worker=worker)
                    await self._store.retire(worker, time.time())
        except StoreError as exc:
            log.error("hangups.store_failed", what="bury", problem=str(exc))  # their leases run out

    async def close(self, limit_s: float = 15.0) -> None:
        """Bring the hang-ups of this process to their end; what then is left stays due, in the store."""
        self._closing = True
        end = time.monotonic() + limit_s
        while (left := len(self._attempts()) + len(self._to_come())) and time.monotonic() < end:
            self._wake.set()
            await asyncio.sleep(0.02)
        if left:
            log.warning("hangups.left_due", hang_ups=left)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        try:
            await self._store.retire(self.worker.id, time.time())
        except StoreError as exc:
            log.error("hangups.store_failed", what="retire", problem=str(exc))  # its lease runs out
            return  # and its lock is free when the process ends
        self._locks.end(self.worker.id)

    def _attempts(self) -> set[asyncio.Task[Any]]:
        return {task for task in self._tasks if task.get_name().startswith("hang-up ")}

    def _to_come(self) -> Mapping[CallKey, float]:
        """The attempts that were put off; one that has not come by its time was settled by the carrier's report."""
        now = time.monotonic()
        self._again_by = {key: by for key, by in self._again_by.items() if by > now}
        return self._again_by

    def _scaled(self, seconds: float) -> float:
        return seconds * self.rhythm.scale

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
        self._sides[CallKey(ref.carrier, ref.call_id)] = http
        self._begin(ref, reason)
        return True

    def lost(self, http: CarrierHttp, ref: CallRef) -> bool:
        """The media socket broke: find out whether the call still stands, and end it if it does. As `hang_up`."""
        return self.hang_up(http, ref, "socket-lost")

    def stream_over(self, http: CarrierHttp, ref: CallRef) -> bool:
        """The carrier has ended the stream: find out whether the call goes on without it, and end it if it does."""
        return self.hang_up(http, ref, STREAM_OVER)

    def transfer(
        self, http: CarrierHttp, ref: CallRef, target: str, plan: Transfer, told: Callable[[bool], None]
    ) -> None:
        """Hand the caller over. `told`: the carrier has been told where to, or it cannot be and the call ends."""
        self._spawn(self._transfer(http, ref, target, plan, told), f"hang-up {ref.carrier}")

    def reported(self, key: CallKey) -> None:
        """The carrier has said that this call is over."""
        for event in self._expected.get(key, ()):
            event.set()

    def look_soon(self) -> None:
        """There may be something due, or a call that nobody has."""
        self._wake.set()

    def _begin(self, ref: CallRef, reason: str) -> None:
        self._spawn(self._first_attempt(ref, reason), f"hang-up {ref.carrier}")

    # ------------------------------------------------------------ attempts

    async def _first_attempt(self, ref: CallRef, reason: str) -> None:
        """It is due from here on, whatever becomes of this process, and ours to execute."""
        now = time.time()
        try:
            claim_s = self._scaled(self.rhythm.claim_s)
            mine = await self._store.hang_up_due(ref, reason, now, claim=True, claim_s=claim_s)
        except StoreError as exc:
            log.error("hangups.store_failed", what="due", call=ref.call_id, carrier=ref.carrier, problem=str(exc))
            self.counters["without_store"] += 1
            mine = True
        if mine:
            await self._see_to(PendingHangUp(ref=ref, reason=reason, attempts=1, since=now, claimed_until=0))
        else:
            self._sides.pop(CallKey(ref.carrier, ref.call_id), None)
            self.settled(CallKey(ref.carrier, ref.call_id))  # or it will be, by whoever is at it

    async def _see_to(self, due: PendingHangUp) -> None:
        """One attempt, and what came of it written down. It is over before others may take it for forgotten."""
        key = CallKey(due.ref.carrier, due.ref.call_id)
        if key in self._under_way:
            return
        self._under_way.add(key)
        self._again_by.pop(key, None)
        try:
            async with asyncio.timeout(0.95 * self._scaled(self.rhythm.claim_s)):
                await self._attempt(key, due)
        except TimeoutError:
            await self._again(key, due, "it took too long")
        except StoreError as exc:
            log.error("hangups.store_failed", what="attempt", call=key.call_id, carrier=key.carrier, problem=str(exc))
            await self._again(key, due, "the store failed")
        finally:
            self._under_way.discard(key)

    async def _attempt(self, key: CallKey, due: PendingHangUp) -> None:
        ref = due.ref
        http = self._sides.get(key) or self._api.carriers.get(ref.carrier)
        request = http.hang_up(ref) if http is not None else None
        if http is None or request is None:
            await self._result(key, HangUp.FAILED, "the carrier is off, or has no request for it")
            return
        if due.reason.startswith(IN_DOUBT) and not await self._still_stands(http, key, due):
            return
        outcome = await self._api.ask(request, http=http, within_s=ASK_S)
        if outcome.kind is OutcomeKind.DONE:
            await self._confirm(http, key, due, outcome)
        elif outcome.kind is OutcomeKind.ALREADY_OVER:
            await self._result(key, HangUp.ALREADY_OVER, outcome.detail)
        else:
            if outcome.kind is OutcomeKind.FAILED:
                # Wrong credentials and the like: a later attempt may find them mended, a person is needed meanwhile.
                log.error("hangups.refused", call=key.call_id, carrier=key.carrier, detail=outcome.detail)
            await self._again(key, due, outcome.detail)

    async def _confirm(self, http: CarrierHttp, key: CallKey, due: PendingHangUp, outcome: Outcome) -> None:
        """The carrier took the request; it is done when the carrier says that the call is over."""
        if not await self._reported_over(key):
            phase = await self._ask_phase(http, due.ref)
            if phase is not None and not phase.final:
                await self._again(key, due, "taken, but the call goes on")
                return
        await self._result(key, HangUp.DONE, outcome.detail)

    async def _still_stands(self, http: CarrierHttp, key: CallKey, due: PendingHangUp) -> bool:
        """Nobody has the call: first the carrier's report, then its state. False: nothing is to be ended."""
        ref = due.ref
        # Most calls are over with their stream, but not in the same moment: their carrier is asked a second time.
        for _ in range(2 if due.reason == STREAM_OVER else 1):
            if await self._reported_over(key):
                await self._was_over(key, due, "ended by itself")
                return False
            if await self._has_come_again(key):
                self._sides.pop(key, None)
                await self._note(key, HangUp.NONE, "it has come again")
                return False
            phase = await self._ask_phase(http, ref)
            if phase is not None and phase.final:
                event = CallStatus(carrier=ref.carrier, call_id=ref.call_id, phase=phase, key=f"asked-{phase.value}")
                await self._store.fold(event, time.time())
                await self._was_over(key, due, "asked: it is over")
                return False
        self.counters["orphans_ended"] += 1
        return True

    async def _was_over(self, key: CallKey, due: PendingHangUp, detail: str) -> None:
        self.counters["ended_by_itself"] += 1
        await self._result(key, HangUp.unneeded(due.reason), detail)

    async def _has_come_again(self, key: CallKey) -> bool:
        """The carrier has opened another socket for the call, or is about to."""
        if self.lives(key):
            return True
        call = await self._store.call(key)
        if call is None or call.ended is not None:
            return False
        if call.standing is Standing.EXPECTED:
            return True
        owner = await self._store.owner(key, time.time())
        return owner is not None and owner.id != self.worker.id  # ours is not live: its record has yet to be written

    async def _reported_over(self, key: CallKey) -> bool:
        """Whether the carrier has said, or says in the next moments, that the call is over."""
        with self._expecting(key) as event:
            call = await self._store.call(key)
            if call is not None and call.phase is not None and call.phase.final:
                return True
            try:
                async with asyncio.timeout(self._scaled(self.rhythm.report_s)):
                    await event.wait()
            except TimeoutError:
                return False
            return True

    @contextlib.contextmanager
    def _expecting(self, key: CallKey) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._expected.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            waiting = self._expected[key]
            waiting.discard(event)
            if not waiting:
                del self._expected[key]

    async def _ask_phase(self, http: CarrierHttp, ref: CallRef) -> CallPhase | None:
        request = http.fetch(ref)
        if request is None:
            return None
        outcome = await self._api.ask(request, http=http, within_s=STATE_S)
        if outcome.kind is OutcomeKind.ALREADY_OVER:
            return CallPhase.COMPLETED
        return outcome.phase

    # ------------------------------------------------------------ outcomes

    async def _again(self, key: CallKey, due: PendingHangUp, detail: str) -> None:
        now = time.time()
        if now - due.since > self._scaled(GIVE_UP_S):
            log.error("hangups.given_up", call=key.call_id, carrier=key.carrier, attempts=due.attempts, detail=detail)
            await self._result(key, HangUp.FAILED, detail)
            return
        self.counters["again"] += 1
        wait_s = self._scaled(BACK_OFF_S[min(due.attempts, len(BACK_OFF_S)) - 1])
        self._again_by[key] = time.monotonic() + wait_s + 2 * self._scaled(self.rhythm.look_s) + 0.1
        await self._note(key, HangUp.PENDING, detail, retry_at=now + wait_s)
        self._wake.set()

    async def _result(self, key: CallKey, outcome: HangUp, detail: str) -> None:
        if outcome is not HangUp.NONE:
            self.counters[outcome.value] += 1
        self._sides.pop(key, None)
        await self._note(key, outcome, detail)
        self.settled(key)

    async def _note(self, key: CallKey, outcome: HangUp, detail: str, *, retry_at: float | None = None) -> None:
        """Into the store. What is never written is asked of the carrier once more: for it the call is over then."""
        for wait_s in (*NOTE_AGAIN_S, 0.0):
            try:
                await self._store.hang_up_result(key, outcome, time.time(), detail=detail, retry_at=retry_at)
                return
            except StoreError as exc:
                log.error("hangups.store_failed", what=outcome.value, call=key.call_id, problem=str(exc))
            if not self._closing:
                await asyncio.sleep(self._scaled(wait_s))

    # ------------------------------------------------------------ handing over

    async def _transfer(
        self, http: CarrierHttp, ref: CallRef, target: str, plan: Transfer, told: Callable[[bool], None]
    ) -> None:
        """The wish first: a carrier that asks afterwards may ask at once. A transfer that fails ends the call."""
        key = CallKey(ref.carrier, ref.call_id)
        # From then on it is this side that closes the stream, and of one that is gone already nothing is to be learned.
        patient_until = time.monotonic() + 0.95 * HAND_OVER * self._scaled(self.rhythm.close_s) * self.lives(key)
        try:
            await self._store.wish(key, target)
        except StoreError as exc:
            log.error("hangups.store_failed", what="wish", call=key.call_id, problem=str(exc))
            if plan.request is None:
                told(False)
                return
        outcome = await self._handed_over(key, http, plan, patient_until)
        if outcome.kind in (OutcomeKind.DONE, OutcomeKind.ALREADY_OVER):
            gone = outcome.kind is OutcomeKind.ALREADY_OVER
            await self._result(key, HangUp.ALREADY_OVER if gone else HangUp.LEFT_TO_CARRIER, outcome.detail)
            told(not gone)
            return
        log.error("call.transfer_failed", call=key.call_id, carrier=key.carrier, detail=outcome.detail)
        self.counters["transfers_failed"] += 1
        with contextlib.suppress(StoreError):
            await self._store.wish(key, "")  # else a carrier that asks when the socket closes would still go there
        self.hang_up(http, ref, "transfer-failed")
        told(False)

    async def _handed_over(self, key: CallKey, http: CarrierHttp, plan: Transfer, patient_until: float) -> Outcome:
        """Ask for it. Of a request without a reply it is not known whether it was carried out: what the carrier then
        does to the stream tells."""
        if plan.request is None:
            return Outcome(kind=OutcomeKind.DONE, detail="by closing the socket")
        outcome = Outcome(kind=OutcomeKind.FAILED)
        for _ in range(self._api.patience.attempts):
            outcome = await self._api.ask(plan.request, http=http, within_s=ASK_S)
            if outcome.kind is not OutcomeKind.RETRY:
                break
            if await self._has_left(key, patient_until):
                return Outcome(kind=OutcomeKind.DONE, detail=f"{outcome.detail}, but the call has left")
        return outcome

    async def _has_left(self, key: CallKey, patient_until: float) -> bool:
        """The carrier has closed the stream, or has asked where to."""
        end = time.monotonic() + self._scaled(self.rhythm.close_s) / 2
        while True:
            call = await self._store.call(key)
            if call is not None and call.wish_taken is not None:
                return True
            now = time.monotonic()
            if not self.lives(key):
                return now < patient_until  # later, nobody but us may have closed it
            if now >= end:
                return False
            await asyncio.sleep(self._scaled(0.5))

    # ------------------------------------------------------------ what others left behind

    async def _look(self) -> None:
        """Take up what is due, whoever it was of, and calls that nobody has. Runs until it is cancelled."""
        look_s, claim_s = self._scaled(self.rhythm.look_s), self._scaled(self.rhythm.claim_s)
        while True:
            self._to_come()
            self._wake.clear()
            try:
                for due in await self._store.hang_ups(time.time(), claim_s=claim_s):
                    self._spawn(self._see_to(due), f"hang-up {due.ref.carrier}")
                if not self._closing:
                    for call in await self._store.orphans(self.worker.id, time.time(), claim_s=2 * claim_s):
                        self._adopt(call)
            except StoreError as exc:
                log.error("hangups.store_failed", what="look", problem=str(exc))
            try:
                async with asyncio.timeout(look_s):
                    await self._wake.wait()
                await asyncio.sleep(look_s / 4)  # however often it is woken
            except TimeoutError:
                pass

    def _adopt(self, call: StoredCall) -> None:
        http, key = self._api.carriers.get(call.key.carrier), call.key
        self.counters["orphans"] += 1
        log.warning("hangups.orphan", call=key.call_id, carrier=key.carrier, standing=call.standing.value)
        if key.provisional:
            work = self._write_off(call, "not-placed")  # the carrier knows it by no name, if at all
        elif http is None or http.hang_up(call.ref) is None:
            work = self._write_off(call, "socket-lost")
        elif not getattr(http.settings, "auto_hang_up", True):
            work = self._result(key, HangUp.LEFT_TO_CARRIER, "auto_hang_up is off")
        elif call.hang_up is HangUp.LEFT_TO_CARRIER:
            work = self._result(key, HangUp.LEFT_TO_CARRIER, call.hang_up_detail)
        elif call.wish:
            work = self._hand_over_again(http, call)
        else:
            work = self._first_attempt(call.ref, f"orphan-{call.standing.value}")
        self._spawn(work, f"hang-up {key.carrier}")

    async def _write_off(self, call: StoredCall, cause: str) -> None:
        """Nothing can be asked of the carrier: where the socket is the call, it was over when the socket was."""
        key, phase = call.key, CallPhase.COMPLETED
        over = CallStatus(carrier=key.carrier, call_id=key.call_id, phase=phase, key="orphan", cause=cause)
        await self._store.fold(over, time.time())

    async def _hand_over_again(self, http: CarrierHttp, call: StoredCall) -> None:
        """Its process died while it was handed over: whether the carrier knows where to is not known. A carrier that
        asks after the stream gets the wish; one that does not takes the same command again for the same."""
        try:
            plan = http.transfer(call.ref, call.wish, Urls(base=""))
        except ValueError:
            plan = None
        if plan is not None and plan.request is not None and plan.request.repeatable:
            outcome = await self._api.ask(plan.request, within_s=ASK_S)
            if outcome.kind is OutcomeKind.ALREADY_OVER:
                await self._result(call.key, HangUp.ALREADY_OVER, outcome.detail)
                return
            if outcome.kind is not OutcomeKind.DONE:
                await self._first_attempt(call.ref, "transfer-failed")
                return
        await self._result(call.key, HangUp.LEFT_TO_CARRIER, "handed over")


async def _nothing() -> None:
    pass


def _nobody(*args: object) -> None:
    """Nobody wants to know."""


class CallControl:
    """The call core's port to its carrier's API (gateway.ports.Control)."""

    def __init__(self, hang_ups: HangUps, http: CarrierHttp | None, api: CarrierApi, urls: Urls) -> None:
        self._hang_ups, self._http, self._api, self._urls = hang_ups, http, api, urls
        self.info: CallInfo | None = None  # as soon as the call has started
        self.extra: Mapping[str, str] = {}  # what the webhook brought: region, leg ids
        self.hang_up_state = HangUp.NONE  # for the record
        self.transferred: Callable[[str], None] = _nobody  # told when the carrier knows where to
        self.let_go: Callable[[], None] = _nobody  # told when the socket is not needed any more
        self._undecided: asyncio.Event | None = None  # a transfer of which it is not known whether it was carried out

    def leave(self) -> None:
        """The call is over: nobody is told any more."""
        self.transferred = self.let_go = _nobody

    @property
    def ref(self) -> CallRef:
        assert self.info is not None
        info = self.info
        return CallRef(carrier=info.carrier, call_id=info.call_id, account_id=info.account_id, extra=self.extra)

    def hang_up(self, reason: str) -> float | None:
        return self._close_s if self._asked(lambda http: self._hang_ups.hang_up(http, self.ref, reason)) else None

    def lost(self) -> None:
        self._asked(lambda http: self._hang_ups.lost(http, self.ref))

    def stream_over(self) -> None:
        http = self._http
        if http is None or not http.outlives_stream or self.info is None or not self.info.call_id:
            return
        if self.hang_up_state is HangUp.NONE and getattr(http.settings, "auto_hang_up", True):
            self._hang_ups.stream_over(http, self.ref)  # for the record it counts if the call did go on

    def _asked(self, ask: Callable[[CarrierHttp], bool]) -> bool:
        http = self._http
        if http is None or self.info is None or not self.info.call_id:
            return False
        if not getattr(http.settings, "auto_hang_up", True):
            self.hang_up_state = HangUp.LEFT_TO_CARRIER
            return False
        if not ask(http):
            return False
        self.hang_up_state = HangUp.PENDING
        return True

    @property
    def _close_s(self) -> float:
        return self._hang_ups.rhythm.close_s * self._hang_ups.rhythm.scale

    def can_transfer(self, target: str) -> bool:
        return self._http is not None and self.info is not None and self._plan(target) is not None

    def _plan(self, target: str) -> Transfer | None:
        assert self._http is not None
        try:
            return self._http.transfer(self.ref, target, self._urls)
        except ValueError:
            return None  # a target that this carrier cannot be told

    def transfer(self, target: str) -> float | None:
        plan = self._plan(target)
        if plan is None or self._http is None:
            return self.hang_up("transfer-unavailable")
        self.hang_up_state = HangUp.LEFT_TO_CARRIER

        def told(known: bool) -> None:
            if known:
                self.transferred(target)
            if not known or plan.closes_socket:
                self.let_go()
            decided.set()

        self._undecided = decided = asyncio.Event()
        self._hang_ups.transfer(self._http, self.ref, target, plan, told)
        # A carrier that does not answer is asked again; then the socket closes all the same.
        return HAND_OVER * self._close_s

    async def decided(self) -> None:
        """Wait for the carrier's word on a transfer: the stream may end before it is there."""
        if self._undecided is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HAND_OVER * self._close_s):
                    await self._undecided.wait()
