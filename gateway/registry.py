"""What there is to choose from: carriers and bots by name; numbers as people write them; bots made ready.

The module's name is the name: `twilio` is serializers/twilio.py with webhooks/twilio.py, `echo` is bots/echo.py.
Listing looks at files only; a module is imported when somebody asks for it by name.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import importlib.abc
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, cast

import bots
import serializers
import webhooks
from bots.base import Bot, Build, PrepareContext
from gateway.missing import importing
from media.errors import ConfigError, ConfigErrors, toml_path
from media.resample import make_resampler
from serializers.base import FrameSerializer, WireOptions
from webhooks.base import CarrierHttp, SocketOnly

if TYPE_CHECKING:
    from pathlib import Path

    from bots.prompts import Prompt
    from gateway.settings import BotEntry, Settings

Speak = Callable[[str, str, int], bytes]


_NO_MODEL = 'set vad.analyzer = "energy", which needs no model'


class UnknownName(LookupError):
    """Nothing has that name; `remedy` says which names there are."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        super().__init__(f"there is no {kind} {name!r}")
        self.name, self.known = name, tuple(known)

    @property
    def remedy(self) -> str:
        return did_you_mean(self.name, self.known)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The likely spelling, else all there are."""
    close = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(sorted(known))}" if known else "there are none"


# ---------------------------------------------------------------- carriers and bots by name


def _modules(package: ModuleType) -> frozenset[str]:
    return frozenset(info.name for info in pkgutil.iter_modules(package.__path__))


@cache
def carrier_names() -> tuple[str, ...]:
    """The carriers: the names that have a module in serializers/ and one in webhooks/."""
    return tuple(sorted((_modules(serializers) & _modules(webhooks)) - {"base"}))


@cache
def bot_names() -> tuple[str, ...]:
    """The bots: the modules in bots/ that assign BOT."""
    return tuple(sorted(name for name in _modules(bots) if _assigns(f"bots.{name}", "BOT")))


def _assigns(module: str, name: str) -> bool:
    """Whether the source of `module` assigns `name` at its top level. Read, not run: a bot may import a whole SDK."""
    spec = importlib.util.find_spec(module)
    loader = spec.loader if spec else None
    source = loader.get_source(module) if isinstance(loader, importlib.abc.InspectLoader) else None
    return bool(source and re.search(rf"^{name}\b[^=\n]*=", source, re.MULTILINE))


@cache
def serializer_class(carrier: str) -> type[FrameSerializer]:
    """The class in serializers/<carrier>.py that speaks for that carrier. Raises UnknownName."""
    module = _carrier_module("serializers", carrier)
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, FrameSerializer) and value.carrier == carrier:
            return value
    raise LookupError(f"{module.__name__} has no FrameSerializer whose carrier is {carrier!r}")


@cache
def carrier_settings_class(carrier: str) -> type[Any]:
    """The `<Carrier>Settings` of webhooks/<carrier>.py, the keys of [carriers.<carrier>]. Raises UnknownName."""
    module = _carrier_module("webhooks", carrier)
    wanted = carrier.replace("_", "") + "settings"
    for name, value in vars(module).items():
        if isinstance(value, type) and name.lower() == wanted:
            return value
    raise LookupError(f"{module.__name__} has no class {carrier.capitalize()}Settings")


@cache
def carrier_http(carrier: str) -> type[CarrierHttp]:
    """The CarrierHttp of webhooks/<carrier>.py, or one for a carrier without webhooks. Raises UnknownName."""
    module = _carrier_module("webhooks", carrier)
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, CarrierHttp) and getattr(value, "carrier", "") == carrier:
            return value
    return SocketOnly


def carrier_side(carrier: str, settings: Any) -> CarrierHttp:
    """The HTTP side of a carrier with its settings, of all its accounts. Raises ConfigError, with the place in them."""
    with importing(""):
        return _carrier_side(carrier, settings)


def _carrier_side(carrier: str, settings: Any) -> CarrierHttp:
    cls = carrier_http(carrier)
    if not settings.accounts:
        return cls(settings)
    from webhooks.accounts import Accounts

    if not cls.id_fields:
        raise ConfigError("accounts", f"{carrier} has no accounts", "leave them out")
    named: dict[str, CarrierHttp] = {}
    for name, own in settings.accounts.items():
        try:
            named[name] = cls(own)
        except ConfigError as exc:
            raise exc.within(toml_path("accounts", name)) from None
    credentials = [each.name for each in dataclasses.fields(settings) if "Secret" in str(each.type)]
    has_own = any(getattr(settings, name) for name in (*cls.id_fields, *credentials))
    return Accounts(settings, cls(settings) if has_own else None, named)


def _carrier_module(package: str, carrier: str) -> ModuleType:
    if carrier not in carrier_names():
        raise UnknownName("carrier", carrier, carrier_names())
    with importing(toml_path("carriers", carrier)):
        return importlib.import_module(f"{package}.{carrier}")


def is_code(use: str) -> bool:
    """Whether `use` names a program ("<module>:<name>") rather than a module in bots/."""
    return ":" in use


@cache
def bot(name: str) -> Bot:
    """The `BOT` of bots/<name>.py, or the program that "<module>:<name>" stands for.

    Raises UnknownName; ConfigError where it needs a package that is not installed.
    """
    if is_code(name):
        from bots.code import bot_of  # programs bring the whole of bots/talk.py: when there is one

        return bot_of(name)
    if name not in bot_names():
        raise UnknownName("bot module", name, bot_names())
    with importing("use"):
        return cast(Bot, importlib.import_module(f"bots.{name}").BOT)


# ---------------------------------------------------------------- numbers

_SEPARATORS = re.compile(r"[\s().\-]+")
_PHONE = re.compile(r"[+*#0-9a-dA-D\s().\-]*\d[+*#0-9a-dA-D\s().\-]*\*?")
_E164_WITHOUT_PLUS = re.compile(r"[1-9]\d{7,14}")


def normalise(number: str) -> str:
    """A phone number without what only people need: spaces, dashes, dots, brackets, `tel:` and its parameters.

    A leading 00 stays (it means something else in some countries), and so does whatever is no phone number: a SIP
    URI, a client's name.
    """
    number = number.strip()
    if number[:4].lower() == "tel:":
        number = number[4:].partition(";")[0]
    return _SEPARATORS.sub("", number) if _PHONE.fullmatch(number) else number


def readings(number: str) -> Iterator[str]:
    """What `number` may be called in the configuration, the most literal first.

    Vonage, Plivo and others send E.164 without the plus; SIP trunks send `sip:+15550100@host`.
    """
    if not (plain := normalise(number)):
        return
    yield plain
    scheme, colon, rest = plain.partition(":")
    if colon and scheme.lower() in ("sip", "sips"):
        plain = normalise(rest.partition("@")[0].partition(";")[0])
        if plain:
            yield plain
    if _E164_WITHOUT_PLUS.fullmatch(plain):
        yield f"+{plain}"
    elif plain.startswith("+"):
        yield plain[1:]


# ---------------------------------------------------------------- preparing


def prepare_bots(
    settings: Settings,
    *,
    speak: Speak | None = None,
    wait: Callable[[Awaitable[Build]], Build] | None = None,
    kept: Mapping[str, Build] = MappingProxyType({}),
) -> dict[str, Build]:
    """Prepare each bot of the configuration once: name in [bots] -> build. Those that are `kept` need it no more.

    May take seconds (speech is made here): call it in a thread. `speak` makes speech of text; None looks for the
    installed synthesiser. `wait` finishes what a `prepare` that is `async def` began; by default in a loop of its
    own, which is right unless the bot keeps a connection.

    Raises ConfigErrors: all that the bots complain of, each with its TOML path.
    """
    if speak is None:
        from bots.speech import speak as installed  # the speech library is looked for when somebody speaks

        speak = installed
    design_filters(settings)
    builds: dict[str, Build] = {}
    errors: list[ConfigError] = []

    def will_hear() -> None:
        try:
            load_detector(settings)
        except ConfigError as exc:
            errors.append(exc)  # the same for every bot that hears, and no fault of its own table

    context = PrepareContext(settings.base_dir, sample_rates(settings), speak, will_hear)
    for name, entry in settings.bots.items():
        if name in kept:
            builds[name] = kept[name]
            continue
        try:
            with importing(""):
                build = bot(entry.use).prepare(entry.options, context)
                builds[name] = (wait or _wait)(build) if inspect.isawaitable(build) else build
        except ConfigError as exc:
            errors.append(exc.within(toml_path("bots", name)))
    for name, entry in settings.bots.items():
        try:
            prompt = apology_of(entry, settings.base_dir)
            if prompt is not None:
                for rate in context.sample_rates:
                    prompt.chunks(rate)
        except ConfigErrors as exc:
            errors.append(exc.within(toml_path("bots", name)))
        except ConfigError as exc:
            errors.append(ConfigError(toml_path("bots", name) + ".apology", exc.problem, exc.remedy))
    if errors:
        raise ConfigErrors(errors)
    return builds


def apology_of(entry: BotEntry, base_dir: Path) -> Prompt | None:
    """What callers hear when this bot has failed. Raises ConfigErrors."""
    from gateway.apology import apology

    return apology(entry.apology, base_dir, getattr(entry.options, "voice", ""))


def design_filters(settings: Settings) -> None:
    """Resamplers between the bots' rates and the wires'. The first of a kind takes tens of milliseconds."""
    inside = {entry.sample_rate for entry in settings.bots.values() if entry.sample_rate}
    for rate in inside:
        for wire in {8000, 16000, 24000, *sample_rates(settings)} - {rate}:
            make_resampler(rate, wire)
            make_resampler(wire, rate)


def load_detector(settings: Settings) -> None:
    """The voice detector's model, once: it takes 0.2 s, for some of which nothing else in the process gets on.

    ConfigError: there is none, or it cannot be loaded. Bots that hear would be deaf.
    """
    if settings.vad.analyzer != "silero":
        return
    model = settings.base_dir / settings.vad.model if settings.vad.model else None
    try:
        with importing("vad.analyzer"):
            from media.silero import load_model  # numpy and the model's runtime: not for bots that do not hear

            load_model(model)
    except ConfigError as exc:
        raise ConfigError(exc.path, " ".join(exc.problem.split()), f"{exc.remedy}, or {_NO_MODEL}") from None


def _wait(build: Awaitable[Build]) -> Build:
    async def finish() -> Build:
        return await build

    return asyncio.run(finish())


def sample_rates(settings: Settings) -> tuple[int, ...]:
    """Hz of the wires of the carriers in use; 8000 is always among them."""
    rates = {8000}
    for carrier, carrier_settings in settings.carriers.items():
        options = WireOptions(send_sample_rate=getattr(carrier_settings, "sample_rate", None) or 0)
        rates.add(serializer_class(carrier).for_call(options).send_rate)
    return tuple(sorted(rates))
