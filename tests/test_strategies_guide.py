"""Every program of docs/turns/strategies.md runs, and prints what stands below it."""

from __future__ import annotations

import asyncio
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.media.rig import run_on_virtual_time
from tests.media.small_onnx import mean_model

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "turns" / "strategies.md"
TEXT = GUIDE.read_text()
STAGE = re.search(r"```python\n(# stage\.py\n.*?)\n```", TEXT, re.S)
PROGRAMS = {
    name: (code, printed)
    for code, name, printed in re.findall(
        r"```python\n(# (\w+)\.py\n.*?)\n```\n\n```text\n(.*?)\n```", TEXT[STAGE.end() if STAGE else 0 :], re.S
    )
}


def test_none_is_left_out() -> None:
    assert STAGE is not None
    assert len(PROGRAMS) == TEXT.count("```python") - 1 >= 20
    for kind in ("media/turns/start.py", "media/turns/wake.py", "media/turns/stop.py", "media/turns/mute.py"):
        source = (GUIDE.parents[2] / kind).read_text()
        for name in re.findall(r"^class (\w+Strategy)\(", source, re.M):
            if not name.startswith("Base") and not name.startswith("External"):
                assert name in TEXT, name


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert STAGE is not None
    code, printed = PROGRAMS[name]
    (tmp_path / "stage.py").write_text(STAGE[1])
    program = tmp_path / f"{name}.py"
    program.write_text(code)
    (tmp_path / "smart-turn-v3.onnx").write_bytes(mean_model(0.0, 3.0))  # for which every pause is an end
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stage", raising=False)

    def on_virtual_time(main: Any) -> None:
        run_on_virtual_time(main, 600.0)

    monkeypatch.setattr(asyncio, "run", on_virtual_time)
    try:
        runpy.run_path(str(program), run_name="__main__")
    finally:
        sys.modules.pop("stage", None)
    assert capsys.readouterr().out.rstrip() == printed
