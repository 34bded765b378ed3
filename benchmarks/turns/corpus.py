"""Speech, noise and lines to measure hearing on: built anew from packages each time, labelled by construction.

    python benchmarks/turns/corpus.py [--wav FOLDER]     lists what there is; writes an example of each to listen to

Where the speech comes from:

- human: Debian's `asterisk-core-sounds-en-wav`, `-es-wav`, `-fr-wav`, `-it-wav`, `-ru-wav` (8 kHz; four speakers);
- flite's voices (Debian's `flite`): three that are cut from or trained on recordings of people, and one of diphones;
- espeak-ng's (the `speech` extra): five languages, each part with timbres of its own.

Music comes from Debian's `asterisk-moh-opsound-wav`; all other noise is made here.

The parts are split by speaker. `TUNE` is for choosing thresholds. `KEPT` is for testing, and nothing is ever chosen by
it. A source that is not installed is left out; `sources()` says which there are.

To build a measurement of one's own:

    for clip in clips(KEPT): ...              # utterances: samples, and where voice begins and speech ends
    short_replies(KEPT)                       # back-channel: "yeah", "uh-huh", hums
    noise("babble", seconds, KEPT, seed)      # also street, music, hold, coughs, hiss, tones, silence
    line = mix(seconds, [(at_s, clip, dbfs)], background, background_dbfs)      # what the caller's side says
    line += echo(of_what_the_bot_says, echo_db, delay_ms)
    pcm = telephone(line)                     # through mu-law: s16le at 8 kHz

Samples are float64 at 8 kHz, 1.0 is full scale. The level of speech is that of its active parts (10 ms frames less than
25 dB below the loudest), and so is that of noise. The same arguments give the same samples.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, sosfilt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bots.speech import speak
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.dtmf import tone
from media.errors import ConfigError
from media.frames import KeypadEntry
from media.resample import resample_all
from media.wav import read_wav, write_wav

Samples = NDArray[np.float64]

RATE: Final = 8000
TUNE: Final = "tune"
KEPT: Final = "kept"
LEVELS_DBFS: Final = (-40.0, -30.0, -20.0, -10.0)
SNRS_DB: Final = (20.0, 10.0, 5.0)
ECHOES_DB: Final = (-10.0, -20.0, -30.0)
ECHO_DELAYS_MS: Final = (50.0, 150.0, 400.0)

_FRAME: Final = RATE // 100
_ACTIVE_DB: Final = 25.0  # below the loudest frame (10 ms): no speech
_VOICED_DB: Final = 20.0  # below the active level: too faint to be called the begin of voice
_PERIODIC: Final = 0.5  # normalised autocorrelation at the pitch's lag
_LONGEST_PAUSE_S: Final = 0.3  # of one utterance
_BEFORE_S, _AFTER_S = 0.1, 0.15  # of the recording, kept around the speech


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance, at an active level of 0 dBFS (mix it lower)."""

    speaker: str
    name: str
    samples: Samples
    voice: int  # first sample of the first voiced frame
    end: int  # one behind the last sample of speech
    is_word: bool  # a single word

    @property
    def seconds(self) -> float:
        return (self.end - self.voice) / RATE

    @property
    def kind(self) -> str:
        """word, phrase (a long word or two short ones), sentence (a second or more)."""
        return "word" if self.is_word else "phrase" if self.seconds < 1.0 else "sentence"


# ---------------------------------------------------------------- who speaks

