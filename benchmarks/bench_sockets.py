"""What a message costs between the transport and whoever answers it: our WebSockets against the stock ones.

    python benchmarks/bench_sockets.py [--size BYTES] [--messages N]

A client's masked text messages go into the protocol class that uvicorn would use, one by one, over a transport in
memory and a running loop; an echo sends each back. Told is CPU time for one message in and one out, the best of seven
rounds, in turns: the loop's turns are in it, the kernel is not. A call has 50 a second each way, so 1 us is 0.05 ms
per call-second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from base64 import b64encode
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.lean.line import ECHOES, Served, masked

ROUNDS = 7


def media(size: int) -> bytes:
    """Twilio's message with `size` bytes of audio."""
    payload = b64encode(os.urandom(size)).decode()
    message = {"event": "media", "sequenceNumber": "4", "streamSid": "MZ" + 32 * "0"}
    return json.dumps({**message, "media": {"track": "inbound", "chunk": "2", "payload": payload}}).encode()


async def one(name: str, frame: bytes, messages: int) -> float:
    """CPU microseconds of a message."""
    line = await Served(*ECHOES[name]).open()
    receive, turn = line.protocol.data_received, asyncio.sleep
    written, asked = line.transport.written, len(frame) - 4  # a server's frame has no mask
    begin = time.process_time()
    for _ in range(messages):
        receive(frame)
        while len(written) < asked:
            await turn(0)
        written.clear()
    took = time.process_time() - begin
    await line.hang_up()
    return took / messages * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=160, help="bytes of audio in a message; default: 160")
    parser.add_argument("--messages", type=int, default=5000)
    arguments = parser.parse_args()
    frame = masked(1, media(arguments.size))
    best = dict.fromkeys(ECHOES, float("inf"))
    for _ in range(ROUNDS):
        for name in ECHOES:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                best[name] = min(best[name], runner.run(one(name, frame, arguments.messages)))
    print(f"{len(frame)} bytes in, and out again{'':9}us  of websockets")
    for name, us in best.items():
        print(f"{name:32}{us:6.2f}  {us / best['websockets']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
