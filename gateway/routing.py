"""Which bot answers a call, and why."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from gateway.registry import readings
from media.variables import VariableRule

if TYPE_CHECKING:
    from gateway.settings import NumberEntry, Settings

_NONE: Mapping[str, VariableRule] = {}


@dataclass(frozen=True, slots=True)
class Route:
    """The bot that answers, and why."""

    bot_name: str  # of [bots.<bot_name>]
    matched_by: str  # "exact", "pattern", "prefix" or "default"
    key: str  # of [numbers."<key>"], as the file has it
    entry: NumberEntry | None = field(default=None, compare=False, repr=False)
    choice: str = field(default="", compare=False)  # why this of the number's bots

    @property
    def on_error(self) -> str | None:
        """The number's own, over the bot's."""
        return self.entry.on_error if self.entry is not None else None

    @property
    def account(self) -> str:
        """Whose calls alone the number takes; "": anybody's."""
        return self.entry.account if self.entry is not None else ""

    @property
    def transcript(self) -> bool | None:
        return self.entry.transcript if self.entry is not None else None

    @property
    def record(self) -> bool | None:
        """The number's own, over the bot's."""
        return self.entry.record if self.entry is not None else None

    @property
    def output_variables(self) -> Mapping[str, VariableRule]:
        """The number's own, beside the bot's."""
        return self.entry.output_variables if self.entry is not None else _NONE

    def chooses(self, bot: str) -> bool:
        """Whether `bot` is one that the number may have, now or at another hour."""
        return bot == self.bot_name or (self.entry is not None and bot in self.entry.chooses)

    @property
    def explanation(self) -> str:
        what = _MATCHES.get(self.matched_by, "takes every other number")
        why = f", {self.choice}" if self.choice else ""
        return f'[numbers."{self.key}"] {what}{why}: bot {self.bot_name}'


_MATCHES = {
    "exact": "is the number",
    "pattern": "is the first pattern that fits",
    "prefix": "is the longest prefix of the number",
}


def resolve(
    settings: Settings, carrier: str, to_number: str, *, call_id: str = "", at: datetime | None = None
) -> Route | None:
    """The bot for a call to `to_number`: the exact number, the first pattern, the longest prefix, the default, or None.

    Of two that fit equally well the one for this carrier alone counts. Carriers write the same number in different
    ways; each reasonable reading is tried. At the same moment the same `call_id` always gets the same bot.

    Args:
        at: aware; None: now.
    """
    for matched_by, name in _names(settings, carrier, to_number):
        if (entry := settings.numbers.get(name)) is not None:
            bot, choice = choose(settings, entry, call_id, at)
            return Route(bot, matched_by, entry.key, entry, choice)
    return None


def _names(settings: Settings, carrier: str, to_number: str) -> Iterator[tuple[str, str]]:
    """What may stand in [numbers] for this call, the most telling first; each with the kind of match."""
    candidates, scopes = tuple(readings(to_number)), (f"{carrier}:", "")
    for number in candidates:
        for scope in scopes:
            yield "exact", scope + number
    for scope in scopes:
        for name, entry in settings.numbers.items():
            own = entry.pattern and name.startswith(f"{scope}/")
            if own and any(pattern(entry.pattern).fullmatch(number) for number in candidates):
                yield "pattern", name
    for number in candidates:
        for length in range(len(number), -1, -1):
            for scope in scopes:
                yield "prefix", f"{scope}{number[:length]}*"
    for scope in scopes:
        yield "default", f"{scope}default"


@cache
def pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def choose(settings: Settings, entry: NumberEntry, call_id: str, at: datetime | None = None) -> tuple[str, str]:
    """Which of a number's bots, and why: by the hour, then by the call's share."""
    if entry.hours:
        is_open, when = settings.schedules[entry.hours].judge(at or datetime.now(UTC))
        if not is_open:
            return settings.variant(entry, entry.closed), f"closed by [schedules.{entry.hours}] ({when})"
        choice = f"open by [schedules.{entry.hours}] ({when})"
    else:
        choice = ""
    if entry.share:
        point, upto = share_of(entry.key, call_id), 0.0
        for bot, percent in entry.share.items():
            upto += percent
            if point < upto:
                return settings.variant(entry, bot), _and(choice, f"among the {percent:g} % of calls for {bot}")
        choice = _and(choice, f"among the other {100 - upto:g} % of calls")
    return settings.variant(entry, entry.bot), choice


def _and(one: str, other: str) -> str:
    return f"{one}, {other}" if one else other


def share_of(key: str, call_id: str) -> float:
    """0 to 100, evenly over calls, and always the same for one call: a carrier that tries again gets the same bot."""
    digest = hashlib.blake2b(f"{key}\0{call_id}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 * 100


# ---------------------------------------------------------------- explaining


@dataclass(frozen=True, slots=True)
class Considered:
    """A rule of [numbers] and what was found about it."""

    key: str
    matched: bool
    why: str


def explain(
    settings: Settings, carrier: str, to_number: str, *, call_id: str = "", at: datetime | None = None
) -> tuple[list[Considered], Route | None]:
    """Every rule in the order in which it counts for this number, and the route."""
    route = resolve(settings, carrier, to_number, call_id=call_id, at=at)
    fits = {name: kind for kind, name in _names(settings, carrier, to_number) if name in settings.numbers}
    fitting = list(fits)
    considered = []
    for name in (*fitting, *(name for name in settings.numbers if name not in fits)):
        entry = settings.numbers[name]
        scope = entry.carrier
        if route is not None and entry is route.entry:
            considered.append(Considered(entry.key, True, _MATCHES.get(fits[name], "takes every other number")))
        elif name in fits:
            considered.append(Considered(entry.key, False, f"fits ({fits[name]}), but what is above it counts more"))
        elif scope and scope != carrier:
            considered.append(Considered(entry.key, False, f"is for calls of {scope} only"))
        else:
            considered.append(Considered(entry.key, False, "is another number"))
    return considered, route
