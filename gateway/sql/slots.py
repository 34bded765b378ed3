"""Admission, and whose a call is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, bindparam, case, delete, func, literal_column, select, update

from gateway.sql.records import FINAL, claim, exists, key_of, read_call, stored
from gateway.sql.tables import (
    FOREVER,
    HANG_UP_PENDING,
    UNFINISHED,
    Values,
    add,
    among,
    calls,
    change,
    first_of,
    from_json,
    outgoing,
    put,
    reports,
    slots,
    to_json,
    transcripts,
    workers,
)
from gateway.store import (
    IN_DOUBT,
    LEASE_S,
    Admitted,
    CallKey,
    Caps,
    Connected,
    HangUp,
    Refused,
    Standing,
    StoredCall,
    Usage,
    Worker,
)
from webhooks.base import InboundCall

_FINAL = tuple(phase.value for phase in FINAL)
_BLANK = (None, "", 0, "none")
_UNDECIDED = (HangUp.NONE.value, HangUp.PENDING.value)
_NEW = (False, False, 0.0)  # of a call without a row: see `_known`
# A slot that is gone before its call: what the call was, what it is then, and why, unless somebody knows better.
_ABANDONED = (
    ((Standing.EXPECTED.value, Standing.DIALLING.value), Standing.NEVER_CAME.value, ""),
    ((Standing.LIVE.value,), Standing.LOST.value, "process-died"),
)

_THE_SLOT = slots.c.key == bindparam("k")
_RESERVED = slots.c.worker == literal_column("''")
_ALIVE = workers.c.until > bindparam("now")
_COUNT = (
    select(slots.c.carrier, slots.c.number, func.count())
    .where(slots.c.until > bindparam("now"))
    .group_by(slots.c.carrier, slots.c.number)
)
_COUNT_RESERVED = select(func.count()).where(_RESERVED, slots.c.until > bindparam("now"))
_KNOWN = select(
    calls.c.key,
    calls.c.standing,
    calls.c.ended,
    calls.c.phase,
    calls.c.hang_up,
    calls.c.hang_up_reason,
    slots.c.until,
).outerjoin_from(calls, slots, calls.c.key == slots.c.key)
_KNOWN_ONE, _KNOWN_MANY = _KNOWN.where(calls.c.key == bindparam("keys")), _KNOWN.where(among(calls.c.key))
_SLOT = select(slots.c.worker, slots.c.until).where(_THE_SLOT)
_EXPIRED = select(slots.c.key).where(_RESERVED, slots.c.until <= bindparam("now"))
_SLOTS_OF = select(slots.c.key).where(slots.c.worker == bindparam("w"))
_FREE = delete(slots).where(among(slots.c.key))
_FORGET = delete(calls).where(calls.c.key == bindparam("k"))
_FORSAKE = [
    update(calls)
    .where(among(calls.c.key), UNFINISHED, calls.c.standing.in_(before))
    .values(standing=after, reason=case((calls.c.reason == "", reason), else_=calls.c.reason))
    for before, after, reason in _ABANDONED
]
# The carrier has already said that these are over.
_CLOSE = (
    update(calls)
    .where(among(calls.c.key), UNFINISHED, calls.c.phase.in_(_FINAL))
    .values(ended=bindparam("now"), ended_by="carrier")
)
_LEASE = select(workers.c.since, workers.c.until, workers.c.lease_s).where(workers.c.id == bindparam("k"))
_BURY = delete(workers).where(workers.c.id == bindparam("k"))
_DEAD = select(workers.c.id).where(workers.c.until < bindparam("now"))
_UNKNOWN = select(slots.c.worker).distinct().where(~_RESERVED, slots.c.worker.not_in(select(workers.c.id)))
_EXTRA = select(calls.c.extra).where(calls.c.key == bindparam("k"))
_NAMESAKES = select(calls).where(among(calls.c.key))
_FORGET_ALL = delete(calls).where(among(calls.c.key))
_RENAMES = [
    update(table).where(table.c.call == bindparam("k")).values(call=bindparam("name"))
    for table in (reports, transcripts, outgoing)
]
_RENAME_SLOT = update(slots).where(_THE_SLOT).values(key=bindparam("name"))
_QUEUE_UP = (
    update(outgoing)
    .where(outgoing.c.call == bindparam("k"), outgoing.c.id > first_of(bindparam("k")))
    .values(due=FOREVER)
)
_WORKERS = select(workers.c.id, workers.c.endpoint).where(_ALIVE).order_by(workers.c.id)
_OWNER = select(workers.c.id, workers.c.endpoint).where(_THE_SLOT, slots.c.worker == workers.c.id, _ALIVE)
_ORPHANS = (
    select(calls)
    .where(UNFINISHED, ~HANG_UP_PENDING, calls.c.claimed_until <= bindparam("now"))
    .where(calls.c.standing.in_([after for _, after, _ in _ABANDONED]))
    .order_by(calls.c.created)
    .limit(bindparam("most"))
)

Question = tuple[InboundCall, Caps, float, str, str, float]  # call, caps, now, bot, number, ttl_s


def admit(db: Connection, asked: Sequence[Question]) -> Sequence[Admitted | Refused]:
    """All who ask at once: the slots are counted once, and what is given out is counted along."""
    known = _known(db, {key_of(question[0]) for question in asked})
    total, by_carrier, by_number = _taken(db, min(question[2] for question in asked))
    answers: list[Admitted | Refused] = []
    put_calls: dict[str, Values] = {}
    put_slots: dict[str, Values] = {}
    learned: dict[str, dict[str, str]] = {}
    for call, caps, now, bot, number, ttl_s in asked:
        key = key_of(call)
        over, may_return, until = known.get(key, _NEW)
        if over and not (may_return and call.again):
            answers.append(Refused("over"))
            continue
        if until > now:
            answers.append(Admitted(until, repeated=True))
            if call.extra:
                learned.setdefault(key, {}).update(call.extra)  # a placed call brings its region only now
            continue
        reason = ""
        if caps.number is not None and by_number[number] >= caps.number:
            reason = "number-full"
        elif caps.carrier is not None and by_carrier[call.carrier] >= caps.carrier:
            reason = "carrier-full"
        elif caps.gateway is not None and total >= caps.gateway:
            reason = "full"
        if reason:
            answers.append(Refused(reason))
            put_calls[key] = _row(call, Standing.REFUSED, now, bot, reason)
            continue
        total += 1
        by_carrier[call.carrier] += 1
        by_number[number] += 1
        until = now + ttl_s
        known[key] = (False, False, until)
        dialled = call.direction == "outbound" and CallKey.parse(key).provisional
        put_calls[key] = _row(call, Standing.DIALLING if dialled else Standing.EXPECTED, now, bot)
        put_slots[key] = {"key": key, "carrier": call.carrier, "number": number, "worker": "", "until": until}
        answers.append(Admitted(until))
    put(db, calls, list(put_calls.values()))
    put(db, slots, list(put_slots.values()))
    for key, extra in learned.items():
        _learn(db, key, extra)
    return answers


def _known(db: Connection, keys: set[str]) -> dict[str, tuple[bool, bool, float]]:
    """Of the calls that have a row: whether they are over, or about to be; if so, whether only their socket broke and
    the carrier may open another; and until when they have a slot."""
    if len(keys) == 1:
        rows = db.execute(_KNOWN_ONE, {"keys": next(iter(keys))})
    else:
        rows = db.execute(_KNOWN_MANY, {"keys": list(keys)})
    refused = Standing.REFUSED.value
    return {
        row.key: (
            (row.ended is not None and row.standing != refused)
            or row.phase in _FINAL
            or _is_to_end(row.hang_up, row.hang_up_reason),
            row.phase not in _FINAL and row.hang_up in _UNDECIDED and row.hang_up_reason.startswith(IN_DOUBT),
            row.until or 0.0,
        )
        for row in rows
    }


def _is_to_end(hang_up: str, reason: str) -> bool:
    """Its end was wanted, and is being seen to: a carrier that asks meanwhile does not get another stream."""
    return hang_up == HangUp.PENDING.value and not reason.startswith(IN_DOUBT)


def _row(call: InboundCall, standing: Standing, now: float, bot: str, reason: str = "") -> Values:
    return {
        "key": key_of(call),
        "carrier": call.carrier,
        "standing": standing.value,
        "created": now,
        "ended": now if standing is Standing.REFUSED else None,
        "account_id": call.account_id,
        "direction": call.direction,
        "from_number": call.from_number,
        "to_number": call.to_number,
        "bot": bot,
        "reason": reason,
        "worker": "",
        "claimed_until": 0.0,
        "parameters": to_json(call.parameters),
        "extra": to_json(call.extra),
    }


def refused(db: Connection, call: InboundCall, reason: str, now: float, bot: str) -> None:
    over, _, until = _known(db, {key_of(call)}).get(key_of(call), _NEW)
    if not over and until <= now:  # a call that was here keeps its record
        put(db, calls, [_row(call, Standing.REFUSED, now, bot, reason)])


def _taken(db: Connection, now: float) -> tuple[int, Counter[str], Counter[str]]:
    """How many slots are, by carrier and by number."""
    by_carrier: Counter[str] = Counter()
    by_number: Counter[str] = Counter()
    for carrier, number, count in db.execute(_COUNT, {"now": now}):
        by_carrier[carrier] += count
        by_number[number] += count
    return by_carrier.total(), by_carrier, by_number


def usage(db: Connection, now: float) -> Usage:
    total, by_carrier, by_number = _taken(db, now)
    reserved = db.execute(_COUNT_RESERVED, {"now": now}).scalar_one()
    return Usage(reserved=reserved, live=total - reserved, by_carrier=by_carrier, by_number=by_number)


def rename(db: Connection, key: CallKey, call_id: str, extra: Mapping[str, str]) -> bool:
    renamed = _rename(db, key, call_id)
    _learn(db, str(CallKey(key.carrier, call_id)), extra)
    return renamed


def _learn(db: Connection, key: str, extra: Mapping[str, str]) -> None:
    """What is to be known when the call is spoken of later."""
    if extra:
        known = from_json(db.execute(_EXTRA, {"k": key}).scalar() or "")
        change(db, calls, key, {"extra": to_json({**known, **extra})})


def _rename(db: Connection, key: CallKey, call_id: str) -> bool:
    names = (str(key), str(CallKey(key.carrier, call_id)))
    if names[0] == names[1]:
        return exists(db, names[0])
    found = {row["key"]: row for row in db.execute(_NAMESAKES, {"keys": names}).mappings()}
    old, new = (found.get(name) for name in names)
    if old is None:
        return False
    # What has happened under the new name stands, and what is blank in it comes from the old row; but where there
    # is nothing except reports, it is the other way round.
    if new is None or new["standing"] == Standing.REPORTED.value:
        first, second = old, new or old
    else:
        first, second = new, old
    row = {name: second.get(name) if value in _BLANK else value for name, value in first.items()}
    row["key"], row["created"] = names[1], min(call["created"] for call in found.values())
    db.execute(_FORGET_ALL, {"keys": names})
    db.execute(calls.insert(), row)
    for renames in _RENAMES:
        db.execute(renames, {"k": names[0], "name": names[1]})
    db.execute(_QUEUE_UP, {"k": names[1]})
    slot = db.execute(_SLOT, {"k": names[0]}).first()
    if slot is not None and (row["ended"] is not None or db.execute(_SLOT, {"k": names[1]}).first() is not None):
        db.execute(_FREE, {"keys": [names[0]]})
    elif slot is not None:
        db.execute(_RENAME_SLOT, {"k": names[0], "name": names[1]})
    return True


def connected(db: Connection, key: CallKey, worker: str, now: float) -> Connected | None:
    name = str(key)
    slot = db.execute(_SLOT, {"k": name}).first()
    if slot is None or slot.until <= now:
        return None
    call = read_call(db, key)
    if call is None or call.ended is not None:
        return None
    change(db, slots, name, {"worker": worker, "until": FOREVER})
    change(db, calls, name, {"worker": worker, "standing": Standing.LIVE.value})
    call = replace(call, worker=worker, standing=Standing.LIVE)
    return Connected(call, slot.worker if slot.worker != worker else "")


def release(db: Connection, key: CallKey, worker: str) -> None:
    slot = db.execute(_SLOT, {"k": str(key)}).first()
    if slot is not None and worker in ("", slot.worker):
        _abandon(db, [str(key)], 0.0)


def forget(db: Connection, key: CallKey) -> None:
    db.execute(_FREE, {"keys": [str(key)]})
    db.execute(_FORGET, {"k": str(key)})


def _abandon(db: Connection, keys: Sequence[str], now: float) -> None:
    """Free slots before their calls have ended."""
    if keys:
        db.execute(_FREE, {"keys": keys})
        for forsake in _FORSAKE:
            db.execute(forsake, {"keys": keys})
        db.execute(_CLOSE, {"keys": keys, "now": now})


# ---------------------------------------------------------------- workers


def renew(db: Connection, worker: Worker, now: float, lease_s: float) -> bool:
    before = db.execute(_LEASE, {"k": worker.id}).first()
    held = before is not None and before.until >= now and before.lease_s > 0
    since = before.since if before is not None and held else now
    row = {"id": worker.id, "endpoint": worker.endpoint, "since": since, "lease_s": lease_s, "until": now + lease_s}
    put(db, workers, [row])
    return held


def retire(db: Connection, worker: str, now: float) -> None:
    db.execute(_BURY, {"k": worker})
    _abandon(db, db.execute(_SLOTS_OF, {"w": worker}).scalars().all(), now)


def alive(db: Connection, now: float) -> Sequence[Worker]:
    return [Worker(*row) for row in db.execute(_WORKERS, {"now": now})]


def owner(db: Connection, key: CallKey, now: float) -> Worker | None:
    row = db.execute(_OWNER, {"k": str(key), "now": now}).first()
    return Worker(*row) if row is not None else None


def orphans(db: Connection, worker: str, now: float, limit: int, claim_s: float) -> Sequence[StoredCall]:
    _abandon(db, db.execute(_EXPIRED, {"now": now}).scalars().all(), now)
    for unknown in db.execute(_UNKNOWN).scalars().all():
        # It was taken for dead, but has taken a call since: it has one lease's time to say that it lives.
        add(db, workers, {"id": unknown, "since": now, "lease_s": 0.0, "until": now + LEASE_S})
    lease = db.execute(_LEASE, {"k": worker}).first()
    if lease is not None and lease.until >= now and now - lease.since >= lease.lease_s:
        for dead in db.execute(_DEAD, {"now": now}).scalars().all():
            retire(db, dead, now)
    found = [stored(row) for row in db.execute(_ORPHANS, {"now": now, "most": limit})]
    claim(db, [str(call.key) for call in found], now + claim_s)
    return found
