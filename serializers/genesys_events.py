"""What a bot may tell Genesys while a session runs: transcripts, agent assist, the outcome of a turn.

Each function gives a frame, to be pushed or injected: `call.inject(transcript("My bill is wrong.", offset_s=12.4))`.
Other carriers ignore it.

Source: Genesys Cloud developer centre, "AudioHook protocol", version "2": `event`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from uuid import uuid4

from media.frames import OutputTransportMessageUrgentFrame
from serializers import audiohook

CHANNEL_IDS = {"customer": 0, "agent": 1}  # Genesys' external and internal


def transcript(
    text: str,
    *,
    voice: str = "customer",
    offset_s: float = 0.0,
    duration_s: float = 0.0,
    final: bool = True,
    confidence: float = 1.0,
    language: str = "",
    id: str = "",
) -> OutputTransportMessageUrgentFrame:
    """What somebody has said.

    Args:
        voice: "customer" or "agent", as the `user_id` of a monitor's audio.
        offset_s, duration_s: where it stands in the session's audio.
        final: false while the recogniser may still change it.
        confidence: 0 to 1.
        language: "en-US"; empty: not said.
        id: the same for all that is said of one utterance; left out, a new one.

    Raises ValueError: no such voice, a negative time, a confidence that is none.
    """
    if voice not in CHANNEL_IDS:
        raise ValueError(f"voice is one of {', '.join(CHANNEL_IDS)}, got {voice!r}")
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence is 0 to 1, got {confidence}")
    alternative: dict[str, Any] = {
        "confidence": confidence,
        "interpretations": [{"type": "display", "transcript": text}],
    }
    if language:
        alternative["languages"] = [language]
    data = {
        "id": id or str(uuid4()),
        "channelId": CHANNEL_IDS[voice],
        "isFinal": final,
        "offset": _duration(offset_s),
        "duration": _duration(duration_s),
        "alternatives": [alternative],
    }
    return entity("transcript", data)


def agent_assist(data: Mapping[str, Any]) -> OutputTransportMessageUrgentFrame:
    """For the agent's screen; what `data` may be is between you and Genesys, which calls this experimental."""
    return entity("agentassist", data)


def bot_turn(
    disposition: Literal["match", "no_match", "no_input"], text: str = "", confidence: float | None = None
) -> OutputTransportMessageUrgentFrame:
    """For reports: how a question to the caller came out."""
    data: dict[str, Any] = {"disposition": disposition}
    if text:
        data["text"] = text
    if confidence is not None:
        data["confidence"] = confidence
    return entity("bot_turn_response", data)


def entity(kind: str, data: Mapping[str, Any]) -> OutputTransportMessageUrgentFrame:
    """An event with one entity of any kind."""
    parameters = {"entities": [{"type": kind, "data": dict(data)}]}
    return OutputTransportMessageUrgentFrame({"version": audiohook.VERSION, "type": "event", "parameters": parameters})


def _duration(seconds: float) -> str:
    """To the millisecond. ValueError: negative."""
    if not seconds >= 0:
        raise ValueError(f"a time is 0 or more, got {seconds}")
    return audiohook.format_duration(round(seconds * 1000), 1000)
