"""Exports of the most used architectures: fused in the hub's names, and as GGUF, each verified.

    python benchmarks/exports.py [--only qwen3_5,gemma3] [--converter PATH] [--tokenizer DIR] [--out benchmarks/exports]

transformers makes each base, four layers of random weights, in the names and shapes that the hub's files have. A drawn
adapter on every linear layer that mlx-lm can adapt, experts included, is fused, and transformers has to compute from
the fused directory what MLX does with the adapter. Then `export gguf --type f32` writes it, here or with upstream's
converter. --tokenizer names a real byte-level tokenizer (upstream's converter knows no other); those of SentencePiece
are trained here. Needs the extras torch and gguf, and sentencepiece.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import mlx.core as mx
import numpy as np
import torch
import transformers
from mlx.utils import tree_flatten, tree_unflatten

from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.backends.mlx.layer_streaming import load_lazily
from mlx_lora.backends.mlx.lora import EXPERTS, LINEAR
from mlx_lora.config import TrainingConfig
from mlx_lora.errors import UserError
from mlx_lora.export.fuse import fuse
from mlx_lora.export.gguf.export import export_gguf
from mlx_lora.export.gguf.writer import refused_here
from mlx_lora.export.source import read_source
from mlx_lora.models.resolve import BUILT_IN, resolve_model

# Some classes' own is beyond a small vocabulary.
SPECIAL = {"pad_token_id": 3}
TINY = BUILT_IN["builtin/tiny-lumen"], 1024, {**SPECIAL, "bos_token_id": 1018, "eos_token_id": 1022}
TOKENS = list(range(5, 45))
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
TEMPLATE = (
    "{% for m in messages %}{{ '[' + m['role'] + '] ' + m['content'] }}{% if m['role'] == 'assistant' %}"
    "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
EXPERT = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
ROUTED |= {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}
LINEAR_ATTENTION = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16}
LINEAR_ATTENTION |= {"linear_value_head_dim": 16, "linear_conv_kernel_dim": 4}
# mlx-lm wants these beside what transformers 5 writes.
QUARTER = {"partial_rotary_factor": 0.25}
QWEN_ROPE = {
    "rope_type": "default",
    "rope_theta": 1e4,
    "mrope_section": [1, 1, 0],
    "mrope_interleaved": True,
    **QUARTER,
}
SLIDING = {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"] * 2}
GEMMA = {**SLIDING, "query_pre_attn_scalar": 16, "sliding_window_pattern": 2, "tie_word_embeddings": True}
# llama.cpp knows Gemma 3's pattern, every sixth layer, and reads no other.
GEMMA3 = {**GEMMA, "num_hidden_layers": 6, "sliding_window_pattern": 6}
GEMMA3 |= {"layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
SIGLIP = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SIGLIP |= {"image_size": 28, "patch_size": 14}
QWEN_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
QWEN_VISION |= {"patch_size": 4, "spatial_merge_size": 2, "num_position_embeddings": 16, "temporal_patch_size": 1}
QWEN_IMAGES = {"image_token_id": 500, "video_token_id": 501, "vision_start_token_id": 502, "vision_end_token_id": 503}
GEMMA_IMAGES = {"mm_tokens_per_image": 4, "image_token_index": 500, "boi_token_index": 501, "eoi_token_index": 502}


def multimodal(text: dict[str, Any], vision: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"text_config": {**SIZES, **text}, "vision_config": vision, **more}


# The architectures of the bases that are trained most with mlx-lm, as of 2026: (config, the tokenizer's kind).
BASES: dict[str, tuple[dict[str, Any], str]] = {
    "llama": (SIZES, "bytes"),
    "mistral": (SIZES, "spm"),
    "mixtral": ({**SIZES, "num_local_experts": 4}, "spm"),
    "mistral3": (
        multimodal(
            {"model_type": "mistral"},
            {**SIGLIP, "model_type": "pixtral"},
            image_token_index=500,
            tie_word_embeddings=False,
        ),
        "bytes",
    ),
    "qwen2": (SIZES, "bytes"),
    "qwen3": (SIZES, "bytes"),
    "qwen3_moe": ({**SIZES, **EXPERT}, "bytes"),
    "qwen3_next": (
        {**SIZES, **EXPERT, **LINEAR_ATTENTION, **QUARTER, "shared_expert_intermediate_size": 64},
        "bytes",
    ),
    "qwen3_5": (
        multimodal({**LINEAR_ATTENTION, "rope_parameters": QWEN_ROPE}, QWEN_VISION, **QWEN_IMAGES),
        "bytes",
    ),
    "qwen3_5_moe": (
        multimodal(
            {**LINEAR_ATTENTION, **EXPERT, "shared_expert_intermediate_size": 64, "rope_parameters": QWEN_ROPE},
            QWEN_VISION,
            **QWEN_IMAGES,
        ),
        "bytes",
    ),
    "qwen3_vl": (
        multimodal(
            {"rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True}},
            {**QWEN_VISION, "deepstack_visual_indexes": [0]},
            **QWEN_IMAGES,
        ),
        "bytes",
    ),
    "gemma2": ({**SIZES, **GEMMA}, "gemma"),
    "gemma3": (multimodal(GEMMA3, {**SIGLIP, "model_type": "siglip_vision_model"}, **GEMMA_IMAGES), "gemma"),
    "gemma3_text": ({**SIZES, **GEMMA3}, "gemma"),
    "phi3": (SIZES, "spm"),
    "gpt_oss": ({**SIZES, **SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2}, "bytes"),
    "glm4_moe": ({**SIZES, **ROUTED, "rope_scaling": None, "partial_rotary_factor": 0.5}, "bytes"),
    "deepseek_v3": (
        {
            **SIZES,
            **ROUTED,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "head_dim": 8,
        },
        "bytes",
    ),
    "smollm3": (SIZES, "bytes"),
    "lfm2": (
        {
            **SIZES,
            "layer_types": ["conv", "full_attention"] * 2,
            "conv_L_cache": 3,
            "block_auto_adjust_ff_dim": False,
            "block_dim": 64,
            "block_multiple_of": 256,
            "block_ffn_dim_multiplier": 1.0,
            "tie_word_embeddings": True,
        },
        "bytes",
    ),
}


def make_base(name: str, directory: Path, tokenizer: Path, rows: int, special: dict[str, int]) -> None:
    """A base of random weights, sharper than any trained one's, in the hub's names."""
    config, _ = BASES[name]
    common = {"vocab_size": rows, **special}
    config = {**config, **({"text_config": {**config["text_config"], **common}} if "text_config" in config else {})}
    # mlx-lm reads a multimodal config's vocabulary at the top.
    config |= common
    settings = transformers.AutoConfig.for_model(name, **config)
    known = transformers.models.auto.modeling_auto.AutoModelForImageTextToText._model_mapping
    kind = transformers.AutoModelForImageTextToText if type(settings) in known else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    model = kind.from_config(settings).float()
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.normal_(0, 1.2 / value.shape[-1] ** 0.5)
            else:
                value.add_(torch.randn_like(value) * 0.2)
    model.save_pretrained(directory)
    written = json.loads((directory / "config.json").read_text())
    _complete(written, config)
    if name == "qwen3_5_moe":
        _stack_experts(directory, written)
    if name == "gpt_oss":
        _quantize_experts(directory, written)
    (directory / "config.json").write_text(json.dumps(written))
    for file in tokenizer.glob("tokenizer*"):
        shutil.copyfile(file, directory / file.name)


def _complete(written: dict[str, Any], config: dict[str, Any]) -> None:
    """What transformers 5 leaves out of a config or writes elsewhere, as the hub's configs have it."""
    for key, value in config.items():
        if isinstance(value, dict) and isinstance(written.get(key), dict):
            _complete(written[key], value)
        else:
            written.setdefault(key, value)
    rope = written.get("rope_parameters") or {}
    written.update({key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope})
    if rope.get("rope_type", "default") != "default":
        written.setdefault("rope_scaling", {key: value for key, value in rope.items() if key != "rope_theta"})


