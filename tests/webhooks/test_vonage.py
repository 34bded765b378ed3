"""Vonage's HTTP side. Its own token library is a judge of the tokens, and so is the one of the fake Vonage."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import httpx
import jwt
import pytest
import respx
import vonage_jwt as judge  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.settings import parse_settings
from gateway.simulator.vonage_tokens import hs256, made_up_key, rs256_claims
from media.errors import ConfigError, ConfigErrors
from media.secret import Secret
from webhooks import vonage_jwt, vonage_ncco
from webhooks.base import (
    AnsweredBy,
    CallPhase,
    CallRef,
    CallStatus,
    CarrierRequest,
    DialOrder,
    Handled,
    HttpAnswer,
    InboundCall,
    NotAuthentic,
    OutcomeKind,
    Purpose,
    Refusal,
    StreamOffer,
    StreamStatus,
    UnreadableRequest,
    Urls,
    WebRequest,
)
from webhooks.vonage import VonageHttp, VonageSettings
from webhooks.vonage_rest import regional_origin

SECRET = "made-up-signature-secret-0123456789abcdef"
ACCOUNT = "abcd1234"
LEG = "aaaaaaaa-bbbb-cccc-dddd-0123456789ab"
APPLICATION = LEG
SOCKET_LEG = "bbbbbbbb-cccc-dddd-eeee-0123456789ab"
CONVERSATION = f"CON-{LEG}"
URLS = Urls(base="https://gw.example.com/prefix")
MEDIA = "wss://gw.example.com/prefix/vonage/media/TOKEN"
ISSUED = 1767225600
NOW = ISSUED + 10.0

BODY = (
    b'{"from":"447700900001","to":"442079460000","uuid":"aaaaaaaa-bbbb-cccc-dddd-0123456789ab",'
    b'"conversation_uuid":"CON-aaaaaaaa-bbbb-cccc-dddd-0123456789ab","status":"answered","direction":"inbound",'
    b'"timestamp":"2026-01-15T10:00:01.000Z"}'
)
_HEAD = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
V1 = (
    _HEAD + "eyJpYXQiOjE3NjcyMjU2MDAsImp0aSI6ImM1YmE4ZjI0LTFhMTQtNGMxMC1iZmRmLTNmYmU4Y2U1MTFiNSIsImlzcyI6IlZvbmFnZSIs"
    "InBheWxvYWRfaGFzaCI6ImMzNGRjMTFmYjc5OGMxMTZjZDZkOWJiODFmNDE4YzI0M2U3MDdkOGJhYTMxOGVkMDQxM2ViZTBkYzNiMmEwYTkiLCJh"
    "cGlfa2V5IjoiYWJjZDEyMzQiLCJhcHBsaWNhdGlvbl9pZCI6ImFhYWFhYWFhLWJiYmItY2NjYy1kZGRkLTAxMjM0NTY3ODlhYiJ9"
    ".AEa-6KeGueaUrRN7H6YwpHjSEWhh4iyTtpWFE4THMjM"
)
V2 = (
    _HEAD + "eyJpYXQiOjE3NjcyMjU2MDAsImp0aSI6ImM1YmE4ZjI0LTFhMTQtNGMxMC1iZmRmLTNmYmU4Y2U1MTFiNSIsImlzcyI6IlZvbmFnZSIs"
    "ImFwaV9rZXkiOiJhYmNkMTIzNCIsImFwcGxpY2F0aW9uX2lkIjoiYWFhYWFhYWEtYmJiYi1jY2NjLWRkZGQtMDEyMzQ1Njc4OWFiIn0"
    ".PUySOlmJSvi14u6SVG7H9Og2w8OFlfLAKC6Oy0rbhCQ"
)
V3 = (
    "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJhcHBsaWNhdGlvbl9pZCI6ImFhYWFhYWFhLWJiYmItY2NjYy1kZGRkLTAxMjM0NTY3ODlhYiIs"
    "ImlhdCI6MTc2NzIyNTYwMCwianRpIjoiMTExMTExMTEtMjIyMi0zMzMzLTQ0NDQtNTU1NTU1NTU1NTU1IiwiZXhwIjoxNzY3MjI2NTAwfQ"
)
OPENTOK = (
    _HEAD + "eyJpc3MiOiIxMjM0NTY3OCIsImlzdCI6InByb2plY3QiLCJpYXQiOjE3NjcyMjU2MDAsImV4cCI6MTc2NzIyNTkwMCwianRpIjoiajEifQ"
    ".wo31DRhQAI07lTtHLfy38V19Wmp8FT9ua5Vqip6ItXk"
)
CLAIMS: Mapping[str, Any] = {
    "iat": ISSUED,
    "jti": "c5ba8f24-1a14-4c10-bfdf-3fbe8ce511b5",
    "iss": "Vonage",
    "payload_hash": hashlib.sha256(BODY).hexdigest(),
    "api_key": ACCOUNT,
    "application_id": APPLICATION,
}


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V_SECRET", SECRET)
    monkeypatch.setenv("V_OTHER", "short")
    monkeypatch.setenv("V_KEY", made_up_key())
    monkeypatch.setenv("V_API_SECRET", "made-up-opentok-secret-0123456789abcdef")


def make(**fields: Any) -> VonageHttp:
    own = {
        "api_key": ACCOUNT,
        "signature_secret": Secret(env="V_SECRET"),
        "application_id": APPLICATION,
        "private_key": Secret(env="V_KEY"),
    }
    return VonageHttp(VonageSettings(**{**own, **fields}))


def webhook(
    body: bytes = BODY,
    token: str | None = V1,
    now: float = NOW,
    method: str = "POST",
    path: str = "/vonage/events",
    scheme: str = "Bearer",
) -> WebRequest:
    headers = {} if token is None else {"authorization": f"{scheme} {token}"}
    return WebRequest(method=method, url=URLS.http(path), headers=headers, body=body, received=now)


def says(value: Any, path: str = "/vonage/events", **said: Any) -> WebRequest:
    """A webhook that says `value`, signed as of now."""
    body = json.dumps(value).encode()
    claims = {**CLAIMS, "payload_hash": hashlib.sha256(body).hexdigest(), **said}
    return webhook(body, hs256(claims, SECRET), path=path)


def reason(http: VonageHttp, request: WebRequest) -> str:
    with pytest.raises(NotAuthentic) as refused:
        http.authenticate("events", request)
    assert refused.value.status == 401
    return refused.value.reason


def ncco(answer: HttpAnswer | None) -> Any:
    assert answer is not None
    assert (answer.status, answer.content_type) == (200, "application/json")
    return json.loads(answer.body)


# ---------------------------------------------------------------- signed webhooks


def test_the_body_of_the_vectors() -> None:
    assert hashlib.sha256(BODY).hexdigest() == "c34dc11fb798c116cd6d9bb81f418c243e707d8baa318ed0413ebe0dc3b2a0a9"
    other = hashlib.sha256(BODY.replace(b"answered", b"completed")).hexdigest()
    assert other == "cec1f31c392e7860a272c6daaa98f6cea4a8a22168f729f0159eef5d2b96158b"
    assert judge.verify_signature(V1, SECRET)
    assert hs256(CLAIMS, SECRET) == V1


def test_a_signed_webhook_is_believed() -> None:
    once = make().authenticate("events", webhook())
    assert once is not None
    assert once.key == f"{ACCOUNT}:c5ba8f24-1a14-4c10-bfdf-3fbe8ce511b5"
    assert once.for_s >= 330
    make().authenticate("events", webhook(scheme="bearer"))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"token": ""}, "no-signature"),
        ({"scheme": "Basic"}, "no-signature"),
        ({"body": BODY.replace(b"answered", b"completed")}, "body-changed"),
        ({"body": b""}, "body-changed"),
        ({"now": ISSUED + 301.0}, "stale"),
        ({"now": ISSUED - 31.0}, "stale"),
        ({"token": hs256(CLAIMS, "another-secret-0123456789abcdef-012")}, "bad-signature"),
        ({"token": V2}, "no-body-hash"),
        ({"token": V1 + "="}, "malformed"),
        ({"token": V1 + "\n"}, "malformed"),
        ({"token": V1[:-1] + "N"}, "malformed"),  # the same bytes, spelled with loose last bits
        ({"token": V1.replace("-", "+")}, "malformed"),
        ({"token": V1.rpartition(".")[0]}, "malformed"),
        ({"token": V1.rpartition(".")[0] + "."}, "malformed"),
        ({"token": "nothing"}, "malformed"),
        ({"token": "a" * 5000}, "malformed"),
    ],
)
def test_what_is_not_believed(request_: dict[str, Any], expected: str) -> None:
    assert reason(make(), webhook(**request_)) == expected


def test_a_webhook_without_any_token_is_to_be_sent_again() -> None:
    """Vonage may fail to sign, says its page: a 5xx makes it try once more, a 401 would end the call."""
    with pytest.raises(NotAuthentic) as refused:
        make().authenticate("answer", webhook(token=None))
    assert (refused.value.status, refused.value.reason) == (503, "no-signature")
    make(verify_signatures=False, signature_secret=None).handle("events", webhook(token=None), URLS)


@pytest.mark.parametrize("now", [ISSUED + 300.0, ISSUED - 30.0, ISSUED + 0.0])
def test_the_window(now: float) -> None:
    make().authenticate("events", webhook(now=now))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"iss": "vonage"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"iat": None}, "stale"),
        ({"iat": str(ISSUED)}, "stale"),
        ({"iat": True}, "stale"),
        ({"iat": float("nan")}, "stale"),
        ({"iat": 1e300}, "stale"),
        ({"exp": ISSUED - 60}, "stale"),
        ({"exp": "soon"}, "stale"),
        ({"api_key": "other"}, "unknown-account"),
        ({"api_key": [ACCOUNT]}, "unknown-account"),
        ({"api_key": None}, "unknown-account"),
        ({"payload_hash": None}, "no-body-hash"),
        ({"payload_hash": 5}, "body-changed"),
        ({"payload_hash": ""}, "body-changed"),
        ({"application_id": "11111111-2222-3333-4444-555555555555"}, "other-application"),
    ],
)
def test_what_a_token_with_the_right_signature_must_say(said: dict[str, Any], expected: str) -> None:
    assert reason(make(), webhook(token=hs256({**CLAIMS, **said}, SECRET))) == expected


def test_without_a_name_a_token_is_still_good_only_once() -> None:
    token = hs256({**CLAIMS, "jti": None}, SECRET)
    once = make().authenticate("events", webhook(token=token))
    assert once is not None
    assert once.key == f"{ACCOUNT}:{hashlib.sha256(token.encode()).hexdigest()}"


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "HS512"}, {"alg": "RS256"}, {}, [], {"alg": ["HS256"]}])
def test_the_algorithm_is_not_the_tokens_choice(header: Any) -> None:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    signed = jwt.api_jws.encode(json.dumps(dict(CLAIMS)).encode(), SECRET * 2, algorithm="HS512")
    for signature in ("AAAA", V1.rpartition(".")[2], signed.rpartition(".")[2]):
        token = f"{part(header)}.{part(dict(CLAIMS))}.{signature}"
        assert reason(make(), webhook(token=token)) == "bad-signature"
    deep = base64.urlsafe_b64encode(b"[" * 2400).rstrip(b"=").decode()
    assert reason(make(), webhook(token=f"{part(header)}.{deep}.AAAA")) == "malformed"


def test_a_public_key_is_no_shared_secret() -> None:
    """Whoever knows the application's public key cannot make a token with it."""
    key = vonage_jwt.private_key(made_up_key()).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert reason(make(), webhook(token=hs256(CLAIMS, pem))) == "bad-signature"


