"""`gateway call`: what its options make of a call; through Genesys, whose sessions are of several kinds."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import _parser
from gateway.commands import call_genesys as genesys
from gateway.commands.call import Meanwhile, call, voice
from gateway.commands.parsers import SESSIONS
from gateway.simulator.genesys import FakeGenesys
from media.errors import ConfigError
from tests.endtoend import actors
from tests.endtoend.served import run, serve, until
from tests.gateway.test_genesys_example import folder as folder


def parsed(*options: str, carrier: str = "genesys") -> argparse.Namespace:
    return _parser().parse_args(["call", "--carrier", carrier, "--to", "+15550100", *options])


def test_the_options_of_a_session() -> None:
    args = parsed("--connector", "billing?tier=1", "--language", "es-ES", "--custom-config", '{"a": 1}')
    assert genesys.options_of(args, voice) == {
        "session": "connector",
        "connector": "billing?tier=1",
        "language": "es-ES",
        "custom_config": {"a": 1},
    }
    for session in SESSIONS:
        assert session in genesys.SESSIONS
    args = parsed("--session", "monitor-mono", "--supported-languages")
    assert genesys.options_of(args, voice)["media"][0]["channels"] == ["external"]
    assert parsed("--input-var", "a=1", "--param", "b=2").param == ["a=1", "b=2"]


@pytest.mark.parametrize(
    ("options", "carrier", "said"),
    [
        (["--session", "probe"], "twilio", "twilio has no such thing"),
        (["--act", "1 pause"], "plivo", "plivo has no such thing"),
        (["--custom-config", "{"], "genesys", "is not JSON"),
        (["--act", "pause"], "genesys", "SECONDS WHAT"),
        (["--act", "1 dance"], "genesys", "SECONDS WHAT"),
        (["--act", "1 discard"], "genesys", "SECONDS WHAT"),
        (["--act", "1 pause 3"], "genesys", "SECONDS WHAT"),
        (["--act", "1 limit 0"], "genesys", "SECONDS WHAT"),
        (["--act", "nan pause"], "genesys", "SECONDS WHAT"),
        (["--act", "1 error many"], "genesys", "SECONDS WHAT"),
        (["--agent-wav", "nowhere.wav"], "genesys", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said(options: list[str], carrier: str, said: str) -> None:
    args = parsed(*options, carrier=carrier)
    with pytest.raises(ConfigError, match=said):
        _ = genesys.options_of(args, voice), genesys.acts_of(args)


def test_acts_come_at_their_time_and_every_act_is_one_of_genesys() -> None:
    acts = genesys.acts_of(parsed("--act", "2 resume", "--act", "1 pause"))
    acts.fake = fake = FakeGenesys()
    assert acts(10.0) == (), "not before the session is open"
    fake.opening(10.0)
    fake.ready, fake.state = True, "active"
    assert acts(10.9) == ()
    (paused,) = acts(11.1)
    assert json.loads(paused)["type"] == "paused"
    assert acts(11.2) == ()
    (resumed,) = acts(12.5)
    assert json.loads(resumed)["type"] == "resumed"
    assert acts(20.0) == ()
    assert acts.elapsed(20.0) == 10.0
    values = {"discard": "0.5", "language": "de-DE", "limit": "2", "error": "500"}
    for what in genesys.ACTS:
        one = genesys.acts_of(parsed("--act", f"0 {what} {values.get(what, '')}"))
        one.fake = fake = FakeGenesys()
        fake.opening(0.0)
        fake.ready, fake.state = True, "active"
        one(0.0)
        assert fake.events[-1].what in (what, "ended")


# ---------------------------------------------------------------- against a gateway


def called(
    folder: Path, capsys: pytest.CaptureFixture[str], *options: str, when_up: Callable[[], None] = lambda: None
) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of one call with the example's configuration; the gateway has its carriers, and an echo."""
    args = parsed("--config", str(folder / "gateway.toml"), "--json", *options)

    async def main() -> int:
        from gateway.settings import load_settings

        settings = load_settings(folder / "gateway.toml")
        own = {name: getattr(settings.carriers["genesys"], name) for name in ("keys", "monitor", "channel")}
        carriers = {"genesys": {"verify_signatures": True, **own}}
        async with serve({"billing": actors.echo, "shares": lambda call: ()}, carriers=carriers) as served:
            args.url = served.url
            placed = asyncio.create_task(call(args))
            await until(lambda: placed.done() or len(served.gateway.calls) > 0)
            when_up()
            return await placed

    code = run(main())
    lines = capsys.readouterr().out.splitlines()  # the gateway's log is there, too
    return code, json.loads(next(line for line in reversed(lines) if line.startswith("{")))


def test_a_connector_tells_which_way_the_flow_goes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = called(folder, capsys, "--input-var", "customerId=C-1", "--digits", "1", "--hang-up-at", "2")
    assert (code, report["violations"]) == (0, [])
    assert report["facts"]["session"] == "connector"
    assert report["facts"]["way_out"] == "none: the caller has left"
    assert report["digits"] == 1


def test_a_probe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = called(folder, capsys, "--session", "probe")
    assert (code, report["violations"], report["end_reason"]) == (0, [], "probe")


@pytest.mark.parametrize("how", ["reconnect", "break"])
def test_a_monitor_goes_on_in_another_session(folder: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    acts = ("--act", "0.4 pause", "--act", "0.7 resume", "--act", f"1.2 {how}", "--hang-up-at", "2.5")
    code, report = called(folder, capsys, "--session", "monitor", "--key", "monitors", *acts)
    first, second = report["sessions"]
    assert (code, first["violations"], second["violations"]) == (0, [], [])
    assert first["call_id"] == second["call_id"]
    assert second["ended_by"] == "caller"
    assert first["facts"]["media"] == "PCMU external+internal"
    assert [one["what"] for one in first["timeline"]].count("pause") == 1
    assert float(second["facts"]["position"][2:-1]) > float(first["facts"]["position"][2:-1])


def test_a_key_that_does_not_exist(folder: Path) -> None:
    args = parsed("--config", str(folder / "gateway.toml"), "--key", "nobody")
    with pytest.raises(ConfigError, match="there are: bots, monitors"):
        asyncio.run(call(args))


# ---------------------------------------------------------------- Ctrl-C


def test_at_ctrl_c_the_caller_hangs_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = called(folder, capsys, when_up=lambda: os.kill(os.getpid(), signal.SIGINT))
    assert (code, report["ended_by"], report["violations"]) == (0, "caller", [])


def test_ctrl_c_outside_a_call_and_a_second_one_end_the_command() -> None:
    meanwhile = Meanwhile(fake := FakeGenesys(), lambda now: ())
    with pytest.raises(KeyboardInterrupt):
        meanwhile.interrupted()  # nobody has answered yet
    fake.opening(0.0)
    meanwhile.interrupted()
    with pytest.raises(KeyboardInterrupt):
        meanwhile.interrupted()
    meanwhile(1.0)
    assert fake.ended_by == "caller"
