"""The programs of Pipecat's pages on turn events, transcriptions, summaries and turns that others manage, with nothing
but their imports renamed. Models and voices of vendors are played by scripts.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from bots.context.assistant import LLMAssistantAggregatorParams
from bots.context.context import LLMContext
from bots.context.messages import AssistantThoughtMessage, AssistantTurnStoppedMessage, UserTurnStoppedMessage
from bots.context.pair import LLMContextAggregatorPair
from bots.context.summary import (
    LLMAutoContextSummarizationConfig,
    LLMContextSummaryConfig,
    SummaryAppliedEvent,
)
from bots.context.user import LLMUserAggregatorParams
from bots.services.smart_turn import LocalSmartTurnAnalyzerV3
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMMessagesAppendFrame,
    LLMSummarizeContextFrame,
    LLMThoughtEndFrame,
    LLMThoughtStartFrame,
    LLMThoughtTextFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.pipeline import ParallelPipeline, Pipeline
from media.silero import SileroVADAnalyzer
from media.turns.processor import UserTurnProcessor
from media.turns.stop import SpeechTimeoutUserTurnStopStrategy, TurnAnalyzerUserTurnStopStrategy
from media.turns.strategies import ExternalUserTurnStrategies, UserTurnStrategies
from media.vad import VADParams
from tests.bots.services.rig import Rig, Speaker, Thinker, pipeline, settle
from tests.endtoend.served import run
from tests.endtoend.served import until as until_in
from tests.media.rig import Pass
from tests.media.small_onnx import mean_model


async def until(true: Any) -> None:
    await until_in(true, 30.0)


def quick(**params: Any) -> LLMUserAggregatorParams:
    """The page's defaults ask a turn model, which needs audio."""
    stop = SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.01)
    return LLMUserAggregatorParams(user_turn_strategies=UserTurnStrategies(stop=[stop]), **params)


async def say(rig: Rig, text: str) -> None:
    await rig.push(VADUserStartedSpeakingFrame(start_secs=0.2))
    await rig.push(TranscriptionFrame(text, "caller", "now"))
    await rig.push(VADUserStoppedSpeakingFrame(stop_secs=0.2))


# ---------------------------------------------------------------- turn events, transcriptions


def test_turn_events_of_both_sides() -> None:
    printed: list[str] = []
    print = printed.append

    async def main() -> None:
        context = LLMContext()
        user_aggregator, assistant_aggregator = LLMContextAggregatorPair(context, user_params=quick())

        @user_aggregator.event_handler("on_user_turn_started")
        async def on_user_turn_started(aggregator: Any, strategy: Any) -> None:
            print(f"User started speaking (detected by {type(strategy).__name__})")

        @user_aggregator.event_handler("on_user_turn_stopped")
        async def on_user_turn_stopped(aggregator: Any, strategy: Any, message: UserTurnStoppedMessage) -> None:
            print(f"User said: {message.content}")
            datetime.fromisoformat(message.timestamp)
            if message.user_id:
                print(f"User ID: {message.user_id}")

        @assistant_aggregator.event_handler("on_assistant_turn_started")
        async def on_assistant_turn_started(aggregator: Any) -> None:
            print("Assistant started responding")

        @assistant_aggregator.event_handler("on_assistant_turn_stopped")
        async def on_assistant_turn_stopped(aggregator: Any, message: AssistantTurnStoppedMessage) -> None:
            print(f"Assistant said: {message.content}")
            datetime.fromisoformat(message.timestamp)

        async with pipeline(user_aggregator, Thinker(["Good day."]), Speaker(), assistant_aggregator) as rig:
            await say(rig, "Hello.")
            await until(lambda: len(printed) == 5)

    run(main(), limit_s=60)
    assert printed[0].startswith("User started speaking (detected by ")
    assert printed[1:] == [
        "User said: Hello.",
        "User ID: caller",
        "Assistant started responding",
        "Assistant said: Good day.",
    ]


def test_a_turn_that_times_out_retriggers_the_model() -> None:
    async def main() -> None:
        context = LLMContext()
        never = UserTurnStrategies(stop=[TurnAnalyzerUserTurnStopStrategy(turn_analyzer=Undecided())])
        user_aggregator, assistant_aggregator = LLMContextAggregatorPair(
            context, user_params=LLMUserAggregatorParams(user_turn_strategies=never, user_turn_stop_timeout=0.05)
        )

        @user_aggregator.event_handler("on_user_turn_stop_timeout")
        async def on_user_turn_stop_timeout(aggregator: Any) -> None:
            message = {
                "role": "system",
                "content": "Continue.",
            }
            await user_aggregator.queue_frame(LLMMessagesAppendFrame([message], run_llm=True))

        llm = Thinker(*([["Go on."]] * 4))
        async with pipeline(user_aggregator, llm, Speaker(), assistant_aggregator) as rig:
            await rig.push(VADUserStartedSpeakingFrame(start_secs=0.2))
            await rig.push(VADUserStoppedSpeakingFrame(stop_secs=0.2))
            await until(lambda: any("Continue." in str(asked) for asked in llm.contexts))

    run(main(), limit_s=60)


