"""`gateway run` in an empty folder, and what it says to do next: as somebody who has just installed it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli import _parser
from gateway.commands.call import call
from gateway.registry import carrier_names
from media.wav import read_wav
from tests.endtoend.served import until

pytest.importorskip("espeakng_loader", reason="the extra [speech] is not installed")

SECRETS = re.compile(r"_(TOKEN|SECRET|KEY)$")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_what_it_says_to_do_next_can_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {name: value for name, value in os.environ.items() if not SECRETS.search(name)}
    environment |= {"NO_COLOR": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    log = tmp_path / "log"
    folder = tmp_path / "new"
    folder.mkdir()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", "run", "--port", "0"],
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=out,
        )
    try:
        asyncio.run(until(lambda: "Ctrl-C ends it" in log.read_text() or process.poll() is not None, 180))
        said = log.read_text()
        assert process.poll() is None, said
        assert {"gateway.toml", "gateway.secret", "hello.wav"} <= {path.name for path in folder.iterdir()}
        for name in set(carrier_names()) - {"web"}:  # which this machine may use as it is
            assert re.search(rf"Real calls of {name} need [A-Z_, ]+;", said)
        assert " is off" not in said

        port = re.search(r"listens on http://127\.0\.0\.1:([0-9]+)", said)
        commands = re.findall(r"gateway (call .*?) +#", said)
        assert port is not None
        assert len(commands) == 3
        for path in (folder / ".gateway-made-up").iterdir():
            monkeypatch.setenv(path.name, path.read_text())
        monkeypatch.chdir(folder)

        async def place(command: str, out: str) -> int:
            more = ["--hang-up-at", "1.5", "--out", out]
            return await call(_parser().parse_args([*command.split(), *more]))

        async def all_of_them() -> list[int]:
            url = f"--url ws://127.0.0.1:{port[1]}"  # those that it says have it
            every = [f"call --carrier {name} --to +15550102 {url}" for name in carrier_names()]
            return await asyncio.gather(*(place(command, f"{n}.wav") for n, command in enumerate(commands + every)))

        assert asyncio.run(all_of_them()) == [0] * 10
        for number in range(10):
            assert len(read_wav(folder / f"{number}.wav").pcm) > 8000
        process.send_signal(signal.SIGINT)
        assert process.wait(180) == 0
        said = log.read_text()
        assert "Traceback" not in said
        assert said.count("call.ended") == 10
        assert "carrier_api.asked" not in said  # nobody outside is asked, with credentials that were made up
    finally:
        process.kill()
        process.wait()
