"""Strict fake carriers: their HTTP side. Webhooks out, answer documents and REST requests in. No I/O, no loop.

A `FakeWeb` is one account at one carrier. It makes the webhooks of its calls, signed as the carrier signs them; checks
each answer as strictly as the carrier does, and follows it; and serves the carrier's REST interface, with faults if
wanted. What the carrier would refuse is a ProtocolViolation: kept in `violations`, and answered as documented.

To write one: subclass FakeWeb in `gateway/simulator/<carrier>_web.py`, set `name`, and write

    sign(webhook, now)               the webhook with the carrier's signature on it
    ring(call, now)                  an inbound call arrives: queue its first webhook with `self.post(call, ...)`
    replied(call, webhook, reply, now)  the gateway's answer to a webhook, checked and carried out
    socket_opened / socket_refused / media_over   what the call's media came to: queue status callbacks
    pick_up(call, now, who)          a call that the gateway placed is answered by the person called, or a machine
    routes                           the REST interface: (method, pattern of the path, route's name, handler)

The driver (`webcaller.place_call_through_webhooks`, `webcaller.CarrierServer`, or a test by hand) calls:

    call = web.place(plan, now)             a call comes in: stage RINGING, its first webhook is in call.webhooks
    webhook = call.webhooks.popleft()       next to send, one after the other: the carrier keeps their order
    request = web.signed(webhook, now)      with what the carrier adds; `Tampering` makes a forged one of it
    web.take_reply(call, webhook, reply, now)   never raises; reply None: no answer in `answer_timeout_s`
    call.stage CONNECTING -> open `call.media_url` with the FakeCarrier `web.media(call)`, then
    web.media_opened(call, fake, now) | web.media_refused(call, status, now)
    web.media_closed(call, now)             the socket is closed; the fake knows by whom the call ended
    web.rest(request, now) -> RestResult    a request to the REST interface
    web.caller_gone(call, now)              the caller hangs up while there is no media

and looks at `call.stage`, `call.end`, `call.handed_to`, `call.spoken` and `web.violations`. `call.cut` says that REST
took the call off its stream: the driver then makes the FakeCarrier say so (`FakeCarrier.api_hang_up`).

`now` is Unix seconds everywhere in this module: signatures carry it.
"""

from __future__ import annotations

import enum
import importlib.util
import ipaddress
import json
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit

from gateway.simulator.base import CallPlan, FakeCarrier, ProtocolViolation, fake_carrier

Fields = Mapping[str, str] | Sequence[tuple[str, str]]

# ---------------------------------------------------------------- what goes over the wire


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """A request that the carrier makes of the gateway."""

    what: str  # "answer", "after", "status completed", "stream stream-started": for `replied`, reports and problems
    method: str
    url: str  # complete, as the carrier addresses it
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    wants_document: bool = False  # the carrier acts upon the answer


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the gateway answered to a webhook."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, kw_only=True)
class RestRequest:
    """A request that the gateway makes of the carrier."""

    method: str
    target: str  # path and query as on the request line, below the carrier's base
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @cached_property
    def query(self) -> Sequence[tuple[str, str]]:
        return parse_qsl(self.target.partition("?")[2], keep_blank_values=True)

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @cached_property
    def form(self) -> Sequence[tuple[str, str]]:
        return parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True)

    @cached_property
    def json(self) -> Any:
        """The body as JSON. ValueError if it is none."""
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class RestReply:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, status: int, value: Any, **headers: str) -> RestReply:
        """A JSON reply."""
        return cls(status=status, body=json.dumps(value).encode(), headers={"content-type": "application/json"})


class RestRefusal(Exception):
    """Raised by a REST handler: answered with `reply`, which the carrier documents for this."""

    def __init__(self, reply: RestReply) -> None:
        super().__init__(f"HTTP {reply.status}")
        self.reply = reply


# ---------------------------------------------------------------- faults


class Tampering(enum.Enum):
    """What is wrong with a webhook. `FakeWeb.detects` names those that the carrier's scheme can show."""

    NONE = "none"
    UNSIGNED = "unsigned"
    FORGED = "forged"  # signed with another key
    ALTERED = "altered"  # signed, then changed
    STALE = "stale"  # signed an hour ago
    # A replay needs nothing: send the same signed webhook twice.


