"""Deepgram: recognition and speech, both streamed over WebSockets, in mu-law where the telephone speaks it.

Source: developers.deepgram.com, "Live Audio" (/v1/listen) and "Text to Speech WebSocket" (/v1/speak).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bots.services.http import Keyed
from bots.services.settings import NOT_GIVEN, ServiceSettings, STTSettings, TTSSettings, is_given
from bots.services.stt import STTService
from bots.services.websocket import Line, Message, SocketTTSService, socket_url
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.errors import ServiceError
from media.frames import CancelFrame, EndFrame, Frame, StartFrame
from media.secret import Secret

BATCH_S = 0.06  # of audio in one message
KEEPALIVE_S = 4.0  # Deepgram closes a line that was silent for ten seconds
URL = "wss://api.deepgram.com"
VARIABLE = "DEEPGRAM_API_KEY"
_CLEAR = "clear"


@dataclass
class DeepgramOptions(STTSettings):
    """Beside model and language: Deepgram's own, under the names that its query has."""

    interim_results: Any = NOT_GIVEN
    punctuate: Any = NOT_GIVEN
    smart_format: Any = NOT_GIVEN
    numerals: Any = NOT_GIVEN
    profanity_filter: Any = NOT_GIVEN
    redact: Any = NOT_GIVEN
    replace: Any = NOT_GIVEN
    search: Any = NOT_GIVEN
    keywords: Any = NOT_GIVEN
    keyterm: Any = NOT_GIVEN
    diarize: Any = NOT_GIVEN
    filler_words: Any = NOT_GIVEN
    dictation: Any = NOT_GIVEN
    detect_entities: Any = NOT_GIVEN
    endpointing: Any = NOT_GIVEN
    utterance_end_ms: Any = NOT_GIVEN
    vad_events: Any = NOT_GIVEN
    mip_opt_out: Any = NOT_GIVEN
    tag: Any = NOT_GIVEN
    version: Any = NOT_GIVEN


class DeepgramSTTService(STTService):
    """Streaming recognition, with interim results.

    What has no final transcript when the line breaks is sent again on the next one. Events beside those of every
    service on a line: on_speech_started(), where the settings ask for `vad_events`, and on_utterance_end(), where they
    name `utterance_end_ms`.

    Args:
        options: of the query, beside model, language, encoding and sample_rate; None leaves a default out.
        finalize: ask for the rest as soon as our own detector says that the caller has stopped.
    """

    Settings: ClassVar[type[ServiceSettings]] = DeepgramOptions

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str = URL,
        options: Mapping[str, Any] | None = None,
        finalize: bool = True,
        settings: STTSettings | None = None,
        **kwargs: Any,
    ) -> None:
        defaults = DeepgramOptions(model="nova-3", language="en")
        given = defaults.joined_with(settings) if settings is not None else defaults
        super().__init__(settings=given, **{"ttfs_p99_latency": 0.35, **kwargs})
        self._headers = {"Authorization": f"Token {api_key}"}
        self._base_url, self._finalizes = base_url, finalize
        self._options = {"interim_results": True, "smart_format": True, "endpointing": 300, **(options or {})}
        self._batch = bytearray()
        self._batch_bytes = 0
        self._ulaw = False
        self._line: Line | None = None
        self.keep_unheard()
        for event in ("on_speech_started", "on_utterance_end"):
            self._register_event_handler(event)

    def start(self, frame: StartFrame) -> None:
        self._ulaw = self.sample_rate == 8000
        self._batch_bytes = 2 * int(BATCH_S * self.sample_rate)
        self._line = Line(
            self,
            address=self._address,
            take=self._take,
            opened=self._again,
            busy=lambda: self._spoke_at is not None,
            idle='{"type":"KeepAlive"}',
            idle_s=KEEPALIVE_S,
        )
        self._line.open()

    async def stop(self, frame: EndFrame) -> None:
        if self._line is not None:
            await self._line.close('{"type":"CloseStream"}')

    async def cancel(self, frame: CancelFrame) -> None:
        if self._line is not None:
            self._line.forget()
            await self._line.close()

    def settings_changed(self, changed: set[str]) -> None:
        if self._line is not None:
            self._line.reopen()

    def _address(self) -> tuple[str, Mapping[str, str]]:
        given = self._settings
        query = {
            "model": given.model,
            "language": str(given.language) if is_given(given.language) else None,
            "encoding": "mulaw" if self._ulaw else "linear16",
            "sample_rate": self.sample_rate,
            "channels": 1,
            **self._options,
            **given.beyond(STTSettings),
            **given.extra,
        }
        return socket_url(self._base_url, "/v1/listen", query), self._headers

    def _again(self) -> Iterable[Message]:
        """On a second connection: what the first has not transcribed."""
        if self._line is not None and self._line.connections > 1:
            self._line.forget(sound_only=True)  # it is among what is sent again, a Finalize is not
            self._batch.clear()
            if audio := self.unheard_audio():
                return (self._encoded(audio),)
        return ()

    def _encoded(self, pcm: bytes) -> bytes:
        return pcm_to_ulaw(pcm) if self._ulaw else pcm

    def feed(self, audio: bytes) -> None:
        batch = self._batch
        batch += audio
        if len(batch) >= self._batch_bytes:
            self._send_batch()

    def _send_batch(self) -> None:
        if self._batch and self._line is not None:
            self._line.send(self._encoded(bytes(self._batch)))
            self._batch.clear()

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        self.feed(audio)
        yield None

    def speech_stopped(self) -> None:
        if self._finalizes and self._line is not None:
            self._send_batch()
            self.request_finalize()
            self._line.send('{"type":"Finalize"}')

    def _take(self, message: Message) -> None:
        event = json.loads(message)
        kind = event.get("type")
        if kind == "Results":
            self.sign_of_life()
            best = (event.get("channel", {}).get("alternatives") or [{}])[0]
            text = best.get("transcript") or ""
            if event.get("from_finalize"):
                self.confirm_finalize()
            if text:
                language = (best.get("languages") or [self._settings.language])[0]
                self.transcript(text, final=bool(event.get("is_final")), language=language, result=event)
        elif kind == "SpeechStarted":
            self._call_event_handler("on_speech_started")
        elif kind == "UtteranceEnd":
            self._call_event_handler("on_utterance_end")
        elif kind == "Error" or "err_msg" in event:
            raise ServiceError("deepgram", _reason(event), retryable=True)


