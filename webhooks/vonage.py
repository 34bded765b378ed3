"""Vonage: the settings of its HTTP side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from webhooks.base import CarrierSettings, Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class VonageSettings(CarrierSettings):
    """[carriers.vonage] in gateway.toml."""

    product: Literal["voice", "video"] = "voice"  # Voice API, or the Video API's Audio Connector
    application_id: str = ""
    private_key: Secret | None = None  # of the application (PEM): signs what we ask of the REST API
    api_key: str = ""  # of the account: names the signature secret
    signature_secret: Secret | None = None  # of the account; neither the API secret nor the private key
    sample_rate: Literal[8000, 16000, 24000] | None = None  # asked for in the answer; None: 16000
    auto_hang_up: bool = True

    def __post_init__(self) -> None:
        if self.private_key is not None and not self.application_id:
            raise ValueError("private_key needs application_id: the key belongs to an application")
