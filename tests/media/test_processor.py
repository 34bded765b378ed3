"""Processors: links, the handshake, order, re-entry, errors, pause, budget."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import logging
import pkgutil
import textwrap
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import bots
import media
from media.flow import UNBOUND
from media.frames import (
    DataFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    FrameProcessorPauseFrame,
    FrameProcessorPauseUrgentFrame,
    FrameProcessorResumeFrame,
    FrameProcessorResumeUrgentFrame,
    InputAudioRawFrame,
    InputTextRawFrame,
    InterruptionFrame,
    StartFrame,
    TextFrame,
    UninterruptibleFrame,
    UserStartedSpeakingFrame,
)
from media.pipeline import ParallelPipeline, Pipeline
from media.processor import DONE, FrameDirection, FrameProcessor, FrameProcessorSetup
from tests.media.rig import Call, Pass, Rig, VirtualRuntime, labels, run, started

DOWN, UP = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM


@dataclass
class Important(DataFrame, UninterruptibleFrame):
    """A frame as users write them: with dict and equality, hence unhashable."""

    text: str


# ---------------------------------------------------------------- what a processor is


def test_directions_have_the_known_numbers() -> None:
    assert (FrameDirection.DOWNSTREAM.value, FrameDirection.UPSTREAM.value) == (1, 2)


def test_a_subclass_need_not_call_super_init() -> None:
    class Bare(FrameProcessor):
        def __init__(self, word: str) -> None:
            self._word = word
            self._handlers = {"mine": 1}

        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            self.push_frame(TextFrame(self._word) if isinstance(frame, TextFrame) else frame, direction)

    bare = Bare("said")
    rig = started(bare)
    rig.push(TextFrame("x"))
    assert rig.down() == ["said"]
    assert bare.name.startswith("Bare#")


def test_names_count_per_class_and_ids_are_unique() -> None:
    class Named(FrameProcessor):
        pass

    first, second, given = Named(), Named(), Named(name="mine")
    assert (first.name, second.name, given.name) == ("Named#0", "Named#1", "mine")
    assert str(given) == "mine"
    assert len({first.id, second.id, given.id}) == 3


def test_constructor_takes_keywords_only() -> None:
    with pytest.raises(TypeError):
        FrameProcessor("name")  # type: ignore[call-arg]
    assert FrameProcessor(name="n", enable_direct_mode=True, metrics=None).enable_direct_mode


def test_neighbours_by_link() -> None:
    first, second = Pass(), Pass()
    first.link(second)
    assert first.next is second
    assert second.previous is first
    assert first.previous is None


def test_a_processor_outside_a_pipeline_has_no_runtime(caplog: pytest.LogCaptureFixture) -> None:
    lonely = Pass()
    with pytest.raises(RuntimeError, match="in no pipeline"):
        _ = lonely.runtime
    lonely.push_frame(TextFrame("x"))
    lonely.push_frame(TextFrame("x"), UP)
    lonely.push_frame(InterruptionFrame(), UP)
    lonely.queue_frame(TextFrame("x"))
    assert caplog.text.count("processor.not_started") == 4
    assert not UNBOUND.waiting

    async def work() -> None: ...

    with pytest.raises(RuntimeError, match="in no pipeline"):
        lonely.create_task(work())


# ---------------------------------------------------------------- what methods give back


class Everything(FrameProcessor):
    """Nothing overridden."""


CALLS: dict[str, tuple[Any, ...]] = {
    "process_frame": (TextFrame("x"), DOWN),
    "push_frame": (TextFrame("x"),),
    "queue_frame": (TextFrame("x"),),
    "push_error": ("oops",),
    "push_error_frame": (ErrorFrame("oops"),),
    "broadcast_frame": (UserStartedSpeakingFrame,),
    "broadcast_frame_instance": (UserStartedSpeakingFrame(),),
    "broadcast_interruption": (),
    "pause_processing_frames": (),
    "resume_processing_frames": (),
    "start_ttfb_metrics": (),
    "stop_ttfb_metrics": (),
    "start_processing_metrics": (),
    "stop_processing_metrics": (),
    "start_text_aggregation_metrics": (),
    "stop_text_aggregation_metrics": (),
    "start_llm_usage_metrics": (None,),
    "start_tts_usage_metrics": ("text",),
    "stop_all_metrics": (),
    "cleanup": (),
    "_call_event_handler": ("on_nothing",),
}


@pytest.mark.parametrize("make", [Everything, lambda: Pipeline([]), lambda: ParallelPipeline([])])
@pytest.mark.parametrize("method", CALLS)
def test_every_plain_method_can_be_awaited_or_not(method: str, make: Any) -> None:
    processor = make()
    rig = started(processor)

    async def awaited() -> None:
        assert await getattr(processor, method)(*CALLS[method]) is None

    result = getattr(processor, method)(*CALLS[method])
    assert isinstance(result, Awaitable)
    run(awaited())
    assert rig


def test_setup_gives_the_shared_awaitable() -> None:
    assert Pass().setup(FrameProcessorSetup(runtime=VirtualRuntime())) is DONE


def test_the_finished_awaitable_is_a_coroutine_to_asyncio() -> None:
    async def test() -> None:
        finished: Any = DONE
        assert await finished is None
        assert await asyncio.create_task(finished) is None
        assert list(await asyncio.gather(finished, finished, asyncio.sleep(0))) == [None] * 3
        assert await asyncio.wait_for(finished, 1) is None
        assert await asyncio.shield(finished) is None
        async with asyncio.TaskGroup() as group:
            group.create_task(DONE)
        task = asyncio.ensure_future(DONE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "Finished" in repr(asyncio.create_task(DONE))
        DONE.close()
        await asyncio.sleep(0)

    asyncio.run(DONE)
    run(test())


def test_awaiting_the_finished_awaitable_takes_no_turn() -> None:
    async def test() -> None:
        other: list[int] = []
        asyncio.get_running_loop().call_soon(other.append, 1)
        await DONE
        assert not other

    run(test())


def overridden(cls: type[FrameProcessor]) -> Iterator[tuple[str, Any]]:
    """The plain methods of `cls` that a user's `async def` may override and call with `await super()`."""
    for name in (*CALLS, "setup"):
        function = cls.__dict__.get(name)
        if inspect.isfunction(function) and not inspect.iscoroutinefunction(function):
            yield name, function


