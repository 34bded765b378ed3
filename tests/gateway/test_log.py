"""What is in the log of a failure, and what never is."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import structlog
from gateway.log import configure

configure("info", as_json={as_json})


def sign(secret):
    raise ValueError("it went wrong")


try:
    sign("-".join(["hunter", "2"]))
except ValueError:
    structlog.get_logger("gateway.test").exception("it.failed", call="CA1")
"""


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_names_lines_and_no_values(as_json: bool) -> None:
    program = PROGRAM.format(as_json=as_json)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "it.failed" in ran.stderr
    assert "Traceback (most recent call last)" in ran.stderr
    assert "it went wrong" in ran.stderr
    assert "hunter-2" not in ran.stderr
