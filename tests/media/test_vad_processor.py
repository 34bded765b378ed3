"""Detection in a pipeline: edges as frames, parameters by frame, calls that share an analyzer, a voice service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bots.speech import speak
from media.frames import (
    CancelFrame,
    InputAudioRawFrame,
    OutputAudioRawFrame,
    SpeechControlParamsFrame,
    StartFrame,
    UserSpeakingFrame,
    VADParamsUpdateFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameDirection
from media.silero import SileroVADAnalyzer
from media.vad import Deliver, VADAnalyzer, VADParams, VADState, VoiceSource
from media.vad_processor import NO_AUDIO_S, VADController, VADProcessor
from tests.media.rig import Rig, live, run, turns

UP = FrameDirection.UPSTREAM
STARTED, STOPPED, SPEAKING = VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame, UserSpeakingFrame


class LoudIsSpeech(VADAnalyzer):
    """A window is 20 ms, and speech if anything in it is not 0."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sizes: set[int] = set()

    def num_frames_required(self) -> int:
        return self.sample_rate // 50

    def voice_confidence(self, buffer: bytes) -> float:
        self.sizes.add(len(buffer))
        return 1.0 if any(buffer) else 0.0


def sound(seconds: float, *, loud: bool = True, rate: int = 8000, channels: int = 1) -> InputAudioRawFrame:
    count = round(seconds * rate) * channels
    square = np.tile([9000, -9000], count // 2).astype("<i2").tobytes()
    return InputAudioRawFrame(square if loud else bytes(len(square)), rate, channels)


def listening(processor: VADProcessor, runtime: Any = None, rate: int = 8000) -> Rig:
    rig = Rig([processor], runtime)
    rig.pipeline.push(StartFrame(audio_in_sample_rate=rate))
    rig.sunk.clear()
    rig.risen.clear()
    return rig


def feed(rig: Rig, seconds: float, *, loud: bool) -> None:
    """In frames of 20 ms, on time."""
    for _ in range(round(seconds / 0.02)):
        rig.runtime.advance(0.02)
        rig.push(sound(0.02, loud=loud))


def edges(rig: Rig) -> list[str]:
    return [type(frame).__name__ for frame in rig.sunk if isinstance(frame, STARTED | STOPPED)]


def test_edges_go_both_ways_with_their_times() -> None:
    rig = listening(VADProcessor(vad_analyzer=LoudIsSpeech()))
    feed(rig, 0.18, loud=True)
    assert not edges(rig)
    feed(rig, 0.02, loud=True)
    feed(rig, 0.5, loud=False)
    assert edges(rig) == ["VADUserStartedSpeakingFrame", "VADUserStoppedSpeakingFrame"]
    for frames in (rig.sunk, rig.risen):
        began = next(frame for frame in frames if isinstance(frame, STARTED))
        ended = next(frame for frame in frames if isinstance(frame, STOPPED))
        assert (began.start_secs, ended.stop_secs) == (0.2, 0.2)
        assert 1e9 < began.timestamp <= ended.timestamp


def test_audio_goes_on_before_it_is_judged() -> None:
    rig = listening(VADProcessor(vad_analyzer=LoudIsSpeech(params=VADParams(start_secs=0))))
    rig.push(sound(0.02))
    assert rig.down() == ["InputAudioRawFrame", "VADUserStartedSpeakingFrame", "UserSpeakingFrame"]


def test_a_line_that_falls_dumb_in_mid_speech_is_silent() -> None:
    rig = listening(VADProcessor(vad_analyzer=LoudIsSpeech()))
    feed(rig, 0.6, loud=True)
    rig.runtime.advance(NO_AUDIO_S - 0.25)
    assert edges(rig) == ["VADUserStartedSpeakingFrame"]
    rig.runtime.advance(0.26)
    assert edges(rig) == ["VADUserStartedSpeakingFrame", "VADUserStoppedSpeakingFrame"]
    rig.runtime.advance(10.0)
    assert len(edges(rig)) == 2
    feed(rig, 0.18, loud=True)  # counted anew
    assert len(edges(rig)) == 2
    feed(rig, 0.02, loud=True)
    feed(rig, 0.2, loud=False)
    assert edges(rig) == 2 * ["VADUserStartedSpeakingFrame", "VADUserStoppedSpeakingFrame"]
    rig.runtime.advance(10.0)
    assert len(edges(rig)) == 4


def test_audio_that_comes_late_is_no_silence() -> None:
    rig = listening(VADProcessor(vad_analyzer=LoudIsSpeech()))
    feed(rig, 0.4, loud=True)
    for _ in range(5):
        rig.runtime.advance(NO_AUDIO_S - 0.25)
        rig.push(sound(0.02))
    assert edges(rig) == ["VADUserStartedSpeakingFrame"]
    rig.push(CancelFrame())
    rig.runtime.advance(10.0)
    assert edges(rig) == ["VADUserStartedSpeakingFrame"]


def test_speaking_is_repeated_while_it_lasts() -> None:
    rig = listening(VADProcessor(vad_analyzer=LoudIsSpeech(), speech_activity_period=0.29))
    feed(rig, 1.3, loud=True)
    feed(rig, 2.0, loud=False)
    assert sum(isinstance(frame, SPEAKING) for frame in rig.sunk) == 4  # at 0.2, 0.5, 0.8 and 1.1 s


def test_parameters_are_told_at_the_start() -> None:
    rig = Rig([VADProcessor(vad_analyzer=LoudIsSpeech(params=VADParams(stop_secs=0.8)))])
    rig.pipeline.push(StartFrame(audio_in_sample_rate=8000))
    for frames in (rig.sunk, rig.risen):
        told = [frame.vad_params for frame in frames if isinstance(frame, SpeechControlParamsFrame)]
        assert told == [VADParams(stop_secs=0.8)]


@pytest.mark.parametrize("direction", list(FrameDirection))
def test_parameters_change_in_mid_call(direction: FrameDirection) -> None:
    rig = listening(processor := VADProcessor(vad_analyzer=LoudIsSpeech()))
    feed(rig, 0.4, loud=True)
    rig.push(VADParamsUpdateFrame(VADParams(stop_secs=1.0)), direction)
    feed(rig, 0.98, loud=False)
    assert edges(rig) == ["VADUserStartedSpeakingFrame"]
    feed(rig, 0.02, loud=False)
    assert edges(rig) == ["VADUserStartedSpeakingFrame", "VADUserStoppedSpeakingFrame"]
    assert processor.vad_params.stop_secs == 1.0
    assert any(isinstance(frame, SpeechControlParamsFrame) for frame in rig.sunk)


def test_calls_that_share_an_analyzer_are_not_mixed() -> None:
    """Neither what they hear nor their parameters."""
    analyzer = LoudIsSpeech()
    one, two = listening(VADProcessor(vad_analyzer=analyzer)), listening(VADProcessor(vad_analyzer=analyzer))
    one.push(VADParamsUpdateFrame(VADParams(start_secs=0.5)))
    for _ in range(15):
        one.push(sound(0.02))
        two.push(sound(0.02, loud=False))
    assert (edges(one), edges(two)) == ([], [])
    for _ in range(10):
        one.push(sound(0.02))
        two.push(sound(0.02))
    assert edges(one) == edges(two) == ["VADUserStartedSpeakingFrame"]


def test_parameters_of_the_analyzer_itself_are_everybodys() -> None:
    analyzer = LoudIsSpeech()
    rig = listening(VADProcessor(vad_analyzer=analyzer))
    analyzer.set_params(VADParams(start_secs=0.04))
    feed(rig, 0.06, loud=True)
    assert edges(rig) == ["VADUserStartedSpeakingFrame"]


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (8000, 2), (16000, 1), (24000, 1), (24000, 2)])
def test_audio_of_any_rate_is_brought_to_the_analyzers(rate: int, channels: int) -> None:
    analyzer = LoudIsSpeech(sample_rate=8000)
    rig = listening(VADProcessor(vad_analyzer=analyzer), rate=rate)
    tone = np.repeat(np.sin(np.arange(rate) * 2 * np.pi * 500 / rate) * 9000, channels).astype("<i2").tobytes()
    size = rate // 50 * channels * 2
    for start in range(0, len(tone), size):
        rig.push(InputAudioRawFrame(tone[start : start + size], rate, channels))
    assert edges(rig) == ["VADUserStartedSpeakingFrame"]
    assert analyzer.sizes == {320}


