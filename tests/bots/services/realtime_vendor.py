"""OpenAI's Realtime API on loopback, as strict as it is documented: what it does not know it answers with an error.

Events have the names of the API as it is, or of its beta.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from tests.bots.services.socket_vendor import SocketVendor, say
from tests.bots.services.vendor import NAME

BETA = {
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
}
CLIENT_EVENTS: Mapping[str, frozenset[str]] = {  # with the keys that each must have
    "session.update": frozenset({"session"}),
    "input_audio_buffer.append": frozenset({"audio"}),
    "input_audio_buffer.commit": frozenset(),
    "input_audio_buffer.clear": frozenset(),
    "conversation.item.create": frozenset({"item"}),
    "conversation.item.truncate": frozenset({"item_id", "content_index", "audio_end_ms"}),
    "response.create": frozenset(),
    "response.cancel": frozenset(),
}


@dataclass
class Answer:
    """What the model makes of a turn: speech, functions, or its own failure."""

    text: str = ""
    audio_ms: int = 0
    calls: Sequence[tuple[str, str]] = ()  # name and arguments
    error: Mapping[str, Any] | None = None
    pieces: int = 2  # of audio
    hold: asyncio.Event | None = None  # waited for behind the first of them
    before: asyncio.Event | None = None  # ... before anything
    breaks: bool = False  # the line does, behind the first piece


@dataclass
class Conversation:
    """One connection's: what the server knows."""

    session: dict[str, Any] | None = None
    buffer: bytearray = field(default_factory=bytearray)
    heard: list[bytes] = field(default_factory=list)  # audio of each turn
    items: list[dict[str, Any]] = field(default_factory=list)  # that were created by the client
    cut: list[tuple[str, int]] = field(default_factory=list)
    made_ms: dict[str, int] = field(default_factory=dict)  # of the model's items
    active: str = ""
    task: asyncio.Task[None] | None = None
    created: int = 0
    cancelled: int = 0


