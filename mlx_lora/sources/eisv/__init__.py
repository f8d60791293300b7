"""EISV trajectories → expression tokens: public API of the data source."""

from typing import TYPE_CHECKING

from ..re_exports import re_exports
from .anima_db import (
    align_expressions_to_trajectories,
    anima_to_eisv,
    assemble_dataset,
    build_trajectory_records,
    extract_primitive_history,
    extract_state_history,
    iter_trajectory_records,
    read_eisv_series,
    states_to_eisv_series,
)
from .coherence import GATE1_COHERENCE, expression_trajectory_coherence
from .dataset import make_dataset, make_eisv_dataset
from .examples import (
    DatasetStats,
    TrainingExample,
    build_training_dataset,
    build_training_example,
    dataset_stats,
    feedback_labeller,
    format_chat_messages,
    format_for_tokenizer,
    prepare_training_data,
    split_dataset,
)
from .generator import (
    ExpressionGenerator,
    eisv_state_to_lumen_state,
    feedback_generator,
    generate_lumen_expression,
    shape_to_lumen_trigger,
    translate_expression,
)
from .prompt_format import (
    SYSTEM_PROMPT,
    OutputParseResult,
    expression_pattern,
    format_eisv_prompt,
    format_expression_output,
    format_summary,
    format_trajectory_input,
    hide_shape,
    name_shape,
    parse_model_output,
    summarize_window,
    validate_output,
)
from .synthetic import fill_missing_shapes, generate_dataset, generate_trajectory
from .trajectory import (
    TrajectoryShape,
    classify_trajectory,
    compute_derivatives,
    compute_second_derivatives,
    compute_trajectory_window,
)
from .vocabulary import (
    ALL_TOKENS,
    INQUIRY_TOKENS,
    LUMEN_TOKENS,
    SHAPE_PATTERN_WEIGHTS,
    SHAPE_TOKEN_AFFINITY,
    TOKEN_MAP,
    ExpressionPattern,
)

if TYPE_CHECKING:
    from ...evaluation.eisv_scoring import (
        GATE1_VALID_RATE,
        BaselineCondition,
        EvalResults,
        check_gate1,
        evaluate_baseline,
        evaluate_predictions,
        generate_baseline_tokens,
        shape_classification_accuracy,
        vocabulary_diversity_per_shape,
    )

__all__ = [
    "ALL_TOKENS",
    "GATE1_COHERENCE",
    "GATE1_VALID_RATE",
    "INQUIRY_TOKENS",
    "LUMEN_TOKENS",
    "SHAPE_PATTERN_WEIGHTS",
    "SHAPE_TOKEN_AFFINITY",
    "SYSTEM_PROMPT",
    "TOKEN_MAP",
    "BaselineCondition",
    "DatasetStats",
    "EvalResults",
    "ExpressionGenerator",
    "ExpressionPattern",
    "OutputParseResult",
    "TrainingExample",
    "TrajectoryShape",
    "align_expressions_to_trajectories",
    "anima_to_eisv",
    "assemble_dataset",
    "build_training_dataset",
    "build_training_example",
    "build_trajectory_records",
    "check_gate1",
    "classify_trajectory",
    "compute_derivatives",
    "compute_second_derivatives",
    "compute_trajectory_window",
    "dataset_stats",
    "eisv_state_to_lumen_state",
    "evaluate_baseline",
    "evaluate_predictions",
    "expression_pattern",
    "expression_trajectory_coherence",
    "extract_primitive_history",
    "extract_state_history",
    "feedback_generator",
    "feedback_labeller",
    "fill_missing_shapes",
    "format_chat_messages",
    "format_eisv_prompt",
    "format_expression_output",
    "format_for_tokenizer",
    "format_summary",
    "format_trajectory_input",
    "generate_baseline_tokens",
    "generate_dataset",
    "generate_lumen_expression",
    "generate_trajectory",
    "hide_shape",
    "iter_trajectory_records",
    "make_dataset",
    "make_eisv_dataset",
    "name_shape",
    "parse_model_output",
    "prepare_training_data",
    "read_eisv_series",
    "shape_classification_accuracy",
    "shape_to_lumen_trigger",
    "split_dataset",
    "states_to_eisv_series",
    "summarize_window",
    "translate_expression",
    "validate_output",
    "vocabulary_diversity_per_shape",
]

# Scoring moved to evaluation.
__getattr__, __dir__ = re_exports(__name__, __all__, "mlx_lora.evaluation.eisv_scoring")
