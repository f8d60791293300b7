"""Evaluation suites: YAML files that name cases, checks and thresholds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..config.loading import PRESET_DIRECTORIES
from ..config.settings_file import parse_yaml
from ..errors import UserError, first_line, nearest, shortened
from ..user_files import MOST_SETTINGS, read_text
from .scorers.base import CheckSpec

PUBLISHED = "suites"
GROUPS_FILE = "groups.yaml"
GATES = ("ship", "quality")
KEYS = {"name", "description", "gate", "threshold", "thresholds", "cases", "system", "generate", "profile", "checks"}
GENERATION = {"max_tokens": int, "temperature": float, "seed": int}
_LIMIT = re.compile(r"(>=|>)?\s*(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Limit:
    """Threshold of one metric.

    Attributes:
        strict: the value must be above it, not at it.
        where: FILE, line LINE, for errors.
    """

    metric: str
    value: float
    strict: bool = False
    where: str = ""

    def met(self, reached: float) -> bool:
        """Return True if a value reaches the threshold."""
        return reached > self.value if self.strict else reached >= self.value

    def __str__(self) -> str:
        return f"{'>' if self.strict else '≥'} {self.value:g}"


@dataclass(frozen=True)
class Generation:
    """Settings with which answers are generated; temperature 0 is greedy."""

    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0


@dataclass
class Suite:
    """Evaluation suite.

    Attributes:
        gate: ``ship``: must pass to deploy; ``quality``: must pass unless it is waived.
        limits: thresholds, all of which must hold; the first one is the suite's measure.
        cases: the case file, None where it is given for each evaluation (``--cases``).
        reader: how case files are read: ``cases`` or ``eisv`` (trajectory windows too).
        file: the YAML file.
    """

    name: str
    gate: str
    limits: list[Limit]
    checks: list[CheckSpec]
    file: Path
    description: str = ""
    cases: Path | None = None
    reader: str = "cases"
    system: str | None = None
    profile: str | None = None
    generation: Generation = field(default_factory=Generation)

    def sha256(self) -> str:
        """Return a hash of all that decides an answer's score, wherever the files are."""
        checks = [(check.name, check.options) for check in self.checks]
        limits = [(limit.metric, limit.value, limit.strict) for limit in self.limits]
        content = [self.name, limits, checks, self.system, self.profile]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def suites_folder() -> Path:
    """Return the directory of the published suites."""
    return next(place / PUBLISHED for place in PRESET_DIRECTORIES if (place / PUBLISHED).is_dir())


def published_suites() -> list[str]:
    """Return the names of the published suites."""
    return sorted(file.stem for file in suites_folder().glob("*.yaml") if file.name != GROUPS_FILE)


def suite_groups() -> dict[str, list[str]]:
    """Return the published groups of suites, such as ``coder``."""
    file = suites_folder() / GROUPS_FILE
    return dict(parse_yaml(read_text(file))) if file.exists() else {}


def find_suites(names: str) -> list[Suite]:
    """Load suites by name, group or file, separated by commas; each once.

    Raises:
        UserError: an unknown name, or see :func:`load_suite`.
    """
    groups, found = suite_groups(), dict[str, Suite]()
    for name in (part.strip() for part in names.split(",")):
        for member in groups.get(name, [name]):
            suite = load_suite(member)
            if suite.name in found and found[suite.name].file != suite.file:
                raise UserError(f"{suite.file}: {found[suite.name].file} has the name {suite.name} too; rename one")
            found[suite.name] = suite
    return list(found.values())


def load_suite(name: str) -> Suite:
    """Load a published suite by name, or a suite from a YAML file.

    Raises:
        UserError: there is none, or its file is wrong: the file, the line and the key.
    """
    file = Path(name).expanduser()
    if file.suffix not in (".yaml", ".yml"):
        known = [*published_suites(), *suite_groups()]
        if name not in known:
            raise UserError(
                f"{shortened(name)}: there is no such suite; the nearest is {nearest(name, known)!r}, all are "
                f"{', '.join(known)}, and FILE.yaml is one of your own"
            )
        if name not in published_suites():
            members = ", ".join(suite_groups()[name])
            raise UserError(f"{name}: this is a group, and one suite is needed here: one of {members}")
        file = suites_folder() / f"{name}.yaml"
    try:
        text = read_text(file, MOST_SETTINGS, "utf-8-sig")
        content = parse_yaml(text)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such suite file; check the path") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{file}: this suite cannot be read ({first_line(error, 3)}); correct it") from None
    return _Parser(file, text).suite(content)


