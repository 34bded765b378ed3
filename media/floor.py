"""Who has the floor when the caller makes a sound while the bot speaks.

A sound may be the bot's own voice that comes back on the line, a cough, a "mhm", or the first word of an
interruption, and nobody can tell the last three apart as they begin. So the bot falls silent at once, in a way that
can be taken back: the carrier is cleared, what was not heard stands at the front of the buffer again, and services go
on. If a turn follows, InterruptionFrame makes it final; else the bot goes on from the word that was cut. Echo is
recognised before anything happens, by comparison with what the caller is being played.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from media.echo import NOISE_S, WINDOW_S, Likeness, likeness
from media.echo_before import PLAYED_S, is_new, leaves_voice, somebody_beside
from media.events import DONE, Handle, MaybeAwaitable
from media.frames import (
    BotStartedSpeakingFrame,
    CancelFrame,
    FloorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    StartFrame,
    UserMuteStartedFrame,
    UserMuteStoppedFrame,
    UserSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.hum import hums
from media.output import OutputStage
from media.processor import FrameDirection, FrameProcessor

log = logging.getLogger(__name__)

KEEP_S = 2.5  # of what has left: what may come back after a hold, and what an echo is compared with
LOOK_S = 0.08  # while the line echoes: how often it is asked whether that is all
LOOK_AGAIN_S = 0.04  # before one look that finds no echo is believed; and before a hold that was put off is due again
HUM_S = 0.02  # while the caller hums: how often it is asked whether he still does
CERTAIN = 0.65  # explained: echo, whatever the line brought before; a canceller may let it through now and then
PLAIN = 0.9  # explained, on a line that echoes: nobody speaks beside it
DOUBTS = 2  # such looks, one after the other, end an echo
BARELY_DB = 9.0  # what the echo leaves, above the line's noise: somebody, if it is a voice
_PIECE_S = 0.06
_FADE_OVER_S = 0.72
_FADED = 0.1  # of the power


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorParams:
    """When a sound of the caller's becomes a turn."""

    turn_s: float | None = 1.3  # so much speech is a turn; None: somebody else interrupts (a turn strategy, a key)
    settle_s: float = 0.25  # after speech too short for a turn: how long the bot waits for more of it
    hold: bool = True  # fall silent before it is a turn
    hold_after_s: float = 0.0  # ... after so much speech, and not while it fades; 0: as soon as it is heard
    longest_s: float = 4.0  # of silence, where `turn_s` is None and nobody interrupts: then the bot goes on
    echo: bool = True  # look whether it is the bot's own voice

    def __post_init__(self) -> None:
        if self.turn_s is not None and not 0.0 <= self.turn_s <= 10.0:
            raise ValueError(f"turn_s must be 0 to 10 seconds, got {self.turn_s}")
        for name in ("settle_s", "hold_after_s", "longest_s"):
            if not 0.0 <= getattr(self, name) <= 10.0:
                raise ValueError(f"{name} must be 0 to 10 seconds, got {getattr(self, name)}")


class _State(Enum):
    FREE = "free"  # nobody disputes the floor
    DOUBT = "doubt"  # the detector hears what may be the bot's own voice
    ECHO = "echo"  # ... what is
    FIRST = "first"  # the caller speaks, and the bot has not begun
    DISPUTED = "disputed"  # the caller speaks while the bot does, or would if it did not wait
    SETTLING = "settling"  # ... and has stopped
    TAKEN = "taken"  # it is the caller's until he stops


