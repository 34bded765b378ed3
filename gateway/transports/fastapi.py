"""A transport over a WebSocket that a web framework has accepted: FastAPI's, Starlette's, the gateway's own."""

from __future__ import annotations

from typing import Any

import structlog

from gateway.finisher import Finisher
from gateway.transports.base import WebsocketTransport
from gateway.transports.call import TransportSession
from gateway.transports.params import FastAPIWebsocketParams
from gateway.transports.telephony import read_so_far
from gateway.wires import Event
from media.frames import StartFrame

__all__ = ["FastAPIWebsocketParams", "FastAPIWebsocketTransport"]

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.transports")


class FastAPIWebsocketTransport(WebsocketTransport):
    """One accepted WebSocket, for its whole life.

    Reading begins when StartFrame has come. What `parse_telephony_websocket` has read is read again.

    Args:
        websocket: anything with Starlette's `receive`, `send_text`, `send_bytes` and `close`.
    """

    def __init__(
        self,
        websocket: Any,
        params: FastAPIWebsocketParams,
        input_name: str | None = None,
        output_name: str | None = None,
        *,
        finisher: Finisher | None = None,
    ) -> None:
        super().__init__(params, input_name, output_name, finisher=finisher)
        self._websocket = websocket
        self._session: TransportSession | None = None
        self._carried = False

    def prepare(self, frame: StartFrame) -> None:
        super().prepare(frame)
        if self._session is not None:
            self._go_on(frame)
            return
        self._session = self._connect(
            self._websocket, self._receive, self._send, self.params.serializer, read_so_far(self._websocket)
        )

    def _begin(self, frame: StartFrame) -> None:
        if self._session is not None and not self._carried:
            self._carried = True
            self._welcome(self._websocket)
            self._run(self._session.carry(frame), "call")

    async def _receive(self) -> Event:
        try:
            event: Event = await self._websocket.receive()
        except Exception as exc:  # the framework's own, for a socket that is gone
            log.debug("transport.receive_failed", problem=repr(exc))
            return {"type": "websocket.disconnect", "code": 1006}
        return event

    async def _send(self, event: Event) -> None:
        if event["type"] == "websocket.close":
            await self._websocket.close(code=event["code"])
        elif "text" in event:
            await self._websocket.send_text(event["text"])
        else:
            await self._websocket.send_bytes(event["bytes"])
