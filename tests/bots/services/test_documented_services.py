"""The programs of Pipecat's pages on the vendors that are here, with nothing but their imports renamed, against servers
that keep what they are asked.
"""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection

from bots.context.context import LLMContext
from bots.context.pair import LLMContextAggregatorPair
from bots.services.anthropic import AnthropicLLMService, AnthropicLLMSettings, converted
from bots.services.cartesia import CartesiaEmotion, CartesiaTTSService, GenerationConfig
from bots.services.deepgram import DeepgramSTTService, DeepgramTTSService
from bots.services.elevenlabs import ElevenLabsTTSService, ElevenLabsTTSSettings
from bots.services.openai import OpenAILLMService, OpenAILLMSettings
from bots.services.openai_audio import OpenAISTTService, OpenAITTSService, OpenAITTSSettings
from media.frames import (
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMRunFrame,
    LLMTextFrame,
    LLMUpdateSettingsFrame,
    TranscriptionFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    TTSUpdateSettingsFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from tests.bots.services.rig import Rig, pipeline, voice
from tests.bots.services.socket_vendor import SocketVendor, say
from tests.bots.services.vendor import Reply, Vendor, events
from tests.endtoend.served import run
from tests.endtoend.served import until as until_in

HELLO = [{"role": "user", "content": "hello"}]


async def until(true: Any) -> None:
    await until_in(true, 30.0)


async def ask(rig: Rig, context: LLMContext | None = None) -> None:
    before = len(rig.after.of(LLMFullResponseEndFrame))
    await rig.push(LLMContextFrame(context or LLMContext(HELLO)))
    await until(lambda: len(rig.after.of(LLMFullResponseEndFrame)) == before + 1)


# ---------------------------------------------------------------- models


def test_openai_with_settings_and_with_others_later() -> None:
    async def main() -> None:
        chunk = events({"choices": [{"delta": {"content": "Hi."}}]})
        async with Vendor(Reply(chunk), Reply(chunk)).listening() as vendor:
            llm = OpenAILLMService(
                api_key="key",
                base_url=vendor.url,
                settings=OpenAILLMService.Settings(
                    model="gpt-4.1",
                    temperature=0.7,
                    max_completion_tokens=1000,
                    frequency_penalty=0.5,
                ),
            )

            @llm.event_handler("on_completion_timeout")
            async def on_completion_timeout(service: Any) -> None:
                print("LLM completion timed out")

            async with pipeline(llm) as rig:
                await ask(rig)
                await rig.task.queue_frame(
                    LLMUpdateSettingsFrame(
                        delta=OpenAILLMSettings(
                            temperature=0.3,
                            max_completion_tokens=500,
                        )
                    )
                )
                await ask(rig)
            first, second = (asked.json for asked in vendor.asked)
            assert (first["model"], first["temperature"], first["max_completion_tokens"]) == ("gpt-4.1", 0.7, 1000)
            assert first["frequency_penalty"] == second["frequency_penalty"] == 0.5
            assert (second["temperature"], second["max_completion_tokens"]) == (0.3, 500)

    run(main())


def text(*pieces: str) -> list[Any]:
    return [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": p}} for p in pieces),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_stop"},
    ]


def test_anthropic_with_a_cache_and_with_other_settings_later() -> None:
    async def main() -> None:
        replies = [Reply(events(*text("Hi."), done=False)) for _ in range(2)]
        async with Vendor(*replies).listening() as vendor:
            llm = AnthropicLLMService(
                api_key="key",
                base_url=vendor.url.removesuffix("/v1"),
                settings=AnthropicLLMService.Settings(
                    model="claude-sonnet-4-5-20250929",
                    enable_prompt_caching=True,
                    max_tokens=2048,
                    temperature=0.7,
                ),
            )
            context = LLMContext([{"role": "system", "content": "Be kind."}, *HELLO])
            async with pipeline(llm) as rig:
                await ask(rig, context)
                await rig.task.queue_frame(
                    LLMUpdateSettingsFrame(
                        delta=AnthropicLLMSettings(
                            temperature=0.3,
                            max_tokens=1024,
                        )
                    )
                )
                await ask(rig, context)
            first, second = (asked.json for asked in vendor.asked)
            mark = {"type": "ephemeral"}
            assert first["system"] == [{"type": "text", "text": "Be kind.", "cache_control": mark}]
            assert first["messages"][-1]["content"] == [{"type": "text", "text": "hello", "cache_control": mark}]
            assert (first["max_tokens"], first["temperature"]) == (2048, 0.7)
            assert (second["max_tokens"], second["temperature"]) == (1024, 0.3)
            assert HELLO == [{"role": "user", "content": "hello"}], "the context itself is as it was"

    run(main())


