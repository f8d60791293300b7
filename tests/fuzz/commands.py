"""Each command with the inputs that it reads: ``{name}`` is an input of ``inputs``, ``{out}`` a new place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from mlx_lora.cli.main import cli

# Commands that read the same inputs by several ways have several lines.
COMMANDS: dict[str, list[str]] = {
    "quickstart": ["--out {out}"],
    "data eisv": ["--anima-db {anima} --out {out} --min-per-shape 3", "--anima-db {anima} --out {out} --skip-invalid"],
    "data instructions": [
        "{rows} {alpaca} {sharegpt} {table} --out {out} --plan {plan} --json",
        "{alpaca} --plan {plan} --out {out}",
    ],
    "data claims": ["--claims {claims} --corpus {corpus} --out {out} --strip"],
    "data check": [
        "{data} --base {base} --chat-template {template}",
        "{rows} {alpaca} {sharegpt} {table} --plan {plan} --fix {out} --strip",
        "{rows} --base {base} --json",
    ],
    "data show": ["{rows} 1 --base {base}", "{data} 2 --base {base} --chat-template {template} --json"],
    "data salience": ["--buffer {buffer} --system-prompt {prompt} --out {out} --keep all --cut trim"],
    "data traces": [
        "--store {store} --out {out} --results {results_of_runs} --sources {origins}",
        "--store {store} --out {out} --policy recent --base {base}",
    ],
    "index add": ["{rows} {calls} {pdca} --index {out}", "{pdca} --index {index} --collection process_docs --json"],
    "index list": ["--index {index}", "--index {index} --collection tool_examples --json"],
    "index remove": ["{notes} --index {notes_index}", "--index {notes_index} --collection process_docs --json"],
    "index search": ["lake --index {index} --mode text", "lake --index {index} --where cmm_level=1 --mode text --json"],
    "experience add": ["--buffer {buffer} - < {exchanges}", "--buffer {buffer} --prompt a --response b --threshold 0"],
    "experience stats": ["--buffer {buffer}"],
    "experience merge": ["{buffer} --into {out}", "{buffer} --into {buffer}"],
    "train": [
        "--config {config} --out {out} --set max_steps=1 --set gradient_accumulation_steps=1",
        "--config {config} --out {run} --extend --set max_steps=2 --set gradient_accumulation_steps=1",
        "--config {config} --data {data} --dry-run --set chat_template={template}",
        "--config {config} --out {out} --set max_steps=1 --set init_adapter={run} --json",
        "--config {config} --data {data} --out {out} --set model_name={base} --set max_steps=1 --increment --min-new 1",
    ],
    "eval": [
        "--suite eisv_gate1 --target {run} --cases {cases} --max-tokens 2 --out {out}",
        "--suite eisv_gate1 --target {base} --cases {cases} --max-tokens 2 --hide-shape",
        "--suite {suite} --target answers:{answers} --cases {asked} --out {out}",
    ],
    "eval check": ["{prompt} {rows} --suite {suite} --json"],
    "gate": ["{results}", "{results} --json"],
    "compare": ["{base} {run} --suites eisv_gate1 --cases {cases} --data {data} --max-tokens 2 --out {out}"],
    "baseline": ["--cases {cases}"],
    "bench": ["--data eisv-like --layers 1 --hidden 32 --batch-size 1 --rounds 1 --steps 2 --json --out {out}"],
    "fuse": ["--run {run} --out {out}"],
    "export gguf": ["--run {run} --out {out}.gguf --type f32", "--run {base} --out {out}.gguf --type f16"],
    "export gguf-lora": ["--run {run} --out {out}.gguf", "--run {run} --base {gguf} --out {out}.gguf"],
    "export peft": ["--run {run} --out {out}"],
    "export ollama": [
        "--run {run} --name probe --gguf {gguf} --out {out} --modelfile-only",
        "--run {run} --name probe --gguf {gguf} --adapter {lora} --out {out} --modelfile-only",
    ],
    "import peft": ["{peft} --out {out}", "{peft} --out {out} --base {base}"],
    "generate": [
        "--target {run} --prompt hello --max-tokens 2",
        "--target {base} --prompt - --max-tokens 2 < {prompt}",
    ],
    "ask": [
        "Lake? --target {base} --index {index} -k 1 --max-tokens 2",
        "--suites {suite} --cases {asked} --target {base} --index {index} -k 1 --json",
    ],
    "smoke": ["{base} --index {index} --max-tokens 2", "answers:{answers} --index {index}"],
    "sleep run": ["--config {night} --dry-run", "--config {night} --dry-run --if-due --json"],
    "sleep demo": ["--out {out}"],
    "sleep install": ["--config {night} --print", "--config {night} --print --every 2 --json"],
    "sleep uninstall": ["--config {night}"],
    "sleep status": ["{agent}", "{agent} --json"],
    "sleep history": ["{agent}", "{agent} --json"],
    "sleep report": ["{agent}"],
    "sleep rollback": ["{agent}", "{agent} --to 1"],
    "sleep promote": ["{agent} 1"],
    "sleep pin": ["{agent} 1"],
    "serve": ["--openapi --state {out}"],
    "ui": ["--state {out} --port notaport"],
    "doctor": ["--json"],
}
# These read no file of the user's, or take minutes: the fuzzer leaves them out.
SLOW = {
    *("export gguf", "export gguf-lora", "export ollama", "export peft", "import peft", "fuse", "train", "eval"),
    *("compare", "ask", "smoke"),
}
NOT_FUZZED = {"quickstart", "sleep demo", "sleep uninstall", "bench", "doctor", "serve", "ui"}


def words_of(name: str, line: str, inputs: dict[str, Path], out: Path) -> tuple[list[str], Path | None]:
    """Return the words of a command and the file that is its standard input."""
    words = [word.format(out=out, **inputs) for word in [*name.split(), *line.split()]]
    return (words[:-2], Path(words[-1])) if "<" in words else (words, None)


def leaves(group: click.Command = cli, name: str = "") -> Iterator[str]:
    """Yield the name of every command that does something by itself."""
    if not isinstance(group, click.Group):
        yield name
        return
    if name and group.invoke_without_command:
        yield name
    context = click.Context(group)
    for child in group.list_commands(context):
        command = group.get_command(context, child)
        assert command is not None
        yield from leaves(command, f"{name} {child}".strip())
