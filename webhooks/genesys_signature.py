"""The HTTP message signature of an AudioHook upgrade.

Source: draft-ietf-httpbis-message-signatures-11 (before RFC 9421: `@request-target` is path and query as they stand
on the request line), RFC 8941 for the two headers, and Genesys Cloud developer centre, "AudioHook security".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

REQUIRED = (
    "@request-target",
    "@authority",
    "audiohook-organization-id",
    "audiohook-session-id",
    "audiohook-correlation-id",
    "x-api-key",
)
PARAMETERS = frozenset({"keyid", "nonce", "alg", "created", "expires"})
ALGORITHM = "hmac-sha256"
MIN_NONCE = 22  # characters: 16 random bytes in base64 without padding


class Verdict(Enum):
    """What a signature is worth. Anything but VERIFIED is one answer to the outside: 401, and no word about why."""

    VERIFIED = "verified"
    UNSIGNED = "unsigned"  # neither of the two headers: fine only for a key whose secret is empty on purpose
    INVALID = "invalid"  # not well-formed
    UNSUPPORTED = "unsupported"  # another algorithm
    PRECONDITION = "precondition"  # something that has to be signed is not, or was signed in the future
    FAILED = "failed"  # not with this key, or not this request
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What of the upgrade request can be signed.

    `target` is path and query as they came, undecoded; `authority` the host as Genesys saw it, which behind a proxy
    is the public one. Header names are in any case, and may repeat.
    """

    target: str
    authority: str
    headers: Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """In seconds. Clocks differ, so the skew is added to what is allowed, never taken from it."""

    max_age_s: float = 10.0
    skew_s: float = 3.0
    early_s: float = 5.0  # how far in our future it may have been made


LONGEST_S = 30.0  # no signature is good for longer, with all tolerances: how long its nonce has to be remembered


def verify(request: Upgrade, key: bytes, *, now: float, tolerance: Tolerance = Tolerance()) -> Verdict:
    """The worth of `request`'s signature. It is good once: whoever asks remembers `nonce_of` a good one.

    Args:
        key: the client secret, decoded (`secret_key`). For an unknown API key: random bytes, so that the time taken
            tells nothing.
        now: Unix seconds.
    """
    headers = _canonical(request.headers)
    if "signature-input" not in headers and "signature" not in headers:
        return Verdict.UNSIGNED
    try:
        signed, signature = _read(headers)
    except (KeyError, ValueError):
        return Verdict.INVALID
    parameters = signed.parameters
    if parameters.get("alg") != ALGORITHM:
        return Verdict.UNSUPPORTED
    values = headers | {"@request-target": request.target, "@authority": authority(request.authority)}
    if not set(REQUIRED) <= set(signed.components) <= values.keys():
        return Verdict.PRECONDITION
    if not hmac.compare_digest(hmac.new(key, _base(signed, values), hashlib.sha256).digest(), signature):
        return Verdict.FAILED
    # From here on it is Genesys that speaks, or whoever stole the secret.
    nonce, created, expires = parameters.get("nonce"), parameters.get("created"), parameters.get("expires")
    if not isinstance(nonce, str) or len(nonce) < MIN_NONCE or not isinstance(created, int):
        return Verdict.PRECONDITION
    if parameters.get("keyid") != headers["x-api-key"] or created - now > tolerance.early_s:
        return Verdict.PRECONDITION
    good_until = created + tolerance.max_age_s + tolerance.skew_s
    if isinstance(expires, int):
        good_until = min(good_until, expires + tolerance.skew_s)
    return Verdict.VERIFIED if now <= good_until else Verdict.EXPIRED


def nonce_of(request: Upgrade) -> str:
    """The nonce of a signature that was verified."""
    signed, _ = _read(_canonical(request.headers))
    return str(signed.parameters["nonce"])


_SECRET = re.compile(r"(?:[A-Za-z\d+/]{4})*(?:[A-Za-z\d+/]{3}=?|[A-Za-z\d+/]{2}(?:==)?)?", re.ASCII)


def secret_key(secret: str) -> bytes:
    """The key in a client secret: base64, with or without padding. ValueError: it is not."""
    if not _SECRET.fullmatch(secret):
        raise ValueError("a client secret is base64, as Genesys shows it")
    return base64.b64decode(secret.rstrip("=") + "=" * (-len(secret.rstrip("=")) % 4))


