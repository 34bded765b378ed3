"""Characters that callers and operators can write, and a document cannot: XML has no way to spell most control
characters, and JSON can spell halves of characters, which nothing else can hold.

Source: XML 1.0, production 2; RFC 8259, section 8.2.
"""

from __future__ import annotations

import json
import re
from typing import Any

_UNWRITABLE = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def writable(text: str) -> bool:
    """Whether an XML document can hold `text`: one that cannot be read is worse than one that says less."""
    return _UNWRITABLE.search(text) is None


def for_xml(text: str) -> str:
    """`text` without what XML cannot hold."""
    return _UNWRITABLE.sub("", text)


def whole(text: str) -> str:
    """`text` with question marks for halves of characters."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def read_json(body: bytes) -> Any:
    """The JSON in `body`, its texts `whole`. ValueError or RecursionError: it is none."""
    return _all_whole(json.loads(body))


def _all_whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, list):
        return [_all_whole(one) for one in value]
    if isinstance(value, dict):
        return {whole(name): _all_whole(one) for name, one in value.items()}
    return value
