"""Speech to speech: recognition, a context, a model, a voice; each of them chosen in gateway.toml. Or one model that
hears and speaks itself.

Without any of that chosen it works on a fresh machine: pocketsphinx hears the phrases of the rules, the rules answer,
and espeak-ng speaks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt

from bots.agent_turns import AfterSilence, ByWords, Idle, SpeechTurns, spoken_turns
from bots.base import Bot, Build, Call, Output, PrepareContext, TimerHandle
from bots.context.context import LLMContext
from bots.context.pair import LLMContextAggregatorPair
from bots.context.tools import FunctionSchema, ToolsSchema
from bots.context.user import LLMUserAggregator, LLMUserAggregatorParams
from bots.prompts import Prompt, PromptMaker, PromptSetting, as_table, say
from bots.services.base import AIService
from bots.services.llm import FunctionCallParams
from bots.services.providers import Chosen, choose
from bots.services.rendering import rendered
from bots.services.stt import STTService
from bots.services.switcher import LLMSwitcher, RestingFailover, ServiceSwitcher
from bots.services.tts import TTSService
from bots.text.markdown import MarkdownTextFilter
from bots.voicemail import VoicemailDetector
from media.dtmf_aggregator import DTMFAggregator
from media.errors import ConfigError, ConfigErrors, ServiceError
from media.floor import Floor, FloorParams
from media.frames import (
    ErrorFrame,
    Frame,
    FunctionCallCancelFrame,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    FunctionCallResultProperties,
    InterruptionFrame,
    LLMAssistantPushAggregationFrame,
    LLMFullResponseEndFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameDirection, FrameProcessor
from media.resample import resample_all
from media.silero import SileroVADAnalyzer
from media.turns.strategies import ExternalUserTurnStrategies, UserTurnStrategies
from media.vad import VADParams
from media.vad_processor import VADProcessor

log = logging.getLogger(__name__)


Service = Mapping[str, Any] | tuple[Mapping[str, Any], ...]

SPEECH_TURN_S = 0.5  # of speech into the bot's that is a turn, where nobody tells words from other sounds


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """[bots.<name>] with use = "agent"."""

    # One table each, or several: the first is at work, the next takes over when it fails.
    stt: Service = field(default_factory=lambda: {"use": "pocketsphinx"})
    llm: Service = field(default_factory=lambda: {"use": "rules"})
    tts: Service = field(default_factory=lambda: {"use": "espeak"})
    speech: Service | None = None  # a model that hears and speaks: in place of `stt` and `llm`
    greeting: PromptSetting | None = None  # said at once; made when the configuration loads
    # Of calls that are placed: who has answered is found out before anything is said, and a machine gets this message.
    voicemail: PromptSetting | None = None
    prompt: str = ""  # the model's instruction
    voice: str = ""  # of the greeting, where it is text
    silence_s: Annotated[float, Gt(0)] = 0.6  # after which the caller has finished
    interrupt_words: Annotated[int, Ge(1)] = 1  # in one transcript, while the bot speaks: fewer are no turn
    idle_s: Annotated[float, Ge(0)] = 8.0  # without a word from the caller, until `idle` is said; 0: never
    idle: str = "Are you still there?"
    idle_tries: Annotated[int, Ge(1)] = 2  # ... so often, and then the call ends with
    goodbye: str = "Goodbye."
    min_volume: float = 0.6  # of speech, 0 to 1: 0.6 is about -50 dBFS
    dtmf: bool = True  # keys reach the model as "DTMF: 12#"
    patience_s: Annotated[float, Gt(0)] = 1.2  # for a sign of life, until the next service takes over
    timeout_s: Annotated[float, Gt(0)] = 8.0  # the same where no other service is left to take over
    hold_s: Annotated[float, Ge(0)] = 1.7  # without a word from the bot, until `hold` is said; 0: never
    hold: PromptSetting = "One moment, please."
    sorry: PromptSetting = "I am sorry, I did not get that. Could you say it again?"  # when all services have failed
    sorry_tries: Annotated[int, Ge(0)] = 2  # ... so often in a row, and then the call ends with
    give_up: PromptSetting = "I am sorry, I cannot help you at the moment. Please call again later. Goodbye."


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

    def __init__(self, call: Call, llm: LLMSwitcher) -> None:
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
            # A model that has said something with it has done so; one that has not, still owes the caller an answer.
            quiet = FunctionCallResultProperties(run_llm=False) if params.llm.spoke else None
            await params.result_callback({"set": True}, properties=quiet)

    async def _last(self, params: FunctionCallParams, then: Any) -> None:
        """Behind everything that is being said, for the output keeps the order; and the model says no more."""
        await params.result_callback({"done": True}, properties=FunctionCallResultProperties(run_llm=False))
        then()


@dataclass(frozen=True, slots=True)
class Phrases:
    """What is said without any service: made when the configuration loads. None is not said, or not by this way."""

    greeting: Prompt | None = None
    voicemail: Prompt | None = None
    hold: Prompt | None = None
    sorry: Prompt | None = None
    give_up: Prompt | None = None


class Announcer(FrameProcessor):
    """Says what needs no service: the greeting, and what a caller hears in place of silence.

    It stands behind the voice, so it sees whether the bot has said a word since the caller stopped speaking.
    """

    def __init__(self, call: Call, settings: AgentSettings, phrases: Phrases, greeting: str) -> None:
        super().__init__()
        self._call, self._settings, self._phrases, self._greeting = call, settings, phrases, greeting
        self._hold: TimerHandle | None = None
        self._put_off = False  # ... until the caller is silent again
        self._functions = 0  # at work
        self._apologies = 0  # in a row
        self._given_up = False
        self.waits = False  # until it is known who has answered

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        act = _HEARD.get(type(frame))
        if act is not None and direction is FrameDirection.DOWNSTREAM:
            act(self)

    def _on_start(self) -> None:
        if not self.waits:
            self.greet()

    def greet(self) -> None:
        prompt = self._phrases.greeting
        if prompt is not None:
            say(self, (prompt,), self._call.info.send.sample_rate, append_to_context=True)
            if prompt.text:
                self.push_frame(LLMAssistantPushAggregationFrame())  # the next answer is another message
        elif self._greeting:  # it could not be made ahead
            self._call.call_later(0, lambda: self._call.inject(TTSSpeakFrame(self._greeting)))

    @property
    def has_greeting(self) -> bool:
        return self._phrases.greeting is not None or bool(self._greeting)

    def leave_message(self) -> None:
        """A machine records: say what it is to keep, and hang up."""
        if self._phrases.voicemail is not None:
            self._say(self._phrases.voicemail)
        else:  # it could not be made ahead
            self._call.inject(TTSSpeakFrame(str(self._settings.voicemail)))
        self._call.end("voicemail")

    def _say(self, prompt: Prompt) -> None:
        say(self, (prompt,), self._call.info.send.sample_rate)

    # ------------------------------------------------------------ when it takes long

    def _on_turn(self) -> None:
        self._on_word()
        self._await_word()

    def _await_word(self) -> None:
        if self._settings.hold_s and self._phrases.hold is not None:
            self._hold = self._call.call_later(self._settings.hold_s, self._say_hold)

    def _on_word(self) -> None:
        """The bot speaks, or the caller does."""
        self._put_off = False
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None

    def _on_voice(self) -> None:
        """He goes on, or it is a cough: nothing is said into it."""
        if self._hold is not None:
            self._on_word()
            self._put_off = True

    def _on_silence(self) -> None:
        if self._put_off:
            self._put_off = False
            self._await_word()

    def _on_speech(self) -> None:
        self._apologies = 0
        self._on_word()

    def _on_answer(self) -> None:
        if not self._functions:  # an answer that has no words
            self._on_word()

    def _on_function(self) -> None:
        self._functions += 1

    def _on_result(self) -> None:
        self._functions = max(0, self._functions - 1)

    def _say_hold(self) -> None:
        self._hold = None
        self._call.count("held")
        if self._phrases.hold is not None and not self._given_up:
            self._say(self._phrases.hold)

    # ------------------------------------------------------------ when all has failed

    def apologise(self) -> None:
        """No service is left that could do what has to be done."""
        self._on_word()
        if self._given_up:
            return
        self._apologies += 1
        self._call.count("apologies")
        if self._apologies <= self._settings.sorry_tries:
            if self._phrases.sorry is not None:
                self._say(self._phrases.sorry)
            return
        self._given_up = True
        if self._phrases.give_up is not None:
            self._say(self._phrases.give_up)
        self._call.end("service-failed")


_HEARD: Mapping[type[Frame], Callable[[Announcer], None]] = {
    StartFrame: Announcer._on_start,
    UserStoppedSpeakingFrame: Announcer._on_turn,
    UserStartedSpeakingFrame: Announcer._on_word,
    VADUserStartedSpeakingFrame: Announcer._on_voice,
    VADUserStoppedSpeakingFrame: Announcer._on_silence,
    InterruptionFrame: Announcer._on_word,
    TTSAudioRawFrame: Announcer._on_speech,
    FunctionCallInProgressFrame: Announcer._on_function,
    FunctionCallResultFrame: Announcer._on_result,
    FunctionCallCancelFrame: Announcer._on_result,
    LLMFullResponseEndFrame: Announcer._on_answer,
}


def _prompt(sounds: Mapping[int, bytes], text: str) -> Prompt:
    """What was made at some rates, at any."""
    best = max(sounds)
    return Prompt(lambda rate: sounds[rate] if rate in sounds else resample_all(sounds[best], best, rate), text)


def _is_file(setting: str) -> bool:
    return setting.lower().endswith(".wav")


Found = Sequence[tuple[str, Chosen]]  # with the TOML path


class AgentBot:
    """use = "agent"."""

    settings = AgentSettings

    async def prepare(self, settings: AgentSettings, context: PrepareContext) -> Build:
        context.will_hear()
        errors: list[ConfigError] = []
        chosen: dict[str, list[tuple[str, Chosen]]] = {kind: [] for kind in _kinds(settings)}
        for kind, found in chosen.items():
            for path, table in _tables(kind, getattr(settings, kind)):
                try:
                    found.append((path, choose(kind.upper(), table, context.base_dir)))
                except ConfigError as exc:
                    errors.append(exc.within(path))
        if errors:
            raise ConfigErrors(errors)
        needs = _needs(settings, chosen)
        for kind, found in chosen.items():
            for path, service in found:
                try:
                    await service.prepare(**({} if kind == "speech" else needs.get(id(service), {})))
                except ConfigError as exc:
                    errors.append(exc.within(path))
        if len({getattr(service.settings, "turns", "") for _, service in chosen.get("speech", ())}) > 1:
            errors.append(ConfigError("speech", "its services differ in `turns`", "let the same one end them in all"))
        if errors:
            raise ConfigErrors(errors)
        phrases = await _phrases(settings, context, [service for _, service in chosen["tts"]])
        text = "" if settings.greeting is None else as_table(settings.greeting).text

        def build(call: Call) -> Sequence[FrameProcessor]:
            made = {
                kind: [(service.use, service.make(**needs.get(id(service), {}))) for _, service in found]
                for kind, found in chosen.items()
            }
            return _agent(call, settings, phrases, text, made)

        return build


def _kinds(settings: AgentSettings) -> Sequence[str]:
    """Of services that this agent has. Raises ConfigErrors for tables that it would not use."""
    if settings.speech is None:
        return "stt", "llm", "tts"
    default = AgentSettings()
    unused = [kind for kind in ("stt", "llm") if getattr(settings, kind) != getattr(default, kind)]
    if unused:
        raise ConfigErrors(
            ConfigError(kind, "has no use where `speech` is: it hears and thinks", "remove one of both")
            for kind in unused
        )
    if settings.voicemail:
        raise ConfigError(
            "voicemail", "cannot be kept apart where `speech` is: it hears and speaks", "remove one of both"
        )
    return "speech", "tts"


def _tables(kind: str, setting: Service) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Each service's table with its TOML path."""
    if isinstance(setting, Mapping):
        return ((kind, setting),)
    if not setting:
        raise ConfigError(kind, "names no service", f'write {kind} = {{ use = "..." }}')
    return [(f"{kind}[{at}]", table) for at, table in enumerate(setting)]


