"""What is still to be done, by whoever comes first, and what may be done only once."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, func, select, update

from gateway.sql.records import AWAITED, FINAL, due, free, row_of
from gateway.sql.tables import (
    FOREVER,
    HANG_UP_PENDING,
    Values,
    among,
    calls,
    change,
    first_of,
    from_json,
    outgoing,
    put,
    to_json,
    used,
)
from gateway.store import REPEAT_S, CallKey, HangUp, OutgoingEvent, PendingHangUp, Standing
from webhooks.base import CallRef

_FINAL = frozenset(phase.value for phase in FINAL)
_SETTLED = frozenset({HangUp.DONE, HangUp.ALREADY_OVER, HangUp.LEFT_TO_CARRIER})

_DUE = (
    select(calls)
    .where(HANG_UP_PENDING, calls.c.hang_up_at <= bindparam("now"), calls.c.claimed_until <= bindparam("now"))
    .order_by(calls.c.hang_up_at)
    .limit(bindparam("most"))
)
_UNNEEDED = update(calls).where(among(calls.c.key)).values(hang_up=bindparam("outcome"))
_ATTEMPT = (
    update(calls)
    .where(among(calls.c.key))
    .values(claimed_until=bindparam("until"), hang_up_attempts=calls.c.hang_up_attempts + 1)
)
_WISH = select(calls.c.wish, calls.c.wish_taken).where(calls.c.key == bindparam("k"))
_USED_ONE = select(used).where(used.c.key == bindparam("keys"))
_USED_MANY = select(used).where(among(used.c.key))
_WAITING = select(func.count()).select_from(outgoing)
_EARLIER = select(outgoing.c.id).where(outgoing.c.call == bindparam("k")).limit(1)
_EVENTS = (
    select(outgoing)
    .where(outgoing.c.due <= bindparam("now"), outgoing.c.claimed_until <= bindparam("now"))
    .order_by(outgoing.c.due, outgoing.c.id)
    .limit(bindparam("most"))
)
_TRY = (
    update(outgoing)
    .where(among(outgoing.c.id))
    .values(claimed_until=bindparam("until"), attempts=outgoing.c.attempts + 1)
)
_SETTLE = delete(outgoing).where(outgoing.c.id == bindparam("k")).returning(outgoing.c.call)
_NEXT = update(outgoing).where(outgoing.c.id == first_of(bindparam("k")), outgoing.c.due == FOREVER).values(due=0.0)
_POSTPONE = update(outgoing).where(outgoing.c.id == bindparam("k")).values(due=bindparam("at"), claimed_until=0.0)

# ---------------------------------------------------------------- hang-ups


def hang_up_due(
    db: Connection, ref: CallRef, reason: str, now: float, not_before: float | None, claim_s: float
) -> bool:
    key = f"{ref.carrier}/{ref.call_id}"
    row = row_of(db, key, now)
    at = now if not_before is None else not_before
    wanted, values = due(row, reason, now, at, max(at, now) + claim_s if claim_s else 0.0)
    if ref.account_id:
        values["account_id"] = ref.account_id
    if ref.extra:
        values["extra"] = to_json({**from_json(row.extra), **ref.extra})
    change(db, calls, key, values)
    return wanted


def hang_ups(db: Connection, now: float, limit: int, claim_s: float) -> Sequence[PendingHangUp]:
    rows = db.execute(_DUE, {"now": now, "most": limit}).all()
    over: dict[HangUp, list[str]] = {}  # reported while somebody was at it who did not finish
    for row in rows:
        if row.phase in _FINAL:
            over.setdefault(HangUp.unneeded(row.hang_up_reason), []).append(row.key)
    for outcome, keys in over.items():
        db.execute(_UNNEEDED, {"keys": keys, "outcome": outcome.value})
    rows = [row for row in rows if row.phase not in _FINAL]
    until = now + claim_s
    if rows:
        db.execute(_ATTEMPT, {"keys": [row.key for row in rows], "until": until})
    found = []
    for row in rows:
        carrier, call_id = CallKey.parse(row.key)
        ref = CallRef(carrier=carrier, call_id=call_id, account_id=row.account_id, extra=from_json(row.extra))
        found.append(
            PendingHangUp(
                ref=ref,
                reason=row.hang_up_reason,
                attempts=row.hang_up_attempts + 1,
                since=row.hang_up_since,
                claimed_until=until,
            )
        )
    return found


def hang_up_result(
    db: Connection, key: CallKey, outcome: HangUp, now: float, detail: str, retry_at: float | None
) -> None:
    row = row_of(db, str(key), now)
    if row.hang_up == HangUp.DONE.value or (row.hang_up == HangUp.ALREADY_OVER.value and outcome is not HangUp.DONE):
        return
    if outcome in (HangUp.PENDING, HangUp.FAILED) and row.phase in _FINAL:
        outcome = HangUp.unneeded(row.hang_up_reason)
    values: Values = {"hang_up": outcome.value, "hang_up_detail": detail[:200], "claimed_until": 0.0}
    if outcome is HangUp.PENDING:
        values["hang_up_at"] = now if retry_at is None else retry_at
    if outcome in _SETTLED and row.ended is None and row.standing != Standing.LIVE.value:
        reason = row.reason or row.hang_up_reason or ("transferred" if row.wish else "")
        values |= {"ended": now, "ended_by": row.ended_by or "gateway", "reason": reason}
        if row.standing in AWAITED:  # the carrier was about to open a socket
            values["standing"] = Standing.ENDED.value
            free(db, str(key))
    change(db, calls, str(key), values)


# ---------------------------------------------------------------- wishes


def wish(db: Connection, key: CallKey, target: str) -> None:
    change(db, calls, str(key), {"wish": target, "wish_taken": None})


def take_wish(db: Connection, key: CallKey, now: float) -> str | None:
    row = db.execute(_WISH, {"k": str(key)}).first()
    if row is None or not row.wish:
        return None
    if row.wish_taken is None:
        change(db, calls, str(key), {"wish_taken": now})
    elif now - row.wish_taken > REPEAT_S:
        return None
    return str(row.wish)


# ---------------------------------------------------------------- once


def once(db: Connection, asked: Sequence[tuple[str, float, float, str, float]]) -> Sequence[bool]:
    """Of each question (key, now, ttl_s, holder, repeat_s) whether it is the first."""
    if len(asked) == 1:
        rows = db.execute(_USED_ONE, {"keys": asked[0][0]})
    else:
        rows = db.execute(_USED_MANY, {"keys": [question[0] for question in asked]})
    seen: dict[str, Values] = {row["key"]: dict(row) for row in rows.mappings()}
    taken: dict[str, Values] = {}
    answers = []
    for key, now, ttl_s, holder, repeat_s in asked:
        before = seen.get(key)
        if before is None or before["until"] <= now:
            taken[key] = seen[key] = {"key": key, "holder": holder, "at": now, "until": now + max(ttl_s, repeat_s)}
            answers.append(True)
        else:
            answers.append(bool(holder) and before["holder"] == holder and now - before["at"] <= repeat_s)
    put(db, used, list(taken.values()))
    return answers


# ---------------------------------------------------------------- events for the user's URL


def events_waiting(db: Connection) -> int:
    return int(db.execute(_WAITING).scalar_one())


def enqueue(db: Connection, body: bytes, now: float, call: str) -> None:
    """The events of one call go one after the other: only its first is ever due."""
    waits = bool(call) and db.execute(_EARLIER, {"k": call}).first() is not None
    row = {"call": call, "body": body, "created": now, "due": FOREVER if waits else now}
    db.execute(outgoing.insert(), row)


def events(db: Connection, now: float, limit: int, claim_s: float) -> Sequence[OutgoingEvent]:
    rows = db.execute(_EVENTS, {"now": now, "most": limit}).all()
    if rows:
        db.execute(_TRY, {"keys": [row.id for row in rows], "until": now + claim_s})
    return [
        OutgoingEvent(id=row.id, call=row.call, body=row.body, created=row.created, attempts=row.attempts + 1)
        for row in rows
    ]


def settle(db: Connection, event_id: int) -> bool:
    """This event is done with: the next of its call is due. False: it was settled before."""
    call = db.execute(_SETTLE, {"k": event_id}).scalar()
    if call:
        db.execute(_NEXT, {"k": call})
    return call is not None


def postpone(db: Connection, event_id: int, until: float) -> None:
    db.execute(_POSTPONE, {"k": event_id, "at": until})
