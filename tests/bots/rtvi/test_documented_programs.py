"""The example programs of Pipecat's pages on custom messages and RTVI, with only their imports renamed.

`Pipeline([...])` of a page is filled with processors that note what they see; the client is this test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from bots.rtvi import (
    RTVIClientMessageFrame,
    RTVIFunctionCallReportLevel,
    RTVIObserver,
    RTVIObserverParams,
    RTVIProcessor,
    RTVIServerMessageFrame,
    RTVIServerResponseFrame,
)
from bots.rtvi import models as RTVI
from bots.runtime import PipelineParams, PipelineTask
from gateway.clock import Clock
from gateway.transports.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from media.frames import (
    EndFrame,
    Frame,
    FunctionCallInProgressFrame,
    InputDTMFFrame,
    InputTransportMessageFrame,
    LLMRunFrame,
    LLMTextFrame,
    OutputTransportMessageUrgentFrame,
    STTUpdateSettingsFrame,
    UserStartedSpeakingFrame,
)
from media.observers import BaseObserver, FramePushed
from media.pipeline import Pipeline
from media.processor import FrameDirection, FrameProcessor
from serializers.protobuf import ProtobufFrameSerializer
from tests.media.rig import Pass, turns
from tests.media.rig import run_on_virtual_time as run
from tests.transports.serving import MemoryWebSocket

READY = {"version": "2.1.0", "about": {"library": "@pipecat-ai/client-js"}}


class Said:
    """A client at a task: says messages, and keeps what it is told."""

    def __init__(self, task: PipelineTask, last: Pass) -> None:
        self.task, self.last = task, last

    async def say(self, kind: str, data: Any, id: str = "1") -> list[dict[str, Any]]:
        """What the client is told from then on, without the envelope."""
        before = len(self.last.seen)
        message = {"label": "rtvi-ai", "type": kind, "id": id, "data": data}
        await self.task.queue_frame(InputTransportMessageFrame(message))
        return await self.told(before)

    async def told(self, before: int) -> list[dict[str, Any]]:
        for _ in range(10):
            await turns()
        frames = [frame for frame in self.last.seen[before:] if isinstance(frame, OutputTransportMessageUrgentFrame)]
        return [{key: value for key, value in frame.message.items() if key != "label"} for frame in frames]

    def frames(self, cls: type[Frame]) -> list[Any]:
        return [frame for frame in self.last.seen if isinstance(frame, cls)]


def program(
    make: Callable[[], Sequence[FrameProcessor]],
    client: Callable[[Said], Awaitable[None]],
    tell: Callable[[PipelineTask], None] = lambda task: None,
    **options: Any,
) -> None:
    """Run a task, and `client` at it."""

    async def main() -> None:
        last = Pass()
        task = PipelineTask(Pipeline([*make(), last]), **options)
        _ = task.rtvi
        tell(task)
        running = asyncio.ensure_future(task.run())
        await turns()
        said = Said(task, last)
        (ready,) = await said.say("client-ready", READY, "4a85eb2e")
        assert (ready["type"], ready["id"]) == ("bot-ready", "4a85eb2e")
        await client(said)
        await task.queue_frame(EndFrame())
        await running

    run(main())


def test_a_message_in_an_event_handler() -> None:
    def tell(task: PipelineTask) -> None:
        rtvi = task.rtvi

        @rtvi.event_handler("on_client_message")
        async def on_client_message(rtvi, msg):  # type: ignore[no-untyped-def]
            if msg.type == "set-language":
                language = msg.data.get("language", "en-US")
                await task.queue_frames([STTUpdateSettingsFrame(language=language)])

    async def client(said: Said) -> None:
        assert await said.say("client-message", {"t": "set-language", "d": {"language": "de"}}) == []
        (update,) = said.frames(STTUpdateSettingsFrame)
        assert update.settings == {"language": "de"}

    program(list, client, tell)


def test_a_message_in_a_processor() -> None:
    class CustomFrameProcessor(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, RTVIClientMessageFrame) and frame.type == "set-language":
                language = frame.data.get("language", "en-US")
                await self.push_frame(STTUpdateSettingsFrame(language=language))
                return
            await self.push_frame(frame, direction)

    async def client(said: Said) -> None:
        await said.say("client-message", {"t": "set-language", "d": {"language": "de"}})
        assert [frame.settings for frame in said.frames(STTUpdateSettingsFrame)] == [{"language": "de"}]
        assert said.frames(RTVIClientMessageFrame) == []

    program(lambda: [CustomFrameProcessor()], client)


def get_current_language() -> str:
    return "fr"


async def asks_for_the_language(said: Said) -> None:
    assert await said.say("client-message", {"t": "get-language", "d": {}}, "a") == [
        {"type": "server-response", "id": "a", "data": {"t": "get-language", "d": {"language": "fr"}}}
    ]
    assert await said.say("client-message", {"t": "nonsense"}, "b") == [
        {"type": "error-response", "id": "b", "data": {"error": "Unknown request type"}}
    ]


def test_a_request_in_an_event_handler() -> None:
    def tell(task: PipelineTask) -> None:
        rtvi = task.rtvi

        @rtvi.event_handler("on_client_message")
        async def on_client_message(rtvi, msg):  # type: ignore[no-untyped-def]
            if msg.type == "get-language":
                await rtvi.send_server_response(msg, {"language": get_current_language()})
            else:
                await rtvi.send_error_response(msg, "Unknown request type")

    program(list, asks_for_the_language, tell)


def test_a_request_in_a_processor() -> None:
    class CustomFrameProcessor(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, RTVIClientMessageFrame):
                if frame.type == "get-language":
                    await self.push_frame(
                        RTVIServerResponseFrame(
                            client_msg=frame,
                            data={"language": get_current_language()},
                        )
                    )
                    return
                else:
                    await self.push_frame(
                        RTVIServerResponseFrame(
                            client_msg=frame,
                            error="Unknown request type",
                        )
                    )
            await self.push_frame(frame, direction)

    program(lambda: [CustomFrameProcessor()], asks_for_the_language)


LANGUAGE = {"type": "server-message", "data": {"msg": "language-updated", "language": "de"}}


def test_a_server_message_of_an_observer() -> None:
    def tell(task: PipelineTask) -> None:
        rtvi = task.rtvi
        seen = set()

        class CustomObserver(BaseObserver):
            async def on_push_frame(self, data: FramePushed) -> None:
                if isinstance(data.frame, STTUpdateSettingsFrame):
                    if data.frame.id in seen:
                        return  # an observer sees a frame at each hop
                    seen.add(data.frame.id)
                    for key, value in data.frame.settings.items():
                        if key == "language":
                            await rtvi.send_server_message(
                                {
                                    "msg": "language-updated",
                                    "language": value,
                                }
                            )

        task.add_observer(CustomObserver())

    async def client(said: Said) -> None:
        before = len(said.last.seen)
        await said.task.queue_frame(STTUpdateSettingsFrame(language="de"))
        assert await said.told(before) == [LANGUAGE]

    program(list, client, tell)


def test_a_server_message_of_a_processor() -> None:
    class CustomFrameProcessor(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, STTUpdateSettingsFrame):
                for key, value in frame.settings.items():
                    if key == "language":
                        await self.push_frame(
                            RTVIServerMessageFrame(data={"msg": "language-updated", "language": value})
                        )
            await self.push_frame(frame, direction)

    async def client(said: Said) -> None:
        before = len(said.last.seen)
        await said.task.queue_frame(STTUpdateSettingsFrame(language="de"))
        assert await said.told(before) == [LANGUAGE]

    program(lambda: [CustomFrameProcessor()], client)


def test_automatic_setup() -> None:
    def tell(task: PipelineTask) -> None:
        # Access the RTVI processor via task.rtvi
        @task.rtvi.event_handler("on_client_ready")
        async def on_client_ready(rtvi: RTVIProcessor) -> None:
            # set_bot_ready() is called automatically, add custom logic here
            await task.queue_frames([LLMRunFrame()])

    async def client(said: Said) -> None:
        await turns()
        assert len(said.frames(LLMRunFrame)) == 1

    program(list, client, tell, params=PipelineParams(enable_metrics=True, enable_usage_metrics=True))


def test_a_processor_and_parameters_of_ones_own() -> None:
    rtvi = RTVIProcessor()
    params = RTVIObserverParams(
        bot_llm_enabled=False,
        metrics_enabled=False,
        function_call_report_level={
            "*": RTVIFunctionCallReportLevel.NONE,
            "get_weather": RTVIFunctionCallReportLevel.FULL,
        },
    )

    async def client(said: Said) -> None:
        assert said.task.rtvi is rtvi
        before = len(said.last.seen)
        await said.task.queue_frames(
            [
                LLMTextFrame("hidden"),
                FunctionCallInProgressFrame("get_weather", "c1", {"city": "Bonn"}),
                FunctionCallInProgressFrame("pay", "c2", {"pin": "1"}),
            ]
        )
        kind = "llm-function-call-in-progress"
        assert await said.told(before) == [
            {
                "type": kind,
                "data": {"tool_call_id": "c1", "function_name": "get_weather", "arguments": {"city": "Bonn"}},
            },
            {"type": kind, "data": {"tool_call_id": "c2"}},
        ]

    program(list, client, rtvi_processor=rtvi, rtvi_observer_params=params)


def test_an_observer_with_transforms() -> None:
    rtvi = RTVIProcessor()

    def redact_sensitive(text, agg_type):  # type: ignore[no-untyped-def]
        # Example: redact numbers
        import re

        return re.sub(r"\d+", "[REDACTED]", text)

    bot_output_transforms = [
        ("credit_card", redact_sensitive),  # Only for 'credit_card' type
        ("*", lambda text, agg_type: text.upper()),  # For all types, make uppercase
    ]
    observer = RTVIObserver(
        rtvi,
        params=RTVIObserverParams(bot_output_transforms=bot_output_transforms),
    )
    assert observer.frame_types


def test_the_models_as_a_namespace() -> None:
    msg = RTVI.BotReady(id="1", data=RTVI.BotReadyData(version=RTVI.PROTOCOL_VERSION))
    assert msg.type == "bot-ready"


def test_a_task_without_rtvi() -> None:
    task = PipelineTask(Pipeline([Pass()]), enable_rtvi=False)
    assert len(task._pipeline.processors) == len(PipelineTask(Pipeline([Pass()]))._pipeline.processors)


def test_a_client_on_a_transport_needs_no_line_of_the_program() -> None:
    """Protobuf in, protobuf out; the program says nothing of RTVI."""
    wire = ProtobufFrameSerializer()

    def message(kind: str, data: Any) -> bytes:
        told = {"label": "rtvi-ai", "type": kind, "id": "7", "data": data}
        (sent,) = wire.encode(OutputTransportMessageUrgentFrame(told))
        assert isinstance(sent, bytes)
        return sent

    async def main() -> None:
        websocket = MemoryWebSocket(message("client-ready", READY), message("dtmf", {"buttons": ["5"]}))
        params = FastAPIWebsocketParams(serializer=ProtobufFrameSerializer(), audio_in_enabled=True)
        transport = FastAPIWebsocketTransport(websocket, params)
        last = Pass()
        task = PipelineTask(Pipeline([transport.input(), last, transport.output()]))
        running = asyncio.ensure_future(task.run())
        for _ in range(20):
            await asyncio.sleep(0.02)
        await task.queue_frame(UserStartedSpeakingFrame())
        await asyncio.sleep(0.2)
        assert [frame.button.value for frame in last.seen if isinstance(frame, InputDTMFFrame)] == ["5"]
        sent = [frame for data in websocket.sent for frame in wire.decode(data)]
        told = [frame.message["type"] for frame in sent if isinstance(frame, InputTransportMessageFrame)]
        assert told == ["bot-ready", "user-started-speaking"]
        await task.cancel()
        await running

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "now", staticmethod(lambda: asyncio.get_running_loop().time()))
        run(main())
