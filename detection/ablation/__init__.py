"""Ablations: the same training with one thing changed, again and again, and what the differences are worth.

`detection ablate` is the command; `docs/ablation.md` describes how to write an ablation and how to read its report.
"""

from detection.ablation.ablation import Ablation, load_ablation
from detection.ablation.choice import Choice
from detection.ablation.data_set import data_folder, data_set
from detection.ablation.detectors import DETECTORS
from detection.ablation.own_data.question import Question
from detection.ablation.run_types import RunType
from detection.scenes.overrides import scenes

__all__ = [
    "DETECTORS",
    "Ablation",
    "Choice",
    "Question",
    "RunType",
    "data_folder",
    "data_set",
    "load_ablation",
    "scenes",
]
