"""How a program hears its caller: when he speaks, what he said as sound, and the tone of an answering machine.

It begins when a program first asks for it, and costs nothing before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from media.beep import BeepDetector
from media.codecs import audioop
from media.flow import Runtime
from media.frames import InputAudioRawFrame
from media.silero import SileroVADAnalyzer
from media.vad import VADParams
from media.vad_processor import VADController

BEFORE_S: Final = 0.6  # of sound before a detector was sure that it is speech
LONGEST_S: Final = 20.0  # of one utterance; what goes on for longer is cut there
KEPT: Final = 8  # of what nobody takes
PARAMS: Final = VADParams(stop_secs=0.6)  # people pause between the words of an answer


class Utterance(NamedTuple):
    """What the caller said between two silences."""

    pcm: bytes  # mono s16le
    sample_rate: int
    began: float  # on the call's clock
    ended: float


class Ear:
    """One call's.

    Args:
        changed: called when speech begins or has ended, and at a beep.
    """

    def __init__(self, runtime: Runtime, sample_rate: int, changed: Callable[[], None]) -> None:
        self.speaking = False
        self.edges: deque[tuple[bool, float]] = deque(maxlen=KEPT)  # of speech: whether it begins, and when
        self.said: deque[Utterance] = deque(maxlen=KEPT)
        self.beeps = 0
        self._now, self._changed = runtime.now, changed
        self.silent_since = self._now()  # while nobody speaks: since speech has ended, or this began to hear
        self._rate = sample_rate
        self._pcm = bytearray()
        self._began = 0.0
        self._beeps = BeepDetector(sample_rate)
        self._voice = VADController(
            SileroVADAnalyzer(params=PARAMS), started=self._started, stopped=self._stopped, speaking=_nothing
        )
        self._voice.start(runtime, sample_rate)

    def hear(self, frame: InputAudioRawFrame) -> None:
        pcm = frame.audio
        if frame.num_channels == 2:
            pcm = audioop.tomono(pcm, 2, 1.0, 0.0)
        if frame.sample_rate == self._rate:  # else it is of a stream that is changing its rate
            self._pcm += pcm
            excess = len(self._pcm) - 2 * int((LONGEST_S if self.speaking else BEFORE_S) * self._rate)
            if excess > 0:
                del self._pcm[:excess]
            if self._beeps.hear(pcm):
                self.beeps += 1
                self._changed()
        self._voice.hear(frame)

    def close(self) -> None:
        self._voice.close()

    def _started(self) -> None:
        self.speaking, self._began = True, self._now() - PARAMS.start_secs
        self.edges.append((True, self._began))
        self._changed()

    def _stopped(self) -> None:
        self.speaking, self.silent_since = False, self._now() - PARAMS.stop_secs
        self.edges.append((False, self.silent_since))
        self.said.append(Utterance(bytes(self._pcm), self._rate, self._began, self.silent_since))
        self._pcm.clear()
        self._changed()


def _nothing() -> None:
    pass
