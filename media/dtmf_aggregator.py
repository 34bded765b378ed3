"""Keys become words: a sequence of key presses leaves as one transcript, so that a dialogue can answer it."""

from __future__ import annotations

from datetime import UTC, datetime

from media.events import DONE, MaybeAwaitable
from media.flow import FrameDirection
from media.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InputDTMFFrame,
    InterruptionFrame,
    KeypadEntry,
    StopFrame,
    TranscriptionFrame,
)
from media.processor import FrameProcessor
from media.turns.base import ByClass, Timer

_ENDS = ByClass(EndFrame, CancelFrame, StopFrame)


class DTMFAggregator(FrameProcessor):
    """Collects keys until `termination_digit`, `timeout` seconds without a key, an interruption, or the end.

    The keys pass; the first of a sequence interrupts the bot. What leaves is TranscriptionFrame(prefix + keys), the
    terminator included, `finalized`, for no word can follow. Place it before whoever collects the caller's words.
    """

    def __init__(
        self,
        timeout: float = 2.0,
        termination_digit: KeypadEntry = KeypadEntry.POUND,
        prefix: str = "DTMF: ",
    ) -> None:
        super().__init__()
        self._timeout = timeout
        self._terminator = termination_digit
        self._prefix = prefix
        self._keys = ""
        self._timer = Timer(self.call_later, self._flush)

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if isinstance(frame, InputDTMFFrame):
            self.push_frame(frame, direction)
            self._take(frame.button)
        elif _ENDS[type(frame)]:
            self._flush()
            self.push_frame(frame, direction)
        else:
            self.push_frame(frame, direction)
            if isinstance(frame, InterruptionFrame):  # passed first: it would purge what comes before it
                self._flush()
        return DONE

    def _take(self, key: KeypadEntry) -> None:
        if not self._keys:
            self.broadcast_interruption()
        self._keys += key.value
        if key == self._terminator:
            self._flush()
        else:
            self._timer.set(self._timeout)

    def _flush(self) -> None:
        self._timer.cancel()
        keys, self._keys = self._keys, ""
        if keys:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            self.push_frame(TranscriptionFrame(f"{self._prefix}{keys}", "", now, finalized=True))

    def cleanup(self) -> MaybeAwaitable:
        self._timer.cancel()
        return super().cleanup()
