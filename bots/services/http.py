"""HTTP clients of services. Loading the certificates takes 80 ms: once for the process, when a configuration loads."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import cache

import httpx

from media.errors import ConfigError
from media.secret import Secret

TIMEOUT = httpx.Timeout(connect=5.0, read=30.0, write=10.0, pool=5.0)


@cache
def tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def client(headers: Mapping[str, str] | None = None, timeout: httpx.Timeout = TIMEOUT) -> httpx.AsyncClient:
    """One service's, to be closed by it. Redirects are not followed: a key goes where it was meant to."""
    return httpx.AsyncClient(headers=dict(headers or {}), timeout=timeout, verify=tls(), follow_redirects=False)


def checked_key(key: Secret | None, variable: str) -> str:
    """What a `key` names. Raises ConfigError, which says where it may be written."""
    if key is None:
        raise ConfigError("key", "is missing", f'write key = {{ env = "{variable}" }}')
    if problem := key.problem():
        raise ConfigError("key", problem, "set it")
    return key.reveal()
