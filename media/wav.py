"""WAV files: any kind that people have in, 16-bit PCM out.

Sources: Microsoft, "Multimedia Programming Interface and Data Specifications 1.0" (RIFF, WAVE, odd chunks), and
"Multiple channel audio data and WAVE files" (WAVE_FORMAT_EXTENSIBLE).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Final, Self

import numpy as np

from media.codecs import alaw_to_pcm, ulaw_to_pcm

_UNKNOWN: Final = 0xFFFFFFFF  # the size that a writer gives who cannot go back
_HEADER: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")
_FORMAT: Final = struct.Struct("<HHIIHH")
_CHUNK: Final = struct.Struct("<4sI")
_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
# What follows the format tag in the sixteen bytes of an extensible format's id.
_GUID_TAIL: Final = bytes.fromhex("000000001000800000aa00389b71")


@dataclass(frozen=True, slots=True)
class Wav:
    """A recording: `pcm` is s16le, `channels` interleaved."""

    pcm: bytes
    sample_rate: int  # Hz
    channels: int = 1

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / (2 * self.channels * self.sample_rate)


def read_wav(source: str | os.PathLike[str] | BinaryIO) -> Wav:
    """A WAV file as 16-bit PCM.

    PCM of 8, 16, 24 and 32 bits, floats of 32 and 64, mu-law and A-law, plain or as WAVE_FORMAT_EXTENSIBLE. A header
    whose sizes were never filled in is read to the end of the file, and so is one that promises more than there is.

    Raises:
        ValueError: not a WAV file, or of another kind; the text says what it is.
        OSError: it cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            data = file.read()
    else:
        data = source.read()
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise ValueError(f"not a WAV file: it starts with {data[:4]!r}")
    riff_end = 8 + struct.unpack_from("<I", data, 4)[0]
    decode: Callable[[bytes], bytes] | None = None
    frame = sample_rate = channels = 0
    at = 12
    while at + 8 <= len(data):
        name, size = _CHUNK.unpack_from(data, at)
        at += 8
        if name == b"fmt ":
            decode, frame, channels, sample_rate = _format(data[at : at + size])
        elif name == b"data":
            if decode is None:
                raise ValueError("the WAV file's data comes before its format")
            if size == 0 and riff_end < len(data):  # its writer did not live to fill in the sizes
                size = _UNKNOWN
            samples = data[at : at + size]
            return Wav(decode(samples[: len(samples) // frame * frame]), sample_rate, channels)
        at += size + (size & 1)
    raise ValueError("the WAV file has no data" if decode else "the WAV file has no format")


def _format(chunk: bytes) -> tuple[Callable[[bytes], bytes], int, int, int]:
    """The decoder, bytes per frame, channels, and sample rate of a `fmt ` chunk."""
    if len(chunk) < _FORMAT.size:
        raise ValueError(f"the WAV file's format has only {len(chunk)} bytes")
    tag, channels, sample_rate, _, frame, bits = _FORMAT.unpack_from(chunk)
    if tag == _EXTENSIBLE:
        if len(chunk) < 40 or chunk[26:40] != _GUID_TAIL:
            raise ValueError("the WAV file's extensible format is not one that is registered")
        tag = int.from_bytes(chunk[24:26], "little")
    decode = _DECODERS.get((tag, bits))
    if decode is None:
        raise ValueError(f"WAV format {tag:#06x} with {bits} bits is not supported: use PCM, float, mu-law or A-law")
    if not channels or not sample_rate or frame != channels * bits // 8:
        raise ValueError(
            f"the WAV file's format contradicts itself: {channels} channels of {bits} bits in frames of {frame} bytes"
            f" at {sample_rate} Hz"
        )
    return decode, frame, channels, sample_rate


def _from_8_bits(samples: bytes) -> bytes:
    return ((np.frombuffer(samples, np.uint8).astype(np.int16) - 128) * 256).astype("<i2").tobytes()


def _from_24_bits(samples: bytes) -> bytes:
    parts = np.frombuffer(samples, np.uint8).reshape(-1, 3).astype(np.int32)
    return _rounded(((parts[:, 2] << 24) | (parts[:, 1] << 16) | (parts[:, 0] << 8)).astype(np.float64) / 65536)


def _from_32_bits(samples: bytes) -> bytes:
    return _rounded(np.frombuffer(samples, "<i4").astype(np.float64) / 65536)


def _from_floats(kind: str) -> Callable[[bytes], bytes]:
    def decode(samples: bytes) -> bytes:
        with np.errstate(invalid="ignore"):  # a file may hold what is not a number: silence
            return _rounded(np.nan_to_num(np.frombuffer(samples, kind).astype(np.float64).clip(-1, 1)) * 32768)

    return decode


def _rounded(samples: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
    return samples.round().clip(-32768, 32767).astype("<i2").tobytes()


_DECODERS: Final[dict[tuple[int, int], Callable[[bytes], bytes]]] = {
    (_PCM, 8): _from_8_bits,
    (_PCM, 16): bytes,
    (_PCM, 24): _from_24_bits,
    (_PCM, 32): _from_32_bits,
    (_FLOAT, 32): _from_floats("<f4"),
    (_FLOAT, 64): _from_floats("<f8"),
    (_ALAW, 8): alaw_to_pcm,
    (_ULAW, 8): ulaw_to_pcm,
}


def wav_header(data_size: int, sample_rate: int, channels: int = 1) -> bytes:
    """The 44 bytes before `data_size` bytes of s16le; more than fits into 32 bits is "until the end"."""
    riff_size = data_size + 36
    return _HEADER.pack(
        b"RIFF",
        riff_size if riff_size < _UNKNOWN else _UNKNOWN,
        b"WAVE",
        b"fmt ",
        _FORMAT.size,
        _PCM,
        channels,
        sample_rate,
        sample_rate * channels * 2,
        channels * 2,
        16,
        b"data",
        data_size if riff_size < _UNKNOWN else _UNKNOWN,
    )


def write_wav(path: str | os.PathLike[str], pcm: bytes, sample_rate: int, channels: int = 1) -> None:
    """One WAV file of `pcm`; ValueError if it is not whole frames."""
    with WavWriter(path, sample_rate, channels) as writer:
        writer.write(pcm)


class WavWriter:
    """A WAV file written as the sound comes.

    Once a second of sound the data is handed to the system and then the header is corrected, so that a process which
    dies leaves a valid file that lacks at most its last second.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sample_rate: int,
        channels: int = 1,
        *,
        opener: Callable[[str, int], int] | None = None,
    ) -> None:
        if sample_rate < 1 or channels < 1:
            raise ValueError(f"no WAV file has {channels} channels at {sample_rate} Hz")
        self.sample_rate, self.channels = sample_rate, channels
        self.data_size = 0  # bytes
        self._frame = 2 * channels
        self._second = sample_rate * self._frame
        self._sealed = 0  # bytes that the header speaks of
        self._file = open(path, "wb", opener=opener)  # noqa: SIM115 - closed by close()
        self._file.write(wav_header(0, sample_rate, channels))
        self._file.flush()

    @property
    def duration_s(self) -> float:
        return self.data_size / self._second

    def write(self, pcm: bytes) -> None:
        """Append s16le; ValueError if it is not whole frames or the file is closed."""
        if len(pcm) % self._frame:
            raise ValueError(f"{len(pcm)} bytes are not whole frames of {self.channels} channels")
        self._file.write(pcm)
        self.data_size += len(pcm)
        if self.data_size - self._sealed >= self._second:
            self.seal()

    def close(self) -> None:
        """Finish the file; may be called again."""
        if not self._file.closed:
            try:
                self.seal()
            finally:
                self._file.close()

    def seal(self) -> None:
        """Hand what was written to the system, then correct the header."""
        # The data first: a header must never promise what is not there.
        self._file.flush()
        self._file.seek(0)
        self._file.write(wav_header(self.data_size, self.sample_rate, self.channels))
        self._file.seek(0, os.SEEK_END)
        self._file.flush()
        self._sealed = self.data_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
