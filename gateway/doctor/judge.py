"""What was sent, what arrived, and so what is wrong on the way. No I/O."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

from gateway.doctor.desk import fingerprint
from gateway.doctor.passes import HEADER
from webhooks.signature import url_parts

Level = Literal["good", "note", "warning", "failure"]
LEVELS: tuple[Level, ...] = ("good", "note", "warning", "failure")

SKEW_NOTED_S, SKEW_TOO_MUCH_S = 3.0, 25.0  # Genesys takes signatures of ten seconds ago, Vonage of half a minute ahead
_SECURE = {"https": True, "wss": True, "http": False, "ws": False}
_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
# Headers of which it is the proxy's business what they say.
_HOP = frozenset({"host", "connection", "upgrade", "content-length", "transfer-encoding", "accept-encoding", HEADER})
# What the doctor cannot show, so that its being refused says nothing.
_OUT_OF_REACH: Mapping[str, str] = {
    "address": "only addresses of allowed_ips are let in, and the doctor's is none; nothing after that was tried",
    "no-stream-token": "the second secret of its streams (stream_auth) is known to the carrier only",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found. `code` is for machines, and the same thing is said once."""

    level: Level
    where: str  # "public URL", "twilio webhook", "twilio socket", "twilio REST"
    code: str
    says: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What the doctor sent."""

    where: str
    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    at: float = 0.0  # Unix seconds by the doctor's clock, in the middle of the exchange
    took_s: float = 0.0


Seen = Mapping[str, Any]  # as gateway/doctor/desk.py tells


def judge(sent: Sent, seen: Seen, base: str) -> Iterator[Finding]:
    """All that is wrong between `sent` and `seen`; `base` is the public URL."""
    yield from _address(sent, seen, base)
    yield from _query(sent, seen)
    if seen["method"] != sent.method:
        says = f"{sent.method} arrives as {seen['method']}"
        yield _failure(sent, "method", says, "look for a redirect or a rewrite in the proxy")
    yield from _headers(sent, seen)
    yield from _body(sent, seen)
    yield from _clock(sent, seen)


def verdict(sent: Sent, seen: Seen, explained: bool) -> Finding:
    """What the gateway made of the signature. `explained`: something else that was found accounts for a refusal."""
    told = seen["authentic"]
    result, reason = told["result"], told.get("reason", "")
    what = "upgrade" if sent.where.endswith("socket") else "webhook"
    if result == "good":
        return Finding(level="good", where=sent.where, code="authentic", says=f"a signed {what} is accepted")
    if result == "remark":
        remedy = "" if explained else "see the carrier's page in docs/carriers"
        says = f"the {what} is accepted with a remark: {reason}"
        return Finding(level="warning", where=sent.where, code="remark", says=says, remedy=remedy)
    if result == "off":
        remedy = "set verify_signatures = true"
        says = f"any {what} is accepted: verify_signatures is off"
        return Finding(level="warning", where=sent.where, code="not-verified", says=says, remedy=remedy)
    if result == "not-asked":
        says = f"the {what} does not arrive at a path of the gateway"
        return Finding(level="failure", where=sent.where, code="not-routed", says=says, remedy="see above")
    if reason in _OUT_OF_REACH:
        return Finding(level="note", where=sent.where, code="not-tried", says=_OUT_OF_REACH[reason])
    if explained:
        says, remedy = f"a signed {what} is refused ({reason})", "see above"
    elif reason == "stale":
        says, remedy = f"a signed {what} is refused: its time is too far off", "set both clocks by NTP"
    elif reason.startswith("settings:"):
        says, remedy = f"the gateway's settings do not let it verify: {reason[9:].strip()}", ""
    elif reason in _MISSING:
        says, remedy = f"the gateway has nothing to verify a {what} with ({reason})", _MISSING[reason]
    else:
        says = f"a signed {what} is refused ({reason}) although all of it has arrived as it was sent"
        remedy = "the running gateway has another secret for this carrier than this configuration: start it again"
    return Finding(
        level="failure", where=sent.where, code=f"refused-{reason.partition(':')[0]}", says=says, remedy=remedy
    )


_MISSING: Mapping[str, str] = {
    "no-auth-token": "set auth_token",
    "no-key": "set the key by which its webhooks are verified",
    "no-secret": "set the secret by which its webhooks are verified",
    "no-credentials-configured": "set path_token, or basic_user and basic_password, or allowed_ips",
}

# ---------------------------------------------------------------- the address


def _address(sent: Sent, seen: Seen, base: str) -> Iterator[Finding]:
    """The URL over which signatures are made, and which the gateway hands out."""
    ours, theirs = url_parts(sent.url), url_parts(seen["addressed"])
    public, host_header = seen["gateway"]["public_url"], seen["told_headers"].get("host", "")
    settle = f'set public_url = "{base}" in [gateway]'
    forwarded = "let the proxy send {} and name it in trusted_proxies"
    if public and public.rstrip("/") != base:
        says = f"the running gateway has public_url = {public}, and was asked through {base}"
        yield _failure(sent, "other-url", says, "paste URLs that begin with public_url into the consoles, or change it")
        return
    if _SECURE[ours.scheme] and not _SECURE.get(theirs.scheme, False):
        says = f"{ours.scheme}:// arrives as {theirs.scheme}://: TLS ends at the proxy, and the gateway does not know"
        yield _failure(sent, "scheme", says, f"{settle}, or {forwarded.format('X-Forwarded-Proto')}")
    (name, port), (their_name, their_port) = _host(ours.scheme, ours.host), _host(theirs.scheme, theirs.host)
    if name != their_name:
        says = f"Host {ours.host} arrives as {theirs.host}"
        yield _failure(
            sent, "host", says, f"{settle}, or {forwarded.format('the Host that it got, or X-Forwarded-Host,')}"
        )
    elif port != their_port and _SECURE[ours.scheme] == _SECURE.get(theirs.scheme, False):
        says = f"port {port} arrives as {their_port}"
        yield _failure(sent, "port", says, f"{settle}, or {forwarded.format('X-Forwarded-Port')}")
    elif public and host_header and _host(ours.scheme, host_header) != (name, port):
        says = f"the proxy changes Host to {host_header}; public_url makes up for it"
        yield Finding(level="note", where=sent.where, code="host-changed", says=says)
    yield from _path(sent, seen, ours.path, theirs.path, settle)


def _path(sent: Sent, seen: Seen, ours: str, addressed: str, settle: str) -> Iterator[Finding]:
    arrived = seen["arrived"]["path"]
    if addressed == ours:
        if arrived == ours and not seen["route"] and _is_webhook(ours):
            says = f"{_masked(arrived)} arrives, which is no path of the gateway: what stands before it is not known"
            yield _failure(sent, "prefix-left", says, f"{settle}, or let the proxy take it off and set it all the same")
        elif arrived != ours:
            says = f"the proxy takes {_masked(ours.removesuffix(arrived))} off the path; public_url makes up for it"
            yield Finding(level="note", where=sent.where, code="prefix-taken", says=says)
        return
    slash, plain = arrived.rstrip("/"), ours.rstrip("/")
    if slash == plain:
        what = "adds a slash to the end of the path" if arrived.endswith("/") else "takes the slash off the path's end"
        yield _failure(sent, "trailing-slash", f"the proxy {what}", "take the rewrite out of the proxy")
    elif unquote(slash) == unquote(plain):
        says = f"the proxy writes characters of the path in another way: {_masked(ours)} arrives as {_masked(arrived)}"
        yield _failure(sent, "path-encoding", says, "hand on the path as it came: in nginx, proxy_pass without a path")
    elif re.sub("//+", "/", slash) == re.sub("//+", "/", plain):
        yield _failure(sent, "path-slashes", "the proxy makes one slash of several", "hand on the path as it came")
    elif slash.lower() == plain.lower():
        yield _failure(sent, "path-case", "the proxy changes the path's case", "hand on the path as it came")
    elif plain.endswith(slash):
        says = f"the proxy takes {_masked(plain.removesuffix(slash))} off the path, and the gateway does not know"
        yield _failure(sent, "prefix-taken", says, settle)
    elif slash.endswith(plain):
        says = f"the proxy puts {_masked(slash.removesuffix(plain))} before the path"
        yield _failure(sent, "prefix-added", says, "hand on the path as it came")
    else:
        says = f"{_masked(ours)} arrives as {_masked(arrived)}"
        yield _failure(sent, "path", says, "hand on the path as it came")


def _query(sent: Sent, seen: Seen) -> Iterator[Finding]:
    ours, theirs = url_parts(sent.url).query, seen["arrived"]["query"]
    if ours == theirs:
        return
    pairs = [parse_qsl(text, keep_blank_values=True) for text in (ours, theirs)]
    as_it_came = "hand on the query as it came"
    if not theirs:
        yield _failure(sent, "query-dropped", "the query is dropped", f"{as_it_came}: in nginx, $request_uri")
    elif pairs[0] == pairs[1]:
        yield _failure(sent, "query-encoding", "characters of the query are written in another way", as_it_came)
    elif sorted(pairs[0]) == sorted(pairs[1]):
        yield _failure(sent, "query-order", "the query arrives in another order", as_it_came)
    elif set(pairs[0]) < set(pairs[1]):
        names = ", ".join(sorted({name for name, _ in set(pairs[1]) - set(pairs[0])}))
        yield _failure(sent, "query-added", f"the proxy adds to the query: {names[:100]}", as_it_came)
    else:
        yield _failure(sent, "query", "the query arrives changed", as_it_came)


# ---------------------------------------------------------------- the rest of the request


def _headers(sent: Sent, seen: Seen) -> Iterator[Finding]:
    arrived: Mapping[str, str] = seen["headers"]
    dropped = [name for name in sent.headers if name not in arrived and name not in _HOP]
    changed = [name for name in sent.headers if name in arrived and name not in _HOP]
    changed = [name for name in changed if arrived[name] != fingerprint(sent.headers[name])]
    if dropped:
        says = f"headers do not arrive: {', '.join(sorted(dropped))}"
        yield _failure(sent, "header-dropped", says, "let the proxy pass on all headers, whatever their names")
    if changed:
        says = f"headers arrive changed: {', '.join(sorted(changed))}"
        yield _failure(sent, "header-changed", says, "let the proxy pass on headers as they came")


def _body(sent: Sent, seen: Seen) -> Iterator[Finding]:
    told = seen["body"]
    if told["sha256"] == hashlib.sha256(sent.body).hexdigest():
        return
    arrived = base64.b64decode(told["bytes"])
    as_it_came = "signatures are over its bytes: let nothing on the way parse and write it again"
    if not told["size"]:
        yield _failure(sent, "body-dropped", "the body is dropped", "look for a redirect or a rewrite in the proxy")
    elif sent.body.startswith(arrived):
        says = f"of {len(sent.body)} bytes of the body {told['size']} arrive"
        yield _failure(sent, "body-cut", says, "raise the proxy's limits on bodies")
    elif _same_content(sent.body, arrived):
        says = f"the body is written anew: the same content, {told['size']} bytes in place of {len(sent.body)}"
        yield _failure(sent, "body-rewritten", says, as_it_came)
    else:
        yield _failure(sent, "body", "the body arrives changed", as_it_came)


def _same_content(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        pairs = [parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True) for body in (one, other)]
        return bool(pairs[0]) and sorted(pairs[0]) == sorted(pairs[1])


def _clock(sent: Sent, seen: Seen) -> Iterator[Finding]:
    yield from clock(sent.where, seen["time"] - sent.at, sent.took_s)


def clock(where: str, ahead_s: float, took_s: float, whose: str = "this machine's") -> Iterator[Finding]:
    """How far the gateway's clock is ahead of another."""
    if abs(ahead_s) - took_s < SKEW_NOTED_S:
        return
    level: Level = "failure" if abs(ahead_s) - took_s >= SKEW_TOO_MUCH_S else "warning"
    how = "ahead of" if ahead_s > 0 else "behind"
    says = f"the gateway's clock is {abs(ahead_s):.0f} s {how} {whose}"
    yield Finding(level=level, where=where, code="clock", says=says, remedy="set both clocks by NTP")


# ---------------------------------------------------------------- pieces


def _failure(sent: Sent, code: str, says: str, remedy: str) -> Finding:
    return Finding(level="failure", where=sent.where, code=code, says=says, remedy=remedy)


def _host(scheme: str, host: str) -> tuple[str, str]:
    """Name and port."""
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        name, port = host, ""
    return name.lower(), port or _PORTS.get(scheme, "")


def _is_webhook(path: str) -> bool:
    return path.rpartition("/")[2] != "doctor" and "/doctor/" not in path


def _masked(path: str) -> str:
    """A path for people: passes and tokens are left out."""
    return "/".join(part if len(part) <= 40 else "..." for part in path.split("/")) or "/"
