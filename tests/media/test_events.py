"""Events: registration, synchronous and spawned handlers, the hooks of processors."""

from __future__ import annotations

import asyncio
import gc
from functools import partial, wraps
from typing import Any

import pytest

from media.events import DONE, BaseObject, is_async
from media.frames import ErrorFrame, Frame, StartFrame, TextFrame
from media.processor import FrameDirection, FrameProcessor
from tests.media.rig import AsyncPass, LiveRuntime, Pass, labels, live, started, turns
from tests.media.rig import run_on_virtual_time as run

DOWN, UP = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM
HOOKS = ("on_before_process_frame", "on_after_process_frame", "on_before_push_frame", "on_after_push_frame")


class Emitter(BaseObject):
    """Something with one event of each kind."""

    def __init__(self, name: str | None = None, runtime: Any = None) -> None:
        super().__init__(name=name)
        self._run_on(runtime)
        self._register_event_handler("on_spawned")
        self._register_event_handler("on_inside", sync=True)

    def emit(self, event: str, *args: Any) -> Any:
        return self._call_event_handler(event, *args)


# ---------------------------------------------------------------- registering


def test_decorator_and_method_register_and_give_the_emitter_first() -> None:
    emitter, got = Emitter(), []

    @emitter.event_handler("on_inside")
    async def handler(source: Emitter, value: int) -> None:
        got.append(("decorated", source, value))

    def added(source: Emitter, value: int) -> None:
        got.append(("added", source, value))

    emitter.add_event_handler("on_inside", added)
    emitter.emit("on_inside", 7)
    assert got == [("decorated", emitter, 7), ("added", emitter, 7)]
    assert callable(handler)


def test_an_unknown_event_is_logged_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    emitter = Emitter("the emitter")
    emitter.add_event_handler("on_nothing", lambda source: None)
    assert "event.unknown object=the emitter event=on_nothing" in caplog.text
    assert emitter.emit("on_nothing") is DONE


def test_registering_a_name_twice_keeps_the_handlers(caplog: pytest.LogCaptureFixture) -> None:
    emitter, got = Emitter(), []
    emitter.add_event_handler("on_inside", lambda source: got.append(1))
    emitter._register_event_handler("on_inside", sync=True)
    emitter.emit("on_inside")
    assert got == [1]
    assert "registered_twice" in caplog.text


def test_handlers_of_one_object_are_not_those_of_another() -> None:
    first, second, got = Emitter(), Emitter(), []
    first.add_event_handler("on_inside", lambda source: got.append(source))
    second.emit("on_inside")
    assert got == []


def test_the_order_is_that_of_registration_also_when_kinds_are_mixed() -> None:
    emitter, got = Emitter(), []

    async def waiting(source: Emitter) -> None:
        got.append("async")

    emitter.add_event_handler("on_inside", lambda source: got.append("plain"))
    emitter.add_event_handler("on_inside", waiting)
    emitter.add_event_handler("on_inside", lambda source: got.append("plain again"))
    emitter.emit("on_inside")
    assert got == ["plain", "async", "plain again"]


def test_one_handler_for_several_objects() -> None:
    got: list[str] = []

    async def handler(source: Emitter) -> None:
        got.append(source.name)

    for emitter in (first := Emitter("a"), second := Emitter("b")):
        emitter.add_event_handler("on_inside", handler)
    first.emit("on_inside")
    second.emit("on_inside")
    assert got == ["a", "b"]


def test_what_counts_as_a_coroutine_function() -> None:
    async def coroutine(value: int = 0) -> None: ...

    @wraps(coroutine)
    def wrapper(*args: Any) -> Any:
        return coroutine(*args)

    class Callable:
        async def __call__(self) -> None: ...

    class Plain:
        def __call__(self) -> None: ...

    waiting: list[Any] = [coroutine, partial(coroutine, 1), partial(partial(coroutine), 1), wrapper, Callable()]
    plain: list[Any] = [lambda: None, print, Plain(), partial(print, 1), Emitter().emit]
    assert [is_async(function) for function in waiting + plain] == [True] * 5 + [False] * 5


