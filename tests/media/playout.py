"""What a carrier truly does with the audio it is sent, worked out exactly: the judge of pacing and of the ledger."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from media.ledger import PlayoutLedger

LONGER_MS = 40  # than its grain a message may be that begins a live stream


@dataclass(frozen=True)
class Rules:
    """How a carrier treats marks and clears (docs of each; see the serializers)."""

    marks: bool = True
    echoes_on_clear: bool = False
    grain_ms: int = 0  # a clear lets the message of this length that is being played finish; a flush pads to it
    events: bool = False  # playback started and completed


CARRIERS = {
    "twilio": Rules(echoes_on_clear=True),
    "telnyx": Rules(echoes_on_clear=True),
    "plivo": Rules(),
    "vonage": Rules(),
    "exotel": Rules(echoes_on_clear=True, grain_ms=200),
    "genesys": Rules(marks=False, events=True),
    "silent": Rules(marks=False),  # Vonage, where notify is never answered
}


@dataclass(frozen=True)
class Act:
    """What the gateway puts on the wire."""

    t: float
    what: str  # "send", "flush", "mark", "clear"
    samples: int = 0


@dataclass(frozen=True)
class Said:
    """What the carrier says, when it has come back."""

    t: float
    what: str  # "played", "started", "completed"
    mark: int = 0  # the how-manieth mark


@dataclass
class Playout:
    """The truth: what was played when, and what the carrier said of it."""

    rate: float  # of the carrier's clock, in samples per second of ours
    spans: list[tuple[float, int]] = field(default_factory=list)  # (start, samples)
    said: list[Said] = field(default_factory=list)
    close_calls: int = 0  # clears that came so close to the edge of a message that nobody can know which one won
    one_way: float = 0.0  # the longest way of any message

    def heard(self, now: float) -> int:
        return sum(min(n, int((now - start) * self.rate)) for start, n in self.spans if start < now)

    @property
    def end(self) -> float:
        return max((start + n / self.rate for start, n in self.spans), default=0.0)

    def gaps(self, longer_than: float = 0.0) -> list[float]:
        """Silences between one span and the next, in seconds."""
        pairs = zip(self.spans, self.spans[1:], strict=False)
        silences = (b[0] - (a[0] + a[1] / self.rate) for a, b in pairs)
        return [silence for silence in silences if silence > longer_than + 1e-9]


def play(
    acts: Sequence[Act],
    rules: Rules = CARRIERS["silent"],
    *,
    sample_rate: int = 8000,
    way: Callable[[], float] = lambda: 0.0,
    jitter_buffer_s: float = 0.0,
    drift: float = 0.0,
) -> Playout:
    """Let a carrier play `acts`. `way` gives the seconds that the next message travels; messages never overtake."""
    truth = Playout(sample_rate * (1 + drift))
    rate, grain = truth.rate, rules.grain_ms * sample_rate // 1000
    ways: list[float] = []

    def travel() -> float:
        ways.append(way())
        return ways[-1]

    arrival, end = 0.0, -1.0
    marks = 0
    waiting: list[tuple[float, int]] = []  # marks: when they will be passed
    passed: list[tuple[float, int]] = []
    events: list[tuple[float, str]] = []
    last = 0  # samples of the last message
    playing = False
    pads: dict[float, float] = {}  # seconds of silence behind a span that was filled up
    spans = truth.spans
    for act in acts:
        arrival = max(arrival, act.t + travel())
        if playing and end <= arrival:
            events.append((end, "completed"))
            playing = False
        if act.what == "send":
            start = arrival + jitter_buffer_s if end < arrival else end
            if not playing:
                events.append((start, "started"))
                playing = True
            spans.append((start, act.samples))
            end = start + act.samples / rate
            last = act.samples
        elif act.what == "flush":
            if 0 < last < grain:
                pads[spans[-1][0]] = (grain - last) / rate
                end += pads[spans[-1][0]]
            last = 0
        elif act.what == "mark":
            waiting.append((max(arrival, end), marks))
            marks += 1
        elif act.what == "clear":
            edges = [edge for start, n in spans for edge in (start, start + n / rate)]
            if grain and any(abs(edge - arrival) < 0.02 + max(ways) for edge in edges):
                truth.close_calls += 1
            passed += [mark for mark in waiting if mark[0] <= arrival]
            if rules.echoes_on_clear:
                passed += [(arrival, number) for t, number in waiting if t > arrival]
            waiting.clear()
            stopped = arrival
            kept: list[tuple[float, int]] = []
            for start, n in spans:
                if start + n / rate <= arrival:
                    kept.append((start, n))
                    if arrival < start + n / rate + pads.get(start, 0.0):  # in the silence at the end of a message
                        stopped = start + n / rate + pads[start]
                elif start <= arrival:
                    heard = n if grain else int((arrival - start) * rate)
                    kept.append((start, heard))
                    stopped = max(stopped, start + heard / rate + (pads.get(start, 0.0) if grain else 0.0))
            spans[:] = kept
            end = min(end, stopped)
            last = 0
            if playing:
                events.append((arrival, "completed"))
                playing = False
    passed += waiting
    if playing:
        events.append((end, "completed"))

    back = 0.0
    for t, number in sorted(passed) if rules.marks else ():
        back = max(back, t + travel())
        truth.said.append(Said(back, "played", number))
    back = 0.0
    for t, what in events if rules.events else ():
        back = max(back, t + travel())
        truth.said.append(Said(back, what))
    truth.one_way = max(ways, default=0.0)
    return truth


def schedule(rng: random.Random, rules: Rules) -> list[Act]:
    """What a gateway may do in a call: replies in time, in bursts, live, far ahead; stalls, pauses, clears, marks."""
    packet = rules.grain_ms * 8 or rng.choice((160, 160, 160, 320, 1600))
    seconds = packet / 8000
    t = rng.uniform(0, 2)
    acts: list[Act] = []
    for _ in range(rng.randint(1, 6)):
        packets = rng.randint(1, int(rng.choice((0.3, 2, 6)) / seconds) + 1)
        cut_at = rng.randint(0, packets) if rng.random() < 0.4 else None
        lead = rng.choice((0, 0.2, 0.2, 0.4, 0.6, 30))
        style = rng.choice(("reply", "reply", "live", "bursts"))
        start = horizon = t
        for i in range(packets):
            if i == cut_at:
                break
            if style == "live":
                t = max(t, start + i * seconds + rng.uniform(0, 0.015))
                if rng.random() < 0.01:
                    t += rng.uniform(0, 0.1)
            else:
                if style == "bursts" and rng.random() < 0.05:
                    t += rng.uniform(0, 1)
                    horizon = max(horizon, t)
                t = max(t, horizon - lead)
                if rng.random() < 0.02:
                    t += rng.uniform(0, 0.1)
            samples = rng.randint(1, packet) if i == packets - 1 and rng.random() < 0.7 else packet
            if rules.grain_ms and samples == packet and rng.random() < 0.3:
                samples += LONGER_MS * 8
            acts.append(Act(t, "send", samples))
            horizon = max(horizon, t) + samples / 8000
            if rng.random() < 0.03:
                acts.append(Act(t, "mark"))
        if cut_at is None or cut_at == packets:
            acts.append(Act(t, "flush"))
            if rng.random() < 0.9:
                acts.append(Act(t, "mark"))
        if cut_at is not None:
            t += rng.choice((rng.uniform(0, 0.02), rng.uniform(0, 1)))
            acts.append(Act(t, "clear"))
            t += rng.choice((0.0, rng.uniform(0, 1)))
        else:
            t = max(t, rng.choice((t, horizon))) + rng.choice((0, rng.uniform(0, 2)))
    return acts


@dataclass(frozen=True)
class Verdict:
    worst: float  # seconds between what the ledger said and what was heard, at worst
    one_way: float  # the longest way of any message of this schedule
    clears: int
    close_calls: int


def judge(
    seed: int,
    carrier: str,
    *,
    longest_way_s: float = 0.08,
    jitter_s: float = 0.015,
    jitter_buffer_s: float = 0.0,
    drift: float = 0.0,
    questions: int = 25,
) -> Verdict:
    """A ledger through one random schedule, asked at random times and checked for what must always hold."""
    rng = random.Random(f"{seed} {carrier}")
    rules = CARRIERS[carrier]
    acts = schedule(rng, rules)
    jitter = min(jitter_s, longest_way_s)
    shortest = rng.uniform(0, longest_way_s - jitter)
    truth = play(
        acts,
        rules,
        way=lambda: shortest + rng.uniform(0, jitter),
        jitter_buffer_s=jitter_buffer_s,
        drift=drift,
    )
    ledger = PlayoutLedger(8000, echoes_marks_on_clear=rules.echoes_on_clear, clear_grain_ms=rules.grain_ms)
    last = max([acts[-1].t, truth.end, *(said.t for said in truth.said)]) + 0.5
    moments = [*(rng.uniform(0, last) for _ in range(questions)), last]
    names: list[str] = []
    worst, before = 0.0, 0
    for t, event in _in_order(acts, truth.said, moments):
        if isinstance(event, Act):
            _tell(ledger, event, names)
        elif isinstance(event, Said):
            if event.what == "played":
                ledger.played(names[event.mark], t)
            elif event.what == "started":
                ledger.playback_started(t)
            else:
                ledger.playback_completed(t)
        heard = ledger.heard(t)
        assert before <= heard <= ledger.sent - ledger.dropped
        assert ledger.held(t) == ledger.sent - ledger.dropped - heard
        assert ledger.generated >= ledger.sent >= ledger.position(t) >= heard
        assert ledger.all_heard(t) == (ledger.held(t) == 0)
        before = heard
        if event is None:
            worst = max(worst, abs(heard - truth.heard(t)) / 8000)
    assert ledger.all_heard(max(last, ledger.heard_by()))
    return Verdict(worst, truth.one_way, sum(act.what == "clear" for act in acts), truth.close_calls)


def _in_order(
    acts: Sequence[Act], said: Sequence[Said], moments: Sequence[float]
) -> Iterator[tuple[float, Act | Said | None]]:
    events: list[tuple[float, int, int, Act | Said | None]] = []
    events += [(act.t, 0, i, act) for i, act in enumerate(acts)]
    events += [(word.t, 1, i, word) for i, word in enumerate(said)]
    events += [(t, 2, i, None) for i, t in enumerate(moments)]
    events.sort(key=lambda event: event[:3])
    for t, _, _, event in events:
        yield t, event


def _tell(ledger: PlayoutLedger, act: Act, names: list[str]) -> None:
    if act.what == "send":
        ledger.generate(act.samples)
        ledger.send(act.samples, act.t)
    elif act.what == "flush":
        ledger.flush()
    elif act.what == "mark":
        names.append(ledger.mark(act.t))
    else:
        ledger.cleared(act.t)
