"""The socket side of a carrier: messages to frames and back. No I/O, no clock, no loop.

A serializer has two faces. The gateway calls the plain `decode` and `encode`, which take and give any number of
things. `setup`, `serialize` and `deserialize` are the seeds' async face on top of them, one thing at a time.
"""

from __future__ import annotations

import enum
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from media.errors import LocalProtocolError, RemoteProtocolError
from media.frames import (
    Frame,
    InputAudioRawFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    StartFrame,
    WireFrame,
)
from media.resample import Resampler, make_resampler
from serializers.audio import Incoming, Outgoing

log = logging.getLogger(__name__)

Message = str | bytes
Messages = Sequence[Message]


class Ending(enum.Enum):
    """How the gateway ends a call on this carrier."""

    REST = "rest"  # a request to the carrier's API, then the carrier closes the socket
    SOCKET = "socket"  # closing the media socket hands the call back
    MESSAGE = "message"  # a message on the socket; only the carrier closes


class FrameSerializerType(enum.Enum):
    """What older programs say of a serializer of their own. Nobody reads it: text goes out as text, bytes as binary."""

    BINARY = "binary"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class WireOptions:
    """What the gateway tells a serializer that it builds itself (`for_call`)."""

    in_sample_rate: int | None = None  # the pipeline's input rate; None: the wire's
    receive_codec: str = ""  # "" where `start` tells
    send_codec: str = ""  # what the answer document asked for: "PCMU", "PCMA", "L16"
    send_sample_rate: int = 0  # Hz, 0 where the carrier has one only or `start` tells
    options: Mapping[str, Any] | None = None  # the carrier's own settings, by name


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRate:
    """How many messages a second a carrier takes, and how many at once."""

    binary_per_s: float
    binary_burst: int
    text_per_s: float
    text_burst: int
    join_bytes: int  # audio that had to wait is joined to messages of this size


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp:
    """The wish to end one call by the carrier's API, as a value: whoever executes it has the network.

    Made by a serializer that a user built with credentials of his own; the gateway's own calls take theirs from the
    settings.
    """

    carrier: str
    call_id: str  # what the carrier's API calls the call: CallSid, call_control_id, CallUUID
    account_id: str = ""  # AccountSid, auth_id
    secret: str = field(repr=False)  # auth token, API key
    region: str = ""
    edge: str = ""


