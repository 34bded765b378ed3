"""A strict fake of Twilio's HTTP side: signed webhooks, TwiML, status callbacks and the Call resource.

Source: Twilio docs, "TwiML for Programmable Voice" (<Connect>, <Stream>, <Reject>, <Dial>, <Redirect>), "Twilio's
request to your application", "Call resource", "Media Streams - status callbacks", and the error dictionary.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from gateway.simulator.base import CallPlan, ProtocolViolation
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

# verb -> (attributes, nouns)
VERBS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "Connect": (frozenset({"action", "method"}), frozenset({"Stream"})),
    "Dial": (
        frozenset({"action", "method", "timeout", "callerId", "timeLimit", "answerOnBridge", "hangupOnStar", "record"}),
        frozenset({"Number", "Sip", "Client"}),
    ),
    "Hangup": (frozenset(), frozenset()),
    "Pause": (frozenset({"length"}), frozenset()),
    "Play": (frozenset({"loop", "digits"}), frozenset()),
    "Redirect": (frozenset({"method"}), frozenset()),
    "Reject": (frozenset({"reason"}), frozenset()),
    "Say": (frozenset({"voice", "language", "loop"}), frozenset()),
}
STREAM = frozenset({"url", "name", "statusCallback", "statusCallbackMethod"})
MAX_PARAMETER = 500
DOCUMENT = "12100: the document must be TwiML"
CONTENT_TYPE = "12300: the Content-Type must be text/xml or application/xml"
STREAM_URL = "31922: a stream's URL is wss:// without a query"

UPDATE = frozenset({"Status", "Twiml", "Url", "Method", "FallbackUrl", "FallbackMethod", "TimeLimit"}) | frozenset(
    {"StatusCallback", "StatusCallbackMethod"}
)
CREATE = (
    UPDATE - {"Status"}
    | frozenset({"To", "From", "StatusCallbackEvent", "Timeout", "SendDigits"})
    | frozenset(
        {"MachineDetection", "AsyncAmd", "AsyncAmdStatusCallback", "AsyncAmdStatusCallbackMethod", "ApplicationSid"}
    )
    | frozenset({"CallerId", "CallToken", "Record"})
)
EVENTS = frozenset({"initiated", "ringing", "answered", "completed"})


@dataclass(slots=True)
class _Running:
    """What one call has been told."""

    verbs: list[Element] = field(default_factory=list)  # still to run
    action: tuple[str, str] | None = None  # of the <Connect> that runs: URL and method
    stream_status: tuple[str, str] | None = None
    next: list[tuple[str, str]] = field(default_factory=list)  # of a REST update, for when the stream is over
    status_url: str = ""
    events: frozenset[str] = frozenset({"completed"})
    url: tuple[str, str] | None = None  # of a call that REST placed
    twiml: str = ""
    detection: str = ""  # AsyncAmdStatusCallback
    sequence: int = 0
    tried: int = 0


class FakeTwilioWeb(FakeWeb):
    """An account at Twilio.

    Credentials: `account_sid` and `auth_token`; with `signing_key_id` and `signing_key` webhooks are signed with that
    shared key and HMAC-SHA256; with `api_key_sid` and `api_key_secret` REST takes these too.

    Args:
        ended_reply: what a REST update of a call that is over gets: error 21220 or 20404, or 200 as was also seen.
        method: by which the answer URL is fetched.
    """

    name: ClassVar[str] = "twilio"
    answer_timeout_s: ClassVar[float] = 15.0
    detects: ClassVar[frozenset[Tampering]] = frozenset({Tampering.UNSIGNED, Tampering.FORGED, Tampering.ALTERED})

    def __init__(
        self,
        answer_url: str = "",
        *,
        credentials: Mapping[str, str] | None = None,
        status_url: str = "",
        ended_reply: Literal["21220", "20404", "200"] = "21220",
        method: Literal["POST", "GET"] = "POST",
    ) -> None:
        super().__init__(answer_url, credentials=credentials, status_url=status_url)
        self.ended_reply, self.method = ended_reply, method

    def made_up_credentials(self) -> Mapping[str, str]:
        return {"account_sid": "AC" + uuid.uuid4().hex, "auth_token": secrets.token_hex(16)}

    def handshake(self, url: str, now: float) -> Mapping[str, str]:
        signed = self.sign(Webhook(what="handshake", method="GET", url=url), now, self.credentials)
        return {name: value for name, value in signed.headers.items() if name.startswith("x-twilio-")}

    def forged_credentials(self) -> Mapping[str, str]:
        forged = {**self.credentials, "auth_token": secrets.token_hex(16)}
        if "signing_key" in forged:
            forged["signing_key"] = secrets.token_hex(16)
        return forged

    # ------------------------------------------------------------ webhooks

    def sign(self, webhook: Webhook, now: float, credentials: Mapping[str, str]) -> Webhook:
        url = webhook.url.partition("#")[0]
        headers = {"user-agent": "TwilioProxy/1.1", "accept": "*/*", **webhook.headers}
        fields = parse_qsl(webhook.body.decode(), keep_blank_values=True)
        key, hash_name = credentials["auth_token"], "sha1"
        if "signing_key" in credentials:
            key, hash_name = credentials["signing_key"], "sha256"
            headers["x-twilio-webhooks-signature-settings"] = (
                f"key={credentials['signing_key_id']},algorithm=HMAC_SHA256"
            )
        text = url
        for name in sorted({name for name, _ in fields}):
            text += "".join(name + value for value in sorted({value for n, value in fields if n == name}))
        digest = hmac.new(key.encode(), text.encode(), getattr(hashlib, hash_name)).digest()
        headers["x-twilio-signature"] = base64.b64encode(digest).decode()
        return replace(webhook, url=url, headers=headers)

    def fields(self, call: WebCall, status: str) -> dict[str, str]:
        """What every webhook about a call has; places of which nothing is known are blank, and signed all the same."""
        plan = call.plan
        direction = "inbound" if call.direction == "inbound" else "outbound-api"
        fields = {
            "CallSid": call.call_id,
            "AccountSid": self.credentials["account_sid"],
            "From": plan.from_number,
            "To": plan.to_number,
            "Caller": plan.from_number,
            "Called": plan.to_number,
            "CallStatus": status,
            "Direction": direction,
            "ApiVersion": "2010-04-01",
            "FromCity": "SAN FRANCISCO",
            "FromState": "CA",
            "FromZip": "",
            "FromCountry": "US",
            "CallerName": "",
        }
        for name, value in plan.options.get("sip_headers", {}).items():
            fields[f"SipHeader_{name}"] = value
        return fields

    def ring(self, call: WebCall, now: float) -> None:
        running = self._running(call)
        running.status_url = self.status_url
        self.post(
            call, "answer", self.answer_url, self.fields(call, "ringing"), method=self.method, wants_document=True
        )

    def pick_up(self, call: WebCall, now: float, who: str = "human") -> None:
        running = self._running(call)
        call.answered_at, call.stage = now, Stage.BETWEEN
        self._report(call, "answered", "in-progress", now)
        if running.url is not None:
            url, method = running.url
            fields = self.fields(call, "in-progress")
            self.post(call, "answer", url, fields, method=method, wants_document=True)
        else:
            self._run_text(call, running.twiml, now)
        if running.detection:
            said = "machine_start" if who == "machine" else who
            fields = {"CallSid": call.call_id, "AccountSid": self.credentials["account_sid"], "AnsweredBy": said}
            self.post(call, f"answered by {said}", running.detection, {**fields, "MachineDetectionDuration": "2900"})

    def replied(self, call: WebCall, webhook: Webhook, reply: Reply | None, now: float) -> None:
        running = self._running(call)
        if not webhook.wants_document:
            if reply is not None and reply.status >= 400:
                self.violate("15003: a callback must be answered with 2xx", f"{webhook.what}: HTTP {reply.status}")
            return
        if call.over:
            return
        if reply is None and running.tried == 0:
            running.tried += 1
            call.webhooks.appendleft(webhook)
            return
        running.tried = 0
        if reply is None or reply.status >= 400:
            # The caller hears that an application error has occurred.
            code = "11205: no answer" if reply is None else f"11200: HTTP {reply.status}"
            self.finish(call, "carrier", f"failed: {code}", now)
            return
        if reply.media_type not in ("text/xml", "application/xml"):
            self.violate(CONTENT_TYPE, reply.media_type[:40])
        self._run_text(call, reply.body.decode("utf-8", "replace"), now)

    # ------------------------------------------------------------ TwiML

    def _run_text(self, call: WebCall, text: str, now: float) -> None:
        self._running(call).verbs = self.parse(text)
        self._run(call, now)

    def parse(self, text: str) -> list[Element]:
        """The verbs of a document. Raises ProtocolViolation."""
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as exc:
            self.violate(DOCUMENT, f"not XML: {exc}")
        if root.tag != "Response" or root.attrib:
            self.violate(DOCUMENT, f"<{root.tag[:20]}>, not <Response>")
        for index, verb in enumerate(root):
            self._check_verb(verb, index)
        return list(root)

    def _check_verb(self, verb: Element, index: int) -> None:
        if verb.tag not in VERBS:
            self.violate(f"{DOCUMENT}: unknown verb", verb.tag[:20])
        attributes, nouns = VERBS[verb.tag]
        self._check_attributes(verb, attributes)
        for child in verb:
            if child.tag not in nouns:
                self.violate(f"{DOCUMENT}: <{verb.tag}> has no <{child.tag[:20]}>")
        match verb.tag:
            case "Reject":
                if index or verb.get("reason", "rejected") not in ("busy", "rejected"):
                    self.violate(f"{DOCUMENT}: <Reject> comes first, with reason busy or rejected")
            case "Connect":
                if len(verb) != 1:
                    self.violate(f"{DOCUMENT}: <Connect> has one <Stream>", f"{len(verb)}")
                self._check_url(verb, "action")
                self._check_stream(verb[0])
            case "Redirect":
                self.check_public_url((verb.text or "").strip(), ("https",), "11100: invalid URL")
            case "Dial" if not len(verb) and not (verb.text or "").strip():
                self.violate("13224: <Dial> has nobody to call")

    def _check_stream(self, stream: Element) -> None:
        self._check_attributes(stream, STREAM)
        url = stream.get("url", "")
        self.check_public_url(url, ("wss",), STREAM_URL)
        if "?" in url:
            self.violate(STREAM_URL, "a query")
        self._check_url(stream, "statusCallback")
        for parameter in stream:
            if parameter.tag != "Parameter":
                self.violate(f"{DOCUMENT}: <Stream> has no <{parameter.tag[:20]}>")
            self._check_attributes(parameter, frozenset({"name", "value"}))
            name, value = parameter.get("name"), parameter.get("value")
            if not name or value is None:
                self.violate("a <Parameter> has a name and a value")
            if len(name) + len(value) >= MAX_PARAMETER:
                self.violate(f"a <Parameter> has fewer than {MAX_PARAMETER} characters", f"{len(name) + len(value)}")

    def _check_attributes(self, element: Element, allowed: frozenset[str]) -> None:
        if unknown := sorted(element.attrib.keys() - allowed):
            self.violate(f"12200: <{element.tag[:20]}> has no attribute", ", ".join(unknown)[:80])
        for name in element.attrib.keys() & {"method", "statusCallbackMethod"}:
            if element.get(name) not in ("GET", "POST"):
                self.violate(f"12200: {name} is GET or POST")

    def _check_url(self, element: Element, name: str) -> None:
        if (url := element.get(name)) is not None:
            self.check_public_url(url, ("https",), f"11100: {name} is an absolute URL")

    def _run(self, call: WebCall, now: float) -> None:
        """Run verbs until one of them waits for something."""
        running = self._running(call)
        call.stage = Stage.BETWEEN if call.answered_at is not None else call.stage
        while running.verbs and not call.over:
            verb = running.verbs.pop(0)
            if verb.tag not in ("Reject", "Redirect", "Pause") and call.answered_at is None:
                call.answered_at = now
            match verb.tag:
                case "Connect":
                    stream = verb[0]
                    running.action = _with_method(verb, "action", "method")
                    running.stream_status = _with_method(stream, "statusCallback", "statusCallbackMethod")
                    parameters = {item.get("name", ""): item.get("value", "") for item in stream}
                    self.connect(call, stream.get("url", ""), replace(call.plan, parameters=parameters))
                    return
                case "Reject":
                    if call.direction != "inbound" or call.answered_at is not None:
                        self.violate("<Reject> is for calls that ring")
                    reason = verb.get("reason", "rejected")
                    self.finish(call, "bot", reason, now)
                case "Hangup":
                    self.finish(call, "bot", "completed", now)
                case "Say":
                    call.spoken.append((verb.text or "").strip())
                case "Play":
                    call.digits += verb.get("digits", "")
                case "Dial":
                    noun = verb[0] if len(verb) else verb
                    prefix = "client:" if noun.tag == "Client" else ""
                    call.handed_to.append(prefix + (noun.text or "").strip())
                    call.stage = Stage.BETWEEN
                    return  # until one of the two hangs up
                case "Redirect":
                    self._redirect(call, (verb.text or "").strip(), verb.get("method", "POST"))
                    return
        self.finish(call, "bot", "completed", now)

    # ------------------------------------------------------------ the stream

    def socket_opened(self, call: WebCall, now: float) -> None:
        self._stream_event(call, "stream-started", now)

    def socket_refused(self, call: WebCall, status: int, now: float) -> None:
        said = f"31920: handshake, HTTP {status}" if status else "31901: connection failed"
        self._stream_event(call, "stream-error", now, said)
        running = self._running(call)
        if running.verbs:
            self._run(call, now)
        else:
            self.finish(call, "carrier", f"failed: {said}", now)

    def media_over(self, call: WebCall, now: float) -> None:
        running = self._running(call)
        by = call.media.ended_by if call.media is not None else "error"
        if by == "error":
            self._stream_event(call, "stream-error", now, "31924: the WebSocket broke")
        else:
            self._stream_event(call, "stream-stopped", now)
        if call.cut == "transfer":
            call.cut = ""
            self._go_on(call, now)
        elif call.cut or by == "caller":
            if running.action is not None:
                url, method = running.action
                self.post(call, "after", url, self.fields(call, "completed"), method=method)
            self.finish(call, "bot" if call.cut else "caller", "completed", now)
        elif running.action is not None:
            url, method = running.action
            self.post(call, "after", url, self.fields(call, "in-progress"), method=method, wants_document=True)
        else:
            self._run(call, now)

    def _stream_event(self, call: WebCall, event: str, now: float, error: str = "") -> None:
        target = self._running(call).stream_status
        if target is None:
            return
        fields = {
            "AccountSid": self.credentials["account_sid"],
            "CallSid": call.call_id,
            "StreamSid": getattr(call.media, "stream_sid", "MZ" + "0" * 32),
            "StreamName": getattr(call.media, "stream_sid", ""),
            "StreamEvent": event,
            "Timestamp": email.utils.format_datetime(email.utils.localtime()),
        }
        if error:
            fields["StreamError"] = error
        self.post(call, event, target[0], fields, method=target[1])

    def ended(self, call: WebCall, now: float) -> None:
        status = {"busy": "busy", "rejected": "busy", "no-answer": "no-answer", "canceled": "canceled"}.get(call.end)
        failed = call.end.startswith("failed") and call.answered_at is None
        self._report(call, "completed", status or ("failed" if failed else "completed"), now)

    def _report(self, call: WebCall, event: str, status: str, now: float) -> None:
        running = self._running(call)
        if not running.status_url or event not in running.events:
            return
        fields = self.fields(call, status)
        fields |= {"CallbackSource": "call-progress-events", "SequenceNumber": str(running.sequence)}
        fields["Timestamp"] = email.utils.formatdate(now)
        running.sequence += 1
        if event == "completed":
            duration = max(0, round(now - call.answered_at)) if call.answered_at is not None else 0
            fields |= {"CallDuration": str(duration), "Duration": str(-(-duration // 60)), "SipResponseCode": "200"}
        self.post(call, f"status {status}", running.status_url, fields)

    # ------------------------------------------------------------ REST

    def routes(self) -> Sequence[tuple[str, str, str, Handler]]:
        accounts = r"/2010-04-01/Accounts/(?P<account>[^/]+)/"
        one = accounts + r"Calls/(?P<call>[^/]+)\.json"
        return (
            ("POST", accounts + r"Calls\.json", "dial", self._create),
            ("POST", one, "update", self._update),
            ("GET", one, "fetch", self._fetch),
        )

    def route_of(self, route: str, request: RestRequest) -> str:
        if route != "update":
            return route
        names = {name for name, _ in request.form}
        return "hang-up" if "Status" in names else "transfer"

    def authorized(self, request: RestRequest, now: float) -> RestReply | None:
        own = self.credentials
        pairs = [(own["account_sid"], own["auth_token"])]
        if "api_key_sid" in own:
            pairs.append((own["api_key_sid"], own["api_key_secret"]))
        right = ["Basic " + base64.b64encode(f"{user}:{word}".encode()).decode() for user, word in pairs]
        return None if request.headers.get("authorization") in right else self.wrong_credentials(request)

    def wrong_credentials(self, request: RestRequest) -> RestReply:
        return _error(401, 20003, "Authenticate")

    def not_found(self, request: RestRequest) -> RestReply:
        return _error(404, 20404, "The requested resource was not found")

    def bad_request(self, violation: ProtocolViolation) -> RestReply:
        return _error(400, 21218, violation.rule)

    def already_over(self, request: RestRequest, route: str) -> RestReply:
        if self.ended_reply == "20404":
            return self.not_found(request)
        if self.ended_reply == "200" and route == "hang-up":
            return RestReply.of(200, {"status": "completed"})
        return _error(400, 21220, "Call is not in-progress. Cannot redirect.")

    def failing(self, status: int, retry_after_s: float | None) -> RestReply:
        reply = _error(status, 20429 if status == 429 else 20500, "Too Many Requests" if status == 429 else "Error")
        headers = dict(reply.headers)
        if retry_after_s is not None:
            headers["retry-after"] = f"{retry_after_s:g}"
        return replace(reply, headers=headers)

    def _create(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        self._check_account(request, match)
        fields = self._form(request, CREATE)
        for name in ("To", "From"):
            if not fields.get(name):
                self.violate(f"21201: no {name!r} number")
        if sum(name in fields for name in ("Url", "Twiml", "ApplicationSid")) != 1:
            self.violate("21205: exactly one of Url, Twiml and ApplicationSid")
        self._check_seconds(fields, "Timeout", 1, 600)
        self._check_seconds(fields, "TimeLimit", 1, 86400)
        if fields.get("MachineDetection", "Enable") not in ("Enable", "DetectMessageEnd"):
            self.violate("MachineDetection is Enable or DetectMessageEnd")
        events = frozenset(value for name, value in request.form if name == "StatusCallbackEvent")
        if events - EVENTS:
            self.violate("21626: StatusCallbackEvent is one of " + ", ".join(sorted(EVENTS)))
        call = self.placed_call(CallPlan(from_number=fields["From"], to_number=fields["To"]), now)
        running = self._running(call)
        if "Url" in fields:
            running.url = fields["Url"], fields.get("Method", "POST")
        running.twiml = fields.get("Twiml", "")
        running.status_url = fields.get("StatusCallback", "")
        running.events = events or running.events
        if "MachineDetection" in fields and fields.get("AsyncAmd") == "true":
            running.detection = fields.get("AsyncAmdStatusCallback", "")
        self._report(call, "initiated", "initiated", now)
        self._report(call, "ringing", "ringing", now)
        return RestReply.of(201, self._resource(call, "queued"))

    def _update(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        call = self._call(request, match)
        fields = self._form(request, UPDATE)
        status = fields.get("Status")
        if status is None and ("Twiml" in fields) == ("Url" in fields):
            self.violate("21205: Status, or one of Url and Twiml")
        if call.gone:
            return self.already_over(request, "hang-up" if status else "transfer")
        if status == "completed" or (status == "canceled" and call.answered_at is None):
            self.hang_up(call, now)
            return RestReply.of(200, self._resource(call, "completed"))
        if status is not None:
            self.violate("21218: Status is completed, or canceled before the answer")
        running = self._running(call)
        if "Twiml" in fields:
            if len(fields["Twiml"]) > 4000:
                self.violate("Twiml has at most 4000 characters")
            self.parse(fields["Twiml"])
            running.next = [("Twiml", fields["Twiml"])]
        else:
            self.check_public_url(fields["Url"], ("https",), "21205: Url is invalid")
            running.next = [("Url", fields["Url"]), ("Method", fields.get("Method", "POST"))]
        self.took_effect(call)
        if call.stage is Stage.STREAMING:
            self.cut_stream(call, "transfer")
        else:
            self._go_on(call, now)
        return RestReply.of(200, self._resource(call, "in-progress"))

    def _go_on(self, call: WebCall, now: float) -> None:
        """Run what a REST update said."""
        running = self._running(call)
        told = dict(running.next)
        running.next, running.action = [], None
        if "Twiml" in told:
            self._run_text(call, told["Twiml"], now)
        else:
            self._redirect(call, told["Url"], told["Method"])

    def _redirect(self, call: WebCall, url: str, method: str) -> None:
        """Another document; from somebody else, the call is theirs from here on."""
        ours = [self.answer_url] + [known[0] for known in (self._running(call).url,) if known]
        if url.partition("?")[0] in [known.partition("?")[0].partition("#")[0] for known in ours]:
            status = "in-progress" if call.answered_at is not None else "ringing"
            self.post(call, "redirect", url, self.fields(call, status), method=method, wants_document=True)
        else:
            call.handed_to.append(url)
            call.stage = Stage.BETWEEN

    def _fetch(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        call = self._call(request, match)
        return RestReply.of(200, self._resource(call, self._status_of(call)))

    def _status_of(self, call: WebCall) -> str:
        if call.gone:
            return {"busy": "busy", "rejected": "busy", "no-answer": "no-answer", "canceled": "canceled"}.get(
                call.end, "completed"
            )
        return "ringing" if call.answered_at is None else "in-progress"

    def _resource(self, call: WebCall, status: str) -> dict[str, Any]:
        return {
            "sid": call.call_id,
            "account_sid": self.credentials["account_sid"],
            "from": call.plan.from_number,
            "to": call.plan.to_number,
            "direction": "inbound" if call.direction == "inbound" else "outbound-api",
            "status": status,
        }

    def _call(self, request: RestRequest, match: re.Match[str]) -> WebCall:
        self._check_account(request, match)
        call = self.calls.get(match["call"])
        if call is None:
            raise RestRefusal(self.not_found(request))
        return call

    def _check_account(self, request: RestRequest, match: re.Match[str]) -> None:
        if match["account"] != self.credentials["account_sid"]:
            raise RestRefusal(self.not_found(request))

    def _form(self, request: RestRequest, allowed: frozenset[str]) -> Mapping[str, str]:
        if request.media_type != "application/x-www-form-urlencoded":
            self.violate("the body is a form", request.media_type[:40])
        if unknown := {name for name, _ in request.form} - allowed:
            self.violate("unknown parameter", ", ".join(sorted(unknown))[:80])
        return dict(request.form)

    def _check_seconds(self, fields: Mapping[str, str], name: str, least: int, most: int) -> None:
        text = fields.get(name, str(least))
        if not text.isdigit() or not least <= int(text) <= most:
            self.violate(f"{name} is {least} to {most} seconds")

    def _running(self, call: WebCall) -> _Running:
        running: _Running = call.extra.setdefault("running", _Running())
        return running


def _with_method(element: Element, url: str, method: str) -> tuple[str, str] | None:
    target = element.get(url)
    return (target, element.get(method, "POST")) if target else None


def _error(status: int, code: int, message: str) -> RestReply:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return RestReply.of(status, {"code": code, "message": message, "more_info": more, "status": status})
