"""The programs of Pipecat's pages on text and on switching services, with nothing but their imports renamed.

Models and voices of vendors are played by scripts. Marks that the pages lost in print are written out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from bots.context.context import LLMContext
from bots.context.pair import LLMContextAggregatorPair
from bots.rtvi import RTVIObserverParams
from bots.runtime import PipelineTask
from bots.services.cartesia import CartesiaTTSService
from bots.services.llm import FunctionCallParams
from bots.services.switcher import LLMSwitcher, ServiceSwitcher, ServiceSwitcherStrategyFailover
from bots.text.aggregators import SimpleTextAggregator
from bots.text.markdown import MarkdownTextFilter
from bots.text.patterns import MatchAction, PatternMatch, PatternPairAggregator
from bots.text.processor import LLMTextProcessor
from media.frames import (
    AggregatedTextFrame,
    Frame,
    FunctionCallFromLLM,
    InputAudioRawFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMRunFrame,
    LLMTextFrame,
    ManuallySwitchServiceFrame,
    TTSSpeakFrame,
)
from media.pipeline import Pipeline
from tests.bots.services.rig import Hearer, Rig, Speaker, Thinker, pipeline
from tests.endtoend.served import run
from tests.endtoend.served import until as until_in
from tests.media.rig import Pass


async def until(true: Any) -> None:
    await until_in(true, 30.0)


async def answer(rig: Rig, *tokens: str) -> None:
    """What a model writes."""
    await rig.push(LLMFullResponseStartFrame(), *map(LLMTextFrame, tokens), LLMFullResponseEndFrame())
    await until(lambda: bool(rig.after.of(LLMFullResponseEndFrame)))


# ---------------------------------------------------------------- aggregators and filters


def test_aggregators_and_filters_piece_by_piece() -> None:
    """`aggregate` gives what has become whole, as in Pipecat; the page on the overview is older."""

    async def main() -> None:
        aggregator = SimpleTextAggregator()
        found = []
        for chunk in ("Hello ", "there. How", " are you"):
            async for aggregation in aggregator.aggregate(chunk):
                found.append((aggregation.text, str(aggregation.type)))
        rest = await aggregator.flush()
        assert rest is not None
        assert [*found, (rest.text, str(rest.type))] == [("Hello there.", "sentence"), ("How are you", "sentence")]

    run(main(), limit_s=60)
    filter = MarkdownTextFilter()
    assert "".join(filter.filter(chunk) for chunk in ("**Hello** ", "`there`")) == "Hello there"


def test_markdown_is_not_spoken() -> None:
    # Create filter that removes code blocks and tables
    md_filter = MarkdownTextFilter(params=MarkdownTextFilter.InputParams(filter_code=True, filter_tables=True))
    # Use with TTS service
    tts = Speaker(text_filter=md_filter)

    async def main() -> None:
        async with pipeline(tts) as rig:
            await answer(rig, "This is **important**. ", "Run `it`. ", "And <b>now</b>!!!!!!!")

    run(main(), limit_s=60)
    assert tts.asked == ["This is important.", "Run it.", "And now!"]


def test_a_tag_switches_the_voice() -> None:
    # Define voice IDs
    VOICE_IDS = {
        "narrator": "c45bc5ec-dc68-4feb-8829-6e6b2748095d",
        "female": "71a7ad14-091c-4e8e-a314-022ece01c121",
        "male": "7cf0e2b1-8daf-4fe4-89ad-f6039398f359",
    }
    logged: list[str] = []

    # Initialize TTS service, starting with default narrator voice
    CartesiaTTSService(api_key="key", voice_id=VOICE_IDS["narrator"])
    tts = Speaker()

    # Create pattern aggregator
    pattern_aggregator = PatternPairAggregator()

    # Add pattern for voice tags
    pattern_aggregator.add_pattern(
        type="voice", start_pattern="<voice>", end_pattern="</voice>", action=MatchAction.REMOVE
    )

    # Register handler for voice switching
    def on_voice_tag(match: PatternMatch) -> None:
        voice_name = match.content.strip().lower()
        if voice_name in VOICE_IDS:
            voice_id = VOICE_IDS[voice_name]
            tts.set_voice(voice_id)
            logged.append(f"Switched to {voice_name} voice")

    pattern_aggregator.on_pattern_match("voice", on_voice_tag)

    # Set the aggregator on an LLMTextProcessor
    llm_text_processor = LLMTextProcessor(text_aggregator=pattern_aggregator)

    async def main() -> None:
        async with pipeline(llm_text_processor, tts) as rig:
            await answer(rig, "<voice>fem", "ale</voice>Hello", " there. ")

    run(main(), limit_s=60)
    assert logged == ["Switched to female voice"]
    assert tts.settings.voice == VOICE_IDS["female"]
    assert tts.asked == ["Hello there."]


def test_structured_data_is_kept_and_not_spoken() -> None:
    # Create pattern aggregator
    pattern_aggregator = PatternPairAggregator()

    # Add pattern for JSON data
    pattern_aggregator.add_pattern(
        type="json", start_pattern="```json", end_pattern="```", action=MatchAction.AGGREGATE
    )

    # Set the aggregator on an LLMTextProcessor
    llm_text_processor = LLMTextProcessor(text_aggregator=pattern_aggregator)

    # Initialize TTS service, and don't speak JSON data
    CartesiaTTSService(api_key="key", skip_aggregator_types=["json"])
    tts = Speaker(skip_aggregator_types=["json"])

    async def main() -> None:
        async with pipeline(llm_text_processor, tts) as rig:
            await answer(rig, 'Here it is. ```json {"a": 1}``` Anything else?')
            pieces = [(frame.text, str(frame.aggregated_by)) for frame in rig.after.of(AggregatedTextFrame)]
            assert ('{"a": 1}', "json") in pieces

    run(main(), limit_s=60)
    assert tts.asked == ["Here it is.", "Anything else?"]


def test_special_values_are_spelt_and_obfuscated() -> None:
    # Create pattern aggregator
    pattern_aggregator = PatternPairAggregator()

    # Add patterns for different parts of an explanation
    pattern_aggregator.add_pattern(
        type="credit_card", start_pattern="<card>", end_pattern="</card>", action=MatchAction.AGGREGATE
    )

    # Set the aggregator on an LLMTextProcessor
    llm_text_processor = LLMTextProcessor(text_aggregator=pattern_aggregator)

    # Text-to-Speech service
    tts = Speaker()

    # Text transformers for TTS
    # This will insert Cartesia's spell tags around the provided text.
    async def spell_out_text(text: str, type: str) -> str:
        return CartesiaTTSService.SPELL(text)

    tts.add_text_transformer(spell_out_text, "credit_card")

    def obfuscate_credit_card(text: str, type: str) -> str:
        return "XXXX-XXXX-XXXX-" + text[-4:]

    task = PipelineTask(
        Pipeline([llm_text_processor, tts]),
        rtvi_observer_params=RTVIObserverParams(
            bot_output_transforms=[("credit_card", obfuscate_credit_card)],
        ),
    )

    async def main() -> None:
        running = asyncio.ensure_future(task.run())
        card = "Your card is <card>4111-1111-1111-1234</card>. "
        await task.queue_frames([LLMFullResponseStartFrame(), LLMTextFrame(card), LLMFullResponseEndFrame()])
        await until(lambda: len(tts.asked) >= 2)
        await task.cancel()
        await running

    run(main(), limit_s=60)
    assert tts.asked[:2] == ["Your card is", "<spell>4111-1111-1111-1234</spell>"]


def test_the_processor_in_its_pipeline() -> None:
    llm_text_aggregator = PatternPairAggregator()
    llm_text_aggregator.add_pattern(
        type="code",
        start_pattern="<code>",
        end_pattern="</code>",
        action=MatchAction.AGGREGATE,
    )

    llm_text_processor = LLMTextProcessor(text_aggregator=llm_text_aggregator)

    async def main() -> None:
        context_aggregator = LLMContextAggregatorPair(LLMContext([{"role": "user", "content": "code?"}]))
        llm, tts = Thinker(["Try this: <code>x = 1</code> and go."]), Speaker(skip_aggregator_types=["code"])
        seen = Pass()
        built = Pipeline(
            [
                Pass(),
                context_aggregator.user(),
                llm,
                llm_text_processor,
                seen,
                tts,
                Pass(),
                context_aggregator.assistant(),
            ]
        )
        async with pipeline(built) as rig:
            await rig.push(LLMRunFrame())
            await until(lambda: len(tts.asked) == 2)
            pieces = [frame for frame in seen.seen if isinstance(frame, AggregatedTextFrame)]
            assert [(piece.text, str(piece.aggregated_by)) for piece in pieces] == [
                ("Try this:", "sentence"),
                ("x = 1", "code"),
                ("and go.", "sentence"),
            ]

    run(main(), limit_s=60)


# ---------------------------------------------------------------- switchers


def test_switching_between_voices_by_hand() -> None:
    printed: list[str] = []
    print = printed.append

    async def main() -> None:
        # Create TTS services
        elevenlabs, cartesia = Speaker(name="elevenlabs"), Speaker(name="cartesia")

        # Create switcher with both services (uses ServiceSwitcherStrategyManual by default)
        tts_switcher = ServiceSwitcher(services=[elevenlabs, cartesia])

        @tts_switcher.event_handler("on_service_switched")
        async def on_service_switched(switcher: Any, service: Any) -> None:
            print(f"Switched to: {service.name}")

        # Use in pipeline
        async with pipeline(Pass(), tts_switcher, Pass()) as rig:
            await rig.push(TTSSpeakFrame("One."))
            # Later, switch to Cartesia
            await rig.push(ManuallySwitchServiceFrame(service=cartesia))
            await rig.push(TTSSpeakFrame("Two."))
            await until(lambda: cartesia.asked == ["Two."])
            assert elevenlabs.asked == ["One."]
            await until(lambda: bool(printed))

    run(main(), limit_s=60)
    assert printed == ["Switched to: cartesia"]


class Broken(Hearer):
    """A recogniser that fails at whatever it hears."""

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        yield None
        raise ConnectionError("gone")


def test_failing_over_and_what_the_program_is_told() -> None:
    printed: list[str] = []
    print = printed.append

    async def main() -> None:
        primary_stt, backup_stt = Broken(name="primary"), Hearer(name="backup")
        switcher = ServiceSwitcher(services=[primary_stt, backup_stt], strategy_type=ServiceSwitcherStrategyFailover)

        @switcher.strategy.event_handler("on_service_switched")
        async def on_switched(strategy: Any, service: Any) -> None:
            # Application decides when/how to recover the failed service
            print(f"Switched to: {service.name}")

        async with pipeline(switcher) as rig:
            await rig.push(InputAudioRawFrame(bytes(320), 8000, 1))
            await until(lambda: bool(printed))

    run(main(), limit_s=60)
    assert printed == ["Switched to: backup"]


def test_models_are_switched_asked_and_given_functions() -> None:
    asked: list[Any] = []

    async def handle_weather(params: FunctionCallParams) -> None:
        asked.append(params.arguments)
        await params.result_callback("sunny")

    async def my_direct_function(params: FunctionCallParams, city: str) -> None:
        """Tell the time in a city.

        Args:
            city: where.
        """
        await params.result_callback("noon")

    async def main() -> None:
        def weather(context: LLMContext) -> Sequence[FunctionCallFromLLM]:
            return [FunctionCallFromLLM("get_weather", "1", {"city": "Rome"}, context)]

        openai, gemini = Thinker("a summary"), Thinker([weather], ["It is sunny."])

        # Create switcher (uses ServiceSwitcherStrategyManual by default)
        llm_switcher = LLMSwitcher(llms=[openai, gemini])
        llm_switcher.register_function(function_name="get_weather", handler=handle_weather, cancel_on_interruption=True)
        llm_switcher.register_direct_function(
            handler=my_direct_function, cancel_on_interruption=True, timeout_secs=30.0
        )
        llm_context = LLMContext([{"role": "user", "content": "weather?"}])
        context_aggregator = LLMContextAggregatorPair(llm_context)
        async with pipeline(context_aggregator.user(), llm_switcher, Speaker(), context_aggregator.assistant()) as rig:
            result = await llm_switcher.run_inference(
                context=llm_context, max_tokens=1000, system_instruction="You are a helpful assistant."
            )
            assert result == "a summary"
            assert llm_switcher.active_llm is openai
            # Switch to cheaper model for simple tasks
            await rig.push(ManuallySwitchServiceFrame(service=gemini))
            assert llm_switcher.active_llm is gemini
            await rig.push(LLMRunFrame())
            await until(lambda: "It is sunny." in str(llm_context.messages))
        assert all(
            llm.has_function("get_weather") and llm.has_function("my_direct_function") for llm in (openai, gemini)
        )

    run(main(), limit_s=60)
    assert asked == [{"city": "Rome"}]
