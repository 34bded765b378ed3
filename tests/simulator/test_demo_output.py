"""What the demo prints for machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.commands import demo
from gateway.commands.demo_talk import Talk
from gateway.simulator.report import CallReport

LINE = {"t": 0.0, "who": "bot", "text": "Hello."}


def test_one_object_with_a_report_of_each_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def calls(folder: Path, out: Path, carriers: Sequence[str], say: Callable[[str], None]) -> list[demo.Outcome]:
        report = CallReport(carrier="twilio", ended_by="bot")
        return [demo.Outcome(report, ["nothing was heard"]), demo.Outcome(report, [], Talk([LINE], {}))]

    monkeypatch.setattr(demo, "_demo", calls)
    assert main(["demo", "--json", "--carrier", "twilio", "--out", str(tmp_path / "heard")]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said.keys() == {"out", "calls"}
    assert said["out"] == str(tmp_path / "heard")
    assert [(call["carrier"], call["wrong"]) for call in said["calls"]] == [
        ("twilio", ["nothing was heard"]),
        ("twilio", []),
    ]
    assert [call.get("transcript") for call in said["calls"]] == [None, [LINE]]
