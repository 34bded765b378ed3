"""`gateway doctor`: what carriers send through the public URL, sent by ourselves and compared with what arrives."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from rich.table import Table
from rich.text import Text

from gateway import registry
from gateway.commands.console import Console
from gateway.doctor.examine import Examination
from gateway.doctor.judge import Finding
from gateway.settings import load_settings
from media.errors import ConfigError

_MARKS = {"good": ("ok", "green"), "note": ("note", "cyan"), "warning": ("warn", "yellow"), "failure": ("FAIL", "red")}


def run(args: argparse.Namespace) -> int:
    """Gives 0 if nothing is wrong, 1 if something is."""
    settings = load_settings(args.config)
    if settings.gateway.secret is None:
        remedy = 'set it, and start the gateway again: secret = { env = "GATEWAY_SECRET" }'
        raise ConfigError("gateway.secret", "is not set: the gateway would not know the doctor", remedy)
    base = args.url or settings.gateway.public_url
    if not base:
        raise ConfigError("gateway.public_url", "is not set", "set it, or give --url https://gw.example.com")
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError("--url", f"{base!r} is no URL of a gateway", "write https://gw.example.com")
    only = args.carrier or []
    for name in only:
        if name not in registry.carrier_names():
            raise ConfigError(
                "--carrier", f"there is no {name!r}", registry.did_you_mean(name, registry.carrier_names())
            )
    examination = Examination(
        settings,
        settings.gateway.secret.reveal(),
        base,
        only=only,
        with_credentials=args.credentials,
        hold_s=args.hold,
        timeout_s=args.timeout,
    )
    asyncio.run(examination.run())
    if args.json:
        findings = [dataclasses.asdict(finding) for finding in examination.findings]
        print(json.dumps({"url": base, "ok": examination.ok, "findings": findings}))
    else:
        _print(base, examination.findings)
    return 0 if examination.ok else 1


def _print(base: str, findings: Sequence[Finding]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    table = Table(title=Text(base), box=None, header_style="bold", pad_edge=False, title_justify="left")
    table.add_column("")
    table.add_column("where", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("what to do", overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.level]
        table.add_row(Text(mark, style), Text(finding.where), Text(finding.says), Text(finding.remedy))
    console.print(table)
    failures = sum(finding.level == "failure" for finding in findings)
    if failures:
        console.print(f"{failures} to mend", style="red")
    elif any(finding.code == "private-address" for finding in findings):
        console.print("all is right, but carriers cannot reach this address", style="yellow")
    else:
        console.print("carriers can call", style="green")
