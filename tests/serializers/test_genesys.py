"""GenesysAudioHookSerializer: every cell of the AudioHook server's state table, the audio, and Pipecat's face."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gateway.simulator.base import Message
from gateway.simulator.genesys import FakeGenesys
from media.call import MediaFormat
from media.codecs import interleave, pcm_to_ulaw, ulaw_to_pcm
from media.errors import RemoteProtocolError
from media.events import DONE
from media.frames import (
    AnswerLaterFrame,
    AudioDiscardedFrame,
    CallBrokenFrame,
    CallEndedFrame,
    CallPausedFrame,
    CallResumedFrame,
    CallStartedFrame,
    CallUpdatedFrame,
    CancelFrame,
    CarrierErrorFrame,
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
    PlaybackCompletedFrame,
    PlaybackStartedFrame,
    RoundTripFrame,
    StartFrame,
    TTSAudioRawFrame,
    UserAudioRawFrame,
)
from serializers.base import Ending, WireOptions
from serializers.genesys import VOICES, AudioHookChannel, AudioHookMediaFormat, GenesysAudioHookSerializer
from tests.serializers.conformance import SerializerConformance, machine

SESSION = "0c9d4e7a-1f36-4c58-9a02-b7e3d5f6a801"
ORGANIZATION = "5b1f0a52-9c3e-4b7a-8d21-6f0c2e9a7b14"
CONVERSATION = "7d1a3c02-5e4f-4b96-8a17-2c0e9d8b6f31"
ZEROS = "00000000-0000-0000-0000-000000000000"
EXTERNAL = {"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}
INTERNAL = {"type": "audio", "format": "PCMU", "channels": ["internal"], "rate": 8000}
STEREO = {"type": "audio", "format": "PCMU", "channels": ["external", "internal"], "rate": 8000}
INVERTED = {"type": "audio", "format": "PCMU", "channels": ["internal", "external"], "rate": 8000}
L16 = {"type": "audio", "format": "L16", "channels": ["external"], "rate": 8000}
OPEN: dict[str, Any] = {
    "organizationId": ORGANIZATION,
    "conversationId": CONVERSATION,
    "participant": {
        "id": "c4b0e8f2-6a1d-4d73-9e55-0f3b7a2c1d48",
        "ani": "+34911234567",
        "aniName": "Ana Ruiz",
        "dnis": "+34900123456",
    },
    "media": [EXTERNAL],
    "language": "es-ES",
    "inputVariables": {"customerId": "C-1077", "queue": "billing"},
}
PCM = b"".join(((n * 97) % 20000 - 10000).to_bytes(2, "little", signed=True) for n in range(1600))  # 200 ms
BARGE_IN = {"entities": [{"type": "barge_in", "data": {}}]}


class Session:
    """The client's and the server's end of one session; what the server says is checked for its numbers."""

    def __init__(self, serializer: GenesysAudioHookSerializer | None = None, **params: Any) -> None:
        self.server = serializer or GenesysAudioHookSerializer(GenesysAudioHookSerializer.InputParams(**params))
        self.seq = self.server_seq = 0
        self.position = "PT0S"
        self.said: list[dict[str, Any]] = []

    def message(self, kind: str, parameters: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        self.seq += 1
        self.seq = changes.get("seq", self.seq)
        return {
            "version": "2",
            "type": kind,
            "id": SESSION,
            "seq": self.seq,
            "serverseq": self.server_seq,
            "position": self.position,
            "parameters": parameters or {},
            **changes,
        }

    def send(self, kind: str, parameters: dict[str, Any] | None = None, **changes: Any) -> list[Frame]:
        return self.send_raw(json.dumps(self.message(kind, parameters, **changes)))

    def send_raw(self, data: str | bytes) -> list[Frame]:
        """Decode, and send the answers as the gateway does: at once. What is left of the frames."""
        left = []
        for frame in self.server.decode(data):
            if isinstance(frame, OutputTransportMessageUrgentFrame):
                assert not left, "answers come first"
                self.hear(self.server.encode(frame))
            else:
                left.append(frame)
        return left

    def push(self, frame: Frame) -> list[bytes]:
        """Encode; gives the binary messages."""
        return self.hear(self.server.encode(frame))

    def push_message(self, message: Any) -> list[bytes]:
        return self.push(OutputTransportMessageUrgentFrame(message))

    def hear(self, messages: Sequence[str | bytes]) -> list[bytes]:
        binary = []
        for data in messages:
            assert len(data) <= 64_000
            if isinstance(data, bytes):
                binary.append(data)
                continue
            message = json.loads(data)
            assert set(message) == {"version", "type", "id", "seq", "clientseq", "parameters"}
            assert message["version"] == "2"
            assert message["id"] == self.server.session_id
            assert message["seq"] == self.server_seq + 1
            assert message["clientseq"] <= self.seq
            assert isinstance(message["parameters"], dict)
            self.server_seq += 1
            self.said.append(message)
        return binary

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.said]

    @property
    def last(self) -> dict[str, Any]:
        return self.said[-1]


def opened(**params: Any) -> Session:
    session = Session(**params)
    session.send("open", OPEN)
    assert session.types == ["opened"]
    return session


def opened_with(media: list[Any], **params: Any) -> tuple[Session, CallStartedFrame]:
    session = Session(**params)
    frames = session.send("open", {**OPEN, "media": media})
    started = frames[0]
    assert isinstance(started, CallStartedFrame)
    return session, started


def paused() -> Session:
    session = opened()
    session.send("paused")
    return session


def disconnecting() -> Session:
    session = opened()
    session.push(EndFrame())
    assert session.types == ["opened", "disconnect"]
    return session


def closed() -> Session:
    session = opened()
    session.send("close", {"reason": "end"})
    assert session.types == ["opened", "closed"]
    return session


def kinds(frames: Sequence[Frame]) -> list[type[Frame]]:
    return [type(frame) for frame in frames]


# ---------------------------------------------------------------- open


def test_open_is_answered_at_once_and_starts_the_call() -> None:
    session = Session()
    frames = session.send("open", OPEN)
    assert session.last == {
        "version": "2",
        "type": "opened",
        "id": SESSION,
        "seq": 1,
        "clientseq": 1,
        "parameters": {"media": [EXTERNAL], "startPaused": False},
    }
    assert kinds(frames) == [CallStartedFrame]
    started = frames[0]
    assert isinstance(started, CallStartedFrame)
    call = started.call
    assert (call.carrier, call.call_id, call.stream_id) == ("genesys", CONVERSATION, SESSION)
    assert (call.account_id, call.from_number, call.to_number) == (ORGANIZATION, "+34911234567", "+34900123456")
    assert call.parameters == {"customerId": "C-1077", "queue": "billing"}
    assert call.language == "es-ES"
    assert (call.receive, call.send) == (MediaFormat("PCMU", 8000), MediaFormat("PCMU", 8000))
    assert call.receives_audio
    assert not call.probe


def test_open_carries_the_rest_in_extra() -> None:
    earlier = [{"id": "1f0c8f3e-0000-4000-8000-000000000001", "clientseq": 42, "serverseq": 39}]
    session = Session()
    started = session.send("open", {**OPEN, "customConfig": {"tier": "gold"}, "continuedSessions": earlier})[0]
    assert isinstance(started, CallStartedFrame)
    assert started.call.extra == {
        "organizationId": ORGANIZATION,
        "participant": OPEN["participant"],
        "customConfig": {"tier": "gold"},
        "continuedSessions": earlier,
        "voices": ["customer"],
    }


@pytest.mark.parametrize(
    ("sent", "seen"),
    [('{"tier": "gold"}', {"tier": "gold"}), ("not json", "not json"), (None, {}), ([1, 2], [1, 2])],
)
def test_custom_config_may_be_an_object_or_its_text(sent: Any, seen: Any) -> None:
    started = Session().send("open", {**OPEN, "customConfig": sent})[0]
    assert isinstance(started, CallStartedFrame)
    assert started.call.extra["customConfig"] == seen


@pytest.mark.parametrize("field", ["language", "inputVariables", "organizationId", "customConfig"])
def test_optional_fields_of_open_may_be_absent(field: str) -> None:
    session = Session()
    frames = session.send("open", {key: value for key, value in OPEN.items() if key != field})
    assert session.types == ["opened"]
    assert kinds(frames) == [CallStartedFrame]


def test_language_falls_back_to_the_selected_one() -> None:
    without = {key: value for key, value in OPEN.items() if key != "language"}
    started = Session(selected_language="fr-FR").send("open", without)[0]
    assert isinstance(started, CallStartedFrame)
    assert started.call.language == "fr-FR"


@pytest.mark.parametrize(
    ("asked", "supported", "told"),
    [
        (True, ["en-US", "es-ES"], ["en-US", "es-ES"]),
        (True, None, []),
        (False, ["en-US"], None),
        (None, ["en-US"], None),
        ("true", ["en-US"], None),
    ],
)
def test_languages_are_told_only_when_asked_and_never_selected(asked: Any, supported: Any, told: Any) -> None:
    session = Session(supported_languages=supported, selected_language="en-US")
    session.send("open", {**OPEN, "supportedLanguages": asked})
    assert session.last["parameters"].get("supportedLanguages") == told
    assert "selectedLanguage" not in session.last["parameters"]


def test_start_paused_holds_the_caller_from_the_start() -> None:
    session = Session(start_paused=True)
    frames = session.send("open", OPEN)
    assert session.last["parameters"]["startPaused"] is True
    assert kinds(frames) == [CallStartedFrame, CallPausedFrame]
    assert session.server.is_paused
    assert session.send_raw(pcm_to_ulaw(PCM)) == []
    assert session.send("paused") == []  # Genesys says it too: no news
    assert kinds(session.send("resumed", {"start": "PT0.2S", "discarded": "PT1S"})) == [CallResumedFrame]
    assert kinds(session.send_raw(pcm_to_ulaw(PCM))) == [InputAudioRawFrame]


def test_a_second_open_means_nothing() -> None:
    session = opened()
    assert session.send("open", OPEN) == []
    assert session.types == ["opened"]


@pytest.mark.parametrize(
    "changes",
    [
        {"conversationId": None},
        {"conversationId": 7},
        {"participant": "Ana"},
        {"participant": None},
        {"media": None},
        {"media": {"type": "audio"}},
        {"inputVariables": ["a"]},
    ],
)
def test_an_open_of_the_wrong_shape_is_refused_in_words(changes: dict[str, Any]) -> None:
    session = Session()
    assert kinds(session.send("open", {**OPEN, **changes})) == [CallBrokenFrame]
    assert session.types == ["disconnect"]
    assert session.last["parameters"]["reason"] == "error"


# ---------------------------------------------------------------- the probe


def test_a_probe_is_answered_like_a_call_and_starts_none() -> None:
    session = Session()
    participant = {"id": ZEROS, "ani": "", "aniName": "", "dnis": ""}
    opening = {"organizationId": ORGANIZATION, "conversationId": ZEROS, "participant": participant, "media": [EXTERNAL]}
    started = session.send("open", opening)[0]
    assert isinstance(started, CallStartedFrame)
    assert started.call.probe
    assert not started.call.receives_audio
    assert session.last["parameters"] == {"media": [], "startPaused": False}
    assert session.push(OutputAudioRawFrame(PCM, 8000, 1)) == []
    assert session.send_raw(b"\xff" * 1600) == []
    assert kinds(session.send("close", {"reason": "end"})) == [CallEndedFrame]
    assert session.types == ["opened", "closed"]
    assert session.last["parameters"] == {}


# ---------------------------------------------------------------- media from the offer


@pytest.mark.parametrize(
    ("offer", "params", "chosen"),
    [
        ([EXTERNAL], {}, EXTERNAL),
        ([STEREO, EXTERNAL, INTERNAL], {}, EXTERNAL),
        ([STEREO, EXTERNAL, INTERNAL], {"channel": "internal"}, INTERNAL),
        ([EXTERNAL, STEREO], {"channel": AudioHookChannel.BOTH}, STEREO),
        ([EXTERNAL, INVERTED], {"channel": AudioHookChannel.BOTH}, INVERTED),
        ([INVERTED], {}, INVERTED),
        ([STEREO], {"channel": "internal"}, STEREO),
        ([INTERNAL], {}, INTERNAL),
        ([L16, EXTERNAL], {}, EXTERNAL),
        ([EXTERNAL, L16], {"media_format": AudioHookMediaFormat.L16}, L16),
        ([L16], {}, L16),
        ([{**EXTERNAL, "rate": 16000}, EXTERNAL], {}, EXTERNAL),
        ([{**EXTERNAL, "format": "OPUS"}, EXTERNAL], {}, EXTERNAL),
        (["nonsense", None, EXTERNAL], {}, EXTERNAL),
        ([{**EXTERNAL, "note": "unchanged"}], {}, {**EXTERNAL, "note": "unchanged"}),
    ],
)
def test_media_is_one_offered_entry_unchanged(offer: list[Any], params: dict[str, Any], chosen: Any) -> None:
    session, _ = opened_with(offer, **params)
    assert session.last["parameters"]["media"] == [chosen]


def test_an_empty_offer_is_accepted_without_audio() -> None:
    session, started = opened_with([])
    assert session.last["parameters"]["media"] == []
    assert not started.call.receives_audio
    assert session.push(OutputAudioRawFrame(PCM, 8000, 1)) == []


@pytest.mark.parametrize(
    "entry",
    [
        {**EXTERNAL, "format": "OPUS"},
        {**EXTERNAL, "rate": 16000},
        {**EXTERNAL, "type": "video"},
        {**EXTERNAL, "channels": []},
        {**EXTERNAL, "channels": ["external", "external"]},
        {**EXTERNAL, "channels": ["left", "right"]},
        {**EXTERNAL, "channels": [["external"]]},
        {**EXTERNAL, "channels": "external"},
        {**EXTERNAL, "format": ["PCMU"]},
        "PCMU",
    ],
)
def test_media_that_nobody_can_decode_is_refused(entry: Any) -> None:
    session = Session()
    assert kinds(session.send("open", {**OPEN, "media": [entry]})) == [CallBrokenFrame]
    assert session.types == ["disconnect"]
    assert session.last["parameters"]["reason"] == "error"


def test_the_constructors_params_are_not_changed_by_an_offer() -> None:
    params = GenesysAudioHookSerializer.InputParams()
    Session(GenesysAudioHookSerializer(params)).send("open", {**OPEN, "media": [STEREO]})
    assert params == GenesysAudioHookSerializer.InputParams()


# ---------------------------------------------------------------- audio in


def test_pcmu_comes_in_decoded_whatever_the_size() -> None:
    session = opened()
    for size in (1, 160, 1600, 63_999):
        frame = session.send_raw(pcm_to_ulaw((PCM * 40)[: 2 * size]))[0]
        assert isinstance(frame, InputAudioRawFrame)
        assert (frame.sample_rate, frame.num_channels) == (8000, 1)
        assert frame.audio == ulaw_to_pcm(pcm_to_ulaw((PCM * 40)[: 2 * size]))
    assert session.send_raw(b"") == []


def test_l16_comes_in_as_it_is() -> None:
    session, started = opened_with([L16])
    assert started.call.receive == MediaFormat("L16", 8000)
    frame = session.send_raw(PCM)[0]
    assert isinstance(frame, InputAudioRawFrame)
    assert frame.audio == PCM
    with pytest.raises(RemoteProtocolError):
        session.server.decode(PCM[:-1])


@pytest.mark.parametrize("entry", [STEREO, INVERTED, {**STEREO, "format": "L16"}, {**INVERTED, "format": "L16"}])
def test_stereo_is_taken_apart_in_the_order_of_the_chosen_entry(entry: dict[str, Any]) -> None:
    customer, agent = PCM, bytes(len(PCM))
    first, second = (customer, agent) if entry["channels"][0] == "external" else (agent, customer)
    wire, width = (first, second), 2
    if entry["format"] == "PCMU":
        wire, width = (pcm_to_ulaw(first), pcm_to_ulaw(second)), 1
    data = interleave(wire, width)
    heard = customer if width == 2 else ulaw_to_pcm(pcm_to_ulaw(customer))

    session, started = opened_with([entry])
    assert started.call.receive.channels == 2
    frame = session.send_raw(data)[0]
    assert isinstance(frame, InputAudioRawFrame)
    assert (frame.num_channels, frame.audio) == (1, heard)

    session, started = opened_with([entry], channel="both", process_internal=True)
    names = [VOICES[channel] for channel in entry["channels"]]
    assert started.call.extra["voices"] == names
    frames = session.send_raw(data)
    assert kinds(frames) == [UserAudioRawFrame, UserAudioRawFrame]
    by_voice = {frame.user_id: frame.audio for frame in frames if isinstance(frame, UserAudioRawFrame)}
    assert list(by_voice) == names
    assert by_voice["customer"] == heard
    assert not any(by_voice["agent"])

    session, _ = opened_with([entry], channel="both", process_external=False, process_internal=True)
    frame = session.send_raw(data)[0]
    assert isinstance(frame, InputAudioRawFrame)
    assert not any(frame.audio)


def test_half_a_stereo_sample_is_an_error_of_that_message_only() -> None:
    session, _ = opened_with([STEREO])
    with pytest.raises(RemoteProtocolError, match="bytes"):
        session.server.decode(b"\xff" * 1601)
    assert kinds(session.send_raw(b"\xff" * 1600)) == [InputAudioRawFrame]


def test_audio_comes_in_at_the_pipelines_rate() -> None:
    session = opened()
    session.server.begin(16000)
    frame = session.send_raw(pcm_to_ulaw(PCM))[0]
    assert isinstance(frame, InputAudioRawFrame)
    assert (frame.sample_rate, len(frame.audio)) == (16000, 2 * len(PCM))


def test_both_channels_come_in_at_the_pipelines_rate_without_mixing_their_histories() -> None:
    session, _ = opened_with([STEREO], channel="both", process_internal=True)
    session.server.begin(16000)
    data = interleave((pcm_to_ulaw(PCM), b"\xff" * 1600), 1)
    for _ in range(3):
        external, internal = session.send_raw(data)
        assert isinstance(external, UserAudioRawFrame)
        assert isinstance(internal, UserAudioRawFrame)
        assert external.sample_rate == internal.sample_rate == 16000
        assert any(external.audio)
        assert not any(internal.audio)


def test_audio_before_open_breaks_the_session() -> None:
    session = Session()
    assert kinds(session.send_raw(b"\xff" * 160)) == [CallBrokenFrame]
    assert session.types == ["disconnect"]


def test_audio_before_opened_has_left_is_dropped() -> None:
    session = Session()
    answer = session.server.decode(json.dumps(session.message("open", OPEN)))[0]
    assert session.server.decode(b"\xff" * 1600) == ()
    assert session.push(OutputAudioRawFrame(PCM, 8000, 1)) == []
    session.push(answer)
    assert kinds(session.send_raw(b"\xff" * 1600)) == [InputAudioRawFrame]
    assert len(session.push(OutputAudioRawFrame(PCM, 8000, 1))) == 1


@pytest.mark.parametrize("state", [paused, disconnecting, closed])
def test_audio_on_its_way_is_dropped_after_a_pause_or_an_end(state: Any) -> None:
    session = state()
    assert session.send_raw(b"\xff" * 1600) == []
    assert session.server.session.position == 1600


# ---------------------------------------------------------------- audio out


def test_packets_are_1600_bytes_of_pcmu() -> None:
    session = opened()
    assert session.server.packet_ms == 200
    assert session.server.send_rate == 8000
    (packet,) = session.push(OutputAudioRawFrame(PCM, 8000, 1))
    assert packet == pcm_to_ulaw(PCM)
    assert len(packet) == 1600


def test_a_short_rest_goes_out_as_it_is() -> None:
    session = opened()
    assert session.push(TTSAudioRawFrame(PCM[:222], 8000, 1)) == [pcm_to_ulaw(PCM[:222])]
    assert session.server.flush() == ()


def test_long_audio_is_cut_at_the_limit_and_nothing_is_lost() -> None:
    session = opened()
    pcm = PCM * 125  # 25 s
    messages = session.push(OutputAudioRawFrame(pcm, 8000, 1))
    assert [len(message) for message in messages] == [64_000, 64_000, 64_000, 8_000]
    assert b"".join(messages) == pcm_to_ulaw(pcm)


def test_l16_goes_out_where_it_was_chosen() -> None:
    session, _ = opened_with([L16])
    assert session.push(OutputAudioRawFrame(PCM, 8000, 1)) == [PCM]
    messages = session.push(OutputAudioRawFrame(PCM * 40, 8000, 1))
    assert [len(message) for message in messages] == [64_000, 64_000]


def test_the_last_samples_of_resampled_audio_leave_with_flush() -> None:
    session = opened()
    sent = b"".join(session.push(OutputAudioRawFrame(PCM * 2, 16000, 1)))
    sent += b"".join(session.hear(session.server.flush()))
    assert len(PCM) // 2 <= len(sent) <= len(PCM) // 2 + 40


def test_an_interruption_takes_the_resamplers_rest_with_it() -> None:
    session = opened()
    session.push(OutputAudioRawFrame(PCM, 16000, 1))
    session.push(InterruptionFrame())
    assert session.server.flush() == ()
    (silence,) = session.push(OutputAudioRawFrame(bytes(640), 16000, 1))
    assert set(silence) <= {0xFF, 0x7F}


def test_audio_goes_out_while_the_caller_is_held() -> None:
    assert len(paused().push(OutputAudioRawFrame(PCM, 8000, 1))) == 1


@pytest.mark.parametrize("state", [Session, disconnecting, closed])
def test_no_audio_goes_out_before_opened_or_after_the_end(state: Any) -> None:
    session = state()
    assert session.push(OutputAudioRawFrame(PCM, 8000, 1)) == []
    assert session.push(OutputAudioRawFrame(PCM, 16000, 1)) == []
    assert session.server.flush() == ()


@pytest.mark.parametrize(
    ("media", "monitor", "hears"),
    [
        ([EXTERNAL], None, True),
        ([EXTERNAL, INTERNAL], None, False),
        ([STEREO], None, False),
        ([EXTERNAL], True, False),
        ([STEREO, EXTERNAL], False, True),
    ],
)
def test_a_monitor_never_hears_us(media: list[Any], monitor: bool | None, hears: bool) -> None:
    session, started = opened_with(media, monitor=monitor)
    assert started.call.receives_audio is hears
    assert bool(session.push(OutputAudioRawFrame(PCM, 8000, 1))) is hears
    session.push(InterruptionFrame())
    assert session.types == (["opened", "event"] if hears else ["opened"])


# ---------------------------------------------------------------- interruption


def test_an_interruption_is_a_barge_in_event() -> None:
    session = opened()
    assert session.push(InterruptionFrame()) == []
    assert (session.last["type"], session.last["parameters"]) == ("event", BARGE_IN)


@pytest.mark.parametrize(("state", "said"), [(Session, 0), (disconnecting, 2), (closed, 2)])
def test_an_interruption_says_nothing_before_opened_or_after_the_end(state: Any, said: int) -> None:
    session = state()
    assert session.push(InterruptionFrame()) == []
    assert len(session.said) == said


# ---------------------------------------------------------------- ping


@pytest.mark.parametrize("state", [Session, opened, paused, disconnecting])
def test_every_ping_gets_its_pong_at_once(state: Any) -> None:
    session = state()
    for parameters in ({}, {"rtt": "PT0.0213S"}, {"rtt": "soon"}):
        frames = session.send("ping", parameters)
        assert [frame.seconds for frame in frames if isinstance(frame, RoundTripFrame)] == (
            [0.0213] if parameters.get("rtt", "")[:2] == "PT" else []
        )
        assert (session.last["type"], session.last["parameters"]) == ("pong", {})
        assert session.last["clientseq"] == session.seq


def test_a_pong_names_its_ping_though_more_has_come() -> None:
    session = opened()
    pong = session.server.decode(json.dumps(session.message("ping")))[0]
    ping_seq = session.seq
    session.send("dtmf", {"digit": "1"})
    session.push(pong)
    assert session.last["clientseq"] == ping_seq
    session.push(InterruptionFrame())
    assert session.last["clientseq"] == session.seq


def test_a_ping_after_closed_is_not_answered() -> None:
    session = closed()
    assert session.send("ping") == []
    assert session.types == ["opened", "closed"]


# ---------------------------------------------------------------- digits, playback, update


@pytest.mark.parametrize("digit", "0123456789*#ABCDabcd")
def test_digits(digit: str) -> None:
    frame = opened().send("dtmf", {"digit": digit})[0]
    assert isinstance(frame, InputDTMFFrame)
    assert frame.button is KeypadEntry(digit.upper())


@pytest.mark.parametrize("digit", ["", "12", "X", "١"])
def test_a_key_that_no_telephone_has_is_counted_and_dropped(digit: str) -> None:
    session = opened()
    assert session.send("dtmf", {"digit": digit}) == []
    assert session.server.dropped_digits == 1


@pytest.mark.parametrize("digit", [5, None, ["5"], {}, True])
def test_a_digit_that_is_no_text_is_an_error_of_that_message_only(digit: Any) -> None:
    session = opened()
    with pytest.raises(RemoteProtocolError) as caught:
        session.send("dtmf", {"digit": digit})
    assert "digit" in caught.value.problem
    assert caught.value.excerpt.startswith("keys ")
    assert kinds(session.send("dtmf", {"digit": "5"})) == [InputDTMFFrame]


def test_digits_are_not_sent_as_messages() -> None:
    session = opened()
    assert not session.server.sends_digits
    assert session.push(OutputDTMFFrame(KeypadEntry.ONE)) == []
    assert session.types == ["opened"]


def test_playback_events_stand_for_marks() -> None:
    session = opened()
    assert not session.server.has_marks
    assert session.push(MarkFrame("m1")) == []
    assert kinds(session.send("playback_started")) == [PlaybackStartedFrame]
    assert kinds(session.send("playback_completed")) == [PlaybackCompletedFrame]
    session.push(EndFrame())
    assert kinds(session.send("playback_completed")) == [PlaybackCompletedFrame]


def test_update_changes_the_language() -> None:
    session = opened()
    (frame,) = session.send("update", {"language": "en-US"})
    assert isinstance(frame, CallUpdatedFrame)
    assert frame.language == "en-US"
    assert (session.last["type"], session.last["parameters"]) == ("updated", {})


@pytest.mark.parametrize("parameters", [{}, {"language": 7}, {"language": ""}])
def test_update_without_a_language_is_answered_all_the_same(parameters: dict[str, Any]) -> None:
    session = opened()
    assert session.send("update", parameters) == []
    assert session.types == ["opened", "updated"]


@pytest.mark.parametrize("kind", ["update", "dtmf", "paused", "resumed", "discarded", "playback_started"])
@pytest.mark.parametrize("state", [Session, closed])
def test_nothing_but_ping_error_and_close_means_anything_before_open_or_after_close(state: Any, kind: str) -> None:
    session = state()
    before = len(session.said)
    parameters = {"language": "en-US", "digit": "1", "start": "PT0S", "discarded": "PT1S"}
    assert session.send(kind, parameters) == []
    assert len(session.said) == before
    assert session.server.session.position == 0


@pytest.mark.parametrize("kind", ["update", "dtmf", "paused", "discarded"])
def test_what_needs_a_running_call_means_nothing_while_disconnecting(kind: str) -> None:
    session = disconnecting()
    assert session.send(kind, {"digit": "1", "start": "PT0S", "discarded": "PT1S"}) == []
    assert session.types == ["opened", "disconnect"]


@pytest.mark.parametrize("kind", ["transcript", "pause", "x" * 5000, "media", "opened"])
@pytest.mark.parametrize("state", [Session, opened, paused, disconnecting])
def test_an_unknown_type_is_ignored(state: Any, kind: str) -> None:
    session = state()
    before = len(session.said)
    assert session.send(kind, {"anything": [1, {}]}) == []
    assert session.send("ping") == []
    assert session.types[before:] == ["pong"]


# ---------------------------------------------------------------- pause, position


def test_pause_and_resume() -> None:
    session = opened()
    assert kinds(session.send("paused")) == [CallPausedFrame]
    assert session.server.is_paused
    assert session.send("paused") == []
    (frame,) = session.send("resumed", {"start": "PT0S", "discarded": "PT2.5S"})
    assert isinstance(frame, CallResumedFrame)
    assert frame.discarded_s == 2.5
    assert not session.server.is_paused
    assert session.server.session.position == 20_000


def test_resumed_resumes_whatever_else_it_lacks() -> None:
    session = paused()
    assert kinds(session.send("resumed", {"discarded": "soon"})) == [CallResumedFrame]
    assert not session.server.is_paused
    assert session.server.session.position == 0


def test_discarded_audio_is_told_and_counted() -> None:
    session = opened()
    (frame,) = session.send("discarded", {"start": "PT6.3S", "discarded": "PT0.3S"})
    assert isinstance(frame, AudioDiscardedFrame)
    assert (frame.start_s, frame.duration_s) == (6.3, 0.3)
    assert session.server.session.position == 2400


@pytest.mark.parametrize("bad", [{}, {"start": "PT1S"}, {"start": "PT1S", "discarded": "1s"}, {"start": 1}])
def test_discarded_without_its_times_is_an_error_of_that_message_only(bad: dict[str, Any]) -> None:
    session = opened()
    with pytest.raises(RemoteProtocolError):
        session.send("discarded", bad)
    assert session.send("ping") == []
    assert session.types == ["opened", "pong"]


def test_the_position_is_exact_to_the_sample_over_hours() -> None:
    """8 hours of audio in odd pieces with 1,000 pauses and discards of odd lengths."""
    session = opened()
    position, pieces = 0, 8 * 3600 * 5 // 1000
    for n in range(1000):
        for k in range(pieces):
            size = 1 + (n * 7919 + k * 104_729) % 3200
            session.server.decode(b"\xff" * size)
            position += size
        gone = 1 + (n * 15_485_863) % 80_000
        start, lost = f"PT{position / 8000:.6f}S", f"PT{gone // 8000}.{gone % 8000 * 125:06d}S"
        session.position = lost  # of no importance here
        if n % 2:
            session.send("discarded", {"start": start, "discarded": lost})
        else:
            session.send("paused")
            session.send("resumed", {"start": start, "discarded": lost})
        position += gone
    assert session.server.session.position == position


def test_the_clients_own_position_is_kept_for_comparison() -> None:
    session = opened()
    session.send_raw(b"\xff" * 1600)
    session.position = "PT0.2S"
    session.send("ping")
    assert session.server.session.client_position == session.server.session.position == 1600


def test_a_session_that_continues_another_starts_at_its_position() -> None:
    session = Session()
    session.position = "PT12.5S"
    session.send("open", OPEN)
    session.send_raw(b"\xff" * 800)
    assert session.server.session.position == 100_800


# ---------------------------------------------------------------- errors of the client


def test_a_429_says_when_to_go_on() -> None:
    session = opened()
    (frame,) = session.send("error", {"code": 429, "message": "rate limit", "retryAfter": "PT3S"})
    assert isinstance(frame, CarrierErrorFrame)
    assert (frame.code, frame.message, frame.retry_after_s) == ("429", "rate limit", 3.0)
    assert session.types == ["opened"], "an error is never answered"


@pytest.mark.parametrize("parameters", [{}, {"code": None}, {"code": "503", "retryAfter": "soon"}, {"message": 5}])
@pytest.mark.parametrize("state", [Session, opened, paused, disconnecting])
def test_an_odd_error_is_told_and_never_answered(state: Any, parameters: dict[str, Any]) -> None:
    session = state()
    before = len(session.said)
    assert kinds(session.send("error", parameters)) == [CarrierErrorFrame]
    assert len(session.said) == before


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("word", "ours"),
    [("end", "caller"), ("error", "error"), ("disconnect", "carrier"), ("reconnect", "reconnect"), ("new", "carrier")],
)
def test_close_is_answered_by_closed(word: str, ours: str) -> None:
    session = opened()
    (frame,) = session.send("close", {"reason": word})
    assert isinstance(frame, CallEndedFrame)
    assert (frame.reason, frame.detail) == (ours, word)
    assert (session.last["type"], session.last["parameters"]) == ("closed", {})
    assert not session.server.is_open


@pytest.mark.parametrize("state", [Session, paused, disconnecting])
def test_close_is_answered_in_every_state(state: Any) -> None:
    session = state()
    assert kinds(session.send("close", {"reason": "end"})) == [CallEndedFrame]
    assert session.types[-1] == "closed"


def test_a_second_close_means_nothing() -> None:
    session = closed()
    assert session.send("close", {"reason": "end"}) == []
    assert session.types == ["opened", "closed"]


@pytest.mark.parametrize("frame", [EndFrame(), CancelFrame(), EndFrame("completed"), EndFrame("caller is happy")])
def test_the_bots_end_is_one_disconnect(frame: Frame) -> None:
    session = opened()
    session.push(frame)
    assert (session.last["type"], session.last["parameters"]) == ("disconnect", {"reason": "completed"})
    session.push(EndFrame())
    session.push(CancelFrame())
    assert session.types == ["opened", "disconnect"]


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("error", "error"),
        ("error: the model failed", "error"),
        ("no-bot", "error"),
        ("shutdown", "error"),
        ("carrier-silent", "error"),
        ("unauthorized", "unauthorized"),
        ("transfer-unavailable", "completed"),
        (ValueError("x"), "completed"),
    ],
)
def test_why_the_gateway_ends_decides_architects_path(reason: Any, said: str) -> None:
    session = opened()
    session.push(EndFrame(reason))
    assert session.last["parameters"] == {"reason": said}


def test_an_end_before_open_is_said_where_the_session_is_known() -> None:
    unknown = Session()
    unknown.push(EndFrame())
    assert unknown.said == []
    known = Session(GenesysAudioHookSerializer.for_call(WireOptions(options={"session_id": SESSION})))
    known.push(EndFrame("error"))
    assert known.types == ["disconnect"]


def test_nothing_is_said_after_closed() -> None:
    session = closed()
    session.push(EndFrame())
    session.push(CancelFrame("error"))
    session.push_message(session.server.create_disconnect_message())
    session.push_message(session.server.create_barge_in_event())
    session.push_message(session.server.create_closed_response())
    assert session.types == ["opened", "closed"]


def test_events_may_follow_close_until_closed_leaves() -> None:
    session = opened()
    answer = session.server.decode(json.dumps(session.message("close", {"reason": "end"})))[0]
    session.push_message({"version": "2", "type": "event", "parameters": BARGE_IN})
    session.push_message(session.server.create_resumed_response())
    session.push(answer)
    assert session.types == ["opened", "event", "closed"]


# ---------------------------------------------------------------- variables


def test_output_variables_leave_with_disconnect_and_closed_as_text() -> None:
    session = opened()
    session.server.set_output_variables(
        {
            "intent": "billing",
            "verified": True,
            "refused": False,
            "count": 3,
            "score": 0.95,
            "tiny": 1e-7,
            "nothing": None,
            "nan": float("nan"),
            "nested": {"a": [1, "ñ"]},
            "channel": AudioHookChannel.BOTH,
            7: "seven",
        }
    )
    session.push(EndFrame())
    texts = {
        "intent": "billing",
        "verified": "true",
        "refused": "false",
        "count": "3",
        "score": "0.95",
        "tiny": "0.0000001",
        "nested": '{"a":[1,"ñ"]}',
        "channel": "both",
        "7": "seven",
    }
    assert session.last["parameters"] == {"reason": "completed", "outputVariables": texts}
    session.send("close", {"reason": "disconnect"})
    assert session.last["parameters"] == {"outputVariables": texts}


def test_variables_are_read_when_the_message_leaves() -> None:
    variables: dict[str, Any] = {}
    session = opened()
    session.server.set_output_variables(variables)
    answer = session.server.decode(json.dumps(session.message("close", {"reason": "end"})))[0]
    variables["late"] = 1
    session.push(answer)
    assert session.last["parameters"] == {"outputVariables": {"late": "1"}}


def test_setting_variables_replaces_those_set_before() -> None:
    session = opened()
    assert session.server.output_variables is None
    session.server.set_output_variables({"first": "1"})
    session.server.set_output_variables({"second": "2"})
    assert session.server.output_variables == {"second": "2"}
    session.push(EndFrame())
    assert session.last["parameters"]["outputVariables"] == {"second": "2"}


def test_variables_that_are_too_long_are_cut_longest_last() -> None:
    session = opened()
    long = {"summary": "sí " * 100_000, "intent": "billing", "notes": "n" * 30_000, "verified": True}
    session.server.set_output_variables(long)
    session.push(EndFrame())
    sent = session.last["parameters"]["outputVariables"]
    assert (sent["intent"], sent["verified"], sent["notes"]) == ("billing", "true", long["notes"])
    assert str(long["summary"]).startswith(sent["summary"])
    assert len(json.dumps(session.last, separators=(",", ":"))) > 62_000
    assert list(sent) == list(long)


def test_too_many_variables_still_end_the_session() -> None:
    session = opened()
    session.server.set_output_variables({f"variable-{n}": n for n in range(10_000)})
    session.push(EndFrame())
    assert session.types == ["opened", "disconnect"]
    assert 1000 < len(session.last["parameters"]["outputVariables"]) < 10_000


def test_variables_without_a_text_are_left_out() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    session = opened()
    session.server.set_output_variables({"cycle": cycle, "huge": 10**5000, "set": {1}, "ok": "yes"})
    session.push(EndFrame())
    assert session.last["parameters"]["outputVariables"] == {"set": '"{1}"', "ok": "yes"}


# ---------------------------------------------------------------- what breaks the protocol


BREAKS = {
    "seq ahead": {"seq": 99},
    "seq behind": {"seq": 1},
    "seq no number": {"seq": "2"},
    "seq true": {"seq": True},
    "foreign id": {"id": CONVERSATION},
    "empty id": {"id": ""},
    "version": {"version": "1"},
    "version as number": {"version": 2},
    "type": {"type": None},
    "serverseq ahead": {"serverseq": 50},
    "serverseq negative": {"serverseq": -1},
    "serverseq missing": {"serverseq": None},
    "parameters null": {"parameters": None},
    "parameters list": {"parameters": []},
    "position": {"position": "12.4"},
    "position missing": {"position": None},
    "position word": {"position": "PTxS"},
    "position exponent": {"position": "PT1e3S"},
    "position endless": {"position": "PT" + "9" * 5000 + "S"},
}
TEXTS = ["", "no json", "[]", '"text"', "null", "17", "{}", "[" * 100_000, '{"version":"2"', "\ud800", "NaN"]


@pytest.mark.parametrize("changes", BREAKS.values(), ids=BREAKS)
@pytest.mark.parametrize("state", [opened, paused])
def test_a_broken_envelope_ends_the_session_by_one_disconnect(state: Any, changes: dict[str, Any]) -> None:
    session = state()
    message = {**session.message("ping"), **changes}
    session.seq = max(session.seq, 99)
    frames = session.send_raw(json.dumps(message))
    assert kinds(frames) == [CallBrokenFrame]
    assert isinstance(frames[0], CallBrokenFrame)
    assert frames[0].problem
    assert session.types == ["opened", "disconnect"]
    assert session.last["parameters"]["reason"] == "error"
    session.push(EndFrame())
    assert session.send_raw("no json") == []
    assert session.types == ["opened", "disconnect"]
    # Whatever number the client goes on with, its close is answered.
    assert kinds(session.send("close", {"reason": "disconnect"}, seq=777)) == [CallEndedFrame]
    assert session.types == ["opened", "disconnect", "closed"]


@pytest.mark.parametrize("data", TEXTS, ids=[text[:12] for text in TEXTS])
@pytest.mark.parametrize("state", [Session, opened, paused, disconnecting, closed])
def test_text_that_is_no_message_ends_the_session_if_it_still_runs(state: Any, data: str) -> None:
    session = state()
    before = session.types
    frames = session.send_raw(data)
    if state in (disconnecting, closed):
        assert (frames, session.types) == ([], before)
    else:
        assert kinds(frames) == [CallBrokenFrame]
        assert session.types == [*before, "disconnect"]


def test_the_headers_of_the_upgrade_bind_the_session() -> None:
    options = {"session_id": SESSION, "organization_id": ORGANIZATION, "supported_languages": ["en-US"]}
    session = Session(GenesysAudioHookSerializer.for_call(WireOptions(in_sample_rate=16000, options=options)))
    assert session.server.session_id == SESSION
    frames = session.send("open", {**OPEN, "supportedLanguages": True})
    assert kinds(frames) == [CallStartedFrame]
    assert session.last["parameters"]["supportedLanguages"] == ["en-US"]
    frame = session.send_raw(b"\xff" * 1600)[0]
    assert isinstance(frame, InputAudioRawFrame)
    assert frame.sample_rate == 16000

    session = Session(GenesysAudioHookSerializer.for_call(WireOptions(options=options)))
    session.send("open", OPEN, id=CONVERSATION)
    assert session.last["parameters"]["reason"] == "error"

    session = Session(GenesysAudioHookSerializer.for_call(WireOptions(options=options)))
    session.send("open", {**OPEN, "organizationId": ZEROS})
    assert session.last["parameters"] == {"reason": "unauthorized"}  # and no word about why


def test_a_monitors_two_channels_reach_the_pipeline() -> None:
    session = Session(GenesysAudioHookSerializer.for_call(WireOptions(options={"monitor": True})))
    started = session.send("open", {**OPEN, "media": [EXTERNAL, INVERTED, INTERNAL]})[0]
    assert isinstance(started, CallStartedFrame)
    assert session.last["parameters"]["media"] == [INVERTED]
    assert kinds(session.send_raw(b"\xff" * 3200)) == [UserAudioRawFrame, UserAudioRawFrame]


# ---------------------------------------------------------------- messages of the application


def test_pipecats_dictionaries() -> None:
    serializer = opened().server
    serializer.session.position = 1000
    assert serializer.create_pong_response() == {
        "version": "2",
        "type": "pong",
        "id": SESSION,
        "seq": 2,
        "clientseq": 1,
        "position": "PT0.125S",
        "parameters": {},
    }
    assert serializer.create_barge_in_event()["parameters"] == BARGE_IN
    assert serializer.create_disconnect_message()["parameters"] == {
        "reason": "completed",
        "outputVariables": {"action": "transfer"},
    }
    assert serializer.create_disconnect_message("error", "finished", {"ok": True}, "log this")["parameters"] == {
        "reason": "error",
        "outputVariables": {"action": "finished", "ok": True},
        "info": "log this",
    }
    assert serializer.create_error_message(500, "Internal error", retryable=True)["parameters"] == {
        "code": 500,
        "message": "Internal error",
        "retryable": True,
    }
    assert serializer.create_closed_response()["parameters"] == {}
    assert serializer.create_closed_response({"a": True})["parameters"] == {"outputVariables": {"a": True}}
    assert serializer.create_resumed_response()["type"] == "resumed"


def test_opened_before_open_is_made_of_the_params() -> None:
    serializer = GenesysAudioHookSerializer(GenesysAudioHookSerializer.InputParams(channel=AudioHookChannel.BOTH))
    assert serializer.create_opened_response(True, ["es"], "es") == {
        "version": "2",
        "type": "opened",
        "id": serializer.session_id,
        "seq": 1,
        "clientseq": 0,
        "parameters": {
            "startPaused": True,
            "media": [{"type": "audio", "format": "PCMU", "channels": ["external", "internal"], "rate": 8000}],
            "supportedLanguages": ["es"],
            "selectedLanguage": "es",
        },
    }


def test_numbers_are_given_in_the_order_of_sending() -> None:
    session = opened()
    drafts = [session.server.create_barge_in_event() for _ in range(3)]
    assert [draft["seq"] for draft in drafts] == [2, 3, 4]
    for draft in reversed(drafts):
        session.push_message(draft)  # `hear` checks the numbers
    assert session.types == ["opened", "event", "event", "event"]


@pytest.mark.parametrize("frame", [OutputTransportMessageFrame, OutputTransportMessageUrgentFrame])
def test_an_applications_disconnect_ends_the_session(frame: Any) -> None:
    session = opened()
    session.server.set_output_variables({"summary": "short", "intent": "open"})
    message = session.server.create_disconnect_message(
        reason="completed", action="transfer", output_variables={"intent": "resolved"}
    )
    session.push(frame(message))
    expected = {"summary": "short", "intent": "resolved", "action": "transfer"}
    assert session.last["parameters"] == {"reason": "completed", "outputVariables": expected}
    session.push(EndFrame())
    session.push_message(message)
    assert session.types == ["opened", "disconnect"]
    session.send("close", {"reason": "disconnect"})
    assert session.last["parameters"]["outputVariables"]["action"] == "transfer"


def test_resumed_and_error_leave_as_what_servers_say() -> None:
    session = opened()
    session.push_message(session.server.create_resumed_response())
    assert (session.last["type"], session.last["parameters"]) == ("resume", {})
    session.push_message({"version": "2", "type": "pause", "parameters": {}})
    assert session.last["type"] == "pause"
    session.push_message(session.server.create_error_message(500, "no model"))
    assert session.last["type"] == "disconnect"
    assert session.last["parameters"] == {"reason": "error", "info": "no model"}


def test_a_hand_made_opened_is_held_to_the_offer() -> None:
    session = Session()
    session.server.decode(json.dumps(session.message("open", {**OPEN, "media": [INVERTED]})))
    message = session.server.create_opened_response(supported_languages=["es"], selected_language="es")
    session.push_message({**message, "parameters": {**message["parameters"], "media": [STEREO], "discardTo": "PT2S"}})
    assert session.last["parameters"] == {"media": [INVERTED], "startPaused": False, "discardTo": "PT2S"}
    session.push_message(message)
    assert session.types == ["opened"]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "event", "parameters": BARGE_IN},
        {"label": "rtvi-ai", "version": "2", "type": "event", "parameters": BARGE_IN},
        {"version": "2", "type": "event", "parameters": {"entities": []}},
        {"version": "2", "type": "event", "parameters": {"entities": "none"}},
        {"version": "2", "type": "event", "parameters": {}},
        {"version": "2", "type": "event", "parameters": {"entities": [{"data": "x" * 64_000}]}},
        {"version": "2", "type": "event", "parameters": {"entities": [{"data": {1, 2}}]}},
        {"version": "2", "type": "event", "parameters": {"entities": [float("nan")]}},
        {"version": "2", "type": "event", "parameters": ["entities"]},
        {"version": "2", "type": "pong", "parameters": {}},
        {"version": "2", "type": "updated", "parameters": {}},
        {"version": "2", "type": "closed", "parameters": {}},
        {"version": "2", "type": "opened", "parameters": {}},
        {"version": "2", "type": "paused", "parameters": {}},
        {"version": "2", "type": "unheard-of", "parameters": {}},
        {"version": "2", "type": ["event"], "parameters": {}},
        {"version": "2"},
        "text",
        None,
        [1],
    ],
)
def test_what_the_client_would_reject_never_leaves(message: Any) -> None:
    session = opened()
    session.push_message(message)
    assert session.types == ["opened"]
    session.push(InterruptionFrame())
    assert session.types == ["opened", "event"]


@pytest.mark.parametrize("reason", ["finished", None, ["completed"], 7])
def test_an_unknown_reason_becomes_completed(reason: Any) -> None:
    session = opened()
    session.push_message({"version": "2", "type": "disconnect", "parameters": {"reason": reason}})
    assert session.last["parameters"] == {"reason": "completed"}


def test_frames_that_mean_nothing_to_genesys() -> None:
    session = opened()
    for frame in (StartFrame(), InputAudioRawFrame(PCM, 8000, 1), PlaybackStartedFrame()):
        assert session.push(frame) == []
    assert session.types == ["opened"]


# ---------------------------------------------------------------- events


def test_events_carry_the_message_and_come_before_the_answer() -> None:
    session = Session()
    told: list[tuple[str, str, int]] = []
    for name in ("on_open", "on_close", "on_ping", "on_pause", "on_update", "on_error", "on_dtmf"):

        def handler(serializer: GenesysAudioHookSerializer, message: dict[str, Any], name: str = name) -> None:
            told.append((name, message["type"], len(session.said)))
            if name == "on_close":
                serializer.set_output_variables({"set_in": name})

        session.server.add_event_handler(name, handler)
    session.send("open", OPEN)
    session.send("ping")
    session.send("paused")
    session.send("update", {"language": "en-US"})
    session.send("error", {"code": 500})
    session.send("dtmf", {"digit": "5"})
    session.send("close", {"reason": "end"})
    assert told == [
        ("on_open", "open", 0),
        ("on_ping", "ping", 1),
        ("on_pause", "paused", 2),
        ("on_update", "update", 2),
        ("on_error", "error", 3),
        ("on_dtmf", "dtmf", 3),
        ("on_close", "close", 3),
    ]
    assert session.last["parameters"] == {"outputVariables": {"set_in": "on_close"}}


def test_async_handlers_run_to_their_first_wait_before_the_answer() -> None:
    session = Session()

    @session.server.event_handler("on_open")
    async def on_open(serializer: GenesysAudioHookSerializer, message: dict[str, Any]) -> None:
        serializer.set_output_variables({"seen": serializer.conversation_id})

    @session.server.event_handler("on_close")
    async def on_close(serializer: GenesysAudioHookSerializer, message: dict[str, Any]) -> None:
        serializer.set_output_variables({**(serializer.output_variables or {}), "closing": True})

    session.send("open", OPEN)
    session.send("close", {"reason": "end"})
    assert session.last["parameters"] == {"outputVariables": {"seen": CONVERSATION, "closing": "true"}}


class Runtime:
    """The part of a pipeline's runtime that handlers need, on asyncio."""

    def spawn(self, coro: Any, name: str) -> asyncio.Task[Any]:
        return asyncio.ensure_future(coro)

    def drive(self, coro: Any, name: str) -> asyncio.Task[Any] | None:
        return self.spawn(coro, name)

    async def settle(self, handles: Any) -> None:
        await asyncio.gather(*handles)


