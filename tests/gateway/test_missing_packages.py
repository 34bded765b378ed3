"""A package that is not installed: one line, at its place in the configuration, that says what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway import registry
from gateway.cli import main
from gateway.missing import importing
from gateway.settings import load_settings
from media.errors import ConfigError, ConfigErrors

CARRIERS = {  # the table, and what it cannot do without
    "twilio": ('account_sid = "AC1"\nverify_signatures = false', "twilio.twiml.voice_response", "twilio"),
    "telnyx": ("verify_signatures = false", "twilio.twiml.voice_response", "twilio"),
    "plivo": ('auth_id = "MA1"\nverify_signatures = false', "plivo.xml", "plivo"),
}


def configured(folder: Path, carrier: str, table: str) -> Path:
    config = folder / "gateway.toml"
    bots = '[bots.it]\nuse = "echo"\n[numbers.default]\nbot = "it"\n'
    config.write_text(f"[carriers.{carrier}]\n{table}\n{bots}")
    return config


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_carrier_whose_package_is_not_installed(
    carrier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, module, package = CARRIERS[carrier]
    config = configured(tmp_path, carrier, table)
    assert main(["check", "--config", str(config)]) == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, module, None)
    said = f"carriers.{carrier}: needs the package {package}, which is not installed (pip install {package})"
    assert main(["check", "--config", str(config)]) == 1
    assert f"error: {said}\n" in capsys.readouterr().out
    assert load_settings(config).carriers_off == {carrier: said}, "the others serve"


def test_call_control_needs_no_texml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "twilio.twiml.voice_response", None)
    monkeypatch.setenv("TEST_API_KEY", "KEY-of-a-test")
    table = f'{CARRIERS["telnyx"][0]}\ncontrol = "call_control"\napi_key = {{ env = "TEST_API_KEY" }}'
    assert list(load_settings(configured(tmp_path, "telnyx", table), strict=True).carriers) == ["telnyx"]


def test_a_bot_or_a_carrier_whose_module_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str, package: str | None = None) -> None:
        raise ModuleNotFoundError("No module named 'jwt'", name="jwt")

    config = configured(tmp_path, "vonage", "verify_signatures = false")
    for cached in (registry.bot, registry.carrier_settings_class):
        cached.cache_clear()
    monkeypatch.setattr("gateway.registry.importlib.import_module", without)
    with pytest.raises(ConfigErrors) as caught:
        load_settings(config)
    assert [(error.path, error.remedy) for error in caught.value.errors] == [
        ("carriers.vonage", "pip install 'pyjwt[crypto]'"),
        ("bots.it.use", "pip install 'pyjwt[crypto]'"),
    ]


def test_a_command_whose_package_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "gateway.commands.demo", raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["demo", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == "error: gateway: needs the package rich, which is not installed (pip install rich)\n"


def test_a_module_of_ours_that_is_not_there_is_no_fault_of_the_operators() -> None:
    with pytest.raises(ModuleNotFoundError), importing("use"):
        raise ModuleNotFoundError("No module named 'bots.nothing'", name="bots.nothing")
    with (
        pytest.raises(ConfigError, match=r"^use: needs the package google, .* \(pip install protobuf\)$"),
        importing("use"),
    ):
        raise ModuleNotFoundError("No module named 'google.protobuf'", name="google.protobuf")
