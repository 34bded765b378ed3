"""One configuration, made ready: what a call holds from its beginning to its end.

A reload makes another `Snapshot` and puts it in the gateway's `snapshot`; nothing in one ever changes. Whoever handles
a call takes `gateway.snapshot` once and passes it on; the last call that holds an old one takes it along.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bots.base import Build
from bots.code import code_state
from bots.prompts import Prompt
from gateway import registry
from gateway.ports import BotRoute, CallLimits
from gateway.routing import resolve
from gateway.settings import BotEntry, GatewaySettings, Settings
from gateway.settings_build import secrets_in
from gateway.store import CallKey
from media.call import CallInfo
from webhooks.base import CarrierHttp

Mark = tuple[Any, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Snapshot:
    """Settings, carriers and prepared bots that belong together."""

    settings: Settings
    carriers: Mapping[str, CarrierHttp]
    builds: Mapping[str, Build]  # by name in [bots]
    limits: CallLimits
    marks: Mapping[str, Mark] = field(default_factory=dict)  # what each bot was prepared from
    apologies: Mapping[str, Prompt | None] = field(default_factory=dict)  # by name in [bots]
    number: int = 1  # counts the configurations of this process
    made: float = field(default_factory=time.time)  # Unix seconds

    def route(self, info: CallInfo, bot: str = "", otherwise: str = "") -> BotRoute | None:
        """Who answers: the bot that the token or the URL names, else the number's, else `otherwise`."""
        found = resolve(self.settings, info.carrier, info.to_number, call_id=info.call_id)
        if not bot and found is not None and not (otherwise and found.matched_by == "default"):
            bot = found.bot_name
        bot = bot or otherwise
        build = self.builds.get(bot)
        entry = self.settings.bots.get(bot)
        if build is None or entry is None:
            return None
        if found is None or not found.chooses(bot):
            found = None
        on_error, outputs = entry.on_error, entry.output_variables
        record, transcript = entry.record, entry.transcript
        if found is not None:
            on_error = found.on_error or on_error
            record = record if found.record is None else found.record
            transcript = transcript if found.transcript is None else found.transcript
            outputs = {**outputs, **found.output_variables}
        return BotRoute(
            bot,
            build,
            entry.sample_rate,
            on_error,
            record=record,
            transcript=transcript,
            apology=self.apologies.get(bot),
            output_variables=outputs,
        )


def snapshot_of(settings: Settings, builds: Mapping[str, Build], *, number: int = 1) -> Snapshot:
    """The snapshot of `settings`, whose bots are prepared already. Reads files' dates and secrets."""
    rates = registry.sample_rates(settings)
    return Snapshot(
        settings=settings,
        carriers={name: registry.carrier_side(name, own) for name, own in settings.carriers.items()},
        builds=dict(builds),
        limits=limits_of(settings.gateway),
        marks={name: mark_of(entry, settings.base_dir, rates) for name, entry in settings.bots.items()},
        apologies={name: registry.apology_of(entry, settings.base_dir) for name, entry in settings.bots.items()},
        number=number,
    )


def successor(before: Snapshot, settings: Settings) -> tuple[Snapshot, tuple[str, ...]]:
    """The snapshot that follows `before`, and which bots were prepared for it; the others keep what they have.

    May take seconds: call it in a thread. Raises ConfigErrors.
    """
    rates = registry.sample_rates(settings)
    marks = {name: mark_of(entry, settings.base_dir, rates) for name, entry in settings.bots.items()}
    kept = {name: before.builds[name] for name, mark in marks.items() if before.marks.get(name) == mark}
    builds = registry.prepare_bots(settings, kept=kept)
    after = dataclasses.replace(snapshot_of(settings, builds, number=before.number + 1), marks=marks)
    return after, tuple(name for name in builds if name not in kept)


def limits_of(settings: GatewaySettings) -> CallLimits:
    return CallLimits(
        start_s=settings.start_timeout_s,
        silence_s=settings.silence_timeout_s,
        longest_s=settings.longest_call_s,
        drain_s=settings.last_words_s,
        outbox=settings.outbox_messages,
        blocked_s=settings.blocked_timeout_s,
    )


# ---------------------------------------------------------------- whether a bot is as it was


def mark_of(entry: BotEntry, base_dir: Path, rates: tuple[int, ...]) -> Mark:
    """Equal as long as preparing the bot again would come to the same: its settings, files, secrets and program."""
    secrets = tuple(_digest(secret.reveal) for _, secret in secrets_in(entry.options, ""))
    files = tuple((path, *_stat(base_dir / path)) for path in sorted(set(_texts(entry.options))))
    code = code_state() if registry.is_code(entry.use) else ()
    return entry.use, entry.options, base_dir, rates, secrets, tuple(one for one in files if one[1:] != (0, 0)), code


def files_of(settings: Settings) -> Iterator[Path]:
    """The files that the bots of `settings` were made from: prompts, and programs' modules."""
    for entry in settings.bots.values():
        for text in _texts(entry.options):
            if _stat(settings.base_dir / text) != (0, 0):
                yield settings.base_dir / text
    yield from (path for path, _ in code_state())


def _texts(value: Any) -> Iterator[str]:
    """The texts in a bot's options that could name a file."""
    if isinstance(value, str):
        if value and len(value) < 250 and "\n" not in value and "\0" not in value:
            yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for one in dataclasses.fields(value):
            yield from _texts(getattr(value, one.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _texts(item)


def _stat(path: Path) -> tuple[int, int]:
    """(ns, bytes) of a file; zeros where there is none."""
    try:
        found = path.stat()
        return (found.st_mtime_ns, found.st_size) if path.is_file() else (0, 0)
    except OSError:
        return 0, 0


def _digest(reveal: Callable[[], str]) -> bytes:
    return hashlib.sha256(reveal().encode()).digest()


# ---------------------------------------------------------------- between webhook and media socket


COMES_S = 5.0  # a socket comes within a second or two of its webhook's answer; or never, if the caller has hung up


class Expected:
    """The snapshots by which calls were answered whose media sockets have not come yet."""

    def __init__(self) -> None:
        # Until when it may come, and until when it most likely does.
        self._by_key: dict[CallKey, tuple[float, float, Snapshot]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def put(self, key: CallKey, snapshot: Snapshot, ttl_s: float) -> None:
        self.prune()
        self._by_key.pop(key, None)
        now = time.monotonic()
        self._by_key[key] = now + ttl_s, now + COMES_S, snapshot

    def take(self, key: CallKey, *, keep: bool = False) -> Snapshot | None:
        """`keep`: the carrier may come again for the same call."""
        if key not in self._by_key:
            return None
        until, _, snapshot = self._by_key[key]
        if keep:
            self._by_key[key] = until, 0.0, snapshot
        else:
            del self._by_key[key]
        return snapshot if until > time.monotonic() else None

    def coming(self) -> bool:
        """Whether a call was answered just now."""
        now = time.monotonic()
        return any(likely > now for _, likely, _ in self._by_key.values())

    def prune(self) -> None:
        """Forget those that did not come in time. They stand about in that order; a straggler goes a little later."""
        now = time.monotonic()
        while self._by_key:
            key, (until, _, _) = next(iter(self._by_key.items()))
            if until > now:
                return
            del self._by_key[key]