def test_several_accounts_each_with_its_secret() -> None:
    accounts = {"efgh5678": Secret(env="V_OTHER")}
    http = make(signature_secrets=accounts)
    http.authenticate("events", webhook())
    theirs = {**CLAIMS, "api_key": "efgh5678", "application_id": "11111111-2222-3333-4444-555555555555"}
    once = http.authenticate("events", webhook(token=hs256(theirs, "short")))  # and no warning about its length
    assert once is not None
    assert once.key.startswith("efgh5678:")
    assert reason(http, webhook(token=hs256(theirs, SECRET))) == "bad-signature"
    assert reason(http, webhook(token=hs256(CLAIMS, "short"))) == "bad-signature"
    call = http.handle("answer", says(ANSWER, api_key="efgh5678"), URLS).incoming
    assert call is not None
    assert call.account_id == "efgh5678"
    assert reason(make(signature_secret=None, signature_secrets=accounts), webhook()) == "unknown-account"


def test_a_secret_without_an_account_is_for_any() -> None:
    http = make(api_key="")
    http.authenticate("events", webhook())
    http.authenticate("events", webhook(token=hs256({**CLAIMS, "api_key": "efgh5678"}, SECRET)))


def test_get() -> None:
    """Nothing says what Vonage signs of it: no hash, or that of nothing."""
    http, path = make(), f"/vonage/answer?uuid={LEG}&from=447700900001&to=442079460000"
    for said in ({"payload_hash": None}, {"payload_hash": hashlib.sha256(b"").hexdigest()}):
        http.authenticate("answer", webhook(b"", hs256({**CLAIMS, **said}, SECRET), method="GET", path=path))
    assert reason(http, webhook(b"", V1, method="GET", path=path)) == "body-changed"
    assert reason(http, webhook(b"x", V2, method="GET", path=path)) == "no-body-hash"
    assert reason(http, webhook(b"", V2, method="HEAD", path=path)) == "no-body-hash"


def test_what_is_logged_has_no_values() -> None:
    with pytest.raises(NotAuthentic) as refused:
        make().authenticate("events", webhook(BODY.replace(b"answered", b"ringing")))
    checked = refused.value.checked
    assert checked["signed_body"] == "#c34d"
    assert checked["body"].startswith(f"{len(BODY) - 1} bytes #")
    assert checked["age_s"] == "10"
    shown = str(checked) + str(refused.value)
    for value in (SECRET, ACCOUNT, "447700900001", V1[-20:], CLAIMS["jti"]):
        assert value not in shown


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(V1) - 1), st.characters(codec="ascii"))
def test_no_changed_token_is_believed(at: int, other: str) -> None:
    changed = V1[:at] + other + V1[at + 1 :]
    if changed == V1:
        return
    with pytest.raises(NotAuthentic):
        _HTTP.authenticate("events", webhook(token=changed))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(BODY) - 1), st.integers(0, 255), st.sampled_from(["put", "insert", "drop"]))
