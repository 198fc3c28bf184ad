"""Figures of an evaluation: precision over recall, confusion matrix, losses; without pyplot's global state."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from detection.analysis.visualize import distinct_colors, text_color
from detection.evaluation.curves import Matching, confusion_counts, precision_recall
from detection.names import plot_name

LEGEND_ROWS = 27
MOST_LINES = 100
"""Classes in the figure of precision and recall."""
MOST_CONFUSED = 50
"""Classes in the confusion matrix where there are more than `MOST_LINES`."""
RIM = [withStroke(linewidth=2.4, foreground="black")]
"""Dark edge of a line: the colors of classes are for boxes on images, and a yellow line on white is hard to see."""


def plot_precision_recall(
    matching: Matching, metrics: dict[str, Any], all_classes: Sequence[str] | None = None
) -> Figure:
    """Draw precision over recall at IoU 0.5, a line per class of the `metrics`, best AP50 first in the legend.

    Of more than `MOST_LINES` classes those with the most ground truth are drawn. Colors are those of the detections
    that are drawn by a detector of `all_classes`, None for the classes of the `metrics`.
    """
    colors = plot_colors(all_classes or list(metrics["per_class"]))
    classes = [c for c in enumerate(metrics["per_class"].items()) if c[1][1]["ground_truth"]]
    frequent = sorted(classes, key=lambda c: -c[1][1]["ground_truth"])[:MOST_LINES]
    drawn = sorted(frequent, key=lambda c: (-c[1][1]["AP50"], c[0]))
    columns = max(1, math.ceil(len(drawn) / LEGEND_ROWS))
    longest = max((len(plot_name(name)) for _, (name, _) in drawn), default=0)
    figure = Figure(figsize=(6.2 + columns * (0.9 + 0.075 * longest), 6), dpi=120, layout="constrained")
    axes = figure.subplots()
    for place, (category, (name, metrics_of_class)) in enumerate(drawn):
        curve = precision_recall(matching, category)
        style = ("-", "--", ":", "-.")[place // 20 % 4] if len(drawn) > 10 else "-"
        recall, precision = from_no_recall(curve.recall, curve.precision)
        label = f"{plot_name(name)}  {metrics_of_class['AP50']:.3f}"
        line = {"color": colors[name], "linestyle": style, "linewidth": 1.6, "path_effects": RIM}
        axes.plot(recall, precision, **line, label=label)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    some = "" if len(drawn) == len(classes) else f"\n{len(drawn)} of {len(classes)} classes, with the most ground truth"
    axes.set_title(f"Precision and recall at IoU 0.5{some}")
    axes.grid(alpha=0.3)
    if drawn:
        size = 9 if len(drawn) <= LEGEND_ROWS else 7.5
        figure.legend(loc="outside right upper", ncols=columns, fontsize=size, title="class  AP50", frameon=False)
    else:
        axes.text(0.5, 0.5, "no ground truth", ha="center", va="center")
    return figure


def from_no_recall(recall: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begin a curve at recall 0, with its first precision."""
    return np.append(recall[:1] * 0, recall), np.append(precision[:1], precision)


