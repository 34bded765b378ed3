"""Programs as Pipecat's documentation has them, with nothing but their imports renamed, in real calls.

Where a page shows a fragment, what stands around it is the least that makes it run.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest
from starlette.websockets import WebSocket

from bots.runtime import PipelineParams, PipelineRunner, PipelineTask
from gateway.finisher import Finisher
from gateway.simulator.base import FakeCarrier
from gateway.simulator.caller import place_call
from gateway.simulator.report import CallReport
from gateway.simulator.script import HangUp, Press, Say, Script, after
from gateway.transports.base import BaseTransport, TransportParams
from gateway.transports.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from gateway.transports.runner import (
    RunnerArguments,
    WebSocketRunnerArguments,
    create_transport,
    parse_telephony_websocket,
)
from gateway.transports.server import WebSocketServerParams, WebSocketServerTransport
from media.frames import EndFrame, Frame, OutputTransportMessageUrgentFrame, StartFrame
from media.pipeline import Pipeline
from serializers.base import FrameSerializer, FrameSerializerType
from serializers.base import HangUp as HangUpRequest
from serializers.exotel import ExotelFrameSerializer
from serializers.genesys import GenesysAudioHookSerializer
from serializers.plivo import PlivoFrameSerializer
from serializers.telnyx import TelnyxFrameSerializer
from serializers.twilio import TwilioFrameSerializer
from serializers.vonage import VonageFrameSerializer
from tests.transports.programs import EchoProcessor
from tests.transports.serving import LIMITS, call, fake, go, loud_s, until, words

TALK = Script().then(after(0.3), Say(words(0.6))).then(after(0.6), Press("5#", gap_s=0.3))
VARIABLES = (
    "TWILIO_ACCOUNT_SID",
    "TWILIO_AUTH_TOKEN",
    "TELNYX_API_KEY",
    "PLIVO_AUTH_ID",
    "PLIVO_AUTH_TOKEN",
)
CARRIERS = ("twilio", "telnyx", "plivo", "exotel", "vonage", "genesys")


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[HangUpRequest]:
    """The environment that the pages ask for; what the process would ask the carriers' interfaces for."""
    requests: list[HangUpRequest] = []

    class Kept(Finisher):
        def submit(self, value: HangUpRequest) -> float | None:
            requests.append(value)
            return None

    finisher = Kept()
    monkeypatch.setattr("gateway.transports.base.process_finisher", lambda: finisher)
    for name in VARIABLES:
        monkeypatch.setenv(name, "value")
    return requests


async def run_bot(transport: BaseTransport) -> None:
    """The part that every page leaves to the reader."""
    task = PipelineTask(
        Pipeline([transport.input(), EchoProcessor(), transport.output()]),
        params=PipelineParams(audio_in_sample_rate=8000, audio_out_sample_rate=8000),
    )

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport: Any, client: Any) -> None:
        await task.cancel()

    runner = PipelineRunner(handle_sigint=False)
    await runner.run(task)


def check(report: CallReport) -> None:
    assert report.ok, report.problems
    assert report.ended_by == "bot"
    assert loud_s(report.heard, report.heard_rate) > 0.5


# ---------------------------------------------------------------- the runner's guide and its utilities


