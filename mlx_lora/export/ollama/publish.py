"""Ollama publishing: GGUF, Modelfile, and a model that gets its name once it answers like the adapter in MLX."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.batch_encoding import common_length
from ...data.chat_template import encode_prompt, serving_notes
from ...engines.llamacpp.run import LlamaCppFailed
from ...engines.ollama import Ollama, check_name
from ...engines.reply import Reply
from ...errors import UserError
from ...files import write_atomic
from ...models.tokenizer import open_tokenizer
from ...user_files import read_text
from ..gguf.export import export_gguf
from ..gguf.lora import check_base, read_gguf_lora
from ..reference import CONVERSATION, drafted_answer, held_out
from ..resources import model_fits
from ..source import Source, read_source
from ..verification import ExportCheck, ExportReport, equal, publish_or_reject, refuse_existing
from .go_template import go_template
from .modelfile import OllamaModel, check_modelfile, stop_texts, write_modelfile

PROBE_TOKENS = 64
AUTO = "auto"
# Name of the check that another template than the one trained on fails.
PROMPT_TOKENS = "prompt tokens in Ollama"


@dataclass
class Wish:
    """Options of an Ollama export.

    Attributes:
        kind: type of the weights, as in ``export_gguf``.
        out: directory for GGUF and Modelfile; ``None`` for ``ollama`` in the run directory.
        gguf: weights that were exported before, used instead of new ones.
        adapter: a GGUF LoRA exported before, with ``gguf`` as its base; many servers do not support adapters.
        template: Ollama's template in Go's syntax, or "auto" to build it from the model's chat template; without it
            Ollama uses a built-in one that resembles the chat template in the GGUF.
        replace: an existing model of that name may be replaced.
        modelfile_only: write the files without using an Ollama server.
    """

    run: str
    name: str
    kind: str = "q4_k_m"
    host: str | None = None
    out: Path | None = None
    gguf: Path | None = None
    adapter: Path | None = None
    template: str | None = None
    replace: bool = False
    modelfile_only: bool = False


@dataclass
class Probe:
    """Probe question with the adapter's greedy answer in MLX; ``ended`` if it stopped before the token limit."""

    question: str
    prompt_tokens: int
    answer: str
    ended: bool


def export_ollama(wish: Wish, progress: Callable[[float], None] = lambda share: None) -> ExportReport:
    """Create a model in Ollama, compare its answer with the adapter's in MLX, and only then give it its name.

    All input, and Ollama itself, is checked before the weights are written. If Ollama fails afterwards, the verified
    GGUF stays.

    Args:
        progress: called with the share of the work that is done, from 0 to 1.

    Raises:
        UserError: bad input, the files or the model exist already, or Ollama is absent, refuses or crashes.
    """
    name = check_name(wish.name)
    source = read_source(wish.run, needs_adapter=True)
    weights, modelfile = _places(wish, source, name)
    if wish.adapter is not None:
        _check_adapter(wish.adapter, wish.gguf)
    tokenizer = open_tokenizer(source.model)
    stops = stop_texts(tokenizer, tokenizer.base_facts.ends)
    template = go_template(tokenizer, source.model.name) if wish.template == AUTO else wish.template
    model = OllamaModel(source.run.get("system_prompt"), stops, template, wish.adapter)
    notes = _checked_modelfile(wish, weights, model)
    if wish.gguf is not None:  # export_gguf reports it otherwise
        notes += serving_notes(tokenizer, model.system)
    if wish.modelfile_only:
        return _with_modelfile(_weights(wish, weights, lambda share: progress(0.95 * share)), modelfile, model, notes)
    with Ollama(wish.host) as server:
        server.version()
        if not wish.replace and server.exists(name):
            raise UserError(f"{server.url}: Ollama has a model {name} already; choose another --name, or use --replace")
        fits = model_fits(source)
        probe = _probe(source, tokenizer, model, None) if fits else None
        made = _weights(wish, weights, lambda share: progress(0.7 * share))
        report = _with_modelfile(made, modelfile, model, notes)
        if report.verdict == "rejected":
            return report
        probe = probe or _probe(source, tokenizer, model, weights)
        try:
            checks = _in_ollama(server, name, weights, model, probe, report, lambda share: progress(0.7 + 0.3 * share))
        except UserError as error:
            raise UserError(f"{error}; {weights} is complete, --gguf {weights} uses it again") from error
    return _concluded(wish, report, checks, weights, modelfile)