def test_no_changed_body_is_believed(at: int, byte: int, how: str) -> None:
    middle = b"" if how == "drop" else bytes([byte])
    changed = BODY[:at] + middle + BODY[at + (how != "insert") :]
    if changed == BODY:
        return
    with pytest.raises(NotAuthentic):
        _HTTP.authenticate("events", webhook(changed))


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda raw: raw.decode("latin-1"))))
def test_garbage_is_refused(token: str) -> None:
    with pytest.raises(NotAuthentic):
        _HTTP.authenticate("events", webhook(token=token))


class _Shared:
    """One VonageHttp for all examples, made when the first asks for it."""

    def __init__(self) -> None:
        self._http: VonageHttp | None = None

    def http(self) -> VonageHttp:
        self._http = self._http or make()
        return self._http

    def authenticate(self, route: str, request: WebRequest) -> object:
        return self.http().authenticate(route, request)


_HTTP = _Shared()


# ---------------------------------------------------------------- the handshake


def upgrade(token: str | None = V2, now: float = NOW) -> WebRequest:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    url = "wss://gw.example.com/prefix/vonage/media/TOKEN"
    return WebRequest(method="GET", url=url, headers=headers, received=now)


def test_the_handshake_is_verified_where_it_was_asked_for() -> None:
    enforce, warn, off = (make(handshake_signature=how) for how in ("enforce", "warn", "off"))
    for http in (enforce, warn, off):
        assert http.authenticate_upgrade(upgrade()) == ""
        assert http.authenticate_upgrade(upgrade(hs256({**CLAIMS, "payload_hash": None}, SECRET))) == ""
    for request, expected in (
        (upgrade(None), "no-signature"),
        (upgrade(V1), "body-changed"),
        (upgrade(V2[:-2] + "QQ"), "bad-signature"),
        (upgrade(now=ISSUED + 301), "stale"),
    ):
        with pytest.raises(NotAuthentic, match=expected) as refused:
            enforce.authenticate_upgrade(request)
        assert refused.value.status == 401
        assert warn.authenticate_upgrade(request) == f"handshake: {expected}"
        assert off.authenticate_upgrade(request) == ""


# ---------------------------------------------------------------- settings


def test_three_secrets_are_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V_SAME", SECRET + " ")
    one, same, key = Secret(env="V_SECRET"), Secret(env="V_SAME"), Secret(env="V_KEY")
    for fields, named in (
        ({"signature_secret": one, "api_secret": one}, "signature_secret is the api_secret"),
        ({"signature_secret": one, "api_secret": same}, "signature_secret is the api_secret"),
        ({"signature_secrets": {"x": one}, "api_secret": same}, "signature_secrets.x is the api_secret"),
        ({"signature_secret": key, "private_key": key, "application_id": "x"}, "is the private_key"),
    ):
        with pytest.raises(ValueError, match=named) as wrong:
            VonageSettings(**fields)
        assert SECRET not in str(wrong.value)
    VonageSettings(signature_secret=one, api_secret=Secret(env="V_API_SECRET"))
    # What cannot be read cannot be compared; the carrier is off for that reason.
    VonageSettings(signature_secret=Secret(env="V_NOT_SET"), api_secret=Secret(env="V_NOT_SET_EITHER"))


def test_the_table_in_the_file() -> None:
    table = {
        "api_key": ACCOUNT,
        "signature_secret": {"env": "V_SECRET"},
        "signature_secrets": {"efgh5678": {"env": "V_OTHER"}},
        "handshake_signature": "warn",
    }
    found = parse_settings({"carriers": {"vonage": table}}).carriers["vonage"]
    assert found.signature_secrets == {"efgh5678": Secret(env="V_OTHER")}
    for wrong, path in (
        ({"private_key": {"env": "V_KEY"}}, "carriers.vonage"),
        ({"api_secret": {"env": "V_SECRET"}}, "carriers.vonage"),
        ({"signature_secrets": {"x": "in the file"}}, "carriers.vonage.signature_secrets.x"),
        ({"sample_rate": 48000}, "carriers.vonage.sample_rate"),
    ):
        with pytest.raises(ConfigErrors) as caught:
            parse_settings({"carriers": {"vonage": {**table, **wrong}}})
        assert caught.value.path == path


def test_what_it_cannot_do_without() -> None:
    with pytest.raises(ConfigError) as wrong:
        VonageHttp(VonageSettings())
    assert wrong.value.path == "signature_secret"
    VonageHttp(VonageSettings(verify_signatures=False))
    VonageHttp(VonageSettings(product="video"))
    with pytest.raises(ValueError, match="loopback"):
        make(api_base="https://api.example.com")


@pytest.mark.parametrize("written", ["lines", "spelled out", "windows", "windows, spelled out", "pkcs1"])
def test_private_keys_in_every_form(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = made_up_key()
    key = vonage_jwt.private_key(pem)
    text = {
        "lines": pem,
        "spelled out": pem.strip().replace("\n", "\\n"),
        "windows": pem.replace("\n", "\r\n"),
        "windows, spelled out": pem.replace("\n", "\\r\\n"),
        "pkcs1": key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode(),
    }[written]
    assert vonage_jwt.private_key(text).private_numbers() == key.private_numbers()
    monkeypatch.setenv("V_KEY", text)
    request = make().hang_up(REF)
    assert request is not None
    token = request.authorize(NOW)["authorization"].removeprefix("Bearer ")
    assert rs256_claims(token, pem) is not None


def test_private_keys_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    secret = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    public = secret.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for text, problem in (
        ("nonsense", "PEM"),
        (public, "PEM"),
        (made_up_key()[:200], "PEM"),
        (curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(), "RSA"),
    ):
        monkeypatch.setenv("V_KEY", text)
        with pytest.raises(ConfigError, match=problem) as wrong:
            make()
        assert wrong.value.path == "private_key"
        assert text[30:60] not in str(wrong.value) or not text[30:60]


# ---------------------------------------------------------------- the answer webhook

ANSWER: Mapping[str, Any] = {
    "from": "447700900001",
    "to": "442079460000",
    "uuid": LEG,
    "conversation_uuid": CONVERSATION,
    "endpoint_type": "phone",
    "region_url": "https://api-eu-3.vonage.com",
}
INBOUND = InboundCall(
    carrier="vonage",
    call_id=LEG,
    from_number="+447700900001",
    to_number="+442079460000",
    account_id=ACCOUNT,
    extra={
        "region_url": "https://api-eu-3.vonage.com",
        "conversation_uuid": CONVERSATION,
        "number": "+442079460000",
    },
)


def test_an_answer_webhook_is_a_call() -> None:
    assert make().handle("answer", says(ANSWER, "/vonage/answer"), URLS) == Handled(incoming=INBOUND)


def test_the_answer_of_a_call_that_we_placed() -> None:
    said = {**ANSWER, "from": "442079460000", "to": "447700900001"}
    call = make().handle("answer", says(said, "/vonage/answer?placed=1"), URLS).incoming
    assert call is not None
    assert (call.direction, call.from_number, call.to_number) == ("outbound", "+442079460000", "+447700900001")
    assert call.extra["number"] == "+442079460000"


def test_get_says_the_same_but_no_region() -> None:
    query = "&".join(f"{name}={value}" for name, value in ANSWER.items())
    request = WebRequest(method="GET", url=URLS.http(f"/vonage/answer?{query}"), headers={})
    call = make(verify_signatures=False).handle("answer", request, URLS).incoming
    assert call is not None
    assert (call.call_id, call.from_number, call.to_number) == (LEG, "+447700900001", "+442079460000")
    assert "region_url" not in call.extra
    assert call.account_id == ACCOUNT


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"SipHeader_X-Customer": "7", "SipHeader_User-to-User": "ab"}, {"X-Customer": "7", "User-to-User": "ab"}),
        ({"custom_data": {"tenant": "t1", "n": 5, "deep": {"a": 1}}}, {"tenant": "t1", "n": "5", "deep": '{"a": 1}'}),
        ({"custom_data": '{"tenant":"t1"}'}, {"tenant": "t1"}),
        ({"custom_data": "just text"}, {"custom_data": "just text"}),
        ({"custom_data": None}, {}),
        ({"custom_data": {"half\ud800": "\udfff"}, "SipHeader_X-A": "\ud800"}, {"half?": "?", "X-A": "?"}),
    ],
)
def test_what_comes_along_reaches_the_bot(said: dict[str, Any], expected: dict[str, str]) -> None:
    call = make().handle("answer", says({**ANSWER, **said}), URLS).incoming
    assert call is not None
    assert call.parameters == expected
    json.dumps(offered(call, call.parameters)).encode()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"from": "anonymous"}, "anonymous"),
        ({"from": "sip:ann@example.com"}, "sip:ann@example.com"),
        ({"from": "1234"}, "1234"),
        ({"from": None, "from_user": "JaneDoe"}, "JaneDoe"),
        ({"from": None}, ""),
        ({"from": 447700900001}, "+447700900001"),
    ],
)
def test_callers_of_every_kind(said: dict[str, Any], expected: str) -> None:
    call = make().handle("answer", says({**ANSWER, **said}), URLS).incoming
    assert call is not None
    assert call.from_number == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"[]",
        b'"text"',
        b"{}",
        b'{"uuid":""}',
        b'{"uuid":7}',
        b'{"uuid":"../../v1/calls"}',
        b"[" * 9000,
    ],
)
def test_an_answer_webhook_that_makes_no_sense(body: bytes) -> None:
    with pytest.raises(UnreadableRequest):
        make().handle("answer", webhook(body, None, path="/vonage/answer"), URLS)


