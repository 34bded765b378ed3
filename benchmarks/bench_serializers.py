"""What a serializer costs: CPU microseconds per 20 ms of audio, in and out, for every carrier.

    python benchmarks/bench_serializers.py [carrier ...] [--json]

The message is what the strict fake of the carrier sends, and the packet what pacing would hand over. `plain` is the
same work done with json, base64 and audioop in the obvious way, measured in the same run: on a busy or slow machine
the ratio to it says more than the microseconds.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway.registry import serializer_class
from gateway.simulator.base import FakeCarrier, carrier_names, fake_carrier
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.frames import OutputAudioRawFrame, OutputTransportMessageUrgentFrame
from serializers.base import FrameSerializer, WireOptions

LOOPS, ROUNDS = 2000, 15


def best_us(work: Callable[[], object]) -> float:
    """Microseconds of one call, in the best of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time()
        for _ in range(LOOPS):
            work()
        best = min(best, time.process_time() - begin)
    return 1e6 * best / LOOPS


def connected(carrier: str) -> tuple[FrameSerializer, FakeCarrier]:
    """A serializer and a fake that have opened a call with each other."""
    serializer, fake = serializer_class(carrier).for_call(WireOptions()), fake_carrier(carrier)()
    now = 1000.0
    messages = list(fake.opening(now))
    while messages:
        for frame in serializer.decode(messages.pop(0)):
            if isinstance(frame, OutputTransportMessageUrgentFrame):
                for answer in serializer.encode(frame):
                    messages += fake.receive(answer, now)
    if not fake.ready:
        raise RuntimeError(f"{carrier}: the call did not open")
    return serializer, fake


def measure(carrier: str, in_sample_rate: int | None = None) -> dict[str, float]:
    serializer, fake = connected(carrier)
    serializer.begin(in_sample_rate)
    voice = bytes(range(256)) * 100
    packet = voice[: fake.audio_rate * fake.packet_ms // 1000 * 2]
    [message] = fake.audio(packet, 1000.1)
    rate, packet_ms = serializer.send_rate, serializer.packet_ms
    frame = OutputAudioRawFrame(voice[: rate * packet_ms // 1000 * 2], rate, 1)
    if len(serializer.encode(frame)) != 1:
        raise RuntimeError(f"{carrier}: one packet is not one message")
    return {
        "decode_us": best_us(lambda: serializer.decode(message)) * 20 / fake.packet_ms,
        "encode_us": best_us(lambda: serializer.encode(frame)) * 20 / packet_ms,
    }


def plain() -> dict[str, float]:
    """Twilio's messages by the standard library, without frames."""
    pcm = bytes(range(256))[:160] * 2
    payload = base64.b64encode(pcm_to_ulaw(pcm)).decode()
    media = {"track": "inbound", "chunk": "2", "timestamp": "25", "payload": payload}
    text = json.dumps({"event": "media", "sequenceNumber": "4", "streamSid": "MZ" + "0" * 32, "media": media})

    def encode() -> str:
        payload = base64.b64encode(pcm_to_ulaw(pcm)).decode()
        return json.dumps({"event": "media", "streamSid": "MZ" + "0" * 32, "media": {"payload": payload}})

    return {
        "decode_us": best_us(lambda: ulaw_to_pcm(base64.b64decode(json.loads(text)["media"]["payload"]))),
        "encode_us": best_us(encode),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("carrier", nargs="*", help="all, if none is given")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures = {"plain": plain()} | {carrier: measure(carrier) for carrier in args.carrier or carrier_names()}
    if args.json:
        print(json.dumps(figures))
        return 0
    print(f"{'us per 20 ms':<14}{'decode':>9}{'encode':>9}{'of plain':>16}")
    base = figures["plain"]
    for carrier, cost in figures.items():
        share = [f"{cost[key] / base[key]:.2f}" for key in ("decode_us", "encode_us")]
        print(f"{carrier:<14}{cost['decode_us']:>9.2f}{cost['encode_us']:>9.2f}{' / '.join(share):>16}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
