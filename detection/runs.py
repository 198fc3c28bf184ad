"""Run folders: a run is complete in its folder and is rebuilt from its `config.json` alone."""

import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from detection.checkpoint import load_meta, load_weights
from detection.config import Config, SplitConfig, config_hash, from_plain, override, to_plain
from detection.data.coco_index import Category, CocoIndex, load_index
from detection.data.dataset import DetectionDataset, collate
from detection.data.sampling import EvalBatches
from detection.detector import Detector, build_detector
from detection.engine import evaluate
from detection.errors import UserError
from detection.logs import progress
from detection.whole_files import write_whole


def new_run_folder(output: Path | None, name: str) -> Path:
    """The folder that a new run will use; it is not made yet.

    Args:
        output: what the user asked for; None for the first free of `runs/NAME`, `runs/NAME-2`, ….
        name: of the config.

    Raises:
        UserError: the folder asked for exists and is not empty.
    """
    if output is None:
        numbers = ("" if n == 1 else f"-{n}" for n in range(1, 10_000))
        return next(p for p in (Path("runs") / f"{name}{n}" for n in numbers) if not p.exists())
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: exists already; continue it with --resume, or choose another --output.")
    return output


def open_config(run: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a run, from its `config.json`, with overrides.

    Raises:
        UserError: not a run folder, or a config that this version cannot read.
    """
    plain = read_config_json(run)
    try:
        return override(from_plain(plain), overrides)
    except UserError as error:
        raise error if overrides else UserError(f"{Path(run) / 'config.json'}: {error}") from None


def read_config_json(run: str | Path) -> Any:
    """The plain data of a run's `config.json`.

    Raises:
        UserError: not a run folder, or not JSON.
    """
    path = Path(run) / "config.json"
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{run}: not a run folder, there is no config.json in it; give the folder that a training wrote."
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}).") from None


def open_run(
    run: str | Path, device: torch.device | str = "cpu", checkpoint: str | None = None, overrides: Sequence[str] = ()
) -> tuple[Detector, tuple[Category, ...], Config]:
    """Rebuild a run's detector with its trained weights, ready to detect.

    Args:
        run: the run folder.
        device: where the detector goes.
        checkpoint: `best` or `last`; None for the best there is.
        overrides: `key=value` changes of its config.

    Raises:
        UserError: not a run folder, no checkpoint in it, or weights that do not fit.
    """
    config = open_config(run, overrides)
    checkpoints = Path(run) / "checkpoints"
    folder = checkpoints / (checkpoint or ("best" if (checkpoints / "best").is_dir() else "last"))
    categories = load_meta(folder)["categories"]
    detector = build_detector(config.detector, len(categories), resize_in_training=False)
    load_weights(folder, detector)
    return detector.to(device).eval(), categories, config


def open_split(key: str, split: SplitConfig) -> CocoIndex:
    """The annotations of a split.

    Args:
        key: its name in the config, for errors: `data.train` or `data.val`.
        split: its files.

    Raises:
        UserError: not set, or unusable annotations.
    """
    for name in ("annotations", "images"):
        if not getattr(split, name):
            raise UserError(f"{key}.{name} is not set: give {key}.{name}=PATH on the command line or in the config.")
    if not Path(split.images).is_dir():
        raise UserError(f"{key}.images={split.images}: no such folder.")
    return load_index(split.annotations, bad_boxes=split.bad_boxes)


def eval_loader(dataset: DetectionDataset, config: Config, accelerator: Accelerator) -> DataLoader:
    """Every image of a data set once, in this process's share of whole batches."""
    batches = EvalBatches(
        len(dataset),
        config.eval_batch_size,
        num_processes=accelerator.num_processes,
        rank=accelerator.process_index,
    )
    return build_loader(dataset, batches, config.data.workers, accelerator)


def build_loader(dataset: DetectionDataset, batches: Any, workers: int, accelerator: Accelerator) -> DataLoader:
    """A loader over a batch sampler; workers live for the whole run and use one thread each."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=accelerator.device.type == "cuda",
        persistent_workers=workers > 0,
    )


def build_accelerator(precision: str, device: str | None = None, *, inference: bool = False) -> Accelerator:
    """Device, precision and processes; all from the environment that `torchrun` or `accelerate launch` sets.

    Args:
        precision: `no`, `bf16` or `fp16`.
        device: `cpu`, `cuda`, or None for the best there is.
        inference: whether nothing is trained; what was trained in fp16 then runs in float32 on a CPU.

    Raises:
        UserError: a device that is not there, or a precision that it cannot train in.
    """
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device {device}: must be cpu or cuda; choose among several GPUs by CUDA_VISIBLE_DEVICES.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available here; use --device cpu.")
    cpu = device == "cpu" or not torch.cuda.is_available()
    if cpu and precision == "fp16" and inference:
        precision = "no"
    if cpu and precision == "fp16":
        raise UserError("precision=fp16: needs a GPU; use precision=bf16 or precision=no on a CPU.")
    return Accelerator(mixed_precision=precision, cpu=cpu)


def detect_split(
    detector: Detector, loader: DataLoader, accelerator: Accelerator, categories: Sequence[Category], label: str
) -> list[dict[str, Any]]:
    """`engine.evaluate` with a progress bar."""
    total = len(loader.dataset)  # type: ignore[arg-type]
    with progress(label, total, accelerator.is_main_process) as bar:
        step = accelerator.num_processes
        return evaluate(
            detector, loader, accelerator, categories, lambda n: bar.advance(min(n * step, total - bar.done))
        )


def evaluate_run(
    run: str | Path,
    *,
    annotations: str | None = None,
    images: str | None = None,
    output: str | Path | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Evaluate a finished run on its validation data, or on other data with the same categories.

    Args:
        run: the run folder.
        annotations: another COCO file; needs `images` with it.
        images: its folder.
        output: where metrics, results and plots go; None for `RUN/evaluation`, or `RUN/evaluation-STEM` for other data.
        device: `cpu`, `cuda`, or None for the best there is.
        overrides: `key=value` changes of the run's config.

    Returns:
        The metrics, on the main process; None on the others.

    Raises:
        UserError: anything that is missing or does not fit.
    """
    run = Path(run)
    if (annotations is None) != (images is None):
        raise UserError("--annotations and --images belong together: give both, or neither for the run's own data.")
    config = open_config(run, overrides)
    split = config.data.val
    if annotations is not None and images is not None:
        split = SplitConfig(annotations, images, bad_boxes=split.bad_boxes)
    index = open_split("data.val", split)
    accelerator = build_accelerator(config.precision, device, inference=True)
    detector, categories, config = open_run(run, accelerator.device, overrides=overrides)
    require_same_categories(index, categories, run)
    loader = eval_loader(DetectionDataset(index, Path(split.images)), config, accelerator)
    results = detect_split(detector, loader, accelerator, categories, "evaluating")
    if not accelerator.is_main_process:
        return None
    from detection.evaluation.report import evaluate_detections, write_evaluation

    truth = index.to_coco()
    metrics = evaluate_detections(truth, results)
    write_evaluation(Path(output) if output else evaluation_folder(run, annotations), truth, results, metrics)
    return metrics


def evaluation_folder(run: Path, annotations: str | None) -> Path:
    """Where `evaluate_run` writes unless told otherwise."""
    return run / ("evaluation" if annotations is None else f"evaluation-{Path(annotations).stem}")


def require_same_categories(index: CocoIndex, categories: Sequence[Category], run: Path) -> None:
    """Check that a data set's categories are those that a run was trained on.

    Raises:
        UserError: naming what differs.
    """
    ours, theirs = {(c.id, c.name) for c in categories}, {(c.id, c.name) for c in index.categories}
    if ours != theirs:
        only = [f"{name!r} (id {i})" for i, name in sorted(theirs - ours) or sorted(ours - theirs)]
        where = index.path if theirs - ours else f"the checkpoint of {run}"
        raise UserError(
            f"{index.path}: its categories differ from those that {run} was trained on; only in {where}: "
            f"{', '.join(only[:5])}; use data with the same category ids and names."
        )


def write_json(path: Path, data: Any) -> None:
    """Write a file of JSON, whole or not at all."""
    text = json.dumps(data, indent=2) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text))


def write_run_description(folder: Path, config: Config, data: dict[str, CocoIndex], accelerator: Accelerator) -> None:
    """Write `config.json` and `environment.json`: what is needed to do the run again."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", to_plain(config))
    write_json(folder / "environment.json", environment(config, data, accelerator))


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
    folder = Path(__file__).resolve().parent
    try:
        commit, difference = (
            subprocess.run(["git", *a], cwd=folder, capture_output=True, check=True, timeout=10).stdout
            for a in (["rev-parse", "HEAD"], ["diff", "HEAD", "--", "."])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    changed = hashlib.sha256(difference).hexdigest()[:16] if difference else None
    return {"commit": commit.decode().strip(), "changes": changed}
