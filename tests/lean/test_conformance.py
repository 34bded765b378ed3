"""What a WebSocket server must do with whatever a client sends, in the manner of the Autobahn test suite.

The cases are numbered like its families 1 to 7 and 9, and tried on our protocol class, in both of its ways, and on the
stock one, so that they say what a server does and not what ours happens to do. Everything is echoed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lean.line import ECHOES, LIMIT, Served, close_of, masked, run

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

Said = tuple[int, bytes]


@dataclass(frozen=True)
class Case:
    name: str
    sends: tuple[bytes, ...]  # one after the other; each may be part of a frame, or several
    hears: tuple[Said, ...] = ()  # messages and pongs
    closes: int | None = None  # the server's code: it ends the connection; None: it goes on
    early: bool = False  # ends it before the last of `sends`; the stock one may need them all


def octets(data: bytes, size: int = 1) -> tuple[bytes, ...]:
    return tuple(data[at : at + size] for at in range(0, len(data), size))


def fragments(opcode: int, payload: bytes, size: int) -> tuple[bytes, ...]:
    """A message in frames of `size` bytes."""
    pieces = octets(payload, size) or (b"",)
    last = len(pieces) - 1
    return tuple(masked(0 if n else opcode, piece, fin=n == last) for n, piece in enumerate(pieces))


def sizes() -> Iterator[Case]:
    """1: messages of every length there is a notation for."""
    for opcode, unit in ((TEXT, b"*"), (BINARY, b"\xfe")):
        for size in (0, 1, 125, 126, 127, 128, 65_535, 65_536):
            payload = unit * size
            yield Case(f"1 {opcode} of {size}", (masked(opcode, payload),), ((opcode, payload),))
        payload = unit * 65_536
        yield Case(f"1 {opcode} in chops", octets(masked(opcode, payload), 997), ((opcode, payload),))
    yield Case("1 two in one go", (masked(1, b"a") + masked(2, b"b"),), ((TEXT, b"a"), (BINARY, b"b")))
    yield Case("1 a length in more bytes than it needs", (masked(1, b"a", wide=8),), ((TEXT, b"a"),))


def pings() -> Iterator[Case]:
    """2: pings and pongs."""
    for payload in (b"", b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125):
        yield Case(f"2 ping of {len(payload)}", (masked(PING, payload),), ((PONG, payload),))
    yield Case("2 a ping too long", (masked(PING, b"\xfe" * 126),), closes=1002)
    yield Case("2 a ping by octets", octets(masked(PING, b"\xfe" * 125)), ((PONG, b"\xfe" * 125),))
    yield Case("2 a pong nobody asked for", (masked(PONG), masked(PONG, b"payload")))
    yield Case("2 pong, ping", (masked(PONG, b"no"), masked(PING, b"yes")), ((PONG, b"yes"),))
    ten = tuple(masked(PING, b"payload-%d" % n) for n in range(10))
    answers = tuple((PONG, b"payload-%d" % n) for n in range(10))
    yield Case("2 ten pings", ten, answers)
    yield Case("2 ten pings by octets", octets(b"".join(ten)), answers)


def reserved() -> Iterator[Case]:
    """3, 4: bits and opcodes that nobody has given a meaning."""
    hello = masked(TEXT, b"Hello")
    heard = ((TEXT, b"Hello"),)
    for bits in range(1, 8):
        for opcode in (TEXT, BINARY, PING, CLOSE):
            bad = masked(opcode, b"" if opcode == CLOSE else b"x", reserved=bits)
            yield Case(f"3 bits {bits} of {opcode}", (hello, bad, masked(PING)), heard, 1002)
    yield Case("3 bits by octets", (*octets(hello), *octets(masked(TEXT, b"x", reserved=4))), heard, 1002)
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        for payload in (b"", b"payload"):
            yield Case(f"4 {opcode} of {len(payload)}", (hello, masked(opcode, payload), masked(PING)), heard, 1002)
    yield Case("4 by octets", (*octets(hello), *octets(masked(11, b"x"))), heard, 1002)
    yield Case("4 not masked", (hello, masked(TEXT, b"x", mask=None)), heard, 1002)
    yield Case("4 a length that cannot be", (hello, masked(TEXT, b"", says=2**64 - 1)), heard, 1009)


def in_fragments() -> Iterator[Case]:
    """5: messages in fragments, and control frames between them."""
    first, last = masked(TEXT, b"fragment1", fin=False), masked(0, b"fragment2")
    both = ((TEXT, b"fragment1fragment2"),)
    alone = masked(0, b"not a continuation")
    open_end = masked(0, b"not a continuation", fin=False)
    text = masked(TEXT, b"Hello")
    yield Case("5.1 a ping in fragments", (masked(PING, b"a", fin=False), masked(0, b"b")), closes=1002)
    yield Case("5.2 a pong in fragments", (masked(PONG, b"a", fin=False), masked(0, b"b")), closes=1002)
    yield Case("5.3 two frames", (first, last), both)
    yield Case("5.4 in one go", (first + last,), both)
    yield Case("5.5 by octets", octets(first + last), both)
    ping = masked(PING, b"ping")
    yield Case("5.6 a ping between", (first, ping, last), ((PONG, b"ping"), *both))
    yield Case("5.7 in one go", (first + ping + last,), ((PONG, b"ping"), *both))
    yield Case("5.8 by octets", octets(first + ping + last), ((PONG, b"ping"), *both))
    for name, bad in (("final", alone), ("open", open_end)):
        yield Case(f"5.9 a continuation of nothing, {name}", (bad, text), closes=1002)
        yield Case(f"5.11 by octets, {name}", octets(bad), closes=1002)
        yield Case(f"5.15 after a message, {name}", (first, last, bad, text), both, 1002)
    yield Case("5.18 a message inside another", (first, masked(TEXT, b"x")), closes=1002)
    yield Case("5.18 a binary one", (first, masked(BINARY, b"x", fin=False)), closes=1002)
    five = tuple(masked(0 if n else TEXT, b"fragment%d" % n, fin=n == 4) for n in range(5))
    whole = ((TEXT, b"fragment0fragment1fragment2fragment3fragment4"),)
    between = (*five[:2], masked(PING, b"1"), *five[2:4], masked(PING, b"2"), five[4])
    yield Case("5.19 five, with pings", between, ((PONG, b"1"), (PONG, b"2"), *whole))
    yield Case("5.20 in one go", (b"".join(between),), ((PONG, b"1"), (PONG, b"2"), *whole))
    yield Case("5.20 by octets", octets(b"".join(between)), ((PONG, b"1"), (PONG, b"2"), *whole))
    yield Case("5.21 one of nothing", (first, masked(0, b"", fin=False), last), both)
    yield Case("5.22 binary", (masked(BINARY, b"\xff", fin=False), masked(0, b"\xfe")), ((BINARY, b"\xff\xfe"),))


GREEK = "κόσμε".encode()
GOOD_TEXT = (
    GREEK,
    "Hello-µ@ßöäüàá-UTF-8!!".encode(),
    b"\x00",
    b"\x7f",
    b"\xc2\x80",
    b"\xdf\xbf",
    b"\xe0\xa0\x80",
    b"\xed\x9f\xbf",
    b"\xee\x80\x80",
    b"\xef\xbf\xbd",
    b"\xef\xbf\xbf",
    b"\xf0\x90\x80\x80",
    b"\xf4\x8f\xbf\xbf",
)
BAD_TEXT = (
    GREEK + b"\xed\xa0\x80edited",  # half a character of UTF-16
    b"\x80",
    b"\xbf",
    b"\x80\xbf\x80\xbf",
    b"\xc0 \xc1 \xdf ",
    b"\xe0 \xef ",
    b"\xf0 \xf7 ",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xc0\xaf",  # more bytes than it needs
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xc1\xbf",
    b"\xe0\x9f\xbf",
    b"\xf0\x8f\xbf\xbf",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xed\xaf\xbf",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\xf4\x90\x80\x80",  # past the last one
    b"\xf7\xbf\xbf\xbf",
    b"\xce",  # cut off
    b"\xe1\x80",
    b"\xf1\x80\x80",
)


def texts() -> Iterator[Case]:
    """6: text is UTF-8."""
    yield Case("6.1 nothing", (masked(TEXT),), ((TEXT, b""),))
    yield Case("6.1 nothing, thrice", fragments(TEXT, b"", 1), ((TEXT, b""),))
    for n, payload in enumerate(GOOD_TEXT):
        yield Case(f"6.2 good {n}", (masked(TEXT, payload),), ((TEXT, payload),))
        yield Case(f"6.2 good {n}, each octet a frame", fragments(TEXT, payload, 1), ((TEXT, payload),))
    for n, payload in enumerate(BAD_TEXT):
        yield Case(f"6.3 bad {n}", (masked(TEXT, payload),), closes=1007)
        yield Case(f"6.3 bad {n}, each octet a frame", fragments(TEXT, payload, 1), closes=1007)
    bad = (masked(TEXT, GREEK, fin=False), masked(0, b"\xf4\x90\x80\x80", fin=False), masked(0, b"edited"))
    yield Case("6.4 at once, not at its end", bad, closes=1007, early=True)
    yield Case(
        "6.5 any octets are binary", (masked(BINARY, b"\xf4\x90\x80\x80\xff"),), ((BINARY, b"\xf4\x90\x80\x80\xff"),)
    )


def closing() -> Iterator[Case]:
    """7: the closing handshake."""
    text = masked(TEXT, b"Hello")
    heard = ((TEXT, b"Hello"),)
    yield Case("7.1.1 message, close", (text, close_of(1000)), heard, 1000)
    yield Case("7.1.2 two closes", (close_of(1000) + close_of(1001),), closes=1000)
    yield Case("7.1.3 a ping after it", (close_of(1000) + masked(PING),), closes=1000)
    yield Case("7.1.4 a message after it", (close_of(1000) + text,), closes=1000)
    yield Case("7.1.5 a fragment after it", (close_of(1000) + masked(0, b"x"),), closes=1000)
    yield Case("7.1.6 behind much", (masked(TEXT, b"*" * 262_144) + close_of(1000) + masked(PING),), (), 1000)
    yield Case("7.3.1 without a payload", (masked(CLOSE),), closes=1005)
    yield Case("7.3.2 of one byte", (masked(CLOSE, b"a"),), closes=1002)
    yield Case("7.3.3 with a code", (close_of(1000),), closes=1000)
    yield Case("7.3.4 with a reason", (close_of(1000, b"Hello World!"),), closes=1000)
    yield Case("7.3.5 with a long one", (close_of(1000, b"*" * 123),), closes=1000)
    yield Case("7.3.6 with one too long", (close_of(1000, b"*" * 124),), closes=1002)
    yield Case("7.5 with one that is no text", (close_of(1000, GREEK + b"\xed\xa0\x80"),), closes=1007)
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999):
        yield Case(f"7.7 code {code}", (close_of(code),), closes=code)
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535):
        yield Case(f"7.9 code {code}", (close_of(code),), closes=1002)
        yield Case(f"7.9 code {code}, with a reason", (close_of(code, b"reason"),), closes=1002)
    yield Case("7.13 by octets", octets(close_of(1000, b"bye")), closes=1000)


def masses() -> Iterator[Case]:
    """9: large messages, and many."""
    for opcode, unit in ((TEXT, b"*"), (BINARY, b"\x00\xfe")):
        payload = unit * (262_144 // len(unit))
        yield Case(f"9.1 {opcode} large", (masked(opcode, payload),), ((opcode, payload),))
        yield Case(f"9.3 {opcode} in fragments", fragments(opcode, payload, 4096), ((opcode, payload),))
        yield Case(f"9.5 {opcode} in chops", octets(masked(opcode, payload), 8192), ((opcode, payload),))
        many = b"".join(masked(opcode, unit * 64) for _ in range(300))
        yield Case(f"9.7 {opcode} many", (many,), ((opcode, unit * 64),) * 300)
        yield Case(
            f"9.8 {opcode} as large as may be", (masked(opcode, b"a" * 1_048_576),), ((opcode, b"a" * 1_048_576),)
        )
        yield Case(f"9.9 {opcode} too large", (masked(opcode, b"a" * 1_048_577),), closes=1009)
    too_many = (masked(TEXT, b"a" * (LIMIT - 500), fin=False), masked(0, b"a" * 501))
    yield Case("9.9 too large in fragments", too_many, closes=1009)


CASES = [*sizes(), *pings(), *reserved(), *in_fragments(), *texts(), *closing(), *masses()]
# The stock one hands on nothing that came in one go with what ends the connection.
CUT_SHORT = {"7.1.6 behind much"}


@pytest.mark.parametrize("server", ECHOES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, server: str) -> None:
    async def main() -> None:
        line = await Served(*ECHOES[server]).open()
        sends = case.sends[:-1] if case.early and server != "websockets" else case.sends
        await line.send(*sends)
        said = [each for each in line.said if each[0] != CLOSE]
        if case.name not in CUT_SHORT:
            assert said == list(case.hears)
        assert line.closed_with == case.closes
        assert line.has_ended == (case.closes is not None)
        if case.closes is None:  # and it still works
            await line.send(masked(TEXT, b"still there?"))
            assert line.said[-1] == (TEXT, b"still there?")
        await line.hang_up()

    run(main())


def test_no_case_hides_another() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 200


def test_a_code_is_said_as_it_came() -> None:
    """The close frame itself, byte by byte: nothing but the code."""

    async def main() -> None:
        line = await Served(*ECHOES["lean"]).open()
        await line.send(close_of(4321, b"because"))
        assert line.said == [(CLOSE, struct.pack("!H", 4321))]
        await line.hang_up()

    run(main())
