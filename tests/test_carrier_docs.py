"""What the documents say of carriers, settings, the API and events is what the program does."""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from gateway.registry import carrier_names
from gateway.settings import parse_settings
from gateway.settings_table import renewed
from gateway.simulator.vonage_tokens import made_up_key
from tests.endtoend.served import run
from tests.gateway.rig import running

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
WITH_TABLES = sorted(path for path in DOCS.rglob("*.md") if "<!-- settings: " in path.read_text())


def section(text: str, name: str) -> str:
    """What stands between the marks of `name`."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end of", text, re.S)
    assert found is not None, name
    return found[1]


def first_column(table: str) -> list[str]:
    return [line.split("|")[1] for line in table.splitlines()[2:]]


# ---------------------------------------------------------------- settings


def test_every_carrier_has_a_page_with_its_settings() -> None:
    pages = {path.stem for path in (DOCS / "carriers").glob("*.md")} - {"README"}
    assert pages == set(carrier_names())
    for name in pages:
        assert f"<!-- settings: carriers.{name} -->" in (DOCS / "carriers" / f"{name}.md").read_text()


@pytest.mark.parametrize("document", WITH_TABLES, ids=lambda path: path.name)
def test_tables_of_settings_are_those_of_the_dataclasses(document: Path) -> None:
    text = document.read_text()
    assert text == renewed(text), f"run: python -m gateway.settings_table {document.relative_to(ROOT)}"


CONFIGURING = [ROOT / "README.md", *(DOCS / f"{name}.md" for name in ("configuration", "going-live", "api", "events"))]


@pytest.mark.parametrize("document", [*CONFIGURING, *(DOCS / "carriers").glob("*.md")], ids=lambda path: path.name)
def test_configurations_are_ones(document: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for text in re.findall(r"^ *```toml\n(.*?)^ *```", document.read_text(), re.S | re.M):
        for name in re.findall(r'env = "(\w+)"', text):
            monkeypatch.setenv(name, "c2VjcmV0LXRoYXQtaXMtYmFzZTY0LWFuZC1sb25n")
        for name in re.findall(r'file = "([\w.]+)"', text):
            (tmp_path / name).write_text(made_up_key())
        table = tomllib.loads(text)
        # A page shows the part that it is about.
        bots = {entry["bot"] for entry in table.get("numbers", {}).values()} | {"reception"}
        table.setdefault("bots", {name: {"use": "echo"} for name in bots})
        settings = parse_settings(table, tmp_path)
        assert not settings.carriers_off


# ---------------------------------------------------------------- reasons


def reasons(tree: ast.AST) -> Iterator[str]:
    """The reasons with which requests are refused, as they stand in the source of a carrier's webhooks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            at = {"_refused": 0, "refused": 0, "NotAuthentic": 1}.get(name)
            if at is not None and len(node.args) > at:
                yield from _texts(node.args[at])
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = {target.id for target in targets if isinstance(target, ast.Name)}
            if named & {"_REASONS", "reason"} and node.value is not None:
                yield from _texts(node.value)


