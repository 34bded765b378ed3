"""Plivo: the HTTP side. Its signature is in plivo_signature.py, its documents and callbacks in plivo_xml.py."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from media.errors import ConfigError
from webhooks import plivo_signature, plivo_xml
from webhooks.base import (
    CallPhase,
    CallRef,
    CarrierHttp,
    CarrierRequest,
    CarrierSettings,
    DialOrder,
    Handled,
    HttpAnswer,
    InboundCall,
    NotAuthentic,
    Once,
    Outcome,
    OutcomeKind,
    Purpose,
    Refusal,
    Secret,
    StreamOffer,
    Transfer,
    UnreadableRequest,
    Urls,
    WebRequest,
)
from webhooks.replies import json_object, unsuccessful
from webhooks.signature import basic_auth, checked_fields, checked_url, header_names
from webhooks.targets import order_query, read_target

SIGNATURES = ("x-plivo-signature-v3", "x-plivo-signature-ma-v3")  # by the number's account, by the main account
NONCE = "x-plivo-signature-v3-nonce"
V2 = "x-plivo-signature-v2"
REMEMBER_S = 600.0  # nonces: the scheme has no time in it
NOTED = HttpAnswer(status=204)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}")  # what Plivo issues, and what may stand in a path as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class PlivoSettings(CarrierSettings):
    """[carriers.plivo] in gateway.toml. A stream has one codec both ways."""

    auth_id: str = ""  # 20 characters, MA... or SA... for a subaccount
    auth_token: Secret | None = None  # REST, and the webhooks' V3 signature
    send_codec: Literal["PCMU", "L16"] = "PCMU"
    auto_hang_up: bool = True
    handshake_signature: Literal["off", "warn", "enforce"] = "warn"  # of the media socket; its token is always enforced

    def __post_init__(self) -> None:
        rates = (8000, 16000) if self.send_codec == "L16" else (8000,)
        if self.sample_rate is not None and self.sample_rate not in rates:
            raise ValueError(f"sample_rate of {self.send_codec} must be {' or '.join(map(str, rates))}")

    @property
    def send_rate(self) -> int:
        """Hz, both ways."""
        return self.sample_rate or (16000 if self.send_codec == "L16" else 8000)


class PlivoHttp(CarrierHttp):
    """One account, main or sub: a main account's token also verifies what its subaccounts' numbers send."""

    carrier = "plivo"
    account_fields = ("auth_id", "auth_token")
    id_fields = ("auth_id",)
    hosts = ("api.plivo.com",)

    def __init__(self, settings: PlivoSettings) -> None:
        """ConfigError: no token by which to verify webhooks, and `verify_signatures` is on."""
        super().__init__(settings)
        self._own = settings
        if settings.auth_token is None and settings.verify_signatures:
            raise ConfigError(
                "auth_token",
                "is not set",
                'write { env = "PLIVO_AUTH_TOKEN" }, or set verify_signatures = false to take any webhook',
            )
        self._token = settings.auth_token.reveal() if settings.auth_token is not None else ""
        self._account = f"{self.api('https://api.plivo.com')}/v1/Account/{quote(settings.auth_id, safe='')}"
        self._credentials = {"authorization": basic_auth(settings.auth_id, self._token)}
        self._has_rest = bool(settings.auth_id and self._token)
        plivo_xml.builder()  # imported now, not while calls wait

    # ------------------------------------------------------------ authenticity

    def authenticate(self, route: str, request: WebRequest) -> Once | None:
        checked = {"headers": header_names(request.headers, "x-plivo-"), **checked_url(request.url)}
        nonce = self._nonce(request, checked)
        try:
            form = plivo_signature.parameters(request.body.decode()) if request.method == "POST" else ()
            texts = [
                plivo_signature.canonical(request.method, url, form) for url in plivo_signature.spellings(request.url)
            ]
        except ValueError:  # what is not UTF-8 has no one reading
            raise NotAuthentic(self.carrier, "unreadable", checked, status=400) from None
        if not any(self._matches(request, text, nonce) for text in texts):
            raise NotAuthentic(self.carrier, "bad-signature", {**checked, "fields": checked_fields(form)})
        return Once(key=nonce, for_s=REMEMBER_S)

    def authenticate_upgrade(self, request: WebRequest) -> str:
        """The handshake is signed like a GET of the stream's URL with `http://`, as seen on live calls.

        Plivo's own libraries disagree about that, so `https://` is taken too, and a mismatch is only remarked unless
        `handshake_signature` is "enforce".
        """
        if self._own.handshake_signature == "off":
            return ""
        checked = {"headers": header_names(request.headers, "x-plivo-"), **checked_url(request.url)}
        try:
            nonce = self._nonce(request, checked)
            rest = request.url.partition("://")[2]
            for scheme in ("http", "https"):
                if self._matches(request, plivo_signature.canonical("GET", f"{scheme}://{rest}"), nonce):
                    return "" if scheme == "http" else "handshake signed over https://"
            raise NotAuthentic(self.carrier, "bad-signature", checked)
        except ValueError:
            problem = NotAuthentic(self.carrier, "unreadable", checked, status=400)
        except NotAuthentic as exc:
            problem = exc
        if self._own.handshake_signature == "enforce":
            raise problem
        return f"handshake: {problem.reason}"

    def _nonce(self, request: WebRequest, checked: Mapping[str, str]) -> str:
        """The nonce of a V3 signature. V2 covers no parameters: for calls it does not count."""
        nonce = request.header(NONCE)
        if not self._token:
            raise NotAuthentic(self.carrier, "no-key", checked)
        if not nonce or not any(request.header(name) for name in SIGNATURES):
            raise NotAuthentic(self.carrier, "v2-only" if request.header(V2) else "no-signature", checked)
        if len(nonce) > 200:
            raise NotAuthentic(self.carrier, "bad-signature", checked)
        return nonce

    def _matches(self, request: WebRequest, text: str, nonce: str) -> bool:
        return plivo_signature.matches(self._token, text, nonce, map(request.header, SIGNATURES))

    # ------------------------------------------------------------ webhooks

    def handle(self, route: str, request: WebRequest, urls: Urls) -> Handled:
        form = request.fields
        call_id = form.get("CallUUID", "")
        if not _ID.fullmatch(call_id):
            raise UnreadableRequest("plivo: CallUUID is missing, or no id")
        if route == "stream-status":
            return Handled(answer=NOTED, events=plivo_xml.stream_events(form, call_id))
        renamed = _renamed(form, call_id)
        # Without a hangup_url of its own an application reports the end to the URL where it asks for documents.
        phase = plivo_xml.phase(form)
        over = phase is not None and phase.final
        if route == "after" and not over:
            return Handled(asks_after=call_id)
        if route == "answer" and not over:
            return Handled(incoming=plivo_xml.call(form, call_id, request), renamed=renamed)
        return Handled(answer=NOTED, events=plivo_xml.events(form, call_id), renamed=renamed)

    def offer(self, call: InboundCall, stream: StreamOffer) -> Handled:
        return Handled(answer=plivo_xml.connect(stream, self._own.send_codec, self._own.send_rate))

    def refuse(self, call: InboundCall, refusal: Refusal) -> Handled:
        return Handled(answer=plivo_xml.refuse(call, refusal))

    def after(self, call_id: str, target: str | None) -> HttpAnswer:
        return plivo_xml.hand_over(target)

    # ------------------------------------------------------------ call control

    def hang_up(self, ref: CallRef) -> CarrierRequest | None:
        return self._request(Purpose.HANG_UP, ref.call_id, "DELETE", _path(ref), repeatable=True)

    def transfer(self, ref: CallRef, target: str, urls: Urls) -> Transfer | None:
        """The call is sent to `/plivo/after`, which names the target; then the socket: the other way round it ends."""
        kind, target = read_target(target)
        if not kind:
            return None
        url = target if kind == "url" else urls.http("/plivo/after")
        body = {"legs": "aleg", "aleg_url": url, "aleg_method": "POST"}
        request = self._request(Purpose.TRANSFER, ref.call_id, "POST", _path(ref), json=body)
        return None if request is None else Transfer(request=request, closes_socket=True)

    def dial(self, order: DialOrder, urls: Urls) -> CarrierRequest | None:
        """Placed once only: Plivo knows no ids by which a repeated order would be seen."""
        answer = urls.http("/plivo/answer") + order_query(order.command_id, order.parameters)
        body: dict[str, Any] = {
            "from": _number(order.from_number),
            "to": _number(order.to_number),
            "answer_url": answer,
            "answer_method": "POST",
            "ring_url": urls.http("/plivo/status"),
            "ring_method": "POST",
            "hangup_url": urls.http("/plivo/status"),
            "hangup_method": "POST",
            "ring_timeout": order.ring_s,
        }
        if order.longest_s is not None:
            body["time_limit"] = order.longest_s
        if order.detect_machine:  # with a URL of its own it runs beside the call instead of before it
            body["machine_detection"] = "true"
            body["machine_detection_url"] = urls.http("/plivo/status")
            body["machine_detection_method"] = "POST"
        return self._request(Purpose.DIAL, "", "POST", "Call/", json=body)

    def fetch(self, ref: CallRef) -> CarrierRequest | None:
        return self._request(Purpose.FETCH, ref.call_id, "GET", f"{_path(ref)}?status=live", repeatable=True)

    def _request(
        self, purpose: Purpose, call_id: str, method: str, path: str, *, json: Any = None, repeatable: bool = False
    ) -> CarrierRequest | None:
        """`path`: below the account's; like every path here it ends in a slash."""
        if not self._has_rest or not (purpose is Purpose.DIAL or _ID.fullmatch(call_id)):
            return None
        return CarrierRequest(
            carrier=self.carrier,
            purpose=purpose,
            call_id=call_id,
            method=method,
            url=f"{self._account}/{path}",
            json=json,
            authorize=lambda now: self._credentials,
            repeatable=repeatable,
        )

    def outcome(self, request: CarrierRequest, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        detail = str(status)
        if 200 <= status < 300:
            reply = json_object(body)
            if request.purpose is Purpose.DIAL:
                return Outcome(kind=OutcomeKind.DONE, detail=detail, call_id=_first(reply.get("request_uuid")))
            if request.purpose is Purpose.FETCH:
                phase = plivo_xml.STATUSES.get(str(reply.get("call_status", "")).lower(), CallPhase.ANSWERED)
                return Outcome(kind=OutcomeKind.DONE, detail=detail, phase=phase)
            return Outcome(kind=OutcomeKind.DONE, detail=detail)
        if status == 404 and request.purpose is not Purpose.DIAL:  # no such live call; a wrong account is 401
            return Outcome(kind=OutcomeKind.ALREADY_OVER, detail=detail, phase=CallPhase.COMPLETED)
        return unsuccessful(status, headers, detail)


def _renamed(form: Mapping[str, str], call_id: str) -> tuple[str, str] | None:
    """The reply to an order names the order. The call was seen to have the same id, and is nowhere said to."""
    ordered = form.get("RequestUUID", "")
    if form.get("Direction") != "outbound" or ordered == call_id or not _ID.fullmatch(ordered):
        return None
    return ordered, call_id


def _path(ref: CallRef) -> str:
    return f"Call/{ref.call_id}/"


def _number(number: str) -> str:
    """As Plivo writes numbers; SIP URIs as they are."""
    return read_target(number)[1].removeprefix("+")


def _first(value: Any) -> str:
    """An id, or the first of several."""
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) else ""
