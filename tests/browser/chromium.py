"""A real browser with a fake microphone, for the tests in this folder; where it comes from: docs/rtvi.md."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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


@asynccontextmanager
async def chromium(**context: Any) -> AsyncIterator[Any]:
    """A fresh browser's context, which has the microphone. `context`: its options."""
    from playwright.async_api import async_playwright

    async with async_playwright() as tools:
        browser = await tools.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE_MS)
        try:
            made = await browser.new_context(permissions=["microphone"], **context)
            made.set_default_timeout(PATIENCE_MS)
            yield made
        finally:
            with contextlib.suppress(Exception):
                await browser.close()
