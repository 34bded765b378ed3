"""OpenAI's transcriptions and speech over HTTP, and everybody who took over their protocol.

Source: platform.openai.com/docs/api-reference/audio.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx

from bots.services.http import HttpService, Keyed, checked_key, refused
from bots.services.settings import NOT_GIVEN, ServiceSettings, STTSettings, TTSSettings, is_given
from bots.services.stt import SegmentedSTTService
from bots.services.tts import TTSService
from media.errors import ServiceError
from media.frames import Frame, TTSAudioRawFrame
from media.secret import Secret

URL = "https://api.openai.com/v1"
VARIABLE = "OPENAI_API_KEY"
SPEECH_RATE = 24000  # Hz of `pcm`
CHUNK_BYTES = 4800  # 100 ms of it


def _headers(api_key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


class OpenAISTTService(HttpService, SegmentedSTTService):
    """What was said between two silences, sent as a WAV file.

    Args:
        prompt: words that are likely to be said.
        options: fields of the form beside ours.
    """

    def __init__(
        self,
        *,
        api_key: str = "",
        base_url: str = URL,
        prompt: str = "",
        options: Mapping[str, Any] | None = None,
        settings: STTSettings | None = None,
        **kwargs: Any,
    ) -> None:
        defaults = STTSettings(model="gpt-4o-mini-transcribe", language="en")
        given = defaults.joined_with(settings) if settings is not None else defaults
        super().__init__(settings=given, **{"ttfs_p99_latency": 1.0, **kwargs})
        self._headers, self._url = _headers(api_key), base_url.rstrip("/") + "/audio/transcriptions"
        self._prompt, self._options = prompt, dict(options or {})

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        given = self._settings
        form: dict[str, Any] = {"model": given.model, "response_format": "json"}
        if is_given(given.language) and given.language:
            form["language"] = str(given.language)
        if self._prompt:
            form["prompt"] = self._prompt
        try:
            files = {"file": ("speech.wav", audio, "audio/wav")}
            response = await self.http.post(self._url, data={**form, **self._options, **given.extra}, files=files)
        except httpx.HTTPError as exc:
            raise ServiceError("openai", f"{type(exc).__name__}: {exc}", retryable=True) from exc
        if response.status_code != 200:
            raise refused("openai", response)
        try:
            text = str(response.json()["text"]).strip()
        except (ValueError, LookupError, TypeError) as exc:
            raise ServiceError("openai", f"a transcript that is none: {type(exc).__name__}", retryable=True) from exc
        if text:
            self.transcript(text, final=True, language=form.get("language"))
        yield None


@dataclass
class OpenAITTSSettings(TTSSettings):
    """Beside voice and model: how to speak, for models that take it."""

    instructions: Any = NOT_GIVEN
    speed: Any = NOT_GIVEN


class OpenAITTSService(HttpService, TTSService):
    """Speech, streamed as it is made.

    Args:
        instructions: how to speak, for models that take them.
        options: keys of each request beside ours.
    """

    Settings: ClassVar[type[ServiceSettings]] = OpenAITTSSettings

    def __init__(
        self,
        *,
        api_key: str = "",
        base_url: str = URL,
        instructions: str = "",
        options: Mapping[str, Any] | None = None,
        settings: TTSSettings | None = None,
        **kwargs: Any,
    ) -> None:
        defaults = OpenAITTSSettings(voice="alloy", model="gpt-4o-mini-tts")
        super().__init__(settings=defaults.joined_with(settings) if settings is not None else defaults, **kwargs)
        self._headers, self._url = _headers(api_key), base_url.rstrip("/") + "/audio/speech"
        self._instructions, self._options = instructions, dict(options or {})

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        given = self._settings
        body = {"model": given.model, "voice": given.voice, "input": text, "response_format": "pcm"}
        if self._instructions:
            body["instructions"] = self._instructions
        body |= given.beyond(TTSSettings)
        left = b""  # half a sample
        try:
            async with self.http.stream("POST", self._url, json={**body, **self._options, **given.extra}) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise refused("openai", response)
                async for piece in response.aiter_bytes(CHUNK_BYTES):
                    pcm = left + piece
                    whole = len(pcm) & ~1
                    left = pcm[whole:]
                    yield TTSAudioRawFrame(pcm[:whole], SPEECH_RATE, 1)
        except httpx.HTTPError as exc:
            raise ServiceError("openai", f"{type(exc).__name__}: {exc}", retryable=True) from exc


# ---------------------------------------------------------------- in gateway.toml


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionSettings:
    """stt = { use = "openai", key = { env = "OPENAI_API_KEY" } }"""

    key: Secret | None = None
    base_url: str = URL
    model: str = "gpt-4o-mini-transcribe"
    language: str = "en"
    prompt: str = ""  # words that are likely to be said
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSettings:
    """tts = { use = "openai", key = { env = "OPENAI_API_KEY" } }"""

    key: Secret | None = None
    base_url: str = URL
    model: str = "gpt-4o-mini-tts"
    voice: str = "alloy"
    instructions: str = ""  # how to speak
    options: Mapping[str, Any] = field(default_factory=dict)


class _Keyed(Keyed):
    variable = VARIABLE

    def key(self, settings: Any) -> str:
        """A server of one's own may need none."""
        return "" if settings.key is None and settings.base_url != URL else checked_key(settings.key, VARIABLE)


class Transcriptions(_Keyed):
    settings = TranscriptionSettings

    def make(self, settings: TranscriptionSettings) -> OpenAISTTService:
        return OpenAISTTService(
            api_key=self.key(settings),
            base_url=settings.base_url,
            prompt=settings.prompt,
            options=settings.options,
            settings=STTSettings(model=settings.model, language=settings.language),
        )


class Speech(_Keyed):
    settings = SpeechSettings

    def make(self, settings: SpeechSettings) -> OpenAITTSService:
        return OpenAITTSService(
            api_key=self.key(settings),
            base_url=settings.base_url,
            instructions=settings.instructions,
            options=settings.options,
            settings=TTSSettings(voice=settings.voice, model=settings.model),
        )
