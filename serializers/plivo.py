"""Plivo audio streaming: the socket side.

Source: Plivo docs, "Audio streaming" (XML reference and guide, which differ in places) and Plivo's own stream SDKs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec

from media.call import CallInfo, MediaFormat
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.frames import (
    CallEndedFrame,
    CallStartedFrame,
    CarrierErrorFrame,
    Frame,
    InterruptionFrame,
    MarkFrame,
    OutputDTMFFrame,
    OutputDTMFUrgentFrame,
    PlaybackClearedFrame,
    PlayedFrame,
)
from serializers.audio import JsonOutgoing
from serializers.base import Ending, FrameSerializer, HangUp, Messages, WireOptions
from serializers.fields import Json, number, text
from serializers.json_base import Handlers, JsonSerializer, lacking
from serializers.media_message import UNREADABLE

log = logging.getLogger(__name__)

LARGEST_PAYLOAD = 16 * 1024  # characters of base64; Plivo recommends no more
LARGEST_RAW = LARGEST_PAYLOAD // 4 * 3
CONTENT_TYPES: Mapping[str, str] = {"PCMU": "audio/x-mulaw", "L16": "audio/x-l16"}
ENCODINGS: Mapping[str, str] = {content_type: encoding for encoding, content_type in CONTENT_TYPES.items()}
RATES: Mapping[str, Sequence[int]] = {"PCMU": (8000,), "L16": (8000, 16000, 24000)}


_read_any = msgspec.json.Decoder().decode


class PlivoFrameSerializer(JsonSerializer):
    """Plivo's messages to frames and back, for one stream.

    Both directions have one codec, which `start` names. Checkpoints that a clear drops are never answered. The end
    of the call is the closing of the socket; `stop` is not documented, but understood.
    """

    carrier: ClassVar[str] = "plivo"
    codec_setting: ClassVar[str] = "send_codec"
    ending: ClassVar[Ending] = Ending.REST
    lead_ms: ClassVar[int] = 200
    sends_digits: ClassVar[bool] = True
    close_is_normal_end: ClassVar[bool] = True
    outgoing: JsonOutgoing

    @dataclass(kw_only=True)
    class InputParams(FrameSerializer.InputParams):
        """
        `plivo_sample_rate`: Hz on the wire, until `start` tells.
        `sample_rate`: Hz of the audio that `decode` gives; None: the pipeline's.
        `encoding`: "PCMU" or "L16" (little endian), until `start` tells.
        `auto_hang_up`: the call ends with the pipeline.
        """

        plivo_sample_rate: int = 8000
        sample_rate: int | None = None
        encoding: str = "PCMU"
        auto_hang_up: bool = True

    def __init__(
        self,
        stream_id: str,
        call_id: str | None = None,
        auth_id: str | None = None,
        auth_token: str | None = None,
        params: InputParams | None = None,
    ) -> None:
        """ValueError: `auto_hang_up` without credentials, or an encoding that Plivo does not have."""
        p = params or self.InputParams()
        super().__init__(p)
        if p.auto_hang_up:
            if missing := lacking(call_id=call_id, auth_id=auth_id, auth_token=auth_token):
                raise ValueError(f"auto_hang_up needs {' and '.join(missing)}; give them or set auto_hang_up=False")
            self._hang_up = HangUp(
                carrier="plivo", call_id=call_id or "", account_id=auth_id or "", secret=auth_token or ""
            )
        if p.encoding not in CONTENT_TYPES:
            raise ValueError(f"encoding must be {' or '.join(CONTENT_TYPES)}, got {p.encoding!r}")
        self._call_id = call_id or ""
        self._bind(stream_id, MediaFormat(p.encoding, p.plivo_sample_rate))

    @classmethod
    def for_call(cls, options: WireOptions) -> PlivoFrameSerializer:
        codec = options.send_codec or "PCMU"
        params = cls.InputParams(
            plivo_sample_rate=options.send_sample_rate or (16000 if codec == "L16" else 8000),
            encoding=codec,
            auto_hang_up=False,
        )
        serializer = cls("", params=params)
        serializer.begin(options.in_sample_rate)
        return serializer

    def _bind(self, stream_id: str, media_format: MediaFormat) -> None:
        """What is the same in all messages of a stream."""
        self._stream_id = stream_id
        self._format = media_format
        mulaw, rate = media_format.encoding == "PCMU", media_format.sample_rate
        self.incoming.rate = rate
        self.incoming.expand = ulaw_to_pcm if mulaw else None
        out = self.outgoing
        out.is_open = bool(stream_id)
        out.rate = rate
        out.compress = pcm_to_ulaw if mulaw else bytes
        out.longest = LARGEST_RAW * 2 if mulaw else LARGEST_RAW  # bytes of PCM whose payload is as long as Plivo likes
        content_type = CONTENT_TYPES[media_format.encoding]
        out.head = f'{{"event":"playAudio","media":{{"contentType":"{content_type}","sampleRate":{rate},"payload":"'
        stream = f',"streamId":{json.dumps(stream_id)}'
        out.tail = f'"}}{stream}}}'
        self._clear: Messages = (f'{{"event":"clearAudio"{stream}}}',)
        self._checkpoint_head = f'{{"event":"checkpoint"{stream},"name":'

    # ------------------------------------------------------------ in

    def _on_start(self, message: Json) -> Sequence[Frame]:
        start = self._start_of(message)
        call_id = text(start.get("callId")) or self._call_id
        stream_id = text(start.get("streamId")) or self._stream_id
        if not call_id or not stream_id:
            raise self._bad("start without callId or streamId", start)
        media_format = self._format_of(start)
        if self._started:
            log.warning("plivo: a second start was ignored")
            return ()
        self._started = True
        if media_format != self._format:
            log.warning("plivo: start says %s, %s was asked for; start is followed", media_format, self._format)
        self._out_resamplers.clear()
        self._bind(stream_id, media_format)
        call = CallInfo(
            carrier=self.carrier,
            call_id=call_id,
            stream_id=stream_id,
            account_id=text(start.get("accountId")),
            from_number=text(start.get("from")),  # not documented, here for the day it comes
            to_number=text(start.get("to")),
            parameters=parse_extra_headers(message.get("extra_headers")),
            receive=self._format,
            send=self._format,
            extra={name: value for name, value in start.items() if name not in _START_KEYS},
        )
        return (CallStartedFrame(call),)

    def _format_of(self, start: Json) -> MediaFormat:
        """What `start` says of the codec; what was asked for where it says nothing."""
        media_format = start.get("mediaFormat")
        if not isinstance(media_format, dict):
            return self._format
        content_type = text(media_format.get("encoding")).partition(";")[0].strip().lower()
        encoding = ENCODINGS.get(content_type)
        if encoding is None:
            raise self._unusable(f"start.mediaFormat.encoding is none of {', '.join(ENCODINGS)}", media_format)
        rate = number(media_format.get("sampleRate", self.send_rate))
        if rate is None or rate not in RATES[encoding]:
            raise self._unusable(f"start.mediaFormat.sampleRate is not one of {content_type}", media_format)
        return MediaFormat(encoding, rate)

    def _on_played(self, message: Json) -> Sequence[Frame]:
        name = message.get("name")
        if not isinstance(name, str):
            raise self._bad("playedStream without name", message)
        return (PlayedFrame(name),)

    def _on_cleared(self, message: Json) -> Sequence[Frame]:
        return (PlaybackClearedFrame(),)

    def _on_stop(self, message: Json) -> Sequence[Frame]:
        return (CallEndedFrame("caller", "stop"),)

    def _on_error(self, message: Json) -> Sequence[Frame]:
        return (CarrierErrorFrame(message["event"], text(message.get("reason"))),)

    _ON: ClassVar[Handlers] = {
        "start": _on_start,
        "media": JsonSerializer._on_media,
        "dtmf": JsonSerializer._on_dtmf,
        "playedStream": _on_played,
        "played": _on_played,  # so spelt on a support page
        "clearedAudio": _on_cleared,
        "stop": _on_stop,
        "error": _on_error,
        "playFailed": _on_error,
    }

    # ------------------------------------------------------------ out

    def _interruption(self, frame: InterruptionFrame) -> Messages:
        self._forget()
        return self._clear

    def _mark(self, frame: MarkFrame) -> Messages:
        return (f"{self._checkpoint_head}{json.dumps(frame.name)}}}",)

    def _digit(self, frame: OutputDTMFFrame | OutputDTMFUrgentFrame) -> Messages:
        return (f'{{"event":"sendDTMF","dtmf":"{frame.button.value}"}}',)

    says: ClassVar[Mapping[type[Frame], str]] = {
        **JsonSerializer.says,
        OutputDTMFFrame: "_digit",
        OutputDTMFUrgentFrame: "_digit",
    }


_START_KEYS = frozenset(("callId", "streamId", "accountId", "from", "to", "mediaFormat"))


def parse_extra_headers(value: Any) -> Mapping[str, Any]:
    """The stream's extra headers as a mapping, in whichever of their forms they came.

    Documented are `a=1,b=2` (XML reference) and `a=1;b=2` (guide); seen were JSON text, `{a=1, b=2}`,
    `{'a': '1'}` and an object. What is neither is skipped: parameters never end a call.
    """
    if isinstance(value, dict):
        return value
    if not isinstance(value, str):
        return {}
    written = value.strip()
    if written.startswith("{"):
        try:
            read = _read_any(written)
        except UNREADABLE:
            written = written.strip("{}")
        else:
            return read if isinstance(read, dict) else {}
    headers: dict[str, str] = {}
    for pair in written.replace(";", ",").split(","):
        name, separator, content = pair.partition("=") if "=" in pair else pair.partition(":")
        if separator and (name := name.strip(" \t'\"")):
            headers[name] = content.strip(" \t'\"")
    return headers
