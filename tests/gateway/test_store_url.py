"""Where the database is, by what the configuration says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.serving import store_of, store_url
from gateway.settings import parse_settings


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("", "gateway.db"),
        ("sqlite:///calls.db", "calls.db"),
        ("sqlite:///var/calls.db?timeout=5", "var/calls.db"),
        ("sqlite+pysqlite:///../calls.db", "../calls.db"),
    ],
)
def test_a_relative_path_starts_at_the_configuration_file(
    written: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWAY_STATE", raising=False)
    monkeypatch.chdir(tmp_path.parent)
    settings = parse_settings({"gateway": {"store": written}}, tmp_path)
    assert Path(store_of(settings).path) == tmp_path.resolve() / path
    monkeypatch.setenv("GATEWAY_STATE", str(tmp_path / "state"))
    assert Path(store_of(settings).path) == (tmp_path / "state").resolve() / path


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////var/lib/gateway/gateway.db",
        "sqlite:///file:calls.db?uri=true",
        "postgresql+psycopg:///gateway",
        "postgresql://user@host/name",
    ],
)
def test_other_urls_stay_as_they_are(url: str, tmp_path: Path) -> None:
    assert store_url(parse_settings({"gateway": {"store": url}}, tmp_path)) == url
