"""For all tests: hypothesis makes the same examples in each run, so that a red run speaks of the change it ran on.

`pytest --hypothesis-profile=explore` looks for new ones.
"""

from __future__ import annotations

import os

import pytest
import structlog
from hypothesis import settings

# No deadline: on a busy machine any example may take any time.
settings.register_profile("same", derandomize=True, print_blob=True, deadline=None)
settings.register_profile("explore", derandomize=False, print_blob=True, deadline=None)
settings.load_profile("same")

# A traceback is printed as it is: making it beautiful holds up the loop for a tenth of a second, and calls with it.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` is: one more than there are cores, for most tests wait; each takes up to 800 MB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores + 1, 6)
