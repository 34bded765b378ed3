"""The sample configuration: it is what newcomers read and run, so all of it must work."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from gateway.registry import carrier_names, prepare_bots
from gateway.routing import resolve
from gateway.settings import load_settings

SAMPLE = Path(str(files("gateway").joinpath("sample", "gateway.toml")))


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(SAMPLE, tmp_path / "gateway.toml")
    (tmp_path / "gateway.secret").write_text("a long random text\n")
    for name in ("TWILIO_AUTH_TOKEN", "TELNYX_API_KEY", "PLIVO_AUTH_TOKEN", "VONAGE_SIGNATURE_SECRET"):
        monkeypatch.delenv(name, raising=False)
    for name in ("GENESYS_API_KEY", "GENESYS_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "gateway.toml"


def test_without_secrets_each_carrier_says_what_it_lacks(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(sample)
    assert settings.carriers.keys() | settings.carriers_off.keys() == set(carrier_names())
    assert settings.carriers_lacking.keys() == settings.carriers_off.keys()
    for variables in settings.carriers_lacking.values():
        for variable in variables:
            monkeypatch.setenv(variable, "c2VjcmV0")
    settings = load_settings(sample)
    assert settings.carriers.keys() == set(carrier_names()) - settings.carriers_off.keys()
    for why in settings.carriers_off.values():  # what is no secret stands in the file itself
        assert "public_key" in why or "basic" in why
    assert settings.warnings == ()


def test_its_numbers_reach_its_bots(sample: Path) -> None:
    settings = load_settings(sample)
    numbers = ("15550100", "+15550101", "+1-555-0102", "+15550103", "100")
    routes = [resolve(settings, "twilio", number) for number in numbers]
    assert [route and route.bot_name for route in routes] == ["echo", "reception", "news", "assistant", "not-in-use"]


def test_its_bots_can_be_prepared(sample: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="the extra [speech] is not installed")
    settings = load_settings(sample)
    assert prepare_bots(settings).keys() == settings.bots.keys()
