"""What every serializer must stand, whatever its carrier. A carrier's test file makes its own of these:

    class TestConformance(SerializerConformance):
        make = staticmethod(lambda: TwilioFrameSerializer.for_call(WireOptions()))
        fake = staticmethod(FakeTwilio)

    TestMachine = machine(TestConformance)

The strict fake carrier is the judge: it says what a real carrier would send, and refuses what it would refuse.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway.simulator.base import CallPlan, FakeCarrier, Message
from media.errors import RemoteProtocolError
from media.events import DONE
from media.frames import (
    AnswerLaterFrame,
    CallEndedFrame,
    CallStartedFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    KeypadEntry,
    MarkFrame,
    OutputAudioRawFrame,
    OutputDTMFFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    PlayedFrame,
    TTSAudioRawFrame,
)
from serializers.base import FrameSerializer

SECRET = "s3cr3t-5550100"  # stands where a message carries values, and must not come out in an error
WRONG = (None, True, -1, 0, 2**70, 1.5e308, "", "x", SECRET, "9" * 30, "\ud800", [], [1], {}, {"a": SECRET}, "é" * 9999)


class Line:
    """A serializer and a strict fake carrier, wired back to back on a made-up clock.

    Everything that the fake says is decoded; urgent answers of the serializer go back to the fake. `frames` is what
    came out of `decode` since it was last looked at.
    """

    def __init__(self, make: Callable[[], FrameSerializer], fake: Callable[..., FakeCarrier], **plan: Any) -> None:
        self.serializer = make()
        self.carrier = fake(CallPlan(**plan))
        self.now = 1000.0
        self.frames: list[Frame] = []
        self.said = 0  # packets of caller audio

    def open(self) -> None:
        self.to_gateway(self.carrier.opening(self.now))
        for _ in range(50):  # a carrier that waits for answers is ready when it has them
            if self.carrier.ready:
                return
            self.wait(0.02)
        raise AssertionError("the carrier never became ready")

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until - 1e-9:
            due = self.carrier.next_tick_at()
            step = until if due is None else min(until, max(due, self.now + 0.001))
            self.now = step
            self.to_gateway(self.carrier.tick(self.now))

    def say(self, pcm: bytes) -> None:
        self.said += 1
        self.to_gateway(self.carrier.audio(pcm, self.now))

    def press(self, digit: str) -> None:
        self.to_gateway(self.carrier.press(digit, self.now))

    def send(self, frame: Frame) -> None:
        self.to_carrier(self.serializer.encode(frame))

    def flush(self) -> None:
        self.to_carrier(self.serializer.flush())

    def to_carrier(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if not self.carrier.closes_socket:
                self.to_gateway(self.carrier.receive(message, self.now))

    def to_gateway(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._take(self.serializer.decode(message))

    def _take(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            self.frames.append(frame)
            if isinstance(frame, OutputTransportMessageUrgentFrame):
                self.send(frame)
            elif isinstance(frame, AnswerLaterFrame):
                assert frame.waiting is DONE
                self._take(frame.make())

    def seen(self, kind: type[Frame]) -> list[Any]:
        return [frame for frame in self.frames if isinstance(frame, kind)]


def tone(rate: int, seconds: float, amplitude: float = 8000.0, hertz: float = 437.0) -> bytes:
    """s16le, mono."""
    t = np.arange(int(rate * seconds)) / rate
    return (amplitude * np.sin(2 * np.pi * hertz * t)).astype("<i2").tobytes()


def samples(pcm: bytes) -> np.ndarray:
    return np.frombuffer(pcm, "<i2").astype(float)


def mutations(message: Message) -> Iterator[Message]:
    """`message` with every one field missing, of every wrong type, repeated, cut, or not text at all."""
    if isinstance(message, bytes):
        yield from (message[:1], message[:-1], message + b"\0", b"", message * 3)
        return
    parsed = json.loads(message)
    for path in _paths(parsed):
        for change in (_without(parsed, path), *(_with(parsed, path, value) for value in WRONG)):
            yield json.dumps(change)
    yield from (message[:cut] for cut in range(0, min(len(message), 400), 7))
    raw = message.encode()
    yield raw[:20] + b"\xff\xfe\xc0" + raw[20:]
    yield message + message
    yield f"[{message}]"
    yield message.replace('":"', '":"' + "\ud800", 1)
    yield message[:-1] + ',"more":' + "[" * 5000 + "]" * 5000 + "}"
    yield message[:-1] + ',"more":"' + "y" * 1_000_000 + '"}'


GARBAGE: Sequence[Message] = (
    "",
    b"",
    " ",
    "null",
    "17",
    "[]",
    "{}",
    '"media"',
    "NaN",
    '{"event":null}',
    '{"event":7}',
    '{"type":[]}',
    '{"event":"media"}',
    '{"event":"start"}',
    '{"event":"mark"}',
    '{"event":"dtmf"}',
    '{"event":"media","media":{"payload":"%%%"}}',
    '{"event":"media","media":{"payload":"A"}}',
    '{"event":"media","media":null}',
    b"\xff\xff",
    b"\x00",
    "\ud800",
    "[" * 100_000,
    '{"event":"nobody knows","a":1}',
    '{"version":"2","type":"nobody knows","id":"x","seq":1,"serverseq":0,"position":"PT0S","parameters":{}}',
)


class SerializerConformance:
    """Subclass it as Test... and set `make` and `fake`."""

    make: ClassVar[Callable[[], FrameSerializer]]
    fake: ClassVar[Callable[..., FakeCarrier]]
    plan: ClassVar[dict[str, Any]] = {}  # fields of CallPlan
    digits: ClassVar[str] = "0123456789*#"
    marks_come_back: ClassVar[bool] = True
    takes_transport_messages: ClassVar[bool] = False  # arbitrary JSON may be sent to the strict fake

    def line(self, *, opened: bool = True) -> Line:
        line = Line(type(self).make, type(self).fake, **type(self).plan)
        if opened:
            line.open()
        return line

    # ------------------------------------------------------------ a call

    def test_opening_starts_one_call(self) -> None:
        line = self.line()
        [started] = line.seen(CallStartedFrame)
        call = started.call
        assert call.carrier == line.carrier.name == line.serializer.carrier
        assert not call.call_id or call.call_id == line.carrier.call_id
        assert call.receive.sample_rate == line.carrier.audio_rate
        assert call.send.sample_rate == line.serializer.send_rate == line.carrier.playout.rate
        for name, value in line.carrier.plan.parameters.items():
            assert call.parameters[name] == value

    def test_caller_audio_arrives(self) -> None:
        line = self.line()
        rate = line.carrier.audio_rate
        voice = tone(rate, line.carrier.packet_ms * 5 / 1000)
        size = len(voice) // 5
        for at in range(0, len(voice), size):
            line.wait(line.carrier.packet_ms / 1000)
            line.say(voice[at : at + size])
        frames = line.seen(InputAudioRawFrame)
        assert {(frame.sample_rate, frame.num_channels) for frame in frames} == {(rate, 1)}
        heard = samples(b"".join(frame.audio for frame in frames))
        assert np.abs(heard - samples(voice)).max() <= 8000 / 16  # the coarsest step of G.711 at this level
        numbers = [frame.seq for frame in frames if frame.seq is not None]
        assert numbers == sorted(set(numbers))

    def test_caller_audio_at_the_pipelines_rate(self) -> None:
        line = self.line(opened=False)
        line.serializer.begin(16000 if line.carrier.audio_rate != 16000 else 8000)
        line.open()
        wanted = 16000 if line.carrier.audio_rate != 16000 else 8000
        packet = tone(line.carrier.audio_rate, line.carrier.packet_ms / 1000)
        for _ in range(10):
            line.wait(line.carrier.packet_ms / 1000)
            line.say(packet)
        frames = line.seen(InputAudioRawFrame)
        assert {frame.sample_rate for frame in frames} == {wanted}
        got = sum(frame.num_frames for frame in frames) / wanted
        assert got == pytest.approx(line.carrier.packet_ms / 100, abs=0.005)

    def test_every_digit_arrives(self) -> None:
        line = self.line()
        for digit in self.digits:
            line.press(digit)
        assert "".join(frame.button.value for frame in line.seen(InputDTMFFrame)) == self.digits

    def test_bot_audio_is_heard_to_its_last_sample(self) -> None:
        """In pieces of any length, at the wire's rate: every sample, in order, and at most one packet of padding."""
        line = self.line()
        rate = line.serializer.send_rate
        speech = tone(rate, 1.2345)
        pieces = random.Random(7)
        at = 0
        while at < len(speech):
            size = 2 * pieces.randrange(1, rate // 10)
            line.send(OutputAudioRawFrame(speech[at : at + size], rate, 1))
            if at > rate:  # half a second ahead: part of a packet may be held back without a gap
                line.wait(min(size, len(speech) - at) / 2 / rate * 0.8)
            at += size
        line.flush()
        line.wait(3.0)
        heard = samples(line.carrier.playout.heard)
        spoken = samples(speech)
        playing = np.flatnonzero(np.abs(heard) > 200)
        start = playing[0] - np.flatnonzero(np.abs(spoken) > 200)[0]
        piece = heard[start : start + len(spoken)]
        assert len(piece) == len(spoken)
        assert np.abs(piece - spoken).max() <= 8000 / 16
        assert not np.abs(heard[start + len(spoken) :]).max(initial=0) > 16  # what follows is padding
        assert line.carrier.ended_by is None

    @pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000])
    def test_bot_audio_of_any_rate(self, rate: int) -> None:
        line = self.line()
        seconds = 1.0
        speech = tone(rate, seconds)
        size = rate // 50 * 2
        for at in range(0, len(speech), size):
            line.send(TTSAudioRawFrame(speech[at : at + size], rate, 1))
            line.wait(0.018)
        line.flush()
        line.wait(3.0)
        heard = samples(line.carrier.playout.heard)
        wire = line.serializer.send_rate
        loud = np.flatnonzero(np.abs(heard) > 400)
        assert (loud[-1] - loud[0]) / wire == pytest.approx(seconds, abs=0.01)
        assert np.sqrt((heard[loud[0] : loud[-1]] ** 2).mean()) == pytest.approx(8000 / np.sqrt(2), rel=0.05)

    def test_interruption_silences_the_carrier_and_forgets_the_rest(self) -> None:
        line = self.line()
        rate = line.serializer.send_rate
        line.send(OutputAudioRawFrame(tone(rate, 1.501), rate, 1))
        line.wait(0.2)
        line.send(InterruptionFrame())
        before = line.now
        line.flush()
        line.wait(2.0)
        assert line.carrier.playout.clears
        heard = samples(line.carrier.playout.heard)
        allowed = line.carrier.playout.clears[0].silent_at - line.carrier.started_at
        assert allowed <= before - line.carrier.started_at + 0.2
        assert not np.abs(heard[int(allowed * rate) + 1 :]).max(initial=0) > 16

    @pytest.mark.parametrize("rate", [8000, 16000, 24000])
    def test_after_an_interruption_the_next_reply_starts_clean(self, rate: int) -> None:
        """Nothing of the cancelled reply is left in a resampler or half a packet."""
        line = self.line()
        line.send(OutputAudioRawFrame(tone(rate, 0.5031, 16000.0), rate, 1))
        line.wait(0.2)
        line.send(InterruptionFrame())
        line.wait(2.0)
        before = len(line.carrier.playout.heard)
        line.send(OutputAudioRawFrame(bytes(rate), rate, 1))
        line.flush()
        line.wait(2.0)
        assert line.carrier.playout.utterances == 2
        assert np.abs(samples(line.carrier.playout.heard[before:])).max() <= 16

    def test_marks_come_back_when_played(self) -> None:
        line = self.line()
        if not self.marks_come_back:
            assert not line.serializer.has_marks
            return
        rate = line.serializer.send_rate
        line.send(OutputAudioRawFrame(tone(rate, 0.4), rate, 1))
        line.flush()
        line.send(MarkFrame('one "quoted" \\ é'))
        line.wait(0.3)
        assert not line.seen(PlayedFrame)
        line.wait(1.0)
        assert [frame.name for frame in line.seen(PlayedFrame)] == ['one "quoted" \\ é']

    def test_hanging_up_ends_the_call(self) -> None:
        line = self.line()
        line.to_gateway(line.carrier.hang_up(line.now))
        line.wait(0.1)
        assert line.carrier.ended_by == "caller"
        ended = line.seen(CallEndedFrame)
        assert len(ended) == 1 or (not ended and line.serializer.close_is_normal_end)

    def test_frames_that_are_not_for_the_carrier(self) -> None:
        line = self.line()
        rtvi = {"label": "rtvi-ai", "type": "bot-ready", "data": {}}
        for frame in (
            OutputTransportMessageFrame(rtvi),
            OutputTransportMessageUrgentFrame(rtvi),
            InputDTMFFrame(KeypadEntry.ONE),
            InputAudioRawFrame(b"\0\0", 8000, 1),
        ):
            assert list(line.serializer.encode(frame)) == []

    def test_before_the_start_nothing_can_be_sent(self) -> None:
        serializer = type(self).make()
        for frame in (
            OutputAudioRawFrame(tone(8000, 0.02), 8000, 1),
            InterruptionFrame(),
            MarkFrame("m"),
            OutputDTMFFrame(KeypadEntry.ONE),
            EndFrame(),
            CancelFrame(),
        ):
            self.check_before_start(frame, serializer.encode(frame))
        serializer.flush()

    def check_before_start(self, frame: Frame, messages: Sequence[Message]) -> None:
        """A carrier whose messages need no id from `start` says here what it sends."""
        assert list(messages) == []

    # ------------------------------------------------------------ what no carrier should send

    def genuine(self) -> list[Message]:
        """One of each message that the carrier sends, in a call's order."""
        line = self.line(opened=False)
        kept: list[Message] = []
        to_gateway = line.to_gateway

        def keep(messages: Sequence[Message]) -> None:
            kept.extend(messages)
            to_gateway(messages)

        line.to_gateway = keep  # type: ignore[method-assign]
        line.open()
        line.wait(0.2)
        line.say(tone(line.carrier.audio_rate, line.carrier.packet_ms / 1000))
        line.press("5")
        rate = line.serializer.send_rate
        line.send(OutputAudioRawFrame(tone(rate, 0.4), rate, 1))
        line.flush()
        line.send(MarkFrame("m"))
        line.wait(1.0)
        line.send(OutputAudioRawFrame(tone(rate, 0.4), rate, 1))
        line.flush()
        line.send(MarkFrame("n"))
        line.send(InterruptionFrame())
        line.wait(7.0)
        line.to_gateway(line.carrier.hang_up(line.now))
        return kept

    def test_nothing_but_remote_protocol_error_escapes(self) -> None:
        genuine = self.genuine()
        opening = genuine[: self.opening_count(genuine)]
        for index, message in enumerate(genuine):
            for changed in mutations(message):
                serializer = type(self).make()
                for earlier in opening if index >= len(opening) else genuine[:index]:
                    decode(serializer, earlier)
                decode(serializer, changed)

    def opening_count(self, genuine: Sequence[Message]) -> int:
        """How many messages it takes to start the call."""
        serializer = type(self).make()
        for index, message in enumerate(genuine):
            if any(isinstance(frame, CallStartedFrame) for frame in serializer.decode(message)):
                return index + 1
        raise AssertionError("no message started the call")

    def test_garbage_does_not_end_the_call(self) -> None:
        """After any garbage, good audio is still good audio."""
        line = self.line()
        packet = tone(line.carrier.audio_rate, line.carrier.packet_ms / 1000)
        for message in GARBAGE:
            if isinstance(message, bytes) and self.binary_is_audio():
                continue
            if not self.harmless(message):
                continue
            frames = decode(line.serializer, message)
            assert not any(isinstance(frame, CallStartedFrame | InputAudioRawFrame) for frame in frames)
        line.frames.clear()
        line.wait(line.carrier.packet_ms / 1000)
        line.say(packet)
        heard = samples(b"".join(frame.audio for frame in line.seen(InputAudioRawFrame)))
        assert len(heard) == len(packet) // 2
        assert np.abs(heard - samples(packet)).max() <= 8000 / 16

    def binary_is_audio(self) -> bool:
        return False

    def harmless(self, message: Message) -> bool:
        """False for the garbage after which this carrier's protocol demands an end."""
        return True

    def test_duplicates_start_nothing_twice(self) -> None:
        genuine = self.genuine()
        serializer = type(self).make()
        starts = 0
        for message in genuine:
            for _ in range(2):
                starts += sum(isinstance(frame, CallStartedFrame) for frame in decode(serializer, message))
        assert starts == 1

    def test_errors_never_show_values(self) -> None:
        for message in self.genuine():
            if isinstance(message, bytes):
                continue
            parsed = json.loads(message)
            for path in _paths(parsed):
                for value in (SECRET, [SECRET], {"a": SECRET}):
                    shown = ""
                    try:
                        type(self).make().decode(json.dumps(_with(parsed, path, value)))
                    except RemoteProtocolError as error:
                        shown = f"{error}{error.excerpt}{error.problem}"
                    assert SECRET not in shown, path

    @given(data=st.one_of(st.binary(max_size=300), st.text(max_size=300)))
    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    def test_random_messages(self, data: Message) -> None:
        decode(self.started(), data)

    @given(
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
            max_leaves=12,
        ),
        where=st.integers(min_value=0, max_value=10_000),
    )
    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    def test_random_values_in_genuine_messages(self, value: Any, where: int) -> None:
        messages = [message for message in self._genuine_once() if isinstance(message, str)]
        parsed = json.loads(messages[where % len(messages)])
        paths = list(_paths(parsed))
        decode(self.started(), json.dumps(_with(parsed, paths[where % len(paths)], value)))

    def started(self) -> FrameSerializer:
        serializer = type(self).make()
        genuine = self._genuine_once()
        for message in genuine[: self.opening_count(genuine)]:
            serializer.decode(message)
        return serializer

    @classmethod
    def _genuine_once(cls) -> list[Message]:
        if "_genuine" not in cls.__dict__:
            cls._genuine = cls().genuine()  # type: ignore[attr-defined]
        return cls._genuine  # type: ignore[attr-defined,no-any-return]