@dataclass(slots=True, kw_only=True)
class Fault:
    """What goes wrong with REST requests. `times` counts down; None: always."""

    what: str  # "slow", "silent" (never answers), "reset", "status", "over" (call has ended), "credentials"
    route: str = ""  # only requests of this route ("hang-up", "transfer", "dial", "fetch" ...); all of them
    times: int | None = 1
    status: int = 503  # of "status"
    retry_after_s: float | None = None
    delay_s: float = 1.0  # of "slow"
    takes_effect: bool = False  # of "reset", "silent" and "status": what was asked for is done all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class RestResult:
    """What to do with a REST request: wait, then answer; or break the connection; or never answer."""

    reply: RestReply | None = None
    delay_s: float = 0.0
    reset: bool = False  # without reply and without reset: silence until the other side gives up


@dataclass(frozen=True, slots=True, kw_only=True)
class RestSeen:
    """A REST request, as the fake account remembers it."""

    at: float
    route: str  # its name; "" for a path that does not exist
    method: str
    path: str
    status: int  # 0: no answer
    call_id: str = ""
    effective: bool = False  # it changed something
    fault: str = ""


# ---------------------------------------------------------------- a call


class Stage(enum.Enum):
    RINGING = "ringing"  # no document yet, or one that was said before the stream
    CONNECTING = "connecting"  # the media socket is to be opened
    STREAMING = "streaming"
    BETWEEN = "between"  # no stream; the carrier asks what now, or a person was dialled
    ENDED = "ended"


@dataclass(slots=True, kw_only=True)
class WebCall:
    """One call, as the carrier's HTTP side knows it."""

    call_id: str
    plan: CallPlan
    direction: str = "inbound"
    stage: Stage = Stage.RINGING
    media_url: str = ""
    media_plan: CallPlan | None = None  # what was negotiated: parameters, codecs, rate
    media: FakeCarrier | None = None  # while the socket stands, and after
    cut: str = ""  # why REST took the call off its stream: "hang-up", "transfer"
    ended_by: str = ""  # "caller", "bot", "carrier"
    end: str = ""  # how: "completed", "busy", "rejected", "no-answer", "failed: ..."
    handed_to: list[str] = field(default_factory=list)  # numbers, SIP addresses, URLs, flow branches
    spoken: list[str] = field(default_factory=list)  # texts that the carrier was told to say
    digits: str = ""  # that REST was told to play
    answered_at: float | None = None
    webhooks: deque[Webhook] = field(default_factory=deque)
    sequence: int = 0  # of status callbacks, where the carrier numbers them
    extra: dict[str, Any] = field(default_factory=dict)  # the carrier's own: leg ids, callback URLs
    changed: Callable[[], None] = lambda: None  # set by a driver that waits

    @property
    def over(self) -> bool:
        return self.stage is Stage.ENDED

    @property
    def gone(self) -> bool:
        """For REST: the call is over, or was hung up and only its socket still stands."""
        return self.over or self.cut == "hang-up"


Handler = Callable[[RestRequest, re.Match[str], float], RestReply]


