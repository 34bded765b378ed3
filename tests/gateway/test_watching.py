"""Watching live calls: who is let in, what is told, what may be done, and that no watcher costs the call anything."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import json
import os
import sys
import tempfile
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bots.base import Call
from bots.services.tts import TTSService
from gateway.app import Gateway
from gateway.registry import design_filters
from gateway.server import server
from gateway.session import CallSession
from gateway.settings import BotEntry, GatewaySettings, Settings
from gateway.simulator.base import CallPlan, FakeCarrier, fake_carrier
from gateway.simulator.caller import Limits
from gateway.simulator.report import CallReport
from gateway.simulator.script import HangUp, Script, at
from gateway.store import CallKey
from gateway.store_sql import SqlStore
from gateway.watching import watcher as limits
from media.frames import (
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    LLMMessagesAppendFrame,
    RTVIClientMessageFrame,
    RTVIServerMessageFrame,
    RTVIServerResponseFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    UserStartedSpeakingFrame,
    VADUserStartedSpeakingFrame,
)
from media.processor import FrameDirection, FrameProcessor
from serializers.protobuf import packed_audio, packed_message
from tests.endtoend.actors import tone
from tests.endtoend.served import TELEPHONY, Kept, Served, run, serve, socket_only, until

LONG = Limits(connect_s=10, ready_s=10, longest_s=120, closing_s=10)
PATIENCE_S = 30.0
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for a while is no watcher's fault."""
    monkeypatch.setattr(limits, "READY_S", 1e9)
    monkeypatch.setattr(limits, "BLOCKED_S", 1e9)


