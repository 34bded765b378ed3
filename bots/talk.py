"""A call as a program sees it: say something, wait for keys, hand over; each a line that waits until it is done.

`LiveCall` is what the program holds, `Talk` the processor behind it. Waiting is by futures that the call's own clock
and frames settle, so a program has no time of its own; when the call is over its task is cancelled.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, TypeVar

from bots.base import Call, PrepareContext, Recording
from bots.ear import Ear, Utterance
from bots.prompts import Prompt, PromptMaker, PromptSetting, say
from bots.services.pocketsphinx import plain, recognised, warm
from media.answerer import UNKNOWN, AnswerParams, AnswerRules, Verdict
from media.errors import ConfigErrors
from media.events import Handle, MaybeAwaitable
from media.frames import (
    AnsweredByFrame,
    AudioRawFrame,
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CallPausedFrame,
    CallResumedFrame,
    CallUpdatedFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    KeypadEntry,
    StartFrame,
)
from media.processor import FrameDirection, FrameProcessor
from media.recording import Tracks

MAX_AHEAD: Final = 64  # keys kept for a program that does not ask for them yet; then the oldest is forgotten
PLAY_GRACE_S: Final = 5.0  # beyond its length, until a prompt of which no end is heard counts as played

SILENCE_LOOK_S: Final = 5.0  # between two looks at whether a program does anything
EARLY_S: Final = 0.5  # around the end of a question; what began earlier and did not go on for so long may be its echo
UTTERANCE_S: Final = 15.0  # for somebody who has begun to speak, to come to an end

_KEYS = re.compile(rf"[{re.escape(''.join(key.value for key in KeypadEntry))}]*")

Answer = TypeVar("Answer")
Program = Callable[["LiveCall"], Coroutine[Any, Any, object]]
What = PromptSetting | Path | Prompt  # what can be said: text, a .wav file, a table, or a prompt made before


class Voice:
    """Makes prompts for the calls of one bot; what was made once is kept, the last used `limit` of them."""

    def __init__(self, context: PrepareContext, voice: str = "", limit: int = 256) -> None:
        self._context, self._voice, self._limit = context, voice, limit
        self._made: dict[tuple[PromptSetting, str, int], Prompt] = {}

    async def prompt(self, what: What, sample_rate: int, voice: str = "") -> Prompt:
        """ConfigErrors: no such file, nothing that speaks, or nothing to hear."""
        if isinstance(what, Prompt):
            return what
        setting = str(what) if isinstance(what, Path) else what
        key = setting, voice or self._voice, sample_rate
        made = self._made.pop(key, None)
        if made is None:
            made = await asyncio.to_thread(self._make, *key)
        self._made[key] = made  # to the young end
        while len(self._made) > self._limit:
            del self._made[next(iter(self._made))]
        return made

    def _make(self, setting: PromptSetting, voice: str, sample_rate: int) -> Prompt:
        context = PrepareContext(self._context.base_dir, (sample_rate,), self._context.speak)
        maker = PromptMaker(context, voice)
        prompt = maker.make("say", setting)
        if maker.errors:
            raise ConfigErrors(maker.errors)
        return prompt


class LiveCall(Call):
    """A live call in the hands of a program.

    Beside what every bot's `Call` has (`info`, `variables`, `send_digits`, `transfer`, `end`, `pause`, `resume`):
    `options` are the bot's own keys in gateway.toml; `say`, `play`, `gather` and `ask` wait until they are done. When
    the call ends, however it does, whatever the program waits for raises asyncio.CancelledError.
    """

    def __init__(self, call: Call, voice: Voice, options: Mapping[str, Any]) -> None:
        super().__init__(call.info, call.variables, call._port)
        self.options = options
        self._voice = voice
        self._talk: Talk
        self._handlers: dict[str, list[Callable[..., Any]]] = {}
        self._is_paused = False
        self._recordings: list[Recording] = []

    def pause(self) -> None:
        self._is_paused = True
        super().pause()

    def resume(self) -> None:
        self._is_paused = False
        super().resume()

    def record(self, *, tracks: Tracks = "both", folder: str = "", longest_s: float | None = None) -> Recording:
        recording = super().record(tracks=tracks, folder=folder, longest_s=longest_s)
        self._recordings.append(recording)
        return recording

    # ------------------------------------------------------------ speaking

    async def say(self, text: What, *, voice: str = "", interruptible: bool = False) -> bool:
        """Speak, and wait until the caller has heard it.

        Args:
            text: a text, the name of a .wav file beside gateway.toml, or a prompt made with `prompt`.
            voice: of the synthesiser; left out, the bot's.
            interruptible: a key silences it, and is kept for the next `gather`.

        Returns: whether the caller has heard all of it.
        """
        return await self.play(text, voice=voice, interruptible=interruptible)

    async def play(self, *what: What, voice: str = "", interruptible: bool = False) -> bool:
        """As `say`, for several things in a row as one utterance."""
        rate = self.info.send.sample_rate
        prompts = [await self._voice.prompt(one, rate, voice) for one in what]
        return await self._talk.play(prompts, interruptible=interruptible)

    async def prompt(self, text: What, *, voice: str = "") -> Prompt:
        """Make it now, to be said at once later."""
        return await self._voice.prompt(text, self.info.send.sample_rate, voice)

    def stop_speaking(self) -> None:
        """Silence at once, here and at the carrier."""
        self.interrupt()

    # ------------------------------------------------------------ keys

    async def gather(
        self,
        prompt: What | None = None,
        *,
        max_digits: int = 32,
        min_digits: int = 1,
        finish_on: str = "#",
        timeout_s: float = 5.0,
        digit_gap_s: float = 3.0,
        tries: int = 1,
        invalid: What | None = None,
        ahead: bool = True,
    ) -> str:
        """Ask for keys, and wait for them.

        Args:
            prompt: said first; the first key silences it.
            max_digits: as soon as there are so many, that is all.
            min_digits: fewer are no answer.
            finish_on: these keys end the entry and are no part of it; "" for none.
            timeout_s: to the first key, from the end of the prompt.
            digit_gap_s: between one key and the next.
            tries: how often the prompt is said in all when there is no answer.
            invalid: said before it is said again.
            ahead: keys that were pressed before the prompt count.

        Returns: the keys, or "" if there was no answer.
        """
        if not _KEYS.fullmatch(finish_on):
            raise ValueError(f"finish_on must be keys of a telephone, got {finish_on!r}")
        if max_digits < 1 or not 0 <= min_digits <= max_digits:
            raise ValueError(
                f"min_digits {min_digits} and max_digits {max_digits} must be in order, the latter at least 1"
            )
        talk = self._talk
        for attempt in range(tries):
            if attempt and invalid is not None:
                await self.play(invalid, interruptible=True)
            if not ahead and not attempt:
                talk.keys.clear()
            if prompt is not None:
                await self.play(prompt, interruptible=True)
            digits = ""
            while len(digits) < max_digits:
                key = await talk.key(digit_gap_s if digits else timeout_s)
                if key is None or key in finish_on:
                    break
                digits += key
            if digits and len(digits) >= min_digits:
                return digits
        return ""

    async def ask(
        self,
        prompt: What,
        choices: Mapping[str, Answer] | Mapping[tuple[str, ...], Answer],
        *,
        tries: int = 3,
        timeout_s: float = 5.0,
        digit_gap_s: float = 2.0,
        invalid: What | None = None,
    ) -> Answer | None:
        """Ask a question that keys or words answer: what stands in `choices` for them; None if nothing fits.

        Args:
            choices: what each key, row of keys, word or phrase means: {"1": "sales", "support": "support"}; of several
                that mean the same, a tuple: {("1", "sales", "buy something"): "sales"}. Words are recognised on this
                machine, in English, among those of the question: what is heard counts as the nearest of them.
            tries, digit_gap_s, invalid: as for `gather`.
            timeout_s: from the end of the question to a key, or to the beginning of an answer.

        ConfigError: a word that the recogniser does not know, or there is no recogniser.
        """
        keys, phrases = _meanings(choices)
        if phrases:
            await warm(tuple(phrases))
        with self._talk.listening() if phrases else nullcontext() as ear:
            for attempt in range(tries):
                if attempt and invalid is not None:
                    await self.play(invalid, interruptible=True)
                await self.play(prompt, interruptible=True)
                found = await self._answer(keys, phrases, ear, timeout_s, digit_gap_s)
                if found:
                    return found[0]
        return None

    async def _answer(
        self,
        keys: Mapping[str, Answer],
        phrases: Mapping[str, Answer],
        ear: Ear | None,
        timeout_s: float,
        digit_gap_s: float,
    ) -> tuple[Answer] | None:
        """To one question that has been asked."""
        talk, typed = self._talk, ""
        asked = self.now()
        while True:
            key: str | Utterance | None
            if ear is not None and not typed:
                key = await talk.key_or_speech(ear, timeout_s, asked)
            else:
                key = await talk.key(digit_gap_s if typed else timeout_s)
            if isinstance(key, Utterance):
                text = await recognised(tuple(phrases), key.pcm, key.sample_rate)
                return (phrases[text],) if text in phrases else None
            if key is None:
                break
            typed += key
            if not any(len(one) > len(typed) and one.startswith(typed) for one in keys):
                break
        return (keys[typed],) if typed in keys else None

    # ------------------------------------------------------------ who is there

    async def who_answered(self, *, timeout_s: float = 10.0, rules: AnswerParams | None = None) -> str:
        """Who has taken up the phone: "human", "machine", "fax", or "unknown".

        The carrier's word, where it looks; meanwhile it is listened for how somebody speaks: a word and a pause, or a
        greeting that goes on, or a beep. Say nothing before. The call's record says what was found.

        Args:
            timeout_s: then it is unknown. Nobody waits so long for a silent caller: see `rules`.
            rules: how long a greeting and a pause are.
        """
        end = self.now() + timeout_s
        it = AnswerRules(rules or AnswerParams(), self.now())
        with self._talk.listening() as ear:
            while self.answered_by in ("", UNKNOWN):
                while ear.edges:
                    it.speech(*ear.edges.popleft())
                if ear.beeps:
                    it.beep()
                verdict = it.look(self.now())
                if verdict is None and self.now() >= end:
                    verdict = Verdict(UNKNOWN, "timeout")
                if verdict is not None:
                    if verdict.who != self.answered_by:
                        self._port.answered(AnsweredByFrame(*verdict, "bot"))
                        self._tell("answered_by", verdict.who)
                    break
                await self._talk.news(max(0.0, min(end, it.due()) - self.now()))
        return self.answered_by

    async def greeting_over(self, *, silence_s: float = 2.0, timeout_s: float = 60.0) -> bool:
        """Wait until an answering machine records: its beep, or `silence_s` without a word. False: not in time."""
        talk, end = self._talk, self.now() + timeout_s
        with talk.listening() as ear:
            while (now := self.now()) < end:
                quiet_s = 0.0 if ear.speaking else now - ear.silent_since
                if ear.beeps or talk.records or quiet_s >= silence_s - 0.001:
                    return True
                await talk.news(min(end - now, silence_s - quiet_s))
        return False

    # ------------------------------------------------------------ time and events

    async def sleep(self, seconds: float) -> None:
        """Wait, on the call's clock."""
        await self._talk.until(lambda: False, seconds)

    def on(self, event: str, handler: Callable[..., Any] | None = None) -> Any:
        """Call `handler` when something happens; also a decorator. A handler may be `async def`.

        Events: "digit" (key), "answered_by" ("human", "machine" ...), "paused" (), "resumed" (), "updated" (language),
        "interrupted" (), "frame" (frame): what came from the carrier and is none of the others.
        """
        if event not in EVENTS:
            raise ValueError(f"there is no event {event!r}; there are {', '.join(EVENTS)}")
        if handler is None:
            return lambda function: self.on(event, function)
        self._handlers.setdefault(event, []).append(handler)
        return handler

    def _tell(self, event: str, *args: Any) -> None:
        for handler in self._handlers.get(event, ()):
            result = handler(*args)
            if result is not None and asyncio.iscoroutine(result):
                self._talk.create_task(result, f"on-{event}")


