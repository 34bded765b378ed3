"""For all tests: hypothesis makes the same examples in each run, so that a red run speaks of the change it ran on.

`pytest --hypothesis-profile=explore` looks for new ones.
"""

from __future__ import annotations

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
