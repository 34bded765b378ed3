"""Functions that a model may call: their schemas, and plain Python functions as schemas."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True, kw_only=True)
class FunctionSchema:
    """One function: its arguments as JSON Schema `properties`, and which of them are `required`."""

    name: str
    description: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    required: Sequence[str] = ()

    def to_default_dict(self) -> dict[str, Any]:
        """As OpenAI's chat completions write it."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": self.parameters,
            },
        }

    @property
    def parameters(self) -> dict[str, Any]:
        return {"type": "object", "properties": dict(self.properties), "required": list(self.required)}


Tool = FunctionSchema | Callable[..., Any]


class ToolsSchema:
    """What a context offers.

    Args:
        standard_tools: schemas, and direct functions, whose first parameter is the call's FunctionCallParams.
        custom_tools: by vendor, tools in that vendor's own form.
    """

    def __init__(
        self, standard_tools: Sequence[Tool] = (), custom_tools: Mapping[Any, Sequence[Any]] | None = None
    ) -> None:
        self.functions: dict[str, Callable[..., Any]] = {}  # direct functions, by name
        self.standard_tools: list[FunctionSchema] = []
        for tool in standard_tools:
            if isinstance(tool, FunctionSchema):
                self.standard_tools.append(tool)
            else:
                schema = schema_of(tool)
                self.functions[schema.name] = tool
                self.standard_tools.append(schema)
        self.custom_tools: Mapping[Any, Sequence[Any]] = custom_tools or {}

    @property
    def names(self) -> list[str]:
        return [tool.name for tool in self.standard_tools]


# ---------------------------------------------------------------- direct functions

_ARGUMENT = re.compile(r"^\s*(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_SECTION = re.compile(r"^\s*(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?)\s*:\s*$")

_JSON_TYPES: Mapping[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema_of(function: Callable[..., Any], *, skip: int = 1) -> FunctionSchema:
    """The schema of a function from its signature and its docstring (Google's style); `skip` parameters are ours.

    Raises TypeError for a parameter that JSON cannot carry.
    """
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function)
    what, described = _docstring(inspect.getdoc(function) or "")
    properties: dict[str, Any] = {}
    required = []
    for name, parameter in list(signature.parameters.items())[skip:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"{function.__name__}: a model cannot give {parameter}")
        schema = _json_schema(hints.get(name, str), f"{function.__name__}({name})")
        if text := described.get(name):
            schema["description"] = text
        properties[name] = schema
        if parameter.default is parameter.empty:
            required.append(name)
    return FunctionSchema(name=function.__name__, description=what, properties=properties, required=required)


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """What the function does, and what is said of each argument."""
    what: list[str] = []
    described: dict[str, str] = {}
    section, argument = "", ""
    for line in text.splitlines():
        if match := _SECTION.match(line):
            section, argument = match[1], ""
        elif not section:
            what.append(line)
        elif section.startswith(("Arg", "Param")):
            if match := _ARGUMENT.match(line):
                argument = match[1]
                described[argument] = match[2].strip()
            elif argument and line.strip():
                described[argument] = f"{described[argument]} {line.strip()}".strip()
    return " ".join(" ".join(what).split()), described


def _json_schema(hint: Any, where: str) -> dict[str, Any]:
    if hint in _JSON_TYPES:
        return {"type": _JSON_TYPES[hint]}
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        options = [arg for arg in args if arg is not type(None)]
        if len(options) == 1:
            return _json_schema(options[0], where)
        return {"anyOf": [_json_schema(option, where) for option in options]}
    if origin is Literal:
        return {"type": _JSON_TYPES[type(args[0])], "enum": list(args)}
    if origin is typing.Annotated:
        return _json_schema(args[0], where)
    if hint in (list, tuple, set) or origin in (list, tuple, set, Sequence):
        items = [arg for arg in args if arg is not Ellipsis]
        return {"type": "array", "items": _json_schema(items[0], where) if items else {}}
    if hint in (dict, Mapping) or origin in (dict, Mapping):
        return {"type": "object"}
    if isinstance(hint, type) and issubclass(hint, Enum):
        values = [item.value for item in hint]
        return {"type": _JSON_TYPES.get(type(values[0]), "string"), "enum": values}
    if typing.is_typeddict(hint):
        hints = typing.get_type_hints(hint)
        properties = {name: _json_schema(kind, f"{where}.{name}") for name, kind in hints.items()}
        return {"type": "object", "properties": properties, "required": sorted(hint.__required_keys__)}
    if hint is Any:
        return {}
    raise TypeError(f"{where}: {hint!r} has no counterpart in JSON")