# ---------------------------------------------------------------- synchronous events


def test_a_synchronous_event_blocks_the_emitter() -> None:
    async def test() -> None:
        runtime = LiveRuntime()
        emitter, got = Emitter(runtime=runtime), []

        async def handler(source: Emitter) -> None:
            got.append("handled")

        emitter.add_event_handler("on_inside", handler)
        assert emitter.emit("on_inside") is DONE
        assert got == ["handled"]
        await runtime.close()

    run(test())


def test_a_synchronous_handler_that_waits_goes_on_as_a_task_and_the_emitter_goes_on_too() -> None:
    async def test() -> None:
        runtime = LiveRuntime()
        emitter, got, gate = Emitter(runtime=runtime), [], asyncio.Event()

        async def waits(source: Emitter) -> None:
            got.append("begun")
            await gate.wait()
            got.append("ended")

        emitter.add_event_handler("on_inside", waits)
        emitter.add_event_handler("on_inside", lambda source: got.append("second"))
        emitter.emit("on_inside")
        got.append("emitter goes on")
        await turns()
        assert got == ["begun", "emitter goes on"]
        gate.set()
        await emitter.cleanup()  # waits for what still runs
        assert got == ["begun", "emitter goes on", "ended", "second"]
        await runtime.close()

    run(test())


def test_an_async_emitter_may_await_the_handlers() -> None:
    async def test() -> None:
        runtime = LiveRuntime()
        emitter, got = Emitter(runtime=runtime), []

        async def waits(source: Emitter) -> None:
            await asyncio.sleep(0)
            got.append("ended")

        emitter.add_event_handler("on_inside", waits)
        await emitter.emit("on_inside")
        assert got == ["ended"]
        await runtime.close()

    run(test())


def test_a_timeout_inside_a_driven_handler_does_not_hit_the_emitter() -> None:
    async def test() -> None:
        runtime = LiveRuntime()
        emitter, got = Emitter(runtime=runtime), []

        async def times_out(source: Emitter) -> None:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(10)
            except TimeoutError:
                got.append("timed out")

        emitter.add_event_handler("on_inside", times_out)
        emitter.emit("on_inside")
        await asyncio.sleep(0.05)
        assert got == ["timed out"]
        await runtime.close()

    run(test())


def test_driven_handlers_that_do_not_wait_share_one_parked_task() -> None:
    async def test() -> None:
        runtime = LiveRuntime()
        emitter = Emitter(runtime=runtime)
        inner = Emitter(runtime=runtime)
        tasks = set()

        async def handler(source: Emitter) -> None:
            tasks.add(asyncio.current_task())
            if source is emitter:
                inner.emit("on_inside")

        for one in (emitter, inner):
            one.add_event_handler("on_inside", handler)
        for _ in range(5):
            emitter.emit("on_inside")
        assert len(tasks) == 2  # one each, as they nest
        assert runtime.tasks == set()
        await runtime.close()

    run(test())


# ---------------------------------------------------------------- spawned events


def test_other_events_run_in_the_background() -> None:
    async def test() -> None:
        runtime = LiveRuntime()
        emitter, got = Emitter(runtime=runtime), []

        async def first(source: Emitter, value: int) -> None:
            got.append(("first begun", value))
            await asyncio.sleep(0.01)
            got.append(("first ended", value))

        emitter.add_event_handler("on_spawned", first)
        emitter.add_event_handler("on_spawned", lambda source, value: got.append(("plain", value)))
        emitter.emit("on_spawned", 1)
        assert got == []  # the emitter goes on first
        await turns()
        assert got == [("first begun", 1), ("plain", 1)]  # one does not wait for the other
        await emitter.cleanup()
        assert got[-1] == ("first ended", 1)
        await runtime.close()

    run(test())


def test_clean_up_without_running_handlers_is_finished_at_once() -> None:
    assert Emitter().cleanup() is DONE


