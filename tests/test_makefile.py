"""`make` finds an interpreter that runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_an_interpreter_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    for name, code in (("python3.11", 127), ("python3.12", 0)):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        program.chmod(0o755)
    given = ("PYTHON", "VENV", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL")  # by a `make test` around this one
    environment = {name: value for name, value in os.environ.items() if name not in given}
    told = subprocess.run(
        ["make", "--dry-run", "install", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        env={**environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "python3.12 -m venv" in told.stdout
    assert "python3.11" not in told.stdout
