"""Programs as bots: what they can do with a call, what their mistakes cost, and what changed code means."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from bots.base import PrepareContext
from bots.code import CodeSettings, bot_of, load, where
from gateway.states import CallState
from media.errors import ConfigError
from tests.bots.live import Program


@pytest.fixture(autouse=True)
def path_as_before() -> Iterator[None]:
    before, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if name.startswith("prog_"):
            del sys.modules[name]


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(limited())


def write(folder: Path, name: str, code: str) -> None:
    folder.joinpath(f"{name}.py").write_text(textwrap.dedent(code))


# ---------------------------------------------------------------- a program and its call


def test_saying_and_gathering(tmp_path: Path) -> None:
    code = """
        async def bot(call):
            await call.say("welcome")
            digits = await call.gather("your number", max_digits=4, timeout_s=3)
            call.variables["number"] = digits
            await call.say("thanks")
    """

    async def main() -> None:
        write(tmp_path, "prog_gather", code)
        it = await Program.start(tmp_path, "prog_gather:bot")
        await it.go(3.0)
        assert it.heard[0] == ("welcome", 0.7)
        await it.press("12")
        await it.press("34")
        await it.go(2.0)
        assert it.call.core.variables.outgoing == {"number": "1234"}
        assert it.texts == ["welcome", "your number", "thanks"]
        assert it.heard[-1] == ("thanks", 0.6)
        await it.go(3.0)
        assert (it.call.core.ended_by, it.call.core.reason) == ("bot", "completed")
        await it.call.finish()

    run(main())


def test_a_key_silences_the_question_and_keys_may_come_ahead(tmp_path: Path) -> None:
    code = """
        async def bot(call):
            call.variables["first"] = await call.gather("a long question with many words", finish_on="#")
            call.variables["second"] = await call.gather("another question", max_digits=1)
    """

    async def main() -> None:
        write(tmp_path, "prog_ahead", code)
        it = await Program.start(tmp_path, "prog_ahead:bot")
        await it.go(0.5)
        await it.press("12#7")
        await it.go(1.0)
        assert it.call.core.variables.outgoing == {"first": "12", "second": "7"}
        (text, seconds), *more = it.heard
        assert text == "a long question with many words"
        assert seconds < 1.5
        assert more == []
        await it.go(2.0)
        await it.call.finish()

    run(main())


def test_no_answer_and_another_try(tmp_path: Path) -> None:
    code = """
        async def bot(call):
            answer = await call.gather(
                "which", max_digits=2, min_digits=2, timeout_s=1, digit_gap_s=1, tries=3, invalid="wrong")
            call.variables["answer"] = answer or "none"
    """

    async def main() -> None:
        write(tmp_path, "prog_tries", code)
        it = await Program.start(tmp_path, "prog_tries:bot")
        await it.go(1.0)
        await it.press("1")
        await it.go(8.0)
        assert it.texts == ["which", "wrong", "which", "wrong", "which"]
        assert it.call.core.variables.outgoing == {"answer": "none"}
        await it.call.finish()

    run(main())


def test_a_class_has_one_object_a_call_and_its_options(tmp_path: Path) -> None:
    code = """
        class Bot:
            async def run(self, call):
                self.digits = []
                call.on("digit", self.digits.append)
                await call.say(call.options["greeting"])
                await call.sleep(2.0)
                call.variables["digits"] = "".join(self.digits)
                call.transfer("+15550199")
    """

    async def main() -> None:
        write(tmp_path, "prog_class", code)
        it = await Program.start(tmp_path, "prog_class:Bot", options={"greeting": "good day"})
        await it.go(1.2)
        await it.press("5")
        await it.go(3.0)
        assert it.heard == [("good day", 0.8)]
        assert it.call.core.variables.outgoing == {"digits": "5"}
        assert it.call.core.reason == "transfer-unavailable"  # nobody to ask on virtual time
        await it.call.finish()

    run(main())


def test_a_question_with_choices(tmp_path: Path) -> None:
    code = """
        async def bot(call):
            choices = {"1": "sales", "2": "support", "21": "billing"}
            call.variables["first"] = await call.ask("which", choices, timeout_s=2, invalid="wrong")
            call.variables["second"] = await call.ask("and", choices, timeout_s=2)
            call.variables["third"] = str(await call.ask("finally", choices, timeout_s=1, tries=2))
    """

    async def main() -> None:
        write(tmp_path, "prog_ask", code)
        it = await Program.start(tmp_path, "prog_ask:bot")
        await it.go(1.0)
        await it.press("7")
        await it.go(1.5)
        await it.press("1")
        await it.go(1.0)
        await it.press("2")
        await it.press("1")
        await it.go(8.0)
        assert it.call.core.variables.outgoing == {"first": "sales", "second": "billing", "third": "None"}
        assert it.texts == ["which", "wrong", "which", "and", "finally", "finally"]
        await it.call.finish()

    run(main())


def test_a_caller_who_leaves_ends_the_program(tmp_path: Path) -> None:
    code = """
        import asyncio
        async def bot(call):
            try:
                await call.gather("hello", timeout_s=60)
            except asyncio.CancelledError:
                call.variables["told"] = "yes"
                raise
    """

    async def main() -> None:
        write(tmp_path, "prog_left", code)
        it = await Program.start(tmp_path, "prog_left:bot")
        it.call.hang_up()
        await it.go(1.0)
        await it.call.finish()
        assert it.call.core.variables.outgoing == {"told": "yes"}
        assert it.call.core.state is CallState.CLOSED
        assert it.call.core.ended_by == "caller"

    run(main())


def test_a_program_that_raises_names_its_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = """
        def helper():
            return {}["nothing"]

        async def bot(call):
            await call.say("so far")
            helper()
    """

    async def main() -> None:
        write(tmp_path, "prog_raises", code)
        it = await Program.start(tmp_path, "prog_raises:bot")
        await it.go(3.0)
        assert it.texts == ["so far"]
        assert it.call.core.reason == "error"
        await it.call.finish()

    run(main())
    assert "prog_raises.py:3: KeyError: 'nothing'" in caplog.text


def test_processors_may_be_given_instead(tmp_path: Path) -> None:
    code = """
        from bots.echo import Echo

        def bot(call):
            return [Echo()]
    """

    async def main() -> None:
        write(tmp_path, "prog_build", code)
        it = await Program.start(tmp_path, "prog_build:bot")
        it.call.say(b"\x00\x10" * 8000)
        await it.go(1.5)
        assert it.call.heard().count(b"\x00\x10") > 3000 or any(it.call.heard())
        it.call.hang_up()
        await it.go(0.5)
        await it.call.finish()

    run(main())


# ---------------------------------------------------------------- what cannot be a bot


def prepared(folder: Path, use: str) -> Any:
    result: Any = bot_of(use).prepare(CodeSettings(), PrepareContext(folder, (8000,)))
    return asyncio.run(result)


@pytest.mark.parametrize(
    ("use", "code", "problem"),
    [
        ("prog_none:bot", "", "has no bot"),
        ("prog_none:", "", "names no program"),
        ("prog_absent_:bot", None, "there is no module prog_absent_"),
        ("prog_needs:bot", "import prog_is_not_there", "needs prog_is_not_there"),
        ("prog_broken:bot", "x = 1\n1 / 0", "prog_broken.py:2: ZeroDivisionError"),
        ("prog_syntax:bot", "x = 1\ndef (", "prog_syntax.py:2"),
        ("prog_wrong:bot", "bot = 7", "is a int, which cannot take calls"),
    ],
)
def test_what_cannot_take_calls_is_said_when_the_configuration_loads(
    tmp_path: Path, use: str, code: str | None, problem: str
) -> None:
    if code is not None:
        write(tmp_path, use.partition(":")[0], code)
    with pytest.raises(ConfigError, match=problem):
        prepared(tmp_path, use)


def test_warming_up_happens_before_the_first_call(tmp_path: Path) -> None:
    write(
        tmp_path,
        "prog_warm",
        """
        warm = []
        async def warm_up():
            warm.append("module")
        class Bot:
            @classmethod
            async def warm_up(cls):
                warm.append("class")
            async def run(self, call): ...
        """,
    )
    prepared(tmp_path, "prog_warm:Bot")
    assert sys.modules["prog_warm"].warm == ["module", "class"]


# ---------------------------------------------------------------- changed code


def test_changed_code_is_new_for_new_calls_and_old_for_old_ones(tmp_path: Path) -> None:
    write(tmp_path, "prog_lib", "ANSWER = 1")
    write(tmp_path, "prog_main", "import prog_lib\nasync def bot(call): ...\ndef answer(): return prog_lib.ANSWER")
    old, _ = load("prog_main:bot", tmp_path)
    assert load("prog_main:bot", tmp_path)[0] is old
    write(tmp_path, "prog_lib", "ANSWER = 2 ")
    os.utime(tmp_path / "prog_lib.py", ns=(1, 1))
    new, _ = load("prog_main:bot", tmp_path)
    assert (old.answer(), new.answer()) == (1, 2)


def test_modules_of_others_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, "prog_other", "")
    sys.path.insert(0, str(tmp_path))
    other = __import__("prog_other")
    write(tmp_path, "prog_own", "async def bot(call): ...")
    load("prog_own:bot", tmp_path)
    write(tmp_path, "prog_other", "x = 1")
    write(tmp_path, "prog_own", "async def bot(call): ...\nx = 1")
    load("prog_own:bot", tmp_path)
    assert sys.modules["prog_other"] is other


def test_where_it_happened_is_the_programs_own_innermost_line(tmp_path: Path) -> None:
    write(tmp_path, "prog_json", "import json\ndef bot(): json.loads('{')")
    module, _ = load("prog_json:bot", tmp_path)
    with pytest.raises(ValueError, match="Expecting") as caught:
        module.bot()
    assert where(caught.value, tmp_path).startswith("prog_json.py:2: JSONDecodeError: ")


# ---------------------------------------------------------------- programs that wait for what never comes

WAITS_FOR_EVER = """
    import asyncio
    async def never():
        await asyncio.Event().wait()
    async def bot(call):
        await call.say("welcome")
        {more}
        await never()
