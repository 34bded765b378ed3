"""Tokens: what lets a carrier's socket in, and tells it which call it is; and what lets somebody watch a call.

A token is encrypted and authenticated (AES-256-GCM), so its contents are neither readable nor forgeable: it may
travel through a carrier's logs. It is valid for a short time and for one use, which the store remembers for all
workers; carriers that retry a handshake may present it again for the same call within a few seconds.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
from typing import Any, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.store import CallKey
from media.call import CallInfo
from media.errors import GatewayError

MAX_LENGTH = 300  # characters; carriers cut or refuse longer URLs
DEFAULT_TTL_S = 60.0
MAX_WATCH_LENGTH = 1000
REUSE_S = 10.0  # a carrier that retries its handshake does so within this time


class TokenError(GatewayError):
    """The token does not let anybody in; `reason` is a word for counters and logs, `call_id` what it was made for."""

    def __init__(self, reason: str, call_id: str = "") -> None:
        super().__init__(f"token refused: {reason}")
        self.reason, self.call_id = reason, call_id


class Claims(msgspec.Struct, array_like=True, omit_defaults=True, frozen=True):
    """What a token says, in the order in which it is packed."""

    expires: int  # Unix seconds
    nonce: bytes
    carrier: str
    call_id: str = ""
    from_number: str = ""
    to_number: str = ""
    bot: str = ""
    codec: str = ""  # what the answer document asked us to send: "PCMU", "PCMA", "L16"
    sample_rate: int = 0
    direction: str = "inbound"
    trial: bool = False  # no carrier knows of the call: it ends with its socket, and nobody is asked about it

    def call(self) -> CallInfo:
        """The call as far as the token knows it."""
        return CallInfo(
            carrier=self.carrier,
            call_id=self.call_id,
            from_number=self.from_number,
            to_number=self.to_number,
            direction=self.direction,
            announced=bool(self.call_id) and not CallKey(self.carrier, self.call_id).provisional,
        )


class WatchClaims(msgspec.Struct, array_like=True, omit_defaults=True, frozen=True):
    """Who may watch which call, and how."""

    expires: int  # Unix seconds
    nonce: bytes
    carrier: str
    call_id: str
    may_control: bool = False
    format: str = "protobuf"  # or "json"
    audio: str = ""  # "mixed": one channel, "stereo": the caller left; "": none
    rate: int = 0  # Hz; 0: the wire's
    logs: bool = False


C = TypeVar("C", Claims, WatchClaims)
_WATCH = "/rtvi"  # no carrier is called that, so that neither kind of token is good for the other


def used_key(token: str) -> str:
    """What the store remembers of a token that was used: its nonce."""
    return f"token:{token[:16]}"


class TokenMint:
    """Makes and reads tokens with one key."""

    def __init__(self, secret: str | bytes, *, now: Any = time.time) -> None:
        key = hashlib.sha256(b"media-token/1" + (secret.encode() if isinstance(secret, str) else secret)).digest()
        self._box = AESGCM(key)
        self._now = now

    def mint(self, carrier: str, *, ttl_s: float = DEFAULT_TTL_S, **claims: Any) -> str:
        """A token for one call of `carrier`; `claims` are the fields of Claims.

        Raises ValueError if it would be longer than carriers bear.
        """
        nonce = secrets.token_bytes(12)
        expires = int(self._now() + ttl_s)
        token = self._seal(Claims(expires=expires, nonce=nonce[:4], carrier=carrier, **claims), nonce, carrier)
        if len(token) > MAX_LENGTH:
            raise ValueError(f"media token of {len(token)} characters; carriers take {MAX_LENGTH}")
        return token

    def read(self, carrier: str, token: str) -> Claims:
        """The claims of `token`; whether it was used before is for the store to say. Raises TokenError."""
        return self._open(token, MAX_LENGTH, carrier, Claims)

    def mint_watch(self, carrier: str, call_id: str, *, ttl_s: float = DEFAULT_TTL_S, **claims: Any) -> str:
        """A token that lets somebody watch that call; `claims` are the fields of WatchClaims."""
        nonce = secrets.token_bytes(12)
        expires = int(self._now() + ttl_s)
        said = WatchClaims(expires=expires, nonce=nonce[:4], carrier=carrier, call_id=call_id, **claims)
        return self._seal(said, nonce, _WATCH)

    def read_watch(self, token: str) -> WatchClaims:
        """As `read`, of a token of `mint_watch`."""
        return self._open(token, MAX_WATCH_LENGTH, _WATCH, WatchClaims)

    def _seal(self, claims: msgspec.Struct, nonce: bytes, purpose: str) -> str:
        sealed = nonce + self._box.encrypt(nonce, msgspec.msgpack.encode(claims), purpose.encode())
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")

    def _open(self, token: str, longest: int, purpose: str, kind: type[C]) -> C:
        if not token or len(token) > longest:
            raise TokenError("malformed")
        try:
            raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise TokenError("malformed") from None
        if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != token or len(raw) < 12 + 16:
            raise TokenError("malformed")  # one token has one spelling
        try:
            claims = msgspec.msgpack.decode(self._box.decrypt(raw[:12], raw[12:], purpose.encode()), type=kind)
        except (InvalidTag, msgspec.MsgspecError):
            raise TokenError("forged") from None
        if claims.expires < self._now():
            raise TokenError("expired", claims.call_id)
        return claims
