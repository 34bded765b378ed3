"""A secret as the configuration names it: where it is, never what it is.

It lives in `media` because carriers' settings (webhooks) and bots' settings (bots) both hold secrets, and neither
may import the other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from media.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Secret:
    """`{ env = "NAME" }` or `{ file = "path" }` in gateway.toml.

    The value is read when it is asked for and not kept, so repr, equality, copies and logs hold only the name.
    """

    env: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        if bool(self.env) == bool(self.file):
            raise ValueError('write { env = "NAME" } or { file = "path" }, exactly one of the two')

    def __str__(self) -> str:
        return f"environment variable {self.env}" if self.env else f"file {self.file}"

    def reveal(self) -> str:
        """The secret itself.

        Raises:
            ConfigError: the variable is not set or empty, or the file is empty or cannot be read.
        """
        if self.env:
            value = os.environ.get(self.env, "")
            if not value:
                raise ConfigError(str(self), "is not set", f"export {self.env}=... before starting the gateway")
            return value
        try:
            # utf-8-sig: editors on Windows put a byte order mark before the first line.
            value = Path(self.file).read_text(encoding="utf-8-sig").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "is not UTF-8 text"
            raise ConfigError(str(self), f"cannot be read: {reason}", "check the path and who may read it") from None
        if not value:
            raise ConfigError(str(self), "is empty", "write the secret into it")
        return value

    def problem(self) -> str:
        """Why `reveal` would fail, in words; empty if it would not."""
        try:
            self.reveal()
        except ConfigError as exc:
            return f"{self} {exc.problem}"
        return ""


class GivenSecret(Secret):
    """A secret that a program holds already. It is not shown either."""

    __slots__ = ("_value",)
    _value: str

    def __init__(self, value: str) -> None:
        object.__setattr__(self, "env", "")
        object.__setattr__(self, "file", "")
        object.__setattr__(self, "_value", value)

    def __str__(self) -> str:
        return "a given secret"

    def __repr__(self) -> str:
        return "GivenSecret()"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def reveal(self) -> str:
        return self._value
