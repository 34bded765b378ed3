"""The dev phone's socket: a microphone in a browser calls the gateway through a simulated carrier, on the real path.

The browser's first message says who calls whom:

    {"carrier": "twilio", "to": "+15550100", "from": "+14155550101", "rate": 48000, "token": ""}

or "bot" in place of "to", the name of one; then come binary messages, its microphone (s16le, mono, at `rate`), and
{"digit": "5"}, {"hangup": true}. It gets binary messages, what the caller hears (s16le, mono, at the rate that
{"opened": ...} names), and objects with one key: `opened`, `event` (an entry of the timeline, on the carrier's side),
`watch` (where to watch the gateway's side, as docs/watching.md has it: `address`, and `ahead_s`, which the times there
lack), `wire` (a message on the media socket, audio folded) and `over`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr
import structlog
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.api import Gatekeeper
from gateway.control import ControlError
from gateway.simulator.base import CallPlan, FakeCarrier, Message
from gateway.simulator.caller import Limits, place_call
from gateway.simulator.configured import mint_for, simulated
from gateway.simulator.report import CallReport
from gateway.simulator.script import Script
from gateway.store import CallKey, StoreError
from media.errors import ConfigError
from media.frames import KeypadEntry
from serializers.protobuf import message_in

if TYPE_CHECKING:
    from gateway.app import Gateway

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.console")

FIRST_S = 10.0  # for the first message
PHONES = 20  # at once
KEYS = frozenset(entry.value for entry in KeypadEntry)
RATES = range(8000, 96001)
MAX_MESSAGE = 1 << 16
MAX_LATE_S = 0.5  # of the microphone that waits: what is older is dropped
BACKLOG = 2000  # messages for a browser that does not read
LONGEST_S = 3600.0
FOLD_S = 0.5  # audio on the wire is told so often, as a sum
FIND_S = 0.05  # between looks for the gateway's side of the call
WRITTEN_LOOKS = 40  # for its record, of a call that is over
AUDIO = '"payload"'  # what a text message has that is audio, whatever the carrier
TEXT_IN = {"web": message_in}  # a carrier's binary messages that are not audio


class Phone:
    """The endpoint of all dev phones."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._keeper = Gatekeeper(lambda: gateway.settings)
        self._phones = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        try:
            async with asyncio.timeout(FIRST_S):
                asked = json.loads(await socket.receive_text())
            carrier, rate, bot = self._asked(socket, asked)
        except (ValueError, KeyError, TypeError, TimeoutError):
            await _refuse(socket, "the first message says carrier, to, from and rate")
            return
        except (ConfigError, HTTPException) as exc:
            await _refuse(socket, exc.detail if isinstance(exc, HTTPException) else str(exc))
            return
        except WebSocketDisconnect:
            return
        if self._phones >= PHONES:
            await _refuse(socket, f"{PHONES} phones are in use")
            return
        self._phones += 1
        try:
            await _Person(self._gateway, socket, carrier, rate, bot).run()
        finally:
            self._phones -= 1

    def _asked(self, socket: WebSocket, asked: Mapping[str, Any]) -> tuple[FakeCarrier, int, str]:
        token = str(asked.get("token") or "") or None
        if "dial" not in self._keeper.scopes_of(socket, token):  # type: ignore[arg-type]
            raise HTTPException(403, "this token lacks the scope 'dial'")
        name, rate = str(asked["carrier"]), int(asked["rate"])
        settings = self._gateway.settings
        if rate not in RATES:
            raise ValueError(rate)
        if name not in settings.carriers:
            raise ConfigError(f"carriers.{name}", "is not on", "call through another, or set what it lacks")
        bot = str(asked.get("bot") or "")
        if bot and bot not in settings.bots:
            raise ConfigError(f"bots.{bot[:64]}", "is not there", f"one of {', '.join(sorted(settings.bots))}")
        number = str(asked.get("to") or "") if bot else str(asked["to"])
        plan = CallPlan(from_number=str(asked["from"])[:64])
        if number:
            plan = dataclasses.replace(plan, to_number=number[:64])
        if bot:  # at Genesys no token names it, the path does
            plan = dataclasses.replace(plan, options={"connector": bot})
        return simulated(settings, name, plan), rate, bot


