"""`gateway check`: all that is wrong with a configuration, in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main


def checked(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    config = folder / "gateway.toml"
    config.write_text(text, encoding="utf-8")
    code = main(["check", "--config", str(config), "--json"])
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert main(["check", "--config", str(config)]) == code
    listed = capsys.readouterr().out
    assert all(f"error: {error['path']}: {error['problem']}" in listed for error in said["errors"])
    return code, said


def test_bots_are_prepared_though_something_else_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = checked(
        tmp_path,
        """
        [gateway]
        prot = 8080

        [bots.news]
        use = "announce"
        play = ["nowhere.wav"]

        [bots.mine]
        use = "nowhere:bot"

        [numbers.default]
        bot = "nwes"
        """,
        capsys,
    )
    assert code == 1
    places = {error["path"]: error["problem"] for error in said["errors"]}
    assert places.keys() == {"gateway.prot", "numbers.default.bot", "bots.news.play[0]", "bots.mine.use"}
    assert said["warnings"] == []


def test_a_voice_detector_that_cannot_be_loaded_is_a_mistake_where_bots_hear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.onnx").write_bytes(b"no model")
    text = """
        [bots.it]
        use = "bridge"
        url = "ws://127.0.0.1:9/"
        barge_in = {}
        [numbers.default]
        bot = "it"
        [vad]
        model = "own.onnx"
        """
    code, said = checked(tmp_path, text.format("true"), capsys)
    assert (code, [error["path"] for error in said["errors"]]) == (1, ["vad.model"])
    assert checked(tmp_path, text.format("false"), capsys)[0] == 0


def test_warnings_are_no_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = checked(tmp_path, '[bots.echo]\nuse = "echo"\n[numbers.default]\nbot = "echo"\n', capsys)
    assert code == 0
    assert said["errors"] == []
    assert any("gateway.secret" in warning for warning in said["warnings"])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://host/calls", "is not the URL"),
        ("postgresql+nosuch://host/calls", "there is no driver postgresql+nosuch"),
    ],
)
def test_a_store_that_cannot_be_is_told_once_and_serves_nobody(
    url: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = checked(tmp_path, f'[gateway]\nstore = "{url}"\n', capsys)
    assert code == 1
    (error,) = told["errors"]
    assert error["path"] == "gateway.store"
    assert said in error["problem"]
    for workers in ("1", "2"):
        assert main(["serve", "--config", str(tmp_path / "gateway.toml"), "--workers", workers]) == 2
        assert f"error: gateway.store: {error['problem']}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[gateway", "\udcff"])
def test_a_file_that_cannot_be_read(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "gateway.toml"
    config.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["check", "--config", str(config), "--json"]) == 1
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert error["path"] == str(config)
