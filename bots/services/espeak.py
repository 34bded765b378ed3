"""Speech with no network and no account: espeak-ng, by the synthesiser that prompts are made with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from bots.services.settings import TTSSettings, is_given
from bots.services.tts import TTSService
from bots.speech import speak
from media.frames import Frame, TTSAudioRawFrame

CHUNK_S = 0.2


class EspeakTTSService(TTSService):
    """Sentences, each synthesised as a whole: about 2 ms for a second of speech."""

    def __init__(self, *, settings: TTSSettings | None = None, **kwargs: Any) -> None:
        super().__init__(settings=settings, **kwargs)

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        voice = self._settings.voice if is_given(self._settings.voice) else ""
        pcm = await asyncio.to_thread(speak, text, voice or "", self.sample_rate)
        size = 2 * int(CHUNK_S * self.sample_rate)
        for start in range(0, len(pcm), size):
            yield TTSAudioRawFrame(pcm[start : start + size], self.sample_rate, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EspeakSettings:
    """tts = { use = "espeak" }"""

    voice: str = ""  # "en-us", "de", "en-gb+f2"


class Espeak:
    settings = EspeakSettings

    def prepare(self, settings: EspeakSettings) -> None:
        speak("ready", settings.voice, 8000)  # ConfigError: not installed, or no such voice

    def make(self, settings: EspeakSettings) -> EspeakTTSService:
        return EspeakTTSService(settings=TTSSettings(voice=settings.voice))


TTS = Espeak()
