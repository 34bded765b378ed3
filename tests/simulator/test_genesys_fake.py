"""The strict fake of Genesys: what it says, when, and everything that it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway.simulator.base import CallPlan, Message, ProtocolViolation, carrier_names, fake_carrier
from gateway.simulator.genesys import FakeGenesys, signature_headers
from media.codecs import ulaw_to_pcm
from media.frames import (
    CallEndedFrame,
    CallStartedFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputTransportMessageUrgentFrame,
)
from serializers.genesys import GenesysAudioHookSerializer

EXTERNAL = {"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}
BARGE_IN = {"entities": [{"type": "barge_in", "data": {}}]}
PACKET = b"\x00\x10" * 1600  # 200 ms


class Server:
    """A hand-made server: says what it is told to, correctly numbered unless told otherwise."""

    def __init__(self, fake: FakeGenesys | None = None, **options: Any) -> None:
        self.fake = fake or FakeGenesys(CallPlan(options=options))
        self.now = 100.0
        self.seq = 0
        self.heard: list[dict[str, Any] | bytes] = []
        self.hear(self.fake.opening(self.now))

    def hear(self, messages: Sequence[Message]) -> None:
        self.heard += [json.loads(data) if isinstance(data, str) else data for data in messages]

    def last(self, kind: str) -> dict[str, Any]:
        return [message for message in self.heard if isinstance(message, dict) and message["type"] == kind][-1]

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.heard if isinstance(message, dict)]

    def say(self, kind: str, parameters: Any = None, **changes: Any) -> None:
        self.seq += 1
        message = {
            "version": "2",
            "type": kind,
            "id": self.fake.session_id,
            "seq": self.seq,
            "clientseq": self.fake.seq,
            "parameters": {} if parameters is None else parameters,
        }
        self.send(json.dumps({**message, **changes}))

    def send(self, data: Message) -> None:
        self.hear(self.fake.receive(data, self.now))

    def wait(self, seconds: float, *, pong: bool = True) -> None:
        """Time passes; pings are answered."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            due = self.fake.next_tick_at()
            self.now = until if due is None else min(until, max(due, self.now + 0.001))
            before = len(self.heard)
            self.hear(self.fake.tick(self.now))
            while pong and before < len(self.heard):
                message = self.heard[before]
                before += 1
                if isinstance(message, dict) and message["type"] == "ping":
                    self.say("pong", clientseq=message["seq"])


def running(**options: Any) -> Server:
    server = Server(**options)
    media = server.last("open")["parameters"]["media"]
    server.say("opened", {"media": [media[0]]})
    return server


def closing() -> Server:
    server = running()
    server.hear(server.fake.hang_up(server.now))
    return server


def test_it_can_be_found_by_name() -> None:
    assert "genesys" in carrier_names()
    assert fake_carrier("genesys") is FakeGenesys


def test_opened_may_cross_a_caller_who_hangs_up() -> None:
    server = Server()
    media = server.last("open")["parameters"]["media"]
    server.hear(server.fake.hang_up(server.now))
    server.say("opened", {"media": [media[0]]})
    assert server.fake.state == "closing"
    assert not server.fake.ready
    server.say("closed")
    assert (server.fake.state, server.fake.violations) == ("closed", [])


# ---------------------------------------------------------------- what it says


def test_open_is_complete() -> None:
    plan = CallPlan(from_number="+34911234567", to_number="+34900123456", parameters={"customerId": "C-1"})
    server = Server(FakeGenesys(plan))
    message = server.last("open")
    assert {key: message[key] for key in ("version", "seq", "serverseq", "position")} == {
        "version": "2",
        "seq": 1,
        "serverseq": 0,
        "position": "PT0S",
    }
    parameters = message["parameters"]
    assert parameters["media"] == [EXTERNAL]
    assert (parameters["participant"]["ani"], parameters["participant"]["dnis"]) == ("+34911234567", "+34900123456")
    assert parameters["inputVariables"] == {"customerId": "C-1"}
    assert parameters["conversationId"] == server.fake.call_id
    assert "supportedLanguages" not in parameters


