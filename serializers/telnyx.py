"""Telnyx media streaming: the socket side.

Source: Telnyx docs, "Media Streaming over WebSockets" and "Bidirectional media streaming". Names are seen from the
carrier, as in Pipecat: `inbound_encoding` is what we send, `outbound_encoding` is what we receive.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from media.call import CallInfo, MediaFormat
from media.codecs import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, swap16, ulaw_to_pcm
from media.errors import RemoteProtocolError
from media.frames import (
    CallEndedFrame,
    CallStartedFrame,
    CarrierErrorFrame,
    Frame,
    InterruptionFrame,
    MarkFrame,
)
from serializers.audio import Codec, JsonOutgoing, whole_samples
from serializers.base import Ending, FrameSerializer, HangUp, Messages, WireOptions
from serializers.fields import Json, number, text
from serializers.json_base import Handlers, JsonSerializer, lacking

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


class UnsupportedEncodingError(RemoteProtocolError, ValueError):
    """Audio in an encoding for which there is no codec here; a ValueError too, as Pipecat has it."""


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
    outgoing: JsonOutgoing

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
        self._connected: Json = {}  # what the message before `start` said, the stream's auth token above all

        to_wire: Mapping[str, Codec] = {"PCMU": pcm_to_ulaw, "PCMA": pcm_to_alaw, "L16": whole_samples}
        from_wire: Mapping[str, Codec] = {"PCMU": ulaw_to_pcm, "PCMA": alaw_to_pcm, "L16": whole_samples}
        if p.l16_byte_order == "big":
            to_wire, from_wire = {**to_wire, "L16": swap16}, {**from_wire, "L16": swap16}
        self._from_wire = from_wire
        self._receive = MediaFormat(outbound_encoding, p.telnyx_sample_rate)
        self.incoming.rate = p.telnyx_sample_rate
        self.incoming.expand = from_wire.get(outbound_encoding) or _unreadable(outbound_encoding)
        self._send = MediaFormat(inbound_encoding, p.telnyx_sample_rate)
        out = self.outgoing
        out.is_open = bool(stream_id)
        out.rate = p.telnyx_sample_rate
        out.head, out.tail = _HEAD, _TAIL
        out.compress = to_wire.get(inbound_encoding) or _unsendable(inbound_encoding)
        out.shortest = out.rate * SHORTEST_MS // 1000 * 2
        out.longest = out.rate * LONGEST_S * 2

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

    # ------------------------------------------------------------ in

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
        elif self._receive.encoding not in ENCODINGS:
            self._set_receive({"encoding": "PCMU"})  # Telnyx's default
        self._started = self.outgoing.is_open = True
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
        self.incoming.expand = _unreadable(encoding)
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
        self.incoming.expand, self.incoming.rate = expand, rate

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

    def _interruption(self, frame: InterruptionFrame) -> Messages:
        self._forget()
        return _CLEAR

    def _mark(self, frame: MarkFrame) -> Messages:
        return (f'{{"event":"mark","mark":{{"name":{json.dumps(frame.name)}}}}}',)


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


def _unreadable(encoding: str) -> Codec:
    """In the place of the codec that we lack, until its audio comes."""

    def refuse(payload: bytes) -> bytes:
        raise UnsupportedEncodingError(
            "telnyx", f"audio in {_encoding_name(encoding)}; only {', '.join(ENCODINGS)} are read here"
        )

    return refuse


def _unsendable(encoding: str) -> Codec:
    def refuse(pcm: bytes) -> bytes:
        raise ValueError(f"inbound_encoding {encoding!r}: only {', '.join(ENCODINGS)} can be sent")

    return refuse
