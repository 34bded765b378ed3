"""What both have said in one call, as far as its pipeline has it in words: what was understood of the caller, and what
he heard of the bot.

It is kept only where the configuration says so. A reply that was cut off ends with the last word that was heard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from media.flow import Entry
from media.frames import Frame, InterruptionFrame, TranscriptionFrame, TTSStartedFrame, TTSStoppedFrame, TTSTextFrame
from media.output import OutputStage
from media.processor import FrameDirection, FrameProcessor

LONGEST: Final = 60_000  # characters of one call; what is said after that is not kept

Who = Literal["caller", "bot"]


@dataclass(slots=True)
class Line:
    """One utterance, `t` seconds after the call's socket came: a bot's begins there, a caller's was understood."""

    t: float
    who: Who
    text: str


class Transcript:
    """Of one call. `tap` belongs into the call's flow.

    Args:
        now: the call's clock.
        began: when the call's socket came, on that clock.
    """

    def __init__(self, now: Callable[[], float], began: float) -> None:
        self._now, self._began = now, began
        self._lines: list[Line] = []
        self._characters = 0
        self._bot: Line | None = None  # whose words are still coming
        self._bot_since: float | None = None  # when that speech began
        self._pushed = self._sent = 0  # words of the current reply
        self._seen: deque[int] = deque(maxlen=16)  # frames that pass several links
        self._anywhere: Mapping[type[Frame], Callable[[Any], None]] = {
            TranscriptionFrame: self._on_caller,
            InterruptionFrame: self._on_interruption,
        }
        self._to_output: Mapping[type[Frame], Callable[[Any], None]] = {**self._anywhere, TTSTextFrame: self._on_pushed}
        self._from_output: Mapping[type[Frame], Callable[[Any], None]] = {
            **self._anywhere,
            TTSStartedFrame: self._on_bot_begins,
            TTSTextFrame: self._on_bot,
            TTSStoppedFrame: self._on_bot_ends,
        }

    @property
    def lines(self) -> tuple[Line, ...]:
        return tuple(self._lines)

    def tap(self, source: FrameProcessor, peer: FrameProcessor, direction: FrameDirection, entry: Entry) -> Entry:
        if direction is not FrameDirection.DOWNSTREAM:
            return entry
        sees = self._anywhere
        if isinstance(source, OutputStage):
            sees = self._from_output
        elif isinstance(peer, OutputStage):
            sees = self._to_output

        def passing(frame: Frame, direction: FrameDirection) -> Any:
            see = sees.get(type(frame))
            if see is not None:
                see(frame)
            return entry(frame, direction)

        return passing

    # ------------------------------------------------------------ inside

    def _is_new(self, frame: Frame) -> bool:
        if frame.id in self._seen:
            return False
        self._seen.append(frame.id)
        return True

    def _add(self, who: Who, text: str, since: float | None = None) -> Line | None:
        self._characters += len(text)
        if self._characters > LONGEST:
            return None
        line = Line(round((self._now() if since is None else since) - self._began, 2), who, text)
        self._lines.append(line)
        return line

    def _on_caller(self, frame: TranscriptionFrame) -> None:
        if self._is_new(frame) and (text := frame.text.strip()):
            self._add("caller", text)
            self._bot = None

    def _on_pushed(self, frame: TTSTextFrame) -> None:
        self._pushed += len(frame.text.split())

    def _on_bot_begins(self, frame: TTSStartedFrame) -> None:
        self._bot_since = self._now()

    def _on_bot(self, frame: TTSTextFrame) -> None:
        self._sent += len(frame.text.split())
        if self._bot is None:
            self._bot = self._add("bot", frame.text.strip(), self._bot_since)
            self._bot_since = None
            return
        space = "" if frame.includes_inter_frame_spaces or frame.text[:1].isspace() else " "
        self._characters += len(frame.text) + 1
        if self._characters <= LONGEST:
            self._bot.text += space + frame.text

    def _on_bot_ends(self, frame: TTSStoppedFrame) -> None:
        self._bot = None

    def _on_interruption(self, frame: InterruptionFrame) -> None:
        """The last words that were sent may not have been heard; of those that wait behind their sound, some may."""
        if not self._is_new(frame):
            return
        if frame.heard is not None:
            unheard = len(frame.heard.unheard.split()) - (self._pushed - self._sent)
            self._take_back(unheard)
            if unheard < 0 and (text := " ".join(frame.heard.text.split()[unheard:])):
                if self._bot is None:
                    self._add("bot", text, self._bot_since)
                else:
                    self._characters += len(text) + 1
                    if self._characters <= LONGEST:
                        self._bot.text += " " + text
                self._bot_since = None
        self._pushed = self._sent = 0
        self._bot = None

    def _take_back(self, words: int) -> None:
        while words > 0 and self._lines and self._lines[-1].who == "bot":
            said = self._lines[-1].text.split()
            if words < len(said):
                self._lines[-1].text = " ".join(said[:-words])
                return
            words -= len(said)
            self._lines.pop()
