"""A small ONNX model, written by hand: protobuf needs no library to be written.

It answers sigmoid(mean(features) * gain + offset), so what it says depends on each feature that it is shown.
"""

from __future__ import annotations

import struct


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_bytes(1, _number(1, size)) for size in shape)
    tensor = _number(1, 1) + _bytes(2, dims)  # 1: float32
    return _bytes(1, name) + _bytes(2, _bytes(1, tensor))


def _node(kind: str, inputs: list[str], output: str) -> bytes:
    return _bytes(1, b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(4, kind))


def _constant(name: str, value: float) -> bytes:
    return _bytes(5, _number(1, 1) + _number(2, 1) + _bytes(8, name) + _bytes(9, struct.pack("<f", value)))


def mean_model(
    gain: float, offset: float, *, name: str = "input_features", shape: tuple[int, ...] = (1, 80, 800)
) -> bytes:
    """The file's bytes."""
    graph = b"".join(
        (
            _node("ReduceMean", [name], "mean"),
            _node("Flatten", ["mean"], "flat"),
            _node("Mul", ["flat", "gain"], "much"),
            _node("Add", ["much", "offset"], "sum"),
            _node("Sigmoid", ["sum"], "output"),
            _bytes(2, "mean"),
            _constant("gain", gain),
            _constant("offset", offset),
            _bytes(11, _value(name, shape)),
            _bytes(12, _value("output", (1, 1))),
        )
    )
    return _number(1, 7) + _bytes(7, graph) + _bytes(8, _number(2, 13))  # IR 7, operators of set 13
