"""Deepgram's two sockets, and what every vendor's socket has in common, against a server that speaks them."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection

from bots.services.deepgram import DeepgramSTTService, DeepgramTTSService
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.frames import (
    EndFrame,
    ErrorFrame,
    InterimTranscriptionFrame,
    InterruptionFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from tests.bots.services.rig import Rig, pipeline, settle, voice
from tests.bots.services.socket_vendor import SocketVendor, say
from tests.endtoend.served import run, until


def results(text: str, *, final: bool = True, finalized: bool = False) -> dict[str, Any]:
    alternatives = [{"transcript": text, "confidence": 0.9, "words": []}]
    return {
        "type": "Results",
        "is_final": final,
        "speech_final": final,
        "from_finalize": finalized,
        "channel": {"alternatives": alternatives},
    }


def errors(rig: Rig) -> list[str]:
    return [frame.error for frame in rig.before.up if isinstance(frame, ErrorFrame)]


async def listens(connection: ServerConnection, message: Any) -> None:
    if isinstance(message, dict) and message["type"] == "Finalize":
        await say(connection, results("good", final=False), results("good day", finalized=True))


def test_what_is_heard_goes_as_it_came_and_comes_back_as_text() -> None:
    async def main() -> None:
        async with SocketVendor(listens).listening() as vendor:
            stt = DeepgramSTTService(api_key="k3y", base_url=vendor.url, options={"keyterm": ["room", "night"]})
            async with pipeline(stt) as rig:
                spoken = voice(7, 10)
                await rig.push(VADUserStartedSpeakingFrame(), *spoken, VADUserStoppedSpeakingFrame())
                await until(lambda: bool(rig.after.of(TranscriptionFrame)))
                assert rig.after.of(InterimTranscriptionFrame)[0].text == "good"
                (said,) = rig.after.of(TranscriptionFrame)
                assert (said.text, said.finalized) == ("good day", True)
                assert ulaw_to_pcm(vendor.audio) == ulaw_to_pcm(pcm_to_ulaw(b"".join(f.audio for f in spoken)))
                await rig.push(EndFrame())
                await until(lambda: vendor.types()[-1] == "CloseStream")
            (request,) = vendor.requests
            assert request.headers["authorization"] == "Token k3y"
            query = parse_qs(urlsplit(request.path).query)
            assert urlsplit(request.path).path == "/v1/listen"
            assert (query["encoding"], query["sample_rate"]) == (["mulaw"], ["8000"])
            assert query["keyterm"] == ["room", "night"]
            assert errors(rig) == []

    run(main())


def test_nothing_is_lost_while_the_vendor_takes_its_time_to_connect() -> None:
    async def main() -> None:
        vendor = SocketVendor(listens)
        vendor.gate = asyncio.Event()
        async with vendor.listening(), pipeline(DeepgramSTTService(api_key="k", base_url=vendor.url)) as rig:
            await rig.push(VADUserStartedSpeakingFrame(), *voice(3, 75), VADUserStoppedSpeakingFrame())  # 1.5 s
            assert vendor.messages == []
            vendor.gate.set()
            await until(lambda: bool(rig.after.of(TranscriptionFrame)))
            assert len(vendor.audio) == 75 * 160
            assert errors(rig) == []

    run(main())


def test_a_line_that_breaks_is_opened_anew_and_what_had_no_transcript_is_sent_again() -> None:
    async def main() -> None:
        async with (
            SocketVendor(listens).listening() as vendor,
            pipeline(DeepgramSTTService(api_key="k", base_url=vendor.url)) as rig,
        ):
            await rig.push(VADUserStartedSpeakingFrame(), *voice(3, 12))
            await until(lambda: len(vendor.audio) == 12 * 160)
            vendor.connections[0].transport.abort()
            await until(lambda: len(vendor.connections) == 2)
            await rig.push(*voice(4, 12), VADUserStoppedSpeakingFrame())
            await until(lambda: bool(rig.after.of(TranscriptionFrame)))
            again = b"".join(message for message in vendor.got[1] if isinstance(message, bytes))
            assert len(again) == 24 * 160
            assert len(errors(rig)) == 1

    run(main())


def test_what_is_asked_while_the_line_is_down_is_asked_on_the_next() -> None:
    async def main() -> None:
        vendor = SocketVendor(listens)
        async with vendor.listening(), pipeline(DeepgramSTTService(api_key="k", base_url=vendor.url)) as rig:
            await rig.push(VADUserStartedSpeakingFrame(), *voice(3, 12))
            await until(lambda: len(vendor.audio) == 12 * 160)
            vendor.gate = asyncio.Event()
            vendor.connections[0].transport.abort()
            await until(lambda: len(vendor.requests) == 2)
            await rig.push(*voice(4, 12), VADUserStoppedSpeakingFrame())
            vendor.gate.set()
            await until(lambda: bool(rig.after.of(TranscriptionFrame)))
            assert len(vendor.got[1]) == 2  # all of the sound, and the question for its end
            assert len(vendor.got[1][0]) == 24 * 160

    run(main())


def test_a_vendor_that_wants_no_more_requests_is_asked_again_later_and_told_of_once() -> None:
    async def main() -> None:
        vendor = SocketVendor(listens, refusals=((429, {"Retry-After": "0"}), (503, {})))
        async with (
            vendor.listening(),
            pipeline(DeepgramSTTService(api_key="k", base_url=vendor.url)) as rig,
        ):
            await rig.push(*voice(3, 3))
            await until(lambda: len(vendor.audio) == 3 * 160)
            assert errors(rig) == ["DeepgramSTTService: refused with HTTP 429"]
            assert len(vendor.requests) == 3

    run(main())


def test_a_wrong_key_is_said_once_and_not_tried_again() -> None:
    async def main() -> None:
        vendor = SocketVendor(listens, refusals=((401, {}),) * 9)
        async with vendor.listening(), pipeline(DeepgramTTSService(api_key="k", base_url=vendor.url)) as rig:
            await until(lambda: bool(errors(rig)))
            await rig.push(TTSSpeakFrame("Hello."))
            await until(lambda: len(errors(rig)) == 2)
            assert errors(rig) == [
                "DeepgramTTSService: refused with HTTP 401",
                "DeepgramTTSService: the vendor has refused the connection",
            ]
            assert len(vendor.requests) == 1

    run(main())


def test_garbage_costs_itself_and_a_vendors_own_error_is_told() -> None:
    async def talks(connection: ServerConnection, message: Any) -> None:
        if isinstance(message, bytes):
            await say(connection, "{", "[]", '{"type":"Results","channel":5}', results("still here"))
            await say(connection, {"type": "Error", "description": "out of credit"})

    async def main() -> None:
        async with (
            SocketVendor(talks).listening() as vendor,
            pipeline(DeepgramSTTService(api_key="k", base_url=vendor.url)) as rig,
        ):
            await rig.push(*voice(3, 3))
            await until(lambda: any("out of credit" in error for error in errors(rig)))
            assert [frame.text for frame in rig.after.of(TranscriptionFrame)] == ["still here"]

    run(main())


def test_a_silent_line_is_kept_alive() -> None:
    async def main() -> None:
        async with SocketVendor(listens).listening() as vendor:
            stt = DeepgramSTTService(api_key="k", base_url=vendor.url)
            async with pipeline(stt):
                assert stt._line is not None
                stt._line._idle_s = 0.01
                await until(lambda: bool(vendor.connections))
                stt._line.send(b"\xff")
                await until(lambda: vendor.types().count("KeepAlive") >= 2)

    run(main())


# ---------------------------------------------------------------- speech


class Voice:
    """Speaks each text as one byte of mu-law for each letter; `held` texts only when it is let go."""

    def __init__(self) -> None:
        self.text = ""
        self.held = asyncio.Event()
        self.held.set()

    async def __call__(self, connection: ServerConnection, message: Any) -> None:
        if message["type"] == "Speak":
            self.text = message["text"]
        elif message["type"] == "Flush":
            await say(connection, b"\x80" * len(self.text))
            if self.held.is_set():
                await say(connection, {"type": "Flushed", "sequence_id": 0})
        elif message["type"] == "Clear":
            await say(connection, b"\x80" * 50, {"type": "Cleared", "sequence_id": 0})


def spoken(rig: Rig) -> int:
    return sum(len(frame.audio) // 2 for frame in rig.after.of(TTSAudioRawFrame))


def test_speech_comes_in_order_and_each_piece_ends() -> None:
    async def main() -> None:
        async with (
            SocketVendor(Voice()).listening() as vendor,
            pipeline(DeepgramTTSService(api_key="k", base_url=vendor.url)) as rig,
        ):
            await rig.push(TTSSpeakFrame("One."), TTSSpeakFrame("Three."))
            await until(lambda: len(rig.after.of(TTSStoppedFrame)) == 2)
            assert spoken(rig) == 10
            assert [frame.text for frame in rig.after.of(TTSTextFrame)] == ["One.", "Three."]
            query = parse_qs(urlsplit(vendor.requests[0].path).query)
            assert (query["encoding"], query["container"]) == (["mulaw"], ["none"])

    run(main())


def test_an_interruption_clears_and_what_still_comes_is_not_heard() -> None:
    async def main() -> None:
        mouth = Voice()
        mouth.held.clear()
        async with (
            SocketVendor(mouth).listening() as vendor,
            pipeline(DeepgramTTSService(api_key="k", base_url=vendor.url)) as rig,
        ):
            await rig.push(TTSSpeakFrame("A long one."))
            await until(lambda: spoken(rig) == 11)
            await rig.push(InterruptionFrame())
            await until(lambda: "Clear" in vendor.types())
            mouth.held.set()
            await rig.push(TTSSpeakFrame("Anew."))
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
            assert spoken(rig) == 11 + 5

    run(main())


def test_a_line_that_breaks_in_mid_speech_ends_the_piece_and_the_next_is_spoken() -> None:
    async def main() -> None:
        mouth = Voice()
        mouth.held.clear()
        async with (
            SocketVendor(mouth).listening() as vendor,
            pipeline(DeepgramTTSService(api_key="k", base_url=vendor.url)) as rig,
        ):
            await rig.push(TTSSpeakFrame("A long one."))
            await until(lambda: spoken(rig) == 11)
            vendor.connections[0].transport.abort()
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
            assert len(errors(rig)) == 1
            mouth.held.set()
            await rig.push(TTSSpeakFrame("Anew."))
            await until(lambda: len(rig.after.of(TTSStoppedFrame)) == 2)
            assert spoken(rig) == 16

    run(main())


def test_a_vendor_that_says_nothing_is_given_up_in_time() -> None:
    async def silent(connection: ServerConnection, message: Any) -> None:
        pass

    async def main() -> None:
        async with SocketVendor(silent).listening() as vendor:
            tts = DeepgramTTSService(api_key="k", base_url=vendor.url)
            tts.patience_s = 0.05
            async with pipeline(tts) as rig:
                await rig.push(TTSSpeakFrame("Hello."), EndFrame())
                await until(lambda: bool(rig.after.of(EndFrame)))
                assert errors(rig) == ["TimeoutError: no speech in time"]
                await settle()

    run(main())
