"""What the image is built from fits together."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.app import Gateway
from gateway.reload import Reloader
from gateway.settings import GatewaySettings, load_settings

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()


def test_everything_that_is_copied_is_there() -> None:
    sources = [name for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M) for name in line.split()[:-1]]
    assert sources
    for name in sources:
        assert (ROOT / name).exists(), name
    packages = {name for name in sources if (ROOT / name).is_dir()}
    assert packages == {"gateway", "serializers", "media", "bots", "webhooks"}


def test_it_does_not_run_as_root_and_serves() -> None:
    assert re.search(r"^USER (?!root)\w+", DOCKERFILE, re.M)
    assert 'CMD ["serve"' in DOCKERFILE


# ---------------------------------------------------------------- what stands beside the image


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "docker" / name).read_text()))


def test_what_is_watched_is_measured(tmp_path: Path) -> None:
    """Every metric that an alert, the dashboard or the autoscaling names is one that `/metrics` has."""
    config = tmp_path / "gateway.toml"
    config.write_text('[carriers.exotel]\n[bots.echo]\nuse = "echo"\n[numbers.default]\nbot = "echo"\n')
    gateway = Gateway(load_settings(config), {})
    Reloader(gateway, config)
    known = set(re.findall(r"^# HELP (\w+)", gateway.metrics.render().decode(), re.M))
    rules = [rule for group in manifests("alerts.yml")[0]["groups"] for rule in group["rules"]]
    board = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "gateway.json").read_text())
    asked = [rule["expr"] for rule in rules]
    asked += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked.append(manifests("kubernetes/autoscaling.yaml")[0]["spec"]["metrics"][0]["pods"]["metric"]["name"])
    named = {name for expression in asked for name in re.findall(r"\bgateway_\w+", expression)}
    named = {re.sub("_bucket$", "", name) for name in named}
    assert len(named) > 15
    assert named <= known


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)
@pytest.mark.parametrize(
    "command",
    ["check config docker/prometheus.yml", "check rules docker/alerts.yml", "test rules docker/alerts_test.yml"],
)
def test_prometheus_takes_it(command: str) -> None:
    found = subprocess.run(["promtool", *command.split()], cwd=ROOT, capture_output=True, text=True)
    assert not found.returncode, found.stdout + found.stderr


def test_the_grace_is_longer_than_the_drain() -> None:
    drain_s = GatewaySettings().drain_s
    compose = manifests("compose.yaml")[0]["services"]["gateway"]
    assert int(compose["stop_grace_period"].removesuffix("s")) > 2 * drain_s
    pod = manifests("kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 2 * drain_s


def test_nothing_is_written_where_nothing_may_be_written() -> None:
    """Root file systems are read-only: only the volume of the image and /tmp are there to write to."""
    (volume,) = re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.M)
    compose = manifests("compose.yaml")[0]["services"]["gateway"]
    assert compose["read_only"]
    assert compose["tmpfs"] == ["/tmp"]
    assert f"calls:{volume}" in compose["volumes"]
    (container,) = manifests("kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", volume, "/etc/gateway"}


def test_what_is_mounted_and_named_is_there() -> None:
    services = manifests("compose.yaml")[0]["services"]
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / "docker" / source).exists(), source
    kustomization = manifests("kubernetes/kustomization.yaml")[0]
    for name in (*kustomization["resources"], *kustomization["configMapGenerator"][0]["files"]):
        assert (ROOT / "docker" / "kubernetes" / name).exists(), name


@pytest.mark.parametrize("name", ["gateway.toml", "kubernetes/gateway.toml"])
def test_the_configurations_are_good(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GATEWAY_SECRET", "TWILIO_AUTH_TOKEN", "GATEWAY_STORE"):
        monkeypatch.setenv(variable, "a long random text")
    settings = load_settings(ROOT / "docker" / name, strict=True)
    assert settings.gateway.host == "0.0.0.0"
    assert settings.carriers.keys() == {"twilio"}
