"""The figures of media/: what the resampler does to sound, and what a 20 ms frame costs.

    python benchmarks/bench_sound.py            # tables
    python benchmarks/bench_sound.py --json     # the same for machines

Times are the least of many runs of one thread (the machine's noise only adds), beside the time of a fixed loop that
tells machines and minutes apart. Run it with OPENBLAS_NUM_THREADS=1 to compare with docs/.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import timeit
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from media.codecs import alaw_to_pcm, deinterleave, interleave, pcm_to_alaw, pcm_to_ulaw, swap16, ulaw_to_pcm
from media.dtmf import ToneDetector, tone
from media.resample import make_resampler

Floats = NDArray[np.float64]

RATIOS = [(a, b) for a in (8000, 16000, 24000, 48000) for b in (8000, 16000, 24000, 48000) if a != b]
ODD_RATIOS = [(22050, 8000), (22050, 16000), (44100, 8000), (8000, 22050)]
HALF_SCALE = 16384  # -6 dBFS


def microseconds(call: Callable[[], object], number: int = 2000, repeat: int = 15) -> float:
    return min(timeit.repeat(call, number=number, repeat=repeat)) / number * 1e6


def fixed_loop() -> float:
    """A loop that never changes: compare runs only where it agrees."""
    return microseconds(lambda: sum(range(1000)))


def sine(frequency: float, rate: int, seconds: float, peak: float = HALF_SCALE) -> bytes:
    phase = 2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate
    return np.rint(peak * np.sin(phase + 0.3)).astype("<i2").tobytes()


def floats(pcm: bytes) -> Floats:
    return np.frombuffer(pcm, "<i2").astype(np.float64)


def through(pcm: bytes, in_rate: int, out_rate: int) -> Floats:
    """In 20 ms frames, without the first 100 ms."""
    resampler, size = make_resampler(in_rate, out_rate), in_rate // 50 * 2
    out = b"".join(resampler.process(pcm[at : at + size]) for at in range(0, len(pcm), size))
    return floats(out)[out_rate // 10 :]


def gain_and_snr(heard: Floats, frequency: float, rate: int) -> tuple[float, float]:
    """In dB, after the tone's own gain and delay are fitted."""
    turns = 2 * np.pi * frequency * np.arange(heard.size) / rate
    basis = np.stack((np.sin(turns), np.cos(turns)), axis=1)
    fitted, *_ = np.linalg.lstsq(basis, heard, rcond=None)
    left = heard - basis @ fitted
    return float(20 * np.log10(np.hypot(*fitted) / HALF_SCALE)), float(
        10 * np.log10(np.mean(heard**2) / np.mean(left**2))
    )


