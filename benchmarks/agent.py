"""The gateway's own share of a spoken turn, and how many conversations one core carries.

    taskset -c 0 python benchmarks/agent.py [--calls N] [--turns N] [--json]

Recogniser, model and voice are fakes that answer at once, so what is left is the gateway's: from the end of the
caller's turn to the first packet of the answer. One call first, then N at once, through Twilio's protocol over real
sockets; the callers run in the same process, on the same core. The turn's end itself is a setting (silence_s and the
detector's 0.2 s) and is told beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import structlog

from bots.agent import AgentSettings, Phrases, _agent
from bots.base import Call
from bots.context.context import LLMContext
from bots.services.llm import LLMService
from bots.services.stt import SegmentedSTTService
from bots.services.tts import TTSService
from bots.speech import speak
from gateway.simulator.caller import Limits
from gateway.simulator.script import HangUp, Say, Script, Voice, after, after_bot
from media.frames import Frame, TTSAudioRawFrame
from tests.endtoend.actors import tone
from tests.endtoend.served import run, serve, until

ANSWER = tone(1.5)
SETTINGS = AgentSettings(greeting="Hello.", idle_s=0, hold_s=0)


class Ears(SegmentedSTTService):
    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        self.transcript("opening hours", final=True)
        yield None


class Head(LLMService):
    async def _process_context(self, context: LLMContext) -> None:
        for token in ("From ", "nine ", "to ", "five. ", "Anything ", "else?"):
            self.push_text(token)


class Mouth(TTSService):
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        for start in range(0, len(ANSWER), 1600):
            yield TTSAudioRawFrame(ANSWER[start : start + 1600], 8000, 1)


def build(call: Call) -> Any:
    made: Any = {
        "stt": [("fake", Ears(ttfs_p99_latency=0.0))],
        "llm": [("fake", Head())],
        "tts": [("fake", Mouth())],
    }
    return _agent(call, SETTINGS, Phrases(), "", made)


async def calls(count: int, turns: int) -> dict[str, Any]:
    """`count` conversations at once, begun within two seconds."""
    voice = Voice(speak("opening hours", "en-us+f3", 8000), 8000, "opening hours")
    script = Script().then(after(0.5), Say(voice))
    for _ in range(turns - 1):
        script = script.then(after_bot(0.5), Say(voice))
    script = script.then(after_bot(0.5), HangUp())
    async with serve({"bot": build}, max_calls=count + 1) as served:

        async def one(number: int) -> Any:
            await asyncio.sleep(2.0 * number / count)
            return await served.call("twilio", script, limits=Limits(longest_s=20 + 8 * turns))

        began, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(one(number) for number in range(count)))
        await until(lambda: len(served.records) == count, 20)
        took, cpu = time.monotonic() - began, time.process_time() - cpu
        records = served.records
    answers = [answer for record in records for answer in record.answers]
    own = sorted(1000 * answer.parts.get("answer", 0.0) for answer in answers)
    return {
        "calls": count,
        "answers": len(own),
        "own_median_ms": round(statistics.median(own), 1),
        "own_99_of_100_ms": round(own[int(0.99 * (len(own) - 1))], 1),
        "wait_median_ms": round(1000 * statistics.median(answer.wait_s for answer in answers)),
        "underruns": sum(record.counters.get("underruns", 0) for record in records),
        "late_dropped": sum(record.counters.get("late_dropped", 0) for record in records),
        "cpu_ms_per_call_second": round(1000 * cpu / sum(record.duration_s for record in records), 2),
        "seconds": round(took, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    found = [run(calls(count, args.turns), limit_s=300) for count in (1, args.calls)]
    if args.json:
        print(json.dumps(found))
        return 0
    for each in found:
        print(
            f"{each['calls']} calls, {each['answers']} answers: own share {each['own_median_ms']} ms median, "
            f"{each['own_99_of_100_ms']} ms 99 of 100; all of the wait {each['wait_median_ms']} ms; "
            f"{each['underruns']} gaps, {each['cpu_ms_per_call_second']} ms CPU for a second of one call"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