def test_legs_without_dashes_are_known_too() -> None:
    call = make().handle("answer", says({**ANSWER, "uuid": LEG.replace("-", "")}), URLS).incoming
    assert call is not None
    assert call.call_id == LEG.replace("-", "")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api-eu-3.vonage.com", "https://api-eu-3.vonage.com"),
        ("https://API-US.vonage.com/v1/x?y", "https://api-us.vonage.com"),
        ("https://api-ap-4.nexmo.com:443", "https://api-ap-4.nexmo.com"),
        ("https://api.vonage.com/", "https://api.vonage.com"),
        ("http://api-eu-3.vonage.com", ""),
        ("https://user@api-eu-3.vonage.com", ""),
        ("https://@api-eu-3.vonage.com", ""),
        ("https://api-eu-3.vonage.com:8443", ""),
        ("https://api-eu-3.vonage.com:x", ""),
        ("https://api-us.vonage.com.evil.io", ""),
        ("https://evil.io/api-us.vonage.com", ""),
        ("https://evil.io\\@api-us.vonage.com", ""),
        ("https://api-us.vonage.com\\.evil.io", ""),
        ("https://api-us-5.vonage.com", ""),
        ("https://apixvonage.com", ""),
        ("https://127.0.0.1", ""),
        ("//api.vonage.com", ""),
        ("https://[", ""),
        ("", ""),
        (None, ""),
        (5, ""),
    ],
)
def test_credentials_go_to_no_region_but_vonages(url: Any, expected: str) -> None:
    assert regional_origin(url) == expected
    call = make().handle("answer", says({**ANSWER, "region_url": url}), URLS).incoming
    assert call is not None
    assert call.extra.get("region_url", "") == expected
    request = make().hang_up(CallRef(carrier="vonage", call_id=LEG, extra={"region_url": str(url)}))
    assert request is not None
    assert request.url == f"{expected or 'https://api.nexmo.com'}/v1/calls/{LEG}"
    assert make().may_send_to(request.url)


# ---------------------------------------------------------------- the document


def offered(call: InboundCall = INBOUND, parameters: Mapping[str, str] | None = None, **fields: Any) -> Any:
    stream = StreamOffer(
        media_url="wss://gw.example.com/prefix/vonage/media/TOKEN", urls=URLS, parameters=parameters or {}
    )
    return ncco(make(**fields).offer(call, stream).answer)


def test_the_document_connects_to_our_socket_and_nothing_follows() -> None:
    assert offered(parameters={"tenant": "t1"}) == [
        {
            "action": "connect",
            "from": "442079460000",
            "eventType": "synchronous",
            "eventUrl": [f"https://gw.example.com/prefix/vonage/after?call={LEG}&lost=0"],
            "eventMethod": "POST",
            "endpoint": [
                {
                    "type": "websocket",
                    "uri": "wss://gw.example.com/prefix/vonage/media/TOKEN",
                    "content-type": "audio/l16;rate=16000",
                    "headers": {"gw_call": LEG, "gw_data": "tenant=t1"},
                }
            ],
        }
    ]


def test_the_document_says_rate_and_handshake_as_configured() -> None:
    (action,) = offered(sample_rate=8000, handshake_signature="warn")
    (endpoint,) = action["endpoint"]
    assert endpoint["content-type"] == "audio/l16;rate=8000"
    assert endpoint["authorization"] == {"type": "vonage"}
    assert endpoint["headers"] == {"gw_call": LEG}


def test_a_call_to_no_number_has_no_from() -> None:
    call = InboundCall(carrier="vonage", call_id=LEG, to_number="sip:x@example.com", extra={"number": "sip:x@y.com"})
    assert "from" not in offered(call)[0]


CHARACTERS = st.characters(codec="utf-8")


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(CHARACTERS, min_size=1, max_size=30), st.text(CHARACTERS, max_size=300), max_size=8))
def test_headers_have_two_keys_and_fit(parameters: dict[str, str]) -> None:
    logging.disable(logging.WARNING)
    try:
        headers = vonage_ncco.headers(LEG, parameters)
    finally:
        logging.disable(logging.NOTSET)
    assert set(headers) <= {"gw_call", "gw_data"}
    assert len(json.dumps(headers).encode()) <= 512
    back = vonage_ncco.parameters(headers)
    assert back.items() <= parameters.items()
    if len(json.dumps(parameters)) < 120:
        assert back == parameters


def test_what_does_not_fit_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    headers = vonage_ncco.headers(LEG, {"long": "x" * 500, "event": "fits"})
    assert headers == {"gw_call": LEG, "gw_data": "event=fits"}
    assert "the parameter long does not fit" in caplog.text


# ---------------------------------------------------------------- refusals


def refused(instead: str, reason: str = "full", call: InboundCall = INBOUND, **fields: Any) -> HttpAnswer:
    answer = make(**fields).refuse(call, Refusal(reason=reason, instead=instead)).answer
    assert answer is not None
    return answer


@pytest.mark.parametrize(
    ("instead", "text"),
    [("busy", vonage_ncco.BUSY), ("rejected", vonage_ncco.REJECTED), ("say:Tomorrow: again.", "Tomorrow: again.")],
)
def test_who_is_turned_away_is_told(instead: str, text: str) -> None:
    talk = {"action": "talk", "text": text, "language": "en-GB", "style": 0, "bargeIn": False}
    assert ncco(refused(instead)) == [talk]
    assert ncco(refused(instead, language="de-DE")) == [{**talk, "language": "de-DE"}]


