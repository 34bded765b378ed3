"""What can be done to calls from outside: look, end, hand over, send digits, place, drain.

The HTTP API, the command line and the console all come through here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from gateway.answering import clipped
from gateway.routing import explain, resolve
from gateway.store import PROVISIONAL, CallFilter, CallKey, Page, Refused, Standing, StoredCall
from gateway.transcript import Line
from media.errors import GatewayError
from media.frames import KeypadEntry, OutputDTMFFrame
from webhooks.accounts import ACCOUNT
from webhooks.base import CallPhase, CallStatus, DialOrder, InboundCall, OutcomeKind, Urls

if TYPE_CHECKING:
    from gateway.app import Gateway
    from gateway.colleagues import Colleagues
    from gateway.session import CallSession
    from gateway.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.control")

RING_MARGIN_S = 60.0  # beside the ringing: Exotel may take 35 s to take an order, and the socket comes a little later
MAX_DIGITS = 64


class ControlError(GatewayError):
    """It cannot be done. `status` is the HTTP status that says why."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A call to place."""

    carrier: str
    to_number: str
    from_number: str
    bot: str = ""  # default: the bot of `from_number`
    ring_s: int = 45
    longest_s: int | None = None
    detect_machine: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)


class CallDesk:
    """The calls of one gateway, seen from outside."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._drains: set[asyncio.Task[Any]] = set()

    # ------------------------------------------------------------ looking

    async def live(self) -> Sequence[Mapping[str, Any]]:
        """The live calls of all workers, oldest first."""
        elsewhere = await self._gateway.colleagues.ask_all("live", {}, time.time())
        calls = [*self._live(), *(call for calls in elsewhere for call in calls)]
        return sorted(calls, key=lambda call: call["duration_s"], reverse=True)

    def _live(self) -> Sequence[Mapping[str, Any]]:
        return [{**view(session), "last_event": session.core.trail.latest} for session in self._gateway.calls]

    async def records(self, which: CallFilter, *, limit: int = 50, after: str = "") -> Page:
        try:
            return await self._gateway.store.records(which, limit=limit, after=after)
        except ValueError as exc:
            raise ControlError(404, str(exc)) from None

    async def record(self, key: CallKey) -> StoredCall:
        stored = await self._gateway.store.call(key)
        if stored is None:
            raise ControlError(404, f"no call {key.call_id} of {key.carrier}")
        return stored

    async def transcript(self, key: CallKey) -> Sequence[Line]:
        """What was said; empty until the call is over, and where it is not kept."""
        return await self._gateway.store.transcript(key)

    # ------------------------------------------------------------ acting

    async def end(self, key: CallKey, reason: str = "api") -> None:
        """End in good order: what is queued is heard first."""
        await self._command(key, "end", reason)

    async def transfer(self, key: CallKey, target: str) -> None:
        await self._command(key, "transfer", target)

    async def send_digits(self, key: CallKey, digits: str) -> None:
        """By the carrier's own way where it has one, else as tones in the audio."""
        await self._command(key, "digits", digits)

    async def _command(self, key: CallKey, what: str, given: str) -> None:
        """Here, or at the worker that has the call."""
        session = self._gateway.calls.find(key)
        if session is not None:
            COMMANDS[what](session, given)
            return
        owner = await self._gateway.colleagues.owner(key, time.time())
        if owner is None:
            raise ControlError(404, f"no live call {key.call_id} of {key.carrier}")
        body = {"carrier": key.carrier, "call_id": key.call_id, "what": what, "given": given}
        await self._gateway.colleagues.ask(owner, "command", body)

    async def commanded(self, asked: Mapping[str, Any]) -> None:
        """Another worker passes a command on: it is for a call of this one."""
        key = CallKey(asked["carrier"], asked["call_id"])
        session = self._gateway.calls.find(key)
        if session is None:
            raise ControlError(404, f"no live call {key.call_id} of {key.carrier}")
        COMMANDS[asked["what"]](session, asked["given"])

    async def place(self, order: Order, urls: Urls) -> CallKey:
        """Place a call; gives its key when the carrier has taken the order. The slot is taken first."""
        gateway = self._gateway
        snapshot = gateway.snapshot
        http = snapshot.carriers.get(order.carrier)
        if http is None:
            others = ", ".join(sorted(snapshot.carriers)) or "none"
            raise ControlError(404, f"the carrier {order.carrier} is not on (those that are: {others})")
        bot = order.bot or _bot_of(snapshot.settings, order)
        if bot not in snapshot.settings.bots:
            raise ControlError(422, f"there is no bot {bot!r}: name one of {', '.join(sorted(snapshot.settings.bots))}")
        key = CallKey(order.carrier, PROVISIONAL + secrets.token_hex(12))
        now = time.time()
        try:
            http = http.side_named(_account_of(snapshot.settings, order))
        except ValueError as exc:
            raise ControlError(422, str(exc)) from None
        call = InboundCall(
            carrier=order.carrier,
            call_id=key.call_id,
            from_number=order.from_number,
            to_number=order.to_number,
            direction="outbound",
            parameters=order.parameters,
            extra={ACCOUNT: http.account} if http.account else {},
        )
        if gateway.calls.draining:
            raise ControlError(503, "draining")
        admitted = await gateway.answering.admit(snapshot, call, now, bot, ttl_s=order.ring_s + RING_MARGIN_S)
        if isinstance(admitted, Refused):
            raise ControlError(503, admitted.reason)
        gateway.expected.put(key, snapshot, order.ring_s + RING_MARGIN_S)
        token = gateway.mint.mint(
            order.carrier,
            ttl_s=order.ring_s + RING_MARGIN_S,
            call_id=key.call_id,
            from_number=clipped(order.from_number),
            to_number=clipped(order.to_number),
            bot=bot,
            codec=getattr(http.settings, "send_codec", "") or "",
            sample_rate=getattr(http.settings, "send_rate", None) or http.settings.sample_rate or 0,
            direction="outbound",
        )
        try:
            request = http.dial(
                DialOrder(
                    to_number=order.to_number,
                    from_number=order.from_number,
                    media_url=urls.media(order.carrier, token),
                    ring_s=order.ring_s,
                    longest_s=order.longest_s,
                    detect_machine=order.detect_machine,
                    parameters=order.parameters,
                    at=now,
                    command_id=key.call_id.removeprefix(PROVISIONAL),
                ),
                urls,
            )
        except ValueError as exc:
            await gateway.store.forget(key)
            raise ControlError(422, str(exc)) from None
        if request is None:
            await gateway.store.forget(key)
            raise ControlError(409, f"{order.carrier} cannot place calls, or lacks the credentials for it")
        outcome = await gateway.api.ask(request, http=http)
        nameless = outcome.kind is OutcomeKind.DONE and not outcome.call_id
        if outcome.in_doubt or nameless:
            # Somebody may be called all the same: the place is kept for as long as it may ring.
            what = "has not said what call it is" if nameless else "has not answered"
            raise ControlError(504, f"{order.carrier} {what}: the call may come, and then is one ({outcome.detail})")
        if outcome.kind is not OutcomeKind.DONE:
            await self._not_placed(key, outcome.detail)
            raise ControlError(502, f"{order.carrier} did not take the order: {outcome.detail}")
        gateway.events.started(dataclasses.replace(call, call_id=outcome.call_id), bot)
        if not gateway.sockets.placed(key, outcome.call_id, outcome.extra):
            told = {"carrier": key.carrier, "call_id": key.call_id, "own": outcome.call_id, "extra": outcome.extra}
            await gateway.colleagues.ask_all("placed", told, time.time())  # its stream may be with one of them
        await gateway.store.rename(key, outcome.call_id, outcome.extra)
        log.info("call.placed", call=outcome.call_id, carrier=order.carrier, bot=bot)
        return CallKey(order.carrier, outcome.call_id)

    async def placed(self, told: Mapping[str, Any]) -> None:
        """Another worker has had the reply to its order of a call whose stream may be here."""
        key = CallKey(told["carrier"], told["call_id"])
        self._gateway.sockets.placed(key, told["own"], told["extra"])

    async def _not_placed(self, key: CallKey, detail: str) -> None:
        """The record says that, and the place is free."""
        over = CallStatus(
            carrier=key.carrier,
            call_id=key.call_id,
            phase=CallPhase.FAILED,
            key="not-placed",
            cause=f"not-placed: {detail}",
        )
        await self._gateway.store.fold(over, time.time())

    async def drain(self) -> int:
        """All workers begin to refuse new calls and to let live ones end; gives how many are live."""
        elsewhere: Sequence[int] = await self._gateway.colleagues.ask_all("drain", {}, time.time())
        return self._drain() + sum(elsewhere)

    def _drain(self) -> int:
        live = len(self._gateway.calls)
        if not self._gateway.calls.draining:
            log.info("gateway.draining", calls=live, limit_s=self._gateway.settings.gateway.drain_s, why="api")
            task = asyncio.get_running_loop().create_task(self._gateway.drain(), name="drain")
            self._drains.add(task)
            task.add_done_callback(self._drains.discard)
        return live

    # ------------------------------------------------------------ the configuration

    async def reload(self) -> Mapping[str, Any]:
        """All workers read the configuration again; gives what came of it, and a refusal if one of them refused."""
        came = [await self._reload(), *await self._gateway.colleagues.ask_all("reload", {}, time.time())]
        return min(came, key=lambda one: one["taken"])

    async def _reload(self) -> Mapping[str, Any]:
        reloader = self._gateway.reloader
        if reloader is None:
            raise ControlError(409, "this gateway has no file to read again")
        return dataclasses.asdict(await reloader.reload("api"))

    def route(self, carrier: str, number: str) -> Mapping[str, Any]:
        """Which bot answers, and why."""
        considered, route = explain(self._gateway.settings, carrier, number)
        return {
            "bot": route.bot_name if route is not None else None,
            "rule": route.key if route is not None else None,
            "why": route.explanation if route is not None else f"no bot answers {number}: no rule takes it",
            "considered": [dataclasses.asdict(one) for one in considered],
        }

    def health(self) -> Mapping[str, Any]:
        """How this process is, and was in the last hour."""
        history = self._gateway.history
        return {
            "now": history.now(),
            "points": list(history.points),
            "carriers": history.carriers(),
            "reasons": history.reasons(),
        }

    def configuration(self) -> Mapping[str, Any]:
        """What new calls get, and what came of the last reload."""
        gateway, snapshot = self._gateway, self._gateway.snapshot
        settings, reloader = snapshot.settings, gateway.reloader
        last = reloader.last if reloader is not None else None
        return {
            "number": snapshot.number,
            "since": snapshot.made,
            "file": str(reloader.config) if reloader is not None else "",
            "bots": sorted(settings.bots),
            "numbers": [entry.key for entry in settings.numbers.values()],
            "answers": {
                entry.key: {name: getattr(entry, name) for name in ("bot", "hours", "closed", "share", "language")}
                for entry in settings.numbers.values()
            },
            "carriers": sorted(settings.carriers),
            "carriers_off": dict(settings.carriers_off),
            "warnings": list(settings.warnings),
            "calls": Counter(session.snapshot.number for session in gateway.calls if session.snapshot is not None),
            "last_reload": dataclasses.asdict(last) if last is not None else None,
        }

    # ------------------------------------------------------------ for the other workers

    def listen(self, colleagues: Colleagues) -> None:
        """Answer what they ask."""

        async def live(asked: Mapping[str, Any]) -> Any:
            return self._live()

        async def drain(asked: Mapping[str, Any]) -> Any:
            return self._drain()

        async def reload(asked: Mapping[str, Any]) -> Any:
            return await self._reload()

        colleagues.answers("live", live)
        colleagues.answers("command", self.commanded)
        colleagues.answers("placed", self.placed)
        colleagues.answers("drain", drain)
        colleagues.answers("reload", reload)