def _stack_experts(directory: Path, config: dict[str, Any]) -> None:
    """The hub's Qwen3.5 has the experts of a layer in two tensors; transformers writes them one by one."""
    weights, made = mx.load(str(directory / "model.safetensors")), {}
    for name, value in weights.items():
        stem, found, rest = name.partition(".experts.")
        if not found:
            made[name] = value
        elif rest == "0.gate_proj.weight":
            each = range(config["text_config"]["num_experts"])
            pairs = [[weights[f"{stem}.experts.{e}.{part}_proj.weight"] for part in ("gate", "up")] for e in each]
            made[f"{stem}.experts.gate_up_proj"] = mx.stack([mx.concatenate(pair) for pair in pairs])
            down = [weights[f"{stem}.experts.{e}.down_proj.weight"] for e in each]
            made[f"{stem}.experts.down_proj"] = mx.stack(down)
    _replace(directory, made)


def _quantize_experts(directory: Path, config: dict[str, Any]) -> None:
    """The hub's gpt-oss has its experts in MXFP4."""
    made = {}
    for name, value in mx.load(str(directory / "model.safetensors")).items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            packed, scales = mx.quantize(value.swapaxes(1, 2), group_size=32, bits=4, mode="mxfp4")
            made[f"{name}_blocks"] = packed.view(mx.uint8).reshape(*packed.shape[:2], -1, 16)
            made[f"{name}_scales"] = scales
        else:
            made[name] = value
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    _replace(directory, made)


