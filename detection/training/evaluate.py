"""Evaluate a finished run on its validation or test data, or on other data of the same categories."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from detection.analysis.context_use import ContextSource, ReplacedContext, context_use
from detection.atomic_write import write_json
from detection.config import Config, SplitConfig
from detection.context import NoContext
from detection.data.coco_index import Category, CocoIndex
from detection.data.dataset import DetectionDataset
from detection.data.federated import federated_remark
from detection.detector import Detector
from detection.errors import UserError
from detection.evaluation.class_agnostic import measure
from detection.evaluation.columns import CocoDataset, CocoResults
from detection.evaluation.errors import require_slices
from detection.evaluation.folders import folder_of, require_writable
from detection.evaluation.report import write_evaluation
from detection.evaluation.results import add_attribute
from detection.runs.data_identity import describe_splits
from detection.runs.folder import config_json, open_run, read_config, read_environment
from detection.runs.logs import progress
from detection.runs.output import require_no_run
from detection.runs.records import data_difference
from detection.scenes.ensure import ensure_scenes
from detection.training.engine import Batch, evaluate
from detection.training.loaders import build_accelerator, eval_loader, open_split


def detect_split(
    detector: Detector,
    loader: DataLoader,
    accelerator: Accelerator,
    categories: Sequence[Category],
    label: str,
    batches: Iterable[Batch] | None = None,
) -> list[dict[str, Any]]:
    """Detect on a split with a progress bar; categories that its file does not list are not annotated and left out.

    The `batches` are those of the loader unless they are given.
    """
    dataset = loader.dataset
    assert isinstance(dataset, DetectionDataset)
    total, listed = len(dataset), {category.id for category in dataset.index.categories}
    with progress(label, total, accelerator.is_main_process) as bar:
        step = accelerator.num_processes

        def advance(images: int) -> None:
            bar.advance(min(images * step, total - bar.done))

        results = evaluate(detector, loader if batches is None else batches, accelerator, categories, advance)
    return [result for result in results if result["category_id"] in listed]


@dataclass(frozen=True)
class OpenEvaluation:
    """A run's detector and the data that it is evaluated on.

    Attributes:
        run: the run folder.
        config: its config with the overrides.
        detector: with the checkpoint's weights, in evaluation mode, on the accelerator's device.
        categories: of the detector's labels, in their order; the data may list fewer.
        dataset: images and annotations of the split.
        loader: batches of it, this process's share.
        accelerator: device, precision and processes.
        split: `val` or `test`.
        checkpoint: `best` or `last`; None for the best there is.
    """

    run: Path
    config: Config
    detector: Detector
    categories: tuple[Category, ...]
    dataset: DetectionDataset
    loader: DataLoader
    accelerator: Accelerator
    split: str
    checkpoint: str | None

    def detect(self, label: str, batches: Iterable[Batch] | None = None) -> CocoResults:
        """Detect on the split; `batches` are those of the loader unless they are given."""
        return detect_split(self.detector, self.loader, self.accelerator, self.categories, label, batches)

    def record(self) -> dict[str, Any]:
        """Return the content of `evaluation.json`: config, checkpoint, and the identity of the evaluated data."""
        data = describe_splits({self.split: self.dataset}, self.accelerator)
        return {"checkpoint": self.checkpoint, "split": self.split, "data": data, "config": config_json(self.config)}


def open_evaluation(
    run: str | Path,
    *,
    split: str = "val",
    annotations: str | None = None,
    images: str | None = None,
    device: str | None = None,
    checkpoint: str | None = None,
    overrides: Sequence[str] = (),
) -> OpenEvaluation:
    """Open a finished run and the data that it is evaluated on; the arguments are those of `evaluate_run`.

    Raises:
        UserError: anything that is missing or does not fit.
    """
    run = Path(run)
    if (annotations is None) != (images is None):
        raise UserError("--annotations and --images go together: give both, or neither for the run's own data.")
    if annotations is not None and split != "val":
        raise UserError(f"--split {split} is of the run's own data, and --annotations names other data: leave one out.")
    detector, categories, config = open_run(run, checkpoint=checkpoint, overrides=overrides)
    if annotations is not None and images is not None:
        files = SplitConfig(annotations, images, bad_boxes=config.data.val.bad_boxes)
    else:
        files = own_split(config, split)
    index = open_split(f"data.{split}", files)
    accelerator = build_accelerator(config.precision, device, inference=True)
    require_same_categories(index, categories, run, config)
    dataset = DetectionDataset(index, Path(files.images), categories=categories)
    loader = eval_loader(dataset, config, accelerator)
    detector.to(accelerator.device)
    return OpenEvaluation(run, config, detector, categories, dataset, loader, accelerator, split, checkpoint)


def evaluate_run(
    run: str | Path,
    *,
    split: str = "val",
    annotations: str | None = None,
    images: str | None = None,
    output: str | Path | None = None,
    device: str | None = None,
    checkpoint: str | None = None,
    overrides: Sequence[str] = (),
    classes_ignored: bool = False,
    context_from: ContextSource | None = None,
    slice_by: str | None = None,
    on_written: Callable[[Path], object] = lambda folder: None,
) -> dict[str, Any] | None:
    """Evaluate a finished run on its validation or test data, or on other data with the same categories.

    Args:
        run: the run folder.
        split: of the run's own data: `val`, or `test` for its `data.test`.
        annotations: another COCO file; needs `images` with it.
        images: its folder.
        output: where metrics, results and plots go, not the run folder itself; None for `evaluation_folder`, numbered
            where that has an evaluation of other data, options or config.
        device: `cpu`, `cuda`, `mps`, or None for a GPU of CUDA if there is one.
        checkpoint: `best` or `last`; None for the best there is.
        overrides: `key=value` changes of the run's config.
        classes_ignored: measure the finding alone, by `detection.evaluation.class_agnostic`.
        context_from: evaluate as it is, and then with the context replaced by this.
        slice_by: a key of the annotations' images, by whose values metrics are given, too.
        on_written: called with the folder once it is written.

    Returns:
        The metrics, on the main process; None on the others. With `context_from` they are those with the replaced
        context, and have `context_from` and `context_use` (from `detection.analysis.context_use`) too.

    Raises:
        UserError: anything that is missing or does not fit, such as a detector without a context to replace.
    """
    if output is not None and Path(output).exists() and not Path(output).is_dir():
        raise UserError(f"{output}: is a file; give --output a folder.")
    if output is not None:
        require_no_run(Path(output), Path(run))
    opened = open_evaluation(
        run, split=split, annotations=annotations, images=images, device=device, checkpoint=checkpoint,
        overrides=overrides,
    )  # fmt: skip
    if context_from is not None:
        _require_context(opened, context_from)
    options = {"context_from": context_from, "classes_ignored": classes_ignored}
    index = opened.dataset.index
    targets = index.to_coco()
    if slice_by is not None:
        add_attribute(targets, index.path, slice_by)
        require_slices(targets, slice_by)
    record = opened.record() | {key: value for key, value in options.items() if value}
    named = evaluation_folder(Path(run), annotations, split, checkpoint, context_from, classes_ignored)
    folder = Path(output) if output is not None else folder_of(named, record)
    if opened.accelerator.is_main_process:
        # Before the detection, whose results would be lost where they cannot be written.
        require_writable(folder)
    # Of the same batches as the replaced one, as padding to the largest image changes detections a little.
    order = _random_order(opened) if context_from == "other" else None
    batches = None if order is None else eval_loader(opened.dataset, opened.config, opened.accelerator, order)
    results = opened.detect("evaluating", batches)
    replaced = None if context_from is None else _detect_with_replaced_context(opened, context_from)
    if not opened.accelerator.is_main_process:
        return None
    ground_truth, results, metrics = measure(targets, results, classes_ignored, slice_by)
    if replaced is not None:
        as_it_is = metrics
        ground_truth, results, metrics = measure(targets, replaced, classes_ignored, slice_by)
        metrics |= {"context_from": context_from, "context_use": context_use(as_it_is, metrics)}
    metrics["notes"] += [] if annotations is not None else _changed_data(opened, record["data"][split])
    metrics["notes"] += filter(None, [federated_remark(index.path)])
    classes = None if classes_ignored else [category.name for category in opened.categories]
    _write(folder, record, ground_truth, results, metrics, classes)
    on_written(folder)
    return metrics


def _changed_data(opened: OpenEvaluation, data: Mapping[str, Any]) -> list[str]:
    """Return a note where a run's own data have changed since its training."""
    run, split = opened.run, opened.split
    own, asked = read_config(run, Config).data, opened.config.data
    if own.scenes != asked.scenes or getattr(own, split) != getattr(asked, split):
        return []  # other data that are asked for, such as larger scenes, are no surprise
    what = data_difference(read_environment(run).get("data", {}).get(split, {}), data)
    sentence = f"data.{split} is not what {run} was evaluated on in training, its {what} differ: metrics of the two are"
    return [f"{sentence} not comparable."] if what else []


