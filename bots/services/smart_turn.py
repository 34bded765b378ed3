"""Smart-turn models on this machine: one session for all calls, away from the event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from media.errors import ConfigError
from media.smart_turn import BaseSmartTurn, Endpoint, SmartTurnModel, SmartTurnParams

__all__ = ["LocalSmartTurnAnalyzerV3", "SmartTurnParams"]

# Calls take their turns: an answer takes some tens of ms, and is asked for once in each pause of a caller's.
_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="smart-turn")
_loading = threading.Lock()


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))


@cache
def _loaded(path: Path, threads: int) -> SmartTurnModel:
    return SmartTurnModel(path, threads=threads)


def _ask(path: Path, threads: int, pcm: bytes, sample_rate: int) -> Endpoint:
    with _loading:
        model = _loaded(path, threads)
    return model.probability(pcm, sample_rate)


class LocalSmartTurnAnalyzerV3(BaseSmartTurn):
    """Asks an ONNX model of the smart-turn family, version 3. One analyzer hears one call; the model serves all.

    Args:
        smart_turn_model_path: the model's file; it comes with no package, so it must be given.
        cpu_count: threads of the model's session.
        sample_rate: of the audio; None: the pipeline's.

    Raises ConfigError: no path, or no such file. What else is wrong with it, the first question finds out.
    """

    def __init__(
        self,
        *,
        smart_turn_model_path: str | Path | None = None,
        cpu_count: int = 1,
        sample_rate: int | None = None,
        params: SmartTurnParams | None = None,
    ) -> None:
        super().__init__(sample_rate=sample_rate, params=params)
        if not smart_turn_model_path:
            remedy = "download smart-turn-v3's ONNX file once and give its path"
            raise ConfigError("smart_turn_model_path", "is not given", remedy)
        self._path, self._threads = _absolute(smart_turn_model_path), cpu_count
        if not self._path.is_file():
            raise ConfigError(
                "smart_turn_model_path", f"there is no file {self._path}", "give the path of an ONNX file"
            )

    async def predict(self, pcm: bytes) -> Endpoint:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_thread, _ask, self._path, self._threads, pcm, self.sample_rate)


async def warm(path: str | Path, cpu_count: int = 1) -> None:
    """Load the model before the first call. Raises ConfigError."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(_thread, _ask, _absolute(path), cpu_count, b"", 16000)
