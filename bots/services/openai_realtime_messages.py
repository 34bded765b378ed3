"""What is said to OpenAI's Realtime API, as values: sessions, items, and the names of its events.

The API had a beta, whose sessions and events others still speak: an event is taken by either of its names, a session
is written in one form or the other.

Source: platform.openai.com/docs/api-reference, "Realtime: client events" and "server events"; for the beta the same
pages of 2024 ("OpenAI-Beta: realtime=v1").
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bots.context.context import LLMSpecificMessage, text_of
from bots.context.tools import FunctionSchema
from media.metrics import LLMTokenUsage

Json = dict[str, Any]

COMMIT = '{"type":"input_audio_buffer.commit"}'
CLEAR = '{"type":"input_audio_buffer.clear"}'

PCM_RATE = 24000  # Hz, where it is not the telephone's mu-law

# Names of the beta -> names since.
OF_THE_BETA: Mapping[str, str] = {
    "response.audio.delta": "response.output_audio.delta",
    "response.audio.done": "response.output_audio.done",
    "response.audio_transcript.delta": "response.output_audio_transcript.delta",
    "response.audio_transcript.done": "response.output_audio_transcript.done",
    "response.text.delta": "response.output_text.delta",
    "conversation.item.created": "conversation.item.added",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a session is asked to be. `options` are the API's own keys, over all else, table by table."""

    instructions: str = ""
    voice: str = "marin"
    ulaw: bool = True  # 8 kHz mu-law both ways, else 16-bit PCM at PCM_RATE
    transcription: Json | None = None  # of the caller
    turns: Json | None = None  # None: the client says where they end
    tools: Sequence[FunctionSchema] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def update(self, *, beta: bool) -> str:
        """session.update; its event_id is "session"."""
        body = joined(self._beta() if beta else self._body(), self.options)
        return json.dumps({"type": "session.update", "event_id": "session", "session": body})

    def _body(self) -> Json:
        wire = {"type": "audio/pcmu"} if self.ulaw else {"type": "audio/pcm", "rate": PCM_RATE}
        heard = {"format": wire, "transcription": self.transcription, "turn_detection": self.turns}
        audio = {"input": heard, "output": {"format": wire, "voice": self.voice}}
        return {"type": "realtime", "output_modalities": ["audio"], "audio": audio, **self._common()}

    def _beta(self) -> Json:
        wire = "g711_ulaw" if self.ulaw else "pcm16"
        return {
            "modalities": ["audio", "text"],
            "voice": self.voice,
            "input_audio_format": wire,
            "output_audio_format": wire,
            "input_audio_transcription": self.transcription,
            "turn_detection": self.turns,
            **self._common(),
        }

    def _common(self) -> Json:
        tools = [
            {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters}
            for tool in self.tools
        ]
        said = {"instructions": self.instructions} if self.instructions else {}
        return {**said, "tools": tools, "tool_choice": "auto"}


def joined(table: Mapping[str, Any], over: Mapping[str, Any]) -> Json:
    """`over` in `table`, table by table."""
    result = dict(table)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        result[key] = joined(below, value) if both else value  # type: ignore[arg-type]
    return result


# ---------------------------------------------------------------- items of a conversation


def create(item: Json) -> str:
    return json.dumps({"type": "conversation.item.create", "item": item})


def message(role: str, text: str, *, beta: bool) -> str:
    """A message of the conversation as text, of whichever side."""
    kind = "input_text" if role != "assistant" else "text" if beta else "output_text"
    return create({"type": "message", "role": role, "content": [{"type": kind, "text": text}]})


def result(call_id: str, output: str) -> str:
    """What has come of a function."""
    return create({"type": "function_call_output", "call_id": call_id, "output": output})


def conversation(messages: Iterable[Any], *, beta: bool) -> list[str]:
    """All of a context but its instruction, for a session that knows nothing of it."""
    items: list[str] = []
    for each in messages:
        if isinstance(each, LLMSpecificMessage) or each.get("role") in ("system", "developer"):
            continue
        for call in each.get("tool_calls") or ():
            function = call.get("function") or {}
            named = {"name": function.get("name"), "arguments": function.get("arguments") or "{}"}
            items.append(create({"type": "function_call", "call_id": call.get("id"), **named}))
        if each.get("role") == "tool":
            items.append(result(each.get("tool_call_id"), text_of(each)))
        elif text := text_of(each):
            items.append(message(each["role"], text, beta=beta))
    return items


def truncate(item_id: str, index: int, heard_ms: int) -> str:
    """The model is to know that the caller has heard no more of it."""
    event = {"type": "conversation.item.truncate", "item_id": item_id, "content_index": index, "audio_end_ms": heard_ms}
    return json.dumps(event)


# ---------------------------------------------------------------- what it tells


def usage(counted: Mapping[str, Any]) -> LLMTokenUsage:
    details = counted.get("input_token_details") or {}
    return LLMTokenUsage(
        prompt_tokens=counted.get("input_tokens") or 0,
        completion_tokens=counted.get("output_tokens") or 0,
        total_tokens=counted.get("total_tokens") or 0,
        cache_read_input_tokens=details.get("cached_tokens"),
    )


def problem(error: Any) -> str:
    """Of an error event, or of a response that has failed."""
    error = error if isinstance(error, dict) else {}
    words = str(error.get("message") or error.get("type") or "no reason given")[:300]
    code = error.get("code")
    return f"{code}: {words}" if code else words