def _require_context(opened: OpenEvaluation, source: ContextSource) -> None:
    if opened.detector.context is None or isinstance(opened.detector.context, NoContext):
        raise UserError(f"{opened.run}: --context-from {source}: this run's detector has no context to replace.")
    if source == "other" and len(opened.dataset) < 2:
        raise UserError(f"{opened.dataset.index.path}: --context-from other needs two images at least.")


def _detect_with_replaced_context(opened: OpenEvaluation, source: ContextSource) -> CocoResults:
    detector, passes = opened.detector, 2 if opened.config.detector.inference.flip else 1
    assert detector.context is not None
    detector.context = ReplacedContext(detector.context, source, passes)
    batches = _with_others(opened) if source == "other" else None
    return opened.detect(f"evaluating, context from {source}", batches)


def _with_others(opened: OpenEvaluation) -> Iterator[Batch]:
    """Yield the split in a random order, each batch after the image before it has passed the detector.

    The order is always the same, and the last image is before the first: neither batches nor processes change whose
    context an image gets. Neighbors in a file are often alike, of one page or video, which is why it is a random one.
    """
    dataset, accelerator = opened.dataset, opened.accelerator
    order = _random_order(opened)
    before = dict(zip(order, [order[-1], *order[:-1]], strict=True))
    loader, last = eval_loader(dataset, opened.config, accelerator, order), -1
    assert loader.batch_sampler is not None
    for positions, batch in zip(loader.batch_sampler, loader, strict=True):
        if (needed := before[positions[0]]) != last:
            with accelerator.autocast():
                opened.detector([dataset[needed][0].to(accelerator.device)])
        last = positions[-1]
        yield batch


