"""The network drawn anew: the same answers as the file's, and the file's own where it is another network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bots.speech import speak
from media.onnx import open_session
from media.silero import WINDOW, Floats, SileroModel, default_model
from media.silero_graph import redrawn

RESULTS = ["output", "stateN"]


def windows(rate: int) -> Floats:
    """[windows, calls, context and window] of a voice, as loud and half as loud."""
    said = np.frombuffer(speak("can you repeat that please", "en-gb", rate), "<i2").astype(np.float32) / 32768
    size = WINDOW[rate]
    count = len(said) // size - 1
    cut = np.stack([said[n * size : n * size + size + size // 8] for n in range(count)])
    return np.stack((cut, cut / 2), axis=1)


class FileModel:
    """The file as it stands."""

    def __init__(self, path: Path, rate: int) -> None:
        self._run, self._rate = open_session(path).run, np.array(rate, np.int64)

    def step(self, audio: Floats, state: Floats) -> Any:
        return self._run(RESULTS, {"input": audio, "state": state, "sr": self._rate})


@pytest.mark.parametrize("rate", [8000, 16000])
def test_it_says_of_a_voice_what_the_file_says(rate: int) -> None:
    file, quick = FileModel(default_model(), rate), SileroModel(default_model())
    state = mine = np.zeros((2, 2, 128), np.float32)
    said = []
    for audio in windows(rate):
        wanted, state = file.step(audio, state)
        found, mine = quick.step(rate, audio, mine)
        np.testing.assert_allclose(found, wanted[:, 0], atol=1e-4)
        said.append(wanted.max())
    np.testing.assert_allclose(mine, state, atol=1e-3)
    assert max(said) > 0.9  # it was a voice


def test_it_is_what_runs(caplog: pytest.LogCaptureFixture) -> None:
    """And at half the operations, or fewer: none of them a convolution."""
    SileroModel(default_model())
    assert not caplog.records
    for file in redrawn(default_model().read_bytes()).values():
        assert "Conv" not in {node.op_type for node in onnx.load_from_string(file).graph.node}


def changed(tmp_path: Path, change: Any) -> Path:
    model = onnx.load(default_model())
    (choice,) = (node for node in model.graph.node if node.op_type == "If")
    for attribute in choice.attribute:
        change(attribute.g)
    path = tmp_path / "other.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def under_another_name(graph: Any) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = name.replace("encoder.2", "encoder.two")


def with_another_end(graph: Any) -> None:
    for node in graph.node:
        if node.op_type == "Sigmoid":
            node.op_type = "Tanh"


@pytest.mark.parametrize(
    ("change", "why"),
    [(under_another_name, "encoder.2"), (with_another_end, "another network")],
    ids=["another name", "another end"],
)
def test_another_network_runs_as_it_stands(
    change: Any, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = changed(tmp_path, change)
    with caplog.at_level(logging.WARNING):
        model = SileroModel(path)
    (record,) = caplog.records
    assert why in record.getMessage()
    file = FileModel(path, 8000)
    audio, state = windows(8000)[3], np.zeros((2, 2, 128), np.float32)
    assert model.step(8000, audio, state)[0].tolist() == file.step(audio, state)[0][:, 0].tolist()


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="not the network"):
        redrawn(b"")
