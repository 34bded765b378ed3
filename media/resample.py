"""Sample rates: a frame-exact polyphase filter among 8, 16, 24 and 48 kHz, soxr for everything else.

A 20 ms frame in is a 20 ms frame out, in the same call, and 2.75 ms late where 8 kHz is the lower rate (half of that
where it is 16 kHz). soxr's own streams hold back 10 to 110 ms and give them out in bursts, so it is left the odd
ratios and the whole utterances.

The filter is one matrix product: the input cut into overlapping windows, times the taps laid out for one window's
outputs. The taps are multiples of 2 ** -26 and the sums stay below 2 ** 53, so every sum is exact in double
precision and the result has the same bits however the stream is cut, batched or computed: the compiled build has one
function for it (media/convolution.c) instead of numpy's seven.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import gcd
from typing import Any, Final, Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

from media.codecs import audioop
from media.fir import lowpass

_convolution: Callable[[bytes, bytes, int, int, int], bytes] | None
try:
    from media.convolution import convolve as _convolution
except ImportError:  # not compiled
    _convolution = None

_FRAME_EXACT: Final = (8000, 16000, 24000, 48000)  # Hz
_DELAY_SAMPLES: Final = 22  # of the lower rate; even, so that it is whole at 16 <-> 24 kHz too
_PASS: Final = 0.825  # of the lower Nyquist frequency: 3.3 kHz at 8 kHz
_STOP_WEIGHT: Final = 400.0  # ripple 0.12 dB, images and aliases -95 dB
_ROW_S: Final = 0.001  # of input per row of the product: measured best from 0.5 to 4 ms
# Multiplications in one product. OpenBLAS gives larger ones to several threads, whose meeting may take 100 ms on a
# busy machine, for a long block that takes one thread less than 1 ms.
_LARGEST_PRODUCT: Final = 1 << 18
_TAP_STEP: Final = 2.0**-26

Buffer = Any  # of samples: bots give others than bytes, which the compiled build would refuse
_S16: Final = np.dtype("<i2")
_F64: Final = np.dtype(np.float64)
_LOWEST, _HIGHEST = np.array(-32768.0), np.array(32767.0)  # as arrays: numpy's scalars cost 0.1 us more a call
_ndarray, _minimum, _maximum, _rint, _peak = np.ndarray, np.minimum, np.maximum, np.rint, audioop.max


class Resampler(Protocol):
    """One stream's change of rate. Mono s16le; ValueError for an odd number of bytes. State belongs to the object."""

    @property
    def in_rate(self) -> int: ...

    @property
    def out_rate(self) -> int: ...

    @property
    def delay_s(self) -> float:
        """How much later a sound leaves than it came, once the stream runs."""
        ...

    def process(self, pcm: bytes) -> bytes:
        """What can be given out after `pcm`."""
        ...

    def flush(self) -> bytes:
        """The rest of what was fed, `delay_s` of it; after that as new."""
        ...

    def reset(self) -> None:
        """Forget what was fed: nothing of it is heard afterwards."""
        ...


def make_resampler(in_rate: int, out_rate: int) -> Resampler:
    """A resampler for one stream: frame-exact among 8, 16, 24 and 48 kHz, else soxr.

    Raises:
        ValueError: a rate is not positive.
    """
    if in_rate <= 0 or out_rate <= 0:
        raise ValueError(f"sample rates must be positive, got {in_rate} and {out_rate}")
    if in_rate == out_rate:
        return SameRate(in_rate)
    if in_rate in _FRAME_EXACT and out_rate in _FRAME_EXACT:
        return PolyphaseResampler(in_rate, out_rate)
    return SoxrResampler(in_rate, out_rate)


def resample_all(pcm: Buffer, in_rate: int, out_rate: int) -> bytes:
    """A whole recording or utterance at another rate, without delay; ValueError for an odd number of bytes."""
    if len(pcm) & 1:
        raise _half_a_sample(pcm)
    if in_rate == out_rate or not pcm:
        return bytes(pcm)
    return _s16(soxr.resample(_floats(pcm), in_rate, out_rate, "VHQ"))


