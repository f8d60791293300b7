"""A chat template in Go's syntax for Ollama, put together from the pieces that the Jinja one writes around messages.

Ollama goes by a template of its own that resembles the one in the GGUF, or by none; what a run was trained on may then
come out otherwise (a date that Llama 3's template writes, a system prompt that Qwen's writes where there is none).
"""

from __future__ import annotations

from typing import Any

from ...data.chat_template import render
from ...errors import UserError

# Texts that no template changes, to be found again between its pieces.
SYSTEM, USER, ANSWER, USER_2, ANSWER_2 = "mlx0system", "mlx1user", "mlx2answer", "mlx3user", "mlx4answer"


def go_template(tokenizer: Any, name: str) -> str:
    """The template, checked to write the same text as the Jinja one.

    Raises:
        UserError: the Jinja template does more than to write something around each message.
    """
    try:
        pieces = _pieces(tokenizer)
    except ValueError as error:
        raise UserError(
            f"{name}: no Go template can be put together from its chat template ({error}); write one, and give it "
            "with --template FILE"
        ) from error
    begin, after_system, begin_without, user, answer, end = pieces
    return (
        f"{{{{ if .System }}}}{begin}{{{{ .System }}}}{after_system}{{{{ else }}}}{begin_without}{{{{ end }}}}"
        f'{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{user}{{{{ .Content }}}}'
        f'{{{{ else if eq .Role "assistant" }}}}{answer}{{{{ .Content }}}}{end}{{{{ end }}}}{{{{ end }}}}{answer}'
    )


def _pieces(tokenizer: Any) -> tuple[str, str, str, str, str, str]:
    """What is written: before and after the system prompt, instead of both, before a question, before and after an
    answer; ``ValueError`` where that is not all there is to it.
    """
    system = {"role": "system", "content": SYSTEM}
    turns = _chat([USER, ANSWER, USER_2, ANSWER_2])
    with_system = render(tokenizer, [system, *turns[:3]], generate=True)
    begin, to_question, answer, between, answer_2 = _split(with_system, [SYSTEM, USER, ANSWER, USER_2])
    (to_question_without, answer_without) = _split(render(tokenizer, turns[:1], generate=True), [USER])
    if len({answer, answer_2, answer_without}) > 1:
        raise ValueError("it writes something else before the last answer than before others")
    *_, end = _split(render(tokenizer, [system, *turns]), [ANSWER_2])
    if not between.startswith(end):
        raise ValueError("it writes something else after the last answer than after others")
    user = between[len(end) :]
    if not (to_question.endswith(user) and to_question_without.endswith(user)):
        raise ValueError("it writes something else before the first question than before others")
    cut = len(user)
    pieces = (begin, to_question[: len(to_question) - cut], to_question_without[: len(to_question_without) - cut])
    if any("{{" in piece for piece in (*pieces, user, answer, end)):
        raise ValueError("it writes {{, which Go templates cannot say")
    return (*pieces, user, answer, end)


def _chat(contents: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def _split(text: str, marks: list[str]) -> list[str]:
    """The text between marks that each come once, in this order."""
    pieces = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise ValueError("it leaves messages out, or writes them twice")
        pieces.append(before)
    return [*pieces, text]
