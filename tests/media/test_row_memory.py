"""The memory beside the network's: in the compiled build to the bits that numpy gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bots.speech import speak
from gateway import compiled
from media.row_memory import CONTEXT, REPLAY, STATE, WINDOW, Floats, NumpyRowMemory, RowMemory, row_memory

only_compiled = pytest.mark.skipif(compiled.build() != "compiled", reason="there is no C here")
ROWS = 24


def lines(rate: int, seed: int) -> list[list[bytes]]:
    """Lines of all kinds, in windows: voices loud and soft, hiss, hum, coughs, clicks, silence, full scale, offsets."""
    rng, size = np.random.default_rng(seed), WINDOW[rate]
    voice = np.frombuffer(speak("can you repeat that please, I would like to speak to somebody", "de", rate), "<i2")
    length = len(voice) // size * size
    t = np.arange(length) / rate
    hiss, air = rng.normal(0, 1, length), rng.normal(0, 1, length) * (np.sin(2 * np.pi * t) > 0.5)
    hum = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 8))
    pieces = [voice[:length] * 10 ** (-db / 20) for db in (0, 6, 13, 22, 35, 60)]
    pieces += [hiss * level for level in (2, 40, 900, 20000)]
    pieces += [hum * level for level in (15, 700, 9000)]
    pieces += [air * 6000 + hum * 1500, air * 9000, voice[:length] * 0.3 + hiss * 300, voice[:length] + 8192.0]
    pieces += [np.zeros(length), np.full(length, -32768.0), np.sign(hum) * 40000, np.full(length, 32767.0)]
    pieces += [np.where(t < 1.0, 0, voice[:length] * 0.5), rng.integers(-1, 2, length), np.where(t % 1 < 0.01, 9000, 0)]
    assert len(pieces) == ROWS
    whole = [np.clip(np.rint(piece), -32768, 32767).astype("<i2").tobytes() for piece in pieces]
    return [[pcm[at : at + 2 * size] for at in range(0, len(pcm), 2 * size)] for pcm in whole]


class Both:
    """Both memories, which must not differ in anything that they give."""

    def __init__(self, rate: int) -> None:
        self.rate, self.size = rate, CONTEXT[rate] + WINDOW[rate]
        self.pair: Sequence[RowMemory] = (NumpyRowMemory(rate, 4), row_memory(rate, 4))
        assert type(self.pair[0]) is not type(self.pair[1])

    def same(self, method: str, *args: Any) -> Any:
        one, other = (getattr(memory, method)(*args) for memory in self.pair)
        assert one == other
        return one

    def filled(self, method: str, *arrays: Floats, turn: int | None = None) -> Sequence[Floats]:
        """What a method puts into arrays like these."""
        first = () if turn is None else (turn,)
        one, other = ([np.full_like(array, 7.0) for array in arrays] for _ in range(2))
        getattr(self.pair[0], method)(*first, *one)
        getattr(self.pair[1], method)(*first, *other)
        assert [array.tobytes() for array in one] == [array.tobytes() for array in other]
        return one

    def step(self, rng: np.random.Generator, slots: list[int], windows: list[bytes], least: list[float]) -> list[float]:
        """One batch, with a network that says what comes to its mind."""
        asked, fresh = self.same("hear", slots, windows, least)
        if fresh:
            for turn in range(REPLAY):
                self.filled("earlier", np.empty((fresh, self.size), np.float32), turn=turn)
            self.same("begin", rng.normal(size=(2, fresh, STATE)).astype(np.float32))
        if asked:
            self.filled("show", np.empty((asked, self.size), np.float32), np.empty((2, asked, STATE), np.float32))
        # Often sure of itself, often sure that it is nobody: what its memory is kept for depends on that.
        given = rng.choice([0.01, 0.05, 0.15, 0.3, 0.6, 0.8, 0.96, 0.975, 0.99], asked).astype(np.float32)
        confidences, volumes = self.same("judge", given, rng.normal(size=(2, asked, STATE)).astype(np.float32))
        assert len(confidences) == len(volumes) == len(slots)
        return list(confidences)


@pytest.fixture(params=[8000, 16000])
def both(request: pytest.FixtureRequest) -> Both:
    return Both(request.param)


@only_compiled
@pytest.mark.parametrize("seed", range(3))
def test_the_compiled_build_gives_the_same_bits(both: Both, seed: int) -> None:
    """Calls that come and go, in batches of 1 to all of them, for ten minutes of audio."""
    rng, material = np.random.default_rng(seed), lines(both.rate, seed)
    capacity, free, slots, doubted = 4, [0, 1, 2, 3], {}, 0
    for number in range(ROWS):
        if not free:
            both.same("grow")
            free, capacity = list(range(capacity, 2 * capacity)), 2 * capacity
        slots[number] = free.pop()
        both.same("forget", slots[number])
    place = [0] * ROWS
    for turn in range(800):
        batch = rng.permutation(ROWS)[: rng.integers(1, ROWS + 1)].tolist()
        windows = [material[number][place[number] % len(material[number])] for number in batch]
        least = [0.0 if turn % 97 == 0 else 0.6] * len(batch)
        confidences = both.step(rng, [slots[number] for number in batch], windows, least)
        doubted += sum(confidence * 2 in map(float, np.float32([0.6, 0.8])) for confidence in confidences)
        for number in batch:
            place[number] += 1
        if turn % 50 == 49:
            both.same("forget", slots[int(rng.integers(ROWS))])
    assert doubted > 100


@only_compiled
def test_a_memory_that_is_used_in_a_wrong_way_says_so(both: Both) -> None:
    memory, window = both.pair[1], bytes(2 * WINDOW[both.rate])
    for wrong in (([4], [window], [0.6]), ([-1], [window], [0.6]), ([0], [window[:-2]], [0.6])):
        with pytest.raises((IndexError, ValueError)):
            memory.hear(*wrong)
    with pytest.raises(ValueError, match="as many windows"):
        memory.hear([0, 1], [window], [0.6])
    with pytest.raises(TypeError):
        memory.hear([0], [window], ["loud"])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        memory.hear(0, [window], [0.6])  # type: ignore[arg-type]
    assert memory.hear([0], [window], [0.6]) == (1, 0)
    with pytest.raises(ValueError, match="floats are needed"):
        memory.show(np.empty((2, both.size), np.float32), np.empty((2, 1, STATE), np.float32))
    with pytest.raises(ValueError, match="floats are needed"):
        memory.judge(np.empty(1, np.float32), np.empty((2, 2, STATE), np.float32))
    with pytest.raises((BufferError, ValueError)):
        memory.show(np.empty((1, both.size), np.float32)[:, ::2], np.empty((2, 1, STATE), np.float32))
    with pytest.raises(IndexError):
        memory.forget(4)
    memory.grow()  # in the midst of a batch: the batch is given up
    assert memory.judge(np.empty(0, np.float32), np.empty((2, 0, STATE), np.float32)) == ([], [])
    with pytest.raises(RuntimeError):
        memory.__init__(WINDOW[both.rate], CONTEXT[both.rate], 1)  # type: ignore[misc]


@only_compiled
@pytest.mark.parametrize(("window", "context", "capacity"), [(100, 32, 1), (256, 65, 1), (256, 32, 0), (256, -1, 1)])
def test_rows_that_cannot_be_are_refused(window: int, context: int, capacity: int) -> None:
    from media import row_memory as ours
    from media import rows

    given = ours.numbers(8000)
    with pytest.raises(ValueError, match="no such rows"):
        rows.RowMemory(window, context, capacity, **given)
    with pytest.raises(TypeError):
        rows.RowMemory(256, 32, 1)  # type: ignore[call-arg]
