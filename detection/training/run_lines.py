"""Lines printed about a detector's run before it starts: its data, weights, size and device."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from detection.names import short_name
from detection.weights import LoadReport

if TYPE_CHECKING:
    from detection.training.run import DetectorRun

MOST_CLASSES = 100
"""Classes that are printed by name."""


def print_data(run: "DetectorRun") -> None:
    """Print what is trained and evaluated on, and what was left out."""
    config, data = run.config, run.data
    for name, dataset in data.splits.items():
        counts = dataset.counts
        odd = {
            "images without boxes": counts["images_without_boxes"],
            "images left out": counts["images_left_out"],
            "crowd regions ignored in training": counts["crowd_left_out"],
            "boxes clipped to their image": counts["clipped"],
            "bad boxes dropped": counts["dropped"],
        }
        notes = "".join(f", {count} {what}" for what, count in odd.items() if count)
        if (listed := len(dataset.index.categories)) < len(run.categories):
            notes += f", measured on the {listed} of {len(run.categories)} categories that it lists"
        run.print_line(f"{name:9} {counts['images']} images, {counts['boxes']} boxes{notes} ({dataset.index.path})")
    if (factors := data.train_batches.factors) is not None:
        repeated = (
            f"{(factors > 1).sum()} of {len(factors)} images, those of rare classes, up to {factors.max():.3g} times"
        )
        expected = f"{factors.sum():.1f} images expected an epoch"
        run.print_line(f"repeats   {repeated}: {expected}, {len(data.train_batches)} batches in each")
    workers, kept = data.train_loader.num_workers, sum(dataset.cached_bytes for dataset in data.splits.values()) / 1e6
    memory = f", images stay in memory, {kept:.0f} MB at most" if kept else ""
    run.print_line(f"loading   {f'{workers} processes' if workers else 'in the training process'}{memory}")
    names = [short_name(category.name) for category in run.categories[:MOST_CLASSES]]
    more = f" and {len(run.categories) - len(names)} more" if len(run.categories) > len(names) else ""
    run.print_line(f"classes   {', '.join(names)}{more}")
    if data.train.masks is not None:
        filled = "every box, filled (data.masks=boxes)" if config.data.masks == "boxes" else "the annotations' own"
        run.print_line(f"masks     {filled}")


def print_model(run: "DetectorRun", reports: Sequence[LoadReport]) -> None:
    """Print which weights were loaded, the detector's size, and where it is trained."""
    accelerator, parameters = run.accelerator, list(run.model.parameters())
    for report in reports:
        run.print_line(f"weights   {report}")
    total = sum(p.numel() for p in parameters) / 1e6
    trained = sum(p.numel() for p in parameters if p.requires_grad) / 1e6
    run.print_line(f"detector  {total:.2f} M parameters, {trained:.2f} M of them trained in the first epoch")
    run.print_line(
        f"device    {accelerator.device}, {accelerator.num_processes} process(es), precision {run.config.precision}"
    )
