"""Services by name: a module in this folder that exports STT, LLM, TTS or SPEECH; a table of settings becomes one."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import ConfigDict, TypeAdapter, ValidationError

from bots import services
from media.errors import ConfigError, ConfigErrors
from media.secret import Secret

_BASES = {"base", "settings", "stt", "llm", "tts", "providers", "http", "websocket", "switcher", "rendering"}


class Provider(Protocol):
    """What a module exports. `prepare`, where there is one, is called once when the configuration loads."""

    @property
    def settings(self) -> type[Any]:
        """A frozen dataclass: the keys of the table beside `use`."""
        ...

    def make(self, settings: Any, **needs: Any) -> Any:
        """The service of one call."""
        ...


def provider_names(kind: str) -> list[str]:
    """The modules that export `kind`: "STT", "LLM", "TTS" or "SPEECH". Imports none that does not."""
    found = []
    for info in pkgutil.iter_modules(services.__path__):
        spec = importlib.util.find_spec(f"bots.services.{info.name}")
        source = Path(spec.origin).read_text() if spec is not None and spec.origin else ""
        if info.name not in _BASES and f"\n{kind} = " in source:
            found.append(info.name)
    return sorted(found)


class Chosen:
    """A provider with its settings."""

    def __init__(self, use: str, provider: Provider, settings: Any) -> None:
        self.use, self.provider, self.settings = use, provider, settings

    async def prepare(self, **needs: Any) -> None:
        """Whatever is slow: load a model, look at the key. Raises ConfigError."""
        prepare = getattr(self.provider, "prepare", None)
        if prepare is not None:
            done = prepare(self.settings, **needs)
            if inspect.isawaitable(done):
                await done

    def make(self, **needs: Any) -> Any:
        return self.provider.make(self.settings, **needs)


def choose(kind: str, table: Mapping[str, Any], base_dir: Path) -> Chosen:
    """The service that a table `{ use = "<module>", ... }` names. Raises ConfigErrors with paths inside the table."""
    use, known = table.get("use"), provider_names(kind)
    if use not in known:
        problem = f"there is no {kind} service {use!r}" if use else "is missing"
        raise ConfigError("use", problem, f"one of {', '.join(known)}")
    provider: Provider = getattr(importlib.import_module(f"bots.services.{use}"), kind)
    cls = provider.settings
    adapter = TypeAdapter(tuple[cls], config=ConfigDict(extra="forbid", strict=True))  # type: ignore[valid-type]
    own = {key: value for key, value in table.items() if key != "use"}
    try:
        (settings,) = adapter.validate_json(json.dumps([own], default=str))
    except ValidationError as exc:
        raise ConfigErrors(_explained(error) for error in exc.errors(include_url=False)) from None
    secrets = {
        item.name: Secret(file=str(base_dir / secret.file))
        for item in dataclasses.fields(cls)
        if isinstance(secret := getattr(settings, item.name), Secret) and secret.file
    }
    return Chosen(str(use), provider, dataclasses.replace(settings, **secrets) if secrets else settings)


def _explained(error: Any) -> ConfigError:
    path = ".".join(f"[{part}]" if isinstance(part, int) else str(part) for part in error["loc"][1:])
    return ConfigError(path.replace(".[", "["), error["msg"].removeprefix("Value error, ").lower(), "see docs/agent.md")