def plot_colors(classes: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return the `distinct_colors` of all classes of a detector as Matplotlib takes them, RGB in 0..1."""
    return {name: tuple(value / 255 for value in color) for name, color in distinct_colors(classes).items()}


def plot_confusion(matching: Matching, score: float, all_classes: Sequence[str] | None = None) -> Figure:
    """Draw the confusion matrix of detections from a score on (-1: all).

    Colors are shares of a row, texts (up to 20 classes) are counts. Of more than `MOST_LINES` classes the
    `MOST_CONFUSED` have a row each, and the others one together. Names are on the colors of the detections that are
    drawn by a detector of `all_classes`, None for the data set's.
    """
    counts, classes, names = _confusion(matching, score if score != -1 else -math.inf)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    size = len(names)
    # Without texts 0.18 inch is enough for a name.
    side = max(3.2, size * (0.5 if size <= 21 else 0.18))
    label = 0.08 * max(map(len, names))
    figure = Figure(figsize=(side + label + 1.6, side + label + 0.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    font = 9 if size <= 21 else 7
    axes.set_xticks(range(size), names, rotation=0 if label < side / size else 90, fontsize=font)
    axes.set_yticks(range(size), names, fontsize=font)
    colors = distinct_colors(all_classes or matching.targets.names)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        for label_of_class, name in zip(labels, classes, strict=False):  # the last are of no single class
            plain, text = ([value / 255 for value in c] for c in (colors[name], text_color(colors[name])))
            label_of_class.set(color=text, bbox={"facecolor": plain, "linewidth": 0, "boxstyle": "square,pad=0.15"})
    above = "all scores" if score == -1 else f"score ≥ {score:.4g}"
    axes.set(xlabel="predicted", ylabel="ground truth", title=f"Confusion at IoU 0.5, {above}")
    if size <= 21:
        for row, column in np.ndindex(counts.shape):
            if counts[row, column]:
                color = "white" if shares[row, column] > 0.6 else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, label="share of the row", shrink=0.8)
    return figure


def _confusion(matching: Matching, score: float) -> tuple[np.ndarray, list[str], list[str]]:
    """The matrix to draw, true by predicted class, the classes that have a row, and the text of every row.

    Rows of the other classes together and of background follow those of classes.
    """
    true, predicted, number = confusion_counts(matching, score)
    names = matching.targets.names
    classes = len(names)
    row = np.arange(classes + 1)
    single, others = names, list[str]()
    if classes > MOST_LINES:
        wrong = np.where(true != predicted, number, 0)
        # Taken for another class counts first, then missed or found where nothing is.
        weight = np.where((true < classes) & (predicted < classes), 1.0, 1e-9) * wrong
        confused = np.bincount(np.append(true, predicted), np.append(weight, weight), minlength=classes + 1)[:classes]
        chosen = np.sort(np.argsort(-confused, kind="stable")[:MOST_CONFUSED])
        row[:] = MOST_CONFUSED
        row[chosen], row[classes] = np.arange(MOST_CONFUSED), MOST_CONFUSED + 1
        single, others = [names[c] for c in chosen], [f"{classes - MOST_CONFUSED} others"]
    shown = [*map(plot_name, single), *others, "background"]
    counts = np.zeros((len(shown), len(shown)), dtype=np.int64)
    np.add.at(counts, (row[true], row[predicted]), number)
    return counts, single, shown


def plot_losses(log: str | Path) -> Figure | None:
    """Draw every loss over steps and AP over epochs; None if the log holds nothing to draw.

    Of its JSON lines, keys that start with `loss` are drawn over `step`, `val_loss` at the step reached, `AP` and
    `AP50` over `epoch`. Lines that are no JSON object (a run that was cut off) are skipped.
    """
    losses, scores = _read_log(Path(log))
    if not losses and not scores:
        return None
    figure = Figure(figsize=(12 if losses and scores else 7, 4.5), dpi=120, layout="constrained")
    panels = list(figure.subplots(1, bool(losses) + bool(scores), squeeze=False)[0])
    if losses:
        axes = panels.pop(0)
        for place, (name, points) in enumerate(losses.items()):
            _plot_loss(axes, name, np.array(points), _color(place, len(losses)))
        if all(value > 0 for points in losses.values() for _, value in points):
            axes.set_yscale("log")
        axes.set(xlabel="step", ylabel="loss", title="Losses")
        _count_in_integers(axes)
        axes.grid(alpha=0.3, which="both")
        _legend_below(axes)
    if scores:
        axes = panels.pop(0)
        for name, points in scores.items():
            axes.plot(*np.array(points).T, marker="o", markersize=4, label=name)
        axes.set(xlabel="epochs trained", ylabel="AP", ylim=(0, 1), title="Validation")
        _count_in_integers(axes)
        axes.grid(alpha=0.3)
        _legend_below(axes)
    return figure


def _count_in_integers(axes: Any) -> None:
    """Mark steps and epochs at integers, where only one of them is in view, too."""
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def _legend_below(axes: Any) -> None:
    """Explain the curves below the axes, where none is covered."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=8, frameon=False)


def _plot_loss(axes: Any, name: str, points: np.ndarray, color: Any) -> None:
    """Draw one loss: validation as dots on a line, many steps as a running mean over the pale raw values."""
    step, value = points.T
    if name.startswith("val"):
        axes.plot(step, value, color="black", marker="o", markersize=4, label=name)
        return
    window = len(value) // 50
    if window < 2:
        axes.plot(step, value, color=color, label=name)
        return
    axes.plot(step, value, color=color, alpha=0.15, linewidth=0.8)
    mean = np.convolve(value, np.ones(window) / window, mode="valid")
    axes.plot(step[window - 1 :], mean, color=color, label=name)


def _read_log(log: Path) -> tuple[dict[str, list], dict[str, list]]:
    """Points (step, loss) by name of the loss and (epochs trained, AP) by name of the metric."""
    losses: dict[str, list] = {}
    scores: dict[str, list] = {}
    step = 0
    for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if not isinstance(line, dict):
            continue
        step = line.get("step", step)
        for name, value in line.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                continue
            if name.startswith(("loss", "val_loss")):
                losses.setdefault(name, []).append((step, value))
            elif name in ("AP", "AP50") and value >= 0 and "epoch" in line:
                scores.setdefault(name, []).append((line["epoch"] + 1, value))
    return losses, scores


def _color(place: int, number: int) -> Any:
    return colormaps["tab10" if number <= 10 else "tab20"](place % (10 if number <= 10 else 20))
