"""What the carriers have in common whose messages are JSON objects with an `event`.

A carrier's class has a table of what it hears: `_ON`, by the event's name. Methods stand in it unbound, so that a call
binds nothing. What it says is the same for all, but for how: `_interruption` and `_mark` are the carrier's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from pybase64 import b64decode

from media.errors import RemoteProtocolError, UnusableStreamError
from media.frames import (
    Frame,
    InputDTMFFrame,
    InterruptionFrame,
    MarkFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    PlayedFrame,
)
from serializers.audio import Incoming, JsonIncoming, JsonOutgoing, Outgoing
from serializers.base import HangUp, Message, Messages
from serializers.fields import Json, keypad_entry, number, outline, text
from serializers.media_message import UNREADABLE
from serializers.table_base import TableSerializer

Handlers = Mapping[str, Callable[[Any, Json], Sequence[Frame]]]


_read_any = msgspec.json.Decoder().decode


class JsonSerializer(TableSerializer):
    """Base of the serializers whose control messages are JSON.

    `decode` takes well-formed audio the short way, which `incoming` is; everything else goes through `_ON`. A carrier
    whose audio looks different writes a `decode` of its own, which ends in `_decode_any`.
    """

    reads: ClassVar[type[Incoming]] = JsonIncoming
    writes: ClassVar[type[Outgoing]] = JsonOutgoing
    outgoing: Outgoing

    _ON: ClassVar[Handlers]
    says: ClassVar[Mapping[type[Frame], str]] = {
        OutputAudioRawFrame: "_audio",
        InterruptionFrame: "_interruption",
        MarkFrame: "_mark",
        OutputTransportMessageFrame: "application_message",
        OutputTransportMessageUrgentFrame: "application_message",
    }

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.outgoing = self.writes()
        self._started = False
        self._hang_up: HangUp | None = None
        self.dropped_digits = 0  # keys that no telephone has

    @property
    def send_rate(self) -> int:
        return self.outgoing.rate

    def hang_up_request(self) -> HangUp | None:
        return self._hang_up

    # ------------------------------------------------------------ in

    def decode(self, data: Message) -> Sequence[Frame]:
        frames = self.incoming.read(data)
        return self._decode_any(data) if frames is None else frames

    def _decode_any(self, data: Message) -> Sequence[Frame]:
        """Everything but well-formed media."""
        try:
            message = _read_any(data)
        except UNREADABLE:
            raise self._bad("not JSON", data) from None
        if not isinstance(message, dict) or not isinstance(event := self._event(message), str):
            raise self._bad("not an object with an event", message)
        handle = self._ON.get(event)
        return handle(self, message) if handle is not None else ()  # carriers add events

    def _event(self, message: Json) -> Any:
        return message.get("event")

    def _caller_audio(self, payload: bytes, track: str, chunk: int | None, timestamp: int | None) -> Sequence[Frame]:
        """One message's audio, out of its base64."""
        incoming = self.incoming
        if track != "inbound":
            return ()
        try:
            pcm = incoming.pcm(payload)
        except RemoteProtocolError:
            raise
        except ValueError:
            raise self._bad("media.payload has half a sample", payload) from None
        return incoming.frames(pcm, incoming.rate, chunk, timestamp)

    def _on_media(self, message: Json) -> Sequence[Frame]:
        """Media that the typed reader refused. If only its numbers are odd, the audio is good all the same."""
        media = message.get("media")
        if not isinstance(media, dict) or not isinstance(payload := media.get("payload"), str):
            raise self._bad("media without payload", message)
        try:
            audio = b64decode(payload, validate=True)
        except ValueError:
            raise self._bad("media.payload is not base64", message) from None
        track = media.get("track")
        return self._caller_audio(
            audio,
            "inbound" if track is None else text(track),
            number(media.get("chunk")),
            number(media.get("timestamp")),
        )

    def _start_of(self, message: Json) -> Json:
        start = message.get("start")
        if not isinstance(start, dict):
            raise self._bad("start without its object", message)
        return start

    def _on_dtmf(self, message: Json) -> Sequence[Frame]:
        dtmf = message.get("dtmf")
        return self._pressed(dtmf.get("digit") if isinstance(dtmf, dict) else None, message)

    def _pressed(self, digit: Any, message: Json) -> Sequence[Frame]:
        """The key that `message` calls `digit`; one that no telephone has is counted and dropped."""
        if isinstance(digit, bool) or not isinstance(digit, str | int):
            raise self._bad("dtmf without digit", message)
        key = keypad_entry(str(digit))
        if key is None:
            self.dropped_digits += 1
            return ()
        return (InputDTMFFrame(key),)

    def _on_mark(self, message: Json) -> Sequence[Frame]:
        mark = message.get("mark")
        if not isinstance(mark, dict) or not isinstance(name := mark.get("name"), str):
            raise self._bad("mark without name", message)
        return (PlayedFrame(name),)

    def _bad(self, problem: str, data: Any) -> RemoteProtocolError:
        return RemoteProtocolError(self.carrier, problem, outline(data))

    def _unusable(self, problem: str, data: Any) -> UnusableStreamError:
        return UnusableStreamError(self.carrier, problem, outline(data))

    # ------------------------------------------------------------ out

    def encode(self, frame: Frame) -> Messages:
        return super().encode(frame) if self.outgoing.is_open else ()

    def _interruption(self, frame: InterruptionFrame) -> Messages:
        raise NotImplementedError

    def _mark(self, frame: MarkFrame) -> Messages:
        raise NotImplementedError

    def _audio(self, frame: OutputAudioRawFrame) -> Messages:
        return self.encode_audio(frame.audio, frame.sample_rate)

    def encode_audio(self, pcm: bytes, rate: int) -> Messages:
        outgoing = self.outgoing
        if not outgoing.is_open:
            return ()
        return outgoing.write(pcm if rate == outgoing.rate else self.wire_pcm(pcm, rate))

    @property
    def held_samples(self) -> int:
        return self.outgoing.held_samples

    @property
    def padding_samples(self) -> int:
        return self.outgoing.padding_samples

    def flush(self) -> Messages:
        return self.outgoing.end(self.flush_wire_pcm())

    def _forget(self) -> None:
        """What has not left yet never does."""
        self.outgoing.forget()
        self.reset_wire_pcm()


def lacking(**needed: str | None) -> Sequence[str]:
    """The names of the credentials that were not given."""
    return [name for name, value in needed.items() if not value]
