"""Recordings on disk: one WAV file each, written by a thread of their own as the call goes.

No call waits for the disk. Four times a second a piece of sound is handed to the thread, which appends it and
corrects the header, so that a process which dies leaves a valid file that lacks less than a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Protocol

import structlog
from annotated_types import Ge, Gt, MinLen

from media.call import CallInfo
from media.frames import InputAudioRawFrame
from media.ledger import PlayoutLedger
from media.recording import CallTape, Tracks
from media.wav import WavWriter

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.recording")

PRUNE_EVERY_S: Final = 600.0
MAX_WAITING: Final = 4_000_000  # bytes of one recording that the disk has not taken; then it ends
CLOSE_S: Final = 5.0  # for the disk to take the rest when the process ends
_NAME = re.compile(r"\d{8}T\d{6}Z-[a-z_]+-[A-Za-z0-9_-]*-[0-9a-f]{8}\.wav")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingSettings:
    """[recording]: where recordings of calls go. Which calls are recorded is a setting of bots and numbers."""

    folder: Annotated[str, MinLen(1)] = "recordings"  # made when it is needed, for this user only
    keep_days: Annotated[float, Ge(0)] = 30.0  # then the files are deleted; 0: they stay
    longest_s: Annotated[float, Gt(0)] = 4 * 3600.0  # of one recording
    largest_mb: Annotated[float, Gt(0)] = 500.0  # of one recording


class Recordings:
    """The recordings of one process."""

    def __init__(self, settings: RecordingSettings, base_dir: Path) -> None:
        self.settings = settings
        self.base_dir = base_dir
        self.folder = base_dir / settings.folder
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="recording")
        self._house: asyncio.Task[None] | None = None

    def begin(
        self,
        info: CallInfo,
        ledger: PlayoutLedger,
        now: float,
        *,
        tracks: Tracks = "both",
        folder: str = "",
        longest_s: float | None = None,
    ) -> CallRecording:
        """Record a call from now on."""
        path = (self.base_dir / folder if folder else self.folder) / file_name(info, time.time())
        return CallRecording(self._disk, self.settings, path, ledger, now, tracks, longest_s)

    def open(self) -> None:
        if self.settings.keep_days:
            self._house = asyncio.get_running_loop().create_task(self._prune(), name="recordings-housekeeping")

    async def close(self) -> None:
        """What is waiting for the disk is written, unless that takes too long."""
        if self._house is not None:
            self._house.cancel()
            await asyncio.wait([self._house])
        self._disk.shutdown(wait=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.to_thread(self._disk.shutdown)

    async def _prune(self) -> None:
        while True:
            gone = await asyncio.to_thread(prune, self.folder, self.settings.keep_days * 86_400.0, time.time())
            if gone:
                log.info("recordings.pruned", files=gone)
            await asyncio.sleep(PRUNE_EVERY_S)


def file_name(info: CallInfo, when: float) -> str:
    """Sorted by time, with the call's id, and nothing that a file system could take for something else."""
    stamp = datetime.fromtimestamp(when, UTC).strftime("%Y%m%dT%H%M%SZ")
    call = re.sub(r"[^A-Za-z0-9_-]", "_", info.call_id)[:64]
    carrier = re.sub(r"[^a-z_]", "_", info.carrier)[:32]
    return f"{stamp}-{carrier}-{call}-{secrets.token_hex(4)}.wav"


def prune(folder: Path, keep_s: float, now: float) -> int:
    """Delete recordings in `folder` that were last written more than `keep_s` ago; other files stay. How many went."""
    gone = 0
    try:
        found = [entry for entry in os.scandir(folder) if _NAME.fullmatch(entry.name)]
    except OSError:
        return 0  # nothing has been recorded yet
    for entry in found:
        with contextlib.suppress(OSError):  # another worker was quicker
            if entry.stat(follow_symlinks=False).st_mtime < now - keep_s:
                os.unlink(entry.path)
                gone += 1
    return gone


