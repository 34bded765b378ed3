"""The doctor's pass: what shows a running gateway that a request is its own operator's.

It is sealed with the gateway's secret (AES-256-GCM), so nobody else can make one, and valid for some minutes. With it
a request gets a diagnosis for an answer and nothing else: no call, no slot, no record. It may lie in a header, in the
query, in the path and in the body all at once, because what lies in between may drop any of them.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Mapping

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HEADER = "gateway-doctor"
FIELD = "gateway_doctor"  # of a query, a form, a JSON object
MARK = "dr1."
MARK_BYTES = MARK.encode()
VALID_S = 600  # both ways: a clock that is off by minutes is what the doctor is to find out

_PASS = re.compile(rb"dr1\.([A-Za-z0-9_-]{40,600})")
_CONTEXT = b"gateway-doctor"


class Pass(msgspec.Struct, array_like=True, frozen=True):
    issued: int  # Unix seconds, by the doctor's clock
    overrides: dict[str, str] = {}  # fields of the carrier's settings: a public key whose other half the doctor has


class Passes:
    """Seals and reads passes with one secret."""

    def __init__(self, secret: str | bytes, *, now: Callable[[], float] = time.time) -> None:
        key = hashlib.sha256(b"doctor-pass/1" + (secret.encode() if isinstance(secret, str) else secret)).digest()
        self._box, self._now = AESGCM(key), now

    def issue(self, overrides: Mapping[str, str] | None = None) -> str:
        nonce = secrets.token_bytes(12)
        packed = msgspec.msgpack.encode(Pass(issued=int(self._now()), overrides=dict(overrides or {})))
        return MARK + base64.urlsafe_b64encode(nonce + self._box.encrypt(nonce, packed, _CONTEXT)).rstrip(b"=").decode()

    def read(self, data: bytes) -> Pass | None:
        """The pass that stands somewhere in `data`. None: there is none, or not one of ours, or not one of now."""
        for found in _PASS.finditer(data):
            text = found[1]
            try:
                raw = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
                shown = msgspec.msgpack.decode(self._box.decrypt(raw[:12], raw[12:], _CONTEXT), type=Pass)
            except (ValueError, InvalidTag, msgspec.MsgspecError):
                continue
            if abs(self._now() - shown.issued) <= VALID_S:
                return shown
        return None
