"""The console in a real browser: a call with a fake microphone, every page, and nothing in the browser's log."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from tests.browser.chromium import PATIENCE_MS, chromium, needs
from tests.endtoend.actors import echo
from tests.gateway.rig import Running, running

pytestmark = needs()


class Browser:
    """A page, and what its browser complained about."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda problem: self.complaints.append(str(problem)))

    async def says(self, where: str, what: str) -> None:
        from playwright.async_api import expect

        # Not page.wait_for_function: it evaluates text again and again, which the page's policy forbids.
        await expect(self.page.locator(where)).to_contain_text(what, timeout=PATIENCE_MS)


def in_a_browser(folder: Path, act: Any, *, path: str = "/console/", **how: Any) -> None:
    async def main() -> None:
        async with running(folder, bots={"echo": echo}, **how) as it, chromium() as context:
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
        await other.click("#live-rows button")
        await browser.says("#call-state", "ended by the bot")
        async with page.expect_download() as saving:
            await page.click("#save-wav")
        heard = await (await saving.value).path()
        assert await asyncio.to_thread(os.path.getsize, heard) > 8000
        await other.goto(f"{it.url}/console/#past")
        await other.wait_for_selector("#past-rows tr")
        await other.click("#past-rows button")
        await other.wait_for_selector("#past-detail:visible")

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
