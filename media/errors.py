"""What can go wrong, as a tree of exceptions.

GatewayError
+-- ConfigError              the operator must change something; names the TOML path and the remedy
+-- ProtocolError
|   +-- LocalProtocolError   we tried something the protocol forbids: our bug
|   +-- RemoteProtocolError  the carrier sent something it does not document
+-- ServiceError             a provider failed; `retryable` says whether to try again
"""

from __future__ import annotations


class GatewayError(Exception):
    """The root of everything the gateway raises on purpose."""


class ConfigError(GatewayError):
    """A setting is wrong. `path` is the TOML path, `problem` what is wrong, `remedy` what to do."""

    def __init__(self, path: str, problem: str, remedy: str = "") -> None:
        super().__init__(f"{path}: {problem}" + (f" ({remedy})" if remedy else ""))
        self.path, self.problem, self.remedy = path, problem, remedy


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


class ServiceError(GatewayError):
    """A provider (speech, model, REST) failed."""

    def __init__(self, service: str, problem: str, *, retryable: bool = False) -> None:
        super().__init__(f"{service}: {problem}")
        self.service, self.retryable = service, retryable
