"""Bots that are programs: `use = "mypackage.mybot:bot"` in gateway.toml.

What the name may stand for:

* `async def bot(call)`: gets a `LiveCall` (bots/talk.py); when it returns, the call ends;
* a class with `async def run(self, call)`: one object for each call, made as `cls()`;
* `def bot(call)`: gives the processors of the call's pipeline, and waits for nothing;
* an object with `settings` and `prepare`, as a module in bots/ exports it.

Modules are looked for beside gateway.toml first. They are imported when the configuration loads, so that the first
call does not wait for them; when it loads again, what has changed is imported anew, and live calls keep what they
have. A module, or a class, may have a coroutine function `warm_up()`, which is awaited before the first call.
"""

from __future__ import annotations

import importlib
import inspect
import linecache
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, cast

from annotated_types import Ge

from bots.base import Bot, Build, Call, PrepareContext
from bots.talk import LiveCall, Program, Talk, Voice
from media.errors import ConfigError
from media.processor import FrameProcessor


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeSettings:
    """[bots.<name>] with use = "<module>:<name>"."""

    voice: str = ""  # of what the program says
    silence_s: Annotated[float, Ge(0)] = 120.0  # in which it neither speaks nor waits for anything of the call; 0: any
    options: Mapping[str, Any] = field(default_factory=dict)  # the program's own: call.options


class CodeBot:
    """A program as a bot. `use` is "<module>:<name>", the name perhaps dotted."""

    settings = CodeSettings

    def __init__(self, use: str) -> None:
        self.use = use

    async def prepare(self, settings: CodeSettings, context: PrepareContext) -> Build:
        """ConfigError: there is no such module or name, importing it fails, or it is not a bot."""
        module, target = load(self.use, context.base_dir)
        for owner in (module, target) if inspect.isclass(target) else (module,):
            warm_up = getattr(owner, "warm_up", None)
            if inspect.iscoroutinefunction(warm_up):
                await warm_up()
        if inspect.isfunction(target) and not inspect.iscoroutinefunction(target):
            return target
        voice, program = Voice(context, settings.voice), program_of(target, self.use)

        def build(call: Call) -> Sequence[FrameProcessor]:
            live = LiveCall(call, voice, settings.options)
            folder, silence_s = context.base_dir, settings.silence_s
            return (Talk(live, program, lambda exc: where(exc, folder), lambda coro: waits(coro, folder), silence_s),)

        return build


def bot_of(use: str) -> Bot:
    return CodeBot(use)


def program_of(target: Any, use: str) -> Program:
    """What is awaited for one call. ConfigError if `target` is neither coroutine function nor class with `run`."""
    if inspect.iscoroutinefunction(target):
        return cast(Program, target)
    if inspect.isclass(target) and inspect.iscoroutinefunction(getattr(target, "run", None)):
        make: Any = target
        return lambda call: make().run(call)
    raise ConfigError(
        "use",
        f"{use} is a {type(target).__name__}, which cannot take calls",
        "name an async def of one argument, or a class with async def run(self, call)",
    )


# ---------------------------------------------------------------- modules


def load(use: str, base_dir: Path) -> tuple[ModuleType, Any]:
    """The module and what is named in it; imported anew if a file of it has changed. Raises ConfigError."""
    name, _, attribute = use.partition(":")
    if not name or not attribute:
        raise ConfigError("use", f"{use!r} names no program", 'write "<module>:<name>"')
    folder = base_dir.resolve()
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        module = _import(name, folder)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(exc.name + ".")):
            raise ConfigError("use", f"there is no module {name}", f"put it into {folder}, or install it") from exc
        raise ConfigError("use", f"{name} needs {exc.name}, which is not installed", f"pip install {exc.name}") from exc
    except Exception as exc:
        raise ConfigError("use", f"importing {name} failed: {where(exc, base_dir)}", "mend the program") from exc
    target: Any = module
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            names = ", ".join(sorted(key for key in vars(module) if not key.startswith("_"))[:20])
            raise ConfigError("use", f"{name} has no {attribute}", f"it has {names}") from None
    return module, target


_ours: dict[str, tuple[Path, tuple[int, int]]] = {}  # modules of programs: the file, and its (ns, bytes) when imported


def _import(name: str, folder: Path) -> ModuleType:
    """The module as its files are now. If one of the programs' modules has changed, all of them are imported anew,
    for they import one another; whoever holds the old ones keeps them."""
    importlib.invalidate_caches()
    linecache.checkcache()
    if any(_state(path) != state for path, state in _ours.values()):
        for old in _ours:
            sys.modules.pop(old, None)
        _ours.clear()
    before = set(sys.modules)
    try:
        return importlib.import_module(name)
    finally:
        for new in set(sys.modules) - before:
            path = Path(getattr(sys.modules[new], "__file__", None) or "")
            if path.is_relative_to(folder) and "site-packages" not in path.parts:
                _ours[new] = path, _state(path)


def _state(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


def code_state() -> tuple[tuple[Path, tuple[int, int]], ...]:
    """The files of the programs' modules, each with its (ns, bytes) as it is now."""
    return tuple((path, _state(path)) for path, _ in _ours.values())


def waits(coro: Any, folder: Path) -> str:
    """The innermost line of the program's own at which a coroutine waits; "" if there is none."""
    at = ""
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None) or getattr(coro, "ag_frame", None)
        if frame is not None and Path(frame.f_code.co_filename).is_relative_to(folder.resolve()):
            at = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None) or getattr(coro, "ag_await", None)
    return at


def where(exc: BaseException, folder: Path) -> str:
    """What was raised, and the innermost line of the program's own at which it happened."""
    frames = traceback.extract_tb(exc.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(folder.resolve())]
    if isinstance(exc, SyntaxError) and exc.filename:
        return f"{Path(exc.filename).name}:{exc.lineno}: {exc.msg}"
    at = (own or frames)[-1:]
    place = f"{Path(at[0].filename).name}:{at[0].lineno}: " if at else ""
    return f"{place}{type(exc).__name__}: {exc}"