class CallRecording:
    """One recording. Its methods are called on the loop; `_on_disk` and what it calls run in the thread."""

    def __init__(
        self,
        disk: ThreadPoolExecutor,
        settings: RecordingSettings,
        path: Path,
        ledger: PlayoutLedger,
        now: float,
        tracks: Tracks,
        longest_s: float | None,
    ) -> None:
        self.path = path
        self.is_over = self.is_deleted = False
        self.problem = ""  # why it ended too early
        self._disk = disk
        self._now = now
        self._longest_s = min(settings.longest_s, longest_s or settings.longest_s)
        self._largest = settings.largest_mb * 1e6
        self._put_bytes = self._taken = 0  # counted by the loop and by the thread
        self._writer: WavWriter | None = None
        self.tape = CallTape(ledger, self._put, now, tracks)
        self._submit(self._create, self.tape.sample_rate, self.tape.channels)

    @property
    def seconds(self) -> float:
        return self.tape.seconds

    def pause(self) -> None:
        self.tape.is_paused = True

    def resume(self) -> None:
        self.tape.is_paused = False

    def tick(self, now: float) -> None:
        """Every 20 ms or so."""
        self._now = now
        self.tape.tick(now)
        if self.problem:
            self._end()
        elif self.tape.seconds >= self._longest_s or self._put_bytes >= self._largest:
            self.problem = "limit"
            self._end()
        elif self._put_bytes - self._taken > MAX_WAITING:
            self.problem = "the disk is too slow"
            self._end()

    def stop(self) -> None:
        if not self.is_over:
            self.tape.finish(self._now)
            self._end()

    def delete(self) -> None:
        self.is_deleted = True
        self._end()
        self._submit(self._remove)

    def _end(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._submit(self._finish)
            if self.problem:
                log.warning("recording.ended", file=self.path.name, problem=self.problem)

    def _put(self, pcm: bytes) -> None:
        self._put_bytes += len(pcm)
        self._submit(self._append, pcm)

    def _submit(self, work: object, *args: object) -> None:
        try:
            self._disk.submit(self._on_disk, work, *args)
        except RuntimeError:  # the process is ending
            self.problem = self.problem or "the gateway has stopped"

    # ------------------------------------------------------------ in the thread

    def _on_disk(self, work: object, *args: object) -> None:
        try:
            work(*args)  # type: ignore[operator]
        except (OSError, ValueError) as exc:
            self.problem = self.problem or f"{type(exc).__name__}: {getattr(exc, 'strerror', None) or exc}"

    def _create(self, sample_rate: int, channels: int) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._writer = WavWriter(self.path, sample_rate, channels, opener=_for_us_only)

    def _append(self, pcm: bytes) -> None:
        self._taken += len(pcm)
        if self._writer is not None:
            self._writer.write(pcm)
            self._writer.seal()

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _remove(self) -> None:
        self.path.unlink(missing_ok=True)


class Ear(Protocol):
    """Who hears both sides of a call, in step."""

    @property
    def tape(self) -> CallTape: ...
    @property
    def is_over(self) -> bool: ...
    def tick(self, now: float) -> None:
        """Every 20 ms or so."""

    def stop(self) -> None:
        """The call is over."""


class CallRecordings:
    """The recordings of one call: that by the configuration, and those that its bot has begun."""

    def __init__(self) -> None:
        self.all: list[CallRecording] = []
        self.is_on = False  # whether somebody hears the call
        self._written: list[Ear] = []

    @property
    def kept(self) -> list[CallRecording]:
        return [recording for recording in self.all if not recording.is_deleted]

    def add(self, recording: CallRecording) -> None:
        self.all.append(recording)
        self.listen(recording)

    def listen(self, ear: Ear) -> None:
        """It hears what a recording would, and is none."""
        self._written.append(ear)
        self.is_on = True

    def caller(self, frame: InputAudioRawFrame, now: float) -> None:
        for recording in self._written:
            recording.tape.caller(frame.audio, frame.sample_rate, frame.num_channels, now)

    def sent(self, pcm: bytes) -> None:
        for recording in self._written:
            recording.tape.sent(pcm)

    def tick(self, now: float) -> None:
        for recording in self._written:
            if not recording.is_over:
                recording.tick(now)
        self._written = [recording for recording in self._written if not recording.is_over]
        self.is_on = bool(self._written)

    def stop(self) -> None:
        for recording in self._written:
            recording.stop()


def _for_us_only(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
