"""Offline speech: that it sounds like speech, at the right level, whole, and obeys nothing in the text."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from bots import speech
from bots.speech import Synthesiser, even, speak
from media.errors import ConfigError

pytest.importorskip("espeakng_loader", reason="the extra [speech] is not installed")

SENTENCE = "For opening hours, press one. To talk to somebody, press two."


def samples(pcm: bytes) -> npt.NDArray[np.float64]:
    return np.frombuffer(pcm, "<i2").astype(np.float64) / 32768


def dbfs(amplitude: float) -> float:
    return float(20 * np.log10(max(amplitude, 1e-9)))


def rms(signal: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(signal))))


@pytest.mark.parametrize("sample_rate", [8000, 16000, 24000, 22050])
def test_a_sentence_is_loud_enough_never_clipped_and_as_long_as_speech_is(sample_rate: int) -> None:
    pcm = Synthesiser().synthesise(SENTENCE, sample_rate=sample_rate)
    signal = samples(pcm)
    assert -8 < dbfs(np.abs(signal).max()) < -2
    assert -26 < dbfs(rms(signal)) < -18
    words_a_minute = len(SENTENCE.split()) / (len(signal) / sample_rate) * 60
    assert 100 < words_a_minute < 220
    assert abs(signal.mean()) < 0.002


def test_little_silence_at_the_ends_and_the_last_word_is_whole() -> None:
    signal = samples(speak("Support.", "", 8000))
    loud = np.flatnonzero(np.abs(signal) > 0.01)
    assert loud[0] / 8000 < 0.12
    tail = signal[loud[-1] :]
    assert 0.03 < len(tail) / 8000 < 0.25
    assert rms(signal[-80:]) < 0.003  # it has died away, it was not cut


def test_all_the_speech_is_in_the_telephones_band() -> None:
    signal = samples(speak(SENTENCE, "", 16000))
    power = np.square(np.abs(np.fft.rfft(signal)))
    hz = np.fft.rfftfreq(len(signal), 1 / 16000)
    assert float(power[(hz > 100) & (hz < 3400)].sum()) > 0.8 * float(power.sum())


def test_voices_and_paces_differ() -> None:
    make = Synthesiser().synthesise
    assert make(SENTENCE, "en-us+f3") != make(SENTENCE, "en-gb")
    assert len(make(SENTENCE, rate_wpm=120)) > 1.3 * len(make(SENTENCE, rate_wpm=200))
    assert len(make(SENTENCE, rate_wpm=1)) == len(make(SENTENCE, rate_wpm=80))  # out of range: the slowest there is


@pytest.mark.parametrize("text", ["", "   ", "\n", "...", "\x00\x01", "\ud800"])
def test_nothing_to_say_gives_nothing(text: str) -> None:
    assert speak(text, "", 8000) == b""


def test_markup_and_commands_are_text() -> None:
    plain = len(speak("hello", "", 8000))
    assert len(speak('<audio src="/etc/passwd"/>hello', "", 8000)) > 1.5 * plain  # read out, not obeyed
    assert len(speak("[[h@l'oU]] hello", "", 8000)) > 1.2 * plain
    assert len(speak("\x0180s\x01300a hello", "", 8000)) > 1.5 * plain  # the digits are said


@pytest.mark.parametrize(
    ("text", "voice"),
    [("Grüße aus Köln, schöne Füße!", "de"), ("¿Cómo está usted?", "es"), ("日本語", ""), ("👋 hi", "")],
)
def test_other_scripts_are_spoken(text: str, voice: str) -> None:
    assert 0.3 < len(speak(text, voice, 8000)) / 16000 < 6


def test_a_long_text_is_spoken_to_its_end() -> None:
    one = len(speak("This is one of very many sentences. ", "", 8000))
    many = len(speak("This is one of very many sentences. " * 100, "", 8000))
    assert many > 90 * (one - 2 * 0.2 * 8000)


@pytest.mark.parametrize("voice", ["en-us", "en-gb", "en-gb+f2", "zh", "fr-fr", "pt-br+m3"])
def test_voices_go_by_name_or_language_with_a_variant(voice: str) -> None:
    assert speak("seven", voice, 8000)


@pytest.mark.parametrize("voice", ["klingon-9", "klingon-9+f3", "/etc/passwd", "../en", "x" * 300, "é"])
def test_an_unknown_voice_is_an_error_with_a_remedy(voice: str) -> None:
    with pytest.raises(ConfigError, match="no such voice") as caught:
        speak("hello", voice, 8000)
    assert "en-us" in caught.value.remedy
    assert speak("hello", "", 8000)  # and does no harm to what follows


def test_what_was_said_once_is_kept_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = speech._make

    def make(text: str, voice: str, rate_wpm: int, sample_rate: int) -> bytes:
        made.append(text)
        return real(text, voice, rate_wpm, sample_rate)

    monkeypatch.setattr(speech, "_make", make)
    synthesiser = Synthesiser(cache_bytes=20_000)
    first = synthesiser.synthesise("one")
    assert synthesiser.synthesise("one") is first
    assert synthesiser.synthesise("one", sample_rate=16000) != first
    assert len(made) == 2
    synthesiser.synthesise("one two three four five six seven eight nine ten")  # more than there is room for
    synthesiser.synthesise("one")
    assert len(made) == 4


def test_many_threads_get_each_their_own_text() -> None:
    synthesiser = Synthesiser(cache_bytes=0)
    texts = ["one", "twenty two", "three hundred and thirty three", "a much longer sentence than all the others"] * 3
    with ThreadPoolExecutor(6) as pool:
        sizes = list(pool.map(lambda text: len(synthesiser.synthesise(text)), texts))
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3]
    for index, size in enumerate(sizes):
        assert size == pytest.approx(sizes[index % 4], abs=400)
    assert sum(thread.name.startswith("espeak") for thread in threading.enumerate()) == 1


def test_without_the_package_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ConfigError) as caught:
        speech._Library()
    assert "telephony-gateway[speech]" in caught.value.remedy


def test_silence_stays_silence_and_a_whisper_is_brought_up() -> None:
    assert even(bytes(8000), 8000) == b""
    assert even(b"", 8000) == b""
    whisper = (0.01 * np.sin(np.arange(8000) * 0.3) * 32767).astype("<i2").tobytes()
    assert dbfs(rms(samples(even(whisper, 8000)))) == pytest.approx(-20, abs=0.5)
    shout = (np.sign(np.sin(np.arange(8000) * 0.3)) * 32767).astype("<i2").tobytes()
    assert np.abs(samples(even(shout, 8000))).max() <= 0.71
