"""Text to speech: the base that cuts text into sentences, has them spoken, and keeps everything in order.

What leaves the service stands in one line: frames that pass, and utterances, which stay open until their last sample
has come. The head of the line leaves as soon as it is there, so an EndFrame cannot overtake speech, and what was
spoken under an interrupted answer has no place in the line any more and cannot be heard.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bots.services.base import AIService, Frames
from bots.services.settings import ServiceSettings, TTSSettings
from bots.text.aggregators import Aggregation, BaseTextAggregator, SimpleTextAggregator, TextAggregationMode
from media.events import DONE, Handle, MaybeAwaitable, drive_without_loop
from media.flow import DOWNSTREAM
from media.frames import (
    AggregatedTextFrame,
    AggregationType,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    InterimTranscriptionFrame,
    InterruptionFrame,
    LLMAssistantPushAggregationFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    OutputAudioRawFrame,
    StartFrame,
    StopFrame,
    TextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    TTSUpdateSettingsFrame,
)
from media.processor import FrameDirection

log = logging.getLogger(__name__)

Transform = Callable[[str, str], Awaitable[str]]
ANY_TYPE = "*"

_contexts = itertools.count(1)


@dataclass(slots=True, eq=False)
class Utterance:
    """A piece of text while it is spoken. `context_id` is what a vendor's messages name it by."""

    context_id: str
    text: str
    aggregated_by: str
    append_to_context: bool = True
    push_after: bool = False  # what was said is to be put into the context by itself
    frames: deque[Frame] = field(default_factory=deque)
    closed: bool = False
    started: bool = False  # TTSStartedFrame has left
    audio_bytes: int = 0
    sample_rate: int = 0
    words: deque[tuple[str, float]] = field(default_factory=deque)  # (word, seconds from the start), not yet reached
    has_words: bool = False

    @property
    def spoken_s(self) -> float:
        """Seconds of audio that have come."""
        return self.audio_bytes / (2 * self.sample_rate) if self.sample_rate else 0.0


