"""A carrier's HTTP side as plain functions: facts in; answers, requests and events out. No network, no clock.

`webhooks/<carrier>.py` holds `<Carrier>Settings`, the keys of its [carriers.<carrier>] table, and one `CarrierHttp`:
what the carrier's webhooks mean and are answered with, and what to ask of its REST interface. The gateway reads the
body, calls these functions, commits what they say, and executes the requests.
"""

from __future__ import annotations

import enum
import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Annotated, Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from annotated_types import Ge, Interval, Predicate

from media.errors import GatewayError
from media.secret import Secret
from webhooks.characters import read_json
from webhooks.notes import Notes

__all__ = ["CarrierHttp", "CarrierSettings", "Secret"]


def is_loopback_base(url: str) -> bool:
    """Whether `url` is the base of a server on this machine, by address: "http://127.0.0.1:9000/twilio", or nothing.

    Credentials go there in the clear, so a name will not do: names can be made to point elsewhere.
    """
    if not url:
        return True
    try:
        parts = urlsplit(url)
        there = ipaddress.ip_address(parts.hostname or "")
        _ = parts.port
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or parts.username is not None or url.endswith(("/", "?", "#")))
    return parts.scheme == "http" and there.is_loopback and plain


@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierSettings:
    """What every [carriers.<name>] table may say; `webhooks/<name>.py` adds to it as `<Name>Settings`.

    Fields are checked by their types: `Annotated[int, Interval(ge=..., le=...)]` for ranges, `Literal[...]` for
    choices, `Secret` for what must not stand in the file. A field without a default must be given. A rule between
    fields raises ValueError in `__post_init__`.
    """

    urls_name_bots: ClassVar[bool] = False  # the URL of a standing stream may name its bot: no number is needed

    enabled: bool = True
    verify_signatures: bool = True  # false lets anybody in who knows the URL; the start of the gateway warns
    max_calls: Annotated[int, Ge(1)] | None = None  # at once, through this carrier
    lead_ms: Annotated[int, Interval(ge=0, le=10_000)] | None = None  # audio sent ahead of real time; None: carrier's
    sample_rate: Annotated[int, Interval(ge=8000, le=48_000)] | None = None  # Hz on the wire, where there is a choice
    api_base: Annotated[str, Predicate(is_loopback_base)] = ""  # REST goes to a simulator: http://127.0.0.1:<port>/...
    accounts: Mapping[str, Any] = field(default_factory=dict)  # further accounts: what is different, by a name

    def named_bots(self) -> Mapping[str, str]:
        """The bots that a carrier's table names, by the place in it."""
        return {}


# ---------------------------------------------------------------- what arrives


@dataclass(frozen=True, kw_only=True)
class WebRequest:
    """A request as the carrier made it."""

    method: str
    url: str  # as the carrier addressed it: public scheme, host and prefix, raw path, raw query; never a fragment
    headers: Mapping[str, str]  # names in lower case; repeated ones joined by ", "
    body: bytes = b""
    received: float = 0.0  # Unix seconds
    peer: str = ""  # the address that connected, behind trusted proxies the one that they name

    def header(self, name: str) -> str:
        return self.headers.get(name, "")

    @cached_property
    def query(self) -> str:
        """The raw query, without the question mark."""
        return self.url.partition("?")[2]

    @cached_property
    def form(self) -> Sequence[tuple[str, str]]:
        """The fields of a form body, or of the query for GET, in order, blank ones kept."""
        text = self.body.decode("utf-8", "replace") if self.method == "POST" else self.query
        return parse_qsl(text, keep_blank_values=True)

    @cached_property
    def fields(self) -> Mapping[str, str]:
        """`form` as a mapping; of a repeated name the last value."""
        return dict(self.form)

    @cached_property
    def json(self) -> Any:
        """The body as JSON. ValueError or RecursionError if it is none."""
        return read_json(self.body)


