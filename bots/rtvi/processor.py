"""RTVI's messages, in and out, in a pipeline.

`RTVIProcessor` stands first. It takes the messages of a client out of the stream, and pushes what the client is told
as OutputTransportMessageUrgentFrame: a serializer for a phone carrier leaves those out. What happens in the pipeline is
told by an `RTVIObserver`, which is attached when a client says that it is ready: without one nobody watches.
"""

from __future__ import annotations

import base64
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from bots.rtvi import models as RTVI
from media.events import DONE
from media.flow import UNBOUND, Entry
from media.frames import (
    EndTaskFrame,
    ErrorFrame,
    FatalErrorFrame,
    Frame,
    FunctionCallResultFrame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InputTransportMessageFrame,
    KeypadEntry,
    LLMConfigureOutputFrame,
    LLMMessagesAppendFrame,
    OutputTransportMessageUrgentFrame,
    RTVIClientMessageFrame,
    StartFrame,
)
from media.observers import BaseObserver, FramePushed
from media.processor import UPSTREAM, FrameDirection, FrameProcessor

if TYPE_CHECKING:
    from bots.rtvi.observer import RTVIObserver, RTVIObserverParams

log = logging.getLogger(__name__)

ABOUT = {"library": "telephony-gateway"}
EARLY = 100  # messages of the application that wait for the client to be ready; then the oldest is dropped
TEXT_LIMIT = 200  # characters of a problem that a client is told
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_COMPATIBLE = ("1", RTVI.PROTOCOL_VERSION.partition(".")[0])

Tap = Callable[[FrameProcessor, FrameProcessor, FrameDirection, Entry], Entry]
Act = Callable[[Any, str, Any], None]  # (processor, id, data)
Asked = RTVI.ClientMessage | RTVIClientMessageFrame


class BadMessage(ValueError):
    """What a client is told of its message."""


