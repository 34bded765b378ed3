"""The caller's sound on its way to a model: from a little before he speaks, and kept until it is answered."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Iterable

from media.codecs import pcm_to_ulaw
from media.frames import InputAudioRawFrame
from media.resample import Resampler, make_resampler

BATCH = 3  # frames of audio in one message
BEFORE_S = 0.6  # of audio before the word of our detector, which needs a fifth of a second
LONGEST_TURN_S = 60.0  # of audio kept until it is answered, for another connection or service
FRAME_S = 0.02


class Ear:
    """`send` gets each message. With `always` nobody says when the caller speaks: all of the line is sent."""

    def __init__(self, send: Callable[[str], None], *, always: bool) -> None:
        self._send, self._always = send, always
        self._to_model: Resampler | None = None
        self._before: deque[InputAudioRawFrame] = deque(maxlen=round(BEFORE_S / FRAME_S))
        self._batch: list[bytes] = []
        self.turn: deque[InputAudioRawFrame] = deque(maxlen=round(LONGEST_TURN_S / FRAME_S))  # not answered yet
        self.is_open = always
        self.uncommitted = False  # the server was not told to take what it got for a message

    def tune(self, in_rate: int, model_rate: int) -> None:
        """Mu-law at 8 kHz, else 16 bits at the model's rate."""
        self._to_model = None if model_rate == 8000 else make_resampler(in_rate, model_rate)

    def hear(self, frame: InputAudioRawFrame) -> None:
        if not self.is_open:
            self._before.append(frame)
            return
        self.turn.append(frame)
        self._batch.append(frame.audio)
        if len(self._batch) >= BATCH:
            self.flush()

    def open(self) -> None:
        """The caller speaks, and has for a moment."""
        if not self.is_open:
            self.is_open = True
            before = tuple(self._before)
            self._before.clear()
            for frame in before:
                self.hear(frame)

    def close(self) -> None:
        """He has finished."""
        self.flush()
        self.is_open = self._always

    def flush(self) -> None:
        if self._batch:
            self._send(self._message(b"".join(self._batch)))
            self._batch.clear()
            self.uncommitted = True

    def again(self) -> Iterable[str]:
        """What a new connection must be told of it."""
        self._batch.clear()
        if self.turn:
            self.uncommitted = True
            yield self._message(b"".join(frame.audio for frame in self.turn))

    def given_up(self) -> tuple[InputAudioRawFrame, ...]:
        """All that was not answered; it is forgotten."""
        frames = tuple(self.turn)
        self.turn.clear()
        self._batch.clear()
        self.is_open = self._always
        return frames

    def _message(self, pcm: bytes) -> str:
        sound = pcm_to_ulaw(pcm) if self._to_model is None else self._to_model.process(pcm)
        return f'{{"type":"input_audio_buffer.append","audio":"{base64.b64encode(sound).decode("ascii")}"}}'
