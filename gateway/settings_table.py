"""The tables of settings in docs/, written from the dataclasses: `python -m gateway.settings_table docs/**/*.md`.

A table stands between `<!-- settings: carriers.twilio -->` and `<!-- end of settings -->`. What a setting means is the
comment behind its field.
"""

from __future__ import annotations

import ast
import dataclasses
import html
import inspect
import io
import json
import re
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Interval, Le, Lt, MultipleOf

from gateway import registry
from gateway.event_settings import EventSettings
from gateway.recording import RecordingSettings
from gateway.schedules import Schedule
from gateway.settings import ApiSettings, ApiToken, BotEntry, GatewaySettings, NumberEntry, VADSettings
from media.secret import Secret
from media.variables import VariableRule
from webhooks.base import CarrierSettings

_BLOCK = re.compile(r"(<!-- settings: ([\w.]+) -->\n)(.*?)(<!-- end of settings -->)", re.S)
# Fields that are not written in the table.
GIVEN: Mapping[type[Any], tuple[str, ...]] = {BotEntry: ("name", "options"), NumberEntry: ("key", "carrier", "pattern")}
_PLAIN: Mapping[Any, str] = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}


def settings_class(name: str) -> type[Any]:
    """The dataclass behind a table of gateway.toml. KeyError, LookupError: there is none."""
    known = {
        "gateway": GatewaySettings,
        "api": ApiSettings,
        "api.tokens": ApiToken,
        "events": EventSettings,
        "vad": VADSettings,
        "recording": RecordingSettings,
        "carriers": CarrierSettings,
        "bots": BotEntry,
        "numbers": NumberEntry,
        "schedules": Schedule,
        "output_variables": VariableRule,
    }
    if name in known:
        return known[name]
    if name.startswith("bots."):
        return registry.bot(name.removeprefix("bots.")).settings
    _, carrier, *rest = name.split(".")
    cls: type[Any] = registry.carrier_settings_class(carrier)
    for key in rest:
        cls = typing.get_args(_hints(cls)[key])[-1]
    return cls


def table(name: str) -> str:
    """The fields of a table of gateway.toml as Markdown; of a carrier those that not every carrier has."""
    cls = settings_class(name)
    hints = _hints(cls)
    lines = ["| setting | may be | default | |", "|---|---|---|---|"]
    comments = dict(_comments(cls))
    for field in dataclasses.fields(cls):
        if field.name in comments and field.name not in GIVEN.get(cls, ()):
            cells = (f"`{field.name}`", _kind(hints[field.name]), _default(field), comments[field.name])
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def said_of(cls: type[Any]) -> Mapping[str, str]:
    """What is said behind each field of a settings class, those that it inherits among them."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if dataclasses.is_dataclass(one):
            found |= {name: html.unescape(text.replace("\\|", "|")) for name, text in _comments(one)}
    return found


def renewed(text: str) -> str:
    """A document with its tables as they must be."""
    return _BLOCK.sub(lambda found: found[1] + table(found[2]) + found[4], text)


def _hints(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _comments(cls: type[Any]) -> Iterator[tuple[str, str]]:
    """Each field that the class itself defines, and what is said behind it."""
    source = textwrap.dedent(inspect.getsource(cls))
    said = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            text = " ".join(said[line] for line in lines if line in said)
            text = re.sub(r"\bNone\b", "unset", text).replace("|", "\\|").replace("<", "&lt;")
            yield node.target.id, text


def _kind(hint: Any) -> str:
    """What may be written for a field of this type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return f"{_kind(args[0])}{_limits(args[1:])}"
    if origin in (types.UnionType, typing.Union):
        return ", ".join(_kind(arg) for arg in args if arg is not type(None))
    if origin is typing.Literal:
        return ", ".join(f"`{json.dumps(arg)}`" for arg in args)
    if origin is tuple:
        kind = _kind(args[0])
        return f"array of {'secrets' if args[0] is Secret else 'texts' if kind == 'text' else kind}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "table of secrets" if args[-1] is Secret else "tables"
    if hint is Secret:
        return "secret"
    return _PLAIN.get(hint, "text")


def _limits(rules: tuple[Any, ...]) -> str:
    said = []
    for rule in rules:
        if isinstance(rule, Interval):
            low, high = rule.ge if rule.ge is not None else rule.gt, rule.le if rule.le is not None else rule.lt
            said.append(f"{low} to {high}" if high is not None else f"from {low}")
        elif isinstance(rule, Ge):
            said.append(f"from {rule.ge}")
        elif isinstance(rule, Gt):
            said.append(f"more than {rule.gt}")
        elif isinstance(rule, Le):
            said.append(f"up to {rule.le}")
        elif isinstance(rule, Lt):
            said.append(f"less than {rule.lt}")
        elif isinstance(rule, MultipleOf):
            said.append(f"a multiple of {rule.multiple_of}")
    return f", {', '.join(said)}" if said else ""


def _default(field: Any) -> str:
    if field.default is dataclasses.MISSING:
        return "" if field.default_factory is not dataclasses.MISSING else "must be given"
    if field.default is None:
        return ""
    return f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
