"""A strict fake of Telnyx's HTTP side: signed webhooks of both control planes, TeXML, commands.

Source: Telnyx docs, "TeXML", "Call Control" commands and webhooks, "API errors", "Webhook signing"; which fields each
command takes: Telnyx's own library.
"""

from __future__ import annotations

import base64
import json
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.simulator import telnyx_commands, telnyx_texml
from gateway.simulator.base import ProtocolViolation
from gateway.simulator.telnyx_account import Told, error, iso
from gateway.simulator.web import (
    FakeWeb,
    Handler,
    Reply,
    RestReply,
    RestRequest,
    Stage,
    Tampering,
    WebCall,
    Webhook,
    json_webhook,
)

ANSWERED_WITH = "a webhook must be answered with 2xx"
ATTEMPTS = 3  # of one event, then the fail-over URL

CAUSES: Mapping[str, tuple[str, str]] = {  # how a call ended: hangup_cause, SIP code
    "busy": ("user_busy", "486"),
    "rejected": ("call_rejected", "603"),
    "no-answer": ("timeout", "480"),
    "canceled": ("originator_cancel", "487"),
    "failed": ("unspecified", "503"),
}


class FakeTelnyxWeb(FakeWeb):
    """An account at Telnyx, with one application.

    Credentials: `api_key`; `private_key` and `public_key` (base64, Ed25519) of the webhooks; `account_id`; and
    `connection_id` of the application.

    Args:
        control: which plane the application uses.
        method: by which the TeXML answer URL is fetched.
        underscores: write `streaming_started` for `streaming.started`, as some deliveries do.
        repeats: deliver every event twice, the second one with the next `meta.attempt`.
        disorder: deliver an event before the one that waits in front of it.
    """

    name: ClassVar[str] = "telnyx"
    answer_timeout_s: ClassVar[float] = 5.0
    detects: ClassVar[frozenset[Tampering]] = frozenset(Tampering) - {Tampering.NONE}

    def __init__(
        self,
        answer_url: str = "",
        *,
        credentials: Mapping[str, str] | None = None,
        status_url: str = "",
        control: Literal["texml", "call_control"] = "texml",
        method: Literal["POST", "GET"] = "POST",
        underscores: bool = False,
        repeats: bool = False,
        disorder: bool = False,
    ) -> None:
        super().__init__(answer_url, credentials=credentials, status_url=status_url)
        self.control, self.method = control, method
        self.underscores, self.repeats, self.disorder = underscores, repeats, disorder
        self.dialled: dict[str, WebCall] = {}  # command_id of a dial -> its call

    def made_up_credentials(self) -> Mapping[str, str]:
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return {
            "api_key": "KEY" + secrets.token_hex(16),
            "private_key": base64.b64encode(private).decode(),
            "public_key": base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode(),
            "account_id": str(uuid.uuid4()),
            "connection_id": str(10**18 + secrets.randbelow(9 * 10**18)),
        }

    # ------------------------------------------------------------ webhooks

    def sign(self, webhook: Webhook, now: float, credentials: Mapping[str, str]) -> Webhook:
        key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(credentials["private_key"]))
        timestamp = str(int(now))
        signature = key.sign(timestamp.encode() + b"|" + webhook.body)
        headers = {
            "user-agent": "telnyx-webhooks",
            **webhook.headers,
            "telnyx-timestamp": timestamp,
            "telnyx-signature-ed25519": base64.b64encode(signature).decode(),
        }
        return replace(webhook, headers=headers)

    def told(self, call: WebCall) -> Told:
        told: Told = call.extra.setdefault("told", Told())
        return told

    def ids(self, call: WebCall) -> Mapping[str, str]:
        """The ids of a call beside its own."""
        made: Mapping[str, str] = call.extra.setdefault(
            "ids", {"call_leg_id": str(uuid.uuid4()), "call_session_id": str(uuid.uuid4())}
        )
        return made

    def event(self, call: WebCall, name: str, now: float, **payload: Any) -> None:
        """Queue a Call Control event."""
        told = self.told(call)
        url = told.webhook_url or self.answer_url
        if told.refused or not url:
            return
        plan, outgoing = call.plan, call.direction == "outbound"
        common = {
            "call_control_id": call.call_id,
            **self.ids(call),
            "client_state": told.client_state,
            "connection_id": self.credentials["connection_id"],
            "direction": "outgoing" if outgoing else "incoming",
            "from": plan.from_number,
            "to": plan.to_number,
        }
        if name not in ("call.initiated", "call.answered"):
            del common["direction"]
        data = {
            "event_type": name.replace(".", "_") if self.underscores else name,
            "id": str(uuid.uuid4()),
            "occurred_at": iso(now),
            "payload": {**common, **payload},
            "record_type": "event",
        }
        body = {"data": data, "meta": {"attempt": 1, "delivered_to": url}}
        webhook = self.post(call, name, url, json=body)
        if self.disorder and len(call.webhooks) > 1:
            call.webhooks.rotate(1)  # the newest first
        if self.repeats:
            call.webhooks.append(again(webhook))

    def ring(self, call: WebCall, now: float) -> None:
        if self.control == "texml":
            self.told(call).status_url = self.status_url
            fields = self.fields(call, "ringing")
            self.post(call, "answer", self.answer_url, fields, method=self.method, wants_document=True)
        else:
            headers = call.plan.options.get("sip_headers", {})
            self.event(
                call,
                "call.initiated",
                now,
                state="parked",
                start_time=iso(now),
                caller_id_name="",
                calling_party_type="pstn",
                connection_codecs="PCMU,PCMA",
                offered_codecs="PCMU,PCMA",
                shaken_stir_attestation="A",
                tags=[],
                custom_headers=[{"name": name, "value": value} for name, value in headers.items()],
                sip_headers=[],
            )

    def pick_up(self, call: WebCall, now: float, who: str = "human") -> None:
        if self.control == "texml":
            telnyx_texml.pick_up(self, call, now, who)
        else:
            self.answered(call, now)
            if self.told(call).detection:
                result = {"fax": "fax_detected"}.get(who, who)
                premium = self.told(call).detection.startswith("premium")
                name = f"call.machine.{'premium.' if premium else ''}detection.ended"
                if premium and who == "human":
                    result = "human_residence"
                self.event(call, name, now, result=result)

    def answered(self, call: WebCall, now: float) -> None:
        """A Call Control call is answered; the stream that was ordered with it starts."""
        told = self.told(call)
        call.answered_at, call.stage = now, Stage.BETWEEN
        self.event(call, "call.answered", now, codec="PCMU", sampling_rate=8000, start_time=iso(now))
        if told.stream is not None:
            self.connect(call, told.stream_url, told.stream)

    def replied(self, call: WebCall, webhook: Webhook, reply: Reply | None, now: float) -> None:
        if webhook.headers.get("content-type") != "application/json":
            telnyx_texml.replied(self, call, webhook, reply, now)
            return
        if reply is not None and 200 <= reply.status < 300:
            return
        if attempt_of(webhook) < ATTEMPTS:
            call.webhooks.appendleft(again(webhook))
            return
        if webhook.what == "call.initiated" and call.direction == "inbound":
            self.told(call).refused = True
            said = "no answer" if reply is None else f"HTTP {reply.status}"
            self.finish(call, "carrier", f"failed: webhook, {said}", now)
        elif reply is not None:
            self.violate(ANSWERED_WITH, f"{webhook.what}: HTTP {reply.status}")

    def fields(self, call: WebCall, status: str) -> dict[str, str]:
        """What every TeXML webhook about a call has."""
        plan = call.plan
        fields = {
            "AccountSid": self.credentials["account_id"],
            "CallSid": call.call_id,
            "CallSidLegacy": call.extra.setdefault("legacy", str(uuid.uuid4())),
            "From": plan.from_number,
            "To": plan.to_number,
            "ConnectionId": self.credentials["connection_id"],
            "CallStatus": status,
            "Direction": "inbound" if call.direction == "inbound" else "outbound-api",
            "ApiVersion": "2010-04-01",
            "CallerId": plan.from_number,
        }
        for name, value in plan.options.get("sip_headers", {}).items():
            fields[f"SipHeader_{name}"] = value
        return fields

    # ------------------------------------------------------------ the stream

    def socket_opened(self, call: WebCall, now: float) -> None:
        if self.control == "texml":
            telnyx_texml.stream_event(self, call, "stream-started", now)
        else:
            self.streaming(call, "streaming.started", now)

    def socket_refused(self, call: WebCall, status: int, now: float) -> None:
        if self.control == "texml":
            telnyx_texml.stream_event(self, call, "stream-error", now, "connection_failed")
            telnyx_texml.run(self, call, now)
        else:  # the call stays up, silent, until somebody hangs up
            self.streaming(call, "streaming.failed", now, failure_reason="connection_failed")

    def media_over(self, call: WebCall, now: float) -> None:
        by = call.media.ended_by if call.media is not None else "error"
        if self.control == "texml":
            telnyx_texml.stream_event(self, call, "stream-stopped", now)
        else:
            self.streaming(call, "streaming.stopped", now)
        why, call.cut = call.cut, ""
        if why == "hang-up":
            self.finish(call, "bot", "completed", now)
        elif by == "caller":
            self.finish(call, "caller", "completed", now)
        elif why == "transfer" and self.control == "texml":
            telnyx_texml.go_on(self, call, now)
        elif self.control == "texml":
            telnyx_texml.run(self, call, now)
        # A Call Control call whose socket was closed stays up: it is transferred, or waits for a hang-up.

    def streaming(self, call: WebCall, name: str, now: float, **payload: Any) -> None:
        params = {"stream_url": call.media_url, "track": "inbound_track"}
        stream_id = getattr(call.media, "stream_id", "")
        self.event(call, name, now, stream_id=stream_id, stream_params=params, stream_type="websocket", **payload)

    def ended(self, call: WebCall, now: float) -> None:
        if self.control == "texml":
            telnyx_texml.ended(self, call, now)
            return
        cause, sip = CAUSES.get(call.end.partition(":")[0], ("normal_clearing", "200"))
        ours = "caller" if call.direction == "outbound" else "callee"
        theirs = "callee" if call.direction == "outbound" else "caller"
        self.event(
            call,
            "call.hangup",
            now,
            start_time=iso(call.answered_at or now),
            hangup_cause=cause,
            hangup_source={"bot": ours, "caller": theirs}.get(call.ended_by, "unknown"),
            sip_hangup_cause=sip,
            call_quality_stats={"inbound": {"mos": "4.50"}},
        )

    # ------------------------------------------------------------ REST

    def routes(self) -> Sequence[tuple[str, str, str, Handler]]:
        return (*telnyx_commands.routes(self), *telnyx_texml.routes(self))

    def route_of(self, route: str, request: RestRequest) -> str:
        if route == "update":
            return "hang-up" if "Status" in dict(request.form) else "transfer"
        return route

    def authorized(self, request: RestRequest, now: float) -> RestReply | None:
        said = request.headers.get("authorization", "")
        if not said:
            return error(404, "10005", "Resource not found")  # so it is
        return None if said == f"Bearer {self.credentials['api_key']}" else self.wrong_credentials(request)

    def wrong_credentials(self, request: RestRequest) -> RestReply:
        return error(401, "10009", "Authentication failed")

    def not_found(self, request: RestRequest) -> RestReply:
        return error(404, "10005", "Resource not found")

    def bad_request(self, violation: ProtocolViolation) -> RestReply:
        return error(422, "10015", violation.rule)

    def already_over(self, request: RestRequest, route: str) -> RestReply:
        return error(422, "90018", "Call has already ended")

    def failing(self, status: int, retry_after_s: float | None) -> RestReply:
        reply = error(status, "10011" if status == 429 else "10016", "Too many requests" if status == 429 else "Error")
        headers = dict(reply.headers)
        if retry_after_s is not None:
            headers |= {"x-ratelimit-limit": "200", "x-ratelimit-remaining": "0"}
            headers["x-ratelimit-reset"] = f"{retry_after_s:g}"
        return replace(reply, headers=headers)


# ---------------------------------------------------------------- pieces


def again(webhook: Webhook) -> Webhook:
    """The next delivery of an event: the same `data.id`."""
    body = json.loads(webhook.body)
    body["meta"]["attempt"] += 1
    return json_webhook(webhook.what, webhook.url, body)


def attempt_of(webhook: Webhook) -> int:
    return int(json.loads(webhook.body)["meta"]["attempt"])
