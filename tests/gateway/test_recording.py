"""Recordings of calls: what is in the file, who may read it, when it ends, and what the disk may do to a call."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bots.base import Call
from gateway.recording import Recordings, RecordingSettings, file_name, prune
from gateway.settings import parse_settings
from gateway.simulator.script import HangUp, Say, Script, after, at
from gateway.snapshot import snapshot_of
from media.call import CallInfo
from media.errors import ConfigErrors, GatewayError
from media.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame
from media.processor import FrameDirection, FrameProcessor
from media.wav import read_wav
from tests.endtoend import actors
from tests.endtoend.served import run, serve
from tests.gateway.virtual import VirtualCall


@pytest.fixture
def recordings(tmp_path: Path) -> Iterator[Recordings]:
    made = Recordings(RecordingSettings(), tmp_path)
    yield made
    end_calls()
    asyncio.run(made.close())


def end_calls() -> None:
    """A call that is left alone would leave its file open."""
    for call in _calls:
        call.core.disconnected(1006, call.t)
    _calls.clear()


_calls: list[VirtualCall] = []


def written(recordings: Recordings) -> None:
    """Wait until the disk has what was handed to it."""
    recordings._disk.submit(lambda: None).result(10)


def start(recordings: Recordings, carrier: str = "twilio", seconds: float = 0.6, **options: Any) -> VirtualCall:
    """A call that is recorded, whose bot says a tone at once."""
    call = VirtualCall(carrier, actors.saying(seconds), **options)
    call.core.recordings = recordings
    route = call.core._route

    def recorded(info: CallInfo) -> Any:
        assert route is not None
        found = route(info)
        assert found is not None
        return dataclasses.replace(found, record=True)

    call.core._route = recorded
    _calls.append(call)
    return call


def tracks(path: Path) -> tuple[np.ndarray, np.ndarray]:
    wav = read_wav(path)
    assert wav.channels == 2
    both = np.frombuffer(wav.pcm, "<i2").reshape(-1, 2)
    return both[:, 0], both[:, 1]


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "vonage", "plivo", "exotel", "genesys"])
def test_what_both_heard_is_in_the_file(recordings: Recordings, carrier: str) -> None:
    call = start(recordings, carrier, latency_s=0.03)
    call.run(1.5)
    call.say(actors.tone(0.5, call.fake.audio_rate, 700.0))
    call.run(1.5)
    call.hang_up()
    call.run(6.0)
    assert call.over
    written(recordings)
    (path,) = recordings.folder.iterdir()
    record = call.core.record(call.t)
    assert record.variables["recording"] == path.name
    caller, bot = tracks(path)
    rate = read_wav(path).sample_rate
    assert record.counters["recorded_ms"] == round(len(bot) / rate * 1000)
    assert 2.8 < len(bot) / rate < 4.0
    spoken, said = np.flatnonzero(np.abs(bot) > 500), np.flatnonzero(np.abs(caller) > 500)
    assert (spoken[-1] - spoken[0]) / rate == pytest.approx(0.6, abs=0.03)
    assert (said[-1] - said[0]) / rate == pytest.approx(0.5, abs=0.03)
    assert spoken[0] / rate < 0.5
    # The fake's own record of the caller's ear: the same sound, as long after the answer.
    heard = np.flatnonzero(np.abs(np.frombuffer(call.heard(), "<i2")) > 500)
    assert len(heard) / len(spoken) == pytest.approx(call.fake.playout.rate / rate, rel=0.05)
    assert 1.3 < said[0] / rate < 1.7


def test_only_this_user_may_read_it(recordings: Recordings) -> None:
    call = start(recordings)
    call.run(1.0)
    written(recordings)
    (path,) = recordings.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(recordings.folder.stat().st_mode) == 0o700


def test_a_process_that_dies_leaves_a_valid_file(recordings: Recordings) -> None:
    call = start(recordings, seconds=3.0)
    call.run(3.0)
    written(recordings)
    (path,) = recordings.folder.iterdir()
    # Nothing was closed: this is what the system has at this moment.
    wav = read_wav(path)
    assert wav.duration_s > 3.0 - 1.0
    assert len(wav.pcm) + 44 == path.stat().st_size
    assert int.from_bytes(path.read_bytes()[40:44], "little") == len(wav.pcm)


@pytest.mark.parametrize("call_id", ["../../etc/passwd", "a/b\\c", "", "\0", "x" * 500, "CA😀", ".."])
def test_no_name_leads_elsewhere(call_id: str) -> None:
    name = file_name(CallInfo(carrier="../twilio", call_id=call_id), 0.0)
    assert name == os.path.basename(name)
    assert len(name) < 140
    assert not set(name) & set("/\\\0 ")
    assert name.startswith("19700101T000000Z-")


def test_a_bot_starts_pauses_and_stops_it(recordings: Recordings) -> None:
    made: list[Any] = []

    def build(call: Call) -> Any:
        def act(processor: actors.Act) -> None:
            made.append(call.record(tracks="caller", folder="notes"))
            call.call_later(1.0, made[0].pause)
            call.call_later(2.0, made[0].resume)
            call.call_later(3.0, made[0].stop)

        return (actors.Act(act),)

    call = VirtualCall("twilio", build)
    call.core.recordings = recordings
    call.say(actors.tone(5.0))
    call.run(4.0)
    written(recordings)
    (recording,) = made
    assert recording.is_over
    wav = read_wav(recording.path)
    assert recording.path.parent == recordings.base_dir / "notes"
    assert wav.channels == 1
    assert wav.duration_s == pytest.approx(3.0, abs=0.05)
    loud = np.abs(np.frombuffer(wav.pcm, "<i2").astype(int)) > 500
    assert loud[1600:7200].mean() > 0.8
    assert not loud[8400:15200].any()
    assert loud[17000:23000].mean() > 0.8
    made[0].delete()
    written(recordings)
    assert not recording.path.exists()
    assert "recording" not in call.core.record(call.t).variables


def test_limits_end_it_and_not_the_call(tmp_path: Path) -> None:
    for settings, seconds in ((RecordingSettings(longest_s=1.0), 1.0), (RecordingSettings(largest_mb=0.064), 2.0)):
        recordings = Recordings(settings, tmp_path / str(seconds))
        call = start(recordings)
        call.run(4.0)
        written(recordings)
        (path,) = recordings.folder.iterdir()
        assert read_wav(path).duration_s == pytest.approx(seconds, abs=0.3)
        assert not call.over
        end_calls()
        asyncio.run(recordings.close())


def test_a_disk_that_does_not_take_it_costs_the_recording_only(tmp_path: Path) -> None:
    tmp_path.joinpath("recordings").write_text("in the way")
    recordings = Recordings(RecordingSettings(), tmp_path)
    call = start(recordings)
    call.run(0.1)
    written(recordings)
    call.run(1.0)
    assert not call.over
    assert not call.core._recording.is_on
    assert call.core._recording.all[0].problem.startswith(("FileExistsError", "NotADirectoryError"))
    call.hang_up()
    call.run(1.0)
    assert call.over
    asyncio.run(recordings.close())


def test_a_call_without_a_place_for_recordings_says_so() -> None:
    call = VirtualCall("twilio", actors.saying(0.2))
    call.run(0.5)
    with pytest.raises(GatewayError, match="keeps no recordings"):
        call.core.start_recording()


def test_old_recordings_go_and_nothing_else(tmp_path: Path) -> None:
    old = tmp_path / file_name(CallInfo(carrier="twilio", call_id="CA1"), 0.0)
    new = tmp_path / file_name(CallInfo(carrier="twilio", call_id="CA2"), 0.0)
    other = tmp_path / "holiday.wav"
    for path in (old, new, other):
        path.write_bytes(b"x")
    os.utime(old, (1000.0, 1000.0))
    os.utime(other, (1000.0, 1000.0))
    os.utime(new, (9000.0, 9000.0))
    assert prune(tmp_path, 3600.0, 10_000.0) == 1
    assert not old.exists()
    assert new.exists()
    assert other.exists()
    assert prune(tmp_path / "nowhere", 3600.0, 10_000.0) == 0


def test_bots_and_numbers_say_what_is_recorded() -> None:
    table = {
        "recording": {"folder": "calls", "keep_days": 7},
        "bots": {"loud": {"use": "echo", "record": True}, "quiet": {"use": "echo"}},
        "numbers": {
            "+15550100": {"bot": "loud"},
            "+15550101": {"bot": "loud", "record": False},
            "+15550102": {"bot": "quiet"},
            "+15550103": {"bot": "quiet", "record": True},
        },
    }
    settings = parse_settings(table)
    assert settings.recording == RecordingSettings(folder="calls", keep_days=7)
    snapshot = snapshot_of(settings, dict.fromkeys(settings.bots, actors.echo))
    said = []
    for number in table["numbers"]:
        route = snapshot.route(CallInfo(carrier="twilio", to_number=number))
        assert route is not None
        said.append(route.record)
    assert said == [True, False, False, True]
    with pytest.raises(ConfigErrors, match=r"recording\.keep_days"):
        parse_settings({"recording": {"keep_days": -1}})


class Answers(FrameProcessor):
    """A tone, once, half a second after the caller's first sound."""

    def __init__(self) -> None:
        super().__init__()
        self._has_heard = False

    def process_frame(self, frame: Frame, direction: FrameDirection) -> object:
        if not self._has_heard and isinstance(frame, InputAudioRawFrame):
            self._has_heard = bool(np.abs(np.frombuffer(frame.audio, "<i2").astype(int)).max() > 1000)
            if self._has_heard:
                self.runtime.call_later(0.5, self._answer)
        return self.push_frame(frame, direction)

    def _answer(self) -> None:
        self.push_frame(OutputAudioRawFrame(actors.tone(0.3), 8000, 1))


def test_over_a_real_socket(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve({"bot": lambda call: [Answers()]}) as served:
            gateway = served.gateway
            gateway.recordings.folder = tmp_path
            entry = gateway.settings.bots["bot"]
            object.__setattr__(entry, "record", True)
            script = Script().then(at(0.3), Say(actors.voice(1.0))).then(after(1.5), HangUp())
            report = await served.call("twilio", script)
            assert report.ok, report.problems
            await served.empty()
            recorded = served.record("twilio").variables["recording"]
        caller, bot = tracks(tmp_path / recorded)
        assert np.abs(caller.astype(int)).max() > 2000
        assert np.abs(bot.astype(int)).max() > 2000
        # The bot answers what it heard: half a second later, less what the tape may close of the bot's short gaps.
        left, right = (np.abs(side.astype(float)).reshape(-1)[: len(caller) // 80 * 80] for side in (caller, bot))
        first = [int(np.flatnonzero(side > 1000)[0]) for side in (left, right)]
        assert first[0] + 0.4 * 8000 < first[1]

    run(main(), limit_s=300)
