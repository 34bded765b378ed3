"""Sockets that are read in rounds: what comes counts when they are read, what is said leaves at once, and every odd end
is the event loop's again. On real sockets; a build that is not compiled gets a stand-in for the C that reads them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.lean import EXTENSION, DirectSocket
from gateway.lean import rounds as module
from gateway.lean import socket as lean
from gateway.lean.rounds import IS_POSSIBLE, Member, Rounds
from tests.lean.line import close_of, masked, request, until

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
ROOM = 65_536  # bytes of one socket in one look

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="rounds are read by epoll")
interpreted = pytest.mark.skipif(IS_POSSIBLE, reason="a compiled build takes no other members than its own")


class StandIn:
    """What gateway/lean/sysio.c is."""

    EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
    GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

    def watch(self, epoll: int, number: int) -> None:
        select.epoll.fromfd(os.dup(epoll)).register(number, self.EVENTS)

    def read(self, epoll: int, members: dict[int, Member]) -> list[tuple[Member, bytes | None]]:
        poll, found = select.epoll.fromfd(os.dup(epoll)), []
        for number, event in poll.poll(0):
            data: bytes | None = None
            if not event & self.GONE:
                with contextlib.suppress(ConnectionError):
                    try:
                        data = os.read(number, ROOM) or None
                    except BlockingIOError:
                        continue
                if data is not None and len(data) == ROOM:
                    poll.modify(number, self.EVENTS)
            found.append((members[number], data))
        return found

    def send(self, number: int, data: bytes) -> int:
        try:
            return os.write(number, data)
        except (BlockingIOError, ConnectionError):
            return 0


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    if not IS_POSSIBLE:
        monkeypatch.setattr(module, "sysio", StandIn())
        monkeypatch.setattr(lean, "IS_POSSIBLE", True)


class Taking:
    """An application whose sockets are taken over, and read when the test says so."""

    def __init__(self) -> None:
        self.rounds = Rounds()
        self.heard: list[str | bytes] = []
        self.codes: list[int] = []
        self.writable = 0
        self.socket: DirectSocket | None = None
        self.answers = True
        self.over = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        self.socket = scope["extensions"][EXTENSION]["take_over"](self)
        assert self.socket is not None
        self.socket.send("welcome")  # behind the handshake's answer, though both are of one turn
        self.socket.read_in(self.rounds)
        self.socket.send("come in")
        await self.over.wait()

    def on_message(self, data: str | bytes) -> None:
        self.heard.append(data)
        if data == "fail":
            raise LookupError("as the test wants it")
        if self.answers and self.socket is not None:
            self.socket.send(data)

    def on_writable(self) -> None:
        self.writable += 1

    def on_close(self, code: int) -> None:
        self.codes.append(code)
        self.over.set()


class Caller:
    """The client's end of a connection; it blocks, for what it waits for is on its way already."""

    def __init__(self, port: int, *, small: bool = False) -> None:
        self.socket = socket.socket()
        if small:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(request())

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the end of the connection"
            data += more
        return data

    def frame(self) -> tuple[int, bytes]:
        first, size = self.exactly(2)
        if size == 126:
            size = int.from_bytes(self.exactly(2), "big")
        elif size == 127:
            size = int.from_bytes(self.exactly(8), "big")
        return first & 0x0F, self.exactly(size)

    def welcomed(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.exactly(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert [self.frame(), self.frame()] == [(TEXT, b"welcome"), (TEXT, b"come in")]


@contextlib.asynccontextmanager
async def answering(app: Taking, **caller: Any) -> AsyncIterator[Caller]:
    state = ServerState()
    config = Config(app, ws_max_size=1 << 24, ws_ping_interval=None, log_config=None, lifespan="off")
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: lean.LeanSocket(config=config, server_state=state, app_state={}),  # type: ignore[arg-type,return-value]
        "127.0.0.1",
        0,
    )
    port = server.sockets[0].getsockname()[1]
    line = await loop.run_in_executor(None, lambda: Caller(port, **caller))
    try:
        await loop.run_in_executor(None, line.welcomed)
        yield line
    finally:
        line.socket.close()
        async with asyncio.timeout(10):
            while state.connections or state.tasks:
                app.rounds.read()
                await asyncio.sleep(0.001)
        server.close()
        await server.wait_closed()
        assert not app.rounds


def run(main: Coroutine[Any, Any, None], loop: str = "uvloop") -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.sleep(0))  # the first loop of a process opens what it keeps
    before = open_files()
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(main, 60))
    assert open_files() == before


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def read_until(app: Taking, done: Callable[[], object]) -> None:
    while not done():
        app.rounds.read()
        await asyncio.sleep(0)


