"""[carriers.genesys] in gateway.toml."""

from __future__ import annotations

import pytest

from gateway.settings import parse_settings
from media.errors import ConfigErrors
from webhooks.base import Secret
from webhooks.genesys import GenesysKey, GenesysSettings


def settings(table: dict[str, object]) -> GenesysSettings:
    carriers = parse_settings({"carriers": {"genesys": table}, "bots": {"reception": {"use": "echo"}}}).carriers
    assert isinstance(carriers["genesys"], GenesysSettings)
    return carriers["genesys"]


def test_defaults() -> None:
    found = settings({})
    assert (found.keys, found.monitor, found.channel, found.supported_languages) == ({}, None, None, None)
    assert not found.start_paused


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "k")
    monkeypatch.setenv("SECRET", "c2VjcmV0")
    key = {"api_key": {"env": "KEY"}, "client_secret": {"env": "SECRET"}, "bot": "reception"}
    found = settings({"keys": {"acme": key, "more": {**key, "bot": ""}}, "supported_languages": ["en-US"]})
    assert found.named_bots() == {"keys.acme.bot": "reception"}
    assert found.supported_languages == ("en-US",)
    assert found.keys["acme"] == GenesysKey(
        api_key=Secret(env="KEY"), client_secret=Secret(env="SECRET"), bot="reception"
    )
    assert "c2VjcmV0" not in repr(found)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ({"api_key": {"env": "KEY"}}, "carriers.genesys.keys.acme"),
        ({"api_key": {"env": "KEY"}, "client_secret": {"env": "S"}, "unsigned": True}, "carriers.genesys.keys.acme"),
        ({"client_secret": {"env": "S"}}, "carriers.genesys.keys.acme.api_key"),
        ({"api_key": "in the file", "unsigned": True}, "carriers.genesys.keys.acme.api_key"),
        ({"api_key": {"env": "KEY"}, "unsigned": True, "max_calls": 0}, "carriers.genesys.keys.acme.max_calls"),
        ({"api_key": {"env": "KEY"}, "unsigned": True, "bots": "x"}, "carriers.genesys.keys.acme.bots"),
        ({"api_key": {"env": "KEY"}, "unsigned": True, "bot": "resception"}, "carriers.genesys.keys.acme.bot"),
    ],
)
def test_what_is_wrong_with_a_key_is_said_with_its_path(
    key: dict[str, object], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "k")
    with pytest.raises(ConfigErrors) as caught:
        settings({"keys": {"acme": key}})
    assert path in str(caught.value)