class TTSService(AIService):
    """Speaks.

    A provider overrides `run_tts(text, context_id)`, which gives TTSAudioRawFrames. One that gets its audio by
    itself, over a socket, sets `closes_contexts` and calls `add_audio`, `add_words` and `close_context`.

    Args:
        text_aggregation_mode: SENTENCE, or TOKEN for the earliest first byte.
        push_text_frames: without word times, the whole text is told as a TTSTextFrame behind its audio.
        push_stop_frames, push_start_frame: TTSStartedFrame and TTSStoppedFrame are made here if the provider gives
            none; they always are, the arguments are there for programs that name them.
        push_silence_after_stop, silence_time_s: silence behind every utterance.
        pause_frame_processing: after an answer nothing is processed until the bot has stopped speaking.
        append_trailing_space: for vendors that swallow the last word without it.
        sample_rate: Hz of the speech; None: the pipeline's.
        skip_aggregator_types: pieces of these types are shown, not spoken.
        text_transforms: (type or "*", async function(text, type) -> text), in order, before speaking.
        text_filters, text_filter: objects with `filter(text)`: what they leave is spoken.
        transport_destination: of the frames that are made.
    """

    Settings: ClassVar[type[ServiceSettings]] = TTSSettings
    update_frame = TTSUpdateSettingsFrame
    closes_contexts: ClassVar[bool] = False

    def __init__(
        self,
        *,
        text_aggregation_mode: TextAggregationMode | None = None,
        aggregate_sentences: bool | None = None,
        push_text_frames: bool = True,
        push_stop_frames: bool = False,
        push_start_frame: bool = False,
        stop_frame_timeout_s: float = 3.0,
        push_silence_after_stop: bool = False,
        silence_time_s: float = 2.0,
        pause_frame_processing: bool = False,
        append_trailing_space: bool = False,
        sample_rate: int | None = None,
        text_aggregator: BaseTextAggregator | None = None,
        skip_aggregator_types: Sequence[str] | None = None,
        text_transforms: Sequence[tuple[str, Transform]] | None = None,
        text_filters: Sequence[Any] | None = None,
        text_filter: Any = None,
        transport_destination: str | None = None,
        settings: TTSSettings | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(settings=settings, **kwargs)
        if text_aggregation_mode is None:
            tokens = aggregate_sentences is False
            text_aggregation_mode = TextAggregationMode.TOKEN if tokens else TextAggregationMode.SENTENCE
        self._aggregator = text_aggregator or SimpleTextAggregator(text_aggregation_mode)
        self._push_text, self._stop_timeout_s = push_text_frames, stop_frame_timeout_s
        self._silence_s = silence_time_s if push_silence_after_stop else 0.0
        self._pauses, self._trailing_space = pause_frame_processing, append_trailing_space
        self._given_rate, self._sample_rate = sample_rate, sample_rate or 0
        self._skipped = frozenset(skip_aggregator_types or ())
        self._transforms = list(text_transforms or ())
        self._filters = [*(text_filters or ()), *([text_filter] if text_filter is not None else [])]
        self._destination = transport_destination
        self._line: deque[Frame | Utterance] = deque()
        self._open: dict[str, Utterance] = {}
        self._to_speak: deque[Utterance] = deque()
        self._speaker: Handle | None = None
        self._advancing = False
        self._progress_at = 0.0
        self._watch: Handle | None = None  # a timer, while patience is asked for
        self._in_answer = False
        self._answer_has_audio = False
        for event in ("on_connected", "on_disconnected", "on_connection_error", "on_tts_request"):
            self._register_event_handler(event)

    # ------------------------------------------------------------ to be overridden

    @abstractmethod
    def run_tts(self, text: str, context_id: str) -> Frames:
        """Speak `text`: TTSAudioRawFrames of mono s16le, or an ErrorFrame."""

    def on_interrupted(self, context_ids: Sequence[str]) -> MaybeAwaitable:
        """These were being spoken, and nobody wants to hear them: tell the vendor."""
        return DONE

    def flush_audio(self) -> MaybeAwaitable:
        """The answer is whole: a vendor that waits for more text is told that there is none."""
        return DONE

    # ------------------------------------------------------------ what programs set

    @property
    def sample_rate(self) -> int:
        return self._sample_rate

    def set_voice(self, voice: str) -> None:
        """From the next sentence on."""
        before, self._settings = self._settings, self._settings.joined_with(TTSSettings(voice=voice))
        if changed := before.changed_by(self._settings):
            self._let(self.settings_changed(changed), "settings")

    def add_text_transformer(self, transform: Transform, aggregation_type: str = ANY_TYPE) -> None:
        self._transforms.append((aggregation_type, transform))

    def remove_text_transformer(self, transform: Transform, aggregation_type: str = ANY_TYPE) -> None:
        self._transforms = [entry for entry in self._transforms if entry != (aggregation_type, transform)]

    def add_text_filter(self, text_filter: Any) -> None:
        """Behind those that are there."""
        self._filters.append(text_filter)

    # ------------------------------------------------------------ frames

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        super().process_frame(frame, direction)
        if direction is not DOWNSTREAM:
            if isinstance(frame, BotStoppedSpeakingFrame) and self._pauses:
                self.resume_processing_frames()
            self.push_frame(frame, direction)
        elif isinstance(frame, StartFrame):
            self._sample_rate = self._given_rate or frame.audio_out_sample_rate
            self.push_frame(frame, direction)
        elif isinstance(frame, InterruptionFrame | CancelFrame):
            self._drop()
            self.push_frame(frame, direction)
        elif frame.is_system:
            self.push_frame(frame, direction)
        elif self._take(frame):
            pass
        elif not self.handled(frame, direction):
            self._line.append(frame)
            self._advance()
        return DONE

    def _take(self, frame: Frame) -> bool:
        """Whether the frame is text to speak, or ends it."""
        if isinstance(frame, TTSSpeakFrame):
            self._flush()
            self._answer_has_audio = False
            self._say(Aggregation(frame.text, AggregationType.SENTENCE), frame.append_to_context, alone=True)
            return True
        if isinstance(frame, TextFrame):
            return self._take_text(frame)
        if isinstance(frame, LLMFullResponseStartFrame):
            self._in_answer, self._answer_has_audio = not frame.skip_tts, False
        elif isinstance(frame, LLMFullResponseEndFrame):
            if not frame.skip_tts:
                self._flush()
                self._let(self.flush_audio(), "flush")
                if self._pauses and self._answer_has_audio:
                    self._line.append(frame)
                    self._advance()
                    self.pause_processing_frames()
                    self._in_answer = False
                    return True
            self._in_answer = False
        elif isinstance(frame, EndFrame | StopFrame):
            self._flush()
        return False

    def _take_text(self, frame: TextFrame) -> bool:
        if frame.skip_tts or isinstance(frame, TTSTextFrame | TranscriptionFrame | InterimTranscriptionFrame):
            return False
        if isinstance(frame, AggregatedTextFrame):
            self._say(Aggregation(frame.text, str(frame.aggregated_by)), frame.append_to_context)
            return True
        self.start_text_aggregation_metrics()
        for piece in self._pieces(frame.text):
            self._say(piece, frame.append_to_context)
        return True

    def _pieces(self, text: str) -> Iterable[Aggregation]:
        if type(self._aggregator).aggregate is BaseTextAggregator.aggregate:
            return self._aggregator.pieces(text)
        found: list[Aggregation] = []

        async def collect() -> None:
            async for piece in self._aggregator.aggregate(text):
                found.append(piece)

        drive_without_loop(collect(), f"{self}::aggregate")
        return found

    def _flush(self) -> None:
        rest = self._aggregator.rest() if type(self._aggregator).flush is BaseTextAggregator.flush else self._awaited()
        if rest is not None:
            self._say(rest, True)

    def _awaited(self) -> Aggregation | None:
        found: list[Aggregation | None] = [None]

        async def collect() -> None:
            found[0] = await self._aggregator.flush()

        drive_without_loop(collect(), f"{self}::flush")
        return found[0]

    # ------------------------------------------------------------ speaking

    def _say(self, piece: Aggregation, append_to_context: bool | None, *, alone: bool = False) -> None:
        self.stop_text_aggregation_metrics()
        if piece.type in self._skipped or not piece.text.strip():
            if piece.text:
                self._line.append(self._text_frame(AggregatedTextFrame, piece.text, piece.type, append_to_context))
                self._advance()
            return
        context_id = f"{type(self).__name__}-{next(_contexts)}"  # letters, digits and a hyphen: what all vendors take
        utterance = Utterance(context_id, piece.text, piece.type, append_to_context is not False)
        utterance.push_after = alone and append_to_context is True and not self._in_answer
        self._answer_has_audio = True
        self._open[context_id] = utterance
        self._line.append(utterance)
        self._to_speak.append(utterance)
        if self._speaker is None:
            self._speaker = self.run_beside(self._speak_all(), "speaker")

    async def _speak_all(self) -> None:
        me = self._speaker
        try:
            await self.when_ready()
            while self._to_speak:
                await self._speak(self._to_speak.popleft())
        finally:
            if self._speaker is me:
                self._speaker = None

    async def _speak(self, utterance: Utterance) -> None:
        text = utterance.text
        try:
            for kind, transform in self._transforms:
                if kind in (ANY_TYPE, utterance.aggregated_by):
                    text = await transform(text, utterance.aggregated_by)
            for text_filter in self._filters:
                filtered = text_filter.filter(text)
                text = await filtered if inspect.isawaitable(filtered) else filtered
            if not text.strip():
                self.close_context(utterance.context_id)
                return
            if self._trailing_space and not text.endswith(" "):
                text += " "
            self._call_event_handler("on_tts_request", utterance.context_id, text)
            self.start_ttfb_metrics()
            self.start_tts_usage_metrics(text)
            self._ask_patience()
            frames: Any = self.run_tts(text, utterance.context_id)
            if isinstance(frames, AsyncGenerator):
                frame: Frame | None
                async for frame in frames:
                    if frame is not None:
                        self.add_frame(utterance.context_id, frame)
            else:
                await frames
        except Exception as exc:
            self.fail(exc)
            self.close_context(utterance.context_id)
        else:
            if not self.closes_contexts:
                self.close_context(utterance.context_id)

    def _ask_patience(self) -> None:
        """From now on silence of the vendor is an error after `patience_s`."""
        if self.patience_s is not None and self._watch is None:
            self._progress_at = self._now()
            self._watch = self.call_later(self.patience_s, self._check_patience)

    def _check_patience(self) -> None:
        self._watch = None
        if not self._open or self.patience_s is None:
            return
        left_s = self._progress_at + self.patience_s - self._now()
        if left_s > 0.001:
            self._watch = self.call_later(left_s, self._check_patience)
            return
        self.fail(TimeoutError("no speech in time"))
        if self._open:  # nobody has taken over
            speaker, self._speaker = self._speaker, None
            if speaker is not None:
                speaker.cancel()
            self._to_speak.clear()
            given_up = tuple(self._open)
            self._let(self.on_interrupted(given_up), "given up")
            for context_id in given_up:
                self.close_context(context_id)

    def relinquish(self) -> Sequence[Frame]:
        """What stands in the line, in order: text that was not spoken to its end is spoken again."""
        frames: list[Frame] = []
        for item in self._line:
            if isinstance(item, Utterance):
                if item.context_id in self._open or item.frames:
                    frames.append(self._again(item))
                    if item.started:
                        self._made(TTSStoppedFrame(item.context_id))
            else:
                frames.append(item)
        if rest := self._aggregator.text.text:
            frames.append(self._text_frame(AggregatedTextFrame, rest, AggregationType.SENTENCE, True))
        self._line.clear()
        self._drop()
        return frames

    def _again(self, utterance: Utterance) -> Frame:
        if utterance.push_after:
            return TTSSpeakFrame(utterance.text, append_to_context=True)
        kind, append = utterance.aggregated_by, utterance.append_to_context
        return self._text_frame(AggregatedTextFrame, utterance.text, kind, append)

    # ------------------------------------------------------------ what a provider brings

    def add_frame(self, context_id: str, frame: Frame) -> None:
        """A frame of an utterance; dropped if nobody waits for it any more."""
        if isinstance(frame, TTSAudioRawFrame | OutputAudioRawFrame):
            self.add_audio(context_id, frame.audio, frame.sample_rate)
        elif isinstance(frame, ErrorFrame):
            self.push_error_frame(frame)
        elif not isinstance(frame, TTSStartedFrame | TTSStoppedFrame):
            utterance = self._open.get(context_id)
            if utterance is not None:
                utterance.frames.append(frame)
                self._advance()

    append_to_audio_context = add_frame

    def add_audio(self, context_id: str, pcm: bytes, sample_rate: int | None = None) -> None:
        """Mono s16le of an utterance, in order."""
        utterance = self._open.get(context_id)
        if utterance is None or not pcm:
            return
        self.stop_ttfb_metrics()
        self._progress_at = self._now()
        rate = utterance.sample_rate = sample_rate or self._sample_rate
        words = utterance.words
        while words and words[0][1] <= utterance.spoken_s + len(pcm) / (2 * rate):
            # A word stands before the sample at which it begins: who hears the one has heard of the other.
            cut = max(0, 2 * round((words[0][1] - utterance.spoken_s) * rate))
            self._append_audio(utterance, pcm[:cut])
            pcm = pcm[cut:]
            self._append_word(utterance, words.popleft()[0])
        self._append_audio(utterance, pcm)
        self._advance()

    def add_words(self, context_id: str, words: Iterable[tuple[str, float]]) -> None:
        """Words and when they begin, in seconds from the start of the utterance. Better before their audio than after:
        a word whose audio has left follows it at once."""
        utterance = self._open.get(context_id)
        if utterance is None:
            return
        utterance.has_words = True
        for word, at_s in words:
            if at_s < utterance.spoken_s:
                self._append_word(utterance, word)
            else:
                utterance.words.append((word, at_s))
        self._advance()

    def close_context(self, context_id: str) -> None:
        """The last sample has come."""
        utterance = self._open.pop(context_id, None)
        if utterance is None:
            return
        self._progress_at = self._now()
        while utterance.words:
            self._append_word(utterance, utterance.words.popleft()[0])
        if self._push_text and not utterance.has_words and utterance.audio_bytes:
            kind, append = utterance.aggregated_by, utterance.append_to_context
            utterance.frames.append(self._text_frame(TTSTextFrame, utterance.text, kind, append))
        utterance.closed = True
        self._advance()

    remove_audio_context = close_context

    def audio_context_available(self, context_id: str) -> bool:
        """Whether anybody still waits for it."""
        return context_id in self._open

    def _append_audio(self, utterance: Utterance, pcm: bytes) -> None:
        if pcm:
            utterance.audio_bytes += len(pcm)
            utterance.frames.append(TTSAudioRawFrame(pcm, utterance.sample_rate, 1, utterance.context_id))

    def _append_word(self, utterance: Utterance, word: str) -> None:
        frame = self._text_frame(TTSTextFrame, word, AggregationType.WORD, utterance.append_to_context)
        frame.context_id = utterance.context_id
        utterance.frames.append(frame)

    def _text_frame(
        self, cls: type[AggregatedTextFrame], text: str, kind: str, append_to_context: bool | None
    ) -> AggregatedTextFrame:
        frame = cls(text, kind)
        frame.append_to_context = append_to_context is not False
        return frame

    # ------------------------------------------------------------ the line

    def _advance(self) -> None:
        """Let leave what is at the head of the line, as far as it is there."""
        if self._advancing:
            return
        self._advancing = True
        line = self._line
        try:
            while line:
                head = line[0]
                if not isinstance(head, Utterance):
                    line.popleft()
                    self.push_frame(head)
                    continue
                self._let_leave(head)
                if not head.closed or (line and line[0] is not head):
                    break
                if line and line[0] is head:
                    line.popleft()
                    self._end_of(head)
        finally:
            self._advancing = False

    def _let_leave(self, utterance: Utterance) -> None:
        if not utterance.frames:
            return
        if not utterance.started:
            utterance.started = True
            self._made(TTSStartedFrame(utterance.context_id))
        while utterance.frames:
            self._made(utterance.frames.popleft())

    def _end_of(self, utterance: Utterance) -> None:
        if not utterance.started:
            return
        if self._silence_s:
            silence = bytes(2 * int(self._silence_s * utterance.sample_rate))
            self._made(TTSAudioRawFrame(silence, utterance.sample_rate, 1, utterance.context_id))
        self._made(TTSStoppedFrame(utterance.context_id))
        if utterance.push_after:
            self.push_frame(LLMAssistantPushAggregationFrame())

    def _made(self, frame: Frame) -> None:
        if self._destination is not None:
            frame.transport_destination = self._destination
        self.push_frame(frame)

    def _drop(self) -> None:
        """Nothing of what was being said is wanted any more; what may not be lost leaves now."""
        speaking = tuple(self._open)
        self._open.clear()
        self._to_speak.clear()
        speaker, self._speaker = self._speaker, None
        if speaker is not None:
            speaker.cancel()
        kept = [item for item in self._line if isinstance(item, Frame) and item.is_uninterruptible]
        self._line.clear()
        reset = self._aggregator.handle_interruption()
        if inspect.iscoroutine(reset):
            drive_without_loop(reset, f"{self}::reset")
        for text_filter in self._filters:
            forget = getattr(text_filter, "handle_interruption", None)
            if forget is not None and inspect.iscoroutine(forgotten := forget()):
                drive_without_loop(forgotten, f"{self}::filter")
        self._in_answer = False
        if speaking:
            self._let(self.on_interrupted(speaking), "interrupted")
        if self._pauses:
            self.resume_processing_frames()
        self._line.extend(kept)
        self._advance()
