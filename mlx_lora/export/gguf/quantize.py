"""llama.cpp quantization (Q4_K_M, …): the known types, and the checks of a quantized file.

llama.cpp has been seen to report success on defective files, so its exit status is not trusted.
"""

from __future__ import annotations

from pathlib import Path

from ...engines.llamacpp.run import LlamaCppFailed, quantize
from ...errors import UserError
from ..merge import Changed
from ..verification import ExportCheck, at_most
from .encoding import TYPES
from .reader import Opened, WeightErrors, open_gguf, worst_error

# Super-block size of the K types; rows that it does not divide fall back to types with blocks of 32.
BLOCK = 256
# These need an importance matrix computed from texts: llama.cpp refuses them without one.
NEEDS_TEXTS = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "q2_k_s")
# Largest relative error of a type. On normally distributed numbers Q8_0 has 0.54 %, Q6_K 1.8 %, Q4_K 7.1 %; trained
# weights have longer tails. A broken tensor is far beyond.
ERRORS = {"f32": 1e-6, "f16": 1e-3, "bf16": 5e-3, "q8_0": 0.02, "q6_k": 0.05, "q5_k": 0.1, "q5_1": 0.11, "q5_0": 0.12}
ERRORS |= {"q4_k": 0.2, "iq4_xs": 0.2, "iq4_nl": 0.2, "q4_1": 0.22, "q4_0": 0.25, "q3_k": 0.4, "iq3_s": 0.4}
ERRORS |= {"iq3_xxs": 0.5, "q2_k": 0.7, "iq2_s": 0.7}
# Typical mean bits per weight of a type; the embedding and some layers have more than the rest.
BITS = {"q2_k": 3.4, "q3_k_s": 3.7, "q3_k_m": 4.1, "q3_k_l": 4.4, "iq4_xs": 4.6, "iq4_nl": 4.8, "q4_0": 4.8}
BITS |= {"q4_1": 5.2, "q4_k_s": 4.8, "q4_k_m": 5.0, "q5_0": 5.8, "q5_1": 6.2, "q5_k_s": 5.7, "q5_k_m": 5.9, "q6_k": 6.7}
OTHER_BITS = 5.0
# Source type of quantized files: it loses nothing that the quantized type would keep.
BETWEEN = "f16"


def type_numbers() -> dict[str, int]:
    """Return llama.cpp's file type numbers, by name in lower case."""
    from gguf import LlamaFileType

    return {kind.name.removeprefix("MOSTLY_").removeprefix("ALL_").lower(): int(kind) for kind in LlamaFileType}


def check_type(kind: str) -> None:
    """Raise UserError if there is no such type, or it cannot be made from a model alone."""
    if kind in TYPES:
        return
    if kind in NEEDS_TEXTS:
        raise UserError(
            f"--type {kind}: llama.cpp makes this type only with an importance matrix; use q3_k_m or larger"
        )
    if kind not in ERRORS and kind not in BITS:
        raise UserError(f"--type {kind}: there is no such type; use one of {', '.join([*TYPES, *BITS])}")


def file_share(kind: str) -> float:
    """Return the size of a quantized file as a share of its source file; its fallback types are larger."""
    return 1.25 * BITS.get(kind, OTHER_BITS) / {"f32": 32.0, "f16": 16.0}[BETWEEN]


def quantized(full: Path, out: Path, kind: str) -> tuple[WeightErrors, list[ExportCheck], list[str]]:
    """Quantize a GGUF file; return the weight errors (of both files), the checks, and the notes for the user.

    Raises:
        UserError: no llama.cpp is installed.
        LlamaCppFailed: llama.cpp refused, or crashed.
    """
    provider = quantize(full, out, type_numbers()[kind])
    if not out.exists():
        raise LlamaCppFailed(f"{provider} said it was done, and wrote nothing")
    try:
        before, after = open_gguf(full), open_gguf(out)
    except ValueError as error:
        raise LlamaCppFailed(f"what {provider} wrote cannot be read ({error})") from error
    fallback = _fallback(after, kind)
    limit = 9.0 if fallback else BITS.get(kind, OTHER_BITS) * 1.25
    notes = [f"quantized by {provider}: {after.kinds()}; {after.bits:.2f} bits a weight"]
    if fallback:
        notes.append(
            f"{fallback} of its matrices have rows that {BLOCK} does not divide, which {kind} cannot hold: they were "
            f"written in larger types, so that the file has {after.bits:.1f} bits a weight"
        )
    return WeightErrors(before, after), [at_most("bits a weight", after.bits, limit)], notes


def error_checks(errors: WeightErrors, kind: str, changed: Changed) -> tuple[list[ExportCheck], list[str]]:
    """Check the quantization error of every tensor against its type's; report it next to the adapter's change."""
    found, tensors = errors.all(), errors.quantized.tensors
    notes = []
    if changed.change:
        matrices = [found[name] for name, tensor in tensors.items() if len(tensor.shape) > 1]
        notes.append(
            f"the adapter changed the weights it is on by {changed.relative:.2%}, {kind} changes weights by "
            f"{sum(matrices) / len(matrices):.2%} on average"
        )
    return [worst_error(found, errors.quantized, ERRORS)], notes


def _fallback(opened: Opened, kind: str) -> int:
    """Count the matrices that cannot have a type with blocks of 256."""
    if not kind.startswith(("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs", "iq3", "iq2")):
        return 0
    return sum(len(tensor.shape) > 1 and tensor.shape[-1] % BLOCK != 0 for tensor in opened.tensors.values())
