"""Has the caller finished, or only paused? Models that hear it in the voice: what they are shown, and when.

`BaseSmartTurn` keeps the turn's audio; `SmartTurnModel` is a model of the smart-turn family, version 3: ONNX, with
Whisper's features (log-mel, 80 bands) of eight seconds, padded in front, as its input.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from media.errors import ConfigError
from media.metrics import SmartTurnMetricsData
from media.onnx import open_session
from media.resample import resample_all
from media.turns.analyzer import BaseTurnAnalyzer, EndOfTurnState

Floats = NDArray[np.float32]

RATE: Final = 16000
SECONDS: Final = 8  # that the model hears at a time
BANDS: Final = 80
FRAMES: Final = SECONDS * 100

_FFT: Final = 400
_HOP: Final = 160
_INPUT: Final = "input_features"
_COMPLETE_FROM: Final = 0.5  # probability above which a turn is complete


@dataclass(frozen=True, slots=True, kw_only=True)
class SmartTurnParams:
    """How much of a turn is looked at, and how long a caller may be silent in it."""

    stop_secs: float = 3.0  # of silence: the turn is complete, whatever the model says
    pre_speech_ms: float = 500.0  # of audio from before the speech
    max_duration_secs: float = 8.0  # of a longer turn: its last seconds

    def __post_init__(self) -> None:
        if not 0.0 < self.stop_secs <= 60.0:
            raise ValueError(f"stop_secs must be above 0 and at most 60, got {self.stop_secs}")
        if not 0.0 <= self.pre_speech_ms <= 5000.0:
            raise ValueError(f"pre_speech_ms must be 0 to 5000, got {self.pre_speech_ms}")
        if not 0.0 < self.max_duration_secs <= 60.0:
            raise ValueError(f"max_duration_secs must be above 0 and at most 60, got {self.max_duration_secs}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model's word. `inference_s`: of the model alone; `server_s`: of a service that runs it elsewhere."""

    probability: float  # that the turn is complete
    inference_s: float = 0.0
    server_s: float = 0.0


class BaseSmartTurn(BaseTurnAnalyzer):
    """Keeps the audio of one call's turn; `predict` of a subclass asks a model about it.

    Silence of `stop_secs` completes a turn without being asked. Time is that of the audio.
    """

    def __init__(self, *, sample_rate: int | None = None, params: SmartTurnParams | None = None) -> None:
        super().__init__(sample_rate=sample_rate)
        self._params = params or SmartTurnParams()
        self._audio: deque[bytes] = deque()
        self._bytes = 0
        self._spoken = False
        self._stretches = 0  # of speech, since the beginning
        self._speaking = False
        self._silence_bytes = 0
        self._vad_start_secs = 0.2

    async def predict(self, pcm: bytes) -> Endpoint:
        """What the model says of the turn: s16le, mono, at `sample_rate`, at most `max_duration_secs`."""
        raise NotImplementedError

    @property
    def params(self) -> SmartTurnParams:
        return self._params

    @property
    def speech_triggered(self) -> bool:
        return self._spoken

    def append_audio(self, buffer: bytes, is_speech: bool) -> EndOfTurnState:
        if not self._sample_rate:
            return EndOfTurnState.INCOMPLETE
        self._audio.append(buffer)
        self._bytes += len(buffer)
        if is_speech:
            self._spoken, self._silence_bytes = True, 0
            if not self._speaking:
                self._stretches += 1
        elif self._spoken:
            self._silence_bytes += len(buffer)
        self._speaking = is_speech
        if self._silence_bytes and self._silence_bytes >= self._size(self._params.stop_secs):
            self.clear()
            return EndOfTurnState.COMPLETE
        limit = self._size(
            self._params.max_duration_secs
            if self._spoken
            else self._params.pre_speech_ms / 1000 + self._vad_start_secs  # the detector tells of speech so much later
        )
        while self._audio and self._bytes - len(self._audio[0]) >= limit:
            self._bytes -= len(self._audio.popleft())
        return EndOfTurnState.INCOMPLETE

    async def analyze_end_of_turn(self) -> tuple[EndOfTurnState, SmartTurnMetricsData | None]:
        if not self._spoken:
            return EndOfTurnState.INCOMPLETE, None
        began, asked_of = time.perf_counter(), self._stretches
        pcm = b"".join(self._audio)[-self._size(self._params.max_duration_secs) :]
        found = await self.predict(pcm)
        complete = found.probability > _COMPLETE_FROM
        if complete and self._stretches == asked_of:  # else the caller went on meanwhile: his turn does
            self.clear()
        metrics = SmartTurnMetricsData(
            processor=type(self).__name__,
            is_complete=complete,
            probability=found.probability,
            e2e_processing_time_ms=(time.perf_counter() - began) * 1000,
            inference_time_ms=found.inference_s * 1000,
            server_total_time_ms=found.server_s * 1000,
        )
        return (EndOfTurnState.COMPLETE if complete else EndOfTurnState.INCOMPLETE), metrics

    def update_vad_start_secs(self, vad_start_secs: float) -> None:
        self._vad_start_secs = vad_start_secs

    def clear(self) -> None:
        self._audio.clear()
        self._bytes = self._silence_bytes = 0
        self._spoken = self._speaking = False

    def _size(self, seconds: float) -> int:
        return 2 * int(seconds * self._sample_rate)


