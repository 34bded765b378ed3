"""The one output stage: pipeline audio in, packets on the wire's schedule out.

It stands last in a pipeline. Audio is brought to the wire's rate and paced; frames that belong in order with the
audio wait in the same queue; what is urgent goes at once. It tells both directions when the bot speaks, keeps the
ledger of what was sent and heard, and is where an interruption takes effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from media.codecs import peak
from media.dtmf import tone
from media.errors import LocalProtocolError
from media.frames import (
    AudioRawFrame,
    BotSpeakingFrame,
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    Heard,
    InterruptionFrame,
    MarkFrame,
    OutputAudioRawFrame,
    OutputDTMFFrame,
    OutputDTMFUrgentFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    PlaybackCompletedFrame,
    PlaybackStartedFrame,
    PlayedFrame,
    SpeechOutputAudioRawFrame,
    StartFrame,
    StopFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
    TTSTextFrame,
)
from media.ledger import PlayoutLedger
from media.outlet import NOBODY_SPEAKS, Outlet
from media.pacing import FLUSH, PacedBuffer
from media.processor import DONE, FrameDirection, FrameProcessor, TimerHandle
from media.resample import Resampler, make_resampler
from media.spoken import Spoken
from media.wire import NOBODY, Tap, Wire

PROOF_S = 2.0  # how long after its time the carrier's word that all was played is waited for
STREAM_SILENCE_S = 0.35  # so much silence ends the speech in an unbroken stream
STREAM_SILENCE_PEAK = 20  # samples no louder than this are silence
BACK_S = 0.04  # after a hold, where no word's beginning is known: so much is heard again
LONGEST_BACK_S = 1.0  # a word that is longer goes on where it was

_SPEECH_STARTS, _SPEECH_ENDS = object(), object()  # among the packets; audio before them leaves as it is


def _goes_again(item: object) -> bool:
    """What left between samples that come back goes again only if it is part of the speech."""
    return item is _SPEECH_ENDS


class Watcher(Protocol):
    """Who is told of frames as they arrive at a stage."""

    @property
    def sees(self) -> frozenset[type[Frame]]:
        """Classes of which it is told, and no others."""
        ...

    def see(self, frame: Any) -> None:
        """Called before the frame is dealt with."""


Handle = Callable[[Any, Any], None]  # a method of the stage's class: it takes the stage and the frame


class Handlers(dict[type, Handle]):
    """What stages of one kind do with a frame of each class: one table for all of them."""

    def __init__(self, handlers: Mapping[type, Handle]) -> None:
        super().__init__(handlers)
        self._watched: dict[frozenset[type[Frame]], Handlers] = {}

    def handler_of(self, cls: type) -> Handle:
        """The own one of a class, that of the nearest class above it, or what is done with any other frame."""
        for base in cls.__mro__:
            if base in self:
                return self[base]
        if issubclass(cls, Frame) and cls.is_system:
            return OutputStage._pass_on
        return OutputStage._in_order

    def watched(self, sees: frozenset[type[Frame]]) -> Handlers:
        """The same for stages with a watcher."""
        found = self._watched.get(sees)
        if found is None:
            found = self._watched[sees] = Handlers({**self, **{cls: _seen(self.handler_of(cls)) for cls in sees}})
        return found


def _seen(handle: Handle) -> Handle:
    def seen(stage: OutputStage, frame: Any) -> None:
        if stage._watcher is not None:
            stage._watcher.see(frame)
        handle(stage, frame)

    return seen


_OF_STAGES: dict[type[OutputStage], Handlers] = {}


def handlers_of(stage: type[OutputStage]) -> Handlers:
    found = _OF_STAGES.get(stage)
    if found is None:
        found = _OF_STAGES[stage] = Handlers({cls: getattr(stage, name) for cls, name in stage.takes.items()})
    return found


class OutputStage(FrameProcessor):
    """The last processor of a call's pipeline."""

    # A packet may leave as it is pushed, and a tick be left out while nothing waits and nobody speaks.
    is_plain: ClassVar[bool] = True

    # The names of the methods that take frames of these classes.
    takes: ClassVar[Mapping[type, str]] = {
        StartFrame: "_on_start",
        CancelFrame: "_on_cancel",
        InterruptionFrame: "_on_interruption",
        OutputAudioRawFrame: "_on_audio",
        TTSAudioRawFrame: "_on_speech",
        SpeechOutputAudioRawFrame: "_on_stream",
        TTSStoppedFrame: "_on_speech_end",
        TTSTextFrame: "_on_words",
        EndFrame: "_on_end",
        StopFrame: "_on_end",
        OutputDTMFFrame: "_on_digit",
        OutputDTMFUrgentFrame: "_on_urgent_digit",
        OutputTransportMessageUrgentFrame: "_on_urgent",
    }

    def __init__(self, wire: Wire, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self._wire = wire
        self.outlet = Outlet(wire)
        self.outlet.is_plain = self.is_plain
        self.spoken: Spoken | None = None
        self.interruptions = 0
        self._resampler: Resampler | None = None
        self._stream_silence_s = 0.0
        self._speech_at = 0.0  # when the first audio of this speech came
        self._stop_timer: TimerHandle | None = None
        self._last_mark = ""
        self.spoke: Callable[[bool], None] | None = None  # told when the bot begins (True) and has ceased to speak
        self._watcher: Watcher | None = None
        self.is_held = False  # the carrier takes no audio now
        self._keep_ms = 0.0  # how much of what has left can be brought back
        self._origin_generated = self._origin_heard = 0  # where positions of `spoken` begin, in the ledger's counts
        self._reply_from = 0  # position at which the bot began to speak
        self._handlers: Mapping[type, Handle] = handlers_of(type(self))

    @property
    def paced(self) -> PacedBuffer | None:
        """What waits to leave; None before StartFrame."""
        return self.outlet.paced

    @property
    def ledger(self) -> PlayoutLedger | None:
        """What became of what has left; None before StartFrame."""
        return self.outlet.ledger

    @property
    def rate(self) -> int:
        """The wire's, in Hz; 0 before StartFrame."""
        return self.outlet.rate

    @property
    def epoch(self) -> int:
        """One more for each interruption."""
        return self.outlet.epoch

    @property
    def is_audible(self) -> bool:
        """The bot speaks: what it says is not heard to its end. Sound that is no speech does not count."""
        return self.outlet.next_speaking != NOBODY_SPEAKS

    @property
    def is_waiting(self) -> bool:
        """The floor is not the bot's now, but may be again."""
        return self.outlet.is_waiting

    # ------------------------------------------------------------ frames in

    def process_frame(self, frame: Frame, direction: FrameDirection) -> Any:
        if direction is not FrameDirection.DOWNSTREAM:
            return self.push_frame(frame, direction)
        handle = self._handlers.get(type(frame))
        if handle is None:
            handle = self._handler_of(type(frame))
        handle(self, frame)
        return DONE

    def _handler_of(self, cls: type) -> Handle:
        """The handler of a user's subclass; found once per class."""
        found = Handlers(self._handlers).handler_of(cls)
        self._handlers = {**self._handlers, cls: found}
        return found

    def watch(self, watcher: Watcher) -> None:
        """`watcher` sees frames as they arrive, in place of an earlier one."""
        self._watcher = watcher
        self._use(handlers_of(type(self)))

    def leave(self, wire: Wire) -> None:
        """`wire` is gone for good; the ledger goes on telling what was heard."""
        if self._wire is wire:
            self._speak_into(NOBODY)

    def _speak_into(self, wire: Wire) -> None:
        self._wire = self.outlet.wire = wire

    def _use(self, handlers: Handlers) -> None:
        self._handlers = handlers if self._watcher is None else handlers.watched(self._watcher.sees)

    def _on_start(self, frame: StartFrame) -> None:
        self._tune()
        super().process_frame(frame, FrameDirection.DOWNSTREAM)
        self.push_frame(frame)

    def _tune(self) -> None:
        """Begin anew, at the wire's rate as it is known now."""
        self.outlet.tune(self._keep_ms)
        self.spoken = Spoken(self.rate)
        self._origin_generated = self._origin_heard = self._reply_from = 0
        self._resampler = None

    def listen(self, tap: Tap) -> None:
        """`tap` hears the bot from now on, or from StartFrame on."""
        self.outlet.taps = (*self.outlet.taps, tap)
        if self.ledger is not None:
            tap.tuned(self.ledger)

    def ignore(self, tap: Tap) -> None:
        """`tap` has heard enough."""
        self.outlet.taps = tuple(each for each in self.outlet.taps if each is not tap)

    def _on_audio(self, frame: OutputAudioRawFrame) -> None:
        self.outlet.take(self, frame)

    def _push_pcm(self, pcm: bytes) -> None:
        self.outlet.push(self, pcm)

    def _on_speech(self, frame: TTSAudioRawFrame) -> None:
        if not self.outlet.in_speech:
            self._begin_speech()
        self._on_audio(frame)

    def _on_stream(self, frame: SpeechOutputAudioRawFrame) -> None:
        if peak(frame.audio) > STREAM_SILENCE_PEAK:
            self._stream_silence_s = 0.0
            if not self.outlet.in_speech:
                self._begin_speech()
        elif self.outlet.in_speech:
            self._stream_silence_s += len(frame.audio) / (2 * frame.num_channels * frame.sample_rate)
            if self._stream_silence_s >= STREAM_SILENCE_S:
                self._end_speech()
        self._on_audio(frame)

    def _begin_speech(self) -> None:
        assert self.paced is not None
        assert self.spoken is not None
        self.outlet.in_speech, self._stream_silence_s = True, 0.0
        self.spoken.begin(self._pushed)
        self._speech_at = self._wire.now()
        self.paced.put(_SPEECH_STARTS)

    def _end_speech(self) -> None:
        assert self.paced is not None
        assert self.spoken is not None
        self.flush()
        if self.outlet.in_speech:
            self.outlet.in_speech = False
            self.spoken.end(self._pushed)
            self.paced.put(_SPEECH_ENDS)

    def _on_speech_end(self, frame: TTSStoppedFrame) -> None:
        self._end_speech()
        self._in_order(frame)

    def _on_words(self, frame: TTSTextFrame) -> None:
        """Which words the audio is. Their `pts` is of the pipeline's clock, on which this speech began."""
        if self.spoken is not None and not self.outlet.ended:
            at_s = None if frame.pts is None or not self.outlet.in_speech else frame.pts / 1e9 - self._speech_at
            self.spoken.say(frame.text, self._pushed, at_s, spaced=frame.includes_inter_frame_spaces)
        self._in_order(frame)

    def _on_end(self, frame: Frame) -> None:
        if self.paced is not None:
            self._end_speech()
        self._in_order(frame)
        self.outlet.ended = isinstance(frame, EndFrame)

    def _on_digit(self, frame: OutputDTMFFrame) -> None:
        if self._wire.sends_digits:
            self._in_order(frame)
        else:
            self._push_pcm(tone(frame.button.value, self.rate))

    def _on_urgent_digit(self, frame: OutputDTMFUrgentFrame) -> None:
        if self._wire.sends_digits:
            self._wire.send(frame)
        else:
            self._push_pcm(tone(frame.button.value, self.rate))
        self.push_frame(frame)

    def _on_urgent(self, frame: Frame) -> None:
        self._wire.send(frame)
        self.push_frame(frame)

    def _pass_on(self, frame: Frame) -> None:
        self.push_frame(frame)

    def _in_order(self, frame: Frame) -> None:
        """Data and control frames keep their place behind the audio that came before them."""
        paced = self.paced
        if paced is None:
            raise LocalProtocolError(f"{type(frame).__name__} before StartFrame")
        if not paced.queue:
            self.act(frame, self._wire.now())
            return
        paced.put(frame)
        self.release(self._wire.now())

    def _on_cancel(self, frame: CancelFrame) -> None:
        if self.paced is not None:
            self.paced.clear()
        self.outlet.is_waiting = False
        self._silence()
        self._wire.released(frame)
        self.push_frame(frame)

    def _on_interruption(self, frame: InterruptionFrame) -> None:
        # The buffer and the carrier were cleared when the frame was first pushed (`interrupt`).
        self._silence()
        self.push_frame(frame)

    # ------------------------------------------------------------ interruption

    def interrupt(self, frame: InterruptionFrame) -> None:
        """Take effect before `frame` travels: nothing queued is heard any more, `clear` is in the outbox."""
        paced, ledger = self.paced, self.ledger
        if paced is None or ledger is None:
            return
        self.outlet.epoch += 1
        self.interruptions += 1
        now = self._wire.now()
        generated = self._pushed
        # A carrier that was cleared when a hold began has got nothing since.
        unsent = 0 if self.is_waiting else self._wire.clear(frame)
        clears = self._wire.clears
        waiting = paced.clear(None if clears else unsent)
        if self._resampler is not None:
            self._resampler.reset()
        self.outlet.in_speech = self.outlet.unflushed = self.outlet.unproven = False
        self.outlet.is_waiting = False
        # Who cannot be cleared plays what has left.
        heard = ledger.cleared(now if clears else max(now, ledger.heard_by()), unsent)
        frame.heard = self._what_was_heard(heard - self._origin_heard, generated)
        self._begin_count(heard)
        for item in waiting:
            if isinstance(item, Frame) and item.is_uninterruptible:
                paced.put(item)

    def _what_was_heard(self, heard: int, generated: int) -> Heard | None:
        """Of the reply that is being spoken, or still heard; None if there is none."""
        assert self.spoken is not None
        assert self.ledger is not None
        begun = self._reply_from
        if generated <= max(heard, begun):
            return None
        text, unheard = self.spoken.heard(heard, generated)
        per_ms = self.ledger.sample_rate / 1000
        return Heard(
            text, unheard, round(max(0, heard - begun) / per_ms), round((generated - max(heard, begun)) / per_ms)
        )

    def _begin_count(self, heard: int) -> None:
        """Nothing is left of what was said: positions begin at 0 again."""
        assert self.spoken is not None
        assert self.ledger is not None
        self.spoken.clear()
        self._origin_generated, self._origin_heard, self._reply_from = self.ledger.generated, heard, 0

    @property
    def _pushed(self) -> int:
        """Position of the next sample that will be pushed."""
        assert self.ledger is not None
        return self.ledger.generated - self._origin_generated

    # ------------------------------------------------------------ a pause that may be taken back

    def remember(self, seconds: float) -> None:
        """Keep so much of what leaves, for `wait` and `playing`. Before StartFrame."""
        self._keep_ms = max(self._keep_ms, seconds * 1000)

    def wait(self) -> bool:
        """Be silent at once, so that `speak_on` can go on from there. False: no speech is being heard.

        Where the carrier cannot be cleared it plays what it has. The last words before the end of a call are said.
        """
        paced, ledger = self.paced, self.ledger
        if paced is None or ledger is None or self.outlet.ended or self.is_waiting or not self.is_audible:
            return False
        now = self._wire.now()
        self.outlet.is_waiting = True
        self.outlet.epoch += 1
        paced.hold()
        self._cancel_stop()
        if self._wire.clears:
            before = ledger.dropped
            ledger.cleared(now, self._wire.clear(InterruptionFrame()))
            lost = ledger.dropped - before
            self.outlet.unproven = False
            if not lost and not paced:  # the last sample is just being heard
                self.outlet.is_waiting = False
                paced.resume(now)
                self._stop_when_heard(now)
                return False
            paced.rewind(lost, _goes_again)
        return True

    def speak_on(self) -> int:
        """After `wait`: go on, from the beginning of the word that was cut. How many milliseconds are heard again."""
        paced, ledger, spoken = self.paced, self.ledger, self.spoken
        if not self.is_waiting or paced is None or ledger is None or spoken is None:
            return 0
        now = self._wire.now()
        self.outlet.is_waiting = False
        again = 0
        if self._wire.clears:
            position = ledger.sent - ledger.dropped - self._origin_heard
            word = spoken.word_at(position, self._pushed)
            back = position - word.first if word is not None else 0 if spoken.words else round(BACK_S * self.rate)
            if back <= LONGEST_BACK_S * self.rate:
                again = paced.rewind(min(back, position - self._reply_from), _goes_again)
                self._origin_heard += again
        if not self.is_held:
            paced.resume(None if self._wire.clears else now)
            self.release(now)
        return again * 1000 // self.rate

    def playing(self, seconds: float) -> bytes:
        """What the caller was played in the last `seconds`, at the wire's rate, s16le; shorter where less is known.

        Silence between two replies is left out, that since the last one is not.
        """
        paced, ledger = self.paced, self.ledger
        if paced is None or ledger is None or not ledger.sent:
            return b""
        now, wanted = self._wire.now(), int(seconds * self.rate)
        silence = min(wanted, max(0, int((now - ledger.heard_by()) * self.rate)))
        return paced.left(wanted - silence, ledger.held(now)) + bytes(2 * silence)

    # ------------------------------------------------------------ a carrier that takes no audio

    def hold(self) -> None:
        """The carrier takes no audio for a while: what comes waits."""
        self.is_held = True
        if self.paced is not None:
            self.paced.hold()

    def go_on(self, now: float, ahead_s: float = 0.0) -> None:
        """After `hold`: the carrier has kept, or played, what it had; `ahead_s` of audio goes to it first."""
        self.is_held = False
        if self.paced is not None and not self.is_waiting:
            self.paced.resume(now, ahead_s)
            self.release(now)

    # ------------------------------------------------------------ packets out

    def release(self, now: float) -> None:
        """Send what is due by `now`."""
        self.outlet.release(self, now)

    def still_speaks(self) -> None:
        self.broadcast_frame(BotSpeakingFrame)

    def act(self, item: Any, now: float) -> None:
        """Something whose turn has come among the packets."""
        if item is FLUSH:
            padding = self._wire.flush()
            if self.ledger is not None:
                if padding:
                    self.ledger.left(0, now)
                self.ledger.flush(padding)
        elif item is _SPEECH_STARTS:
            self._cancel_stop()
            if not self.is_audible:
                self.outlet.next_speaking = now
                self._begin_reply()
                if self.spoke is not None:
                    self.spoke(True)
                self.broadcast_frame(BotStartedSpeakingFrame)
        elif item is _SPEECH_ENDS:
            self._mark()
            self._stop_when_heard(now)
        elif isinstance(item, EndFrame | StopFrame):
            if self.is_audible:
                self._silence()
            self._mark()
            self._wire.released(item)
            self.push_frame(item)
        elif isinstance(item, Frame):
            if isinstance(item, OutputTransportMessageFrame | OutputDTMFFrame | MarkFrame):
                self._wire.send(item)
            self.push_frame(item)

    def _begin_reply(self) -> None:
        """The bot begins to speak with the next sample: what it said before is not part of it."""
        assert self.ledger is not None
        assert self.spoken is not None
        self._reply_from = self.ledger.sent - self.ledger.dropped - self._origin_heard
        self.spoken.forget(self._reply_from)

    def tick(self, now: float) -> None:
        """Called every 20 ms or so."""
        self.outlet.tick(self, now)

    def nothing_more(self) -> None:
        if self._stop_timer is None:
            self.outlet.in_speech = False
            self._silence()

    def _mark(self) -> None:
        if self._wire.has_marks and self.ledger is not None and self.ledger.sent:
            self._last_mark = self.ledger.mark(self._wire.now())
            self._wire.send(MarkFrame(self._last_mark))

    def left(self, waiting: int, now: float) -> None:
        """What had to wait, as the carrier takes only so many messages, has left but for `waiting` samples."""
        if self.ledger is not None:
            self.ledger.left(waiting, now)

    # ------------------------------------------------------------ what the carrier says of the play-out

    def on_wire(self, frame: Frame, now: float) -> None:
        """PlayedFrame, PlaybackStartedFrame or PlaybackCompletedFrame, from the carrier."""
        ledger = self.ledger
        if ledger is None:
            return
        if isinstance(frame, PlayedFrame):
            if frame.name == self._last_mark:
                self.outlet.unproven = False
            ledger.played(frame.name, now)
        elif isinstance(frame, PlaybackStartedFrame):
            ledger.playback_started(now)
        elif isinstance(frame, PlaybackCompletedFrame):
            self.outlet.unproven = False
            ledger.playback_completed(now)

    def all_heard(self, now: float) -> bool:
        """Nothing waits here, and the carrier has played all that was sent: by its own word, if it gives one in time.

        The way to the carrier is not known exactly, so the clock alone could cut the last word of a slow line.
        """
        ledger = self.ledger
        if ledger is None or not ledger.sent:
            return not self.paced
        if self.paced or not ledger.all_heard(now):
            return False
        tells = self._wire.has_marks or self._wire.reports_playback
        return not (tells and self.outlet.unproven) or now > ledger.heard_by() + PROOF_S

    # ------------------------------------------------------------ who speaks

    def _stop_when_heard(self, now: float) -> None:
        """BotStoppedSpeaking belongs where the caller hears the end, not where the last packet left."""
        assert self.ledger is not None
        self._cancel_stop()
        delay = self.ledger.heard_by() - now
        if delay <= 0:
            self._silence()
        else:
            self._stop_timer = self.runtime.call_later(delay, self._heard_the_end)

    def _heard_the_end(self) -> None:
        self._stop_timer = None
        self._silence()

    def _cancel_stop(self) -> None:
        if self._stop_timer is not None:
            self._stop_timer.cancel()
            self._stop_timer = None

    def _silence(self) -> None:
        self._cancel_stop()
        if self.is_audible:
            self.outlet.next_speaking = NOBODY_SPEAKS
            if self.spoke is not None:
                self.spoke(False)
            self.broadcast_frame(BotStoppedSpeakingFrame)

    # ------------------------------------------------------------ rates

    def to_wire(self, frame: AudioRawFrame) -> bytes:
        """`frame` in mono at the wire's rate."""
        pcm = frame.audio
        if frame.num_channels != 1:
            raise LocalProtocolError(f"output audio must be mono, got {frame.num_channels} channels")
        if frame.sample_rate == self.rate:
            return pcm
        resampler = self._resampler
        if resampler is None or resampler.in_rate != frame.sample_rate:
            self._flush_resampler()
            resampler = self._resampler = make_resampler(frame.sample_rate, self.rate)
        return resampler.process(pcm)

    def flush(self) -> None:
        """The end of a sound: what the resampler and a begun packet hold may leave."""
        if self.paced is None or self.ledger is None or not self.outlet.unflushed:
            return
        self.outlet.unflushed = False
        self._flush_resampler()
        self.paced.flush()

    def _flush_resampler(self) -> None:
        if self._resampler is not None and self.paced is not None and self.ledger is not None:
            tail = self._resampler.flush()
            self.ledger.generated += len(tail) >> 1
            self.paced.push(tail)
