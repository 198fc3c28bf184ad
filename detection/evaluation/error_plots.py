"""Figure of an error analysis: what each kind of error costs, and how far scores can be trusted."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detection.evaluation.errors import no_calibration

BAR = "tab:blue"
ALL = "0.6"


def plot_errors(errors: dict[str, Any]) -> Figure:
    """Draw the AP50 that each kind of error costs, and precision over score with the number of detections.

    `errors` are from `detection.evaluation.errors.analyze_errors`.
    """
    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    gains = errors["delta_AP50"]
    kinds = list(reversed(gains))
    colors = [ALL if kind.startswith("all ") else BAR for kind in kinds]
    bars = left.barh(kinds, [gains[kind] for kind in kinds], color=colors)
    left.bar_label(bars, fmt=" %.3f", padding=2)
    left.set(xlabel="AP50 gained without these errors", title="What keeps AP50 from 1 (TIDE)")
    left.set_xlim(0, max(0.05, 1.2 * max(gains.values())))
    left.grid(axis="x", alpha=0.3)
    if errors["calibration"] is None:
        right.set_title(f"No calibration: {no_calibration(errors)}")
        right.set_axis_off()
        return figure
    _plot_calibration(right, errors["calibration"])
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    return figure


def _plot_calibration(axes: Axes, calibration: dict[str, Any]) -> None:
    bins = [b for b in calibration["bins"] if b["count"]]
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="calibrated")
    scores, precisions = [b["avg_confidence"] for b in bins], [b["avg_accuracy"] for b in bins]
    axes.plot(scores, precisions, marker="o", color=BAR, label="detections, by tenths of score")
    below = {"xytext": (0, -14), "textcoords": "offset points", "ha": "center", "size": 7}
    for score, precision, part in zip(scores, precisions, bins, strict=True):
        axes.annotate(str(part["count"]), (score, precision), **below)
    axes.set(xlim=(0, 1.02), ylim=(-0.08, 1.02), xlabel="mean score", ylabel="share that matches at IoU 0.5")
    axes.set_title(f"Calibration (error {calibration['error']:.3f}; numbers: detections)")
    axes.grid(alpha=0.3)
