"""Carry out the Dockerfile without Docker, and run what comes out as a container would.

A clean Debian by debootstrap stands for the base image; each instruction is carried out in a chroot of it. The result
runs as the image's user, without capabilities, on a read-only root, with nothing to write to but /tmp and the image's
volume, and its configuration and secrets mounted as files. Then, with one process and with two workers: it must become
healthy by the image's own check, be the compiled build, and answer a call that is heard; at the image's stop signal a
live call must come to its end, new ones be turned away meanwhile, and all processes be gone with 0.

Needs root, debootstrap, unshare and nsenter (Debian: apt-get install debootstrap).

python docker/prove.py
python docker/prove.py --base /var/cache/base                       keep the clean Debian for the next time
python docker/prove.py --bind /opt/wheels --copy /etc/pip.conf      what the build needs of this machine to install
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import wave
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from container import Container
from stage import DOCKERFILE, Stage, instructions

SUITE = "bookworm"  # of which python:3.11-slim is made
PACKAGES = "python3,python3-dev,python3-venv,python3-pip,ca-certificates"  # the headers are in python:3.11-slim, too
PATIENCE_S = 120.0  # for each thing that is waited for: the machine may have other work

# In one piece: a call that is told to end says what it has begun. No question put meanwhile takes as long as that.
LAST_WORDS = (
    "This is a long announcement, of which the end is heard as well, though the gateway was told to stop. It is so "
    "long that there is time to ask it, before the end, whether it is well, and would take another call. It is, and it "
    "would not. Whoever calls now is told to call somebody else, and who has called before hears this. There is time "
    "for that even if the machine has so much other work that each question takes long. Therefore nothing of what is "
    "proven here depends on how fast it is, but for the length of this announcement, which is why it goes on like "
    "that. These are the last words, and whoever hears them has not been cut off."
)
# Over the image's own configuration. A machine that is busy with other things would have calls turned away.
CONFIGURATION = """
[gateway]
secret = { file = "/run/secrets/gateway_secret" }
log_format = "json"
max_lateness_ms = 0
drain_s = 200
[carriers.twilio]
auth_token = { file = "/run/secrets/twilio_auth_token" }
[bots.hello]
use = "announce"
play = ["This call comes from a container."]
[bots.speaker]
use = "announce"
play = ["LAST WORDS"]
[numbers."+15550100"]
bot = "hello"
[numbers."+15550101"]
bot = "speaker"
[numbers.default]
bot = "hello"
""".replace("LAST WORDS", LAST_WORDS)
LONG_S = 20.0  # of speech in that
SECRETS = {"gateway_secret": "only for this proof, and long enough", "twilio_auth_token": "made up"}

# Prints what it could write to, of all folders there are.
WRITE_EVERYWHERE = """
import os, sys
for folder, folders, _ in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/sys", "/dev")]
    try:
        os.close(os.open(os.path.join(folder, "written"), os.O_CREAT | os.O_WRONLY))
        os.unlink(os.path.join(folder, "written"))
        print(folder)
        folders.clear()
    except OSError:
        pass
"""
ASK = """
import http.client, json, sys
told = []
for path in sys.argv[1:]:
    asked = http.client.HTTPConnection("127.0.0.1", 8080, timeout=10)
    asked.request("GET", path)
    reply = asked.getresponse()
    told.append((reply.status, reply.read().decode()))
