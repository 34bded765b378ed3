"""Vonage's tokens, made and read by hand: so they judge the gateway's, which come from a library.

Source: RFC 7515 and RFC 7519, as far as HS256 and RS256 go.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

JsonObject = dict[str, Any]


@cache
def made_up_key() -> str:
    """One for all made-up applications of this process: making one takes a while."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def hs256(said: Mapping[str, Any], secret: str) -> str:
    head = _segment({"alg": "HS256", "typ": "JWT"}) + "." + _segment(said)
    digest = hmac.new(secret.encode(), head.encode(), hashlib.sha256).digest()
    return f"{head}.{_base64url(digest)}"


def hs256_claims(token: str, secret: str) -> JsonObject | None:
    """What `token` says, if it is signed with `secret`."""
    head, said, signature = _parts(token)
    digest = hmac.new(secret.encode(), token.rpartition(".")[0].encode(), hashlib.sha256).digest()
    right = head.get("alg") == "HS256" and hmac.compare_digest(signature, digest)
    return said if right else None


def rs256_claims(token: str, private_key: str) -> JsonObject | None:
    """What `token` says, if it is signed with `private_key`."""
    head, said, signature = _parts(token)
    key = _public_key(private_key)
    if head != {"alg": "RS256", "typ": "JWT"}:
        return None
    try:
        key.verify(signature, token.rpartition(".")[0].encode(), padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return None
    return said


@cache
def _public_key(private_key: str) -> rsa.RSAPublicKey:
    """Reading a private key takes 70 ms: it is checked."""
    key = load_pem_private_key(private_key.encode(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key.public_key()


def _parts(token: str) -> tuple[JsonObject, JsonObject, bytes]:
    """Header, claims and signature; blank ones where it is no token."""
    try:
        head, said, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
        return dict(json.loads(head)), dict(json.loads(said)), signature
    except (ValueError, TypeError):
        return {}, {}, b""


def _segment(value: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