async def _phrases(settings: AgentSettings, context: PrepareContext, chosen: Sequence[Chosen]) -> Phrases:
    """In the first voice that can be had now; where none can, in the prompts' own; where there is none, unsaid.

    Only what is wrong with a file, or with the greeting where nothing at all could ever say it, is an error.
    """
    maker = PromptMaker(context, settings.voice)
    voices = list(chosen)
    said: dict[str, Prompt | None] = {}
    for name in ("greeting", "voicemail", "hold", "sorry", "give_up"):
        setting = getattr(settings, name)
        if not setting:
            said[name] = None
        elif isinstance(setting, str) and not _is_file(setting):
            said[name] = await _spoken(name, setting, context, settings.voice, voices)
        else:
            said[name] = maker.make(name, setting)
    if maker.errors:
        raise ConfigErrors(maker.errors)
    return Phrases(**said)


async def _spoken(name: str, text: str, context: PrepareContext, voice: str, voices: list[Chosen]) -> Prompt | None:
    """Voices that fail are taken out of `voices`: they are not asked for the next phrase."""
    for service in tuple(voices):
        if service.use == "espeak":
            break  # the prompts' own
        key = f"{service.use} {service.settings!r}"
        try:
            sounds = await rendered(key, service.make(), text, context.sample_rates)
        except (ServiceError, TimeoutError) as exc:
            log.warning("agent.phrase name=%s voice=%s: not made ahead: %s", name, service.use, exc)
            voices.remove(service)
        else:
            return _prompt(sounds, text)
    maker = PromptMaker(context, voice)
    prompt = maker.make(name, text)
    if not maker.errors:
        return prompt
    if context.speak is not None:
        raise ConfigErrors(maker.errors)
    log.warning("agent.phrase name=%s: nothing can speak it ahead", name)
    return None