# ---------------------------------------------------------------- packets


@pytest.mark.parametrize("loop", LOOPS)
def test_what_comes_counts_when_it_is_read_and_what_is_said_leaves_at_once(loop: str) -> None:
    async def main() -> None:
        app = Taking()
        async with answering(app) as line:
            line.socket.sendall(masked(TEXT, b"one") + masked(BINARY, b"two") + masked(TEXT, b"three")[:4])
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert app.heard == []
            app.rounds.read()
            assert app.heard == ["one", b"two"]
            assert [line.frame(), line.frame()] == [(TEXT, b"one"), (BINARY, b"two")]  # the loop has had no turn
            line.socket.sendall(masked(TEXT, b"three")[4:])
            app.rounds.read()
            assert line.frame() == (TEXT, b"three")
            app.rounds.read()
            assert len(app.heard) == 3

    run(main(), loop)


def test_a_message_that_is_longer_than_one_look() -> None:
    """Of what a look leaves the kernel would not tell again."""

    async def main() -> None:
        app = Taking()
        app.answers = False
        async with answering(app) as line:
            long = os.urandom(40 * ROOM)
            sender = threading.Thread(target=line.socket.sendall, args=(masked(BINARY, long) + masked(TEXT, b"end"),))
            sender.start()
            await read_until(app, lambda: len(app.heard) == 2)
            sender.join()
            assert app.heard == [long, "end"]

    run(main())


def test_control_frames_between_messages() -> None:
    async def main() -> None:
        app = Taking()
        async with answering(app) as line:
            line.socket.sendall(masked(PING, b"there?") + masked(TEXT, b"yes"))
            app.rounds.read()
            assert [line.frame(), line.frame()] == [(PONG, b"there?"), (TEXT, b"yes")]

    run(main())


# ---------------------------------------------------------------- a peer that does not read


@pytest.mark.parametrize("loop", LOOPS)
def test_a_peer_that_reads_late_gets_everything_in_order(loop: str) -> None:
    """What the socket does not take is the transport's, and so is all that follows until that is out."""

    async def main() -> None:
        app = Taking()
        async with answering(app, small=True) as line:
            assert app.socket is not None
            said: list[tuple[int, bytes]] = []
            while app.socket.is_writable:
                said.append((BINARY, os.urandom(30_000)))
                app.socket.send(said[-1][1])
            await asyncio.sleep(0.01)
            line.socket.sendall(masked(PING, b"busy?") + masked(TEXT, b"between"))
            app.rounds.read()
            said.append((TEXT, b"between"))

            heard: list[tuple[int, bytes]] = []
            reader = threading.Thread(target=lambda: heard.extend(line.frame() for _ in range(len(said) + 2)))
            reader.start()
            await until(lambda: app.writable)
            app.socket.send("at last")
            said.append((TEXT, b"at last"))
            await until(lambda: not reader.is_alive())
            assert [frame for frame in heard if frame[0] != PONG] == said
            assert [frame for frame in heard if frame[0] == PONG] == [(PONG, b"busy?")]
            app.socket.send("and at once again")
            assert line.frame() == (TEXT, b"and at once again")

    run(main(), loop)


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("says", [b"", masked(TEXT, b"last words")])
def test_a_peer_that_is_gone(loop: str, says: bytes) -> None:
    """Together with its last words, which still count."""

    async def main() -> None:
        app = Taking()
        async with answering(app) as line:
            line.socket.sendall(says)
            line.socket.shutdown(socket.SHUT_WR)
            await read_until(app, lambda: app.codes)
            assert app.codes == [1006]
            assert app.heard == (["last words"] if says else [])

    run(main(), loop)


