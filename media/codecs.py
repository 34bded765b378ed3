"""The codecs of the wire: G.711 mu-law and A-law, linear 16 in both byte orders, and channels.

`pcm` is s16le everywhere. Sources: ITU-T G.711; RFC 3551 4.5.11 and 4.5.14 for the order of L16.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

with warnings.catch_warnings():
    # Deprecated in 3.12 and gone in 3.13, where the audioop-lts package brings the same module, without the warning.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop as audioop  # again as its name: others of this package import it from here

ULAW_SILENCE = b"\xff"
ALAW_SILENCE = b"\xd5"

_lin2ulaw, _ulaw2lin = audioop.lin2ulaw, audioop.ulaw2lin
_lin2alaw, _alaw2lin = audioop.lin2alaw, audioop.alaw2lin
_byteswap = audioop.byteswap
# Only moved about, so their order of bytes does not matter.
_SAMPLE: dict[int, np.dtype[Any]] = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16)}


def ulaw_to_pcm(ulaw: bytes) -> bytes:
    return _ulaw2lin(ulaw, 2)


def pcm_to_ulaw(pcm: bytes) -> bytes:
    """Mu-law bytes, one per sample; ValueError if `pcm` has an odd number of bytes."""
    try:
        return _lin2ulaw(pcm, 2)
    except audioop.error:
        raise _half_a_sample(pcm) from None


def alaw_to_pcm(alaw: bytes) -> bytes:
    return _alaw2lin(alaw, 2)


def pcm_to_alaw(pcm: bytes) -> bytes:
    """A-law bytes, one per sample; ValueError if `pcm` has an odd number of bytes."""
    try:
        return _lin2alaw(pcm, 2)
    except audioop.error:
        raise _half_a_sample(pcm) from None


def swap16(samples: bytes) -> bytes:
    """L16 of the network (big endian) to s16le, and back; ValueError for an odd number of bytes."""
    try:
        return _byteswap(samples, 2)
    except audioop.error:
        raise _half_a_sample(samples) from None


def deinterleave(samples: bytes, channels: int, width: int = 2) -> list[bytes]:
    """One bytes object per channel.

    Args:
        samples: whole frames of `channels` samples each.
        width: bytes of a sample: 2 for PCM, 1 for mu-law and A-law.

    Raises:
        ValueError: not a whole number of frames.
    """
    if channels < 1 or len(samples) % (channels * width):
        raise ValueError(f"{len(samples)} bytes are not whole frames of {channels} channels of {width} bytes")
    if width == 1:
        return [samples[channel::channels] for channel in range(channels)]
    items = np.frombuffer(samples, _SAMPLE[width])
    return [items[channel::channels].tobytes() for channel in range(channels)]


def interleave(channels: Sequence[bytes], width: int = 2) -> bytes:
    """The opposite of `deinterleave`; ValueError if the channels are not equally long."""
    if not channels:
        return b""
    size = len(channels[0])
    if size % width or any(len(channel) != size for channel in channels):
        raise ValueError(f"channels of {[len(channel) for channel in channels]} bytes cannot be interleaved")
    return np.frombuffer(b"".join(channels), _SAMPLE[width]).reshape(len(channels), -1).T.tobytes()


def peak(pcm: bytes) -> int:
    """The largest absolute sample value, 0 to 32768."""
    return int(audioop.max(pcm, 2))


def _half_a_sample(samples: bytes) -> ValueError:
    return ValueError(f"{len(samples)} bytes are not whole 16-bit samples")
