"""gateway.toml as frozen dataclasses.

`load_settings` gives one snapshot or all that is wrong with the file at once, each mistake with its TOML path and
what to do about it. Nothing in a snapshot changes afterwards, and no secret is in it: a Secret says where to look.

The tables: [gateway], [api], [events] (gateway/event_settings.py), [carriers.<name>] (keys: webhooks/<name>.py),
[bots.<name>] (`use`, the keys of BotEntry that every bot has, and the keys of the settings class in bots/<use>.py),
[numbers."<number>"].
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError

from gateway import registry
from gateway.event_settings import EventSettings
from gateway.public_url import Network, is_loopback_url, networks
from media.errors import ConfigError, ConfigErrors, toml_path
from media.secret import Secret
from media.variables import VariableRule

PipelineRate = Literal[8000, 16000, 24000, 48000]
Seconds = Annotated[float, Gt(0)]
Table = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """[gateway]: the process."""

    host: str = "127.0.0.1"  # loopback unless told otherwise: nothing here is open by accident
    port: Annotated[int, Interval(ge=0, le=65535)] = 8080  # 0: any free one
    public_url: str = ""  # what carriers see of us: https://gw.example.com, with a path where a proxy adds one
    secret: Secret | None = None  # signs media tokens; None: made at start, so tokens end with the process
    store: str = ""  # database URL of calls and records; default: SQLite in gateway.db beside this file
    keep_records_days: Annotated[int, Ge(1)] = 90  # then the records of calls are deleted
    trusted_proxies: tuple[str, ...] = ()  # addresses and ranges whose X-Forwarded-* count: "10.0.0.0/8"
    max_calls: Annotated[int, Ge(1)] = 200
    when_full: str = "busy"  # what a caller over the limit gets: "busy", "rejected", "number:+1...", "say:..."
    start_timeout_s: Seconds = 10.0  # from the socket to the carrier's start message
    silence_timeout_s: Seconds = 30.0  # no message from the carrier for so long: its socket is dead
    longest_call_s: Seconds = 4 * 3600.0
    last_words_s: Seconds = 30.0  # what queued speech may take beyond its own length when a call ends
    blocked_timeout_s: Seconds = 10.0  # a carrier that reads nothing for so long is gone
    drain_s: Annotated[float, Ge(0)] = 30.0  # at shutdown live calls may finish for so long
    max_message_bytes: Annotated[int, Interval(ge=4096, le=16_777_216)] = 262_144
    outbox_messages: Annotated[int, Ge(50)] = 1000  # waiting for a carrier that reads too slowly
    generic_ws: bool = False  # /ws, which takes any carrier's socket without a token
    log_format: Literal["auto", "text", "json"] = "auto"  # auto: text on a terminal
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def __post_init__(self) -> None:
        if self.public_url and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", self.public_url):
            raise ValueError("public_url must be like https://gw.example.com, without query or fragment")
        if self.when_full not in ("busy", "rejected") and not re.match(r"(number|gateway|say):.", self.when_full):
            raise ValueError('when_full must be "busy", "rejected", "number:<number>", "gateway:<URL>" or "say:<text>"')
        try:
            networks(self.trusted_proxies)
        except ValueError as exc:
            raise ValueError(f"trusted_proxies: {exc}") from None

    @property
    def trusted_networks(self) -> tuple[Network, ...]:
        return networks(self.trusted_proxies)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """[api.tokens.<name>]: a bearer token and what it may do."""

    secret: Secret
    scopes: Annotated[tuple[Literal["read", "control", "dial", "admin"], ...], MinLen(1)] = ("read",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """[api]: the control API at /api. Without tokens only this machine may use it."""

    tokens: Mapping[str, ApiToken] = field(default_factory=dict)
    trust_loopback: bool | None = None  # this machine needs no token; None: while there is neither token nor public_url


@dataclass(frozen=True, slots=True, kw_only=True)
class BotEntry:
    """[bots.<name>]: which module answers, and what every bot has."""

    name: str
    use: Annotated[str, MinLen(1)]  # the module in bots/
    options: Any = None  # the rest of the table as the `settings` dataclass of that module's BOT
    sample_rate: PipelineRate | None = None  # Hz inside the pipeline; None: the wire's, the cheapest and the best
    on_error: str = "end"  # or "transfer:<target>"
    output_variables: Mapping[str, VariableRule] = field(default_factory=dict)  # what its calls may bring back

    def __post_init__(self) -> None:
        _check_on_error(self.on_error)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberEntry:
    """[numbers."<key>"]: who answers. `key` is a number, a prefix that ends in *, or `default`."""

    key: str  # as the file has it
    bot: Annotated[str, MinLen(1)]
    on_error: str | None = None  # over the bot's own
    max_calls: Annotated[int, Ge(1)] | None = None  # at once, to this number
    output_variables: Mapping[str, VariableRule] = field(default_factory=dict)  # beside the bot's; over one of its name

    def __post_init__(self) -> None:
        if self.on_error is not None:
            _check_on_error(self.on_error)


def _check_on_error(value: str) -> None:
    if value != "end" and not re.fullmatch(r"transfer:\S+", value):
        raise ValueError('on_error must be "end" or "transfer:<number or SIP URI>"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One snapshot. A call keeps the one with which it started."""

    gateway: GatewaySettings = GatewaySettings()
    api: ApiSettings = field(default_factory=ApiSettings)
    events: EventSettings = field(default_factory=EventSettings)
    carriers: Mapping[str, Any] = field(default_factory=dict)  # those that are on: name -> its settings class
    carriers_off: Mapping[str, str] = field(default_factory=dict)  # name -> why
    carriers_lacking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> variables it is off without
    bots: Mapping[str, BotEntry] = field(default_factory=dict)
    numbers: Mapping[str, NumberEntry] = field(default_factory=dict)  # by normalised number, "<prefix>*" or "default"
    base_dir: Path = Path(".")  # relative paths of the file start here
    warnings: tuple[str, ...] = ()

    @property
    def trusts_loopback(self) -> bool:
        """Whether requests that look like this machine's own need no token.

        Behind a proxy that passes on neither Host nor X-Forwarded-* everybody looks like that.
        """
        if self.api.trust_loopback is not None:
            return self.api.trust_loopback
        behind_proxy = bool(self.gateway.public_url) and not is_loopback_url(self.gateway.public_url)
        return not self.api.tokens and not behind_proxy


