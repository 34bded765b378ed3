"""The documents say what is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.diagram import mermaid

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_the_state_diagram_is_drawn_from_the_table() -> None:
    (drawn,) = re.findall(r"```mermaid\n(.*?)\n```", (ROOT / "docs" / "call.md").read_text(), re.S)
    assert drawn == mermaid(), "run: python -m gateway.diagram, and put its output into docs/call.md"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document: Path) -> None:
    known = ("gateway", "serializers", "media", "bots", "webhooks", "tests", "docker", "docs", "benchmarks")
    made_up = {"acme", "whisper", "<"}
    for name in re.findall(rf"`((?:{'|'.join(known)})/[\w./<>*-]+)`", document.read_text()):
        if not any(word in name for word in made_up):
            assert list(ROOT.glob(name.rstrip("/"))), f"{document.name} names {name}"
