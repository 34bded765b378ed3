"""The compiled build (setup.py): what it is made of, and that it says so. `make test-compiled` runs these in one."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from gateway import cli, compiled

ROOT = Path(__file__).resolve().parent.parent
MODULES: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["gateway"]["compiled"]
IS_COMPILED = os.environ.get("GATEWAY_COMPILED", "0") not in ("", "0")


@pytest.mark.parametrize("name", MODULES)
def test_each_module_is_what_it_should_be(name: str) -> None:
    module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
    assert str(module.__file__).endswith(tuple(EXTENSION_SUFFIXES) if IS_COMPILED else ".py")
    assert (ROOT / name).is_file()  # tracebacks show its lines in either build


@pytest.mark.parametrize("name", ["media.convolution", "media.rows"])
def test_what_is_written_in_c_is_in_the_compiled_build(name: str) -> None:
    """And nowhere else: that it gives the bits of numpy's is held in tests/media."""
    assert (importlib.util.find_spec(name) is not None) == IS_COMPILED


@pytest.mark.parametrize("name", MODULES)
def test_what_mypyc_does_not_take_is_not_in_them(name: str) -> None:
    """Said here, in every test run: else the next compiled build would be the first to find out."""
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.ClassDef):
            inner = [part.name for part in node.body if isinstance(part, ast.ClassDef)]
            assert not inner, f"{node.name} has classes in its body"
        elif isinstance(node, ast.AsyncFunctionDef):
            made = [part for part in ast.walk(node) if isinstance(part, ast.Yield)]
            assert not made, f"{node.name} is an asynchronous generator"


def test_no_class_of_others_inherits_from_a_compiled_one() -> None:
    """mypyc's classes refuse heirs that are interpreted, as late as these are defined, unless they say otherwise."""
    closed = {name.removesuffix(".py").replace("/", "."): _closed_classes(ROOT / name) for name in MODULES}
    for package in ("bots", "gateway", "media", "serializers", "webhooks", "benchmarks", "tests"):
        for path in (ROOT / package).rglob("*.py"):
            if path.relative_to(ROOT).as_posix() in MODULES:
                continue
            tree = ast.parse(path.read_text())
            theirs = {
                alias.asname or alias.name
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and node.module in closed
                for alias in node.names
                if alias.name in closed[node.module]
            }
            heirs = [
                f"{path}: {node.name}"
                for node in ast.walk(tree)
                if isinstance(node, ast.ClassDef)
                and theirs & {base.id for base in node.bases if isinstance(base, ast.Name)}
            ]
            assert not heirs


def _closed_classes(path: Path) -> set[str]:
    """Classes that are not marked as open to interpreted heirs."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and "allow_interpreted_subclasses=True" not in "".join(map(ast.unparse, node.decorator_list))
    }


def test_the_build_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert compiled.build() == ("compiled" if IS_COMPILED else "interpreted")
    assert cli.main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["build"] == compiled.build()