class RealtimeVendor(SocketVendor):
    """Answers turn by turn with `answers`; `words` are the transcripts of what it hears."""

    def __init__(
        self, *answers: Answer, words: Sequence[str] = (), beta: bool = False, ulaw: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(self._take, **kwargs)
        self.answers, self.words = list(answers), list(words)
        self.beta, self.ulaw = beta, ulaw
        self.talks: list[Conversation] = []
        self.errors: list[str] = []  # that were told the client
        self.reject_session = ""
        self._ids = itertools.count(1)

    @property
    def talk(self) -> Conversation:
        return self.talks[-1]

    async def _talk(self, connection: ServerConnection) -> None:
        self.talks.append(Conversation())
        await self._tell(connection, "session.created", session={"object": "realtime.session"})
        try:
            await super()._talk(connection)
        finally:
            if (task := self.talks[self.connections.index(connection)].task) is not None:
                task.cancel()

    async def _tell(self, connection: ServerConnection, kind: str, **fields: Any) -> None:
        name = BETA.get(kind, kind) if self.beta else kind
        await say(connection, {"type": name, "event_id": f"event_{next(self._ids)}", **fields})

    async def refuse(self, connection: ServerConnection, code: str, event: Mapping[str, Any], **fields: Any) -> None:
        self.errors.append(code)
        error = {"type": "invalid_request_error", "code": code, "message": f"no: {code}", "param": None}
        await self._tell(connection, "error", error={**error, "event_id": event.get("event_id"), **fields})

    # ------------------------------------------------------------ what a client may say

    async def _take(self, connection: ServerConnection, event: Any) -> None:
        talk = self.talks[self.connections.index(connection)]
        keys = CLIENT_EVENTS.get(event.get("type"))
        if keys is None or not keys <= event.keys():
            await self.refuse(connection, "invalid_event", event)
        elif talk.session is None and event["type"] != "session.update":
            raise AssertionError(f"{event['type']} before session.update")
        else:
            handle: Callable[..., Any] = getattr(self, "_on_" + event["type"].replace(".", "_"))
            await handle(connection, talk, event)

    async def _on_session_update(self, connection: ServerConnection, talk: Conversation, event: Any) -> None:
        talk.session = session = event["session"]
        if self.reject_session:
            await self.refuse(connection, self.reject_session, event)
            return
        if self.beta:
            wire = "g711_ulaw" if self.ulaw else "pcm16"
            assert session["input_audio_format"] == session["output_audio_format"] == wire
            assert not {"audio", "type"} & session.keys()
        else:
            wire_ga = {"type": "audio/pcmu"} if self.ulaw else {"type": "audio/pcm", "rate": 24000}
            assert (session["type"], session["output_modalities"]) == ("realtime", ["audio"])
            assert session["audio"]["input"]["format"] == session["audio"]["output"]["format"] == wire_ga
        await self._tell(connection, "session.updated", session=session)

    async def _on_input_audio_buffer_append(self, connection: ServerConnection, talk: Conversation, event: Any) -> None:
        talk.buffer += base64.b64decode(event["audio"], validate=True)

    async def _on_input_audio_buffer_commit(self, connection: ServerConnection, talk: Conversation, event: Any) -> None:
        if len(talk.buffer) < (800 if self.ulaw else 4800):  # 100 ms
            await self.refuse(connection, "input_audio_buffer_commit_empty", event)
            return
        await self.heard(connection, talk)

    async def heard(self, connection: ServerConnection, talk: Conversation) -> None:
        """The buffer becomes a message of the caller's."""
        item = f"item_{next(self._ids)}"
        talk.heard.append(bytes(talk.buffer))
        talk.buffer.clear()
        await self._tell(connection, "input_audio_buffer.committed", item_id=item, previous_item_id=None)
        if self.words:
            done = "conversation.item.input_audio_transcription.completed"
            await self._tell(connection, done, item_id=item, content_index=0, transcript=self.words.pop(0))

    async def _on_input_audio_buffer_clear(self, connection: ServerConnection, talk: Conversation, event: Any) -> None:
        talk.buffer.clear()

    async def _on_conversation_item_create(self, connection: ServerConnection, talk: Conversation, event: Any) -> None:
        item = event["item"]
        if item["type"] == "message":
            kinds = {"user": "input_text", "assistant": "text" if self.beta else "output_text"}
            assert [part["type"] for part in item["content"]] == [kinds[item["role"]]]
        else:
            assert item["type"] in ("function_call", "function_call_output")
            assert item["call_id"]
        talk.items.append(item)

    async def _on_conversation_item_truncate(
        self, connection: ServerConnection, talk: Conversation, event: Any
    ) -> None:
        item, end_ms = event["item_id"], event["audio_end_ms"]
        if item not in talk.made_ms or not 0 <= end_ms <= talk.made_ms[item]:
            await self.refuse(connection, "invalid_value", event)
            return
        talk.cut.append((item, end_ms))
        fields = {"item_id": item, "content_index": event["content_index"], "audio_end_ms": end_ms}
        await self._tell(connection, "conversation.item.truncated", **fields)

    async def _on_response_create(self, connection: ServerConnection, talk: Conversation, event: Any) -> None:
        if talk.active:
            await self.refuse(connection, "conversation_already_has_active_response", event)
            return
        await self.respond(connection, talk)

    async def respond(self, connection: ServerConnection, talk: Conversation) -> None:
        talk.created += 1
        talk.active = f"resp_{next(self._ids)}"
        answer = self.answers.pop(0) if self.answers else Answer("Hm.", 200)
        talk.task = asyncio.create_task(self._respond(connection, talk, talk.active, answer), name=NAME)

    async def _on_response_cancel(self, connection: ServerConnection, talk: Conversation, event: Any) -> None:
        if not talk.active or event.get("response_id", talk.active) != talk.active:
            await self.refuse(connection, "response_cancel_not_active", event)
            return
        await self.cancel(connection, talk)

    async def cancel(self, connection: ServerConnection, talk: Conversation) -> None:
        assert talk.task is not None
        talk.cancelled += 1
        talk.task.cancel()
        response, talk.active = talk.active, ""
        told = {"id": response, "status": "cancelled", "status_details": {"reason": "client_cancelled"}, "output": []}
        await self._tell(connection, "response.done", response=told)

    # ------------------------------------------------------------ what the model says

    async def _respond(self, connection: ServerConnection, talk: Conversation, response: str, answer: Answer) -> None:
        try:
            await self._say(connection, talk, response, answer)
        except ConnectionClosed:
            return

    async def _say(self, connection: ServerConnection, talk: Conversation, response: str, answer: Answer) -> None:
        await self._tell(connection, "response.created", response={"id": response, "status": "in_progress"})
        if answer.before is not None:
            await answer.before.wait()
        if answer.error is not None:
            talk.active = ""
            details = {"type": "failed", "error": answer.error}
            told = {"id": response, "status": "failed", "status_details": details, "output": []}
            await self._tell(connection, "response.done", response=told)
            return
        output: list[dict[str, Any]] = []
        if answer.audio_ms:
            output.append(await self._speak(connection, talk, response, answer))
        for name, arguments in answer.calls:
            call = f"call_{next(self._ids)}"
            item = {"id": f"item_{next(self._ids)}", "type": "function_call", "name": name, "call_id": call}
            output.append({**item, "arguments": arguments})
        talk.active = ""
        usage = {"total_tokens": 30, "input_tokens": 20, "output_tokens": 10, "input_token_details": {}}
        told = {"id": response, "status": "completed", "output": output, "usage": usage}
        await self._tell(connection, "response.done", response=told)

    async def _speak(
        self, connection: ServerConnection, talk: Conversation, response: str, answer: Answer
    ) -> dict[str, Any]:
        item = f"item_{next(self._ids)}"
        at = {"response_id": response, "item_id": item, "output_index": 0, "content_index": 0}
        each_ms = answer.audio_ms // answer.pieces
        half = len(answer.text) // 2
        for number in range(answer.pieces):
            talk.made_ms[item] = talk.made_ms.get(item, 0) + each_ms
            text = answer.text[:half] if number == 0 else answer.text[half:] if number == 1 else ""
            if text:
                await self._tell(connection, "response.output_audio_transcript.delta", delta=text, **at)
            sound = b"\x20" * (8 * each_ms) if self.ulaw else b"\x00\x10" * (24 * each_ms)
            delta = base64.b64encode(sound).decode()
            await self._tell(connection, "response.output_audio.delta", delta=delta, **at)
            if number == 0 and answer.breaks:
                await connection.close(1011)
            if number == 0 and answer.hold is not None:
                await answer.hold.wait()
        await self._tell(connection, "response.output_audio.done", **at)
        await self._tell(connection, "response.output_audio_transcript.done", transcript=answer.text, **at)
        content = [{"type": "output_audio", "transcript": answer.text}]
        message = {"id": item, "type": "message", "role": "assistant", "content": content}
        await self._tell(connection, "response.output_item.done", response_id=response, output_index=0, item=message)
        return message


def said_items(talk: Conversation) -> list[tuple[str, str]]:
    """Role and text of the messages that the client has created."""
    return [
        (item["role"], "".join(part["text"] for part in item["content"]))
        for item in talk.items
        if item["type"] == "message"
    ]


def results(talk: Conversation) -> list[Any]:
    """What the client has told of functions."""
    return [json.loads(item["output"]) for item in talk.items if item["type"] == "function_call_output"]
