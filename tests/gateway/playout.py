"""Random calls in which the ledger is asked what was heard, while the fake carrier knows."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gateway.core import CallCore
from gateway.simulator.base import CallPlan, Messages
from gateway.simulator.genesys import FakeGenesys
from gateway.simulator.playout import PlayoutEvent
from media.frames import (
    CarrierErrorFrame,
    DataFrame,
    EndFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from tests.gateway.virtual import VirtualCall

STEP_S = 0.001
EDGE_S = 0.02
LEVEL = 4000  # whatever the codec makes of it, it is no silence
EXITS = ("all was heard", "the bot ends", "the caller hangs up", "cancelled")


class Item(DataFrame):
    """Something of the bot's own in the middle of what it says: the packet before it is cut short."""


@dataclass(slots=True)
class Verdict:
    """One random call."""

    carrier: str
    way_ms: float  # one way
    worst_ms: float = 0.0  # the ledger's greatest error
    errors_ms: list[float] = field(default_factory=list)
    known: int = 0  # the first so many of them were asked before anything happened that nobody can know
    clears: int = 0
    close_calls: int = 0  # of them so close to the edge of a message that nobody can know which side they met
    grain_ms: int = 0  # how long such a message is
    misjudged_ms: float = 0.0  # of audio that Genesys dropped, where it was taken to have dropped another message
    heard_s: float = 0.0
    met: Counter[str] = field(default_factory=Counter)  # what happened, beside speech: how often

    @property
    def allowed_ms(self) -> float:
        """One frame, and the way, which nothing tells before the first mark has come back."""
        return 20.0 + self.way_ms + self.close_calls * self.grain_ms + self.misjudged_ms


class _Skipping(VirtualCall):
    """Passes over the steps in which nothing is due."""

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> None:
        end = self.t + seconds
        while self.t < end - 1e-9 and self.closed_with is None and not (until and until()):
            steps = math.ceil((min(self._due(), end) - self.t - 1e-9) / self.step_s)
            self.t += max(1, steps) * self.step_s
            self._step()

    def _due(self) -> float:
        times = [self._next_tick, self._next_audio + self.fake.packet_ms / 1000]
        times += [at for at, _ in self._to_core] + [at for at, _ in self._to_fake]
        times += [at for at in (self.fake.next_tick_at(), self.core.close_at) if at is not None]
        return min(times)


def judge(carrier: str, seed: int, *, longest_way_s: float = 0.06, seconds: float = 8.0) -> Verdict:
    """A call of `seconds`, and its end, in one of the ways that there are (EXITS).

    Speech in bursts and live, sounds without an end mark, pauses, interruptions, holds, items in mid-speech; the
    process stands still now and then; some marks come late and some never do; Genesys puts callers on hold, and
    complains of too many messages.
    """
    rng = random.Random(f"{carrier} {seed}")
    way_s = rng.uniform(0, longest_way_s)
    call = _Skipping(carrier, latency_s=way_s, strict=False, plan=CallPlan(), step_s=STEP_S)
    verdict = Verdict(carrier, way_s * 1000)
    if rng.random() < 0.5:
        _lose_marks(call, rng, verdict)
    call.run(0.2 + 2 * way_s)
    core = call.core
    truth = _Truth(call)
    rate = core.send_rate
    # The silence before a live stream counts as what was sent, and only sound is seen to be played.
    core.output.outlet.cushion = _sound(len(core.output.outlet.cushion) / (2 * rate), rate)
    acts: list[tuple[float, Callable[[], None]]] = [
        (5, lambda: _speak(call, rng.uniform(0.05, 2.5), rate)),
        (2, lambda: _live(call, rng.uniform(0.2, 1.5), rate, rng)),
        (1, lambda: core.inject(OutputAudioRawFrame(_sound(rng.uniform(0.03, 0.6), rate), rate, 1))),
        (2, lambda: core.inject(InterruptionFrame())),
        (3, lambda: _hold(call, rng, verdict)),
        (1, lambda: _item(call, rng, rate, verdict)),
        (1, lambda: _stall(call, rng, verdict)),
    ]
    if isinstance(call.fake, FakeGenesys):
        fake = call.fake
        _watch_refusals(call, fake, verdict)
        acts += [(1, lambda: _put_on_hold(call, fake, verdict)), (0.5, lambda: _squeeze(call, fake, rng, verdict))]
    end = call.t + seconds
    next_act = call.t
    while call.t < end:
        if call.t >= next_act:
            weights = [weight for weight, _ in acts]
            rng.choices([act for _, act in acts], weights)[0]()
            next_act = call.t + rng.choice([rng.uniform(0.0, 0.3), rng.uniform(0.3, 2.0)])
        call.run(rng.randrange(1, 30) * 0.005)
        _ask(call, truth, verdict)
    _leave(call, truth, verdict, rng)
    verdict.worst_ms = max(map(abs, verdict.errors_ms))
    verdict.clears = len(call.fake.playout.clears)
    verdict.heard_s = truth.heard() / rate
    verdict.close_calls, verdict.grain_ms = truth.close_calls, core.clear_grain_ms
    return verdict


def _ask(call: VirtualCall, truth: _Truth, verdict: Verdict) -> None:
    ledger = call.core.output.ledger
    assert ledger is not None
    verdict.errors_ms.append((ledger.heard(call.t) - truth.heard()) * 1000 / call.core.send_rate)
    if not truth.close_calls and not verdict.misjudged_ms:
        verdict.known = len(verdict.errors_ms)


