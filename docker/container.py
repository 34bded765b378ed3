"""An image run as a container runs, by what the kernel has for that: no engine, no daemon."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stage import Stage

UP_S = 30.0

# Of a network of its own, in which nothing else answers on the image's port.
LOOPBACK_UP = """
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING
"""


class Container:
    """Its own processes, network and mounts; the root is read-only, with tmpfs on /tmp and on the image's volumes; the
    image's user, without capabilities and without a way to new ones. A context manager: nothing is left.

    Args:
        mounts: paths of this machine by paths in the container, which it can read only.
        command: instead of the image's CMD.
        log: takes what it writes.
    """

    def __init__(self, stage: Stage, mounts: Mapping[str, Path], log: Path, command: Sequence[str] = ()) -> None:
        self.stage, self.log = stage, log
        root = shlex.quote(str(stage.root))
        steps = [shlex.join([sys.executable, "-c", LOOPBACK_UP]), f"mount --bind {root} {root}"]
        for inside, path in mounts.items():
            place = stage.root / inside.lstrip("/")
            if path.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
            there, here = shlex.quote(str(place)), shlex.quote(str(path))
            steps += [f"mount --bind {here} {there}", f"mount -o remount,bind,ro {there}"]
        steps += [f"mount -o remount,bind,ro {root}", f"mount -t proc proc {root}/proc"]
        steps.append(f"mount -t tmpfs -o mode=1777 none {root}/tmp")
        owner = f"mode=0755,uid={stage.user},gid={stage.user}"
        steps += [f"mount -t tmpfs -o {owner} none {root}{volume}" for volume in stage.volumes]
        whole = [*stage.entry, *(command or stage.command)]
        inside = shlex.join([*self._as_user(), "/bin/sh", "-c", f"cd {stage.folder} && exec {shlex.join(whole)}"])
        steps.append(f"exec chroot {root} {inside}")
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*unshare, "/bin/sh", "-c", " && ".join(steps)], stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()

    def _as_user(self) -> list[str]:
        ids = ["--reuid", self.stage.user, "--regid", self.stage.user, "--clear-groups"]
        rights = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        return ["/usr/bin/setpriv", *ids, *rights, *self.stage.clean()]

    @property
    def pid(self) -> int:
        """Of its first process, as this machine counts; 0 while there is none that is in the root."""
        try:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            return int(children[0]) if os.readlink(f"/proc/{children[0]}/root") == str(self.stage.root) else 0
        except (OSError, IndexError):
            return 0

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def root(self) -> Path:
        """The container's files, as it sees them."""
        return Path(f"/proc/{self.pid}/root")

    def processes(self) -> dict[int, str]:
        """Those in it, by the number that they have in there: what /proc says of each."""
        found = {}
        for path in self.root.joinpath("proc").glob("[0-9]*/status"):
            try:
                found[int(path.parent.name)] = path.read_text()
            except OSError:
                continue  # it has ended
        return found

    def enter(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` in it, as `docker exec` would."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--root", "--wd"]
        return [*inside, *self._as_user(), *command]

    def beside(self, command: Sequence[str]) -> list[str]:
        """The same for the image's `command` on the container's network, but as another that outlives it."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "chroot", str(self.stage.root), *self._as_user(), *command]

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.enter(command), capture_output=True, text=True)

    def wait_until_healthy(self, limit_s: float) -> None:
        """By the image's own check. SystemExit: it has ended, or does not become so."""
        end = time.monotonic() + limit_s
        while not self.pid or self.run(self.stage.check).returncode:
            if not self.running or time.monotonic() > end:
                raise SystemExit(f"it did not become healthy:\n{self.log.read_text()}")
            time.sleep(0.5)

    def stop(self) -> None:
        """Send the image's stop signal to its first process, as an engine would."""
        os.kill(self.pid, signal.Signals[self.stage.stop])

    def ended_with(self, limit_s: float) -> int:
        """Wait until it is over; its exit code. SystemExit: it still runs."""
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"it still runs after {limit_s:.0f} s:\n{self.log.read_text()}") from None