def _needs(settings: AgentSettings, chosen: Mapping[str, Found]) -> dict[int, dict[str, Any]]:
    """A recogniser that knows phrases only is told those of the dialogues; a model that hears, how long a pause is."""
    if "speech" in chosen:
        return {id(speech): {"silence_s": settings.silence_s} for _, speech in chosen["speech"]}
    phrases = tuple(phrase for _, llm in chosen.get("llm", ()) for phrase in getattr(llm.settings, "phrases", ()))
    return {id(stt): {"phrases": phrases} for _, stt in chosen.get("stt", ()) if hasattr(stt.settings, "phrases")}


class Watched:
    """The services of one kind in one call: one at work, the others behind it; what happens goes into the record."""

    def __init__(self, call: Call, kind: str, made: Sequence[tuple[str, AIService]], settings: AgentSettings) -> None:
        self._call, self._kind = call, kind
        self._names = {service: name for name, service in made}
        self._slowest_ms = 0
        for service in self._names:
            service.observer = self._observed
            if isinstance(service, TTSService):
                service.add_text_filter(MarkdownTextFilter())  # models write for the eye, told or not
            if isinstance(service, STTService) and len(made) > 1:
                service.keep_unheard()  # for the one that takes over
            several = len(made) > 1 or kind == "stt"
            service.patience_s = settings.patience_s if several else settings.timeout_s
        switcher: Any = LLMSwitcher if kind in ("llm", "speech") else ServiceSwitcher
        self.switcher = switcher([service for _, service in made], RestingFailover)
        self.switcher.on_failure = self._failed
        self.switcher.add_event_handler("on_service_switched", self._switched)

    def _observed(self, what: str, value: float) -> None:
        kind, count = self._kind, self._call.count
        if what == "ttfb_s":
            took_ms = round(value * 1000)
            count(f"{kind}_answers")
            count(f"{kind}_ttfb_ms", took_ms)
            if took_ms > self._slowest_ms:
                count(f"{kind}_slowest_ms", took_ms - self._slowest_ms)
                self._slowest_ms = took_ms
        else:
            count(f"{kind}_{what}", round(value))

    def _failed(self, service: Any, error: ErrorFrame) -> None:
        self._call.count(f"{self._kind}_failures")
        self._call.count(f"{self._kind}_failed_{self._names[service]}")

    def _switched(self, switcher: Any, service: Any) -> None:
        self._call.count(f"{self._kind}_failovers")


