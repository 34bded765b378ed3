"""Cartesia and ElevenLabs: contexts, word times and cancelling, against servers that speak their protocols."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.server import ServerConnection

from bots.services.cartesia import CartesiaTTSService
from bots.services.elevenlabs import MOST_CONTEXTS, ElevenLabsTTSService
from bots.services.providers import choose
from media.errors import ConfigError, ConfigErrors
from media.frames import ErrorFrame, InterruptionFrame, TTSAudioRawFrame, TTSSpeakFrame, TTSStoppedFrame, TTSTextFrame
from tests.bots.services.rig import Rig, pipeline
from tests.bots.services.socket_vendor import SocketVendor, say
from tests.endtoend.served import run, until


def heard(rig: Rig) -> list[str | int]:
    """Words, and how many samples came between them."""
    found: list[str | int] = []
    for frame in rig.after.of(TTSTextFrame, TTSAudioRawFrame):
        if isinstance(frame, TTSTextFrame):
            found.append(frame.text)
        elif found and isinstance(found[-1], int):
            found[-1] += len(frame.audio) // 2
        else:
            found.append(len(frame.audio) // 2)
    return found


def b64(samples: int) -> str:
    return base64.b64encode(b"\x80" * samples).decode()


def texts(rig: Rig) -> list[str]:
    return [frame.error for frame in rig.before.up if isinstance(frame, ErrorFrame)]


class Cartesia:
    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.held.set()

    async def __call__(self, connection: ServerConnection, message: Any) -> None:
        context = message["context_id"]
        if message.get("cancel"):
            await say(connection, {"type": "chunk", "context_id": context, "data": b64(800), "done": False})
            await say(connection, {"type": "error", "context_id": context, "error": "cancelled", "done": True})
            return
        if message["transcript"] == "Bad.":
            await say(connection, {"type": "error", "context_id": context, "error": "no such voice", "done": True})
            return
        words = message["transcript"].split()
        times = {"words": words, "start": [0.1 * at for at in range(len(words))], "end": []}
        await say(
            connection,
            {"type": "timestamps", "context_id": context, "word_timestamps": times, "done": False},
            {"type": "chunk", "context_id": context, "data": b64(800 * len(words)), "done": False},
        )
        if self.held.is_set():
            await say(connection, {"type": "done", "context_id": context, "done": True})


def test_cartesia_speaks_with_word_times_in_the_telephones_own_code() -> None:
    async def main() -> None:
        async with SocketVendor(Cartesia()).listening() as vendor:
            tts = CartesiaTTSService(api_key="k", voice_id="ann", base_url=vendor.url, options={"speed": "slow"})
            async with pipeline(tts) as rig:
                await rig.push(TTSSpeakFrame("one two"), TTSSpeakFrame("three"))
                await until(lambda: len(rig.after.of(TTSStoppedFrame)) == 2)
                assert heard(rig) == ["one", 800, "two", 800, "three", 800]
                first, second = vendor.messages
                assert first["context_id"] != second["context_id"]
                assert first["output_format"] == {"container": "raw", "encoding": "pcm_mulaw", "sample_rate": 8000}
                assert (first["voice"], first["speed"]) == ({"mode": "id", "id": "ann"}, "slow")
                assert vendor.requests[0].headers["x-api-key"] == "k"

    run(main())


def test_cartesia_is_told_what_is_not_wanted_and_its_rest_is_not_heard() -> None:
    async def main() -> None:
        mouth = Cartesia()
        mouth.held.clear()
        async with (
            SocketVendor(mouth).listening() as vendor,
            pipeline(CartesiaTTSService(api_key="k", base_url=vendor.url)) as rig,
        ):
            await rig.push(TTSSpeakFrame("one two three"))
            await until(lambda: "three" in heard(rig))
            await rig.push(InterruptionFrame())
            await until(lambda: vendor.messages[-1].get("cancel"))
            assert vendor.messages[-1]["context_id"] == vendor.messages[0]["context_id"]
            mouth.held.set()
            await rig.push(TTSSpeakFrame("anew"))
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
            assert heard(rig) == ["one", 800, "two", 800, "three", 800, "anew", 800]
            assert texts(rig) == []

    run(main())


def test_cartesias_error_costs_its_own_sentence() -> None:
    async def main() -> None:
        async with (
            SocketVendor(Cartesia()).listening() as vendor,
            pipeline(CartesiaTTSService(api_key="k", base_url=vendor.url)) as rig,
        ):
            await rig.push(TTSSpeakFrame("Bad."), TTSSpeakFrame("good"))
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
            assert heard(rig) == ["good", 800]
            assert texts(rig) == ["cartesia: no such voice"]

    run(main())


class Eleven:
    """Two chunks for each text, cut in the middle of a word: 10 ms for each letter."""

    def __init__(self, *, answers: bool = True) -> None:
        self.answers = answers
        self.open: set[str] = set()
        self.most = 0

    async def __call__(self, connection: ServerConnection, message: Any) -> None:
        context = message["context_id"]
        if message.get("close_context"):
            self.open.discard(context)
            if self.answers:
                await say(connection, {"isFinal": True, "contextId": context})
        elif message["text"] == " ":
            self.open.add(context)
            self.most = max(self.most, len(self.open))
        elif self.answers:
            text = message["text"]
            for part in (text[:5], text[5:]):
                times = {"chars": list(part), "charStartTimesMs": [10 * at for at in range(len(part))]}
                await say(connection, {"audio": b64(80 * len(part)), "alignment": times, "contextId": context})


def test_elevenlabs_words_begin_where_their_first_letter_does() -> None:
    async def main() -> None:
        async with SocketVendor(Eleven()).listening() as vendor:
            tts = ElevenLabsTTSService(
                api_key="k", voice_id="a/b", base_url=vendor.url, voice_settings={"stability": 0.4}
            )
            async with pipeline(tts) as rig:
                await rig.push(TTSSpeakFrame("Yes gladly"))
                await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
                words = [word for word in heard(rig) if isinstance(word, str)]
                assert words == ["Yes", "gladly"]
                assert sum(word for word in heard(rig) if isinstance(word, int)) == 80 * len("Yes gladly ")
                address = urlsplit(vendor.requests[0].path)
                assert address.path == "/v1/text-to-speech/a%2Fb/multi-stream-input"
                assert parse_qs(address.query)["output_format"] == ["ulaw_8000"]
                assert vendor.requests[0].headers["xi-api-key"] == "k"
                assert vendor.messages[0]["voice_settings"] == {"stability": 0.4}

    run(main())


def test_elevenlabs_is_asked_for_no_more_contexts_than_it_allows() -> None:
    async def main() -> None:
        mouth = Eleven(answers=False)
        async with (
            SocketVendor(mouth).listening() as vendor,
            pipeline(ElevenLabsTTSService(api_key="k", voice_id="v", base_url=vendor.url)) as rig,
        ):
            await rig.push(*(TTSSpeakFrame(f"Number {number}.") for number in range(7)))
            await until(lambda: len(vendor.messages) == 3 * MOST_CONTEXTS)
            await rig.push(InterruptionFrame())
            await until(lambda: len(vendor.messages) == 4 * MOST_CONTEXTS)
            mouth.answers = True
            await rig.push(TTSSpeakFrame("Anew."))
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
            assert [word for word in heard(rig) if isinstance(word, str)] == ["Anew."]
            assert sum(part for part in heard(rig) if isinstance(part, int)) == 80 * len("Anew. ")

    run(main())


@pytest.mark.parametrize("use", ["cartesia", "elevenlabs"])
def test_what_a_voice_needs_is_said_when_the_configuration_loads(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(".")
    with pytest.raises(ConfigErrors, match="voice"):
        choose("TTS", {"use": use}, here)

    async def main() -> None:
        with pytest.raises(ConfigError, match=r"key: is missing \(write key = \{ env = "):
            await choose("TTS", {"use": use, "voice": "v"}, here).prepare()
        monkeypatch.setenv("A_KEY", "s3cret")
        chosen = choose("TTS", {"use": use, "voice": "v", "key": {"env": "A_KEY"}}, here)
        await chosen.prepare()
        assert "s3cret" not in repr(chosen.settings)
        assert chosen.make().settings.voice == "v"

    run(main())
