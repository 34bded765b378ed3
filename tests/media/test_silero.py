"""The model: what it hears, batches, memory, and the gate in front of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bots.speech import speak
from media.errors import ConfigError
from media.silero import (
    WINDOW,
    Floats,
    Row,
    RowSource,
    SileroModel,
    SileroRows,
    SileroVADAnalyzer,
    default_model,
    load_model,
)
from media.vad import VADParams, VADState, VoiceStates
from tests.media.rig import run

TEXTS = ("can you repeat that please", "seven", "I would like to speak to somebody", "hold on a second")
VOICES = ("en-us+f3", "de", "en-gb", "es")
ROWS = 128  # the most that gateway/vad_engine.py judges at once


@cache
def spoken(number: int, rate: int = 8000) -> bytes:
    """A second of silence, a sentence, a second of silence."""
    pcm = speak(TEXTS[number % 4], VOICES[number // 4 % 4], rate)
    return bytes(2 * rate) + pcm + bytes(2 * rate)


def windows_of(pcm: bytes, rate: int = 8000) -> list[bytes]:
    size = WINDOW[rate] * 2
    return [pcm[start : start + size] for start in range(0, len(pcm) - size + 1, size)]


def alone(pcm: bytes, rate: int = 8000, least: float = 0.6) -> list[float]:
    """Confidences of one call that has the rows for itself."""
    rows = SileroRows(load_model(), rate)
    row = rows.open()
    return [rows.judge([row], [window], [least])[0][0] for window in windows_of(pcm, rate)]


# ---------------------------------------------------------------- what it hears


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("number", range(4))
def test_it_hears_a_voice_and_not_the_silence_around_it(number: int, rate: int) -> None:
    states = VoiceStates(VADParams(), 0.032)
    found: list[VADState] = []
    source = SileroVADAnalyzer().listen(rate, lambda *window: found.append(states.step(*window)))
    source.min_volume = 0.6
    source.feed(spoken(number, rate))
    began, ended = found.index(VADState.SPEAKING) * 0.032, len(found) * 0.032
    assert 1.15 <= began <= 1.6
    assert found[-1] is VADState.QUIET
    assert VADState.SPEAKING not in found[-int((ended - began) / 0.032 / 8) :]


def test_noise_is_not_a_voice() -> None:
    hiss = np.round(np.random.default_rng(1).normal(0, 1000, 8000 * 5)).astype("<i2").tobytes()
    assert max(alone(hiss)[4:]) < 0.5


def softer(pcm: bytes, db: float) -> bytes:
    return np.round(np.frombuffer(pcm, "<i2") * 10 ** (-db / 20)).astype("<i2").tobytes()


class Watched(SileroModel):
    """Keeps how loud the windows are that it is shown, in dBFS."""

    def __init__(self) -> None:
        super().__init__(default_model())
        self.shown: list[float] = []

    def step(self, sample_rate: int, audio: Floats, state: Floats) -> tuple[Floats, Floats]:
        self.shown.append(10 * np.log10(float((audio[0].astype(float) ** 2).mean()) + 1e-12))
        return super().step(sample_rate, audio, state)


def shown(*pcm: bytes) -> list[float]:
    """The loudest window of each that one call's model is shown."""
    model = Watched()
    rows = SileroRows(model, 8000)
    row, found = rows.open(), []
    for piece in pcm:
        model.shown.clear()
        for window in windows_of(piece):
            rows.judge([row], [window], [0.0])
        found.append(max(model.shown))
    return found


def test_the_model_is_shown_a_soft_voice_as_if_it_spoke_up() -> None:
    said = spoken(0)  # once: espeak does not breathe twice in the same way
    (loud,) = shown(said)
    assert shown(softer(said, 2))[0] == pytest.approx(loud - 2, abs=0.1)  # still loud enough
    for db in (6, 12, 18, 21):
        assert shown(softer(said, db))[0] == pytest.approx(loud - 6.5, abs=1)


def test_it_speaks_up_by_20_db_at_most() -> None:
    said = spoken(2)
    (loud,) = shown(said)
    assert shown(*[softer(said, 33)] * 6)[-1] == pytest.approx(loud - 33 + 20, abs=0.1)


