"""Exotel: the HTTP side.

There is no answer document: the flow lives in Exotel's dashboard. Its Voicebot applet asks for a socket's URL, or has
one typed in; a Passthru applet after it reports, and branches on the status of our answer.

Source: Exotel support articles 3000108630 (Stream and Voicebot applet) and 3000132269 (Passthru), developer.exotel.com
"Make a call", "Connect Voice AI", "Call details"; and what real calls were seen to send.
"""

from __future__ import annotations

import email
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qsl, quote, urlencode

from annotated_types import Interval, MultipleOf

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
    StandingStream,
    StreamOffer,
    StreamStatus,
    Transfer,
    UnreadableRequest,
    Urls,
    WebRequest,
)
from webhooks.characters import read_json
from webhooks.replies import json_object, unsuccessful
from webhooks.signature import basic_auth, basic_credentials, fingerprint, masked_path, same, told, url_parts

REST_HOSTS = {"in": "api.in.exotel.com", "sg": "api.exotel.com"}
MAX_PARAMETERS, MAX_PARAMETER_CHARACTERS = 3, 256  # that Exotel hands back in `start`
MAX_STREAM_URL = 600
DIAL_S = 35.0  # placing a call may take Exotel 30 s; giving up earlier does not stop it
STREAM_KEYS = (
    "streamsid",
    "status",
    "duration",
    "streamurl",
    "disconnectedby",
    "error",
    "detailedstatus",
    "recordingurl",
)

_PHASES = {
    "queued": CallPhase.QUEUED,
    "ringing": CallPhase.RINGING,
    "in-progress": CallPhase.ANSWERED,
    "completed": CallPhase.COMPLETED,
    "busy": CallPhase.BUSY,
    "no-answer": CallPhase.NO_ANSWER,
    "failed": CallPhase.FAILED,
    "canceled": CallPhase.CANCELED,
    "cancelled": CallPhase.CANCELED,
}
_BY = {"bot": "bot", "user": "caller", "caller": "caller", "callee": "caller", "system": "carrier"}
_ID = re.compile(r"[A-Za-z0-9_.~-]{1,64}")  # what may stand in a path as it is
_STREAM_FIELD = re.compile(r"Stream\[(\w+)\]", re.IGNORECASE)
_DEEPEST = 4  # levels of JSON that are looked into


@dataclass(frozen=True, slots=True, kw_only=True)
class ExotelSettings(CarrierSettings):
    """[carriers.exotel] in gateway.toml."""

    account_sid: str = ""
    api_key: Secret | None = None  # of the REST API, which places calls; answering them needs neither
    api_token: Secret | None = None
    region: Literal["in", "sg"] = "in"  # of the account: Mumbai or Singapore
    basic_user: str = ""  # of the wss://USER:PASSWORD@... URL in the applet; Exotel sends both as HTTP Basic
    basic_password: Secret | None = None
    path_token: Secret | None = None  # the end of the URLs in the applets: .../exotel/answer/<path_token>
    allowed_ips: tuple[str, ...] = ()  # addresses and ranges, which Exotel's support tells; nobody else may ask
    sample_rate: Literal[8000, 16000, 24000] | None = None  # asked for in the URL; None: 8000
    applet: Literal["voicebot", "stream"] = "voicebot"  # "stream": listen only, Exotel takes no audio back
    packet_ms: Annotated[int, Interval(ge=0, le=1000), MultipleOf(20)] = 0  # in one message; 0: as Exotel advises
    outbound_media_extras: bool = False  # number our messages; some Connect streams are said to end early without
    auto_hang_up: bool = True

    def __post_init__(self) -> None:
        if bool(self.basic_user) != (self.basic_password is not None):
            raise ValueError("basic_user and basic_password go together")
        if (self.api_key is None) != (self.api_token is None):
            raise ValueError("api_key and api_token go together")
        for text in self.allowed_ips:
            try:
                ip_network(text, strict=False)
            except ValueError:
                raise ValueError(f"allowed_ips: {text!r} is neither an address nor a range") from None