class FakeWeb(ABC):
    """One account at one carrier, seen over HTTP.

    Args:
        answer_url: what the operator pasted into the carrier's console.
        credentials: by the names that the carrier's fake uses in `CallPlan.credentials`; a subclass makes up the
            rest in the carrier's format, so `web.credentials` is what a gateway's settings need.
        status_url: the console's status callback of a number, where the carrier has one.
    """

    name: ClassVar[str]
    answer_timeout_s: ClassVar[float] = 5.0  # how long the carrier waits for the answer to a webhook
    detects: ClassVar[frozenset[Tampering]] = frozenset()  # what its signatures show

    def __init__(
        self, answer_url: str = "", *, credentials: Mapping[str, str] | None = None, status_url: str = ""
    ) -> None:
        self.answer_url, self.status_url = answer_url, status_url
        self.credentials: dict[str, str] = {**self.made_up_credentials(), **(credentials or {})}
        self.calls: dict[str, WebCall] = {}
        self.placed: deque[WebCall] = deque()  # calls that the gateway placed and nobody has picked up yet
        self.faults: list[Fault] = []
        self.seen: list[RestSeen] = []
        self.violations: list[ProtocolViolation] = []
        self.on_placed: Callable[[WebCall], None] = lambda call: None
        self._routes = [(method, re.compile(path), route, handle) for method, path, route, handle in self.routes()]
        self._effective = False
        self._subject = ""

    # ------------------------------------------------------------ what a carrier writes

    def made_up_credentials(self) -> Mapping[str, str]:
        """Credentials in the carrier's format, fresh."""
        return {}

    def forged_credentials(self) -> Mapping[str, str]:
        """What somebody else would sign with: `credentials` with other secrets."""
        return {**self.credentials, **self.made_up_credentials()}

    @abstractmethod
    def sign(self, webhook: Webhook, now: float, credentials: Mapping[str, str]) -> Webhook:
        """`webhook` as the carrier sends it, signed with `credentials` at `now`."""

    @abstractmethod
    def ring(self, call: WebCall, now: float) -> None:
        """A call comes in: queues the first webhook."""

    @abstractmethod
    def replied(self, call: WebCall, webhook: Webhook, reply: Reply | None, now: float) -> None:
        """The gateway answered `webhook`; None: it did not. Raises ProtocolViolation for what the carrier refuses."""

    def socket_opened(self, call: WebCall, now: float) -> None:  # noqa: B027 - few carriers report it
        """The media socket stands: queues what the carrier then reports."""

    def socket_refused(self, call: WebCall, status: int, now: float) -> None:
        """The media socket could not be opened (`status`: of the handshake; 0: no connection). Must move the call on:
        another webhook, the document's next verb, or its end."""
        self.finish(call, "carrier", "failed: no media", now)

    def media_over(self, call: WebCall, now: float) -> None:
        """The stream is over: `call.media.ended_by` is "caller", "bot" or "error", `call.cut` says if REST did it.
        Must move the call on: ask the gateway what now, run the next verb, or end."""
        self.finish(call, _whose(call), "completed", now)

    def ended(self, call: WebCall, now: float) -> None:  # noqa: B027 - not every carrier reports it
        """The call is over: queues the last status callbacks."""

    def pick_up(self, call: WebCall, now: float, who: str = "human") -> None:
        """A call that the gateway placed is answered: queues status callbacks and asks for its document, or opens the
        stream. `who` is what machine detection then reports, if it was asked for: "human", "machine", "fax"."""
        raise NotImplementedError(f"{self.name} places no calls")

    def turn_down(self, call: WebCall, how: str, now: float) -> None:
        """A call that the gateway placed is not answered: "busy", "no-answer", "failed"."""
        self.finish(call, "carrier", how, now)

    def routes(self) -> Sequence[tuple[str, str, str, Handler]]:
        """The REST interface: method, pattern of the whole path (without query), name of the route, handler.

        A handler gives the documented reply, or raises RestRefusal with it, or ProtocolViolation for a request that
        the carrier would not understand (answered with `bad_request`). It says `self.took_effect(call)` when it
        changes something. Names: "hang-up", "transfer", "dial", "fetch", "answer", "reject".
        """
        return ()

    def route_of(self, route: str, request: RestRequest) -> str:
        """The route's name, where what is asked stands in the body: Twilio's update of a call ends or redirects it."""
        return route

    def authorized(self, request: RestRequest, now: float) -> RestReply | None:
        """None if the credentials are right; else the carrier's reply."""
        return None

    def not_found(self, request: RestRequest) -> RestReply:
        """The carrier's reply to a path that does not exist."""
        return RestReply(status=404)

    def bad_request(self, violation: ProtocolViolation) -> RestReply:
        """The carrier's reply to a request with wrong fields."""
        return RestReply(status=400)

    def already_over(self, request: RestRequest, route: str) -> RestReply:
        """The carrier's reply to a request about a call that has ended."""
        return RestReply(status=404)

    def wrong_credentials(self, request: RestRequest) -> RestReply:
        return RestReply(status=401)

    def failing(self, status: int, retry_after_s: float | None) -> RestReply:
        """The carrier's reply when it is 429 or 5xx."""
        headers = {} if retry_after_s is None else {"retry-after": f"{retry_after_s:g}"}
        return RestReply(status=status, headers=headers)

    def handshake(self, url: str, now: float) -> Mapping[str, str]:
        """Headers by which this account signs the upgrade of a media socket at `url`."""
        return fake_carrier(self.name)(CallPlan(credentials=self.credentials)).handshake_headers(url)

    # ------------------------------------------------------------ what the driver calls

    def place(self, plan: CallPlan, now: float) -> WebCall:
        """Somebody calls: a new call, its first webhook queued."""
        call = self.new_call(plan, "inbound")
        self.ring(call, now)
        return call

    def new_call(self, plan: CallPlan, direction: str) -> WebCall:
        """A call that exists at the carrier. Its id is the plan's, or made up by the carrier's fake in its format."""
        plan = replace(plan, direction=direction, credentials={**self.credentials, **plan.credentials})
        call_id = plan.call_id or fake_carrier(self.name)(plan).call_id
        call = WebCall(call_id=call_id, plan=replace(plan, call_id=call_id), direction=direction)
        self.calls[call_id] = call
        return call

    def signed(self, webhook: Webhook, now: float, tampering: Tampering = Tampering.NONE) -> Webhook:
        """`webhook` as it goes out; with a `tampering`, as somebody else would send it."""
        if tampering is Tampering.UNSIGNED:
            return webhook
        if tampering is Tampering.FORGED:
            return self.sign(webhook, now, self.forged_credentials())
        signed = self.sign(webhook, now - 3600 if tampering is Tampering.STALE else now, self.credentials)
        return altered(signed) if tampering is Tampering.ALTERED else signed

    def take_reply(self, call: WebCall, webhook: Webhook, reply: Reply | None, now: float) -> None:
        """The answer to `webhook`, checked and followed. A violation is kept; of a document, it ends the call."""
        try:
            self.replied(call, webhook, reply, now)
        except ProtocolViolation as violation:
            self.violations.append(violation)
            if webhook.wants_document and not call.over:
                self.finish(call, "carrier", f"failed: {violation.rule}", now)
        call.changed()

    def media(self, call: WebCall, *, strict: bool = True, record: bool = True) -> FakeCarrier:
        """The carrier's end of the call's media socket."""
        return fake_carrier(self.name)(call.media_plan or call.plan, strict=strict, record=record)

    def media_opened(self, call: WebCall, fake: FakeCarrier, now: float) -> None:
        call.media, call.cut = fake, ""
        call.stage = Stage.STREAMING
        if call.answered_at is None:
            call.answered_at = now
        self.socket_opened(call, now)
        call.changed()

    def media_refused(self, call: WebCall, status: int, now: float) -> None:
        call.stage = Stage.BETWEEN
        self.socket_refused(call, status, now)
        call.changed()

    def media_closed(self, call: WebCall, now: float) -> None:
        if call.stage is Stage.STREAMING:
            call.stage = Stage.BETWEEN
        if not call.over:
            self.media_over(call, now)
        call.changed()

    def caller_gone(self, call: WebCall, now: float) -> None:
        """The caller hangs up, while no stream stands."""
        self.finish(call, "caller", "canceled" if call.answered_at is None else "completed", now)

    def rest(self, request: RestRequest, now: float) -> RestResult:
        """A request to the REST interface."""
        route, match, handle = self._find(request)
        self._effective, self._subject = False, (match.groupdict().get("call", "") if match else "")
        fault = self._fault(route)
        if fault is None or fault.takes_effect or fault.what == "slow":
            reply = self._answer(request, match, handle, now)
        else:
            reply = RestReply(status=0)
        match fault.what if fault else "":
            case "":
                result = RestResult(reply=reply)
            case "slow":
                assert fault is not None
                result = RestResult(reply=reply, delay_s=fault.delay_s)
            case "reset":
                result = RestResult(reset=True)
            case "silent":
                result = RestResult()
            case "over":
                result = RestResult(reply=self.already_over(request, route))
            case "credentials":
                result = RestResult(reply=self.wrong_credentials(request))
            case _:
                assert fault is not None
                result = RestResult(reply=self.failing(fault.status, fault.retry_after_s))
        self.seen.append(
            RestSeen(
                at=now,
                route=route,
                method=request.method,
                path=request.path,
                status=result.reply.status if result.reply else 0,
                call_id=self._subject,
                effective=self._effective,
                fault=fault.what if fault else "",
            )
        )
        if call := self.calls.get(self._subject):
            call.changed()
        return result

    # ------------------------------------------------------------ for the carriers' use

    def violate(self, rule: str, detail: str = "") -> NoReturn:
        """The carrier would not accept this. `rule` in its own words and numbers; `detail` without values."""
        raise ProtocolViolation(self.name, rule, detail)

    def post(
        self,
        call: WebCall,
        what: str,
        url: str,
        fields: Fields | None = None,
        *,
        json: Any = None,
        method: str = "POST",
        wants_document: bool = False,
    ) -> Webhook:
        """Queue a webhook: `fields` as a form, or as the query with method GET; or `json` as the body."""
        webhook = form_webhook(what, url, fields or (), method) if json is None else json_webhook(what, url, json)
        webhook = replace(webhook, wants_document=wants_document)
        call.webhooks.append(webhook)
        call.changed()
        return webhook

    def connect(self, call: WebCall, url: str, plan: CallPlan) -> None:
        """The document opens a stream: to be opened by the driver."""
        call.media_url, call.media_plan, call.stage = url, plan, Stage.CONNECTING
        call.changed()

    def finish(self, call: WebCall, by: str, end: str, now: float) -> None:
        """The call is over, once."""
        if call.over:
            return
        call.stage, call.ended_by, call.end = Stage.ENDED, by, end
        self.ended(call, now)
        call.changed()

    def placed_call(self, plan: CallPlan, now: float) -> WebCall:
        """REST placed a call: RINGING at the person called until somebody says `pick_up` or `turn_down`."""
        call = self.new_call(plan, "outbound")
        self.took_effect(call)
        self.placed.append(call)
        self.on_placed(call)
        return call

    def took_effect(self, call: WebCall) -> None:
        """The REST request that is being handled changed `call`."""
        self._effective, self._subject = True, call.call_id

    def hang_up(self, call: WebCall, now: float) -> None:
        """REST ends the call: at once, or through its media socket, after which `media_over` follows."""
        self.took_effect(call)
        if call.stage is Stage.STREAMING:
            self.cut_stream(call, "hang-up")
        else:
            self.finish(call, "bot", "completed", now)

    def cut_stream(self, call: WebCall, why: str) -> None:
        """REST takes the call off its stream ("hang-up", "transfer"): `media_over` follows once the socket closed."""
        call.cut = why
        call.changed()

    def check_public_url(self, url: str, schemes: Sequence[str], rule: str) -> None:
        """`url` is absolute, with one of `schemes` (plain only on loopback), no user information, no fragment."""
        parts = urlsplit(url)
        plain = {"https": "http", "wss": "ws"}
        allowed = (*schemes, *(plain[scheme] for scheme in schemes if scheme in plain and on_loopback(url)))
        if parts.scheme not in allowed or not parts.hostname:
            self.violate(rule, f"scheme {parts.scheme[:10]!r}")
        if "@" in parts.netloc or parts.fragment:
            self.violate(rule, "user information or a fragment")

    # ------------------------------------------------------------ inside

    def _find(self, request: RestRequest) -> tuple[str, re.Match[str] | None, Handler | None]:
        for method, pattern, route, handle in self._routes:
            if method == request.method and (match := pattern.fullmatch(request.path)):
                return self.route_of(route, request), match, handle
        return "", None, None

    def _answer(
        self, request: RestRequest, match: re.Match[str] | None, handle: Handler | None, now: float
    ) -> RestReply:
        refused = self.authorized(request, now)
        if refused is not None:
            return refused
        if match is None or handle is None:
            self.violations.append(ProtocolViolation(self.name, "no such resource", f"{request.method} {request.path}"))
            return self.not_found(request)
        try:
            return handle(request, match, now)
        except RestRefusal as refusal:
            return refusal.reply
        except ProtocolViolation as violation:
            self.violations.append(violation)
            return self.bad_request(violation)

    def _fault(self, route: str) -> Fault | None:
        for fault in self.faults:
            if fault.route in ("", route) and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


