"""One process that serves: from its settings to its end by a signal."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway import garbage
from gateway import log as logging
from gateway.app import Gateway, prepare
from gateway.compiled import build
from gateway.descriptors import allow_enough
from gateway.reload import Reloader
from gateway.server import Server, server
from gateway.settings import Settings, load_settings
from gateway.store import StoreError
from gateway.store_sql import SqlStore
from media.errors import ConfigError

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")


def log_as(settings: Settings, worker: str = "") -> None:
    """Log as the configuration says."""
    as_json = {"json": True, "text": False}.get(settings.gateway.log_format)
    logging.configure(settings.gateway.log_level, as_json=as_json, worker=worker)


def warn(settings: Settings) -> None:
    """What is off, and what is doubtful."""
    for name, why in settings.carriers_off.items():
        log.warning("carrier.off", carrier=name, why=why)
    for warning in settings.warnings:
        log.warning("settings.warning", text=warning)


def store_url(settings: Settings) -> str:
    """Where calls and records are kept. The relative path of a file starts where everything does that is written."""
    url = settings.gateway.store_url or "sqlite:///gateway.db"
    engine, marked, path = url.partition(":///")
    if not marked or not engine.startswith("sqlite") or not path or path.startswith(("/", ":memory:", "file:", "?")):
        return url
    return f"{engine}:///{settings.state_dir / path}"


def store_of(settings: Settings) -> SqlStore:
    """It is not opened yet. ConfigError: no engine or driver here can."""
    try:
        return SqlStore(store_url(settings))
    except StoreError as exc:
        remedy = "PostgreSQL's driver comes with pip install 'telephony-gateway[postgresql]'"
        raise ConfigError("gateway.store", str(exc), remedy) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a process is of a gateway that has several."""

    sockets: list[socket.socket]
    endpoint: str  # path of its Unix socket
    token_key: str


async def serve(
    config: Path,
    settings: Settings,
    *,
    host: str | None = None,
    port: int | None = None,
    watch: bool = False,
    load: Callable[[Path], Settings] = load_settings,
    share: Share | None = None,
    up: Callable[[Server], None] = lambda running: None,
) -> int:
    """Serve until a signal, or until told by the server that `up` gets; gives the exit code.

    Args:
        watch: read the configuration again when it changes, where it does not say itself.
        load: how the file is read again.
        up: called as soon as calls are taken.
    """
    allow_enough()
    builds = await prepare(settings)
    endpoint, key = (share.endpoint, share.token_key) if share is not None else ("", "")
    gateway = Gateway(settings, builds, store=store_of(settings), endpoint=endpoint, token_key=key)
    gateway.reloader = Reloader(gateway, config, watch=watch, load=load)
    loop = asyncio.get_running_loop()
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, gateway.reloader.signalled)
    running = server(gateway, host=host, port=port)
    task = loop.create_task(running.serve(share.sockets if share is not None else None), name="server")
    listening = loop.create_task(running.up.wait(), name="server-up")
    await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
    listening.cancel()
    if running.started:
        garbage.keep_clear(ended=lambda: gateway.calls.ended, live=lambda: len(gateway.calls))
        up(running)
    await task
    return 0 if running.started else 1


def tell_listening(settings: Settings, host: str, port: int, workers: int = 1) -> None:
    log.info(
        "gateway.listening",
        host=host,
        port=port,
        carriers=sorted(settings.carriers),
        bots=sorted(settings.bots),
        max_calls=settings.gateway.max_calls,
        build=build(),
        **({"workers": workers} if workers > 1 else {}),
    )
