"""An agent's artifact stores → training examples: public API of the data source."""

from typing import TYPE_CHECKING

from ..re_exports import re_exports
from .artifact import Artifact, Context, Feedback, GuardResult, parse_artifact
from .dataset import as_example, make_dataset, make_traces_dataset
from .predicates import (
    POLICIES,
    Predicate,
    all_successes,
    by_action_pair,
    by_outcome,
    by_source,
    by_status,
    by_workflow,
    created_after,
    generator_only,
    high_value,
    human_only,
    named_policy,
    read_results,
    recent,
    refinement,
    refinement_by_link,
    retry_count,
)
from .prompt_format import artifact_prompt, format_alpaca, format_prompt, training_example
from .provenance import get_provenance_chain, read_sources
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
    from ...evaluation.statistics.intervals import (
        paired_difference,
        wilson,
    )

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
    "make_dataset",
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

# Scoring moved to evaluation.
__getattr__, __dir__ = re_exports(
    __name__,
    __all__,
    "mlx_lora.evaluation.first_attempt",
    "mlx_lora.evaluation.scorers.command",
    "mlx_lora.evaluation.statistics.intervals",
)
