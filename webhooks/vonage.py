"""Vonage: the HTTP side of the Voice API and of the Video API's Audio Connector.

A webhook carries a token (vonage_jwt.py) and says something of a call or of one of its two legs (vonage_events.py);
it is answered with an NCCO (vonage_ncco.py); and calls are controlled by REST (vonage_rest.py). The Audio Connector
has no webhooks: it is asked to open our socket, as a call is dialled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import parse_qs

from media.errors import ConfigError
from webhooks import vonage_events, vonage_jwt, vonage_ncco, vonage_rest
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
    Refusal,
    Secret,
    StreamOffer,
    Transfer,
    UnreadableRequest,
    Urls,
    WebRequest,
)
from webhooks.signature import checked_body
from webhooks.targets import order_of

RECONNECTS = 2  # of one call's socket; then its caller hears an apology

_DETECTION: Mapping[str, Mapping[str, Any]] = {
    "continue": {"machine_detection": "continue"},
    "advanced": {
        "advanced_machine_detection": {"behavior": "continue", "mode": "detect_beep", "beep_timeout": 45},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VonageSettings(CarrierSettings):
    """[carriers.vonage] in gateway.toml. Four things are secret at Vonage, and no two of them are the same."""

    product: Literal["voice", "video"] = "voice"  # Voice API, or the Video API's Audio Connector
    application_id: str = ""
    private_key: Secret | None = None  # of the application (PEM): signs what we ask of the REST API
    api_key: str = ""  # of the account: names the signature secret; with product = "video" an OpenTok project's
    signature_secret: Secret | None = None  # of the account: signs its webhooks
    signature_secrets: Mapping[str, Secret] = field(default_factory=dict)  # of further accounts, by their api_key
    api_secret: Secret | None = None  # belongs to api_key; only an OpenTok project needs it
    sample_rate: Literal[8000, 16000, 24000] | None = None  # asked for in the answer; None: 16000
    auto_hang_up: bool = True
    handshake_signature: Literal["off", "warn", "enforce"] = (
        "off"  # of the media socket, whose token is always enforced
    )
    machine_detection: Literal["continue", "advanced"] = "continue"  # for calls that are placed with it
    language: str = "en-GB"  # in which Vonage says what callers hear who are turned away

    def __post_init__(self) -> None:
        if self.private_key is not None and not self.application_id:
            raise ValueError("private_key needs application_id: the key belongs to an application")
        if self.product == "video" and self.private_key is None and self.api_secret is not None and not self.api_key:
            raise ValueError("api_secret needs api_key: the secret belongs to a project")
        for name, secret in self._signature_secrets():
            for other, value in (("api_secret", self.api_secret), ("private_key", self.private_key)):
                if value is not None and _equal(secret, value):
                    raise ValueError(
                        f"{name} is the {other}: the signature secret is another one, "
                        "on the settings page of Vonage's dashboard"
                    )

    def _signature_secrets(self) -> Iterator[tuple[str, Secret]]:
        if self.signature_secret is not None:
            yield "signature_secret", self.signature_secret
        for account, secret in self.signature_secrets.items():
            yield f"signature_secrets.{account}", secret


def _equal(one: Secret, other: Secret) -> bool:
    """Whether both are the same secret, as far as they can be read."""
    if one == other:
        return True
    return not one.problem() and not other.problem() and one.reveal().strip() == other.reveal().strip()


class VonageHttp(CarrierHttp):
    """Of a call it keeps nothing: how often its socket was lost stands in the URL to which the socket's events go."""

    carrier = "vonage"
    id_fields = ("application_id", "api_key")
    hosts = (
        "api.nexmo.com",
        "api.vonage.com",
        *(f"api-{region}.{domain}.com" for region in ("us", "eu", "ap") for domain in ("vonage", "nexmo")),
        *(f"api-{region}-[34].{domain}.com" for region in ("us", "eu", "ap") for domain in ("vonage", "nexmo")),
        "video.api.vonage.com",
        "api.opentok.com",
    )

    def __init__(self, settings: VonageSettings) -> None:
        """ConfigError: a key that is none, or no secret by which to verify webhooks."""
        super().__init__(settings)
        self._own = settings
        self._rate = settings.sample_rate or 16000
        self._secrets = _secrets(settings)
        self._key = _private_key(settings)
        self._voice: vonage_rest.VoiceApi | None = None
        self._video: vonage_rest.VideoApi | None = None
        if settings.product == "voice":
            if self._key is not None:
                self._voice = vonage_rest.VoiceApi(self.api, self._as_application)
        elif self._key is not None:
            self._video = vonage_rest.VideoApi(
                self.api(vonage_rest.VIDEO), settings.application_id, self._as_application
            )
        elif settings.api_secret is not None:
            self._video = vonage_rest.VideoApi(
                self.api(vonage_rest.OPENTOK), settings.api_key, _as_project(settings.api_key, settings.api_secret)
            )

    def _as_application(self, now: float) -> Mapping[str, str]:
        assert self._key is not None
        return {"authorization": f"Bearer {vonage_jwt.application_jwt(self._own.application_id, self._key, now)}"}

    @property
    def rest_lacks(self) -> Sequence[str]:
        names = ("application_id", "private_key") if self._own.product == "voice" else ()
        return [name for name in names if not getattr(self._own, name)]

    # ------------------------------------------------------------ authenticity

    def authenticate(self, route: str, request: WebRequest) -> Once | None:
        """Of a GET the query is not signed: nothing in it is believed that could do harm."""
        if not request.header("authorization"):
            # By Vonage's page a failure on their side can leave the token out; after a 5xx it is sent again, signed.
            raise NotAuthentic(self.carrier, "no-signature", {"body": checked_body(request.body)}, status=503)
        return self._verified(request, needs_hash=request.method != "GET").once

    def authenticate_upgrade(self, request: WebRequest) -> str:
        """Its token is signed as a webhook's, if the answer asked for it; nobody is known to have seen one."""
        if self._own.handshake_signature == "off":
            return ""
        try:
            self._verified(request, needs_hash=False)
        except NotAuthentic as exc:
            if self._own.handshake_signature == "enforce":
                raise
            return f"handshake: {exc.reason}"
        return ""

    def _verified(self, request: WebRequest, *, needs_hash: bool) -> vonage_jwt.Signed:
        signed = vonage_jwt.verify(request, self._secrets, needs_hash=needs_hash)
        own = self._own
        other = signed.application_id and own.application_id and signed.application_id != own.application_id
        if other and signed.account not in own.signature_secrets:
            # Applications of one account share its secret, but not their calls.
            raise NotAuthentic(self.carrier, "other-application", {"account": signed.account[:2] + "..."}, status=401)
        return signed

    # ------------------------------------------------------------ webhooks

    def handle(self, route: str, request: WebRequest, urls: Urls) -> Handled:
        if self._own.product == "video":
            raise UnreadableRequest("vonage: a webhook, but product = 'video', which has none")
        said = vonage_events.read(request)
        query = {name: values[-1] for name, values in parse_qs(request.query).items()}
        placed = query.get("placed") == "1"
        if route == "answer":
            by_get = request.method == "GET"
            region = "" if by_get else vonage_rest.regional_origin(said.get("region_url"))
            account = vonage_jwt.account_of(request) or self._own.api_key
            call = vonage_events.call(said, account_id=account, region_url=region, placed=placed)
            return Handled(incoming=replace(call, order=order_of(request)))
        named = query.get("call", "") if vonage_events.is_call_id(query.get("call")) else ""
        events, lost = vonage_events.events(said, named)
        if route != "after" or not named or not lost:
            return Handled(events=events)
        times = int(query["lost"]) if query.get("lost", "") in ("0", "1") else RECONNECTS
        if times >= RECONNECTS:
            return Handled(answer=self._talk(vonage_ncco.APOLOGY), events=events)
        call = vonage_events.again(said, named, lost=times, placed=placed)
        return Handled(incoming=call, asks_after=named, events=events)

    def offer(self, call: InboundCall, stream: StreamOffer) -> Handled:
        ncco = vonage_ncco.connect(
            stream.media_url,
            our_number=call.extra.get("number", ""),
            sample_rate=self._rate,
            headers=vonage_ncco.headers(call.call_id, stream.parameters),
            event_url=vonage_events.socket_events_url(stream.urls, call),
            signed_handshake=self._own.handshake_signature != "off",
        )
        return Handled(answer=vonage_ncco.document(ncco))

    def refuse(self, call: InboundCall, refusal: Refusal) -> Handled:
        """There is no busy at Vonage: the call is answered, and the caller told."""
        if refusal.reason == "over":
            # The socket was closed on purpose: its document goes on, which is at its end.
            return Handled(answer=HttpAnswer(status=204) if call.again else self._talk(vonage_ncco.REJECTED))
        kind, _, rest = refusal.instead.partition(":")
        ncco: vonage_ncco.Ncco | None = None
        if kind == "number":
            ncco = vonage_ncco.hand_over(rest, call.extra.get("number", ""))
        elif kind == "gateway":
            answer_url = Urls(base=rest.rstrip("/")).http("/vonage/answer")
            ncco = vonage_ncco.elsewhere(call, answer_url, self._own.language)
        elif kind == "say":
            ncco = vonage_ncco.talk(rest, self._own.language)
        elif kind == "rejected":
            ncco = vonage_ncco.talk(vonage_ncco.REJECTED, self._own.language)
        return Handled(answer=vonage_ncco.document(ncco) if ncco is not None else self._talk(vonage_ncco.BUSY))

    def after(self, call_id: str, target: str | None) -> HttpAnswer:
        ncco = vonage_ncco.hand_over(target, "") if target else None
        return vonage_ncco.document(ncco) if ncco is not None else HttpAnswer(status=204)

    def _talk(self, text: str) -> HttpAnswer:
        return vonage_ncco.document(vonage_ncco.talk(text, self._own.language))

    # ------------------------------------------------------------ call control

    def hang_up(self, ref: CallRef) -> CarrierRequest | None:
        if self._video is not None:
            return self._video.disconnect(ref)
        return self._voice.hang_up(ref) if self._voice is not None else None

    def transfer(self, ref: CallRef, target: str, urls: Urls) -> Transfer | None:
        """Without credentials the call leaves its socket, and Vonage asks what now. A URL is asked for an NCCO."""
        ncco = vonage_ncco.hand_over(target, ref.extra.get("number", ""))
        if self._voice is None:
            return Transfer(closes_socket=True) if ncco is not None and self._own.product == "voice" else None
        if ncco is not None:
            request = self._voice.transfer(ref, ncco)
        elif target.startswith("https://"):
            request = self._voice.transfer_to_url(ref, target)
        else:
            return None
        return Transfer(request=request) if request is not None else None

    def dial(self, order: DialOrder, urls: Urls) -> CarrierRequest | None:
        """For a video session: `to_number` is its id, and the parameter `token` a client token for it, if we cannot
        make one. ValueError for what Vonage would not take."""
        if self._video is not None:
            return self._video.connect(order, self._session_token(order), self._rate)
        if self._voice is None:
            return None
        return self._voice.dial(order, urls, _DETECTION[self._own.machine_detection])

    def _session_token(self, order: DialOrder) -> str:
        if given := order.parameters.get("token", ""):
            return given
        if self._key is None or not order.at:
            raise ValueError("an OpenTok session needs the parameter `token`: a client token of a publisher")
        return vonage_jwt.session_token(self._own.application_id, self._key, order.to_number, order.at)

    def fetch(self, ref: CallRef) -> CarrierRequest | None:
        return self._voice.fetch(ref) if self._voice is not None else None

    def outcome(self, request: CarrierRequest, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        return vonage_rest.outcome(request, status, headers, body)


def _secrets(settings: VonageSettings) -> vonage_jwt.SignatureSecrets:
    by_account = {account: secret.reveal() for account, secret in settings.signature_secrets.items()}
    main = settings.signature_secret.reveal() if settings.signature_secret is not None else ""
    if settings.verify_signatures and settings.product == "voice" and not main and not by_account:
        raise ConfigError(
            "signature_secret",
            "is not set",
            "copy it from the settings page of Vonage's dashboard, "
            "or set verify_signatures = false to take any webhook",
        )
    if settings.api_key and main:
        by_account[settings.api_key] = main
        main = ""
    return vonage_jwt.SignatureSecrets(by_account=by_account, any_account=main)


def _private_key(settings: VonageSettings) -> Any:
    if settings.private_key is None:
        return None
    try:
        return vonage_jwt.private_key(settings.private_key.reveal())
    except ValueError as exc:
        raise ConfigError("private_key", str(exc), "it is the file private.key of the application") from None


def _as_project(api_key: str, api_secret: Secret) -> vonage_rest.Authorize:
    secret = api_secret.reveal()
    return lambda now: {"x-opentok-auth": vonage_jwt.opentok_jwt(api_key, secret, now)}