def test_who_is_turned_away_may_get_another_number() -> None:
    assert ncco(refused("number:+44 20 7946 0001")) == [
        {"action": "connect", "from": "442079460000", "endpoint": [{"type": "phone", "number": "442079460001"}]}
    ]
    assert ncco(refused("number:nobody"))[0]["text"] == vonage_ncco.BUSY


def test_another_gateway_answers_instead() -> None:
    """It gets what the answer webhook said, and understands it."""
    call = InboundCall(**{**{name: getattr(INBOUND, name) for name in INBOUND.__slots__}, "parameters": {"a": "b"}})
    notify, talk = ncco(refused("gateway:https://gw2.example.com/x/", call=call))
    assert talk["text"] == vonage_ncco.BUSY
    assert (notify["action"], notify["eventUrl"], notify["eventMethod"]) == (
        "notify",
        ["https://gw2.example.com/x/vonage/answer"],
        "POST",
    )
    for said in (
        {"payload": notify["payload"], "conversation_uuid": CONVERSATION, "timestamp": "2026-01-15T10:00:01.000Z"},
        notify["payload"],
    ):
        assert make().handle("answer", says(said), URLS).incoming == call


def test_a_call_that_is_over_gets_no_other_number() -> None:
    assert ncco(refused("number:+442079460001", "over"))[0]["action"] == "talk"


# ---------------------------------------------------------------- events

PHONE: Mapping[str, Any] = {
    "from": "447700900001",
    "to": "442079460000",
    "uuid": LEG,
    "conversation_uuid": CONVERSATION,
    "direction": "inbound",
    "timestamp": "2026-01-15T10:00:00.050Z",
}
SOCKET: Mapping[str, Any] = {
    "from": "442079460000",
    "to": "wss://gw.example.com/prefix/vonage/media/TOKEN",
    "uuid": SOCKET_LEG,
    "conversation_uuid": CONVERSATION,
    "direction": "outbound",
    "timestamp": "2026-01-15T10:00:00.250Z",
    "headers": {"gw_call": LEG, "gw_data": "tenant=t1"},
}
AFTER = f"/vonage/after?call={LEG}&lost=0"


def events(said: Mapping[str, Any], path: str = "/vonage/events") -> list[Any]:
    route = path.partition("?")[0].rpartition("/")[2]
    handled = make().handle(route, says(said, path), URLS)
    assert handled.answer is None
    return list(handled.events)


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("started", CallPhase.QUEUED),
        ("ringing", CallPhase.RINGING),
        ("answered", CallPhase.ANSWERED),
        ("completed", CallPhase.COMPLETED),
        ("busy", CallPhase.BUSY),
        ("cancelled", CallPhase.CANCELED),
        ("unanswered", CallPhase.NO_ANSWER),
        ("timeout", CallPhase.NO_ANSWER),
        ("rejected", CallPhase.FAILED),
        ("failed", CallPhase.FAILED),
    ],
)
def test_the_phones_leg_tells_how_far_the_call_is(status: str, phase: CallPhase) -> None:
    (event,) = events({**PHONE, "status": status})
    assert isinstance(event, CallStatus)
    assert (event.call_id, event.phase, event.key) == (LEG, phase, f"{LEG} {status}")
    # Once more, later, on the other route: the same report.
    assert events({**PHONE, "status": status, "timestamp": "2026-01-15T10:00:09.000Z"}, AFTER)[0].key == event.key


def test_the_bill() -> None:
    said = {
        "end_time": "2026-01-15T10:00:09.000Z",
        "network": "23410",
        "duration": "8",
        "start_time": "2026-01-15T10:00:01.000Z",
        "rate": "0.00720000",
        "price": "0.00096000",
        "disconnected_by": "user",
    }
    (event,) = events({**PHONE, **said, "status": "completed"})
    assert (event.duration_s, event.ended_by, event.cause) == (8.0, "caller", "completed")
    assert event.details["price"] == "0.00096000"
    assert events({**PHONE, "status": "completed", "disconnected_by": "platform"})[0].ended_by == ""
    for odd in ("", None, "soon", "nan", "-1", True):
        assert events({**PHONE, "status": "completed", "duration": odd})[0].duration_s is None
    answered = {**PHONE, "status": "answered", "start_time": None, "rate": None, "network": None}
    assert events(answered)[0].details == {}


@pytest.mark.parametrize(
    ("status", "what"),
    [
        ("started", ""),
        ("ringing", ""),
        ("answered", "started"),
        ("completed", "stopped"),
        ("disconnected", "stopped"),
        ("failed", "failed"),
        ("unanswered", "failed"),
    ],
)
@pytest.mark.parametrize("path", ["/vonage/events", AFTER])
def test_the_sockets_leg_tells_of_the_stream_and_never_ends_the_call(status: str, what: str, path: str) -> None:
    found = events(
        {**SOCKET, "status": status, "reason": "no route to wss://gw.example.com/T0KEN for 447700900001"}, path
    )
    if not what:
        assert found == []
        return
    (event,) = found
    assert isinstance(event, StreamStatus)
    assert (event.call_id, event.what, event.stream_id) == (LEG, what, SOCKET_LEG)
    assert event.key == f"{SOCKET_LEG} {status}"
    assert event.problem == ("no route to <url> for #" if what == "failed" else "")


@pytest.mark.parametrize(
    "said",
    [
        {**SOCKET, "headers": None},
        {**SOCKET, "to": None},
        {**SOCKET, "to": None, "headers": None},
        {**SOCKET, "to": "ws://127.0.0.1/vonage/media/TOKEN"},
    ],
)
def test_legs_are_told_apart_by_whatever_there_is(said: dict[str, Any]) -> None:
    (event,) = events({**said, "status": "completed"}, AFTER)
    assert isinstance(event, StreamStatus)
    assert event.call_id == LEG


def test_a_socket_of_which_nobody_says_whose_it_is() -> None:
    assert events({**SOCKET, "headers": None, "status": "completed"}) == []


@pytest.mark.parametrize("sub_state", [None, "beep_start"])
@pytest.mark.parametrize("who", ["human", "machine"])
def test_who_has_answered(who: str, sub_state: str | None) -> None:
    said = {name: value for name, value in PHONE.items() if name != "uuid"}
    (event,) = events({**said, "call_uuid": LEG, "status": who, "sub_state": sub_state})
    assert isinstance(event, AnsweredBy)
    assert (event.call_id, event.who, event.detail) == (LEG, who, sub_state or "")
    assert event.key == f"{LEG} {who} {sub_state or ''}"
    assert event.beep == (sub_state is not None)