class Phone(FrameProcessor):
    """Answers what watchers ask, and remembers what came."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call
        self.keys = ""
        self.texts: list[Any] = []
        self.asked: list[str] = []
        self.loud = 0  # packets that are no silence
        self.quiet = 0
        phones.append(self)

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, InputAudioRawFrame):
            if any(frame.audio):
                self.loud += 1
            else:
                self.quiet += 1
        elif isinstance(frame, InputDTMFFrame):
            self.keys += frame.button.value
        elif isinstance(frame, LLMMessagesAppendFrame):
            self.texts.append(frame.messages[0]["content"])
        elif isinstance(frame, RTVIClientMessageFrame):
            self.asked.append(frame.type)
            self.act(frame)
        self.push_frame(frame, direction)

    def act(self, frame: RTVIClientMessageFrame) -> None:
        if frame.type == "echo":
            self.push_frame(RTVIServerResponseFrame(frame, frame.data))
        elif frame.type == "fail":
            self.push_frame(RTVIServerResponseFrame(frame, error="told to fail"))
        elif frame.type == "speak":
            self.push_frame(TTSStartedFrame())
            self.push_frame(TTSAudioRawFrame(tone(frame.data, 8000), 8000, 1))
            self.push_frame(TTSStoppedFrame())
            self.push_frame(RTVIServerResponseFrame(frame))
        elif frame.type == "happen":
            self.push_frame(VADUserStartedSpeakingFrame(0.2))
            self.push_frame(UserStartedSpeakingFrame())
            self.push_frame(InterruptionFrame("of a test"))
            self.push_frame(TranscriptionFrame("hello", "caller", "2026-01-01T00:00:00.000Z"))
            self.push_frame(RTVIServerMessageFrame({"of": "the bot"}))


phones: list[Phone] = []


def phone(call: Call) -> Sequence[FrameProcessor]:
    return (Phone(call),)


# ---------------------------------------------------------------- a call, and who watches it


class Live:
    """A call that is up until it is ended."""

    def __init__(self, it: Served, session: CallSession, bot: Phone, over: asyncio.Task[CallReport]) -> None:
        self.it, self.session, self.bot, self.over = it, session, bot, over
        info = session.core.info
        self.path = f"calls/{info.carrier}/{info.call_id}"

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=f"http{self.it.url[2:]}/api/", trust_env=False, timeout=PATIENCE_S)

    async def address(self, **order: Any) -> str:
        async with self.client() as http:
            asked = await http.post(f"{self.path}/rtvi", json=order)
            assert asked.status_code == 200, asked.text
            assert set(asked.json()) == {"wsUrl"}  # the official client takes nothing else
            return str(asked.json()["wsUrl"])

    @asynccontextmanager
    async def watched(self, *, ready: bool = True, **order: Any) -> AsyncIterator[Eye]:
        url = await self.address(**{"format": "json", **order})
        async with connect(url, proxy=None, max_size=None, open_timeout=PATIENCE_S) as socket:
            eye = Eye(socket)
            if ready:
                await eye.say("client-ready", {"version": "2.1.0", "about": {"library": "test"}}, id="r")
                assert (await eye.message("bot-ready"))["id"] == "r"
            try:
                yield eye
            finally:
                eye.stop()

    async def end(self) -> CallReport:
        self.session.core.end("test")
        return await self.over


class Eye:
    """A watcher that reads JSON."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.messages: list[Json] = []
        self.sound = b""
        self.order: list[str] = []  # what came, by type; "sound" for that
        self._ids = 0
        self._task = asyncio.create_task(self._read())

    def stop(self) -> None:
        self._task.cancel()

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in self.socket:
                if isinstance(message, bytes):
                    self.sound += message
                    self.order.append("sound")
                else:
                    self.messages.append(json.loads(message))
                    self.order.append(self.messages[-1]["type"])

    async def say(self, kind: str, data: Any = None, id: str = "1") -> None:
        await self.socket.send(json.dumps({"label": "rtvi-ai", "type": kind, "id": id, "data": data}))

    async def first(self, right: Callable[[Json], bool]) -> Json:
        await until(lambda: any(map(right, self.messages)), PATIENCE_S)
        return next(filter(right, self.messages))

    async def message(self, kind: str) -> Json:
        return await self.first(lambda message: message["type"] == kind)

    async def told(self, kind: str) -> Json:
        """The data of a server-message of the gateway's."""
        found = await self.first(lambda message: _told(message).get("type") == kind)
        return dict(found["data"])

    async def event(self, what: str) -> Json:
        found = await self.first(lambda message: _told(message).get("what") == what)
        return dict(found["data"])

    async def ask(self, kind: str, data: Any = None) -> Json:
        """The answer to a client-message, whichever."""
        self._ids += 1
        id = f"ask-{self._ids}"
        await self.say("client-message", {"t": kind, "d": data}, id)
        return await self.first(lambda message: message.get("id") == id)


def _told(message: Mapping[str, Any]) -> Mapping[str, Any]:
    data = message.get("data")
    return data if message["type"] == "server-message" and isinstance(data, Mapping) else {}


@asynccontextmanager
async def live(it: Served, carrier: str | FakeCarrier = "twilio") -> AsyncIterator[Live]:
    fake = fake_carrier(carrier)(CallPlan()) if isinstance(carrier, str) else carrier
    over = asyncio.create_task(it.call(fake, Script().then(at(100), HangUp()), limits=LONG))
    key: list[CallKey] = []

    def up() -> bool:
        found = [session for session in it.gateway.calls if session.core.info.carrier == fake.name]
        key[:] = [CallKey(fake.name, session.core.info.call_id) for session in found]
        begun = [session for session in found if "bot_start_ms" in session.core.counters]
        return over.done() or (bool(begun) and it.gateway.calls.find(key[0]) is not None)  # it has its own name

    await until(up, PATIENCE_S)
    session = it.gateway.calls.find(key[0])
    assert session is not None
    bot = next(each for each in phones if each.call.info.call_id == session.core.info.call_id)
    try:
        yield Live(it, session, bot, over)
    finally:
        session.core.end("test")
        await over


