"""The port of a gateway: taken at once after one that has ended or crashed, and never beside one that runs."""

from __future__ import annotations

import socket
import sys

import pytest

from gateway.worker import listener

HOST = "127.0.0.1"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the rules of Linux")


def leave_a_connection_behind(place: socket.socket) -> int:
    """As a process that ends while callers are connected: the kernel keeps its half for a minute."""
    place.listen()
    port: int = place.getsockname()[1]
    caller = socket.create_connection((HOST, port))
    taken, _ = place.accept()
    place.close()
    taken.close()
    assert caller.recv(1) == b""
    caller.close()
    return port


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_the_port_of_one_that_was_here_a_moment_ago_is_free(before: bool, after: bool) -> None:
    port = leave_a_connection_behind(listener(HOST, 0, shared=before))
    with socket.socket() as strict, pytest.raises(OSError, match="in use"):
        strict.bind((HOST, port))  # the kernel has it still
    listener(HOST, port, shared=after).close()


@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("ours", [False, True])
def test_the_port_of_one_that_listens_is_shared_by_both_or_not_at_all(theirs: bool, ours: bool) -> None:
    with listener(HOST, 0, shared=theirs) as running:
        running.listen()
        port = running.getsockname()[1]
        if theirs and ours:
            listener(HOST, port, shared=True).close()
        else:
            with pytest.raises(OSError, match="in use"):
                listener(HOST, port, shared=ours)
