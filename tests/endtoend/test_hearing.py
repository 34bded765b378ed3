"""Callers who speak, through each carrier: their bots hear it by the gateway's one engine."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from bots.base import Call
from bots.speech import speak
from gateway.simulator.script import HangUp, Say, Script, Voice, after, at
from media.dtmf import tone
from media.floor import Floor, FloorParams
from media.frames import (
    Frame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameDirection, FrameProcessor
from media.silero import SileroVADAnalyzer
from media.vad_processor import VADProcessor
from tests.endtoend.served import CARRIERS, run, serve

TEXT = "I would like to speak to somebody about my bill"


class Edges(FrameProcessor):
    def __init__(self, edges: list[str]) -> None:
        super().__init__()
        self._edges = edges

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if direction is FrameDirection.DOWNSTREAM:
            if isinstance(frame, VADUserStartedSpeakingFrame):
                self._edges.append("started")
            elif isinstance(frame, VADUserStoppedSpeakingFrame):
                self._edges.append("stopped")
        self.push_frame(frame, direction)


def test_every_carriers_caller_is_heard_by_one_engine() -> None:
    heard: dict[str, list[str]] = defaultdict(list)
    pcm = speak(TEXT, "en-us+f3", 16000)
    script = Script().then(at(0.5), Say(Voice(pcm, 16000, "a sentence"))).then(after(0.8), HangUp())

    def bot(call: Call) -> list[FrameProcessor]:
        return [VADProcessor(vad_analyzer=SileroVADAnalyzer()), Edges(heard[call.info.carrier])]

    async def main() -> None:
        async with serve({"bot": bot}) as served:
            engine = served.gateway.vad
            assert engine.tally() == {}
            reports = await asyncio.gather(*(served.call(name, script) for name in CARRIERS))
            assert all(report.ok for report in reports)
            await served.empty()
            assert engine.calls() == 0
            counted = engine.tally()
            assert counted["windows"] > counted["batches"]
            assert counted["windows"] >= len(CARRIERS) * len(pcm) // 2 // 512
            assert (counted.get("dropped", 0), counted.get("failed", 0)) == (0, 0)
            assert b"gateway_vad_calls 0.0" in served.gateway.metrics.render()

    run(main(), limit_s=300)
    assert set(heard) == set(CARRIERS)
    for carrier, edges in heard.items():
        assert edges[:1] == ["started"], carrier
        assert edges[-1:] == ["stopped"], carrier


class Talker(FrameProcessor):
    """Says something long as soon as the call begins."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            for said in (TTSStartedFrame(), TTSAudioRawFrame(tone("5", 8000) * 100, 8000, 1), TTSStoppedFrame()):
                self.push_frame(said)


def test_every_carriers_caller_interrupts() -> None:
    pcm = speak(TEXT, "en-us+f3", 16000)
    script = Script().then(at(1.0), Say(Voice(pcm, 16000, "a sentence"))).then(after(0.8), HangUp())

    def bot(call: Call) -> list[FrameProcessor]:
        return [VADProcessor(vad_analyzer=SileroVADAnalyzer()), Floor(FloorParams(turn_s=0.5)), Talker()]

    async def main() -> None:
        async with serve({"bot": bot}) as served:
            reports = await served.all_carriers(script)
            assert all(report.ok for report in reports.values())
            await served.empty()
            for carrier in CARRIERS:
                counters = served.record(carrier).counters
                assert counters["floor_interrupted"] == counters["interruptions"] == 1, carrier
                assert counters["turns_interrupted"] == 1, carrier
                assert counters["heard_ms"] < counters["generated_ms"] - 2000, carrier
                assert not reports[carrier].violations

    run(main(), limit_s=300)
