"""The house's rules: who may import whom, and where asyncio may live."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "media": {"media"},
    "serializers": {"serializers", "media"},
    "webhooks": {"webhooks", "media"},
    "bots": {"bots", "serializers", "media"},
    "gateway": {"gateway", "bots", "webhooks", "serializers", "media"},
}
# Where something may wait.
ASYNCIO = (
    "gateway/",
    *(f"bots/{name}.py" for name in ("runtime", "runner", "notifier", "lanes", "talk", "bridge")),
    "bots/services/",
    "bots/context/",
)
# Libraries of media: arithmetic only.
MEDIA_LIBRARIES = {"numpy", "soxr", "audioop", "onnx", "onnxruntime"}
NETWORK = {"starlette", "uvicorn", "websockets", "httpx"}
MODULES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Top-level names of every module that `path` imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_downwards(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    package = name.split("/")[0]
    found = set(imports(path))
    assert found & set(MAY_IMPORT) <= MAY_IMPORT[package]
    if not name.startswith(ASYNCIO):
        assert "asyncio" not in found, "only gateway/ and the bots' runtime may wait"
    if package == "media":
        import sys

        assert found <= MEDIA_LIBRARIES | {"media"} | set(sys.stdlib_module_names)
    if package in ("media", "serializers", "webhooks"):
        assert not found & NETWORK


def test_every_package_is_shipped() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert sorted(name.rstrip("*") for name in shipped) == sorted(MAY_IMPORT)


def _help_texts() -> Iterator[tuple[str, str]]:
    for path in [*MODULES, *sorted((ROOT / "benchmarks").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                for keyword in node.keywords:
                    if keyword.arg == "help" and isinstance(keyword.value, ast.Constant):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", str(keyword.value.value)


def test_help_texts_can_be_printed() -> None:
    """argparse formats them with `%`: a percent sign that is not doubled breaks `--help`, and only there."""
    values = dict.fromkeys(("default", "prog", "dest", "type", "metavar", "choices"), 0)
    texts = dict(_help_texts())
    assert len(texts) > 50
    for where, text in texts.items():
        try:
            text % values
        except (TypeError, ValueError, KeyError) as exc:
            pytest.fail(f"{where}: {exc}")
