"""All metrics of one set of results, as plain data, as a table and as files."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detection.evaluation.coco import METRICS, BackendName, coco_metrics
from detection.evaluation.columns import CocoDataset, CocoResults
from detection.evaluation.confusion import confusion_csv
from detection.evaluation.curves import best_f1, match_results, precision_recall
from detection.evaluation.errors import analyze_errors, errors_table, label_errors_csv
from detection.evaluation.reasons import find_notes
from detection.evaluation.voc import voc_metrics
from detection.names import short_name, short_names
from detection.reports.document import markdown_table
from detection.reports.files import to_png, write_files

LISTED = 100
"""Most classes in the table for a terminal."""
SIZED = ("APs", "APm", "APl", "ARs", "ARm", "ARl")


def evaluate_detections(
    ground_truth: CocoDataset,
    results: CocoResults,
    backend: BackendName = "auto",
    *,
    errors: bool = False,
    slice_by: str | None = None,
) -> dict[str, Any]:
    """Compute every metric, COCO's by the `backend`.

    Args:
        ground_truth: the data set.
        results: the detections.
        backend: pycocotools, hotcoco, or the faster that is installed; the metrics are the same.
        errors: also analyze why detections are wrong, where hotcoco is installed.
        slice_by: a key of the ground truth's images by whose values that analysis gives metrics.

    Returns:
        Plain data for `metrics.json`: `METRICS`, `VOC07_AP50`, `VOC_AP50`, `best_f1` over all classes under one score
        (`score`, `f1`, `precision`, `recall` at IoU 0.5), `per_class` by name (`AP`, `AP50`, `best_f1`,
        `ground_truth`), the numbers of `images`, `ground_truth` boxes (crowds left out) and `detections`, the `backend`
        and `notes`, sentences about what is odd, and with `errors` what `errors.analyze_errors` returns. -1 stands for
        a metric that is not defined.
    """
    coco = coco_metrics(ground_truth, results, backend)
    matching = match_results(ground_truth, results)
    per_class = {}
    for category, (name, metrics) in enumerate(coco["per_class"].items()):
        curve = precision_recall(matching, category)
        per_class[name] = {**metrics, "best_f1": best_f1(curve), "ground_truth": curve.num_ground_truth}
    overall = precision_recall(matching)
    best, analysis = best_f1(overall), None
    if errors or slice_by is not None:
        analysis = analyze_errors(ground_truth, results, slice_by, max(0.5, best["score"]))
    return {
        **{name: coco[name] for name in METRICS},
        **voc_metrics(ground_truth, results),
        "best_f1": best,
        "per_class": per_class,
        "images": len(ground_truth["images"]),
        "ground_truth": overall.num_ground_truth,
        "detections": len(results),
        "backend": coco["backend"],
        "notes": find_notes(ground_truth, results, coco["AP"]),
        **({} if analysis is None else {"errors": analysis}),
    }


def is_defined(name: str, value: float) -> bool:
    """Whether a metric has a value: it is not NaN and, unless it is the `val_loss`, not the -1 of no ground truth."""
    return not math.isnan(value) and (name == "val_loss" or value != -1)


def metric_text(name: str, value: float, digits: int = 3) -> str:
    """Return a metric's name and value, `n/a` where it is not defined."""
    return f"{name} {value:.{digits}f}" if is_defined(name, value) else f"{name} n/a"


def write_metrics(output: str | Path, results: CocoResults, metrics: dict[str, Any]) -> None:
    """Write `metrics.json` and `results.json` into a folder, as `write_evaluation` does; it draws no plots."""
    texts = {"results.json": json.dumps(results, allow_nan=False)}
    texts["metrics.json"] = json.dumps(metrics, indent=2, allow_nan=False)
    write_files(Path(output), {name: f"{text}\n".encode() for name, text in texts.items()})


