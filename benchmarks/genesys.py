"""Many Audio Connector sessions at once, on one core: how late pongs and packets are, and what a session costs.

    python benchmarks/genesys.py [--sessions N] [--seconds S] [--json]

The gateway runs in a process of its own, held to one core; this process is Genesys, on another core where there is
one. In each session the caller sends a packet of 200 ms five times a second while the bot speaks without a pause, and
Genesys pings every second (five times as often as the real one, for the sake of the percentiles).

* opened: from the open's leaving to its arrival, while the others go on;
* pong: from the ping's leaving to the pong's arrival;
* packet: how much later it came than when Genesys should have had it, which is the usual lead (600 ms) before its
  first sample is played; what came earlier, because the pacing has seen stalls, is not late;
* lead: how much of the bot's voice Genesys had in hand when a packet came, at least: at 0 the caller hears a gap;
* CPU: of the gateway's process in the measured time, by session and second.

What this process is late itself counts against the gateway, but for the lines that end in "awake": they leave out what
came while it was kept from its work for more than 10 ms. On a busy machine run it as `chrt -f 1 python ...`. It takes a
minute at most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from bots.base import Build, Call
from gateway.simulator import genesys
from gateway.simulator.base import CallPlan, Messages
from gateway.simulator.genesys import FakeGenesys
from media.frames import Frame, StartFrame, TTSAudioRawFrame, TTSStartedFrame
from media.processor import FrameDirection, FrameProcessor
from serializers.genesys import GenesysAudioHookSerializer
from tests.endtoend import actors
from tests.endtoend.apart import Apart, rss
from tests.endtoend.served import run

PACKET_S = 0.2
LEAD_S = GenesysAudioHookSerializer.lead_ms / 1000
RAMP_S = 8.0  # in which the sessions begin
SETTLE_S = 2.0
STALL_S = 0.010  # this process was kept from its work for longer: what arrives in that time is late by its fault


# ---------------------------------------------------------------- the gateway's process


class Speaks(FrameProcessor):
    """Without a pause, as a synthesiser that is faster than speech: a second at a time, two ahead."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self.push_frame(TTSStartedFrame())
            for _ in range(2):
                self.push_frame(TTSAudioRawFrame(SECOND, 8000, 1))
            self._more()

    def _more(self) -> None:
        self.push_frame(TTSAudioRawFrame(SECOND, 8000, 1))
        self.runtime.call_later(1.0, self._more)


SECOND = actors.tone(1.0)


def speaks(call: Call) -> Sequence[FrameProcessor]:
    return (Speaks(),)


def bots() -> Mapping[str, Build]:
    # This runs in the gateway's process, before anything else does.
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return {"speaks": speaks}


def tell() -> tuple[float, int]:
    """CPU seconds and bytes of memory so far."""
    return time.process_time(), rss()


# ---------------------------------------------------------------- Genesys


class Session(FakeGenesys):
    """A session that keeps what it measures."""

    def __init__(self, plan: CallPlan) -> None:
        super().__init__(plan, strict=False, record=False)
        self.measures = False
        self.pong_s: list[tuple[float, float]] = []  # when it came, and how long it had taken
        self.late_s: list[tuple[float, float]] = []  # when each binary message came, and how late
        self.had_s: list[float] = []  # what was not played yet when it came
        self._played_from = 0.0
        self._samples = 0
        self.opened_s = 0.0

    def _take_opened(self, message: Any, parameters: Any, now: float) -> Messages:
        self.opened_s = now - self.started_at
        return super()._take_opened(message, parameters, now)

    def _take_pong(self, message: Any, parameters: Any, now: float) -> Messages:
        replies = super()._take_pong(message, parameters, now)
        if self.measures:
            self.pong_s.append((now, self._rtt))
        return replies

    def _take_audio(self, data: bytes, now: float) -> Messages:
        if not self._samples:
            self._played_from = now
        had = self._played_from + self._samples / genesys.RATE - now
        self._samples += len(data)
        if self.measures:
            self.had_s.append(had)
            self.late_s.append((now, max(0.0, LEAD_S - had)))
        return super()._take_audio(data, now)


