"""Benchmarks of what we claim about speed, one file each, and the machine that they are run on."""

import datetime
import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from detection.analysis.timing import Measurements
from detection.benchmarks.cross_scan import benchmark_cross_scan
from detection.benchmarks.detector_step import benchmark_detector_step
from detection.benchmarks.dispatch import benchmark_dispatch
from detection.benchmarks.evaluation import benchmark_evaluation
from detection.benchmarks.grid import benchmark_grid
from detection.benchmarks.index import benchmark_index
from detection.benchmarks.kernels import benchmark_kernels
from detection.benchmarks.line_propagation import benchmark_line_propagation
from detection.benchmarks.loading import benchmark_loading
from detection.benchmarks.local_response import benchmark_local_response
from detection.benchmarks.matching import benchmark_matching
from detection.benchmarks.quickstart_step import benchmark_quickstart_step
from detection.benchmarks.recurrences import benchmark_recurrences
from detection.benchmarks.roi_align import benchmark_roi_align
from detection.benchmarks.sweep import benchmark_sweep
from detection.benchmarks.train_step import benchmark_config_step, benchmark_train_step

BENCHMARKS: dict[str, Callable[[str], Measurements]] = {
    "train-step": benchmark_train_step,
    "dispatch": benchmark_dispatch,
    "sweep": benchmark_sweep,
    "recurrences": benchmark_recurrences,
    "grid": benchmark_grid,
    "cross-scan": benchmark_cross_scan,
    "line-propagation": benchmark_line_propagation,
    "kernels": benchmark_kernels,
    "matching": benchmark_matching,
    "ion-step": partial(benchmark_config_step, "ion_lite0_finetune"),
    "accnn-step": partial(benchmark_config_step, "accnn_lite0_finetune"),
    "recurrent-step": partial(benchmark_config_step, "recurrent_lite0_finetune"),
    "local-response": benchmark_local_response,
    "roi-align": benchmark_roi_align,
    "index": benchmark_index,
    "evaluation": benchmark_evaluation,
    "loading": benchmark_loading,
    "quickstart-step": benchmark_quickstart_step,
    "detector-step": benchmark_detector_step,
}
"""Functions of a device, `cpu` or `cuda`, by name."""


def machine(device: str) -> dict[str, Any]:
    """Describe the machine and the versions that are measured."""
    return {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["detection benchmark", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("torch", "torchvision", "numpy", "pycocotools")},
    }