def test_a_connection_that_is_reset() -> None:
    async def main() -> None:
        app = Taking()
        async with answering(app) as line:
            line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            line.socket.close()
            await asyncio.sleep(0.01)
            assert app.socket is not None
            app.socket.send("into the void")  # the write fails before the read has told
            await read_until(app, lambda: app.codes)
            assert app.codes == [1006]

    run(main())


def test_the_peer_closes() -> None:
    async def main() -> None:
        app = Taking()
        async with answering(app) as line:
            line.socket.sendall(masked(TEXT, b"bye") + close_of(1000))
            app.rounds.read()
            assert app.codes == [1000]
            assert [line.frame(), line.frame()] == [(TEXT, b"bye"), (CLOSE, b"\x03\xe8")]
            assert not app.rounds

    run(main())


def test_the_call_closes_and_the_loop_hears_the_peer_agree() -> None:
    async def main() -> None:
        app = Taking()
        async with answering(app) as line:
            assert app.socket is not None
            app.socket.close(1000)
            assert line.frame() == (CLOSE, b"\x03\xe8")
            assert not app.rounds
            app.over.set()
            line.socket.sendall(close_of(1000))
            assert await asyncio.get_running_loop().run_in_executor(None, line.socket.recv, 1) == b""

    run(main())


def test_a_frame_that_breaks_the_protocol() -> None:
    async def main() -> None:
        app = Taking()
        async with answering(app) as line:
            line.socket.sendall(masked(3, b"what?"))
            app.rounds.read()
            assert app.codes == [1002]
            opcode, payload = line.frame()
            assert (opcode, payload[:2]) == (CLOSE, b"\x03\xea")

    run(main())


def test_a_call_that_fails_ends_its_own_socket_alone() -> None:
    async def main() -> None:
        app = Taking()
        async with answering(app) as line, answering(other := Taking()) as beside:
            line.socket.sendall(masked(TEXT, b"fail"))
            beside.socket.sendall(masked(TEXT, b"fine"))
            app.rounds.read()
            other.rounds.read()
            opcode, payload = line.frame()
            assert (opcode, payload[:2]) == (CLOSE, b"\x03\xf3")
            assert beside.frame() == (TEXT, b"fine")

    run(main())


def test_without_rounds_the_loop_reads_again() -> None:
    async def main() -> None:
        app = Taking()
        async with answering(app) as line:
            line.socket.sendall(masked(TEXT, b"before"))
            app.rounds.stop()
            assert not app.rounds
            await until(lambda: app.heard)
            line.socket.sendall(masked(TEXT, b"after"))
            await until(lambda: len(app.heard) == 2)
            assert app.heard == ["before", "after"]

    run(main())


# ---------------------------------------------------------------- members


@interpreted
def test_what_cannot_be_watched_leaves_no_descriptor() -> None:
    with Path(__file__).open() as file:
        together, before = Rounds(), open_files()
        with pytest.raises(PermissionError):
            together.add(file.fileno(), Member())
        assert not together
        assert open_files() == before


def pair() -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair()
    one.setblocking(False)
    return one, other


@interpreted
def test_one_that_fails_takes_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        def __init__(self, number: int) -> None:
            self.number = number
            self.told: list[object] = []
            together.add(number, self)  # type: ignore[arg-type]

        def data_received(self, data: bytes) -> None:
            if data == b"fail":
                raise LookupError("as the test wants it")
            self.told.append(data)

        def hand_back(self) -> None:
            self.told.append(None)
            together.discard(self.number)

        def abort(self) -> None:
            self.told.append("aborted")
            together.discard(self.number)

    together = Rounds()
    pairs = [pair() for _ in range(3)]
    members = [Odd(here.fileno()) for here, _ in pairs]
    for _, there in pairs[:2]:
        there.send(b"fail" if there is pairs[0][1] else b"fine")
    pairs[2][1].close()
    together.read()
    assert [member.told for member in members] == [["aborted"], [b"fine"], [None]]
    assert len(together) == 1
    assert "LookupError: as the test wants it" in caplog.text
    together.stop()
    assert members[1].told == [b"fine", None]
    assert not together
    together.read()
    for here, there in pairs:
        here.close()
        there.close()
