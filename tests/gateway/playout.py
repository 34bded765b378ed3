"""Random calls in which the ledger is asked what was heard, while the fake carrier knows."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gateway.simulator.base import CallPlan
from media.frames import InterruptionFrame, OutputAudioRawFrame, TTSAudioRawFrame, TTSStartedFrame, TTSStoppedFrame
from tests.gateway.virtual import VirtualCall

STEP_S = 0.001
EDGE_S = 0.02
LEVEL = 4000  # whatever the codec makes of it, it is no silence


@dataclass(slots=True)
class Verdict:
    """One random call."""

    carrier: str
    way_ms: float  # one way
    worst_ms: float = 0.0  # the ledger's greatest error
    errors_ms: list[float] = field(default_factory=list)
    clears: int = 0
    close_calls: int = 0  # of them so close to the edge of a message that nobody can know which side they met
    grain_ms: int = 0  # how long such a message is
    holds: int = 0
    heard_s: float = 0.0

    @property
    def allowed_ms(self) -> float:
        """One frame, and the way, which nothing tells before the first mark has come back."""
        return 20.0 + self.way_ms + self.close_calls * self.grain_ms


def judge(carrier: str, seed: int, *, longest_way_s: float = 0.06, seconds: float = 8.0) -> Verdict:
    """A call of `seconds`: speech in bursts and live, sounds without an end mark, pauses, interruptions, holds."""
    rng = random.Random(f"{carrier} {seed}")
    way_s = rng.uniform(0, longest_way_s)
    options = {"binary_rate": 0.0, "text_rate": 0.0} if carrier == "genesys" else {}  # what is dropped is not played
    call = VirtualCall(carrier, latency_s=way_s, strict=False, plan=CallPlan(options=options), step_s=STEP_S)
    call.run(0.2 + 2 * way_s)
    core, out = call.core, call.core.output
    verdict = Verdict(carrier, way_s * 1000)
    truth = _Truth(call)
    rate = core.send_rate
    acts: list[tuple[float, Callable[[], None]]] = [
        (5, lambda: _speak(call, rng.uniform(0.05, 2.5), rate)),
        (2, lambda: _live(call, rng.uniform(0.2, 1.5), rate, rng)),
        (1, lambda: core.inject(OutputAudioRawFrame(_sound(rng.uniform(0.03, 0.6), rate), rate, 1))),
        (2, lambda: core.inject(InterruptionFrame())),
        (3, lambda: _hold(call, rng, verdict)),
    ]
    end = call.t + seconds
    next_act = call.t
    while call.t < end:
        if call.t >= next_act:
            weights = [weight for weight, _ in acts]
            rng.choices([act for _, act in acts], weights)[0]()
            next_act = call.t + rng.choice([rng.uniform(0.0, 0.3), rng.uniform(0.3, 2.0)])
        call.run(rng.randrange(1, 30) * 0.005)
        assert out.ledger is not None
        error = (out.ledger.heard(call.t) - truth.heard()) / rate
        verdict.errors_ms.append(error * 1000)
    out.speak_on()
    call.run(12.0, until=lambda: out.all_heard(call.t))
    call.run(0.5)
    assert out.ledger is not None
    verdict.errors_ms.append((out.ledger.heard(call.t) - truth.heard()) * 1000 / rate)
    verdict.worst_ms = max(map(abs, verdict.errors_ms))
    verdict.clears = len(call.fake.playout.clears)
    verdict.heard_s = truth.heard() / rate
    verdict.close_calls, verdict.grain_ms = truth.close_calls, core.clear_grain_ms
    return verdict


class _Truth:
    """Samples of sound that were played, without the carrier's or the serializer's silence."""

    def __init__(self, call: VirtualCall) -> None:
        self._playout = call.fake.playout
        self._count = self.close_calls = 0
        clear = self._playout.clear

        def counted(now: float) -> list[str]:
            dropped = clear(now)
            goes_on_s = self._playout.clears[-1].silent_at - self._playout.clears[-1].at
            grain_s, edge_s = call.core.clear_grain_ms / 1000, EDGE_S + 2 * call.latency_s
            self.close_calls += bool(grain_s) and (goes_on_s < edge_s or grain_s - goes_on_s < edge_s)
            return dropped

        self._playout.clear = counted  # type: ignore[method-assign]

    def heard(self) -> int:
        new = np.frombuffer(self._playout.take(), "<i2")
        self._count += int(np.count_nonzero(np.abs(new.astype(np.int32)) > LEVEL // 2))
        return self._count


def _sound(seconds: float, rate: int) -> bytes:
    return LEVEL.to_bytes(2, "little") * int(seconds * rate)


def _speak(call: VirtualCall, seconds: float, rate: int) -> None:
    for frame in (TTSStartedFrame(), TTSAudioRawFrame(_sound(seconds, rate), rate, 1), TTSStoppedFrame()):
        call.core.inject(frame)


def _live(call: VirtualCall, seconds: float, rate: int, rng: random.Random) -> None:
    """As a service streams it: pieces that come about as fast as they are played, some of them late."""
    core = call.core
    core.inject(TTSStartedFrame())
    for _ in range(int(seconds / 0.05)):
        core.inject(TTSAudioRawFrame(_sound(0.05, rate), rate, 1))
        call.run(0.05 if rng.random() < 0.9 else rng.choice([0.02, 0.15, 0.4]))
    core.inject(TTSStoppedFrame())


def _hold(call: VirtualCall, rng: random.Random, verdict: Verdict) -> None:
    out = call.core.output
    if out.wait():
        verdict.holds += 1
        call.run(rng.uniform(0.01, 0.8))
        if rng.random() < 0.7:
            out.speak_on()
        else:
            call.core.inject(InterruptionFrame())
