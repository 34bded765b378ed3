"""G.711 against the standard's own arithmetic; byte order and channels by their inverses."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.codecs import (
    ALAW_SILENCE,
    ULAW_SILENCE,
    alaw_to_pcm,
    deinterleave,
    interleave,
    pcm_to_alaw,
    pcm_to_ulaw,
    swap16,
    ulaw_to_pcm,
)

ALL_CODES = bytes(range(256))
ALL_SAMPLES = struct.pack("<65536h", *range(-32768, 32768))


def samples(pcm: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(pcm) // 2}h", pcm)


def ulaw_by_the_standard(code: int) -> int:
    """G.711 table 2: the value of a mu-law octet, on 14 bits, scaled to 16."""
    code = ~code & 0xFF
    segment, step = code >> 4 & 7, code & 15
    magnitude = (((step << 1) + 33) << segment) - 33
    return (-magnitude if code & 0x80 else magnitude) * 4


def alaw_by_the_standard(code: int) -> int:
    """G.711 table 1: the value of an A-law octet, on 13 bits, scaled to 16."""
    code ^= 0x55
    segment, step = code >> 4 & 7, code & 15
    magnitude = (step << 1) + 1 if segment == 0 else ((step << 1) + 33) << (segment - 1)
    return (magnitude if code & 0x80 else -magnitude) * 8


def test_every_ulaw_octet_is_what_the_standard_says() -> None:
    assert list(samples(ulaw_to_pcm(ALL_CODES))) == [ulaw_by_the_standard(code) for code in range(256)]


def test_every_alaw_octet_is_what_the_standard_says() -> None:
    assert list(samples(alaw_to_pcm(ALL_CODES))) == [alaw_by_the_standard(code) for code in range(256)]


@pytest.mark.parametrize(("encode", "decode"), [(pcm_to_ulaw, ulaw_to_pcm), (pcm_to_alaw, alaw_to_pcm)])
def test_what_was_decoded_is_encoded_to_the_same_value(encode, decode) -> None:
    pcm = decode(ALL_CODES)
    assert decode(encode(pcm)) == pcm  # mu-law has two zeros, so octets may differ where values do not


@pytest.mark.parametrize(("encode", "decode"), [(pcm_to_ulaw, ulaw_to_pcm), (pcm_to_alaw, alaw_to_pcm)])
def test_every_sample_survives_companding_within_half_a_step(encode, decode) -> None:
    for value, heard in zip(samples(ALL_SAMPLES), samples(decode(encode(ALL_SAMPLES))), strict=True):
        # 1/32 of the value, and the three least bits that the codecs do not look at; mu-law ends at 32124.
        assert abs(heard - value) <= abs(value) / 32 + 8 or abs(value) > 32124


def test_silence_is_silent() -> None:
    assert pcm_to_ulaw(bytes(4)) == ULAW_SILENCE * 2
    assert ulaw_to_pcm(ULAW_SILENCE) == bytes(2)
    assert pcm_to_alaw(bytes(4)) == ALAW_SILENCE * 2
    assert abs(samples(alaw_to_pcm(ALAW_SILENCE))[0]) == 8  # A-law has no zero


def test_the_two_laws_differ() -> None:
    assert pcm_to_ulaw(ALL_SAMPLES) != pcm_to_alaw(ALL_SAMPLES)


@given(st.binary(max_size=400).filter(lambda data: len(data) % 2 == 0))
def test_byte_order_is_swapped_and_back(data: bytes) -> None:
    assert struct.unpack(f">{len(data) // 2}h", swap16(data)) == samples(data)
    assert swap16(swap16(data)) == data


@pytest.mark.parametrize("convert", [pcm_to_ulaw, pcm_to_alaw, swap16])
@pytest.mark.parametrize("size", [1, 3, 321])
def test_half_a_sample_is_refused(convert, size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes"):
        convert(bytes(size))


@pytest.mark.parametrize("convert", [pcm_to_ulaw, pcm_to_alaw, ulaw_to_pcm, alaw_to_pcm, swap16])
def test_nothing_is_nothing(convert) -> None:
    assert convert(b"") == b""


@given(
    st.integers(1, 6).flatmap(
        lambda channels: st.tuples(
            st.just(channels),
            st.integers(0, 40).flatmap(lambda n: st.binary(min_size=n * channels * 2, max_size=n * channels * 2)),
        )
    ),
    st.sampled_from([1, 2]),
)
def test_channels_come_apart_and_together(case: tuple[int, bytes], width: int) -> None:
    channels, data = case
    apart = deinterleave(data, channels, width)
    assert len(apart) == channels
    assert interleave(apart, width) == data
    for index, channel in enumerate(apart):
        frames = [data[at : at + width] for at in range(0, len(data), width)]
        assert channel == b"".join(frames[index::channels])


def test_stereo_of_genesys() -> None:
    assert deinterleave(b"EIEIEI", 2, width=1) == [b"EEE", b"III"]
    assert deinterleave(b"LlRrLlRr", 2) == [b"LlLl", b"RrRr"]


@pytest.mark.parametrize(("size", "channels", "width"), [(3, 2, 2), (6, 2, 2), (3, 2, 1), (4, 0, 2), (4, -1, 1)])
def test_frames_that_are_not_whole_are_refused(size: int, channels: int, width: int) -> None:
    with pytest.raises(ValueError, match="whole frames"):
        deinterleave(bytes(size), channels, width)


@pytest.mark.parametrize("channels", [[bytes(4), bytes(2)], [bytes(3), bytes(3)]])
def test_channels_that_do_not_fit_are_refused(channels: list[bytes]) -> None:
    with pytest.raises(ValueError, match="cannot be interleaved"):
        interleave(channels)


def test_no_channels_are_no_sound() -> None:
    assert interleave([]) == b""


def test_the_import_warns_nobody() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", "import media.codecs"], check=True, timeout=60)
