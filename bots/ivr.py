"""IVRNavigator: a language model finds its way through somebody else's telephone menu.

It stands in the model's place. The model first tells whether it hears a menu or a person; in a menu it answers with
keys or words until it has reached its goal. What it decides it writes as tags, which are never spoken:

    <dtmf>1</dtmf>            press a key (or several)
    <mode>ivr</mode>          it is a menu;      <mode>conversation</mode>  it is a person
    <ivr>completed</ivr>      the goal is reached; detected, stuck, wait (for the rest of the announcement)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from bots.context.context import LLMContext
from bots.text.aggregators import TextAggregationMode
from bots.text.patterns import MatchAction, PatternMatch, PatternPairAggregator
from media.events import DONE, Handler, MaybeAwaitable
from media.flow import DOWNSTREAM, UPSTREAM
from media.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    KeypadEntry,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMMessagesUpdateFrame,
    LLMTextFrame,
    OutputDTMFUrgentFrame,
    StartFrame,
    VADParamsUpdateFrame,
)
from media.pipeline import Pipeline
from media.processor import FrameDirection, FrameProcessor
from media.vad import VADParams

log = logging.getLogger(__name__)

IVR_VAD_PARAMS: Final = VADParams(stop_secs=2.0)  # menus pause between their options


class IVRStatus(Enum):
    DETECTED = "detected"  # it is a menu, and the way through it begins
    COMPLETED = "completed"  # the goal is reached
    STUCK = "stuck"  # there is no way on
    WAIT = "wait"  # for the rest of what is being said; no event tells of it


CLASSIFIER_PROMPT: Final = """\
You listen to the beginning of a telephone call. Decide who is speaking, and answer with exactly one tag and nothing \
else.

<mode>ivr</mode>: an automated system. It offers options ("press 1 for billing", "say support"), gives recorded \
instructions ("please enter your account number"), welcomes to a company, or asks to hold.

<mode>conversation</mode>: a person. Greets with a name ("hello, this is Sarah"), asks something ("who am I speaking \
with?"), answers directly ("I can help you with that"), or speaks as people do.

What you read was understood by a speech recogniser and may have mistakes."""

IVR_PROMPT: Final = """\
You are on a telephone call with an automated menu. Your goal:

{goal}

Each message is what the system has said, as a speech recogniser understood it. Answer with one of these, and nothing \
else:

- To press a key: <dtmf>1</dtmf>. For a number of several digits, one tag for each: <dtmf>4</dtmf><dtmf>2</dtmf>. Keys \
are 0 to 9, * and #. End an entry with <dtmf>#</dtmf> if you are asked to.
- If you are asked to speak: what you say, in a few plain words.
- <ivr>wait</ivr>: the announcement is not over, no option of it fits yet, or you are asked to hold.
- <ivr>completed</ivr>: the goal is reached, or you are being put through to somebody who can reach it.
- <ivr>stuck</ivr>: no option leads to the goal, the menu repeats itself, or you are asked for what you do not know.

