"""/ws: any carrier's media socket, without a token. Who is calling is told by the first messages.

It exists only where [gateway] `generic_ws` is on: whoever reaches it reaches a bot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from typing import Any

import structlog

from gateway.transports.runner import again
from gateway.transports.telephony import first_words
from gateway.wires import Event, Receive, Send

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.any_carrier")

Take = Callable[[str, Any, Receive, Send], Awaitable[None]]  # (carrier, scope, receive, send): carries the call


class AnyCarrier:
    """An ASGI application for one route."""

    def __init__(self, carriers: Container[str], take: Take, refused: Callable[[str], None], *, wait_s: float) -> None:
        self._carriers, self._take, self._refused = carriers, take, refused
        self._wait_s = wait_s

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})
        messages, (carrier, _) = await first_words(receive, wait_s=self._wait_s)
        if carrier not in self._carriers:
            reason = "silent" if not messages else "unknown-carrier"
            self._refused(reason)
            log.warning("media.refused", carrier=carrier, reason=reason)
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_on(event: Event) -> None:
            if event["type"] != "websocket.accept":  # that was said
                await send(event)

        # Without extensions: a socket that is taken over would not say again what has been read already.
        await self._take(carrier, {**scope, "extensions": {}}, again(messages, receive), send_on)
