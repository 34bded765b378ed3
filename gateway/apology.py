"""What a caller hears of a bot that has failed, before the call ends in good order."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np

from bots.base import PrepareContext
from bots.prompts import Prompt, PromptMaker
from media.errors import ConfigError, ConfigErrors
from media.frames import AggregationType, StartFrame, TTSAudioRawFrame, TTSStartedFrame, TTSStoppedFrame, TTSTextFrame
from media.output import OutputStage
from media.processor import FrameDirection

DEFAULT: Final = "I am sorry, something has gone wrong. Please call again later."
_TONE_S, _TONE_HZ, _LEVEL = 0.35, (880.0, 660.0, 440.0), 6000


def apology(setting: str, base_dir: Path, voice: str = "") -> Prompt | None:
    """The prompt that a bot's `apology` stands for, made when it is first needed; None for "".

    Raises ConfigErrors: no such file, or nothing that speaks. The usual text needs no synthesiser: without one it is
    three falling tones.
    """
    return _made(setting, base_dir, voice, _changed(base_dir / setting)) if setting else None


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):  # it is no file, but a text
        return 0


@lru_cache(64)
def _made(setting: str, base_dir: Path, voice: str, changed: int) -> Prompt:
    maker = PromptMaker(PrepareContext(base_dir, (), _speak), voice)
    prompt = maker.make("apology", setting)
    if maker.errors:
        raise ConfigErrors(maker.errors)
    if setting == DEFAULT and find_spec("espeakng_loader") is None:
        prompt.text = ""  # tones, then
    return prompt


def _speak(text: str, voice: str, sample_rate: int) -> bytes:
    from bots.speech import speak  # the speech library is looked for when somebody speaks

    try:
        return speak(text, voice, sample_rate)
    except ConfigError:
        if text != DEFAULT:
            raise
        return _tones(sample_rate)


def _tones(sample_rate: int) -> bytes:
    time = np.arange(int(_TONE_S * sample_rate)) / sample_rate
    fade = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.02)
    return b"".join((_LEVEL * fade * np.sin(2 * np.pi * hz * time)).astype("<i2").tobytes() for hz in _TONE_HZ)


def say_it(prompt: Prompt, output: OutputStage, sample_rate: int) -> float:
    """Put it behind what `output` has to say already; started here if the bot never got so far. How long it takes."""
    down = FrameDirection.DOWNSTREAM
    if output.ledger is None:
        output.process_frame(StartFrame(), down)
    chunks = prompt.chunks(sample_rate)
    words = [TTSTextFrame(prompt.text, AggregationType.SENTENCE)] if prompt.text else []
    frames = [TTSAudioRawFrame(pcm, sample_rate, 1) for pcm in chunks]
    for frame in (TTSStartedFrame(), *frames, *words, TTSStoppedFrame()):
        output.process_frame(frame, down)
    length_s = sum(map(len, chunks)) / (2 * sample_rate)
    if output.paced is not None and output.ledger is not None:
        length_s = max(length_s, output.paced.buffered / output.ledger.sample_rate)
    return length_s
