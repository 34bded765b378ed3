"""AudioBufferProcessor: a program gets the call's audio, both sides on one line of time, in pieces or at the end.

The caller is recorded as his frames pass; what the bot says as the caller hears it: the processor finds the output
stage of its pipeline and listens there (`media.wire.Tap`), so it may stand anywhere that the caller's audio comes
to, as a rule behind `transport.output()`. Until something is recorded nothing is paid. In a pipeline without an
output stage the bot's frames count as sent when they pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from media.events import DONE, MaybeAwaitable
from media.flow import FrameDirection
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    SpeechOutputAudioRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    UserAudioRawFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from media.ledger import PlayoutLedger
from media.output import OutputStage
from media.processor import FrameProcessor
from media.recording import PUT_S, CallTape
from media.resample import Resampler, make_resampler
from media.turns.base import Timer

BEFORE_TURN_S: Final = 1.0  # of the caller's audio that belongs to his turn: a detector hears him a little late


class AudioBufferProcessor(FrameProcessor):
    """Records both sides of a call into memory, for as long as the program wants.

    Args:
        sample_rate: Hz of what the events bring; None: the output's rate, by StartFrame.
        num_channels: 1: both sides mixed; 2: the caller left, the bot right.
        buffer_size: bytes of one side after which the events come; 0: only when the recording stops.
        enable_turn_audio: on_user_turn_audio_data and on_bot_turn_audio_data, at most 0.7 s after the turn.
        user_continuous_stream: of older programs; has no effect.

    Events: on_audio_data(audio, sample_rate, num_channels); on_track_audio_data(user, bot, sample_rate, 1), with it;
    on_user_turn_audio_data and on_bot_turn_audio_data(audio, sample_rate, 1). EndFrame and CancelFrame stop the
    recording. At EndFrame what has been sent and is still to be heard counts as heard.
    """

    def __init__(
        self,
        *,
        sample_rate: int | None = None,
        num_channels: int = 1,
        buffer_size: int = 0,
        user_continuous_stream: bool | None = None,
        enable_turn_audio: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_channels not in (1, 2):
            raise ValueError(f"num_channels must be 1 or 2, got {num_channels}")
        self._wanted_rate = sample_rate
        self._sample_rate = sample_rate or 0
        self._num_channels = num_channels
        self._piece = buffer_size + (buffer_size & 1)
        self._is_recording = False
        self._output: OutputStage | None = None  # that is listened to
        self._own: PlayoutLedger | None = None  # in a pipeline without one
        self._own_resampler: Resampler | None = None
        self._ledger: PlayoutLedger | None = None  # of what the bot says
        self._tape: CallTape | None = None
        self._to_rate: tuple[Resampler, Resampler] | None = None  # of the tape's tracks, caller and bot
        self._user, self._bot = bytearray(), bytearray()
        self._made = 0  # samples of each side since the recording began
        self._began, self._began_at = 0.0, 0  # when the tape began, and `_made` then
        self._turns: tuple[_Turns, _Turns] | None = None
        if enable_turn_audio:
            self._turns = _Turns(BEFORE_TURN_S), _Turns(0.0)
        self._timer = Timer(self.call_later, self._tick)
        for event in ("on_audio_data", "on_track_audio_data", "on_user_turn_audio_data", "on_bot_turn_audio_data"):
            self._register_event_handler(event)

    @property
    def sample_rate(self) -> int:
        """Hz of what the events bring; 0 before StartFrame, unless it was given."""
        return self._sample_rate

    @property
    def num_channels(self) -> int:
        """Of on_audio_data: 1, mixed, or 2."""
        return self._num_channels

    def has_audio(self) -> bool:
        """Whether there is audio that no event has brought. The two sides are always of one length."""
        return bool(self._user)

    def merge_audio_buffers(self) -> bytes:
        """What no event has brought yet, as on_audio_data would bring it."""
        return _merged(bytes(self._user), bytes(self._bot), self._num_channels)

    def start_recording(self) -> MaybeAwaitable:
        """Begin anew. What was recorded before and came in no event is forgotten."""
        if self._is_recording:
            self._leave()
        self._is_recording = True
        self._user.clear()
        self._bot.clear()
        self._made = 0
        for turns in self._turns or ():
            turns.clear()
        if self._sample_rate:
            self._listen()
        return DONE

    def stop_recording(self) -> MaybeAwaitable:
        """That was all: the events bring the rest."""
        self._stop(to_come=False)
        return DONE

    # ------------------------------------------------------------ frames

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        take = _TAKES.get(type(frame))
        if take is not None:
            take(self, frame)
        self.push_frame(frame, direction)
        return DONE

    def _on_start(self, frame: StartFrame) -> None:
        self._sample_rate = self._wanted_rate or frame.audio_out_sample_rate
        if self._is_recording:
            self._listen()

    def _on_caller(self, frame: InputAudioRawFrame) -> None:
        if self._tape is not None:
            self._tape.caller(frame.audio, frame.sample_rate, frame.num_channels, self.runtime.now())

    def _on_bot(self, frame: OutputAudioRawFrame) -> None:
        """Only where there is no output stage, or it stands behind."""
        ledger = self._own
        if ledger is None or self._tape is None:
            return
        pcm = frame.audio
        if frame.num_channels != 1:
            pcm = np.frombuffer(pcm, "<i2").reshape(-1, frame.num_channels).mean(axis=1).astype("<i2").tobytes()
        if frame.sample_rate != ledger.sample_rate:
            if self._own_resampler is None or self._own_resampler.in_rate != frame.sample_rate:
                self._own_resampler = make_resampler(frame.sample_rate, ledger.sample_rate)
            pcm = self._own_resampler.process(pcm)
        ledger.send(len(pcm) >> 1, self.runtime.now())
        self._tape.sent(pcm)

    def _on_interruption(self, frame: InterruptionFrame) -> None:
        if self._own is not None:
            self._own.cleared(self.runtime.now())

    def _on_user_turn(self, begins: bool) -> None:
        if self._turns is not None and self._tape is not None:
            self._turns[0].turn(begins, self._at(self.runtime.now()), self._sample_rate)

    def _on_bot_turn(self, begins: bool) -> None:
        if self._turns is None or self._ledger is None:
            return
        now = self.runtime.now()
        at = now if begins else max(now, self._ledger.heard_by())  # before EndFrame its end is told ahead of time
        self._turns[1].turn(begins, self._at(at), self._sample_rate)

    # ------------------------------------------------------------ listening

    def _listen(self) -> None:
        self._output = next((each for each in self._flow.processors if isinstance(each, OutputStage)), None)
        if self._output is not None:
            self._output.listen(self)
        else:
            self._own = PlayoutLedger(self._sample_rate, latency_s=0.0)
            self.tuned(self._own)
        self._timer.set(PUT_S)

    def tuned(self, ledger: PlayoutLedger) -> None:
        """The output stage speaks into a wire of its own from now on, and this ledger tells what is heard of it."""
        if self._tape is not None:
            self._end_tape(to_come=False)
        now = self.runtime.now()
        self._ledger, self._tape = ledger, CallTape(ledger, self._put, now)
        rates = ledger.sample_rate, self._sample_rate
        self._to_rate = make_resampler(*rates), make_resampler(*rates)
        self._began, self._began_at = now, self._made

    def sent(self, pcm: bytes) -> None:
        """A packet of the bot's has left."""
        if self._tape is not None:
            self._tape.sent(pcm)

    def _tick(self) -> None:
        self._timer.set(PUT_S)
        if self._tape is not None:
            self._tape.tick(self.runtime.now())

    def _stop(self, *, to_come: bool) -> None:
        if not self._is_recording:
            return
        if self._tape is not None:
            self._end_tape(to_come=to_come)
        self._leave()
        for event, turns in zip(_TURNS, self._turns or (), strict=False):
            for audio in turns.finish():
                self._call_event_handler(event, audio, self._sample_rate, 1)
        self._deliver(len(self._user))

    def _leave(self) -> None:
        self._is_recording = False
        self._timer.cancel()
        self._tape = self._ledger = self._own = self._own_resampler = None
        if self._output is not None:
            self._output.ignore(self)
            self._output = None

    def _end_tape(self, *, to_come: bool) -> None:
        tape, resamplers = self._tape, self._to_rate
        assert tape is not None
        assert resamplers is not None
        tape.finish(self.runtime.now(), to_come=to_come)
        self._add(resamplers[0].flush(), resamplers[1].flush())

    def cleanup(self) -> MaybeAwaitable:
        self._leave()
        return super().cleanup()

    # ------------------------------------------------------------ what is made of it

    def _at(self, now: float) -> int:
        """The sample that is recorded `now`."""
        return self._began_at + int((now - self._began) * self._sample_rate)

    def _put(self, both: bytes) -> None:
        assert self._to_rate is not None
        sides = np.frombuffer(both, "<i2").reshape(-1, 2)
        user, bot = self._to_rate
        self._add(user.process(sides[:, 0].tobytes()), bot.process(sides[:, 1].tobytes()))

    def _add(self, user: bytes, bot: bytes) -> None:
        self._made += len(user) >> 1
        self._user += user
        self._bot += bot
        for event, turns, pcm in zip(_TURNS, self._turns or (), (user, bot), strict=False):
            for audio in turns.add(pcm, self._sample_rate):
                self._call_event_handler(event, audio, self._sample_rate, 1)
        while self._piece and len(self._user) >= self._piece:
            self._deliver(self._piece)

    def _deliver(self, size: int) -> None:
        if not size:
            return
        user, bot = bytes(self._user[:size]), bytes(self._bot[:size])
        del self._user[:size], self._bot[:size]
        rate, channels = self._sample_rate, self._num_channels
        self._call_event_handler("on_audio_data", _merged(user, bot, channels), rate, channels)
        self._call_event_handler("on_track_audio_data", user, bot, rate, 1)


