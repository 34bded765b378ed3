"""One row per call, and what the carrier said of it."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, or_, select, tuple_, update

from gateway.records import CallRecord
from gateway.sql.tables import (
    HANG_UP_PENDING,
    UNFINISHED,
    Values,
    add,
    among,
    calls,
    change,
    from_json,
    from_lines,
    reports,
    slots,
    to_json,
    to_lines,
    transcripts,
    used,
    workers,
)
from gateway.store import CallFilter, CallKey, Folded, HangUp, Page, Report, Standing, StoredCall, Worker
from gateway.transcript import Line
from media.call import CallInfo
from webhooks.base import AnsweredBy, CallPhase, CallStatus, CarrierEvent, InboundCall, StreamStatus

FINAL = frozenset(phase for phase in CallPhase if phase.final)
_RANK = {phase.value: 3 if phase.final else rank for rank, phase in enumerate(CallPhase)} | {"": -1}
# A hang-up may be asked for where none is under way: a second one would be the carrier's to refuse.
_MAY_HANG_UP = frozenset({HangUp.NONE.value, HangUp.FAILED.value, HangUp.LEFT_TO_CARRIER.value})
_UNENDED = frozenset({Standing.DIALLING, Standing.EXPECTED, Standing.LIVE})
AWAITED = (Standing.EXPECTED.value, Standing.DIALLING.value)
_HERE = calls.c.key == bindparam("k")
_ROW = select(calls).where(_HERE)
_EXISTS = select(calls.c.key).where(_HERE)
_CLAIM = update(calls).where(among(calls.c.key)).values(claimed_until=bindparam("until"))
_FREE = delete(slots).where(slots.c.key == bindparam("k"))
_ENDPOINT = select(workers.c.endpoint).where(workers.c.id == bindparam("k"), workers.c.until > bindparam("now"))
_REPORTS = (
    select(reports.c.at, reports.c.kind, reports.c.key, reports.c.content)
    .where(reports.c.call == bindparam("k"))
    .order_by(reports.c.at, reports.c.key)
)
_TRANSCRIPT = select(transcripts.c.lines).where(transcripts.c.call == bindparam("k"))
_KINDS: dict[type, str] = {CallStatus: "status", StreamStatus: "stream", AnsweredBy: "answered-by"}
_JSON = ("counters", "variables", "parameters", "extra")
_PLAIN = tuple(
    field.name
    for field in dataclasses.fields(StoredCall)
    if field.name not in ("key", "standing", "phase", "hang_up", *_JSON)
)


def key_of(call: InboundCall | CarrierEvent) -> str:
    return f"{call.carrier}/{call.call_id}"


def stored(row: Row[Any]) -> StoredCall:
    values = row._mapping
    return StoredCall(
        key=CallKey.parse(values["key"]),
        standing=Standing(values["standing"]),
        phase=CallPhase(values["phase"]) if values["phase"] else None,
        hang_up=HangUp(values["hang_up"]),
        **{name: from_json(values[name]) for name in _JSON},  # type: ignore[arg-type]
        **{name: values[name] for name in _PLAIN},
    )


def read_call(db: Connection, key: CallKey) -> StoredCall | None:
    row = db.execute(_ROW, {"k": str(key)}).first()
    return stored(row) if row is not None else None


def exists(db: Connection, key: str) -> bool:
    return db.execute(_EXISTS, {"k": key}).first() is not None


def free(db: Connection, key: str) -> None:
    """Nobody has the call's slot any more."""
    db.execute(_FREE, {"k": key})


def claim(db: Connection, keys: Sequence[str], until: float) -> None:
    if keys:
        db.execute(_CLAIM, {"keys": keys, "until": until})


def row_of(db: Connection, key: str, now: float, standing: Standing = Standing.REPORTED) -> Row[Any]:
    """The call's row, made if there is none."""
    row = db.execute(_ROW, {"k": key}).first()
    if row is None:
        carrier = CallKey.parse(key).carrier
        add(db, calls, {"key": key, "carrier": carrier, "standing": standing.value, "created": now})
        row = db.execute(_ROW, {"k": key}).one()
    return row


def _of(info: CallInfo) -> Values:
    """What is known of a call by now, without what is not."""
    known: Values = {name: getattr(info, name) for name in ("account_id", "from_number", "to_number", "direction")}
    known |= {"parameters": to_json(info.parameters), "extra": to_json({k: str(v) for k, v in info.extra.items()})}
    return {name: value for name, value in known.items() if value}


# ---------------------------------------------------------------- the session's word