def test_closed_waits_for_a_handler_that_waits() -> None:
    asyncio.run(closed_waits_for_a_handler_that_waits())


async def closed_waits_for_a_handler_that_waits() -> None:
    session = opened()
    session.server._base.drives = Runtime()
    ready = asyncio.Event()

    @session.server.event_handler("on_close")
    async def on_close(serializer: GenesysAudioHookSerializer, message: dict[str, Any]) -> None:
        await ready.wait()
        serializer.set_output_variables({"asked": "the database"})

    (later,) = session.send("close", {"reason": "end"})
    assert isinstance(later, AnswerLaterFrame)
    assert later.limit_s == 3.0
    assert session.types == ["opened"]
    ready.set()
    await later.waiting
    answer, ended = later.make()
    assert isinstance(ended, CallEndedFrame)
    session.push(answer)
    assert session.last["parameters"] == {"outputVariables": {"asked": "the database"}}


def test_a_handler_that_fails_does_not_cost_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    session = Session()

    @session.server.event_handler("on_open")
    def on_open(serializer: GenesysAudioHookSerializer, message: dict[str, Any]) -> None:
        raise RuntimeError("broken")

    session.send("open", OPEN)
    assert session.types == ["opened"]
    assert "on_open" in caplog.text


# ---------------------------------------------------------------- Pipecat's face