def watching(check: Callable[[Live], Any], **more: Any) -> None:
    async def main() -> None:
        phones.clear()
        async with serve({"bot": phone}, **more) as it, live(it) as call:
            await check(call)

    run(main(), limit_s=300)


# ---------------------------------------------------------------- what is told


def test_a_watcher_is_told_what_happens() -> None:
    async def check(call: Live) -> None:
        call.session.core.trail.digit("4")  # before anybody watched
        async with call.watched(scope="control") as eye:
            about = await eye.told("call")
            assert about["bot"] == "bot"
            assert about["state"] == "live"
            assert (about["scope"], about["audio"]) == ("control", None)
            before = [(entry["what"], entry.get("detail")) for entry in about["events"]]
            assert ("state", "live") in before
            assert ("digit", "") in before  # that there was one
            await eye.say("client-message", {"t": "speak", "d": 90.0})
            assert (await eye.event("bot"))["on"] is True
            await eye.message("bot-started-speaking")
            await eye.message("bot-tts-started")
            await eye.say("client-message", {"t": "happen"})
            cut = await eye.event("interruption")
            assert cut["reason"] == "of a test"
            assert cut["heard_ms"] + cut["unheard_ms"] == pytest.approx(90_000, abs=20)
            await eye.event("clear")
            voice, turn = await eye.event("voice"), await eye.event("turn")
            assert voice["on"] is turn["on"] is True
            assert voice["t"] <= turn["t"] - 0.15  # when he began, not when it was sure
            said = (await eye.message("user-transcription"))["data"]
            assert (said["text"], said["final"]) == ("hello", True)
            assert _told(await eye.first(lambda message: "of" in _told(message))) == {"of": "the bot"}
            call.session.core.trail.digit("7")
            assert (await eye.first(lambda message: _told(message).get("detail") == "7"))["data"]["what"] == "digit"
            await eye.message("user-audio-level")
            await eye.message("bot-audio-level")
            counted = await eye.told("counters")
            assert counted["counters"]["bot_start_ms"] >= 0
            call.session.core.end("test")
            over = await eye.told("over")
            assert (over["reason"], over["ended_by"]) == ("test", "bot")
            await eye.socket.wait_closed()
            assert eye.socket.close_code == 1000
        types = eye.order
        assert types[:2] == ["bot-ready", "server-message"]  # and nothing before
        assert types.count("user-transcription") == 1

    watching(check)


def test_the_timeline_of_a_call_that_nobody_watches() -> None:
    async def check(call: Live) -> None:
        call.session.core.trail.digit("4")
        async with call.client() as http:
            found = (await http.get(f"{call.path}/timeline")).json()
            assert (found["state"], found["bot"]) == ("live", "bot")
            assert {"t": found["events"][-1]["t"], "what": "digit", "detail": ""} == found["events"][-1]
        await call.end()
        await call.it.empty(PATIENCE_S)
        async with call.client() as http:
            assert (await http.get(f"{call.path}/timeline")).status_code == 404
            assert (await http.post(f"{call.path}/rtvi", json={})).status_code == 404

    watching(check)


