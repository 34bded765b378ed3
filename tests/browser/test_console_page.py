"""The console in a real browser: a call with a fake microphone, every page, and nothing in the browser's log."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import AXE, PATIENCE_MS, chromium, needs
from tests.endtoend.actors import echo
from tests.gateway.rig import Running, running

pytestmark = needs()
with contextlib.suppress(ImportError):  # then everything here is skipped
    from playwright.async_api import expect


class Browser:
    """A page, and what its browser complained about."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda problem: self.complaints.append(str(problem)))

    async def says(self, where: str, what: str) -> None:
        # Not page.wait_for_function: it evaluates text again and again, which the page's policy forbids.
        await expect(self.page.locator(where)).to_contain_text(what, timeout=PATIENCE_MS)


def in_a_browser(
    folder: Path, act: Any, *, path: str = "/console/", options: Mapping[str, Any] | None = None, **how: Any
) -> None:
    async def main() -> None:
        async with running(folder, bots={"echo": echo}, **how) as it, chromium(**options or {}) as context:
            browser = Browser(await context.new_page())
            await browser.page.goto(it.url + path)
            await act(it, browser)
            assert browser.complaints == []

    asyncio.run(main())


def test_a_call_from_the_first_click_to_the_hang_up(tmp_path: Path) -> None:
    async def act(it: Running, browser: Browser) -> None:
        page = browser.page
        await page.wait_for_selector("#carrier option", state="attached")
        await page.select_option("#whom", "other")
        await page.fill("#to", "+14155550100")
        await page.click("#call")
        await browser.says("#call-state", "Connected")
        await page.click("#keypad button:has-text('5')")
        await browser.says("#timeline", "digit: 5")
        await browser.says("#wire", "audio:")
        await page.fill("#wire-search", "connected")
        assert await page.locator("#wire li:visible").count() == 1
        other = await page.context.new_page()
        await other.goto(f"{it.url}/console/#live")
        await other.wait_for_selector("#live-rows tr")
        assert await other.inner_text("#live-count") == "1 up"
        await other.fill("#live-filter", "nobody")
        await expect(other.locator("#live-count")).to_have_text("1 up, 0 shown", timeout=PATIENCE_MS)
        assert await other.locator("#live-rows tr").count() == 0
        await other.fill("#live-filter", "4155550100")
        await other.click("#live-rows button")
        await browser.says("#call-state", "ended by the bot")
        async with page.expect_download() as saving:
            await page.click("#save-wav")
        heard = await (await saving.value).path()
        assert await asyncio.to_thread(os.path.getsize, heard) > 8000
        await other.goto(f"{it.url}/console/#past")
        await other.wait_for_selector("#past-rows tr")
        await other.click("#past-rows a")
        await expect(other.locator("#call-end")).to_contain_text("bot", timeout=PATIENCE_MS)
        await expect(other.locator("#call-end")).to_contain_text("console", timeout=PATIENCE_MS)

    in_a_browser(tmp_path, act)


def test_what_answers_and_how_it_is(tmp_path: Path) -> None:
    async def act(it: Running, browser: Browser) -> None:
        page = browser.page
        await page.wait_for_selector("#route-carrier option", state="attached")
        await page.fill("#route-number", "+15550100")
        await page.click("#route-form button")
        await browser.says("#route-answer", "bot echo")
        await browser.says("#configuration", "twilio")
        await page.click("nav a[href='#health']")
        await page.wait_for_selector("#charts svg")
        assert await page.locator("#charts svg").count() == 6
        assert await page.inner_text("h2:visible") == "Health"

    in_a_browser(tmp_path, act, path="/console/#numbers")


def test_a_token_is_asked_for_and_used(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a token, and long enough for one")
    tokens = f'[api.tokens.me]\nsecret = {{ file = "{tmp_path / "token"}" }}\nscopes = ["read"]\n'

    async def act(it: Running, browser: Browser) -> None:
        page = browser.page
        await page.fill("#token", "a token, and long enough for one")
        await page.click("#access button")
        await browser.says("#live-count", "0 up")
        browser.complaints[:] = [one for one in browser.complaints if "401" not in one]  # the browser logs each

    in_a_browser(tmp_path, act, path="/console/#live", gateway="console = true", more=tokens)


PAGES = ("phone", "live", "past", "numbers", "health")
JUDGE = """async () => (await axe.run()).violations
    .filter((one) => ["serious", "critical"].includes(one.impact))
    .map((one) => `${one.id}: ${one.nodes.map((node) => node.target.join(" ")).join(", ")}`)"""


@needs(AXE)
@pytest.mark.parametrize(
    "options",
    [
        {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
        {"color_scheme": "dark", "viewport": {"width": 375, "height": 700}},
    ],
    ids=["light", "dark and small"],
)
def test_every_page_can_be_read_by_everybody(options: Mapping[str, Any], tmp_path: Path) -> None:
    async def act(it: Running, browser: Browser) -> None:
        page = browser.page
        await page.wait_for_selector("#carrier option", state="attached")
        await page.select_option("#source", "silence")
        await page.click("#call")
        await browser.says("#call-state", "Connected")
        await page.evaluate(AXE.read_text())
        for name in PAGES:
            await page.click(f"nav a[href='#{name}']")
            await page.wait_for_selector(f"#page-{name}:visible")
            if name in ("live", "past"):
                await page.wait_for_selector(f"#{name}-rows tr")
            assert await page.evaluate(JUDGE) == []
            wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{name} is wider than the screen"
        await page.click("nav a[href='#phone']")
        await page.click("#hang-up")
        await browser.says("#call-state", "ended by the caller")

    in_a_browser(tmp_path, act, options=options)
