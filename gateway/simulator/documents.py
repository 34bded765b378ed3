"""Answer documents in XML, read as strictly as a carrier that rejects what it does not know."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from gateway.simulator.web import FakeWeb, Reply

XML = ("application/xml", "text/xml")


@dataclass(frozen=True, slots=True)
class Verb:
    """What one element may have."""

    attributes: Collection[str] = ()
    nouns: Collection[str] = ()  # elements inside


Verbs = Mapping[str, Verb]


def read_document(web: FakeWeb, reply: Reply, verbs: Verbs, rule: str, *, largest: int = 100_000) -> Sequence[Element]:
    """The elements of the document in `reply`. Raises ProtocolViolation of `rule`."""
    if reply.media_type not in XML:
        web.violate(rule, f"Content-Type {reply.media_type[:40]!r}")
    if len(reply.body) > largest:
        web.violate(rule, f"{len(reply.body)} bytes")
    return read_elements(web, reply.body.decode("utf-8", "replace"), verbs, rule)


def read_elements(web: FakeWeb, text: str, verbs: Verbs, rule: str) -> Sequence[Element]:
    """The elements of a document. Raises ProtocolViolation of `rule`."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as exc:
        web.violate(rule, f"not XML: {exc}")
    if root.tag != "Response" or root.attrib:
        web.violate(rule, f"<{root.tag[:20]}> with {len(root.attrib)} attributes, not <Response>")
    for element in root:
        _check(web, element, verbs, verbs, rule)
    return list(root)


def _check(web: FakeWeb, element: Element, known: Collection[str], verbs: Verbs, rule: str) -> None:
    verb = verbs.get(element.tag)
    if verb is None or element.tag not in known:
        web.violate(rule, f"unknown element <{element.tag[:20]}>")
    if unknown := sorted(element.attrib.keys() - set(verb.attributes)):
        web.violate(rule, f"<{element.tag}> has no attribute {', '.join(unknown)[:60]}")
    for child in element:
        _check(web, child, verb.nouns, verbs, rule)


def content(element: Element) -> str:
    return (element.text or "").strip()
