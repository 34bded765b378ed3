"""`gateway doctor` through a reverse proxy that breaks requests in every way that proxies do."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.doctor.examine import Examination
from gateway.doctor.judge import Finding
from gateway.doctor.passes import FIELD, HEADER, Passes
from gateway.settings import load_settings
from gateway.store import CallFilter
from tests.endtoend.served import run
from tests.gateway.certificates import certificate
from tests.gateway.proxy import Proxy, Request, answer
from tests.gateway.rig import Running, running

ALL = ("twilio", "telnyx", "plivo", "exotel", "vonage")
GENESYS = """
[carriers.genesys.keys.main]
api_key = { env = "TEST_GENESYS_KEY" }
client_secret = { env = "TEST_GENESYS_SECRET" }
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_GENESYS_KEY", "a-key")
    monkeypatch.setenv("TEST_GENESYS_SECRET", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlBQkNERUY=")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)


# ---------------------------------------------------------------- the ways in which things break


def moved(change: Callable[[str], str]) -> Callable[[Request], Request]:
    return lambda request: request.to(change(request.path))


def asked(change: Callable[[str], str]) -> Callable[[Request], Request]:
    return lambda request: request.to(request.path, change(request.query))


def sayings(change: Callable[[bytes], bytes]) -> Callable[[Request], Request]:
    return lambda request: request.saying(change(request.body)) if request.body else request


def upgrades(what: Callable[[Request], Request | str]) -> Callable[[Request], Request | str]:
    return lambda request: what(request) if request.is_upgrade else request


def webhooks(what: Callable[[Request], Request | str]) -> Callable[[Request], Request | str]:
    return lambda request: what(request) if request.path.endswith("/answer") else request


def without_traces(request: Request) -> Request:
    """Nothing is left by which the gateway could know the doctor."""
    body = request.body
    if f"&{FIELD}=".encode() in body:
        body = body.partition(f"&{FIELD}=".encode())[0]
    elif FIELD.encode() in body:
        said = json.loads(body)
        del said[FIELD]
        body = json.dumps(said).encode()
    path = request.path if "dr1." not in request.path else request.path.partition("dr1.")[0] + "x"
    query = "&".join(pair for pair in request.query.split("&") if FIELD not in pair)
    return request.without(HEADER).to(path, query).saying(body)


def stranger(request: Request) -> Request:
    """The same, once a webhook or a socket is asked for."""
    return without_traces(request) if "/answer" in request.path or "/media" in request.path else request


@dataclass(frozen=True, kw_only=True)
class Case:
    edit: Callable[[Request], Request | str] = lambda request: request
    failures: set[str] = field(default_factory=set)
    warnings: set[str] = field(default_factory=set)
    says: str = ""  # somewhere in what is said
    gateway: str = ""  # lines of [gateway]; <base> is the public URL
    path: str = ""  # of the public URL
    tls: bool = False
    carriers: Sequence[str] = ("twilio",)
    more: str = ""


REFUSED = "refused-bad-signature"
CASES: Mapping[str, Case] = {
    # nothing is wrong
    "good": Case(carriers=ALL, more=GENESYS),
    "good, public_url": Case(carriers=ALL, gateway='public_url = "<base>"', more=GENESYS),
    "good, TLS and public_url": Case(carriers=ALL, gateway='public_url = "<base>"', tls=True, more=GENESYS),
    "good, TLS and X-Forwarded-Proto": Case(
        edit=lambda request: request.having(x_forwarded_proto="https"),
        gateway='trusted_proxies = ["127.0.0.1"]',
        carriers=ALL,
        tls=True,
        more=GENESYS,
    ),
    "good, Host rewritten and public_url": Case(
        edit=lambda request: request.having(host="inner:8080"), gateway='public_url = "<base>"', carriers=ALL
    ),
    "good, prefix taken and public_url": Case(
        edit=moved(lambda path: path.removeprefix("/voice")),
        path="/voice",
        gateway='public_url = "<base>"',
        carriers=ALL,
    ),
    "good, prefix left and public_url": Case(path="/voice", gateway='public_url = "<base>"', carriers=ALL),
    "good, only carriers' paths let through": Case(
        edit=lambda request: request if request.path.startswith("/twilio/") else answer(404)
    ),
    # the address
    "scheme": Case(tls=True, failures={"scheme", REFUSED}, says="TLS ends at the proxy"),
    "host": Case(
        edit=lambda request: request.having(host="inner:8080"), failures={"host", REFUSED}, says="arrives as inner:8080"
    ),
    "port": Case(
        edit=lambda request: request.having(host="127.0.0.1"), failures={"port", REFUSED}, says="arrives as 80"
    ),
    "another public_url": Case(gateway='public_url = "https://old.example.com"', failures={"other-url", REFUSED}),
    "prefix taken": Case(
        edit=moved(lambda path: path.removeprefix("/voice")),
        path="/voice",
        failures={"prefix-taken", REFUSED},
        says="takes /voice off",
    ),
    "prefix left": Case(path="/voice", failures={"prefix-left", "not-routed"}),
    "prefix added": Case(
        edit=moved(lambda path: "/app" + path), failures={"prefix-added", "not-routed"}, says="puts /app before"
    ),
    "wrong prefix": Case(
        edit=lambda request: request if request.path.startswith("/gw") else answer(404, "no", server="proxy/1"),
        path="/voice",
        failures={"not-a-gateway"},
        says="proxy/1",
    ),
    "trailing slash": Case(
        edit=moved(lambda path: path.rstrip("/") + "/"), failures={"trailing-slash", "not-routed", REFUSED}
    ),
    "slash taken": Case(edit=moved(lambda path: path.rstrip("/")), warnings={"trailing-slash"}),
    "path decoded": Case(edit=moved(lambda path: path.replace("%2F", "/")), warnings={"path-encoding"}),
    "path encoded": Case(edit=moved(lambda path: path.replace("~", "%7E")), warnings={"path-encoding"}),
    "path in capitals": Case(edit=webhooks(moved(str.upper)), failures={"path-case", "not-routed"}),
    # the query
    "query dropped": Case(edit=asked(lambda query: ""), failures={"query-dropped", REFUSED}),
    "query encoded": Case(edit=asked(lambda query: query.replace("%20", "+")), failures={"query-encoding", REFUSED}),
    "query turned round": Case(
        edit=asked(lambda query: "&".join(reversed(query.split("&")))), failures={"query-order", REFUSED}
    ),
    "query added": Case(
        edit=lambda request: request.to(request.path, f"{request.query}&utm=1" if request.query else ""),
        failures={"query-added", REFUSED},
        says="utm",
    ),
    # the rest
    "method": Case(
        edit=webhooks(lambda request: Request("GET", request.target, request.headers)),
        failures={"method", "body-dropped", REFUSED},
    ),
    "body written anew": Case(
        edit=sayings(lambda body: json.dumps(json.loads(body), indent=1).encode()),
        carriers=("vonage",),
        failures={"body-rewritten", "refused-body-changed"},
        says="the same content",
    ),
    "form written anew": Case(edit=sayings(lambda body: body.replace(b"%2B", b"%2b")), warnings={"body-rewritten"}),
    "body cut": Case(edit=sayings(lambda body: body[:100]), failures={"body-cut", REFUSED}, says="100 arrive"),
    "body changed": Case(
        edit=sayings(lambda body: body.replace(b"15005550001", b"15005550002")), failures={"body", REFUSED}
    ),
    "signature dropped": Case(
        edit=lambda request: request.without("x-twilio-signature"),
        failures={"header-dropped", "refused-no-signature"},
        says="x-twilio-signature",
    ),
    "signature changed": Case(
        edit=lambda request: request.having(telnyx_timestamp="1767225600"),
        carriers=("telnyx",),
        failures={"header-changed", REFUSED},
        says="telnyx-timestamp",
    ),
    "unknown headers dropped": Case(edit=lambda request: request.without(HEADER), failures={"header-dropped"}),
    "headers and query dropped": Case(
        edit=lambda request: request.without(HEADER).to(request.path, ""),
        failures={"header-dropped", "query-dropped", REFUSED},
    ),
    "all traces of the doctor dropped": Case(
        edit=stranger, carriers=ALL, failures={"webhook-lost", "upgrade"}, says="HTTP 403", more=GENESYS
    ),
    # sockets
    "upgrade dropped": Case(
        edit=lambda request: request.without("upgrade", "connection"), failures={"upgrade"}, says="as a plain GET"
    ),
    "upgrade refused": Case(edit=upgrades(lambda request: answer(400)), failures={"upgrade"}, says="HTTP 400"),
    "upgrade redirected": Case(
        edit=upgrades(lambda request: answer(301, location="https://elsewhere")), failures={"upgrade"}, says="elsewhere"
    ),
    # somebody else answers
    "redirect": Case(
        edit=lambda request: answer(308, location="https://gw.example.com/"),
        failures={"redirect"},
        says="gw.example.com",
    ),
    "redirect of webhooks": Case(
        edit=webhooks(lambda request: answer(301, location=request.target + "/")), failures={"webhook-lost"}
    ),
    "login": Case(edit=lambda request: answer(401, www_authenticate="Basic"), failures={"login"}),
    "a page": Case(
        edit=lambda request: answer(200, "<html>", content_type="text/html"),
        failures={"not-a-gateway"},
        says="text/html",
    ),
    "gateway not reached": Case(edit=lambda request: answer(502), failures={"upstream"}),
}


async def examine(it: Running, base: str, **options: Any) -> list[Finding]:
    """Run the doctor with the gateway's own file, and be sure that it has left nothing."""
    options.setdefault("timeout_s", 5.0)
    settings = options.pop("settings", None) or load_settings(it.config)
    assert settings.gateway.secret is not None
    secret = options.pop("secret", settings.gateway.secret.reveal())
    examination = Examination(settings, secret, base, **options)
    await examination.run()
    assert (await it.gateway.store.records(CallFilter())).calls == []
    usage = await it.gateway.store.usage(time.time())
    assert (usage.reserved, usage.live) == (0, 0)
    assert not it.gateway.metrics.answered
    assert not it.gateway.metrics.started
    assert len(it.gateway.calls) == 0
    assert examination.ok is not any(finding.level == "failure" for finding in examination.findings)
    return examination.findings


def codes(findings: Sequence[Finding], level: str) -> set[str]:
    return {finding.code for finding in findings if finding.level == level}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    context = None
    if case.tls:
        context, trusted = certificate("127.0.0.1", tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))

    async def main() -> None:
        proxy = Proxy(edit=case.edit, tls=context)
        async with proxy.listening():
            base = f"{'https' if case.tls else 'http'}://127.0.0.1:{proxy.port}{case.path}"
            lines = case.gateway.replace("<base>", base)
            async with running(tmp_path, carriers=case.carriers, gateway=lines, more=case.more) as it:
                proxy.target = it.port
                findings = await examine(it, base)
        said = "\n".join(f"{each.level} {each.where} {each.code}: {each.says} ({each.remedy})" for each in findings)
        assert codes(findings, "failure") == case.failures, said
        unavoidable = {"private-address", "port-unusual"}  # on loopback
        assert codes(findings, "warning") - unavoidable == case.warnings, said
        assert case.says in said
        assert all(finding.remedy for finding in findings if finding.level == "failure"), said
        if not case.failures and not case.warnings:
            accounts = [*case.carriers, *(["genesys key main"] if case.more else [])]
            accepted = {finding.where for finding in findings if finding.code == "authentic"}
            expected = {f"{account} socket" for account in accounts}
            assert accepted == expected | {f"{carrier} webhook" for carrier in case.carriers}, said

    run(main())


