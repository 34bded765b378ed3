"""The start message decides the wire's rate: what was said before it leaves no resampler of another rate behind."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from media.frames import OutputAudioRawFrame
from serializers.base import FrameSerializer, Message
from serializers.exotel import ExotelFrameSerializer
from serializers.plivo import PlivoFrameSerializer
from serializers.twilio import TwilioFrameSerializer
from serializers.vonage import VonageFrameSerializer

PIPELINE, WIRE = 24_000, 16_000  # all four begin with 8000

MAKE: Mapping[str, tuple[Callable[[], FrameSerializer], Mapping[str, Any], int]] = {  # ..., bytes of a sample
    "twilio": (
        lambda: TwilioFrameSerializer("MZ1", params=TwilioFrameSerializer.InputParams(auto_hang_up=False)),
        {
            "event": "start",
            "start": {
                "streamSid": "MZ1",
                "callSid": "CA1",
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": WIRE, "channels": 1},
            },
        },
        1,
    ),
    "plivo": (
        lambda: PlivoFrameSerializer("s", params=PlivoFrameSerializer.InputParams(auto_hang_up=False, encoding="L16")),
        {
            "event": "start",
            "start": {"streamId": "s", "callId": "c", "mediaFormat": {"encoding": "audio/x-l16", "sampleRate": WIRE}},
        },
        2,
    ),
    "exotel": (
        lambda: ExotelFrameSerializer("s"),
        {
            "event": "start",
            "stream_sid": "s",
            "start": {"call_sid": "c", "media_format": {"encoding": "base64", "sample_rate": str(WIRE)}},
        },
        2,
    ),
    "vonage": (
        lambda: VonageFrameSerializer(VonageFrameSerializer.InputParams(vonage_sample_rate=8000)),
        {"event": "websocket:connected", "content-type": f"audio/l16;rate={WIRE}"},
        2,
    ),
}


def audio_of(message: Message) -> bytes:
    return message if isinstance(message, bytes) else b64decode(json.loads(message)["media"]["payload"])


@pytest.mark.parametrize("carrier", MAKE)
def test_a_second_of_speech_is_a_second_after_a_start_of_another_rate(carrier: str) -> None:
    make, start, width = MAKE[carrier]
    serializer = make()
    frame = OutputAudioRawFrame(bytes(PIPELINE // 50 * 2), PIPELINE, 1)
    assert serializer.send_rate == 8000
    for _ in range(3):
        serializer.encode(frame)
    serializer.decode(json.dumps(start))
    assert serializer.send_rate == WIRE
    said = b"".join(audio_of(message) for _ in range(50) for message in serializer.encode(frame))
    said += b"".join(map(audio_of, serializer.flush()))
    seconds = len(said) / width / WIRE
    assert 0.99 <= seconds <= 1.0 + serializer.packet_ms / 1000 + 0.02
