"""A WebSocket server protocol for uvicorn that can hand messages to a call without a queue, an event or a task.

To an ASGI application it is what any server is. Beyond that its scopes have an extension, whose `take_over` gives an
accepted socket to a Taker: that one's methods are called in the turn of the loop in which bytes arrive, in the context
of the application's task, and it writes without awaiting anything.
"""

from __future__ import annotations

from typing import Final, Protocol

from gateway.lean.rounds import Rounds

EXTENSION: Final = "gateway.lean"  # scope["extensions"][EXTENSION]["take_over"](taker) gives a DirectSocket


class Taker(Protocol):
    """Whoever takes a socket over. What escapes from these ends the socket with 1011."""

    def on_message(self, data: str | bytes) -> None: ...
    def on_writable(self) -> None:
        """What was full is empty enough again."""

    def on_close(self, code: int) -> None:
        """Last: it was closed, and not by the Taker. 1006: the peer was gone without a word."""


class DirectSocket(Protocol):
    """What a Taker gets: an open socket."""

    @property
    def is_writable(self) -> bool:
        """False: so much waits already for a peer that does not read that nothing more should be sent."""

    def send(self, *messages: str | bytes) -> None:
        """In one write; nothing where the socket is closed. Raises UnicodeEncodeError and sends none of them."""

    def read_in(self, rounds: Rounds) -> None:
        """From now on it is read by them, where that can be, and what it sends leaves at once."""

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say so, and let go: no method of the Taker's is called any more. Raises ValueError for an unusable code."""
