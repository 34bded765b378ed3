"""The way to the public URL: name, address, connection, certificate."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
from cryptography import x509

from gateway.doctor.judge import Finding
from gateway.event_settings import address_of, is_public, is_this_machine

WHERE = "public URL"
EXPIRES_SOON_S = 14 * 86_400
_VERIFY = {  # OpenSSL's X509_V_ERR_*
    10: ("tls-expired", "its certificate has expired", "renew it"),
    18: ("tls-self-signed", "its certificate is self-signed", "take one of a public authority: carriers refuse others"),
    19: ("tls-chain", "its chain ends in an authority that nobody knows", "take one of a public authority"),
    20: ("tls-chain", "its certificate comes without the intermediate ones", "serve the full chain (fullchain.pem)"),
    21: ("tls-chain", "its certificate comes without the intermediate ones", "serve the full chain (fullchain.pem)"),
    62: ("tls-name", "its certificate is for another name", "take one for this host"),
    64: ("tls-name", "its certificate is for another name", "take one for this host"),
}


@dataclass(slots=True)
class Way:
    """How far one gets."""

    findings: list[Finding] = field(default_factory=list)
    open: bool = False  # a connection was made
    ssl: ssl.SSLContext | None = None  # with which the rest goes; it verifies only if that succeeded here

    def note(self, finding: Finding) -> None:
        self.findings.append(finding)


async def explore(base: str, timeout_s: float) -> Way:
    """Resolve, connect, shake hands."""
    way = Way()
    parts = urlsplit(base)
    host = parts.hostname or ""
    port = parts.port or {"https": 443, "http": 80}[parts.scheme]
    if parts.scheme == "http" and not is_this_machine(host):
        remedy = "put a proxy with a certificate before the gateway"
        way.note(_failure("http", "it is http://: carriers open media sockets over TLS only", remedy))
    if parts.scheme == "https" and port != 443:
        says = f"it has port {port}: Twilio and Genesys connect to 443 only"
        way.note(Finding(level="warning", where=WHERE, code="port-unusual", says=says, remedy="listen on 443"))
    addresses = await _resolve(way, host, port)
    if addresses and await _connect(way, host, addresses, port, timeout_s) and parts.scheme == "https":
        await _shake_hands(way, host, addresses, port, timeout_s)
    return way


async def _resolve(way: Way, host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        way.note(_failure("dns", f"nobody knows the name {host}", "make a DNS record for it (A or AAAA)"))
        return []
    addresses = list(dict.fromkeys(str(there[0]) for *_, there in found))
    inner = [text for text in addresses if (address := address_of(text)) is not None and not is_public(address)]
    if inner:
        says = f"it leads to {', '.join(inner)}, which carriers cannot reach"
        remedy = "for carriers the name must lead to a public address"
        way.note(Finding(level="warning", where=WHERE, code="private-address", says=says, remedy=remedy))
    return addresses


async def _connect(way: Way, host: str, addresses: list[str], port: int, timeout_s: float) -> bool:
    problems = []
    for address in addresses:
        try:
            async with asyncio.timeout(timeout_s):
                _, writer = await asyncio.open_connection(address, port)
        except TimeoutError:
            problems.append(f"{_shown(address, port)} does not answer")
        except OSError as exc:
            problems.append(f"{_shown(address, port)}: {exc.strerror or type(exc).__name__}")
        else:
            writer.close()
            way.open = True
    if problems:
        remedy = "check the firewall, the port and the proxy; behind some routers this must be tried from elsewhere"
        level_of = Finding(level="warning", where=WHERE, code="connect", says="; ".join(problems), remedy=remedy)
        way.note(level_of if way.open else _failure("connect", "; ".join(problems), remedy))
    return way.open


async def _shake_hands(way: Way, host: str, addresses: list[str], port: int, timeout_s: float) -> None:
    """With the authorities that are trusted here; if that fails, again without, so that the rest can be looked at."""
    trusting = httpx.create_ssl_context()
    careless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE
    for context in (trusting, careless):
        way.ssl = context
        try:
            async with asyncio.timeout(timeout_s):
                _, writer = await asyncio.open_connection(addresses[0], port, ssl=context, server_hostname=host)
        except ssl.SSLCertVerificationError as exc:
            code, says, remedy = _VERIFY.get(exc.verify_code, ("tls", f"TLS: {exc.verify_message}", ""))
            way.note(_failure(code, says, remedy))
            continue
        except (TimeoutError, OSError) as exc:
            way.open = False
            reason = getattr(exc, "reason", "") or getattr(exc, "strerror", "") or type(exc).__name__
            plain = "WRONG_VERSION" in str(reason) or "HTTP_REQUEST" in str(reason)
            says = "what listens there does not speak TLS" if plain else f"TLS fails: {reason}"
            way.note(_failure("tls", says, "check the proxy's certificate and port"))
            return
        peer = writer.get_extra_info("ssl_object")
        writer.close()
        _certificate(way, peer.getpeercert(binary_form=True))
        return


def _certificate(way: Way, der: bytes | None) -> None:
    if der is None:
        return
    expires = x509.load_der_x509_certificate(der).not_valid_after_utc
    left_s = expires.timestamp() - time.time()
    if any(finding.code.startswith("tls") for finding in way.findings):
        return
    until = f"{expires:%Y-%m-%d}"
    if left_s < EXPIRES_SOON_S:
        says = f"its certificate expires in {left_s / 86_400:.0f} days, on {until}"
        way.note(Finding(level="warning", where=WHERE, code="tls-expires", says=says, remedy="renew it"))
    else:
        way.note(Finding(level="good", where=WHERE, code="tls", says=f"its certificate is good until {until}"))


def _shown(address: str, port: int) -> str:
    host = f"[{address}]" if isinstance(address_of(address), ipaddress.IPv6Address) else address
    return f"{host}:{port}"


def _failure(code: str, says: str, remedy: str) -> Finding:
    return Finding(level="failure", where=WHERE, code=code, says=says, remedy=remedy)