def load_settings(path: str | Path, *, strict: bool = False) -> Settings:
    """The snapshot that the TOML file at `path` describes.

    Args:
        strict: a carrier whose secret cannot be read is an error; else it is off, and `carriers_off` says why.

    Raises:
        ConfigErrors: all that is wrong.
    """
    path = Path(path)
    try:
        # utf-8-sig: editors on Windows put a byte order mark before the first line.
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        remedy = "give the path of a gateway.toml"
        raise ConfigErrors([ConfigError(str(path), f"cannot be read: {exc.strerror}", remedy)]) from None
    except UnicodeDecodeError:
        raise ConfigErrors([ConfigError(str(path), "is not UTF-8", "save it as UTF-8")]) from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigErrors([ConfigError(str(path), f"is not TOML: {exc}", "see https://toml.io")]) from None
    return parse_settings(data, path.parent, strict=strict)


def parse_settings(data: Table, base_dir: str | Path = ".", *, strict: bool = False) -> Settings:
    """`load_settings` for a file that was already read."""
    base_dir = Path(base_dir)
    found: list[ConfigError] = []
    sections = ("gateway", "api", "events", "carriers", "bots", "numbers")
    for name in data:
        if name not in sections:
            found.append(ConfigError(name, "is not a table of gateway.toml", registry.did_you_mean(name, sections)))
    gateway = _build(GatewaySettings, _table(data, "gateway", found), "gateway", base_dir, found)
    api = _build(ApiSettings, _table(data, "api", found), "api", base_dir, found)
    if api is not None:
        missing = [(where, secret.problem()) for where, secret in _secrets(api, "api") if secret.problem()]
        found += [ConfigError(where, problem, "set it, or leave the token out") for where, problem in missing]
    events = _build(EventSettings, _table(data, "events", found), "events", base_dir, found)
    if events is not None:
        try:
            _ = events.keys
        except ConfigError as exc:
            found.append(exc.within("events"))
    carriers, off, lacking = _carriers(_tables(data, "carriers", found), base_dir, strict, found)
    bots = _bots(_tables(data, "bots", found), base_dir, found)
    for name, own in carriers.items():
        for where, bot in own.named_bots().items():
            if bot not in _table(data, "bots", found):
                remedy = registry.did_you_mean(bot, tuple(_table(data, "bots", found)))
                found.append(ConfigError(f"{toml_path('carriers', name)}.{where}", f"there is no [bots.{bot}]", remedy))
    numbers = _numbers(_tables(data, "numbers", found), _table(data, "bots", found), base_dir, found)
    if gateway is not None and gateway.secret is not None and (problem := gateway.secret.problem()):
        found.append(ConfigError("gateway.secret", problem, "set it, or leave gateway.secret out"))
    if found:
        raise ConfigErrors(found)
    assert gateway is not None
    return Settings(
        gateway=gateway,
        api=api,
        events=events,
        carriers=MappingProxyType(carriers),
        carriers_off=MappingProxyType(off),
        carriers_lacking=MappingProxyType(lacking),
        bots=MappingProxyType(bots),
        numbers=MappingProxyType(numbers),
        base_dir=base_dir,
        warnings=tuple(_warnings(gateway, carriers, numbers)),
    )


