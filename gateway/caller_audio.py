"""The caller's audio as it comes off the wire: put in order, holes filled, and compared with what was agreed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import structlog

from media.call import CallInfo
from media.codec_check import CodecCheck, Contradiction
from media.concealment import Concealment
from media.frames import InputAudioRawFrame

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.call")


class CallerAudio:
    """Of one call: packets go in as they come, perhaps late or after a hole, and come out as they were spoken.

    Args:
        counters: the call's.
        hear: takes each packet and the time.
        codec_setting: of the carrier's, which decides what is agreed; "" where there is none.
    """

    def __init__(
        self, counters: Counter[str], hear: Callable[[InputAudioRawFrame, float], None], codec_setting: str
    ) -> None:
        self._counters, self._hear, self._codec_setting = counters, hear, codec_setting
        self._concealment = Concealment(counters)
        self._check: CodecCheck | None = None  # in the first second
        self._call_id = self._carrier = ""

    def begin(self, info: CallInfo) -> None:
        """The call has begun: does what comes sound like what was agreed?"""
        self._call_id, self._carrier = info.call_id, info.carrier
        if info.receive.channels == 1 and not info.probe:
            self._check = CodecCheck(info.receive.encoding, info.receive.sample_rate)

    def take(self, frame: InputAudioRawFrame, now: float) -> None:
        if self._check is not None:
            self._compare(self._check, frame, now)
        if frame.seq is None:
            self._hear(frame, now)
            return
        for ready in self._concealment.take(frame):
            self._hear(ready, now)

    def leave(self) -> None:
        """Nobody hears any more."""
        self._hear = _nobody

    def _compare(self, check: CodecCheck, frame: InputAudioRawFrame, now: float) -> None:
        if frame.sample_rate != check.sample_rate or frame.num_channels != 1:
            self._check = None  # resampled: the bytes cannot be seen any more
            return
        wrong = check.hear(frame.audio, now, frame.seq, frame.timestamp_ms)
        if check.is_over:
            self._check = None
        if wrong is not None:
            self._tell(wrong)

    def _tell(self, wrong: Contradiction) -> None:
        self._counters["codec_contradicted"] += 1
        setting = f"carriers.{self._carrier}.{self._codec_setting}"
        log.error(
            "call.codec_contradicted",
            call=self._call_id,
            carrier=self._carrier,
            negotiated=wrong.negotiated,
            looks_like=wrong.looks_like,
            remedy=setting if self._codec_setting else "the codec at the carrier's side",
        )


def _nobody(frame: InputAudioRawFrame, now: float) -> None:
    """Hears nothing."""
