"""Whole calls: a program's own pipeline behind a real server, the strict fake carriers at the other end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from starlette.websockets import WebSocket

from gateway.finisher import Finisher
from gateway.simulator.base import FakeCarrier
from gateway.simulator.caller import place_call
from gateway.simulator.report import CallReport
from gateway.simulator.script import HangUp, Press, Say, Script, Vanish, after, while_bot_speaks
from gateway.transports.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from media.frames import InputAudioRawFrame
from serializers.base import FrameSerializer
from serializers.base import HangUp as HangUpRequest
from serializers.exotel import ExotelFrameSerializer
from serializers.genesys import GenesysAudioHookSerializer
from serializers.plivo import PlivoFrameSerializer
from serializers.telnyx import TelnyxFrameSerializer
from serializers.twilio import TwilioFrameSerializer
from serializers.vonage import VonageFrameSerializer
from tests.transports.programs import EchoProcessor, Talker, run_bot
from tests.transports.serving import LIMITS, fake, loud_s, nothing_left, pitched_s, served, tone, words

CARRIERS = ("twilio", "telnyx", "plivo", "exotel", "vonage", "genesys")
# What beside is set on a program's transport, as the documentation of its carrier has it.
EXTRA: Mapping[str, Mapping[str, Any]] = {
    "vonage": {"fixed_audio_packet_size": 640},
    "genesys": {"audio_out_fixed_packet_size": 1600},
}
PACKETS_S = {"exotel": 0.35, "genesys": 0.45}  # until a first packet is complete, beyond the others


class KeptFinisher(Finisher):
    def __init__(self) -> None:
        super().__init__()
        self.requests: list[HangUpRequest] = []

    def submit(self, value: HangUpRequest) -> float | None:
        self.requests.append(value)
        return None  # nobody is asked: closing the socket is the way


def serializer_of(carrier: FakeCarrier, *, hang_up: bool = False) -> FrameSerializer:
    """The serializer as a program builds it that knows its call from elsewhere."""
    call_id: str = carrier.call_id
    stream_id: str = getattr(carrier, "stream_sid", "") or getattr(carrier, "stream_id", "")
    makers: Mapping[str, Callable[[], FrameSerializer]] = {
        "twilio": lambda: TwilioFrameSerializer(
            stream_id,
            call_id,
            "AC1",
            "token",
            params=TwilioFrameSerializer.InputParams(auto_hang_up=hang_up),
        ),
        "telnyx": lambda: TelnyxFrameSerializer(
            stream_id, "PCMU", "PCMU", call_id, "key", TelnyxFrameSerializer.InputParams(auto_hang_up=hang_up)
        ),
        "plivo": lambda: PlivoFrameSerializer(
            stream_id, call_id, "id", "token", PlivoFrameSerializer.InputParams(auto_hang_up=hang_up)
        ),
        "exotel": lambda: ExotelFrameSerializer(stream_id, call_id),
        "vonage": VonageFrameSerializer,
        "genesys": GenesysAudioHookSerializer,
    }
    return makers[carrier.name]()


async def call_all(
    script: Script,
    program: Callable[[FastAPIWebsocketTransport, str], Any],
    *,
    hang_up: bool = False,
    finisher: Finisher | None = None,
    **plan: Any,
) -> dict[str, CallReport]:
    """The same call through all carriers at once; nothing of them is left afterwards."""
    fakes = {name: fake(name, **plan) for name in CARRIERS}

    async def run(websocket: WebSocket) -> None:
        name = websocket.query_params["carrier"]
        params = FastAPIWebsocketParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            serializer=serializer_of(fakes[name], hang_up=hang_up),
            **EXTRA.get(name, {}),
        )
        await program(FastAPIWebsocketTransport(websocket, params, finisher=finisher), name)

    async with served(run) as url, nothing_left():
        calls = [place_call(carrier, f"{url}?carrier={name}", script, limits=LIMITS) for name, carrier in fakes.items()]
        return dict(zip(fakes, await asyncio.gather(*calls), strict=True))


def test_the_caller_hears_himself_and_the_bot_ends_the_call() -> None:
    bots: dict[str, EchoProcessor] = {}
    script = Script().then(after(0.3), Say(words(2.2))).then(after(0.7), Press("5#", gap_s=0.3))

    async def program(transport: FastAPIWebsocketTransport, name: str) -> None:
        bots[name] = EchoProcessor()
        await run_bot(transport, bots[name])

    reports = asyncio.run(call_all(script, program))
    for name, report in reports.items():
        assert report.ok, (name, report.problems)
        assert report.ended_by == "bot"
        assert bots[name].digits == "5#"
        assert report.echo_ms is not None
        assert report.echo_ms < 150 + 1000 * PACKETS_S.get(name, 0) + report.stalled_ms, name
        assert loud_s(report.heard, report.heard_rate) == pytest.approx(2.2, abs=0.15), name


@pytest.mark.alone  # its sound is measured to 30 ms
def test_a_key_cuts_the_bot_off_and_nothing_of_it_is_heard_afterwards() -> None:
    bots: dict[str, Talker] = {}
    script = Script().then(while_bot_speaks(0.5), Press("1"))

    async def program(transport: FastAPIWebsocketTransport, name: str) -> None:
        bots[name] = Talker(tone(6.0, 440), 8000, answer=tone(0.5, 1200))
        await run_bot(transport, bots[name])

    reports = asyncio.run(call_all(script, program))
    for name, report in reports.items():
        assert report.ok, (name, report.problems)
        assert report.ended_by == "bot"
        (barge_in,) = report.barge_ins
        assert barge_in.cleared, name
        assert barge_in.silence_ms < (450 if name in PACKETS_S else 150) + report.stalled_ms, name
        assert report.heard_s < 4, name
        # The answer is heard to its last sample before the call ends, and nothing of what was cut off is in it.
        heard, rate = bytes(report.heard), report.heard_rate
        torn_s = 0.04 * len(report.gaps)  # a block before a gap and one behind it are no tone
        assert 0.47 - torn_s < pitched_s(heard, rate, 1200) < 0.53, name
        after_cut = heard[int((barge_in.at + barge_in.silence_ms / 1000 + 0.03) * rate) * 2 :]
        assert pitched_s(after_cut, rate, 440) < 0.03, name
        names = bots[name].names()
        assert names[0] == "BotStartedSpeakingFrame"
        assert names.count("InterruptionFrame") <= 1  # a broadcast does not come back to the one who made it
        assert names[-2:] == ["EndFrame", "BotStoppedSpeakingFrame"]


def test_the_caller_hangs_up() -> None:
    bots: dict[str, Talker] = {}
    over: list[str] = []

    async def program(transport: FastAPIWebsocketTransport, name: str) -> None:
        bots[name] = Talker(tone(6.0), 8000)
        await run_bot(transport, bots[name])
        over.append(name)

    reports = asyncio.run(call_all(Script().then(after(0.8), HangUp()), program))
    assert sorted(over) == sorted(CARRIERS)
    for name, report in reports.items():
        assert report.ok, (name, report.problems)
        assert report.ended_by == "caller"
        assert report.duration_s < 5.5  # of 6 s of tone
        assert bots[name].names(InputAudioRawFrame)


def test_the_connection_breaks() -> None:
    over: list[str] = []

    async def program(transport: FastAPIWebsocketTransport, name: str) -> None:
        await run_bot(transport, Talker(tone(6.0), 8000))
        over.append(name)

    asyncio.run(call_all(Script().then(after(0.5), Vanish()), program))
    assert sorted(over) == sorted(CARRIERS)


def test_credentials_make_a_hang_up_request_and_only_one() -> None:
    finisher = KeptFinisher()

    async def program(transport: FastAPIWebsocketTransport, name: str) -> None:
        await run_bot(transport, EchoProcessor())

    script = Script().then(after(0.3), Press("#"))
    reports = asyncio.run(call_all(script, program, hang_up=True, finisher=finisher))
    assert all(report.ok for report in reports.values())
    asked = {request.carrier: request for request in finisher.requests}
    assert sorted(asked) == ["plivo", "telnyx", "twilio"]
    assert len(finisher.requests) == 3
    assert asked["twilio"].call_id == reports["twilio"].call_id
    assert asked["twilio"].account_id == "AC1"


def test_a_caller_who_hangs_up_leaves_one_request_too() -> None:
    """The end of a stream is not the end of the call on every carrier, and asking twice does no harm."""
    finisher = KeptFinisher()

    async def program(transport: FastAPIWebsocketTransport, name: str) -> None:
        await run_bot(transport, EchoProcessor())

    asyncio.run(call_all(Script().then(after(0.3), HangUp()), program, hang_up=True, finisher=finisher))
    assert sorted(request.carrier for request in finisher.requests) == ["plivo", "telnyx", "twilio"]


def test_a_broken_connection_asks_for_the_hang_up_too() -> None:
    finisher = KeptFinisher()

    async def program(transport: FastAPIWebsocketTransport, name: str) -> None:
        await run_bot(transport, EchoProcessor())

    asyncio.run(call_all(Script().then(after(0.3), Vanish()), program, hang_up=True, finisher=finisher))
    assert sorted(request.carrier for request in finisher.requests) == ["plivo", "telnyx", "twilio"]


def test_a_pipeline_at_other_rates() -> None:
    from bots.runtime import PipelineParams

    rates: set[int] = set()

    class Listening(EchoProcessor):
        async def process_frame(self, frame: Any, direction: Any) -> None:
            if isinstance(frame, InputAudioRawFrame):
                rates.add(frame.sample_rate)
            await super().process_frame(frame, direction)

    async def program(transport: FastAPIWebsocketTransport, name: str) -> None:
        await run_bot(transport, Listening(), params=PipelineParams())

    script = Script().then(after(0.3), Say(words(2.2))).then(after(0.7), Press("#"))
    reports = asyncio.run(call_all(script, program))
    assert rates == {16000}
    for name, report in reports.items():
        assert report.ok, (name, report.problems)
        assert report.echo_ms is not None
        assert report.echo_ms < 160 + 1000 * PACKETS_S.get(name, 0) + report.stalled_ms, name
