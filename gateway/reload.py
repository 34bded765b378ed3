"""The configuration read again while calls go on: on SIGHUP, when its file changes, and through the API.

New calls get the new snapshot, live ones keep theirs. A file with a mistake is refused as a whole.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from gateway.settings import Settings, load_settings
from gateway.snapshot import Snapshot, files_of, successor
from media.errors import ConfigError, ConfigErrors, toml_path

if TYPE_CHECKING:
    from gateway.app import Gateway

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.reload")

POLL_S = 1.0
# The settings of [gateway] that new calls take from the new snapshot; the process keeps the others as it took them.
TAKEN = frozenset(
    {
        "max_calls",
        "max_lateness_ms",
        "when_full",
        "start_timeout_s",
        "silence_timeout_s",
        "longest_call_s",
        "last_words_s",
        "blocked_timeout_s",
        "drain_s",
        "outbox_messages",
        "reload_on_change",
    }
)
KEPT_TABLES = ("events", "vad", "recording")

FileState = tuple[str, int, int]  # path, ns, bytes
State = tuple[FileState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    path: str
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """What came of reading the file again."""

    taken: bool
    at: float  # Unix seconds
    why: str  # "api", "signal", "file"
    errors: tuple[Mistake, ...] = ()
    warnings: tuple[str, ...] = ()
    prepared: tuple[str, ...] = ()  # bots that were prepared anew
    restart: tuple[str, ...] = ()  # TOML paths of what was changed and takes a new start


class Reloader:
    """Brings a gateway the configuration as its file is now.

    Args:
        watch: reload when a file changes, where the setting does not say.
        load: how the file is read.
    """

    def __init__(
        self,
        gateway: Gateway,
        config: Path,
        *,
        watch: bool = False,
        poll_s: float = POLL_S,
        load: Callable[[Path], Settings] = load_settings,
    ) -> None:
        self._gateway, self.config, self._watch, self._poll_s, self._load = gateway, config, watch, poll_s, load
        self.last: Reload | None = None
        self.counters: Counter[str] = Counter()  # "taken", "refused"
        self._first = gateway.settings  # what the process itself was made from
        self._one = asyncio.Lock()
        self._known = _state(config, gateway.settings)  # what was read last
        self._watching: asyncio.Task[None] | None = None
        self._asked: set[asyncio.Task[Any]] = set()
        gateway.metrics.tally("gateway_reloads", "configurations read again", "result", lambda: self.counters)

    # ------------------------------------------------------------ life

    def open(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._look(), name="configuration")

    async def close(self) -> None:
        tasks = self._asked | ({self._watching} if self._watching is not None else set())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def signalled(self) -> None:
        """SIGHUP."""
        task = asyncio.get_running_loop().create_task(self.reload("signal"), name="reload")
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    @property
    def watches(self) -> bool:
        chosen = self._gateway.settings.gateway.reload_on_change
        return self._watch if chosen is None else chosen

    # ------------------------------------------------------------ reading again

    async def reload(self, why: str) -> Reload:
        """Read, check and prepare off the loop; then it is one assignment. One at a time."""
        async with self._one:
            before = self._gateway.snapshot
            read = await asyncio.to_thread(_of, self.config)
            try:
                after, prepared = await asyncio.to_thread(self._next, before)
            except ConfigErrors as exc:
                self.last = self._refused(why, exc.errors)
            except ConfigError as exc:
                self.last = self._refused(why, (exc,))
            except Exception as exc:  # a bot's own preparation: its mistake must not end the process's reloads
                log.exception("configuration.failed", file=str(self.config))
                self.last = self._refused(why, (ConfigError("", f"{type(exc).__name__} while it was prepared"),))
            else:
                self._gateway.take(after)
                self.counters["taken"] += 1
                self.last = self._taken(why, after, prepared)
            files = await asyncio.to_thread(_state, self.config, self._gateway.settings)
            self._known = (read, *files[1:])  # written while it was read: then it is read again
            return self.last

    def _next(self, before: Snapshot) -> tuple[Snapshot, tuple[str, ...]]:
        settings = self._load(self.config)
        lost = [
            ConfigError(toml_path("carriers", name), f"would be off: {why}", "set it, or write enabled = false")
            for name, why in settings.carriers_off.items()
            if name in before.settings.carriers and why != "enabled = false"
        ]
        if lost:
            raise ConfigErrors(lost)
        return successor(before, settings)

    def _taken(self, why: str, after: Snapshot, prepared: tuple[str, ...]) -> Reload:
        restart, warnings = tuple(needs_restart(self._first, after.settings)), after.settings.warnings
        log.info("configuration.taken", why=why, number=after.number, prepared=prepared, restart=restart)
        for warning in warnings:
            log.warning("settings.warning", text=warning)
        return Reload(taken=True, at=time.time(), why=why, warnings=warnings, prepared=prepared, restart=restart)

    def _refused(self, why: str, errors: tuple[ConfigError, ...]) -> Reload:
        self.counters["refused"] += 1
        for error in errors:
            log.error("configuration.refused", why=why, path=error.path, problem=error.problem, remedy=error.remedy)
        found = tuple(Mistake(path=one.path, problem=one.problem, remedy=one.remedy) for one in errors)
        return Reload(taken=False, at=time.time(), why=why, errors=found)

    # ------------------------------------------------------------ watching the files

    async def _look(self) -> None:
        """Reload when a file is other than when it was last read, and has been so for one look: editors write twice."""
        seen: State = ()
        while True:
            await asyncio.sleep(self._poll_s)
            if not self.watches:
                continue
            now = await asyncio.to_thread(_state, self.config, self._gateway.settings)
            if now == seen and now != self._known:
                await self.reload("file")
            seen = now


def _state(config: Path, settings: Settings) -> State:
    """Everything that the configuration was made from, the file itself first."""
    return tuple(_of(path) for path in (config, *sorted(set(files_of(settings)))))


def _of(path: Path) -> FileState:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), found.st_mtime_ns, found.st_size


def needs_restart(running: Settings, wanted: Settings) -> Iterator[str]:
    """The TOML paths of what is different and not taken by a reload."""
    for field in dataclasses.fields(wanted.gateway):
        if field.name not in TAKEN and getattr(running.gateway, field.name) != getattr(wanted.gateway, field.name):
            yield f"gateway.{field.name}"
    for table in KEPT_TABLES:
        if getattr(running, table, None) != getattr(wanted, table, None):
            yield table
