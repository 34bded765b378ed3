"""A TOML table as a dataclass, and what is wrong with it in the words of the file."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gateway import registry
from media.errors import ConfigError, toml_path
from media.secret import Secret

Table = Mapping[str, Any]


_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def adapter(cls: Any) -> TypeAdapter[Any]:
    """Checks an array of one `cls`."""
    if cls not in _adapters:
        # A plain dataclass takes its configuration from what holds it: so settings classes need not know pydantic.
        _adapters[cls] = TypeAdapter(tuple[cls], config=ConfigDict(extra="forbid", strict=True))
    return _adapters[cls]


def build(
    cls: type[Any],
    table: Table,
    path: str,
    base_dir: Path,
    found: list[ConfigError],
    *,
    given: Table = MappingProxyType({}),
    also: Iterable[str] = (),
) -> Any:
    """`table` as a `cls`; None after what is wrong was added to `found`.

    Args:
        given: fields that do not come from the table, and may not.
        also: further keys that may stand in the table, for the suggestions.

    JSON is the way in because pydantic's strict mode then takes what TOML can write (an array for a tuple, a string
    for an enum or a path) and nothing that only looks alike ("8080" for 8080).
    """
    known = ({field.name for field in dataclasses.fields(cls)} | set(also)) - given.keys()
    before = len(found)
    found += [_unknown(toml_path(path, key), key, known) for key in table if key in given]
    data = json.loads(json.dumps({**table, **given}, default=str))
    try:
        (value,) = adapter(cls).validate_json(json.dumps([data]))
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
        found += _explain(errors, cls, data, path, known)
        wrong = {error["loc"][1] for error in errors if len(error["loc"]) > 1}
        found += _checked_by_itself(cls, {key: value for key, value in data.items() if key not in wrong}, path)
        return None
    except ConfigError as exc:  # of a settings class that checks itself
        found.append(exc.within(path))
        return None
    return _map_secrets(value, lambda secret: _anchored(secret, base_dir)) if len(found) == before else None


def _checked_by_itself(cls: type[Any], table: Table, path: str) -> Iterator[ConfigError]:
    """What the class has against `table`, from which all was taken that is wrong in kind: else that would hide it."""
    try:
        adapter(cls).validate_json(json.dumps([table]))
    except ValidationError as exc:
        own = [error for error in exc.errors(include_url=False) if error["type"] == "value_error"]
        yield from _explain(own, cls, table, path, ())
    except ConfigError as exc:
        yield exc.within(path)


def _anchored(secret: Secret, base_dir: Path) -> Secret:
    return Secret(file=str(base_dir / secret.file)) if secret.file else secret


def _map_secrets(value: Any, change: Callable[[Secret], Secret]) -> Any:
    """`value` with each Secret in it changed; the same object where there is none."""
    if isinstance(value, Secret):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {}
        for field in dataclasses.fields(value):
            old = getattr(value, field.name)
            if field.init and (new := _map_secrets(old, change)) is not old:
                changed[field.name] = new
        return dataclasses.replace(value, **changed) if changed else value
    if isinstance(value, tuple | list):
        items = [_map_secrets(item, change) for item in value]
        return type(value)(items) if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if isinstance(value, dict):
        table = {key: _map_secrets(item, change) for key, item in value.items()}
        return table if any(table[key] is not value[key] for key in table) else value
    return value


def secrets_in(value: Any, path: str) -> Iterator[tuple[str, Secret]]:
    """Each Secret in `value`, with its TOML path."""
    if isinstance(value, Secret):
        yield path, value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from secrets_in(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from secrets_in(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from secrets_in(item, toml_path(path, key))


# ---------------------------------------------------------------- saying what is wrong

# What pydantic calls a value of the wrong kind, and what the file should have there.
_KINDS = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "an array",
    "list_type": "an array",
    "dict_type": "a table",
    "dataclass_type": "a table",
    "path_type": "a path",
}
# Rules with one number, which is in `ctx` by the rule's short name.
_RULES = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
    "multiple_of": ("a multiple of", "multiple_of"),
}
_SECRET_REMEDY = 'write { env = "NAME" } or { file = "path" }: a secret does not belong into this file'

Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """One of pydantic's errors and where in the table it is."""

    at: Location
    union: Location | None  # where a union was tried, if on the way
    error: Mapping[str, Any]

    @property
    def wrong_kind(self) -> bool:
        """The value is not even of the kind that this member of the union takes."""
        return self.union == self.at and self.error["type"] in _KINDS