async def carried(session: Session, url: str, start_at: float, end_at: float) -> None:
    """One session from its start to its end; its own packets on an absolute schedule."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(start_at - loop.time())
    async with connect(
        url + session.media_path(""),
        additional_headers=dict(session.handshake_headers(url)),
        compression=None,
        ping_interval=None,
        proxy=None,
        open_timeout=20,
    ) as ws:

        async def send(messages: Messages) -> None:
            for message in messages:
                await ws.send(message)

        await send(session.opening(loop.time()))
        speaking = loop.create_task(_speak(session, ws, send, end_at))
        try:
            while not session.closes_socket:
                await send(session.receive(await ws.recv(), loop.time()))
        except ConnectionClosed:
            pass
        finally:
            speaking.cancel()
        await ws.close(1000)


async def _speak(session: Session, ws: ClientConnection, send: Any, end_at: float) -> None:
    loop, voice = asyncio.get_running_loop(), SECOND[: round(2 * 8000 * PACKET_S)]
    due = loop.time() + PACKET_S
    with contextlib.suppress(ConnectionClosed):
        while loop.time() < end_at:
            await asyncio.sleep(due - loop.time())
            due += PACKET_S
            await send(session.tick(loop.time()))
            await send(session.audio(voice, loop.time()))
        await send(session.hang_up(loop.time()))


async def all_of_them(
    gateway: Apart, sessions: Sequence[Session], seconds: float
) -> tuple[float, int, Sequence[tuple[float, float]]]:
    """In the measured time: CPU seconds, bytes of memory, and when this process was kept from its work, from and to."""
    loop = asyncio.get_running_loop()
    began = loop.time() + 0.5
    measured = began + RAMP_S + SETTLE_S
    ends = measured + seconds
    tasks = [
        loop.create_task(carried(one, gateway.url, began + RAMP_S * number / len(sessions), ends + 0.5))
        for number, one in enumerate(sessions)
    ]
    await asyncio.sleep(measured - loop.time())
    gc.collect()
    gc.disable()  # of this process: a collection of all sessions is no lateness of the gateway
    cpu, _ = await asyncio.to_thread(gateway.told)
    for one in sessions:
        one.measures = True
    stalls = []
    while (now := loop.time()) < ends:
        await asyncio.sleep(0.005)
        if loop.time() - now > 0.005 + STALL_S:
            stalls.append((now, loop.time()))
    for one in sessions:
        one.measures = False
    cpu_after, memory = await asyncio.to_thread(gateway.told)
    await asyncio.wait_for(asyncio.gather(*tasks), 20)
    return cpu_after - cpu, memory, stalls


Samples = Sequence[tuple[float, float]]  # when, how long


def awake(samples: Samples, stalls: Sequence[tuple[float, float]]) -> Samples:
    """What came while this process was not kept from its work; what had piled up is read in the moment after."""
    return [one for one in samples if not any(start <= one[0] <= end + 0.005 for start, end in stalls)]


def times(samples: Samples) -> list[float]:
    return [seconds for _, seconds in samples]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Of seconds, in milliseconds."""
    ordered = sorted(values)
    if not ordered:
        return {}
    at = {"median": 0.5, "p99": 0.99, "p99.9": 0.999, "worst": 1.0}
    return {name: round(1000 * ordered[min(len(ordered) - 1, int(p * len(ordered)))], 2) for name, p in at.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=200, metavar="N", help="default 200")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="measured; default 30, at most 40")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    seconds = min(args.seconds, 40.0)
    genesys.PING_S = 1.0
    plan = CallPlan(options={"connector": "speaks"})
    sessions = [Session(plan) for _ in range(args.sessions)]
    load = os.getloadavg()[0]
    with Apart(bots, tell=tell, max_calls=args.sessions + 10) as gateway:
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        cpu, memory, stalls = run(all_of_them(gateway, sessions, seconds), limit_s=90)
    pongs = [late for one in sessions for late in one.pong_s]
    packets = [late for one in sessions for late in one.late_s]
    found = {
        "sessions": args.sessions,
        "seconds": seconds,
        "load_before": round(load, 2),
        "cpu_share": round(cpu / seconds, 3),
        "cpu_ms_per_call_second": round(1000 * cpu / seconds / args.sessions, 3),
        "memory_mb": round(memory / 1e6, 1),
        "own_stalls": len(stalls),
        "own_worst_ms": round(1000 * max((end - start for start, end in stalls), default=0.0), 1),
        "opened_ms": percentiles([one.opened_s for one in sessions]),
        "pongs": len(pongs),
        "pong_ms": percentiles(times(pongs)),
        "pong_ms_awake": percentiles(times(awake(pongs, stalls))),
        "packets": len(packets),
        "packet_late_ms": percentiles(times(packets)),
        "packet_late_ms_awake": percentiles(times(awake(packets, stalls))),
        "least_lead_ms": round(1000 * min((had for one in sessions for had in one.had_s), default=0.0), 1),
        "gaps": sum(had < 0 for one in sessions for had in one.had_s),
        "rate_limited": sum(one.rate_limited for one in sessions),
        "not_right": sum(bool(one.violations) or one.state != "closed" for one in sessions),
    }
    if args.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            told = ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else value
            print(f"{name:<24}{told}")
    return 1 if found["not_right"] else 0


if __name__ == "__main__":
    sys.exit(main())
