"""ElevenLabs: streamed speech with the time of each letter, several contexts on one line, mu-law for the telephone.

Source: elevenlabs.io/docs, "Multi-Context WebSocket".
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import quote

from bots.services.http import Keyed
from bots.services.settings import NOT_GIVEN, ServiceSettings, TTSSettings, is_given
from bots.services.websocket import Message, SocketTTSService, socket_url
from media.codecs import ulaw_to_pcm
from media.errors import ServiceError
from media.frames import Frame
from media.secret import Secret

URL = "wss://api.elevenlabs.io"
VARIABLE = "ELEVENLABS_API_KEY"
MOST_CONTEXTS = 4  # ElevenLabs refuses a sixth
IDLE_S = 180  # how long they are asked to keep a silent line

_FORMATS = {8000: "ulaw_8000", 16000: "pcm_16000", 22050: "pcm_22050", 24000: "pcm_24000", 44100: "pcm_44100"}


@dataclass
class ElevenLabsTTSSettings(TTSSettings):
    """Beside voice, model and language: how the voice speaks. What is given holds from the next sentence on."""

    stability: Any = NOT_GIVEN
    similarity_boost: Any = NOT_GIVEN
    style: Any = NOT_GIVEN
    use_speaker_boost: Any = NOT_GIVEN
    speed: Any = NOT_GIVEN


class ElevenLabsTTSService(SocketTTSService):
    """Args:
    voice_id: `settings.voice` is the same.
    voice_settings: stability, similarity_boost, style, speed, use_speaker_boost, as ElevenLabs has them.
    options: of the query, beside model_id and output_format.
    """

    Settings: ClassVar[type[ServiceSettings]] = ElevenLabsTTSSettings

    def __init__(
        self,
        *,
        api_key: str,
        voice_id: str = "",
        base_url: str = URL,
        voice_settings: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        settings: TTSSettings | None = None,
        **kwargs: Any,
    ) -> None:
        defaults = ElevenLabsTTSSettings(voice=voice_id, model="eleven_flash_v2_5")
        given = defaults.joined_with(settings) if settings is not None else defaults
        super().__init__(settings=given, append_trailing_space=True, **kwargs)
        self._headers = {"xi-api-key": api_key}
        self._base_url = base_url
        self._voice_settings, self._options = dict(voice_settings or {}), dict(options or {})
        self._begun: dict[str, tuple[str, float]] = {}  # by context: the word that is not whole, and when it began
        self._room = asyncio.Event()

    def _format(self) -> tuple[str, int]:
        rate = self.sample_rate if self.sample_rate in _FORMATS else 16000
        return _FORMATS[rate], rate

    def address(self) -> tuple[str, Mapping[str, str]]:
        given = self._settings
        query = {
            "model_id": given.model,
            "output_format": self._format()[0],
            "language_code": str(given.language) if is_given(given.language) and given.language else None,
            "auto_mode": True,
            "sync_alignment": True,
            "inactivity_timeout": IDLE_S,
            **self._options,
        }
        path = f"/v1/text-to-speech/{quote(str(given.voice), safe='')}/multi-stream-input"
        return socket_url(self._base_url, path, query), self._headers

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        while len(self._begun) >= MOST_CONTEXTS:
            self._room.clear()
            await self._room.wait()
        line = self.line
        self._begun[context_id] = "", 0.0
        first: dict[str, Any] = {"text": " ", "context_id": context_id}
        own = self._settings.beyond(TTSSettings)
        if settings := {**self._voice_settings, **own, **self._settings.extra}:
            first["voice_settings"] = settings
        line.send(json.dumps(first))
        line.send(json.dumps({"text": text, "context_id": context_id, "flush": True}))
        line.send(json.dumps({"context_id": context_id, "close_context": True}))
        yield None

    def on_interrupted(self, context_ids: Sequence[str]) -> None:
        for context_id in context_ids:
            if self._begun.pop(context_id, None) is not None and self._vendor_line is not None:
                self._vendor_line.send(json.dumps({"context_id": context_id, "close_context": True}))
        self._room.set()

    def lost(self) -> None:
        self._begun.clear()
        self._room.set()
        super().lost()

    def take(self, message: Message) -> None:
        event = json.loads(message)
        context_id = event.get("contextId") or event.get("context_id") or ""
        if event.get("error") or event.get("code"):
            problem = str(event.get("message") or event.get("error") or "no reason given")
            self.fail(ServiceError("elevenlabs", problem[:300], retryable=True))
            self._done(context_id)
            return
        if event.get("audio"):
            audio = base64.b64decode(event["audio"])
            encoding, rate = self._format()
            times = event.get("alignment") or event.get("normalizedAlignment")
            if times and context_id in self._begun:
                self.add_words(context_id, self._words(context_id, times))
            self.add_audio(context_id, ulaw_to_pcm(audio) if encoding.startswith("ulaw") else audio, rate)
        if event.get("isFinal") or event.get("is_final"):
            self._done(context_id)

    def _done(self, context_id: str) -> None:
        word, at_s = self._begun.pop(context_id, ("", 0.0))
        if word:
            self.add_words(context_id, [(word, at_s)])
        self._room.set()
        self.close_context(context_id)

    def _words(self, context_id: str, times: Mapping[str, Any]) -> list[tuple[str, float]]:
        """Whole words of one chunk. Its times begin at its own first sample."""
        utterance = self._open.get(context_id)
        offset_s = utterance.spoken_s if utterance is not None else 0.0
        word, at_s = self._begun[context_id]
        words = []
        starts = times.get("charStartTimesMs") or times.get("charsStartTimesMs") or ()
        for letter, start_ms in zip(times.get("chars") or (), starts, strict=False):
            if letter.isspace():
                if word:
                    words.append((word, at_s))
                word = ""
            else:
                at_s = at_s if word else offset_s + start_ms / 1000
                word += letter
        self._begun[context_id] = word, at_s
        return words


# ---------------------------------------------------------------- in gateway.toml


@dataclass(frozen=True, slots=True, kw_only=True)
class ElevenLabsSettings:
    """tts = { use = "elevenlabs", key = { env = "ELEVENLABS_API_KEY" }, voice = "<id>" }"""

    key: Secret | None = None
    base_url: str = URL
    model: str = "eleven_flash_v2_5"
    voice: str
    language: str = ""
    voice_settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)  # of the query


class ElevenLabs(Keyed):
    settings = ElevenLabsSettings
    variable = VARIABLE

    def make(self, settings: ElevenLabsSettings) -> ElevenLabsTTSService:
        return ElevenLabsTTSService(
            api_key=self.key(settings),
            base_url=settings.base_url,
            voice_settings=settings.voice_settings,
            options=settings.options,
            settings=TTSSettings(voice=settings.voice, model=settings.model, language=settings.language),
        )


TTS = ElevenLabs()
