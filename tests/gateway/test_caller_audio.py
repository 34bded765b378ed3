"""What becomes of the caller's audio on its way to the bot, in whole calls on virtual time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import structlog

from bots.base import Call
from gateway.registry import carrier_names
from gateway.simulator.base import CallPlan
from media.codecs import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, swap16, ulaw_to_pcm
from media.events import DONE
from media.frames import Frame, InputAudioRawFrame, StartFrame
from media.processor import FrameDirection, FrameProcessor
from tests.gateway.virtual import VirtualCall


def voice(seconds: float, rate: int = 8000) -> bytes:
    """Something that sounds like speech to a predictor: a buzz through two formants, in syllables."""
    count = int(seconds * rate)
    rng = np.random.default_rng(3)
    excitation = np.zeros(count)
    excitation[:: rate // 120] = 1.0
    excitation += rng.normal(0, 0.02, count)
    out = np.zeros(count)
    for formant, width in ((600.0, 90.0), (1500.0, 150.0)):
        radius = np.exp(-np.pi * width / rate)
        turn = 2 * radius * np.cos(2 * np.pi * formant / rate)
        sound = np.zeros(count)
        for at in range(2, count):
            sound[at] = excitation[at] + turn * sound[at - 1] - radius * radius * sound[at - 2]
        out += sound
    out *= 0.6 + 0.4 * np.sin(2 * np.pi * 3 * np.arange(count) / rate)
    return (out / np.abs(out).max() * 9000).astype("<i2").tobytes()


class Listener(FrameProcessor):
    """Lets StartFrame through after `ready_s`, and keeps what it hears from then on."""

    def __init__(self, ready_s: float = 0.0) -> None:
        super().__init__()
        self.ready_s = ready_s
        self.heard: list[InputAudioRawFrame] = []

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, InputAudioRawFrame):
            self.heard.append(frame)
        if isinstance(frame, StartFrame) and self.ready_s:
            super().process_frame(frame, direction)
            self.call_later(self.ready_s, lambda: self.push_frame(frame))
        else:
            self.push_frame(frame, direction)

    @property
    def pcm(self) -> bytes:
        return b"".join(frame.audio for frame in self.heard)


def call_with(carrier: str = "twilio", ready_s: float = 0.0, **options: Any) -> tuple[VirtualCall, Listener]:
    listener = Listener(ready_s)

    def build(call: Call) -> Sequence[FrameProcessor]:
        return [listener]

    return VirtualCall(carrier, build, **options), listener


@pytest.mark.parametrize("carrier", carrier_names())
def test_nothing_is_lost_while_the_bot_gets_ready(carrier: str) -> None:
    call, listener = call_with(carrier, ready_s=2.0)
    said = voice(3.0, call.fake.audio_rate)
    call.say(said)
    call.run(1.9)
    assert not listener.heard
    call.run(1.5)
    call.run(0.5)
    heard = np.frombuffer(listener.pcm, "<i2").astype(float)
    sent = np.frombuffer(said, "<i2").astype(float)
    assert len(heard) / call.core.sample_rate >= 3.3
    begin = next(at for at in range(len(heard)) if abs(heard[at]) > 100) - next(
        at for at in range(len(sent)) if abs(sent[at]) > 100
    )
    part = heard[max(0, begin) : max(0, begin) + len(sent)]
    assert np.corrcoef(part, sent[: len(part)])[0, 1] > 0.99
    assert "early_dropped" not in call.core.counters


def renumbered(call: VirtualCall, change: Any) -> None:
    """Let `change(chunk)` say which packets of the fake's get through, and in which order: a list of chunks."""
    audio, kept = call.fake.audio, {}  # type: ignore[var-annotated]

    def disturbed(pcm: bytes, now: float) -> Any:
        out = []
        for message in audio(pcm, now):
            chunk = int(json.loads(message)["media"]["chunk"])
            kept[chunk] = message
            out += [kept[number] for number in change(chunk) if number in kept]
        return out

    call.fake.audio = disturbed  # type: ignore[method-assign]