def _random_order(opened: OpenEvaluation) -> list[int]:
    return torch.randperm(len(opened.dataset), generator=torch.Generator().manual_seed(0)).tolist()


def _write(
    folder: Path,
    record: dict[str, Any],
    ground_truth: CocoDataset,
    results: CocoResults,
    metrics: dict[str, Any],
    classes: list[str] | None,
) -> None:
    # Written last and removed first: where it is, all files belong together.
    (folder / "evaluation.json").unlink(missing_ok=True)
    write_evaluation(folder, ground_truth, results, metrics, all_classes=classes)
    write_json(folder / "evaluation.json", record)


def own_split(config: Config, split: str) -> SplitConfig:
    """Return the files of a run's split `val` or `test`; scenes that are not there yet are drawn.

    Raises:
        UserError: another split, no test split, or scenes that cannot be drawn.
    """
    if split not in ("val", "test"):
        raise UserError(f"--split {split}: must be val or test.")
    if split == "test" and not config.data.test.is_given:
        raise UserError(
            "--split test: this run has no test split; add data.test.annotations=A.json data.test.images=DIR, or give "
            "--annotations and --images."
        )
    files = config.data.val if split == "val" else config.data.test
    if config.data.scenes is not None and not Path(files.annotations).exists():
        ensure_scenes(config.data, [split])
    return files


def evaluation_folder(
    run: Path,
    annotations: str | None,
    split: str = "val",
    checkpoint: str | None = None,
    context_from: str | None = None,
    classes_ignored: bool = False,
) -> Path:
    """Return the folder in which `evaluate_run` writes unless it is given another, before `folder_of` numbers it.

    It is `RUN/evaluation`, with a suffix for all that is not the default: `-STEM` of other annotations or `-test`,
    `-last`, `-context-SOURCE` and `-ignore-classes`.
    """
    name = Path(annotations).stem if annotations is not None else "" if split == "val" else split
    context = context_from and f"context-{context_from}"
    kinds = name, "last" if checkpoint == "last" else "", context, "ignore-classes" if classes_ignored else ""
    return run / "-".join(kind for kind in ("evaluation", *kinds) if kind)


def require_same_categories(index: CocoIndex, categories: Sequence[Category], run: Path, config: Config) -> None:
    """Check that a data set's categories are among those that a run was trained on.

    Raises:
        UserError: naming what differs.
    """
    known = {(c.id, c.name) for c in categories}
    if unknown := [f"{c.name!r} (id {c.id})" for c in index.categories if (c.id, c.name) not in known]:
        remedy = "use data with the same category ids and names"
        if {c.name for c in index.categories} <= {c.name for c in categories}:
            train = config.data.train.annotations
            remedy = f"run `detection doctor {index.path} IMAGES --fix OUT.json --categories {train}`"
        raise UserError(
            f"{index.path}: its categories differ from those that {run} was trained on; only in {index.path}: "
            f"{', '.join(unknown[:5])}{', …' if len(unknown) > 5 else ''}; {remedy}."
        )
