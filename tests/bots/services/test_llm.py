"""Answers: order, interruption, functions, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from bots.context.context import LLMContext
from bots.context.tools import FunctionSchema, ToolsSchema
from bots.services.llm import FunctionCallParams
from media.frames import (
    ErrorFrame,
    FunctionCallCancelFrame,
    FunctionCallFromLLM,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    FunctionCallResultProperties,
    FunctionCallsStartedFrame,
    InterruptionFrame,
    LLMConfigureOutputFrame,
    LLMContextFrame,
    LLMContextSummaryRequestFrame,
    LLMContextSummaryResultFrame,
    LLMTextFrame,
    StartFrame,
    TextFrame,
)
from tests.bots.services.rig import Thinker, pipeline, settle
from tests.endtoend.served import until


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await main

    asyncio.run(limited())


def asks(*names: str, **arguments: Any) -> Callable[[LLMContext], Sequence[FunctionCallFromLLM]]:
    return lambda context: [FunctionCallFromLLM(name, f"id-{name}", arguments, context) for name in names]


def hello() -> LLMContext:
    return LLMContext([{"role": "user", "content": "hello"}])


def test_an_answer_stands_between_its_marks_and_what_follows_waits() -> None:
    async def main() -> None:
        go_on = asyncio.Event()
        llm = Thinker(["Hel", go_on, "lo"])
        async with pipeline(llm) as rig:
            await rig.push(LLMContextFrame(hello()), TextFrame("behind"))
            assert rig.after.names(StartFrame) == ["LLMFullResponseStartFrame", "LLMTextFrame"]
            go_on.set()
            await settle()
            assert [frame.text for frame in rig.after.of(TextFrame)] == ["Hel", "lo", "behind"]
            assert rig.after.names(StartFrame, LLMTextFrame)[1:] == ["LLMFullResponseEndFrame", "TextFrame"]

    run(main())


def test_an_interrupted_answer_says_nothing_more_and_another_one_can() -> None:
    async def main() -> None:
        llm = Thinker(["One", asyncio.Event(), "two"], ["Three"])
        async with pipeline(llm) as rig:
            await rig.push(LLMContextFrame(hello()), TextFrame("dropped"))
            await rig.push(InterruptionFrame())
            await rig.push(LLMContextFrame(hello()))
            await settle()
            assert [frame.text for frame in rig.after.of(TextFrame)] == ["One", "Three"]

    run(main())


def test_an_error_ends_the_answer_and_not_the_call() -> None:
    async def main() -> None:
        llm = Thinker(["One", ValueError("bad key")], [TimeoutError()], ["Two"])
        timeouts: list[Any] = []
        llm.add_event_handler("on_completion_timeout", timeouts.append)
        async with pipeline(llm) as rig:
            for _ in range(3):
                await rig.push(LLMContextFrame(hello()))
            errors = [frame.error for frame in rig.before.up if isinstance(frame, ErrorFrame)]
            assert errors == ["ValueError: bad key", "no answer in time: TimeoutError: "]
            assert timeouts == [llm]
            assert [frame.text for frame in rig.after.of(LLMTextFrame)] == ["One", "Two"]

    run(main())


def test_a_function_is_called_and_its_result_told_both_ways() -> None:
    async def main() -> None:
        llm = Thinker(["Let me see.", asks("weather", city="Rome")])
        seen: list[Any] = []

        async def weather(params: FunctionCallParams) -> None:
            seen.append((params.function_name, params.arguments["city"], params.llm))
            await params.result_callback({"sun": True}, properties=FunctionCallResultProperties(run_llm=False))
            await params.result_callback("a second one is not told")

        llm.register_function("weather", weather)
        started: list[Any] = []
        llm.add_event_handler("on_function_calls_started", lambda service, calls: started.append(len(calls)))
        async with pipeline(llm) as rig:
            await rig.push(LLMContextFrame(hello()))
            await until(lambda: bool(rig.after.of(FunctionCallResultFrame)))
            await settle()
            assert seen == [("weather", "Rome", llm)]
            assert started == [1]
            for frames in (rig.after.down, rig.before.up):
                kinds = [type(frame).__name__ for frame in frames if "FunctionCall" in type(frame).__name__]
                assert kinds == ["FunctionCallsStartedFrame", "FunctionCallInProgressFrame", "FunctionCallResultFrame"]
            (result,) = rig.after.of(FunctionCallResultFrame)
            assert (result.result, result.run_llm) == ({"sun": True}, False)

    run(main())


def test_plain_python_functions() -> None:
    async def book(params: FunctionCallParams, day: str, seats: int = 2) -> None:
        """Book a table.

        Args:
            day: the day of the week
            seats: how many people
        """
        await params.result_callback(f"{seats} on {day}")

    async def main() -> None:
        context = LLMContext([], ToolsSchema([book]))
        assert context.tools.standard_tools == [
            FunctionSchema(
                name="book",
                description="Book a table.",
                properties={
                    "day": {"type": "string", "description": "the day of the week"},
                    "seats": {"type": "integer", "description": "how many people"},
                },
                required=["day"],
            )
        ]
        llm = Thinker([asks("book", day="Monday", seats=4)], [asks("book", day="Friday")])
        async with pipeline(llm) as rig:
            await rig.push(LLMContextFrame(context))
            await until(lambda: len(rig.after.of(FunctionCallResultFrame)) == 1)
            llm.register_direct_function(book)
            await rig.push(LLMContextFrame(hello()))
            await until(lambda: len(rig.after.of(FunctionCallResultFrame)) == 2)
            assert [frame.result for frame in rig.after.of(FunctionCallResultFrame)] == ["4 on Monday", "2 on Friday"]

    run(main())


def test_functions_that_fail_hang_or_do_not_exist() -> None:
    async def fails(params: FunctionCallParams) -> None:
        raise KeyError("nothing")

    async def hangs(params: FunctionCallParams) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        llm = Thinker([asks("fails", "hangs", "unknown")])
        llm.register_function("fails", fails)
        llm.register_function("hangs", hangs, timeout_secs=0.02)
        async with pipeline(llm) as rig:
            await rig.push(LLMContextFrame(hello()))
            await until(lambda: len(rig.after.of(FunctionCallResultFrame)) == 2)
            results = {frame.function_name: frame.result for frame in rig.after.of(FunctionCallResultFrame)}
            assert results == {"fails": {"error": "KeyError: 'nothing'"}, "hangs": None}
            errors = [frame.error for frame in rig.before.up if isinstance(frame, ErrorFrame)]
            assert errors == [
                "the model called 'unknown', which is not registered",
                "function fails: KeyError: 'nothing'",
            ]

    run(main())


def test_an_interruption_cancels_the_functions_that_allow_it() -> None:
    async def main() -> None:
        llm = Thinker([asks("short", "long")])
        finish = asyncio.Event()

        async def work(params: FunctionCallParams) -> None:
            await finish.wait()
            await params.result_callback("done")

        llm.register_function("short", work)
        llm.register_function("long", work, cancel_on_interruption=False)
        async with pipeline(llm) as rig:
            await rig.push(LLMContextFrame(hello()))
            await rig.push(InterruptionFrame())
            assert [frame.function_name for frame in rig.after.of(FunctionCallCancelFrame)] == ["short"]
            finish.set()
            await until(lambda: bool(rig.after.of(FunctionCallResultFrame)))
            await settle()
            assert [frame.function_name for frame in rig.after.of(FunctionCallResultFrame)] == ["long"]
            flags = [frame.cancel_on_interruption for frame in rig.after.of(FunctionCallInProgressFrame)]
            assert flags == [True, False]
            assert len(rig.after.of(FunctionCallsStartedFrame)) == 1

    run(main())


def test_one_after_the_other() -> None:
    async def main() -> None:
        llm = Thinker([asks("a", "b")], run_in_parallel=False)
        order: list[str] = []

        async def work(params: FunctionCallParams) -> None:
            order.append(f"{params.function_name} begins")
            await asyncio.sleep(0.005)
            order.append(f"{params.function_name} ends")
            await params.result_callback(None)

        llm.register_function(None, work)
        async with pipeline(llm) as rig:
            await rig.push(LLMContextFrame(hello()))
            await until(lambda: len(rig.after.of(FunctionCallResultFrame)) == 2)
            assert order == ["a begins", "a ends", "b begins", "b ends"]

    run(main())


def test_an_answer_that_is_not_to_be_spoken() -> None:
    async def main() -> None:
        llm = Thinker(["silent"])
        async with pipeline(llm) as rig:
            await rig.push(LLMConfigureOutputFrame(True), LLMContextFrame(hello()))
            await settle()
            answer: list[Any] = rig.after.down[1:]
            assert [frame.skip_tts for frame in answer] == [True, True, True]

    run(main())


def test_a_summary_is_told_both_ways() -> None:
    def request(context: LLMContext, keep: int = 1) -> LLMContextSummaryRequestFrame:
        return LLMContextSummaryRequestFrame("7", context, keep, 100, "shorten", 5.0)

    async def main() -> None:
        llm = Thinker("They talked.")
        many = LLMContext([{"role": "user", "content": str(number)} for number in range(4)])
        async with pipeline(llm) as rig:
            await rig.push(request(many))
            await until(lambda: bool(rig.after.of(LLMContextSummaryResultFrame)))
            (told,) = rig.after.of(LLMContextSummaryResultFrame)
            assert (told.request_id, told.summary, told.last_summarized_index) == ("7", "They talked.", 2)
            assert llm.contexts == [[{"role": "user", "content": "USER: 0\nUSER: 1\nUSER: 2"}]]
            assert any(isinstance(frame, LLMContextSummaryResultFrame) for frame in rig.before.up)
            await rig.push(request(many, keep=9))
            await until(lambda: len(rig.after.of(LLMContextSummaryResultFrame)) == 2)
            assert rig.after.of(LLMContextSummaryResultFrame)[1].error == "there is nothing to summarise"

    run(main())