"""


def test_a_program_that_waits_for_ever_is_a_failed_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        write(tmp_path, "prog_hangs", WAITS_FOR_EVER.format(more="pass"))
        it = await Program.start(tmp_path, "prog_hangs:bot", silence_s=20.0)
        await it.go(15.0)
        assert it.call.core.state is CallState.LIVE
        await it.go(15.0)
        assert (it.call.core.state, it.call.core.reason) == (CallState.CLOSED, "error")
        await it.call.finish()

    run(main())
    assert "the program has done nothing for 20 s: it waits at prog_hangs.py:4" in caplog.text


@pytest.mark.parametrize(
    "more",
    ["call.on('digit', print)", "await call.sleep(40)", "await call.gather(timeout_s=40)", "call.pause()"],
)
def test_one_that_waits_for_the_caller_or_the_clock_is_none(tmp_path: Path, more: str) -> None:
    async def main() -> None:
        name = f"prog_waits_{abs(hash(more))}"
        write(tmp_path, name, WAITS_FOR_EVER.format(more=more))
        it = await Program.start(tmp_path, f"{name}:bot", silence_s=20.0)
        await it.go(35.0)
        assert it.call.core.state in (CallState.LIVE, CallState.PAUSED)
        assert it.call.core.counters["errors"] == 0
        it.call.hang_up()
        await it.go(0.5)
        await it.call.finish()

    run(main())
