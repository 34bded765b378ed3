"""The URL by which a carrier addressed us, behind whatever proxies: signatures are made over it.

With `public_url` set, it alone says scheme, host, port and prefix; path and query come from the request, byte for
byte as they were sent. Without it the request's own Host counts, or, if the peer is a trusted proxy, what it says in
`X-Forwarded-*`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_SECURE = {"http": "https", "ws": "wss"}


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Addresses and CIDR ranges. ValueError for what is neither."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in texts)


@dataclass(frozen=True, slots=True)
class Addressing:
    """How this gateway is addressed from outside."""

    public_url: str = ""  # "https://gw.example.com/prefix"
    trusted: Sequence[Network] = field(default_factory=tuple)  # proxies whose X-Forwarded-* headers count

    @property
    def prefix(self) -> str:
        """The path that stands before ours in public: "/prefix", or nothing."""
        rest = self.public_url.partition("://")[2]
        return "/" + rest.partition("/")[2].rstrip("/") if "/" in rest and rest.partition("/")[2].strip("/") else ""

    def base(self, scope: Mapping[str, Any]) -> str:
        """Scheme, host and prefix, for URLs that we give out: "https://gw.example.com/prefix"."""
        if self.public_url:
            return self.public_url.rstrip("/")
        scheme, host, prefix = self._addressed(scope)
        return f"{'https' if scheme in ('https', 'wss') else 'http'}://{host}{prefix}"

    def url(self, scope: Mapping[str, Any]) -> str:
        """The whole URL of a request or of an upgrade (ws, wss), its path and query as they were sent."""
        path = raw_path(scope)
        query = scope.get("query_string", b"").decode("latin-1")
        if self.public_url:
            secure, _, rest = self.public_url.partition("://")
            scheme = {"https": "wss", "http": "ws"}[secure] if scope["type"] == "websocket" else secure
            host = rest.partition("/")[0]
            prefix = "" if has_prefix(path, self.prefix) else self.prefix
        else:
            scheme, host, prefix = self._addressed(scope)
            prefix = "" if has_prefix(path, prefix) else prefix
        return f"{scheme}://{host}{prefix}{path}" + (f"?{query}" if query else "")

    def peer(self, scope: Mapping[str, Any]) -> str:
        """The address of whoever asks: the nearest hop that is no trusted proxy."""
        address = (scope.get("client") or ("", 0))[0]
        if not self._trusts(address):
            return address
        hops = [hop.strip() for hop in _header(scope, b"x-forwarded-for").split(",") if hop.strip()]
        for hop in reversed(hops):
            address = _without_port(hop)
            if not self._trusts(address):
                return address
        return address

    def _addressed(self, scope: Mapping[str, Any]) -> tuple[str, str, str]:
        scheme = scope.get("scheme", "http")
        host = _header(scope, b"host")
        prefix = ""
        if self._trusts((scope.get("client") or ("", 0))[0]):
            said = _last(_header(scope, b"x-forwarded-proto")).lower()
            if said in ("https", "wss"):
                scheme = _SECURE.get(scheme, scheme)
            elif said in ("http", "ws"):
                scheme = {"https": "http", "wss": "ws"}.get(scheme, scheme)
            host = _last(_header(scope, b"x-forwarded-host")) or host
            port = _last(_header(scope, b"x-forwarded-port"))
            if port.isdigit() and ":" not in host.rpartition("]")[2]:
                host = f"{host}:{port}"
            prefix = "/" + _last(_header(scope, b"x-forwarded-prefix")).strip("/")
            prefix = "" if prefix == "/" else prefix
        name, colon, port = host.rpartition(":")
        if colon and port == _DEFAULT_PORTS.get(scheme):
            host = name
        return scheme, host, prefix

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self.trusted)


def is_loopback_url(url: str) -> bool:
    """Whether `url` leads to this machine, by its spelling alone."""
    return is_loopback_host(url.partition("://")[2].partition("/")[0])


def is_loopback_host(host: str) -> bool:
    """The same of a Host header or an address, with or without a port."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host
    if name.count(":") == 1:
        name = name.partition(":")[0]
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name.lower() == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def raw_path(scope: Mapping[str, Any]) -> str:
    """The path as it was sent, percent signs and all."""
    raw = scope.get("raw_path")
    if raw is None:
        return str(scope["path"])
    return bytes(raw).partition(b"?")[0].decode("latin-1")


def _without_port(hop: str) -> str:
    """An address as proxies write them: "192.0.2.1:4711", "2001:db8::1", "[2001:db8::1]:4711"."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def has_prefix(path: str, prefix: str) -> bool:
    return bool(prefix) and (path == prefix or path.startswith(prefix + "/"))


def _header(scope: Mapping[str, Any], name: bytes) -> str:
    return ", ".join(value.decode("latin-1") for key, value in scope.get("headers", ()) if key.lower() == name)


def _last(value: str) -> str:
    """What the nearest proxy said, where several each added theirs."""
    return value.rpartition(",")[2].strip()


class StripPrefix:
    """Takes the public prefix off the paths of proxies that leave it on. ASGI middleware."""

    def __init__(self, app: Any, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] in ("http", "websocket") and has_prefix(path, self._prefix):
            # raw_path stays as it was sent: signatures are over it
            scope = {**scope, "path": path[len(self._prefix) :] or "/"}
        await self._app(scope, receive, send)
