"""Users' own serializers: the async face only, subclasses of a carrier's, and what goes wrong in them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.transports.faces import Faces, Silence
from media.frames import (
    CancelFrame,
    ClientConnectedFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    KeypadEntry,
    OutputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
    StartFrame,
)
from serializers.base import FrameSerializer, FrameSerializerType
from serializers.exotel import ExotelFrameSerializer
from serializers.genesys import GenesysAudioHookSerializer
from serializers.plivo import PlivoFrameSerializer
from serializers.protobuf import ProtobufFrameSerializer
from serializers.telnyx import TelnyxFrameSerializer
from serializers.twilio import TwilioFrameSerializer
from serializers.vonage import VonageFrameSerializer
from tests.transports.serving import MemoryWebSocket, fake, loud_s, tone, until
from tests.transports.test_fastapi import OPENING, digit, go, heard, media, running, twilio


class MyCustomSerializer(FrameSerializer):
    """As the documentation of Pipecat has it."""

    def __init__(self, *, waits_s: float = 0.0) -> None:
        super().__init__()
        self.rate = 0
        self.out: list[type[Frame]] = []
        self._waits_s = waits_s

    @property
    def type(self) -> FrameSerializerType:
        return FrameSerializerType.BINARY

    async def setup(self, frame: StartFrame) -> None:
        await asyncio.sleep(self._waits_s)
        self.rate = frame.audio_in_sample_rate

    async def serialize(self, frame: Frame) -> str | bytes | None:
        assert self.rate, "setup comes first"
        await asyncio.sleep(self._waits_s)
        self.out.append(type(frame))
        if isinstance(frame, OutputAudioRawFrame):
            return frame.audio
        if isinstance(frame, InterruptionFrame):
            return '{"clear":true}'
        if isinstance(frame, OutputTransportMessageUrgentFrame):
            return json.dumps(frame.message)
        if isinstance(frame, EndFrame | CancelFrame):
            return '{"bye":true}'
        return None

    async def deserialize(self, data: str | bytes) -> Frame | None:
        assert self.rate, "setup comes first"
        await asyncio.sleep(self._waits_s)
        if isinstance(data, bytes):
            return InputAudioRawFrame(data, self.rate, 1)
        if data == "ping":
            return OutputTransportMessageUrgentFrame({"pong": True})
        if data == "bad":
            raise KeyError("bad")
        return InputDTMFFrame(KeypadEntry(data)) if data in "0123456789" else None


class Duck:
    """Nobody's subclass."""

    def __init__(self) -> None:
        self._inner = MyCustomSerializer()
        self.out = self._inner.out

    async def setup(self, frame: StartFrame) -> None:
        await self._inner.setup(frame)

    async def serialize(self, frame: Frame) -> str | bytes | None:
        return await self._inner.serialize(frame)

    async def deserialize(self, data: str | bytes) -> Frame | None:
        return await self._inner.deserialize(data)


@pytest.mark.parametrize(
    "serializer",
    [lambda: MyCustomSerializer(), lambda: MyCustomSerializer(waits_s=0.002), lambda: Duck()],
    ids=["at once", "waiting", "no subclass"],
)
def test_a_serializer_with_the_async_face_only(serializer: Any) -> None:
    async def main() -> None:
        own = serializer()
        first = ["1", "bad", b"\1\0" * 160, "?", "2", "ping"]
        async with running(twilio(serializer=own, audio_out_end_silence_secs=0), *first) as bot:
            await until(lambda: len(bot.watch.of(InputDTMFFrame)) == 2)
            kinds = [type(frame).__name__ for frame in bot.watch.of(InputDTMFFrame, InputAudioRawFrame)]
            assert kinds == ["InputDTMFFrame", "InputAudioRawFrame", "InputDTMFFrame"]
            await until(lambda: '{"pong": true}' in bot.websocket.sent)
            await bot.say(tone(0.4))
            await until(lambda: len(bot.websocket.audio) == 6400)
            assert bot.websocket.audio == tone(0.4)
            assert {len(data) for data in bot.websocket.sent if isinstance(data, bytes)} == {640}  # 40 ms
            await bot.say(tone(3.0))
            await until(lambda: len(bot.websocket.audio) > 8000)
            bot.task.queue_frame(InterruptionFrame())
            await until(lambda: '{"clear":true}' in bot.websocket.sent)
            await asyncio.sleep(0.15)
            assert bot.websocket.sent[-1] == '{"clear":true}'
            bot.task.queue_frame(EndFrame())
            await bot.over()
            assert bot.websocket.sent[-1] == '{"bye":true}'
            assert bot.websocket.closed_with == 1000
        assert own.out.count(EndFrame) == 1
        assert set(own.out) == {OutputAudioRawFrame, InterruptionFrame, OutputTransportMessageUrgentFrame, EndFrame}

    go(main)


