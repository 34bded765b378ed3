"""Made-up accounts at the fake carriers, and the configuration tables that make a gateway accept their calls."""

from __future__ import annotations

import json
import os
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path

from gateway import registry
from gateway.simulator.web import FakeWeb, fake_web
from media.secret import Secret


@dataclass(slots=True)
class Account:
    """One account: its carrier's HTTP side, if the carrier has one, and its [carriers.<name>] table."""

    carrier: str
    web: FakeWeb | None
    lines: list[str]
    api_base: str = ""  # where its REST interface listens

    @property
    def toml(self) -> str:
        base = [f"api_base = {json.dumps(self.api_base)}"] if self.api_base else []
        return "\n".join([*self.lines, *base]) + "\n"


def make_up(carrier: str, folder: Path) -> Account:
    """An account at `carrier`; its secrets are written to files in `folder`, which only this user can read."""
    try:
        web = fake_web(carrier)()
    except KeyError:
        web = None
    credentials: Mapping[str, str] = web.credentials if web is not None else {}
    cls = registry.carrier_settings_class(carrier)
    types = typing.get_type_hints(cls, include_extras=False)
    lines = [f"[carriers.{carrier}]"]
    for field in dataclass_fields(cls):
        if field.name not in credentials:
            continue
        value = credentials[field.name]
        if Secret in (types[field.name], *typing.get_args(types[field.name])):
            path = folder / f"{carrier}.{field.name}"
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                file.write(value)
            lines.append(f"{field.name} = {{ file = {json.dumps(path.name)} }}")
        else:
            lines.append(f"{field.name} = {json.dumps(value)}")
    if len(lines) == 1 and "verify_signatures" in types:
        # Nobody signs for it here: only the media token lets its calls in.
        lines.append("verify_signatures = false")
    return Account(carrier, web, lines)


def with_accounts(sample: str, accounts: Iterable[Account]) -> str:
    """The text of a configuration with its [carriers...] tables replaced by those of `accounts`."""
    kept: list[str] = []
    skipping = False
    for line in sample.splitlines():
        if line.startswith("["):
            skipping = line.startswith("[carriers.")
        if not skipping:
            kept.append(line)
    return "\n".join([*kept, "", *(account.toml for account in accounts)]) + "\n"
