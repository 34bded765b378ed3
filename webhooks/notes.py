"""What a carrier's side remembers beyond a call and a reload of the settings: numbers by key, the oldest forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping


class Notes(MutableMapping[str, int]):
    """Of one process; what is noted here may be told to others.

    Args:
        limit: keys that are kept.
    """

    def __init__(self, limit: int) -> None:
        self.tell: Callable[[str, int], None] | None = None  # called with what was noted here; must not raise
        self._limit = limit
        self._kept: dict[str, int] = {}

    def learn(self, key: str, value: int) -> None:
        """Somebody else has noted it."""
        self._kept.pop(key, None)
        self._kept[key] = value
        if len(self._kept) > self._limit:
            del self._kept[next(iter(self._kept))]

    def __setitem__(self, key: str, value: int) -> None:
        self.learn(key, value)
        if self.tell is not None:
            self.tell(key, value)

    def __getitem__(self, key: str) -> int:
        return self._kept[key]

    def __delitem__(self, key: str) -> None:
        del self._kept[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)
