"""The one error a user's input or surroundings can cause: one sentence, exit status 2, no traceback."""


class UserError(Exception):
    """Says which file and line, what is wrong and what to do, in one sentence."""