class Undecided(LocalSmartTurnAnalyzerV3):
    """A model that never thinks that a turn is over."""

    def __init__(self) -> None:
        super().__init__(smart_turn_model_path=__file__)

    async def analyze_end_of_turn(self) -> Any:
        await asyncio.Event().wait()


def test_an_idle_user_is_asked_whether_he_is_there() -> None:
    async def main() -> None:
        context = LLMContext()
        user_aggregator, _ = LLMContextAggregatorPair(context, user_params=quick(user_idle_timeout=0.05))

        @user_aggregator.event_handler("on_user_turn_idle")
        async def on_user_turn_idle(aggregator: Any) -> None:
            # Re-engage the user with a contextual prompt
            message = {
                "role": "system",
                "content": "The user has been quiet. Politely and briefly ask if they're still there.",
            }
            await aggregator.push_frame(LLMMessagesAppendFrame([message], run_llm=True))

        pushed = Pass()
        async with pipeline(user_aggregator, pushed) as rig:
            await rig.push(BotStartedSpeakingFrame(), BotStoppedSpeakingFrame())
            await until(lambda: any(isinstance(frame, LLMMessagesAppendFrame) for frame in pushed.seen))

    run(main(), limit_s=60)


def test_thoughts() -> None:
    printed: list[str] = []
    print = printed.append

    async def main() -> None:
        _, assistant_aggregator = LLMContextAggregatorPair(LLMContext())

        @assistant_aggregator.event_handler("on_assistant_thought")
        async def on_assistant_thought(aggregator: Any, message: AssistantThoughtMessage) -> None:
            print(f"Assistant thought: {message.content}")

        async with pipeline(assistant_aggregator) as rig:
            await rig.push(LLMFullResponseStartFrame(), LLMThoughtStartFrame(), LLMThoughtTextFrame("Hm."))
            await rig.push(LLMThoughtEndFrame(), LLMFullResponseEndFrame())
            await until(lambda: bool(printed))

    run(main(), limit_s=60)
    assert printed == ["Assistant thought: Hm."]


def test_saving_transcripts_to_a_file(tmp_path: Path) -> None:
    transcript_log: list[Any] = []

    async def main() -> None:
        context = LLMContext()
        user_aggregator, assistant_aggregator = LLMContextAggregatorPair(context, user_params=quick())

        @user_aggregator.event_handler("on_user_turn_stopped")
        async def on_user_turn_stopped(aggregator: Any, strategy: Any, message: UserTurnStoppedMessage) -> None:
            transcript_log.append(
                {
                    "role": "user",
                    "content": message.content,
                    "timestamp": message.timestamp,
                    "user_id": message.user_id,
                }
            )

        @assistant_aggregator.event_handler("on_assistant_turn_stopped")
        async def on_assistant_turn_stopped(aggregator: Any, message: AssistantTurnStoppedMessage) -> None:
            transcript_log.append(
                {
                    "role": "assistant",
                    "content": message.content,
                    "timestamp": message.timestamp,
                }
            )

        # Save transcript when session ends
        async def save_transcript() -> None:
            with open(tmp_path / f"transcript_{datetime.now().isoformat()}.json", "w") as f:  # noqa: ASYNC230 - the page's own
                json.dump(transcript_log, f, indent=2)

        async with pipeline(user_aggregator, Thinker(["Good day."]), Speaker(), assistant_aggregator) as rig:
            await say(rig, "Hello.")
            await until(lambda: len(transcript_log) == 2)
        await save_transcript()

    run(main(), limit_s=60)
    (file,) = tmp_path.iterdir()
    saved = json.loads(file.read_text())
    assert [(line["role"], line["content"]) for line in saved] == [("user", "Hello."), ("assistant", "Good day.")]


# ---------------------------------------------------------------- summaries


def test_summaries_on_demand_with_and_without_overrides() -> None:
    logged: list[str] = []

    async def main() -> None:
        context = LLMContext([{"role": "user", "content": f"line {number}"} for number in range(12)])
        _, assistant_aggregator = LLMContextAggregatorPair(context)

        @assistant_aggregator.event_handler("on_summary_applied")
        async def on_summary_applied(aggregator: Any, summarizer: Any, event: SummaryAppliedEvent) -> None:
            logged.append(
                f"Context summarized: {event.original_message_count} -> "
                f"{event.new_message_count} messages "
                f"({event.summarized_message_count} summarized, "
                f"{event.preserved_message_count} preserved)"
            )

        summarizer = assistant_aggregator._summarizer

        @summarizer.event_handler("on_summary_applied")
        async def on_summary_applied_there(summarizer: Any, event: SummaryAppliedEvent) -> None:
            logged.append(f"Context summarized: {event.original_message_count} -> {event.new_message_count} messages")

        llm = Thinker("many lines", "a few more")
        async with pipeline(llm, assistant_aggregator):
            # Trigger with default settings
            await llm.queue_frame(LLMSummarizeContextFrame())
            await until(lambda: len(logged) == 2)
            context.add_messages([{"role": "user", "content": "one more"}])
            # Trigger with per-request overrides
            await llm.queue_frame(
                LLMSummarizeContextFrame(
                    config=LLMContextSummaryConfig(
                        target_context_tokens=2000,
                        min_messages_after_summary=2,
                    )
                )
            )
            await until(lambda: len(logged) == 4)

    run(main(), limit_s=60)
    assert sorted(logged[:2]) == [
        "Context summarized: 12 -> 5 messages",
        "Context summarized: 12 -> 5 messages (8 summarized, 4 preserved)",
    ]
    assert any("6 -> 3 messages" in line for line in logged[2:])


