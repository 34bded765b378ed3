"""structlog, for our own lines and for the standard library's."""

from __future__ import annotations

import logging
import logging.config
import os
import sys
from typing import Any

import structlog


def configure(level: str = "info", *, as_json: bool | None = None, worker: str = "") -> None:
    """Log to standard error: lines for people on a terminal, JSON elsewhere (or as `as_json` says).

    Args:
        worker: which of several processes this is, said in every line.
    """
    if as_json is None:
        as_json = not sys.stderr.isatty()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if worker:
        shared.insert(0, lambda logger, name, event: {"worker": worker, **event})
    colors = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    if as_json:
        render: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # The beautiful kind prints local variables too, audio and secrets among them, and holds up the loop meanwhile.
        plain = structlog.dev.plain_traceback
        render = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn's own lines at INFO name the path of every socket, which holds the media token.
    for noisy in ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore", "websockets"):
        logging.getLogger(noisy).setLevel("WARNING")
    logging.getLogger("uvicorn.error").addFilter(_not_a_refused_socket)


def _not_a_refused_socket(record: logging.LogRecord) -> bool:
    """uvicorn takes a socket that was refused with an HTTP status for an application that forgot to answer."""
    return "without completing handshake" not in record.getMessage()