def test_options_of_open() -> None:
    earlier = [{"id": "x", "clientseq": 1, "serverseq": 1}]
    server = Server(
        supported_languages=True, language="fr-FR", custom_config={"a": 1}, continued=earlier, position_s=12.5
    )
    parameters = server.last("open")["parameters"]
    assert parameters["supportedLanguages"] is True
    assert parameters["language"] == "fr-FR"
    assert parameters["customConfig"] == {"a": 1}
    assert parameters["continuedSessions"] == earlier
    assert server.last("open")["position"] == "PT12.5S"


def test_audio_is_counted_to_the_sample() -> None:
    server = running()
    server.hear(server.fake.audio(PACKET, server.now))
    server.hear(server.fake.audio(PACKET[:2], server.now))
    assert [len(message) for message in server.heard if isinstance(message, bytes)] == [1600, 1]
    server.hear(server.fake.press("5", server.now))
    assert server.last("dtmf")["position"] == "PT0.200125S"
    assert server.last("dtmf")["parameters"] == {"digit": "5"}


def test_a_monitor_interleaves_in_the_order_of_the_chosen_entry() -> None:
    media = [{**EXTERNAL, "channels": ["internal", "external"]}]
    server = running(session="monitor", media=media, agent=b"\x00\x20" * 3)
    server.hear(server.fake.audio(PACKET, server.now))
    data = server.heard[-1]
    assert isinstance(data, bytes)
    assert len(data) == 3200
    assert ulaw_to_pcm(data[1::2])[:2] != ulaw_to_pcm(data[0::2])[:2]
    assert abs(int.from_bytes(ulaw_to_pcm(data[0::2])[:2], "little") - 0x2000) < 0x200


def test_pings_come_after_a_second_at_once_again_and_then_every_five() -> None:
    server = running()
    server.wait(21.5)
    pings = [message for message in server.heard if isinstance(message, dict) and message["type"] == "ping"]
    assert len(pings) == 6
    assert pings[0]["parameters"] == {}
    assert pings[1]["parameters"]["rtt"].startswith("PT")
    assert server.fake.pongs == 6


def test_playback_events_follow_the_buffer() -> None:
    server = running()
    server.send(b"\xff" * 1600)
    server.wait(0.1)
    assert server.types == ["open", "playback_started"]
    server.send(b"\xff" * 1600)
    server.wait(0.25)
    assert server.types == ["open", "playback_started"]
    server.wait(0.1)
    assert server.types == ["open", "playback_started", "playback_completed"]


def test_barge_in_empties_the_buffer() -> None:
    server = running()
    server.send(b"\xff" * 64_000)
    server.wait(0.5)
    server.say("event", BARGE_IN)
    server.wait(0.01)
    assert server.fake.playout.buffered_s == 0.0
    assert server.types == ["open", "playback_started", "playback_completed"]
    assert server.fake.server_events == BARGE_IN["entities"]


def test_two_holds() -> None:
    server = running()
    server.say("pause")
    server.hear(server.fake.hold(server.now))
    assert server.fake.audio(PACKET, server.now) == ()
    server.say("resume")
    assert server.types == ["open", "paused", "paused", "paused"]
    server.hear(server.fake.resume(server.now))
    assert server.last("resumed")["parameters"] == {"start": "PT0S", "discarded": "PT0.2S"}
    assert len(server.fake.audio(PACKET, server.now)) == 1
    server.say("resume")
    assert server.types[-1] == "resumed"


def test_an_opened_session_may_start_paused() -> None:
    server = Server()
    server.say("opened", {"media": [EXTERNAL], "startPaused": True})
    assert server.types == ["open", "paused"]
    assert server.fake.audio(PACKET, server.now) == ()
    server.say("resume")
    assert server.types[-1] == "resumed"


def test_what_waited_comes_at_once_as_far_as_it_is_wanted() -> None:
    def opened(said: dict[str, Any], **options: Any) -> Server:
        server = Server(**options)
        server.say("opened", {"media": server.last("open")["parameters"]["media"][:1], **said})
        return server

    server = opened({"discardTo": "PT11.5S"}, history_s=3.0, position_s=10.0)
    assert server.last("discarded")["parameters"] == {"start": "PT10S", "discarded": "PT1.5S"}
    assert [len(data) for data in server.heard if isinstance(data, bytes)] == [12_000]
    assert server.fake.samples == 13 * 8000
    server = opened({}, history_s=20.0)
    assert [len(data) for data in server.heard if isinstance(data, bytes)] == [64_000, 64_000, 32_000]
    server = opened({"startPaused": True}, history_s=3.0)
    assert server.types == ["open", "paused"]
    server.say("resume")
    assert server.last("resumed")["parameters"] == {"start": "PT0S", "discarded": "PT3S"}


