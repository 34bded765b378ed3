"""One live call that somebody watches: what happens is told once, encoded once, and handed to all who watch.

Nothing of this exists for a call that nobody watches. It looks at frames as they pass, keeps none, and waits for
nobody: what a watcher does not read is the watcher's loss.
"""

from __future__ import annotations

import contextvars
import itertools
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import structlog
from pydantic import BaseModel

from bots.rtvi import models as RTVI
from bots.rtvi.observer import RTVIFunctionCallReportLevel, RTVIObserver, RTVIObserverParams
from bots.rtvi.processor import RTVIProcessor
from gateway.control import ControlError, view
from gateway.core import CallCore
from gateway.session import CallSession
from gateway.states import CallState
from gateway.tokens import WatchClaims
from gateway.trail import Entry
from gateway.watching.sound import Listening, Sound, levels
from gateway.watching.speech import speech_for
from gateway.watching.watcher import Watcher
from media.events import DONE, MaybeAwaitable
from media.flow import Entry as LinkEntry
from media.frames import (
    Frame,
    InputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    RTVIClientMessageFrame,
    RTVIServerResponseFrame,
    TTSSpeakFrame,
)
from media.observers import FramePushed
from media.processor import FrameDirection, FrameProcessor
from serializers.base import Message
from serializers.protobuf import packed_audio, packed_message

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.watching")

LOOK_S: Final = 0.1  # between looks at what has been heard
COUNTS_S: Final = 1.0
ASKED: Final = 200  # requests to the bot whose answers are waited for, of one call
LATER: Final = 20  # texts that are being made into speech

_LEVEL: Final = '{"label":"rtvi-ai","type":"%s-audio-level","data":{"value":%s}}'
PARAMS: Final = RTVIObserverParams(function_call_report_level={"*": RTVIFunctionCallReportLevel.NAME})