@pytest.mark.parametrize(
    ("audio", "rate", "frame_bytes", "expected"),
    [("mixed", 24000, 2, 24000), ("stereo", 24000, 4, 24000), ("mixed", 0, 2, 8000), ("stereo", 0, 4, 8000)],
)
def test_both_voices(audio: str, rate: int, frame_bytes: int, expected: int) -> None:
    async def check(call: Live) -> None:
        async with call.watched(scope="control", audio=audio, rate=rate) as eye:
            shown = (await eye.told("call"))["audio"]
            assert shown == {"rate": expected, "channels": frame_bytes // 2}
            await eye.say("client-message", {"t": "speak", "d": 0.5})
            level = await eye.first(
                lambda message: message["type"] == "bot-audio-level" and message["data"]["value"] > 0.5
            )
            assert level["data"]["value"] <= 1
            await until(lambda: len(eye.sound) >= frame_bytes * expected and any(eye.sound), PATIENCE_S)
        begins = eye.order.index("sound")
        assert eye.messages[eye.order[:begins].count("sound") + begins - 1]["data"]["type"] == "audio"
        assert [_told(message)["dropped_ms"] for message in eye.messages if _told(message).get("type") == "audio"] == [
            0
        ]

    watching(check)


def test_watchers_of_one_kind_share_what_is_encoded() -> None:
    async def check(call: Live) -> None:
        async with call.watched(audio="mixed") as one, call.watched(audio="mixed") as other:
            (watch,) = call.it.gateway.watching._watches.values()
            assert len(watch.watchers) == 2
            kept: list[Any] = []
            for watcher in watch.watchers:
                watcher.hear = lambda message, t, lasts_s: kept.append(message)  # type: ignore[method-assign]
                watcher.tell = kept.append  # type: ignore[assignment,method-assign]
            await until(lambda: sum(isinstance(each, bytes) for each in kept) >= 2, PATIENCE_S)
            sounds = [each for each in kept if isinstance(each, bytes)]
            assert sounds[0] is sounds[1]
            call.session.core.trail.moment("mark", "m")
            assert kept[-1] is kept[-2]
            assert one.messages
            assert other.messages

    watching(check)


# ---------------------------------------------------------------- what may be done


def test_what_a_watcher_may_do() -> None:
    async def check(call: Live) -> None:
        async with call.watched(scope="control") as eye, call.watched() as other:
            assert (await eye.ask("echo", {"n": 7}))["data"] == {"t": "echo", "d": {"n": 7}}
            failed = await eye.ask("fail")
            assert (failed["type"], failed["data"]) == ("error-response", {"error": "told to fail"})
            await eye.say("dtmf", {"buttons": ["1", "#"]})
            await eye.say("send-text", {"content": "what time is it", "options": {"run_immediately": False}})
            await until(lambda: call.bot.keys == "1#" and call.bot.texts == ["what time is it"], PATIENCE_S)

            assert (await eye.ask("call.digits", {"digits": "12"}))["type"] == "server-response"
            assert (await eye.ask("call.digits", {"digits": "x"}))["type"] == "error-response"
            assert (await eye.ask("call.interrupt"))["type"] == "server-response"
            await eye.event("interruption")
            unfit = await eye.ask("call.transfer", {"target": "no number"})
            assert (unfit["type"], unfit["data"]["error"]) == ("error-response", "Invalid message: target")
            assert "call.say" in (await eye.ask("call.dance"))["data"]["error"]

            assert (await eye.ask("call.mute"))["type"] == "server-response"
            assert (await other.event("mute"))["on"] is True
            await other.message("user-mute-started")
            quiet = call.bot.quiet
            await until(lambda: call.bot.quiet > quiet + 3, PATIENCE_S)
            assert (await eye.ask("call.mute", {"on": False}))["type"] == "server-response"
            await other.message("user-mute-stopped")

            assert (await eye.ask("call.end", {"reason": "by-watcher"}))["type"] == "server-response"
            assert (await other.told("over"))["reason"] == "by-watcher"
            assert not [message for message in other.messages if message["type"].endswith("-response")]
        await call.over

    watching(check)


@pytest.mark.skipif(not importlib.util.find_spec("espeakng_loader"), reason="the extra [speech] is not installed")
def test_a_bot_without_a_voice_says_it_all_the_same() -> None:
    async def check(call: Live) -> None:
        async with call.watched(scope="control", audio="mixed", rate=0) as eye:
            assert (await eye.ask("call.say", {"text": "One moment, please."}))["type"] == "server-response"
            await eye.message("bot-tts-started")
            assert (await eye.event("bot"))["on"] is True
            assert (await eye.message("bot-tts-text"))["data"] == {"text": "One moment, please."}
            await until(lambda: any(eye.sound), PATIENCE_S)
            assert (await eye.ask("call.say", {"text": ""}))["type"] == "error-response"
            await eye.ask("speak", 90.0)
            await eye.ask("call.end")
            late = await eye.ask("call.say", {"text": "One thing more."})
            assert late["data"] == {"error": "the call is ending: nothing more is said"}
            await eye.ask("call.interrupt")

    watching(check)


def test_where_nobody_can_say_it_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)

    async def check(call: Live) -> None:
        async with call.watched(scope="control") as eye:
            assert "espeakng-loader" in (await eye.ask("call.say", {"text": "Hello."}))["data"]["error"]

    watching(check)


