"""A Genesys that says whatever it is told to, right or wrong, and checks every answer by AudioHook's rules.

The strict fake (gateway/simulator/genesys.py) keeps the protocol itself; this one need not.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from bots.base import Call
from gateway.core import CallCore
from gateway.ports import BotRoute, CallLimits
from gateway.states import OVER
from media.events import DONE, Handle, drive_without_loop
from media.processor import FrameProcessor, Lanes
from serializers.audiohook import SessionState
from serializers.base import WireOptions
from serializers.genesys import GenesysAudioHookSerializer

SESSION = "0c9d4e7a-1f36-4c58-9a02-b7e3d5f6a801"
ORGANIZATION = "5b1f0a52-9c3e-4b7a-8d21-6f0c2e9a7b14"
OPEN = {
    "organizationId": ORGANIZATION,
    "conversationId": "7d1a3c02-5e4f-4b96-8a17-2c0e9d8b6f31",
    "participant": {"id": "c4b0e8f2-6a1d-4d73-9e55-0f3b7a2c1d48", "ani": "+34911", "aniName": "Ana", "dnis": "+34900"},
    "media": [{"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}],
    "language": "es-ES",
    "inputVariables": {"customerId": "C-1077"},
}
SERVER_TYPES = {"opened", "pong", "updated", "closed", "pause", "resume", "disconnect", "reconnect", "event"}
STEP_S = 0.02


class Client:
    """One session against a core on made-up time. `said` is what the server sent."""

    def __init__(self, build: Callable[[Call], Sequence[FrameProcessor]] = lambda call: (), **settings: Any) -> None:
        self.t = 100.0
        self.seq = 0  # of the last message sent
        self.server_seq = 0
        self.said: list[dict[str, Any] | bytes] = []
        self.open_pings: list[int] = []
        self.server_closed: int | None = None
        own = {"organization_id": ORGANIZATION, "session_id": SESSION, **settings}
        self.serializer = GenesysAudioHookSerializer.for_call(WireOptions(options=own))
        self.core = CallCore(
            self.serializer,
            self,
            limits=CallLimits(silence_s=25.0, longest_s=600.0, drain_s=5.0),
            route=lambda info: BotRoute("test", build),
            now=self.t,
        )

    # ------------------------------------------------------------ to the server

    def message(self, kind: str, parameters: Any = None, **changes: Any) -> dict[str, Any]:
        """The next message, correctly numbered unless told otherwise."""
        self.seq += 1
        return {
            "version": "2",
            "type": kind,
            "id": SESSION,
            "seq": self.seq,
            "serverseq": self.server_seq,
            "position": "PT0S",
            "parameters": {} if parameters is None else parameters,
            **changes,
        }

    def say(self, kind: str, parameters: Any = None, **changes: Any) -> list[str]:
        return self.send(json.dumps(self.message(kind, parameters, **changes)))

    def send(self, data: str | bytes) -> list[str]:
        """Gives the types that were answered with."""
        before = len(self.said)
        self.open_pings += _ping_in(data)
        self.core.receive(data, self.t)
        self.wake()
        return self._types(before)

    def open(self, **changes: Any) -> list[str]:
        return self.say("open", {**OPEN, **changes})

    def wait(self, seconds: float) -> list[str]:
        before = len(self.said)
        for _ in range(max(1, round(seconds / STEP_S))):
            self.t += STEP_S
            self.core.tick(self.t)
            self.wake()
            if self.core.close_at is not None and self.t >= self.core.close_at and self.server_closed is None:
                self.server_closed = self.core.close_code
                self.core.disconnected(self.core.close_code, self.t)
        return self._types(before)

    def _types(self, start: int) -> list[str]:
        return [one["type"] if isinstance(one, dict) else "audio" for one in self.said[start:]]

    @property
    def types(self) -> list[str]:
        """Everything but audio."""
        return [one["type"] for one in self.said if isinstance(one, dict)]

    # ------------------------------------------------------------ what the server says

    def now(self) -> float:
        return self.t

    def wake(self) -> None:
        while (message := self.core.take()) is not None:
            self._check(message)

    def _check(self, data: Any) -> None:
        types = self.types
        assert len(data) <= 64_000
        assert "closed" not in types, "nothing is said after closed"
        if isinstance(data, bytes):
            assert "opened" in types, "no audio before opened"
            assert "disconnect" not in types, "no audio after disconnect"
            self.said.append(data)
            return
        message = json.loads(data)
        assert set(message) == {"version", "type", "id", "seq", "clientseq", "parameters"}
        assert (message["version"], message["id"]) == ("2", SESSION)
        assert message["type"] in SERVER_TYPES
        assert isinstance(message["parameters"], dict)
        self.server_seq += 1
        assert message["seq"] == self.server_seq
        kind, parameters = message["type"], message["parameters"]
        if kind == "pong":
            assert message["clientseq"] in self.open_pings, "a pong answers a ping"
            self.open_pings.remove(message["clientseq"])
            assert parameters == {}
        elif kind == "opened":
            assert "opened" not in types
            assert parameters["media"] in ([], OPEN["media"])
        elif kind == "disconnect":
            assert "disconnect" not in types, "one disconnect a session"
            assert parameters["reason"] in ("completed", "error", "unauthorized")
        elif kind == "event":
            assert parameters["entities"]
            assert "opened" in types
        elif kind in ("pause", "resume", "reconnect"):
            assert "opened" in types
            assert "disconnect" not in types
        variables = parameters.get("outputVariables", {})
        assert all(isinstance(value, str) for value in variables.values())
        self.said.append(message)

    # ------------------------------------------------------------ the rest of a shell

    @property
    def over(self) -> bool:
        return self.core.state in OVER

    @property
    def session(self) -> SessionState:
        return self.serializer.session.state

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> Any:
        coro.close()
        raise AssertionError(f"nothing of this call should need a task, {name} does")

    def drive(self, coro: Coroutine[Any, Any, Any], name: str) -> None:
        drive_without_loop(coro, name)

    def settle(self, handles: Iterable[Handle]) -> Awaitable[None]:
        return DONE

    def end_task(self, handle: Handle, timeout_s: float | None) -> Awaitable[None]:
        return DONE

    def attach_async(self, processor: FrameProcessor) -> Lanes:
        raise AssertionError(f"{processor} needs a loop")


def _ping_in(data: str | bytes) -> list[int]:
    """Its number, if `data` is a ping, however wrong the rest of it is."""
    try:
        message = json.loads(data)
    except ValueError:
        return []
    is_ping = isinstance(message, dict) and message.get("type") == "ping"
    return [message["seq"]] if is_ping and isinstance(message.get("seq"), int) else []