def _explain(
    errors: Iterable[Any], cls: type[Any], table: Table, path: str, known: Iterable[str]
) -> Iterator[ConfigError]:
    """pydantic's errors in the words of the file. Text is not repeated: it may be a secret."""
    located = [_locate(error, table) for error in errors]
    # An array of which no item is right counts as empty, too.
    items = {one.at[:-1] for one in located if one.at}
    located = [one for one in located if one.error["type"] != "too_short" or one.at not in items]
    # Where a member of a union takes values of this kind, its complaint is the useful one; where none does, they
    # are said together.
    hopeful = {one.union for one in located if one.union is not None and not one.wrong_kind}
    kinds: dict[Location, list[str]] = {}
    for one in located:
        if one.wrong_kind and one.at not in hopeful:
            kinds.setdefault(one.at, []).append(_KINDS[one.error["type"]])
    for one in located:
        where = path
        for key in one.at:
            where = f"{where}[{key}]" if isinstance(key, int) else toml_path(where, key)
        if not one.wrong_kind:
            yield _say(one, where, cls, known)
        elif one.at in kinds:
            wanted = " or ".join(dict.fromkeys(kinds.pop(one.at)))
            yield ConfigError(where, f"must be {wanted}, got {kind_of(one.error['input'])}")


def _locate(error: Mapping[str, Any], table: Table) -> _Found:
    """Follow pydantic's location through the table; what is not in it names a member of a union."""
    at: Location = ()
    union: Location | None = None
    here: Any = table
    loc: Sequence[str | int] = error["loc"][1:]
    for index, key in enumerate(loc):
        found = here.get(key, here) if isinstance(here, dict) else _item(here, key)
        if found is not here:
            here, at = found, (*at, key)
        elif error["type"] == "missing" and index == len(loc) - 1:
            at = (*at, key)
        else:
            union = at
    return _Found(at, union, error)


def _item(here: Any, key: str | int) -> Any:
    """`here[key]` of an array; `here` itself if that is no such thing."""
    return here[key] if isinstance(here, list) and isinstance(key, int) and key < len(here) else here


def _say(one: _Found, where: str, cls: type[Any], known: Iterable[str]) -> ConfigError:
    error, kind = one.error, one.error["type"]
    context, value = error.get("ctx", {}), error["input"]
    if kind == "unexpected_keyword_argument":
        return _unknown(where, str(one.at[-1]), known if len(one.at) == 1 else _field_names(cls, one.at[:-1]))
    if kind == "missing":
        is_secret = Secret in _types_at(cls, one.at)
        return ConfigError(where, "is missing", _SECRET_REMEDY if is_secret else "")
    if kind == "dataclass_type" and context.get("class_name") == "Secret":
        return ConfigError(where, "must say where the secret is", _SECRET_REMEDY)
    if kind in _KINDS:
        return ConfigError(where, f"must be {_KINDS[kind]}, got {kind_of(value)}")
    if kind in _RULES:
        words, name = _RULES[kind]
        return ConfigError(where, f"must be {words} {context[name]}, got {kind_of(value)}")
    if kind == "literal_error":
        return ConfigError(where, f"must be {context['expected']}, got {kind_of(value)}")
    if kind == "value_error":
        return ConfigError(where, str(context["error"]))
    if kind == "string_too_short" or kind == "too_short":
        return ConfigError(where, "must not be empty")
    return ConfigError(where, str(error["msg"]).replace("Input should", "must"))


def _unknown(where: str, key: str, known: Iterable[str]) -> ConfigError:
    return ConfigError(where, "is not a setting", registry.did_you_mean(key, tuple(known)))


def _field_names(cls: type[Any], at: Location) -> list[str]:
    """The fields of the dataclasses that may stand at `at` in a `cls`."""
    return [
        field.name
        for kind in _types_at(cls, at)
        if dataclasses.is_dataclass(kind)
        for field in dataclasses.fields(kind)
    ]


def _types_at(cls: type[Any], at: Location) -> list[Any]:
    """The types that may stand at `at` in a `cls`, unions taken apart."""
    kinds: list[Any] = [cls]
    for key in at:
        kinds = [member for kind in kinds for member in _inside(kind, key)]
    return kinds


def _inside(kind: Any, key: str | int) -> Iterator[Any]:
    arguments = typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        yield from _members(typing.get_type_hints(kind).get(str(key)))
    elif arguments and isinstance(key, int):
        yield from _members(arguments[0])
    elif len(arguments) == 2:
        yield from _members(arguments[1])


def _members(kind: Any) -> Iterator[Any]:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        for member in typing.get_args(kind):
            yield from _members(member)
    elif kind is not None:
        yield kind


def kind_of(value: Any) -> str:
    """What a value is; numbers and truth values themselves, since they are no secrets."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return "a string"
    return "a table" if isinstance(value, Mapping) else "an array" if isinstance(value, Sequence) else "a date or time"