_ASTERISK: Final = Path("/usr/share/asterisk/sounds")
_MUSIC: Final = Path("/usr/share/asterisk/moh")
# Speakers of each part. A recording's folder, a voice of flite's, a voice of espeak-ng's.
_HUMAN: Final = {
    TUNE: ("fr_CA_f_June", "it_IT_m_Carlo"),
    KEPT: ("en_US_f_Allison", "es_MX_f_Allison", "ru_RU_f_IvrvoiceRU"),
}
_HOLD: Final = {
    TUNE: ("macroform-robot_dity", "macroform-the_simplicity"),
    KEPT: ("macroform-cold_day", "manolo_camp-morning_coffee", "reno_project-system"),
}
_FLITE: Final = {TUNE: ("rms", "kal16"), KEPT: ("slt", "awb")}
_ESPEAK: Final = {
    TUNE: ("en-us+m3", "en-gb+f2", "de+m1", "fr-fr+f4", "it+m7", "es+f5"),
    KEPT: ("en-us+f3", "en-gb+m2", "de+f1", "es+m4", "fr-fr+m6", "it+m8"),
}
_NOT_SPEECH: Final = ("tone", "beep", "monkeys", "silence", "letters/zed")
_HUMAN_CLIPS: Final = 130  # of each speaker, at most
_WORDS: Final = {
    "en": ("yes", "no", "seven", "four", "stop", "operator", "okay", "hello", "tomorrow", "Monday", "help", "billing"),
    "de": ("ja", "nein", "sieben", "vier", "halt", "hallo", "morgen", "Montag", "Hilfe", "Rechnung"),
    "fr": ("oui", "non", "sept", "quatre", "arrêtez", "bonjour", "demain", "lundi", "facture"),
    "es": ("sí", "no", "siete", "cuatro", "hola", "mañana", "lunes", "ayuda", "factura"),
    "it": ("sì", "no", "sette", "quattro", "pronto", "domani", "lunedì", "aiuto", "fattura"),
}
_SENTENCES: Final = {
    "en": (
        "I would like to speak to somebody about my bill",
        "can you repeat that please",
        "my number is four five seven two",
        "hold on a second I need to find my card",
        "the flight leaves on Tuesday morning",
        "what are your opening hours",
        "somebody called me from this number yesterday",
        "that is not what I ordered",
    ),
    "de": (
        "ich möchte mit jemandem über meine Rechnung sprechen",
        "können Sie das bitte wiederholen",
        "meine Nummer ist vier fünf sieben zwei",
        "einen Augenblick, ich suche meine Karte",
        "wann haben Sie geöffnet",
    ),
    "fr": (
        "je voudrais parler à quelqu'un de ma facture",
        "pouvez-vous répéter s'il vous plaît",
        "mon numéro est le quatre cinq sept deux",
        "un instant je cherche ma carte",
        "quels sont vos horaires",
    ),
    "es": (
        "quisiera hablar con alguien sobre mi factura",
        "puede repetirlo por favor",
        "mi número es cuatro cinco siete dos",
        "un momento busco mi tarjeta",
        "a qué hora abren mañana",
    ),
    "it": (
        "vorrei parlare con qualcuno della mia fattura",
        "può ripetere per favore",
        "il mio numero è quattro cinque sette due",
        "un momento cerco la mia carta",
        "a che ora aprite domani",
    ),
}
_SHORT: Final = {
    "en": ("yeah", "uh huh", "mm hmm", "right", "okay", "I see", "sure"),
    "de": ("ja", "aha", "mhm", "genau", "okay"),
    "fr": ("oui", "d'accord", "mhm", "voilà", "okay"),
    "es": ("sí", "ajá", "claro", "vale"),
    "it": ("sì", "certo", "mhm", "va bene"),
}


def sources() -> dict[str, bool]:
    """What of the speech is installed here."""
    found = {name: (_ASTERISK / name).is_dir() for part in _HUMAN.values() for name in part}
    found["music on hold"] = any((_MUSIC / f"{name}.wav").is_file() for part in _HOLD.values() for name in part)
    found["flite"] = shutil.which("flite") is not None
    try:
        found["espeak-ng"] = bool(speak("yes", "en-us", RATE))
    except ConfigError:
        found["espeak-ng"] = False
    return found


@cache
def clips(part: str) -> tuple[Clip, ...]:
    """Every utterance of one part: no pause in it is longer than 0.3 s."""
    found = [clip for name in _HUMAN[part] for clip in _recorded(name)]
    has = sources()
    if has["flite"]:
        for voice in _FLITE[part]:
            found += _spoken(f"flite {voice}", "en", lambda text, voice=voice: _flite(text, voice))
    if has["espeak-ng"]:
        for voice in _ESPEAK[part]:
            found += _spoken(f"espeak {voice}", voice[:2], lambda text, voice=voice: _espeak(text, voice))
    if not found:
        raise SystemExit("no speech is installed: apt-get install asterisk-core-sounds-en-wav flite")
    return tuple(found)