def test_cancel_is_given_to_it_as_cancel() -> None:
    async def main() -> None:
        own = MyCustomSerializer()
        async with running(twilio(serializer=own)) as bot:
            await bot.task.cancel()
            await bot.over()
        assert own.out == [CancelFrame]

    go(main)


def test_pieces_of_a_fixed_size() -> None:
    async def main() -> None:
        own = MyCustomSerializer()
        params = twilio(serializer=own, fixed_audio_packet_size=500, audio_out_end_silence_secs=0)
        async with running(params) as bot:
            await bot.say(tone(0.1))
            bot.task.queue_frame(EndFrame())
            await bot.over()
            assert [len(data) for data in bot.websocket.sent if isinstance(data, bytes)] == [500] * 4
            assert bot.websocket.audio == tone(0.1) + bytes(400)

    go(main)


def test_what_it_raises_ends_nothing() -> None:
    class Broken(MyCustomSerializer):
        async def serialize(self, frame: Frame) -> str | bytes | None:
            raise RuntimeError("broken")

    class BrokenPlain(TwilioFrameSerializer):
        def encode(self, frame: Frame) -> Any:
            raise RuntimeError("broken")

    async def main() -> None:
        plain = BrokenPlain("MZ1", params=TwilioFrameSerializer.InputParams(auto_hang_up=False))
        for own in (Broken(), plain):
            with capture_logs() as logs:
                async with running(twilio(serializer=own, audio_out_end_silence_secs=0)) as bot:
                    await bot.say(tone(0.5))
                    bot.task.queue_frame(EndFrame())
                    await bot.over()
                    assert bot.websocket.closed_with == 1000
            failures = [entry["count"] for entry in logs if entry["event"] == "transport.serialize_failed"]
            assert failures[:3] == [1, 2, 4]
            assert all(entry["event"] != "clock.member_failed" for entry in logs)

    go(main)


def test_a_set_up_that_fails() -> None:
    class NoSetup(MyCustomSerializer):
        async def setup(self, frame: StartFrame) -> None:
            self.rate = 8000
            raise RuntimeError("no")

    async def main() -> None:
        async with running(twilio(serializer=NoSetup()), "1") as bot:
            await until(lambda: InputDTMFFrame in bot.watch)

    go(main)


# ---------------------------------------------------------------- subclasses of a carrier's


class Counting(TwilioFrameSerializer):
    """Looks at everything, and changes nothing that can be heard."""

    def __init__(self) -> None:
        super().__init__("MZ1", params=self.InputParams(auto_hang_up=False))
        self.seen: list[str] = []

    async def serialize(self, frame: Frame) -> str | bytes | None:
        self.seen.append(type(frame).__name__)
        return await super().serialize(frame)

    async def deserialize(self, data: str | bytes) -> Frame | None:
        await asyncio.sleep(0)
        frame: Any = await super().deserialize(data)
        if isinstance(frame, InputAudioRawFrame):
            frame.audio = bytearray(frame.audio)  # any buffer will do
        return frame


def test_a_carriers_subclass_keeps_what_the_carrier_knows() -> None:
    async def main() -> None:
        own = Counting()
        async with running(twilio(serializer=own), *OPENING, media(tone(0.1)), digit("7"), parse=True) as bot:
            await until(lambda: InputDTMFFrame in bot.watch)
            assert InputAudioRawFrame in bot.watch
            await bot.say(tone(0.3))
            bot.task.queue_frame(EndFrame())
            with capture_logs() as logs:
                await bot.over()
            assert loud_s(heard(bot.websocket), 8000) == pytest.approx(0.3, abs=0.02)
            (ended,) = [entry for entry in logs if entry["event"] == "call.ended"]
            assert (ended["carrier"], ended["call"]) == ("twilio", "CA1")
            assert ended["heard_ms"] == 300
        assert {"OutputAudioRawFrame", "MarkFrame", "EndFrame"} <= set(own.seen)

    go(main)


