"""The audio of one stream whose messages are JSON around base64: what comes and goes 50 times a second.

Apart from the serializers, who know all the rest, so that it can be compiled. A serializer that has one as `audio`
lets the core use it without asking the serializer, as long as both come to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pybase64 import b64encode_as_string

from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.frames import InputAudioRawFrame
from media.resample import Resampler, make_resampler
from serializers.media_message import UNREADABLE, read_media

Codec = Callable[[bytes], bytes]

_NOTHING: Final[tuple[InputAudioRawFrame, ...]] = ()


class JsonAudio:
    """Of one stream.

    Args:
        rate: Hz on the wire.
        expand, compress: from the wire's codec to s16le, and back.
    """

    def __init__(self, rate: int, expand: Codec = ulaw_to_pcm, compress: Codec = pcm_to_ulaw) -> None:
        self.rate = rate
        self.wanted = 0  # Hz of the frames; 0: the wire's
        self.is_open = False  # something may be said
        self.head = self.tail = ""  # of a message, before and behind the base64
        self._expand, self._compress = expand, compress
        self._resampler: Resampler | None = None

    def read(self, data: str | bytes) -> Sequence[InputAudioRawFrame] | None:
        """The caller's audio in `data`; None: it is something else, or not written as it should be."""
        try:
            media = read_media(data).media
        except UNREADABLE:
            return None
        if media.chunk is None:
            return None  # whether something else counts the messages, the serializer knows
        if media.track != "inbound":
            return _NOTHING
        return self.frames(self._expand(media.payload), media.chunk, media.timestamp)

    def frames(self, pcm: bytes, seq: int | None, timestamp_ms: int | None) -> Sequence[InputAudioRawFrame]:
        """`pcm` off the wire as the pipeline wants it; () while there is nothing to give."""
        rate = self.rate
        if self.wanted and self.wanted != rate:
            resampler = self._resampler
            if resampler is None or resampler.in_rate != rate:
                resampler = self._resampler = make_resampler(rate, self.wanted)
            pcm = resampler.process(pcm)
            rate = self.wanted
        return (InputAudioRawFrame(pcm, rate, 1, seq, timestamp_ms),) if pcm else _NOTHING

    def write(self, pcm: bytes) -> Sequence[str]:
        """The message with `pcm`, s16le at the wire's rate."""
        if not pcm or not self.is_open:
            return ()
        return (self.head + b64encode_as_string(self._compress(pcm)) + self.tail,)
