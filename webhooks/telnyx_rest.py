"""What is asked of Telnyx's REST interface, and what its replies mean.

Source: Telnyx API reference, "Call Control" and "TeXML REST"; error codes: "API errors".
"""

from __future__ import annotations

import base64
import json
import math
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any

from webhooks.base import CallPhase, CarrierRequest, DialOrder, Outcome, OutcomeKind, Purpose
from webhooks.replies import LONGEST_WAIT_S, json_object, unsuccessful

CALL_ENDED = "90018"  # the only code that means it; 10005 is also what a missing key gets, 90015 another account's call

STATUSES: Mapping[str, CallPhase] = {
    "queued": CallPhase.QUEUED,
    "initiated": CallPhase.QUEUED,
    "ringing": CallPhase.RINGING,
    "in-progress": CallPhase.ANSWERED,
    "answered": CallPhase.ANSWERED,
    "completed": CallPhase.COMPLETED,
    "busy": CallPhase.BUSY,
    "no-answer": CallPhase.NO_ANSWER,
    "canceled": CallPhase.CANCELED,
    "failed": CallPhase.FAILED,
}

# What Telnyx issues; it stands in paths as it is ("v3:..."), as Telnyx's own library has it.
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_=.~@+-]{0,255}")
_COMMANDS = uuid.UUID("5b1f3c52-3e5d-5d0c-9b8e-6c1d6f0a7e41")  # the namespace of our command ids
_CALL_IDS = ("call_control_id", "call_sid", "sid", "CallSid")  # TeXML's reply is documented without, and seen with one
_LONGEST_CALL_S = 14_400
_EPOCH = 1_000_000_000  # a "reset" as large as this is a time, not a number of seconds


def command_id(call_id: str, action: str) -> str:
    """The same for the same command to the same call, also after a crash: Telnyx takes it once in 60 s."""
    return str(uuid.uuid5(_COMMANDS, f"{action} {call_id}"))


def pack_state(**state: Any) -> str:
    """`client_state`, which Telnyx hands back with every later event of the call: base64, or the command is refused."""
    return base64.b64encode(json.dumps(state, separators=(",", ":")).encode()).decode("ascii")


def unpack_state(client_state: Any) -> Mapping[str, Any]:
    """What `pack_state` packed; empty for what is not ours."""
    try:
        state = json.loads(base64.b64decode(client_state, validate=True))
    except (ValueError, TypeError):
        return {}
    return state if isinstance(state, dict) else {}


