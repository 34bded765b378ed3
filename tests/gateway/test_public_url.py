from __future__ import annotations

from typing import Any

import pytest

from gateway.public_url import Addressing, is_loopback_host, is_loopback_url, networks


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
        (scope(client="10.0.0.2", proto="HTTPS", host="gw.example.com"), "https://gw.example.com/twilio/answer"),
        (scope(client="10.0.0.2", proto="wss", kind="websocket", host="h"), "wss://h/twilio/answer"),
        # a proxy that speaks TLS to us, and not to the carrier
        (scope(client="10.0.0.2", proto="http", scheme="https", host="h:80"), "http://h/twilio/answer"),
        (scope(client="10.0.0.2", proto="ws", scheme="wss", kind="websocket", host="h"), "ws://h/twilio/answer"),
        (scope(client="10.0.0.2", proto="gopher", scheme="https", host="h"), "https://h/twilio/answer"),
        (scope(client="10.0.0.2", port="8443", proto="https", host="[::1]"), "https://[::1]:8443/twilio/answer"),
        (scope(client="10.0.0.2", port="8443", proto="https", host="h:9443"), "https://h:9443/twilio/answer"),
        # a prefix that the proxy took off stands before the path again, one that it left is there already
        (scope("/a", client="10.0.0.2", prefix="/tel/", host="h"), "http://h/tel/a"),
        (scope("/tel/a", client="10.0.0.2", prefix="/tel", host="h"), "http://h/tel/a"),
        (scope("/telephone", client="10.0.0.2", prefix="/tel", host="h"), "http://h/tel/telephone"),
        # nobody else's word counts
        (scope(client="", proto="https", host="h"), "http://h/twilio/answer"),
        (scope(client="unix:", proto="https", host="h"), "http://h/twilio/answer"),
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
        ("10.0.0.2", "[2001:db8::1]:5555", "2001:db8::1"),
        ("10.0.0.2", "2001:db8::1, ::1", "2001:db8::1"),
        ("10.0.0.2", "10.0.0.4, 10.0.0.3", "10.0.0.4"),  # nobody but proxies: the farthest
        ("10.0.0.2", "unknown", "unknown"),
    ],
)
def test_who_asks(client: str, forwarded: str, peer: str) -> None:
    request = scope(client=client)
    if forwarded:
        request["headers"].append((b"x-forwarded-for", forwarded.encode()))
    assert Addressing("", PROXY).peer(request) == peer


def test_a_request_of_which_no_address_is_known_is_of_no_proxy() -> None:
    request = {**scope(proto="https", host="h"), "client": None}
    assert Addressing("", PROXY).url(request) == "http://h/twilio/answer"
    assert Addressing("", PROXY).peer(request) == ""


@pytest.mark.parametrize(
    ("host", "here"),
    [
        *(
            (host, True)
            for host in ("127.0.0.1", "127.0.0.1:80", "localhost", "LocalHost:8080", "[::1]", "[::1]:80", "::1")
        ),
        *((host, True) for host in ("127.1.2.3", "[::ffff:127.0.0.1]:80")),
        *(
            (host, False)
            for host in ("", "gw.example.com", "127.0.0.1.example.com", "10.0.0.1:80", "[::]", "localhost.x")
        ),
    ],
)
def test_hosts_that_are_this_machine(host: str, here: bool) -> None:
    assert is_loopback_host(host) is here
    assert is_loopback_url(f"http://{host}/x") is here


def test_urls_that_we_give_out() -> None:
    assert Addressing("https://gw.example.com/tel/").base(scope()) == "https://gw.example.com/tel"
    assert Addressing("https://gw.example.com/").base(scope()) == "https://gw.example.com"
    assert Addressing("https://gw.example.com/").prefix == ""
    secure = scope(kind="websocket", client="10.0.0.2", proto="https", prefix="tel", host="h:443")
    assert Addressing("", PROXY).base(secure) == "https://h/tel"
    assert Addressing("").base(scope(kind="websocket", host="h:8080")) == "http://h:8080"
