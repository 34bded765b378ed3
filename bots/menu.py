"""Menus of keys, declared in gateway.toml.

Three steps: `MenuSettings` is what the file says, `compile_menus` checks it as a whole and makes the prompts,
`MenuWalk` takes one caller through it. Digits may come at any time: during a prompt they silence it, several in a row
walk on without waiting for the prompts between.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval, MinLen

from bots.base import Bot, Build, Call, PrepareContext, TimerHandle
from bots.hearing import ears
from bots.prompts import Prompt, PromptMaker, PromptSetting, say
from media.errors import ConfigError, ConfigErrors, toml_path
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CallPausedFrame,
    CallResumedFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    KeypadEntry,
    OutputAudioRawFrame,
    StartFrame,
    StopFrame,
)
from media.processor import FrameDirection, FrameProcessor

_KEYS = "".join(key.value for key in KeypadEntry)
_CHOICE = re.compile(rf"[{re.escape(_KEYS)}]{{1,16}}")
_ENTER = KeypadEntry.POUND.value  # ends a choice of several digits at once, where no choice goes on with it

# ---------------------------------------------------------------- what the file says


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a key does: perhaps say something, then one thing at most. After `say` alone the menu comes again."""

    say: PromptSetting | None = None
    menu: str = ""  # go to that menu
    transfer: str = ""  # hand the caller over to that number, SIP URI or flow
    end: bool = False  # hang up
    back: bool = False  # to the menu before
    repeat: bool = False  # the same menu once more

    def __post_init__(self) -> None:
        actions = self.actions
        if len(actions) > 1:
            raise ValueError(f"can do one thing only, not {' and '.join(actions)}")
        if not actions and self.say is None:
            raise ValueError("does nothing: give say, menu, transfer, end = true, back = true or repeat = true")

    @property
    def actions(self) -> list[str]:
        return [name for name in ("menu", "transfer", "end", "back", "repeat") if getattr(self, name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Menu:
    """[bots.<name>.menus.<menu>]; what is left out is as in [bots.<name>]."""

    prompt: PromptSetting
    choices: Annotated[dict[str, Choice], MinLen(1)]  # by the keys to press: "1", "12", "*"
    invalid: PromptSetting | None = None
    no_input: PromptSetting | None = None
    timeout_s: Annotated[float, Gt(0)] | None = None
    digit_gap_s: Annotated[float, Gt(0)] | None = None
    tries: Annotated[int, Ge(1)] | None = None
    give_up: Choice | None = None
    echo: bool = False  # the caller hears himself while the menu waits: a test of the line


@dataclass(frozen=True, slots=True, kw_only=True)
class MenuSettings:
    """[bots.<name>] with use = "menu"."""

    menus: Annotated[dict[str, Menu], MinLen(1)]
    start: str = "main"  # the first menu
    voice: str = ""  # for prompts that are text; "": the usual one
    barge_in: bool = True  # a caller's voice pauses a prompt, and ends it if it goes on
    invalid: PromptSetting | None = None  # said before the menu comes again after a wrong key
    no_input: PromptSetting | None = None  # the same after no key
    timeout_s: Annotated[float, Interval(gt=0, le=600)] = 6.0  # without a key, from the end of the prompt
    digit_gap_s: Annotated[float, Interval(gt=0, le=60)] = 2.0  # how long "1" waits for another digit where "12" exists
    tries: Annotated[int, Interval(ge=1, le=100)] = 3  # how often a menu is said in vain
    give_up: Choice = field(default_factory=lambda: Choice(end=True))  # then this: must end or transfer


# ---------------------------------------------------------------- what a call walks through


@dataclass(slots=True)
class Step:
    """A choice with its sound made."""

    action: str  # of Choice, "" for saying only
    target: str = ""
    said: tuple[Prompt, ...] = ()


@dataclass(slots=True)
class Node:
    """A menu with its sound made."""

    prompt: Prompt
    steps: Mapping[str, Step]
    unfinished: frozenset[str]  # digits with which a longer choice begins
    invalid: tuple[Prompt, ...]
    no_input: tuple[Prompt, ...]
    timeout_s: float
    digit_gap_s: float
    tries: int
    give_up: Step
    echo: bool


def compile_menus(settings: MenuSettings, context: PrepareContext) -> Mapping[str, Node]:
    """The menus by name. Raises ConfigErrors: all that is wrong, paths inside the bot's table."""
    maker = PromptMaker(context, settings.voice)
    errors: list[ConfigError] = list(_wrong(settings))
    made = {name: maker.make(name, setting) for name, setting in _spoken(settings, ("invalid", "no_input"))}
    given_up = _step(maker, "give_up", settings.give_up)
    nodes: dict[str, Node] = {}
    for name, menu in settings.menus.items():
        path = toml_path("menus", name)
        prompt = maker.make(f"{path}.prompt", menu.prompt)
        own = {key: maker.make(f"{path}.{key}", setting) for key, setting in _spoken(menu, ("invalid", "no_input"))}
        table = _choices_path(name)
        steps = {keys: _step(maker, toml_path(table, keys), choice) for keys, choice in menu.choices.items()}
        said = {**made, **own}
        nodes[name] = Node(
            prompt=prompt,
            steps=steps,
            unfinished=frozenset(keys[:length] for keys in steps for length in range(1, len(keys))),
            invalid=(said["invalid"],) if "invalid" in said else (),
            no_input=(said["no_input"],) if "no_input" in said else (),
            timeout_s=menu.timeout_s or settings.timeout_s,
            digit_gap_s=menu.digit_gap_s or settings.digit_gap_s,
            tries=menu.tries or settings.tries,
            give_up=given_up if menu.give_up is None else _step(maker, f"{path}.give_up", menu.give_up),
            echo=menu.echo,
        )
    errors += maker.errors
    if errors:
        raise ConfigErrors(errors)
    return nodes


def _spoken(table: Menu | MenuSettings, names: Sequence[str]) -> Iterator[tuple[str, PromptSetting]]:
    for name in names:
        if (setting := getattr(table, name)) is not None:
            yield name, setting


def _step(maker: PromptMaker, path: str, choice: Choice) -> Step:
    action = next(iter(choice.actions), "")
    said = () if choice.say is None else (maker.make(f"{path}.say", choice.say),)
    return Step(action, {"menu": choice.menu, "transfer": choice.transfer}.get(action, ""), said)


def _wrong(settings: MenuSettings) -> Iterator[ConfigError]:
    """What no single table can know: keys, targets, menus that nothing leads to."""
    known = ", ".join(settings.menus)
    if settings.start not in settings.menus:
        yield ConfigError("start", f"there is no menu {settings.start!r}", f"known: {known}")
    for path, choice in _choices(settings):
        if choice.menu and choice.menu not in settings.menus:
            yield ConfigError(f"{path}.menu", f"there is no menu {choice.menu!r}", f"known: {known}")
        if path.endswith("give_up") and choice.actions not in (["end"], ["transfer"]):
            # Else a caller who only holds the line would be led in a circle until the longest call is over.
            yield ConfigError(path, "must end or transfer", "write end = true or transfer = ...")
    for name, menu in settings.menus.items():
        for keys in menu.choices:
            if not _CHOICE.fullmatch(keys):
                path = toml_path(_choices_path(name), keys)
                yield ConfigError(path, "is no key of a telephone", f"keys: {_KEYS}")
    reached: set[str] = set()
    ahead = [settings.start]
    while ahead:
        if (name := ahead.pop()) in settings.menus and name not in reached:
            reached.add(name)
            ahead += [choice.menu for choice in settings.menus[name].choices.values() if choice.menu]
    for name in settings.menus:
        if reached and name not in reached:
            remedy = f'give a choice menu = "{name}", or drop it'
            yield ConfigError(toml_path("menus", name), "no choice leads to it", remedy)


def _choices(settings: MenuSettings) -> Iterator[tuple[str, Choice]]:
    yield "give_up", settings.give_up
    for name, menu in settings.menus.items():
        for keys, choice in menu.choices.items():
            yield toml_path(_choices_path(name), keys), choice
        if menu.give_up is not None:
            yield f"{toml_path('menus', name)}.give_up", menu.give_up


def _choices_path(menu: str) -> str:
    return f"{toml_path('menus', menu)}.choices"


# ---------------------------------------------------------------- one caller's way


class MenuWalk(FrameProcessor):
    """Takes one caller through the menus."""

    def __init__(self, call: Call, nodes: Mapping[str, Node], start: str) -> None:
        super().__init__()
        self._call = call
        self._nodes = nodes
        self._way = [start]  # the menus that led here; the last is the one we are in
        self._node = nodes[start]
        self._failures = 0  # in a row, in this menu
        self._typed = ""  # digits that are not a choice yet
        self._leaving = False  # the call ends: nothing more is asked
        self._farewell: Step | None = None  # how, once the last words were said
        self._sample_rate = call.info.send.sample_rate  # the wire's: what is said needs no resampling
        self._running = False
        self._speaking = False  # an utterance was pushed and has not ended
        self._begun = False  # ... and the caller hears it
        self._paused = False
        self._echoing = False
        self._timer: TimerHandle | None = None
        self._after: Mapping[type, Callable[[Any], None]] = {
            BotStartedSpeakingFrame: self._on_started,
            BotStoppedSpeakingFrame: self._on_stopped,
            StartFrame: self._on_start,
            CallPausedFrame: self._on_paused,
            CallResumedFrame: self._on_resumed,
            EndFrame: self._on_end,
            StopFrame: self._on_end,
            CancelFrame: self._on_end,
        }

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, InputAudioRawFrame):  # it ends here: nobody listens behind us
            if self._echoing:
                self.push_frame(OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels))
            return
        if isinstance(frame, InputDTMFFrame):
            self._on_digit(frame)
            return
        self.push_frame(frame, direction)
        if handle := self._after.get(type(frame)):
            handle(frame)

    # ------------------------------------------------------------ what happens

    def _on_start(self, frame: StartFrame) -> None:
        self._running = True
        if self._typed:
            self._read(complete=False)
        else:
            self._say(self._node.prompt)

    def _on_digit(self, frame: InputDTMFFrame) -> None:
        if self._leaving:
            return
        digit = frame.button.value
        self._stop_waiting()
        if self._speaking:
            self._speaking = self._begun = False
            self._call.interrupt()
        enter = digit == _ENTER and self._typed != "" and not self._may_follow(digit)
        if not enter:
            self._typed += digit
        if self._running:
            self._read(complete=enter)

    def _may_follow(self, digit: str) -> bool:
        typed = self._typed + digit
        return typed in self._node.steps or typed in self._node.unfinished

    def _on_started(self, frame: BotStartedSpeakingFrame) -> None:
        self._begun = True

    def _on_stopped(self, frame: BotStoppedSpeakingFrame) -> None:
        # The end of what was interrupted arrives after the next prompt was pushed and before it begins.
        if self._speaking and self._begun:
            self._speaking = self._begun = False
            self._await_digit()

    def _on_paused(self, frame: CallPausedFrame) -> None:
        self._paused = True
        self._stop_waiting()

    def _on_resumed(self, frame: CallResumedFrame) -> None:
        self._paused = False
        self._await_digit()

    def _on_end(self, frame: Frame) -> None:
        self._leaving = True
        self._stop_waiting()

    # ------------------------------------------------------------ waiting

    def _await_digit(self) -> None:
        """Set the clock for the next digit, unless the caller is listening, on hold, or on the way out."""
        self._stop_waiting()
        if self._speaking or self._leaving or self._paused or not self._running:
            return
        if self._typed:
            self._timer = self._call.call_later(self._node.digit_gap_s, self._on_gap)
        else:
            self._timer = self._call.call_later(self._node.timeout_s, self._on_timeout)
            self._echoing = self._node.echo

    def _stop_waiting(self) -> None:
        self._echoing = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_gap(self) -> None:
        self._read(complete=True)

    def _on_timeout(self) -> None:
        self._miss(self._node.no_input)

    # ------------------------------------------------------------ walking

    def _read(self, *, complete: bool) -> None:
        """Make choices of the digits typed so far: the longest that fits, unless a longer one may still come."""
        said: tuple[Prompt, ...] = ()
        while self._typed and not self._leaving:
            if self._typed in self._node.unfinished and not complete:
                self._await_digit()  # what would have been said is skipped: the caller has typed ahead
                return
            lengths = range(len(self._typed), 0, -1)
            keys = next((keys for length in lengths if (keys := self._typed[:length]) in self._node.steps), "")
            if not keys:
                self._typed = ""
                self._miss(self._node.invalid)
                return
            self._typed = self._typed[len(keys) :]
            said = self._choose(self._node.steps[keys])
        self._say(*said)

    def _miss(self, said: tuple[Prompt, ...]) -> None:
        self._failures += 1
        if self._failures >= self._node.tries:
            self._say(*self._choose(self._node.give_up))
        else:
            self._say(*said, self._node.prompt)

    def _choose(self, step: Step) -> tuple[Prompt, ...]:
        """Do what a choice says; gives what is to be said then."""
        self._failures = 0
        if step.action in ("end", "transfer"):
            self._leaving, self._farewell = True, step
            return step.said
        if step.action == "menu":
            # A menu we came through is gone back to: walking in a circle must not make the way longer.
            if step.target in self._way:
                del self._way[self._way.index(step.target) :]
            self._way.append(step.target)
        elif step.action == "back" and len(self._way) > 1:
            self._way.pop()
        self._node = self._nodes[self._way[-1]]
        return (*step.said, self._node.prompt)

    def _say(self, *prompts: Prompt) -> None:
        self._stop_waiting()
        if prompts:
            self._speaking, self._begun = True, False
            say(self, prompts, self._sample_rate)
        if (step := self._farewell) is not None:  # both wait until what was just said is heard
            self._farewell = None
            if step.action == "transfer":
                self._call.transfer(step.target)
            else:
                self._call.end("completed")


class MenuBot:
    """use = "menu"."""

    settings = MenuSettings

    def prepare(self, settings: MenuSettings, context: PrepareContext) -> Build:
        nodes = compile_menus(settings, context)
        if settings.barge_in:
            context.will_hear()

        def build(call: Call) -> Sequence[FrameProcessor]:
            return (*ears(settings.barge_in), MenuWalk(call, nodes, settings.start))

        return build


BOT: Bot = MenuBot()