class RTVIProcessor(FrameProcessor):
    """Speaks RTVI with one client.

    Events: on_bot_started() when StartFrame comes; on_client_ready(); on_client_message(ClientMessage);
    on_ui_event(UIEventData), on_ui_snapshot(A11ySnapshot), on_ui_cancel_job_group(UICancelJobGroupData).

    With `ready_by_itself` client-ready is answered with bot-ready when the handlers of on_client_ready have begun;
    a PipelineTask turns it on for the processor that it makes. `observer_params` None: nothing is told of the pipeline.
    `error_text` is what a client is told of an error in place of its own text, which may name what is none of its
    business.
    """

    def __init__(
        self,
        *,
        transport: Any = None,
        observer_params: RTVIObserverParams | None = None,
        ready_by_itself: bool = False,
        error_text: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.transport = transport
        self.observer_params = observer_params
        self.ready_by_itself = ready_by_itself
        self._error_text = error_text
        # Who attaches the observer: a task with observers of its own. None: this processor does.
        self.attach: Callable[[BaseObserver], None] | None = None
        self.client_version = ""
        self._client_ready = self._bot_ready = False
        self._ready_id = ""
        self._about: Mapping[str, Any] = ABOUT
        self._early: deque[BaseModel] = deque(maxlen=EARLY)
        self._observer: RTVIObserver | None = None
        self._acts = ACTS  # what becomes of each type of message
        for event in (
            "on_bot_started",
            "on_client_ready",
            "on_client_message",
            "on_ui_event",
            "on_ui_snapshot",
            "on_ui_cancel_job_group",
        ):
            self._register_event_handler(event)

    # ------------------------------------------------------------ frames

    def process_frame(self, frame: Frame, direction: FrameDirection) -> Awaitable[None]:
        take = _TAKES.get(type(frame))
        if take is not None and take(self, frame, direction):
            return DONE
        return self.push_frame(frame, direction)

    def _take_start(self, frame: StartFrame, direction: FrameDirection) -> bool:
        self._call_event_handler("on_bot_started")
        return False

    def _take_message(self, frame: InputTransportMessageFrame, direction: FrameDirection) -> bool:
        """Ours are taken out of the stream, from above or, of a transport behind us, from below; others go on."""
        message = frame.message
        if not isinstance(message, Mapping) or message.get("label") != RTVI.MESSAGE_LABEL:
            return False
        self.take(message)
        return True

    def _take_error(self, frame: ErrorFrame, direction: FrameDirection) -> bool:
        if direction is UPSTREAM and self._client_ready and getattr(self.observer_params, "errors_enabled", True):
            self.send_error(self._error_text or frame.error, frame.fatal)
        return False

    def cleanup(self) -> Any:
        observer, self._observer = self._observer, None  # which has this processor
        if observer is not None and self.attach is None:
            observer.cleanup()
        return super().cleanup()

    # ------------------------------------------------------------ ready

    def set_client_ready(self) -> Awaitable[None]:
        """As if a client had said that it is ready."""
        if self._observer is None and self.observer_params is not None:
            self._watch(self.observer_params)
        self._client_ready = True
        self._call_event_handler("on_client_ready")
        if self.ready_by_itself:
            self.set_bot_ready()
        return DONE

    def set_bot_ready(self, about: Mapping[str, Any] | None = None) -> Awaitable[None]:
        """Answer client-ready, now or when it comes. `about` is for the client: what this bot is."""
        if about is not None:
            self._about = about
        self._bot_ready = True
        if self._client_ready and self._ready_id:
            said, self._ready_id = self._ready_id, ""  # each client-ready has one answer
            # 1.x is understood too, and such a client is told its own version.
            version = self.client_version if self.client_version.startswith("1.") else RTVI.PROTOCOL_VERSION
            self.tell(RTVI.BotReady(id=said, data=RTVI.BotReadyData(version=version, about=self._about)))
            while self._early:
                self.tell(self._early.popleft())
        return DONE

    @property
    def client_is_ready(self) -> bool:
        return self._client_ready

    def _watch(self, params: RTVIObserverParams) -> None:
        """From now on somebody wants to know what happens in the pipeline."""
        from bots.rtvi.observer import RTVIObserver

        if self.attach is None and self._flow is UNBOUND:
            return  # the pipeline is over
        self._observer = RTVIObserver(self, params=params)
        if self.attach is not None:
            self.attach(self._observer)
            return
        self._flow.tap = self._tap(self._observer)  # a call has no other observers
        self._flow.relink()

    def _tap(self, observer: RTVIObserver) -> Tap:
        """Shows `observer` what passes a link: at once, for it only looks and tells."""
        clock = self.get_clock()

        def tap(source: FrameProcessor, peer: FrameProcessor, direction: FrameDirection, entry: Entry) -> Entry:
            def tapped(frame: Frame, towards: FrameDirection) -> None:
                if observer.tells(type(frame)):
                    try:
                        result = observer.on_push_frame(FramePushed(source, peer, frame, towards, clock.get_time()))
                        if result is not DONE:
                            self.create_task(result, "telling")
                    except Exception:
                        log.exception("rtvi.observer_failed frame=%s", type(frame).__name__)
                entry(frame, towards)

            return tapped

        return tap

    # ------------------------------------------------------------ to the client

    def tell(self, message: BaseModel) -> None:
        """Push a message; fields that are None are left out. Raises TypeError or ValueError for what is no JSON."""
        self.push_frame(OutputTransportMessageUrgentFrame(message.model_dump(mode="json", exclude_none=True)))

    def send_server_message(self, data: Any) -> Awaitable[None]:
        """The application's own message. It waits for the client to be ready."""
        message = RTVI.ServerMessage(data=data)
        if self._client_ready and self._bot_ready:
            self.tell(message)
        else:
            self._early.append(message)
        return DONE

    def send_server_response(self, client_msg: Asked, data: Any = None) -> Awaitable[None]:
        """Answer a client's request."""
        answer = RTVI.RawServerResponseData(t=client_msg.type, d=data)
        try:
            self.tell(RTVI.ServerResponse(id=client_msg.msg_id, data=answer))
        except (TypeError, ValueError) as exc:
            log.error("rtvi.answer_is_no_json type=%s problem=%s", client_msg.type[:40], type(exc).__name__)
            self._send_error_response(client_msg.msg_id, "the answer could not be sent")
        return DONE

    def send_error_response(self, client_msg: Asked, error: str) -> Awaitable[None]:
        """Answer a client's request: it failed."""
        return self._send_error_response(client_msg.msg_id, error)

    def _send_error_response(self, id: str, error: str) -> Awaitable[None]:
        self.tell(RTVI.ErrorResponse(id=id, data=RTVI.ErrorResponseData(error=error)))
        return DONE

    def send_error(self, error: str | ErrorFrame, fatal: bool = False) -> Awaitable[None]:
        """Something failed; with `fatal` the client leaves."""
        if isinstance(error, ErrorFrame):
            data = RTVI.ErrorData(error=error.error, fatal=error.fatal)
        else:
            data = RTVI.ErrorData(error=error, fatal=fatal)
        self.tell(RTVI.Error(data=data))
        return DONE

    def send_ui_command(self, command: str, payload: Any = None) -> Awaitable[None]:
        """Have the client's page do something: `payload` is a model such as Toast, or plain data."""
        if isinstance(payload, BaseModel):
            payload = payload.model_dump(mode="json", exclude_none=True)
        self.tell(RTVI.UICommandMessage(data=RTVI.UICommandData(command=command, payload=payload)))
        return DONE

    def send_ui_job_group(self, data: RTVI.UIJobGroupData) -> Awaitable[None]:
        """How far a group of jobs has come."""
        self.tell(RTVI.UIJobGroupMessage(data=data))
        return DONE

    def handle_function_call(
        self,
        function_name: Any,
        tool_call_id: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        *_: Any,
        **__: Any,
    ) -> Awaitable[None]:
        """Have the client do what a function does; takes FunctionCallParams, or name, id and arguments.

        The client's llm-function-call-result goes down the pipeline as FunctionCallResultFrame.
        """
        if not isinstance(function_name, str):
            params = function_name
            function_name, tool_call_id, arguments = params.function_name, params.tool_call_id, params.arguments
        data = RTVI.LLMFunctionCallMessageData(
            function_name=function_name, tool_call_id=tool_call_id or "", args=dict(arguments or {})
        )
        self.tell(RTVI.LLMFunctionCallMessage(data=data))
        return DONE

    def interrupt_bot(self) -> Awaitable[None]:
        """The bot stops speaking."""
        self.broadcast_interruption()
        return DONE

    # ------------------------------------------------------------ from the client

    def take(self, message: Mapping[str, Any]) -> None:
        """One message of the client; whatever is wrong with it, it is told so, and the session goes on."""
        kind, id = message.get("type"), message.get("id")
        id = id if isinstance(id, str) else ""
        act = self._acts.get(kind) if isinstance(kind, str) else None
        try:
            if not isinstance(kind, str):
                raise BadMessage("Invalid message: it has no type")
            if act is None:
                raise BadMessage(f"Unsupported type {kind[:TEXT_LIMIT]}")
            act(self, id, message.get("data"))
        except ValidationError as exc:
            where = ", ".join(".".join(map(str, error["loc"])) or "data" for error in exc.errors(include_url=False)[:5])
            self._refuse(kind, id, f"Invalid message: {where}"[:TEXT_LIMIT])
        except BadMessage as exc:
            self._refuse(kind, id, str(exc))
        except Exception:
            log.exception("rtvi.message_failed type=%s", kind)
            self._send_error_response(id, "the message could not be handled")

    def _refuse(self, kind: Any, id: str, problem: str) -> None:
        log.debug("rtvi.bad_message type=%.40s problem=%s", kind, problem)
        self._send_error_response(id, problem)

    def _on_client_ready(self, id: str, data: Any) -> None:
        """Whatever version the client has, it is let in: it is told if we may not understand each other."""
        self._ready_id = id or "0"
        self.client_version = ""
        problem = ""
        if data is not None:  # very old clients send none
            try:
                self.client_version = RTVI.ClientReadyData.model_validate(data).version
            except ValidationError:
                version = data.get("version") if isinstance(data, Mapping) else None
                self.client_version = version if isinstance(version, str) else ""
                problem = "client-ready: about or version is missing or malformed"
        if self.client_version:
            version = _VERSION.fullmatch(self.client_version)
            if version is None:
                problem, self.client_version = "client-ready: the version is malformed", ""
            elif version[1] not in _COMPATIBLE:
                problem = f"client-ready: version {self.client_version[:20]}, and this is {RTVI.PROTOCOL_VERSION}"
        elif not problem:
            problem = "client-ready: no version"
        if problem:
            self._refuse("client-ready", id, problem)
        self.set_client_ready()
        if self._bot_ready:
            self.set_bot_ready()

    def _on_client_message(self, id: str, data: Any) -> None:
        raw = RTVI.RawClientMessageData.model_validate(data)
        said = RTVI.ClientMessage(msg_id=id, type=raw.t, data=raw.d)
        self.push_frame(RTVIClientMessageFrame(id, raw.t, raw.d))
        self._call_event_handler("on_client_message", said)

    def _on_send_text(self, id: str, data: Any) -> None:
        text = RTVI.SendTextData.model_validate(data)
        options = text.options or RTVI.SendTextOptions()
        if options.run_immediately:
            self.interrupt_bot()
        if not options.audio_response:
            self.push_frame(LLMConfigureOutputFrame(skip_tts=True))
        messages = [{"role": "user", "content": text.content}]
        self.push_frame(LLMMessagesAppendFrame(messages, run_llm=options.run_immediately))
        if not options.audio_response:
            self.push_frame(LLMConfigureOutputFrame(skip_tts=False))

    def _on_append(self, id: str, data: Any) -> None:
        old = RTVI.AppendToContextData.model_validate(data)
        if old.run_immediately:
            self.interrupt_bot()
        messages = [{"role": old.role, "content": old.content}]
        self.push_frame(LLMMessagesAppendFrame(messages, run_llm=old.run_immediately))

    def _on_dtmf(self, id: str, data: Any) -> None:
        keys = RTVI.DTMFData.model_validate(data)
        buttons = keys.buttons if keys.buttons is not None else [keys.button or ""]
        try:
            entries = [KeypadEntry(button) for button in buttons]
        except ValueError:
            raise BadMessage("Invalid message: a button that is none of 0-9, *, #") from None
        for entry in entries:
            self.push_frame(InputDTMFFrame(entry))

    def _on_disconnect(self, id: str, data: Any) -> None:
        self.push_frame(EndTaskFrame("client"), UPSTREAM)

    def _on_result(self, id: str, data: Any) -> None:
        done = RTVI.LLMFunctionCallResultData.model_validate(data)
        frame = FunctionCallResultFrame(done.function_name, done.tool_call_id, done.arguments, done.result)
        self.push_frame(frame)

    def _on_raw_audio(self, id: str, data: Any) -> None:
        audio = RTVI.RawAudioData.model_validate(data)
        pieces = audio.base64AudioBatch if audio.base64AudioBatch is not None else [audio.base64Audio or ""]
        try:
            pcm = b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
        except ValueError:
            raise BadMessage("Invalid message: audio that is not base64") from None
        if not pcm or len(pcm) % (2 * audio.numChannels):
            raise BadMessage("Invalid message: audio of no whole samples")
        self.push_frame(InputAudioRawFrame(pcm, audio.sampleRate, audio.numChannels))

    def _on_ui_event(self, id: str, data: Any) -> None:
        self._call_event_handler("on_ui_event", RTVI.UIEventData.model_validate(data))

    def _on_ui_snapshot(self, id: str, data: Any) -> None:
        self._call_event_handler("on_ui_snapshot", RTVI.UISnapshotData.model_validate(data).tree)

    def _on_ui_cancel(self, id: str, data: Any) -> None:
        self._call_event_handler("on_ui_cancel_job_group", RTVI.UICancelJobGroupData.model_validate(data))


_TAKES: Mapping[type, Callable[[RTVIProcessor, Any, FrameDirection], bool]] = {
    StartFrame: RTVIProcessor._take_start,
    InputTransportMessageFrame: RTVIProcessor._take_message,
    ErrorFrame: RTVIProcessor._take_error,
    FatalErrorFrame: RTVIProcessor._take_error,
}
ACTS: Mapping[str, Act] = {
    "client-ready": RTVIProcessor._on_client_ready,
    "client-message": RTVIProcessor._on_client_message,
    "send-text": RTVIProcessor._on_send_text,
    "append-to-context": RTVIProcessor._on_append,
    "dtmf": RTVIProcessor._on_dtmf,
    "disconnect-bot": RTVIProcessor._on_disconnect,
    "llm-function-call-result": RTVIProcessor._on_result,
    "raw-audio": RTVIProcessor._on_raw_audio,
    "raw-audio-batch": RTVIProcessor._on_raw_audio,
    "ui-event": RTVIProcessor._on_ui_event,
    "ui-snapshot": RTVIProcessor._on_ui_snapshot,
    "ui-cancel-job-group": RTVIProcessor._on_ui_cancel,
}
