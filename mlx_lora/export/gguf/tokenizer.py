"""GGUF vocabulary: a byte-level BPE tokenizer whose pre-tokenizer llama.cpp knows by name."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import Any

from ...errors import UserError

# llama.cpp's name of a pre-tokenizer, by the sha256 of the regular expression in tokenizer.json.
PRE_TOKENIZERS = {
    "d98f9631be1e9607a9848c26c1f9eac1aa9fc21ac6ba82a2fc0741af9780a48f": "llama-bpe",
    "1ff7f41064896984db5d1bb6ff64fa4bc29007d08c1b439e505b7392777a319e": "qwen2",
}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
LIKE_CONTROL = re.compile(r"<\|.*\|>", re.DOTALL)


@dataclass
class Vocabulary:
    """Tokenizer data of a GGUF file.

    Attributes:
        pre: llama.cpp's name of the pre-tokenizer (``tokenizer.ggml.pre``).
        rows: rows of the embedding, which is the model's vocabulary size.
        tokens: by id; ids that the tokenizer does not use are missing.
        types: llama.cpp's type of each token.
        merges: "left right", best first.
        ids: ids of bos, eos, eot and pad, as far as they are defined.
        add_bos, add_eos: the tokenizer itself adds them to a text.
    """

    pre: str
    rows: int
    tokens: dict[int, str]
    types: dict[int, int]
    merges: list[str]
    ids: dict[str, int]
    add_bos: bool
    add_eos: bool
    chat_template: str | None

    def padded(self) -> tuple[list[str], list[int]]:
        """Return tokens and types for every row of the embedding; rows without a token get an unused ``[PAD{i}]``."""
        tokens = [self.tokens.get(i, f"[PAD{i}]") for i in range(self.rows)]
        return tokens, [self.types.get(i, UNUSED) for i in range(self.rows)]


def read_vocabulary(
    tokenizer: Any, rows: int, where: str, end_of_turn: int | None = None, config_bos: int | None = None
) -> Vocabulary:
    """Read the vocabulary of a loaded (fast) tokenizer; ``where`` names the model in errors.

    Args:
        rows: rows of the model's embedding. Added tokens beyond them, which the model cannot read, are left out:
            transformers adds some that belong to the tokenizer's class.
        end_of_turn: the end-of-turn token in training, if it is a special token.
        config_bos: the model config's ``bos_token_id``, used where the tokenizer has none (Qwen's): without one,
            llama.cpp takes token 11.

    Raises:
        UserError: it is not byte-level BPE, or llama.cpp has no known name for its pre-tokenizer and would silently
            make other tokens. Or the vocabulary is larger than the embedding.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    pre = known_splitting(content, where)
    check_size(model["vocab"], rows, where)
    found = tokens_of(tokenizer, rows, end_of_turn, config_bos)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return replace(found, pre=pre, merges=merges)


def known_splitting(content: dict[str, Any], where: str) -> str:
    """Return llama.cpp's name of the pre-tokenizer of a tokenizer.json.

    Raises:
        UserError: it is not byte-level BPE, or llama.cpp has no known name for it.
    """
    model = content["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise UserError(
            f"{where}: its tokenizer is {model['type']}{' with byte fallback' if model.get('byte_fallback') else ''}, "
            "and only byte-level BPE can be written as GGUF here; use `mlx-lora fuse` instead"
        )
    return _pre_tokenizer(content, where)


def tokens_of(tokenizer: Any, rows: int, end_of_turn: int | None, config_bos: int | None = None) -> Vocabulary:
    """Read the tokens of any (fast) tokenizer; see ``read_vocabulary``."""
    plain = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    listed = json.loads(tokenizer.backend_tokenizer.to_str())["added_tokens"]
    added = {token["id"]: token for token in listed if token["id"] < rows}
    tokens = {number: text for text, number in plain.items()}
    tokens.update({number: token["content"] for number, token in added.items()})
    types = {number: _type(text, added.get(number)) for number, text in tokens.items()}
    named = {
        "bos": tokenizer.bos_token_id if tokenizer.bos_token_id is not None else _token(config_bos),
        "eos": tokenizer.eos_token_id,
        "eot": end_of_turn,
        "pad": tokenizer.pad_token_id,
    }
    ids = {name: number for name, number in named.items() if number is not None and number < rows}
    encoded = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids
    return Vocabulary(
        *("", rows, tokens, types, [], ids),
        # Nothing at all from a tokenizer that has no token for the letter.
        add_bos=encoded[:1] == [ids.get("bos")],
        add_eos=encoded[-1:] == [ids.get("eos")],
        chat_template=_template(tokenizer),
    )


def check_size(vocabulary: dict[str, int], rows: int, where: str) -> None:
    """Raise UserError if a tokenizer has tokens, apart from added ones, without a row in the embedding."""
    if max(vocabulary.values(), default=0) >= rows:
        raise UserError(
            f"{where}: its tokenizer has {len(vocabulary)} tokens and its embedding only {rows} rows; "
            "the tokenizer is another model's"
        )


def _token(number: Any) -> int | None:
    """Return a token id of a model's config, where it may be a list, or missing."""
    number = number[0] if isinstance(number, list) and number else number
    return number if isinstance(number, int) and not isinstance(number, bool) and number >= 0 else None


def _type(text: str, added: dict[str, Any] | None) -> int:
    if added is None:
        return NORMAL
    return CONTROL if added["special"] or LIKE_CONTROL.fullmatch(text) else USER_DEFINED


def _template(tokenizer: Any) -> str | None:
    template = getattr(tokenizer, "chat_template", None)
    # Several named templates: "default" is used unless another is requested.
    return template.get("default") if isinstance(template, dict) else template


def _pre_tokenizer(content: dict[str, Any], where: str) -> str:
    """Return llama.cpp's name of a Split by a known regex, then ByteLevel; no normalizer except NFC."""
    steps = content["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in steps]
    normalizer = (content.get("normalizer") or {}).get("type")
    reason = f"its tokenizer splits text by {' and '.join(map(str, kinds))}"
    if kinds == ["Split", "ByteLevel"] and normalizer in (None, "NFC"):
        split, level = steps
        expression = split["pattern"].get("Regex", "")
        digest = hashlib.sha256(expression.encode()).hexdigest()
        plain = split["behavior"] == "Isolated" and not split["invert"] and not level["add_prefix_space"]
        if digest in PRE_TOKENIZERS and plain and not level.get("use_regex"):
            return PRE_TOKENIZERS[digest]
        reason = f"its tokenizer splits text by an expression that is not known here (sha256 {digest[:16]}…)"
    elif normalizer not in (None, "NFC"):
        reason = f"its tokenizer changes text before it is split ({normalizer})"
    raise UserError(
        f"{where}: {reason}, and llama.cpp, told a wrong way, would make other tokens without a word; "
        f"known are those of {' and '.join(PRE_TOKENIZERS.values())}; use `mlx-lora fuse` instead"
    )
