"""WebSocket frames of a server, without I/O: bytes to messages, and messages to bytes.

Source: RFC 6455, sections 5 to 7. No extension is ever agreed on, so every reserved bit is an error.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # built without its C part
    from websockets.utils import apply_mask

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
NO_STATUS: Final = 1005  # never on the wire: the peer's close frame had no code
ABNORMAL: Final = 1006  # never on the wire: the peer was gone without a close frame
INVALID_DATA: Final = 1007
TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012

_KNOWN: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
# Each by itself, and Final: what is compiled has them in the code then, and looks for none of them.
_FIN: Final = 0x80
_RESERVED: Final = 0x70
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_TWO_BYTES: Final = 126
_EIGHT_BYTES: Final = 127
_MIDDLE: Final = 8  # bytes of the head of a masked frame whose length takes two bytes
_CONTROL_LIMIT: Final = 125
_CLOSED_BY_PEER: Final = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})

_SHORT, _LONG, _LONGEST = Struct("!BB"), Struct("!BBH"), Struct("!BBQ")
_CODE = Struct("!H")
_LENGTH_64 = Struct("!Q")


@dataclass(frozen=True, slots=True)
class Ping:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The peer's close frame."""

    code: int  # 1005: it had none
    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The peer has broken the protocol, and is told so by `code`."""

    code: int
    problem: str


Event = str | bytes | Ping | Pong | Closed | Broken  # a str is a text message, bytes are a binary one


class _BrokenError(Exception):
    def __init__(self, code: int, problem: str) -> None:
        super().__init__(problem)
        self.code, self.problem = code, problem


class Parser:
    """What a client sends, cut anywhere, to events. After Closed or Broken there are none.

    A length in more bytes than it needs is taken, as other servers do; everything else that the RFC forbids is Broken,
    as soon as the head of the frame, or for text the frame, is there.

    Args:
        max_size: bytes of a whole message.
    """

    def __init__(self, max_size: int) -> None:
        self.is_over = False
        self._max_size = max_size
        self._rest = bytearray()  # of a frame that is not all there
        self._needed = 0  # of `_rest`, to go on
        self._opcode = CONTINUATION  # of the message whose fragments come; CONTINUATION: there is none
        self._fragments = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def message(self, data: bytes) -> str | bytes | None:
        """The message that `data` is, where that is all: one frame, as almost all are. None: see `feed`."""
        size = len(data)
        if size < _MIDDLE or data[1] != _MASKED | _TWO_BYTES or self._rest or self._opcode or self.is_over:
            return None
        length = (data[2] << 8) | data[3]
        if length + _MIDDLE != size or length > self._max_size:
            return None
        first = data[0]
        if first == _FIN | BINARY:
            return apply_mask(data[_MIDDLE:], data[4:_MIDDLE])
        if first == _FIN | TEXT:
            try:
                return apply_mask(data[_MIDDLE:], data[4:_MIDDLE]).decode()
            except UnicodeDecodeError:
                return None
        return None

    def feed(self, data: bytes) -> list[Event]:
        """What `data` completes."""
        if self.is_over:
            return []
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        events: list[Event] = []
        try:
            used = self._take(data, events)
        except _BrokenError as exc:
            events.append(Broken(exc.code, exc.problem))
            self._give_up()
            return events
        if used < len(data) and not self.is_over:
            self._rest += memoryview(data)[used:] if used else data
        return events

    def _take(self, data: bytes, events: list[Event]) -> int:
        """Every whole frame in `data`; how many bytes that was."""
        at, end = 0, len(data)
        while end - at >= 2:
            first, second = data[at], data[at + 1]
            opcode = first & _OPCODE
            if first & (_FIN | _RESERVED) != _FIN or not TEXT <= opcode <= BINARY or self._opcode:
                self._check(first)
            if not second & _MASKED:
                raise _BrokenError(PROTOCOL_ERROR, "a frame that is not masked")
            length = second & _LENGTH
            head = at + 2
            if length == _TWO_BYTES:
                head = at + 4
                if end < head:
                    self._needed = head - at
                    return at
                length = (data[at + 2] << 8) | data[at + 3]
            elif length == _EIGHT_BYTES:
                head = at + 10
                if end < head:
                    self._needed = head - at
                    return at
                (length,) = _LENGTH_64.unpack_from(data, at + 2)
            if opcode & CLOSE:
                if length > _CONTROL_LIMIT:
                    raise _BrokenError(PROTOCOL_ERROR, "a control frame that is too long")
            elif length + len(self._fragments) > self._max_size:
                raise _BrokenError(TOO_BIG, "a message that is too big")
            start = head + 4
            stop = start + length
            if end < stop:
                self._needed = stop - at
                return at
            payload = apply_mask(data[start:stop], data[head:start])
            at = stop
            if first == _FIN | TEXT:
                events.append(_text(payload))
            elif first == _FIN | BINARY:
                events.append(payload)
            elif opcode & CLOSE:
                events.append(_CONTROLS[opcode](payload))
                if opcode == CLOSE:
                    self._give_up()
                    return end
            else:
                self._fragment(opcode, payload, bool(first & _FIN), events)
        self._needed = 2
        return at

    def _check(self, first: int) -> None:
        """The first byte of a frame, where it is not that of a message in one piece."""
        opcode = first & _OPCODE
        if first & _RESERVED:
            raise _BrokenError(PROTOCOL_ERROR, "a reserved bit")
        if opcode not in _KNOWN:
            raise _BrokenError(PROTOCOL_ERROR, "an unknown opcode")
        if opcode & CLOSE:
            if not first & _FIN:
                raise _BrokenError(PROTOCOL_ERROR, "a control frame in fragments")
        elif opcode == CONTINUATION and not self._opcode:
            raise _BrokenError(PROTOCOL_ERROR, "a continuation of nothing")
        elif opcode != CONTINUATION and self._opcode:
            raise _BrokenError(PROTOCOL_ERROR, "a message inside another")

    def _fragment(self, opcode: int, payload: bytes, final: bool, events: list[Event]) -> None:
        if opcode != CONTINUATION:
            self._opcode = opcode
            self._decoder.reset()
        self._fragments += payload
        if self._opcode == TEXT:
            try:
                self._decoder.decode(payload, final)  # for its errors: they show before the message is all there
            except UnicodeDecodeError:
                raise _BrokenError(INVALID_DATA, "text that is not UTF-8") from None
        if final:
            events.append(self._fragments.decode() if self._opcode == TEXT else bytes(self._fragments))
            self._opcode = CONTINUATION
            self._fragments = bytearray()

    def _give_up(self) -> None:
        self.is_over = True
        self._rest, self._fragments = bytearray(), bytearray()


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise _BrokenError(INVALID_DATA, "text that is not UTF-8") from None


def _closed(payload: bytes) -> Closed:
    if not payload:
        return Closed(NO_STATUS, "")
    if len(payload) == 1:
        raise _BrokenError(PROTOCOL_ERROR, "half a close code")
    (code,) = _CODE.unpack_from(payload)
    reason = _text(payload[_CODE.size :])
    if code not in _CLOSED_BY_PEER:
        raise _BrokenError(PROTOCOL_ERROR, "a close code that may not be sent")
    return Closed(code, reason)


_CONTROLS: dict[int, Callable[[bytes], Event]] = {CLOSE: _closed, PING: Ping, PONG: Pong}


# ---------------------------------------------------------------- what we send


def _frame(opcode: int, payload: bytes) -> bytes:
    length = len(payload)
    if length < _TWO_BYTES:
        return _SHORT.pack(_FIN | opcode, length) + payload
    if length < 0x10000:
        return _LONG.pack(_FIN | opcode, _TWO_BYTES, length) + payload
    return _LONGEST.pack(_FIN | opcode, _EIGHT_BYTES, length) + payload


def message(data: str | bytes) -> bytes:
    """A whole message in one frame. Raises UnicodeEncodeError where a text has half a character."""
    return _frame(TEXT, data.encode()) if isinstance(data, str) else _frame(BINARY, data)


def ping(payload: bytes) -> bytes:
    """Raises ValueError where it is longer than 125 bytes."""
    return _control(PING, payload)


def pong(payload: bytes) -> bytes:
    """Raises ValueError where it is longer than 125 bytes."""
    return _control(PONG, payload)


def close(code: int = NO_STATUS, reason: str = "") -> bytes:
    """1005 is a close frame without a code. A reason is cut where it is too long.

    Raises:
        ValueError: a code that may not be sent.
    """
    if code == NO_STATUS:
        return _control(CLOSE, b"")
    if code not in _CLOSED_BY_PEER:
        raise ValueError(f"{code} is no code that a close frame may have")
    text = reason.encode()[: _CONTROL_LIMIT - _CODE.size].decode(errors="ignore")
    return _control(CLOSE, _CODE.pack(code) + text.encode())


def _control(opcode: int, payload: bytes) -> bytes:
    if len(payload) > _CONTROL_LIMIT:
        raise ValueError(f"a control frame of {len(payload)} bytes, more than {_CONTROL_LIMIT}")
    return _frame(opcode, payload)