@cache
def short_replies(part: str) -> tuple[Clip, ...]:
    """Back-channel: what listeners say without wanting the floor, hums among it."""
    found: list[Clip | None] = []
    has = sources()
    if has["flite"]:
        found += [_clip(f"flite {voice}", text, _flite(text, voice)) for voice in _FLITE[part] for text in _SHORT["en"]]
    if has["espeak-ng"]:
        for voice in _ESPEAK[part]:
            found += [_clip(f"espeak {voice}", text, _espeak(text, voice)) for text in _SHORT[voice[:2]]]
    rng = _rng("hums", part)
    for number, pitch in enumerate((105, 130, 190, 220) if part == TUNE else (95, 120, 175, 240)):
        found.append(_clip(f"hum {pitch} Hz", f"hum {number}", _hum(pitch, rng)))
    return tuple(clip for clip in found if clip is not None)


@cache
def _recorded(speaker: str) -> tuple[Clip, ...]:
    folder = _ASTERISK / speaker
    found = []
    for path in sorted(folder.rglob("*.wav")):
        name = str(path.relative_to(folder).with_suffix(""))
        if any(word in name for word in _NOT_SPEECH):
            continue
        wav = read_wav(path)
        clip = _clip(speaker, name, _floats(wav.pcm), is_word=name.startswith(("digits/", "letters/")))
        if clip is not None:
            found.append(clip)
    order = _rng("recorded", speaker).permutation(len(found))[:_HUMAN_CLIPS]
    return tuple(found[number] for number in sorted(order))


def _spoken(speaker: str, language: str, say: Callable[[str], Samples]) -> list[Clip]:
    made = [_clip(speaker, text, say(text), is_word=True) for text in _WORDS[language]]
    made += [_clip(speaker, text, say(text)) for text in _SENTENCES[language]]
    return [clip for clip in made if clip is not None]


def _espeak(text: str, voice: str) -> Samples:
    return _floats(speak(text, voice, RATE))


@cache
def _flite(text: str, voice: str) -> Samples:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "speech.wav")
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(path)], check=True, timeout=60)
        wav = read_wav(path)
    return _floats(resample_all(wav.pcm, wav.sample_rate, RATE))


def _hum(pitch: float, rng: np.random.Generator) -> Samples:
    """ "mm": a voice behind closed lips, half a second."""
    count = int(0.5 * RATE)
    t = np.arange(count) / RATE
    glide = pitch * (
        1 + 0.08 * np.sin(2 * np.pi * 1.7 * t) + 0.01 * lfilter([0.02], [1, -0.98], rng.normal(size=count))
    )
    phase = 2 * np.pi * np.cumsum(glide) / RATE
    voice = sum(np.sin(k * phase) / k**2 for k in range(1, 12))
    return np.asarray(voice * np.hanning(count) ** 0.5)


# ---------------------------------------------------------------- labels