class _Parser:
    """Parser of one suite's file: every error names the line of its key."""

    def __init__(self, file: Path, text: str) -> None:
        self.file, self.root = file, yaml.compose(text, Loader=yaml.SafeLoader)

    def where(self, *keys: str | int) -> str:
        """Return FILE:LINE of a key, or of what is around it."""
        node, line = self.root, 1
        for key in keys:
            pairs = getattr(node, "value", None)
            if isinstance(node, yaml.MappingNode):
                match = [(k, v) for k, v in node.value if getattr(k, "value", None) == key]
                if not match:
                    break
                line, node = match[0][0].start_mark.line + 1, match[0][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(pairs or ()):
                node = node.value[key]
                line = node.start_mark.line + 1
        return f"{self.file}, line {line}"

    def fail(self, what: str, *keys: str | int) -> UserError:
        """Return the error of a key."""
        path = ".".join(str(key)[:60] for key in keys)
        return UserError(f"{self.where(*keys)}: {f'{path}: ' if path else ''}{what}")

    def suite(self, content: Any) -> Suite:
        """Return the suite that a file's content describes."""
        if not isinstance(content, dict):
            raise self.fail("a suite is a mapping with name, gate, threshold and checks")
        self._known(content, KEYS)
        name = self._text(content, "name", required=True) or ""
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name):
            raise self.fail("a name has letters, digits, - and _, and at most 64 of them", "name")
        gate = content.get("gate", "quality")
        if gate not in GATES:
            raise self.fail(f"{shortened(gate)} is neither of {' and '.join(GATES)}", "gate")
        cases, reader = self._cases(content.get("cases"))
        return Suite(
            name=name,
            gate=gate,
            limits=self._limits(content),
            checks=self._checks(content.get("checks")),
            file=self.file,
            description=self._text(content, "description") or "",
            cases=cases,
            reader=reader,
            system=self._text(content, "system"),
            profile=self._text(content, "profile"),
            generation=self._generation(content.get("generate", {})),
        )

    def _known(self, content: Mapping[Any, Any], keys: set[str] | dict[str, type], *path: str) -> None:
        for key in content:
            if key not in keys:
                raise self.fail(f"there is no such key; the nearest is {nearest(key, keys)!r}", *path, key)

    def _text(self, content: Mapping[str, Any], key: str, required: bool = False) -> str | None:
        value = content.get(key)
        if value is None and not required:
            return None
        if not isinstance(value, str) or not value.strip():
            raise self.fail(f"{'this is missing' if value is None else 'it must be text'}", key)
        return value

    def _limits(self, content: Mapping[str, Any]) -> list[Limit]:
        if ("threshold" in content) == ("thresholds" in content):
            said = "a suite needs threshold (the share of cases that must pass) or thresholds, and one of them"
            raise self.fail(said, *(["thresholds"] if "threshold" in content else []))
        if "threshold" in content:
            return [self._limit("pass_rate", content["threshold"], "threshold")]
        several = content["thresholds"]
        if not isinstance(several, dict) or not several:
            raise self.fail("it must map metrics to numbers, such as f1: 0.98", "thresholds")
        return [self._limit(str(metric), value, "thresholds", str(metric)) for metric, value in several.items()]

    def _limit(self, metric: str, value: Any, *path: str) -> Limit:
        found = _LIMIT.fullmatch(str(value).strip()) if isinstance(value, (int, float, str)) else None
        if isinstance(value, bool) or found is None or not 0 <= float(found[2]) <= 1:
            raise self.fail(f"{shortened(value)} is not a number from 0 to 1, nor one as '> 0.933'", *path)
        return Limit(metric, float(found[2]), found[1] == ">", self.where(*path))

    def _cases(self, value: Any) -> tuple[Path | None, str]:
        if value is None:
            return None, "cases"
        if not isinstance(value, dict):
            raise self.fail("it must be a mapping such as {file: prompts/mine.jsonl}", "cases")
        self._known(value, {"file", "format"}, "cases")
        reader = value.get("format", "cases")
        if reader not in ("cases", "eisv"):
            raise self.fail(f"{shortened(reader)} is neither of cases and eisv", "cases", "format")
        if "file" not in value:
            return None, reader
        if not isinstance(value["file"], str):
            raise self.fail("it must be the path of a JSONL file", "cases", "file")
        file = self.file.parent / Path(value["file"]).expanduser()
        if not file.is_file():
            raise self.fail(f"{file}: there is no such file", "cases", "file")
        return file, reader

    def _generation(self, value: Any) -> Generation:
        if not isinstance(value, dict):
            raise self.fail("it must be a mapping with max_tokens, temperature and seed", "generate")
        self._known(value, GENERATION, "generate")
        for key, kind in GENERATION.items():
            number = value.get(key, 1)
            whole = isinstance(number, int) and not isinstance(number, bool)
            if not (whole or (kind is float and isinstance(number, float))) or not 0 <= number < 2**63:
                raise self.fail(f"{shortened(number)} is no usable number", "generate", key)
        if value.get("max_tokens", 1) < 1:
            raise self.fail("it must be at least 1", "generate", "max_tokens")
        return Generation(**value)

    def _checks(self, value: Any) -> list[CheckSpec]:
        if not isinstance(value, list) or not value:
            raise self.fail("it must be a list of at least one check, such as - contains_all: [Plan, Do]", "checks")
        specs = []
        for number, check in enumerate(value):
            if isinstance(check, str):
                check = {check: {}}
            if not isinstance(check, dict) or len(check) != 1:
                raise self.fail("a check is one name with its options, such as - regex: '^OK'", "checks", number)
            ((name, options),) = check.items()
            specs.append(CheckSpec(str(name), {} if options is None else options, self.where("checks", number)))
        return specs
