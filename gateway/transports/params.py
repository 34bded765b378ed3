"""What a transport can be told. Names and defaults are Pipecat's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import structlog
from pydantic import BaseModel, ConfigDict, Field, model_validator

from media.frames import FilterControlFrame, MixerControlFrame
from media.processor import MaybeAwaitable

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.transports")

# Older spellings, and what they are called now.
_OLD_NAMES = {"audio_out_fixed_packet_size": "fixed_audio_packet_size"}
# Taken and not used: a telephone shows no pictures.
_PICTURES = ("video_", "camera_")


class AudioFilter(Protocol):
    """Changes the caller's audio before anybody hears it. Each method may be `def` or `async def`."""

    def start(self, sample_rate: int) -> MaybeAwaitable: ...
    def stop(self) -> MaybeAwaitable: ...
    def process_frame(self, frame: FilterControlFrame) -> MaybeAwaitable: ...
    def filter(self, audio: bytes) -> MaybeAwaitable:
        """PCM in, PCM out; empty while it collects."""


class AudioMixer(Protocol):
    """Mixes something under the bot's audio. Each method may be `def` or `async def`; `mix` must not wait."""

    def start(self, sample_rate: int) -> MaybeAwaitable: ...
    def stop(self) -> MaybeAwaitable: ...
    def process_frame(self, frame: MixerControlFrame) -> MaybeAwaitable: ...
    def mix(self, audio: bytes) -> MaybeAwaitable:
        """As much PCM as came in."""


class TransportParams(BaseModel):
    """What every transport knows.

    `audio_out_sample_rate`: Hz of what a serializer without a rate of its own sends; None: the pipeline's output rate.
    A carrier's serializer knows its wire. `audio_out_10ms_chunks`: what goes out at once, where it is longer than the
    serializer's own packets. `audio_out_end_silence_secs`: silence behind the last word. Unless it is set, it is for
    wires that cannot tell what was heard; with the others the call ends when the last word was heard.
    `audio_in_sample_rate`: Hz of what the pipeline gets; None: the pipeline's input rate.
    `vad_analyzer`, `turn_analyzer`: taken, but they belong to the user's aggregator.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    audio_out_enabled: bool = False
    audio_out_sample_rate: int | None = None
    audio_out_channels: int = 1
    audio_out_bitrate: int = 96000
    audio_out_10ms_chunks: int = Field(default=4, ge=1)
    audio_out_mixer: Any = None  # an AudioMixer, or a mapping of destinations to them
    audio_out_destinations: list[str] = Field(default_factory=list)
    audio_out_end_silence_secs: int = Field(default=2, ge=0)
    audio_out_auto_silence: bool = True
    audio_in_enabled: bool = False
    audio_in_sample_rate: int | None = None
    audio_in_channels: int = 1
    audio_in_filter: Any = None  # an AudioFilter
    audio_in_stream_on_start: bool = True
    audio_in_passthrough: bool = True
    video_in_enabled: bool = False
    video_out_enabled: bool = False
    video_out_is_live: bool = False
    video_out_width: int = 1024
    video_out_height: int = 768
    video_out_bitrate: int | None = None
    video_out_framerate: int = 30
    video_out_color_format: str = "RGB"
    video_out_codec: str | None = None
    video_out_destinations: list[str] = Field(default_factory=list)
    vad_analyzer: Any = None
    turn_analyzer: Any = None

    @model_validator(mode="before")
    @classmethod
    def _with_old_names(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        values = {_OLD_NAMES.get(str(name), str(name)): value for name, value in given.items()}
        for name in values:
            if name not in cls.model_fields and not name.startswith(_PICTURES):
                log.warning("transport.unknown_parameter", params=cls.__name__, name=name)
        for name in ("vad_analyzer", "turn_analyzer"):
            if values.get(name) is not None:
                log.warning("transport.parameter_has_moved", name=name, to="the user's aggregator")
        return values

    def mixer(self) -> AudioMixer | None:
        """The mixer of the one track that a telephone has."""
        mixer: Any = self.audio_out_mixer
        return mixer.get(None) or next(iter(mixer.values()), None) if isinstance(mixer, Mapping) else mixer


class WebsocketParams(TransportParams):
    """What the transports over a WebSocket know beside.

    `add_wav_header`: each piece of audio begins with a WAV header; only for serializers that are not a carrier's.
    `serializer`: a FrameSerializer, or anything with its async face; None: what comes is ignored, nothing goes out.
    """

    add_wav_header: bool = False
    serializer: Any = None


class FastAPIWebsocketParams(WebsocketParams):
    """
    `session_timeout`: seconds after which on_session_timeout tells, None: never. It ends nothing by itself.
    `fixed_audio_packet_size`: bytes; binary messages are cut and joined to exactly this length, the last one of an
    utterance is filled up with silence.
    """

    session_timeout: float | None = Field(default=None, gt=0)
    fixed_audio_packet_size: int | None = Field(default=None, gt=0)


class WebsocketServerParams(WebsocketParams):
    """`session_timeout`: as for FastAPIWebsocketParams, for each client."""

    session_timeout: float | None = Field(default=None, gt=0)


# As older programs write it.
WebSocketServerParams = WebsocketServerParams