def _replace(directory: Path, weights: dict[str, mx.array]) -> None:
    mx.save_safetensors(str(directory / "new.safetensors"), weights, metadata={"format": "pt"})
    os.replace(directory / "new.safetensors", directory / "model.safetensors")


def draw_run(name: str, base: Path, out: Path) -> Path:
    """A run directory with a drawn adapter on all that mlx-lm can adapt (of gpt-oss the attention)."""
    model = resolve_model(str(base))
    layers = load_lazily(model).layers
    found = {path for layer in layers for path, m in layer.named_modules() if isinstance(m, LINEAR + EXPERTS)}
    keys = ATTENTION if name == "gpt_oss" else sorted({path.rpartition(".")[2] for path in found})
    config = TrainingConfig(model_name=str(base), lora_rank=4, lora_alpha=0.4, lora_target_modules=keys)
    backend = MLXBackend(model)
    backend.attach_lora(config)
    mx.random.seed(3)
    drawn = [(path, mx.random.normal(v.shape) * 0.3) for path, v in tree_flatten(backend.model.trainable_parameters())]
    backend.model.update(tree_unflatten(drawn))
    out.mkdir()
    backend.save_adapter(out, model)
    record = {"model": str(base), "model_revision": None, "data": None, "data_sha256": {}, "result": None}
    record |= {"learned_from": config.training_fingerprint(), "system_prompt": None}
    (out / "run.json").write_text(json.dumps(record))
    return out


def differ_in_transformers(fused: Path, base: Path, run: Path) -> float:
    """Logits of transformers from the fused directory against MLX's with the adapter: RMS, in their spread."""
    backend = MLXBackend(resolve_model(str(base)))
    backend.load_adapter(run)
    backend.model.set_dtype(mx.float32)
    ours = np.array(backend.model(mx.array([TOKENS]))[0].astype(mx.float32))
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(fused, dtype=torch.float32)
    except ValueError:
        model = transformers.AutoModelForImageTextToText.from_pretrained(fused, dtype=torch.float32)
    with torch.no_grad():
        theirs = model(torch.tensor([TOKENS])).logits[0].float().numpy()
    return float(np.sqrt(((theirs - ours) ** 2).mean()) / ours.std())


