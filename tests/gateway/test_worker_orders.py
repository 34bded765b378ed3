"""A worker that cannot start says why in a line, and its supervisor gets an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from gateway.worker import Orders


def test_what_is_wrong_with_a_bot_is_said_without_a_traceback(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text('[bots.it]\nuse = "announce"\nplay = ["nowhere.wav"]\n[numbers.default]\nbot = "it"\n')
    heard, told = os.pipe()
    orders = Orders(
        config=str(config), host="127.0.0.1", port=0, name="0", endpoint="", token_key="key of the tokens", status=told
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gateway.worker"],
            input=msgspec.json.encode(orders) + b"\n",
            capture_output=True,
            pass_fds=(told,),
            timeout=300,
            check=False,
        )
    finally:
        os.close(told)
        os.close(heard)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 2
    assert said.count("worker.not_started") == 1
    assert "bots.it.play[0]" in said
    assert "Traceback" not in said
