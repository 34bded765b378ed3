"""The AudioHook server's state table, row by row: what each event comes to in each state of a session.

Rows are what the client says or the bot does; columns are how far the session is. OPENING has a test of its own:
`opened` is made at once, so that column is the moment in which it still waits for its socket, and the bot for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bots.base import Call
from gateway.states import CallState
from media.frames import (
    AudioDiscardedFrame,
    CallPausedFrame,
    CallResumedFrame,
    CallUpdatedFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    OutputTransportMessageUrgentFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from media.processor import FrameDirection, FrameProcessor
from serializers.audiohook import SessionState
from tests.gateway.genesys_client import OPEN, Client
from tests.gateway.test_core import Probe

AUDIO = b"\xff" * 160
DURATION = {"start": "PT0S", "discarded": "PT0.5S"}
TOLD = (
    InputAudioRawFrame,
    InputDTMFFrame,
    CallUpdatedFrame,
    CallPausedFrame,
    CallResumedFrame,
    AudioDiscardedFrame,
)


class Keeps(FrameProcessor):
    """A bot that does not let the end through: so that `closed` has to wait, and CLOSING can be seen."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if not isinstance(frame, EndFrame):
            self.push_frame(frame, direction)


class Table(Client):
    """A session that was brought to one state."""

    def __init__(self, state: str, **changes: Any) -> None:
        self.probe = Probe()
        keeps = [Keeps()] if state == "closing" else []
        super().__init__(lambda call: [self.probe, *keeps])
        if state != "preparing":
            assert self.open(**changes) == ["opened"]
            self.wait(0.1)
        if state == "paused":
            self.say("paused")
        elif state == "disconnecting":
            self.core.end()
            self.wait(0.05)
            assert self.types[-1] == "disconnect"
        elif state in ("closing", "closed"):
            self.say("close", {"reason": "end"})
        self.probe.seen.clear()
        self.before = len(self.said)
        assert self.session is COLUMNS[state]

    @property
    def answered(self) -> list[str]:
        return self._types(self.before)

    @property
    def told(self) -> list[str]:
        """What reached the bot, by class."""
        return [type(frame).__name__ for frame in self.probe.seen if isinstance(frame, TOLD)]


COLUMNS = {
    "preparing": SessionState.PREPARING,
    "active": SessionState.ACTIVE,
    "paused": SessionState.ACTIVE,
    "disconnecting": SessionState.DISCONNECTING,
    "closing": SessionState.CLOSING,
    "closed": SessionState.CLOSED,
}


@dataclass(frozen=True)
class Cell:
    """What an event comes to. `states` are the core's states that it may leave behind; none: the one before."""

    answers: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    state: CallState | None = None


IGNORED = Cell()
BROKEN = Cell(("disconnect",))  # and its reason is "error"
ENDING = Cell(("disconnect",), state=CallState.ENDING)


def row(preparing: Cell, active: Cell, paused: Cell, disconnecting: Cell, closing: Cell, closed: Cell) -> list[Cell]:
    return [preparing, active, paused, disconnecting, closing, closed]


PONG = Cell(("pong",))
CLOSED = Cell(("closed",), state=CallState.CLOSED)
Does = Callable[[Table], Any]


def closes(table: Table) -> None:
    table.say("close", {"reason": "end"})


