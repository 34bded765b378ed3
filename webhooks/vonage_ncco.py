"""The documents that answer Vonage's webhooks (NCCO: a JSON array of actions).

Source: Vonage Voice API, "NCCO reference". Nothing stands behind the `connect` of a socket: it would be carried out
as soon as the socket is up. What follows the socket is asked for by its events instead.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

from webhooks.base import HttpAnswer, InboundCall

log = logging.getLogger(__name__)

Ncco = Sequence[Mapping[str, Any]]

MAX_HEADERS = 512  # bytes of JSON
CALL, DATA = "gw_call", "gw_data"  # two keys that collide with none of the wire's own

BUSY = "All our lines are busy. Please call again later."
REJECTED = "This call cannot be taken. Goodbye."
APOLOGY = "We are sorry, there is a technical problem. Please call again later."

_NUMBER = re.compile(r"\+?([0-9]{3,15})")
_FILLING = re.compile(r"[ ().-]")


def document(ncco: Ncco) -> HttpAnswer:
    body = json.dumps(ncco, separators=(",", ":")).encode()
    return HttpAnswer(body=body, content_type="application/json")


def digits_of(number: str) -> str:
    """A number as Vonage writes it: digits alone. Empty for what is no number."""
    match = _NUMBER.fullmatch(_FILLING.sub("", number))
    return match[1] if match else ""


def e164(number: str) -> str:
    """A number of Vonage's as everybody else writes it; what is no number ("anonymous", a SIP URI) stays."""
    return f"+{number}" if number.isascii() and number.isdigit() and 7 <= len(number) <= 15 else number


def headers(call_id: str, parameters: Mapping[str, str]) -> dict[str, str]:
    """What `websocket:connected` and the socket's events are to hand back. Parameters that do not fit are left out."""
    fitting: list[tuple[str, str]] = []
    for name, value in parameters.items():
        longer = [*fitting, (name, str(value))]
        if len(json.dumps({CALL: call_id, DATA: _packed(longer)})) <= MAX_HEADERS:
            fitting = longer
        else:
            log.warning("vonage: the parameter %.40s does not fit into %d bytes of headers", name, MAX_HEADERS)
    return {CALL: call_id, DATA: _packed(fitting)} if fitting else {CALL: call_id}


def parameters(echoed: Mapping[str, Any]) -> dict[str, str]:
    """The parameters in headers that were handed back."""
    data = echoed.get(DATA)
    return dict(parse_qsl(data, keep_blank_values=True)) if isinstance(data, str) else {}


def _packed(pairs: Sequence[tuple[str, str]]) -> str:
    return urlencode(pairs, errors="replace")


def connect(
    media_url: str,
    *,
    our_number: str,
    sample_rate: int,
    headers: Mapping[str, str],
    event_url: str,
    signed_handshake: bool,
) -> Ncco:
    """The call's other party is our media socket. Its events are synchronous: they may be answered with an NCCO."""
    endpoint: dict[str, Any] = {
        "type": "websocket",
        "uri": media_url,
        "content-type": f"audio/l16;rate={sample_rate}",
        "headers": headers,
    }
    if signed_handshake:
        endpoint["authorization"] = {"type": "vonage"}
    action: dict[str, Any] = {"action": "connect"}
    if number := digits_of(our_number):
        action["from"] = number
    action |= {"eventType": "synchronous", "eventUrl": [event_url], "eventMethod": "POST", "endpoint": [endpoint]}
    return [action]


def talk(text: str, language: str) -> Ncco:
    """Say something; then the document is at its end, and with it the call."""
    return [{"action": "talk", "text": text, "language": language, "style": 0, "bargeIn": False}]


def hand_over(target: str, our_number: str) -> Ncco | None:
    """Put the caller through to a number or a SIP address. None: it is neither."""
    endpoint: dict[str, str]
    if target.lower().startswith(("sip:", "sips:")):
        endpoint = {"type": "sip", "uri": target}
    elif number := digits_of(target.removeprefix("tel:")):
        endpoint = {"type": "phone", "number": number}
    else:
        return None
    ours = digits_of(our_number)
    shown: dict[str, Any] = {"from": ours} if ours else {"randomFromNumber": True}
    return [{"action": "connect", **shown, "endpoint": [endpoint]}]


def elsewhere(call: InboundCall, answer_url: str, language: str) -> Ncco:
    """Ask another gateway for the document: `notify` hands it what the answer webhook said, and takes its NCCO.

    If it has none, the caller hears that we are busy.
    """
    payload = {
        "from": call.from_number.removeprefix("+"),
        "to": call.to_number.removeprefix("+"),
        "uuid": call.call_id,
        "conversation_uuid": call.extra.get("conversation_uuid", ""),
        "region_url": call.extra.get("region_url", ""),
        "custom_data": dict(call.parameters),
    }
    notify = {"action": "notify", "payload": payload, "eventUrl": [answer_url], "eventMethod": "POST"}
    return [notify, *talk(BUSY, language)]
