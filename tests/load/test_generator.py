"""What a generator tells who started it."""

from __future__ import annotations

import os
import signal
import threading

from gateway.load.generator import write_whole


def test_a_report_is_written_whole_whatever_interrupts_it() -> None:
    told = b"x" * 300_000  # a pipe holds 65,536
    read: list[bytes] = []
    out, into = os.pipe()
    begun = threading.Event()

    def reader() -> None:
        begun.wait(10.0)
        while piece := os.read(out, 10_000):
            read.append(piece)

    def interrupted(*_: object) -> None:
        begun.set()  # before, nobody reads: the write is in its middle

    before = signal.signal(signal.SIGALRM, interrupted)
    reading = threading.Thread(target=reader)
    reading.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.001)
        write_whole(into, told)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        os.close(into)
        reading.join()
        os.close(out)
    assert b"".join(read) == told
