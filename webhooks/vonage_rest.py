"""What is asked of Vonage's REST interfaces, Voice and Video, and what their replies mean.

Source: Vonage API reference, "Voice API" and "Video API"; OpenTok REST API for the old projects of the latter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from webhooks import vonage_ncco
from webhooks.base import CallRef, CarrierRequest, DialOrder, Outcome, OutcomeKind, Purpose, Urls
from webhooks.replies import json_object, unsuccessful
from webhooks.targets import order_query
from webhooks.vonage_events import PHASES, is_call_id
from webhooks.vonage_ncco import Ncco

Authorize = Callable[[float], Mapping[str, str]]

VOICE = "https://api.nexmo.com"
VIDEO = "https://video.api.vonage.com"
OPENTOK = "https://api.opentok.com"

_REGIONAL = re.compile(r"api(-(us|eu|ap)(-[34])?)?\.(vonage|nexmo)\.com")
_TITLE = re.compile(r"[\w .:-]{1,60}", re.ASCII)
_LONGEST_CALL_S = 86_400


def regional_origin(url: object) -> str:
    """The REST origin that a webhook names, if it is Vonage's; else nothing. Our credentials would be sent there."""
    if not isinstance(url, str):
        return ""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    host = parts.hostname or ""
    if parts.scheme != "https" or "@" in parts.netloc or port not in (None, 443) or not _REGIONAL.fullmatch(host):
        return ""
    return f"https://{host}"


# ---------------------------------------------------------------- the Voice API


class VoiceApi:
    """Makes requests of the application whose credentials `authorize` gives. `api`: where a base is reached."""

    def __init__(self, api: Callable[[str], str], authorize: Authorize) -> None:
        self._api, self._authorize = api, authorize

    def hang_up(self, ref: CallRef) -> CarrierRequest | None:
        return self._of_call(ref, Purpose.HANG_UP, "PUT", "", json={"action": "hangup"}, repeatable=True)

    def transfer(self, ref: CallRef, ncco: Ncco) -> CarrierRequest | None:
        """The NCCO takes the place of the running one. Given twice it would begin anew: not to be repeated."""
        return self._transfer(ref, {"type": "ncco", "ncco": ncco})

    def transfer_to_url(self, ref: CallRef, url: str) -> CarrierRequest | None:
        return self._transfer(ref, {"type": "ncco", "url": [url]})

    def fetch(self, ref: CallRef) -> CarrierRequest | None:
        return self._of_call(ref, Purpose.FETCH, "GET", "", repeatable=True)

    def dial(self, order: DialOrder, urls: Urls, detection: Mapping[str, Any]) -> CarrierRequest:
        """Place a call. There is no id by which Vonage would know a repeated order: it is sent once.

        Raises ValueError for an address that Vonage does not take.
        """
        ours = vonage_ncco.digits_of(order.from_number)
        body: dict[str, Any] = {
            "to": [_callee(order.to_number)],
            **({"from": {"type": "phone", "number": ours}} if ours else {"random_from_number": True}),
            "answer_url": [urls.http("/vonage/answer" + order_query(order.command_id, {"placed": "1"}))],
            "answer_method": "POST",
            "event_url": [urls.http("/vonage/events")],
            "event_method": "POST",
            "ringing_timer": _between(order.ring_s, 1, 120),
        }
        if order.longest_s is not None:
            body["length_timer"] = _between(order.longest_s, 1, _LONGEST_CALL_S)
        if order.detect_machine:
            body |= detection
        url = self._api(VOICE) + "/v1/calls"
        return _request(Purpose.DIAL, "", "POST", url, self._authorize, json=body, timeout_s=10.0)

    def _transfer(self, ref: CallRef, destination: Mapping[str, Any]) -> CarrierRequest | None:
        body = {"action": "transfer", "destination": destination}
        return self._of_call(ref, Purpose.TRANSFER, "PUT", "", json=body)

    def _of_call(self, ref: CallRef, purpose: Purpose, method: str, below: str, **rest: Any) -> CarrierRequest | None:
        """None: the call has no id of Vonage's yet."""
        if not is_call_id(ref.call_id):
            return None
        base = self._api(regional_origin(ref.extra.get("region_url")) or VOICE)
        return _request(purpose, ref.call_id, method, f"{base}/v1/calls/{ref.call_id}{below}", self._authorize, **rest)


def _callee(address: str) -> Mapping[str, str]:
    if address.lower().startswith(("sip:", "sips:")):
        return {"type": "sip", "uri": address}
    number = vonage_ncco.digits_of(address)
    if not number:
        raise ValueError("Vonage calls a number or a SIP URI")
    return {"type": "phone", "number": number}


