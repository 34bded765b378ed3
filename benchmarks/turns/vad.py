"""When a caller speaks, and when not: the voice detector on the corpus, with the defaults of VADParams.

    python benchmarks/turns/vad.py [--part kept|tune] [--plots docs/turns] [--compare] [--missed] [--json]

Prints a table and exits 1 if a target is missed. Delays are in ms, counted on the line: speech start from the first
voiced frame, speech end from the last frame of speech, less `stop_secs`; the time that the engine adds is measured by
benchmarks/vad.py. `--compare` adds other detectors: 16 kHz, the same model as Pipecat drives it, and loudness alone.
What is chosen by the corpus is chosen by its part `tune`; `kept` is for testing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.turns.corpus import KEPT, TUNE, Track, Uttered, noise_tracks, speech_tracks
from media.energy_vad import EnergyVADAnalyzer
from media.resample import resample_all
from media.silero import WINDOW, SileroRows, load_model
from media.vad import VADParams, VADState, VoiceStates, powers, volumes

NOISES: Final = ("babble", "hold", "music", "street", "coughs", "tones", "hiss")
COUNTED: Final = ("babble", "hold", "music", "street", "coughs")  # with a target
MINUTES: Final = 40.0  # of each noise, at four levels
LEAST_SNR_DB: Final = 10.0  # below it figures are told, but not held to the targets
EARLY_S: Final = 0.4  # a start so long before the first voiced frame belongs to the utterance: it began with air
LATE_S: Final = 0.25  # and one so long after its end as well

Edge = tuple[float, bool]  # second at which it is known; True: somebody speaks
Windows = Sequence[tuple[float, float]]  # confidence, volume


# ---------------------------------------------------------------- detectors


def ours(tracks: Sequence[Track], rate: int = 8000) -> list[Windows]:
    """The product's own rows, 32 tracks at a time: the bits that each call would get alone."""
    found: list[list[tuple[float, float]]] = [[] for _ in tracks]
    size = WINDOW[rate] * 2
    for first in range(0, len(tracks), 32):
        some = tracks[first : first + 32]
        pcms = [track.pcm if rate == 8000 else resample_all(track.pcm, 8000, rate) for track in some]
        rows = SileroRows(load_model(), rate, capacity=len(some))
        mine = [rows.open() for _ in some]
        least = [VADParams().min_volume] * len(some)
        for start in range(0, min(map(len, pcms)) - size + 1, size):
            judged = rows.judge(mine, [pcm[start : start + size] for pcm in pcms], least)
            for place, window in enumerate(zip(*judged, strict=True)):
                found[first + place].append(window)
    return found


def as_pipecat(tracks: Sequence[Track], rate: int = 8000) -> list[Windows]:
    """The same model, forgetting every 5 s wherever it is, and volume smoothed both ways."""
    model, size, context = load_model(), WINDOW[rate], WINDOW[rate] // 8
    pcms = [track.pcm if rate == 8000 else resample_all(track.pcm, 8000, rate) for track in tracks]
    count = min(map(len, pcms)) // 2 // size
    whole = np.stack([np.frombuffer(pcm, "<i2")[: count * size] for pcm in pcms])
    padded = np.concatenate((np.zeros((len(tracks), context), np.float32), whole.astype(np.float32) / 32768), axis=1)
    state: NDArray[np.float32] = np.zeros((2, len(tracks), 128), np.float32)
    smoothed, found = np.zeros(len(tracks)), [[] for _ in tracks]
    for window in range(count):
        if window % 156 == 0:
            state = np.zeros_like(state)
        audio = np.ascontiguousarray(padded[:, window * size : (window + 1) * size + context])
        confidence, state = model.step(rate, audio, state)
        smoothed += 0.2 * (np.array(volumes(powers(whole[:, window * size : (window + 1) * size], rate))) - smoothed)
        for place, (one, volume) in enumerate(zip(confidence.tolist(), smoothed.tolist(), strict=True)):
            found[place].append((one, volume))
    return found


