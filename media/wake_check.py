"""WakeCheckFilter: transcripts pass only after a wake phrase. New programs use WakePhraseUserTurnStartStrategy."""

from __future__ import annotations

import re
from copy import copy
from dataclasses import dataclass

from media.events import DONE, MaybeAwaitable
from media.flow import FrameDirection
from media.frames import Frame, InterimTranscriptionFrame, TranscriptionFrame
from media.processor import FrameProcessor
from media.turns.wake import last_words


@dataclass(slots=True)
class _Participant:
    awake_until: float = 0.0  # seconds of the pipeline's clock
    heard: str = ""  # while asleep


class WakeCheckFilter(FrameProcessor):
    """Everything but transcripts passes. A phrase wakes the filter for its speaker; each transcript keeps it awake.

    The transcript with the phrase passes from the phrase on. Phrases are whole words with any case and spacing, and
    may stretch over several transcripts.

    Args:
        wake_phrases: at least one.
        keepalive_timeout: seconds after each transcript.
    """

    def __init__(self, wake_phrases: list[str], keepalive_timeout: float = 3) -> None:
        super().__init__()
        words = [phrase.split() for phrase in wake_phrases]
        if not words or not all(words):
            raise ValueError("a wake phrase needs at least one word")
        alternatives = (r"[\s,.!?-]+".join(map(re.escape, phrase)) for phrase in words)
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(alternatives)})(?!\w)", re.IGNORECASE)
        self._keepalive = keepalive_timeout
        self._participants: dict[str, _Participant] = {}

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if isinstance(frame, TranscriptionFrame):
            self._check(frame, direction)
        elif not isinstance(frame, InterimTranscriptionFrame) or self._awake(frame.user_id):
            self.push_frame(frame, direction)
        return DONE

    def _awake(self, user_id: str) -> bool:
        participant = self._participants.get(user_id)
        return participant is not None and self.runtime.now() < participant.awake_until

    def _check(self, frame: TranscriptionFrame, direction: FrameDirection) -> None:
        participant = self._participants.setdefault(frame.user_id, _Participant())
        until = self.runtime.now() + self._keepalive
        if self._awake(frame.user_id):
            participant.awake_until = until
            self.push_frame(frame, direction)
            return
        participant.heard = last_words(f"{participant.heard} {frame.text}".strip())
        match = self._pattern.search(participant.heard)
        if match is not None:
            woken = copy(frame)
            woken.text = participant.heard[match.start() :]
            participant.heard, participant.awake_until = "", until
            self.push_frame(woken, direction)