@pytest.mark.parametrize("carrier", CARRIERS)
def test_simplifying_with_the_transport_utility(carrier: str, asked: list[HangUpRequest]) -> None:
    # Define transport configurations using factory functions
    transport_params: dict[str, Callable[[], TransportParams]] = {
        "webrtc": lambda: TransportParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
        ),
        "twilio": lambda: FastAPIWebsocketParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            # add_wav_header and serializer handled automatically
        ),
    }
    for name in CARRIERS[1:]:
        transport_params[name] = transport_params["twilio"]

    async def bot(runner_args: RunnerArguments) -> None:
        """Simplified bot entry point using the transport utility."""
        transport = await create_transport(runner_args, transport_params)
        await run_bot(transport)

    async def program(websocket: WebSocket) -> None:
        await bot(WebSocketRunnerArguments(websocket=websocket))

    caller = fake(carrier)
    check(asyncio.run(call(program, caller, TALK)))
    hung_up = [request.call_id for request in asked]
    assert hung_up == ([caller.call_id] if carrier in ("twilio", "telnyx", "plivo") else [])


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "exotel"])
def test_telephony_websocket_parsing(carrier: str) -> None:
    async def program(websocket: WebSocket) -> None:
        serializer: FrameSerializer
        transport_type, call_data = await parse_telephony_websocket(websocket)

        if transport_type == "twilio":
            stream_id = call_data["stream_id"]
            call_id = call_data["call_id"]
            serializer = TwilioFrameSerializer(
                stream_sid=stream_id,
                call_sid=call_id,
                account_sid=os.getenv("TWILIO_ACCOUNT_SID"),
                auth_token=os.getenv("TWILIO_AUTH_TOKEN"),
            )
        elif transport_type == "telnyx":
            stream_id = call_data["stream_id"]
            call_control_id = call_data["call_control_id"]
            outbound_encoding = call_data["outbound_encoding"]
            serializer = TelnyxFrameSerializer(
                stream_id=stream_id,
                outbound_encoding=outbound_encoding,
                inbound_encoding="PCMU",
                call_control_id=call_control_id,
                api_key=os.getenv("TELNYX_API_KEY"),
            )
        elif transport_type == "plivo":
            stream_id = call_data["stream_id"]
            call_id = call_data["call_id"]
            serializer = PlivoFrameSerializer(
                stream_id=stream_id,
                call_id=call_id,
                auth_id=os.getenv("PLIVO_AUTH_ID"),
                auth_token=os.getenv("PLIVO_AUTH_TOKEN"),
            )
        elif transport_type == "exotel":
            serializer = ExotelFrameSerializer(
                stream_sid=call_data["stream_id"],
                call_sid=call_data["call_id"],
            )
        transport = FastAPIWebsocketTransport(
            websocket=websocket,
            params=FastAPIWebsocketParams(
                audio_in_enabled=True,
                audio_out_enabled=True,
                add_wav_header=False,
                serializer=serializer,
            ),
        )
        await run_bot(transport)

    check(asyncio.run(call(program, fake(carrier), TALK)))


def test_environment_detection_and_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENV", "local")
    seen: list[Any] = []

    async def bot(runner_args: RunnerArguments) -> None:
        # Check if running in local development environment
        is_local = os.environ.get("ENV") == "local"
        seen.append((is_local, runner_args.handle_sigint, runner_args.pipeline_idle_timeout_secs))
        if isinstance(runner_args, WebSocketRunnerArguments):
            transport = FastAPIWebsocketTransport(
                websocket=runner_args.websocket,
                params=FastAPIWebsocketParams(
                    audio_in_enabled=True, audio_out_enabled=True, serializer=VonageFrameSerializer()
                ),
            )
        await run_bot(transport)

    async def program(websocket: WebSocket) -> None:
        await bot(WebSocketRunnerArguments(websocket=websocket))

    check(asyncio.run(call(program, fake("vonage"), TALK)))
    assert seen == [(True, False, 300)]


# ---------------------------------------------------------------- the transports' pages


def test_the_events_of_the_fastapi_transport(capsys: pytest.CaptureFixture[str]) -> None:
    async def program(websocket: WebSocket) -> None:
        transport = FastAPIWebsocketTransport(
            websocket=websocket,
            params=FastAPIWebsocketParams(audio_in_enabled=True, serializer=VonageFrameSerializer(), session_timeout=1),
        )

        @transport.event_handler("on_client_connected")
        async def on_client_connected(transport, websocket):  # type: ignore[no-untyped-def]
            print("Client connected")

        @transport.event_handler("on_client_disconnected")
        async def on_client_disconnected(transport, websocket):  # type: ignore[no-untyped-def]
            print("Client disconnected")

        @transport.event_handler("on_session_timeout")
        async def on_session_timeout(transport, websocket):  # type: ignore[no-untyped-def]
            print("Session timed out")

        await run_bot(transport)

    report = asyncio.run(call(program, fake("vonage"), Script().then(after(1.3), HangUp())))
    assert report.ok
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("Client", "Session"))]
    assert lines == ["Client connected", "Session timed out", "Client disconnected"]


