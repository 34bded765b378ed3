"""Speech to text: the base of services that hear the caller all the time, or one piece after the other."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from bots.services.base import AIService, Frames
from bots.services.settings import ServiceSettings, STTSettings
from media.events import DONE, Handle, MaybeAwaitable
from media.frames import (
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    ServiceSwitcherRequestMetadataFrame,
    StartFrame,
    STTMetadataFrame,
    STTMuteFrame,
    STTUpdateSettingsFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameDirection
from media.wav import wav_header

log = logging.getLogger(__name__)

DEFAULT_TTFS_P99 = 1.0  # seconds from the end of speech to the final transcript, where a service has not said
MAX_WAITING_S = 60.0  # of audio kept for a service that is not connected, or is slow; then the oldest goes
MAX_UNHEARD_S = 15.0  # of audio without a final transcript that is kept for a service that takes over
SHORTEST_S = 0.4  # of speech that must have a transcript
KEEPALIVE_S = 0.1  # of silence in one keep-alive


class STTService(AIService):
    """Hears the caller all the time.

    A provider overrides `run_stt(audio)`, which gives frames (or sends the audio away and gives nothing), or, where
    nothing waits, `feed(audio)`. Transcripts that arrive by themselves are pushed with `push_frame`.

    Args:
        audio_passthrough: audio goes on behind the service.
        sample_rate: Hz that the service wants; None: the pipeline's.
        stt_ttfb_timeout: how long after the end of speech the last transcript is waited for, for the measurement.
        ttfs_p99_latency: seconds from the end of speech to its final transcript, 99 times of 100: turns wait for it.
        keepalive_timeout: seconds without audio after which silence is sent, so that the vendor does not hang up.
        keepalive_interval: how often that is looked at.
    """

    Settings: ClassVar[type[ServiceSettings]] = STTSettings
    update_frame = STTUpdateSettingsFrame

    def __init__(
        self,
        *,
        audio_passthrough: bool = True,
        sample_rate: int | None = None,
        stt_ttfb_timeout: float = 2.0,
        ttfs_p99_latency: float | None = None,
        keepalive_timeout: float | None = None,
        keepalive_interval: float = 5.0,
        settings: STTSettings | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(settings=settings, **kwargs)
        self._passthrough = audio_passthrough
        self._given_rate, self._sample_rate = sample_rate, sample_rate or 0
        self._ttfb_timeout, self._ttfs_p99 = stt_ttfb_timeout, ttfs_p99_latency
        self._keepalive_s, self._keepalive_interval = keepalive_timeout, keepalive_interval
        self._last_audio = 0.0
        self.muted = False
        self.user_id = ""
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self.overflowed = 0  # bytes of audio that nobody could take
        self._worker: Handle | None = None
        self._wake: asyncio.Event | None = None
        self._stopped_at: float | None = None  # when the caller stopped speaking, while a transcript is waited for
        self._last_transcript = 0.0
        self._ttfb_timer: Handle | None = None
        self._finalize_requested = self._finalize_confirmed = False
        self._unheard: deque[Frame] | None = None  # what has no final transcript yet, see `keep_unheard`
        self._unheard_s = 0.0
        self._spoke_at: float | None = None  # when speech began that has no transcript
        self._awaiting: Handle | None = None  # the timer of `patience_s`
        self._plain_feed = type(self).feed is not STTService.feed
        for event in ("on_connected", "on_disconnected", "on_connection_error"):
            self._register_event_handler(event)

    # ------------------------------------------------------------ to be overridden

    @abstractmethod
    def run_stt(self, audio: bytes) -> Frames:
        """Transcribe mono s16le at `sample_rate`. Audio that has come while it ran arrives joined."""

    def feed(self, audio: bytes) -> None:
        """Take 20 ms of the caller's voice, at once. The base keeps it for `run_stt`."""
        waiting = self._waiting
        waiting.append(audio)
        self._waiting_bytes += len(audio)
        while self._waiting_bytes > MAX_WAITING_S * 2 * self._sample_rate:
            dropped = len(waiting.popleft())
            self._waiting_bytes -= dropped
            if not self.overflowed:
                log.warning("stt.overflow service=%s: it takes less audio than the caller speaks", self)
            self.overflowed += dropped
        if self._wake is not None:
            self._wake.set()

    def speech_stopped(self) -> None:
        """The caller has stopped speaking: a vendor that can be asked for the rest at once is asked."""

    # ------------------------------------------------------------ frames

    @property
    def sample_rate(self) -> int:
        """Hz; 0 until the pipeline has started."""
        return self._sample_rate

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if isinstance(frame, InputAudioRawFrame):
            if not self.muted:
                self.process_audio_frame(frame, direction)
            if self._passthrough:
                self.push_frame(frame, direction)
            return DONE
        if isinstance(frame, STTMuteFrame):
            self.muted = frame.mute
            return DONE
        if isinstance(frame, StartFrame):
            self._sample_rate = self._given_rate or frame.audio_in_sample_rate
            self._last_audio = self._now()
        super().process_frame(frame, direction)
        if self.handled(frame, direction):
            if isinstance(frame, ServiceSwitcherRequestMetadataFrame):
                self._tell_latency()
            return DONE
        self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self._tell_latency()
            if self._keepalive_s is not None:
                self.call_later(self._keepalive_interval, self._keep_alive)
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self._speech_ended(frame)
            self._keep(frame)
            self.speech_stopped()
            self._await_transcript(frame.stop_secs)
        elif isinstance(frame, VADUserStartedSpeakingFrame):
            self._forget_ttfb()
            self._keep(frame)
            self._spoke_at = self._now()
        return DONE

    def process_audio_frame(self, frame: InputAudioRawFrame, direction: FrameDirection) -> MaybeAwaitable:
        self._last_audio = self._now()
        user = getattr(frame, "user_id", None)
        if user:
            self.user_id = user
        if self._unheard is not None:
            self._keep(frame)
        self.feed(frame.audio)
        return DONE

    # ------------------------------------------------------------ patience, and handing over

    def keep_unheard(self) -> None:
        """From now on keep what has no final transcript yet, so that another connection or service can be given it."""
        if self._unheard is None:
            self._unheard = deque()

    def _keep(self, frame: Frame) -> None:
        unheard = self._unheard
        if unheard is None:
            return
        unheard.append(frame)
        if isinstance(frame, InputAudioRawFrame):
            self._unheard_s += _seconds(frame)
            limit_s = MAX_UNHEARD_S if self._spoke_at is not None else SegmentedSTTService.BEFORE_S
            while self._unheard_s > limit_s:
                oldest = unheard.popleft()
                if isinstance(oldest, InputAudioRawFrame):
                    self._unheard_s -= _seconds(oldest)

    def unheard_audio(self) -> bytes:
        """What was kept."""
        return b"".join(frame.audio for frame in self._unheard or () if isinstance(frame, InputAudioRawFrame))

    def _await_transcript(self, stop_s: float) -> None:
        spoke_at = self._spoke_at
        if self.patience_s is None or spoke_at is None or self._now() - stop_s - spoke_at < SHORTEST_S:
            return
        self._forget_patience()
        self._awaiting = self.call_later(self.patience_s, self._no_transcript)

    def _no_transcript(self) -> None:
        self._awaiting = None
        self.fail(TimeoutError("no transcript in time"))

    def _forget_patience(self) -> None:
        if self._awaiting is not None:
            self._awaiting.cancel()
            self._awaiting = None

    def sign_of_life(self) -> None:
        """The vendor has answered, if only that there was nothing to hear."""
        self._forget_patience()

    def relinquish(self) -> Sequence[Frame]:
        self._forget_patience()
        frames, self._unheard_s = tuple(self._unheard or ()), 0.0
        if self._unheard is not None:
            self._unheard.clear()
        self._waiting.clear()
        self._waiting_bytes = 0
        return frames if self._spoke_at is not None else ()

    def take_over(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            self._keep(frame)
            if isinstance(frame, InputAudioRawFrame):
                self.feed(frame.audio)
            elif isinstance(frame, VADUserStartedSpeakingFrame):
                self._spoke_at = self._now()
                self.segment_started()
            elif isinstance(frame, VADUserStoppedSpeakingFrame):
                self.segment_stopped()
                self.speech_stopped()
                if self.patience_s is not None:
                    self._forget_patience()
                    self._awaiting = self.call_later(self.patience_s, self._no_transcript)

    def segment_started(self) -> None:
        """A piece of speech begins."""

    def segment_stopped(self) -> None:
        """... and ends."""

    def _begin(self, frame: StartFrame) -> None:
        super()._begin(frame)
        if not self._plain_feed:
            self._wake = asyncio.Event()
            self._worker = self.run_beside(self._work(self._wake), "worker")

    async def _work(self, wake: asyncio.Event) -> None:
        await self.when_ready()
        while True:
            if not self._waiting:
                wake.clear()
                await wake.wait()
            audio = b"".join(self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0
            try:
                await self.push_each(self.run_stt(audio))
            except Exception as exc:
                self.fail(exc)

    def _keep_alive(self) -> None:
        assert self._keepalive_s is not None
        if self._now() - self._last_audio >= self._keepalive_s and not self.muted:
            self._last_audio = self._now()
            self.feed(bytes(2 * int(KEEPALIVE_S * self._sample_rate)))
        self.call_later(self._keepalive_interval, self._keep_alive)

    # ------------------------------------------------------------ what turns need to know

    def _tell_latency(self) -> None:
        latency = self._ttfs_p99
        if latency is None:
            latency = DEFAULT_TTFS_P99
            log.warning("stt.latency service=%s: not known, turns reckon with %.1f s", self, latency)
        self.broadcast_frame(STTMetadataFrame, service_name=self.name, ttfs_p99_latency=latency)

    def request_finalize(self) -> None:
        """The vendor has been asked for the final transcript of what was said so far."""
        self._finalize_requested = True

    def confirm_finalize(self) -> None:
        """The vendor has answered that request: the next transcript is the final one."""
        if self._finalize_requested:
            self._finalize_requested, self._finalize_confirmed = False, True

    def push_frame(self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM) -> Any:
        if isinstance(frame, TranscriptionFrame | InterimTranscriptionFrame):
            self._transcript(frame)
        return super().push_frame(frame, direction)

    def transcript(self, text: str, *, final: bool, language: Any = None, result: Any = None) -> None:
        """Push what the caller has said."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "+00:00"
        cls = TranscriptionFrame if final else InterimTranscriptionFrame
        self.push_frame(cls(text, self.user_id, now, language, result))

    # ------------------------------------------------------------ how long a transcript takes

    def _speech_ended(self, frame: VADUserStoppedSpeakingFrame) -> None:
        self._stopped_at = self._now() - frame.stop_secs
        self._last_transcript = 0.0
        self._ttfb_timer = self.call_later(self._ttfb_timeout, self._measure)

    def _forget_ttfb(self) -> None:
        self._stopped_at = None
        if self._ttfb_timer is not None:
            self._ttfb_timer.cancel()
            self._ttfb_timer = None

    def _transcript(self, frame: TranscriptionFrame | InterimTranscriptionFrame) -> None:
        self.sign_of_life()
        if isinstance(frame, InterimTranscriptionFrame):
            return
        self._spoke_at = None
        if self._unheard is not None:
            self._unheard.clear()
            self._unheard_s = 0.0
        if self._finalize_confirmed:
            frame.finalized, self._finalize_confirmed = True, False
        if self._stopped_at is not None:
            self._last_transcript = self._now()
            if frame.finalized:
                self._measure()

    def _measure(self) -> None:
        """The time from the end of speech to its final transcript, or to the last that came in time."""
        stopped_at, last = self._stopped_at, self._last_transcript
        self._forget_ttfb()
        if stopped_at is not None and last > stopped_at:
            self.start_ttfb_metrics(start_time=stopped_at)
            self.stop_ttfb_metrics(end_time=last)


def _seconds(frame: InputAudioRawFrame) -> float:
    return len(frame.audio) / (2 * frame.sample_rate)


class SegmentedSTTService(STTService):
    """Takes what was said between two silences, as one WAV file: needs a voice detector before it in the pipeline.

    `run_stt` gets the file, which begins a second before the speech does.
    """

    BEFORE_S = 1.0
    LONGEST_S = 300.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._speech = bytearray()
        self._speaking = False
        self._segments: deque[bytes] = deque()

    def feed(self, audio: bytes) -> None:
        speech = self._speech
        speech += audio
        limit = self.LONGEST_S if self._speaking else self.BEFORE_S
        excess = len(speech) - 2 * int(limit * self._sample_rate)
        if excess > 0:
            del speech[:excess]

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if isinstance(frame, VADUserStartedSpeakingFrame):
            self.segment_started()
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self.segment_stopped()
        return super().process_frame(frame, direction)

    def segment_started(self) -> None:
        self._speaking = True

    def segment_stopped(self) -> None:
        if self._speaking:
            self._speaking = False
            self._segments.append(wav_header(len(self._speech), self._sample_rate) + bytes(self._speech))
            self._speech.clear()
            if self._wake is not None:
                self._wake.set()

    def _begin(self, frame: StartFrame) -> None:
        super()._begin(frame)
        self._wake = asyncio.Event()
        self._worker = self.run_beside(self._work(self._wake), "worker")

    async def _work(self, wake: asyncio.Event) -> None:
        await self.when_ready()
        while True:
            while not self._segments:
                wake.clear()
                await wake.wait()
            self._finalize_confirmed = True  # nothing of this piece will follow
            try:
                await self.push_each(self._finalized(self.run_stt(self._segments.popleft())))
                self.sign_of_life()
            except Exception as exc:
                self.fail(exc)

    async def _finalized(self, frames: Frames) -> Frames:
        async for frame in frames:
            if isinstance(frame, TranscriptionFrame):
                frame.finalized = True
            yield frame
