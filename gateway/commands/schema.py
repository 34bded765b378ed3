"""`gateway schema`: gateway.toml as JSON Schema."""

from __future__ import annotations

import argparse
import json

from gateway.settings_schema import schema


def run(args: argparse.Namespace) -> int:
    """Gives 0."""
    print(json.dumps(schema(), indent=2))
    return 0
