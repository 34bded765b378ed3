"""Cartesia: streamed speech with word times, one context for each piece, in mu-law where the telephone speaks it.

Source: docs.cartesia.ai, "Text to Speech (WebSocket)".
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from bots.services.http import Keyed
from bots.services.settings import NOT_GIVEN, ServiceSettings, TTSSettings, is_given
from bots.services.websocket import Message, SocketTTSService, socket_url
from media.codecs import ulaw_to_pcm
from media.errors import ServiceError
from media.frames import Frame
from media.secret import Secret

URL = "wss://api.cartesia.ai"
VERSION = "2025-04-16"
VARIABLE = "CARTESIA_API_KEY"


class CartesiaEmotion(StrEnum):
    """Those that Cartesia recommends, and some of the others; any word that it knows may be given in their place."""

    NEUTRAL = "neutral"
    ANGRY = "angry"
    EXCITED = "excited"
    CONTENT = "content"
    SAD = "sad"
    SCARED = "scared"
    HAPPY = "happy"
    CALM = "calm"
    CURIOUS = "curious"
    SURPRISED = "surprised"
    SYMPATHETIC = "sympathetic"
    APOLOGETIC = "apologetic"
    CONFIDENT = "confident"
    HESITANT = "hesitant"
    SARCASTIC = "sarcastic"
    SARCASM = "sarcastic"


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How sonic-3 speaks; None leaves it as it is."""

    volume: float | None = None  # 0.5 to 2
    speed: float | None = None  # 0.6 to 1.5
    emotion: str | None = None


@dataclass
class CartesiaTTSSettings(TTSSettings):
    generation_config: Any = NOT_GIVEN  # a GenerationConfig
    pronunciation_dict_id: Any = NOT_GIVEN


class CartesiaTTSService(SocketTTSService):
    """Args:
    voice_id: one of Cartesia's, or your own; `settings.voice` is the same.
    options: keys of each request beside ours, such as `speed` or `pronunciation_dict_id`.
    """

    Settings: ClassVar[type[ServiceSettings]] = CartesiaTTSSettings

    def __init__(
        self,
        *,
        api_key: str,
        voice_id: str = "",
        base_url: str = URL,
        cartesia_version: str = VERSION,
        options: Mapping[str, Any] | None = None,
        settings: TTSSettings | None = None,
        **kwargs: Any,
    ) -> None:
        defaults = CartesiaTTSSettings(voice=voice_id, model="sonic-2", language="en")
        super().__init__(settings=defaults.joined_with(settings) if settings is not None else defaults, **kwargs)
        self._headers = {"X-API-Key": api_key, "Cartesia-Version": cartesia_version}
        self._base_url, self._version, self._options = base_url, cartesia_version, dict(options or {})

    @staticmethod
    def SPELL(text: str) -> str:  # Pipecat's name
        """Spoken letter by letter."""
        return f"<spell>{text}</spell>"

    # Marks in the text, for sonic-3; by Pipecat's names.

    @staticmethod
    def EMOTION_TAG(emotion: str) -> str:
        return f'<emotion value="{emotion}" />'

    @staticmethod
    def PAUSE_TAG(seconds: float) -> str:
        return f'<break time="{seconds}s" />'

    @staticmethod
    def VOLUME_TAG(volume: float) -> str:
        return f'<volume ratio="{volume}" />'

    @staticmethod
    def SPEED_TAG(speed: float) -> str:
        return f'<speed ratio="{speed}" />'

    def settings_changed(self, changed: set[str]) -> None:
        """Each request has all of them."""

    def address(self) -> tuple[str, Mapping[str, str]]:
        return socket_url(self._base_url, "/tts/websocket", {"cartesia_version": self._version}), self._headers

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        given = self._settings
        encoding = "pcm_mulaw" if self.sample_rate == 8000 else "pcm_s16le"
        request = {
            "context_id": context_id,
            "model_id": given.model,
            "transcript": text,
            "continue": False,
            "voice": {"mode": "id", "id": given.voice},
            "output_format": {"container": "raw", "encoding": encoding, "sample_rate": self.sample_rate},
            "add_timestamps": True,
            **({"language": str(given.language)} if is_given(given.language) and given.language else {}),
            **self._options,
            **_own(given),
            **given.extra,
        }
        self.line.send(json.dumps(request))
        yield None

    def on_interrupted(self, context_ids: Sequence[str]) -> None:
        if self._vendor_line is not None:
            for context_id in context_ids:
                self._vendor_line.send(json.dumps({"context_id": context_id, "cancel": True}))

    def take(self, message: Message) -> None:
        event = json.loads(message)
        kind, context_id = event.get("type"), event.get("context_id") or ""
        if kind == "chunk":
            audio = base64.b64decode(event["data"])
            self.add_audio(context_id, ulaw_to_pcm(audio) if self.sample_rate == 8000 else audio)
        elif kind == "timestamps":
            times = event["word_timestamps"]
            self.add_words(context_id, zip(times["words"], times["start"], strict=False))
        elif kind == "error":
            if context_id and not self.audio_context_available(context_id):
                return  # of something that was cancelled
            problem = str(event.get("error") or event.get("message") or event.get("title") or "no reason given")
            self.fail(ServiceError("cartesia", problem[:300], retryable=True))
            self.close_context(context_id)
        elif kind == "done" or event.get("done"):
            self.close_context(context_id)


def _own(given: ServiceSettings) -> dict[str, Any]:
    own = given.beyond(TTSSettings)
    if isinstance(config := own.get("generation_config"), GenerationConfig):
        own["generation_config"] = {name: value for name, value in asdict(config).items() if value is not None}
    return own


# ---------------------------------------------------------------- in gateway.toml


@dataclass(frozen=True, slots=True, kw_only=True)
class CartesiaSettings:
    """tts = { use = "cartesia", key = { env = "CARTESIA_API_KEY" }, voice = "<id>" }"""

    key: Secret | None = None
    base_url: str = URL
    version: str = VERSION  # of their API
    model: str = "sonic-2"
    voice: str
    language: str = "en"
    options: Mapping[str, Any] = field(default_factory=dict)  # of each request, as Cartesia has them


class Cartesia(Keyed):
    settings = CartesiaSettings
    variable = VARIABLE

    def make(self, settings: CartesiaSettings) -> CartesiaTTSService:
        return CartesiaTTSService(
            api_key=self.key(settings),
            base_url=settings.base_url,
            cartesia_version=settings.version,
            options=settings.options,
            settings=TTSSettings(voice=settings.voice, model=settings.model, language=settings.language),
        )


TTS = Cartesia()