class NotAuthentic(GatewayError):
    """A request is not from the carrier, or cannot be shown to be.

    `reason` is a word for counters ("no-signature", "bad-signature", "stale", "replayed", ...). `checked` says what
    was verified, part by part, with secrets, numbers and values masked: it is logged so that somebody can find out
    which part of a URL a proxy changed. `status` is the answer's.
    """

    def __init__(
        self, carrier: str, reason: str, checked: Mapping[str, str] | None = None, *, status: int = 403
    ) -> None:
        super().__init__(f"{carrier}: {reason}")
        self.carrier, self.reason, self.checked, self.status = carrier, reason, dict(checked or {}), status


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """What may be shown only once: the gateway remembers `key` for `for_s` seconds and refuses a replay.

    The same delivery to the same URL is taken again within `repeat_s`: carriers repeat what was not answered in time.
    """

    key: str
    for_s: float
    repeat_s: float = 10.0
    status: int = 403  # of the answer to a replay


class UnreadableRequest(GatewayError):
    """An authentic request that makes no sense: answered with 400."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundCall:
    """A call for which the carrier wants an answer document. `call_id` is the key of everything later."""

    carrier: str
    call_id: str
    from_number: str = ""
    to_number: str = ""
    account_id: str = ""
    direction: str = "inbound"  # "outbound": a call that we placed was answered
    parameters: Mapping[str, str] = field(default_factory=dict)  # what the bot gets: custom parameters, SIP headers
    extra: Mapping[str, str] = field(default_factory=dict)  # what the carrier's later requests need: region, leg ids
    order: str = ""  # `DialOrder.command_id`, if it is an answer to that order
    again: bool = False  # a call that was admitted before and lost its socket: what is empty here, its record tells


class CallPhase(enum.Enum):
    """How far a call has got. The order is that of life; the last ones are final."""

    QUEUED = "queued"
    RINGING = "ringing"
    ANSWERED = "answered"
    COMPLETED = "completed"
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        return self not in (CallPhase.QUEUED, CallPhase.RINGING, CallPhase.ANSWERED)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStatus:
    """A status report. The same `key` twice is the same report delivered twice."""

    carrier: str
    call_id: str
    phase: CallPhase
    key: str
    ended_by: str = ""  # "caller", "bot", "carrier" where the carrier says so
    cause: str = ""  # the carrier's own word
    duration_s: float | None = None
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """What the carrier says of a media stream: the only way to learn that it could not reach our socket."""

    carrier: str
    call_id: str
    what: str  # "started", "stopped", "failed", "degraded"
    key: str
    stream_id: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredBy:
    """Answering-machine detection of a call that we placed."""

    carrier: str
    call_id: str
    who: str  # "human", "machine", "fax", "unknown"
    key: str
    detail: str = ""  # "machine_end_beep" and the like
    beep: bool = False  # the machine's greeting is over: it records


CarrierEvent = CallStatus | StreamStatus | AnsweredBy

# ---------------------------------------------------------------- what is answered


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Urls:
    """Our own URLs as the carrier must address them."""

    base: str  # "https://gw.example.com/prefix", no slash at the end

    def http(self, path: str) -> str:
        return self.base + path

    def media(self, carrier: str, token: str) -> str:
        return f"{self.base.replace('http', 'ws', 1)}/{carrier}/media/{token}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOffer:
    """An admitted call: where its media goes."""

    media_url: str  # wss://, with the token in its path
    urls: Urls
    parameters: Mapping[str, str] = field(default_factory=dict)  # to be handed back by the wire's start message


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingStream:
    """A media stream that no webhook has announced: its URL stands in the carrier's console.

    Its start message says which call it is; the call counts against the limits from the upgrade on.
    """

    connector: str = ""  # what the URL names: a bot of [bots], or the stream is refused; empty: the number decides
    bot: str = ""  # for calls to numbers that are nobody's
    group: str = ""  # for `max_calls` of it: the streams of one API key
    max_calls: int | None = None  # at once, of this group
    parameters: Mapping[str, str] = field(default_factory=dict)  # for the bot: the URL's query
    options: Mapping[str, Any] = field(default_factory=dict)  # for the serializer, over the carrier's settings
    log: Mapping[str, str] = field(default_factory=dict)  # in every log line of the call


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a call is not taken, and what its caller gets instead."""

    reason: str  # "full", "number-full", "no-bot", "draining", "health"
    instead: str = "busy"  # "busy", "rejected", "number:<E.164>", "gateway:<base URL>", "say:<text>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """What a webhook came to. At most one of `answer`, `incoming` and `asks_after` is set.

    incoming: the gateway admits it or not, and calls `offer` or `refuse`.
    asks_after: the stream of this call is over and the carrier asks what now: the gateway calls `after`.
    Both, for the same call: its socket was lost. If nobody wished it elsewhere (`after`), it is admitted again.
    renamed: what the reply to our order called the call of this webhook, and what it is called from now on.
    """

    answer: HttpAnswer | None = None
    incoming: InboundCall | None = None
    asks_after: str | None = None  # call_id
    renamed: tuple[str, str] | None = None  # call_ids
    requests: Sequence[CarrierRequest] = ()
    events: Sequence[CarrierEvent] = ()


# ---------------------------------------------------------------- what is asked of the carrier


class Purpose(enum.Enum):
    ANSWER = "answer"  # accept and open the stream (Telnyx Call Control)
    REJECT = "reject"
    HANG_UP = "hang-up"
    TRANSFER = "transfer"
    DIAL = "dial"
    FETCH = "fetch"


@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierRequest:
    """A request to a carrier's REST interface, without its credentials: `authorize` adds them as it is sent."""

    carrier: str
    purpose: Purpose
    call_id: str
    method: str
    url: str
    json: Any = None
    form: Sequence[tuple[str, str]] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    authorize: Callable[[float], Mapping[str, str]] = field(repr=False)  # Unix seconds -> headers with credentials
    repeatable: bool = False  # sending it twice does what sending it once does
    timeout_s: float = 5.0
    account: str = ""  # with whose credentials, where a carrier has several