# ---------------------------------------------------------------- features


def _mel(hz: float) -> float:
    """Slaney's scale: linear below 1 kHz."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * float(np.log(hz / 1000)) / float(np.log(6.4))


def _hz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * float(np.exp((mel - 15) * np.log(6.4) / 27))


@cache
def _bands() -> tuple[tuple[int, Floats], ...]:
    """Of each band: the first line of the spectrum, and the weights from there on; a triangle of area 1."""
    lines = np.linspace(0, RATE / 2, _FFT // 2 + 1)
    edges = [_hz(mel) for mel in np.linspace(0, _mel(RATE / 2), BANDS + 2)]
    found = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        slopes = np.minimum((lines - low) / (middle - low), (high - lines) / (high - middle))
        weights = np.maximum(0.0, slopes) * 2 / (high - low)
        used = np.flatnonzero(weights)
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        found.append((first, weights[first:last].astype(np.float32)))
    return tuple(found)


def log_mel(samples: Floats) -> Floats:
    """Whisper's features.

    Args:
        samples: at 16 kHz, any scale; the last eight seconds count, less is padded in front.

    Returns:
        [80, 800].

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", and its feature extractor
    with `do_normalize`; the mel scale is that of Slaney's Auditory Toolbox.
    """
    audio = np.zeros(RATE * SECONDS, np.float32)
    samples = samples[-len(audio) :]
    if len(samples):
        audio[-len(samples) :] = samples
    audio -= audio.mean(dtype=np.float64)
    audio /= np.sqrt(audio.var(dtype=np.float64) + 1e-7)
    padded = np.pad(audio, _FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP][:FRAMES]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FFT) / _FFT)).astype(np.float32)
    spectrum = np.fft.rfft(frames * window, axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).T.astype(np.float32)
    mel = np.empty((BANDS, FRAMES), np.float32)
    for band, (first, weights) in enumerate(_bands()):
        # No matrix product: OpenBLAS would wake a thread on every core for it.
        np.einsum("lf,l->f", power[first : first + len(weights)], weights, out=mel[band])
    log = np.log10(np.maximum(mel, 1e-10))
    return np.asarray((np.maximum(log, log.max() - 8.0) + 4.0) / 4.0, np.float32)


# ---------------------------------------------------------------- the model


class SmartTurnModel:
    """One ONNX file; safe for threads, made to be used from one.

    Raises ConfigError: there is no such file, or it is no model of this kind.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        remedy = "name the ONNX file of a smart-turn model, version 3"
        if not path.is_file():
            raise ConfigError("smart_turn_model_path", f"there is no file {path}", remedy)
        try:
            session = open_session(path, threads=threads)
        except Exception as exc:
            raise ConfigError(
                "smart_turn_model_path", f"{path} cannot be loaded: {type(exc).__name__}", remedy
            ) from exc
        inputs = {given.name: given.shape for given in session.get_inputs()}
        sizes = [size for size in inputs.get(_INPUT, ())[1:] if not isinstance(size, str)]  # a name: any size
        if set(inputs) != {_INPUT} or len(inputs[_INPUT]) != 3 or not {BANDS, FRAMES}.issuperset(sizes):
            raise ConfigError("smart_turn_model_path", f"{path} takes {inputs}, not {_INPUT} [1, 80, 800]", remedy)
        self._run: Any = session.run

    def probability(self, pcm: bytes, sample_rate: int) -> Endpoint:
        """That the turn is complete; s16le, mono. Takes some tens of ms."""
        if sample_rate != RATE:
            pcm = resample_all(pcm, sample_rate, RATE)
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)
        features = log_mel(samples)[np.newaxis]
        began = time.perf_counter()
        (output, *_) = self._run(None, {_INPUT: features})
        return Endpoint(float(output.reshape(-1)[0]), time.perf_counter() - began)
