"""What a local process costs, from /proc. Elsewhere than on Linux nothing is known, and None says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process and its children."""

    cpu_s: float
    rss: int  # bytes


def usage(pid: int) -> Usage | None:
    """None: there is no such process, or no /proc."""
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    cpu, rss, found = 0.0, 0, False
    for each in _family(pid):
        try:
            fields = (_PROC / str(each) / "stat").read_text().rpartition(")")[2].split()
            rss += int((_PROC / str(each) / "statm").read_text().split()[1]) * page
        except (OSError, IndexError, ValueError):
            continue
        cpu += (int(fields[11]) + int(fields[12])) / tick
        found = True
    return Usage(cpu, rss) if found else None


def _family(pid: int) -> Iterator[int]:
    """`pid` and all processes that it started."""
    yield pid
    try:
        lists = [path.read_text().split() for path in (_PROC / str(pid) / "task").glob("*/children")]
    except OSError:
        return
    for children in lists:
        for child in children:
            yield from _family(int(child))


def listener(port: int) -> int | None:
    """The process that listens on `port` of this machine; of several the one that started the others."""
    inodes = {
        fields[9]
        for name in ("tcp", "tcp6")
        for fields in (line.split() for line in _lines(_PROC / "net" / name))
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
    }
    holders = sorted(int(path.name) for path in _PROC.glob("[0-9]*") if inodes & _sockets(path))
    for pid in holders:
        if not any(pid in set(_family(other)) for other in holders if other != pid):
            return pid
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()[1:]
    except OSError:
        return []


def _sockets(process: Path) -> set[str]:
    found = set()
    try:
        for descriptor in (process / "fd").iterdir():
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass
    return found
