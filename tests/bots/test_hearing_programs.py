"""Programs that hear their callers: answers in words, and who has taken up the phone."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bots.speech import speak
from media.frames import AnsweredByFrame
from tests.bots.live import Program
from tests.bots.live import run_with_one_thread as run
from tests.endtoend.actors import tone

VOICE = "en-us+f3"
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def path_as_before() -> Iterator[None]:
    before, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if name.startswith("heard_"):
            del sys.modules[name]


async def start(folder: Path, name: str, code: str) -> Program:
    folder.joinpath(f"heard_{name}.py").write_text(textwrap.dedent(code))
    return await Program.start(folder, f"heard_{name}:bot")


async def go_until(it: Program, true: Callable[[], bool], limit_s: float = 60.0) -> None:
    await it.call.go_until(true, limit_s)


async def heard_to_the_end(it: Program, text: str) -> None:
    """The question was asked, and its end has reached the caller."""
    await go_until(it, lambda: (text, round(0.1 * len(text), 2)) in it.heard)
    await it.go(0.3)


def say(it: Program, text: str) -> float:
    """Gives how many seconds it takes."""
    pcm = speak(text, VOICE, 8000)
    it.call.say(pcm)
    return len(pcm) / 16000


def variables(it: Program) -> dict[str, Any]:
    return dict(it.call.core.variables.outgoing)


QUESTION = """
    async def bot(call):
        choices = {("1", "sales"): "sales", ("2", "opening hours"): "hours"}
        wish = await call.ask("what for", choices, tries=2, timeout_s=4, invalid="pardon")
        call.variables["wish"] = str(wish)
        await call.say("thanks")
"""


def test_a_question_is_answered_in_words(tmp_path: Path) -> None:
    async def main() -> None:
        it = await start(tmp_path, "words", QUESTION)
        await heard_to_the_end(it, "what for")
        say(it, "opening hours")
        await go_until(it, lambda: "wish" in variables(it))
        assert variables(it) == {"wish": "hours"}
        await heard_to_the_end(it, "thanks")
        assert it.texts == ["what for", "thanks"]
        await it.call.finish()

    run(main())


def test_or_by_keys(tmp_path: Path) -> None:
    async def main() -> None:
        it = await start(tmp_path, "keys", QUESTION)
        await go_until(it, lambda: it.texts == ["what for"])
        await it.press("1")
        await go_until(it, lambda: "wish" in variables(it))
        assert variables(it) == {"wish": "sales"}
        await it.call.finish()

    run(main())


def test_it_is_asked_again_and_then_there_is_no_answer(tmp_path: Path) -> None:
    async def main() -> None:
        it = await start(tmp_path, "silent", QUESTION)
        await go_until(it, lambda: "thanks" in it.texts)
        assert it.texts[:4] == ["what for", "pardon", "what for", "thanks"]
        assert variables(it) == {"wish": "None"}
        await it.call.finish()

    run(main())


def test_who_has_begun_to_speak_in_time_is_heard_out(tmp_path: Path) -> None:
    """And what was said long before the end of the question is none of its answer."""
    code = QUESTION.replace("timeout_s=4", "timeout_s=1.0").replace("what for", "a question of three seconds")

    async def main() -> None:
        it = await start(tmp_path, "late", code)
        await go_until(it, lambda: it.texts == ["a question of three seconds"])
        say(it, "sales")  # while the question is asked: its echo would sound like that
        await heard_to_the_end(it, "a question of three seconds")
        await it.go(0.4)
        say(it, "opening hours")
        await go_until(it, lambda: "wish" in variables(it))
        assert variables(it) == {"wish": "hours"}
        assert it.texts[:2] == ["a question of three seconds", "thanks"][: len(it.texts)]
        await it.call.finish()

    run(main())


def test_hearing_costs_nothing_before_and_after(tmp_path: Path) -> None:
    from bots.talk import _ACTS, Talk

    async def main() -> None:
        it = await start(tmp_path, "cost", QUESTION)
        assert it.call.core.pipeline is not None
        (talk,) = [each for each in it.call.core.output._flow.processors if isinstance(each, Talk)]
        await go_until(it, lambda: bool(talk._ears))
        await go_until(it, lambda: "wish" in variables(it))
        assert talk._acts is _ACTS
        assert talk._ears == []
        await it.call.finish()

    run(main())


@pytest.mark.parametrize(
    ("choices", "problem"),
    [("{}", "got none"), ("{'': 1}", "got ''"), ("{('1', '?!'): 1}", "got '?!'"), ("{'xylokrx': 1}", "xylokrx")],
)
def test_choices_that_cannot_be(tmp_path: Path, choices: str, problem: str) -> None:
    code = f"""
        async def bot(call):
            try:
                await call.ask("x", {choices})
            except Exception as exc:
                call.variables["problem"] = str(exc)
    """

    async def main() -> None:
        it = await start(tmp_path, "wrong", code)
        await go_until(it, lambda: "problem" in variables(it))
        assert problem in variables(it)["problem"]
        await it.call.finish()

    run(main())


# ---------------------------------------------------------------- who is there

WHO = """
    async def bot(call):
        heard = []
        call.on("answered_by", heard.append)
        who = await call.who_answered()
        call.variables["who"] = [who, call.answered_by, *heard]
        if who == "machine":
            call.variables["over"] = await call.greeting_over()
            call.variables["at"] = round(call.now() - 1000, 1)
