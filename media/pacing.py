"""One call's audio on its way to the carrier: cut into packets and released on a schedule. No clock, no I/O.

Everything here follows from one number, the *horizon*: when the carrier will have played all that has left, if it
plays in real time and nothing is lost. A packet may leave `lead` before the horizon, and it leaves in the first
`take` after that.

* A late `take` sends all that is owed and the horizon stays where it was. Moving it whenever one is late adds up: with
  2 % of the ticks late, live audio is seconds behind after a minute.
* The horizon starts anew only where the buffer had run dry: nothing is owed for time in which there was no audio.
* The lead stretches by the worst lateness seen of late, since the next stall is likely to be like the last one, and
  goes back slowly.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

log = logging.getLogger(__name__)

_NOTHING: Final[tuple[bytes | object, ...]] = ()
_NEVER: Final = float("-inf")
_INFINITY: Final = float("inf")

_STRETCH_MS: Final = 200.0  # how far the lead may stretch, at least
_SHRINK: Final = 0.002  # seconds of stretch given back per second
_LONGEST_STALL_S: Final = 0.5  # nothing was waiting and nobody called for longer than this: a pause, not a stall

Pcm: TypeAlias = bytes | bytearray | memoryview


class _Flush:
    """The type of FLUSH."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "FLUSH"


FLUSH: Final = _Flush()  # comes out of `take` at the end of speech: flush the serializer


