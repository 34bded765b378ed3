"""`gateway route`: which bot answers a number, and why."""

from __future__ import annotations

import argparse
import dataclasses
import json
from datetime import datetime

from gateway import registry
from gateway.routing import explain
from gateway.settings import load_settings
from media.errors import ConfigError


def run(args: argparse.Namespace) -> int:
    """Gives 0 if a bot answers, else 1. ConfigError: the file, the carrier or the time is wrong."""
    settings = load_settings(args.config)
    if args.carrier not in registry.carrier_names():
        remedy = registry.did_you_mean(args.carrier, registry.carrier_names())
        raise ConfigError("--carrier", f"there is no carrier {args.carrier!r}", remedy)
    considered, route = explain(settings, args.carrier, args.number, call_id=args.call_id, at=moment(args.at))
    off = settings.carriers_off.get(args.carrier, "")
    if args.carrier not in settings.carriers and not off:
        off = f"there is no [carriers.{args.carrier}]"
    if args.json:
        print(
            json.dumps(
                {
                    "number": args.number,
                    "carrier": args.carrier,
                    "bot": route.bot_name if route is not None else None,
                    "rule": route.key if route is not None else None,
                    "account": route.account if route is not None else "",
                    "why": route.explanation if route is not None else "no rule takes this number",
                    "carrier_off": off,
                    "considered": [dataclasses.asdict(one) for one in considered],
                }
            )
        )
        return 0 if route is not None else 1
    for one in considered:
        print(f'{"->" if one.matched else "  "} [numbers."{one.key}"] {one.why}')
    if route is None:
        print(f"no bot answers {args.number}: no rule takes it")
    else:
        print(route.explanation)
        if route.account:
            print(f"for calls of [carriers.{args.carrier}.accounts.{route.account}] only")
    if off:
        print(f"but carriers.{args.carrier} is off: {off}")
    return 0 if route is not None else 1


def moment(text: str) -> datetime | None:
    """A time as written on the command line, this machine's zone where it names none. ConfigError: it is none."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ConfigError("--at", "is no time", "write 2026-12-24T18:00, or 2026-12-24T18:00+01:00") from None
