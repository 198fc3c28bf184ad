"""Configs: typed settings of a run, read from Python files, changed by `key=value`, written as JSON."""

from detection.config.config import (
    Config,
    DataConfig,
    DetectorConfig,
    OptimizerConfig,
    ScenesConfig,
    ScheduleConfig,
    SplitConfig,
    base_config,
    config_hash,
    load_config,
    override,
    require_context,
    validate,
)
from detection.config.serialization import Part, from_plain, to_plain
from detection.data.transforms import Augmentation
from detection.inference import InferenceConfig

__all__ = [
    "InferenceConfig",
    "Augmentation",
    "Config",
    "DataConfig",
    "DetectorConfig",
    "OptimizerConfig",
    "Part",
    "ScenesConfig",
    "ScheduleConfig",
    "SplitConfig",
    "base_config",
    "config_hash",
    "from_plain",
    "load_config",
    "override",
    "require_context",
    "to_plain",
    "validate",
]
