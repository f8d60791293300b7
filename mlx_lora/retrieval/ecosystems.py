"""Ecosystems of tools: the tools that an editor's agent offers, and how its users refer to files and commands."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UserError, nearest, shortened

# Ways in which the editors' users refer to their workspace: @Button.tsx, @workspace, #file:server.ts, /fix.
MENTION = re.compile(
    r"@(?:workspace|terminal|file|codebase|currentfile|folder|docs|web|git|vscode)\b|@[\w./-]+\.\w+\b|"
    r"#(?:file|selection|codebase|editor|terminal\w*|changes)\b:?\S*|^/(?:fix|tests?|new|doc|edit)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Ecosystem:
    """Agent that offers tools to a model.

    Attributes:
        tools: name of each tool, with its parameters; empty where the stored examples alone say which there are.
    """

    name: str
    tools: dict[str, tuple[str, ...]]


def _tools(*signatures: str) -> dict[str, tuple[str, ...]]:
    """Return tools by name from signatures such as ``read_file(path)``."""
    parts = [signature.rstrip(")").partition("(") for signature in signatures]
    return {name: tuple(filter(None, parameters.split(", "))) for name, _, parameters in parts}


ECOSYSTEMS = {
    each.name: each
    for each in (
        Ecosystem(
            "continue",
            _tools(
                "read_file(path)",
                "create_new_file(path, content)",
                "run_terminal_command(command, working_directory)",
                "file_glob_search(pattern)",
                "view_diff()",
                "read_currently_open_file()",
                "ls(path)",
                "create_rule_block(rule)",
                "fetch_url_content(url)",
                "edit_existing_file(path, changes)",
                "single_find_and_replace(file_path, find, replace)",
            ),
        ),
        Ecosystem(
            "cursor",
            _tools(
                "read_file(target_file)",
                "edit_file(target_file, instructions, code_edit)",
                "run_terminal_cmd(command)",
                "list_dir(relative_workspace_path)",
                "file_search(query)",
                "grep_search(query)",
                "codebase_search(query)",
                "delete_file(target_file)",
                "web_search(search_term)",
            ),
        ),
        Ecosystem(
            "copilot",
            _tools(
                "read_file(filePath)",
                "create_file(filePath, content)",
                "insert_edit_into_file(filePath, code)",
                "run_in_terminal(command)",
                "list_dir(path)",
                "file_search(query)",
                "grep_search(query)",
                "get_changed_files()",
                "fetch_webpage(urls)",
            ),
        ),
        Ecosystem("web4_custom", {}),
    )
}


def find_ecosystem(name: str) -> Ecosystem:
    """Return an ecosystem by its name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in ECOSYSTEMS:
        known = ", ".join(ECOSYSTEMS)
        near = nearest(name, ECOSYSTEMS)
        raise UserError(f"{shortened(name)}: there is no such ecosystem; the nearest is {near!r}, all are {known}")
    return ECOSYSTEMS[name]
