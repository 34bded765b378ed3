"""WAV files of every kind in, by Python's own `wave` and by hand; a file that is killed while it is written."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.codecs import alaw_to_pcm, ulaw_to_pcm
from media.wav import Wav, WavWriter, read_wav, wav_header, write_wav

SAMPLES = np.array([0, 1, -1, 12345, -12345, 32767, -32768, 256], "<i2")
EXTENSIBLE_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    size = len(body) if size is None else size
    return name + struct.pack("<I", size) + body + b"\0" * (len(body) & 1)


def fmt(tag: int, bits: int, channels: int = 1, rate: int = 8000, extra: bytes = b"") -> bytes:
    frame = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * frame, frame, bits) + extra)


def extensible(tag: int, bits: int, tail: bytes = EXTENSIBLE_TAIL) -> bytes:
    return fmt(0xFFFE, bits, extra=struct.pack("<HHIH", 22, bits, 4, tag) + tail)


def riff(*chunks: bytes, size: int | None = None) -> io.BytesIO:
    body = b"WAVE" + b"".join(chunks)
    return io.BytesIO(b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body)


def three_bytes(values: np.ndarray) -> bytes:
    return b"".join(int(value).to_bytes(3, "little", signed=True) for value in values)


KINDS = {
    "8 bits": (1, 8, bytes([128, 129, 0, 255]), [0, 256, -32768, 127 * 256]),
    "16 bits": (1, 16, SAMPLES.tobytes(), SAMPLES),
    "24 bits": (1, 24, three_bytes(SAMPLES.astype(int) * 256), SAMPLES),
    "24 bits, rounded": (1, 24, three_bytes(np.array([127, 129, -127, -129, 2**23 - 1])), [0, 1, 0, -1, 32767]),
    "32 bits": (1, 32, (SAMPLES.astype("<i4") * 65536).tobytes(), SAMPLES),
    "32 bits, loudest": (1, 32, np.array([2**31 - 1, -(2**31)], "<i4").tobytes(), [32767, -32768]),
    "floats": (
        3,
        32,
        np.array([0, 0.5, -0.5, 1, -1, 7, -7], "<f4").tobytes(),
        [0, 16384, -16384, 32767, -32768, 32767, -32768],
    ),
    "no numbers": (3, 32, np.array([np.nan, np.inf, -np.inf], "<f4").tobytes(), [0, 32767, -32768]),
    "doubles": (3, 64, (SAMPLES / 32768).astype("<f8").tobytes(), SAMPLES),
    "mu-law": (7, 8, bytes(range(256)), np.frombuffer(ulaw_to_pcm(bytes(range(256))), "<i2")),
    "A-law": (6, 8, bytes(range(256)), np.frombuffer(alaw_to_pcm(bytes(range(256))), "<i2")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("header", [fmt, extensible], ids=["plain", "extensible"])
def test_every_kind_is_read(kind: str, header) -> None:
    tag, bits, body, expected = KINDS[kind]
    wav = read_wav(riff(header(tag, bits), chunk(b"data", body)))
    assert np.frombuffer(wav.pcm, "<i2").tolist() == list(expected)
    assert (wav.sample_rate, wav.channels) == (8000, 1)


def test_other_chunks_of_odd_sizes_are_skipped() -> None:
    wav = read_wav(
        riff(
            chunk(b"JUNK", b"abc"),
            fmt(1, 16, 2, 44100),
            chunk(b"LIST", b"x"),
            chunk(b"data", b"abcd"),
            chunk(b"id3 ", b"z"),
        )
    )
    assert wav == Wav(b"abcd", 44100, 2)
    assert wav.duration_s == pytest.approx(1 / 44100)


@pytest.mark.parametrize(
    ("riff_size", "data_size"),
    [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFFF, 0x7FFFF000), (0, 0), (36, 0), (100, 64)],
    ids=["ffmpeg to a pipe", "espeak to a pipe", "nothing filled in", "header of nothing", "cut off"],
)
def test_sizes_that_were_never_filled_in(riff_size: int, data_size: int) -> None:
    file = riff(fmt(1, 16), chunk(b"data", b"abcdefg", data_size), size=riff_size)
    file.truncate(len(file.getvalue()) - 1)  # without the padding: half a sample at the end
    assert read_wav(file).pcm == b"abcdef"


def test_a_file_may_be_silent() -> None:
    assert read_wav(riff(fmt(1, 16), chunk(b"data", b""), chunk(b"LIST", b"name"))) == Wav(b"", 8000, 1)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (io.BytesIO(b""), "not a WAV file"),
        (io.BytesIO(b"ID3\x04 an mp3 file"), "not a WAV file: it starts with b'ID3"),
        (io.BytesIO(b"RIFX\0\0\0\x04WAVE"), "not a WAV file: it starts with b'RIFX'"),
        (io.BytesIO(b"RIFF\0\0\0\x04AVI "), "not a WAV file"),
        (riff(), "no format"),
        (riff(fmt(1, 16)), "no data"),
        (riff(chunk(b"data", b"ab")), "data comes before its format"),
        (riff(chunk(b"fmt ", b"ab"), chunk(b"data", b"ab")), "format has only 2 bytes"),
        (riff(fmt(0x55, 0), chunk(b"data", b"")), "format 0x0055 with 0 bits is not supported"),
        (riff(fmt(2, 4), chunk(b"data", b"")), "format 0x0002 with 4 bits is not supported"),
        (riff(fmt(1, 12), chunk(b"data", b"")), "format 0x0001 with 12 bits is not supported"),
        (riff(extensible(1, 16, bytes(14)), chunk(b"data", b"")), "extensible format is not one"),
        (riff(fmt(1, 16, channels=0), chunk(b"data", b"")), "contradicts itself: 0 channels"),
        (riff(fmt(1, 16, rate=0), chunk(b"data", b"")), "contradicts itself.* at 0 Hz"),
        (riff(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 2, 8000, 32000, 2, 16)), chunk(b"data", b"")), "contradicts"),
    ],
)
def test_what_cannot_be_read_says_why(file: io.BytesIO, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_wav(file)


@given(st.binary(max_size=200))
def test_garbage_is_a_value_error_or_a_file(data: bytes) -> None:
    floats = riff(fmt(3, 32), chunk(b"data", data))
    for content in (data, riff(data).getvalue(), riff(fmt(1, 16), data).getvalue(), floats.getvalue()):
        try:
            wav = read_wav(io.BytesIO(content))
        except ValueError:
            continue
        assert len(wav.pcm) % (2 * wav.channels) == 0


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (16000, 6)])
def test_pythons_own_reader_agrees(tmp_path: Path, rate: int, channels: int) -> None:
    pcm = np.random.default_rng(3).integers(-32768, 32768, 600 * channels).astype("<i2").tobytes()
    path = tmp_path / "a.wav"
    write_wav(path, pcm, rate, channels)
    with wave.open(str(path)) as judge:
        assert (judge.getframerate(), judge.getnchannels(), judge.getsampwidth()) == (rate, channels, 2)
        assert judge.readframes(10**6) == pcm
    assert path.stat().st_size == 44 + len(pcm)
    assert read_wav(path) == read_wav(str(path)) == Wav(pcm, rate, channels)


def test_the_header_alone_makes_a_file_of_a_frame() -> None:
    pcm = SAMPLES.tobytes()
    with wave.open(io.BytesIO(wav_header(len(pcm), 16000) + pcm)) as judge:
        assert (judge.getframerate(), judge.getnchannels(), judge.getnframes()) == (16000, 1, len(SAMPLES))


def test_more_than_32_bits_is_until_the_end() -> None:
    assert wav_header(2**32 - 1 - 36, 8000)[40:] == b"\xff\xff\xff\xff"
    assert struct.unpack("<I", wav_header(2**32 - 38, 8000)[40:]) == (2**32 - 38,)
    assert read_wav(io.BytesIO(wav_header(2**33, 8000) + b"abcd")).pcm == b"abcd"


def test_a_file_is_valid_after_every_second(tmp_path: Path) -> None:
    path = tmp_path / "growing.wav"
    writer = WavWriter(path, 8000, 2)
    assert read_wav(path) == Wav(b"", 8000, 2)
    for frame in range(1, 126):
        writer.write(bytes([frame]) * 640)  # 20 ms of two channels
        with wave.open(str(path)) as judge:
            assert judge.getnframes() == frame // 50 * 8000
            assert len(judge.readframes(10**6)) == judge.getnframes() * 4
    assert writer.duration_s == pytest.approx(2.5)
    writer.close()
    writer.close()
    assert read_wav(path).duration_s == pytest.approx(2.5)
    with pytest.raises(ValueError, match="closed"):
        writer.write(bytes(640))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a kill that cannot be caught")
def test_a_killed_process_leaves_all_but_the_last_second(tmp_path: Path) -> None:
    path = tmp_path / "killed.wav"
    program = (
        "import os, signal, sys\n"
        "from media.wav import WavWriter\n"
        "writer = WavWriter(sys.argv[1], 8000)\n"
        "for _ in range(175):\n"
        "    writer.write(b'\\x01\\x00' * 160)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    with wave.open(str(path)) as judge:
        assert judge.getnframes() == 24000
        assert judge.readframes(24000) == b"\x01\x00" * 24000


def test_an_exception_still_finishes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.wav"

    def speak() -> None:
        with WavWriter(path, 8000) as writer:
            writer.write(b"abcd")
            raise RuntimeError("the bot broke")

    with pytest.raises(RuntimeError):
        speak()
    assert read_wav(path).pcm == b"abcd"


def test_half_a_frame_is_refused(tmp_path: Path) -> None:
    with (
        WavWriter(tmp_path / "x.wav", 8000, 2) as writer,
        pytest.raises(ValueError, match="6 bytes are not whole frames"),
    ):
        writer.write(bytes(6))
    with pytest.raises(ValueError, match="0 channels"):
        WavWriter(tmp_path / "y.wav", 8000, 0)
    assert not os.path.exists(tmp_path / "y.wav")
