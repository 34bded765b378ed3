"""Executing a CarrierRequest as the gateway does, for tests of what exactly goes over the wire."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from urllib.parse import urlencode

import httpx

from webhooks.base import CarrierRequest, HttpAnswer


def send(request: CarrierRequest, now: float = 1767225600.0) -> httpx.Response:
    headers = {**request.headers, **request.authorize(now)}
    content = None
    if request.form is not None:
        content = urlencode(list(request.form)).encode()
        headers["content-type"] = "application/x-www-form-urlencoded"
    with httpx.Client(trust_env=False, timeout=request.timeout_s) as http:
        return http.request(request.method, request.url, headers=headers, json=request.json, content=content)


def document(answer: HttpAnswer | None) -> ET.Element:
    """The XML of an answer that a carrier would take as one."""
    assert answer is not None
    assert answer.status == 200
    assert answer.content_type.partition(";")[0] in ("application/xml", "text/xml")
    root = ET.fromstring(answer.body)
    assert root.tag == "Response"
    return root


def outline(element: ET.Element) -> str:
    """ "Response(Dial(Number=+1...))": elements and texts, without attributes."""
    inner = ", ".join(outline(child) for child in element)
    return element.tag + (f"={element.text}" if element.text else "") + (f"({inner})" if inner else "")
