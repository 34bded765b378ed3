"""Where the bot's audio leaves: cut into packets, sent on the wire's schedule, and counted.

What the output stage does for every packet, apart from what it does with frames, so that it can be compiled: no
processor can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from media.errors import LocalProtocolError
from media.frames import Frame
from media.ledger import PlayoutLedger
from media.pacing import PacedBuffer, Pcm
from media.wire import Stage, Tap, Wire

SPEAKING_PERIOD_S: Final = 0.2  # BotSpeakingFrame is repeated at least this often
LIVE_MS: Final = 60  # what comes in longer pieces was not made as it came, unless the wire's packets are longer
SPEECH_END_S: Final = 3.0  # without TTSStoppedFrame the bot counts as silent after this long with nothing to send
ANEW_S: Final = 0.2  # no audio for so long: what comes then is another stream
NOBODY_SPEAKS: Final = float("inf")


class Outlet:
    """Of one output stage, which is named in each call: neither holds the other for longer than it lives."""

    def __init__(self, wire: Wire) -> None:
        self.wire: Wire = wire
        self.paced: PacedBuffer | None = None  # made when it is tuned: the wire's rate is known then
        self.ledger: PlayoutLedger | None = None
        self.rate = 0  # the wire's, in Hz
        self.is_plain = True  # a packet may leave as it is pushed
        self.hears = True  # else there is nobody, and audio is dropped
        self.epoch = 0  # one more for each interruption, and each hold
        self.in_speech = False  # between the boundaries, as audio arrives
        self.is_waiting = False  # the floor is not the bot's now, but may be again
        self.ended = False  # EndFrame is queued or gone: what comes behind it is not heard
        self.unproven = False  # sent, and the carrier has not said since that it was played
        self.unflushed = False  # audio was pushed since the last flush
        self.last_push = 0.0
        self.next_speaking = NOBODY_SPEAKS  # when `still_speaks` is due
        self.cushion = b""  # silence, s16le
        self.mix: Callable[[bytes], bytes] | None = None  # what is added to each packet as it leaves
        self.taps: tuple[Tap, ...] = ()
        self._flush_after_s = 0.1
        self._longest_live = 0  # bytes
        self._releasing = False

    def tune(self, keep_ms: float) -> None:
        """Begin anew, at the wire's rate as it is known now.

        Args:
            keep_ms: how much of what has left can be brought back.
        """
        wire = self.wire
        rate = self.rate = wire.send_rate
        packet_ms, lead_ms = wire.packet_ms, wire.lead_ms
        self.paced = PacedBuffer(rate, packet_ms, lead_ms, keep_ms=keep_ms)
        self.ledger = PlayoutLedger(
            rate, echoes_marks_on_clear=wire.echoes_marks_on_clear, clear_grain_ms=wire.clear_grain_ms
        )
        self.cushion = bytes(2 * (wire.cushion_ms * rate // 1000)) if wire.cushion_ms < lead_ms else b""
        self._longest_live = 2 * (max(LIVE_MS, packet_ms) * rate // 1000)
        self._flush_after_s = max(0.1, packet_ms * 0.0015)
        self.in_speech = self.unflushed = self.ended = self.is_waiting = False
        for tap in self.taps:
            tap.tuned(self.ledger)

    # ------------------------------------------------------------ in

    def take(self, stage: Stage, frame: Any) -> None:
        """A frame of the bot's audio."""
        if frame.sample_rate != self.rate or frame.num_channels != 1:
            self.push(stage, stage.to_wire(frame))
        else:
            self.push(stage, frame.audio)

    def push(self, stage: Stage, pcm: Pcm) -> None:
        """Audio at the wire's rate, mono s16le, of any length; after `tune`."""
        if self.ended or not self.hears:
            return  # the last word has been said, or nobody is there
        paced, ledger = self.paced, self.ledger
        if paced is None or ledger is None:
            raise LocalProtocolError("audio before StartFrame")
        now = self.wire.now()
        if now - self.last_push > ANEW_S and self.cushion and not self.in_speech:
            self._lay_cushion(paced, ledger, len(pcm), now)
        ledger.generated += len(pcm) >> 1
        self.unflushed = True
        self.last_push = now
        if self.is_plain and not self._releasing and paced.passes(pcm, now):
            assert isinstance(pcm, bytes)
            self._send_packet(stage, ledger, pcm, now)
        else:
            paced.push(pcm)
            self._release(stage, now)

    def _lay_cushion(self, paced: PacedBuffer, ledger: PlayoutLedger, size: int, now: float) -> None:
        """Audio that comes as it is made has no lead: silence ahead of it, or its first late packet is a gap."""
        if 0 < size <= self._longest_live and paced.is_dry(now) and not self.is_waiting:
            ledger.generated += len(self.cushion) >> 1
            paced.begin(self.cushion)

    # ------------------------------------------------------------ out

    def rests(self, now: float) -> bool:
        """Nothing waits and nobody speaks. Then this is the tick's whole work: pacing notices a stalled loop."""
        paced = self.paced
        if paced is None or paced.queue or self.next_speaking != NOBODY_SPEAKS:
            return False
        paced.take(now)
        return True

    def tick(self, stage: Stage, now: float) -> None:
        """Called every 20 ms or so."""
        paced = self.paced
        if paced is None:
            return
        waiting = bool(paced.queue)
        if waiting and self.unflushed and now - self.last_push > self._flush_after_s and not self.in_speech:
            stage.flush()  # a sound without TTSStoppedFrame has ended: its last packet must leave
        self._release(stage, now)  # also where nothing waits: that is how pacing notices a stalled loop
        if not waiting and self.next_speaking != NOBODY_SPEAKS and now - self.last_push > SPEECH_END_S:
            stage.nothing_more()

    def _release(self, stage: Stage, now: float) -> None:
        if self.is_plain:
            self.release(stage, now)
        else:
            stage.release(now)

    def release(self, stage: Stage, now: float) -> None:
        """Send what is due by `now`."""
        paced = self.paced
        if paced is None or self._releasing:  # a frame pushed below may come back here; the outer loop goes on
            return
        self._releasing = True
        try:
            while items := paced.take(now):
                self._send(stage, items, now)
                if not paced.queue:
                    break
        finally:
            self._releasing = False

    def _send(self, stage: Stage, items: Sequence[Any], now: float) -> None:
        ledger, epoch = self.ledger, self.epoch
        assert ledger is not None
        for position, item in enumerate(items):
            if type(item) is bytes:
                self._send_packet(stage, ledger, item, now)
            else:
                stage.act(item, now)
            if self.epoch != epoch:  # interrupted from below: what was taken with it is dropped too
                for late in items[position + 1 :]:
                    if isinstance(late, Frame) and late.is_uninterruptible:
                        stage.act(late, now)
                return

    def _send_packet(self, stage: Stage, ledger: PlayoutLedger, pcm: bytes, now: float) -> None:
        self.unproven = True
        size = len(pcm) >> 1
        if self.mix is not None:
            pcm = self.mix(pcm)
        ledger.send(size, now, self.wire.send_audio(pcm))
        if self.taps:
            for tap in self.taps:
                tap.sent(pcm)
        if now >= self.next_speaking:
            self.next_speaking = now + SPEAKING_PERIOD_S
            stage.still_speaks()
