"""PEFT itself, for the tests: ``python peft_server.py REQUEST.json`` in a process of its own, since torch is large."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

# A tensor that PEFT does not find, or does not know, is only a warning there.
warnings.filterwarnings("error", message=".*(missing|unexpected|not found|not a valid).*")


def logits(job: dict) -> None:
    """Logits [tokens, vocabulary] of a base with a PEFT directory on it, or alone."""
    import numpy as np
    import torch
    from peft import PeftModel

    model = load(job["base"])
    if job["adapter"] is not None:
        model = PeftModel.from_pretrained(model, job["adapter"])
    model.eval()
    with torch.no_grad():
        np.save(job["out"], model(torch.tensor([job["tokens"]])).logits[0].numpy())


def make(job: dict) -> None:
    """A PEFT directory with weights drawn at random, saved by PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    model = get_peft_model(load(job["base"]), LoraConfig(task_type="CAUSAL_LM", **job["config"]))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                value.normal_(std=0.3)
    model.save_pretrained(job["out"])


def load(base: str):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")


if __name__ == "__main__":
    for asked in json.loads(Path(sys.argv[1]).read_text()):
        {"logits": logits, "make": make}[asked["action"]](asked)
