"""HTTP clients of services. Loading the certificates takes 80 ms: once for the process, when a configuration loads."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, ClassVar

import httpx

from bots.services.base import AIService
from media.errors import ConfigError, ServiceError
from media.events import MaybeAwaitable
from media.frames import StartFrame
from media.secret import Secret

TIMEOUT = httpx.Timeout(connect=5.0, read=30.0, write=10.0, pool=5.0)

RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
MAX_WAIT_S = 1.0  # a caller waits: whoever wants to be asked later than that has failed


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


class Keyed:
    """A provider whose table has a `key`; `variable` is what a user would call it in the environment."""

    variable: ClassVar[str]

    def key(self, settings: Any) -> str:
        """Raises ConfigError."""
        return checked_key(settings.key, self.variable)

    def prepare(self, settings: Any) -> None:
        tls()
        self.key(settings)


class HttpService(AIService):
    """A service with one HTTP client, from StartFrame until it is released. Stands before the kind of service it is."""

    _headers: Mapping[str, str] = {}
    _client: httpx.AsyncClient | None = None

    def start(self, frame: StartFrame) -> MaybeAwaitable:
        self._client = client(self._headers)
        return None

    async def release(self) -> None:
        http, self._client = self._client, None
        if http is not None:
            await http.aclose()

    @property
    def http(self) -> httpx.AsyncClient:
        """Raises ServiceError outside a pipeline."""
        if self._client is None:
            raise ServiceError(type(self).__name__, "the service is not started")
        return self._client

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[httpx.AsyncClient]:
        """The client; outside a pipeline one that is closed again."""
        if self._client is not None:
            yield self._client
            return
        async with client(self._headers) as http:
            yield http


# ---------------------------------------------------------------- a request


async def server_events(service: str, http: httpx.AsyncClient, url: str, body: Mapping[str, Any]) -> AsyncIterator[Any]:
    """The objects of a stream of server-sent events, up to `[DONE]` or its end. Raises ServiceError, TimeoutError."""
    try:
        async with http.stream("POST", url, json=body) as response:
            if response.status_code != 200:
                await response.aread()
                raise refused(service, response)
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                yield json.loads(data)
    except httpx.TimeoutException as exc:
        raise TimeoutError(type(exc).__name__) from exc
    except httpx.HTTPError as exc:
        raise ServiceError(service, f"{type(exc).__name__}: {exc}", retryable=True) from exc
    except json.JSONDecodeError as exc:
        raise ServiceError(service, f"what it streams is not JSON: {exc}") from exc


async def asked_again(ask: Callable[[], AsyncIterator[Any]], first_s: float | None) -> AsyncIterator[Any]:
    """What `ask` gives; asked once more if nothing has come yet and that can help, or nothing came within `first_s`."""
    for attempt in range(2):
        begun = False
        try:
            async with asyncio.timeout(first_s) as limit:
                async for item in ask():
                    if not begun:
                        begun = True
                        limit.reschedule(None)
                    yield item
            return
        except TimeoutError:
            if begun or attempt or first_s is None:
                raise
            first_s = None
        except ServiceError as exc:
            if begun or attempt or not exc.retryable:
                raise
            await asyncio.sleep(0.2)


async def answer_to(service: str, http: httpx.AsyncClient, url: str, body: Mapping[str, Any]) -> Any:
    """One answer as a whole. Raises ServiceError, TimeoutError."""
    try:
        response = await http.post(url, json=body)
        if response.status_code != 200:
            raise refused(service, response)
        return response.json()
    except httpx.TimeoutException as exc:
        raise TimeoutError(type(exc).__name__) from exc
    except (httpx.HTTPError, ValueError) as exc:
        raise ServiceError(service, f"{type(exc).__name__}: {exc}", retryable=True) from exc


def refused(service: str, response: httpx.Response) -> ServiceError:
    """What an answer other than 200 means; its body has been read."""
    try:
        problem = problem_in(response.json())
    except ValueError:
        problem = response.reason_phrase
    wait_s = response.headers.get("retry-after", "0")
    soon = not wait_s.isdigit() or int(wait_s) <= MAX_WAIT_S
    retryable = response.status_code in RETRIED and soon
    return ServiceError(service, f"HTTP {response.status_code}: {problem}", retryable=retryable)


def problem_in(body: Any) -> str:
    """What a vendor says is wrong."""
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message") if isinstance(error, dict) else error or "no reason given")[:300]
