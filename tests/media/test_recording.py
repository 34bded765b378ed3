"""A call's tape: what was said and heard, each where it was, by a ledger on virtual time."""

from __future__ import annotations

import numpy as np

from media.ledger import PlayoutLedger
from media.recording import CallTape, Tracks

RATE = 8000
PACKET = 160


def packet(value: int, samples: int = PACKET) -> bytes:
    return np.full(samples, value, "<i2").tobytes()


class Rig:
    """A tape whose call begins at 100 s; the way to the carrier takes 20 ms."""

    def __init__(self, tracks: Tracks = "both") -> None:
        self.now = 100.0
        self.ledger = PlayoutLedger(RATE)
        self.pieces: list[bytes] = []
        self.tape = CallTape(self.ledger, self.pieces.append, self.now, tracks)

    def step(self, *, said: int | None = None, sent: int | None = None) -> None:
        """20 ms pass; at their end what the caller said in them comes, and a packet leaves."""
        self.now = round(self.now + 0.02, 6)
        if said is not None:
            self.tape.caller(packet(said), RATE, 1, self.now)
        if sent is not None:
            self.ledger.send(PACKET, self.now)
            self.tape.sent(packet(sent))
        self.tape.tick(self.now)

    def tracks(self) -> tuple[np.ndarray, np.ndarray]:
        self.tape.finish(self.now)
        both = np.frombuffer(b"".join(self.pieces), "<i2").reshape(-1, 2)
        return both[:, 0], both[:, 1]


def test_each_side_where_it_was_and_silence_kept() -> None:
    rig = Rig()
    for number in range(100):
        rig.step(said=5 if 10 <= number < 20 else 0, sent=7 if 40 <= number < 60 else None)
    caller, bot = rig.tracks()
    assert len(caller) == len(bot) == 2 * RATE
    # Said between 0.2 s and 0.4 s by the time at which it came, less the way here.
    assert np.flatnonzero(caller)[[0, -1]].tolist() == [int(0.18 * RATE), int(0.38 * RATE) - 1]
    # The first packet left at 0.82 s; the carrier has it a way later.
    assert np.flatnonzero(bot)[[0, -1]].tolist() == [int(0.84 * RATE), int(1.24 * RATE) - 1]
    assert np.count_nonzero(bot) == 20 * PACKET


def test_what_the_carrier_dropped_was_never_heard() -> None:
    rig = Rig()
    rig.step()
    for _ in range(10):  # 200 ms at once
        rig.ledger.send(PACKET, rig.now)
        rig.tape.sent(packet(7))
    for _ in range(4):
        rig.step()
    heard = rig.ledger.cleared(rig.now)
    assert 0 < heard < 10 * PACKET
    for _ in range(5):
        rig.step()
    for _ in range(3):
        rig.step(sent=9)
    for _ in range(20):
        rig.step()
    _, bot = rig.tracks()
    assert np.count_nonzero(bot == 7) == heard
    assert np.count_nonzero(bot == 9) == 3 * PACKET


def test_packets_that_come_late_and_in_a_heap_leave_no_hole() -> None:
    rig = Rig()
    rig.step()
    for _ in range(10):
        rig.step(said=5)
    for _ in range(8):  # 160 ms without a packet
        rig.step()
    for _ in range(8):
        rig.tape.caller(packet(5), RATE, 1, rig.now)
    for _ in range(10):
        rig.step(said=5)
    caller, _ = rig.tracks()
    said = np.flatnonzero(caller)
    assert said[-1] - said[0] + 1 == len(said) == 28 * PACKET


def test_what_lies_behind_a_late_first_packet_is_drawn_up() -> None:
    rig = Rig()
    for _ in range(7):  # the caller has been speaking since 0.04 s, but this process was not awake
        rig.step()
    for value in range(1, 6):
        rig.tape.caller(packet(value), RATE, 1, rig.now)
    for value in range(6, 30):
        rig.step(said=value)
    caller, _ = rig.tracks()
    said = np.flatnonzero(caller)
    assert said[-1] - said[0] + 1 == len(said) == 29 * PACKET
    assert abs(said[0] - (0.14 - 0.02 - 5 * 0.02) * RATE) < 2, "as early as the last of the heap says"


def test_a_caller_of_whom_nothing_comes_is_silent_for_so_long() -> None:
    rig = Rig()
    rig.step(said=5)
    for _ in range(99):
        rig.step()
    rig.step(said=6)
    caller, _ = rig.tracks()
    assert int(np.flatnonzero(caller == 6)[0]) == int((2.0 - 0.02) * RATE)


def test_a_pause_is_silence_and_takes_its_time() -> None:
    rig = Rig()
    for number in range(60):
        rig.tape.is_paused = 20 <= number < 40
        rig.step(said=5, sent=7)
    for _ in range(10):
        rig.step()
    caller, bot = rig.tracks()
    assert len(caller) == int(1.4 * RATE)
    assert not caller[int(0.42 * RATE) : int(0.75 * RATE)].any()
    assert caller[int(0.9 * RATE)] == 5
    assert not bot[int(0.5 * RATE) : int(0.75 * RATE)].any()
    assert bot[int(0.95 * RATE)] == 7


def test_no_more_than_a_second_is_ever_held_back() -> None:
    rig = Rig()
    for number in range(500):
        rig.step(said=5, sent=7)
        written = sum(map(len, rig.pieces)) / (4 * RATE)
        assert (number + 1) * 0.02 - written < 0.75


def test_one_side_alone_and_another_rate() -> None:
    rig = Rig("caller")
    tone = (8000 * np.sin(np.arange(320 * 50) * 2 * np.pi * 440 / 16000)).astype("<i2")
    for number in range(50):
        rig.now = round(rig.now + 0.02, 6)
        rig.tape.caller(tone[320 * number : 320 * (number + 1)].tobytes(), 16000, 1, rig.now)
        rig.ledger.send(PACKET, rig.now)
        rig.tape.sent(packet(7))
        rig.tape.tick(rig.now)
    rig.tape.finish(rig.now)
    heard = np.frombuffer(b"".join(rig.pieces), "<i2")
    assert rig.tape.channels == 1
    assert len(heard) == RATE
    middle = heard[2000:6000].astype(float)
    assert abs(np.sqrt((middle**2).mean()) - 8000 / np.sqrt(2)) < 200
    assert np.argmax(np.abs(np.fft.rfft(middle))) == round(440 * len(middle) / RATE)


def test_what_is_on_its_way_when_it_begins_shifts_nothing() -> None:
    ledger, pieces = PlayoutLedger(RATE), list[bytes]()
    for _ in range(10):
        ledger.send(PACKET, 100.0)
    tape = CallTape(ledger, pieces.append, 100.1, "bot")
    for number in range(5):
        ledger.send(PACKET, 100.1 + number * 0.02)
        tape.sent(packet(7))
    for number in range(30):
        tape.tick(100.1 + number * 0.02)
    tape.finish(100.7)
    bot = np.frombuffer(b"".join(pieces), "<i2")
    assert np.flatnonzero(bot)[[0, -1]].tolist() == [int(0.12 * RATE), int(0.22 * RATE) - 1]
