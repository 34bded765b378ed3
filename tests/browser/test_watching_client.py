"""The official RTVI client attached to a live phone call, which a simulated Twilio carries. See docs/watching.md."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.simulator.caller import Limits
from gateway.simulator.script import HangUp, Say, Script, after, at
from gateway.simulator.webcaller import Way, place_call_through_webhooks
from gateway.watching import watcher
from tests.browser.chromium import BUNDLE, Chromium, needs
from tests.browser.test_official_client import Page, page_server, phone
from tests.endtoend.actors import voice
from tests.gateway.rig import running
from tests.gateway.test_notify import until

pytestmark = needs(BUNDLE)
LONG = Limits(connect_s=30, ready_s=30, longest_s=240, closing_s=30)


def test_a_phone_call_is_watched_and_acted_upon(
    browser: Chromium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "READY_S", 1e9)
    monkeypatch.setattr(watcher, "BLOCKED_S", 1e9)

    async def main() -> None:
        async with running(tmp_path, bots={"phone": phone}) as it, browser.context() as context:
            script = Script().then(at(0.1), Say(voice(1.0))).then(after(200), HangUp())
            way = Way(gateway_url=it.url)
            over = asyncio.create_task(place_call_through_webhooks(it.web("twilio"), way, script, limits=LONG))
            await until(lambda: any("bot_start_ms" in session.core.counters for session in it.gateway.calls), 60)
            (session,) = it.gateway.calls
            with page_server() as url:
                page = await context.new_page()
                await page.goto(url)
                async with it.client() as http:
                    path = f"calls/twilio/{session.core.info.call_id}/rtvi"
                    asked = await http.post(path, json={"scope": "control", "audio": "mixed"})
                async with asyncio.timeout(200):
                    await watch(Page(page, it), asked.json()["wsUrl"])
            report = await over
            assert not report.violations
            assert not report.problems

    async def watch(it: Page, address: str) -> None:
        await it.run(
            "window.make(); const media = client.transport._mediaManager ?? client._transport._mediaManager;"
            " window.heard = 0; const buffer = media.bufferBotAudio.bind(media);"
            " media.bufferBotAudio = (data, id) => { window.heard += data.byteLength; return buffer(data, id); };"
            f" await client.connect({{wsUrl: '{address}'}});"
        )
        assert (await it.event("botReady"))["version"].startswith("2.")
        call = await it.event("serverMessage")  # the first one
        assert (call["type"], call["carrier"], call["scope"]) == ("call", "twilio", "control")
        await it.page.wait_for_function("() => window.heard >= 48000")  # a second, at 24 kHz

        assert await it.ask("echo", "{n: 7}") == {"n": 7}
        failed = await it.run("try { await client.sendClientRequest('fail', {}) } catch (e) { return e.data }")
        assert failed == {"error": "told to fail"}
        await it.run("client.sendClientMessage('transcribe', {})")
        assert (await it.event("userTranscript"))["text"] == "hello"
        await it.run("client.sendClientMessage('speak', {})")
        await it.event("botStartedSpeaking")
        await it.event("botStoppedSpeaking")
        await it.run("client.sendDTMF('1#')")
        await it.state(lambda state: state["keys"] == "1#")

        await it.ask("call.end", "{reason: 'watcher'}")
        await it.event("disconnected")
        told = await it.run("return window.events.filter(event => event.name === 'serverMessage').map(e => e.data)")
        assert {"type": "over", "reason": "watcher"}.items() <= told[-1].items()

    browser.run(main())
