"""The engine: the bits of single calls, in order, whatever the company; bounds; what calls leave behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from bots.speech import speak
from gateway import vad_engine
from gateway.clock import STEP_S, Clock
from gateway.reload import needs_restart
from gateway.settings import Settings, VADSettings
from gateway.vad_engine import BACKLOG, DELAY_S, GATHER_S, EngineSource, VoiceEngine
from media.energy_vad import EnergyVADAnalyzer
from media.errors import ConfigError
from media.frames import InputAudioRawFrame, StartFrame, VADParamsUpdateFrame
from media.silero import SileroVADAnalyzer, default_model, load_model
from media.vad import InlineSource, VADParams
from media.vad_processor import VADProcessor
from tests.media.rig import LiveRuntime, Rig, labels, run

TEXTS = ("can you repeat that please", "seven", "I would like to speak to somebody", "hold on a second")
VOICES = ("en-us+f3", "de", "en-gb", "es")


@cache
def spoken(number: int, rate: int = 8000) -> bytes:
    pcm = speak(TEXTS[number % 4], VOICES[number // 4 % 4], rate)
    return bytes(rate) + pcm + bytes(rate // 2 * (number % 3 + 1))


@cache
def alone(number: int, rate: int = 8000) -> list[tuple[float, float]]:
    """What a call hears that has a detector for itself."""
    found: list[tuple[float, float]] = []
    source = SileroVADAnalyzer(sample_rate=rate).listen(rate, lambda *window: found.append(window))
    source.min_volume = 0.6
    source.feed(spoken(number, rate))
    return found


@asynccontextmanager
async def engine(**kwargs: object) -> AsyncIterator[VoiceEngine]:
    clock = Clock()
    async with clock.running():
        made = VoiceEngine(clock, **kwargs)  # type: ignore[arg-type]
        try:
            yield made
        finally:
            await made.close()


async def until(true: Callable[[], bool]) -> None:
    for _ in range(50_000):  # `run` has less patience
        if true():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it never came true")


def source_of(made: VoiceEngine, rate: int, found: list[tuple[float, float]]) -> EngineSource:
    source = made.listen(None, rate, lambda *window: found.append(window))
    assert isinstance(source, EngineSource)
    source.min_volume = 0.6
    return source


def test_many_calls_hear_what_each_would_hear_alone() -> None:
    """40 calls at two rates, in pieces of different sizes; calls end and others take their place all the time."""

    async def test() -> None:
        async with engine() as made:

            async def call(number: int) -> None:
                rate = 16000 if number % 5 == 4 else 8000
                found: list[tuple[float, float]] = []
                source = source_of(made, rate, found)
                pcm, piece = spoken(number % 16, rate), 320 * (number % 7 + 1)
                for start in range(0, len(pcm), piece):
                    source.feed(pcm[start : start + piece])
                    if start // piece % 20 == number % 20:
                        await asyncio.sleep(0.001)
                wanted = alone(number % 16, rate)
                await until(lambda: len(found) == len(wanted))
                source.close()
                assert found == wanted

            async def line(first: int) -> None:
                for number in range(first, first + 4):
                    await call(number)

            async with asyncio.TaskGroup() as tasks:
                for first in range(0, 40, 4):
                    tasks.create_task(line(first))
            assert made.listening == 0
            assert made.counters["batches"] < made.counters["windows"]
            assert (made.counters["dropped"], made.counters["failed"]) == (0, 0)

    run(test())


def test_nothing_is_delivered_after_close() -> None:
    async def test() -> None:
        async with engine() as made:
            one: list[tuple[float, float]] = []
            other: list[tuple[float, float]] = []
            leaving, staying = source_of(made, 8000, one), source_of(made, 8000, other)
            leaving.feed(bytes(512 * 4))
            staying.feed(bytes(512 * 4))
            await asyncio.sleep(0)
            leaving.close()
            leaving.close()
            leaving.feed(bytes(512 * 4))
            await until(lambda: len(other) == 4)
            assert (one, made.listening) == ([], 1)

    run(test())


def test_a_call_that_leaves_before_its_first_batch_does_not_stop_the_others() -> None:
    async def test() -> None:
        async with engine() as made:
            found: list[tuple[float, float]] = []
            gone = source_of(made, 8000, found)
            gone.feed(bytes(512))
            gone.close()
            await asyncio.sleep(vad_engine.DELAY_S * 2)
            staying = source_of(made, 8000, found)
            staying.feed(bytes(512))
            await until(lambda: len(found) == 1)

    run(test())


def test_rows_of_calls_that_ended_are_used_again() -> None:
    async def test() -> None:
        async with engine() as made:
            slots = set()
            for _ in range(50):
                found: list[tuple[float, float]] = []
                source = source_of(made, 8000, found)
                source.feed(bytes(512))
                await until(lambda found=found: len(found) == 1)
                assert source.row is not None
                slots.add(source.row.slot)
                source.close()
            assert len(slots) <= 2

    run(test())


def test_what_waits_is_bounded_and_counted() -> None:
    async def test() -> None:
        async with engine() as made:
            found: list[tuple[float, float]] = []
            source = source_of(made, 8000, found)
            for _ in range(BACKLOG + 10):
                source.feed(bytes(512))
            assert (len(source.waiting), made.counters["dropped"]) == (BACKLOG, 10)
            await until(lambda: len(found) == BACKLOG)

    run(test())


def test_a_receiver_that_fails_harms_nobody_else() -> None:
    async def test() -> None:
        async with engine() as made:
            found: list[tuple[float, float]] = []

            def fail(confidence: float, volume: float) -> None:
                raise ValueError("a bot's fault")

            bad = made.listen(None, 8000, fail)
            good = source_of(made, 8000, found)
            assert bad is not None
            bad.feed(bytes(1024))
            good.feed(bytes(1024))
            await until(lambda: len(found) == 2)

    run(test())


def test_a_batch_that_fails_is_counted_and_heard_as_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with engine() as made:
            found: list[tuple[float, float]] = []
            source = source_of(made, 8000, found)
            monkeypatch.setattr(vad_engine.SileroRows, "judge", lambda *_: 1 / 0)
            source.feed(bytes(1024))
            await until(lambda: len(found) == 2)
            assert (found, made.counters["failed"]) == ([(0.0, 0.0)] * 2, 2)

    run(test())


def test_no_model_is_loaded_before_somebody_listens() -> None:
    async def test() -> None:
        async with engine() as made:
            assert made._judging is None

    run(test())


def test_a_model_file_that_is_not_there_is_the_operators_to_change(tmp_path: Path) -> None:
    made = VoiceEngine(Clock(), tmp_path / "none.onnx")
    with pytest.raises(ConfigError, match=r"vad\.model"):
        made.listen(None, 8000, lambda *window: None)


def test_a_model_that_cannot_be_loaded_leaves_calls_deaf_but_alive(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")

    async def test() -> None:
        async with engine(model=path) as made:
            found: list[tuple[float, float]] = []
            source_of(made, 8000, found).feed(bytes(1024))
            await until(lambda: len(found) == 2)
            assert found == [(0.0, 0.0)] * 2

    run(test())


def test_another_model_than_the_engines_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with engine() as made:
            assert made.listen(tmp_path / "other.onnx", 8000, lambda *window: None) is None
            assert made.listen(default_model().resolve(), 8000, lambda *window: None) is not None

    run(test())


def test_a_batch_leaves_at_the_last_beat_after_which_it_is_judged_in_time() -> None:
    async def test() -> None:
        made = VoiceEngine(Clock())  # which stands still: these are its beats
        found: list[tuple[float, float]] = []
        source = source_of(made, 8000, found)
        for took, last_s in ((0.0, DELAY_S), (0.004, DELAY_S - 0.004), (1.0, GATHER_S)):
            found.clear()
            source.feed(bytes(512))
            made._took = took
            first = made._since
            made._on_beat(first + last_s - STEP_S - 0.001)
            assert not made._busy
            source.feed(bytes(512))
            assert made._since == first
            made._on_beat(first + last_s - STEP_S + 0.001)
            assert made._busy
            source.feed(bytes(512))
            made._on_beat(first + 1.0)  # one batch at a time
            await until(lambda: len(found) == 2)
            made._on_beat(first + 1.0)
            await until(lambda: len(found) == 3)
        assert made.counters["windows"] == 9
        await made.close()

    run(test())


def test_the_clock_beats_for_it_while_somebody_listens() -> None:
    async def test() -> None:
        clock = Clock()
        async with clock.running():
            made = VoiceEngine(clock)
            one, other = source_of(made, 8000, []), source_of(made, 8000, [])
            one.close()
            assert not clock._is_idle
            other.close()
            assert clock._is_idle
            staying = source_of(made, 8000, [])
            await made.close()
            assert clock._is_idle
            staying.close()

    run(test())


def test_by_energy_there_is_neither_model_nor_thread() -> None:
    made = VoiceEngine(Clock(), analyzer="energy")
    found: list[tuple[float, float]] = []
    source = made.listen(None, 8000, lambda *window: found.append(window))
    assert isinstance(source, InlineSource)
    source.feed(spoken(0))
    wanted: list[tuple[float, float]] = []
    EnergyVADAnalyzer().listen(8000, lambda *window: wanted.append(window)).feed(spoken(0))
    assert (found, source.window_s, made._judging) == (wanted, 0.02, None)


def test_after_the_end_nothing_is_judged() -> None:
    async def test() -> None:
        async with engine() as made:
            found: list[tuple[float, float]] = []
            source = source_of(made, 8000, found)
        source.feed(bytes(1024))
        await asyncio.sleep(0.02)
        assert not found
        source.close()

    run(test())


def test_two_pipelines_on_one_engine_and_parameters_in_mid_call() -> None:
    """Each hears its own caller; the one that was told to ask for longer silence stops later."""

    async def test() -> None:
        load_model()
        async with engine() as made:
            rigs = []
            for _ in range(2):
                runtime = LiveRuntime()
                runtime.vad = made  # type: ignore[attr-defined]
                rig = Rig([VADProcessor(vad_analyzer=SileroVADAnalyzer())], runtime)
                await rig.bound
                rig.pipeline.push(StartFrame(audio_in_sample_rate=8000))
                rigs.append(rig)
            rigs[0].push(VADParamsUpdateFrame(VADParams(stop_secs=0.8)))
            assert made.listening == 2
            pcm, silence = spoken(0), bytes(len(spoken(0)))
            for one, two in itertools.pairwise(range(0, len(pcm) + 320, 320)):
                rigs[0].push(InputAudioRawFrame(pcm[one:two], 8000, 1))
                rigs[1].push(InputAudioRawFrame(silence[one:two], 8000, 1))
            windows = 2 * (len(pcm) // 512)
            await until(lambda: made.counters["windows"] >= windows)
            await asyncio.sleep(0.02)
            edges = [[name for name in labels(rig.sunk) if name.startswith("VADUserSt")] for rig in rigs]
            assert edges == [["VADUserStartedSpeakingFrame"], []]
            for _ in range(25):
                rigs[0].push(InputAudioRawFrame(bytes(320), 8000, 1))
            await until(lambda: "VADUserStoppedSpeakingFrame" in labels(rigs[0].sunk))
            for rig in rigs:
                await rig.pipeline.close()
                await rig.runtime.close()
            assert made.listening == 0

    run(test())


def test_another_detector_waits_for_a_restart_and_is_named() -> None:
    running = Settings()
    wanted = replace(running, vad=VADSettings(analyzer="energy"))
    assert list(needs_restart(running, wanted)) == ["vad"]
    assert list(needs_restart(running, running)) == []