def test_a_lost_packet_is_made_up_and_counted() -> None:
    call, listener = call_with()
    renumbered(call, lambda chunk: [] if chunk in (20, 21, 40) else [chunk])
    call.say(voice(2.0))
    call.run(2.0)
    counters = call.core.record(call.t).counters
    assert (counters["caller_lost"], counters["caller_concealed_ms"]) == (3, 60)
    assert len(listener.pcm) / 16000 == pytest.approx(2.0, abs=0.05)
    assert all(any(frame.audio) for frame in listener.heard[5:60])


def test_packets_out_of_order_are_put_in_order() -> None:
    call, listener = call_with()
    renumbered(call, lambda chunk: [] if chunk % 10 == 3 else [chunk, chunk - 1] if chunk % 10 == 4 else [chunk])
    call.say(voice(2.0))
    call.run(2.0)
    numbers = [frame.seq for frame in listener.heard if frame.seq is not None]
    assert numbers == sorted(set(numbers))
    counters = call.core.record(call.t).counters
    assert (counters["caller_late"], counters["caller_lost"]) == (1, 1)  # the first time; then it is waited for
    assert len(numbers) >= 95


# ---------------------------------------------------------------- the codec


def misread(carrier: str, wrong: Any, seconds: float = 2.5, **plan: Any) -> list[dict[str, Any]]:
    """Errors in the log of a call whose carrier sends something else than it says."""
    with structlog.testing.capture_logs() as logs:
        call, _ = call_with(carrier, plan=CallPlan(**plan), strict=False)
        rate = call.fake.audio_rate
        call.say(wrong(voice(seconds, rate)))
        call.run(seconds)
        counted = call.core.counters["codec_contradicted"]
    found = [entry for entry in logs if entry["event"] == "call.codec_contradicted"]
    assert counted == len(found)
    return [dict(entry) for entry in found]


def test_a_law_that_was_announced_as_mu_law() -> None:
    (entry,) = misread("telnyx", lambda pcm: ulaw_to_pcm(pcm_to_alaw(pcm)))
    assert (entry["negotiated"], entry["looks_like"]) == ("PCMU", "PCMA")
    assert entry["remedy"] == "carriers.telnyx.receive_codec"
    assert entry["log_level"] == "error"


def test_mu_law_that_was_announced_as_a_law() -> None:
    (entry,) = misread("telnyx", lambda pcm: alaw_to_pcm(pcm_to_ulaw(pcm)), receive_codec="PCMA")
    assert (entry["negotiated"], entry["looks_like"]) == ("PCMA", "PCMU")


def test_bytes_in_the_other_order() -> None:
    (entry,) = misread("exotel", swap16)
    assert entry["looks_like"] == "L16 with its bytes the other way round"


