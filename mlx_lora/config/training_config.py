"""Training config: keys, defaults and ranges."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from annotated_types import Interval

from .paths import located

Logger = Literal["tensorboard", "trackio", "wandb", "mlflow"]


class DefaultModules(list[str]):
    """The target modules of a config that names none: q, k, v and o; a base that lacks them gets ``auto`` instead."""


def default_modules() -> DefaultModules:
    """Return the target modules of a config that names none."""
    return DefaultModules(["q_proj", "k_proj", "v_proj", "o_proj"])


@dataclass
class TrainingConfig:
    """All settings that decide what a run learns; paths are relative to the working directory.

    ``max_steps`` of ``None`` trains for ``num_epochs``. ``eval_steps`` of ``None`` evaluates after each epoch.
    ``num_layers`` of ``None`` adapts every layer. Any other ``None`` means no limit.
    """

    model_name: str = "meta-llama/Llama-3.2-1B-Instruct"
    model_revision: str | None = None
    load_in_4bit: bool = False
    chat_template: str | None = None
    system_role: Literal["merge", "refuse"] = "merge"
    backend: Literal["auto", "mlx", "torch"] = "auto"
    data: str | list[dict[str, Any]] | None = None
    balance_batches: bool = False
    output_dir: str | None = None
    init_adapter: str | None = None
    lora_rank: Annotated[int, Interval(ge=1, le=4096)] = 16
    lora_alpha: Annotated[float, Interval(gt=0, le=1e6)] = 32.0
    lora_dropout: Annotated[float, Interval(ge=0, le=0.999)] = 0.05
    use_rslora: bool = False
    fine_tune_type: Literal["lora", "dora", "full"] = "lora"
    lora_target_modules: list[str] | Literal["auto"] = field(default_factory=default_modules)
    num_layers: Annotated[int, Interval(ge=1, le=10_000)] | None = None
    learning_rate: Annotated[float, Interval(gt=0, le=10)] = 2e-4
    lr_schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: Annotated[int, Interval(ge=0, le=10**9)] = 100
    num_epochs: Annotated[int, Interval(ge=1, le=10**6)] = 5
    max_steps: Annotated[int, Interval(ge=1, le=10**9)] | None = None
    batch_size: Annotated[int, Interval(ge=1, le=10**6)] = 4
    gradient_accumulation_steps: Annotated[int, Interval(ge=1, le=10**6)] = 4
    micro_batch_tokens: Annotated[int, Interval(ge=1, le=10**9)] = 2048
    max_seq_length: Annotated[int, Interval(ge=8, le=10**7)] = 512
    train_on_prompt: bool = False
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 0.01
    grad_clip: Annotated[float, Interval(gt=0, le=1e6)] | None = None
    optimizer: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    grad_checkpoint: bool = False
    torch_compile: bool = False
    eval_steps: Annotated[int, Interval(ge=1, le=10**9)] | None = None
    early_stopping_patience: Annotated[int, Interval(ge=1, le=10**6)] | None = None
    keep_best: bool = True
    keep_best_by: Literal["mean", "worst"] = "mean"
    save_steps: Annotated[int, Interval(ge=1, le=10**9)] = 100
    save_total_limit: Annotated[int, Interval(ge=1, le=10**6)] = 3
    log_steps: Annotated[int, Interval(ge=1, le=10**9)] = 10
    tensorboard: bool = False
    report_to: list[Logger] = field(default_factory=list)
    run_name: str | None = None
    max_minutes: Annotated[float, Interval(gt=0, le=10**6)] | None = None
    until: str | None = None
    memory_limit_gb: Annotated[float, Interval(gt=0, le=10**5)] | None = None
    waive_checks: list[str] = field(default_factory=list)
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1)] = 42

    def to_dict(self) -> dict[str, Any]:
        """Return the config as a dict of JSON values."""
        named = self.lora_target_modules
        return asdict(self) | {"lora_target_modules": named if isinstance(named, str) else list(named)}

    def located(self) -> TrainingConfig:
        """Return the config with absolute paths to local files, so that it is valid in any directory."""
        return replace(self, **located(self.to_dict()))

    def training_fingerprint(self) -> dict[str, Any]:
        """Return the keys that decide what is learned: a run only resumes with the same ones."""
        decisive = {key: value for key, value in self.to_dict().items() if key not in RUN_ONLY}
        # Datasets are compared by their contents; their shares are not part of these.
        mixed = [share["weight"] for share in self.data] if isinstance(self.data, list) else []
        return decisive | ({"data_weights": mixed} if mixed else {})


# Settings that do not affect what is learned; these may differ on resume.
RUN_ONLY = {
    *("backend", "output_dir", "data", "save_steps", "save_total_limit", "log_steps", "tensorboard"),
    *("report_to", "run_name"),
    *("max_minutes", "until", "memory_limit_gb", "grad_checkpoint", "torch_compile", "waive_checks"),
}
