"""Fake carriers as a configuration has them: with its credentials, codecs and rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gateway.settings import Settings
from gateway.simulator.base import CallPlan, FakeCarrier, carrier_names, fake_carrier
from gateway.tokens import TokenMint
from media.errors import ConfigError
from media.secret import Secret


def credentials(settings: Any) -> dict[str, str]:
    """What a carrier's settings say of the account, with which its fake signs; of several the first that there is."""
    if settings is None:
        return {}
    found: dict[str, str] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Secret):
            found[field.name] = value.reveal()
        elif isinstance(value, str) and value:
            found[field.name] = value
        elif isinstance(value, Mapping):
            tables = [table for table in value.values() if dataclasses.is_dataclass(table)]
            found = credentials(tables[0]) | found if tables else found
    return found


def mint_for(mint: TokenMint, carrier: FakeCarrier, bot: str = "") -> str:
    """A token such as the answer to this call's webhook would carry. `bot` is to answer, whatever was called."""
    plan = carrier.plan
    return mint.mint(
        carrier.name,
        call_id=carrier.call_id,
        from_number=plan.from_number,
        to_number=plan.to_number,
        bot=bot,
        codec=plan.send_codec,
        sample_rate=plan.sample_rate,
        direction=plan.direction,
        trial=True,
    )


def simulated(settings: Settings, name: str, plan: CallPlan) -> FakeCarrier:
    """The fake carrier `name`; what `plan` leaves open about the wire is as the gateway is configured.

    Raises ConfigError for a carrier that does not exist, or codecs that it does not have.
    """
    own = settings.carriers.get(name)
    codec = plan.send_codec or getattr(own, "send_codec", "")
    filled = dataclasses.replace(
        plan,
        send_codec=codec,
        receive_codec=plan.receive_codec or codec,
        sample_rate=plan.sample_rate or getattr(own, "sample_rate", None) or 0,
        credentials=plan.credentials or credentials(own),
    )
    try:
        return fake_carrier(name)(filled)
    except KeyError:
        raise ConfigError("--carrier", f"there is no {name!r}", f"one of {', '.join(carrier_names())}") from None
    except ValueError as exc:
        raise ConfigError("--codec or --rate", str(exc), "leave them out to use the configuration's") from None
