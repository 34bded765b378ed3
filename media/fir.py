"""The design of the low-pass filters that `media.resample` convolves with.

Equiripple, because at equal quality it is the shortest, and the length is the delay: 2.5 ms where a Kaiser window
of the same stop band takes 4.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_GRID_PER_RIPPLE = 16  # points; a denser grid would gain less than 0.3 dB
_ROUNDS = 60  # of exchange; the filters in use settle in about ten
_CLOSE_ENOUGH = 1e-3  # of the ripple


@lru_cache(maxsize=32)
def lowpass(half: int, pass_edge: float, stop_edge: float, stop_weight: float) -> Floats:
    """A linear-phase low-pass of `2 * half + 1` taps with the least largest error.

    Args:
        half: taps on each side of the middle; the delay in samples.
        pass_edge: end of the pass band, as a fraction of the sample rate (0 to 0.5).
        stop_edge: start of the stop band, likewise.
        stop_weight: how many times smaller the stop band's error must be than the pass band's.

    Returns:
        The taps, read-only, scaled so that no frequency is amplified.

    Raises:
        ValueError: the edges are not in order, or the exchange did not settle.

    Source: Parks and McClellan, "Chebyshev approximation for nonrecursive digital filters with linear phase", 1972.
    """
    if half < 1 or not 0 < pass_edge < stop_edge < 0.5:
        raise ValueError(f"no low-pass of half length {half} between {pass_edge} and {stop_edge}")
    extremes = half + 2
    bands = pass_edge + 0.5 - stop_edge
    passing = np.linspace(0, pass_edge, max(8, round(_GRID_PER_RIPPLE * extremes * pass_edge / bands)))
    stopping = np.linspace(stop_edge, 0.5, max(8, round(_GRID_PER_RIPPLE * extremes * (0.5 - stop_edge) / bands)))
    x = np.cos(2 * np.pi * np.concatenate((passing, stopping)))
    wanted = np.repeat((1.0, 0.0), (passing.size, stopping.size))
    weight = np.repeat((1.0, stop_weight), (passing.size, stopping.size))
    at = np.linspace(0, x.size - 1, extremes).round().astype(int)
    for _ in range(_ROUNDS):
        curve = _curve_through(x[at], wanted[at], weight[at])
        error = weight * (wanted - curve.at(x))
        if np.abs(error).max() <= (1 + _CLOSE_ENOUGH) * curve.ripple:
            break
        at = _alternating_peaks(error, extremes)
    else:
        raise ValueError(f"the design of half length {half} between {pass_edge} and {stop_edge} does not settle")
    size = 2 * half + 1
    taps = np.roll(np.fft.irfft(curve.at(np.cos(2 * np.pi * np.arange(half + 1) / size)), size), half)
    taps /= 1 + curve.ripple
    taps.setflags(write=False)
    return taps


class _Curve:
    """A polynomial in the cosine of the frequency, given by its values at some nodes (barycentric form)."""

    def __init__(self, nodes: Floats, bary: Floats, values: Floats, ripple: float) -> None:
        self._nodes, self._bary, self._values = nodes, bary, values
        self.ripple = ripple

    def at(self, x: Floats) -> Floats:
        distances = x[:, None] - self._nodes
        exact = distances == 0
        distances[exact] = 1
        terms = self._bary / distances
        result: Floats = (terms @ self._values) / terms.sum(axis=1)
        rows, columns = np.nonzero(exact)
        result[rows] = self._values[columns]
        return result


def _curve_through(nodes: Floats, wanted: Floats, weight: Floats) -> _Curve:
    """The curve that misses what is wanted at the nodes by the same weighted error, in turns above and below."""
    # Twice the distance: products of distances on [-1, 1] shrink like 2 ** -n and would leave the floats' range.
    distances = 2 * (nodes[:, None] - nodes)
    np.fill_diagonal(distances, 1)
    bary = 1 / distances.prod(axis=1)
    miss = np.resize((1.0, -1.0), nodes.size) / weight
    ripple = (bary @ wanted) / (bary @ miss)
    return _Curve(nodes, bary, wanted - ripple * miss, abs(float(ripple)))


def _alternating_peaks(error: Floats, count: int) -> NDArray[np.int_]:
    """Where `error` is largest between its changes of sign: `count` places, the least at the ends left out."""
    runs = np.split(np.arange(error.size), np.flatnonzero(np.diff(np.signbit(error))) + 1)
    peaks = [run[np.argmax(np.abs(error[run]))] for run in runs]
    while len(peaks) > count:
        del peaks[0 if abs(error[peaks[0]]) < abs(error[peaks[-1]]) else -1]
    if len(peaks) < count:
        raise ValueError("too few ripples: the grid is too coarse or the filter too good for the arithmetic")
    return np.array(peaks)