def test_constructor_and_properties_before_open() -> None:
    serializer = GenesysAudioHookSerializer()
    assert len(serializer.session_id) == 36
    assert (serializer.is_open, serializer.is_paused) == (False, False)
    assert serializer.conversation_id is serializer.participant is serializer.input_variables is None
    assert serializer.PROTOCOL_VERSION == "2"
    params = GenesysAudioHookSerializer.InputParams()
    assert (params.genesys_sample_rate, params.sample_rate, params.channel) == (8000, None, "external")
    assert (params.media_format, params.process_external, params.process_internal) == ("PCMU", True, False)
    assert (params.supported_languages, params.selected_language, params.start_paused) == (None, None, False)
    assert params.ignore_rtvi_messages


@pytest.mark.parametrize("params", [{"channel": "left"}, {"media_format": "OPUS"}])
def test_params_that_audiohook_does_not_have_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        GenesysAudioHookSerializer(GenesysAudioHookSerializer.InputParams(**params))


def test_what_the_gateway_reads_of_the_class() -> None:
    assert GenesysAudioHookSerializer.ending is Ending.MESSAGE
    assert GenesysAudioHookSerializer.end_wait_s == 15.0
    assert GenesysAudioHookSerializer.lead_ms == 600
    assert not GenesysAudioHookSerializer.close_is_normal_end