def processors_of_the_tree() -> list[type[FrameProcessor]]:
    """All that users may build upon: not those inside a finished bot, which nobody subclasses."""
    modules = {
        found.name: importlib.import_module(found.name)
        for package in (media, bots)
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    }
    found: list[type[FrameProcessor]] = []
    waiting: list[type[FrameProcessor]] = [FrameProcessor]
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        if cls.__module__ in modules and not hasattr(modules[cls.__module__], "BOT"):
            found.append(cls)
    return sorted(set(found), key=lambda cls: f"{cls.__module__}.{cls.__qualname__}")


@pytest.mark.parametrize("cls", processors_of_the_tree(), ids=lambda cls: f"{cls.__module__}.{cls.__qualname__}")
def test_plain_methods_of_our_processors_always_return_something_to_await(cls: type[FrameProcessor]) -> None:
    """Each way out of them is a `return` with a value: `await super().process_frame(...)` must not meet None."""
    for name, function in overridden(cls):
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        assert isinstance(tree, ast.FunctionDef)
        where = f"{cls.__qualname__}.{name}"
        assert leaves_by_return(tree.body), f"{where} may fall off its end"
        for node in ast.walk(tree):
            if isinstance(node, ast.Return):
                assert node.value is not None, f"{where} has a bare return"
                assert not (isinstance(node.value, ast.Constant) and node.value.value is None), f"{where} returns None"


def leaves_by_return(body: list[ast.stmt]) -> bool:
    last = body[-1]
    if isinstance(last, ast.If):
        return bool(last.orelse) and leaves_by_return(last.body) and leaves_by_return(last.orelse)
    if isinstance(last, ast.Try):
        return leaves_by_return(last.body) and all(leaves_by_return(handler.body) for handler in last.handlers)
    return isinstance(last, ast.Return | ast.Raise)