def test_genesys_is_answered_also_by_a_subclass() -> None:
    class Mine(GenesysAudioHookSerializer):
        async def deserialize(self, data: str | bytes) -> Frame | None:
            return await super().deserialize(data)

    async def main() -> None:
        for serializer in (Mine(), GenesysAudioHookSerializer()):
            carrier = fake("genesys")
            async with running(twilio(serializer=serializer), *carrier.opening(0.0)) as bot:
                await until(lambda: bool(bot.websocket.messages))
                assert [message["type"] for message in bot.websocket.messages] == ["opened"]
                for message in carrier.hang_up(1.0):
                    bot.websocket.say(message)
                await until(lambda: "on_client_disconnected" in bot.events)
                await until(lambda: bot.websocket.messages[-1]["type"] == "closed")
                bot.websocket.leave()
                assert ClientConnectedFrame in bot.watch

    go(main)


def test_what_is_said_before_genesys_has_opened_waits_for_it() -> None:
    async def main() -> None:
        carrier = fake("genesys")
        async with running(twilio(serializer=GenesysAudioHookSerializer())) as bot:
            await bot.say(tone(0.4))
            await asyncio.sleep(0.2)
            assert bot.websocket.sent == []
            for message in carrier.opening(0.0):
                bot.websocket.say(message)
            await until(lambda: len(bot.websocket.audio) == 3200)
            assert bot.websocket.messages[0]["type"] == "opened"
            assert isinstance(bot.websocket.sent[0], str)
            bot.websocket.leave()

    go(main)


def test_a_genesys_that_never_opens_does_not_hold_the_end_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from gateway.transports import call

    monkeypatch.setattr(call, "LIMITS", dataclasses.replace(call.LIMITS, start_s=0.3))

    async def main() -> None:
        async with running(twilio(serializer=GenesysAudioHookSerializer())) as bot:
            await bot.say(tone(0.4))
            bot.task.queue_frame(EndFrame())
            await until(lambda: "on_client_disconnected" in bot.events)
            await bot.over(2.0)
            assert bot.websocket.closed_with == 1008

    go(main)


def test_a_rate_that_the_start_message_corrects() -> None:
    async def main() -> None:
        opening = '{"event":"websocket:connected","content-type":"audio/l16;rate=8000"}'
        for parse in (False, True):
            serializer = VonageFrameSerializer()  # 16000 Hz, as far as it knows
            async with running(twilio(serializer=serializer), opening, parse=parse) as bot:
                await until(lambda: ClientConnectedFrame in bot.watch)
                await asyncio.sleep(0.05)
                await bot.say(tone(0.2))
                bot.task.queue_frame(EndFrame())
                await bot.over()
                assert {len(data) for data in bot.websocket.sent if isinstance(data, bytes)} == {320}
                assert bot.websocket.audio == tone(0.2)

    go(main)


# ---------------------------------------------------------------- which face


@pytest.mark.parametrize(
    "make",
    [
        lambda: TwilioFrameSerializer("s", params=TwilioFrameSerializer.InputParams(auto_hang_up=False)),
        lambda: TelnyxFrameSerializer(
            "s", "PCMU", "PCMU", params=TelnyxFrameSerializer.InputParams(auto_hang_up=False)
        ),
        lambda: PlivoFrameSerializer("s", params=PlivoFrameSerializer.InputParams(auto_hang_up=False)),
        lambda: ExotelFrameSerializer("s"),
        VonageFrameSerializer,
        GenesysAudioHookSerializer,
        ProtobufFrameSerializer,
        Silence,
    ],
)
def test_ours_are_never_awaited(make: Any) -> None:
    serializer = make()
    faces = Faces(serializer)
    assert faces.wire is serializer
    assert (faces.setup, faces.serialize, faces.waits_in) == (None, None, False)


def test_a_plain_subclass_is_not_awaited_and_an_overridden_face_is() -> None:
    class Plain(VonageFrameSerializer):
        def decode(self, data: Any) -> Any:
            return super().decode(data)

        def encode(self, frame: Frame) -> Any:
            return super().encode(frame)

    class Out(VonageFrameSerializer):
        async def serialize(self, frame: Frame) -> Any:
            return None

    class In(VonageFrameSerializer):
        async def deserialize(self, data: Any) -> Any:
            return None

    class Setup(VonageFrameSerializer):
        async def setup(self, frame: StartFrame) -> None:
            pass

    def waits(serializer: Any) -> tuple[bool, bool, bool]:
        faces = Faces(serializer)
        return faces.setup is not None, faces.waits_in, faces.serialize is not None

    assert waits(Plain()) == (False, False, False)
    assert waits(Out()) == (False, False, True)
    assert waits(In()) == (False, True, False)
    assert waits(Setup()) == (True, False, False)
    assert waits(MyCustomSerializer()) == (True, True, True)


def test_a_socket_double_of_a_program_is_enough() -> None:
    assert {"receive", "send_text", "send_bytes", "close"} <= set(dir(MemoryWebSocket))
