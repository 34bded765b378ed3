"""What the carriers' REST replies share."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from webhooks.base import Outcome, OutcomeKind

LONGEST_WAIT_S = 60.0  # of Retry-After that is believed


def json_object(body: bytes) -> dict[str, Any]:
    """The object in `body`; an empty one if there is none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds in Retry-After. None if it is missing, a date, or not a number."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(seconds, LONGEST_WAIT_S) if math.isfinite(seconds) and seconds >= 0 else None


def unsuccessful(status: int, headers: Mapping[str, str], detail: str) -> Outcome:
    """What no carrier means differently: 429 and 5xx may be better later, anything else stays wrong."""
    if status == 429 or status >= 500:
        return Outcome(kind=OutcomeKind.RETRY, detail=detail, retry_after_s=retry_after_s(headers))
    return Outcome(kind=OutcomeKind.FAILED, detail=detail)
