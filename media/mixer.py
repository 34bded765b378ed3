"""Sound under what the bot says: music on hold, an office, rain."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from media.frames import MixerControlFrame, MixerEnableFrame, MixerUpdateSettingsFrame
from media.resample import resample_all
from media.wav import read_wav

log = logging.getLogger(__name__)

_Samples = np.ndarray[tuple[int, ...], np.dtype[np.int16]]


class SoundfileMixer:
    """Mixes WAV files under the bot's audio: the `audio_out_mixer` of a transport.

    The files are read, made mono and brought to the output's rate when the output starts. A MixerEnableFrame switches
    it on and off, a MixerUpdateSettingsFrame changes `sound`, `volume` and `loop`. An interruption silences the bot
    and not the sound.

    Args:
        sound_files: a name for each WAV file.
        default_sound: the one to begin with.
        volume: what the file's samples are multiplied by.
        mixing: whether it is on from the beginning.
        loop: whether a sound that is over begins again.

    Raises:
        ValueError: no sound of that name, or a file that is no WAV file (when it starts).
        OSError: a file cannot be read (when it starts).
    """

    def __init__(
        self,
        *,
        sound_files: Mapping[str, str | os.PathLike[str]],
        default_sound: str,
        volume: float = 0.4,
        mixing: bool = True,
        loop: bool = True,
        **kwargs: Any,
    ) -> None:
        if default_sound not in sound_files:
            raise ValueError(f"there is no sound {default_sound!r}; there are {', '.join(sorted(sound_files))}")
        self._files = dict(sound_files)
        self._sound, self._volume, self._mixing, self._loop = default_sound, float(volume), mixing, loop
        self._sounds: dict[str, _Samples] = {}
        self._at = 0

    def start(self, sample_rate: int) -> None:
        for name, path in self._files.items():
            wav = read_wav(path)
            samples = np.frombuffer(wav.pcm, "<i2").reshape(-1, wav.channels).astype(np.int32)
            mono = (samples.sum(axis=1) // wav.channels).astype("<i2").tobytes()
            pcm = mono if wav.sample_rate == sample_rate else resample_all(mono, wav.sample_rate, sample_rate)
            self._sounds[name] = np.frombuffer(pcm, "<i2")
        self._at = 0

    def stop(self) -> None:
        self._sounds.clear()

    def process_frame(self, frame: MixerControlFrame) -> None:
        if isinstance(frame, MixerEnableFrame):
            self._mixing = frame.enable
        elif isinstance(frame, MixerUpdateSettingsFrame):
            for name, value in frame.settings.items():
                self._set(name, value)

    def _set(self, name: str, value: Any) -> None:
        if name == "sound":
            if value not in self._files:
                log.error("mixer.no_such_sound known=%s", sorted(self._files))
            elif value != self._sound:
                self._sound, self._at = value, 0
        elif name == "volume":
            self._volume = float(value)
        elif name == "loop":
            self._loop = bool(value)
        else:
            log.warning("mixer.unknown_setting name=%s", name)

    def mix(self, audio: bytes) -> bytes:
        """`audio` with as much of the sound as it is long."""
        sound = self._sounds.get(self._sound)
        if not self._mixing or sound is None or not len(sound) or not audio:
            return audio
        under = self._next(sound, len(audio) >> 1)
        mixed = np.frombuffer(audio, "<i2").astype(np.int32)
        mixed[: len(under)] += np.rint(under * self._volume).astype(np.int32)
        return mixed.clip(-32768, 32767).astype("<i2").tobytes()

    def _next(self, sound: _Samples, count: int) -> _Samples:
        """The next `count` samples; fewer where a sound that is not repeated is over."""
        at = self._at
        if at + count <= len(sound):
            self._at = at + count
            return sound[at : at + count]
        if not self._loop:
            self._at = len(sound)
            return sound[at:]
        taken = np.take(sound, range(at, at + count), mode="wrap")
        self._at = (at + count) % len(sound)
        return taken