class Watch:
    """What is told of one call, and to whom.

    Args:
        later: does something that takes long beside the call.
        over: called when the call is over and all have been told, or nobody watches any more.
    """

    def __init__(
        self,
        session: CallSession,
        later: Callable[[Coroutine[Any, Any, Any], str], object],
        over: Callable[[], None],
    ) -> None:
        self.session: CallSession = session
        self.core: CallCore = session.core
        self.watchers: list[Watcher] = []
        self._later, self._over = later, over
        self._observer = _Observer(self._tell, PARAMS)
        self._wants = _Wants(self._observer)
        self._logs: _Observer | None = None  # made for the first who wants log lines
        self._listening: Listening | None = None
        self._sounds: dict[tuple[str, int], Sound] = {}
        self._begun = self._ended = False
        self._next_look = self._next_counts = 0.0
        self._counts: Mapping[str, Any] = {}
        self._asked: dict[str, tuple[Watcher, str]] = {}  # our id of a request to the bot -> whose, and his own id
        self._numbers = itertools.count(1)
        self._muted_by: Watcher | None = None
        self._speaking = 0
        self.core.trail.tell = self._on_trail

    # ------------------------------------------------------------ life

    def add(self, watcher: Watcher) -> None:
        self.watchers.append(watcher)
        if not self._begun:
            self._begin()
        log.info(
            "watching.begins",
            call=self.core.info.call_id,
            may_control=watcher.claims.may_control,
            audio=watcher.claims.audio,
            watchers=len(self.watchers),
        )

    def discard(self, watcher: Watcher) -> None:
        """It has left: with it goes what it had done to the call."""
        if watcher not in self.watchers:
            return
        self.watchers.remove(watcher)
        self._asked = {ours: (who, own) for ours, (who, own) in self._asked.items() if who is not watcher}
        if self._muted_by is watcher:
            self._muted_by = None
            self.core.mute(False)
        log.info(
            "watching.ends",
            call=self.core.info.call_id,
            dropped_ms=round(watcher.dropped_s * 1000),
            code=watcher.close_code,
        )
        if not self.watchers:
            self._end()

    def tick(self, now: float) -> None:
        """Every 20 ms, beside the calls."""
        if self._ended or now < self._next_look:
            return
        self._next_look = now + LOOK_S
        if not self._begun:
            self._begin()
        if self._listening is not None:
            self._pass_sound(self._listening)
        if now >= self._next_counts:
            self._next_counts = now + COUNTS_S
            self._tell_counts()
        if self.core.over:
            self._tell_server("over", t=self._t(), reason=self.core.reason, ended_by=self.core.ended_by)
            for watcher in self.watchers:
                watcher.leave(1000)
            self._end()

    def _begin(self) -> None:
        """The bot's pipeline is there: see what passes."""
        core = self.core
        if core.pipeline is None or core.output.ledger is None or core.over:
            return
        self._begun = True
        core.input._flow.add_tap(self._tap)
        now = core.now()
        self._listening = Listening(core.output.ledger, now, now - core.opened)
        core.listen(self._listening)

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self.core.trail.tell = None
        if self._listening is not None:
            self._listening.stop()
        if self._begun:
            self.core.input._flow.remove_tap(self._tap)
        if self._logs is not None:
            self._logs.cleanup()
        self._asked.clear()
        self._over()

    # ------------------------------------------------------------ to the watchers

    def ready(self, watcher: Watcher) -> None:
        """It may be told from now on, and is told how things stand."""
        if watcher.is_ready:
            return
        watcher.is_ready = True
        if watcher.claims.logs and self._logs is None:
            # The handler knows the call's lines by the call that is bound as it is made.
            context = contextvars.copy_context()
            context.run(structlog.contextvars.bind_contextvars, call=self.core.info.call_id)
            self._logs = context.run(_Observer, self._tell_logs, RTVIObserverParams(system_logs_enabled=True))
        call = {**view(self.session), "scope": "control" if watcher.claims.may_control else "listen"}
        sound = self._sound_of(watcher.claims)
        call["audio"] = {"rate": sound.rate, "channels": sound.channels} if sound is not None else None
        call["events"] = list(self.core.trail.entries)
        self.say(watcher, RTVI.ServerMessage(data={"type": "call", **call}))

    def say(self, watcher: Watcher, message: BaseModel) -> None:
        """To one of them. Raises TypeError or ValueError for what is no JSON."""
        text = message.model_dump_json(exclude_none=True)
        watcher.tell(text if watcher.claims.format == "json" else packed_message(text))

    def _tell(self, message: BaseModel, *, logs: bool = False) -> None:
        """To all who are ready, encoded once."""
        if any(watcher.is_ready for watcher in self.watchers):
            self._tell_text(message.model_dump_json(exclude_none=True), logs=logs)

    def _tell_text(self, text: str, *, logs: bool = False) -> None:
        packed = b""
        for watcher in self.watchers:
            if not watcher.is_ready or (logs and not watcher.claims.logs):
                continue
            if watcher.claims.format == "json":
                watcher.tell(text)
            else:
                packed = packed or packed_message(text)
                watcher.tell(packed)

    def _tell_logs(self, message: BaseModel) -> None:
        self._tell(message, logs=True)

    def _tell_server(self, kind: str, **fields: Any) -> None:
        self._tell(RTVI.ServerMessage(data={"type": kind, **fields}))

    def _on_trail(self, entry: Entry) -> None:
        try:
            self._tell_server("event", **entry)
        except Exception:
            log.exception("watching.entry_failed", what=entry.get("what"))

    def _tell_counts(self) -> None:
        counts = dict(self.core.counters)
        if counts != self._counts:
            self._counts = counts
            self._tell_server("counters", t=self._t(), state=self.core.state.value, counters=counts)

    def _t(self) -> float:
        return round(self.core.now() - self.core.opened, 3)

    # ------------------------------------------------------------ sound

    def _sound_of(self, claims: WatchClaims) -> Sound | None:
        if not claims.audio:
            return None
        way = claims.audio, claims.rate
        if way not in self._sounds:
            self._sounds[way] = Sound(claims.audio, self.core.send_rate, claims.rate)
        return self._sounds[way]

    def _pass_sound(self, listening: Listening) -> None:
        for t, pcm in listening.take():
            lasts_s = len(pcm) / (4 * listening.tape.sample_rate)
            if not any(watcher.is_ready for watcher in self.watchers):
                continue
            user, bot = levels(pcm)
            self._tell_text(_LEVEL % ("user", user))
            self._tell_text(_LEVEL % ("bot", bot))
            made: dict[tuple[str, int, str], Message] = {}
            for watcher in self.watchers:
                claims = watcher.claims
                sound = self._sound_of(claims) if watcher.is_ready else None
                if sound is None:
                    continue
                way = claims.audio, claims.rate, claims.format
                if way not in made:
                    made.update(self._made(sound, pcm, t, claims))
                watcher.hear(made[way], t, lasts_s)

    def _made(self, sound: Sound, pcm: bytes, t: float, claims: WatchClaims) -> Mapping[tuple[str, int, str], Message]:
        """Both formats of one way to hear, for its resamplers go on from one piece to the next."""
        audio = sound.of(pcm)
        packed = packed_audio(audio, sound.rate, sound.channels, round(t * 1e9))
        return {
            (claims.audio, claims.rate, "json"): audio,
            (claims.audio, claims.rate, "protobuf"): packed,
        }

    # ------------------------------------------------------------ what passes

    def _tap(
        self, source: FrameProcessor, peer: FrameProcessor, direction: FrameDirection, entry: LinkEntry
    ) -> LinkEntry:
        observer, wants = self._observer, self._wants

        def tapped(frame: Frame, towards: FrameDirection) -> None:
            if wants[type(frame)]:
                try:
                    if self._is_ours(frame):
                        return
                    observer.on_push_frame(FramePushed(source, peer, frame, towards, 0))
                except Exception:
                    log.exception("watching.frame_failed", frame=type(frame).__name__)
            entry(frame, towards)

        return tapped

    def _is_ours(self, frame: Frame) -> bool:
        """The bot's answer to a watcher goes to that watcher, and no further."""
        if not self._asked:
            return False
        if isinstance(frame, RTVIServerResponseFrame):
            asked = self._asked.pop(frame.client_msg.msg_id, None)
            if asked is None:
                return False
            watcher, id = asked
            if frame.error is not None:
                self.say(watcher, RTVI.ErrorResponse(id=id, data=RTVI.ErrorResponseData(error=frame.error)))
            else:
                data = RTVI.RawServerResponseData(t=frame.client_msg.type, d=frame.data)
                self.say(watcher, RTVI.ServerResponse(id=id, data=data))
            return True
        message = frame.message if isinstance(frame, OutputTransportMessageUrgentFrame) else None
        if not isinstance(message, Mapping) or not isinstance(ours := message.get("id"), str):
            return False
        asked = self._asked.pop(ours, None)
        if asked is None:
            return False
        watcher, id = asked
        text = json.dumps({**message, "id": id})
        watcher.tell(text if watcher.claims.format == "json" else packed_message(text))
        return True

    # ------------------------------------------------------------ what they do

    def ask_bot(self, watcher: Watcher, id: str, raw: RTVI.RawClientMessageData) -> None:
        """The application's own message, by an id of ours, so that the answer finds whoever has asked."""
        pipeline = self.core.pipeline
        if pipeline is None or not self._begun:
            raise ControlError(409, "there is no bot yet")
        ours = f"watcher-{next(self._numbers)}"
        if len(self._asked) >= ASKED:
            del self._asked[next(iter(self._asked))]
        self._asked[ours] = watcher, id
        if any(isinstance(each, RTVIProcessor) for each in pipeline.flow.processors):
            said = {"t": raw.t, "d": raw.d}
            message = {"label": RTVI.MESSAGE_LABEL, "type": "client-message", "id": ours, "data": said}
            self.core.inject(InputTransportMessageFrame(message))
        else:
            self.core.inject(RTVIClientMessageFrame(ours, raw.t, raw.d))

    def mute(self, watcher: Watcher, on: bool) -> None:
        self._muted_by = watcher if on else None
        self.core.mute(on)

    def speak(self, text: str) -> None:
        """Raises ControlError where nobody can say it."""
        from bots.services.tts import TTSService  # most calls have none

        pipeline = self.core.pipeline
        if pipeline is None or not self._begun:
            raise ControlError(409, "there is no bot yet")
        if self.core.state not in (CallState.LIVE, CallState.PAUSED):
            raise ControlError(409, "the call is ending: nothing more is said")
        if any(isinstance(each, TTSService) for each in pipeline.flow.processors):
            self.core.inject(TTSSpeakFrame(text))
            return
        make = speech_for(self.session, text)
        if self._speaking >= LATER:
            raise ControlError(503, "too much is being said")

        async def speak() -> None:
            try:
                frames = await make()
                if not self.core.over:
                    for frame in frames:
                        self.core.output.queue_frame(frame)
            finally:
                self._speaking -= 1

        self._speaking += 1
        self._later(speak(), "watcher-speech")


class _Wants(dict[type, bool]):
    """Whether frames of a class are looked at; found once per class, for audio comes by the packet."""

    def __init__(self, observer: RTVIObserver) -> None:
        super().__init__({OutputTransportMessageUrgentFrame: True})
        self._observer = observer

    def __missing__(self, cls: type) -> bool:
        found = self[cls] = self._observer.tells(cls)
        return found


class _Observer(RTVIObserver):
    """Tells all watchers at once."""

    tells_segments = True

    def __init__(self, say: Callable[[BaseModel], None], params: RTVIObserverParams) -> None:
        self._say = say
        super().__init__(None, params=params)

    def _tell(self, message: BaseModel) -> MaybeAwaitable:
        self._say(message)
        return DONE
