"""The carrier's buffer, on a made-up clock: 8 kHz, so one millisecond is eight samples."""

from __future__ import annotations

import random

import pytest

from gateway.simulator.playout import SAME_REPLY_S, ClearRule, Playout, PlayoutEvent, PlayoutOverflow

T0 = 1000.0


def pcm(ms: float, value: int = 1000) -> bytes:
    return value.to_bytes(2, "little", signed=True) * round(8 * ms)


def playout(**options: object) -> Playout:
    made = Playout(8000, **options)  # type: ignore[arg-type]
    made.start(T0)
    return made


def at(ms: float) -> float:
    return T0 + ms / 1000


def said(events: object) -> list[tuple[float, str, str]]:
    return [(round((event.at - T0) * 1000, 3), event.what, event.name) for event in events]  # type: ignore[attr-defined]


def test_silence_is_heard_where_nothing_was_sent() -> None:
    p = playout()
    p.append(pcm(20), at(100))
    p.advance(at(150))
    assert p.heard == bytes(2 * 800) + pcm(20) + bytes(2 * 240)


def test_pieces_follow_one_another_whenever_they_arrive() -> None:
    p = playout()
    for index in range(5):
        p.append(pcm(20, index + 1), at(index * 7))
    p.advance(at(100))
    assert p.heard == b"".join(pcm(20, index + 1) for index in range(5))
    assert not p.gaps
    assert p.most_buffered_s == pytest.approx(0.072)


def test_the_order_of_calls_to_advance_changes_nothing() -> None:
    chance = random.Random(3)
    results = []
    for _ in range(3):
        p = playout()
        events: list[PlayoutEvent] = []
        for index in range(40):
            now = index * 17.3
            for _ in range(chance.randrange(4)):
                now += chance.random()
                events += p.advance(at(now))
            p.append(pcm(15, index + 1), at(index * 17.3 + 5))
            p.mark(f"m{index}", at(index * 17.3 + 5))
        events += p.advance(at(2000))
        results.append((p.heard, said(events), p.gaps))
    assert results[0] == results[1] == results[2]


def test_a_mark_is_reached_when_what_stood_before_it_was_played() -> None:
    p = playout()
    p.append(pcm(20), at(0))
    p.mark("a", at(0))
    p.append(pcm(30), at(1))
    p.mark("b", at(1))
    assert p.next_event_at() == at(0)  # "started" waits to be told
    assert said(p.advance(at(19))) == [(0, "started", "")]
    assert p.next_event_at() == at(20)
    assert said(p.advance(at(20))) == [(20, "mark", "a")]
    assert said(p.advance(at(90))) == [(50, "mark", "b"), (50, "idle", "")]
    assert p.next_event_at() is None


def test_a_mark_in_an_idle_buffer_is_reached_at_once() -> None:
    p = playout()
    p.mark("now", at(33))
    assert said(p.advance(at(33))) == [(33, "mark", "now")]


def test_a_late_packet_is_a_gap() -> None:
    p = playout()
    p.append(pcm(20), at(0))
    p.append(pcm(20), at(50))
    [gap] = p.gaps
    assert (gap.at, gap.duration_s) == (at(20), pytest.approx(0.030))
    assert p.utterances == 1
    assert p.audible_gaps() == [gap]


def test_a_pause_that_became_longer_is_no_gap() -> None:
    """Some bots send nothing in the pauses of an unbroken stream, and go on with the next sound."""
    p = playout()
    p.append(pcm(100) + pcm(200, 150), at(0))
    p.append(pcm(20), at(350))
    assert not p.gaps
    assert p.utterances == 2
    p.append(pcm(100) + pcm(90, 150), at(370))
    p.append(pcm(20), at(600))
    assert len(p.gaps) == 1


