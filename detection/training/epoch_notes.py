"""Lines printed after an epoch about the computation: waiting for data, memory, compiled graphs."""

from typing import TYPE_CHECKING

from detection.training.memory import peak_memory
from detection.training.workers import waiting_note

if TYPE_CHECKING:
    from detection.training.run import DetectorRun


def print_epoch_notes(run: "DetectorRun") -> None:
    """Print what was noticed in the epoch that has been trained, if one has since the start."""
    if not run.waiting:
        return
    first, loader = len(run.waiting) == 1, run.data.train_loader
    # Images that stay in memory are read in the first epoch, and waited for in no other.
    if not (first and run.data.train.cached_bytes) and (note := waiting_note(run.waiting[-1], loader.num_workers)):
        run.print_line(f"note      {note}")
    if first and (peak := peak_memory(run.accelerator.device)):
        run.print_line(f"memory    {peak} at most in the first epoch")
    transform = run.data.train.transform
    if transform is not None and (counts := transform.take_counts()) and (counts.clipped or counts.left_out):
        several = " on the first process" if run.accelerator.num_processes > 1 else ""
        clipped = f", {counts.clipped} that callables gave clipped to the image" if counts.clipped else ""
        run.print_line(
            f"augmented {counts.boxes} boxes by data.augmentation.extra{several}: {counts.left_out} left out, too "
            f"little of them being left in the image{clipped}"
        )
    if run.compiled is not None and (new := run.compiled.graphs - run.graphs):
        again = "" if first else ", for images of other shapes or another mode"
        run.print_line(f"compile   {new} graphs in epoch {run.done.epoch}, {run.compiled.graphs} in all{again}")
        run.graphs = run.compiled.graphs
