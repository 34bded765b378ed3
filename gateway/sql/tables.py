"""The tables, and how rows get in. Times are Unix seconds; texts are empty rather than null; JSON is text.

Statements are made once, with parameters: making one costs several times what executing it does.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    ScalarSelect,
    Table,
    Text,
    bindparam,
    case,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from gateway.transcript import Line

VERSION = 1  # of these tables; a database of another version is refused
FOREVER = 1e12  # a time that does not come
MAX_JSON = 65_536  # bytes; of a larger mapping the largest values are left out

Values = dict[str, Any]

metadata = MetaData()


def _word(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


calls = Table(
    "calls",
    metadata,
    # str(CallKey); sorted by code points, as Python does
    Column("key", Text().with_variant(Text(collation="C"), "postgresql"), primary_key=True),
    _word("standing"),
    Column("created", Float, nullable=False),
    Column("answered", Float),
    Column("ended", Float),
    _word("account_id"),
    _word("direction"),
    _word("from_number"),
    _word("to_number"),
    _word("bot"),
    _word("worker"),
    _word("state"),
    _word("ended_by"),
    _word("reason"),
    Column("duration_s", Float),
    _word("phase"),
    _word("cause"),
    Column("carrier_duration_s", Float),
    _word("answered_by"),
    _word("answered_detail"),
    _word("stream_problem"),
    Column("hang_up", Text, nullable=False, server_default="none"),
    _word("hang_up_reason"),
    Column("hang_up_attempts", Integer, nullable=False, server_default="0"),
    _word("hang_up_detail"),
    Column("hang_up_since", Float),
    Column("hang_up_at", Float),  # not before
    Column("claimed_until", Float, nullable=False, server_default="0"),  # a hang-up or an orphan is being seen to
    _word("parameters"),
    _word("counters"),
    _word("variables"),
    _word("extra"),
    _word("carrier"),
    _word("wish"),
    Column("wish_taken", Float),
    Index("calls_by_time", "created"),
    Index("calls_by_carrier", "carrier", "created"),
    Index("calls_by_bot", "bot", "created"),
    Index("calls_by_caller", "from_number", "created"),
    Index("calls_by_callee", "to_number", "created"),
)
UNFINISHED = calls.c.ended.is_(None)
HANG_UP_PENDING = calls.c.hang_up == literal_column("'pending'")  # a literal: else the index below is not used
# Few rows at any time, looked for every second.
Index(
    "calls_unfinished",
    calls.c.standing,
    calls.c.worker,
    sqlite_where=UNFINISHED,
    postgresql_where=UNFINISHED,
)
Index(
    "calls_to_hang_up",
    calls.c.hang_up_at,
    sqlite_where=HANG_UP_PENDING,
    postgresql_where=HANG_UP_PENDING,
)

# Each index is one more page to write at each commit: there are those that something looks through again and again.

# Only what is reserved or live now: small enough to be counted at each admission.
slots = Table(
    "slots",
    metadata,
    Column("key", Text, primary_key=True),
    _word("carrier"),
    _word("number"),
    _word("worker"),  # "": reserved
    Column("until", Float, nullable=False),  # of a reservation; a live slot has its worker's lease
    Index("slots_counted", "carrier", "number", "until"),  # all that admission looks at
    sqlite_with_rowid=False,
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    _word("endpoint"),
    Column("since", Float, nullable=False),  # the lease has held without a gap since then
    Column("lease_s", Float, nullable=False),
    Column("until", Float, nullable=False),
    sqlite_with_rowid=False,
)

transcripts = Table(
    "transcripts",
    metadata,
    Column("call", Text, primary_key=True),
    _word("lines"),
    sqlite_with_rowid=False,
)

reports = Table(
    "reports",
    metadata,
    Column("call", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("at", Float, nullable=False),
    _word("kind"),
    _word("content"),
    sqlite_with_rowid=False,
)

used = Table(
    "used",
    metadata,
    Column("key", Text, primary_key=True),
    _word("holder"),
    Column("at", Float, nullable=False),
    Column("until", Float, nullable=False),
    sqlite_with_rowid=False,
)

outgoing = Table(
    "outgoing",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    _word("call"),
    Column("body", LargeBinary, nullable=False),
    Column("created", Float, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due", Float, nullable=False),  # FOREVER: another of the same call goes first
    Column("claimed_until", Float, nullable=False, server_default="0"),
    Index("outgoing_by_time", "due"),
    Index("outgoing_by_call", "call", "id"),
    sqlite_autoincrement=True,
)

schema = Table("gateway_schema", metadata, Column("version", Integer, nullable=False))

# A call's row may exist before we hear who calls whom: what is known stays unless something better comes.
_KEEP = frozenset({"account_id", "direction", "from_number", "to_number", "bot", "parameters", "extra"})
_ONCE = frozenset({"created"})


@functools.cache
def _insertion(dialect: str, table: Table, columns: tuple[str, ...]) -> Any:
    insert = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table)
    changes: Values = {}
    for name in columns:
        if name in table.primary_key.columns or name in _ONCE:
            continue
        given, stored = insert.excluded[name], table.c[name]
        changes[name] = case((given != literal_column("''"), given), else_=stored) if name in _KEEP else given
    return insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=changes)


def put(db: Connection, table: Table, rows: Sequence[Values]) -> None:
    """Insert `rows`, or change those that exist in the columns given; all rows have the same columns."""
    if rows:
        db.execute(_insertion(db.dialect.name, table, tuple(rows[0])), list(rows))


@functools.cache
def _if_new(dialect: str, table: Table) -> Any:
    insert = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table)
    return insert.on_conflict_do_nothing().returning(*table.primary_key.columns)


def add(db: Connection, table: Table, row: Values) -> bool:
    """Insert `row`; False if there is one of that key."""
    return db.execute(_if_new(db.dialect.name, table), row).first() is not None


@functools.cache
def _change(table: Table, columns: tuple[str, ...]) -> Any:
    key = table.c.key == bindparam("its_key")
    return update(table).where(key).values({name: bindparam(name) for name in columns})


def change(db: Connection, table: Table, key: str, values: Values) -> None:
    """Change the row of that key, if there is one."""
    if values:
        db.execute(_change(table, tuple(values)), {**values, "its_key": key})


def among(column: Column[Any]) -> ColumnElement[bool]:
    """That a column is one of the parameter `keys`."""
    return column.in_(bindparam("keys", expanding=True))


def first_of(call: ColumnElement[str]) -> ScalarSelect[int]:
    """The id of the first event of a call that still waits."""
    return select(func.min(outgoing.c.id)).where(outgoing.c.call == call).scalar_subquery()


def to_json(values: Mapping[str, Any]) -> str:
    """A mapping as text; "" for an empty one. What JSON cannot say is said as its repr."""
    if not values:
        return ""
    text = _encode(values)
    if len(text) <= MAX_JSON:
        return text
    kept: Values = {"_left_out": sorted(values)[:100]}
    size = len(_encode(kept))
    for length, name in sorted((len(_encode(value)) + len(name) + 4, name) for name, value in values.items()):
        size += length
        if size > MAX_JSON:
            break
        kept[name] = values[name]
    kept["_left_out"] = [name for name in kept["_left_out"] if name not in kept]
    return _encode(kept)


def _encode(value: Any) -> str:
    try:
        return msgspec.json.encode(value, enc_hook=repr).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return json.dumps(repr(value)[:1000])


def to_lines(lines: Sequence[Line]) -> str:
    return msgspec.json.encode(lines).decode()


def from_lines(text: str) -> tuple[Line, ...]:
    return msgspec.json.decode(text, type=tuple[Line, ...])


def from_json(text: str) -> Values:
    value = msgspec.json.decode(text) if text else {}
    return value if isinstance(value, dict) else {"_unreadable": value}