def test_a_monitor_that_is_asked_to_reconnect_goes_on_elsewhere() -> None:
    server = running(session="monitor")
    server.wait(30.0)
    server.say("reconnect", {"info": "draining"})
    assert server.last("close")["parameters"] == {"reason": "reconnect"}
    then = Server(server.fake.successor())
    parameters = then.last("open")["parameters"]
    assert parameters["conversationId"] == server.fake.call_id
    assert [one["id"] for one in parameters["continuedSessions"]] == [server.fake.session_id]
    assert then.fake.session_id != server.fake.session_id
    stays = running(session="monitor", reconnects=False)
    stays.say("reconnect")
    assert stays.types == ["open"]


def test_lost_audio_is_told() -> None:
    server = running()
    server.hear(server.fake.audio(PACKET, server.now))
    server.hear(server.fake.lose(0.3))
    message = server.last("discarded")
    assert (message["parameters"], message["position"]) == ({"start": "PT0.2S", "discarded": "PT0.3S"}, "PT0.5S")


def test_the_probe_closes_at_once() -> None:
    server = Server(session="probe")
    parameters = server.last("open")["parameters"]
    assert set(parameters["conversationId"]) == set(parameters["participant"]["id"]) == {"0", "-"}
    assert "inputVariables" not in parameters
    server.say("opened", {"media": []})
    assert server.last("close")["parameters"] == {"reason": "end"}
    server.say("closed")
    assert server.fake.closes_socket
    server.fake.socket_closed(1000, "", server.now)
    assert server.fake.violations == []


def test_the_caller_hangs_up() -> None:
    server = closing()
    assert server.last("close")["parameters"] == {"reason": "end"}
    assert not server.fake.closes_socket
    server.say("closed", {"outputVariables": {"stage": "2"}})
    assert server.fake.closes_socket
    assert (server.fake.ended_by, server.fake.output_variables) == ("caller", {"stage": "2"})


@pytest.mark.parametrize(("reason", "by"), [("completed", "bot"), ("error", "error"), ("unauthorized", "error")])
def test_the_server_disconnects(reason: str, by: str) -> None:
    server = running()
    server.say("disconnect", {"reason": reason, "info": "done", "outputVariables": {"a": "1"}})
    assert server.last("close")["parameters"] == {"reason": "disconnect"}
    server.say("closed")
    assert server.fake.closes_socket
    assert (server.fake.ended_by, server.fake.end_reason) == (by, reason)
    assert server.fake.output_variables == {"a": "1"}
    assert server.fake.violations == []


def test_events_and_pongs_may_come_until_closed_and_a_disconnect_may_cross_close() -> None:
    server = running()
    server.wait(1.0, pong=False)
    ping = server.last("ping")
    server.hear(server.fake.hang_up(server.now))
    server.say("pong", clientseq=ping["seq"])
    server.say("event", {"entities": [{"type": "agentassist", "data": {}}]})
    server.say("disconnect", {"reason": "completed"})
    server.say("closed")
    assert server.types.count("close") == 1
    assert server.fake.violations == []


def test_audio_on_its_way_when_the_caller_leaves_is_nobodys_fault() -> None:
    server = closing()
    server.send(b"\xff" * 1600)
    assert server.fake.violations == []


# ---------------------------------------------------------------- rates


def test_too_many_messages_are_lost_and_answered_by_429() -> None:
    server = running(binary_rate=5.0, binary_burst=5)
    for _ in range(8):
        server.send(b"\xff" * 160)
    assert server.fake.rate_limited == 3
    assert server.types.count("error") == 3, "one for each"
    assert server.last("error")["parameters"]["code"] == 429
    assert server.last("error")["parameters"]["retryAfter"] == "PT3.000S"
    assert server.fake.playout.buffered_s == pytest.approx(0.1)
    server.wait(1.0)
    server.send(b"\xff" * 160)
    assert server.fake.rate_limited == 3


