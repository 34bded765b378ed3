"""Connections that are read in rounds, over the kernel's own sockets. Nothing here waits for a time of day."""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from gateway.load.sockets import READ, Pipe, Sockets, available

pytestmark = pytest.mark.skipif(not available(), reason="this system has no epoll")


class Reader:
    """What came, and when."""

    def __init__(self) -> None:
        self.data = b""
        self.moments: list[float] = []
        self.lost = 0
        self.then: Callable[[], None] = lambda: None

    def received(self, data: bytes, now: float) -> None:
        self.data += data
        self.moments.append(now)
        self.then()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost += 1


class Pair:
    """A pipe, and the other end of it."""

    def __init__(self) -> None:
        self.sockets, self.reader = Sockets(), Reader()
        self.pipe, self.other = self.more(self.reader)

    def more(self, reader: Reader) -> tuple[Pipe, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            other, _ = server.accept()
        ours.setblocking(False)
        other.settimeout(60)
        return self.sockets.add(ours, reader), other


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.sockets.close()
    made.other.close()


def rounds(sockets: Sockets, until: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not until():
        sockets.round()
        assert time.monotonic() < limit


def test_what_waits_is_read_when_the_round_comes(pair: Pair) -> None:
    pair.other.sendall(b"one ")
    assert pair.reader.data == b""
    pair.other.sendall(b"two")
    rounds(pair.sockets, lambda: pair.reader.data == b"one two")


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell the moment of a packet")
def test_what_came_before_the_round_is_told_with_its_own_moment(pair: Pair) -> None:
    for _ in range(20):  # a kernel begins with it a little after it was asked
        pair.reader.moments.clear()
        before = time.monotonic()
        pair.other.sendall(b"x")
        select.select([pair.pipe._socket], [], [], 60)
        after = time.monotonic()
        while time.monotonic() < after + 0.05:
            pass  # the round is late
        rounds(pair.sockets, lambda: bool(pair.reader.moments))
        (moment,) = pair.reader.moments
        if moment != pair.sockets.began:
            break
    else:
        pytest.skip("this kernel does not tell the moment of a packet")
    assert moment < pair.sockets.began - 0.04
    assert before - 0.005 < moment < after + 0.005


def test_what_is_written_arrives_however_slowly_it_is_read(pair: Pair) -> None:
    said = bytes(range(256)) * 40_000  # ten megabytes: more than the kernel takes at once
    for begin in range(0, len(said), 1_000_000):
        pair.pipe.write(said[begin : begin + 1_000_000])
    pair.pipe.close()
    pair.other.setblocking(False)
    heard = bytearray()

    def all_heard() -> bool:
        try:
            heard.extend(pair.other.recv(1 << 20))
        except BlockingIOError:
            return False
        return len(heard) == len(said)

    rounds(pair.sockets, all_heard)
    assert bytes(heard) == said
    rounds(pair.sockets, lambda: pair.reader.lost == 1)  # closed when all was written
    pair.other.settimeout(60)
    assert pair.other.recv(1) == b""


def test_much_data_takes_several_rounds(pair: Pair) -> None:
    said = b"y" * (3 * READ + 5)
    pair.other.sendall(said)
    rounds(pair.sockets, lambda: pair.reader.data == said)


def test_the_end_of_the_other_side_is_told_once(pair: Pair) -> None:
    pair.other.sendall(b"last")
    pair.other.close()
    rounds(pair.sockets, lambda: bool(pair.reader.lost))
    assert pair.reader.data == b"last"
    pair.pipe.write(b"nobody is there")
    pair.pipe.abort()
    pair.sockets.round()
    assert pair.reader.lost == 1


def test_a_reset_is_an_end(pair: Pair) -> None:
    pair.other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    pair.other.close()

    def written() -> bool:
        pair.pipe.write(b"x")
        return bool(pair.reader.lost)

    rounds(pair.sockets, written)
    assert pair.reader.lost == 1


def test_who_gives_up_is_told_in_the_round_and_not_before(pair: Pair) -> None:
    pair.reader.then = pair.pipe.abort
    pair.other.sendall(b"x")
    rounds(pair.sockets, lambda: bool(pair.reader.data))
    assert pair.reader.lost == 1
    assert pair.other.recv(1) == b""


def test_one_that_ends_another_of_the_same_round_does_no_harm(pair: Pair) -> None:
    others = [Reader() for _ in range(2)]
    pipes = [pair.more(reader) for reader in others]
    others[0].then, others[1].then = pipes[1][0].abort, pipes[0][0].abort
    for _, other in pipes:
        other.sendall(b"x")
        other.shutdown(socket.SHUT_WR)
    for pipe, _ in pipes:
        select.select([pipe._socket], [], [], 60)
    rounds(pair.sockets, lambda: sum(reader.lost for reader in others) == 2)
    assert sorted(len(reader.data) for reader in others) == [0, 1]
    for _, other in pipes:
        other.close()


def test_who_does_not_read_any_more_hears_nothing_but_the_end(pair: Pair) -> None:
    pair.pipe.pause_reading()
    pair.other.sendall(b"x")
    select.select([pair.pipe._socket], [], [], 60)
    pair.sockets.round()
    assert (pair.reader.data, pair.reader.lost) == (b"", 0)
    pair.other.close()
    rounds(pair.sockets, lambda: bool(pair.reader.lost))
    assert (pair.reader.data, pair.reader.lost) == (b"", 1)
    assert pair.pipe._socket.fileno() < 0
    pair.pipe.pause_reading()
    pair.pipe.abort()
    pair.sockets.round()
    assert pair.reader.lost == 1
