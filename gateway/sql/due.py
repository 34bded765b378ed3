"""What is still to be done, by whoever comes first, and what may be done only once."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, select, update

from gateway.sql.records import FINAL, change, due, row_of
from gateway.sql.tables import FOREVER, HANG_UP_PENDING, Values, calls, from_json, outgoing, put, to_json, used
from gateway.store import CLAIM_S, REPEAT_S, CallKey, HangUp, OutgoingEvent, PendingHangUp, Standing
from webhooks.base import CallRef

_FINAL = frozenset(phase.value for phase in FINAL)
_SETTLED = frozenset({HangUp.DONE, HangUp.ALREADY_OVER})

# ---------------------------------------------------------------- hang-ups


def hang_up_due(db: Connection, ref: CallRef, reason: str, now: float, not_before: float | None, claim: bool) -> bool:
    key = f"{ref.carrier}/{ref.call_id}"
    row = row_of(db, key, now)
    at = now if not_before is None else not_before
    wanted, values = due(row, reason, now, at, max(at, now) + CLAIM_S if claim else 0.0)
    if ref.account_id:
        values["account_id"] = ref.account_id
    if ref.extra:
        values["extra"] = to_json({**from_json(row.extra), **ref.extra})
    change(db, key, values)
    return wanted


def hang_ups(db: Connection, now: float, limit: int, claim_s: float) -> Sequence[PendingHangUp]:
    rows = db.execute(
        select(calls)
        .where(HANG_UP_PENDING, calls.c.hang_up_at <= now, calls.c.claimed_until <= now)
        .order_by(calls.c.hang_up_at)
        .limit(limit)
    ).all()
    over = [row.key for row in rows if row.phase in _FINAL]  # reported while somebody was at it who did not finish
    if over:
        db.execute(update(calls).where(calls.c.key.in_(over)).values(hang_up=HangUp.ALREADY_OVER.value))
    rows = [row for row in rows if row.phase not in _FINAL]
    until = now + claim_s
    if rows:
        db.execute(
            update(calls)
            .where(calls.c.key.in_([row.key for row in rows]))
            .values(claimed_until=until, hang_up_attempts=calls.c.hang_up_attempts + 1)
        )
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
        outcome = HangUp.ALREADY_OVER
    values: Values = {"hang_up": outcome.value, "hang_up_detail": detail[:200], "claimed_until": 0.0}
    if outcome is HangUp.PENDING:
        values["hang_up_at"] = now if retry_at is None else retry_at
    if outcome in _SETTLED and row.ended is None and row.standing != Standing.LIVE.value:
        values |= {"ended": now, "ended_by": row.ended_by or "gateway", "reason": row.reason or row.hang_up_reason}
    change(db, str(key), values)


# ---------------------------------------------------------------- wishes


def wish(db: Connection, key: CallKey, target: str) -> None:
    change(db, str(key), {"wish": target, "wish_taken": None})


def take_wish(db: Connection, key: CallKey, now: float) -> str | None:
    row = db.execute(select(calls.c.wish, calls.c.wish_taken).where(calls.c.key == str(key))).first()
    if row is None or not row.wish:
        return None
    if row.wish_taken is None:
        change(db, str(key), {"wish_taken": now})
    elif now - row.wish_taken > REPEAT_S:
        return None
    return str(row.wish)


# ---------------------------------------------------------------- once


def once(db: Connection, asked: Sequence[tuple[str, float, float, str, float]]) -> Sequence[bool]:
    """Of each question (key, now, ttl_s, holder, repeat_s) whether it is the first."""
    rows = db.execute(select(used).where(used.c.key.in_({question[0] for question in asked})))
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
    return int(db.execute(select(func.count()).select_from(outgoing)).scalar_one())


def enqueue(db: Connection, body: bytes, now: float, call: str) -> None:
    """The events of one call go one after the other: only its first is ever due."""
    earlier = call and db.execute(select(outgoing.c.id).where(outgoing.c.call == call).limit(1)).first()
    row = {"call": call, "body": body, "created": now, "due": FOREVER if earlier else now}
    db.execute(outgoing.insert(), row)


def events(db: Connection, now: float, limit: int, claim_s: float) -> Sequence[OutgoingEvent]:
    rows = db.execute(
        select(outgoing)
        .where(outgoing.c.due <= now, outgoing.c.claimed_until <= now)
        .order_by(outgoing.c.due, outgoing.c.id)
        .limit(limit)
    ).all()
    if rows:
        db.execute(
            update(outgoing)
            .where(outgoing.c.id.in_([row.id for row in rows]))
            .values(claimed_until=now + claim_s, attempts=outgoing.c.attempts + 1)
        )
    return [
        OutgoingEvent(id=row.id, call=row.call, body=row.body, created=row.created, attempts=row.attempts + 1)
        for row in rows
    ]


def settle(db: Connection, event_id: int) -> bool:
    """This event is done with: the next of its call is due. False: it was settled before."""
    call = db.execute(delete(outgoing).where(outgoing.c.id == event_id).returning(outgoing.c.call)).scalar()
    if call:
        first = select(func.min(outgoing.c.id)).where(outgoing.c.call == call).scalar_subquery()
        db.execute(update(outgoing).where(outgoing.c.id == first, outgoing.c.due == FOREVER).values(due=0.0))
    return call is not None


def postpone(db: Connection, event_id: int, until: float) -> None:
    db.execute(update(outgoing).where(outgoing.c.id == event_id).values(due=until, claimed_until=0.0))
