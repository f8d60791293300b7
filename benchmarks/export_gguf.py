"""CPU time and memory of `mlx-lora export gguf`, its verification included, at real models' shapes.

    python benchmarks/export_gguf.py [--shape qwen2.5-0.5b ...] [--type q4_k_m] [--tokenizer qwen2=DIR llama=DIR]
        [--converter FILE] [--folder DIR] [--out benchmarks/export]

Weights are random bfloat16, the adapter has rank 16 on all seven projections, and the run's data are data eisv's. The
planned peak is that of the command's own plan; the measured one is the most that its processes had allocated together
(anonymous memory: pages of mapped files are not counted), looked at each 10 ms. Beside it are upstream's
`convert_hf_to_gguf.py` (--converter, a path; Python with torch by --python) and llama.cpp's quantizer alone. Upstream's
converter knows only real tokenizers. A shape whose name ends in `:plan` is only planned: no weights on the disk.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlx_lora.export.gguf.export import gguf_steps
from mlx_lora.export.gguf.quantize import type_numbers
from mlx_lora.export.gguf.writer import plan
from mlx_lora.export.reference import questions_of
from mlx_lora.export.source import read_source
from mlx_lora.export.tensors import make_header
from mlx_lora.memory import memory_sizes
from mlx_lora.models.parameters import projections
from mlx_lora.models.resolve import BUILT_IN
from mlx_lora.models.tokenizer import load_tokenizer
from mlx_lora.processes import python_environment
from mlx_lora.sources.eisv import make_eisv_dataset

RANK = 16
COMMON = {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "hidden_act": "silu"}


def shape(
    kind: str, hidden: int, inner: int, layers: int, heads: int, kv: int, rows: int, tied: bool
) -> dict[str, Any]:
    name = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}[kind]
    return {
        **COMMON,
        "model_type": kind,
        "architectures": [name],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": rows,
        "rope_theta": 1e6 if kind == "qwen2" else 5e5,
        "tie_word_embeddings": tied,
    }


SHAPES = {
    "qwen2.5-0.5b": shape("qwen2", 896, 4864, 24, 14, 2, 151936, True),
    "llama-3.2-1b": shape("llama", 2048, 8192, 16, 32, 8, 128256, True),
    "llama-3.1-8b": shape("llama", 4096, 14336, 32, 32, 8, 128256, False),
}


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden = config["hidden_size"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name, size in projections(config).items():
            module = f"{at}.{'mlp' if name in ('gate_proj', 'up_proj', 'down_proj') else 'self_attn'}.{name}"
            found[f"{module}.weight"] = size
            if config["model_type"] == "qwen2" and name in ("q_proj", "k_proj", "v_proj"):
                found[f"{module}.bias"] = size[:1]
        found[f"{at}.input_layernorm.weight"] = found[f"{at}.post_attention_layernorm.weight"] = (hidden,)
    found["model.norm.weight"] = (hidden,)
    return found if config["tie_word_embeddings"] else {**found, "lm_head.weight": (config["vocab_size"], hidden)}


def make_base(directory: Path, config: dict[str, Any], tokenizer: Path, hollow: bool) -> None:
    """A model directory; a hollow one has no bytes on the disk, but a file of the right length."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    for file in tokenizer.glob("*"):
        if file.name.startswith(("tokenizer", "vocab", "merges", "added", "special", "chat_template")):
            shutil.copy(file, directory / file.name)
    generator = np.random.default_rng(0)
    shapes = tensor_shapes(config)
    with open(directory / "model.safetensors", "wb") as file:
        file.write(make_header({name: ("BF16", shape) for name, shape in shapes.items()}, "pt"))
        if hollow:
            file.truncate(file.tell() + 2 * sum(int(np.prod(shape)) for shape in shapes.values()))
            return
        for name, shape in shapes.items():
            # Residuals are weak, as in trained models: quantization's noise is not amplified from layer to layer.
            scale = 0.0002 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            numbers = generator.standard_normal(shape, dtype=np.float32) * np.float32(scale) + ("norm" in name)
            (numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tofile(file)


def make_run(directory: Path, base: Path, data: Path, config: dict[str, Any]) -> None:
    directory.mkdir()
    generator = np.random.default_rng(1)
    found: dict[str, tuple[int, ...]] = {}
    keys = set()
    for name, size in tensor_shapes(config).items():
        if name.endswith("_proj.weight"):
            module = name.removesuffix(".weight")
            found[f"{module}.lora_a"], found[f"{module}.lora_b"] = (size[1], RANK), (RANK, size[0])
            keys.add(module.split(".", 3)[3])
    with open(directory / "adapters.safetensors", "wb") as file:
        file.write(make_header({name: ("F32", size) for name, size in found.items()}, "pt"))
        for size in found.values():
            (generator.standard_normal(size, dtype=np.float32) * np.float32(0.005)).tofile(file)
    parameters = {"rank": RANK, "scale": 2.0, "dropout": 0.0, "keys": sorted(keys)}
    described = {"fine_tune_type": "lora", "num_layers": config["num_hidden_layers"], "lora_parameters": parameters}
    (directory / "adapter_config.json").write_text(json.dumps(described))
    (directory / "run.json").write_text(json.dumps({"model": str(base), "data": str(data)}))


def processes(root: int) -> list[int]:
    found = [root]
    for file in Path(f"/proc/{root}/task").glob("*/children"):
        try:
            found += [each for child in file.read_text().split() for each in processes(int(child))]
        except OSError:
            continue
    return found


def allocated(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    sizes = [status.partition(f"{name}:")[2].split() for name in ("RssAnon", "RssShmem")]
    return sum(int(size[0]) * 1024 for size in sizes if size)


def measured(command: list[str], **options: Any) -> tuple[dict[str, float], subprocess.CompletedProcess[str]]:
    """CPU seconds, wall seconds and peak bytes of a command with its children."""
    before, started, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, text=True, **options)
        while process.poll() is None:
            peak = max(peak, sum(map(allocated, processes(process.pid))))
            time.sleep(0.01)
        out.seek(0), errors.seek(0)
        done = subprocess.CompletedProcess(command, process.returncode, out.read(), errors.read())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_seconds": cpu, "wall_seconds": time.perf_counter() - started, "peak_bytes": peak}, done


def planned(run: Path, kind: str) -> list[dict[str, Any]]:
    source = read_source(str(run))
    made = plan(source, "f16")
    questions = questions_of(source, load_tokenizer(str(source.model.path)), made.parameters)
    return [step.to_dict() for step in gguf_steps(made, questions, int(0.4 * made.weight_bytes))]


QUANTIZER = (
    "from pathlib import Path; from mlx_lora.engines.llamacpp.run import quantize; quantize(Path({}), Path({}), {})"
)


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    config = SHAPES[name.removesuffix(":plan")]
    base, run, data, out = folder / "base", folder / "run", folder / "data", folder / "out.gguf"
    tokenizers = dict(pair.split("=", 1) for pair in options.tokenizer)
    tokenizer = Path(tokenizers.get(config["model_type"], BUILT_IN["builtin/tiny-lumen"]))
    make_base(base, config, tokenizer, name.endswith(":plan"))
    make_eisv_dataset(data, min_per_shape=10)
    make_run(run, base, data, config)
    if name.endswith(":plan"):
        return {"shape": name.removesuffix(":plan"), "plan": planned(run, options.type)}
    command = ["export", "gguf", "--run", str(run), "--out", str(out), "--type", options.type, "--json"]
    found, done = measured([sys.executable, "-P", "-m", "mlx_lora", *command], env=python_environment())
    report = json.loads(done.stdout)
    row = {"shape": name, "plan": report["plan"], "verdict": report["verdict"], "file_bytes": 0, "ours": found}
    made = Path(report["file"])
    row["file_bytes"] = made.stat().st_size
    made.unlink()
    if options.converter:
        full, small = folder / "full.gguf", folder / "small.gguf"
        path = {**os.environ, "PYTHONPATH": str(options.converter.parent)}
        convert = [options.python, str(options.converter), str(base), "--outfile", str(full), "--outtype", "f16"]
        row["upstream_converter"], done = measured(convert, env=path)
        if done.returncode:
            raise SystemExit(f"the converter failed: {done.stderr.strip().splitlines()[-1]}")
        quantize = QUANTIZER.format(repr(str(full)), repr(str(small)), type_numbers()[options.type])
        row["llama_cpp_quantizer"], done = measured([sys.executable, "-P", "-c", quantize], env=python_environment())
    return row


def table(rows: list[dict[str, Any]], where: str) -> str:
    lines = [
        "# `mlx-lora export gguf`, verification included",
        "",
        f"{where}. Written by `python benchmarks/export_gguf.py`.",
        "",
        "| shape | verdict | CPU s | converter + quantizer, CPU s | ratio | peak, planned | peak, measured | off by |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        peak = max(step["memory_bytes"] for step in row["plan"])
        cells = [row["shape"], row.get("verdict", "planned only"), "", "", "", f"{peak / 1e9:.2f} GB", "", ""]
        if "ours" in row:
            ours = row["ours"]
            cells[2] = f"{ours['cpu_seconds']:.1f}"
            cells[6:] = [f"{ours['peak_bytes'] / 1e9:.2f} GB", f"{peak / ours['peak_bytes'] - 1:+.0%}"]
        if "upstream_converter" in row:
            parts = [row[key]["cpu_seconds"] for key in ("upstream_converter", "llama_cpp_quantizer")]
            cells[3:5] = [f"{parts[0]:.1f} + {parts[1]:.1f}", f"{ours['cpu_seconds'] / sum(parts):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    shapes = ["qwen2.5-0.5b", "llama-3.2-1b", "llama-3.1-8b:plan"]
    parser.add_argument("--shape", nargs="+", default=shapes, choices=[*SHAPES, *(f"{name}:plan" for name in SHAPES)])
    parser.add_argument("--type", default="q4_k_m")
    parser.add_argument("--tokenizer", nargs="+", default=[], help="TYPE=DIR; else the built-in base's is used")
    parser.add_argument("--converter", type=Path, help="upstream's convert_hf_to_gguf.py")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch, for the converter")
    parser.add_argument("--folder", type=Path, help="for models of several GB")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "export")
    options = parser.parse_args()
    rows = []
    for name in options.shape:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            rows.append(measure(name, options, Path(folder)))
    memory, cores = memory_sizes()[0] / 1e9, os.cpu_count()
    chip = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    where = (
        f"{chip.partition(': ')[2] or 'a CPU'}, {cores} cores, {memory:.0f} GB; {datetime.date.today()}; {options.type}"
    )
    options.out.mkdir(exist_ok=True)
    (options.out / "results.json").write_text(json.dumps({"machine": where, "rows": rows}, indent=2) + "\n")
    (options.out / "results.md").write_text(table(rows, where))
    print(table(rows, where))


if __name__ == "__main__":
    main()
