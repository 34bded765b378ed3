"""What a session does beside carrying audio: opening, pausing, handing over, leaving. Virtual time, the strict fake."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from websockets.sync.client import connect

from bots.base import Call
from gateway.ports import CallLimits
from gateway.simulator.base import CallPlan
from gateway.simulator.genesys import FakeGenesys
from gateway.states import CallState
from media.frames import (
    AudioDiscardedFrame,
    CallPausedFrame,
    CallResumedFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    OutputTransportMessageUrgentFrame,
    StartFrame,
    UserAudioRawFrame,
)
from media.processor import FrameDirection, FrameProcessor
from serializers.genesys import GenesysAudioHookSerializer
from tests.endtoend import actors
from tests.endtoend.served import run, serve
from tests.gateway.test_core import Probe, tone
from tests.gateway.test_genesys_call import Speaker, Waiting, types
from tests.gateway.virtual import VirtualCall


def session(
    *processors: FrameProcessor,
    settings: dict[str, Any] | None = None,
    limits: CallLimits | None = None,
    latency_s: float = 0.0,
    kind: type[VirtualCall] = VirtualCall,
    **options: Any,
) -> VirtualCall:
    plan = CallPlan(options=options)
    build = lambda call: processors  # noqa: E731
    return kind("genesys", build, plan=plan, settings=settings, limits=limits, latency_s=latency_s)


def fake(call: VirtualCall) -> FakeGenesys:
    assert isinstance(call.fake, FakeGenesys)
    return call.fake


def serializer(call: VirtualCall) -> GenesysAudioHookSerializer:
    assert isinstance(call.core.serializer, GenesysAudioHookSerializer)
    return call.core.serializer


def said(call: VirtualCall, kind: str) -> list[dict[str, Any]]:
    """The parameters of the messages of that type that left."""
    messages = [json.loads(message) for _, message in call.sent if isinstance(message, str)]
    return [message["parameters"] for message in messages if message["type"] == kind]


def event(number: int = 0) -> Frame:
    entity = {"type": "agentassist", "data": {"n": number}}
    return OutputTransportMessageUrgentFrame({"version": "2", "type": "event", "parameters": {"entities": [entity]}})


class Lazily(VirtualCall):
    """Its writer comes to its turn when everybody else has had theirs, as on a loop."""

    woken = False

    def wake(self) -> None:
        self.woken = True

    def _deliver(self, *, flush: bool = False) -> None:
        super()._deliver(flush=flush)
        if self.woken:
            self.woken = False
            super().wake()
            super()._deliver(flush=flush)


# ---------------------------------------------------------------- opening


def test_opened_leaves_before_the_bot_is_built() -> None:
    def slow(call: Call) -> Sequence[FrameProcessor]:
        sent.append([json.loads(message)["type"] for _, message in virtual.sent])
        virtual.t += 0.3  # whatever a bot does in its build, nobody else runs meanwhile
        return [probe]

    sent: list[list[str]] = []
    probe = Probe()
    virtual = Lazily("genesys", slow)
    virtual.run(1.0)
    assert sent == [["opened"]]
    assert virtual.sent[0][0] - 1000.0 <= 0.01
    assert probe.count(StartFrame) == 1


def test_opened_arrives_over_a_socket_while_the_bot_is_still_being_built() -> None:
    arrived, built = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def slow(call: Call) -> Sequence[FrameProcessor]:
        in_time.append(arrived.wait(20.0))  # the loop stands still: what has not left by now waits as long
        built.set()
        return actors.echo(call)

    def client(url: str) -> None:
        caller = FakeGenesys(CallPlan(options={"connector": "bot"}))
        handshake = caller.handshake("", url)
        with connect(url + handshake.path, additional_headers=dict(handshake.headers), proxy=None) as ws:
            (opening,) = caller.opening(0.0)
            ws.send(opening)
            assert json.loads(ws.recv(20.0))["type"] == "opened"
            arrived.set()
            assert built.wait(20.0)

    async def main() -> None:
        async with serve({"bot": slow}) as served:
            await asyncio.to_thread(client, served.url)

    run(main())
    assert in_time == [True]


def test_a_caller_who_leaves_before_the_bot_is_built_never_meets_it() -> None:
    built: list[Call] = []

    def build(call: Call) -> Sequence[FrameProcessor]:
        built.append(call)
        return []

    call = Lazily("genesys", build)
    call._step()
    assert types(call) == ["opened"]
    call.hang_up()
    call.run(1.0)
    assert built == []
    assert types(call) == ["opened", "closed"]
    assert (call.core.state, call.core.bot) == (CallState.CLOSED, "test")


def test_what_is_not_wanted_of_the_beginning_is_discarded() -> None:
    probe = Probe()
    call = session(probe, settings={"discard_to_s": 2.5}, history_s=4.0)
    call.run(1.0)
    assert said(call, "opened")[0]["discardTo"] == "PT2.5S"
    assert [(f.start_s, f.duration_s) for f in probe.seen if isinstance(f, AudioDiscardedFrame)] == [(0.0, 2.5)]
    assert serializer(call).session.position == fake(call).samples
    heard = sum(f.num_frames for f in probe.seen if isinstance(f, InputAudioRawFrame))
    assert heard + 20_000 == fake(call).samples


def test_a_session_that_is_past_it_discards_nothing() -> None:
    call = session(settings={"discard_to_s": 2.5}, position_s=3.0)
    call.run(0.1)
    assert "discardTo" not in said(call, "opened")[0]


def test_audio_that_waited_comes_in_one_burst_and_is_all_there() -> None:
    probe = Probe()
    call = session(probe, history_s=20.0)
    call.run(1.0)
    heard = sum(f.num_frames for f in probe.seen if isinstance(f, InputAudioRawFrame))
    assert heard == fake(call).samples >= 20 * 8000


# ---------------------------------------------------------------- pausing


def test_a_session_may_start_paused_until_the_bot_wants_to_hear() -> None:
    calls: list[Call] = []
    probe = Probe()

    def build(call: Call) -> Sequence[FrameProcessor]:
        calls.append(call)
        return [probe]

    call = VirtualCall("genesys", build, settings={"start_paused": True})
    call.run(2.0)
    assert call.core.state is CallState.PAUSED
    assert probe.count(InputAudioRawFrame) == 0
    calls[0].resume()
    call.run(2.0)
    assert call.core.state is CallState.LIVE
    assert probe.count(InputAudioRawFrame) > 5
    assert serializer(call).session.position == fake(call).samples
    assert not call.fake.violations


def test_the_bot_pauses_and_resumes_beside_a_hold_of_genesys() -> None:
    calls: list[Call] = []
    probe = Probe()

    def build(call: Call) -> Sequence[FrameProcessor]:
        calls.append(call)
        return [probe]

    call = VirtualCall("genesys", build, latency_s=0.02)
    call.run(1.0)
    calls[0].pause()
    calls[0].pause()
    call.run(1.0)
    assert call.core.state is CallState.PAUSED
    call._tell_core(fake(call).hold(call.t))
    call.run(1.0)
    calls[0].resume()
    call.run(1.0)
    assert call.core.state is CallState.PAUSED, "Genesys holds the caller back itself"
    call._tell_core(fake(call).resume(call.t))
    call.run(1.0)
    assert call.core.state is CallState.LIVE
    assert probe.count(CallPausedFrame) == probe.count(CallResumedFrame) == 1
    assert not call.fake.violations


def test_the_bot_pauses_carriers_that_know_no_pause() -> None:
    calls: list[Call] = []
    probe = Probe()

    def build(call: Call) -> Sequence[FrameProcessor]:
        calls.append(call)
        return [probe]

    call = VirtualCall("twilio", build)
    call.run(1.0)
    calls[0].pause()
    before = probe.count(InputAudioRawFrame)
    call.run(1.0)
    assert probe.count(InputAudioRawFrame) == before
    calls[0].resume()
    call.run(1.0)
    assert probe.count(InputAudioRawFrame) > before + 40
    assert probe.count(CallPausedFrame) == probe.count(CallResumedFrame) == 1


def test_a_paused_session_of_which_nothing_is_heard_is_dead() -> None:
    call = session(limits=CallLimits(silence_s=25.0))
    call.run(1.0)
    call._tell_core(fake(call).hold(call.t))
    call.run(120.0)
    assert call.core.state is CallState.PAUSED, "pings say that it lives"
    call.core.tick(call.t + 19.0)
    assert call.core.state is CallState.PAUSED
    call.core.tick(call.t + 26.0)
    assert (call.core.state, call.core.reason) == (CallState.ENDING, "carrier-silent")


# ---------------------------------------------------------------- what Genesys tells


def test_the_new_language_is_the_calls() -> None:
    calls: list[Call] = []

    def build(call: Call) -> Sequence[FrameProcessor]:
        calls.append(call)
        return []

    call = VirtualCall("genesys", build)
    call.run(0.5)
    assert calls[0].info.language == "en-US"
    call._tell_core(fake(call).change_language("es-ES", call.t))
    call.run(0.1)
    assert calls[0].info.language == call.core.info.language == "es-ES"
    assert said(call, "updated") == [{}]


def test_the_ledger_learns_the_way_to_genesys_from_its_pings() -> None:
    call = session(latency_s=0.06)
    call.run(3.0)
    assert call.core.output.ledger is not None
    assert call.core.output.ledger.latency_s == pytest.approx(0.06, abs=0.01)


# ---------------------------------------------------------------- handing over at shutdown


def test_a_monitor_goes_on_elsewhere_when_this_process_goes_down() -> None:
    checkpoints: dict[str, int] = {}
    settings = {"monitor": True, "checkpoints": checkpoints}
    probe = Probe()
    call = session(probe, settings=settings, session="monitor")
    call.run(30.0)
    call.core.hand_over()
    call.core.hand_over()  # by the API, and then by a signal
    call.run(1.0)
    assert said(call, "reconnect") == [{"info": "draining"}]
    assert (call.core.state, call.core.reason, call.core.ended_by) == (CallState.CLOSED, "reconnect", "gateway")
    assert not call.fake.violations

    # The same process is the one that is up again: it says from where on it wants the audio.
    again = VirtualCall("genesys", lambda call: [probe], settings=settings)
    first = fake(call)
    again.fake = first.successor()
    again._to_core.clear()
    again._tell_core(again.fake.opening(again.t))
    probe.seen.clear()
    again.run(1.0)
    assert said(again, "opened")[0]["discardTo"] == f"PT{first.samples / 8000:g}S"
    discarded = [frame.duration_s for frame in probe.seen if isinstance(frame, AudioDiscardedFrame)]
    assert discarded == [20.0]
    assert serializer(again).session.position == fake(again).samples
    assert [one["id"] for one in again.core.info.extra["continuedSessions"]] == [first.session_id]
    assert not again.fake.violations


@pytest.mark.parametrize(
    ("options", "settings"),
    [({"session": "connector"}, {}), ({"session": "monitor"}, {"reconnect": False})],
    ids=["a connector", "switched off"],
)
def test_who_cannot_be_handed_over_is_told_that_it_is_an_error(options: Any, settings: Any) -> None:
    call = session(settings=settings, **options)
    call.run(1.0)
    call.core.hand_over()
    call.run(2.0)
    assert call.core.state is CallState.LIVE
    call.core.shutdown()
    call.run(2.0)
    assert said(call, "disconnect") == [{"reason": "error"}]
    assert said(call, "reconnect") == []
    assert call.core.state is CallState.CLOSED


def test_a_monitor_that_does_not_come_again_is_cut_off_at_the_drains_limit() -> None:
    call = session(session="monitor", reconnects=False)
    call.run(1.0)
    call.core.hand_over()
    call.run(5.0)
    assert call.core.state is CallState.LIVE
    call.core.shutdown()
    call.run(1.0)
    assert said(call, "disconnect") == [{"reason": "error"}]
    assert call.core.state is CallState.CLOSED


# ---------------------------------------------------------------- leaving


class Summary(FrameProcessor):
    """Says what it has heard when it ends, as a transcriber does; `later` does it in its own time."""

    def __init__(self, events: int = 1, variables: Call | None = None) -> None:
        super().__init__()
        self._events = events
        self.calls: list[Call] = []
        self.ends: list[Frame] = []
        self.held: Frame | None = None
        self.waits = False

    def build(self, call: Call) -> Sequence[FrameProcessor]:
        self.calls.append(call)
        return [self]

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, EndFrame | CancelFrame):
            self.ends.append(frame)
        if isinstance(frame, EndFrame):
            self.held = frame
            if not self.waits:
                self.finish()
            return
        self.push_frame(frame, direction)

    def finish(self) -> None:
        for number in range(self._events):
            self.push_frame(event(number))
        self.calls[0].variables["summary"] = "all of it"
        assert self.held is not None
        self.push_frame(self.held)


def test_the_bots_last_events_come_between_close_and_closed() -> None:
    bot = Summary(events=3)
    call = VirtualCall("genesys", bot.build, plan=CallPlan(options={"session": "monitor"}))
    call.run(1.0)
    call.hang_up()
    call.run(1.0)
    assert types(call)[-4:] == ["event", "event", "event", "closed"]
    assert said(call, "closed") == [{"outputVariables": {"summary": "all of it"}}]
    assert [type(frame) for frame in bot.ends] == [EndFrame, CancelFrame]
    assert (call.core.reason, call.core.ended_by) == ("caller", "caller")
    assert call.core.record(call.t).variables == {"summary": "all of it"}
    assert not call.fake.violations


def test_closed_waits_for_a_bot_that_takes_its_time() -> None:
    bot = Summary()
    bot.waits = True
    call = VirtualCall("genesys", bot.build)
    call.run(1.0)
    call.hang_up()
    call.run(2.0)
    assert "closed" not in types(call)
    bot.finish()
    call.run(0.1)
    assert types(call)[-2:] == ["event", "closed"]
    assert (call.core.state, call.core.ended_by) == (CallState.CLOSED, "caller")
    assert not call.fake.violations


def test_closed_does_not_wait_for_ever() -> None:
    bot = Summary()
    bot.waits = True
    call = VirtualCall("genesys", bot.build, settings={"closing_s": 2.0})
    call.run(1.0)
    call.hang_up()
    call.run(1.9)
    assert "closed" not in types(call)
    call.run(0.2)
    assert types(call)[-1] == "closed"
    bot.finish()
    call.run(1.0)
    assert types(call)[-1] == "closed", "nothing is said after it"
    assert (call.core.state, call.core.ended_by) == (CallState.CLOSED, "caller")


def test_many_last_events_are_rationed_and_still_all_said() -> None:
    bot = Summary(events=25)
    call = VirtualCall("genesys", bot.build)
    call.run(1.0)
    call.hang_up()
    call.run(3.0)
    assert len(said(call, "event")) == 25
    assert types(call)[-1] == "closed"
    assert fake(call).rate_limited == 0


def test_a_handler_and_the_bot_are_both_waited_for() -> None:
    async def scenario() -> None:
        bot = Summary()
        bot.waits = True
        call = Waiting("genesys", bot.build)
        done = asyncio.Event()

        @serializer(call).event_handler("on_close")
        async def on_close(server: GenesysAudioHookSerializer, message: dict[str, Any]) -> None:
            await done.wait()

        call.run(1.0)
        call.hang_up()
        call.run(0.5)
        bot.finish()
        call.run(0.5)
        assert types(call)[-1] == "event"
        done.set()
        for _ in range(10):
            await asyncio.sleep(0)
        call.run(0.1)
        assert types(call)[-1] == "closed"

    asyncio.run(scenario())


def test_what_the_bot_was_saying_is_cut_off_when_the_caller_leaves() -> None:
    call = session(Speaker(tone(1.0) * 20))
    call.run(3.0)
    call.hang_up()
    sent = len(call.sent)
    call.run(1.0)
    assert [json.loads(message)["type"] for _, message in call.sent[sent:]] == ["closed"]
    assert call.core.state is CallState.CLOSED


def test_the_caller_who_leaves_while_the_bot_says_goodbye() -> None:
    call = session(Speaker(tone(5.0), end=True))
    call.run(3.0)
    assert call.core.state is CallState.DRAINING
    call.hang_up()
    call.run(1.0)
    assert types(call) == ["opened", "pong", "pong", "closed"]
    assert call.core.state is CallState.CLOSED
    assert not call.fake.violations


def test_a_client_that_never_answers_disconnect_is_left_after_fifteen_seconds() -> None:
    call = session()
    call.run(1.0)
    fake(call)._close = lambda reason, now: ()  # type: ignore[method-assign,assignment]
    call.core.end()
    call.run(1.0)
    assert (said(call, "disconnect"), call.core.state) == ([{"reason": "completed"}], CallState.ENDING)
    call.core.tick(call.t + 13.5)
    assert call.core.state is CallState.ENDING
    call.core.tick(call.t + 15.0)
    assert (call.core.state, call.core.close_code) == (CallState.CLOSED, 1000)


def test_a_socket_that_is_not_closed_after_closed_is_left_after_fifteen_seconds() -> None:
    call = session()
    call.run(1.0)
    call.hang_up()
    call._deliver()
    assert call.core.state is CallState.CLOSED
    assert call.core.close_at == pytest.approx(call.t + 15.0)


def test_no_open_within_ten_seconds() -> None:
    call = session()
    call._to_core.clear()
    call.core.tick(call.t + 9.9)
    assert call.core.state is CallState.OPENING
    call.core.tick(call.t + 10.0)
    assert (call.core.state, call.core.reason, call.core.close_code) == (CallState.FAILED, "no-start", 1008)


# ---------------------------------------------------------------- what breaks


def test_a_client_that_breaks_the_protocol_is_waited_for_and_the_bot_ends() -> None:
    probe = Probe()
    call = session(probe)
    call.run(0.5)
    call._tell_core(["{"])
    call._step()
    assert said(call, "disconnect") == [{"reason": "error", "info": "not JSON"}]
    assert call.core.state in (CallState.ENDING, CallState.CLOSED)
    call.run(1.0)
    assert probe.count(CancelFrame) >= 1
    assert (call.core.state, call.core.reason, call.core.ended_by) == (CallState.CLOSED, "protocol", "carrier")
    assert call.core.counters["protocol_errors"] == 1
    assert types(call)[-1] == "closed"


def test_a_socket_that_breaks_is_no_normal_end() -> None:
    call = session()
    call.run(1.0)
    call.core.disconnected(1006, call.t)
    assert (call.core.state, call.core.reason) == (CallState.CLOSED, "socket-lost")


# ---------------------------------------------------------------- eight hours


@pytest.mark.parametrize("kind", ["connector", "monitor"])
def test_the_position_is_exact_after_eight_hours_with_a_thousand_pauses_and_discards(kind: str) -> None:
    """Both holds, overlapping or not, and audio that Genesys drops; the strict fake counts on its side."""
    chance = random.Random(kind)
    probe = Probe()
    settings = {"monitor": kind == "monitor"}
    call = session(probe, settings=settings, limits=CallLimits(longest_s=9 * 3600), session=kind)
    call.run(0.1)
    client, core, server = fake(call), call.core, serializer(call)
    counted = {"pauses": 0, "discards": 0, "pings": 0}
    heard = 0

    def deliver(messages: Sequence[Any]) -> None:
        counted["pings"] += sum(1 for message in messages if isinstance(message, str) and '"ping"' in message)
        call._tell_core(messages)
        call._deliver()

    acts: dict[str, Callable[[], Any]] = {
        "hold": lambda: deliver(client.hold(call.t)),
        "release": lambda: deliver(client.resume(call.t)),
        "pause": core.pause,
        "resume": core.resume,
        "lose": lambda: deliver(client.lose(chance.randrange(1, 40_000) / 8000)),
    }
    end = call.t + 8 * 3600
    while call.t < end:
        samples = chance.randrange(800, 24_000)
        call.t += samples / 8000
        deliver(client.tick(call.t))
        deliver(client.audio(bytes(2 * samples), call.t))
        if chance.random() < 0.7:
            before = client.paused
            what = chance.choice([*acts, "release", "resume", "lose"])
            acts[what]()
            call._deliver()
            counted["pauses"] += not before and client.paused
            counted["discards"] += what == "lose" and not before
        core.tick(call.t)
        call._deliver()
        heard += sum(frame.num_frames for frame in probe.seen if type(frame) in (InputAudioRawFrame, UserAudioRawFrame))
        probe.seen.clear()
    deliver(client.resume(call.t))
    core.resume()
    call._deliver()
    assert counted["pauses"] >= 1000
    assert counted["discards"] >= 1000
    assert counted["pings"] >= 4000
    assert not client.violations
    assert core.state is CallState.LIVE, core.reason
    assert client.samples >= 8 * 3600 * 8000
    assert server.session.position == client.samples
    assert heard > 0
    deliver(client.hang_up(call.t))
    assert server.session.client_position == server.session.position == client.samples


def test_digits_of_every_key_a_telephone_may_have() -> None:
    probe = Probe()
    call = session(probe)
    call.run(0.5)
    call.press("0123456789*#ABCD")
    call.run(0.1)
    assert "".join(f.button.value for f in probe.seen if isinstance(f, InputDTMFFrame)) == "0123456789*#ABCD"