ROWS: dict[str, tuple[Does, list[Cell]]] = {
    "open": (
        lambda t: t.open(),
        row(Cell(("opened",), state=CallState.LIVE), IGNORED, IGNORED, IGNORED, IGNORED, IGNORED),
    ),
    "binary": (
        lambda t: t.send(AUDIO),
        row(BROKEN, Cell(told=("InputAudioRawFrame",)), IGNORED, IGNORED, IGNORED, IGNORED),
    ),
    "ping": (lambda t: t.say("ping"), row(PONG, PONG, PONG, PONG, PONG, IGNORED)),
    "update": (
        lambda t: t.say("update", {"language": "en-US"}),
        row(
            IGNORED,
            Cell(("updated",), ("CallUpdatedFrame",)),
            Cell(("updated",), ("CallUpdatedFrame",)),
            IGNORED,
            IGNORED,
            IGNORED,
        ),
    ),
    "dtmf": (
        lambda t: t.say("dtmf", {"digit": "5"}),
        row(IGNORED, Cell(told=("InputDTMFFrame",)), Cell(told=("InputDTMFFrame",)), IGNORED, IGNORED, IGNORED),
    ),
    "playback_started": (lambda t: t.say("playback_started"), row(*[IGNORED] * 6)),
    "playback_completed": (lambda t: t.say("playback_completed"), row(*[IGNORED] * 6)),
    "paused": (
        lambda t: t.say("paused"),
        row(IGNORED, Cell((), ("CallPausedFrame",), CallState.PAUSED), IGNORED, IGNORED, IGNORED, IGNORED),
    ),
    "resumed": (
        lambda t: t.say("resumed", DURATION),
        row(
            IGNORED,
            Cell(told=("CallResumedFrame",)),
            Cell((), ("CallResumedFrame",), CallState.LIVE),
            IGNORED,
            IGNORED,
            IGNORED,
        ),
    ),
    "discarded": (
        lambda t: t.say("discarded", DURATION),
        row(
            IGNORED,
            Cell(told=("AudioDiscardedFrame",)),
            Cell(told=("AudioDiscardedFrame",)),
            IGNORED,
            IGNORED,
            IGNORED,
        ),
    ),
    "error": (lambda t: t.say("error", {"code": 503, "message": "x"}), row(*[IGNORED] * 6)),
    "error 429": (lambda t: t.say("error", {"code": 429, "retryAfter": "PT1S"}), row(*[IGNORED] * 6)),
    "close": (
        closes,
        row(Cell(("closed",), state=CallState.FAILED), CLOSED, CLOSED, CLOSED, IGNORED, IGNORED),
    ),
    "unknown type": (lambda t: t.say("weather", {"sun": True}), row(*[IGNORED] * 6)),
    "bad envelope": (
        lambda t: t.say("ping", version="3"),
        row(
            BROKEN,
            ENDING,
            ENDING,
            IGNORED,
            IGNORED,
            IGNORED,
        ),
    ),
    "bad seq": (
        lambda t: t.say("dtmf", {"digit": "1"}, seq=99),
        row(BROKEN, ENDING, ENDING, IGNORED, IGNORED, IGNORED),
    ),
    "bad id": (lambda t: t.say("dtmf", {"digit": "1"}, id="x"), row(BROKEN, ENDING, ENDING, IGNORED, IGNORED, IGNORED)),
    "serverseq ahead": (
        lambda t: t.say("dtmf", {"digit": "1"}, serverseq=99),
        row(BROKEN, ENDING, ENDING, IGNORED, IGNORED, IGNORED),
    ),
    "not JSON": (lambda t: t.send("{"), row(BROKEN, ENDING, ENDING, IGNORED, IGNORED, IGNORED)),
    "no object": (lambda t: t.send("[]"), row(BROKEN, ENDING, ENDING, IGNORED, IGNORED, IGNORED)),
    "no parameters": (
        lambda t: t.send(json.dumps({**t.message("dtmf"), "parameters": None})),
        row(BROKEN, ENDING, ENDING, IGNORED, IGNORED, IGNORED),
    ),
    "bot says hang up": (
        lambda t: (t.core.end(), t.wait(0.05)),
        row(IGNORED, ENDING, ENDING, IGNORED, IGNORED, IGNORED),
    ),
    "interruption": (
        lambda t: (t.core.interrupt(), t.wake()),
        row(IGNORED, Cell(("event",)), Cell(("event",)), IGNORED, IGNORED, IGNORED),
    ),
}
CELLS = [
    pytest.param(state, name, does, cell, id=f"{name}-{state}")
    for name, (does, cells) in ROWS.items()
    for state, cell in zip(COLUMNS, cells, strict=True)
]