def test_without_a_loop_a_handler_runs_at_once_and_must_not_wait(caplog: pytest.LogCaptureFixture) -> None:
    emitter, got = Emitter(), []

    async def quick(source: Emitter) -> None:
        got.append("quick")

    async def waits(source: Emitter) -> None:
        await asyncio.sleep(0)
        got.append("never")

    for event in ("on_inside", "on_spawned"):
        emitter.add_event_handler(event, quick)
        emitter.add_event_handler(event, waits)
        emitter.emit(event)
    assert got == ["quick", "quick"]
    assert caplog.text.count("coroutine.waits") == 2


# ---------------------------------------------------------------- exceptions


@pytest.mark.parametrize("event", ["on_inside", "on_spawned"])
@pytest.mark.parametrize("kind", ["plain", "async", "waiting"])
def test_what_a_handler_raises_is_logged_and_the_others_still_run(
    event: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        runtime = LiveRuntime()
        emitter, got = Emitter(runtime=runtime), []

        def plain(source: Emitter) -> None:
            raise ValueError("in a handler")

        async def coroutine(source: Emitter) -> None:
            raise ValueError("in a handler")

        async def waiting(source: Emitter) -> None:
            await asyncio.sleep(0)
            raise ValueError("in a handler")

        emitter.add_event_handler(event, {"plain": plain, "async": coroutine, "waiting": waiting}[kind])
        emitter.add_event_handler(event, lambda source: got.append("next"))
        emitter.emit(event)
        await turns()
        assert got == ["next"]
        assert "event.handler_failed" in caplog.text
        assert "in a handler" in caplog.text
        await runtime.close()

    run(test())


# ---------------------------------------------------------------- the hooks of a processor


def note(order: list[str], name: str) -> Any:
    def handler(processor: FrameProcessor, frame: Frame) -> None:
        order.append(f"{name} {labels([frame])[0]}")

    return handler


def test_hooks_stand_round_processing_and_pushing() -> None:
    order: list[str] = []
    processor = Pass()
    rig = started(Pass(), processor, Pass())
    for hook in HOOKS:
        processor.add_event_handler(hook, note(order, hook))
    rig.push(TextFrame("x"))
    assert order == [
        "on_before_process_frame x",
        "on_before_push_frame x",
        "on_after_push_frame x",
        "on_after_process_frame x",
    ]
    assert rig.down() == ["x"]


@pytest.mark.parametrize("when", ["before bind", "after start"])
def test_hooks_may_be_registered_at_any_time(when: str) -> None:
    order: list[str] = []
    processor = Pass()
    if when == "before bind":
        processor.add_event_handler("on_before_process_frame", note(order, "process"))
        processor.add_event_handler("on_before_push_frame", note(order, "push"))
    rig = started(processor)
    if when == "after start":
        processor.add_event_handler("on_before_process_frame", note(order, "process"))
        processor.add_event_handler("on_before_push_frame", note(order, "push"))
    order.clear()
    rig.push(TextFrame("x"))
    assert order == ["process x", "push x"]


def test_hooks_see_upstream_frames_and_start() -> None:
    order: list[str] = []
    processor = Pass()
    for hook in HOOKS[::2]:
        processor.add_event_handler(hook, note(order, hook.split("_")[2]))
    rig = started(processor)
    rig.push(TextFrame("u"), UP)
    assert order == ["process StartFrame", "push StartFrame", "process u", "push u"]


def test_hooks_see_what_a_task_or_a_paused_processor_pushes() -> None:
    order: list[str] = []
    processor = Pass()
    rig = started(processor)
    for hook in HOOKS[::2]:
        processor.add_event_handler(hook, note(order, hook.split("_")[2]))
    processor.pause_processing_frames()
    rig.push(TextFrame("held"))
    assert order == []
    processor.push_frame(TextFrame("own"))
    processor.resume_processing_frames()
    assert order == ["push own", "process held", "push held"]


def test_async_hooks_are_driven_by_hand() -> None:
    order: list[str] = []
    processor = Pass()
    rig = started(processor)

    @processor.event_handler("on_before_process_frame")
    async def before(source: FrameProcessor, frame: Frame) -> None:
        order.append(f"{source.name} {labels([frame])[0]}")

    rig.push(TextFrame("x"))
    assert order == [f"{processor.name} x"]
    assert rig.down() == ["x"]


def test_a_hook_that_fails_does_not_lose_the_frame() -> None:
    processor = Pass()
    rig = started(processor)

    def fails(source: FrameProcessor, frame: Frame) -> None:
        raise ValueError("in a hook")

    for hook in HOOKS:
        processor.add_event_handler(hook, fails)
    rig.push(TextFrame("x"))
    assert rig.down() == ["x"]
    assert rig.risen == []


def test_after_process_is_not_announced_for_a_frame_that_failed() -> None:
    order: list[str] = []

    class Breaks(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            raise ValueError("broken")

    processor = Breaks()
    rig = started(processor)
    for hook in HOOKS[:2]:
        processor.add_event_handler(hook, note(order, hook))
    rig.push(TextFrame("x"))
    assert order == ["on_before_process_frame x"]
    assert rig.up() == ["ErrorFrame"] * 2  # of StartFrame and of x


def test_nothing_is_swapped_in_while_nobody_listens() -> None:
    first, second = Pass(), Pass()
    started(first, second)
    first.add_event_handler("on_error", lambda processor, error: None)
    assert first._downlink == second.process_frame
    assert first._wiring.entry == first.process_frame


def test_hooks_and_pushes_in_a_lane() -> None:
    async def test() -> None:
        order: list[str] = []
        processor = AsyncPass()
        for hook in HOOKS:
            processor.add_event_handler(hook, note(order, hook))
        async with live(processor) as rig:
            order.clear()
            rig.push(TextFrame("x"))
            await turns()
            assert order == [
                "on_before_process_frame x",
                "on_before_push_frame x",
                "on_after_push_frame x",
                "on_after_process_frame x",
            ]

    run(test())


# ---------------------------------------------------------------- as documented for Pipecat, imports renamed


def test_documented_error_handlers(capsys: pytest.CaptureFixture[str]) -> None:
    class Breaks(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if isinstance(frame, TextFrame):
                raise ValueError("no voice")
            self.push_frame(frame, direction)

    class Logger:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def error(self, line: str) -> None:
            self.lines.append(line)

    stt, tts, llm, logger = Pass(name="stt"), Breaks(name="tts"), Pass(name="llm"), Logger()

    @tts.event_handler("on_error")
    async def on_tts_error(processor, error):  # type: ignore[no-untyped-def]
        print(f"Error in {processor}: {error.error}")
        if error.exception:
            print(f"Exception: {error.exception}")
        if error.fatal:
            print("This is a fatal error — pipeline will be cancelled")

    async def handle_service_error(processor, error):  # type: ignore[no-untyped-def]
        logger.error(f"Service error in {processor.name}: {error.error}")
        # Notify monitoring system, set a flag, etc.

    # Register the same handler on multiple services
    stt.add_event_handler("on_error", handle_service_error)
    tts.add_event_handler("on_error", handle_service_error)
    llm.add_event_handler("on_error", handle_service_error)

    rig = started(stt, llm, tts)
    rig.push(TextFrame("hello"))
    tts.push_error("quota", fatal=True)
    printed = capsys.readouterr().out
    assert "Error in tts: ValueError at TextFrame: no voice\nException: no voice\n" in printed
    assert printed.endswith("This is a fatal error — pipeline will be cancelled\n")
    assert logger.lines == [
        "Service error in tts: ValueError at TextFrame: no voice",
        "Service error in tts: quota",
    ]
    assert [error.fatal for error in rig.risen if isinstance(error, ErrorFrame)] == [False, True]


def test_documented_frame_hooks(capsys: pytest.CaptureFixture[str]) -> None:
    stt, llm = Pass(name="stt"), Pass(name="llm")

    @stt.event_handler("on_before_process_frame")
    async def on_before_process(processor, frame):  # type: ignore[no-untyped-def]
        print(f"{processor} is about to process: {frame}")

    @stt.event_handler("on_after_process_frame")
    async def on_after_process(processor, frame):  # type: ignore[no-untyped-def]
        print(f"{processor} finished processing: {frame}")

    @llm.event_handler("on_before_push_frame")
    async def on_before_push(processor, frame):  # type: ignore[no-untyped-def]
        print(f"{processor} is about to push: {frame}")

    @llm.event_handler("on_after_push_frame")
    async def on_after_push(processor, frame):  # type: ignore[no-untyped-def]
        print(f"{processor} pushed: {frame}")

    rig = started(stt, llm)
    capsys.readouterr()
    frame = TextFrame("x")
    rig.push(frame)
    assert capsys.readouterr().out.splitlines() == [
        f"stt is about to process: {frame.name}",
        f"llm is about to push: {frame.name}",
        f"llm pushed: {frame.name}",
        f"stt finished processing: {frame.name}",
    ]


def test_documented_service_events(capsys: pytest.CaptureFixture[str]) -> None:
    class Service(Pass):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            for event in ("on_connected", "on_connection_error", "on_tts_request", "on_function_calls_started"):
                self._register_event_handler(event)

    async def test() -> None:
        stt, tts, llm = Service("stt"), Service("tts"), Service("llm")

        @stt.event_handler("on_connected")
        async def on_stt_connected(service):  # type: ignore[no-untyped-def]
            print(f"STT connected: {service.name}")

        @tts.event_handler("on_connection_error")
        async def on_tts_connection_error(service, error):  # type: ignore[no-untyped-def]
            print(f"TTS connection error: {error}")

        @tts.event_handler("on_tts_request")
        async def on_tts_request(service, context_id, text):  # type: ignore[no-untyped-def]
            print(f"TTS synthesizing ({context_id}): {text}")

        @llm.event_handler("on_function_calls_started")
        async def on_function_calls_started(service, function_calls):  # type: ignore[no-untyped-def]
            await tts.queue_frame(TextFrame("Let me check on that."))

        async with live(stt, llm, tts) as rig:
            stt._call_event_handler("on_connected")
            tts._call_event_handler("on_connection_error", "refused")
            tts._call_event_handler("on_tts_request", "c1", "hello")
            await llm._call_event_handler("on_function_calls_started", [])
            await turns()
            assert rig.down() == ["Let me check on that."]

    run(test())
    assert capsys.readouterr().out.splitlines() == [
        "STT connected: stt",
        "TTS connection error: refused",
        "TTS synthesizing (c1): hello",
    ]


def test_documented_several_handlers_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    class Task(BaseObject):
        def __init__(self, runtime: LiveRuntime) -> None:
            super().__init__()
            self._run_on(runtime)
            self._register_event_handler("on_pipeline_finished")

    async def test() -> None:
        runtime = LiveRuntime()
        task = Task(runtime)

        @task.event_handler("on_pipeline_finished")
        async def log_finished(task, frame):  # type: ignore[no-untyped-def]
            print("Pipeline finished (handler 1)")

        @task.event_handler("on_pipeline_finished")
        async def cleanup(task, frame):  # type: ignore[no-untyped-def]
            print("Cleaning up (handler 2)")

        await task._call_event_handler("on_pipeline_finished", StartFrame())
        await task.cleanup()
        await runtime.close()

    run(test())
    assert capsys.readouterr().out.splitlines() == ["Pipeline finished (handler 1)", "Cleaning up (handler 2)"]


def test_emitters_are_freed_without_the_collector() -> None:
    import weakref

    emitter = Emitter()
    emitter.add_event_handler("on_inside", lambda source: None)
    emitter.emit("on_inside")
    gone = weakref.ref(emitter)
    gc.disable()
    try:
        del emitter
        assert gone() is None
    finally:
        gc.enable()
