"""WebsocketServerTransport: it listens by itself, one client at a time, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from bots.runtime import PipelineParams, PipelineTask
from gateway.simulator.caller import place_call
from gateway.simulator.script import HangUp, Press, Say, Script, after
from gateway.transports.server import (
    WebSocketServerParams,
    WebsocketServerParams,
    WebSocketServerTransport,
    WebsocketServerTransport,
)
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    ClientConnectedFrame,
    EndFrame,
    ErrorFrame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InputTransportMessageFrame,
    OutputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from media.pipeline import Pipeline
from serializers.exotel import ExotelFrameSerializer
from serializers.genesys import GenesysAudioHookSerializer
from serializers.plivo import PlivoFrameSerializer
from serializers.protobuf import ProtobufFrameSerializer
from serializers.telnyx import TelnyxFrameSerializer
from serializers.twilio import TwilioFrameSerializer
from serializers.vonage import VonageFrameSerializer
from tests.endtoend.served import TELEPHONY
from tests.transports.programs import PHONE, EchoProcessor
from tests.transports.serving import LIMITS, fake, go, loud_s, nothing_left, tone, until, words
from tests.transports.test_fastapi import Watch


class Listening:
    """A bot that waits for its clients."""

    def __init__(self, pipeline: PipelineParams, *middle: Any, **params: Any) -> None:
        on = {"audio_in_enabled": True, "audio_out_enabled": True}
        self.transport = WebsocketServerTransport(
            WebsocketServerParams(**{**on, **params}), host="127.0.0.1", port=0, input_name="in", output_name="out"
        )
        self.events: list[str] = []
        self.clients: list[Any] = []
        self.watch = Watch()
        row = [self.transport.input(), *middle, self.watch, self.transport.output()]
        self.task = PipelineTask(Pipeline(row), params=pipeline)
        for name in ("on_client_connected", "on_client_disconnected", "on_session_timeout"):
            self._note(name)
        self.ready = asyncio.Event()

        @self.transport.event_handler("on_websocket_ready")
        async def ready(transport: Any) -> None:
            assert transport is self.transport
            self.ready.set()

    def _note(self, name: str) -> None:
        async def note(transport: Any, client: Any) -> None:
            self.events.append(name)
            if client not in self.clients:
                self.clients.append(client)

        self.transport.add_event_handler(name, note)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.transport.port}"


@contextlib.asynccontextmanager
async def listening(
    *middle: Any, pipeline: PipelineParams = PHONE, alone: bool = True, **params: Any
) -> AsyncIterator[Listening]:
    """A bot that listens; `alone`: nothing else goes on, so whatever is left afterwards is its own."""
    async with nothing_left() if alone else contextlib.nullcontext():
        bot = Listening(pipeline, *middle, **params)
        run = asyncio.create_task(bot.task.run())
        try:
            await asyncio.wait_for(bot.ready.wait(), 60)
            yield bot
        finally:
            await bot.task.cancel()
            await asyncio.wait_for(run, 60)


def frames(data: Any) -> list[Any]:
    return list(ProtobufFrameSerializer().decode(data))


async def take(client: ClientConnection, kind: type, limit_s: float = 60.0) -> Any:
    """The next frame of that kind that the client gets."""
    async with asyncio.timeout(limit_s):
        while True:
            for frame in frames(await client.recv()):
                if isinstance(frame, kind):
                    return frame


def hello(n: int) -> bytes:
    (data,) = ProtobufFrameSerializer().encode(OutputTransportMessageUrgentFrame({"hello": n}))
    assert isinstance(data, bytes)
    return data


def microphone(pcm: bytes) -> bytes:
    (data,) = ProtobufFrameSerializer().encode(OutputAudioRawFrame(pcm, 16000, 1))
    assert isinstance(data, bytes)
    return data


# ---------------------------------------------------------------- clients come and go


def test_older_spellings() -> None:
    assert WebSocketServerTransport is WebsocketServerTransport
    assert WebSocketServerParams is WebsocketServerParams


def test_a_client_talks_and_hears() -> None:
    async def main() -> None:
        async with listening(serializer=ProtobufFrameSerializer()) as bot, connect(bot.url) as client:
            await until(lambda: ClientConnectedFrame in bot.watch)
            await until(lambda: bot.events == ["on_client_connected"])
            await client.send(microphone(bytes(512)))
            await client.send(hello(1))
            await client.send("a text message, which is none of its")
            await until(lambda: InputTransportMessageFrame in bot.watch)
            assert bot.watch.of(InputAudioRawFrame)[0].sample_rate == 8000
            bot.task.queue_frame(OutputTransportMessageUrgentFrame({"answer": 1}))
            assert (await take(client, InputTransportMessageFrame)).message == {"answer": 1}
            bot.task.queue_frames([TTSStartedFrame(), TTSAudioRawFrame(tone(0.2), 8000, 1), TTSStoppedFrame()])
            audio = await take(client, InputAudioRawFrame)
            assert (audio.sample_rate, len(audio.audio)) == (8000, 640)

    go(main)


def test_one_client_after_the_other() -> None:
    async def main() -> None:
        async with listening(serializer=ProtobufFrameSerializer()) as bot:
            for n in range(3):
                async with connect(bot.url) as client:
                    await client.send(hello(n))
                    await until(lambda n=n: len(bot.watch.of(InputTransportMessageFrame)) == n + 1)
                await until(lambda n=n: bot.events.count("on_client_disconnected") == n + 1)
            assert bot.events == ["on_client_connected", "on_client_disconnected"] * 3
            assert len(bot.clients) == 3
            assert len(bot.watch.of(ClientConnectedFrame)) == 3
            assert len(bot.watch.of(StartFrame)) == 1

    go(main)


def test_a_newcomer_closes_the_older_one() -> None:
    async def main() -> None:
        async with listening(serializer=ProtobufFrameSerializer()) as bot, connect(bot.url) as old:
            await until(lambda: "on_client_connected" in bot.events)
            bot.task.queue_frames([TTSStartedFrame(), TTSAudioRawFrame(tone(5.0), 8000, 1)])
            await until(lambda: BotStartedSpeakingFrame in bot.watch)
            async with connect(bot.url) as new:
                async with asyncio.timeout(60):
                    async for _ in old:  # until it is closed
                        pass
                assert old.close_code == 1000
                await until(lambda: BotStoppedSpeakingFrame in bot.watch)
                assert bot.events == ["on_client_connected", "on_client_disconnected", "on_client_connected"]
                await new.send(hello(2))
                await until(lambda: InputTransportMessageFrame in bot.watch)
                bot.task.queue_frame(TTSAudioRawFrame(tone(0.2, 900), 8000, 1))
                audio = await take(new, InputAudioRawFrame)
                assert audio.audio == tone(0.2, 900)[: len(audio.audio)]  # nothing of what was for the older one

    go(main)


def test_while_nobody_is_there_nothing_is_held_up() -> None:
    async def main() -> None:
        async with nothing_left():
            bot = Listening(PHONE, serializer=ProtobufFrameSerializer())
            run = asyncio.create_task(bot.task.run())
            await asyncio.wait_for(bot.ready.wait(), 60)
            began = asyncio.get_running_loop().time()
            bot.task.queue_frames([TTSStartedFrame(), TTSAudioRawFrame(tone(30.0), 8000, 1), TTSStoppedFrame()])
            bot.task.queue_frame(EndFrame())
            await asyncio.wait_for(run, 60)
            assert asyncio.get_running_loop().time() - began < 15  # of 30 s of tone
            assert BotStartedSpeakingFrame not in bot.watch
            with pytest.raises(OSError):
                await connect(bot.url, open_timeout=1)

    go(main)


def test_the_end_lets_the_client_hear_the_last_word() -> None:
    async def main() -> None:
        async with listening(serializer=ProtobufFrameSerializer(), audio_out_end_silence_secs=0) as bot:
            heard = bytearray()
            async with connect(bot.url) as client:
                await until(lambda: "on_client_connected" in bot.events)
                bot.task.queue_frames([TTSStartedFrame(), TTSAudioRawFrame(tone(0.5), 8000, 1), TTSStoppedFrame()])
                bot.task.queue_frame(EndFrame())
                async for data in client:
                    heard += b"".join(f.audio for f in frames(data) if isinstance(f, InputAudioRawFrame))
                assert client.close_code == 1000
            assert bytes(heard) == tone(0.5)
            assert "on_client_disconnected" not in bot.events

    go(main)


def test_session_timeout() -> None:
    async def main() -> None:
        async with (
            listening(serializer=ProtobufFrameSerializer(), session_timeout=0.1) as bot,
            connect(bot.url) as client,
        ):
            await until(lambda: "on_session_timeout" in bot.events)
            await client.send(hello(1))
            await until(lambda: InputTransportMessageFrame in bot.watch)

    go(main)


def test_a_port_that_is_taken_ends_the_pipeline() -> None:
    async def main() -> None:
        async with listening(serializer=ProtobufFrameSerializer()) as first:
            second = Listening(PHONE, serializer=ProtobufFrameSerializer())
            second.transport.port = first.transport.port
            errors: list[ErrorFrame] = []
            second.task.add_event_handler("on_pipeline_error", lambda task, frame: errors.append(frame))
            await asyncio.wait_for(second.task.run(), 60)
            assert "cannot listen on 127.0.0.1" in errors[0].error

    go(main)


# ---------------------------------------------------------------- the carriers' programs


def serializer_of(name: str) -> Any:
    """As the documentation's programs build them, for a call that is not there yet."""
    return {
        "twilio": lambda: TwilioFrameSerializer(
            stream_sid="unknown yet", params=TwilioFrameSerializer.InputParams(auto_hang_up=False)
        ),
        "telnyx": lambda: TelnyxFrameSerializer(
            stream_id="unknown yet",
            outbound_encoding="PCMU",
            inbound_encoding="PCMU",
            params=TelnyxFrameSerializer.InputParams(auto_hang_up=False),
        ),
        "plivo": lambda: PlivoFrameSerializer(
            stream_id="unknown yet", params=PlivoFrameSerializer.InputParams(auto_hang_up=False)
        ),
        "exotel": lambda: ExotelFrameSerializer(stream_sid="unknown yet"),
        "vonage": VonageFrameSerializer,
        "genesys": GenesysAudioHookSerializer,
    }[name]()


def test_every_carrier_twice_on_one_transport() -> None:
    """The second call has ids of its own: a serializer that kept the first one's would be refused by the carrier."""
    script = Script().then(after(0.2), Say(words(0.4))).then(after(0.5), Press("7")).then(after(0.1), HangUp())

    async def one(name: str) -> None:
        echo = EchoProcessor()
        async with listening(echo, alone=False, serializer=serializer_of(name), add_wav_header=False) as bot:
            for n in range(2):
                report = await place_call(fake(name), bot.url + "/", script, limits=LIMITS)
                assert report.ok, (name, n, report.problems)
                assert loud_s(report.heard, report.heard_rate) > 0.3, (name, n)
                await until(lambda n=n: bot.events.count("on_client_disconnected") == n + 1)
            assert echo.digits == "77"
            assert InputDTMFFrame not in bot.watch

    async def main() -> None:
        async with nothing_left():
            await asyncio.gather(*(one(name) for name in TELEPHONY))

    go(main)
