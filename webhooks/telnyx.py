"""Telnyx: the HTTP side. What the two control planes say is in telnyx_texml.py and telnyx_events.py."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from media.errors import ConfigError
from webhooks import telnyx_rest, telnyx_texml
from webhooks.base import (
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
    Purpose,
    Refusal,
    Secret,
    StreamOffer,
    Transfer,
    UnreadableRequest,
    Urls,
    WebRequest,
)
from webhooks.signature import canonical_base64, checked_body, fingerprint, header_names, same
from webhooks.targets import order_query, read_target
from webhooks.telnyx_events import CallControl

STREAM_RATES = (8000, 16000, 22050, 24000, 48000)

SIGNATURE, TIMESTAMP = "telnyx-signature-ed25519", "telnyx-timestamp"
STREAM_AUTH = "x-telnyx-streaming-auth-token"
TOLERANCE_S = 300  # both ways
_SECONDS = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TelnyxSettings(CarrierSettings):
    """[carriers.telnyx] in gateway.toml.

    `send_codec` is what we ask Telnyx to take. What we receive, Telnyx tells; `receive_codec` is what we ask for,
    and "default" leaves the call its own.
    """

    api_key: Secret | None = None  # REST: hang-up, transfer, dial
    public_key: str | Secret = ""  # base64 of the account's Ed25519 key, by which webhooks are verified; no secret
    connection_id: str = ""  # of the application that places outbound calls
    account_id: str = ""  # the AccountSid of TeXML webhooks; placing TeXML calls needs it
    control: Literal["texml", "call_control"] = "texml"
    receive_codec: Literal["default", "PCMU", "PCMA"] = "default"
    send_codec: Literal["PCMU", "PCMA", "L16"] = "PCMU"
    l16_byte_order: Literal["big", "little"] = "big"  # RFC 3551 says big; some streams were seen in little
    auto_hang_up: bool = True
    stream_auth: bool = False  # Call Control: the socket must show a second secret; answering takes one request more
    accept_get: bool = False  # TeXML by GET: its signature does not cover the parameters; better set POST at Telnyx
    machine_detection: Literal["detect", "detect_beep", "detect_words", "greeting_end", "premium"] = "detect"

    def __post_init__(self) -> None:
        if self.control == "call_control" and self.api_key is None:
            raise ValueError("control = 'call_control' needs api_key: its calls are answered by the REST API")
        if self.stream_auth and self.control == "texml":
            raise ValueError("stream_auth is for control = 'call_control': a TeXML stream has no second secret")
        if self.sample_rate is not None and self.sample_rate not in STREAM_RATES:
            raise ValueError(f"sample_rate must be one of {', '.join(map(str, STREAM_RATES))}, got {self.sample_rate}")
        if self.send_codec != "L16" and self.sample_rate not in (None, 8000):
            raise ValueError(f"{self.send_codec} has 8000 Hz only; send_codec = 'L16' has {self.sample_rate}")
        if self.send_codec == "L16" and self.control == "texml" and self.sample_rate not in (None, 8000, 16000, 24000):
            raise ValueError("a TeXML stream has 8000, 16000 or 24000 Hz; control = 'call_control' has the others")

    @property
    def send_rate(self) -> int:
        """Hz of what we send."""
        return self.sample_rate or (16000 if self.send_codec == "L16" else 8000)


class TelnyxHttp(CarrierHttp):
    """Both control planes; `settings.control` says which one the number's application uses.

    A signature covers the time and the body, not the URL: it is good once, at the URL where it was first shown.
    """

    carrier = "telnyx"
    account_fields = ("", "api_key")
    id_fields = ("account_id",)
    hosts = ("api.telnyx.com",)
    outlives_stream = True

    def __init__(self, settings: TelnyxSettings) -> None:
        """ConfigError: no key by which to verify webhooks, and `verify_signatures` is on."""
        super().__init__(settings)
        self._own = settings
        self._public_text = _public_text(settings)
        self._public_key = _public_key(self._public_text, needed=settings.verify_signatures)
        key = settings.api_key.reveal() if settings.api_key is not None else ""
        self._api = telnyx_rest.TelnyxApi(self.api("https://api.telnyx.com") + "/v2", key) if key else None
        if settings.control == "texml":
            telnyx_texml.builder()  # imported now, not while the first call waits, nor when it is not installed
        rate = str(settings.send_rate)
        self._texml = {
            "codec": settings.receive_codec,
            "bidirectional_codec": settings.send_codec,
            "bidirectional_sampling_rate": rate,
        }
        self._control: CallControl | None = None
        if self._api is not None and settings.control == "call_control":
            codecs = {
                "stream_codec": settings.receive_codec,
                "stream_bidirectional_mode": "rtp",
                "stream_bidirectional_codec": settings.send_codec,
            }
            self._control = CallControl(
                self._api,
                key,
                codecs=codecs,
                sampling_rate=settings.send_rate if settings.send_codec == "L16" else None,
                stream_auth=settings.stream_auth,
                machine_detection=settings.machine_detection,
            )
        else:
            telnyx_texml.builder()  # imported now, not while calls wait

    # ------------------------------------------------------------ authenticity

    def authenticate(self, route: str, request: WebRequest) -> Once | None:
        signature, timestamp = request.header(SIGNATURE), request.header(TIMESTAMP)
        get = request.method == "GET"
        body = b"" if get else request.body
        checked = {
            "headers": header_names(request.headers, "telnyx-"),
            "timestamp": timestamp if _SECONDS.fullmatch(timestamp) else f"<{len(timestamp)}>",
            "body": checked_body(body),
            "public_key": f"#{fingerprint(self._public_text)}",
        }
        if self._public_key is None:
            raise NotAuthentic(self.carrier, "no-key", checked)
        if get and not self._own.accept_get:
            # What Telnyx signs of a GET is documented nowhere; over its empty body it would vouch for any query.
            raise NotAuthentic(
                self.carrier, "get-method", {"remedy": "set POST for this webhook at Telnyx"}, status=405
            )
        if not signature or not timestamp:
            raise NotAuthentic(self.carrier, "no-signature", checked)
        raw = canonical_base64(signature, 64)
        if raw is None or not _SECONDS.fullmatch(timestamp):
            raise NotAuthentic(self.carrier, "bad-signature", checked)
        try:
            self._public_key.verify(raw, f"{timestamp}|".encode("ascii") + body)
        except InvalidSignature:
            raise NotAuthentic(self.carrier, "bad-signature", checked) from None
        age = int(request.received) - int(timestamp)
        if abs(age) > TOLERANCE_S:
            raise NotAuthentic(self.carrier, "stale", {**checked, "age_s": str(age)})
        # Two GETs of one second have the same signature.
        return Once(key=f"{signature} {request.url}" if get else signature, for_s=2 * TOLERANCE_S)

    def authenticate_upgrade(self, request: WebRequest) -> str:
        """The second secret of a Call Control stream, which Telnyx shows where the stream was opened with it."""
        if self._control is None:
            return ""
        shown = request.header(STREAM_AUTH)
        if not shown:
            if self._own.stream_auth:
                raise NotAuthentic(self.carrier, "no-stream-token")
            return ""
        token = request.url.partition("?")[0].rpartition("/")[2]
        if not same(self._control.stream_auth_token(token), shown):
            raise NotAuthentic(self.carrier, "bad-stream-token", {"token": f"<{len(shown)}> #{fingerprint(shown)}"})
        return ""

    # ------------------------------------------------------------ webhooks

    def handle(self, route: str, request: WebRequest, urls: Urls) -> Handled:
        if request.header("content-type").partition(";")[0].strip().lower() == "application/json":
            if self._control is None:
                raise UnreadableRequest("telnyx: a Call Control event, but control = 'texml'")
            return self._control.handle(request, urls)
        if self._control is not None and route == "answer":
            raise UnreadableRequest("telnyx: a TeXML webhook, but control = 'call_control'")
        return telnyx_texml.handle(route, request)

    def offer(self, call: InboundCall, stream: StreamOffer) -> Handled:
        if self._control is not None:
            return self._control.offer(call, stream)
        return Handled(answer=telnyx_texml.connect(stream, self._texml))

    def refuse(self, call: InboundCall, refusal: Refusal) -> Handled:
        if self._control is not None:
            return self._control.refuse(call, refusal)
        return Handled(answer=telnyx_texml.refuse(call, refusal))

    def after(self, call_id: str, target: str | None) -> HttpAnswer:
        return telnyx_texml.document(telnyx_texml.hand_over(target))

    # ------------------------------------------------------------ call control

    def hang_up(self, ref: CallRef) -> CarrierRequest | None:
        """A Call Control command in both planes: a TeXML CallSid is a call_control_id."""
        api = self._rest(ref)
        return None if api is None else api.command(Purpose.HANG_UP, ref.call_id, "hangup", {})

    def transfer(self, ref: CallRef, target: str, urls: Urls) -> Transfer | None:
        """A TeXML call gets another document: after a command it would still belong to the old one, and end with it."""
        api = self._rest(ref)
        if api is None:
            return None
        if self._control is not None:
            request = self._control.transfer(ref, target)
            # The stream would go on beside the two: closing it leaves the call up.
            return None if request is None else Transfer(request=request, closes_socket=True)
        kind, target = read_target(target)
        if not kind or not telnyx_rest.ID.fullmatch(ref.account_id):
            return None
        form = [("Url", target), ("Method", "POST")] if kind == "url" else [("Texml", telnyx_texml.hand_over(target))]
        return Transfer(request=api.update_texml(Purpose.TRANSFER, ref.call_id, ref.account_id, form))

    def dial(self, order: DialOrder, urls: Urls) -> CarrierRequest | None:
        """ValueError: the settings lack what names the application that places calls."""
        if self._api is None:
            return None
        if not self._own.connection_id:
            raise ValueError("carriers.telnyx.connection_id is not set: the id of the application that places calls")
        if self._control is not None:
            return self._control.dial(order, self._own.connection_id, urls)
        if not self._own.account_id:
            raise ValueError("carriers.telnyx.account_id is not set: the AccountSid of your TeXML webhooks")
        answer = urls.http("/telnyx/answer") + order_query(order.command_id, order.parameters)
        form = [
            ("ApplicationSid", self._own.connection_id),
            ("Url", answer),
            ("UrlMethod", "POST"),
            ("StatusCallback", urls.http("/telnyx/status")),
            ("StatusCallbackMethod", "POST"),
            ("StatusCallbackEvent", "initiated ringing answered completed"),
        ]
        if order.detect_machine:
            form += [
                ("MachineDetection", "Enable" if self._own.machine_detection == "detect" else "DetectMessageEnd"),
                ("DetectionMode", "Premium" if self._own.machine_detection == "premium" else "Regular"),
                ("AsyncAmd", "true"),
                ("AsyncAmdStatusCallback", urls.http("/telnyx/status")),
                ("AsyncAmdStatusCallbackMethod", "POST"),
            ]
        return self._api.dial_texml(order, self._own.account_id, form)

    def fetch(self, ref: CallRef) -> CarrierRequest | None:
        api = self._rest(ref)
        if api is None:
            return None
        texml = self._control is None and telnyx_rest.ID.fullmatch(ref.account_id)
        return api.fetch(ref.call_id, ref.account_id if texml else "")

    def _rest(self, ref: CallRef) -> telnyx_rest.TelnyxApi | None:
        """None also for an id that Telnyx never issued."""
        return self._api if telnyx_rest.ID.fullmatch(ref.call_id) else None

    def outcome(self, request: CarrierRequest, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        return telnyx_rest.outcome(request, status, headers, body)


def _public_text(settings: TelnyxSettings) -> str:
    found = settings.public_key
    return found if isinstance(found, str) else found.reveal()


def _public_key(text: str, *, needed: bool) -> Ed25519PublicKey | None:
    """None only where signatures are off."""
    if not text:
        if needed:
            raise ConfigError(
                "public_key",
                "is not set",
                "copy it from the Telnyx portal, or set verify_signatures = false to take any webhook",
            )
        return None
    raw = canonical_base64(text, 32)
    if raw is None:
        raise ConfigError("public_key", "is not the base64 of 32 bytes", "copy it from the Telnyx portal")
    return Ed25519PublicKey.from_public_bytes(raw)
