"""Audio is read and written the short way (`serializers/audio.py`), all else by the serializer: both agree.

The short way is an optimisation and nothing else, so for any stream of messages the frames, or the errors, have to be
those of the strict way; and what is written is what the carriers' pages ask for, said here in other words.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.echo import Echo
from gateway.outbox import Outbox
from gateway.registry import serializer_class
from gateway.simulator.base import CallPlan, fake_carrier
from media.codecs import audioop
from media.errors import RemoteProtocolError
from media.frames import Frame, InputAudioRawFrame, InterruptionFrame, OutputAudioRawFrame
from serializers.base import FrameSerializer, WireOptions
from serializers.exotel import ExotelFrameSerializer
from serializers.json_base import JsonSerializer
from serializers.plivo import PlivoFrameSerializer
from serializers.twilio import TwilioFrameSerializer
from tests.gateway.virtual import VirtualCall

# What was agreed with the carrier, in the fake's words.
WIRES: Mapping[str, tuple[str, CallPlan]] = {
    "twilio": ("twilio", CallPlan()),
    "telnyx": ("telnyx", CallPlan()),
    "telnyx-A-law": ("telnyx", CallPlan(receive_codec="PCMA", send_codec="L16", sample_rate=16000)),
    "telnyx-linear": ("telnyx", CallPlan(receive_codec="L16", send_codec="PCMA", sample_rate=8000)),
    "plivo": ("plivo", CallPlan()),
    "plivo-linear": ("plivo", CallPlan(send_codec="L16", sample_rate=16000)),
    "vonage": ("vonage", CallPlan(sample_rate=16000)),
    "vonage-8k": ("vonage", CallPlan(sample_rate=8000)),
    "exotel": ("exotel", CallPlan()),
    "exotel-numbered": ("exotel", CallPlan()),
}
OPTIONS: Mapping[str, Mapping[str, Any]] = {"exotel-numbered": {"outbound_media_extras": True, "packet_ms": 40}}
RATES = st.sampled_from([None, 8000, 16000, 24000])  # of the pipeline

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


def started(wire: str, pipeline_rate: int | None = None) -> JsonSerializer:
    carrier, plan = WIRES[wire]
    options = WireOptions(
        in_sample_rate=pipeline_rate,
        receive_codec=plan.receive_codec,
        send_codec=plan.send_codec,
        send_sample_rate=plan.sample_rate,
        options=OPTIONS.get(wire),
    )
    serializer = serializer_class(carrier).for_call(options)
    assert isinstance(serializer, JsonSerializer)
    for message in fake_carrier(carrier)(plan).opening(0.0):
        serializer.decode(message)
    return serializer


def outcome(read: Callable[[Any], Sequence[Frame]], message: str | bytes) -> Any:
    """The frames of one message, or what is wrong with it."""
    try:
        return [
            (type(frame), frame.audio, frame.sample_rate, frame.num_channels, frame.seq, frame.timestamp_ms)
            if isinstance(frame, InputAudioRawFrame)
            else (type(frame),)
            for frame in read(message)
        ]
    except RemoteProtocolError as error:
        return error.problem


def as_the_core(serializer: JsonSerializer, message: str | bytes) -> Sequence[Frame]:
    short = serializer.short_in
    assert short is not None
    frames = short.read(message)
    return serializer.decode(message) if frames is None else frames


# Events of several carriers, that each may take as its own, as unknown, or as broken.
others = st.sampled_from(
    [
        "",
        "[]",
        b"\xff",
        '{"event":"media"}',
        '{"event":"dtmf","dtmf":{"digit":"5"}}',
        '{"event":"mark","mark":{"name":"m"}}',
        '{"event":"start","start":{}}',
        '{"event":"websocket:media:update","active":false}',
        '{"event":"websocket:media:update","active":true}',
        '{"event":"websocket:dtmf","digit":"7"}',
    ]
)


@pytest.mark.parametrize("wire", WIRES)
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_the_short_way_and_the_strict_one_agree(wire: str, data: st.DataObject) -> None:
    """Over a few messages: half a sample of one is kept for the next, and a resampler has a memory."""
    rate = data.draw(RATES)
    short, strict = started(wire, rate), started(wire, rate)
    is_binary = wire.startswith("vonage")
    strictly = strict.decode if is_binary else strict._decode_any
    audio = st.integers(0, 3).flatmap(
        lambda odd: st.sampled_from([0, 318, 320, 638, 640]).map(lambda n: bytes(n + odd))
    )
    usual: st.SearchStrategy[Any] = (st.binary(max_size=40) | audio) if is_binary else messages()
    for _ in range(data.draw(st.integers(1, 6))):
        message = data.draw(usual if data.draw(st.integers(0, 3)) else others)
        if isinstance(message, str) and not is_binary and data.draw(st.booleans()):
            message = message.encode("utf-8", "surrogatepass")
        assert outcome(partial(as_the_core, short), message) == outcome(strictly, message), message


# Bytes of s16le that may be in one message: no fewer, no more.
LENGTHS = {
    "twilio": (1, 10**9),
    "telnyx": (320, 480_000),
    "telnyx-A-law": (640, 960_000),
    "telnyx-linear": (320, 480_000),
    "plivo": (1, 24_576),
    "plivo-linear": (1, 12_288),
    "vonage": (640, 640),
    "vonage-8k": (320, 320),
    "exotel": (3200, 6399),
    "exotel-numbered": (640, 1279),
}
GRID = 320  # bytes, of which Exotel's messages are multiples
CODECS: Mapping[str, Callable[[bytes], bytes]] = {
    "telnyx-A-law": lambda pcm: audioop.byteswap(pcm, 2),
    "telnyx-linear": lambda pcm: audioop.lin2alaw(pcm, 2),
    "plivo-linear": bytes,
}


class Model:
    """What a carrier should be sent, in plain words."""

    def __init__(self, wire: str) -> None:
        self.wire, self.held = wire, b""
        self.count = self.sent = 0
        self.shortest, self.longest = LENGTHS[wire]

    def write(self, pcm: bytes) -> list[Any]:
        self.held += pcm
        messages = []
        while len(self.held) >= self.shortest:
            size = self.longest
            if self.wire.startswith("exotel"):  # short ones; the rest goes with the last
                size = self.shortest if len(self.held) > size else len(self.held) // GRID * GRID
            messages.append(self.message(self.held[:size]))
            self.held = self.held[size:]
        return messages

    def flush(self) -> list[Any]:
        last, self.held = self.held, b""
        return [self.message(last + bytes(self.shortest - len(last)))] if last else []

    def message(self, pcm: bytes) -> Any:
        if self.wire.startswith("vonage"):
            return pcm
        if self.wire.startswith("exotel"):
            return self.exotel(pcm)
        wire = CODECS.get(self.wire, lambda pcm: audioop.lin2ulaw(pcm, 2))(pcm)
        media: dict[str, Any] = {"payload": base64.b64encode(wire).decode()}
        if self.wire == "twilio":
            return {"event": "media", "streamSid": "MZ1", "media": media}
        if self.wire.startswith("telnyx"):
            return {"event": "media", "media": media}
        kind, rate = ("audio/x-mulaw", 8000) if self.wire == "plivo" else ("audio/x-l16", 16000)
        return {"event": "playAudio", "media": {"contentType": kind, "sampleRate": rate, **media}, "streamId": "MZ1"}

    def exotel(self, pcm: bytes) -> Any:
        message: dict[str, Any] = {
            "event": "media",
            "stream_sid": "MZ1",
            "media": {"payload": base64.b64encode(pcm).decode()},
        }
        if self.wire == "exotel-numbered":
            self.count += 1
            message["sequence_number"] = message["media"]["chunk"] = str(self.count)
            message["media"]["timestamp"] = str(self.sent // 16)  # ms
            self.sent += len(pcm)
        return message


def read_again(messages: Iterable[str | bytes]) -> list[Any]:
    return [json.loads(message) if isinstance(message, str) else message for message in messages]


def pieces(wire: str) -> st.SearchStrategy[int]:
    """Bytes of audio, around what fills a message, and much more."""
    shortest, longest = LENGTHS[wire]
    return st.sampled_from([0, 2, 158, 642, shortest & ~1, 2 * shortest, 1300, min(longest, 10**6) + 2])


@pytest.mark.parametrize("wire", LENGTHS)
@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_what_is_written_is_what_the_carrier_takes(wire: str, data: st.DataObject) -> None:
    """By the outbox, at the wire's rate: that is what every packet of every call is sent by."""
    serializer, model = started(wire), Model(wire)
    if isinstance(serializer, TwilioFrameSerializer | ExotelFrameSerializer):
        serializer._set_stream("MZ1")
    if isinstance(serializer, PlivoFrameSerializer):
        serializer._bind("MZ1", serializer._format)
    outbox = Outbox(serializer, Counter(), 10_000)
    wave = bytes(range(256)) * 4000
    kinds = st.sampled_from(["say", "say", "say", "end", "interrupt"])
    acts = data.draw(st.lists(st.tuples(pieces(wire), kinds), max_size=12))
    for position, (size, act) in enumerate(acts):
        if act == "interrupt":
            model.held = b""
            assert len(serializer.encode(InterruptionFrame())) == 1
        elif act == "end":
            assert read_again(serializer.flush()) == model.flush()
        else:
            pcm = wave[2 * position : 2 * position + size]
            outbox.audio(pcm, serializer.send_rate)
            said = [message for message, _ in outbox.waiting]
            outbox.waiting.clear()
            assert read_again(said) == model.write(pcm)
        held = len(model.held)
        assert serializer.held_samples == held // 2
        assert serializer.padding_samples == ((model.shortest - held) // 2 if held else 0)


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "vonage", "exotel"])
@pytest.mark.parametrize("rate", [None, 16000])
def test_a_call_goes_the_same_whether_or_not_its_serializer_is_asked(
    carrier: str, rate: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With packets of odd lengths, an interruption in the middle of one, and bad messages."""

    def course() -> tuple[Any, ...]:
        call = VirtualCall(carrier, lambda _: (Echo(),), sample_rate=rate)
        call.say(bytes(range(256)) * 125)
        call.run(0.3)
        call.core.inject(OutputAudioRawFrame(bytes(2 * 1234), 8000, 1))
        call.run(0.05)
        call.core.receive("{", call.t)
        call.core.interrupt()
        call.run(0.3)
        assert len(call.sent) > 2
        ledger = call.core.output.ledger
        assert ledger is not None
        # The carrier's ids are other ones in each call.
        said = [
            (
                at,
                re.sub(r'"(streamSid|stream_sid|streamId|name|id)": ?"[^"]*"', r"\1", text)
                if type(text) is str
                else text,
            )
            for at, text in call.sent
        ]
        return said, dict(call.core.counters), ledger.generated, ledger.position(call.t), ledger.held(call.t)

    shortly = course()
    monkeypatch.setattr(FrameSerializer, "short_in", None)
    monkeypatch.setattr(FrameSerializer, "short_out", None)
    assert course() == shortly


def test_a_class_of_others_is_asked_itself_for_what_it_writes() -> None:
    class Louder(TwilioFrameSerializer):
        def encode(self, frame: Frame) -> Sequence[str | bytes]:
            return ("mine",)

    ours, theirs = TwilioFrameSerializer.for_call(WireOptions()), Louder.for_call(WireOptions())
    assert (ours.short_in, ours.short_out) == (ours.incoming, ours.outgoing)
    assert theirs.short_in is theirs.short_out is None
    ours._set_stream("MZ1")
    said = []
    for serializer in (ours, theirs):
        outbox = Outbox(serializer, Counter(), 10)
        outbox.audio(bytes(320), 8000)
        outbox.audio(bytes(640), 16000)  # of another rate than the wire's
        said.append([outbox.take(0.0) for _ in range(2)])
    assert all(json.loads(message)["event"] == "media" for message in said[0])
    assert said[1] == ["mine", "mine"]
