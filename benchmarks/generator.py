"""What a simulated caller of `gateway loadtest` costs: CPU milliseconds per call-second of its own path.

    python benchmarks/generator.py [--calls N] [--rounds N] [--carrier NAME] [--strict] [--profile] [--json]

N lines live in this process, on virtual time and without a socket: each is visited every 20 ms, as by the generator,
what it writes is thrown away, and a packet of its own voice comes back to it, in a frame of a WebSocket. The kernel's
work, which is more than this, is not in it. Told are the best and the median round (one second of every line).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import statistics
import sys
import time
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway.load.calibration import calibrate
from gateway.load.ear import marker
from gateway.load.line import Line, Over
from gateway.load.plan import Arrival, Scenario
from gateway.load.tally import Tally
from gateway.load.wire import Wire
from gateway.registry import serializer_class
from gateway.simulator.base import CallPlan, fake_carrier
from media.frames import OutputAudioRawFrame
from serializers.base import WireOptions

TICK_S = 0.020
SECOND = round(1 / TICK_S)


class Nowhere:
    """A transport."""

    sent = 0

    def write(self, data: bytes) -> None:
        self.sent += 1

    def abort(self) -> None:
        raise RuntimeError("a line has given up")


class Desk:
    """Who keeps the lines; time stands still between two ticks."""

    t = 1000.0

    def now(self) -> float:
        return self.t

    def over(self, line: Line, how: Over, reason: str) -> None:
        raise RuntimeError(f"a line is over: {reason}")


def frame(message: str | bytes) -> bytes:
    """As a server sends it."""
    first, payload = (0x81, message.encode()) if isinstance(message, str) else (0x82, message)
    size = len(payload)
    head = bytes((first, size)) if size < 126 else bytes((first, 126, size >> 8, size & 255))
    return head + payload


class Lines:
    def __init__(self, carrier: str, calls: int, strict: bool) -> None:
        self.desk, self.tally = Desk(), Tally()
        self.lines: list[tuple[Line, Wire, list[bytes]]] = []
        self.transport = Nowhere()
        for number in range(calls):
            fake = fake_carrier(carrier)(CallPlan(), strict=strict, record=False)
            fake.records = True  # as gateway/load/doorway.py has it
            fake.playout.marks_only = not fake.tells_playback
            line = Line(Arrival(0.0, number, 1e9, Scenario(), carrier), fake, self.tally, self.desk, self.desk.t)
            wire = line.wire = Wire("ws://127.0.0.1:1/", {}, line)
            wire.connection_made(cast(asyncio.Transport, self.transport))
            wire._open = True
            serializer = serializer_class(carrier).for_call(WireOptions())
            for message in fake.opening(self.desk.t):
                serializer.decode(message)
            line._opened_at = self.desk.t
            self.tally.live += 1
            if not fake.ready:
                raise RuntimeError(f"{carrier} opens with an answer, which nobody gives here")
            voice = marker(serializer.send_rate)
            size = serializer.send_rate * serializer.packet_ms // 500
            packets = [voice[at : at + size] for at in range(0, len(voice) - size + 1, size)]
            # Every line gets what its own bot would send: the stream's id differs.
            back = [
                b"".join(frame(m) for m in serializer.encode(OutputAudioRawFrame(pcm, serializer.send_rate, 1)))
                for pcm in packets
            ]
            self.lines.append((line, wire, back))
        self.every = serializer.packet_ms // 20
        self.tick = 0

    def second(self) -> float:
        began = time.thread_time()
        desk = self.desk
        for _ in range(SECOND):
            self.tick += 1
            desk.t = now = 1000.0 + self.tick * TICK_S
            for line, _, _ in self.lines:
                line.visit(now, now)
            if not self.tick % self.every:
                place = self.tick // self.every
                desk.t = now + TICK_S / 2
                for _, wire, back in self.lines:
                    wire.received(back[place % len(back)], desk.t)
        return time.thread_time() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100, metavar="N", help="at a time; default 100")
    parser.add_argument("--rounds", type=int, default=8, metavar="N", help="seconds of every call; default 8")
    parser.add_argument("--carrier", default="twilio", choices=["twilio", "telnyx", "plivo", "exotel", "vonage"])
    parser.add_argument("--strict", action="store_true", help="check everything, as on one call in 20")
    parser.add_argument("--profile", action="store_true", help="where it goes, on standard error; slows it down")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    lines = Lines(args.carrier, args.calls, args.strict)
    lines.second()
    recorder = cProfile.Profile() if args.profile else None
    if recorder is not None:
        recorder.enable()
    found = [1000 * lines.second() / args.calls for _ in range(args.rounds)]
    if recorder is not None:
        recorder.disable()
        pstats.Stats(recorder, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    heard = lines.tally.packets / args.calls * lines.every / SECOND
    if not 0.9 * (args.rounds + 1) <= heard <= args.rounds + 1.1:
        raise RuntimeError(f"{heard:.1f} seconds were heard of {args.rounds + 1}")
    result = {"best_ms": min(found), "median_ms": statistics.median(found), "calibration_ms": calibrate()}
    if args.json:
        print(json.dumps({"carrier": args.carrier, **{name: round(value, 4) for name, value in result.items()}}))
    else:
        print("CPU ms per call-second: " + ", ".join(f"{name} {value:.3f}" for name, value in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