# ---------------------------------------------------------------- pieces


def form_webhook(what: str, url: str, fields: Fields, method: str = "POST") -> Webhook:
    """Fields as a form body; with GET as the query, after what the URL has of it."""
    pairs = list(fields.items()) if isinstance(fields, Mapping) else list(fields)
    url = url.partition("#")[0]  # it is never sent
    if method == "GET":
        joined = f"{url}{'&' if '?' in url else '?'}{urlencode(pairs)}" if pairs else url
        return Webhook(what=what, method="GET", url=joined)
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    return Webhook(what=what, method=method, url=url, headers=headers, body=urlencode(pairs).encode())


def json_webhook(what: str, url: str, value: Any) -> Webhook:
    body = json.dumps(value, separators=(",", ":")).encode()
    return Webhook(what=what, method="POST", url=url, headers={"content-type": "application/json"}, body=body)


def altered(webhook: Webhook) -> Webhook:
    """The same with one more field, its signature as it was."""
    if not webhook.body:
        return replace(webhook, url=f"{webhook.url}{'&' if '?' in webhook.url else '?'}Altered=1")
    if webhook.headers.get("content-type", "").startswith("application/json"):
        return replace(webhook, body=webhook.body[:-1] + b',"altered":1}')
    return replace(webhook, body=webhook.body + b"&Altered=1")


def on_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def fake_web(name: str) -> type[FakeWeb]:
    """The FakeWeb of carrier `name`, from `gateway/simulator/<name>_web.py`. KeyError if it has no HTTP side."""
    if not name.isidentifier():
        raise KeyError(name)
    if importlib.util.find_spec(f"gateway.simulator.{name}_web") is None:
        raise KeyError(name)
    module = importlib.import_module(f"gateway.simulator.{name}_web")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, FakeWeb) and value.__module__ == module.__name__:
            return value
    raise KeyError(name)


def _whose(call: WebCall) -> str:
    if call.cut:
        return "bot"
    by = call.media.ended_by if call.media is not None else None
    return by if by in ("caller", "bot") else "carrier"
