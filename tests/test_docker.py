"""What the image is built from fits together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()


def test_everything_that_is_copied_is_there() -> None:
    sources = [name for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M) for name in line.split()[:-1]]
    assert sources
    for name in sources:
        assert (ROOT / name).exists(), name
    packages = {name for name in sources if (ROOT / name).is_dir()}
    assert packages == {"gateway", "serializers", "media", "bots", "webhooks"}


def test_its_configuration_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "a long random text")
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "made up")
    settings = load_settings(ROOT / "docker" / "gateway.toml", strict=True)
    assert settings.gateway.host == "0.0.0.0"
    assert settings.carriers.keys() == {"twilio"}


def test_it_does_not_run_as_root_and_serves() -> None:
    assert re.search(r"^USER (?!root)\w+", DOCKERFILE, re.M)
    assert 'CMD ["serve"' in DOCKERFILE
