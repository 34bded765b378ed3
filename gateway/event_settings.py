"""[events] in gateway.toml: where the user's own systems are told what happens to calls."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from dataclasses import dataclass
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from annotated_types import Interval

from media.errors import ConfigError
from media.secret import Secret

EventKind = Literal["call.started", "call.answered", "call.transferred", "call.refused", "call.ended"]
KINDS: tuple[EventKind, ...] = get_args(EventKind)

_PREFIX = "whsec_"  # of a secret whose rest is base64, as Standard Webhooks writes it
_SHORTEST = 16  # bytes of a secret
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSettings:
    """[events]: event webhooks to a URL of yours."""

    url: str = ""  # https://; http:// only to this machine. Empty: nobody is told
    secret: Secret | None = None  # signs each delivery; at least 16 bytes, or "whsec_" and base64
    more_secrets: tuple[Secret, ...] = ()  # sign too: while receivers change from one secret to the next
    kinds: tuple[EventKind, ...] = KINDS  # what is told
    allow_private: bool = False  # the URL may lead to an address that is not public
    timeout_s: Annotated[float, Interval(ge=0.1, le=60)] = 10.0  # for the receiver's answer
    give_up_s: Annotated[float, Interval(ge=1, le=7 * 86_400)] = 86_400.0  # after which an event is not tried again

    def __post_init__(self) -> None:
        if self.url:
            _check(self.url, self.allow_private)
            if self.secret is None:
                raise ValueError('url needs secret: write secret = { env = "EVENTS_SECRET" }')

    @property
    def keys(self) -> tuple[bytes, ...]:
        """What signs. Raises ConfigError for a secret that is none."""
        named = [] if self.secret is None else [("secret", self.secret)]
        named += [(f"more_secrets[{index}]", secret) for index, secret in enumerate(self.more_secrets)]
        return tuple(_key(path, secret) for path, secret in named)


def _key(path: str, secret: Secret) -> bytes:
    if problem := secret.problem():
        raise ConfigError(path, problem, "set it, or leave events.url out")
    text = secret.reveal()
    key = text.encode()
    if text.startswith(_PREFIX):
        try:
            key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except (ValueError, binascii.Error):
            raise ConfigError(path, "begins with whsec_, and the rest is not base64", "take another text") from None
    if len(key) < _SHORTEST:
        remedy = f"use {_SHORTEST} bytes or more: openssl rand -base64 32"
        raise ConfigError(path, f"is {len(key)} bytes long", remedy)
    return key


def _check(url: str, allow_private: bool) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("https", "http") or parts.fragment or any(c <= " " for c in url):
        raise ValueError("url must be like https://hooks.example.com/calls")
    if parts.username is not None:
        raise ValueError("url must not hold a password: deliveries are signed with the secret")
    if is_this_machine(host):
        return
    if parts.scheme != "https":
        raise ValueError("url must be https://: what is told about calls is nobody else's business")
    address = address_of(host)
    if address is not None and not allow_private and not is_public(address):
        raise ValueError("url leads to a private address: set allow_private = true if that is meant")


def address_of(host: str) -> Address | None:
    """`host` as an address, if it is one."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def is_this_machine(host: str) -> bool:
    """Whether `host`, by its spelling alone, is this machine."""
    address = address_of(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def is_public(address: Address) -> bool:
    """Whether `address` is on the public internet; an IPv4 address in an IPv6 one counts as what it is."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
    return address.is_global and not address.is_multicast
