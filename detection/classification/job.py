"""A classifier's run at work: its parts, what it says of itself, and what it is resumed from."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch.optim.lr_scheduler import LRScheduler

from detection.checkpoint import load_training_state, load_weights, save_checkpoint
from detection.classification.config import ClassifierConfig
from detection.classification.data import Images
from detection.classification.network import Classifier
from detection.complexity import count_parameters
from detection.data.coco_index import Category
from detection.optim import scaled_learning_rate
from detection.runs import environment


@dataclass
class Job:
    """A run: its settings, its parts, and how far it is.

    Attributes:
        train: what it is trained on.
        measured: what it is measured on.
        epoch: finished epochs.
        seconds: that training took in them.
    """

    config: ClassifierConfig
    folder: Path
    accelerator: Accelerator
    train: Images
    measured: Images
    network: Classifier
    optimizer: Any
    scheduler: LRScheduler
    epoch: int = 0
    seconds: float = 0.0

    @property
    def last(self) -> Path:
        """The folder of its checkpoint."""
        return self.folder / "checkpoints" / "last"

    def say(self, line: str) -> None:
        """Print a line, once for all processes."""
        if self.accelerator.is_main_process:
            print(line, flush=True)


def save(job: Job) -> None:
    """Write what the run can be resumed from, and opened."""
    scaler = job.accelerator.scaler
    state = {
        "optimizer": job.optimizer.state_dict(),
        "scheduler": job.scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "epoch": job.epoch,
        "seconds": job.seconds,
    }
    categories = [Category(k, name) for k, name in enumerate(job.train.classes)]
    save_checkpoint(job.last, job.network, categories, {"epoch": job.epoch}, state=state)


def restore(job: Job) -> None:
    """Take up what `save` wrote.

    Raises:
        UserError: missing or damaged.
    """
    state = load_training_state(job.last)
    load_weights(job.last, job.network)
    job.optimizer.load_state_dict(state["optimizer"])
    job.scheduler.load_state_dict(state["scheduler"])
    if job.accelerator.scaler is not None and state["scaler"] is not None:
        job.accelerator.scaler.load_state_dict(state["scaler"])
    job.epoch, job.seconds = state["epoch"], state["seconds"]


def describe(job: Job, images_per_update: int) -> None:
    """Say what is trained on, and how the rate was scaled."""
    config, optimizer = job.config, job.config.optimizer
    side = job.train.pixels.shape[-1]
    seen = f", {config.data.crop}x{config.data.crop} of each seen" if config.data.crop else ""
    if job.epoch:
        job.say(f"resume    {job.folder} after {job.epoch} epochs")
    job.say(f"train     {len(job.train)} pictures of {side}x{side}{seen}")
    job.say(f"measured  {len(job.measured)} pictures ({config.data.measure})")
    job.say(f"classes   {', '.join(job.train.classes)}")
    job.say(f"network   {count_parameters(job.network)} parameters")
    job.say(
        f"rate      {optimizer.kind} {scaled_learning_rate(optimizer, images_per_update):.3g} = {optimizer.lr:.3g} "
        f"stated for {optimizer.reference_batch} images an update, scaled to the real {images_per_update}"
    )
    job.say(f"run       {job.folder}")


def surroundings(job: Job) -> dict[str, Any]:
    """Versions, code, data, machine and command of a run: its `environment.json`."""
    known = environment(job.config, {}, job.accelerator)  # type: ignore[arg-type]
    parts = {"train": job.train, job.config.data.measure: job.measured}
    known["data"] = {name: {"images": len(images), "sha256": images.digest()} for name, images in parts.items()}
    if job.config.data.kind == "digits":
        known["versions"]["scikit-learn"] = version("scikit-learn")
    return known
