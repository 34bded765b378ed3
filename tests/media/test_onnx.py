"""Models are run here, and nowhere is it told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from media.silero import default_model

ROOT = Path(__file__).resolve().parents[2]
OPENED = """
import os, sys
from pathlib import Path
from media.onnx import open_session
session = open_session(Path(sys.argv[1]))
print(len(session.get_inputs()))
names = os.listdir("/proc/self/fd")
print(sum("onnxruntime.db" in os.path.realpath(f"/proc/self/fd/{name}") for name in names))
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux tells which files are open")
def test_onnxruntime_keeps_no_data_base_of_what_is_run(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", OPENED, str(default_model())],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout.split() == ["3", "0"]
    assert not list(tmp_path.rglob("*onnxruntime*"))


def test_nobody_else_loads_onnxruntime() -> None:
    for package in ("media", "serializers", "webhooks", "bots", "gateway"):
        for path in (ROOT / package).rglob("*.py"):
            if path != ROOT / "media" / "onnx.py":
                assert "import onnxruntime" not in path.read_text(), path
