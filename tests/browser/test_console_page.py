"""The console in a real browser: a call with a fake microphone, every page, and nothing in the browser's log."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import AXE, PATIENCE_MS, Chromium, needs
from tests.endtoend.actors import echo
from tests.gateway.rig import Running, running

pytestmark = needs()
with contextlib.suppress(ImportError):  # then everything here is skipped
    from playwright.async_api import expect


class Watched:
    """A page, and what its browser complained about."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda problem: self.complaints.append(str(problem)))

    async def says(self, where: str, what: str) -> None:
        # Not page.wait_for_function: it evaluates text again and again, which the page's policy forbids.
        await expect(self.page.locator(where)).to_contain_text(what, timeout=PATIENCE_MS)


def browse(
    browser: Chromium,
    folder: Path,
    act: Any,
    *,
    path: str = "/console/",
    options: Mapping[str, Any] | None = None,
    **how: Any,
) -> None:
    """Have `act` use the console of a gateway; the browser must not complain of anything."""

    async def main() -> None:
        async with running(folder, bots={"echo": echo}, **how) as it, browser.context(**options or {}) as context:
            page = Watched(await context.new_page())
            await page.page.goto(it.url + path)
            await act(it, page)
            assert page.complaints == []

    browser.run(main())


def test_a_call_from_the_first_click_to_the_hang_up(browser: Chromium, tmp_path: Path) -> None:
    async def act(it: Running, watched: Watched) -> None:
        page = watched.page
        await page.wait_for_selector("#carrier option", state="attached")
        await page.select_option("#whom", "other")
        await page.fill("#to", "+14155550100")
        await page.click("#call")
        await watched.says("#call-state", "Connected")
        await page.click("#keypad button:has-text('5')")
        await watched.says("#timeline", "digit: 5")
        await watched.says("#wire", "audio:")
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
        await watched.says("#call-state", "ended from the console")
        await page.bring_to_front()  # what is behind another page is drawn once a second
        async with page.expect_download() as saving:
            await page.click("#save-wav")
        heard = await (await saving.value).path()
        assert await asyncio.to_thread(os.path.getsize, heard) > 2000
        await other.bring_to_front()
        await other.goto(f"{it.url}/console/#past")
        await other.wait_for_selector("#past-rows tr")
        await other.click("#past-rows a")
        await expect(other.locator("#call-end")).to_contain_text("bot", timeout=PATIENCE_MS)
        await expect(other.locator("#call-end")).to_contain_text("console", timeout=PATIENCE_MS)

    browse(browser, tmp_path, act)


def test_what_answers_and_how_it_is(browser: Chromium, tmp_path: Path) -> None:
    async def act(it: Running, watched: Watched) -> None:
        page = watched.page
        await page.wait_for_selector("#route-carrier option", state="attached")
        await page.fill("#route-number", "+15550100")
        await page.click("#route-form button")
        await watched.says("#route-answer", "bot echo")
        await watched.says("#configuration", "twilio")
        await page.click("nav a[href='#health']")
        await page.wait_for_selector("#charts svg")
        assert await page.locator("#charts svg").count() == 6
        assert await page.inner_text("h2:visible") == "Health"

    browse(browser, tmp_path, act, path="/console/#numbers")


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
def test_every_page_can_be_read_by_everybody(options: Mapping[str, Any], browser: Chromium, tmp_path: Path) -> None:
    async def act(it: Running, watched: Watched) -> None:
        page = watched.page
        await page.wait_for_selector("#carrier option", state="attached")
        await page.select_option("#source", "silence")
        await page.click("#call")
        await watched.says("#call-state", "Connected")
        await page.evaluate(AXE.read_text())
        for name in PAGES:
            await page.click(f"nav a[href='#{name}']")
            await page.wait_for_selector(f"#page-{name}:visible")
            if name in ("live", "past"):
                await page.wait_for_selector(f"#{name}-rows tr")
            assert await page.evaluate(JUDGE) == []
            wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{name} is wider than the screen"
        await page.click("nav a[href='#live']")
        await page.click("#live-rows a")
        await watched.says("#watch-counts", "live")
        assert await page.evaluate(JUDGE) == []
        await page.click("nav a[href='#phone']")
        await page.click("#hang-up")
        await watched.says("#call-state", "ended by the caller")

    browse(browser, tmp_path, act, options=options)