def test_a_voice_service_says_it() -> None:
    class Voice(TTSService):
        async def run_tts(self, text: str, context_id: str) -> Any:
            said.append(text)
            yield TTSAudioRawFrame(tone(0.2, 8000), 8000, 1, context_id)

    said: list[str] = []

    async def main() -> None:
        phones.clear()
        bots = {"bot": lambda call: (Phone(call), Voice(sample_rate=8000))}
        async with serve(bots) as it, live(it) as call, call.watched(scope="control") as eye:
            await eye.ask("call.say", {"text": "One moment."})
            assert (await eye.event("bot"))["on"] is True
            assert said == ["One moment."]
            output = await eye.message("bot-output")
            assert output["data"]["text"] == "One moment."

    run(main(), limit_s=300)


def test_a_mute_is_lifted_when_its_watcher_leaves() -> None:
    async def check(call: Live) -> None:
        async with call.watched(scope="control") as eye:
            await eye.ask("call.mute")
            assert call.session.core.is_muted
        await until(lambda: not call.session.core.is_muted, PATIENCE_S)

    watching(check)


def test_who_may_only_listen_is_refused_all_else() -> None:
    async def check(call: Live) -> None:
        async with call.watched() as eye:
            asked = ("client-message", {"t": "call.end"}), ("send-text", {"content": "x"}), ("dtmf", {"button": "1"})
            for number, (kind, data) in enumerate((*asked, ("disconnect-bot", {}))):
                await eye.say(kind, data, f"n{number}")
                refused = await eye.first(lambda message, id=f"n{number}": message.get("id") == id)  # type: ignore[misc]
                assert refused["type"] == "error-response"
                assert "control" in refused["data"]["error"]
            assert not call.session.core.over
            assert not call.bot.keys

    watching(check)


@pytest.mark.parametrize(
    "garbage",
    [
        "{",
        "[]",
        "null",
        '{"label":"rtvi-ai"}',
        '{"label":"rtvi-ai","type":"dance","id":"g"}',
        '{"label":"other","type":"client-ready"}',
        "[" * 50_000,
        b"\xff\xff\xff",
        packed_message("{"),
        packed_message("[]"),
        '{"label":"rtvi-ai","type":"client-message","id":"g","data":7}',
        '{"label":"rtvi-ai","type":7,"id":"g"}',
    ],
)
def test_garbage_has_an_answer_and_the_session_goes_on(garbage: str | bytes) -> None:
    async def check(call: Live) -> None:
        async with call.watched(scope="control") as eye:
            await eye.socket.send(garbage)
            refused = await eye.message("error-response")
            if isinstance(garbage, str) and '"id":"g"' in garbage:
                assert refused["id"] == "g"
            await eye.socket.send(packed_audio(bytes(320), 16000, 1, 0))  # a microphone is nothing to anybody
            assert (await eye.ask("echo", 1))["data"]["d"] == 1

    watching(check)


