"""VoicemailDetector: has a person taken up the phone, or a machine that records? For calls that the bot places.

Two processors: `detector()` right behind the recogniser, `gate()` right behind the voice. Until it is known who is
there the bot may think and make speech, but is not heard: the gate keeps what it says. A person gets it then; for a
machine it is dropped, the bot hears nothing more of it, and says what on_voicemail_detected has it say when the
greeting is over.

Who decides: the carrier, where it tells; a beep; a language model that is asked about what was understood, where one
is given; and the rules of media/answerer.py without one, or when it fails.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from bots.context.context import LLMContext
from media.answerer import HUMAN, MACHINE, UNKNOWN, AnswerParams, AnswerRules
from media.beep import BeepDetector
from media.events import DONE, MaybeAwaitable
from media.flow import DOWNSTREAM
from media.frames import (
    AnsweredByFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    InterruptionFrame,
    StartFrame,
    StopFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    UserSpeakingFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameDirection, FrameProcessor
from media.turns.base import ByClass, Timer

log = logging.getLogger(__name__)

SETTLE_S: Final = 0.5  # after what was understood last, until the model is asked: more may come
AFTER_BEEP_S: Final = 0.3


class VoicemailDetector(FrameProcessor):
    """Stands behind the recogniser; its `gate()` behind the voice.

    Args:
        llm: is asked, outside of the pipeline, whether what was said is a conversation or a voicemail system. None:
            the rules decide, by how the other side speaks.
        voicemail_response_delay: seconds of silence after a machine's greeting until on_voicemail_detected; a beep
            ends the wait.
        custom_system_prompt: the model's instruction; its answer must be CONVERSATION or VOICEMAIL.
        rules: what the rules go by.
        timeout: seconds from the start after which it counts as a conversation; None: it is waited for.
        tells_bot: what is said before it is decided reaches the bot; False: it is a "hello?" that needs no answer.

    Events: on_conversation_detected(), on_voicemail_detected(): one of them, once. What a handler pushes into the
    detector goes down the pipeline from there. `answered_by` says which it was, and the call's record as well.
    """

    CLASSIFIER_RESPONSE_INSTRUCTION: ClassVar[str] = (
        'Answer with one word: "CONVERSATION" if a person has answered, "VOICEMAIL" if it is voicemail, an answering '
        "machine or a recorded announcement."
    )
    DEFAULT_SYSTEM_PROMPT: ClassVar[str] = (
        "You are told what was heard at the beginning of a telephone call that we have placed, as a speech recogniser "
        "understood it. Decide who has answered. People say short things and wait, such as: Hello? Yes? This is Anna "
        "speaking. Who is calling? Recordings explain and do not wait, such as: You have reached the voicemail of "
        "Anna. I cannot take your call right now. Please leave a message after the tone. The person you are calling "
        "is not available. The mailbox is full. " + CLASSIFIER_RESPONSE_INSTRUCTION
    )

    def __init__(
        self,
        *,
        llm: Any = None,
        voicemail_response_delay: float = 2.0,
        custom_system_prompt: str | None = None,
        rules: AnswerParams | None = None,
        timeout: float | None = 15.0,
        tells_bot: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._llm = llm
        self._prompt = custom_system_prompt if custom_system_prompt is not None else self.DEFAULT_SYSTEM_PROMPT
        missing = [word for word in ("CONVERSATION", "VOICEMAIL") if word not in self._prompt.upper()]
        if missing:
            log.warning(
                "voicemail.prompt processor=%s: the custom prompt does not ask for %s; add "
                "VoicemailDetector.CLASSIFIER_RESPONSE_INSTRUCTION",
                self,
                " and ".join(missing),
            )
        self._delay_s, self._timeout_s, self._tells_bot = voicemail_response_delay, timeout, tells_bot
        self._params = rules or AnswerParams()
        self._rules = AnswerRules(self._params, 0.0)
        self._gate = VoicemailGate()
        self._who = ""
        self._said: list[str] = []
        self._asked = 0  # so many of them
        self._asking = False
        self._speaking = False
        self._has_voice = False  # a voice detector tells when somebody speaks
        self._waiting = False  # for the end of a machine's greeting
        self._beeps: BeepDetector | None = None
        self._look_at = Timer(self.call_later, self._look)
        self._settled = Timer(self.call_later, self._ask_model)
        self._limit = Timer(self.call_later, self._overdue)
        self._silence = Timer(self.call_later, self._tell_voicemail)
        for event in ("on_conversation_detected", "on_voicemail_detected"):
            self._register_event_handler(event)

    def detector(self) -> VoicemailDetector:
        """The processor that goes right behind the recogniser."""
        return self

    def gate(self) -> VoicemailGate:
        """The processor that goes right behind the voice."""
        return self._gate

    @property
    def answered_by(self) -> str:
        """ "human", "machine", "fax" or "unknown"; "" until it is decided."""
        return self._who

    # ------------------------------------------------------------ frames

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        take = _TAKES.get(type(frame))
        if take is not None:
            take(self, frame)
        is_deaf = self._gate.is_machine or not (self._who or self._tells_bot)
        if is_deaf and direction is DOWNSTREAM and _HEARD[type(frame)]:
            return DONE
        return self.push_frame(frame, direction)

    def _on_start(self, frame: StartFrame) -> None:
        self._rules = AnswerRules(self._params, self.runtime.now())
        if self._timeout_s is not None:
            self._limit.set(self._timeout_s)
        self._look()

    def _on_audio(self, frame: InputAudioRawFrame) -> None:
        if (self._who and not self._waiting) or frame.num_channels != 1:
            return
        if self._beeps is None or self._beeps.sample_rate != frame.sample_rate:
            self._beeps = BeepDetector(frame.sample_rate)
        if self._beeps.hear(frame.audio):
            self._beep()

    def _beep(self) -> None:
        if not self._who:
            self._rules.beep()
            self._decide(MACHINE, "beep")
        if self._waiting:  # it records from now on
            self._broadcast(AnsweredByFrame(self._who, "beep", "bot", beep=True))
            self._silence.set(AFTER_BEEP_S)

    def _on_voice(self, begins: bool, ago_s: float) -> None:
        self._has_voice = True
        self._on_speech(begins, ago_s)

    def _on_turn(self, begins: bool) -> None:
        """A turn may begin and end with the words, when the voice is long over."""
        if not self._has_voice:
            self._on_speech(begins)

    def _on_speech(self, begins: bool, ago_s: float = 0.0) -> None:
        self._speaking = begins
        if self._who:
            if self._waiting:
                self._silence.cancel() if begins else self._silence.set(self._delay_s)
            return
        self._rules.speech(begins, self.runtime.now() - ago_s)
        if begins:
            self._settled.cancel()
        elif self._asked < len(self._said):
            self._settled.set(SETTLE_S)
        self._look()

    def _on_text(self, frame: TranscriptionFrame) -> None:
        if self._who or not frame.text.strip():
            return
        self._said.append(frame.text.strip())
        self._rules.text(" ".join(self._said))
        self._settled.set(SETTLE_S)
        self._look()

    def _on_carrier(self, frame: AnsweredByFrame) -> None:
        if frame.source != "carrier":
            return
        if frame.who != UNKNOWN and not self._who:
            self._decide(frame.who, frame.detail, told=True)
        if frame.beep and self._waiting:
            self._silence.set(AFTER_BEEP_S)

    # ------------------------------------------------------------ deciding

    def _look(self) -> None:
        """By the rules, unless a model is asked."""
        self._look_at.cancel()
        if self._who or self._llm is not None:
            return
        now = self.runtime.now()
        verdict = self._rules.look(now)
        if verdict is not None:
            self._decide(*verdict)
        else:
            self._look_at.set(max(0.0, self._rules.due() - now))

    def _ask_model(self) -> None:
        if self._llm is not None and not self._who and not self._asking:
            self._asking = True
            self.create_task(self._classify(), "classify")

    async def _classify(self) -> None:
        try:
            while self._llm is not None and not self._who and self._asked < len(self._said):
                self._asked = len(self._said)
                context = LLMContext([{"role": "user", "content": " ".join(self._said)}])
                answer = await self._llm.run_inference(context, system_instruction=self._prompt)
                self._answered(answer or "")
        except Exception as exc:
            self._llm = None  # the rules go on
            self.push_error(f"the model that was to tell voicemail failed: {type(exc).__name__}: {exc}", exc)
            self._look()
        finally:
            self._asking = False

    def _answered(self, answer: str) -> None:
        answer = answer.upper()
        if self._who:
            return  # somebody was quicker
        if "CONVERSATION" in answer:
            self._decide(HUMAN, "model")
        elif "VOICEMAIL" in answer:
            self._decide(MACHINE, "model")
        else:
            log.warning("voicemail.answer processor=%s size=%d: neither word is in the answer", self, len(answer))

    def _overdue(self) -> None:
        if not self._who:
            verdict = self._rules.look(self.runtime.now())
            self._decide(*(verdict if verdict is not None and verdict.who == MACHINE else (UNKNOWN, "timeout")))

    def _decide(self, who: str, detail: str, *, told: bool = False) -> None:
        """`told`: by the carrier, so that everybody else knows."""
        self._who = who
        for timer in (self._look_at, self._settled, self._limit):
            timer.cancel()
        if not told:
            self._broadcast(AnsweredByFrame(who, detail, "bot", beep=detail == "beep"))
        if who in (HUMAN, UNKNOWN):
            self._beeps = None
            self._gate.release()
            self._call_event_handler("on_conversation_detected")
            return
        self._gate.drop()
        self.broadcast_interruption()
        self._waiting = True
        if not self._speaking:
            self._silence.set(self._delay_s)

    def _tell_voicemail(self) -> None:
        self._waiting, self._beeps = False, None
        self._call_event_handler("on_voicemail_detected")

    def _broadcast(self, frame: AnsweredByFrame) -> None:
        self.broadcast_frame_instance(frame)

    def _stop(self) -> None:
        for timer in (self._look_at, self._settled, self._limit, self._silence):
            timer.cancel()

    def cleanup(self) -> MaybeAwaitable:
        self._stop()
        return super().cleanup()


_TAKES: Final[Mapping[type, Callable[[VoicemailDetector, Any], None]]] = {
    StartFrame: VoicemailDetector._on_start,
    InputAudioRawFrame: VoicemailDetector._on_audio,
    VADUserStartedSpeakingFrame: lambda self, frame: self._on_voice(True, frame.start_secs),
    VADUserStoppedSpeakingFrame: lambda self, frame: self._on_voice(False, frame.stop_secs),
    UserStartedSpeakingFrame: lambda self, frame: self._on_turn(True),
    UserStoppedSpeakingFrame: lambda self, frame: self._on_turn(False),
    TranscriptionFrame: VoicemailDetector._on_text,
    AnsweredByFrame: VoicemailDetector._on_carrier,
    EndFrame: lambda self, frame: self._stop(),
    CancelFrame: lambda self, frame: self._stop(),
}

# What the bot does not hear of a machine.
_HEARD = ByClass(
    TranscriptionFrame,
    InterimTranscriptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    UserSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
_SPEECH = ByClass(TTSStartedFrame, TTSAudioRawFrame, TTSStoppedFrame, TTSTextFrame)
_ENDS = ByClass(EndFrame, StopFrame, CancelFrame)


class VoicemailGate(FrameProcessor):
    """Keeps what the bot says until it is known who hears it. Made by a VoicemailDetector."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.is_open = self.is_machine = False
        self._held: deque[Frame] = deque()

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if self.is_open or direction is not DOWNSTREAM:
            return self.push_frame(frame, direction)
        cls = type(frame)
        if _ENDS[cls]:
            if cls is not CancelFrame:
                self.release()
        elif isinstance(frame, InterruptionFrame):
            self._purge()
        elif _SPEECH[cls] or (self._held and not frame.is_system):  # what follows speech stays behind it
            self._held.append(frame)
            return DONE
        return self.push_frame(frame, direction)

    def release(self) -> None:
        """A person hears it: what was kept, and all that comes."""
        self.is_open = True
        while self._held:
            self.push_frame(self._held.popleft())

    def drop(self) -> None:
        """It was not meant for a machine. What comes from now on is."""
        self._purge()
        self.is_open = self.is_machine = True

    def _purge(self) -> None:
        kept = [frame for frame in self._held if frame.is_uninterruptible]
        self._held.clear()
        for frame in kept:
            self.push_frame(frame)
