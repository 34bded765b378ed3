"""What workers share and what outlives them: admission, call records, hang-ups still due, keys used once, events.

Audio never crosses a process: whoever holds a call's socket holds the call. What crosses is small, and it is this
interface, with one suite of tests for every implementation (gateway/store_sql.py: SQLite or PostgreSQL).

* `now` is wall-clock time in Unix seconds: it is compared across processes and stands in the records.
* A call is a `CallKey`. Before the carrier has named a call (an order to dial, a socket without webhook) it goes by a
  provisional id, `~something`, and `rename` gives it its own.
* Every method hands its work over and returns at once; awaiting gives the result after it is committed. Calls made
  without an await between them are committed together, in that order.
* Nothing waits for ever: StoreBusy says that nothing was written, StoreTimeout that it is not known.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from gateway.records import CallRecord
from gateway.transcript import Line
from media.call import CallInfo
from media.errors import GatewayError
from webhooks.base import CallPhase, CallRef, CarrierEvent, InboundCall

RESERVED_S = 30.0  # from the webhook's answer to the media socket
LEASE_S = 15.0  # a worker that has not renewed its lease for so long is dead
CLAIM_S = 30.0  # what is claimed and not reported on is free for others after this
REPEAT_S = 10.0  # a carrier that retries a handshake or a webhook does so within this time
PROVISIONAL = "~"
STREAM_OVER = "stream-over"  # the reason of a hang-up that is only to be if the call outlives its stream
IN_DOUBT = ("socket-lost", STREAM_OVER, "orphan-")  # reasons of hang-ups for which a call may be over, or come again


class StoreError(GatewayError):
    """The store did not do what it was asked. `brief` is for everybody's eyes: it names no host and no user."""

    def __init__(self, problem: str, *, brief: str = "") -> None:
        super().__init__(problem)
        self.brief = brief or problem


class StoreBusy(StoreError):
    """Not now: the queue is full, or others held the database too long. Nothing was written."""


class StoreTimeout(StoreError):
    """No answer in time; it is not known whether it was written."""


class CallKey(NamedTuple):
    """What a call is known by."""

    carrier: str
    call_id: str

    def __str__(self) -> str:
        return f"{self.carrier}/{self.call_id}"

    @property
    def provisional(self) -> bool:
        return self.call_id.startswith(PROVISIONAL)

    @classmethod
    def parse(cls, text: str) -> CallKey:
        carrier, _, call_id = text.partition("/")
        return cls(carrier, call_id)


# ---------------------------------------------------------------- admission


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """How many calls may be at once, over all workers; None: any number."""

    gateway: int | None = None
    carrier: int | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """A slot is reserved until `expires`, or live; `repeated`: it already was, and nothing more was taken."""

    expires: float
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    reason: str  # "full", "carrier-full", "number-full", "overloaded"; "over": this call has already ended


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that holds calls, and where it takes commands for them."""

    id: str
    endpoint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Slots taken: reserved and live."""

    reserved: int = 0
    live: int = 0
    by_carrier: Mapping[str, int] = field(default_factory=dict)
    by_number: Mapping[str, int] = field(default_factory=dict)


# ---------------------------------------------------------------- records


class Standing(enum.Enum):
    """Where a call stands for us; the carrier's view is its CallPhase."""

    REPORTED = "reported"  # only a carrier's report of it has been seen
    DIALLING = "dialling"  # we asked the carrier to place it
    EXPECTED = "expected"  # the webhook was answered, the socket is to come
    LIVE = "live"
    ENDED = "ended"
    REFUSED = "refused"
    NEVER_CAME = "never-came"  # the socket did not come in time
    LOST = "lost"  # its worker died


class HangUp(enum.Enum):
    """How the carrier's leg was ended."""

    NONE = "none"  # nothing was asked of the carrier
    PENDING = "pending"
    DONE = "done"
    ALREADY_OVER = "already-over"
    FAILED = "failed"  # given up
    LEFT_TO_CARRIER = "left-to-carrier"

    @staticmethod
    def unneeded(reason: str) -> HangUp:
        """What became of one that was due for `reason`, of a call that was over without it."""
        return HangUp.NONE if reason == STREAM_OVER else HangUp.ALREADY_OVER


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCall:
    """The record of one call. Times are Unix seconds."""

    key: CallKey
    standing: Standing
    created: float  # the webhook, the order, or the first report
    answered: float | None = None
    ended: float | None = None
    account_id: str = ""
    direction: str = "inbound"
    from_number: str = ""
    to_number: str = ""
    bot: str = ""
    worker: str = ""  # that has it, or had it last
    state: str = ""  # the call's state at its end: "closed", "failed"
    ended_by: str = ""
    reason: str = ""
    duration_s: float | None = None  # by our clock, from the stream's start
    phase: CallPhase | None = None  # the furthest that the carrier has reported
    cause: str = ""  # the carrier's own word for the end
    carrier_duration_s: float | None = None
    answered_by: str = ""  # "human", "machine", "fax", "unknown"
    answered_detail: str = ""
    stream_problem: str = ""
    hang_up: HangUp = HangUp.NONE
    hang_up_reason: str = ""
    hang_up_attempts: int = 0
    hang_up_detail: str = ""
    counters: Mapping[str, int] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)  # what came with the webhook or the order
    extra: Mapping[str, str] = field(default_factory=dict)
    wish: str = ""  # where it was to go when its stream is over
    wish_taken: float | None = None  # when its carrier asked for that

    @property
    def ref(self) -> CallRef:
        """What the carrier's requests need."""
        return CallRef(carrier=self.key.carrier, call_id=self.key.call_id, account_id=self.account_id, extra=self.extra)


