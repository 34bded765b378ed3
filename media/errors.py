"""What can go wrong, as a tree of exceptions.

GatewayError
+-- ConfigError              the operator must change something; names the TOML path and the remedy
|   +-- ConfigErrors         several of them at once, so that one run shows all there is to change
+-- ProtocolError
|   +-- LocalProtocolError   we tried something the protocol forbids: our bug
|   +-- RemoteProtocolError  the carrier sent something it does not document
|       +-- UnusableStreamError   ... in a format that cannot be carried: the call cannot go on
+-- ServiceError             a provider failed; `retryable` says whether to try again
+-- VariableError            a bot set a call's variable to what it may not be
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class GatewayError(Exception):
    """The root of everything the gateway raises on purpose."""


class ConfigError(GatewayError):
    """A setting is wrong. `path` is the TOML path, `problem` what is wrong, `remedy` what to do."""

    def __init__(self, path: str, problem: str, remedy: str = "") -> None:
        super().__init__(f"{path}: {problem}" + (f" ({remedy})" if remedy else ""))
        self.path, self.problem, self.remedy = path, problem, remedy

    def within(self, table: str) -> ConfigError:
        """The same error, its path read as being inside `table`."""
        return ConfigError(f"{table}.{self.path}" if self.path else table, self.problem, self.remedy)


class ConfigErrors(ConfigError):
    """Several settings are wrong: `errors`, in the order in which they were found, each one once."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        flat: dict[str, ConfigError] = {}
        for error in errors:
            for one in error.errors if isinstance(error, ConfigErrors) else (error,):
                flat.setdefault(str(one), one)
        self.errors: tuple[ConfigError, ...] = tuple(flat.values())
        first = self.errors[0]
        super().__init__(first.path, first.problem, first.remedy)
        self.args = ("\n".join(flat),)

    def within(self, table: str) -> ConfigErrors:
        return ConfigErrors(error.within(table) for error in self.errors)


class VariableError(GatewayError, ValueError):
    """A call's variable cannot be set so; `name` is the variable's. The value is not told: it may be anybody's."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"variable {name!r}: {problem}")
        self.name, self.problem = name, problem


def toml_path(table: str, key: str) -> str:
    """`key` in `table`, quoted where TOML wants it: numbers."+15550100"."""
    key = key if _BARE_KEY.fullmatch(key) else f'"{key}"'
    return f"{table}.{key}" if table else key


class ProtocolError(GatewayError):
    """A rule of a carrier's protocol was broken."""


class LocalProtocolError(ProtocolError):
    """We tried something that the protocol forbids."""


class RemoteProtocolError(ProtocolError):
    """The carrier sent a known message of the wrong shape.

    `excerpt` says what arrived in names and sizes, never in values: it may be logged.
    """

    def __init__(self, carrier: str, problem: str, excerpt: str = "") -> None:
        super().__init__(f"{carrier}: {problem}")
        self.carrier, self.problem, self.excerpt = carrier, problem, excerpt


class UnusableStreamError(RemoteProtocolError):
    """The stream is in a format that cannot be carried: decoded as another it would be noise."""


class ServiceError(GatewayError):
    """A provider (speech, model, REST) failed."""

    def __init__(self, service: str, problem: str, *, retryable: bool = False) -> None:
        super().__init__(f"{service}: {problem}")
        self.service, self.retryable = service, retryable
