"""Speech to speech: recognition, a context, a model, a voice; each of them chosen in gateway.toml.

Without any of that chosen it works on a fresh machine: pocketsphinx hears the phrases of the rules, the rules answer,
and espeak-ng speaks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt

from bots.base import Bot, Build, Call, Output, PrepareContext
from bots.context.context import LLMContext
from bots.context.pair import LLMContextAggregatorPair
from bots.context.tools import FunctionSchema, ToolsSchema
from bots.context.user import LLMUserAggregatorParams
from bots.prompts import Prompt, PromptMaker, PromptSetting, say
from bots.services.llm import FunctionCallParams, LLMService
from bots.services.providers import Chosen, choose
from media.dtmf_aggregator import DTMFAggregator
from media.errors import ConfigError, ConfigErrors
from media.floor import Floor, FloorParams
from media.frames import (
    Frame,
    FunctionCallResultProperties,
    StartFrame,
    TTSSpeakFrame,
    TTSTextFrame,
)
from media.processor import FrameDirection, FrameProcessor
from media.silero import SileroVADAnalyzer
from media.turns.start import TranscriptionUserTurnStartStrategy, VADUserTurnStartStrategy
from media.turns.stop import SpeechTimeoutUserTurnStopStrategy
from media.turns.strategies import UserTurnStrategies
from media.vad import VADParams
from media.vad_processor import VADProcessor

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """[bots.<name>] with use = "agent"."""

    stt: Mapping[str, Any] = field(default_factory=lambda: {"use": "pocketsphinx"})
    llm: Mapping[str, Any] = field(default_factory=lambda: {"use": "rules"})
    tts: Mapping[str, Any] = field(default_factory=lambda: {"use": "espeak"})
    greeting: PromptSetting | None = None  # said at once; made when the configuration loads
    prompt: str = ""  # the model's instruction
    voice: str = ""  # of the greeting, where it is text
    silence_s: Annotated[float, Gt(0)] = 0.6  # after which the caller has finished
    idle_s: Annotated[float, Ge(0)] = 8.0  # without a word from the caller, until `idle` is said; 0: never
    idle: str = "Are you still there?"
    idle_tries: Annotated[int, Ge(1)] = 2  # ... so often, and then the call ends with
    goodbye: str = "Goodbye."
    min_volume: float = 0.6  # of speech, 0 to 1: 0.6 is about -50 dBFS
    dtmf: bool = True  # keys reach the model as "DTMF: 12#"


# ---------------------------------------------------------------- what every agent can do

END = FunctionSchema(
    name="end_call",
    description="Hang up. Say goodbye first.",
    properties={"reason": {"type": "string", "description": "why, in a word or two"}},
)
TRANSFER = FunctionSchema(
    name="transfer_call",
    description="Hand the caller over. Say that you do, first.",
    properties={"target": {"type": "string", "description": "a phone number or SIP URI"}},
    required=["target"],
)
DIGITS = FunctionSchema(
    name="send_digits",
    description="Press keys of the telephone.",
    properties={"digits": {"type": "string", "description": "0-9, *, #"}},
    required=["digits"],
)
VARIABLE = FunctionSchema(
    name="set_variable",
    description="Keep a fact about this call for the systems behind it.",
    properties={"name": {"type": "string"}, "value": {"type": "string"}},
    required=["name", "value"],
)
TOOLS = (END, TRANSFER, DIGITS, VARIABLE)


class CallTools:
    """The functions behind them, for one call. What ends or leaves the call waits until all was said."""

    def __init__(self, call: Call, llm: LLMService) -> None:
        self._call = call
        for schema, handler in zip(TOOLS, (self.end, self.transfer, self.digits, self.variable), strict=True):
            llm.register_function(schema.name, handler)

    async def end(self, params: FunctionCallParams) -> None:
        reason = str(params.arguments.get("reason") or "completed")
        await self._last(params, lambda: self._call.end(reason))

    async def transfer(self, params: FunctionCallParams) -> None:
        target = str(params.arguments["target"])
        await self._last(params, lambda: self._call.transfer(target))

    async def digits(self, params: FunctionCallParams) -> None:
        try:
            self._call.send_digits(str(params.arguments["digits"]))
        except ValueError as exc:
            await params.result_callback({"error": str(exc)})
        else:
            await params.result_callback({"sent": True})

    async def variable(self, params: FunctionCallParams) -> None:
        try:
            self._call.variables[str(params.arguments["name"])] = params.arguments["value"]
        except ValueError as exc:
            await params.result_callback({"error": str(exc)})
        else:
            quiet = FunctionCallResultProperties(run_llm=False)
            await params.result_callback({"set": True}, properties=quiet)

    async def _last(self, params: FunctionCallParams, then: Any) -> None:
        """Behind everything that is being said, for the output keeps the order; and the model says no more."""
        await params.result_callback({"done": True}, properties=FunctionCallResultProperties(run_llm=False))
        then()


class Greeting(FrameProcessor):
    """Says the greeting as the call starts, and what is said when nobody answers."""

    def __init__(self, call: Call, prompt: Prompt | None, text: str) -> None:
        super().__init__()
        self._call, self._prompt, self._text = call, prompt, text

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        if isinstance(frame, StartFrame) and self._prompt is not None:
            say(self, (self._prompt,), self._call.info.send.sample_rate)
            if self._text:
                self.push_frame(TTSTextFrame(self._text, "sentence"))


class AgentBot:
    """use = "agent"."""

    settings = AgentSettings

    async def prepare(self, settings: AgentSettings, context: PrepareContext) -> Build:
        errors: list[ConfigError] = []
        chosen: dict[str, Chosen] = {}
        for kind in ("stt", "llm", "tts"):
            try:
                chosen[kind] = choose(kind.upper(), getattr(settings, kind), context.base_dir)
            except ConfigError as exc:
                errors.append(exc.within(kind))
        maker = PromptMaker(context, settings.voice)
        greeting = maker.make("greeting", settings.greeting) if settings.greeting is not None else None
        errors += maker.errors
        if errors:
            raise ConfigErrors(errors)
        stt, llm, tts = chosen["stt"], chosen["llm"], chosen["tts"]
        needs = _needs(stt, llm)
        for kind, service, need in (("stt", stt, needs), ("llm", llm, {}), ("tts", tts, {})):
            try:
                await service.prepare(**need)
            except ConfigError as exc:
                raise exc.within(kind) from None
        text = settings.greeting if isinstance(settings.greeting, str) else ""

        def build(call: Call) -> Sequence[FrameProcessor]:
            return _agent(call, settings, greeting, text, stt.make(**needs), llm.make(), tts.make())

        return build


def _needs(stt: Chosen, llm: Chosen) -> dict[str, Any]:
    """A recogniser that knows phrases only is told those of the dialogue."""
    phrases = getattr(llm.settings, "phrases", ())
    return {"phrases": tuple(phrases)} if hasattr(stt.settings, "phrases") else {}


def _agent(
    call: Call, settings: AgentSettings, greeting: Prompt | None, text: str, stt: Any, llm: Any, tts: Any
) -> Sequence[FrameProcessor]:
    messages = [{"role": "system", "content": settings.prompt}] if settings.prompt else []
    context = LLMContext(messages, ToolsSchema(TOOLS))
    # The floor holds the bot back as soon as the caller makes a sound; words make a turn of it.
    start = [TranscriptionUserTurnStartStrategy(), VADUserTurnStartStrategy(enable_interruptions=False)]
    strategies = UserTurnStrategies(
        start=start, stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=settings.silence_s)]
    )
    params = LLMUserAggregatorParams(user_turn_strategies=strategies, user_idle_timeout=settings.idle_s)
    pair = LLMContextAggregatorPair(context, user_params=params)
    user, assistant = pair.user(), pair.assistant()
    CallTools(call, llm)
    Idle(call, settings, user)
    vad = VADProcessor(vad_analyzer=SileroVADAnalyzer(params=VADParams(min_volume=settings.min_volume)))
    keys = (DTMFAggregator(),) if settings.dtmf else ()
    return (
        vad,
        Floor(FloorParams()),
        stt,
        *keys,
        user,
        llm,
        tts,
        Greeting(call, greeting, text),
        Output(),
        assistant,
    )


class Idle:
    """Asks a silent caller whether he is there, and ends the call if nobody answers."""

    def __init__(self, call: Call, settings: AgentSettings, user: Any) -> None:
        self._call, self._settings, self._user = call, settings, user
        self._asked = 0
        user.add_event_handler("on_user_turn_idle", self._on_idle)
        user.add_event_handler("on_user_turn_started", self._on_turn)

    def _on_turn(self, user: Any, strategy: Any) -> None:
        self._asked = 0

    def _on_idle(self, user: Any) -> None:
        self._asked += 1
        if self._asked <= self._settings.idle_tries:
            user.push_frame(TTSSpeakFrame(self._settings.idle, append_to_context=True))
            return
        if self._settings.goodbye:
            user.push_frame(TTSSpeakFrame(self._settings.goodbye))
        self._call.end("no-input")


BOT: Bot = AgentBot()