def test_text_has_a_limit_of_its_own_and_pongs_are_free() -> None:
    server = running(text_rate=1.0, text_burst=2)
    for _ in range(4):
        server.say("event", {"entities": [{"type": "agentassist", "data": {}}]})
    assert server.fake.rate_limited == 3  # `opened` was the first
    assert len(server.fake.server_events) == 1
    server.wait(20.0)
    assert server.fake.pongs == 5


# ---------------------------------------------------------------- what it refuses


def violation(server: Server, act: Callable[[], object]) -> ProtocolViolation:
    with pytest.raises(ProtocolViolation) as caught:
        act()
    assert server.fake.violations == [caught.value]
    assert server.fake.closes_socket
    assert server.fake.ended_by is not None
    return caught.value


REFUSED: dict[str, tuple[Callable[[], Server], Callable[[Server], object], str]] = {
    "no JSON": (running, lambda s: s.send("pong"), "JSON object"),
    "a list": (running, lambda s: s.send("[]"), "JSON object"),
    "no parameters": (running, lambda s: s.say("pause", parameters=[]), "a server message has"),
    "an extra field": (running, lambda s: s.say("pause", note="x"), "a server message has"),
    "serverseq": (running, lambda s: s.say("pause", serverseq=1), "a server message has"),
    "version": (running, lambda s: s.say("pause", version="3"), "version is 2"),
    "version 2": (running, lambda s: s.say("pause", version=2), "a server message has"),
    "id": (running, lambda s: s.say("pause", id="x"), "id is the session's"),
    "seq skipped": (running, lambda s: s.say("pause", seq=3), "seq rises by one"),
    "seq repeated": (running, lambda s: s.say("pause", seq=1), "seq rises by one"),
    "seq a float": (running, lambda s: s.say("pause", seq=2.0), "a server message has"),
    "clientseq ahead": (running, lambda s: s.say("pause", clientseq=9), "clientseq is a number"),
    "clientseq negative": (running, lambda s: s.say("pause", clientseq=-1), "clientseq is a number"),
    "unknown type": (running, lambda s: s.say("hello"), "only the server's types"),
    "a client's type": (running, lambda s: s.say("resumed"), "only the server's types"),
    "an error": (running, lambda s: s.say("error", {"code": 500}), "only the server's types"),
    "too long": (running, lambda s: s.say("disconnect", {"reason": "x" * 64_000}), "message too large"),
    "too much audio": (running, lambda s: s.send(b"\xff" * 64_001), "message too large"),
    "opened twice, while it closes": (closing, lambda s: s.say("opened", {"media": []}), "opened comes once"),
    "opened twice": (running, lambda s: s.say("opened", {"media": []}), "opened comes once"),
    "opened without media": (Server, lambda s: s.say("opened"), "opened has its documented fields"),
    "selectedLanguage": (
        Server,
        lambda s: s.say("opened", {"media": [], "selectedLanguage": "es"}),
        "opened has its documented fields",
    ),
    "languages unasked": (
        Server,
        lambda s: s.say("opened", {"media": [], "supportedLanguages": ["es"]}),
        "supportedLanguages only when asked",
    ),
    "languages of another type": (
        lambda: Server(supported_languages=True),
        lambda s: s.say("opened", {"media": [], "supportedLanguages": [7]}),
        "supportedLanguages are texts",
    ),
    "two entries": (
        lambda: Server(session="monitor"),
        lambda s: s.say("opened", {"media": s.fake.media[:2]}),
        "one entry at most",
    ),
    "an entry that was not offered": (
        Server,
        lambda s: s.say("opened", {"media": [{**EXTERNAL, "rate": 16000}]}),
        "one of the offered",
    ),
    "the channels turned round": (
        lambda: Server(session="monitor"),
        lambda s: s.say("opened", {"media": [{**EXTERNAL, "channels": ["internal", "external"]}]}),
        "one of the offered",
    ),
    "audio before opened": (Server, lambda s: s.send(b"\xff"), "no audio before opened"),
    "audio to a monitor": (lambda: running(session="monitor"), lambda s: s.send(b"\xff"), "only an Audio Connector"),
    "audio after disconnect": (
        running,
        lambda s: (s.say("disconnect", {"reason": "completed"}), s.send(b"\xff")),
        "no audio after disconnect",
    ),
    "empty audio": (running, lambda s: s.send(b""), "whole samples"),
    "half a sample": (
        lambda: running(media=[{**EXTERNAL, "format": "L16"}]),
        lambda s: s.send(b"\xff"),
        "whole samples",
    ),
    "more audio than is buffered": (
        lambda: running(binary_rate=0),
        lambda s: [s.send(b"\xff" * 64_000) for _ in range(9)],
        "more audio than the carrier buffers",
    ),
    "pong unasked": (running, lambda s: s.say("pong"), "a pong answers a ping"),
    "pong of another ping": (
        running,
        lambda s: (s.wait(1.0, pong=False), s.say("pong", clientseq=1)),
        "a pong names its ping",
    ),
    "pong with parameters": (
        running,
        lambda s: (s.wait(1.0, pong=False), s.say("pong", {"rtt": "x"})),
        "pong has no parameters",
    ),
    "updated unasked": (running, lambda s: s.say("updated"), "updated answers an update"),
    "pause with parameters": (running, lambda s: s.say("pause", {"reason": "x"}), "pause has no parameters"),
    "pause before opened": (Server, lambda s: s.say("pause"), "nothing but an answer before opened"),
    "event before opened": (Server, lambda s: s.say("event", BARGE_IN), "nothing but an answer before opened"),
    "event without entities": (running, lambda s: s.say("event"), "event has entities"),
    "event with none": (running, lambda s: s.say("event", {"entities": []}), "event has an entity"),
    "an entity without data": (
        running,
        lambda s: s.say("event", {"entities": [{"type": "barge_in"}]}),
        "an entity has type and data",
    ),
    "an unknown entity": (
        running,
        lambda s: s.say("event", {"entities": [{"type": "bargein", "data": {}}]}),
        "the documented entities",
    ),
    "barge_in to a monitor": (
        lambda: running(session="monitor"),
        lambda s: s.say("event", BARGE_IN),
        "nothing is played",
    ),
    "disconnect without a reason": (running, lambda s: s.say("disconnect"), "disconnect has its documented fields"),
    "disconnect for another reason": (
        running,
        lambda s: s.say("disconnect", {"reason": "finished"}),
        "a documented reason",
    ),
    "disconnect twice": (
        running,
        lambda s: [s.say("disconnect", {"reason": "completed"}) for _ in range(2)],
        "one disconnect a session",
    ),
    "a variable that is no text": (
        running,
        lambda s: s.say("disconnect", {"reason": "completed", "outputVariables": {"verified": True}}),
        "output variables are texts",
    ),
    "a connector that is to reconnect": (running, lambda s: s.say("reconnect"), "only one-way sessions"),
    "discardTo that is no duration": (
        Server,
        lambda s: s.say("opened", {"media": s.fake.media[:1], "discardTo": "2 s"}),
        "discardTo is a duration",
    ),
    "closed unasked": (running, lambda s: s.say("closed"), "closed answers close"),
    "a number after closed": (closing, lambda s: s.say("closed", {"info": "x"}), "closed has its documented fields"),
}


