"""A small index for the tests: PDCAs and tool examples of all ecosystems, embedded by their words."""

from __future__ import annotations

import json
from pathlib import Path

from embedders import HashedWords

from mlx_lora.retrieval.index import Index

PDCAS = {
    "2025-09-23-UTC-1911-zombies.pdca.md": "# Zombies\n\n## Plan\nFind out why processes pile up.\n\n## Do\n"
    "530 zombie processes were counted; interactive git commands caused 499 of them.\n\n## Check\nDone."
    "\n\n## Act\nUse flags.",
    "2025-09-24-UTC-1000-colours.pdca.md": "# Colours\n\n## Plan\nRemove hard-coded colours.\n\n## Do\n"
    "31 files had colours written into them; CLIColors holds them now.\n\n## Check\nDone.\n\n## Act\nKeep it.",
}


def example(instruction, name, parameters, **more):
    call = {"tool_calls": [{"name": name, "parameters": parameters}]}
    return {"instruction": instruction, "output": json.dumps(call), **more}


EXAMPLES = [
    example("Read the Card.tsx file", "read_file", {"path": "src/Card.tsx"}),
    example("Read the Card.tsx file", "read_file", {"path": "src/Card.tsx"}),
    example("Run the test suite", "run_terminal_command", {"command": "npm test", "working_directory": "."}),
    example("Read the Card.tsx file", "create_new_file", {"path": "wrong-1"}, is_negative=True),
    example("Read the Button.tsx file", "create_new_file", {"path": "wrong-2"}, is_negative_example=True),
    example("Read the Button.tsx file", "create_new_file", {"path": "wrong-3"}, task_type="tool_neg"),
    example("Read the Modal.tsx file", "read_file", {"target_file": "Modal.tsx"}, ecosystem="cursor"),
    example("Read the Input.tsx file", "read_file", {"filePath": "Input.tsx"}, ecosystem="copilot"),
    example("Read the unit Once", "load_unit", {"name": "Once", "version": "0.3.0"}, ecosystem="web4_custom"),
    example("Create a long file.txt", "create_new_file", {"path": "long.txt", "content": "many words " * 120}),
]


def write_documents(folder: Path) -> tuple[Path, Path]:
    """Write the documents and return the PDCAs' folder and the file of examples."""
    (folder / "pdca").mkdir(parents=True)
    for name, text in PDCAS.items():
        (folder / "pdca" / name).write_text(text)
    examples = folder / "examples.jsonl"
    examples.write_text("".join(json.dumps(row) + "\n" for row in EXAMPLES))
    return folder / "pdca", examples


def make_index(folder: Path, embedder=None) -> Path:
    """Write an index and return its directory."""
    pdcas, examples = write_documents(folder / "documents")
    with Index.open(folder / "index", embedder=embedder or HashedWords()) as index:
        index.add([pdcas, examples])
    return folder / "index"


def open_index(directory: Path) -> Index:
    return Index.open(directory, readonly=True, embedder=HashedWords())