def _warnings(
    gateway: GatewaySettings, carriers: Mapping[str, Any], numbers: Mapping[str, NumberEntry]
) -> Iterator[str]:
    for name, settings in carriers.items():
        if not settings.verify_signatures:
            yield f"carriers.{name}.verify_signatures is off: whoever knows the webhook's URL can make calls"
    if gateway.secret is None:
        yield "gateway.secret is not set: media tokens are only valid in this process, and end with it"
    if gateway.generic_ws:
        yield "gateway.generic_ws is on: whoever reaches /ws reaches a bot, with no token"
    if not numbers:
        yield "there is no [numbers] table: no call will be answered"


# ---------------------------------------------------------------- the four kinds of table


def _carriers(
    tables: Table, base_dir: Path, strict: bool, found: list[ConfigError]
) -> tuple[dict[str, Any], dict[str, str], dict[str, tuple[str, ...]]]:
    """The carriers that are on; why the others are off; which environment variables would switch them on."""
    carriers: dict[str, Any] = {}
    off: dict[str, str] = {}
    lacking: dict[str, tuple[str, ...]] = {}
    for name, table in tables.items():
        path = toml_path("carriers", name)
        try:
            cls = registry.carrier_settings_class(name)
        except registry.UnknownName as exc:
            found.append(ConfigError(path, "is not a carrier", exc.remedy))
            continue
        settings = _build(cls, table, path, base_dir, found)
        if settings is None:
            continue
        missing = [(where, secret) for where, secret in _secrets(settings, path) if secret.problem()]
        if not getattr(settings, "enabled", True):
            off[name] = "enabled = false"
        elif missing and strict:
            remedy = "set it, or set enabled = false"
            found += [ConfigError(where, secret.problem(), remedy) for where, secret in missing]
        elif missing:
            off[name] = "; ".join(f"{where}: {secret.problem()}" for where, secret in missing)
            lacking[name] = tuple(secret.env for _, secret in missing if secret.env)
        else:
            try:
                registry.carrier_http(name)(settings)
            except ConfigError as exc:  # what its webhooks need is not there: they would all be refused
                if strict:
                    found.append(exc.within(path))
                else:
                    off[name] = str(exc.within(path))
            else:
                carriers[name] = settings
    return carriers, off, lacking


def _bots(tables: Table, base_dir: Path, found: list[ConfigError]) -> dict[str, BotEntry]:
    bots: dict[str, BotEntry] = {}
    common = {field.name for field in dataclasses.fields(BotEntry)} - {"name", "options"}
    for name, table in tables.items():
        path = toml_path("bots", name)
        use = table.get("use")
        if not isinstance(use, str) or not use:
            known = ", ".join(registry.bot_names())
            problem = "is missing" if use is None else "must be a string"
            found.append(ConfigError(f"{path}.use", problem, f"one of {known}"))
            continue
        try:
            cls = registry.bot(use).settings
        except registry.UnknownName as exc:
            found.append(ConfigError(f"{path}.use", f"there is no bot module {use!r}", exc.remedy))
            continue
        shared = {key: value for key, value in table.items() if key in common}
        own = {key: value for key, value in table.items() if key not in common}
        entry = _build(BotEntry, shared, path, base_dir, found, given={"name": name})
        options = _build(cls, own, path, base_dir, found, also=common)
        if entry is not None and options is not None:
            missing = [(where, secret.problem()) for where, secret in _secrets(options, path) if secret.problem()]
            found += [ConfigError(where, problem, "set it") for where, problem in missing]
            bots[name] = dataclasses.replace(entry, options=options)
    return bots