def _places(wish: Wish, source: Source, name: str) -> tuple[Path, Path]:
    """Return the paths of the GGUF and the Modelfile; raise UserError if they cannot be used."""
    plain = name.replace("/", "-").replace(":", "-")
    folder = wish.out or source.directory / "ollama"
    weights = wish.gguf or folder / f"{plain}.{wish.kind}.gguf"
    modelfile = folder / f"{plain}.Modelfile"
    if wish.gguf is None:
        refuse_existing(weights)
        refuse_existing(modelfile)
    elif not wish.gguf.is_file():
        raise UserError(f"{wish.gguf}: there is no such file; without --gguf the weights are made anew")
    return weights, modelfile


def _check_adapter(adapter: Path, gguf: Path | None) -> None:
    if gguf is None:
        raise UserError(f"--adapter {adapter}: it needs its base as well, as --gguf FILE")
    if not adapter.is_file():
        raise UserError(f"{adapter}: there is no such file; `mlx-lora export gguf-lora` makes one")
    check_base(read_gguf_lora(adapter), gguf, str(adapter))


def _checked_modelfile(wish: Wish, weights: Path, model: OllamaModel) -> list[str]:
    """Return the notes on the Modelfile; a text that it cannot hold is an error only with ``modelfile_only``."""
    try:
        return check_modelfile(weights, model)
    except UserError as error:
        if wish.modelfile_only:
            raise
        return [f"no Modelfile was written: {error}"]


def _weights(wish: Wish, weights: Path, progress: Callable[[float], None]) -> ExportReport:
    if wish.gguf is not None:
        return ExportReport(str(weights), [])
    return export_gguf(wish.run, weights, wish.kind, progress)


def _with_modelfile(report: ExportReport, modelfile: Path, model: OllamaModel, notes: list[str]) -> ExportReport:
    """Write the Modelfile next to verified weights; an existing one with the same text is kept."""
    report.notes += notes
    if report.verdict == "rejected" or any(note.startswith("no Modelfile") for note in notes):
        return report
    text = write_modelfile(Path(report.file), model)
    if not (modelfile.is_file() and read_text(modelfile) == text):
        refuse_existing(modelfile)
        modelfile.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(modelfile, text)
        report.notes.append(f"the Modelfile is {modelfile}: `ollama create NAME -f` and its path does the same by hand")
    return report


def _probe(source: Source, tokenizer: Any, model: OllamaModel, drafting: Path | None) -> Probe:
    """Answer the shortest of the run's held-out questions, or a built-in one, greedily in MLX.

    Args:
        drafting: the exported file, for a model that does not fit in memory; else ``None``.
    """
    questions = [m["content"] for chat in held_out(source) for m in chat if m["role"] == "user" and m["content"]]
    question = min(questions, key=len, default=CONVERSATION[0]["content"])
    messages = [{"role": "system", "content": model.system}] if model.system else []
    prompt = encode_prompt(tokenizer, [*messages, {"role": "user", "content": question}])
    if drafting is None:
        backend = source.load()
        answer = backend.generate([prompt], PROBE_TOKENS, 0.0, 0)[0]
        # Its memory is needed by the next step.
        del backend
        gc.collect()
    else:
        ends = set(tokenizer.base_facts.ends)
        try:
            found = drafted_answer(source, drafting, prompt, PROBE_TOKENS, ends)
        except LlamaCppFailed as error:
            raise UserError(f"{drafting}: llama.cpp cannot run this file ({error}); export it again") from error
        answer = tokenizer.decode(found[:-1] if found[-1] in ends else found)
    length = len(tokenizer.encode(answer, add_special_tokens=False))
    return Probe(question, len(prompt), answer, length < PROBE_TOKENS - 1)


