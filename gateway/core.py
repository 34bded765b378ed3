"""One call without I/O: messages and `now` go in, messages and effects come out.

The core owns the serializer, the pipeline's two ends, the state and the timers of one call. It never waits: what
must happen on the network is a message in the outbox or an effect, a value that the session hands to the finisher.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import structlog

from bots.base import Call, Output, Recording
from bots.prompts import Prompt
from bots.rtvi.calls import with_rtvi
from gateway.apology import say_it
from gateway.call_input import CallInput
from gateway.caller_audio import CallerAudio
from gateway.compiled import mypyc_attr
from gateway.exchange_watch import ExchangeWatch, tell_answers
from gateway.outbox import Outbox
from gateway.ports import BotRoute, CallLimits, Control, Shell
from gateway.recording import CallRecordings, Ear, Recordings
from gateway.records import CallRecord
from gateway.states import OVER, TRANSITIONS, CallEvent, CallState, who_ended
from gateway.timers import Timer, Timers
from gateway.trail import Trail
from gateway.transcript import Transcript
from media.call import CallInfo
from media.errors import GatewayError, RemoteProtocolError, UnusableStreamError
from media.events import DONE, BaseObject, Handle
from media.exchange import Exchange
from media.flow import push_audio
from media.frames import (
    AnsweredByFrame,
    AnswerLaterFrame,
    AudioDiscardedFrame,
    CallBrokenFrame,
    CallEndedFrame,
    CallPausedFrame,
    CallResumedFrame,
    CallStartedFrame,
    CallUpdatedFrame,
    CancelFrame,
    CancelTaskFrame,
    CarrierErrorFrame,
    EndFrame,
    EndTaskFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    InterruptionTaskFrame,
    MarkFrame,
    OutputTransportMessageUrgentFrame,
    PlaybackClearedFrame,
    PlaybackCompletedFrame,
    PlaybackStartedFrame,
    PlayedFrame,
    RoundTripFrame,
    StartFrame,
    StopTaskFrame,
    TaskFrame,
    TaskSystemFrame,
    UserMuteStartedFrame,
    UserMuteStoppedFrame,
)
from media.output import OutputStage
from media.pipeline import Pipeline
from media.processor import FrameDirection, FrameProcessor, Lanes
from media.recording import Tracks
from media.vad import VoiceService
from media.variables import Variables
from serializers.base import Ending, FrameSerializer, Message

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.call")


_CLOSED = (1000, 1001, 1005)  # close codes of a peer that closes; others are of a socket that breaks

# An enumeration's members are found slowly, and hashed more slowly: what every packet asks is bound here.
_LIVE, _DRAINING, _PAUSED = CallState.LIVE, CallState.DRAINING, CallState.PAUSED

APOLOGY_GRACE_S = 1.0  # after an apology, for the end to come through the bot's pipeline
MAX_HELD = 3000  # frames kept for a bot that is not ready: a minute of audio
SLOW_BUILD_S = 0.05  # a bot whose build takes longer holds up every call of the process


@mypyc_attr(allow_interpreted_subclasses=True)  # a transport's
class CallCore:
    """One call. Plain functions; `now` is seconds of the process's monotonic clock."""

    # What the carrier says, besides audio, by the names of the methods that take it.
    takes: ClassVar[Mapping[type, str]] = {
        InputDTMFFrame: "_on_digit",
        OutputTransportMessageUrgentFrame: "_on_answer",
        AnswerLaterFrame: "_on_answer_later",
        CallStartedFrame: "_on_started",
        CallEndedFrame: "_on_ended",
        PlayedFrame: "_on_played",
        PlaybackStartedFrame: "_on_playback",
        PlaybackCompletedFrame: "_on_playback",
        PlaybackClearedFrame: "_on_cleared",
        CallPausedFrame: "_on_paused",
        CallResumedFrame: "_on_resumed",
        CallUpdatedFrame: "_on_updated",
        CarrierErrorFrame: "_on_carrier_error",
        AudioDiscardedFrame: "_on_discarded",
        RoundTripFrame: "_on_round_trip",
        CallBrokenFrame: "_on_broken",
    }

    def __init__(
        self,
        serializer: FrameSerializer,
        shell: Shell,
        *,
        limits: CallLimits | None = None,
        claims: CallInfo | None = None,
        route: Callable[[CallInfo], BotRoute | None] | None = None,
        control: Control | None = None,
        ends: tuple[CallInput, OutputStage] | None = None,
        lead_ms: float | None = None,
        now: float = 0.0,
    ) -> None:
        self.serializer = serializer
        self._incoming, self._outgoing = serializer.short_in, serializer.short_out
        if isinstance(serializer, BaseObject):
            serializer._base.drives = self  # handlers of its events that wait are tasks of this call
        self.shell = shell
        self.now: Callable[[], float] = shell.now
        self.limits = limits or CallLimits()
        self.is_displaced = False
        self.vad: VoiceService | None = None  # hears for the pipeline, off the loop; set before the call starts
        self.recordings: Recordings | None = None  # of the process; set before the call starts
        self.control = control  # may be set until the call has started
        self.bot = ""
        self.state = CallState.OPENING
        self.over = False
        self.info = claims or CallInfo(carrier=serializer.carrier)
        self.variables = Variables()
        self.counters: Counter[str] = Counter()
        self.outbox = Outbox(serializer, self.counters, self.limits.outbox)
        self.reason = self.ended_by = ""
        self.answered_by = ""  # who has taken up the phone: "human", "machine", "fax", "unknown"
        self.close_code = 1000
        self.close_at: float | None = None  # when the socket should be closed by us, if the carrier has not
        # Of a pipeline that another task drives, and that may outlive this call, the ends are given.
        self.input, self.output = ends or (CallInput(name="CallInput"), OutputStage(self, name="CallOutput"))
        self._outlet = self.output.outlet
        self.pipeline: Pipeline | None = None
        self._claims = claims
        self._route = route  # None: a task of the user's drives the pipeline that holds input and output
        self._lead_ms = serializer.lead_ms if lead_ms is None else lead_ms
        self._takes = _taken_by(type(self))
        self._in_rate = 8000
        self._caller_audio = CallerAudio(self.counters, self._on_audio, serializer.codec_setting)
        self.trail = Trail(self.now, now)
        self.exchange = Exchange(tell_answers(self.trail))
        self._mutes = False  # the bot is given silence in place of what the caller says
        watch = ExchangeWatch(self.exchange, self.trail, self.now)
        self.output.watch(watch)
        self.output.spoke = watch.spoke
        self._recording = CallRecordings()
        self._transcript: Transcript | None = None
        self._records = False  # from the beginning, by the configuration
        self.opened = now
        self._started = now
        self._deadline = now + self.limits.start_s  # of the state: start, drain, end
        self._last_heard = now  # when the carrier last sent anything
        self._silence_s = serializer.silence_s or self.limits.silence_s
        self.blocked_since: float | None = None  # the session waits for a peer that does not read
        self._timers = Timers()
        self._bad = 0
        self._on_error = "end"
        self._apology: Prompt | None = None
        self._transfer_to = ""
        self._held: list[Frame] | None = [] if route is not None else None  # until StartFrame has come through
        self._farewell: Frame | None = None  # the End or Stop frame that has come out of the pipeline
        self._quiet_until = 0.0  # a tick before has nothing to do where no audio and no message waits
        self._round_trip_s: float | None = None  # to the carrier and back, when it has told
        self._call: Call | None = None  # as the bot sees it
        self._left: Callable[[], None] | None = None  # the carrier waits for the bot's last messages: then this

    # ------------------------------------------------------------ what comes in

    def receive(self, data: Message, now: float) -> None:
        """Take one message from the carrier."""
        self._last_heard = now
        if self.over:
            return
        frames: Sequence[Frame] | None = None
        try:
            if self._incoming is not None:
                frames = self._incoming.read(data)
            if frames is None:
                frames = self.serializer.decode(data)
        except RemoteProtocolError as exc:
            self._bad_message(exc.problem, exc.excerpt)
            if isinstance(exc, UnusableStreamError):
                self._move(CallEvent.ERROR, "unusable-stream", now)
            return
        except Exception:
            log.exception("call.decode_failed", carrier=self.info.carrier, size=len(data))
            self._bad_message("the serializer failed", "")
            return
        self._take_frames(frames, now)

    def _take_frames(self, frames: Sequence[Frame], now: float) -> None:
        for frame in frames:
            if type(frame) is InputAudioRawFrame:
                self._caller_audio.take(frame, now)
            else:
                self._take_frame(frame, now)
        if self.outbox.waiting:
            self.shell.wake()

    def _take_frame(self, frame: Frame, now: float) -> None:
        handle = self._takes.get(type(frame))
        if handle is not None:
            handle(self, frame, now)
        else:
            self._push(frame)

    def disconnected(self, code: int, now: float) -> None:
        """The socket is gone."""
        self.counters.setdefault("close_code", code)
        if self.state in OVER:
            return
        before, usual = self.state, self.serializer.close_is_normal_end
        lost = before is CallState.OPENING or (not usual and code != 1000)
        self._move(CallEvent.SOCKET_CLOSED, "socket-lost" if lost else "caller", now)
        # Who says nothing before closing may still have the caller on the line, unless that is how the carrier ends.
        if not usual or code not in _CLOSED or before is CallState.OPENING:
            self._socket_lost(before)

    def _socket_lost(self, before: CallState) -> None:
        """Without the carrier's word. In ENDING the carrier has been told already."""
        if self.control is None or before is CallState.ENDING:
            return
        if self._transfer_to:
            self.control.transfer(self._transfer_to)
        else:
            self.control.lost()

    def tick(self, now: float) -> None:
        """Send what is due by `now`; look at the deadlines."""
        idle = now < self._quiet_until and not self.outbox.waiting and now < self._timers.next_at
        if idle and not self._recording.is_on and self._outlet.rests(now):
            return
        self._quiet_until = 0.0
        if now >= self._timers.next_at:
            self._timers.run(now, self._timer_failed)
        if self.outbox.is_rationed:
            self._use_allowance(now)
        state = self.state
        if state is _LIVE or state is _DRAINING or state is _PAUSED:
            if self._outlet.is_plain:
                self._outlet.tick(self.output, now)
            else:
                self.output.tick(now)
            if self._recording.is_on:
                self._recording.tick(now)
            if self._left is not None:  # the carrier has ended the call, and waits for our word
                if self._farewell is not None and not self.outbox.has_unsaid:
                    self._left()
            elif state is _DRAINING:
                if self._farewell is not None and self.outbox.all_said and self.output.all_heard(now):
                    self._move(CallEvent.PLAYED_OUT, self.reason, now)
                elif now >= self._deadline:
                    self.counters["drain_limit"] += 1
                    self._move(CallEvent.DRAIN_LIMIT, self.reason, now)
            elif now - self._last_heard > self._silence_s:
                self._move(CallEvent.SILENT, "carrier-silent", now)
            elif now - self._started > self.limits.longest_s:
                self._end(CallEvent.TOO_LONG, "longest-call", now)
            elif state is _LIVE and not self.outbox.is_rationed and self._outlet.is_plain:
                self._quiet_until = min(self._last_heard + self._silence_s, self._started + self.limits.longest_s)
        elif state is CallState.OPENING and now >= self._deadline:
            self._move(CallEvent.START_TIMEOUT, "no-start", now)
        elif state is CallState.ENDING and now >= self._deadline:
            self._move(CallEvent.END_LIMIT, self.reason, now)
        if self.outbox.waiting:
            if self.blocked_since is not None and now - self.blocked_since > self.limits.blocked_s:
                self.counters["peer_blocked"] += 1
                self.close_code = 1011
                before = self.state
                self._move(CallEvent.SOCKET_CLOSED, "peer-not-reading", now)
                self._socket_lost(before)
            self.shell.wake()

    # ------------------------------------------------------------ what a bot, a task or the process asks

    @property
    def sample_rate(self) -> int:
        """Hz of the pipeline's audio as the bot hears it."""
        return self._in_rate

    def inject(self, frame: Frame) -> None:
        """Push `frame` from the top of the pipeline, then send what is due."""
        if self.pipeline is not None and self.state not in OVER:
            self.pipeline.push(frame)
            self._after_push()

    def interrupt(self) -> None:
        """The caller has the floor."""
        self.counters["interrupted_by_bot"] += 1
        self.inject(InterruptionFrame())

    def end(self, reason: str = "completed") -> None:
        """End when what is queued was heard."""
        self._end(CallEvent.BOT_ENDED, reason, self.now())

    def can_transfer(self, target: str) -> bool:
        """Whether there is somebody to ask for it."""
        return self.control is not None and self.control.can_transfer(target)

    def transfer(self, target: str) -> None:
        """Hand the caller over to `target` when what is queued was heard; where that cannot be, the call ends."""
        if self.state not in (CallState.LIVE, CallState.PAUSED):
            return
        if not self.can_transfer(target):
            log.warning("call.transfer_unavailable", call=self.info.call_id, carrier=self.info.carrier)
            self.end("transfer-unavailable")
            return
        self._transfer_to = target
        self.end("transferred")

    def answered(self, frame: AnsweredByFrame) -> None:
        """The carrier, or the bot itself, tells who has taken up the phone. The first who knows is believed."""
        is_new = self.answered_by in ("", "unknown") and frame.who != self.answered_by
        if is_new:
            self.answered_by = frame.who
            log.info("call.answered_by", who=frame.who, detail=frame.detail, source=frame.source)
        greeting_over = frame.beep and frame.who == self.answered_by
        if frame.source == "carrier" and (is_new or greeting_over) and self.state not in OVER:
            self._push(frame)
            self._after_push()

    def pause(self) -> None:
        """The bot does not want to hear the caller for a while."""
        if self.serializer.holds:
            self._say_at_once(self.serializer.hold(True))
        elif self.state is CallState.LIVE:
            self._on_paused(CallPausedFrame(), self.now())

    def resume(self) -> None:
        """The bot wants to hear the caller again."""
        if self.serializer.holds:
            self._say_at_once(self.serializer.hold(False))
        elif self.state is CallState.PAUSED:
            self._on_resumed(CallResumedFrame(), self.now())

    def cancel(self, reason: str = "cancelled") -> None:
        """End at once."""
        if self.pipeline is not None and self.state not in OVER:
            self.pipeline.push(CancelFrame(reason))
        self._move(CallEvent.CANCELLED, reason, self.now())

    def mute(self, on: bool) -> None:
        """The bot hears silence in place of the caller; recordings and whoever listens in hear him all the same."""
        if on is not self.is_muted:
            self._mutes = on
            self.inject(UserMuteStartedFrame() if on else UserMuteStoppedFrame())

    @property
    def is_muted(self) -> bool:
        return self._mutes

    def listen(self, ear: Ear) -> None:
        """`ear` hears both sides from now on, until it is over."""
        self._recording.listen(ear)

    def carrier_ended(self, by: str = "caller") -> None:
        """The carrier reports, by another way than the socket, that the call is over."""
        self._move(CallEvent.CALLER_ENDED, by, self.now())

    def let_go(self) -> None:
        """The carrier has what it needs to go on without this socket."""
        if self.state is CallState.ENDING:
            self._move(CallEvent.END_LIMIT, self.reason, self.now())

    def renamed(self, call_id: str) -> None:
        """The carrier has told what it calls this call, which went by a name of ours."""
        if self._claims is not None:
            self._claims = replace(self._claims, call_id=call_id)
        self.info = replace(self.info, call_id=call_id)
        if self._call is not None:
            self._call.info = self.info

    def displaced(self) -> None:
        """A newer socket of the carrier has this call: this one closes, and nothing is asked of the carrier."""
        self.is_displaced = True
        self.control = None
        self.cancel("displaced")

    def hand_over(self) -> None:
        """The process is going to go down: another may take the call over, where its carrier can bring it there."""
        if self.state not in (CallState.LIVE, CallState.PAUSED) or self.counters["handed_over"]:
            return
        if messages := self.serializer.hand_over():
            self.counters["handed_over"] += 1  # the carrier ends it when another has it; else the drain's limit does
            self._say_at_once(messages)

    def shutdown(self) -> None:
        """The process goes down: say what is queued, then end."""
        if self.state is CallState.OPENING:
            self._move(CallEvent.SHUTDOWN, "shutdown", self.now())
        else:
            self._end(CallEvent.SHUTDOWN, "shutdown", self.now())

    def fail(self, problem: str, exception: BaseException | None = None) -> None:
        """The bot cannot go on: end the call in good order."""
        self.counters["errors"] += 1
        log.error("call.failed", call=self.info.call_id, bot=self.bot, problem=problem, exc_info=exception)
        if self.state is CallState.OPENING:
            self._move(CallEvent.ERROR, "error", self.now())
        elif self._on_error.startswith("transfer:") and self.state in (CallState.LIVE, CallState.PAUSED):
            self.transfer(self._on_error.removeprefix("transfer:"))
        else:
            self._apologise()
            self._end(CallEvent.ERROR, "error", self.now())

    def _apologise(self) -> None:
        """Straight to the output: whatever stands before it in the pipeline may be what has failed."""
        prompt = self._apology
        if prompt is None or self.state not in (CallState.LIVE, CallState.PAUSED) or not self.info.receives_audio:
            return
        try:
            if self.pipeline is None:
                pipeline = Pipeline([self.input, self.output])
                if pipeline.bind(self, on_source=self._on_source, on_sink=self._on_sink) is not DONE:
                    return
                self.pipeline = pipeline
                pipeline.push(StartFrame())
            length_s = say_it(prompt, self.output, self.send_rate)
        except Exception as exc:  # nothing of a failed bot's pipeline is to be relied on
            log.warning("call.no_apology", call=self.info.call_id, problem=repr(exc))
            return
        self.call_later(length_s + APOLOGY_GRACE_S, self._apologised)

    def _apologised(self) -> None:
        """The end of the call does not come through a pipeline that hangs."""
        if self.state is CallState.DRAINING and self._farewell is None:
            self.output.process_frame(EndFrame(self.reason), FrameDirection.DOWNSTREAM)

    def start_recording(self, tracks: Tracks = "both", folder: str = "", longest_s: float | None = None) -> Recording:
        """Record from now on. Raises GatewayError."""
        if self.recordings is None:
            raise GatewayError("this call cannot be recorded: the gateway that has it keeps no recordings")
        ledger = self.output.ledger
        if ledger is None or self.state in OVER or self.state is CallState.ENDING:
            raise GatewayError("there is nothing to record: the call has not begun, or is over")
        recording = self.recordings.begin(
            self.info, ledger, self.now(), tracks=tracks, folder=folder, longest_s=longest_s
        )
        self._recording.add(recording)
        return recording

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """`callback` at the first tick after `delay_s`; its exceptions end the call, not the process."""
        return self._timers.at(self.now() + delay_s, callback)

    def count(self, name: str, amount: int) -> None:
        """What a bot wants to have counted in the call's record."""
        self.counters[name] += amount

    def _timer_failed(self, exc: Exception) -> None:
        self.fail(f"a timer failed: {exc!r}", exc)

    # ------------------------------------------------------------ the runtime of the pipeline

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> Handle:
        return self.shell.spawn(coro, name)

    def drive(self, coro: Coroutine[Any, Any, Any], name: str) -> Handle | None:
        return self.shell.drive(coro, name)

    def settle(self, handles: Iterable[Handle]) -> Awaitable[None]:
        return self.shell.settle(handles)

    def end_task(self, handle: Handle, timeout_s: float | None) -> Awaitable[None]:
        return self.shell.end_task(handle, timeout_s)

    def attach_async(self, processor: FrameProcessor) -> Lanes:
        return self.shell.attach_async(processor)

    def interrupting(self, frame: InterruptionFrame) -> None:
        """An interruption was pushed somewhere: it takes effect here before it travels.

        Programs push one at the begin of each turn. Where the bot had nothing to say, it has interrupted nobody.
        """
        self.exchange.interruption(self.now())
        self.output.interrupt(frame)
        if frame.heard is not None:
            self.counters["interruptions"] += 1
            self.trail.interruption(frame)
        if not self.outbox.may_send_audio(self.now()):
            self.output.hold()

    @property
    def speech(self) -> OutputStage:
        """What the bot is saying, for whoever decides about the floor."""
        return self.output

    # ------------------------------------------------------------ the wire, as the output stage sees it

    @property
    def send_rate(self) -> int:
        return self.serializer.send_rate

    @property
    def packet_ms(self) -> int:
        return self.serializer.packet_ms

    @property
    def lead_ms(self) -> float:
        return self._lead_ms

    @property
    def cushion_ms(self) -> int:
        return self.serializer.cushion_ms

    @property
    def has_marks(self) -> bool:
        return self.serializer.has_marks

    @property
    def reports_playback(self) -> bool:
        return self.serializer.reports_playback

    @property
    def echoes_marks_on_clear(self) -> bool:
        return self.serializer.echoes_marks_on_clear

    @property
    def sends_digits(self) -> bool:
        return self.serializer.sends_digits

    @property
    def clears(self) -> bool:
        return self.serializer.clears

    @property
    def clear_grain_ms(self) -> int:
        return self.serializer.clear_grain_ms

    def send_audio(self, pcm: bytes) -> int:
        if not self.info.receives_audio:
            self.counters["audio_to_monitor"] += 1
            return 0
        outbox = self.outbox
        outbox.audio(pcm, self._outlet.rate)
        if self._recording.is_on:
            self._recording.sent(pcm)
        if outbox.is_rationed:
            return outbox.samples
        return self._outgoing.held_samples if self._outgoing is not None else self.serializer.held_samples

    def send(self, frame: Frame) -> None:
        if type(frame) is MarkFrame:
            self.trail.moment("mark", frame.name)
        self.outbox.send(frame, self.now())

    def _say_at_once(self, messages: Sequence[Message]) -> None:
        """Ahead of the bot's own messages, and whatever the allowance."""
        self.outbox.add(messages)
        if messages:
            self.shell.wake()

    def _use_allowance(self, now: float) -> None:
        """What had to wait, as far as it may leave by now."""
        self.outbox.use_allowance(now)
        if self.output.is_held and self.outbox.may_send_audio(now):
            width = 2 if self.info.send.encoding == "L16" else 1
            self.output.go_on(now, self.outbox.audio_bytes / (width * self.send_rate))

    def flush(self) -> int:
        padding = self.serializer.padding_samples
        self.outbox.add(self.serializer.flush(), media=True)
        return padding

    def clear(self, frame: InterruptionFrame) -> int:
        """Media that has not left yet never does; then the carrier's own clear, ahead of all later media."""
        unsent = self.outbox.drop_media() + self.serializer.held_samples
        self.outbox.cleared()
        self.trail.moment("clear")
        self.send(frame)
        self.shell.wake()
        return unsent

    def released(self, frame: Frame) -> None:
        """End, Stop or Cancel has come to its turn behind all audio."""
        self._farewell = frame
        if self._left is not None:
            return  # the carrier has ended the call: see `_has_left`
        if isinstance(frame, EndFrame) and self.state in (CallState.LIVE, CallState.PAUSED):
            self._move(CallEvent.BOT_ENDED, str(frame.reason or "completed"), self.now())
        elif isinstance(frame, CancelFrame):
            self._move(CallEvent.CANCELLED, str(frame.reason or "cancelled"), self.now())

    # ------------------------------------------------------------ the outbox, as the session sees it

    def take_some(self, most: int) -> Sequence[Any]:
        """The next messages for the socket, as many at once as may leave now."""
        outbox = self.outbox
        if not outbox.is_rationed:
            return outbox.take_some(most) if outbox.waiting else ()
        messages: list[Any] = []
        while len(messages) < most and (message := self.take()) is not None:
            messages.append(message)
        return messages

    def take(self) -> Any:
        """The next message for the socket; None: nothing may leave now."""
        outbox = self.outbox
        if not outbox.waiting:
            return None
        now = self.now()
        message = outbox.take(now)
        if outbox.is_rationed and type(message) is bytes:
            self.output.left(outbox.samples, now)
        return message

    def record(self, now: float) -> CallRecord:
        """What is known of this call."""
        ledger = self.output.ledger
        counters = dict(self.counters) | self.exchange.counters(now)
        if ledger is not None:
            rate = max(1, ledger.sample_rate)
            counters["generated_ms"] = ledger.generated * 1000 // rate
            counters["sent_ms"] = ledger.sent * 1000 // rate
            counters["heard_ms"] = ledger.heard(now) * 1000 // rate
        if self.output.paced is not None:
            counters["underruns"] = self.output.paced.underruns
        variables = dict(self.variables.outgoing)
        if kept := self._recording.kept:
            counters["recorded_ms"] = round(sum(recording.seconds for recording in kept) * 1000)
            variables["recording"] = ", ".join(recording.path.name for recording in kept)
        return CallRecord(
            info=self.info,
            bot=self.bot,
            state=self.state.value,
            ended_by=self.ended_by,
            reason=self.reason,
            duration_s=round(now - self.opened, 3),
            counters=counters,
            answered_by=self.answered_by,
            answers=tuple(self.exchange.answers),
            transcript=self._transcript.lines if self._transcript is not None else (),
            variables=variables,
        )

    def leave(self) -> None:
        """Nobody will ask for anything any more: what holds one another lets go, so that nothing is left to collect."""
        if isinstance(self.serializer, BaseObject) and self.serializer._base.drives is self:
            self.serializer._base.drives = None
        self._caller_audio.leave()
        self.output.leave(self)
        if self.pipeline is None and self._route is not None:  # no bot was built: these two have joined nothing
            self.input._leave_flow()
            self.output._leave_flow()
        self._call = self._route = self._left = None

    # ------------------------------------------------------------ frames off the wire

    def _on_audio(self, frame: InputAudioRawFrame, now: float) -> None:
        state = self.state
        if state is _LIVE or state is _DRAINING:
            if self._recording.is_on:
                self._recording.caller(frame, now)
            if self._mutes:
                frame.audio = bytes(len(frame.audio))
            if self._held is None:
                push_audio(self.input, frame)
            else:
                self._push(frame)

    def _on_digit(self, frame: InputDTMFFrame, now: float) -> None:
        self.counters["digits"] += 1
        self.trail.digit(frame.button.value)
        self._push(frame)

    def _on_answer(self, frame: OutputTransportMessageUrgentFrame, now: float) -> None:
        """The protocol's own answer: never through the pipeline, which a bot may block."""
        self.outbox.add(self.serializer.encode(frame))

    def _on_answer_later(self, frame: AnswerLaterFrame, now: float) -> None:
        """An application's handlers, or the bot's last words, hold the answer up, but not for long."""
        late = _LateAnswer(self, frame)
        if late.awaits_handlers:
            self.spawn(late.after_handlers(), "answer-later")
        if frame.after_bot and self._has_left(late.after_bot):
            late.awaits_bot = False
        late.give_unless_awaited()
        if not late.is_given:
            self.call_later(frame.limit_s, late.give)

    def answer_late(self, frame: AnswerLaterFrame) -> None:
        """What `frame` waited for has come, or its time is up."""
        self._left = None
        self._take_frames(frame.make(), self.now())

    def _has_left(self, left: Callable[[], None]) -> bool:
        """End the bot of a call that the carrier has ended; True if it has nothing more to say, else `left` says so.

        Nothing that is queued can be heard any more; messages can still be sent.
        """
        if self.pipeline is None or self._held is not None:
            return True
        if self.state not in (CallState.LIVE, CallState.PAUSED, CallState.DRAINING):
            return True
        self._left, self._quiet_until = left, 0.0
        self.output.interrupt(InterruptionFrame())
        if self.state is not CallState.DRAINING:
            self.pipeline.push(EndFrame("caller"))
        self.output.release(self.now())
        if self._farewell is None or self.outbox.has_unsaid:
            return False
        self._left = None
        return True

    def _on_started(self, frame: CallStartedFrame, now: float) -> None:
        if self.state is not CallState.OPENING:
            self._bad_message("a second start", "")
            return
        self.info = frame.call.completed_by(self._claims) if self._claims is not None else frame.call
        self.variables = Variables(self.info.parameters)
        self._started = now
        self.exchange.begin(now)
        self._caller_audio.begin(self.info)
        self._move(CallEvent.STARTED, "", now)
        structlog.contextvars.bind_contextvars(call=self.info.call_id, carrier=self.info.carrier)
        if self.info.probe:
            return
        if self._route is not None:
            route = self._route(self.info)
            if route is None:
                log.warning("call.no_bot", carrier=self.info.carrier, to_digits=len(self.info.to_number))
                self._end(CallEvent.ERROR, "no-bot", self.now())
                return
            self.bot, self._on_error = route.bot, route.on_error
            self._records, self._apology = route.record, route.apology
            self.variables.expect(route.output_variables)
            self._start_when_answered(route)
        log.info("call.started", bot=self.bot, receive=_format(self.info.receive), send=_format(self.info.send))

    def _start_when_answered(self, route: BotRoute) -> None:
        """The carrier's answer leaves before anything of the bot's runs, however long that may take."""
        if self.outbox:
            self.shell.wake()
            self.call_later(0.001, lambda: self._start_when_answered(route))
        elif self.state in (CallState.LIVE, CallState.PAUSED):
            self._start_pipeline(route)

    def _start_pipeline(self, route: BotRoute) -> None:
        self._in_rate = route.sample_rate or self.info.receive.sample_rate
        self.serializer.begin(self._in_rate)
        set_variables = getattr(self.serializer, "set_output_variables", None)
        if set_variables is not None:
            set_variables(self.variables.outgoing)  # the mapping itself: read when the goodbye leaves
        out_rate = route.sample_rate or self.serializer.send_rate
        self._call = Call(self.info, self.variables, self)
        began = self.now()
        try:
            build = with_rtvi(route.build) if self.serializer.speaks_rtvi else route.build
            middle = list(build(self._call))
            place = next((at for at, each in enumerate(middle) if isinstance(each, Output)), len(middle))
            pipeline = Pipeline([self.input, *middle[:place], self.output, *middle[place + 1 :]])
            set_up = pipeline.bind(self, on_source=self._on_source, on_sink=self._on_sink)
        except Exception as exc:
            self.fail(f"the bot could not be built: {exc!r}", exc)
            return
        if (took := self.now() - began) > SLOW_BUILD_S:
            log.warning("call.slow_build", bot=route.bot, took_s=round(took, 3), remedy="do it in `prepare`")
        self.pipeline = pipeline
        if route.transcript:
            self._transcript = Transcript(self.now, self.opened)
            self.input._flow.add_tap(self._transcript.tap)
        start = StartFrame(audio_in_sample_rate=self._in_rate, audio_out_sample_rate=out_rate)
        self.call_later(self.limits.bot_start_s, self._check_started)
        if set_up is DONE:
            pipeline.push(start)
            self._after_push()
        else:
            self.spawn(self._start_after(set_up, start), "pipeline-setup")

    def _check_started(self) -> None:
        if self._held is not None:
            self.fail("the bot's pipeline did not start: StartFrame has not come through it")

    async def _start_after(self, set_up: Awaitable[None], start: StartFrame) -> None:
        await set_up
        self.inject(start)

    def _on_sink(self, frame: Frame) -> None:
        """What has come through the whole pipeline."""
        if isinstance(frame, StartFrame):
            if self._records and not self._recording.all:
                self._record_all()
            self.counters["bot_start_ms"] = round((self.now() - self._started) * 1000)
            self.call_later(0.0, self._give_held)
        elif isinstance(frame, TaskFrame | TaskSystemFrame) and self.pipeline is not None:
            self.pipeline.push(frame, FrameDirection.UPSTREAM)  # pushed the wrong way: it is meant for the top

    def _give_held(self) -> None:
        """What the caller has said meanwhile. By now each processor is ready, which may pass StartFrame on first."""
        held, self._held = self._held or (), None
        for early in held:
            self.input.push_frame(early)

    def _record_all(self) -> None:
        try:
            self.start_recording()
        except GatewayError as exc:
            log.error("call.not_recorded", call=self.info.call_id, problem=str(exc))

    def _on_source(self, frame: Frame) -> None:
        """What has come up to the top of the pipeline: requests and errors."""
        if isinstance(frame, ErrorFrame):
            self.counters["errors"] += 1
            self.trail.moment("error", f"{frame.processor}")
            if frame.fatal:
                self.fail(f"{frame.processor}: {frame.error}", frame.exception)
        elif isinstance(frame, EndTaskFrame):
            self._end(CallEvent.BOT_ENDED, str(frame.reason or "completed"), self.now())
        elif isinstance(frame, StopTaskFrame):
            self._end(CallEvent.BOT_ENDED, "stopped", self.now())
        elif isinstance(frame, CancelTaskFrame):
            self.cancel(str(frame.reason or "cancelled"))
        elif isinstance(frame, InterruptionTaskFrame):
            self.inject(InterruptionFrame())
        elif isinstance(frame, AnsweredByFrame):
            self.answered(frame)

    def _on_ended(self, frame: CallEndedFrame, now: float) -> None:
        before = self.state
        self._move(CallEvent.CALLER_ENDED, frame.reason, now)
        if self.control is not None and before is not CallState.ENDING and before not in OVER:
            self.control.stream_over()

    def _on_played(self, frame: PlayedFrame, now: float) -> None:
        self.trail.moment("played", frame.name)
        self.output.on_wire(frame, now)

    def _on_playback(self, frame: PlaybackStartedFrame | PlaybackCompletedFrame, now: float) -> None:
        self.output.on_wire(frame, now)

    def _on_cleared(self, frame: PlaybackClearedFrame, now: float) -> None:
        self.counters["cleared"] += 1

    def _on_paused(self, frame: CallPausedFrame, now: float) -> None:
        self._move(CallEvent.PAUSED, "", now)
        self._push(frame)

    def _on_resumed(self, frame: CallResumedFrame, now: float) -> None:
        self._move(CallEvent.RESUMED, "", now)
        self._push(frame)

    def _on_updated(self, frame: CallUpdatedFrame, now: float) -> None:
        if frame.language:
            self.info = replace(self.info, language=frame.language)
            if self._call is not None:
                self._call.info = self.info
        self._push(frame)

    def _on_discarded(self, frame: AudioDiscardedFrame, now: float) -> None:
        self.counters["discarded_ms"] += round(frame.duration_s * 1000)
        self._push(frame)

    def _on_carrier_error(self, frame: CarrierErrorFrame, now: float) -> None:
        self.counters["carrier_errors"] += 1
        log.warning("call.carrier_error", call=self.info.call_id, code=frame.code, retry_after_s=frame.retry_after_s)
        if self.outbox.is_rationed and frame.code == "429":
            self.counters["rate_limited"] += 1
            self.outbox.refused(frame.retry_after_s, now, self._round_trip_s)
            self.output.left(self.outbox.samples, now)
            self.output.hold()

    def _on_round_trip(self, frame: RoundTripFrame, now: float) -> None:
        self._round_trip_s = frame.seconds
        if self.output.ledger is not None:
            self.output.ledger.latency_s = frame.seconds / 2

    def _on_broken(self, frame: CallBrokenFrame, now: float) -> None:
        self.counters["protocol_errors"] += 1
        log.error("call.protocol_error", carrier=self.info.carrier, problem=frame.problem)
        if self.state not in (CallState.OPENING, CallState.ENDING):
            self.cancel("protocol")

    def _bad_message(self, problem: str, excerpt: str) -> None:
        """Count every bad message; log the first and then each power of two."""
        self._bad += 1
        self.counters["bad_messages"] = self._bad
        if self._bad & (self._bad - 1) == 0:
            log.warning(
                "call.bad_message", carrier=self.info.carrier, problem=problem, excerpt=excerpt, count=self._bad
            )

    def _push(self, frame: Frame) -> None:
        """A frame off the wire into the pipeline; nothing escapes."""
        if self._held is not None:
            # The bot is still being set up: what the caller says meanwhile is kept for it.
            if len(self._held) < MAX_HELD:
                self._held.append(frame)
            else:
                self.counters["early_dropped"] += 1
            return
        self.input.push_frame(frame)

    def _after_push(self) -> None:
        self.output.release(self.now())
        if self.outbox.waiting:
            self.shell.wake()

    # ------------------------------------------------------------ states

    def _end(self, event: CallEvent, reason: str, now: float) -> None:
        """Begin to end in good order: EndFrame goes through the pipeline, behind all that is queued."""
        if self.state not in (CallState.LIVE, CallState.PAUSED) or self._left is not None:
            return
        self._move(event, reason, now)
        if self.pipeline is not None:
            self.pipeline.push(EndFrame(reason))
            self._after_push()
        elif self._route is not None or self.info.probe:
            self._farewell = EndFrame(reason)

    def _move(self, event: CallEvent, reason: str, now: float) -> None:
        target = TRANSITIONS.get((self.state, event))
        if target is None:
            return
        before, self.state, self.over = self.state, target, target in OVER
        self._quiet_until = 0.0
        self.trail.moment("state", target.value)
        if reason and not self.reason:
            self.reason = reason
            self.ended_by = who_ended(event, reason)
        log.debug("call.state", before=before.value, event_name=event.name, state=target.value)
        if target is CallState.DRAINING:
            ledger = self.output.ledger
            left = (ledger.heard_by() - now) if ledger is not None else 0.0
            paced = self.output.paced
            if paced is not None and ledger is not None:
                left = max(left, 0.0) + paced.buffered / ledger.sample_rate
            self._deadline = now + left + self.limits.drain_s
        elif target is CallState.ENDING:
            self._tell_carrier(now)
        elif target in OVER:
            self._over(event, now)
        self.shell.wake()

    def _tell_carrier(self, now: float) -> None:
        """The carrier's way of ending a call."""
        self._deadline = now + self.serializer.end_wait_s
        farewell = self._farewell if isinstance(self._farewell, EndFrame | CancelFrame) else EndFrame(self.reason)
        if self.reason != "error" and (missing := self.variables.missing):
            self.counters["variables_missing"] = len(missing)
            log.error("call.variables_missing", call=self.info.call_id, bot=self.bot, names=missing)
            farewell = EndFrame(f"incomplete:{', '.join(missing)}")  # rather a failure than half an answer
        try:
            self.send(farewell)
        except GatewayError as exc:
            log.error("call.goodbye_failed", call=self.info.call_id, problem=str(exc))
        if self.serializer.ending is Ending.MESSAGE:
            return
        wait_s = None
        if self.control is not None:
            if self._transfer_to:
                wait_s = self.control.transfer(self._transfer_to)
            else:
                wait_s = self.control.hang_up(self.reason)
        if wait_s is None:
            self.close_at = now  # the socket's rule: closing it hands the call back
        else:
            self._deadline = now + wait_s

    def _over(self, event: CallEvent, now: float) -> None:
        if self.state is CallState.FAILED:
            self.close_code = 1008
            if self.control is not None and event not in (CallEvent.CALLER_ENDED, CallEvent.SOCKET_CLOSED):
                self.control.hang_up(self.reason)  # the carrier may have answered for us
        # A carrier that has said goodbye closes the socket itself; it gets the time for that.
        self.close_at = now + (self.serializer.end_wait_s if event is CallEvent.CALLER_ENDED else 0.0)
        if self.pipeline is not None:
            # Whatever still runs for this call stops now; nothing can be heard any more.
            self.pipeline.push(CancelFrame(self.reason))
        self._timers.clear()
        self._recording.stop()

    @property
    def never_started(self) -> bool:
        """The carrier has not said what call this was."""
        return self.state is CallState.FAILED and self._started == self.opened


