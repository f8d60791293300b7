"""Export of a generation in the night: GGUF, a model in Ollama under its own name, and last the alias of what is live.

Each export has a record, ``exports/0007/export.json``, written before and after what it records, so that the next run
completes what was cut, and only models that it names are ever replaced or deleted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..backends.adapter_format import ADAPTER_FILE
from ..engines.ollama import Ollama, check_name
from ..errors import UserError, first_line, guarded
from ..export.gguf.export import export_gguf
from ..export.ollama.publish import AUTO, PROBE_TOKENS, PROMPT_TOKENS, Wish, export_ollama
from ..export.verification import ExportReport
from ..files import FORMAT, check_format, remove_any, sha256_of, write_json, writing
from ..runs.generations import Generations
from ..user_files import read_text
from .config import ExportConfig

# Makes a progress bar of a description and a total.
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
EXPORTS, EXPORT_FILE, ALIAS_FILE = "exports", "export.json", "alias.json"
# Written without llama.cpp's quantizer, and hardly worse than the adapter itself.
DEFAULT_TYPE = "q8_0"
LIVE_TAG = "live"


def export_generation(
    generations: Generations, number: int, export: ExportConfig, out: Path, progress: Bar
) -> dict[str, Any]:
    """Export a generation as the config asks, and point the alias at it last; run again, it completes what was cut.

    Args:
        out: directory of this generation's files, ``NAME/exports/0007``.

    Returns:
        ``{"gguf", "type"}`` and with Ollama ``{"ollama", "alias", "checks"}``, or ``{"failed": sentence}``: the alias
        is then as it was.
    """
    try:
        with guarded(f"{out}: the export failed"):
            found = _exported(generations, number, export, out, progress)
    except UserError as error:
        return {"failed": first_line(error)}
    try:
        collect_exports(generations)
    except UserError as error:
        found["notes"] = f"older exports are still there: {first_line(error)}"
    return found


def point_alias(generations: Generations, number: int | None, export: ExportConfig) -> None:
    """Point the alias at a generation's model, as after a rollback; at ``None``, the base, the alias is deleted.

    Raises:
        UserError: the generation has no model in Ollama, or Ollama is absent or refuses; the alias stays as it was.
    """
    if export.ollama is None:
        return
    alias, file = _model(export.ollama, LIVE_TAG), generations.directory / EXPORTS / ALIAS_FILE
    with Ollama(export.host) as server:
        if number is None:
            if _of(_read(file), alias, server) and server.exists(alias):
                server.delete(alias)
            return
        model = _model(export.ollama, f"gen-{number}")
        place = generations.directory / EXPORTS / f"{number:04d}"
        if not _of(_read(place / EXPORT_FILE), model, server) or not server.exists(model):
            raise UserError(
                f"{server.url}: Ollama has no model {model} of this adapter, and {alias} stays as it was; "
                f"`mlx-lora export ollama --run {generations.path(number)} --name {alias} --replace` makes one"
            )
        _point(server, model, alias, file)


def collect_exports(generations: Generations) -> list[int]:
    """Delete the exports of generations that are gone, models of ours included; return their numbers.

    A model that was made again under its name is somebody else's, and stays.

    Raises:
        UserError: Ollama is absent or refuses; what it has is deleted another night.
    """
    kept, collected = set(generations.numbers()), []
    for place in sorted((generations.directory / EXPORTS).glob("[0-9]" * 4)):
        number = int(place.name)
        if number in kept:
            continue
        record = _read(place / EXPORT_FILE)
        if record.get("digest"):
            with Ollama(record["host"]) as server:
                if server.digest(record["model"]) == record["digest"]:
                    server.delete(record["model"])
        remove_any(place)
        collected.append(number)
    return collected


def _exported(generations: Generations, number: int, export: ExportConfig, out: Path, progress: Bar) -> dict[str, Any]:
    run = generations.path(number)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    record = _begin(out, run, number)
    kind = export.gguf or DEFAULT_TYPE
    weights = out / f"{generations.directory.resolve().name}-gen-{number}.{kind}.gguf"
    if not weights.exists():
        with progress(f"generation {number} as {kind}", 100) as advance:
            _verified(export_gguf(str(run), weights, kind, lambda share: advance(round(100 * share))))
    found: dict[str, Any] = {"gguf": str(weights), "type": kind}
    if export.ollama is None:
        return found
    model, alias = (_model(export.ollama, tag) for tag in (f"gen-{number}", LIVE_TAG))
    alias_file = generations.directory / EXPORTS / ALIAS_FILE
    with Ollama(export.host) as server:
        server.version()
        _check_alias(alias_file, alias, server)
        if not _of(record, model, server) or record["digest"] is None or record["digest"] != server.digest(model):
            _make(server, model, record, out, weights, run, progress)
        _ask(server, model, record)
        found |= {"ollama": model, "checks": record["checks"]}
        # Somebody may have gone back to another generation in the meantime.
        if generations.live == number:
            _point(server, model, alias, alias_file)
            found["alias"] = alias
    return found


def _begin(out: Path, run: Path, number: int) -> dict[str, Any]:
    """Return the record of an export that was cut, or a new one."""
    sha256, record = sha256_of(run / ADAPTER_FILE), _read(out / EXPORT_FILE)
    if record.get("adapter_sha256") not in (None, sha256):
        raise UserError(f"{out}: this is the export of another adapter than {run}; move it away")
    if not record:
        record = {"format": FORMAT, "generation": number, "adapter_sha256": sha256}
        write_json(out / EXPORT_FILE, record)
    return record


def _make(
    server: Ollama, model: str, record: dict[str, Any], out: Path, weights: Path, run: Path, progress: Bar
) -> None:
    """Create the generation's model, compared with the adapter in MLX, and record it."""
    file = out / EXPORT_FILE
    if not _of(record, model, server):
        if server.exists(model):
            raise UserError(
                f"{server.url}: Ollama has a model {model} already that is not of this adapter; delete it "
                "(`ollama rm`), or choose another name in export: ollama"
            )
    elif server.exists(passing := f"{model.rpartition(':')[0]}:unverified-{record.get('process')}"):
        # Of a process that was killed.
        server.delete(passing)
    # From here on a model of this name is ours.
    record |= {"model": model, "host": server.url, "process": os.getpid(), "digest": None}
    write_json(file, record)
    with progress(f"{model} in Ollama", 100) as advance:
        wish = Wish(str(run), model, host=server.url, out=out, gguf=weights, replace=True)
        # One of a process that was killed may be of another template.
        for modelfile in out.glob("*.Modelfile"):
            remove_any(modelfile)
        report = export_ollama(wish, lambda share: advance(round(100 * share)))
        if any(check.name == PROMPT_TOKENS and not check.passed for check in report.checks):
            # Ollama's own template is another than the model's, and nobody is awake to choose.
            wish.template = AUTO
            report = export_ollama(wish, lambda share: advance(round(100 * share)))
        _verified(report)
    record |= {
        "question": next((n.removeprefix("asked: ") for n in report.notes if n.startswith("asked: ")), "Hello"),
        "answered": any(check.name == "Ollama answers" and check.value == "yes" for check in report.checks),
        "checks": report.to_dict()["checks"],
        "digest": server.digest(model),
    }
    write_json(file, record)