def _between(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


# ---------------------------------------------------------------- the Video API's Audio Connector


class VideoApi:
    """Connects sessions of one project (an application, or an old OpenTok project) to our media sockets."""

    def __init__(self, base: str, project: str, authorize: Authorize) -> None:
        self._project = f"{base}/v2/project/{quote(project, safe='')}"
        self._authorize = authorize

    def connect(self, order: DialOrder, session_token: str, sample_rate: int) -> CarrierRequest:
        """The session `order.to_number` gets a participant more: our socket, which hears the others and speaks.

        Of the parameters, `streams` (ids, with commas) says which it hears: without it all that are there now. The
        others come back in the socket's first message.

        Raises ValueError.
        """
        if not 15 <= len(order.media_url) <= 2048:
            raise ValueError("the media URL must have 15 to 2048 characters")
        given = {name: value for name, value in order.parameters.items() if name not in ("token", "streams")}
        socket: dict[str, Any] = {
            "uri": order.media_url,
            "headers": vonage_ncco.headers(order.command_id, given),
            "audioRate": sample_rate,
            "bidirectional": True,  # else what we say would be ignored
        }
        if streams := [one.strip() for one in order.parameters.get("streams", "").split(",") if one.strip()]:
            socket["streams"] = streams
        body = {"sessionId": order.to_number, "token": session_token, "websocket": socket}
        # The reply waits for our socket's handshake, for 6 s at most.
        url = f"{self._project}/connect"
        return _request(Purpose.DIAL, "", "POST", url, self._authorize, json=body, timeout_s=12.0)

    def disconnect(self, ref: CallRef) -> CarrierRequest | None:
        """None: it is not known which connection it is; closing the socket ends it too."""
        session, connection = ref.extra.get("session_id", ""), ref.extra.get("connection_id", "")
        if not session.strip(".") or not connection.strip("."):
            return None
        url = f"{self._project}/session/{quote(session, safe='')}/connection/{quote(connection, safe='')}"
        return _request(Purpose.HANG_UP, ref.call_id, "DELETE", url, self._authorize, repeatable=True)


def _request(
    purpose: Purpose, call_id: str, method: str, url: str, authorize: Authorize, **rest: Any
) -> CarrierRequest:
    return CarrierRequest(
        carrier="vonage", purpose=purpose, call_id=call_id, method=method, url=url, authorize=authorize, **rest
    )


# ---------------------------------------------------------------- replies


def outcome(request: CarrierRequest, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    reply = json_object(body)
    if 200 <= status < 300:
        return _done(request, reply, str(status))
    detail = " ".join([str(status), *_words(reply)])
    # A hang-up of a call that is over gets any of the three; a connection of a session that is gone has a 404 alone.
    over = (404,) if request.method == "DELETE" else (400, 404, 409)
    if request.purpose is Purpose.HANG_UP and status in over:
        return Outcome(kind=OutcomeKind.ALREADY_OVER, detail=detail)
    return unsuccessful(status, headers, detail)


def _done(request: CarrierRequest, reply: Mapping[str, Any], detail: str) -> Outcome:
    if request.purpose is Purpose.FETCH:
        said = reply.get("status")
        phase = PHASES.get(said) if isinstance(said, str) else None
        return Outcome(kind=OutcomeKind.DONE, detail=detail, phase=phase)
    if request.purpose is not Purpose.DIAL:
        return Outcome(kind=OutcomeKind.DONE, detail=detail)
    call_id = str(reply.get("uuid") or "")
    extra = {"conversation_uuid": str(reply.get("conversation_uuid") or "")}
    if "sessionId" in request.json:
        call_id = str(reply.get("connectionId") or "")
        extra = {"session_id": str(request.json["sessionId"]), "connection_id": call_id}
    if not call_id:
        return Outcome(kind=OutcomeKind.FAILED, detail=f"{detail} names no call")
    return Outcome(kind=OutcomeKind.DONE, detail=detail, call_id=call_id, extra=extra)


def _words(reply: Mapping[str, Any]) -> Sequence[str]:
    """The reply's title and the names of the parameters that it complains about."""
    words = [reply.get("title") or reply.get("error_title") or reply.get("message")]
    wrong = reply.get("invalid_parameters")
    words += [one.get("name") for one in wrong if isinstance(one, dict)] if isinstance(wrong, list) else []
    return [word for word in words[:6] if isinstance(word, str) and _TITLE.fullmatch(word)]
