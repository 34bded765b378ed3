"""A sound under the bot's: its level, its loop, its rate, and what frames change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media.frames import MixerEnableFrame, MixerUpdateSettingsFrame
from media.mixer import SoundfileMixer
from media.wav import write_wav


def pcm(*values: int) -> bytes:
    return np.array(values, "<i2").tobytes()


def samples(data: bytes) -> list[int]:
    return list(map(int, np.frombuffer(data, "<i2")))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    write_wav(tmp_path / "rising.wav", pcm(100, 200, 300, 400, 500), 8000)
    write_wav(tmp_path / "loud.wav", pcm(*[30000] * 100), 8000)
    return {"rising": tmp_path / "rising.wav", "loud": tmp_path / "loud.wav"}


def mixer(files: dict[str, Path], **more: Any) -> SoundfileMixer:
    made = SoundfileMixer(**{"sound_files": files, "default_sound": "rising", "volume": 1.0, **more})
    made.start(8000)
    return made


def test_it_goes_on_where_it_was_and_begins_again(files: dict[str, Path]) -> None:
    it = mixer(files)
    assert samples(it.mix(pcm(0, 0, 0))) == [100, 200, 300]
    assert samples(it.mix(pcm(1, 1, 1))) == [401, 501, 101]
    assert samples(it.mix(bytes(2 * 12))) == [200, 300, 400, 500, 100, 200, 300, 400, 500, 100, 200, 300]


def test_without_a_loop_it_ends(files: dict[str, Path]) -> None:
    it = mixer(files, loop=False)
    assert samples(it.mix(bytes(14))) == [100, 200, 300, 400, 500, 0, 0]
    assert samples(it.mix(pcm(7, 8))) == [7, 8]


def test_the_level_and_the_limit(files: dict[str, Path]) -> None:
    assert samples(mixer(files, volume=0.5).mix(bytes(4))) == [50, 100]
    it = mixer(files, default_sound="loud")
    assert samples(it.mix(pcm(20000, -20000))) == [32767, 10000]


def test_frames_change_it(files: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    it = mixer(files, mixing=False)
    assert samples(it.mix(bytes(4))) == [0, 0]
    it.process_frame(MixerEnableFrame(True))
    assert samples(it.mix(bytes(4))) == [100, 200]
    it.process_frame(MixerUpdateSettingsFrame({"sound": "loud", "volume": 0.1}))
    assert samples(it.mix(bytes(4))) == [3000, 3000]
    it.process_frame(MixerUpdateSettingsFrame({"sound": "nothing"}))
    assert "mixer.no_such_sound" in caplog.text
    assert samples(it.mix(bytes(4))) == [3000, 3000]
    it.process_frame(MixerUpdateSettingsFrame({"sound": "rising", "volume": 1.0, "loop": False}))
    assert samples(it.mix(bytes(12))) == [100, 200, 300, 400, 500, 0]


def test_files_of_another_rate_and_of_two_channels(tmp_path: Path) -> None:
    tone = (8000 * np.sin(np.arange(16000) * 2 * np.pi * 440 / 16000)).astype("<i2")
    write_wav(tmp_path / "stereo.wav", np.column_stack([tone, tone]).tobytes(), 16000, 2)
    it = SoundfileMixer(sound_files={"tone": tmp_path / "stereo.wav"}, default_sound="tone", volume=1.0)
    it.start(8000)
    heard = np.frombuffer(it.mix(bytes(2 * 8000)), "<i2").astype(float)
    assert np.argmax(np.abs(np.fft.rfft(heard))) == 440
    assert np.sqrt((heard**2).mean()) == pytest.approx(8000 / np.sqrt(2), rel=0.02)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no sound 'b'; there are a"):
        SoundfileMixer(sound_files={"a": "a.wav"}, default_sound="b")
    with pytest.raises(OSError, match=r"a\.wav"):
        SoundfileMixer(sound_files={"a": tmp_path / "a.wav"}, default_sound="a").start(8000)
