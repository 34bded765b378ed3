from __future__ import annotations

from typing import Any

import pytest

from gateway.public_url import Addressing, networks


def scope(
    path: str = "/twilio/answer",
    *,
    host: str = "10.0.0.5:8080",
    query: str = "",
    kind: str = "http",
    client: str = "203.0.113.9",
    scheme: str = "",
    **forwarded: str,
) -> dict[str, Any]:
    headers = [(b"host", host.encode())]
    headers += [(f"x-forwarded-{name}".encode(), value.encode()) for name, value in forwarded.items()]
    return {
        "type": kind,
        "scheme": scheme or ("ws" if kind == "websocket" else "http"),
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": headers,
        "client": (client, 4711),
    }


PROXY = networks(["10.0.0.0/8", "::1"])


@pytest.mark.parametrize(
    ("public_url", "request_scope", "url"),
    [
        ("https://gw.example.com", scope(), "https://gw.example.com/twilio/answer"),
        ("https://gw.example.com", scope(query="a=x%20b&a=+"), "https://gw.example.com/twilio/answer?a=x%20b&a=+"),
        ("https://gw.example.com:8443", scope(), "https://gw.example.com:8443/twilio/answer"),
        ("https://gw.example.com/tel", scope(), "https://gw.example.com/tel/twilio/answer"),
        ("https://gw.example.com/tel", scope("/tel/twilio/answer"), "https://gw.example.com/tel/twilio/answer"),
        ("https://gw.example.com/tel/", scope("/twilio/answer/"), "https://gw.example.com/tel/twilio/answer/"),
        ("https://gw.example.com", scope("/a%2Fb/%C3%A4"), "https://gw.example.com/a%2Fb/%C3%A4"),
        ("https://gw.example.com", scope(kind="websocket"), "wss://gw.example.com/twilio/answer"),
        ("http://gw.example.com", scope(kind="websocket"), "ws://gw.example.com/twilio/answer"),
        ("", scope(), "http://10.0.0.5:8080/twilio/answer"),
        ("", scope(host="gw.example.com:80"), "http://gw.example.com/twilio/answer"),
        ("", scope(host="gw.example.com:443", scheme="https"), "https://gw.example.com/twilio/answer"),
    ],
)
def test_the_url_that_the_carrier_used(public_url: str, request_scope: dict[str, Any], url: str) -> None:
    assert Addressing(public_url).url(request_scope) == url


@pytest.mark.parametrize(
    ("request_scope", "url"),
    [
        (scope(client="10.0.0.2", proto="https", host="gw.example.com"), "https://gw.example.com/twilio/answer"),
        (
            scope(client="10.0.0.2", proto="https", port="8443", host="gw.example.com"),
            "https://gw.example.com:8443/twilio/answer",
        ),
        (
            scope(client="10.0.0.2", proto="https", port="443", prefix="/tel", host="gw.example.com"),
            "https://gw.example.com/tel/twilio/answer",
        ),
        (scope(client="::1", proto="https", kind="websocket", host="h"), "wss://h/twilio/answer"),
        (scope(client="::ffff:10.0.0.2", proto="https", host="h"), "https://h/twilio/answer"),
        # nobody else's word counts
        (scope(client="203.0.113.9", proto="https", host="10.0.0.5:8080"), "http://10.0.0.5:8080/twilio/answer"),
    ],
)
def test_trusted_proxies(request_scope: dict[str, Any], url: str) -> None:
    # `host=` of scope() is the Host header; x-forwarded-host is tested below
    assert Addressing("", PROXY).url(request_scope) == url


def test_the_nearest_proxy_has_the_last_word() -> None:
    request = scope(client="10.0.0.2", host="inner:8080")
    request["headers"] += [
        (b"x-forwarded-host", b"evil.example, gw.example.com"),
        (b"x-forwarded-proto", b"http, https"),
    ]
    assert Addressing("", PROXY).url(request) == "https://gw.example.com/twilio/answer"


@pytest.mark.parametrize(
    ("client", "forwarded", "peer"),
    [
        ("203.0.113.9", "1.2.3.4", "203.0.113.9"),
        ("10.0.0.2", "1.2.3.4", "1.2.3.4"),
        ("10.0.0.2", "6.6.6.6, 1.2.3.4, 10.0.0.3", "1.2.3.4"),
        ("10.0.0.2", "", "10.0.0.2"),
        ("10.0.0.2", "1.2.3.4:5555", "1.2.3.4"),
        ("10.0.0.2", "[2001:db8::1]", "2001:db8::1"),
    ],
)
def test_who_asks(client: str, forwarded: str, peer: str) -> None:
    request = scope(client=client)
    if forwarded:
        request["headers"].append((b"x-forwarded-for", forwarded.encode()))
    assert Addressing("", PROXY).peer(request) == peer


def test_urls_that_we_give_out() -> None:
    assert Addressing("https://gw.example.com/tel/").base(scope()) == "https://gw.example.com/tel"
    assert Addressing("").base(scope(kind="websocket", host="h:8080")) == "http://h:8080"
