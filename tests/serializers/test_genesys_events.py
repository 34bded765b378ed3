"""What a bot tells Genesys in the middle of a session."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bots.base import Call
from gateway.simulator.base import CallPlan, ProtocolViolation
from gateway.simulator.genesys import FakeGenesys
from media.frames import OutputTransportMessageUrgentFrame
from serializers.genesys_events import agent_assist, bot_turn, entity, transcript
from tests.gateway.virtual import VirtualCall


def told(*frames: OutputTransportMessageUrgentFrame, session: str = "monitor") -> list[dict[str, Any]]:
    """What reaches a strict Genesys of them, in a whole call."""
    calls: list[Call] = []

    def build(call: Call) -> tuple[()]:
        calls.append(call)
        return ()

    virtual = VirtualCall("genesys", build, plan=CallPlan(options={"session": session}))
    virtual.run(0.5)
    for frame in frames:
        calls[0].inject(frame)
    virtual.run(0.5)
    assert isinstance(virtual.fake, FakeGenesys)
    assert not virtual.fake.violations
    return virtual.fake.server_events


def test_transcripts_of_both_voices() -> None:
    first, second = told(
        transcript("My bill", offset_s=12.4, duration_s=0.75, final=False, confidence=0.5, language="en-US", id="u-1"),
        transcript("Let me see.", voice="agent"),
    )
    assert first == {
        "type": "transcript",
        "data": {
            "id": "u-1",
            "channelId": 0,
            "isFinal": False,
            "offset": "PT12.4S",
            "duration": "PT0.75S",
            "alternatives": [
                {
                    "confidence": 0.5,
                    "languages": ["en-US"],
                    "interpretations": [{"type": "display", "transcript": "My bill"}],
                }
            ],
        },
    }
    assert second["data"]["channelId"] == 1
    assert second["data"]["isFinal"] is True
    assert second["data"]["offset"] == "PT0S"
    assert len(second["data"]["id"]) == 36


def test_agent_assist_and_turns() -> None:
    assert told(agent_assist({"hint": "x"}), entity("agentassist", {})) == [
        {"type": "agentassist", "data": {"hint": "x"}},
        {"type": "agentassist", "data": {}},
    ]
    assert told(bot_turn("match", "bill", 0.9), bot_turn("no_input"), session="connector") == [
        {"type": "bot_turn_response", "data": {"disposition": "match", "text": "bill", "confidence": 0.9}},
        {"type": "bot_turn_response", "data": {"disposition": "no_input"}},
    ]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"voice": "external"}, "customer, agent"),
        ({"offset_s": -1.0}, "0 or more"),
        ({"duration_s": float("nan")}, "0 or more"),
        ({"confidence": 90.0}, "0 to 1"),
    ],
)
def test_what_a_transcript_cannot_be(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        transcript("x", **wrong)


@pytest.mark.parametrize("changes", [{"channelId": 2}, {"offset": "1.5"}, {"alternatives": [{}]}, {"words": []}])
def test_the_fake_refuses_a_transcript_of_another_shape(changes: dict[str, Any]) -> None:
    fake = FakeGenesys(CallPlan(options={"session": "monitor"}))
    fake.opening(0.0)
    envelope = {"version": "2", "id": fake.session_id, "clientseq": 1}
    opened = {**envelope, "type": "opened", "seq": 1, "parameters": {"media": fake.media[:1]}}
    fake.receive(json.dumps(opened), 0.1)
    message: Any = transcript("x").message
    data = {**message["parameters"]["entities"][0]["data"], **changes}
    parameters = {"entities": [{"type": "transcript", "data": data}]}
    with pytest.raises(ProtocolViolation, match="a transcript has its documented fields"):
        fake.receive(json.dumps({**envelope, "type": "event", "seq": 2, "parameters": parameters}), 0.2)
