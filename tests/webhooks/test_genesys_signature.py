"""The signature of an AudioHook upgrade: two known vectors, the negative table, malformed headers."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.genesys import signature_headers
from webhooks.genesys_signature import (
    LONGEST_S,
    Tolerance,
    Upgrade,
    Verdict,
    authority,
    base_string,
    nonce_of,
    secret_key,
    verify,
)

ORGANIZATION = "5b1f0a52-9c3e-4b7a-8d21-6f0c2e9a7b14"
SESSION = "0c9d4e7a-1f36-4c58-9a02-b7e3d5f6a801"
CORRELATION = "f2a7c6d1-88b0-4e19-a5c4-3d2b1e0f9a76"
API_KEY = "gateway-key-0001"
SECRET = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlBQkNERUY="
TARGET = "/genesys/bot-42?lang=es-ES"
HOST = "voice.gateway.example"
CREATED = 1790000000
SIGNATURE = "h0BhB+V2SMgCSBfLu+30nSncsD5yyijikqIfG0MkTFo="
COMPONENTS = (
    '("@request-target" "@authority" "audiohook-organization-id" "audiohook-session-id" '
    '"audiohook-correlation-id" "x-api-key")'
)
PARAMETERS = (
    f';keyid="{API_KEY}";nonce="bm9uY2UtZm9yLXRlc3QtdmVjdG9y";alg="hmac-sha256";created={CREATED};expires=1790000030'
)
INPUT = f"sig1={COMPONENTS}{PARAMETERS}"
HEADERS = {
    "Audiohook-Organization-Id": ORGANIZATION,
    "Audiohook-Session-Id": SESSION,
    "Audiohook-Correlation-Id": CORRELATION,
    "X-API-KEY": API_KEY,
    "Signature-Input": INPUT,
    "Signature": f"sig1=:{SIGNATURE}:",
}


def upgrade(target: str = TARGET, host: str = HOST, **headers: str | None) -> Upgrade:
    """The vector's request, with headers replaced (`x_api_key=...`) or, by None, left out."""
    changes = {name.replace("_", "-"): value for name, value in headers.items()}
    kept = {name: changes.pop(name.lower(), value) for name, value in HEADERS.items()}
    return Upgrade(target, host, [(name, value) for name, value in {**kept, **changes}.items() if value is not None])


def check(request: Upgrade, now: float = CREATED + 1, secret: str = SECRET, **options: Any) -> Verdict:
    return verify(request, secret_key(secret), now=now, **options)


# ---------------------------------------------------------------- the vectors


def test_the_vector_of_our_own() -> None:
    base = base_string(upgrade())
    assert len(base) == 565
    digest = "cac9c61bfd533a05596e6635d93d56a9b2d35e8ff9c742ad983dfc44f911744f"
    assert hashlib.sha256(base.encode()).hexdigest() == digest
    assert check(upgrade()) is Verdict.VERIFIED


def test_the_vector_of_the_documentation() -> None:
    headers = {
        "audiohook-organization-id": "d7934305-0972-4844-938e-9060eef73d05",
        "audiohook-session-id": "30b0e395-84d3-4570-ac13-9a62d8f514c0",
        "audiohook-correlation-id": "e160e428-53e2-487c-977d-96989bf5c99d",
        "x-api-key": "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh",
        "signature": "sig1=:NZBwyBHRRyRoeLqy1IzOa9VYBuI8TgMFt2GRDkDuJh4=:",
        "signature-input": f'sig1={COMPONENTS};keyid="SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh"'
        ';nonce="VGhpc0lzQVVuaXF1ZU5vbmNl";alg="hmac-sha256";created=1641013200;expires=3282026430',
    }
    request = Upgrade("/api/v1/voicebiometrics/ws", "audiohook.example.com", headers.items())
    key = secret_key("TXlTdXBlclNlY3JldEtleVRlbGxOby0xITJAMyM0JDU=")
    assert verify(request, key, now=1641013201) is Verdict.VERIFIED


def test_what_the_simulator_signs_is_verified() -> None:
    plain = {name: value for name, value in HEADERS.items() if not name.startswith("Signature")}
    signed = signature_headers(f"wss://{HOST}:8443/a%20b?x=%41", plain, SECRET, created=CREATED, nonce="n" * 24)
    request = Upgrade("/a%20b?x=%41", f"{HOST}:8443", {**plain, **signed}.items())
    assert check(request) is Verdict.VERIFIED


# ---------------------------------------------------------------- time


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (-6, Verdict.PRECONDITION),
        (-5, Verdict.VERIFIED),
        (-4, Verdict.VERIFIED),
        (-3, Verdict.VERIFIED),
        (1, Verdict.VERIFIED),
        (6, Verdict.VERIFIED),
        (7, Verdict.VERIFIED),
        (8, Verdict.VERIFIED),  # the reference refuses it: it takes the skew from the age instead of adding it
        (13, Verdict.VERIFIED),
        (14, Verdict.EXPIRED),
        (31, Verdict.EXPIRED),
    ],
)
def test_age(after: float, verdict: Verdict) -> None:
    assert check(upgrade(), now=CREATED + after) is verdict


