"""Who gets in at Genesys' socket: the upgrade of the AudioHook vectors, and what becomes of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.simulator.genesys import signature_headers
from media.errors import ConfigError
from media.secret import Secret
from tests.webhooks.test_genesys_signature import CREATED, HEADERS, HOST, ORGANIZATION, SECRET, TARGET
from webhooks.base import CallRef, InboundCall, NotAuthentic, Once, Refusal, Urls, WebRequest
from webhooks.genesys import GenesysHttp, GenesysKey, GenesysSettings

URL = f"wss://{HOST}{TARGET}"
OTHER_SECRET = "b3RoZXItc2VjcmV0LW9mLWFub3RoZXItb3JnYW5pc2F0aW9u"


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G_KEY", "gateway-key-0001")
    monkeypatch.setenv("G_SECRET", SECRET)
    monkeypatch.setenv("G_OTHER_KEY", "gateway-key-0002")
    monkeypatch.setenv("G_OTHER_SECRET", OTHER_SECRET)
    monkeypatch.setenv("G_BAD", "not base64!")


def key(**fields: Any) -> GenesysKey:
    return GenesysKey(**{"api_key": Secret(env="G_KEY"), "client_secret": Secret(env="G_SECRET"), **fields})


def make(**fields: Any) -> GenesysHttp:
    other = GenesysKey(api_key=Secret(env="G_OTHER_KEY"), client_secret=Secret(env="G_OTHER_SECRET"))
    return GenesysHttp(GenesysSettings(keys={"main": key(**fields), "other": other}))


def upgrade(url: str = URL, now: float = CREATED + 1, **headers: str | None) -> WebRequest:
    """The vector's upgrade, as the gateway gives it, with headers replaced or, by None, left out."""
    names = {name.lower(): value for name, value in HEADERS.items()}
    names |= {name.replace("_", "-"): value for name, value in headers.items()}
    there = {name: value for name, value in names.items() if value is not None}
    return WebRequest(method="GET", url=url, headers=there, received=now)


def reason(http: GenesysHttp, request: WebRequest, status: int = 401) -> str:
    with pytest.raises(NotAuthentic) as refused:
        http.authenticate_upgrade(request)
    assert refused.value.status == status
    return refused.value.reason


# ---------------------------------------------------------------- who gets in


def test_the_vector_gets_in_once() -> None:
    http = make()
    assert http.authenticate_upgrade(upgrade()) == ""
    once = http.once_of_upgrade(upgrade())
    assert once == Once(key="main:bm9uY2UtZm9yLXRlc3QtdmVjdG9y", for_s=30.0, repeat_s=0.0, status=401)


def test_the_same_nonce_of_another_key_is_another() -> None:
    http = make(client_secret=None, unsigned=True)
    assert http.once_of_upgrade(upgrade()) is None
    other = http.once_of_upgrade(upgrade(x_api_key="gateway-key-0002"))
    assert other is not None
    assert other.key.startswith("other:")


# ---------------------------------------------------------------- secrets that change while it runs


def sign(secret: str, key: str = "gateway-key-0001") -> WebRequest:
    plain = {name: value for name, value in HEADERS.items() if not name.startswith("Signature")}
    headers = {**plain, "X-API-KEY": key}
    signed = signature_headers(URL, headers, secret, created=CREATED, nonce="bm9uY2UtZm9yLXRlc3Qtb3RoZXI")
    return upgrade(x_api_key=key, signature=signed["Signature"], signature_input=signed["Signature-Input"])


def test_a_secret_is_rotated_without_a_new_start(tmp_path: Path) -> None:
    secret, api_key = tmp_path / "secret", tmp_path / "key"
    secret.write_text(SECRET + "\n")
    api_key.write_text("gateway-key-0001\n")
    http = make(api_key=Secret(file=str(api_key)), client_secret=Secret(file=str(secret)))
    assert http.authenticate_upgrade(sign(SECRET)) == ""
    assert reason(http, sign(OTHER_SECRET)) == "bad-signature"
    # Both are good while the administrator changes the integration ...
    secret.write_text(f"{OTHER_SECRET}\n{SECRET}\n")
    assert http.authenticate_upgrade(sign(SECRET)) == ""
    assert http.authenticate_upgrade(sign(OTHER_SECRET)) == ""
    # ... and the old one is no longer, as soon as it is taken out.
    secret.write_text(OTHER_SECRET)
    assert reason(http, sign(SECRET)) == "bad-signature"
    assert http.authenticate_upgrade(sign(OTHER_SECRET)) == ""
    api_key.write_text("gateway-key-0009\ngateway-key-0001\n")
    assert http.authenticate_upgrade(sign(OTHER_SECRET)) == ""
    assert http.authenticate_upgrade(sign(OTHER_SECRET, "gateway-key-0009")) == ""
    api_key.write_text("gateway-key-0009\n")
    assert reason(http, sign(OTHER_SECRET)) == "unknown-key"


