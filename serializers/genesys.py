"""Genesys Cloud AudioHook: the socket side of Audio Connector (a voice bot) and AudioHook Monitor (a one-way tap).

Source: Genesys Cloud developer centre, "AudioHook protocol", version "2".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar
from uuid import uuid4

import msgspec

from media.call import CallInfo, MediaFormat
from media.codecs import pcm_to_ulaw
from media.errors import RemoteProtocolError
from media.events import DONE, BaseObject
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
    InputDTMFFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    PlaybackCompletedFrame,
    PlaybackStartedFrame,
    RoundTripFrame,
    UserAudioRawFrame,
)
from media.resample import Resampler, make_resampler
from serializers import audiohook
from serializers.audiohook import MAX_MESSAGE_BYTES, TAKES, Session, SessionState
from serializers.audiohook_media import Media, choose, tracks, understood
from serializers.audiohook_server import CHANNELS, AudioHookChannel, AudioHookMediaFormat, AudioHookServer
from serializers.base import Ending, FrameSerializer, Message, MessageRate, Messages, WireOptions
from serializers.fields import keypad_entry, outline, text
from serializers.table_base import TableSerializer

log = logging.getLogger(__name__)

__all__ = ["AudioHookChannel", "AudioHookMediaFormat", "GenesysAudioHookSerializer"]

Json = dict[str, Any]

PACKET_MS = 200  # 1600 bytes of PCMU, 5 messages a second: Genesys counts messages and answers 429 to many
CLOSED_WAITS_S = 3.0  # for what is still to be done or said after `close`, of the 10 s in which Genesys wants `closed`

# Who has spoken, for the bot, by the name of the channel.
VOICES = {"external": "customer", "internal": "agent"}

EVENTS = ("on_open", "on_close", "on_ping", "on_pause", "on_update", "on_error", "on_dtmf")

_read_json = msgspec.json.Decoder().decode

_SETTINGS = (
    "channel",
    "closing_s",
    "discard_to_s",
    "media_format",
    "monitor",
    "reconnect",
    "selected_language",
    "start_paused",
    "supported_languages",
)
_UPGRADE = ("connector", "correlation_id")
# Why the gateway ends a call, where Architect should take its failure path; everything else has completed.
_FAILURES = {
    "unauthorized": "unauthorized",
    "error": "error",
    "shutdown": "error",
    "carrier-silent": "error",
    "no-bot": "error",
    "incomplete": "error",
}
# The client's reason of `close`, in our words.
_ENDED = {"end": "caller", "error": "error", "reconnect": "reconnect"}


class GenesysAudioHookSerializer(AudioHookServer, TableSerializer, BaseObject):
    """AudioHook messages to frames and back, for one session.

    `decode` gives the protocol's own answers (opened, pong, updated, closed, a disconnect where the client broke the
    protocol) as urgent messages, ahead of everything else. They go out through `encode`, which gives each message its
    number in the order of sending: what `encode` returns has to be sent, and in that order.

    Audio goes out only between `opened` and the end, and never to a session that has an internal channel: that is a
    Monitor, whose client ends the session at the first byte. A pause stops the caller's audio, not the bot's.

    Events: on_open, on_close, on_ping, on_pause (at `paused`), on_update, on_error, on_dtmf, each with the decoded
    message. Their handlers run before the answer is made, an `async def` one as far as its first wait; `closed`
    waits for the rest, for a while.
    """

    carrier: ClassVar[str] = "genesys"
    ending: ClassVar[Ending] = Ending.MESSAGE
    lead_ms: ClassVar[int] = 600
    cushion_ms: ClassVar[int] = 40
    end_wait_s: ClassVar[float] = 15.0
    opens: ClassVar[bool] = True
    has_marks: ClassVar[bool] = False  # playback_started and playback_completed instead
    reports_playback: ClassVar[bool] = True
    holds: ClassVar[bool] = True
    rate: ClassVar[MessageRate] = MessageRate(
        binary_per_s=5.0, binary_burst=2, text_per_s=10.0, text_burst=10, join_bytes=16_000
    )
    PROTOCOL_VERSION: ClassVar[str] = audiohook.VERSION

    # What becomes of each type of message, and of frames of each class: names of methods, as in `finishes`.
    hears: ClassVar[Mapping[str, str]] = {
        "open": "_on_open",
        "ping": "_on_ping",
        "update": "_on_update",
        "dtmf": "_on_dtmf",
        "playback_started": "_on_playback_started",
        "playback_completed": "_on_playback_completed",
        "paused": "_on_paused",
        "resumed": "_on_resumed",
        "discarded": "_on_discarded",
        "error": "_on_error",
        "close": "_on_close",
    }
    says: ClassVar[Mapping[type[Frame], str]] = {
        OutputAudioRawFrame: "_audio",
        InterruptionFrame: "_barge_in",
        EndFrame: "_end",
        CancelFrame: "_end",
        OutputTransportMessageFrame: "_message_of",
        OutputTransportMessageUrgentFrame: "_message_of",
    }

    @dataclass(kw_only=True)
    class InputParams(FrameSerializer.InputParams):
        """
        `genesys_sample_rate`: Hz on the wire; AudioHook knows 8000.
        `sample_rate`: Hz of the audio that `decode` gives; None: the pipeline's.
        `channel`: what to take of the offered media, where there is a choice. With "both", `process_external` and
            `process_internal` say which of the two reaches the pipeline; both arrive as UserAudioRawFrame, whose
            `user_id` is "customer" (external) or "agent" (internal).
        `media_format`: preferred format; what is offered wins.
        `supported_languages`: told to Genesys when it asks.
        `selected_language`: the call's language where `open` names none.
        `start_paused`: Genesys sends no audio until it gets `resume`.
        `monitor`: the session is one-way; None: it is if the internal channel is offered.
        `discard_to_s`: what was said before this second of the stream is not wanted.
        `reconnect`: at shutdown a monitor is asked to come again.
        `closing_s`: how long `closed` waits for the bot's last events; 0: it does not, but for on_close handlers.
        """

        genesys_sample_rate: int = 8000
        sample_rate: int | None = None
        channel: AudioHookChannel = AudioHookChannel.EXTERNAL
        media_format: AudioHookMediaFormat = AudioHookMediaFormat.PCMU
        process_external: bool = True
        process_internal: bool = False
        supported_languages: Sequence[str] | None = None
        selected_language: str | None = None
        start_paused: bool = False
        monitor: bool | None = None
        discard_to_s: float | None = None
        reconnect: bool = True
        closing_s: float = 0.0

    def __init__(self, params: InputParams | None = None) -> None:
        """ValueError: a channel or media format that AudioHook does not have."""
        self._p = params or self.InputParams()
        TableSerializer.__init__(self, self._p)
        self._rate = self._p.genesys_sample_rate
        session = Session(str(uuid4()), id_known=False, rate=self._rate)
        channel, encoding = AudioHookChannel(self._p.channel), AudioHookMediaFormat(self._p.media_format)
        AudioHookServer.__init__(self, session, channel, encoding.value)
        self._organization_id = ""  # what `open` has to name, where the upgrade named one
        self._upgrade: dict[str, str] = {}  # what else the upgrade said, for the bot: `CallInfo.extra`
        self._heard: tuple[tuple[int, str], ...] = ()  # (place among the media's channels, voice) of what is passed on
        self._checkpoints: MutableMapping[str, int] = {}  # session id -> samples that have come; of this process
        self._voice_resamplers: dict[str, Resampler] = {}
        self._one_way = False
        self._both_of_monitor = False  # no channel was asked for: of a session that turns out as a monitor, both
        for event in EVENTS:
            self._register_event_handler(event, sync=True)
        self.dropped_digits = 0  # keys that no telephone has

    @classmethod
    def for_call(cls, options: WireOptions) -> GenesysAudioHookSerializer:
        """
        Of `options.options`: those of InputParams that are settings (_SETTINGS); of the upgrade `organization_id`
        and `session_id`, which the messages have to repeat, and what is for the bot (_UPGRADE). Both channels of a
        Monitor reach the pipeline.
        """
        own = options.options or {}
        chosen = {name: own[name] for name in _SETTINGS if own.get(name) is not None}
        chosen.setdefault("closing_s", CLOSED_WAITS_S)
        serializer = cls(cls.InputParams(process_internal=True, **chosen))
        serializer._both_of_monitor = "channel" not in chosen
        serializer._organization_id = own.get("organization_id") or ""
        serializer._checkpoints = own.get("checkpoints", serializer._checkpoints)
        serializer._upgrade = {name: own[name] for name in _UPGRADE if own.get(name)}
        if own.get("session_id"):
            serializer.session = Session(own["session_id"], id_known=True, rate=serializer._rate)
        serializer.begin(options.in_sample_rate)
        return serializer

    @property
    def send_rate(self) -> int:
        return self._rate

    @property
    def packet_ms(self) -> int:
        return PACKET_MS

    @property
    def takes_audio(self) -> bool:
        return self.session.state is SessionState.ACTIVE and not self._one_way

    # ------------------------------------------------------------ in

    def decode(self, data: Message) -> Sequence[Frame]:
        if isinstance(data, str):
            return self._decode_text(data)
        session, media = self.session, self._media
        if session.state is SessionState.PREPARING:
            return self._broken("audio before open")
        if media is None:
            return ()
        try:
            channels = tracks(media, data)
        except ValueError as exc:
            raise self._bad(str(exc), data) from None
        session.position += len(channels[0]) // 2
        if session.state is not SessionState.ACTIVE or session.paused:
            return ()  # it was on its way already
        if len(self._heard) == 1:
            return self.pipeline_audio(channels[self._heard[0][0]], media.rate)
        return [
            UserAudioRawFrame(pcm, rate, 1, user_id=voice)
            for place, voice in self._heard
            for pcm, rate in (self._at_pipeline_rate(voice, channels[place], media.rate),)
            if pcm
        ]

    def _at_pipeline_rate(self, voice: str, pcm: bytes, rate: int) -> tuple[bytes, int]:
        """One of several voices, each of which has a resampler of its own."""
        wanted = self.incoming.wanted
        if not wanted or wanted == rate:
            return pcm, rate
        resampler = self._voice_resamplers.get(voice)
        if resampler is None:
            resampler = self._voice_resamplers[voice] = make_resampler(rate, wanted)
        return resampler.process(pcm), wanted

    def _decode_text(self, data: str) -> Sequence[Frame]:
        try:
            message = _read_json(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return self._broken("not JSON")
        session = self.session
        if session.state is SessionState.CLOSED:
            return ()
        fault = session.fault(message)
        if fault:
            return self._broken(fault)
        kind = message["type"]
        states = TAKES.get(kind)
        if states is None:
            log.debug("genesys: message of unknown type %.40r ignored", kind)
            return ()
        if session.state not in states:
            return ()
        frames: Sequence[Frame] = getattr(self, self.hears[kind])(message, message["parameters"])
        return frames

    def _on_open(self, message: Json, parameters: Json) -> Sequence[Frame]:
        if self._organization_id and parameters.get("organizationId") != self._organization_id:
            return self._broken("another organisation's id", "unauthorized")
        conversation_id, participant = parameters.get("conversationId"), parameters.get("participant")
        offers, variables = parameters.get("media"), parameters.get("inputVariables") or {}
        if not isinstance(conversation_id, str) or not isinstance(participant, dict):
            return self._broken("open without conversationId or participant")
        if not isinstance(offers, list) or not isinstance(variables, dict):
            return self._broken("open without media, or inputVariables that are not an object")
        probe = conversation_id == audiohook.PROBE_CONVERSATION
        known = understood(offers, self._rate)
        monitor = self._p.monitor
        if monitor is None:  # an Audio Connector offers the external channel only
            monitor = any("internal" in offer.channels for offer in known)
        if monitor and self._both_of_monitor:
            self._channel = AudioHookChannel.BOTH
        media = None if probe else choose(known, CHANNELS[self._channel], self._encoding)
        if media is None and offers and not probe:
            return self._broken("no offered media that we understand")
        self._take_media(media)
        self._one_way = bool(monitor) or media is None
        self._asked_languages = parameters.get("supportedLanguages") is True
        self._conversation_id, self._participant, self._input_variables = conversation_id, participant, variables
        session = self.session
        session.position = session.client_position  # not zero where a session continues another
        session.paused = self._p.start_paused
        session.state = SessionState.OPENING
        session.owe("opened")
        self._call_event_handler("on_open", message)
        answer = self.create_opened_response(
            start_paused=session.paused,
            supported_languages=list(self._p.supported_languages or ()) if self._asked_languages else None,
        )
        if (discard_to := self._discard_to(parameters)) is not None:
            answer["parameters"]["discardTo"] = audiohook.format_duration(discard_to, self._rate)
        frames = [OutputTransportMessageUrgentFrame(answer), CallStartedFrame(self._call_info(parameters, probe))]
        return [*frames, CallPausedFrame()] if session.paused else frames

    def _discard_to(self, parameters: Json) -> int | None:
        """The sample before which no audio is wanted: what an earlier session has had, or what the settings say."""
        continued = parameters.get("continuedSessions")
        sessions = [one.get("id") for one in continued if isinstance(one, dict)] if isinstance(continued, list) else []
        known = [self._checkpoints[one] for one in sessions if isinstance(one, str) and one in self._checkpoints]
        if self._p.discard_to_s is not None:
            known.append(round(self._p.discard_to_s * self._rate))
        return max(known) if known and max(known) > self.session.position else None

    def _checkpoint(self) -> None:
        """Up to here the audio has come: for a session that continues this one."""
        if not self._one_way or self._media is None:
            return
        self._checkpoints[self.session.id] = self.session.position

    def _take_media(self, media: Media | None) -> None:
        """What is passed on of `media`: of two channels those that are wanted, of one that one."""
        self._media = media
        if media is None:
            return
        wanted = CHANNELS[self._channel]
        if self._channel is AudioHookChannel.BOTH:
            wanted = frozenset({"external"} if self._p.process_external else ())
            wanted |= frozenset({"internal"} if self._p.process_internal else ())
        places = [place for place, channel in enumerate(media.channels) if channel in wanted] or [0]
        self._heard = tuple((place, VOICES[media.channels[place]]) for place in places)

    def _call_info(self, parameters: Json, probe: bool) -> CallInfo:
        media, participant = self._media, self._participant or {}
        encoding = media.format if media else self._encoding
        return CallInfo(
            carrier=self.carrier,
            call_id=self._conversation_id or "",
            stream_id=self.session.id,
            account_id=text(parameters.get("organizationId")),
            from_number=text(participant.get("ani")),
            to_number=text(participant.get("dnis")),
            parameters=self._input_variables or {},
            receive=MediaFormat(encoding, self._rate, len(media.channels) if media else 1),
            send=MediaFormat(encoding, self._rate),
            language=text(parameters.get("language")) or self._p.selected_language or "",
            extra={
                "organizationId": text(parameters.get("organizationId")),
                "participant": participant,
                "customConfig": _custom_config(parameters.get("customConfig")),
                "continuedSessions": parameters.get("continuedSessions") or [],
                "voices": [voice for _, voice in self._heard],
                **self._upgrade,
            },
            receives_audio=not self._one_way,
            probe=probe,
        )

    def _on_ping(self, message: Json, parameters: Json) -> Sequence[Frame]:
        self.session.owe("pong")
        answer = OutputTransportMessageUrgentFrame(self.create_pong_response())
        self._checkpoint()
        self._call_event_handler("on_ping", message)
        round_trip = audiohook.parse_duration(parameters.get("rtt"))
        return (answer,) if round_trip is None else (answer, RoundTripFrame(float(round_trip)))

    def _on_update(self, message: Json, parameters: Json) -> Sequence[Frame]:
        participant, language = parameters.get("participant"), parameters.get("language")
        if isinstance(participant, dict):
            self._participant = participant
        self.session.owe("updated")
        answer = OutputTransportMessageUrgentFrame(self._draft("updated", {}))
        self._call_event_handler("on_update", message)
        return (answer, CallUpdatedFrame(language)) if language and isinstance(language, str) else (answer,)

    def _on_dtmf(self, message: Json, parameters: Json) -> Sequence[Frame]:
        digit = parameters.get("digit", "")
        if not isinstance(digit, str):
            raise self._bad("dtmf.digit is not a string", message)
        self._call_event_handler("on_dtmf", message)
        key = keypad_entry(digit)
        if key is None:
            self.dropped_digits += 1
            return ()
        return (InputDTMFFrame(key),)

    def _on_playback_started(self, message: Json, parameters: Json) -> Sequence[Frame]:
        return (PlaybackStartedFrame(),)

    def _on_playback_completed(self, message: Json, parameters: Json) -> Sequence[Frame]:
        return (PlaybackCompletedFrame(),)

    def _on_paused(self, message: Json, parameters: Json) -> Sequence[Frame]:
        before, self.session.paused = self.session.paused, True
        self._call_event_handler("on_pause", message)
        return () if before else (CallPausedFrame(),)

    def _on_resumed(self, message: Json, parameters: Json) -> Sequence[Frame]:
        # Whatever else it lacks, the audio flows again.
        discarded = audiohook.parse_duration(parameters.get("discarded")) or Decimal(0)
        self.session.skip(discarded)
        self.session.paused = False
        return (CallResumedFrame(float(discarded)),)

    def _on_discarded(self, message: Json, parameters: Json) -> Sequence[Frame]:
        start = audiohook.parse_duration(parameters.get("start"))
        discarded = audiohook.parse_duration(parameters.get("discarded"))
        if start is None or discarded is None:
            raise self._bad("discarded without start or duration", message)
        self.session.skip(discarded)
        return (AudioDiscardedFrame(float(start), float(discarded)),)

    def _on_error(self, message: Json, parameters: Json) -> Sequence[Frame]:
        """Never answered; a fatal one is followed by `close`."""
        retry_after = audiohook.parse_duration(parameters.get("retryAfter"))
        self._call_event_handler("on_error", message)
        code, said = text(parameters.get("code")), text(parameters.get("message"))
        return (CarrierErrorFrame(code, said, None if retry_after is None else float(retry_after)),)

    def _on_close(self, message: Json, parameters: Json) -> Sequence[Frame]:
        reason = text(parameters.get("reason"))
        self._checkpoint()
        self.session.take_leave()
        ended = CallEndedFrame(_ENDED.get(reason, "carrier"), reason)
        waiting = self._call_event_handler("on_close", message)
        if waiting is DONE and not self._p.closing_s:
            return (self._closed_answer(), ended)
        limit_s = self._p.closing_s or CLOSED_WAITS_S
        after_bot = self._p.closing_s > 0
        return (AnswerLaterFrame(waiting, lambda: (self._closed_answer(), ended), limit_s, after_bot),)

    def _closed_answer(self) -> OutputTransportMessageUrgentFrame:
        return OutputTransportMessageUrgentFrame(self.create_closed_response(self._output_variables))

    def _broken(self, problem: str, reason: str = "error") -> Sequence[Frame]:
        """The client broke the protocol: the session ends by `disconnect`, once; afterwards its faults are ignored."""
        if self.session.state not in (SessionState.PREPARING, SessionState.OPENING, SessionState.ACTIVE):
            return ()
        self.session.break_off()
        answer = self._draft("disconnect", {"reason": reason, "info": problem if reason == "error" else ""})
        return (OutputTransportMessageUrgentFrame(answer), CallBrokenFrame(problem))

    def _bad(self, problem: str, data: Any) -> RemoteProtocolError:
        return RemoteProtocolError(self.carrier, problem, outline(data))

    # ------------------------------------------------------------ out

    def _audio(self, frame: OutputAudioRawFrame) -> Messages:
        if not self.takes_audio:
            return ()
        return self._binary(self.wire_pcm(frame.audio, frame.sample_rate))

    def flush(self) -> Messages:
        tail = self.flush_wire_pcm()
        if not self.takes_audio:
            return ()
        return self._binary(tail)

    def _binary(self, pcm: bytes) -> Messages:
        """Any length is legal up to the limit, so nothing is held back and nothing is padded."""
        if not pcm:
            return ()
        data = pcm_to_ulaw(pcm) if self._media is None or self._media.width == 1 else pcm
        if len(data) <= MAX_MESSAGE_BYTES:
            return (data,)
        return [data[start : start + MAX_MESSAGE_BYTES] for start in range(0, len(data), MAX_MESSAGE_BYTES)]

    def hold(self, held: bool) -> Messages:
        return self._say("pause" if held else "resume", {})

    def hand_over(self) -> Messages:
        if not self._one_way or not self._p.reconnect or self.session.state is not SessionState.ACTIVE:
            return ()
        self._checkpoint()
        return self._say("reconnect", {"info": "draining"})

    def _barge_in(self, frame: InterruptionFrame) -> Messages:
        self.reset_wire_pcm()
        if not self.takes_audio:
            return ()
        return self._say("event", {"entities": [{"type": "barge_in", "data": {}}]})

    def _end(self, frame: EndFrame | CancelFrame) -> Messages:
        if not self.session.id_known:
            return ()
        word, _, details = str(frame.reason or "completed").partition(":")
        parameters = {"reason": _FAILURES.get(word, "completed")}
        if word == "incomplete":
            parameters["info"] = f"the bot has not set: {details}"
        return self._say("disconnect", parameters)

    def _message_of(self, frame: OutputTransportMessageFrame | OutputTransportMessageUrgentFrame) -> Messages:
        """An AudioHook message of the application's, or an answer of ours; nothing else may reach Genesys."""
        message = frame.message
        if not isinstance(message, Mapping) or "version" not in message or self.should_ignore_frame(frame):
            return ()
        kind, parameters = message.get("type"), message.get("parameters") or {}
        if not isinstance(kind, str) or not isinstance(parameters, Mapping):
            return self._unsaid("a message without type or with odd parameters")
        if kind == "resumed":  # the client's word: ours is a request
            return self._say("resume", {})
        if kind == "error":
            return self._say("disconnect", {"reason": "error", "info": str(parameters.get("message", ""))})
        # A pong is matched with its ping by this number; in all else it says what was received when it left.
        seen = message.get("clientseq") if kind == "pong" else None
        return self._say(kind, parameters, seen if isinstance(seen, int) else None)


def _custom_config(value: Any) -> Any:
    """Genesys sends the administrator's JSON as an object, or as the text of one."""
    if isinstance(value, str):
        try:
            return _read_json(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return value
    return value if value is not None else {}
