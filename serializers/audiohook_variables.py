"""Architect's variables: texts by name, in as much room as a message has.

Source: Genesys Cloud developer centre and forum, "AudioHook protocol", version "2": `outputVariables`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from media.variables import text_of
from serializers.audiohook import dumps

log = logging.getLogger(__name__)


def variable_text(value: Any) -> str | None:
    """`value` as Architect takes it: text; None for what has no sensible text (None, NaN, a cycle)."""
    return text_of(value, odd=str)


def variable_texts(variables: Mapping[Any, Any]) -> dict[str, str]:
    """`variables` as Architect takes them; what has no text is left out, and said."""
    texts = {}
    for name, value in variables.items():
        text = variable_text(value)
        if text is not None:
            texts[str(name)] = text
        elif value is not None:
            log.warning("genesys: output variable %r has no text (%s): left out", str(name), type(value).__name__)
    return texts


def fit_variables(texts: Mapping[str, str], room: int) -> dict[str, str]:
    """`texts` in at most `room` bytes of JSON object: the short ones whole, since a flow branches on those."""
    if len(dumps(dict(texts))) <= room:
        return dict(texts)
    left = room - 2
    kept: dict[str, str] = {}
    for name in sorted(texts, key=lambda name: len(texts[name])):
        space = left - len(dumps(name)) - 2
        text = texts[name][: max(0, space)]
        while text and (excess := len(dumps(text)) - space) > 0:
            text = text[: len(text) - -(-excess // 12)]  # a character takes 12 bytes at most
        if space >= 2:
            kept[name] = text
            left = space - len(dumps(text))
    shortened = [name for name in texts if kept.get(name) != texts[name]]
    log.warning("genesys: output variables too long, shortened or left out: %s", ", ".join(shortened)[:500])
    return {name: kept[name] for name in texts if name in kept}