def test_a_secret_that_cannot_be_read_lets_nobody_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    http = make(client_secret=Secret(file=str(secret)))
    secret.unlink()
    assert reason(http, upgrade()) == "no-secret"
    secret.write_text("this is no base64!")
    assert reason(http, upgrade()) == "no-secret"
    assert "the key main" in caplog.text
    assert "base64!" not in caplog.text
    secret.write_text(SECRET)
    assert http.authenticate_upgrade(upgrade()) == ""


# ---------------------------------------------------------------- what the upgrade says of the call


def test_the_url_names_the_bot_and_the_headers_bind_the_session() -> None:
    http = make(bot="reception", max_calls=7, monitor=True)
    url = f"wss://{HOST}/prefix/genesys/media/bot-42/a%20b?lang=es-ES&tier=gold"
    stream = http.standing_stream(upgrade(url))
    assert (stream.connector, stream.bot, stream.group, stream.max_calls) == ("bot-42", "reception", "main", 7)
    assert stream.parameters == {"lang": "es-ES", "tier": "gold"}
    assert stream.options["connector"] == "bot-42/a b"
    assert stream.options["monitor"] is True
    assert "channel" not in stream.options
    assert stream.options["organization_id"] == ORGANIZATION
    assert stream.options["session_id"] == HEADERS["Audiohook-Session-Id"]
    assert stream.log["correlation"] == stream.options["correlation_id"] == HEADERS["Audiohook-Correlation-Id"]
    assert "gateway-key-0001" not in str(stream)


def test_what_was_heard_of_a_monitor_is_known_after_the_settings_were_read_again() -> None:
    url = f"wss://{HOST}/genesys/media/"
    before, after = (make().standing_stream(upgrade(url)).options["checkpoints"] for _ in range(2))
    assert before is after


@pytest.mark.parametrize("path", ["/genesys/media", "/genesys/media/", "/p/genesys/media/?x=1"])
def test_a_url_that_names_no_bot(path: str) -> None:
    assert make().standing_stream(upgrade(f"wss://{HOST}{path}")).connector == ""


# ---------------------------------------------------------------- everybody else


def test_each_key_has_its_own_secret() -> None:
    http = make()
    plain = {name: value for name, value in HEADERS.items() if not name.startswith("Signature")}
    headers = {**plain, "X-API-KEY": "gateway-key-0002"}
    for secret, expected in ((OTHER_SECRET, ""), (SECRET, "bad-signature")):
        signed = signature_headers(URL, headers, secret, created=CREATED, nonce="bm9uY2UtZm9yLXRlc3Qtb3RoZXI")
        request = upgrade(
            x_api_key="gateway-key-0002",
            signature=signed["Signature"],
            signature_input=signed["Signature-Input"],
        )
        if expected:
            assert reason(make(), request) == expected
        else:
            assert http.authenticate_upgrade(request) == ""
        found = http.key_of(request)
        assert found is not None
        assert found[0] == "other"
    assert http.key_of(upgrade(x_api_key="gateway-key-0003")) is None


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"signature": None, "signature_input": None}, "no-signature"),
        ({"signature": None}, "malformed"),
        ({"signature_input": None}, "malformed"),
        ({"signature": "sig1=:AAAA:"}, "bad-signature"),
        ({"signature": "sig1=:" + "A" * 41 + "=:"}, "malformed"),
        ({"x_api_key": "gateway-key-0003"}, "unknown-key"),
        ({"x_api_key": None}, "unknown-key"),
        ({"x_api_key": "gateway-key-0002"}, "bad-signature"),
        ({"audiohook_session_id": "0c9d4e7a-1f36-4c58-9a02-b7e3d5f6a802"}, "bad-signature"),
        ({"url": URL.replace("?lang=es-ES", "")}, "bad-signature"),
        ({"url": URL.replace("es-ES", "es%2DES")}, "bad-signature"),
        ({"url": URL.replace("gateway.", "gateways.")}, "bad-signature"),
        ({"url": URL.replace(HOST, "[")}, "bad-signature"),
        ({"now": CREATED + 31}, "stale"),
        ({"now": CREATED - 6}, "not-all-signed"),
    ],
)
def test_everybody_else_gets_the_same_401(request_: dict[str, Any], expected: str) -> None:
    assert reason(make(), upgrade(**request_)) == expected