@pytest.mark.parametrize(("state", "name", "does", "cell"), CELLS)
def test_the_state_table(state: str, name: str, does: Does, cell: Cell) -> None:
    table = Table(state)
    before, session_before = table.core.state, table.session
    does(table)
    assert tuple(table.answered) == cell.answers
    assert tuple(table.told) == cell.told
    assert table.core.state is (cell.state or before)
    if cell is BROKEN or (cell is ENDING and name != "bot says hang up"):
        last = table.said[-1]
        assert isinstance(last, dict)
        assert last["parameters"]["reason"] == "error"
    if cell == IGNORED and name not in ("paused", "resumed"):
        assert table.session is session_before


class Opening(Table):
    """A session whose `opened` has not left yet, and whose bot is not built."""

    def __init__(self) -> None:
        self.probe, self.before, self.blocked = Probe(), 0, True
        Client.__init__(self, lambda call: [self.probe])
        self.open()
        assert self.said == []
        assert self.core.pipeline is None

    def wake(self) -> None:
        if not self.blocked:
            super().wake()

    def goes_on(self) -> None:
        self.blocked = False
        self.wait(0.1)


def disconnected(answers: tuple[str, ...] = ()) -> Cell:
    return Cell(("opened", *answers, "disconnect"), state=CallState.ENDING)


