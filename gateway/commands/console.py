"""Where commands print their tables."""

from __future__ import annotations

import rich.console


class Console(rich.console.Console):
    """rich's own ends the process with exit code 1 when nobody reads on (`gateway calls list | head`)."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