class FrameSerializer:
    """Base of all serializers.

    A carrier's class sets the class variables and writes `decode`, `encode` and, where packets have a fixed size,
    `flush`. Everything else is here. State per stream: the resamplers and what the carrier's class keeps.
    """

    carrier: ClassVar[str] = ""
    ending: ClassVar[Ending] = Ending.SOCKET
    lead_ms: ClassVar[int] = 200  # how far ahead of play-out this carrier likes its audio
    cushion_ms: ClassVar[int] = 25  # of silence before a live stream: so late may its packets come; 0: none
    end_wait_s: ClassVar[float] = 2.0  # after telling the carrier that the call is over: how long its socket may stay
    echoes_marks_on_clear: ClassVar[bool] = False  # then an echo is no proof that audio was played
    reports_playback: ClassVar[bool] = False  # PlaybackCompletedFrame comes when all that was sent has been played
    has_marks: ClassVar[bool] = True  # PlayedFrame comes back for each MarkFrame
    codec_setting: ClassVar[str] = ""  # in [carriers.<name>]: what to change where we get another codec than agreed
    clears: ClassVar[bool] = True  # encode(InterruptionFrame) makes the carrier drop what it holds
    clear_grain_ms: int = 0  # a clear lets the chunk of this length that is being played finish; known once started
    sends_digits: ClassVar[bool] = False  # encode(OutputDTMFFrame) gives a message; else tones are sent as audio
    close_is_normal_end: ClassVar[bool] = False  # the carrier ends a call by closing the socket, with no message
    silence_s: ClassVar[float | None] = None  # without a message for so long the socket is half open; None: the limits'
    speaks_rtvi: ClassVar[bool] = False  # the other side is a client of RTVI; no carrier is
    opens: ClassVar[bool] = False  # what is sent before CallStartedFrame was decoded is lost
    rate: ClassVar[MessageRate | None] = None  # None: any number
    reads: ClassVar[type[Incoming]] = Incoming  # what reads audio as `decode` would, and is quicker
    outgoing: Outgoing | None = None  # what writes audio as `encode_audio` would, and is quicker
    holds: ClassVar[bool] = False  # `hold` gives a message; else the gateway keeps the caller's audio from the bot

    @dataclass(kw_only=True)
    class InputParams:
        """`ignore_rtvi_messages`: transport messages labelled "rtvi-ai" never reach the carrier."""

        ignore_rtvi_messages: bool = True

    _made_of: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._made_of = (args, kwargs)
        return self

    def fresh(self) -> Any:
        """Another serializer, made as this one was: for the next stream."""
        args, kwargs = self._made_of
        return type(self)(*args, **kwargs)

    def __init__(self, params: Any = None) -> None:
        self._params = params if params is not None else self.InputParams()
        self.incoming: Incoming = self.reads()
        self.incoming.wanted = getattr(self._params, "sample_rate", None) or 0  # what decode gives
        self._out_resamplers: dict[int, Resampler] = {}

    # ------------------------------------------------------------ what a carrier writes

    @classmethod
    def for_call(cls, options: WireOptions) -> FrameSerializer:
        """The serializer of one live call, as the gateway builds it: no credentials, ids from `start`."""
        raise NotImplementedError(f"{cls.__name__} is not built by the gateway")

    @property
    def send_rate(self) -> int:
        """Sample rate, in Hz, of the audio we send; final once CallStartedFrame was decoded. 0: any."""
        return 8000

    @property
    def packet_ms(self) -> int:
        """Length of the pieces that pacing should hand to `encode`."""
        return 20

    @property
    def takes_audio(self) -> bool:
        """False once the carrier has been told, or has said, that the call is over."""
        return True

    def decode(self, data: Message) -> Sequence[Frame]:
        """Frames in one WebSocket message.

        Raises RemoteProtocolError for a known message of the wrong shape, and nothing else.
        Unknown messages give ().
        """
        raise NotImplementedError

    def encode(self, frame: Frame) -> Messages:
        """Messages that make the carrier do what `frame` says; () where it has no way to.

        Audio frames may have any rate and length; what does not fill a packet of fixed size is kept for the next
        call or for `flush`. An InterruptionFrame drops it and clears the carrier's buffer.
        """
        raise NotImplementedError

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "encode" in cls.__dict__ and "encode_audio" not in cls.__dict__:
            cls.encode_audio = FrameSerializer.encode_audio  # type: ignore[method-assign]  # its `encode` sees all

    def encode_audio(self, pcm: bytes, rate: int) -> Messages:
        """`encode` of mono audio, for who has no frame of it: a short way for carriers' classes."""
        return self.encode(OutputAudioRawFrame(pcm, rate, 1))

    @property
    def short_in(self) -> Incoming | None:
        """`incoming`, but for the classes of others: what they override is asked each time."""
        return self.incoming if type(self).__module__.startswith("serializers.") else None

    @property
    def short_out(self) -> Outgoing | None:
        """`outgoing`, in the same way."""
        return self.outgoing if type(self).__module__.startswith("serializers.") else None

    def hold(self, held: bool) -> Messages:
        """Ask the carrier to hold the caller's audio back, or to let it flow again."""
        return ()

    def hand_over(self) -> Messages:
        """This process goes down: ask the carrier to go on with this call on another socket. (): it cannot."""
        return ()

    def hang_up_request(self) -> HangUp | None:
        """How to end this call by the carrier's API, if the serializer was built with credentials and auto_hang_up."""
        return None

    @property
    def held_samples(self) -> int:
        """Samples that `encode` was given and that wait for the rest of their packet."""
        return 0

    @property
    def padding_samples(self) -> int:
        """Samples of silence with which `flush` would fill the packet that is begun."""
        return 0

    def flush(self) -> Messages:
        """The end of speech: what is left of a packet, padded to a legal size, and the resampler's tail."""
        return ()

    # ------------------------------------------------------------ for the carriers' use

    def pipeline_audio(
        self, pcm: bytes, rate: int, *, seq: int | None = None, timestamp_ms: int | None = None, channels: int = 1
    ) -> Sequence[Frame]:
        """`pcm` off the wire at `rate` as a frame at the pipeline's rate; () while there is nothing to give."""
        return self.incoming.frames(pcm, rate, seq, timestamp_ms, channels)

    def wire_pcm(self, pcm: bytes, rate: int) -> bytes:
        """`pcm` of the pipeline at `rate` at the wire's rate."""
        if rate == self.send_rate:
            return pcm
        resampler = self._out_resamplers.get(rate)
        if resampler is None:
            resampler = self._out_resamplers[rate] = make_resampler(rate, self.send_rate)
        return resampler.process(pcm)

    def flush_wire_pcm(self) -> bytes:
        """What the outgoing resamplers still hold, at the wire's rate."""
        return b"".join(resampler.flush() for resampler in self._out_resamplers.values())

    def reset_wire_pcm(self) -> None:
        """Forget what the outgoing resamplers hold: it belongs to a reply that was interrupted."""
        for resampler in self._out_resamplers.values():
            resampler.reset()

    def application_message(self, frame: Frame) -> Messages:
        """A transport message as JSON text, unless it must not reach the carrier."""
        if not isinstance(frame, OutputTransportMessageFrame | OutputTransportMessageUrgentFrame):
            return ()
        if self.should_ignore_frame(frame):
            return ()
        return (frame.message if isinstance(frame.message, str) else json.dumps(frame.message),)

    def should_ignore_frame(self, frame: Frame) -> bool:
        """True for an RTVI message while `ignore_rtvi_messages` is on."""
        if not getattr(self._params, "ignore_rtvi_messages", True):
            return False
        message = getattr(frame, "message", None)
        return isinstance(message, Mapping) and message.get("label") == "rtvi-ai"

    # ------------------------------------------------------------ the seeds' face

    async def setup(self, frame: StartFrame) -> None:
        """Take the pipeline's input rate, unless the params name one."""
        self.begin(frame.audio_in_sample_rate)

    def begin(self, in_sample_rate: int | None) -> None:
        """The pipeline's input rate; the params' own `sample_rate` wins."""
        self.incoming.wanted = getattr(self._params, "sample_rate", None) or in_sample_rate or 0

    async def serialize(self, frame: Frame) -> str | bytes | None:
        """`encode` for a caller who sends one message: None, the message, or binary ones joined.

        Raises LocalProtocolError where several text messages are due: use `encode`.
        """
        messages = self.encode(frame)
        if len(messages) <= 1:
            return messages[0] if messages else None
        if all(isinstance(message, bytes) for message in messages):
            return b"".join(message for message in messages if isinstance(message, bytes))
        raise LocalProtocolError(f"{type(self).__name__}: {len(messages)} text messages for one frame; call encode()")

    async def deserialize(self, data: str | bytes) -> Frame | None:
        """`decode` for a caller who takes one frame: None for bad or empty messages; audio is joined."""
        try:
            frames = [frame for frame in self.decode(data) if not isinstance(frame, WireFrame)]
        except RemoteProtocolError as exc:
            if isinstance(exc, ValueError):  # not one bad message: a stream for which there is no codec
                raise
            log.warning("%s: bad message dropped: %s", self.carrier or type(self).__name__, exc.problem)
            return None
        # Several voices (UserAudioRawFrame) are not one stream: this face has room for the first.
        if len(frames) > 1 and all(type(frame) is InputAudioRawFrame for frame in frames):
            first = frames[0]
            assert isinstance(first, InputAudioRawFrame)
            first.audio = b"".join(frame.audio for frame in frames if isinstance(frame, InputAudioRawFrame))
        return frames[0] if frames else None