def test_a_super_call_may_be_awaited_by_hand_written_coroutines() -> None:
    class Users(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> str:
            await super().process_frame(frame, direction)
            await self.push_frame(frame, direction)
            return "done"

    coro = Users().process_frame(TextFrame("x"), DOWN)
    with pytest.raises(StopIteration) as ended:
        coro.send(None)
    assert ended.value.value == "done"


# ---------------------------------------------------------------- the handshake


def test_pushes_before_start_are_refused_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    first, second = Pass(), Pass()
    rig = Rig([first, second])
    rig.push(TextFrame("secret"))
    assert labels(first.seen) == ["secret"]
    assert second.seen == []
    assert "processor.not_started" in caplog.text
    assert "secret" not in caplog.text


def test_a_plain_processor_opens_without_calling_the_base() -> None:
    rig = started(Pass(), Pass())
    rig.push(TextFrame("x"))
    assert rig.down() == ["x"]


def test_a_processor_that_swallows_start_keeps_those_behind_it_closed() -> None:
    class Swallow(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if not isinstance(frame, StartFrame):
                self.push_frame(frame, direction)

    behind = Pass()
    rig = started(Swallow(), behind)
    rig.push(TextFrame("x"))
    assert labels(behind.seen) == ["x"]
    assert rig.down() == []


def test_the_check_is_gone_after_start() -> None:
    first, second = Pass(), Pass()
    started(first, second)
    assert first._downlink == second.process_frame
    assert second._uplink == first.process_frame


def test_upstream_before_start_is_refused_too(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig([Pass(), Pass()])
    rig.push(TextFrame("x"), UP)
    assert rig.risen == []
    assert "processor.not_started" in caplog.text


# ---------------------------------------------------------------- order and re-entry


def test_downstream_is_done_when_push_returns() -> None:
    log: list[str] = []

    class Tell(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            log.append(f"{self.name} before")
            self.push_frame(frame, direction)
            log.append(f"{self.name} after")

    rig = started(Tell(name="a"), Tell(name="b"))
    log.clear()
    rig.push(TextFrame("x"))
    assert log == ["a before", "b before", "b after", "a after"]


def test_upstream_waits_until_the_push_has_unwound() -> None:
    log: list[str] = []

    def answer(processor: FrameProcessor, frame: Frame) -> None:
        if isinstance(frame, TextFrame) and frame.text == "question":
            processor.push_frame(InputTextRawFrame("answer"), UP)
            log.append("answer pushed")

    class Above(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if direction is UP:
                log.append("answer seen above")
            self.push_frame(frame, direction)
            if isinstance(frame, TextFrame):
                log.append("question pushed")

    rig = started(Above(), Call(answer))
    rig.push(TextFrame("question"))
    assert log == ["answer pushed", "question pushed", "answer seen above"]
    assert rig.up() == ["answer"]


def test_upstream_without_a_push_in_progress_is_done_when_it_returns() -> None:
    first, second = Pass(), Pass()
    rig = started(first, second)
    second.push_frame(TextFrame("x"), UP)
    assert labels(first.seen)[-1] == "x"
    assert rig.up() == ["x"]


def test_upstream_frames_keep_their_order() -> None:
    def two(processor: FrameProcessor, frame: Frame) -> None:
        if isinstance(frame, TextFrame):
            processor.push_frame(InputTextRawFrame("1"), UP)
            processor.push_frame(InputTextRawFrame("2"), UP)

    rig = started(Pass(), Pass(), Call(two))
    rig.push(TextFrame("x"))
    assert rig.up() == ["1", "2"]


def test_an_injection_follows_the_same_rule() -> None:
    seen: list[str] = []

    def inject(processor: FrameProcessor, frame: Frame) -> None:
        if isinstance(frame, TextFrame) and frame.text == "outer":
            rig.push(TextFrame("inner"))  # downstream: at once
            rig.push(InputTextRawFrame("up"), UP)  # upstream: when this push is over
            seen.extend(rig.down())
            seen.append(f"risen {len(rig.risen)}")

    rig = started(Pass(), Call(inject))
    rig.push(TextFrame("outer"))
    assert seen == ["inner", "risen 0"]
    assert rig.down() == ["inner", "outer"]
    assert rig.up() == ["up"]


def test_queue_frame_hands_a_frame_to_the_processor_itself() -> None:
    first, second = Pass(), Pass()
    rig = started(first, second)
    second.queue_frame(TextFrame("x"))
    assert labels(second.seen)[-1] == "x"
    assert "x" not in labels(first.seen)
    second.queue_frame(TextFrame("u"), UP)
    assert rig.down() == ["x"]
    assert rig.up() == ["u"]


def test_queue_frame_upstream_waits_for_the_push_in_progress() -> None:
    first = Pass()
    rig = started(
        first,
        Call(lambda _, frame: first.queue_frame(InputTextRawFrame("q"), UP) if isinstance(frame, TextFrame) else None),
    )
    rig.push(TextFrame("x"))
    assert labels(first.seen)[-2:] == ["x", "q"]
    assert rig.up() == ["q"]


# ---------------------------------------------------------------- broadcasts


def test_a_broadcast_is_two_frames_that_know_each_other() -> None:
    rig = started(Pass(), Call(lambda p, f: p.broadcast_frame(UserStartedSpeakingFrame, emulated=True)
                               if isinstance(f, TextFrame) else None), Pass())  # fmt: skip
    rig.push(TextFrame("x"))
    down = next(frame for frame in rig.sunk if isinstance(frame, UserStartedSpeakingFrame))
    up = next(frame for frame in rig.risen if isinstance(frame, UserStartedSpeakingFrame))
    assert down.emulated
    assert up.emulated
    assert (down.broadcast_sibling_id, up.broadcast_sibling_id) == (up.id, down.id)
    assert down.id != up.id


def test_a_broadcast_instance_copies_all_but_id_and_name() -> None:
    middle = Pass()
    rig = started(Pass(), middle, Pass())
    original = Important("text")
    original.pts = 7
    original.metadata["k"] = "v"
    original.transport_source = "in"
    before = (original.id, original.name)
    middle.broadcast_frame_instance(original)
    for copied in (rig.sunk[0], rig.risen[0]):
        assert isinstance(copied, Important)
        assert copied.text == "text"
        assert (copied.pts, copied.metadata, copied.transport_source) == (7, {"k": "v"}, "in")
        assert copied.metadata is not original.metadata
        assert (copied.id, copied.name) != before


# ---------------------------------------------------------------- interruptions are announced


def test_an_interruption_is_announced_once_and_before_it_travels() -> None:
    seen: list[str] = []

    class Runtime(VirtualRuntime):
        def interrupting(self, frame: InterruptionFrame) -> None:
            seen.append("announced")

    rig = Rig([Call(lambda _, frame: seen.append("first")), Pass(), Pass()], Runtime()).start()
    rig.push(InterruptionFrame())
    assert seen == ["announced", "first"]
    assert rig.down() == ["InterruptionFrame"]


@pytest.mark.parametrize("direction", [DOWN, UP])
def test_an_interruption_from_inside_is_announced(direction: FrameDirection) -> None:
    middle = Pass()
    rig = started(Pass(), middle, Pass())
    middle.push_frame(InterruptionFrame(), direction)
    assert len(rig.runtime.interruptions) == 1


def test_both_frames_of_a_broadcast_interruption_are_announced_together() -> None:
    middle = Pass()
    rig = started(Pass(), middle, Pass())
    middle.broadcast_interruption()
    middle.broadcast_frame(InterruptionFrame)
    assert len(rig.runtime.interruptions) == 2
    assert rig.down() == rig.up() == ["InterruptionFrame"] * 2


def test_each_interruption_is_announced() -> None:
    rig = started(Pass())
    rig.push(InterruptionFrame())
    rig.push(InterruptionFrame())
    assert len(rig.runtime.interruptions) == 2


def test_a_refused_interruption_is_not_announced() -> None:
    processor = Pass()
    rig = Rig([processor])
    processor.push_frame(InterruptionFrame())
    assert rig.runtime.interruptions == []


def test_an_upstream_interruption_is_announced_at_the_push_not_when_the_deque_is_drained() -> None:
    counts: list[int] = []

    def interrupt(processor: FrameProcessor, frame: Frame) -> None:
        if isinstance(frame, TextFrame):
            processor.push_frame(InterruptionFrame(), UP)
            counts.append(len(rig.runtime.interruptions))

    rig = started(Pass(), Call(interrupt))
    rig.push(TextFrame("x"))
    assert counts == [1]


# ---------------------------------------------------------------- errors


class Breaks(FrameProcessor):
    """Raises at the text "break"."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if getattr(frame, "text", None) == "break":
            raise ValueError("broken")
        self.push_frame(frame, direction)


def test_an_exception_becomes_an_error_frame_upstream_and_the_call_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    broken = Breaks(name="broken")
    rig = started(Pass(), broken, Pass())
    rig.push(TextFrame("break"))
    rig.push(TextFrame("next"))
    assert rig.down() == ["next"]
    (error,) = rig.risen
    assert isinstance(error, ErrorFrame)
    assert (error.processor, error.fatal, type(error.exception)) == (broken, False, ValueError)
    assert "broken" in error.error
    assert "processor=broken" in caplog.text
    assert "Traceback" in caplog.text


def test_code_after_push_frame_above_the_broken_processor_still_runs() -> None:
    after: list[str] = []

    class Above(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            self.push_frame(frame, direction)
            after.append(f"{self.name} {labels([frame])[0]}")

    rig = started(Above(name="1"), Above(name="2"), Breaks())
    after.clear()
    rig.push(TextFrame("break"))
    assert after == ["2 break", "1 break", "2 ErrorFrame", "1 ErrorFrame"]


def test_an_exception_on_the_way_up_is_laid_to_the_processor_that_raised() -> None:
    broken = Breaks()
    rig = started(Pass(), broken, Pass())
    rig.push(TextFrame("break"), UP)
    (error,) = rig.risen
    assert isinstance(error, ErrorFrame)
    assert error.processor is broken


def test_an_exception_in_the_outermost_processor() -> None:
    broken = Breaks()
    rig = started(broken)
    rig.push(TextFrame("break"))
    broken.queue_frame(TextFrame("break"))
    rig.push(TextFrame("break"), UP)
    assert [error.processor for error in rig.risen if isinstance(error, ErrorFrame)] == [broken] * 3


def test_error_order_is_event_then_log_then_frame(caplog: pytest.LogCaptureFixture) -> None:
    order: list[str] = []
    broken = Breaks()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            order.append("log")

    rig = started(
        Call(lambda _, frame: order.append("frame") if isinstance(frame, ErrorFrame) else None), broken, Pass()
    )
    broken.add_event_handler("on_error", lambda processor, error: order.append("event"))
    handler = Handler()
    logging.getLogger("media.processor").addHandler(handler)
    try:
        rig.push(TextFrame("break"))
    finally:
        logging.getLogger("media.processor").removeHandler(handler)
    assert order == ["event", "log", "frame"]


def test_push_error_says_who_and_how_bad() -> None:
    processor = Pass()
    rig = started(Pass(), processor)
    cause = KeyError("x")
    processor.push_error("no such thing", exception=cause, fatal=True)
    (error,) = rig.risen
    assert isinstance(error, ErrorFrame)
    assert (error.error, error.exception, error.fatal, error.processor) == ("no such thing", cause, True, processor)


def test_an_error_before_start_goes_straight_to_the_top() -> None:
    class Fails(FrameProcessor):
        def setup(self, setup: FrameProcessorSetup) -> Any:
            self.push_error("no key")
            return super().setup(setup)

    rig = Rig([Pass(), Fails()])
    assert [frame.error for frame in rig.risen if isinstance(frame, ErrorFrame)] == ["no key"]


def test_a_processor_that_fails_at_error_frames_does_not_loop() -> None:
    class Touchy(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if isinstance(frame, ErrorFrame):
                raise RuntimeError("cannot bear it")
            self.push_frame(frame, direction)

    touchy = Touchy()
    rig = started(Pass(), touchy, Breaks())
    rig.push(TextFrame("break"))
    assert [error.processor for error in rig.risen if isinstance(error, ErrorFrame)] == [touchy]


def test_what_is_no_exception_escapes_and_leaves_the_pipeline_usable() -> None:
    def stop(processor: FrameProcessor, frame: Frame) -> None:
        if getattr(frame, "text", "") == "stop":
            raise KeyboardInterrupt

    rig = started(Call(stop))
    with pytest.raises(KeyboardInterrupt):
        rig.push(TextFrame("stop"))
    rig.push(TextFrame("x"))
    assert rig.down() == ["x"]


# ---------------------------------------------------------------- pause and resume


def test_a_paused_processor_holds_data_and_lets_system_frames_pass() -> None:
    paused = Pass()
    rig = started(Pass(), paused)
    paused.pause_processing_frames()
    rig.push(TextFrame("1"))
    rig.push(InputTextRawFrame("system"))
    rig.push(TextFrame("2"))
    assert rig.down() == ["system"]
    paused.resume_processing_frames()
    assert rig.down() == ["system", "1", "2"]
    rig.push(TextFrame("3"))
    assert rig.down()[-1] == "3"
    assert paused._wiring.entry == paused.process_frame


@pytest.mark.parametrize("pause", [FrameProcessorPauseFrame, FrameProcessorPauseUrgentFrame])
@pytest.mark.parametrize("base", [True, False])
def test_pause_frames_act_on_the_processor_they_name(pause: Any, base: bool) -> None:
    class CallsBase(Pass):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            FrameProcessor.process_frame(self, frame, direction)
            super().process_frame(frame, direction)

    paused = CallsBase() if base else Pass()
    rig = started(Pass(), paused, Pass())
    rig.push(TextFrame("0"))
    rig.push(pause(processor=paused))
    rig.push(TextFrame("1"))
    assert rig.down() == ["0", pause.__name__]  # passed on by all
    rig.push(FrameProcessorResumeUrgentFrame(processor=paused))
    assert sorted(rig.down()[2:]) == ["1", "FrameProcessorResumeUrgentFrame"]


def test_a_pause_frame_from_below_pauses_too() -> None:
    paused, below = Pass(), Pass()
    rig = started(paused, below)
    below.push_frame(FrameProcessorPauseFrame(processor=paused), UP)
    rig.push(TextFrame("1"))
    assert rig.down() == []


def test_an_ordinary_resume_stands_behind_what_is_held() -> None:
    paused = Pass()
    rig = started(paused)
    paused.pause_processing_frames()
    rig.push(TextFrame("1"))
    rig.push(FrameProcessorResumeFrame(processor=paused))
    rig.push(TextFrame("2"))
    assert rig.down() == []
    rig.push(FrameProcessorResumeUrgentFrame(processor=paused))
    assert [text for text in rig.down() if not text.endswith("UrgentFrame")] == ["1", "FrameProcessorResumeFrame", "2"]


def test_an_ordinary_resume_with_nothing_held_resumes() -> None:
    paused = Pass()
    rig = started(paused)
    paused.pause_processing_frames()
    rig.push(FrameProcessorResumeFrame(processor=paused))
    rig.push(TextFrame("1"))
    assert rig.down() == ["FrameProcessorResumeFrame", "1"]


def test_replaying_stops_when_paused_again() -> None:
    class PausesAtTwo(Pass):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if getattr(frame, "text", "") == "2":
                self.pause_processing_frames()
            super().process_frame(frame, direction)

    paused = PausesAtTwo()
    rig = started(paused)
    paused.pause_processing_frames()
    for text in "1234":
        rig.push(TextFrame(text))
    paused.resume_processing_frames()
    assert rig.down() == ["1", "2"]
    rig.push(TextFrame("5"))
    assert rig.down() == ["1", "2"]
    paused.resume_processing_frames()
    assert rig.down() == ["1", "2", "3", "4", "5"]


def test_frames_that_arrive_while_replaying_stand_behind() -> None:
    def inject(_: FrameProcessor, frame: Frame) -> None:
        if getattr(frame, "text", "") == "1":
            rig.push(TextFrame("late"))

    paused = Pass()
    rig = started(paused, Call(inject))
    paused.pause_processing_frames()
    for text in "12":
        rig.push(TextFrame(text))
    paused.resume_processing_frames()
    assert rig.down() == ["1", "2", "late"]


def test_an_interruption_purges_what_is_held_and_resumes() -> None:
    paused = Pass()
    rig = started(paused)
    paused.pause_processing_frames()
    rig.push(TextFrame("dropped"))
    rig.push(Important("kept"))
    rig.push(InterruptionFrame())
    rig.push(TextFrame("after"))
    assert rig.down() == ["InterruptionFrame", "kept", "after"]


def test_a_broadcast_interruption_of_a_paused_processor_purges_its_own() -> None:
    paused = Pass()
    rig = started(paused)
    paused.pause_processing_frames()
    rig.push(TextFrame("dropped"))
    rig.push(Important("kept"))
    paused.broadcast_interruption()
    assert rig.down() == ["kept", "InterruptionFrame"]


def test_a_service_keeps_end_behind_its_own_speech() -> None:
    speech = Pass()
    rig = started(speech)
    speech.pause_processing_frames()  # it speaks in a task of its own
    rig.push(EndFrame())
    speech.push_frame(TextFrame("last words"))
    speech.resume_processing_frames()
    assert rig.down() == ["last words", "EndFrame"]


def test_an_error_while_replaying_loses_one_frame() -> None:
    paused = Breaks()
    rig = started(paused)
    paused.pause_processing_frames()
    for text in ("1", "break", "2"):
        rig.push(TextFrame(text))
    paused.resume_processing_frames()
    assert rig.down() == ["1", "2"]
    assert rig.up() == ["ErrorFrame"]


def test_a_processor_paused_before_start_opens_all_the_same() -> None:
    paused = Pass()
    rig = Rig([paused])
    paused.pause_processing_frames()
    rig.push(StartFrame())
    rig.push(TextFrame("1"))
    assert rig.down() == ["StartFrame"]
    paused.resume_processing_frames()
    assert rig.down() == ["StartFrame", "1"]


# ---------------------------------------------------------------- timers, clock, tasks


def test_timers_run_on_the_runtimes_clock() -> None:
    processor = Pass()
    rig = started(processor)
    processor.call_later(2.0, lambda: processor.push_frame(TextFrame("late")))
    cancelled = processor.call_later(1.0, lambda: processor.push_frame(TextFrame("never")))
    cancelled.cancel()
    rig.runtime.advance(1.9)
    assert rig.down() == []
    rig.runtime.advance(0.1)
    assert rig.down() == ["late"]


def test_what_a_timer_raises_becomes_an_error_frame() -> None:
    processor = Pass()
    rig = started(processor)

    def fail() -> None:
        raise ValueError("in a timer")

    processor.call_later(1.0, fail)
    rig.runtime.advance(1.0)
    assert rig.up() == ["ErrorFrame"]


def test_the_clock_is_in_nanoseconds() -> None:
    processor = Pass()
    rig = started(processor)
    before = processor.get_clock().get_time()
    rig.runtime.advance(0.5)
    assert processor.get_clock().get_time() - before == 500_000_000


def test_a_clock_given_at_setup_is_the_processors_clock() -> None:
    class Fixed:
        def get_time(self) -> int:
            return 42

    processor = Pass()
    processor.setup(FrameProcessorSetup(clock=Fixed(), runtime=VirtualRuntime()))
    assert processor.get_clock().get_time() == 42


def test_start_frame_tells_what_is_enabled() -> None:
    processor = Pass()
    rig = Rig([processor])
    assert not processor.metrics_enabled
    rig.push(StartFrame(enable_metrics=True, enable_usage_metrics=True, report_only_initial_ttfb=True))
    assert processor.metrics_enabled
    assert processor.usage_metrics_enabled
    assert processor.report_only_initial_ttfb
    assert not processor.can_generate_metrics()


# ---------------------------------------------------------------- budget, watch, tap, probe


class Slow(FrameProcessor):
    """Blocks at the text "slow"."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if getattr(frame, "text", "") == "slow":
            time.sleep(0.06)
        self.push_frame(frame, direction)


def test_a_slow_push_is_counted_and_its_processor_named(caplog: pytest.LogCaptureFixture) -> None:
    rig = started(Pass(), Slow(name="the slow one"), Pass())
    flow = rig.pipeline.flow
    flow.budget_s = 0.05  # well above what a crowded machine adds to the others
    rig.push(TextFrame("quick"))
    assert flow.overruns == 0
    rig.push(TextFrame("slow"))
    rig.push(TextFrame("slow"))
    assert flow.overruns == 2
    lines = [record.getMessage() for record in caplog.records if "slow_push" in record.getMessage()]
    assert len(lines) == 2
    assert "processor=the slow one" in lines[1]
    rig.push(TextFrame("slow"))  # counted, but the log is silent for a while
    assert flow.overruns == 3
    assert len([record for record in caplog.records if "slow_push" in record.getMessage()]) == 2
    assert rig.down() == ["quick", "slow", "slow", "slow"]


def test_the_budget_is_five_milliseconds() -> None:
    assert started(Pass()).pipeline.flow.budget_s == 0.005


def test_the_watch_is_called_once_per_outermost_push() -> None:
    watched: list[str] = []
    middle = Pass()
    rig = started(Pass(), middle, Pass())
    rig.pipeline.flow.watch = lambda frame: watched.extend(labels([frame]))
    rig.push(TextFrame("1"))
    middle.push_frame(TextFrame("2"))
    assert watched == ["1", "2"]


def test_a_tap_stands_in_every_link_and_leaves_without_a_trace() -> None:
    taken: list[tuple[str, str, str]] = []
    first, second = Pass(name="a"), Pass(name="b")
    rig = started(first, second)
    flow = rig.pipeline.flow

    def tap(source: FrameProcessor, destination: FrameProcessor, direction: FrameDirection, entry: Any) -> Any:
        def tapped(frame: Frame, way: FrameDirection) -> None:
            taken.append((source.name, destination.name, way.name))
            entry(frame, way)

        return tapped

    flow.tap = tap
    flow.relink()
    rig.push(TextFrame("x"))
    rig.push(TextFrame("y"), UP)
    pipeline = rig.pipeline.name
    assert taken == [
        (f"{pipeline}::Source", "a", "DOWNSTREAM"),
        ("a", "b", "DOWNSTREAM"),
        ("b", f"{pipeline}::Sink", "DOWNSTREAM"),
        (f"{pipeline}::Sink", "b", "UPSTREAM"),
        ("b", "a", "UPSTREAM"),
        ("a", f"{pipeline}::Source", "UPSTREAM"),
    ]
    flow.tap = None
    flow.relink()
    assert first._downlink == second.process_frame


def test_a_probe_sees_each_frame_as_it_is_processed() -> None:
    probed: list[tuple[str, str]] = []
    rig = started(Pass(name="a"), Pass(name="b"))
    rig.pipeline.flow.probe = lambda processor, frame, direction: probed.append((processor.name, labels([frame])[0]))
    rig.pipeline.flow.relink()
    rig.push(TextFrame("x"))
    assert [probe for probe in probed if "::" not in probe[0]] == [("a", "x"), ("b", "x")]


def test_frames_are_not_looked_into_on_the_way() -> None:
    """A push costs no id, no name, no mark: these are made when somebody asks."""
    rig = started(Pass(), Pass())
    frame = InputAudioRawFrame(b"", 8000, 1)
    rig.push(frame)
    assert not hasattr(frame, "_id")
    assert not hasattr(frame, "_name")
    assert not hasattr(frame, "_stamp")


# ---------------------------------------------------------------- type checkers

TYPED = """
import asyncio

from media.frames import Frame
from media.pipeline import ParallelPipeline, Pipeline
from media.processor import FrameDirection, FrameProcessor, FrameProcessorSetup


class Waits(FrameProcessor):
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)
        await asyncio.wait_for(self.push_frame(frame), 1)

    async def push_frame(self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM) -> None:
        await super().push_frame(frame, direction)

    async def setup(self, setup: FrameProcessorSetup) -> None:
        await super().setup(setup)

    async def cleanup(self) -> None:
        await super().cleanup()


class Plain(FrameProcessor):
    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)


Pipeline([Waits(name="a"), Plain(), ParallelPipeline([Waits()], [Plain(), Waits()])])
"""


def test_type_checkers_accept_both_ways_of_overriding(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    sample = tmp_path / "sample.py"
    sample.write_text(TYPED)
    said, _, status = api.run([str(sample), "--strict", "--no-error-summary", f"--cache-dir={tmp_path / 'cache'}"])
    assert (said, status) == ("", 0)
    sample.write_text(TYPED.replace('name="a"', "nam=7"))
    said, _, status = api.run([str(sample), "--strict", "--no-error-summary", f"--cache-dir={tmp_path / 'cache'}"])
    assert "nam" in said
    assert status == 1