@pytest.mark.parametrize(("state", "act", "rule"), REFUSED.values(), ids=REFUSED)
def test_refused(state: Callable[[], Server], act: Callable[[Server], object], rule: str) -> None:
    server = state()
    assert rule in violation(server, lambda: act(server)).rule


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1011])
@pytest.mark.parametrize("state", [Server, running, closing])
def test_only_the_client_closes(state: Callable[[], Server], code: int) -> None:
    server = state()
    caught = violation(server, lambda: server.fake.socket_closed(code, "", server.now))
    assert "only the client closes" in caught.rule


@pytest.mark.parametrize(
    ("state", "seconds", "rule"),
    [(Server, 5.0, "opened comes within 5 s"), (running, 6.0, "within 5 s (408)"), (closing, 10.0, "within 10 s")],
)
def test_a_server_that_does_not_answer_in_time(state: Callable[[], Server], seconds: float, rule: str) -> None:
    server = state()
    server.wait(seconds - 0.01, pong=False)
    assert server.fake.violations == []
    server.wait(0.02, pong=False)
    assert [rule in one.rule for one in server.fake.violations] == [True]
    assert server.fake.closes_socket


# ---------------------------------------------------------------- the signature

HEADERS = {
    "Audiohook-Organization-Id": "5b1f0a52-9c3e-4b7a-8d21-6f0c2e9a7b14",
    "Audiohook-Session-Id": "0c9d4e7a-1f36-4c58-9a02-b7e3d5f6a801",
    "Audiohook-Correlation-Id": "f2a7c6d1-88b0-4e19-a5c4-3d2b1e0f9a76",
    "X-API-KEY": "gateway-key-0001",
}
SECRET = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlBQkNERUY="


