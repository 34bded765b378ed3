"""Twilio: the HTTP side."""

from __future__ import annotations

from dataclasses import dataclass

from webhooks.base import CarrierSettings, Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class TwilioSettings(CarrierSettings):
    """[carriers.twilio] in gateway.toml."""

    account_sid: str = ""  # "AC..."
    auth_token: Secret | None = None  # the primary one: signs webhooks and handshakes, and ends calls
    region: str = ""  # "ie1", "au1": where the account's calls live; empty: US1
    edge: str = ""  # "dublin", "sydney": goes with region
    auto_hang_up: bool = True

    def __post_init__(self) -> None:
        if bool(self.region) != bool(self.edge):
            raise ValueError("region and edge go together: the API's host is api.<edge>.<region>.twilio.com")
