"""A strict fake of Plivo's HTTP side: signed webhooks, Plivo XML, callbacks and the Call resource.

Source: Plivo docs, "Plivo XML", "Make a call", "Transfer a call", "Call status callbacks", "Stream callbacks",
"Validating requests" as Plivo's own library computes it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl
from xml.etree.ElementTree import Element

from gateway.simulator.base import CallPlan, ProtocolViolation
from gateway.simulator.documents import content, read_document
from gateway.simulator.plivo_documents import CONTENT_TYPES, DOCUMENT, VERBS, checked
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
)

CALLBACK = "a callback must be answered with 2xx"

DIAL = frozenset(
    {
        *("from", "to", "answer_url", "answer_method", "ring_url", "ring_method", "hangup_url", "hangup_method"),
        *("fallback_url", "fallback_method", "caller_name", "send_digits", "time_limit", "ring_timeout"),
        *("machine_detection", "machine_detection_url", "machine_detection_method", "sip_headers"),
    }
)
GUIDE: Mapping[str, str] = {"StartStream": "started", "StopStream": "stopped", "DroppedStream": "failed"}


@dataclass(slots=True)
class _Told:
    """What one call has been told."""

    verbs: list[Element] = field(default_factory=list)  # still to run
    stream_status: tuple[str, str] | None = None
    transfer: tuple[str, str] | None = None  # where it goes when the stream is over
    answer: tuple[str, str] | None = None  # of a call that REST placed
    ring: str = ""
    hangup: str = ""
    detection: str = ""
    order: str = ""  # what the reply to our order called it
    tried: int = 0  # sockets that could not be opened
    asked: int = 0  # how often for the document
    refused: bool = False  # nobody answered with a document


class FakePlivoWeb(FakeWeb):
    """An account at Plivo. Its application has no hangup URL unless there is a `status_url`: then the answer URL is it.

    Credentials: `auth_id`, `auth_token`; with `main_token` too, the number belongs to a subaccount, whose token is
    `auth_token`, and each webhook is signed with both.

    Args:
        method: by which the answer URL is fetched.
        naming: of the stream's callbacks: as in the XML reference, or as in the guide.
        repeats: every callback comes twice.
        disorder: a callback comes before the one that waits in front of it.
        retries: how often a media socket that cannot be opened is tried again.
        own_request_ids: the reply to an order gives an id of the order's own, and not that of its call.
    """

    name: ClassVar[str] = "plivo"
    answer_timeout_s: ClassVar[float] = 15.0
    detects: ClassVar[frozenset[Tampering]] = frozenset({Tampering.UNSIGNED, Tampering.FORGED, Tampering.ALTERED})

    def __init__(
        self,
        answer_url: str = "",
        *,
        credentials: Mapping[str, str] | None = None,
        status_url: str = "",
        method: Literal["POST", "GET"] = "POST",
        naming: Literal["reference", "guide"] = "reference",
        repeats: bool = False,
        disorder: bool = False,
        retries: int = 2,
        own_request_ids: bool = False,
    ) -> None:
        super().__init__(answer_url, credentials=credentials, status_url=status_url)
        self.method, self.naming = method, naming
        self.repeats, self.disorder, self.retries = repeats, disorder, retries
        self.own_request_ids = own_request_ids

    def made_up_credentials(self) -> Mapping[str, str]:
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        return {
            "auth_id": "MA" + "".join(secrets.choice(alphabet) for _ in range(18)),
            "auth_token": secrets.token_hex(20),
        }

    def forged_credentials(self) -> Mapping[str, str]:
        return {**self.credentials, "auth_token": secrets.token_hex(20), "main_token": secrets.token_hex(20)}

    # ------------------------------------------------------------ webhooks

    def sign(self, webhook: Webhook, now: float, credentials: Mapping[str, str]) -> Webhook:
        nonce = str(secrets.randbelow(10**20)).zfill(20)
        url = webhook.url.partition("#")[0]
        base, _, query = url.partition("?")
        text = base
        if joined := "&".join(f"{name}={value}" for name, value in _sorted(query)):
            text += f"?{joined}"
        if webhook.body:
            fields = "".join(f"{name}{value}" for name, value in _sorted(webhook.body.decode()))
            text += f".{fields}" if joined else f"?{fields}"
        signed = f"{text}.{nonce}".encode()
        own, main = credentials["auth_token"], credentials.get("main_token") or credentials["auth_token"]
        headers = {
            "user-agent": "Plivo",
            **webhook.headers,
            # A second value stands there while a token is changed.
            "x-plivo-signature-v3": f"{_hmac(secrets.token_hex(20), signed)}, {_hmac(own, signed)}",
            "x-plivo-signature-ma-v3": _hmac(main, signed),
            "x-plivo-signature-v3-nonce": nonce,
        }
        return replace(webhook, url=url, headers=headers)

    def fields(self, call: WebCall, status: str, event: str) -> dict[str, str]:
        """What every webhook about a call has. Numbers come without the plus."""
        plan = call.plan
        fields = {
            "CallUUID": call.call_id,
            "From": plan.from_number.removeprefix("+"),
            "To": plan.to_number.removeprefix("+"),
            "CallStatus": status,
            "Direction": call.direction,
            "Event": event,
        }
        if call.direction == "outbound":
            order = self._told(call).order or call.call_id
            fields |= {"RequestUUID": order, "ALegUUID": call.call_id, "ALegRequestUUID": order}
        for name, value in plan.options.get("sip_headers", {}).items():
            fields[f"SIP-H-X-PH-{name}"] = value
        return fields

    def ring(self, call: WebCall, now: float) -> None:
        fields = self.fields(call, "ringing", "StartApp")
        self.post(call, "answer", self.answer_url, fields, method=self.method, wants_document=True)

    def pick_up(self, call: WebCall, now: float, who: str = "human") -> None:
        told = self._told(call)
        call.answered_at, call.stage = now, Stage.BETWEEN
        assert told.answer is not None
        url, method = told.answer
        fields = self.fields(call, "in-progress", "StartApp")
        self.post(call, "answer", url, fields, method=method, wants_document=True)
        if told.detection:
            machine = "false" if who == "human" else "true"
            fields = self.fields(call, "in-progress", "MachineDetection") | {"Machine": machine}
            self._report(call, f"machine {machine}", told.detection, fields)

    def replied(self, call: WebCall, webhook: Webhook, reply: Reply | None, now: float) -> None:
        told = self._told(call)
        if not webhook.wants_document:
            if reply is not None and reply.status >= 400:
                self.violate(CALLBACK, f"{webhook.what}: HTTP {reply.status}")
            return
        if call.over:
            return
        if reply is None and told.asked == 0:
            told.asked += 1
            call.webhooks.appendleft(webhook)
            return
        told.asked = 0
        if reply is None or not 200 <= reply.status < 300:
            told.refused = True
            said = "no answer" if reply is None else f"HTTP {reply.status}"
            self.finish(call, "carrier", f"failed: 7011: {said}", now)
            return
        told.verbs = checked(self, call, read_document(self, reply, VERBS, DOCUMENT))
        self._run(call, now)

    # ------------------------------------------------------------ documents

    def _run(self, call: WebCall, now: float) -> None:
        """Run verbs until one of them waits for something; after the last one the call ends (4010)."""
        told = self._told(call)
        while told.verbs and not call.over:
            verb = told.verbs.pop(0)
            if verb.tag != "Redirect" and verb.get("reason") is None and call.answered_at is None:
                call.answered_at = now
            match verb.tag:
                case "Stream":
                    self._connect(call, verb)
                    return
                case "Hangup":
                    self.finish(call, "bot", verb.get("reason") or "completed", now)
                case "Speak":
                    call.spoken.append(content(verb))
                case "Dial":
                    call.handed_to += [content(noun) for noun in verb]
                    call.stage = Stage.BETWEEN
                    return  # until one of the two hangs up
                case "Redirect":
                    self._fetch_document(call, content(verb), verb.get("method", "POST"))
                    return
        self.finish(call, "bot", "completed", now)

    def _connect(self, call: WebCall, stream: Element) -> None:
        told = self._told(call)
        status = stream.get("statusCallbackUrl")
        told.stream_status = (status, stream.get("statusCallbackMethod", "POST")) if status else None
        told.tried = 0
        codec, rate = CONTENT_TYPES[stream.get("contentType", "")]
        pairs = [pair.partition("=") for pair in stream.get("extraHeaders", "").split(",") if pair]
        plan = replace(
            call.plan,
            parameters={name: value for name, _, value in pairs},
            receive_codec=codec,
            send_codec=codec,
            sample_rate=rate,
        )
        self.connect(call, content(stream), plan)

    def _fetch_document(self, call: WebCall, url: str, method: str) -> None:
        """Another document; from somebody else, the call is theirs from here on."""
        if url.partition("://")[2].partition("/")[0] != self.answer_url.partition("://")[2].partition("/")[0]:
            call.handed_to.append(url)
            call.stage = Stage.BETWEEN
            return
        status = "in-progress" if call.answered_at is not None else "ringing"
        fields = self.fields(call, status, "Redirect")
        self.post(call, "after" if status == "in-progress" else "redirect", url, fields, method=method)
        call.webhooks[-1] = replace(call.webhooks[-1], wants_document=True)

    # ------------------------------------------------------------ the stream

    def socket_opened(self, call: WebCall, now: float) -> None:
        self._stream_event(call, "StartStream", now)

    def socket_refused(self, call: WebCall, status: int, now: float) -> None:
        told = self._told(call)
        if told.tried < self.retries:
            told.tried += 1
            assert call.media_plan is not None
            self.connect(call, call.media_url, call.media_plan)  # the same URL once more
            return
        self._stream_event(call, "DroppedStream", now, "connection_failed")
        self._run(call, now)

    def media_over(self, call: WebCall, now: float) -> None:
        told = self._told(call)
        by = call.media.ended_by if call.media is not None else "error"
        self._stream_event(call, "DroppedStream" if by == "error" else "StopStream", now)
        why, call.cut = call.cut, ""
        if why == "hang-up":
            self.finish(call, "bot", "completed", now)
        elif by == "caller":
            self.finish(call, "caller", "completed", now)
        elif told.transfer is not None:
            (url, method), told.transfer = told.transfer, None
            self._fetch_document(call, url, method)
        else:
            self._run(call, now)

    def _stream_event(self, call: WebCall, event: str, now: float, reason: str = "") -> None:
        target = self._told(call).stream_status
        if target is None:
            return
        fields = {
            "CallUUID": call.call_id,
            "StreamID": getattr(call.media, "stream_id", ""),
            "ServiceURL": call.media_url,
            "Timestamp": str(int(now)),
            "From": call.plan.from_number.removeprefix("+"),
            "To": call.plan.to_number.removeprefix("+"),
            "Direction": call.direction,
        }
        if self.naming == "guide":
            fields |= {"Event": GUIDE[event], "Status": GUIDE[event], "StatusReason": reason, "Duration": "0"}
        else:
            fields["Event"] = event
            if reason:
                fields["StatusReason"] = reason
        self._report(call, f"stream {event}", target[0], fields, target[1])

    def ended(self, call: WebCall, now: float) -> None:
        told = self._told(call)
        url = told.hangup or self.status_url or self.answer_url
        if told.refused or not url:
            return
        word = call.end.partition(":")[0]
        status = {"busy": "busy", "rejected": "busy", "no-answer": "no-answer"}.get(word, "completed")
        if word == "failed" and call.answered_at is None:
            status = "failed"
        ours = "Caller" if call.direction == "outbound" else "Callee"
        theirs = "Callee" if call.direction == "outbound" else "Caller"
        duration = 0 if call.answered_at is None else max(0, round(now - call.answered_at))
        by_rest = any(seen.call_id == call.call_id and seen.route == "hang-up" for seen in self.seen)
        fields = self.fields(call, status, "Hangup") | {
            "Duration": str(duration),
            "BillDuration": str(-(-duration // 60) * 60),
            "HangupCause": "NORMAL_CLEARING" if status == "completed" else "USER_BUSY",
            "HangupCauseName": "Normal Hangup" if status == "completed" else status,
            "HangupCauseCode": "4000" if status == "completed" else "3010",
            "HangupSource": "API Request" if by_rest else {"bot": ours, "caller": theirs}.get(call.ended_by, "Plivo"),
            "TotalCost": "0.00000",
        }
        self._report(call, f"hangup {status}", url, fields)

    def _report(self, call: WebCall, what: str, url: str, fields: Mapping[str, str], method: str = "POST") -> None:
        for _ in range(2 if self.repeats else 1):
            self.post(call, what, url, fields, method=method)
            if self.disorder and len(call.webhooks) > 1:
                call.webhooks.rotate(1)

    # ------------------------------------------------------------ REST

    def routes(self) -> Sequence[tuple[str, str, str, Handler]]:
        account = r"/v1/Account/(?P<account>[^/]+)/"
        one = account + r"Call/(?P<call>[^/]+)/"
        return (
            ("DELETE", one, "hang-up", self._delete),
            ("POST", one, "transfer", self._transfer),
            ("GET", one, "fetch", self._fetch),
            ("POST", account + "Call/", "dial", self._dial),
        )

    def authorized(self, request: RestRequest, now: float) -> RestReply | None:
        pair = f"{self.credentials['auth_id']}:{self.credentials['auth_token']}"
        right = "Basic " + base64.b64encode(pair.encode()).decode()
        return None if request.headers.get("authorization") == right else self.wrong_credentials(request)

    def wrong_credentials(self, request: RestRequest) -> RestReply:
        return _error(401, "could not verify your access level for that URL")

    def not_found(self, request: RestRequest) -> RestReply:
        return _error(404, "not found")

    def bad_request(self, violation: ProtocolViolation) -> RestReply:
        return _error(400, violation.rule)

    def already_over(self, request: RestRequest, route: str) -> RestReply:
        return self.not_found(request)

    def failing(self, status: int, retry_after_s: float | None) -> RestReply:
        reply = _error(status, "Too many requests" if status == 429 else "Internal server error")
        headers = dict(reply.headers)
        if retry_after_s is not None:
            headers["retry-after"] = f"{retry_after_s:g}"
        return replace(reply, headers=headers)

    def _delete(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        self.hang_up(self._live(request, match), now)
        return RestReply(status=204)

    def _transfer(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        call = self._live(request, match)
        body = self._body(request, {"legs", "aleg_url", "aleg_method", "bleg_url", "bleg_method"})
        if body.get("legs", "aleg") != "aleg":
            self.violate("a call with one leg has an aleg")
        if body.get("aleg_method", "POST") not in ("GET", "POST"):
            self.violate("aleg_method is GET or POST")
        url = body.get("aleg_url")
        if not isinstance(url, str):
            self.violate("aleg_url is missing")
        self.check_public_url(url, ("https",), "aleg_url is an absolute URL")
        if call.answered_at is None:
            self.violate("only an answered call is transferred")
        self.took_effect(call)
        told = self._told(call)
        told.verbs = []
        if call.stage is Stage.STREAMING:
            told.transfer = url, body.get("aleg_method", "POST")
            self.cut_stream(call, "transfer")
        else:
            self._fetch_document(call, url, body.get("aleg_method", "POST"))
        reply = {"message": "call transferred", "call_uuids": [call.call_id], "api_id": str(uuid.uuid4())}
        return RestReply.of(202, reply)

    def _fetch(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        if request.query != [("status", "live")]:
            self.violate("only live calls are served here: ?status=live")
        call = self._live(request, match)
        status = "ringing" if call.answered_at is None else "in-progress"
        return RestReply.of(200, {"call_uuid": call.call_id, "call_status": status, "direction": call.direction})

    def _dial(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        self._check_account(request, match)
        body = self._body(request, DIAL)
        for name in ("from", "to", "answer_url"):
            if not isinstance(body.get(name), str) or not body[name]:
                self.violate(f"{name} is missing")
        for name in ("answer_url", "ring_url", "hangup_url", "machine_detection_url"):
            if name in body:
                self.check_public_url(body[name], ("https",), f"{name} is an absolute URL")
        for name in ("ring_timeout", "time_limit"):
            if type(body.get(name, 1)) is not int or body.get(name, 1) < 0:
                self.violate(f"{name} is a number of seconds")
        if body.get("machine_detection", "true") not in ("true", "hangup"):
            self.violate("machine_detection is true or hangup")
        call = self.placed_call(CallPlan(from_number=body["from"], to_number=body["to"]), now)
        told = self._told(call)
        told.order = str(uuid.uuid4()) if self.own_request_ids else call.call_id
        told.answer = body["answer_url"], body.get("answer_method", "POST")
        told.ring, told.hangup = body.get("ring_url", ""), body.get("hangup_url", "")
        told.detection = body.get("machine_detection_url", "") if "machine_detection" in body else ""
        if told.ring:
            self._report(call, "ring", told.ring, self.fields(call, "ringing", "Ring"))
        # What it gives was seen to be the id of the call that follows; nothing promises that.
        return RestReply.of(201, {"message": "call fired", "request_uuid": told.order, "api_id": str(uuid.uuid4())})

    def _live(self, request: RestRequest, match: re.Match[str]) -> WebCall:
        self._check_account(request, match)
        call = self.calls.get(match["call"])
        if call is None or call.gone:
            raise RestRefusal(self.not_found(request))
        return call

    def _check_account(self, request: RestRequest, match: re.Match[str]) -> None:
        if match["account"] != self.credentials["auth_id"]:
            raise RestRefusal(self.wrong_credentials(request))

    def _body(self, request: RestRequest, allowed: Collection[str]) -> Mapping[str, Any]:
        if request.media_type != "application/json":
            self.violate("the body is JSON", request.media_type[:40])
        try:
            body = request.json
        except json.JSONDecodeError:
            self.violate("the body is JSON", f"{len(request.body)} bytes")
        if not isinstance(body, dict):
            self.violate("the body is an object", type(body).__name__)
        if unknown := sorted(body.keys() - set(allowed)):
            self.violate("unknown parameter", ", ".join(unknown)[:80])
        return body

    def _told(self, call: WebCall) -> _Told:
        told: _Told = call.extra.setdefault("told", _Told())
        return told


def _sorted(encoded: str) -> Sequence[tuple[str, str]]:
    return sorted(parse_qsl(encoded, keep_blank_values=True))


def _hmac(token: str, signed: bytes) -> str:
    return base64.b64encode(hmac.new(token.encode(), signed, hashlib.sha256).digest()).decode()


def _error(status: int, text: str) -> RestReply:
    return RestReply.of(status, {"api_id": str(uuid.uuid4()), "error": text})
