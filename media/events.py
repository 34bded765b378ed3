"""Events: names that objects announce, handlers that others register for them.

A handler is `def` or `async def` and takes the emitter first. A synchronous event runs its handlers inside the
emitter; a handler that waits goes on as a task, and the emitter goes on too. Other events are spawned. What a handler
raises is logged and goes no further.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from functools import partial
from typing import Any, Protocol, Self, TypeAlias

log = logging.getLogger(__name__)

Handler = Callable[..., Any]

# What a method returns that users override with `def` or with `async def`: None, or something to await.
MaybeAwaitable: TypeAlias = Any


class Finished(Coroutine[Any, Any, None]):
    """An awaitable that is finished: awaiting it takes no turn of any loop.

    It counts as a coroutine, so that create_task, gather and wait_for take it, and it may be awaited any number of
    times: one object serves every method that did its work at once.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return _NOTHING  # type: ignore[return-value]

    def send(self, value: Any) -> Any:
        raise StopIteration

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        if val is None:
            val = typ if isinstance(typ, BaseException) else typ()
        raise val if tb is None else val.with_traceback(tb)

    def close(self) -> None:
        pass


_NOTHING = iter(())  # stays exhausted: every await of it ends at once
DONE = Finished()


class Each:
    """Awaited: one after the other, and then `then()`."""

    __slots__ = ("awaitables", "then")

    def __init__(self, awaitables: Iterable[Awaitable[Any]], then: Callable[[], None] | None = None) -> None:
        self.awaitables = list(awaitables)
        self.then = then

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            for awaitable in self.awaitables:
                yield from awaitable.__await__()
        finally:
            if self.then is not None:
                self.then()


class Handle(Protocol):
    """A task or a timer of a runtime."""

    def cancel(self) -> Any: ...


class Drives(Protocol):
    """The part of a runtime that events need."""

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> Handle: ...
    def drive(self, coro: Coroutine[Any, Any, Any], name: str) -> Handle | None: ...
    def settle(self, handles: Iterable[Handle]) -> Awaitable[None]: ...


def drive_without_loop(coro: Coroutine[Any, Any, Any], name: str) -> None:
    """Run a coroutine that must not wait, for there is no loop that could go on with it."""
    try:
        coro.send(None)
    except StopIteration:
        return
    coro.close()
    log.error("coroutine.waits name=%s: it may not wait here, for no event loop runs it", name)


class Event:
    """One event of one object: its handlers in the order of registration."""

    __slots__ = ("handlers", "plain", "sync")

    def __init__(self, sync: bool) -> None:
        self.sync = sync
        self.handlers: tuple[Handler, ...] = ()
        self.plain = True  # none of the handlers is `async def`

    def add(self, handler: Handler) -> None:
        self.handlers = (*self.handlers, handler)
        self.plain = self.plain and not is_async(handler)


def is_async(function: Any) -> bool:
    """Whether calling `function` gives a coroutine: also for partials, wrappers and objects with `async __call__`."""
    while True:
        if inspect.iscoroutinefunction(function):
            return True
        if isinstance(function, partial):
            function = function.func
        elif inspect.isfunction(function) or inspect.ismethod(function):
            wrapped = getattr(function, "__wrapped__", None)
            if wrapped is None:
                return False
            function = wrapped
        else:
            return callable(function) and inspect.iscoroutinefunction(type(function).__call__)


class _Base:
    """What a BaseObject keeps, in one place, so that subclasses may use almost any attribute name."""

    __slots__ = ("drives", "events", "id", "name", "running")

    def __init__(self, name: str) -> None:
        self.id = next(_ids)
        self.name = name
        self.events: dict[str, Event] = {}
        self.drives: Drives | None = None
        self.running: set[Handle] = set()  # handlers that have begun and not ended


_ids = itertools.count()
_instances: dict[type, itertools.count[int]] = {}