def _clip(speaker: str, name: str, samples: Samples, *, is_word: bool | None = None) -> Clip | None:
    """None if there is no voice, or a pause too long for one utterance. `is_word` None: by its length."""
    frames = len(samples) // _FRAME
    if frames < 8:
        return None
    power = (samples[: frames * _FRAME].reshape(frames, _FRAME) ** 2).mean(1)
    if power.max() <= 0:
        return None
    active = power > power.max() * 10 ** (-_ACTIVE_DB / 10)
    level = power[active].mean()
    places = np.flatnonzero(active)
    if len(places) < 8 or np.diff(places).max(initial=0) > _LONGEST_PAUSE_S * 100:
        return None
    loud = places[power[places] > level * 10 ** (-_VOICED_DB / 10)]
    voiced = loud[_periodicity(samples, loud * _FRAME) >= _PERIODIC]
    if len(voiced) < 4:
        return None
    start, end = int(voiced[0]) * _FRAME, int(places[-1] + 1) * _FRAME
    first = max(0, int(places[0]) * _FRAME - int(_BEFORE_S * RATE))
    last = min(len(samples), end + int(_AFTER_S * RATE))
    seconds = (end - start) / RATE
    if seconds > 8.0 or (is_word and seconds > 0.7):
        return None
    word = seconds < 0.6 if is_word is None else is_word
    piece = samples[first:last] / math.sqrt(level)
    edge = min(40, len(piece) // 4)
    piece[:edge] *= np.linspace(0, 1, edge)
    piece[-edge:] *= np.linspace(1, 0, edge)
    return Clip(speaker, name, piece, start - first, end - first, word)


def _periodicity(samples: Samples, starts: NDArray[np.int64]) -> Samples:
    """How much 32 ms around each frame repeat at a pitch of 60 to 400 Hz: 0 to 1."""
    size, shortest, longest = 256, RATE // 400, RATE // 60
    padded = np.concatenate((np.zeros(88), samples, np.zeros(size)))
    windows = padded[starts[:, None] + np.arange(size)]
    windows = windows - windows.mean(1, keepdims=True)
    spectrum = np.fft.rfft(windows, 2 * size)
    products = np.fft.irfft(spectrum.real**2 + spectrum.imag**2)[:, shortest : longest + 1]
    sums = np.concatenate((np.zeros((len(starts), 1)), np.cumsum(windows**2, axis=1)), axis=1)
    lags = np.arange(shortest, longest + 1)
    energies = np.sqrt(sums[:, size - lags] * (sums[:, -1:] - sums[:, lags]))
    return np.asarray((products / np.maximum(energies, 1e-12)).max(1))


# ---------------------------------------------------------------- noises

VOICES_IN_BABBLE: Final = 8


def noise(kind: str, seconds: float, part: str, seed: int = 1) -> Samples:
    """`seconds` of a background at 0 dBFS (mean square of its active parts is 1; mix it lower). Kinds: `NOISES`."""
    samples = _NOISES[kind](int(seconds * RATE), part, _rng(kind, part, seed))
    power = (samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME) ** 2).mean(1)
    active = power > power.max(initial=0.0) * 10 ** (-_ACTIVE_DB / 10)
    return samples / math.sqrt(float(power[active].mean())) if active.any() else samples


def _hiss(count: int, part: str, rng: np.random.Generator) -> Samples:
    """A line's own: white, with the lower half a little stronger."""
    return np.asarray(lfilter([1.0], [1.0, -0.5], rng.normal(size=count)))


def _babble(count: int, part: str, rng: np.random.Generator) -> Samples:
    """Voices of the part, at levels of +-3 dB, each with pauses of its own."""
    out = np.zeros(count)
    material = [clip for clip in clips(part) if clip.seconds > 0.8]
    for _ in range(VOICES_IN_BABBLE):
        gain, at = 10 ** (rng.uniform(-3, 3) / 20), -int(rng.uniform(0, 2) * RATE)
        while at < count:
            clip = material[rng.integers(len(material))].samples
            _add(out, clip * gain, at)
            at += len(clip) + int(rng.uniform(0, 0.4) * RATE)
    return out


def _street(count: int, part: str, rng: np.random.Generator) -> Samples:
    """A rumble, cars that come and go, a horn now and then."""
    out = 0.5 * sosfilt(butter(2, 250, fs=RATE, output="sos"), rng.normal(size=count)) * 4
    at = 0.0
    while at < count / RATE:
        length = rng.uniform(2.5, 7.0)
        car = rng.normal(size=int(length * RATE))
        band = butter(2, (rng.uniform(150, 400), rng.uniform(900, 2500)), "bandpass", fs=RATE, output="sos")
        swell = np.exp(-(((np.arange(len(car)) / len(car) - 0.5) / rng.uniform(0.12, 0.25)) ** 2))
        _add(out, sosfilt(band, car) * swell * rng.uniform(0.6, 2.0), int(at * RATE))
        at += rng.uniform(0.8, 4.0)
    at = rng.uniform(3, 15)
    while at < count / RATE:
        t = np.arange(int(rng.uniform(0.2, 0.9) * RATE)) / RATE
        pitch = rng.uniform(320, 480)
        horn = sum(np.sign(np.sin(2 * np.pi * f * t)) for f in (pitch, pitch * 1.26))
        low = butter(2, 2200, fs=RATE, output="sos")
        _add(out, sosfilt(low, horn) * np.hanning(len(t)) ** 0.2 * rng.uniform(0.2, 0.8), int(at * RATE))
        at += rng.uniform(10, 30)
    return np.asarray(out)


