"""Figures of several detectors on one data set: precision over recall, and miss rate over false positives per image."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detection.evaluation.operating_points import OperatingPoints, equal_error, miss_rate, miss_rate_curve
from detection.evaluation.plots import from_no_recall
from detection.names import plot_name

STYLES = ("-", "--", ":", "-.")


def plot_runs_precision_recall(points: dict[str, OperatingPoints]) -> Figure:
    """Draw precision over recall at IoU 0.5, a line per run with its EER, a dot where precision equals recall.

    The points are those of all classes under one score, by name of the run, in the order of the legend.
    """
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
    for number, (name, run) in enumerate(points.items()):
        if not run.num_ground_truth:
            continue
        value, _ = equal_error(run)
        curve = from_no_recall(run.found / run.num_ground_truth, run.found / (run.found + run.false))
        style = _style(number)
        axes.plot(*curve, label=f"{plot_name(name)}  {value:.3f}", **style)
        axes.plot([value], [value], color=style["color"], marker="o", markersize=4)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    _finish(figure, axes, "Precision and recall at IoU 0.5", "run  EER")
    return figure


def plot_runs_miss_rate(points: dict[str, OperatingPoints]) -> Figure:
    """Draw the miss rate over false positives per image, both logarithmic, a line per run with its MR⁻².

    MR⁻² averages over the shaded range. A curve ends at the lower border where all is found, and begins at the left
    border without false positives. The points are as for `plot_runs_precision_recall`.
    """
    figure, axes = _figure()
    axes.axvspan(1e-2, 1, color="gray", alpha=0.12, linewidth=0)
    axes.set(xscale="log", yscale="log", xlim=(1e-3, 10), ylim=(1e-2, 1.05))
    for number, (name, run) in enumerate(points.items()):
        if not run.num_ground_truth:
            continue
        fppi, miss = (np.append(start, curve) for start, curve in zip((0, 1), miss_rate_curve(run), strict=True))
        label = f"{plot_name(name)}  {miss_rate(run):.3f}"
        axes.step(fppi.clip(min=1e-3), miss.clip(min=1e-2), where="post", label=label, **_style(number))
    axes.set(xlabel="false positives per image", ylabel="miss rate")
    _finish(figure, axes, "Misses and false positives at IoU 0.5", "run  MR⁻²")
    return figure


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 5.5), dpi=120, layout="constrained")
    return figure, figure.subplots()


def _style(number: int) -> dict:
    return {"color": f"C{number % 10}", "linestyle": STYLES[number // 10 % 4], "linewidth": 1.6}


def _finish(figure: Figure, axes: Axes, title: str, legend: str) -> None:
    """Add title, grid and legend, or a note that there is no ground truth."""
    axes.set_title(title)
    axes.grid(alpha=0.3, which="both")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", title=legend, fontsize=9, frameon=False)
    else:
        axes.text(0.5, 0.5, "no ground truth", ha="center", va="center", transform=axes.transAxes)
