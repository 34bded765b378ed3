"""OpenAI Realtime: the caller's voice goes to a model that answers with its own, over one WebSocket.

What the model is told of the call is what the caller knows of it: an answer that is interrupted is cut where the
call's ledger says that it was heard, and a connection that is made anew is told the conversation.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bots.context.context import LLMContext, text_of
from bots.context.messages import iso_now
from bots.context.words import Words
from bots.services import openai_realtime_messages as protocol
from bots.services.http import Keyed
from bots.services.llm import LLMService, arguments_of
from bots.services.openai_realtime_ear import Ear
from bots.services.openai_realtime_said import Piece, Place, Said
from bots.services.settings import LLMSettings
from bots.services.websocket import Line, Message, socket_url
from media.codecs import ulaw_to_pcm
from media.errors import ServiceError
from media.events import DONE, MaybeAwaitable
from media.flow import DOWNSTREAM, UPSTREAM
from media.frames import (
    AggregationType,
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    FloorFrame,
    Frame,
    FunctionCallFromLLM,
    FunctionCallResultProperties,
    Heard,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMMessagesAppendFrame,
    StartFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
)
from media.processor import FrameDirection
from media.secret import Secret

log = logging.getLogger(__name__)

URL = "wss://api.openai.com/v1"
AFTERWARDS_S = 1.5  # words said into the bot's last ones are answered, if the bot ends so soon behind them

Turns = Literal["gateway", "server", "semantic"]

# Errors that say no more than that two messages have crossed on their way.
_CROSSED = frozenset({"response_cancel_not_active", "input_audio_buffer_commit_empty", "session_expired"})
_BUSY = "conversation_already_has_active_response"


@dataclass(slots=True, eq=False)
class _Response:
    """An answer that is being made."""

    asked: bool  # by us; the server begins others by itself
    event_id: str
    over: asyncio.Future[Sequence[FunctionCallFromLLM]]
    id: str = ""  # once the server has begun it
    said: bool = False


@dataclass
class OpenAIRealtimeLLMSettings(LLMSettings):
    """`model` can only be chosen, not changed."""


class OpenAIRealtimeLLMService(LLMService):
    """Hears and speaks. It stands where a model does, behind whoever decides about turns; the voices of phrases that
    it does not say (a greeting, "are you still there") stand before it.

    Args:
        base_url: without /realtime.
        turns: who says where the caller's turns end: the gateway, or the server by silence or by meaning.
        silence_s: after which the server takes a turn to be over.
        transcription: the model that writes down what the caller says; "": nobody does.
        beta: speak the API as it was in its beta.
        options: keys of the session beside ours, as the API has them.
    """

    Settings = OpenAIRealtimeLLMSettings

    def __init__(
        self,
        *,
        api_key: str = "",
        base_url: str = URL,
        model: str | None = None,
        voice: str = "marin",
        turns: Turns = "gateway",
        silence_s: float = 0.6,
        transcription: str = "gpt-4o-mini-transcribe",
        language: str = "",
        beta: bool = False,
        options: Mapping[str, Any] | None = None,
        settings: LLMSettings | None = None,
        **kwargs: Any,
    ) -> None:
        defaults = OpenAIRealtimeLLMSettings(model=model or "gpt-realtime")
        super().__init__(settings=defaults.joined_with(settings) if settings is not None else defaults, **kwargs)
        self._base_url, self._beta = base_url, beta
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        if beta:
            self._headers["openai-beta"] = "realtime=v1"
        self._server_turns = turns != "gateway"
        hints = {"language": language} if language else {}
        self._session = protocol.Session(
            voice=voice,
            transcription={"model": transcription, **hints} if transcription else None,
            turns=_turn_detection(turns, silence_s),
            options=dict(options or {}),
        )
        self.conversation = LLMContext()
        self._line: Line | None = None
        self._unusable: ServiceError | None = None  # the session is not what was asked for
        self._ending = False
        # What the caller says.
        self._ear = Ear(self._send, always=self._server_turns)
        self._went_on = False  # what the caller says was no turn: the bot speaks on
        self._committed_at: float | None = None  # such a one, unanswered
        self._places: dict[str, int] = {}  # in the context, of what has no transcript yet; by item
        # What the model says.
        self._rate = 8000
        self._response: _Response | None = None
        self._awaited: _Response | None = None  # by the task that is its answer
        self._count = 0
        self._dropped: set[str] = set()  # responses that nobody wants any more
        self._to_drop: set[str] = set()  # the same, by what they were asked by, before the server has named them
        self._again = False  # the server was busy with one of those
        self._said_by_model = Said()
        self._bot_speaks = False
        self._others = Words()  # that another voice is saying
        self._own_count = 0  # samples pushed, where no ledger counts them
        for event in ("on_connected", "on_disconnected", "on_connection_error"):
            self._register_event_handler(event)
        self._on: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "error": self._on_error,
            "response.created": self._on_created,
            "response.output_audio.delta": self._on_audio,
            "response.output_audio_transcript.delta": self._on_words,
            "response.output_audio_transcript.done": self._on_all_words,
            "response.output_text.delta": self._on_text,
            "response.output_item.done": self._on_item,
            "response.done": self._on_done,
            "input_audio_buffer.speech_started": self._on_server_start,
            "input_audio_buffer.speech_stopped": self._on_server_stop,
            "input_audio_buffer.committed": self._on_committed,
            "conversation.item.input_audio_transcription.completed": self._on_transcript,
        }
        self._acts: dict[type, Callable[[Any], bool]] = {
            VADUserStartedSpeakingFrame: self._on_voice,
            UserStartedSpeakingFrame: self._on_turn,
            UserStoppedSpeakingFrame: self._on_turn_end,
            FloorFrame: self._on_floor,
            TranscriptionFrame: self._on_typed,
            LLMMessagesAppendFrame: self._on_append,
            TTSTextFrame: self._on_other_words,
            TTSStoppedFrame: self._on_other_silent,
            BotStartedSpeakingFrame: self._on_bot,
            BotStoppedSpeakingFrame: self._on_bot_silent,
        }

    # ------------------------------------------------------------ life

    @property
    def server_turns(self) -> bool:
        """The server says where the caller's turns begin and end."""
        return self._server_turns

    def converse(self, context: LLMContext, *, said: str = "") -> None:
        """Before StartFrame: the conversation that is kept, and what the caller is told without the model."""
        self.conversation, self._said_first = context, said

    _said_first = ""

    def start(self, frame: StartFrame) -> None:
        ulaw = frame.audio_in_sample_rate == 8000
        self._rate = self._said_by_model.model_rate = 8000 if ulaw else protocol.PCM_RATE
        self._ear.tune(frame.audio_in_sample_rate, self._rate)
        self._session = replace(self._session, ulaw=ulaw)
        self._line = Line(
            self,
            address=self._address,
            take=self._take,
            opened=self._opened,
            lost=self._lost,
            busy=lambda: self._response is not None and self._response.said,
        )
        self._line.open()
        if self._said_first:
            self._line.send(protocol.message("assistant", self._said_first, beta=self._beta))

    def _send(self, message: str) -> None:
        if self._line is not None:
            self._line.send(message)

    async def stop(self, frame: EndFrame) -> None:
        return  # it has yet to come to its turn behind an answer; cleaning up closes the line

    async def cancel(self, frame: CancelFrame) -> None:
        if self._line is not None:
            self._line.forget()
            await self._line.close()

    def settings_changed(self, changed: set[str]) -> None:
        self._send(self._asked_session().update(beta=self._beta))

    def _address(self) -> tuple[str, Mapping[str, str]]:
        return socket_url(self._base_url, "/realtime", {"model": self.model_name}), self._headers

    def _asked_session(self) -> protocol.Session:
        system = (each for each in self.conversation.messages if isinstance(each, dict) and each["role"] == "system")
        instruction = self.system_instruction or next((text_of(each) for each in system), "")
        return replace(self._session, instructions=instruction, tools=self.tools_of(self.conversation))

    def _opened(self) -> Iterable[Message]:
        """What a connection begins with. A second one knows nothing of the call, and of what was queued for it."""
        assert self._line is not None
        yield self._asked_session().update(beta=self._beta)
        if self._line.connections == 1:
            return
        self._line.forget()
        self._dropped.clear()
        self._to_drop.clear()
        self._again = False
        yield from protocol.conversation(self.conversation.messages, beta=self._beta)
        yield from self._ear.again()
        response = self._response
        if response is not None:
            response.id = ""
            if not self._server_turns:  # who else hears the end of the turn once more
                yield from self._ask(response)

    def _lost(self) -> None:
        """The connection is gone. An answer of which something was said ends here; any other is asked for again."""
        if self._response is not None and self._response.said:
            self._finish(self._response)

    # ------------------------------------------------------------ frames

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        kind = type(frame)
        if kind is InputAudioRawFrame:
            self._ear.hear(frame)  # type: ignore[arg-type]
            return self.push_frame(frame, direction)
        act = self._acts.get(kind)
        if act is not None:
            if not act(frame):
                return self.push_frame(frame, direction)
            return DONE
        if isinstance(frame, EndFrame | CancelFrame):
            self._ending = True
        return super().process_frame(frame, direction)

    def push_frame(self, frame: Frame, direction: FrameDirection = DOWNSTREAM) -> Any:
        if type(frame) is InterruptionFrame and direction is DOWNSTREAM:
            self._interrupted(frame)
        return super().push_frame(frame, direction)

    # ------------------------------------------------------------ the caller

    def _on_voice(self, frame: VADUserStartedSpeakingFrame) -> bool:
        self._went_on = False
        self._ear.open()
        return False

    def _on_floor(self, frame: FloorFrame) -> bool:
        if frame.decision == "went on":
            self._went_on = True
        return False

    def _on_turn(self, frame: UserStartedSpeakingFrame) -> bool:
        """Nobody hears the answer that is being made, and now it would be the wrong one."""
        if self._response is not None and not self._bot_speaks and not self._server_turns:
            self.broadcast_interruption()
        return False

    def _on_turn_end(self, frame: UserStoppedSpeakingFrame) -> bool:
        if self._server_turns or not self._ear.is_open:
            return False
        self._ear.close()
        if self._went_on:  # the model shall know of it, and need not answer: no end of a turn for those behind us
            self._commit()
            self._committed_at = self._now()
        else:
            self.push_frame(frame)
            self._answer_now()
        return True

    def _commit(self) -> None:
        if self._ear.uncommitted:
            self._ear.uncommitted = False
            self._send(protocol.COMMIT)

    def _on_typed(self, frame: TranscriptionFrame) -> bool:
        """Words that were not spoken: keys."""
        if frame.text.strip():
            self.conversation.add_message({"role": "user", "content": frame.text})
            self._send(protocol.message("user", frame.text, beta=self._beta))
            self._answer_now()
        return True

    def _on_append(self, frame: LLMMessagesAppendFrame) -> bool:
        """The context has them from behind us."""
        for message in protocol.conversation(frame.messages, beta=self._beta):
            self._send(message)
        return False

    def _on_other_words(self, frame: TTSTextFrame) -> bool:
        """Of a phrase that another voice says."""
        if frame.append_to_context:
            self._others.add(frame.text, spaced=frame.includes_inter_frame_spaces)
        return False

    def _on_other_silent(self, frame: TTSStoppedFrame) -> bool:
        text = self._others.take()
        if text:
            self._send(protocol.message("assistant", text, beta=self._beta))
        return False

    def _on_bot(self, frame: BotStartedSpeakingFrame) -> bool:
        self._bot_speaks = True
        return False

    def _on_bot_silent(self, frame: BotStoppedSpeakingFrame) -> bool:
        self._bot_speaks = False
        self._said_by_model.all_heard()
        said_at, self._committed_at = self._committed_at, None
        if said_at is not None and self._now() - said_at < AFTERWARDS_S and self._response is None:
            self._answer_now()
        return False

    # ------------------------------------------------------------ answers

    def _answer_now(self) -> None:
        if self._response is not None:
            self.broadcast_interruption()
        self._begin_answer(self.conversation)

    def _begin_answer(self, context: LLMContext) -> None:
        self._begin_response(asked=True)

    def _begin_response(self, *, asked: bool) -> _Response | None:
        if self._ending or self._response is not None:
            return None
        self._committed_at = None
        self._count += 1
        over: asyncio.Future[Sequence[FunctionCallFromLLM]] = asyncio.get_running_loop().create_future()
        response = self._response = self._awaited = _Response(asked, f"answer-{self._count}", over)
        self.start_ttfb_metrics()
        if asked:
            for message in self._ask(response):
                self._send(message)
        super()._begin_answer(self.conversation)
        return response

    def _ask(self, response: _Response) -> Iterable[str]:
        """Two messages: what the caller has said ends here, and the answer is wanted."""
        if self._ear.uncommitted:
            self._ear.uncommitted = False
            yield protocol.COMMIT
        yield json.dumps({"type": "response.create", "event_id": response.event_id})

    async def _process_context(self, context: LLMContext) -> None:
        response = self._awaited
        if response is None or self._line is None:
            return
        if self._unusable is not None:
            raise self._unusable
        self._line.require()
        await self.run_function_calls(await response.over)

    def _finish(self, response: _Response, calls: Sequence[FunctionCallFromLLM] = ()) -> None:
        """It is as complete as it will be."""
        if self._response is response:
            self._response = None
        self._end_pieces()
        if not response.over.done():
            response.over.set_result(calls)

    def _give_up(self, response: _Response) -> None:
        """Nobody waits for it any more: what the server still says of it is not heard."""
        if self._response is not response:
            return
        self._drop(response)
        self._ear.turn.clear()
        self._finish(response)

    def _drop(self, response: _Response) -> None:
        which = {"response_id": response.id} if response.id else {}
        if response.id:
            self._dropped.add(response.id)
        elif response.asked:  # what the server begins by itself it also cancels
            self._to_drop.add(response.event_id)
        self._send(json.dumps({"type": "response.cancel", **which}))

    def fail(self, exc: BaseException, what: str = "") -> None:
        """Nothing is awaited behind an error: somebody else answers, or the caller is told."""
        response = self._response
        super().fail(exc, what)
        if response is not None:
            self._give_up(response)

    # ------------------------------------------------------------ interruptions

    def _interrupted(self, frame: InterruptionFrame) -> None:
        response, self._response = self._response, None
        if response is not None:
            self._drop(response)
            response.over.cancel()
        self._stop_answer()
        self._cancel_functions()
        self._others.take()
        self._cut(frame)

    def _cut(self, frame: InterruptionFrame) -> None:
        """The model, and the context, are to know what was heard of what was said."""
        cut = self._said_by_model.cut(frame.heard, self._pushed())
        for piece, heard_ms in cut.truncated:
            self._send(protocol.truncate(piece.item_id, piece.index, heard_ms))
        if not cut.truncated or not cut.text:
            return
        if frame.heard is not None:
            unheard = cut.whole[len(cut.text) :].strip()
            frame.heard = Heard(cut.text, unheard, frame.heard.heard_ms, frame.heard.unheard_ms)
        super().push_frame(_told(cut.text))

    def _pushed(self) -> Place:
        ledger = getattr(getattr(self.runtime, "speech", None), "ledger", None)
        return Place(ledger.generated, ledger.sample_rate) if ledger is not None else Place(self._own_count, self._rate)

    # ------------------------------------------------------------ functions

    def _result(self, entry: Any, value: Any, properties: FunctionCallResultProperties | None) -> None:
        if not entry.answered:
            output = json.dumps({"done": True} if value is None else value, ensure_ascii=False, default=str)
            self._send(protocol.result(entry.call.tool_call_id, output))
        super()._result(entry, value, properties)

    def _cancel_functions(self) -> None:
        for entry in self._running.values():
            if entry.cancel_on_interruption:
                self._send(protocol.result(entry.call.tool_call_id, '{"cancelled": true}'))
        super()._cancel_functions()

    # ------------------------------------------------------------ another service

    def relinquish(self) -> Sequence[Frame]:
        """Speech that has no answer, and the wish for one."""
        response, self._response = self._response, None
        unanswered = response is not None and not response.said
        if response is not None:
            self._drop(response)
            response.over.cancel()
            self._end_pieces()
        super().relinquish()
        speaks, frames = self._ear.is_open, self._ear.given_up()
        if unanswered:
            return (*frames, LLMContextFrame(self.conversation))
        return frames if speaks else ()

    def take_over(self, frames: Iterable[Frame]) -> None:
        line = self._line
        if line is not None and line.connections > 0 and self._count:
            line.reopen()  # it has a conversation of its own, of which much is missing
        elif line is not None:
            said = [each for each in self.conversation.messages if text_of(each) != self._said_first]
            for message in protocol.conversation(said, beta=self._beta):
                line.send(message)
        given = tuple(frames)
        self._ear.given_up()
        for frame in given:
            if isinstance(frame, InputAudioRawFrame):
                self._ear.open()
                self._ear.hear(frame)
        if any(isinstance(frame, LLMContextFrame) for frame in given):
            self._ear.close()
            self._answer_now()

    # ------------------------------------------------------------ what the server tells

    def _take(self, message: Message) -> None:
        event = json.loads(message)
        kind = event["type"]
        act = self._on.get(protocol.OF_THE_BETA.get(kind, kind))
        if act is not None:
            act(event)

    def _wanted(self, event: Mapping[str, Any]) -> _Response | None:
        """The response that an event is of; None if nobody waits for it any more."""
        response = self._response
        return response if response is not None and response.id == event["response_id"] else None

    def _on_created(self, event: Mapping[str, Any]) -> None:
        response_id = event["response"]["id"]
        if self._to_drop:  # in the order in which they were asked for
            self._to_drop.remove(min(self._to_drop, key=_number))
            self._dropped.add(response_id)
            return
        response = self._response
        if response is None or response.id:
            if not self._server_turns:
                self._dropped.add(response_id)  # that nobody has asked for
                return
            response = self._begin_response(asked=False)
        if response is not None:
            response.id = response_id

    def _on_audio(self, event: Mapping[str, Any]) -> None:
        response = self._wanted(event)
        if response is None:
            return
        sound = base64.b64decode(event["delta"])
        pcm = ulaw_to_pcm(sound) if self._rate == 8000 else sound[: len(sound) & ~1]
        if not response.said:
            response.said = self.spoke = True
            self._ear.turn.clear()
            self.stop_ttfb_metrics()
        self.progress()
        piece = self._piece(event)
        if not piece.made:
            self.push_frame(TTSStartedFrame(piece.item_id))
        piece.made += len(pcm) // 2
        self._own_count += len(pcm) // 2
        self.push_frame(TTSAudioRawFrame(pcm, self._rate, 1, piece.item_id))
        piece.last = self._pushed().samples

    def _piece(self, event: Mapping[str, Any]) -> Piece:
        if self._said_by_model.is_new(event):
            self._end_pieces()
        return self._said_by_model.piece(event, self._pushed())

    def _end_pieces(self) -> None:
        """No more of what was begun will come."""
        for piece in self._said_by_model.end():
            if piece.text:
                self.push_frame(_told(piece.text))
            if piece.made:
                self.push_frame(TTSStoppedFrame(piece.item_id))

    def _on_words(self, event: Mapping[str, Any]) -> None:
        if self._wanted(event) is not None:
            self._piece(event).text += event["delta"]
            self.progress()

    def _on_all_words(self, event: Mapping[str, Any]) -> None:
        if self._wanted(event) is not None:
            self._piece(event).text = event["transcript"].strip()

    def _on_text(self, event: Mapping[str, Any]) -> None:
        response = self._wanted(event)
        if response is not None:
            self.fail(ServiceError("openai", "the model writes where it should speak: see output_modalities"))

    def _on_item(self, event: Mapping[str, Any]) -> None:
        if self._wanted(event) is not None:
            self.progress()
            if event["item"].get("type") == "message":
                self._end_pieces()

    def _on_done(self, event: Mapping[str, Any]) -> None:
        told = event["response"]
        if counted := told.get("usage"):
            self.start_llm_usage_metrics(protocol.usage(counted))
        response = self._response
        if response is None or response.id != told.get("id"):
            self._dropped.discard(told.get("id"))
            if self._again and response is not None:
                self._again = False
                for message in self._ask(response):
                    self._send(message)
            return
        status = told.get("status")
        calls = self._calls(told.get("output") or ()) if status == "completed" else ()
        if not calls and not response.said and status != "cancelled":
            details = (told.get("status_details") or {}).get("error") or told.get("status_details")
            reason = protocol.problem(details) if status != "completed" else "an answer without a word"
            self.fail(ServiceError("openai", reason, retryable=True))
            return
        self._finish(response, calls)

    def _calls(self, output: Iterable[Mapping[str, Any]]) -> list[FunctionCallFromLLM]:
        return [
            FunctionCallFromLLM(
                item["name"],
                item["call_id"],
                arguments_of("openai", item["name"], item.get("arguments") or ""),
                self.conversation,
            )
            for item in output
            if item.get("type") == "function_call"
        ]

    def _on_error(self, event: Mapping[str, Any]) -> None:
        error = event.get("error") or {}
        code, asked_by = error.get("code"), error.get("event_id") or ""
        problem = ServiceError("openai", protocol.problem(error), retryable=True)
        response = self._response
        if code == _BUSY and response is not None and asked_by == response.event_id:
            self._again = True
        elif asked_by in self._to_drop:
            self._to_drop.discard(asked_by)
        elif asked_by == "session":
            self._unusable = problem  # formats and turns would not be what we take them for
            self.fail(problem)
            if self._line is not None:
                self.run_beside(self._line.close(), "unusable")
        elif code in _CROSSED:
            log.debug("realtime.crossed code=%s", code)
        elif response is not None and not response.said:
            self.fail(problem)
        else:
            log.warning("realtime.error service=%s: %s", self, problem)

    # ------------------------------------------------------------ what it tells of the caller

    def _on_server_start(self, event: Mapping[str, Any]) -> None:
        if self._server_turns:
            self.broadcast_frame(UserStartedSpeakingFrame)
            self.broadcast_interruption()

    def _on_server_stop(self, event: Mapping[str, Any]) -> None:
        if self._server_turns:
            self.broadcast_frame(UserStoppedSpeakingFrame)

    def _on_committed(self, event: Mapping[str, Any]) -> None:
        self._ear.uncommitted = False
        if self._session.transcription is not None:
            self._places[event["item_id"]] = len(self.conversation.messages)
        if self._server_turns:
            self._begin_response(asked=False)

    def _on_transcript(self, event: Mapping[str, Any]) -> None:
        """It comes when it comes: in the context it stands where it was said."""
        messages = self.conversation.messages
        place = min(self._places.pop(event["item_id"], len(messages)), len(messages))
        text = event["transcript"].strip()
        if not text:
            return
        messages.insert(place, {"role": "user", "content": text})
        self._places = {item: at + 1 if at >= place else at for item, at in self._places.items()}
        self.push_frame(TranscriptionFrame(text, "", iso_now(), finalized=True), UPSTREAM)


