"""The official RTVI client in Chromium, with a fake microphone, against a whole gateway. See docs/rtvi.md."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from bots.base import Call
from media.frames import (
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    RTVIClientMessageFrame,
    RTVIServerMessageFrame,
    RTVIServerResponseFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from media.processor import FrameDirection, FrameProcessor
from tests.browser.chromium import BUNDLE, Chromium, needs
from tests.endtoend.actors import tone
from tests.gateway.rig import Running, running
from tests.gateway.test_notify import until

pytestmark = needs(BUNDLE)
PAGE = b"<!doctype html><meta charset=utf-8><title>test</title><script src=/page.js></script>"


class Phone(FrameProcessor):
    """Answers what the page asks."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call
        self.heard = 0
        self.keys = ""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, InputAudioRawFrame):
            self.heard += frame.num_frames
        elif isinstance(frame, InputDTMFFrame):
            self.keys += frame.button.value
        elif isinstance(frame, RTVIClientMessageFrame):
            self.asked(frame)
        self.push_frame(frame, direction)

    def asked(self, frame: RTVIClientMessageFrame) -> None:
        if frame.type == "fail":
            self.push_frame(RTVIServerResponseFrame(frame, error="told to fail"))
        elif frame.type == "state":
            told = {"heard": self.heard, "keys": self.keys, "language": self.call.info.parameters.get("language")}
            self.push_frame(RTVIServerResponseFrame(frame, told))
        elif frame.type == "echo":
            self.push_frame(RTVIServerResponseFrame(frame, frame.data))
        elif frame.type == "notify":
            self.push_frame(RTVIServerMessageFrame(frame.data))
        elif frame.type == "transcribe":
            self.push_frame(TranscriptionFrame("hello", "caller", "2026-01-01T00:00:00.000Z"))
        elif frame.type == "speak":
            self.push_frame(TTSStartedFrame())
            self.push_frame(TTSAudioRawFrame(tone(0.5, 8000), 8000, 1))
            self.push_frame(TTSStoppedFrame())
        elif frame.type == "hang-up":
            self.call.end("completed")


def phone(call: Call) -> Sequence[FrameProcessor]:
    return (Phone(call),)


@contextmanager
def page_server() -> Iterator[str]:
    """The page, on an origin of its own."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, kind = (BUNDLE.read_bytes(), "text/javascript") if self.path == "/page.js" else (PAGE, "text/html")
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


class Page:
    """The page with its client."""

    def __init__(self, page: Any, it: Running) -> None:
        self.page, self.it = page, it

    async def run(self, script: str) -> Any:
        return await self.page.evaluate(f"async () => {{ {script} }}")

    async def connect(self) -> None:
        data = f"{{endpoint: '{self.it.url}/start', requestData: {{language: 'de'}}}}"
        await self.run(f"window.events = []; window.make(); await client.startBotAndConnect({data});")

    async def event(self, name: str, limit_s: float = 90.0) -> Any:
        """Wait until the client has raised `name`, and give its data."""
        found = f"window.events.find(event => event.name === '{name}')"
        await self.page.wait_for_function(f"() => {found} !== undefined", timeout=limit_s * 1000)
        return (await self.run(f"return {found}"))["data"]

    async def ask(self, kind: str, data: str = "{}") -> Any:
        return await self.run(f"return await client.sendClientRequest('{kind}', {data}, 60000)")

    async def state(self, right: Callable[[Any], bool]) -> Any:
        """What the bot knows, as soon as it is `right`."""
        for _ in range(600):
            if right(state := await self.ask("state")):
                return state
            await asyncio.sleep(0.1)
        raise AssertionError(state)

    async def calls_are_over(self) -> None:
        await until(lambda: not len(self.it.gateway.calls), 60)


@asynccontextmanager
async def browsing(browser: Chromium, folder: Path) -> AsyncIterator[Page]:
    more = "[carriers.web]\n"
    async with running(folder, carriers=(), bots={"phone": phone}, more=more) as it, browser.context() as context:
        with page_server() as url:
            page = await context.new_page()
            await page.goto(url)
            async with asyncio.timeout(200):
                yield Page(page, it)


def test_a_session(browser: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with browsing(browser, tmp_path) as it:
            await it.connect()  # resolves on bot-ready
            ready = await it.event("botReady")
            assert ready["version"].startswith("2.")

            assert await it.ask("echo", "{n: 7}") == {"n": 7}
            failed = await it.run("try { await client.sendClientRequest('fail', {}) } catch (e) { return e.data }")
            assert failed == {"error": "told to fail"}
            big = await it.run("return (await client.sendClientRequest('echo', 'x'.repeat(200000), 60000)).length")
            assert big == 200_000

            await it.run("client.sendClientMessage('notify', {msg: 'language-updated'})")
            assert await it.event("serverMessage") == {"msg": "language-updated"}
            await it.run("client.sendClientMessage('transcribe', {})")
            told = await it.event("userTranscript")
            assert (told["text"], told["final"]) == ("hello", True)

            await it.run("client.sendClientMessage('speak', {})")
            await it.event("botTtsStarted")
            await it.event("botStartedSpeaking")
            await it.event("botStoppedSpeaking")

            await it.run("client.sendDTMF('1#')")
            state = await it.state(lambda state: state["keys"] == "1#" and state["heard"] >= 8000)
            assert state["language"] == "de"

            await it.run("client.enableMic(false)")
            looks = [-1]  # what was on its way still comes; then nothing more does
            while len(looks) < 100 and looks[-1] != (heard := (await it.ask("state"))["heard"]):
                looks.append(heard)
                await asyncio.sleep(0.5)
            before = looks[-1]
            assert (await it.ask("state"))["heard"] >= before > 0
            assert len(looks) < 100
            await it.run("client.enableMic(true)")
            await it.state(lambda state: state["heard"] > before)

            await it.run("await client.disconnect()")
            await it.calls_are_over()

    browser.run(main())


def test_the_bot_is_sent_away_and_leaves_by_itself(browser: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with browsing(browser, tmp_path) as it:
            await it.connect()
            await it.run("client.disconnectBot()")
            await it.event("disconnected")
            await it.calls_are_over()
            await it.connect()
            await it.run("client.sendClientMessage('hang-up', {})")
            await it.event("disconnected")
            await it.calls_are_over()

    browser.run(main())


def test_an_address_without_a_post_and_refusals(browser: Chromium, tmp_path: Path) -> None:
    async def main() -> None:
        async with browsing(browser, tmp_path) as it:
            async with httpx.AsyncClient(trust_env=False) as client:
                url = (await client.post(f"{it.it.url}/start")).json()["wsUrl"]
            await it.run(f"window.make(); await client.connect({{wsUrl: '{url}'}})")
            await it.event("botReady")
            await it.run("await client.disconnect()")
            number = f"{{endpoint: '{it.it.url}/start', requestData: {{number: '+1900'}}}}"
            refused = await it.run(
                f"window.make(); try {{ await client.startBotAndConnect({number}) }}"
                " catch (e) { return String(e.message) }"
            )
            assert refused

    browser.run(main())
