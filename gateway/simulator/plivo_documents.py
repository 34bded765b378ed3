"""What the fake Plivo takes as an answer document.

Source: Plivo docs, "Plivo XML"; the error numbers are those of its console.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from gateway.simulator.documents import Verb, content
from gateway.simulator.web import FakeWeb, WebCall

DOCUMENT = "8011: the answer must be a Plivo XML document"
STREAM_URL = "8011: a stream's URL is the text of the element, wss:// with at most 2048 characters"
KEEP = '8011: keepCallAlive="true" with bidirectional="true": else the call ends as soon as the stream has begun (4010)'
HEADERS = "extraHeaders has 512 bytes at most, names and values of letters and digits"

VERBS: Mapping[str, Verb] = {
    "Stream": Verb(
        (
            *("bidirectional", "audioTrack", "streamTimeout", "statusCallbackUrl", "statusCallbackMethod"),
            *("contentType", "extraHeaders", "keepCallAlive", "noiseCancellation", "noiseCancellationLevel"),
        )
    ),
    "Dial": Verb(("callerId", "callerName", "timeout", "timeLimit", "action", "method"), ("Number", "User")),
    "Number": Verb(("sendDigits",)),
    "User": Verb(("sendDigits", "sipHeaders")),
    "Hangup": Verb(("reason", "schedule")),
    "Redirect": Verb(("method",)),
    "Speak": Verb(("voice", "language", "loop")),
    "Wait": Verb(("length", "silence", "minSilence")),
}
CONTENT_TYPES: Mapping[str, tuple[str, int]] = {
    "audio/x-mulaw;rate=8000": ("PCMU", 8000),
    "audio/x-l16;rate=8000": ("L16", 8000),
    "audio/x-l16;rate=16000": ("L16", 16000),
}
_HEADERS = re.compile(r"[A-Za-z0-9]+=[A-Za-z0-9]+(,[A-Za-z0-9]+=[A-Za-z0-9]+)*")


def checked(web: FakeWeb, call: WebCall, elements: Sequence[Element]) -> list[Element]:
    """The elements of a document for `call`. Raises ProtocolViolation for what Plivo would not run."""
    for verb in elements:
        match verb.tag:
            case "Stream":
                _check_stream(web, verb)
            case "Hangup" if verb.get("reason") is not None:
                if verb.get("reason") not in ("busy", "rejected") or len(elements) != 1:
                    web.violate(DOCUMENT, "<Hangup reason> is busy or rejected, and stands alone")
                if call.answered_at is not None:
                    web.violate(DOCUMENT, "<Hangup reason> is for calls that ring")
            case "Dial" if not len(verb) or not all(content(noun) for noun in verb):
                web.violate(DOCUMENT, "<Dial> has nobody to call")
            case "Redirect":
                web.check_public_url(content(verb), ("https",), DOCUMENT)
    if sum(verb.tag == "Stream" for verb in elements) > 1:
        web.violate("one stream per call")
    return list(elements)


def _check_stream(web: FakeWeb, stream: Element) -> None:
    url = content(stream)
    web.check_public_url(url, ("wss",), STREAM_URL)
    if len(url) > 2048 or stream.text != url:
        web.violate(STREAM_URL, f"{len(stream.text or '')} characters")
    for name in ("bidirectional", "keepCallAlive"):
        if stream.get(name) != "true":
            web.violate(KEEP, f"{name}={stream.get(name, 'absent')[:10]}")
    if stream.get("audioTrack", "inbound") != "inbound":
        web.violate(DOCUMENT, "the audioTrack of a bidirectional stream is inbound")
    if stream.get("contentType") not in CONTENT_TYPES:
        web.violate(DOCUMENT, "contentType is one of " + ", ".join(CONTENT_TYPES))
    if (extra := stream.get("extraHeaders")) is not None and (len(extra) > 512 or not _HEADERS.fullmatch(extra)):
        web.violate(HEADERS, f"{len(extra)} characters")
    if (callback := stream.get("statusCallbackUrl")) is not None:
        web.check_public_url(callback, ("https",), DOCUMENT)
    if stream.get("statusCallbackMethod", "POST") not in ("GET", "POST"):
        web.violate(DOCUMENT, "statusCallbackMethod is GET or POST")
