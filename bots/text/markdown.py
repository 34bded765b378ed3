"""Takes out of a model's text what is written for the eye."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

_FENCE = "```"
_TABLE_ROW = re.compile(r"^[ \t]*\|.*\|[ \t]*(?:\n|$)", re.MULTILINE)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"<br\s*/?>", re.IGNORECASE), "\n"),
    (re.compile(r"</?[a-zA-Z][^<>]*>"), ""),
    (re.compile(r"!\[([^\]]*)\]\([^)\s]*(?:\s+\"[^\"]*\")?\)"), r"\1"),  # an image's words
    (re.compile(r"\[([^\]]+)\]\([^)\s]*(?:\s+\"[^\"]*\")?\)"), r"\1"),  # a link's
    (re.compile(r"^[ \t]*#{1,6}[ \t]+", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*>[ \t]?", re.MULTILINE), ""),
    (re.compile(r"^([ \t]*)[-*+][ \t]+", re.MULTILINE), r"\1"),
    (re.compile(r"^[ \t]*([-*_])(?:[ \t]*\1){2,}[ \t]*$", re.MULTILINE), ""),
    (re.compile(r"(\*\*\*|\*\*|\*)(?=\S)(.+?)(?<=\S)\1", re.DOTALL), r"\2"),
    (re.compile(r"(?<!\w)(___|__|_)(?=\S)(.+?)(?<=\S)\1(?!\w)", re.DOTALL), r"\2"),
    (re.compile(r"~~(?=\S)(.+?)(?<=\S)~~", re.DOTALL), r"\1"),
    (re.compile(r"`([^`\n]*)`"), r"\1"),
    (re.compile(r"([!?,;:~=_-])\1{2,}"), r"\1"),
)


class MarkdownTextFilter:
    """For `text_filter` of a voice. What is between the fences of code is followed from piece to piece."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class InputParams:
        enable_text_filter: bool = True
        filter_code: bool = False  # code between fences is not spoken
        filter_tables: bool = False

    def __init__(self, params: InputParams | None = None) -> None:
        self._params = params or self.InputParams()
        self._in_code = False

    def update_settings(self, settings: Mapping[str, Any]) -> None:
        """Some of the parameters, by name; others are passed over."""
        known = {name: value for name, value in settings.items() if name in self.InputParams.__dataclass_fields__}
        self._params = replace(self._params, **known)

    def filter(self, text: str) -> str:
        """What is left to be spoken. White space at both ends stays."""
        if not self._params.enable_text_filter:
            return text
        parts = text.split(_FENCE)
        said = []
        for at, part in enumerate(parts):
            if at:
                self._in_code = not self._in_code
                if self._in_code:
                    part = re.sub(r"^\w*\n", "", part)  # the language
            if self._in_code:
                said.append("" if self._params.filter_code else part)
            else:
                said.append(self._plain(part))
        return "".join(said)

    def _plain(self, text: str) -> str:
        if self._params.filter_tables:
            text = _TABLE_ROW.sub("", text)
        for pattern, by in _RULES:
            text = pattern.sub(by, text)
        return html.unescape(text).replace("\xa0", " ")

    def handle_interruption(self) -> None:
        self._in_code = False

    def reset_interruption(self) -> None:
        """The next text is another answer's."""