class SameRate:
    """Nothing to do."""

    __slots__ = ("in_rate", "out_rate")
    delay_s: Final = 0.0

    def __init__(self, rate: int) -> None:
        self.in_rate = self.out_rate = rate

    def process(self, pcm: Buffer) -> bytes:
        if len(pcm) & 1:
            raise _half_a_sample(pcm)
        return bytes(pcm)

    def flush(self) -> bytes:
        return b""

    def reset(self) -> None:
        pass


class Taps:
    """The filter of one ratio as the matrix of one window; shared by all streams of that ratio."""

    def __init__(self, in_rate: int, out_rate: int) -> None:
        common = gcd(in_rate, out_rate)
        self.up, self.down = out_rate // common, in_rate // common
        factor = max(self.up, self.down)
        # An output is due when its whole share of the input is there, so it can look `down - 1` steps further ahead.
        half = _DELAY_SAMPLES * factor + self.down - 1
        taps = self.up * lowpass(half, _PASS / 2 / factor, 1 / 2 / factor, _STOP_WEIGHT)
        lower = min(in_rate, out_rate)
        self.delay_s = _DELAY_SAMPLES / lower
        self.delay_in, self.delay_out = _DELAY_SAMPLES * in_rate // lower, _DELAY_SAMPLES * out_rate // lower
        self.row_in = round(in_rate * _ROW_S)  # samples
        self.row_out = round(out_rate * _ROW_S)
        self.history = (2 * half - self.down + 1) // self.up  # samples before a row that still sound in it
        self.window = self.history + self.row_in
        self.rows = _LARGEST_PRODUCT // (self.window * self.row_out)  # at once, at most
        self.strides = (2 * self.row_in, 2)  # bytes from window to window, from sample to sample
        # Both in steps of the rate that both rates divide.
        outputs = np.arange(self.row_out) * self.down + self.down - 1
        inputs = np.arange(-self.history, self.row_in) * self.up
        lag = outputs - inputs[:, None]
        exact = np.round(taps / _TAP_STEP) * _TAP_STEP
        self.matrix = np.where((lag >= 0) & (lag <= 2 * half), exact[lag.clip(0, 2 * half)], 0.0)
        self.matrix.setflags(write=False)
        self.packed = exact.tobytes()
        self.loudest = int(32767 / np.abs(self.matrix).sum(axis=0).max())  # samples up to this cannot overflow


# Building one takes 2 ms (8 <-> 16 kHz) to 30 ms (8 <-> 48 kHz), once in a process: ask for it before the first call.
taps_for = cache(Taps)


def convolve(taps: Taps, data: bytes) -> bytes:
    """`rows * row_out` samples out of `history + rows * row_in` samples, s16le.

    A pure function: the windows of several streams of one ratio may as well be stacked into one product, with the
    same bits as the result.
    """
    if _convolution is not None:
        return _convolution(data, taps.packed, taps.up, taps.down, taps.history)
    return multiply(taps, data)