def write_evaluation(
    output: str | Path,
    ground_truth: CocoDataset,
    results: CocoResults,
    metrics: dict[str, Any],
    *,
    losses_log: str | Path | None = None,
    all_classes: Sequence[str] | None = None,
) -> None:
    """Write `metrics.json`, `results.json`, `confusion.csv` and `plots/`; a reader never sees half a file.

    Where the metrics have `errors`, `label_errors.csv` too.

    The metrics are there before a plot is drawn, and a plot that fails is a warning on stderr.

    Args:
        output: Folder, made if it is missing; files of these names in it are replaced.
        ground_truth: The data set that was evaluated on.
        results: The detections.
        metrics: Metrics of both, from `evaluate_detections`.
        losses_log: `log.jsonl` of the training run, for `plots/losses.png`.
        all_classes: Names of the detector's classes, by which those of the plots are colored; None for the data set's.

    Raises:
        UserError: The folder cannot be made or written.
    """
    from detection.evaluation.error_plots import plot_errors
    from detection.evaluation.plots import plot_confusion, plot_losses, plot_precision_recall

    write_metrics(output, results, metrics)
    matching, score = match_results(ground_truth, results), metrics["best_f1"]["score"]
    write_files(Path(output), {"confusion.csv": confusion_csv(matching, score).encode()})
    errors = metrics.get("errors")
    if errors is not None:
        write_files(Path(output), {"label_errors.csv": label_errors_csv(errors).encode()})
    else:  # those of an earlier evaluation are of other detections
        for earlier in ("label_errors.csv", "plots/errors.png"):
            (Path(output) / earlier).unlink(missing_ok=True)
    plots = {
        "precision_recall": lambda: plot_precision_recall(matching, metrics, all_classes),
        "confusion": lambda: plot_confusion(matching, score, all_classes),
        "errors": lambda: None if errors is None else plot_errors(errors),
        "losses": lambda: None if losses_log is None else plot_losses(losses_log),
    }
    for name, draw in plots.items():
        try:
            figure = draw()
            png = None if figure is None else to_png(figure)
        except Exception as error:  # nothing that was measured depends on it
            reason = short_name(f"{type(error).__name__}: {error}", 200)
            print(f"warning: {Path(output) / 'plots' / name}.png cannot be drawn ({reason})", file=sys.stderr)
            continue
        if png is not None:
            write_files(Path(output), {f"plots/{name}.png": png})


def metrics_table(metrics: dict[str, Any]) -> str:
    """Format what `evaluate_detections` returned as Markdown tables."""
    rows = [[name, _text(name, metrics[name])] for name in (*METRICS, "VOC07_AP50", "VOC_AP50")]
    best = metrics["best_f1"]
    at_score = f" at score {best['score']:.3f}" if best["f1"] > 0 else ""
    rows.append(["best F1", _text("f1", best["f1"]) + at_score])
    counted = "{images} images, {ground_truth} ground-truth boxes, {detections} detections".format(**metrics)
    per_class, classes = metrics["per_class"], []
    listed = list(per_class)
    if len(listed) > LISTED:
        frequent = sorted(listed, key=lambda name: -per_class[name]["ground_truth"])[:LISTED]
        listed = [name for name in listed if name in frequent]
    for name, shown in zip(listed, short_names(listed), strict=True):
        of_class = per_class[name]
        best = of_class["best_f1"]
        values = [_text("", value) for value in (of_class["AP"], of_class["AP50"], best["f1"])]
        score = f"{best['score']:.3f}" if best["f1"] > 0 else "-"
        classes.append([shown, *values, score, str(of_class["ground_truth"])])
    tables = [markdown_table(["metric", "value"], rows), counted]
    if classes:
        tables.append(markdown_table(["class", "AP", "AP50", "best F1", "at score", "ground truth"], classes))
    if len(listed) < len(per_class):
        tables.append(
            f"{len(listed)} of {len(per_class)} classes, those with the most ground truth; metrics.json has all of them"
        )
    if metrics.get("errors") is not None:
        tables.append(errors_table(metrics["errors"]))
    return "\n\n".join(tables)


def _text(name: str, value: float) -> str:
    if value == -1:
        return "n/a (no ground truth of this size)" if name in SIZED else "n/a (no ground truth)"
    return f"{value:.3f}"
