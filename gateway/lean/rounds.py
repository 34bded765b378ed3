"""Sockets that are read together, in rounds, instead of by an event loop that is woken for each packet.

Waking costs more than a packet does: what it takes to handle one has left the processor's caches between two of them.
The compiled build has what reads them (gateway/lean/sysio.c); without it `IS_POSSIBLE` is False, and sockets stay with
the loop.
"""

from __future__ import annotations

import logging
import select
from typing import Final

try:
    from gateway.lean import sysio
except ImportError:  # not compiled, or no Linux
    sysio = None  # type: ignore[assignment]

IS_POSSIBLE: Final = sysio is not None

log = logging.getLogger("gateway.lean")


class Member:
    """Whose socket is read in rounds."""

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError

    def hand_back(self) -> None:
        """To the loop: the socket has come to an end, or the rounds have."""
        raise NotImplementedError

    def abort(self) -> None:
        """It failed: its socket is closed at once."""
        raise NotImplementedError


class Rounds:
    """Holds no descriptor while it has no members."""

    def __init__(self) -> None:
        self._members: dict[int, Member] = {}  # by the numbers of their sockets
        self._epoll: select.epoll | None = None

    def __len__(self) -> int:
        return len(self._members)

    def add(self, number: int, member: Member) -> None:
        """`number`: of a plain socket that nobody else reads. Raises OSError."""
        if self._epoll is None:
            self._epoll = select.epoll()
        try:
            sysio.watch(self._epoll.fileno(), number)
            self._members[number] = member
        finally:
            self._close_if_idle()

    def discard(self, number: int) -> None:
        """Before the socket is closed."""
        if self._members.pop(number, None) is not None and self._epoll is not None:
            self._epoll.unregister(number)
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._epoll is not None and not self._members:
            self._epoll.close()
            self._epoll = None

    def read(self) -> None:
        """One look at all of them."""
        if self._epoll is None:
            return
        for member, data in sysio.read(self._epoll.fileno(), self._members):
            try:
                if data is None:
                    member.hand_back()
                else:
                    member.data_received(data)
            except Exception:
                log.exception("websocket.failed")
                member.abort()

    def stop(self) -> None:
        """Every socket goes back to the loop."""
        for member in tuple(self._members.values()):
            member.hand_back()


def send_now(number: int, data: bytes) -> int:
    """How many bytes of it the socket took; 0: none now, or never any more."""
    return sysio.send(number, data)
