"""[carriers.telnyx] and [carriers.plivo] of gateway.toml."""

from typing import Any

import pytest

from media.secret import Secret
from webhooks.plivo import PlivoSettings
from webhooks.telnyx import TelnyxSettings

KEY = Secret(env="TELNYX_API_KEY")


def test_defaults_are_mu_law_and_texml() -> None:
    telnyx, plivo = TelnyxSettings(), PlivoSettings()
    assert (telnyx.control, telnyx.send_codec, telnyx.receive_codec) == ("texml", "PCMU", "default")
    assert (plivo.send_codec, plivo.handshake_signature) == ("PCMU", "warn")
    assert telnyx.auto_hang_up
    assert plivo.auto_hang_up


@pytest.mark.parametrize(
    "fields",
    [
        {"sample_rate": 8000},
        {"send_codec": "PCMA"},
        {"send_codec": "L16"},
        {"send_codec": "L16", "sample_rate": 24000},
        {"send_codec": "L16", "sample_rate": 48000, "control": "call_control", "api_key": KEY},
    ],
)
def test_what_telnyx_has(fields: dict[str, Any]) -> None:
    assert TelnyxSettings(**fields).send_codec == fields.get("send_codec", "PCMU")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"sample_rate": 16000}, "PCMU has 8000 Hz only"),
        ({"send_codec": "PCMA", "sample_rate": 16000}, "PCMA has 8000 Hz only"),
        ({"send_codec": "L16", "sample_rate": 11025}, "one of 8000"),
        ({"send_codec": "L16", "sample_rate": 48000}, "TeXML"),
        ({"control": "call_control"}, "needs api_key"),
        ({"stream_auth": True}, "no second secret"),
    ],
)
def test_what_telnyx_does_not_have(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        TelnyxSettings(**fields)


def test_rates_that_nobody_named() -> None:
    assert (TelnyxSettings().send_rate, PlivoSettings().send_rate) == (8000, 8000)
    assert (TelnyxSettings(send_codec="L16").send_rate, PlivoSettings(send_codec="L16").send_rate) == (16000, 16000)


def test_rates_of_plivo() -> None:
    assert PlivoSettings(send_codec="L16", sample_rate=16000).sample_rate == 16000
    with pytest.raises(ValueError, match="8000 or 16000"):
        PlivoSettings(send_codec="L16", sample_rate=24000)
    with pytest.raises(ValueError, match="PCMU must be 8000"):
        PlivoSettings(sample_rate=16000)