@dataclass(frozen=True, slots=True)
class Connected:
    """The call is this worker's. `displaced` is the other worker that had it: the newest socket wins."""

    call: StoredCall
    displaced: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """Which records; an empty field says nothing."""

    carrier: str = ""
    bot: str = ""
    number: str = ""  # of either side, as the carrier wrote it
    direction: str = ""
    worker: str = ""
    ended_by: str = ""
    reason: str = ""
    standing: Sequence[Standing] = ()
    hang_up: Sequence[HangUp] = ()
    since: float | None = None  # created at or after
    until: float | None = None  # created before


@dataclass(frozen=True, slots=True)
class Page:
    """Newest first. `next` goes on where this page ends; empty: there is no more."""

    calls: Sequence[StoredCall]
    next: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a carrier said of a call, once."""

    at: float
    kind: str  # "status", "stream", "answered-by"
    key: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What became of a carrier's report."""

    new: bool  # False: it was reported before
    phase: CallPhase | None = None  # of the call now
    standing: Standing = Standing.REPORTED
    owner: Worker | None = None  # has the call live


# ---------------------------------------------------------------- work that outlives a process


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingHangUp:
    """A hang-up that the claimant, and nobody else, executes before `claimed_until`."""

    ref: CallRef
    reason: str
    attempts: int  # with this one
    since: float  # when it first became due
    claimed_until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingEvent:
    """An event for the user's URL. `id` rises; it is the idempotency key of its delivery."""

    id: int
    call: str  # str(CallKey), or "" for an event of no call
    body: bytes  # JSON
    created: float
    attempts: int  # with this one


