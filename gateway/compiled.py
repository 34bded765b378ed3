"""Whether this is the compiled build."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

_ONE_OF_THEM = "media.ledger"  # they are compiled together (setup.py) or not at all


def build() -> str:
    """ "compiled", or "interpreted"."""
    spec = find_spec(_ONE_OF_THEM)
    is_compiled = spec is not None and str(spec.origin).endswith(tuple(EXTENSION_SUFFIXES))
    return "compiled" if is_compiled else "interpreted"
