"""gateway.toml as JSON Schema, for editors: made from the settings classes, with what they say of each setting."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from gateway import registry
from gateway.event_settings import EventSettings
from gateway.recording import RecordingSettings
from gateway.schedules import Schedule
from gateway.settings import OF_CARRIERS, ApiSettings, BotEntry, GatewaySettings, NumberEntry, VADSettings
from gateway.settings_table import GIVEN, said_of
from media.secret import Secret

Schema = dict[str, Any]
_STRICT = ConfigDict(extra="forbid", strict=True)


def schema() -> Schema:
    """The schema of a whole file (draft 2020-12)."""
    definitions: Schema = {}
    bots = [_bot(name, definitions) for name in registry.bot_names()]
    carriers = {name: _carrier(name, definitions) for name in registry.carrier_names()}
    tables = {
        "gateway": _table(GatewaySettings, definitions, "gateway"),
        "api": _table(ApiSettings, definitions, "api"),
        "events": _table(EventSettings, definitions, "events"),
        "vad": _table(VADSettings, definitions, "vad"),
        "recording": _table(RecordingSettings, definitions, "recording"),
        "carriers": {"type": "object", "properties": carriers, "additionalProperties": False},
        "bots": {"type": "object", "additionalProperties": {"anyOf": [*bots, _program(definitions), _heir()]}},
        "numbers": {"type": "object", "additionalProperties": _number(definitions)},
        "schedules": {"type": "object", "additionalProperties": _table(Schedule, definitions, "schedules")},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gateway.toml",
        "type": "object",
        "properties": tables,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _table(cls: type[Any], definitions: Schema, prefix: str) -> Schema:
    """The schema of a settings class; those of the classes in it go to `definitions`, under names of their own."""
    made = TypeAdapter(tuple[cls], config=_STRICT).json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")  # type: ignore[valid-type]
    inner = made.pop("$defs")
    made = inner.pop(cls.__name__)
    for key, value in inner.items():
        definitions[f"{prefix}.{key}"] = _described(value, _class_named(cls, key))
    return _described(made, cls)


def _described(made: Schema, cls: type[Any] | None) -> Schema:
    made.pop("title", None)
    if cls is Secret:
        return _secret()
    if cls is None or "properties" not in made:
        return made
    said = said_of(cls)
    for name in GIVEN.get(cls, ()):
        made["properties"].pop(name, None)
    if "required" in made:
        made["required"] = [name for name in made["required"] if name in made["properties"]]
    for name, value in made["properties"].items():
        value.pop("title", None)
        if said.get(name):
            value["description"] = said[name]
    made["additionalProperties"] = False
    return made


def _secret() -> Schema:
    one: Schema = {"type": "string", "minLength": 1}
    return {
        "type": "object",
        "description": 'where a secret is: { env = "NAME" } or { file = "path" }',
        "properties": {"env": one, "file": one},
        "oneOf": [{"required": ["env"]}, {"required": ["file"]}],
        "additionalProperties": False,
    }


def _class_named(cls: type[Any], name: str) -> type[Any] | None:
    """The class of that name among those that `cls` is made of: they are known where their fields are."""
    ahead, seen = [cls], set[Any]()
    while ahead:
        one = ahead.pop()
        if one in seen:
            continue
        seen.add(one)
        if isinstance(one, type) and one.__name__ == name:
            return one
        if dataclasses.is_dataclass(one) and isinstance(one, type):
            ahead += typing.get_type_hints(one, include_extras=False).values()
        else:
            ahead += [arg for arg in typing.get_args(one) if arg is not Ellipsis]
    return None


# ---------------------------------------------------------------- tables whose keys depend on one another


def _carrier(name: str, definitions: Schema) -> Schema:
    made = _table(registry.carrier_settings_class(name), definitions, f"carriers.{name}")
    accounts = made["properties"].pop("accounts")
    if registry.carrier_http(name).id_fields:
        own = {key: value for key, value in made["properties"].items() if key not in OF_CARRIERS}
        each = {"type": "object", "properties": own, "additionalProperties": False}
        described = {"type": "object", "description": accounts["description"], "additionalProperties": each}
        made["properties"]["accounts"] = described
    return made


def _common(definitions: Schema) -> Mapping[str, Schema]:
    table = _table(BotEntry, definitions, "bots")
    properties: dict[str, Schema] = dict(table["properties"])
    properties["extends"] = {"type": "string", "description": "the bot of which this one has all that it does not say"}
    languages = "what is different in a language, by the language that numbers name"
    properties["languages"] = {"type": "object", "description": languages, "additionalProperties": {"type": "object"}}
    return properties


def _bot(name: str, definitions: Schema) -> Schema:
    own = _table(registry.bot(name).settings, definitions, f"bots.{name}")
    use = {"const": name, "description": (own.get("description") or f'use = "{name}"').split("\n")[0]}
    properties = {**_common(definitions), **own.get("properties", {}), "use": use}
    required = ["use", *own.get("required", ())]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _program(definitions: Schema) -> Schema:
    made = _bot_of("<module>:<name>", definitions)
    made["properties"]["use"] = {"type": "string", "pattern": "^[^:]+:[^:]+$", "description": "a program of yours"}
    return made


def _bot_of(use: str, definitions: Schema) -> Schema:
    own = _table(registry.bot(use).settings, definitions, "bots.program")
    properties = {**_common(definitions), **own.get("properties", {})}
    return {"type": "object", "properties": properties, "required": ["use"], "additionalProperties": False}


def _heir() -> Schema:
    """A bot that extends another: which keys it may have is known when the other is looked at."""
    return {"type": "object", "properties": {"extends": {"type": "string"}}, "required": ["extends"]}


def _number(definitions: Schema) -> Schema:
    table = _table(NumberEntry, definitions, "numbers")
    table["properties"]["settings"] = {"type": "object", "description": "over the bot's table, for this number"}
    return table