def _numbers(tables: Table, bots: Table, base_dir: Path, found: list[ConfigError]) -> dict[str, NumberEntry]:
    numbers: dict[str, NumberEntry] = {}
    for key, table in tables.items():
        path = toml_path("numbers", key)
        entry = _build(NumberEntry, table, path, base_dir, found, given={"key": key})
        normal = key if key == "default" else registry.normalise(key)
        if "*" in normal[:-1] or not normal:
            found.append(ConfigError(path, "is neither a number nor a prefix", 'write "+1555*": one *, at the end'))
        elif entry is None:
            continue
        elif normal in numbers:
            also = numbers[normal].key
            found.append(ConfigError(path, f'is the same number as [numbers."{also}"]', "keep one of the two"))
        else:
            numbers[normal] = entry
        if entry is not None and entry.bot not in bots:
            problem = f"there is no [bots.{entry.bot}]"
            found.append(ConfigError(f"{path}.bot", problem, registry.did_you_mean(entry.bot, tuple(bots))))
    return numbers


def _table(data: Table, name: str, found: list[ConfigError]) -> Table:
    value = data.get(name, {})
    if isinstance(value, Mapping):
        return value
    error = ConfigError(name, f"must be a table, got {_kind(value)}", f"write [{name}]")
    if not any(str(error) == str(one) for one in found):
        found.append(error)
    return {}


def _tables(data: Table, name: str, found: list[ConfigError]) -> dict[str, Table]:
    """[name.<key>] tables only; what else stands there is an error."""
    tables = {}
    for key, value in _table(data, name, found).items():
        if isinstance(value, Mapping):
            tables[key] = value
        else:
            path = toml_path(name, key)
            found.append(ConfigError(path, f"must be a table, got {_kind(value)}", f"write [{path}]"))
    return tables


# ---------------------------------------------------------------- a table as a dataclass


_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(cls: Any) -> TypeAdapter[Any]:
    """Checks an array of one `cls`."""
    if cls not in _adapters:
        # A plain dataclass takes its configuration from what holds it: so settings classes need not know pydantic.
        _adapters[cls] = TypeAdapter(tuple[cls], config=ConfigDict(extra="forbid", strict=True))
    return _adapters[cls]


def _build(
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
        (value,) = _adapter(cls).validate_json(json.dumps([data]))
    except ValidationError as exc:
        found += _explain(exc.errors(include_url=False), cls, data, path, known)
        return None
    except ConfigError as exc:  # of a settings class that checks itself
        found.append(exc.within(path))
        return None
    return _map_secrets(value, lambda secret: _anchored(secret, base_dir)) if len(found) == before else None


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


def _secrets(value: Any, path: str) -> Iterator[tuple[str, Secret]]:
    """Each Secret in `value`, with its TOML path."""
    if isinstance(value, Secret):
        yield path, value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _secrets(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _secrets(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _secrets(item, toml_path(path, key))


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
            yield ConfigError(where, f"must be {wanted}, got {_kind(one.error['input'])}")


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
        return ConfigError(where, f"must be {_KINDS[kind]}, got {_kind(value)}")
    if kind in _RULES:
        words, name = _RULES[kind]
        return ConfigError(where, f"must be {words} {context[name]}, got {_kind(value)}")
    if kind == "literal_error":
        return ConfigError(where, f"must be {context['expected']}, got {_kind(value)}")
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


def _kind(value: Any) -> str:
    """What a value is; numbers and truth values themselves, since they are no secrets."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return "a string"
    return "a table" if isinstance(value, Mapping) else "an array" if isinstance(value, Sequence) else "a date or time"
