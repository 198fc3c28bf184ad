"""Evaluate a finished run on its validation or test data, or on other data of the same categories."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch.utils.data import DataLoader

from detection.config import Config, SplitConfig
from detection.data.coco_index import Category, CocoIndex
from detection.data.dataset import DetectionDataset
from detection.detector import Detector
from detection.errors import UserError
from detection.runs.folder import open_run
from detection.runs.logs import progress
from detection.training.engine import evaluate
from detection.training.loaders import build_accelerator, eval_loader, open_split


def detect_split(
    detector: Detector, loader: DataLoader, accelerator: Accelerator, categories: Sequence[Category], label: str
) -> list[dict[str, Any]]:
    """Detect on a split with a progress bar."""
    total = len(loader.dataset)  # type: ignore[arg-type]
    with progress(label, total, accelerator.is_main_process) as bar:
        step = accelerator.num_processes
        return evaluate(
            detector, loader, accelerator, categories, lambda n: bar.advance(min(n * step, total - bar.done))
        )


def evaluate_run(
    run: str | Path,
    *,
    split: str = "val",
    annotations: str | None = None,
    images: str | None = None,
    output: str | Path | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Evaluate a finished run on its validation or test data, or on other data with the same categories.

    Args:
        run: the run folder.
        split: of the run's own data: `val`, or `test` for its `data.test`.
        annotations: another COCO file; needs `images` with it.
        images: its folder.
        output: where metrics, results and plots go; None for `evaluation_folder`.
        device: `cpu`, `cuda`, or None for the best there is.
        overrides: `key=value` changes of the run's config.

    Returns:
        The metrics, on the main process; None on the others.

    Raises:
        UserError: anything that is missing or does not fit.
    """
    run = Path(run)
    if (annotations is None) != (images is None):
        raise UserError("--annotations and --images go together: give both, or neither for the run's own data.")
    if annotations is not None and split != "val":
        raise UserError(f"--split {split} is of the run's own data, and --annotations names other data: leave one out.")
    detector, categories, config = open_run(run, overrides=overrides)
    files = _split_of(config, split)
    if annotations is not None and images is not None:
        files = SplitConfig(annotations, images, bad_boxes=files.bad_boxes)
    index = open_split(f"data.{split}", files)
    accelerator = build_accelerator(config.precision, device, inference=True)
    require_same_categories(index, categories, run)
    loader = eval_loader(DetectionDataset(index, Path(files.images)), config, accelerator)
    results = detect_split(detector.to(accelerator.device), loader, accelerator, categories, "evaluating")
    if not accelerator.is_main_process:
        return None
    from detection.evaluation.report import evaluate_detections, write_evaluation

    ground_truth = index.to_coco()
    metrics = evaluate_detections(ground_truth, results)
    folder = Path(output) if output else evaluation_folder(run, annotations, split)
    write_evaluation(folder, ground_truth, results, metrics)
    return metrics


def _split_of(config: Config, split: str) -> SplitConfig:
    if split not in ("val", "test"):
        raise UserError(f"--split {split}: must be val or test.")
    if split == "test" and not config.data.test.is_given:
        raise UserError(
            "--split test: this run has no test split; add data.test.annotations=A.json data.test.images=DIR, or give "
            "--annotations and --images."
        )
    return config.data.val if split == "val" else config.data.test


def evaluation_folder(run: Path, annotations: str | None, split: str = "val") -> Path:
    """The folder in which `evaluate_run` writes unless it is given another: `RUN/evaluation`.

    It is `RUN/evaluation-STEM` for other annotations, and `RUN/evaluation-test` for the test split.
    """
    name = Path(annotations).stem if annotations is not None else "" if split == "val" else split
    return run / "-".join(filter(None, ("evaluation", name)))


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