def test_expires_ends_it_before_its_age_does() -> None:
    tolerance = Tolerance(max_age_s=3600.0)
    assert check(upgrade(), now=CREATED + 33, tolerance=tolerance) is Verdict.VERIFIED
    assert check(upgrade(), now=CREATED + 34, tolerance=tolerance) is Verdict.EXPIRED


def test_a_nonce_has_to_be_remembered_as_long_as_its_signature_is_good() -> None:
    assert nonce_of(upgrade()) == "bm9uY2UtZm9yLXRlc3QtdmVjdG9y"
    assert check(upgrade(), now=CREATED - 5) is Verdict.VERIFIED
    assert check(upgrade(), now=CREATED - 5 + LONGEST_S) is Verdict.EXPIRED


# ---------------------------------------------------------------- the negative table


@pytest.mark.parametrize(
    ("request_", "verdict"),
    [
        (upgrade(target="/genesys/bot-42"), Verdict.FAILED),
        (upgrade(target="/genesys/bot-42?lang=es%2DES"), Verdict.FAILED),
        (upgrade(host="other.example"), Verdict.FAILED),
        (upgrade(host=f"{HOST}:8443"), Verdict.FAILED),
        (upgrade(host=HOST.upper()), Verdict.VERIFIED),
        (upgrade(host=f" {HOST}:443"), Verdict.VERIFIED),
        (upgrade(audiohook_session_id=CORRELATION), Verdict.FAILED),
        (upgrade(audiohook_organization_id=ORGANIZATION.upper()), Verdict.FAILED),
        (upgrade(x_api_key="another-key"), Verdict.FAILED),
        (upgrade(signature_input=INPUT.replace(';nonce="bm9uY2UtZm9yLXRlc3QtdmVjdG9y"', "")), Verdict.FAILED),
        (upgrade(signature_input=INPUT.replace(str(CREATED), str(CREATED + 1))), Verdict.FAILED),
        (upgrade(audiohook_session_id="\ud800"), Verdict.FAILED),
        (upgrade(audiohook_correlation_id=None), Verdict.PRECONDITION),
        (upgrade(x_api_key=None), Verdict.PRECONDITION),
        (upgrade(signature_input=INPUT.replace(' "x-api-key"', "")), Verdict.PRECONDITION),
        (upgrade(signature_input=INPUT.replace('"@authority"', '"host"')), Verdict.PRECONDITION),
        (upgrade(signature_input=INPUT.replace('"x-api-key"', '"x-api-key" "@method"')), Verdict.PRECONDITION),
        (upgrade(signature=None, signature_input=None), Verdict.UNSIGNED),
        (upgrade(signature=None), Verdict.INVALID),
        (upgrade(signature_input=None), Verdict.INVALID),
        (upgrade(signature=f'sig1="{SIGNATURE}"'), Verdict.INVALID),
        (upgrade(signature=f"sig2=:{SIGNATURE}:"), Verdict.INVALID),
        (upgrade(signature_input=f"{INPUT};tag=7"), Verdict.INVALID),
        (upgrade(signature_input=INPUT.replace("hmac-sha256", "hs2019")), Verdict.UNSUPPORTED),
        (upgrade(signature_input=INPUT.replace(';alg="hmac-sha256"', "")), Verdict.UNSUPPORTED),
        (upgrade(signature=f"sig1=:{base64.b64encode(bytes(31)).decode()}:"), Verdict.FAILED),
        (upgrade(signature=f"sig1=:{base64.b64encode(bytes(33)).decode()}:"), Verdict.FAILED),
        (upgrade(signature="sig1=::"), Verdict.FAILED),
    ],
)
def test_the_negative_table(request_: Upgrade, verdict: Verdict) -> None:
    assert check(request_) is verdict


def test_secrets() -> None:
    zeros = base64.b64encode(secret_key(SECRET) + bytes(4)).decode()
    assert check(upgrade(), secret=zeros) is Verdict.VERIFIED  # HMAC pads keys with zeros
    assert check(upgrade(), secret=SECRET.rstrip("=")) is Verdict.VERIFIED
    assert check(upgrade(), secret="AAAA") is Verdict.FAILED
    assert secret_key("") == b""
    for bad in ("A", "AAAAA", "AA=", "A===", "not base64", "AAAA\n", "ÄÄÄÄ"):
        with pytest.raises(ValueError):
            secret_key(bad)


@pytest.mark.parametrize(
    "nonce", ['"short"', '""', f'"{"n" * 21}"', "1234567890123", None], ids=["short", "empty", "21", "number", "none"]
)
def test_a_signed_nonce_must_be_long_enough(nonce: str | None) -> None:
    """Signed with the right key, so that the nonce alone decides."""
    assert check(resigned(nonce=nonce)) is Verdict.PRECONDITION


