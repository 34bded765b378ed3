"""Text to speech with no network: espeak-ng's library from the package `espeakng-loader`.

The library is GPL-3, so it is an optional extra and loaded only when somebody speaks. Its state is global to the
process: one thread of its own does all the work, one text after the other.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from media.errors import ConfigError
from media.resample import resample_all

DEFAULT_VOICE = "en-us+f3"  # of espeak-ng's voices the one that an offline recogniser understands best
DEFAULT_WPM = 160  # espeak-ng's own 175 is brisk on a telephone

INSTALL = "pip install 'telephony-gateway[speech]'"

_SPEECH_DBFS = -20.0  # loudness of the speech itself, without pauses: what telephone prompts usually have
_PEAK = 0.7  # of full scale: -3 dBFS, so that no resampler or law clips it
_SILENCE_DBFS = -50.0
_KEEP_BEFORE_S, _KEEP_AFTER_S = 0.05, 0.15  # silence that stays at the ends; espeak-ng leaves up to 0.3 s
_CACHE_BYTES = 32 << 20

# espeak_ng/speak_lib.h
_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1  # and neither espeakSSML nor espeakPHONEMES: "<" and "[[" are text
_END_PAUSE = 0x1000  # without it the last 60 ms of the last word stay inside
_RATE = 1
_RATE_RANGE = (80, 450)

# Control characters: \x01 would begin one of espeak-ng's own commands in the text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]+")

_VOICE = re.compile(r"[A-Za-z0-9_+-]{1,40}")  # names only: a path would be opened

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class _Voice(ctypes.Structure):
    """espeak_VOICE."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


class _Library:
    """libespeak-ng, initialised. Used by one thread only."""

    def __init__(self) -> None:
        try:
            import espeakng_loader

            library = ctypes.CDLL(espeakng_loader.get_library_path())
            data = os.fsencode(espeakng_loader.get_data_path())
        except (ImportError, OSError, RuntimeError) as exc:
            raise ConfigError("text", f"no speech synthesiser ({exc})", f"{INSTALL}, or use WAV files") from exc
        library.espeak_Initialize.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
        library.espeak_SetVoiceByName.argtypes = (ctypes.c_char_p,)
        library.espeak_SetVoiceByProperties.argtypes = (ctypes.POINTER(_Voice),)
        library.espeak_GetCurrentVoice.restype = ctypes.POINTER(_Voice)
        library.espeak_SetParameter.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int)
        library.espeak_SetSynthCallback.argtypes = (_Callback,)
        library.espeak_SetSynthCallback.restype = None
        library.espeak_Synth.argtypes = (
            ctypes.c_char_p,  # text
            ctypes.c_size_t,  # its bytes, with the closing zero
            ctypes.c_uint,  # first position
            ctypes.c_int,  # of which kind
            ctypes.c_uint,  # last position; 0: the end
            ctypes.c_uint,  # flags
            ctypes.c_void_p,  # where to put an identifier
            ctypes.c_void_p,  # for the callback
        )
        self.sample_rate: int = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, data, _INITIALIZE_DONT_EXIT)
        if self.sample_rate <= 0:
            raise ConfigError("text", "the speech synthesiser does not start", f"{INSTALL} again, or use WAV files")
        self._library = library
        self._pieces: list[bytes] = []
        self._callback = _Callback(self._take)  # kept: C holds only its address
        library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._pieces.append(ctypes.string_at(samples, count * 2))
        return 0  # go on

    def _choose(self, voice: str) -> None:
        """A voice by its name ("en-us"), else by a language it speaks ("en-gb"); "+f3" is a variant of either."""
        library = self._library
        language, plus, variant = voice.partition("+")
        found = _VOICE.fullmatch(voice) and library.espeak_SetVoiceByName(voice.encode()) == 0
        if not found and _VOICE.fullmatch(voice):
            wanted = _Voice(languages=language.encode())
            if library.espeak_SetVoiceByProperties(ctypes.byref(wanted)) == 0:
                name: bytes = library.espeak_GetCurrentVoice().contents.identifier
                found = not plus or library.espeak_SetVoiceByName(name + f"+{variant}".encode()) == 0
        if not found:
            raise ConfigError("voice", "espeak-ng has no such voice", 'for example "en-us", "en-gb", "en-us+f3", "de"')

    def synthesise(self, text: str, voice: str, rate_wpm: int) -> bytes:
        """PCM s16le at `sample_rate`."""
        self._choose(voice)
        self._library.espeak_SetParameter(_RATE, rate_wpm, 0)
        data = text.encode()
        self._pieces.clear()
        status = self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _CHARS_UTF8 | _END_PAUSE, None, None)
        pcm = b"".join(self._pieces)
        self._pieces.clear()
        if status != 0:
            raise ConfigError("text", f"espeak-ng cannot speak it (status {status})", "use a WAV file")
        return pcm