def _ask(server: Ollama, model: str, record: dict[str, Any]) -> None:
    """Ask the model under its own name, as its users will.

    Raises:
        UserError: it does not answer any more.
    """
    reply = server.generate(model, record["question"], PROBE_TOKENS)
    if record["answered"] and not (reply.text or "").strip():
        raise UserError(f"{server.url}: {model} gives an empty answer; the alias stays as it was")


def _check_alias(file: Path, alias: str, server: Ollama) -> None:
    if not _of(_read(file), alias, server) and server.exists(alias):
        raise UserError(
            f"{server.url}: Ollama has a model {alias} already that is not of this adapter; delete it (`ollama rm`), "
            "or choose another name in export: ollama"
        )


def _of(record: dict[str, Any], model: str, server: Ollama) -> bool:
    """Return True if a record says that a model of this server is ours."""
    return record.get("model") == model and record.get("host") == server.url


def _point(server: Ollama, model: str, alias: str, file: Path) -> None:
    """Point the alias at a model: one request, which the server carries out whole or not at all."""
    if not _of(_read(file), alias, server):
        _check_alias(file, alias, server)
        write_json(file, {"format": FORMAT, "model": alias, "host": server.url})
    server.copy(model, alias)


def _verified(report: ExportReport) -> ExportReport:
    if report.verdict != "verified":
        failed = "; ".join(f"{c.name}: {c.value}, not {c.limit}" for c in report.checks if not c.passed)
        raise UserError(f"{report.file}: the export was rejected ({failed})")
    return report


def _model(name: str, tag: str) -> str:
    return check_name(f"{name}:{tag}")


def _read(file: Path) -> dict[str, Any]:
    """Return a record, ``{}`` if there is none.

    Raises:
        UserError: it is broken.
    """
    if not file.exists():
        return {}
    try:
        content = json.loads(read_text(file))
        check_format(content, file)
        return dict(content)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file}: this record of an export cannot be read ({first_line(error)}); move it away"
        ) from None