def test_what_gain_a_caller_has_is_his_own_level_and_not_that_of_his_pauses() -> None:
    soft, hiss = softer(spoken(0), 24), np.random.default_rng(1).normal(0, 20, 80_000).astype("<i2").tobytes()
    first, _, _, again = shown(soft, hiss, bytes(160_000), soft)
    assert again == pytest.approx(first, abs=2)


def test_who_speaks_more_softly_than_before_is_shown_louder_again() -> None:
    soft = softer(spoken(2), 24)
    (wanted,) = shown(soft)
    first, *_, last = shown(spoken(2), *[soft] * 6)[1:]
    assert first < wanted - 6
    assert last == pytest.approx(wanted, abs=2)


def test_by_hand_as_with_pipecat() -> None:
    async def test() -> None:
        analyzer = SileroVADAnalyzer(sample_rate=8000, params=VADParams(stop_secs=0.4))
        states = [await analyzer.analyze_audio(window) for window in windows_of(spoken(0))]
        assert {VADState.QUIET, VADState.STARTING, VADState.SPEAKING, VADState.STOPPING} == set(states)
        assert analyzer.num_frames_required() == 256

    run(test())


def test_confidence_by_hand_is_the_models_own() -> None:
    analyzer = SileroVADAnalyzer(sample_rate=8000)
    assert [analyzer.voice_confidence(window) for window in windows_of(spoken(1))] == alone(spoken(1), least=0.0)
    with pytest.raises(ValueError, match="256 samples"):
        analyzer.voice_confidence(bytes(100))


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_batch_has_the_bits_of_single_runs(rate: int) -> None:
    """Rows of one batch: 1 to 16 of them, calls that come and go in the middle, and other companions every time."""
    rng = np.random.default_rng(3)
    count = 16
    material = [windows_of(spoken(number, rate), rate) for number in range(count)]
    rows = SileroRows(load_model(), rate, capacity=2)
    mine: list[Row] = [rows.open() for _ in range(count)]
    found: list[list[float]] = [[] for _ in range(count)]
    waiting = {number for number in range(count) if material[number]}
    while waiting:
        batch = rng.permutation(sorted(waiting))[: rng.integers(1, count + 1)].tolist()
        confidences, _ = rows.judge(
            [mine[number] for number in batch],
            [material[number][len(found[number])] for number in batch],
            [0.6] * len(batch),
        )
        for number, confidence in zip(batch, confidences, strict=True):
            found[number].append(confidence)
            if len(found[number]) == len(material[number]):
                waiting.discard(number)
                rows.close(mine[number])
    for number in range(count):
        assert found[number] == alone(spoken(number, rate), rate)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_large_batches_have_the_bits_of_single_runs_too(rate: int) -> None:
    """As many calls as the engine judges at once: speech from loud to hardly there, each with a memory of its own."""
    rng, model = np.random.default_rng(5), load_model()
    size = WINDOW[rate] // 8 * 9  # a window, and what the model wants again of the one before
    voice = np.frombuffer(spoken(2, rate), "<i2").astype(np.float32) / 32768
    starts = rng.integers(0, len(voice) - size, ROWS)
    levels = 10.0 ** rng.uniform(-3.0, 0.0, ROWS)
    audio = np.array([voice[at : at + size] * level for at, level in zip(starts, levels, strict=True)], np.float32)
    states = rng.normal(0.0, 0.3, (2, ROWS, 128)).astype(np.float32)
    single = [model.step(rate, audio[[n]], np.ascontiguousarray(states[:, [n]])) for n in range(ROWS)]
    for count in (ROWS, ROWS - 1, 75, 33):
        some = rng.permutation(ROWS)[:count]
        confidence, after = model.step(rate, audio[some], np.ascontiguousarray(states[:, some]))
        assert confidence.tolist() == [float(single[n][0][0]) for n in some]
        assert after.tobytes() == np.concatenate([single[n][1] for n in some], axis=1).tobytes()


