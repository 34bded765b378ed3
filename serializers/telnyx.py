"""Telnyx media streaming: the socket side.

Source: Telnyx docs, "Media Streaming over WebSockets" and "Bidirectional media streaming". Names are seen from the
carrier, as in Pipecat: `inbound_encoding` is what we send, `outbound_encoding` is what we receive.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pybase64 import b64encode_as_string

from media.call import CallInfo, MediaFormat
from media.codecs import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, swap16, ulaw_to_pcm
from media.errors import RemoteProtocolError
from media.frames import (
    CallEndedFrame,
    CallStartedFrame,
    CarrierErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    MarkFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
)
from serializers.base import Ending, FrameSerializer, HangUp, Messages, WireOptions
from serializers.fields import Json, number, text
from serializers.json_base import Handlers, JsonSerializer, Writers, lacking

log = logging.getLogger(__name__)

SHORTEST_MS = 20  # of audio in one message
LONGEST_S = 30
RATES = (8000, 16000, 22050, 24000, 48000)
ENCODINGS = ("PCMU", "PCMA", "L16")
KNOWN_TO_TELNYX = (*ENCODINGS, "G722", "OPUS", "AMR-WB")  # the last three need codecs that are not here
BYTE_ORDERS = ("big", "little")

_HEAD = '{"event":"media","media":{"payload":"'
_TAIL = '"}}'
_CLEAR: Messages = ('{"event":"clear"}',)

Codec = Callable[[bytes], bytes]


class UnsupportedEncodingError(RemoteProtocolError, ValueError):
    """Audio in an encoding for which there is no codec here; a ValueError too, as Pipecat has it."""


def _whole_samples(pcm: bytes) -> bytes:
    if len(pcm) & 1:
        raise ValueError("half a sample")
    return pcm


class TelnyxFrameSerializer(JsonSerializer):
    """Telnyx's messages to frames and back, for one stream.

    What we receive is what `start` says; what we send was asked for when the stream was set up, and Telnyx never
    repeats it. The two may differ: a call from a country of the A-law arrives as PCMA whatever we send.

    With `auto_hang_up` and credentials, `hang_up_request` names the request that ends the call; without it, closing the
    socket ends a TeXML call only, while a Call Control call stays up.
    """

    carrier: ClassVar[str] = "telnyx"
    codec_setting: ClassVar[str] = "receive_codec"
    ending: ClassVar[Ending] = Ending.REST
    lead_ms: ClassVar[int] = 200
    echoes_marks_on_clear: ClassVar[bool] = True

    @dataclass(kw_only=True)
    class InputParams(FrameSerializer.InputParams):
        """
        `telnyx_sample_rate`: Hz of what we send; of what we receive too, until `start` tells.
        `sample_rate`: Hz of the audio that `decode` gives; None: the pipeline's.
        `inbound_encoding`, `outbound_encoding`: sent and received; the constructor's arguments win.
        `auto_hang_up`: the call ends with the pipeline.
        `l16_byte_order`: of L16, both ways; "big" is RFC 3551's, but streams in "little" have been reported.
        """

        telnyx_sample_rate: int = 8000
        sample_rate: int | None = None
        inbound_encoding: str = "PCMU"
        outbound_encoding: str = "PCMU"
        auto_hang_up: bool = True
        l16_byte_order: str = "big"

    def __init__(
        self,
        stream_id: str,
        outbound_encoding: str,
        inbound_encoding: str,
        call_control_id: str | None = None,
        api_key: str | None = None,
        params: InputParams | None = None,
    ) -> None:
        """ValueError: `auto_hang_up` without credentials, or a byte order that does not exist.

        An encoding other than PCMU, PCMA or L16 is a ValueError at the first audio in its direction.
        """
        p = params or self.InputParams()
        p.inbound_encoding, p.outbound_encoding = inbound_encoding, outbound_encoding
        super().__init__(p)
        if p.auto_hang_up:
            if missing := lacking(call_control_id=call_control_id, api_key=api_key):
                raise ValueError(f"auto_hang_up needs {' and '.join(missing)}; give them or set auto_hang_up=False")
            self._hang_up = HangUp(carrier="telnyx", call_id=call_control_id or "", secret=api_key or "")
        if p.l16_byte_order not in BYTE_ORDERS:
            raise ValueError(f"l16_byte_order must be big or little, got {p.l16_byte_order!r}")
        self._stream_id = stream_id
        self._call_control_id = call_control_id or ""
        self._open = bool(stream_id)
        self._connected: Json = {}  # what the message before `start` said, the stream's auth token above all

        to_wire: Mapping[str, Codec] = {"PCMU": pcm_to_ulaw, "PCMA": pcm_to_alaw, "L16": _whole_samples}
        from_wire: Mapping[str, Codec] = {"PCMU": ulaw_to_pcm, "PCMA": alaw_to_pcm, "L16": _whole_samples}
        if p.l16_byte_order == "big":
            to_wire, from_wire = {**to_wire, "L16": swap16}, {**from_wire, "L16": swap16}
        self._from_wire = from_wire
        self._receive = MediaFormat(outbound_encoding, p.telnyx_sample_rate)
        self._receive_rate = p.telnyx_sample_rate
        self._expand = from_wire.get(outbound_encoding)
        self._send = MediaFormat(inbound_encoding, p.telnyx_sample_rate)
        self._compress = to_wire.get(inbound_encoding)
        self._send_rate = p.telnyx_sample_rate
        self._shortest = self._send_rate * SHORTEST_MS // 1000 * 2  # bytes of PCM
        self._longest = self._send_rate * LONGEST_S * 2
        self._rest = b""  # PCM at the wire's rate, too short for a message

    @classmethod
    def for_call(cls, options: WireOptions) -> TelnyxFrameSerializer:
        """What we send is what the answer document asked for; what we receive, `start` tells."""
        own = options.options or {}
        codec = options.send_codec or "PCMU"
        params = cls.InputParams(
            telnyx_sample_rate=options.send_sample_rate or (16000 if codec == "L16" else 8000),
            auto_hang_up=False,
            l16_byte_order=own.get("l16_byte_order") or "big",
        )
        serializer = cls("", options.receive_codec, codec, params=params)
        serializer.begin(options.in_sample_rate)
        return serializer

    @property
    def send_rate(self) -> int:
        return self._send_rate

    # ------------------------------------------------------------ in

    def _caller_audio(self, payload: bytes, track: str, chunk: int | None, timestamp: int | None) -> Sequence[Frame]:
        """One message's audio. `chunk` counts per track and tells the order: Telnyx does not promise to keep it."""
        if track != "inbound":
            return ()
        expand = self._expand
        if expand is None:
            raise UnsupportedEncodingError(
                self.carrier,
                f"audio in {_encoding_name(self._receive.encoding)}; only {', '.join(ENCODINGS)} are read here",
            )
        try:
            pcm = expand(payload)
        except ValueError:
            raise self._bad("media.payload has half a sample", payload) from None
        rate = self._receive_rate
        wanted = self._in_sample_rate
        if wanted is not None and wanted != rate:
            return self.pipeline_audio(pcm, rate, seq=chunk, timestamp_ms=timestamp)
        return (InputAudioRawFrame(pcm, rate, 1, chunk, timestamp),) if pcm else ()

    def _on_connected(self, message: Json) -> Sequence[Frame]:
        inner = message.get("connected")
        self._connected = dict(inner) if isinstance(inner, dict) else {}
        return ()

    def _on_start(self, message: Json) -> Sequence[Frame]:
        start = self._start_of(message)
        call_id = text(start.get("call_control_id")) or self._call_control_id
        if not call_id:
            raise self._bad("start without call_control_id", start)
        if self._started:
            log.warning("telnyx: a second start was ignored")
            return ()
        media_format = start.get("media_format")
        if isinstance(media_format, dict):
            self._set_receive(media_format)
        elif self._expand is None:
            self._set_receive({"encoding": "PCMU"})  # Telnyx's default
        self._started = self._open = True
        self._stream_id = text(message.get("stream_id")) or self._stream_id
        call = CallInfo(
            carrier=self.carrier,
            call_id=call_id,
            stream_id=self._stream_id,
            account_id=text(start.get("user_id")),
            from_number=text(start.get("from")),
            to_number=text(start.get("to")),
            parameters=_parameters(start.get("custom_parameters")),
            receive=self._receive,
            send=self._send,
            extra={**self._connected, **{name: value for name, value in start.items() if name not in _START_KEYS}},
        )
        return (CallStartedFrame(call),)

    def _set_receive(self, media_format: Json) -> None:
        """The codec that `start` names. One we lack ends the matter: decoded as another it would be noise."""
        encoding = text(media_format.get("encoding")).upper()
        expand = self._from_wire.get(encoding)
        rate = number(media_format.get("sample_rate", self._receive.sample_rate))
        channels = number(media_format.get("channels", 1))
        self._expand = None
        self._receive = MediaFormat(encoding, rate or 0)
        if expand is None:
            raise self._unusable(
                f"start.media_format.encoding is {_encoding_name(encoding)}; ask for {' or '.join(ENCODINGS)}",
                media_format,
            )
        if rate not in RATES:
            raise self._unusable(
                f"start.media_format.sample_rate is none of {', '.join(map(str, RATES))}", media_format
            )
        if channels != 1:
            raise self._unusable("start.media_format.channels is not 1", media_format)
        self._expand, self._receive_rate = expand, rate

    def _on_stop(self, message: Json) -> Sequence[Frame]:
        return (CallEndedFrame("caller", "stop"),)  # whatever else a stop lacks, the stream is over

    def _on_error(self, message: Json) -> Sequence[Frame]:
        payload = message.get("payload")
        if not isinstance(payload, dict):
            payload = {}
        return (CarrierErrorFrame(text(payload.get("code")) or "unknown", text(payload.get("title"))),)

    _ON: ClassVar[Handlers] = {
        "connected": _on_connected,
        "start": _on_start,
        "media": JsonSerializer._on_media,
        "dtmf": JsonSerializer._on_dtmf,
        "mark": JsonSerializer._on_mark,
        "stop": _on_stop,
        "error": _on_error,
    }

    # ------------------------------------------------------------ out

    def _audio(self, frame: OutputAudioRawFrame) -> Messages:
        return self.encode_audio(frame.audio, frame.sample_rate)

    def encode_audio(self, pcm: bytes, rate: int) -> Messages:
        if not self._open:
            return ()
        return self._send_pcm(pcm if rate == self._send_rate else self.wire_pcm(pcm, rate))

    def _send_pcm(self, pcm: bytes) -> Messages:
        """Messages of a legal length; what is too short for one waits."""
        if self._rest:
            pcm = self._rest + pcm
        if len(pcm) < self._shortest:
            self._rest = pcm
            return ()
        self._rest = b""
        if len(pcm) <= self._longest:
            return (self._media(pcm),)
        pieces = [pcm[at : at + self._longest] for at in range(0, len(pcm), self._longest)]
        if len(pieces[-1]) < self._shortest:
            self._rest = pieces.pop()
        return [self._media(piece) for piece in pieces]

    def _media(self, pcm: bytes) -> str:
        compress = self._compress
        if compress is None:
            raise ValueError(f"inbound_encoding {self._send.encoding!r}: only {', '.join(ENCODINGS)} can be sent")
        return f"{_HEAD}{b64encode_as_string(compress(pcm))}{_TAIL}"

    @property
    def held_samples(self) -> int:
        return len(self._rest) >> 1

    @property
    def padding_samples(self) -> int:
        return (self._shortest - len(self._rest)) >> 1 if self._rest else 0

    def flush(self) -> Messages:
        tail = self.flush_wire_pcm()
        messages = self._send_pcm(tail) if tail else ()
        if rest := self._rest:
            self._rest = b""
            messages = (*messages, self._media(rest.ljust(self._shortest, b"\0")))
        return messages

    def _interrupt(self, frame: InterruptionFrame) -> Messages:
        self._rest = b""
        self.reset_wire_pcm()
        return _CLEAR

    def _mark(self, frame: MarkFrame) -> Messages:
        return (f'{{"event":"mark","mark":{{"name":{json.dumps(frame.name)}}}}}',)

    _SAY: ClassVar[Writers] = {
        OutputAudioRawFrame: _audio,
        InterruptionFrame: _interrupt,
        MarkFrame: _mark,
        OutputTransportMessageFrame: JsonSerializer._application,
        OutputTransportMessageUrgentFrame: JsonSerializer._application,
    }


_START_KEYS = frozenset(("call_control_id", "from", "to", "custom_parameters", "media_format"))


def _parameters(value: Any) -> Mapping[str, Any]:
    """Custom parameters as an object, or as the list of names and values in which they are asked for."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return {item["name"]: item.get("value", "") for item in value if isinstance(item, dict) and _named(item)}
    return {}


def _named(item: Json) -> bool:
    return isinstance(item.get("name"), str)


def _encoding_name(encoding: str) -> str:
    """An encoding for a log line, which shows no text of unknown origin."""
    return encoding if encoding in KNOWN_TO_TELNYX else "an unknown encoding"
