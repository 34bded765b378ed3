"""A message with audio, as the carriers write it whose messages are JSON, and the reader of it."""

from __future__ import annotations

import msgspec


class Media(msgspec.Struct, gc=False):
    """The fields of caller audio that the carriers agree on."""

    payload: bytes  # base64 on the wire; what is not canonical goes the slow way, and is refused there
    track: str = "inbound"
    chunk: int | None = None
    timestamp: int | None = None


class MediaMessage(msgspec.Struct, tag_field="event", tag="media", gc=False):
    media: Media


# Not strict: the numbers are strings with one carrier, numbers with the next, and both in some pages.
read_media = msgspec.json.Decoder(MediaMessage, strict=False).decode
UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)