def by_energy(tracks: Sequence[Track]) -> list[Windows]:
    found = []
    for track in tracks:
        windows: list[tuple[float, float]] = []
        EnergyVADAnalyzer().listen(8000, lambda *window, windows=windows: windows.append(window)).feed(track.pcm)
        found.append(windows)
    return found


@dataclass(frozen=True)
class Detector:
    name: str
    judge: Callable[[Sequence[Track]], list[Windows]]
    window_s: float = 0.032


OURS: Final = Detector("8 kHz (default)", ours)
OTHERS: Final = (
    Detector("16 kHz", lambda tracks: ours(tracks, 16000)),
    Detector("8 kHz, as Pipecat drives it", as_pipecat),
    Detector("16 kHz, as Pipecat drives it", lambda tracks: as_pipecat(tracks, 16000)),
    Detector("loudness alone", by_energy, 0.02),
)


def edges(windows: Windows, window_s: float) -> list[Edge]:
    states, talking, found = VoiceStates(VADParams(), window_s), False, []
    for number, (confidence, volume) in enumerate(windows, 1):
        state = states.step(confidence, volume)
        if (state in (VADState.SPEAKING, VADState.STOPPING)) != talking:
            talking = not talking
            found.append((number * window_s, talking))
    return found


# ---------------------------------------------------------------- scores


@dataclass
class Scores:
    """Of some tracks. Delays in seconds."""

    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    said: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by kind
    missed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    which: list[str] = field(default_factory=list)  # was missed

    def add(self, track: Track, found: Sequence[Edge]) -> None:
        for uttered in track.uttered:
            kind = uttered.clip.kind
            self.said[kind] += 1
            start = _start(uttered, found)
            if start is None:
                self.missed[kind] += 1
                where = "clean" if track.snr_db is None else f"{track.noise} {track.snr_db:.0f} dB"
                self.which.append(
                    f"{kind}: {uttered.clip.speaker}, {uttered.clip.name}, {track.dbfs:.0f} dBFS, {where}"
                )
                continue
            if start > uttered.voice_s - EARLY_S:
                self.starts.append(start - uttered.voice_s)
            end = _end(uttered, found, start)
            if end is not None:
                self.ends.append(end - uttered.end_s - VADParams().stop_secs)

    def share_missed(self, kind: str) -> float:
        return self.missed[kind] / max(1, self.said[kind])


def _start(uttered: Uttered, found: Sequence[Edge]) -> float | None:
    """When it was known that somebody speaks: before the utterance, if noise was taken for speech. None: missed."""
    before = [edge for edge in found if edge[0] <= uttered.voice_s]
    if before and before[-1][1]:
        return before[-1][0]
    return next((at for at, begins in found if begins and uttered.voice_s < at <= uttered.end_s + LATE_S), None)


def _end(uttered: Uttered, found: Sequence[Edge], start: float) -> float | None:
    """When it was known that the utterance is over: a pause within does not count if speech was heard again."""
    until = uttered.end_s + LATE_S
    begins = max(at for at, begins in found if begins and at <= until)
    return next((at for at, again in found if not again and at > max(begins, start)), None)


def percentiles(delays: Iterable[float]) -> tuple[float, float]:
    """Median and 95th percentile in ms."""
    found = np.array(list(delays)) * 1000
    return (float(np.percentile(found, 50)), float(np.percentile(found, 95))) if len(found) else (np.nan, np.nan)


@dataclass
class Figures:
    """A line of the table."""

    detector: str
    start_p50: float
    start_p95: float
    end_p50: float
    end_p95: float
    sentences_missed: int
    sentences: int
    phrases_missed: int
    phrases: int
    words_missed_percent: float
    words: int
    false_starts: dict[str, float]  # per 10 minutes

    def misses(self) -> list[str]:
        """The targets that are missed."""
        held = {
            "speech start p50 <= 230 ms": self.start_p50 <= 230,
            "speech start p95 <= 400 ms": self.start_p95 <= 400,
            "speech end p50 <= 60 ms": self.end_p50 <= 60,
            "speech end p95 <= 130 ms": self.end_p95 <= 130,
            "no sentence missed": self.sentences_missed == 0,
            "single words missed <= 8 %": self.words_missed_percent <= 8,
        }
        held |= {f"false starts on {kind} <= 5 per 10 min": self.false_starts[kind] <= 5 for kind in COUNTED}
        return [target for target, reached in held.items() if not reached]


