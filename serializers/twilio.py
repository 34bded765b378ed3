"""Twilio Media Streams: the socket side.

Source: Twilio docs, "Media Streams - WebSocket messages".
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from media.call import CallInfo, MediaFormat
from media.codecs import ulaw_to_pcm
from media.frames import (
    CallEndedFrame,
    CallStartedFrame,
    Frame,
    InterruptionFrame,
    MarkFrame,
)
from serializers.audio import JsonOutgoing
from serializers.base import Ending, FrameSerializer, HangUp, Messages, WireOptions
from serializers.fields import Json, number
from serializers.json_base import Handlers, JsonSerializer, lacking

log = logging.getLogger(__name__)

# Documented is mu-law at 8 kHz; some back ends that speak this protocol, and Twilio's SDK, know wider mu-law.
ENCODINGS = ("audio/x-mulaw", "audio/mulaw", "audio/pcmu")
RATES = (8000, 16000, 24000)

# What of `start` has a place of its own in CallInfo.
_START_KEYS = frozenset(("streamSid", "callSid", "accountSid", "customParameters", "mediaFormat"))


class TwilioFrameSerializer(JsonSerializer):
    """Twilio's messages to frames and back, for one stream.

    Twilio plays what it holds until it is told to clear, and echoes every pending mark when it is. It has no message
    that ends a call: `hang_up_request` says what its REST API needs, where credentials were given.
    """

    carrier: ClassVar[str] = "twilio"
    ending: ClassVar[Ending] = Ending.REST
    lead_ms: ClassVar[int] = 200
    echoes_marks_on_clear: ClassVar[bool] = True
    outgoing: JsonOutgoing

    @dataclass(kw_only=True)
    class InputParams(FrameSerializer.InputParams):
        """
        `twilio_sample_rate`: Hz on the wire until `start` tells.
        `sample_rate`: Hz of the audio that `decode` gives; None: the pipeline's.
        `auto_hang_up`: the call ends when the pipeline does.
        """

        twilio_sample_rate: int = 8000
        sample_rate: int | None = None
        auto_hang_up: bool = True

    def __init__(
        self,
        stream_sid: str,
        call_sid: str | None = None,
        account_sid: str | None = None,
        auth_token: str | None = None,
        region: str | None = None,
        edge: str | None = None,
        params: InputParams | None = None,
    ) -> None:
        """ValueError: auto_hang_up without call_sid, account_sid and auth_token, or one of region and edge alone."""
        self._p = params or self.InputParams()
        super().__init__(self._p)
        if self._p.auto_hang_up:
            self._hang_up = _hang_up(call_sid, account_sid, auth_token, region, edge)
        self._call_sid = call_sid or ""
        self.incoming.expand = ulaw_to_pcm
        self._set_rate(self._p.twilio_sample_rate)
        self._set_stream(stream_sid)

    @classmethod
    def for_call(cls, options: WireOptions) -> TwilioFrameSerializer:
        serializer = cls("", params=cls.InputParams(auto_hang_up=False))
        serializer.begin(options.in_sample_rate)
        return serializer

    def _set_rate(self, rate: int) -> None:
        self.incoming.rate = self.outgoing.rate = rate
        self._out_resamplers.clear()

    def _set_stream(self, stream_sid: str) -> None:
        quoted = json.dumps(stream_sid)
        self.outgoing.is_open = bool(stream_sid)
        self.outgoing.head = f'{{"event":"media","streamSid":{quoted},"media":{{"payload":"'
        self.outgoing.tail = '"}}'
        self._clear_message = (f'{{"event":"clear","streamSid":{quoted}}}',)
        self._mark_head = f'{{"event":"mark","streamSid":{quoted},"mark":{{"name":'

    # ------------------------------------------------------------ in

    def _on_media(self, message: Json) -> Sequence[Frame]:
        media = message.get("media")
        if isinstance(media, dict) and media.get("chunk") is None:
            message = {**message, "media": {**media, "chunk": message.get("sequenceNumber")}}
        return super()._on_media(message)

    def _on_start(self, message: Json) -> Sequence[Frame]:
        start = self._start_of(message)
        stream_sid = start.get("streamSid") or message.get("streamSid")
        if not isinstance(stream_sid, str) or not stream_sid:
            raise self._bad("start without streamSid", message)
        for key in ("callSid", "accountSid"):
            if not isinstance(start.get(key, ""), str):
                raise self._bad(f"start.{key} is not a string", message)
        parameters = start.get("customParameters") or {}
        if not isinstance(parameters, dict):
            raise self._bad("start.customParameters is not an object", message)
        media_format = self._media_format(start.get("mediaFormat"), message)
        if self._started:
            log.warning("twilio: a second start was ignored")
            return ()
        self._started = True
        self._set_rate(media_format.sample_rate)
        self._set_stream(stream_sid)
        tracks = start.get("tracks")
        call = CallInfo(
            carrier="twilio",
            call_id=start.get("callSid", "") or self._call_sid,
            stream_id=stream_sid,
            account_id=start.get("accountSid", ""),
            parameters=parameters,
            receive=media_format,
            send=media_format,
            extra={name: value for name, value in start.items() if name not in _START_KEYS},
            # <Connect><Stream> carries the inbound track only; a stream with the other one is <Start><Stream>.
            receives_audio=not (isinstance(tracks, list) and "outbound" in tracks),
        )
        return (CallStartedFrame(call),)

    def _media_format(self, fields: Any, message: Json) -> MediaFormat:
        """What `start.mediaFormat` says; RemoteProtocolError for a format that we cannot decode."""
        if fields is None:
            return MediaFormat("PCMU", self.send_rate)
        if not isinstance(fields, dict):
            raise self._bad("start.mediaFormat is not an object", message)
        encoding = fields.get("encoding", ENCODINGS[0])
        rate = number(fields.get("sampleRate", self.send_rate))
        channels = number(fields.get("channels", 1))
        if not isinstance(encoding, str) or encoding.lower() not in ENCODINGS or rate not in RATES or channels != 1:
            shown = encoding[:32] if isinstance(encoding, str) and encoding.startswith("audio/") else "no audio type"
            raise self._unusable(
                f"{shown} at {rate} Hz, {channels} channels, cannot be decoded; mono mu-law can", message
            )
        return MediaFormat("PCMU", rate)

    def _on_stop(self, message: Json) -> Sequence[Frame]:
        # Whatever a stop lacks, the stream is over. It does not tell who ended the call; when it was us, the call
        # is already ending and nobody asks.
        return (CallEndedFrame("caller", "stop"),)

    _ON: ClassVar[Handlers] = {
        "media": _on_media,
        "start": _on_start,
        "dtmf": JsonSerializer._on_dtmf,
        "mark": JsonSerializer._on_mark,
        "stop": _on_stop,
    }

    # ------------------------------------------------------------ out

    def _interruption(self, frame: InterruptionFrame) -> Messages:
        self._forget()
        return self._clear_message

    def _mark(self, frame: MarkFrame) -> Messages:
        return (f"{self._mark_head}{json.dumps(frame.name)}}}}}",)


def _hang_up(
    call_sid: str | None, account_sid: str | None, auth_token: str | None, region: str | None, edge: str | None
) -> HangUp:
    """The request that ends the call. ValueError: something that it needs is missing."""
    if missing := lacking(call_sid=call_sid, account_sid=account_sid, auth_token=auth_token):
        raise ValueError(f"auto_hang_up is on, but these are missing: {', '.join(missing)}")
    if bool(region) != bool(edge):
        raise ValueError(f"region and edge go together (api.<edge>.<region>.twilio.com): {region=}, {edge=}")
    return HangUp(
        carrier="twilio",
        call_id=call_sid or "",
        account_id=account_sid or "",
        secret=auth_token or "",
        region=region or "",
        edge=edge or "",
    )