def test_the_guides_program(tmp_path: Path) -> None:
    """As it stands in docs/watching.md: it prints what it is told until the call is over."""
    guide = (Path(__file__).parents[2] / "docs" / "watching.md").read_text()
    (tmp_path / "watch.py").write_text(guide.partition("```python\n")[2].partition("```")[0])

    async def check(call: Live) -> None:
        where = f"http{call.it.url[2:]}", call.path.removeprefix("calls/")
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, str(tmp_path / "watch.py"), *where),
            stdout=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        )
        try:
            await until(lambda: bool(call.it.gateway.watching._watches), PATIENCE_S)
            (watch,) = call.it.gateway.watching._watches.values()
            await until(lambda: all(watcher.is_ready for watcher in watch.watchers), PATIENCE_S)
            await call.end()
            said, _ = await program.communicate()
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()
        lines = [json.loads(line) for line in said.decode().splitlines()]
        assert [lines[0]["type"], lines[1]["data"]["type"]] == ["bot-ready", "call"]
        assert _told(lines[-1])["type"] == "over"
        assert program.returncode == 0

    watching(check)


# ---------------------------------------------------------------- who is let in


def test_a_token_is_good_once_and_for_its_call() -> None:
    async def check(call: Live) -> None:
        url = await call.address(format="json")
        wrong = url.replace("/twilio/", "/telnyx/")
        async with connect(url, proxy=None):
            pass
        for bad in (url, wrong, url[:-4] + "AAAA", url.partition("?")[0], f"{url.partition('?')[0]}?token=x"):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(bad, proxy=None):
                    pass
            assert refused.value.response.status_code == 403

    watching(check)


def test_no_more_watchers_than_the_settings_say() -> None:
    async def check(call: Live) -> None:
        api = call.it.gateway.settings.api
        object.__setattr__(api, "max_watchers_per_call", 1)
        async with call.watched():
            url = await call.address()
            with pytest.raises(InvalidStatus) as refused:
                async with connect(url, proxy=None):
                    pass
            assert refused.value.response.status_code == 503
        object.__setattr__(api, "max_watchers", 0)
        await until(lambda: not call.it.gateway.watching.watchers, PATIENCE_S)
        url = await call.address()
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, proxy=None):
                pass
        assert refused.value.response.status_code == 503

    watching(check)


# ---------------------------------------------------------------- watchers that do harm


def test_who_never_says_that_it_is_ready_is_told_nothing_and_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "READY_S", 0.2)

    async def check(call: Live) -> None:
        async with call.watched(ready=False) as eye:
            call.session.core.trail.digit("1")
            await asyncio.wait_for(eye.socket.wait_closed(), PATIENCE_S)
            assert eye.socket.close_code == 1008
            assert not eye.messages
        assert not call.session.core.over

    watching(check)


def test_a_watcher_that_never_reads_loses_sound_then_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BACKLOG", 200_000)

    async def check(call: Live) -> None:
        url = await call.address(format="json", audio="stereo", scope="control")
        async with connect(url, proxy=None, max_queue=1) as socket, call.watched(audio="mixed") as other:
            await socket.send('{"label":"rtvi-ai","type":"client-ready","id":"r","data":{}}')
            (watch,) = call.it.gateway.watching._watches.values()
            await until(lambda: all(watcher.is_ready for watcher in watch.watchers), PATIENCE_S)
            first = watch.watchers[0]
            text = "x" * 1000

            def flood() -> bool:
                """More than any kernel keeps for it."""
                for _ in range(100):
                    first.hear(bytes(20_000), 1.0, 0.25)
                    first.tell(text)
                return first.close_code != 0

            await until(flood, PATIENCE_S)
            assert first.dropped_s > 0
            assert first not in watch.watchers or first.close_code == 1008
            await until(lambda: first not in watch.watchers, PATIENCE_S)  # also while its socket takes nothing
            await other.first(lambda message: message["type"] == "user-audio-level")
            socket.transport.abort()
        assert not call.session.core.over

    watching(check)


