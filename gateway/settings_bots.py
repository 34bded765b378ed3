"""The [bots] tables as they are meant: with what they inherit, and with what numbers and languages change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway import registry
from media.errors import ConfigError, toml_path

Table = Mapping[str, Any]
MARK = "@"  # between a bot's name and whose settings it has


@dataclass(frozen=True, slots=True)
class Draft:
    """The table of one bot, before it is checked."""

    name: str
    path: str  # of what was written for it
    table: Table
    own: frozenset[str] | None = None  # the keys that stand at `path`; None: all of them
    language: str = ""

    def wrote(self, path: str) -> bool:
        """Whether a mistake at `path` was made here; one that was inherited is told where it stands."""
        if self.own is None or not path.startswith(f"{self.path}."):
            return True
        return any(
            path == (key := toml_path(self.path, name)) or path.startswith((f"{key}.", f"{key}[")) for name in self.own
        )


def drafted(bots: Mapping[str, Table], numbers: Mapping[str, Table], found: list[ConfigError]) -> list[Draft]:
    """Each bot of the file, and those that numbers and languages make of them."""
    whole = {name: inherited(name, bots, found) for name in bots}
    drafts: dict[str, Draft] = {}
    for name, table in bots.items():
        path = toml_path("bots", name)
        if MARK in name:
            found.append(ConfigError(path, f"must not have {MARK} in its name", "name it otherwise"))
        own = frozenset(table) if "extends" in table else None
        drafts[name] = Draft(name, path, _plain(whole[name]), own)
        found += _not_tables(path, table)
    for key, number in numbers.items():
        language, settings = number.get("language", ""), number.get("settings")
        path = toml_path("numbers", key)
        for bot in dict.fromkeys(_named(number)):
            if isinstance(language, str) and language and bot in whole:
                spoken = _languages(whole[bot]).get(language)
                if isinstance(spoken, Mapping):
                    name = f"{bot}{MARK}{language}"
                    where = toml_path(toml_path("bots", bot) + ".languages", language)
                    table = merged(_plain(whole[bot]), spoken)
                    drafts.setdefault(name, Draft(name, where, table, frozenset(spoken), language))
                elif bot == number.get("bot"):
                    known = registry.did_you_mean(language, tuple(_languages(whole[bot])))
                    found.append(ConfigError(f"{path}.language", f"[bots.{bot}] has no languages.{language}", known))
        main = number.get("bot")
        if settings is None or main not in whole:
            continue
        if not isinstance(settings, Mapping):
            found.append(ConfigError(f"{path}.settings", "must be a table", f"write [{path}.settings]"))
            continue
        base = drafts.get(f"{main}{MARK}{language}") or drafts[main]
        name = f"{main}{MARK}{key}"
        table = merged(base.table, settings)
        drafts[name] = Draft(name, f"{path}.settings", table, frozenset(settings), base.language)
    return list(drafts.values())


def _named(number: Table) -> Iterator[str]:
    share = number.get("share")
    for bot in (number.get("bot"), number.get("closed"), *(share if isinstance(share, Mapping) else ())):
        if isinstance(bot, str):
            yield bot


def _languages(table: Table) -> Table:
    languages = table.get("languages", {})
    return languages if isinstance(languages, Mapping) else {}


def _plain(table: Table) -> Table:
    return {key: value for key, value in table.items() if key not in ("extends", "languages")}


def _not_tables(path: str, table: Table) -> Iterator[ConfigError]:
    languages = table.get("languages", {})
    if not isinstance(languages, Mapping):
        yield ConfigError(f"{path}.languages", "must be a table", f"write [{path}.languages.de]")
        return
    for language, value in languages.items():
        if not isinstance(value, Mapping):
            where = toml_path(f"{path}.languages", language)
            yield ConfigError(where, "must be a table", f"write [{where}]")


def inherited(name: str, bots: Mapping[str, Table], found: list[ConfigError]) -> Table:
    """The table of a bot over that of the one that it extends, and so on."""
    chain: list[str] = []
    while True:
        chain.append(name)
        base = bots[name].get("extends")
        if base is None:
            break
        where = f"{toml_path('bots', name)}.extends"
        error: ConfigError | None = None
        if not isinstance(base, str):
            error = ConfigError(where, "must be the name of a bot", 'write extends = "reception"')
        elif base not in bots:
            error = ConfigError(where, f"there is no [bots.{base}]", registry.did_you_mean(base, tuple(bots)))
        elif base in chain:
            error = ConfigError(where, f"goes in a circle: {' -> '.join([*chain, base])}", "leave one of them out")
        if error is not None:
            if not any(str(error) == str(one) for one in found):
                found.append(error)
            break
        name = base
    table: Table = {}
    for one in reversed(chain):
        table = merged(table, bots[one])
    return table


def merged(base: Table, over: Table) -> Table:
    """`over` over `base`: tables are merged, everything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(below, value) if both and isinstance(below, Mapping) else value
    return result
