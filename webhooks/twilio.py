"""Twilio: the HTTP side.

Source: Twilio docs, "Security - validating requests are coming from Twilio", "TwiML <Stream>", "Call resource",
"Voice: status callbacks", "Connection overrides".
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl

from webhooks.base import (
    AnsweredBy,
    CallPhase,
    CallRef,
    CallStatus,
    CarrierEvent,
    CarrierHttp,
    CarrierRequest,
    CarrierSettings,
    DialOrder,
    Handled,
    HttpAnswer,
    InboundCall,
    NotAuthentic,
    Outcome,
    OutcomeKind,
    Purpose,
    Refusal,
    Secret,
    StreamOffer,
    StreamStatus,
    Transfer,
    UnreadableRequest,
    Urls,
    WebRequest,
)
from webhooks.characters import for_xml, writable
from webhooks.replies import json_object, unsuccessful
from webhooks.signature import (
    basic_auth,
    canonical_base64,
    checked_body,
    checked_fields,
    checked_url,
    header_names,
    same,
    told,
)
from webhooks.targets import ORDER, order_of, order_query

SIGNATURE = "x-twilio-signature"
SIGNATURE_SETTINGS = "x-twilio-webhooks-signature-settings"
FORM = "application/x-www-form-urlencoded"
API = "/2010-04-01/Accounts"
MAX_PARAMETER = 500  # characters of a <Parameter>'s name and value; Twilio wants fewer
MAX_TWIML = 4000  # characters in a REST update
MAX_RING_S = 600

_PHASES = {
    "queued": CallPhase.QUEUED,
    "initiated": CallPhase.QUEUED,
    "ringing": CallPhase.RINGING,
    "in-progress": CallPhase.ANSWERED,
    "completed": CallPhase.COMPLETED,
    "busy": CallPhase.BUSY,
    "no-answer": CallPhase.NO_ANSWER,
    "failed": CallPhase.FAILED,
    "canceled": CallPhase.CANCELED,
}
_STREAM = {"stream-started": "started", "stream-stopped": "stopped", "stream-error": "failed"}
_OVER = {(404, 20404), (400, 21220)}  # no such call (any more); call is not in progress
_DEFAULT_PORTS = {"https": "443", "wss": "443", "http": "80", "ws": "80"}
_NUMBER = re.compile(r"\+?[0-9*#]{2,30}")
_SID = re.compile(r"[A-Za-z0-9_.~-]{1,64}")  # what may stand in a path as it is
_HOST_PART = re.compile(r"[a-z0-9-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class TwilioSettings(CarrierSettings):
    """[carriers.twilio] in gateway.toml."""

    account_sid: str = ""  # "AC..."
    auth_token: Secret | None = None  # the primary one: signs webhooks and handshakes, and ends calls
    more_auth_tokens: tuple[Secret, ...] = ()  # whose signatures count too: while a token is changed, of subaccounts
    signing_key_id: str = ""  # of a shared key; with it only its HMAC-SHA256 signatures count, and no token's
    signing_key: Secret | None = None
    handshake_signature: Literal["off", "warn", "enforce"] = "enforce"  # of the media socket; its token always counts
    api_key_sid: str = ""  # "SK...": for REST instead of the auth token
    api_key_secret: Secret | None = None
    region: str = ""  # "ie1", "au1": where the account's calls live; empty: US1
    edge: str = ""  # "dublin", "sydney": goes with region
    auto_hang_up: bool = True
    next_url: str = ""  # TwiML that goes on with the call when the bot has left it; empty: the call ends

    def __post_init__(self) -> None:
        if bool(self.region) != bool(self.edge):
            raise ValueError("region and edge go together: the API's host is api.<edge>.<region>.twilio.com")
        if not all(_HOST_PART.fullmatch(part) for part in (self.region, self.edge) if part):
            raise ValueError("region and edge are words like ie1 and dublin")
        if bool(self.signing_key_id) != (self.signing_key is not None):
            raise ValueError("signing_key_id and signing_key go together")
        if bool(self.api_key_sid) != (self.api_key_secret is not None):
            raise ValueError("api_key_sid and api_key_secret go together")
        if self.next_url and not self.next_url.startswith(("https://", "http://")):
            raise ValueError("next_url must be an https:// URL that answers with TwiML")


# ---------------------------------------------------------------- signatures


def signature(key: bytes, url: str, pairs: Sequence[tuple[str, str]], hash_name: str = "sha1") -> bytes:
    """Twilio's signature: the URL, then every name with every value it has, both in byte order, each once."""
    signed = url + "".join(name + value for name, value in sorted(set(pairs)))
    return hmac.digest(key, signed.encode("utf-8", "surrogatepass"), hash_name)


