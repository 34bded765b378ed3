"""Where a sentence ends, in text that is still arriving."""

from __future__ import annotations

import re

_FULL_WIDTH = "。！？；…۔؟।॥"  # ends wherever it stands
_CLOSING = "\"'”’»)]}"
_END = re.compile(rf"[.!?…]+[{re.escape(_CLOSING)}]*(?=\s)|[{_FULL_WIDTH}]+[{re.escape(_CLOSING)}」』]*|\n{{2,}}")

# What ends in a full stop and ends no sentence, unless it is the last word of all.
_ABBREVIATION = re.compile(
    r"(?:mr|mrs|ms|dr|prof|rev|hon|st|sr|jr|gen|col|maj|capt|lt|sgt|vs|etc|e\.g|i\.e|cf|vol|pp|fig|inc|ltd|co|corp"
    r"|dept|est|approx|tel|ext|bzw|ca|z\.b|d\.h|u\.a|usw|nr|str|hr|fr|mme|mlle|sra|dra|ud|uds|av)\.",
    re.IGNORECASE,
)
_INITIAL = re.compile(r"(?:^|[\s(])(?:[^\W\d_]\.)+$")  # "J." or "U.S."
_NUMBERED = re.compile(r"(?:^|\n)\s*\d{1,3}\.$")  # "1." at the beginning of a line
_LAST_WORD = re.compile(r"[^\s(\"'“‘«]+$")


def end_of_sentence(text: str) -> int:
    """How many characters of `text` are its first sentence, closing marks included; 0 if it has not ended yet.

    A full stop counts when something follows that shows it: white space, that is. So the last sentence of a text is
    never whole until the text is.
    """
    for match in _END.finditer(text):
        head = text[: match.end()]
        if match[0][0] != "." or match[0].startswith("..") or not _is_abbreviation(head.rstrip(_CLOSING)):
            return match.end()
    return 0


def _is_abbreviation(head: str) -> bool:
    if _INITIAL.search(head) or _NUMBERED.search(head):
        return True
    word = _LAST_WORD.search(head)
    return word is not None and _ABBREVIATION.fullmatch(word[0]) is not None
