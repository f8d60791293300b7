"""An agent's experiences → sleep training: public API of the data source."""

from ...data.dedup import NearDuplicates
from .buffer import read_buffer, read_buffers
from .buffer_writer import BufferStore, merge_buffers
from .collector import DEFAULT_BUFFER, ExperienceCollector, buffer_stats
from .dataset import make_dataset, make_salience_dataset, pattern_limit, pattern_of
from .degeneration import (
    asks_only,
    echoes,
    evasion,
    floods_with_questions,
    is_evasive,
    made_of_stock_phrases,
    repeats_itself,
    stock_shares,
)
from .filters import CHECKS, Filters, answer_fault, plays_a_role, thinks_on, trim_answer, without_faults
from .hf_compat import RaisingTrainingDataBuilder, create_training_dataset_from_buffer, load_training_set
from .prompt_format import DEFAULT_SYSTEM_PROMPT, read_system_prompt
from .schema import DIMENSIONS, KEYS, Experience, experience_id, parse_experience
from .scoring import ConversationalSalienceScorer, score_exchange
from .truncation import is_cut

__all__ = [
    "CHECKS",
    "DEFAULT_BUFFER",
    "DEFAULT_SYSTEM_PROMPT",
    "DIMENSIONS",
    "KEYS",
    "BufferStore",
    "ConversationalSalienceScorer",
    "Experience",
    "ExperienceCollector",
    "Filters",
    "NearDuplicates",
    "RaisingTrainingDataBuilder",
    "answer_fault",
    "asks_only",
    "buffer_stats",
    "create_training_dataset_from_buffer",
    "echoes",
    "evasion",
    "experience_id",
    "floods_with_questions",
    "is_cut",
    "is_evasive",
    "load_training_set",
    "made_of_stock_phrases",
    "make_dataset",
    "make_salience_dataset",
    "merge_buffers",
    "parse_experience",
    "pattern_limit",
    "pattern_of",
    "plays_a_role",
    "read_buffer",
    "read_buffers",
    "read_system_prompt",
    "repeats_itself",
    "score_exchange",
    "stock_shares",
    "thinks_on",
    "trim_answer",
    "without_faults",
]
