"""The demo's conversation: a caller talks with the sample's agent, and its record says what was understood."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from gateway.simulator.report import CallReport
from gateway.simulator.script import Say, Script, Voice, after_bot

AGENT: Final = "+15550103"
SAYS: Final = ("When are you open?", "Where are you?", "Goodbye.")
VOICE: Final = "en-us+f3"
RECORD_S: Final = 10.0  # for the record to be complete


@dataclass(frozen=True, slots=True)
class Talk:
    """What a call's record says of a conversation."""

    transcript: Sequence[Mapping[str, Any]]  # t, who, text
    counters: Mapping[str, int]

    def lines(self) -> Iterator[str]:
        for line in self.transcript:
            yield f"{line['t']:7.1f} s  {line['who']:<6}  {line['text']}"
        waited, thought = (self.counters.get(name, 0) / 1000 for name in ("answer_ms", "answer_turn_end_ms"))
        yield f"answers came {waited:.2f} s after the caller's last word, {thought:.2f} s of it to be sure that it was"

    def wrong(self, report: CallReport) -> Iterator[str]:
        yield from report.problems
        if report.ended_by != "bot":
            yield f"ended by {report.ended_by}, not by the agent"
        understood = [line["text"] for line in self.transcript if line["who"] == "caller"]
        if understood != [text.strip(".?").lower() for text in SAYS]:
            yield f"the caller was not understood: {', '.join(understood)}"
        if self.counters.get("answers", 0) < len(SAYS):
            yield "not every question was answered"


def script(rate: int) -> Script:
    """Two questions, each when the agent has had its say, and goodbye."""
    from bots.speech import speak

    said = Script()
    for text in SAYS:
        said = said.then(after_bot(1.0), Say(Voice(speak(text, VOICE, rate), rate, text)))
    return said


async def talk_of(url: str, report: CallReport) -> Talk:
    """From the call's record, when it is complete."""
    record: dict[str, Any] = {}
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=5.0) as http:
        for _ in range(round(RECORD_S / 0.1)):
            reply = await http.get(f"/api/calls/{report.carrier}/{report.call_id}")
            record = reply.json() if reply.status_code == 200 else {}
            if record.get("ended") is not None:
                break
            await asyncio.sleep(0.1)
    return Talk(record.get("transcript", ()), record.get("counters", {}))