"""
GREETING = "You have reached the voice mail of Anna Miller. Please leave a message after the tone."


async def found(it: Program) -> list[str]:
    await go_until(it, lambda: "who" in variables(it))
    return list(variables(it)["who"])


def test_a_person_says_hello_and_waits(tmp_path: Path) -> None:
    async def main() -> None:
        it = await start(tmp_path, "human", WHO)
        say(it, "Hello?")
        assert await found(it) == ["human", "human", "human"]
        assert it.call.core.record(it.call.t).answered_by == "human"
        await it.call.finish()

    run(main())


def test_a_machine_greets_and_beeps(tmp_path: Path) -> None:
    async def main() -> None:
        it = await start(tmp_path, "machine", WHO)
        began = it.call.t
        seconds = say(it, GREETING)
        it.call.say(bytes(8000) + tone(0.4, hz=1000.0))
        assert await found(it) == ["machine", "machine", "machine"]
        assert it.call.t - began < seconds, "before the greeting was over"
        await go_until(it, lambda: "at" in variables(it))
        assert variables(it)["over"] is True
        beeped = began - 1000 + seconds + 0.9
        assert beeped - 0.1 < variables(it)["at"] < beeped + 0.6
        await it.call.finish()

    run(main())


def test_a_greeting_without_a_beep_is_over_when_it_is_quiet(tmp_path: Path) -> None:
    async def main() -> None:
        it = await start(tmp_path, "quiet", WHO)
        began = it.call.t
        seconds = say(it, GREETING)
        await go_until(it, lambda: "at" in variables(it))
        assert variables(it)["over"] is True
        assert 1.5 < variables(it)["at"] - (began - 1000 + seconds) < 3.0
        await it.call.finish()

    run(main())


def test_nobody_says_a_word(tmp_path: Path) -> None:
    async def main() -> None:
        it = await start(tmp_path, "nobody", WHO)
        assert await found(it) == ["unknown", "unknown", "unknown"]
        await it.call.finish()

    run(main())


def test_the_carrier_knows(tmp_path: Path) -> None:
    async def main() -> None:
        it = await start(tmp_path, "carrier", WHO)
        it.call.core.answered(AnsweredByFrame("unknown", "not_sure"))
        await it.go(0.5)
        it.call.core.answered(AnsweredByFrame("machine", "machine_start"))
        assert await found(it) == ["machine", "machine", "unknown", "machine"]
        it.call.core.answered(AnsweredByFrame("machine", "beep_detected", beep=True))
        await go_until(it, lambda: "at" in variables(it), 1.0)
        assert variables(it)["over"] is True
        await it.call.finish()

    run(main())


def test_what_is_known_needs_no_listening(tmp_path: Path) -> None:
    code = """
        async def bot(call):
            await call.sleep(1)
            call.variables["who"] = [await call.who_answered()]
    """

    async def main() -> None:
        it = await start(tmp_path, "known", code)
        it.call.core.answered(AnsweredByFrame("human", "human"))
        assert await found(it) == ["human"]
        await it.call.finish()

    run(main())


def test_the_speech_of_these_tests_is_speech() -> None:
    level = np.abs(np.frombuffer(speak("Hello?", VOICE, 8000), "<i2").astype(int)).max()
    assert level > 3000


# ---------------------------------------------------------------- the guide's program

REMINDER = ROOT / "docs" / "examples" / "outbound" / "reminder.py"


async def reminder(folder: Path) -> Program:
    folder.joinpath("heard_reminder.py").write_text(REMINDER.read_text())
    return await Program.start(folder, "heard_reminder:bot")


def test_the_guide_shows_the_file() -> None:
    shown = re.findall(r"```python\n# reminder.py\n(.*?)```", (ROOT / "docs" / "outbound.md").read_text(), re.S)
    assert shown == [REMINDER.read_text().split("\n\n\n", 1)[1]]


def test_the_guides_program_asks_a_person(tmp_path: Path) -> None:
    async def main() -> None:
        it = await reminder(tmp_path)
        say(it, "Hello?")
        await go_until(it, lambda: bool(it.texts))
        question = it.texts[0]
        await heard_to_the_end(it, question)
        say(it, "yes")
        await go_until(it, lambda: "appointment" in variables(it))
        assert variables(it) == {"appointment": "coming"}
        assert it.call.core.answered_by == "human"
        await it.call.finish()

    run(main())


def test_the_guides_program_leaves_a_message(tmp_path: Path) -> None:
    async def main() -> None:
        it = await reminder(tmp_path)
        say(it, GREETING)
        it.call.say(bytes(8000) + tone(0.4, hz=1000.0))
        await go_until(it, lambda: bool(it.texts))
        await heard_to_the_end(it, it.texts[0])
        await it.go(3.0)
        assert len(it.texts) == 1
        assert "Please call us back" in it.texts[0]
        assert (it.call.core.answered_by, it.call.core.reason) == ("machine", "completed")
        await it.call.finish()

    run(main())


def test_the_guides_switchboard(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "programs.md").read_text()
    (code,) = re.findall(r"```python\n# switchboard.py\n(.*?)```", guide, re.S)

    async def main() -> None:
        it = await start(tmp_path, "switchboard", code)
        await go_until(it, lambda: bool(it.texts))
        await heard_to_the_end(it, it.texts[0])
        say(it, "opening hours")
        await go_until(it, lambda: len(it.texts) == 2)
        assert it.texts[1] == "We are there from nine to five."
        await it.call.finish()

    run(main())
