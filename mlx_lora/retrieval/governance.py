"""Governance of indexed text: secrets stop an import, e-mail addresses are redacted, flags limit its use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.checks.pii import emails_in, is_random, secrets_in
from ..errors import UserError

REDACTED = "[e-mail address]"
SECURITY_LEVELS = ("public", "internal", "confidential", "restricted")
# Assignments as settings files write them, quoted or not; the value ends the expression, so that code does not match.
_ASSIGNED = re.compile(
    r"(?i)\b[\w-]{0,40}?(?P<name>api[_-]?key|passw(?:or)?d|token|private[_-]?key|secret)[\w-]{0,20}[\"'`]?\s{0,4}[:=]\s{0,4}"
    r"(?P<quote>[\"'`]?)(?P<value>[A-Za-z0-9+/_.=!@#$%^&*~-]{8,200})(?P=quote)(?=[\s,;}\])]|$)"
)
_HINTS = ("key", "assw", "oken", "secret")
# An expression or a path is not a secret: process.env.API_KEY2, config.token1, ./keys/key1.pem.
_EXPRESSION = re.compile(r"[A-Za-z_$][\w$]*(?:\.[A-Za-z_$][\w$]*)+$|^[.~/]|/.*/|^[$%]|^\d{4}-\d\d-\d\d")
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,80}:(?P<value>[^\s/@]{6,200})@")


@dataclass(frozen=True)
class Governance:
    """Flags of a document; its front matter may set all but ``pii_flags``."""

    ok_to_train: bool = True
    ok_to_retrieve: bool = True
    license: str = ""
    pii_flags: tuple[str, ...] = ()
    security_level: str = "internal"

    def to_metadata(self) -> dict[str, Any]:
        """Return the flags as JSON values."""
        return {**asdict(self), "pii_flags": list(self.pii_flags)}


def governance_of(front_matter: Mapping[str, Any]) -> Governance:
    """Return the flags that a document's front matter sets; those of another type count as the stricter value."""
    licence = front_matter.get("license")
    level = str(front_matter.get("security_level", "internal")).lower()
    return Governance(
        ok_to_train=front_matter.get("ok_to_train") in (None, True),
        ok_to_retrieve=front_matter.get("ok_to_retrieve") in (None, True),
        license=licence[:100] if isinstance(licence, str) else "",
        security_level=level if level in SECURITY_LEVELS else SECURITY_LEVELS[-1],
    )


def check_secrets(path: Path, text: str) -> None:
    """Stop the import of a document that holds a likely secret.

    Raises:
        UserError: which line holds what; the secret itself is not quoted.
    """
    if found := find_secret(text):
        line, said = found
        raise UserError(f"{path}, line {line}: {said}; remove it and import again (nothing of this import was written)")


def find_secret(text: str) -> tuple[int, str] | None:
    """Return (line, name) of the first likely secret of a text, which the name does not quote."""
    for name, secret in _all_secrets(text):
        line = text.count("\n", 0, text.index(secret)) + 1
        return line, f"{name} ({secret[:4]}…, {len(secret)} characters)"
    return None


def _all_secrets(text: str) -> Iterator[tuple[str, str]]:
    yield from secrets_in(text)
    lowered = text.lower()
    if any(map(lowered.__contains__, _HINTS)):
        for match in _ASSIGNED.finditer(text):
            value = match["value"]
            # Without quotes a value may be any word of prose or code.
            if len(value) >= (8 if match["quote"] else 12) and is_random(value) and not _EXPRESSION.search(value):
                yield f"a likely {match['name'].lower()}", value
    if "://" in text:
        for match in _URL.finditer(text):
            if is_random(match["value"], bits=2.5):
                yield "a password in an address", match["value"]


def redact(text: str) -> tuple[str, bool]:
    """Return a text without e-mail addresses, and True if there was one."""
    found = list(emails_in(text))
    for match in reversed(found):
        text = text[: match.start()] + REDACTED + text[match.end() :]
    return text, bool(found)


def redact_values(value: Any) -> Any:
    """Return JSON metadata whose texts hold no e-mail address."""
    if isinstance(value, str):
        return redact(value)[0]
    if isinstance(value, list):
        return [redact_values(item) for item in value]
    if isinstance(value, dict):
        return {redact_values(key): redact_values(item) for key, item in value.items()}
    return value
