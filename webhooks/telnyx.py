"""Telnyx: the settings of its HTTP side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from webhooks.base import CarrierSettings, Secret

STREAM_RATES = (8000, 16000, 22050, 24000, 48000)


@dataclass(frozen=True, slots=True, kw_only=True)
class TelnyxSettings(CarrierSettings):
    """[carriers.telnyx] in gateway.toml.

    `send_codec` is what we ask Telnyx to take. What we receive, Telnyx tells; `receive_codec` is what we ask for,
    and "default" leaves the call its own.
    """

    api_key: Secret | None = None  # REST: hang-up, transfer, dial
    public_key: str = ""  # base64 of the account's Ed25519 key, by which webhooks are verified
    connection_id: str = ""  # of the application that places outbound calls
    control: Literal["texml", "call_control"] = "texml"
    receive_codec: Literal["default", "PCMU", "PCMA"] = "default"
    send_codec: Literal["PCMU", "PCMA", "L16"] = "PCMU"
    l16_byte_order: Literal["big", "little"] = "big"  # RFC 3551 says big; some streams were seen in little
    auto_hang_up: bool = True

    def __post_init__(self) -> None:
        if self.control == "call_control" and self.api_key is None:
            raise ValueError("control = 'call_control' needs api_key: its calls are answered by the REST API")
        if self.sample_rate is not None and self.sample_rate not in STREAM_RATES:
            raise ValueError(f"sample_rate must be one of {', '.join(map(str, STREAM_RATES))}, got {self.sample_rate}")
        if self.send_codec != "L16" and self.sample_rate not in (None, 8000):
            raise ValueError(f"{self.send_codec} has 8000 Hz only; send_codec = 'L16' has {self.sample_rate}")
        if self.send_codec == "L16" and self.control == "texml" and self.sample_rate not in (None, 8000, 16000, 24000):
            raise ValueError("a TeXML stream has 8000, 16000 or 24000 Hz; control = 'call_control' has the others")
