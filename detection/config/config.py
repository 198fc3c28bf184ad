"""Configs: typed, frozen dataclasses and partials of classes.

A config file is Python that ends in one `config = Config(...)`. A *part* (backbone, context, regions, pool, head) is a
`functools.partial` of a class: its keywords are the settings, what the builder injects is left open.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from detection.backbones.backbone import Backbone
from detection.config.files import find_config, run_file
from detection.config.keys import apply_overrides
from detection.config.reopening import require_reopening
from detection.config.serialization import from_plain, to_plain
from detection.contracts import Context, ContextLoss, Head, Pool, Regions
from detection.data.folder_layout import data_overrides
from detection.data.transforms import Augmentation
from detection.errors import UserError
from detection.evaluation.coco import METRICS
from detection.inference import InferenceConfig
from detection.ranges import (
    Fraction,
    ImageCount,
    ImagesAtOnce,
    NonNegative,
    Pixels,
    Positive,
    PositiveFraction,
    ProperFraction,
    Range,
    Seed,
)
from detection.runs.trackers import TrackerName


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """The five parts, an auxiliary loss, and the size of images inside the detector.

    Attributes:
        backbone: images to feature maps.
        context: a feature map to one of the same size, named `context`; or None.
        context_source: the feature map that the context reads.
        regions: feature maps to boxes.
        pool: feature maps and boxes to descriptors.
        head: descriptors to detections or losses.
        segmentation: a loss on the context's map that asks it for the class of each pixel, or None; training only.
        min_size: pixels of an image's shorter side inside the detector.
        max_size: most pixels of its longer side.
        weights: weights of a complete detector to start from: a torchvision name such as
            `FasterRCNN_ResNet50_FPN_Weights.COCO_V1`, a run or checkpoint folder, whose class rows go by category
            name, a safetensors file, or None.
        inference: box iterations, voting and mirrored images.
    """

    backbone: partial[Backbone]
    regions: partial[Regions]
    pool: partial[Pool]
    head: partial[Head]
    context: partial[Context] | None = None
    context_source: str = "c5"
    segmentation: partial[ContextLoss] | None = None
    min_size: Pixels = 800
    max_size: Pixels = 1333
    weights: str | None = None
    inference: InferenceConfig = InferenceConfig()


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """One COCO-style split.

    Attributes:
        annotations: the COCO JSON file.
        images: the folder that each `file_name` in it is relative to.
        empty_images: keep or drop training images without boxes; counted either way.
        bad_boxes: what to do with boxes that no training can use: stop, or drop and count them.
    """

    annotations: str = ""
    images: str = ""
    empty_images: Literal["keep", "drop"] = "keep"
    bad_boxes: Literal["error", "drop"] = "error"

    @property
    def is_given(self) -> bool:
        """Whether the split names files; an optional one may name none."""
        return bool(self.annotations or self.images)


@dataclasses.dataclass(frozen=True)
class ScenesConfig:
    """ContextScenes to draw when the annotation files do not exist yet (`detection scenes`).

    Attributes:
        task: what question the images ask.
        train: images for training.
        val: images for validation.
        test: images kept for the end.
        size: side of an image in pixels.
        seed: of all images.
        cue: False draws the control version, in which nothing tells the ground truth.
        difficulty: the task's knob, None for its default.
        canvas: side of an image in pixels where it is larger than `size`, which objects and cues keep their lengths of:
            the gaps and the distance to the cue grow; None for `size`.
    """

    task: str = "shapes"
    train: ImageCount = 400
    val: ImageCount = 100
    test: ImageCount = 0
    size: Annotated[int, Range(64, 4096)] = 128
    seed: Seed = 0
    cue: bool = True
    difficulty: float | None = None
    canvas: Annotated[int, Range(64, 4096)] | None = None


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Training, validation and test data.

    Attributes:
        train: what is trained on.
        val: what is evaluated while training; the best checkpoint is chosen on it.
        test: what that checkpoint is reported on, once, at the end of training; none where it names no files.
        augmentation: random changes of training images, None for none.
        masks: what `detector.segmentation` learns from: `polygons`, the annotations' own (or their RLE), or `boxes`,
            every box filled.
        workers: processes that load images, for each training process; 0 loads in the training process. `auto` is all
            cores but one on a GPU, at most 8; on a CPU up to 2, and 0 where the images are kept in memory.
        cache_megabytes: decoded images of a split, and its painted masks, are kept in memory where all fit into this.
        aspect_grouping: batch wide images with wide ones and tall with tall, which saves padding.
        repeat_threshold: repeat-factor sampling (Gupta et al. 2019): images of a class that fewer than this share of
            the training images has are seen more often; 0.001 there. None: each image once an epoch.
        scenes: draw this ContextScenes set into the folder of `train.annotations` when that file is missing.
    """

    train: SplitConfig = SplitConfig()
    val: SplitConfig = SplitConfig()
    test: SplitConfig = SplitConfig()
    augmentation: Augmentation | None = Augmentation()
    masks: Literal["polygons", "boxes"] = "polygons"
    workers: Annotated[int, Range(0, 64)] | Literal["auto"] = "auto"
    cache_megabytes: Annotated[int, Range(0, 10_000_000)] = 512
    aspect_grouping: bool = True
    repeat_threshold: PositiveFraction | None = None
    scenes: ScenesConfig | None = None


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimizer.

    Attributes:
        kind: `sgd` with momentum, or `adamw`.
        lr: learning rate for `reference_batch` images an update; scaled linearly (sgd) or by the square root (adamw)
            to the real number.
        reference_batch: images an update that `lr` is stated for.
        momentum: of sgd.
        weight_decay: on weights; biases and norms have `norm_weight_decay`.
        norm_weight_decay: on biases and normalization weights.
        clip_norm: largest gradient norm, None for no clipping.
        lr_multipliers: prefix of parameters' names, such as `backbone`, → factor of their learning rate; the longest
            prefix of a name counts.
        layer_decay: factor of the learning rate from each stage of the backbone to the one before it (Bao et al. 2022,
            by stages as in Liu et al. 2022): its last stage has the factor itself, the stem its highest power, all
            else 1; multiplies `lr_multipliers`. None for none.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.02
    reference_batch: ImagesAtOnce = 16
    momentum: ProperFraction = 0.9
    weight_decay: NonNegative = 1e-4
    norm_weight_decay: NonNegative = 1e-4
    clip_norm: Positive | None = None
    lr_multipliers: dict[str, Positive] = dataclasses.field(default_factory=dict)
    layer_decay: PositiveFraction | None = None


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Settings of the learning-rate schedule and the length of training.

    Attributes:
        epochs: passes over the training images.
        kind: `step` multiplies by `gamma` at each milestone, `cosine` falls to 0, `exponential` falls by one factor an
            update, to `gamma` at the end, `constant` stays.
        milestones: fractions of all updates at which `step` drops.
        gamma: factor of a drop, or of the complete exponential fall.
        warmup: updates over which the rate rises linearly from `warmup_start` times its value; at most a tenth of all.
        warmup_start: factor at the first update.
    """

    epochs: Annotated[int, Range(1, 1_000_000)] = 12
    kind: Literal["step", "cosine", "exponential", "constant"] = "step"
    milestones: tuple[PositiveFraction, ...] = (0.667, 0.917)
    gamma: Positive = 0.1
    warmup: Annotated[int, Range(0, 10_000_000)] = 500
    warmup_start: Fraction = 0.001


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run is made of.

    Attributes:
        detector: the model.
        data: what it learns from and is measured on.
        optimizer: how weights move.
        schedule: for how long.
        batch_size: images of one forward pass, on each process.
        gradient_accumulation_steps: forward passes an update.
        eval_batch_size: images of one forward pass in evaluation. Padding to the largest of a batch changes detections
            a little where sizes differ; 1 for none.
        precision: `no` for float32, or mixed precision in `bf16` or `fp16`.
        compile: compile backbone and context by `torch.compile`, which pays in long runs on a GPU.
        deterministic: only operations that repeat to the bit on one device; one that has no such form stops the run.
        checkpoint_backbone: recompute the backbone's stages in the backward pass, not keeping what is inside them: less
            memory, about a third more time.
        freeze: stages (`stem`, `c2` …) or modules (`backbone`, `head` …) that stay as they are, with the epoch at which
            they are let go, None for never.
        ema: decay of the exponential moving average of the weights that is evaluated and kept; None for none.
        validation_loss: measure the loss on the validation split too, at the price of a second pass over it.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        best_metric: which of the metrics chooses the best checkpoint; `val_loss` is minimized, the others maximized.
        early_stopping: evaluations without a new best after which training stops; None for never.
        checkpoint_minutes: minutes after which the state is saved within an epoch, too, to resume from; None for never.
        samples: validation images that are drawn.
        trackers: experiment trackers that get losses, metrics and samples, too: `wandb`, `mlflow`.
        seed: of weights, order, augmentation and sampling.
        note: a sentence printed when the run has finished: what to compare its metrics with. Overrides of other keys
            remove it, because it is about the config as it stands.
    """

    detector: DetectorConfig
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch_size: ImagesAtOnce = 2
    gradient_accumulation_steps: Annotated[int, Range(1, 100_000)] = 1
    eval_batch_size: ImagesAtOnce = 2
    precision: Literal["no", "bf16", "fp16"] = "no"
    compile: bool = False
    deterministic: bool = False
    checkpoint_backbone: bool = False
    freeze: dict[str, Annotated[int, Range(0)] | None] = dataclasses.field(default_factory=dict)
    ema: Annotated[float, Range(0, 1, open_low=True, open_high=True)] | None = None
    validation_loss: bool = False
    evaluate_every: Annotated[int, Range(1, 1_000_000)] = 1
    best_metric: str = "AP"
    early_stopping: Annotated[int, Range(1, 1_000_000)] | None = None
    checkpoint_minutes: Positive | None = None
    samples: Annotated[int, Range(0, 10_000)] = 8
    trackers: tuple[TrackerName, ...] = ()
    seed: Seed = 0
    note: str = ""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Run a config file and apply `key=value` overrides to its `config`.

    Args:
        path: the file, or the name of a shipped config, such as `finetune`.
        overrides: texts such as `schedule.epochs=2`, in order; a text alone is one override.

    Raises:
        UserError: no such file or name, no `config = Config(...)` in it, or an override that does not fit.
    """
    path = find_config(path)
    config = run_file(path, "config file").get("config")
    if not isinstance(config, Config):
        raise UserError(f"{path}: a config file must end in `config = Config(...)`; found {type(config).__name__}.")
    return override(config, overrides)


def base_config(name: str) -> Config:
    """Load a shipped config by name, for a config that states its difference to it by `dataclasses.replace`.

    Raises:
        UserError: no shipped config of this name.
    """
    return load_config(name)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """Return `config` with `dotted.key=value` texts applied in order, `data=FOLDER` too, and the result checked.

    Args:
        config: the settings, which stay as they are.
        overrides: texts in order; a text alone is one override.

    Raises:
        UserError: an unknown key (names the nearest one) or a value of the wrong type.
    """
    overrides = [overrides] if isinstance(overrides, str) else overrides
    config = apply_overrides(config, ())  # a class as a partial of it, as in what is compared below
    changed = validate(apply_overrides(config, data_overrides(overrides)))
    require_reopening(changed)
    if config.note and changed.note == config.note and changed != config and to_plain(changed) != to_plain(config):
        return dataclasses.replace(changed, note="")
    return changed


def validate(config: Config) -> Config:
    """Check types, ranges, and that each part fits its slot; what is wrong is named with its key.

    Returns:
        The settings as their types ask for: a class as a partial of it, one value of several as a tuple.

    Raises:
        UserError: a setting that does not exist, of the wrong type or out of range, or a part of another kind.
    """
    config = from_plain(config, Config)
    if config.detector.max_size < config.detector.min_size:
        raise UserError(
            f"detector.max_size={config.detector.max_size}: must be at least min_size={config.detector.min_size}."
        )
    require_context(config.detector)
    if config.compile and config.checkpoint_backbone:
        raise UserError("compile=true and checkpoint_backbone=true do not go together: choose one of them.")
    known = (*METRICS, "VOC07_AP50", "VOC_AP50", "val_loss")
    if config.best_metric not in known:
        raise UserError(f"best_metric={config.best_metric}: must be one of {', '.join(known)}.")
    return config


def require_context(config: DetectorConfig) -> None:
    """Check that a segmentation loss has the context whose map it reads.

    Raises:
        UserError: it has not.
    """
    if config.segmentation is not None and config.context is None:
        raise UserError(
            "detector.segmentation: is a loss on the context's map, but detector.context is None; "
            "give a context, or set detector.segmentation=none."
        )


def config_hash(config: Config) -> str:
    """SHA-256 of the resolved plain config: equal hashes, equal settings."""
    return hashlib.sha256(json.dumps(to_plain(config), sort_keys=True).encode()).hexdigest()