def test_a_slot_that_is_used_again_remembers_nothing() -> None:
    rows = SileroRows(load_model(), 8000)
    first = rows.open()
    for window in windows_of(spoken(0)):
        rows.judge([first], [window], [0.0])
    rows.close(first)
    second = rows.open()
    assert second.slot == first.slot
    found = [rows.judge([second], [window], [0.6])[0][0] for window in windows_of(spoken(1))]
    assert found == alone(spoken(1))


# ---------------------------------------------------------------- the gate


def test_silence_is_not_shown_to_the_model() -> None:
    rows = SileroRows(load_model(), 8000)
    row = rows.open()
    for _ in range(100):
        rows.judge([row], [bytes(512)], [0.6])
    assert (rows.asked, rows.asleep) == (8, 92)


def test_no_gate_where_any_volume_may_be_speech() -> None:
    rows = SileroRows(load_model(), 8000)
    row = rows.open()
    for _ in range(100):
        rows.judge([row], [bytes(512)], [0.0])
    assert rows.asleep == 0


@pytest.mark.parametrize("number", range(16))
def test_the_gate_changes_no_decision_on_speech(number: int) -> None:
    """Found with and without it; the start never later, the end at most one window away.

    Not more alike, for the gate also decides when the model forgets: see `media/silero.py`.
    """

    def edges(gate: float) -> tuple[int, int]:
        states, rows = VoiceStates(VADParams(), 0.032), SileroRows(load_model(), 8000)
        row = rows.open()
        found: list[VADState] = []
        for window in windows_of(spoken(number)):
            (confidence,), (volume,) = rows.judge([row], [window], [gate])
            found.append(states.step(confidence, volume))
        speaking = [place for place, state in enumerate(found) if state is VADState.SPEAKING]
        return speaking[0], speaking[-1]

    with_gate, without = edges(0.6), edges(0.0)
    assert with_gate[0] <= without[0]
    assert abs(with_gate[1] - without[1]) <= 1


# ---------------------------------------------------------------- the model file


def test_the_default_model_is_a_package_away() -> None:
    assert default_model().name == "silero_vad.onnx"
    assert load_model() is load_model(default_model())


def test_a_file_that_is_no_model_is_the_operators_to_change(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ConfigError, match=r"vad\.model"):
        SileroModel(path)


def test_a_model_that_is_another_kind_is_the_operators_to_change(tmp_path: Path) -> None:
    path = tmp_path / "identity.onnx"
    path.write_bytes(_identity())
    with pytest.raises(ConfigError, match=r"has inputs \['x'\]"):
        SileroModel(path)


def _field(number: int, content: bytes | int) -> bytes:
    """One field of a protobuf message, shorter than 128 bytes."""
    if isinstance(content, int):
        return bytes((number << 3, content))
    return bytes((number << 3 | 2, len(content))) + content


def _identity() -> bytes:
    """ONNX: y = x, one float. Fields by onnx.proto3 (ModelProto, GraphProto, NodeProto, ValueInfoProto)."""
    shape = _field(2, _field(1, _field(1, 1)))
    kind = _field(2, _field(1, _field(1, 1) + shape))
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Identity")
    graph = _field(1, node) + _field(2, b"g") + _field(11, _field(1, b"x") + kind) + _field(12, _field(1, b"y") + kind)
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13))


def test_it_listens_at_8_khz_unless_told_otherwise() -> None:
    assert SileroVADAnalyzer().rate_for(16000) == 8000
    assert SileroVADAnalyzer(sample_rate=16000).rate_for(8000) == 16000


@pytest.mark.parametrize("rate", [11025, 24000, 48000])
def test_it_takes_two_rates(rate: int) -> None:
    with pytest.raises(ValueError, match="8000 or 16000"):
        SileroVADAnalyzer(sample_rate=rate)
    with pytest.raises(ValueError, match="8000 or 16000"):
        SileroVADAnalyzer().set_sample_rate(rate)
    assert SileroVADAnalyzer().rate_for(rate) == 8000


def test_nothing_is_delivered_after_close() -> None:
    heard: list[float] = []
    source = RowSource(load_model(), 8000, lambda confidence, volume: heard.append(confidence))
    source.feed(bytes(512))
    source.close()
    source.feed(bytes(512))
    assert len(heard) == 1
