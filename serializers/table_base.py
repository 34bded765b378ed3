"""Serializers that look up in a table what to do with a frame.

The table belongs to the class and has the names of its methods. A serializer that held its own methods would refer to
itself, and what is left of its call would wait for the garbage collector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from media.frames import Frame
from serializers.base import FrameSerializer, Messages


class TableSerializer(FrameSerializer):
    """Writes `encode` by `says`. A frame of another class is taken as one of the nearest class above it."""

    says: ClassVar[Mapping[type[Frame], str]]  # the name of the method that takes frames of this class

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._says = self.says

    def encode(self, frame: Frame) -> Messages:
        name = self._says.get(type(frame))
        if name is None:
            name = self._learn(type(frame))
        messages: Messages = getattr(self, name)(frame)
        return messages

    def _learn(self, kind: type[Frame]) -> str:
        """What is done with a class that this serializer meets for the first time."""
        name = next((self._says[base] for base in kind.__mro__ if base in self._says), "_nothing")
        self._says = {**self._says, kind: name}
        return name

    def _nothing(self, frame: Frame) -> Messages:
        return ()
