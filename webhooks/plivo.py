"""Plivo: the settings of its HTTP side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from webhooks.base import CarrierSettings, Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class PlivoSettings(CarrierSettings):
    """[carriers.plivo] in gateway.toml. A stream has one codec both ways."""

    auth_id: str = ""  # 20 characters, MA... or SA... for a subaccount
    auth_token: Secret | None = None  # REST, and the webhooks' V3 signature
    send_codec: Literal["PCMU", "L16"] = "PCMU"
    auto_hang_up: bool = True
    handshake_signature: Literal["off", "warn", "enforce"] = "warn"  # of the media socket; its token is always enforced

    def __post_init__(self) -> None:
        rates = (8000, 16000) if self.send_codec == "L16" else (8000,)
        if self.sample_rate is not None and self.sample_rate not in rates:
            raise ValueError(f"sample_rate of {self.send_codec} must be {' or '.join(map(str, rates))}")
