"""The two processors that a transport puts into a user's pipeline: where a call comes in, and where it goes out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Protocol

import numpy as np
import structlog

from gateway.call_input import CallInput
from gateway.transports.params import TransportParams
from gateway.transports.sound import Filtering, Mixing
from media.events import DONE, Each
from media.frames import (
    AudioRawFrame,
    CancelFrame,
    EndFrame,
    FilterControlFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    MixerControlFrame,
    OutputAudioRawFrame,
    OutputTransportReadyFrame,
    SpeechOutputAudioRawFrame,
    StartFrame,
    StopFrame,
    TTSAudioRawFrame,
)
from media.output import Handlers, OutputStage, handlers_of
from media.processor import FrameDirection, FrameProcessorSetup, MaybeAwaitable, Runtime
from media.wire import NOBODY, Wire

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.transports")

FILL_S = 0.06  # how far ahead of play-out a mixer's sound is sent while the bot is silent


class Owner(Protocol):
    """What the two ends ask of their transport."""

    @property
    def params(self) -> TransportParams: ...

    def join(self, end: TransportInput | TransportOutput, runtime: Runtime) -> None:
        """`end` is being set up in a pipeline."""

    def prepare(self, frame: StartFrame) -> None:
        """StartFrame has come to one of the ends: the wire's rates can be worked out."""

    def begin(self, frame: StartFrame, end: TransportInput | TransportOutput) -> None:
        """StartFrame has gone on from `end`."""

    def leave(self, end: TransportInput | TransportOutput) -> Awaitable[None]:
        """`end` is being cleaned up."""


class TransportWire(Wire, Protocol):
    """A wire that may not be open yet."""

    @property
    def is_open(self) -> bool:
        """Whether what is sent now gets there."""


