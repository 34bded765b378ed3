"""How many messages a carrier takes: what may leave now, and what follows when it says that they were too many.

Only application's messages and audio are rationed; a protocol's own answers never wait. Audio that had to wait is
joined to fewer, larger messages, so that none of it is lost or late for good.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final, TypeAlias

from serializers.base import MessageRate

# A message (or, where a user's serializer has to be awaited, what the writer makes one of), and the samples in it: of a
# mark 0, of what is no media None; below zero what goes again.
Waiting: TypeAlias = tuple[Any, int | None]

_SLOWER: Final = 0.5  # of the usual rate, after the carrier has complained
_RISE: Final = 0.25  # of the slow time: in which the rate rises again
_SLOW_S: Final = 4.0  # until the rate is the usual one again
_SLOWEST_S: Final = 60.0  # the same where it complains again and again
_AGAIN_S: Final = 15.0  # a complaint so soon after the last one was over says that the rate itself is too high
_DOUBTFUL: Final = 16  # messages that may be on their way at once
_ROUND_TRIP_S: Final = 0.1  # to the carrier and back, until it has told
_MARGIN_S: Final = 0.15  # beside the way there and back: how late the carrier may complain of a message


class _Bucket:
    """Tokens for one kind of message."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, float(burst)
        self._level, self._at = self._burst, float("-inf")

    def take(self, now: float, share: float = 1.0) -> bool:
        """Use one up, if there is one."""
        level = min(self._burst, self._level + (now - self._at) * self._rate * share)
        if level < 1.0:
            return False
        self._level, self._at = level - 1.0, now
        return True

    def empty(self, now: float) -> None:
        self._level, self._at = 0.0, now


class Allowance:
    """What one call may send. `now` is the call's clock."""

    def __init__(self, rate: MessageRate) -> None:
        self._join = rate.join_bytes
        self._binary = _Bucket(rate.binary_per_s, rate.binary_burst)
        self._text = _Bucket(rate.text_per_s, rate.text_burst)
        self._held_until = float("-inf")
        self._slow_until = float("-inf")
        self._slow_s = _SLOW_S
        # The last binary messages: when they left, and the samples in each.
        self._sent: deque[tuple[float, bytes, int]] = deque(maxlen=_DOUBTFUL)

    def text(self, now: float) -> bool:
        """Whether one more of the application's messages may leave."""
        return now >= self._held_until and self._text.take(now)

    def take(self, outbox: deque[Waiting], now: float) -> Any:
        """The next message for the socket; None: nothing may leave now. Text overtakes audio that has to wait."""
        if not outbox:
            return None
        head = outbox[0][0]
        if not isinstance(head, bytes):
            return outbox.popleft()[0]
        if now >= self._held_until and self._binary.take(now, self._share(now)):
            message, samples = self._joined(outbox)
            self._sent.append((now, message, samples))
            return message
        for position, (waiting, _) in enumerate(outbox):
            if isinstance(waiting, str):
                del outbox[position]
                return waiting
        return None

    def refused(self, retry_after_s: float, now: float, round_trip_s: float | None) -> tuple[bytes, int] | None:
        """The carrier had too many. Gives the message that it is likely to have dropped, and the samples in it.

        It should go again. It is the last one which left at least a way there and back ago, more or less: on a long way
        others have left since, which it may well have taken. While nobody knows how long the way is, it is the last.
        """
        if now - self._slow_until > _AGAIN_S:
            self._slow_s = _SLOW_S
        elif now > self._held_until:
            self._slow_s = min(self._slow_s * 4, _SLOWEST_S)
        self._held_until = max(self._held_until, now + retry_after_s)
        self._slow_until = self._held_until + self._slow_s
        self._binary.empty(self._held_until)
        self._text.empty(self._held_until)
        longest = (_ROUND_TRIP_S if round_trip_s is None else round_trip_s) + _MARGIN_S
        sent = [entry for entry in self._sent if now - entry[0] <= longest]
        if not sent:
            return None
        least = 0.0 if round_trip_s is None else max(round_trip_s / 2, round_trip_s - _MARGIN_S / 3)
        dropped = next((entry for entry in reversed(sent) if now - entry[0] >= least), sent[-1])
        self._sent.remove(dropped)
        return dropped[1:]

    def cleared(self) -> None:
        """The carrier dropped what it had: nothing of that goes again."""
        self._sent.clear()

    @property
    def held_until(self) -> float:
        """When audio may leave again."""
        return self._held_until

    def _share(self, now: float) -> float:
        """Of the usual rate: half after a complaint, and towards the end of that time gradually all of it."""
        left = (self._slow_until - now) / self._slow_s
        if left <= 0.0:
            return 1.0
        return max(_SLOWER, 1.0 - (1.0 - _SLOWER) * left / _RISE)

    def _joined(self, outbox: deque[Waiting]) -> tuple[bytes, int]:
        """The audio at the head of `outbox` as one message, as far as that may be long, and the samples in it."""
        first, samples = outbox.popleft()
        assert isinstance(first, bytes)
        total = abs(samples or 0)
        pieces, size = [first], len(first)
        while outbox:
            piece: Any = outbox[0][0]
            if not isinstance(piece, bytes) or size + len(piece) > self._join:
                break
            pieces.append(piece)
            size += len(piece)
            total += abs(outbox.popleft()[1] or 0)
        return b"".join(pieces), total
