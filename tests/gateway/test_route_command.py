"""`gateway route` and `gateway schema`."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import jsonschema_rs
import pytest

from gateway.cli import main
from gateway.settings import load_settings
from gateway.settings_schema import schema

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = """
[carriers.exotel]
[numbers."+1 555 0100"]
bot = "a"
hours = "office"
closed = "b"
[numbers."telnyx:default"]
bot = "b"
[bots.a]
use = "echo"
[bots.b]
extends = "a"
[schedules.office]
time_zone = "UTC"
open = { mon-fri = ["09:00-17:00"] }
holidays = [2026-12-25]
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "gateway.toml"
    path.write_text(CONFIG)
    return str(path)


@pytest.mark.parametrize(("at", "bot"), [("2026-12-24T10:00+00:00", "a"), ("2026-12-25T10:00+00:00", "b")])
def test_which_bot_answers_and_why(config: str, capsys: pytest.CaptureFixture[str], at: str, bot: str) -> None:
    asked = ["route", "+15550100", "--carrier", "exotel", "--at", at, "--config", config]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == '-> [numbers."+1 555 0100"] is the number'
    assert '[numbers."telnyx:default"] is for calls of telnyx only' in said
    assert said.endswith(f"bot {bot}\n")
    assert main([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["bot"], told["rule"], told["carrier_off"]) == (bot, "+1 555 0100", "")
    assert [one["matched"] for one in told["considered"]] == [True, False]


def test_what_the_guide_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (ROOT / "docs" / "configuration.md").read_text()
    config = re.findall(r"```toml\n(.*?)```", guide, re.S)[0]
    (command,) = re.findall(r"^gateway (route .*)$", guide, re.M)
    (shown,) = re.findall(r"^```\n(->.*?)```", guide, re.S | re.M)
    (tmp_path / "gateway.toml").write_text(config)
    for name in ("GATEWAY_SECRET", "TWILIO_AUTH_TOKEN"):
        monkeypatch.setenv(name, "of a test, and long enough for one")
    asked = command.replace("13:00", "13:00+01:00").split()
    assert main([*asked, "--config", str(tmp_path / "gateway.toml")]) == 0
    assert capsys.readouterr().out == shown


def test_exit_codes(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["route", "+49", "--carrier", "exotel", "--config", config]) == 1
    assert "no bot answers" in capsys.readouterr().out
    assert main(["route", "+49", "--carrier", "telnyx", "--config", config]) == 0
    assert "but carriers.telnyx is off: there is no [carriers.telnyx]" in capsys.readouterr().out
    assert main(["route", "+49", "--carrier", "twillio", "--config", config]) == 2
    assert "did you mean twilio?" in capsys.readouterr().err
    assert main(["route", "+49", "--carrier", "exotel", "--at", "noon", "--config", config]) == 2
    assert main(["route", "+49", "--carrier", "exotel", "--config", config + ".no"]) == 2


def as_json(path: Path) -> object:
    return json.loads(json.dumps(tomllib.loads(path.read_text()), default=str))


def test_the_schema_takes_what_the_gateway_takes(
    tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "of a test, and long enough for one")
    assert main(["schema"]) == 0
    judge = jsonschema_rs.Draft202012Validator(json.loads(capsys.readouterr().out))
    (tmp_path / "gateway.secret").write_text("of a test, and long enough for one")
    for given in (Path(config), ROOT / "gateway" / "sample" / "gateway.toml", ROOT / "docker" / "gateway.toml"):
        path = tmp_path / f"{given.parent.name}.toml"
        path.write_text(given.read_text().replace("/run/secrets/gateway_secret", "gateway.secret"))
        load_settings(path)
        judge.validate(as_json(path))


@pytest.mark.parametrize(
    "wrong",
    [
        {"gatway": {}},
        {"gateway": {"prot": 1}},
        {"gateway": {"port": "8080"}},
        {"gateway": {"port": 99999}},
        {"carriers": {"twilio": {"auth_token": "in the clear"}}},
        {"carriers": {"twillio": {}}},
        {"numbers": {"+1": {}}},
        {"numbers": {"+1": {"bot": "a", "pattern": "x"}}},
        {"numbers": {"+1": {"bot": "a", "share": {"b": 101}}}},
        {"bots": {"a": {"use": "menu"}}},
        {"bots": {"a": {"use": "echo", "play": []}}},
        {"schedules": {"a": {"time_zone": "UTC"}}},
    ],
)
def test_the_schema_refuses_what_the_gateway_refuses(wrong: object) -> None:
    assert not jsonschema_rs.Draft202012Validator(schema()).is_valid(wrong)


def test_every_setting_is_described() -> None:
    tables = schema()["properties"]
    for table in (
        tables["gateway"],
        tables["numbers"]["additionalProperties"],
        tables["carriers"]["properties"]["twilio"],
    ):
        bare = [name for name, value in table["properties"].items() if "description" not in value]
        assert (
            not set(bare)
            - {"enabled", "max_calls", "longest_call_s", "auto_hang_up", "api_key_secret", "region"}
            - PLAIN
        )


PLAIN = {"signing_key", "log_level", "max_message_bytes"}  # the name says it all