@pytest.mark.parametrize("authority", ["voice.gateway.example", "VOICE.gateway.example", "voice.gateway.example:443"])
def test_the_upgrade_is_signed_as_the_reference_signs_it(authority: str) -> None:
    url = f"wss://{authority}/genesys/bot-42?lang=es-ES"
    signed = signature_headers(url, HEADERS, SECRET, created=1790000000, nonce="bm9uY2UtZm9yLXRlc3QtdmVjdG9y")
    assert signed["Signature"] == "sig1=:h0BhB+V2SMgCSBfLu+30nSncsD5yyijikqIfG0MkTFo=:"
    assert signed["Signature-Input"].endswith(";created=1790000000;expires=1790000030")


def test_the_upgrade_is_signed_only_with_a_secret() -> None:
    url = "wss://gw.example/genesys/media/x"
    assert "X-API-KEY" not in FakeGenesys().handshake_headers(url)
    unsigned = FakeGenesys(CallPlan(credentials={"api_key": "key"})).handshake_headers(url)
    assert unsigned["X-API-KEY"] == "key"
    assert "Signature" not in unsigned
    fake = FakeGenesys(CallPlan(credentials={"api_key": "key", "client_secret": SECRET}))
    signed = fake.handshake_headers(url)
    assert signed["Audiohook-Session-Id"] == fake.session_id
    assert signed["Signature"].startswith("sig1=:")
    assert signed["Signature"] != fake.handshake_headers(url)["Signature"], "a nonce is used once"


# ---------------------------------------------------------------- against our serializer, in any order