def test_a_watcher_that_floods_is_read_no_faster_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BURST", 20.0)
    monkeypatch.setattr(limits, "PER_S", 20.0)

    async def check(call: Live) -> None:
        before = call.session.core.now()
        async with call.watched(scope="control") as eye:

            async def flood() -> None:
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        await eye.say("client-message", {"t": "note"})

            flooding = asyncio.create_task(flood())
            await until(lambda: len(call.bot.asked) >= 30, PATIENCE_S)
            took = call.session.core.now() - before
            assert len(call.bot.asked) <= 20 + 20 * took + 5
            flooding.cancel()
            eye.socket.transport.abort()  # a goodbye would stand behind all that
        assert not call.session.core.over

    watching(check)


def test_a_message_that_is_too_long_ends_the_watching_not_the_call() -> None:
    async def check(call: Live) -> None:
        async with call.watched(scope="control") as eye:
            with contextlib.suppress(ConnectionClosed):
                await eye.socket.send("x" * (limits.LARGEST + 1))
            await asyncio.wait_for(eye.socket.wait_closed(), PATIENCE_S)
            assert eye.socket.close_code == 1009
        assert not call.session.core.over

    watching(check)


# ---------------------------------------------------------------- every carrier, and what is left


def test_every_carrier_can_be_watched_and_nothing_is_left() -> None:
    """`serve` looks for tasks and descriptors that are left."""

    async def main() -> None:
        phones.clear()
        async with serve({"bot": phone}) as it:

            async def one(carrier: str) -> None:
                async with live(it, carrier) as call, call.watched(scope="control", audio="mixed") as eye:
                    assert (await eye.told("call"))["carrier"] == carrier
                    assert (await eye.ask("echo", carrier))["data"]["d"] == carrier
                    await until(lambda: bool(eye.sound), PATIENCE_S)
                    await eye.ask("call.end")
                    await eye.told("over")

            await asyncio.gather(*(one(carrier) for carrier in TELEPHONY))
            await it.empty(PATIENCE_S)
            assert not it.gateway.watching._watches
            assert not it.gateway.watching.watchers

    run(main(), limit_s=300)


def test_a_call_that_was_watched_is_forgotten() -> None:
    async def main() -> None:
        phones.clear()
        async with serve({"bot": phone}) as it:

            async def once() -> weakref.ref[Any]:
                async with live(it) as call:
                    async with call.watched(scope="control", audio="stereo", logs=True) as eye:
                        await eye.ask("echo", 1)
                        await eye.ask("call.mute")
                        await call.end()
                        await eye.told("over")
                    return weakref.ref(call.session.core)

            core = await once()
            await it.empty(PATIENCE_S)
            phones.clear()

            def gone() -> bool:
                gc.collect()
                return core() is None

            await until(gone, PATIENCE_S)

    run(main(), limit_s=300)


def test_a_web_callers_client_hears_nothing_of_what_watchers_ask() -> None:
    async def main() -> None:
        phones.clear()
        async with serve({"bot": phone}) as it:
            fake: Any = fake_carrier("web")(CallPlan())
            async with live(it, fake) as call, call.watched(scope="control") as eye:
                assert (await eye.ask("echo", 1))["data"]["d"] == 1
                await eye.say("client-message", {"t": "happen"})
                await eye.message("user-transcription")
                await until(lambda: any(told["type"] == "user-transcription" for told in fake.messages), PATIENCE_S)
                assert not [told for told in fake.messages if told["type"].endswith("-response")]

    run(main(), limit_s=300)


def test_watchers_come_and_go_and_the_links_are_as_before() -> None:
    async def check(call: Live) -> None:
        flow = call.session.core.input._flow
        for _ in range(3):
            async with call.watched(audio="mixed") as eye:
                await eye.told("call")
                await until(lambda: bool(flow.taps), PATIENCE_S)
            await until(lambda: not flow.taps and not call.session.core._recording.is_on, PATIENCE_S)
            assert call.session.core.trail.tell is None
            assert not call.it.gateway.watching._watches

    watching(check)