# ---------------------------------------------------------------- clocks, credentials, certificates


def test_clocks(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, carriers=("telnyx",)) as it:
            for ahead_s, failures, warnings in ((400, {"clock", "refused-stale"}, set()), (-8, set(), {"clock"})):
                it.gateway.doctor._now = lambda ahead_s=ahead_s: time.time() + ahead_s  # type: ignore[misc]
                findings = await examine(it, it.url)
                assert codes(findings, "failure") == failures
                assert codes(findings, "warning") - {"private-address"} == warnings
                (clock,) = [finding for finding in findings if finding.code == "clock"]
                assert f"{abs(ahead_s)} s {'ahead of' if ahead_s > 0 else 'behind'}" in clock.says

    run(main())


def test_another_secret_of_the_carrier_or_of_the_gateway(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, carriers=("twilio", "vonage")) as it:
            (tmp_path / "twilio.auth_token").write_text("changed since the gateway was started")
            findings = await examine(it, it.url)
            assert codes(findings, "failure") == {"refused-bad-signature"}
            assert any("another secret" in finding.remedy for finding in findings)
            assert {finding.where for finding in findings if finding.code == "authentic"} == {
                "vonage webhook",
                "vonage socket",
            }
            proxy = Proxy(it.port, lambda request: request if request.path.startswith("/twilio/") else answer(404))
            async with proxy.listening():
                for url in (it.url, f"http://127.0.0.1:{proxy.port}"):
                    findings = await examine(it, url, secret="not the gateway's")
                    assert codes(findings, "failure") == {"secret"}

    run(main())