@pytest.mark.parametrize("changes", [{"keyid": '"another"'}, {"keyid": None}, {"created": None}, {"created": '"x"'}])
def test_signed_parameters_must_fit(changes: dict[str, str | None]) -> None:
    assert check(resigned(**changes)) is Verdict.PRECONDITION


def test_expires_may_be_absent() -> None:
    assert check(resigned(expires=None)) is Verdict.VERIFIED


def resigned(**changes: str | None) -> Upgrade:
    """The request with other parameters, signed over again."""
    parameters = {
        "keyid": f'"{API_KEY}"',
        "nonce": '"bm9uY2UtZm9yLXRlc3QtdmVjdG9y"',
        "alg": '"hmac-sha256"',
        "created": str(CREATED),
        "expires": str(CREATED + 30),
        **changes,
    }
    text = "".join(f";{name}={value}" for name, value in parameters.items() if value is not None)
    request = upgrade(signature_input=f"sig1={COMPONENTS}{text}")
    digest = hmac.new(secret_key(SECRET), base_string(request).encode(), hashlib.sha256).digest()
    signature = f"sig1=:{base64.b64encode(digest).decode()}:"
    return upgrade(signature_input=f"sig1={COMPONENTS}{text}", signature=signature)


# ---------------------------------------------------------------- how the headers may be written


@pytest.mark.parametrize(
    "headers",
    [
        {"signature_input": INPUT.replace("sig1=", "  sig1=") + "  "},
        {"signature_input": INPUT.replace(";", "; ")},
        {"signature_input": INPUT.replace('" "', '"   "').replace('("', '(  "')},
        {"signature_input": INPUT.replace("sig1", "a-label.*"), "signature": f"a-label.*=:{SIGNATURE}:"},
        {"signature_input": f"{INPUT}, other=()"},
        {"signature": f"other=:AAAA: , sig1=:{SIGNATURE}:"},
        {"signature": f"sig1=:{SIGNATURE.rstrip('=')}:"},
        {"audiohook_session_id": f"  {SESSION}\t"},
        {"audiohook_session_id": f"\r\n  {SESSION}"},
    ],
)
def test_white_space_and_labels_do_not_matter(headers: dict[str, str]) -> None:
    assert check(upgrade(**headers)) is Verdict.VERIFIED


def test_components_may_come_in_another_order_and_be_more() -> None:
    more = '("x-api-key" "@authority" "user-agent" "audiohook-correlation-id" "audiohook-session-id" '
    more += '"audiohook-organization-id" "@request-target")'
    signed = f"s={more}{PARAMETERS}"
    extra = [("User-Agent", "a"), ("user-agent", " b ")]
    unsigned = [(name, value) for name, value in HEADERS.items() if not name.startswith("Signature")]
    request = Upgrade(TARGET, HOST, [*unsigned, *extra, ("Signature-Input", signed), ("Signature", "s=:AAAA:")])
    assert '"user-agent": a, b\n' in base_string(request)
    digest = hmac.new(secret_key(SECRET), base_string(request).encode(), hashlib.sha256).digest()
    signature = ("Signature", f"s=:{base64.b64encode(digest).decode()}:")
    assert check(Upgrade(TARGET, HOST, [*[*request.headers][:-1], signature])) is Verdict.VERIFIED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sig1",
        "sig1=",
        "sig1=()",
        'sig1=("a"',
        'sig1=("a" "a")',
        'sig1=("a"b)',
        'sig1=("a";sf)',
        "sig1=(a)",
        'sig1="a"',
        "sig1=1",
        f"{INPUT},",
        f"{INPUT};",
        f"{INPUT} x",
        f"{INPUT};created=1",
        f"{INPUT}, {INPUT}",
        INPUT.replace(f"created={CREATED}", "created=1.5"),
        INPUT.replace(f"created={CREATED}", "created=9999999999999999"),
        INPUT.replace(f"created={CREATED}", "created=?1"),
        INPUT.replace('alg="hmac-sha256"', "alg=hmac-sha256"),
        INPUT.replace("sig1", "SIG1"),
        "sig1=" + "(" * 10_000,
    ],
)
def test_malformed_input_is_refused(text: str) -> None:
    assert check(upgrade(signature_input=text)) in (Verdict.INVALID, Verdict.UNSUPPORTED)


@given(signature_input=st.text(max_size=200), signature=st.text(max_size=100))
def test_no_header_makes_it_raise(signature_input: str, signature: str) -> None:
    assert check(upgrade(signature_input=signature_input, signature=signature)) is not Verdict.VERIFIED


@given(st.integers(0, len(INPUT) - 1), st.characters(codec="latin-1"))
def test_no_changed_character_is_verified_unless_it_is_white_space(at: int, character: str) -> None:
    changed = INPUT[:at] + character + INPUT[at + 1 :]
    verdict = check(upgrade(signature_input=changed))
    assert (verdict is Verdict.VERIFIED) == (changed == INPUT)


def test_authorities() -> None:
    assert authority(" GW.Example:443 ") == "gw.example"
    assert authority("gw.example:8443") == "gw.example:8443"
