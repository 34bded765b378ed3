"""Who may watch: tokens are given here, sockets let in, and passed on to the worker that has the call."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from bots.rtvi import models as RTVI
from gateway.control import ControlError, view
from gateway.media_sockets import Refused, refuse_upgrade
from gateway.session import CallSession
from gateway.store import CallKey, StoreError, Worker
from gateway.tokens import TokenError, WatchClaims, used_key
from gateway.watching.hands import Hands
from gateway.watching.watch import Watch
from gateway.watching.watcher import LARGEST, Watcher, outgoing
from gateway.wires import Receive, Send
from serializers.base import Message

if TYPE_CHECKING:
    from gateway.app import Gateway

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.watching")

PATH: Final = "/calls/{carrier}/{call_id}/rtvi"
COLLEAGUES_PATH: Final = "/watch"
CONNECT_S: Final = 5.0  # to a colleague


class Watching:
    """All watchers of one process."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._watches: dict[CallSession, Watch] = {}
        self.watchers = 0  # sockets that are open, those that are passed on among them

    # ------------------------------------------------------------ tokens, and what needs none

    async def address(self, key: CallKey, base: str, **claims: Any) -> str:
        """Where to connect to watch that call, for a minute and once. Raises ControlError: there is no such call."""
        if self._gateway.calls.find(key) is None and await self._owner(key) is None:
            raise _no_call(key)
        token = self._gateway.mint.mint_watch(key.carrier, key.call_id, **claims)
        path = PATH.format(carrier=key.carrier, call_id=quote(key.call_id, safe=""))
        return f"{base.replace('http', 'ws', 1)}{path}?token={token}"

    async def timeline(self, key: CallKey) -> Mapping[str, Any]:
        """What has happened in a live call so far. Raises ControlError."""
        if (found := self._timeline(key)) is not None:
            return found
        owner = await self._owner(key)
        if owner is None:
            raise _no_call(key)
        asked = {"carrier": key.carrier, "call_id": key.call_id}
        told: Mapping[str, Any] = await self._gateway.colleagues.ask(owner, "timeline", asked)
        return told

    async def told_timeline(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        key = CallKey(asked["carrier"], asked["call_id"])
        if (found := self._timeline(key)) is None:
            raise _no_call(key)
        return found

    def _timeline(self, key: CallKey) -> Mapping[str, Any] | None:
        session = self._gateway.calls.find(key)
        if session is None:
            return None
        shown = view(session)
        kept = ("carrier", "call_id", "state", "bot", "duration_s")
        return {**{name: shown[name] for name in kept}, "events": list(session.core.trail.entries)}

    async def _owner(self, key: CallKey) -> Worker | None:
        return await self._gateway.colleagues.owner(key, time.time())

    # ------------------------------------------------------------ sockets

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Somebody with a token."""
        await receive()  # websocket.connect
        try:
            claims = await self._let_in(scope)
            session, owner = await self._where(CallKey(claims.carrier, claims.call_id))
        except Refused as exc:
            log.warning("watching.refused", reason=exc.reason)
            await refuse_upgrade(scope, send, exc.status)
            return
        self.watchers += 1
        try:
            if session is not None:
                await self._attend(session, claims, scope, receive, send)
            elif owner is not None:
                await self._pass_on(owner, claims, scope, receive, send)
        finally:
            self.watchers -= 1

    async def attend(self, claims: WatchClaims, scope: Any, receive: Receive, send: Send) -> None:
        """Whoever it is, it was let in, here or by a colleague."""
        session = self._gateway.calls.find(CallKey(claims.carrier, claims.call_id))
        if session is None:
            await refuse_upgrade(scope, send, 404)
            return
        await self._attend(session, claims, scope, receive, send)

    async def _let_in(self, scope: Any) -> WatchClaims:
        """Raises Refused."""
        token = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        where = scope["path_params"]
        try:
            claims = self._gateway.mint.read_watch(token)
            if (claims.carrier, claims.call_id) != (where["carrier"], where["call_id"]):
                raise TokenError("of another call")
            now = time.time()
            if not await self._gateway.store.once(used_key(token), now, ttl_s=max(claims.expires - now, 0.0) + 1.0):
                raise TokenError("used")
        except TokenError as exc:
            raise Refused(403, exc.reason) from None
        except StoreError as exc:
            raise Refused(503, "store", problem=str(exc)) from None
        if self.watchers >= self._gateway.settings.api.max_watchers:
            raise Refused(503, "max_watchers")
        return claims

    async def _where(self, key: CallKey) -> tuple[CallSession | None, Worker | None]:
        session = self._gateway.calls.find(key)
        if session is not None:
            self._has_room(session)
            return session, None
        try:
            owner = await self._owner(key)
        except StoreError as exc:
            raise Refused(503, "store", problem=str(exc)) from None
        if owner is None:
            raise Refused(404, "no-call")
        return None, owner

    def _has_room(self, session: CallSession) -> None:
        watch = self._watches.get(session)
        if watch is not None and len(watch.watchers) >= self._gateway.settings.api.max_watchers_per_call:
            raise Refused(503, "max_watchers_per_call")

    async def _attend(
        self, session: CallSession, claims: WatchClaims, scope: Any, receive: Receive, send: Send
    ) -> None:
        """The call is here."""
        try:
            self._has_room(session)
        except Refused as exc:
            await refuse_upgrade(scope, send, exc.status)
            return
        await send({"type": "websocket.accept"})
        if session.core.over:
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
            return
        watch = self._watch(session)
        watcher = Watcher(claims, receive, send, _gap)
        hands = Hands(watch, watcher)

        def take(data: Message) -> None:
            try:
                if len(data) > LARGEST:
                    watcher.leave(1009)
                elif not watch.core.over:
                    hands.read(data)
            except Exception:
                log.exception("watching.message_failed", size=len(data))

        watch.add(watcher)
        try:
            await watcher.run(take)
        finally:
            watch.discard(watcher)

    def _watch(self, session: CallSession) -> Watch:
        watch = self._watches.get(session)
        if watch is None:
            watch = Watch(session, self._gateway.later, functools.partial(self._over, session))
            self._watches[session] = watch
            self._gateway.clock.add(watch)
        return watch

    def _over(self, session: CallSession) -> None:
        watch = self._watches.pop(session, None)
        if watch is not None:
            self._gateway.clock.discard(watch)

    # ------------------------------------------------------------ a call of another worker

    async def _pass_on(self, owner: Worker, claims: WatchClaims, scope: Any, receive: Receive, send: Send) -> None:
        """Its messages pass here as they are; each side is read no faster than the other takes."""
        uri = f"ws://colleague{COLLEAGUES_PATH}?claims={quote(msgspec.json.encode(claims).decode())}"
        try:
            far = await unix_connect(
                owner.endpoint, uri, compression=None, max_size=None, ping_interval=None, open_timeout=CONNECT_S
            )
        except (OSError, InvalidHandshake, TimeoutError) as exc:
            log.warning("watching.colleague_silent", worker=owner.id, problem=type(exc).__name__)
            await refuse_upgrade(scope, send, 503)
            return
        loop = asyncio.get_running_loop()
        try:
            await send({"type": "websocket.accept"})
            pumps = {
                loop.create_task(_from_watcher(receive, far), name="watch-to-colleague"),
                loop.create_task(_to_watcher(far, send), name="watch-from-colleague"),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.wait(pumps)
        finally:
            far.transport.abort()


class FromColleagues:
    """ASGI: a watcher of a call of ours is connected to another worker, which has let it in."""

    def __init__(self, watching: Watching) -> None:
        self._watching = watching

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        asked = parse_qs(scope["query_string"].decode())["claims"][0]
        await self._watching.attend(msgspec.json.decode(asked, type=WatchClaims), scope, receive, send)


async def _from_watcher(receive: Receive, far: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while (event := await receive())["type"] == "websocket.receive":
            data = event.get("text")
            await far.send(event["bytes"] if data is None else data)


async def _to_watcher(far: ClientConnection, send: Send) -> None:
    try:
        async for message in far:
            await send(outgoing(message))
        await send({"type": "websocket.close", "code": far.close_code or 1000, "reason": ""})
    except ConnectionClosed:
        with contextlib.suppress(Exception):
            await send({"type": "websocket.close", "code": _passable(far.close_code), "reason": ""})
    except Exception as exc:  # the server's own exceptions for a socket that is gone
        log.debug("watching.send_failed", problem=repr(exc))


def _passable(code: int | None) -> int:
    return code if code in (1000, 1008, 1009) else 1011


def _gap(t: float, dropped_s: float) -> Message:
    data = {"type": "audio", "t": round(t, 3), "dropped_ms": round(dropped_s * 1000)}
    return RTVI.ServerMessage(data=data).model_dump_json()


def _no_call(key: CallKey) -> ControlError:
    return ControlError(404, f"no live call {key.call_id} of {key.carrier}")