print(json.dumps(told))
"""


def say(*words: object) -> None:
    print(*words, flush=True)


def must(true: object, otherwise: str) -> None:
    if not true:
        raise SystemExit(otherwise)


# ---------------------------------------------------------------- the image


def debian(base: Path) -> None:
    say("debootstrap", SUITE)
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(base)], check=True)


def build(base: Path, folder: Path, binds: Sequence[str], copies: Sequence[str]) -> Stage:
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for word, rest in instructions(DOCKERFILE.read_text()):
        say(word, rest[:100])
        if word == "FROM":
            name = rest.split()[-1]
            stage = stages[name] = Stage(folder / f"stage-{len(stages)}")
            subprocess.run(["cp", "--archive", str(base), str(stage.root)], check=True)
            python = stage.root / "usr/local/bin/python"
            if not python.is_symlink():
                python.symlink_to("/usr/bin/python3")
            stage.environment |= {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
            for name in copies:
                shutil.copy2(name, stage.root / name.lstrip("/"))
            for bind in binds:
                inside = stage.root / bind.lstrip("/")
                inside.mkdir(parents=True, exist_ok=True)
                subprocess.run(["mount", "--bind", bind, str(inside)], check=True)
                subprocess.run(["mount", "-o", "remount,bind,ro", str(inside)], check=True)
        else:
            assert stage is not None
            stage.carry_out(word, rest, stages)
    assert stage is not None
    stage.environment = {name: value for name, value in stage.environment.items() if not name.startswith("PIP_")}
    return stage


# ---------------------------------------------------------------- what it does


def until(true: Callable[[], object], otherwise: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        must(time.monotonic() < end, otherwise)
        time.sleep(0.1)


def ask(running: Container, *paths: str) -> list[tuple[int, str]]:
    """Status and body of each."""
    told = running.run(["python", "-c", ASK, *paths])
    must(not told.returncode, f"it does not answer: {told.stderr}")
    return [(status, body) for status, body in json.loads(told.stdout)]


class Caller:
    """Somebody outside of the container who can reach its port."""

    def __init__(self, running: Container) -> None:
        self._running = running
        folder = running.stage.root / "tmp" / "caller"  # where the container has a /tmp of its own
        folder.mkdir(parents=True, exist_ok=True)
        for name, secret in SECRETS.items():
            (folder / name).write_text(secret)
        (folder / "gateway.toml").write_text(CONFIGURATION.replace("/run/secrets/", ""))
        shutil.chown(folder, int(running.stage.user))
        self._heard = folder / "heard.wav"

    def begin(self, number: str) -> subprocess.Popen[str]:
        self._heard.unlink(missing_ok=True)
        where = ["--config", "/tmp/caller/gateway.toml", "--out", "/tmp/caller/heard.wav", "--json"]
        command = [
            "gateway",
            "call",
            "--carrier",
            "twilio",
            "--to",
            number,
            "--hang-up-at",
            "110",
            "--max-s",
            "120",
            *where,
        ]
        return subprocess.Popen(
            self._running.beside(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def heard_s(self, call: subprocess.Popen[str]) -> float:
        """Wait for its end; for how long somebody spoke in it: seconds louder than silence."""
        told = call.communicate()[0]
        must(not call.returncode, f"the call was not right: {told}")
        with wave.open(str(self._heard)) as file:
            samples: array[int] = array("h", file.readframes(file.getnframes()))
            step = file.getframerate() // 50
        return sum(max(map(abs, samples[at : at + step])) > 500 for at in range(0, len(samples) - step, step)) / 50


def lines(running: Container, event: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in found if line.get("event") == event]


def prove(stage: Stage, folder: Path, workers: int) -> None:
    """Run it as a container with a read-only root would. SystemExit: it is not as it must be."""
    secrets, configuration = folder / "secrets", folder / "gateway.toml"
    secrets.mkdir(exist_ok=True)
    for name, secret in SECRETS.items():
        (secrets / name).write_text(f"{secret}\n")
    configuration.write_text(CONFIGURATION)
    mounts = {"/etc/gateway/gateway.toml": configuration, "/run/secrets": secrets}
    command = [*stage.command, "--workers", str(workers)] if workers > 1 else stage.command
    say(f"--- {workers} process{'es' if workers > 1 else ''}:", *stage.entry, *command)
    with Container(stage, mounts, folder / "log", command) as running:
        running.wait_until_healthy(PATIENCE_S)
        say("healthy, by the image's own check")
        prove_build(running)
        prove_confined(running, workers)
        prove_call(running)
        if workers > 1:
            prove_workers(running, workers)
        prove_drain(running)
        for line in running.log.read_text().splitlines():
            must('"level": "error"' not in line or "worker.ended" in line, f"an error in its log: {line}")


def prove_build(running: Container) -> None:
    told = running.run(["gateway", "version"]).stdout
    must("build compiled" in told, f"it is not the compiled build:\n{told}")
    say("the compiled build")


def prove_confined(running: Container, workers: int) -> None:
    """Whose processes they are, what they may do, and where they can write."""
    user = running.stage.user
    found = running.processes()
    must("tini" in found[1].splitlines()[0], f"the first process is {found[1].splitlines()[0]}")
    must(len(found) >= 2 + (workers if workers > 1 else 0), f"there are {len(found)} processes")
    for status in found.values():
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        must(set(facts["Uid"].split()) == set(facts["Gid"].split()) == {user}, f"a process of another user: {facts}")
        rights = {name: int(facts[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}
        must(not any(rights.values()) and facts["NoNewPrivs"] == "1", f"a process with rights: {rights}")
    say(f"{len(found)} processes of user {user}, without capabilities, under tini")
    written = set(running.run(["python", "-c", WRITE_EVERYWHERE]).stdout.split())
    must(written == {"/tmp", *running.stage.volumes}, f"it can write to {sorted(written)}")
    say("nothing can be written to but", *sorted(written))


def prove_call(running: Container) -> None:
    caller = Caller(running)
    spoken = caller.heard_s(caller.begin("+15550100"))
    must(spoken > 1, f"only {spoken:.1f} s were heard")
    (ready, _), (_, metrics) = ask(running, "/ready", "/metrics")
    must("gateway_calls_ended_total{" in metrics, "its metrics do not have the call")
    must(ready == 200, "it is not ready for the next")
    say(f"a call in which {spoken:.1f} s of speech were heard")


def prove_workers(running: Container, workers: int) -> None:
    """All of them are in the metrics; one that is killed is started again."""
    ((_, metrics),) = ask(running, "/metrics")
    must(all(f'worker="{name}"' in metrics for name in range(workers)), "a worker is not there")
    pid = int(str(lines(running, "worker.up")[0]["pid"]))
    running.run(["python", "-c", f"import os; os.kill({pid}, 9)"])
    until(lambda: len(lines(running, "worker.up")) > workers, "the worker that fell was not started again")
    running.wait_until_healthy(PATIENCE_S)
    say("a worker that was killed was started again")


def prove_drain(running: Container) -> None:
    caller, begun = Caller(running), len(lines(running, "call.started"))
    live = caller.begin("+15550101")
    until(lambda: len(lines(running, "call.started")) > begun, "the call did not begin")
    running.stop()
    until(lambda: lines(running, "gateway.draining"), "it does not drain")
    (ready, _), (health, _) = ask(running, "/ready", "/health")
    refused = Caller(running).begin("+15550100").communicate()[0]
    if live.poll() is not None:
        raise SystemExit(f"the live call was over before the rest could be asked: {live.communicate()[0]}")
    must((ready, health) == (503, 200), f"ready and healthy while it drains: {ready}, {health}")
    must('"refused": 503' in refused, f"a new call while it drains: {refused}")
    spoken = caller.heard_s(live)
    must(spoken > LONG_S, f"only {spoken:.1f} s of the live call were heard")
    must(not running.ended_with(PATIENCE_S), "it did not end with 0")
    say(f"drained: not ready, healthy, new calls refused, {spoken:.1f} s of the live one heard; ended with 0")


def mounts_in(folder: Path) -> list[str]:
    found = (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines())
    return [mount for mount in found if mount.startswith(f"{folder}/")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, metavar="DIR", help="the clean Debian; made there if it is not there yet")
    parser.add_argument("--bind", action="append", default=[], metavar="DIR", help="mount this while building")
    parser.add_argument("--copy", action="append", default=[], metavar="FILE", help="copy this into the base")
    arguments = parser.parse_args()
    if os.geteuid() or not all(map(shutil.which, ("debootstrap", "unshare", "nsenter"))):
        parser.error("needs root, debootstrap, unshare and nsenter")
    folder = Path(tempfile.mkdtemp(prefix="gateway-image-"))
    base = arguments.base or folder / "base"
    try:
        if not base.exists():
            debian(base)
        stage = build(base, folder, arguments.bind, arguments.copy)
        for mount in reversed(mounts_in(folder)):
            subprocess.run(["umount", mount], check=True)  # the image does not have what its build was given
        for workers in (1, 2):
            prove(stage, folder, workers)
    finally:
        for mount in reversed(mounts_in(folder)):
            subprocess.run(["umount", mount], check=False)
        if left := mounts_in(folder):
            say("still mounted, so left there:", *left)
        else:
            shutil.rmtree(folder)
    say("the Dockerfile is proven")
    return 0


if __name__ == "__main__":
    sys.exit(main())