def test_serialize_and_deserialize() -> None:
    asyncio.run(serialize_and_deserialize())


async def serialize_and_deserialize() -> None:
    serializer = GenesysAudioHookSerializer()
    client = Session(serializer)
    await serializer.setup(StartFrame(audio_in_sample_rate=16000))
    answer = await serializer.deserialize(json.dumps(client.message("open", OPEN)))
    assert isinstance(answer, OutputTransportMessageUrgentFrame)
    assert answer.message["type"] == "opened"
    assert serializer.is_open
    assert serializer.session_id == SESSION
    assert serializer.conversation_id == CONVERSATION
    assert serializer.participant == OPEN["participant"]
    assert serializer.input_variables == OPEN["inputVariables"]
    sent = await serializer.serialize(answer)
    assert isinstance(sent, str)
    client.hear([sent])

    heard = await serializer.deserialize(pcm_to_ulaw(PCM))
    assert isinstance(heard, InputAudioRawFrame)
    assert heard.sample_rate == 16000
    long = await serializer.serialize(OutputAudioRawFrame(PCM * 125, 8000, 1))
    assert isinstance(long, bytes)
    assert len(long) == 200_000  # the caller of this face cuts it

    assert await serializer.deserialize(json.dumps(client.message("paused"))) is None
    assert serializer.is_paused
    digit = await serializer.deserialize(json.dumps(client.message("dtmf", {"digit": "#"})))
    assert isinstance(digit, InputDTMFFrame)
    assert await serializer.deserialize(json.dumps(client.message("dtmf", {"digit": 5}))) is None
    assert await serializer.deserialize(json.dumps(client.message("error", {"code": 500}))) is None

    serializer.set_output_variables({"intent": "support", "resolved": True})
    answer = await serializer.deserialize(json.dumps(client.message("close", {"reason": "end"})))
    assert isinstance(answer, OutputTransportMessageUrgentFrame)
    assert answer.message["parameters"]["outputVariables"] == {"intent": "support", "resolved": True}
    assert not serializer.is_open
    sent = await serializer.serialize(answer)
    assert isinstance(sent, str)
    client.hear([sent])
    assert client.last["parameters"]["outputVariables"] == {"intent": "support", "resolved": "true"}
    assert await serializer.serialize(EndFrame()) is None


