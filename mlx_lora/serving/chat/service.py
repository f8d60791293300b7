"""Chat service: a bounded queue of requests, answered by one thread in running batches.

Requests to one model with one adapter grow together; those to others take turns with them, so that nobody waits for
the longest answer of another model.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...backends.answering import TokenScore
from ...errors import UserError
from ..api_error import ApiError
from ..settings import ServerSettings
from ..state import State
from .answering import Answering, Options, PromptScores
from .catalogue import Catalogue, ServedModel
from .engine import Engine
from .predictors import Predictors
from .prompts import Tokenizers, encode_conversation, encode_raw
from .sources import Sources

# Answers that grow at a time; beyond them, one of each model that has none.
ROWS = 32
# Requests that join between two steps: each holds up the others for as long as its prompt takes.
JOINS = 4
# Seconds of a model's turn while others wait.
TURN = 1.0
# Seconds that the thread may take to end.
END = 30.0

Key = tuple[Any, Any]
LOG = logging.getLogger("mlx_lora.serving")


def key_of(model: ServedModel) -> Key:
    """Return the key of what is in use for a model: base and adapter."""
    return model.base_key, model.adapter_key


class ChatService:
    """Answers to conversations and raw texts, from any thread."""

    def __init__(self, settings: ServerSettings, state: State) -> None:
        self.settings, self.catalogue = settings, Catalogue(settings, state)
        self.predictors = Predictors(self.catalogue.directory_of)
        self.tokenizers = Tokenizers()
        self.sources = Sources(settings.index)
        self._changed = threading.Condition()
        self._waiting: list[Answering] = []
        # The engine's thread alone uses what follows.
        self._engine = Engine(settings.backend, settings.most_bases)
        self._growing: dict[Key, dict[int, Answering]] = {}
        self._last: Key | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="chat", daemon=True)

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; requests that are not answered yet get an error."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(END)

    def ask(
        self, model: str, prompt: Sequence[dict[str, Any]] | Sequence[int] | str, options: Options, tools: Any = None
    ) -> Answering:
        """Put a request into the queue and return its answer, which grows from then on.

        Args:
            prompt: messages, a raw text, or token ids.

        Raises:
            ApiError: 404, there is no such model; 400, the prompt cannot be read, or is too long for it; 429, too many
                requests wait; 503, the server stops.
        """
        found = self.catalogue.find(model)
        try:
            tokenizer = self.tokenizers.of(found)
        except UserError as error:
            raise ApiError(404, f"{error}.", "model_not_found", "model") from error
        raw = isinstance(prompt, str) or not prompt or isinstance(prompt[0], int)
        ids = encode_raw(tokenizer, prompt) if raw else encode_conversation(tokenizer, found, prompt, tools)  # type: ignore[arg-type]
        answering = Answering(found, ids, self._fitted(tokenizer, ids, options, raw), tokenizer, self._wake)
        with self._changed:
            if self._stopping:
                raise ApiError(503, "The server is stopping.", "stopping")
            self._waiting = [one for one in self._waiting if not one.cancelled]
            if len(self._waiting) >= self.settings.most_requests_waiting:
                said = f"{len(self._waiting)} requests wait already; send it again later."
                raise ApiError(429, said, "queue_full")
            self._waiting.append(answering)
            self._changed.notify_all()
        return answering

    def _fitted(self, tokenizer: Any, ids: list[int], options: Options, raw: bool) -> Options:
        """Return options whose answer is no longer than the server's limit and the model's context."""
        context = tokenizer.base_facts.context
        room = self.settings.most_tokens if context is None else context - len(ids)
        if room < min(1, options.sampling.max_tokens):
            said = f"The prompt has {len(ids):,} tokens, and the model has a context of {context:,}; shorten it."
            raise ApiError(400, said, "context_length_exceeded", "prompt" if raw else "messages")
        most = min(options.sampling.max_tokens, room, self.settings.most_tokens)
        return replace(options, sampling=replace(options.sampling, max_tokens=most))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # The engine's thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._waiting or self._growing)
                if self._stopping:
                    break
                self._waiting = [one for one in self._waiting if not one.cancelled]
            model = self._next_model()
            if model is not None:
                try:
                    self._take_turn(model)
                except Exception as error:
                    self._fail(model, error)
        stopping = ApiError(503, "The server is stopping.", "stopping")
        for answering in [*self._waiting, *(one for rows in self._growing.values() for one in rows.values())]:
            answering.put(stopping)

    def _wanted(self) -> list[ServedModel]:
        """Return a model of each key that has answers to grow: those in batches first, then in the queue's order."""
        models = [next(iter(rows.values())).model for rows in self._growing.values() if rows]
        models += [one.model for one in self._joinable()]
        found: dict[Key, ServedModel] = {}
        for model in models:
            found.setdefault(key_of(model), model)
        return list(found.values())

    def _joinable(self) -> list[Answering]:
        """Return the waiting requests before the first one whose base has no room.

        Those after it let the bases in use become idle, or it would wait for as long as others come.
        """
        with self._changed:
            waiting = [one for one in self._waiting if not one.cancelled]
        blocked = (place for place, one in enumerate(waiting) if not self._engine.can_use(one.model))
        return waiting[: next(blocked, len(waiting))]

    def _next_model(self) -> ServedModel | None:
        """Return the model whose turn it is: the one after the last."""
        wanted = self._wanted()
        keys = [key_of(model) for model in wanted]
        place = keys.index(self._last) + 1 if self._last in keys else 0
        return wanted[place % len(wanted)] if wanted else None

    def _take_turn(self, model: ServedModel) -> None:
        """Let a model's answers grow until there are none, or others have waited for long enough."""
        key, until = key_of(model), time.monotonic() + TURN
        self._last = key
        rows = self._growing.setdefault(key, {})
        backend, batch = self._engine.use(model)
        while not self._stopping:
            for _ in range(JOINS):
                if not self._admit(key, backend, batch, rows):
                    break
            self._free_cancelled(batch, rows)
            if not rows:
                break
            for new in batch.step():
                rows[new.row].put(new)
                if new.finish is not None:
                    del rows[new.row]
            if time.monotonic() > until and any(key_of(other) != key for other in self._wanted()):
                break
        if not rows:
            del self._growing[key]

    def _admit(self, key: Key, backend: Any, batch: Any, rows: dict[int, Answering]) -> bool:
        """Let a waiting request of the model join the batch, if there is room; return True if one did."""
        if rows and sum(map(len, self._growing.values())) >= ROWS:
            return False
        answering = next((one for one in self._joinable() if key_of(one.model) == key), None)
        if answering is None:
            return False
        with self._changed:
            # It may have been cancelled in the meantime, and then be gone.
            self._waiting = [one for one in self._waiting if one is not answering]
        # From here on, an error is this request's too.
        rows[-1] = answering
        prompt, sampling = answering.prompt, answering.options.sampling
        scores: list[TokenScore] | None = [] if answering.options.scores else None
        if sampling.max_tokens:
            rows[batch.join(prompt, sampling, scores)] = answering
        elif scores is not None:
            scores += backend.score_tokens(prompt, sampling.top or 0)
        if scores is not None:
            answering.put(PromptScores(scores))
        if not sampling.max_tokens:
            answering.put(None)
        del rows[-1]
        return True

    @staticmethod
    def _free_cancelled(batch: Any, rows: dict[int, Answering]) -> None:
        for row in [row for row, answering in rows.items() if answering.cancelled]:
            batch.leave(row)
            del rows[row]

    def _fail(self, model: ServedModel, error: Exception) -> None:
        """Answer the requests of a model that failed with the error; one that nothing foresees takes its base along."""
        failed = {key_of(model)}
        if isinstance(error, UserError):
            said = ApiError(400, f"{error}.", "model_failed", "model")
            self._engine.forget_batch(model)
        else:
            LOG.error("the chat failed: a defect of mlx-lora", exc_info=error)
            said = ApiError(500, f"The server failed on this request ({type(error).__name__}).", "internal_error")
            self._engine.forget(model)
            failed |= {key for key in self._growing if key[0] == model.base_key}
        with self._changed:
            answerings = [one for one in self._waiting if key_of(one.model) == key_of(model)]
            self._waiting = [one for one in self._waiting if key_of(one.model) != key_of(model)]
        for key in failed:
            answerings += self._growing.pop(key, {}).values()
        for answering in answerings:
            answering.put(said)