class SessionMachine(RuleBasedStateMachine):
    """Every legal thing that Genesys does, in any order, against everything that a bot may do."""

    @initialize(
        session=st.sampled_from(["connector", "connector", "monitor"]),
        start_paused=st.booleans(),
        languages=st.booleans(),
        wire=st.sampled_from(["PCMU", "L16"]),
    )
    def open(self, session: str, start_paused: bool, languages: bool, wire: str) -> None:
        channels = [["internal", "external"]] if session == "monitor" else [["external"]]
        media = [{"type": "audio", "format": wire, "channels": names, "rate": 8000} for names in channels]
        options = {"session": session, "media": media, "supported_languages": languages, "binary_rate": 0}
        self.now = 50.0
        self.fake = FakeGenesys(CallPlan(options={**options, "text_rate": 0}))
        self.serializer = GenesysAudioHookSerializer(
            GenesysAudioHookSerializer.InputParams(start_paused=start_paused, supported_languages=["en-US"])
        )
        self.frames: list[Frame] = []
        self.to_server(self.fake.opening(self.now))
        assert self.fake.ready
        assert isinstance(self.frames[0], CallStartedFrame)

    def to_server(self, messages: Sequence[Message]) -> None:
        for message in messages:
            for frame in self.serializer.decode(message):
                if isinstance(frame, OutputTransportMessageUrgentFrame):
                    self.push(frame)
                else:
                    self.frames.append(frame)

    def push(self, frame: Frame) -> None:
        for message in self.serializer.encode(frame):
            if not self.fake.closes_socket:
                self.to_server(self.fake.receive(message, self.now))

    def live(self) -> bool:
        return hasattr(self, "fake") and self.fake.state == "active"

    @rule(seconds=st.sampled_from([0.001, 0.1, 0.9, 5.0]))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until - 1e-9:
            due = self.fake.next_tick_at()
            self.now = until if due is None else min(until, max(due, self.now + 0.001))
            self.to_server(self.fake.tick(self.now))

    @precondition(live)
    @rule(samples=st.integers(1, 4000))
    def caller_speaks(self, samples: int) -> None:
        self.frames.clear()
        self.to_server(self.fake.audio(b"\x00\x08" * samples, self.now))
        got = sum(frame.num_frames for frame in self.frames if isinstance(frame, InputAudioRawFrame))
        assert got == (0 if self.fake.paused else samples)

    @precondition(live)
    @rule(what=st.sampled_from(["hold", "resume", "lose", "language", "digit", "error"]))
    def genesys_says(self, what: str) -> None:
        fake = self.fake
        says: dict[str, Callable[[], Sequence[Message]]] = {
            "hold": lambda: fake.hold(self.now),
            "resume": lambda: fake.resume(self.now),
            "lose": lambda: fake.lose(0.123375),
            "language": lambda: fake.change_language("es-ES", self.now),
            "digit": lambda: fake.press("D", self.now),
            "error": lambda: fake.complain(503, self.now),
        }
        self.to_server(says[what]())

    @rule(samples=st.integers(1, 12_000), rate=st.sampled_from([8000, 16000, 24000]))
    def bot_speaks(self, samples: int, rate: int) -> None:
        self.push(OutputAudioRawFrame(bytes(2 * samples), rate, 1))

    @rule(
        what=st.sampled_from(
            ["interrupt", "pause", "resumed", "transcript", "opened", "closed", "pong", "nonsense", "nothing"]
        )
    )
    def bot_says(self, what: str) -> None:
        server = self.serializer
        event = {"version": "2", "type": "event", "parameters": {"entities": [{"type": "agentassist", "data": {}}]}}
        says: dict[str, Callable[[], Frame]] = {
            "interrupt": InterruptionFrame,
            "pause": lambda: OutputTransportMessageUrgentFrame({"version": "2", "type": "pause", "parameters": {}}),
            "resumed": lambda: OutputTransportMessageUrgentFrame(server.create_resumed_response()),
            "transcript": lambda: OutputTransportMessageUrgentFrame(event),
            "opened": lambda: OutputTransportMessageUrgentFrame(server.create_opened_response()),
            "closed": lambda: OutputTransportMessageUrgentFrame(server.create_closed_response()),
            "pong": lambda: OutputTransportMessageUrgentFrame(server.create_pong_response()),
            "nonsense": lambda: OutputTransportMessageUrgentFrame({"version": "2", "type": "hello"}),
            "nothing": lambda: OutputTransportMessageUrgentFrame({"any": "thing"}),
        }
        self.push(says[what]())

    @precondition(lambda self: self.live() and self.fake.pongs > 1)
    @rule(how=st.sampled_from(["caller", "bot", "application", "error"]))
    def end(self, how: str) -> None:
        if how == "caller":
            self.to_server(self.fake.hang_up(self.now))
        elif how == "bot":
            self.serializer.set_output_variables({"n": 1, "ok": True})
            self.push(EndFrame())
            assert self.fake.output_variables == {"n": "1", "ok": "true"}
        elif how == "application":
            self.push(OutputTransportMessageUrgentFrame(self.serializer.create_disconnect_message()))
            assert self.fake.output_variables == {"action": "transfer"}
        else:
            self.push(OutputTransportMessageUrgentFrame(self.serializer.create_error_message(500, "no model")))
        assert sum(isinstance(frame, CallEndedFrame) for frame in self.frames) <= 1
        assert (self.fake.state, self.fake.closes_socket) == ("closed", True)

    @precondition(lambda self: hasattr(self, "fake"))
    @rule()
    def positions_agree(self) -> None:
        session = self.serializer.session
        if self.fake.state == "active" and not self.fake.paused:
            assert session.position == self.fake.samples
        assert not self.fake.violations

    def teardown(self) -> None:
        if hasattr(self, "fake"):
            assert not self.fake.violations
            assert self.serializer.session.server_seq == self.fake.server_seq


SessionMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestSession = SessionMachine.TestCase
