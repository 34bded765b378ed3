"""Vonage's JSON Web Tokens: those that come with webhooks and handshakes (HS256), and those that we send (RS256).

Source: Vonage developer documentation, "Signed webhooks" and "JSON Web Tokens"; for the old video projects OpenTok's
"REST API: authentication".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import HMACAlgorithm
from jwt.api_jws import PyJWS

from webhooks.base import NotAuthentic, Once, WebRequest
from webhooks.signature import checked_body, fingerprint, same

MAX_AGE_S = 300  # the tokens carry no expiry of their own
SKEW_S = 30  # how far in our future one may have been made
MAX_TOKEN = 4096  # characters
REPEAT_S = 15.0  # a webhook that is not answered is sent again within this time: its time-outs may be 1 s and 10 s
ISSUER = "Vonage"

_SEGMENTS = re.compile(r"([\w-]+)\.([\w-]+)\.([\w-]+)", re.ASCII)


class _SharedSecret(HMACAlgorithm):
    """HS256 with a key of any length: Vonage's signature secrets may be shorter than the library finds decent."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key.encode() if isinstance(key, str) else key

    def check_key_length(self, key: bytes) -> None:
        return None


def _hs256() -> PyJWS:
    jws = PyJWS(algorithms=["HS256"])
    jws.unregister_algorithm("HS256")
    jws.register_algorithm("HS256", _SharedSecret(HMACAlgorithm.SHA256))
    return jws


_HS256 = _hs256()


# ---------------------------------------------------------------- what arrives


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SignatureSecrets:
    """Whose tokens are believed."""

    by_account: Mapping[str, str]  # api_key -> signature secret
    any_account: str = ""  # for accounts that have no name here

    def of(self, account: object) -> str:
        named = self.by_account.get(account, "") if isinstance(account, str) else ""
        return named or self.any_account


@dataclass(frozen=True, slots=True)
class Signed:
    """A token that is Vonage's."""

    account: str  # its api_key
    application_id: str
    once: Once


def verify(request: WebRequest, secrets: SignatureSecrets, *, needs_hash: bool) -> Signed:
    """The token in `request`, shown to be Vonage's, of now, and about this body.

    Args:
        needs_hash: the body's hash must be in the token. Without, one that is there is compared all the same.

    Raises NotAuthentic.
    """
    checked = {"body": checked_body(request.body)}

    def refused(reason: str) -> NotAuthentic:
        return NotAuthentic("vonage", reason, checked, status=401)

    scheme, _, token = request.header("authorization").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise refused("no-signature")
    checked["token"] = f"{len(token)} characters #{fingerprint(token)}"
    said = _claims(token)
    if said is None:
        raise refused("malformed")
    account = said.get("api_key")
    checked["account"] = f"#{fingerprint(account)}" if isinstance(account, str) else "none"
    secret = secrets.of(account)
    if not secret:
        raise refused("unknown-account")
    try:
        _HS256.decode(token, secret, algorithms=["HS256"])  # the algorithm is never the token's choice
    except (jwt.PyJWTError, RecursionError):
        raise refused("bad-signature") from None
    # From here on it is Vonage that speaks, or whoever knows the secret.
    if said.get("iss") != ISSUER:
        raise refused("issuer")
    age = _age_s(said, request.received)
    checked["age_s"] = f"{age:.0f}"
    if not -SKEW_S <= age <= MAX_AGE_S:
        raise refused("stale")
    expected = said.get("payload_hash")
    if expected is None:
        if needs_hash or request.body:
            raise refused("no-body-hash")
    else:
        checked["signed_body"] = f"#{str(expected)[:4]}"
        if not same(str(expected).lower(), hashlib.sha256(request.body).hexdigest()):
            raise refused("body-changed")
    jti = said.get("jti")
    name = jti if isinstance(jti, str) and jti else hashlib.sha256(token.encode()).hexdigest()
    return Signed(
        account=account if isinstance(account, str) else "",
        application_id=str(said.get("application_id") or ""),
        once=Once(key=f"{account}:{name}", for_s=MAX_AGE_S + SKEW_S, repeat_s=REPEAT_S),
    )


def account_of(request: WebRequest) -> str:
    """The account in the token of a request that `verify` has passed; empty where signatures are off."""
    said = _claims(request.header("authorization").partition(" ")[2]) or {}
    account = said.get("api_key")
    return account if isinstance(account, str) else ""


def _claims(token: str) -> dict[str, Any] | None:
    """What the token says, believed by nobody yet. None unless each part is spelled in the one canonical way."""
    match = _SEGMENTS.fullmatch(token) if len(token) <= MAX_TOKEN else None
    parts = [_decoded(part) for part in match.groups()] if match is not None else [None]
    if None in parts:
        return None
    try:
        said = json.loads(parts[1] or b"")
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _decoded(part: str) -> bytes | None:
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (ValueError, binascii.Error):
        return None
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == part else None


def _age_s(said: Mapping[str, Any], now: float) -> float:
    """Infinite for a token that does not say, or has expired by its own word."""
    issued, expires = _time(said.get("iat")), _time(said.get("exp", now))
    if issued is None or expires is None or now - expires > SKEW_S:
        return math.inf
    return now - issued


def _time(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and abs(value) < 1e12 else None


# ---------------------------------------------------------------- what we send


def private_key(text: str) -> RSAPrivateKey:
    """The application's key from its PEM, PKCS#8 or PKCS#1, also with "\\n" spelled out as in environment variables.

    Raises ValueError.
    """
    pem = text.replace("\\r", "").replace("\\n", "\n").strip().encode() + b"\n"
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):  # the library's message may repeat a part of the key
        raise ValueError("is not a private key in PEM form, without password") from None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("is no RSA key: Vonage's applications have RSA keys")
    return key


def application_jwt(
    application_id: str, key: RSAPrivateKey, now: float, *, jti: str = "", life_s: int = 900, **claims: Any
) -> str:
    """A token that lets its bearer act for the application; `claims` beside those that every such token has."""
    said = {"application_id": application_id, "iat": int(now), "jti": jti or str(uuid.uuid4())}
    return jwt.encode({**said, "exp": int(now) + life_s, **claims}, key, algorithm="RS256")


def session_token(application_id: str, key: RSAPrivateKey, session_id: str, now: float) -> str:
    """What lets a participant into a video session and speak there."""
    return application_jwt(
        application_id,
        key,
        now,
        session_id=session_id,
        role="publisher",
        scope="session.connect",
        sub="video",
        acl={"paths": {"/session/**": {}}},
    )


def opentok_jwt(api_key: str, api_secret: str, now: float, *, jti: str = "") -> str:
    """The credentials of an old OpenTok project."""
    said = {"iss": api_key, "ist": "project", "iat": int(now), "exp": int(now) + 300, "jti": jti or str(uuid.uuid4())}
    payload = json.dumps(said, separators=(",", ":")).encode()
    return _HS256.encode(payload, api_secret, algorithm="HS256")