_TURNS: Final = ("on_user_turn_audio_data", "on_bot_turn_audio_data")

_TAKES: Final[Mapping[type, Callable[[AudioBufferProcessor, Any], None]]] = {
    StartFrame: AudioBufferProcessor._on_start,
    InputAudioRawFrame: AudioBufferProcessor._on_caller,
    UserAudioRawFrame: AudioBufferProcessor._on_caller,
    OutputAudioRawFrame: AudioBufferProcessor._on_bot,
    TTSAudioRawFrame: AudioBufferProcessor._on_bot,
    SpeechOutputAudioRawFrame: AudioBufferProcessor._on_bot,
    InterruptionFrame: AudioBufferProcessor._on_interruption,
    UserStartedSpeakingFrame: lambda self, frame: self._on_user_turn(True),
    UserStoppedSpeakingFrame: lambda self, frame: self._on_user_turn(False),
    BotStartedSpeakingFrame: lambda self, frame: self._on_bot_turn(True),
    BotStoppedSpeakingFrame: lambda self, frame: self._on_bot_turn(False),
    EndFrame: lambda self, frame: self._stop(to_come=True),
    CancelFrame: lambda self, frame: self._stop(to_come=False),
}


class _Turns:
    """One side's turns, cut out of its track when the track has come so far. Positions are samples of the track."""

    def __init__(self, before_s: float) -> None:
        self._before_s = before_s
        self._pcm = bytearray()
        self._base = 0  # position of its first sample
        self._first: int | None = None  # of the turn that goes on
        self._ended: deque[tuple[int, int]] = deque()

    def clear(self) -> None:
        self._pcm.clear()
        self._base, self._first = 0, None
        self._ended.clear()

    def turn(self, begins: bool, at: int, rate: int) -> None:
        """A turn begins, or ends, at `at`; what is told twice counts once."""
        if begins:
            if self._first is None:
                self._first = max(0, at - int(self._before_s * rate))
        elif self._first is not None:
            self._ended.append((self._first, at))
            self._first = None

    def add(self, pcm: bytes, rate: int) -> list[bytes]:
        """The turns that are complete now."""
        self._pcm += pcm
        end = self._base + (len(self._pcm) >> 1)
        found = []
        while self._ended and self._ended[0][1] <= end:
            found.append(self._cut(*self._ended.popleft()))
        # A turn that begins later begins behind `end`, and takes so much of what is before it.
        needed = end - int(self._before_s * rate)
        if self._ended:
            needed = min(needed, self._ended[0][0])
        if self._first is not None:
            needed = min(needed, self._first)
        if needed > self._base:
            del self._pcm[: 2 * (needed - self._base)]
            self._base = needed
        return found

    def finish(self) -> list[bytes]:
        """There will be no more: what there is of the turns."""
        turns = [*self._ended]
        if self._first is not None:
            turns.append((self._first, self._base + (len(self._pcm) >> 1)))
        self._ended.clear()
        self._first = None
        return [audio for turn in turns if (audio := self._cut(*turn))]

    def _cut(self, first: int, last: int) -> bytes:
        return bytes(self._pcm[2 * max(0, first - self._base) : 2 * max(0, last - self._base)])


def _merged(user: bytes, bot: bytes, channels: int) -> bytes:
    left, right = np.frombuffer(user, "<i2"), np.frombuffer(bot, "<i2")
    if channels == 2:
        return np.column_stack((left, right)).astype("<i2").tobytes()
    both = left.astype(np.int32) + right
    return bytes(np.clip(both, -32768, 32767).astype("<i2").tobytes())