def test_hundreds_of_live_calls(browser: Chromium, tmp_path: Path) -> None:
    calls = [
        {
            "carrier": ("twilio", "telnyx")[number % 2],
            "call_id": f"CA{number}",
            "state": "live",
            "bot": "echo",
            "direction": "inbound",
            "from_number": f"+1415555{number:04d}",
            "to_number": "+15550100",
            "duration_s": 1000.0 - number,
            "counters": {"underruns": number % 500 == 77},
            "last_event": {"t": 0.5, "what": "state", "detail": "live"},
        }
        for number in range(500)
    ]

    async def act(it: Running, watched: Watched) -> None:
        page = watched.page
        rows = page.locator("#live-rows tr")

        async def answer(route: Any) -> None:
            await route.fulfill(json={"calls": calls})

        await page.route("**/api/calls/live", answer)
        await page.click("nav a[href='#live']")
        await expect(rows).to_have_count(500, timeout=PATIENCE_MS)
        await page.select_option("#live-carrier", "telnyx")
        await expect(rows).to_have_count(250, timeout=PATIENCE_MS)
        await page.select_option("#live-sort", "gaps")
        await expect(rows.first).to_contain_text("+14155550077", timeout=PATIENCE_MS)
        await page.select_option("#live-sort", "newest")
        await expect(rows.first).to_contain_text("+14155550499", timeout=PATIENCE_MS)
        await rows.first.locator("a").focus()
        calls[499]["last_event"] = {"t": 500.0, "what": "voice", "on": True}
        await expect(rows.first).to_contain_text("caller speaks, 1 s ago", timeout=PATIENCE_MS)  # at the next look
        assert await page.evaluate("document.activeElement.closest('tr').rowIndex") == 1  # it has kept the focus
        del calls[400:]
        await expect(rows).to_have_count(200, timeout=PATIENCE_MS)
        await page.fill("#live-filter", "0001")
        await expect(rows).to_have_count(1, timeout=PATIENCE_MS)
        await page.unroute("**/api/calls/live")

    browse(browser, tmp_path, act)


def test_a_live_call_is_watched_and_commanded(browser: Chromium, tmp_path: Path) -> None:
    async def act(it: Running, watched: Watched) -> None:
        page = watched.page
        await page.wait_for_selector("#carrier option", state="attached")
        await page.select_option("#whom", "bot:echo")
        await page.click("#call")
        await watched.says("#call-state", "Connected")
        watching = Watched(await page.context.new_page())
        await watching.page.goto(f"{it.url}/console/#live")
        await watching.page.click("#live-rows a")
        await watching.says("#watch-counts", "live")
        await watching.page.click("#watch-listen")
        await page.click("#keypad button:has-text('7')")
        await watching.says("#watch-timeline", "digit: 7")
        await watching.page.click("#watch-mute")
        await watching.says("#watch-timeline", "caller is muted")
        await watching.page.click("#watch-mute")
        await watching.says("#watch-timeline", "caller is heard again")
        await watching.page.fill("#watch-digits", "12")
        await watching.page.press("#watch-digits", "Enter")
        await expect(watching.page.locator("#watch-digits")).to_have_value("", timeout=PATIENCE_MS)  # it was done
        await watching.page.fill("#watch-transfer", "+15550199")  # no carrier knows of this call
        await watching.page.press("#watch-transfer", "Enter")
        await watching.says("#watch-state", "It was not done: twilio cannot hand this call over")
        await watching.page.click("#watch-end")
        await watched.says("#call-state", "ended")
        await watching.says("#watch-state", "Over: ended from the console.")
        await watching.says("#call-end", "ended")
        assert await watching.page.is_disabled("#watch-end")
        assert watching.complaints == []

    browse(browser, tmp_path, act)


def test_who_may_only_look_is_offered_nothing_more(browser: Chromium, tmp_path: Path) -> None:
    tokens = ""
    for name, scopes in (("looks", '"read"'), ("calls", '"read", "dial"')):
        (tmp_path / name).write_text(f"the token that {name}, and long enough for one")
        tokens += f'[api.tokens.{name}]\nsecret = {{ file = "{tmp_path / name}" }}\nscopes = [{scopes}]\n'

    async def act(it: Running, watched: Watched) -> None:
        caller = Watched(await watched.page.context.new_page())
        await caller.page.goto(f"{it.url}/console/")
        await caller.page.fill("#token", "the token that calls, and long enough for one")
        await caller.page.click("#access button")
        await caller.page.wait_for_selector("#carrier option", state="attached")
        await caller.page.click("#call")
        await caller.says("#call-state", "Connected")
        page = watched.page
        await page.bring_to_front()
        await page.fill("#token", "the token that looks, and long enough for one")
        await page.click("#access button")
        await page.wait_for_selector("#live-rows tr")
        assert await page.locator("#live-rows button").count() == 0
        await page.click("#live-rows a")
        await watched.says("#call-end", "live")
        assert not await page.is_visible("#call-live")
        await page.click("nav a[href='#numbers']")
        await page.wait_for_selector("#page-numbers:visible")
        assert not await page.is_visible("#reload")
        await page.click("nav a[href='#phone']")
        await page.wait_for_selector("#carrier option", state="attached")
        await page.click("#call")
        await watched.says("#call-state", "'dial'")
        await caller.page.click("#hang-up")
        await caller.says("#call-state", "ended by the caller")
        watched.complaints[:] = [one for one in watched.complaints if "401" not in one]  # the browser logs each

    browse(browser, tmp_path, act, path="/console/#live", gateway="console = true", more=tokens)
