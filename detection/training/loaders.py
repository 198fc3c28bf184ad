"""Data splits, loaders over them, and the device and processes that they feed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import GradientAccumulationPlugin
from torch.utils.data import DataLoader as TorchLoader

from detection.config import Config, SplitConfig
from detection.data.coco_index import CocoIndex, load_index
from detection.data.dataset import DetectionDataset, collate
from detection.data.sampling import EvalBatches, TrainBatches
from detection.data.shared_batches import SharedCollate, require_shared_memory
from detection.detector import is_too_thin, require_visible
from detection.errors import UserError
from detection.names import short_name
from detection.training.preemption import blocked, outlive_signals
from detection.training.rendezvous import group_settings
from detection.training.workers import loading_processes


class DataLoader(TorchLoader):
    """A DataLoader whose processes outlive the signals that ask this one to end; this one ends them."""

    def __iter__(self) -> Any:
        with blocked():  # from the processes' first moment on
            return super().__iter__()


def open_split(key: str, split: SplitConfig) -> CocoIndex:
    """Open the annotations of a split; `key` is its name in the config, for errors: `data.train` or `data.val`.

    Raises:
        UserError: not set, or unusable annotations.
    """
    for name in ("annotations", "images"):
        if not getattr(split, name):
            raise UserError(f"{key}.{name} is not set: give {key}.{name}=PATH on the command line or in the config.")
    if not Path(split.images).is_dir():
        raise UserError(f"{key}.images={split.images}: no such folder.")
    return load_index(split.annotations, bad_boxes=split.bad_boxes)


def train_batches(num_images: int, config: Any, accelerator: Accelerator, **images: np.ndarray | None) -> TrainBatches:
    """Draw this process's share of the batches by the seed and batch size of a detector's or classifier's config.

    `images` are `aspect_ratios`, `factors` and `image_ids` of `TrainBatches`.
    """
    share = {"num_processes": accelerator.num_processes, "rank": accelerator.process_index}
    return TrainBatches(num_images, config.batch_size, seed=config.seed, **images, **share)


def eval_loader(
    dataset: DetectionDataset, config: Config, accelerator: Accelerator, order: Sequence[int] | None = None
) -> DataLoader:
    """Load every image of a data set once, in its order or a permutation, in this process's share of the batches.

    Raises:
        UserError: an image that the detector would refuse as too thin.
    """
    require_visible_images(dataset.index, config)
    share = {"num_processes": accelerator.num_processes, "rank": accelerator.process_index}
    batches = EvalBatches(len(dataset), config.eval_batch_size, **share, order=order)
    return build_loader(dataset, batches, config.data.workers, accelerator)


def require_visible_images(index: CocoIndex, config: Config) -> None:
    """Check that the detector of a config can detect in every image of a split.

    It refuses an image that is too thin itself, but after hours of training, and does not know its file; in training
    such an image would be resized to a line.

    Raises:
        UserError: an image that is too thin, with its id and file.
    """
    min_size, max_size = config.detector.min_size, config.detector.max_size
    sizes = list(zip(index.heights.tolist(), index.widths.tolist(), strict=True))
    # Each size once: a large set has few.
    if thin_sizes := {size for size in set(sizes) if is_too_thin(*size, min_size, max_size)}:
        thin = [row for row, size in enumerate(sizes) if size in thin_sizes]
        row, more = thin[0], f" (and {len(thin) - 1} more)" if len(thin) > 1 else ""
        name = f"{index.path}: image {index.image_ids[row]}{more}, {short_name(index.file_name(row))},"
        require_visible(*sizes[row], min_size, max_size, name)


def build_loader(
    dataset: DetectionDataset, batches: Any, workers: int | Literal["auto"], accelerator: Accelerator
) -> DataLoader:
    """Build a loader over a batch sampler; workers live as long as the run and use one thread each.

    `workers` is as in `DataConfig`.
    """
    workers = loading_processes(workers, accelerator.device.type, bool(dataset.cached_bytes))
    require_shared_memory(workers)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=SharedCollate(collate),
        pin_memory=accelerator.device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=outlive_signals,
        generator=torch.Generator(),  # of its own: starting workers must not move the training's random stream
    )


def inference_precision(precision: str, device_type: str) -> str:
    """Return the precision in which a run trained in `precision` detects; `no` is float32."""
    # A CPU has no fp16 kernels for convolutions, and nobody has tried whether autocast on MPS leaves float32 to what
    # needs it.
    return "no" if device_type == "mps" or (device_type, precision) == ("cpu", "fp16") else precision


def build_accelerator(precision: str, device: str | None = None, *, inference: bool = False) -> Accelerator:
    """Choose device, precision and processes by the environment that `torchrun` or `accelerate launch` sets.

    Args:
        precision: `no`, `bf16` or `fp16`.
        device: `cpu`, `cuda`, `mps`, or None for a GPU of CUDA if there is one.
        inference: whether nothing is trained; the precision is then `inference_precision`'s.

    Raises:
        UserError: a device that is not there, or a precision that it cannot train in.
    """
    require_device(device)
    cpu = device == "cpu" or (device != "mps" and not torch.cuda.is_available())
    if inference:
        precision = inference_precision(precision, device if device == "mps" else "cpu" if cpu else "cuda")
    if device == "mps" and precision != "no":
        raise UserError(f"precision={precision}: is for CUDA and CPUs; use precision=no with --device mps.")
    if cpu and precision == "fp16":
        raise UserError("precision=fp16: needs a GPU; use precision=bf16 or precision=no on a CPU.")
    _forget_another(precision, cpu)
    # The environment of `accelerate launch` may ask for a division of gradients of its own.
    accumulation = GradientAccumulationPlugin(num_steps=1)
    return Accelerator(
        mixed_precision=precision,
        cpu=cpu,
        kwargs_handlers=group_settings(),
        gradient_accumulation_plugin=accumulation,
    )


def _forget_another(precision: str, cpu: bool) -> None:
    """Renew what accelerate shares over a process that trains alone, where its precision or device is another one.

    It refuses a second precision otherwise.
    """
    own, shared = PartialState._shared_state, AcceleratorState._shared_state
    if not own or own["num_processes"] > 1:
        return
    if shared.get("_mixed_precision", precision) != precision or (own["device"].type == "cpu") != cpu:
        # Not cleared: accelerators that were built before, as in an ablation's costs, keep theirs.
        AcceleratorState._shared_state, PartialState._shared_state = {}, {}


def require_device(device: str | None) -> None:
    """Check a `--device`: `cpu`, `cuda`, `mps` or None; a `UserError` where it is another, or there is none here."""
    if device not in (None, "cpu", "cuda", "mps"):
        raise UserError(
            f"--device {device}: must be cpu, cuda or mps; choose among several GPUs by CUDA_VISIBLE_DEVICES."
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device is available here; use --device cpu.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: torch finds no GPU of a Mac here; use --device cpu.")