WHILE_OPENING: dict[str, Cell] = {
    "ping": Cell(("opened", "pong")),
    "binary": Cell(("opened",), ("InputAudioRawFrame",)),
    "update": Cell(("opened", "updated"), ("CallUpdatedFrame",)),
    "dtmf": Cell(("opened",), ("InputDTMFFrame",)),
    "paused": Cell(("opened",), ("CallPausedFrame",), CallState.PAUSED),
    "resumed": Cell(("opened",), ("CallResumedFrame",)),
    "discarded": Cell(("opened",), ("AudioDiscardedFrame",)),
    "close": Cell(("opened", "closed"), state=CallState.CLOSED),
    "bad envelope": disconnected(),
    "bad seq": disconnected(),
    "bad id": disconnected(),
    "serverseq ahead": disconnected(),
    "not JSON": disconnected(),
    "no object": disconnected(),
    "no parameters": disconnected(),
    "bot says hang up": disconnected(),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_column_of_opening(name: str) -> None:
    table, cell = Opening(), WHILE_OPENING.get(name, Cell(("opened",)))
    ROWS[name][0](table)
    assert table.told == [], "nothing reaches a bot that is not built"
    table.goes_on()
    assert tuple(table.answered) == cell.answers
    assert tuple(table.told) == cell.told, "what came meanwhile was kept for it"
    assert table.core.state is (cell.state or CallState.LIVE)


def test_a_socket_that_closes_while_opening_leaves_no_bot() -> None:
    table = Opening()
    table.core.disconnected(1006, table.t)
    table.goes_on()
    assert table.over
    assert table.core.pipeline is None


@pytest.mark.parametrize("state", COLUMNS)
def test_a_bot_error(state: str) -> None:
    table = Table(state)
    table.core.variables["stage"] = 2
    table.core.fail("no model")
    table.wait(0.05)
    if state in ("active", "paused"):
        said = [one for one in table.said if isinstance(one, dict) and one["type"] == "disconnect"]
        assert [one["parameters"] for one in said] == [{"reason": "error", "outputVariables": {"stage": "2"}}]
        assert table.core.state is CallState.ENDING
    else:
        assert table.answered == []


@pytest.mark.parametrize("state", COLUMNS)
def test_the_socket_closes(state: str) -> None:
    table = Table(state)
    table.core.disconnected(1006 if state in ("active", "paused") else 1000, table.t)
    table.wait(20.0)
    assert table.over
    assert table.core.state is (CallState.FAILED if state == "preparing" else CallState.CLOSED)
    reason = {
        "preparing": "socket-lost",
        "active": "socket-lost",
        "paused": "socket-lost",
        "disconnecting": "completed",
    }
    assert table.core.reason == reason.get(state, "caller")
    assert table.answered == ["closed"] * (state == "closing" and "closed" in table.answered)


def test_open_is_refused_for_another_organisation_and_for_media_that_nobody_knows() -> None:
    table = Table("preparing")
    assert table.open(organizationId="00000000-0000-0000-0000-000000000001") == ["disconnect"]
    assert table.said[-1]["parameters"]["reason"] == "unauthorized"  # type: ignore[index]
    table = Table("preparing")
    assert table.open(media=[{**OPEN["media"][0], "format": "OPUS"}]) == ["disconnect"]
    assert table.said[-1]["parameters"]["reason"] == "error"  # type: ignore[index]


def test_a_probe_is_opened_with_no_bot() -> None:
    table = Table("preparing")
    assert table.open(conversationId="00000000-0000-0000-0000-000000000000") == ["opened"]
    table.wait(1.0)
    assert table.core.pipeline is None
    assert table.say("close", {"reason": "end"}) == ["closed"]


def test_playback_moves_the_ledger_and_the_drain() -> None:
    table = Table("active")
    for frame in (TTSStartedFrame(), TTSAudioRawFrame(b"\1\1" * 8000, 8000, 1), TTSStoppedFrame()):
        table.core.inject(frame)
    table.core.end()
    table.wait(1.2)
    assert table.core.state is CallState.DRAINING, "what was sent is not known to have been heard"
    table.say("playback_completed")
    assert table.wait(0.1) == ["disconnect"]


def test_only_one_disconnect_and_one_closed() -> None:
    table = Table("active")
    table.core.end()
    table.wait(0.1)
    table.core.cancel()
    table.core.fail("again")
    table.core.shutdown()
    table.wait(1.0)
    closes(table)
    closes(table)
    assert table.types.count("disconnect") == table.types.count("closed") == 1


# ---------------------------------------------------------------- anything, in any order


_KINDS = [name for name in ROWS if " " not in name and name not in ("binary", "interruption", "seq")]
_WRONG = st.sampled_from([None, True, -1, 0, 2**70, 1.5, "", "x", "9" * 30, [], [1], {}, {"a": 1}, "é" * 50])
_FIELDS = st.sampled_from(["version", "type", "id", "seq", "serverseq", "position", "parameters"])
_INNER = {
    "open": ["organizationId", "conversationId", "participant", "media", "inputVariables", "customConfig", "language"],
    "update": ["language", "participant"],
    "dtmf": ["digit"],
    "resumed": ["start", "discarded"],
    "discarded": ["start", "discarded"],
    "error": ["code", "message", "retryAfter"],
    "close": ["reason"],
    "ping": ["rtt"],
}
_PARAMETERS: dict[str, dict[str, Any]] = {
    "open": OPEN,
    "update": {"language": "en-US"},
    "dtmf": {"digit": "5"},
    "resumed": DURATION,
    "discarded": DURATION,
    "error": {"code": 429, "message": "x", "retryAfter": "PT0.5S"},
    "close": {"reason": "end"},
    "ping": {"rtt": "PT0.02S"},
}


class AnySession(RuleBasedStateMachine):
    """Whatever the client says and the bot does: nothing is raised, every answer is legal, and it ends as documented.

    The answers are checked by `Client`.
    """

    @initialize(opens=st.sampled_from([True, True, True, False]), monitor=st.booleans(), paused=st.booleans())
    def begin(self, opens: bool, monitor: bool, paused: bool) -> None:
        self.calls: list[Call] = []
        self.old: list[str] = []

        def build(call: Call) -> list[FrameProcessor]:
            self.calls.append(call)
            return [Probe()]

        self.client = Client(build, monitor=monitor, start_paused=paused)
        if opens:
            self.client.open()
            self.client.wait(0.1)

    def live(self) -> bool:
        return hasattr(self, "client") and not self.client.over

    @rule(kind=st.sampled_from(_KINDS))
    def says_what_it_may(self, kind: str) -> None:
        text = json.dumps(self.client.message(kind, _PARAMETERS.get(kind)))
        self.old.append(text)
        self.client.send(text)

    @precondition(live)
    @rule(kind=st.sampled_from(_KINDS), field=_FIELDS, value=_WRONG, gone=st.booleans())
    def says_it_wrong(self, kind: str, field: str, value: Any, gone: bool) -> None:
        message = self.client.message(kind, _PARAMETERS.get(kind))
        if gone:
            del message[field]
        else:
            message[field] = value
        self.client.send(json.dumps(message))

    @precondition(live)
    @rule(kind=st.sampled_from(sorted(_INNER)), data=st.data())
    def says_something_wrong(self, kind: str, data: st.DataObject) -> None:
        field, value = data.draw(st.sampled_from(_INNER[kind])), data.draw(_WRONG)
        self.client.say(kind, {**_PARAMETERS[kind], field: value})

    @precondition(lambda self: self.live() and self.old)
    @rule(data=st.data())
    def says_it_again(self, data: st.DataObject) -> None:
        self.client.send(data.draw(st.sampled_from(self.old)))

    @precondition(live)
    @rule(first=st.sampled_from(_KINDS), second=st.sampled_from(_KINDS))
    def says_two_in_the_wrong_order(self, first: str, second: str) -> None:
        texts = [json.dumps(self.client.message(kind, _PARAMETERS.get(kind))) for kind in (first, second)]
        for text in reversed(texts):
            self.client.send(text)

    @rule(data=st.one_of(st.binary(max_size=400), st.text(max_size=60), st.just('{"type":'), st.just("null")))
    def says_rubbish(self, data: str | bytes) -> None:
        self.client.send(data)

    @rule(seconds=st.sampled_from([0.02, 0.2, 1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.client.wait(seconds)

    @precondition(lambda self: self.live() and self.calls)
    @rule(what=st.sampled_from(["say", "interrupt", "pause", "resume", "set", "event", "end", "digits"]))
    def the_bot_acts(self, what: str) -> None:
        call = self.calls[0]
        entity = {"type": "agentassist", "data": {}}
        event = {"version": "2", "type": "event", "parameters": {"entities": [entity]}}
        acts: dict[str, Callable[[], Any]] = {
            "say": lambda: call.inject(TTSAudioRawFrame(b"\1\1" * 9000, 8000, 1)),
            "interrupt": call.interrupt,
            "pause": call.pause,
            "resume": call.resume,
            "set": lambda: call.variables.update(n=1, ok=True),
            "event": lambda: call.inject(OutputTransportMessageUrgentFrame(event)),
            "end": call.end,
            "digits": lambda: call.send_digits("1"),
        }
        acts[what]()
        self.client.wake()

    @precondition(live)
    @rule(what=st.sampled_from(["hand over", "shutdown", "fail", "cancel"]))
    def the_gateway_acts(self, what: str) -> None:
        core = self.client.core
        acts = {"hand over": core.hand_over, "shutdown": core.shutdown, "cancel": core.cancel}
        acts.get(what, lambda: core.fail("broken"))()
        self.client.wake()

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        client = self.client
        client.wait(1.0)
        asked = "disconnect" in client.types and "closed" not in client.types
        if asked and not client.over:
            client.seq = client.serializer.session.client_seq
            assert "closed" in client.say("close", {"reason": "disconnect"}), "disconnect, close, closed"
        client.wait(60.0)
        assert client.over, client.core.state
        assert client.server_closed in (1000, 1008), client.server_closed
        if "closed" in client.types:
            assert client.types[-1] == "closed"


AnySession.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnySession = AnySession.TestCase
