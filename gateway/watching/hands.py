"""What a watcher asks, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from bots.rtvi import models as RTVI
from bots.rtvi.processor import ACTS, Act, BadMessage, RTVIProcessor
from gateway.control import COMMANDS, ControlError
from media.errors import RemoteProtocolError
from media.events import DONE
from media.frames import EndTaskFrame, Frame
from media.processor import DOWNSTREAM, FrameDirection
from serializers.base import Message
from serializers.protobuf import message_in

if TYPE_CHECKING:
    from gateway.watching.watch import Watch
    from gateway.watching.watcher import Watcher

NOT_ALLOWED = "this takes a token of scope control"
OWN = "call."  # requests that are for the gateway, not for the bot


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Say(_Data):
    text: str = Field(min_length=1, max_length=2000)


class Digits(_Data):
    digits: str


class Mute(_Data):
    on: bool = True


class Interrupt(_Data):
    pass


class Transfer(_Data):
    target: str = Field(pattern=r"^[+0-9A-Za-z:@._~=\-]{1,128}$")


class End(_Data):
    reason: str = Field(default="watcher", pattern=r"^[a-z0-9-]{1,40}$")


class Hands(RTVIProcessor):
    """One watcher's messages. It stands in no pipeline: what it pushes goes in at the top of the call's."""

    def __init__(self, watch: Watch, watcher: Watcher) -> None:
        super().__init__(name="Watcher", ready_by_itself=True)
        self._watch_of, self._watcher = watch, watcher
        self._acts = _CONTROLS if watcher.claims.may_control else _LISTENS

    def read(self, data: Message) -> None:
        """A message off the watcher's socket; the microphone of Pipecat's clients is left out unread."""
        if isinstance(data, bytes):
            if data[:1] == _AUDIO:
                return
            try:
                text = message_in(data)
            except RemoteProtocolError:
                self._send_error_response("", "Invalid message: not a frame")
                return
            if text is None:
                return
        else:
            text = data
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            self._send_error_response("", "Invalid message: not JSON")
            return
        if isinstance(message, Mapping) and message.get("label") == RTVI.MESSAGE_LABEL:
            self.take(message)
        else:
            self._send_error_response("", f"Invalid message: its label is not {RTVI.MESSAGE_LABEL}")

    # ------------------------------------------------------------ where it leads

    def tell(self, message: BaseModel) -> None:
        self._watch_of.say(self._watcher, message)

    def push_frame(self, frame: Frame, direction: FrameDirection = DOWNSTREAM) -> Awaitable[None]:
        if isinstance(frame, EndTaskFrame):
            self._watch_of.core.end("watcher")
        else:
            self._watch_of.core.inject(frame)
        return DONE

    def interrupt_bot(self) -> Awaitable[None]:
        self._watch_of.core.interrupt()
        return DONE

    # ------------------------------------------------------------ what it asks

    def _on_client_ready(self, id: str, data: Any) -> None:
        super()._on_client_ready(id, data)
        self._watch_of.ready(self._watcher)

    def _on_client_message(self, id: str, data: Any) -> None:
        raw = RTVI.RawClientMessageData.model_validate(data)
        try:
            if raw.t.startswith(OWN):
                self._do(raw)
                self.send_server_response(RTVI.ClientMessage(msg_id=id, type=raw.t), {})
            else:
                self._watch_of.ask_bot(self._watcher, id, raw)
        except ControlError as exc:
            raise BadMessage(str(exc)) from None

    def _do(self, raw: RTVI.RawClientMessageData) -> None:
        """What the gateway itself does."""
        known = _OWN.get(raw.t)
        if known is None:
            raise BadMessage(f"Unsupported request; there are {', '.join(sorted(_OWN))}")
        kind, act = known
        act(self._watch_of, self._watcher, kind.model_validate({} if raw.d is None else raw.d))

    def _not_allowed(self, id: str, data: Any) -> None:
        raise BadMessage(NOT_ALLOWED)


_AUDIO = b"\x12"  # how a protobuf frame begins that is audio

_CONTROLS: Mapping[str, Act] = MappingProxyType(
    {
        "client-ready": Hands._on_client_ready,
        "client-message": Hands._on_client_message,
        **{kind: ACTS[kind] for kind in ("send-text", "dtmf", "disconnect-bot")},
    }
)
_LISTENS: Mapping[str, Act] = {
    **dict.fromkeys(_CONTROLS, Hands._not_allowed),
    "client-ready": Hands._on_client_ready,
}

_OWN: Mapping[str, tuple[type[BaseModel], Callable[[Watch, Watcher, Any], None]]] = {
    "call.say": (Say, lambda watch, watcher, asked: watch.speak(asked.text)),
    "call.digits": (Digits, lambda watch, watcher, asked: COMMANDS["digits"](watch.session, asked.digits)),
    "call.mute": (Mute, lambda watch, watcher, asked: watch.mute(watcher, asked.on)),
    "call.interrupt": (Interrupt, lambda watch, watcher, asked: watch.core.interrupt()),
    "call.transfer": (Transfer, lambda watch, watcher, asked: COMMANDS["transfer"](watch.session, asked.target)),
    "call.end": (End, lambda watch, watcher, asked: COMMANDS["end"](watch.session, asked.reason)),
}
