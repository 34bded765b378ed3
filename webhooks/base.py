"""What the carriers' HTTP sides share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from media.secret import Secret

__all__ = ["CarrierSettings", "Secret"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierSettings:
    """What every [carriers.<name>] table may say; `webhooks/<name>.py` adds to it as `<Name>Settings`.

    Fields are checked by their types: `Annotated[int, Interval(ge=..., le=...)]` for ranges, `Literal[...]` for
    choices, `Secret` for what must not stand in the file. A field without a default must be given. A rule between
    fields raises ValueError in `__post_init__`.
    """

    enabled: bool = True
    lead_ms: Annotated[int, Interval(ge=0, le=10_000)] | None = None  # audio sent ahead of real time; None: carrier's
    sample_rate: Annotated[int, Interval(ge=8000, le=48_000)] | None = None  # Hz on the wire, where there is a choice