def test_anthropic_thinks_before_it_speaks_and_remembers_what() -> None:
    async def main() -> None:
        block = {"type": "thinking", "thinking": ""}
        thought = [
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Let me "}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "see."}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s1gned"}},
            {"type": "content_block_stop", "index": 0},
        ]
        replies = Reply(events(*thought, *text("Four."), done=False)), Reply(events(*text("Yes."), done=False))
        async with Vendor(*replies).listening() as vendor:
            llm = AnthropicLLMService(
                api_key="key",
                base_url=vendor.url.removesuffix("/v1"),
                settings=AnthropicLLMService.Settings(
                    model="claude-sonnet-4-5-20250929",
                    max_tokens=16384,
                    thinking=AnthropicLLMService.AnthropicThinkingConfig(
                        type="enabled",
                        budget_tokens=10000,
                    ),
                ),
            )
            context = LLMContext([{"role": "user", "content": "two and two?"}])
            pair = LLMContextAggregatorPair(context)
            thoughts: list[str] = []
            pair.assistant().add_event_handler("on_assistant_thought", lambda _, told: thoughts.append(told.content))
            async with pipeline(pair.user(), llm, pair.assistant()) as rig:
                await rig.push(LLMRunFrame())
                await until(lambda: "Four." in str(context.messages))
                context.add_message({"role": "user", "content": "sure?"})
                await rig.push(LLMRunFrame())
                await until(lambda: "Yes." in str(context.messages))
                spoken = "".join(frame.text for frame in rig.after.of(LLMTextFrame))
                assert "Let me" not in spoken
            assert thoughts == ["Let me see."]
            first, second = (asked.json for asked in vendor.asked)
            assert first["thinking"] == {"type": "enabled", "budget_tokens": 10000}
            assert second["messages"][1] == {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Let me see.", "signature": "s1gned"},
                    {"type": "text", "text": "Four."},
                ],
            }

    run(main())


def test_a_thought_is_for_a_model_that_thinks_and_has_signed_it() -> None:
    signed = {"type": "thought", "text": "hm", "signature": "s"}
    cut_off = {"type": "thought", "text": "hm", "signature": None}
    answer = {"role": "assistant", "content": "yes"}
    for thoughts, messages, blocks in (
        (True, [signed, answer], 2),
        (True, [cut_off, answer], 1),
        (False, [signed, answer], 1),
    ):
        _, turns = converted([*HELLO, *messages], thoughts=thoughts)
        assert len(turns[-1]["content"]) == blocks


# ---------------------------------------------------------------- recognition