def strangers(in_rate: int, out_rate: int) -> float:
    """The loudest that does not belong there, in dB of the tone: aliases when going down, images when going up."""
    worst = -200.0
    if in_rate > out_rate:
        for above in np.linspace(out_rate / 2, in_rate / 2, 40, endpoint=False):
            heard = through(sine(float(above), in_rate, 0.4), in_rate, out_rate)
            worst = max(worst, float(10 * np.log10(np.mean(heard**2) / (HALF_SCALE**2 / 2) + 1e-20)))
        return worst
    for frequency in range(300, in_rate // 2, in_rate // 80):
        heard = through(sine(frequency, in_rate, 0.6), in_rate, out_rate)
        window = np.blackman(heard.size)
        peaks = np.abs(np.fft.rfft(heard * window)) * 2 / window.sum()
        image = peaks[int(heard.size * in_rate / 2 / out_rate) :].max()
        worst = max(worst, float(20 * np.log10(image / HALF_SCALE)))
    return worst


def resampling(in_rate: int, out_rate: int) -> dict[str, float]:
    tones = [
        gain_and_snr(through(sine(frequency, in_rate, 0.5), in_rate, out_rate), frequency, out_rate)
        for frequency in range(300, 3301, 50)
    ]
    gains = [gain for gain, _ in tones]
    resampler = make_resampler(in_rate, out_rate)
    speech, loud = sine(440, in_rate, 0.02, 9000), sine(440, in_rate, 0.02, 30000)
    return {
        "delay_ms": resampler.delay_s * 1000,
        "ripple_db": max(gains) - min(gains),
        "snr_db": min(snr for _, snr in tones),
        "strangers_db": strangers(in_rate, out_rate),
        "us": microseconds(lambda: resampler.process(speech)),
        "us_loud": microseconds(lambda: resampler.process(loud)),
    }


def odd(in_rate: int, out_rate: int) -> dict[str, float]:
    resampler, frame = make_resampler(in_rate, out_rate), sine(440, in_rate, 0.02)
    return {"delay_ms": resampler.delay_s * 1000, "us": microseconds(lambda: resampler.process(frame))}


def in_batch(in_rate: int, out_rate: int, calls: int = 64) -> float:
    """Microseconds a frame when the frames of many calls are one product: the floor for a batched clock."""
    from media.resample import taps_for

    taps = taps_for(in_rate, out_rate)
    samples = taps.history + in_rate // 50
    data = np.random.default_rng(0).integers(-9000, 9000, calls * samples).astype("<i2").tobytes()
    shape = (calls, in_rate // 50 // taps.row_in, taps.window)
    strides = (2 * samples, *taps.strides)

    def product() -> bytes:
        windows: NDArray[np.int16] = np.ndarray(shape, "<i2", data, 0, strides)
        out: Floats = windows.astype(np.float64).reshape(-1, taps.window).dot(taps.matrix)
        np.clip(out, -32768, 32767, out)
        return np.rint(out, out).astype("<i2").tobytes()

    return microseconds(product, number=100) / calls


def codecs() -> dict[str, float]:
    pcm = sine(440, 8000, 0.02)
    ulaw, alaw, stereo = pcm_to_ulaw(pcm), pcm_to_alaw(pcm), interleave([pcm, pcm])
    return {
        "ulaw_to_pcm": microseconds(lambda: ulaw_to_pcm(ulaw)),
        "pcm_to_ulaw": microseconds(lambda: pcm_to_ulaw(pcm)),
        "alaw_to_pcm": microseconds(lambda: alaw_to_pcm(alaw)),
        "pcm_to_alaw": microseconds(lambda: pcm_to_alaw(pcm)),
        "swap16": microseconds(lambda: swap16(pcm)),
        "deinterleave, 2 channels of PCM": microseconds(lambda: deinterleave(stereo, 2)),
        "deinterleave, 2 channels of mu-law": microseconds(lambda: deinterleave(pcm, 2, 1)),
        "interleave, 2 channels of PCM": microseconds(lambda: interleave([pcm, pcm])),
    }


def detector() -> dict[str, float]:
    generator = np.random.default_rng(0)
    figures = {}
    for rate in (8000, 16000):
        noise = (generator.standard_normal(rate // 50) * 2000).astype("<i2").tobytes()
        key = tone("5", rate, 20, 0)
        for name, frame in (("silence", bytes(rate // 25)), ("noise", noise), ("a key", key)):
            figures[f"{name} at {rate // 1000} kHz"] = microseconds(partial(ToneDetector(rate).feed, frame))
    return figures


def measure() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "fixed_loop_us": fixed_loop(),
        "resampling": {f"{a} -> {b}": resampling(a, b) for a, b in RATIOS},
        "in_batches_of_64_us": {f"{a} -> {b}": in_batch(a, b) for a, b in RATIOS[:2] + RATIOS[3:4]},
        "odd_ratios": {f"{a} -> {b}": odd(a, b) for a, b in ODD_RATIOS},
        "codecs_us": codecs(),
        "tone_detector_us": detector(),
    }


def table(title: str, rows: dict[str, Any], columns: Sequence[str] = ()) -> None:
    print(f"\n{title}")
    if columns:
        print(f"{'':<36}" + "".join(f"{column:>14}" for column in columns))
    for name, figures in rows.items():
        values = [figures[column] for column in columns] if columns else [figures]
        print(f"{name:<36}" + "".join(f"{value:>14.2f}" for value in values))


def main() -> int:
    parser = argparse.ArgumentParser(description="What the resampler does to sound, and what a 20 ms frame costs.")
    parser.add_argument("--json", action="store_true", help="for machines")
    as_json = parser.parse_args().json
    figures = measure()
    if as_json:
        print(json.dumps(figures, indent=2))
        return 0
    print(f"Python {figures['python']}, numpy {figures['numpy']}, fixed loop {figures['fixed_loop_us']:.2f} us")
    table(
        "Resampling, 20 ms frames; tones of -6 dBFS, 300 to 3300 Hz",
        figures["resampling"],
        ("delay_ms", "ripple_db", "snr_db", "strangers_db", "us", "us_loud"),
    )
    table("The same, 64 calls in one product, us a frame", figures["in_batches_of_64_us"])
    table("Odd ratios (soxr)", figures["odd_ratios"], ("delay_ms", "us"))
    table("Codecs, us a frame", figures["codecs_us"])
    table("Tone detector, us a frame", figures["tone_detector_us"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
