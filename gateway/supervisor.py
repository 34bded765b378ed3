"""Several processes that are one gateway: they share a port, the store and the token key, and are started again."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import msgspec
import structlog

from gateway.serving import store_url, tell_listening
from gateway.settings import Settings
from gateway.worker import UP, Orders, listener
from media.errors import ConfigError

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.supervisor")

AGAIN_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # before a worker that has ended is started again; the last one repeats
STEADY_S = 60.0  # one that has lived so long begins with the first of them
STOP_S = 60.0  # beyond `drain_s`: then a worker that is still there is killed


class Supervisor:
    """Starts `count` workers on one port and keeps them; `run` ends with them."""

    def __init__(self, config: Path, settings: Settings, count: int, *, host: str, port: int) -> None:
        if store_url(settings) in ("sqlite://", "sqlite:///:memory:"):
            raise ConfigError(
                "gateway.store", "cannot be in memory with several workers", "leave it out, or name a file"
            )
        self._config, self._settings, self._count = config, settings, count
        self._host, self._port = host, port
        secret = settings.gateway.secret
        self._token_key = secret.reveal() if secret is not None else secrets.token_hex(32)
        self._processes: dict[str, Process] = {}
        self._stopping = asyncio.Event()
        self._failed = False  # a worker ended before it was ever up
        self._up: set[str] = set()  # which have been, once
        self._all_up = asyncio.Event()

    async def run(self) -> int:
        """Until a signal; gives the exit code."""
        try:
            # Nobody else has it: workers share the port among themselves, not with another gateway of this user.
            listener(self._host, self._port, shared=False).close()
            place = listener(self._host, self._port, shared=True)
        except OSError as exc:
            remedy = "is another gateway running? give another port (--port), and an address of this machine"
            log.error("gateway.cannot_listen", host=self._host, port=self._port, problem=exc.strerror, remedy=remedy)
            return 1
        self._port = place.getsockname()[1]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled, number)
        with place, tempfile.TemporaryDirectory(prefix="gateway-") as folder:
            keeping = [
                loop.create_task(self._keep(str(index), os.path.join(folder, f"{index}.sock")), name=f"worker-{index}")
                for index in range(self._count)
            ]
            telling = loop.create_task(self._tell(), name="listening")
            codes = await asyncio.gather(*keeping)
            telling.cancel()
        return 1 if self._failed or any(codes) else 0

    async def _tell(self) -> None:
        await self._all_up.wait()
        tell_listening(self._settings, self._host, self._port, self._count)

    # ------------------------------------------------------------ one worker

    async def _keep(self, name: str, endpoint: str) -> int:
        """Start it, and again when it ends, until all stop; gives the last exit code."""
        fallen = 0
        while True:
            began = time.monotonic()
            code = await self._one(name, endpoint)
            if self._stopping.is_set():
                return code
            if name not in self._up:
                self._failed = True  # what it lacks, the others lack too
                self._stop(signal.SIGTERM)
                return code
            fallen = 1 if time.monotonic() - began > STEADY_S else fallen + 1
            wait_s = AGAIN_S[min(fallen, len(AGAIN_S)) - 1]
            log.error("worker.ended", worker=name, code=code, again_in_s=wait_s)
            try:
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()
                return 0  # it has nothing left to end
            except TimeoutError:
                pass

    async def _one(self, name: str, endpoint: str) -> int:
        status, written = os.pipe()
        orders = Orders(
            config=str(self._config),
            host=self._host,
            port=self._port,
            name=name,
            endpoint=endpoint,
            token_key=self._token_key,
            status=written,
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway.worker"),
                stdin=PIPE,
                pass_fds=(written,),
                start_new_session=True,  # Ctrl-C is for the supervisor, which tells the workers
            )
        finally:
            os.close(written)
        self._processes[name] = process
        loop = asyncio.get_running_loop()
        loop.add_reader(status, self._told, name, status)
        try:
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(orders) + b"\n")
            if self._stopping.is_set():
                process.terminate()  # the signal came while it was started
            code = await process.wait()
            process.stdin.close()
            return code
        finally:
            loop.remove_reader(status)
            os.close(status)
            del self._processes[name]

    def _told(self, name: str, status: int) -> None:
        if os.read(status, 100) != UP:
            asyncio.get_running_loop().remove_reader(status)
            return
        log.info("worker.up", worker=name, pid=self._processes[name].pid)
        self._up.add(name)
        if len(self._up) == self._count:
            self._all_up.set()

    # ------------------------------------------------------------ signals

    def _signalled(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self._send(signal.SIGHUP)
        else:
            self._stop(signal.SIGTERM)  # the second one ends them at once

    def _stop(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            self._stopping.set()
            limit_s = self._settings.gateway.drain_s + STOP_S
            asyncio.get_running_loop().call_later(limit_s, self._send, signal.SIGKILL)
        self._send(number)

    def _send(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.send_signal(number)
