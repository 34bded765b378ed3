"""The audio of one stream: what comes and goes 50 times a second.

Apart from the serializers, who know all the rest, so that it can be compiled. The core reads and writes by these
without asking the serializer, as long as both come to the same: what they cannot do, they leave to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from pybase64 import b64encode_as_string

from media.codecs import pcm_to_ulaw
from media.frames import InputAudioRawFrame
from media.resample import Resampler, make_resampler
from serializers.media_message import UNREADABLE, read_media

Codec = Callable[[bytes], bytes]

PACKET_MS: Final = 20  # what is so long begins with a whole sample
_NOTHING: Final[tuple[InputAudioRawFrame, ...]] = ()


def whole_samples(pcm: bytes) -> bytes:
    """A codec that is none; ValueError for an odd number of bytes."""
    if len(pcm) & 1:
        raise ValueError("half a sample")
    return pcm


class Incoming:
    """The caller's, of a stream whose serializer reads all messages itself."""

    def __init__(self) -> None:
        self.rate = 0  # Hz on the wire
        self.wanted = 0  # Hz of the frames; 0: the wire's
        self.expand: Codec | None = None  # from the wire's codec to s16le; None: it is that, cut anywhere
        self._odd = b""  # half a sample, whose other half is in the next message
        self._resampler: Resampler | None = None

    def read(self, data: Any) -> Sequence[InputAudioRawFrame] | None:
        """The caller's audio in a message; None: it is something else, or the serializer has to see it."""
        return None

    def pcm(self, payload: Any) -> Any:
        """`payload` as s16le, both bytes; ValueError: what `expand` refuses."""
        expand = self.expand
        if expand is not None:
            return expand(payload)
        if not self._odd and not len(payload) & 1:
            return payload
        if len(payload) != self.rate * PACKET_MS // 1000 * 2:  # else what was held was a stray byte
            payload = self._odd + payload
        even = len(payload) & ~1
        self._odd = bytes(payload[even:])
        return payload[:even]

    def frames(
        self, pcm: Any, rate: int, seq: int | None = None, timestamp_ms: int | None = None, channels: int = 1
    ) -> Sequence[InputAudioRawFrame]:
        """`pcm` off the wire at `rate` as the pipeline wants it; () while there is nothing to give."""
        if not pcm:
            return _NOTHING
        wanted = self.wanted
        if wanted and wanted != rate and channels == 1:
            resampler = self._resampler
            if resampler is None or resampler.in_rate != rate:
                resampler = self._resampler = make_resampler(rate, wanted)
            pcm = resampler.process(pcm)
            rate = wanted
            if not pcm:
                return _NOTHING
        return (InputAudioRawFrame(pcm, rate, channels, seq, timestamp_ms),)


class JsonIncoming(Incoming):
    """Of JSON messages around base64."""

    def read(self, data: Any) -> Sequence[InputAudioRawFrame] | None:
        try:
            media = read_media(data).media
        except UNREADABLE:
            return None
        if media.chunk is None:
            return None  # whether something else counts the messages, the serializer knows
        if media.track != "inbound":
            return _NOTHING if media.track == "outbound" else None
        try:
            pcm = self.pcm(media.payload)
        except ValueError:
            return None
        return self.frames(pcm, self.rate, media.chunk, media.timestamp)


class BinaryIncoming(Incoming):
    """Of binary messages, beside text that is something else."""

    def __init__(self) -> None:
        super().__init__()
        self.is_plain = False  # they are the caller's voice and nothing more

    def read(self, data: Any) -> Sequence[InputAudioRawFrame] | None:
        if not self.is_plain or isinstance(data, str):
            return None
        return self.frames(self.pcm(data), self.rate)


class Outgoing:
    """The bot's: s16le at the wire's rate to messages of a legal length, which are binary."""

    def __init__(self) -> None:
        self.rate = 8000  # Hz on the wire
        self.is_open = False  # something may be said
        self.compress: Codec = pcm_to_ulaw  # into the wire's codec
        self.shortest = 1  # bytes of s16le in one message; less waits for the rest
        self.longest = 1 << 62
        self.piece = 0  # bytes of each message of what is longer; 0: the longest
        self.grid = 1  # a message is a multiple of so many bytes
        self._held = b""

    def write(self, pcm: Any) -> Sequence[Any]:
        """The messages with `pcm`, behind what is held."""
        if not self.is_open:
            return ()
        if self._held:
            pcm = self._held + pcm
            self._held = b""
        size, grid = len(pcm), self.grid
        if size < self.shortest:
            self._held = bytes(pcm)
            return ()
        if size <= self.longest and not size % grid:
            return (self.message(pcm),)
        messages, at = [], 0
        while (left := size - at) >= self.shortest:
            taken = left - left % grid if left <= self.longest else self.piece or self.longest
            messages.append(self.message(pcm[at : at + taken]))
            at += taken
        self._held = bytes(pcm[at:])
        return messages

    def end(self, tail: Any) -> Sequence[Any]:
        """The messages with the last of some speech: what is held leaves, filled up with silence."""
        messages = self.write(tail)
        if self._held:
            last = self._held.ljust(self.shortest, b"\0")
            self._held = b""
            messages = (*messages, self.message(last))
        return messages

    def message(self, pcm: Any) -> Any:
        return self.compress(pcm)

    @property
    def held_samples(self) -> int:
        """That wait for the rest of their message."""
        return len(self._held) >> 1

    @property
    def padding_samples(self) -> int:
        """Of silence, which `end` would add."""
        return (self.shortest - len(self._held)) >> 1 if self._held else 0

    def forget(self) -> None:
        """What is held belongs to speech that was interrupted."""
        self._held = b""


class JsonOutgoing(Outgoing):
    """In JSON messages around base64."""

    def __init__(self) -> None:
        super().__init__()
        self.head = self.tail = ""  # of a message, before and behind the base64

    def message(self, pcm: Any) -> Any:
        return self.head + b64encode_as_string(self.compress(pcm)) + self.tail


class NumberedOutgoing(JsonOutgoing):
    """... which count themselves and tell their time, in the way of Exotel's own."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._sent_ms = 0.0

    def message(self, pcm: Any) -> Any:
        self._count += 1
        at = int(self._sent_ms)
        self._sent_ms += len(pcm) * 500 / self.rate
        audio = b64encode_as_string(self.compress(pcm))
        count = self._count
        return f'{self.head}{audio}","chunk":"{count}","timestamp":"{at}"}},"sequence_number":"{count}"}}'
