"""`gateway call --carrier genesys`: which session Genesys makes, and what befalls it on its way."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.settings import Settings
from gateway.simulator.base import FakeCarrier, Messages
from gateway.simulator.genesys import RATE, FakeGenesys
from gateway.simulator.script import Voice
from media.errors import ConfigError

SESSIONS: Mapping[str, Mapping[str, Any]] = {
    "connector": {"session": "connector"},
    "monitor": {"session": "monitor"},
    "monitor-mono": {
        "session": "monitor",
        "media": [{"type": "audio", "format": "PCMU", "channels": ["external"], "rate": RATE}],
    },
    "probe": {"session": "probe"},
}
BURST = 5  # messages that a limited Genesys still takes at once

# As Genesys tries again to reach a server that its session was lost to: so often, and so far apart.
TRIES_S = (0.0, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Act:
    at_s: float  # since the first connection stood
    what: str
    value: str = ""


def _seconds(value: str) -> float:
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def _limit(fake: FakeGenesys, value: str, now: float) -> Messages:
    fake.limit(_seconds(value), BURST, now)
    return ()


# What may stand behind --act: what its value is, if it has one, what it does.
ACTS: Mapping[str, tuple[str, Callable[[FakeGenesys, str, float], Messages]]] = {
    "pause": ("", lambda fake, value, now: fake.hold(now)),
    "resume": ("", lambda fake, value, now: fake.resume(now)),
    "discard": ("seconds", lambda fake, value, now: fake.lose(_seconds(value))),
    "language": ("a language, en-US", lambda fake, value, now: fake.change_language(value, now)),
    "limit": ("audio messages a second; 5 is usual", _limit),
    "error": ("a code, 500", lambda fake, value, now: fake.complain(int(value), now)),
    "reconnect": ("", lambda fake, value, now: fake.move(now)),
    "break": ("", lambda fake, value, now: fake.lose_connection(now)),
}


class Acts:
    """Gives each act's messages when its time has come; across the sessions of one call."""

    def __init__(self, acts: Sequence[Act]) -> None:
        self.acts = sorted(acts, key=lambda act: act.at_s)
        self._next = 0
        self._began: float | None = None
        self.fake: FakeCarrier  # whose session it is now

    def __call__(self, now: float) -> Messages:
        if self._began is None:
            self._began = now
        fake = self.fake
        if self._next == len(self.acts) or not fake.ready or now - self._began < self.acts[self._next].at_s:
            return ()
        assert isinstance(fake, FakeGenesys)
        act = self.acts[self._next]
        self._next += 1
        fake.note(now, act.what, act.value)
        return ACTS[act.what][1](fake, act.value, now)

    def elapsed(self, now: float) -> float:
        return now - self._began if self._began is not None else 0.0


def options_of(args: argparse.Namespace, voice: Callable[[Path], Voice]) -> dict[str, Any]:
    """The plan's options. ConfigError: what only Genesys has was asked of another carrier, or cannot be read."""
    given = [name for name in GIVEN if getattr(args, name) not in (None, False, [])]
    if args.carrier != "genesys":
        if given:
            option = f"--{given[0].replace('_', '-')}"
            raise ConfigError(option, f"{args.carrier} has no such thing", "only with --carrier genesys")
        return {}
    options = {**SESSIONS[args.session or "connector"], "connector": args.connector or ""}
    if args.language:
        options["language"] = args.language
    if args.supported_languages:
        options["supported_languages"] = True
    if args.custom_config is not None:
        try:
            options["custom_config"] = json.loads(args.custom_config)
        except ValueError as exc:
            raise ConfigError(
                "--custom-config", f"is not JSON: {exc}", """write --custom-config '{"tier": 1}'"""
            ) from None
    if args.agent_wav is not None:
        options["agent"] = voice(args.agent_wav).at(RATE)
    return options


GIVEN = ("session", "connector", "language", "supported_languages", "custom_config", "agent_wav", "key", "act")


def acts_of(args: argparse.Namespace) -> Acts:
    return Acts([_act(text) for text in args.act])


def _act(text: str) -> Act:
    at, _, rest = text.strip().partition(" ")
    what, _, value = rest.strip().partition(" ")
    value = value.strip()
    try:
        takes, _ = ACTS[what]
        act = Act(float(at), what, value)
        if not 0 <= act.at_s < math.inf or bool(takes) != bool(value):
            raise ValueError
        if what in ("discard", "limit"):
            _seconds(value)
        elif what == "error":
            int(value)
    except (KeyError, ValueError):
        known = ", ".join(f"{name} ({takes})" if takes else name for name, (takes, _) in ACTS.items())
        raise ConfigError("--act", f"{text!r} is not SECONDS WHAT [VALUE]", f"WHAT is one of {known}") from None
    return act


def key_settings(settings: Settings, name: str | None) -> Any:
    """[carriers.genesys.keys.<name>], which signs the upgrade; None: the first. ConfigError: there is none."""
    keys = getattr(settings.carriers.get("genesys"), "keys", {})
    if name is None:
        return None
    if name not in keys:
        known = ", ".join(keys) or "none"
        raise ConfigError("--key", f"there is no [carriers.genesys.keys.{name}]", f"there are: {known}")
    return keys[name]


def successor(fake: FakeCarrier) -> FakeGenesys | None:
    """The session by which Genesys goes on, if it does."""
    return fake.successor() if isinstance(fake, FakeGenesys) and fake.goes_on else None
