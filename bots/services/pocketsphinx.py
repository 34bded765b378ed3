"""Recognition with no network and no account: pocketsphinx, which knows a list of phrases and nothing else.

It takes what it hears for the phrase that is nearest. English only: that is the model which its package carries.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from bots.services.settings import STTSettings
from bots.services.stt import SegmentedSTTService
from media.errors import ConfigError
from media.frames import Frame
from media.resample import resample_all
from media.wav import wav_header

log = logging.getLogger(__name__)

RATE = 16000
_SILENCE = bytes(2 * RATE * 3 // 10)  # it must hear some before and after
_PLAIN = re.compile(r"[^a-z' ]+")
_WAYS = 50  # that are looked at
_HEADER = len(wav_header(0, RATE))

# Decoders are not made for several threads; a phrase takes 10 ms.
_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pocketsphinx")


def plain(phrase: str) -> str:
    """A phrase in the words of the dictionary: small letters."""
    return " ".join(_PLAIN.sub(" ", phrase.lower()).split())


@lru_cache(maxsize=64)
def _decoder(phrases: tuple[str, ...]) -> Any:
    """One for each list of phrases, for all calls. Raises ConfigError."""
    try:
        import pocketsphinx
    except ImportError as exc:
        raise ConfigError("use", "pocketsphinx is not installed", "pip install 'telephony-gateway[speech]'") from exc
    decoder = pocketsphinx.Decoder(samprate=RATE, lm=None, loglevel="FATAL")
    unknown = sorted({word for phrase in phrases for word in phrase.split() if decoder.lookup_word(word) is None})
    if unknown:
        raise ConfigError("phrases", f"not in its dictionary: {', '.join(unknown)}", "use other words")
    decoder.add_jsgf_string("phrases", f"#JSGF V1.0; grammar phrases; public <phrase> = {' | '.join(phrases)} ;")
    decoder.activate_search("phrases")
    return decoder


def recognise(phrases: Sequence[str], pcm: bytes, sample_rate: int) -> str:
    """The phrase that mono s16le is nearest to; "" if there is none. Takes some ms."""
    decoder = _decoder(tuple(phrases))
    speech = resample_all(pcm, sample_rate, RATE)
    decoder.start_utt()
    decoder.process_raw(_SILENCE + speech + _SILENCE, no_search=False, full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    if hypothesis is None:
        return ""
    # The best way through the grammar may stop in the middle of a phrase; the next best that does not is meant.
    ways = (way.hypstr for way in islice(decoder.nbest(), _WAYS))
    return hypothesis.hypstr if hypothesis.hypstr in phrases else next((w for w in ways if w in phrases), "")


class PocketsphinxSTTService(SegmentedSTTService):
    """What was said between two silences, as one of `phrases`."""

    def __init__(self, *, phrases: Sequence[str], settings: STTSettings | None = None, **kwargs: Any) -> None:
        super().__init__(settings=settings, **{"ttfs_p99_latency": 0.25, **kwargs})
        self._phrases = tuple(dict.fromkeys(filter(None, map(plain, phrases))))
        if not self._phrases:
            raise ValueError("there is no phrase to recognise")

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        loop = asyncio.get_running_loop()
        pcm = audio[_HEADER:]
        text = await loop.run_in_executor(_thread, recognise, self._phrases, pcm, self.sample_rate)
        if text:
            self.transcript(text, final=True)
        yield None


async def recognised(phrases: Sequence[str], pcm: bytes, sample_rate: int) -> str:
    """As `recognise`, without holding up the loop. Raises ConfigError."""
    return await asyncio.get_running_loop().run_in_executor(_thread, recognise, phrases, pcm, sample_rate)


async def warm(phrases: Sequence[str]) -> None:
    """Load the model for these phrases. Raises ConfigError."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(_thread, _decoder, tuple(dict.fromkeys(filter(None, map(plain, phrases)))))


@dataclass(frozen=True, slots=True, kw_only=True)
class PocketsphinxSettings:
    """stt = { use = "pocketsphinx" }"""

    phrases: tuple[str, ...] = ()  # beside those of the dialogue


class Pocketsphinx:
    settings = PocketsphinxSettings

    async def prepare(self, settings: PocketsphinxSettings, phrases: Sequence[str] = ()) -> None:
        if not (settings.phrases or phrases):
            raise ConfigError("phrases", "there is no phrase to recognise", 'write phrases = ["opening hours", ...]')
        await warm((*settings.phrases, *phrases))

    def make(self, settings: PocketsphinxSettings, phrases: Sequence[str] = ()) -> PocketsphinxSTTService:
        return PocketsphinxSTTService(phrases=(*settings.phrases, *phrases))


STT = Pocketsphinx()
