"""Training configuration: one flat file, its presets, and the config dialects of other projects."""

from .training_config import PRESET_DIRECTORIES, DefaultModules, TrainingConfig, find_config, load_config

__all__ = ["PRESET_DIRECTORIES", "DefaultModules", "TrainingConfig", "find_config", "load_config"]