class Floor(FrameProcessor):
    """Stands behind a VADProcessor and before whoever acts on what the caller says.

    The edges of speech that is echo go no further. Each decision is a FloorFrame both ways, a line in the log, and a
    count in the call's record.

    Args:
        output: where the bot's speech leaves; None: the call's own.
    """

    def __init__(
        self, params: FloorParams | None = None, *, output: OutputStage | None = None, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        self.params = params or FloorParams()
        self._speech = output
        self._state = _State.FREE
        self._counters: Counter[str] | None = None
        self._caller: deque[bytes] = deque()  # his latest audio
        self._caller_bytes = 0
        self._keep_bytes = 0
        self._rate = 8000
        self._began = 0.0  # when the caller began to speak, in this dispute
        self._before_s = 0.0  # of speech in this dispute, before the present stretch
        self._hummed = False  # the hold was put off for that
        self._muted = False
        self._echo_ms: int | None = None  # delay of the line's echo, once there was any
        self._told_by = 0.0  # how much of the line was explained when that was learnt
        self._withheld: VADUserStartedSpeakingFrame | None = None
        self._doubts = 0  # looks without echo, since the last one with it
        self._timer: Handle | None = None
        self._hold_timer: Handle | None = None

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        kind = type(frame)
        if kind is InputAudioRawFrame:
            caller, audio = self._caller, frame.audio  # type: ignore[attr-defined]
            caller.append(audio)
            size = self._caller_bytes + len(audio)
            while size - len(caller[0]) >= self._keep_bytes:
                size -= len(caller.popleft())
            self._caller_bytes = size
        else:
            act = _ACTS.get(kind)
            if act is not None and not act(self, frame):
                return DONE
        return self.push_frame(frame, direction)

    # ------------------------------------------------------------ what happens; False: the frame goes no further

    def _on_start(self, frame: StartFrame) -> bool:
        self._rate = frame.audio_in_sample_rate
        self._keep_bytes = 2 * int((WINDOW_S + NOISE_S) * self._rate)
        if self._speech is None:
            self._speech = getattr(self.runtime, "speech", None)
        self._counters = getattr(self.runtime, "counters", None)
        if self._speech is not None:
            self._speech.remember(KEEP_S)
        return True

    def _on_voice(self, frame: VADUserStartedSpeakingFrame) -> bool:
        if self._muted:
            return True
        self._stop_timer()
        if self._state is _State.SETTLING:
            self._dispute(frame.start_secs)
            return True
        like = self._likeness() if self.params.echo else None
        if like is not None:
            if like.is_echo(self._echo_ms):
                self._withheld = frame
                self._found_echo(like)
                return False
            if like.is_doubtful:
                self._state, self._withheld, self._doubts = _State.DOUBT, frame, 1
                self._set_timer(LOOK_AGAIN_S, self._look_again)
                return False
        self._begin(frame.start_secs, like)
        return True

    def _found_echo(self, like: Likeness) -> None:
        if self._state is not _State.ECHO:
            self._state = _State.ECHO
            self._decide("echo", "the caller's line brings what the bot says", _values(like))
        self._doubts = 0
        self._learn_delay(like)
        self._set_timer(LOOK_S, self._look_again)

    def _learn_delay(self, like: Likeness) -> None:
        """The fading end of an echo agrees about as well some milliseconds off, where its path is cut."""
        known_ms = self._echo_ms
        if known_ms is None or (like.tells_delay and (like.explained >= self._told_by or not like.is_near(known_ms))):
            self._echo_ms, self._told_by = like.delay_ms, min(like.explained, PLAIN)

    def _look_again(self) -> None:
        """Is what sounds like the bot still the bot alone?"""
        like = self._likeness()
        if like is None:  # nothing to be heard
            self._set_timer(LOOK_S, self._look_again)
        elif like.is_echo(self._echo_ms):
            self._found_echo(like)
        elif self._state is _State.ECHO and like.rest_db <= BARELY_DB and not self._leaves_voice(like):
            self._set_timer(LOOK_AGAIN_S, self._look_again)  # a car that passes
        else:
            self._doubts += 1
            if self._doubts < DOUBTS:
                self._set_timer(LOOK_AGAIN_S, self._look_again)
            else:
                self._let_go(like)

    def _let_go(self, like: Likeness | None) -> None:
        """Somebody speaks after all."""
        self._state, frame, self._withheld = _State.FREE, self._withheld, None
        assert frame is not None
        self.push_frame(frame)
        if not self._muted:
            self._begin(frame.start_secs, like)

    def _begin(self, start_s: float, like: Likeness | None) -> None:
        """The caller speaks, and it is not the bot's voice."""
        self._before_s, self._hummed = 0.0, False
        speech = self._speech
        if speech is None or not speech.is_audible:
            self._state, self._began = _State.FIRST, self.runtime.now() - start_s
            return
        self._dispute(start_s, like)

    def _on_bot(self, frame: BotStartedSpeakingFrame) -> bool:
        """Its answer was on the way when he went on. One who speaks all the time, as a radio does, cannot stop it."""
        turn_s = self.params.turn_s or 0.0  # who interrupts in our place decides this, too
        if self._state is _State.FIRST and not self._muted and self.runtime.now() - self._began < turn_s:
            self._set_timer(0.0, self._both_speak)  # not within the push of its first sample
        return True

    def _both_speak(self) -> None:
        speech = self._speech
        if self._state is _State.FIRST and speech is not None and speech.is_audible:
            self._dispute(self.runtime.now() - self._began)

    def _dispute(self, start_s: float, like: Likeness | None = None) -> None:
        self._state = _State.DISPUTED
        self._began = self.runtime.now() - start_s
        if self.params.hold:
            left_s = self.params.hold_after_s - self._before_s - start_s
            if left_s > 0:
                self._hold_timer = self.call_later(left_s, lambda: self._hold_if_due(like))
            else:
                self._hold_unless_he_hums(like)
        if self.params.turn_s is not None:
            self._set_timer(self.params.turn_s - self._before_s - start_s, self._is_a_turn)
        else:
            self._set_timer(self.params.longest_s, self._nobody_decides)

    def _hold(self, like: Likeness | None) -> None:
        self._hold_timer = None
        if self._speech is not None and self._speech.wait():
            self._decide("held", "the caller made a sound", _values(like))

    def _hold_if_due(self, like: Likeness | None) -> None:
        """A word of back-channel is over before the detector can know it."""
        if fades(b"".join(self._caller), self._rate):
            self._hold_timer = self.call_later(LOOK_AGAIN_S, lambda: self._hold_if_due(like))
        else:
            self._hold_unless_he_hums(like)

    def _hold_unless_he_hums(self, like: Likeness | None) -> None:
        """Who hums listens; what comes out of that is heard as soon as the mouth opens."""
        if hums(b"".join(self._caller), self._rate):
            self._hummed = True
            self._hold_timer = self.call_later(HUM_S, lambda: self._hold_if_due(like))
        else:
            self._hold(like)

    def _nobody_decides(self) -> None:
        """He speaks on, and nobody takes that for a turn: it may be a radio."""
        self._stop_timer()
        self._before_s += self.runtime.now() - self._began
        self._was_nothing()
        self._state = _State.TAKEN

    def _is_a_turn(self) -> None:
        self._stop_timer()  # the hold's, if that had not come yet: nobody would take it back
        spoken_s = self._before_s + self.runtime.now() - self._began
        self._state = _State.TAKEN
        reason = "the caller went on speaking"
        self._decide("interrupted", reason, {"speech_ms": round(spoken_s * 1000)})
        self.broadcast_frame(InterruptionFrame, reason=reason)

    def _on_silence(self, frame: VADUserStoppedSpeakingFrame) -> bool:
        state = self._state
        if state is _State.ECHO:
            self._stop_timer()
            self._state, self._withheld = _State.FREE, None
            return False
        if state is _State.DOUBT:  # it was too short to be looked at twice
            self._stop_timer()
            self._let_go(None)
            state = self._state
        if state is _State.DISPUTED:
            self._stop_timer()  # also the hold's, if that had not come yet
            self._before_s += max(0.0, self.runtime.now() - self._began - frame.stop_secs)
            self._state = _State.SETTLING
            self._set_timer(self.params.settle_s, self._was_nothing)
        elif state in (_State.FIRST, _State.TAKEN):
            self._state = _State.FREE
        return True

    def _was_nothing(self) -> None:
        """The caller made a sound, and no turn followed."""
        self._state = _State.FREE
        speech = self._speech
        assert speech is not None
        values = {"speech_ms": round(self._before_s * 1000)}
        if speech.is_waiting:
            values["again_ms"] = speech.speak_on()
            self._decide("went on", "no turn followed", values)
        else:
            self._decide("ignored", "the caller hummed" if self._hummed else "no turn followed", values)

    def _on_still_speaking(self, frame: UserSpeakingFrame) -> bool:
        return self._withheld is None

    def _on_interruption(self, frame: InterruptionFrame) -> bool:
        if self._state in (_State.DISPUTED, _State.SETTLING):
            self._stop_timer()
            taken = self._state is _State.DISPUTED
            self._state = _State.TAKEN if taken else _State.FREE
            self._decide("interrupted", frame.reason or "somebody else decided so", {})
        elif self._state is _State.FIRST:
            self._state = _State.TAKEN  # what the bot says now, it says because of him
        return True

    def _on_mute(self, frame: UserMuteStartedFrame) -> bool:
        self._muted = True
        if self._state in (_State.DISPUTED, _State.SETTLING):
            self._stop_timer()
            self._was_nothing()
        return True

    def _on_unmute(self, frame: UserMuteStoppedFrame) -> bool:
        self._muted = False
        return True

    def _on_cancel(self, frame: CancelFrame) -> bool:
        self._stop_timer()
        self._state, self._withheld = _State.FREE, None
        return True

    # ------------------------------------------------------------ inside

    def _likeness(self) -> Likeness | None:
        """At the delay of earlier echo, which is soon done; else at any."""
        compared = self._compared()
        if compared is None:
            return None
        known_ms = self._echo_ms
        if known_ms is not None:
            like = likeness(*compared, known_ms)
            if like is None:
                return None
            if like.is_echo(known_ms):
                delays = {like.delay_ms, known_ms}  # where either path explains what is left, nobody is
                if like.explained < PLAIN and all(somebody_beside(*compared, delay_ms) for delay_ms in delays):
                    return replace(like, refuted=True)
                return like
        like = likeness(*compared)
        if like is None or like.explained >= CERTAIN or not (like.is_echo(known_ms) or like.is_doubtful):
            return like
        return replace(like, refuted=True) if is_new(*compared, like.delay_ms) else like

    def _leaves_voice(self, like: Likeness) -> bool:
        compared, known_ms = self._compared(), self._echo_ms
        return compared is None or leaves_voice(*compared, like.delay_ms if known_ms is None else known_ms)

    def _compared(self) -> tuple[bytes, bytes, int, int] | None:
        """What the caller's line brought and what he was played, with the rate of each."""
        speech = self._speech
        if speech is None or speech.paced is None:
            return None
        return b"".join(self._caller), speech.playing(PLAYED_S), self._rate, speech.paced.sample_rate

    def _decide(self, decision: str, reason: str, values: Mapping[str, float]) -> None:
        if self._counters is not None:
            self._counters[f"floor_{decision.replace(' ', '_')}"] += 1
        log.info("floor.%s reason=%r %s", decision.replace(" ", "_"), reason, _line(values))
        self.broadcast_frame(FloorFrame, decision=decision, reason=reason, values=values)

    def _set_timer(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._timer = self.call_later(max(0.0, delay_s), callback)

    def _stop_timer(self) -> None:
        timers, self._timer, self._hold_timer = (self._timer, self._hold_timer), None, None
        for timer in timers:
            if timer is not None:
                timer.cancel()


_ACTS: dict[type, Callable[[Floor, Any], bool]] = {
    StartFrame: Floor._on_start,
    VADUserStartedSpeakingFrame: Floor._on_voice,
    VADUserStoppedSpeakingFrame: Floor._on_silence,
    UserSpeakingFrame: Floor._on_still_speaking,
    BotStartedSpeakingFrame: Floor._on_bot,
    InterruptionFrame: Floor._on_interruption,
    UserMuteStartedFrame: Floor._on_mute,
    UserMuteStoppedFrame: Floor._on_unmute,
    CancelFrame: Floor._on_cancel,
}


def fades(pcm: bytes, rate: int) -> bool:
    """Is the last of a voice much fainter than the loudest there was?"""
    size = int(_PIECE_S * rate)
    samples = np.frombuffer(pcm[-2 * int(_FADE_OVER_S * rate) :], "<i2").astype(np.float64)
    count = len(samples) // size
    pieces = samples[len(samples) - count * size :].reshape(count, size)
    power: list[float] = (pieces * pieces).mean(axis=1).tolist()
    return count > 1 and power[-1] < _FADED * max(power)


def _values(like: Likeness | None) -> Mapping[str, float]:
    if like is None:
        return {}
    return {"explained": like.explained, "rest_db": like.rest_db, "delay_ms": like.delay_ms}


def _line(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())
