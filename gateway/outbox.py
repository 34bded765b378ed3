"""What one call has to say on its socket, in the order in which it leaves.

Audio and marks can be taken back for as long as they are here; the protocol's own answers never wait; and where the
carrier takes only so many messages, the application's wait for their turn.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

from gateway.allowance import Allowance, Waiting
from media.frames import (
    Frame,
    MarkFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
)
from serializers.base import FrameSerializer

_APPLICATIONS = (OutputTransportMessageFrame, OutputTransportMessageUrgentFrame)

BACK_OFF_S = 1.0  # where a carrier that got too many messages does not say how long to wait


class Outbox:
    """Messages of one call that wait for its socket.

    Args:
        counters: the call's; what is dropped for want of room is counted there, as `late_dropped`.
        limit: how many messages may wait; past that the oldest media goes.
    """

    def __init__(self, serializer: FrameSerializer, counters: Counter[str], limit: int) -> None:
        self._serializer, self._counters, self._limit = serializer, counters, limit
        self._outgoing = serializer.short_out
        self.waiting: deque[Waiting] = deque()  # others only look if there is anything
        self._unsaid: deque[Frame] = deque()  # the application's messages for which there was no allowance yet
        self._allowance = Allowance(serializer.rate) if serializer.rate is not None else None
        self.is_rationed = self._allowance is not None  # the carrier takes only so many messages

    def __len__(self) -> int:
        return len(self.waiting)

    # ------------------------------------------------------------ in

    def add(self, messages: Iterable[Any], *, media: bool = False) -> None:
        """Ahead of what waits for an allowance."""
        samples = 0 if media else None
        self.waiting.extend((message, samples) for message in messages)

    def audio(self, pcm: bytes, sample_rate: int) -> None:
        """One packet, mono."""
        waiting, samples = self.waiting, len(pcm) >> 1
        outgoing = self._outgoing
        messages: Any  # a transport's serializer may give frames, for its writer
        if outgoing is not None and outgoing.rate == sample_rate:
            messages = outgoing.write(pcm)
        else:
            messages = self._serializer.encode_audio(pcm, sample_rate)
        for message in messages:
            waiting.append((message, samples))
            samples = 0
        if len(waiting) > self._limit:
            self._drop_oldest_media()

    def send(self, frame: Frame, now: float) -> None:
        """Whatever messages `frame` means to the carrier."""
        allowance = self._allowance
        if allowance is not None and isinstance(frame, _APPLICATIONS) and (self._unsaid or not allowance.text(now)):
            self._say_later(frame)
            return
        self.add(self._serializer.encode(frame), media=isinstance(frame, MarkFrame))

    def _say_later(self, frame: Frame) -> None:
        self._unsaid.append(frame)
        if len(self._unsaid) > self._limit:
            self._unsaid.popleft()
            self._counters["late_dropped"] += 1

    def drop_media(self) -> int:
        """Media that has not left yet never does: how many samples that was."""
        if not self.waiting:
            return 0
        unsent = self.samples
        kept = [entry for entry in self.waiting if entry[1] is None]
        self.waiting.clear()
        self.waiting.extend(kept)
        return unsent

    def _drop_oldest_media(self) -> None:
        for position, (_, samples) in enumerate(self.waiting):
            if samples is not None:
                del self.waiting[position]
                self._counters["late_dropped"] += 1
                return

    # ------------------------------------------------------------ out

    def take(self, now: float) -> Any:
        """The next message for the socket; None: nothing may leave now."""
        if self._allowance is not None:
            if self.waiting and not self._serializer.takes_audio:
                self.drop_media()  # it had to wait, and what the carrier was told meanwhile goes before it
            return self._allowance.take(self.waiting, now)
        if self.waiting:
            return self.waiting.popleft()[0]
        return None

    def take_some(self, most: int) -> Sequence[Any]:
        """The next messages for the socket, of an outbox that is not rationed."""
        waiting = self.waiting
        if len(waiting) == 1:
            return (waiting.popleft()[0],)
        return [waiting.popleft()[0] for _ in range(min(most, len(waiting)))]

    @property
    def has_unsaid(self) -> bool:
        """The application's messages wait for their turn."""
        return bool(self._unsaid)

    @property
    def all_said(self) -> bool:
        """Neither media nor a message of the application waits."""
        return not self._unsaid and not any(samples is not None for _, samples in self.waiting)

    @property
    def samples(self) -> int:
        """Of audio that waits."""
        return sum(abs(samples or 0) for _, samples in self.waiting)

    @property
    def audio_bytes(self) -> int:
        """Of binary messages that wait."""
        return sum(len(message) for message, _ in self.waiting if isinstance(message, bytes))

    # ------------------------------------------------------------ the allowance

    def may_send_audio(self, now: float) -> bool:
        """Whether the carrier takes audio again that had complained."""
        return self._allowance is None or now >= self._allowance.held_until

    def use_allowance(self, now: float) -> None:
        """The application's messages that had to wait, as far as they may leave by now."""
        allowance = self._allowance
        while self._unsaid and allowance is not None and allowance.text(now):
            self.add(self._serializer.encode(self._unsaid.popleft()))

    def refused(self, retry_after_s: float | None, now: float, round_trip_s: float | None) -> None:
        """The carrier had too many messages: the one that it dropped goes again, and audio waits."""
        if self._allowance is None:
            return
        wait_s = BACK_OFF_S if retry_after_s is None else retry_after_s
        again = self._allowance.refused(wait_s, now, round_trip_s)
        if again is not None:
            message, samples = again
            self._counters["sent_again"] += 1
            # Behind what goes again already: that was said before.
            first = next((n for n, (_, count) in enumerate(self.waiting) if (count or 0) >= 0), len(self.waiting))
            self.waiting.insert(first, (message, -samples))

    def cleared(self) -> None:
        """The carrier dropped what it had: nothing of that goes again."""
        if self._allowance is not None:
            self._allowance.cleared()
