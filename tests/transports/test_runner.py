"""What a `bot(runner_args)` gets and makes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.websockets import WebSocket, WebSocketState

from gateway.transports.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from gateway.transports.params import TransportParams
from gateway.transports.runner import (
    RunnerArguments,
    WebSocketRunnerArguments,
    accepted_websocket,
    create_transport,
    parse_telephony_websocket,
)
from serializers.exotel import ExotelFrameSerializer
from tests.transports.serving import MemoryWebSocket, fake


def test_arguments() -> None:
    websocket = object()
    arguments = WebSocketRunnerArguments(websocket=websocket)
    assert arguments.websocket is websocket
    assert not arguments.handle_sigint
    assert not arguments.handle_sigterm
    assert arguments.pipeline_idle_timeout_secs == 300
    assert arguments.body == {}
    assert isinstance(arguments, RunnerArguments)
    assert RunnerArguments(body={"a": 1}).body == {"a": 1}


def create(arguments: RunnerArguments, **params: Any) -> FastAPIWebsocketTransport:
    async def run() -> FastAPIWebsocketTransport:
        return await create_transport(arguments, params)

    return asyncio.run(asyncio.wait_for(run(), 60))


def exotel() -> WebSocketRunnerArguments:
    return WebSocketRunnerArguments(websocket=MemoryWebSocket(*fake("exotel").opening(0.0)))


def test_parameters_are_filled_in() -> None:
    given = FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, add_wav_header=True)
    transport = create(exotel(), exotel=lambda: given, twilio=lambda: pytest.fail("not asked for"))
    assert isinstance(transport, FastAPIWebsocketTransport)
    assert transport.params is given
    assert not given.add_wav_header
    assert isinstance(given.serializer, ExotelFrameSerializer)


def test_a_carrier_without_parameters() -> None:
    with pytest.raises(ValueError, match=r"nothing for 'exotel' \(it has twilio\)"):
        create(exotel(), twilio=FastAPIWebsocketParams)


def test_parameters_of_another_transport() -> None:
    with pytest.raises(ValueError, match="gives TransportParams"):
        create(exotel(), exotel=TransportParams)


def test_arguments_without_a_websocket() -> None:
    with pytest.raises(ValueError, match="no transport for RunnerArguments"):
        create(RunnerArguments(), exotel=FastAPIWebsocketParams)


def test_an_accepted_websocket_gives_again_what_was_read() -> None:
    async def run() -> None:
        sent: list[Any] = []
        rest = iter([{"type": "websocket.receive", "bytes": b"media"}, {"type": "websocket.disconnect", "code": 1001}])

        async def receive() -> Any:
            return next(rest)

        async def send(event: Any) -> None:
            sent.append(event)

        scope = {"type": "websocket", "path": "/ws", "headers": [], "query_string": b""}
        first = list(fake("plivo").opening(0.0))
        websocket = accepted_websocket(scope, receive, send, [*first, b"early"])
        assert isinstance(websocket, WebSocket)
        assert websocket.application_state is WebSocketState.CONNECTED
        assert (await parse_telephony_websocket(websocket))[0] == "plivo"
        assert [(await websocket.receive())["bytes"] for _ in range(2)] == [b"early", b"media"]
        await websocket.send_text("hello")
        assert sent == [{"type": "websocket.send", "text": "hello"}]
        assert (await websocket.receive())["type"] == "websocket.disconnect"

    asyncio.run(run())