def test_deserialize_never_joins_two_voices() -> None:
    session, _ = opened_with([STEREO], channel="both", process_internal=True)
    data = interleave((pcm_to_ulaw(PCM), b"\xff" * 1600), 1)
    frame = asyncio.run(session.server.deserialize(data))
    assert isinstance(frame, UserAudioRawFrame)
    assert (frame.user_id, len(frame.audio)) == ("customer", len(PCM))


def test_a_participant_in_an_update_replaces_the_old_one() -> None:
    session = opened()
    session.send("update", {"participant": {"ani": "+1", "name": "John"}})
    assert session.server.participant == {"ani": "+1", "name": "John"}


def test_events_without_handlers_cost_no_await() -> None:
    assert opened().server._call_event_handler("on_ping", {}) is DONE


# ---------------------------------------------------------------- recorded calls

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"


def replay(name: str, conn: int, params: GenesysAudioHookSerializer.InputParams) -> tuple[Any, list[Any]]:
    """The serializer and the frames of one recorded connection; what it says must be what was recorded."""
    serializer = GenesysAudioHookSerializer(params)
    frames: list[Any] = []
    answers: list[Any] = []
    for line in (TRANSCRIPTS / name).read_text().splitlines():
        step = json.loads(line)
        message = step.get("msg", {})
        if step["conn"] != conn or "_close" in message:
            continue
        if step["dir"] == "in":
            assert not answers, "an answer comes before the next message"
            data = bytes.fromhex(step["binary_hex"]) if "binary_hex" in step else json.dumps(message)
            for frame in serializer.decode(data):
                if isinstance(frame, OutputTransportMessageUrgentFrame):
                    answers += serializer.encode(frame)
                else:
                    frames.append(frame)
        elif "binary_hex" in step:
            sent = bytes.fromhex(step["binary_hex"])
            assert list(serializer.encode(OutputAudioRawFrame(ulaw_to_pcm(sent), 8000, 1))) == [sent]
        else:
            if not answers:
                answers += serializer.encode(bot_frame(serializer, message))
            message["id"] = message["id"] or serializer.session_id
            assert json.loads(answers.pop(0)) == message
    assert not answers
    return serializer, frames


