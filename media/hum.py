"""Is a sound no more than a hum? "Mm" and "mhm" come through closed lips, and nothing above the first formant does.

That is known as soon as the detector hears a voice, and long before a word of back-channel is over. Of a hum that has
lasted for a second nothing is known: most of what is remembered of the line is then the hum.
"""

from __future__ import annotations

from typing import Final

import numpy as np

LINE_S: Final = 1.74  # of the caller's audio: the latest, and what tells the line's noise

_PIECES: Final = 50  # in a second
_NOW: Final = 10  # pieces: 0.2 s
_BEFORE: Final = 18  # pieces that noise is taken from, at least
_VOICE: Final = 12  # of the latest pieces are none of the noise
_LOWEST, _OPEN = 1, 17  # bands of 50 Hz: from 850 Hz on is what an open mouth adds
_SHARE: Final = 0.008  # of the power below that, at most: 21 dB less. One sentence in forty begins with so little


def hums(pcm: bytes, rate: int) -> bool:
    """Whether the last 0.2 s of `pcm` are a voice behind closed lips.

    Args:
        pcm: the caller's audio, s16le, up to LINE_S.
        rate: any that is a multiple of 50.
    """
    size = rate // _PIECES
    samples = np.frombuffer(pcm[-2 * int(LINE_S * rate) :], "<i2")
    count = len(samples) // size
    if count < _VOICE + _BEFORE:
        return False
    pieces = samples[len(samples) - count * size :].reshape(count, size) * np.hanning(size)
    spectra = np.fft.rfft(pieces)
    powers = spectra.real**2 + spectra.imag**2
    bands = np.stack((powers[:, _LOWEST:_OPEN].sum(axis=1), powers[:, _OPEN:].sum(axis=1)))
    low, high = (bands[:, -_NOW:].mean(axis=1) - np.median(bands[:, :-_VOICE], axis=1)).tolist()
    return bool(low > 0 and high < _SHARE * low)
