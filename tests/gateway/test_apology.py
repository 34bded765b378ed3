"""What a caller hears of a bot that fails: a sentence, then a call that ends in good order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gateway.apology
from bots.base import Call
from bots.prompts import Prompt
from gateway.apology import DEFAULT, apology
from gateway.registry import prepare_bots
from gateway.settings import parse_settings
from gateway.simulator.script import Script
from gateway.snapshot import snapshot_of
from gateway.states import CallState
from media.call import CallInfo
from media.errors import ConfigError, ConfigErrors
from media.frames import Frame, InputDTMFFrame, StartFrame
from media.processor import FrameDirection, FrameProcessor
from media.wav import write_wav
from tests.endtoend import actors
from tests.endtoend.served import CARRIERS, run, serve
from tests.gateway.virtual import VirtualCall

SORRY = Prompt(lambda rate: actors.tone(0.8, rate))


class Fails(FrameProcessor):
    """Raises a fatal error when a key is pressed, or lets nothing through at all."""

    def __init__(self, blocks: bool = False) -> None:
        super().__init__()
        self._blocks, self._failed = blocks, False

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, InputDTMFFrame):
            self._failed = True
            self.push_error("the bot is broken", RuntimeError("broken"), fatal=True)
        elif not (self._blocks and (self._failed or isinstance(frame, StartFrame))):
            self.push_frame(frame, direction)


def call_to(build: Any, carrier: str = "twilio") -> VirtualCall:
    call = VirtualCall(carrier, build)
    route = call.core._route
    assert route is not None

    def with_apology(info: CallInfo) -> Any:
        found = route(info)
        assert found is not None
        return dataclasses.replace(found, apology=SORRY)

    call.core._route = with_apology
    return call


def heard_s(call: VirtualCall) -> float:
    samples = np.abs(np.frombuffer(call.heard(), "<i2").astype(int)) > 300
    return float(samples.sum()) / call.fake.playout.rate


def told(call: VirtualCall) -> None:
    """The caller has heard the apology once, and the call has ended as one that failed."""
    assert heard_s(call) == pytest.approx(0.78, abs=0.08)
    assert call.over
    assert (call.core.state, call.core.reason) == (CallState.CLOSED, "error")


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_bot_that_raises(carrier: str) -> None:
    call = call_to(lambda call: (Fails(),), carrier)
    call.run(1.0)
    call.press("1")
    call.run(6.0)
    told(call)


def test_a_bot_that_cannot_be_built() -> None:
    def build(call: Call) -> Sequence[FrameProcessor]:
        raise KeyError("nothing")

    call = call_to(build)
    call.run(4.0)
    told(call)


def test_a_bot_that_hangs_as_it_starts() -> None:
    class Hangs(Fails):
        pass

    call = call_to(lambda call: (Hangs(blocks=True),))
    call.run(9.0)
    assert heard_s(call) == 0
    call.run(6.0)
    told(call)


def test_a_bot_through_which_nothing_comes_any_more() -> None:
    call = call_to(lambda call: (_Stuck(),))
    call.run(1.0)
    call.press("1")
    call.run(4.0)  # not the thirty seconds that last words may take
    told(call)


class _Stuck(Fails):
    def __init__(self) -> None:
        super().__init__()
        self._stuck = False

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if self._stuck:
            return
        self._stuck = isinstance(frame, InputDTMFFrame)
        super().process_frame(frame, direction)


def test_what_was_being_said_is_said_first() -> None:
    def build(call: Call) -> Sequence[FrameProcessor]:
        return (Fails(), *actors.saying(1.0)(call))

    call = call_to(build)
    call.run(0.5)
    call.press("1")
    call.run(6.0)
    assert heard_s(call) == pytest.approx(1.78, abs=0.1)
    assert call.core.reason == "error"


def test_no_apology_where_none_is_wanted_or_another_answers() -> None:
    settings = parse_settings({"bots": {"it": {"use": "echo", "apology": ""}}, "numbers": {"default": {"bot": "it"}}})
    route = snapshot_of(settings, {"it": actors.echo}).route(CallInfo(carrier="twilio", to_number="+15550100"))
    assert route is not None
    assert route.apology is None


def test_a_text_or_a_file_checked_when_the_configuration_loads(tmp_path: Path) -> None:
    write_wav(tmp_path / "sorry.wav", actors.tone(0.5), 8000)
    table = {"bots": {"it": {"use": "echo", "apology": "sorry.wav"}}}
    settings = parse_settings(table, tmp_path)
    prepare_bots(settings)
    (prompt,) = snapshot_of(settings, {"it": actors.echo}).apologies.values()
    assert prompt is not None
    assert b"".join(prompt.chunks(8000)) == actors.tone(0.5)
    with pytest.raises(ConfigErrors, match=r"bots\.it\.apology.*gone\.wav"):
        prepare_bots(parse_settings({"bots": {"it": {"use": "echo", "apology": "gone.wav"}}}, tmp_path))


def test_without_a_synthesiser_the_usual_one_is_tones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def speak(text: str, voice: str, sample_rate: int) -> bytes:
        raise ConfigError("text", "no speech synthesiser")

    monkeypatch.setattr("bots.speech.speak", speak)
    gateway.apology._made.cache_clear()
    try:
        usual = apology(DEFAULT, tmp_path)
        assert usual is not None
        tones = np.frombuffer(b"".join(usual.chunks(8000)), "<i2")
        assert len(tones) == 3 * 2800
        assert np.abs(tones).max() > 5000
        with pytest.raises(ConfigErrors, match=r"bots\.it\.apology: no speech synthesiser"):
            prepare_bots(parse_settings({"bots": {"it": {"use": "echo", "apology": "One moment."}}}, tmp_path))
    finally:
        gateway.apology._made.cache_clear()


def test_over_a_real_socket() -> None:
    async def main() -> None:
        def build(call: Call) -> Sequence[FrameProcessor]:
            raise KeyError("nothing")

        async with serve({"bot": build}) as served:
            snapshot = served.gateway.snapshot
            object.__setattr__(snapshot, "apologies", {"bot": SORRY})
            report = await served.call("twilio", Script())
            await served.empty()
            assert report.ok, report.problems
            assert report.ended_by == "bot"
            record = served.record("twilio")
            assert (record.state, record.reason) == ("closed", "error")
            assert record.counters["heard_ms"] >= 780

    run(main(), limit_s=300)