def test_a_call_of_another_worker() -> None:
    """Two workers as `--workers 2` has them: the call is with one, whoever watches comes to the other."""

    async def main() -> None:
        phones.clear()
        with tempfile.TemporaryDirectory() as folder:  # a Unix socket's path must be short
            async with AsyncExitStack() as stack:
                here, there = [await worker(stack, Path(folder), number) for number in range(2)]
                for _ in range(3000):
                    if await there.gateway.colleagues.others(time.time()):
                        break
                    await asyncio.sleep(0.01)
                async with live(here) as call:
                    elsewhere = Live(there, call.session, call.bot, call.over)
                    async with elsewhere.client() as http:
                        found = (await http.get(f"{call.path}/timeline")).json()
                        assert {"what": "state", "detail": "live"}.items() <= found["events"][0].items()
                        assert (await http.get("calls/twilio/nobody/timeline")).status_code == 404
                        assert (await http.post("calls/twilio/nobody/rtvi", json={})).status_code == 404
                    async with elsewhere.watched(scope="control", audio="mixed") as eye:
                        assert there.gateway.watching.watchers == 1
                        assert (await eye.told("call"))["call_id"] == call.session.core.info.call_id
                        assert (await eye.ask("echo", "far"))["data"]["d"] == "far"
                        await until(lambda: bool(eye.sound), PATIENCE_S)
                        await eye.ask("call.end", {"reason": "from-afar"})
                        assert (await eye.told("over"))["reason"] == "from-afar"
                        await eye.socket.wait_closed()
                        assert eye.socket.close_code == 1000
                    async with live(here) as other:
                        beyond = Live(there, other.session, other.bot, other.over)
                        async with beyond.watched() as eye:
                            await eye.told("call")
                        await until(lambda: not here.gateway.watching._watches, PATIENCE_S)  # it hears that he has left
                        await until(lambda: not there.gateway.watching.watchers, PATIENCE_S)

    run(main(), limit_s=300)


def test_the_process_ends_while_somebody_watches() -> None:
    """Of a call here, and of a call that is with a colleague."""

    async def main() -> None:
        phones.clear()
        with tempfile.TemporaryDirectory() as folder:
            async with AsyncExitStack() as stack:
                here, there = [await worker(stack, Path(folder), number) for number in range(2)]
                for _ in range(3000):
                    if await there.gateway.colleagues.others(time.time()):
                        break
                    await asyncio.sleep(0.01)
                call = await stack.enter_async_context(live(here))
                eyes = [
                    await stack.enter_async_context(Live(at, call.session, call.bot, call.over).watched())
                    for at in (here, there)
                ]
                for eye in eyes:
                    await eye.told("call")
                for at in (there, here):
                    at.server.should_exit = True
                for eye in eyes:
                    await asyncio.wait_for(eye.socket.wait_closed(), PATIENCE_S)
                await until(lambda: not (here.gateway.watching.watchers or there.gateway.watching.watchers), PATIENCE_S)
                await until(lambda: not here.gateway.watching._watches, PATIENCE_S)

    run(main(), limit_s=300)


async def worker(stack: AsyncExitStack, folder: Path, number: int) -> Served:
    settings = Settings(
        gateway=GatewaySettings(max_lateness_ms=0.0),
        carriers={name: socket_only(name) for name in ("twilio",)},
        bots={"bot": BotEntry(name="bot", use="echo")},
    )
    design_filters(settings)
    store = SqlStore(f"sqlite:///{folder / 'gateway.db'}")
    key = "of a test, and long enough for one"
    gateway = Gateway(settings, {"bot": phone}, store=store, endpoint=str(folder / f"{number}.sock"), token_key=key)
    running = server(gateway, host="127.0.0.1", port=0)
    task = asyncio.create_task(running.serve())
    await running.up.wait()

    async def stop() -> None:
        running.should_exit = True
        await task

    stack.push_async_callback(stop)
    return Served(gateway, running, Kept())
