"""Exotel: the settings of its HTTP side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval, MultipleOf

from webhooks.base import CarrierSettings, Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ExotelSettings(CarrierSettings):
    """[carriers.exotel] in gateway.toml."""

    account_sid: str = ""
    api_key: Secret | None = None  # of the REST API, which places calls; answering them needs neither
    api_token: Secret | None = None
    region: Literal["in", "sg"] = "in"  # of the account: Mumbai or Singapore
    basic_user: str = ""  # of the wss://USER:PASSWORD@... URL in the applet; Exotel sends both as HTTP Basic
    basic_password: Secret | None = None
    sample_rate: Literal[8000, 16000, 24000] | None = None  # asked for in the URL; None: 8000
    applet: Literal["voicebot", "stream"] = "voicebot"  # "stream": listen only, Exotel takes no audio back
    packet_ms: Annotated[int, Interval(ge=0, le=1000), MultipleOf(20)] = 0  # in one message; 0: as Exotel advises
    outbound_media_extras: bool = False  # number our messages; some Connect streams are said to end early without
    auto_hang_up: bool = True

    def __post_init__(self) -> None:
        if bool(self.basic_user) != (self.basic_password is not None):
            raise ValueError("basic_user and basic_password go together")
        if (self.api_key is None) != (self.api_token is None):
            raise ValueError("api_key and api_token go together")
