"""A pipeline's time, as processors ask for it. Apart from the flow, which can be compiled: others inherit from this."""

from __future__ import annotations

from media.flow import Runtime


class Clock:
    """A pipeline's time in nanoseconds: `get_time()`."""

    __slots__ = ("_runtime",)

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def get_time(self) -> int:
        return int(self._runtime.now() * 1e9)

    def start(self) -> None:
        """Nothing to start: the runtime's clock runs."""