EVENTS: Final = ("digit", "answered_by", "paused", "resumed", "updated", "interrupted", "frame")


class _Waiter:
    """Somebody waits until `done` says so."""

    __slots__ = ("done", "future")

    def __init__(self, done: Callable[[], bool]) -> None:
        self.done = done
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Talk(FrameProcessor):
    """Between a call's frames and its program."""

    def __init__(
        self,
        call: LiveCall,
        program: Program,
        failed: Callable[[Exception], str],
        waits: Callable[[Any], str] = lambda coro: "",
        silence_s: float = 0.0,
    ) -> None:
        super().__init__()
        call._talk = self
        self._waits_at, self._silence_s = waits, silence_s
        self._alive_at = 0.0  # when the program was last seen to do something
        self.keys: deque[str] = deque(maxlen=MAX_AHEAD)
        self._call, self._program, self._failed = call, program, failed
        self._waiting: list[_Waiter] = []
        self._speaks = asyncio.Lock()
        self._task: Handle | None = None
        self._interruptible = False
        self._begun = self._stopped = self._cut = False  # of what is being said
        self._speaking = self._ended_itself = False
        self._coro: Any = None
        self._told_who = ""
        self.records = False  # the carrier has told that a machine does
        self._ears: list[Ear] = []
        self._changes = 0  # of what is heard
        self._acts = _ACTS

    # ------------------------------------------------------------ frames

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        passed = self.push_frame(frame, direction)
        act = self._acts.get(type(frame))
        if act is not None:
            act(self, frame)
            if self._waiting:
                self._look()
        elif type(frame) is StartFrame:
            self._task = self.create_task(self._run(), "program")
            if self._silence_s:
                self._alive_at = self._call.now()
                self._call.call_later(self._silence_s, self._check_silence)
        elif "frame" in self._call._handlers and not isinstance(frame, AudioRawFrame):
            self._call._tell("frame", frame)
        return passed

    def _digit(self, frame: Any) -> None:
        key = frame.button.value
        self.keys.append(key)
        if self._interruptible and not (self._stopped or self._cut):
            self._call.interrupt()
        self._call._tell("digit", key)

    def _started(self, frame: Frame) -> None:
        self._begun = self._speaking = True

    def _ended(self, frame: Frame) -> None:
        self._stopped, self._speaking = self._begun, False

    def _interrupted(self, frame: Frame) -> None:
        self._cut = True
        self._call._tell("interrupted")

    def _paused(self, frame: Frame) -> None:
        self._call._tell("paused")

    def _resumed(self, frame: Frame) -> None:
        self._call._tell("resumed")

    def _updated(self, frame: Any) -> None:
        self._call._tell("updated", frame.language)

    def _answered_by(self, frame: Any) -> None:
        self._changes += 1
        self.records = self.records or frame.beep
        if not (frame.beep and self._told_who == frame.who):
            self._told_who = frame.who
            self._call._tell("answered_by", frame.who)

    # ------------------------------------------------------------ hearing

    @contextmanager
    def listening(self) -> Iterator[Ear]:
        """Hear what the caller says. It costs, so only while somebody wants it."""
        ear = Ear(self.runtime, self._call.sample_rate, self._heard)
        self._ears.append(ear)
        self._acts = {**_ACTS, InputAudioRawFrame: Talk._audio}
        try:
            yield ear
        finally:
            ear.close()
            self._ears.remove(ear)
            if not self._ears:
                self._acts = _ACTS

    def _audio(self, frame: Any) -> None:
        for ear in self._ears:
            ear.hear(frame)

    def _heard(self) -> None:
        self._changes += 1
        self._look()

    # ------------------------------------------------------------ the program

    def _check_silence(self) -> None:
        """A program that waits for what never comes: nobody hears of it, and the caller hears nothing."""
        if self._task is None or self._ended_itself:
            return
        now = self._call.now()
        if self._is_active():
            self._alive_at = now
        left_s = self._alive_at + self._silence_s - now
        if left_s > 0.001:
            self._call.call_later(min(left_s, SILENCE_LOOK_S), self._check_silence)
            return
        at = self._waits_at(self._coro)
        problem = f"the program has done nothing for {self._silence_s:g} s" + (f": it waits at {at}" if at else "")
        self.push_error(problem, fatal=True)

    def _is_active(self) -> bool:
        """Something of the call will wake it, or it is heard, or it hears."""
        call = self._call
        busy = self._waiting or self._ears or call._handlers or self._speaks.locked() or self._speaking
        return bool(busy or call._is_paused or any(not recording.is_over for recording in call._recordings))

    async def _run(self) -> None:
        try:
            self._coro = self._program(self._call)
            await self._coro
        except Exception as exc:
            self.push_error(self._failed(exc), exc, fatal=True)
        else:
            self._ended_itself = True
            self._call.end("completed")

    def cleanup(self) -> MaybeAwaitable:
        done = super().cleanup()
        if self._task is None:
            return done
        task, self._task = self._task, None
        return self.cancel_task(task)

    # ------------------------------------------------------------ waiting

    async def until(self, done: Callable[[], bool], limit_s: float | None) -> bool:
        """Wait until a frame makes `done` true; False if it has not after `limit_s` on the call's clock."""
        if done():
            return True
        waiter = _Waiter(done)
        timer = self._call.call_later(limit_s, lambda: _settle(waiter)) if limit_s is not None else None
        self._waiting.append(waiter)
        try:
            await waiter.future
        finally:
            self._waiting.remove(waiter)
            if timer is not None:
                timer.cancel()
        return done()

    def _look(self) -> None:
        for waiter in self._waiting:
            if waiter.done():
                _settle(waiter)

    async def key(self, limit_s: float) -> str | None:
        """The next key; None if there is none in time."""
        return self.keys.popleft() if await self.until(lambda: bool(self.keys), limit_s) else None

    async def key_or_speech(self, ear: Ear, limit_s: float, asked: float) -> str | Utterance | None:
        """The next key, or what the caller says to what was `asked` then; None if he has begun neither in time."""

        def spoken() -> bool:
            while ear.said and ear.said[0].began < asked - EARLY_S and ear.said[0].ended < asked + EARLY_S:
                ear.said.popleft()
            return bool(ear.said)

        if not await self.until(lambda: bool(self.keys) or spoken(), limit_s) and ear.speaking:
            await self.until(lambda: bool(self.keys) or spoken(), UTTERANCE_S)
        if self.keys:
            return self.keys.popleft()
        return ear.said.popleft() if spoken() else None

    async def news(self, limit_s: float) -> None:
        """Until something is heard, or the carrier tells who has answered."""
        before = self._changes
        await self.until(lambda: self._changes != before, limit_s)

    async def play(self, prompts: Sequence[Prompt], *, interruptible: bool) -> bool:
        """One utterance; the next waits for its turn."""
        rate = self._call.info.send.sample_rate
        async with self._speaks:
            if interruptible and self.keys:
                return False
            self._begun = self._stopped = self._cut = False
            self._interruptible = interruptible
            length_s = sum(len(pcm) for prompt in prompts for pcm in prompt.chunks(rate)) / (2 * rate)
            say(self, prompts, rate)
            try:
                await self.until(lambda: self._stopped or self._cut, length_s + PLAY_GRACE_S)
            finally:
                self._interruptible = False
            return self._stopped and not self._cut


