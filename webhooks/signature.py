"""What the carriers' schemes of authenticity share: comparing, spelling, and saying what was verified."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_SHOWN = 24  # characters of a path segment; longer ones are tokens
_URL = re.compile(r"\b[a-z]{2,5}://\S+", re.IGNORECASE)


def same(left: str | bytes, right: str | bytes) -> bool:
    """Whether both are equal, in a time that says nothing about where they differ."""
    return hmac.compare_digest(_bytes(left), _bytes(right))


def canonical_base64(text: str, size: int) -> bytes | None:
    """The `size` bytes that `text` spells in the one canonical way; None for anything else.

    A decoder that forgives spaces, missing padding or loose last bits makes several spellings of one signature.
    """
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        return None
    return raw if len(raw) == size and base64.b64encode(raw).decode() == text else None


def basic_auth(user: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def basic_credentials(header: str) -> tuple[str, str] | None:
    """User and password of an Authorization header; None if it is not well-formed Basic."""
    scheme, _, rest = header.partition(" ")
    try:
        raw = base64.b64decode(rest.encode("ascii"), validate=True)
        if scheme.lower() != "basic" or base64.b64encode(raw).decode() != rest:
            return None
        user, colon, password = raw.decode().partition(":")
    except (ValueError, binascii.Error):
        return None
    return (user, password) if colon else None


class UrlParts(NamedTuple):
    scheme: str
    host: str  # with the port; without user information
    path: str
    query: str


def url_parts(url: str) -> UrlParts:
    """`url` cut up, nothing decoded and nothing refused: it may hold whatever somebody wrote into a Host header."""
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    host, slash, path = rest.partition("/")
    return UrlParts(scheme, host.rpartition("@")[2], slash + path, query)


# ---------------------------------------------------------------- for the log


def fingerprint(part: str | bytes) -> str:
    """Four hex digits: enough to see that two parts differ, too few to find a phone number by trying all."""
    return hashlib.sha256(_bytes(part)).hexdigest()[:4]


def checked_url(url: str) -> dict[str, str]:
    """The parts of a URL over which a signature was verified, for NotAuthentic.

    Values of the query, tokens in the path and user information are left out; a fingerprint stands beside each part.
    """
    scheme, host, path, query = url_parts(url)
    return {
        "scheme": scheme,
        "host": f"{host[:100]} #{fingerprint(host)}",
        "path": f"{masked_path(path)} #{fingerprint(path)}",
        "query": f"{masked_query(query)} #{fingerprint(query)}" if query else "",
    }


def checked_fields(pairs: Sequence[tuple[str, str]]) -> str:
    """The fields of a form over which a signature was verified: names, sizes and fingerprints."""
    return " ".join(f"{name}=<{len(value)}>#{fingerprint(value)}" for name, value in pairs)


def checked_body(body: bytes) -> str:
    return f"{len(body)} bytes #{fingerprint(body)}"


def masked_url(url: str) -> str:
    """`url` without user information, tokens and values: what may be logged."""
    scheme, host, path, query = url_parts(url)
    return f"{scheme}://{host}{masked_path(path)}" + (f"?{masked_query(query)}" if query else "")


def masked_path(path: str) -> str:
    return "/".join(part if len(part) <= _SHOWN else f"<{len(part)}>" for part in path.split("/"))


def masked_query(query: str) -> str:
    """Names and sizes of the values, in their order, as they were spelled."""
    return "&".join(_masked_pair(pair) for pair in query.split("&"))


def told(text: str) -> str:
    """What a carrier says is wrong with a stream, without the URL in which the stream's token stands."""
    return _URL.sub("<URL>", text)[:200]


def header_names(names: Iterable[str], prefix: str) -> str:
    """Which headers of a carrier arrived: proxies drop those that they do not know."""
    return ", ".join(sorted(name for name in names if name.startswith(prefix))) or "none"


def _masked_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    return f"{name}=<{len(value)}>" if equals else f"<{len(pair)}>"


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
