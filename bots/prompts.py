"""Prompts: sound that is made when the configuration loads and played in any number of calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bots.base import PrepareContext
from media.errors import ConfigError
from media.frames import AggregationType, TTSAudioRawFrame, TTSStartedFrame, TTSStoppedFrame, TTSTextFrame
from media.processor import FrameProcessor
from media.resample import resample_all
from media.wav import read_wav

CHUNK_S = 0.1  # of sound in one frame; pacing cuts it to the carrier's packets

NO_SPEECH = "pip install 'telephony-gateway[speech]', or use WAV files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """A prompt as a table: `{ text = "...", voice = "de" }` or `{ file = "hello.wav", text = "what it says" }`."""

    text: str = ""
    file: str = ""
    voice: str = ""

    def __post_init__(self) -> None:
        if not self.text and not self.file:
            raise ValueError('write { text = "..." }, or { file = "....wav" }, which may have a text, too: its words')


PromptSetting = str | Say  # a string that ends in .wav is a file, any other is spoken


class Prompt:
    """One prompt at any sample rate: rendered when first asked for, then kept. `text` is its words, where known."""

    __slots__ = ("_chunks", "_render", "text")

    def __init__(self, render: Callable[[int], bytes], text: str = "") -> None:
        self._render = render  # Hz -> PCM s16le mono
        self.text = text
        self._chunks: dict[int, tuple[bytes, ...]] = {}

    def chunks(self, sample_rate: int) -> tuple[bytes, ...]:
        """PCM s16le mono in pieces of CHUNK_S; the last may be shorter."""
        chunks = self._chunks.get(sample_rate)
        if chunks is None:
            pcm = self._render(sample_rate)
            size = 2 * int(CHUNK_S * sample_rate)
            chunks = tuple(pcm[start : start + size] for start in range(0, len(pcm), size))
            self._chunks[sample_rate] = chunks
        return chunks


class PromptMaker:
    """Makes the prompts of one bot; what is wrong is kept in `errors`, so that all of it is found at once."""

    def __init__(self, context: PrepareContext, voice: str = "") -> None:
        self._context, self._voice = context, voice
        self._made: dict[PromptSetting, Prompt] = {}
        self.errors: list[ConfigError] = []

    def make(self, path: str, setting: PromptSetting) -> Prompt:
        """The prompt, ready at all rates of the context. `path` is where the setting is, in the bot's table."""
        if setting in self._made:
            return self._made[setting]
        said = as_table(setting)
        prompt = self._made[setting] = Prompt(self._renderer(path, said), said.text.strip())
        try:
            pieces = [prompt.chunks(rate) for rate in self._context.sample_rates]
            if not all(pieces):
                self.errors.append(ConfigError(path, "there is nothing to hear in it"))
        except ConfigError as exc:
            self._add(ConfigError(path, exc.problem, exc.remedy))
        return prompt

    def _renderer(self, path: str, setting: Say) -> Callable[[int], bytes]:
        if setting.file:
            return self._file(path, self._context.base_dir / setting.file)
        text, voice, speak = setting.text, setting.voice or self._voice, self._context.speak
        if speak is None:
            self._add(ConfigError(path, "there is no speech synthesiser for this text", NO_SPEECH))
            return _silence
        return lambda rate: speak(text, voice, rate)

    def _file(self, path: str, file: Path) -> Callable[[int], bytes]:
        try:
            wav = read_wav(file)
        except OSError as exc:
            self.errors.append(ConfigError(path, f"{file}: {exc.strerror or exc}", "paths start at gateway.toml"))
        except ValueError as exc:
            self.errors.append(ConfigError(path, f"{file}: {exc}", "use a WAV file of 16-bit PCM"))
        else:
            pcm = mono(wav.pcm, wav.channels)
            return lambda rate: resample_all(pcm, wav.sample_rate, rate)
        return _silence

    def _add(self, error: ConfigError) -> None:
        """A missing synthesiser would be said of each text: once is enough."""
        if not any(error.problem == one.problem and error.remedy == one.remedy for one in self.errors):
            self.errors.append(error)


def as_table(setting: PromptSetting) -> Say:
    """A bare string as the table that it stands for."""
    if isinstance(setting, Say):
        return setting
    return Say(file=setting) if setting.lower().endswith(".wav") else Say(text=setting or " ")


def mono(pcm: bytes, channels: int) -> bytes:
    """The mean of interleaved channels, s16le."""
    if channels == 1:
        return pcm
    mean = np.frombuffer(pcm, "<i2").reshape(-1, channels).mean(axis=1)
    return bytes(np.rint(mean).astype("<i2"))


def _silence(sample_rate: int) -> bytes:
    return bytes(2)


def say(
    processor: FrameProcessor, prompts: Sequence[Prompt], sample_rate: int, *, append_to_context: bool = False
) -> None:
    """Push `prompts` from `processor` as one utterance: the bot starts and stops speaking once.

    The words of each go behind its sound: who watches the call is told them when they were heard.
    """
    began_ns, samples = processor.get_clock().get_time(), 0
    processor.push_frame(TTSStartedFrame())
    for prompt in prompts:
        first = samples
        for pcm in prompt.chunks(sample_rate):
            samples += len(pcm) >> 1
            processor.push_frame(TTSAudioRawFrame(pcm, sample_rate, 1))
        if prompt.text:
            words = TTSTextFrame(prompt.text, AggregationType.SENTENCE)
            words.append_to_context = append_to_context
            words.pts = began_ns + first * 1_000_000_000 // sample_rate  # sound without words may be before it
            processor.push_frame(words)
    processor.push_frame(TTSStoppedFrame())
