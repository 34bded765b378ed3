"""Carry out the Dockerfile without Docker, and run what comes out as a container would.

A clean Debian by debootstrap stands for the base image; each instruction is carried out in a chroot of it. The result
runs as the image's user on a read-only root, with nothing to write to but /tmp and the image's volume; it must become
healthy by the image's own check, answer, and end with 0 at the image's stop signal.

Needs root, debootstrap, unshare and nsenter (Debian: apt-get install debootstrap).

python docker/prove.py
python docker/prove.py --bind /opt/wheels --copy /etc/pip.conf      what the build needs of this machine to install
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUITE = "bookworm"  # of which python:3.11-slim is made
PACKAGES = "python3,python3-dev,python3-venv,python3-pip,ca-certificates"  # the headers are in python:3.11-slim, too
HEALTHY_S = 60.0
STOP_S = 60.0
# Of a network of its own, in which nothing else answers on the image's port.
LOOPBACK_UP = """
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING
"""

Instruction = tuple[str, str]


class Stage:
    """A root file system and what the instructions said of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"}
        self.folder, self.user, self.stop = "/", "0", "SIGTERM"
        self.volumes: list[str] = []
        self.entry: list[str] = []
        self.command: list[str] = []
        self.check: list[str] = []


def instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def say(*words: object) -> None:
    print(*words, flush=True)


def chroot(stage: Stage, command: Sequence[str], *, user: str = "0", cwd: str = "/") -> list[str]:
    inside = f"cd {shlex.quote(cwd)} && exec {shlex.join(command)}"
    environment = [f"{name}={value}" for name, value in stage.environment.items()]
    who = ["--userspec", f"{user}:{user}"] if user != "0" else []
    return ["chroot", *who, str(stage.root), "/usr/bin/env", "-i", *environment, "/bin/sh", "-c", inside]


def carry_out(stage: Stage, stages: dict[str, Stage], word: str, rest: str) -> None:
    match word:
        case "WORKDIR":
            stage.folder = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        case "COPY":
            *sources, target = rest.split()
            base = ROOT
            if sources[0].startswith("--from="):
                base = stages[sources.pop(0).removeprefix("--from=")].root
            into = stage.root / os.path.join(stage.folder, target).lstrip("/")
            for source in sources:
                path = base / source.lstrip("/")
                whole = into / path.name if target.endswith("/") else into
                if path.is_dir():
                    skip = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(path, whole, symlinks=True, dirs_exist_ok=True, ignore=skip)
                else:
                    whole.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, whole)
        case "RUN":
            subprocess.run(chroot(stage, ["/bin/sh", "-c", rest], cwd=stage.folder), check=True)
        case "ENV":
            for assignment in shlex.split(rest):
                name, _, value = assignment.partition("=")
                for known, what in stage.environment.items():
                    value = value.replace(f"${known}", what)
                stage.environment[name] = value
        case "USER":
            stage.user = rest
        case "VOLUME":
            stage.volumes.append(rest)
        case "STOPSIGNAL":
            stage.stop = rest
        case "HEALTHCHECK":
            stage.check = json.loads(rest.partition("CMD")[2])
        case "ENTRYPOINT":
            stage.entry = json.loads(rest)
        case "CMD":
            stage.command = json.loads(rest)
        case "EXPOSE":
            pass
        case _:
            raise SystemExit(f"{word} is not known here")


def build(folder: Path, binds: Sequence[str], copies: Sequence[str]) -> Stage:
    base = folder / "base"
    say("debootstrap", SUITE)
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(base)], check=True)
    (base / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for name in copies:
        shutil.copy2(name, base / name.lstrip("/"))
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for word, rest in instructions((ROOT / "docker" / "Dockerfile").read_text()):
        say(word, rest[:100])
        if word == "FROM":
            name = rest.split()[-1]
            stage = stages[name] = Stage(folder / f"stage-{len(stages)}")
            subprocess.run(["cp", "--archive", str(base), str(stage.root)], check=True)
            stage.environment |= {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
            for bind in binds:
                inside = stage.root / bind.lstrip("/")
                inside.mkdir(parents=True, exist_ok=True)
                subprocess.run(["mount", "--bind", bind, str(inside)], check=True)
        else:
            assert stage is not None
            carry_out(stage, stages, word, rest)
    assert stage is not None
    return stage


def prove(stage: Stage) -> None:
    """Run it as a container with a read-only root would. SystemExit: it is not as it must be."""
    steps = [shlex.join([sys.executable, "-c", LOOPBACK_UP])]
    steps += [f"mount --bind {stage.root} {stage.root}", f"mount -o remount,bind,ro {stage.root}"]
    for place in ("/tmp", *stage.volumes):
        steps.append(f"mount -t tmpfs -o mode=1777 none {stage.root}{place}")
    stage.environment |= {"GATEWAY_SECRET": "only for this proof, and long", "TWILIO_AUTH_TOKEN": "made up"}
    command = [*stage.entry, *stage.command]
    inside = chroot(stage, command, user=stage.user, cwd=stage.folder)
    script = " && ".join([*steps, f"exec {shlex.join(inside)}"])
    say("run", shlex.join(command))
    process = subprocess.Popen(["unshare", "--mount", "--net", "/bin/sh", "-c", script])
    try:
        end = time.monotonic() + HEALTHY_S
        check = ["nsenter", f"--net=/proc/{process.pid}/ns/net", *chroot(stage, stage.check, user=stage.user)]
        while not is_apart(process.pid) or subprocess.run(check, stderr=subprocess.DEVNULL).returncode:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit("it did not become healthy")
            time.sleep(0.5)
        say("healthy")
        told = chroot(stage, [stage.entry[-1], "version"], user=stage.user)
        if "build compiled" not in subprocess.run(told, capture_output=True, text=True, check=True).stdout:
            raise SystemExit("it is not the compiled build")
        (owner,) = subprocess.run(
            ["ps", "-o", "uid=", "-p", str(process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        if owner != stage.user:
            raise SystemExit(f"it runs as {owner}, not as {stage.user}")
        process.send_signal(signal.Signals[stage.stop])
        if process.wait(STOP_S):
            raise SystemExit(f"it ended with {process.returncode}")
        say("ended with 0 at", stage.stop)
    finally:
        process.kill()
        process.wait()


def is_apart(pid: int) -> bool:
    """Whether it has its own network already; until then our own would answer."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    except OSError:  # it is gone
        return False


def mounts_in(folder: Path) -> list[str]:
    found = (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines())
    return [mount for mount in found if mount.startswith(f"{folder}/")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bind", action="append", default=[], metavar="DIR", help="mount this while building")
    parser.add_argument("--copy", action="append", default=[], metavar="FILE", help="copy this into the base")
    arguments = parser.parse_args()
    if os.geteuid() or not shutil.which("debootstrap") or not shutil.which("unshare"):
        parser.error("needs root, debootstrap and unshare")
    folder = Path(tempfile.mkdtemp(prefix="gateway-image-"))
    try:
        stage = build(folder, arguments.bind, arguments.copy)
        prove(stage)
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
