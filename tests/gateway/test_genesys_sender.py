"""Audio to Genesys: in messages that it takes, with a play-out kept just full enough, and whole after each 429."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.simulator.base import CallPlan
from gateway.simulator.genesys import FakeGenesys
from gateway.states import CallState
from media.codecs import ulaw_to_pcm
from media.frames import (
    Frame,
    OutputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from media.processor import FrameDirection, FrameProcessor
from tests.gateway.virtual import VirtualCall

NOT_SILENT = bytes(code for code in range(256) if code not in (0x7F, 0xFF))  # mu-law of anything but silence


def noise(seconds: float, seed: int = 1) -> bytes:
    """PCM that goes through mu-law unchanged, and no sample of which is zero: what is missing can be seen."""
    return ulaw_to_pcm(bytes(random.Random(seed).choices(NOT_SILENT, k=round(seconds * 8000))))


class Says(FrameProcessor):
    """Says each piece at its time, as speech or, `as_sound`, as bare audio."""

    def __init__(self, *pieces: tuple[float, bytes], as_sound: bool = False) -> None:
        super().__init__()
        self._pieces, self._as_sound = pieces, as_sound

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            for delay_s, pcm in self._pieces:
                self.runtime.call_later(delay_s, lambda pcm=pcm: self._say(pcm))  # type: ignore[misc]

    def _say(self, pcm: bytes) -> None:
        if self._as_sound:
            self.push_frame(OutputAudioRawFrame(pcm, 8000, 1))
            return
        for spoken in (TTSStartedFrame(), TTSAudioRawFrame(pcm, 8000, 1), TTSStoppedFrame()):
            self.push_frame(spoken)


def connector(*processors: FrameProcessor, latency_s: float = 0.01, **options: Any) -> tuple[VirtualCall, FakeGenesys]:
    call = VirtualCall("genesys", lambda call: processors, plan=CallPlan(options=options), latency_s=latency_s)
    assert isinstance(call.fake, FakeGenesys)
    return call, call.fake


def sizes(call: VirtualCall) -> list[tuple[float, int]]:
    """When each binary message left, and its bytes."""
    return [(at, len(message)) for at, message in call.sent if isinstance(message, bytes)]


def most_in(times: list[float], seconds: float) -> int:
    """The most of `times` that lie within `seconds`."""
    return max((sum(1 for other in times if at <= other < at + seconds) for at in times), default=0)


def sounds(heard: bytes) -> bytes:
    """What was heard without the silence between."""
    samples = memoryview(heard).cast("h")
    return b"".join(samples[i : i + 1] for i in range(len(samples)) if samples[i])


# ---------------------------------------------------------------- as it should be


def test_a_long_reply_goes_out_5_times_a_second_and_never_lies_there_for_long() -> None:
    said = noise(30.0)
    call, fake = connector(Says((0.5, said)))
    call.run(33.0)
    messages = sizes(call)
    times = [at for at, _ in messages]
    assert sounds(call.heard()) == said
    assert not fake.playout.gaps
    assert messages[0][1] == 4 * 1600, "what may leave at once leaves as one message"
    assert {size for _, size in messages[1:]} == {1600}
    assert most_in(times, 1.0) <= 6
    assert all(0.17 <= later - earlier <= 0.23 for earlier, later in pairwise(times[1:]))
    assert 0.55 <= fake.playout.most_buffered_s <= 0.85


def test_many_short_sounds_are_joined() -> None:
    pieces = [(0.5 + 0.06 * n, noise(0.04, n)) for n in range(200)]
    call, fake = connector(Says(*pieces))
    call.run(16.0)
    assert sounds(call.heard()) == b"".join(pcm for _, pcm in pieces)
    assert fake.rate_limited == 0
    times = [at for at, _ in sizes(call)]
    assert len(times) <= 5.0 * 12.1 + 2
    assert most_in(times, 1.0) <= 5 + 2


def test_a_stalled_loop_does_not_make_a_burst() -> None:
    said = noise(10.0)
    call, fake = connector(Says((0.5, said)))
    call.run(3.0)
    call._next_tick += 1.5  # the gateway's clock stands still
    call.run(10.0)
    assert sounds(call.heard()) == said
    times = [at for at, _ in sizes(call)]
    assert most_in(times, 1.0) <= 5 + 2
    assert fake.playout.utterances == 2


def test_no_message_is_larger_than_genesys_takes() -> None:
    call, _ = connector(Says((0.5, noise(60.0))), latency_s=0.0)
    call.run(2.0)
    call._next_tick += 20.0
    call.run(60.0)
    assert max(size for _, size in sizes(call)) <= 16_000
    assert not call.fake.violations


# ---------------------------------------------------------------- 429


@pytest.mark.parametrize("retry_after_s", [0.5, 3.0])
@pytest.mark.parametrize("latency_s", [0.0, 0.02, 0.07])
def test_after_a_429_nothing_is_lost_and_the_rate_is_back_within_ten_seconds(
    retry_after_s: float, latency_s: float
) -> None:
    said = noise(40.0)
    call, fake = connector(Says((0.5, said)), latency_s=latency_s, retry_after_s=retry_after_s)
    call.run(10.0)
    fake.limit(2.0, 1, call.t)
    call.run(1.0, until=lambda: fake.rate_limited == 1)
    assert fake.rate_limited == 1
    complained = call.t
    fake.limit(5.0, 5, call.t)
    call.run(45.0)
    assert sounds(call.heard()) == said
    assert fake.rate_limited == 1
    assert call.core.counters["sent_again"] == call.core.counters["rate_limited"] == 1
    messages = [(at - complained, size) for at, size in sizes(call) if at > complained + latency_s + 0.001]
    assert messages[0][0] >= retry_after_s, "nothing leaves before Genesys wants it"
    times = [at for at, _ in messages]
    assert most_in(times, 1.0) <= 6
    again = [at for (at, size), (later, _) in pairwise(messages) if size == 1600 and later - at < 0.23]
    assert again
    assert again[0] <= 10.0
    settled = [at for at in times if again[0] + 1.0 < at < again[0] + 6.0]
    assert len(settled) in (24, 25, 26)
    assert fake.playout.most_buffered_s < 1.3


def test_a_genesys_that_takes_less_for_a_minute_is_given_less() -> None:
    said = noise(90.0)
    call, fake = connector(Says((0.5, said)), retry_after_s=1.0)
    call.run(5.0)
    fake.limit(3.0, 2, call.t)
    call.run(60.0)
    assert 1 <= fake.rate_limited <= 4
    fake.limit(5.0, 25, call.t)
    call.run(60.0)
    assert sounds(call.heard()) == said
    assert call.core.counters["sent_again"] == fake.rate_limited


def test_a_barge_in_during_the_wait_leaves_nothing_to_be_heard_later() -> None:
    call, fake = connector(Says((0.5, noise(20.0, 1)), (8.0, noise(2.0, 2))))
    call.run(5.0)
    fake.limit(2.0, 1, call.t)
    call.run(1.0, until=lambda: fake.rate_limited == 1)
    fake.limit(5.0, 5, call.t)
    call.run(0.1)
    call.core.interrupt()
    before = len(sizes(call))
    call.run(2.5)
    assert len(sizes(call)) == before
    call.run(6.0)
    assert sounds(call.heard()).endswith(noise(2.0, 2))
    assert sounds(call.heard()).count(noise(20.0, 1)[40000:40400]) <= 1
    assert not fake.violations


def test_a_429_without_a_time_and_one_that_is_not_about_audio() -> None:
    said = noise(6.0)
    call, fake = connector(Says((2.0, said)))
    call.run(1.0)
    call._tell_core(fake.complain(429, call.t))
    call.run(10.0)
    assert sounds(call.heard()) == said
    assert call.core.counters["rate_limited"] == 1
    assert call.core.counters["sent_again"] == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(0.2, 6.0), st.floats(0.5, 3.0)), min_size=1, max_size=4), st.integers(0, 9))
def test_whenever_genesys_complains_all_is_heard_once_and_in_order(
    squeezes: list[tuple[float, float]], latency: int
) -> None:
    """As long as the way there and back is shorter than a packet: past that the next one has left, and may have been
    taken, when Genesys complains of the one before.
    """
    said = noise(12.0)
    call, fake = connector(Says((0.5, said)), latency_s=latency / 100)
    for at_s, retry_after_s in squeezes:
        call.run(at_s)
        fake.plan.options["retry_after_s"] = retry_after_s  # type: ignore[index]
        limited = fake.rate_limited
        fake.limit(1.0, 1, call.t)
        call.run(0.3, until=lambda: fake.rate_limited > limited)  # noqa: B023
        fake.limit(5.0, 5, call.t)
    call.run(60.0)
    assert sounds(call.heard()) == said
    assert not fake.violations
    assert fake.rate_limited == call.core.counters["sent_again"]


@pytest.mark.parametrize("latency_s", [0.1, 0.15, 0.24, 0.4])
@pytest.mark.parametrize("squeezed_s", [0.0, 1.0])
def test_on_a_long_way_all_is_heard_once(latency_s: float, squeezed_s: float) -> None:
    """Others have left when Genesys complains of one: which it took nobody can know, so the order may suffer."""
    said = noise(12.0)
    call, fake = connector(Says((0.5, said)), latency_s=latency_s)
    call.run(6.5)
    fake.limit(0.2, 1, call.t)
    call.run(5.0, until=lambda: fake.rate_limited > 0)
    call.run(squeezed_s)  # the next ones are on their way, and lost as well
    fake.limit(5.0, 25, call.t - 5.0)
    call.run(60.0)
    heard = sounds(call.heard())
    packets = [said[at : at + 3200] for at in range(0, len(said), 3200)]
    assert len(heard) == len(said)
    assert all(heard.count(packet) == 1 for packet in packets)
    assert fake.rate_limited == call.core.counters["sent_again"] == call.core.counters["rate_limited"] > 0
    assert not fake.violations


# ---------------------------------------------------------------- text


def test_a_flood_of_events_is_rationed_and_answers_never_wait() -> None:
    call, fake = connector()
    call.run(0.9)
    for number in range(100):
        entity = {"type": "bot_turn_response", "data": {"disposition": "match", "text": str(number)}}
        call.core.inject(
            OutputTransportMessageUrgentFrame({"version": "2", "type": "event", "parameters": {"entities": [entity]}})
        )
    call.run(12.0)
    assert fake.rate_limited == 0
    assert [event["data"]["text"] for event in fake.server_events] == [str(number) for number in range(100)]
    texts = [(at, json.loads(message)["type"]) for at, message in call.sent if isinstance(message, str)]
    assert most_in([at for at, kind in texts if kind == "event"], 1.0) <= 20
    assert fake.pongs >= 3
    assert not fake.violations


def test_a_call_ends_when_its_events_are_said() -> None:
    call, fake = connector()
    call.run(0.9)
    for number in range(40):
        entity = {"type": "bot_turn_response", "data": {"disposition": "match", "text": str(number)}}
        call.core.inject(
            OutputTransportMessageUrgentFrame({"version": "2", "type": "event", "parameters": {"entities": [entity]}})
        )
    call.core.end()
    call.run(10.0)
    assert len(fake.server_events) == 40
    assert (fake.ended_by, call.core.state) == ("bot", CallState.CLOSED)
    assert not fake.violations