def spellings(url: str) -> tuple[str, str]:
    """`url` with and without its port: Twilio is not consistent about which one it signs."""
    scheme, _, rest = url.partition("://")
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    host, tail = rest[:end], rest[end:]
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit():
        return url, f"{scheme}://{name}{tail}"
    return url, f"{scheme}://{host}:{_DEFAULT_PORTS.get(scheme, '443')}{tail}"


class TwilioHttp(CarrierHttp):
    """Webhooks, TwiML and REST requests of one Twilio account.

    Twilio's signature has no time and no nonce, and a flow may come back to our answer URL with the very same
    fields, so a webhook may be shown twice. What that gives away is little: statuses are idempotent, and the media
    socket wants a signature of its own over a URL that is new for every call.
    """

    carrier: ClassVar[str] = "twilio"
    account_fields = ("account_sid", "auth_token")
    id_fields = ("account_sid",)
    hosts: ClassVar[Sequence[str]] = ("api.twilio.com", "api.*.twilio.com")

    def __init__(self, settings: TwilioSettings) -> None:
        super().__init__(settings)
        tokens = (settings.auth_token, *settings.more_auth_tokens)
        self._tokens = [secret.reveal().encode() for secret in tokens if secret is not None]
        self._signing_key = settings.signing_key.reveal().encode() if settings.signing_key is not None else b""
        secret = settings.api_key_secret or settings.auth_token
        user = settings.api_key_sid or settings.account_sid
        self._authorization = basic_auth(user, secret.reveal()) if user and secret is not None else ""
        host = f"api.{settings.edge}.{settings.region}.twilio.com" if settings.region else "api.twilio.com"
        self._accounts = self.api(f"https://{host}") + API
        # Imported here, not when this module is (settings need none of it) nor when the first call waits for it.
        self._twiml = importlib.import_module("twilio.twiml.voice_response")
        self._handlers: Mapping[str, Callable[[WebRequest], Handled]] = {
            "answer": self._answer,
            "status": self._status,
            "stream-status": self._stream_status,
            "after": self._after,
        }

    # ------------------------------------------------------------ authenticity

    def authenticate(self, route: str, request: WebRequest) -> None:
        pairs = self._signed_fields(request)
        self._verify(request, pairs)

    def authenticate_upgrade(self, request: WebRequest) -> str:
        if self.settings.handshake_signature == "off":
            return ""
        try:
            self._verify(request, ())
        except NotAuthentic as exc:
            if self.settings.handshake_signature == "enforce":
                raise
            return exc.reason
        return ""

    def _signed_fields(self, request: WebRequest) -> Sequence[tuple[str, str]]:
        """What of the body is in the signature; what is not there must be in the URL, as a hash of the body."""
        if request.method in ("GET", "HEAD"):
            return ()
        if request.method != "POST":
            raise self._refused("method", request)
        hashes = [value for name, value in parse_qsl(request.query) if name == "bodySHA256"]
        if hashes:
            digest = hashlib.sha256(request.body).hexdigest()
            if len(hashes) != 1 or not same(hashes[0].lower(), digest):
                raise self._refused("bad-body-hash", request, body=checked_body(request.body))
        is_form = request.header("content-type").partition(";")[0].strip().lower() == FORM
        if not is_form:
            if request.body and not hashes:
                raise self._refused("no-body-hash", request, body=checked_body(request.body))
            return ()
        try:
            # Strictly, so that two different bodies are never one text: all else is percent-encoded UTF-8.
            return parse_qsl(request.body.decode("ascii"), keep_blank_values=True, errors="strict")
        except ValueError:
            raise self._refused("bad-form", request, body=checked_body(request.body)) from None

    def _verify(self, request: WebRequest, pairs: Sequence[tuple[str, str]]) -> None:
        keys, hash_name = self._keys(request)
        header = request.header(SIGNATURE)
        if not header:
            raise self._refused("no-signature", request, headers=header_names(request.headers, "x-twilio-"))
        shown = canonical_base64(header, hashlib.new(hash_name).digest_size)
        if shown is None:
            raise self._refused("malformed-signature", request, signature=f"{len(header)} characters")
        right = False
        for url in spellings(request.url):
            for key in keys:
                right |= same(shown, signature(key, url, pairs, hash_name))
        if not right:
            raise self._refused("bad-signature", request, fields=checked_fields(pairs), keys=str(len(keys)))

    def _keys(self, request: WebRequest) -> tuple[Sequence[bytes], str]:
        """The keys that count, and the hash. What the operator configured decides, not what the sender says."""
        said = {
            name.strip(): value.strip()
            for name, _, value in (part.partition("=") for part in request.header(SIGNATURE_SETTINGS).split(","))
            if name.strip()
        }
        if self._signing_key:
            if said.get("algorithm", "").upper() != "HMAC_SHA256":
                raise self._refused("weaker-algorithm", request, algorithm=said.get("algorithm", "none")[:20])
            if not same(said.get("key", ""), self.settings.signing_key_id):
                raise self._refused("unknown-key", request, key=f"{len(said.get('key', ''))} characters")
            return (self._signing_key,), "sha256"
        if said:
            raise self._refused("unknown-key", request, key=f"{len(said.get('key', ''))} characters")
        if not self._tokens:
            raise self._refused("no-auth-token", request)
        return self._tokens, "sha1"

    def _refused(self, reason: str, request: WebRequest, **checked: str) -> NotAuthentic:
        return NotAuthentic(self.carrier, reason, {"method": request.method, **checked_url(request.url), **checked})

    # ------------------------------------------------------------ webhooks

    def handle(self, route: str, request: WebRequest, urls: Urls) -> Handled:
        handler = self._handlers.get(route)
        if handler is None:
            raise UnreadableRequest(f"twilio has no {route!r} webhook")
        return handler(request)

    def _answer(self, request: WebRequest) -> Handled:
        fields = request.fields
        call_id = _call_id(fields)
        # Twilio's own names begin with a capital; what else the URL says, the operator or our dial put there.
        parameters = {
            name: value for name, value in parse_qsl(request.query, keep_blank_values=True) if not name[:1].isupper()
        }
        parameters.pop("bodySHA256", None)
        parameters.pop(ORDER, None)
        for name, value in fields.items():
            if name.startswith("SipHeader_"):
                parameters[name.removeprefix("SipHeader_")] = value
        call = InboundCall(
            carrier=self.carrier,
            call_id=call_id,
            from_number=fields.get("From", ""),
            to_number=fields.get("To", ""),
            account_id=fields.get("AccountSid", ""),
            direction="outbound" if fields.get("Direction", "").startswith("outbound") else "inbound",
            parameters=parameters,
            order=order_of(request),
            extra={"ringing": "yes"} if fields.get("CallStatus") == "ringing" else {},
        )
        return Handled(incoming=call, events=tuple(self._answered_by(call_id, fields)))

    def _status(self, request: WebRequest) -> Handled:
        fields = request.fields
        call_id = _call_id(fields)
        events: list[CarrierEvent] = list(self._answered_by(call_id, fields))
        if (status := fields.get("CallStatus", "")) or not events:
            if not status:
                raise UnreadableRequest("no CallStatus")
            phase = _PHASES.get(status)
            if phase is None:
                return Handled(events=events)  # Twilio adds words without notice
            details = {name: fields[name] for name in ("Timestamp", "CallbackSource", "ErrorCode") if name in fields}
            events.append(
                CallStatus(
                    carrier=self.carrier,
                    call_id=call_id,
                    phase=phase,
                    key=f"{call_id}/{fields.get('SequenceNumber', '')}/{status}",
                    cause=f"SIP {code}" if (code := fields.get("SipResponseCode", "")) else "",
                    duration_s=_seconds(fields.get("CallDuration", "")),
                    details=details,
                )
            )
        return Handled(events=events)

    def _answered_by(self, call_id: str, fields: Mapping[str, str]) -> Sequence[CarrierEvent]:
        said = fields.get("AnsweredBy", "")
        if not said:
            return ()
        who = said.partition("_")[0]
        return (
            AnsweredBy(
                carrier=self.carrier,
                call_id=call_id,
                who=who if who in ("human", "machine", "fax") else "unknown",
                key=f"{call_id}/answered-by/{said}",
                detail=said,
                beep=said.startswith("machine_end"),
            ),
        )

    def _stream_status(self, request: WebRequest) -> Handled:
        fields = request.fields
        call_id, said = _call_id(fields), fields.get("StreamEvent", "")
        if not said:
            raise UnreadableRequest("no StreamEvent")
        what = _STREAM.get(said)
        if what is None:
            return Handled()
        stream_id = fields.get("StreamSid", "")
        event = StreamStatus(
            carrier=self.carrier,
            call_id=call_id,
            what=what,
            key=f"{call_id}/{stream_id}/{said}",
            stream_id=stream_id,
            problem=told(fields.get("StreamError", "")),
        )
        return Handled(events=(event,))

    def _after(self, request: WebRequest) -> Handled:
        return Handled(asks_after=_call_id(request.fields))

    # ------------------------------------------------------------ documents

    def offer(self, call: InboundCall, stream: StreamOffer) -> Handled:
        """<Connect><Stream>. Parameters that Twilio would not carry are left out: the bot has them from the store."""
        response = self._twiml.VoiceResponse()
        connect = response.connect(action=stream.urls.http("/twilio/after"), method="POST")
        element = connect.stream(
            url=stream.media_url,
            status_callback=stream.urls.http("/twilio/stream-status"),
            status_callback_method="POST",
        )
        for name, value in stream.parameters.items():
            if name and len(name) + len(value) < MAX_PARAMETER and writable(name + value):
                element.parameter(name=name, value=value)
        return Handled(answer=_document(response))

    def refuse(self, call: InboundCall, refusal: Refusal) -> Handled:
        response = self._twiml.VoiceResponse()
        kind, _, value = refusal.instead.partition(":")
        if kind == "number":
            self._dial(response, value)
        elif kind == "gateway":
            response.redirect(f"{value.rstrip('/')}/twilio/answer", method="POST")
        elif kind == "say":
            response.say(for_xml(value))
            response.hangup()
        elif call.direction == "outbound" or "ringing" not in call.extra:
            response.hangup()  # <Reject> is for calls that nobody has answered
        else:
            response.reject(reason="rejected" if kind == "rejected" else "busy")
        return Handled(answer=_document(response))

    def after(self, call_id: str, target: str | None) -> HttpAnswer:
        response = self._twiml.VoiceResponse()
        if target is not None and target.startswith(("https://", "http://")):
            response.redirect(target, method="POST")
        elif target is not None:
            self._dial(response, target)
        elif self.settings.next_url:
            response.redirect(self.settings.next_url, method="POST")
        else:
            response.hangup()
        return _document(response)

    def _dial(self, response: Any, target: str) -> None:
        if target.startswith(("sip:", "sips:")):
            response.dial().sip(target)
        elif target.startswith("client:"):
            response.dial().client(target.removeprefix("client:"))
        else:
            response.dial(_number(target))

    # ------------------------------------------------------------ call control

    def hang_up(self, ref: CallRef) -> CarrierRequest | None:
        """Twilio's "completed" ends a call in any state, also one that still rings."""
        return self._request(Purpose.HANG_UP, ref, form=[("Status", "completed")], repeatable=True)

    def transfer(self, ref: CallRef, target: str, urls: Urls) -> Transfer | None:
        """The call leaves its stream for another document. Twice would ring twice: not repeatable."""
        if not writable(target):
            return None
        if target.startswith(("https://", "http://")):
            form = [("Url", target), ("Method", "POST")]
        elif target.startswith(("sip:", "sips:", "client:")) or _NUMBER.fullmatch(_number(target)):
            response = self._twiml.VoiceResponse()
            self._dial(response, target)
            form = [("Twiml", str(response))]
        else:
            return None
        if len(form[0][1]) > MAX_TWIML:
            return None
        request = self._request(Purpose.TRANSFER, ref, form=form)
        # Without credentials: leave the stream, and tell the <Connect>'s action where to go.
        return Transfer(request=request) if request is not None else Transfer(closes_socket=True)

    def dial(self, order: DialOrder, urls: Urls) -> CarrierRequest | None:
        answer = urls.http("/twilio/answer") + order_query(order.command_id, order.parameters)
        status = urls.http("/twilio/status")
        form = [("To", order.to_number), ("From", order.from_number), ("Url", answer), ("Method", "POST")]
        form += [("StatusCallback", status), ("StatusCallbackMethod", "POST")]
        form += [("StatusCallbackEvent", event) for event in ("initiated", "ringing", "answered", "completed")]
        form.append(("Timeout", str(max(1, min(order.ring_s, MAX_RING_S)))))
        if order.longest_s is not None:
            form.append(("TimeLimit", str(order.longest_s)))
        if order.detect_machine:
            # Asynchronous: the bot speaks at once, and learns meanwhile to whom.
            form += [("MachineDetection", "Enable"), ("AsyncAmd", "true")]
            form += [("AsyncAmdStatusCallback", status), ("AsyncAmdStatusCallbackMethod", "POST")]
        account = self.settings.account_sid
        return self._request(Purpose.DIAL, CallRef(carrier=self.carrier, call_id="", account_id=account), form=form)

    def fetch(self, ref: CallRef) -> CarrierRequest | None:
        return self._request(Purpose.FETCH, ref, method="GET", repeatable=True)

    def _request(
        self,
        purpose: Purpose,
        ref: CallRef,
        *,
        method: str = "POST",
        form: Sequence[tuple[str, str]] | None = None,
        repeatable: bool = False,
    ) -> CarrierRequest | None:
        account = ref.account_id or self.settings.account_sid
        if not self._authorization or not account:
            return None
        if not _SID.fullmatch(account) or (ref.call_id and not _SID.fullmatch(ref.call_id)):
            return None  # nothing that Twilio has ever issued
        path = f"Calls/{ref.call_id}.json" if ref.call_id else "Calls.json"
        return CarrierRequest(
            carrier=self.carrier,
            purpose=purpose,
            call_id=ref.call_id,
            method=method,
            url=f"{self._accounts}/{account}/{path}",
            form=form,
            headers={"accept": "application/json"},
            authorize=lambda now: {"authorization": self._authorization},
            repeatable=repeatable,
        )

    def outcome(self, request: CarrierRequest, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        reply = json_object(body)
        if 200 <= status < 300:
            return self._successful(request, status, reply)
        code = reply.get("code")
        detail = f"HTTP {status}" + (f", code {code}" if isinstance(code, int) else "")
        # A wrong region or account looks like a call that is gone: hence the code in the log.
        if request.purpose is not Purpose.DIAL and (status, code) in _OVER:
            return Outcome(kind=OutcomeKind.ALREADY_OVER, detail=detail)
        return unsuccessful(status, headers, detail)

    def _successful(self, request: CarrierRequest, status: int, reply: Mapping[str, Any]) -> Outcome:
        detail = f"HTTP {status}"
        phase = _PHASES.get(str(reply.get("status", "")))
        if request.purpose is Purpose.DIAL:
            sid = reply.get("sid")
            if not isinstance(sid, str) or not sid:
                return Outcome(kind=OutcomeKind.FAILED, detail=f"{detail}, without a call")
            return Outcome(kind=OutcomeKind.DONE, detail=detail, call_id=sid, phase=phase)
        if request.purpose is Purpose.FETCH and phase is None:
            return Outcome(kind=OutcomeKind.FAILED, detail=f"{detail}, without a status")
        return Outcome(kind=OutcomeKind.DONE, detail=detail, phase=phase)


# ---------------------------------------------------------------- pieces


def _document(response: Any) -> HttpAnswer:
    return HttpAnswer(body=str(response).encode(), content_type="text/xml; charset=utf-8")


def _call_id(fields: Mapping[str, str]) -> str:
    call_id = fields.get("CallSid", "")
    if not _SID.fullmatch(call_id):
        raise UnreadableRequest("no CallSid" if not call_id else "CallSid is not an id")
    return call_id


def _number(target: str) -> str:
    """A number as people write it, without what they put in between."""
    return re.sub(r"[\s().-]", "", target)


def _seconds(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,7}", text) else None