@dataclass
class Measured:
    detector: Detector
    figures: Figures
    by_noise: dict[tuple[str, float | None], Scores]  # noise and its distance in dB
    held: Scores  # of tracks that the targets hold for


def measure(detector: Detector, speech: Sequence[Track], noises: dict[str, Sequence[Track]]) -> Measured:
    by_noise: dict[tuple[str, float | None], Scores] = defaultdict(Scores)
    held = Scores()
    for track, windows in zip(speech, detector.judge(speech), strict=True):
        found = edges(windows, detector.window_s)
        key = ("clean", None) if track.snr_db is None else (track.noise, track.snr_db)
        by_noise[key].add(track, found)
        if track.snr_db is None or track.snr_db >= LEAST_SNR_DB:
            held.add(track, found)
    false = {}
    for kind, tracks in noises.items():
        starts = sum(begins for windows in detector.judge(tracks) for _, begins in edges(windows, detector.window_s))
        false[kind] = starts / (sum(track.seconds for track in tracks) / 600)
    figures = Figures(
        detector.name,
        *percentiles(held.starts),
        *percentiles(by_noise["clean", None].ends),
        held.missed["sentence"],
        held.said["sentence"],
        held.missed["phrase"],
        held.said["phrase"],
        100 * held.share_missed("word"),
        held.said["word"],
        false,
    )
    return Measured(detector, figures, dict(by_noise), held)


# ---------------------------------------------------------------- saying it