def test_deepgram_with_settings_and_its_own_events() -> None:
    told: list[str] = []

    async def listens(connection: ServerConnection, message: Any) -> None:
        if isinstance(message, dict) and message["type"] == "Finalize":
            results = {"type": "Results", "is_final": True, "channel": {"alternatives": [{"transcript": "hola"}]}}
            await say(connection, {"type": "SpeechStarted"}, results, {"type": "UtteranceEnd"})

    async def main() -> None:
        async with SocketVendor(listens).listening() as vendor:
            stt = DeepgramSTTService(
                api_key="key",
                base_url=vendor.url,
                settings=DeepgramSTTService.Settings(
                    model="nova-3-general",
                    language="es",
                    punctuate=True,
                    smart_format=True,
                ),
            )

            @stt.event_handler("on_speech_started")
            async def on_speech_started(service: Any) -> None:
                told.append("User started speaking")

            @stt.event_handler("on_utterance_end")
            async def on_utterance_end(service: Any) -> None:
                told.append("Utterance ended")

            async with pipeline(stt) as rig:
                await rig.push(VADUserStartedSpeakingFrame(), *voice(7), VADUserStoppedSpeakingFrame())
                await until(lambda: len(told) == 2)
                assert [frame.text for frame in rig.after.of(TranscriptionFrame)] == ["hola"]
            query = parse_qs(urlsplit(vendor.requests[0].path).query)
            asked = {name: query[name] for name in ("model", "language", "punctuate", "smart_format")}
            assert asked == {
                "model": ["nova-3-general"],
                "language": ["es"],
                "punctuate": ["true"],
                "smart_format": ["true"],
            }

    run(main())
    assert told == ["User started speaking", "Utterance ended"]


def test_openais_transcriptions_with_settings() -> None:
    stt = OpenAISTTService(
        api_key="key",
        settings=OpenAISTTService.Settings(
            model="gpt-4o-transcribe",
        ),
    )
    assert stt.model_name == "gpt-4o-transcribe"


# ---------------------------------------------------------------- voices


async def cartesia(connection: ServerConnection, message: Any) -> None:
    if not message.get("cancel"):
        data = base64.b64encode(bytes(160)).decode()
        context = message["context_id"]
        await say(connection, {"type": "chunk", "context_id": context, "data": data})
        await say(connection, {"type": "done", "context_id": context, "done": True})


async def maybe_insert_sarcasm(text: str, type: str) -> str:
    if text.strip(".!").lower() == "whatever":
        return (
            CartesiaTTSService.EMOTION_TAG(CartesiaEmotion.SARCASM)
            + text
            + CartesiaTTSService.EMOTION_TAG(CartesiaEmotion.NEUTRAL)
        )
    return text


async def pause_after_questions(text: str, type: str) -> str:
    if text.endswith("?"):
        return f"{text}{CartesiaTTSService.PAUSE_TAG(1.0)}"
    return text


async def maybe_say_it_loud(text: str, type: str) -> str:
    if text.upper() == text:
        return f"{CartesiaTTSService.VOLUME_TAG(2.0)}{text}{CartesiaTTSService.VOLUME_TAG(1.0)}"
    return text


async def slow_down_slow_words(text: str, type: str) -> str:
    return text.replace("slow", f"{CartesiaTTSService.SPEED_TAG(0.6)}slow{CartesiaTTSService.SPEED_TAG(1.0)}")


def test_cartesia_with_its_configuration_and_its_marks() -> None:
    said = ["Really?", "Whatever.", "STOP.", "go slow now."]

    async def main() -> None:
        async with SocketVendor(cartesia).listening() as vendor:
            tts = CartesiaTTSService(
                api_key="key",
                base_url=vendor.url,
                settings=CartesiaTTSService.Settings(
                    voice="your-voice-id",
                    model="sonic-3",
                    generation_config=GenerationConfig(
                        speed=1.1,
                        emotion="excited",
                    ),
                ),
                text_transforms=[
                    ("*", maybe_insert_sarcasm),
                    ("*", pause_after_questions),
                    ("*", maybe_say_it_loud),  # Apply to all text
                    ("*", slow_down_slow_words),
                ],
            )
            connected: list[Any] = []

            @tts.event_handler("on_connected")
            async def on_connected(service: Any) -> None:
                connected.append(service)

            async with pipeline(tts) as rig:
                await rig.push(*map(TTSSpeakFrame, said))
                await until(lambda: len(rig.after.of(TTSStoppedFrame)) == len(said))
            assert connected == [tts]
            first = vendor.messages[0]
            assert (first["model_id"], first["voice"]["id"]) == ("sonic-3", "your-voice-id")
            assert first["generation_config"] == {"speed": 1.1, "emotion": "excited"}
            assert [message["transcript"] for message in vendor.messages if "transcript" in message] == [
                'Really?<break time="1.0s" />',
                '<emotion value="sarcastic" />Whatever.<emotion value="neutral" />',
                '<volume ratio="2.0" />STOP.<volume ratio="1.0" />',
                'go <speed ratio="0.6" />slow<speed ratio="1.0" /> now.',
            ]

    run(main())


