"""A call's variables: what the carrier sent along, what the bot sets, and what was agreed to come out.

Outside the process every variable is text: that is how carriers take them (Architect), and how rules look at them.
"""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from media.errors import VariableError

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableRule:
    """[bots.<name>.output_variables.<variable>], or the same of a number: what may come out under that name."""

    required: bool = False  # a call that would end well without it ends as a failure instead
    allowed: tuple[str, ...] = ()  # the texts that it may be; empty: any
    default: str | None = None  # what comes out if the bot sets nothing

    def __post_init__(self) -> None:
        if self.default is not None and self.allowed and self.default not in self.allowed:
            raise ValueError("default must be one of allowed")


def text_of(value: Any, odd: Callable[[Any], str] | None = None) -> str | None:
    """`value` as text; None for what has no sensible text (None, NaN, a cycle, an object of some class).

    Numbers become plain decimals ("0.00001"), truth values "true" and "false", lists and mappings compact JSON, in
    which `odd` gives the text of what JSON does not know.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        if isinstance(value, int):
            return str(int(value))
        if isinstance(value, float | Decimal):
            number = Decimal(repr(float(value))) if isinstance(value, float) else value
            return format(number, "f") if number.is_finite() else None
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=odd)
    except (TypeError, ValueError, RecursionError):
        return None


class Variables(MutableMapping[str, Any]):
    """Reading looks at what the bot set first, then at what came in; what is set goes out at the end.

    Setting raises VariableError for a value that has no text, and, where rules were agreed on (`expect`), for a name
    or a value that they do not have. None takes back what was set.
    """

    def __init__(self, incoming: Mapping[str, Any] | None = None) -> None:
        self._incoming: Mapping[str, Any] = incoming or _NOTHING
        self._rules: Mapping[str, VariableRule] = {}
        self._defaults: dict[str, Any] = {}
        self.changed: dict[str, Any] = {}  # what the bot set
        self.outgoing: Mapping[str, Any] = ChainMap(self.changed, self._defaults)  # live: what goes out if it ends now

    def expect(self, rules: Mapping[str, VariableRule]) -> None:
        """From now on only these may be set. Without any, all may."""
        self._rules = rules
        self._defaults.update((name, rule.default) for name, rule in rules.items() if rule.default is not None)

    @property
    def missing(self) -> list[str]:
        """What is required and has no value yet."""
        return [name for name, rule in self._rules.items() if rule.required and self.outgoing.get(name) is None]

    def __getitem__(self, name: str) -> Any:
        return self.changed[name] if name in self.changed else self._incoming[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(name, str) or not name:
            raise VariableError(str(name), "a variable's name is text")
        if self._rules and name not in self._rules:
            raise VariableError(name, f"is none of this call's: {', '.join(self._rules)}")
        if value is None:
            self.changed.pop(name, None)
            return
        text = text_of(value)
        if text is None:
            raise VariableError(name, f"a value of type {type(value).__name__} has no text: give a str")
        allowed = self._rules[name].allowed if self._rules else ()
        if allowed and text not in allowed:
            raise VariableError(name, f"its value is none of {', '.join(allowed)}")
        self.changed[name] = value

    def __delitem__(self, name: str) -> None:
        del self.changed[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._incoming
        yield from (name for name in self.changed if name not in self._incoming)

    def __len__(self) -> int:
        return sum(1 for _ in self)
