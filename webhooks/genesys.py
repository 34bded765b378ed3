"""Genesys Cloud AudioHook: the HTTP side, which is the WebSocket upgrade alone.

Source: Genesys Cloud developer centre, "AudioHook" (connection establishment, security).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge

from media.errors import ConfigError
from webhooks.base import (
    CarrierHttp,
    CarrierSettings,
    Handled,
    HttpAnswer,
    InboundCall,
    NotAuthentic,
    Once,
    Refusal,
    Secret,
    StreamOffer,
    Urls,
    WebRequest,
)
from webhooks.genesys_signature import Nonces, Upgrade, Verdict, base_string, secret_key, verify
from webhooks.signature import fingerprint, header_names, same


@dataclass(frozen=True, slots=True, kw_only=True)
class GenesysKey:
    """[carriers.genesys.keys.<name>]: one API key, as an integration in Genesys Cloud has it."""

    api_key: Secret  # what Genesys sends as X-API-KEY
    client_secret: Secret | None = None  # base64, as the administrator typed it: signs the upgrade
    unsigned: bool = False  # the integration has no client secret: whoever knows the key gets in
    organization_id: str = ""  # the only organisation that may use the key; empty: any
    bot: str = ""  # for calls that neither the connector's path nor the called number gives to another
    max_calls: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        if self.unsigned == (self.client_secret is not None):
            raise ValueError("give client_secret, or unsigned = true where the integration has none")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenesysSettings(CarrierSettings):
    """[carriers.genesys] in gateway.toml."""

    keys: Mapping[str, GenesysKey] = field(default_factory=dict)
    monitor: bool | None = None  # one-way sessions; None: those that offer the agent's channel
    channel: Literal["external", "internal", "both"] | None = None  # None: the customer's; both of a monitor
    supported_languages: tuple[str, ...] | None = None  # "en-US": told to Genesys when it asks
    start_paused: bool = False


_IDS = ("audiohook-organization-id", "audiohook-session-id", "audiohook-correlation-id")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_REASONS: Mapping[Verdict, str] = {
    Verdict.UNSIGNED: "no-signature",
    Verdict.INVALID: "malformed",
    Verdict.UNSUPPORTED: "algorithm",
    Verdict.PRECONDITION: "not-all-signed",
    Verdict.FAILED: "bad-signature",
    Verdict.EXPIRED: "stale",
    Verdict.REPLAYED: "replayed",
}


@dataclass(frozen=True, slots=True, repr=False)
class _Known:
    name: str
    key: GenesysKey
    api_key: str
    secret: bytes | None


class GenesysHttp(CarrierHttp):
    """There are no webhooks and no REST: a call is the upgrade of its socket, and ends over that socket.

    What it remembers is of no call: the nonces of signatures, each for as long as it could be shown again.
    """

    carrier = "genesys"

    def __init__(self, settings: GenesysSettings) -> None:
        """ConfigError: a client secret is not base64."""
        super().__init__(settings)
        self._known = tuple(_known(name, key) for name, key in settings.keys.items())
        self._nobody = secrets.token_bytes(32)
        self._nonces = Nonces()

    def authenticate_upgrade(self, request: WebRequest) -> str:
        """The signature of Genesys; of a key that is marked as unsigned, the key alone.

        To the outside every failure is the same 401, but for ids that are missing: 400.
        """
        if not all(_UUID.fullmatch(request.header(name)) for name in _IDS):
            present = {"headers": header_names(request.headers, "audiohook-")}
            raise NotAuthentic(self.carrier, "no-ids", present, status=400)
        known = self._of(request)
        authority, _, target = request.url.partition("://")[2].partition("/")
        upgrade = Upgrade(f"/{target}", authority, request.headers.items())
        secret = known.secret if known is not None else self._nobody
        checked = _checked(upgrade)
        if secret is None:
            signed = "signature" in request.headers or "signature-input" in request.headers
            remark = "it is signed, but the key is marked as unsigned" if signed else ""
        else:
            # An unknown key is verified too, against nobody's secret, so that the time taken tells nothing.
            verdict = verify(upgrade, secret, now=request.received, nonces=self._nonces)
            if known is None:
                raise NotAuthentic(self.carrier, "unknown-key", checked, status=401)
            if verdict is not Verdict.VERIFIED:
                raise NotAuthentic(self.carrier, _REASONS[verdict], checked, status=401)
            remark = ""
        organization = known.key.organization_id if known is not None else ""
        if organization and organization.lower() != request.header(_IDS[0]).lower():
            raise NotAuthentic(self.carrier, "other-organization", checked, status=401)
        return remark

    def key_of(self, request: WebRequest) -> tuple[str, GenesysKey] | None:
        """Name and settings of the API key that `request` shows. None: nobody has it."""
        known = self._of(request)
        return (known.name, known.key) if known is not None else None

    def _of(self, request: WebRequest) -> _Known | None:
        shown = request.header("x-api-key")
        matching = [known for known in self._known if same(known.api_key, shown)]  # all are compared
        return matching[0] if matching else None

    # ------------------------------------------------------------ webhooks: there are none

    def authenticate(self, route: str, request: WebRequest) -> Once | None:
        raise NotAuthentic(self.carrier, "no-webhooks", status=404)

    def handle(self, route: str, request: WebRequest, urls: Urls) -> Handled:
        return Handled(answer=HttpAnswer(status=404))

    def offer(self, call: InboundCall, stream: StreamOffer) -> Handled:
        return Handled()

    def refuse(self, call: InboundCall, refusal: Refusal) -> Handled:
        return Handled(answer=HttpAnswer(status=503))


def _known(name: str, key: GenesysKey) -> _Known:
    try:
        secret = None if key.client_secret is None else secret_key(key.client_secret.reveal())
    except ValueError as exc:
        raise ConfigError(f"keys.{name}.client_secret", str(exc), "copy it from the integration") from None
    return _Known(name, key, key.api_key.reveal(), secret)


def _checked(upgrade: Upgrade) -> dict[str, str]:
    """The signed lines: names, sizes and fingerprints, and the authority, which proxies change."""
    checked = {"authority": upgrade.authority}
    try:
        lines = base_string(upgrade).split("\n")
    except ValueError:
        return checked
    for line in lines:
        name, _, value = line.partition(": ")
        checked[name.strip('"')] = f"<{len(value)}> #{fingerprint(value)}"
    return checked