class OutcomeKind(enum.Enum):
    DONE = "done"
    ALREADY_OVER = "already-over"  # the call had ended: for a hang-up as good as done
    RETRY = "retry"  # not now; if the request is repeatable, again
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a carrier's reply means."""

    kind: OutcomeKind
    detail: str = ""  # for the log: status and the carrier's code, no values
    in_doubt: bool = False  # there was no reply: it may have been carried out
    retry_after_s: float | None = None
    call_id: str = ""  # of a call that was placed
    phase: CallPhase | None = None  # of a call that was fetched
    extra: Mapping[str, str] = field(default_factory=dict)  # of a call that was placed: joins `CallRef.extra`


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRef:
    """What is needed to speak of a call later, also after a restart: all of it can be stored."""

    carrier: str
    call_id: str
    account_id: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)  # region_url, leg ids, connection ids


@dataclass(frozen=True, slots=True, kw_only=True)
class DialOrder:
    """A call to place."""

    to_number: str
    from_number: str
    media_url: str = ""  # for carriers that open the stream without asking for an answer document
    ring_s: int = 60
    longest_s: int | None = None
    detect_machine: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    command_id: str = ""  # makes a repeated order harmless, where the carrier knows such ids
    at: float = 0.0  # when it is placed, Unix seconds: for carriers whose orders hold something dated


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How a caller is handed over: by a request, or by leaving the stream and answering what the carrier then asks."""

    request: CarrierRequest | None = None
    closes_socket: bool = False  # close the media socket (after the request, if there is one); `after` gives the target


class CarrierHttp(ABC):
    """One carrier's HTTP side. Made once per settings snapshot; keeps no state of calls."""

    carrier: ClassVar[str]
    # The settings that hold the account's id and the secret of its REST interface; ("", "") where none ends calls.
    account_fields: ClassVar[tuple[str, str]] = ("", "")
    id_fields: ClassVar[Sequence[str]] = ()  # the settings by which the carrier names an account; none: it has one only
    hosts: ClassVar[Sequence[str]] = ()  # patterns (fnmatch) of the hosts to which its requests may go
    refused_upgrade_s: ClassVar[float] = 0.0  # an upgrade that is not authentic is answered no sooner than this
    notes: ClassVar[Notes | None] = None  # what it remembers beyond a call: all workers are told
    outlives_stream: ClassVar[bool] = False  # a call may go on after the carrier's word that its stream is over
    streams_share_calls: ClassVar[bool] = False  # one call may have several standing streams: each has its own record

    def __init__(self, settings: Any) -> None:
        if not is_loopback_base(settings.api_base):
            raise ValueError("api_base must be an http:// URL with a loopback address: it is for the simulator only")
        self.settings = settings
        self.account = ""  # its name in gateway.toml, where the carrier has several

    @property
    def ids(self) -> Sequence[str]:
        """What the carrier calls this account."""
        return [value for name in self.id_fields if (value := getattr(self.settings, name))]

    def side_of(self, route: str, request: WebRequest) -> CarrierHttp:
        """Where there are several accounts, the one that a webhook is from; else this."""
        return self

    def side_named(self, account: str) -> CarrierHttp:
        """Where there are several accounts, the one of that name in gateway.toml. ValueError: there is none."""
        if account:
            raise ValueError(f"{self.carrier} has no account {account!r}")
        return self

    @property
    def rest_lacks(self) -> Sequence[str]:
        """Settings without which no request can end, transfer or place a call; none where requests do not end calls."""
        return [name for name in self.account_fields if name and not getattr(self.settings, name)]

    def api(self, base: str) -> str:
        """Where requests meant for `base` ("https://api.example.com") go: there, or to the simulator."""
        return self.settings.api_base or base

    def may_send_to(self, url: str) -> bool:
        """Whether credentials may be sent to `url`: over TLS to one of `hosts`, or to the simulator."""
        if self.settings.api_base:
            return url.startswith(self.settings.api_base + "/")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            return False
        plain = parts.scheme == "https" and port in (None, 443) and parts.username is None and "\\" not in url
        return plain and any(fnmatchcase(host, pattern) for pattern in self.hosts)

    # ------------------------------------------------------------ authenticity

    @abstractmethod
    def authenticate(self, route: str, request: WebRequest) -> Once | None:
        """Raises NotAuthentic unless `request` is shown to come from the carrier. `route` as for `handle`.

        Gives what must not be shown again (a nonce, a token's id), where the scheme has such a thing.
        """

    def authenticate_upgrade(self, request: WebRequest) -> str:
        """The same for the upgrade of the media socket, where the carrier signs it; gives a remark for the log."""
        return ""

    def once_of_upgrade(self, request: WebRequest) -> Once | None:
        """What of an authentic upgrade must not be shown again (a nonce), where the scheme has such a thing."""
        return None

    def standing_stream(self, request: WebRequest) -> StandingStream | None:
        """What is known of an upgrade to a URL that stands in the carrier's console; None: it needs a call's token.

        Such a stream is as authentic as `authenticate_upgrade` found it.
        """
        return None

    # ------------------------------------------------------------ webhooks

    @abstractmethod
    def handle(self, route: str, request: WebRequest, urls: Urls) -> Handled:
        """An authentic webhook. `route` is "answer", "events", "status", "stream-status", "after" or "passthru".

        Raises UnreadableRequest.
        """

    @abstractmethod
    def offer(self, call: InboundCall, stream: StreamOffer) -> Handled:
        """The answer that connects an admitted call to its media socket."""

    @abstractmethod
    def refuse(self, call: InboundCall, refusal: Refusal) -> Handled:
        """The answer that turns a call away in the carrier's correct way."""

    def after(self, call_id: str, target: str | None) -> HttpAnswer:
        """What follows when the stream is over: hand over to `target`, or the end."""
        return HttpAnswer(status=204)

    # ------------------------------------------------------------ call control

    def hang_up(self, ref: CallRef) -> CarrierRequest | None:
        """None: the carrier has no request for it; closing the media socket ends the call."""
        return None

    def transfer(self, ref: CallRef, target: str, urls: Urls) -> Transfer | None:
        """None: this carrier cannot."""
        return None

    def dial(self, order: DialOrder, urls: Urls) -> CarrierRequest | None:
        """None: this carrier cannot place calls."""
        return None

    def fetch(self, ref: CallRef) -> CarrierRequest | None:
        """Ask for the state of a call. None: there is no such request."""
        return None

    def outcome(self, request: CarrierRequest, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        """What the reply to `request` means, by this carrier's own list of codes. Header names in lower case."""
        raise NotImplementedError(f"{self.carrier} sends no requests")


class SocketOnly(CarrierHttp):
    """A carrier that has a media socket and nothing else."""

    carrier = "socket-only"

    def authenticate(self, route: str, request: WebRequest) -> Once | None:
        raise NotAuthentic(self.carrier, "no-webhooks", status=404)

    def handle(self, route: str, request: WebRequest, urls: Urls) -> Handled:
        return Handled(answer=HttpAnswer(status=404))

    def offer(self, call: InboundCall, stream: StreamOffer) -> Handled:
        return Handled(answer=HttpAnswer(status=404))

    def refuse(self, call: InboundCall, refusal: Refusal) -> Handled:
        return Handled(answer=HttpAnswer(status=404))