def multiply(taps: Taps, data: bytes) -> bytes:
    """The same by numpy."""
    rows = (len(data) // 2 - taps.history) // taps.row_in
    windows: NDArray[np.int16] = _ndarray((rows, taps.window), _S16, data, 0, taps.strides)
    out: NDArray[np.float64] = windows.astype(_F64).dot(taps.matrix)
    if _peak(data, 2) > taps.loudest:  # looking costs less than limiting, and speech is rarely so loud
        _minimum(out, _HIGHEST, out=out)
        _maximum(out, _LOWEST, out=out)
    _rint(out, out)  # to the nearest, halves to even: no bias
    return out.astype(_S16).tobytes()


class PolyphaseResampler:
    """Frame-exact: after n samples in, exactly n * out_rate / in_rate samples are out (rounded down; up at a flush)."""

    __slots__ = ("_carried", "_frame", "_kept", "_silence", "_taps", "_waiting", "delay_s", "in_rate", "out_rate")

    def __init__(self, in_rate: int, out_rate: int) -> None:
        self.in_rate, self.out_rate = in_rate, out_rate
        self._taps = taps_for(in_rate, out_rate)
        self.delay_s = self._taps.delay_s
        self._frame = in_rate // 50 * 2  # bytes of the usual 20 ms, which have a short way
        self._kept = 2 * self._taps.history
        self._silence = bytes(self._kept)
        self.reset()

    def reset(self) -> None:
        self._carried = self._silence  # the history, then the waiting samples
        self._waiting = 0  # samples since the last one that began a group of `down`

    def process(self, pcm: Buffer) -> bytes:
        if len(pcm) != self._frame or self._waiting:
            return self._process_any(pcm)
        data: bytes = self._carried + pcm
        self._carried = data[-self._kept :]
        return convolve(self._taps, data)

    def _process_any(self, pcm: Buffer) -> bytes:
        """Any block: one that is not whole rows, one after such a one, a very long one."""
        if len(pcm) & 1:
            raise _half_a_sample(pcm)
        if not len(pcm):
            return b""
        taps = self._taps
        most = 2 * taps.row_in * (taps.rows - 1)  # one more may begin with what is waiting
        if len(pcm) > most:
            return b"".join(self._process_any(pcm[start : start + most]) for start in range(0, len(pcm), most))
        data: bytes = self._carried + pcm
        fresh = self._waiting + len(pcm) // 2
        given = self._waiting * taps.up // taps.down
        due = fresh * taps.up // taps.down
        # What is due hears nothing of what is still missing from the last row.
        out = convolve(taps, data + bytes(2 * (-fresh % taps.row_in)))
        self._waiting = fresh % taps.down
        self._carried = data[2 * (fresh - self._waiting) :]
        return out[2 * given : 2 * due]

    def flush(self) -> bytes:
        if self._carried is self._silence:  # nothing was fed since the last one
            return b""
        taps = self._taps
        due = taps.delay_out - (-self._waiting * taps.up // taps.down + self._waiting * taps.up // taps.down)
        out = self._process_any(bytes(2 * (taps.delay_in + taps.down)))
        self.reset()
        return out[: 2 * due]


class SoxrResampler:
    """Any ratio, 10 to 30 ms late: soxr in its variable-rate mode, the only one that gives out every chunk at once."""

    __slots__ = ("_stream", "delay_s", "in_rate", "out_rate")

    def __init__(self, in_rate: int, out_rate: int) -> None:
        self.in_rate, self.out_rate = in_rate, out_rate
        self.delay_s = _soxr_delay_s(in_rate, out_rate)
        self._stream = _soxr_stream(in_rate, out_rate)

    def process(self, pcm: Buffer) -> bytes:
        if len(pcm) & 1:
            raise _half_a_sample(pcm)
        return _s16(self._stream.resample_chunk(_floats(pcm)))

    def flush(self) -> bytes:
        tail = _s16(self._stream.resample_chunk(_floats(b""), last=True))
        self.reset()
        return tail

    def reset(self) -> None:
        self._stream.clear()


def _soxr_stream(in_rate: int, out_rate: int) -> soxr.ResampleStream:
    return soxr.ResampleStream(in_rate, out_rate, 1, dtype="float32", quality="HQ", vr=True)


# soxr's own 16-bit output is dithered at random: silence would hiss, and no two runs would agree.
def _floats(pcm: Buffer) -> NDArray[np.float32]:
    return np.frombuffer(pcm, _S16).astype(np.float32)


def _s16(samples: NDArray[np.float32]) -> bytes:
    return samples.clip(-32768, 32767).round().astype(_S16).tobytes()


@cache
def _soxr_delay_s(in_rate: int, out_rate: int) -> float:
    # soxr does not tell it, so it is measured: what is missing after half a second.
    given: int = _soxr_stream(in_rate, out_rate).resample_chunk(_floats(bytes(2 * (in_rate // 2)))).size
    return (in_rate // 2) / in_rate - given / out_rate


def _half_a_sample(pcm: Buffer) -> ValueError:
    return ValueError(f"{len(pcm)} bytes are not whole 16-bit samples")
