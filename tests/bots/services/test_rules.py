"""A dialogue by rules."""

from __future__ import annotations

from typing import Any

import pytest

from bots.context.context import LLMContext
from bots.services.llm import FunctionCallParams
from bots.services.pocketsphinx import plain, recognise
from bots.services.rules import Rule, RulesLLMService, RulesSettings, best_rule
from bots.speech import speak
from media.frames import FunctionCallResultProperties, LLMContextFrame, LLMTextFrame
from tests.bots.services.rig import pipeline, settle
from tests.endtoend.served import run

HOURS = Rule(hears=("opening hours", "open"), say="Nine to five.", set={"intent": "hours"})
OPEN_SUNDAY = Rule(hears=("open on sunday",), say="No.")
BYE = Rule(hears=("goodbye",), end=True)
YES = Rule(hears=("yes",), say="Which?", name="more")
NEXT = Rule(hears=("more",), say="More?", next=("more",))


def test_the_longest_phrase_wins_and_words_are_whole() -> None:
    rules = [HOURS, OPEN_SUNDAY, BYE]
    assert best_rule(rules, "Are you open on Sunday?") is OPEN_SUNDAY
    assert best_rule(rules, "When do you open?") is HOURS
    assert best_rule(rules, "reopening") is None


def test_keys_are_an_answer_too() -> None:
    rules = [Rule(hears=("twelve",), keys="12", say="x"), Rule(hears=("one",), keys="1", say="y")]
    assert best_rule(rules, "DTMF: 12#") is rules[0]
    assert best_rule(rules, "DTMF: 1") is rules[1]
    assert best_rule(rules, "DTMF: 2") is None


def test_what_a_rule_does() -> None:
    async def main() -> None:
        llm = RulesLLMService(RulesSettings(rules=(HOURS, BYE)))
        done: list[Any] = []

        async def work(params: FunctionCallParams) -> None:
            done.append((params.function_name, dict(params.arguments)))
            await params.result_callback(None, properties=FunctionCallResultProperties(run_llm=False))

        llm.register_function(None, work)
        async with pipeline(llm) as rig:
            for text in ("opening hours please", "goodbye"):
                await rig.push(LLMContextFrame(LLMContext([{"role": "user", "content": text}])))
                await settle()
            assert [frame.text for frame in rig.after.of(LLMTextFrame)] == ["Nine to five."]
            assert done == [
                ("set_variable", {"name": "intent", "value": "hours"}),
                ("end_call", {"reason": "completed"}),
            ]

    run(main())


def test_who_is_not_understood_is_told_and_at_last_let_go() -> None:
    async def main() -> None:
        llm = RulesLLMService(RulesSettings(rules=(BYE,), otherwise="What?", tries=2, give_up="Bye."))
        ended: list[str] = []

        async def end(params: FunctionCallParams) -> None:
            ended.append(params.arguments["reason"])
            await params.result_callback(None)

        llm.register_function("end_call", end)
        async with pipeline(llm) as rig:
            for _ in range(2):
                await rig.push(LLMContextFrame(LLMContext([{"role": "user", "content": "mumble"}])))
                await settle()
            assert [frame.text for frame in rig.after.of(LLMTextFrame)] == ["What?", "Bye."]
            assert ended == ["not-understood"]

    run(main())


def test_rules_may_wait_for_an_answer() -> None:
    async def main() -> None:
        llm = RulesLLMService(RulesSettings(rules=(YES, NEXT, BYE)))
        async with pipeline(llm) as rig:
            for text in ("more", "yes"):
                await rig.push(LLMContextFrame(LLMContext([{"role": "user", "content": text}])))
                await settle()
            assert [frame.text for frame in rig.after.of(LLMTextFrame)] == ["More?", "Which?"]

    run(main())


@pytest.mark.parametrize("wrong", [{"hears": ("x",)}, {"hears": ("x",), "end": True, "transfer": "+1"}])
def test_rules_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"does nothing|not both"):
        Rule(**wrong)


def test_phrases_are_recognised_offline() -> None:
    phrases = ["opening hours", "sales", "goodbye", "speak to somebody"]
    for phrase in phrases:
        assert recognise(phrases, speak(phrase, "en-us+f3", 8000), 8000) == phrase
    assert plain("Good-bye, Sir!") == "good bye sir"