Choose the option that fits the goal best; one for "other questions" or for an operator will do if none fits. Never \
make up an account number, a date or a name."""

_TAGS: Final = ("dtmf", "ivr", "mode")


class IVRProcessor(FrameProcessor):
    """Behind the model: what it writes in tags is done, all else passes.

    Events: on_conversation_detected(history), the messages so far without the first; on_ivr_status_changed(status).
    """

    def __init__(self, *, ivr_prompt: str, ivr_vad_params: VADParams | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._goal = ivr_prompt
        self._vad_params = ivr_vad_params or IVR_VAD_PARAMS
        self._context: LLMContext | None = None  # that the model has been asked about
        self._tags = PatternPairAggregator(TextAggregationMode.TOKEN)
        for tag in _TAGS:
            self._tags.add_pattern(tag, f"<{tag}>", f"</{tag}>", MatchAction.AGGREGATE)
        for event in ("on_conversation_detected", "on_ivr_status_changed"):
            self._register_event_handler(event)

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if isinstance(frame, LLMTextFrame) and direction is DOWNSTREAM:
            for piece in self._tags.pieces(frame.text):
                if isinstance(piece, PatternMatch):
                    _ACTS[piece.type](self, piece.text)
                else:
                    self._say(piece.text)
            return DONE
        if isinstance(frame, LLMFullResponseEndFrame | EndFrame):
            rest = self._tags.rest()
            if rest is not None:
                self._say(rest.text)
        elif isinstance(frame, InterruptionFrame | CancelFrame):
            self._tags.reset()
        self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self._replace([{"role": "system", "content": CLASSIFIER_PROMPT}])
        return DONE

    def asked(self, context: LLMContext) -> None:
        """The model is about to answer this."""
        self._context = context

    # ------------------------------------------------------------ tags

    def _press(self, keys: str) -> None:
        try:
            entries = [KeypadEntry(key) for key in keys]
        except ValueError:
            entries = []
        if not entries:
            log.warning("ivr.bad_keys processor=%s size=%d: the model wrote what is no key", self, len(keys))
            return
        for entry in entries:
            self.push_frame(OutputDTMFUrgentFrame(entry))
        self._note("dtmf", keys)

    def _status(self, word: str) -> None:
        try:
            status = IVRStatus(word)
        except ValueError:
            log.warning("ivr.bad_status processor=%s status=%.20s", self, word)
            return
        self._note("ivr", word)
        if status is IVRStatus.DETECTED:
            self._navigate()
        elif status is not IVRStatus.WAIT:
            self._call_event_handler("on_ivr_status_changed", status)

    def _mode(self, word: str) -> None:
        if word == "ivr":
            self._note("mode", word)
            self._navigate()
        elif word == "conversation":
            self._note("mode", word)
            self._call_event_handler("on_conversation_detected", self._history())
        else:
            log.warning("ivr.bad_mode processor=%s mode=%.20s", self, word)

    def _navigate(self) -> None:
        """From now on the model is told the way, and hears announcements to their end."""
        self._replace(
            [{"role": "system", "content": IVR_PROMPT.format(goal=self._goal)}, *self._history()], run_llm=True
        )
        self.push_frame(VADParamsUpdateFrame(self._vad_params), UPSTREAM)
        self._call_event_handler("on_ivr_status_changed", IVRStatus.DETECTED)

    def _history(self) -> list[Any]:
        """What was said so far, without the instruction."""
        return list(self._context.messages[1:]) if self._context is not None else []

    def _replace(self, messages: list[Any], *, run_llm: bool | None = None) -> None:
        self.push_frame(LLMMessagesUpdateFrame(messages, run_llm), UPSTREAM)

    def _say(self, text: str) -> None:
        frame = LLMTextFrame(text)
        frame.includes_inter_frame_spaces = True
        self.push_frame(frame)

    def _note(self, tag: str, text: str) -> None:
        """For the context alone: the model sees later what it did."""
        frame = LLMTextFrame(f"<{tag}>{text}</{tag}>")
        frame.skip_tts = frame.includes_inter_frame_spaces = True
        self.push_frame(frame)


_ACTS: Final[Mapping[str, Callable[[IVRProcessor, str], None]]] = {
    "dtmf": IVRProcessor._press,
    "ivr": IVRProcessor._status,
    "mode": IVRProcessor._mode,
}


class _Overhear(FrameProcessor):
    """Before the model: which context it is asked about."""

    def __init__(self, told: Callable[[LLMContext], None]) -> None:
        super().__init__()
        self._told = told

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if isinstance(frame, LLMContextFrame):
            self._told(frame.context)
        return self.push_frame(frame, direction)


class IVRNavigator(Pipeline):
    """In the model's place, behind the user aggregator and before the voice.

    Args:
        llm: the model.
        ivr_prompt: the goal: "Reach billing, to ask about a charge on account 4711".
        ivr_vad_params: of the voice detector while in a menu; None: 2 s of silence end what is said.

    Its events are those of IVRProcessor, which handlers get as their first argument.
    """

    def __init__(self, *, llm: FrameProcessor, ivr_prompt: str, ivr_vad_params: VADParams | None = None) -> None:
        self._ivr = IVRProcessor(ivr_prompt=ivr_prompt, ivr_vad_params=ivr_vad_params)
        super().__init__([_Overhear(self._ivr.asked), llm, self._ivr])

    def add_event_handler(self, event_name: str, handler: Handler) -> None:
        self._ivr.add_event_handler(event_name, handler)
