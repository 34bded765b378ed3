"""OpenAI's transcriptions and speech over HTTP, and everybody who took over their protocol.

Source: platform.openai.com/docs/api-reference/audio.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from bots.services.http import checked_key, client, refused, tls
from bots.services.settings import STTSettings, TTSSettings, is_given
from bots.services.stt import SegmentedSTTService
from bots.services.tts import TTSService
from media.errors import ServiceError
from media.frames import Frame, StartFrame, TTSAudioRawFrame
from media.secret import Secret

URL = "https://api.openai.com/v1"
VARIABLE = "OPENAI_API_KEY"
SPEECH_RATE = 24000  # Hz of `pcm`
CHUNK_BYTES = 4800  # 100 ms of it


def _headers(api_key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


class OpenAISTTService(SegmentedSTTService):
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
        self._client: httpx.AsyncClient | None = None

    def start(self, frame: StartFrame) -> None:
        self._client = client(self._headers)

    async def release(self) -> None:
        http, self._client = self._client, None
        if http is not None:
            await http.aclose()

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        http = self._client
        if http is None:
            raise ServiceError("openai", "the service is not started")
        given = self._settings
        form: dict[str, Any] = {"model": given.model, "response_format": "json"}
        if is_given(given.language) and given.language:
            form["language"] = str(given.language)
        if self._prompt:
            form["prompt"] = self._prompt
        try:
            files = {"file": ("speech.wav", audio, "audio/wav")}
            response = await http.post(self._url, data={**form, **self._options, **given.extra}, files=files)
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


class OpenAITTSService(TTSService):
    """Speech, streamed as it is made.

    Args:
        instructions: how to speak, for models that take them.
        options: keys of each request beside ours.
    """

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
        defaults = TTSSettings(voice="alloy", model="gpt-4o-mini-tts")
        super().__init__(settings=defaults.joined_with(settings) if settings is not None else defaults, **kwargs)
        self._headers, self._url = _headers(api_key), base_url.rstrip("/") + "/audio/speech"
        self._instructions, self._options = instructions, dict(options or {})
        self._client: httpx.AsyncClient | None = None

    def start(self, frame: StartFrame) -> None:
        self._client = client(self._headers)

    async def release(self) -> None:
        http, self._client = self._client, None
        if http is not None:
            await http.aclose()

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        http = self._client
        if http is None:
            raise ServiceError("openai", "the service is not started")
        given = self._settings
        body = {"model": given.model, "voice": given.voice, "input": text, "response_format": "pcm"}
        if self._instructions:
            body["instructions"] = self._instructions
        left = b""  # half a sample
        try:
            async with http.stream("POST", self._url, json={**body, **self._options, **given.extra}) as response:
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


def _key(key: Secret | None, base_url: str) -> str:
    """A server of one's own may need none."""
    return "" if key is None and base_url != URL else checked_key(key, VARIABLE)


class Transcriptions:
    settings = TranscriptionSettings

    def prepare(self, settings: TranscriptionSettings) -> None:
        tls()
        _key(settings.key, settings.base_url)

    def make(self, settings: TranscriptionSettings) -> OpenAISTTService:
        return OpenAISTTService(
            api_key=_key(settings.key, settings.base_url),
            base_url=settings.base_url,
            prompt=settings.prompt,
            options=settings.options,
            settings=STTSettings(model=settings.model, language=settings.language),
        )


class Speech:
    settings = SpeechSettings

    def prepare(self, settings: SpeechSettings) -> None:
        tls()
        _key(settings.key, settings.base_url)

    def make(self, settings: SpeechSettings) -> OpenAITTSService:
        return OpenAITTSService(
            api_key=_key(settings.key, settings.base_url),
            base_url=settings.base_url,
            instructions=settings.instructions,
            options=settings.options,
            settings=TTSSettings(voice=settings.voice, model=settings.model),
        )
