"""What a `bot(runner_args)` is given, and the transport that it makes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.websockets import WebSocket, WebSocketState

from gateway.transports.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from gateway.transports.params import TransportParams
from gateway.transports.telephony import parse_telephony_websocket, serializer_for
from gateway.wires import Event, Receive, Send
from serializers.base import Message

__all__ = [
    "RunnerArguments",
    "WebSocketRunnerArguments",
    "accepted_websocket",
    "create_transport",
    "parse_telephony_websocket",
]


@dataclass
class RunnerArguments:
    """What every bot is told. Signals are the server's: leave both of them to it."""

    handle_sigint: bool = field(default=False, kw_only=True)
    handle_sigterm: bool = field(default=False, kw_only=True)
    pipeline_idle_timeout_secs: int = field(default=300, kw_only=True)
    body: Any = field(default_factory=dict, kw_only=True)
    cli_args: Any = field(default=None, kw_only=True)


@dataclass
class WebSocketRunnerArguments(RunnerArguments):
    """`websocket` is accepted, and none of its messages was read that it would not give again."""

    websocket: Any


def accepted_websocket(scope: Any, receive: Receive, send: Send, read: Iterable[Message] = ()) -> WebSocket:
    """A WebSocket that somebody else has accepted; it gives `read` again before what comes next."""
    websocket = WebSocket(scope, again(read, receive), send)
    websocket.client_state = websocket.application_state = WebSocketState.CONNECTED
    return websocket


def again(read: Iterable[Message], receive: Receive) -> Receive:
    """`receive`, with `read` before what it gives."""
    waiting = deque(read)

    async def replaying() -> Event:
        if not waiting:
            return await receive()
        message = waiting.popleft()
        return {"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message}

    return replaying


async def create_transport(
    runner_args: RunnerArguments, transport_params: Mapping[str, Callable[[], TransportParams]]
) -> FastAPIWebsocketTransport:
    """The transport for whoever is calling.

    Args:
        transport_params: carrier -> what makes its parameters, FastAPIWebsocketParams. `add_wav_header` and
            `serializer` are filled in.

    Raises:
        ValueError: other arguments than WebSocketRunnerArguments, a carrier that is unknown or has no parameters,
            or a variable of the environment that is not set (see `serializer_for`).
    """
    if not isinstance(runner_args, WebSocketRunnerArguments):
        raise ValueError(f"no transport for {type(runner_args).__name__}: there are those over a WebSocket")
    carrier, call = await parse_telephony_websocket(runner_args.websocket)
    if carrier not in transport_params:
        known = ", ".join(transport_params) or "none"
        raise ValueError(f"transport_params has nothing for {carrier!r} (it has {known})")
    params = transport_params[carrier]()
    if not isinstance(params, FastAPIWebsocketParams):
        raise ValueError(f"transport_params[{carrier!r}] gives {type(params).__name__}, not FastAPIWebsocketParams")
    params.add_wav_header = False
    params.serializer = serializer_for(carrier, call)
    return FastAPIWebsocketTransport(runner_args.websocket, params)
