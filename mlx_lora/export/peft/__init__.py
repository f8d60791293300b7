"""PEFT adapters: export, import and comparison of logits in PEFT."""
