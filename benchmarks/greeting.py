"""How soon a caller hears an agent's greeting while its vendors are slow to connect, and what is lost of his words.

    python benchmarks/greeting.py [--calls N] [--connect S] [--json]

The agent's recogniser and voice are vendors over WebSockets, on loopback, that take S seconds to let a call's
connection in. N calls through each carrier's protocol over real sockets, one after the other, with a caller who speaks
from the first moment: the time from his connection to the first packet of the greeting, as the carrier has it, and how
much of what he said before and while they connected the recogniser never got. Exits 1 if a median is over 60 ms, or a
sound was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import structlog
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from bots.base import Build, PrepareContext
from gateway.registry import bot
from gateway.settings import parse_settings
from gateway.simulator.caller import Limits
from gateway.simulator.report import CallReport
from gateway.simulator.script import HangUp, Say, Script, Voice, at
from media.codecs import ulaw_to_pcm
from media.resample import resample_all
from tests.bots.services.socket_vendor import SocketVendor
from tests.bots.services.test_voices import Cartesia
from tests.endtoend.actors import tone
from tests.endtoend.served import TELEPHONY, run, serve

TARGET_MS = 60.0
SPOKEN_S = 3.0  # by the caller
RATE = 8000


class SlowVendor(SocketVendor):
    """Lets a connection in after `connect_s`."""

    connect_s = 0.0

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        await asyncio.sleep(self.connect_s)
        return await super()._admit(connection, request)

    def heard(self, number: int) -> bytes:
        """What connection `number` was sent of the caller, at RATE."""
        sound = b"".join(message for message in self.got[number] if isinstance(message, bytes))
        request = self.connections[number].request
        path = request.path if request is not None else ""
        if "encoding=mulaw" in path:
            return ulaw_to_pcm(sound)
        rate = int(path.partition("sample_rate=")[2].partition("&")[0])
        return resample_all(sound, rate, RATE)


async def nothing(connection: ServerConnection, message: Any) -> None:
    """A recogniser that hears no words."""


async def agent(ears: SocketVendor, mouth: SocketVendor) -> Build:
    os.environ["BENCHMARK_KEY"] = "k"
    key = {"env": "BENCHMARK_KEY"}
    table = {
        "use": "agent",
        "greeting": "Good morning, this is the hotel. How can I help you?",
        "stt": {"use": "deepgram", "key": key, "base_url": ears.url},
        "llm": {"use": "rules", "rules": [{"hears": ["goodbye"], "say": "Bye.", "end": True}]},
        "tts": {"use": "cartesia", "key": key, "base_url": mouth.url, "voice": "ann"},
    }
    entry = parse_settings({"bots": {"it": table}}, Path(".")).bots["it"]
    built: Any = bot(entry.use).prepare(entry.options, PrepareContext(Path("."), (8000, 16000)))
    return await built  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Row:
    carrier: str
    median_ms: float
    worst_ms: float
    lost_ms: int  # of what the callers said, in all
    problems: list[str]

    @property
    def reached(self) -> bool:
        return self.median_ms <= TARGET_MS and not self.lost_ms and not self.problems


def first_packet_ms(report: CallReport) -> float:
    return next((1000 * event.t for event in report.timeline if event.what == "audio"), float("inf"))


def lost_ms(said: bytes, heard: bytes) -> int:
    """How much of the sound that was said did not come: by its length above silence, for codecs change the samples."""

    def loud(pcm: bytes) -> int:
        samples = memoryview(pcm).cast("h")
        return sum(abs(sample) > 500 for sample in samples)

    return max(0, round(1000 * (1 - loud(heard) / loud(said)) * SPOKEN_S)) if loud(said) else 0


async def measured(calls: int, connect_s: float) -> list[Row]:
    voice = Say(Voice(tone(SPOKEN_S, RATE, 300.0), RATE, "a tone"))
    script = Script().then(at(0.0), voice).then(at(connect_s + SPOKEN_S + 0.5), HangUp())
    ears, mouth = SlowVendor(nothing), SlowVendor(Cartesia())
    rows = []
    async with ears.listening(), mouth.listening():
        build = await agent(ears, mouth)
        ears.connect_s = mouth.connect_s = connect_s
        async with serve({"bot": build}) as served:
            await served.all_carriers(Script().then(at(0.3), HangUp()), limits=Limits(longest_s=20))  # warm
            for carrier in TELEPHONY:
                reports, lost = [], 0
                for _ in range(calls):
                    before = len(ears.got)
                    report = await served.call(carrier, script, limits=Limits(longest_s=30))
                    reports.append(report)
                    if len(ears.got) > before:
                        said = resample_all(report.said, report.said_rate, RATE)
                        lost += lost_ms(said, ears.heard(len(ears.got) - 1))
                times = [first_packet_ms(report) for report in reports]
                problems = [problem for report in reports for problem in report.problems]
                rows.append(Row(carrier, statistics.median(times), max(times), lost, problems))
    return rows


def shown(rows: Sequence[Row]) -> None:
    print(f"{'carrier':<10}{'median':>10}{'worst':>10}{'lost':>10}")
    for row in rows:
        line = f"{row.carrier:<10}{row.median_ms:>7.0f} ms{row.worst_ms:>7.0f} ms{row.lost_ms:>7} ms"
        print(line if row.reached else f"{line}  missed")
        for problem in row.problems:
            print(f"  {problem}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=5, help="through each carrier; default 5")
    parser.add_argument("--connect", type=float, default=1.5, metavar="S", help="default 1.5")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    logging.disable(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    rows = run(measured(args.calls, args.connect), limit_s=600)
    if args.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        shown(rows)
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
