"""gateway.toml: what is taken, and what is said of what is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway import registry
from gateway.serving import store_url
from gateway.settings import GatewaySettings, Settings, VADSettings, load_settings, parse_settings
from media.errors import ConfigError, ConfigErrors
from media.secret import Secret

ECHO = {"echo": {"use": "echo"}}


def problems(data: Mapping[str, Any], **options: Any) -> dict[str, str]:
    """TOML path -> problem and remedy, of a configuration that must be refused."""
    with pytest.raises(ConfigErrors) as caught:
        parse_settings(data, **options)
    return {error.path: f"{error.problem} ({error.remedy})" for error in caught.value.errors}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- what is taken


def test_nothing_at_all_is_a_configuration_and_warns() -> None:
    settings = parse_settings({})
    assert settings.gateway == GatewaySettings()
    assert (settings.gateway.host, settings.gateway.port) == ("127.0.0.1", 8080)
    assert any("[numbers]" in warning for warning in settings.warnings)
    assert any("secret" in warning for warning in settings.warnings)


def test_who_has_bots_in_urls_needs_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k\n")
    keys = {"main": {"api_key": {"file": "key"}, "unsigned": True}}
    settings = parse_settings({"carriers": {"genesys": {"keys": keys}}}, tmp_path)
    assert not any("[numbers]" in warning for warning in settings.warnings)


def test_a_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_TWILIO_TOKEN", "t")
    (tmp_path / "key").write_text("sixteen and more\n")
    path = write(
        tmp_path / "gateway.toml",
        """
        [gateway]
        public_url = "https://gw.example.com/voice"
        secret = { file = "key" }
        silence_timeout_s = 20

        [carriers.twilio]
        account_sid = "AC1"
        auth_token = { env = "TEST_TWILIO_TOKEN" }
        lead_ms = 300

        [bots.echo]
        use = "echo"
        sample_rate = 16000
        on_error = "transfer:+15550199"

        [numbers."+1 (555) 01-00"]
        bot = "echo"
        [numbers.default]
        bot = "echo"
        on_error = "end"
        """,
    )
    settings = load_settings(path)
    assert settings.gateway.silence_timeout_s == 20.0
    assert settings.gateway.secret is not None
    assert settings.gateway.secret.reveal() == "sixteen and more"
    assert settings.carriers["twilio"].lead_ms == 300
    assert settings.carriers["twilio"].auth_token.reveal() == "t"
    assert settings.bots["echo"].sample_rate == 16000
    assert settings.bots["echo"].options == registry.bot("echo").settings()
    assert settings.numbers["+15550100"].key == "+1 (555) 01-00"
    assert settings.numbers["default"].on_error == "end"
    assert settings.base_dir == tmp_path
    assert settings.warnings == ()


def test_a_snapshot_cannot_be_changed() -> None:
    settings = parse_settings({"bots": ECHO})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.gateway.port = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.bots["other"] = settings.bots["echo"]  # type: ignore[index]


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_bytes(b"\xef\xbb\xbf[gateway]\nport = 9000\n")
    assert load_settings(tmp_path / "gateway.toml").gateway.port == 9000


# ---------------------------------------------------------------- what is wrong


def test_the_voice_detector_is_a_models_or_none(tmp_path: Path) -> None:
    assert parse_settings({}).vad == VADSettings(analyzer="silero", model="")
    (tmp_path / "other.onnx").write_bytes(b"")
    vad = parse_settings({"vad": {"analyzer": "energy", "model": "other.onnx"}}, tmp_path).vad
    assert (vad.analyzer, vad.model) == ("energy", "other.onnx")
    assert set(problems({"vad": {"analyzer": "ears"}})) == {"vad.analyzer"}
    assert "no file none.onnx" in problems({"vad": {"model": "none.onnx"}}, base_dir=tmp_path)["vad.model"]


def test_all_mistakes_are_told_at_once() -> None:
    found = problems(
        {
            "gatway": {},
            "gateway": {"prot": 1, "port": "80", "max_calls": 0, "public_url": "gw.example.com", "log_format": "xml"},
            "carriers": {"twilo": {}, "twilio": {"leadms": 3, "lead_ms": -1}},
            "bots": {
                "a": {"use": "ecco"},
                "b": {"use": "echo", "samplerate": 1, "sample_rate": 44100},
                "c": 3,
                "d": {},
            },
            "numbers": {
                "+1 555": {"bot": "x"},
                "+1-555": {"bot": "b"},
                "+1*5": {"bt": "b"},
                "+2": {"bot": "b", "key": 1},
            },
        }
    )
    expected = {
        "gatway": "did you mean gateway?",
        "gateway.prot": "did you mean port?",
        "gateway.port": "must be a whole number, got a string",
        "gateway.max_calls": "must be at least 1, got 0",
        "gateway.log_format": "must be 'auto', 'text' or 'json'",
        "gateway": "public_url must be like",
        "carriers.twilo": "did you mean twilio?",
        "carriers.twilio.leadms": "did you mean lead_ms?",
        "carriers.twilio.lead_ms": "must be at least 0, got -1",
        "bots.a.use": "did you mean echo?",
        "bots.b.samplerate": "did you mean sample_rate?",
        "bots.b.sample_rate": "got 44100",
        "bots.c": "write [bots.c]",
        "bots.d.use": "is missing",
        'numbers."+1 555".bot': "there is no [bots.x] (known: a, b, c, d)",
        'numbers."+1-555"': 'is the same number as [numbers."+1 555"]',
        'numbers."+1*5"': "neither a number nor a prefix",
        'numbers."+1*5".bt': "did you mean bot?",
        'numbers."+1*5".bot': "is missing",
        'numbers."+2".key': "is not a setting",
    }
    assert found.keys() == expected.keys()
    for path, words in expected.items():
        assert words in found[path], path


def test_what_a_table_says_against_itself_is_not_hidden_by_what_is_wrong_in_kind() -> None:
    found = problems(
        {
            "gateway": {"port": "8080", "public_url": "gw.example.com"},
            "events": {"url": "http://hooks.example.com", "timeout_s": "ten"},
            "api": {"tokens": {"x": {"secret": {"env": "X"}, "scopes": ["raed"]}}},
        }
    )
    assert found.keys() == {"gateway.port", "gateway", "events.timeout_s", "events", "api.tokens.x.scopes[0]"}
    assert "public_url must be like" in found["gateway"]
    assert "url must be https" in found["events"]


@pytest.mark.parametrize(
    "url", ["gateway.db", "mysql://u:hidden@host/calls", "postgres://u:hidden@host/calls", "sqlite:/gateway.db"]
)
def test_a_store_that_is_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_STORE", url)
    for store in (url, {"env": "TEST_STORE"}):
        said = problems({"gateway": {"store": store}})["gateway.store"]
        assert "postgresql://" in said
        assert "hidden" not in said


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:////tmp/x.db", "postgresql+psycopg://u:p@h/d"])
def test_a_store_that_is_one(url: str) -> None:
    assert parse_settings({"gateway": {"store": url}}).gateway.store_url == url


def test_a_rule_between_fields_is_told_with_its_table() -> None:
    assert "region and edge go together" in problems({"carriers": {"twilio": {"region": "ie1"}}})["carriers.twilio"]
    assert "public_url must be" in problems({"gateway": {"public_url": "gw.example.com"}})["gateway"]
    assert "on_error must be" in problems({"bots": {"a": {"use": "echo", "on_error": "cry"}}})["bots.a"]


@pytest.mark.parametrize("value", ["AC-very-secret", {"env": "A", "file": "b"}, {}, {"env": 3}, {"evn": "A"}, 12345678])
def test_a_secret_in_the_file_is_refused_and_not_repeated(value: Any) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse_settings({"carriers": {"twilio": {"auth_token": value}}})
    assert all(error.path.startswith("carriers.twilio.auth_token") for error in caught.value.errors)
    assert "AC-very-secret" not in str(caught.value)
    assert "12345678" not in str(caught.value)
    assert "env" in str(caught.value)


@pytest.mark.parametrize("value", [3, "echo", [1], True])
def test_a_section_that_is_no_table(value: Any) -> None:
    for section in ("gateway", "carriers", "bots", "numbers"):
        assert f"write [{section}]" in problems({section: value})[section]


def test_a_file_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"is not TOML.*line 1"):
        load_settings(write(tmp_path / "bad.toml", "[gateway\n"))
    (tmp_path / "latin.toml").write_bytes(b'x = "\xe9"')
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_settings(tmp_path / "latin.toml")


# ---------------------------------------------------------------- secrets


def test_a_carrier_without_its_secret_is_off_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_NOT_SET", raising=False)
    data = {"carriers": {"twilio": {"auth_token": {"env": "TEST_NOT_SET"}}, "exotel": {}}}
    settings = parse_settings(data)
    assert set(settings.carriers) == {"exotel"}
    assert "TEST_NOT_SET" in settings.carriers_off["twilio"]
    assert settings.carriers_lacking == {"twilio": ("TEST_NOT_SET",)}
    assert "TEST_NOT_SET is not set" in problems(data, strict=True)["carriers.twilio.auth_token"]
    monkeypatch.setenv("TEST_NOT_SET", "now it is")
    assert set(parse_settings(data).carriers) == {"exotel", "twilio"}


def test_a_carrier_can_be_switched_off() -> None:
    data = {"carriers": {"twilio": {"enabled": False, "auth_token": {"env": "TEST_NOT_SET"}}}}
    settings = parse_settings(data, strict=True)
    assert settings.carriers == {}
    assert settings.carriers_off["twilio"] == "enabled = false"


def test_the_gateways_own_secret_must_be_there_if_named(tmp_path: Path) -> None:
    data = {"gateway": {"secret": {"file": "none"}}}
    assert "cannot be read" in problems(data, base_dir=tmp_path)["gateway.secret"]


def test_a_secret_that_can_be_guessed_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"gateway": {"secret": {"env": "TEST_OWN"}}, "api": {"tokens": {"crm": {"secret": {"env": "TEST_CRM"}}}}}
    monkeypatch.setenv("TEST_OWN", "k" * 15)
    monkeypatch.setenv("TEST_CRM", "t" * 16)
    (short,) = [warning for warning in parse_settings(data).warnings if "guessed" in warning]
    assert short.startswith("gateway.secret has 15 characters")
    assert "kkk" not in short
    monkeypatch.setenv("TEST_OWN", "k" * 16)
    monkeypatch.setenv("TEST_CRM", "t")
    (short,) = [warning for warning in parse_settings(data).warnings if "guessed" in warning]
    assert short.startswith("api.tokens.crm.secret has 1 characters")


def test_a_secret_tells_its_name_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEST_SECRET", "pa$$word")
    secret = Secret(env="TEST_SECRET")
    assert secret.reveal() == "pa$$word"
    assert "pa$$word" not in f"{secret} {secret!r} {dataclasses.asdict(secret)}"
    assert secret == Secret(env="TEST_SECRET")
    assert hash(secret) == hash(Secret(env="TEST_SECRET"))
    (tmp_path / "pem").write_text("-----BEGIN-----\nx\n-----END-----\r\n")
    assert Secret(file=str(tmp_path / "pem")).reveal() == "-----BEGIN-----\nx\n-----END-----"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00"])
def test_a_secret_file_that_holds_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Secret(file=str(tmp_path / "s")).reveal()
    assert caught.value.remedy


def test_a_secret_names_one_place() -> None:
    for bad in ({}, {"env": "A", "file": "b"}):
        with pytest.raises(ValueError, match="exactly one"):
            Secret(**bad)


# ---------------------------------------------------------------- errors as such


def test_errors_are_collected_once_each_and_keep_their_order() -> None:
    first, second = ConfigError("a", "is bad", "mend it"), ConfigError("b", "is worse")
    both = ConfigErrors([first, ConfigErrors([second, ConfigError("a", "is bad", "mend it")])])
    assert both.errors == (first, second)
    assert str(both) == "a: is bad (mend it)\nb: is worse"
    assert str(both.within("bots.x")) == "bots.x.a: is bad (mend it)\nbots.x.b: is worse"
    assert isinstance(both, ConfigError)


# ---------------------------------------------------------------- every carrier and bot keeps to the rules


@pytest.mark.parametrize("name", registry.carrier_names())
def test_every_carriers_settings_need_nothing_and_share_the_base(name: str) -> None:
    from webhooks.base import CarrierSettings

    cls = registry.carrier_settings_class(name)
    assert issubclass(cls, CarrierSettings)
    settings: Settings = parse_settings({"carriers": {name: {"lead_ms": 0, "verify_signatures": False}}})
    assert settings.carriers[name] == cls(lead_ms=0, verify_signatures=False)


def test_a_carrier_that_could_not_be_believed_is_off_and_says_why() -> None:
    table = {"carriers": {"telnyx": {}}}
    settings: Settings = parse_settings(table)
    assert "telnyx" not in settings.carriers
    assert settings.carriers_off["telnyx"].startswith("carriers.telnyx.public_key: is not set")
    with pytest.raises(ConfigErrors, match=r"carriers\.telnyx\.public_key"):
        parse_settings(table, strict=True)


@pytest.mark.parametrize("name", registry.bot_names())
def test_every_bots_settings_are_frozen_and_leave_the_common_keys_free(name: str) -> None:
    cls = registry.bot(name).settings
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    common = {"use", "name", "options", "sample_rate", "on_error"}
    assert not common & {field.name for field in dataclasses.fields(cls)}


def test_what_is_written_goes_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "gateway.toml").write_text("")
    settings = load_settings(tmp_path / "etc" / "gateway.toml")
    assert settings.state_dir == (tmp_path / "etc").resolve()
    monkeypatch.setenv("GATEWAY_STATE", str(tmp_path / "var"))
    assert settings.state_dir == (tmp_path / "var").resolve()
    assert store_url(settings) == f"sqlite:///{(tmp_path / 'var').resolve()}/gateway.db"
