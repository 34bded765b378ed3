"""Which workers are provably gone, on this machine: each holds a lock on a file for as long as its process lives.

A lease only says that a worker has not been heard of for a while. A lock that can be had says more: the kernel gives
it back when the process ends, however it ends. So whoever starts again after a crash need not wait for the lease.
The file lies beside the database; who shares that with another machine, or has none, learns by the leases.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl


class Lives:
    """The lock files beside one database. OSError is not let out: without files there are still the leases.

    Args:
        beside: path of the database; "": there is none on this machine.
    """

    def __init__(self, beside: str) -> None:
        self._beside = Path(beside) if beside and sys.platform != "win32" else None
        self._held: dict[str, int] = {}  # file descriptors

    def _path(self, worker: str) -> Path:
        assert self._beside is not None
        return self._beside.with_name(f"{self._beside.name}-worker-{worker}")

    def begin(self, worker: str) -> None:
        """From now on, until the process ends, nobody can have the lock of `worker`."""
        if self._beside is None:
            return
        with contextlib.suppress(OSError):
            for _ in range(3):
                held = os.open(self._path(worker), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                if _lock(held) and os.fstat(held).st_nlink:
                    self._held[worker] = held
                    return
                os.close(held)  # somebody has just taken it for a dead one's, and deletes it

    def end(self, worker: str) -> None:
        held = self._held.pop(worker, None)
        if held is not None:
            with contextlib.suppress(OSError):
                self._path(worker).unlink()
            os.close(held)

    @contextlib.contextmanager
    def gone(self) -> Iterator[list[str]]:
        """The workers whose processes have ended without a word. Their files are deleted if no error is raised."""
        found: dict[str, int] = {}
        if self._beside is not None:
            with contextlib.suppress(OSError):
                for path in self._beside.parent.iterdir():
                    front, found_it, worker = path.name.partition(f"{self._beside.name}-worker-")
                    if front or not found_it or worker in self._held:
                        continue
                    with contextlib.suppress(OSError):
                        held = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                        if _lock(held):
                            found[worker] = held
                        else:
                            os.close(held)
        try:
            yield sorted(found)
            for worker in found:
                with contextlib.suppress(OSError):
                    self._path(worker).unlink()
        finally:
            for held in found.values():
                os.close(held)


def _lock(file: int) -> bool:
    """Whether nobody had it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
