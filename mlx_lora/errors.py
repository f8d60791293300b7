"""The one error a user's input or surroundings can cause: one sentence, exit status 2, no traceback."""


class UserError(Exception):
    """Says which file and line, what is wrong and what to do, in one sentence."""


def first_line(error: BaseException | None, lines: int = 1) -> str:
    """The beginning of what an error says, for a sentence of our own; the error's kind where it says nothing."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(said[:lines]) or type(error).__name__