class ExotelHttp(CarrierHttp):
    """Webhooks and REST requests of one Exotel account.

    Exotel signs nothing. A request is taken for Exotel's if it shows the token that ends our URLs, or the user and
    password that stand in them, and comes from an allowed address where there is a list; with none of the three
    configured nobody comes in. What is shown and wrong is never made good by something else.
    """

    carrier: ClassVar[str] = "exotel"
    id_fields = ("account_sid",)
    hosts: ClassVar[Sequence[str]] = tuple(REST_HOSTS.values())

    def __init__(self, settings: ExotelSettings) -> None:
        super().__init__(settings)
        self._path_token = settings.path_token.reveal() if settings.path_token is not None else ""
        self._basic = ("", "")
        if settings.basic_password is not None:
            self._basic = (settings.basic_user, settings.basic_password.reveal())
        self._networks = [ip_network(text, strict=False) for text in settings.allowed_ips]
        self._authorization = ""
        if settings.api_key is not None and settings.api_token is not None:
            self._authorization = basic_auth(settings.api_key.reveal(), settings.api_token.reveal())
        self._calls = f"{self.api(f'https://{REST_HOSTS[settings.region]}')}/v1/Accounts/{settings.account_sid}/Calls"
        self._handlers: Mapping[str, Callable[[WebRequest], Handled]] = {
            "answer": self._answer,
            "status": self._status,
            "passthru": self._passthru,
            "after": self._passthru,
        }

    # ------------------------------------------------------------ authenticity

    def authenticate(self, route: str, request: WebRequest) -> None:
        self._check_peer(request)
        shown = self._shows_token(route, request) | self._shows_basic(request)
        if (self._path_token or self._basic[0]) and not shown:
            raise self._refused("no-credentials-shown", request)
        if not (self._path_token or self._basic[0] or self._networks):
            raise self._refused("no-credentials-configured", request)
        account = dict(_fields(request)).get("AccountSid", "")
        if account and self.settings.account_sid and not same(account, self.settings.account_sid):
            raise self._refused("wrong-account", request, account=f"<{len(account)}> #{fingerprint(account)}")

    def authenticate_upgrade(self, request: WebRequest) -> str:
        """Of a URL with a call's token no more is asked: whether Exotel keeps user and password of a URL that we
        answered with is not documented. One that was typed into the applet must show what is configured."""
        self._check_peer(request)
        shown = self._shows_basic(request)
        if self.standing_stream(request) and self._basic[0] and not shown:
            raise self._refused("no-basic", request)
        return ""

    def standing_stream(self, request: WebRequest) -> StandingStream | None:
        stands = bool(self._path_token) and same(_rest_of_path("media", request.url), self._path_token)
        return StandingStream() if stands else None

    def _check_peer(self, request: WebRequest) -> None:
        if not self._networks:
            return
        try:
            peer = ip_address(request.peer)
        except ValueError:
            raise self._refused("bad-address", request) from None
        peer = getattr(peer, "ipv4_mapped", None) or peer
        if not any(peer in network for network in self._networks):
            raise self._refused("address", request, peer=str(peer))

    def _shows_token(self, route: str, request: WebRequest) -> bool:
        token = _rest_of_path(route, request.url)
        if not self._path_token or not token:
            return False
        if not same(token, self._path_token):
            raise self._refused("bad-token", request)
        return True

    def _shows_basic(self, request: WebRequest) -> bool:
        header = request.header("authorization")
        if not self._basic[0] or not header:
            return False
        shown = basic_credentials(header)
        if shown is None:
            raise self._refused("malformed-basic", request)
        # Both halves are compared whatever the first comes to.
        if not (same(shown[0], self._basic[0]) & same(shown[1], self._basic[1])):
            raise self._refused("bad-basic", request)
        return True

    def _refused(self, reason: str, request: WebRequest, **checked: str) -> NotAuthentic:
        scheme, host, path, _ = url_parts(request.url)
        head, slash, _ = path.rpartition("/")  # what stands last may be the token
        told = {"method": request.method, "scheme": scheme, "host": host[:100], "path": masked_path(head) + slash}
        told["token"] = "configured" if self._path_token else "none"
        told["basic"] = f"{'configured' if self._basic[0] else 'none'}, header {'authorization' in request.headers}"
        return NotAuthentic(self.carrier, reason, {**told, **checked})

    # ------------------------------------------------------------ webhooks

    def handle(self, route: str, request: WebRequest, urls: Urls) -> Handled:
        handler = self._handlers.get(route)
        if handler is None:
            raise UnreadableRequest(f"exotel has no {route!r} webhook")
        return handler(request)

    def _answer(self, request: WebRequest) -> Handled:
        if request.method == "HEAD":  # asked before the GET, to see whether somebody is there
            return Handled(answer=HttpAnswer(content_type="application/json"))
        fields = dict(_fields(request))
        parameters = {name: value for name, value in fields.items() if not name[:1].isupper() and name != "flow_id"}
        if "CustomField" in fields:
            parameters["CustomField"] = fields["CustomField"]
        call = InboundCall(
            carrier=self.carrier,
            call_id=_call_id(fields),
            from_number=fields.get("From") or fields.get("CallFrom", ""),
            to_number=fields.get("To") or fields.get("CallTo", ""),
            account_id=fields.get("AccountSid", "") or self.settings.account_sid,
            direction="outbound" if fields.get("Direction", "").startswith("outbound") else "inbound",
            parameters=parameters,
        )
        return Handled(incoming=call)

    def _passthru(self, request: WebRequest) -> Handled:
        fields = dict(_fields(request))
        call_id = _call_id(fields)
        return Handled(asks_after=call_id, events=tuple(self._of_stream(call_id, stream_block(fields))))

    def _of_stream(self, call_id: str, stream: Mapping[str, str]) -> Iterator[CarrierEvent]:
        said, error = stream["status"].lower(), stream["error"]
        key = f"{call_id}/{stream['streamsid']}/{said}"
        if error or said == "failed":  # where they disagree, the error is right
            problem = told(error or stream["detailedstatus"] or said)
            what = "failed"
        elif said in ("completed", "cancelled", "canceled"):
            problem, what = "", "stopped"
        else:
            return  # this Passthru stands before the stream, or elsewhere in the flow
        yield StreamStatus(
            carrier=self.carrier,
            call_id=call_id,
            what=what,
            key=key,
            stream_id=stream["streamsid"],
            problem=problem,
        )
        if what == "stopped" and _BY.get(stream["disconnectedby"].lower()) == "caller":
            yield CallStatus(
                carrier=self.carrier,
                call_id=call_id,
                phase=CallPhase.COMPLETED,
                key=f"{key}/hung-up",
                ended_by="caller",
                cause=said,
                duration_s=_seconds(stream["duration"]),
            )

    def _status(self, request: WebRequest) -> Handled:
        fields = dict(_fields(request))
        call_id = _call_id(fields)
        event = fields.get("EventType", "").lower()
        said = (fields.get("Status") or fields.get("CallStatus") or fields.get("DialCallStatus", "")).lower()
        if not event and not said:
            raise UnreadableRequest("neither EventType nor Status")
        phase = CallPhase.ANSWERED if event == "answered" else _PHASES.get(said)
        events: list[CarrierEvent] = []
        if phase is not None:
            events.append(
                CallStatus(
                    carrier=self.carrier,
                    call_id=call_id,
                    phase=phase,
                    key=f"{call_id}/{event or said}",
                    ended_by=_BY.get(fields.get("Legs[0][DisconnectedBy]", "").lower(), "") if phase.final else "",
                    cause=fields.get("Legs[0][Cause]") or said,
                    duration_s=_seconds(fields.get("ConversationDuration", "")),
                )
            )
        if who := fields.get("Legs[0][AnsweredBy]", "").lower():
            events.append(
                AnsweredBy(
                    carrier=self.carrier,
                    call_id=call_id,
                    who=who if who in ("human", "machine", "fax") else "unknown",
                    key=f"{call_id}/answered-by/{who}",
                    detail=who,
                )
            )
        return Handled(events=events)

    # ------------------------------------------------------------ answers

    def offer(self, call: InboundCall, stream: StreamOffer) -> Handled:
        body = json.dumps({"url": self._stream_url(stream.media_url, stream.parameters)}).encode()
        return Handled(answer=HttpAnswer(body=body, content_type="application/json"))

    def refuse(self, call: InboundCall, refusal: Refusal) -> Handled:
        """The applet fails, and the flow goes on with what stands after it: who is called instead, it decides."""
        return Handled(answer=HttpAnswer(status=404 if refusal.reason == "no-bot" else 503))

    def after(self, call_id: str, target: str | None) -> HttpAnswer:
        """A Passthru applet takes its first branch on 200 (hand over: the flow knows to whom) and the other on 302."""
        return HttpAnswer(status=302 if target is None else 200)

    def _stream_url(self, media_url: str, parameters: Mapping[str, str]) -> str:
        """The socket's URL with the rate and the parameters that Exotel hands back; the bot has all from the store."""
        pairs: list[tuple[str, str]] = []
        size = 0
        for name, value in parameters.items():
            grown = size + len(urlencode([(name, value)], quote_via=quote)) + 1
            if name and len(pairs) < MAX_PARAMETERS and grown <= MAX_PARAMETER_CHARACTERS:
                pairs.append((name, value))
                size = grown
        if self.settings.sample_rate is not None:
            pairs.insert(0, ("sample-rate", str(self.settings.sample_rate)))
        return media_url + ("?" + urlencode(pairs, quote_via=quote) if pairs else "")

    # ------------------------------------------------------------ call control

    def transfer(self, ref: CallRef, target: str, urls: Urls) -> Transfer | None:
        """The flow does it: the socket closes, the Passthru applet after it asks, `after` names the branch."""
        return Transfer(closes_socket=True)

    def dial(self, order: DialOrder, urls: Urls) -> CarrierRequest | None:
        """Connect Voice AI. `From` is the person called, `CallerId` our number."""
        stream_url = self._stream_url(order.media_url, order.parameters)
        if not order.media_url or len(stream_url) > MAX_STREAM_URL:
            return None
        form = [("From", order.to_number), ("CallerId", order.from_number), ("StreamUrl", stream_url)]
        form += [("StreamType", "bidirectional"), ("CallType", "trans"), ("TimeOut", str(order.ring_s))]
        if order.longest_s is not None:
            form.append(("TimeLimit", str(order.longest_s)))
        if order.command_id:
            form.append(("CustomField", order.command_id[:128]))
        form.append(("StatusCallback", self._callback(urls, "status")))
        form += [("StatusCallbackEvents[]", event) for event in ("answered", "terminal")]
        form.append(("StatusCallbackContentType", "application/json"))
        return self._request(Purpose.DIAL, "", "/connect.json", method="POST", form=form, timeout_s=DIAL_S)

    def fetch(self, ref: CallRef) -> CarrierRequest | None:
        if not _ID.fullmatch(ref.call_id):
            return None
        return self._request(Purpose.FETCH, ref.call_id, f"/{ref.call_id}.json", repeatable=True, timeout_s=10.0)

    def _callback(self, urls: Urls, route: str) -> str:
        """One of our URLs with what makes a request to it authentic."""
        if self._path_token:
            return urls.http(f"/exotel/{route}/{self._path_token}")
        url = urls.http(f"/exotel/{route}")
        if not self._basic[0]:
            return url
        user, password = (quote(text, safe="") for text in self._basic)
        return url.replace("://", f"://{user}:{password}@", 1)

    def _request(
        self,
        purpose: Purpose,
        call_id: str,
        path: str,
        *,
        method: str = "GET",
        form: Sequence[tuple[str, str]] | None = None,
        repeatable: bool = False,
        timeout_s: float,
    ) -> CarrierRequest | None:
        if not self._authorization or not _ID.fullmatch(self.settings.account_sid):
            return None
        return CarrierRequest(
            carrier=self.carrier,
            purpose=purpose,
            call_id=call_id,
            method=method,
            url=self._calls + path,
            form=form,
            headers={"accept": "application/json"},
            authorize=lambda now: {"authorization": self._authorization},
            repeatable=repeatable,
            timeout_s=timeout_s,
        )

    def outcome(self, request: CarrierRequest, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        detail = f"HTTP {status}"
        if not 200 <= status < 300:
            return unsuccessful(status, headers, detail)
        reply = json_object(body)
        call = reply.get("Call", reply)
        if not isinstance(call, dict):
            return Outcome(kind=OutcomeKind.FAILED, detail=f"{detail}, without a call")
        if request.purpose is Purpose.DIAL:
            # Its status is "in-progress" from the start, which says nothing.
            sid = call.get("Sid")
            if not isinstance(sid, str) or not sid:
                return Outcome(kind=OutcomeKind.FAILED, detail=f"{detail}, without a call")
            return Outcome(kind=OutcomeKind.DONE, detail=detail, call_id=sid)
        phase = _PHASES.get(str(call.get("Status", "")).lower())
        if phase is None:
            return Outcome(kind=OutcomeKind.FAILED, detail=f"{detail}, without a status")
        return Outcome(kind=OutcomeKind.DONE, detail=detail, phase=phase)


# ---------------------------------------------------------------- what Exotel sends


def stream_block(fields: Mapping[str, str]) -> dict[str, str]:
    """What a Passthru request says of the stream, by lower-case keys; blank where it says nothing.

    It comes as `Stream[Status]=...` fields, or as one `Stream` field with JSON.
    """
    block = dict.fromkeys(STREAM_KEYS, "")
    for name, value in fields.items():
        if name == "Stream" and value.startswith("{"):
            block |= {key.lower(): text for key, text in _flat(_json(value.encode())) if key.lower() in block}
    for name, value in fields.items():
        if (found := _STREAM_FIELD.fullmatch(name)) and found[1].lower() in block:
            block[found[1].lower()] = value
    return block


def _fields(request: WebRequest) -> Iterator[tuple[str, str]]:
    """The fields of a request, wherever Exotel put them: query, form, multipart or JSON (as `Legs[0][Cause]`)."""
    yield from parse_qsl(request.query, keep_blank_values=True)
    if request.method != "POST" or not request.body:
        return
    kind = request.header("content-type")
    if kind.startswith("application/json") or request.body[:1] == b"{":
        yield from _flat(_json(request.body))
    elif kind.startswith("multipart/form-data"):
        message = email.message_from_bytes(b"Content-Type: " + kind.encode("latin-1") + b"\r\n\r\n" + request.body)
        for part in message.walk():
            name, value = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
            if isinstance(name, str) and isinstance(value, bytes):
                yield name, value.decode("utf-8", "replace")
    else:
        yield from request.form


def _json(body: bytes) -> Any:
    try:
        return read_json(body)
    except (ValueError, RecursionError):
        raise UnreadableRequest("the body is not JSON") from None


def _flat(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """JSON as the fields that a form would have had: {"Legs": [{"Cause": "x"}]} is ("Legs[0][Cause]", "x")."""
    if depth > _DEEPEST:
        return
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _flat(inner, f"{name}[{key}]" if name else str(key), depth + 1)
    elif name:
        yield name, "" if value is None else str(value)


def _rest_of_path(route: str, url: str) -> str:
    """What follows the route in the path: the token."""
    _, found, rest = url_parts(url).path.rpartition(f"/exotel/{route}/")
    return rest if found else ""


def _call_id(fields: Mapping[str, str]) -> str:
    call_id = fields.get("CallSid", "")
    if not _ID.fullmatch(call_id):
        raise UnreadableRequest("no CallSid" if not call_id else "CallSid is not an id")
    return call_id


def _seconds(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,7}", text) else None
