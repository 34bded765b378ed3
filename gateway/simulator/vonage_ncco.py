"""What Vonage takes: NCCOs and the bodies of REST requests, each field checked. Raises what `refuse` raises.

Source: Vonage Voice API, "NCCO reference" and API reference; Video API, "Audio Connector".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

JsonObject = dict[str, Any]
Refuse = Callable[..., NoReturn]  # (rule, detail="")
CheckUrl = Callable[[str, Sequence[str], str], None]  # (url, schemes, rule)

RATES = (8000, 16000, 24000)
MAX_HEADERS = 512
RESERVED = frozenset({"event", "content-type", "action", "digit", "duration", "payload"})
IDLE = frozenset({"record", "conversation", "stream", "input", "wait", "transfer"})  # taken, and not played here

NCCO = "an NCCO is a JSON array of actions"
ACTION = "an action has its documented fields only"
SOCKET = "the endpoint is a WebSocket that Vonage can open"
HEADERS = f"headers are a flat object of at most {MAX_HEADERS} bytes, none of them reserved"
FOLLOWED = "what follows the connect of a socket is carried out as soon as the socket is up"

_NUMBER = re.compile(r"[0-9]{3,15}")
_CONTENT_TYPE = re.compile(r"audio/l16;rate=(8000|16000|24000)")
_FIELDS: Mapping[str, frozenset[str]] = {
    "talk": frozenset({"action", "text", "language", "style", "bargeIn", "loop", "level", "premium"}),
    "notify": frozenset({"action", "payload", "eventUrl", "eventMethod"}),
    "connect": frozenset(
        {"action", "endpoint", "from", "randomFromNumber", "eventType", "timeout", "limit", "machineDetection"}
    )
    | frozenset({"advancedMachineDetection", "eventUrl", "eventMethod", "ringbackTone"}),
}
_ENDPOINTS: Mapping[str, frozenset[str]] = {
    "websocket": frozenset({"type", "uri", "content-type", "headers", "authorization"}),
    "phone": frozenset({"type", "number", "dtmfAnswer", "onAnswer"}),
    "sip": frozenset({"type", "uri", "headers"}),
}
_DETECTION_MODES = ("detect", "detect_beep", "default")


class Checks:
    """As strict as Vonage; `refuse` says what it would not take."""

    def __init__(self, refuse: Refuse, check_url: CheckUrl) -> None:
        self._refuse, self._check_url = refuse, check_url

    # ------------------------------------------------------------ NCCO

    def ncco(self, value: Any) -> list[JsonObject]:
        if not isinstance(value, list):
            self._refuse(NCCO, f"JSON {type(value).__name__}")
        for action in value:
            self._action(action)
        return value

    def _action(self, action: Any) -> None:
        kind = action.get("action") if isinstance(action, dict) else None
        if kind in IDLE:
            return
        if not isinstance(kind, str) or kind not in _FIELDS:
            self._refuse(NCCO, "Syntax error in NCCO. Invalid value type or action.")
        self._only(action, _FIELDS[kind], ACTION)
        match kind:
            case "talk":
                if not isinstance(action.get("text"), str) or not action["text"].strip():
                    self._refuse("talk has a text")
                if not isinstance(action.get("bargeIn", False), bool) or type(action.get("style", 0)) is not int:
                    self._refuse(ACTION, "style is a number, bargeIn true or false")
            case "notify":
                if not isinstance(action.get("payload"), dict):
                    self._refuse("notify has a payload, which is an object")
                self._urls(action, "eventUrl", required=True)
            case "connect":
                self._connect(action)

    def _connect(self, action: JsonObject) -> None:
        endpoints = action.get("endpoint")
        if not isinstance(endpoints, list) or len(endpoints) != 1 or not isinstance(endpoints[0], dict):
            self._refuse("connect has exactly one endpoint, in an array")
        if "from" in action and "randomFromNumber" in action:
            self._refuse("from or randomFromNumber, not both")
        if "from" in action:
            self.number(action["from"], "from")
        if action.get("eventType", "synchronous") != "synchronous":
            self._refuse("eventType is synchronous")
        self._urls(action, "eventUrl")
        self._seconds(action, "limit", 1, 7200)
        self._seconds(action, "timeout", 1, 7200)
        self._endpoint(endpoints[0])

    def _endpoint(self, endpoint: JsonObject) -> None:
        kind = endpoint.get("type")
        if not isinstance(kind, str) or kind not in _ENDPOINTS:
            self._refuse("an endpoint is of type websocket, phone or sip")
        self._only(endpoint, _ENDPOINTS[kind], "an endpoint has its documented fields only")
        if kind == "phone":
            self.number(endpoint.get("number"), "number")
        elif kind == "sip":
            self.sip(endpoint.get("uri"))
        else:
            self.socket_url(endpoint.get("uri"))
            if not _CONTENT_TYPE.fullmatch(str(endpoint.get("content-type"))):
                self._refuse("content-type is audio/l16;rate=8000, 16000 or 24000")
            self.headers(endpoint.get("headers", {}))
            self._authorization(endpoint.get("authorization", {"type": "vonage"}))

    def _authorization(self, value: Any) -> None:
        kind = value.get("type") if isinstance(value, dict) else None
        wanted = {"vonage": {"type"}, "custom": {"type", "value"}}.get(str(kind))
        if wanted is None or set(value) != wanted or not isinstance(value.get("value", ""), str):
            self._refuse("authorization is of type vonage, or custom with a value")

    # ------------------------------------------------------------ REST

    def order(self, value: Any) -> JsonObject:
        """`POST /v1/calls`."""
        once = frozenset({"to", "from", "random_from_number", "ncco", "answer_url", "answer_method"})
        body = self._object(
            value,
            once
            | {"event_url", "event_method", "machine_detection", "advanced_machine_detection"}
            | {"length_timer", "ringing_timer"},
        )
        to = body.get("to")
        if not isinstance(to, list) or len(to) != 1 or not isinstance(to[0], dict):
            self._refuse("to is an array of one endpoint", "to")
        if to[0].get("type") == "sip":
            self.sip(to[0].get("uri"))
        elif to[0].get("type") == "phone":
            self.number(to[0].get("number"), "to")
        else:
            self._refuse("to is a phone or a sip endpoint", "to")
        if ("from" in body) == (body.get("random_from_number") is True):
            self._refuse("from, or random_from_number true", "from")
        if "from" in body:
            if not isinstance(body["from"], dict) or body["from"].get("type") != "phone":
                self._refuse("from is a phone", "from")
            self.number(body["from"].get("number"), "from")
        if ("ncco" in body) == ("answer_url" in body):
            self._refuse("ncco or answer_url", "answer_url")
        if "ncco" in body:
            self.ncco(body["ncco"])
        self._urls(body, "answer_url")
        self._urls(body, "event_url")
        for name in ("answer_method", "event_method"):
            if body.get(name, "GET") not in ("GET", "POST"):
                self._refuse(f"{name} is GET or POST", name)
        self._seconds(body, "ringing_timer", 1, 120)
        self._seconds(body, "length_timer", 1, 86400)
        self._detection(body)
        return body

    def _detection(self, body: JsonObject) -> None:
        if "machine_detection" in body and "advanced_machine_detection" in body:
            self._refuse("one kind of machine detection")
        if body.get("machine_detection", "continue") not in ("continue", "hangup"):
            self._refuse("machine_detection is continue or hangup", "machine_detection")
        advanced = body.get("advanced_machine_detection")
        if advanced is None:
            return
        fields = self._object(advanced, {"behavior", "mode", "beep_timeout"})
        modes = fields.get("mode", "detect") in _DETECTION_MODES
        if fields.get("behavior", "continue") not in ("continue", "hangup") or not modes:
            self._refuse("advanced_machine_detection has a behavior and a mode", "advanced_machine_detection")
        self._seconds(fields, "beep_timeout", 45, 120)

    def connector(self, value: Any) -> JsonObject:
        """`POST .../connect`: gives `websocket`."""
        body = self._object(value, {"sessionId", "token", "websocket"})
        for name in ("sessionId", "token"):
            if not isinstance(body.get(name), str) or not body[name]:
                self._refuse(f"{name} is a string", name)
        allowed = {"uri", "streams", "headers", "audioRate", "bidirectional", "audioTransport"}
        socket = self._object(body.get("websocket"), allowed)
        self.socket_url(socket.get("uri"))
        if not 15 <= len(socket["uri"]) <= 2048:
            self._refuse("a URI has 15 to 2048 characters", "uri")
        self.headers(socket.get("headers", {}))
        if socket.get("audioRate", 16000) not in RATES:
            self._refuse("audioRate is 8000, 16000 or 24000", "audioRate")
        streams = socket.get("streams", ["all"])
        if not isinstance(streams, list) or not 1 <= len(streams) <= 50 or not all(map(_is_name, streams)):
            self._refuse("streams is an array of ids", "streams")
        return socket

    # ------------------------------------------------------------ pieces

    def number(self, value: Any, name: str) -> None:
        if not isinstance(value, str) or not _NUMBER.fullmatch(value):
            self._refuse("a number is digits alone", name)

    def sip(self, value: Any) -> None:
        if not isinstance(value, str) or not re.fullmatch(r"sips?:[^\s@]+@\S+", value):
            self._refuse("a SIP URI", "uri")

    def socket_url(self, value: Any) -> None:
        if not isinstance(value, str):
            self._refuse(SOCKET, "uri")
        self._check_url(value, ("wss",), SOCKET)

    def headers(self, value: Any) -> None:
        flat = isinstance(value, dict) and all(isinstance(one, str | int | float) for one in value.values())
        if not flat or len(json.dumps(value).encode()) > MAX_HEADERS or RESERVED & set(value):
            self._refuse(HEADERS, f"{len(value)} of them" if isinstance(value, dict) else type(value).__name__)

    def _urls(self, fields: JsonObject, name: str, *, required: bool = False) -> None:
        urls = fields.get(name)
        if urls is None and not required:
            return
        if not isinstance(urls, list) or len(urls) != 1 or not isinstance(urls[0], str):
            self._refuse(f"{name} is an array of one URL", name)
        self._check_url(urls[0], ("https",), f"{name} is an absolute URL")

    def _seconds(self, fields: JsonObject, name: str, least: int, most: int) -> None:
        value = fields.get(name, least)
        if type(value) is not int or not least <= value <= most:
            self._refuse(f"{name} is {least} to {most} seconds", name)

    def _object(self, value: Any, allowed: set[str] | frozenset[str]) -> JsonObject:
        if not isinstance(value, dict):
            self._refuse("the body is a JSON object", type(value).__name__)
        fields: JsonObject = value
        self._only(fields, allowed, "a request has its documented fields only")
        return fields

    def _only(self, value: JsonObject, allowed: set[str] | frozenset[str], rule: str) -> None:
        if unknown := sorted(value.keys() - allowed):
            self._refuse(rule, ", ".join(unknown)[:80])


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
