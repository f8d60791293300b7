"""GGUF model in llama.cpp: answers to conversations and log-probabilities, by one process that loads the file once."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ...data.chat_template import render
from ...errors import UserError
from ...processes import python_command
from ..reply import Likelihood, Messages, Opening, Reply, continuation_start, rate, seed_of
from .run import HOW_TO_GET, LlamaCppFailed, bindings, failure, worker_environment

PIECE = 1 << 16
LOG_BYTES = 1 << 16


class StoredTemplate:
    """The chat template in a GGUF file, as the tokenizer that ``data.chat_template.render`` takes."""

    def __init__(self, name: str, template: str | None, special: dict[str, str]) -> None:
        self.name_or_path, self.chat_template, self.special = name, template, special

    def apply_chat_template(self, messages: Any, tools: Any, tokenize: bool, **options: Any) -> str:
        """Render as a tokenizer of transformers does."""
        from transformers.utils.chat_template_utils import render_jinja_template

        found = render_jinja_template([messages], tools, chat_template=self.chat_template, **self.special, **options)
        return found[0][0]


class GGUFModel:
    """Model of a GGUF file; a context manager, which ends its process.

    Attributes:
        load_s: seconds to load the file.
        context: tokens that the model was trained to read.
        opening: beginning (or else end) of text as a text, and True if the tokenizer puts it before every text.
        peak_bytes: the largest resident memory of the process so far, mapped weights included.
    """

    def __init__(self, file: str | Path, *, lora: str | Path | None = None, seconds: float = 900.0) -> None:
        """Load a file.

        Args:
            lora: a GGUF LoRA adapter; only llama-cpp-python applies one.
            seconds: time limit of one conversation, and of loading.

        Raises:
            UserError: there is no such file or no llama.cpp, or llama.cpp cannot load the file.
        """
        if not bindings():
            raise UserError(f"{file}: a GGUF file is asked in llama.cpp, and none is installed; {HOW_TO_GET}")
        self.file, self.seconds, self.peak_bytes = Path(file), seconds, 0
        paths = [str(Path(path).absolute()) for path in (file, lora) if path is not None]
        if missing := [path for path in paths if not Path(path).is_file()]:
            raise UserError(f"{missing[0]}: there is no such file")
        self._command = python_command("mlx_lora.engines.llamacpp.session_worker", bindings()[0], *paths)
        self._folder = tempfile.TemporaryDirectory(prefix="mlx-lora-")
        self._process: subprocess.Popen[bytes] | None = None
        try:
            facts = self._start()
        except LlamaCppFailed as error:
            self.close()
            raise UserError(f"{file}: llama.cpp cannot run this file ({error})") from error
        self.load_s, self.context = float(facts["load_s"]), int(facts["context"])
        special = facts["special"]
        self.opening = Opening(special.get("bos_token", special.get("eos_token")), bool(facts["adds_bos"]))
        self._template = StoredTemplate(str(file), facts["template"], facts["special"])

    def __enter__(self) -> GGUFModel:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._stop()
        self._folder.cleanup()

    def render(self, messages: Messages) -> str:
        """Return the prompt of a conversation, by the template in the file.

        Raises:
            UserError: the file has no chat template, or it refuses the conversation.
        """
        return render(self._template, messages, generate=True)

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, special tokens parsed and none added.

        Raises:
            LlamaCppFailed: the process died.
        """
        return self._ask({"action": "tokenize", "text": text})["tokens"]

    def chat(
        self,
        conversations: Sequence[Messages],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
    ) -> Iterator[tuple[int, Reply]]:
        """Yield (index, reply) of each conversation, in their order; one that fails has a reply without a text.

        Args:
            seed: one for all, or one for each conversation.

        Raises:
            UserError: the file has no chat template.
        """
        if conversations and self._template.chat_template is None:
            raise UserError(f"{self.file}: this file has no chat template, so it cannot be asked anything")
        prompts = [partial(self.render, messages) for messages in conversations]
        yield from self._replies(prompts, max_tokens, temperature, seed)

    def complete(
        self, texts: Sequence[str], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[tuple[int, Reply]]:
        """Yield (index, reply) of each raw text, which is continued; see ``chat``."""
        prompts = [partial(self.opening.before, text) for text in texts]
        yield from self._replies(prompts, max_tokens, temperature, seed)

    def _replies(
        self, prompts: Sequence[Callable[[], str]], max_tokens: int, temperature: float, seed: int | Sequence[int]
    ) -> Iterator[tuple[int, Reply]]:
        for number, prompt in enumerate(prompts):
            started = time.monotonic()
            try:
                reply = self._reply(prompt(), max_tokens, temperature, seed_of(seed, number))
            except (UserError, LlamaCppFailed) as error:
                said = str(error) if isinstance(error, UserError) else f"{self.file}: llama.cpp {error}"
                reply = Reply(None, said)
            reply.seconds = time.monotonic() - started
            yield number, reply

    def _reply(self, text: str, max_tokens: int, temperature: float, seed: int) -> Reply:
        prompt = self.tokenize(text)
        if len(prompt) >= self.context:
            raise UserError(f"{self.file}: the prompt has {len(prompt):,} tokens, and the context {self.context:,}")
        most = min(max_tokens, self.context - len(prompt))
        wish = {"prompt": prompt, "max_tokens": most, "temperature": temperature, "seed": seed}
        found = self._ask({"action": "answer", **wish})
        return Reply(
            found["text"],
            prompt_tokens=len(prompt),
            completion_tokens=found["tokens"],
            first_token_s=found["first"],
            # The first token comes with the prompt.
            tokens_per_second=rate(found["tokens"] - 1, found["last"] - found["first"]),
            stopped=found["stopped"],
        )

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood | None]:
        """Return the log-probabilities of (prompt, continuation) pairs of raw texts; ``None`` for a pair that failed.

        Special tokens in the texts count as such. A token that spans the end of the prompt belongs to the continuation.
        """
        return [self._likelihood(*pair) for pair in pairs]

    def _likelihood(self, prompt: str, continuation: str) -> Likelihood | None:
        try:
            first, tokens = self.tokenize(prompt), self.tokenize(prompt + continuation)
            start = continuation_start(first, tokens)
            if start >= len(tokens):
                return Likelihood()
            if len(tokens) > self.context:
                return None
            found = self._ask({"action": "score", "tokens": tokens, "start": start})
        except LlamaCppFailed:
            return None
        return Likelihood(found["logprobs"], found["greedy"])

    def _start(self) -> dict[str, Any]:
        self._pending = b""
        with open(self._log, "wb") as log:
            # A fresh working directory: ggml loads backends that it finds in the current one.
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder.name,
                env=worker_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        return self._line()

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "log"

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # of a process that died: its log says why
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        found = self._line()
        self.peak_bytes = max(self.peak_bytes, found["peak"])
        if "error" in found:
            raise LlamaCppFailed(f"failed: {found['error']}")
        return found

    def _line(self) -> dict[str, Any]:
        """Return the next line of the process; one that died or is silent for too long is ended.

        Raises:
            LlamaCppFailed: so it did.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        pipe, until = self._process.stdout.fileno(), time.monotonic() + self.seconds
        while b"\n" not in self._pending:
            ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
            piece = os.read(pipe, PIECE) if ready else b""
            if not piece:
                if not ready:
                    self._process.kill()
                    self._stop()
                    raise LlamaCppFailed(f"did not finish within {self.seconds:g} seconds")
                raise failure(self._stop(), self._last_words())
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)

    def _last_words(self) -> str:
        with open(self._log, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_BYTES))
            return log.read().decode(errors="replace")

    def _stop(self) -> int:
        """End the process; return its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            return process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