# ---------------------------------------------------------------- commands


def _end(session: CallSession, reason: str) -> None:
    session.core.end(reason)


def _transfer(session: CallSession, target: str) -> None:
    core = session.core
    if core.control is None or not core.control.can_transfer(target):
        raise ControlError(409, f"{core.info.carrier} cannot hand this call over to that target")
    core.transfer(target)


def _send_digits(session: CallSession, digits: str) -> None:
    try:
        keys = [KeypadEntry(digit) for digit in digits]
    except ValueError:
        raise ControlError(422, "digits are 0-9, *, # and A-D") from None
    if not keys or len(keys) > MAX_DIGITS:
        raise ControlError(422, f"1 to {MAX_DIGITS} digits at once")
    for one in keys:
        session.core.inject(OutputDTMFFrame(one))


COMMANDS: Mapping[str, Callable[[CallSession, str], None]] = {
    "end": _end,
    "transfer": _transfer,
    "digits": _send_digits,
}


def _bot_of(settings: Settings, order: Order) -> str:
    route = resolve(settings, order.carrier, order.from_number)
    return route.bot_name if route is not None else ""


def _account_of(settings: Settings, order: Order) -> str:
    """Whose the number is that is to be seen; "": the carrier's own account."""
    route = resolve(settings, order.carrier, order.from_number)
    return route.account if route is not None else ""


