"""Plivo's V3 signature: what is signed, and whether a header says so.

HMAC-SHA256 with the auth token over `canonical + "." + nonce`, in base64.

Source: Plivo docs, "Validating requests", as Plivo's own library computes it; the hand-written sample on that page
joins its parts differently and does not agree with it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl, urlsplit

from webhooks.signature import same

Pairs = Sequence[tuple[str, str]]


def parameters(text: str) -> Pairs:
    """A form or a query as pairs, blank ones kept. ValueError: bytes that are not UTF-8, which would be guessed."""
    return parse_qsl(text, keep_blank_values=True, errors="strict")


def canonical(method: str, url: str, form: Pairs = ()) -> str:
    """What is signed, but for the nonce.

    Args:
        url: as Plivo addressed it, with its query.
        form: of the body of a POST, values decoded.
    """
    parts = urlsplit(url)
    base = f"{parts.scheme}://{parts.netloc}{parts.path}"
    query = parameters(parts.query)
    if method == "GET":
        query = [*query, *form]
        form = ()
    joined = "&".join(f"{name}={value}" for name, value in sorted(query))
    if not form:
        return f"{base}?{joined}" if joined else base
    fields = "".join(f"{name}{value}" for name, value in sorted(form))
    # With a body there is always a question mark, and a full stop only after a query.
    return f"{base}?{joined}.{fields}" if joined else f"{base}?{fields}"


def spellings(url: str) -> tuple[str, str]:
    """`url`, and as it is with or without the port that goes without saying: Host headers leave it out."""
    parts = urlsplit(url)
    port = {"https": ":443", "http": ":80"}.get(parts.scheme, "")
    host = parts.netloc
    other = host.removesuffix(port) if host.endswith(port) else host + port if ":" not in host else host
    return url, url.replace(f"://{host}", f"://{other}", 1)


def sign(token: str, text: str, nonce: str) -> str:
    digest = hmac.new(token.encode(), f"{text}.{nonce}".encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode("ascii")


def matches(token: str, text: str, nonce: str, headers: Iterable[str]) -> bool:
    """Whether one of the signatures in `headers`, which may each hold several, is over `text`.

    They are compared as text, so a spelling that is not the canonical one is no match.
    """
    expected = sign(token, text, nonce)
    shown = (value.strip(" \t") for header in headers for value in header.split(","))
    return any(same(expected, value) for value in shown)
