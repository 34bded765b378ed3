"""Who keeps the floor: whole calls in which a caller interrupts the bot, only mumbles, or only his line echoes.

    python benchmarks/turns/interruptions.py [--count N] [--part tune|kept] [--plot FILE] [--json] [--plain]

Each trial is a call on virtual time through the fake Twilio, 10 ms away, with Silero's detector and `Floor`: the bot
speaks for six seconds, and some time after it began

- interruption: the caller says a sentence. Measured from its first voiced frame to the last sample of the bot that
  the caller hears (the hold), and whether the bot ended its reply;
- word, hum: the caller says "uh huh" or the like, or hums, and no more. The bot should not end its reply for that;
- echo: nobody speaks, but the line brings the bot's voice back, -10 to -30 dB and 50 to 400 ms later;
- both: an interruption on a line with echo.

Levels are -40 to -10 dBFS, with noise of the line's at an SNR of 10 dB or more. `--plain` is the same without `Floor`:
whatever the detector takes for speech ends the reply at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.turns.corpus import (
    KEPT,
    LEVELS_DBFS,
    RATE,
    TUNE,
    Clip,
    Samples,
    clips,
    echo,
    noise,
    short_replies,
    telephone,
)
from gateway import log
from media.floor import Floor, FloorParams
from media.frames import FloorFrame, Frame, InterruptionFrame, TTSAudioRawFrame, TTSStartedFrame, TTSStoppedFrame
from media.processor import FrameDirection, FrameProcessor
from media.silero import SileroVADAnalyzer
from media.vad_processor import VADProcessor
from tests.gateway.virtual import VirtualCall

KINDS: Final = ("interruption", "both", "word", "hum", "echo")
WAY_S: Final = 0.01  # to the carrier, and back
SPEAKS_S: Final = 6.0
AFTER_S: Final = 2.5  # of quiet, at the end of a trial
PACKET: Final = RATE // 50

BACKGROUNDS: Final = ("hiss", "street")
TARGETS: Final = {"p50_ms": 260.0, "p95_ms": 380.0, "ended": 0.03, "held": 0.15, "own_echo": 0.01}


@dataclass(slots=True)
class Trial:
    """One call."""

    kind: str
    silent_ms: float | None = None  # from the caller's first voiced frame to the bot's last sample, for an interruption
    ended: bool = False  # the bot gave its reply up
    held: bool = False  # it was silent for a while
    decisions: list[str] = field(default_factory=list)
    before: bool = False  # it fell silent before the caller spoke
    hold_s: float = 0.0  # how long, where it went on
    name: str = ""
    line: str = ""  # its noise, SNR and echo


class Ears(FrameProcessor):
    """Behind the floor: what it decided, and the end of a reply."""

    def __init__(self, call: VirtualCall, interrupts_at_once: bool) -> None:
        super().__init__()
        self._call, self._at_once = call, interrupts_at_once
        self.decisions: list[tuple[float, str]] = []
        self.interrupted_at: float | None = None

    def process_frame(self, frame: Frame, direction: FrameDirection) -> Any:
        if isinstance(frame, FloorFrame):
            self.decisions.append((self._call.t, frame.decision))
        elif isinstance(frame, InterruptionFrame):
            self.interrupted_at = self._call.t
        elif self._at_once and type(frame).__name__ == "VADUserStartedSpeakingFrame":
            self.interrupted_at = self._call.t
            self.broadcast_frame(InterruptionFrame)
        return self.push_frame(frame, direction)


@cache
def replies(part: str) -> tuple[Samples, ...]:
    """What bots say: sentences of the *other* part's speakers, one after the other, at -20 dBFS."""
    speakers: dict[str, list[Clip]] = {}
    for clip in clips(TUNE if part == KEPT else KEPT):
        if not clip.is_word:
            speakers.setdefault(clip.speaker, []).append(clip)
    found = []
    for own in speakers.values():
        for first in range(0, len(own), 4):
            pieces = [piece for clip in (own * 3)[first:] for piece in (clip.samples, np.zeros(RATE // 10))]
            said = np.concatenate(pieces[:40])[: int(SPEAKS_S * RATE)]
            if len(said) == int(SPEAKS_S * RATE):
                found.append(said * 0.1)
    return tuple(found)


@cache
def path(echo_db: float, delay_ms: float, seed: int) -> Samples:
    """The impulse response of a line that echoes."""
    impulse = np.zeros(int((delay_ms + 20) / 1000 * RATE))
    impulse[0] = 1.0
    return echo(impulse, echo_db, delay_ms, seed=seed)


@cache
def background(kind: str, part: str) -> Samples:
    return noise(kind, 60.0, part, 77)


def trial(kind: str, part: str, seed: int, params: FloorParams | None) -> Trial:
    """One call; `params` None: without a floor."""
    rng = np.random.default_rng([seed, KINDS.index(kind), part == KEPT])
    holder: list[Ears] = []

    def build(call: Any) -> Sequence[FrameProcessor]:
        ears = Ears(holder_call[0], params is None)
        holder.append(ears)
        detector = VADProcessor(vad_analyzer=SileroVADAnalyzer())
        return [detector, ears] if params is None else [detector, Floor(params), ears]

    holder_call: list[VirtualCall] = []
    call = VirtualCall("twilio", build, latency_s=WAY_S, strict=False)
    holder_call.append(call)
    said = replies(part)[rng.integers(len(replies(part)))]
    level = float(rng.choice(LEVELS_DBFS))
    total_s = SPEAKS_S + AFTER_S + 2.0
    line = np.zeros(int(total_s * RATE))
    kind_of_noise = str(rng.choice(BACKGROUNDS))
    snr = float(rng.uniform(10.0, 30.0))
    at = int(rng.integers(RATE * 60 - len(line)))
    noise_of_line = background(kind_of_noise, part)[at : at + len(line)] * 10 ** ((level - snr) / 20)
    line += noise_of_line
    starts_s = float(rng.uniform(1.5, 3.5))
    clip: Clip | None = None
    if kind in ("interruption", "both"):
        choice = [one for one in clips(part) if not one.is_word and one.seconds >= 1.0]
        clip = choice[rng.integers(len(choice))]
    elif kind in ("word", "hum"):
        choice = [one for one in short_replies(part) if one.name.startswith("hum ") == (kind == "hum")]
        clip = choice[rng.integers(len(choice))]
    echo_path: Samples | None = None
    echoes = ""
    if kind in ("echo", "both"):
        loudest = -10.0 if kind == "echo" else -20.0
        echo_db, delay_ms = float(rng.choice([loudest, -20.0, -30.0])), float(rng.choice([50.0, 150.0, 400.0]))
        echo_path = path(echo_db, delay_ms, int(rng.integers(4)))
        echoes = f", echo of {echo_db:.0f} dB after {delay_ms:.0f} ms"
    voice_at = 0
    if clip is not None:
        first = int(starts_s * RATE)
        line[first : first + len(clip.samples)] += (clip.samples * 10 ** (level / 20))[: len(line) - first]
        voice_at = first + clip.voice

    call.say(telephone(noise_of_line[: round(0.2 * RATE)]))  # a line's noise is there from the beginning
    call.run(0.2)
    pcm = np.clip(said * 32767, -32768, 32767).astype("<i2").tobytes()
    for frame in (TTSStartedFrame(), TTSAudioRawFrame(pcm, RATE, 1), TTSStoppedFrame()):
        call.core.inject(frame)
    began = call.t
    for packet in range(len(line) // PACKET):
        piece = line[packet * PACKET : (packet + 1) * PACKET].copy()
        if echo_path is not None:
            piece += returned(call, echo_path)
        call.say(telephone(piece))
        call.run(0.02)
    (ears,) = holder
    out = Trial(kind, name=clip.name if clip is not None else "")
    out.line = f"{level:.0f} dBFS, {kind_of_noise} at {snr:.0f} dB{echoes}"
    out.decisions = [decision for _, decision in ears.decisions]
    out.ended = ears.interrupted_at is not None
    caller_at = began + voice_at / RATE
    clears = [clear.silent_at for clear in call.fake.playout.clears]
    if kind in ("interruption", "both"):
        out.before = any(at < caller_at for at in clears)
        after = [at for at in clears if at >= caller_at]
        out.silent_ms = (after[0] - caller_at) * 1000 if after else None
    out.held = bool(clears) and not out.ended
    holds = [at for at, decision in ears.decisions if decision == "held"]
    backs = [at for at, decision in ears.decisions if decision == "went on"]
    if out.held and backs:
        out.hold_s = sum(b - a for a, b in zip(holds, backs, strict=False))
    return out


def returned(call: VirtualCall, echo_path: Samples) -> Samples:
    """The echo of what the caller has heard until now, one packet of it."""
    heard = np.frombuffer(call.heard()[-2 * (len(echo_path) + PACKET) :], "<i2") / 32768
    if len(heard) < len(echo_path) + PACKET:
        heard = np.concatenate([np.zeros(len(echo_path) + PACKET - len(heard)), heard])
    return np.asarray(np.convolve(heard, echo_path)[len(echo_path) : len(echo_path) + PACKET])


def quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else float("nan")


def table(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    rows = []
    for kind in KINDS:
        own = [one for one in trials if one.kind == kind]
        if not own:
            continue
        row: dict[str, Any] = {"kind": kind, "calls": len(own)}
        if kind in ("interruption", "both"):
            times = [one.silent_ms for one in own if one.silent_ms is not None and not one.before]
            row |= {
                "p50_ms": round(quantile(times, 0.5)),
                "p95_ms": round(quantile(times, 0.95)),
                "missed": round(1 - sum(one.silent_ms is not None for one in own) / len(own), 3),
                "ended": round(sum(one.ended for one in own) / len(own), 3),
                "before": round(sum(one.before for one in own) / len(own), 3),
            }
        else:
            row |= {
                "ended": round(sum(one.ended for one in own) / len(own), 3),
                "held": round(sum(one.held for one in own) / len(own), 3),
                "hold_s": round(quantile([one.hold_s for one in own if one.held], 0.5), 2),
            }
        rows.append(row)
    return rows


def plot(trials: Sequence[Trial], file: Path) -> None:
    """How soon the bot is silent, and what becomes of its replies."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for kind in ("interruption", "both"):
        times = sorted(one.silent_ms for one in trials if one.kind == kind and one.silent_ms is not None)
        left.plot(times, np.linspace(0, 1, len(times)), label=kind)
    left.axvline(TARGETS["p50_ms"], color="grey", lw=0.8, ls=":")
    left.axvline(TARGETS["p95_ms"], color="grey", lw=0.8, ls=":")
    left.set(xlabel="ms from the first voiced frame to silence", ylabel="share of interruptions", xlim=(0, 1000))
    left.legend()
    kinds = [kind for kind in KINDS if kind not in ("interruption", "both")]
    for at, kind in enumerate(kinds):
        own = [one for one in trials if one.kind == kind]
        ended, held = (sum(getattr(one, name) for one in own) / max(1, len(own)) for name in ("ended", "held"))
        right.bar(at, ended, color="tab:red", label="ended" if not at else None)
        right.bar(at, held, bottom=ended, color="tab:orange", label="held, went on" if not at else None)
    right.set(xticks=range(len(kinds)), xticklabels=kinds, ylabel="share of replies", ylim=(0, 1))
    right.legend()
    figure.savefig(file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, metavar="N", help="calls of each kind; default 200")
    parser.add_argument("--part", choices=(TUNE, KEPT), default=KEPT, help="of the corpus; default kept")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this one; may be repeated")
    parser.add_argument("--plain", action="store_true", help="without a floor: what sounds like speech interrupts")
    parser.add_argument("--turn-s", type=float, default=FloorParams().turn_s, help="speech that is a turn")
    parser.add_argument("--hold-after-s", type=float, default=0.0, help="of speech, before the bot falls silent")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="an SVG of the result")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--trials", action="store_true", help="one line for each call that was not as it should be")
    args = parser.parse_args()

    log.configure("critical")
    params = None if args.plain else FloorParams(turn_s=args.turn_s, hold_after_s=args.hold_after_s)
    trials = []
    for kind in args.kind or KINDS:
        print(f"{kind}: {args.count} calls ...", file=sys.stderr, flush=True)
        trials += [trial(kind, args.part, seed, params) for seed in range(args.count)]
    rows = table(trials)
    if args.plot:
        plot(trials, args.plot)
    if args.trials:
        for one in trials:
            if one.kind in ("interruption", "both"):
                if one.silent_ms is None or one.silent_ms > TARGETS["p95_ms"] or one.before:
                    print(one)
            elif one.ended or one.held:
                print(one)
    if args.json:
        print(
            json.dumps(
                {"part": args.part, "rows": rows, "decisions": Counter(d for one in trials for d in one.decisions)}
            )
        )
        return 0
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
