"""A strict fake of Genesys Cloud's end of an AudioHook session, version "2": the WebSocket client.

Source: Genesys Cloud developer centre, "AudioHook protocol", and the behaviour of its reference client.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
import math
import re
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from gateway.simulator.base import CallPlan, FakeCarrier, JsonObject, Message, Messages, ProtocolViolation
from gateway.simulator.playout import PlayoutEvent
from media.codecs import interleave, pcm_to_ulaw, ulaw_to_pcm

RATE = 8000
MAX_MESSAGE_BYTES = 64_000
ZEROS = "00000000-0000-0000-0000-000000000000"

OPENED_S, PONG_S, CLOSED_S = 5.0, 5.0, 10.0  # how long the server may take
HISTORY_S = 20  # of audio that is offered again to a session that continues another
FIRST_PING_S, PING_S = 1.0, 5.0

_DURATION = re.compile(r"PT(\d+\.)?\d+S", re.ASCII)
_ENVELOPE = {"version": str, "type": str, "id": str, "seq": int, "clientseq": int, "parameters": dict}
_OFFERS = {
    "connector": [["external"]],
    "probe": [["external"]],
    "monitor": [["external", "internal"], ["external"], ["internal"]],
}
_ENTITIES = {"barge_in", "bot_turn_response", "transcript", "agentassist"}
_ALTERNATIVE = {"confidence": float, "languages": list}
_REASONS = {"completed": "bot", "error": "error", "unauthorized": "error"}

_FIELDS = "a server message has version, type, id, seq, clientseq and parameters (400)"


class Bucket:
    """Messages of one kind: `rate` a second, `burst` at once; a rate of 0 is no limit."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self._level, self._at = burst, -math.inf

    def take(self, now: float) -> float:
        """0.0 if one more is fine, else the seconds until it is."""
        if not self.rate:
            return 0.0
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        if self._level < 1.0:
            return (1.0 - self._level) / self.rate
        self._level -= 1.0
        return 0.0

    def empty(self, now: float) -> None:
        """Nothing is left of the burst."""
        self._level, self._at = 0.0, now


