"""An AudioHook session's media: the entry chosen from the offer, and its binary messages as audio per channel.

Source: Genesys Cloud developer centre, "AudioHook protocol", version "2": `open`, `opened`, audio streaming.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from media.codecs import deinterleave, ulaw_to_pcm

Json = dict[str, Any]

FORMATS = {"PCMU": 1, "L16": 2}  # bytes of a sample
_CHANNELS = frozenset({"external", "internal"})


@dataclass(frozen=True, slots=True)
class Media:
    """One offered entry, understood. `entry` goes back in `opened` as it came."""

    entry: Json
    format: str
    rate: int
    channels: tuple[str, ...]  # in the order in which their samples are interleaved

    @property
    def width(self) -> int:
        """Bytes of one sample."""
        return FORMATS[self.format]


def understood(offers: Iterable[Any], rate: int) -> list[Media]:
    """The offered entries that this side can take, in the order offered."""
    found = []
    for entry in offers:
        if not isinstance(entry, dict) or entry.get("type") != "audio" or entry.get("rate") != rate:
            continue
        encoding, channels = entry.get("format"), entry.get("channels")
        if not isinstance(encoding, str) or encoding not in FORMATS or not isinstance(channels, list):
            continue
        names = tuple(name for name in channels if isinstance(name, str) and name in _CHANNELS)
        if names and len(names) == len(channels) == len(set(names)):
            found.append(Media(entry, encoding, rate, names))
    return found


def choose(offers: Iterable[Media], wanted: frozenset[str], encoding: str) -> Media | None:
    """The best of `offers`: the format first, then the channels wanted and no others; the earlier of equals."""

    def merit(media: Media) -> tuple[bool, bool, bool]:
        channels = frozenset(media.channels)
        return media.format == encoding, channels == wanted, channels >= wanted

    return max(offers, key=merit, default=None)


def tracks(media: Media, data: bytes) -> Sequence[bytes]:
    """PCM of each channel, in the order of `media.channels`; ValueError: not whole samples of all channels."""
    channels = deinterleave(data, len(media.channels), media.width) if len(media.channels) > 1 else (data,)
    if media.width == 1:
        return [ulaw_to_pcm(channel) for channel in channels]
    if len(data) % 2:
        raise ValueError(f"{len(data)} bytes are not whole samples")
    return channels
