"""FastAPIWebsocketTransport between a pipeline and a socket in memory: parameters, events, frames, ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pybase64
import pytest
from structlog.testing import capture_logs

from bots.runtime import PipelineParams, PipelineTask
from gateway.clock import Clock
from gateway.transports.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from gateway.transports.telephony import parse_telephony_websocket
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.frames import (
    BotSpeakingFrame,
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    ClientConnectedFrame,
    EndFrame,
    ErrorFrame,
    FilterEnableFrame,
    FilterUpdateSettingsFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InputTransportMessageFrame,
    InterruptionFrame,
    KeypadEntry,
    MixerEnableFrame,
    OutputAudioRawFrame,
    OutputDTMFFrame,
    OutputDTMFUrgentFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    OutputTransportReadyFrame,
    StartFrame,
    StopFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from media.pipeline import Pipeline
from media.processor import FrameDirection, FrameProcessor
from serializers.protobuf import ProtobufFrameSerializer
from serializers.twilio import TwilioFrameSerializer
from serializers.vonage import VonageFrameSerializer
from tests.media.rig import run_on_virtual_time
from tests.transports.programs import PHONE
from tests.transports.serving import MemoryWebSocket, loud_s, nothing_left, tone, until

START = json.dumps(
    {
        "event": "start",
        "streamSid": "MZ1",
        "start": {"streamSid": "MZ1", "callSid": "CA1", "accountSid": "AC1", "tracks": ["inbound"]},
    }
)
OPENING = ('{"event":"connected","protocol":"Call","version":"1.0.0"}', START)
STOP = '{"event":"stop","streamSid":"MZ1","stop":{}}'
RTVI = {"label": "rtvi-ai", "type": "server-message"}


def media(pcm: bytes) -> str:
    payload = pybase64.b64encode_as_string(pcm_to_ulaw(pcm))
    return json.dumps({"event": "media", "streamSid": "MZ1", "media": {"payload": payload}})


def digit(key: str) -> str:
    return json.dumps({"event": "dtmf", "streamSid": "MZ1", "dtmf": {"digit": key}})


def heard(websocket: MemoryWebSocket) -> bytes:
    """What a Twilio client was sent to play, at 8 kHz."""
    payloads = [message["media"]["payload"] for message in websocket.messages if message["event"] == "media"]
    return b"".join(ulaw_to_pcm(pybase64.b64decode(payload)) for payload in payloads)


def twilio(**params: Any) -> FastAPIWebsocketParams:
    serializer = TwilioFrameSerializer("MZ1", params=TwilioFrameSerializer.InputParams(auto_hang_up=False))
    on = {"audio_in_enabled": True, "audio_out_enabled": True}
    return FastAPIWebsocketParams(**{"serializer": serializer, **on, **params})


class Watch(FrameProcessor):
    """Keeps what comes by, with its direction."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Frame, FrameDirection]] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.seen.append((frame, direction))
        await self.push_frame(frame, direction)

    def of(self, *kinds: type[Frame]) -> list[Any]:
        return [frame for frame, _ in self.seen if isinstance(frame, kinds)]

    def __contains__(self, kind: type[Frame]) -> bool:
        return bool(self.of(kind))


class Running:
    """A pipeline with a transport, running."""

    def __init__(self, params: FastAPIWebsocketParams, websocket: MemoryWebSocket, pipeline: PipelineParams) -> None:
        self.websocket = websocket
        self.transport = FastAPIWebsocketTransport(websocket, params)
        self.watch, self.after = Watch(), Watch()
        self.events: list[str] = []
        transport = self.transport
        row = [transport.input(), self.watch, transport.output(), self.after]
        self.task = PipelineTask(Pipeline(row), params=pipeline)
        for name in ("on_client_connected", "on_client_disconnected", "on_session_timeout"):
            self._note(name)
        self.run: asyncio.Task[None]

    def _note(self, name: str) -> None:
        async def note(transport: Any, client: Any) -> None:
            assert transport is self.transport
            assert client is self.websocket
            self.events.append(name)

        self.transport.add_event_handler(name, note)

    async def say(self, pcm: bytes, rate: int = 8000) -> None:
        self.task.queue_frames([TTSStartedFrame(), TTSAudioRawFrame(pcm, rate, 1), TTSStoppedFrame()])

    async def over(self, limit_s: float = 60.0) -> None:
        async with asyncio.timeout(limit_s):
            await self.run


