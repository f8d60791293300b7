"""Replies of other programs that run models: an answer or a sentence that says why there is none, and its timings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from ..data.batch_encoding import common_length

Messages = Sequence[dict[str, Any]]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Reply:
    """Answer to one conversation.

    Attributes:
        text: the answer; ``None`` if there is none.
        error: the reason that there is no answer, in one sentence.
        prompt_tokens, completion_tokens: as the program counts them; 0 if it does not.
        seconds: time from the request to the end of the answer, retries included.
        first_token_s: time to the first token: the program's own figure, or measured if the answer was streamed.
        tokens_per_second: generation speed after the prompt was read; ``None`` if there is no figure.
        timed_by_client: ``tokens_per_second`` is measured here, since the program reports none.
        load_s: time until the model was in memory, if this request loaded it.
        stopped: the answer ended by itself, not at the token limit.
    """

    text: str | None
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    first_token_s: float | None = None
    tokens_per_second: float | None = None
    load_s: float | None = None
    stopped: bool = False
    timed_by_client: bool = False


@dataclass
class Likelihood:
    """Natural log-probabilities of a continuation's tokens.

    Attributes:
        greedy: every token is the top-1 token at its place.
    """

    logprobs: list[float] = field(default_factory=list)
    greedy: bool = True

    @property
    def total(self) -> float:
        """Log-probability of the whole continuation."""
        return sum(self.logprobs)


@dataclass(frozen=True)
class Opening:
    """Token that begins a text, in a program's tokenizer.

    Attributes:
        text: the token as text; ``None`` if the program does not tell.
        added: raw texts are read with it in front.
    """

    text: str | None
    added: bool

    def before(self, text: str) -> str:
        """Return a raw text with the token in front, where it is added and not there already."""
        missing = self.added and self.text and not text.startswith(self.text)
        return f"{self.text}{text}" if missing else text


def continuation_start(prompt: Sequence[int], tokens: Sequence[int]) -> int:
    """Return the place in ``tokens``, of prompt and continuation together, of the first that the prompt has not.

    The first token of all has no log-probability, so it is never 0.
    """
    return max(1, common_length(prompt, tokens))


def rate(tokens: float, seconds: float) -> float | None:
    """Return tokens a second; ``None`` where either is unknown or 0."""
    return tokens / seconds if tokens > 0 and seconds > 0 else None


def seed_of(seed: int | Sequence[int], number: int) -> int:
    """Return the seed of one conversation: the same for all, or its own."""
    return seed if isinstance(seed, int) else seed[number]


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[tuple[int, Result]]:
    """Yield (index, result) of each item as soon as it is done, computed by some threads at a time.

    The caller may stop early: no new item is begun then. Threads are daemons, so that a server that hangs does not
    keep the process alive.

    Raises:
        BaseException: whatever ``work`` raised.
    """
    done: SimpleQueue[tuple[int, Result | None, BaseException | None]] = SimpleQueue()
    waiting = iter(range(len(items)))

    def begin() -> bool:
        number = next(waiting, None)
        if number is not None:
            Thread(target=run, args=(number,), daemon=True).start()
        return number is not None

    def run(number: int) -> None:
        try:
            done.put((number, work(items[number]), None))
        except BaseException as error:
            done.put((number, None, error))

    running = sum(begin() for _ in range(max(1, workers)))
    while running:
        number, result, error = done.get()
        if error is not None:
            raise error
        running -= 1
        running += begin()
        yield number, result  # type: ignore[misc]
