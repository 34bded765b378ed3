"""What carriers' own libraries have signed, through a reverse proxy: taken as it was signed, and in no other way.

Each front is one way to stand before a gateway: the URL that the carrier knows, and what the proxy makes of it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

import jwt
import pytest
import vonage_jwt  # type: ignore[import-untyped]
from nacl.signing import SigningKey
from plivo.utils.signature_v3 import construct_get_url, construct_post_url, get_signature_v3
from twilio.request_validator import RequestValidator
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.endtoend.served import run
from tests.gateway.certificates import certificate
from tests.gateway.proxy import Proxy, Request
from tests.gateway.rig import Running, running

# The carriers' REST interfaces know nothing of these calls, and need not be asked to end them.
LEFT_ALONE = "auto_hang_up = false"
SIGNING = ("twilio", "telnyx", "plivo", "vonage")
FORM = "application/x-www-form-urlencoded"
# Blank ones, repeated ones, what a form encodes, and what is not ASCII.
ODD = [("CallerName", "J\u00fcrgen & S\u00f6hne \u260e"), ("Blank", ""), ("Plus", "1+1=2"), ("Two", "b"), ("Two", "a")]
QUERY = "a=x%20y&a=%2B&a=x%20y&b=&q=1%262"

# ---------------------------------------------------------------- carriers, by their own libraries


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request of a carrier, and which of its bytes its signature covers."""

    url: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    covered: Sequence[str] = ()  # "query", "body", and names of headers
    authentic: int = 200  # the answer to it, if it is taken for the carrier's


class Fields(dict[str, list[str]]):
    """Repeated names, as Twilio's library takes them from web frameworks."""

    def getlist(self, name: str) -> list[str]:
        return self[name]


def grouped(pairs: Sequence[tuple[str, str]]) -> Fields:
    fields = Fields()
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


def twilio(own: Mapping[str, str], base: str, call_id: str) -> Iterator[Sent]:
    judge = RequestValidator(own["auth_token"])
    name = "X-Twilio-Signature"
    who = [("CallSid", call_id), ("AccountSid", own["account_sid"]), ("From", "+15005550001"), ("To", "+15005550006")]
    pairs = [*who, ("CallStatus", "ringing"), *ODD]
    for url in (f"{base}/twilio/answer", f"{base}/twilio/answer?{QUERY}&n=%C3%BC", f"{base}/twilio/answer/"):
        signed = {name: judge.compute_signature(url, grouped(pairs)), "Content-Type": FORM}
        covered = ["body", name, *(["query"] if "?" in url else [])]
        yield Sent(url=url, headers=signed, body=urlencode(pairs).encode(), covered=covered)
    url = f"{base}/twilio/answer?{urlencode(pairs)}"
    yield Sent(url=url, method="GET", headers={name: judge.compute_signature(url, {})}, covered=["query", name])
    body = json.dumps({"CallSid": call_id, "CallStatus": "in-progress", "name": "J\u00fcrgen"}).encode()
    url = f"{base}/twilio/status?bodySHA256={hashlib.sha256(body).hexdigest()}"
    signed = {name: judge.compute_signature(url, {}), "Content-Type": "application/json"}
    yield Sent(url=url, headers=signed, body=body, covered=["query", "body", name], authentic=400)  # but of no call


def plivo(own: Mapping[str, str], base: str, call_id: str) -> Iterator[Sent]:
    pairs = [("CallUUID", call_id), ("From", "15005550001"), ("To", "15005550006"), ("Direction", "inbound"), *ODD]

    def signed(text: bytes) -> Mapping[str, str]:
        nonce = str(uuid.uuid4().int)[:20]
        return {
            "X-Plivo-Signature-V3": get_signature_v3(own["auth_token"], text.decode(), nonce).decode(),
            "X-Plivo-Signature-V3-Nonce": nonce,
            "Content-Type": FORM,
        }

    names = ["X-Plivo-Signature-V3", "X-Plivo-Signature-V3-Nonce"]
    for url in (f"{base}/plivo/answer", f"{base}/plivo/answer?{QUERY}", f"{base}/plivo/answer/"):
        headers = signed(construct_post_url(url, grouped(pairs)))
        covered = ["body", *names, *(["query"] if "?" in url else [])]
        yield Sent(url=url, headers=headers, body=urlencode(pairs).encode(), covered=covered)
    # Its library cannot read bytes beyond ASCII in a query.
    url = f"{base}/plivo/answer?{urlencode([pair for pair in pairs if pair[1].isascii()])}"
    yield Sent(url=url, method="GET", headers=signed(construct_get_url(url, {})), covered=["query", *names])