def test_a_carrier_that_is_off(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, carriers=("twilio",)) as it:
            text = it.config.read_text()
            it.config.write_text(text + '\n[carriers.exotel]\npath_token = { file = "twilio.auth_token" }\n')
            findings = await examine(it, it.url)
            assert codes(findings, "failure") == {"carrier-off-there"}
            it.config.write_text(text + '\n[carriers.exotel]\npath_token = { env = "TEST_NOT_SET" }\n')
            findings = await examine(it, it.url)
            assert codes(findings, "failure") == set()
            assert any("TEST_NOT_SET" in finding.says for finding in findings if finding.code == "carrier-off")
            findings = await examine(it, it.url, only=("plivo",))
            assert not {finding.where for finding in findings} - {"public URL"}

    run(main())


def test_what_the_doctor_cannot_show(tmp_path: Path) -> None:
    async def main() -> None:
        more = """
        [carriers.exotel]
        path_token = { file = "gateway.secret" }
        allowed_ips = ["203.0.113.0/24"]
        [carriers.plivo]
        verify_signatures = false
        """
        async with running(tmp_path, more=more) as it:
            findings = await examine(it, it.url)
            assert codes(findings, "failure") == set()
            assert {f.where for f in findings if f.code == "not-tried"} == {"exotel webhook", "exotel socket"}
            assert {f.where for f in findings if f.code == "not-verified"} == {"plivo webhook", "plivo socket"}

    run(main())


