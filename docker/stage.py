"""The Dockerfile's instructions, carried out in a root file system without Docker."""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"

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

    def carry_out(self, word: str, rest: str, stages: Mapping[str, Stage]) -> None:
        """One instruction; `stages` are those before, by name. SystemExit: it is not known here."""
        match word:
            case "WORKDIR":
                self.folder = rest
                (self.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(rest.split(), stages)
            case "RUN":
                inside = f"cd {shlex.quote(self.folder)} && {rest}"
                command = ["chroot", str(self.root), *self.clean(), "/bin/sh", "-c", inside]
                subprocess.run(command, check=True)
            case "ENV":
                for assignment in shlex.split(rest):
                    name, _, value = assignment.partition("=")
                    for known, what in self.environment.items():
                        value = value.replace(f"${known}", what)
                    self.environment[name] = value
            case "USER":
                self.user = rest
            case "VOLUME":
                self.volumes.append(rest)
            case "STOPSIGNAL":
                self.stop = rest
            case "HEALTHCHECK":
                self.check = json.loads(rest.partition("CMD")[2])
            case "ENTRYPOINT":
                self.entry = json.loads(rest)
            case "CMD":
                self.command = json.loads(rest)
            case "EXPOSE":
                pass
            case _:
                raise SystemExit(f"{word} is not known here")

    def clean(self) -> list[str]:
        """What a command begins with that gets the image's environment, and nothing of ours."""
        return ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in self.environment.items())]

    def _copy(self, words: Sequence[str], stages: Mapping[str, Stage]) -> None:
        *sources, target = words
        base, ignored = ROOT, ignores(DOCKERFILE.with_name("Dockerfile.dockerignore").read_text())
        if sources[0].startswith("--from="):
            base, ignored = stages[sources.pop(0).removeprefix("--from=")].root, ignores("")
        into = self.root / os.path.join(self.folder, target).lstrip("/")
        for source in sources:
            path = base / source.lstrip("/")
            whole = into / path.name if target.endswith("/") else into
            if ignored(path.relative_to(base).as_posix()):
                raise SystemExit(f"{source} is copied, and Dockerfile.dockerignore keeps it out")
            if path.is_dir():

                def skipped(folder: str, names: list[str], base: Path = base) -> set[str]:
                    return {name for name in names if ignored(Path(folder, name).relative_to(base).as_posix())}

                shutil.copytree(path, whole, symlinks=True, dirs_exist_ok=True, ignore=skipped)
            else:
                whole.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, whole)


def instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def ignores(text: str) -> Callable[[str], bool]:
    """Whether a path of the build's context stays out, by a .dockerignore: the last pattern that fits counts."""
    patterns = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]

    def fits(path: str, pattern: str) -> bool:
        """The path or a folder that it is in."""
        parts = path.split("/")
        heads = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        if pattern.startswith("**/"):
            return any(fnmatch.fnmatch(part, pattern[3:]) for part in parts)
        return any(head.count("/") == pattern.count("/") and fnmatch.fnmatch(head, pattern) for head in heads)

    def ignored(path: str) -> bool:
        out = False
        for pattern in patterns:
            if fits(path, pattern.removeprefix("!")):
                out = not pattern.startswith("!")
        return out

    return ignored