def telnyx(own: Mapping[str, str], base: str, call_id: str) -> Iterator[Sent]:
    key = SigningKey(base64.b64decode(own["private_key"]))
    pairs = [("CallSid", call_id), ("AccountSid", own["account_id"]), ("From", "+15005550001"), ("To", "+15005550006")]
    for number, path in enumerate(("/telnyx/answer", f"/telnyx/answer?{QUERY}&n=%C3%BC", "/telnyx/answer/")):
        body = urlencode([*pairs, *ODD, ("Attempt", str(number))]).encode()
        at = str(int(time.time()))
        signature = base64.b64encode(key.sign(f"{at}|".encode() + body).signature).decode()
        headers = {"Telnyx-Timestamp": at, "Telnyx-Signature-Ed25519": signature, "Content-Type": FORM}
        yield Sent(url=base + path, headers=headers, body=body, covered=["body", *list(headers)[:2]])


def vonage(own: Mapping[str, str], base: str, call_id: str) -> Iterator[Sent]:
    said = {"from": "15005550001", "to": "15005550006", "uuid": call_id, "conversation_uuid": f"CON-{call_id}"}
    body = json.dumps({**said, "name": "J\u00fcrgen \u260e"}, ensure_ascii=False).encode()
    for path in ("/vonage/answer", f"/vonage/answer?{QUERY}&n=%C3%BC", "/vonage/answer/"):
        claims = {
            "iat": int(time.time()),
            "jti": str(uuid.uuid4()),
            "iss": "Vonage",
            "payload_hash": hashlib.sha256(body).hexdigest(),
            "api_key": own["api_key"],
        }
        token = jwt.encode(claims, own["signature_secret"], "HS256")
        assert vonage_jwt.verify_signature(token, own["signature_secret"])
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        yield Sent(url=base + path, headers=headers, body=body, covered=["body", "Authorization"])


CARRIERS: Mapping[str, Callable[[Mapping[str, str], str, str], Iterator[Sent]]] = {
    "twilio": twilio,
    "telnyx": telnyx,
    "plivo": plivo,
    "vonage": vonage,
}
URL_IS_SIGNED = {"twilio", "plivo"}


def new_call(carrier: str) -> str:
    return f"CA{uuid.uuid4().hex}" if carrier == "twilio" else str(uuid.uuid4())


def handshake(carrier: str, own: Mapping[str, str], url: str) -> Mapping[str, str]:
    """What the carrier's upgrade to `url` shows."""
    if carrier == "twilio":
        return {"X-Twilio-Signature": RequestValidator(own["auth_token"]).compute_signature(url, {})}
    if carrier == "plivo":
        nonce = "05429567804466091622"
        text = construct_get_url(url.replace("wss://", "http://").replace("ws://", "http://"), {}).decode()
        signature = get_signature_v3(own["auth_token"], text, nonce).decode()
        return {"X-Plivo-Signature-V3": signature, "X-Plivo-Signature-V3-Nonce": nonce}
    return {}


def media_url(carrier: str, body: bytes) -> str:
    """Where an answer document sends the call's media."""
    if carrier == "vonage":
        (connect_,) = json.loads(body)
        return str(connect_["endpoint"][0]["uri"])
    document = ElementTree.fromstring(body)
    (stream,) = document.iter("Stream")
    return stream.get("url") or (stream.text or "").strip()


# ---------------------------------------------------------------- fronts


def as_it_came(request: Request) -> Request:
    return request


@dataclass(frozen=True, kw_only=True)
class Front:
    url: str  # by which the carrier knows the gateway
    edit: Callable[[Request], Request] = as_it_came
    forwarded: Mapping[str, str] = field(default_factory=dict)  # what the proxy tells, where it is asked to
    setting: str = ""  # public_url, where it is spelled in another way

    @property
    def tls(self) -> bool:
        return self.url.startswith("https")