def spm_tokenizer(directory: Path, gemma: bool) -> Path:
    """A tokenizer of SentencePiece with byte fallback, trained on this project's documents."""
    import sentencepiece

    directory.mkdir()
    documents = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
    corpus = directory.parent / "corpus.txt"
    corpus.write_text("\n".join(file.read_text(encoding="utf-8") for file in documents), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(directory / "tokenizer"), vocab_size=1000, model_type="bpe",
        byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True, remove_extra_whitespaces=False,
        normalization_rule_name="identity", unk_id=0, bos_id=1, eos_id=2, pad_id=3, minloglevel=2,
    )  # fmt: skip
    (directory / "tokenizer.vocab").unlink()
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    # Gemma's puts no space before a text.
    kind = transformers.GemmaTokenizerFast if gemma else transformers.LlamaTokenizerFast
    settings = {
        "tokenizer_class": kind.__name__.removesuffix("Fast"),
        **tokens,
        "add_bos_token": True,
        "add_eos_token": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    made = kind.from_pretrained(directory, **tokens)
    made.backend_tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def measure(name: str, tokenizers: dict[str, Path], converter: str | None, folder: Path) -> dict[str, Any]:
    """The row of one architecture."""
    row: dict[str, Any] = {"architecture": name}
    try:
        base = folder / "small"
        make_base(name, base, *TINY)
        run = draw_run(name, base, folder / "run")
        report = fuse(str(run), folder / "fused")
        row["fused"] = report.verdict
        row["transformers"] = differ_in_transformers(Path(report.file), base, run)
    except (UserError, ValueError, RuntimeError) as error:
        row["fused"] = f"{row.get('fused', '')} {error}".strip().splitlines()[0][:300]
    kind = BASES[name][1]
    if kind not in tokenizers:
        row["gguf"] = "no tokenizer was given"
        return row
    try:
        rows, special = (151680, (151643, 151645)) if kind == "bytes" else (1024, (1, 2))
        base = folder / "large"
        make_base(
            name,
            base,
            tokenizers[kind],
            rows,
            {**SPECIAL, **dict(zip(("bos_token_id", "eos_token_id"), special, strict=True))},
        )
        run = draw_run(name, base, folder / "run-gguf")
        row["writer"] = "own" if refused_here(read_source(str(run))) is None else "upstream"
        report = export_gguf(
            str(run), folder / "model.gguf", "f32", converter=None if row["writer"] == "own" else converter
        )
        values = {check.name: check.value for check in report.checks}
        failed = "; ".join(f"{check.name}: {check.value}" for check in report.checks if not check.passed)
        row["gguf"] = report.verdict if report.verdict == "verified" else f"rejected ({failed})"[:300]
        row["llama.cpp"] = values.get("difference of logits (RMS, in their spread)")
    except (UserError, ValueError, RuntimeError) as error:
        row["gguf"] = str(error).splitlines()[0][:300]
    return row


def as_markdown(result: dict[str, Any]) -> str:
    def number(value: Any) -> str:
        return "" if value is None else f"{value:.0e}"

    lines = [
        f"{result['fused']} of {len(result['rows'])} fused in the hub's names and verified, {result['gguf']} as GGUF. "
        f"{result['date']}, {result['machine']}; {result['versions']}.",
        "",
        "| architecture | fused | transformers | GGUF | writer | llama.cpp |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        cells = (row["fused"], number(row.get("transformers")), row["gguf"], row.get("writer", ""))
        lines.append(f"| {row['architecture']} | {' | '.join(cells)} | {number(row.get('llama.cpp'))} |")
    lines += ["", "Columns of numbers: difference of logits from MLX with the adapter, RMS in their spread.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="architectures, comma-separated")
    parser.add_argument("--converter", help="as `export gguf` takes it")
    parser.add_argument("--tokenizer", type=Path, help="Qwen2's tokenizer, for the GGUFs of byte-level vocabularies")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/exports"))
    requested = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tokenizers = {kind: spm_tokenizer(Path(folder) / kind, kind == "gemma") for kind in ("spm", "gemma")}
        tokenizers |= {"bytes": requested.tokenizer} if requested.tokenizer else {}
        for name in requested.only.split(",") if requested.only else BASES:
            start = time.monotonic()
            with tempfile.TemporaryDirectory(dir=folder) as own:
                rows.append(measure(name, tokenizers, requested.converter, Path(own)))
            print(json.dumps({**rows[-1], "seconds": round(time.monotonic() - start)}), flush=True)
    file = requested.out / "results.json"
    if requested.only and file.exists():
        # Some rows measured again, the others kept.
        made = {row["architecture"]: row for row in [*json.loads(file.read_text())["rows"], *rows]}
        rows = [made[name] for name in BASES if name in made]
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": ", ".join(f"{p} {version(p)}" for p in ("mlx-lm", "transformers", "gguf", "cyllama")),
        "fused": sum(row["fused"] == "verified" for row in rows),
        "gguf": sum(row["gguf"] == "verified" for row in rows),
        "rows": rows,
    }
    requested.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    (requested.out / "results.md").write_text(as_markdown(result))
    print(as_markdown(result))


if __name__ == "__main__":
    main()