class TelnyxApi:
    """Makes requests with one API key, of ids that are an `ID`. `base`: "https://api.telnyx.com/v2"."""

    def __init__(self, base: str, api_key: str) -> None:
        self._base = base
        credentials = {"authorization": f"Bearer {api_key}"}
        self._authorize: Callable[[float], Mapping[str, str]] = lambda now: credentials

    def command(self, purpose: Purpose, call_id: str, action: str, body: Mapping[str, Any]) -> CarrierRequest:
        """A Call Control command: the second one to the same end is taken for a repetition of the first."""
        own_id = command_id(call_id, f"{action} {body.get('to', '')}".strip())
        return self._request(
            purpose,
            call_id,
            "POST",
            f"/calls/{call_id}/actions/{action}",
            json={**body, "command_id": own_id},
            repeatable=True,
        )

    def dial(self, order: DialOrder, connection_id: str, body: Mapping[str, Any]) -> CarrierRequest:
        """Place a Call Control call. Without a `command_id` a repeated request is a second call."""
        optional: dict[str, Any] = {}
        if order.longest_s is not None:
            optional["time_limit_secs"] = _between(order.longest_s, 30, _LONGEST_CALL_S)
        if order.command_id:
            optional["command_id"] = order.command_id
        return self._request(
            Purpose.DIAL,
            "",
            "POST",
            "/calls",
            json={
                "connection_id": connection_id,
                "to": order.to_number,
                "from": order.from_number,
                "timeout_secs": _between(order.ring_s, 5, 600),
                **optional,
                **body,
            },
            repeatable=bool(order.command_id),
        )

    def dial_texml(self, order: DialOrder, account_id: str, form: Sequence[tuple[str, str]]) -> CarrierRequest:
        """Place a TeXML call. There are no command ids here: it is never repeated."""
        fields = [
            ("To", order.to_number),
            ("From", order.from_number),
            ("Timeout", str(_between(order.ring_s, 5, 120))),
            *form,
        ]
        if order.longest_s is not None:
            fields.append(("TimeLimit", str(_between(order.longest_s, 30, _LONGEST_CALL_S))))
        return self._request(Purpose.DIAL, "", "POST", f"/texml/Accounts/{account_id}/Calls", form=fields)

    def update_texml(
        self, purpose: Purpose, call_id: str, account_id: str, form: Sequence[tuple[str, str]]
    ) -> CarrierRequest:
        """Give a TeXML call another document. Given twice, it starts once more: not to be repeated blindly."""
        path = f"/texml/Accounts/{account_id}/Calls/{call_id}"
        return self._request(purpose, call_id, "POST", path, form=form)

    def fetch(self, call_id: str, account_id: str = "") -> CarrierRequest:
        """The state of a call; of a TeXML call with the account's id."""
        texml = f"/texml/Accounts/{account_id}/Calls/{call_id}"
        path = texml if account_id else f"/calls/{call_id}"
        return self._request(Purpose.FETCH, call_id, "GET", path, repeatable=True)

    def _request(self, purpose: Purpose, call_id: str, method: str, path: str, **rest: Any) -> CarrierRequest:
        return CarrierRequest(
            carrier="telnyx",
            purpose=purpose,
            call_id=call_id,
            method=method,
            url=self._base + path,
            authorize=self._authorize,
            **rest,
        )


def _between(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


# ---------------------------------------------------------------- replies


def outcome(request: CarrierRequest, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    reply = json_object(body)
    if 200 <= status < 300:
        return _done(request.purpose, reply, str(status))
    codes = _codes(reply)
    detail = "/".join([str(status), *codes])
    if status == 422 and CALL_ENDED in codes and request.purpose is not Purpose.DIAL:
        return Outcome(kind=OutcomeKind.ALREADY_OVER, detail=detail, phase=CallPhase.COMPLETED)
    result = unsuccessful(status, headers, detail)
    if status == 429 and result.retry_after_s is None:
        return replace(result, retry_after_s=_reset_s(headers))
    return result


def _done(purpose: Purpose, reply: Mapping[str, Any], detail: str) -> Outcome:
    inner = reply.get("data")
    data: Mapping[str, Any] = inner if isinstance(inner, dict) else reply
    if purpose is Purpose.DIAL:
        # A TeXML reply need not name the call; its first webhook does.
        call_id = next((str(data[name]) for name in _CALL_IDS if data.get(name)), "")
        return Outcome(kind=OutcomeKind.DONE, detail=detail, call_id=call_id)
    if purpose is Purpose.FETCH:
        alive, said = data.get("is_alive"), data.get("status")
        phase = STATUSES.get(said) if isinstance(said, str) else None
        if isinstance(alive, bool):
            phase = CallPhase.ANSWERED if alive else CallPhase.COMPLETED
        return Outcome(kind=OutcomeKind.DONE, detail=detail, phase=phase)
    return Outcome(kind=OutcomeKind.DONE, detail=detail)


def _codes(reply: Mapping[str, Any]) -> Sequence[str]:
    errors = reply.get("errors")
    if not isinstance(errors, list):
        return ()
    return [str(error["code"])[:10] for error in errors if isinstance(error, dict) and "code" in error]


def _reset_s(headers: Mapping[str, str]) -> float | None:
    """Until the rate limit begins anew: in seconds, or as a time, which is read against Telnyx's own clock."""
    try:
        reset = float(headers.get("x-ratelimit-reset", ""))
        if reset >= _EPOCH:
            reset -= parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        return None
    return min(max(reset, 0.0), LONGEST_WAIT_S) if math.isfinite(reset) else None