# The library can be initialised once per process, and belongs to this thread.
_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak")
_library = cache(_Library)


class Synthesiser:
    """Speech from text, made once for each (text, voice, words per minute, Hz) and kept while there is room."""

    def __init__(self, cache_bytes: int = _CACHE_BYTES) -> None:
        self._kept: OrderedDict[tuple[str, str, int, int], bytes] = OrderedDict()
        self._room = cache_bytes
        self._lock = threading.Lock()

    def synthesise(
        self, text: str, voice: str = DEFAULT_VOICE, rate_wpm: int = DEFAULT_WPM, sample_rate: int = 8000
    ) -> bytes:
        """`text` as PCM s16le mono at `sample_rate`, at an even loudness, with little silence at its ends.

        Waits for about 2 ms per second of speech; any thread may call. The text is plain: markup and commands are
        read out or dropped, never obeyed. Nothing to say gives b"".

        Raises:
            ConfigError: the library is not installed, or has no such voice.
        """
        text = _CONTROL.sub(" ", text).strip()
        if not text:
            return b""
        rate_wpm = min(max(rate_wpm, _RATE_RANGE[0]), _RATE_RANGE[1])
        key = (text, voice or DEFAULT_VOICE, rate_wpm, sample_rate)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        pcm = _thread.submit(_make, *key).result()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = pcm
                self._room -= len(pcm)
            while self._room < 0:
                self._room += len(self._kept.popitem(last=False)[1])
        return pcm


def _make(text: str, voice: str, rate_wpm: int, sample_rate: int) -> bytes:
    library = _library()
    pcm = even(library.synthesise(text, voice, rate_wpm), library.sample_rate)
    return resample_all(pcm, library.sample_rate, sample_rate)


def even(pcm: bytes, sample_rate: int) -> bytes:
    """Speech at the loudness of a telephone prompt, with little silence at its ends; b"" if it is silent.

    The louder parts come to -20 dBFS, unless a peak would then pass -3 dBFS.
    """
    samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
    step = sample_rate // 100
    steps = len(samples) // step
    if steps == 0:
        return b""
    loudness = np.sqrt(np.mean(np.square(samples[: steps * step].reshape(steps, step)), axis=1))
    if loudness.max() < _amplitude(_SILENCE_DBFS):
        return b""
    heard = np.flatnonzero(loudness > _amplitude(_SILENCE_DBFS))
    first = max(0, heard[0] * step - int(_KEEP_BEFORE_S * sample_rate))
    last = min(len(samples), (heard[-1] + 1) * step + int(_KEEP_AFTER_S * sample_rate))
    speech = loudness[loudness > loudness.max() / 10]
    gain = min(
        _amplitude(_SPEECH_DBFS) / float(np.sqrt(np.mean(np.square(speech)))), _PEAK / float(np.abs(samples).max())
    )
    return np.rint(samples[first:last] * (gain * 32768)).astype("<i2").tobytes()


def _amplitude(dbfs: float) -> float:
    return float(10 ** (dbfs / 20))


_shared = Synthesiser()


def speak(text: str, voice: str, sample_rate: int) -> bytes:
    """`PrepareContext.speak`: the process's own synthesiser at its usual pace. `voice` "" is the default one."""
    return _shared.synthesise(text, voice, sample_rate=sample_rate)
