"""A call on virtual time whose bot is a program: its tasks run on a real loop, its time is the call's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bots.base import PrepareContext
from bots.code import CodeSettings
from bots.services import pocketsphinx
from gateway import registry
from tests.bots.talk import Tongue
from tests.gateway.virtual import STEP_S, VirtualCall


def run_with_one_thread(main: Coroutine[Any, Any, None], limit_s: float = 60.0) -> None:
    """On a loop whose `asyncio.to_thread` has one thread, so that `threads_are_done` can wait for it."""

    async def limited() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with asyncio.timeout(limit_s):
            await main

    asyncio.run(limited())


async def threads_are_done() -> None:
    """Prompts are made in one thread, words recognised in another."""
    for executor in (None, pocketsphinx._thread):
        await asyncio.get_running_loop().run_in_executor(executor, lambda: None)


class LiveVirtualCall(VirtualCall):
    tasks: set[asyncio.Task[Any]]

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> Any:
        tasks = self.__dict__.setdefault("tasks", set())
        task = asyncio.get_running_loop().create_task(coro, name=name)
        tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.core.fail(f"task {task.get_name()} failed: {exc!r}", exc)

    def end_task(self, handle: Any, timeout_s: float | None) -> Any:
        handle.cancel()
        return asyncio.wait({handle}, timeout=timeout_s)

    async def go(self, seconds: float, *, until: Callable[[], bool] | None = None) -> None:
        """As `run`; the loop gets its turns in between."""
        end = self.t + seconds
        while self.t < end - 1e-9 and self.closed_with is None and not (until and until()):
            self.run(STEP_S)
            for _ in range(4):
                await asyncio.sleep(0)

    async def go_until(self, true: Callable[[], bool], limit_s: float = 60.0) -> None:
        """Until it is so. The call's time stands still while threads are at work, however slow they are."""
        end = self.t + limit_s
        while not true():
            assert self.t < end, "it did not happen"
            assert self.closed_with is None, "the call is over"
            await threads_are_done()
            await self.go(0.02)

    async def finish(self) -> None:
        """What the session does when the call is over."""
        if self.core.pipeline is not None:
            async with asyncio.timeout(60):
                await self.core.pipeline.close()
        assert not self.__dict__.get("tasks")


class Program:
    """One call to one program, which is a file of its own beside a gateway.toml."""

    def __init__(self, call: LiveVirtualCall, tongue: Tongue) -> None:
        self.call, self.tongue = call, tongue

    @classmethod
    async def start(
        cls,
        folder: Path,
        use: str,
        carrier: str = "twilio",
        options: Mapping[str, Any] | None = None,
        **keys: Any,
    ) -> Program:
        tongue = Tongue()
        context = PrepareContext(folder, (8000,), tongue.speak)
        prepared: Any = registry.bot(use).prepare(CodeSettings(options=options or {}, **keys), context)
        build = await prepared
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))  # for `threads_are_done`
        program = cls(LiveVirtualCall(carrier, build), tongue)
        await program.go(0.2)
        return program

    async def go(self, seconds: float) -> None:
        """The call's time stands still while threads are at work, however slow they are."""
        end = self.call.t + seconds
        while self.call.t < end - 1e-9 and self.call.closed_with is None:
            await threads_are_done()
            await self.call.go(STEP_S)

    async def press(self, digits: str) -> None:
        self.call.press(digits)
        await self.go(0.25)

    @property
    def heard(self) -> list[tuple[str, float]]:
        return self.tongue.read(self.call.heard())

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self.heard]