def _agent(
    call: Call,
    settings: AgentSettings,
    phrases: Phrases,
    greeting: str,
    made: Mapping[str, Sequence[tuple[str, AIService]]],
) -> Sequence[FrameProcessor]:
    """The pipeline: a recogniser, a model and a voice; or one model that hears and speaks, and a voice before it that
    says only what it does not: `idle`, `goodbye`.
    """
    announcer = Announcer(call, settings, phrases, greeting)
    services = _watched(call, settings, made, announcer)
    context = _context(settings)
    keys = (DTMFAggregator(),) if settings.dtmf else ()
    user: LLMUserAggregator | SpeechTurns
    gate: Sequence[FrameProcessor] = ()
    if settings.speech is None:
        llm = services["llm"]
        pair = LLMContextAggregatorPair(context, user_params=_user_params(settings))
        floor, user = FloorParams(), pair.user()
        detector, gate = _who_answers(call, settings, announcer)
        middle = (services["stt"], *detector, *keys, user, llm, services["tts"])
    else:
        llm = services["speech"]
        for service in llm.llms:
            service.converse(context, said=greeting)
        server_turns = llm.llms[0].server_turns
        pair = LLMContextAggregatorPair(context)
        floor = FloorParams(turn_s=None) if server_turns else FloorParams(turn_s=SPEECH_TURN_S)
        user = SpeechTurns(
            user_turn_strategies=ExternalUserTurnStrategies() if server_turns else spoken_turns(settings.silence_s),
            user_idle_timeout=settings.idle_s,
        )
        middle = (user, *keys, services["tts"], llm)
    CallTools(call, llm)
    Idle(call, settings, user)
    hearing = VADProcessor(vad_analyzer=SileroVADAnalyzer(params=VADParams(min_volume=settings.min_volume)))
    return (hearing, Floor(floor), *middle, announcer, *gate, Output(), pair.assistant())


