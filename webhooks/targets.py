"""What people write and carriers pass on: where a caller is handed over to, and what an answer URL says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from webhooks.base import WebRequest
from webhooks.characters import writable

ORDER = "gw_order"  # names, in the answer URL of a call that we place, the order that it answers

_NUMBER = re.compile(r"\+?[0-9*#]{2,30}")
_BETWEEN = re.compile(r"[\s().-]")  # what only people need


def read_target(target: str) -> tuple[str, str]:
    """The kind ("number", "sip", "url", or "" for what is none of them) and the target as carriers write it."""
    target = target.strip()
    if not writable(target):
        return "", target
    scheme = target.partition(":")[0].lower()
    if scheme in ("http", "https"):
        return "url", target
    if scheme in ("sip", "sips"):
        return "sip", target
    number = _BETWEEN.sub("", target.removeprefix("tel:"))
    return ("number", number) if _NUMBER.fullmatch(number) else ("", target)


def own_query(request: WebRequest) -> dict[str, str]:
    """What the operator, or our own order to dial, wrote behind an answer URL.

    With GET the call's own fields stand there too: those of carriers that begin theirs with a capital are left out.
    """
    pairs = parse_qsl(request.query, keep_blank_values=True)
    return {
        name: value
        for name, value in pairs
        if name and name != ORDER and not (request.method == "GET" and name[0].isupper())
    }


def order_query(order: str, parameters: Mapping[str, str]) -> str:
    """The query behind the answer URL of a call that we place, with its "?"."""
    named = {**parameters, ORDER: order} if order else parameters
    return f"?{urlencode(named)}" if named else ""


def order_of(request: WebRequest) -> str:
    """The order that an answer webhook belongs to; "" for a call that came in."""
    return dict(parse_qsl(request.query)).get(ORDER, "")
