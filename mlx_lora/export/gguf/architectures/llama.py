"""Llama architecture; also Mistral with a BPE tokenizer, which GGUF stores as llama."""

from . import Architecture

ARCHITECTURE = Architecture(
    name="llama",
    model_types=("llama", "mistral"),
    permuted={"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"},
    biases=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
