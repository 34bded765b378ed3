"""How many files and sockets this process may have open."""

from __future__ import annotations

import contextlib
import sys

ENOUGH = 65_536  # a call of an agent has four sockets: its media, and a recogniser, a model and a voice


def allow_enough() -> None:
    """As many as the system lets a process take; it begins with 1024 at most places, too few for 300 such calls."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):  # macOS has a further limit, and then things stay as they are
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
