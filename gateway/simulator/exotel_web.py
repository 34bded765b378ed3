"""A strict fake of Exotel's HTTP side: the Voicebot applet's dynamic URL, Passthru, StatusCallback, Connect Voice AI.

Source: Exotel support articles 3000108630 and 3000132269, developer.exotel.com "Make a call" and "Connect Voice AI".
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from gateway.simulator.base import CallPlan, ProtocolViolation
from gateway.simulator.exotel import MAX_PARAMETER_CHARACTERS, MAX_PARAMETERS, RATES
from gateway.simulator.web import (
    FakeWeb,
    Handler,
    Reply,
    RestRefusal,
    RestReply,
    RestRequest,
    Stage,
    Tampering,
    WebCall,
    Webhook,
    form_webhook,
    json_webhook,
    on_loopback,
)

MAX_STREAM_URL = 600
CONNECT = frozenset(
    {
        "From",
        "CallerId",
        "StreamUrl",
        "StreamType",
        "StreamName",
        "TimeLimit",
        "TimeOut",
        "CallType",
        "Record",
        "RecordingChannels",
        "CustomField",
        "StatusCallback",
        "StatusCallbackEvents[]",
        "StatusCallbackContentType",
    }
)
DYNAMIC = 'a dynamic URL is answered with application/json: {"url": "wss://..."}'
PASSTHRU = "a Passthru applet knows 200 and 302"
_BOUNDARY = "----exotel7d8f"

Encoding = Literal["brackets", "json", "form", "post-json", "multipart"]


class FakeExotelWeb(FakeWeb):
    """An account at Exotel, with one flow: Voicebot applet, Passthru applet, then the agent or the end.

    Credentials: `account_sid`, `api_key` and `api_token` of the REST API; `basic_user` and `basic_password`, which
    stand in every URL of the flow (as if `https://USER:PASSWORD@...` had been typed in).

    Args:
        stream_url: typed into the applet instead of a dynamic URL.
        passthru_url: of the applet after the stream; by default the answer URL's sister. None: there is no such applet.
        encoding: how the Passthru applet writes the stream's block, or in what body it comes.
        head: ask with HEAD before each GET, as sibling applets do.
    """

    name: ClassVar[str] = "exotel"
    answer_timeout_s: ClassVar[float] = 3.0
    detects: ClassVar[frozenset[Tampering]] = frozenset({Tampering.UNSIGNED, Tampering.FORGED})

    def __init__(
        self,
        answer_url: str = "",
        *,
        credentials: Mapping[str, str] | None = None,
        status_url: str = "",
        stream_url: str = "",
        passthru_url: str | None = "",
        encoding: Encoding = "brackets",
        head: bool = False,
    ) -> None:
        super().__init__(answer_url, credentials=credentials, status_url=status_url)
        self.stream_url, self.encoding, self.head = stream_url, encoding, head
        self._passthru = passthru_url

    @property
    def passthru_url(self) -> str:
        if self._passthru is None:
            return ""
        return self._passthru or self.answer_url.replace("/exotel/answer", "/exotel/passthru")

    def made_up_credentials(self) -> Mapping[str, str]:
        return {
            "account_sid": "acme1",
            "api_key": secrets.token_hex(12),
            "api_token": secrets.token_hex(12),
            "basic_user": "flow",
            "basic_password": secrets.token_urlsafe(12),
        }

    # ------------------------------------------------------------ webhooks

    def signed(self, webhook: Webhook, now: float, tampering: Tampering = Tampering.NONE) -> Webhook:
        if tampering is Tampering.UNSIGNED:
            return replace(webhook, url=without_user(webhook.url)[0])
        return super().signed(webhook, now, tampering)

    def sign(self, webhook: Webhook, now: float, credentials: Mapping[str, str]) -> Webhook:
        url, user = without_user(webhook.url)
        if credentials.get("basic_user"):
            user = f"{credentials['basic_user']}:{credentials['basic_password']}"
        headers = {"exotel-version": "1.0", **webhook.headers}
        if user:
            headers["authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        return replace(webhook, url=url, headers=headers)

    def handshake(self, url: str, now: float) -> Mapping[str, str]:
        signed = self.sign(Webhook(what="handshake", method="GET", url=url), now, self.credentials)
        return {name: value for name, value in signed.headers.items() if name == "authorization"}

    def ring(self, call: WebCall, now: float) -> None:
        call.answered_at = now  # the flow has taken the call before its Voicebot applet runs
        if self.stream_url:
            self._open(call, self.stream_url, now)
            return
        fields = self.fields(call)
        if self.head:
            webhook = self.post(call, "head", self.answer_url, fields, method="GET")
            call.webhooks[-1] = replace(webhook, method="HEAD")
        self.post(call, "answer", self.answer_url, fields, method="GET", wants_document=True)

    def fields(self, call: WebCall) -> dict[str, str]:
        plan = call.plan
        fields = {
            "CallSid": call.call_id,
            "CallFrom": plan.from_number,
            "CallTo": plan.to_number,
            "Direction": "incoming" if call.direction == "inbound" else "outbound-dial",
            "CallStatus": "in-progress",
            "CallType": "call-attempt",
            "Created": time.strftime("%a, %d %b %Y %H:%M:%S"),
            "DialCallDuration": "0",
            "flow_id": "123456",
            "From": plan.from_number,
            "To": plan.to_number,
        }
        if custom := plan.options.get("custom_field"):
            fields["CustomField"] = custom
        return fields

    def replied(self, call: WebCall, webhook: Webhook, reply: Reply | None, now: float) -> None:
        if webhook.what == "answer":
            self._take_url(call, reply, now)
        elif webhook.what.startswith("passthru"):
            self._branch(call, reply, now)
        elif reply is None or reply.status >= 400:
            self.violate("a report is answered with 200", f"HTTP {reply.status}" if reply else "no answer")

    def _take_url(self, call: WebCall, reply: Reply | None, now: float) -> None:
        if reply is None or reply.status != 200:
            # The applet fails; in this flow nothing stands after it for such calls.
            self.finish(call, "carrier", f"refused: HTTP {reply.status}" if reply else "failed: no answer", now)
            return
        if reply.media_type != "application/json":
            self.violate(DYNAMIC, reply.media_type[:40])
        try:
            answer = json.loads(reply.body)
        except ValueError:
            self.violate(DYNAMIC, "not JSON")
        if not isinstance(answer, dict) or answer.keys() != {"url"} or not isinstance(answer["url"], str):
            self.violate(DYNAMIC, "other keys")
        self._open(call, answer["url"], now)

    def _open(self, call: WebCall, url: str, now: float) -> None:
        """Take a stream's URL apart: the handshake goes to the bare one, what was in it comes back in `start`."""
        bare, user = without_user(url)
        parts = urlsplit(bare)
        if parts.scheme != "wss" and not (parts.scheme == "ws" and on_loopback(bare)):
            self.violate("a stream's URL is wss://", parts.scheme[:10])
        if parts.fragment:
            self.violate("a stream's URL has no fragment")
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        rates = [value for name, value in pairs if name in ("sample-rate", "sample_rate")]
        custom = {name: value for name, value in pairs if name not in ("sample-rate", "sample_rate")}
        size = sum(len(name) + len(value) + 2 for name, value in custom.items())
        if len(custom) > MAX_PARAMETERS or size > MAX_PARAMETER_CHARACTERS:
            self.violate(f"at most {MAX_PARAMETERS} parameters of {MAX_PARAMETER_CHARACTERS} characters")
        if rates and (len(rates) > 1 or rates[0] not in map(str, RATES)):
            self.violate("sample-rate is 8000, 16000 or 24000")
        plan = replace(call.plan, parameters=custom, sample_rate=int(rates[0]) if rates else 8000)
        if user:
            name, _, password = user.partition(":")
            plan = replace(plan, credentials={**plan.credentials, "basic_user": name, "basic_password": password})
        self.connect(call, parts._replace(query="").geturl(), plan)

    # ------------------------------------------------------------ the stream, and what follows

    def socket_refused(self, call: WebCall, status: int, now: float) -> None:
        if not call.extra.get("retried"):
            call.extra["retried"] = True
            call.stage = Stage.CONNECTING
            return
        self._report_stream(call, "failed", "NA", "3009 failed to establish ws conn", now)

    def media_over(self, call: WebCall, now: float) -> None:
        by = call.media.ended_by if call.media is not None else "error"
        match by:
            case "caller":
                self._report_stream(call, "cancelled", "user", "", now)
            case "bot":
                self._report_stream(call, "completed", "bot", "", now)
            case _:
                self._report_stream(call, "failed", "NA", "3006 ws connection broke", now)

    def _report_stream(self, call: WebCall, status: str, by: str, error: str, now: float) -> None:
        call.extra["by"] = {"user": "caller", "bot": "bot"}.get(by, "carrier")
        call.extra["end"] = f"failed: {error}" if error else "completed"
        if call.direction == "outbound" or not self.passthru_url:
            self._finish(call, now)
            return
        stream = {
            "StreamSID": getattr(call.media, "stream_sid", secrets.token_hex(16)),
            "Status": status,
            "Duration": str(round(now - (call.answered_at or now))),
            "StreamUrl": call.media_url,
            "DisconnectedBy": by,
        }
        if error:
            stream["Error"] = error
        call.webhooks.append(self._passthru_webhook(call, stream))
        call.changed()

    def _passthru_webhook(self, call: WebCall, stream: Mapping[str, str]) -> Webhook:
        fields = self.fields(call)
        bracketed = {**fields, **{f"Stream[{name}]": value for name, value in stream.items()}}
        url, what = self.passthru_url, f"passthru {stream['Status']}"
        match self.encoding:
            case "json":
                webhook = form_webhook(what, url, {**fields, "Stream": json.dumps(stream)}, "GET")
            case "form":
                webhook = form_webhook(what, url, bracketed)
            case "post-json":
                webhook = json_webhook(what, url, {**fields, "Stream": dict(stream)})
            case "multipart":
                webhook = _multipart(what, url, bracketed)
            case _:
                webhook = form_webhook(what, url, bracketed, "GET")
        return replace(webhook, wants_document=True)

    def _branch(self, call: WebCall, reply: Reply | None, now: float) -> None:
        if reply is None or reply.status >= 500:
            self._finish(call, now)  # the flow falls through
        elif reply.status not in (200, 302):
            self._finish(call, now)
            self.violate(PASSTHRU, f"HTTP {reply.status}")
        elif reply.status == 200 and call.extra.get("by") == "bot":
            call.handed_to.append("branch A")
        else:
            self._finish(call, now)

    def _finish(self, call: WebCall, now: float) -> None:
        self.finish(call, call.extra.get("by", "carrier"), call.extra.get("end", "completed"), now)

    # ------------------------------------------------------------ calls that REST placed

    def pick_up(self, call: WebCall, now: float, who: str = "human") -> None:
        call.answered_at = now
        self._report(call, "answered", "in-progress", now)
        self._open(call, call.extra["stream_url"], now)

    def ended(self, call: WebCall, now: float) -> None:
        if call.direction == "outbound":
            status = call.end if call.end in ("busy", "no-answer") else "completed"
            self._report(
                call, "terminal", "failed" if call.answered_at is None and status == "completed" else status, now
            )

    def _report(self, call: WebCall, event: str, status: str, now: float) -> None:
        url = call.extra.get("status_url")
        if not url or event not in call.extra["events"]:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        value: dict[str, Any] = {
            "CallSid": call.call_id,
            "EventType": event,
            "DateUpdated": stamp,
            "Status": status,
            "From": call.plan.from_number,
            "To": call.plan.to_number,
            "Direction": "outbound-api",
            "RecordingUrl": "",
        }
        if event == "terminal":
            duration = round(now - call.answered_at) if call.answered_at is not None else 0
            value["ConversationDuration"] = duration
            by = {"caller": "callee", "bot": "bot"}.get(call.ended_by, "")
            value["Legs"] = [{"OnCallDuration": duration, "Status": status, "DisconnectedBy": by, "Cause": "NORMAL"}]
        if call.extra["json"]:
            webhook = json_webhook(f"status {event}", url, value)
        else:
            legs = value.pop("Legs", [])
            fields = {name: str(text) for name, text in value.items()}
            fields |= {f"Legs[{n}][{name}]": str(text) for n, leg in enumerate(legs) for name, text in leg.items()}
            make = _multipart if self.encoding == "multipart" else form_webhook
            webhook = make(f"status {event}", url, fields)
        call.webhooks.append(webhook)
        call.changed()

    # ------------------------------------------------------------ REST

    def routes(self) -> Sequence[tuple[str, str, str, Handler]]:
        calls = r"/v1/Accounts/(?P<account>[^/]+)/Calls/"
        return (
            ("POST", calls + r"connect\.json", "dial", self._connect),
            ("GET", calls + r"(?P<call>[^/]+)\.json", "fetch", self._fetch),
        )

    def authorized(self, request: RestRequest, now: float) -> RestReply | None:
        pair = f"{self.credentials['api_key']}:{self.credentials['api_token']}"
        right = "Basic " + base64.b64encode(pair.encode()).decode()
        return None if request.headers.get("authorization") == right else self.wrong_credentials(request)

    def wrong_credentials(self, request: RestRequest) -> RestReply:
        return _exception(401, "Authentication failed")

    def not_found(self, request: RestRequest) -> RestReply:
        return _exception(404, "Resource not found")

    def bad_request(self, violation: ProtocolViolation) -> RestReply:
        return _exception(400, violation.rule)

    def failing(self, status: int, retry_after_s: float | None) -> RestReply:
        reply = _exception(status, "Too many requests" if status == 429 else "Internal error")
        headers = dict(reply.headers)
        if retry_after_s is not None:
            headers["retry-after"] = f"{retry_after_s:g}"
        return replace(reply, headers=headers)

    def _connect(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        self._check_account(request, match)
        if request.media_type != "application/x-www-form-urlencoded":
            self.violate("the body is a form", request.media_type[:40])
        if unknown := {name for name, _ in request.form} - CONNECT:
            self.violate("unknown parameter", ", ".join(sorted(unknown))[:80])
        fields = dict(request.form)
        for name in ("From", "CallerId", "StreamUrl"):
            if not fields.get(name):
                self.violate(f"{name} is mandatory")
        if fields.get("StreamType") != "bidirectional":
            self.violate("StreamType is bidirectional")
        if len(fields["StreamUrl"]) > MAX_STREAM_URL or len(fields.get("CustomField", "")) > 128:
            self.violate(f"StreamUrl has at most {MAX_STREAM_URL} characters, CustomField 128")
        for name in ("TimeLimit", "TimeOut"):
            if not fields.get(name, "1").isdigit() or not 1 <= int(fields.get(name, "1")) <= 14400:
                self.violate(f"{name} is 1 to 14400 seconds")
        events = {value for name, value in request.form if name == "StatusCallbackEvents[]"}
        if events - {"answered", "terminal", "ringing"}:
            self.violate("StatusCallbackEvents[] are answered, terminal, ringing")
        plan = CallPlan(
            from_number=fields["From"],
            to_number=fields["CallerId"],
            options={"custom_field": fields.get("CustomField", "")},
        )
        call = self.placed_call(plan, now)
        call.extra |= {
            "stream_url": fields["StreamUrl"],
            "status_url": fields.get("StatusCallback", ""),
            "events": events or {"terminal"},
            "json": fields.get("StatusCallbackContentType") == "application/json",
        }
        return RestReply.of(200, {"Call": self._resource(call, "in-progress")})

    def _fetch(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        self._check_account(request, match)
        call = self.calls.get(match["call"])
        if call is None:
            raise RestRefusal(self.not_found(request))
        ends = {"busy": "busy", "no-answer": "no-answer", "canceled": "canceled", "failed": "failed"}
        status = ends.get(call.end, "completed") if call.over else "in-progress" if call.answered_at else "ringing"
        return RestReply.of(200, {"Call": self._resource(call, status)})

    def _resource(self, call: WebCall, status: str) -> dict[str, Any]:
        return {
            "Sid": call.call_id,
            "Status": status,
            "From": call.plan.from_number,
            "PhoneNumberSid": call.plan.to_number,
            "Direction": "inbound" if call.direction == "inbound" else "outbound-api",
            "DateCreated": "2026-01-15 10:00:00",
            "RecordingUrl": None,
        }

    def _check_account(self, request: RestRequest, match: re.Match[str]) -> None:
        if match["account"] != self.credentials["account_sid"]:
            raise RestRefusal(self.not_found(request))


def without_user(url: str) -> tuple[str, str]:
    """`url` without its user information, and that: what Exotel does before it asks."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return (parts._replace(netloc=host).geturl(), unquote(user)) if at else (url, "")


def _multipart(what: str, url: str, fields: Mapping[str, str]) -> Webhook:
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    body = "".join([*parts, f"--{_BOUNDARY}--\r\n"]).encode()
    headers = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
    return Webhook(what=what, method="POST", url=url, headers=headers, body=body)


def _exception(status: int, message: str) -> RestReply:
    return RestReply.of(status, {"RestException": {"Status": status, "Message": message}})