def _texts(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may come to."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
    elif isinstance(node, ast.Dict):
        for value in node.values:
            yield from _texts(value)


@pytest.mark.parametrize("carrier", carrier_names())
def test_every_reason_is_explained_and_no_other(carrier: str) -> None:
    sources = [*(ROOT / "webhooks").glob(f"{carrier}.py"), *(ROOT / "webhooks").glob(f"{carrier}_*.py")]
    known = {reason for path in sources for reason in reasons(ast.parse(path.read_text()))}
    page = (DOCS / "carriers" / f"{carrier}.md").read_text()
    explained = [name.strip(" `") for name in first_column(section(page, f"reasons: {carrier}"))]
    assert sorted(explained) == sorted(known)


def test_every_finding_of_the_doctor_is_explained_and_no_other() -> None:
    known: set[str] = set()
    for path in (ROOT / "gateway" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = [keyword.value for keyword in node.keywords if keyword.arg == "code" and name == "Finding"]
            place = {("judge", "_failure"): 1, ("way", "_failure"): 0, ("examine", "_failure"): 0}.get(
                (path.stem, name)
            )
            place = 2 if name == "_say" else place
            if place is not None:
                given.append(node.args[place])
            known |= {text for one in given for text in _texts(one)}
    source = (ROOT / "gateway" / "doctor" / "way.py").read_text()
    known |= set(re.findall(r'\d+: \("([\w-]+)"', source))
    page = section((DOCS / "going-live.md").read_text(), "findings")
    explained = {code for cell in first_column(page) for code in re.findall(r"`([\w.-]+)`", cell)}
    assert explained - {"refused-..."} == known


# ---------------------------------------------------------------- the API and events


def commands(document: Path) -> Iterator[list[str]]:
    """The curl commands of a document."""
    for text in re.findall(r"```sh\n(.*?)```", document.read_text(), re.S):
        lines = [line for line in text.splitlines() if not re.match(r"\w+=", line)]
        for command in re.split(r"\n(?=curl)", "\n".join(lines)):
            if command.startswith("curl"):
                yield shlex.split(command, comments=True)


def test_the_examples_of_the_api_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPERATORS_API_TOKEN", "a token")
    found = list(commands(DOCS / "api.md"))
    assert len(found) == 10

    async def main() -> None:
        more = '[bots.reminder]\nuse = "echo"\n[api.tokens.all]\nsecret = { env = "OPERATORS_API_TOKEN" }\n'
        more += 'scopes = ["read", "control", "dial", "admin"]\n'
        async with running(tmp_path, more=more) as it, it.client("a token") as api:
            for words in found:
                rest = iter(words[1:])
                method, body, url = "GET", None, ""
                for word in rest:
                    if word == "--json":
                        method, body = "POST", json.loads(next(rest))
                    elif word == "-X":
                        method = next(rest)
                    elif word == "-H":
                        assert next(rest) == "$AUTH"
                    else:
                        url = word.replace("$CALL", "$GATEWAY/api/calls/twilio/CA00000000000000000000000000000001")
                assert url.startswith("$GATEWAY/api/")
                parts = urlsplit(url.replace("$GATEWAY/api", ""))
                query: Any = parse_qsl(parts.query)
                reply = await api.request(method, parts.path, params=query, json=body)
                unknown = reply.status_code == 404 and "CA0000" in reply.json()["detail"]
                assert reply.status_code in (200, 201, 202) or unknown, (words, reply.status_code, reply.text)

    run(main())


def test_the_example_that_verifies_events() -> None:
    text = (DOCS / "events.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    (secret, event_id, timestamp, body, signature) = re.findall(
        r"secret `(.*?)`, the id `(.*?)`, the timestamp `(.*?)` and the\s+body `(.*?)` the signature is `(.*?)`", text
    )[0]
    names: dict[str, Any] = {}
    exec(compile(code, "events.md", "exec"), names)
    headers = {"webhook-id": event_id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,other {signature}"}
    names["verify"](secret.encode(), headers, body.encode(), now=int(timestamp) + 10)
    for wrong in (
        (secret + "x", headers, body, 10),
        (secret, headers, body + " ", 10),
        (secret, {**headers, "webhook-id": "evt_2"}, body, 10),
        (secret, headers, body, 400),
    ):
        with pytest.raises(ValueError):
            names["verify"](wrong[0].encode(), wrong[1], wrong[2].encode(), now=int(timestamp) + wrong[3])


def test_kinds_and_fields_of_events() -> None:
    from gateway.event_settings import KINDS

    text = (DOCS / "events.md").read_text()
    assert [name.strip(" `") for name in re.findall(r"^\| (`call\.\w+`) \|", text, re.M)] == list(KINDS)
    (example,) = re.findall(r"```json\n(.*?)```", text, re.S)
    assert set(json.loads(example)) == {"id", "kind", "time", "call", "parameters"}
