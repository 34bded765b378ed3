"""What a call at the fake Telnyx has been told, and what both of its control planes share."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from xml.etree.ElementTree import Element

from gateway.simulator.base import CallPlan
from gateway.simulator.web import RestReply


@dataclass(slots=True)
class Told:
    """What one call has been told."""

    verbs: list[Element] = field(default_factory=list)  # TeXML still to run
    next: list[tuple[str, str]] = field(default_factory=list)  # of a REST update, for when the stream is over
    stream_status: tuple[str, str] | None = None
    status_url: str = ""
    events: frozenset[str] = frozenset({"completed"})
    url: tuple[str, str] | None = None  # of a call that REST placed
    detection: str = ""
    client_state: str | None = None
    webhook_url: str = ""  # of a call that REST placed by Call Control
    stream: CallPlan | None = None  # with which the stream starts when the call is answered
    stream_url: str = ""
    commands: dict[str, float] = field(default_factory=dict)  # ids, and when they came
    sequence: int = 0
    refused: bool = False  # the first webhook was not taken: nobody is there


def iso(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def error(status: int, code: str, title: str) -> RestReply:
    meta = {"url": f"https://developers.telnyx.com/docs/overview/errors/{code}"}
    return RestReply.of(status, {"errors": [{"code": code, "title": title, "detail": title, "meta": meta}]})


def is_base64(text: Any) -> bool:
    try:
        return isinstance(text, str) and bool(base64.b64decode(text, validate=True))
    except ValueError:
        return False