def bot_frame(serializer: GenesysAudioHookSerializer, message: dict[str, Any]) -> Frame:
    """What a bot does to make the gateway say `message`."""
    if message["parameters"] == BARGE_IN:
        return InterruptionFrame()
    if message["type"] == "disconnect":
        serializer.set_output_variables({"queue": "billing", "verified": True, "digits": 12})
        return EndFrame()
    return OutputTransportMessageUrgentFrame({"version": "2", "type": message["type"], **message})


def told(frames: list[Any]) -> list[Any]:
    """Everything but audio, in short."""
    short: dict[type, Any] = {
        CallStartedFrame: lambda frame: ("started", frame.call.from_number, dict(frame.call.parameters)),
        InputDTMFFrame: lambda frame: frame.button.value,
        PlaybackStartedFrame: lambda frame: "playing",
        PlaybackCompletedFrame: lambda frame: "played",
        CallUpdatedFrame: lambda frame: frame.language,
        CallPausedFrame: lambda frame: "paused",
        CallResumedFrame: lambda frame: ("resumed", frame.discarded_s),
        AudioDiscardedFrame: lambda frame: ("discarded", frame.duration_s),
        CarrierErrorFrame: lambda frame: (frame.code, frame.retry_after_s),
        CallBrokenFrame: lambda frame: "broken",
        RoundTripFrame: lambda frame: ("round trip", frame.seconds),
        CallEndedFrame: lambda frame: ("ended", frame.reason),
    }
    return [short[type(frame)](frame) for frame in frames if not isinstance(frame, InputAudioRawFrame)]


