"""Checks of secrets and personal data: API keys, tokens and e-mail addresses that a model must not memorize."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from .base import Hit
from .dataset_table import Table

# (name, required substring for the pattern to match, pattern): the published forms of each issuer's keys.
SECRETS = tuple(
    (name, hints, re.compile(pattern))
    for name, hints, pattern in (
        (
            "a private key",
            ("PRIVATE KEY",),
            r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----[\sn\\]*[A-Za-z0-9+/=:\s\\-]{16,}",
        ),
        ("an AWS access key", ("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
        (
            "a GitHub token",
            ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
            r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})\b",
        ),
        ("a GitLab token", ("glpat-",), r"\bglpat-[A-Za-z0-9_-]{20,}"),
        ("a Hugging Face token", ("hf_",), r"\bhf_[A-Za-z0-9]{30,}\b"),
        ("a key of OpenAI or Anthropic", ("sk-",), r"\bsk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_-]{24,}"),
        ("a Google API key", ("AIza",), r"\bAIza[A-Za-z0-9_-]{35}"),
        ("a Slack token", ("xox",), r"\bxox[abeoprs]-[A-Za-z0-9-]{20,}"),
        ("a Stripe key", ("k_live_",), r"\b[rs]k_live_[A-Za-z0-9]{20,}"),
        (
            "a JSON web token",
            ("eyJ",),
            r"\beyJ[A-Za-z0-9_-]{10,300}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,2000}",
        ),
        (
            "a password or key",
            ("key", "Key", "KEY", "secret", "Secret", "SECRET", "oken", "OKEN", "assw", "ASSW"),
            r"(?i:api[_-]?key|secret(?:[_-]?key)?|access[_-]?token|auth[_-]?token|password|passwd)"
            r"[\"']?\s*[:=]\s*[\"'](?P<value>[A-Za-z0-9+/_.=-]{16,})[\"']",
        ),
    )
)
# Bits per character: a random key of 20 characters has about 4, "xxxx-1234" far less.
RANDOM = 3.0
# Borders are not asked for: an address may stand beside letters of another script, or follow a long line of dashes.
_EMAIL = re.compile(r"[\w.+-]{1,64}@((?:[\w-]{1,63}\.)+[A-Za-z]{2,24})")
# Domains that belong to nobody (RFC 2606, RFC 6761).
_NOBODY = re.compile(r"(?i)(?:^|\.)(?:example\.(?:com|org|net)|(?:[\w-]+\.)*(?:example|test|invalid|localhost|local))$")


def secrets(table: Table) -> Iterator[Hit]:
    """Yield rows that hold a likely key, named by its first characters."""
    for item in table.items:
        for name, secret in secrets_in(item.everything):
            yield Hit(f"{item.where}: {name}, {secret[:6]}… ({len(secret)} characters)", [item])
            break


def secrets_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, secret) of each likely secret in a text; placeholders such as ``sk-xxxxxxxx`` are skipped."""
    for name, hints, pattern in SECRETS:
        if any(map(text.__contains__, hints)):
            for match in pattern.finditer(text):
                secret = match["value"] if "value" in pattern.groupindex else match[0]
                if is_random(secret):
                    yield name, secret


def is_random(secret: str, bits: float = RANDOM) -> bool:
    """Return True for letters and digits without a pattern that an author of examples would write."""
    mixed = any(c.isdigit() for c in secret) and any(c.isalpha() for c in secret)
    return mixed and entropy(secret) >= bits and "EXAMPLE" not in secret.upper()


def entropy(text: str) -> float:
    """Return the Shannon entropy of a text's characters, in bits per character."""
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)


def emails(table: Table) -> Iterator[Hit]:
    """Yield rows that hold a person's e-mail address."""
    for item in table.items:
        found = emails_in(item.everything)
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            yield Hit(f"{item.where}: {found[0][0][0]}…@{found[0][1]}{more}")


def emails_in(text: str) -> list[re.Match[str]]:
    """Return the e-mail addresses of persons in a text; group 1 is the domain. ``git@`` is a remote's, nobody's."""
    if "@" not in text:
        return []
    return [m for m in _EMAIL.finditer(text) if not _NOBODY.search(m[1]) and not m[0].startswith("git@")]
