"""Scorer of a JSON Schema: the JSON value in the answer must be valid."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError, first_line, shortened
from ...user_files import read_text
from ..cases import Case
from .answer_text import json_values
from .base import Score, Scorer, read_options
from .text import SECONDS, compile_pattern


def json_schema(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes answers whose JSON is valid under a schema.

    Options: ``schema``, or ``file`` beside the suite. The JSON is the whole answer, a fenced block of it, or the
    first value in its text. Only references within the schema are followed.
    """
    import jsonschema

    given = read_options(options, where, "json_schema", {"schema": "object", "file": "text"}, main="file")
    if len(given) != 1:
        raise UserError(f"{where}: json_schema needs a schema, or the file of one")
    schema = given["schema"] if "schema" in given else _read_schema(folder / given["file"], where)
    try:
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
        validator = _validator(kind, schema, where)
        list(validator.iter_errors(None))
    except jsonschema.SchemaError as error:
        place = error.json_path
        raise UserError(f"{where}: this is not a JSON Schema: {shortened(error.message, 150)} at {place}") from None
    except UserError:
        raise
    except Exception as error:  # a reference that leads nowhere, or out of the schema
        raise UserError(f"{where}: this JSON Schema cannot be used ({first_line(error)})") from None

    def score(case: Case, answer: str) -> Score:
        value = next(json_values(answer), ...)
        if value is ...:
            return Score(False, "the answer holds no JSON")
        try:
            error = jsonschema.exceptions.best_match(validator.iter_errors(value))
        except Exception as problem:  # a reference met only now, or a value that is nested too deeply
            return Score(False, f"the answer's JSON cannot be checked ({first_line(problem)})")
        if error is None:
            return Score(True)
        return Score(False, f"the answer's JSON is not valid at {error.json_path}: {shortened(error.message, 150)}")

    return score


def _read_schema(file: Path, where: str) -> Mapping[str, Any]:
    try:
        schema = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: the schema {file} cannot be read ({first_line(error)})") from None
    if not isinstance(schema, Mapping):
        raise UserError(f"{where}: the schema {file} must be a JSON object")
    return schema


def _validator(kind: Any, schema: Mapping[str, Any], where: str) -> Any:
    """Return a validator that fetches nothing, and whose patterns have a time limit."""
    import jsonschema
    import referencing

    def pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
        if not isinstance(instance, str):
            return
        try:
            found = compile_pattern(pattern, where).search(instance, timeout=SECONDS)
        except TimeoutError:
            yield jsonschema.ValidationError(f"the pattern {shortened(pattern)} took more than {SECONDS:g} seconds")
            return
        if not found:
            yield jsonschema.ValidationError(f"{shortened(instance)} does not match {shortened(pattern)}")

    guarded = jsonschema.validators.extend(kind, {"pattern": pattern})
    return guarded(schema, registry=referencing.Registry())
