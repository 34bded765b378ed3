"""A voice detector without a model: speech is what is well above the line's own noise."""

from __future__ import annotations

import math

from media.vad import VADAnalyzer, VADParams, volume_of

_DB = 100.0  # dB over the whole range of volume
_MARGIN_DB = 12.0  # above the noise: as likely speech as not
_SLOPE_DB = 2.0
_FLOOR_AT_FIRST_DB = 25.0  # as loudness counts: -65 dBFS, a good line
_FLOOR_RISE_DB = 2.0  # per second: slower than any word, so that speech does not become noise
_WINDOW_S = 0.02


class EnergyVADAnalyzer(VADAnalyzer):
    """For machines too small for a model, 4 us a window. Any loud sound is speech to it: music, coughs, digits."""

    def __init__(self, *, sample_rate: int | None = None, params: VADParams | None = None) -> None:
        super().__init__(sample_rate=sample_rate, params=params)
        self._floor = _FLOOR_AT_FIRST_DB

    def for_call(self) -> EnergyVADAnalyzer:
        """Each call has a noise of its own."""
        return EnergyVADAnalyzer(sample_rate=self._init_sample_rate, params=self._params)

    def num_frames_required(self) -> int:
        return round((self._sample_rate or 8000) * _WINDOW_S)

    def voice_confidence(self, buffer: bytes) -> float:
        level = volume_of(buffer, self._sample_rate or 8000) * _DB - 20.0
        above = level - self._floor
        self._floor = max(0.0, min(level, self._floor + _FLOOR_RISE_DB * _WINDOW_S))
        return 1 / (1 + math.exp(-(above - _MARGIN_DB) / _SLOPE_DB))
