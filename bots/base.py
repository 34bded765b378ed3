"""What a bot is, and what it sees of a call.

A bot is a module in this folder that exports `BOT`. It is prepared once, when the configuration loads (`prepare`:
read files, synthesise prompts, whatever is slow), and gives the processors of one call when that call starts
(`build`: quick, nothing that waits).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from media.call import CallInfo, Variables
from media.frames import AnsweredByFrame, Frame, KeypadEntry
from media.processor import FrameProcessor
from media.recording import Tracks


class CallPort(Protocol):
    """What the call core does for a bot."""

    @property
    def sample_rate(self) -> int: ...
    @property
    def answered_by(self) -> str: ...
    def answered(self, frame: AnsweredByFrame) -> None: ...
    def now(self) -> float: ...
    def inject(self, frame: Frame) -> None: ...
    def interrupt(self) -> None: ...
    def end(self, reason: str) -> None: ...
    def transfer(self, target: str) -> None: ...
    def can_transfer(self, target: str) -> bool: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def call_later(self, delay_s: float, callback: Callable[[], None]) -> TimerHandle: ...
    def count(self, name: str, amount: int) -> None: ...
    def start_recording(self, tracks: Tracks, folder: str, longest_s: float | None) -> Recording: ...


class Recording(Protocol):
    """A recording of a call. It ends with the call at the latest; what was written is in the file at any time."""

    @property
    def path(self) -> Path:
        """The WAV file."""
        ...

    @property
    def seconds(self) -> float:
        """How much there is."""
        ...

    @property
    def is_over(self) -> bool:
        """Stopped, by whomever; also by a limit, or because the disk does not take it."""
        ...

    def pause(self) -> None:
        """Until `resume` there is silence in it."""
        ...

    def resume(self) -> None: ...
    def stop(self) -> None:
        """That was all. May be called again."""
        ...

    def delete(self) -> None:
        """Stop, and leave no file."""
        ...


class TimerHandle(Protocol):
    """A timer of `call_later`: cancel() any number of times."""

    def cancel(self) -> None: ...


class Call:
    """A live call as its bot sees it."""

    def __init__(self, info: CallInfo, variables: Variables, port: CallPort) -> None:
        self.info = info
        self.variables = variables
        self._port = port

    @property
    def sample_rate(self) -> int:
        """Hz of the PCM that the pipeline carries, both ways."""
        return self._port.sample_rate

    @property
    def answered_by(self) -> str:
        """Who has taken up the phone, where that is known: "human", "machine", "fax", "unknown"; else ""."""
        return self._port.answered_by

    def now(self) -> float:
        """Seconds of the process's monotonic clock."""
        return self._port.now()

    def inject(self, frame: Frame) -> None:
        """Push `frame` through the pipeline from its top, as if it had come from the carrier."""
        self._port.inject(frame)

    def interrupt(self) -> None:
        """Drop what is queued for the caller, here and at the carrier."""
        self._port.interrupt()

    def send_digits(self, digits: Sequence[KeypadEntry] | str) -> None:
        """Send DTMF in order with the audio: by the carrier's own message where it has one, else as tones."""
        from media.frames import OutputDTMFFrame

        for digit in digits:
            self._port.inject(OutputDTMFFrame(KeypadEntry(digit)))

    def transfer(self, target: str) -> None:
        """Hand the caller over to `target` (a number, a SIP URI, a flow) when what is queued was heard."""
        self._port.transfer(target)

    def can_transfer(self, target: str) -> bool:
        """Whether the carrier can be asked for that. It may still refuse."""
        return self._port.can_transfer(target)

    def pause(self) -> None:
        """Hear nothing of the caller for a while: CallPausedFrame comes when that is so. Genesys is asked to hold the
        audio back; of other carriers it is not passed on. What the bot says is heard all the same."""
        self._port.pause()

    def resume(self) -> None:
        """Hear the caller again: CallResumedFrame comes when that is so. A hold of the carrier's own may still last."""
        self._port.resume()

    def end(self, reason: str = "completed") -> None:
        """End the call when what is queued was heard."""
        self._port.end(reason)

    def record(self, *, tracks: Tracks = "both", folder: str = "", longest_s: float | None = None) -> Recording:
        """Record the call from now on into a WAV file: the caller left, what he hears right, silence kept.

        Args:
            tracks: "caller" or "bot": that one alone, in mono.
            folder: where the file goes, from gateway.toml; "": that of [recording].
            longest_s: at most that of [recording], which also limits the size.

        Raises GatewayError: nothing is heard of this call yet, or no more, or it cannot be recorded here.
        """
        return self._port.start_recording(tracks, folder, longest_s)

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter of the call's record. The name says what is counted, never a caller's words."""
        self._port.count(name, amount)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> TimerHandle:
        """Call `callback` on the call's own clock, `delay_s` from now; dropped when the call ends."""
        return self._port.call_later(delay_s, callback)


class Output(FrameProcessor):
    """Among the processors that a bot builds: the place of the call's output. Without it the output stands last.

    What stands behind it is told of the bot's words as the caller hears them.
    """

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self._leave_flow()  # it never joins one, and should not refer to itself until it is collected


Build = Callable[[Call], Sequence[FrameProcessor]]


@dataclass(frozen=True, slots=True)
class PrepareContext:
    """What a bot may use while it is prepared."""

    base_dir: Path  # relative paths in the configuration start here
    sample_rates: Sequence[int]  # of the wires: a prompt made ahead at these is not resampled during a call
    speak: Callable[[str, str, int], bytes] | None = None  # (text, voice, Hz) -> PCM s16le; None: no synthesiser
    will_hear: Callable[[], None] = lambda: None  # called by a bot with a voice detector: now its model is loaded


class Bot(Protocol):
    """The `BOT` of a module in bots/."""

    @property
    def settings(self) -> type[Any]:
        """A frozen dataclass: the keys of a [bots.<name>] table beside `use`."""
        ...

    def prepare(self, settings: Any, context: PrepareContext) -> Build | Awaitable[Build]:
        """Do what is slow, once per configuration. Raises ConfigError for what the operator must change."""
        ...
