"""What a call costs between socket and socket: CPU milliseconds per call-second of the call's own path.

    python benchmarks/hotpath.py [--calls N] [--rounds N] [--case NAME ...] [--profile] [--json]

N calls live in this process, on virtual time and without a socket: every 20 ms each gets its carrier's next message,
is ticked, and its outbox is emptied. The clock is the only thing that is not real, so two versions of the code can be
compared without the noise of network and scheduler. Told are the best, the median and the mean round (one second of
every call); the loop that feeds them is taken off. `calibration` is a fixed loop: compare runs in which it agrees.

    echo         Twilio echo at the wire's 8 kHz
    echo-16k     the same with a pipeline at 16 kHz: resampled both ways
    echo-24k     and at 24 kHz
    telnyx, plivo, vonage
                 echo at the wire's rate on other carriers; Vonage's is 16 kHz
    gate         echo at 8 kHz with Silero listening to a silent line: its gate of volume, no model
    hearing      the same while the caller talks: the model judges every window, in batches of 32
    floor-gate   `gate` with the floor behind the detector
    floor        `hearing` with the floor, and speech instead of tones: half of the time somebody talks
    line-echo    the same, but it is the bot that talks, and all the caller's line brings is its echo: the floor
                 compares the two again and again

The last two need recorded speech (benchmarks/turns/corpus.py), and as it comes and goes, their figure is the mean.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import json
import logging
import math
import pstats
import statistics
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bots.base import Call
from bots.echo import Echo
from gateway.core import CallCore
from gateway.load.calibration import calibrate
from gateway.ports import BotRoute
from gateway.registry import serializer_class
from gateway.simulator.base import CallPlan, fake_carrier
from media.call import CallInfo
from media.events import DONE, Handle, MaybeAwaitable, drive_without_loop
from media.floor import Floor
from media.frames import Frame, StartFrame, TTSAudioRawFrame
from media.processor import FrameDirection, FrameProcessor, Lanes
from media.silero import WINDOW, WINDOW_S, SileroRows, SileroVADAnalyzer, load_model
from media.vad import Deliver, Windows
from media.vad_processor import VADProcessor
from serializers.base import WireOptions

TICK_S, PHASE_S = 0.020, 0.007  # a message every tick, and the call's tick that much after it
SECOND = round(1 / TICK_S)
BATCH = 32
ECHO, ECHO_GAIN = 1600, 0.2  # samples, and -14 dB


class Ears:
    """Silero for all calls, in batches: what gateway/vad_engine.py does, without its thread."""

    def __init__(self) -> None:
        self.rows = SileroRows(load_model(), 8000, capacity=BATCH)
        self.ready: list[tuple[EarSource, bytes]] = []

    def listen(self, model: Path | None, sample_rate: int, deliver: Deliver) -> EarSource:
        return EarSource(self, deliver)

    def judge(self) -> None:
        ready, self.ready = self.ready, []
        for at in range(0, len(ready), BATCH):
            batch = ready[at : at + BATCH]
            rows, windows = [source.row for source, _ in batch], [window for _, window in batch]
            found = self.rows.judge(rows, windows, [source.min_volume for source, _ in batch])
            for (source, _), confidence, volume in zip(batch, *found, strict=True):
                source.deliver(confidence, volume)


class EarSource:
    """One call's."""

    window_s = WINDOW_S

    def __init__(self, ears: Ears, deliver: Deliver) -> None:
        self.min_volume, self.deliver = 0.0, deliver
        self.row = ears.rows.open()
        self._ears, self._windows = ears, Windows(WINDOW[8000] * 2)

    def feed(self, pcm: bytes) -> None:
        for window in self._windows.cut(pcm):
            self._ears.ready.append((self, window))

    def close(self) -> None:
        pass