def started(db: Connection, key: CallKey, info: CallInfo, bot: str, now: float) -> None:
    row = row_of(db, str(key), now, Standing.LIVE)
    values = _of(info) | {"bot": bot}
    if row.account_id:
        values.pop("account_id", None)  # the webhook's is the one that requests name: Telnyx' streams tell another
    if row.extra:
        values["extra"] = to_json({**from_json(row.extra), **from_json(values.get("extra", ""))})
    if row.answered is None:
        values["answered"] = now
    change(db, calls, str(key), values)


def ended(db: Connection, key: CallKey, record: CallRecord, now: float, hang_up: HangUp, worker: str) -> bool:
    row = row_of(db, str(key), now - record.duration_s)
    if worker and row.worker not in ("", worker):
        return False
    values = _of(record.info)
    values.pop("extra", None)  # `started` has it
    values |= {
        "standing": Standing.ENDED.value,
        "ended": now,
        "bot": record.bot or row.bot,
        "state": record.state,
        "ended_by": record.ended_by,
        "reason": record.reason,
        "duration_s": record.duration_s,
        "counters": to_json(record.counters),
        "variables": to_json(record.variables),
    }
    if record.answered_by and row.answered_by in ("", "unknown"):
        values["answered_by"] = record.answered_by  # what the bot has found out; the carrier's own word stands
    if hang_up is HangUp.PENDING:
        values |= due(row, record.reason, now, now)[1]
    elif hang_up is not HangUp.NONE and row.hang_up == HangUp.NONE.value:
        values["hang_up"] = hang_up.value
    change(db, calls, str(key), values)
    if record.transcript:
        add(db, transcripts, {"call": str(key), "lines": to_lines(record.transcript)})
    free(db, str(key))
    return True


def due(row: Row[Any], reason: str, now: float, not_before: float, claimed_until: float = 0.0) -> tuple[bool, Values]:
    """Whether a hang-up of this call is to be executed, and what its row becomes."""
    if row.hang_up not in _MAY_HANG_UP:
        return False, {}
    if _RANK[row.phase] == 3:
        return False, {"hang_up": HangUp.unneeded(reason).value, "hang_up_reason": reason}
    return True, {
        "hang_up": HangUp.PENDING.value,
        "hang_up_reason": reason,
        "hang_up_since": now,
        "hang_up_at": not_before,
        "hang_up_attempts": 1 if claimed_until else 0,
        "claimed_until": claimed_until,
    }


# ---------------------------------------------------------------- the carrier's word


def fold(db: Connection, event: CarrierEvent, now: float) -> Folded:
    key = key_of(event)
    content = {
        name: value.value if isinstance(value, CallPhase) else value
        for name, value in asdict(event).items()
        if name not in ("carrier", "call_id", "key") and value
    }
    report = {"call": key, "key": event.key, "at": now, "kind": _KINDS[type(event)], "content": to_json(content)}
    new = add(db, reports, report)
    row = row_of(db, key, now)
    values: Values = {}
    if new:
        values = _FOLDS[type(event)](row, event, now)
        change(db, calls, key, values)
        if values.get("ended") is not None or values.get("standing") == Standing.NEVER_CAME.value:
            free(db, key)
    phase, standing = values.get("phase", row.phase), Standing(values.get("standing", row.standing))
    owner = None
    if standing is Standing.LIVE and row.worker:
        found = db.execute(_ENDPOINT, {"k": row.worker, "now": now}).scalar()
        owner = Worker(row.worker, found) if found is not None else None
    return Folded(new=new, phase=CallPhase(phase) if phase else None, standing=standing, owner=owner)


def _fold_status(row: Row[Any], status: CallStatus, now: float) -> Values:
    values: Values = {}
    if status.phase is CallPhase.ANSWERED and row.answered is None:
        values["answered"] = now
    if status.phase.final:
        # A second final report may know more than the first, but it does not change the verdict.
        if status.cause and not row.cause:
            values["cause"] = status.cause
        if status.duration_s is not None and row.carrier_duration_s is None:
            values["carrier_duration_s"] = status.duration_s
    if _RANK[status.phase.value] <= _RANK[row.phase]:
        return values
    values["phase"] = status.phase.value
    if not status.phase.final:
        return values
    if row.hang_up == HangUp.PENDING.value and row.claimed_until <= now:
        values["hang_up"] = HangUp.unneeded(row.hang_up_reason).value  # one that is being executed finds out for itself
    if row.standing != Standing.LIVE.value and row.ended is None:
        values["ended"] = now
        values["ended_by"] = row.ended_by or status.ended_by or "carrier"
        values["reason"] = row.reason or status.cause or status.phase.value
        if row.standing not in (Standing.NEVER_CAME.value, Standing.LOST.value):
            values["standing"] = Standing.ENDED.value
    return values


