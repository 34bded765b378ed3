"""Genesys Cloud AudioHook: the HTTP side, which is the WebSocket upgrade alone.

Source: Genesys Cloud developer centre, "AudioHook" (connection establishment, security).
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qsl, unquote

from annotated_types import Ge, Interval

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
    StandingStream,
    StreamOffer,
    Urls,
    WebRequest,
)
from webhooks.genesys_signature import LONGEST_S, Upgrade, Verdict, base_string, nonce_of, secret_key, verify
from webhooks.notes import Notes
from webhooks.signature import fingerprint, header_names, same, url_parts

log = logging.getLogger(__name__)

Channel = Literal["external", "internal", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenesysKey:
    """[carriers.genesys.keys.<name>]: one API key, as an integration in Genesys Cloud has it.

    Both secrets are read at every upgrade. Where one has several lines, each of them is good: a new secret is added,
    then typed into Genesys Cloud, then the old one is taken out.
    """

    api_key: Secret  # what Genesys sends as X-API-KEY
    client_secret: Secret | None = None  # base64, as the administrator typed it: signs the upgrade
    unsigned: bool = False  # the integration has no client secret: whoever knows the key gets in
    organization_id: str = ""  # the only organisation that may use the key; empty: any
    bot: str = ""  # for calls that neither the connector's path nor the called number gives to another
    max_calls: Annotated[int, Ge(1)] | None = None
    monitor: bool | None = None  # over the carrier's own
    channel: Channel | None = None

    def __post_init__(self) -> None:
        if self.unsigned == (self.client_secret is not None):
            raise ValueError("give client_secret, or unsigned = true where the integration has none")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenesysSettings(CarrierSettings):
    """[carriers.genesys] in gateway.toml."""

    urls_name_bots: ClassVar[bool] = True

    keys: Mapping[str, GenesysKey] = field(default_factory=dict)
    monitor: bool | None = None  # one-way sessions; None: those that offer the agent's channel
    channel: Channel | None = None  # None: the customer's; both of a monitor
    supported_languages: tuple[str, ...] | None = None  # "en-US": told to Genesys when it asks
    start_paused: bool = False  # no audio comes until the bot asks for it
    discard_to_s: Annotated[float, Interval(ge=0, le=20)] | None = None  # what was said before that is not wanted
    reconnect: bool = True  # at shutdown a monitor is asked to come again, elsewhere, instead of being ended
    closing_s: Annotated[float, Interval(ge=0, le=8)] = 3.0  # for a bot's last events after Genesys has ended the call

    def named_bots(self) -> Mapping[str, str]:
        return {f"keys.{name}.bot": key.bot for name, key in self.keys.items() if key.bot}


_IDS = ("audiohook-organization-id", "audiohook-session-id", "audiohook-correlation-id")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_REASONS: Mapping[Verdict, str] = {
    Verdict.UNSIGNED: "no-signature",
    Verdict.INVALID: "malformed",
    Verdict.UNSUPPORTED: "algorithm",
    Verdict.PRECONDITION: "not-all-signed",
    Verdict.FAILED: "bad-signature",
    Verdict.EXPIRED: "stale",
}


class GenesysHttp(CarrierHttp):
    """There are no webhooks and no REST: a call is the upgrade of its socket, and ends over that socket."""

    carrier = "genesys"
    refused_upgrade_s: ClassVar[float] = 0.5
    notes = Notes(10_000)  # by session of a monitor: up to where it was heard, for when it comes again
    streams_share_calls: ClassVar[bool] = True  # one conversation may be monitored twice, or meet two connectors

    def __init__(self, settings: GenesysSettings) -> None:
        """ConfigError: a client secret is not base64."""
        super().__init__(settings)
        self._keys = settings.keys
        self._nobody = secrets.token_bytes(32)
        for name, key in self._keys.items():
            _client_secrets(name, key)

    def authenticate_upgrade(self, request: WebRequest) -> str:
        """The signature of Genesys; of a key that is marked as unsigned, the key alone.

        To the outside every failure is the same 401, but for ids that are missing: 400.
        """
        if not all(_UUID.fullmatch(request.header(name)) for name in _IDS):
            present = {"headers": header_names(request.headers, "audiohook-")}
            raise NotAuthentic(self.carrier, "no-ids", present, status=400)
        found = self.key_of(request)
        name, key = found if found is not None else ("", None)
        upgrade = _upgrade(request)
        remark = ""
        if key is not None and key.client_secret is None:
            if "signature" in request.headers or "signature-input" in request.headers:
                remark = f"it is signed, but the key {name} is marked as unsigned"
        else:
            # An unknown key is verified too, against nobody's secret, so that the time taken tells nothing.
            known = self._secrets_of(name, key) if key is not None else (self._nobody,)
            verdicts = [verify(upgrade, secret, now=request.received) for secret in known]
            if key is None:
                raise NotAuthentic(self.carrier, "unknown-key", _checked(upgrade), status=401)
            if Verdict.VERIFIED not in verdicts:
                reason = _REASONS[verdicts[0]] if verdicts else "no-secret"
                raise NotAuthentic(self.carrier, reason, _checked(upgrade), status=401)
        organization = key.organization_id if key is not None else ""
        if organization and organization.lower() != request.header(_IDS[0]).lower():
            raise NotAuthentic(self.carrier, "other-organization", _checked(upgrade), status=401)
        return remark

    def once_of_upgrade(self, request: WebRequest) -> Once | None:
        """The signature's nonce: good once, on whichever worker it is shown."""
        found = self.key_of(request)
        if found is None or found[1].client_secret is None:
            return None
        nonce = nonce_of(_upgrade(request))
        return Once(key=f"{found[0]}:{nonce}", for_s=LONGEST_S, repeat_s=0.0, status=401)

    def standing_stream(self, request: WebRequest) -> StandingStream:
        """Connection URI and connector ID are this URL; what they name, and what the headers say."""
        name, key = self.key_of(request) or ("", None)
        parts = url_parts(request.url)
        path = unquote(parts.path.partition(f"/{self.carrier}/media")[2].strip("/"))
        organization, session, correlation = (request.header(header) for header in _IDS)
        own: dict[str, Any] = {} if key is None else {"monitor": key.monitor, "channel": key.channel}
        return StandingStream(
            connector=path.partition("/")[0],
            bot=key.bot if key is not None else "",
            group=name,
            max_calls=key.max_calls if key is not None else None,
            parameters=dict(parse_qsl(parts.query)),
            options={
                **{option: value for option, value in own.items() if value is not None},
                "organization_id": organization,
                "session_id": session,
                "connector": path,
                "correlation_id": correlation,
                "checkpoints": self.notes,
            },
            log={"session": session, "correlation": correlation, "key": name},
        )

    def key_of(self, request: WebRequest) -> tuple[str, GenesysKey] | None:
        """Name and settings of the API key that `request` shows. None: nobody has it."""
        shown = request.header("x-api-key")
        known = [(name, api_key) for name, key in self._keys.items() for api_key in self._lines(name, key.api_key)]
        matching = [name for name, api_key in known if same(api_key, shown)]  # all are compared
        return (matching[0], self._keys[matching[0]]) if matching else None

    def _secrets_of(self, name: str, key: GenesysKey) -> tuple[bytes, ...]:
        try:
            return _client_secrets(name, key)
        except ConfigError as exc:
            log.error("genesys: nobody gets in with the key %s: %s", name, exc)
            return ()

    def _lines(self, name: str, secret: Secret) -> Iterator[str]:
        try:
            yield from secret.reveal().split()
        except ConfigError as exc:
            log.error("genesys: nobody gets in with the key %s: %s", name, exc)

    # ------------------------------------------------------------ webhooks: there are none

    def authenticate(self, route: str, request: WebRequest) -> Once | None:
        raise NotAuthentic(self.carrier, "no-webhooks", status=404)

    def handle(self, route: str, request: WebRequest, urls: Urls) -> Handled:
        return Handled(answer=HttpAnswer(status=404))

    def offer(self, call: InboundCall, stream: StreamOffer) -> Handled:
        return Handled()

    def refuse(self, call: InboundCall, refusal: Refusal) -> Handled:
        return Handled(answer=HttpAnswer(status=503))


def _client_secrets(name: str, key: GenesysKey) -> tuple[bytes, ...]:
    """What the key's upgrades may be signed with. ConfigError: it cannot be read, or is not base64."""
    if key.client_secret is None:
        return ()
    try:
        return tuple(secret_key(line) for line in key.client_secret.reveal().split())
    except ValueError as exc:
        raise ConfigError(f"keys.{name}.client_secret", str(exc), "copy it from the integration") from None


def _upgrade(request: WebRequest) -> Upgrade:
    authority, _, target = request.url.partition("://")[2].partition("/")
    return Upgrade(f"/{target}", authority, request.headers.items())


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