def test_a_mark_closes_a_reply() -> None:
    p = playout()
    p.append(pcm(100), at(0))
    p.mark("end", at(10))
    p.append(pcm(100), at(150))
    assert not p.gaps
    assert p.utterances == 2
    p.mark("middle", at(200))
    p.append(pcm(100), at(210))
    p.append(pcm(100), at(400))
    assert len(p.gaps) == 1


def test_a_gap_nobody_hears_is_summed_but_not_counted() -> None:
    p = playout()
    p.append(pcm(20), at(0))
    p.append(pcm(20), at(22))
    assert sum(gap.duration_s for gap in p.gaps) == pytest.approx(0.002)
    assert not p.audible_gaps()


def test_after_a_pause_it_is_a_new_reply() -> None:
    p = playout()
    p.append(pcm(20), at(0))
    p.append(pcm(20), at(20 + SAME_REPLY_S * 1000 + 1))
    assert not p.gaps
    assert p.utterances == 2


def test_clear_drops_all() -> None:
    p = playout()
    p.append(pcm(500), at(0))
    p.mark("m", at(0))
    p.append(pcm(500), at(0))
    p.mark("n", at(0))
    assert p.clear(at(100)) == ["m", "n"]
    [clear] = p.clears
    assert (clear.at, clear.silent_at) == (at(100), at(100))
    assert clear.dropped_s == pytest.approx(0.9)
    assert "mark" not in {event.what for event in p.advance(at(2000))}
    assert p.heard == pcm(100) + bytes(2 * 8 * 1900)


def test_what_follows_a_clear_is_a_new_reply_and_no_gap() -> None:
    p = playout()
    p.append(pcm(500), at(0))
    p.clear(at(100))
    p.append(pcm(20), at(150))
    assert not p.gaps
    assert p.utterances == 2


def test_clear_lets_the_chunk_in_play_finish_where_the_carrier_does() -> None:
    p = playout(clear_rule=ClearRule.FINISH_CHUNK)
    p.append(pcm(200, 1), at(0))
    p.mark("in play", at(0))
    p.append(pcm(200, 2), at(0))
    p.mark("waiting", at(0))
    assert p.clear(at(50)) == ["waiting"]
    assert p.clears[0].silent_at == pytest.approx(at(200))
    p.append(pcm(100, 3), at(60))
    events = said(p.advance(at(400)))
    assert (200, "mark", "in play") in events
    assert p.heard == pcm(200, 1) + pcm(100, 3) + bytes(2 * 800)
    assert not p.gaps


def test_clear_of_a_chunk_that_has_not_begun_drops_it() -> None:
    p = playout(clear_rule=ClearRule.FINISH_CHUNK)
    p.append(pcm(200), at(10))
    p.clear(at(10))
    p.advance(at(300))
    assert p.heard == bytes(2 * 8 * 300)


def test_too_much_is_refused() -> None:
    p = playout(max_buffered_s=1.0)
    p.append(pcm(1000), at(0))
    with pytest.raises(PlayoutOverflow):
        p.append(pcm(20), at(0))


def test_audio_of_known_length_only() -> None:
    p = playout(record=False)
    p.append_unheard(160, at(0))
    p.mark("m", at(0))
    assert said(p.advance(at(50))) == [(0, "started", ""), (20, "mark", "m"), (20, "idle", "")]
    assert p.heard == b""
    assert p.played_s == pytest.approx(0.020)


def test_take_gives_each_sample_once() -> None:
    p = playout()
    p.append(pcm(30), at(0))
    pieces = []
    for ms in (5, 5, 21, 40):
        p.advance(at(ms))
        pieces.append(p.take())
    assert [len(piece) for piece in pieces] == [80, 0, 256, 304]
    assert b"".join(pieces) == p.heard


def test_after_the_end_nothing_is_heard() -> None:
    p = playout()
    p.append(pcm(100), at(0))
    p.mark("m", at(0))
    p.close(at(40))
    p.append(pcm(100), at(50))
    assert not p.advance(at(500))
    assert p.heard == pcm(40)
    assert p.next_event_at() is None
