"""`gateway capacity` ended from outside: what it has started ends with it."""

from __future__ import annotations

import os
import signal

import pytest

from gateway.commands.capacity import _terminable


def test_sigterm_unwinds_what_was_begun() -> None:
    before = signal.getsignal(signal.SIGTERM)
    undone: list[str] = []

    def command() -> None:
        with _terminable():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                signal.sigtimedwait([], 5.0)  # the handler runs before this is over
                undone.append("nobody was told")
            finally:
                undone.append("the gateway")

    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == 128 + signal.SIGTERM
    assert undone == ["the gateway"]
    assert signal.getsignal(signal.SIGTERM) is before