class Store(Protocol):
    """Everything is idempotent: asking twice does what asking once does."""

    async def open(self) -> None:
        """Make ready; creates what is missing. StoreError if that cannot be."""

    async def close(self) -> None:
        """Finish all that was handed over, then let go."""

    # ------------------------------------------------------------ admission

    def admit(
        self,
        call: InboundCall,
        caps: Caps,
        now: float,
        *,
        bot: str = "",
        number: str = "",
        ttl_s: float = RESERVED_S,
    ) -> Awaitable[Admitted | Refused]:
        """Reserve a slot and write the call's row, or refuse and write that. A call that comes `again` may have an end
        in its row already, if that was no more than the loss of its socket.

        Args:
            number: what the cap per number counts by, in one spelling; default: our side's number as it stands.
            ttl_s: the socket must come within this; for an order to dial: the time to ring and a margin.
        """

    def refused(self, call: InboundCall, reason: str, now: float, *, bot: str = "") -> Awaitable[None]:
        """Record a call that was turned away for another reason than the caps."""

    def rename(self, key: CallKey, call_id: str, extra: Mapping[str, str] | None = None) -> Awaitable[bool]:
        """The carrier's own id of a call that went by a provisional one; its row and slot move.

        What was already reported under the new id is kept, and `extra` joins what is kept for `CallRef.extra`. False:
        there is no call of the provisional id.
        """

    def connected(self, key: CallKey, worker: str, now: float) -> Awaitable[Connected | None]:
        """The socket has come: the slot lives as long as `worker` renews its lease.

        None: there is no slot, or it has expired: `admit` again.
        """

    def release(self, key: CallKey, *, worker: str = "") -> Awaitable[None]:
        """Give the slot back before its time, of a call that was not `ended`: it is an orphan then.

        With `worker` only if it is still that worker's.
        """

    def forget(self, key: CallKey) -> Awaitable[None]:
        """It was no call after all, but a carrier's test of the connection: row and slot go, nothing is kept."""

    def usage(self, now: float) -> Awaitable[Usage]: ...

    # ------------------------------------------------------------ workers

    def renew(self, worker: Worker, now: float, *, lease_s: float = LEASE_S) -> Awaitable[bool]:
        """Say that `worker` lives; every third of `lease_s` or so.

        False: it is new, or its lease had run out, so that its calls may have been taken for lost: `admit` (without
        caps) and `connected` again for each.
        """

    def retire(self, worker: str, now: float) -> Awaitable[None]:
        """`worker` has ended, or is known to be dead; calls that it still has are lost."""

    def workers(self, now: float) -> Awaitable[Sequence[Worker]]:
        """Those whose lease holds."""

    def owner(self, key: CallKey, now: float) -> Awaitable[Worker | None]:
        """The worker that has this call live."""

    # ------------------------------------------------------------ records

    def started(self, key: CallKey, info: CallInfo, bot: str, now: float) -> Awaitable[None]:
        """The stream runs: what the carrier's start message said completes the row."""

    def ended(
        self, key: CallKey, record: CallRecord, now: float, *, hang_up: HangUp = HangUp.NONE, worker: str = ""
    ) -> Awaitable[bool]:
        """The session's last word; gives the slot back.

        `hang_up` other than NONE is written, unless one is pending or done; PENDING is due at once, unclaimed. With
        `worker`, False and nothing written if the call is another worker's by now.
        """

    def fold(self, event: CarrierEvent, now: float) -> Awaitable[Folded]:
        """Take in a carrier's report, once per key. Phases only move forward; a final one settles a pending hang-up
        and ends a call that is not live."""

    def call(self, key: CallKey) -> Awaitable[StoredCall | None]: ...

    def transcript(self, key: CallKey) -> Awaitable[tuple[Line, ...]]:
        """What was said in the call, if it is kept and the call is over."""

    def reports(self, key: CallKey) -> Awaitable[Sequence[Report]]:
        """What the carrier has said of the call, in the order of arrival."""

    def records(self, which: CallFilter, *, limit: int = 50, after: str = "") -> Awaitable[Page]:
        """Newest first; `after` is the last page's `next`. ValueError if it is none."""

    def prune(self, now: float, *, keep_s: float, limit: int = 200) -> Awaitable[int]:
        """Delete at most `limit` calls that ended before `now - keep_s` with all that belongs to them, and expired
        keys. Gives how many rows went: ask again until it is 0."""

    # ------------------------------------------------------------ hang-ups and orphans

    def hang_up_due(
        self,
        ref: CallRef,
        reason: str,
        now: float,
        *,
        not_before: float | None = None,
        claim: bool = False,
        claim_s: float = CLAIM_S,
    ) -> Awaitable[bool]:
        """Make sure that the carrier's leg ends.

        With `claim` it is claimed at once, until `claim_s` after `not_before`, and True says: execute it. False: one
        is pending or done already, or the call is known to be over.
        """

    def hang_ups(self, now: float, *, limit: int = 20, claim_s: float = CLAIM_S) -> Awaitable[Sequence[PendingHangUp]]:
        """Claim those that are due. An attempt must be over, or given up, within `claim_s`."""

    def hang_up_result(
        self, key: CallKey, outcome: HangUp, now: float, *, detail: str = "", retry_at: float | None = None
    ) -> Awaitable[None]:
        """What the attempt came to. PENDING with `retry_at`: again then. DONE is never overwritten.

        With DONE, ALREADY_OVER and LEFT_TO_CARRIER a call that is not live has its end.
        """

    def orphans(
        self, worker: str, now: float, *, limit: int = 20, claim_s: float = 60.0
    ) -> Awaitable[Sequence[StoredCall]]:
        """Claim calls that we answered or placed, that have no end, and that nobody has: NEVER_CAME or LOST.

        Frees the slots of those whose time is over first. Other workers are taken for dead only by one whose own
        lease has held for a whole lease: else it may be the one that was away. Ask the carrier, then `fold` what it
        says or make a hang-up due; who does neither gets the call again after `claim_s`.
        """

    # ------------------------------------------------------------ what a carrier asks afterwards

    def wish(self, key: CallKey, target: str) -> Awaitable[None]:
        """Where the call is to go when its stream is over."""

    def take_wish(self, key: CallKey, now: float) -> Awaitable[str | None]:
        """The target, once; and again within REPEAT_S, for a carrier that repeats its question."""

    # ------------------------------------------------------------ once

    def once(self, key: str, now: float, *, ttl_s: float, holder: str = "", repeat_s: float = 0.0) -> Awaitable[bool]:
        """True for the first to show `key` within `ttl_s`; and again for the same `holder` within `repeat_s`."""

    # ------------------------------------------------------------ events for the user's URL

    def enqueue(self, body: bytes, now: float, *, call: CallKey | None = None) -> Awaitable[bool]:
        """Queue an event (JSON). False: the queue is full; it was dropped and counted."""

    def events(self, now: float, *, limit: int = 50, claim_s: float = CLAIM_S) -> Awaitable[Sequence[OutgoingEvent]]:
        """Claim those that are due, at most one of each call: the next comes when this one is settled."""

    def delivered(self, event_id: int) -> Awaitable[None]: ...

    def failed(self, event_id: int, next_try: float | None) -> Awaitable[None]:
        """Try again at `next_try`. None: give up; it is counted."""
