"""The runner: tasks to run, and the signals that end them."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from typing import Any, Protocol

from media.events import BaseObject

log = logging.getLogger(__name__)


class Runs(Protocol):
    """What a runner runs: a PipelineTask."""

    async def run(self) -> None: ...
    async def stop_when_done(self) -> None: ...
    async def cancel(self, reason: str | None = None) -> None: ...


class PipelineRunner(BaseObject):
    """Runs tasks, several at a time. A signal cancels them all; a second one does what it did before.

    In a server set both signals to False and leave them to the server.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        handle_sigint: bool = True,
        handle_sigterm: bool = False,
        force_gc: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(name=name)
        self._signals = [
            number for number, wanted in ((signal.SIGINT, handle_sigint), (signal.SIGTERM, handle_sigterm)) if wanted
        ]
        self._force_gc = force_gc
        self._loop = loop
        self._tasks: set[Runs] = set()
        self._cancelling: asyncio.Task[None] | None = None

    async def run(self, task: Runs) -> None:
        """Run `task` to its end."""
        if not self._tasks:
            for number in self._signals:
                _listen(number, self, self._loop or asyncio.get_running_loop())
        self._tasks.add(task)
        try:
            await task.run()
            if self._cancelling is not None:
                await self._cancelling
        finally:
            self._tasks.discard(task)
            if not self._tasks:
                for number in self._signals:
                    _stop_listening(number, self)
            if self._force_gc:
                gc.collect()

    async def stop_when_done(self) -> None:
        """End every task when what is queued is done."""
        await asyncio.gather(*(task.stop_when_done() for task in self._tasks))

    async def cancel(self, reason: str | None = None) -> None:
        """Cancel every task."""
        await asyncio.gather(*(task.cancel(reason) for task in self._tasks))

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        log.warning("runner.signal runner=%s signal=%s: tasks are cancelled", self, name)
        for listened in self._signals:
            _stop_listening(listened, self)
        self._cancelling = asyncio.get_running_loop().create_task(self.cancel(name), name=f"{self}::signal")


class _Listening:
    """The runners that want one signal, and what it did before them."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.runners: dict[PipelineRunner, None] = {}
        self.before: Callable[..., Any] | int | None = signal.getsignal(number)


_listening: dict[int, _Listening] = {}  # a signal belongs to the process, so this does too


def _listen(number: int, runner: PipelineRunner, loop: asyncio.AbstractEventLoop) -> None:
    listening = _listening.get(number)
    if listening is None or listening.loop is not loop:
        listening = _Listening(number, loop)
        try:
            loop.add_signal_handler(number, _arrived, number)
        except (NotImplementedError, RuntimeError, ValueError) as exc:  # not the main thread, or not Unix
            log.debug("runner.no_signals runner=%s problem=%r", runner, exc)
            return
        _listening[number] = listening
    listening.runners[runner] = None


def _stop_listening(number: int, runner: PipelineRunner) -> None:
    listening = _listening.get(number)
    if listening is None or runner not in listening.runners:
        return
    del listening.runners[runner]
    if not listening.runners:
        del _listening[number]
        listening.loop.remove_signal_handler(number)
        if listening.before is not None:
            signal.signal(number, listening.before)


def _arrived(number: int) -> None:
    for runner in tuple(_listening[number].runners):
        runner._on_signal(number)