def test_a_recorded_probe_and_call() -> None:
    params = GenesysAudioHookSerializer.InputParams(supported_languages=["en-US", "es-ES"])
    _, frames = replay("genesys_call.jsonl", 1, params)
    assert told(frames) == [("started", "", {}), ("ended", "caller")]
    assert frames[0].call.probe

    serializer, frames = replay("genesys_call.jsonl", 2, params)
    assert told(frames) == [
        ("started", "+34911234567", {"customerId": "C-1077", "queue": "billing"}),
        "playing",
        ("round trip", 0.0213),
        "played",
        *"12#",
        "en-US",
        "playing",
        ("429", 3.0),
        "played",
        "paused",
        ("resumed", 1.08),
        ("discarded", 0.050375),
        ("round trip", 0.0198),
        "playing",
        "played",
        ("ended", "carrier"),
    ]
    samples = sum(frame.num_frames for frame in frames if isinstance(frame, InputAudioRawFrame))
    late = 1600  # after `disconnect`: counted, not heard
    assert serializer.session.position == serializer.session.client_position == samples + 8640 + 403 + late


def test_a_recorded_monitor_gives_customer_and_agent_apart() -> None:
    params = GenesysAudioHookSerializer.InputParams(channel=AudioHookChannel.BOTH, process_internal=True)
    serializer, frames = replay("genesys_monitor.jsonl", 1, params)
    call = frames[0].call
    assert (call.receives_audio, call.extra["customConfig"]) == (False, {"assist": True})
    assert told(frames)[1:] == [("round trip", 0.0204), "paused", ("resumed", 2.997625), ("ended", "caller")]
    voices = [frame for frame in frames if isinstance(frame, UserAudioRawFrame)]
    assert [frame.user_id for frame in voices] == ["agent", "customer"] * 8
    agent, customer = (b"".join(frame.audio for frame in voices[first::2][:5]) for first in (0, 1))
    assert crossings(agent) == pytest.approx(1000, rel=0.01)  # 500 Hz for a second
    assert crossings(customer) == pytest.approx(360, rel=0.02)
    assert serializer.session.position == serializer.session.client_position


