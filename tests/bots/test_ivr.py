"""IVRNavigator: the model's tags, the frames that come of them, and the context that they leave."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bots.context.context import LLMContext
from bots.context.pair import LLMContextAggregatorPair
from bots.ivr import CLASSIFIER_PROMPT, IVRNavigator, IVRProcessor, IVRStatus
from bots.runtime import PipelineTask
from bots.services.llm import LLMService
from media.frames import (
    EndFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMMessagesAppendFrame,
    LLMMessagesUpdateFrame,
    LLMTextFrame,
    OutputDTMFUrgentFrame,
    VADParamsUpdateFrame,
)
from media.pipeline import Pipeline
from media.vad import VADParams
from tests.media.rig import Pass, Rig

GOAL = "Navigate to billing support to discuss account charges"


class Menu:
    """The processor alone; `told` are its events."""

    def __init__(self, **options: Any) -> None:
        self.processor = IVRProcessor(ivr_prompt=GOAL, **options)
        self.told: list[Any] = []
        for event in ("on_conversation_detected", "on_ivr_status_changed"):
            self.processor.add_event_handler(event, lambda _, what: self.told.append(what))
        self.rig = Rig([self.processor]).start()
        self.first = self.rig.risen.pop()

    def write(self, *tokens: str) -> None:
        self.rig.push(LLMFullResponseStartFrame())
        for token in tokens:
            self.rig.push(LLMTextFrame(token))
        self.rig.push(LLMFullResponseEndFrame())

    @property
    def pressed(self) -> str:
        return "".join(frame.button.value for frame in self.rig.sunk if isinstance(frame, OutputDTMFUrgentFrame))

    def text(self, *, spoken: bool) -> str:
        frames = [frame for frame in self.rig.sunk if isinstance(frame, LLMTextFrame)]
        return "".join(frame.text for frame in frames if bool(frame.skip_tts) is not spoken)


def test_it_begins_by_asking_who_is_there() -> None:
    menu = Menu()
    assert isinstance(menu.first, LLMMessagesUpdateFrame)
    assert menu.first.messages == [{"role": "system", "content": CLASSIFIER_PROMPT}]
    assert not menu.first.run_llm


@pytest.mark.parametrize("tokens", [("<dtmf>1</dtmf>",), ("<dt", "mf>", "1</", "dtmf", ">")])
def test_a_key_is_pressed_and_not_spoken(tokens: tuple[str, ...]) -> None:
    menu = Menu()
    menu.write(*tokens)
    assert menu.pressed == "1"
    assert menu.text(spoken=True) == ""
    assert menu.text(spoken=False) == "<dtmf>1</dtmf>", "the model sees what it did"


def test_several_keys_and_words_in_their_order() -> None:
    menu = Menu()
    menu.write("My number: ", "<dtmf>4</dtmf><dtmf>2#</dtmf>", " thank you")
    assert menu.pressed == "42#"
    assert menu.text(spoken=True) == "My number:  thank you"
    kinds = [type(frame).__name__ for frame in menu.rig.sunk if isinstance(frame, LLMTextFrame | OutputDTMFUrgentFrame)]
    assert kinds[0] == "LLMTextFrame"
    assert kinds[-1] == "LLMTextFrame"


@pytest.mark.parametrize("tag", ["<dtmf>zero</dtmf>", "<dtmf></dtmf>", "<ivr>lost</ivr>", "<mode>robot</mode>"])
def test_what_the_model_makes_up_is_dropped(tag: str, caplog: pytest.LogCaptureFixture) -> None:
    menu = Menu()
    with caplog.at_level(logging.WARNING):
        menu.write(f"a {tag}", "b")
    assert menu.text(spoken=True) == "a b"
    assert menu.text(spoken=False) == menu.pressed == ""
    assert menu.told == []
    assert len([record for record in caplog.records if record.name == "bots.ivr"]) == 1
    assert "zero" not in caplog.text


def test_a_menu_is_detected() -> None:
    menu = Menu()
    context = LLMContext([{"role": "system", "content": "x"}, {"role": "user", "content": "press 1 for billing"}])
    menu.processor.asked(context)
    menu.write("<mode>ivr</mode>")
    update, vad = menu.rig.risen
    assert isinstance(update, LLMMessagesUpdateFrame)
    assert update.run_llm is True
    instruction, *history = update.messages
    assert GOAL in instruction["content"]
    assert history == [{"role": "user", "content": "press 1 for billing"}]
    assert isinstance(vad, VADParamsUpdateFrame)
    assert vad.params.stop_secs == 2.0
    assert menu.told == [IVRStatus.DETECTED]
    assert menu.text(spoken=True) == ""


def test_with_parameters_of_ones_own_for_the_voice_detector() -> None:
    menu = Menu(ivr_vad_params=VADParams(stop_secs=3.0))
    menu.write("<ivr>detected</ivr>")
    assert [frame.params.stop_secs for frame in menu.rig.risen if isinstance(frame, VADParamsUpdateFrame)] == [3.0]
    assert menu.told == [IVRStatus.DETECTED]


def test_a_person_is_detected() -> None:
    menu = Menu()
    menu.processor.asked(LLMContext([{"role": "system", "content": "x"}, {"role": "user", "content": "hello?"}]))
    menu.write("<mode>conversation</mode>")
    assert menu.told == [[{"role": "user", "content": "hello?"}]]
    assert menu.rig.risen == [], "what comes next is the program's to say"


def test_states_that_are_told_and_one_that_is_not() -> None:
    menu = Menu()
    for word in ("wait", "completed", "stuck"):
        menu.write(f"<ivr>{word}</ivr>")
    assert menu.told == [IVRStatus.COMPLETED, IVRStatus.STUCK]
    assert menu.text(spoken=False) == "<ivr>wait</ivr><ivr>completed</ivr><ivr>stuck</ivr>"


def test_a_tag_that_never_ends_is_text_and_one_that_is_cut_off_is_forgotten() -> None:
    menu = Menu()
    menu.write("one < two <dtmf>1")
    assert menu.pressed == ""
    assert "one < two" in menu.text(spoken=True)
    menu.rig.push(LLMTextFrame("<dtmf>"))
    menu.rig.push(InterruptionFrame())
    menu.write("1</dtmf>")
    assert menu.pressed == ""


def test_the_end_flushes() -> None:
    menu = Menu()
    menu.rig.push(LLMTextFrame("bye <"))
    menu.rig.push(EndFrame())
    assert menu.text(spoken=True).strip() == "bye <"
    assert isinstance(menu.rig.sunk[-1], EndFrame)


@given(st.lists(st.sampled_from(["<dtmf>1</dtmf>", "<ivr>wait</ivr>", "word ", "a<b ", "<ivr>stuck</ivr>"])), st.data())
def test_however_the_text_is_cut(parts: list[str], data: st.DataObject) -> None:
    text, menu = "".join(parts), Menu()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    menu.write(*(text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)))
    assert menu.pressed == "1" * parts.count("<dtmf>1</dtmf>")
    assert menu.told == [IVRStatus.STUCK] * parts.count("<ivr>stuck</ivr>")
    assert menu.text(spoken=True).split() == [part.strip() for part in "".join(p for p in parts if p[0] != "<").split()]


# ---------------------------------------------------------------- in a pipeline, with a model and a context


class Model(LLMService):
    """Answers in turn; keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        super().__init__()
        self.answers, self.asked = list(answers), list[list[Any]]()

    async def _process_context(self, context: LLMContext) -> None:
        self.asked.append([dict(message) for message in context.messages])
        await asyncio.sleep(0)
        self.push_text(self.answers.pop(0))


