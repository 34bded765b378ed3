"""A gateway to be measured: `python -m gateway.load.target CONFIG PORT FOLDER`, by the command that measures it.

It is the operator's gateway with other walls around it: its records go to FOLDER, nobody is asked to hang up, no caps
hold, and no call is refused for the health of others, which is what is to be found out.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import MappingProxyType

from gateway.settings import Settings, load_settings


def measured(settings: Settings, folder: Path) -> Settings:
    """`settings` for a measurement."""
    own = dataclasses.replace(
        settings.gateway,
        store=f"sqlite:///{folder / 'gateway.db'}",
        max_calls=100_000,
        max_lateness_ms=0.0,
        public_url="",
        log_level="error",
        reload_on_change=False,
    )
    carriers = {
        name: dataclasses.replace(carrier, max_calls=None, **({"auto_hang_up": False} if _hangs_up(carrier) else {}))
        for name, carrier in settings.carriers.items()
    }
    numbers = {key: dataclasses.replace(entry, max_calls=None) for key, entry in settings.numbers.items()}
    return dataclasses.replace(
        settings, gateway=own, carriers=MappingProxyType(carriers), numbers=MappingProxyType(numbers)
    )


def _hangs_up(carrier: object) -> bool:
    return hasattr(carrier, "auto_hang_up")


def main() -> int:
    from gateway import serving
    from gateway.commands.serve import use_made_up_secrets
    from gateway.server import run

    config, port, folder = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    use_made_up_secrets(config)
    settings = measured(load_settings(config), folder)
    serving.log_as(settings)
    return run(
        serving.serve(
            config, settings, host="127.0.0.1", port=port, load=lambda path: measured(load_settings(path), folder)
        )
    )


if __name__ == "__main__":
    sys.exit(main())
