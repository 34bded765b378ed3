"""Exotel AgentStream (Voicebot and Stream applets, Connect Voice AI): the socket side.

Source: Exotel's support article "Working with the Stream and Voicebot applet" and its developer portal's AgentStream
pages. The two differ in places; what is read here is what both say, and what real calls were seen to send.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from media.call import CallInfo, MediaFormat
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.frames import (
    CallEndedFrame,
    CallStartedFrame,
    Frame,
    InterruptionFrame,
    MarkFrame,
)
from serializers.audio import JsonOutgoing, NumberedOutgoing, whole_samples
from serializers.base import Ending, FrameSerializer, Messages, WireOptions
from serializers.fields import Json, number, text
from serializers.json_base import Handlers, JsonSerializer

log = logging.getLogger(__name__)

RATES = (8000, 16000, 24000)
GRID = 320  # bytes: a message that is no multiple of it leaves a hole of 20 ms before the next
# The page asks for "at least 3.2k [100 ms]" in a message, which is 100 ms at 16 kHz only. These lengths satisfy both
# readings; what a setting may make of them stays under the 100,000 bytes that a message may have.
PACKET_MS: Mapping[int, int] = {8000: 200, 16000: 100, 24000: 100}
MULAW_NAMES = ("mulaw", "ulaw", "pcmu")

# What of `start` has a place of its own in CallInfo, in both spellings.
_START_KEYS = frozenset(
    name
    for names in (
        "stream_sid call_sid account_sid from to custom_parameters",
        "streamSid callSid accountSid customParameters",
    )
    for name in names.split()
)


class ExotelFrameSerializer(JsonSerializer):
    """Exotel's messages to frames and back, for one stream.

    Exotel has no request that ends a call: when the goodbye's mark has come back, closing the socket hands the call
    to the next applet of the flow, or ends it where there is none.
    """

    carrier: ClassVar[str] = "exotel"
    codec_setting: ClassVar[str] = "sample_rate"
    ending: ClassVar[Ending] = Ending.SOCKET
    lead_ms: ClassVar[int] = 400
    cushion_ms: ClassVar[int] = 40  # the message that it leaves in is so much longer
    echoes_marks_on_clear: ClassVar[bool] = True
    outgoing: JsonOutgoing

    @dataclass(kw_only=True)
    class InputParams(FrameSerializer.InputParams):
        """
        `exotel_sample_rate`: Hz on the wire until `start` tells, and where `start` tells none of Exotel's rates.
        `sample_rate`: Hz of the audio that `decode` gives; None: the pipeline's.
        `outbound_media_extras`: number our media messages as Exotel numbers its own.
        `packet_ms`: the shortest message that we send, a multiple of 20; 0: what Exotel's pages ask for.
        `one_way`: the socket of a Stream applet, which takes nothing back.
        """

        exotel_sample_rate: int = 8000
        sample_rate: int | None = None
        outbound_media_extras: bool = False
        packet_ms: int = 0
        one_way: bool = False

    def __init__(self, stream_sid: str, call_sid: str | None = None, params: InputParams | None = None) -> None:
        self._p = params or self.InputParams()
        super().__init__(self._p)
        if self._p.packet_ms % 20 or not 0 <= self._p.packet_ms <= 1000:
            raise ValueError(f"packet_ms must be a multiple of 20 up to 1000, got {self._p.packet_ms}")
        self._stream_sid = ""
        self._call_sid = call_sid or ""
        if self._p.outbound_media_extras:
            self.outgoing = NumberedOutgoing()
        self.outgoing.tail = '"}}'
        self.outgoing.grid = GRID
        self.outgoing.compress = bytes
        self.incoming.expand = whole_samples
        self._set_rate(self._p.exotel_sample_rate)
        self._set_stream(stream_sid)

    @classmethod
    def for_call(cls, options: WireOptions) -> ExotelFrameSerializer:
        own = options.options or {}
        params = cls.InputParams(
            exotel_sample_rate=options.send_sample_rate or 8000,
            outbound_media_extras=bool(own.get("outbound_media_extras", False)),
            packet_ms=own.get("packet_ms") or 0,
            one_way=own.get("applet") == "stream",
        )
        serializer = cls("", params=params)
        serializer.begin(options.in_sample_rate)
        return serializer

    @property
    def packet_ms(self) -> int:
        return self._packet_ms

    def _set_rate(self, rate: int) -> None:
        out = self.outgoing
        out.rate = self.incoming.rate = rate
        self._packet_ms = self._p.packet_ms or PACKET_MS.get(rate, 100)
        self.clear_grain_ms = self._packet_ms  # `clear` drops what has not begun; the message in play is finished
        out.piece = out.shortest = -(-rate * self._packet_ms // 500 // GRID) * GRID
        out.longest = 2 * out.piece - 1  # what is left over goes with the last
        out.forget()
        self._out_resamplers.clear()

    def _set_stream(self, stream_sid: str) -> None:
        self._stream_sid = stream_sid
        self.outgoing.is_open = bool(stream_sid) and not self._p.one_way
        self.outgoing.head = f'{{"event":"media","stream_sid":{json.dumps(stream_sid)},"media":{{"payload":"'

    # ------------------------------------------------------------ in

    def _caller_audio(self, payload: bytes, track: str, chunk: int | None, timestamp: int | None) -> Sequence[Frame]:
        return super()._caller_audio(payload, track if track == "outbound" else "inbound", chunk, timestamp)

    def _on_start(self, message: Json) -> Sequence[Frame]:
        start = self._start_of(message)
        stream_sid = _either(message, "stream_sid", "streamSid") or _either(start, "stream_sid", "streamSid")
        if not isinstance(stream_sid, str):
            stream_sid = self._stream_sid
        if not stream_sid:
            raise self._bad("start without stream_sid", message)
        if self._started:
            log.warning("exotel: a second start was ignored")
            return ()
        self._started = True
        self._set_stream(stream_sid)
        media_format = _either(start, "media_format", "mediaFormat")
        if not isinstance(media_format, dict):
            media_format = {}
        rate = number(_either(media_format, "sample_rate", "sampleRate"))
        if rate in RATES:
            if rate != self.send_rate:
                log.warning("exotel: start says %d Hz, %d were asked for; start is followed", rate, self.send_rate)
            self._set_rate(rate)
        encoding = str(media_format.get("encoding", "")).lower()
        if any(name in encoding for name in MULAW_NAMES):
            self.incoming.expand, self.outgoing.compress = ulaw_to_pcm, pcm_to_ulaw
            form = MediaFormat("PCMU", self.send_rate)
        else:
            form = MediaFormat("L16", self.send_rate)
        parameters = _either(start, "custom_parameters", "customParameters")
        call = CallInfo(
            carrier="exotel",
            call_id=text(_either(start, "call_sid", "callSid")) or self._call_sid,
            stream_id=stream_sid,
            account_id=text(_either(start, "account_sid", "accountSid")),
            from_number=text(start.get("from")),
            to_number=text(start.get("to")),
            parameters=parameters if isinstance(parameters, dict) else {},
            receive=form,
            send=form,
            extra={name: value for name, value in start.items() if name not in _START_KEYS},
            receives_audio=not self._p.one_way,
        )
        return (CallStartedFrame(call),)

    def _on_dtmf(self, message: Json) -> Sequence[Frame]:
        dtmf = message.get("dtmf")
        return self._pressed(dtmf.get("digit") if isinstance(dtmf, dict) else message.get("digit"), message)

    def _on_stop(self, message: Json) -> Sequence[Frame]:
        # Whatever else a stop lacks, the stream is over.
        stop = message.get("stop")
        detail = text(stop.get("reason")) if isinstance(stop, dict) else ""
        hung_up = detail.lower().replace(" ", "").endswith("callended")  # "canceled or call ended" was seen too
        return (CallEndedFrame("caller" if hung_up else "carrier", detail),)

    _ON: ClassVar[Handlers] = {
        "start": _on_start,
        "media": JsonSerializer._on_media,
        "dtmf": _on_dtmf,
        "mark": JsonSerializer._on_mark,
        "stop": _on_stop,
    }  # besides: connected, silence, an inbound clear

    # ------------------------------------------------------------ out

    def _interruption(self, frame: InterruptionFrame) -> Messages:
        self._forget()
        return self._command({"event": "clear", "stream_sid": self._stream_sid})

    def _mark(self, frame: MarkFrame) -> Messages:
        return self._command({"event": "mark", "stream_sid": self._stream_sid, "mark": {"name": frame.name}})

    def _command(self, message: Json) -> Messages:
        return (json.dumps(message, separators=(",", ":")),)


def _either(message: Mapping[str, Any], snake: str, camel: str) -> Any:
    """Exotel writes snake_case; its own samples for the Connect path read and write camelCase."""
    value = message.get(snake)
    return message.get(camel) if value is None else value
