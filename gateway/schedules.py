"""[schedules.<name>]: opening hours in a time zone, with holidays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import cached_property
from typing import Annotated
from zoneinfo import ZoneInfo

from annotated_types import MinLen

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """[schedules.<name>]: when somebody is there."""

    time_zone: str  # "Europe/Berlin"
    open: Annotated[
        Mapping[str, tuple[str, ...]], MinLen(1)
    ]  # by day or days: mon-fri = ["09:00-12:30", "13:00-17:00"]
    holidays: tuple[str, ...] = ()  # closed: 2026-12-25, or "12-25" for every year
    special: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # of one day, over all else: 2026-12-24 = [...]

    def __post_init__(self) -> None:
        try:
            _ = self._zone
        except (ValueError, OSError, LookupError):
            raise ValueError(f'time_zone {self.time_zone!r} is not known: write one like "Europe/Berlin"') from None
        _ = self._week
        for day in self.holidays:
            _check_day(day, "holidays", yearly=True)
        for day, spans in self.special.items():
            _check_day(day, "special")
            _check_spans(spans, f"special.{day}")

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @cached_property
    def _week(self) -> Mapping[str, tuple[str, ...]]:
        week: dict[str, tuple[str, ...]] = {}
        for key, spans in self.open.items():
            _check_spans(spans, f"open.{key}")
            for day in _days(key):
                week[day] = (*week.get(day, ()), *spans)
        return week

    def judge(self, at: datetime) -> tuple[bool, str]:
        """Whether it is open at `at` (aware), and by which rule."""
        local = at.astimezone(self._zone)
        day, now = local.date().isoformat(), local.time()
        when = f"{DAYS[local.weekday()]} {day} {now:%H:%M} in {self.time_zone}"
        if day in self.special:
            return _within(now, self.special[day]), f"{when}, which special names"
        if day in self.holidays or day[5:] in self.holidays:
            return False, f"{when}, a holiday"
        return _within(now, self._week.get(DAYS[local.weekday()], ())), when


def _days(key: str) -> Iterator[str]:
    first, dash, last = key.partition("-")
    if first not in DAYS or (dash and last not in DAYS):
        raise ValueError(f'open.{key} is no day: write mon ... sun, or mon-fri = ["09:00-17:00"]')
    at = DAYS.index(first)
    yield first
    while dash and DAYS[at] != last:
        at = (at + 1) % 7
        yield DAYS[at]


def _check_spans(spans: tuple[str, ...], where: str) -> None:
    for span in spans:
        start, _, end = span.partition("-")
        if not _SPAN.fullmatch(span) or start >= end:
            raise ValueError(f'{where}: hours are like "09:00-17:30", up to "24:00"; a night is two days\' hours')


def _check_day(day: str, where: str, *, yearly: bool = False) -> None:
    try:
        date.fromisoformat(f"2024-{day}" if yearly and len(day) == 5 else day)
    except ValueError:
        also = ', or "12-25" for every year' if yearly else ""
        raise ValueError(f"{where}: days are like 2026-12-25{also}") from None


def _within(now: time, spans: tuple[str, ...]) -> bool:
    text = f"{now:%H:%M}"
    return any(start <= text < end for start, _, end in (span.partition("-") for span in spans))