class _LateAnswer:
    """The protocol's own answer, until nobody holds it up any more."""

    def __init__(self, core: CallCore, frame: AnswerLaterFrame) -> None:
        self._core, self._frame = core, frame
        self.awaits_handlers = frame.waiting is not DONE
        self.awaits_bot = frame.after_bot
        self.is_given = False

    async def after_handlers(self) -> None:
        try:
            await self._frame.waiting
        finally:
            self.awaits_handlers = False
            self.give_unless_awaited()

    def after_bot(self) -> None:
        self.awaits_bot = False
        self.give_unless_awaited()

    def give_unless_awaited(self) -> None:
        if not self.awaits_handlers and not self.awaits_bot:
            self.give()

    def give(self) -> None:
        if not self.is_given:
            self.is_given = True
            self._core.answer_late(self._frame)


def _format(media: Any) -> str:
    return f"{media.encoding}/{media.sample_rate}/{media.channels}"


_TAKEN: dict[type[CallCore], Mapping[type, Callable[[Any, Any, float], None]]] = {}


def _taken_by(core: type[CallCore]) -> Mapping[type, Callable[[Any, Any, float], None]]:
    found = _TAKEN.get(core)
    if found is None:
        found = _TAKEN[core] = {cls: getattr(core, name) for cls, name in core.takes.items()}
    return found
