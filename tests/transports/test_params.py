"""The parameters: Pipecat's names and defaults."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from gateway.transports.params import (
    FastAPIWebsocketParams,
    TransportParams,
    WebSocketServerParams,
    WebsocketServerParams,
)

DEFAULTS = {
    "audio_out_enabled": False,
    "audio_out_sample_rate": None,
    "audio_out_channels": 1,
    "audio_out_bitrate": 96000,
    "audio_out_10ms_chunks": 4,
    "audio_out_mixer": None,
    "audio_out_destinations": [],
    "audio_out_end_silence_secs": 2,
    "audio_out_auto_silence": True,
    "audio_in_enabled": False,
    "audio_in_sample_rate": None,
    "audio_in_channels": 1,
    "audio_in_filter": None,
    "audio_in_stream_on_start": True,
    "audio_in_passthrough": True,
    "video_in_enabled": False,
    "video_out_enabled": False,
    "video_out_is_live": False,
    "video_out_width": 1024,
    "video_out_height": 768,
    "video_out_bitrate": None,
    "video_out_framerate": 30,
    "video_out_color_format": "RGB",
    "video_out_codec": None,
    "video_out_destinations": [],
}


def test_names_and_defaults() -> None:
    params = TransportParams()
    assert {name: getattr(params, name) for name in DEFAULTS} == DEFAULTS
    fastapi = FastAPIWebsocketParams()
    assert (fastapi.add_wav_header, fastapi.serializer) == (False, None)
    assert (fastapi.session_timeout, fastapi.fixed_audio_packet_size) == (None, None)
    server = WebsocketServerParams(session_timeout=180)
    assert (server.add_wav_header, server.serializer, server.session_timeout) == (False, None, 180)
    assert WebSocketServerParams is WebsocketServerParams


def test_lists_are_each_ones_own() -> None:
    TransportParams().audio_out_destinations.append("a")
    assert TransportParams().audio_out_destinations == []


def test_the_older_spelling_of_the_packet_size() -> None:
    assert FastAPIWebsocketParams(audio_out_fixed_packet_size=1600).fixed_audio_packet_size == 1600


def test_unknown_parameters_are_taken_with_a_word_in_the_log_pictures_without() -> None:
    with capture_logs() as logs:
        TransportParams(camera_out_enabled=True, video_out_preferred_depth=3, audio_in_enabeld=True)
    assert [entry["name"] for entry in logs] == ["audio_in_enabeld"]


def test_analysers_are_taken_and_said_to_have_moved() -> None:
    with capture_logs() as logs:
        params = TransportParams(vad_analyzer=object())
    assert params.vad_analyzer is not None
    assert [entry["event"] for entry in logs] == ["transport.parameter_has_moved"]


def test_subclasses_and_assignments() -> None:
    class Mine(FastAPIWebsocketParams):
        my_own: int = 3

    params = Mine(my_own=4)
    params.serializer = serializer = object()
    assert (params.my_own, params.serializer) == (4, serializer)


@pytest.mark.parametrize(
    "wrong",
    [{"audio_out_10ms_chunks": 0}, {"session_timeout": 0}, {"fixed_audio_packet_size": -1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        FastAPIWebsocketParams(**wrong)  # type: ignore[arg-type]


def test_the_mixer_of_the_one_track() -> None:
    class Mixer:
        pass

    mixer, other = Mixer(), Mixer()
    assert TransportParams(audio_out_mixer=mixer).mixer() is mixer
    assert TransportParams(audio_out_mixer={"a": other, None: mixer}).mixer() is mixer
    assert TransportParams(audio_out_mixer={"a": other}).mixer() is other
    assert TransportParams(audio_out_mixer={}).mixer() is None
