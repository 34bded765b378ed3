"""The fake Telnyx's TeXML plane: documents, callbacks, and the REST interface that takes forms."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from gateway.simulator.base import CallPlan
from gateway.simulator.documents import Verb, content, read_document, read_elements
from gateway.simulator.telnyx_account import Told, error
from gateway.simulator.web import Handler, Reply, RestRefusal, RestReply, RestRequest, Stage, WebCall, Webhook

if TYPE_CHECKING:
    from gateway.simulator.telnyx_web import FakeTelnyxWeb

DOCUMENT = "the answer must be a TeXML document"
STREAM_URL = "a stream's URL is wss://"
MODE = 'bidirectionalMode must be "rtp": with the default, mp3, nobody would hear the bot'
VERBS: Mapping[str, Verb] = {
    "Connect": Verb((), ("Stream",)),
    "Stream": Verb(
        (
            *("url", "track", "codec", "name", "statusCallback", "statusCallbackMethod"),
            *("bidirectionalMode", "bidirectionalCodec", "bidirectionalSamplingRate"),
        ),
        ("Parameter",),
    ),
    "Parameter": Verb(("name", "value")),
    "Dial": Verb(("callerId", "timeout", "timeLimit", "action", "method"), ("Number", "Sip")),
    "Number": Verb(),
    "Sip": Verb(),
    "Hangup": Verb(),
    "Pause": Verb(("length",)),
    "Redirect": Verb(("method",)),
    "Reject": Verb(("reason",)),
    "Say": Verb(("voice", "language")),
}
CHOICES: Mapping[str, Collection[str]] = {
    "track": ("inbound_track", "outbound_track", "both_tracks"),
    "codec": ("PCMU", "PCMA", "G722", "OPUS", "AMR-WB", "default"),
    "bidirectionalCodec": ("PCMU", "PCMA", "G722", "OPUS", "AMR-WB", "L16"),
    "bidirectionalSamplingRate": ("8000", "16000", "24000"),
    "statusCallbackMethod": ("GET", "POST"),
    "method": ("GET", "POST"),
    "reason": ("busy", "rejected"),
}
CREATE = frozenset(
    {
        *("ApplicationSid", "To", "From", "Url", "UrlMethod", "FallbackUrl", "Texml", "Timeout", "TimeLimit"),
        *("StatusCallback", "StatusCallbackMethod", "StatusCallbackEvent", "CallerId", "PreferredCodecs"),
        *("MachineDetection", "DetectionMode", "AsyncAmd", "AsyncAmdStatusCallback", "AsyncAmdStatusCallbackMethod"),
    }
)
UPDATE = frozenset({"Status", "Url", "Method", "FallbackUrl", "Texml", "StatusCallback", "StatusCallbackMethod"})
EVENTS = frozenset({"initiated", "ringing", "answered", "completed"})

# ---------------------------------------------------------------- documents


def replied(web: FakeTelnyxWeb, call: WebCall, webhook: Webhook, reply: Reply | None, now: float) -> None:
    if not webhook.wants_document:
        if reply is not None and reply.status >= 400:
            web.violate("a webhook must be answered with 2xx", f"{webhook.what}: HTTP {reply.status}")
        return
    if call.over:
        return
    if reply is None or reply.status >= 400:
        web.told(call).refused = True
        web.finish(call, "carrier", f"failed: {'no answer' if reply is None else f'HTTP {reply.status}'}", now)
        return
    web.told(call).verbs = _checked(web, read_document(web, reply, VERBS, DOCUMENT))
    run(web, call, now)


def _checked(web: FakeTelnyxWeb, elements: Sequence[Element]) -> list[Element]:
    for index, verb in enumerate(elements):
        for element in verb.iter():
            for name in element.attrib.keys() & CHOICES.keys():
                if element.get(name) not in CHOICES[name]:
                    web.violate(DOCUMENT, f"{element.tag} {name}={element.get(name, '')[:20]!r}")
        if verb.tag == "Reject" and index:
            web.violate(DOCUMENT, "<Reject> comes first")
        if verb.tag == "Dial" and not (len(verb) or content(verb)):
            web.violate(DOCUMENT, "<Dial> has nobody to call")
        if verb.tag == "Redirect":
            web.check_public_url(content(verb), ("https",), DOCUMENT)
        if verb.tag == "Connect":
            if len(verb) != 1:
                web.violate(DOCUMENT, f"<Connect> has one <Stream>, not {len(verb)}")
            _check_stream(web, verb[0])
    return list(elements)


def _check_stream(web: FakeTelnyxWeb, stream: Element) -> None:
    web.check_public_url(stream.get("url", ""), ("wss",), STREAM_URL)
    if stream.get("bidirectionalMode", "mp3") != "rtp":
        web.violate(MODE, f"bidirectionalMode={stream.get('bidirectionalMode', 'mp3')[:20]!r}")
    codec, rate = stream.get("bidirectionalCodec", "PCMU"), stream.get("bidirectionalSamplingRate", "8000")
    if codec in ("PCMU", "PCMA") and rate != "8000":
        web.violate(DOCUMENT, f"{codec} has 8000 Hz, not {rate}")
    if (url := stream.get("statusCallback")) is not None:
        web.check_public_url(url, ("https",), DOCUMENT)
    for parameter in stream:
        if not parameter.get("name") or parameter.get("value") is None:
            web.violate(DOCUMENT, "a <Parameter> has a name and a value")


def run(web: FakeTelnyxWeb, call: WebCall, now: float) -> None:
    """Run verbs until one of them waits for something; after the last one the call ends."""
    told = web.told(call)
    while told.verbs and not call.over:
        verb = told.verbs.pop(0)
        if verb.tag not in ("Reject", "Redirect") and call.answered_at is None:
            call.answered_at = now
            report(web, call, "answered", "in-progress", now)
        match verb.tag:
            case "Connect":
                _connect(web, call, verb[0])
                return
            case "Reject":
                if call.direction != "inbound" or call.answered_at is not None:
                    web.violate(DOCUMENT, "<Reject> of a call that does not ring")
                web.finish(call, "bot", verb.get("reason", "rejected"), now)
            case "Hangup":
                web.finish(call, "bot", "completed", now)
            case "Say":
                call.spoken.append(content(verb))
            case "Dial":
                call.handed_to.append(content(verb[0] if len(verb) else verb))
                call.stage = Stage.BETWEEN
                return  # until one of the two hangs up
            case "Redirect":
                _redirect(web, call, content(verb), verb.get("method", "POST"))
                return
    web.finish(call, "bot", "completed", now)


def _connect(web: FakeTelnyxWeb, call: WebCall, stream: Element) -> None:
    told = web.told(call)
    status = stream.get("statusCallback")
    told.stream_status = (status, stream.get("statusCallbackMethod", "POST")) if status else None
    receive, send = stream.get("codec", "default"), stream.get("bidirectionalCodec", "PCMU")
    plan = replace(
        call.plan,
        parameters={item.get("name", ""): item.get("value", "") for item in stream},
        receive_codec=call.plan.receive_codec if receive == "default" else receive,
        send_codec=send,
        sample_rate=int(stream.get("bidirectionalSamplingRate", "8000")) if send == "L16" else 0,
        options={**call.plan.options, "control": "texml"},
    )
    web.connect(call, stream.get("url", ""), plan)


def _redirect(web: FakeTelnyxWeb, call: WebCall, url: str, method: str) -> None:
    """Another document; from somebody else, the call is theirs from here on."""
    told = web.told(call)
    ours = [known.partition("?")[0] for known in (web.answer_url, told.url[0] if told.url else "") if known]
    if url.partition("?")[0] in ours:
        status = "in-progress" if call.answered_at is not None else "ringing"
        web.post(call, "redirect", url, web.fields(call, status), method=method, wants_document=True)
    else:
        call.handed_to.append(url)
        call.stage = Stage.BETWEEN


def go_on(web: FakeTelnyxWeb, call: WebCall, now: float) -> None:
    """Run what a REST update said."""
    told = web.told(call)
    said, told.next = dict(told.next), []
    if "Texml" in said:
        told.verbs = _checked(web, read_elements(web, said["Texml"], VERBS, DOCUMENT))
        run(web, call, now)
    else:
        _redirect(web, call, said["Url"], said.get("Method", "POST"))


# ---------------------------------------------------------------- callbacks


def pick_up(web: FakeTelnyxWeb, call: WebCall, now: float, who: str) -> None:
    told = web.told(call)
    call.answered_at, call.stage = now, Stage.BETWEEN
    report(web, call, "answered", "in-progress", now)
    if told.detection:
        said = "machine_start" if who == "machine" else who
        fields = {"CallSid": call.call_id, "AccountSid": web.credentials["account_id"], "AnsweredBy": said}
        web.post(call, f"answered by {said}", told.detection, fields)
    if told.url is not None:
        fields = web.fields(call, "in-progress")
        web.post(call, "answer", told.url[0], fields, method=told.url[1], wants_document=True)
    else:
        run(web, call, now)


def stream_event(web: FakeTelnyxWeb, call: WebCall, event: str, now: float, problem: str = "") -> None:
    target = web.told(call).stream_status
    if target is None:
        return
    stream_id = getattr(call.media, "stream_id", "")
    fields = {
        "AccountSid": web.credentials["account_id"],
        "CallSid": call.call_id,
        "CallSidLegacy": call.extra.get("legacy", ""),
        "StreamSid": stream_id,
        "StreamName": "",
        "StreamEvent": event,
        "Timestamp": email.utils.formatdate(now),
    }
    if problem:
        fields["StreamError"] = problem
    web.post(call, event, target[0], fields, method=target[1])


def report(web: FakeTelnyxWeb, call: WebCall, event: str, status: str, now: float) -> None:
    """A status callback, if somebody wants it."""
    told = web.told(call)
    if not told.status_url or told.refused or event not in told.events:
        return
    told.sequence += 1
    fields = web.fields(call, status) | {
        "CallbackSource": "call-progress-events",
        "SequenceNumber": str(told.sequence),
        "Timestamp": email.utils.formatdate(now),
    }
    if event == "completed":
        duration = 0 if call.answered_at is None else max(0, round(now - call.answered_at))
        ours, theirs = ("caller", "callee") if call.direction == "outbound" else ("callee", "caller")
        fields["CallDuration"] = str(duration)
        fields["HangupSource"] = {"bot": ours, "caller": theirs}.get(call.ended_by, "unknown")
    for _ in range(2 if web.repeats else 1):
        web.post(call, f"status {status}", told.status_url, fields)
        if web.disorder and len(call.webhooks) > 1:
            call.webhooks.rotate(1)


def ended(web: FakeTelnyxWeb, call: WebCall, now: float) -> None:
    word = call.end.partition(":")[0]
    status = {"busy": "busy", "rejected": "busy", "no-answer": "no-answer", "canceled": "canceled"}.get(word)
    failed = word == "failed" and call.answered_at is None
    report(web, call, "completed", status or ("failed" if failed else "completed"), now)


# ---------------------------------------------------------------- REST


def routes(web: FakeTelnyxWeb) -> Sequence[tuple[str, str, str, Handler]]:
    account = r"/v2/texml/Accounts/(?P<account>[^/]+)/Calls"
    one = account + r"/(?P<call>[^/]+)"
    return (
        ("POST", account, "dial", lambda request, match, now: _create(web, request, match, now)),
        ("POST", one, "update", lambda request, match, now: _update(web, request, match, now)),
        ("GET", one, "fetch", lambda request, match, now: _fetch(web, request, match)),
    )


def _create(web: FakeTelnyxWeb, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
    _own_account(web, match)
    fields = _form(web, request, CREATE)
    if fields.get("ApplicationSid") != web.credentials["connection_id"] or web.control != "texml":
        raise RestRefusal(error(422, "10015", "ApplicationSid is no TeXML application of this account"))
    for name in ("To", "From"):
        if not fields.get(name):
            web.violate(f"{name} is missing")
    for name, least, most in (("Timeout", 5, 120), ("TimeLimit", 30, 14400)):
        text = fields.get(name, str(least))
        if not text.isdigit() or not least <= int(text) <= most:
            web.violate(f"{name} is {least} to {most}")
    for name in ("Url", "StatusCallback", "AsyncAmdStatusCallback"):
        if name in fields:
            web.check_public_url(fields[name], ("https",), f"{name} is an absolute URL")
    events = frozenset(fields.get("StatusCallbackEvent", "completed").split())
    if events - EVENTS:
        web.violate("StatusCallbackEvent has words of " + ", ".join(sorted(EVENTS)))
    call = web.placed_call(CallPlan(from_number=fields["From"], to_number=fields["To"]), now)
    told: Told = web.told(call)
    told.status_url, told.events = fields.get("StatusCallback", ""), events
    if "Url" in fields:
        told.url = fields["Url"], fields.get("UrlMethod", "POST")
    elif "Texml" in fields:
        told.verbs = _checked(web, read_elements(web, fields["Texml"], VERBS, DOCUMENT))
    if "MachineDetection" in fields and fields.get("AsyncAmd") == "true":
        told.detection = fields.get("AsyncAmdStatusCallback", "")
    report(web, call, "initiated", "initiated", now)
    report(web, call, "ringing", "ringing", now)
    return RestReply.of(200, _resource(web, call, "queued"))


def _update(web: FakeTelnyxWeb, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
    call = _call(web, match)
    fields = _form(web, request, UPDATE)
    if ("Status" in fields) + ("Texml" in fields) + ("Url" in fields) != 1:
        web.violate("one of Status, Url and Texml")
    if call.gone:
        return web.already_over(request, "update")
    if "Status" in fields:
        if fields["Status"] != "completed":
            web.violate("Status is completed")
        web.hang_up(call, now)
        return RestReply.of(200, _resource(web, call, "completed"))
    if "Texml" in fields:
        _checked(web, read_elements(web, fields["Texml"], VERBS, DOCUMENT))
    else:
        web.check_public_url(fields["Url"], ("https",), "Url is an absolute URL")
    web.told(call).next = [(name, fields[name]) for name in ("Texml", "Url", "Method") if name in fields]
    web.took_effect(call)
    if call.stage is Stage.STREAMING:
        web.cut_stream(call, "transfer")
    else:
        go_on(web, call, now)
    return RestReply.of(200, _resource(web, call, "in-progress"))


def _fetch(web: FakeTelnyxWeb, request: RestRequest, match: re.Match[str]) -> RestReply:
    call = _call(web, match)
    if not call.gone:
        return RestReply.of(200, _resource(web, call, "ringing" if call.answered_at is None else "in-progress"))
    known = {"busy": "busy", "rejected": "busy", "no-answer": "no-answer", "canceled": "canceled"}
    return RestReply.of(200, _resource(web, call, known.get(call.end, "completed")))


def _resource(web: FakeTelnyxWeb, call: WebCall, status: str) -> Mapping[str, Any]:
    return {
        "sid": call.call_id,
        "account_sid": web.credentials["account_id"],
        "from": call.plan.from_number,
        "to": call.plan.to_number,
        "status": status,
    }


def _call(web: FakeTelnyxWeb, match: re.Match[str]) -> WebCall:
    _own_account(web, match)
    call = web.calls.get(match["call"])
    if call is None:
        raise RestRefusal(error(422, "90015", "Invalid Call Control ID"))
    return call


def _own_account(web: FakeTelnyxWeb, match: re.Match[str]) -> None:
    if match["account"] != web.credentials["account_id"]:
        raise RestRefusal(error(404, "10005", "Resource not found"))


def _form(web: FakeTelnyxWeb, request: RestRequest, allowed: Collection[str]) -> Mapping[str, str]:
    if request.media_type != "application/x-www-form-urlencoded":
        web.violate("the body is a form", request.media_type[:40])
    if unknown := {name for name, _ in request.form} - set(allowed):
        web.violate("unknown parameter", ", ".join(sorted(unknown))[:80])
    return dict(request.form)
