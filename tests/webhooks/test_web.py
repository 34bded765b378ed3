"""Who may ask for a call from the web: what stands in the headers is anybody's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhooks.base import NotAuthentic, WebRequest
from webhooks.web import WebHttp, WebSettings

ODD = ("http://[", "http://[::1", "http://a]b", "//", "http://", "http://\u2100", "http://:99999999")


def request(host: str = "127.0.0.1:8080", origin: str = "", peer: str = "127.0.0.1") -> WebRequest:
    headers = {"origin": origin} if origin else {}
    return WebRequest(method="POST", url=f"http://{host}/start", headers=headers, peer=peer)


def taken(http: WebHttp, asked: WebRequest) -> bool:
    try:
        http.authenticate("start", asked)
    except NotAuthentic:
        return False
    return True


def test_this_machine_gets_in() -> None:
    http = WebHttp(WebSettings())
    for asked in (request(), request("localhost:8080"), request("[::1]:8080", peer="::1")):
        assert taken(http, asked)
    assert taken(http, request(origin="http://127.0.0.1:5173"))
    assert not taken(http, request("gw.example.com"))
    assert not taken(http, request(peer="203.0.113.7"))


@pytest.mark.parametrize("odd", ODD)
def test_an_origin_that_is_none_is_another_site(odd: str) -> None:
    http = WebHttp(WebSettings(public=True))
    assert not http.may_read(request(origin=odd))
    assert not taken(http, request(origin=odd))


@pytest.mark.parametrize("host", [odd.removeprefix("http://") for odd in ODD] + [""])
def test_a_host_that_is_none_is_not_this_machine(host: str) -> None:
    assert not taken(WebHttp(WebSettings()), request(host))
    assert not taken(WebHttp(WebSettings(public=True)), request(host, origin="https://www.example.com"))


@given(st.text(max_size=20), st.text(max_size=20), st.booleans())
def test_whatever_stands_in_the_headers_is_taken_or_refused(host: str, origin: str, public: bool) -> None:
    taken(WebHttp(WebSettings(public=public)), request(host, f"http://{origin}"))
