"""Speech for a call whose bot has no voice service: made by the gateway's own synthesiser, as its prompts are."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable, Sequence

from gateway.control import ControlError
from gateway.session import CallSession
from media.frames import AggregationType, Frame, TTSAudioRawFrame, TTSStartedFrame, TTSStoppedFrame, TTSTextFrame


def speech_for(session: CallSession, text: str) -> Callable[[], Awaitable[Sequence[Frame]]]:
    """What makes frames of `text`, in the voice of the call's bot. Raises ControlError: there is no synthesiser."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise ControlError(409, "this bot has no voice, and the gateway none of its own (pip install espeakng-loader)")
    from bots.speech import speak

    core, snapshot = session.core, session.snapshot
    entry = snapshot.settings.bots.get(core.bot) if snapshot is not None else None
    voice, rate = getattr(entry.options, "voice", "") if entry is not None else "", core.send_rate

    async def make() -> Sequence[Frame]:
        pcm = await asyncio.to_thread(speak, text, voice if isinstance(voice, str) else "", rate)
        words = TTSTextFrame(text, AggregationType.SENTENCE)
        return TTSStartedFrame(), TTSAudioRawFrame(pcm, rate, 1), words, TTSStoppedFrame()

    return make