@pytest.mark.parametrize(
    "said",
    [
        {"conversation_uuid_from": "CON-1", "conversation_uuid_to": "CON-2", "uuid": LEG, "timestamp": "x"},
        {"dtmf": {"digits": "1234", "timed_out": False}, "uuid": LEG, "conversation_uuid": CONVERSATION},
        {"recording_url": "https://api.nexmo.com/v1/files/x", "recording_uuid": LEG, "size": 1},
        {"status": "something-new", "uuid": LEG},
        {"status": "something-new", **{name: SOCKET[name] for name in ("uuid", "to", "headers")}},
        {},
    ],
)
def test_events_that_say_nothing_of_the_call(said: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    assert events(said) == []
    assert "1234" not in caplog.text


def test_an_error_is_logged_without_numbers_and_urls(caplog: pytest.LogCaptureFixture) -> None:
    said = {
        "reason": "Syntax error in NCCO for 447700900001 at wss://gw.example.com/T0KEN",
        "conversation_uuid": CONVERSATION,
        "timestamp": "2026-01-15T10:00:01.000Z",
    }
    assert events(said) == []
    assert "Syntax error in NCCO for # at <url>" in caplog.text


def test_an_event_without_a_leg() -> None:
    with pytest.raises(UnreadableRequest):
        make().handle("events", says({"status": "completed", "uuid": "x/../y"}), URLS)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from([LEG, SOCKET_LEG]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = sorted({*ANSWER, *PHONE, *SOCKET, "status", "call_uuid", "sub_state", "reason", "payload", "custom_data"})


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), VALUES, max_size=8),
    st.sampled_from(["", "started", "completed", "disconnected", "failed", "machine"]),
    st.sampled_from(["answer", "events", "status", "after", "passthru"]),
    st.sampled_from(["", f"?call={LEG}&lost=0", f"?call={LEG}&lost=%00", "?call=x&placed=1", "?call=%ff"]),
)
def test_whatever_a_webhook_says_it_is_handled_or_unreadable(
    said: dict[str, Any], status: str, route: str, query: str
) -> None:
    said = {**({"uuid": SOCKET_LEG, "status": status} if status else {}), **said}
    request = webhook(json.dumps(said).encode(), None, path=f"/vonage/{route}{query}")
    logging.disable(logging.WARNING)
    try:
        handled = _HTTP.http().handle(route, request, URLS)
        if handled.incoming is not None:
            offer = _HTTP.http().offer(handled.incoming, StreamOffer(media_url=MEDIA, urls=URLS, parameters={}))
            ncco(offer.answer)
    except UnreadableRequest:
        return
    finally:
        logging.disable(logging.NOTSET)
    for event in handled.events:
        assert event.call_id in (LEG, SOCKET_LEG)
        repr(event).encode()


# ---------------------------------------------------------------- a socket that was lost


@pytest.mark.parametrize("status", ["disconnected", "failed", "unanswered", "rejected", "busy", "timeout"])
def test_a_lost_socket_is_opened_again_twice(status: str) -> None:
    http = make()
    said = {**SOCKET, "status": status}
    for lost in (0, 1):
        handled = http.handle("after", says(said, f"/vonage/after?call={LEG}&lost={lost}"), URLS)
        call = handled.incoming
        assert call is not None
        assert handled.asks_after == LEG
        assert (call.call_id, call.again, call.direction) == (LEG, True, "inbound")
        assert (call.from_number, call.to_number) == ("", "+442079460000")
        assert call.parameters == {"tenant": "t1"}
        (action,) = offered(call, call.parameters)
        assert action["eventUrl"] == [URLS.http(f"/vonage/after?call={LEG}&lost={lost + 1}")]
        assert action["from"] == "442079460000"
        assert action["endpoint"][0]["headers"] == {"gw_call": LEG, "gw_data": "tenant=t1"}
    for often in ("2", "3", "-1", "x", ""):
        handled = http.handle("after", says(said, f"/vonage/after?call={LEG}&lost={often}"), URLS)
        assert handled.incoming is None
        assert ncco(handled.answer)[0]["text"] == vonage_ncco.APOLOGY
        assert len(handled.events) == 1


def test_a_lost_socket_of_a_call_that_we_placed() -> None:
    path = f"/vonage/after?call={LEG}&lost=0&placed=1"
    call = make().handle("after", says({**SOCKET, "status": "disconnected"}, path), URLS).incoming
    assert call is not None
    assert (call.direction, call.from_number, call.to_number) == ("outbound", "+442079460000", "")
    assert offered(call)[0]["eventUrl"][0].endswith("&lost=1&placed=1")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/vonage/events", {**SOCKET, "status": "disconnected"}),  # not synchronous: nobody reads the answer
        (AFTER, {**SOCKET, "status": "completed"}),  # Vonage closed: the caller has gone
        (AFTER, {**SOCKET, "status": "cancelled"}),
        (AFTER, {**PHONE, "status": "failed"}),
        ("/vonage/after?call=x&lost=0", {**SOCKET, "status": "disconnected"}),
        ("/vonage/after", {**SOCKET, "status": "disconnected"}),
    ],
)
def test_where_nothing_is_opened_again(path: str, said: dict[str, Any]) -> None:
    handled = make().handle(path[8:].partition("?")[0], says(said, path), URLS)
    assert (handled.incoming, handled.asks_after, handled.answer) == (None, None, None)


def test_a_socket_that_was_closed_on_purpose_stays_closed() -> None:
    """The gateway knows that the call is over: the document goes on, and is at its end."""
    call = make().handle("after", says({**SOCKET, "status": "disconnected"}, AFTER), URLS).incoming
    assert call is not None
    answer = refused("number:+442079460001", "over", call)
    assert (answer.status, answer.body) == (204, b"")


def test_what_follows_the_stream() -> None:
    http = make()
    assert ncco(http.after(LEG, "+447700900002")) == [
        {"action": "connect", "randomFromNumber": True, "endpoint": [{"type": "phone", "number": "447700900002"}]}
    ]
    assert http.after(LEG, None).status == 204
    assert http.after(LEG, "nowhere").status == 204


# ---------------------------------------------------------------- REST

REF = CallRef(
    carrier="vonage",
    call_id=LEG,
    account_id=ACCOUNT,
    extra={"region_url": "https://api-eu-3.vonage.com", "number": "+442079460000"},
)
CALL_URL = f"https://api-eu-3.vonage.com/v1/calls/{LEG}"


def send(request: CarrierRequest) -> httpx.Response:
    """As the gateway sends it."""
    headers = {**request.headers, **request.authorize(NOW)}
    with httpx.Client() as client:
        return client.request(request.method, request.url, json=request.json, headers=headers)


def check(
    request: CarrierRequest | None, method: str, url: str, body: Any, status: int = 204, reply: Any = None
) -> Any:
    """Send it, look at what arrived, and give what the reply means."""
    assert request is not None
    assert request.form is None
    http = make()
    assert http.may_send_to(request.url)
    with respx.mock() as router:
        content = b"" if reply is None else json.dumps(reply).encode()
        route = router.route(method=method, url=url).mock(httpx.Response(status, content=content))
        response = send(request)
        assert route.call_count == 1
        sent = route.calls.last.request
    if body is None:
        assert sent.content == b""
    else:
        assert sent.headers["content-type"] == "application/json"
        assert json.loads(sent.content) == body
    scheme, _, token = sent.headers["authorization"].partition(" ")
    assert scheme == "Bearer"
    said = rs256_claims(token, made_up_key())
    assert said is not None
    assert list(said)[:4] == ["application_id", "iat", "jti", "exp"]
    assert (said["application_id"], said["iat"], said["exp"]) == (APPLICATION, int(NOW), int(NOW) + 900)
    return http.outcome(request, response.status_code, dict(response.headers), response.content)


def test_hang_up() -> None:
    request = make().hang_up(REF)
    outcome = check(request, "PUT", CALL_URL, {"action": "hangup"})
    assert outcome.kind is OutcomeKind.DONE
    assert request is not None
    assert (request.purpose, request.call_id, request.repeatable) == (Purpose.HANG_UP, LEG, True)
    for status in (200, 202, 204):  # any success is one
        assert make().outcome(request, status, {}, b"").kind is OutcomeKind.DONE


