"""Reading what carriers wrote: numbers that come as strings, strings that come as numbers, keys of a telephone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from media.frames import KeypadEntry

Json = dict[str, Any]

_KEYS: Mapping[str, KeypadEntry] = {key.value: key for key in KeypadEntry}


def number(value: Any) -> int | None:
    """A whole number that came as one, as a float or as a string; None for anything else."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    if isinstance(value, float):
        return int(value) if value == value and abs(value) < 2**53 else None
    if isinstance(value, str) and len(value) < 40:
        try:
            return int(value)
        except ValueError:
            return _spelled(value)
    return None


def _spelled(value: str) -> int | None:
    """ "1e3" and the like, as the typed readers take them."""
    try:
        return msgspec.convert(value, int, strict=False)
    except msgspec.ValidationError:
        return None


def text(value: Any) -> str:
    """A string that may have come as a number; empty for anything else."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def keypad_entry(digit: str) -> KeypadEntry | None:
    """The key that a carrier calls `digit`; None if no telephone has it."""
    return _KEYS.get(digit.upper())


def outline(data: Any) -> str:
    """A message in names and sizes, for the log: never a value."""
    if isinstance(data, dict):
        return f"keys {', '.join(sorted(map(str, data)))}"[:120]
    if isinstance(data, str | bytes):
        return f"{type(data).__name__} of {len(data)}"
    return type(data).__name__