async def _refuse(socket: WebSocket, problem: str) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await socket.send_text(json.dumps({"over": {"problem": problem}}))
        await socket.close(1008)


class _Person:
    """Who holds the phone: `gateway.simulator.caller.Live`, by way of a browser."""

    def __init__(self, gateway: Gateway, socket: WebSocket, carrier: FakeCarrier, rate: int, bot: str) -> None:
        self._gateway, self._socket, self._carrier, self._bot = gateway, socket, carrier, bot
        self._microphone = soxr.ResampleStream(rate, carrier.audio_rate, 1, dtype="int16", quality="MQ")
        self._rate, self._microphone_rate = carrier.audio_rate, rate
        self._voice = bytearray()
        self._keys: deque[str] = deque()
        self._gone = self._opened = False
        self._told = 0  # entries of the carrier's timeline
        self._outbox: deque[str | bytes] = deque(maxlen=BACKLOG)
        self._ready, self._all_told = asyncio.Event(), asyncio.Event()
        self._folded = {True: [0, 0], False: [0, 0]}  # to the gateway or from it: messages and bytes of audio
        self._folded_at = 0.0
        self._text_in = TEXT_IN.get(carrier.name, lambda message: None)
        self._missing = 0  # packets in which the microphone was late

    # ------------------------------------------------------------ the call

    async def run(self) -> None:
        writer = asyncio.create_task(self._write(), name="phone-writer")
        reader = asyncio.create_task(self._read(), name="phone-reader")
        inviter = asyncio.create_task(self._invite(), name="phone-inviter")
        try:
            report = await self._call()
            self._tell_events()
            self._say({"over": {**_over(report, self._missing), "reason": await self._why(report)}})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await self._all_told.wait()
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await self._socket.close()
        finally:
            for task in (reader, writer, inviter):
                task.cancel()
            await asyncio.wait({reader, writer, inviter})

    async def _call(self) -> CallReport:
        gateway, carrier = self._gateway, self._carrier
        host, port = self._socket.scope["server"]
        here = f"[{host}]" if ":" in host else host
        path = carrier.media_path(mint_for(gateway.mint, carrier, self._bot))
        public = gateway.settings.gateway.public_url.rstrip("/")
        return await place_call(
            carrier,
            f"ws://{here}:{port}{path}",
            Script(),
            addressed=f"ws{public.removeprefix('http')}{path}" if public else "",
            limits=Limits(longest_s=LONGEST_S),
            meanwhile=self._meanwhile,
            live=self,
        )

    def _meanwhile(self, now: float) -> Sequence[Message]:
        carrier = self._carrier
        if not self._opened and carrier.ready:
            self._opened = True
            self._say({"opened": {"call_id": carrier.call_id, "rate": carrier.playout.rate}})
        self._tell_events()
        self._fold(now)
        if self._gone:
            return carrier.hang_up(now) if carrier.ended_by is None else ()
        messages: list[Message] = []
        while self._keys and carrier.ready:
            messages += carrier.press(self._keys.popleft(), now)
        return messages

    async def _invite(self) -> None:
        """Tell the page where to watch what the gateway sees of the call, as soon as there is one."""
        gateway, carrier, address = self._gateway, self._carrier, ""
        while not address:
            await asyncio.sleep(FIND_S)
            key = CallKey(carrier.name, carrier.call_id)
            try:
                if self._opened:
                    address = await gateway.watching.address(key, "", may_control=False, format="json", audio="")
            except ControlError:
                pass  # not yet
            except StoreError:
                return
        session = gateway.calls.find(key)
        ahead_s = self._t() - (session.core.now() - session.core.opened) if session is not None else 0.0
        self._say({"watch": {"address": address, "ahead_s": round(ahead_s, 3)}})

    async def _why(self, report: CallReport) -> str:
        """The gateway's own word for the end of a call that it let in and in which nothing was heard, if it has one."""
        if report.refused is not None or report.heard_s:
            return ""
        key = CallKey(self._carrier.name, self._carrier.call_id)
        with contextlib.suppress(StoreError):
            for _ in range(WRITTEN_LOOKS):
                stored = await self._gateway.store.call(key)
                if stored is not None and stored.ended:
                    return stored.reason
                await asyncio.sleep(FIND_S)
        return ""

    def _tell_events(self) -> None:
        for event in self._carrier.events[self._told :]:
            self._say({"event": {"t": round(event.t, 3), "what": event.what, "detail": event.detail}})
        self._told = len(self._carrier.events)

    # ------------------------------------------------------------ caller.Live

    def voice(self, samples: int, rate: int) -> bytes:
        wanted = 2 * samples
        if rate != self._rate:  # the carrier has learned its rate as the call opened
            self._rate, self._microphone = (
                rate,
                soxr.ResampleStream(self._microphone_rate, rate, 1, dtype="int16", quality="MQ"),
            )
            self._voice.clear()
        piece = bytes(self._voice[:wanted])
        del self._voice[:wanted]
        self._missing += len(piece) < wanted
        return piece

    def hear(self, pcm: bytes, rate: int) -> None:
        self._put(pcm)

    def passed(self, message: Message, *, to_gateway: bool) -> None:
        text = self._text_in(message) if isinstance(message, bytes) else message
        if text is None or AUDIO in text:
            count = self._folded[to_gateway]
            count[0] += 1
            count[1] += len(message)
        else:
            self._say({"wire": {"t": self._t(), "to": to_gateway, "text": text[:4000]}})

    def _t(self) -> float:
        return round(asyncio.get_running_loop().time() - self._carrier.started_at, 3)

    def _fold(self, now: float) -> None:
        """Every half second: the audio that has passed."""
        if now - self._folded_at < FOLD_S:
            return
        self._folded_at = now
        for to_gateway, count in self._folded.items():
            if count[0]:
                self._say({"wire": {"t": self._t(), "to": to_gateway, "audio": count[0], "bytes": count[1]}})
                count[:] = 0, 0

    # ------------------------------------------------------------ the browser

    async def _read(self) -> None:
        socket = self._socket
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                if (pcm := message.get("bytes")) is not None:
                    self._spoken(pcm)
                else:
                    self._told_by_browser(message.get("text") or "")
        finally:
            self._gone = True

    def _spoken(self, pcm: bytes) -> None:
        if len(pcm) > MAX_MESSAGE or len(pcm) % 2:
            return
        self._voice += self._microphone.resample_chunk(np.frombuffer(pcm, "<i2")).astype("<i2").tobytes()
        late = len(self._voice) - int(2 * self._rate * MAX_LATE_S)
        if late > 0:
            del self._voice[: late + late % 2]

    def _told_by_browser(self, text: str) -> None:
        try:
            said = json.loads(text[:1000])
        except ValueError:
            return
        if not isinstance(said, dict):
            return
        if said.get("hangup"):
            self._gone = True
        digit = said.get("digit")
        if isinstance(digit, str) and digit in KEYS:
            self._keys.append(digit)

    def _say(self, what: Mapping[str, Any]) -> None:
        self._put(json.dumps(what))

    def _put(self, message: str | bytes) -> None:
        self._outbox.append(message)
        self._all_told.clear()
        self._ready.set()

    async def _write(self) -> None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            while True:
                await self._ready.wait()
                self._ready.clear()
                while self._outbox:
                    message = self._outbox.popleft()
                    if isinstance(message, bytes):
                        await self._socket.send_bytes(message)
                    else:
                        await self._socket.send_text(message)
                self._all_told.set()


def _over(report: CallReport, missing: int) -> dict[str, Any]:
    told = report.to_dict()
    kept = ("ended_by", "end_reason", "refused", "heard_s", "gaps_of_the_gateway", "first_audio_s", "barge_ins")
    problems = [*told["problems"], *told["violations"]][:10]
    return {**{name: told[name] for name in kept}, "problems": problems, "microphone_late": missing}