def authority(host: str) -> str:
    """The signed form of a Host header: lower case, without the default port."""
    return host.strip().lower().removesuffix(":443")


def base_string(request: Upgrade) -> str:
    """What was signed, as this side sees it; for the log of a failed signature. ValueError: not well-formed."""
    headers = _canonical(request.headers)
    try:
        signed, _ = _read(headers)
        values = headers | {"@request-target": request.target, "@authority": authority(request.authority)}
        return _base(signed, values).decode("utf-8", "surrogatepass")
    except KeyError as exc:
        raise ValueError(f"{exc} is not in the request") from None


# ---------------------------------------------------------------- the signature base


@dataclass(frozen=True, slots=True)
class _Signed:
    components: tuple[str, ...]
    parameters: Mapping[str, str | int]


def _base(signed: _Signed, values: Mapping[str, str]) -> bytes:
    """One line per component, then the parameters as parsed, whatever white space they came with."""
    lines = [f'"{name}": {values[name]}' for name in signed.components]
    names = " ".join(f'"{name}"' for name in signed.components)
    parameters = "".join(f";{name}={_written(value)}" for name, value in signed.parameters.items())
    return "\n".join([*lines, f'"@signature-params": ({names}){parameters}']).encode("utf-8", "surrogatepass")


def _written(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


_FOLD = re.compile(r"[ \t]*\r?\n[ \t]+")


def _canonical(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Values trimmed and unfolded, those of a repeated header joined."""
    joined: dict[str, str] = {}
    for name, value in headers:
        name, value = name.lower(), _FOLD.sub(" ", value).strip()
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


# ---------------------------------------------------------------- the two headers

_T = TypeVar("_T")

_WHITE = re.compile(r"[ \t]*")
_KEY = re.compile(r"[a-z*][a-z0-9_.*-]*")
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_INTEGER = re.compile(r"-?\d{1,15}(?![\d.])", re.ASCII)
_BYTES = re.compile(r":([A-Za-z0-9+/]*={0,2}):")


def _read(headers: Mapping[str, str]) -> tuple[_Signed, bytes]:
    """Components and parameters, and the signature. ValueError or KeyError: not well-formed."""
    inputs = _Reader(headers["signature-input"]).dictionary(_Reader.signed)
    signatures = _Reader(headers["signature"]).dictionary(_Reader.bytes_)
    for label, signed in inputs.items():
        if label in signatures:
            return signed, signatures[label]
    raise ValueError("no label stands in both headers")


class _Reader:
    """As much of RFC 8941 as the two headers need."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def dictionary(self, value: Callable[[_Reader], _T]) -> dict[str, _T]:
        members: dict[str, _T] = {}
        while True:
            self._take(_WHITE)
            name = self._take(_KEY)[0]
            self._expect("=")
            if name in members:
                raise ValueError(f"{name} stands twice")
            members[name] = value(self)
            self._take(_WHITE)
            if self._at == len(self._text):
                return members
            self._expect(",")

    def signed(self) -> _Signed:
        """An inner list of strings, with parameters."""
        self._expect("(")
        components: list[str] = []
        while True:
            while self._next(" "):
                self._at += 1
            if self._next(")"):
                break
            component = self._string()
            if component in components or not (self._next(" ") or self._next(")")):
                raise ValueError("a component twice, or with parameters")
            components.append(component)
        self._expect(")")
        parameters: dict[str, str | int] = {}
        while self._next(";"):
            self._at += 1
            while self._next(" "):
                self._at += 1
            name = self._take(_KEY)[0]
            self._expect("=")
            if name not in PARAMETERS or name in parameters:
                raise ValueError(f"{name} is unknown or stands twice")
            parameters[name] = self._string() if self._next('"') else int(self._take(_INTEGER)[0])
        return _Signed(tuple(components), parameters)

    def bytes_(self) -> bytes:
        text = self._take(_BYTES)[1].rstrip("=")
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except binascii.Error as exc:
            raise ValueError(str(exc)) from None

    def _string(self) -> str:
        return re.sub(r"\\(.)", r"\1", self._take(_STRING)[1])

    def _next(self, character: str) -> bool:
        return self._text[self._at : self._at + 1] == character

    def _expect(self, character: str) -> None:
        if not self._next(character):
            raise ValueError(f"no {character} at {self._at}")
        self._at += 1

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"unexpected text at {self._at}")
        self._at = found.end()
        return found
