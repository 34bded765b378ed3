"""What the guides show, works: their configurations load, their programs take calls."""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bots.base import PrepareContext
from bots.speech import speak
from gateway import registry
from gateway.settings import load_settings
from media.errors import ServiceError
from tests.bots.live import Program

DOCS = Path(__file__).resolve().parent.parent / "docs"


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)\n```", (DOCS / document).read_text(), re.S)


def written(folder: Path) -> None:
    """The programs of the guide, under the names that their first lines give."""
    for code in blocks("programs.md", "python"):
        (name,) = re.findall(r"^# (\w+\.py)$", code.splitlines()[0])
        folder.joinpath(name).write_text(code)


@pytest.fixture(autouse=True)
def as_before() -> Any:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name in ("pinbot", "counter"):
            del sys.modules[name]


async def nobody_there(*asked: Any) -> None:
    """A vendor's voice, in a test that asks no vendor."""
    raise ServiceError("voice", "nobody is there")


@pytest.mark.parametrize(
    ("document", "number"),
    [
        ("programs.md", 0),
        *(("agent.md", number) for number in range(5)),
        *(("bots.md", number) for number in range(5)),
        ("outbound.md", 1),
        ("recording.md", 0),
    ],
    ids=lambda value: str(value),
)
def test_configurations(document: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for vendor in ("OPENAI", "DEEPGRAM", "ANTHROPIC", "CARTESIA", "ELEVENLABS", "GROQ"):
        monkeypatch.setenv(f"{vendor}_API_KEY", "k")
    monkeypatch.setenv("BRIDGE_TOKEN", "k")
    monkeypatch.setattr("bots.agent.rendered", nobody_there)
    written(tmp_path)
    file = tmp_path / "gateway.toml"
    text = blocks(document, "toml")[number]
    assert tomllib.loads(text)["bots"]
    (tmp_path / "secret").write_text("x" * 32)
    file.write_text('[gateway]\nsecret = { file = "secret" }\n' + text)
    settings = load_settings(file, strict=True)
    (entry,) = settings.bots.values()

    async def prepare() -> None:
        built: Any = registry.bot(entry.use).prepare(entry.options, PrepareContext(tmp_path, (8000,), speak))
        if inspect.isawaitable(built):
            await built

    asyncio.run(prepare())


def test_the_program_with_the_pin(tmp_path: Path) -> None:
    async def main() -> None:
        written(tmp_path)
        it = await Program.start(tmp_path, "pinbot:bot", options={"pin": "4711"})
        await it.go(1.5)
        await it.press("4711")
        await it.go(1.0)
        assert it.call.core.variables.outgoing == {"verified": "yes"}
        assert it.texts[0] == "Welcome."
        it.call.hang_up()
        await it.go(0.5)
        await it.call.finish()

    asyncio.run(asyncio.wait_for(main(), 180))


def test_the_program_that_counts(tmp_path: Path) -> None:
    async def main() -> None:
        written(tmp_path)
        it = await Program.start(tmp_path, "counter:Counter")
        await it.go(1.0)
        await it.press("123")
        await it.go(12.0)
        assert it.texts[-1] == "You have pressed 3 keys."
        await it.call.finish()

    asyncio.run(asyncio.wait_for(main(), 180))