class FakeGenesys(FakeCarrier):
    """Genesys Cloud, for one AudioHook session. The plan's parameters are Architect's input variables.

    Options of the plan:
        connector (str, ""): the connector ID, with a query where it has one: what stands behind the connection URI.
        session (str, "connector"): Audio Connector; or "monitor" (one-way, both channels), "probe" (the test that
            Genesys makes when an administrator saves the integration).
        media (list): entries to offer, instead of what such a session offers.
        agent (bytes): what the internal channel says, PCM at 8 kHz, over and over; else silence.
        language (str, "en-US"), supported_languages (bool, False): as in `open`.
        custom_config (object or str), participant_name (str).
        continued (list), position_s (float): the session continues others.
        history_s (float, 0): of audio that waits at the opening and comes then at once, as far as it is wanted.
        reconnects (bool, True): a monitor that is asked to reconnect ends, for `successor` to go on.
        binary_rate (float, 5.0), binary_burst (25), text_rate (10.0), text_burst (25): messages a second that Genesys
            takes; what is over the limit is dropped and answered by error 429. 0: no limit.
        retry_after_s (float, 3.0): what error 429 says.
    Credentials: `api_key`, `client_secret` (base64): with a secret the upgrade is signed.
    """

    name: ClassVar[str] = "genesys"
    tells_playback: ClassVar[bool] = True
    max_message_bytes: ClassVar[int] = MAX_MESSAGE_BYTES

    def __init__(self, plan: CallPlan | None = None, *, strict: bool = True, record: bool = True) -> None:
        super().__init__(plan, strict=strict, record=record)
        options = self.plan.options
        self.kind: str = options.get("session", "connector")
        self.connector: str = options.get("connector", "")
        self.media: list[Any] = options.get("media") or [
            {"type": "audio", "format": "PCMU", "channels": channels, "rate": RATE} for channels in _OFFERS[self.kind]
        ]
        self.packet_ms = 200
        self.call_id = ZEROS if self.kind == "probe" else self.plan.call_id or str(uuid.uuid4())
        self.session_id = str(uuid.uuid4())
        own = self.plan.credentials.get("organization_id")  # the only one that may use the key
        self.organization_id = options.get("organization_id") or own or "5b1f0a52-9c3e-4b7a-8d21-6f0c2e9a7b14"
        self.close_code = 1000
        self.state = "idle"  # "opening", "active", "closing", "closed"
        self._opened = False  # the server has said so
        self.seq = self.server_seq = 0
        self.selected: JsonObject | None = None  # of the offer
        self.samples = round(options.get("position_s", 0.0) * RATE)  # offered so far
        self.client_hold = self.server_hold = False
        self.server_events: list[JsonObject] = []  # entities, as they came
        self.rate_limited = 0  # messages dropped with error 429
        self.pongs = 0
        self._broke = False
        self.disconnect: JsonObject | None = None  # its parameters
        self._history = round(options.get("history_s", 0.0) * RATE)  # samples
        self._agent: bytes = options.get("agent", b"")
        self._agent_at = 0
        self._paused_at: int | None = None  # position at which audio stopped
        self._owed: list[str] = []  # "updated"
        self._deadline: tuple[float, str] | None = None  # of the state, and the rule that it would break
        self._ping_at = math.inf
        self._ping_seq: int | None = None
        self._ping_sent_at = self._rtt = 0.0
        self._binary = Bucket(options.get("binary_rate", 5.0), options.get("binary_burst", 25))
        self._text = Bucket(options.get("text_rate", 10.0), options.get("text_burst", 25))
        self._takes: Mapping[str, Callable[[JsonObject, JsonObject, float], Messages]] = {
            "opened": self._take_opened,
            "pong": self._take_pong,
            "updated": self._take_updated,
            "closed": self._take_closed,
            "pause": self._take_pause,
            "resume": self._take_resume,
            "reconnect": self._take_reconnect,
            "event": self._take_event,
            "disconnect": self._take_disconnect,
        }

    # ------------------------------------------------------------ the upgrade

    def media_path(self, token: str) -> str:
        """The Connection URI's path with the connector ID: there is no token, the upgrade is signed."""
        return f"/{self.name}/media/{quote(self.connector, safe='/?&=')}"

    def handshake_headers(self, url: str) -> Mapping[str, str]:
        shown = (self.plan.credentials.get(name, "") for name in ("api_key", "client_secret"))
        key, secret = (
            text.split()[0] if text.strip() else "" for text in shown
        )  # while one is changed it has two lines
        headers = {
            "Audiohook-Organization-Id": self.organization_id,
            "Audiohook-Session-Id": self.session_id,
            "Audiohook-Correlation-Id": str(uuid.uuid4()),
        }
        if key:
            headers["X-API-KEY"] = key
        if key and secret:
            nonce = base64.b64encode(secrets.token_bytes(18)).decode()
            headers |= signature_headers(url, headers, secret, created=int(time.time()), nonce=nonce)
        return headers

    # ------------------------------------------------------------ from Genesys

    def message(self, kind: str, parameters: JsonObject | None = None) -> str:
        self.seq += 1
        return json.dumps(
            {
                "version": "2",
                "type": kind,
                "id": self.session_id,
                "seq": self.seq,
                "serverseq": self.server_seq,
                "position": _duration(self.samples),
                "parameters": parameters or {},
            }
        )

    def open_messages(self, now: float) -> Messages:
        plan, options = self.plan, self.plan.options
        probe = self.kind == "probe"
        parameters: JsonObject = {
            "organizationId": self.organization_id,
            "conversationId": self.call_id,
            "participant": {
                "id": ZEROS if probe else str(uuid.uuid4()),
                "ani": "" if probe else plan.from_number,
                "aniName": "" if probe else options.get("participant_name", "Test Caller"),
                "dnis": "" if probe else plan.to_number,
            },
            "media": self.media,
        }
        if not probe:
            parameters["language"] = options.get("language", "en-US")
            if plan.parameters:
                parameters["inputVariables"] = dict(plan.parameters)
        if options.get("supported_languages"):
            parameters["supportedLanguages"] = True
        for name, field in (("custom_config", "customConfig"), ("continued", "continuedSessions")):
            if name in options:
                parameters[field] = options[name]
        self.state = "opening"
        self._deadline = (now + OPENED_S, "opened comes within 5 s of open")
        return (self.message("open", parameters),)

    def audio_messages(self, pcm: bytes, now: float) -> Messages:
        media, samples = self.selected, len(pcm) // 2
        self.samples += samples
        if self.state != "active" or media is None or self.paused:
            return ()
        voices = {"external": pcm, "internal": self._agent_says(len(pcm))}
        channels = [voices[channel] for channel in media["channels"]]
        if media["format"] == "PCMU":
            return (interleave([pcm_to_ulaw(channel) for channel in channels], 1),)
        return (interleave(channels, 2),)

    def _agent_says(self, size: int) -> bytes:
        if not self._agent:
            return bytes(size)
        start, self._agent_at = self._agent_at, (self._agent_at + size) % len(self._agent)
        return (self._agent * (2 + size // len(self._agent)))[start : start + size]

    def digit_messages(self, digit: str, now: float) -> Messages:
        return (self.message("dtmf", {"digit": digit}),)

    def end_messages(self, now: float) -> Messages:
        return self._close("end", now)

    def _close(self, reason: str, now: float) -> Messages:
        self.ready = False
        self.state = "closing"
        self._deadline = (now + CLOSED_S, "closed comes within 10 s of close (408)")
        return (self.message("close", {"reason": reason}),)

    def change_language(self, language: str, now: float) -> Messages:
        """The participant's language changes."""
        self._owed.append("updated")
        return self._sent((self.message("update", {"language": language}),))

    def complain(self, code: int, now: float, text: str = "something is wrong") -> Messages:
        """Genesys reports an error."""
        return self._sent((self.message("error", {"code": code, "message": text}),))

    def limit(self, binary_rate: float, binary_burst: float, now: float) -> None:
        """From now on Genesys takes so many binary messages a second; of the burst nothing is left."""
        self._binary = Bucket(binary_rate, binary_burst)
        self._binary.empty(now)

    def lose(self, seconds: float) -> Messages:
        """A congested client drops audio and says so; in a pause there is none to drop."""
        if self.paused:
            return ()
        return self._sent((self._discarded(round(seconds * RATE)),))

    def _discarded(self, samples: int) -> str:
        start = self.samples
        self.samples += samples
        return self.message("discarded", {"start": _duration(start), "discarded": _duration(samples)})

    # ------------------------------------------------------------ pauses: two holds, and either of them is enough

    @property
    def paused(self) -> bool:
        return self._paused_at is not None

    def hold(self, now: float) -> Messages:
        """The conversation is put on hold."""
        self.client_hold = True
        return self._sent(self._pause())

    def resume(self, now: float) -> Messages:
        """The conversation is taken off hold."""
        self.client_hold = False
        return self._sent(self._resume())

    def _pause(self) -> Messages:
        if self._paused_at is None:
            self._paused_at = self.samples
        return (self.message("paused"),)

    def _resume(self) -> Messages:
        start = self._paused_at
        if start is None:
            return ()
        if self.client_hold or self.server_hold:
            return (self.message("paused"),)
        self._paused_at = None
        return (self.message("resumed", {"start": _duration(start), "discarded": _duration(self.samples - start)}),)

    # ------------------------------------------------------------ time

    def tick(self, now: float) -> Messages:
        replies = super().tick(now)
        if self._deadline is not None and now >= self._deadline[0]:
            rule, self._deadline = self._deadline[1], None
            return (*replies, *self._give_up(rule, now))
        if now < self._ping_at or self.state != "active":
            return replies
        if self._ping_seq is not None:
            return (*replies, *self._give_up("a ping is answered within 5 s (408)", now))
        self._ping_at = now + PING_S
        return (*replies, *self._sent((self._ping(now),)))

    def _ping(self, now: float) -> str:
        ping = self.message("ping", {"rtt": f"PT{self._rtt:.6f}S"} if self._rtt else {})
        self._ping_seq, self._ping_sent_at = self.seq, now
        return ping

    def _give_up(self, rule: str, now: float) -> Messages:
        """The server was too slow: the session is over, as with any other violation."""
        self._fail(ProtocolViolation(self.name, rule), now)
        return ()

    def _fail(self, violation: ProtocolViolation, now: float) -> None:
        super()._fail(violation, now)
        self.state, self._deadline = "closed", None

    def next_tick_at(self) -> float | None:
        times = [super().next_tick_at(), self._deadline[0] if self._deadline else None]
        if self.state == "active":
            times.append(self._ping_at)
        return min((at for at in times if at is not None and at < math.inf), default=None)

    def on_playout(self, event: PlayoutEvent, now: float) -> Messages:
        if self.state != "active":
            return ()
        if event.what == "started":
            return (self.message("playback_started"),)
        return (self.message("playback_completed"),) if event.what == "idle" else ()

    # ------------------------------------------------------------ to Genesys

    def handle(self, data: Message, now: float) -> Messages:
        if isinstance(data, bytes):
            return self._take_audio(data, now)
        message = self.json_object(data, "a text message is a JSON object (400)")
        self._check_envelope(message)
        kind = message["type"]
        take = self._takes.get(kind)
        if take is None:
            self.violate("only the server's types exist (500)", f"type {kind[:40]!r}")
        if kind != "pong" and (wait := self._text.take(now)):
            return self._too_fast(wait, now)
        return take(message, message["parameters"], now)

    def _check_envelope(self, message: JsonObject) -> None:
        if self.strict:
            self.only("message", message, _ENVELOPE, {"position": str}, _FIELDS)
        if message["version"] != "2":
            self.violate("the version is 2 (400)", f"version of {len(message['version'])} characters")
        if message["id"] != self.session_id:
            self.violate("id is the session's (400)", "another id")
        if message["seq"] != self.server_seq + 1:
            self.violate("seq rises by one (400)", f"{message['seq']} after {self.server_seq}")
        if not 0 <= message["clientseq"] <= self.seq:
            self.violate(
                "clientseq is a number that was sent (400)", f"{message['clientseq']}, {self.seq} was the last"
            )
        if self.state == "closed":
            self.violate("nothing is said after closed (409)", message["type"][:40])
        self.server_seq += 1

    def _too_fast(self, wait: float, now: float) -> Messages:
        """A message over the limit is lost, and Genesys says so each time."""
        self.rate_limited += 1
        self.note(now, "rate limit", f"{wait:.2f} s too early")
        retry_after = max(wait, self.plan.options.get("retry_after_s", 3.0))
        parameters = {"code": 429, "message": "Rate limit exceeded", "retryAfter": f"PT{retry_after:.3f}S"}
        return (self.message("error", parameters),)

    def _take_audio(self, data: bytes, now: float) -> Messages:
        if self.state in ("idle", "opening"):
            self.violate("no audio before opened (415)", f"{len(data)} bytes")
        if self.kind != "connector" or self.selected is None:
            self.violate("only an Audio Connector plays audio (415)", f"{len(data)} bytes to a {self.kind}")
        if self.disconnect is not None:
            self.violate("no audio after disconnect (409)", f"{len(data)} bytes")
        if self.state != "active":
            return ()  # it was on its way when `close` left
        width = 1 if self.selected["format"] == "PCMU" else 2
        if not data or len(data) % width:
            self.violate("audio is whole samples (400)", f"{len(data)} bytes")
        if wait := self._binary.take(now):
            return self._too_fast(wait, now)
        if self.records:
            self.play(ulaw_to_pcm(data) if width == 1 else data, now)
        else:
            self.play_unheard(len(data) // width, now)
        return ()

    def _take_opened(self, message: JsonObject, parameters: JsonObject, now: float) -> Messages:
        crossed = self.state == "closing" and not self._opened
        if self.state != "opening" and not crossed:
            self.violate("opened comes once (409)", self.state)
        optional = {"startPaused": bool, "discardTo": str, "supportedLanguages": list}
        self.only("opened", parameters, {"media": list}, optional, "opened has its documented fields only (400)")
        if len(parameters["media"]) > 1:
            self.violate("opened selects one entry at most (400)", f"{len(parameters['media'])}")
        if any(entry not in self.media for entry in parameters["media"]):
            self.violate("the selected media is one of the offered (400)", "an entry that was not")
        languages = parameters.get("supportedLanguages")
        if languages is not None and not self.plan.options.get("supported_languages"):
            self.violate("supportedLanguages only when asked (400)", "not asked")
        if languages is not None and not all(isinstance(language, str) for language in languages):
            self.violate("supportedLanguages are texts (400)", "another type")
        self._opened = True
        if crossed:
            return ()  # our close, which is answered next
        self.state, self._deadline = "active", None
        self.selected = parameters["media"][0] if parameters["media"] else None
        self._ping_at = now + FIRST_PING_S
        self.note(now, "ready")
        if self.kind == "probe":
            self.finish("caller", now, "probe")
            return self._close("end", now)
        self.ready = True
        if not parameters.get("startPaused"):
            return self._catch_up(parameters.get("discardTo", "PT0S"))
        self.server_hold = True
        paused = self._pause()
        self.samples += self._history
        return paused

    def _catch_up(self, discard_to: str) -> Messages:
        """What waited, but for what is not wanted."""
        if not _DURATION.fullmatch(discard_to):
            self.violate("discardTo is a duration (400)", f"{len(discard_to)} characters")
        replies: list[Message] = []
        unwanted = min(self._history, max(0, round(float(discard_to[2:-1]) * RATE) - self.samples))
        if unwanted:
            replies.append(self._discarded(unwanted))
        left, self._history = self._history - unwanted, 0
        if left and self.selected is not None:
            width = len(self.selected["channels"]) * (1 if self.selected["format"] == "PCMU" else 2)
            silence = (b"\xff" if self.selected["format"] == "PCMU" else b"\0") * (width * left)
            most = MAX_MESSAGE_BYTES - MAX_MESSAGE_BYTES % width
            replies += [silence[start : start + most] for start in range(0, len(silence), most)]
        self.samples += left
        return replies

    def _take_pong(self, message: JsonObject, parameters: JsonObject, now: float) -> Messages:
        self._empty("pong", parameters)
        if self._ping_seq is None:
            self.violate("a pong answers a ping (400)", "none is open")
        if message["clientseq"] != self._ping_seq:
            self.violate("a pong names its ping (400)", f"{message['clientseq']}, not {self._ping_seq}")
        self._ping_seq, self._rtt = None, max(1e-6, now - self._ping_sent_at)
        self.pongs += 1
        if self.pongs > 1 or self.state != "active":
            return ()
        self._ping_at = now + PING_S
        return (self._ping(now),)

    def _take_updated(self, message: JsonObject, parameters: JsonObject, now: float) -> Messages:
        self._empty("updated", parameters)
        if "updated" not in self._owed:
            self.violate("updated answers an update (400)", "none is open")
        self._owed.remove("updated")
        return ()

    def _take_pause(self, message: JsonObject, parameters: JsonObject, now: float) -> Messages:
        self._empty("pause", parameters)
        self._must_run("pause")
        self.server_hold = True
        return self._pause() if self.state == "active" else ()

    def _take_resume(self, message: JsonObject, parameters: JsonObject, now: float) -> Messages:
        self._empty("resume", parameters)
        self._must_run("resume")
        self.server_hold = False
        return self._resume() if self.state == "active" else ()

    def _take_reconnect(self, message: JsonObject, parameters: JsonObject, now: float) -> Messages:
        self.only("reconnect", parameters, {}, {"info": str}, "reconnect has its documented fields only (400)")
        self._must_run("reconnect")
        self.note(now, "reconnect asked for")
        if self.kind == "connector":
            self.violate("only one-way sessions reconnect", "reconnect to a connector")
        if self.state != "active" or not self.plan.options.get("reconnects", True):
            return ()
        self.finish("caller", now, "reconnect")
        return self._close("reconnect", now)

    def move(self, now: float) -> Messages:
        """Genesys takes a monitor to another connection, as planned: `successor` goes on."""
        if self.kind == "connector" or self.state != "active":
            return ()
        self.finish("caller", now, "reconnect")
        return self._sent(self._close("reconnect", now))

    def lose_connection(self, now: float) -> Messages:
        """The network fails: nothing more is said, nothing more is heard."""
        self.finish("caller", now, "the connection broke")
        self.ready, self.state, self._deadline = False, "closed", None
        self.close_code, self.closes_socket, self._broke = 1006, True, True
        return ()

    @property
    def goes_on(self) -> bool:
        """The conversation has not ended with this session. A connector's has: its flow goes on without it."""
        return self.kind == "monitor" and not self.violations and (self._broke or self.end_reason == "reconnect")

    def successor(self) -> FakeGenesys:
        """The session that goes on where this one ended, on another socket."""
        this = {"id": self.session_id, "clientseq": self.server_seq, "serverseq": self.seq}
        options = {
            **self.plan.options,
            "continued": [*self.plan.options.get("continued", ()), this],
            "position_s": max(0, self.samples - HISTORY_S * RATE) / RATE,
            "history_s": min(HISTORY_S, self.samples / RATE),
        }
        plan = dataclasses.replace(self.plan, call_id=self.call_id, options=options)
        return type(self)(plan, strict=self.strict, record=self.records)

    def _take_event(self, message: JsonObject, parameters: JsonObject, now: float) -> Messages:
        self._must_run("event")
        self.only("event", parameters, {"entities": list}, {}, "event has entities (400)")
        if not parameters["entities"]:
            self.violate("event has an entity (500)", "none")
        for entity in parameters["entities"]:
            self.only("entity", entity, {"type": str, "data": dict}, {}, "an entity has type and data (400)")
            if entity["type"] not in _ENTITIES:
                self.violate("the documented entities", f"type {entity['type'][:40]!r}")
            if entity["type"] == "transcript" and self.strict:
                self._check_transcript(entity["data"])
            self.server_events.append(entity)
            self.note(now, "event", entity["type"])
            if entity["type"] == "barge_in":
                self._empty("barge_in", entity["data"])
                if self.kind == "monitor":
                    self.violate("nothing is played that could be barged into", "barge_in to a monitor")
                if self.state == "active":
                    self.clear(now)
        return ()

    def _check_transcript(self, data: JsonObject) -> None:
        rule = "a transcript has its documented fields (400)"
        required = {"id": str, "channelId": int, "isFinal": bool, "offset": str, "duration": str, "alternatives": list}
        self.only("transcript", data, required, {}, rule)
        if data["channelId"] not in (0, 1):
            self.violate(rule, f"channelId {data['channelId']}")
        if not all(_DURATION.fullmatch(data[name]) for name in ("offset", "duration")):
            self.violate(rule, "offset or duration is no duration")
        for alternative in data["alternatives"]:
            self.only("alternative", alternative, {"interpretations": list}, _ALTERNATIVE, rule)
            for said in alternative["interpretations"]:
                self.only("interpretation", said, {"type": str, "transcript": str}, {"tokens": list}, rule)

    def _take_disconnect(self, message: JsonObject, parameters: JsonObject, now: float) -> Messages:
        optional = {"info": str, "outputVariables": dict}
        self.only(
            "disconnect", parameters, {"reason": str}, optional, "disconnect has its documented fields only (400)"
        )
        if self.disconnect is not None:
            self.violate("one disconnect a session (409)", "a second one")
        reason = parameters["reason"]
        if reason not in _REASONS:
            self.violate("disconnect has a documented reason (400)", f"reason {reason[:40]!r}")
        self._keep_variables(parameters)
        self.disconnect = parameters
        if self.state not in ("opening", "active"):
            return ()  # it crossed our close
        self.finish(_REASONS[reason], now, reason)
        return self._close("disconnect", now)

    def _take_closed(self, message: JsonObject, parameters: JsonObject, now: float) -> Messages:
        self.only("closed", parameters, {}, {"outputVariables": dict}, "closed has its documented fields only (400)")
        if self.state != "closing":
            self.violate("closed answers close (409)", self.state)
        self._keep_variables(parameters)
        self.state, self._deadline, self.closes_socket = "closed", None, True
        return ()

    def facts(self) -> Mapping[str, Any]:
        media = self.selected
        facts: dict[str, Any] = {
            "session": self.kind,
            "media": f"{media['format']} {'+'.join(media['channels'])}" if media else "",
            "position": _duration(self.samples),
            "pongs": self.pongs,
            "rate_limited": self.rate_limited,
            "events": self.server_events,
        }
        if self.kind == "connector":
            facts["way_out"] = self._way_out()
        return facts

    def _way_out(self) -> str:
        """Of Architect's Call Audio Connector action."""
        if self.disconnect is None:
            return "Failure" if self.ended_by == "error" else "none: the caller has left"
        return "Success" if self.disconnect["reason"] == "completed" else "Failure"

    def _keep_variables(self, parameters: JsonObject) -> None:
        variables = parameters.get("outputVariables", {})
        if not all(isinstance(value, str) for value in variables.values()):
            self.violate("output variables are texts (400)", "another type")
        self.output_variables |= variables

    def _empty(self, what: str, parameters: JsonObject) -> None:
        if parameters:
            self.violate(f"{what} has no parameters (400)", f"{len(parameters)} of them")

    def _must_run(self, what: str) -> None:
        if self.state not in ("active", "closing"):
            self.violate("nothing but an answer before opened (409)", what)

    # ------------------------------------------------------------ the socket

    def socket_closed(self, code: int, reason: str, now: float) -> None:
        self.tick(now)
        self.note(now, "closed", f"{code} {reason}".strip())
        if self.state == "closed" or self.closes_socket:
            return
        violation = ProtocolViolation(self.name, "only the client closes the socket", f"code {code} while {self.state}")
        self._fail(violation, now)
        raise violation


def _duration(samples: int) -> str:
    """ "PT1.5S", exact to the sample."""
    whole, rest = divmod(samples, RATE)
    return f"PT{whole}" + (f".{rest * 125:06d}".rstrip("0") if rest else "") + "S"


# ---------------------------------------------------------------- the signature of the upgrade, as the client makes it

_COVERED = (
    "@request-target",
    "@authority",
    "audiohook-organization-id",
    "audiohook-session-id",
    "audiohook-correlation-id",
    "x-api-key",
)
_DEFAULT_PORTS = {"wss": 443, "https": 443, "ws": 80, "http": 80}


def signature_headers(
    url: str, headers: Mapping[str, str], secret: str, *, created: int, nonce: str, expires_in_s: int = 30
) -> dict[str, str]:
    """Signature-Input and Signature for an upgrade to `url` with `headers`.

    Source: draft-ietf-httpbis-message-signatures-11, as the AudioHook security page uses it.
    """
    parts = urlsplit(url)
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    values = {name.lower(): value for name, value in headers.items()}
    values["@request-target"] = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    values["@authority"] = (parts.hostname or "").lower() + port
    covered = " ".join(f'"{name}"' for name in _COVERED)
    signed = (
        f'({covered});keyid="{values["x-api-key"]}";nonce="{nonce}";alg="hmac-sha256"'
        f";created={created};expires={created + expires_in_s}"
    )
    lines = [f'"{name}": {values[name]}' for name in _COVERED] + [f'"@signature-params": {signed}']
    key = base64.b64decode(secret + "=" * (-len(secret) % 4))
    digest = hmac.new(key, "\n".join(lines).encode(), hashlib.sha256).digest()
    return {"Signature-Input": f"sig1={signed}", "Signature": f"sig1=:{base64.b64encode(digest).decode()}:"}
