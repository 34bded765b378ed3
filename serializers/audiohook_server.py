"""What the server says in an AudioHook session: messages as an application makes them, and as they leave.

Source: Genesys Cloud developer centre, "AudioHook protocol", version "2"; for the names of the public functions,
Pipecat's serializer for Genesys.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar

from serializers import audiohook
from serializers.audiohook import MAX_MESSAGE_BYTES, OPEN_STATES, Session
from serializers.audiohook_media import Media
from serializers.audiohook_variables import fit_variables, variable_texts
from serializers.base import Messages

log = logging.getLogger(__name__)

Json = dict[str, Any]
Parameters = Mapping[str, Any]

_DISCONNECT_REASONS = frozenset({"completed", "unauthorized", "error", "rejected"})
_ENVELOPE_BYTES = 400  # of a message, at most, beside its parameters


class AudioHookChannel(StrEnum):
    """Whose voice: `external` is the customer, `internal` what the customer hears of the agent."""

    EXTERNAL = "external"
    INTERNAL = "internal"
    BOTH = "both"


class AudioHookMediaFormat(StrEnum):
    PCMU = "PCMU"
    L16 = "L16"


CHANNELS = {
    AudioHookChannel.EXTERNAL: frozenset({"external"}),
    AudioHookChannel.INTERNAL: frozenset({"internal"}),
    AudioHookChannel.BOTH: frozenset({"external", "internal"}),
}


class AudioHookServer:
    """The server's side of one session in messages. What it says gets its number as it leaves."""

    # What each kind of message needs before it leaves, by the names of the methods that see to it: an object that
    # held its own methods would refer to itself.
    finishes: ClassVar[Mapping[str, str]] = {
        "opened": "_finish_opened",
        "event": "_finish_event",
        "disconnect": "_finish_disconnect",
        "closed": "_finish_closed",
    }

    def __init__(self, session: Session, channel: AudioHookChannel, encoding: str) -> None:
        self.session = session
        self.dropped_messages = 0  # that AudioHook does not know, or not in this state
        self._channel = channel
        self._encoding = encoding
        self._media: Media | None = None
        self._asked_languages = False
        self._conversation_id: str | None = None
        self._participant: Json | None = None
        self._input_variables: Json | None = None
        self._output_variables: Mapping[str, Any] | None = None
        self._said_variables: Mapping[str, Any] = {}  # what `disconnect` carried; `closed` repeats it
        self._drafted = 0  # number of the last message that a create_... function wrote

    # ------------------------------------------------------------ what an application makes and sees

    @property
    def session_id(self) -> str:
        """The session's id; one of our own until Genesys has said its."""
        return self.session.id

    @property
    def conversation_id(self) -> str | None:
        return self._conversation_id

    @property
    def is_open(self) -> bool:
        return self.session.state in OPEN_STATES

    @property
    def is_paused(self) -> bool:
        return self.session.paused

    @property
    def participant(self) -> Json | None:
        """`ani`, `aniName`, `dnis`, `id`."""
        return self._participant

    @property
    def input_variables(self) -> Json | None:
        return self._input_variables

    @property
    def output_variables(self) -> Mapping[str, Any] | None:
        return self._output_variables

    def set_output_variables(self, variables: Mapping[str, Any]) -> None:
        """What Architect gets back, instead of what was set before. Read when `disconnect` or `closed` leaves, so the
        mapping may still change until then."""
        self._output_variables = variables

    def create_opened_response(
        self,
        start_paused: bool = False,
        supported_languages: list[str] | None = None,
        selected_language: str | None = None,
    ) -> Json:
        if self._conversation_id is not None:
            media = [self._media.entry] if self._media else []
        else:
            channels = sorted(CHANNELS[self._channel])
            media = [{"type": "audio", "format": self._encoding, "channels": channels, "rate": self.session.rate}]
        parameters: Json = {"startPaused": start_paused, "media": media}
        if supported_languages is not None:
            parameters["supportedLanguages"] = supported_languages
        if selected_language:
            parameters["selectedLanguage"] = selected_language
        return self._draft("opened", parameters, position=False)

    def create_closed_response(self, output_variables: Mapping[str, Any] | None = None) -> Json:
        return self._draft("closed", {"outputVariables": dict(output_variables)} if output_variables else {})

    def create_pong_response(self) -> Json:
        return self._draft("pong", {})

    def create_resumed_response(self) -> Json:
        """Sent as `resume`: asks Genesys to send audio again, which it answers with `resumed`."""
        return self._draft("resumed", {})

    def create_barge_in_event(self) -> Json:
        return self._draft("event", {"entities": [{"type": "barge_in", "data": {}}]})

    def create_disconnect_message(
        self,
        reason: str = "completed",
        action: str = "transfer",
        output_variables: Mapping[str, Any] | None = None,
        info: str | None = None,
    ) -> Json:
        """Ends the session. `action` is an output variable like the others; those of `set_output_variables` join."""
        parameters: Json = {"reason": reason, "outputVariables": {"action": action, **(output_variables or {})}}
        if info:
            parameters["info"] = info
        return self._draft("disconnect", parameters)

    def create_error_message(self, code: int, message: str, retryable: bool = False) -> Json:
        """Sent as `disconnect` with reason "error": servers have no error message. `message` reaches Genesys' log."""
        return self._draft("error", {"code": code, "message": message, "retryable": retryable})

    def _draft(self, kind: str, parameters: Json, *, position: bool = True) -> Json:
        """A message as it will look; its number is the next one, and `encode` sets what it is by then."""
        session = self.session
        self._drafted = max(self._drafted, session.server_seq) + 1
        message = {
            "version": audiohook.VERSION,
            "type": kind,
            "id": session.id,
            "seq": self._drafted,
            "clientseq": session.client_seq,
            "parameters": parameters,
        }
        if position:
            message["position"] = audiohook.format_duration(session.position, session.rate)
        return message

    # ------------------------------------------------------------ what leaves

    def _say(self, kind: str, parameters: Parameters, client_seq: int | None = None) -> Messages:
        """One message, finished and numbered; () where it must not be sent."""
        session = self.session
        if not session.may_send(kind):
            return self._unsaid(f"{kind} while {session.state.value}")
        finish = self.finishes.get(kind)
        try:
            finished: Parameters | None = getattr(self, finish)(parameters) if finish else parameters
            if finished is None or len(audiohook.dumps(finished)) > MAX_MESSAGE_BYTES - _ENVELOPE_BYTES:
                return self._unsaid(f"{kind} that is empty or over {MAX_MESSAGE_BYTES} bytes")
            return (session.stamp(kind, finished, client_seq),)
        except (TypeError, ValueError, RecursionError):
            return self._unsaid(f"{kind} with parameters that are not JSON")

    def _unsaid(self, what: str) -> Messages:
        self.dropped_messages += 1
        log.debug("genesys: not sent: %s", what)
        return ()

    # ------------------------------------------------------------ what each kind of message needs before it leaves

    def _finish_opened(self, parameters: Parameters) -> Parameters:
        """The entry chosen from the offer, as it came, whoever wrote the message; no field that the protocol lacks."""
        finished: Json = {
            "media": [self._media.entry] if self._media else [],
            "startPaused": parameters.get("startPaused") is True,
        }
        if parameters.get("discardTo") is not None:
            finished["discardTo"] = parameters["discardTo"]
        if self._asked_languages:
            languages = parameters.get("supportedLanguages")
            finished["supportedLanguages"] = list(languages) if isinstance(languages, list | tuple) else []
        self.session.paused = finished["startPaused"]
        return finished

    def _finish_event(self, parameters: Parameters) -> Parameters | None:
        """An event without entities breaks the client."""
        entities = parameters.get("entities")
        return parameters if entities and isinstance(entities, list | tuple) else None

    def _finish_disconnect(self, parameters: Parameters) -> Parameters:
        reason, info = parameters.get("reason"), parameters.get("info")
        self._said_variables = {**(self._output_variables or {}), **_mapping(parameters.get("outputVariables"))}
        known = isinstance(reason, str) and reason in _DISCONNECT_REASONS
        finished: Json = {"reason": reason if known else "completed"}
        if info:
            finished["info"] = str(info)[:1000]
        return self._with_variables(finished, self._said_variables)

    def _finish_closed(self, parameters: Parameters) -> Parameters:
        own = _mapping(parameters.get("outputVariables"))
        return self._with_variables({}, {**self._said_variables, **(self._output_variables or {}), **own})

    def _with_variables(self, finished: Json, variables: Mapping[str, Any]) -> Parameters:
        texts = variable_texts(variables)
        if texts:
            finished["outputVariables"] = {}
            room = MAX_MESSAGE_BYTES - _ENVELOPE_BYTES - len(audiohook.dumps(finished))
            finished["outputVariables"] = fit_variables(texts, room)
        return finished


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
