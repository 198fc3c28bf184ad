"""Everything that is measured on one set of results, as plain data, as a table and as files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detection.atomic_write import atomic_write
from detection.errors import UserError
from detection.evaluation.coco import METRICS, coco_metrics
from detection.evaluation.curves import best_f1, match, precision_recall
from detection.evaluation.reasons import find_notes
from detection.evaluation.voc import voc_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZED = ("APs", "APm", "APl", "ARs", "ARm", "ARl")


def evaluate_detections(
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    backend: Literal["auto", "pycocotools", "hotcoco"] = "auto",
) -> dict[str, Any]:
    """Measure results by every metric.

    Args:
        ground_truth: COCO dataset dict.
        results: COCO results with original ids.
        backend: What computes COCO's numbers.

    Returns:
        Plain data for `metrics.json`: the numbers of `METRICS`, `VOC07_AP50`, `VOC_AP50`, `best_f1` over all classes
        under one score (`score`, `f1`, `precision`, `recall` at IoU 0.5), `per_class` by name (`AP`, `AP50`,
        `best_f1`, `targets`), the numbers of `images`, `targets` (crowds left out) and `detections`, the `backend`, and
        `notes`, sentences about what is odd. -1 stands for a number that is not defined.
    """
    coco = coco_metrics(ground_truth, results, backend)
    matching = match(ground_truth, results)
    per_class = {}
    for category, (name, numbers) in enumerate(coco["per_class"].items()):
        curve = precision_recall(matching, category)
        per_class[name] = {**numbers, "best_f1": best_f1(curve), "ground_truth": curve.num_ground_truth}
    overall = precision_recall(matching)
    return {
        **{name: coco[name] for name in METRICS},
        **voc_metrics(ground_truth, results),
        "best_f1": best_f1(overall),
        "per_class": per_class,
        "images": len(ground_truth["images"]),
        "ground_truth": overall.num_ground_truth,
        "detections": len(results),
        "backend": coco["backend"],
        "notes": find_notes(ground_truth, results, coco["AP"]),
    }


def write_evaluation(
    output: str | Path,
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    metrics: dict[str, Any],
    *,
    losses_log: str | Path | None = None,
) -> None:
    """Write `metrics.json`, `results.json` and `plots/`; each file appears whole or not at all.

    Args:
        output: Folder, made if it is missing; files of these names in it are replaced.
        ground_truth: COCO dataset dict.
        results: COCO results with original ids.
        metrics: What `evaluate_detections` returned for them.
        losses_log: `log.jsonl` of the training run, for `plots/losses.png`.

    Raises:
        UserError: The folder cannot be made or written.
    """
    from detection.evaluation.plots import plot_confusion, plot_losses, plot_precision_recall

    output = Path(output)
    matching = match(ground_truth, results)
    figures: dict[str, Figure | None] = {
        "precision_recall.png": plot_precision_recall(matching, metrics),
        "confusion.png": plot_confusion(matching, metrics["best_f1"]["score"]),
    }
    if losses_log is not None:
        figures["losses.png"] = plot_losses(losses_log)
    try:
        (output / "plots").mkdir(parents=True, exist_ok=True)
        _write_json(output / "results.json", results)
        for name, figure in figures.items():
            if figure is not None:
                atomic_write(output / "plots" / name, lambda path, figure=figure: figure.savefig(path, format="png"))
        _write_json(output / "metrics.json", metrics)
    except OSError as error:
        raise UserError(f"{output}: the evaluation cannot be written there ({error.strerror}).") from None


def _write_json(path: Path, data: Any) -> None:
    text = json.dumps(data, indent=None if isinstance(data, list) else 2, allow_nan=False)
    atomic_write(path, lambda temporary: temporary.write_text(text + "\n"))


def metrics_table(metrics: dict[str, Any]) -> str:
    """Markdown tables of what `evaluate_detections` returned, columns aligned for a terminal."""
    rows = [[name, _number(name, metrics[name])] for name in (*METRICS, "VOC07_AP50", "VOC_AP50")]
    best = metrics["best_f1"]
    at_score = f" at score {best['score']:.3f}" if best["f1"] > 0 else ""
    rows.append(["best F1", _number("f1", best["f1"]) + at_score])
    counted = f"{metrics['images']} images, {metrics['targets']} ground-truth boxes, {metrics['detections']} detections"
    classes = [
        [
            name,
            _number("AP", numbers["AP"]),
            _number("AP50", numbers["AP50"]),
            _number("f1", numbers["best_f1"]["f1"]),
            f"{numbers['best_f1']['score']:.3f}" if numbers["best_f1"]["f1"] > 0 else "-",
            str(numbers["ground_truth"]),
        ]
        for name, numbers in metrics["per_class"].items()
    ]
    tables = [_table(["metric", "value"], rows), counted]
    if classes:
        tables.append(_table(["class", "AP", "AP50", "best F1", "at score", "ground_truth"], classes))
    return "\n\n".join(tables)


def _number(name: str, value: float) -> str:
    if value == -1:
        return "n/a (no ground truth of this size)" if name in SIZED else "n/a (no ground truth)"
    return f"{value:.3f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table, columns padded to one width; a bar in a name is escaped."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
