"""Training configuration: one flat file, its presets, and other projects' dialects of it."""

from .training_config import PRESET_DIRECTORIES, DefaultModules, TrainingConfig, find_config, load_config

__all__ = ["PRESET_DIRECTORIES", "DefaultModules", "TrainingConfig", "find_config", "load_config"]