def test_automatic_summaries_are_configured() -> None:
    config = LLMAutoContextSummarizationConfig(
        max_context_tokens=8000,
        max_unsummarized_messages=20,
        summary_config=LLMContextSummaryConfig(target_context_tokens=6000, min_messages_after_summary=4),
    )
    pair = LLMContextAggregatorPair(
        LLMContext(),
        assistant_params=LLMAssistantAggregatorParams(
            enable_auto_context_summarization=True, auto_context_summarization_config=config
        ),
    )
    assert pair.assistant() is not None


# ---------------------------------------------------------------- turns


def test_silero_and_smart_turn_in_the_users_aggregator(tmp_path: Path) -> None:
    """The model's file comes with no package of ours, so its path is given."""
    model = tmp_path / "smart-turn-v3.onnx"
    model.write_bytes(mean_model(1.0, 0.0))

    async def main() -> None:
        context = LLMContext([])
        user_aggregator, assistant_aggregator = LLMContextAggregatorPair(
            context,
            user_params=LLMUserAggregatorParams(
                user_turn_strategies=UserTurnStrategies(
                    stop=[
                        TurnAnalyzerUserTurnStopStrategy(
                            turn_analyzer=LocalSmartTurnAnalyzerV3(smart_turn_model_path=model)
                        )
                    ]
                ),
                vad_analyzer=SileroVADAnalyzer(params=VADParams(stop_secs=0.2)),
            ),
        )
        async with pipeline(user_aggregator, Thinker(), Speaker(), assistant_aggregator):
            await settle()

    run(main(), limit_s=60)


def test_turns_of_an_external_service() -> None:
    async def main() -> None:
        context = LLMContext()
        user_aggregator, assistant_aggregator = LLMContextAggregatorPair(
            context,
            user_params=LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies()),
        )
        async with pipeline(user_aggregator, Thinker(["Good day."]), Speaker(), assistant_aggregator) as rig:
            await rig.push(UserStartedSpeakingFrame(), TranscriptionFrame("Hello.", "", "now"))
            await rig.push(UserStoppedSpeakingFrame())
            await until(lambda: len(context.messages) == 2)
            assert context.messages[0] == {"role": "user", "content": "Hello."}

    run(main(), limit_s=60)


def test_one_source_of_turns_for_two_models_side_by_side() -> None:
    told: list[str] = []

    async def main() -> None:
        # Create the external user turn processor with your preferred strategies
        user_turn_processor = UserTurnProcessor(
            user_turn_strategies=UserTurnStrategies(stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.01)]),
        )

        @user_turn_processor.event_handler("on_user_turn_started")
        async def on_user_turn_started(processor: Any, strategy: Any) -> None:
            told.append("started")

        @user_turn_processor.event_handler("on_user_turn_stopped")
        async def on_user_turn_stopped(processor: Any, strategy: Any) -> None:
            told.append("stopped")

        @user_turn_processor.event_handler("on_user_turn_stop_timeout")
        async def on_user_turn_stop_timeout(processor: Any) -> None:
            told.append("timeout")

        # Create contexts for each LLM
        openai_context = LLMContext()
        groq_context = LLMContext()
        openai_llm, groq_llm = Thinker(["One."]), Thinker(["Two."])

        # Configure aggregators to use external turn strategies
        openai_context_aggregator = LLMContextAggregatorPair(
            openai_context,
            user_params=LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies()),
        )
        groq_context_aggregator = LLMContextAggregatorPair(
            groq_context,
            user_params=LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies()),
        )

        # Build the pipeline with UserTurnProcessor before the parallel branches
        built = Pipeline(
            [
                Pass(),
                user_turn_processor,  # Handles turn management for all branches
                ParallelPipeline(
                    [
                        openai_context_aggregator.user(),
                        openai_llm,
                        Pass(),
                        openai_context_aggregator.assistant(),
                    ],
                    [
                        groq_context_aggregator.user(),
                        groq_llm,
                        groq_context_aggregator.assistant(),
                    ],
                ),
            ]
        )
        async with pipeline(built) as rig:
            await say(rig, "Hello.")
            await until(lambda: len(openai_context.messages) == len(groq_context.messages) == 2)
            assert openai_context.messages[0] == groq_context.messages[0] == {"role": "user", "content": "Hello."}
            assert openai_context.messages[1]["content"] == "One."  # type: ignore[index,call-overload]
            assert groq_context.messages[1]["content"] == "Two."  # type: ignore[index,call-overload]
            assert len(rig.after.of(InterruptionFrame)) == 1
            assert rig.after.of(LLMContextFrame) == []

    run(main(), limit_s=60)
    assert told == ["started", "stopped"]
