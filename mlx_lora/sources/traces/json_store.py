"""The JSON files under a directory, read so that no file can hang, crash or mislead the import."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...user_files import UnusableFile, read_bytes
from .artifact import Malformed

# An attempt is text that a model wrote or a person pasted; what is larger is something else.
MAX_BYTES = 64 * 2**20


def shown(path: str | Path) -> str:
    """A path as text that can be printed and written, whatever bytes its name is made of."""
    return os.fsencode(path).decode("utf-8", "replace")


def json_files(directory: Path) -> Iterator[Path]:
    """Every ``*.json`` below a directory, by path; directories behind symbolic links are named, not entered."""
    for folder, folders, files in os.walk(directory, followlinks=False):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders.sort()
        for name in sorted([*files, *links]):
            if name.endswith(".json") or name in links:
                yield Path(folder, name)


def read_json(path: Path) -> Any:
    """The JSON in a file.

    Raises:
        Malformed: whatever is wrong with it, as a reason that can be counted.
    """
    try:
        if os.stat(path).st_size > MAX_BYTES:
            raise Malformed(f"larger than {MAX_BYTES // 2**20} MiB")
        text = read_bytes(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Malformed("not UTF-8 text") from None
    except IsADirectoryError:
        raise Malformed("a symbolic link to a directory, which is not followed") from None
    except UnusableFile:
        raise Malformed("not a plain file") from None
    except OSError as error:
        raise Malformed(f"cannot be read ({error.strerror or error})") from None
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            # An escaped half of a character pair is legal JSON and no text: it can be neither written nor tokenized.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Malformed("text with half a character (an unpaired surrogate)") from None
    except RecursionError:
        raise Malformed("JSON nested too deeply") from None
    except ValueError:
        raise Malformed("not JSON, or cut off in the middle") from None
    return value
