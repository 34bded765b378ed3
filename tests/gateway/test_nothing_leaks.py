"""Every carrier's calls, good and bad, through `gateway serve` at its most talkative: it writes no secret."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.simulator.accounts import Account, make_up
from gateway.simulator.base import CallPlan, fake_carrier
from gateway.simulator.caller import place_call
from gateway.simulator.script import Press, Script, at
from gateway.simulator.web import FakeWeb, Fault, Tampering
from gateway.simulator.webcaller import CarrierServer, Way, answer_placed_call, place_call_through_webhooks
from media.wav import write_wav
from tests.endtoend import actors
from tests.endtoend.served import run
from tests.gateway.rig import QUICK
from tests.ports import free_port

CALLER, CALLEE = "+14159871236", "+14159871237"
MARKS = {
    "gateway.secret": "mark-gateway-7c1f9a03b2d84e65",
    "api.secret": "mark-api-51d0c7e2f9a84b36",
    "events.secret": "whsec_" + base64.b64encode(b"mark-events-secret-0123456789abc").decode(),
    "genesys.api_key": "mark-genesys-key-9a8b7c6d",
    "genesys.client_secret": base64.b64encode(b"mark-genesys-client-secret-01234").decode(),
}
PARAMETER = "mark-parameter-Jf83kd"
QUERY = "mark-query-Qp20sl"
WITH_WEBHOOKS = ("exotel", "plivo", "telnyx", "twilio", "vonage")


def configuration(folder: Path, accounts: Mapping[str, Account], events_port: int) -> Path:
    for name, value in MARKS.items():
        (folder / name).write_text(value)
    write_wav(folder / "bye.wav", actors.tone(0.3), 8000)
    config = folder / "gateway.toml"
    tables = [
        '[gateway]\nsecret = { file = "gateway.secret" }\nlog_level = "debug"\ndrain_s = 0.1\nmax_lateness_ms = 0\n',
        *(account.toml for account in accounts.values()),
        '[carriers.genesys.keys.main]\napi_key = { file = "genesys.api_key" }\n'
        'client_secret = { file = "genesys.client_secret" }\n',
        '[api.tokens.all]\nsecret = { file = "api.secret" }\nscopes = ["read", "control", "dial"]\n',
        f'[events]\nurl = "http://127.0.0.1:{events_port}/told?key={QUERY}"\nsecret = {{ file = "events.secret" }}\n',
        '[bots.bye]\nuse = "announce"\nplay = ["bye.wav"]\n[numbers.default]\nbot = "bye"\n',
    ]
    config.write_text("\n".join(tables))
    return config


def secrets_of(accounts: Mapping[str, Account]) -> Iterator[str]:
    """What must not be written, in the spellings in which it travels."""
    yield from MARKS.values()
    yield from (PARAMETER, QUERY, CALLER, CALLEE, CALLER[1:], CALLEE[1:])
    for account in accounts.values():
        assert account.web is not None
        own = account.web.credentials
        for name, value in own.items():
            if name in ("account_sid", "auth_id", "public_key", "connection_id", "account_id", "application_id"):
                continue
            if name in ("subdomain", "region", "api_key") and account.carrier == "vonage":
                continue  # of an account, and no secret
            if len(value) > 7:
                yield from (value, value.replace("\n", "\\n"))
        for user, password in (("account_sid", "auth_token"), ("auth_id", "auth_token"), ("api_key", "api_token")):
            if user in own and password in own:
                yield base64.b64encode(f"{own[user]}:{own[password]}".encode()).decode()


@asynccontextmanager
async def serving(config: Path, log: Path) -> AsyncIterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "gateway.cli", "serve", "--config", str(config), "--port", str(port)]
    with log.open("wb") as lines:
        process = await asyncio.create_subprocess_exec(*command, stdout=lines, stderr=lines)
        try:
            async with httpx.AsyncClient(trust_env=False) as http:
                while True:
                    assert process.returncode is None
                    try:
                        assert (await http.get(f"http://127.0.0.1:{port}/ready")).status_code == 200
                        break
                    except httpx.TransportError:
                        await asyncio.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def good_and_bad(web: FakeWeb, url: str, seen: list[str]) -> None:
    """A call with a mishap when it is hung up; then what strangers try."""
    plan = CallPlan(from_number=CALLER, to_number=CALLEE, parameters={"account": PARAMETER})
    web.answer_url = f"{url}/{web.name}/answer" + web.answer_url.partition("/answer")[2] + f"?campaign={QUERY}"
    web.status_url = f"{url}/{web.name}/status"
    web.faults.append(Fault(what="credentials"))
    report = await place_call_through_webhooks(
        web, Way(gateway_url=url), Script().then(at(0.1), Press("7")), plan=plan, limits=QUICK
    )
    assert report.first_audio_s is not None, report.problems
    (media_url,) = {call.media_url for call in web.calls.values() if call.media_url}
    seen.append(media_url.rpartition("/")[2])
    async with httpx.AsyncClient(trust_env=False) as http:
        for tampering in (Tampering.UNSIGNED, Tampering.FORGED, Tampering.ALTERED):
            webhook = web.signed(web.place(plan, time.time()).webhooks.popleft(), time.time(), tampering)
            for body in (webhook.body, webhook.body + CALLER.encode() * 8000, b"\xff{" + PARAMETER.encode()):
                each = replace(webhook, body=body)
                await http.request(each.method, each.url, headers=dict(each.headers), content=each.body or None)
    for token in (media_url.rpartition("/")[2], "A" * 120, MARKS["gateway.secret"]):
        where = f"{url.replace('http', 'ws', 1)}/{web.name}/media/{token}"
        try:
            async with connect(where, proxy=None, additional_headers=dict(web.handshake(where, time.time()))):
                pass
        except InvalidStatus:
            pass


async def genesys(url: str) -> None:
    own = {"api_key": MARKS["genesys.api_key"], "client_secret": MARKS["genesys.client_secret"]}
    for credentials in (own, {**own, "client_secret": base64.b64encode(b"another").decode()}):
        plan = CallPlan(
            from_number=CALLER, to_number=CALLEE, parameters={"account": PARAMETER}, credentials=credentials
        )
        fake = fake_carrier("genesys")(plan)
        report = await place_call(fake, url.replace("http", "ws", 1) + fake.media_path(""), Script(), limits=QUICK)
        assert (report.refused is None) == (credentials is own), report.problems


async def from_outside(web: FakeWeb, url: str) -> None:
    """The control API, with a token and with a wrong one; a call that is placed."""
    order = {
        "carrier": web.name,
        "to_number": CALLEE,
        "from_number": CALLER,
        "bot": "bye",
        "parameters": {"account": PARAMETER},
    }
    async with httpx.AsyncClient(base_url=f"{url}/api", trust_env=False, timeout=30) as http:
        http.headers["authorization"] = f"Bearer {MARKS['api.secret'][:-1]}x"
        assert (await http.get("/calls")).status_code == 401
        http.headers["authorization"] = f"Bearer {MARKS['api.secret']}"
        picked_up = asyncio.create_task(answer_placed_call(web, Way(gateway_url=url), Script(), limits=QUICK))
        assert (await http.post("/calls", json=order)).status_code in (200, 201, 202)
        await picked_up
        web.faults.append(Fault(what="status", status=400))
        await http.post("/calls", json={**order, "parameters": [PARAMETER]})
        await http.post("/calls", json=order)


async def doctor(config: Path, url: str, *words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", "doctor", "--config", str(config), "--url", url, *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "COLUMNS": "400"},
    )
    out, _ = await process.communicate()
    return out.decode()


def test_no_secret_is_written_anywhere(tmp_path: Path) -> None:
    seen: list[str] = []  # media tokens

    async def main() -> str:
        accounts = {name: make_up(name, tmp_path) for name in WITH_WEBHOOKS}
        webs = {name: account.web for name, account in accounts.items() if account.web is not None}
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # and does not listen: event webhooks fail
            async with CarrierServer(webs.values()) as rest:
                for account in accounts.values():
                    account.api_base = rest.base(account.carrier)
                config = configuration(tmp_path, accounts, nobody.getsockname()[1])
                log = tmp_path / "gateway.log"
                async with serving(config, log) as url:
                    await asyncio.gather(*(good_and_bad(web, url, seen) for web in webs.values()), genesys(url))
                    await from_outside(webs["twilio"], url)
                    said = await doctor(config, url, "--credentials")
                    (tmp_path / "twilio.auth_token").write_text("mark-another-token-0a1b2c3d")
                    said += await doctor(config, url, "--carrier", "twilio")
        written = said + log.read_text()
        for secret in (*secrets_of(accounts), *seen, "mark-another-token-0a1b2c3d"):
            assert secret not in written, [line for line in written.splitlines() if secret in line][:3]
        return log.read_text()

    lines = [json.loads(line) for line in run(main(), limit_s=300).splitlines() if line.startswith("{")]
    events = {line["event"] for line in lines}
    # It was talkative, and about all of this.
    assert {"webhook.not_authentic", "webhook.refused", "media.refused", "call.answered", "call.ended"} <= events
    assert {"carrier_api.asked", "hangups.refused", "doctor.visit"} <= events, events
    assert {line["level"] for line in lines} >= {"debug", "info", "warning", "error"}
    assert {line["carrier"] for line in lines if line["event"] == "call.ended"} == {*WITH_WEBHOOKS, "genesys"}
