"""Settings of PEFT's ``adapter_config.json``: supported, refused and irrelevant ones.

PEFT's ``LoraConfig`` holds settings of many methods. A test compares these tables with the fields of the installed
PEFT, so that a new one is not overlooked; a key that is in no table is refused if a file sets it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...errors import UserError

# Settings that the import uses.
READ = {
    *("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "init_lora_weights"),
    *("base_model_name_or_path", "revision"),
    # Selection of the adapted modules.
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
}
# Settings that change the adapter's computation or its file, with what they do.
REFUSED = {
    "modules_to_save": "trains whole modules",
    "rank_pattern": "gives modules ranks of their own",
    "alpha_pattern": "gives modules scales of their own",
    "fan_in_fan_out": "is for layers whose weights are transposed",
    "layer_replication": "repeats layers of the base",
    "lora_bias": "adds a bias to each adapted module",
    "trainable_token_indices": "trains rows of the embedding",
    "target_parameters": "adapts parameters that are not linear layers",
    "alora_invocation_tokens": "applies the adapter only after certain tokens (aLoRA)",
    "use_qalora": "pools the input of each adapted module (QALoRA)",
    "arrow_config": "chooses among several adapters at each token (Arrow)",
    "use_bdlora": "makes matrices block-diagonal (BD-LoRA)",
    "kasa_config": "changes the base's weights and adds singular values (KaSA)",
    "monteclora_config": "samples the matrices (MonteCLoRA)",
    "velora_config": "keeps projections beside the matrices (VeLoRA)",
    "megatron_config": "is for Megatron's parallel layers",
}
# Settings that do not change what a saved adapter computes, with the reason.
IRRELEVANT = {
    "task_type": "chooses the class that PEFT wraps the model in; a head of its own would be in modules_to_save",
    "auto_mapping": "names the Python class that the base was loaded with",
    "peft_version": "is a record",
    "inference_mode": "freezes the matrices",
    "megatron_core": "is read with megatron_config only",
    "qalora_group_size": "is read with use_qalora only",
    "loftq_config": "is read with init_lora_weights loftq only",
    "eva_config": "is read when the matrices are initialized",
    "corda_config": "is read with init_lora_weights corda only",
    "lora_ga_config": "is read with init_lora_weights lora_ga only",
    "runtime_config": "is about devices, and not saved",
    "ensure_weight_tying": "concerns modules_to_save and adapted embeddings, which are refused",
}
# Initializations that leave the base unchanged. Others subtract the initial matrices from the base's weights: PEFT
# repeats that at each load (pissa, olora), or needs more than the saved adapter for it (corda, loftq, lora_ga).
PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica")


def check_settings(file: Path, config: dict[str, Any]) -> None:
    """Raise UserError, naming the setting, at the first one that mlx-lm's format cannot hold.

    Args:
        config: the content of PEFT's ``adapter_config.json``.
    """
    for key, value in config.items():
        if key in REFUSED and value:
            raise UserError(f"{file}: {key} is {_short(value)}: it {REFUSED[key]}, which mlx-lm's format cannot hold")
        if value and key not in READ and key not in REFUSED and key not in IRRELEVANT:
            raise UserError(
                f"{file}: {key} is {_short(value)}, a setting that is not known here and may change what the adapter "
                "computes; remove it from the file if it does not"
            )
    if config.get("bias") not in (None, "none"):
        raise UserError(f"{file}: bias is {config['bias']!r}; mlx-lm's format holds no biases, so only none works")
    start = config.get("init_lora_weights", True)
    if not isinstance(start, bool | None) and str(start).lower() not in PLAIN_STARTS:
        raise UserError(
            f"{file}: init_lora_weights is {_short(start)}, which changes the base's weights at the start, so the "
            "matrices alone are not the difference to the base; convert the adapter in PEFT with "
            "model.save_pretrained(DIR, path_initial_model_for_weight_conversion=START), START being the adapter as "
            "it was saved before training"
        )


def check_selection(file: Path, config: dict[str, Any], paths: list[str]) -> None:
    """Raise UserError if PEFT would not load the matrices of one of these modules, because nothing selects it."""
    for path in paths:
        try:
            selected = is_selected(config, path)
        except (TypeError, ValueError) as error:
            raise UserError(f"{file}: target_modules and what goes with it cannot be read ({error})") from error
        if not selected:
            raise UserError(
                f"{file}: there are matrices for {path}, which target_modules, exclude_modules and "
                "layers_to_transform leave out, so PEFT would ignore them: this adapter is broken"
            )


def is_selected(config: dict[str, Any], path: str) -> bool:
    """Return True if PEFT adapts a linear layer of this path, by its own rules (``check_target_module_exists``).

    Regular expressions are assumed to match: an untrusted one may never terminate, and PEFT itself is used if it is
    installed. Without ``target_modules`` PEFT has defaults for each architecture.
    """
    excluded, wanted = config.get("exclude_modules"), config.get("target_modules")
    if isinstance(excluded, list) and _ends_in(path, excluded):
        return False
    if wanted is None or isinstance(wanted, str) or path in wanted:
        return True
    layers = config.get("layers_to_transform")
    if not _ends_in(path, wanted) or layers is None or layers == []:
        return _ends_in(path, wanted)
    patterns = config.get("layers_pattern") or ["[^.]*"]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if any(not name.isidentifier() for name in patterns if name != "[^.]*"):
        return True
    found = (re.match(rf"(?:^|.*?\.){name}\.(?P<index>\d+)\.", path) for name in patterns)
    match = next((match for match in found if match), None)
    return match is not None and int(match["index"]) in ([layers] if isinstance(layers, int) else layers)


def _ends_in(path: str, names: list[str]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