@contextlib.asynccontextmanager
async def running(
    params: FastAPIWebsocketParams,
    *messages: str | bytes,
    pipeline: PipelineParams = PHONE,
    parse: bool = False,
    wait: bool = True,
) -> AsyncIterator[Running]:
    """A bot that is up; however it ends, nothing is left."""
    async with nothing_left():
        websocket = MemoryWebSocket(*messages)
        if parse:
            await parse_telephony_websocket(websocket)
        bot = Running(params, websocket, pipeline)
        bot.run = asyncio.create_task(bot.task.run())
        try:
            if wait:
                await until(lambda: ClientConnectedFrame in bot.watch)
            yield bot
        finally:
            await bot.task.cancel()
            await asyncio.wait_for(bot.run, 60)


def go(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """There is no network in these tests: they take no time, and a slow machine changes nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "now", staticmethod(lambda: asyncio.get_running_loop().time()))
        run_on_virtual_time(main(), limit_s=30)


# ---------------------------------------------------------------- start and events


def test_events_and_first_frames() -> None:
    async def main() -> None:
        async with running(twilio(), *OPENING, media(tone(0.02)), digit("5")) as bot:
            await until(lambda: InputDTMFFrame in bot.watch)
            await until(lambda: bool(bot.events))
            kinds = [type(frame) for frame, direction in bot.watch.seen if direction is FrameDirection.DOWNSTREAM]
            assert kinds == [StartFrame, ClientConnectedFrame, InputAudioRawFrame, InputDTMFFrame]
            (ready,) = bot.watch.of(OutputTransportReadyFrame)
            assert (ready, FrameDirection.UPSTREAM) in bot.watch.seen
            assert bot.events == ["on_client_connected"]

    go(main)


def test_what_was_read_before_is_not_lost() -> None:
    async def main() -> None:
        early = [digit("1"), media(tone(0.02)), digit("2")]
        async with running(twilio(), START, *early, parse=True) as bot:
            await until(lambda: len(bot.watch.of(InputDTMFFrame)) == 2)
            kinds = [type(frame) for frame in bot.watch.of(InputDTMFFrame, InputAudioRawFrame)]
            assert kinds == [InputDTMFFrame, InputAudioRawFrame, InputDTMFFrame]

    go(main)


def test_a_start_message_that_the_program_read_itself() -> None:
    async def main() -> None:
        async with running(twilio(), media(tone(0.02))) as bot:  # none comes here
            await bot.say(tone(0.2))
            await until(lambda: loud_s(heard(bot.websocket), 8000) >= 0.2)
            await until(lambda: InputAudioRawFrame in bot.watch)

    go(main)


def test_the_client_leaves_and_nothing_ends_by_itself() -> None:
    async def main() -> None:
        async with running(twilio(), *OPENING) as bot:
            await bot.say(tone(5.0))
            await until(lambda: BotStartedSpeakingFrame in bot.watch)
            bot.websocket.leave()
            await until(lambda: "on_client_disconnected" in bot.events)
            await asyncio.sleep(0.1)
            assert not bot.run.done()
            # Nobody hears the rest, so nobody waits for it.
            await until(lambda: BotStoppedSpeakingFrame in bot.watch)
            await bot.say(tone(5.0))
            bot.task.queue_frame(EndFrame())
            await bot.over(1.0)
            assert bot.events.count("on_client_disconnected") == 1
            assert len(bot.watch.of(BotStartedSpeakingFrame)) == 1

    go(main)


def test_the_carriers_stop_is_the_clients_end() -> None:
    async def main() -> None:
        async with running(twilio(), *OPENING, STOP) as bot:
            await until(lambda: "on_client_disconnected" in bot.events)
            bot.websocket.leave()

    go(main)


def test_no_such_event_when_we_closed() -> None:
    async def main() -> None:
        async with running(twilio(), *OPENING) as bot:
            bot.task.queue_frame(EndFrame())
            await bot.over()
            assert bot.websocket.closed_with == 1000
            assert bot.events == ["on_client_connected"]

    go(main)


def test_the_session_timeout_tells_and_ends_nothing() -> None:
    async def main() -> None:
        async with running(twilio(session_timeout=0.1), *OPENING) as bot:
            await until(lambda: "on_session_timeout" in bot.events)
            await asyncio.sleep(0.1)
            assert not bot.run.done()
            assert bot.websocket.closed_with is None
            assert bot.events.count("on_session_timeout") == 1

    go(main)


def test_a_handler_that_still_runs_is_waited_for() -> None:
    done: list[str] = []

    async def main() -> None:
        async with running(twilio(), *OPENING) as bot:

            @bot.transport.event_handler("on_client_disconnected")
            async def save(transport: Any, client: Any) -> None:
                await bot.task.cancel()
                await asyncio.sleep(0.2)
                done.append("saved")

            bot.websocket.leave()
            await bot.over()
            assert done == ["saved"]

    go(main)


# ---------------------------------------------------------------- what the parameters mean


def test_audio_in_disabled() -> None:
    async def main() -> None:
        async with running(twilio(audio_in_enabled=False), *OPENING, media(tone(0.1)), digit("1")) as bot:
            await until(lambda: InputDTMFFrame in bot.watch)
            assert InputAudioRawFrame not in bot.watch

    go(main)


def test_audio_in_without_passthrough() -> None:
    async def main() -> None:
        async with running(twilio(audio_in_passthrough=False), *OPENING, media(tone(0.1)), digit("1")) as bot:
            await until(lambda: InputDTMFFrame in bot.watch)
            assert InputAudioRawFrame not in bot.watch

    go(main)


def test_audio_in_that_waits_to_be_started() -> None:
    async def main() -> None:
        async with running(twilio(audio_in_stream_on_start=False), *OPENING, media(tone(0.1)), digit("1")) as bot:
            await until(lambda: InputDTMFFrame in bot.watch)
            assert InputAudioRawFrame not in bot.watch
            await bot.transport.input().start_audio_in_streaming()
            bot.websocket.say(media(tone(0.1)))
            await until(lambda: InputAudioRawFrame in bot.watch)

    go(main)


def test_audio_in_at_a_rate_of_its_own() -> None:
    async def main() -> None:
        async with running(twilio(audio_in_sample_rate=16000), *OPENING, media(tone(0.1))) as bot:
            await until(lambda: InputAudioRawFrame in bot.watch)
            (frame,) = bot.watch.of(InputAudioRawFrame)
            assert (frame.sample_rate, len(frame.audio)) == (16000, 3200)

    go(main)


def test_audio_out_disabled() -> None:
    async def main() -> None:
        async with running(twilio(audio_out_enabled=False), *OPENING) as bot:
            await bot.say(tone(3.0))
            bot.task.queue_frame(OutputTransportMessageFrame({"event": "mine"}))
            bot.task.queue_frame(OutputDTMFFrame(KeypadEntry.ONE))
            await until(lambda: TTSStoppedFrame in bot.after and bool(bot.websocket.sent))
            assert [message["event"] for message in bot.websocket.messages] == ["mine"]
            assert BotStartedSpeakingFrame not in bot.watch
            bot.task.queue_frame(EndFrame())
            await bot.over(1.0)

    go(main)


def test_no_serializer() -> None:
    async def main() -> None:
        async with running(twilio(serializer=None), *OPENING, b"\x00") as bot:
            await bot.say(tone(0.1))
            bot.task.queue_frame(OutputTransportMessageUrgentFrame({"a": 1}))
            await asyncio.sleep(0.1)
            assert bot.websocket.sent == []
            assert InputAudioRawFrame not in bot.watch
            bot.websocket.leave()
            await until(lambda: "on_client_disconnected" in bot.events)

    go(main)


def test_speech_at_any_rate_is_brought_to_the_wires() -> None:
    async def main() -> None:
        async with running(twilio(), *OPENING, pipeline=PipelineParams()) as bot:
            for rate in (16000, 24000, 22050):
                await bot.say(tone(0.2, rate=rate), rate)
            bot.task.queue_frame(EndFrame())
            await bot.over()
            assert loud_s(heard(bot.websocket), 8000) == pytest.approx(0.6, abs=0.03)

    go(main)


def test_two_channels_are_mixed_to_one() -> None:
    async def main() -> None:
        async with running(twilio(audio_out_channels=2), *OPENING) as bot:
            stereo = b"".join(left + bytes(2) for left in (tone(0.2)[at : at + 2] for at in range(0, 3200, 2)))
            bot.task.queue_frames([OutputAudioRawFrame(stereo, 8000, 2), EndFrame()])
            await bot.over()
            pcm = heard(bot.websocket)
            assert len(pcm) == 3200
            peak = max(abs(int.from_bytes(pcm[at : at + 2], "little", signed=True)) for at in range(0, 3200, 2))
            assert peak == pytest.approx(4500, rel=0.1)

    go(main)


def test_destinations_that_nobody_registered() -> None:
    async def main() -> None:
        async with running(twilio(audio_out_destinations=["lobby"]), *OPENING) as bot:
            frames: list[Frame] = [TTSAudioRawFrame(tone(0.1), 8000, 1) for _ in range(3)]
            frames[0].transport_destination = "lobby"
            frames[1].transport_destination = "roof"
            with capture_logs() as logs:
                bot.task.queue_frames([*frames, TTSAudioRawFrame(tone(0.1), 8000, 1), EndFrame()])
                await bot.over()
            assert loud_s(heard(bot.websocket), 8000) == pytest.approx(0.3, abs=0.02)
            assert [e["destination"] for e in logs if e["event"] == "transport.unknown_destination"] == ["roof"]

    go(main)


def test_longer_packets_where_they_are_asked_for() -> None:
    async def main() -> None:
        async with running(twilio(audio_out_10ms_chunks=10), *OPENING) as bot:
            await bot.say(tone(0.3))
            bot.task.queue_frame(EndFrame())
            await bot.over()
            sizes = [
                len(pybase64.b64decode(message["media"]["payload"]))
                for message in bot.websocket.messages
                if message["event"] == "media"
            ]
            assert sizes == [800, 800, 800]

    go(main)


# ---------------------------------------------------------------- the last word


def test_the_last_word_is_sent_and_played_before_the_socket_closes() -> None:
    async def main() -> None:
        async with running(twilio(), *OPENING) as bot:
            began = asyncio.get_running_loop().time()
            await bot.say(tone(0.5))
            bot.task.queue_frame(EndFrame("goodbye"))
            await until(lambda: any(message["event"] == "mark" for message in bot.websocket.messages), 2)
            assert bot.websocket.closed_with is None
            await bot.over()
            assert loud_s(heard(bot.websocket), 8000) == pytest.approx(0.5, abs=0.02)
            assert 0.48 <= asyncio.get_running_loop().time() - began < 1.0
            assert bot.websocket.closed_with == 1000

    go(main)


def test_cancel_does_not_wait_for_it() -> None:
    async def main() -> None:
        async with running(twilio(), *OPENING) as bot:
            await bot.say(tone(5.0))
            await until(lambda: BotStartedSpeakingFrame in bot.watch)
            await bot.task.cancel()
            await bot.over(1.0)
            assert bot.websocket.closed_with == 1000
            assert loud_s(heard(bot.websocket), 8000) < 1

    go(main)


def protobuf(**params: Any) -> FastAPIWebsocketParams:
    return twilio(serializer=ProtobufFrameSerializer(), **params)


def played(websocket: MemoryWebSocket) -> list[InputAudioRawFrame]:
    serializer = ProtobufFrameSerializer()
    frames = [frame for data in websocket.sent for frame in serializer.decode(data)]
    return [frame for frame in frames if isinstance(frame, InputAudioRawFrame)]


def test_silence_after_the_last_word_where_nobody_tells_what_was_heard() -> None:
    async def main() -> None:
        async with running(protobuf(audio_out_end_silence_secs=1), pipeline=PipelineParams()) as bot:
            await bot.say(tone(0.2, rate=24000), 24000)
            bot.task.queue_frame(EndFrame())
            await bot.over()
            audio = played(bot.websocket)
            assert {(frame.sample_rate, len(frame.audio)) for frame in audio[:-1]} == {(24000, 1920)}
            assert sum(len(frame.audio) for frame in audio) / 48000 == pytest.approx(1.2, abs=0.05)
            assert loud_s(b"".join(frame.audio for frame in audio), 24000) == pytest.approx(0.2, abs=0.02)

    go(main)


def test_a_carrier_that_tells_needs_none_unless_it_is_asked_for() -> None:
    async def main() -> None:
        for params, length in (({}, 0.2), ({"audio_out_end_silence_secs": 1}, 1.2)):
            async with running(twilio(**params), *OPENING) as bot:
                await bot.say(tone(0.2))
                bot.task.queue_frame(EndFrame())
                await bot.over()
                assert len(heard(bot.websocket)) / 16000 == pytest.approx(length, abs=0.05)

    go(main)


# ---------------------------------------------------------------- interruptions


def test_clear_is_sent_inside_the_push_and_nothing_follows_it() -> None:
    async def main() -> None:
        async with running(twilio(), *OPENING) as bot:
            await bot.say(tone(3.0))
            await until(lambda: loud_s(heard(bot.websocket), 8000) > 0.3)
            bot.task.queue_frame(InterruptionFrame())
            await until(lambda: any(message["event"] == "clear" for message in bot.websocket.messages))
            await asyncio.sleep(0.3)
            assert bot.websocket.messages[-1]["event"] == "clear"
            await until(lambda: BotStoppedSpeakingFrame in bot.watch)
            assert InterruptionFrame in bot.after

    go(main)


def test_clear_does_not_wait_for_a_slow_processor() -> None:
    class Slow(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, InterruptionFrame):
                await asyncio.sleep(0.5)
            await self.push_frame(frame, direction)

    async def main() -> None:
        async with nothing_left():
            websocket = MemoryWebSocket(*OPENING)
            transport = FastAPIWebsocketTransport(websocket, twilio())
            task = PipelineTask(Pipeline([transport.input(), Slow(), transport.output()]), params=PHONE)
            run = asyncio.create_task(task.run())
            task.queue_frame(TTSAudioRawFrame(tone(3.0), 8000, 1))
            await until(lambda: loud_s(heard(websocket), 8000) > 0.3)
            began = asyncio.get_running_loop().time()
            task.queue_frame(InterruptionFrame())
            await until(lambda: any(message["event"] == "clear" for message in websocket.messages))
            assert asyncio.get_running_loop().time() - began < 0.1
            await task.cancel()
            await run

    go(main)


# ---------------------------------------------------------------- messages and keys


def test_messages_in_go_both_ways_and_others_downstream() -> None:
    async def main() -> None:
        hello = ProtobufFrameSerializer().encode(OutputTransportMessageUrgentFrame({"hello": 1}))[0]
        async with running(protobuf(), hello) as bot:
            reached: list[Frame] = []
            bot.task.set_reached_upstream_filter((InputTransportMessageFrame,))
            bot.task.add_event_handler("on_frame_reached_upstream", lambda task, frame: reached.append(frame))
            bot.websocket.say(hello)
            await until(lambda: len(bot.watch.of(InputTransportMessageFrame)) == 2)
            assert [frame.message for frame in bot.watch.of(InputTransportMessageFrame)] == [{"hello": 1}] * 2
            await until(lambda: len(reached) == 1)
            assert reached[0].broadcast_sibling_id == bot.watch.of(InputTransportMessageFrame)[1].id

    go(main)


def test_urgent_messages_overtake_the_audio_and_others_wait_for_it() -> None:
    async def main() -> None:
        async with running(twilio(), *OPENING) as bot:
            bot.task.queue_frames(
                [
                    TTSAudioRawFrame(tone(0.6), 8000, 1),
                    OutputTransportMessageFrame({"event": "later"}),
                    OutputTransportMessageFrame(RTVI),
                    OutputTransportMessageUrgentFrame({"event": "now"}),
                ]
            )
            await until(lambda: any(message["event"] == "later" for message in bot.websocket.messages))
            events = [key for key, _ in itertools.groupby(message["event"] for message in bot.websocket.messages)]
            assert events == ["now", "media", "later"]
            await until(lambda: OutputTransportMessageUrgentFrame in bot.after)

    go(main)


def test_keys_are_tones_where_the_carrier_has_no_message_for_them() -> None:
    async def main() -> None:
        async with running(twilio(), *OPENING) as bot:
            bot.task.queue_frames(
                [OutputDTMFFrame(KeypadEntry.ONE), OutputDTMFUrgentFrame(KeypadEntry.TWO), EndFrame()]
            )
            await bot.over()
            assert loud_s(heard(bot.websocket), 8000) >= 0.15

    go(main)


# ---------------------------------------------------------------- packets of fixed size, headers


def vonage(**params: Any) -> FastAPIWebsocketParams:
    serializer = VonageFrameSerializer(VonageFrameSerializer.InputParams(vonage_sample_rate=8000))
    return twilio(serializer=serializer, **params)


class Raw(VonageFrameSerializer):
    """Sends binary messages of whatever length it is given."""

    def encode(self, frame: Frame) -> Any:
        return (frame.audio,) if isinstance(frame, OutputAudioRawFrame) else super().encode(frame)

    def flush(self) -> Any:
        return ()


def test_binary_messages_of_a_fixed_size_the_last_one_filled_with_silence() -> None:
    async def main() -> None:
        params = twilio(serializer=Raw(), fixed_audio_packet_size=1000)
        async with running(params, pipeline=PipelineParams(audio_in_sample_rate=16000)) as bot:
            await bot.say(tone(0.31, rate=16000), 16000)
            bot.task.queue_frame(EndFrame())
            await bot.over()
            sizes = [len(data) for data in bot.websocket.sent if isinstance(data, bytes)]
            assert sizes == [1000] * 10
            assert bot.websocket.audio[:9920] == tone(0.31, rate=16000)
            assert bot.websocket.audio[9920:] == bytes(80)

    go(main)


def test_an_interruption_drops_the_rest_of_a_piece() -> None:
    async def main() -> None:
        params = twilio(serializer=Raw(), fixed_audio_packet_size=10_000)
        async with running(params, pipeline=PipelineParams(audio_in_sample_rate=16000)) as bot:
            await bot.say(tone(0.25, 440, rate=16000), 16000)
            await until(lambda: BotStoppedSpeakingFrame in bot.watch)
            before = bot.websocket.audio
            bot.task.queue_frame(OutputAudioRawFrame(tone(0.1, 440, rate=16000), 16000, 1))
            await asyncio.sleep(0.05)
            bot.task.queue_frame(InterruptionFrame())
            await asyncio.sleep(0.05)
            answer = tone(0.3125, 1000, rate=16000)
            bot.task.queue_frame(OutputAudioRawFrame(answer, 16000, 1))
            await until(lambda: len(bot.websocket.audio) > len(before), 2)
            assert bot.websocket.audio[len(before) :] == answer

    go(main)


def test_a_wav_header_on_each_piece_but_never_for_a_carrier() -> None:
    async def main() -> None:
        async with running(protobuf(add_wav_header=True, audio_out_end_silence_secs=0)) as bot:
            await bot.say(tone(0.1))
            bot.task.queue_frame(EndFrame())
            await bot.over()
            pieces = [frame.audio for frame in played(bot.websocket)]
            assert all(piece[:4] == b"RIFF" and piece[8:12] == b"WAVE" for piece in pieces)
            assert b"".join(piece[44:] for piece in pieces) == tone(0.1)
        with capture_logs() as logs:
            async with running(twilio(add_wav_header=True), *OPENING) as bot:
                await bot.say(tone(0.1))
                bot.task.queue_frame(EndFrame())
                await bot.over()
                assert len(heard(bot.websocket)) == len(tone(0.1))
        assert "transport.no_wav_header" in [entry["event"] for entry in logs]

    go(main)


# ---------------------------------------------------------------- filter and mixer


class Halving:
    """A filter as Pipecat has them."""

    def __init__(self, *, waits_s: float = 0.0, fails: bool = False) -> None:
        self.calls: list[Any] = []
        self._waits_s, self._fails = waits_s, fails

    async def start(self, sample_rate: int) -> None:
        await asyncio.sleep(self._waits_s)
        self.calls.append(("start", sample_rate))

    async def stop(self) -> None:
        self.calls.append("stop")

    async def process_frame(self, frame: Frame) -> None:
        self.calls.append(type(frame).__name__)

    async def filter(self, audio: bytes) -> bytes:
        if self._waits_s:
            await asyncio.sleep(self._waits_s)
        if self._fails:
            raise RuntimeError("broken")
        return audio[: len(audio) // 2]


@pytest.mark.parametrize("waits_s", [0.0, 0.01], ids=["at once", "waiting"])
def test_a_filter_changes_what_is_heard_in_order(waits_s: float) -> None:
    async def main() -> None:
        audio_filter = Halving(waits_s=waits_s)
        pieces = [media(tone(0.02 * n)) for n in range(1, 11)]
        async with running(twilio(audio_in_filter=audio_filter), *OPENING, *pieces) as bot:
            await until(lambda: len(bot.watch.of(InputAudioRawFrame)) == 10)
            assert [len(frame.audio) for frame in bot.watch.of(InputAudioRawFrame)] == [160 * n for n in range(1, 11)]
            bot.task.queue_frames([FilterEnableFrame(False), FilterUpdateSettingsFrame({"a": 1}), EndFrame()])
            await bot.over()
        assert audio_filter.calls == [("start", 8000), "FilterEnableFrame", "FilterUpdateSettingsFrame", "stop"]

    go(main)


def test_a_filter_that_collects_gives_nothing_and_one_that_fails_lets_through() -> None:
    class Collecting(Halving):
        async def filter(self, audio: bytes) -> bytes:
            return b""

    async def main() -> None:
        async with running(twilio(audio_in_filter=Collecting()), *OPENING, media(tone(0.1)), digit("1")) as bot:
            await until(lambda: InputDTMFFrame in bot.watch)
            assert InputAudioRawFrame not in bot.watch
        async with running(twilio(audio_in_filter=Halving(fails=True)), *OPENING, media(tone(0.1))) as bot:
            errors: list[ErrorFrame] = []
            bot.task.add_event_handler("on_pipeline_error", lambda task, frame: errors.append(frame))
            bot.websocket.say(media(tone(0.1)))
            await until(lambda: len(bot.watch.of(InputAudioRawFrame)) == 2)
            await until(lambda: bool(errors))
            assert "broken" in errors[0].error

    go(main)


class Humming:
    """A mixer as Pipecat has them."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.hum = tone(10.0, 200, level=3000)

    async def start(self, sample_rate: int) -> None:
        self.calls.append(("start", sample_rate))

    async def stop(self) -> None:
        self.calls.append("stop")

    async def process_frame(self, frame: Frame) -> None:
        self.calls.append(type(frame).__name__)

    async def mix(self, audio: bytes) -> bytes:
        hum, self.hum = self.hum[: len(audio)], self.hum[len(audio) :]
        mixed = (
            int.from_bytes(audio[at : at + 2], "little", signed=True)
            + int.from_bytes(hum[at : at + 2], "little", signed=True)
            for at in range(0, len(audio), 2)
        )
        return b"".join(value.to_bytes(2, "little", signed=True) for value in mixed)


def test_a_mixer_sounds_without_speech_and_under_it() -> None:
    async def main() -> None:
        mixer = Humming()
        async with running(twilio(audio_out_mixer=mixer), *OPENING) as bot:
            await until(lambda: loud_s(heard(bot.websocket), 8000) > 0.3)
            bot.task.queue_frame(MixerEnableFrame(True))
            await bot.say(tone(0.3, level=8000))
            await until(lambda: BotStoppedSpeakingFrame in bot.watch)
            sent, began = len(heard(bot.websocket)), asyncio.get_running_loop().time()
            await asyncio.sleep(0.5)
            passed = asyncio.get_running_loop().time() - began
            assert (len(heard(bot.websocket)) - sent) / 16000 == pytest.approx(passed, abs=0.1)
            bot.task.queue_frame(EndFrame())
            await bot.over()
            pcm = heard(bot.websocket)
            assert loud_s(pcm, 8000, 9500) == pytest.approx(0.3, abs=0.06)
            assert pcm[:1600] == ulaw_to_pcm(pcm_to_ulaw(tone(10.0, 200, level=3000)[:1600]))
        assert mixer.calls == [("start", 8000), "MixerEnableFrame", "stop"]

    go(main)


def test_a_mixer_that_waits_is_switched_off() -> None:
    class Slow(Humming):
        async def mix(self, audio: bytes) -> bytes:
            await asyncio.sleep(0.1)
            return audio

    async def main() -> None:
        async with running(twilio(audio_out_mixer=Slow()), *OPENING) as bot:
            await bot.say(tone(0.3))
            bot.task.queue_frame(EndFrame())
            await bot.over()
            assert loud_s(heard(bot.websocket), 8000) == pytest.approx(0.3, abs=0.02)

    go(main)


# ---------------------------------------------------------------- odd pipelines, odd ends


def run_row(row: Callable[[FastAPIWebsocketTransport], list[FrameProcessor]], *messages: str) -> Any:
    """A runner for a pipeline of one's own; gives a function that takes what happens to it."""

    def play(scene: Callable[[PipelineTask, MemoryWebSocket], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with nothing_left():
                websocket = MemoryWebSocket(*messages)
                transport = FastAPIWebsocketTransport(websocket, twilio())
                task = PipelineTask(Pipeline(row(transport)), params=PHONE)
                run = asyncio.create_task(task.run())
                await scene(task, websocket)
                await asyncio.wait_for(run, 60)
                assert websocket.closed_with is not None

        go(main)

    return play


def test_an_output_alone() -> None:
    async def scene(task: PipelineTask, websocket: MemoryWebSocket) -> None:
        task.queue_frames([TTSAudioRawFrame(tone(0.2), 8000, 1), EndFrame()])
        await until(lambda: websocket.closed_with is not None)
        assert loud_s(heard(websocket), 8000) == pytest.approx(0.2, abs=0.02)

    run_row(lambda transport: [transport.output()], *OPENING, media(tone(0.1)))(scene)


def test_an_input_alone() -> None:
    watch = Watch()

    async def scene(task: PipelineTask, websocket: MemoryWebSocket) -> None:
        await until(lambda: InputAudioRawFrame in watch)
        task.queue_frame(EndFrame())

    run_row(lambda transport: [transport.input(), watch], *OPENING, media(tone(0.1)))(scene)


def test_a_task_that_is_cancelled_from_outside() -> None:
    async def main() -> None:
        async with nothing_left():
            websocket = MemoryWebSocket(*OPENING)
            transport = FastAPIWebsocketTransport(websocket, twilio())
            task = PipelineTask(Pipeline([transport.input(), transport.output()]), params=PHONE)
            run = asyncio.create_task(task.run())
            task.queue_frame(TTSAudioRawFrame(tone(3.0), 8000, 1))
            await until(lambda: loud_s(heard(websocket), 8000) > 0.2)
            run.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await run
            assert websocket.closed_with == 1000

    go(main)


def test_a_stopped_pipeline_leaves_the_call_to_the_next_one() -> None:
    async def main() -> None:
        async with nothing_left():
            websocket = MemoryWebSocket(*OPENING)
            transport = FastAPIWebsocketTransport(websocket, twilio())
            first, second = Watch(), Watch()
            connected: list[int] = []
            transport.add_event_handler("on_client_connected", lambda transport, client: connected.append(1))
            task = PipelineTask(Pipeline([transport.input(), first, transport.output()]), params=PHONE)
            run = asyncio.create_task(task.run())
            websocket.say(digit("1"))
            await until(lambda: InputDTMFFrame in first)
            task.queue_frame(StopFrame())
            await run
            assert websocket.closed_with is None
            websocket.say(digit("2"))  # nobody listens now
            await asyncio.sleep(0.05)
            task = PipelineTask(Pipeline([transport.input(), second, transport.output()]), params=PHONE)
            run = asyncio.create_task(task.run())
            await until(lambda: StartFrame in second)
            websocket.say(digit("3"))
            await until(lambda: InputDTMFFrame in second)
            assert [frame.button for frame in second.of(InputDTMFFrame)] == [KeypadEntry.THREE]
            task.queue_frames([TTSAudioRawFrame(tone(0.2), 8000, 1), EndFrame()])
            await asyncio.wait_for(run, 60)
            assert loud_s(heard(websocket), 8000) == pytest.approx(0.2, abs=0.02)
            assert websocket.closed_with == 1000
            assert connected == [1]

    go(main)


def test_bad_messages_are_counted_and_the_call_goes_on() -> None:
    async def main() -> None:
        bad = ["no JSON", "[]", '{"event":"media"}', '{"event":"dtmf","dtmf":{"digit":"Z"}}']
        async with running(twilio(), *OPENING, *bad, b"\xff\x00", digit("1")) as bot:
            await until(lambda: InputDTMFFrame in bot.watch)
            assert "on_client_disconnected" not in bot.events

    go(main)


def test_a_socket_that_fails_to_send_is_a_client_that_left() -> None:
    async def main() -> None:
        async with running(twilio(), *OPENING) as bot:

            async def broken(data: str) -> None:
                raise RuntimeError("Unexpected ASGI message")

            bot.websocket.send_text = broken  # type: ignore[method-assign]
            await bot.say(tone(0.5))
            await asyncio.sleep(0.05)
            bot.websocket.leave(1006)
            await until(lambda: "on_client_disconnected" in bot.events)

    go(main)


def test_the_bot_speaks_for_as_long_as_it_does() -> None:
    async def main() -> None:
        async with running(twilio(), *OPENING) as bot:
            await bot.say(tone(0.6))
            await until(lambda: BotStoppedSpeakingFrame in bot.watch)
            kinds = [type(frame) for frame in bot.watch.of(BotStartedSpeakingFrame, BotStoppedSpeakingFrame)]
            assert kinds == [BotStartedSpeakingFrame, BotStoppedSpeakingFrame]
            assert 1 <= len(bot.after.of(BotSpeakingFrame)) <= 5
            assert CancelFrame not in bot.watch

    go(main)
