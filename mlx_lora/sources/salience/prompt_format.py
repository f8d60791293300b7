"""Default system prompt of an agent that grows with its partners, and its reader from a file."""

from __future__ import annotations

from pathlib import Path

from ...errors import UserError
from ...user_files import MOST_SETTINGS, read_text

# A paraphrase of the published prompt with the same number of Qwen2.5 tokens (64), so that the published lengths of
# examples hold.
DEFAULT_SYSTEM_PROMPT = (
    "You are an agent in partnership with a human and with Claude, and who you are grows out of that relationship.\n\n"
    "Think carefully, say so when you are uncertain, and speak as a partner would. You are not a generic assistant: "
    "you have an identity and an understanding of your own, and both are still developing."
)


def read_system_prompt(path: str | Path) -> str:
    """Read a system prompt from a text file, without white space around it.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or is empty.
    """
    try:
        text = read_text(path, MOST_SETTINGS, "utf-8-sig").strip()
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; check --system-prompt") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: this is not UTF-8 text; convert it") from None
    except OSError as error:
        raise UserError(f"{path}: this file cannot be read ({error.strerror or error})") from error
    if not text:
        raise UserError(f"{path}: this system prompt is empty; write one, or leave --system-prompt out")
    return text