class Shell:
    """One call, and the world as its core sees it."""

    def __init__(self, case: Case, ears: Ears | None) -> None:
        self.t = 1000.0
        self.core = CallCore(
            serializer_class(case.carrier).for_call(WireOptions()),
            self,
            claims=CallInfo(carrier=case.carrier, call_id="CA1"),
            route=lambda info: BotRoute("echo", partial(_processors, case), case.sample_rate),
            now=self.t,
        )
        self.core.vad = ears
        self.sent = 0

    def now(self) -> float:
        return self.t

    def wake(self) -> None:
        """The writer's turn comes after this."""

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> Handle:
        raise RuntimeError(f"no call needs a task here, {name} does")

    def drive(self, coro: Coroutine[Any, Any, Any], name: str) -> None:
        drive_without_loop(coro, name)

    def settle(self, handles: Iterable[Handle]) -> Awaitable[None]:
        return DONE

    def end_task(self, handle: Handle, timeout_s: float | None) -> Awaitable[None]:
        return DONE

    def attach_async(self, processor: FrameProcessor) -> Lanes:
        raise RuntimeError(f"{processor} needs a loop")


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    sample_rate: int | None = None
    hears: bool = False
    talks: bool = True
    floor: bool = False
    speech: bool = False  # of people, instead of tones
    echoes: bool = False  # the bot talks, and the line brings that back
    carrier: str = "twilio"


CASES = (
    Case("echo"),
    Case("echo-16k", 16000),
    Case("echo-24k", 24000),
    Case("telnyx", carrier="telnyx"),
    Case("plivo", carrier="plivo"),
    Case("vonage", carrier="vonage"),
    Case("gate", hears=True, talks=False),
    Case("hearing", hears=True),
    Case("floor-gate", hears=True, talks=False, floor=True),
    Case("floor", hears=True, floor=True, speech=True),
    Case("line-echo", hears=True, floor=True, speech=True, echoes=True),
)


def _processors(case: Case, call: Call) -> Sequence[FrameProcessor]:
    ears = (VADProcessor(vad_analyzer=SileroVADAnalyzer()),) if case.hears else ()
    floor = (Floor(),) if case.floor else ()
    return (*ears, *floor, Talker(speech(120)) if case.echoes else Echo())


class Talker(FrameProcessor):
    """A bot that has much to say."""

    def __init__(self, pcm: bytes) -> None:
        super().__init__()
        self._pcm = pcm

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self.push_frame(TTSAudioRawFrame(self._pcm, 8000, 1))
        return DONE


@cache
def speech(seconds: int) -> bytes:
    from benchmarks.vad import conversation

    return conversation(seconds)


def line(case: Case, seconds: int) -> bytes:
    """What the caller's line brings, s16le at 8 kHz."""
    count = seconds * 8000
    if case.echoes:
        late = array("h", bytes(2 * ECHO) + speech(120)[: 2 * (count - ECHO)])
        return array("h", (round(ECHO_GAIN * sample) for sample in late)).tobytes()
    if case.speech:
        return speech(120)[: 2 * count]
    if not case.talks:
        return bytes(2 * count)
    # Vowel-like: three tones under a syllable's envelope.
    wave = (
        3000 * abs(math.sin(n / 2500)) * sum(math.sin(n * hz * math.tau / 8000) for hz in (140, 700, 1220))
        for n in range(count)
    )
    return array("h", (round(sample) for sample in wave)).tobytes()


