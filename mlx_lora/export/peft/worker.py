"""PEFT subprocess entry point: ``python -m mlx_lora.export.peft.worker REQUEST.json``.

``{"action": "modules", "base"}`` is answered with ``{"modules": {path: [out, in]}}``, the linear layers of the base's
class. ``{"action": "logits", "base", "adapter", "prompts", "positions", "out"}`` with ``{"base", "adapter"}``, the
error of each or ``None``; the logits are in ``out``, ``adapter-N.npy`` and ``base-N.npy`` for each prompt.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from ...processes import answer_request

# PEFT only warns about a missing or unknown tensor.
IGNORED_BY_PEFT = ".*(missing|unexpected|not found|not a valid).*"


def modules(request: dict[str, Any]) -> dict[str, Any]:
    """Return the linear layers of the class that the base's config names."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(request["base"], trust_remote_code=False)
    kind = _class_of(config)
    with torch.device("meta"):
        model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    return {"modules": {path: list(layer.weight.shape) for path, layer in layers.items()}}


def logits(request: dict[str, Any]) -> dict[str, Any]:
    """Compute the logits of the base, and of the base with the adapter, in float32."""
    from peft import PeftModel

    try:
        base = _load(request["base"])
    except Exception as error:
        return {"base": _line(error), "adapter": None}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=IGNORED_BY_PEFT)
            model = PeftModel.from_pretrained(base, request["adapter"])
        model.eval()
        _save_logits(model, request, "adapter")
        with model.disable_adapter():
            _save_logits(model, request, "base")
    except Exception as error:
        return {"base": None, "adapter": _line(error)}
    return {"base": None, "adapter": None}


def _class_of(config: Any) -> Any:
    import transformers

    named = (config.architectures or [""])[0]
    return getattr(transformers, named, transformers.AutoModelForCausalLM)


def _load(base: str) -> Any:
    import torch
    from transformers import AutoConfig

    kind = _class_of(AutoConfig.from_pretrained(base, trust_remote_code=False))
    model, loading = kind.from_pretrained(
        base,
        dtype=torch.float32,
        attn_implementation="eager",
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    missing = sorted(loading["missing_keys"])
    if missing:
        # It would initialize them randomly.
        raise ValueError(f"its files do not hold {missing[0]}, which {type(model).__name__} needs")
    return model


def _save_logits(model: Any, request: dict[str, Any], name: str) -> None:
    import numpy as np
    import torch

    with torch.no_grad():
        for i, (prompt, positions) in enumerate(zip(request["prompts"], request["positions"], strict=True)):
            values = model(input_ids=torch.tensor([prompt])).logits[0, positions].float().numpy()
            np.save(Path(request["out"]) / f"{name}-{i}.npy", values)


def _line(error: BaseException) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 300 else f"{words[:300]}..."


if __name__ == "__main__":
    answer_request({"modules": modules, "logits": logits})
