"""A dialogue by rules, in a language model's place: what the caller says, and what is answered."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import MinLen

from bots.context.context import LLMContext, LLMSpecificMessage, text_of
from bots.services.llm import LLMService
from media.frames import FunctionCallFromLLM

KEYS = "DTMF: "  # how keys stand in a context: see media/dtmf_aggregator.py
_WORDS = re.compile(r"[^\w]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that callers say, and what comes of it."""

    hears: Annotated[tuple[str, ...], MinLen(1)]  # phrases; any of them
    keys: str = ""  # or these keys of the telephone
    say: str = ""
    set: Mapping[str, str] = field(default_factory=dict)  # variables of the call
    transfer: str = ""  # hand the caller over to that number, SIP URI or flow
    end: bool = False  # hang up
    next: tuple[str, ...] = ()  # only rules of these names are looked at next, and the nameless ones
    name: str = ""

    def __post_init__(self) -> None:
        if self.end and self.transfer:
            raise ValueError("can end or transfer, not both")
        if not (self.say or self.end or self.transfer or self.set):
            raise ValueError("does nothing: give say, set, transfer or end = true")


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesSettings:
    """llm = { use = "rules", rules = [...] }"""

    rules: Annotated[tuple[Rule, ...], MinLen(1)]
    otherwise: str = "I am sorry, I did not understand."  # said when no rule fits
    tries: int = 3  # how often in a row, before ...
    give_up: str = "I am sorry. Goodbye."  # ... this and the end of the call

    @property
    def phrases(self) -> Sequence[str]:
        return [phrase for rule in self.rules for phrase in rule.hears]


def words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, _WORDS.split(text.lower())))


def best_rule(rules: Sequence[Rule], text: str) -> Rule | None:
    """The rule with the longest phrase that is in `text`, word by word; or the one of the keys that were pressed."""
    if text.startswith(KEYS):
        pressed = text.removeprefix(KEYS)
        return next((rule for rule in rules if rule.keys and pressed in (rule.keys, f"{rule.keys}#")), None)
    said = words(text)
    best, length = None, 0
    for rule in rules:
        for phrase in map(words, rule.hears):
            size = len(phrase)
            if size > length and any(said[at : at + size] == phrase for at in range(len(said) - size + 1)):
                best, length = rule, size
    return best


class RulesLLMService(LLMService):
    """Answers the caller's last message by a rule.

    What a rule does beside speaking it asks for as a model does: by the functions `set_variable`, `transfer_call` and
    `end_call`, which the bot registers.
    """

    def __init__(self, rules: RulesSettings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._rules = rules
        self._open: tuple[str, ...] = ()
        self._failures = 0
        self._calls = 0

    async def _process_context(self, context: LLMContext) -> None:
        self.start_ttfb_metrics()
        message = _last(context)
        if message is None or message.get("role") != "user":
            return  # a function's result: everything was said before it
        text = text_of(message)
        rules = [rule for rule in self._rules.rules if not rule.name or not self._open or rule.name in self._open]
        rule = best_rule(rules, text) or best_rule(self._rules.rules, text)
        self.stop_ttfb_metrics()
        if rule is None:
            await self._not_understood(context)
            return
        self._failures, self._open = 0, rule.next
        if rule.say:
            self.push_text(rule.say)
        await self._do(context, rule)

    async def _not_understood(self, context: LLMContext) -> None:
        self._failures += 1
        if self._failures < self._rules.tries:
            self.push_text(self._rules.otherwise)
            return
        self.push_text(self._rules.give_up)
        await self.run_function_calls([self._asks(context, "end_call", reason="not-understood")])

    async def _do(self, context: LLMContext, rule: Rule) -> None:
        calls = [self._asks(context, "set_variable", name=name, value=value) for name, value in rule.set.items()]
        if rule.transfer:
            calls.append(self._asks(context, "transfer_call", target=rule.transfer))
        if rule.end:
            calls.append(self._asks(context, "end_call", reason="completed"))
        await self.run_function_calls(calls)
        await asyncio.sleep(0)

    def _asks(self, context: LLMContext, function: str, **arguments: Any) -> FunctionCallFromLLM:
        self._calls += 1
        return FunctionCallFromLLM(function, f"rule-{self._calls}", arguments, context)

    async def run_inference(
        self, context: LLMContext, max_tokens: int | None = None, system_instruction: str | None = None
    ) -> str | None:
        """The conversation as it is, cut: rules cannot summarise."""
        text = json.dumps([text_of(message) for message in context.messages], ensure_ascii=False)
        return text[: 4 * max_tokens] if max_tokens else text


def _last(context: LLMContext) -> Mapping[str, Any] | None:
    return next((m for m in reversed(context.messages) if not isinstance(m, LLMSpecificMessage)), None)


class Rules:
    settings = RulesSettings

    def make(self, settings: RulesSettings) -> RulesLLMService:
        return RulesLLMService(settings)


LLM = Rules()
