"""Scorer of source code with a real parser: it parses, or obeys a rule.

TypeScript is parsed by tree-sitter, Python by Python: tree-sitter's grammar takes bodies that are not indented.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import UserError, first_line, nearest
from ..cases import Case
from .answer_text import code_blocks
from .base import Score, Scorer, read_options
from .constructor_rule import constructor_faults

# language -> names of it on a code block.
LANGUAGES = {
    "typescript": ("typescript", "ts", "tsx", "javascript", "js", "jsx"),
    "python": ("python", "py", "python3"),
}
# text -> (root of its syntax tree, sentence why it has none)
Parse = Callable[[str], tuple[Any, str]]
# (root of the syntax tree) -> sentences of what is wrong
Rule = Callable[[Any], list[str]]
RULES: dict[str, tuple[tuple[str, ...], Rule]] = {
    "parses": (("typescript", "python"), lambda root: []),
    "empty_constructor": (("typescript",), constructor_faults),
}


def code(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes answers whose code parses and obeys a rule.

    Options: ``language`` (typescript, python), ``rule`` (parses, empty_constructor). The code is that of the answer's
    fenced blocks in this language, or without one; the whole answer where it has no block.
    """
    given = read_options(options, where, "code", {"language": "text", "rule": "text"}, main="rule")
    language, rule = given.get("language", "typescript"), given.get("rule", "parses")
    for key, value, names in (("language", language, LANGUAGES), ("rule", rule, RULES)):
        if value not in names:
            raise UserError(f"{where}: code knows no {key} {value!r}; the nearest is {nearest(value, names)!r}")
    languages, judge = RULES[rule]
    if language not in languages:
        raise UserError(f"{where}: the rule {rule} is for {', '.join(languages)}, not for {language}")
    parse = _parse_python if language == "python" else _typescript_parser(where)

    def score(case: Case, answer: str) -> Score:
        text = code_of(answer, language)
        if not text.strip():
            return Score(False, f"the answer holds no {language} code")
        root, error = parse(text)
        if error:
            return Score(False, f"the {language} code does not parse: {error}")
        faults = judge(root)
        return Score(not faults, "; ".join(faults))

    return score


def code_of(answer: str, language: str) -> str:
    """Return the code of an answer: its blocks in this language, else those without one, else the whole answer.

    Blocks in other languages only are no code of this one.
    """
    blocks = code_blocks(answer)
    if not blocks:
        return answer
    named = [content for name, content in blocks if name in LANGUAGES[language]]
    return "\n".join(named or [content for name, content in blocks if not name])


def _parse_python(text: str) -> tuple[Any, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text), ""
    except SyntaxError as error:
        return None, f"line {error.lineno} is wrong ({error.msg})"
    except (ValueError, RecursionError, MemoryError) as error:  # a NUL, or thousands of brackets
        return None, first_line(error)


def _typescript_parser(where: str) -> Parse:
    """Return a function that parses TypeScript, or else TSX, which reads ``<T>value`` in another way.

    Raises:
        UserError: tree-sitter is not installed.
    """
    try:
        import tree_sitter
        import tree_sitter_typescript
    except ImportError as error:
        raise UserError(
            f"{where}: the check code needs {error.name}; install it with `pip install 'mlx-lora[code]'`"
        ) from None
    grammars = (tree_sitter_typescript.language_typescript(), tree_sitter_typescript.language_tsx())
    parsers = [tree_sitter.Parser(tree_sitter.Language(grammar)) for grammar in grammars]

    def parse(text: str) -> tuple[Any, str]:
        roots = [parser.parse(text.encode("utf-8", "replace")).root_node for parser in parsers]
        root = next((root for root in roots if not root.has_error), None)
        return root, "" if root is not None else f"line {_error_line(roots[0])} is wrong"

    return parse


def _error_line(root: Any) -> int:
    """Return the line, from 1, of the first error of a tree."""
    node = root
    while True:
        inner = next((child for child in node.children if child.has_error or child.is_missing), None)
        if inner is None or node.is_error:
            return int(node.start_point[0]) + 1
        node = inner