def _in_ollama(
    server: Ollama,
    name: str,
    weights: Path,
    model: OllamaModel,
    probe: Probe,
    report: ExportReport,
    progress: Callable[[float], None],
) -> list[ExportCheck]:
    """Create the model under a temporary name, query it, and copy it to its own name if it passed."""
    size = weights.stat().st_size
    body = {"files": {"model.gguf": server.upload(weights, lambda done: progress(0.5 * done / size))}}
    if model.adapter is not None:
        body["adapters"] = {"adapter.gguf": server.upload(model.adapter)}
    with _passing_name(server, name) as passing:
        _create(server, passing, {**body, **model.request()})
        progress(0.8)
        reply = server.generate(passing, probe.question, 2 * PROBE_TOKENS)
        checks = _compared(probe, reply)
        report.notes += [f"asked: {probe.question}", f"the adapter in MLX: {probe.answer}", f"Ollama: {reply.text}"]
        if all(check.passed for check in checks):
            server.copy(passing, name)
            report.notes.append(f"`ollama run {name}` runs it")
    progress(1.0)
    return checks


def _create(server: Ollama, name: str, body: dict[str, Any]) -> None:
    try:
        server.create(name, body)
    except UserError as error:
        if "adapters" not in body:
            raise
        raise UserError(f"{error} (newer servers take no LoRA; without --adapter fused weights are sent)") from error


@contextmanager
def _passing_name(server: Ollama, name: str) -> Iterator[str]:
    """Yield a temporary tag of the model name, deleted afterwards in any case."""
    passing = f"{name.rpartition(':')[0]}:unverified-{os.getpid()}"
    try:
        yield passing
    except BaseException:
        try:
            if server.exists(passing):
                server.delete(passing)
        except UserError:
            pass  # the first error is the one to report
        raise
    server.delete(passing)


def _compared(probe: Probe, reply: Reply) -> list[ExportCheck]:
    """Compare Ollama's answer with the adapter's in MLX.

    Quantized weights may choose other words, so the agreement of the texts is only reported; the template and the end
    of the answer must be right with any weights.
    """
    said = reply.prompt_tokens or "not said"
    ours, theirs = probe.answer.strip(), (reply.text or "").strip()
    checks = [
        ExportCheck(PROMPT_TOKENS, said, probe.prompt_tokens, said in ("not said", probe.prompt_tokens)),
        equal("Ollama answers", "yes" if theirs else "no", "yes" if ours else "no"),
    ]
    if probe.ended:
        checks.append(equal("its answer ends by itself", "yes" if reply.stopped else "no", "yes"))
    reported = [
        ("characters alike from the start", common_length(ours, theirs), f"of {len(ours)}"),
        ("tokens per second", reply.tokens_per_second or 0.0, "reported"),
        ("seconds to load", reply.load_s or 0.0, "reported"),
    ]
    return checks + [ExportCheck(what, value, limit, True) for what, value, limit in reported]


def _concluded(
    wish: Wish, report: ExportReport, checks: list[ExportCheck], weights: Path, modelfile: Path
) -> ExportReport:
    """Build the final report; if the model failed in Ollama, reject the GGUF as well, unless it is the user's own."""
    everything = report.checks + checks
    if all(check.passed for check in checks):
        return ExportReport(report.file, everything, report.notes)
    notes = [note for note in report.notes if not note.startswith("the Modelfile is")]
    if len(notes) < len(report.notes):
        # It was just written, and a FROM without a file would make Ollama download a model.
        modelfile.unlink(missing_ok=True)
    failed = {check.name for check in checks if not check.passed}
    if PROMPT_TOKENS in failed:
        notes.append("Ollama's template makes another prompt than the one trained on; try --template auto")
    if wish.gguf is not None:
        return ExportReport(report.file, everything, notes)
    return publish_or_reject(weights, weights, everything, notes)