def _music(count: int, part: str, rng: np.random.Generator) -> Samples:
    """On hold: chords, a plucked figure, a bass, a lead with vibrato, a brush."""
    out, beat = np.zeros(count), 60 / rng.uniform(80, 120)
    chords = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))
    root = rng.uniform(110, 165)
    bar, at = 0, 0.0
    while at < count / RATE:
        if bar % 16 == 0:
            root = rng.uniform(110, 165)
        chord = chords[bar % 4]
        for step in chord:
            _add(out, 0.25 * _note(root * 2 ** (step / 12), 4 * beat, 0.6, 6), int(at * RATE))
        _add(out, 0.5 * _note(root / 2 * 2 ** (chord[0] / 12), 2 * beat, 3.0, 4), int(at * RATE))
        for eighth in range(8):
            step = chord[rng.integers(3)] + 12
            _add(out, 0.35 * _note(root * 2 ** (step / 12), beat, 6.0, 8), int((at + eighth * beat / 2) * RATE))
            brush = rng.normal(size=int(0.05 * RATE)) * np.exp(-np.arange(int(0.05 * RATE)) / 80)
            _add(out, 0.15 * brush, int((at + eighth * beat / 2) * RATE))
        if bar % 2:
            step = chord[rng.integers(3)] + 12
            t = np.arange(int(3 * beat * RATE)) / RATE
            phase = 2 * np.pi * root * 2 ** (step / 12) * (t + 0.002 * np.sin(2 * np.pi * 5.5 * t) / (2 * np.pi * 0.5))
            lead = sum(np.sin(k * phase) / k**1.5 for k in range(1, 7))
            _add(out, 0.4 * lead * np.hanning(len(t)) ** 0.3, int(at * RATE))
        at += 4 * beat
        bar += 1
    return out


def _hold(count: int, part: str, rng: np.random.Generator) -> Samples:
    """Recorded pieces from a random place; made music where none is installed."""
    paths = [path for name in _HOLD[part] if (path := _MUSIC / f"{name}.wav").is_file()]
    if not paths:
        return _music(count, part, rng)
    out = np.zeros(count)
    for place, at in enumerate(range(0, count, 30 * RATE)):
        piece = _floats(read_wav(paths[place % len(paths)]).pcm)
        start = rng.integers(0, max(1, len(piece) - 30 * RATE))
        piece = piece[start : start + 30 * RATE]
        _add(out, piece / np.sqrt((piece**2).mean()), at)
    return out


def _note(pitch: float, seconds: float, decay: float, partials: int) -> Samples:
    t = np.arange(int(seconds * RATE)) / RATE
    tone_ = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, partials) if pitch * k < RATE / 2)
    return np.asarray(tone_ * np.exp(-decay * t) * np.minimum(1, t / 0.008) * np.minimum(1, (seconds - t) / 0.02))


def _coughs(count: int, part: str, rng: np.random.Generator) -> Samples:
    """One or two every few seconds: a burst, a rush of air shaped by the mouth, often a voiced end."""
    out, at = np.zeros(count), 1.0
    while at < count / RATE - 1:
        for _ in range(rng.integers(1, 4)):
            _add(out, _cough(rng), int(at * RATE))
            at += rng.uniform(0.35, 0.6)
        at += rng.uniform(2.0, 5.0)
    return out