def crossings(pcm: bytes) -> int:
    signs = [value >= 0 for (value,) in struct.iter_unpack("<h", pcm)]
    return sum(first != second for first, second in pairwise(signs))


def test_recorded_sessions_that_break_the_protocol() -> None:
    params = GenesysAudioHookSerializer.InputParams()
    _, frames = replay("genesys_broken.jsonl", 1, params)
    assert told(frames)[1:] == ["broken", ("ended", "carrier")]
    _, frames = replay("genesys_broken.jsonl", 2, params)
    assert told(frames) == ["broken", ("ended", "error")]


# ---------------------------------------------------------------- what every serializer must stand


class TestConformance(SerializerConformance):
    make = staticmethod(lambda: GenesysAudioHookSerializer.for_call(WireOptions()))
    fake = FakeGenesys
    plan: ClassVar[dict[str, Any]] = {
        "parameters": {"customerId": "C-1077", "queue": "billing"},
        "options": {"binary_rate": 0},  # the suite sends pieces of any length; the core sends 5 a second
    }
    digits = "0123456789*#ABCD"
    marks_come_back = False

    def binary_is_audio(self) -> bool:
        return True

    def harmless(self, message: Message) -> bool:
        """Text that is no message of the session ends it: AudioHook's rule, and tested above."""
        return isinstance(message, bytes)


TestMachine = machine(TestConformance)
