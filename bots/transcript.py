"""TranscriptProcessor, of older programs: who said what, message by message. New ones use the turn events of the
context's aggregators, which need no processors of their own.
"""

from __future__ import annotations

from typing import Any

from bots.context.messages import iso_now
from bots.context.words import Words
from media.events import DONE, Handler, MaybeAwaitable
from media.flow import DOWNSTREAM
from media.frames import (
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    TranscriptionFrame,
    TranscriptionMessage,
    TranscriptionUpdateFrame,
    TTSTextFrame,
)
from media.processor import FrameDirection, FrameProcessor


class BaseTranscriptProcessor(FrameProcessor):
    """Event: on_transcript_update(TranscriptionUpdateFrame). The frame is pushed downstream, too."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._register_event_handler("on_transcript_update")

    def _tell(self, message: TranscriptionMessage) -> None:
        frame = TranscriptionUpdateFrame([message])
        self._call_event_handler("on_transcript_update", frame)
        self.push_frame(frame)


class UserTranscriptProcessor(BaseTranscriptProcessor):
    """Behind the recogniser: each of its transcripts is a message."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if isinstance(frame, TranscriptionFrame) and frame.text:
            self._tell(TranscriptionMessage("user", frame.text, frame.user_id, frame.timestamp))
        self.push_frame(frame, direction)
        return DONE


class AssistantTranscriptProcessor(BaseTranscriptProcessor):
    """Behind the output: what was spoken between two silences is a message; what was cut off is not in it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._words, self._began = Words(), ""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if direction is DOWNSTREAM:
            if isinstance(frame, TTSTextFrame):
                self._began = self._began or iso_now()
                self._words.add(frame.text, spaced=frame.includes_inter_frame_spaces)
            elif isinstance(frame, BotStoppedSpeakingFrame | InterruptionFrame | EndFrame | CancelFrame):
                self._flush()
        self.push_frame(frame, direction)
        return DONE

    def _flush(self) -> None:
        began, self._began = self._began, ""
        if text := self._words.take():
            self._tell(TranscriptionMessage("assistant", text, timestamp=began))


class TranscriptProcessor:
    """Makes the two, and registers handlers with both."""

    def __init__(self) -> None:
        self._user: UserTranscriptProcessor | None = None
        self._assistant: AssistantTranscriptProcessor | None = None
        self._handlers: list[tuple[str, Handler]] = []

    def user(self, **kwargs: Any) -> UserTranscriptProcessor:
        """Goes right behind the recogniser. The same one each time."""
        if self._user is None:
            self._user = self._told(UserTranscriptProcessor(**kwargs))
        return self._user

    def assistant(self, **kwargs: Any) -> AssistantTranscriptProcessor:
        """Goes right behind the output. The same one each time."""
        if self._assistant is None:
            self._assistant = self._told(AssistantTranscriptProcessor(**kwargs))
        return self._assistant

    def _told(self, made: Any) -> Any:
        for event_name, handler in self._handlers:
            made.add_event_handler(event_name, handler)
        return made

    def event_handler(self, event_name: str) -> Any:
        """Decorator: the handler hears both, whether they were made before or will be."""

        def register(handler: Handler) -> Handler:
            self._handlers.append((event_name, handler))
            for made in (self._user, self._assistant):
                if made is not None:
                    made.add_event_handler(event_name, handler)
            return handler

        return register