def test_silence_in_the_wrong_law() -> None:
    idle = np.random.default_rng(1).choice(np.array([0xD5, 0x55], np.uint8), 40000).tobytes()
    (entry,) = misread("twilio", lambda pcm: ulaw_to_pcm(idle[: len(pcm) // 2]))
    assert entry["looks_like"] == "PCMA"
    assert entry["remedy"] == "the codec at the carrier's side"


@pytest.mark.parametrize("carrier", carrier_names())
@pytest.mark.parametrize("what", ["voice", "noise", "silence", "tone"])
def test_what_is_as_agreed_is_not_complained_of(carrier: str, what: str) -> None:
    def sound(pcm: bytes) -> bytes:
        count = len(pcm) // 2
        if what == "noise":
            return np.random.default_rng(1).normal(0, 3000, count).astype("<i2").tobytes()
        if what == "tone":
            return (8000 * np.sin(np.arange(count) * 1.1)).astype("<i2").tobytes()
        return pcm if what == "voice" else bytes(len(pcm))

    assert misread(carrier, sound) == []


def test_a_rate_that_was_not_agreed() -> None:
    call, _ = call_with("exotel")
    call.run(0.1)
    with structlog.testing.capture_logs() as logs:
        audio = call.fake.audio
        call.fake.audio = lambda pcm, now: audio(pcm + pcm, now)  # type: ignore[method-assign]
        call.say(voice(3.0, call.fake.audio_rate))
        call.run(2.0)
    (entry,) = [entry for entry in logs if entry["event"] == "call.codec_contradicted"]
    assert (entry["negotiated"], entry["looks_like"]) == ("L16 at 8000 Hz", "16000 Hz")
    assert entry["remedy"] == "carriers.exotel.sample_rate"


@pytest.mark.parametrize("carrier", ["vonage", "exotel"])
@pytest.mark.parametrize(("agreed", "true"), [(16000, 8000), (8000, 16000)])
def test_a_rate_that_was_not_agreed_is_told_either_way(carrier: str, agreed: int, true: int) -> None:
    with structlog.testing.capture_logs() as logs:
        call, _ = call_with(carrier, plan=CallPlan(sample_rate=agreed), strict=False)
        audio = call.fake.audio
        call.fake.audio = lambda pcm, now: audio((pcm * 2)[: len(pcm) * true // agreed], now)  # type: ignore[method-assign]
        call.run(2.0)
    (entry,) = [entry for entry in logs if entry["event"] == "call.codec_contradicted"]
    assert (entry["negotiated"], entry["looks_like"]) == (f"L16 at {agreed} Hz", f"{true} Hz")


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("carrier", ["vonage", "exotel", "plivo"])
@pytest.mark.parametrize("packets", [(0, 1), (0, 0, 1), (1, 1, 2), (2, 2, 2, 2)], ids=str)
def test_audio_that_comes_slowly_or_all_at_once_is_not_another_rate(
    carrier: str, rate: int, packets: Sequence[int]
) -> None:
    """The machine has so little time for the carrier's side, or for the line, that what it sends piles up: in each
    packet's time so many get through, one after the other."""
    with structlog.testing.capture_logs() as logs:
        call, _ = call_with(carrier, plan=CallPlan(sample_rate=rate, receive_codec="L16"), strict=False)
        audio, waiting, turns = call.fake.audio, list[Any](), itertools.cycle(packets)

        def starved(pcm: bytes, now: float) -> Sequence[Any]:
            for _ in range(max(packets)):
                waiting.extend(audio(pcm, now))
            count = next(turns)
            through = waiting[:count]
            del waiting[:count]
            return through

        call.fake.audio = starved  # type: ignore[method-assign]
        call.run(3.0)
        assert call.core._caller_audio._check is None, "it has judged"
    assert [entry for entry in logs if entry["event"] == "call.codec_contradicted"] == []


def test_the_check_ends_with_the_first_second() -> None:
    call, _ = call_with()
    call.run(2.0)
    assert call.core._caller_audio._check is None


class PassesOnFirst(FrameProcessor):
    """Gets ready after it has passed StartFrame on, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0
        self.heard: list[int] = []

    def process_frame(self, frame: Frame, direction: FrameDirection) -> object:
        done = self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self.rate = frame.audio_in_sample_rate
        elif isinstance(frame, InputAudioRawFrame):
            self.heard.append(self.rate)
        return done


class StartsLate(FrameProcessor):
    """Lets StartFrame through after a while."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> object:
        if isinstance(frame, StartFrame):
            self.runtime.call_later(0.3, lambda: self.push_frame(frame, direction))
            return DONE
        return self.push_frame(frame, direction)


def test_what_was_said_before_the_bot_was_ready_comes_when_every_processor_is() -> None:
    bot = PassesOnFirst()
    call = VirtualCall("twilio", lambda call: [StartsLate(), bot])
    call.run(2.0)
    assert set(bot.heard) == {8000}
    assert len(bot.heard) >= 95, "none is lost"