def test_each_carrier_that_cannot_open_a_socket_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        proxy = Proxy(edit=lambda request: request.without("upgrade", "connection"))
        async with proxy.listening(), running(tmp_path, carriers=("twilio", "telnyx", "plivo")) as it:
            proxy.target = it.port
            findings = await examine(it, f"http://127.0.0.1:{proxy.port}")
        remedies = {found.where: found.remedy for found in findings if found.code == "upgrade"}
        assert remedies.keys() == {"twilio socket", "telnyx socket", "plivo socket"}
        assert remedies["telnyx socket"] == remedies["plivo socket"] == "see above"
        assert "WebSockets" in remedies["twilio socket"]

    run(main())


def test_accounts_without_which_calls_cannot_be_ended(tmp_path: Path) -> None:
    """Each carrier's own, by the name of the setting, whether credentials are to be tried or not."""

    async def main() -> None:
        more = """
        [carriers.twilio]
        auth_token = { file = "gateway.secret" }
        [carriers.plivo]
        auth_token = { file = "gateway.secret" }
        [carriers.telnyx]
        public_key = "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
        [carriers.vonage]
        signature_secret = { file = "gateway.secret" }
        [carriers.exotel]
        path_token = { file = "gateway.secret" }
        """
        async with running(tmp_path, carriers=(), more=more) as it:
            for tried in (False, True):
                findings = await examine(it, it.url, with_credentials=tried)
                assert codes(findings, "failure") == set()
                said = {found.where: found.says for found in findings if found.code == "no-rest"}
                lacks = {where: says.partition(" is not")[0].partition(" are not")[0] for where, says in said.items()}
                assert lacks == {
                    "twilio REST": "account_sid",
                    "plivo REST": "auth_id",
                    "telnyx REST": "api_key",
                    "vonage REST": "application_id and private_key",
                }

    run(main())


