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
from pybase64 import b64encode_as_string

from media.call import CallInfo, MediaFormat
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.frames import (
    CallEndedFrame,
    CallStartedFrame,
    CarrierErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    MarkFrame,
    OutputAudioRawFrame,
    OutputDTMFFrame,
    OutputDTMFUrgentFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    PlaybackClearedFrame,
    PlayedFrame,
)
from serializers.base import Ending, FrameSerializer, HangUp, Messages, WireOptions
from serializers.fields import Json, number, text
from serializers.json_base import Handlers, JsonSerializer, Writers, lacking
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
        self._odd = b""  # the first half of a sample, whose other half is in the next message
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

    @property
    def send_rate(self) -> int:
        return self._rate

    def _bind(self, stream_id: str, media_format: MediaFormat) -> None:
        """What is the same in all messages of a stream."""
        self._stream_id = stream_id
        self._open = bool(stream_id)
        self._format = media_format
        self._rate = media_format.sample_rate
        self._packet = self._rate // 50 * 2  # bytes of 20 ms of L16
        self._mulaw = media_format.encoding == "PCMU"
        # PCM bytes whose base64 is as long as Plivo likes a message to be
        self._longest = LARGEST_RAW * 2 if self._mulaw else LARGEST_RAW
        content_type = CONTENT_TYPES[media_format.encoding]
        self._head = (
            f'{{"event":"playAudio","media":{{"contentType":"{content_type}","sampleRate":{self._rate},"payload":"'
        )
        stream = f',"streamId":{json.dumps(stream_id)}'
        self._tail = f'"}}{stream}}}'
        self._clear: Messages = (f'{{"event":"clearAudio"{stream}}}',)
        self._checkpoint_head = f'{{"event":"checkpoint"{stream},"name":'

    # ------------------------------------------------------------ in

    def _caller_audio(self, payload: bytes, track: str, chunk: int | None, timestamp: int | None) -> Sequence[Frame]:
        """One message's audio. `timestamp` counts from the epoch or from the stream's start: use differences."""
        if track != "inbound":
            return ()
        if self._mulaw:
            pcm = ulaw_to_pcm(payload)
        else:
            # A whole packet begins with a whole sample: what was held before it was a stray byte.
            pcm = self._odd + payload if self._odd and len(payload) != self._packet else payload
            if len(pcm) & 1:
                self._odd, pcm = pcm[-1:], pcm[:-1]
            elif self._odd:
                self._odd = b""
        rate = self._rate
        wanted = self._in_sample_rate
        if wanted is not None and wanted != rate:
            return self.pipeline_audio(pcm, rate, seq=chunk, timestamp_ms=timestamp)
        return (InputAudioRawFrame(pcm, rate, 1, chunk, timestamp),) if pcm else ()

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
        rate = number(media_format.get("sampleRate", self._rate))
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

    def _audio(self, frame: OutputAudioRawFrame) -> Messages:
        return self.encode_audio(frame.audio, frame.sample_rate)

    def encode_audio(self, pcm: bytes, rate: int) -> Messages:
        if rate != self._rate:
            pcm = self.wire_pcm(pcm, rate)
        return self._send_pcm(pcm) if pcm and self._open else ()

    def _send_pcm(self, pcm: bytes) -> Messages:
        longest = self._longest
        if len(pcm) <= longest:
            return (self._media(pcm),)
        return [self._media(pcm[at : at + longest]) for at in range(0, len(pcm), longest)]

    def _media(self, pcm: bytes) -> str:
        return f"{self._head}{b64encode_as_string(pcm_to_ulaw(pcm) if self._mulaw else pcm)}{self._tail}"

    def flush(self) -> Messages:
        tail = self.flush_wire_pcm()
        return self._send_pcm(tail) if tail else ()

    def _interrupt(self, frame: InterruptionFrame) -> Messages:
        self.reset_wire_pcm()
        return self._clear

    def _mark(self, frame: MarkFrame) -> Messages:
        return (f"{self._checkpoint_head}{json.dumps(frame.name)}}}",)

    def _digit(self, frame: OutputDTMFFrame | OutputDTMFUrgentFrame) -> Messages:
        return (f'{{"event":"sendDTMF","dtmf":"{frame.button.value}"}}',)

    _SAY: ClassVar[Writers] = {
        OutputAudioRawFrame: _audio,
        InterruptionFrame: _interrupt,
        MarkFrame: _mark,
        OutputDTMFFrame: _digit,
        OutputDTMFUrgentFrame: _digit,
        OutputTransportMessageFrame: JsonSerializer._application,
        OutputTransportMessageUrgentFrame: JsonSerializer._application,
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