def test_elevenlabs_with_settings_and_with_others_later() -> None:
    async def elevenlabs(connection: ServerConnection, message: Any) -> None:
        if message.get("close_context"):
            audio = base64.b64encode(bytes(160)).decode()
            await say(connection, {"audio": audio, "contextId": message["context_id"]})
            await say(connection, {"isFinal": True, "contextId": message["context_id"]})

    async def main() -> None:
        async with SocketVendor(elevenlabs).listening() as vendor:
            tts = ElevenLabsTTSService(
                api_key="key",
                base_url=vendor.url,
                settings=ElevenLabsTTSService.Settings(
                    voice="21m00Tcm4TlvDq8ikWAM",
                    model="eleven_multilingual_v2",
                    language="es",
                    stability=0.7,
                    similarity_boost=0.8,
                    speed=1.1,
                ),
            )
            async with pipeline(tts) as rig:
                await rig.push(TTSSpeakFrame("Hola."))
                await until(lambda: len(rig.after.of(TTSStoppedFrame)) == 1)
                await rig.task.queue_frame(
                    TTSUpdateSettingsFrame(
                        delta=ElevenLabsTTSSettings(
                            stability=0.3,
                            speed=1.1,
                        )
                    )
                )
                await rig.push(TTSSpeakFrame("Adios."))
                await until(lambda: len(rig.after.of(TTSStoppedFrame)) == 2)
            path = urlsplit(vendor.requests[0].path)
            assert "21m00Tcm4TlvDq8ikWAM" in path.path
            assert parse_qs(path.query)["language_code"] == ["es"]
            first, second = (message["voice_settings"] for message in vendor.messages if "voice_settings" in message)
            assert first == {"stability": 0.7, "similarity_boost": 0.8, "speed": 1.1}
            assert second == {"stability": 0.3, "similarity_boost": 0.8, "speed": 1.1}

    run(main())


def test_openais_voice_with_settings_and_with_others_later() -> None:
    async def main() -> None:
        speech = [Reply([bytes(480)], headers={"content-type": "audio/pcm"}) for _ in range(2)]
        async with Vendor(*speech).listening() as vendor:
            tts = OpenAITTSService(
                api_key="key",
                base_url=vendor.url,
                settings=OpenAITTSService.Settings(
                    voice="coral",
                    model="gpt-4o-mini-tts",
                    instructions="Speak in a warm, friendly tone with moderate pacing.",
                    speed=1.1,
                ),
            )
            async with pipeline(tts) as rig:
                await rig.push(TTSSpeakFrame("Hello."))
                await until(lambda: len(rig.after.of(TTSStoppedFrame)) == 1)
                await rig.task.queue_frame(
                    TTSUpdateSettingsFrame(
                        delta=OpenAITTSSettings(
                            instructions="Now speak more formally.",
                            speed=0.9,
                        )
                    )
                )
                await rig.push(TTSSpeakFrame("Good day."))
                await until(lambda: len(rig.after.of(TTSStoppedFrame)) == 2)
            first, second = (asked.json for asked in vendor.asked)
            assert (first["voice"], first["speed"]) == ("coral", 1.1)
            assert first["instructions"] == "Speak in a warm, friendly tone with moderate pacing."
            assert (second["voice"], second["speed"]) == ("coral", 0.9)
            assert second["instructions"] == "Now speak more formally."

    run(main())


def test_deepgrams_voice_is_named_in_the_settings() -> None:
    tts = DeepgramTTSService(
        api_key="key",
        settings=DeepgramTTSService.Settings(
            voice="aura-2-helena-en",
        ),
    )
    assert "model=aura-2-helena-en" in tts.address()[0]