def inside(request: Request) -> Request:
    return request.having(host="inner:8080")


def off(prefix: str) -> Callable[[Request], Request]:
    return lambda request: inside(request.to(request.path.removeprefix(prefix)))


GW = "gw.example.com"
ENCODED = "/t%C3%A4l~e%2Fx"
FRONTS: Mapping[str, Front] = {
    "TLS ends at the proxy": Front(url=f"https://{GW}", forwarded={"proto": "https"}),
    "no TLS": Front(url=f"http://{GW}", forwarded={"proto": "http"}),
    "explicit default port": Front(url=f"https://{GW}:443", forwarded={"proto": "https", "port": "443"}),
    "odd port": Front(url=f"https://{GW}:8443", forwarded={"proto": "https"}),
    "odd port, told": Front(
        url=f"https://{GW}:8443", edit=inside, forwarded={"proto": "https", "host": GW, "port": "8443"}
    ),
    "Host rewritten": Front(url=f"https://{GW}", edit=inside, forwarded={"proto": "https", "host": GW}),
    "prefix taken": Front(
        url=f"https://{GW}/voice", edit=off("/voice"), forwarded={"proto": "https", "host": GW, "prefix": "/voice"}
    ),
    "prefix taken, slash behind it": Front(
        url=f"https://{GW}/voice",
        edit=off("/voice"),
        forwarded={"proto": "https", "host": GW, "prefix": "/voice/"},
        setting=f"https://{GW}/voice/",
    ),
    "encoded prefix taken": Front(
        url=f"https://{GW}{ENCODED}", edit=off(ENCODED), forwarded={"proto": "https", "host": GW, "prefix": ENCODED}
    ),
    "two proxies": Front(
        url=f"https://{GW}",
        edit=inside,
        forwarded={"proto": "http, https", "host": f"evil.example.com, {GW}", "for": "203.0.113.9, 127.0.0.1"},
    ),
}
LEFT = Front(url=f"https://{GW}/voice/de", edit=inside)  # only `public_url` can take this prefix off


def telling(front: Front) -> Callable[[Request], Request]:
    """What the proxy does, and says that it has done."""
    told = {f"x_forwarded_{name}": value for name, value in front.forwarded.items()}
    return lambda request: front.edit(request).having(**told)


def lying(front: Front) -> Callable[[Request], Request]:
    """What the proxy does, with what a stranger would like us to believe."""
    lies = {"x_forwarded_proto": "http", "x_forwarded_host": "evil.example.com", "x_forwarded_prefix": "/evil"}
    return lambda request: front.edit(request).having(**lies)


@dataclass
class Line:
    """From a carrier to the proxy: raw, so that nothing on our side spells anything anew."""

    proxy: Proxy
    trusting: ssl.SSLContext | None

    async def send(self, sent: Sent) -> tuple[int, bytes]:
        _, _, rest = sent.url.partition("://")
        host, slash, target = rest.partition("/")
        headers = {"Host": host, **sent.headers, "Connection": "close"}
        if sent.method == "POST":
            headers["Content-Length"] = str(len(sent.body))
        lines = [f"{sent.method} {slash}{target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.proxy.port, ssl=self.trusting, server_hostname=GW if self.trusting else None
        )
        try:
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + sent.body)
            reply = await asyncio.wait_for(reader.read(-1), 30)
        finally:
            writer.close()
        head, _, body = reply.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body

    async def open(self, url: str, headers: Mapping[str, str]) -> int:
        """The status of an upgrade; 101 if it is let in."""
        try:
            async with connect(
                url,
                host="127.0.0.1",
                port=self.proxy.port,
                ssl=self.trusting,
                server_hostname=GW if self.trusting else None,
                additional_headers=headers,
                proxy=None,
                open_timeout=30,
                close_timeout=5,
            ):
                return 101
        except InvalidStatus as exc:
            return exc.response.status_code


@asynccontextmanager
async def line(
    it: Running, edit: Callable[[Request], Request], tls: tuple[ssl.SSLContext, ssl.SSLContext] | None
) -> AsyncIterator[Line]:
    proxy = Proxy(it.port, edit, tls=tls[0] if tls else None)
    async with proxy.listening():
        yield Line(proxy, tls[1] if tls else None)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    context, trusted = certificate(GW, tmp_path_factory.mktemp("tls"))
    return context, ssl.create_default_context(cafile=trusted)


