"""`gateway loadtest` against a gateway in a process of its own: counts and the report's form, no speed."""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import cli
from gateway.commands.loadtest import Progress
from gateway.load import crew
from gateway.load.crew import Moment, Run
from gateway.load.page import load_page
from gateway.load.plan import LoadPlan
from gateway.load.procfs import Usage, listener, usage
from gateway.load.report import lines, report_of, to_dict
from gateway.load.tally import Tally
from media.dtmf import tone
from media.wav import write_wav
from tests.ports import free_port

BOTTLENECK = 3  # a busy machine may be that: it is no fault of what is tested here


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 180
    while time.monotonic() < limit and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"the gateway did not start: {process.poll()}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway's URL, and its configuration."""
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    (folder / "secret").write_text("0123456789abcdef0123456789abcdef")
    for name, seconds in (("short", 0.5), ("long", 5.0)):
        write_wav(folder / f"{name}.wav", tone("5", 8000, seconds * 1000, 0), 8000)
    config = folder / "gateway.toml"
    config.write_text(
        f'[gateway]\nport = {port}\nsecret = {{ file = "secret" }}\nlog_level = "error"\nmax_lateness_ms = 0\n'
        '[carriers.twilio]\nauth_token = { file = "secret" }\nauto_hang_up = false\n'
        '[carriers.exotel]\npath_token = { file = "secret" }\n'
        "[carriers.telnyx]\n"
        'api_key = { file = "secret" }\npublic_key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="\n'
        '[numbers.default]\nbot = "echo"\n[bots.echo]\nuse = "echo"\n'
        '[numbers."+15550101"]\nbot = "short"\n[bots.short]\nuse = "announce"\nplay = ["short.wav"]\n'
        '[numbers."+15550102"]\nbot = "long"\n'
        '[bots.long]\nuse = "announce"\nplay = ["long.wav"]\nrepeat = 9\ninterruptible = true\nbarge_in = false\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", "serve", "--config", str(config)],
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    try:
        wait_for(port, process)
        yield f"ws://127.0.0.1:{port}", str(config)
    finally:
        process.terminate()
        process.wait(60)


def loadtest(capsys: pytest.CaptureFixture[str], served: tuple[str, str], *more: str) -> tuple[int, dict[str, Any]]:
    url, config = served
    code = cli.main(["loadtest", url, "--config", config, "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def test_five_calls_for_two_seconds(
    served: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "made" / "load.html"
    options = ("--calls", "5", "--seconds", "3", "--carrier", "twilio,exotel", "--html", str(page))
    code, found = loadtest(capsys, served, *options)
    assert code in (0, 1, BOTTLENECK)
    assert found["calls"]["placed"] == found["calls"]["connected"] == found["calls"]["done"] == 5
    assert found["calls"]["by_carrier"] == {"twilio": 3, "exotel": 2}
    assert found["calls"]["checked_strictly"] == 1
    assert found["calls"]["failed"] == found["calls"]["refused"] == {}
    assert found["ms"]["echo"]["count"] >= 5
    assert found["heard"]["packets"] > 100
    assert (code == BOTTLENECK) == (not found["valid"])
    assert "<svg" in page.read_text()
    assert "http://" not in page.read_text()  # it stands alone


def test_ctrl_c_ends_it_with_a_report(
    served: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient(Progress):
        """Presses Ctrl-C when all calls are up."""

        def __call__(self, moment: Moment, tally: Tally) -> None:
            if moment.live == 2 and not pressed:
                pressed.append(moment.t)
                os.kill(os.getpid(), signal.SIGINT)

    pressed: list[float] = []
    monkeypatch.setattr("gateway.commands.loadtest.Progress", Impatient)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of the test run ignores it
    try:
        code, found = loadtest(capsys, served, "--calls", "2", "--seconds", "60")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code in (0, 1, BOTTLENECK)
    assert found["partial"]
    assert pressed
    assert found["calls"]["placed"] == 2


@pytest.mark.parametrize(
    ("pressed", "code"), [((signal.SIGINT, signal.SIGINT), 130), ((signal.SIGTERM,), 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_second_ctrl_c_and_sigterm_end_it_at_once_and_leave_nothing(
    pressed: tuple[int, ...],
    code: int,
    served: tuple[str, str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = list(pressed)

    class Impatient(Progress):
        def __call__(self, moment: Moment, tally: Tally) -> None:
            if left and (moment.live or len(left) < len(pressed)):
                os.kill(os.getpid(), left.pop())

    generators: list[Any] = []
    begun = crew._Worker.__init__

    def begin(worker: Any, *args: Any) -> None:
        begun(worker, *args)
        generators.append(worker)

    monkeypatch.setattr("gateway.commands.loadtest.Progress", Impatient)
    monkeypatch.setattr(crew._Worker, "__init__", begin)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of the test run ignores it
    try:
        ended = cli.main(["loadtest", served[0], "--config", served[1], "--calls", "2", "--seconds", "60"])
    except SystemExit as exc:
        ended = int(str(exc.code))
    finally:
        signal.signal(signal.SIGINT, before)
    said = capfd.readouterr()
    assert (ended, said.out, said.err.strip(), left) == (code, "", "", [])
    assert [one._process.returncode for one in generators] == [-signal.SIGKILL]


SCENARIOS = """
[[scenario]]
name = "talk"
seconds = 1.5
digits = "12#"
digits_at_s = 0.3
[[scenario]]
name = "drop"
seconds = 0.5
end = "drop"
[[scenario]]
name = "refused"
seconds = 1
end = "refused"
[[scenario]]
name = "half-open"
seconds = 1
end = "half-open"
[[scenario]]
name = "never-start"
seconds = 1
end = "never-start"
"""


def test_a_mixture_by_webhook(served: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mixture.toml"
    path.write_text(SCENARIOS)
    options = ("--calls", "5", "--seconds", "2", "--through", "webhook", "--scenarios", str(path))
    options = (*options, "--carrier", "twilio,exotel")
    _, found = loadtest(capsys, served, *options)
    calls = found["calls"]
    assert set(calls["by_scenario"]) == {"talk", "drop", "refused", "half-open", "never-start"}
    assert calls["failed"] == calls["refused"] == {}
    assert calls["done"] == calls["placed"] >= 8
    assert found["ms"]["webhook"]["count"] >= calls["placed"] - calls["by_scenario"]["refused"]


BOTS = """
[[scenario]]
name = "cut in"
to = "+15550102"
says = "silence"
barge_in_at_s = 0.5
barge_in_by = "1"
[[scenario]]
name = "listen"
to = "+15550101"
seconds = 1
end = "bot"
"""


def test_bots_that_are_cut_into_and_bots_that_end_by_two_generators(
    served: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bots.toml"
    path.write_text(BOTS)
    _, found = loadtest(capsys, served, "--calls", "4", "--seconds", "3", "--processes", "2", "--scenarios", str(path))
    calls = found["calls"]
    assert found["generator"]["processes"] == 2
    assert calls["by_scenario"]["cut in"] == 2
    assert calls["by_scenario"]["listen"] >= 4  # places are taken again, each second
    assert calls["failed"] == calls["refused"] == {}
    assert calls["done"] == calls["placed"] == sum(calls["by_scenario"].values())
    assert found["ms"]["barge_in"]["count"] + found["heard"]["not_interrupted"] <= 2


def test_only_telnyx_can_sign_its_webhooks(served: tuple[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    url, config = served
    options = ("--calls", "1", "--seconds", "1", "--through", "webhook", "--carrier", "telnyx")
    assert cli.main(["loadtest", url, "--config", config, *options]) == 2
    assert "only the carrier itself can sign" in capfd.readouterr().err


@pytest.mark.parametrize("words", [("loadtest",), ("capacity", "--url")])
def test_a_gateway_that_is_not_there(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], served: tuple[str, str]
) -> None:
    nowhere = f"ws://127.0.0.1:{free_port()}"
    assert cli.main([*words, nowhere, "--config", served[1]]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert f"error: {nowhere}: " in told.err
    assert "is the gateway running there?" in told.err


class Nobody(http.server.BaseHTTPRequestHandler):
    """Answers what is asked before the test, and has no media sockets."""

    def do_GET(self) -> None:
        self.send_error(404 if "/media/" in self.path else 204)

    def log_message(self, *args: object) -> None:
        pass


def test_calls_that_are_refused_are_told_with_their_reason(
    capsys: pytest.CaptureFixture[str], served: tuple[str, str]
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nobody) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"ws://127.0.0.1:{server.server_address[1]}"
            code = cli.main(["loadtest", url, "--config", served[1], "--calls", "2", "--seconds", "0.5"])
        finally:
            server.shutdown()
    assert code in (1, BOTTLENECK)
    told = capsys.readouterr()
    assert "2 x HTTP 404" in (told.out if code == 1 else told.err)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["ftp://x"], "no URL of a gateway"),
        (["ws://x", "--carrier", "acme"], "there is no 'acme'"),
        (["ws://x", "--scenarios", "/nowhere.toml"], "cannot be read"),
        (["ws://x", "--config", "/nowhere.toml"], "/nowhere.toml: cannot be read"),
    ],
)
def test_wrong_usage(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["loadtest", *words]) == 2
    assert problem in capsys.readouterr().err


# ---------------------------------------------------------------- the report, of made-up figures


def made_up(*, own_late_s: float = 0.001, own_cpu: float = 0.05) -> Run:
    plan = LoadPlan(url="ws://127.0.0.1:1", config="", calls=100, ramp_s=2.0, seconds=10.0)
    run = Run(plan, before=Usage(1.0, 100_000_000))
    for t in range(13):
        run.moments.append(Moment(float(t), 100, own_cpu * t, Usage(1.0 + 0.1 * t, 105_000_000)))
    run.tally = Tally(placed=100, connected=100, done=100, most_live=100)
    for _ in range(100):
        run.tally.own_lateness.add(own_late_s)
        run.tally.echo.add(0.025)
    return run


def test_the_servers_cost_is_that_of_the_steady_time() -> None:
    report = report_of(made_up())
    assert report.server_ms == pytest.approx(1.0)
    assert report.memory_mb == pytest.approx(0.05)
    assert report.generator_ms == pytest.approx(0.5)
    assert report.bottleneck == ""
    text = "\n".join(lines(report))
    assert "1.00 ms CPU per call-second" in text
    assert "100 placed, 100 as they should be" in text
    assert json.loads(json.dumps(to_dict(report)))["server"]["mb_per_call"] == 0.05
    assert len(re.findall("<svg", load_page(report))) >= 2


def test_a_gateway_that_is_gone_is_noted() -> None:
    run = made_up()
    run.moments[7:] = [Moment(moment.t, 0, moment.own_cpu_s, None) for moment in run.moments[7:]]
    report = report_of(run)
    assert report.notes == ["the gateway's process was gone after 6 s"]
    assert report.server_ms is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("plain", "columns"), [(False, 80), (True, 80), (False, 20)])
def test_the_progress_is_one_line(monkeypatch: pytest.MonkeyPatch, plain: bool, columns: int) -> None:
    monkeypatch.setenv("NO_COLOR", "1" if plain else "")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    out, tally = Terminal(), Tally()
    tally.echo.add(0.020)
    tally.failed["x"] += 3
    progress = Progress(made_up().plan, out)
    progress(Moment(3.0, 100, 0.1, None), tally)
    text = out.getvalue()
    assert "100 live" in text
    assert ("\x1b[31m3 wrong\x1b[0m" in text) == (not plain and columns == 80)
    assert len(re.sub("\x1b.*?m", "", text)) <= columns
    progress.clear()
    assert "\n" not in out.getvalue()
    assert out.getvalue().endswith("\r")


@pytest.mark.parametrize(("late_s", "cpu", "why"), [(0.05, 0.05, "was late"), (0.001, 0.95, "% of its core")])
def test_a_generator_that_was_the_bottleneck_says_so(late_s: float, cpu: float, why: str) -> None:
    report = report_of(made_up(own_late_s=late_s, own_cpu=cpu))
    assert why in report.bottleneck
    assert to_dict(report)["valid"] is False
    assert "Not to be believed" in load_page(report)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="no /proc")
def test_the_process_behind_a_port_is_found() -> None:
    import os

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listener(server.getsockname()[1]) == os.getpid()
    found = usage(os.getpid())
    assert found is not None
    assert found.rss > 1_000_000
    assert usage(2**22 + 1) is None