def test_what_the_bot_says_is_not_judged() -> None:
    rig = listening(VADProcessor(vad_analyzer=LoudIsSpeech()))
    loud = sound(1.0)
    rig.push(OutputAudioRawFrame(loud.audio, 8000, 1))
    rig.push(loud, UP)
    assert not edges(rig)


def test_nothing_is_judged_after_a_cancel() -> None:
    rig = listening(VADProcessor(vad_analyzer=LoudIsSpeech()))
    rig.push(CancelFrame())
    rig.push(sound(1.0))
    assert not edges(rig)


def test_silero_hears_a_sentence() -> None:
    rig = listening(VADProcessor(vad_analyzer=SileroVADAnalyzer()))
    pcm = bytes(8000) + speak("I would like to speak to somebody", "en-us+f3", 8000) + bytes(8000)
    for start in range(0, len(pcm), 320):
        rig.push(InputAudioRawFrame(pcm[start : start + 320], 8000, 1))
    assert edges(rig) == ["VADUserStartedSpeakingFrame", "VADUserStoppedSpeakingFrame"]


class Weighs(VADAnalyzer):
    """An analyzer with an analysis of its own, as a user of Pipecat may have written it."""

    def num_frames_required(self) -> int:
        return 160

    def voice_confidence(self, buffer: bytes) -> float:
        raise AssertionError("not asked")

    async def analyze_audio(self, buffer: bytes) -> VADState:
        return VADState.SPEAKING if any(buffer) else VADState.QUIET