def _leave(call: VirtualCall, truth: _Truth, verdict: Verdict, rng: random.Random) -> None:
    """The call ends, in mid-speech or in silence; asked once more is what the call's record would say."""
    out = call.core.output
    exit_ = rng.choice(EXITS)
    verdict.met[exit_] += 1
    if exit_ == "all was heard":
        _speak_on(call)
        call.run(12.0, until=lambda: out.all_heard(call.t))
        call.run(0.5)
    elif exit_ == "the bot ends":
        _speak_on(call)
        call.core.inject(EndFrame("done"))
        call.run(15.0, until=lambda: call.over)
    elif exit_ == "the caller hangs up":
        call.hang_up()
        call.run(1.0, until=lambda: call.over)
    else:
        call.core.cancel()
    _ask(call, truth, verdict)


class _Truth:
    """Samples of sound that were played, without the carrier's or the serializer's silence."""

    def __init__(self, call: VirtualCall) -> None:
        self._call, self._playout = call, call.fake.playout
        self._count = 0

    @property
    def close_calls(self) -> int:
        """Clears of which a carrier that drops whole messages might as well have kept one more, or one less."""
        grain_s, edge_s = self._call.core.clear_grain_ms / 1000, EDGE_S + 2 * self._call.latency_s
        went_on = [clear.silent_at - clear.at for clear in self._playout.clears]
        return sum(bool(grain_s) and (on_s < edge_s or grain_s - on_s < edge_s) for on_s in went_on)

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
    if call.core.output.wait():
        verdict.met["holds"] += 1
        call.run(rng.uniform(0.01, 0.8))
        if rng.random() < 0.7:
            _speak_on(call)
        else:
            call.core.inject(InterruptionFrame())


def _speak_on(call: VirtualCall) -> None:
    """As a timer does: what is to be sent leaves in the same tick."""
    call.core.output.speak_on()
    call.wake()


def _item(call: VirtualCall, rng: random.Random, rate: int, verdict: Verdict) -> None:
    verdict.met["items"] += 1
    call.core.inject(TTSStartedFrame())
    for _ in range(rng.randrange(1, 4)):
        call.core.inject(TTSAudioRawFrame(_sound(rng.uniform(0.01, 0.4), rate), rate, 1))
        call.core.inject(Item())
    call.core.inject(TTSAudioRawFrame(_sound(rng.uniform(0.01, 0.4), rate), rate, 1))
    call.core.inject(TTSStoppedFrame())


def _stall(call: VirtualCall, rng: random.Random, verdict: Verdict) -> None:
    """No tick for a while: what is due is sent late."""
    verdict.met["stalls"] += 1
    call.stall(rng.uniform(0.03, 0.5))


def _lose_marks(call: VirtualCall, rng: random.Random, verdict: Verdict) -> None:
    """Now and then the carrier's word of a mark comes late, or never, but for the first ones and every second.

    While nothing else is known of a carrier, one that is late to say so cannot be told from one that is late to play.
    """
    usual = call.fake.on_playout
    in_time = 0

    def on_playout(event: PlayoutEvent, now: float) -> Messages:
        nonlocal in_time
        messages = usual(event, now)
        ledger = call.core.output.ledger
        if event.what != "mark" or ledger is None or not ledger.has_been_told:
            return messages
        in_time += 1
        if in_time < 3 or rng.random() < 0.3:
            return messages
        in_time = 1
        if rng.random() < 0.5:
            verdict.met["marks lost"] += 1
        else:
            verdict.met["marks late"] += 1
            call.tell_later(messages, rng.uniform(0.02, 0.5))
        return ()

    call.fake.on_playout = on_playout  # type: ignore[method-assign]


def _put_on_hold(call: VirtualCall, fake: FakeGenesys, verdict: Verdict) -> None:
    """The caller's audio stops and goes on, the bot's does not stop."""
    verdict.met["on hold" if not fake.client_hold else "off hold"] += 1
    call.tell_later((fake.resume if fake.client_hold else fake.hold)(call.t), 0.0)


def _watch_refusals(call: VirtualCall, fake: FakeGenesys, verdict: Verdict) -> None:
    """Genesys does not say which message it dropped: what that one and the one that goes again differ by."""
    receive, on_error = fake.receive, call.core._takes[CarrierErrorFrame]
    lost: list[int] = []  # samples in each message that was dropped

    def watched_receive(data: str | bytes, now: float) -> Messages:
        before = fake.rate_limited
        messages = receive(data, now)
        if fake.rate_limited > before:
            lost.append(len(data) if isinstance(data, bytes) else 0)
        return messages

    def watched_error(core: CallCore, frame: CarrierErrorFrame, now: float) -> None:
        outbox = core.outbox
        before, refused = outbox.samples, core.counters["rate_limited"]
        on_error(core, frame, now)
        if core.counters["rate_limited"] > refused:
            verdict.misjudged_ms += abs(outbox.samples - before - lost.pop(0)) / 8

    fake.receive = watched_receive  # type: ignore[method-assign]
    call.core._takes = {**call.core._takes, CarrierErrorFrame: watched_error}


def _squeeze(call: VirtualCall, fake: FakeGenesys, rng: random.Random, verdict: Verdict) -> None:
    """For a moment Genesys takes fewer messages than it promised."""
    before = fake.rate_limited
    fake.limit(0.5, 1, call.t)
    call.run(rng.uniform(0.2, 1.0))
    fake.limit(5.0, 25, call.t - 5.0)
    verdict.met["429"] += fake.rate_limited - before
