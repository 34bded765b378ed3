"""Well-formed media is read by a typed reader, everything else by the strict way: whoever is read by both, both agree.

The short way is an optimisation and nothing else, so for any message that says it is media the frames, or the error,
have to be those of the strict way.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.outbox import Outbox
from gateway.registry import serializer_class
from gateway.simulator.base import CallPlan, fake_carrier
from media.errors import RemoteProtocolError
from media.frames import Frame, InputAudioRawFrame
from serializers.base import WireOptions
from serializers.json_base import JsonSerializer
from serializers.twilio import TwilioFrameSerializer

CARRIERS = ("twilio", "telnyx", "plivo", "exotel")

bytes_of_audio = st.binary(max_size=40) | st.integers(0, 170).map(bytes)
payloads = (
    bytes_of_audio.map(lambda data: base64.b64encode(data).decode())
    | bytes_of_audio.map(lambda data: base64.b64encode(data).decode().rstrip("="))
    | bytes_of_audio.map(lambda data: base64.urlsafe_b64encode(data).decode())
    | st.sampled_from(
        ["", "=", "AB==", "AA=A", "QUJ=", "QQ==QQ==", "A A=", "QUJD\n", "QUJD" * 50, "\u00e9AAA", "\ud83d"]
    )
    | st.text(max_size=12)
)
odd: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.floats() | st.text(max_size=6) | st.lists(st.integers(), max_size=2) | st.just({})
)
numbers = (
    st.integers(-3, 2**70)
    | st.integers(-3, 2**70).map(str)
    | st.integers(0, 99).map(float)
    | st.sampled_from(
        ["", "1e3", "1.0", " 7", "7 ", "+7", "007", "1_0", "\u0663", "-0", "0x10", 1e300, 2.5, -0.0, "1" * 25]
    )
    | odd
)
tracks = st.sampled_from(["inbound", "outbound", "both", "", "Inbound", 0]) | odd


@st.composite
def messages(draw: st.DrawFn) -> str:
    """A media message: the usual one with a few fields away, odd or doubled, written in some legal way."""
    media: dict[str, Any] = {"payload": draw(payloads)}
    for name, values in (("track", tracks), ("chunk", numbers), ("timestamp", numbers)):
        if draw(st.booleans()):
            media[name] = draw(values)
    if not draw(st.integers(0, 9)):
        media["payload"] = draw(odd | st.integers())
    if not draw(st.integers(0, 9)):
        media[draw(st.text(max_size=5))] = draw(odd)
    message: dict[str, Any] = {"event": "media", "media": media}
    if draw(st.booleans()):
        message["sequenceNumber"] = draw(numbers)
    if not draw(st.integers(0, 9)):
        message["media"] = draw(odd)
    names = draw(st.permutations(list(message)))
    text = json.dumps(
        {name: message[name] for name in names},
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1])),
    )
    return text if draw(st.integers(0, 15)) else text[: draw(st.integers(0, len(text)))]


def started(carrier: str) -> JsonSerializer:
    serializer = serializer_class(carrier).for_call(WireOptions())
    assert isinstance(serializer, JsonSerializer)
    for message in fake_carrier(carrier)(CallPlan()).opening(0.0):
        serializer.decode(message)
    return serializer


def outcome(frames: Sequence[Frame]) -> list[tuple[Any, ...]]:
    return [
        (type(frame), frame.audio, frame.sample_rate, frame.num_channels, frame.seq, frame.timestamp_ms)
        if isinstance(frame, InputAudioRawFrame)
        else (type(frame),)
        for frame in frames
    ]


@pytest.mark.parametrize("carrier", CARRIERS)
@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_the_short_way_and_the_strict_one_agree(carrier: str, data: st.DataObject) -> None:
    """Over a few messages, for a serializer may keep half a sample of one for the next."""
    short, strict = started(carrier), started(carrier)
    for _ in range(3):
        message = data.draw(messages())
        wire: str | bytes = message
        if data.draw(st.booleans()):
            wire = message.encode("utf-8", "surrogatepass")
        try:
            expected: Any = outcome(strict._decode_any(wire))
        except RemoteProtocolError as error:
            expected = error.problem
        try:
            found: Any = outcome(short.decode(wire))
        except RemoteProtocolError as error:
            found = error.problem
        assert found == expected, wire


def test_a_class_of_others_is_asked_itself_for_what_it_writes() -> None:
    class Louder(TwilioFrameSerializer):
        def encode(self, frame: Frame) -> Sequence[str | bytes]:
            return ("mine",)

    ours, theirs = TwilioFrameSerializer.for_call(WireOptions()), Louder.for_call(WireOptions())
    assert ours.short_way is ours.audio
    assert theirs.short_way is None
    ours._set_stream("MZ1")
    said = []
    for serializer in (ours, theirs):
        outbox = Outbox(serializer, Counter(), 10)
        outbox.audio(bytes(320), 8000)
        outbox.audio(bytes(640), 16000)  # of another rate than the wire's
        said.append([outbox.take(0.0) for _ in range(2)])
    assert all(json.loads(message)["event"] == "media" for message in said[0])
    assert said[1] == ["mine", "mine"]