def test_an_analysis_of_ones_own_is_awaited() -> None:
    async def test() -> None:
        async with live(VADProcessor(vad_analyzer=Weighs())) as rig:
            rig.push(StartFrame(audio_in_sample_rate=8000))
            for loud in (False, True, True, False):
                rig.push(sound(0.02, loud=loud))
            await turns(20)
            assert edges(rig) == ["VADUserStartedSpeakingFrame", "VADUserStoppedSpeakingFrame"]

    run(test())


class Service:
    """A voice service that notes what it was given, and delivers when told."""

    class Source:
        def __init__(self, deliver: Deliver) -> None:
            self.window_s, self.min_volume = 0.1, 0.0
            self.deliver, self.heard, self.closed = deliver, b"", False

        def feed(self, pcm: bytes) -> None:
            self.heard += pcm

        def close(self) -> None:
            self.closed = True

    def __init__(self, model: Path | None = None) -> None:
        self.model, self.sources = model, list[Service.Source]()

    def listen(self, model: Path | None, sample_rate: int, deliver: Deliver) -> VoiceSource | None:
        if model is not None and model != self.model:
            return None
        self.sources.append(Service.Source(deliver))
        return self.sources[-1]


def test_a_runtimes_voice_service_judges_for_silero() -> None:
    service = Service()
    rig = Rig([VADProcessor(vad_analyzer=SileroVADAnalyzer(params=VADParams(min_volume=0.5)))])
    rig.runtime.vad = service
    rig.pipeline.push(StartFrame(audio_in_sample_rate=8000))
    (source,) = service.sources
    rig.push(sound(0.02))
    assert (len(source.heard), source.min_volume) == (320, 0.5)
    rig.push(VADParamsUpdateFrame(VADParams(min_volume=0.7)))
    assert source.min_volume == 0.7
    source.deliver(0.9, 0.9)
    source.deliver(0.9, 0.9)  # of 100 ms each
    assert edges(rig) == ["VADUserStartedSpeakingFrame"]
    rig.push(CancelFrame())
    assert source.closed


def test_a_service_with_another_model_is_not_asked(tmp_path: Path) -> None:
    from media.silero import default_model

    service = Service(tmp_path / "other.onnx")
    rig = Rig([VADProcessor(vad_analyzer=SileroVADAnalyzer(model=default_model()))])
    rig.runtime.vad = service
    rig.pipeline.push(StartFrame(audio_in_sample_rate=8000))
    rig.push(sound(0.02))
    assert not service.sources
    assert not rig.risen or not any("Error" in name for name in rig.up())


def test_a_controller_by_hand() -> None:
    told: list[str] = []
    voice = VADController(
        LoudIsSpeech(),
        started=lambda: told.append("started"),
        stopped=lambda: told.append("stopped"),
        speaking=lambda: told.append("speaking"),
    )
    voice.start(None, 8000)
    voice.hear(sound(0.3))
    voice.hear(sound(0.3, loud=False))
    voice.close()
    voice.hear(sound(0.3))
    assert (told[0], told[-1], voice.state) == ("started", "stopped", VADState.QUIET)
    with pytest.raises(ValueError, match="one or two channels"):
        voice.hear(sound(0.02, channels=4))