@pytest.mark.parametrize(
    ("target", "endpoint"),
    [
        ("+447700900002", {"type": "phone", "number": "447700900002"}),
        ("+44 7700 900-002", {"type": "phone", "number": "447700900002"}),
        ("tel:+447700900002", {"type": "phone", "number": "447700900002"}),
        ("sip:ann@example.com;transport=tls", {"type": "sip", "uri": "sip:ann@example.com;transport=tls"}),
    ],
)
def test_transfer(target: str, endpoint: dict[str, str]) -> None:
    transfer = make().transfer(REF, target, URLS)
    assert transfer is not None
    assert not transfer.closes_socket
    connect = {"action": "connect", "from": "442079460000", "endpoint": [endpoint]}
    body = {"action": "transfer", "destination": {"type": "ncco", "ncco": [connect]}}
    assert check(transfer.request, "PUT", CALL_URL, body).kind is OutcomeKind.DONE
    assert transfer.request is not None
    assert not transfer.request.repeatable  # twice, the caller would be put through twice


def test_transfer_to_a_flow() -> None:
    transfer = make().transfer(REF, "https://flows.example.com/ncco", URLS)
    assert transfer is not None
    destination = {"type": "ncco", "url": ["https://flows.example.com/ncco"]}
    check(transfer.request, "PUT", CALL_URL, {"action": "transfer", "destination": destination})


def test_transfers_that_cannot_be() -> None:
    for target in ("", "nobody", "http://flows.example.com/ncco", "+", "12"):
        assert make().transfer(REF, target, URLS) is None
    keyless = make(private_key=None)
    transfer = keyless.transfer(REF, "+447700900002", URLS)
    assert transfer is not None
    assert (transfer.request, transfer.closes_socket) == (None, True)
    assert keyless.transfer(REF, "https://flows.example.com/ncco", URLS) is None


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("started", CallPhase.QUEUED),
        ("ringing", CallPhase.RINGING),
        ("answered", CallPhase.ANSWERED),
        ("machine", CallPhase.ANSWERED),
        ("completed", CallPhase.COMPLETED),
        ("unanswered", CallPhase.NO_ANSWER),
        ("something-new", None),
        (None, None),
    ],
)
def test_fetch(status: str | None, phase: CallPhase | None) -> None:
    outcome = check(make().fetch(REF), "GET", CALL_URL, None, 200, {"uuid": LEG, "status": status})
    assert (outcome.kind, outcome.phase) == (OutcomeKind.DONE, phase)


ORDER = DialOrder(to_number="+447700900001", from_number="+44 20 7946 0000", ring_s=45, longest_s=7200)
DIALLED: Mapping[str, Any] = {
    "to": [{"type": "phone", "number": "447700900001"}],
    "from": {"type": "phone", "number": "442079460000"},
    "answer_url": ["https://gw.example.com/prefix/vonage/answer?placed=1"],
    "answer_method": "POST",
    "event_url": ["https://gw.example.com/prefix/vonage/events"],
    "event_method": "POST",
    "ringing_timer": 45,
    "length_timer": 7200,
}


def test_dial() -> None:
    request = make().dial(ORDER, URLS)
    reply = {"uuid": LEG, "status": "started", "direction": "outbound", "conversation_uuid": CONVERSATION}
    outcome = check(request, "POST", "https://api.nexmo.com/v1/calls", DIALLED, 201, reply)
    assert (outcome.kind, outcome.call_id) == (OutcomeKind.DONE, LEG)
    assert outcome.extra == {"conversation_uuid": CONVERSATION}
    assert request is not None
    assert not request.repeatable  # there is no id by which it would be the same order
    assert make().outcome(request, 201, {}, b"{}").kind is OutcomeKind.FAILED


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("continue", {"machine_detection": "continue"}),
        (
            "advanced",
            {"advanced_machine_detection": {"behavior": "continue", "mode": "detect_beep", "beep_timeout": 45}},
        ),
    ],
)
def test_dial_with_machine_detection(how: str, said: dict[str, Any]) -> None:
    order = DialOrder(to_number="+447700900001", from_number="+442079460000", detect_machine=True)
    request = make(machine_detection=how).dial(order, URLS)
    assert request is not None
    assert {name: request.json[name] for name in said} == said
    assert "length_timer" not in request.json


def test_what_is_dialled_is_kept_within_vonages_limits() -> None:
    order = DialOrder(to_number="sip:ann@example.com", from_number="", ring_s=600, longest_s=1_000_000)
    request = make().dial(order, URLS)
    assert request is not None
    assert request.json["to"] == [{"type": "sip", "uri": "sip:ann@example.com"}]
    assert request.json["random_from_number"] is True
    assert "from" not in request.json
    assert (request.json["ringing_timer"], request.json["length_timer"]) == (120, 86400)
    with pytest.raises(ValueError, match="a number or a SIP URI"):
        make().dial(DialOrder(to_number="Ann", from_number="+442079460000"), URLS)


def test_without_a_private_key_there_is_no_rest() -> None:
    http = make(private_key=None)
    assert http.hang_up(REF) is None
    assert http.dial(ORDER, URLS) is None
    assert http.fetch(REF) is None


@pytest.mark.parametrize("call_id", ["~0123", "", "../../v1", LEG + "/dtmf", LEG + "?x"])
def test_an_id_that_is_none_of_vonages_stands_in_no_path(call_id: str) -> None:
    ref = CallRef(carrier="vonage", call_id=call_id)
    assert make().hang_up(ref) is None
    assert make().transfer(ref, "+447700900002", URLS) is None
    assert make().fetch(ref) is None


def test_the_simulator_gets_it_all() -> None:
    http = make(api_base="http://127.0.0.1:9000/vonage")
    request = http.hang_up(REF)
    assert request is not None
    assert request.url == f"http://127.0.0.1:9000/vonage/v1/calls/{LEG}"
    assert http.may_send_to(request.url)
    assert not http.may_send_to(CALL_URL)


def test_hosts() -> None:
    http = make()
    for host in ("api.nexmo.com", "api-us-3.vonage.com", "api-ap.nexmo.com", "video.api.vonage.com", "api.opentok.com"):
        assert http.may_send_to(f"https://{host}/v1/calls")
    for host in ("api-us-5.vonage.com", "evil.vonage.com", "api.nexmo.com.evil.io", "dashboard.nexmo.com"):
        assert not http.may_send_to(f"https://{host}/v1/calls")


BAD_REQUEST = {
    "type": "BAD_REQUEST",
    "title": "Bad Request",
    "invalid_parameters": [{"name": "to[0].number", "reason": "447700900001"}, {"name": "uuid"}, 5],
}


@pytest.mark.parametrize("status", [400, 404, 409])
def test_a_call_that_is_over_counts_as_hung_up_and_as_nothing_else(status: int) -> None:
    http = make()
    body = json.dumps(BAD_REQUEST).encode()
    transfer = http.transfer(REF, "+447700900002", URLS)
    assert transfer is not None
    requests = [
        http.hang_up(REF),
        transfer.request,
        http.dial(ORDER, URLS),
        http.fetch(REF),
    ]
    kinds = [http.outcome(request, status, {}, body).kind for request in requests if request is not None]
    assert kinds == [OutcomeKind.ALREADY_OVER, *[OutcomeKind.FAILED] * 3]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, OutcomeKind.FAILED),
        (403, OutcomeKind.FAILED),
        (410, OutcomeKind.FAILED),
        (422, OutcomeKind.FAILED),
        (301, OutcomeKind.FAILED),
        (429, OutcomeKind.RETRY),
        (500, OutcomeKind.RETRY),
        (503, OutcomeKind.RETRY),
    ],
)
def test_other_replies(status: int, kind: OutcomeKind) -> None:
    request = make().hang_up(REF)
    assert request is not None
    assert make().outcome(request, status, {}, b"<html>").kind is kind