def test_a_path_token_and_basic_of_exotel(tmp_path: Path) -> None:
    async def main() -> None:
        more = """
        [carriers.exotel]
        path_token = { file = "gateway.secret" }
        basic_user = "flow"
        basic_password = { file = "gateway.secret" }
        """
        async with running(tmp_path, more=more) as it:
            findings = await examine(it, it.url)
            assert codes(findings, "failure") == set()
            assert {"exotel webhook", "exotel socket"} <= {f.where for f in findings if f.code == "authentic"}

    run(main())


@pytest.mark.parametrize(
    ("name", "days", "trusted", "failures", "warnings"),
    [
        ("127.0.0.1", 90, True, set(), set()),
        ("127.0.0.1", 5, True, set(), {"tls-expires"}),
        ("127.0.0.1", -1, True, {"tls-expired"}, set()),
        ("127.0.0.1", 90, False, {"tls-self-signed"}, set()),
        ("other.test", 90, True, {"tls-name"}, set()),
    ],
)
def test_certificates(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    days: float,
    trusted: bool,
    failures: set[str],
    warnings: set[str],
) -> None:
    context, path = certificate(name, tmp_path, days=days)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))

    async def main() -> None:
        proxy = Proxy(tls=context)
        async with proxy.listening():
            base = f"https://127.0.0.1:{proxy.port}"
            async with running(tmp_path, gateway=f'public_url = "{base}"') as it:
                proxy.target = it.port
                findings = await examine(it, base)
        assert codes(findings, "failure") == failures
        assert codes(findings, "warning") - {"private-address", "port-unusual"} == warnings
        # What lies behind a bad certificate is looked at all the same.
        assert {f.where for f in findings if f.code == "authentic"} == {"twilio webhook", "twilio socket"}

    run(main())


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host).endswith(".test"):
            raise socket.gaierror(-2, "Name or service not known")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    async def main() -> None:
        async with running(tmp_path) as it:
            assert codes(await examine(it, "https://gw.test"), "failure") == {"dns"}
            with socket.socket() as nobody:
                nobody.bind(("127.0.0.1", 0))  # and does not listen
                url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
                assert codes(await examine(it, url), "failure") == {"connect"}
            findings = await examine(it, f"https://127.0.0.1:{it.port}", timeout_s=2.0)
            assert codes(findings, "failure") == {"tls"}
            assert any("does not speak TLS" in finding.says for finding in findings)

    asyncio.run(asyncio.wait_for(main(), 180))  # uvloop does not ask Python for addresses


def test_a_socket_that_is_silent_for_long(tmp_path: Path) -> None:
    async def main() -> None:
        proxy = Proxy(idle_s=0.3)
        async with proxy.listening(), running(tmp_path) as it:
            proxy.target = it.port
            base = f"http://127.0.0.1:{proxy.port}"
            assert codes(await examine(it, base), "failure") == set()
            findings = await examine(it, base, hold_s=1.0)
            assert codes(findings, "failure") == {"idle"}
            assert codes(await examine(it, it.url, hold_s=1.0), "failure") == set()

    run(main())


def test_credentials_are_tried_at_the_carriers(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, carriers=ALL, more=GENESYS) as it:
            findings = await examine(it, it.url, with_credentials=True)
            assert codes(findings, "failure") == set()
            assert {f.where for f in findings if f.code == "credentials"} == {f"{name} REST" for name in ALL}
            assert {f.where for f in findings if f.code == "not-tried"} == {"genesys REST"}
            (tmp_path / "plivo.auth_token").write_text("another")
            findings = await examine(it, it.url, with_credentials=True, only=("plivo",))
            assert codes(findings, "failure") == {"refused-bad-signature", "credentials"}

    run(main())


# ---------------------------------------------------------------- strangers