class BaseObject:
    """A name, an id and events. Works for subclasses that never call `super().__init__()`."""

    __slots__ = ("__dict__", "__weakref__", "_base")

    _base: _Base

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        count = _instances.get(cls)
        if count is None:
            count = _instances[cls] = itertools.count()
        self._base = _Base(f"{cls.__name__}#{next(count)}")
        return self

    def __init__(self, *, name: str | None = None) -> None:
        if name is not None:
            self._base.name = name

    @property
    def name(self) -> str:
        """As given, or "Class#n"."""
        return self._base.name

    @property
    def id(self) -> int:
        """A number that no other object of this process has."""
        return self._base.id

    def __str__(self) -> str:
        return self._base.name

    # ------------------------------------------------------------ events

    def event_handler(self, event_name: str) -> Callable[[Handler], Handler]:
        """Decorator: register a handler, `def` or `async def`, called with this object and the event's payload."""

        def register(handler: Handler) -> Handler:
            self.add_event_handler(event_name, handler)
            return handler

        return register

    def add_event_handler(self, event_name: str, handler: Handler) -> None:
        """Register `handler` behind those already there; an unknown name is logged."""
        event = self._base.events.get(event_name)
        if event is None:
            log.warning("event.unknown object=%s event=%s", self, event_name)
            return
        event.add(handler)

    def _run_on(self, drives: Drives | None) -> None:
        """What spawned handlers, and those that wait, run on. Processors get theirs from their pipeline."""
        self._base.drives = drives

    def _register_event_handler(self, event_name: str, sync: bool = False) -> None:
        """Make an event known. `sync`: its handlers run inside the emitter."""
        if event_name in self._base.events:
            log.warning("event.registered_twice object=%s event=%s", self, event_name)
            return
        self._base.events[event_name] = Event(sync)

    def _call_event_handler(self, event_name: str, *args: Any) -> Awaitable[None]:
        """Announce the event. Awaiting what comes back waits for the handlers of a synchronous event."""
        event = self._base.events.get(event_name)
        if event is None or not event.handlers:
            return DONE
        if event.sync:
            if event.plain:
                for handler in event.handlers:
                    try:
                        handler(self, *args)
                    except Exception:
                        log.exception("event.handler_failed object=%s event=%s", self, event_name)
                return DONE
            handle = self._drive_by_hand(self.__handle(event_name, event.handlers, args), f"{self}::{event_name}")
            return DONE if handle is None else self._until_ended((handle,))
        drives = self._base.drives
        for handler in event.handlers:
            coro = self.__handle(event_name, (handler,), args)
            if drives is None:
                drive_without_loop(coro, f"{self}::{event_name}")
            else:
                self._await_at_cleanup(drives.spawn(coro, f"{self}::{event_name}"))
        return DONE

    async def __handle(self, event_name: str, handlers: Iterable[Handler], args: tuple[Any, ...]) -> None:
        for handler in handlers:
            try:
                result = handler(self, *args)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                log.exception("event.handler_failed object=%s event=%s", self, event_name)

    def _drive_by_hand(self, coro: Coroutine[Any, Any, Any], name: str) -> Handle | None:
        """Run `coro` to its first wait; None if it ended, else the task that goes on with it."""
        drives = self._base.drives
        if drives is None:
            drive_without_loop(coro, name)
            return None
        handle = drives.drive(coro, name)
        if handle is not None:
            self._await_at_cleanup(handle)
        return handle

    def _await_at_cleanup(self, handle: Handle) -> None:
        running = self._base.running
        running.add(handle)
        forget = getattr(handle, "add_done_callback", None)
        if forget is not None:
            forget(running.discard)

    def _until_ended(self, handles: Iterable[Handle]) -> Awaitable[None]:
        drives = self._base.drives
        return DONE if drives is None else drives.settle(handles)

    def cleanup(self) -> MaybeAwaitable:
        """Wait for the handlers that still run."""
        running = self._base.running
        return self._until_ended(tuple(running)) if running else DONE
