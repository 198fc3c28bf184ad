"""The smallest data set and config that train for real: 64-pixel shapes, a two-stage backbone, one anchor level."""

from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from detection.backbones import Tiny
from detection.cli import scenes
from detection.config import (
    Config,
    DataConfig,
    DetectorConfig,
    OptimizerConfig,
    ScheduleConfig,
    SplitConfig,
    override,
    to_plain,
)
from detection.heads import FastRCNN
from detection.pooling import RoIAlign
from detection.regions import RPN
from detection.runs.folder import open_config
from detection.training.run import train

DETECTOR = DetectorConfig(
    backbone=partial(Tiny, channels=(8, 16), stem_channels=8),
    regions=partial(
        RPN,
        stages=("c3",),
        anchor_sizes=((12, 24),),
        pre_nms_top_n=(60, 40),
        post_nms_top_n=(30, 20),
        batch_size_per_image=32,
    ),
    pool=partial(RoIAlign, stages=("c3",), output_size=3),
    head=partial(FastRCNN, hidden_channels=16, batch_size_per_image=16),
    min_size=64,
    max_size=64,
)


def draw_shapes(folder: Path, train: int = 7, val: int = 3) -> Path:
    """Draw 64-pixel shapes once; returns the folder."""
    scenes.main([str(folder), f"--train={train}", f"--val={val}", "--size=64"])
    return folder


def tiny_config(folder: Path, *overrides: str) -> Config:
    """A config over `draw_shapes(folder)`: 4 updates an epoch, two epochs."""
    config = Config(
        detector=DETECTOR,
        data=DataConfig(
            train=SplitConfig(str(folder / "train.json"), str(folder / "train")),
            val=SplitConfig(str(folder / "val.json"), str(folder / "val")),
            workers=0,
        ),
        optimizer=OptimizerConfig(lr=0.01, reference_batch=2),
        schedule=ScheduleConfig(epochs=2),
        samples=2,
    )
    return override(config, overrides)


def resume(run: Path, *overrides: str) -> dict[str, Any]:
    """Go on with a run of `tiny_config` in this process; returns its metrics."""
    return train(open_config(run, overrides), run, Accelerator(cpu=True), resume=True)


def write_config(path: Path, folder: Path) -> Path:
    """Write the same config as a file for the command line, which imports nothing from the tests."""
    plain = to_plain(tiny_config(folder))
    path.write_text(f"from detection.config import Config, from_plain\n\nconfig = from_plain({plain!r}, Config)\n")
    return path