def _meanings(choices: Mapping[Any, Answer]) -> tuple[dict[str, Answer], dict[str, Answer]]:
    """What keys mean, and what phrases do, in the recogniser's spelling. ValueError: an empty choice, or none."""
    keys: dict[str, Answer] = {}
    phrases: dict[str, Answer] = {}
    for choice, answer in choices.items():
        for one in (choice,) if isinstance(choice, str) else choice:
            if one and _KEYS.fullmatch(one):
                keys[one] = answer
            elif spelt := plain(one):
                phrases[spelt] = answer
            else:
                raise ValueError(f"choices must be keys of a telephone, or English words, got {one!r}")
    if not keys and not phrases:
        raise ValueError("choices must be keys of a telephone, or English words, got none")
    return keys, phrases


def _settle(waiter: _Waiter) -> None:
    if not waiter.future.done():
        waiter.future.set_result(None)


_ACTS: Mapping[type, Callable[[Talk, Any], None]] = {
    InputDTMFFrame: Talk._digit,
    BotStartedSpeakingFrame: Talk._started,
    BotStoppedSpeakingFrame: Talk._ended,
    InterruptionFrame: Talk._interrupted,
    CallPausedFrame: Talk._paused,
    CallResumedFrame: Talk._resumed,
    CallUpdatedFrame: Talk._updated,
    AnsweredByFrame: Talk._answered_by,
}