def _cough(rng: np.random.Generator) -> Samples:
    length = rng.uniform(0.2, 0.38)
    t = np.arange(int(length * RATE)) / RATE
    air = rng.normal(size=len(t)) * (np.exp(-t / 0.02) * 2.0 + np.exp(-((t / (0.6 * length)) ** 2)))
    shaped = sum(
        gain * lfilter([1 - 0.97], [1, -2 * 0.97 * math.cos(2 * np.pi * f / RATE), 0.97**2], air)
        for f, gain in ((rng.uniform(450, 800), 1.0), (rng.uniform(1100, 1700), 0.9), (rng.uniform(2300, 3000), 0.5))
    )
    cough = np.asarray(shaped) + 0.05 * air
    if rng.uniform() < 0.5:  # the voice comes in behind the burst
        pitch = rng.uniform(120, 320) * (1 - 0.5 * t / length) * (1 + 0.05 * lfilter([0.1], [1, -0.9], air))
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        voice = sum(np.sin(k * phase) / k for k in range(1, 10)) * np.clip((t - 0.35 * length) / 0.04, 0, 1)
        cough += 0.25 * np.abs(cough).max() * np.asarray(voice) * np.exp(-t / length)
    fade = np.minimum(1, (length - t) / 0.03)
    return np.asarray(cough / np.sqrt((cough**2).mean()) * fade * rng.uniform(0.5, 1.0))


def _tones(count: int, part: str, rng: np.random.Generator) -> Samples:
    """Digits pressed on a keypad."""
    out, at, keys = np.zeros(count), 0.5, [key for key in KeypadEntry if key.value in "0123456789#*"]
    while at < count / RATE - 1:
        for _ in range(rng.integers(1, 8)):
            key = keys[rng.integers(len(keys))]
            samples = _floats(tone(key, RATE))
            _add(out, samples, int(at * RATE))
            at += len(samples) / RATE + rng.uniform(0.05, 0.3)
        at += rng.uniform(0.5, 3.0)
    return out


def _silence(count: int, part: str, rng: np.random.Generator) -> Samples:
    return np.zeros(count)


_NOISES: Final[dict[str, Callable[[int, str, np.random.Generator], Samples]]] = {
    "hiss": _hiss,
    "babble": _babble,
    "street": _street,
    "music": _music,
    "hold": _hold,
    "coughs": _coughs,
    "tones": _tones,
    "silence": _silence,
}
NOISES: Final = tuple(_NOISES)


# ---------------------------------------------------------------- lines


def mix(
    seconds: float,
    speech: Iterable[tuple[float, Clip, float]] = (),
    background: Samples | None = None,
    background_dbfs: float = -100.0,
) -> Samples:
    """A line: clips at (second, clip, dBFS of its active level), and a background of at least `seconds`."""
    out = np.zeros(int(seconds * RATE))
    for at_s, clip, dbfs in speech:
        _add(out, clip.samples * 10 ** (dbfs / 20), int(at_s * RATE))
    if background is not None:
        out += background[: len(out)] * 10 ** (background_dbfs / 20)
    return out


def echo(said: Samples, echo_db: float, delay_ms: float, tail_ms: float = 12.0, seed: int = 1) -> Samples:
    """What comes back on the line of what was said to it: late, weaker by `echo_db` (negative), a little coloured."""
    rng = _rng("echo", str(delay_ms), seed)
    count = int(tail_ms / 1000 * RATE)
    path = rng.normal(size=count) * np.exp(-np.arange(count) / (count / 5))
    path[0] = 2.0
    path *= 10 ** (echo_db / 20) / math.sqrt(float((path**2).sum()))
    late = np.concatenate((np.zeros(int(delay_ms / 1000 * RATE)), said))[: len(said)]
    return np.asarray(lfilter(path, [1.0], late))


def telephone(line: Samples) -> bytes:
    """Through mu-law, as s16le at 8 kHz."""
    pcm = np.clip(np.round(line * 32768), -32768, 32767).astype("<i2").tobytes()
    return ulaw_to_pcm(pcm_to_ulaw(pcm))


