"""``mlx-lora experience``: collect an agent's experience buffer, safe with several writers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..data.dataset import is_text
from ..errors import UserError
from ..user_files import read_standard_input
from .output import finite, json_option, print_json, print_table, say

EXCHANGE: dict[str, type] = {
    "prompt": str,
    "response": str,
    "session": int,
    "phase": str,
    "metadata": dict,
    "tool_calls": list,
}
KINDS = {str: "text", int: "a whole number", dict: "an object", list: "a list"}
buffer_option = click.option(
    "--buffer", type=click.Path(path_type=Path), required=True, help="The buffer, a JSON file; add makes it."
)


@click.group()
def experience() -> None:
    """Collect what an agent should remember; `mlx-lora data salience` makes a dataset of it."""


@experience.command()
@click.argument("source", required=False)
@buffer_option
@click.option("--prompt", help="What the agent was asked; - takes it from JSON on standard input.")
@click.option("--response", help="What it answered; - takes it from JSON on standard input.")
@click.option("--session", type=int, help="Number of the session.")
@click.option("--phase", help="Phase of the agent's curriculum.")
@click.option("--metadata", help='JSON object, such as \'{"machine": "den"}\'.')
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    callback=finite,
    help="Salience from which an exchange is stored.",
)
@json_option
def add(
    source: str | None,
    buffer: Path,
    prompt: str | None,
    response: str | None,
    session: int | None,
    phase: str | None,
    metadata: str | None,
    threshold: float,
    as_json: bool,
) -> None:
    """Score an exchange and store it if it is salient and new.

    With - exchanges come from standard input, one JSON object a line, with the keys prompt and response, and
    session, phase, metadata and tool_calls if you like. Several programs may add to one buffer at the same time.

    \b
    mlx-lora experience add --buffer buffer.json --prompt "What did you notice?" --response "We found ..."
    my-agent | mlx-lora experience add --buffer buffer.json -
    """
    if source not in (None, "-"):
        raise UserError(f"{source}: exchanges come from --prompt and --response, or from standard input with -")
    about = None if metadata is None else _object(metadata, "--metadata")
    options = {"prompt": prompt, "response": response, "session": session, "phase": phase, "metadata": about}
    given = {key: value for key, value in options.items() if value not in (None, "-")}
    if "-" in (source, prompt, response):
        exchanges = [{**row, **given} for row in _exchanges(read_standard_input())]
    else:
        exchanges = [given]
    for exchange in exchanges:
        if "prompt" not in exchange or "response" not in exchange:
            raise UserError("an exchange has a prompt and a response; give both, or - to read them as JSON")
    results = _add_all(buffer, threshold, exchanges)
    if as_json:
        one = results[0] if len(results) == 1 and source is None else None
        stored = sum(result["stored"] for result in results)
        print_json({"buffer": str(buffer), **(one or {"stored": stored, "results": results})})
    else:
        for result in results:
            say(_sentence(result, threshold))


def _exchanges(content: bytes) -> list[dict[str, Any]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text ({error.reason}); convert it") from None
    try:
        # One object over several lines, or one a line.
        whole = json.loads(text)
        return [_exchange(whole, "standard input")]
    except (ValueError, RecursionError):
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError('standard input is empty; write {"prompt": ..., "response": ...} to it')
    return [_exchange(_object(line, f"standard input, line {n}"), f"standard input, line {n}") for n, line in lines]


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "too large or too deep"
        raise UserError(f"{where}: this is not JSON ({reason}); correct it") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: this is no JSON object; write {{...}}")
    return value


def _exchange(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f'{where}: this is no JSON object; write {{"prompt": ..., "response": ...}}')
    for key, content in value.items():
        if key not in EXCHANGE:
            raise UserError(f"{where}: the key {key!r} is unknown; use {', '.join(EXCHANGE)}")
        if content is not None and (not isinstance(content, EXCHANGE[key]) or isinstance(content, bool)):
            raise UserError(f"{where}: {key} must be {KINDS[EXCHANGE[key]]}")
    for call in value.get("tool_calls") or ():
        if not isinstance(call, dict) or not isinstance(call.get("name", ""), str):
            raise UserError(f"{where}: each of tool_calls must be an object with name (text) and success")
    if not is_text(json.dumps(value, ensure_ascii=False)):
        raise UserError(f"{where}: it holds half of a character (a lone surrogate), which no file can; correct it")
    return {key: content for key, content in value.items() if content is not None}


def _add_all(buffer: Path, threshold: float, exchanges: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from ..sources.salience import ExperienceCollector

    collector = ExperienceCollector(buffer, threshold, remember=True)
    return [
        collector.add_exchange(**{"session_number" if key == "session" else key: value for key, value in row.items()})
        for row in exchanges
    ]


def _sentence(result: dict[str, Any], threshold: float) -> str:
    total = result["salience"]["total"]
    if result["stored"]:
        return f"stored as {result['experience_id']} (salience {total:.2f})"
    if result.get("filter_reason") == "already_stored":
        return f"not stored: this exchange is in the buffer already, as {result['experience_id']}"
    if result["filtered"]:
        return "not stored: its response repeats an earlier one"
    return f"not stored: its salience is {total:.2f}, below {threshold:g}"


@experience.command()
@buffer_option
@json_option
def stats(buffer: Path, as_json: bool) -> None:
    """Show how many experiences a buffer holds, how salient, and of when; reads it only."""
    from ..data.import_report import ImportReport
    from ..sources.salience import buffer_stats, read_buffers

    report = ImportReport("salience")
    found = buffer_stats(read_buffers([buffer], report))
    if as_json:
        print_json({"buffer": str(buffer), **found, "left_out": report.to_dict()["left_out"]})
        return
    rows = [
        (name.replace("_", " "), f"{value:.3f}" if isinstance(value, float) else str(value))
        for name, value in {**found, **found.pop("dimension_averages", {})}.items()
        if not isinstance(value, dict)
    ]
    print_table(str(buffer), ("", ""), rows + [(f"unusable: {reason}", str(n)) for reason, n in report.counts.items()])


@experience.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--into", type=click.Path(path_type=Path), required=True, help="The buffer to add to; made if absent.")
@json_option
def merge(files: tuple[Path, ...], into: Path, as_json: bool) -> None:
    """Add to a buffer what other files have and it lacks; it loses nothing, and may be in use meanwhile.

    \b
    mlx-lora experience merge old.json laptop.json --into buffer.json
    """
    from ..data.import_report import ImportReport
    from ..sources.salience import merge_buffers, read_buffers

    report = ImportReport("salience")
    records = read_buffers(files, report)
    added = len(merge_buffers(records, into))
    left_out = report.to_dict()["left_out"]
    known = len(records) - added
    if as_json:
        counts = {"read": report.read, "added": added, "already_there": known}
        print_json({"buffer": str(into), **counts, "left_out": left_out})
        return
    say(f"{into}: {added} experiences added, {known} were there already")
    for item in left_out:
        say(f"left out {item['count']}: {item['reason']} ({', '.join(item['examples'][:3])})")
