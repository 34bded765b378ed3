"""Puts pieces of text together again as they were meant."""

from __future__ import annotations


class Words:
    """Pieces that bring their own spaces (a model's tokens), and words that do not (a voice's)."""

    __slots__ = ("_parts", "_spaced")

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._spaced = True  # the last piece brings its own spaces

    def add(self, text: str, *, spaced: bool) -> None:
        if not text:
            return
        if self._parts and not (spaced and self._spaced) and not self._parts[-1][-1:].isspace():
            self._parts.append(" ")
        self._parts.append(text if spaced else text.strip())
        self._spaced = spaced

    def take(self) -> str:
        """All of it; then there is nothing."""
        text = "".join(self._parts).strip()
        self._parts.clear()
        self._spaced = True
        return text

    def __bool__(self) -> bool:
        return bool(self._parts)
