"""The limit of open files is raised before there are calls."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from gateway.descriptors import ENOUGH, allow_enough

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
allow_enough()
soft, still = resource.getrlimit(resource.RLIMIT_NOFILE)
assert still == hard
assert soft == (ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard))
allow_enough()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others have further limits")
def test_as_many_files_as_the_system_lets_us_take() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
