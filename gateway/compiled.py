"""Whether this is the compiled build, and what the sources tell its compiler."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr as mypyc_attr
else:

    def mypyc_attr(**told):
        """Interpreted, it means nothing."""
        return lambda cls: cls


_ONE_OF_THEM = "media.ledger"  # they are compiled together (setup.py) or not at all


def build() -> str:
    """ "compiled", or "interpreted"."""
    spec = find_spec(_ONE_OF_THEM)
    is_compiled = spec is not None and str(spec.origin).endswith(tuple(EXTENSION_SUFFIXES))
    return "compiled" if is_compiled else "interpreted"