def decode(serializer: FrameSerializer, message: Message) -> list[Frame]:
    """What `decode` gives; () for a RemoteProtocolError. Anything else that escapes fails the test."""
    try:
        frames = list(serializer.decode(message))
    except RemoteProtocolError:
        return []
    for frame in frames:
        assert isinstance(frame, Frame)
        if isinstance(frame, CallStartedFrame):
            call = frame.call
            ids = (call.call_id, call.stream_id, call.account_id, call.from_number, call.to_number, call.language)
            assert all(isinstance(text, str) for text in ids)
            assert isinstance(call.parameters, Mapping)
            assert isinstance(call.extra, Mapping)
        elif isinstance(frame, PlayedFrame):
            assert isinstance(frame.name, str)
        elif isinstance(frame, InputAudioRawFrame):
            assert isinstance(frame.audio, bytes)
            assert frame.audio
            assert not len(frame.audio) % 2
    return frames


def machine(conformance: type[SerializerConformance]) -> type:
    """A hypothesis state machine: a call in any order of events, with garbage between, judged by the strict fake."""

    class CallMachine(RuleBasedStateMachine):
        @initialize()
        def open(self) -> None:
            self.line = conformance().line()
            self.queued = 0.0  # seconds given to the carrier, at most
            self.marks = 0
            self.epoch = 0
            self.garbage = [message for message in GARBAGE if conformance().harmless(message)]

        def live(self) -> bool:
            return hasattr(self, "line") and self.line.carrier.ended_by is None

        @precondition(live)
        @rule(packets=st.integers(1, 4))
        def caller_speaks(self, packets: int) -> None:
            line = self.line
            line.frames.clear()
            for _ in range(packets):
                line.wait(line.carrier.packet_ms / 1000)
                line.say(tone(line.carrier.audio_rate, line.carrier.packet_ms / 1000))
            got = sum(frame.num_frames for frame in line.seen(InputAudioRawFrame))
            assert got == packets * line.carrier.audio_rate * line.carrier.packet_ms // 1000

        @precondition(live)
        @rule(digit=st.sampled_from(conformance.digits))
        def caller_presses(self, digit: str) -> None:
            self.line.frames.clear()
            self.line.press(digit)
            assert [frame.button.value for frame in self.line.seen(InputDTMFFrame)] == [digit]

        @precondition(live)
        @rule(
            milliseconds=st.integers(0, 900),
            odd=st.integers(0, 17),
            rate=st.sampled_from([0, 0, 8000, 16000, 24000]),
        )
        def bot_speaks(self, milliseconds: int, odd: int, rate: int) -> None:
            line = self.line
            rate = rate or line.serializer.send_rate
            pcm = tone(rate, milliseconds / 1000) + bytes(2 * odd)
            line.send(OutputAudioRawFrame(pcm, rate, 1))
            line.wait(milliseconds / 1000 * 0.9)

        @precondition(live)
        @rule()
        def speech_ends(self) -> None:
            self.line.flush()
            self.marks += 1
            self.line.send(MarkFrame(f"m{self.marks}"))

        @precondition(live)
        @rule()
        def interrupt(self) -> None:
            self.line.send(InterruptionFrame())
            self.epoch += 1

        @precondition(live)
        @rule(seconds=st.floats(0.001, 2.0))
        def time_passes(self, seconds: float) -> None:
            self.line.wait(seconds)

        @precondition(live)
        @rule(data=st.data())
        def carrier_talks_nonsense(self, data: st.DataObject) -> None:
            message = data.draw(st.sampled_from(self.garbage))
            if isinstance(message, bytes) and conformance().binary_is_audio():
                return
            frames = decode(self.line.serializer, message)
            assert not any(isinstance(frame, CallStartedFrame) for frame in frames)

        @precondition(live)
        @rule()
        def everything_is_played(self) -> None:
            line = self.line
            line.flush()
            line.wait(12.0)
            assert not line.carrier.playout.playing
            if conformance.marks_come_back and not self.epoch:
                names = [frame.name for frame in line.seen(PlayedFrame)]
                assert names == sorted(set(names), key=lambda name: int(name[1:]))

        @precondition(live)
        @rule()
        def caller_hangs_up(self) -> None:
            self.line.to_gateway(self.line.carrier.hang_up(self.line.now))
            self.line.wait(0.5)
            assert self.line.carrier.ended_by == "caller"

        @rule()
        def late_frames_do_no_harm(self) -> None:
            if not self.live():
                for frame in (InterruptionFrame(), MarkFrame("late"), EndFrame(), CancelFrame()):
                    self.line.serializer.encode(frame)
                self.line.serializer.flush()

        def teardown(self) -> None:
            if hasattr(self, "line"):
                assert not self.line.carrier.violations

    CallMachine.TestCase.settings = settings(
        max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    return CallMachine.TestCase


# ---------------------------------------------------------------- JSON surgery

Path = tuple[Any, ...]


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _paths(inner, (*path, key))


def _with(value: Any, path: Path, new: Any) -> Any:
    changed = copy.deepcopy(value)
    _parent(changed, path)[path[-1]] = new
    return changed


def _without(value: Any, path: Path) -> Any:
    changed = copy.deepcopy(value)
    del _parent(changed, path)[path[-1]]
    return changed


def _parent(value: Any, path: Path) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value