def _user_params(settings: AgentSettings) -> LLMUserAggregatorParams:
    # The floor holds the bot back as soon as the caller makes a sound. Words make a turn of it, and nothing else does:
    # in a turn that a sound had begun they would interrupt nothing, and after a cough an answer would be waited for.
    start = ByWords(min_words=settings.interrupt_words)
    stop = AfterSilence(user_speech_timeout=settings.silence_s)
    strategies = UserTurnStrategies(start=[start], stop=[stop])
    return LLMUserAggregatorParams(user_turn_strategies=strategies, user_idle_timeout=settings.idle_s)


def _who_answers(
    call: Call, settings: AgentSettings, announcer: Announcer
) -> tuple[Sequence[FrameProcessor], Sequence[FrameProcessor]]:
    """Of a call that was placed: what stands behind the recogniser, and behind the voice."""
    if not settings.voicemail or call.info.direction != "outbound":
        return (), ()
    announcer.waits = True
    # A bot that greets does so when somebody is there; one that does not answers what is said to it.
    detector = VoicemailDetector(tells_bot=not announcer.has_greeting)
    detector.add_event_handler("on_conversation_detected", lambda _: announcer.greet())
    detector.add_event_handler("on_voicemail_detected", lambda _: announcer.leave_message())
    return (detector.detector(),), (detector.gate(),)


def _watched(
    call: Call, settings: AgentSettings, made: Mapping[str, Sequence[tuple[str, AIService]]], announcer: Announcer
) -> dict[str, Any]:
    """The services of each kind, in a switcher."""
    services = {kind: Watched(call, kind, each, settings).switcher for kind, each in made.items()}
    for switcher in services.values():
        switcher.strategy.add_event_handler("on_exhausted", lambda strategy, error: announcer.apologise())
    return services


def _context(settings: AgentSettings) -> LLMContext:
    messages = [{"role": "system", "content": settings.prompt}] if settings.prompt else []
    return LLMContext(messages, ToolsSchema(TOOLS))


BOT: Bot = AgentBot()
