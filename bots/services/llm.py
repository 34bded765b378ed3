"""Language models: the base that streams answers, and calls functions for them.

An answer is generated in a task of its own. Frames that are in order with it wait until it is done; an interruption
cancels it, and what was queued behind it is dropped with it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bots.context.context import LLMContext
from bots.context.summary import summarise
from bots.context.tools import FunctionSchema, ToolsSchema, schema_of
from bots.services.base import FUNCTION_FAILED, AIService
from bots.services.settings import LLMSettings, ServiceSettings, is_given
from media.errors import ServiceError
from media.events import DONE, Handle, MaybeAwaitable
from media.flow import DOWNSTREAM
from media.frames import (
    CancelFrame,
    ErrorFrame,
    Frame,
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
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    LLMUpdateSettingsFrame,
)
from media.processor import FrameDirection

log = logging.getLogger(__name__)

ResultCallback = Callable[..., Awaitable[None]]


@dataclass(slots=True)
class FunctionCallParams:
    """What a handler gets. Its answer goes to `result_callback(result, properties=...)`, once."""

    function_name: str
    tool_call_id: str
    arguments: Mapping[str, Any]
    llm: LLMService
    context: LLMContext
    result_callback: ResultCallback


FunctionHandler = Callable[[FunctionCallParams], Awaitable[None]]


def arguments_of(vendor: str, function: str, text: str) -> dict[str, Any]:
    """Of a function call, as a model has written them. Raises ServiceError."""
    try:
        arguments = json.loads(text or "{}")
    except ValueError:
        raise ServiceError(vendor, f"the arguments of {function} are not JSON") from None
    if not isinstance(arguments, dict):
        raise ServiceError(vendor, f"the arguments of {function} are not an object")
    return arguments


@dataclass(frozen=True, slots=True)
class _Registered:
    handler: Callable[..., Awaitable[Any]]
    cancel_on_interruption: bool
    timeout_s: float | None
    direct: bool


@dataclass(slots=True, eq=False)
class _Running:
    """A function at work."""

    call: FunctionCallFromLLM
    cancel_on_interruption: bool
    task: Handle | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    answered: bool = False


class LLMService(AIService):
    """Answers contexts.

    A provider overrides `_process_context(context)`: it calls `push_text` for each piece of the answer, and
    `run_function_calls` at the end of one that asks for functions; and `run_inference`.

    Args:
        run_in_parallel: functions of one answer run at once, else one after the other.
        function_call_timeout_secs: after which a function counts as having no result.
    """

    Settings: ClassVar[type[ServiceSettings]] = LLMSettings
    update_frame = LLMUpdateSettingsFrame
    vendor: ClassVar[str] = "openai"  # whose own messages it understands, see LLMSpecificMessage

    def __init__(
        self,
        *,
        run_in_parallel: bool = True,
        function_call_timeout_secs: float = 10.0,
        settings: LLMSettings | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(settings=settings, **kwargs)
        self._run_in_parallel, self._function_timeout_s = run_in_parallel, function_call_timeout_secs
        self._functions: dict[str | None, _Registered] = {}
        self._running: dict[str, _Running] = {}
        self._answer: Handle | None = None
        self._context: LLMContext | None = None  # that is being answered
        self._said = False  # something of the answer has left
        self.spoke = False  # there were words in the answer that was begun last
        self._limit: asyncio.Timeout | None = None
        self._skip_tts: bool | None = None
        for event in ("on_function_calls_started", "on_completion_timeout"):
            self._register_event_handler(event)

    # ------------------------------------------------------------ to be overridden

    @abstractmethod
    def _process_context(self, context: LLMContext) -> Awaitable[None]:
        """Generate one answer. What it raises becomes an ErrorFrame."""

    async def run_inference(
        self, context: LLMContext, max_tokens: int | None = None, system_instruction: str | None = None
    ) -> str | None:
        """One answer as text, outside the pipeline."""
        raise NotImplementedError(f"{type(self).__name__} answers in a pipeline only")

    # ------------------------------------------------------------ frames

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):  # from either side of the conversation
            self._begin_answer(frame.context)
        elif isinstance(frame, LLMConfigureOutputFrame):
            self._skip_tts = frame.skip_tts
        elif isinstance(frame, LLMContextSummaryRequestFrame):
            self.run_beside(self._summarise(frame), "summary")
        elif self.handled(frame, direction):
            pass
        else:
            if isinstance(frame, InterruptionFrame | CancelFrame):
                self._stop_answer()
                self._cancel_functions()
            self.push_frame(frame, direction)
        return DONE

    def push_frame(self, frame: Frame, direction: FrameDirection = DOWNSTREAM) -> Any:
        if self._skip_tts is not None and isinstance(
            frame, LLMTextFrame | LLMFullResponseStartFrame | LLMFullResponseEndFrame
        ):
            frame.skip_tts = self._skip_tts
        return super().push_frame(frame, direction)

    # ------------------------------------------------------------ an answer

    def _begin_answer(self, context: LLMContext) -> None:
        self.spoke = False
        self.pause_processing_frames()
        self._answer = self.run_beside(self._generate(context), "answer")

    async def _generate(self, context: LLMContext) -> None:
        me = self._answer
        try:
            await self.when_ready()
            self.push_frame(LLMFullResponseStartFrame())
            self.start_processing_metrics()
            self._context, self._said = context, False
            try:
                async with asyncio.timeout(self.patience_s) as self._limit:
                    await self._process_context(context)
            except TimeoutError as exc:
                self._call_event_handler("on_completion_timeout")
                self.fail(exc, "no answer in time")
            except Exception as exc:
                self.fail(exc)
            if self._answer is me:
                self.stop_processing_metrics()
                self.push_frame(LLMFullResponseEndFrame())
        finally:
            if self._answer is me:
                self._answer = self._context = None
                self.resume_processing_frames()

    def _stop_answer(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.cancel()
            self.resume_processing_frames()

    def progress(self) -> None:
        """The vendor is at work on the answer: patience begins anew."""
        if self.patience_s is not None and self._limit is not None and self._answer is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + self.patience_s)

    def relinquish(self) -> Sequence[Frame]:
        """An answer of which nothing has been said is another's to give; of any other, what was said stands."""
        context, said, answering = self._context, self._said, self._answer is not None
        answer, self._answer, self._context = self._answer, None, None
        if answering:
            self.push_frame(LLMFullResponseEndFrame())
            self.resume_processing_frames()
        if answer is not None and answer is not asyncio.current_task():
            answer.cancel()
        return (LLMContextFrame(context),) if context is not None and not said else ()

    def push_text(self, text: str) -> None:
        """A piece of the answer."""
        self._said = self.spoke = True
        self.progress()
        frame = LLMTextFrame(text)
        frame.includes_inter_frame_spaces = True
        self.push_frame(frame)

    # ------------------------------------------------------------ functions

    def register_function(
        self,
        function_name: str | None,
        handler: FunctionHandler,
        start_callback: Any = None,
        *,
        cancel_on_interruption: bool = True,
        timeout_secs: float | None = None,
    ) -> None:
        """`handler` is called for that function; for None, for all that are not registered.

        A function that is not cancelled goes on while the caller interrupts, and its result comes into the context.
        """
        if start_callback is not None:
            log.warning("llm.start_callback service=%s: no longer called, use on_function_calls_started", self)
        self._functions[function_name] = _Registered(handler, cancel_on_interruption, timeout_secs, False)

    def register_direct_function(
        self,
        handler: Callable[..., Awaitable[Any]],
        *,
        cancel_on_interruption: bool = True,
        timeout_secs: float | None = None,
    ) -> None:
        """A plain Python function `handler(params, argument, ...)`: the name and the arguments are its own."""
        schema = schema_of(handler)
        self._functions[schema.name] = _Registered(handler, cancel_on_interruption, timeout_secs, True)

    def unregister_function(self, function_name: str | None) -> None:
        self._functions.pop(function_name, None)

    def unregister_direct_function(self, handler: Callable[..., Any]) -> None:
        self._functions.pop(handler.__name__, None)

    def has_function(self, function_name: str) -> bool:
        return function_name in self._functions or None in self._functions

    async def run_function_calls(self, function_calls: Sequence[FunctionCallFromLLM]) -> None:
        """What an answer asks for: told to all, then begun. The results arrive as frames, later."""
        if not function_calls:
            return
        self._said = True
        known = []
        for call in function_calls:
            registered = self._functions.get(call.function_name) or self._functions.get(None)
            if registered is None:
                registered = self._of_context(call)
            if registered is None:
                log.warning("llm.unknown_function service=%s function=%s", self, call.function_name)
                self._function_failed(f"the model called {call.function_name!r}, which is not registered")
            else:
                known.append((call, registered))
        if not known:
            return
        self._call_event_handler("on_function_calls_started", [call for call, _ in known])
        self.broadcast_frame(FunctionCallsStartedFrame, function_calls=[call for call, _ in known])
        running = []
        for call, registered in known:
            entry = _Running(call, registered.cancel_on_interruption)
            self._running[call.tool_call_id] = entry
            running.append((entry, registered))
            self.broadcast_frame(
                FunctionCallInProgressFrame,
                function_name=call.function_name,
                tool_call_id=call.tool_call_id,
                arguments=call.arguments,
                cancel_on_interruption=registered.cancel_on_interruption,
            )
        if self._run_in_parallel:
            for entry, registered in running:
                entry.task = self.run_beside(self._call(entry, registered), f"function-{entry.call.function_name}")
        else:
            self.run_beside(self._call_in_turn(running), "functions")

    def _of_context(self, call: FunctionCallFromLLM) -> _Registered | None:
        """Direct functions of the context's own tools need no registering."""
        tools = call.context.tools if isinstance(call.context, LLMContext) else None
        function = tools.functions.get(call.function_name) if isinstance(tools, ToolsSchema) else None
        return _Registered(function, True, None, True) if function is not None else None

    async def _call_in_turn(self, running: Sequence[tuple[_Running, _Registered]]) -> None:
        for entry, registered in running:
            if entry.answered:
                continue
            entry.task = self.run_beside(self._call(entry, registered), f"function-{entry.call.function_name}")
            await entry.done.wait()

    async def _call(self, entry: _Running, registered: _Registered) -> None:
        call = entry.call

        async def result(value: Any, *, properties: FunctionCallResultProperties | None = None) -> None:
            self._result(entry, value, properties)

        params = FunctionCallParams(call.function_name, call.tool_call_id, call.arguments, self, call.context, result)
        limit = registered.timeout_s if registered.timeout_s is not None else self._function_timeout_s
        try:
            async with asyncio.timeout(limit or None):
                if registered.direct:
                    await registered.handler(params, **call.arguments)
                else:
                    await registered.handler(params)
                if not entry.answered:
                    await entry.done.wait()  # the handler has handed the callback on
        except TimeoutError:
            if not entry.answered:
                log.warning("llm.function_timeout service=%s function=%s limit_s=%s", self, call.function_name, limit)
                self._result(entry, None, None)
        except Exception as exc:
            self._function_failed(f"function {call.function_name}: {type(exc).__name__}: {exc}", exc)
            self._result(entry, {"error": f"{type(exc).__name__}: {exc}"}, None)

    def _function_failed(self, problem: str, exc: Exception | None = None) -> None:
        error = ErrorFrame(problem, False, self, exc)
        error.metadata[FUNCTION_FAILED] = True
        self.push_error_frame(error)

    def _result(self, entry: _Running, value: Any, properties: FunctionCallResultProperties | None) -> None:
        if entry.answered:
            return  # late, or a second one
        self._finished(entry)
        call = entry.call
        self.broadcast_frame(
            FunctionCallResultFrame,
            function_name=call.function_name,
            tool_call_id=call.tool_call_id,
            arguments=call.arguments,
            result=value,
            run_llm=properties.run_llm if properties is not None else None,
            properties=properties,
        )

    def _finished(self, entry: _Running) -> None:
        entry.answered = True
        entry.done.set()
        self._running.pop(entry.call.tool_call_id, None)

    def _cancel_functions(self) -> None:
        for entry in tuple(self._running.values()):
            if entry.cancel_on_interruption:
                self._finished(entry)
                if entry.task is not None:
                    entry.task.cancel()
                self.broadcast_frame(
                    FunctionCallCancelFrame,
                    function_name=entry.call.function_name,
                    tool_call_id=entry.call.tool_call_id,
                )

    # ------------------------------------------------------------ summaries

    async def _summarise(self, frame: LLMContextSummaryRequestFrame) -> None:
        try:
            async with asyncio.timeout(frame.summarization_timeout):
                summary, last = await summarise(self, frame)
        except Exception as exc:
            problem = "no summary in time" if isinstance(exc, TimeoutError) else str(exc) or type(exc).__name__
            answer = LLMContextSummaryResultFrame(frame.request_id, "", -1, error=problem)
        else:
            answer = LLMContextSummaryResultFrame(frame.request_id, summary, last)
        self.broadcast_frame_instance(answer)

    # ------------------------------------------------------------ for providers

    @property
    def system_instruction(self) -> str | None:
        value = self._settings.system_instruction
        return value if is_given(value) else None

    @staticmethod
    def tools_of(context: LLMContext) -> list[FunctionSchema]:
        return list(context.tools.standard_tools) if isinstance(context.tools, ToolsSchema) else []