@dataclass(frozen=True, slots=True)
class Uttered:
    """Where a clip is on a track, in seconds."""

    clip: Clip
    voice_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Track:
    """A minute of a telephone line. `snr_db` None: nothing but the line's own noise at -70 dBFS."""

    dbfs: float
    noise: str
    snr_db: float | None
    pcm: bytes
    uttered: tuple[Uttered, ...]

    @property
    def seconds(self) -> float:
        return len(self.pcm) / 2 / RATE


def speech_tracks(
    part: str, *, kinds: Sequence[str] = ("hiss", "babble", "street"), seconds: float = 90.0, seed: int = 1
) -> list[Track]:
    """Every level, clean and with each kind of noise at each distance; utterances with 0.8 to 2.5 s between them."""
    material = clips(part)
    found = []
    for dbfs in LEVELS_DBFS:
        for kind, snr in [("hiss", None), *((kind, snr) for kind in kinds for snr in SNRS_DB)]:
            rng = _rng("track", part, int(dbfs), kind, int(snr or 0), seed)
            at, said = rng.uniform(1.0, 2.0), []
            for number in rng.permutation(len(material)):
                clip = material[number]
                if at + len(clip.samples) / RATE > seconds - 1.0:
                    break
                said.append((at, clip, dbfs))
                at += len(clip.samples) / RATE + rng.uniform(0.8, 2.5)
            background = noise(kind, seconds, part, seed + int(dbfs))
            line = mix(seconds, said, background, -70.0 if snr is None else dbfs - snr)
            uttered = tuple(
                Uttered(clip, int(at_s * RATE + clip.voice) / RATE, int(at_s * RATE + clip.end) / RATE)
                for at_s, clip, _ in said
            )
            found.append(Track(dbfs, kind, snr, telephone(line), uttered))
    return found


def noise_tracks(kind: str, part: str, *, minutes: float = 10.0, seed: int = 1) -> list[Track]:
    """Nobody speaks: `minutes` of one noise, an equal share at each level, over a quiet line."""
    seconds = minutes * 60 / len(LEVELS_DBFS)
    found = []
    for dbfs in LEVELS_DBFS:
        samples = noise(kind, seconds, part, seed + 1000 + int(dbfs))
        line = samples * 10 ** (dbfs / 20) + mix(seconds, (), noise("hiss", seconds, part, seed), -70.0)
        found.append(Track(dbfs, kind, None, telephone(line), ()))
    return found


def _add(out: Samples, piece: Samples, at: int) -> None:
    """Onto `out` at sample `at`, as far as it reaches."""
    first, last = max(0, at), min(len(out), at + len(piece))
    if first < last:
        out[first:last] += piece[first - at : last - at]


def _floats(pcm: bytes) -> Samples:
    return np.frombuffer(pcm, "<i2").astype(np.float64) / 32768


def _rng(*key: Any) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wav", type=Path, help="write examples there")
    options = parser.parse_args(arguments)
    for name, there in sources().items():
        print(f"{name:20} {'installed' if there else 'MISSING'}")
    for part in (TUNE, KEPT):
        speakers: dict[str, list[Clip]] = {}
        for clip in clips(part):
            speakers.setdefault(clip.speaker, []).append(clip)
        print(f"\n{part}: {len(clips(part))} utterances, {len(short_replies(part))} short replies")
        for speaker, theirs in speakers.items():
            count = {kind: sum(clip.kind == kind for clip in theirs) for kind in ("sentence", "phrase", "word")}
            print(f"  {speaker:20}", ", ".join(f"{number} {kind}s" for kind, number in count.items()))
    if options.wav:
        options.wav.mkdir(parents=True, exist_ok=True)
        for kind in NOISES:
            write_wav(options.wav / f"{kind}.wav", telephone(mix(10, (), noise(kind, 10, KEPT), -25.0)), RATE)
        for part in (TUNE, KEPT):
            for clip in clips(part)[:: max(1, len(clips(part)) // 12)]:
                name = f"{part} {clip.speaker} {clip.name}".replace("/", "_").replace(" ", "_")[:60]
                write_wav(options.wav / f"{name}.wav", telephone(clip.samples * 0.1), RATE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
