"""One of several processes of a gateway: `python -m gateway.worker`, as gateway/supervisor.py starts it.

Its orders are the first line of its standard input. When that ends, the supervisor is gone, and so goes the worker, in
good order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
import structlog

from gateway.server import Server, run
from gateway.serving import Share, log_as, serve
from gateway.settings import load_settings
from media.errors import ConfigError, ConfigErrors

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway")

UP = b"up\n"


class Orders(msgspec.Struct, kw_only=True):
    """What the supervisor tells a worker."""

    config: str
    host: str
    port: int
    name: str
    endpoint: str
    token_key: str
    status: int  # file descriptor: where UP is written


def listener(host: str, port: int, *, shared: bool) -> socket.socket:
    """A socket that is bound and not listening yet. OSError: the address is taken, or is none.

    Args:
        shared: other processes of this user may bind the same; the kernel gives each a share of the connections.
    """
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    bound = socket.socket(family, kind, proto)
    try:
        # Connections of a gateway that was here a moment ago are no hindrance; one that listens is, unless both share.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


async def _work(orders: Orders) -> int:
    settings = load_settings(Path(orders.config))
    share = Share(
        sockets=[listener(orders.host, orders.port, shared=True)],
        endpoint=orders.endpoint,
        token_key=orders.token_key,
    )
    loop = asyncio.get_running_loop()

    def up(running: Server) -> None:
        os.write(orders.status, UP)

        def read() -> None:
            if not os.read(sys.stdin.fileno(), 100):
                loop.remove_reader(sys.stdin.fileno())
                running.handle_exit(signal.SIGTERM, None)

        loop.add_reader(sys.stdin.fileno(), read)

    return await serve(Path(orders.config), settings, share=share, up=up)


def main() -> int:
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as given:
        orders = msgspec.json.decode(given.readline(), type=Orders)
    try:
        log_as(load_settings(Path(orders.config)), orders.name)
        code = run(_work(orders))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is over, well or not: a second one must not say otherwise
        return code
    except ConfigError as exc:
        for error in exc.errors if isinstance(exc, ConfigErrors) else (exc,):
            log.error("worker.not_started", problem=str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
