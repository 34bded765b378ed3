"""Hang-ups of programs, executed against the fake carriers' REST interfaces over HTTP."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest

from gateway.carrier_api import Patience
from gateway.finisher import Finisher, process_finisher
from gateway.simulator.web import FakeWeb, fake_web
from gateway.simulator.webcaller import CarrierServer
from serializers.base import HangUp

ACCOUNTS = {
    "twilio": ("account_sid", "auth_token", "CA" + "0" * 32),
    "telnyx": ("", "api_key", "v3:made-up"),
    "plivo": ("auth_id", "auth_token", "12345678-1234-1234-1234-123456789abc"),
}


def asked(name: str, secret: str = "") -> tuple[Finisher, FakeWeb, float | None]:
    """Submit a hang-up of a call that the carrier does not know, and wait for what comes of it."""

    async def main() -> tuple[Finisher, FakeWeb, float | None]:
        web = fake_web(name)()
        account, own, call_id = ACCOUNTS[name]
        async with CarrierServer([web]) as server:
            finisher = Finisher(api_base=server.base(name), patience=Patience(attempts=2, scale=0.02))
            wait_s = finisher.submit(
                HangUp(
                    carrier=name,
                    call_id=call_id,
                    account_id=web.credentials.get(account, ""),
                    secret=secret or web.credentials[own],
                )
            )
            await finisher.flush()
        return finisher, web, wait_s

    return asyncio.run(main())


@pytest.mark.parametrize("name", ["twilio", "plivo"])
def test_a_call_that_is_over_already_counts_as_ended(name: str) -> None:
    finisher, web, wait_s = asked(name)
    assert wait_s
    assert finisher.counters == {"already-over": 1}
    assert not web.violations


def test_an_unknown_call_of_telnyx_is_a_failure() -> None:
    finisher, web, _ = asked("telnyx")
    assert finisher.counters == {"failed": 1}
    assert not web.violations


@pytest.mark.parametrize("name", ACCOUNTS)
def test_wrong_credentials_are_a_failure_and_are_not_shown(name: str, caplog: Any, capsys: Any) -> None:
    finisher, _, _ = asked(name, secret="a-wrong-secret-of-somebody")
    assert finisher.counters == {"failed": 1}
    assert "a-wrong-secret" not in caplog.text + capsys.readouterr().out


def test_a_carrier_that_is_ended_by_its_socket_cannot_be_asked() -> None:
    finisher = Finisher()
    assert finisher.submit(HangUp(carrier="exotel", call_id="x", secret="y")) is None
    assert finisher.counters == {"hangup_unavailable": 1}


def test_a_hang_up_loads_no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes tens of milliseconds in which no call is served: it is done once, before there are calls."""
    process_finisher()

    def loaded(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        raise AssertionError("certificates are loaded again")

    monkeypatch.setattr(ssl, "create_default_context", loaded)
    finisher, web, _ = asked("plivo")
    assert finisher.counters == {"already-over": 1}
    assert not web.violations