async def until(true: Any) -> None:
    for _ in range(3000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


def test_through_a_menu_to_a_person() -> None:
    """The page's pipeline and handlers."""

    async def main() -> None:
        llm = Model("<mode>ivr</mode>", "<dtmf>2</dtmf>", "<ivr>completed</ivr>", "<mode>conversation</mode>", "Hi!")
        context = LLMContext()
        context_aggregator = LLMContextAggregatorPair(context)
        ivr_navigator = IVRNavigator(llm=llm, ivr_prompt=GOAL, ivr_vad_params=VADParams(stop_secs=2.0))
        statuses: list[IVRStatus] = []
        sunk = Pass()
        pipeline = Pipeline(
            [
                Pass(),
                context_aggregator.user(),
                ivr_navigator,  # Add in place of LLM
                sunk,
                context_aggregator.assistant(),
            ]
        )
        task = PipelineTask(pipeline, idle_timeout_secs=None)

        @ivr_navigator.event_handler("on_ivr_status_changed")
        async def on_ivr_status_changed(processor: IVRProcessor, status: IVRStatus) -> None:
            statuses.append(status)

        @ivr_navigator.event_handler("on_conversation_detected")
        async def handle_conversation(processor: IVRProcessor, conversation_history: list[Any]) -> None:
            # conversation_history contains preserved context
            # Add additional context as needed
            enhanced_context = [
                {"role": "system", "content": "You are a customer service representative."},
                *conversation_history,
                {"role": "assistant", "content": "How can I help you today?"},
            ]
            await task.queue_frame(LLMMessagesUpdateFrame(messages=enhanced_context, run_llm=True))

        async def hears(text: str) -> None:
            message = {"role": "user", "content": text}
            await task.queue_frame(LLMMessagesAppendFrame([message], run_llm=True))

        running = asyncio.ensure_future(task.run())
        await until(lambda: bool(context.messages))
        await hears("for billing press two")
        await until(lambda: len(llm.asked) == 2)  # who it is, and then the way
        await until(lambda: any(isinstance(frame, OutputDTMFUrgentFrame) for frame in sunk.seen))
        await until(lambda: "<dtmf>2</dtmf>" in str(context.messages))
        await hears("you are being connected")
        await until(lambda: IVRStatus.COMPLETED in statuses)
        await hears("hello, this is Sarah")
        await until(lambda: len(llm.asked) == 5)
        await until(lambda: "Hi!" in str(context.messages))
        await task.cancel()
        await running

        assert statuses == [IVRStatus.DETECTED, IVRStatus.COMPLETED]
        classified, led, told, met, talked = llm.asked
        assert classified[0]["content"] == CLASSIFIER_PROMPT
        for asked in (led, told):
            assert GOAL in asked[0]["content"]
            assert {"role": "user", "content": "for billing press two"} in asked
        assert met[-1]["content"] == "hello, this is Sarah"
        assert talked[0]["content"] == "You are a customer service representative."
        assert talked[-1]["content"] == "How can I help you today?"
        spoken = [frame.text for frame in sunk.seen if isinstance(frame, LLMTextFrame) and not frame.skip_tts]
        assert spoken == ["Hi!"]
        assert not any(isinstance(frame, LLMContextFrame) for frame in sunk.seen)

    async def limited() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(limited())
