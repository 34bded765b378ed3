"""Silero's network, version 5, drawn anew from the weights in its file: the same function for a quarter of the time.

The file has convolutions, which onnxruntime computes call by call: thousands of small products. Here each layer is one
product of matrices for the whole batch, and what meets only the zeros at the edges is left out. Sums are rounded
otherwise in the last bit or two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

_OPSET, _IR = 16, 8  # as in the file
_FRAMES = 4  # of the short-time Fourier transform, in one window
_STATE = 128


def redrawn(model: bytes) -> Mapping[int, bytes]:
    """The network for each sample rate, as ONNX files with the inputs `input` and `state`.

    Raises:
        ValueError: the file has another network.
    """
    try:
        (choice,) = (node for node in onnx.load_from_string(model).graph.node if node.op_type == "If")
        branches = {attribute.name: attribute.g for attribute in choice.attribute}
        return {8000: _drawn(_weights(branches["else_branch"])), 16000: _drawn(_weights(branches["then_branch"]))}
    except (KeyError, IndexError, ValueError, onnx.checker.ValidationError) as exc:
        raise ValueError(f"not the network that is known: {exc}") from exc


def _weights(graph: Any) -> dict[str, Array]:
    """By the names that they had where the model was made."""
    return {
        node.output[0].rpartition("__")[2]: numpy_helper.to_array(node.attribute[0].t)
        for node in graph.node
        if node.op_type == "Constant"
    }


class _Drawing:
    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, value: Array) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def put(self, kind: str, *inputs: str, to: Sequence[str] = (), **attributes: Any) -> str:
        """One operation; the name of its first result."""
        results = list(to) or [f"{kind}{len(self._nodes)}"]
        self._nodes.append(helper.make_node(kind, list(inputs), results, **attributes))
        return next(name for name in results if name)

    def shaped(self, what: str, *shape: int) -> str:
        return self.put("Reshape", what, self.integers(*shape))

    def cut(self, what: str, first: int, last: int) -> str:
        """Of the second axis."""
        return self.put("Slice", what, self.integers(first), self.integers(last), self.integers(1))

    def layer(self, what: str, weight: Array, bias: Array) -> str:
        """[rows, in] by [in, out]."""
        return self.put("Relu", self.put("Gemm", what, self.constant(weight), self.constant(bias)))

    def file(self, samples: int) -> bytes:
        number = TensorProto.FLOAT
        graph = helper.make_graph(
            self._nodes,
            "silero",
            [
                helper.make_tensor_value_info("input", number, ["calls", samples]),
                helper.make_tensor_value_info("state", number, [2, "calls", _STATE]),
            ],
            [
                helper.make_tensor_value_info("output", number, ["calls", 1]),
                helper.make_tensor_value_info("stateN", number, [2, "calls", _STATE]),
            ],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString()
        return data


def _drawn(weights: Mapping[str, Array]) -> bytes:
    draw = _Drawing()
    loudness, bins = _spectra(draw, weights["stft.forward_basis_buffer"])
    voice = _encoded(draw, loudness, bins, weights)
    output = _remembered(draw, voice, weights)
    draw.put("Sigmoid", output, to=["output"])
    size = weights["stft.forward_basis_buffer"].shape[2]
    return draw.file(2 * size + size // 4)


def _spectra(draw: _Drawing, basis: Array) -> tuple[str, int]:
    """[calls, frames, bins]: frames that overlap by a half, over a window that is mirrored at its end."""
    size = basis.shape[2]
    hop, bins = size // 2, basis.shape[0] // 2
    longer = draw.put("Pad", "input", draw.integers(0, 0, 0, hop // 2), mode="reflect")
    halves = draw.shaped(longer, -1, _FRAMES + 1, hop)
    frames = draw.put("Concat", draw.cut(halves, 0, _FRAMES), draw.cut(halves, 1, _FRAMES + 1), axis=2)
    waves = draw.put("MatMul", draw.shaped(frames, -1, size), draw.constant(basis[:, 0].T))
    real = draw.put("Split", waves, draw.integers(bins, bins), to=["real", "imaginary"], axis=1)
    power = draw.put("Add", draw.put("Mul", real, real), draw.put("Mul", "imaginary", "imaginary"))
    return draw.shaped(draw.put("Sqrt", power), -1, _FRAMES, bins), bins


def _encoded(draw: _Drawing, loudness: str, bins: int, weights: Mapping[str, Array]) -> str:
    """[calls, 128]. Four convolutions over three frames each, of which the second and the third go in steps of two."""
    taps, bias = (
        [weights[f"encoder.{number}.reparam_conv.{what}"] for number in range(4)] for what in ("weight", "bias")
    )
    # [out, in, tap] becomes [tap and in, out], as neighbouring frames lie side by side.
    one, two, three, four = (each.transpose(2, 1, 0) for each in taps)

    around = draw.put("Pad", loudness, draw.integers(0, 1, 0, 0, 1, 0))
    beside = [draw.cut(around, first, first + _FRAMES) for first in range(3)]
    rows = draw.shaped(draw.put("Concat", *beside, axis=2), -1, 3 * bins)
    found = draw.layer(rows, one.reshape(3 * bins, -1), bias[0])

    width = one.shape[2]
    before = draw.put("Pad", draw.shaped(found, -1, _FRAMES, width), draw.integers(0, 1, 0, 0, 0, 0))
    both = [draw.shaped(draw.cut(before, first, first + 3), -1, 3 * width) for first in (0, 2)]
    rows = draw.shaped(draw.put("Concat", *both, axis=1), -1, 3 * width)
    found = draw.layer(rows, two.reshape(3 * width, -1), bias[1])

    width = two.shape[2]  # two frames are left: the third tap before them is at the edge
    found = draw.layer(draw.shaped(found, -1, 2 * width), three[1:].reshape(2 * width, -1), bias[2])
    return draw.layer(found, four[1], bias[3])  # one frame is left


def _remembered(draw: _Drawing, voice: str, weights: Mapping[str, Array]) -> str:
    """[calls, 1] before the sigmoid, and the next state."""
    # The gates are input, forget, cell, output there; input, output, forget, cell here.
    of_voice, of_state, bias_voice, bias_state = (
        np.concatenate([np.split(weights[f"decoder.rnn.{name}"], 4)[gate] for gate in (0, 3, 1, 2)])
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    first = draw.integers(0)
    draw.put("Split", "state", draw.integers(1, 1), to=["hidden", "cell"], axis=0)
    draw.put(
        "LSTM",
        draw.put("Unsqueeze", voice, first),
        draw.constant(of_voice[None]),
        draw.constant(of_state[None]),
        draw.constant(np.concatenate((bias_voice, bias_state))[None]),
        "",
        "hidden",
        "cell",
        to=["", "hiddenN", "cellN"],
        hidden_size=_STATE,
    )
    draw.put("Concat", "hiddenN", "cellN", to=["stateN"], axis=0)
    said = draw.put("Relu", draw.put("Squeeze", "hiddenN", first))
    last = weights["decoder.decoder.2.weight"][0]
    return draw.put("Gemm", said, draw.constant(last), draw.constant(weights["decoder.decoder.2.bias"]))
