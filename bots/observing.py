"""Bringing records to observers: a queue for each, and a task while there is something in it."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from media.clock import Clock
from media.events import Handle
from media.flow import Entry, Flow, FrameDirection, Runtime
from media.frames import Frame
from media.observers import BaseObserver, FrameProcessed, FramePushed
from media.processor import FrameProcessor

log = logging.getLogger(__name__)

QUEUE_LIMIT = 10_000  # records that wait for one observer; then the newest are dropped and counted


class _Seat:
    """One observer, its queue, and the task that empties it."""

    def __init__(self, observer: BaseObserver, runtime: Runtime) -> None:
        self.observer, self.runtime = observer, runtime
        observer._base.drives = runtime
        kind = type(observer)
        self.sees_pushes = kind.on_push_frame is not BaseObserver.on_push_frame
        self.sees_processing = kind.on_process_frame is not BaseObserver.on_process_frame
        self.wants = _Wanted(observer.frame_types)
        self.queue: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self.dropped = 0
        self.task: Handle | None = None
        self.at_work = False
        self._on_push: Callable[..., Any] = observer.on_push_frame
        if self.sees_pushes and _has_five_arguments(observer.on_push_frame):
            self._on_push = lambda data: observer.on_push_frame(  # type: ignore[call-arg]
                data.source, data.destination, data.frame, data.direction, data.timestamp
            )

    def pushed(self, data: FramePushed) -> None:
        self.put(self._on_push, data)

    def processed(self, data: FrameProcessed) -> None:
        self.put(self.observer.on_process_frame, data)

    def put(self, method: Callable[..., Any], *args: Any) -> None:
        if len(self.queue) >= QUEUE_LIMIT:
            self.dropped += 1
            if self.dropped == 1:
                log.warning("observer.too_slow observer=%s: records are dropped", self.observer)
            return
        self.queue.append((method, args))
        if not self.at_work:
            self.at_work = True
            self.task = self.runtime.spawn(self._empty(), f"{self.observer}::records")

    async def _empty(self) -> None:
        try:
            while self.queue:
                method, args = self.queue.popleft()
                try:
                    result = method(*args)
                    if result is not None:
                        await result
                except Exception:
                    log.exception("observer.failed observer=%s", self.observer)
        finally:
            self.at_work = False
            self.task = None


class Observing:
    """The observers of one task. Taps the links of a flow while somebody wants to see something there."""

    def __init__(self, runtime: Runtime, clock: Clock) -> None:
        self._runtime, self._clock = runtime, clock
        self._seats: list[_Seat] = []
        self._pushes: tuple[_Seat, ...] = ()
        self._processing: tuple[_Seat, ...] = ()
        self._flow: Flow | None = None

    @property
    def observers(self) -> list[BaseObserver]:
        return [seat.observer for seat in self._seats]

    @property
    def tasks(self) -> list[Handle]:
        """Of observers that are at work."""
        return [seat.task for seat in self._seats if seat.at_work and seat.task is not None]

    def add(self, observer: BaseObserver) -> None:
        self._seats.append(_Seat(observer, self._runtime))
        self._arrange()

    def remove(self, observer: BaseObserver) -> None:
        """What waits for it is dropped; unknown ones are ignored."""
        for seat in self._seats:
            if seat.observer is observer:
                seat.queue.clear()
        self._seats = [seat for seat in self._seats if seat.observer is not observer]
        self._arrange()

    def attach(self, flow: Flow) -> None:
        self._flow = flow
        self._arrange()

    def started(self) -> None:
        """StartFrame has come through."""
        for seat in self._seats:
            if type(seat.observer).on_pipeline_started is not BaseObserver.on_pipeline_started:
                seat.put(seat.observer.on_pipeline_started)

    async def close(self) -> None:
        """Wait until all records are taken, and clean up."""
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.tap = flow.probe = None
        for seat in self._seats:
            if seat.at_work and seat.task is not None:
                await self._runtime.settle((seat.task,))
            result = seat.observer.cleanup()
            if result is not None:
                await result

    # ------------------------------------------------------------ taps

    def _arrange(self) -> None:
        """Work out who wants to see what, and where the flow must be tapped for it."""
        self._pushes = tuple(seat for seat in self._seats if seat.sees_pushes)
        self._processing = tuple(seat for seat in self._seats if seat.sees_processing)
        flow = self._flow
        if flow is None:
            return
        tap = self._tap if self._pushes else None
        probe = self._probe if self._processing else None
        if (flow.tap is None, flow.probe is None) != (tap is None, probe is None):
            flow.tap, flow.probe = tap, probe
            flow.relink()

    def _tap(self, source: FrameProcessor, peer: FrameProcessor, direction: FrameDirection, entry: Entry) -> Entry:
        def tapped(frame: Frame, towards: FrameDirection) -> None:
            cls = type(frame)
            data: FramePushed | None = None
            for seat in self._pushes:
                if seat.wants[cls]:
                    if data is None:
                        data = FramePushed(source, peer, frame, towards, self._clock.get_time())
                    seat.pushed(data)
            entry(frame, towards)

        return tapped

    def _probe(self, processor: FrameProcessor, frame: Frame, direction: FrameDirection) -> None:
        cls = type(frame)
        data: FrameProcessed | None = None
        for seat in self._processing:
            if seat.wants[cls]:
                if data is None:
                    data = FrameProcessed(processor, frame, direction, self._clock.get_time())
                seat.processed(data)


class _Wanted(dict[type, bool]):
    """Which classes of frames an observer wants to see; each is looked up once."""

    def __init__(self, types: tuple[type[Frame], ...] | None) -> None:
        super().__init__()
        self._types = types

    def __missing__(self, cls: type) -> bool:
        self[cls] = self._types is None or issubclass(cls, self._types)
        return self[cls]


def _has_five_arguments(method: Callable[..., Any]) -> bool:
    """Whether `on_push_frame` is written in the older form."""
    return len(inspect.signature(method).parameters) == 5