class TransportInput(CallInput):
    """What the other side says is pushed from here, once StartFrame has passed and until the pipeline ends."""

    def __init__(self, owner: Owner, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self._owner = owner
        params = owner.params
        self.listening = False
        self._streaming = params.audio_in_stream_on_start
        self._filtering: Filtering | None = None
        self._passes_on = params.audio_in_passthrough
        self._take: Callable[[InputAudioRawFrame], Any] = _drop

    @property
    def speaks_rtvi(self) -> bool:
        """Whether the other side is a client that waits for RTVI's messages; no carrier is."""
        params = getattr(getattr(self._owner.params, "serializer", None), "_params", None)
        return not getattr(params, "ignore_rtvi_messages", True)

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if direction is FrameDirection.UPSTREAM:
            self.push_frame(frame, direction)
        elif isinstance(frame, StartFrame):
            self._owner.prepare(frame)
            self.push_frame(frame)
            self.listening = True
            self._start_filter(frame)
            self._listen()
            self._owner.begin(frame, self)
        elif isinstance(frame, EndFrame | CancelFrame | StopFrame):
            self.push_frame(frame)
            self.listening = False
        elif isinstance(frame, FilterControlFrame) and self._filtering is not None:
            self._filtering.control(frame)
        else:
            self.push_frame(frame)

    def take_audio(self, frame: InputAudioRawFrame) -> None:
        """A piece of the caller's audio, while this listens."""
        self._take(frame)

    def start_audio_in_streaming(self) -> Awaitable[None]:
        """From now on the caller is heard, where the parameters said that this waits."""
        self._streaming = True
        self._listen()
        return DONE

    def _listen(self) -> None:
        if not (self._owner.params.audio_in_enabled and self._streaming):
            self._take = _drop
        elif self._filtering is not None:
            self._take = self._filtering.take
        else:
            self._take = self._pass_on

    def _pass_on(self, frame: InputAudioRawFrame) -> None:
        if self._passes_on and self.listening:
            self.push_frame(frame)

    def _start_filter(self, frame: StartFrame) -> None:
        params = self._owner.params
        if params.audio_in_filter is not None and self._filtering is None:
            self._filtering = Filtering(params.audio_in_filter, self.runtime.drive, self._pass_on, self.push_error)
            self._filtering.start(params.audio_in_sample_rate or frame.audio_in_sample_rate)

    def setup(self, setup: FrameProcessorSetup) -> MaybeAwaitable:
        result = super().setup(setup)
        self._owner.join(self, self.runtime)
        return result

    def cleanup(self) -> MaybeAwaitable:
        self.listening = False
        waits = [self._owner.leave(self), super().cleanup()]
        if self._filtering is not None:
            waits.append(self._filtering.stop())
            self._filtering = None
        return Each(waits)


class TransportOutput(OutputStage):
    """The output stage of a wire that may come later, or go while the pipeline runs: then audio is dropped, and all
    else passes as if its time had come."""

    is_plain: ClassVar[bool] = False  # the wire may not be open, and a mixer sounds where nobody speaks

    takes: ClassVar[Mapping[type, str]] = {
        **OutputStage.takes,
        EndFrame: "_on_last_word",
        InterruptionFrame: "_on_any_interruption",
        MixerControlFrame: "_on_mixer_control",
        OutputAudioRawFrame: "_on_track_audio",
        TTSAudioRawFrame: "_on_track_speech",
        SpeechOutputAudioRawFrame: "_on_track_stream",
    }

    _wire: TransportWire

    def __init__(self, owner: Owner, *, name: str | None = None) -> None:
        super().__init__(NOBODY, name=name)
        self._owner = owner
        self.outlet.hears = False
        self._up = False  # between StartFrame and clean-up
        self._ready = False  # this wire's readiness was told
        self._announced: InterruptionFrame | None = None
        self._strays: set[str] = set()  # destinations that nobody registered
        self._mixing: Mixing | None = None
        self._use(_deaf())

    # ------------------------------------------------------------ the wire comes and goes

    def attach(self, wire: TransportWire) -> None:
        """Speak into `wire` from now on. What the last one did not get, nobody gets."""
        self._speak_into(wire)
        self._ready = False
        self.outlet.hears = self._owner.params.audio_out_enabled
        self._use(handlers_of(TransportOutput) if self.outlet.hears else _deaf())
        if self._up:
            self._silence()
            self._begin_anew()
            self._tell_ready()

    def opened(self) -> None:
        """The other side has said what it is: its rate may differ, and what waited for it may go."""
        if not self._up or self.paced is None:
            return
        if self.rate != self._wire.send_rate:
            log.info("transport.rate_corrected", was=self.rate, now=self._wire.send_rate)
            self._begin_anew()
        self.release(self._wire.now())
        self._tell_ready()

    def release(self, now: float) -> None:
        if self._wire.is_open:
            super().release(now)

    def abandon(self) -> None:
        """Nobody is there any more."""
        self._use(_deaf())
        self.outlet.hears = False
        if not self._up or self.paced is None:
            return
        self._silence()
        for item in self.paced.clear():
            if isinstance(item, Frame):
                self.act(item, self._wire.now())

    def _begin_anew(self) -> None:
        """As at StartFrame; frames that wait among the audio go on waiting."""
        waiting = self.paced.clear() if self.paced is not None else ()
        ended = self.outlet.ended
        self._tune()
        self.outlet.ended = ended
        self._start_mixer()
        for item in waiting:
            if isinstance(item, Frame) and self.paced is not None:
                self.paced.put(item)

    def _tell_ready(self) -> None:
        if self._wire is not NOBODY and self._wire.is_open and not self._ready:
            self._ready = True
            self.push_frame(OutputTransportReadyFrame(), FrameDirection.UPSTREAM)

    # ------------------------------------------------------------ frames

    def _on_start(self, frame: StartFrame) -> None:
        self._owner.prepare(frame)
        super()._on_start(frame)
        self._up = True
        self._start_mixer()
        self._tell_ready()
        self._owner.begin(frame, self)

    def _on_track_audio(self, frame: OutputAudioRawFrame) -> None:
        self._in_track(frame, self._on_audio)

    def _on_track_speech(self, frame: TTSAudioRawFrame) -> None:
        self._in_track(frame, self._on_speech)

    def _on_track_stream(self, frame: SpeechOutputAudioRawFrame) -> None:
        self._in_track(frame, self._on_stream)

    def _in_track(self, frame: Any, take: Callable[[Any], None]) -> None:
        """A telephone has one track: what is meant for another one that nobody registered is dropped."""
        destination = getattr(frame, "_destination", None)
        if destination is not None and destination not in self._owner.params.audio_out_destinations:
            if destination not in self._strays:
                self._strays.add(destination)
                log.warning("transport.unknown_destination", processor=str(self), destination=destination)
        elif frame.num_channels == 1:
            take(frame)
        else:
            take(OutputAudioRawFrame(_mono(frame), frame.sample_rate, 1))

    def _on_last_word(self, frame: EndFrame) -> None:
        params, wire = self._owner.params, self._wire
        silence_s = params.audio_out_end_silence_secs
        if "audio_out_end_silence_secs" not in params.model_fields_set and (wire.has_marks or wire.reports_playback):
            silence_s = 0  # the other side tells when it has played all: nothing has to be covered up
        if silence_s and self.paced is not None:
            self._end_speech()
            self._push_pcm(bytes(2 * silence_s * self.rate))
        self._on_end(frame)

    # ------------------------------------------------------------ interruption

    def announced(self, frame: InterruptionFrame) -> None:
        """`frame` was pushed somewhere, and has taken effect here."""
        self._announced = frame

    def _on_any_interruption(self, frame: InterruptionFrame) -> None:
        if frame is not self._announced:  # of a runtime that tells nobody
            self.interrupt(frame)
        self._announced = None
        self._on_interruption(frame)

    # ------------------------------------------------------------ the mixer

    def _start_mixer(self) -> None:
        mixer = self._owner.params.mixer()
        if mixer is not None and self.outlet.hears:
            self._mixing = Mixing(mixer, self.runtime.drive, self.push_error)
            self._mixing.start(self.rate)
            self.outlet.mix = self._mixing.mix

    def _on_mixer_control(self, frame: MixerControlFrame) -> None:
        if self._mixing is not None:
            self._mixing.control(frame)
        self.push_frame(frame)

    def tick(self, now: float) -> None:
        super().tick(now)
        if self._mixing is not None and self.outlet.hears and not self.outlet.ended:
            self._fill(now)

    def _fill(self, now: float) -> None:
        """A mixer's sound goes on while the bot says nothing."""
        paced, ledger = self.paced, self.ledger
        if paced is None or ledger is None or not self._wire.is_open:
            return
        packet = self.rate * self._wire.packet_ms // 1000
        while not paced and ledger.heard_by() - now < FILL_S:
            ledger.generated += packet
            paced.push(bytes(2 * packet))
            self.release(now)

    # ------------------------------------------------------------ life

    def setup(self, setup: FrameProcessorSetup) -> MaybeAwaitable:
        result = super().setup(setup)
        self._owner.join(self, self.runtime)
        return result

    def cleanup(self) -> MaybeAwaitable:
        waits = [self._owner.leave(self), super().cleanup()]
        self._up = False
        if self._mixing is not None:
            waits.append(self._mixing.stop())
        return Each(waits)


def _mono(frame: AudioRawFrame) -> bytes:
    """The mean of all channels."""
    samples = np.frombuffer(frame.audio, "<i2").reshape(-1, frame.num_channels)
    return bytes(samples.mean(axis=1).astype("<i2").tobytes())


def _drop(frame: Any) -> None:
    """Nobody takes it."""


def _drop_here(stage: TransportOutput, frame: Any) -> None:
    """Nobody takes it."""


@cache
def _deaf() -> Handlers:
    audio = (OutputAudioRawFrame, TTSAudioRawFrame, SpeechOutputAudioRawFrame)
    return Handlers({**handlers_of(TransportOutput), **dict.fromkeys(audio, _drop_here)})