def credentials(it: Running, carrier: str) -> Mapping[str, str]:
    web = it.accounts[carrier].web
    assert web is not None
    return web.credentials


async def all_arrives(it: Running, to: Line, base: str) -> None:
    """Every request of every carrier is answered, with media URLs of this front; the last one's socket is let in."""
    for carrier, requests in CARRIERS.items():
        own, url = credentials(it, carrier), ""
        for sent in requests(own, base, new_call(carrier)):
            status, body = await to.send(sent)
            assert status == sent.authentic, (carrier, sent.method, sent.url)
            if "/answer" in sent.url:
                url = media_url(carrier, body)
                here = base.replace("http", "ws", 1).removesuffix(":443")  # which goes without saying
                assert url.replace(":443", "").startswith(f"{here}/{carrier}/media/"), (carrier, url)
        if carrier == "twilio":
            assert await to.open(url, handshake(carrier, own, url + "x")) == 403
        assert await to.open(url, handshake(carrier, own, url)) == 101, carrier


# ---------------------------------------------------------------- what is taken


@pytest.mark.parametrize("name", [*FRONTS, "prefix left"])
def test_the_public_url_is_told(name: str, tmp_path: Path, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """By `public_url`: nothing that stands in the request counts."""
    front = FRONTS.get(name, LEFT)

    async def main() -> None:
        lines = f'public_url = "{front.setting or front.url}"'
        async with (
            running(tmp_path, account=LEFT_ALONE, carriers=SIGNING, gateway=lines) as it,
            line(it, lying(front), tls if front.tls else None) as to,
        ):
            await all_arrives(it, to, front.url)

    run(main())


def test_trusted_proxies_tell_it(tmp_path: Path, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def main() -> None:
        async with running(
            tmp_path, account=LEFT_ALONE, carriers=SIGNING, gateway='trusted_proxies = ["127.0.0.1"]'
        ) as it:
            for front in FRONTS.values():
                async with line(it, telling(front), tls if front.tls else None) as to:
                    await all_arrives(it, to, front.url)

    run(main())


def test_nobody_else_tells_it(tmp_path: Path, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Whoever is not trusted cannot choose the URL over which a signature counts."""

    async def main() -> None:
        async with running(
            tmp_path, account=LEFT_ALONE, carriers=SIGNING, gateway='trusted_proxies = ["10.0.0.0/8"]'
        ) as it:
            for front in FRONTS.values():
                if not front.tls:
                    continue
                async with line(it, telling(front), tls) as to:
                    for carrier, requests in CARRIERS.items():
                        sent = next(requests(credentials(it, carrier), front.url, new_call(carrier)))
                        status, body = await to.send(sent)
                        if carrier in URL_IS_SIGNED:
                            assert (status, body) == (403, b""), carrier
                        else:
                            # The body alone is signed. What we give out is made of the request's own Host.
                            assert status == 200
                            assert media_url(carrier, body).startswith("ws://")
                            assert "evil" not in media_url(carrier, body)

    run(main())


# ---------------------------------------------------------------- what is refused


def changed(sent: Sent, at_most: int) -> Iterator[tuple[str, Sent]]:
    """The request with one byte changed, at places spread over each part that the signature covers."""
    for part in sent.covered:
        if part == "body":
            for at in spread(len(sent.body), at_most):
                body = bytearray(sent.body)
                body[at] ^= 1
                yield f"body {at}", replace(sent, body=bytes(body))
        elif part == "query":
            start = sent.url.index("?") + 1
            for at in spread(len(sent.url) - start, at_most):
                yield f"query {at}", replace(sent, url=flipped(sent.url, start + at))
        else:
            value = sent.headers[part]
            start = len("Bearer ") if value.startswith("Bearer ") else 0
            for at in spread(len(value) - start, at_most):
                yield f"{part} {at}", replace(sent, headers={**sent.headers, part: flipped(value, start + at)})


def spread(size: int, at_most: int) -> Sequence[int]:
    """Places in `size` bytes; the first and the last ones always."""
    if size <= at_most:
        return range(size)
    return sorted({*range(0, size, -(-size // at_most)), size - 3, size - 2, size - 1})


def flipped(text: str, at: int) -> str:
    return text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]


def respelled(value: str) -> Iterator[str]:
    """Other spellings of a base64 text that forgiving decoders take for the same bytes."""
    plain = value.rstrip("=")
    yield f"{value}="
    yield value[:8] + " " + value[8:]
    yield f"{value[:8]}\\{value[8:]}"
    if plain != value:
        yield plain
        loose = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        yield plain[:-1] + loose[loose.index(plain[-1]) + 1] + value[len(plain) :]
    if "+" in value or "/" in value:
        yield value.replace("+", "-").replace("/", "_")


SIGNATURE = {
    "twilio": "X-Twilio-Signature",
    "telnyx": "Telnyx-Signature-Ed25519",
    "plivo": "X-Plivo-Signature-V3",
    "vonage": "Authorization",
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_one_byte_of_what_was_signed_is_changed_on_the_way(carrier: str, tmp_path: Path) -> None:
    async def main() -> None:
        base = f"http://{GW}/voice"
        async with (
            running(tmp_path, carriers=(carrier,), gateway=f'public_url = "{base}"') as it,
            line(it, off("/voice"), None) as to,
        ):
            own = credentials(it, carrier)
            refused = 0
            for sent in list(CARRIERS[carrier](own, base, new_call(carrier))):
                # 400 is for a form that has no reading any more.
                forged = {400, 401, 403} - {sent.authentic}
                for what, other in changed(sent, 16):
                    status, body = await to.send(other)
                    assert status in forged, (what, other.url)
                    assert body == b""
                    refused += 1
                name = SIGNATURE[carrier]
                for value in respelled(sent.headers[name]):
                    status, _ = await to.send(replace(sent, headers={**sent.headers, name: value}))
                    assert status in forged, value
                    refused += 1
            # None of them has become a call, and each was counted.
            assert not it.gateway.metrics.answered
            counted = sum(
                count
                for (which, _, result), count in it.gateway.metrics.webhooks.items()
                if which == carrier and result != "answered"
            )
            assert counted == refused > 60

    run(main())


def test_another_host_or_path_than_was_signed(tmp_path: Path) -> None:
    """The URL's own bytes, where the request says them: Host, path, scheme."""

    async def main() -> None:
        async with running(tmp_path, carriers=("twilio", "plivo")) as it, line(it, as_it_came, None) as to:
            base = f"http://{GW}:8080"
            for carrier in ("twilio", "plivo"):
                own = credentials(it, carrier)
                sent = next(CARRIERS[carrier](own, base, new_call(carrier)))
                parts = urlsplit(sent.url)
                host = [flipped(GW, at) for at in range(len(GW)) if GW[at] != "."]
                for url in [
                    *(sent.url.replace(GW, each) for each in host),
                    sent.url.replace(":8080", ":8081"),
                    sent.url + "/",
                    sent.url + "?a=1",
                    sent.url.replace(parts.path, parts.path.replace("answer", "status")),
                    sent.url.replace("answer", "%61nswer"),
                ]:
                    assert (await to.send(replace(sent, url=url)))[0] == 403, url
                signed_as_https = next(CARRIERS[carrier](own, base.replace("http", "https"), new_call(carrier)))
                assert (await to.send(replace(signed_as_https, url=sent.url)))[0] == 403
                assert (await to.send(sent))[0] == 200

    run(main())


def test_what_was_taken_once_is_not_taken_elsewhere(tmp_path: Path) -> None:
    """Where a signature has a time, a nonce or a name, it is good for one delivery; the same one again is a retry."""

    async def main() -> None:
        base = f"http://{GW}"
        async with (
            running(tmp_path, carriers=("telnyx", "plivo", "vonage"), gateway=f'public_url = "{base}"') as it,
            line(it, as_it_came, None) as to,
        ):
            for carrier in ("telnyx", "plivo", "vonage"):
                sent = next(CARRIERS[carrier](credentials(it, carrier), base, new_call(carrier)))
                assert (await to.send(sent))[0] == 200
                assert (await to.send(sent))[0] == 200
                elsewhere = replace(sent, url=sent.url.replace("/answer", "/status"))
                assert (await to.send(elsewhere))[0] in (401, 403), carrier

    run(main())
