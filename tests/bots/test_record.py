"""Voicemail and forwarding, on virtual time and over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bots.base import PrepareContext
from bots.forward import BOT as FORWARD
from bots.forward import ForwardSettings
from bots.record import BOT as RECORD
from bots.record import RecordSettings
from bots.speech import speak
from gateway.recording import Recordings, RecordingSettings
from gateway.simulator.script import Press, Say, Script, Voice, after, at
from media.errors import ConfigErrors
from media.frames import VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame
from media.wav import Wav, read_wav
from tests.endtoend import actors
from tests.endtoend.served import run, serve
from tests.gateway.virtual import VirtualCall


def context(folder: Path) -> PrepareContext:
    return PrepareContext(folder, (8000,), lambda text, _, rate: actors.tone(len(text) / 10, rate))


class Mailbox:
    """A call to the bot, whose greeting takes a second and its beep 0.4 s more."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        made: dict[str, Any] = {"greeting": "ten letter", "thanks": "thank", "nothing": "no", **settings}
        build: Any = RECORD.prepare(RecordSettings(**made), context(folder))
        self.recordings = Recordings(RecordingSettings(), folder)
        self.call = VirtualCall("twilio", lambda call: build(call)[1:])  # the test says when the caller speaks
        self.call.core.recordings = self.recordings

    def speak(self, seconds: float) -> None:
        self.call.core.inject(VADUserStartedSpeakingFrame())
        self.call.say(actors.tone(seconds))
        self.call.run(seconds)
        self.call.core.inject(VADUserStoppedSpeakingFrame())

    def messages(self) -> list[Wav]:
        self.recordings._disk.submit(lambda: None).result(10)
        return [read_wav(path) for path in (self.folder / "voicemail").glob("*.wav")]


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[Mailbox]:
    box = Mailbox(tmp_path)
    yield box
    box.call.core.disconnected(1006, box.call.t)
    asyncio.run(box.recordings.close())


def heard(call: VirtualCall) -> float:
    return float((np.abs(np.frombuffer(call.heard(), "<i2").astype(int)) > 300).sum()) / 8000


def test_a_message_ends_with_silence(mailbox: Mailbox) -> None:
    mailbox.call.run(1.8)
    mailbox.speak(2.0)
    mailbox.call.run(2.0)
    mailbox.speak(1.0)
    mailbox.call.run(6.0)
    assert mailbox.call.over
    (message,) = mailbox.messages()
    assert message.channels == 1
    assert message.duration_s == pytest.approx(0.4 + 2 + 2 + 1 + 4, abs=0.4)
    loud = np.abs(np.frombuffer(message.pcm, "<i2").astype(int)) > 500
    assert loud.sum() / 8000 == pytest.approx(3.0, abs=0.3)
    assert heard(mailbox.call) == pytest.approx(1.0 + 0.4 + 0.5, abs=0.2)  # greeting, beep, thanks
    record = mailbox.call.core.record(mailbox.call.t)
    assert (record.reason, record.ended_by) == ("completed", "bot")
    assert record.variables["recording"].endswith(".wav")


def test_a_key_ends_it_and_skips_the_greeting(mailbox: Mailbox) -> None:
    mailbox.call.run(0.4)
    mailbox.call.press("#")
    mailbox.call.run(0.8)
    assert heard(mailbox.call) < 0.9
    mailbox.speak(1.5)
    mailbox.call.press("5")  # means nothing
    mailbox.call.run(0.5)
    assert not mailbox.call.over
    mailbox.call.press("#")
    mailbox.call.run(2.0)
    assert mailbox.call.over
    (message,) = mailbox.messages()
    assert 1.9 < message.duration_s < 2.6


def test_nothing_said_leaves_no_file(mailbox: Mailbox) -> None:
    mailbox.call.run(8.0)
    assert mailbox.call.over
    assert mailbox.messages() == []
    assert mailbox.call.core.reason == "no-message"
    assert "recording" not in mailbox.call.core.record(mailbox.call.t).variables


def test_a_caller_who_hangs_up_has_left_his_message(mailbox: Mailbox) -> None:
    mailbox.call.run(1.8)
    mailbox.speak(2.0)
    mailbox.call.hang_up()
    mailbox.call.run(1.0)
    (message,) = mailbox.messages()
    assert message.duration_s > 1.9


def test_the_longest_message(tmp_path: Path) -> None:
    box = Mailbox(tmp_path, longest_s=2.0)
    box.call.run(1.8)
    box.speak(5.0)
    box.call.run(1.0)
    assert box.call.over
    (message,) = box.messages()
    assert message.duration_s == pytest.approx(2.0, abs=0.2)
    asyncio.run(box.recordings.close())


def test_mistakes_in_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"finish_on(.|\n)*greeting"):
        RECORD.prepare(RecordSettings(greeting="gone.wav", finish_on="x"), context(tmp_path))


def test_voicemail_over_a_real_socket(tmp_path: Path) -> None:
    pcm = speak("please call me back about my bill", "en-us+f3", 16000)

    async def main() -> None:
        build: Any = RECORD.prepare(RecordSettings(greeting="hi", folder="messages"), context(tmp_path))
        async with serve({"bot": build}) as served:
            served.gateway.recordings.base_dir = tmp_path
            script = Script().then(at(2.0), Say(Voice(pcm, 16000, "a message"))).then(after(0.5), Press("#"))
            report = await served.call("twilio", script)
            await served.empty()
            assert report.ok, report.problems
            record = served.record("twilio")
            assert (record.reason, record.ended_by) == ("completed", "bot")
        (path,) = (tmp_path / "messages").iterdir()
        assert path.name == record.variables["recording"]
        loud = np.abs(np.frombuffer(read_wav(path).pcm, "<i2").astype(int)) > 1000
        assert loud.any()

    run(main(), limit_s=300)


# ---------------------------------------------------------------- forwarding


class Control:
    """What is asked of the carrier."""

    def __init__(self, possible: bool) -> None:
        self.possible = possible
        self.asked: list[tuple[str, str]] = []

    def can_transfer(self, target: str) -> bool:
        return self.possible

    def transfer(self, target: str) -> float | None:
        self.asked.append(("transfer", target))
        return None

    def hang_up(self, reason: str) -> float | None:
        self.asked.append(("hang_up", reason))
        return None

    def lost(self) -> None:
        self.asked.append(("lost", ""))

    def stream_over(self) -> None:
        self.asked.append(("stream_over", ""))


@pytest.mark.parametrize("possible", [True, False])
def test_forwarding(tmp_path: Path, possible: bool) -> None:
    settings = ForwardSettings(to="+15550199", announce="putting you through", failed="sorry")
    build: Any = FORWARD.prepare(settings, context(tmp_path))
    call = VirtualCall("twilio", build)
    call.core.control = control = Control(possible)
    call.run(5.0)
    assert call.over
    if possible:
        assert heard(call) == pytest.approx(1.9, abs=0.1)
        assert control.asked == [("transfer", "+15550199")]
        assert call.core.reason == "transferred"
    else:
        assert heard(call) == pytest.approx(0.5, abs=0.1)
        assert control.asked == [("hang_up", "transfer-unavailable")]


def test_forwarding_at_once(tmp_path: Path) -> None:
    build: Any = FORWARD.prepare(ForwardSettings(to="sip:desk@example.com"), context(tmp_path))
    call = VirtualCall("telnyx", build)
    call.core.control = control = Control(True)
    call.run(1.0)
    assert control.asked == [("transfer", "sip:desk@example.com")]
    assert call.core.reason == "transferred"