def messages(case: Case, seconds: int) -> tuple[list[Any], list[Any]]:
    """What opens a call, and what its carrier sends in each tick."""
    fake = fake_carrier(case.carrier)(CallPlan(), strict=False, record=False)
    opening = list(fake.opening(1000.0))
    spoken: list[Any] = []
    size = 2 * fake.audio_rate // SECOND
    pcm = line(case, seconds * fake.audio_rate // 8000)  # slowed down where the wire has another rate
    for tick in range(seconds * SECOND):
        spoken += fake.audio(pcm[tick * size : (tick + 1) * size], 1000.0 + (tick + 1) * TICK_S)
    return opening, spoken


class Crowd:
    """All calls of one case."""

    def __init__(self, case: Case, calls: int, seconds: int) -> None:
        opening, self.spoken = messages(case, seconds)
        self.ears = Ears() if case.hears else None
        self.shells = [Shell(case, self.ears) for _ in range(calls)]
        self.tick = 0
        for shell in self.shells:
            for message in opening:
                shell.core.receive(message, shell.t)
            shell.core.tick(shell.t)

    def second(self, receive: Callable[[CallCore, Any, float], None], tick: Callable[[CallCore, float], None]) -> float:
        """Carry every call for a second: CPU seconds that it took."""
        began = time.thread_time()
        for _ in range(SECOND):
            message = self.spoken[self.tick]
            self.tick += 1
            now = 1000.0 + self.tick * TICK_S
            for shell in self.shells:
                shell.t = now
                core = shell.core
                receive(core, message, now)
                while core.take() is not None:
                    shell.sent += 1
                shell.t = later = now + PHASE_S
                tick(core, later)
                while core.take() is not None:
                    shell.sent += 1
            if self.ears is not None:
                self.ears.judge()
        return time.thread_time() - began


def _none(*_: object) -> None:
    """In the place of `receive` and `tick`: what the loop itself costs."""


@dataclass(frozen=True, slots=True)
class Cost:
    case: str
    best_ms: float  # per call-second
    median_ms: float
    mean_ms: float
    loop_ms: float  # of the loop around it, taken off
    calibration_ms: float


def measure(case: Case, calls: int, rounds: int, profile: bool) -> Cost:
    warm = 2  # the codec check listens to the first second of a call
    crowd = Crowd(case, calls, warm + 2 * rounds)
    for _ in range(warm):
        crowd.second(CallCore.receive, CallCore.tick)
    gc.collect()
    gc.freeze()  # as `gateway serve` does
    calibration = calibrate()
    found, loops = [], []
    recorder = cProfile.Profile() if profile else None
    for _ in range(rounds):
        if recorder is not None:
            recorder.enable()
        found.append(crowd.second(CallCore.receive, CallCore.tick))
        if recorder is not None:
            recorder.disable()
        crowd.tick -= SECOND
        loops.append(crowd.second(_none, _none))
    gc.unfreeze()
    expected = calls * SECOND * (warm + rounds)
    sent = sum(shell.sent for shell in crowd.shells)
    if not 0.97 * expected <= sent <= 1.05 * expected:  # a bot that talks is ahead, and begins anew with silence
        raise RuntimeError(f"{case.name}: {sent} packets came back of {expected}")
    if recorder is not None:
        pstats.Stats(recorder, stream=sys.stderr).sort_stats("tottime").print_stats(28)
    per_call = [1000 * spent / calls for spent in found]
    loop = 1000 * min(loops) / calls
    return Cost(
        case.name,
        round(min(per_call) - loop, 4),
        round(statistics.median(per_call) - loop, 4),
        round(statistics.mean(per_call) - loop, 4),
        round(loop, 4),
        round(calibration, 2),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100, metavar="N", help="at a time; default 100")
    parser.add_argument("--rounds", type=int, default=8, metavar="N", help="seconds of every call; default 8")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="default: all")
    parser.add_argument("--profile", action="store_true", help="where it goes, on standard error; slows it down")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    chosen = [case for case in CASES if args.case is None or case.name in args.case]
    costs = [measure(case, args.calls, args.rounds, args.profile) for case in chosen]
    if args.json:
        print(json.dumps({"calls": args.calls, "costs": [asdict(cost) for cost in costs]}))
        return 0
    print(f"{'CPU ms per call-second':<24}{'best':>9}{'median':>9}{'mean':>9}{'calibration':>13}")
    for cost in costs:
        print(
            f"{cost.case:<24}{cost.best_ms:>9.3f}{cost.median_ms:>9.3f}{cost.mean_ms:>9.3f}{cost.calibration_ms:>13.1f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
