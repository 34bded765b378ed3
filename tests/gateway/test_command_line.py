"""What is typed wrongly is said, with the option's name, before anything is done."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import cli
from gateway.cli import main

CALL = ["call", "--carrier", "twilio", "--to", "+15550100"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["serve", "--port", "99999"], "--port: must be a whole number, 0 to 65535, not '99999'"),
        (["run", "--port", "-1"], "--port: must be a whole number, 0 to 65535"),
        (["serve", "--port", "http"], "--port: must be a whole number"),
        (["serve", "--workers", "0"], "--workers: must be a whole number, from 1"),
        ([*CALL, "--digits", "12x"], "--digits: must be keys of a telephone"),
        ([*CALL, "--codec", "G729"], "--codec: invalid choice: 'G729'"),
        ([*CALL, "--max-s", "0"], "--max-s: must be seconds, more than 0"),
        ([*CALL, "--hang-up-at", "nan"], "--hang-up-at: must be seconds, from 0"),
        ([*CALL, "--say-at", "soon"], "--say-at: must be seconds"),
        (["calls", "list", "--limit", "501"], "--limit: must be a whole number, 1 to 500"),
        (["dial", "--carrier", "twilio", "--to", "1", "--from", "2", "--ring-s", "0"], "--ring-s: must be"),
        (["doctor", "--timeout", "0"], "--timeout: must be seconds, more than 0"),
        (["loadtest", "ws://127.0.0.1:1", "--calls", "0"], "--calls: must be a whole number, from 1"),
        (["loadtest", "ws://127.0.0.1:1", "--seconds", "inf"], "--seconds: must be seconds"),
        (["capacity", "--most", "few"], "--most: must be a whole number, from 1"),
    ],
)
def test_what_is_out_of_range(typed: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(typed)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([*CALL, "--out", "{folder}"], "--out: {folder} is a folder, not a file"),
        ([*CALL, "--out", "{file}/deeper/heard.wav"], "--out: {file} is a file, not a folder"),
        (["demo", "--out", "{file}"], "--out: {file} is a file, not a folder"),
        (["loadtest", "ws://127.0.0.1:1", "--html", "{folder}"], "--html: {folder} is a folder, not a file"),
        (["capacity", "--html", "{file}/load.html"], "--html: {file} is a file, not a folder"),
    ],
)
def test_where_nothing_can_be_written(
    typed: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit) as ended:
        main([word.format(folder=tmp_path, file=file) for word in typed])
    assert ended.value.code == 2
    assert said.format(folder=tmp_path, file=file) in capsys.readouterr().err


def test_a_sample_that_cannot_be_written_is_no_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert main(["run", "--config", str(tmp_path / "file" / "gateway.toml")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'file'}")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("url", ["localhost:8080", "foo", "ftp://127.0.0.1", "ws://"])
def test_where_no_gateway_can_be(url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "secret").write_text("a secret of some length, and more")
    config = folder / "gateway.toml"
    config.write_text('[gateway]\nsecret = { file = "secret" }\n[carriers.exotel]\nverify_signatures = false\n')
    assert main(["call", "--config", str(config), "--carrier", "exotel", "--to", "+15550100", "--url", url]) == 2
    assert f"--url: is no URL of a gateway: {url}" in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"telephony-gateway {importlib.metadata.version('telephony-gateway')}\n"


def test_ctrl_c_at_once_is_no_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_parser", interrupted)
    assert main(["version"]) == 130
    assert capsys.readouterr() == ("", "\n")


def test_what_is_slow_to_import_is_not_before_ctrl_c_is_caught() -> None:
    slow = "{'asyncio', 'httpx', 'importlib.metadata', 'numpy', 'rich'}"
    told = f"import sys, gateway.cli; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {told}"], stdout=-1
    )
    assert (done.returncode, done.stdout) == (0, b"[]\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_no_traceback() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "gateway.cli", "version"], stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")


TABLE = """
import argparse, sys
from gateway import cli
from gateway.commands.console import Console

class Parser:
    def parse_args(self, argv):
        return argparse.Namespace(command=lambda args: Console(width=80, highlight=False).print("seen\\n" * 20_000))

cli._parser = Parser
sys.exit(cli.main([]))
"""


def test_a_table_whose_reader_has_seen_enough_is_no_failure() -> None:
    process = subprocess.Popen([sys.executable, "-c", TABLE], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(120), said) == (0, b"")