class DeepgramTTSService(SocketTTSService):
    """Streaming speech. Deepgram speaks one piece after the other and says when each is done, not which it was."""

    def __init__(
        self, *, api_key: str, base_url: str = URL, settings: TTSSettings | None = None, **kwargs: Any
    ) -> None:
        defaults = TTSSettings(voice="aura-2-thalia-en")
        super().__init__(settings=defaults.joined_with(settings) if settings is not None else defaults, **kwargs)
        self._headers = {"Authorization": f"Token {api_key}"}
        self._base_url = base_url
        self._asked: deque[str] = deque()  # contexts, in order; _CLEAR for a Clear that is not answered yet

    def address(self) -> tuple[str, Mapping[str, str]]:
        ulaw = self.sample_rate == 8000
        query = {
            "model": self._settings.voice,
            "encoding": "mulaw" if ulaw else "linear16",
            "sample_rate": self.sample_rate,
            "container": "none",
            **self._settings.extra,
        }
        return socket_url(self._base_url, "/v1/speak", query), self._headers

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        line = self.line
        self._asked.append(context_id)
        line.send(json.dumps({"type": "Speak", "text": text}))
        line.send('{"type":"Flush"}')
        yield None

    def on_interrupted(self, context_ids: Sequence[str]) -> None:
        if self._asked and self._vendor_line is not None:
            self._vendor_line.forget()
            self._vendor_line.send('{"type":"Clear"}')
            self._asked = deque([_CLEAR])

    def lost(self) -> None:
        self._asked.clear()
        super().lost()

    def take(self, message: Message) -> None:
        current = self._asked[0] if self._asked else ""
        if isinstance(message, bytes):
            self.add_audio(current, ulaw_to_pcm(message) if self.sample_rate == 8000 else message)
            return
        event = json.loads(message)
        kind = event.get("type")
        if kind == "Cleared":
            if current == _CLEAR:
                self._asked.popleft()
        elif kind == "Flushed":
            if current and current != _CLEAR:
                self.close_context(self._asked.popleft())
        elif kind == "Error":
            raise ServiceError("deepgram", _reason(event), retryable=True)


def _reason(event: Mapping[str, Any]) -> str:
    return str(event.get("description") or event.get("message") or event.get("err_msg") or "no reason given")[:300]


# ---------------------------------------------------------------- in gateway.toml


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepgramSTTSettings:
    """stt = { use = "deepgram", key = { env = "DEEPGRAM_API_KEY" } }"""

    key: Secret | None = None
    base_url: str = URL
    model: str = "nova-3"
    language: str = "en"
    options: Mapping[str, Any] = field(default_factory=dict)  # of Deepgram's own, as its query has them


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepgramTTSSettings:
    """tts = { use = "deepgram", key = { env = "DEEPGRAM_API_KEY" } }"""

    key: Secret | None = None
    base_url: str = URL
    voice: str = "aura-2-thalia-en"
    options: Mapping[str, Any] = field(default_factory=dict)


class DeepgramSTT(Keyed):
    settings = DeepgramSTTSettings
    variable = VARIABLE

    def make(self, settings: DeepgramSTTSettings) -> DeepgramSTTService:
        return DeepgramSTTService(
            api_key=self.key(settings),
            base_url=settings.base_url,
            options=settings.options,
            settings=STTSettings(model=settings.model, language=settings.language),
        )


class DeepgramTTS(Keyed):
    settings = DeepgramTTSSettings
    variable = VARIABLE

    def make(self, settings: DeepgramTTSSettings) -> DeepgramTTSService:
        return DeepgramTTSService(
            api_key=self.key(settings),
            base_url=settings.base_url,
            settings=TTSSettings(voice=settings.voice, extra=dict(settings.options)),
        )


STT = DeepgramSTT()
TTS = DeepgramTTS()
