"""What may change the sound on its way: a user's filter for the caller's audio, a user's mixer for the bot's.

Pipecat's interfaces are coroutines throughout, though most never wait. One that does not costs no task here.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from gateway.transports.params import AudioFilter, AudioMixer
from media.events import Handle
from media.frames import FilterControlFrame, InputAudioRawFrame, MixerControlFrame

WAITING = 250  # pieces of the caller's audio that may wait for a slow filter: five seconds

Drive = Callable[[Coroutine[Any, Any, Any], str], Handle | None]  # to the first wait; then as a task
Complain = Callable[[str, Exception], Any]


class Filtering:
    """The caller's audio through a filter, in order; `pass_on` takes what comes out."""

    def __init__(
        self,
        audio_filter: AudioFilter,
        drive: Drive,
        pass_on: Callable[[InputAudioRawFrame], Any],
        complain: Complain,
    ) -> None:
        self._filter = audio_filter
        self._drive, self._pass_on, self._complain = drive, pass_on, complain
        self._waits: deque[InputAudioRawFrame] = deque()
        self._busy = False
        self._broken = False
        self.dropped = 0

    def start(self, rate: int) -> None:
        """Hz of what will come."""

        async def start() -> None:
            self._busy = True
            try:
                await finished(self._filter.start(rate))
            except Exception as exc:
                self._broken = True
                self._complain(f"the audio filter did not start and is off: {exc!r}", exc)
            finally:
                self._busy = False
            await self._run()

        self._drive(start(), "filter")

    def take(self, frame: InputAudioRawFrame) -> None:
        if len(self._waits) >= WAITING:
            self._waits.popleft()
            self.dropped += 1
        self._waits.append(frame)
        if not self._busy:
            self._drive(self._run(), "filter")

    def control(self, frame: FilterControlFrame) -> None:
        async def tell() -> None:
            try:
                await finished(self._filter.process_frame(frame))
            except Exception as exc:
                self._complain(f"the audio filter failed: {exc!r}", exc)

        self._drive(tell(), "filter-control")

    def stop(self) -> Awaitable[None]:
        self._waits.clear()
        return Later(self._filter.stop)

    async def _run(self) -> None:
        waits = self._waits
        self._busy = True
        try:
            while waits:
                frame = waits.popleft()
                try:
                    if not self._broken:
                        frame.audio = await finished(self._filter.filter(frame.audio))
                except Exception as exc:
                    self._complain(f"the audio filter failed: {exc!r}", exc)
                if frame.audio:
                    self._pass_on(frame)
        finally:
            self._busy = False


class Mixing:
    """A mixer under the bot's audio."""

    def __init__(self, mixer: AudioMixer, drive: Drive, complain: Complain) -> None:
        self._mixer = mixer
        self._drive, self._complain = drive, complain
        self._broken = False

    def start(self, rate: int) -> None:
        """Hz of the wire."""
        self._drive(finished(self._mixer.start(rate)), "mixer")

    def control(self, frame: MixerControlFrame) -> None:
        self._drive(finished(self._mixer.process_frame(frame)), "mixer-control")

    def stop(self) -> Awaitable[None]:
        return Later(self._mixer.stop)

    def mix(self, pcm: bytes) -> bytes:
        """`pcm` with what the mixer adds; as it is if the mixer fails, now and from then on."""
        if self._broken:
            return pcm
        try:
            return _at_once(self._mixer.mix(pcm))
        except Exception as exc:
            self._broken = True
            self._complain(f"the mixer failed and is off: {exc!r}", exc)
            return pcm


async def finished(result: Any) -> Any:
    """What a method gave that may be `def` or `async def`."""
    return await result if inspect.isawaitable(result) else result


def _at_once(result: Any) -> bytes:
    """What a coroutine gives that does not wait."""
    if not inspect.iscoroutine(result):
        return bytes(result)
    try:
        result.send(None)
    except StopIteration as stop:
        return bytes(stop.value)
    result.close()
    raise RuntimeError("it waits, between two packets of audio")


class Later:
    """Awaited: what `make` gives, if that is to be awaited. Until then nothing happens."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __await__(self) -> Generator[Any, Any, Any]:
        return finished(self.make()).__await__()
