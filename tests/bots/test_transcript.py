"""TranscriptProcessor: the page's program, and what counts as one message."""

from __future__ import annotations

from typing import Any

from bots.transcript import TranscriptProcessor
from media.frames import (
    BotStoppedSpeakingFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    TranscriptionFrame,
    TranscriptionUpdateFrame,
    TTSTextFrame,
)
from tests.media.rig import Pass, Rig


def words(text: str) -> list[Frame]:
    return [TTSTextFrame(word, "word") for word in text.split()]


def test_one_handler_hears_both_sides() -> None:
    printed: list[str] = []
    print = printed.append
    transcript = TranscriptProcessor()
    early = transcript.user()

    # This handler will receive events from both processors
    @transcript.event_handler("on_transcript_update")
    async def handle_update(processor: Any, frame: TranscriptionUpdateFrame) -> None:
        for message in frame.messages:
            print(f"{message.role}: {message.content}")

    rig = Rig(
        [
            Pass(),
            transcript.user(),  # Place after STT
            Pass(),
            transcript.assistant(),  # Place after transport.output()
            Pass(),
        ]
    ).start()
    assert transcript.user() is early
    rig.push(TranscriptionFrame("Hello there.", "caller", "2026-01-01T00:00:00+00:00"))
    for frame in words("Good day to you."):
        rig.push(frame)
    assert printed == ["user: Hello there."]
    rig.push(BotStoppedSpeakingFrame())
    assert printed == ["user: Hello there.", "assistant: Good day to you."]
    updates = [frame.messages[0] for frame in rig.sunk if isinstance(frame, TranscriptionUpdateFrame)]
    user, assistant = updates
    assert (user.user_id, user.timestamp) == ("caller", "2026-01-01T00:00:00+00:00")
    assert assistant.user_id is None
    assert assistant.timestamp


def test_what_ends_a_message_of_the_bots() -> None:
    transcript = TranscriptProcessor()
    told: list[str] = []

    @transcript.event_handler("on_transcript_update")
    def handle_update(processor: Any, frame: TranscriptionUpdateFrame) -> None:
        told.append(frame.messages[0].content)

    rig = Rig([transcript.assistant()]).start()
    for frame in (*words("cut off"), InterruptionFrame(), BotStoppedSpeakingFrame(), *words("the last"), EndFrame()):
        rig.push(frame)
    assert told == ["cut off", "the last"]
    assert [type(frame).__name__ for frame in rig.sunk[-2:]] == ["TranscriptionUpdateFrame", "EndFrame"]