def test_the_default_port_and_capital_letters_are_not_signed() -> None:
    assert make().authenticate_upgrade(upgrade(URL.replace(HOST, f"{HOST.upper()}:443"))) == ""


@pytest.mark.parametrize("name", ["audiohook_organization_id", "audiohook_session_id", "audiohook_correlation_id"])
@pytest.mark.parametrize("value", [None, "", "5b1f0a52", "0c9d4e7a-1f36-4c58-9a02-b7e3d5f6a801, 0c9d4e7a"])
def test_ids_that_are_missing_or_none(name: str, value: str | None) -> None:
    http = make()
    assert reason(http, upgrade(**{name: value}), 400) == "no-ids"
    assert http.authenticate_upgrade(upgrade()) == ""  # the nonce was not used up


def test_unsigned_only_where_the_key_is_marked_so() -> None:
    bare = {"signature": None, "signature_input": None}
    http = make(client_secret=None, unsigned=True)
    assert http.authenticate_upgrade(upgrade(**bare)) == ""
    assert http.authenticate_upgrade(upgrade()) == "it is signed, but the key main is marked as unsigned"
    assert reason(http, upgrade(**bare, x_api_key="gateway-key-0003")) == "unknown-key"
    assert reason(http, upgrade(**bare, x_api_key="gateway-key-0002")) == "no-signature"


def test_a_key_may_be_of_one_organisation() -> None:
    assert make(organization_id=ORGANIZATION.upper()).authenticate_upgrade(upgrade()) == ""
    other = make(organization_id="00000000-0000-0000-0000-000000000000")
    assert reason(other, upgrade()) == "other-organization"


def test_without_keys_nobody_gets_in() -> None:
    assert reason(GenesysHttp(GenesysSettings()), upgrade()) == "unknown-key"


def test_what_is_logged_has_no_values() -> None:
    with pytest.raises(NotAuthentic) as refused:
        make().authenticate_upgrade(upgrade(now=CREATED + 60))
    checked = refused.value.checked
    assert checked["authority"] == HOST
    assert set(checked) >= {"@request-target", "@authority", "audiohook-session-id", "x-api-key"}
    shown = str(checked) + str(refused.value)
    for secret in ("gateway-key-0001", SECRET, ORGANIZATION, "bot-42", "es-ES"):
        assert secret not in shown


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(name.lower() for name in HEADERS)), st.integers(0, 400), st.characters(codec="ascii"))
def test_a_changed_character_never_gets_in(name: str, at: int, other: str) -> None:
    value = {key.lower(): text for key, text in HEADERS.items()}[name]
    at %= len(value)
    changed = value[:at] + other + value[at + 1 :]
    if changed == value or changed.strip() == value.strip():
        return
    with pytest.raises(NotAuthentic):
        make().authenticate_upgrade(upgrade(**{name: changed}))


# ---------------------------------------------------------------- the rest of the interface


def test_there_are_no_webhooks_and_no_requests() -> None:
    http, urls, ref = make(), Urls(base="https://gw.example.com"), CallRef(carrier="genesys", call_id="x")
    with pytest.raises(NotAuthentic) as refused:
        http.authenticate("answer", upgrade())
    assert (refused.value.reason, refused.value.status) == ("no-webhooks", 404)
    answer = http.handle("events", upgrade(), urls).answer
    assert answer is not None
    assert answer.status == 404
    refusal = http.refuse(InboundCall(carrier="genesys", call_id="x"), Refusal(reason="full")).answer
    assert refusal is not None
    assert refusal.status == 503
    assert http.hang_up(ref) is None
    assert http.transfer(ref, "+15550199", urls) is None
    assert http.fetch(ref) is None
    assert http.hosts == ()
    assert not http.may_send_to("https://api.mypurecloud.com/")


def test_a_client_secret_must_be_base64() -> None:
    with pytest.raises(ConfigError) as wrong:
        make(client_secret=Secret(env="G_BAD"))
    assert wrong.value.path == "keys.main.client_secret"
    assert "not base64!" not in str(wrong.value)
