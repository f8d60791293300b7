"""JSON files under a directory, read so that no file can hang, crash or mislead the import."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...user_files import UnusableFile, read_bytes
from .artifact import Malformed

# An attempt is text that a model wrote or a person pasted; a larger file is something else.
MAX_BYTES = 64 * 2**20


def shown(path: str | Path) -> str:
    """Return a path as text that can be printed and written, for any bytes in its name."""
    return os.fsencode(path).decode("utf-8", "replace")


def json_files(directory: Path) -> Iterator[Path]:
    """Return every ``*.json`` below a directory, by path; directories behind symbolic links are named, not entered."""
    for folder, folders, files in os.walk(directory, followlinks=False):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders.sort()
        for name in sorted([*files, *links]):
            if name.endswith(".json") or name in links:
                yield Path(folder, name)


def read_json(path: Path) -> Any:
    """Read the JSON in a file.

    Raises:
        Malformed: the file is unusable; the message is a reason that can be counted.
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
            # An escaped unpaired surrogate is legal JSON, but it can be neither encoded as UTF-8 nor tokenized.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Malformed("text with half a character (an unpaired surrogate)") from None
    except RecursionError:
        raise Malformed("JSON nested too deeply") from None
    except ValueError:
        raise Malformed("not JSON, or cut off in the middle") from None
    return value
