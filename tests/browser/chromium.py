"""A real browser with a fake microphone, for the tests in this folder; where it comes from: docs/rtvi.md."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

PACKAGES = Path(__file__).parent / "node_modules"
BUNDLE = PACKAGES / ".page.js"  # the official client
AXE = PACKAGES / "axe-core" / "axe.min.js"
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), "")
PATIENCE_MS = 90_000.0  # a busy machine may take that long over anything; nobody waits for longer than it does take
FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
]


def needs(*files: Path) -> pytest.MarkDecorator:
    """Skips where there is no Chromium, no playwright, or one of npm's `files` is missing."""
    lacks = [
        what
        for what, there in (
            ("Chromium (apt-get install chromium)", bool(CHROMIUM)),
            ("playwright (pip install playwright)", importlib.util.find_spec("playwright") is not None),
            ("npm's packages (npm ci && npm run bundle, in tests/browser)", all(each.exists() for each in files)),
        )
        if not there
    ]
    return pytest.mark.skipif(bool(lacks), reason=f"not here: {', '.join(lacks)}")


class Chromium:
    """A browser that runs, and the loop that it runs in."""

    def __init__(self, runner: asyncio.Runner, browser: Any) -> None:
        self.run = runner.run
        self._browser = browser

    @asynccontextmanager
    async def context(self, **options: Any) -> AsyncIterator[Any]:
        """Fresh, as if nobody had used the browser before; it has the microphone. `options`: of the context."""
        made = await self._browser.new_context(permissions=["microphone"], **options)
        made.set_default_timeout(PATIENCE_MS)
        try:
            yield made
        finally:
            with contextlib.suppress(Exception):
                await made.close()


@contextmanager
def chromium() -> Iterator[Chromium]:
    from playwright.async_api import async_playwright

    with asyncio.Runner() as runner:
        playwright = runner.run(async_playwright().start())
        launch = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE_MS)
        browser = runner.run(launch)
        try:
            yield Chromium(runner, browser)
        finally:
            with contextlib.suppress(Exception):
                runner.run(browser.close())
            runner.run(playwright.stop())
