"""An agent's artifact stores → training examples: public API of the data source."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .artifact import Artifact, Context, Feedback, GuardResult, parse_artifact
from .authorship import read_sources
from .dataset import as_example, make_traces_dataset
from .predicates import (
    POLICIES,
    Predicate,
    all_successes,
    by_action_pair,
    by_source,
    by_status,
    by_workflow,
    created_after,
    generator_only,
    high_value,
    human_only,
    named_policy,
    recent,
    refinement,
    refinement_by_link,
    retry_count,
)
from .prompt_format import artifact_prompt, format_alpaca, format_prompt, training_example
from .provenance import get_provenance_chain
from .run_results import by_outcome, read_results
from .selection import extract_training_data, overtaken, select
from .store import (
    ArtifactStore,
    find_stores,
    read_store,
    read_stores,
    sparse_reward,
)

if TYPE_CHECKING:
    from ...evaluation.first_attempt import (
        evaluate_improvement,
        expected_retries,
    )
    from ...evaluation.scorers.command import (
        Verdict,
        as_guard,
    )
    from ...evaluation.statistics import (
        paired_difference,
        wilson,
    )

# Scoring moved to evaluation; these names stay importable from here.
_MOVED = {
    **dict.fromkeys(("Verdict", "as_guard"), "mlx_lora.evaluation.scorers.command"),
    **dict.fromkeys(("evaluate_improvement", "expected_retries"), "mlx_lora.evaluation.first_attempt"),
    **dict.fromkeys(("paired_difference", "wilson"), "mlx_lora.evaluation.statistics"),
}

__all__ = [
    "POLICIES",
    "Artifact",
    "ArtifactStore",
    "Context",
    "Feedback",
    "GuardResult",
    "Predicate",
    "Verdict",
    "all_successes",
    "artifact_prompt",
    "as_example",
    "as_guard",
    "by_action_pair",
    "by_outcome",
    "by_source",
    "by_status",
    "by_workflow",
    "created_after",
    "evaluate_improvement",
    "expected_retries",
    "extract_training_data",
    "find_stores",
    "format_alpaca",
    "format_prompt",
    "generator_only",
    "get_provenance_chain",
    "high_value",
    "human_only",
    "make_traces_dataset",
    "named_policy",
    "overtaken",
    "paired_difference",
    "parse_artifact",
    "read_results",
    "read_sources",
    "read_store",
    "read_stores",
    "recent",
    "refinement",
    "refinement_by_link",
    "retry_count",
    "select",
    "sparse_reward",
    "training_example",
    "wilson",
]


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return getattr(import_module(_MOVED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