def test_a_reply_is_logged_without_values() -> None:
    request = make().hang_up(REF)
    assert request is not None
    outcome = make().outcome(request, 400, {}, json.dumps(BAD_REQUEST).encode())
    assert outcome.detail == "400 Bad Request uuid"
    outcome = make().outcome(request, 429, {"retry-after": "2"}, b'{"title":"\\u0000 447700900001 <x>"}')
    assert (outcome.detail, outcome.retry_after_s) == ("429", 2.0)
    late = make().outcome(request, 429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"[]")
    assert (late.kind, late.retry_after_s) == (OutcomeKind.RETRY, None)


# ---------------------------------------------------------------- the tokens that we send


def test_the_application_token_of_the_vector() -> None:
    key = vonage_jwt.private_key(made_up_key())
    token = vonage_jwt.application_jwt(APPLICATION, key, ISSUED, jti="11111111-2222-3333-4444-555555555555")
    assert token.rpartition(".")[0] == V3
    assert rs256_claims(token, made_up_key()) is not None


def test_the_application_token_is_what_vonages_library_makes() -> None:
    theirs = judge.JwtClient(APPLICATION, made_up_key()).generate_application_jwt({"iat": ISSUED, "jti": "j"}).decode()
    ours = vonage_jwt.application_jwt(APPLICATION, vonage_jwt.private_key(made_up_key()), ISSUED, jti="j")
    assert rs256_claims(ours, made_up_key()) == rs256_claims(theirs, made_up_key())
    assert jwt.get_unverified_header(ours) == jwt.get_unverified_header(theirs)


def test_each_request_has_its_own_token() -> None:
    request = make().hang_up(REF)
    assert request is not None
    assert request.authorize(NOW) != request.authorize(NOW)
    assert "Bearer" not in repr(request)


def test_the_project_token_of_the_vector() -> None:
    secret = "made-up-opentok-secret-0123456789abcdef"
    assert vonage_jwt.opentok_jwt("12345678", secret, ISSUED, jti="j1") == OPENTOK
    assert vonage_jwt.opentok_jwt("12345678", "short", ISSUED)  # and no warning about its length


# ---------------------------------------------------------------- video

SESSION = "2_MX4made-up~x"
CONNECTION = "e9f8c166-6c67-440d-994a-04fb6dfed007"
CONNECT_URL = f"https://video.api.vonage.com/v2/project/{APPLICATION}/connect"


def session(**fields: Any) -> DialOrder:
    own = {"to_number": SESSION, "from_number": "", "media_url": MEDIA, "command_id": "v-1", "at": NOW}
    return DialOrder(**{**own, **fields})


def test_a_session_is_connected_to_our_socket() -> None:
    http = make(product="video")
    request = http.dial(session(parameters={"tenant": "t1", "streams": "s1, s2"}), URLS)
    assert request is not None
    token = rs256_claims(request.json["token"], made_up_key())
    assert token is not None
    assert (token["session_id"], token["role"], token["scope"]) == (SESSION, "publisher", "session.connect")
    assert (token["sub"], token["acl"]) == ("video", {"paths": {"/session/**": {}}})
    assert (token["iat"], token["exp"]) == (int(NOW), int(NOW) + 900)
    body = {
        "sessionId": SESSION,
        "token": request.json["token"],
        "websocket": {
            "uri": MEDIA,
            "headers": {"gw_call": "v-1", "gw_data": "tenant=t1"},
            "audioRate": 16000,
            "bidirectional": True,
            "streams": ["s1", "s2"],
        },
    }
    reply = {"id": "b0a5a8c7-dc38-459f-a48d-a7f2008da853", "connectionId": CONNECTION}
    outcome = check(request, "POST", CONNECT_URL, body, 200, reply)
    assert (outcome.kind, outcome.call_id) == (OutcomeKind.DONE, CONNECTION)
    assert outcome.extra == {"session_id": SESSION, "connection_id": CONNECTION}
    assert not request.repeatable
    assert request.timeout_s > 6  # for so long Vonage waits for our socket


def test_a_client_token_may_be_given() -> None:
    request = make(product="video").dial(session(parameters={"token": "T1==abc"}, at=0.0), URLS)
    assert request is not None
    assert request.json["token"] == "T1==abc"
    assert request.json["websocket"]["headers"] == {"gw_call": "v-1"}


def test_an_order_that_no_session_takes() -> None:
    http = make(product="video")
    for order, problem in (
        (session(media_url="wss://x"), "15 to 2048"),
        (session(media_url=MEDIA + "x" * 2048), "15 to 2048"),
        (session(at=0.0), "client token"),
    ):
        with pytest.raises(ValueError, match=problem):
            http.dial(order, URLS)


def test_a_session_is_left_by_its_connection() -> None:
    http = make(product="video")
    ref = CallRef(carrier="vonage", call_id=CONNECTION, extra={"session_id": SESSION, "connection_id": CONNECTION})
    url = f"https://video.api.vonage.com/v2/project/{APPLICATION}/session/{SESSION}/connection/{CONNECTION}"
    request = http.hang_up(ref)
    assert check(request, "DELETE", url, None).kind is OutcomeKind.DONE
    assert request is not None
    kinds = {status: http.outcome(request, status, {}, b"").kind for status in (204, 404, 400, 409, 403, 500)}
    assert kinds == {
        204: OutcomeKind.DONE,
        404: OutcomeKind.ALREADY_OVER,
        400: OutcomeKind.FAILED,
        409: OutcomeKind.FAILED,
        403: OutcomeKind.FAILED,
        500: OutcomeKind.RETRY,
    }
    odd = CallRef(carrier="vonage", call_id="x", extra={"session_id": "a/../b", "connection_id": "c?d"})
    request = http.hang_up(odd)
    assert request is not None
    assert request.url.endswith("/session/a%2F..%2Fb/connection/c%3Fd")


def test_a_session_has_no_phone() -> None:
    http = make(product="video")
    ref = CallRef(carrier="vonage", call_id=CONNECTION)
    assert http.hang_up(ref) is None  # not known which: closing the socket ends it
    assert http.transfer(ref, "+447700900002", URLS) is None
    assert http.fetch(ref) is None
    with pytest.raises(UnreadableRequest):
        http.handle("answer", says(ANSWER), URLS)


def test_an_old_project_has_credentials_of_its_own() -> None:
    http = make(
        product="video",
        api_key="12345678",
        api_secret=Secret(env="V_API_SECRET"),
        private_key=None,
        signature_secret=None,
    )
    request = http.dial(session(parameters={"token": "T1==abc"}), URLS)
    assert request is not None
    assert request.url == "https://api.opentok.com/v2/project/12345678/connect"
    headers = request.authorize(ISSUED)
    assert list(headers) == ["x-opentok-auth"]
    said = jwt.decode(
        headers["x-opentok-auth"],
        "made-up-opentok-secret-0123456789abcdef",
        algorithms=["HS256"],
        options={"verify_exp": False, "verify_iat": False},
    )
    assert (said["iss"], said["ist"], said["exp"] - said["iat"]) == ("12345678", "project", 300)
    with pytest.raises(ValueError, match="client token"):
        http.dial(session(), URLS)