def _told(text: str) -> TTSTextFrame:
    """Words of the audio before it."""
    return TTSTextFrame(text, AggregationType.SENTENCE)


def _number(event_id: str) -> int:
    return int(event_id.rpartition("-")[2])


def _turn_detection(turns: Turns, silence_s: float) -> dict[str, Any] | None:
    if turns == "gateway":
        return None
    if turns == "semantic":
        return {"type": "semantic_vad", "create_response": True, "interrupt_response": True}
    silence_ms = round(silence_s * 1000)
    return {
        "type": "server_vad",
        "silence_duration_ms": silence_ms,
        "create_response": True,
        "interrupt_response": True,
    }


# ---------------------------------------------------------------- in gateway.toml


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIRealtimeSettings:
    """speech = { use = "openai_realtime", key = { env = "OPENAI_API_KEY" } }"""

    key: Secret | None = None
    base_url: str = URL
    model: str = "gpt-realtime"
    voice: str = "marin"
    turns: Turns = "gateway"  # who says where the caller's turns end; "server" by silence, "semantic" by meaning
    transcription: str = "gpt-4o-mini-transcribe"  # writes down what the caller says; "": nobody
    language: str = ""  # of the caller, as a hint for that
    beta: bool = False  # the API as it was in its beta
    options: Mapping[str, Any] = field(default_factory=dict)  # of the session, as OpenAI has them


class OpenAIRealtime(Keyed):
    settings = OpenAIRealtimeSettings
    variable = "OPENAI_API_KEY"

    def key(self, settings: OpenAIRealtimeSettings) -> str:
        """A server of one's own may need none."""
        return "" if settings.key is None and settings.base_url != URL else super().key(settings)

    def make(self, settings: OpenAIRealtimeSettings, *, silence_s: float = 0.6) -> OpenAIRealtimeLLMService:
        return OpenAIRealtimeLLMService(
            api_key=self.key(settings),
            base_url=settings.base_url,
            model=settings.model,
            voice=settings.voice,
            turns=settings.turns,
            silence_s=silence_s,
            transcription=settings.transcription,
            language=settings.language,
            beta=settings.beta,
            options=settings.options,
        )


SPEECH = OpenAIRealtime()