def _fold_stream(row: Row[Any], status: StreamStatus, now: float) -> Values:
    if status.what != "failed":
        return {}
    values: Values = {"stream_problem": (status.problem or status.what)[:200]}
    if row.ended is None and row.standing in AWAITED:
        values["standing"] = Standing.NEVER_CAME.value  # the carrier could not reach our socket: nobody will come
    return values


def _fold_answered_by(row: Row[Any], answered: AnsweredBy, now: float) -> Values:
    return {"answered_by": answered.who, "answered_detail": answered.detail}


_FOLDS: dict[type, Any] = {CallStatus: _fold_status, StreamStatus: _fold_stream, AnsweredBy: _fold_answered_by}


def read_transcript(db: Connection, key: CallKey) -> tuple[Line, ...]:
    lines = db.execute(_TRANSCRIPT, {"k": str(key)}).scalar()
    return () if lines is None else from_lines(lines)


def read_reports(db: Connection, key: CallKey) -> Sequence[Report]:
    found = db.execute(_REPORTS, {"k": str(key)})
    return [Report(row.at, row.kind, row.key, from_json(row.content)) for row in found]


# ---------------------------------------------------------------- reading and forgetting


def records(db: Connection, which: CallFilter, limit: int, after: tuple[float, str] | None) -> Page:
    wanted = select(calls)
    for name in ("carrier", "bot", "direction", "worker", "ended_by", "reason"):
        if value := getattr(which, name):
            wanted = wanted.where(calls.c[name] == value)
    if which.standing:
        wanted = wanted.where(calls.c.standing.in_([standing.value for standing in which.standing]))
        if _UNENDED.issuperset(which.standing):
            wanted = wanted.where(UNFINISHED)  # says nothing new, but there is an index of these
    if which.hang_up:
        wanted = wanted.where(calls.c.hang_up.in_([hang_up.value for hang_up in which.hang_up]))
    if which.since is not None:
        wanted = wanted.where(calls.c.created >= which.since)
    if which.until is not None:
        wanted = wanted.where(calls.c.created < which.until)
    if after is not None:
        wanted = wanted.where(tuple_(calls.c.created, calls.c.key) < after)
    newest = wanted.order_by(calls.c.created.desc(), calls.c.key.desc()).limit(limit + 1)
    # Of either side: one after the other, each by its index, is far less work than both in one question.
    sides = (calls.c.from_number, calls.c.to_number) if which.number else ()
    questions = [newest.where(side == which.number) for side in sides] or [newest]
    rows = {row.key: row for question in questions for row in db.execute(question)}
    found = sorted(rows.values(), key=lambda row: (row.created, row.key), reverse=True)
    page = [stored(row) for row in found[:limit]]
    return Page(page, cursor(page[-1]) if len(found) > limit else "")


def cursor(call: StoredCall) -> str:
    return base64.urlsafe_b64encode(f"{call.created!r} {call.key}".encode()).decode()


def position(text: str) -> tuple[float, str] | None:
    """Where `cursor` points. ValueError if it is none."""
    if not text:
        return None
    try:
        created, space, key = base64.b64decode(text.encode(), altchars=b"-_", validate=True).decode().partition(" ")
    except (binascii.Error, UnicodeError):
        raise ValueError("not a page of records") from None
    at = float(created) if space else math.nan
    if not math.isfinite(at):
        raise ValueError("not a page of records")
    return at, key


def prune(db: Connection, now: float, keep_s: float, limit: int) -> int:
    before = now - keep_s
    unheard = calls.c.standing == Standing.REPORTED.value
    # A call that ended before then began before then: that has an index.
    old = (
        select(calls.c.key)
        .where(calls.c.created < before, or_(calls.c.ended < before, unheard), ~HANG_UP_PENDING)
        .order_by(calls.c.created)
        .limit(limit)
    )
    keys = list(db.execute(old).scalars())
    gone = 0
    if keys:
        db.execute(delete(reports).where(reports.c.call.in_(keys)))
        db.execute(delete(transcripts).where(transcripts.c.call.in_(keys)))
        gone += db.execute(delete(calls).where(calls.c.key.in_(keys))).rowcount
    expired = list(db.execute(select(used.c.key).where(used.c.until <= now).limit(limit)).scalars())
    if expired:
        gone += db.execute(delete(used).where(used.c.key.in_(expired))).rowcount
    return gone
