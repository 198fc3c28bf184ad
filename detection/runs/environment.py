"""The environment of a run: versions, code, data, machine and command."""

import datetime
import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from detection.config import Config, config_hash
from detection.data.coco_index import CocoIndex


def environment(config: Config, data: dict[str, CocoIndex], accelerator: Accelerator) -> dict[str, Any]:
    """Versions, code, data, machine and command of a run."""
    from importlib.metadata import version

    names = ("torch", "torchvision", "accelerate", "albumentations", "numpy", "pycocotools", "safetensors")
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else platform.processor() or "cpu"
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": [sys.executable, *sys.argv],
        "config_hash": config_hash(config),
        "git": git_state(),
        "data": {
            name: {"annotations": str(index.path), "sha256": index.digest, **index.counts}
            for name, index in data.items()
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
        "machine": {
            "system": platform.platform(),
            "cores": os.cpu_count(),
            "device": device,
            "processes": accelerator.num_processes,
            "threads": torch.get_num_threads(),
        },
    }


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