class PacedBuffer:
    """PCM of one call on its way out.

    Call `take` at every tick, waiting or not: that is how a stalled loop is noticed. Samples are counted per channel.

    Args:
        packet_ms: length of what leaves at once; only the end of speech, and audio before an item, may be shorter.
        lead_ms: how far ahead of play-out audio may leave. It is never a reason to hold back.
        max_s: what is pushed beyond this much waiting audio is dropped and counted in `dropped`.
        max_lead_ms: how far the lead may stretch when `take` is called late; None is twice the lead, and at least
            200 ms more than it.
        tick_ms: how often `take` is called; a packet may leave half a tick early rather than half a tick late.
        keep_ms: how much of what has left is remembered for `rewind`.
    """

    __slots__ = (
        "_bytes",
        "_dry",
        "_early",
        "_expected",
        "_frame",
        "_head",
        "_held",
        "_history",
        "_history_bytes",
        "_horizon",
        "_items",
        "_keep_bytes",
        "_last",
        "_lead",
        "_max_bytes",
        "_max_stretch",
        "_odd",
        "_offset",
        "_peak_bytes",
        "_seconds_per_byte",
        "_size",
        "_speaking",
        "_stretch",
        "_tick",
        "dropped",
        "late",
        "queue",
        "sample_rate",
        "underruns",
    )

    def __init__(
        self,
        sample_rate: int,
        packet_ms: int = 20,
        lead_ms: float = 200,
        channels: int = 1,
        max_s: float = 600,
        *,
        max_lead_ms: float | None = None,
        tick_ms: float = 20,
        keep_ms: float = 0,
    ) -> None:
        self.sample_rate = sample_rate
        self.late = 0  # calls of take() that came more than half a tick late
        self.underruns = 0  # times that speech ran dry at the carrier because it was not there yet
        self.dropped = 0  # samples that did not fit
        self._frame = 2 * channels
        self._size = round(sample_rate * packet_ms / 1000) * self._frame
        if self._size <= 0:
            raise ValueError(f"no packet of {packet_ms} ms at {sample_rate} Hz")
        self._seconds_per_byte = 1 / (sample_rate * self._frame)
        self._lead = lead_ms / 1000
        longest = max(2 * lead_ms, lead_ms + _STRETCH_MS) if max_lead_ms is None else max(lead_ms, max_lead_ms)
        self._max_stretch = (longest - lead_ms) / 1000
        self._tick = tick_ms / 1000
        self._early = tick_ms / 2000
        self._max_bytes = int(max_s * sample_rate) * self._frame
        self._keep_bytes = int(keep_ms * sample_rate / 1000) * self._frame

        self.queue: deque[bytes | object] = deque()  # audio is bytes, all else an item; others only look if it is empty
        self._offset = 0  # bytes of the queue's first entry that have left
        self._bytes = 0  # audio waiting
        self._items = 0  # items waiting
        self._head = 0  # by so many bytes the next packet is longer
        self._odd = b""  # the beginning of a sample whose end has not come yet
        self._peak_bytes = 0
        self._history: deque[bytes | object] = deque()
        self._history_bytes = 0
        self._held = False

        self._horizon = _NEVER
        self._dry = True  # at the end of the last take() no packet was complete
        self._speaking = False  # between the first packet of an utterance and its flush
        self._stretch = 0.0
        self._last = 0.0  # time of the last take()
        self._expected = _INFINITY  # when the next take() should come

    # ------------------------------------------------------------ in

    def push(self, pcm: Pcm) -> None:
        """Audio, s16le, in pieces of any length; half a sample waits for its other half."""
        if type(pcm) is not bytes or self._odd or len(pcm) % self._frame:
            pcm = self._whole_samples(pcm)
        size = len(pcm)
        if not size:
            return
        waiting = self._bytes + size
        if waiting > self._max_bytes:
            pcm = self._what_fits(pcm)
            if not pcm:
                return
            waiting = self._bytes + len(pcm)
        self.queue.append(pcm)
        self._bytes = waiting
        if waiting > self._peak_bytes:
            self._peak_bytes = waiting

    def begin(self, silence: bytes) -> None:
        """Silence ahead of audio that is made as it is played: it leaves in one packet with the first of it, and so
        is still in hand when the second is due."""
        self.push(silence)
        self._head += len(silence)

    def put(self, item: object) -> None:
        """Something in order with the audio: it leaves as soon as all audio before it has left.

        A piece of audio shorter than a packet leaves as it is when an item follows it.
        """
        if isinstance(item, bytes | bytearray | memoryview):
            raise TypeError("audio goes in by push()")
        self.queue.append(item)
        self._items += 1

    def flush(self) -> None:
        """The end of speech: all audio so far may leave, the last piece short, and FLUSH after it."""
        self._odd = b""
        self.put(FLUSH)

    # ------------------------------------------------------------ out

    def passes(self, pcm: Pcm, now: float) -> bool:
        """Whether `push` and then `take(now)` would come to exactly `pcm`: then it has left, and nothing was queued.

        The short way of live audio, whose packets come one by one when the carrier has little left.
        """
        size = len(pcm)
        if self.queue or size != self._size or self._held or self._odd or type(pcm) is not bytes:
            return False
        late = now - self._expected
        stretch = self._stretch
        if stretch and late <= self._early:
            stretch = max(0.0, stretch - (now - self._last) * _SHRINK)
        horizon = self._horizon
        if horizon < now:
            horizon = now
        elif horizon > now + self._lead + stretch + self._early:
            return False
        if late > self._early:
            self._grow(late)
        else:
            self._stretch = stretch
        if self._speaking:
            if now - self._horizon > self._tick:
                self.underruns += 1
        else:
            self._speaking = True
        self._last = now
        self._horizon = horizon = horizon + size * self._seconds_per_byte
        tick = self._tick
        self._expected = now + tick if horizon < now + tick else horizon
        if size > self._peak_bytes:
            self._peak_bytes = size
        if self._keep_bytes:
            self._history.append(pcm)
            self._history_bytes += size
            self._forget()
        return True

    def take(self, now: float) -> Sequence[bytes | object]:
        """What is due by `now`, in order: packets as bytes, items as they were put, FLUSH."""
        late = now - self._expected
        if late > self._early:
            self._grow(late)
        elif self._stretch:
            self._stretch = max(0.0, self._stretch - (now - self._last) * _SHRINK)
        self._last = now
        horizon = self._horizon
        queue = self.queue
        if not queue or self._held:
            if not self._held:
                # As in `_expect_audio`: this is what every tick of a silent or live call comes to.
                tick = self._tick
                self._expected = _INFINITY if horizon + tick <= now else max(now + tick, horizon)
            return _NOTHING

        size = self._size + self._head
        lead = self._lead + self._stretch
        latest = now + lead + self._early
        out: list[bytes | object] = []
        while queue:
            head = queue[0]
            if type(head) is not bytes:
                out.append(queue.popleft())
                self._items -= 1
                if head is FLUSH:
                    self._speaking = False
                continue
            if self._bytes < size and not self._items:
                break  # the rest of the packet has not come yet
            if self._dry:
                self._dry = False
                if horizon < now:
                    if self._speaking and now - horizon > self._tick:
                        self.underruns += 1
                    horizon = now
            if horizon > latest:
                horizon_due = horizon - lead
                self._horizon = horizon
                self._expected = max(now + self._tick, horizon_due)
                return self._remember(out) if self._keep_bytes else out or _NOTHING
            offset = self._offset
            left = len(head) - offset
            if left == size and not offset:
                packet = head
                queue.popleft()
            elif left > size:
                self._offset = offset + size
                packet = head[offset : self._offset]
            else:
                packet = self._gather(size)
            out.append(packet)
            self._bytes -= len(packet)
            if self._head:
                self._head, size = 0, self._size
            self._speaking = True
            horizon += len(packet) * self._seconds_per_byte
        self._horizon = horizon
        self._dry = True
        self._expect_audio(now, horizon)
        return self._remember(out) if self._keep_bytes else out or _NOTHING

    def clear(self, unsent: int | None = None) -> list[object]:
        """Drop all audio, in here and in what `rewind` could bring back; the items that were waiting, in order.

        The schedule starts anew: clear the carrier too. One that cannot be cleared plays what it has, and the
        schedule goes on behind that: then `unsent` is how many samples, of those that have left here, it never gets.
        """
        items = [entry for entry in self.queue if type(entry) is not bytes and entry is not FLUSH]
        self.queue.clear()
        self._history.clear()
        self._offset = self._bytes = self._items = self._history_bytes = self._head = 0
        self._odd = b""
        self._held = False
        horizon = self._horizon
        self._start_anew()
        if unsent is None:
            self._stretch = 0.0
        else:
            self._horizon = horizon - unsent * self._frame * self._seconds_per_byte
        return items

    # ------------------------------------------------------------ a hold that may be taken back

    def hold(self) -> None:
        """Let nothing leave until `resume` or `clear`; what is pushed waits."""
        self._held = True
        self._expected = _INFINITY

    def resume(self, now: float | None = None, ahead_s: float = 0.0) -> None:
        """Go on after a `hold`. With `now`: the carrier still has what had left, or gets that much first."""
        self._held = False
        horizon = self._horizon
        self._start_anew()
        if now is not None and (horizon > now or ahead_s):
            self._horizon = max(horizon, now + ahead_s)

    def rewind(self, samples: int, again: Callable[[object], bool] | None = None) -> int:
        """Put the last `samples` that have left back at the front, for a carrier that has dropped them.

        Items that had left between them stay out, except FLUSH and those for which `again` is true. The schedule
        starts anew.

        Returns:
            How many samples came back: fewer if `keep_ms` of history does not hold as many.
        """
        wanted = samples * self._frame
        back: list[bytes | object] = []
        while wanted > 0 and self._history:
            entry = self._history.pop()
            if type(entry) is not bytes:
                if entry is FLUSH or (again is not None and again(entry)):
                    back.append(entry)
                continue
            self._history_bytes -= len(entry)
            if len(entry) > wanted:
                heard = entry[: len(entry) - wanted]
                self._history.append(heard)
                self._history_bytes += len(heard)
                entry = entry[len(heard) :]
            back.append(entry)
            wanted -= len(entry)
        queue = self.queue
        if self._offset:
            head = queue.popleft()
            assert type(head) is bytes
            queue.appendleft(head[self._offset :])
            self._offset = 0
        queue.extendleft(back)
        audio = sum(len(entry) for entry in back if type(entry) is bytes)
        self._bytes += audio
        self._items += sum(1 for entry in back if type(entry) is not bytes)
        self._start_anew()
        return audio // self._frame

    # ------------------------------------------------------------ what there is

    def left(self, samples: int, later: int = 0) -> bytes:
        """Up to `samples` of what has left, without the `later` last ones; as far as `keep_ms` reaches."""
        skip, wanted = later * self._frame, samples * self._frame
        pieces: list[bytes] = []
        for entry in reversed(self._history):
            if wanted <= 0:
                break
            if type(entry) is not bytes:
                continue
            if skip >= len(entry):
                skip -= len(entry)
                continue
            piece = entry[: len(entry) - skip]
            skip = 0
            pieces.append(piece[-wanted:])
            wanted -= len(pieces[-1])
        return b"".join(reversed(pieces))

    @property
    def is_held(self) -> bool:
        return self._held

    def is_dry(self, now: float) -> bool:
        """Nothing waits, nothing is held back, and the carrier has played all that has left."""
        return not self.queue and not self._held and self._horizon < now

    @property
    def next_due(self) -> float | None:
        """When `take` will next have something; a time in the past means at once; None while nothing is complete."""
        if self._held or not self.queue:
            return None
        if type(self.queue[0]) is not bytes:
            return self._last
        if self._bytes < self._size + self._head and not self._items:
            return None
        if self._horizon == _NEVER:
            return self._last
        return self._horizon - self._lead - self._stretch

    @property
    def buffered(self) -> int:
        """Samples waiting."""
        return self._bytes // self._frame

    @property
    def peak(self) -> int:
        """The most samples that ever waited."""
        return self._peak_bytes // self._frame

    @property
    def lead_ms(self) -> float:
        """The lead as it is now, stretched."""
        return (self._lead + self._stretch) * 1000

    def __bool__(self) -> bool:
        return bool(self.queue)

    # ------------------------------------------------------------ inside

    def _whole_samples(self, pcm: Pcm) -> bytes:
        joined = self._odd + bytes(pcm)
        whole = len(joined) - len(joined) % self._frame
        self._odd = joined[whole:]
        return joined[:whole]

    def _what_fits(self, pcm: bytes) -> bytes:
        fits = self._max_bytes - self._bytes
        if not self.dropped:
            log.warning("pacing: %d s of audio waiting, dropping what comes", self._max_bytes * self._seconds_per_byte)
        self.dropped += (len(pcm) - fits) // self._frame
        return pcm[:fits]

    def _gather(self, size: int) -> bytes:
        """The next packet where the first entry does not hold more than it; shorter where an item comes first."""
        queue = self.queue
        parts: list[bytes] = []
        while queue and size:
            head = queue[0]
            if type(head) is not bytes:
                break
            part = head[self._offset : self._offset + size]
            parts.append(part)
            size -= len(part)
            self._offset += len(part)
            if self._offset == len(head):
                queue.popleft()
                self._offset = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _grow(self, late: float) -> None:
        """take() came `late` seconds after it should have; the stall may have begun up to a tick earlier."""
        if self._dry and late > _LONGEST_STALL_S:
            return
        self.late += 1
        self._stretch = max(self._stretch, min(late + self._tick, self._max_stretch))

    def _expect_audio(self, now: float, horizon: float) -> None:
        """Nothing waits. If the carrier is still playing, live audio should come by the horizon; else nobody knows."""
        if horizon + self._tick > now:
            self._expected = max(now + self._tick, horizon)
        else:
            self._expected = _INFINITY

    def _start_anew(self) -> None:
        self._horizon = _NEVER
        self._dry = True
        self._speaking = False
        self._expected = _INFINITY

    def _remember(self, out: list[bytes | object]) -> Sequence[bytes | object]:
        for entry in out:
            if type(entry) is bytes:
                self._history_bytes += len(entry)
        self._history.extend(out)
        self._forget()
        return out or _NOTHING

    def _forget(self) -> None:
        """What is older than `keep_ms`."""
        history, size, keep = self._history, self._history_bytes, self._keep_bytes
        while size > keep:
            entry = history[0]
            if type(entry) is bytes:
                if size - len(entry) < keep:
                    break
                size -= len(entry)
            history.popleft()
        self._history_bytes = size