SERIALIZERS: dict[str, Callable[[FakeCarrier], FrameSerializer]] = {
    "twilio": lambda carrier: TwilioFrameSerializer(
        stream_sid=carrier.stream_sid,  # type: ignore[attr-defined]
        call_sid=carrier.call_id,
        account_sid=os.getenv("TWILIO_ACCOUNT_SID"),
        auth_token=os.getenv("TWILIO_AUTH_TOKEN"),
    ),
    "twilio without auto hang-up": lambda carrier: TwilioFrameSerializer(
        stream_sid=carrier.stream_sid,  # type: ignore[attr-defined]
        params=TwilioFrameSerializer.InputParams(
            auto_hang_up=False,
        ),
    ),
    "telnyx": lambda carrier: TelnyxFrameSerializer(
        stream_id="stream",
        outbound_encoding="PCMU",
        inbound_encoding="PCMU",
        call_control_id=carrier.call_id,
        api_key=os.getenv("TELNYX_API_KEY"),
    ),
    "telnyx without auto hang-up": lambda carrier: TelnyxFrameSerializer(
        stream_id="stream",
        outbound_encoding="PCMU",
        inbound_encoding="PCMU",
        params=TelnyxFrameSerializer.InputParams(
            auto_hang_up=False,
        ),
    ),
    "plivo": lambda carrier: PlivoFrameSerializer(
        stream_id=carrier.stream_id,  # type: ignore[attr-defined]
        call_id=carrier.call_id,
        auth_id=os.getenv("PLIVO_AUTH_ID"),
        auth_token=os.getenv("PLIVO_AUTH_TOKEN"),
    ),
    "plivo without auto hang-up": lambda carrier: PlivoFrameSerializer(
        stream_id=carrier.stream_id,  # type: ignore[attr-defined]
        params=PlivoFrameSerializer.InputParams(
            auto_hang_up=False,
        ),
    ),
    "exotel": lambda carrier: ExotelFrameSerializer(
        stream_sid=carrier.stream_sid,  # type: ignore[attr-defined]
        call_sid=carrier.call_id,
    ),
    "vonage": lambda carrier: VonageFrameSerializer(),
    "vonage with custom sample rate": lambda carrier: VonageFrameSerializer(
        params=VonageFrameSerializer.InputParams(
            vonage_sample_rate=8000,
        ),
    ),
    "genesys": lambda carrier: GenesysAudioHookSerializer(),
    "genesys with language support": lambda carrier: GenesysAudioHookSerializer(
        params=GenesysAudioHookSerializer.InputParams(
            supported_languages=["en-US", "es-ES", "fr-FR"],
            selected_language="en-US",
        )
    ),
}


@pytest.mark.parametrize("page", SERIALIZERS)
def test_basic_setup_of_each_serializer(page: str) -> None:
    """The pages set `audio_out_enabled` only, so the caller is not heard: keys are, and the bot ends the call."""
    name = page.partition(" ")[0]
    carrier = fake(name, sample_rate=8000 if "custom" in page else 0)

    async def main() -> None:
        serializer = SERIALIZERS[page](carrier)
        transport = WebSocketServerTransport(
            params=WebSocketServerParams(
                audio_out_enabled=True,
                add_wav_header=False,
                serializer=serializer,
            ),
            host="127.0.0.1",
            port=0,
        )
        ready = asyncio.Event()

        @transport.event_handler("on_websocket_ready")
        async def on_websocket_ready(transport: Any) -> None:
            ready.set()

        running = asyncio.create_task(run_bot(transport))
        await asyncio.wait_for(ready.wait(), 60)
        script = Script().then(after(0.2), Press("#"))
        report = await place_call(carrier, f"ws://127.0.0.1:{transport.port}/", script, limits=LIMITS)
        assert report.ok, report.problems
        assert report.ended_by == "bot"
        await asyncio.wait_for(running, 60)

    go(main)


def test_a_custom_serializer_as_the_page_has_it() -> None:
    class MyCustomSerializer(FrameSerializer):
        @property
        def type(self) -> FrameSerializerType:
            return FrameSerializerType.TEXT  # or BINARY

        async def setup(self, frame: StartFrame) -> None:
            # Initialize with pipeline configuration
            pass

        async def serialize(self, frame: Frame) -> str | bytes | None:
            # Convert Pipecat frame to external format
            pass

        async def deserialize(self, data: str | bytes) -> Frame | None:
            # Convert external data to Pipecat frame
            pass

    async def program(websocket: WebSocket) -> None:
        transport = FastAPIWebsocketTransport(
            websocket, FastAPIWebsocketParams(audio_out_enabled=True, serializer=MyCustomSerializer())
        )
        await run_bot(transport)

    report = asyncio.run(call(program, fake("vonage"), Script().then(after(0.3), HangUp())))
    assert report.ok, report.problems
    assert report.heard_s == 0


