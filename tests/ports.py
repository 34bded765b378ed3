"""Ports for servers that must know theirs before they listen: several processes of tests look for some at a time."""

from __future__ import annotations

import itertools
import os
import socket

# Below those that systems hand out to whoever asks for any: what was free stays so until its server is up again.
FIRST, COUNT, EACH = 20_000, 12_000, 64
_next = itertools.count(os.getpid() * EACH)


def free_port() -> int:
    """One of 127.0.0.1 that nobody has; each process begins somewhere else, and none gives the same one twice soon."""
    while True:
        port = FIRST + next(_next) % COUNT
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