def table(measured: Sequence[Measured]) -> str:
    lines = [
        "| detector | start p50 / p95 | end, clean p50 / p95 | sentences missed | phrases missed | words missed "
        "| false starts in 10 min: " + ", ".join(NOISES) + " |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in measured:
        f = one.figures
        false = ", ".join(f"{f.false_starts[kind]:.1f}" for kind in NOISES)
        lines.append(
            f"| {f.detector} | {f.start_p50:.0f} / {f.start_p95:.0f} | {f.end_p50:.0f} / {f.end_p95:.0f} "
            f"| {f.sentences_missed} of {f.sentences} | {f.phrases_missed} of {f.phrases} "
            f"| {f.words_missed_percent:.1f} % of {f.words} | {false} |"
        )
    return "\n".join(lines)


def by_noise_table(one: Measured) -> str:
    lines = ["| line | start p50 / p95 | end p50 / p95 | sentences missed | words missed |", "|---|---|---|---|---|"]
    for (noise, snr), scores in sorted(one.by_noise.items(), key=lambda item: (item[0][0], -(item[0][1] or 99))):
        start, end = percentiles(scores.starts), percentiles(scores.ends)
        name = "clean" if snr is None else f"{noise}, {snr:.0f} dB"
        lines.append(
            f"| {name} | {start[0]:.0f} / {start[1]:.0f} | {end[0]:.0f} / {end[1]:.0f} "
            f"| {scores.missed['sentence']} of {scores.said['sentence']} | {100 * scores.share_missed('word'):.0f} % |"
        )
    return "\n".join(lines)


def plot(measured: Sequence[Measured], speech: Sequence[Track], folder: Path) -> None:
    """Delays as they are distributed, false starts, and one line as the detector hears it. Needs the extra `bench`."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "vad"  # the same figures give the same file
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    first = measured[0]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    for (noise, snr), scores in sorted(first.by_noise.items(), key=lambda item: (item[0][0], -(item[0][1] or 99))):
        name = "clean" if snr is None else f"{noise} {snr:.0f} dB"
        for axes, delays in ((left, scores.starts), (right, scores.ends)):
            shares = np.linspace(0, 100, 101)  # that many points, however many utterances
            axes.plot(np.percentile(delays, shares) * 1000, shares, label=name, linewidth=1)
    for axes, title, marks in ((left, "speech start", (230, 400)), (right, "speech end - stop_secs", (60, 130))):
        axes.set(title=title, xlabel="ms", xlim=(-100, 700))
        axes.grid(alpha=0.3)
        for x, y in zip(marks, (50, 95), strict=True):
            axes.plot(x, y, "kx")
    left.set_ylabel("% of utterances, targets x")
    right.legend(fontsize=7)
    figure.savefig(folder / "vad_delays.svg", bbox_inches="tight")

    figure, axes = pyplot.subplots(figsize=(8, 3))
    width = 0.8 / len(measured)
    for place, one in enumerate(measured):
        heights = [one.figures.false_starts[kind] for kind in NOISES]
        axes.bar(np.arange(len(NOISES)) + place * width, heights, width, label=one.detector.name)
    axes.set_xticks(np.arange(len(NOISES)) + 0.4 - width / 2, NOISES)
    axes.axhline(5, color="k", linewidth=0.7, linestyle="--")
    axes.set(ylabel="false starts in 10 min", yscale="symlog")
    axes.legend(fontsize=7)
    figure.savefig(folder / "vad_false_starts.svg", bbox_inches="tight")

    track = next(track for track in speech if track.noise == "street" and track.snr_db == 10 and track.dbfs == -30)
    (windows,) = first.detector.judge([track])
    seconds, step = 14.0, first.detector.window_s
    figure, (top, bottom) = pyplot.subplots(2, 1, figsize=(10, 3.6), sharex=True)
    samples = np.frombuffer(track.pcm, "<i2")[: int(seconds * 8000)]
    tens = samples[: len(samples) // 160 * 160].reshape(-1, 160) / 32768  # what is seen of 20 ms is how far they reach
    top.fill_between(np.arange(len(tens)) * 0.02, tens.min(axis=1), tens.max(axis=1), linewidth=0)
    top.set_ylabel("line")
    bottom.plot(np.arange(1, len(windows) + 1) * step, [one for one, _ in windows], linewidth=0.8, label="confidence")
    bottom.plot(np.arange(1, len(windows) + 1) * step, [one for _, one in windows], linewidth=0.8, label="volume")
    begun = 0.0
    for at, begins in edges(windows, step):
        if begins:
            begun = at
        else:
            bottom.axvspan(begun, at, alpha=0.2, color="tab:green")
    for uttered in track.uttered:
        top.axvspan(uttered.voice_s, uttered.end_s, alpha=0.2, color="tab:orange")
    bottom.set(xlabel="s; orange: speech as it was built, green: speech as it was heard", xlim=(0, seconds))
    bottom.legend(fontsize=7, loc="upper right")
    figure.savefig(folder / "vad_line.svg", bbox_inches="tight")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(KEPT, TUNE), default=KEPT)
    parser.add_argument("--plots", type=Path, help="draw them there")
    parser.add_argument("--compare", action="store_true", help="other detectors, too")
    parser.add_argument("--missed", action="store_true", help="name what was missed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    speech = speech_tracks(options.part)
    noises: dict[str, Any] = {kind: noise_tracks(kind, options.part, minutes=MINUTES) for kind in NOISES}
    detectors = (OURS, *OTHERS) if options.compare else (OURS,)
    measured = [measure(detector, speech, noises) for detector in detectors]
    if options.json:
        print(json.dumps([asdict(one.figures) for one in measured], indent=1))
    else:
        print(f"part {options.part!r}, {len(speech)} lines of speech, {MINUTES:.0f} minutes of each noise\n")
        print(table(measured), by_noise_table(measured[0]), sep="\n\n")
    if options.missed:
        print("", *measured[0].held.which, sep="\n")
    if options.plots:
        plot(measured, speech, options.plots)
    missed = measured[0].figures.misses()
    print(*(f"MISSED: {target}" for target in missed), sep="\n", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
