"""Training configuration: one flat file, its presets, and the config dialects of other projects."""

from .loading import PRESET_DIRECTORIES, find_config, load_config
from .training_config import DefaultModules, TrainingConfig

__all__ = ["PRESET_DIRECTORIES", "DefaultModules", "TrainingConfig", "find_config", "load_config"]
