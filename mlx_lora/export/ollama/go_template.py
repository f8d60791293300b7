"""Go chat template for Ollama, assembled from the text that the Jinja template writes around messages.

Ollama uses a built-in template that resembles the one in the GGUF, or none; the prompt may then differ from training's
(a date that Llama 3's template writes, a default system prompt that Qwen's writes).
"""

from __future__ import annotations

from typing import Any

from ...data.chat_template import render
from ...errors import UserError

# Marker texts that no template changes, located in the rendered prompt.
SYSTEM, USER, ANSWER, USER_2, ANSWER_2 = "mlx0system", "mlx1user", "mlx2answer", "mlx3user", "mlx4answer"


def go_template(tokenizer: Any, name: str) -> str:
    """Build the Go template and check that it renders the same text as the Jinja one.

    Raises:
        UserError: the Jinja template does more than write text around each message.
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
    """Return the text before and after the system prompt, in place of both, before a question, around an answer.

    Raises:
        ValueError: the template writes anything else.
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
    """Return the text between marks that occur once each, in this order."""
    pieces = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise ValueError("it leaves messages out, or writes them twice")
        pieces.append(before)
    return [*pieces, text]
