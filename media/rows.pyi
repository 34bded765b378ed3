from collections.abc import Sequence
from typing import Any

class RowMemory:
    def __init__(
        self,
        window: int,
        context: int,
        capacity: int,
        *,
        shelf: tuple[float, float, float, float],
        lowest_db: float,
        highest_db: float,
        volume_rise: float,
        volume_fall: float,
        hush: int,
        forget_after: int,
        surely_not: float,
        full: float,
        gains: bytes,
        level_at_first: float,
        level_fall: float,
        surely: float,
        louder_db: int,
        at_floor: float,
        above_murmur: float,
        like_speech: float,
        likeness_step: float,
        air_over_voice: float,
        sure: float,
        is_voice: float,
        is_air: float,
        surely_voice: float,
        surely_air: float,
    ) -> None: ...
    def forget(self, slot: int, /) -> None: ...
    def grow(self) -> None: ...
    def hear(self, slots: Sequence[int], windows: Sequence[bytes], least: Sequence[float], /) -> tuple[int, int]: ...
    def earlier(self, turn: int, audio: Any, /) -> None: ...
    def begin(self, state: Any, /) -> None: ...
    def show(self, audio: Any, state: Any, /) -> None: ...
    def judge(self, given: Any, state: Any, /) -> tuple[list[float], list[float]]: ...
