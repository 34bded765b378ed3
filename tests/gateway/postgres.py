"""A PostgreSQL server of the tests' own, on a Unix socket in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def binaries() -> Path | None:
    """Where initdb and postgres are, or None."""
    for found in (shutil.which("initdb"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)):
        if found is not None and (Path(found).resolve().parent / "postgres").exists():
            return Path(found).resolve().parent
    return None


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of a server without its database's name; gone afterwards. FileNotFoundError if none is installed."""
    where = binaries()
    if where is None:
        raise FileNotFoundError("PostgreSQL is not installed")
    # The server refuses to be root.
    user = None
    if os.getuid() == 0:
        user = next((entry.pw_name for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody")), None)
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        if user is not None:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "user": user, "cwd": folder}
        initdb = [where / "initdb", "-D", data, "-U", "gateway", "-A", "trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(initdb, check=True, timeout=60, **quiet)  # type: ignore[call-overload]
        settings = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off", "shared_buffers": "16MB"}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        control = [where / "pg_ctl", "-D", data, "-w", "-t", "30", "-l", f"{folder}/log"]
        subprocess.run([*control, "-o", options, "start"], check=True, timeout=60, **quiet)  # type: ignore[call-overload]
        try:
            yield f"postgresql+psycopg://gateway@/{{}}?host={folder}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, timeout=60, **quiet)  # type: ignore[call-overload]
