"""What the image is built from fits together."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from gateway.settings import Settings, load_settings
from gateway.supervisor import STOP_S

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()


_SECRETS = {"gateway_store": "postgresql+psycopg://gateway:secret@postgres/gateway"}


class Configured:
    """The configurations of docker/, with secrets where they say."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def files(self, name: str) -> set[str]:
        return set(re.findall(r'file = "([^"]+)"', (ROOT / "docker" / name).read_text()))

    def __call__(self, name: str) -> Settings:
        text = (ROOT / "docker" / name).read_text()
        for path in self.files(name):
            secret = self._folder / Path(path).name
            secret.write_text(_SECRETS.get(secret.name, "a long random text, of a test"))
            text = text.replace(f'"{path}"', json.dumps(str(secret)))
        (self._folder / "gateway.toml").write_text(text)
        return load_settings(self._folder / "gateway.toml", strict=True)


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    return Configured(tmp_path)


def stage() -> ModuleType:
    """docker/stage.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("stage", ROOT / "docker" / "stage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_the_grace_is_longer_than_the_drain(configured: Configured) -> None:
    """An engine that kills sooner than the gateway's own last limit would cut off hang-ups."""
    compose = manifests("compose.yaml")[0]["services"]["gateway"]
    grace_s = int(compose["stop_grace_period"].removesuffix("s"))
    assert grace_s > configured("gateway.toml").gateway.drain_s + STOP_S
    pod = manifests("kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]
    (_, pause_s) = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    left_s = pod["terminationGracePeriodSeconds"] - int(pause_s)
    assert left_s > configured("kubernetes/gateway.toml").gateway.drain_s + STOP_S


def test_the_autoscaler_can_reach_what_it_aims_at(configured: Configured) -> None:
    """`max_calls` is of all pods together: each of them must be able to have more calls than it is scaled at."""
    scaler = manifests("kubernetes/autoscaling.yaml")[0]["spec"]
    at_once = configured("kubernetes/gateway.toml").gateway.max_calls
    each = int(scaler["metrics"][0]["pods"]["target"]["averageValue"])
    assert scaler["maxReplicas"] * each < at_once
    assert each == 0.7 * at_once / scaler["maxReplicas"]
    assert "replicas" not in manifests("kubernetes/deployment.yaml")[0]["spec"]  # each apply would take it back
    disruption = manifests("kubernetes/disruption.yaml")[0]["spec"]
    assert disruption["maxUnavailable"] < scaler["minReplicas"]


def test_the_secrets_that_are_named_are_mounted(configured: Configured) -> None:
    compose = manifests("compose.yaml")[0]
    mounted = {f"/run/secrets/{name}" for name in compose["services"]["gateway"]["secrets"]}
    assert mounted == configured.files("gateway.toml")
    used = {name for service in compose["services"].values() for name in service.get("secrets", ())}
    assert used == compose["secrets"].keys()
    guide = (ROOT / "docs" / "containers.md").read_text()
    for name, secret in compose["secrets"].items():
        assert secret["file"] == f"./secrets/{name}"
        assert f"docker/secrets/{name}" in guide
    pod = manifests("kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]
    (volume,) = (volume for volume in pod["volumes"] if "secret" in volume)
    (mount,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == volume["name"])
    assert mount["mountPath"] == "/run/secrets"
    for path in configured.files("kubernetes/gateway.toml"):
        assert f"--from-literal={Path(path).name}=" in guide


def test_nothing_is_written_where_nothing_may_be_written() -> None:
    """Root file systems are read-only: only the volume of the image and /tmp are there to write to."""
    (volume,) = re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.M)
    compose = manifests("compose.yaml")[0]["services"]["gateway"]
    assert compose["read_only"]
    assert compose["tmpfs"] == ["/tmp"]
    assert f"calls:{volume}" in compose["volumes"]
    (container,) = manifests("kubernetes/deployment.yaml")[0]["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", volume}
    assert f"GATEWAY_STATE={volume}" in DOCKERFILE


def test_what_is_mounted_and_named_is_there() -> None:
    services = manifests("compose.yaml")[0]["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / "docker" / source).exists(), source
    kustomization = manifests("kubernetes/kustomization.yaml")[0]
    for name in (*kustomization["resources"], *kustomization["configMapGenerator"][0]["files"]):
        assert (ROOT / "docker" / "kubernetes" / name).exists(), name


@pytest.mark.parametrize("name", ["gateway.toml", "kubernetes/gateway.toml"])
def test_the_configurations_are_good(name: str, configured: Configured) -> None:
    settings = configured(name)
    assert settings.gateway.host == "0.0.0.0"
    assert settings.carriers.keys() == {"twilio"}
    assert not settings.has_console


def test_the_builder_gets_what_is_copied_and_no_secrets() -> None:
    ignored = stage().ignores((ROOT / "docker" / "Dockerfile.dockerignore").read_text())
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M):
        for name in line.split()[:-1]:
            assert not ignored(name)
    for name in ("docker/secrets/gateway_secret", ".git", ".venv", "gateway/__pycache__", "media/pacing.so", "tests"):
        assert ignored(name)