# ---------------------------------------------------------------- the page of Genesys


def test_genesys_from_open_to_disconnect(capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[str, Any] = {}

    async def program(websocket: WebSocket) -> None:
        serializer = GenesysAudioHookSerializer()
        transport = FastAPIWebsocketTransport(
            websocket=websocket,
            params=FastAPIWebsocketParams(
                audio_in_enabled=True,
                audio_out_enabled=True,
                serializer=serializer,
                audio_out_fixed_packet_size=1600,
            ),
        )

        @serializer.event_handler("on_open")
        async def on_open(serializer: Any, message: Any) -> None:
            print(f"Session opened: {serializer.conversation_id}")

        @serializer.event_handler("on_close")
        async def on_close(serializer: Any, message: Any) -> None:
            print("Session closing")

        @serializer.event_handler("on_dtmf")
        async def on_dtmf(serializer: Any, message: Any) -> None:
            digit = message.get("parameters", {}).get("digit")
            print(f"DTMF digit pressed: {digit}")
            seen["participant"] = serializer.participant
            seen["input_vars"] = serializer.input_variables
            # Set variables during the conversation
            serializer.set_output_variables({"summary": "Customer asked about their bill"})
            # Send a disconnect message through the pipeline
            disconnect_msg = serializer.create_disconnect_message(
                reason="completed",
                action="transfer",
                output_variables={"intent": "resolved"},
            )
            await task.queue_frame(OutputTransportMessageUrgentFrame(message=disconnect_msg))

        @serializer.event_handler("on_pause")
        async def on_pause(serializer: Any, message: Any) -> None:
            print("Audio paused (caller on hold)")

        pipeline = Pipeline([transport.input(), EchoProcessor(), transport.output()])
        task = PipelineTask(pipeline, params=PipelineParams(audio_in_sample_rate=8000))

        @transport.event_handler("on_client_disconnected")
        async def on_client_disconnected(transport: Any, client: Any) -> None:
            await task.cancel()

        await PipelineRunner(handle_sigint=False).run(task)

    carrier = fake("genesys", parameters={"intent": "billing"})
    script = Script().then(after(0.3), Say(words(0.6))).then(after(0.8), Press("1"))
    report = asyncio.run(call(program, carrier, script))
    assert report.ok, report.problems
    assert report.ended_by == "bot"
    assert loud_s(report.heard, report.heard_rate) > 0.5
    assert seen["input_vars"] == {"intent": "billing"}
    assert seen["participant"]["dnis"]
    assert report.output_variables["intent"] == "resolved"
    printed = [
        line for line in capsys.readouterr().out.splitlines() if not line.startswith(("20", "["))
    ]  # no log lines
    assert printed == [f"Session opened: {carrier.call_id}", "DTMF digit pressed: 1", "Session closing"]


def test_an_end_frame_ends_it_too() -> None:
    async def program(websocket: WebSocket) -> None:
        serializer = GenesysAudioHookSerializer()
        serializer.set_output_variables({"intent": "billing_inquiry", "customer_verified": True})
        transport = FastAPIWebsocketTransport(
            websocket, FastAPIWebsocketParams(audio_out_enabled=True, serializer=serializer)
        )
        task = PipelineTask(Pipeline([transport.input(), transport.output()]))

        @transport.event_handler("on_client_connected")
        async def on_client_connected(transport: Any, client: Any) -> None:
            await until(lambda: serializer.conversation_id is not None)
            await task.queue_frame(EndFrame())

        await PipelineRunner(handle_sigint=False).run(task)

    report = asyncio.run(call(program, fake("genesys"), Script()))
    assert report.ok, report.problems
    assert report.ended_by == "bot"
    assert report.output_variables == {"intent": "billing_inquiry", "customer_verified": "true"}
