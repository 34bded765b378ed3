"""A Genesys call through the core on virtual time, against the strict fake of the AudioHook client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from bots.base import Call
from bots.echo import Echo
from gateway.simulator.base import CallPlan
from gateway.simulator.genesys import FakeGenesys
from gateway.states import CallState
from media.frames import (
    CallPausedFrame,
    CallResumedFrame,
    CallUpdatedFrame,
    EndTaskFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    OutputTransportMessageUrgentFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    UserAudioRawFrame,
)
from media.processor import FrameDirection, FrameProcessor
from serializers.genesys import GenesysAudioHookSerializer
from tests.gateway.test_core import Probe, loud_s, tone
from tests.gateway.virtual import VirtualCall


def genesys(*processors: FrameProcessor, **options: Any) -> VirtualCall:
    plan = CallPlan(parameters={"customerId": "C-1077"}, options=options)
    return VirtualCall("genesys", lambda call: processors, plan=plan)


def fake(call: VirtualCall) -> FakeGenesys:
    assert isinstance(call.fake, FakeGenesys)
    return call.fake


def send(call: VirtualCall, messages: Sequence[Any]) -> None:
    call._tell_core(messages)


class Speaker(FrameProcessor):
    """Says `pcm` as soon as the call starts, then ends it if it is told to."""

    def __init__(self, pcm: bytes, *, end: bool = False) -> None:
        super().__init__()
        self._pcm, self._end = pcm, end

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            for spoken in (TTSStartedFrame(), TTSAudioRawFrame(self._pcm, 8000, 1), TTSStoppedFrame()):
                self.push_frame(spoken)
            if self._end:
                self.push_frame(EndTaskFrame(), FrameDirection.UPSTREAM)


def test_the_caller_hears_the_echo_in_packets_that_genesys_likes() -> None:
    call = genesys(Echo())
    call.say(tone(3.0))
    call.run(5.0)
    assert loud_s(call.heard()) == pytest.approx(3.0, abs=0.05)
    assert not fake(call).playout.audible_gaps()
    first, *others = [len(message) for _, message in call.sent if isinstance(message, bytes)]
    assert first == 1600 + 320  # silence in hand
    assert set(others) == {1600}
    assert fake(call).rate_limited == 0
    call.hang_up()
    call.run(1.0)
    assert (call.fake.ended_by, call.closed_with, call.core.state) == ("caller", 1000, CallState.CLOSED)
    assert not call.fake.violations


def test_opened_leaves_with_the_message_that_asks_for_it() -> None:
    call = genesys(Speaker(tone(0.5)))
    call.run(0.005)
    first = json.loads(call.sent[0][1])
    assert (first["type"], first["seq"]) == ("opened", 1)
    assert call.sent[0][0] - 1000.0 <= 0.005


def test_a_minute_of_speech_stays_within_the_rate_limit_and_is_heard_whole() -> None:
    call = genesys(Speaker(tone(1.0) * 60), binary_rate=5.0, binary_burst=5)
    call.run(62.0)
    assert loud_s(call.heard()) == pytest.approx(60.0, abs=0.05)
    assert not fake(call).playout.audible_gaps()
    assert fake(call).rate_limited == 0
    assert fake(call).pongs >= 12


def test_the_bots_last_words_are_heard_before_disconnect_brings_the_variables() -> None:
    said: list[Call] = []

    def build(call: Call) -> Sequence[FrameProcessor]:
        said.append(call)
        return [Speaker(tone(2.05), end=True)]

    call = VirtualCall("genesys", build, plan=CallPlan(parameters={"customerId": "C-1077"}))
    call.run(1.0)
    assert said[0].variables["customerId"] == "C-1077"
    said[0].variables["verified"] = True
    said[0].variables["intent"] = "billing"
    call.run(10.0)
    assert loud_s(call.heard()) == pytest.approx(2.05, abs=0.02)
    assert call.fake.ended_by == "bot"
    assert fake(call).disconnect == {
        "reason": "completed",
        "outputVariables": {"verified": "true", "intent": "billing"},
    }
    assert call.fake.output_variables == {"verified": "true", "intent": "billing"}
    assert (call.closed_with, call.core.state) == (1000, CallState.CLOSED)
    assert not call.fake.violations
    assert call.core.record(call.t).variables == {"verified": True, "intent": "billing"}


def test_closed_brings_the_variables_when_the_caller_leaves_first() -> None:
    said: list[Call] = []

    def build(call: Call) -> Sequence[FrameProcessor]:
        said.append(call)
        return []

    call = VirtualCall("genesys", build)
    call.run(1.0)
    said[0].variables["stage"] = 2
    call.hang_up()
    call.run(1.0)
    assert call.fake.output_variables == {"stage": "2"}


def test_a_bot_that_cannot_be_built_ends_by_disconnect_error() -> None:
    def build(call: Call) -> Sequence[FrameProcessor]:
        raise RuntimeError("no model")

    call = VirtualCall("genesys", build)
    call.run(10.0)
    assert (fake(call).disconnect or {})["reason"] == "error"
    assert not call.fake.violations


def test_a_barge_in_empties_genesys_first() -> None:
    call = genesys(Speaker(tone(1.0) * 20))
    call.run(2.0)
    call.core.interrupt()
    sent = len(call.sent)
    call.run(1.0)
    assert json.loads(call.sent[sent - 1][1])["parameters"] == {"entities": [{"type": "barge_in", "data": {}}]}
    assert not [message for _, message in call.sent[sent:] if isinstance(message, bytes)]
    assert len(call.fake.playout.clears) == 1
    assert loud_s(call.heard()) == pytest.approx(2.0, abs=0.1)


def test_digits_language_and_holds_reach_the_bot() -> None:
    probe = Probe()
    call = genesys(probe)
    call.run(0.5)
    call.press("1#")
    send(call, fake(call).change_language("es-ES", call.t))
    call.run(0.5)
    assert [frame.button.value for frame in probe.seen if isinstance(frame, InputDTMFFrame)] == ["1", "#"]
    assert [frame.language for frame in probe.seen if isinstance(frame, CallUpdatedFrame)] == ["es-ES"]
    send(call, fake(call).hold(call.t))
    call.run(2.0)
    assert call.core.state is CallState.PAUSED
    before = probe.count(InputAudioRawFrame)
    send(call, fake(call).resume(call.t))
    call.run(2.0)
    assert call.core.state is CallState.LIVE
    assert probe.count(InputAudioRawFrame) > before
    assert probe.count(CallPausedFrame) == probe.count(CallResumedFrame) == 1
    assert call.core.serializer.session.position == fake(call).samples  # type: ignore[attr-defined]


def test_the_bot_can_hold_and_release_the_callers_audio() -> None:
    probe = Probe()
    call = genesys(probe)
    call.run(0.5)
    serializer = call.core.serializer
    assert isinstance(serializer, GenesysAudioHookSerializer)
    call.core.inject(OutputTransportMessageUrgentFrame({"version": "2", "type": "pause", "parameters": {}}))
    send(call, fake(call).hold(call.t))
    call.run(1.0)
    assert serializer.is_paused
    call.core.inject(OutputTransportMessageUrgentFrame(serializer.create_resumed_response()))
    call.run(1.0)
    assert serializer.is_paused, "the conversation is still on hold"
    send(call, fake(call).resume(call.t))
    call.run(1.0)
    assert not serializer.is_paused
    assert serializer.session.position == fake(call).samples
    assert not call.fake.violations


def test_a_monitor_gives_both_voices_and_hears_nothing() -> None:
    probe = Probe()
    plan = CallPlan(options={"session": "monitor", "agent": tone(1.0, 1000.0)})
    call = VirtualCall("genesys", lambda call: [probe, Echo()], plan=plan)
    call.core.serializer = GenesysAudioHookSerializer(
        GenesysAudioHookSerializer.InputParams(channel="both", process_internal=True)  # type: ignore[arg-type]
    )
    call.say(tone(2.0))
    call.run(3.0)
    voices = [frame for frame in probe.seen if isinstance(frame, UserAudioRawFrame)]
    assert {frame.user_id for frame in voices} == {"customer", "agent"}
    assert not any(isinstance(message, bytes) for _, message in call.sent)
    assert not call.core.info.receives_audio
    call.hang_up()
    call.run(1.0)
    assert not call.fake.violations


def test_the_probe_starts_no_bot() -> None:
    built: list[Call] = []

    def build(call: Call) -> Sequence[FrameProcessor]:
        built.append(call)
        return []

    call = VirtualCall("genesys", build, plan=CallPlan(options={"session": "probe"}))
    call.run(1.0)
    assert built == []
    assert [json.loads(message)["type"] for _, message in call.sent] == ["opened", "closed"]
    assert (call.closed_with, call.core.info.probe) == (1000, True)
    assert not call.fake.violations


def test_a_client_that_breaks_the_protocol_gets_a_disconnect_and_ends_cleanly() -> None:
    call = genesys(Echo())
    call.run(0.5)
    call.core.receive('{"version":"2"}', call.t)
    call.run(1.0)
    assert (fake(call).disconnect or {})["reason"] == "error"
    assert (call.closed_with, call.core.state) == (1000, CallState.CLOSED)
    assert not call.fake.violations


def test_an_interruption_while_disconnecting_says_nothing() -> None:
    call = genesys(Speaker(tone(0.3), end=True))
    call.latency_s = 0.5
    call.run(1.6, until=lambda: call.core.state is CallState.ENDING)
    sent = len(call.sent)
    call.core.inject(InterruptionFrame())
    assert len(call.sent) == sent
    call.run(5.0)
    assert not call.fake.violations


class Waiting(VirtualCall):
    """With a loop for what waits."""

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> Any:
        return asyncio.ensure_future(coro)

    def drive(self, coro: Coroutine[Any, Any, Any], name: str) -> Any:
        return asyncio.ensure_future(coro)

    def settle(self, handles: Any) -> Any:
        return asyncio.gather(*handles)


@pytest.mark.parametrize("answers_in_time", [True, False])
def test_closed_waits_for_the_applications_handler_three_seconds_at_most(answers_in_time: bool) -> None:
    async def scenario() -> None:
        call = Waiting("genesys")
        serializer = call.core.serializer
        assert isinstance(serializer, GenesysAudioHookSerializer)
        done = asyncio.Event()

        @serializer.event_handler("on_close")
        async def on_close(serializer: GenesysAudioHookSerializer, message: dict[str, Any]) -> None:
            await done.wait()
            serializer.set_output_variables({"asked": "the database"})

        call.run(1.0)
        call.hang_up()
        call.run(1.0)
        assert "closed" not in types(call)
        if answers_in_time:
            done.set()
            for _ in range(10):
                await asyncio.sleep(0)
            call.run(0.1)
            assert call.fake.output_variables == {"asked": "the database"}
        else:
            call.run(1.9)
            assert "closed" not in types(call)
            call.run(0.3)
            assert call.fake.output_variables == {}
        assert types(call)[-1] == "closed"
        assert call.closed_with == 1000
        assert not call.fake.violations
        done.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert types(call).count("closed") == 1

    asyncio.run(scenario())


def types(call: VirtualCall) -> list[str]:
    return [json.loads(message)["type"] for _, message in call.sent if isinstance(message, str)]
