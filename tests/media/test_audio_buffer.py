"""AudioBufferProcessor in calls on virtual time: what it gives is what both sides heard, and when."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np
import pytest

from bots.base import Call, Output
from media.audio_buffer import AudioBufferProcessor
from media.events import drive_without_loop
from media.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from media.processor import FrameProcessor
from tests.endtoend import actors
from tests.gateway.virtual import VirtualCall
from tests.media.rig import Pass, Rig, started

Samples = np.ndarray[Any, np.dtype[np.int16]]


class Taped(VirtualCall):
    """A call whose bot records: `kept` is what the events brought."""

    def __init__(self, carrier: str = "twilio", *, before_output: bool = False, **options: Any) -> None:
        self.buffer = AudioBufferProcessor(**options)
        self.kept: list[tuple[str, tuple[Any, ...]]] = []
        for event in ("on_audio_data", "on_track_audio_data", "on_user_turn_audio_data", "on_bot_turn_audio_data"):
            self.buffer.add_event_handler(event, lambda buffer, *what, event=event: self.kept.append((event, what)))

        def build(call: Call) -> Sequence[FrameProcessor]:
            return (self.buffer,) if before_output else (Output(), self.buffer)

        super().__init__(carrier, build, latency_s=0.03)

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> Any:
        drive_without_loop(coro, name)
        return _Ended()

    def say_to_caller(self, pcm: bytes, rate: int = 8000) -> None:
        for frame in actors.utterance(pcm, rate):
            self.core.inject(frame)

    def told(self, event: str) -> list[tuple[Any, ...]]:
        return [what for name, what in self.kept if name == event]


class _Ended:
    def cancel(self) -> None: ...


def samples(pcm: bytes) -> Samples:
    return np.frombuffer(pcm, "<i2")


def loud(pcm: bytes, rate: int) -> tuple[float, float]:
    """From when to when it is loud, in seconds."""
    found = np.flatnonzero(np.abs(samples(pcm).astype(int)) > 500)
    return (found[0] / rate, found[-1] / rate) if len(found) else (0.0, 0.0)


@pytest.mark.parametrize("before_output", [False, True])
@pytest.mark.parametrize("carrier", ["twilio", "vonage", "exotel", "genesys"])
def test_both_sides_are_where_they_were_heard(carrier: str, before_output: bool) -> None:
    call = Taped(carrier, before_output=before_output, num_channels=2, sample_rate=8000)
    call.run(1.0)
    began = call.t
    heard_before = len(call.heard())
    call.buffer.start_recording()
    call.run(0.5)
    call.say_to_caller(actors.tone(0.6))
    call.run(0.5)
    call.say(actors.tone(0.5, call.fake.audio_rate, 700.0))
    call.run(1.5)
    call.buffer.stop_recording()
    ((audio, rate, channels),) = call.told("on_audio_data")
    ((user, bot, track_rate, track_channels),) = call.told("on_track_audio_data")
    assert (rate, channels, track_rate, track_channels) == (8000, 2, 8000, 1)
    assert len(user) == len(bot) == len(audio) // 2
    assert samples(audio)[::2].tobytes() == user
    assert samples(audio)[1::2].tobytes() == bot
    assert len(user) / 2 / rate == pytest.approx(call.t - began, abs=0.01)
    play_rate = call.fake.playout.rate
    in_the_ear = loud(call.heard()[heard_before:], play_rate)
    assert loud(bot, rate) == pytest.approx(in_the_ear, abs=0.06), "as the fake carrier's caller heard it"
    assert loud(user, rate) == pytest.approx((1.0, 1.5), abs=0.06 + call.fake.packet_ms / 1000)
    assert not call.buffer.has_audio()


def test_mono_is_both_together_and_never_wraps_round() -> None:
    call = Taped()
    call.run(0.5)
    call.buffer.start_recording()
    square = np.where(np.arange(8000) % 100 < 50, 30000, -30000).astype("<i2").tobytes()
    call.say(square)
    call.say_to_caller(square)
    call.run(1.5)
    assert call.buffer.has_audio()
    merged = call.buffer.merge_audio_buffers()
    call.buffer.stop_recording()
    ((audio, rate, channels),) = call.told("on_audio_data")
    ((user, bot, *_),) = call.told("on_track_audio_data")
    assert (rate, channels) == (8000, 1)
    assert audio.startswith(merged)
    together = samples(user).astype(int) + samples(bot)
    assert np.abs(together).max() > 40000
    assert samples(audio).astype(int).tolist() == np.clip(together, -32768, 32767).tolist()


def test_pieces_of_the_size_that_was_asked_for() -> None:
    call = Taped(buffer_size=8001)
    call.run(0.5)
    call.buffer.start_recording()
    call.say(actors.tone(2.0))
    call.run(2.3)
    before_stop = len(call.told("on_audio_data"))
    assert before_stop >= 3
    call.buffer.stop_recording()
    sizes = [len(user) for user, *_ in call.told("on_track_audio_data")]
    assert sizes[:-1] == [8002] * (len(sizes) - 1), "whole samples"
    assert 0 < sizes[-1] <= 8002
    assert sum(sizes) / 16000 == pytest.approx(2.3, abs=0.02)
    assert [len(audio) for audio, *_ in call.told("on_audio_data")] == sizes


@pytest.mark.parametrize("rate", [16000, 24000, 44100])
def test_at_another_rate(rate: int) -> None:
    call = Taped(sample_rate=rate)
    call.run(0.5)
    call.buffer.start_recording()
    call.say_to_caller(actors.tone(1.0, 24000), 24000)
    call.run(2.0)
    call.buffer.stop_recording()
    ((user, bot, told_rate, _),) = call.told("on_track_audio_data")
    assert told_rate == call.buffer.sample_rate == rate
    assert len(user) == len(bot)
    assert len(bot) / 2 / rate == pytest.approx(2.0, abs=0.05)
    first, last = loud(bot, rate)
    assert last - first == pytest.approx(1.0, abs=0.03)


def test_what_an_interruption_cut_off_is_not_there() -> None:
    call = Taped()
    call.run(0.5)
    call.buffer.start_recording()
    call.say_to_caller(actors.tone(5.0))
    call.run(1.0)
    call.core.inject(InterruptionFrame())
    call.run(2.0)
    call.buffer.stop_recording()
    ((_, bot, rate, _),) = call.told("on_track_audio_data")
    first, last = loud(bot, rate)
    heard_from, heard_to = loud(call.heard(), call.fake.playout.rate)
    assert last - first == pytest.approx(heard_to - heard_from, abs=0.06)
    assert last - first < 1.3


def test_the_end_of_the_call_brings_the_rest_and_the_last_word_is_whole() -> None:
    call = Taped(enable_turn_audio=True)
    call.run(0.5)
    call.buffer.start_recording()
    call.say_to_caller(actors.tone(1.0))
    call.core.inject(EndFrame())
    call.run(4.0)
    assert call.over
    ((_, bot, rate, _),) = call.told("on_track_audio_data")
    first, last = loud(bot, rate)
    assert last - first == pytest.approx(1.0, abs=0.03)
    ((turn, turn_rate, channels),) = call.told("on_bot_turn_audio_data")
    assert (turn_rate, channels) == (8000, 1)
    first, last = loud(turn, rate)
    assert last - first == pytest.approx(1.0, abs=0.03)
    heard_from, heard_to = loud(call.heard(), call.fake.playout.rate)
    assert heard_to - heard_from == pytest.approx(1.0, abs=0.05), "recording it has not changed when the call ends"


def test_a_caller_who_hangs_up_ends_it() -> None:
    call = Taped()
    call.run(0.5)
    call.buffer.start_recording()
    call.say(actors.tone(1.0))
    call.run(1.0)
    call.hang_up()
    call.run(3.0)
    ((user, *_),) = call.told("on_track_audio_data")
    assert 0.8 < len(user) / 16000 < 1.3
    call.buffer.stop_recording()
    assert len(call.told("on_audio_data")) == 1, "there is nothing left"


def test_turns_with_a_second_before_the_callers() -> None:
    call = Taped(enable_turn_audio=True)
    call.run(0.5)
    call.buffer.start_recording()
    call.run(2.0)
    call.say(actors.tone(1.0))
    call.run(0.3)  # a detector needs its time
    call.core.inject(UserStartedSpeakingFrame())
    call.core.inject(UserStartedSpeakingFrame())
    call.run(1.2)
    call.core.inject(UserStoppedSpeakingFrame())
    call.say_to_caller(actors.tone(0.7, 8000, 600.0))
    call.run(3.0)
    ((turn, rate, channels),) = call.told("on_user_turn_audio_data")
    assert (rate, channels) == (8000, 1)
    assert len(turn) / 16000 == pytest.approx(2.2, abs=0.01)
    assert loud(turn, rate) == pytest.approx((0.75, 1.75), abs=0.08)
    ((turn, *_),) = call.told("on_bot_turn_audio_data")
    first, last = loud(turn, rate)
    assert last - first == pytest.approx(0.7, abs=0.03)
    assert first < 0.15
    call.say_to_caller(actors.tone(0.2))
    call.run(0.5)
    call.core.inject(UserStartedSpeakingFrame())
    call.run(0.5)
    call.buffer.stop_recording()
    assert [len(what[0]) > 0 for what in call.told("on_user_turn_audio_data")] == [True, True], "what there is of it"
    assert len(call.told("on_bot_turn_audio_data")) == 2


def test_nothing_is_told_of_turns_unless_asked_for() -> None:
    call = Taped()
    call.run(0.5)
    call.buffer.start_recording()
    call.core.inject(UserStartedSpeakingFrame())
    call.say_to_caller(actors.tone(0.7))
    call.run(1.0)
    call.core.inject(UserStoppedSpeakingFrame())
    call.run(1.0)
    call.buffer.stop_recording()
    assert {event for event, _ in call.kept} == {"on_audio_data", "on_track_audio_data"}


def test_a_second_recording_begins_empty() -> None:
    call = Taped()
    call.run(0.5)
    call.buffer.start_recording()
    call.say_to_caller(actors.tone(0.5))
    call.run(1.0)
    call.buffer.start_recording()
    call.run(1.0)
    call.buffer.stop_recording()
    ((_, bot, rate, _),) = call.told("on_track_audio_data")
    assert len(bot) / 2 / rate == pytest.approx(1.0, abs=0.02)
    assert loud(bot, rate) == (0.0, 0.0)


def test_recording_may_be_asked_for_before_the_call_starts() -> None:
    call = Taped()
    call.buffer.start_recording()
    assert not call.buffer.has_audio()
    call.run(0.5)
    call.say_to_caller(actors.tone(0.5))
    call.run(1.5)
    assert call.buffer.has_audio()
    call.buffer.stop_recording()
    ((_, bot, rate, _),) = call.told("on_track_audio_data")
    first, last = loud(bot, rate)
    assert last - first == pytest.approx(0.5, abs=0.03)


def test_without_a_recording_nothing_listens() -> None:
    call = Taped()
    call.run(0.5)
    call.say_to_caller(actors.tone(0.5))
    call.run(1.0)
    assert call.core.output.outlet.taps == ()
    call.buffer.stop_recording()
    assert not call.kept
    call.buffer.start_recording()
    assert len(call.core.output.outlet.taps) == 1
    call.buffer.stop_recording()
    assert call.core.output.outlet.taps == ()


# ---------------------------------------------------------------- pipelines without an output stage


def recorded(*frames: Frame, advance_s: float = 0.02) -> tuple[bytes, bytes, Rig]:
    """What is recorded of frames that pass, one every `advance_s`."""
    buffer = AudioBufferProcessor(sample_rate=8000)
    told: list[tuple[bytes, bytes]] = []
    buffer.add_event_handler("on_track_audio_data", lambda _, user, bot, *rest: told.append((user, bot)))
    rig = started(buffer, Pass())
    buffer.start_recording()
    for frame in frames:
        rig.push(frame)
        rig.runtime.advance(advance_s)
    rig.runtime.advance(1.0)
    buffer.stop_recording()
    ((user, bot),) = told
    return user, bot, rig


@pytest.mark.parametrize("channels", [1, 2])
def test_frames_that_pass_count_as_sent(channels: int) -> None:
    pcm = samples(actors.tone(0.02, 24000)).repeat(channels).tobytes()
    speech = [TTSAudioRawFrame(pcm, 24000, channels) for _ in range(25)]
    _, bot, rig = recorded(TTSStartedFrame(), *speech, TTSStoppedFrame())
    first, last = loud(bot, 8000)
    assert last - first == pytest.approx(0.5, abs=0.03)
    assert len(rig.down()) == 27, "all of them pass on"


def test_faster_than_real_time_and_cut_off() -> None:
    speech = [OutputAudioRawFrame(actors.tone(0.2), 8000, 1) for _ in range(10)]
    _, bot, _ = recorded(*speech, InterruptionFrame())
    first, last = loud(bot, 8000)
    assert last - first == pytest.approx(0.2, abs=0.05), "ten frames took 0.2 s to come, and were cut off then"


def test_the_callers_frames_alone() -> None:
    said = [InputAudioRawFrame(actors.tone(0.02, 16000), 16000, 1) for _ in range(25)]
    user, bot, _ = recorded(*said)
    first, last = loud(user, 8000)
    assert last - first == pytest.approx(0.5, abs=0.03)
    assert not any(bot)


def test_the_rate_is_the_outputs_unless_it_is_given() -> None:
    assert AudioBufferProcessor().sample_rate == 0
    buffer = AudioBufferProcessor(num_channels=2)
    rig = Rig([buffer])
    rig.push(StartFrame(audio_out_sample_rate=24000))
    assert (buffer.sample_rate, buffer.num_channels) == (24000, 2)
    given = AudioBufferProcessor(sample_rate=16000)
    Rig([given]).start()
    assert given.sample_rate == 16000


def test_a_count_of_channels_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="num_channels must be 1 or 2, got 3"):
        AudioBufferProcessor(num_channels=3)


def test_cancel_stops_it_and_old_programs_may_say_that_the_stream_is_continuous() -> None:
    buffer = AudioBufferProcessor(user_continuous_stream=True)
    told: list[int] = []
    buffer.add_event_handler("on_audio_data", lambda _, audio, *rest: told.append(len(audio)))
    rig = started(buffer)
    buffer.start_recording()
    rig.runtime.advance(1.0)
    rig.push(CancelFrame())
    assert len(told) == 1
    assert rig.down() == ["CancelFrame"]
