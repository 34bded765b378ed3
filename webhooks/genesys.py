"""Genesys Cloud AudioHook: the settings of its HTTP side, which is the WebSocket upgrade alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge

from webhooks.base import CarrierSettings, Secret


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