def test_strangers_notice_nothing(tmp_path: Path) -> None:
    """A pass that is not the gateway's, or not of now, changes nothing in any answer."""

    async def main() -> None:
        async with running(tmp_path) as it:
            assert it.gateway.settings.gateway.secret is not None
            own = it.gateway.settings.gateway.secret.reveal()
            passes = [
                Passes("a stranger's").issue(),
                Passes(own, now=lambda: time.time() - 700).issue(),
                Passes(own, now=lambda: time.time() + 700).issue(),
                Passes(own).issue()[:-3] + "AAA",
                "dr1." + "A" * 100,
                "dr1.",
                "",
            ]
            async with httpx.AsyncClient(base_url=it.url, trust_env=False) as http:

                async def told(method: str, path: str, **more: Any) -> tuple[Any, ...]:
                    reply = await http.request(method, path, **more)
                    assert HEADER not in reply.headers
                    names = sorted(name for name in reply.headers if name != "date")
                    return reply.status_code, reply.content, names

                for method, path in (
                    ("GET", "/doctor"),
                    ("GET", "/health"),
                    ("POST", "/twilio/answer"),
                    ("GET", "/x/y/z"),
                ):
                    usual = await told(method, path)
                    for each in passes:
                        assert await told(method, path, headers={HEADER: each}) == usual
                        assert await told(method, path, params={FIELD: each}) == usual
                        if method == "POST":
                            assert await told(method, path, data={FIELD: each}) == usual
                reply = await http.get("/doctor", headers={HEADER: Passes(own).issue()})
                assert reply.json()["authentic"] == {"result": "not-asked"}

    run(main())


def test_a_pass_is_found_in_any_place_and_only_whole() -> None:
    passes = Passes("secret")
    visit = passes.issue({"public_key": "key"})
    assert len(visit) < 300
    for text in (visit, f"a=b&{FIELD}={visit}&c=d", f'{{"{FIELD}": "{visit}"}}', f"/twilio/media/{visit}"):
        shown = passes.read(text.encode())
        assert shown is not None
        assert shown.overrides == {"public_key": "key"}
    assert passes.read(visit[:-1].encode()) is None
    assert passes.read(visit.replace("dr1", "dr2").encode()) is None
    assert Passes("another").read(visit.encode()) is None
    assert passes.issue() != passes.issue()


def test_overrides_change_no_secret_and_only_for_the_visit(tmp_path: Path) -> None:
    from gateway.doctor.desk import _with

    async def main() -> None:
        async with running(tmp_path, carriers=("twilio", "telnyx")) as it:
            twilio, telnyx = it.gateway.http["twilio"], it.gateway.http["telnyx"]
            assert (
                _with(twilio, {"auth_token": "x", "verify_signatures": "", "api_base": "https://evil.test"}) is twilio
            )
            other = _with(telnyx, {"public_key": "A" * 43 + "="})
            assert other is not telnyx
            assert it.gateway.http["telnyx"] is telnyx

    run(main())


def test_visits_are_few_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.doctor.desk.VISITS", 0)

    async def main() -> None:
        async with running(tmp_path) as it, httpx.AsyncClient(base_url=it.url, trust_env=False) as http:
            assert it.gateway.settings.gateway.secret is not None
            visit = Passes(it.gateway.settings.gateway.secret.reveal()).issue()
            assert (await http.get("/doctor", headers={HEADER: visit})).status_code == 503

    run(main())


# ---------------------------------------------------------------- the command


def test_the_command(tmp_path: Path) -> None:
    async def doctor(*words: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.cli", "doctor", *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 180)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def main() -> None:
        proxy = Proxy(edit=asked(lambda query: ""))
        async with proxy.listening(), running(tmp_path) as it:
            proxy.target = it.port
            config = ("--config", str(it.config))
            code, out, _ = await doctor(*config, "--url", it.url)
            assert code == 0, out
            assert "all is right, but carriers cannot reach this address" in out
            assert "a signed webhook is accepted" in out
            code, out, _ = await doctor(*config, "--url", f"http://127.0.0.1:{proxy.port}")
            assert code == 1
            assert "the query is dropped" in out
            code, out, _ = await doctor(*config, "--url", f"http://127.0.0.1:{proxy.port}", "--json")
            told = json.loads(out)
            assert (code, told["ok"]) == (1, False)
            assert "query-dropped" in {finding["code"] for finding in told["findings"]}
            code, _, err = await doctor(*config)
            assert code == 2
            assert "public_url" in err
            code, _, err = await doctor(*config, "--url", it.url, "--carrier", "twillio")
            assert (code, "did you mean twilio?" in err) == (2, True)
            it.config.write_text("[gateway]\n")
            code, _, err = await doctor(*config, "--url", it.url)
            assert (code, "gateway.secret" in err) == (2, True)

    run(main())
