"""ONNX models: one session for a file, one thread, and nobody is told of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def open_session(model: Path | bytes, *, threads: int = 1) -> Any:
    """An `onnxruntime.InferenceSession` of a file, or of what stands in one.

    What is wrong with it is raised as onnxruntime's own kinds of exception.

    Everything that needs onnxruntime comes by here: its builds for Linux and macOS from 1.29 on keep a data base of
    what is run, and send it to their maker, unless this variable is set before the library is loaded.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
