"""Web callers: the general rules, against a strict fake of the JavaScript client."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from gateway.simulator.base import CallPlan, ProtocolViolation
from gateway.simulator.web_caller import FakeWebCaller
from media.frames import (
    CallStartedFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InputTransportMessageFrame,
    InterruptionFrame,
    KeypadEntry,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
)
from serializers.base import Message, WireOptions
from serializers.protobuf import ProtobufFrameSerializer
from serializers.web import WebFrameSerializer
from tests.serializers.conformance import SerializerConformance, samples, tone


def hexed(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


class TestConformance(SerializerConformance):
    make = staticmethod(lambda: WebFrameSerializer.for_call(WireOptions()))
    fake = staticmethod(FakeWebCaller)
    marks_come_back = False
    takes_transport_messages = False

    def test_keys_of_the_older_protocol_and_keys_that_are_none(self) -> None:
        line = self.line()
        line.to_gateway(line.carrier.say("dtmf", {"button": "5"}))  # type: ignore[attr-defined]
        assert [frame.button.value for frame in line.seen(InputDTMFFrame)] == ["5"]
        for data in ({"buttons": ["1", "x"]}, {"buttons": 7}, {}, [], None):
            line.to_gateway(line.carrier.say("dtmf", data))  # type: ignore[attr-defined]
        assert len(line.seen(InputDTMFFrame)) == 1
        assert len(line.seen(InputTransportMessageFrame)) == 1 + 5  # whoever speaks RTVI says what is wrong

    def test_frames_that_are_not_for_the_carrier(self) -> None:
        """RTVI's messages are for this one."""
        line = self.line()
        rtvi = {"label": "rtvi-ai", "type": "bot-ready", "data": {}}
        assert len(line.serializer.encode(OutputTransportMessageFrame(rtvi))) == 1
        for frame in (InputDTMFFrame(KeypadEntry.ONE), InputAudioRawFrame(b"\0\0", 8000, 1)):
            assert list(line.serializer.encode(frame)) == []

    def check_before_start(self, frame: Frame, messages: Sequence[Message]) -> None:
        """Audio needs no id; the core sends none before the first message."""
        assert not messages or isinstance(frame, OutputAudioRawFrame)

    def test_random_values_in_genuine_messages(self) -> None:
        """JSON of any kind in a message."""
        serializer = self.started()
        for value in (None, 7, "text", [], [[1], {}], {"label": "rtvi-ai"}, {"type": {}}):
            message = ProtobufFrameSerializer().encode(OutputTransportMessageUrgentFrame(json.dumps(value)))[0]
            (frame,) = serializer.decode(message)
            assert isinstance(frame, InputTransportMessageFrame)
            assert frame.message == value

    def test_interruption_silences_the_carrier_and_forgets_the_rest(self) -> None:
        """Nothing can make the client drop what it has; what the resampler holds goes."""
        line = self.line()
        line.send(OutputAudioRawFrame(tone(8000, 0.5), 8000, 1))
        line.send(InterruptionFrame())
        line.flush()
        line.wait(2.0)
        assert not line.carrier.playout.clears
        assert len(samples(line.carrier.playout.heard)) >= 0.45 * 24000


class TestAt16Kilohertz(TestConformance):
    make = staticmethod(lambda: WebFrameSerializer.for_call(WireOptions(send_sample_rate=16000)))
    plan: ClassVar = {"sample_rate": 16000}


def test_the_recorded_bytes() -> None:
    """Of the real client, and what it takes."""
    serializer = WebFrameSerializer()
    head, tail = hexed("12 8f 04 12 05 61 75 64 69 6f 1a 80 04"), hexed("20 80 7d 28 01")
    started, audio = serializer.decode(head + bytes(512) + tail)
    assert isinstance(started, CallStartedFrame)
    assert isinstance(audio, InputAudioRawFrame)
    assert (len(audio.audio), audio.sample_rate, audio.num_channels) == (512, 16000, 1)
    (message,) = serializer.encode(OutputTransportMessageUrgentFrame("{}"))
    assert message == hexed("22 04 0a 02 7b 7d")
    (sound,) = serializer.encode(OutputAudioRawFrame(hexed("01 00 ff 7f"), 24000, 1))
    assert sound == hexed("12 0c 1a 04 01 00 ff 7f 20 c0 bb 01 28 01")


def test_a_short_last_message_and_another_rate() -> None:
    serializer = WebFrameSerializer()
    serializer.begin(16000)
    fake = FakeWebCaller()
    fake.opening(0.0)
    frames = [frame for message in fake.audio(bytes(256), 0.1) for frame in serializer.decode(message)]
    assert [len(frame.audio) for frame in frames if isinstance(frame, InputAudioRawFrame)] == [256]


def test_an_interruption_is_not_sent_to_a_client_that_does_not_know_it() -> None:
    assert list(WebFrameSerializer().encode(InterruptionFrame())) == []


@pytest.mark.parametrize(
    ("sent", "rule"),
    [
        ("text", "binary"),
        (b"\xff\xff", "binary"),
        (hexed("12 07 1a 03 01 02 03 20 01"), "odd"),
        (hexed("12 0a 1a 04 01 00 ff 7f 20 80 7d 28 01"), "binary"),
        (hexed("12 0b 1a 04 01 00 ff 7f 20 80 7d 28 01"), "24000 Hz"),
        (hexed("22 04 0a 02 7b 7d"), "label"),
        (hexed("2a 00"), "acts on"),
    ],
)
def test_the_fake_is_strict(sent: Any, rule: str) -> None:
    fake = FakeWebCaller(CallPlan())
    fake.opening(0.0)
    with pytest.raises(ProtocolViolation, match=rule):
        fake.receive(sent, 0.1)


def test_the_fake_wants_its_answer_first() -> None:
    serializer, fake = WebFrameSerializer(), FakeWebCaller()
    fake.opening(0.0)
    told = OutputTransportMessageUrgentFrame({"label": "rtvi-ai", "type": "metrics", "data": {}})
    (message,) = serializer.encode(told)
    with pytest.raises(ProtocolViolation, match="client-ready"):
        fake.receive(message, 0.1)