def view(session: CallSession) -> dict[str, Any]:
    """A live call as the API shows it."""
    core = session.core
    now = core.now()
    return {
        "carrier": core.info.carrier,
        "call_id": core.info.call_id,
        "state": core.state.value,
        "bot": core.bot,
        "direction": core.info.direction,
        "from_number": core.info.from_number,
        "to_number": core.info.to_number,
        "answered_by": core.answered_by,
        "duration_s": round(now - core.opened, 1),
        "counters": dict(core.counters),
    }


def view_transcript(lines: Sequence[Line]) -> list[dict[str, Any]]:
    return [{"t": line.t, "who": line.who, "text": line.text} for line in lines]


def view_record(stored: StoredCall) -> dict[str, Any]:
    """A record as the API shows it."""
    return {
        "carrier": stored.key.carrier,
        "call_id": stored.key.call_id,
        "standing": stored.standing.value,
        "live": stored.standing is Standing.LIVE,
        "bot": stored.bot,
        "direction": stored.direction,
        "from_number": stored.from_number,
        "to_number": stored.to_number,
        "created": stored.created,
        "answered": stored.answered,
        "ended": stored.ended,
        "duration_s": stored.duration_s,
        "ended_by": stored.ended_by,
        "reason": stored.reason,
        "phase": stored.phase.value if stored.phase is not None else None,
        "cause": stored.cause,
        "answered_by": stored.answered_by,
        "stream_problem": stored.stream_problem,
        "hang_up": stored.hang_up.value,
        "hang_up_attempts": stored.hang_up_attempts,
        "counters": dict(stored.counters),
        "variables": dict(stored.variables),
    }
